"""Random changes to patches."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from conftest import ball, grid
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from test_predict import plan_of
from torch.nn import functional as F

from mist_core.augment import (
    AUGMENTATIONS,
    INTENSITIES,
    KINDS,
    Kind,
    Recipe,
    add_noise,
    bend,
    bend_negative,
    blur,
    brighten,
    change_contrast,
    draw,
    low_resolution,
    low_resolution_matrix,
    mirror,
    mirror_axes,
    moved,
    reach,
    recipe_for,
)
from mist_core.augment import augment as augment_pieces
from mist_core.config import Augment, Train
from mist_core.patches import Batch, Piece, TrainingCase, cut_out, draw_piece

CUBE = (1.0, 1.0, 1.0)
THICK = (5.0, 1.0, 1.0)
SEEDS = st.integers(0, 10_000)


def batch(items=2, size=(6, 7, 8), seed=0, channels=2, classes=4):
    """Images, and labels with their memberships in place of distance maps."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn((items, channels, *size), generator=generator)
    labels = torch.randint(classes, (items, *size), generator=generator).to(torch.uint8)
    return Batch(images, labels, memberships(labels, classes))


def memberships(labels, classes=4):
    return F.one_hot(labels.long(), classes).movedim(-1, 1).float()


def copied(found):
    return Batch(*(tensor.clone() for tensor in found))


def each(seed, items=1):
    """A generator for every item that a batch may have."""
    return [np.random.default_rng([seed, item]) for item in range(items)]


def recipe(**probabilities):
    """A recipe of these kinds, in the ranges that are used most; channel 1 may be missing."""
    kinds = {n: replace(getattr(Recipe(), n), probability=p) for n, p in probabilities.items()}
    return Recipe(stretch=1.1, optional=(1,) if "missing" in kinds else (), **kinds)


def augment(data, chosen, spacing, generators):
    """The patches of a batch, of which nothing is known beyond their sides."""
    images, labels, maps = data
    maps = [None] * len(images) if maps is None else maps
    pieces = [Piece(*one) for one in zip(images, labels, maps, strict=True)]
    drawn = [draw(chosen, images.shape[1], spacing, generator) for generator in generators]
    return augment_pieces(pieces, drawn[: len(pieces)], chosen, tuple(labels.shape[1:]), spacing)


EVERYTHING = recipe(**dict.fromkeys(KINDS, 0.7))


def changed(seed=0, spacing=CUBE, data=None, **probabilities):
    data = data or batch()
    return augment(data, recipe(**probabilities), spacing, each(seed, len(data.images)))


def matrices(seeds, spacing=CUBE, **kinds):
    """What is drawn for as many patches."""
    chosen = Recipe(**kinds)
    return [draw(chosen, 1, spacing, *each(seed)).matrix for seed in range(seeds)]


def shown(image, matrix, spacing=CUBE, labels=None, maps=None):
    """An item, as it is seen through a matrix: image (C, Z, Y, X)."""
    labels = torch.zeros(image.shape[1:], dtype=torch.uint8) if labels is None else labels
    item = Piece(image, labels, maps)
    image, labels, maps, _ = moved(item, np.asarray(matrix, float), image.shape[1:], spacing)
    return Batch(image, labels, maps)


def moments(mask, spacing):
    """Principal second moments of a mask, in mm2."""
    points = np.argwhere(np.asarray(mask)) * np.asarray(spacing)
    return np.linalg.eigvalsh(np.cov(points.T))


# --- recipes --------------------------------------------------------------------------------------


def test_names_in_the_config_are_those_of_the_library():
    assert tuple(Augment.model_fields) == KINDS
    assert get_args(Train.model_fields["augmentation"].annotation) == tuple(AUGMENTATIONS)


def test_a_probability_of_the_config_overrules_the_recipe():
    chosen = Train(augmentation="nnunet", augment={"noise": 0.9, "blur": 0})
    found = recipe_for(chosen, plan_of())
    assert found.noise == Kind(0.9, 0, 0.1, alike=True)
    assert found.blur.probability == 0
    assert (found.gamma, found.mirror) == (AUGMENTATIONS["nnunet"].gamma, Kind(0.5))


