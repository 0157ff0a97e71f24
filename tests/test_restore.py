"""From logits on the training grid to the scanner's grid."""

import numpy as np
import pytest
import torch
from conftest import geometries, grid
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from mist_core.geometry import Origin
from mist_core.restore import Way, restore, restore_probabilities
from mist_core.sliding import WindowGrid, cells


def whole_box(geometry):
    return tuple(slice(0, n) for n in geometry.shape)


def cells_of(logits, patch_size):
    """Logits (K, Z, Y, X) cut into cells, as windows would."""
    window_grid = WindowGrid.over(tuple(logits.shape[1:]), patch_size, 0.5)
    return cells(lambda b: b, logits.numpy(), window_grid, device=torch.device("cpu"))


def noise(classes, shape, seed=0):
    return torch.randn((classes, *shape), generator=torch.Generator().manual_seed(seed))


def dense_probabilities(logits, origin):
    """The same at once and by SciPy: linear interpolation at world positions, ends held."""
    kept = origin.original.cropped(origin.box)
    places = np.stack(np.meshgrid(*map(np.arange, kept.shape), indexing="ij"), -1)
    scaled = places * kept.spacing
    world = scaled @ kept.direction.T + kept.origin
    source = origin.training
    inside = (world - source.origin) @ source.direction / source.spacing
    inside = np.clip(inside, 0, np.array(source.shape) - 1)
    maps = logits.softmax(0).numpy().astype(np.float64)
    return np.stack([map_coordinates(m, inside.transpose(3, 0, 1, 2), order=1) for m in maps])


def origin_of(geometry, spacing):
    """A training grid in LPS with another spacing."""
    turned = geometry.moved_axes(*geometry.to_lps())
    return Origin(geometry, whole_box(geometry), turned.with_spacing(spacing))


SPACINGS = st.tuples(*[st.sampled_from([0.6, 1.0, 1.7])] * 3)


@settings(max_examples=10)
@given(geometries(low=2, high=9), SPACINGS, st.sampled_from([(3, 4, 5), (8, 8, 8), (2, 2, 2)]))
def test_cell_by_cell_is_what_interpolation_at_once_gives(geometry, spacing, patch_size):
    origin = origin_of(geometry, spacing)
    logits = noise(4, origin.training.shape)
    expected = dense_probabilities(logits, origin)
    found = restore_probabilities(cells_of(logits, patch_size), origin, 4)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    labels = restore(cells_of(logits, patch_size), origin, (0, 3, 5, 700)).array
    best = np.sort(expected, axis=0)
    sure = best[-1] - best[-2] > 1e-4  # else rounding may decide
    values = np.array([0, 3, 5, 700])[expected.argmax(0)]
    np.testing.assert_array_equal(labels[sure], values[sure])


@settings(max_examples=25)
@given(geometries(low=2, high=9), SPACINGS, st.sampled_from([(3, 4, 5), (2, 2, 2), (9, 1, 3)]))
def test_every_voxel_of_the_scanner_is_in_one_tile(geometry, spacing, patch_size):
    origin = origin_of(geometry, spacing)
    count = np.zeros(geometry.shape, int)
    way = Way.between(origin.training, geometry)
    for cell in cells_of(noise(1, origin.training.shape), patch_size):
        tile = way.tile_of(cell)
        if tile is not None:
            count[tile] += 1
    assert (count == 1).all()


def test_probabilities_sum_to_one_and_are_background_outside_what_was_kept():
    original = grid((6, 7, 8))
    box = (slice(1, 5), slice(2, 6), slice(0, 8))
    origin = Origin(original, box, original.cropped(box).with_spacing((1.3, 0.8, 1.1)))
    logits = noise(3, origin.training.shape)
    found = restore_probabilities(cells_of(logits, (3, 3, 3)), origin, 3)
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)
    assert (found >= 0).all()
    assert (found[0, 0] == 1).all()
    assert (found[1:, 0] == 0).all()
    assert (restore(cells_of(logits, (3, 3, 3)), origin, (0, 1, 2)).array[0] == 0).all()


def test_many_classes_are_taken_in_parts(monkeypatch):
    geometry = grid((5, 5, 5), (1.0, 1.0, 1.0))
    origin = origin_of(geometry, (1.3, 1.3, 1.3))
    logits = noise(20, origin.training.shape)
    labels = tuple(range(20))
    whole = restore(cells_of(logits, (4, 4, 4)), origin, labels).array
    monkeypatch.setattr("mist_core.restore.AT_ONCE", 100)
    parts = restore(cells_of(logits, (4, 4, 4)), origin, labels).array
    np.testing.assert_array_equal(parts, whole)


def test_equal_probabilities_are_the_lowest_class():
    geometry = grid((2, 2, 2))
    origin = origin_of(geometry, (0.7, 0.7, 0.7))
    logits = torch.zeros((3, *origin.training.shape))
    assert (restore(cells_of(logits, (4, 4, 4)), origin, (0, 1, 2)).array == 0).all()


@pytest.mark.parametrize("order", ["probabilities", "labels"])
def test_the_order_decides_between_voxels(order):
    original = grid((4, 1, 1))
    origin = Origin(original, whole_box(original), original.with_spacing((2.0, 1.0, 1.0)))
    share = torch.tensor([0.9, 0.45]).reshape(2, 1, 1)  # at the voxels: 0.9, 0.79, 0.56, 0.45
    logits = torch.stack([torch.log(1 - share), torch.log(share)])
    found = restore(cells_of(logits, (1, 1, 1)), origin, (0, 3), order).array.ravel().tolist()
    assert found == ([3, 3, 3, 0] if order == "probabilities" else [3, 3, 0, 0])
