"""Patches to train on, and windows that slide over an image."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import grid
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mist_core.config import Preprocess
from mist_core.io import Volume
from mist_core.patches import (
    TrainingCase,
    cut_out,
    draw_piece,
    draw_pieces,
    flipped_mean,
    gaussian_weight,
    open_case,
    sliding_window,
    stacked,
    windows,
)
from mist_core.plan import parse_plan
from mist_core.preprocess import preprocess, write

LABELS = (0, 1, 2, 4)


class Pointwise(nn.Module):
    """A network that looks at one voxel only, so that windows cannot change its answer."""

    def forward(self, x):
        return (torch.cat([2 * x[:, :1] - 1, x.sum(1, keepdim=True).square()], dim=1),)


class Ramp(nn.Module):
    """A network that knows where in its window it is: it multiplies by z - 1, 2 y or 3 x + 5."""

    def forward(self, x):
        z, y, x_ = (torch.arange(n).float() for n in x.shape[2:])
        ramps = (z[:, None, None] - 1, 2 * y[:, None], 3 * x_ + 5)
        return (torch.cat([x[:, :1] * ramp for ramp in ramps], dim=1),)


class Near(nn.Module):
    """A convolution: what it says of a voxel depends on what the window shows around it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv3d(2, 3, 5, padding=2)

    def forward(self, x):
        return (self.conv(x),)


def picture(size, channels=2, seed=0):
    return torch.randn((channels, *size), generator=torch.Generator().manual_seed(seed))


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


def test_windows_by_hand():
    found = [(z.start, y.start, x.start) for z, y, x in windows((4, 10, 11), (4, 4, 8), 0.5)]
    assert found == [(0, y, x) for y in (0, 2, 4, 6) for x in (0, 3)]


@given(
    st.tuples(*[st.integers(1, 12)] * 3),
    st.tuples(*[st.integers(0, 20)] * 3),
    st.sampled_from([0.0, 0.25, 0.5, 0.75]),
)
def test_windows_cover_all_and_overlap_as_asked(patch_size, more, overlap):
    size = tuple(p + m for p, m in zip(patch_size, more, strict=True))
    covered = np.zeros(size, int)
    boxes = list(windows(size, patch_size, overlap))
    for box in boxes:
        covered[box] += 1
        assert covered[box].shape == patch_size
    assert covered.min() >= 1
    for axis in range(3):
        starts = sorted({box[axis].start for box in boxes})
        assert max(np.diff(starts), default=0) <= np.ceil(patch_size[axis] * (1 - overlap))


def test_the_weight_of_a_window_is_a_gaussian_of_an_eighth_of_it():
    weight = gaussian_weight((9, 9, 17))
    assert weight[4, 4, 8] == weight.max() == 1
    assert weight[4, 4, 12].item() == pytest.approx(np.exp(-0.5 * (4 / (17 / 8)) ** 2))
    assert weight[2, 3, 8].item() == pytest.approx(np.exp(-0.5 * (4 + 1) / (9 / 8) ** 2))
    assert weight.min() > 0
    assert torch.equal(weight, weight.flip((0, 1, 2)))


def test_the_weight_of_a_window_is_that_of_monai():
    utils = pytest.importorskip("monai.data.utils")
    for patch_size in ((8, 8, 8), (9, 12, 15)):
        there = utils.compute_importance_map(patch_size, mode="gaussian", sigma_scale=0.125)
        there = (there / there.max()).squeeze()
        here = gaussian_weight(patch_size)
        away = there > 2e-3  # below, both are clamped, to different values
        torch.testing.assert_close(here[away], there[away])


