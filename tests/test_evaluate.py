"""Scores of predicted label maps, case by case, and the table that they make."""

import csv
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import ROOT, ball, grid

from mist_core.config import Evaluate, EvaluatedClass, read_config, read_evaluated_classes
from mist_core.errors import DataError
from mist_core.evaluate import (
    COMPANIONS,
    Record,
    chosen_classes,
    confidence_interval,
    evaluate_arrays,
    failed,
    summaries,
    summary_rows,
    wide_row,
    with_companions,
)
from mist_core.evaluate import evaluate as records_of
from mist_core.files import read_rows
from mist_core.io import Volume, read_labels, write_volume

ALL = {"dice": {}, "haus95": {}, "avg_surf": {}, "surf_dice": {"tolerance": 1.0}}
DICE = {"dice": {}}
ORGAN = {"organ": EvaluatedClass(labels=[1], metrics={"dice": {}})}
PLACE = grid((4, 5, 6), (3.0, 2.0, 1.0))


def evaluate(*arguments):
    """The scores of a case as a row of the table."""
    return wide_row(records_of(*arguments)[0])


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


def classes(labels, metrics):
    """The same metrics for every class."""
    return {k: EvaluatedClass(labels=members, metrics=metrics) for k, members in labels.items()}


@pytest.fixture
def pairs(tmp_path):
    """Mask and prediction of b, a and c, in this order: right, half right, missed."""
    truth = volume((1, 1, 1, 1), (1, 1, 2, 1))
    half = volume((1, 1, 2, 1), (1, 1, 3, 1))
    predictions = {"b": truth, "a": half, "c": volume()}
    return {
        name: (written(tmp_path, f"{name}_mask", truth), written(tmp_path, name, prediction))
        for name, prediction in predictions.items()
    }


def test_a_class_may_be_made_of_several_labels():
    reference = volume((1, 1, 1, 1), (1, 1, 2, 2), (1, 1, 3, 4))
    prediction = volume((1, 1, 1, 2), (1, 1, 2, 2), (1, 1, 4, 4))
    row = evaluate(reference, prediction, classes({"all": [1, 2, 4], "core": [2, 4]}, DICE))
    assert row == pytest.approx({"all_dice": 2 * 2 / 6, "core_dice": 2 * 1 / 5})


def test_columns_go_by_class_then_metric():
    case = volume((1, 1, 1, 1))
    row = evaluate(case, case, classes({"z": [1], "a": [2]}, {"surf_dice": {}, "dice": {}}))
    assert list(row) == ["z_surf_dice", "z_dice", "a_surf_dice", "a_dice"]


def test_spacing_of_a_file_goes_with_its_axes(tmp_path):
    for axis, step_mm in enumerate(PLACE.spacing):
        place = [1, 1, 1]
        place[axis] += 1
        paths = [
            written(tmp_path, "reference", volume((1, 1, 1, 1))),
            written(tmp_path, "prediction", volume((*place, 1))),
        ]
        row = evaluate(*map(read_labels, paths), classes({"organ": [1]}, ALL))
        assert row["organ_haus95"] == pytest.approx(step_mm)


def test_labels_above_255_are_told_apart(tmp_path):
    reference = volume((1, 1, 1, 300), (1, 1, 2, 44), dtype=np.uint16)
    prediction = volume((1, 1, 1, 300), (1, 1, 3, 44), dtype=np.uint16)
    paths = written(tmp_path, "reference", reference), written(tmp_path, "prediction", prediction)
    row = evaluate(*map(read_labels, paths), classes({"high": [300], "low": [44]}, DICE))
    assert row == {"high_dice": 1, "low_dice": 0}


def test_a_shifted_prediction_is_refused():
    shifted = replace(PLACE, origin=(0.0, 0.0, 0.5))
    with pytest.raises(DataError, match="grid of the reference"):
        evaluate(volume((1, 1, 1, 1)), volume(geometry=shifted), ORGAN)


