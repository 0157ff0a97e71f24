"""
Label maps on the original grids: training cases by the model that did not see them, test cases by
all models of an experiment together.

in:  <numpy>/ of a case, models
out: <results>/{experiment}/predictions/train/raw/{case}.nii.gz, predictions/test/{case}.nii.gz
"""


rule predict:
    input:
        image="<numpy>/images/{case}.npy",
        geometry="<numpy>/geometry/{case}.json",
        models=lambda wildcards: (
            f"<results>/{{experiment}}/models/fold_{FOLDS[wildcards.case]}.pt"
        ),
    output:
        "<results>/{experiment}/predictions/train/raw/{case}.nii.gz",
    log:
        "<results>/logs/predict/{experiment}_{case}.log",
    conda:
        "../../envs/gpu.yaml"
    resources:
        gpu=1,
    params:
        script=script("predict"),
        settings=settings("predict"),
        ahead=ahead(FOLD_MATES),
        numpy=subpath(input.image, ancestor=2),
        folder=subpath(output[0], parent=True),
    shell:
        r"""
        python {params.script:q} \
            --numpy {params.numpy:q} \
            --models {input.models:q} \
            --settings {params.settings:q} \
            --case {wildcards.case:q} \
            --ahead {params.ahead:q} \
            --handover {params.folder:q}/.ahead \
            --output {params.folder:q} \
            >{log:q} 2>&1
        """


use rule predict as predict_test with:
    input:
        image="<numpy>/test/images/{case}.npy",
        geometry="<numpy>/test/geometry/{case}.json",
        models=expand(
            "<results>/{{experiment}}/models/fold_{fold}.pt", fold=range(N_FOLDS)
        ),
    output:
        "<results>/{experiment}/predictions/test/{case}.nii.gz",
    log:
        "<results>/logs/predict_test/{experiment}_{case}.log",
    params:
        script=script("predict"),
        settings=settings("predict"),
        ahead=ahead(FOLD_MATES),
        numpy=subpath(input.image, ancestor=2),
        folder=subpath(output[0], parent=True),
