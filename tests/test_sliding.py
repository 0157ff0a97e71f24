"""Windows that slide over an image, and how what a network says of them is blended."""

import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mist_core import sliding
from mist_core.sliding import (
    WindowGrid,
    cells,
    flipped_mean,
    gaussian_weight,
    is_empty,
    sliding_window,
    window_of,
    without_halo,
)

CPU = torch.device("cpu")


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


def window_over(model, image, patch_size, **options):
    """Logits of a whole image, a tensor (C, Z, Y, X)."""
    return sliding_window(model, image.numpy(), patch_size, device=CPU, **options)


def test_windows_by_hand():
    grid = WindowGrid.over((4, 10, 11), (4, 4, 8), 0.5)
    found = [tuple(s.start for s in grid.box(window)) for window in grid.windows()]
    assert found == [(0, y, x) for y in (0, 2, 4, 6) for x in (0, 3)]


@given(
    st.tuples(*[st.integers(1, 12)] * 3),
    st.tuples(*[st.integers(0, 20)] * 3),
    st.sampled_from([0.0, 0.25, 0.5, 0.75]),
)
def test_windows_cover_all_and_overlap_as_asked(patch_size, more, overlap):
    size = tuple(p + m for p, m in zip(patch_size, more, strict=True))
    covered = np.zeros(size, int)
    grid = WindowGrid.over(size, patch_size, overlap)
    boxes = [grid.box(window) for window in grid.windows()]
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
    found = window_over(Pointwise(), image, patch_size, **options)
    torch.testing.assert_close(found, Pointwise()(image[None])[0][0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_windows_are_blended_by_weight(axis):
    size = [1, 1, 1]
    size[axis] = 5
    patch_size = tuple(4 if n == 5 else 1 for n in size)
    found = window_over(Ramp(), torch.ones((1, *size)), patch_size, overlap=0.5)[axis].flatten()
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
        here = window_over(model, image, patch_size, overlap=0.5, batch_size=3)
    torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-5)


def test_a_smaller_image_is_shown_with_zeros_on_both_sides():
    found = window_over(Ramp(), torch.ones((1, 1, 1, 3)), (1, 1, 6), overlap=0.5)
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
    torch.testing.assert_close(window_over(Heads(), image, (4, 4, 4), overlap=0.5), image)


@pytest.mark.parametrize("batch_size", [1, 2, 7, 100])
def test_how_many_windows_go_together_is_of_no_account(batch_size):
    model, image = Near(), picture((9, 12, 10))
    with torch.inference_mode():
        one = window_over(model, image, (4, 6, 5), overlap=0.5)
        many = window_over(model, image, (4, 6, 5), overlap=0.5, batch_size=batch_size)
    torch.testing.assert_close(many, one, rtol=1e-4, atol=1e-5)


def test_logits_in_half_precision_are_summed_in_full():
    class Half(nn.Module):
        def forward(self, x):
            return (x.to(torch.bfloat16),)

    found = window_over(Half(), torch.ones((1, 8, 8, 8)), (4, 4, 4), overlap=0.5)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.ones((1, 8, 8, 8)))


SIZES = st.tuples(*[st.integers(1, 14)] * 3)
PATCHES = st.tuples(*[st.integers(1, 9)] * 3)


@given(SIZES, PATCHES, st.sampled_from([0.0, 0.25, 0.5, 0.9]))
def test_every_voxel_is_in_one_cell(size, patch_size, overlap):
    grid = WindowGrid.over(size, patch_size, overlap)
    count = np.zeros(size, int)
    for window in grid.windows():
        for index in grid.finished_by(window):
            count[grid.cell(index)] += 1
    assert (count == 1).all()


@settings(max_examples=30)
@given(SIZES, PATCHES, st.sampled_from([0.0, 0.25, 0.5, 0.9]))
def test_a_window_touches_the_cells_that_it_shows_something_of(size, patch_size, overlap):
    grid = WindowGrid.over(size, patch_size, overlap)
    every = [index for window in grid.windows() for index in grid.finished_by(window)]
    for window in grid.windows():
        shown = np.zeros(size, bool)
        shown[tuple(slice(max(s.start, 0), s.stop) for s in grid.box(window))] = True
        expected = {index for index in every if shown[grid.cell(index)].any()}
        assert set(grid.touched_by(window)) == expected


@given(SIZES, PATCHES, st.sampled_from([0.0, 0.25, 0.5, 0.9]))
def test_no_later_window_touches_a_cell_that_is_finished(size, patch_size, overlap):
    grid = WindowGrid.over(size, patch_size, overlap)
    shown = np.full(size, -1)  # the last window that shows a voxel
    for number, window in enumerate(grid.windows()):
        box = tuple(slice(max(s.start, 0), s.stop) for s in grid.box(window))
        shown[box] = number
    for number, window in enumerate(grid.windows()):
        for index in grid.finished_by(window):
            assert shown[grid.cell(index)].max() <= number


