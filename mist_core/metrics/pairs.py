"""Two label maps on one grid, looked through once for all that metrics need to know of them.

A ``LabelPair`` counts every pair of labels and finds the box around each label. From it comes a
``MaskPair`` for every structure: its counts at once, its surfaces when they are asked for.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mist_core.geometry import Box, Shape, Triple
from mist_core.metrics.backend import backend
from mist_core.metrics.surfaces import (
    Mask,
    Surface,
    SurfaceDistances,
    check_spacing,
    distances_between,
    in_space,
    in_volume,
)

LabelMap = NDArray[Any]
Status = Literal["ok", "both_empty", "reference_empty", "prediction_empty"]
MOST_LABELS = 4096  # in one pair of maps: counts of all pairs of them are held
LARGEST = 2**63 - 1
PART = 1 << 20


@dataclass(frozen=True)
class Counts:
    """Voxels by what the two masks say of them. Exact: Python's integers do not overflow."""

    tp: int
    fp: int
    fn: int
    tn: int


class LabelPair:
    """A reference and a predicted label map of one shape, of integers or booleans, 1-D to 3-D.

    ``spacing_mm`` is per array axis. Raises ValueError for other arrays.
    """

    def __init__(
        self, reference: LabelMap, prediction: LabelMap, spacing_mm: Sequence[float]
    ) -> None:
        _check(reference, prediction, spacing_mm)
        self.n_axes = reference.ndim
        self.spacing_mm = in_space(spacing_mm)
        self.values, maps = _numbered(reference, prediction)
        self._reference, self._prediction = (in_volume(np.ascontiguousarray(m)) for m in maps)
        self._histogram, self._low, self._high = backend().joint_histogram(
            self._reference, self._prediction, len(self.values)
        )

    def structure(self, labels: Collection[int]) -> "MaskPair":
        """The voxels that have one of the labels, in both maps."""
        members = np.flatnonzero(np.isin(self.values, list(labels)))
        in_reference = self._histogram[members].sum(axis=0)
        tp, predicted = int(in_reference[members].sum()), int(self._histogram[:, members].sum())
        positive = int(in_reference.sum())
        fp, fn = predicted - tp, positive - tp
        counts = Counts(tp, fp, fn, self._reference.size - tp - fp - fn)
        return MaskPair(
            counts=counts,
            spacing_mm=self.spacing_mm,
            n_axes=self.n_axes,
            image_shape=self._reference.shape,
            box=self._box(members) if positive or predicted else None,
            maps=(self._reference, self._prediction),
            members=members,
        )

    def _box(self, members: NDArray[np.intp]) -> Box:
        if members[0] == 0:  # background has no box: it may be anywhere
            z, y, x = map(slice, self._reference.shape)
            return z, y, x
        low, high = self._low[members].min(axis=0), self._high[members].max(axis=0)
        z, y, x = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        return z, y, x