@settings(max_examples=30)
@given(
    st.tuples(*[st.integers(1, 14)] * 3),
    st.tuples(*[st.integers(1, 9)] * 3),
    st.sampled_from([0.0, 0.5]),
    st.integers(1, 5),
    st.sampled_from([(), (0,), (0, 1, 2)]),
)
def test_a_pointwise_network_gives_its_answer_whatever_the_windows(
    size, patch_size, overlap, batch_size, axes
):
    image = picture(size)
    options = {"overlap": overlap, "flip_axes": axes, "batch_size": batch_size}
    found = sliding_window(Pointwise(), image, patch_size, **options)
    torch.testing.assert_close(found, Pointwise()(image[None])[0][0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_windows_are_blended_by_weight(axis):
    size = [1, 1, 1]
    size[axis] = 5
    patch_size = tuple(4 if n == 5 else 1 for n in size)
    found = sliding_window(Ramp(), torch.ones((1, *size)), patch_size, overlap=0.5)[axis].flatten()
    ramp = torch.arange(4.0) * (1, 2, 3)[axis] + (-1, 0, 5)[axis]
    weight = gaussian_weight(patch_size).flatten()
    total = torch.zeros(5)
    total[:4] += ramp * weight
    total[1:] += ramp * weight
    torch.testing.assert_close(found[[0, 4]], ramp[[0, 3]])
    both = weight[1:] + weight[:3]
    torch.testing.assert_close(found[1:4], total[1:4] / both)


def test_windows_are_blended_as_monai_does_it():
    inferers = pytest.importorskip("monai.inferers")
    model, image, patch_size = Near().eval(), picture((12, 16, 8)), (8, 8, 8)
    with torch.inference_mode():
        there = inferers.sliding_window_inference(
            image[None],
            patch_size,
            3,
            lambda x: model(x)[0],
            overlap=0.5,
            roi_weight_map=gaussian_weight(patch_size),
        )[0]
        here = sliding_window(model, image, patch_size, overlap=0.5, batch_size=3)
    torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-5)


def test_a_smaller_image_is_shown_with_zeros_on_both_sides():
    found = sliding_window(Ramp(), torch.ones((1, 1, 1, 3)), (1, 1, 6), overlap=0.5)
    # Three voxels of padding: one before, two behind.
    assert found[2].flatten().tolist() == pytest.approx([8, 11, 14])


def test_mirrored_windows_are_averaged():
    image = torch.ones((1, 1, 1, 1, 5))
    plain = flipped_mean(Ramp(), image, ())[0, 2].flatten()
    assert plain.tolist() == [5, 8, 11, 14, 17]
    assert flipped_mean(Ramp(), image, (2,))[0, 2].flatten().tolist() == [11] * 5
    assert flipped_mean(Ramp(), image, (0, 1))[0, 2].flatten().tolist() == plain.tolist()


def test_outputs_change_places_where_left_and_right_do():
    ramps = torch.tensor([[5.0, 8, 11], [7, 9, 20]])

    class Halves(nn.Module):
        def forward(self, x):
            return (ramps[None, :, None, None],)

    image = torch.ones((1, 1, 1, 1, 3))
    found = flipped_mean(Halves(), image, (2,), mirrored=(1, 0))[0, :, 0, 0]
    assert found.tolist() == [[12.5, 8.5, 9], [9, 8.5, 12.5]]
    found = flipped_mean(Halves(), image, (1,), mirrored=(1, 0))[0, :, 0, 0]
    assert found.tolist() == ramps.tolist()


def test_every_combination_of_axes_is_shown_once():
    seen = []

    class Seen(nn.Module):
        def forward(self, x):
            seen.append(tuple(x.flatten().tolist()))
            return (x,)

    image = torch.arange(8.0).reshape(1, 1, 2, 2, 2)
    torch.testing.assert_close(flipped_mean(Seen(), image, (0, 1, 2)), image)
    assert len(seen) == len(set(seen)) == 8


def test_only_the_finest_head_counts():
    class Heads(nn.Module):
        def forward(self, x):
            return (x, x[..., ::2, ::2, ::2] + 1)

    image = picture((4, 4, 4))
    torch.testing.assert_close(sliding_window(Heads(), image, (4, 4, 4), overlap=0.5), image)


@pytest.mark.parametrize("batch_size", [1, 2, 7, 100])
def test_how_many_windows_go_together_is_of_no_account(batch_size):
    model, image = Near(), picture((9, 12, 10))
    with torch.inference_mode():
        one = sliding_window(model, image, (4, 6, 5), overlap=0.5)
        many = sliding_window(model, image, (4, 6, 5), overlap=0.5, batch_size=batch_size)
    torch.testing.assert_close(many, one, rtol=1e-4, atol=1e-5)


def test_logits_in_half_precision_are_summed_in_full():
    class Half(nn.Module):
        def forward(self, x):
            return (x.to(torch.bfloat16),)

    found = sliding_window(Half(), torch.ones((1, 8, 8, 8)), (4, 4, 4), overlap=0.5)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.ones((1, 8, 8, 8)))
