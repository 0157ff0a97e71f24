"""What ``kernels.py`` does, by NumPy and SciPy: slower, for where numba is not installed."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, find_objects, generate_binary_structure, label
from scipy.spatial import cKDTree

from mist_core.geometry import Shape, Triple

Indices = NDArray[np.int64]
Floats = NDArray[np.float64]


def joint_histogram(
    reference: NDArray[Any], prediction: NDArray[Any], n: int
) -> tuple[Indices, Indices, Indices]:
    """How often every pair of labels occurs, (n, n), and the box around each label."""
    counts = np.zeros(n * n, np.int64)
    for plane_r, plane_p in zip(reference, prediction, strict=True):  # products are 64 bits wide
        pairs = plane_r.astype(np.int64) * n + plane_p
        counts += np.bincount(pairs.ravel(), minlength=n * n)
    low = np.full((n, 3), np.iinfo(np.int64).max)
    high = np.zeros((n, 3), np.int64)
    for labels in (reference, prediction):
        for number, box in enumerate(find_objects(labels), start=1):
            if box is not None:
                low[number] = np.minimum(low[number], [s.start for s in box])
                high[number] = np.maximum(high[number], [s.stop for s in box])
    return counts.reshape(n, n), low, high


def border(codes: NDArray[np.uint8]) -> tuple[Indices, NDArray[np.uint8]]:
    """Flat indices, ascending, of the codes that are neither 0 nor 255, and these codes."""
    flat = codes.ravel()
    points = np.flatnonzero((flat + np.uint8(1)) > 1)  # 255 becomes 0
    return points, flat[points]


def nearest(
    points: Indices,
    targets: Indices,
    shape: Shape,
    spacing_mm: Triple,
    limit_mm: float = np.inf,
) -> Floats:
    """Distance in mm from every point to the nearest target; infinite unless below the limit."""
    if points.size == 0 or targets.size == 0:
        return np.full(points.size, np.inf)

    def places(flat: Indices) -> Indices:
        return np.stack(np.unravel_index(flat, shape), axis=1)

    distances = np.zeros(points.size)
    away = np.isin(points, targets, assume_unique=True, invert=True)
    here, there = places(points[away]), places(targets)
    index = cKDTree(there * np.array(spacing_mm)).query(here * np.array(spacing_mm))[1]
    # From whole steps, so that equal distances are equal to the last bit.
    z, y, x = ((here - there[index]) * np.array(spacing_mm)).T
    distances[away] = np.sqrt((z**2 + y**2) + x**2)
    distances[distances >= limit_mm] = np.inf
    return distances


def connected_components(
    mask: NDArray[np.uint8], connectivity: int
) -> tuple[NDArray[np.uint32], Indices, Indices, Indices]:
    """Number the components of a mask: (numbers, low, high, sizes), row 0 being empty."""
    reach = {6: 1, 18: 2, 26: 3}[connectivity]
    found, n = label(mask, generate_binary_structure(3, reach))
    numbers = np.asarray(found)
    low, high = np.zeros((n + 1, 3), np.int64), np.zeros((n + 1, 3), np.int64)
    sizes = np.zeros(n + 1, np.int64)
    for number, box in enumerate(find_objects(numbers), start=1):
        low[number], high[number] = [s.start for s in box], [s.stop for s in box]
        sizes[number] = np.count_nonzero(numbers[box] == number)
    return numbers.astype(np.uint32), low, high, sizes


def dilated(mask: NDArray[np.uint8], iterations: int) -> NDArray[np.uint8]:
    """A mask of bytes with the voxels across faces and edges, so many times."""
    if iterations == 0:  # SciPy would dilate until nothing changes
        return mask
    across = generate_binary_structure(3, 2)
    return np.asarray(binary_dilation(mask, across, iterations)).view(np.uint8)
