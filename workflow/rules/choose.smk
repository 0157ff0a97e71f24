"""
A strategy that is chosen for each experiment (postprocess.auto): many are tried on the training
cases, as strategies like any other, and none is kept unless one is better with confidence.

in:  the scores of the training cases, raw and with each strategy
out: <results>/strategies/{strategy}.json, what is tried
     <results>/{experiment}/postprocess/auto/choice.json, strategy.json, predictions/{train,test}/:
     of a training case by what was chosen without its patient
"""


rule tried:
    output:
        "<results>/strategies/{strategy}.json",
    log:
        "<results>/logs/tried/{strategy}.log",
    wildcard_constraints:
        strategy=any_of(TRIED),
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    params:
        steps=lambda wildcards: json.dumps(STEPS[wildcards.strategy]),
    shell:
        r"""
        (printf '%s\n' {params.steps:q} >{output:q}.part && mv {output:q}.part {output:q}) 2>{log:q}
        """


rule choose:
    input:
        raw="<results>/{experiment}/results.csv",
        strategies=list(TRIED.values()),
        tables=expand(
            "<results>/{{experiment}}/postprocess/{strategy}/postprocess_results.csv",
            strategy=TRIED,
        ),
        settled=settled,
        code=code("choose"),
    output:
        choice="<results>/{experiment}/postprocess/auto/choice.json",
        strategy="<results>/{experiment}/postprocess/auto/strategy.json",
    log:
        "<results>/logs/choose/{experiment}.log",
    benchmark:
        "<results>/benchmarks/choose/{experiment}.tsv"
    wildcard_constraints:
        experiment=any_of(PREDICTED),
    localrule: True
    conda:
        "../../envs/cpu.yaml"
    params:
        script=script("choose"),
        settings=settings("rank", ("scheme", "bootstraps")),
        patients=all_patients,
        case_table=patient_table,
    shell:
        r"""
        exec python {params.script:q} \
            --raw {input.raw:q} \
            --strategies {input.strategies:q} \
            --results {input.tables:q} \
            --settings {params.settings:q} {params.case_table} \
            --output {output.choice:q} \
            --output-strategy {output.strategy:q} \
            >{log:q} 2>&1
        """


rule take_chosen:
    input:
        before=expand(
            "<results>/done/postprocess/{{experiment}}/{strategy}/{{chunk}}.json",
            strategy=TRIED,
        ),
        choice="<results>/{experiment}/postprocess/auto/choice.json",
        settled=settled,
    output:
        "<results>/done/postprocess/{experiment}/auto/{chunk}.json",
    log:
        "<results>/logs/postprocess/{experiment}/auto/{chunk}.log",
    wildcard_constraints:
        experiment=any_of(PREDICTED),
        chunk=any_of(TRAIN_CHUNKS),
    conda:
        "../../envs/cpu.yaml"
    params:
        script=script("take_chosen"),
        cases=cases,
        home=lambda wildcards: f"{CONFIG.results}/{wildcards.experiment}",
        folder=postprocessed,
    shell:
        r"""
        exec python {params.script:q} \
            --choice {input.choice:q} \
            --experiment {params.home:q} \
            --case {params.cases:q} \
            --after {input.before:q} \
            --output {params.folder:q} \
            --manifest {output:q} \
            >{log:q} 2>&1
        """


use rule postprocess as postprocess_chosen with:
    input:
        before="<results>/done/predict/{experiment}/{chunk}.json",
        settled=settled,
        strategy="<results>/{experiment}/postprocess/auto/strategy.json",
        code=code("postprocess"),
    output:
        "<results>/done/postprocess/{experiment}/auto/{chunk}.json",
    log:
        "<results>/logs/postprocess/{experiment}/auto/{chunk}.log",
    benchmark:
        "<results>/benchmarks/postprocess/{experiment}/auto/{chunk}.tsv"
    wildcard_constraints:
        experiment=any_of(PREDICTED),
        chunk=any_of(TEST_CHUNKS),
    params:
        own="",
        labels="",
