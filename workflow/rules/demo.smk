"""
The dataset of the demo, made up from a seed; used when the config names no dataset.

out: data/demo/
"""

MADE_UP = demo_cases(DEMO)
DEMO_FILES = [
    str(path) for case in (MADE_UP.train | MADE_UP.test).values() for path in case.files
]


rule make_demo_data:
    output:
        files=DEMO_FILES,
        dataset=DEMO / "dataset.json",
    log:
        "<results>/logs/make_demo_data.log",
    conda:
        "../../envs/cpu.yaml"
    params:
        script=script("make_demo_data"),
        folder=DEMO,
    shell:
        r"""
        exec python {params.script:q} \
            --output {params.folder:q} \
            --seed 7 \
            >{log:q} 2>&1
        """
