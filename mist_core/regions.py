"""Regions: classes that overlap, such as a whole tumour and its core, learnt each for itself.

A network for regions has one output for each, with a sigmoid of its own, as in nnU-Net's
region-based training (Isensee et al., "nnU-Net for Brain Tumor Segmentation", BrainLes 2020).

And what labels and regions become in a mirror, where some are left and right of each other.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mist_core.errors import DataError

Pairs = Sequence[tuple[int, int]]  # of label values that are left and right of each other


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


def mirrored_classes(labels: Sequence[int], pairs: Pairs) -> tuple[int, ...]:
    """The class index of what each class becomes where left and right change places."""
    return tuple(labels.index(value) for value in _mirrored(labels, pairs))


def mirrored_regions(regions: Mapping[str, Sequence[int]], pairs: Pairs) -> tuple[int, ...]:
    """The position of what each region becomes where left and right change places.

    Raises DataError for a region whose mirror image is none of them.
    """
    sets = [set(members) for members in regions.values()]
    images = [set(_mirrored(list(members), pairs)) for members in regions.values()]
    for name, own, image in zip(regions, sets, images, strict=True):
        if image not in sets:
            raise DataError(
                f"train.regions: expected final_classes with a mirror image of each by "
                f"mirrored_labels, found none for {name} {sorted(own)}. Add a class of "
                f"{sorted(image)}, or leave x out of train.mirror_axes."
            )
    return tuple(
        number if own == image else sets.index(image)
        for number, (own, image) in enumerate(zip(sets, images, strict=True))
    )


def _mirrored(values: Sequence[int], pairs: Pairs) -> list[int]:
    partner = {a: b for pair in pairs for a, b in (pair, pair[::-1])}
    return [partner.get(value, value) for value in values]
