"""Label values (numbers in the user's file) to class indices (0..K-1 in arrays) and back."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

PIECE = 1 << 20  # values that are counted at once


def smallest_uint(largest: int) -> type[np.unsignedinteger[Any]]:
    """The smallest unsigned type that holds ``largest``."""
    kinds: tuple[type[np.unsignedinteger[Any]], ...] = (np.uint8, np.uint16, np.uint32, np.uint64)
    return next(kind for kind in kinds if largest <= np.iinfo(kind).max)


def value_counts(array: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The values that occur in an array of integers, and how often; ascending.

    For 8 or 16 bits, counting is ten times faster than sorting, as numpy.unique does.
    """
    if array.itemsize > 2:
        values, found = np.unique(array, return_counts=True)
        return values.astype(np.int64), found.astype(np.int64)
    kind = np.iinfo(array.dtype)
    n_values = int(kind.max) - int(kind.min) + 1
    counts = np.zeros(n_values, np.int64)
    unsigned = array.view(f"u{array.itemsize}")
    # By planes or pieces, since bincount makes longer integers of what it gets.
    parts = unsigned if array.ndim > 1 else np.array_split(unsigned, array.size // PIECE + 1)
    for part in parts:
        counts += np.bincount(part.ravel(), minlength=n_values)
    counts = np.roll(counts, -int(kind.min))  # negative ones were counted last
    occur = np.flatnonzero(counts)
    return occur + int(kind.min), counts[occur]


def without(values: NDArray[Any], label: int | None) -> NDArray[Any]:
    """Label values with one of them made background; the array itself where there is none."""
    return values if label is None else np.where(values == label, 0, values).astype(values.dtype)


def to_indices(values: NDArray[Any], labels: Sequence[int]) -> NDArray[Any]:
    """Replace each label value by its position in ``labels``; any shape.

    Raises ValueError for a value that is not in ``labels``: making it background would hide a
    mistake in the data.
    """
    unknown = len(labels)
    table = np.full(max(int(values.max(initial=0)), *labels) + 1, unknown, smallest_uint(unknown))
    table[list(labels)] = np.arange(len(labels))
    indices = np.asarray(table[values])
    if indices.max(initial=0) == unknown or values.min(initial=0) < 0:
        found = sorted(set(np.unique(values).tolist()) - set(labels))
        raise ValueError(f"expected label values among {list(labels)}, found {found}")
    return indices


def to_values(indices: NDArray[Any], labels: Sequence[int]) -> NDArray[Any]:
    """The inverse of ``to_indices``, in the smallest unsigned type that holds all labels."""
    table = np.asarray(labels, smallest_uint(max(labels)))
    values = np.empty(indices.shape, table.dtype)
    for first in range(len(indices)):  # NumPy takes 8 bytes for each index
        values[first : first + 1] = table[indices[first : first + 1]]
    return values


def strongest(probabilities: NDArray[np.floating], labels: Sequence[int]) -> NDArray[Any]:
    """The label value (Z, Y, X) of the most probable of classes (K, Z, Y, X), of the first of equal
    ones, in the smallest unsigned type that holds all labels.
    """
    table = np.asarray(labels, smallest_uint(max(labels)))
    values = np.empty(probabilities.shape[1:], table.dtype)
    for plane in range(len(values)):  # indices take 8 bytes each
        values[plane] = table[probabilities[:, plane].argmax(axis=0)]
    return values


def in_labels(values: NDArray[Any], labels: Sequence[int]) -> NDArray[np.bool_]:
    """Mask of the voxels whose label value is one of ``labels``."""
    table = np.zeros(max(int(values.max(initial=0)), *labels) + 1, bool)
    table[list(labels)] = True
    return np.asarray(table[values])


def sample_coordinates(
    indices: NDArray[Any], n_classes: int, count: int, seed: int
) -> NDArray[np.int32]:
    """Up to ``count`` voxels of every foreground class, drawn without replacement.

    Returns rows (class index, z, y, x), int32, sorted by class; a class without voxels has no row.
    """
    flat = indices.ravel()
    voxels = np.flatnonzero(flat)
    classes = flat[voxels]
    generator = np.random.default_rng(seed)
    rows = []
    for index in range(1, n_classes):
        mine = voxels[classes == index]
        if mine.size > count:
            mine = np.sort(generator.choice(mine, count, replace=False))
        zyx = np.unravel_index(mine, indices.shape)
        rows.append(np.stack([np.full(mine.size, index), *zyx], axis=1))
    return np.concatenate(rows).astype(np.int32)
