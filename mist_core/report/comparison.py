"""An image, its reference and its prediction on one grid, and what is right and wrong where."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mist_core.errors import DataError
from mist_core.geometry import Geometry
from mist_core.io import Volume
from mist_core.labels import value_counts
from mist_core.pictures import COLOURS
from mist_core.resample import canonical, resample_image

# What a voxel is, also the order in which one hides another.
NOTHING, RIGHT, ONLY_PREDICTED, ONLY_REFERENCE, CONFUSED = range(5)
# Unlike in lightness, too, for the colour-blind and in print, and none of them a class's. Confused
# voxels have two of them.
STATE_COLOURS = {RIGHT: "#5B4BC4", ONLY_PREDICTED: "#FF3B5C", ONLY_REFERENCE: "#FFFFFF"}
WINDOW = (0.5, 99.5)  # percentiles of the image that are black and white
OF_LABELS = (1, 99)  # percentiles of what is labelled
LARGEST_GROUP = 255


@dataclass(frozen=True, eq=False)
class Comparison:
    """A case in LPS. Arrays are (Z, Y, X), uint8.

    ``reference`` and ``prediction`` are groups of label values: those that are of the same final
    classes, which may overlap, are one. ``members[group, class]`` says of which; group 0 has none.
    ``state`` is one of the five above. ``file_axes`` is how the axes of the file were permuted and
    then flipped.
    """

    grey: NDArray[np.uint8]
    reference: NDArray[np.uint8]
    prediction: NDArray[np.uint8]
    state: NDArray[np.uint8]
    members: NDArray[np.bool_]
    classes: tuple[str, ...]
    geometry: Geometry
    file_axes: tuple[tuple[int, int, int], tuple[bool, bool, bool]]

    def mask(self, groups: NDArray[np.uint8], number: int) -> NDArray[np.bool_]:
        """Where an array of groups is of the class of that number, from 0."""
        return np.asarray(self.members[:, number][groups])

    def errors_of_classes(self) -> list[int]:
        """Voxels of each class that are only in the reference or only in the prediction."""
        n = len(self.members)
        pairs = self.reference.astype(np.uint16) * n + self.prediction
        counts = np.zeros(n * n, np.int64)
        values, found = value_counts(pairs)
        counts[values] = found
        differ = self.members[:, None] != self.members[None]
        return [int(c) for c in (counts[:, None] * differ.reshape(n * n, -1)).sum(axis=0)]


def compare(
    case_id: str,
    image: Volume,
    reference: Volume,
    prediction: Volume,
    classes: Mapping[str, Sequence[int]],
    ignore_label: int | None = None,
) -> Comparison:
    """Bring a case onto the grid of its reference, in LPS, and compare its label maps.

    ``classes`` are the label values of each final class. Voxels whose reference is
    ``ignore_label`` count as nothing. Raises DataError where prediction and reference do not share
    a grid: labels must not be resampled to be judged.
    """
    if not prediction.geometry.matches(reference.geometry):
        raise DataError(
            f"{case_id}: expected a prediction on the grid of the reference, {reference.geometry}, "
            f"found one on {prediction.geometry}. Write the prediction on the grid of the image."
        )
    axes = reference.geometry.to_lps()
    reference, prediction = canonical(reference), canonical(prediction)
    grid = reference.geometry
    values = sorted({value for members in classes.values() for value in members})
    rows = np.array([[value in m for m in classes.values()] for value in values], bool)
    groups, index = np.unique(rows.reshape(len(values), len(classes)), axis=0, return_inverse=True)
    if len(groups) > LARGEST_GROUP:
        raise DataError(
            f"{case_id}: expected at most {LARGEST_GROUP} different classes to draw, found "
            f"{len(groups)}. Evaluate fewer classes."
        )
    members = np.concatenate([np.zeros((1, len(classes)), bool), groups])
    table = np.zeros(1 << 16, np.uint8)
    table[values] = index.ravel() + 1
    of_reference, of_prediction = table[reference.array], table[prediction.array]
    if ignore_label is not None:
        ignored = reference.array == ignore_label
        of_reference[ignored] = of_prediction[ignored] = 0
    state = states(members)[of_reference, of_prediction]
    labelled = of_reference if of_reference.any() else of_prediction
    grey = to_grey(resample_image(canonical(image), grid).array, labelled > 0)
    names = tuple(classes)
    return Comparison(grey, of_reference, of_prediction, state, members, names, grid, axes)


def states(members: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """What a voxel is for each pair of its groups in reference and prediction, (groups, groups).

    CONFUSED is a voxel that lacks one class and has another in its place.
    """
    reference, prediction = members[:, None], members[None]
    missed = (reference & ~prediction).any(axis=2)
    invented = (prediction & ~reference).any(axis=2)
    both = (reference & prediction).any(axis=2)
    conditions = [missed & invented, missed, invented, both]
    found = np.select(conditions, [CONFUSED, ONLY_REFERENCE, ONLY_PREDICTED, RIGHT], NOTHING)
    return found.astype(np.uint8)


def to_grey(image: NDArray[Any], labelled: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """An image of any values from black to white; what is not finite is black.

    The window holds what is ``labelled`` and as much again on both sides of it, if the image has
    that: a CT shows soft tissue where that is what was segmented. Without labels it is the image's.
    """
    values = image.astype(np.float32, copy=False)
    finite = np.isfinite(values)
    low, high = _window(values[::2, ::2, ::2], finite[::2, ::2, ::2])
    inside = values[labelled & finite]
    if inside.size and inside.min() < inside.max():
        first, last = np.percentile(inside, OF_LABELS)
        width = last - first
        low, high = max(min(low, first), first - width), min(max(high, last), last + width)
    scaled = (np.where(finite, values, low) - low) * (255 / max(high - low, 1e-7))
    return np.clip(scaled, 0, 255).astype(np.uint8)


def _window(values: NDArray[np.float32], finite: NDArray[np.bool_]) -> tuple[float, float]:
    """What is black and white in an image as a whole; its lowest value may be mere padding."""
    some = values[finite]
    if not some.size:
        return 0.0, 0.0
    lowest = float(some.min())
    above = some[some > lowest]
    low, high = np.percentile(above, WINDOW).tolist() if above.size else (lowest, lowest)
    return (low, high) if low < high else (lowest, high)


def worst_slice(comparison: Comparison, axis: int) -> int:
    """The slice along an axis with most errors; without any, that with most labels, else the
    middle.
    """
    others = tuple(a for a in range(3) if a != axis)
    for state in (comparison.state >= ONLY_PREDICTED, comparison.state > NOTHING):
        if (areas := state.sum(axis=others)).any():
            return int(areas.argmax())
    return int(comparison.state.shape[axis]) // 2


def most_wrong(comparison: Comparison) -> list[int]:
    """The numbers of the classes that get a colour: all, or as many of those most in error."""
    wrong = comparison.errors_of_classes()
    ordered = sorted(range(len(wrong)), key=lambda number: -wrong[number])
    return sorted(ordered[: len(COLOURS)])
