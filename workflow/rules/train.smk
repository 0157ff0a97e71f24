"""
One model for each experiment and fold, from the cases that are not in the fold.

in:  <numpy>/ of those cases, and the plan
out: <results>/{experiment}/models/fold_{fold}.pt, logs/fold_{fold}/ (TensorBoard, history.csv)
     <results>/{experiment}/checkpoints/fold_{fold}_checkpoint.pt, not declared: it survives a job
     that fails or is killed, and the next try goes on from it
"""


rule train:
    input:
        arrays=lambda wildcards: ancient(arrays_path(wildcards)),
        plan=lambda wildcards: ancient(plan_path(wildcards)),
        weights=weights_of_this_run,
        code=code("train"),
    output:
        "<results>/{experiment}/models/fold_{fold}.pt",
    log:
        "<results>/logs/train/{experiment}_fold_{fold}.log",
    benchmark:
        "<results>/benchmarks/train/{experiment}_fold_{fold}.tsv"
    conda:
        "../../envs/gpu.yaml"
    threads: threads_of_training
    resources:
        gpu=gpus_of_training,
    params:
        script=script("train"),
        plan=plan("train"),
        settings=settings("train", OF_NO_CONSEQUENCE),
        aside=aside,
        arrays=arrays(trained_on),
        jobs_per_gpu=jobs_per_gpu,
        foreign=foreign,
        patients=patients,
        case_table=case_table,
        tracked=tracked,
        paths=subpath(input.plan, parent=True),
        numpy=subpath(input.arrays, parent=True),
        home=subpath(output[0], ancestor=2),
    shell:
        r"""
        exec python {params.script:q} \
            --paths {params.paths:q}/train_paths.csv {params.case_table} \
            --numpy {params.numpy:q} \
            --plan {input.plan:q} \
            --settings {params.settings:q} --aside {params.aside:q} \
            --fold {wildcards.fold} \
            --foreign {params.foreign:q} \
            --jobs-per-gpu {params.jobs_per_gpu} \
            --checkpoint {params.home:q}/checkpoints/fold_{wildcards.fold}_checkpoint.pt \
            --logs {params.home:q}/logs/fold_{wildcards.fold} \
            --model {output:q} {params.tracked} \
            >{log:q} 2>&1
        """