def test_a_recipe_knows_class_indices_and_not_label_values():
    fields = plan_of(labels=(0, 3, 5, 9)).model_dump()
    fields["dataset_info"]["mirrored_labels"] = [(9, 3)]
    plan = plan_of().model_validate(fields)
    found = recipe_for(Train(mirror_axes="xz"), plan)
    assert (found.mirrored, found.mirror_axes) == ((0, 3, 2, 1), (0, 2))


@pytest.mark.parametrize(
    ("named", "axes"), [("xyz", (0, 1, 2)), ("x", (2,)), ("yz", (0, 1)), ("xz", (0, 2)), ("", ())]
)
def test_axes_are_named_x_y_z(named, axes):
    assert mirror_axes(Train(mirror_axes=named)) == axes
    assert mirror_axes(Train(mirror_axes=named, augment={"mirror": 0})) == ()
    assert mirror_axes(Train(mirror_axes=named, augmentation="none")) == ()


def test_nothing_is_mirrored_unless_a_recipe_or_the_user_says_so():
    found = {name: mirror_axes(Train(augmentation=name)) for name in AUGMENTATIONS}
    assert found == {"default": (), "mist": (0, 1, 2), "nnunet": (0, 1, 2), "none": ()}
    assert mirror_axes(Train(augmentation="none", mirror_axes="x", augment={"mirror": 0.5})) == (2,)
    assert mirror_axes(Train(augmentation="mist", mirror_axes="")) == ()


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_what_is_drawn_stays_in_its_range(name):
    chosen = AUGMENTATIONS[name]
    certain = {kind: replace(getattr(chosen, kind), probability=1.0) for kind in KINDS}
    chosen = replace(chosen, **certain)
    drawn = [draw(chosen, 3, CUBE, *each(seed)) for seed in range(300)]
    for kind in INTENSITIES:
        amounts = np.array([changes.amounts[kind] for changes in drawn])
        low, high = certain[kind].low, certain[kind].high
        used = amounts[~np.isnan(amounts)]
        assert low <= used.min() < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < used.max() <= high
        assert (used < (low + high) / 2).mean() == pytest.approx(0.5, abs=0.15)
        assert len(used) / amounts.size == pytest.approx(certain[kind].share, abs=0.1)
        if certain[kind].alike:
            assert (amounts == amounts[:, :1]).all()
    growth = np.linalg.det([np.linalg.inv(changes.matrix) for changes in drawn]) ** (1 / 3)
    scaling = certain["scaling"]
    assert scaling.low / chosen.stretch <= growth.min() < scaling.low * 1.1
    assert scaling.high / 1.1 < growth.max() <= scaling.high * chosen.stretch


def test_angles_and_factors_stay_in_their_ranges():
    angles = []
    for matrix in matrices(300, THICK, rotation=Kind(1.0, -30, 30)):
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
        np.testing.assert_allclose(matrix[0], [1, 0, 0])
        angles.append(np.rad2deg(np.arctan2(matrix[2, 1], matrix[1, 1])))
    assert -30 <= min(angles) < -27
    assert 27 < max(angles) <= 30
    found = matrices(300, scaling=Kind(1.0, 0.7, 1.4), stretch=1.1)
    factors = np.array([1 / np.diag(matrix) for matrix in found])
    assert factors.min() >= 0.7 / 1.1
    assert factors.max() <= 1.4 * 1.1
    assert (factors.max(axis=1) / factors.min(axis=1)).max() <= 1.1**2
    same = matrices(20, scaling=Kind(1.0, 1, 1.4))
    assert all(np.array_equal(matrix, matrix[0, 0] * np.eye(3)) for matrix in same)


def test_a_kind_leaves_alone_what_is_drawn_for_the_others():
    whole = draw(recipe(**dict.fromkeys(KINDS, 1.0)), 2, CUBE, *each(0))
    for kind in INTENSITIES:
        alone = draw(recipe(**{kind: 1.0}), 2, CUBE, *each(0))
        np.testing.assert_array_equal(alone.amounts[kind], whole.amounts[kind])
        assert alone.matrix is None
        assert alone.mirrored == ()


