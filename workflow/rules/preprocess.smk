"""
Every case on the training grid.

in:  the images and label map of a case, and the plan
out: <numpy>/images/{case}.npy, labels/{case}.npy, foreground/{case}.npy, geometry/{case}.json
     <numpy>/test/ with images and geometry of the test cases
"""


rule preprocess:
    input:
        images=images,
        mask=mask,
        plan=ancient(PLAN),
    output:
        image="<numpy>/images/{case}.npy",
        labels="<numpy>/labels/{case}.npy",
        foreground="<numpy>/foreground/{case}.npy",
        geometry="<numpy>/geometry/{case}.json",
    log:
        "<results>/logs/preprocess/{case}.log",
    conda:
        "../../envs/cpu.yaml"
    params:
        script=script("preprocess"),
        plan=plan("preprocess"),
        files=files,
        dataset=DATASET,
        samples=CONFIG.preprocess.foreground_samples,
        ahead=ahead(MATES),
        folder=subpath(output.image, ancestor=2),
    shell:
        r"""
        python {params.script:q} \
            --dataset {params.dataset:q} \
            --plan {input.plan:q} \
            --foreground-samples {params.samples} \
            --case {wildcards.case:q} \
            --ahead {params.ahead:q} \
            --handover {params.folder:q}/.ahead \
            --output {params.folder:q} \
            >{log:q} 2>&1
        """


use rule preprocess as preprocess_test with:
    input:
        images=images,
        plan=ancient(PLAN),
    output:
        image="<numpy>/test/images/{case}.npy",
        geometry="<numpy>/test/geometry/{case}.json",
    log:
        "<results>/logs/preprocess_test/{case}.log",
    params:
        script=script("preprocess"),
        plan=plan("preprocess"),
        files=files,
        dataset=DATASET,
        samples=CONFIG.preprocess.foreground_samples,
        ahead=ahead(MATES),
        folder=subpath(output.image, ancestor=2),
