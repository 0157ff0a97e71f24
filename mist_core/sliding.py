"""A window slides over an image, and what a network says of each is blended, cell by cell.

Windows lie on a grid of starts along each axis, and are shown row by row. The starts cut the image
into cells: the cell at a start reaches to the next one. Once a window was shown no later one touches
the cell at its start, so that cell is done and can be used up: all that is held are the cells that
windows have begun and not yet finished. These are about as many planes of the image, times its
classes, as a window is deep, across the axis of which a window shows the smallest part.
"""

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
from mist_core.geometry import Box, Shape

X_AXIS = 2  # of Z, Y, X; arrays are in LPS, so it runs from right to left
Index = tuple[int, int, int]
HALO = 1  # voxels that a cell has of those before it: what lies between is interpolated


class Cell(NamedTuple):
    """A part of an image, and the logits of it and of the voxels just before it."""

    box: Box
    reach: Box  # the box and a voxel before it on each axis, as far as the image goes
    logits: Tensor | None  # (K, Z, Y, X) of the reach, float32; None where no window was shown


@dataclass(frozen=True)
class WindowGrid:
    """Where windows lie on an image, which is padded on both sides where it is smaller than one.

    ``starts`` are those of the windows on each axis, in voxels of the padded image.
    """

    size: Shape  # of the image
    patch_size: Shape
    starts: tuple[tuple[int, ...], ...]
    before: Shape  # voxels of padding before the image

    @classmethod
    def over(cls, size: Shape, patch_size: Shape, overlap: float) -> "WindowGrid":
        """Windows that cover the image and overlap by at least this share, evenly spread."""
        starts, before = [], []
        for n, patch in zip(size, patch_size, strict=True):
            last = max(n - patch, 0)
            count = ceil(last / (patch * (1 - overlap))) + 1
            places = {round(i * last / max(count - 1, 1)) for i in range(count)}
            starts.append(tuple(sorted(places)))
            before.append(max(patch - n, 0) // 2)
        return cls(size, patch_size, tuple(starts), tuple(before))  # type: ignore[arg-type]

    def axes(self) -> list[int]:
        """The axes, from the one along which windows move last to the one along which they move
        first: by the part of the image that a window shows.
        """
        return sorted(range(3), key=lambda axis: self.patch_size[axis] / self.size[axis])

    def windows(self) -> list[Index]:
        """The place of every window among the starts, in the order in which they are shown."""
        slow, middle, fast = (range(len(self.starts[axis])) for axis in self.axes())
        shown = product(slow, middle, fast)
        back = np.argsort(self.axes())
        return [(place[back[0]], place[back[1]], place[back[2]]) for place in shown]

    def begun(self) -> int:
        """About how many voxels of the image lie in cells that were begun, at the most."""
        slow, middle, fast = self.axes()
        depth = min(self.size[slow], self.patch_size[slow])
        return depth * self.size[middle] * self.size[fast]

    def box(self, window: Index) -> Box:
        """What a window shows, in voxels of the image; ends may lie outside it."""
        firsts = [s[i] - b for s, i, b in zip(self.starts, window, self.before, strict=True)]
        z, y, x = (slice(a, a + p) for a, p in zip(firsts, self.patch_size, strict=True))
        return z, y, x

    def cell(self, index: Index, halo: int = 0) -> Box:
        """The cell at a start, with so many voxels before it."""
        ends = []
        for starts, i, b, n in zip(self.starts, index, self.before, self.size, strict=True):
            stop = starts[i + 1] - b if i + 1 < len(starts) else n
            ends.append(slice(max(starts[i] - b - halo, 0), stop))
        z, y, x = ends
        return z, y, x

    def cells_of(self, window: Index) -> Iterator[Index]:
        """The cells that a window shows something of, or of their halo."""
        touched = []
        for starts, i, patch in zip(self.starts, window, self.patch_size, strict=True):
            end = starts[i] + patch
            touched.append([k for k in range(i, len(starts)) if k == i or starts[k] - HALO < end])
        z, y, x = touched
        return product(z, y, x)


class _Sums:
    """What was said of a cell so far."""

    def __init__(self, box: Box, n_classes: int, dtype: torch.dtype, device: torch.device) -> None:
        shape = tuple(s.stop - s.start for s in box)
        self.box = box
        self.logits = torch.zeros((n_classes, *shape), dtype=dtype, device=device)
        self.weights = torch.zeros(shape, device=device)

    def add(self, logits: Tensor, weight: Tensor, box: Box) -> None:
        """Add what a window says of its box, and how much that counts."""
        both = [
            slice(max(a.start, b.start), min(a.stop, b.stop))
            for a, b in zip(self.box, box, strict=True)
        ]
        here, there = within(both, self.box), within(both, box)
        own = weight[there]
        self.logits[(slice(None), *here)] += logits[(slice(None), *there)] * own
        self.weights[here] += own

    def mean(self) -> Tensor:
        """The weighted mean, float32; minus infinity where nothing was said."""
        logits = self.logits.float().div_(self.weights)
        return logits.masked_fill_(self.weights == 0, -torch.inf)


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
) -> Iterator[Cell]:
    """The cells of an image (C, Z, Y, X), each as soon as all windows that touch it were shown.

    ``network`` gives logits (B, K, Z, Y, X) of windows (B, C, Z, Y, X); they are added up as
    ``dtype``. Gaussian blending counts the middle of a window most, since a network knows less at
    the border of its patch. With ``skip_empty`` windows in which every channel has one value are
    not shown, unless all are like that.
    """
    weight = window_weight(grid.patch_size, blending).to(device)
    order = grid.windows()
    empty = (
        {w for w in order if is_constant(window_of(image, grid.box(w)))} if skip_empty else set()
    )
    if len(empty) == len(order):
        empty = set()
    sums: dict[Index, _Sums] = {}
    for first in range(0, len(order), batch_size):
        chunk = order[first : first + batch_size]
        shown = [window for window in chunk if window not in empty]
        if shown:
            batch = [torch.from_numpy(window_of(image, grid.box(window))) for window in shown]
            logits = network(torch.stack(batch).to(device, torch.float32))
            for window, values in zip(shown, logits, strict=True):
                for index in grid.cells_of(window):
                    if index not in sums:
                        sums[index] = _Sums(grid.cell(index, HALO), len(values), dtype, device)
                    sums[index].add(values, weight, grid.box(window))
        for index in chunk:
            said = sums.pop(index, None)
            mean = said.mean() if said else None
            yield Cell(grid.cell(index), grid.cell(index, HALO), mean)


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
        total = logits.float() if total is None else total + logits
    assert total is not None
    return total / len(combos)


def window_of(image: NDArray[Any], box: Box) -> NDArray[np.float32]:
    """A window (C, Z, Y, X) of an image, with zeros where it reaches beyond."""
    size = image.shape[1:]
    inside = [slice(max(s.start, 0), min(s.stop, n)) for s, n in zip(box, size, strict=True)]
    part = np.array(image[(slice(None), *inside)], np.float32)  # files may be read-only
    margins = [(i.start - s.start, s.stop - i.stop) for i, s in zip(inside, box, strict=True)]
    return np.pad(part, [(0, 0), *margins]) if any(map(any, margins)) else part


def is_constant(window: NDArray[Any]) -> bool:
    """Whether each channel of a window (C, Z, Y, X) has one value."""
    return all(channel.flat[0] == channel.flat[-1] and np.ptp(channel) == 0 for channel in window)


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
