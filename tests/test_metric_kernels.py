"""The compiled loops and what stands in for them: the same numbers, and the right ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.ndimage import distance_transform_edt
from scipy.spatial.distance import cdist

from mist_core.metrics import backend, fallback, score

kernels = pytest.importorskip("mist_core.metrics.kernels")
BOTH = pytest.mark.parametrize("code", [kernels, fallback], ids=["numba", "scipy"])
spacings = st.tuples(*[st.sampled_from([0.5, 1.0, 1.3, 3.0])] * 3)
shapes = array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=12)
two_label_maps = st.tuples(shapes, st.sampled_from([np.uint8, np.uint16])).flatmap(
    lambda asked: st.tuples(*[arrays(asked[1], asked[0], elements=st.integers(0, 3))] * 2)
)
two_masks = shapes.flatmap(lambda shape: st.tuples(arrays(bool, shape), arrays(bool, shape)))


@BOTH
def test_pairs_of_labels_and_boxes_by_hand(code):
    reference = np.zeros((2, 3, 9), np.uint8)
    prediction = np.zeros_like(reference)
    reference[0, 1, 2:5], prediction[0, 1, 3:8] = 1, 2
    prediction[1, 2, 8] = 1
    histogram, low, high = code.joint_histogram(reference, prediction, 3)
    assert histogram.tolist() == [[47, 1, 3], [1, 0, 2], [0, 0, 0]]
    assert (low[1].tolist(), high[1].tolist()) == ([0, 1, 2], [2, 3, 9])
    assert (low[2].tolist(), high[2].tolist()) == ([0, 1, 3], [1, 2, 8])


@given(two_label_maps)
def test_both_count_the_same(maps):
    found, expected = (code.joint_histogram(*maps, 4) for code in (kernels, fallback))
    np.testing.assert_array_equal(found[0], expected[0])
    present = np.union1d(*maps)
    for f, e in zip(found[1:], expected[1:], strict=True):
        np.testing.assert_array_equal(f[present[present > 0]], e[present[present > 0]])
    counted = np.histogram2d(*(m.ravel() for m in maps), bins=np.arange(5) - 0.5)[0]
    np.testing.assert_array_equal(found[0], counted)


@BOTH
@given(codes=arrays(np.uint8, shapes, elements=st.sampled_from([0, 1, 128, 254, 255])))
def test_the_border_is_what_is_neither_inside_nor_outside(code, codes):
    points, kinds = code.border(codes)
    assert points.tolist() == [i for i, c in enumerate(codes.ravel()) if 0 < c < 255]
    assert (kinds == codes.ravel()[points]).all()


def places(flat, shape, spacing):
    return np.stack(np.unravel_index(flat, shape), axis=1) * spacing


@BOTH
@given(masks=two_masks, spacing=spacings)
def test_distances_are_those_of_all_pairs(code, masks, spacing):
    shape = masks[0].shape
    points, targets = map(np.flatnonzero, masks)
    found = code.nearest(points, targets, shape, spacing)
    if targets.size == 0:
        assert np.isinf(found).all()
    elif points.size:
        expected = cdist(places(points, shape, spacing), places(targets, shape, spacing))
        np.testing.assert_allclose(found, expected.min(axis=1), rtol=1e-12, atol=0)


@BOTH
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 0.7, 0.8), (0.5, 3.0, 1.0)])
@pytest.mark.parametrize("seed", range(3))
def test_distances_are_exact_however_far_the_targets_are(code, spacing, seed):
    generator = np.random.default_rng(seed)
    shape = (45, 60, 70)
    targets = np.zeros(shape, bool)
    targets[tuple(generator.integers(0, n, 4) for n in shape)] = True
    points = np.sort(generator.choice(np.prod(shape), 5000, replace=False))
    found = code.nearest(points, np.flatnonzero(targets), shape, spacing)
    expected = distance_transform_edt(~targets, sampling=spacing).ravel()[points]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=0)


@BOTH
@pytest.mark.parametrize("limit", [0.9, 2.0, 40.0])
def test_distances_from_the_limit_on_are_infinite(code, limit):
    shape = (1, 5, 60)
    found = code.nearest(np.arange(300), np.array([0, 120]), shape, (1.0, 1.0, 1.0), limit)
    whole = code.nearest(np.arange(300), np.array([0, 120]), shape, (1.0, 1.0, 1.0))
    np.testing.assert_array_equal(found, np.where(whole < limit, whole, np.inf))


def without_numba(monkeypatch):
    for module in ("pairs", "surfaces", "instances"):
        monkeypatch.setattr(f"mist_core.metrics.{module}.backend", lambda: fallback)


def test_scores_are_the_same_without_numba(monkeypatch):
    generator = np.random.default_rng(5)
    masks = [generator.random((20, 18, 16)) < 0.03 for _ in range(2)]
    asked = {"dice": {}, "haus95": {}, "avg_surf": {}, "ahd": {}, "boundary_iou": {}, "nsd@2": {}}
    asked |= {"lesion_wise_surf_dice": {}, "pq": {}}
    compiled = score(*masks, (3.0, 1.0, 0.7), asked)
    without_numba(monkeypatch)
    assert score(*masks, (3.0, 1.0, 0.7), asked) == pytest.approx(compiled, rel=1e-12)


@BOTH
def test_rows_may_be_longer_than_16_bits_can_count(code):
    shape = (1, 2, 70_000)
    found = code.nearest(np.array([0]), np.array([139_999]), shape, (1.0, 1.0, 1.0))
    assert found.tolist() == [np.hypot(69_999, 1)]


@pytest.mark.parametrize("step", [0.1, 0.3, 0.7, 0.8, 0.9])
def test_what_lies_at_the_tolerance_is_within_it_in_both(step, monkeypatch):
    cube = np.zeros((15, 15, 15), bool)
    cube[3:10, 3:10, 3:10] = True
    moved = np.roll(cube, 2, 1)
    asked = {"surf_dice": {"tolerance": 2 * step}, "boundary_iou": {"width": 2 * step}}
    compiled = score(cube, moved, (step,) * 3, asked)
    assert compiled["surf_dice"] == 1
    without_numba(monkeypatch)
    assert score(cube, moved, (step,) * 3, asked) == compiled


def test_numba_is_used_where_it_is_installed():
    assert backend.backend() is kernels
