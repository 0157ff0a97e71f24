"""Surfels, their areas and the distances between them."""

import numpy as np
import pytest
import surface_distance
from conftest import ball, grid
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.ndimage import binary_dilation
from scipy.spatial.distance import cdist
from surface_distance import lookup_tables

from mist_core.distance import neighbour_codes, signed_distance_map, surfel_areas
from mist_core.metrics import surface_distances

SPACINGS = [(1.0, 1.0, 1.0), (3.0, 2.0, 1.0), (0.7, 0.7, 5.0)]
spacings = st.tuples(*[st.sampled_from([0.5, 1.0, 1.3, 3.0])] * 3)
masks = arrays(bool, array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=5))
two_masks = array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=5).flatmap(
    lambda shape: st.tuples(arrays(bool, shape), arrays(bool, shape))
)


def voxel(shape, *index):
    mask = np.zeros(shape, bool)
    mask[index] = True
    return mask


def pairs(distances, areas):
    """Distances with their areas, in an order that ties do not change."""
    return np.array(sorted(zip(distances.round(9), areas.round(9), strict=True)))


@pytest.mark.parametrize("spacing", SPACINGS)
def test_areas_of_all_codes_are_those_of_the_reference_library(spacing):
    expected = lookup_tables.create_table_neighbour_code_to_surface_area(spacing)
    np.testing.assert_allclose(surfel_areas(spacing), expected, rtol=1e-12, atol=0)


def test_a_flat_piece_has_the_area_of_a_voxel_face():
    areas = surfel_areas((2.0, 3.0, 5.0))
    # The four corners with i = 1 (codes 1 to 8), with j = 1, with k = 1.
    assert areas[[15, 51, 85]] == pytest.approx([15, 10, 6])
    assert areas[0] == areas[255] == 0
    assert (areas[1:255] > 0).all()


def test_codes_count_corners_from_the_last_axis_up():
    codes = neighbour_codes(np.ones((1, 1, 1), bool))
    assert codes.tolist() == [[[1, 2], [4, 8]], [[16, 32], [64, 128]]]


def test_codes_of_any_mask_are_those_of_its_eight_neighbours():
    mask = np.random.default_rng(0).random((4, 5, 6)) < 0.5
    padded = np.pad(mask, 1)
    for i, j, k in np.ndindex(5, 6, 7):
        corner = padded[i : i + 2, j : j + 2, k : k + 2].ravel()
        assert neighbour_codes(mask)[i, j, k] == corner @ (1 << np.arange(7, -1, -1))


def test_two_voxels_two_apart():
    first, second = voxel((3, 3, 7), 1, 1, 2), voxel((3, 3, 7), 1, 1, 4)
    found = surface_distances(first, second, (3.0, 2.0, 1.0))
    # Eight corners each; the nearer four are 1 mm away, the others 2 mm.
    assert found.reference_to_prediction.tolist() == [1, 1, 1, 1, 2, 2, 2, 2]
    assert found.prediction_to_reference.tolist() == [1, 1, 1, 1, 2, 2, 2, 2]
    corner = np.linalg.norm([2 * 1 / 8, 3 * 1 / 8, 3 * 2 / 8])
    np.testing.assert_allclose(found.reference_areas, corner)
    np.testing.assert_allclose(found.prediction_areas, corner)


def test_each_direction_is_measured_from_its_own_surface():
    small, large = np.zeros((1, 1, 20), bool), np.zeros((1, 1, 20), bool)
    small[..., 5:7], large[..., 5:17] = True, True
    found = surface_distances(small, large, (1.0, 1.0, 1.0))
    assert found.reference_to_prediction.max() == 0
    assert found.prediction_to_reference.max() == 10


def test_outside_the_image_is_background():
    full = np.ones((3, 4, 5), bool)
    inside = np.pad(full, 2)
    at_border, away = (surface_distances(m, m, (1.0, 2.0, 3.0)) for m in (full, inside))
    np.testing.assert_array_equal(at_border.reference_areas, away.reference_areas)
    assert at_border.reference_areas.size == 4 * 5 * 6 - 2 * 3 * 4  # corners but the inner ones


def test_distances_to_an_empty_mask_are_infinite():
    found = surface_distances(voxel((3, 3, 3), 1, 1, 1), np.zeros((3, 3, 3), bool), SPACINGS[0])
    assert found.reference_to_prediction.tolist() == [np.inf] * 8
    assert found.reference_areas.size == 8
    assert found.prediction_to_reference.size == found.prediction_areas.size == 0


def test_two_empty_masks_have_no_surface():
    empty = np.zeros((3, 3, 3), bool)
    found = vars(surface_distances(empty, empty, SPACINGS[0]))
    assert len(found) == 4
    assert all(array.size == 0 for array in found.values())


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.5, 1.0, 0.5)])
def test_the_surface_of_a_ball_is_near_that_of_the_formula(spacing):
    volume = ball(grid(tuple(int(40 / s) for s in spacing), spacing))
    found = surface_distances(volume.array > 0, volume.array > 0, spacing)
    assert found.reference_areas.sum() == pytest.approx(4 * np.pi * (0.35 * 40) ** 2, rel=0.12)