def test_how_often_follows_the_probability():
    drawn = [draw(recipe(**dict.fromkeys(KINDS, 0.25)), 1, CUBE, *each(n)) for n in range(400)]
    shares = [np.mean([axis in changes.mirrored for changes in drawn]) for axis in range(3)]
    shares += [np.mean([~np.isnan(changes.amounts[k]) for changes in drawn]) for k in INTENSITIES]
    shares.append(np.mean([changes.matrix is not None for changes in drawn]) - 0.25 * 0.75)
    assert shares == pytest.approx([0.25] * len(shares), abs=0.08)


# --- all together ---------------------------------------------------------------------------------


def test_nothing_changes_when_all_is_switched_off():
    found = augment(batch(), AUGMENTATIONS["none"], CUBE, each(0, 2))
    for before, after in zip(batch(), found, strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_changes_images_and_leaves_its_input_alone(kind):
    data = batch()
    found = changed(data=data, **{kind: 1})
    assert not torch.equal(found.images, data.images)
    assert all(map(torch.equal, data, batch()))
    for before, after in zip(data, found, strict=True):
        assert (after.dtype, after.shape) == (before.dtype, before.shape)
    assert torch.equal(found.labels, data.labels) == (kind in (*INTENSITIES, "missing"))


@settings(max_examples=20)
@given(SEEDS)
def test_an_item_looks_the_same_in_whatever_batch_it_is(seed):
    data = batch(items=4)
    whole = augment(data, EVERYTHING, CUBE, each(seed, 4))
    half = augment(Batch(*(t[2:] for t in data)), EVERYTHING, CUBE, each(seed, 4)[2:])
    torch.testing.assert_close(whole.images[2:], half.images)
    torch.testing.assert_close(whole.distance_maps[2:], half.distance_maps)
    assert torch.equal(whole.labels[2:], half.labels)


def test_items_are_changed_on_their_own():
    data = Batch(*(torch.cat([t[:1]] * 8) for t in batch()))
    found = augment(data, EVERYTHING, CUBE, each(0, 8))
    assert len({tuple(item.flatten().tolist()) for item in found.images}) == 8


@settings(max_examples=20)
@given(SEEDS)
def test_how_images_lie_in_memory_is_of_no_account(seed):
    data = batch()
    turned = data._replace(images=data.images.to(memory_format=torch.channels_last_3d))
    first, second = (augment(each_, EVERYTHING, CUBE, each(seed, 2)) for each_ in (data, turned))
    torch.testing.assert_close(first.images, second.images)


@settings(max_examples=20)
@given(SEEDS)
def test_labels_are_not_mixed(seed):
    data = batch(items=4)
    data.labels[data.labels == 1] = 3
    data.labels[data.labels == 2] = 0
    found = augment(data, EVERYTHING, CUBE, each(seed, 4))
    assert set(found.labels.unique().tolist()) <= {0, 3}


def test_more_than_255_classes_are_changed_too():
    data = batch()
    many = data._replace(labels=(data.labels.to(torch.int32) + 300).to(torch.uint16))
    chosen = replace(EVERYTHING, mirrored=())
    few, found = (augment(each_, chosen, CUBE, each(3, 2)) for each_ in (data, many))
    assert found.labels.dtype == torch.uint16
    inside = found.labels.int() > 0
    assert torch.equal(found.labels.int()[inside] - 300, few.labels.int()[inside])


# --- what lies beyond a patch ---------------------------------------------------------------------


def large_case(edge=40):
    """An image in which no two voxels are alike, all of them labelled."""
    z, y, x = np.meshgrid(*[np.arange(edge, dtype=np.float32)] * 3, indexing="ij")
    image = z + y / edge + x / edge**2 + np.sin(z / 3) * np.cos(x / 4) / 2
    return TrainingCase(
        "a", image[None], np.ones(image.shape, np.uint8), np.zeros((0, 4), np.int32)
    )


@given(SEEDS, st.sampled_from([CUBE, (2.0, 1.0, 1.5), THICK]))
def test_a_turned_patch_shows_what_lies_around_it(seed, spacing):
    """Against scipy, on the whole case: nothing is cut off, nothing comes in from nowhere."""
    case, size = large_case(), (4, 6, 5)
    (changes,) = (draw(recipe(rotation=1, scaling=1), 1, spacing, g) for g in each(seed))
    beyond = reach(changes, size, spacing)
    piece = draw_piece(case, size, 0.0, np.random.default_rng(seed), beyond)
    found = moved(piece, changes.matrix, size, spacing)
    patch = cut_out(piece, size).image[0].numpy()
    flat = case.image[0]
    corner = next(
        c
        for c in np.argwhere(flat == patch[0, 0, 0])
        if np.array_equal(flat[tuple(slice(a, a + n) for a, n in zip(c, size, strict=True))], patch)
    )
    middle = corner + (np.array(size) - 1) / 2
    offsets = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1) + corner - middle
    places = middle + (offsets * spacing) @ changes.matrix.T / spacing
    inside = ((places >= 0) & (places <= np.array(flat.shape) - 1)).all(-1)
    expected = ndimage.map_coordinates(flat, places.reshape(-1, 3).T, order=1).reshape(size)
    np.testing.assert_allclose(found.image[0].numpy()[inside], expected[inside], atol=1e-4)
    assert found.labels.numpy()[inside].all()


