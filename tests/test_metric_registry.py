"""Names, parameters and presets of metrics, and what empty masks are worth."""

import re

import numpy as np
import pytest
from conftest import ROOT

from mist_core import config
from mist_core.metrics import (
    ALIASES,
    METRICS,
    PRESETS,
    LabelPair,
    choose,
    metric_of,
    score,
    split_column,
)

EMPTY, SOME = np.zeros((10, 20, 30), bool), np.zeros((10, 20, 30), bool)
SOME[4:7, 4:7, 5:9] = True
UNIT = (1.0, 1.0, 1.0)
DIAGONAL = np.sqrt(10**2 + 20**2 + 30**2)
DISTANCES = ("haus95", "hausdorff", "avg_surf", "masd", "average_hausdorff")
COMBINATIONS = {
    "both_empty": (EMPTY, EMPTY),
    "reference_empty": (EMPTY, SOME),
    "prediction_empty": (SOME, EMPTY),
}


@pytest.mark.parametrize("status", COMBINATIONS)
def test_by_default_a_miss_and_an_invention_are_worth_the_worst(status):
    found = score(*COMBINATIONS[status], UNIT, list(METRICS))
    assert found.status == status
    distance = 0 if status == "both_empty" else pytest.approx(DIAGONAL)
    assert [found[name] for name in DISTANCES] == [distance] * len(DISTANCES)
    share = 1 if status == "both_empty" else 0
    for name in ("dice", "iou", "surf_dice", "boundary_iou", "cldice", "lesion_wise_surf_dice"):
        assert found[name] == share, name


@pytest.mark.parametrize(
    ("word", "value"),
    [("best", 0), ("worst", DIAGONAL), ("nan", np.nan), ("diagonal", DIAGONAL), (5, 5)],
)
@pytest.mark.parametrize("status", COMBINATIONS)
def test_what_an_empty_mask_is_worth_may_be_said_for_each_metric(status, word, value):
    found = score(*COMBINATIONS[status], UNIT, {"haus95": {status: word}})
    assert found["haus95"] == pytest.approx(value, nan_ok=True)


def test_what_an_empty_mask_is_worth_is_not_asked_where_there_is_none():
    asked = dict.fromkeys(COMBINATIONS, "nan")
    assert score(SOME, SOME, UNIT, {"haus95": asked, "dice": asked}) == {"haus95": 0, "dice": 1}


PRESET_VALUES = {  # dice and haus95 of both empty, reference empty, prediction empty
    "mist": [(1, 0), (0, DIAGONAL), (0, DIAGONAL)],
    "brats2023": [(1, 0), (0, 374), (0, 374)],
    "monai": [(np.nan, np.nan), (np.nan, np.nan), (0, np.nan)],
    "medpy": [(1, np.nan), (0, np.nan), (0, np.nan)],
    "nnunet": [(np.nan, 0), (0, DIAGONAL), (0, DIAGONAL)],
    "miseval": [(1, 0), (0, DIAGONAL), (0, DIAGONAL)],
}


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_say_what_empty_masks_are_worth(preset):
    for pair, expected in zip(COMBINATIONS.values(), PRESET_VALUES[preset], strict=True):
        found = score(*pair, UNIT, ["dice", "haus95"], preset=preset)
        assert (found["dice"], found["haus95"]) == pytest.approx(expected, nan_ok=True)


def test_presets_define_the_95th_percentile():
    reference = np.zeros((48, 48, 48), bool)
    reference[10:30, 10:30, 10:30] = True
    prediction = reference.copy()
    reference[40:46, 40:46, 40:46] = True
    found = {p: score(reference, prediction, UNIT, ["hd95"], preset=p)["hd95"] for p in PRESETS}
    assert found["medpy"] == 0  # among all distances a missed lesion disappears
    assert found["mist"] == found["brats2023"] == found["nnunet"] > 15
    assert found["monai"] > 15
    assert found["monai"] != found["mist"]


def test_the_presets_of_the_config_are_those_there_are():
    assert set(config.PRESETS) == set(PRESETS)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_fit_the_parameters_of_their_metrics(preset):
    for name, parameters in PRESETS[preset].items():
        assert choose({name: parameters})[name].parameters.items() >= parameters.items()


def test_the_definition_says_all_that_was_chosen():
    found = score(SOME, SOME, UNIT, ["haus95"], surface="voxel").definitions["haus95"]
    assert found == (
        "percentile=95.0 surface=voxel directions=max_of_directed "
        "both_empty=best reference_empty=worst prediction_empty=worst"
    )


def test_names_in_any_case_and_their_aliases():
    for name in ("dice", "DSC", "dsc", "Dice", "DICE", "DiceSimilarityCoefficient"):
        assert metric_of(name) is METRICS["dice"]
    assert set(ALIASES.values()) <= set(METRICS)
    assert not set(ALIASES) & set(METRICS)


def test_a_value_may_stand_in_the_name():
    asked = ["surf_dice@2", "surf_dice", "hausdorff@99", "nsd@0.5"]
    chosen = choose(asked)
    assert list(chosen) == asked
    assert [chosen[name].parameters["tolerance"] for name in ("surf_dice@2", "nsd@0.5")] == [2, 0.5]
    assert chosen["hausdorff@99"].parameters["percentile"] == 99