def test_noise_in_a_header_is_no_shift():
    noisy = replace(PLACE, origin=(1e-5, -1e-5, 1e-6), spacing=(3.00001, 2.0, 1.0))
    case = volume((1, 1, 1, 1))
    row = evaluate(case, volume((1, 1, 1, 1), geometry=noisy), ORGAN)
    assert row == {"organ_dice": 1}


def test_summary_rows_by_hand():
    rows = [{"id": str(n), "x_dice": float(n), "y_dice": 2.0} for n in (4, 1, 3, 2)]
    found = {row["id"]: (row["x_dice"], row["y_dice"]) for row in summary_rows(rows)}
    assert list(found) == ["Mean", "Std", "25th Percentile", "Median", "75th Percentile"]
    assert found["Mean"] == (2.5, 2.0)
    assert found["Std"] == (pytest.approx(np.sqrt(1.25)), 0.0)  # of the population
    assert [found[name][0] for name in list(found)[2:]] == [1.75, 2.5, 3.25]


def test_no_rows_have_no_summary():
    assert summary_rows([]) == []


def test_an_infinite_score_leaves_the_quartiles_that_are_numbers():
    rows = [{"id": str(n), "x": value} for n, value in enumerate([1.0, 2.0, 3.0, 4.0, np.inf])]
    found = {row["id"]: row["x"] for row in summary_rows(rows)}
    assert [found[name] for name in list(found)[2:]] == [2.0, 3.0, 4.0]
    rows = [row | {"x": np.inf if row["x"] > 2 else row["x"]} for row in rows]
    assert list({r["id"]: r["x"] for r in summary_rows(rows)}.values())[2:] == [2.0, np.inf, np.inf]


def test_a_missed_structure_stays_in_the_mean():
    truth = volume((1, 1, 1, 1))
    rows = [evaluate(truth, found, classes({"organ": [1]}, ALL)) for found in (truth, volume())]
    mean = summary_rows([{"id": "a"} | rows[0], {"id": "b"} | rows[1]])[0]
    diagonal = np.sqrt(12**2 + 10**2 + 6**2)
    assert mean["organ_dice"] == 0.5
    assert mean["organ_haus95"] == pytest.approx(diagonal / 2)


def test_a_class_has_all_four_metrics_unless_it_says_which():
    found = read_evaluated_classes({"organ": {"labels": [1]}}, "eval.json")["organ"]
    assert found.metrics == ALL


def test_the_evaluation_in_a_whole_config_is_found():
    fields = {"evaluation": {"organ": {"labels": [1]}}, "training": {}}
    assert list(read_evaluated_classes(fields, "config.json")) == ["organ"]


def test_each_class_may_have_its_own_metrics():
    fields = {
        "a": {"labels": [1], "metrics": {"dice": {}}},
        "b": {"labels": [2], "metrics": {"surf_dice": {"tolerance": 2.0}}},
    }
    case = volume((1, 1, 1, 1))
    row = evaluate(case, case, read_evaluated_classes(fields, "eval.json"))
    assert list(row) == ["a_dice", "b_surf_dice"]


def test_all_mistakes_of_an_evaluation_config_are_shown():
    fields = {
        "a": {"labels": [0], "metrics": {"dice": {}}},
        "b": {"labels": [2], "metrics": {"dyce": {}}},
        "c": {"label": [1]},
    }
    with pytest.raises(DataError) as caught:
        read_evaluated_classes(fields, "eval.json")
    text = str(caught.value)
    assert text.startswith("eval.json: ")
    for place in ("a.labels", "b.metrics.dyce", "c.label:", "c.labels"):
        assert place in text


def test_settings_choose_other_classes_and_metrics():
    own = classes({"organ": [1], "spot": [2]}, ALL)
    assert chosen_classes(own, Evaluate()) == own
    fewer = chosen_classes(own, Evaluate(metrics={"dice": {}}))
    assert {k: list(each.metrics) for k, each in fewer.items()} == {k: ["dice"] for k in own}
    other = chosen_classes(own, Evaluate(classes={"all": [1, 2]}))
    assert [(k, each.labels) for k, each in other.items()] == [("all", [1, 2])]