def test_what_is_not_moved_reaches_nowhere():
    (changes,) = (draw(recipe(noise=1), 1, CUBE, g) for g in each(0))
    assert reach(changes, (8, 8, 8), CUBE) == (0, 0, 0)


def test_half_as_large_shapes_need_twice_the_patch():
    (changes,) = (draw(Recipe(scaling=Kind(1.0, 0.5, 0.5)), 1, THICK, g) for g in each(0))
    assert reach(changes, (8, 10, 12), THICK) == (5, 6, 7)  # half of the size, and one to be sure


# --- mirrors --------------------------------------------------------------------------------------


def test_a_mirror_by_hand():
    item = Piece(*(t[0] for t in batch()))
    found = mirror(item, (0, 2))
    assert torch.equal(found.image, item.image.flip((1, 3)))
    assert torch.equal(found.labels, item.labels.flip((0, 2)))
    assert torch.equal(found.distance_maps, item.distance_maps.flip((1, 3)))


@given(SEEDS, st.sets(st.sampled_from([0, 1, 2])), st.permutations([1, 2, 3]))
def test_mirrored_twice_is_as_before(seed, axes, classes):
    one, other, _ = classes
    mirrored = tuple({one: other, other: one}.get(k, k) for k in range(4))
    item = Piece(*(t[0] for t in batch(seed=seed)))
    found = mirror(item, tuple(axes), mirrored)
    assert torch.equal(found.distance_maps, memberships(found.labels[None])[0])
    found = mirror(found, tuple(axes), mirrored)
    assert all(map(torch.equal, found[:3], item[:3]))


def test_classes_change_places_along_x_only():
    labels = torch.tensor([0, 1, 1, 2, 3, 4], dtype=torch.uint8).reshape(1, 1, 6)
    maps = memberships(labels[None], 5)[0, :4]
    for axes, expected in (((2,), [4, 3, 1, 2, 2, 0]), ((0, 1), [0, 1, 1, 2, 3, 4])):
        item = Piece(labels[None].float(), labels, maps)
        item = mirror(item, axes, (0, 2, 1, 3))  # 4 is to be ignored
        assert item.labels.flatten().tolist() == expected


def two_sided(edge=16):
    """A left organ (1), which lies at the end of x, and a right one (2)."""
    labels = torch.zeros((1, edge, edge, edge), dtype=torch.uint8)
    labels[0, 5:11, 5:11, 10:14], labels[0, 5:11, 5:11, 2:6] = 1, 2
    return Batch((labels > 0).float()[:, None], labels, memberships(labels, 3))


def is_left(labels, one=1, other=2):
    """Whether one label lies more to the left than another."""
    centres = [np.argwhere(labels.numpy() == label)[:, -1].mean() for label in (one, other)]
    return centres[0] > centres[1]


