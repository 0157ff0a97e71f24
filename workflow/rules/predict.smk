"""
Label maps on the original grids: training cases by the model that did not see them, test cases by
all models of an experiment together.

in:  <numpy>/ of a case, models
out: <results>/{experiment}/predictions/train/raw/{case}.nii.gz, predictions/test/{case}.nii.gz
"""


rule predict:
    input:
        arrays=lambda wildcards: ancient(arrays_path(wildcards)),
        settled=settled,
        models=lambda wildcards: (
            f"<results>/{wildcards.experiment}/models/{wildcards.chunk.split('-')[0]}.pt"
        ),
        code=code("predict"),
    output:
        "<results>/done/predict/{experiment}/{chunk}.json",
    log:
        "<results>/logs/predict/{experiment}_{chunk}.log",
    benchmark:
        "<results>/benchmarks/predict/{experiment}_{chunk}.tsv"
    wildcard_constraints:
        chunk=any_of(TRAIN_CHUNKS),
    conda:
        "../../envs/gpu.yaml"
    resources:
        gpu=1,
    params:
        script=script("predict"),
        settings=settings("predict"),
        arrays=arrays(in_chunk),
        cases=cases,
        tracked=tracked,
        probabilities=output_probabilities,
        jobs_per_gpu=jobs_per_gpu,
        numpy=subpath(input.arrays, parent=True),
        folder=lambda wildcards: (
            f"{CONFIG.results}/{wildcards.experiment}/predictions/train/raw"
        ),
    shell:
        r"""
        exec python {params.script:q} \
            --numpy {params.numpy:q} \
            --models {input.models:q} \
            --settings {params.settings:q} \
            --case {params.cases:q} \
            --after {input.arrays:q} \
            --jobs-per-gpu {params.jobs_per_gpu} \
            --output {params.folder:q} \
            --manifest {output:q} {params.probabilities} {params.tracked} \
            >{log:q} 2>&1
        """


use rule predict as predict_test with:
    input:
        arrays=lambda wildcards: ancient(arrays_path(wildcards)),
        settled=settled,
        models=expand(
            "<results>/{{experiment}}/models/fold_{fold}.pt", fold=range(N_FOLDS)
        ),
        code=code("predict"),
    log:
        "<results>/logs/predict_test/{experiment}_{chunk}.log",
    benchmark:
        "<results>/benchmarks/predict_test/{experiment}_{chunk}.tsv"
    wildcard_constraints:
        chunk=any_of(TEST_CHUNKS),
    params:
        arrays=arrays(in_chunk, "gather_test_arrays"),
        folder=lambda wildcards: (
            f"{CONFIG.results}/{wildcards.experiment}/predictions/test"
        ),