@pytest.mark.parametrize("label", [0, -1])
def test_a_class_of_background_or_negative_labels_is_refused(label):
    with pytest.raises(DataError, match="organ"):
        read_config({"evaluate": {"classes": {"organ": [label]}}})


def test_a_parameter_that_a_metric_does_not_have_is_refused():
    with pytest.raises(DataError, match="tolerance"):
        read_config({"evaluate": {"metrics": {"dice": {"tolerance": 2.0}}}})


def run_script(tmp_path, pairs, config, *more, columns=("id", "mask", "prediction")):
    """Run the script on ``pairs`` with an evaluation config."""
    with (tmp_path / "paths.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        writer.writeheader()
        for name, paths in pairs.items():
            writer.writerow(dict(zip(("id", "mask", "prediction"), (name, *paths), strict=True)))
    (tmp_path / "eval.json").write_text(json.dumps(config))
    arguments = {
        "--config": tmp_path / "eval.json",
        "--paths-csv": tmp_path / "paths.csv",
        "--output-csv": tmp_path / "results.csv",
    }
    words = [str(word) for item in arguments.items() for word in item]
    command = [sys.executable, ROOT / "workflow/scripts/evaluate.py", *words, *more]
    return subprocess.run(command, capture_output=True, text=True, check=False)


ORGAN_DICE = {"organ": {"labels": [1], "metrics": {"dice": {}}}}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_script_writes_cases_in_their_order_then_summary(tmp_path, pairs, workers):
    listed = tmp_path / "evaluation_paths.csv"
    more = ["--num-workers-evaluate", workers, "--output-paths", listed]
    done = run_script(tmp_path, pairs, ORGAN_DICE, *more)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "results.csv").read_text().splitlines()
    assert lines[:5] == ["id,organ_dice", "b,1.0", "a,0.5", "c,0.0", "Mean,0.5"]
    assert [line.split(",")[0] for line in lines[5:]] == [
        "Std",
        "25th Percentile",
        "Median",
        "75th Percentile",
    ]
    mask, prediction = pairs["b"]
    assert listed.read_text().splitlines()[1] == f"b,{mask},{prediction}"


def test_the_script_fails_by_naming_every_bad_case(tmp_path, pairs):
    pairs["b"][1].write_bytes(b"not an image")
    write_volume(pairs["c"][1], ball(grid((7, 7, 7))))
    done = run_script(tmp_path, pairs, ORGAN_DICE)
    assert done.returncode == 1
    assert "\nERROR: case b: " in "\n" + done.stderr
    assert f"\ncase c: {pairs['c'][1]}: expected the prediction on the grid of the" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_case_without_a_prediction_counts_as_the_worst(tmp_path, pairs):
    pairs["b"][1].write_bytes(b"not an image")
    pairs["c"][1].unlink()
    config = {"organ": {"labels": [1], "metrics": {"dice": {}, "haus95": {}}}}
    assert run_script(tmp_path, pairs, config).returncode == 1
    diagonal = np.sqrt(12**2 + 10**2 + 6**2)
    rows = read_rows(tmp_path / "results.csv")[:3]
    found = [(r["id"], float(r["organ_dice"]), float(r["organ_haus95"])) for r in rows]
    assert found == [
        ("b", 0, pytest.approx(diagonal)),
        ("a", 0.5, 1),
        ("c", 0, pytest.approx(diagonal)),
    ]
    status = {(r["id"], r["status"]) for r in read_rows(tmp_path / "results_long.csv")}
    assert status == {("b", "failed"), ("a", "ok"), ("c", "failed")}
    for row in read_rows(tmp_path / "results_summary.csv"):
        assert (row["n"], row["n_used"], row["n_failed"]) == ("3", "3", "2")


