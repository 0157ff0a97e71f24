"""A dataset with every defect that was seen in the wild: one run, one table, nothing missed."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from conftest import ROOT, ball, grid, written_series

from mist_core import chunks
from mist_core.files import write_json
from mist_core.geometry import Geometry
from mist_core.io import Volume, to_sitk, write_volume
from mist_core.verify import misplaced

GRID = grid((12, 13, 14), (1.5, 1.0, 1.0))


def image_of(seed, geometry=GRID):
    return Volume(
        np.random.default_rng(seed).normal(size=geometry.shape).astype(np.float32), geometry
    )


def mask_of(values=(1, 2, 4), geometry=GRID):
    array = ball(geometry).array.astype(np.int16)
    inside = np.flatnonzero(array)
    array.flat[inside] = np.resize(values, inside.size)
    return Volume(array, geometry)


def moved(volume, **changes):
    """The same voxels with another header."""
    header = vars(volume.geometry) | changes
    return Volume(volume.array, Geometry(**header))


class Seeded:
    """A folder of good cases, and a case for each defect."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0
        fields = {
            "task": "seeded",
            "modality": "mr",
            "train-data": "train",
            "test-data": "test",
            "mask": ["mask"],
            "images": {"t1": ["t1"], "t2": ["t2"]},
            "labels": [0, 1, 2, 4],
        }
        folder.mkdir(exist_ok=True)
        (folder / "dataset.json").write_text(json.dumps(fields))

    def case(self, name, part="train"):
        """A good case; what is spoilt later is one of its files."""
        home = self.folder / part / name
        for channel in ("t1", "t2"):
            self.count += 1
            write_volume(home / f"{channel}.nii.gz", image_of(self.count))
        if part == "train":
            write_volume(home / "mask.nii.gz", mask_of())
        return home


