"""Label values to class indices and back, and the voxels remembered for drawing patches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from mist_core.labels import (
    in_labels,
    sample_coordinates,
    smallest_uint,
    to_indices,
    to_values,
    value_counts,
)

GAP = (0, 1, 2, 4)
LABELS = st.sets(st.integers(1, 700), min_size=1, max_size=12).map(lambda s: [0, *sorted(s)])


def test_a_gap_in_the_labels_closes_and_opens_again():
    values = np.array([[0, 4], [2, 1]], np.uint8)
    indices = to_indices(values, GAP)
    assert indices.tolist() == [[0, 3], [2, 1]]
    assert indices.dtype == np.uint8
    assert to_values(indices, GAP).tolist() == values.tolist()


@given(LABELS, st.data())
def test_any_labels_come_back(labels, data):
    picks = data.draw(st.lists(st.sampled_from(range(len(labels))), max_size=20))
    values = np.array(labels, np.uint16)[picks]
    indices = to_indices(values, labels)
    assert indices.tolist() == picks
    assert to_values(indices, labels).tolist() == values.tolist()


def test_labels_above_255_do_not_wrap():
    labels = (0, 44, 300)  # 300 is 44 in eight bits
    values = to_values(np.array([0, 1, 2], np.uint8), labels)
    assert values.dtype == np.uint16
    assert values.tolist() == [0, 44, 300]
    assert to_indices(values, labels).tolist() == [0, 1, 2]


def test_more_classes_than_eight_bits_hold():
    labels = list(range(0, 600, 2))
    indices = to_indices(np.array([0, 510, 512, 598], np.uint16), labels)
    assert indices.tolist() == [0, 255, 256, 299]
    assert indices.dtype == np.uint16


def test_small_labels_stay_small():
    assert to_values(np.array([0, 3]), GAP).dtype == np.uint8
    assert (smallest_uint(255), smallest_uint(256)) == (np.uint8, np.uint16)
    assert (smallest_uint(65535), smallest_uint(65536)) == (np.uint16, np.uint32)
    assert to_values(np.array([0, 1]), (0, 70000)).tolist() == [0, 70000]


@pytest.mark.parametrize("odd", [3, 5, 255, 300, -1, -4])
def test_a_value_that_is_not_declared_never_becomes_another(odd):
    values = np.array([0, 1, odd, 4], np.int32)
    with pytest.raises(ValueError, match=rf"among \[0, 1, 2, 4\], found \[{odd}\]"):
        to_indices(values, GAP)


def test_an_empty_array_has_no_indices():
    assert to_indices(np.zeros((0, 3), np.uint8), GAP).shape == (0, 3)


@given(LABELS, st.lists(st.integers(0, 800), max_size=20))
def test_membership_agrees_with_numpy(labels, values):
    array = np.array(values, np.uint16)
    assert np.array_equal(in_labels(array, labels), np.isin(array, labels))


def cube(shape=(6, 7, 8)):
    """Class indices with few voxels of class 1, many of class 3, none of class 2."""
    indices = np.zeros(shape, np.uint8)
    indices[0, 0, :3] = 1
    indices[2:, 1:6, 1:7] = 3
    return indices


def test_sampled_voxels_are_of_their_class_and_different():
    indices = cube()
    rows = sample_coordinates(indices, 4, 50, seed=1)
    assert rows.dtype == np.int32
    assert np.array_equal(indices[tuple(rows[:, 1:].T)], rows[:, 0])
    assert len(np.unique(rows, axis=0)) == len(rows) == 3 + 50
    assert (np.diff(rows[:, 0]) >= 0).all()


def test_the_last_class_is_sampled_though_its_label_is_not_its_index():
    indices = to_indices(np.array([[[0, 1, 2, 4, 4]]], np.uint8), GAP)
    rows = sample_coordinates(indices, len(GAP), 10, seed=0)
    assert rows.tolist() == [[1, 0, 0, 1], [2, 0, 0, 2], [3, 0, 0, 3], [3, 0, 0, 4]]


def test_few_voxels_are_all_taken_and_an_absent_class_has_no_row():
    rows = sample_coordinates(cube(), 4, 10_000, seed=0)
    assert [np.count_nonzero(rows[:, 0] == k) for k in range(4)] == [0, 3, 0, 4 * 5 * 6]


def test_no_foreground_gives_no_rows():
    rows = sample_coordinates(np.zeros((3, 3, 3), np.uint8), 4, 10, seed=0)
    assert rows.shape == (0, 4)
    assert rows.dtype == np.int32


def test_sampling_follows_from_the_seed_alone():
    one, same, other = (sample_coordinates(cube(), 4, 20, seed) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_sampling_is_even():
    indices = np.ones((10, 10, 10), np.uint8)
    rows = np.concatenate([sample_coordinates(indices, 2, 100, seed) for seed in range(50)])
    # 5000 draws of 0..9 on each axis: the mean has a standard error of 0.04
    np.testing.assert_allclose(rows[:, 1:].mean(axis=0), 4.5, atol=0.2)


@given(arrays(st.sampled_from([np.uint8, np.int8, np.uint16, np.int32]),
              array_shapes(min_dims=1, max_dims=3, max_side=6)))  # fmt: skip
def test_counting_values_is_what_sorting_them_gives(array):
    values, counts = value_counts(array)
    expected = np.unique(array, return_counts=True)
    assert np.array_equal(values, expected[0])
    assert np.array_equal(counts, expected[1])
    flipped = value_counts(array[::-1].T)
    assert np.array_equal(flipped[1], counts)
