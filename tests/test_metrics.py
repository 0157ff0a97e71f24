"""Scores of one structure: by hand, by law, and against the library that defined them."""

import json

import numpy as np
import pytest
import surface_distance
from conftest import ball, grid
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from mist_core import metrics
from mist_core.distance import SurfaceDistances, surface_distances
from mist_core.metrics import METRICS, Metric, avg_surf, dice, haus95, score, surf_dice

UNIT = (1.0, 1.0, 1.0)
ALL = {"dice": {}, "haus95": {}, "avg_surf": {}, "surf_dice": {"tolerance": 1.0}}
spacings = st.tuples(*[st.sampled_from([0.5, 1.0, 1.3, 3.0])] * 3)
two_masks = array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=5).flatmap(
    lambda shape: st.tuples(arrays(bool, shape), arrays(bool, shape))
)


def box(shape, *slices):
    mask = np.zeros(shape, bool)
    mask[slices] = True
    return mask


def surfaces(there, there_areas, back=(0.0,), back_areas=(1.0,)):
    return SurfaceDistances(*map(np.array, (there, there_areas, back, back_areas)))


def blobs(seed, shape=(14, 16, 18)):
    """A random mask that is neither dust nor a single ball."""
    noise = np.random.default_rng(seed).normal(size=shape)
    smooth = sum(np.roll(noise, k, axis) for axis in range(3) for k in (-1, 0, 1))
    return smooth > 3


def test_dice_counts_voxels():
    first = np.array([1, 1, 1, 0, 0], bool)
    second = np.array([0, 1, 1, 1, 1], bool)
    assert dice(first, second) == pytest.approx(2 * 2 / (3 + 4))


def test_haus95_is_the_distance_within_which_lies_95_percent_of_the_area():
    distances = [0.0, 1.0, 5.0]
    assert haus95(surfaces(distances, [90.0, 5.0, 5.0])) == 1
    assert haus95(surfaces(distances, [90.0, 4.0, 6.0])) == 5
    assert haus95(surfaces(distances, [96.0, 2.0, 2.0])) == 0


def test_haus95_is_the_larger_of_both_directions():
    assert haus95(surfaces([1.0], [1.0], [7.0], [1.0])) == 7
    assert haus95(surfaces([7.0], [1.0], [1.0], [1.0])) == 7


def test_avg_surf_pools_both_directions_by_area():
    found = avg_surf(surfaces([0.0, 2.0], [1.0, 3.0], [4.0], [6.0]))
    assert found == pytest.approx((0 * 1 + 2 * 3 + 4 * 6) / (1 + 3 + 6))


def test_surf_dice_counts_what_lies_at_the_tolerance():
    found = surfaces([0.0, 1.0, 2.0], [1.0, 2.0, 3.0], [1.5], [4.0])
    assert surf_dice(found) == pytest.approx(3 / 10)
    assert surf_dice(found, tolerance=1.5) == pytest.approx(7 / 10)
    assert surf_dice(found, tolerance=0.0) == pytest.approx(1 / 10)


def test_two_voxels_two_apart():
    shape = (3, 3, 9)
    scores = score(box(shape, 1, 1, 2), box(shape, 1, 1, 4), (3.0, 2.0, 1.0), ALL)
    assert scores == pytest.approx({"dice": 0, "haus95": 2, "avg_surf": 1.5, "surf_dice": 0.5})
    assert scores.status == "ok"


def test_spacing_goes_with_the_array_axes():
    shape = (8, 8, 8)
    for axis, step in enumerate((1.0, 2.0, 4.0)):
        moved = [3, 3, 3]
        moved[axis] = 4
        scores = score(box(shape, 3, 3, 3), box(shape, *moved), (1.0, 2.0, 4.0), ALL)
        assert scores["haus95"] == step


@pytest.mark.parametrize("missed", [True, False])
def test_a_missed_or_invented_structure_is_worth_the_worst(missed):
    empty, full = np.zeros((100, 100, 100), bool), box((100, 100, 100), 5, 6, slice(7, 9))
    pair = (full, empty) if missed else (empty, full)
    scores = score(*pair, (0.5, 0.5, 0.5), ALL)
    assert scores["haus95"] == scores["avg_surf"] == pytest.approx(86.60, abs=0.01)
    assert scores["dice"] == scores["surf_dice"] == 0
    assert scores.status == ("prediction_empty" if missed else "reference_empty")


