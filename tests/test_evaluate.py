"""Scores of predicted label maps, case by case, and the table that they make."""

import csv
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import ROOT, ball, grid

from mist_core.config import Evaluate, read_config
from mist_core.errors import DataError
from mist_core.evaluate import Pair, evaluate, evaluate_pair, metric_parameters, summary_rows
from mist_core.io import Volume, write_volume

ALL = {"dice": {}, "haus95": {}, "avg_surf": {}, "surf_dice": {"tolerance": 1.0}}
DICE = {"dice": {}}
PLACE = grid((4, 5, 6), (3.0, 2.0, 1.0))


def volume(*voxels, geometry=PLACE, dtype=np.uint8):
    """A label map with the given (z, y, x, label) voxels."""
    array = np.zeros(geometry.shape, dtype)
    for z, y, x, label in voxels:
        array[z, y, x] = label
    return Volume(array, geometry)


def written(folder, name, label_map):
    path = folder / f"{name}.nii.gz"
    write_volume(path, label_map)
    return path


@pytest.fixture
def pairs(tmp_path):
    """Cases b, a and c, in this order: right, half right, missed."""
    truth = volume((1, 1, 1, 1), (1, 1, 2, 1))
    half = volume((1, 1, 2, 1), (1, 1, 3, 1))
    predictions = {"b": truth, "a": half, "c": volume()}
    return [
        Pair(name, written(tmp_path, f"{name}_mask", truth), written(tmp_path, name, prediction))
        for name, prediction in predictions.items()
    ]


def test_a_class_may_be_made_of_several_labels():
    reference = volume((1, 1, 1, 1), (1, 1, 2, 2), (1, 1, 3, 4))
    prediction = volume((1, 1, 1, 2), (1, 1, 2, 2), (1, 1, 4, 4))
    row = evaluate_pair(reference, prediction, {"all": [1, 2, 4], "core": [2, 4]}, DICE)
    assert row == pytest.approx({"all_dice": 2 * 2 / 6, "core_dice": 2 * 1 / 5})


def test_columns_go_by_class_then_metric():
    case = volume((1, 1, 1, 1))
    row = evaluate_pair(case, case, {"z": [1], "a": [2]}, {"surf_dice": {}, "dice": {}})
    assert list(row) == ["z_surf_dice", "z_dice", "a_surf_dice", "a_dice"]


def test_spacing_of_a_file_goes_with_its_axes(tmp_path):
    for axis, step_mm in enumerate(PLACE.spacing):
        place = [1, 1, 1]
        place[axis] += 1
        paths = [
            written(tmp_path, "reference", volume((1, 1, 1, 1))),
            written(tmp_path, "prediction", volume((*place, 1))),
        ]
        rows, _ = evaluate([Pair("a", *paths)], {"organ": [1]}, ALL)
        assert rows[0]["organ_haus95"] == pytest.approx(step_mm)


def test_labels_above_255_are_told_apart(tmp_path):
    reference = volume((1, 1, 1, 300), (1, 1, 2, 44), dtype=np.uint16)
    prediction = volume((1, 1, 1, 300), (1, 1, 3, 44), dtype=np.uint16)
    paths = written(tmp_path, "reference", reference), written(tmp_path, "prediction", prediction)
    rows, _ = evaluate([Pair("a", *paths)], {"high": [300], "low": [44]}, DICE)
    assert rows == [{"id": "a", "high_dice": 1, "low_dice": 0}]


def test_a_shifted_prediction_is_refused():
    shifted = replace(PLACE, origin=(0.0, 0.0, 0.5))
    with pytest.raises(DataError, match="grid of the reference"):
        evaluate_pair(volume((1, 1, 1, 1)), volume(geometry=shifted), {"organ": [1]}, DICE)


def test_noise_in_a_header_is_no_shift():
    noisy = replace(PLACE, origin=(1e-5, -1e-5, 1e-6), spacing=(3.00001, 2.0, 1.0))
    case = volume((1, 1, 1, 1))
    row = evaluate_pair(case, volume((1, 1, 1, 1), geometry=noisy), {"organ": [1]}, DICE)
    assert row == {"organ_dice": 1}


