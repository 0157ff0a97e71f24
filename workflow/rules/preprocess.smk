"""
Every case on the training grid.

in:  the images and label map of a case, and the plan
out: <numpy>/images/{case}.npy, labels/{case}.npy, foreground/{case}.npy, geometry/{case}.json,
     dtms/{case}.npy where distance maps are asked for
     <numpy>/test/ with images and geometry of the test cases
     <numpy>/arrays.json, test/arrays.json, what the arrays of all cases hold, in short
     <numpy>/{experiment}/ has its own of these where the experiment changes the grid
"""


rule preprocess:
    input:
        files=files_in_chunk,
        plan=ancient("<results>/{grid}config.json"),
        code=code("preprocess"),
    output:
        "<results>/done/preprocess/{grid}{chunk}.json",
    log:
        "<results>/logs/preprocess/{grid}{chunk}.log",
    benchmark:
        "<results>/benchmarks/preprocess/{grid}{chunk}.tsv"
    conda:
        "../../envs/cpu.yaml"
    params:
        script=script("preprocess"),
        plan=plan("preprocess"),
        left_out=left_out,
        settings=settings("preprocess"),
        files=files,
        leave_out=lambda wildcards: (
            "--leave-out-bad"
            if part_of(wildcards) == "test" and CONFIG.analyze.verify == "drop"
            else ""
        ),
        dataset=lambda wildcards, input: DATASET,
        cases=cases,
        tracked=tracked,
        folder=lambda wildcards: (
            f"{CONFIG.numpy}/{wildcards.grid}"
            + ("test" if part_of(wildcards) == "test" else "")
        ),
    shell:
        r"""
        exec python {params.script:q} \
            --dataset {params.dataset:q} \
            --plan {input.plan:q} \
            --settings {params.settings:q} \
            --case {params.cases:q} \
            --output {params.folder:q} \
            --manifest {output:q} {params.leave_out} {params.tracked} \
            >{log:q} 2>&1
        """


checkpoint gather_arrays:
    input:
        manifests("preprocess/{grid}", TRAIN_CHUNKS),
    output:
        "<numpy>/{grid}arrays.json",
    log:
        "<results>/logs/gather_arrays/{grid}gather.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    params:
        script=script("gather"),
        settings=settings("preprocess"),
        dataset=lambda wildcards, input: DATASET,
        folder=lambda wildcards: f"{CONFIG.numpy}/{wildcards.grid}",
        results=lambda wildcards: CONFIG.results,
    shell:
        r"""
        exec python {params.script:q} \
            --manifests {input:q} \
            --dataset {params.dataset:q} \
            --chunks {params.results:q}/done/chunks.json \
            --folder {params.folder:q} \
            --settings {params.settings:q} \
            --output {output:q} \
            >{log:q} 2>&1
        """


checkpoint gather_test_arrays:
    input:
        manifests("preprocess/{grid}", TEST_CHUNKS),
    output:
        "<numpy>/{grid}test/arrays.json",
    log:
        "<results>/logs/gather_test_arrays/{grid}gather.log",
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    params:
        script=script("gather"),
        dataset=lambda wildcards, input: DATASET,
        folder=lambda wildcards: f"{CONFIG.numpy}/{wildcards.grid}",
        results=lambda wildcards: CONFIG.results,
    shell:
        r"""
        exec python {params.script:q} \
            --manifests {input:q} \
            --dataset {params.dataset:q} \
            --chunks {params.results:q}/done/chunks.json \
            --folder {params.folder:q} \
            --pass-on \
            --output {output:q} \
            >{log:q} 2>&1
        """