def test_left_stays_left_and_right_stays_right():
    data = two_sided()
    chosen = recipe(mirror=0.5, rotation=0.5, scaling=0.5)
    declared = replace(chosen, mirrored=(0, 2, 1))
    for seed in range(30):
        found = augment(data, declared, CUBE, each(seed))
        assert is_left(found.labels)
        assert is_left(found.distance_maps[:, 1] > found.distance_maps[:, 2], 1, 0)
    undeclared = [is_left(augment(data, chosen, CUBE, each(n)).labels) for n in range(30)]
    assert not all(undeclared)
    kept = replace(chosen, mirror_axes=(0, 1))
    assert all(is_left(augment(data, kept, CUBE, each(n)).labels) for n in range(30))


def test_each_allowed_axis_is_mirrored_by_itself():
    images, labels, _ = batch(items=1)
    combos = [tuple(a for a in (2, 3, 4) if n >> (a - 2) & 1) for n in range(8)]
    seen = set()
    for seed in range(60):
        found = changed(seed, data=Batch(images, labels), mirror=0.5).images
        seen |= {c for c in combos if torch.equal(found, images.flip(c) if c else images)}
    assert seen == set(combos)


# --- places ---------------------------------------------------------------------------------------


def test_turns_and_scales_by_hand():
    item = Batch(*(t[0] for t in batch(size=(5, 6, 6))))
    quarter = [[1, 0, 0], [0, 0, 1], [0, -1, 0]]
    found = shown(item.images, quarter, THICK, item.labels, item.distance_maps)
    for before, after, axes in zip(item, found, ((2, 3), (1, 2), (2, 3)), strict=True):
        torch.testing.assert_close(after, before.rot90(1, axes), atol=1e-4, rtol=0)
    row = torch.tensor([0.0, 1, 2, 3]).reshape(1, 1, 1, 4)
    halves = shown(row, np.diag([1, 1, 0.5])).images  # twice as large
    torch.testing.assert_close(halves.flatten(), torch.tensor([0.75, 1.25, 1.75, 2.25]))


@given(SEEDS, st.tuples(*[st.integers(1, 9)] * 3), st.sampled_from([CUBE, THICK, (0.7, 2, 1.1)]))
def test_neither_turned_nor_scaled_is_as_before(seed, size, spacing):
    item = Batch(*(t[0] for t in batch(size=size, seed=seed)))
    found = shown(item.images, np.eye(3), spacing, item.labels, item.distance_maps)
    torch.testing.assert_close(found.images, item.images, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.distance_maps, item.distance_maps, atol=1e-5, rtol=0)
    assert torch.equal(found.labels, item.labels)


@settings(max_examples=20)
@given(SEEDS, st.sampled_from([CUBE, THICK, (0.7, 2, 1.1)]))
def test_places_are_those_of_scipy(seed, spacing):
    item = Batch(*(t[0] for t in batch(size=(8, 9, 10), seed=seed)))
    matrix = draw(recipe(rotation=1, scaling=1), 1, spacing, *each(seed)).matrix
    in_voxels = np.diag(1 / np.array(spacing)) @ matrix @ np.diag(spacing)
    centre = (np.array(item.labels.shape) - 1) / 2
    options = {"offset": centre - in_voxels @ centre}
    found = shown(item.images, matrix, spacing, item.labels, item.distance_maps)

    def expected(volume, **more):
        there = ndimage.affine_transform(volume.numpy(), in_voxels, **options, **more)
        return torch.from_numpy(there)

    for image, volume in zip(found.images, item.images, strict=True):
        there = expected(volume, order=1, mode="grid-constant")
        torch.testing.assert_close(image, there, atol=1e-4, rtol=0)
    labels = expected(item.labels, order=0, mode="grid-constant")
    assert (found.labels == labels).float().mean() > 0.995  # but where two voxels are as near
    growth = np.linalg.det(matrix) ** (-1 / 3)
    for one, volume in zip(found.distance_maps, item.distance_maps, strict=True):
        there = expected(volume, order=1, mode="nearest") * growth
        torch.testing.assert_close(one, there, atol=1e-4, rtol=0)


