"""From logits on the training grid to labels or probabilities on the scanner's, cell by cell.

Probabilities are interpolated linearly and the strongest class is taken on the scanner's grid:
deciding on the training grid first loses up to half a voxel at every border. A cell brings the
voxel before it along (sliding.py), which is all that lies between it and its neighbours needs, so
no more is held for it than one cell times its classes.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mist_core.config import Restore
from mist_core.device import full_precision
from mist_core.geometry import Box, Geometry, Origin
from mist_core.io import Volume
from mist_core.labels import smallest_uint, to_values
from mist_core.resample import linear, positions_in, resample_labels, same_grid
from mist_core.sliding import HALO, Cell, parts, without_halo

AT_ONCE = 1 << 25  # probabilities: 128 MiB


@torch.inference_mode()
def restore(
    cells: Iterable[Cell], origin: Origin, labels: Sequence[int], order: Restore = "probabilities"
) -> Volume:
    """Label values on the original grid from logits on the training grid.

    ``order`` says what is brought to the original grid: the probabilities of all classes, or the
    labels that were decided on before. Ties go to the lowest class. Outside the part of the image
    that was kept, and in cells that nothing is known of, is background.
    """
    kept = origin.original.cropped(origin.box)
    indices = np.zeros(origin.original.shape, smallest_uint(len(labels)))
    if order == "labels" or same_grid(origin.training, kept):
        here = same_grid(origin.training, kept)
        decided = indices[origin.box] if here else np.zeros(origin.training.shape, indices.dtype)
        for cell in cells:
            if cell.logits is not None:
                own = cell.logits[(slice(None), *without_halo(cell))]
                decided[cell.box] = own.argmax(dim=0).cpu().numpy()
        if not here:
            indices[origin.box] = resample_labels(Volume(decided, origin.training), kept).array
    else:
        inside, way = indices[origin.box], Way.between(origin.training, kept)
        for cell, tile in way.tiles(cells):
            inside[tile] = way.strongest(probabilities_of(cell), cell, tile).cpu().numpy()
    return Volume(to_values(indices, labels), origin.original)


@torch.inference_mode()
def restore_probabilities(
    cells: Iterable[Cell], origin: Origin, n_classes: int
) -> NDArray[np.float32]:
    """Probabilities (K, Z, Y, X) on the original grid; where nothing is known, of background."""
    probabilities = np.zeros((n_classes, *origin.original.shape), np.float32)
    probabilities[0] = 1
    inside = probabilities[(slice(None), *origin.box)]
    way = Way.between(origin.training, origin.original.cropped(origin.box))
    for cell, tile in way.tiles(cells):
        found = way.interpolated(probabilities_of(cell), cell, tile)
        inside[(slice(None), *tile)] = found.cpu().numpy()
    return probabilities


def probabilities_of(cell: Cell) -> Tensor:
    """Probabilities (K, Z, Y, X) of the reach, float32."""
    assert cell.logits is not None
    return cell.logits.softmax(dim=0, dtype=torch.float32)


def slabs(cell: Cell) -> Iterator[Cell]:
    """A cell cut across its first axis, into parts whose probabilities are little beside it."""
    assert cell.logits is not None
    (z, y, x), (outer, rows, columns) = cell.box, cell.reach
    for part in parts(z.stop - z.start, cell.logits[:, 0].numel(), AT_ONCE):
        own = slice(z.start + part.start, min(z.start + part.stop, z.stop))
        known = slice(max(own.start - HALO, outer.start), own.stop)
        logits = cell.logits[:, known.start - outer.start : known.stop - outer.start]
        yield Cell((own, y, x), (known, rows, columns), logits)


@dataclass(frozen=True, eq=False)
class Way:
    """How voxels of one grid lie among those of another: see ``resample.positions_in``."""

    order: Sequence[int]
    positions: Sequence[NDArray[np.float64]]

    @classmethod
    def between(cls, source: Geometry, grid: Geometry) -> "Way":
        """From the source to the grid, whose axes are parallel."""
        return cls(*positions_in(source, grid))

    def tiles(self, cells: Iterable[Cell]) -> Iterator[tuple[Cell, Box]]:
        """What is known of cells, in slabs, each with the voxels of the grid that it says."""
        for cell in cells:
            if cell.logits is None:
                continue
            for slab in slabs(cell):
                tile = self.tile_of(slab)
                if tile is not None:
                    yield slab, tile

    def tile_of(self, cell: Cell) -> Box | None:
        """The voxels of the grid that lie in a cell, or before it and behind the one before.

        Every voxel of the grid is in one tile. None: no voxel is in this.
        """
        tile = []
        for axis, positions in zip(self.order, self.positions, strict=True):
            behind = np.ceil(positions)
            inside = (behind >= cell.box[axis].start) & (behind < cell.box[axis].stop)
            hits = np.flatnonzero(inside)
            if hits.size == 0:
                return None
            tile.append(slice(int(hits[0]), int(hits[-1]) + 1))
        z, y, x = tile
        return z, y, x

    def interpolated(self, maps: Tensor, cell: Cell, tile: Box) -> Tensor:
        """Maps (K, Z, Y, X) of the reach of a cell, at the voxels of its tile."""
        maps = maps.permute(0, *(1 + axis for axis in self.order))
        weights = []
        for source, positions, part in zip(self.order, self.positions, tile, strict=True):
            reach = cell.reach[source]
            matrix = linear(positions[part] - reach.start, reach.stop - reach.start)
            weights.append(torch.from_numpy(matrix).to(maps.device))
        # Products of matrices are what computers do best, although most weights are zero.
        along_z, along_y, along_x = weights
        with full_precision():
            maps = along_y @ (maps @ along_x.T)
            return torch.einsum("ab,kbyx->kayx", along_z, maps)

    def strongest(self, maps: Tensor, cell: Cell, tile: Box) -> Tensor:
        """Index (Z, Y, X) of the largest of the interpolated maps; ties go to the first."""
        size = tuple(s.stop - s.start for s in tile)
        best = torch.full(size, -torch.inf, device=maps.device)
        winner = torch.zeros(size, dtype=torch.int64, device=maps.device)
        for part in parts(len(maps), best.numel(), AT_ONCE):
            values, index = self.interpolated(maps[part], cell, tile).max(dim=0)
            better = values > best
            winner = torch.where(better, index + part.start, winner)  # a GPU need not wait for it
            best = torch.where(better, values, best)
        return winner
