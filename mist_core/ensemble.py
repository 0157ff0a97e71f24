"""One label map from several of the same case."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from mist_core.errors import DataError
from mist_core.io import Volume

Labels = NDArray[Any]


def ensemble(volumes: Sequence[Volume], backend: str) -> Volume:
    """The label map that several agree on, on their common grid.

    Raises DataError when their grids differ.
    """
    first = volumes[0]
    for other in volumes[1:]:
        if not other.geometry.matches(first.geometry):
            raise DataError(
                f"expected predictions on one grid ({first.geometry}), found {other.geometry}. "
                "Predict again, or resample."
            )
    kind = np.result_type(*(volume.array.dtype for volume in volumes))
    return Volume(BACKENDS[backend]([v.array.astype(kind) for v in volumes]), first.geometry)


def majority_vote(maps: Sequence[Labels]) -> Labels:
    """The label that most maps have at a voxel; background where there is a tie."""
    labels = np.unique([value for array in maps for value in np.unique(array)])
    most = np.zeros(maps[0].shape, np.uint16)
    winner = np.zeros_like(maps[0])
    for label in labels:
        votes = sum((array == label).astype(np.uint16) for array in maps)
        winner[votes == most] = 0
        winner[votes > most] = label
        most = np.maximum(most, votes)
    return winner


def staple(maps: Sequence[Labels]) -> Labels:
    """STAPLE (Warfield et al., IEEE TMI 2004) for several labels (Rohlfing et al., IPMI 2003).

    Weighs each map by how well it agrees with the estimated truth; background where undecided.
    """
    images = [sitk.GetImageFromArray(array.astype(np.uint16)) for array in maps]
    return sitk.GetArrayFromImage(sitk.MultiLabelSTAPLE(images, 0)).astype(maps[0].dtype)


BACKENDS: Mapping[str, Callable[[Sequence[Labels]], Labels]] = {
    "staple": staple,
    "majority_vote": majority_vote,
}
