"""The examples of config/examples on real scans; long, so only with ``pytest -m slow``."""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from mist_core.files import read_rows

pytestmark = pytest.mark.slow


def run_example(folder, name, dataset):
    shutil.copytree(ROOT / "config", folder / "config")
    subprocess.run(
        [
            Path(sys.executable).parent / "snakemake",
            *("--snakefile", ROOT / "Snakefile"),
            *("--cores", "2"),
            *("--configfile", f"config/examples/{name}.yaml"),
            *("--config", f"dataset={dataset}"),
        ],
        cwd=folder,
        check=True,
    )
    return folder / "results" / name


def test_hippocampus_reaches_dice_of_080_for_both_parts(tmp_path, shared):
    results = run_example(tmp_path, "hippocampus", shared / "data/Task04_Hippocampus")
    rows = {row["id"]: row for row in read_rows(results / "default/results.csv")}
    assert len(rows) == 60 + 5
    assert float(rows["Mean"]["Anterior_dice"]) >= 0.80
    assert float(rows["Mean"]["Posterior_dice"]) >= 0.80


def test_large_two_channel_volumes_stay_under_6_gb(tmp_path, shared):
    os.environ["OMP_NUM_THREADS"] = "2"
    results = run_example(tmp_path, "brats", shared / "data/brats2015")
    assert (results / "report.html").exists()
    largest_kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert largest_kib < 6e9 / 1024
