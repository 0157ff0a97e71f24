"""A window slides over an image, and what a network says of each is blended, cell by cell.

Windows lie on a grid of starts along each axis, and are shown row by row. Their starts cut the
image into cells; along the axis on which windows move last their ends do so, too. A cell is done,
and can be used up, as soon as the last window was shown that touches it: all that is held are the
cells that windows have begun and not yet finished. With windows that overlap by half these are
about as many planes of the image, times its classes, as half a window is deep, and those of a row
of windows.
"""

import logging
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from math import ceil
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mist_core.config import Blending
from mist_core.device import give_back_freed_memory, passing_zeros
from mist_core.errors import DataError
from mist_core.geometry import Box, Shape

log = logging.getLogger(__name__)
X_AXIS = 2  # of Z, Y, X; arrays are in LPS, so it runs from right to left
Index = tuple[int, int, int]
AT_ONCE = 1 << 21  # values: little more memory, and they stay near the processor
MINUTE = 60.0  # seconds
LARGE = 1 << 27  # bytes of logits
HALO = 1  # voxels that a cell has of those before it: what lies between is interpolated


class Cell(NamedTuple):
    """A part of an image, and the logits of it and of the voxels just before it."""

    box: Box
    reach: Box  # the box and a voxel before it on each axis, as far as the image goes
    logits: Tensor | None  # (K, Z, Y, X) of the reach; None where no window was shown


@dataclass(frozen=True)
class WindowGrid:
    """Where windows lie on an image, which is padded on both sides where it is smaller than one.

    ``starts`` are those of the windows on each axis, ``cuts`` where cells begin, in voxels of the
    image: a window that begins in the padding has a start below zero.
    """

    size: Shape  # of the image
    patch_size: Shape
    starts: tuple[tuple[int, ...], ...]
    cuts: tuple[tuple[int, ...], ...]
    axes: tuple[int, ...]  # from the one on which windows move last to the one on which first

    @classmethod
    def over(cls, size: Shape, patch_size: Shape, overlap: float) -> "WindowGrid":
        """Windows that cover the image and overlap by at least this share, evenly spread.

        They move last along the axis of which a window shows the smallest part.
        """
        starts, cuts = [], []
        axes = sorted(range(3), key=lambda axis: patch_size[axis] / size[axis])
        for axis, (n, patch) in enumerate(zip(size, patch_size, strict=True)):
            last = max(n - patch, 0)
            count = ceil(last / (patch * (1 - overlap))) + 1
            before = max(patch - n, 0) // 2
            own = sorted({round(i * last / max(count - 1, 1)) - before for i in range(count)})
            ends = {start + patch for start in own} if axis == axes[0] else set()
            starts.append(tuple(own))
            cuts.append(tuple(sorted(c for c in {0, *own, *ends} if 0 <= c < n)))
        return cls(size, patch_size, tuple(starts), tuple(cuts), tuple(axes))

    def windows(self) -> list[Index]:
        """The place of every window among the starts, in the order in which they are shown."""
        rows = product(*(range(len(self.starts[axis])) for axis in self.axes))
        z, y, x = (self.axes.index(axis) for axis in range(3))
        return [(row[z], row[y], row[x]) for row in rows]

    def box(self, window: Index) -> Box:
        """What a window shows, in voxels of the image; ends may lie outside it."""
        firsts = [starts[i] for starts, i in zip(self.starts, window, strict=True)]
        z, y, x = (slice(a, a + p) for a, p in zip(firsts, self.patch_size, strict=True))
        return z, y, x

    def cell(self, index: Index, halo: int = 0) -> Box:
        """A cell, with so many voxels before it."""
        ends = []
        for cuts, i, n in zip(self.cuts, index, self.size, strict=True):
            stop = cuts[i + 1] if i + 1 < len(cuts) else n
            ends.append(slice(max(cuts[i] - halo, 0), stop))
        z, y, x = ends
        return z, y, x

    def touched_by(self, window: Index) -> Iterator[Index]:
        """The cells that a window shows something of."""
        touched = []
        for cuts, shown in zip(self.cuts, self.box(window), strict=True):
            first = max(bisect_right(cuts, shown.start) - 1, 0)
            touched.append(range(first, bisect_left(cuts, shown.stop)))
        z, y, x = touched
        return product(z, y, x)

    def finished_by(self, window: Index) -> Iterator[Index]:
        """The cells that no later window touches, and each that lies before these."""
        finished = []
        for cuts, starts, i in zip(self.cuts, self.starts, window, strict=True):
            next_ = starts[i + 1] if i + 1 < len(starts) else cuts[-1] + 1
            finished.append(range(bisect_left(cuts, max(starts[i], 0)), bisect_left(cuts, next_)))
        z, y, x = finished
        return product(z, y, x)

    def begun(self) -> int:
        """About how many voxels of the image lie in cells that were begun, at the most."""
        slow, middle, fast = self.axes
        depth = min(self.size[slow], self.patch_size[slow])
        return depth * self.size[middle] * self.size[fast]