@given(SIZES, PATCHES, st.sampled_from([0.0, 0.25, 0.5, 0.9]))
def test_the_cells_before_a_cell_are_finished_first(size, patch_size, overlap):
    grid = WindowGrid.over(size, patch_size, overlap)
    done = np.zeros(size, bool)
    for window in grid.windows():
        for index in grid.finished_by(window):
            done[grid.cell(index)] = True
            assert done[grid.cell(index, halo=1)].all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_no_window_ends_within_a_cell_on_the_axis_on_which_windows_move_last(axis):
    size = tuple(np.roll((22, 8, 8), axis).tolist())
    grid = WindowGrid.over(size, (8, 8, 8), 0.5)
    assert grid.axes[0] == axis
    assert grid.starts[axis] == (0, 4, 7, 10, 14)  # ends at 8, 12, 15, 18, 22
    assert grid.cuts[axis] == (0, 4, 7, 8, 10, 12, 14, 15, 18)


@settings(max_examples=30)
@given(SIZES, PATCHES, st.sampled_from([0.0, 0.5]), st.integers(1, 5))
def test_cells_say_of_the_voxels_before_them_what_the_whole_image_says(
    size, patch_size, overlap, batch_size
):
    image = picture(size)
    grid = WindowGrid.over(size, patch_size, overlap)
    whole = window_over(Near(), image, patch_size, overlap=overlap, batch_size=batch_size)

    def network(batch):
        return Near()(batch)[0]

    for cell in cells(network, image.numpy(), grid, device=CPU, batch_size=batch_size):
        expected = whole[(slice(None), *cell.reach)]
        torch.testing.assert_close(cell.logits, expected, rtol=1e-4, atol=1e-4)


def test_windows_move_last_along_the_axis_of_which_they_show_the_smallest_part():
    grid = WindowGrid.over((4, 8, 6), (4, 2, 3), 0.0)  # all of z, a quarter of y, half of x
    found = [tuple(s.start for s in grid.box(window)) for window in grid.windows()]
    assert found == [(0, y, x) for y in (0, 2, 4, 6) for x in (0, 3)]
    grid = WindowGrid.over((4, 6, 8), (4, 3, 2), 0.0)
    found = [tuple(s.start for s in grid.box(window)) for window in grid.windows()]
    assert found == [(0, y, x) for x in (0, 2, 4, 6) for y in (0, 3)]
    assert grid.begun() == 2 * 4 * 6


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_only_cells_that_are_begun_are_held(axis, monkeypatch):
    alive = weakref.WeakSet()

    class Counted(sliding._Sums):
        def __init__(self, *args):
            super().__init__(*args)
            alive.add(self)

    monkeypatch.setattr(sliding, "_Sums", Counted)
    size = tuple(np.roll((64, 16, 8), axis).tolist())
    grid = WindowGrid.over(size, (8, 8, 8), 0.5)
    found = cells(lambda batch: batch, picture(size, 1).numpy(), grid, device=CPU)
    held = [len(alive) for _ in found]
    assert len(held) == 48
    # Two rows of three: that of the window, and the other half of what it shows.
    assert max(held) <= 6


def test_constant_blending_counts_every_voxel_alike():
    image = torch.ones((1, 1, 1, 6))
    grid = WindowGrid.over((1, 1, 6), (1, 1, 4), 0.5)
    options = {"device": CPU, "blending": "constant"}
    found = torch.zeros(6)
    for cell in cells(lambda b: Ramp()(b)[0], image.numpy(), grid, **options):
        own = cell.logits[(slice(None), *without_halo(cell))]
        found[cell.box[2]] = own[2].flatten()
    assert found.tolist() == [5, 8, (11 + 5) / 2, (14 + 8) / 2, 11, 14]


def test_windows_that_show_nothing_are_skipped():
    image = np.zeros((2, 4, 4, 40), np.float32)
    image[:, :, :, 30:] = picture((4, 4, 10)).numpy()
    image[1] += 7
    shown = []

    def network(batch):
        shown.extend(batch)
        return batch

    grid = WindowGrid.over((4, 4, 40), (4, 4, 8), 0.5)
    found = list(cells(network, image, grid, device=CPU, skip_empty=True))
    assert len(shown) == 3
    assert [cell.logits is None for cell in found] == [True] * 6 + [False] * 4
    first = found[6]  # in which only the windows from 24 on say something
    assert first.reach[2].start == 23
    assert torch.isneginf(first.logits[..., 0]).all()
    assert torch.isfinite(first.logits[..., 1:]).all()


def test_an_image_of_nothing_is_shown_all_the_same():
    grid = WindowGrid.over((4, 4, 12), (4, 4, 8), 0.5)
    image = np.full((1, 4, 4, 12), 3.0)
    found = list(cells(lambda b: b, image, grid, device=CPU, skip_empty=True))
    for cell in found:
        torch.testing.assert_close(cell.logits, torch.full_like(cell.logits, 3.0))


