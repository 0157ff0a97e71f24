"""Grids: where voxels are, how axes are turned, and what survives a header."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import geometries, grid
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mist_core.geometry import Geometry, Origin, box_of, union_box


def same(a, b):
    return (
        (a.shape, a.spacing, a.origin) == (b.shape, b.spacing, b.origin)
        and np.array_equal(a.direction, b.direction)
    )  # fmt: skip


def moved(geometry, **changes):
    fields = {name: getattr(geometry, name) for name in ("shape", "spacing", "origin", "direction")}
    return Geometry(**(fields | changes))


def test_world_of_an_index_by_hand():
    plain = Geometry((4, 5, 6), (3.0, 2.0, 1.5), (10.0, 20.0, 30.0), np.eye(3)[:, ::-1])
    assert plain.world((1, 2, 4)) == (10 + 4 * 1.5, 20 + 2 * 2.0, 30 + 3.0)
    # array axis 0 runs to the right, 1 to inferior, 2 to anterior
    turned = moved(plain, direction=np.array([[-1, 0, 0], [0, 0, -1], [0, -1, 0]]))
    assert turned.world((1, 2, 4)) == (10 - 3.0, 20 - 4 * 1.5, 30 - 2 * 2.0)


@given(geometries(), st.tuples(*[st.floats(-5, 30)] * 3))
def test_world_agrees_with_itk(geometry, index):
    image = sitk.Image(geometry.shape[::-1], sitk.sitkUInt8)
    image.SetSpacing(geometry.spacing[::-1])
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction[:, ::-1].ravel().tolist())
    expected = image.TransformContinuousIndexToPhysicalPoint(index[::-1])
    np.testing.assert_allclose(geometry.world(index), expected, atol=1e-6)


def test_files_speak_xyz():
    fields = Geometry((4, 5, 6), (3.0, 2.0, 1.5), (1.0, 2.0, 3.0), np.eye(3)[:, ::-1]).to_json()
    assert fields["size"] == [6, 5, 4]
    assert fields["spacing"] == [1.5, 2.0, 3.0]
    assert fields["origin"] == [1.0, 2.0, 3.0]
    assert fields["direction"] == [1, 0, 0, 0, 1, 0, 0, 0, 1]


@given(geometries())
def test_json_round_trip_is_exact(geometry):
    assert same(Geometry.from_json(json.loads(json.dumps(geometry.to_json()))), geometry)


def test_origin_of_a_case_survives_json():
    whole = grid((8, 9, 10), (3, 2, 1))
    box = (slice(1, 5), slice(2, 9), slice(0, 7))
    origin = Origin(whole, box, whole.cropped(box).with_spacing((1, 1, 1)))
    text = json.dumps(origin.to_json())
    assert json.loads(text)["box"] == [[0, 7], [2, 9], [1, 5]]
    back = Origin.from_json(json.loads(text))
    assert back.box == box
    assert same(back.original, whole)
    assert same(back.training, origin.training)


def test_thinner_slices_cover_the_same_box():
    thin = grid((10, 4, 4), (5, 1, 1)).with_spacing((1, 1, 1))
    assert thin.shape == (50, 4, 4)
    assert thin.world((0, 0, 0)) == (0, 0, -2)  # the first slice reached from -2.5 to 2.5
    assert thin.world((49, 0, 0)) == (0, 0, 47)


@given(geometries(), st.tuples(*[st.floats(0.3, 8)] * 3))
def test_new_spacing_keeps_the_near_edge_and_the_far_one_within_half_a_voxel(geometry, spacing):
    new = geometry.with_spacing(spacing)
    np.testing.assert_allclose(new.world((-0.5,) * 3), geometry.world((-0.5,) * 3), atol=1e-9)
    old_edges = np.multiply(geometry.shape, geometry.spacing)
    new_edges = np.multiply(new.shape, new.spacing)
    assert new.spacing == spacing
    assert np.array_equal(new.direction, geometry.direction)
    assert (abs(new_edges - old_edges) <= np.multiply(spacing, 0.5 + 1e-9))[
        np.greater(new.shape, 1)
    ].all()


@given(geometries())
def test_own_spacing_changes_nothing(geometry):
    assert same(geometry.with_spacing(geometry.spacing), geometry)


def test_sagittal_left_handed_axes_are_turned_by_hand():
    # stored: axis 0 towards the right, axis 1 towards superior, axis 2 towards posterior
    stored = Geometry((3, 4, 5), (3.0, 1.0, 2.0), (0, 0, 0), [[-1, 0, 0], [0, 0, 1], [0, 1, 0]])
    order, flips = stored.to_lps()
    assert order == (1, 2, 0)
    assert flips == (False, False, True)
    turned = stored.moved_axes(order, flips)
    assert turned.shape == (4, 5, 3)
    assert turned.spacing == (1, 2, 3)
    assert turned.origin == (-6, 0, 0)
    assert np.array_equal(turned.direction, np.eye(3)[:, ::-1])


@given(geometries(oblique_deg=44), st.data())
def test_turning_axes_leaves_every_voxel_where_it_is(geometry, data):
    order, flips = geometry.to_lps()
    turned = geometry.moved_axes(order, flips)
    new = [data.draw(st.integers(0, n - 1)) for n in turned.shape]
    old = [0, 0, 0]
    for axis, source in enumerate(order):
        old[source] = turned.shape[axis] - 1 - new[axis] if flips[axis] else new[axis]
    np.testing.assert_allclose(turned.world(tuple(new)), geometry.world(tuple(old)), atol=1e-9)
    assert turned.to_lps() == ((0, 1, 2), (False, False, False))


def test_two_axes_that_lean_the_same_way_still_get_one_world_axis_each():
    a, b = np.deg2rad(30), np.deg2rad(44)  # both run along x more than along y
    direction = np.array([[0, np.cos(a), -np.cos(b)], [0, np.sin(a), np.sin(b)], [1, 0, 0]])
    skewed = Geometry((3, 3, 3), (1, 1, 1), (0, 0, 0), direction)
    assert skewed.to_lps() == ((0, 2, 1), (False, False, False))


@given(st.integers(0, 2**32 - 1))
def test_axes_at_any_angle_each_get_one_world_axis(seed):
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    geometry = Geometry((2, 3, 4), (1, 1, 1), (0, 0, 0), turn)
    order, flips = geometry.to_lps()
    assert sorted(order) == [0, 1, 2]
    assert (np.diag(geometry.moved_axes(order, flips).direction[::-1]) > 0).all()


@given(geometries(), st.data())
def test_a_crop_starts_where_its_first_voxel_was(geometry, data):
    starts = [data.draw(st.integers(0, n - 2)) for n in geometry.shape]
    box = tuple(slice(a, n) for a, n in zip(starts, geometry.shape, strict=True))
    crop = geometry.cropped(box)
    assert crop.shape == tuple(np.empty(geometry.shape, bool)[box].shape)
    np.testing.assert_allclose(crop.world((0, 0, 0)), geometry.world(tuple(starts)))
    last = tuple(n - 1 for n in crop.shape)
    end = tuple(n - 1 for n in geometry.shape)
    np.testing.assert_allclose(crop.world(last), geometry.world(end))


@pytest.mark.parametrize(("shift", "matches"), [(1e-5, True), (0.0049, True), (0.0051, False)])
def test_float_noise_in_the_origin_matches_and_a_shift_does_not(shift, matches):
    one = grid((10, 10, 10), (3.0, 0.5, 0.5))  # a hundredth of the smallest edge is 0.005 mm
    other = moved(one, origin=(shift, 0, 0))
    assert one.matches(other) is matches
    assert other.matches(one) is matches
    assert one.distance_mm(other) == pytest.approx(shift)


def test_float_noise_in_every_field_matches():
    one = Geometry((20, 200, 200), (5, 0.8, 0.8), (-123.4567, 98.7654, -77.7), np.eye(3)[:, ::-1])
    noise = np.random.default_rng(0).uniform(-1e-7, 1e-7, (3, 3))
    other = Geometry(
        one.shape, (5 + 1e-6, 0.8 - 1e-6, 0.8), (-123.4568, 98.7654, -77.7), one.direction + noise
    )
    assert one.matches(other)


def test_grids_that_part_only_far_from_the_origin_do_not_match():
    one = grid((200, 200, 200))
    assert not one.matches(moved(one, spacing=(1, 1, 1.0001)))  # 0.02 mm at the last voxel
    turn = np.array([[1, -1e-4, 0], [1e-4, 1, 0], [0, 0, 1]])
    assert not one.matches(moved(one, direction=turn @ one.direction))
    assert not one.matches(moved(one, shape=(200, 200, 199)))


def test_a_flipped_grid_does_not_match():
    one = grid((4, 4, 4))
    flipped = one.moved_axes((0, 1, 2), (False, False, True))
    assert not one.matches(flipped)
    assert one.distance_mm(flipped) == 3


@pytest.mark.parametrize("spacing", [(1, 0, 1), (1, 1, -2.0)])
def test_spacing_must_be_positive(spacing):
    with pytest.raises(ValueError, match="spacing must be positive"):
        grid((2, 2, 2), spacing)


def test_denormal_cosines_become_zero():
    direction = np.eye(3)[:, ::-1] + np.array([[1e-315, -0.0, 0], [0, 0, -1e-15], [0, 0, 0]])
    geometry = Geometry((2, 2, 2), (1, 1, 1), (0, 0, 0), direction)
    assert np.array_equal(geometry.direction, np.eye(3)[:, ::-1])
    assert not np.signbit(geometry.direction).any()


def test_box_by_hand():
    mask = np.zeros((5, 6, 7), bool)
    mask[1, 2, 6] = mask[3, 0, 4] = True
    assert box_of(mask) == (slice(1, 4), slice(0, 3), slice(4, 7))
    assert box_of(np.zeros((5, 6, 7), bool)) is None


@given(arrays(bool, (5, 6, 7), elements=st.sampled_from([False] * 9 + [True])))
def test_box_is_the_smallest_that_holds_all(mask):
    if not mask.any():
        assert box_of(mask) is None
        return
    where = np.argwhere(mask)
    low, high = where.min(axis=0), where.max(axis=0) + 1
    assert box_of(mask) == tuple(slice(a, b) for a, b in zip(low, high, strict=True))


def test_union_box_by_hand():
    first = (slice(1, 4), slice(2, 3), slice(0, 9))
    second = (slice(3, 6), slice(0, 1), slice(4, 5))
    assert union_box(first, second) == (slice(1, 6), slice(0, 3), slice(0, 9))


def test_a_geometry_prints_its_numbers_in_xyz():
    text = str(grid((4, 5, 6), (3, 2, 1.23456)))
    assert text.startswith("size [6, 5, 4], spacing [1.2346, 2.0, 3.0], origin [0.0, 0.0, 0.0]")