def test_a_structure_absent_from_both_is_worth_the_best():
    empty = np.zeros((4, 5, 6), bool)
    scores = score(empty, empty, UNIT, ALL)
    assert scores == {"dice": 1, "haus95": 0, "avg_surf": 0, "surf_dice": 1}
    assert scores.status == "both_empty"


@given(st.tuples(*[st.integers(0, 9)] * 3))
def test_the_penalty_is_the_diagonal_of_the_image_wherever_the_structure_lies(place):
    shape, spacing = (10, 20, 30), (3.0, 2.0, 1.0)
    scores = score(np.zeros(shape, bool), box(shape, *place), spacing, ALL)
    assert scores["haus95"] == pytest.approx(np.sqrt(30**2 + 40**2 + 30**2))


def test_surfaces_are_found_once_for_all_metrics(monkeypatch):
    seen = []

    def spy(found):
        seen.append(found)
        return 0.0

    for name in ("one", "two"):
        monkeypatch.setitem(METRICS, name, Metric(spy, "surfaces", False, 0.0, "diagonal"))
    masks = box((4, 4, 4), 1, 1, 1), box((4, 4, 4), 2, 2, 2)
    score(*masks, UNIT, {"one": {}, "dice": {}, "two": {}})
    assert len(seen) == 2
    assert seen[0] is seen[1]


def test_only_what_was_asked_for_is_computed_in_that_order():
    mask = box((4, 4, 4), 1, 1, 1)
    for names in (["surf_dice", "dice"], ["dice"], ["haus95", "avg_surf"]):
        assert list(score(mask, mask, UNIT, {name: {} for name in names})) == names


def test_parameters_reach_their_metric():
    first, second = box((3, 3, 9), 1, 1, 2), box((3, 3, 9), 1, 1, 4)
    found = score(first, second, UNIT, {"surf_dice": {"tolerance": 2.0}})
    assert found["surf_dice"] == 1


def test_a_small_missed_lesion_moves_haus95_when_it_is_more_than_a_twentieth_of_the_surface():
    large = ball(grid((30, 30, 30))).array > 0
    reference = np.concatenate([large, np.zeros_like(large)], axis=2)
    prediction = reference.copy()
    reference[10:17, 10:17, 50:57] = True
    assert score(reference, prediction, UNIT, ALL)["haus95"] > 20
    reference[...] = prediction
    reference[15, 15, 55] = True
    assert score(reference, prediction, UNIT, ALL)["haus95"] == 0


def expand(shape, operations, reference=None):
    """The mask that a recipe of metric-cases.json describes."""
    mask = np.zeros(shape, int)
    for op in operations:
        if op["kind"] == "box":
            place = tuple(map(slice, op["lo"], op["hi"]))
            mask[place] = op.get("value", 1)
        elif op["kind"] == "ellipsoid":
            axes = (op["center"], op.get("spacing", [1, 1, 1]), op["radii"])
            centre, spacing, radii = (np.reshape(values, (3, 1, 1, 1)) for values in axes)
            distance = (((np.indices(shape) - centre) * spacing / radii) ** 2).sum(axis=0)
            mask[distance <= 1] = op.get("value", 1)
        elif op["kind"] == "copy_gt":
            mask = reference.copy()
        else:
            raise ValueError(op["kind"])
    return mask


KEYS = {
    "dice": "dice",
    "haus95": "hd95_surfel",
    "avg_surf": "avg_surf_surfel_pooled",
    "surf_dice": "nsd_surfel@1",
}


def test_scores_are_those_of_the_reference_table(shared):
    cases = json.loads((shared / "reference/metric-cases.json").read_text())["cases"]
    fitting = [
        case
        for case in cases
        if len(case.get("shape", ())) == 3 and set(KEYS.values()) <= set(case["expected"])
    ]
    assert len(fitting) >= 9
    for case in fitting:
        reference = expand(case["shape"], case["gt"])
        prediction = expand(case["shape"], case["pred"], reference)
        scores = score(reference > 0, prediction > 0, tuple(map(float, case["spacing"])), ALL)
        expected = {name: case["expected"][key] for name, key in KEYS.items()}
        assert scores == pytest.approx(expected, rel=1e-6, abs=1e-9), case["id"]


