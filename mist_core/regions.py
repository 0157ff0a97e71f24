"""Regions: classes that overlap, such as a whole tumour and its core, learnt each for itself.

A network for regions has one output for each, with a sigmoid of its own, as in nnU-Net's
region-based training (Isensee et al., "nnU-Net for Brain Tumor Segmentation", BrainLes 2020).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mist_core.errors import DataError


def membership(labels: Sequence[int], regions: Mapping[str, Sequence[int]]) -> NDArray[np.bool_]:
    """Which label (columns, by class index) is in which region (rows), (R, K).

    Raises DataError where two labels are in the same regions: no output would tell them apart.
    """
    table = np.array([[label in members for label in labels] for members in regions.values()])
    seen: dict[tuple[bool, ...], int] = {}
    for label, column in zip(labels, table.T.tolist(), strict=True):
        twin = seen.setdefault(tuple(column), label)
        if twin != label:
            raise DataError(
                f"train.regions: expected final_classes that tell labels {twin} and {label} apart, "
                f"found both in {_named(regions, label)}. Add a class that has only one of them, "
                "or set train.regions to false."
            )
    return table


def _named(regions: Mapping[str, Sequence[int]], label: int) -> str:
    names = [name for name, members in regions.items() if label in members]
    return ", ".join(names) if names else "none"
