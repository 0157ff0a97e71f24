"""One label map from what several models say of the same case: their labels, or probabilities."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from mist_core.errors import DataError
from mist_core.geometry import Geometry
from mist_core.io import Volume

Labels = NDArray[Any]
Probabilities = NDArray[np.float32]  # (K, Z, Y, X)
TIE = 1e-9  # share of all votes by which rounding may part what is equal


def ensemble(
    volumes: Mapping[str, Volume], backend: str, weights: Sequence[float] | None = None
) -> Volume:
    """The label map that several agree on, on their common grid.

    ``volumes`` are label maps by the names of their files. ``weights``, one for each and positive,
    are for ``majority_vote``. Raises DataError when grids differ.
    """
    first, *_ = volumes.values()
    for name, other in volumes.items():
        _check_grid(name, other.geometry, first.geometry)
    arrays = [volume.array for volume in volumes.values()]
    kind = np.result_type(*arrays)
    same = [array.astype(kind, copy=False) for array in arrays]
    if weights is not None and backend != "majority_vote":
        raise ValueError(f"expected weights for majority_vote only, found {backend}")
    combined = BACKENDS[backend](same) if weights is None else majority_vote(same, weights)
    return Volume(combined, first.geometry)


def majority_vote(maps: Sequence[Labels], weights: Sequence[float] | None = None) -> Labels:
    """The label with most votes at a voxel, each of its weight; background where there is a tie.

    Maps are arrays of one shape and type.
    """
    shares = np.ones(len(maps)) if weights is None else np.asarray(weights, float)
    shares = shares / shares.sum()
    odd = np.zeros(maps[0].shape, bool)  # most often a few voxels at borders
    for other in maps[1:]:
        odd |= other != maps[0]
    winner = maps[0].copy()
    winner[odd] = _vote(np.stack([array[odd] for array in maps]), shares)
    return winner


def _vote(maps: Labels, shares: NDArray[np.float64]) -> Labels:
    """The same for maps (N, voxels) and weights that add up to 1."""
    most = np.zeros(maps.shape[1])
    winner = np.zeros_like(maps[0])
    for label in np.unique(maps):
        votes = shares @ (maps == label)
        winner[votes >= most - TIE] = 0
        winner[votes > most + TIE] = label
        most = np.maximum(most, votes)
    return np.asarray(winner)


def staple(maps: Sequence[Labels]) -> Labels:
    """STAPLE (Warfield et al., IEEE TMI 2004) for several labels (Rohlfing et al., IPMI 2003).

    Weighs each map by how well it agrees with the estimated truth; background where undecided.
    """
    # Numbered from 0: the filter keeps a table of all pairs of labels up to the largest.
    labels = np.unique([0, *(value for array in maps for value in np.unique(array))])
    numbered = [np.searchsorted(labels, array).astype(np.uint16) for array in maps]
    found = sitk.MultiLabelSTAPLE([sitk.GetImageFromArray(array) for array in numbered], 0)
    return np.asarray(labels.astype(maps[0].dtype)[sitk.GetArrayFromImage(found)])


BACKENDS: Mapping[str, Callable[[Sequence[Labels]], Labels]] = {
    "staple": staple,
    "majority_vote": majority_vote,
}


def mean_probabilities(
    parts: Iterable[tuple[str, Probabilities, Geometry]], weights: Sequence[float] | None = None
) -> tuple[Probabilities, Geometry]:
    """The mean of probabilities, (K, Z, Y, X) float32, and their common grid.

    Every part has the name of its file; ``weights`` are positive, one for each. Parts are taken one
    by one, so that an iterator need not hold more than one. Raises DataError when they differ in
    grid or number of classes.
    """
    total = grid = None
    all_weights = 0.0
    for index, (name, part, geometry) in enumerate(parts):
        if total is None or grid is None:
            total, grid = np.zeros(part.shape), geometry  # float64: no order makes a difference
        if len(part) != len(total):
            raise DataError(
                f"{name}: expected {len(total)} classes as in the others, found {len(part)}. "
                "Take predictions of one dataset."
            )
        _check_grid(name, geometry, grid)
        weight = 1.0 if weights is None else weights[index]
        for k, of_class in enumerate(part):  # one by one, for the memory
            total[k] += np.multiply(of_class, weight, dtype=float)
        all_weights += weight
    assert total is not None
    assert grid is not None
    mean = np.empty(total.shape, np.float32)
    for k, of_class in enumerate(total):
        mean[k] = of_class / all_weights
    return mean, grid


def _check_grid(name: str, found: Geometry, expected: Geometry) -> None:
    if not found.matches(expected):
        raise DataError(
            f"{name}: expected the grid of the others ({expected}), found {found}. Predict again, "
            "or resample."
        )