def test_an_odd_label_of_the_reference_is_no_fault_of_the_prediction(tmp_path, pairs):
    write_volume(pairs["a"][0], volume((1, 1, 1, 7)))
    done = run_script(tmp_path, pairs, ORGAN_DICE, "--validate")
    assert done.returncode == 1
    assert f"case a: {pairs['a'][0]}: expected labels among [0, 1], found [7]" in done.stderr
    assert "The case is not scored" in done.stderr
    rows = {row["id"]: row for row in read_rows(tmp_path / "results.csv")}
    assert rows["a"]["organ_dice"] == "nan"
    assert not list(tmp_path.glob(".results_scores"))


@pytest.mark.parametrize("config", [{}, {"evaluation": {}}])
def test_a_config_without_classes_is_refused(tmp_path, pairs, config):
    done = run_script(tmp_path, pairs, config)
    assert done.returncode == 1
    assert "expected at least one class to score, found none" in done.stderr
    assert not list(tmp_path.glob("results*.csv"))


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("paths.csv", "expected a table of its own"),
        ("eval.json", "expected a table of its own"),
        ("folder", "expected the name of a file, found a folder"),
        ("eval.json/results.csv", "expected a place to write to"),
    ],
)
def test_a_table_that_cannot_be_written_is_refused_first(tmp_path, pairs, output, expected):
    (tmp_path / "folder").mkdir()
    done = run_script(tmp_path, pairs, ORGAN_DICE, "--output-csv", tmp_path / output)
    assert done.returncode == 1
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads((tmp_path / "eval.json").read_text()) == ORGAN_DICE


def test_a_case_table_without_a_case_is_refused(tmp_path, pairs):
    table = tmp_path / "cases.csv"
    table.write_text("id,Patient\na,P\n")
    done = run_script(tmp_path, pairs, ORGAN_DICE, "--case-table", table)
    assert done.returncode == 1
    assert "cases.csv: expected a patient of every case, found none of a, b, c" in done.stderr


def test_a_case_without_a_reference_has_no_score_and_is_counted(tmp_path, pairs):
    pairs["b"][0].write_bytes(b"not an image")
    done = run_script(tmp_path, pairs, ORGAN_DICE)
    assert done.returncode == 1
    assert "case b: " in done.stderr
    assert "b,nan" in (tmp_path / "results.csv").read_text()
    assert "Mean,0.25" in (tmp_path / "results.csv").read_text()
    (row,) = read_rows(tmp_path / "results_summary.csv")
    assert (row["mean"], row["n_used"], row["n"], row["n_failed"]) == ("0.25", "2", "3", "1")


def test_a_failed_case_is_scored_when_it_is_mended(tmp_path, pairs):
    whole = pairs["b"][1].read_bytes()
    pairs["b"][1].unlink()
    more = ["--scores", tmp_path / "scores"]
    assert run_script(tmp_path, pairs, ORGAN_DICE, *more).returncode == 1
    pairs["b"][1].write_bytes(whole)
    assert run_script(tmp_path, pairs, ORGAN_DICE, *more).returncode == 0
    assert "b,1.0" in (tmp_path / "results.csv").read_text()


def test_the_long_table_says_how_each_score_is_defined(tmp_path, pairs):
    config = {"organ": {"labels": [1], "metrics": {"nsd@2": {}, "volume_reference": {}}}}
    more = ["--preset", "monai"]
    assert run_script(tmp_path, pairs, config, *more).returncode == 0
    rows = read_rows(tmp_path / "results_long.csv")
    assert [(r["id"], r["metric"], r["status"]) for r in rows] == [
        ("b", "nsd@2", "ok"),
        ("b", "volume_reference", "ok"),
        ("a", "nsd@2", "ok"),
        ("a", "volume_reference", "ok"),
        ("c", "nsd@2", "prediction_empty"),
        ("c", "volume_reference", "prediction_empty"),
    ]
    assert rows[0]["definition"].startswith("tolerance=2.0 surface=voxel directions=pooled ")
    assert (rows[1]["value"], rows[1]["unit"]) == ("12.0", "mm3")


