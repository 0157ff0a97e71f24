"""
Experiments and strategies against each other.

in:  all results tables
out: <results>/rank/ranking.csv, ranking_detailed.csv, significance.csv, ranking.json
     <results>/done/cases.json, which is made only if no case of any stage failed, and tests.json,
     the same for the test cases as far as preprocessing
"""

NAMES, TABLES, FOLDERS = zip(*candidates())


rule gather_cases:
    input:
        manifests=of_every_case() + tests_on_grids(),
        # Waited for: manifests with failures are removed here, to be tried again the next time.
        told=[ancient(path) for path in told_of_tests()],
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