def test_rows_are_in_the_order_of_the_input(pairs):
    rows, problems = evaluate(pairs, {"organ": [1]}, DICE)
    assert [(row["id"], row["organ_dice"]) for row in rows] == [("b", 1), ("a", 0.5), ("c", 0)]
    assert problems == []


def test_a_bad_case_is_named_and_the_others_are_scored(pairs):
    pairs[0].prediction.write_bytes(b"not an image")
    pairs[1].prediction.unlink()
    rows, problems = evaluate(pairs, {"organ": [1]}, DICE)
    assert [row["id"] for row in rows] == ["c"]
    assert [line.split(":")[0] for line in problems] == ["case b", "case a"]
    assert str(pairs[1].prediction) in problems[1]


def test_a_missed_structure_stays_in_the_mean(pairs):
    rows, _ = evaluate(pairs[::2], {"organ": [1]}, ALL)
    mean = summary_rows(rows)[0]
    diagonal = np.sqrt(12**2 + 10**2 + 6**2)
    assert mean["organ_dice"] == 0.5
    assert mean["organ_haus95"] == pytest.approx(diagonal / 2)


def test_summary_rows_by_hand():
    rows = [{"id": str(n), "x_dice": float(n), "y_dice": 2.0} for n in (4, 1, 3, 2)]
    found = {row["id"]: (row["x_dice"], row["y_dice"]) for row in summary_rows(rows)}
    assert list(found) == ["Mean", "Std", "25th Percentile", "Median", "75th Percentile"]
    assert found["Mean"] == (2.5, 2.0)
    assert found["Std"] == (pytest.approx(np.sqrt(1.25)), 0.0)  # of the population
    assert [found[name][0] for name in list(found)[2:]] == [1.75, 2.5, 3.25]


def test_no_rows_have_no_summary():
    assert summary_rows([]) == []


def test_default_settings_give_the_four_metrics_and_their_tolerance():
    assert metric_parameters(Evaluate()) == ALL


@pytest.mark.parametrize("label", [0, -1])
def test_a_class_of_background_or_negative_labels_is_refused(label):
    with pytest.raises(DataError, match="organ"):
        read_config({"evaluate": {"classes": {"organ": [label]}}})


def test_a_parameter_that_a_metric_does_not_have_is_refused():
    with pytest.raises(DataError, match="tolerance"):
        read_config({"evaluate": {"metrics": {"dice": {"tolerance": 2.0}}}})


def run_script(tmp_path, pairs, settings):
    """Run the script on ``pairs``; the plan is not read when classes are set."""
    with (tmp_path / "paths.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["id", "mask"])
        writer.writeheader()
        writer.writerows({"id": pair.id, "mask": pair.mask} for pair in pairs)
    arguments = {
        "--paths": tmp_path / "paths.csv",
        "--predictions": tmp_path,
        "--plan": tmp_path / "none.json",
        "--settings": json.dumps(settings),
        "--output": tmp_path / "results.csv",
        "--output-paths": tmp_path / "evaluation_paths.csv",
    }
    words = [str(word) for item in arguments.items() for word in item]
    command = [sys.executable, ROOT / "workflow/scripts/evaluate.py", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_script_writes_cases_then_summary(tmp_path, pairs):
    settings = {"classes": {"organ": [1]}, "metrics": {"dice": {}}}
    done = run_script(tmp_path, pairs, settings)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "results.csv").read_text().splitlines()
    assert lines[:5] == ["id,organ_dice", "b,1.0", "a,0.5", "c,0.0", "Mean,0.5"]
    assert [line.split(",")[0] for line in lines[5:]] == [
        "Std",
        "25th Percentile",
        "Median",
        "75th Percentile",
    ]
    listed = (tmp_path / "evaluation_paths.csv").read_text().splitlines()
    assert listed[1] == f"b,{pairs[0].mask},{pairs[0].prediction}"


def test_the_script_fails_by_naming_every_bad_case(tmp_path, pairs):
    pairs[0].prediction.write_bytes(b"not an image")
    write_volume(pairs[2].prediction, ball(grid((7, 7, 7))))
    done = run_script(tmp_path, pairs, {"classes": {"organ": [1]}})
    assert done.returncode == 1
    assert done.stderr.startswith("ERROR: evaluate: 2 problems")
    assert "case b: " in done.stderr
    assert "case c: " in done.stderr
    assert not (tmp_path / "results.csv").exists()
