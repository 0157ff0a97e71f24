"""Volumes on other grids: nothing lost at the border, nothing invented, and the way back."""

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import ball, geometries, grid
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from mist_core.geometry import Geometry, box_of
from mist_core.io import Volume, from_sitk, read_image, read_labels, to_sitk
from mist_core.labels import to_indices
from mist_core.resample import canonical, resample_image, resample_labels

SPACINGS = st.tuples(*[st.floats(0.6, 5)] * 3)


def textured(geometry, seed=0):
    array = np.random.default_rng(seed).normal(size=geometry.shape).astype(np.float32)
    return Volume(array, geometry)


def speckled(geometry):
    """Every voxel has a label 0..3 of its own, drawn at random."""
    array = np.random.default_rng(0).integers(0, 4, geometry.shape).astype(np.uint8)
    return Volume(array, geometry)


def centroid_mm(volume):
    return np.mean([volume.geometry.world(tuple(i)) for i in np.argwhere(volume.array)], axis=0)


# --- orientation ----------------------------------------------------------------------------------


@given(geometries(low=3, high=8, oblique_deg=40))
def test_turning_to_lps_agrees_with_itk(geometry):
    volume = textured(geometry)
    turned = canonical(volume)
    expected = from_sitk(sitk.DICOMOrient(to_sitk(volume), "LPS"))
    assert np.array_equal(turned.array, expected.array)
    assert turned.geometry.matches(expected.geometry, tolerance=1e-6)
    assert turned.array.flags.c_contiguous


@given(geometries(low=3, high=8))
def test_turning_twice_changes_nothing_more(geometry):
    once = canonical(textured(geometry))
    twice = canonical(once)
    assert np.array_equal(once.array, twice.array)
    assert once.geometry.matches(twice.geometry, tolerance=1e-9)


# --- there and back -------------------------------------------------------------------------------