def test_distances_grow_with_the_shapes_that_they_are_of():
    """The signed distance to a ball, after rotation and scaling, is that to the moved ball."""
    zyx = np.stack(np.meshgrid(*[np.arange(n) - 19.5 for n in (40, 40, 40)], indexing="ij"))
    distance = torch.from_numpy(np.linalg.norm(zyx, axis=0) - 9).float()[None]
    labels = (distance[0] < 0).to(torch.uint8)
    kinds = {"rotation": Kind(1.0, -30, 30), "scaling": Kind(1.0, 0.7, 1.4)}
    for matrix in matrices(4, **kinds):
        found = shown(distance, matrix, CUBE, labels, distance)
        radius = (found.labels.sum().item() * 3 / 4 / np.pi) ** (1 / 3)
        inner = (slice(None), *[slice(12, 28)] * 3)
        moved = torch.from_numpy(np.linalg.norm(zyx, axis=0) - radius).float()[None]
        torch.testing.assert_close(found.distance_maps[inner], moved[inner], rtol=0, atol=0.5)


def test_a_turned_patch_keeps_its_labels_where_the_image_shows_them():
    labels = torch.from_numpy(ball(grid((24, 24, 24)), share=0.3, value=3).array)[None]
    data = Batch((labels > 0).float()[:, None], labels)
    for seed in range(10):
        found = changed(seed, data=data, rotation=1, scaling=1)
        assert set(found.labels.unique().tolist()) == {0, 3}
        agree = (found.images[:, 0] > 0.5) == (found.labels == 3)
        assert agree.float().mean() > 0.98


@pytest.mark.parametrize("spacing", [CUBE, (2.0, 1.0, 1.0), (0.8, 2.0, 1.2)])
def test_shapes_are_turned_and_scaled_but_not_sheared(spacing):
    shape = tuple(round(mm / s) for mm, s in zip((24, 48, 36), spacing, strict=True))
    labels = torch.from_numpy(ball(grid(shape, spacing), share=0.3).array)
    before = moments(labels, spacing)
    kinds = {"rotation": Kind(1.0, -30, 30), "scaling": Kind(1.0, 0.7, 1.4)}
    for matrix in matrices(8, spacing, **kinds):
        after = moments(shown(labels[None].float(), matrix, spacing, labels).labels, spacing)
        assert after.max() / after.min() < 1.3
        assert 0.7**2 * 0.9 < after.mean() / before.mean() < 1.4**2 * 1.1


def test_a_turned_rod_leaves_its_axis():
    rod = torch.zeros((25, 25, 25), dtype=torch.uint8)
    rod[12, 12, 6:19] = 1
    tilts = set()
    for matrix in matrices(10, rotation=Kind(1.0, -30, 30)):
        found = shown(rod[None].float(), matrix, CUBE, rod).labels
        z, y, _ = np.ptp(np.argwhere(found.numpy()), axis=0)
        tilts |= {name for name, extent in (("z", z), ("y", y)) if extent >= 3}
    assert tilts == {"z", "y"}


def test_what_comes_in_from_outside_is_zero():
    images, labels = torch.ones((6, 1, 16, 16, 16)), torch.ones((6, 16, 16, 16), dtype=torch.uint8)
    found = changed(data=Batch(images, labels), rotation=1, scaling=1)
    assert set(found.labels.unique().tolist()) == {0, 1}
    assert found.images.min() >= 0
    assert found.images.max() <= 1 + 1e-5


# --- intensities ----------------------------------------------------------------------------------


def channels(seed=0, size=(9, 8, 7), number=2):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.rand((number, *size), generator=generator) - 1


@given(SEEDS, st.floats(0.3, 2), st.tuples(*[st.integers(1, 9)] * 3))
def test_blur_is_that_of_scipy_and_keeps_the_mean(seed, sigma, size):
    before = channels(seed, size)
    found = blur(before, np.array([sigma, 1.0]))
    for one, image, own in zip(found, before, (sigma, 1.0), strict=True):
        there = ndimage.gaussian_filter(image.numpy(), own)  # in float64 where it counts
        torch.testing.assert_close(one, torch.from_numpy(there), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.mean((1, 2, 3)), before.mean((1, 2, 3)), atol=1e-5, rtol=0)


@given(st.sampled_from([blur, low_resolution]), st.floats(0.5, 1), st.floats(-3, 3))
def test_one_value_stays_one_value(change, amount, value):
    before = torch.full((1, 5, 6, 7), value)
    torch.testing.assert_close(change(before, np.array([amount])), before)


