"""What a step of a strategy does to a label map: one function for each transform.

A transform gets label values (Z, Y, X) and the mask of the voxels that its step is applied to, at
least one, and returns label values of that shape. Keywords in ``GIVEN`` come from the case, if a
transform names them: ``spacing_mm``, per array axis, and ``probability``, (Z, Y, X), that a voxel
belongs to the labels of the mask. The others are kwargs of the strategy, checked by annotation.
Components are voxels that touch at faces, edges or corners.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage

from mist_core.geometry import Triple, box_of, widened_box
from mist_core.io import LARGEST_LABEL
from mist_core.labels import in_labels, value_counts
from mist_core.metrics.instances import connected_components

Labels = NDArray[Any]
Mask = NDArray[np.bool_]
Transform = Callable[..., Labels]
Voxels = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Mm = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Mm3 = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
AnyLabel = Annotated[int, Field(ge=0, le=LARGEST_LABEL)]
Named = Annotated[list[Annotated[int, Field(ge=1, le=LARGEST_LABEL)]], Field(min_length=1)]

GIVEN = ("spacing_mm", "probability")
FULL = np.ones((3, 3, 3), bool)
CROSS = ndimage.generate_binary_structure(3, 1)
ROUNDING = 1e-6  # share of a volume: spacings in headers are rounded
TIE = 1e-6  # of blurred masks


def remove_small_objects(
    labels: Labels,
    mask: Mask,
    *,
    spacing_mm: Triple,
    small_object_threshold: Voxels = 64,
    min_volume_mm3: Mm3 | None = None,
) -> Labels:
    """Set components of fewer voxels than the threshold, or of less volume, to background."""
    return replace_small_objects_with_label(
        labels,
        mask,
        spacing_mm=spacing_mm,
        small_object_threshold=small_object_threshold,
        min_volume_mm3=min_volume_mm3,
    )


def replace_small_objects_with_label(
    labels: Labels,
    mask: Mask,
    *,
    spacing_mm: Triple,
    small_object_threshold: Voxels = 64,
    min_volume_mm3: Mm3 | None = None,
    replacement_label: AnyLabel = 0,
) -> Labels:
    """Give components of fewer voxels than the threshold, or of less volume, another label."""
    components, sizes = _components(mask)
    if min_volume_mm3 is None:
        small = sizes < small_object_threshold
    else:
        small = sizes * np.prod(spacing_mm) < min_volume_mm3 * (1 - ROUNDING)
    small[0] = False
    return _painted(labels, small[components], replacement_label)


def get_top_k_connected_components(
    labels: Labels,
    mask: Mask,
    *,
    top_k_connected_components: Count = 1,
    apply_morphological_cleaning: bool = False,
    morphological_cleaning_iterations: Count = 2,
) -> Labels:
    """Keep the largest components, all of them when there are fewer.

    Cleaning erodes before the choice, which cuts thin bridges, and dilates what was kept within
    the original mask. A mask that erosion leaves nothing of stays as it is.
    """
    box = _around(mask)
    inside = mask[box]
    cores = inside
    if apply_morphological_cleaning:
        cores = ndimage.binary_erosion(inside, CROSS, morphological_cleaning_iterations)
    components, sizes = _components(cores)
    if sizes.size - 1 < top_k_connected_components:
        return labels
    kept = np.zeros(sizes.size, bool)
    # Largest first; equal sizes in the order of their first voxel, so the choice is fixed.
    kept[1 + np.argsort(-sizes[1:], kind="stable")[:top_k_connected_components]] = True
    chosen = kept[components]
    if apply_morphological_cleaning:
        chosen = ndimage.binary_dilation(chosen, CROSS, morphological_cleaning_iterations)
    gone = np.zeros(mask.shape, bool)
    gone[box] = inside & ~chosen
    return _painted(labels, gone, 0)


def fill_holes_with_label(labels: Labels, mask: Mask, *, fill_holes_label: AnyLabel = 0) -> Labels:
    """Give background that the mask encloses a label. Other structures in a hole stay.

    A hole is what no way across faces leads out of.
    """
    box = _around(mask)
    outside = connected_components(~mask[box], 6)
    enclosed = [
        all(s.start > 0 and s.stop < n for s, n in zip(each, mask[box].shape, strict=True))
        for each in outside.boxes
    ]
    holes = np.zeros(mask.shape, bool)
    holes[box] = np.array([False, *enclosed])[outside.numbers]
    return _painted(labels, holes & (labels == 0), fill_holes_label)


def keep_within_label(
    labels: Labels, mask: Mask, *, within_labels: Named, min_contact: Share = 0.0
) -> Labels:
    """Set components to background that do not lie in, or at, the structure of other labels.

    Of the voxels around a component, those that touch it, a share of at least ``min_contact``, and
    at least one, must have one of ``within_labels``: 0, the two touch; 1, it is enclosed. Where no
    voxel has one of them nothing is kept.
    """
    there = in_labels(labels, within_labels) & ~mask
    components = connected_components(mask)
    gone = np.zeros(mask.shape, bool)
    for number, tight in enumerate(components.boxes, start=1):
        box = widened_box(tight, mask.shape, (1, 1, 1))
        own = components.numbers[box] == number
        around = ndimage.binary_dilation(own, FULL) & ~own
        touched = np.count_nonzero(there[box] & around)
        if touched == 0 or touched < min_contact * np.count_nonzero(around):
            gone[box] |= own
    return _painted(labels, gone, 0)


def smooth_boundary(
    labels: Labels, mask: Mask, *, spacing_mm: Triple, sigma_mm: Mm = 1.0
) -> Labels:
    """Smooth the borders of the mask's labels, with background and with each other.

    The mask of every label, and background, is blurred by a Gaussian, and the strongest takes the
    voxel. Labels that are not in the mask neither lose nor gain a voxel. A component that would
    vanish stays as it was.
    """
    winner = labels.copy()
    most, own = (np.zeros(labels.shape, np.float32) for _ in range(2))
    sigma = [sigma_mm / step for step in spacing_mm]
    for value in value_counts(labels)[0]:
        here = labels == value
        share = ndimage.gaussian_filter(here.astype(np.float32), sigma, mode="nearest")
        own[here] = share[here]
        stronger = share > most
        winner[stronger], most[stronger] = value, share[stronger]
    named = value_counts(labels[mask])[0].tolist()
    free = (mask | (labels == 0)) & in_labels(winner, [0, *named]) & (most > own + TIE)
    smoothed = np.where(free, winner, labels)
    for value in named:
        before = connected_components(labels == value).numbers
        left = np.zeros(int(before.max()) + 1, bool)
        left[before[smoothed == value]] = True
        left[0] = True
        smoothed[~left[before]] = value
    return smoothed


def remove_by_mean_probability(
    labels: Labels,
    mask: Mask,
    *,
    probability: NDArray[np.float32],
    min_mean_probability: Share = 0.5,
) -> Labels:
    """Set components to background whose voxels have a lower mean probability."""
    components, sizes = _components(mask)
    of_voxels = components[mask]
    sums = np.bincount(of_voxels, probability[mask].astype(np.float64), sizes.size)
    unlikely = sums < min_mean_probability * sizes
    unlikely[0] = False
    return _painted(labels, unlikely[components], 0)


TRANSFORMS: Mapping[str, Transform] = {
    "remove_small_objects": remove_small_objects,
    "fill_holes_with_label": fill_holes_with_label,
    "get_top_k_connected_components": get_top_k_connected_components,
    "replace_small_objects_with_label": replace_small_objects_with_label,
    "keep_within_label": keep_within_label,
    "smooth_boundary": smooth_boundary,
    "remove_by_mean_probability": remove_by_mean_probability,
}


def _components(mask: Mask) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Numbered components, and the voxels of each; number 0 is the rest, of size 0."""
    found = connected_components(mask)
    return found.numbers, np.array([0, *found.sizes], np.int64)


def _around(mask: Mask) -> Any:
    """The box around the mask and one voxel more, where the image has it."""
    box = box_of(mask)
    assert box is not None
    return widened_box(box, mask.shape, (1, 1, 1))


def _painted(labels: Labels, where: Mask, value: int) -> Labels:
    painted = labels.astype(np.promote_types(labels.dtype, np.min_scalar_type(value)))
    painted[where] = value
    return painted