class _Sums:
    """What was said of a cell so far, with room for the voxels before it."""

    def __init__(
        self, box: Box, reach: Box, n_classes: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.box = box
        size = [s.stop - s.start for s in reach]
        self.logits = passing_zeros((n_classes, *size), dtype, device)
        self.own = self.logits[(slice(None), *within(box, reach))]
        self.weights = passing_zeros(self.own.shape[1:], torch.float32, device)

    def add(self, logits: Tensor, weight: Tensor, box: Box) -> None:
        """Add what a window says of its box, and how much that counts."""
        z, y, x = (
            slice(max(a.start, b.start), min(a.stop, b.stop))
            for a, b in zip(self.box, box, strict=True)
        )
        here, there = within((z, y, x), self.box), within((z, y, x), box)
        counts = weight[there]
        sums, said = self.own[(slice(None), *here)], logits[(slice(None), *there)]
        for part in parts(len(sums), counts.numel()):
            sums[part] += said[part] * counts
        self.weights[here] += counts

    def mean(self, before: Sequence[Tensor | None]) -> Tensor:
        """The weighted mean, minus infinity where nothing was said. The sums are used up.

        ``before`` has, for each axis, the last plane of the cell before this one.
        """
        nothing = self.weights == 0
        for part in parts(len(self.own), nothing.numel()):
            self.own[part] = (self.own[part] / self.weights).masked_fill_(nothing, -torch.inf)
        firsts = [self.logits.narrow(axis, 0, HALO) for axis in (1, 2, 3)]
        halos = [n > own for n, own in zip(self.logits.shape, self.own.shape, strict=True)][1:]
        for first, halo in zip(firsts, halos, strict=True):
            if halo:
                first.fill_(-torch.inf)
        for first, plane in zip(firsts, before, strict=True):
            if plane is not None:
                first.copy_(plane)
        return self.logits


class _Begun:
    """The cells that were begun, and the last planes of those that are done."""

    def __init__(self, grid: WindowGrid, dtype: torch.dtype, device: torch.device) -> None:
        self.grid, self.dtype, self.device = grid, dtype, device
        self.sums: dict[Index, _Sums] = {}
        self.planes: dict[tuple[Index, int], Tensor] = {}  # before a cell on an axis

    def add(self, window: Index, logits: Tensor, weight: Tensor) -> None:
        """Add the logits (K, Z, Y, X) of a window to the cells that it touches."""
        for index in self.grid.touched_by(window):
            if index not in self.sums:
                self.sums[index] = self.nothing_of(index, len(logits))
            self.sums[index].add(logits, weight, self.grid.box(window))

    def nothing_of(self, index: Index, n_classes: int) -> _Sums:
        box, reach = self.grid.cell(index), self.grid.cell(index, HALO)
        return _Sums(box, reach, n_classes, self.dtype, self.device)

    def finish(self, index: Index) -> Cell:
        """A cell with all that was said of it; those before it are done."""
        before = [self.planes.pop((index, axis), None) for axis in range(3)]
        known = [plane for plane in before if plane is not None]
        said = self.sums.pop(index, None)
        shown = said is not None
        if said is None and known:
            said = self.nothing_of(index, len(known[0]))
        logits = None
        if said is not None:
            logits = said.mean(before)
            for axis, cuts in enumerate(self.grid.cuts):
                last = logits.narrow(axis + 1, -HALO, HALO)
                if index[axis] + 1 < len(cuts) and (shown or last.isfinite().any()):
                    plane = passing_zeros(last.shape, last.dtype, last.device)
                    self.planes[_after(index, axis), axis] = plane.copy_(last)
        return Cell(self.grid.cell(index), self.grid.cell(index, HALO), logits)


def _after(index: Index, axis: int) -> Index:
    """The next cell on an axis."""
    z, y, x = (i + (k == axis) for k, i in enumerate(index))
    return z, y, x


def parts(n: int, size: int, at_once: int = AT_ONCE) -> Iterator[slice]:
    """Slices of n things of so many values each, which together have no more than ``at_once``, or
    are one.
    """
    step = max(1, at_once // max(size, 1))
    return (slice(first, first + step) for first in range(0, n, step))


class _Clock:
    """Tells every minute how far the windows of an image are."""

    def __init__(self, windows: int) -> None:
        self.windows = windows
        self.started = self.told = time.monotonic()

    def tell(self, done: int) -> None:
        """Say it if the last word is a minute old, and some are done."""
        now = time.monotonic()
        if done and now - self.told >= MINUTE:
            left = (now - self.started) / done * (self.windows - done)
            log.info("window %d of %d, %.1f minutes left", done, self.windows, left / MINUTE)
            self.told = now


def cells(
    network: Callable[[Tensor], Tensor],
    image: NDArray[Any],
    grid: WindowGrid,
    *,
    device: torch.device,
    batch_size: int = 1,
    blending: Blending = "gaussian",
    dtype: torch.dtype = torch.float32,
    skip_empty: bool = False,
    sums_on: torch.device | None = None,
) -> Iterator[Cell]:
    """The cells of an image (C, Z, Y, X), each as soon as all windows that touch it were shown.

    ``network`` gives logits (B, K, Z, Y, X) of windows (B, C, Z, Y, X); they are added up and
    handed out as ``dtype``. Gaussian blending counts the middle of a window most, since a network
    knows less at the border of its patch. With ``skip_empty`` windows in which every channel has
    one value, which it has at a corner of the image, too, are not shown, unless all are like that.
    The log says every minute how many windows are left. Sums and cells are on another device than
    the network where ``sums_on`` names one. Raises DataError at the end where logits were NaN or
    infinite.
    """
    sums_on = sums_on or device
    weight = window_weight(grid.patch_size, blending).to(sums_on)
    order = grid.windows()
    empty = set()
    if skip_empty:
        empty = {w for w in order if is_empty(image, grid.box(w))}
    if len(empty) == len(order):
        empty = set()
    give_back_freed_memory(device)  # into whose gaps the tensors of this image may not fit
    begun = _Begun(grid, dtype, sums_on)
    clock, done = _Clock(len(order) - len(empty)), 0
    finite = torch.ones((), dtype=torch.bool, device=sums_on)  # looked at once: a GPU need not wait
    for first in range(0, len(order), batch_size):
        clock.tell(done)
        chunk = order[first : first + batch_size]
        shown = [window for window in chunk if window not in empty]
        done += len(shown)
        if shown:
            batch = [torch.from_numpy(window_of(image, grid.box(window))) for window in shown]
            logits = network(torch.stack(batch).to(device, torch.float32)).detach()
            for number, window in enumerate(shown):
                said = logits[number].to(sums_on)
                finite &= said.isfinite().all()
                begun.add(window, said, weight)
            large = logits.nbytes > LARGE
            del batch, logits
            if large:
                give_back_freed_memory(device)
        for window in chunk:
            yield from map(begun.finish, grid.finished_by(window))
    if not finite:
        raise DataError(
            "expected finite logits of the network, found NaN or infinity. Its weights are damaged,"
            " or its numbers too large for float16: train with amp auto."
        )


def sliding_window(
    model: nn.Module,
    image: NDArray[Any],
    patch_size: Shape,
    *,
    overlap: float,
    device: torch.device,
    flip_axes: tuple[int, ...] = (),
    mirrored: tuple[int, ...] = (),
    batch_size: int = 1,
) -> Tensor:
    """Logits (K, Z, Y, X), float32, of a whole image (C, Z, Y, X), from overlapping windows.

    See ``cells`` and ``flipped_mean``. A smaller image is padded with zeros on both sides.
    """
    z, y, x = image.shape[1:]
    grid = WindowGrid.over((z, y, x), patch_size, overlap)

    def network(batch: Tensor) -> Tensor:
        return flipped_mean(model, batch, flip_axes, mirrored)

    total: Tensor | None = None
    for cell in cells(network, image, grid, device=device, batch_size=batch_size):
        assert cell.logits is not None
        if total is None:
            total = torch.empty((len(cell.logits), z, y, x), device=device)
        own = without_halo(cell)
        total[(slice(None), *cell.box)] = cell.logits[(slice(None), *own)]
    assert total is not None
    return total


def without_halo(cell: Cell) -> Box:
    """Where the cell itself lies among its logits."""
    return within(cell.box, cell.reach)


def within(box: Sequence[slice], outer: Box) -> Box:
    """A box as it is counted from the first voxel of another."""
    z, y, x = (slice(b.start - o.start, b.stop - o.start) for b, o in zip(box, outer, strict=True))
    return z, y, x


def flipped_mean(
    model: nn.Module, batch: Tensor, flip_axes: tuple[int, ...], mirrored: tuple[int, ...] = ()
) -> Tensor:
    """Mean logits (B, K, Z, Y, X) over all combinations of mirrored axes, of Z, Y, X = 0, 1, 2.

    ``mirrored`` says for each output which one it is where left and right change places; empty:
    itself. Without axes they are as the model gives them, else float32.
    """
    if not flip_axes:
        logits: Tensor = model(batch)[0]
        return logits
    combos = [c for n in range(len(flip_axes) + 1) for c in combinations(flip_axes, n)]
    total: Tensor | None = None
    for combo in combos:
        axes = [axis + 2 for axis in combo]
        logits = model(batch.flip(axes) if axes else batch)[0]
        logits = logits.flip(axes) if axes else logits
        if mirrored and X_AXIS in combo:
            logits = logits[:, list(mirrored)]
        total = total.add_(logits) if total is not None else own_copy(logits)
    assert total is not None
    return total.div_(len(combos))


def own_copy(logits: Tensor) -> Tensor:
    """Float32 to add to, whatever a network still holds of its output."""
    return logits.to(torch.float32, copy=True)


def window_of(image: NDArray[Any], box: Box) -> NDArray[np.float32]:
    """A window (C, Z, Y, X) of an image, with zeros where it reaches beyond."""
    size = image.shape[1:]
    inside = [slice(max(s.start, 0), min(s.stop, n)) for s, n in zip(box, size, strict=True)]
    part = np.array(image[(slice(None), *inside)], np.float32)  # files may be read-only
    margins = [(i.start - s.start, s.stop - i.stop) for i, s in zip(inside, box, strict=True)]
    return np.pad(part, [(0, 0), *margins]) if any(map(any, margins)) else part


def is_empty(image: NDArray[Any], box: Box) -> bool:
    """Whether each channel of a window of an image (C, Z, Y, X) has one value, that of a corner of
    the image.

    Within a body there may be one value, too, as in a CT that was clipped.
    """
    inside = tuple(slice(max(s.start, 0), s.stop) for s in box)
    ends = image[(slice(None), *inside)]
    if any(channel[0, 0, 0] != channel[-1, -1, -1] for channel in ends):  # most are not copied
        return False
    z, y, x = (max(n - 1, 1) for n in image.shape[1:])
    return all(
        np.ptp(channel) == 0 and np.any(corners == channel.flat[0])
        for channel, corners in zip(window_of(image, box), image[:, ::z, ::y, ::x], strict=True)
    )


def window_weight(patch_size: Shape, blending: Blending) -> Tensor:
    """How much the voxels (Z, Y, X) of a window count."""
    return gaussian_weight(patch_size) if blending == "gaussian" else torch.ones(patch_size)


def gaussian_weight(patch_size: Shape) -> Tensor:
    """Weight (Z, Y, X) of a window's voxels: a Gaussian of an eighth of the patch, never zero."""
    axes = []
    for n in patch_size:
        offset = torch.arange(n) - (n - 1) / 2
        axes.append(torch.exp(-0.5 * (offset / (n / 8)) ** 2))
    weight = axes[0][:, None, None] * axes[1][None, :, None] * axes[2][None, None, :]
    return (weight / weight.max()).clamp(min=1e-4)
