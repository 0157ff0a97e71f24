"""Surfaces of two masks and the distances between them, in millimetres.

Two definitions of a surface: ``surfel`` of Nikolov et al., "Clinically applicable segmentation of
head and neck anatomy" (JMIR 2021), pieces at the corners of voxels with areas (see distance.py);
and ``voxel``, the centres of those voxels of a mask that touch another with a face, each as much
as any other, as in MONAI, medpy and most others. Outside the image is background in both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mist_core.distance import Floats, neighbour_codes, surfel_areas
from mist_core.geometry import Triple, box_of
from mist_core.metrics.backend import backend

Mask = NDArray[np.bool_]
Surface = Literal["surfel", "voxel"]
SURFACES: tuple[Surface, ...] = ("surfel", "voxel")


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """Distances in mm from each piece of one surface to the other surface, ascending.

    ``*_areas`` are the areas of the pieces, in the order of the distances: in mm2, or mm of a
    contour in 2-D, or 1 for the centre of a voxel.
    """

    reference_to_prediction: Floats
    reference_areas: Floats
    prediction_to_reference: Floats
    prediction_areas: Floats


def surface_distances(
    reference: Mask, prediction: Mask, spacing_mm: Sequence[float], surface: Surface = "surfel"
) -> SurfaceDistances:
    """Find both surfaces once and measure from each to the other.

    Masks are 2-D or 3-D booleans of one shape; ``spacing_mm`` is per array axis. With one mask
    empty its own arrays are empty and the other's distances are infinite; with both empty all are
    empty.
    """
    check_spacing(spacing_mm, reference.ndim)
    box = box_of(in_volume(reference | prediction))
    if box is None:
        nothing = np.zeros(0)
        return SurfaceDistances(nothing, nothing, nothing, nothing)
    inside = box[3 - reference.ndim :]
    return distances_between(reference[inside], prediction[inside], spacing_mm, surface)


def distances_between(
    reference: Mask, prediction: Mask, spacing_mm: Sequence[float], surface: Surface
) -> SurfaceDistances:
    """The same for masks that have no background around both of them, or little."""
    spacing = in_space(spacing_mm)
    codes = [pieces(mask, surface) for mask in (reference, prediction)]
    weights = surfel_areas(spacing) if surface == "surfel" else np.ones(256)
    find = backend()
    (here, kinds_here), (there, kinds_there) = map(find.border, codes)
    shape = codes[0].shape
    return SurfaceDistances(
        *_ascending(find.nearest(here, there, shape, spacing), weights[kinds_here]),
        *_ascending(find.nearest(there, here, shape, spacing), weights[kinds_there]),
    )


def pieces(mask: Mask, surface: Surface) -> NDArray[np.uint8]:
    """An array (Z, Y, X) in which the pieces of a surface are neither 0 nor 255."""
    if surface == "voxel":
        return in_volume(border_voxels(mask)).view(np.uint8)
    if mask.ndim == 2:  # a slice of a prism without ends: areas of a prism 1 mm high are lengths
        return neighbour_codes(np.stack([mask, mask]))[1:2]
    return neighbour_codes(mask)


def border_voxels(mask: Mask) -> Mask:
    """The voxels of a mask that touch another with a face, or the edge of the image."""
    padded = np.pad(mask, 1)
    inside = mask.copy()
    for axis, size in enumerate(mask.shape):
        for start in (0, 2):
            window = [slice(1, -1)] * mask.ndim
            window[axis] = slice(start, start + size)
            inside &= padded[tuple(window)]
    return mask & ~inside


def voxel_distances(
    mask: Mask, other: Mask, spacing_mm: Triple, limit_mm: float = np.inf
) -> Floats:
    """Distances in mm from the centres of all voxels of a mask to the nearest of another's.

    Both are 3-D, of one shape. Distances from the limit on are infinite, and all are where the
    other is empty.
    """
    points, targets = np.flatnonzero(mask), np.flatnonzero(other)
    found: Floats = backend().nearest(points, targets, mask.shape, spacing_mm, limit_mm)
    return found


def check_spacing(spacing_mm: Sequence[float], n_axes: int) -> None:
    """Raise ValueError where there is not a finite spacing above 0 for every axis."""
    spacing = np.asarray(spacing_mm, float)
    if spacing.shape != (n_axes,) or not (np.isfinite(spacing) & (spacing > 0)).all():
        raise ValueError(
            f"expected a spacing above 0 mm for each of {n_axes} axes, found {spacing_mm}"
        )


def in_volume(array: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The array with axes of length 1 in front, up to three."""
    return array.reshape((1,) * (3 - array.ndim) + array.shape)


def in_space(spacing_mm: Sequence[float]) -> Triple:
    """The spacing with 1 mm for the axes that ``in_volume`` puts in front."""
    z, y, x = (1.0,) * (3 - len(spacing_mm)) + tuple(map(float, spacing_mm))
    return z, y, x


def _ascending(distances: Floats, areas: Floats) -> tuple[Floats, Floats]:
    """Both in the order of the distances."""
    # Most are zero where a prediction is good: sorting the others takes half the time.
    zero, other = np.flatnonzero(distances == 0), np.flatnonzero(distances)
    order = np.concatenate([zero, other[np.argsort(distances[other])]])
    return distances[order], areas[order]