@given(two_masks, spacings)
def test_distances_are_those_to_the_nearest_of_all_surfels(two, spacing):
    assume(two[0].any() and two[1].any())
    corners = [np.argwhere((c > 0) & (c < 255)) * spacing for c in map(neighbour_codes, two)]
    table = cdist(*corners)
    found = surface_distances(*two, spacing)
    np.testing.assert_allclose(found.reference_to_prediction, np.sort(table.min(1)), atol=1e-9)
    np.testing.assert_allclose(found.prediction_to_reference, np.sort(table.min(0)), atol=1e-9)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("spacing", SPACINGS)
def test_distances_and_areas_are_those_of_the_reference_library(spacing):
    generator = np.random.default_rng(1)
    for share in (0.02, 0.3, 0.9):
        two = generator.random((2, 9, 10, 11)) < share
        found = surface_distances(*two, spacing)
        there = surface_distance.compute_surface_distances(*two, spacing)
        np.testing.assert_allclose(
            pairs(found.reference_to_prediction, found.reference_areas),
            pairs(there["distances_gt_to_pred"], there["surfel_areas_gt"]),
            atol=2e-9,
        )
        np.testing.assert_allclose(
            pairs(found.prediction_to_reference, found.prediction_areas),
            pairs(there["distances_pred_to_gt"], there["surfel_areas_pred"]),
            atol=2e-9,
        )


@given(two_masks, spacings, st.permutations([0, 1, 2]))
def test_axes_may_be_permuted_with_their_spacing(two, spacing, order):
    there = surface_distances(*two, spacing)
    moved = surface_distances(
        *[m.transpose(order) for m in two], tuple(spacing[axis] for axis in order)
    )
    np.testing.assert_allclose(moved.reference_to_prediction, there.reference_to_prediction)
    assert moved.reference_areas.sum() == pytest.approx(there.reference_areas.sum())


@given(two_masks, spacings)
def test_swapping_the_masks_swaps_the_directions(two, spacing):
    there, back = surface_distances(*two, spacing), surface_distances(*two[::-1], spacing)
    np.testing.assert_array_equal(there.reference_to_prediction, back.prediction_to_reference)
    np.testing.assert_array_equal(there.reference_areas, back.prediction_areas)


@given(masks, spacings)
def test_doubling_the_voxel_doubles_lengths_and_quadruples_areas(mask, spacing):
    other = np.roll(mask, 1)
    small = surface_distances(mask, other, spacing)
    large = surface_distances(mask, other, tuple(2 * s for s in spacing))
    np.testing.assert_allclose(large.reference_to_prediction, 2 * small.reference_to_prediction)
    np.testing.assert_allclose(large.reference_areas, 4 * small.reference_areas)


@given(masks)
def test_a_mask_and_its_complement_share_their_inner_surface(mask):
    inner = (slice(1, -1),) * 3
    codes = neighbour_codes(mask)[inner]
    areas = surfel_areas((1.0, 2.0, 3.0))
    np.testing.assert_array_equal(areas[codes], areas[neighbour_codes(~mask)[inner]])


# --- distance maps --------------------------------------------------------------------------------


def test_a_distance_map_by_hand():
    mask = np.zeros((1, 1, 9), bool)
    mask[0, 0, 2:7] = True
    assert signed_distance_map(mask, False)[0, 0].tolist() == [2, 1, 0, -1, -2, -1, 0, 1, 2]
    assert signed_distance_map(mask, True)[0, 0].tolist() == [1, 0.5, 0, -0.5, -1, -0.5, 0, 0.5, 1]


def test_distance_maps_of_nothing_and_of_everything():
    nothing = np.zeros((2, 3, 6), bool)
    assert np.unique(signed_distance_map(nothing, True)).tolist() == [1]
    assert np.unique(signed_distance_map(~nothing, True)).tolist() == [-1]
    assert np.unique(signed_distance_map(nothing, False)).tolist() == [7]
    assert np.unique(signed_distance_map(~nothing, False)).tolist() == [-7]


@given(arrays(bool, array_shapes(min_dims=3, max_dims=3, min_side=2, max_side=6)))
def test_a_distance_map_is_that_of_all_pairs_of_voxels(mask):
    assume(mask.any() and not mask.all())
    found = signed_distance_map(mask, False)
    touches = binary_dilation(~mask, np.ones((3, 3, 3)))
    border = np.argwhere(mask & touches)
    for voxel in np.ndindex(mask.shape):
        nearest = np.linalg.norm(border - voxel, axis=1).min()
        assert found[voxel] == pytest.approx(-nearest if mask[voxel] else nearest, abs=1e-5)
    normalized = signed_distance_map(mask, True)
    assert normalized.max() <= 1
    assert normalized.min() >= -1
    assert np.array_equal(np.sign(found), np.sign(normalized))
