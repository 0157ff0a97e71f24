"""Real scans: through the converters, the analysis and back; the examples of config/examples."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, certain
from scipy.ndimage import distance_transform_edt

from mist_core.files import read_json, read_rows, write_json, write_rows
from mist_core.geometry import Origin
from mist_core.io import Volume, read_geometry, read_labels
from mist_core.plan import parse_plan
from mist_core.preprocess import preprocess
from mist_core.restore import restore

BIN = Path(sys.executable).parent


def mist(name, *words, cwd):
    command = [BIN / f"mist_{name}", *map(str, words)]
    done = subprocess.run(command, cwd=cwd, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def plan_of(labels, spacing):
    """A plan for one MR channel that only turns and resamples; spacing (z, y, x)."""
    fields = {
        "mist_version": "0",
        "dataset_info": {"task": "t", "modality": "mr", "images": ["mr"], "labels": labels},
        "spatial_config": {
            "patch_size": (32, 32, 32),
            "target_spacing": spacing[::-1],
            "median_resampled_image_size": (32, 32, 32),
        },
        "preprocessing": {
            "crop_to_foreground": False,
            "normalize_with_nonzero_mask": [False],
            "ct_normalization": [None],
        },
        "model": {"in_channels": 1, "out_channels": len(labels)},
        "evaluation": {},
    }
    return parse_plan(fields, "here")


def back_from(done, labels):
    """Label values on the scanner's grid, as prediction brings them there."""
    origin = Origin.from_json(json.loads(json.dumps(done.origin.to_json())))
    return restore(certain(done.labels, len(labels)), origin, labels).array


@pytest.mark.parametrize(
    "name", ["semantic", pytest.param("unmatched_instance", marks=pytest.mark.slow)]
)
def test_sagittal_label_maps_come_back_as_they_were(shared, name):
    """Their axes run superior-inferior, right-left and posterior-anterior; 17 thick slices."""
    mask = read_labels(shared / f"data/spine/{name}/ref.nii.gz")
    labels = tuple(np.unique(mask.array).tolist())
    image = Volume(mask.array.astype(np.float32), mask.geometry)
    order, flips = mask.geometry.to_lps()
    assert order != (0, 1, 2)
    turned = mask.geometry.moved_axes(order, flips)
    done = preprocess([image], mask, plan_of(labels, turned.spacing))
    assert done.image.shape[1:] == turned.shape
    assert np.array_equal(back_from(done, labels), mask.array)

    # On another grid no border moves by more than a voxel, and no structure is lost.
    spacing = (1.0, 1.0, 3.3)
    back = back_from(preprocess([image], mask, plan_of(labels, spacing)), labels)
    assert set(np.unique(back)) == set(labels)
    border = np.zeros(mask.array.shape, bool)
    for axis in range(3):
        changes = np.diff(mask.array, axis=axis) != 0
        for side in ((1, 0), (0, 1)):
            border |= np.pad(changes, [side if a == axis else (0, 0) for a in range(3)])
    away_mm = distance_transform_edt(~border, sampling=mask.geometry.spacing)
    assert away_mm[back != mask.array].max() <= np.linalg.norm(spacing)
    assert (back != mask.array).mean() < 0.01


def test_a_label_map_of_the_same_scan_is_accepted_with_its_float_noise(shared):
    """Origins that differ by 0.6 um are one grid, as users would say."""
    one, other = (
        read_geometry(shared / f"data/spine/semantic/{n}.nii.gz") for n in ("ref", "pred")
    )
    assert 0 < one.distance_mm(other) < 0.01
    assert one.matches(other)


def test_hippocampus_goes_through_both_the_converter_and_the_analysis(shared, tmp_path):
    source = shared / "data/Task04_Hippocampus"
    mist("convert_msd", "--source", source, "--output", tmp_path / "data", "--link", cwd=tmp_path)
    limit = ("--config", "limit_cases=8")
    data = tmp_path / "data/dataset.json"
    mist("analyze", "--data", data, "--results", "converted", *limit, cwd=tmp_path)
    mist("analyze", "--data", source, "--results", "direct", *limit, cwd=tmp_path)
    both = ("converted", "direct")
    converted, direct = (read_json(tmp_path / name / "config.json") for name in both)
    for key in ("spatial_config", "preprocessing", "model"):
        assert converted[key] == direct[key]
    assert direct["spatial_config"]["target_spacing"] == [1.0, 1.0, 1.0]
    tables = [read_rows(tmp_path / name / "train_paths.csv") for name in both]
    ids = [[row["id"] for row in rows] for rows in tables]
    assert len(ids[0]) == 8
    assert ids[0] == ids[1]


