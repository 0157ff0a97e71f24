"""The workflow of workflow/Snakefile, so that plain ``snakemake`` in this folder runs it."""

from snakemake.utils import min_version

from mist_core.cli import claim

min_version("9.19")


configfile: "config/config.yaml"


module mist:
    snakefile:
        "workflow/Snakefile"
    config:
        config


use rule * from mist


onstart:
    claim(config.get("results", "results"), config.get("numpy", "numpy"))


onsuccess:
    summary = Path(config.get("results", "results")) / "summary.txt"
    if summary.exists():
        print(
            f"\n{summary.read_text()}\nReport: {summary.with_name('report.html')}"
        )
