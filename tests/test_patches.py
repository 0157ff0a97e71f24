"""Patches to train on, and windows that slide over an image."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import grid
from hypothesis import given
from hypothesis import strategies as st

from mist_core.config import Preprocess
from mist_core.io import Volume
from mist_core.patches import (
    TrainingCase,
    cut_out,
    draw_piece,
    draw_pieces,
    open_case,
    stacked,
)
from mist_core.plan import parse_plan
from mist_core.preprocess import preprocess, write

LABELS = (0, 1, 2, 4)


def training_case(labels, image=None):
    """A case in memory, with every foreground voxel remembered."""
    labels = np.asarray(labels, np.uint8)
    image = labels[None].astype(np.float32) if image is None else image
    rows = [[labels[tuple(v)], *v] for v in np.argwhere(labels)]
    coordinates = np.array(sorted(rows), np.int32).reshape(-1, 4)
    return TrainingCase("a", image, labels, coordinates)


@pytest.fixture
def written_case(tmp_path):
    """A preprocessed case with label values 0, 1, 2 and 4; 4 is a single voxel, far from others."""
    labels = np.zeros((32, 32, 32), np.uint8)
    labels[0:5, 0:5, 0:5], labels[0:2, 27:32, 0:2] = 1, 2
    labels[18, 18, 18] = 4
    volume = Volume(labels, grid(labels.shape))
    image = Volume(np.random.default_rng(0).normal(size=labels.shape), volume.geometry)
    plan = parse_plan(
        {
            "mist_version": "0",
            "dataset_info": {"task": "t", "modality": "mr", "images": ["t1"], "labels": LABELS},
            "spatial_config": {
                "patch_size": (8, 8, 8),
                "target_spacing": (1, 1, 1),
                "median_resampled_image_size": labels.shape,
            },
            "preprocessing": {
                "crop_to_foreground": False,
                "normalize_with_nonzero_mask": [False],
                "ct_normalization": [None],
            },
            "model": {"in_channels": 1, "out_channels": 4},
            "evaluation": {"spot": {"labels": [4]}},
        },
        "test",
    )
    write(preprocess([image], volume, plan), tmp_path, "a", 4, Preprocess())
    return open_case(tmp_path, "a")


def draw_patch(case, patch_size, probability, generator):
    """Image and labels of a random patch."""
    patch = cut_out(draw_piece(case, patch_size, probability, generator), patch_size)
    return patch.image.numpy(), patch.labels.numpy()


def draw_batch(some, items, patch_size, probability, seed):
    """The same for several."""
    pieces = draw_pieces(some, items, patch_size, probability, seed)
    return stacked([cut_out(piece, patch_size) for piece in pieces])


def rates(case, probability, patches=400, patch_size=(8, 8, 8)):
    """Share of patches that hold each class index."""
    drawn = [
        draw_patch(case, patch_size, probability, np.random.default_rng([1, n]))[1]
        for n in range(patches)
    ]
    return [float(np.mean([(labels == k).any() for labels in drawn])) for k in range(len(LABELS))]


def test_the_last_class_is_in_patches_at_the_configured_rate(written_case):
    anywhere = (8 / 25) ** 3  # of the 25 places on each axis, 8 show the voxel
    for probability in (1.0, 0.6, 0.0):
        expected = probability / 3 + (1 - probability) * anywhere
        found = rates(written_case, probability)[3]
        assert found == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 400) ** 0.5)


def test_every_class_is_drawn_as_often_however_small(written_case):
    _, first, second, last = rates(written_case, 1.0)
    # Patches around classes 1 and 2 show only their own, so shares are of the draws.
    assert (first, second, last) == pytest.approx((1 / 3,) * 3, abs=0.1)
    assert first + second + last >= 1


def test_only_drawn_patches_are_read(written_case):
    assert isinstance(written_case.image, np.memmap)
    assert isinstance(written_case.labels, np.memmap)


def test_absent_classes_are_passed_over():
    labels = np.zeros((20, 20, 20))
    labels[10, 10, 10] = 3
    assert rates(training_case(labels), 1.0, patches=50)[3] == 1


def test_a_case_without_foreground_gives_patches():
    case = training_case(np.zeros((9, 9, 9)))
    image, labels = draw_patch(case, (4, 4, 4), 1.0, np.random.default_rng(0))
    assert image.shape == (1, 4, 4, 4)
    assert labels.shape == (4, 4, 4)


def test_a_drawn_voxel_may_lie_anywhere_in_its_patch():
    labels = np.zeros((30, 30, 30))
    labels[15, 15, 15] = 1
    case = training_case(labels)
    places = {
        tuple(np.argwhere(draw_patch(case, (4, 4, 4), 1.0, np.random.default_rng(n))[1])[0])
        for n in range(500)
    }
    assert len(places) > 60  # of 64


@given(
    st.tuples(*[st.integers(1, 12)] * 3),
    st.tuples(*[st.integers(1, 12)] * 3),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.integers(0, 100),
)
def test_a_patch_is_a_piece_of_the_case_with_zeros_around(size, patch_size, probability, seed):
    numbers = np.arange(1, np.prod(size) + 1).reshape(size)
    case = training_case(numbers % 3, np.stack([numbers, -numbers]).astype(np.float32))
    generator = np.random.default_rng(seed)
    image, labels = draw_patch(case, patch_size, probability, generator)
    assert image.shape == (2, *patch_size)
    assert (image.dtype, labels.dtype) == (np.float32, np.uint8)
    margins = [max(p - n, 0) for p, n in zip(patch_size, size, strict=True)]
    inner = tuple(
        slice(m // 2, m // 2 + min(p, n)) for m, p, n in zip(margins, patch_size, size, strict=True)
    )
    piece = image[0][inner].astype(int)
    assert np.count_nonzero(image[0]) == piece.size  # zeros around, evenly on both sides
    np.testing.assert_array_equal(labels[inner], piece % 3)
    assert labels.sum() == (piece % 3).sum()
    np.testing.assert_array_equal(image[1], -image[0])
    start = [int(v[0]) for v in np.nonzero(numbers == piece.flat[0])]
    there = tuple(slice(s, s + n) for s, n in zip(start, piece.shape, strict=True))
    np.testing.assert_array_equal(piece, numbers[there])


@given(
    st.tuples(*[st.integers(1, 12)] * 3),
    st.tuples(*[st.integers(1, 12)] * 3),
    st.tuples(*[st.integers(0, 5)] * 3),
    st.integers(0, 100),
)
def test_reaching_beyond_a_patch_leaves_the_patch_as_it_is(size, patch_size, reach, seed):
    numbers = np.arange(1, np.prod(size) + 1).reshape(size)
    maps = np.stack([numbers, numbers])
    case = replace(training_case(numbers % 3, numbers[None]), distance_maps=maps)
    near, far = (
        draw_piece(case, patch_size, 0.5, np.random.default_rng(seed), r)
        for r in ((0, 0, 0), reach)
    )
    for one, other in zip(cut_out(near, patch_size), cut_out(far, patch_size), strict=True):
        assert one == other if isinstance(one, tuple) else torch.equal(one, other)
    wanted = [min(p, n) for p, n in zip(patch_size, size, strict=True)]
    assert near.labels.shape == tuple(wanted)
    for got, p, n, r in zip(far.labels.shape, patch_size, size, reach, strict=True):
        assert min(p, n) <= got <= min(p + 2 * r, n)


def test_distance_maps_go_on_as_they_are_at_the_border():
    numbers = np.arange(1, 4).reshape(1, 1, 3)
    case = replace(training_case(numbers * 0, numbers[None]), distance_maps=numbers[None] * 1.0)
    piece = draw_piece(case, (1, 1, 6), 0.0, np.random.default_rng(0))
    patch = cut_out(piece, (1, 1, 6))
    assert patch.distance_maps.flatten().tolist() == [1, 1, 2, 3, 3, 3]
    assert patch.image.flatten().tolist() == [0, 1, 2, 3, 0, 0]


def test_borders_are_drawn_as_well():
    numbers = np.arange(1, 11).reshape(1, 1, 10)
    case = training_case(numbers * 0, numbers[None].astype(np.float32))
    starts = [
        int(draw_patch(case, (1, 1, 4), 0.0, np.random.default_rng(n))[0].flat[0])
        for n in range(200)
    ]
    assert set(starts) == set(range(1, 8))


def cases():
    """Two cases that can be told apart by their intensities."""
    labels = np.zeros((10, 10, 10))
    labels[4:6, 4:6, 4:6] = 1
    noise = np.random.default_rng(0).random((1, 10, 10, 10), dtype=np.float32)
    return [training_case(labels, noise), training_case(labels, noise + 10)]


def test_a_batch_follows_from_its_seed():
    first, same, other = (
        draw_batch(cases(), range(3), (4, 4, 4), 0.5, seed) for seed in ((1, 2), (1, 2), (1, 3))
    )
    assert torch.equal(first[0], same[0])
    assert torch.equal(first[1], same[1])
    assert not torch.equal(first[0], other[0])


def test_items_of_a_batch_differ_and_do_not_depend_on_its_size():
    images, labels, _ = draw_batch(cases(), range(4), (4, 4, 4), 0.5, (0,))
    assert images.shape == (4, 1, 4, 4, 4)
    assert labels.shape == (4, 4, 4, 4)
    assert len({tuple(i.flatten().tolist()) for i in images}) == 4
    assert torch.equal(draw_batch(cases(), range(2), (4, 4, 4), 0.5, (0,))[0], images[:2])


def test_all_cases_are_drawn():
    images, *_ = draw_batch(cases(), range(100), (2, 2, 2), 0.5, (0,))
    share = (images.amax((1, 2, 3, 4)) > 5).float().mean().item()
    assert share == pytest.approx(0.5, abs=0.2)