def seed(folder):
    """The dataset, and for each bad case a word that its line in the table must have."""
    data = Seeded(folder)
    for number in range(4):
        data.case(f"good_{number}")
    data.case("good_test", "test")
    # Good as well: labels stored as float, noise in an origin, one channel that was not acquired.
    write_volume(
        data.case("good_float") / "mask.nii.gz",
        Volume(mask_of().array.astype(np.float32), GRID),
    )
    write_volume(data.case("good_noise") / "t2.nii.gz", moved(image_of(99), origin=(1e-4, 0, 0)))
    write_volume(
        data.case("good_zeros") / "t2.nii.gz", Volume(np.zeros(GRID.shape, np.float32), GRID)
    )

    (data.case("no_channel") / "t2.nii.gz").unlink()
    (data.case("no_mask") / "mask.nii.gz").unlink()
    write_volume(data.case("two_files") / "another_t1.nii.gz", image_of(0))
    (folder / "train/empty_folder").mkdir()

    small = grid((11, 13, 14), (1.5, 1, 1))
    write_volume(data.case("size") / "t2.nii.gz", image_of(1, small))
    write_volume(data.case("spacing") / "t2.nii.gz", moved(image_of(2), spacing=(1.5, 1.0, 1.2)))
    write_volume(data.case("origin") / "mask.nii.gz", moved(mask_of(), origin=(3.0, 0.0, 0.0)))
    flipped = GRID.direction * [1, 1, -1]
    write_volume(data.case("direction") / "t1.nii.gz", moved(image_of(3), direction=flipped))

    home = data.case("four_d")
    sitk.WriteImage(sitk.JoinSeries([to_sitk(image_of(4))] * 2), str(home / "t1.nii.gz"))
    home = data.case("two_d")
    sitk.WriteImage(to_sitk(image_of(5))[:, :, 3], str(home / "t1.nii.gz"))
    home = data.case("vector")
    sitk.WriteImage(sitk.Compose([to_sitk(image_of(6))] * 3), str(home / "t1.nii.gz"))

    write_volume(data.case("odd_label") / "mask.nii.gz", mask_of((1, 2, 7)))
    half = Volume(mask_of().array / np.float32(2), GRID)
    write_volume(data.case("half_label") / "mask.nii.gz", half)
    write_volume(data.case("negative_label") / "mask.nii.gz", mask_of((1, -1)))
    write_volume(data.case("swapped") / "mask.nii.gz", image_of(7))
    nothing = Volume(np.zeros(GRID.shape, np.uint8), GRID)
    write_volume(data.case("empty_mask") / "mask.nii.gz", nothing)

    for name, value in (("nan", np.nan), ("infinite", np.inf)):
        spoilt = image_of(8)
        spoilt.array[3, 3, 3] = value
        write_volume(data.case(name) / "t2.nii.gz", spoilt)
    home = data.case("blank")
    for channel in ("t1", "t2"):
        blank = Volume(np.full(GRID.shape, -1024, np.float32), GRID)
        write_volume(home / f"{channel}.nii.gz", blank)
    home = data.case("like_good")
    for channel in ("t1", "t2"):
        (home / f"{channel}.nii.gz").write_bytes(
            (folder / f"train/good_0/{channel}.nii.gz").read_bytes()
        )

    home = data.case("cut_off")
    whole = (home / "t1.nii.gz").read_bytes()
    (home / "t1.nii.gz").write_bytes(whole[: len(whole) // 2])
    (data.case("text") / "t1.nii.gz").write_text("not an image")
    (data.case("no_bytes") / "mask.nii.gz").write_bytes(b"")

    data.case("Mean")
    data.case("both")
    data.case("both", "test")
    write_volume(data.case("test_grid", "test") / "t2.nii.gz", moved(image_of(9), origin=(9, 0, 0)))
    (data.case("test_missing", "test") / "t2.nii.gz").unlink()
    return {
        "no_channel": "for channel t2, found none",
        "no_mask": "for the mask, found none",
        "two_files": "found another_t1.nii.gz, t1.nii.gz",
        "empty_folder": "found none",
        "size": "different sizes",
        "spacing": "mm apart",
        "origin": "3 mm apart",
        "direction": "mm apart",
        "four_d": "found 4-D",
        "two_d": "found 2-D",
        "vector": "expected one value per voxel",
        "odd_label": "found 7 (",
        "half_label": "whole-number labels",
        "negative_label": "found -1 to",
        "swapped": "whole-number labels",
        "empty_mask": "background only",
        "nan": "1 voxels that are NaN",
        "infinite": "1 voxels that are NaN or infinite",
        "blank": "found -1024 in every voxel of all channels",
        "like_good": "found those of good_0",
        "cut_off": "damaged",
        "text": "expected a readable image",
        "no_bytes": "expected a readable image",
        "Mean": "Rename the case",
        "both": "in both",
        "test_grid": "mm apart",
        "test_missing": "for channel t2, found none",
    }


def test_the_grid_of_most_files_is_right():
    shifted = moved(mask_of(), origin=(3.0, 0.0, 0.0)).geometry
    paths = [Path("t1"), Path("t2"), Path("mask")]
    for wrong in range(3):
        geometries = [GRID] * 3
        geometries[wrong] = shifted
        (problem,) = misplaced(paths, geometries)
        assert problem.startswith(f"{paths[wrong]}: expected the grid of {paths[wrong == 0]} (")
        assert "3 mm apart" in problem
    assert misplaced(paths, [GRID] * 3) == []


def snakemake(folder, *more):
    done = subprocess.run(
        [
            *(Path(sys.executable).parent / "snakemake", "analyzed", "--cores", "2"),
            *("--snakefile", ROOT / "workflow/Snakefile"),
            *("--workflow-profile", ROOT / "profiles/default"),
            *("--configfile", ROOT / "config/config.yaml"),
            *("--config", "dataset=data", *more),
        ],
        cwd=folder,
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return done.returncode, done.stdout


def test_every_defect_is_in_one_table_with_file_and_remedy(tmp_path):
    bad = seed(tmp_path / "data")
    assert len(bad) >= 20
    code, output = snakemake(tmp_path, "analyze={folds: 3}")
    assert code == 1
    with (tmp_path / "results/problems.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert {row["id"] for row in table} == set(bad)
    for row in table:
        assert bad[row["id"]] in row["problem"], row
        assert "data/" in row["file"]
        # What was expected, what was found, and what to do.
        assert re.fullmatch(r"expected .+, found .+\. [A-Z].+\.", row["problem"]), row
        assert f"{row['file']}: {row['problem']}" in output
    assert f"{len(table)} problems, in {len(bad)} of {len(bad) + 8} cases" in output
    assert "Traceback" not in output
    assert not (tmp_path / "results/config.json").exists()

    code, output = snakemake(tmp_path, "analyze={folds: 3, verify: drop}")
    assert code == 0, output
    plan = json.loads((tmp_path / "results/config.json").read_text())
    # Test cases are no part of the plan: they fail, or are left out, alone.
    assert set(plan["left_out"]) == set(bad) - {"test_grid", "test_missing"}
    for name, reason in plan["left_out"].items():
        assert bad[name] in reason
        assert f"Left out: {name}: " in output
    with (tmp_path / "results/train_paths.csv").open(newline="") as stream:
        kept = [row["id"] for row in csv.DictReader(stream)]
    assert kept == [
        "good_0",
        "good_1",
        "good_2",
        "good_3",
        "good_float",
        "good_noise",
        "good_zeros",
    ]
    code, output = snakemake(tmp_path, "analyze={folds: 3, verify: drop}")
    assert code == 0
    assert "Nothing to be done" in output


def test_a_fingerprint_that_failed_is_told_and_tried_again(tmp_path):
    data = Seeded(tmp_path / "data")
    for number in range(3):
        data.case(f"good_{number}")
    data.case("good_test", "test")
    options = ("analyze={folds: 2}", "cases_per_job=3")
    assert snakemake(tmp_path, *options)[0] == 0
    results = tmp_path / "results"
    # As the job leaves it when there was too little memory for one of its cases.
    for path in (results / "done/fingerprint").glob("*.json"):
        manifest = json.loads(path.read_text())
        if "good_1" in manifest["cases"]:
            manifest["cases"]["good_1"] = {"error": "expected enough memory, found too little."}
            path.write_text(json.dumps(manifest))
    for name in ("config.json", "fingerprints/good_1.json", "fingerprints/.done/good_1.json"):
        (results / name).unlink()
    code, output = snakemake(tmp_path, *options)
    assert code == 1
    assert "good_1  expected enough memory, found too little." in output
    assert snakemake(tmp_path, *options)[0] == 0
    assert (results / "fingerprints/good_1.json").exists()
    assert not (results / "problems.csv").exists()


def test_arrays_of_cases_that_left_go_and_those_of_others_stay(tmp_path):
    data = Seeded(tmp_path / "data")
    data.case("here")
    data.case("moved", "test")
    for folder in ("", "test/"):
        for case in ("here", "moved", "gone", "another's"):
            write_json(tmp_path / f"numpy/{folder}images/{case}.npy", 0)
            record = {"key": "", "files": [f"images/{case}.npy"]}
            write_json(tmp_path / f"numpy/{folder}.done/{case}.json", record)
    groups = dict.fromkeys(("here", "moved", "gone"), "fold_0")
    chunks.write_record(tmp_path / "chunks.json", "seeded", 1, groups)
    write_json(tmp_path / "done.json", {"cases": {"here": {"content": "x"}}})
    paths = ("dataset", "data/dataset.json"), ("chunks", "chunks.json"), ("folder", "numpy")
    words = [word for name, path in paths for word in (f"--{name}", tmp_path / path)]
    script = ROOT / "workflow/scripts/gather.py"
    places = ("--manifests", tmp_path / "done.json", "--output", tmp_path / "numpy/arrays.json")
    subprocess.run([sys.executable, script, *places, *words], check=True)
    kept = {str(p.relative_to(tmp_path / "numpy")) for p in (tmp_path / "numpy").rglob("*.npy")}
    assert kept == {
        *("images/here.npy", "images/another's.npy"),
        *("test/images/moved.npy", "test/images/another's.npy"),
    }


def test_slices_of_a_series_are_followed_one_by_one(tmp_path):
    """A slice may be rewritten in place, which leaves the date of its folder as it was."""
    geometry = Geometry((6, 8, 9), (2.5, 0.8, 0.7), (-50.0, -60.0, 0.0), np.eye(3)[:, ::-1])
    voxels = np.random.default_rng(0).integers(0, 999, (2, *geometry.shape)).astype(np.int16)
    for case, array in zip("ab", voxels, strict=True):
        home = tmp_path / "data/train" / case
        home.mkdir(parents=True)
        written_series(home / "ct", array)
        write_volume(home / "mask.nii.gz", Volume((array > 500).astype(np.uint8), geometry))
    fields = {
        "task": "series",
        "modality": "ct",
        "train-data": "train",
        "mask": ["mask"],
        "images": {"ct": ["ct"]},
        "labels": [0, 1],
    }
    (tmp_path / "data/dataset.json").write_text(json.dumps(fields))

    def run():
        code, output = snakemake(tmp_path, "analyze={folds: 2, crop_to_foreground: false}")
        assert code == 0, output
        fingerprint = json.loads((tmp_path / "results/fingerprints/a.json").read_text())
        return "Nothing to be done" not in output, fingerprint["voxels"]

    did, before = run()
    assert did
    slices = sorted((tmp_path / "data/train/a/ct").iterdir())
    for path in slices:
        path.touch()
    assert run() == (False, before)
    date = slices[0].parent.stat().st_mtime_ns
    raw = bytearray(slices[0].read_bytes())
    raw[-8:] = bytes(8)
    slices[0].write_bytes(raw)
    assert slices[0].parent.stat().st_mtime_ns == date
    did, after = run()
    assert did
    assert after != before