def test_low_resolution_by_hand():
    rows = [[0, 1, 0, 0], [0, 0.75, 0, 0.25], [0, 0.25, 0, 0.75], [0, 0, 0, 1]]
    assert low_resolution_matrix(4, 0.5).tolist() == rows
    assert low_resolution_matrix(5, 1.0).tolist() == np.eye(5).tolist()
    assert low_resolution_matrix(1, 0.1).tolist() == [[1]]


@given(SEEDS, st.floats(0.3, 1), st.tuples(*[st.integers(2, 12)] * 3))
def test_low_resolution_is_that_of_two_interpolations(seed, share, size):
    before = channels(seed, size, number=1)
    fewer = F.interpolate(
        before[None], [max(1, round(n * share)) for n in size], mode="nearest-exact"
    )
    there = F.interpolate(fewer, size, mode="trilinear")[0]
    torch.testing.assert_close(low_resolution(before, np.array([share])), there)


def test_thick_slices_are_not_interpolated():
    before = torch.arange(9.0)[:, None, None].expand(1, 9, 8, 7)
    torch.testing.assert_close(low_resolution(before, np.array([0.5]), thick=0), before)
    data = Batch(before[None], torch.zeros((1, 9, 8, 7), dtype=torch.uint8))
    for seed in range(5):
        found = changed(seed, THICK, data, low_resolution=1, rotation=1).images[0, 0]
        middle = found[:, 3:5, 3:5]  # where nothing comes in from outside
        torch.testing.assert_close(middle, middle[:, :1, :1].expand_as(middle))


@given(SEEDS, st.floats(0.65, 1.5))
def test_contrast_stays_within_the_range_and_keeps_the_order(seed, factor):
    before = channels(seed)
    found = change_contrast(before, np.array([factor, 1.0]))
    torch.testing.assert_close(found[1], before[1])
    assert before[0].min() <= found[0].min()
    assert found[0].max() <= before[0].max()
    assert (found[0].flatten()[before[0].flatten().argsort()].diff() >= 0).all()


def test_brightness_and_contrast_by_hand():
    before = torch.tensor([[0.0, 1, 3, 4], [1, 2, 3, 6]]).reshape(2, 1, 1, 4)
    bright = brighten(before, np.array([2.0, 0.5])).flatten()
    assert bright.tolist() == [0, 2, 6, 8, 0.5, 1, 1.5, 3]
    contrast = change_contrast(before, np.array([0.5, 1.5])).flatten()
    assert contrast.tolist() == [1, 1.5, 2.5, 3, 1, 1.5, 3, 6]


@given(SEEDS, st.floats(0.7, 1.5), st.sampled_from([bend, bend_negative]))
def test_gamma_keeps_mean_deviation_and_order(seed, exponent, change):
    before = channels(seed)
    found = change(before, np.array([exponent, 1.0]))
    torch.testing.assert_close(found[1], before[1], atol=1e-5, rtol=0)
    for one, image in zip(found, before, strict=True):
        torch.testing.assert_close(one.mean(), image.mean(), atol=1e-5, rtol=0)
        torch.testing.assert_close(one.std(), image.std(), atol=1e-5, rtol=0)
        assert (one.flatten()[image.flatten().argsort()].diff() >= -1e-6).all()


def test_gamma_is_that_of_nnunet():
    before = channels(number=1)
    for change, sign in ((bend, 1), (bend_negative, -1)):
        image = sign * before.numpy().astype(float)
        low, extent = image.min(), np.ptp(image)
        there = ((image - low) / extent) ** 1.3 * extent + low
        there = (there - there.mean()) / there.std() * image.std() + image.mean()
        found = change(before, np.array([1.3]))
        torch.testing.assert_close(found, torch.from_numpy(sign * there).float())


@pytest.mark.parametrize("change", [blur, brighten, change_contrast, bend, bend_negative])
def test_an_image_of_one_value_stays_finite(change):
    for value in (0.0, 5.0):
        before = torch.full((1, 4, 4, 4), value)
        found = change(before, np.array([0.8]))
        torch.testing.assert_close(found, before * (0.8 if change is brighten else 1))


