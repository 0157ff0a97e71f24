"""
What the training cases imply: a fingerprint each, then the plan.

in:  the images and label maps of the training cases
out: <results>/fingerprints/{case}.json, <results>/config.json, train_paths.csv, fg_bboxes.csv
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
        problems=digest(PROBLEMS),
        dataset=lambda wildcards, input: DATASET,
        settings=settings("analyze"),
        skip=lambda wildcards: (
            "--skip" if chosen_for(wildcards).preprocess.skip else ""
        ),
        limit=f"--limit-cases {CONFIG.limit_cases}" if CONFIG.limit_cases else "",
        cases_per_job=lambda wildcards, input: CASES_PER_JOB,
        results=lambda wildcards: CONFIG.results,
        output=subpath(output.plan, parent=True),
    shell:
        r"""
        exec python {params.script:q} \
            --dataset {params.dataset:q} \
            --fingerprints {params.results:q}/fingerprints \
            --folds {params.results:q}/folds.json \
            --chunks {params.results:q}/done/chunks.json \
            --cases-per-job {params.cases_per_job} \
            --settings {params.settings:q} \
            --output {params.output:q} \
            {params.limit} {params.skip} \
            >{log:q} 2>&1
        """


rule test_paths:
    input:
        [path for case in TEST.values() for path in case.images],
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