def test_label_lists_of_the_reference_table_give_their_dice(shared):
    cases = json.loads((shared / "reference/metric-cases.json").read_text())["cases"]
    case = next(c for c in cases if c["id"] == "noncontiguous_labels")
    reference, prediction = (expand(case["shape"], case[key]) for key in ("gt", "pred"))
    for label, expected in case["expected"].items():
        found = score(reference == int(label), prediction == int(label), UNIT, {"dice": {}})
        assert found["dice"] == pytest.approx(expected["dice"]), label


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 2.0, 1.0), (0.7, 5.0, 0.7)])
@pytest.mark.parametrize("seed", range(4))
def test_surface_scores_are_those_of_the_reference_library(seed, spacing):
    first, second = blobs(seed), blobs(seed + 100)
    there = surface_distance.compute_surface_distances(first, second, spacing)
    total = there["distances_gt_to_pred"] @ there["surfel_areas_gt"]
    total += there["distances_pred_to_gt"] @ there["surfel_areas_pred"]
    areas = there["surfel_areas_gt"].sum() + there["surfel_areas_pred"].sum()
    scores = score(first, second, spacing, ALL)
    expected = {
        "haus95": surface_distance.compute_robust_hausdorff(there, 95),
        "avg_surf": total / areas,
        "surf_dice": surface_distance.compute_surface_dice_at_tolerance(there, 1.0),
        "dice": surface_distance.compute_dice_coefficient(first, second),
    }
    assert scores == pytest.approx(expected, abs=1e-9, rel=1e-9)


@given(two_masks, spacings)
def test_scores_do_not_depend_on_which_mask_is_the_reference(two, spacing):
    there, back = score(*two, spacing, ALL), score(*two[::-1], spacing, ALL)
    assert there == pytest.approx(back)


@given(two_masks, spacings)
def test_scores_lie_between_the_best_and_the_worst(two, spacing):
    diagonal = np.linalg.norm(np.multiply(two[0].shape, spacing))
    for name, value in score(*two, spacing, ALL).items():
        metric = METRICS[name]
        worst = diagonal if metric.worst == "diagonal" else metric.worst
        low, high = sorted([metric.best, worst])
        assert low <= value <= high


@given(two_masks, spacings)
def test_a_mask_agrees_with_itself(two, spacing):
    for name, value in score(two[0], two[0], spacing, ALL).items():
        assert value == METRICS[name].best


@given(two_masks, spacings, st.tuples(*[st.booleans()] * 3), st.permutations([0, 1, 2]))
def test_scores_do_not_depend_on_how_the_arrays_are_stored(two, spacing, flips, order):
    axes = tuple(axis for axis in range(3) if flips[axis])
    moved = [np.flip(mask.transpose(order), axes) for mask in two]
    there = score(*moved, tuple(spacing[axis] for axis in order), ALL)
    assert there == pytest.approx(score(*two, spacing, ALL))


@given(two_masks, st.tuples(*[st.tuples(st.integers(0, 3), st.integers(0, 3))] * 3))
def test_background_around_two_structures_changes_nothing(two, margins):
    assume(two[0].any() and two[1].any())
    padded = [np.pad(mask, margins) for mask in two]
    assert score(*padded, UNIT, ALL) == pytest.approx(score(*two, UNIT, ALL))


@given(two_masks, spacings)
def test_distances_double_with_the_voxel_and_shares_do_not(two, spacing):
    small = score(*two, spacing, ALL | {"surf_dice": {"tolerance": 1.0}})
    double = tuple(2 * s for s in spacing)
    large = score(*two, double, ALL | {"surf_dice": {"tolerance": 2.0}})
    assert large["haus95"] == pytest.approx(2 * small["haus95"])
    assert large["avg_surf"] == pytest.approx(2 * small["avg_surf"])
    assert large["surf_dice"] == pytest.approx(small["surf_dice"])
    assert large["dice"] == small["dice"]


@given(two_masks, spacings, st.floats(0, 5), st.floats(0, 5))
def test_a_larger_tolerance_never_lowers_surf_dice(two, spacing, first, second):
    low, high = sorted([first, second])
    assume(two[0].any() and two[1].any())
    found = surface_distances(*two, spacing)
    assert surf_dice(found, low) <= surf_dice(found, high)


def test_every_metric_has_a_direction_that_fits_its_best_value():
    for metric in metrics.METRICS.values():
        worst = np.inf if metric.worst == "diagonal" else metric.worst
        assert metric.higher_is_better == (metric.best > worst)
