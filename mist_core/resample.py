"""Put a volume on another grid. The way there and the way back are the same call.

Voxels are boxes, not points: a new grid covers the same box, and beyond the centre of the outermost
voxel its value holds. So no plane is lost when slices become thinner.

The axes of both grids are parallel, whichever way and in whichever order they run, so interpolation
goes axis by axis: a matrix for each, whose rows are the weights of the old voxels. Matrix products
are what computers do best, and a cubic spline needs 3 x 4 instead of 4 x 4 x 4 weights.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mist_core.geometry import ANISOTROPY, Geometry
from mist_core.io import Volume

Matrix = NDArray[np.float32]

PARALLEL = 1e-3  # voxels that an axis may drift per voxel of another
BLOCK = 64  # rows of a matrix that are multiplied at once, with the columns that matter to them
NOTHING = 1e-9  # weights of a spline that are left out; they fall to 0.27 of themselves per voxel


def canonical(volume: Volume) -> Volume:
    """Permute and flip axes so that they run along +z, +y, +x as nearly as they can (LPS)."""
    order, flips = volume.geometry.to_lps()
    array = np.flip(volume.array.transpose(order), tuple(a for a in range(3) if flips[a]))
    return Volume(np.ascontiguousarray(array), volume.geometry.moved_axes(order, flips))


def resample_image(volume: Volume, grid: Geometry) -> Volume:
    """Cubic B-spline interpolation, never outside the range of the input; float32, unless the
    grid is the same.

    Splines ring at edges: a step of 0 to 1000 would give -85 to 1100. Where the voxel is more than
    three times longer than wide, its long axis is resampled by nearest neighbour.
    """
    if same_grid(volume.geometry, grid):
        return volume
    low, high = volume.array.min(), volume.array.max()
    order, matrices = _matrices(volume.geometry, grid, cubic)
    voxels = volume.array.astype(np.float32, copy=False).transpose(order)
    array = _applied(voxels, matrices)
    return Volume(np.clip(array, low, high, out=array), grid)


def resample_labels(volume: Volume, grid: Geometry) -> Volume:
    """Class indices onto ``grid``: interpolate each class's mask linearly, then take the largest.

    Ties go to the lowest class. Long axes are treated as in ``resample_image``. Each class is
    interpolated in its own box only, and background is what the others leave, so time and memory
    hardly grow with the number of classes.
    """
    if same_grid(volume.geometry, grid):
        return volume
    order, matrices = _matrices(volume.geometry, grid, linear)
    indices = volume.array.transpose(order)
    winner = np.zeros(grid.shape, indices.dtype)
    best = np.zeros(grid.shape, np.float32)
    background = np.ones(grid.shape, np.float32)
    for index, box in enumerate(ndimage.find_objects(indices), start=1):
        if box is None:
            continue
        reached = tuple(_reached(m, s) for m, s in zip(matrices, box, strict=True))
        parts = [m[r, s] for m, r, s in zip(matrices, reached, box, strict=True)]
        share = _applied((indices[box] == index).astype(np.float32), parts)
        background[reached] -= share
        better = share > best[reached]
        winner[reached][better] = index
        best[reached][better] = share[better]
    winner[background >= best] = 0
    return Volume(winner, grid)


def nearest(positions: NDArray[np.float64], n: int) -> Matrix:
    """Weights (M, N) of the nearest of n voxels at each of M positions between 0 and n - 1."""
    weights = np.zeros((positions.size, n), np.float32)
    weights[np.arange(positions.size), np.floor(positions + 0.5).astype(int)] = 1
    return weights


def linear(positions: NDArray[np.float64], n: int) -> Matrix:
    """Weights (M, N) of the two voxels around each position."""
    return _hat(positions[:, None] - np.arange(n)).astype(np.float32)


def _hat(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(1 - abs(distance), 0)


def cubic(positions: NDArray[np.float64], n: int) -> Matrix:
    """Weights (M, N) of a cubic spline through n voxels, mirrored at the outermost ones.

    Unser, IEEE Signal Process. Mag. 16(6) (1999) 22-38: the spline is a sum of bumps, whose
    heights are those that make it pass through the voxels.
    """
    if n == 1:
        return np.ones((positions.size, 1), np.float32)
    heights = ndimage.spline_filter1d(np.eye(n), order=3, axis=0, mode="mirror")
    bumps = np.zeros((positions.size, n))
    rows, first = np.arange(positions.size), np.floor(positions).astype(int) - 1
    for k in range(4):
        at = np.abs(first + k)
        at = (n - 1) - np.abs((n - 1) - at)  # mirrored
        np.add.at(bumps, (rows, at), _bump(positions - (first + k)))
    weights = bumps @ heights
    weights[abs(weights) < NOTHING] = 0
    return weights.astype(np.float32)


def _bump(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """The cubic B-spline: positive within two voxels of its centre."""
    d = abs(distance)
    return np.where(d < 1, 2 / 3 - d**2 + d**3 / 2, np.maximum(2 - d, 0) ** 3 / 6)


def same_grid(first: Geometry, second: Geometry) -> bool:
    """Whether nothing is to be done to go from one to the other."""
    return first.matches(second, tolerance=1e-4)


def positions_in(source: Geometry, grid: Geometry) -> tuple[list[int], list[NDArray[np.float64]]]:
    """Where the voxels of a grid lie in another: the source axis for each axis of the grid, and the
    places of its voxels along that, in voxels of the source; beyond its ends, at them.

    Raises ValueError where axes are not parallel.
    """
    scale = np.asarray(source.spacing)[:, None]
    # A voxel (k, l, m) of the grid lies at voxel ``start + turn @ (k, l, m)`` of the source.
    turn = source.direction.T @ (grid.direction * grid.spacing) / scale
    start = source.direction.T @ np.subtract(grid.origin, source.origin) / scale[:, 0]
    order = [int(b) for b in abs(turn).argmax(axis=0)]
    rest = turn.copy()
    rest[order, range(3)] = 0
    if sorted(order) != [0, 1, 2] or abs(rest).max() > PARALLEL:
        raise ValueError(f"expected grids with parallel axes, got {source} and {grid}")
    positions = []
    for axis, from_axis in enumerate(order):
        along = start[from_axis] + turn[from_axis, axis] * np.arange(grid.shape[axis])
        # Headers are good to less than that.
        positions.append(along.round(6).clip(0, source.shape[from_axis] - 1))
    return order, positions


def _matrices(
    source: Geometry, grid: Geometry, kind: Callable[[NDArray[np.float64], int], Matrix]
) -> tuple[list[int], list[Matrix]]:
    """The source axis for each axis of the grid, and the weights along it."""
    order, positions = positions_in(source, grid)
    is_long = max(source.spacing) / min(source.spacing) > ANISOTROPY
    matrices = []
    for along, from_axis in zip(positions, order, strict=True):
        across = is_long and source.spacing[from_axis] == max(source.spacing)
        matrices.append((nearest if across else kind)(along, source.shape[from_axis]))
    return order, matrices


def _reached(matrix: Matrix, columns: slice) -> slice:
    """The rows in which any of the columns counts; they follow each other."""
    rows = np.flatnonzero(matrix[:, columns].any(axis=1))
    return slice(int(rows[0]), int(rows[-1]) + 1) if rows.size else slice(0, 0)


def _applied(array: NDArray[np.float32], matrices: Sequence[Matrix]) -> NDArray[np.float32]:
    """Every axis of a 3-D array times its matrix; those that become shorter go first."""
    for axis in sorted(range(3), key=lambda a: matrices[a].shape[0] / matrices[a].shape[1]):
        array = _along(array, matrices[axis], axis)
    return array


# Kernels of BLAS look at memory beside the matrices as well, where any number may lie: the result
# is right, but once in a while NumPy warns.
@np.errstate(divide="ignore", over="ignore", invalid="ignore")
def _along(array: NDArray[np.float32], matrix: Matrix, axis: int) -> NDArray[np.float32]:
    if np.array_equal(matrix, np.eye(len(matrix))):
        return array
    shape = list(array.shape)
    shape[axis] = len(matrix)
    result = np.empty(shape, np.float32)
    for start in range(0, len(matrix), BLOCK):
        rows = slice(start, min(start + BLOCK, len(matrix)))
        hits = np.flatnonzero(matrix[rows].any(axis=0))
        columns = slice(int(hits[0]), int(hits[-1]) + 1)
        part = matrix[rows, columns]
        if axis == 2:
            np.matmul(array[:, :, columns], part.T, out=result[:, :, rows])
        elif axis == 1:
            np.matmul(part, array[:, columns], out=result[:, rows])
        else:
            flat = array[columns].reshape(part.shape[1], -1)
            np.matmul(part, flat, out=result[rows].reshape(len(part), -1))
    return result
