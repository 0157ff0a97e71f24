"""The box around the body, and intensities brought to one range."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from skimage.filters import threshold_otsu

from mist_core.geometry import box_of
from mist_core.intensity import (
    foreground_box,
    mean_and_std,
    otsu_threshold,
    percentiles,
    window_and_scale,
    z_score,
)

WHOLE = (slice(0, 20), slice(0, 20), slice(0, 20))
BODY = (slice(5, 15), slice(4, 16), slice(6, 14))


def body(background=0.0, inside=100.0):
    image = np.full((20, 20, 20), background, np.float32)
    image[BODY] = inside + np.random.default_rng(0).uniform(-5, 5, image[BODY].shape)
    return image


@pytest.mark.parametrize(("background", "inside"), [(0, 100), (-1000, 40), (3000, 4000)])
def test_the_box_holds_the_body_and_no_more(background, inside):
    assert foreground_box(body(background, inside)) == BODY


def test_a_few_very_bright_voxels_do_not_decide():
    image = body()
    image[10, 10, 10] = 1e6  # a metal clip, without which the body would be background
    assert foreground_box(image) == BODY


def test_what_a_scanner_pads_with_does_not_decide():
    image = body(background=-1000, inside=40)
    image[:, :, :3] = image[:, :, 17:] = -3024  # far below air, as far from it as air from tissue
    assert foreground_box(image) == BODY


def test_bright_voxels_outside_the_body_are_foreground():
    image = body()
    image[0, 19, 3] = 200
    assert foreground_box(image) == (slice(0, 15), slice(4, 20), slice(3, 14))


@pytest.mark.parametrize("value", [0, -1000, 7.5])
def test_an_image_of_one_value_is_kept_whole(value):
    assert foreground_box(np.full((20, 20, 20), value, np.float32)) == WHOLE


def test_a_body_too_small_to_be_seen_leaves_the_image_whole():
    image = np.zeros((20, 20, 20), np.float32)
    image[3, 3, 3] = 50
    assert foreground_box(image) == WHOLE


@pytest.mark.parametrize("slices", [1, 2, 3, 4])
def test_few_slices_on_the_last_axis_are_no_colours(slices):
    assert foreground_box(body()[:, :, 6 : 6 + slices]) == (*BODY[:2], slice(0, slices))


def test_window_and_scale_by_hand():
    image = np.array([-1024, -100, 0, 50, 300, 3071], np.float32)
    scaled = window_and_scale(image, (-100, 300), mean=50, std=50)
    assert scaled.tolist() == [-3, -3, -1, 0, 5, 5]
    assert scaled.dtype == np.float32


def test_water_lies_between_its_neighbours():
    scaled = window_and_scale(np.array([-1, 0, 1], np.float32), (-100, 300), 100, 50)
    np.testing.assert_allclose(np.diff(scaled), 0.02, rtol=1e-4)


def test_without_spread_everything_is_zero():
    assert not window_and_scale(np.full((3, 3), 7, np.float32), (0, 9), 5, 0).any()
    assert not z_score(np.full((3, 3, 3), 7, np.float32)).any()
    assert not z_score(np.zeros((3, 3, 3), np.float32), np.zeros((3, 3, 3), bool)).any()


def test_z_score_by_hand():
    # 1000 voxels 0..999: the percentiles are 4.995 and 994.005, mean and deviation of all
    image = np.arange(1000, dtype=np.float32).reshape(10, 10, 10)
    scaled = z_score(image).ravel()
    deviation = np.sqrt((1000**2 - 1) / 12)
    assert scaled[500] == pytest.approx(0.5 / deviation, rel=1e-4)
    assert scaled[0] == scaled[4] == pytest.approx((4.995 - 499.5) / deviation)
    assert scaled[999] == scaled[995] == pytest.approx((994.005 - 499.5) / deviation)


def test_zero_is_no_intensity_where_it_is_background():
    image = np.zeros((10, 10, 10), np.float32)
    image[2:8] = np.random.default_rng(0).normal(500, 20, (6, 10, 10))
    scaled = z_score(image, image != 0)
    assert not scaled[:2].any()
    assert not scaled[8:].any()
    inside = image[2:8].astype(float)
    expected = np.clip(inside, *np.percentile(inside, [0.5, 99.5]))
    np.testing.assert_allclose(scaled[2:8], (expected - inside.mean()) / inside.std(), atol=1e-4)


def test_zeros_count_where_they_are_intensities():
    image = np.zeros((10, 10, 10), np.float32)
    image[5:] = 10
    scaled = z_score(image)
    assert np.unique(scaled).tolist() == [-1, 1]


def test_large_values_lose_no_precision():
    # squares of 30000 in single precision are good to 64, far above the variance of 0.25
    image = np.random.default_rng(0).normal(30_000, 0.5, (60, 60, 60)).astype(np.float32)
    scaled = z_score(image)
    assert abs(scaled.mean(dtype=np.float64)) < 0.02
    assert scaled.std(dtype=np.float64) == pytest.approx(0.985, abs=0.02)


@settings(max_examples=30)
@given(st.floats(0.5, 100), st.floats(-1000, 1000))
def test_units_of_an_image_do_not_matter(scale, offset):
    image = np.random.default_rng(0).gamma(2, 10, (8, 8, 8)).astype(np.float32)
    changed = (image * scale + offset).astype(np.float32)
    np.testing.assert_allclose(z_score(changed), z_score(image), atol=1e-2)


IMAGES = arrays(
    st.sampled_from([np.uint8, np.int16, np.uint16]),
    array_shapes(min_dims=3, max_dims=3, max_side=6),
)


@given(IMAGES, st.lists(st.floats(0, 100), min_size=1, max_size=3))
def test_percentiles_of_integers_are_those_of_numpy(image, shares):
    expected = np.percentile(image.astype(np.float64), shares)
    np.testing.assert_allclose(percentiles(image, tuple(shares)), expected, rtol=1e-9, atol=1e-6)


@given(IMAGES)
def test_the_box_of_stored_integers_is_that_of_the_same_numbers(image):
    assert foreground_box(image) == foreground_box(image.astype(np.float32))


@given(IMAGES)
def test_the_box_is_that_of_otsu_s_threshold_of_the_clipped_image(image):
    low, high = np.percentile(image, [33, 99.5])
    clipped = np.clip(image.astype(np.float64), low, high)
    expected = None if low == high else box_of(image > threshold_otsu(clipped.ravel(), nbins=256))
    assert foreground_box(image.astype(np.float32)) == (
        expected or tuple(slice(0, n) for n in image.shape)
    )


@given(IMAGES)
def test_mean_and_deviation_are_those_of_numpy(image):
    expected = image.mean(dtype=np.float64), image.std(dtype=np.float64)
    assert mean_and_std(image) == pytest.approx(expected)


def test_an_image_of_one_value_but_for_rounding_is_whole():
    image = np.full((20, 20, 20), 1000, np.float64)
    image[5:] = np.nextafter(1000, 2000)
    assert foreground_box(image) == WHOLE


@given(st.lists(st.integers(0, 50), min_size=2, max_size=40))
def test_otsu_s_threshold_is_that_of_the_reference_library(counts):
    assume(counts[0] > 0)
    assume(counts[-1] > 0)
    counts, centres = np.array(counts), np.linspace(-7, 30, len(counts))
    assert otsu_threshold(counts, centres) == threshold_otsu(hist=(counts, centres))