def test_a_window_beyond_the_image_shows_zeros_there():
    image = np.arange(1.0, 4.0).reshape(1, 1, 1, 3)
    found = window_of(image, (slice(0, 1), slice(-1, 1), slice(-1, 5)))
    assert found.dtype == np.float32
    assert found.tolist() == [[[[0] * 6, [0, 1, 2, 3, 0, 0]]]]


def test_a_window_with_the_value_of_a_corner_in_each_channel_is_empty():
    image = np.zeros((2, 4, 4, 4))
    image[1] = 5
    image[:, 1, 1, 1] = 9
    first, second = (slice(0, 2),) * 3, (slice(2, 4),) * 3
    assert is_empty(image, second)
    assert not is_empty(image, first)  # its corners are alike
    image[1, 3, 2, 3] = 6
    assert not is_empty(image, second)
    assert not is_empty(image, (slice(1, 2),) * 3)  # one value, but that of something within
    assert is_empty(np.ones((1, 1, 1, 1)), (slice(0, 1),) * 3)


def test_a_window_that_reaches_beyond_the_image_is_empty_where_it_shows_nothing_but_zeros():
    image = np.ones((1, 2, 2, 2))
    beyond = (slice(-1, 3),) * 3
    assert not is_empty(image, beyond)
    assert is_empty(np.zeros((1, 2, 2, 2)), beyond)


def test_what_has_one_value_within_an_image_is_shown():
    """Here a voxel is said to be what it is; the structure fills some windows."""
    image = picture((4, 4, 40)).numpy()
    image[..., 10:30] = 100
    grid = WindowGrid.over((4, 4, 40), (4, 4, 8), 0.5)
    for cell in cells(lambda b: b, image, grid, device=CPU, skip_empty=True):
        torch.testing.assert_close(cell.logits, torch.from_numpy(image[(slice(None), *cell.reach)]))


def test_the_time_left_is_told_every_minute(monkeypatch, caplog):
    """Here every look at the clock takes 25 s: told at the third, after 75 s for 2 of 9 windows."""
    seconds = iter(range(0, 10_000, 25))
    monkeypatch.setattr("mist_core.sliding.time.monotonic", lambda: next(seconds))
    grid = WindowGrid.over((4, 4, 40), (4, 4, 8), 0.5)
    with caplog.at_level("INFO"):
        list(cells(lambda b: b, picture((4, 4, 40)).numpy(), grid, device=CPU))
    assert caplog.messages[0] == "window 2 of 9, 4.4 minutes left"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_sums_may_be_on_another_device_than_the_network():
    gpu = torch.device("cuda")
    image, grid = picture((12, 12, 12)).numpy(), WindowGrid.over((12, 12, 12), (6, 6, 6), 0.5)
    there, here = (
        list(cells(lambda b: Near()(b)[0], image, grid, device=gpu, sums_on=device))
        for device in (gpu, CPU)
    )
    for a, b in zip(there, here, strict=True):
        assert (a.logits.device.type, b.logits.device.type) == ("cuda", "cpu")
        torch.testing.assert_close(a.logits.cpu(), b.logits)


def test_sums_in_half_precision_are_close_to_those_in_full():
    image, grid = picture((12, 12, 12)), WindowGrid.over((12, 12, 12), (6, 6, 6), 0.5)
    sums = [
        list(cells(lambda b: Near()(b)[0], image.numpy(), grid, device=CPU, dtype=dtype))
        for dtype in (torch.float32, torch.float16)
    ]
    for full, half in zip(*sums, strict=True):
        assert half.logits.dtype == torch.float16
        torch.testing.assert_close(half.logits.float(), full.logits, rtol=5e-3, atol=5e-3)


@settings(max_examples=30)
@given(
    st.tuples(*[st.integers(6, 14)] * 3),
    st.lists(st.tuples(*[st.integers(0, 13)] * 3), min_size=1, max_size=3),
)
def test_voxels_before_a_cell_are_known_where_any_window_showed_them(size, points):
    image = np.zeros((1, *size), np.float32)
    for point in points:
        image[(0, *(p % n for p, n in zip(point, size, strict=True)))] = 1.0
    grid = WindowGrid.over(size, (4, 4, 4), 0.5)
    found = list(cells(lambda batch: batch + 1, image, grid, device=CPU, skip_empty=True))
    whole = np.full(size, -np.inf, np.float32)
    for cell in found:
        if cell.logits is not None:
            whole[cell.box] = cell.logits[0][without_halo(cell)].numpy()
    for cell in found:
        if cell.logits is None:
            assert np.isneginf(whole[cell.reach]).all()
        else:
            np.testing.assert_array_equal(cell.logits[0].numpy(), whole[cell.reach])
