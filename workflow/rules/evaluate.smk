"""
Scores of every case: raw predictions, and those of each strategy.

in:  the predictions of all training cases, their label maps
out: <results>/{experiment}/results.csv, evaluation_paths.csv
     <results>/{experiment}/postprocess/{strategy}/postprocess_results.csv, evaluation_paths.csv
"""


rule evaluate:
    input:
        predictions=expand(
            "<results>/{{experiment}}/predictions/train/raw/{case}.nii.gz", case=TRAIN
        ),
        masks=[case.mask for case in TRAIN.values()],
        paths=ancient("<results>/train_paths.csv"),
        plan=ancient(PLAN),
    output:
        results="<results>/{experiment}/results.csv",
        paths="<results>/{experiment}/evaluation_paths.csv",
    log:
        "<results>/logs/evaluate/{experiment}.log",
    conda:
        "../../envs/cpu.yaml"
    params:
        script=script("evaluate"),
        plan=plan("evaluate"),
        settings=settings("evaluate"),
        predictions=folder_of_predictions,
    shell:
        r"""
        python {params.script:q} \
            --paths {input.paths:q} \
            --predictions {params.predictions:q} \
            --plan {input.plan:q} \
            --settings {params.settings:q} \
            --output {output.results:q} \
            --output-paths {output.paths:q} \
            >{log:q} 2>&1
        """


use rule evaluate as evaluate_strategy with:
    input:
        predictions=expand(
            "<results>/{{experiment}}/postprocess/{{strategy}}/predictions/train/{case}.nii.gz",
            case=TRAIN,
        ),
        masks=[case.mask for case in TRAIN.values()],
        paths=ancient("<results>/train_paths.csv"),
        plan=ancient(PLAN),
    output:
        results="<results>/{experiment}/postprocess/{strategy}/postprocess_results.csv",
        paths="<results>/{experiment}/postprocess/{strategy}/evaluation_paths.csv",
    log:
        "<results>/logs/evaluate/{experiment}_{strategy}.log",
    params:
        script=script("evaluate"),
        plan=plan("evaluate"),
        settings=settings("evaluate"),
        predictions=folder_of_predictions,
