"""The workflow of workflow/Snakefile, so that plain ``snakemake`` in this folder runs it."""

from snakemake.logging import logger
from snakemake.utils import min_version

from mist_core.cli import claim, end_on_sigterm, show_summary
from mist_core.progress import show_failures

min_version("9.19")


configfile: "config/config.yaml"


module mist:
    snakefile:
        "workflow/Snakefile"
    config:
        config


use rule * from mist


onstart:
    end_on_sigterm()
    claim(config.get("results", "results"), config.get("numpy", "numpy"))


onsuccess:
    show_summary(config.get("results", "results"))


onerror:
    show_summary(config.get("results", "results"))
    show_failures(logger)
