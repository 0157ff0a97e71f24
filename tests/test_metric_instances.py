"""Lesions and other instances: components, dilation, matching, scores."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from mist_core.io import read_labels
from mist_core.metrics import LabelPair, choose, fallback, score, scores_of
from mist_core.metrics.instances import _best_matching, dilated, panoptic

kernels = pytest.importorskip("mist_core.metrics.kernels")
UNIT = (1.0, 1.0, 1.0)
masks = arrays(bool, array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=7))
LESIONS = {"min_lesion_volume": 0.0, "dilation_iters": 1}


def boxes(*places, shape=(40, 40, 40)):
    """A mask with boxes from ``low`` to before ``high``."""
    mask = np.zeros(shape, bool)
    for low, high in places:
        mask[tuple(map(slice, low, high))] = True
    return mask


LARGE = ((5, 5, 5), (12, 12, 12))
SMALL = ((30, 30, 30), (32, 32, 32))  # 8 mm3


@given(masks, st.sampled_from([6, 18, 26]))
def test_components_are_those_of_scipy(mask, connectivity):
    reach = {6: 1, 18: 2, 26: 3}[connectivity]
    expected, n = ndimage.label(mask, ndimage.generate_binary_structure(3, reach))
    for code in (kernels, fallback):
        numbers, low, high, sizes = code.connected_components(mask.view(np.uint8), connectivity)
        pairs = set(zip(numbers.ravel().tolist(), expected.ravel().tolist(), strict=True))
        assert len(pairs - {(0, 0)}) == n == numbers.max() == len(sizes) - 1
        for number, box in enumerate(ndimage.find_objects(numbers.view(np.int32)), start=1):
            assert box == tuple(map(slice, low[number].tolist(), high[number].tolist()))
            assert sizes[number] == np.count_nonzero(numbers == number)


@given(masks, st.integers(1, 3))
def test_dilation_is_that_of_scipy(mask, iterations):
    across = ndimage.generate_binary_structure(3, 2)
    expected = ndimage.binary_dilation(mask, across, iterations)
    for code in (kernels, fallback):
        found = code.dilated(mask.view(np.uint8), iterations)
        np.testing.assert_array_equal(found.view(bool), expected)


def test_no_dilation_leaves_a_mask_as_it_is():
    mask = boxes(SMALL)
    np.testing.assert_array_equal(dilated(mask, 0), mask)


def lesion_scores(reference, prediction, spacing=UNIT, **parameters):
    names = ("dice", "haus95", "surf_dice", "f1")
    asked = {f"lesion_wise_{name}": LESIONS | parameters for name in names}
    found = score(reference, prediction, spacing, asked)
    return {name: found[f"lesion_wise_{name}"] for name in names}


def test_a_perfect_prediction_is_perfect_however_small_its_lesions_are():
    for reference in (boxes(SMALL), boxes(LARGE, SMALL), boxes()):
        found = lesion_scores(reference, reference, min_lesion_volume=10.0)
        assert found == {"dice": 1, "haus95": 0, "surf_dice": 1, "f1": 1}


def test_a_small_lesion_absorbs_what_was_predicted_for_it():
    found = lesion_scores(boxes(LARGE, SMALL), boxes(LARGE, SMALL), min_lesion_volume=10.0)
    assert found["f1"] == 1
    invented = lesion_scores(boxes(LARGE), boxes(LARGE, SMALL), min_lesion_volume=10.0)
    assert invented["f1"] == pytest.approx(2 / 3)


def test_a_lesion_of_just_the_volume_is_not_counted():
    reference, missed = boxes(LARGE, SMALL), boxes(LARGE)
    assert lesion_scores(reference, missed, min_lesion_volume=8.0)["dice"] == 1
    assert lesion_scores(reference, missed, min_lesion_volume=7.9)["dice"] == 0.5


def test_volume_is_in_mm3():
    reference, missed = boxes(LARGE, SMALL), boxes(LARGE)
    found = lesion_scores(reference, missed, (2.0, 1.0, 1.0), min_lesion_volume=10.0)
    assert found["dice"] == 0.5  # 8 voxels of 2 mm3


@pytest.mark.parametrize("other", [(), (LARGE,)])
def test_a_false_positive_costs_the_same_wherever_else_a_lesion_is(other):
    found = lesion_scores(boxes(*other), boxes(*other, SMALL))
    n = len(other) + 1
    assert found["haus95"] == pytest.approx(np.sqrt(3 * 40**2) / n)
    assert found["dice"] == pytest.approx(len(other) / n)


def test_no_dilation_means_none():
    far = ((20, 20, 20), (24, 24, 24))
    found = lesion_scores(boxes(LARGE), boxes(far), dilation_iters=0)
    assert found["f1"] == 0
    beside = ((5, 5, 12), (12, 12, 14))
    assert lesion_scores(boxes(LARGE), boxes(beside), dilation_iters=0)["f1"] == 0
    assert lesion_scores(boxes(LARGE), boxes(beside), dilation_iters=1)["f1"] == 1


def test_cubes_that_touch_at_a_corner_are_one_lesion():
    reference = boxes(((5, 5, 5), (8, 8, 8)), ((8, 8, 8), (11, 11, 11)))
    prediction = boxes(((5, 5, 5), (8, 8, 8)))
    assert lesion_scores(reference, prediction)["f1"] == 1
    assert lesion_scores(reference, prediction, connectivity=18)["f1"] == pytest.approx(2 / 3)


def test_lesions_near_each_other_are_one_when_they_are_consolidated():
    near = ((5, 5, 15), (12, 12, 20))  # 3 voxels from the large one
    reference, prediction = boxes(LARGE, near), boxes(LARGE)
    assert lesion_scores(reference, prediction)["dice"] == 0.5
    both = lesion_scores(reference, prediction, gt_consolidation_iters=2)
    assert both["dice"] == pytest.approx(2 * 343 / (343 + 343 + 245))
    assert lesion_scores(reference, prediction, gt_consolidation_iters=1)["dice"] == 0.5


def test_a_penalty_may_be_a_number():
    found = score(
        boxes(LARGE), boxes(), UNIT, {"lesion_wise_haus95": {"penalty": 374.0, "dilation_iters": 3}}
    )
    assert found["lesion_wise_haus95"] == 374


def test_lesions_in_two_dimensions():
    reference = np.zeros((30, 30), bool)
    reference[3:8, 3:8] = reference[20:25, 20:25] = True
    prediction = reference.copy()
    prediction[20:, 20:] = False
    found = score(reference, prediction, (1.0, 2.0), ["lesion_wise_dice", "lesion_wise_haus95"])
    assert found["lesion_wise_dice"] == 0.5
    assert found["lesion_wise_haus95"] == pytest.approx(np.hypot(30, 60) / 2)


def test_one_lesion_is_scored_as_the_whole_mask_in_two_dimensions():
    reference = np.zeros((40, 40), bool)
    reference[5:25, 5:25] = True
    moved = np.roll(reference, 6, 1)
    for surface in ("surfel", "voxel"):
        asked = ["haus95", "surf_dice", "lesion_wise_haus95", "lesion_wise_surf_dice"]
        found = score(reference, moved, (1.0, 1.0), asked, surface=surface)
        assert found["lesion_wise_haus95"] == found["haus95"]
        assert found["lesion_wise_surf_dice"] == found["surf_dice"]


def test_a_penalty_of_nothing_is_nothing():
    found = score(boxes(LARGE), boxes(), UNIT, {"lesion_wise_haus95": {"penalty": 0}})
    assert found["lesion_wise_haus95"] == 0


def test_panoptic_quality_by_hand():
    reference = boxes(((0, 0, 0), (10, 10, 1)), ((0, 20, 0), (10, 30, 1)), shape=(40, 40, 1))
    prediction = boxes(((0, 0, 0), (10, 6, 1)), ((25, 25, 0), (29, 29, 1)), shape=(40, 40, 1))
    found = score(reference, prediction, UNIT, ["pq", "rq", "sq"])
    assert found == pytest.approx({"pq": 0.5 * 0.6, "rq": 0.5, "sq": 0.6})
    assert score(reference, prediction, UNIT, ["pq@0.7"])["pq@0.7"] == 0


def test_instances_match_one_to_one_also_when_two_fit():
    reference = np.array([1] * 10)
    prediction = np.array([1] * 5 + [2] * 5)
    found = panoptic(reference, prediction)
    assert found.ious == (0.5,)
    assert found.recognition_quality == pytest.approx(2 / 3)


def test_of_all_matchings_the_best_is_taken():
    # The largest IoU is that of 1 with 1, 4/9, but then nothing is left for the others.
    reference = np.array([1] * 6 + [2] * 3)
    prediction = np.array([1] * 4 + [2] * 2 + [1] * 3)
    found = panoptic(reference, prediction, threshold=0.1)
    assert sorted(found.ious) == pytest.approx([2 / 6, 3 / 7])


@given(arrays(float, (5, 6), elements=st.sampled_from([0.0, 0.0, 0.0, 0.2, 0.3, 0.5, 0.9])))
def test_matching_in_groups_is_as_good_as_all_at_once(table):
    rows, columns = np.nonzero(table)
    found = _best_matching(rows, columns, table[rows, columns])
    assert sum(found) == pytest.approx(table[linear_sum_assignment(table, maximize=True)].sum())


def test_without_instances_there_is_nothing_to_miss():
    empty = np.zeros(5, int)
    assert panoptic(empty, empty).panoptic_quality == 1
    assert panoptic(empty, np.arange(5)).panoptic_quality == 0
    assert panoptic(np.arange(5), empty).recognition_quality == 0


def spine(shared, kind):
    """Reference and prediction of a sagittal MRI."""
    return [read_labels(shared / f"data/spine/{kind}/{name}.nii.gz") for name in ("ref", "pred")]


def test_vertebrae_that_are_numbered_match_as_in_panoptica(shared):
    reference, prediction = spine(shared, "unmatched_instance")
    found = panoptic(reference.array, prediction.array)
    assert (len(found.ious), found.n_reference, found.n_prediction) == (19, 22, 22)
    assert found.recognition_quality == pytest.approx(0.8636363636363636)
    assert found.segmentation_quality == pytest.approx(0.8328184295330797)
    assert found.panoptic_quality == pytest.approx(0.7192522800512962)


PANOPTICA = {  # 2.1.7, components, IoU of 0.5: recognition and segmentation quality
    26: (1.0, 0.941415733208399),
    41: (0.5882352941176471, 0.7453026309758896),
    43: (0.9090909090909091, 0.7694006578006064),
    49: (1.0, 0.9433935397162554),
    60: (0.0, 0.0),
    61: (0.0, 0.0),
    100: (1.0, 0.8897861147389462),
}


def test_components_of_each_label_match_as_in_panoptica(shared):
    reference, prediction = spine(shared, "semantic")
    pair = LabelPair(reference.array, prediction.array, reference.geometry.spacing)
    for label, expected in PANOPTICA.items():
        found = scores_of(pair.structure([label]), choose(["rq", "sq"]))
        assert tuple(found.values()) == pytest.approx(expected), label
