"""
What the training cases imply: a fingerprint each, then the plan.

in:  the images and label maps of the training cases
out: <results>/fingerprints/{case}.json, <results>/config.json, train_paths.csv, fg_bboxes.csv
     <results>/descriptions/{case}.json and .npy, <results>/data_dump.json and .md, if they are asked
     for
     <results>/folds.json, a record that only ever grows: cases keep their fold
     <results>/{experiment}/ has its own of these where the experiment changes the plan
"""


rule fingerprint:
    input:
        files=files_in_chunk,
        code=code("fingerprint"),
    output:
        "<results>/done/fingerprint/{chunk}.json",
    log:
        "<results>/logs/fingerprint/{chunk}.log",
    benchmark:
        "<results>/benchmarks/fingerprint/{chunk}.tsv"
    conda:
        "../../envs/cpu.yaml"
    params:
        script=script("fingerprint"),
        files=files,
        ignore_label=FACTS["ignore_label"],
        optional_images=lambda wildcards: json.dumps(FACTS["optional_images"]),
        dataset=lambda wildcards, input: DATASET,
        cases=cases,
        tracked=tracked,
        folder=f"{CONFIG.results}/fingerprints",
    shell:
        r"""
        exec python {params.script:q} \
            --dataset {params.dataset:q} \
            --case {params.cases:q} \
            --output {params.folder:q} \
            --manifest {output:q} {params.tracked} \
            >{log:q} 2>&1
        """


checkpoint analyze:
    input:
        fingerprints=manifests("fingerprint/", TRAIN_CHUNKS),
        code=code("analyze"),
    output:
        plan=report("<results>/{grid}config.json", category="Plan"),
        paths="<results>/{grid}train_paths.csv",
        boxes="<results>/{grid}fg_bboxes.csv",
    log:
        "<results>/logs/analyze/{grid}analyze.log",
    benchmark:
        "<results>/benchmarks/analyze/{grid}analyze.tsv"
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    params:
        script=script("analyze"),
        facts=lambda wildcards: json.dumps(FACTS),
        folds=digest(FOLDS),
        problems=digest(FOUND.problems),
        dataset=lambda wildcards, input: DATASET,
        settings=settings("analyze", without=BESIDE_THE_PLAN),
        own_model=lambda wildcards: digest(
            source_of(planned_as(chosen_for(wildcards).train.model))
        ),
        model=lambda wildcards: shlex.quote(
            planned_as(chosen_for(wildcards).train.model)
        ),
        skip=lambda wildcards: (
            "--skip" if chosen_for(wildcards).preprocess.skip else ""
        ),
        limit=f"--limit-cases {CONFIG.limit_cases}" if CONFIG.limit_cases else "",
        batch_size=lambda wildcards, input: CONFIG.train.batch_size,
        cases_per_job=lambda wildcards, input: CASES_PER_JOB,
        results=lambda wildcards: CONFIG.results,
        output=subpath(output.plan, parent=True),
    shell:
        r"""
        exec python {params.script:q} \
            --dataset {params.dataset:q} \
            --fingerprints {params.results:q}/fingerprints \
            --manifests {input.fingerprints:q} \
            --folds {params.results:q}/folds.json \
            --chunks {params.results:q}/done/chunks.json \
            --gpu {params.results:q}/done/gpu.json \
            --model {params.model} \
            --batch-size {params.batch_size} \
            --cases-per-job {params.cases_per_job} \
            --settings {params.settings:q} \
            --output {params.output:q} \
            {params.limit} {params.skip} \
            >{log:q} 2>&1
        """


rule describe:
    input:
        files=files_in_chunk,
        # Waited for: bad files are told by the analysis, all at once.
        plan=ancient("<results>/config.json"),
        code=code("describe"),
    output:
        "<results>/done/describe/{chunk}.json",
    log:
        "<results>/logs/describe/{chunk}.log",
    benchmark:
        "<results>/benchmarks/describe/{chunk}.tsv"
    conda:
        "../../envs/cpu.yaml"
    params:
        script=script("describe"),
        files=files,
        ignore_label=FACTS["ignore_label"],
        left_out=left_out,
        dataset=lambda wildcards, input: DATASET,
        cases=cases,
        tracked=tracked,
        folder=f"{CONFIG.results}/descriptions",
    shell:
        r"""
        exec python {params.script:q} \
            --dataset {params.dataset:q} \
            --plan {input.plan:q} \
            --case {params.cases:q} \
            --output {params.folder:q} \
            --manifest {output:q} {params.tracked} \
            >{log:q} 2>&1
        """


rule data_dump:
    input:
        descriptions=manifests("describe/", TRAIN_CHUNKS),
        plan=ancient("<results>/config.json"),
        boxes=ancient("<results>/fg_bboxes.csv"),
        code=code("data_dump"),
    output:
        json="<results>/data_dump.json",
        text=report("<results>/data_dump.md", category="Plan"),
    log:
        "<results>/logs/data_dump.log",
    benchmark:
        "<results>/benchmarks/data_dump.tsv"
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    params:
        script=script("data_dump"),
        facts=lambda wildcards: json.dumps(FACTS),
        plan=plan("data_dump"),
        dataset=lambda wildcards, input: DATASET,
    shell:
        r"""
        exec python {params.script:q} \
            --dataset {params.dataset:q} \
            --manifests {input.descriptions:q} \
            --plan {input.plan:q} \
            --boxes {input.boxes:q} \
            --output-json {output.json:q} \
            --output-md {output.text:q} \
            >{log:q} 2>&1
        """


rule test_paths:
    input:
        [path for case in TEST.values() for path in case.files],
    output:
        "<results>/test_paths.csv",
    log:
        "<results>/logs/test_paths.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    params:
        script=script("test_paths"),
        facts=lambda wildcards: json.dumps(FACTS),
        dataset=lambda wildcards, input: DATASET,
    shell:
        r"""
        exec python {params.script:q} \
            --dataset {params.dataset:q} \
            --output {output:q} \
            >{log:q} 2>&1
        """