@pytest.mark.parametrize(
    ("metrics", "options", "expected"),
    [
        (["dyce"], {}, "dyce: expected the name of a metric, found 'dyce'. Did you mean dice?"),
        (["dice@2"], {}, "dice@2: expected the name of a metric"),
        (["surf_dice@x"], {}, "surf_dice@x: expected the name of a metric"),
        ({"dice": {"tolerance": 2.0}}, {}, "dice: expected parameters among both_empty"),
        ({"nsd": {"tolerance": -1}}, {}, "nsd.tolerance: expected a number of at least 0"),
        ({"nsd": {"tolerance": "2"}}, {}, "nsd.tolerance: expected a number of at least 0"),
        ({"hd95": {"percentile": 101}}, {}, "a number of at least 0 and at most 100"),
        ({"hd95": {"surface": "mesh"}}, {}, "hd95.surface: expected one of surfel, voxel"),
        ({"hd95": {"both_empty": "good"}}, {}, "or computed or best or worst or nan or diagonal"),
        ({"lesion_wise_f1": {"dilation_iters": 1.5}}, {}, "expected a whole number"),
        ({"nsd@2": {"tolerance": 1.0}}, {}, "nsd@2: expected tolerance once"),
        ("dyce", {}, "dyce: expected the name of a metric"),
        (["dice"], {"preset": "dicom"}, "preset: expected one of mist, brats2023"),
        (["dice"], {"tolerance": 2.0}, "options: expected parameters among both_empty"),
    ],
)
def test_mistakes_are_told(metrics, options, expected):
    with pytest.raises(ValueError, match="expected") as caught:
        choose(metrics, **options)
    assert expected in str(caught.value)


def test_all_mistakes_are_told_at_once():
    with pytest.raises(ValueError, match=r"dyce: .*nsd\.tolerance: .*preset: "):
        choose({"dyce": {}, "nsd": {"tolerance": -1}}, "dicom")


def test_options_are_for_the_metrics_that_have_them():
    chosen = choose(["dice", "haus95", "masd"], surface="voxel")
    assert chosen["haus95"].parameters["surface"] == "voxel"
    assert "surface" not in chosen["dice"].parameters


@pytest.mark.parametrize(
    ("column", "parts"),
    [
        ("organ_dice", ("organ", "dice")),
        ("organ_surf_dice", ("organ", "surf_dice")),
        ("tumor_core_lesion_wise_surf_dice@2", ("tumor_core", "lesion_wise_surf_dice@2")),
        ("organ_DSC", ("organ", "DSC")),
        ("organ_volume", None),
        ("dice", None),
    ],
)
def test_columns_are_split_into_class_and_metric(column, parts):
    assert split_column(column) == parts


def test_every_metric_has_a_direction_that_fits_its_values():
    for name, metric in METRICS.items():
        worst = np.inf if metric.worst == "diagonal" else metric.worst
        if not np.isnan([metric.best, worst]).any():
            assert (metric.better == "higher") == (metric.best > worst), name
        assert not metric.main or metric.main in metric.parameters


@pytest.mark.parametrize("kind", [np.uint8, float])
def test_masks_that_are_no_booleans_are_refused(kind):
    with pytest.raises(ValueError, match="expected boolean masks"):
        score(SOME.astype(kind), SOME, UNIT, ["dice"])


@pytest.mark.parametrize(
    ("other", "spacing", "expected"),
    [
        (SOME[:, :, :5], UNIT, "two arrays of one shape"),
        (SOME, (1.0, 1.0), "a spacing above 0 mm for each of 3 axes"),
        (SOME, (1.0, 1.0, 0.0), "a spacing above 0 mm"),
        (SOME, (1.0, np.nan, 1.0), "a spacing above 0 mm"),
        (SOME, (1.0, np.inf, 1.0), "a spacing above 0 mm"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(other, spacing, expected):
    with pytest.raises(ValueError, match=expected):
        score(SOME, other, spacing, ["dice"])


def test_distances_need_two_axes():
    line = np.array([True, False])
    with pytest.raises(ValueError, match="2 or 3 axes"):
        score(line, line, (1.0,), ["haus95"])


def test_the_example_of_the_docs_prints_what_it_says(capsys):
    text = (ROOT / "docs/metrics.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    exec(code, {})
    printed = capsys.readouterr().out.splitlines()
    said = [line.split("# ")[1] for line in code.splitlines() if line.startswith("print")]
    assert len(printed) == len(said) == 3
    for found, expected in zip(printed, said, strict=True):
        for part in expected.split("..."):  # in whose place stands more
            assert part.strip() in found


def test_the_docs_name_every_metric_and_alias():
    text = (ROOT / "docs/metrics.md").read_text()
    table = text.split("## Names")[1].split("## Lesion")[0].lower()
    named = set(re.findall(r"`(\w+)`", table))
    assert METRICS.keys() <= named
    assert ALIASES.keys() <= named


@pytest.mark.parametrize("kind", [np.uint64, np.int64])
def test_large_labels_are_told_apart(kind):
    labels = np.zeros((3, 4), kind)
    labels[0, 0], labels[2, 3] = 2**62 + 1, 2**62 + 2
    pair = LabelPair(labels, labels, (1.0, 1.0))
    assert pair.structure([2**62 + 1]).counts.tp == 1
    with pytest.raises(ValueError, match="labels from 0 to"):
        LabelPair(labels.astype(np.uint64) * 3, labels, (1.0, 1.0))
