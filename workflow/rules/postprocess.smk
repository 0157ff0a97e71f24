"""
Predictions changed by each strategy.

in:  a prediction, config/strategies/*.json
out: <results>/{experiment}/postprocess/{strategy}/predictions/{train,test}/{case}.nii.gz
     <results>/{experiment}/postprocess/{strategy}/strategy.json, a copy
"""


rule postprocess:
    input:
        prediction="<results>/{experiment}/predictions/train/raw/{case}.nii.gz",
        strategy=lambda wildcards: STRATEGIES[wildcards.strategy],
    output:
        "<results>/{experiment}/postprocess/{strategy}/predictions/train/{case}.nii.gz",
    log:
        "<results>/logs/postprocess/{experiment}_{strategy}_{case}.log",
    conda:
        "../../envs/cpu.yaml"
    params:
        script=script("postprocess"),
        ahead=ahead(FOLD_MATES),
        predictions=subpath(input.prediction, parent=True),
        folder=subpath(output[0], parent=True),
    shell:
        r"""
        python {params.script:q} \
            --predictions {params.predictions:q} \
            --strategy {input.strategy:q} \
            --case {wildcards.case:q} \
            --ahead {params.ahead:q} \
            --handover {params.folder:q}/.ahead \
            --output {params.folder:q} \
            >{log:q} 2>&1
        """


rule keep_strategy:
    input:
        lambda wildcards: STRATEGIES[wildcards.strategy],
    output:
        "<results>/{experiment}/postprocess/{strategy}/strategy.json",
    log:
        "<results>/logs/keep_strategy/{experiment}_{strategy}.log",
    conda:
        "../../envs/cpu.yaml"
    shell:
        "cp {input:q} {output:q} > {log:q} 2>&1"


use rule postprocess as postprocess_test with:
    input:
        prediction="<results>/{experiment}/predictions/test/{case}.nii.gz",
        strategy=lambda wildcards: STRATEGIES[wildcards.strategy],
    output:
        "<results>/{experiment}/postprocess/{strategy}/predictions/test/{case}.nii.gz",
    log:
        "<results>/logs/postprocess_test/{experiment}_{strategy}_{case}.log",
