"""
One model for each experiment and fold, from the cases that are not in the fold.

in:  <numpy>/ of those cases, and the plan
out: <results>/{experiment}/models/fold_{fold}.pt, logs/fold_{fold}/ (TensorBoard, history.csv)
     <results>/{experiment}/checkpoints/fold_{fold}_checkpoint.pt, not declared: it survives a job
     that fails or is killed, and the next try goes on from it
"""


rule train:
    input:
        arrays=lambda wildcards: expand(
            "<numpy>/{kind}/{case}.npy",
            kind=["images", "labels", "foreground"],
            case=trained_on(wildcards.fold),
        ),
        plan=ancient(PLAN),
        paths=ancient("<results>/train_paths.csv"),
    output:
        "<results>/{experiment}/models/fold_{fold}.pt",
    log:
        "<results>/logs/train/{experiment}_fold_{fold}.log",
    benchmark:
        "<results>/benchmarks/train/{experiment}_fold_{fold}.tsv"
    conda:
        "../../envs/gpu.yaml"
    # On a CPU folds side by side are no faster than one after the other, and take more memory.
    threads: workflow.cores or 1
    resources:
        gpu=1,
    params:
        script=script("train"),
        plan=plan("train"),
        settings=settings("train"),
        numpy=CONFIG.numpy,
        home=subpath(output[0], ancestor=2),
    shell:
        r"""
        python {params.script:q} \
            --paths {input.paths:q} \
            --numpy {params.numpy:q} \
            --plan {input.plan:q} \
            --settings {params.settings:q} \
            --fold {wildcards.fold} \
            --checkpoint {params.home:q}/checkpoints/fold_{wildcards.fold}_checkpoint.pt \
            --logs {params.home:q}/logs/fold_{wildcards.fold} \
            --model {output:q} \
            >{log:q} 2>&1
        """
