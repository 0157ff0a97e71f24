"""From logits on the training grid to labels or probabilities on the scanner's, cell by cell.

Probabilities are interpolated linearly and the strongest class is taken on the scanner's grid:
deciding on the training grid first loses up to half a voxel at every border. A cell brings the
voxel before it along (sliding.py), which is all that lies between it and its neighbours needs, so
no more is held for it than one cell times its classes.
"""

from collections.abc import Iterable, Sequence
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
from mist_core.sliding import Cell, without_halo

AT_ONCE = 1 << 26  # values of interpolated probabilities: 256 MiB


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
        decided = np.zeros(origin.training.shape, indices.dtype)
        for cell in cells:
            if cell.logits is not None:
                own = cell.logits[(slice(None), *without_halo(cell))]
                decided[cell.box] = own.argmax(dim=0).cpu().numpy()
        indices[origin.box] = resample_labels(Volume(decided, origin.training), kept).array
    else:
        inside, way = indices[origin.box], Way.between(origin.training, kept)
        for cell in cells:
            tile = way.tile_of(cell)
            if cell.logits is not None and tile is not None:
                inside[tile] = way.strongest(cell.logits.softmax(dim=0), cell, tile).cpu().numpy()
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
    for cell in cells:
        tile = way.tile_of(cell)
        if cell.logits is not None and tile is not None:
            found = way.interpolated(cell.logits.softmax(dim=0), cell, tile)
            inside[(slice(None), *tile)] = found.cpu().numpy()
    return probabilities


@dataclass(frozen=True, eq=False)
class Way:
    """How voxels of one grid lie among those of another: see ``resample.positions_in``."""

    order: Sequence[int]
    positions: Sequence[NDArray[np.float64]]

    @classmethod
    def between(cls, source: Geometry, grid: Geometry) -> "Way":
        """From the source to the grid, whose axes are parallel."""
        return cls(*positions_in(source, grid))

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
        step = max(1, AT_ONCE // int(np.prod(size)))
        best = torch.full(size, -torch.inf, device=maps.device)
        winner = torch.zeros(size, dtype=torch.int64, device=maps.device)
        for first in range(0, len(maps), step):
            values, index = self.interpolated(maps[first : first + step], cell, tile).max(dim=0)
            better = values > best
            winner[better] = index[better] + first
            best[better] = values[better]
        return winner
