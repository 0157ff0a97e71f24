"""Random changes to patches."""

import numpy as np
import pytest
import torch
from conftest import ball, grid
from hypothesis import given, settings
from hypothesis import strategies as st

from mist_core.augment import affine, augment, flip, flip_axes
from mist_core.config import Augment
from mist_core.patches import Batch

CUBE = (1.0, 1.0, 1.0)
OFF = {"flip": 0, "affine": 0, "noise": 0, "brightness": 0, "contrast": 0}


def batch(items=2, size=(6, 7, 8), seed=0):
    """Images of two channels, and labels."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn((items, 2, *size), generator=generator)
    return images, torch.randint(4, (items, *size), generator=generator).to(torch.uint8)


def each(seed, items=1):
    """A generator for every item that a batch may have."""
    return [np.random.default_rng([seed, item]) for item in range(items)]


def changed(seed=0, spacing=CUBE, data=None, **probabilities):
    settings_ = Augment(**OFF | probabilities)
    images, labels = data or batch()
    return augment(Batch(images, labels), settings_, spacing, each(seed, len(images)))


def moments(mask, spacing):
    """Principal second moments of a mask, in mm2."""
    points = np.argwhere(mask) * np.asarray(spacing)
    return np.linalg.eigvalsh(np.cov(points.T))


def test_nothing_changes_when_all_is_switched_off():
    images, labels = batch()
    found = changed()
    assert torch.equal(found[0], images)
    assert torch.equal(found[1], labels)


@pytest.mark.parametrize("kind", ["flip", "affine", "noise", "brightness", "contrast"])
def test_each_kind_changes_images_and_leaves_its_input_alone(kind):
    images, labels = batch()
    found, *_ = changed(data=(images, labels), **{kind: 1})
    assert not torch.equal(found, images)
    assert torch.equal(images, batch()[0])
    assert torch.equal(labels, batch()[1])
    assert (found.dtype, found.shape) == (images.dtype, images.shape)


@pytest.mark.parametrize("kind", ["noise", "brightness", "contrast"])
def test_intensities_change_without_the_labels(kind):
    assert torch.equal(changed(**{kind: 1})[1], batch()[1])


def test_distances_grow_with_the_shapes_that_they_are_of():
    """The signed distance to a ball, after rotation and scaling, is that to the moved ball."""
    size = (40, 40, 40)
    zyx = np.stack(np.meshgrid(*[np.arange(n) - 19.5 for n in size], indexing="ij"))
    distance = torch.from_numpy(np.linalg.norm(zyx, axis=0) - 9).float()[None, None]
    labels = (distance[:, 0] < 0).to(torch.uint8)
    for seed in range(4):
        found = affine(Batch(distance, labels, distance), 1.0, CUBE, each(seed))
        radius = (found.labels.sum().item() * 3 / 4 / np.pi) ** (1 / 3)
        inner = (slice(None), slice(None), *[slice(12, 28)] * 3)
        moved = torch.from_numpy(np.linalg.norm(zyx, axis=0) - radius).float()[None, None]
        torch.testing.assert_close(found.distance_maps[inner], moved[inner], rtol=0, atol=0.5)


def test_maps_are_mirrored_with_their_labels():
    images, labels = batch()
    found = flip(Batch(images, labels, images), 1.0, (0, 2), each(0, len(images)))
    assert torch.equal(found.distance_maps, found.images)


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_what_is_drawn_follows_from_the_generator(seed):
    everything = dict.fromkeys(OFF, 0.5)
    first, second = changed(seed, **everything), changed(seed, **everything)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_items_are_changed_on_their_own():
    images, labels = (torch.cat([t[:1]] * 8) for t in batch())
    found, *_ = changed(data=(images, labels), **dict.fromkeys(OFF, 0.5))
    assert len({tuple(item.flatten().tolist()) for item in found}) > 4


def test_a_flip_mirrors_image_and_labels_together():
    images, labels = batch(items=1)
    found = flip(Batch(images, labels), 1.0, (0, 2), each(0))
    assert torch.equal(found[0], images.flip((2, 4)))
    assert torch.equal(found[1], labels.flip((1, 3)))


def test_each_allowed_axis_is_mirrored_by_itself():
    images, labels = batch(items=1)
    combos = [tuple(a for a in (2, 3, 4) if n >> (a - 2) & 1) for n in range(8)]
    seen = set()
    for seed in range(60):
        found, *_ = flip(Batch(images, labels), 0.5, (0, 1, 2), each(seed))
        seen |= {c for c in combos if torch.equal(found, images.flip(c) if c else images)}
    assert seen == set(combos)


@pytest.mark.parametrize(
    ("named", "axes"), [("xyz", (0, 1, 2)), ("x", (2,)), ("yz", (0, 1)), ("xz", (0, 2)), ("", ())]
)
def test_axes_are_named_x_y_z(named, axes):
    assert flip_axes(Augment(flip_axes=named)) == axes
    assert flip_axes(Augment(flip_axes=named, flip=0)) == ()


def test_left_and_right_are_never_exchanged_when_x_is_left_out():
    images, labels = batch(items=1)
    allowed = [images, images.flip(2), images.flip(3), images.flip((2, 3))]
    for seed in range(30):
        found, *_ = changed(seed, data=(images, labels), flip=1, flip_axes="yz")
        assert any(torch.equal(found, one) for one in allowed)


def test_a_turned_patch_keeps_its_labels_where_the_image_shows_them():
    volume = ball(grid((24, 24, 24)), share=0.3, value=3)
    labels = torch.from_numpy(volume.array)[None]
    images = (labels > 0).float()[:, None]
    for seed in range(10):
        found = affine(Batch(images, labels), 1.0, CUBE, each(seed))
        assert found[1].dtype == labels.dtype
        assert set(found[1].unique().tolist()) == {0, 3}
        agree = (found[0][:, 0] > 0.5) == (found[1] == 3)
        assert agree.float().mean() > 0.98


def test_labels_are_not_mixed():
    _, labels = batch(items=4)
    labels[labels == 1] = 3
    labels[labels == 2] = 0
    _, found, _ = changed(data=(batch(items=4)[0], labels), affine=1)
    assert set(found.unique().tolist()) == {0, 3}


@pytest.mark.parametrize("spacing", [CUBE, (2.0, 1.0, 1.0), (0.8, 2.0, 1.2)])
def test_shapes_are_turned_and_scaled_but_not_sheared(spacing):
    shape = tuple(round(mm / s) for mm, s in zip((24, 48, 36), spacing, strict=True))
    volume = ball(grid(shape, spacing), share=0.3)
    labels = torch.from_numpy(volume.array)[None]
    before = moments(volume.array, spacing)
    for seed in range(8):
        _, found, *_ = affine(Batch(labels[:, None].float(), labels), 1.0, spacing, each(seed))
        after = moments(found[0].numpy(), spacing)
        assert after.max() / after.min() < 1.3
        assert 0.7**2 * 0.9 < after.mean() / before.mean() < 1.4**2 * 1.1


def test_scales_go_both_ways():
    volume = ball(grid((24, 24, 24)), share=0.2)
    labels = torch.from_numpy(volume.array)[None]
    sizes = [
        affine(Batch(labels[:, None].float(), labels), 1.0, CUBE, each(n))[1].sum().item()
        for n in range(20)
    ]
    assert min(sizes) < 0.8 * labels.sum() < 1.25 * labels.sum() < max(sizes)


def test_a_turned_rod_leaves_its_axis():
    rod = torch.zeros((1, 25, 25, 25), dtype=torch.uint8)
    rod[0, 12, 12, 6:19] = 1
    tilts = set()
    for seed in range(10):
        _, found, *_ = affine(Batch(rod[:, None].float(), rod), 1.0, CUBE, each(seed))
        z, y, _ = np.ptp(np.argwhere(found[0].numpy()), axis=0)
        tilts |= {name for name, extent in (("z", z), ("y", y)) if extent >= 3}
    assert tilts == {"z", "y"}


def test_thick_slices_are_not_turned_out_of_their_plane():
    images = torch.arange(1.0, 9)[:, None, None].expand(1, 1, 8, 24, 24)
    labels = torch.zeros((1, 8, 24, 24), dtype=torch.uint8)
    for seed in range(5):
        found, *_ = affine(Batch(images, labels), 1.0, (5.0, 1.0, 1.0), each(seed))
        middle = found[0, 0, 2:6, 10:14, 10:14]
        torch.testing.assert_close(middle, middle[:, :1, :1].expand_as(middle), atol=1e-4, rtol=0)


def test_what_comes_in_from_outside_is_zero():
    images, labels = torch.ones((6, 1, 16, 16, 16)), torch.ones((6, 16, 16, 16), dtype=torch.uint8)
    found, moved, _ = affine(Batch(images, labels), 1.0, CUBE, each(0, 6))
    assert set(moved.unique().tolist()) == {0, 1}
    assert found.min() >= 0
    assert found.max() <= 1 + 1e-5


@settings(max_examples=30)
@given(st.integers(0, 1000))
def test_contrast_stays_within_the_range_and_keeps_the_order(seed):
    images, labels = batch(items=1)
    found, *_ = changed(seed, data=(images, labels), contrast=1)
    assert images.min() <= found.min()
    assert found.max() <= images.max()
    for before, after in zip(images[0], found[0], strict=True):
        ordered = after.flatten()[before.flatten().argsort()]
        assert (ordered.diff() >= 0).all()


def test_brightness_is_one_factor():
    images, _ = batch(items=1)
    for seed in range(10):
        found, *_ = changed(seed, data=batch(items=1), brightness=1)
        factor = (found / images).median().item()
        assert 0.7 <= factor <= 1.3
        torch.testing.assert_close(found, images * factor, rtol=1e-4, atol=1e-6)


def test_noise_is_centred_and_at_most_a_third_of_the_unit():
    images, labels = torch.zeros((20, 2, 12, 12, 12)), torch.zeros((20, 12, 12, 12))
    found, *_ = changed(data=(images, labels), noise=1)
    sigmas = found.flatten(1).std(dim=1)
    assert found.mean().abs() < 0.01
    assert sigmas.max() < 0.35
    assert sigmas.max() - sigmas.min() > 0.1


def test_how_often_follows_the_probability():
    images, labels = batch(items=200, size=(3, 3, 3))
    found, *_ = changed(data=(images, labels), brightness=0.25)
    share = (found != images).flatten(1).any(dim=1).float().mean().item()
    assert share == pytest.approx(0.25, abs=0.1)


def test_an_item_looks_the_same_in_whatever_batch_it_is():
    images, labels = batch(items=4)
    options = Augment(**dict.fromkeys(OFF, 0.7))
    whole = augment(Batch(images, labels), options, CUBE, each(3, 4))
    half = augment(Batch(images[2:], labels[2:]), options, CUBE, each(3, 4)[2:])
    torch.testing.assert_close(whole[0][2:], half[0])
    assert torch.equal(whole[1][2:], half[1])
