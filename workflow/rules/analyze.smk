"""
What the training cases imply: a fingerprint each, then the plan.

in:  the images and label maps of the training cases
out: <results>/fingerprints/{case}.json, <results>/config.json, train_paths.csv, fg_bboxes.csv
     <results>/folds.json, a record that only ever grows: cases keep their fold
"""


rule fingerprint:
    input:
        images=images,
        mask=mask,
    output:
        "<results>/fingerprints/{case}.json",
    log:
        "<results>/logs/fingerprint/{case}.log",
    conda:
        "../../envs/cpu.yaml"
    params:
        script=script("fingerprint"),
        files=files,
        dataset=DATASET,
        ahead=ahead(MATES),
        folder=subpath(output[0], parent=True),
    shell:
        r"""
        python {params.script:q} \
            --dataset {params.dataset:q} \
            --case {wildcards.case:q} \
            --ahead {params.ahead:q} \
            --handover {params.folder:q}/.ahead \
            --output {params.folder:q} \
            >{log:q} 2>&1
        """


checkpoint analyze:
    input:
        expand("<results>/fingerprints/{case}.json", case=TRAIN),
    output:
        plan="<results>/config.json",
        paths="<results>/train_paths.csv",
        boxes="<results>/fg_bboxes.csv",
    log:
        "<results>/logs/analyze.log",
    conda:
        "../../envs/cpu.yaml"
    params:
        script=script("analyze"),
        facts=lambda wildcards: json.dumps(FACTS),
        folds=digest(FOLDS),
        dataset=DATASET,
        settings=settings("analyze"),
        limit=f"--limit-cases {CONFIG.limit_cases}" if CONFIG.limit_cases else "",
        results=subpath(output.plan, parent=True),
    shell:
        r"""
        python {params.script:q} \
            --dataset {params.dataset:q} \
            --fingerprints {params.results:q}/fingerprints \
            --settings {params.settings:q} \
            --output {params.results:q} \
            {params.limit} \
            >{log:q} 2>&1
        """


rule test_paths:
    input:
        [path for case in TEST.values() for path in case.images],
    output:
        "<results>/test_paths.csv",
    log:
        "<results>/logs/test_paths.log",
    conda:
        "../../envs/cpu.yaml"
    params:
        script=script("test_paths"),
        facts=lambda wildcards: json.dumps(FACTS),
        dataset=DATASET,
    shell:
        r"""
        python {params.script:q} \
            --dataset {params.dataset:q} \
            --output {output:q} \
            >{log:q} 2>&1
        """