def test_noise_is_centred_and_as_strong_as_asked():
    sigmas = np.array([0.0, 0.1, 0.3])
    found = add_noise(torch.zeros((3, 20, 20, 20)), sigmas, np.array([1, 2, 3]))
    assert found.mean().abs() < 0.01
    assert found.flatten(1).std(1).tolist() == pytest.approx(sigmas.tolist(), rel=0.05)


def test_channels_are_changed_by_amounts_of_their_own():
    data = batch(items=1, channels=3)
    factors = changed(data=data, brightness=1).images / data.images
    found = factors[0].flatten(1).median(1).values
    assert len(set(found.round(decimals=3).tolist())) == 3
    alike = Recipe(brightness=Kind(1.0, 0.7, 1.3, alike=True))
    factors = augment(data, alike, CUBE, each(0)).images / data.images
    assert factors.std() < 1e-5
    some = Recipe(brightness=Kind(1.0, 0.7, 1.3, share=0.5))
    kept = [
        (augment(data, some, CUBE, each(n)).images == data.images)[0].flatten(1).all(1).sum().item()
        for n in range(60)
    ]
    assert set(kept) == {0, 1, 2, 3}


# --- optional channels ----------------------------------------------------------------------------

OPTIONAL = Recipe(missing=Kind(0.2), optional=(0, 2))


def test_an_optional_channel_is_left_out_as_often_as_is_said():
    drawn = [draw(OPTIONAL, 3, CUBE, *each(seed)).missing for seed in range(2000)]
    first, last = (sum(number in each for each in drawn) for number in (0, 2))
    both = sum(each == (0, 2) for each in drawn)
    deviation = (2000 * 0.2 * 0.8) ** 0.5  # 18
    assert abs(first - 400) < 4 * deviation
    assert abs(last - 400) < 4 * deviation
    assert abs(both - 80) < 4 * (2000 * 0.04 * 0.96) ** 0.5  # by chance of its own
    assert not any(1 in each for each in drawn)


def test_a_channel_that_is_left_out_is_zeros_and_the_others_are_as_they_were():
    data = batch(channels=3)
    found = augment(data, replace(OPTIONAL, missing=Kind(1)), CUBE, each(0, 2)).images
    assert not found[:, [0, 2]].any()
    assert torch.equal(found[:, 1], data.images[:, 1])


def test_noise_does_not_fill_a_channel_that_a_case_lacks():
    """Only an optional one: of a required channel zeros are an image like others."""
    data = batch(channels=3)
    data.images[0, 0], data.images[1, 1] = 0, 0
    chosen = replace(EVERYTHING, missing=Kind(0), noise=Kind(1, 0.1, 0.2), optional=(0, 2))
    for seed in range(5):
        found = augment(data, chosen, CUBE, each(seed, 2)).images
        assert found.flatten(2).any(-1).tolist() == [[False, True, True], [True, True, True]]


@pytest.mark.parametrize("optional", [(), (1,)])
def test_optional_channels_leave_all_else_that_is_drawn_as_it_was(optional):
    """Of one generator; where there are none, not even a number more is drawn."""
    plain, other = each(5) + each(5)
    before = [draw(recipe(noise=0.5, rotation=0.5), 2, CUBE, plain) for _ in range(3)]
    chosen = replace(recipe(noise=0.5, rotation=0.5), missing=Kind(0.5), optional=optional)
    after = [draw(chosen, 2, CUBE, other) for _ in range(1 if optional else 3)]
    for one, two in zip(before, after, strict=False):
        np.testing.assert_equal(two._replace(missing=()), one)
    assert (plain.random() == other.random()) == (not optional)


def test_the_recipe_knows_the_optional_channels_of_the_plan():
    plan = plan_of()
    assert recipe_for(Train(), plan).optional == ()
    info = {"images": ("t1", "t1c"), "optional_images": ("t1c",)}
    info = plan.dataset_info.model_copy(update=info)
    plan = plan.model_copy(update={"dataset_info": info})
    for name, chance in {"default": 0.2, "mist": 0.2, "nnunet": 0.2, "none": 0.0}.items():
        found = recipe_for(Train(augmentation=name), plan)
        assert (found.optional, found.missing.probability) == ((1,), chance)
    assert recipe_for(Train(augment={"missing": 0.5}), plan).missing.probability == 0.5
