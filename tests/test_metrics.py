"""Scores of one structure: by hand, by law, and against the library that defined them."""

import numpy as np
import pytest
import surface_distance
from conftest import ball, grid
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from mist_core.metrics import METRICS, Metric, SurfaceDistances, score
from mist_core.metrics.distances import avg_surf, hausdorff, surf_dice

UNIT = (1.0, 1.0, 1.0)


def _bound(metric):
    return 0.0 if metric.worst == "diagonal" else metric.worst


ALL = {"dice": {}, "haus95": {}, "avg_surf": {}, "surf_dice": {"tolerance": 1.0}}
BOUNDED = [name for name, m in METRICS.items() if not np.isnan([m.best, _bound(m)]).any()]
OF_BACKGROUND = ("specificity", "accuracy", "balanced_accuracy", "auc", "kappa", "ari", "mcc", "tn")
# Centre lines depend on where thinning begins.
STORED_ANYHOW = [name for name in METRICS if name != "cldice"]
# A miss costs as much as the diagonal of the image.
LOCAL = [n for n in STORED_ANYHOW if n not in OF_BACKGROUND and n != "lesion_wise_haus95"]
ONE_SIDED = ("sensitivity", "specificity", "precision", "balanced_accuracy", "auc")
SYMMETRIC = [
    name
    for name in BOUNDED
    if name not in ONE_SIDED and not name.startswith("lesion_wise") and name not in ("tp", "tn")
]
spacings = st.tuples(*[st.sampled_from([0.5, 1.0, 1.3, 3.0])] * 3)
two_masks = array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=5).flatmap(
    lambda shape: st.tuples(arrays(bool, shape), arrays(bool, shape))
)


def box(shape, *slices):
    mask = np.zeros(shape, bool)
    mask[slices] = True
    return mask


class Known:
    """A pair of masks of which only the distances between the surfaces are known."""

    def __init__(self, there, there_areas, back=(0.0,), back_areas=(1.0,)):
        self.found = SurfaceDistances(*map(np.array, (there, there_areas, back, back_areas)))

    def surfaces(self, surface):
        return self.found


def blobs(seed, shape=(14, 16, 18)):
    """A random mask that is neither dust nor a single ball."""
    noise = np.random.default_rng(seed).normal(size=shape)
    smooth = sum(np.roll(noise, k, axis) for axis in range(3) for k in (-1, 0, 1))
    return smooth > 3


def haus95(pair, **parameters):
    return hausdorff(pair, 95, **parameters)


def test_dice_counts_voxels():
    first = np.array([1, 1, 1, 0, 0], bool)
    second = np.array([0, 1, 1, 1, 1], bool)
    assert score(first, second, (1.0,), ["dice"])["dice"] == pytest.approx(2 * 2 / (3 + 4))


def test_haus95_is_the_distance_within_which_lies_95_percent_of_the_area():
    distances = [0.0, 1.0, 5.0]
    assert haus95(Known(distances, [90.0, 5.0, 5.0])) == 1
    assert haus95(Known(distances, [90.0, 4.0, 6.0])) == 5
    assert haus95(Known(distances, [96.0, 2.0, 2.0])) == 0


def test_haus95_is_the_larger_of_both_directions():
    assert haus95(Known([1.0], [1.0], [7.0], [1.0])) == 7
    assert haus95(Known([7.0], [1.0], [1.0], [1.0])) == 7


def test_avg_surf_pools_both_directions_by_area():
    found = avg_surf(Known([0.0, 2.0], [1.0, 3.0], [4.0], [6.0]))
    assert found == pytest.approx((0 * 1 + 2 * 3 + 4 * 6) / (1 + 3 + 6))


def test_surf_dice_counts_what_lies_at_the_tolerance():
    found = Known([0.0, 1.0, 2.0], [1.0, 2.0, 3.0], [1.5], [4.0])
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

    def spy(pair):
        seen.append(pair.surfaces("surfel"))
        return 0.0

    for name in ("one", "two"):
        monkeypatch.setitem(METRICS, name, Metric(spy, "lower", 0.0, "diagonal"))
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
    there, back = score(*two, spacing, SYMMETRIC), score(*two[::-1], spacing, SYMMETRIC)
    assert there == pytest.approx(back)


@given(two_masks, spacings)
def test_scores_lie_between_the_best_and_the_worst(two, spacing):
    diagonal = np.linalg.norm(np.multiply(two[0].shape, spacing))
    for name, value in score(*two, spacing, BOUNDED).items():
        metric = METRICS[name]
        worst = diagonal if metric.worst == "diagonal" else metric.worst
        low, high = sorted([metric.best, worst])
        assert low <= value <= high


@given(two_masks, spacings)
def test_a_mask_agrees_with_itself(two, spacing):
    # Lesions near each other, each matched with both, are only alike when they are consolidated.
    found = score(two[0], two[0], spacing, BOUNDED, gt_consolidation_iters=3)
    for name, value in found.items():
        assert value == pytest.approx(METRICS[name].best), name


@given(two_masks, spacings, st.tuples(*[st.booleans()] * 3), st.permutations([0, 1, 2]))
def test_scores_do_not_depend_on_how_the_arrays_are_stored(two, spacing, flips, order):
    axes = tuple(axis for axis in range(3) if flips[axis])
    moved = [np.flip(mask.transpose(order), axes) for mask in two]
    there = score(*moved, tuple(spacing[axis] for axis in order), STORED_ANYHOW)
    assert there == pytest.approx(score(*two, spacing, STORED_ANYHOW), nan_ok=True)


@given(two_masks, st.tuples(*[st.tuples(st.integers(0, 3), st.integers(0, 3))] * 3))
def test_background_around_two_structures_changes_nothing(two, margins):
    assume(two[0].any() and two[1].any())
    padded = [np.pad(mask, margins) for mask in two]
    assert score(*padded, UNIT, LOCAL) == pytest.approx(score(*two, UNIT, LOCAL), nan_ok=True)


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
    near, far = (score(*two, spacing, ["nsd"], tolerance=t)["nsd"] for t in (low, high))
    assert near <= far


@given(two_masks, spacings, st.sampled_from(["surfel", "voxel"]))
def test_no_percentile_is_above_the_hausdorff_distance(two, spacing, surface):
    found = score(*two, spacing, ["haus95", "hausdorff@50", "hd"], surface=surface)
    assert found["hausdorff@50"] <= found["haus95"] <= found["hd"]
