"""
Label maps or probabilities of several experiments combined: those of the training cases by models that did not see
them, in every experiment. An ensemble is to later stages what an experiment is.

in:  predictions of experiments
out: <results>/{ensemble}/predictions/train/raw/{case}.nii.gz, predictions/test/{case}.nii.gz
"""


rule ensemble:
    input:
        before=lambda wildcards: expand(
            "<results>/done/predict/{name}/{chunk}.json",
            name=members(wildcards),
            chunk=wildcards.chunk,
        ),
        settled=settled,
        code=code("ensemble"),
    output:
        "<results>/done/predict/{experiment}/{chunk}.json",
    log:
        "<results>/logs/ensemble/{experiment}_{chunk}.log",
    benchmark:
        "<results>/benchmarks/ensemble/{experiment}_{chunk}.tsv"
    wildcard_constraints:
        experiment=any_of(ENSEMBLES),
    conda:
        "../../envs/cpu.yaml"
    params:
        script=script("ensemble"),
        predictions=folders_to_combine,
        way=way_to_combine,
        cases=cases,
        tracked=tracked,
        folder=lambda wildcards: (
            f"{CONFIG.results}/{wildcards.experiment}/predictions/{raw_part_of(wildcards)}"
        ),
    shell:
        r"""
        exec python {params.script:q} \
            --predictions {params.predictions:q} \
            {params.way} \
            --case {params.cases:q} \
            --after {input.before:q} \
            --output {params.folder:q} \
            --manifest {output:q} {params.tracked} \
            >{log:q} 2>&1
        """
