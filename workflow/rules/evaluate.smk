"""
Scores of every case: raw predictions, and those of each strategy.

in:  the predictions of all training cases, their label maps
out: <results>/{experiment}/results.csv, results_long.csv, results_summary.csv, evaluation_paths.csv
     <results>/{experiment}/postprocess/{strategy}/: the same, postprocess_results*.csv
"""


rule evaluate:
    input:
        before=manifests("predict/{experiment}/", TRAIN_CHUNKS),
        masks=[case.mask for case in TRAIN.values()],
        paths=ancient("<results>/train_paths.csv"),
        plan=ancient("<results>/config.json"),
        settled=settled,
        code=code("evaluate"),
    output:
        results=report(
            "<results>/{experiment}/results.csv",
            category="Scores",
            labels={"experiment": "{experiment}", "strategy": "raw"},
        ),
        long="<results>/{experiment}/results_long.csv",
        summary="<results>/{experiment}/results_summary.csv",
        paths="<results>/{experiment}/evaluation_paths.csv",
    log:
        "<results>/logs/evaluate/{experiment}/raw.log",
    benchmark:
        "<results>/benchmarks/evaluate/{experiment}/raw.tsv"
    wildcard_constraints:
        experiment=any_of(PREDICTED),
    conda:
        "../../envs/cpu.yaml"
    threads: enough_for(len(TRAIN))
    params:
        script=script("evaluate"),
        plan=plan("evaluate"),
        settings=settings("evaluate"),
        predictions=folder_to_score,
        scores=subpath(output.results, parent=True),
        patients=all_patients,
        case_table=patient_table,
        companions=companions,
        tracked=tracked,
    shell:
        r"""
        exec python {params.script:q} \
            --config {input.plan:q} \
            --paths-csv {input.paths:q} \
            --predictions {params.predictions:q} {params.case_table} \
            --settings {params.settings:q} \
            {params.companions} \
            --output-csv {output.results:q} \
            --output-paths {output.paths:q} \
            --scores {params.scores:q}/scores \
            --num-workers-evaluate {threads} {params.tracked} \
            >{log:q} 2>&1
        """


use rule evaluate as evaluate_strategy with:
    input:
        before=manifests("postprocess/{experiment}/{strategy}/", TRAIN_CHUNKS),
        masks=[case.mask for case in TRAIN.values()],
        paths=ancient("<results>/train_paths.csv"),
        plan=ancient("<results>/config.json"),
        settled=settled,
        code=code("evaluate"),
    output:
        results=report(
            "<results>/{experiment}/postprocess/{strategy}/postprocess_results.csv",
            category="Scores",
            labels={"experiment": "{experiment}", "strategy": "{strategy}"},
        ),
        long="<results>/{experiment}/postprocess/{strategy}/postprocess_results_long.csv",
        summary="<results>/{experiment}/postprocess/{strategy}/postprocess_results_summary.csv",
        paths="<results>/{experiment}/postprocess/{strategy}/evaluation_paths.csv",
    log:
        "<results>/logs/evaluate/{experiment}/{strategy}.log",
    benchmark:
        "<results>/benchmarks/evaluate/{experiment}/{strategy}.tsv"
    wildcard_constraints:
        experiment=any_of(PREDICTED),
        strategy=any_of(RANKED),
    params:
        script=script("evaluate"),
        plan=plan("evaluate"),
        settings=settings("evaluate"),
        predictions=folder_to_score,
        scores=subpath(output.results, parent=True),
        patients=all_patients,
        case_table=patient_table,
        companions=companions,
        tracked=tracked,


# Not in the report of Snakemake: there are many.
use rule evaluate_strategy as evaluate_tried with:
    output:
        results="<results>/{experiment}/postprocess/{strategy}/postprocess_results.csv",
        long="<results>/{experiment}/postprocess/{strategy}/postprocess_results_long.csv",
        summary="<results>/{experiment}/postprocess/{strategy}/postprocess_results_summary.csv",
        paths="<results>/{experiment}/postprocess/{strategy}/evaluation_paths.csv",
    wildcard_constraints:
        experiment=any_of(PREDICTED),
        strategy=any_of(TRIED),