@dataclass(frozen=True, eq=False)
class MaskPair:
    """One structure in the reference and in the prediction.

    Arrays are 3-D, those of 1-D and 2-D images with axes of length 1 in front.
    """

    counts: Counts
    spacing_mm: Triple
    n_axes: int  # of the image
    image_shape: Shape
    box: Box | None  # around both masks; None where both are empty
    maps: tuple[LabelMap, LabelMap]
    members: NDArray[np.intp]  # numbers in the maps that belong to the structure
    # What metrics of instances have found, by what they were asked for.
    lesions: dict[Any, Any] = field(default_factory=dict)
    matched: dict[Any, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, reference: Mask, prediction: Mask, spacing_mm: Sequence[float]) -> "MaskPair":
        """The pair of two masks."""
        return LabelPair(reference, prediction, spacing_mm).structure([1])

    @property
    def status(self) -> Status:
        """Whether there is something in both masks."""
        c = self.counts
        if c.tp + c.fn and c.tp + c.fp:
            return "ok"
        if c.fn:
            return "prediction_empty"
        return "reference_empty" if c.fp else "both_empty"

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel; in 2-D its area."""
        return prod(self.spacing_mm)

    @property
    def diagonal_mm(self) -> float:
        """From corner to corner of the image."""
        edges = np.multiply(self.image_shape, self.spacing_mm)[3 - self.n_axes :]
        return float(np.linalg.norm(edges))

    @cached_property
    def masks(self) -> tuple[Mask, Mask]:
        """Reference and prediction within the box; 3-D."""
        reference, prediction = (_mask(m[self.box], self.members) for m in self.maps)
        return reference, prediction

    @cached_property
    def surfels(self) -> SurfaceDistances:
        """Distances between surfaces of surfels."""
        return self._surface_distances("surfel")

    @cached_property
    def border_voxels(self) -> SurfaceDistances:
        """Distances between the voxels at the borders."""
        return self._surface_distances("voxel")

    def surfaces(self, surface: Surface) -> SurfaceDistances:
        """Distances between the surfaces; each kind of surface is found once."""
        return self.surfels if surface == "surfel" else self.border_voxels

    def _surface_distances(self, surface: Surface) -> SurfaceDistances:
        if self.n_axes == 1:
            raise ValueError("expected images with 2 or 3 axes for distances, found 1")
        reference, prediction = self.masks
        if self.n_axes == 2:
            reference, prediction = reference[0], prediction[0]
        spacing_mm = self.spacing_mm[3 - self.n_axes :]
        return distances_between(reference, prediction, spacing_mm, surface)


def _check(reference: LabelMap, prediction: LabelMap, spacing_mm: Sequence[float]) -> None:
    if reference.shape != prediction.shape:
        raise ValueError(
            f"expected two arrays of one shape, found {reference.shape} and {prediction.shape}"
        )
    if not 1 <= reference.ndim <= 3 or reference.size == 0:
        raise ValueError(f"expected 1 to 3 axes with voxels, found shape {reference.shape}")
    for array in (reference, prediction):
        if array.dtype.kind not in "biu":
            raise ValueError(f"expected labels as integers or booleans, found {array.dtype}")
    check_spacing(spacing_mm, reference.ndim)


def _numbered(reference: LabelMap, prediction: LabelMap) -> tuple[NDArray[Any], list[LabelMap]]:
    """The labels, 0 first, and both maps with labels replaced by their places among them."""
    maps = [reference, prediction]
    if all(m.dtype == bool for m in maps):
        return np.arange(2), [m.view(np.uint8) for m in maps]
    if all(m.dtype.itemsize == 1 and m.dtype.kind in "bu" for m in maps):
        return np.arange(256), [m.view(np.uint8) for m in maps]
    # Python's numbers: uint64 beside another type would become floating point.
    found = {0}.union(*(np.unique(part).tolist() for m in maps for part in _parts(m)))
    if min(found) < 0 or max(found) > LARGEST or len(found) > MOST_LABELS:
        raise ValueError(
            f"expected at most {MOST_LABELS} labels from 0 to {LARGEST}, found {len(found)} from "
            f"{min(found)} to {max(found)}"
        )
    values = np.array(sorted(found), np.int64)
    return values, [_places(m, values) for m in maps]


def _parts(labels: LabelMap) -> list[LabelMap]:
    """The labels in parts, since what is made of them has 64 bits a label; in any order."""
    return np.array_split(labels.reshape(-1), labels.size // PART + 1)


def _places(labels: LabelMap, values: NDArray[np.int64]) -> LabelMap:
    """Each label's place among the values."""
    kind = np.uint8 if values.size <= 256 else np.uint16
    parts = [np.searchsorted(values, p.astype(np.int64)).astype(kind) for p in _parts(labels)]
    return np.concatenate(parts).reshape(labels.shape)


def _mask(labels: LabelMap, members: NDArray[np.intp]) -> Mask:
    """Whether each label is one of the members."""
    if members.size > 4:
        table = np.zeros(max(np.iinfo(labels.dtype).max, int(members.max())) + 1, bool)
        table[members] = True
        return np.asarray(table[labels])
    mask: Mask = labels == members[0]
    for member in members[1:]:  # a few comparisons are faster than a table
        mask |= labels == member
    return mask