def test_companions_stand_in_the_long_table_and_change_no_other(tmp_path, pairs):
    config = {"organ": {"labels": [1], "metrics": {"DSC": {}, "surf_dice@2": {}}}}
    plain = run_script(tmp_path, pairs, config)
    table = (tmp_path / "results.csv").read_bytes()
    long = read_rows(tmp_path / "results_long.csv")
    more = run_script(tmp_path, pairs, config, "--companions")
    assert plain.returncode == more.returncode == 0, more.stderr
    assert (tmp_path / "results.csv").read_bytes() == table
    found = read_rows(tmp_path / "results_long.csv")
    assert [row for row in found if row["metric"] in ("DSC", "surf_dice@2")] == long
    metrics = [row["metric"] for row in found if row["id"] == found[0]["id"]]
    # Those that are there by another name are not computed again.
    assert metrics == ["DSC", "surf_dice@2", *others_than("dice", "surf_dice")]
    summary = read_rows(tmp_path / "results_summary.csv")
    assert [row["metric"] for row in summary] == metrics


def others_than(*names):
    return [name for name in COMPANIONS if name not in names]


def test_companions_by_hand():
    """Of 10 voxels of 6 mm3 the reference has 1 and 2, the prediction 2, 3 and 4, in a row."""
    both = (np.array([[[0, 1, 1, 0, 0, 0, 0, 0, 0, 0]]], np.uint8), (3.0, 2.0, 1.0))
    prediction = np.array([[[0, 0, 1, 1, 1, 0, 0, 0, 0, 0]]], np.uint8)
    own = with_companions(classes({"organ": [1]}, {"iou": {}}))
    found, _ = evaluate_arrays(both[0], prediction, both[1], own)
    values = {r.metric: r.value for r in found}
    assert list(values) == ["iou", *others_than("iou")]
    expected = {
        **{"tp": 1, "fp": 2, "fn": 1, "tn": 6, "volume_reference": 12, "volume_prediction": 18},
        **{"iou": 1 / 4, "dice": 2 / 5, "sensitivity": 1 / 2, "specificity": 6 / 8},
        **{"precision": 1 / 3, "accuracy": 7 / 10, "average_hausdorff": (1 + 2) / 3},
    }
    assert {name: values[name] for name in expected} == pytest.approx(expected)


def test_lesions_have_a_table_of_their_own_when_asked_for(tmp_path, pairs):
    config = {"organ": {"labels": [1], "metrics": {"lesion_wise_f1": {"min_lesion_volume": 1}}}}
    assert run_script(tmp_path, pairs, config).returncode == 0
    assert not (tmp_path / "results_lesions.csv").exists()
    assert run_script(tmp_path, pairs, config, "--lesions").returncode == 0
    rows = read_rows(tmp_path / "results_lesions.csv")
    assert [(r["id"], r["kind"], r["dice"]) for r in rows] == [
        ("b", "hit", "1.0"),
        ("a", "hit", "0.5"),
        ("c", "missed", ""),
    ]


def test_patients_of_a_table_stay_together_in_the_intervals(tmp_path, pairs):
    assert run_script(tmp_path, pairs, ORGAN_DICE).returncode == 0
    assert read_rows(tmp_path / "results_summary.csv")[0]["ci_low"] != "nan"
    table = tmp_path / "cases.csv"
    table.write_text("id,patient\na,P\nb,P\nc,P\n")
    assert run_script(tmp_path, pairs, ORGAN_DICE, "--case-table", table).returncode == 0
    assert read_rows(tmp_path / "results_summary.csv")[0]["ci_low"] == "nan"  # one patient