def test_nrrd_files_of_thick_slices_go_through_tables(shared, tmp_path):
    home = shared / "data/nrrd"
    rows = [
        {"id": n, "mask": home / f"{n}_label.nrrd", "mr": home / f"{n}_image.nrrd"}
        for n in ("brain1", "breast1")
    ]
    write_rows(tmp_path / "train.csv", list(rows[0]), rows)
    mist("convert_csv", "--train-csv", "train.csv", "--output", "data", cwd=tmp_path)
    path = tmp_path / "data/dataset.json"
    write_json(path, read_json(path) | {"task": "two", "modality": "mr", "labels": [0, 1]})
    fields = ("--nfolds", "2", "--results", "results", "--data", path)
    mist("analyze", *fields, cwd=tmp_path)
    mist("preprocess", "--results", "results", "--numpy", "numpy", "--compute-dtms", cwd=tmp_path)
    plan = read_json(tmp_path / "results/config.json")
    # Slices of 6.5 and 2.1 mm: thick, so the thinner tenth counts.
    x, y, z = plan["spatial_config"]["target_spacing"]
    assert x == y == pytest.approx((0.7812 + 0.6641) / 2, abs=1e-3)
    assert z == pytest.approx(2.1 + 0.1 * (6.5 - 2.1), abs=1e-3)
    for row in rows:
        kinds = ("images", "labels", "dtms")
        image, labels, maps = (np.load(tmp_path / f"numpy/{k}/{row['id']}.npy") for k in kinds)
        assert image.shape[1:] == labels.shape == maps.shape[1:]
        assert np.isfinite(image).all()
        mask = read_labels(row["mask"])
        origin = Origin.from_json(read_json(tmp_path / f"numpy/geometry/{row['id']}.json"))
        volume_mm3 = np.count_nonzero(labels) * np.prod(origin.training.spacing)
        before_mm3 = np.count_nonzero(mask.array) * np.prod(mask.geometry.spacing)
        # A slice of 6.5 mm becomes two or three of 2.5 mm, each with the values of the nearest.
        assert volume_mm3 == pytest.approx(before_mm3, rel=0.1)


# A small process between, since the memory of one that starts another counts as that of both.
PEAK_OF = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=sys.stderr).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


def run_example(folder, name, dataset):
    """The results of a run, and the largest memory of one of its processes in KiB."""
    shutil.copytree(ROOT / "config", folder / "config")
    command = [
        *(sys.executable, "-c", PEAK_OF, BIN / "snakemake"),
        *("--snakefile", ROOT / "Snakefile"),
        *("--cores", "2"),
        *("--configfile", f"config/examples/{name}.yaml"),
        *("--config", f"dataset={dataset}"),
    ]
    done = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    return folder / "results" / name, int(done.stdout)


@pytest.mark.slow
def test_hippocampus_reaches_dice_of_080_for_both_parts(tmp_path, shared):
    results, _ = run_example(tmp_path, "hippocampus", shared / "data/Task04_Hippocampus")
    rows = {row["id"]: row for row in read_rows(results / "default/results.csv")}
    assert len(rows) == 60 + 5
    assert float(rows["Mean"]["Anterior_dice"]) >= 0.80
    assert float(rows["Mean"]["Posterior_dice"]) >= 0.80


@pytest.mark.slow
def test_large_two_channel_volumes_stay_under_6_gb(tmp_path, shared):
    os.environ["OMP_NUM_THREADS"] = "2"
    results, largest_kib = run_example(tmp_path, "brats", shared / "data/brats2015")
    assert (results / "report.html").exists()
    assert largest_kib < 6e9 / 1024
