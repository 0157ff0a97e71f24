"""
The report that people look at, with the pictures of some cases, and evaluation.json for programs.

in:  all tables of scores, the ranking, the records of training, what became of the test cases
out: <results>/done/predicted/{experiment}.json: what became of the test cases
     <results>/report.html, evaluation.json, summary.txt
"""


rule gather_predicted_tests:
    input:
        manifests=manifests("predict/{experiment}/", TEST_CHUNKS),
        settled=settled,
    output:
        "<results>/done/predicted/{experiment}.json",
    log:
        "<results>/logs/gather_predicted_tests/{experiment}.log",
    wildcard_constraints:
        experiment=any_of(PREDICTED),
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    params:
        script=script("gather"),
        bad=bad_tests(),
    shell:
        r"""
        exec python {params.script:q} \
            --manifests {input.manifests:q} \
            --bad {params.bad:q} \
            --pass-on \
            --output {output:q} \
            >{log:q} 2>&1
        """


rule report:
    input:
        results=TABLES,
        beside=[
            f"{table.removesuffix('.csv')}_{kind}.csv"
            for table in TABLES
            for kind in ("long", "summary")
        ],
        ranking="<results>/rank/ranking.json",
        models=expand(
            "<results>/{experiment}/models/fold_{fold}.pt",
            experiment=EXPERIMENTS,
            fold=range(N_FOLDS),
        ),
        tests=told_of_tests(),
        choices=expand(
            "<results>/{experiment}/postprocess/auto/choice.json",
            experiment=PREDICTED if CHOOSES else [],
        ),
        plan=ancient("<results>/config.json"),
        settled=all_settled,
        paths=ancient("<results>/train_paths.csv"),
        code=code("report"),
    output:
        page=report("<results>/report.html", category="Report"),
        facts=report("<results>/evaluation.json", category="Report"),
        summary="<results>/summary.txt",
    log:
        "<results>/logs/report.log",
    benchmark:
        "<results>/benchmarks/report.tsv"
    conda:
        "../../envs/cpu.yaml"
    params:
        script=script("report"),
        names=NAMES,
        folders=FOLDERS,
        logs=expand(
            "{results}/{experiment}/logs/fold_{fold}",
            results=CONFIG.results,
            experiment=EXPERIMENTS,
            fold=range(N_FOLDS),
        ),
        plans=[f"{CONFIG.results}/{home}config.json" for home in PLAN_OF.values()],
        fingerprints=f"{CONFIG.results}/fingerprints",
        config=whole_config,
        dataset=lambda wildcards, input: DATASET,
        command=command,
        patients=all_patients,
        case_table=patient_table,
    shell:
        r"""
        exec python {params.script:q} \
            --plan {input.plan:q} \
            --paths {input.paths:q} {params.case_table} \
            --names {params.names:q} \
            --results {input.results:q} \
            --predictions {params.folders:q} \
            --ranking {input.ranking:q} \
            --logs {params.logs:q} \
            --plans {params.plans:q} \
            --tests {input.tests:q} \
            --choices {input.choices:q} \
            --fingerprints {params.fingerprints:q} \
            --config {params.config:q} \
            --dataset {params.dataset:q} \
            --command {params.command:q} \
            --output {output.page:q} \
            --summary {output.summary:q} \
            >{log:q} 2>&1
        """