def test_all_kinds_of_lesions():
    reference = volume((0, 0, 0, 1), (0, 0, 1, 1), (3, 4, 5, 1))
    prediction = volume((0, 0, 0, 1), (3, 0, 5, 1))
    asked = {"lesion_wise_dice": {"min_lesion_volume": 6.0, "dilation_iters": 0}}
    _, rows = records_of(reference, prediction, classes({"organ": [1]}, asked), lesions=True)
    assert [(r["kind"], r["volume_mm3"], r["found_mm3"]) for r in rows] == [
        ("hit", 12, 6),
        ("small", 6, 0),
        ("false_positive", 0, 6),
    ]
    assert records_of(reference, prediction, classes({"organ": [1]}, DICE), lesions=True)[1] == []


def test_arrays_are_scored_without_files():
    reference, prediction = volume((1, 1, 1, 1)), volume((1, 1, 1, 1), (1, 1, 2, 1))
    own = classes({"organ": [1]}, ALL)
    found = evaluate_arrays(reference.array, prediction.array, PLACE.spacing, own)
    assert found == records_of(reference, prediction, own)
    flat = evaluate_arrays(reference.array[1], prediction.array[1], (2.0, 1.0), own)
    assert [record.status for record in flat[0]] == ["ok"] * 4


def test_a_failed_case_has_the_worst_of_every_metric():
    every = {"dice": {}, "haus95": {}, "mcc": {}, "lesion_wise_haus95": {}, "volume_reference": {}}
    found = failed(classes({"organ": [1]}, every), PLACE)
    diagonal = pytest.approx(np.sqrt(12**2 + 10**2 + 6**2))
    assert [r.value for r in found] == [
        0,
        diagonal,
        -1,
        diagonal,
        pytest.approx(np.nan, nan_ok=True),
    ]
    assert {r.status for r in found} == {"failed"}


def test_no_prediction_is_never_better_than_an_empty_one():
    metrics = {"haus95": {}, "lesion_wise_haus95": {}}
    own = classes({"organ": [1]}, metrics)
    truth = volume(*((z, y, x, 1) for z in range(3) for y in range(3) for x in range(3)))
    empty, _ = records_of(truth, volume(), own, None, "brats2023")
    assert (
        [r.value for r in failed(own, PLACE, "brats2023")] == [r.value for r in empty] == [374] * 2
    )


def test_two_columns_of_one_name_are_refused_before_anything_is_scored():
    both = classes({"a": [1]}, {"lesion_wise_dice": {}}) | classes({"a_lesion_wise": [1]}, DICE)
    with pytest.raises(DataError, match="found a_lesion_wise_dice twice"):
        chosen_classes(both, Evaluate())


def test_the_brats_config_scores_shifted_label_maps(tmp_path, shared):
    brats = {"min_lesion_volume": 50.0, "dilation_iters": 3, "gt_consolidation_iters": 3}
    metrics = {"lesion_wise_dice": brats, "lesion_wise_haus95": brats}
    regions = {"whole_tumor": [1, 2, 3], "tumor_core": [1, 3], "enhancing_tumor": [3]}
    config = {name: {"labels": own, "metrics": metrics} for name, own in regions.items()}
    pairs = {}
    for folder in sorted((shared / "data/brats2015/train").iterdir())[:2]:
        mask = read_labels(folder / "seg.nii.gz")
        moved = Volume(np.roll(mask.array, (1, 2, 3), (0, 1, 2)), mask.geometry)
        pairs[folder.name] = (folder / "seg.nii.gz", written(tmp_path, folder.name, moved))
    done = run_script(tmp_path, pairs, config)
    assert done.returncode == 0, done.stderr
    for row in read_rows(tmp_path / "results.csv")[:2]:
        assert 0.7 < float(row["whole_tumor_lesion_wise_dice"]) < 0.8
        distances = [float(row[f"{name}_lesion_wise_haus95"]) for name in regions]
        assert all(2.5 < mm <= np.sqrt(14) for mm in distances)  # never farther than the shift


