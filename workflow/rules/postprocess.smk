"""
Predictions changed by each strategy.

in:  a prediction, config/strategies/*.json
out: <results>/{experiment}/postprocess/{strategy}/predictions/{train,test}/{case}.nii.gz
     <results>/{experiment}/postprocess/{strategy}/strategy.json, a copy
"""


rule postprocess:
    input:
        before="<results>/done/predict/{experiment}/{chunk}.json",
        settled=settled,
        strategy=strategy_file,
        code=code("postprocess"),
    output:
        "<results>/done/postprocess/{experiment}/{strategy}/{chunk}.json",
    log:
        "<results>/logs/postprocess/{experiment}/{strategy}/{chunk}.log",
    benchmark:
        "<results>/benchmarks/postprocess/{experiment}/{strategy}/{chunk}.tsv"
    wildcard_constraints:
        experiment=any_of(PREDICTED),
    conda:
        "../../envs/cpu.yaml"
    params:
        script=script("postprocess"),
        cases=cases,
        own=own_of_strategy,
        labels=labels_of_probabilities,
        tracked=tracked,
        home=lambda wildcards: f"{CONFIG.results}/{wildcards.experiment}",
        raw=raw_part_of,
        folder=postprocessed,
    shell:
        r"""
        exec python {params.script:q} \
            --base-predictions {params.home:q}/predictions/{params.raw} \
            --postprocess-strategy {input.strategy:q} \
            --case {params.cases:q} \
            --after {input.before:q} \
            --output {params.folder:q} \
            --manifest {output:q} {params.labels} {params.tracked} \
            >{log:q} 2>&1
        """


rule keep_strategy:
    input:
        lambda wildcards: STRATEGIES[wildcards.strategy],
    output:
        "<results>/{experiment}/postprocess/{strategy}/strategy.json",
    log:
        "<results>/logs/keep_strategy/{experiment}/{strategy}.log",
    wildcard_constraints:
        experiment=any_of(PREDICTED),
        strategy=any_of(STRATEGIES),
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    shell:
        "(cp {input:q} {output:q}.part && mv {output:q}.part {output:q}) > {log:q} 2>&1"
