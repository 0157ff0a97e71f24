"""
Experiments and strategies against each other, and the report.

in:  all results tables
out: <results>/rank/ranking.csv, ranking_detailed.csv, significance.csv, ranking.json,
     <results>/report.html, summary.txt
     <results>/done/cases.json, which is made only if no case of any stage failed, and tests.json,
     the same for the test cases as far as preprocessing
"""

NAMES, TABLES, FOLDERS = zip(*candidates())


rule gather_cases:
    input:
        manifests=of_every_case() + tests_on_grids(),
        settled=all_settled_with_tests,
    output:
        "<results>/done/cases.json",
    log:
        "<results>/logs/gather_cases.log",
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
            --output {output:q} \
            >{log:q} 2>&1
        """


use rule gather_cases as gather_tests with:
    input:
        manifests=tests_on_grids(),
        settled=all_settled_with_tests,
    output:
        "<results>/done/tests.json",
    log:
        "<results>/logs/gather_tests.log",


rule rank:
    input:
        tables=TABLES,
        settled=all_settled,
        code=code("rank"),
    output:
        summary=report("<results>/rank/ranking.csv", category="Ranking"),
        detailed="<results>/rank/ranking_detailed.csv",
        significance="<results>/rank/significance.csv",
        all="<results>/rank/ranking.json",
    log:
        "<results>/logs/rank.log",
    benchmark:
        "<results>/benchmarks/rank.tsv"
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    params:
        script=script("rank"),
        names=NAMES,
        settings=settings("rank"),
        patients=all_patients,
        case_table=patient_table,
    shell:
        r"""
        exec python {params.script:q} \
            --results {input.tables:q} \
            --names {params.names:q} \
            --output-csv {output.summary:q} \
            --output-detailed-csv {output.detailed:q} \
            --significance-csv {output.significance:q} \
            --output-json {output.all:q} \
            --settings {params.settings:q} {params.case_table} \
            >{log:q} 2>&1
        """


rule report:
    input:
        results=TABLES,
        ranking="<results>/rank/ranking.csv",
        models=expand(
            "<results>/{experiment}/models/fold_{fold}.pt",
            experiment=EXPERIMENTS,
            fold=range(N_FOLDS),
        ),
        plan=ancient("<results>/config.json"),
        settled=all_settled,
        paths=ancient("<results>/train_paths.csv"),
        code=code("report"),
    output:
        page=report("<results>/report.html", category="Report"),
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
    shell:
        r"""
        exec python {params.script:q} \
            --plan {input.plan:q} \
            --paths {input.paths:q} \
            --names {params.names:q} \
            --results {input.results:q} \
            --predictions {params.folders:q} \
            --ranking {input.ranking:q} \
            --logs {params.logs:q} \
            --output {output.page:q} \
            --summary {output.summary:q} \
            >{log:q} 2>&1
        """
