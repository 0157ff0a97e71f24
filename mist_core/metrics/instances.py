"""Metrics of instances, such as lesions: connected components, and how they are matched.

Lesion-wise scores are those of the BraTS 2023 challenge: every reference lesion counts as much as
every other, and as every predicted component that belongs to none. Panoptic quality matches one to
one: Kirillov et al., CVPR 2019, 9404-9413.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mist_core.geometry import Box, Triple, union_box, widened_box
from mist_core.metrics.backend import backend
from mist_core.metrics.pairs import MaskPair
from mist_core.metrics.surfaces import Mask

CONNECTIVITIES = (26, 18, 6)  # corners, edges, faces


@dataclass(frozen=True, eq=False)
class Components:
    """The connected components of a mask: number n has box and size n - 1."""

    numbers: NDArray[np.uint32]  # 0 is background
    boxes: Sequence[Box]
    sizes: Sequence[int]  # voxels


@dataclass(frozen=True, eq=False)
class Lesion:
    """A lesion of the reference, and the predicted components that belong to it."""

    volume_mm3: float
    found: tuple[int, ...]  # numbers of the components; none: the lesion was missed
    masks: tuple[Mask, Mask]  # reference and prediction within the box around both; 3-D
    spacing_mm: Triple
    n_axes: int  # of the image

    @cached_property
    def pair(self) -> MaskPair:
        """The lesion and what was found of it."""
        first = 3 - self.n_axes
        reference, prediction = (mask.reshape(mask.shape[first:]) for mask in self.masks)
        return MaskPair.of(reference, prediction, self.spacing_mm[first:])


@dataclass(frozen=True, eq=False)
class Lesions:
    """All lesions of a structure."""

    reference: Sequence[Lesion]
    false_positives: Sequence[float]  # mm3 of the components that belong to none of the reference

    def counted(self, min_lesion_volume: float) -> list[Lesion]:
        """The reference lesions that are scored: those of more than so many mm3."""
        return [lesion for lesion in self.reference if lesion.volume_mm3 > min_lesion_volume]


def lesions_of(
    pair: MaskPair, dilation_iters: int, gt_consolidation_iters: int, connectivity: int
) -> Lesions:
    """Match predicted components to the lesions of the reference.

    Components belong to each lesion that they touch when it is dilated ``dilation_iters`` times.
    Components of the reference that touch when all are dilated ``gt_consolidation_iters`` times are
    one lesion. A dilation adds the voxels across faces and edges.
    """
    if pair.box is None:
        return Lesions([], [])
    lesions = _consolidated(pair, gt_consolidation_iters, connectivity)
    components = connected_components(pair.masks[1], connectivity)
    matched: set[int] = set()
    found = []
    for number, box in enumerate(lesions.boxes, start=1):
        around = widened_box(box, lesions.numbers.shape, (dilation_iters,) * 3)
        near = dilated(lesions.numbers[around] == number, dilation_iters)
        hits = tuple(int(n) for n in np.unique(components.numbers[around][near]) if n)
        matched |= set(hits)
        both = reduce(union_box, (components.boxes[hit - 1] for hit in hits), box)
        masks = lesions.numbers[both] == number, np.isin(components.numbers[both], hits)
        volume_mm3 = lesions.sizes[number - 1] * pair.voxel_mm3
        found.append(Lesion(volume_mm3, hits, masks, pair.spacing_mm, pair.n_axes))
    others = [
        size * pair.voxel_mm3
        for number, size in enumerate(components.sizes, start=1)
        if number not in matched
    ]
    return Lesions(found, others)


def _consolidated(pair: MaskPair, iterations: int, connectivity: int) -> Components:
    """The lesions of the reference: components that are near each other are one."""
    reference = pair.masks[0]
    if iterations == 0:
        return connected_components(reference, connectivity)
    assert pair.box is not None
    # Room for the dilation, which ends where the image does.
    room = [
        (min(s.start, iterations), min(n - s.stop, iterations))
        for s, n in zip(pair.box, pair.image_shape, strict=True)
    ]
    near = connected_components(dilated(np.pad(reference, room), iterations), connectivity)
    inner = tuple(
        slice(before, before + n) for (before, _), n in zip(room, reference.shape, strict=True)
    )
    return _merged(connected_components(reference, connectivity), near.numbers[inner])


def _merged(components: Components, groups: NDArray[np.uint32]) -> Components:
    """The components with those of one group, 1 .. n, as one."""
    group_of = [0]
    boxes: dict[int, Box] = {}
    sizes: dict[int, int] = {}
    parts = zip(components.boxes, components.sizes, strict=True)
    for number, (box, size) in enumerate(parts, start=1):
        group = int(groups[box].flat[np.argmax(components.numbers[box] == number)])
        group_of.append(group)
        boxes[group] = union_box(boxes[group], box) if group in boxes else box
        sizes[group] = sizes.get(group, 0) + size
    numbers = np.array(group_of, np.uint32)[components.numbers]
    groups_in_order = sorted(boxes)
    return Components(
        numbers, [boxes[g] for g in groups_in_order], [sizes[g] for g in groups_in_order]
    )


def connected_components(mask: Mask, connectivity: int = 26) -> Components:
    """Number the components of a 3-D mask; voxels touch by 6 faces, 18 edges or 26 corners too."""
    whole = np.ascontiguousarray(mask).view(np.uint8)
    numbers, low, high, sizes = backend().connected_components(whole, connectivity)
    boxes: Any = [
        tuple(map(slice, *ends)) for ends in zip(low[1:].tolist(), high[1:].tolist(), strict=True)
    ]
    return Components(numbers, boxes, sizes[1:].tolist())


def dilated(mask: Mask, iterations: int) -> Mask:
    """The mask with the voxels across its faces and edges, so many times; 3-D; 0: as it is."""
    found = backend().dilated(np.ascontiguousarray(mask).view(np.uint8), iterations)
    return np.asarray(found).view(bool)


@dataclass(frozen=True)
class Panoptic:
    """Instances matched one to one, and the IoU of each match."""

    ious: tuple[float, ...]
    n_reference: int
    n_prediction: int

    @property
    def recognition_quality(self) -> float:
        """F1 of detection: 2 matches / (reference + predicted instances); 1 where there is none."""
        n = self.n_reference + self.n_prediction
        return 2 * len(self.ious) / n if n else 1.0

    @property
    def segmentation_quality(self) -> float:
        """Mean IoU of the matches; without a match 0, without an instance 1."""
        if self.ious:
            return sum(self.ious) / len(self.ious)
        return 0.0 if self.n_reference or self.n_prediction else 1.0

    @property
    def panoptic_quality(self) -> float:
        """The product of both."""
        return self.recognition_quality * self.segmentation_quality


def panoptic(reference: NDArray[Any], prediction: NDArray[Any], threshold: float = 0.5) -> Panoptic:
    """Match the instances of two arrays of integers of one shape, 0 being background.

    Pairs with an IoU of at least ``threshold`` may match; of all one-to-one matchings of them, the
    one with the largest sum of IoU is taken.
    """
    overlap = np.flatnonzero((reference != 0) & (prediction != 0))
    rows, row_sizes = np.unique(reference[reference != 0], return_counts=True)
    columns, column_sizes = np.unique(prediction[prediction != 0], return_counts=True)
    places = np.searchsorted(rows, reference.ravel()[overlap]) * columns.size
    places += np.searchsorted(columns, prediction.ravel()[overlap])
    pairs, shared = np.unique(places, return_counts=True)
    i, j = pairs // max(columns.size, 1), pairs % max(columns.size, 1)
    ious = shared / (row_sizes[i] + column_sizes[j] - shared)
    fit = ious >= threshold
    matched = _best_matching(i[fit], j[fit], ious[fit])
    return Panoptic(tuple(matched), rows.size, columns.size)


def _best_matching(
    rows: NDArray[np.intp], columns: NDArray[np.intp], scores: NDArray[np.float64]
) -> list[float]:
    """The scores of the one-to-one matching with the largest sum; given are pairs that may match.

    Pairs that have nothing in common are matched apart: at a threshold of 0.5 most are alone.
    """
    # Both are slow to load, and for this alone.
    from scipy.optimize import linear_sum_assignment  # noqa: PLC0415
    from scipy.sparse import coo_array  # noqa: PLC0415
    from scipy.sparse.csgraph import connected_components as groups_of  # noqa: PLC0415

    if rows.size == 0:
        return []
    n_rows, n = int(rows.max()) + 1, int(rows.max() + columns.max()) + 2
    graph = coo_array((np.ones(rows.size), (rows, n_rows + columns)), shape=(n, n))
    group = groups_of(graph, directed=False)[1][rows]
    order = np.argsort(group, kind="stable")
    matched: list[float] = []
    for pairs in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        _, i = np.unique(rows[pairs], return_inverse=True)
        _, j = np.unique(columns[pairs], return_inverse=True)
        table = np.zeros((int(i.max()) + 1, int(j.max()) + 1))
        table[i, j] = scores[pairs]
        best = table[linear_sum_assignment(table, maximize=True)]
        matched += best[best > 0].tolist()
    return matched


Kind = Literal["hit", "missed", "small", "false_positive"]


def kind_of(lesion: Lesion, min_lesion_volume: float) -> Kind:
    """What became of a lesion of the reference; small ones are not scored."""
    if lesion.volume_mm3 <= min_lesion_volume:
        return "small"
    return "hit" if lesion.found else "missed"