@given(geometries(high=16), st.data())
def test_the_way_back_is_exact_where_spacing_stays(geometry, data):
    labels = speckled(geometry)
    starts = [data.draw(st.integers(0, n - 4)) for n in geometry.shape]
    box = tuple(slice(a, a + 2 + (n - a) // 2) for a, n in zip(starts, geometry.shape, strict=True))
    crop = Volume(labels.array[box], geometry.cropped(box))
    turned = canonical(crop)
    there = resample_labels(turned, turned.geometry.with_spacing(turned.geometry.spacing))
    back = resample_labels(there, geometry.cropped(box))
    assert np.array_equal(back.array, crop.array)


@given(geometries(high=16))
def test_the_way_back_onto_the_whole_grid_is_exact_where_spacing_stays(geometry):
    labels = speckled(geometry)
    back = resample_labels(canonical(labels), geometry)
    assert np.array_equal(back.array, labels.array)


@settings(max_examples=60)
@given(geometries(low=4, high=8))
def test_an_image_comes_back_too_where_spacing_stays(geometry):
    image = textured(geometry)
    back = resample_image(canonical(image), geometry)
    np.testing.assert_allclose(back.array, image.array, atol=1e-3)


@settings(max_examples=60)
@given(geometries(), SPACINGS)
def test_the_way_back_from_another_spacing_is_within_one_voxel(geometry, spacing):
    reference = ball(geometry)
    turned = canonical(reference)
    there = resample_labels(turned, turned.geometry.with_spacing(spacing))
    back = resample_labels(there, geometry)
    # how far each voxel is from the border of the ball, in units of the longest voxel edges
    edges = np.maximum(turned.geometry.spacing, spacing)
    sampling = np.divide(turned.geometry.spacing, edges)
    solid = turned.array > 0
    depth = ndimage.distance_transform_edt(solid, sampling)
    depth += ndimage.distance_transform_edt(~solid, sampling)
    wrong = canonical(back).array != turned.array
    assert depth[wrong].max(initial=0) <= np.sqrt(3)


@settings(max_examples=60)
@given(geometries(), SPACINGS)
def test_a_new_spacing_moves_the_centroid_by_less_than_half_a_voxel(geometry, spacing):
    reference = ball(geometry, 0.45)
    turned = canonical(reference)
    there = resample_labels(turned, turned.geometry.with_spacing(spacing))
    if not there.array.any():
        return
    moved = centroid_mm(there) - centroid_mm(reference)
    assert np.linalg.norm(moved) < 0.5 * max(*geometry.spacing, *spacing)


@settings(max_examples=60)
@given(
    geometries(low=4, high=8),
    SPACINGS,
    st.permutations([0, 1, 2]),
    st.tuples(*[st.booleans()] * 3),
)
def test_the_order_of_the_axes_of_the_target_does_not_matter(geometry, spacing, order, flips):
    volume, target = textured(geometry), geometry.with_spacing(spacing)
    turned = target.moved_axes(tuple(order), flips)

    def turn(array):
        return np.flip(array.transpose(order), tuple(a for a in range(3) if flips[a]))

    expected = turn(resample_image(volume, target).array)
    np.testing.assert_allclose(resample_image(volume, turned).array, expected, atol=1e-3)


# --- borders --------------------------------------------------------------------------------------


def test_thin_slices_from_thick_ones_keep_the_air_and_the_label_at_the_border():
    thick = grid((10, 6, 6), (5, 1, 1))
    thin = thick.with_spacing((1, 1, 1))
    air = resample_image(Volume(np.full(thick.shape, -1000, np.float32), thick), thin)
    label = resample_labels(Volume(np.ones(thick.shape, np.uint8), thick), thin)
    assert air.array.shape == label.array.shape == (50, 6, 6)
    assert (air.array == -1000).all()  # also slices 48 and 49
    assert (label.array == 1).all()


@pytest.mark.parametrize("native", [2.0, 2.5, 4.0])
def test_finer_voxels_lose_no_plane_on_any_axis(native):
    coarse = grid((8, 8, 8), (native,) * 3)
    fine = coarse.with_spacing((1, 1, 1))
    image = resample_image(Volume(np.full(coarse.shape, 500, np.float32), coarse), fine)
    label = resample_labels(Volume(np.full(coarse.shape, 2, np.uint8), coarse), fine)
    assert image.array.shape == (8 * native,) * 3
    np.testing.assert_allclose(image.array, 500, atol=1e-3)
    assert (label.array == 2).all()


@settings(max_examples=40)
@given(geometries(), SPACINGS, st.sampled_from([-1000.0, 0.0, 0.1, 3000.0]))
def test_a_constant_image_stays_constant(geometry, spacing, value):
    grid_ = geometry.with_spacing(spacing)
    image = resample_image(Volume(np.full(geometry.shape, value, np.float32), geometry), grid_)
    assert np.unique(image.array).tolist() == [np.float32(value)]
    full = Volume(np.ones(geometry.shape, np.uint8), geometry)
    assert (resample_labels(full, grid_).array == 1).all()


@settings(max_examples=40)
@given(geometries(high=16), SPACINGS)
def test_the_last_voxels_come_back_from_any_grid(geometry, spacing):
    # nine voxels of 1 mm make two of 4 mm: the ninth lies beyond them
    full = Volume(np.ones(geometry.shape, np.uint8), geometry)
    there = resample_labels(full, geometry.with_spacing(spacing))
    assert (resample_labels(there, geometry).array == 1).all()
    air = Volume(np.full(geometry.shape, -1000, np.float32), geometry)
    there = resample_image(air, geometry.with_spacing(spacing))
    assert (resample_image(there, geometry).array == -1000).all()


def test_an_image_of_two_slices_has_no_value_from_elsewhere():
    # ITK's splines read beyond an axis of two voxels: here, from the row before
    geometry = grid((5, 6, 2))
    rows = np.zeros(geometry.shape, np.float32) + 100 * np.arange(6, dtype=np.float32)[:, None]
    image = resample_image(Volume(rows, geometry), geometry.with_spacing((1.0, 1.0, 0.25))).array
    assert image.shape == (5, 6, 8)
    np.testing.assert_allclose(image, np.broadcast_to(rows[..., :1], image.shape), atol=1e-2)


# --- values ---------------------------------------------------------------------------------------


def test_a_step_does_not_ring():
    geometry = grid((20, 20, 20))
    array = np.zeros(geometry.shape, np.float32)
    array[:, :, 10:] = 1000
    image = resample_image(Volume(array, geometry), geometry.with_spacing((0.7, 0.7, 0.7))).array
    assert image.min() == 0
    assert image.max() == 1000
    assert ((image > 100) & (image < 900)).any()


def test_the_same_grid_with_float_noise_changes_nothing():
    geometry = grid((5, 6, 7), (3, 1, 1))
    noisy = geometry.with_spacing((3 + 1e-6, 1, 1 - 1e-7))
    image = textured(geometry)
    assert resample_image(image, noisy).array is image.array
    label = ball(geometry)
    assert resample_labels(label, noisy).array is label.array


@pytest.mark.parametrize("spacing", [(0.8, 0.8, 0.8), (1.7, 1.3, 0.9)])
def test_images_agree_with_scipy_splines(spacing):
    geometry = grid((16, 17, 18), (1.0, 1.2, 1.5))
    image = textured(geometry)
    new = geometry.with_spacing(spacing)
    first = (np.divide(spacing, geometry.spacing) - 1) / 2
    steps = np.divide(spacing, geometry.spacing)
    where = np.stack(np.meshgrid(
        *[f + s * np.arange(n) for f, s, n in zip(first, steps, new.shape, strict=True)],
        indexing="ij",
    ))  # fmt: skip
    expected = ndimage.map_coordinates(image.array, where, order=3, mode="mirror")
    expected = expected.clip(image.array.min(), image.array.max())
    inner = (slice(2, -2),) * 3  # at the border the libraries extend the image differently
    np.testing.assert_allclose(resample_image(image, new).array[inner], expected[inner], atol=1e-3)


def test_a_ramp_stays_a_ramp():
    geometry = grid((6, 6, 30))
    ramp = np.broadcast_to(np.arange(30, dtype=np.float32) * 10, geometry.shape)
    image = resample_image(Volume(ramp, geometry), geometry.with_spacing((1, 1, 0.5))).array
    expected = np.arange(60) * 5 - 2.5  # new centres lie at -0.25, 0.25, 0.75, ... old voxels
    np.testing.assert_allclose(image[3, 3, 10:-10], expected[10:-10], atol=0.05)


def test_a_grid_a_fraction_of_a_voxel_away_is_another():
    line = grid((1, 1, 20))
    ramp = Volume(np.arange(20, dtype=np.float32).reshape(line.shape) * 100, line)
    for shift in (0.25, 0.01):
        near = Geometry(line.shape, line.spacing, (shift, 0, 0), line.direction)
        moved = resample_image(ramp, near).array[0, 0, 5:15]
        np.testing.assert_allclose(moved, np.arange(5, 15) * 100 + 100 * shift, atol=0.1)


def test_between_thick_slices_nothing_is_interpolated():
    thick = grid((4, 8, 8), (5, 1, 1))
    image = textured(thick)
    there = resample_image(image, thick.with_spacing((1, 1, 1))).array
    for k in range(4):
        block = there[5 * k : 5 * k + 5]
        np.testing.assert_allclose(block[1:4], np.broadcast_to(block[2], (3, 8, 8)), atol=0.3)
        assert abs(there[5 * k + 2] - image.array[k]).max() < 0.3


def test_labels_of_thick_slices_are_repeated():
    thick = grid((4, 8, 8), (5, 1, 1))
    array = np.random.default_rng(0).integers(0, 4, thick.shape).astype(np.uint8)
    there = resample_labels(Volume(array, thick), thick.with_spacing((1, 1, 1)))
    assert np.array_equal(there.array, np.repeat(array, 5, axis=0))


def test_labels_are_never_mixed():
    geometry = grid((12, 12, 12))
    array = np.zeros(geometry.shape, np.uint8)
    array[:, :, 6:] = 3  # between 0 and 3 lie 1 and 2, which are not there
    there = resample_labels(Volume(array, geometry), geometry.with_spacing((0.7, 1.3, 0.6)))
    assert np.unique(there.array).tolist() == [0, 3]


def test_doubling_labels_by_hand():
    line = grid((1, 1, 4), (1, 1, 2))
    there = resample_labels(
        Volume(np.array([[[0, 2, 2, 1]]], np.uint8), line), line.with_spacing((1, 1, 1))
    )
    assert there.array.tolist() == [[[0, 0, 2, 2, 2, 2, 1, 1]]]


def test_ties_go_to_the_lowest_class():
    line = grid((1, 1, 2))
    middle = line.with_spacing((1, 1, 2))  # one voxel, centred between the two
    for pair in ([1, 2], [2, 1]):
        there = resample_labels(Volume(np.array([[pair]], np.uint8), line), middle)
        assert there.array.tolist() == [[[1]]]


def test_many_classes_keep_their_type():
    geometry = grid((1, 15, 20))
    array = np.arange(300, dtype=np.uint16).reshape(geometry.shape)
    there = resample_labels(Volume(array, geometry), geometry.with_spacing((1, 0.5, 0.5)))
    assert there.array.dtype == np.uint16
    assert np.array_equal(there.array[:, ::2, ::2], array)


# --- real scans -----------------------------------------------------------------------------------


REAL = ("nrrd/brain1_label.nrrd", "nrrd/breast1_label.nrrd", "spine/semantic/ref.nii.gz")


@pytest.mark.parametrize("name", REAL)
def test_real_label_maps_come_back_exactly(shared, name):
    reference = read_labels(shared / "data" / name)
    box = box_of(reference.array > 0)
    values = np.unique(reference.array[box])[:8].tolist()
    few = np.where(np.isin(reference.array[box], values), reference.array[box], 0)
    crop = Volume(to_indices(few, values), reference.geometry.cropped(box))
    turned = canonical(crop)
    assert turned.geometry.to_lps() == ((0, 1, 2), (False, False, False))
    back = resample_labels(turned, crop.geometry)
    assert np.array_equal(back.array, crop.array)


@pytest.mark.parametrize("name", ["brain1", "breast1"])
def test_real_scans_keep_their_range_and_their_borders(shared, name):
    image = canonical(read_image(shared / "data/nrrd" / f"{name}_image.nrrd"))
    spacing = tuple(s * 1.4 for s in image.geometry.spacing)
    there = resample_image(image, image.geometry.with_spacing(spacing))
    assert there.array.min() >= image.array.min()
    assert there.array.max() <= image.array.max()
    assert there.array.mean() == pytest.approx(image.array.mean(), rel=0.02)
