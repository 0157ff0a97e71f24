"""Metrics of distances, in mm, and of what lies near a border.

All take a MaskPair in which neither mask is empty: what empty masks are worth is decided before
(registry.py). Surfaces are those of images with 2 or 3 axes, else ValueError is raised.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from mist_core.distance import Floats
from mist_core.metrics.pairs import MaskPair
from mist_core.metrics.surfaces import (
    Mask,
    Surface,
    SurfaceDistances,
    border_voxels,
    in_volume,
    voxel_distances,
)

Directions = Literal[
    "max_of_directed", "pooled", "reference_to_prediction", "prediction_to_reference"
]
ONE_WAY: tuple[Directions, ...] = ("reference_to_prediction", "prediction_to_reference")
Weighted = tuple[Floats, Floats]  # distances, and the areas that have them
NEARLY = 1 - 1e-12  # sums of areas are rounded: half of them may come out a little less than half


def hausdorff(
    pair: MaskPair,
    percentile: float = 100,
    surface: Surface = "surfel",
    directions: Directions = "max_of_directed",
) -> float:
    """A percentile of surface distance; 100 is the Hausdorff distance.

    Of surfels: the first distance within which lies that share of the area. Of voxels: percentiles
    are interpolated linearly. ``max_of_directed`` is the larger of both directions' percentiles;
    ``pooled`` is that of all distances together, in which a missed structure that is less than the
    rest disappears. Huttenlocher et al., IEEE Trans. PAMI 15 (1993) 850-863.
    """
    return max(
        _percentile(distances, areas, percentile, surface)
        for distances, areas in _sides(pair.surfaces(surface), directions)
    )


def avg_surf(
    pair: MaskPair, surface: Surface = "surfel", directions: Directions = "pooled"
) -> float:
    """Average symmetric surface distance: the mean of both directions together, by area.

    Heimann et al., IEEE Trans. Med. Imaging 28 (2009) 1251-1265.
    """
    return max(
        float(distances @ areas / areas.sum())
        for distances, areas in _sides(pair.surfaces(surface), directions)
    )


def masd(pair: MaskPair, surface: Surface = "surfel") -> float:
    """Mean average surface distance: of the means of both directions, each as much as the other."""
    there, back = (avg_surf(pair, surface, way) for way in ONE_WAY)
    return (there + back) / 2


def surf_dice(
    pair: MaskPair,
    tolerance: float = 1.0,
    surface: Surface = "surfel",
    directions: Directions = "pooled",
) -> float:
    """Share of both surfaces that lies within ``tolerance`` mm of the other; also called NSD.

    Nikolov et al., JMIR 23 (2021) e26151.
    """
    return min(
        float(areas[distances <= tolerance].sum() / areas.sum())
        for distances, areas in _sides(pair.surfaces(surface), directions)
    )


def average_hausdorff(pair: MaskPair, form: Literal["max", "mean"] = "max") -> float:
    """Mean distance of all voxels of one mask, not just its surface, to the nearest of the other.

    ``max``: the larger of both directions (Taha & Hanbury, BMC Medical Imaging 15 (2015) 29);
    ``mean``: their mean, as ITK's HausdorffDistanceImageFilter has it.
    """
    reference, prediction = pair.masks
    there = _mean_of_all(reference, prediction, pair)
    back = _mean_of_all(prediction, reference, pair)
    return max(there, back) if form == "max" else (there + back) / 2


def _mean_of_all(mask: Mask, other: Mask, pair: MaskPair) -> float:
    """Mean distance of a mask's voxels; those in the other have 0, and its border is nearest."""
    border = in_volume(border_voxels(_in_plane(other, pair)))
    distances = voxel_distances(mask & ~other, border, pair.spacing_mm)
    return float(distances.sum() / np.count_nonzero(mask))


def boundary_iou(pair: MaskPair, width: float = 2.0) -> float:
    """Intersection over union of what lies less than ``width`` mm inside each mask's border voxels.

    The border voxels themselves always do. Cheng et al., CVPR 2021, 15334-15342.
    """
    reference, prediction = (_rim(mask, pair, width) for mask in pair.masks)
    shared, either = reference & prediction, reference | prediction
    return float(np.count_nonzero(shared) / np.count_nonzero(either))


def _rim(mask: Mask, pair: MaskPair, width: float) -> Mask:
    border = in_volume(border_voxels(_in_plane(mask, pair)))
    rim = border.copy()
    inside = mask & ~border
    rim[inside] = np.isfinite(voxel_distances(inside, border, pair.spacing_mm, width))
    return rim


def cldice(pair: MaskPair) -> float:
    """Centre-line Dice: whether the centre line of each mask lies in the other.

    For tubes, such as vessels. Shit et al., CVPR 2021, 16560-16569; thinned as Zhang & Suen do in
    2-D, as Lee, Kashyap & Chu in 3-D.
    """
    from skimage.morphology import skeletonize  # noqa: PLC0415 (slow, and most ask for no lines)

    def share_in(mask: Mask, other: Mask) -> float:
        line = skeletonize(mask) > 0
        if not line.any():  # of 2 x 2 x 1 voxels, say, thinning leaves nothing
            line = mask
        return float(np.count_nonzero(line & other) / np.count_nonzero(line))

    reference, prediction = (_in_plane(mask, pair) for mask in pair.masks)
    precision, sensitivity = share_in(prediction, reference), share_in(reference, prediction)
    both = precision + sensitivity
    return 2 * precision * sensitivity / both if both else 0.0


def _in_plane(mask: Mask, pair: MaskPair) -> Mask:
    """The mask with as many axes as the image."""
    return mask.reshape(mask.shape[3 - pair.n_axes :])


def _sides(surfaces: SurfaceDistances, directions: Directions) -> Sequence[Weighted]:
    """The distances that are looked at together."""
    there = surfaces.reference_to_prediction, surfaces.reference_areas
    back = surfaces.prediction_to_reference, surfaces.prediction_areas
    if directions == "pooled":
        distances, areas = (np.concatenate(parts) for parts in zip(there, back, strict=True))
        return [(distances, areas)]
    if directions == "max_of_directed":
        return [there, back]
    return [there] if directions == "reference_to_prediction" else [back]


def _percentile(distances: Floats, areas: Floats, percentile: float, surface: Surface) -> float:
    if surface == "voxel":
        return float(np.percentile(distances, percentile))
    order = np.argsort(distances, kind="stable")  # at once where they are sorted
    distances, covered = distances[order], np.cumsum(areas[order])
    index = int(np.searchsorted(covered, percentile / 100 * covered[-1] * NEARLY))
    return float(distances[min(index, distances.size - 1)])