def records(*values, status="ok"):
    """Cases with one score each."""
    return {str(i): [Record("organ", "dice", v, "", status, "")] for i, v in enumerate(values)}


def test_summaries_count_what_is_absent_missed_and_invented_apart():
    kinds = ("both_empty", "prediction_empty", "prediction_empty", "reference_empty", "ok")
    cases = {str(i): [Record("x", "dice", 0.5, "", k, "")] for i, k in enumerate(kinds)}
    (row,) = summaries(cases)
    assert [row[f"n_{what}"] for what in ("absent", "missed", "invented", "failed")] == [1, 2, 1, 0]


def test_summaries_say_how_many_values_were_used():
    (row,) = summaries(records(0.5, np.nan, 1.0))
    assert (row["mean"], row["median"], row["min"], row["max"]) == (0.75, 0.75, 0.5, 1.0)
    assert (row["n_used"], row["n"]) == (2, 3)
    (empty,) = summaries(records(np.nan, np.nan))
    assert np.isnan([empty["mean"], empty["ci_low"], empty["max"]]).all()
    assert (empty["n_used"], empty["n"]) == (0, 2)


def test_the_confidence_interval_is_that_of_a_normal_mean():
    values = np.random.default_rng(1).normal(10, 2, 400)
    low, high = confidence_interval(values, list(map(str, range(400))))
    half = 1.96 * values.std() / np.sqrt(400)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), rel=0.003)


def test_the_confidence_interval_is_wider_where_cases_are_of_one_patient():
    values = np.repeat(np.random.default_rng(1).normal(10, 2, 40), 10)
    alone = confidence_interval(values, list(map(str, range(400))))
    together = confidence_interval(values, [str(i // 10) for i in range(400)])
    assert np.ptp(together) > 2.5 * np.ptp(alone)


def test_one_patient_has_no_confidence_interval():
    assert np.isnan(confidence_interval(np.array([1.0, 2.0]), ["a", "a"])).all()


def test_scores_that_are_no_numbers_are_left_out_of_the_summary_rows():
    rows = [{"id": "a", "x": 1.0, "y": np.nan}, {"id": "b", "x": np.nan, "y": np.nan}]
    mean, *_ = summary_rows(rows)
    assert mean["x"] == 1
    assert np.isnan(mean["y"])


def test_predictions_may_be_given_as_a_folder(tmp_path, pairs):
    more = ["--predictions", tmp_path]
    done = run_script(tmp_path, pairs, ORGAN_DICE, *more, columns=("id", "mask"))
    assert done.returncode == 0, done.stderr


def test_kept_scores_are_computed_again_only_for_what_changed(tmp_path, pairs):
    more = ["--scores", tmp_path / "scores"]
    assert run_script(tmp_path, pairs, ORGAN_DICE, *more).returncode == 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "scores").glob("*.json")}
    write_volume(pairs["c"][1], volume((1, 1, 1, 1), (1, 1, 2, 1)))
    assert run_script(tmp_path, pairs, ORGAN_DICE, *more).returncode == 0
    changed = [p.stem for p, time in before.items() if p.stat().st_mtime_ns != time]
    assert changed == ["c"]
    assert "c,1.0" in (tmp_path / "results.csv").read_text()


def test_validation_finds_labels_of_no_class(tmp_path, pairs):
    write_volume(pairs["a"][1], volume((1, 1, 1, 7)))
    assert run_script(tmp_path, pairs, ORGAN_DICE).returncode == 0
    done = run_script(tmp_path, pairs, ORGAN_DICE, "--validate")
    assert done.returncode == 1
    assert f"case a: {pairs['a'][1]}: expected labels among [0, 1], found [7]" in done.stderr


def test_a_table_without_its_columns_is_refused(tmp_path, pairs):
    done = run_script(tmp_path, pairs, ORGAN_DICE, columns=("id", "mask"))
    assert done.returncode == 1
    assert "expected rows with id, mask, prediction, found id, mask." in done.stderr
