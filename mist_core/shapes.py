"""The shape of a structure in a few numbers that do not depend on its size, place or direction."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from math import pi, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import skeletonize

from mist_core.distance import neighbour_codes, surfel_areas
from mist_core.geometry import Triple

Mask = NDArray[np.bool_]

FEWEST_VOXELS = 4  # of a structure whose extents mean anything
MOST_VOXELS_TO_THIN = 500_000  # thinning more than that takes too long


@dataclass(frozen=True)
class PrincipalShape:
    """How far a structure is from a ball, by its extents along its own three axes.

    Each is from 0 to 1, and together they are 1: a line, a disc and a ball have one of them.
    """

    linearity: float
    planarity: float
    sphericity: float


def masks_of(labels: NDArray[Any]) -> Iterator[tuple[int, Mask]]:
    """Every label value above 0 of a 3-D label map, with its mask in the smallest box around it."""
    for value, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is not None:
            yield value, labels[box] == value


def principal_shape(mask: Mask, spacing_mm: Triple) -> PrincipalShape | None:
    """Linearity, planarity and sphericity of a 3-D mask; None below four voxels.

    (l1 - l2) / l1, (l2 - l3) / l1 and l3 / l1 of the eigenvalues l1 >= l2 >= l3 of the covariance
    of the voxel centres in mm; ``spacing_mm`` is per array axis. Westin et al., "Geometrical
    diffusion measures for MRI from tensor basis analysis", ISMRM 1997.
    """
    if np.count_nonzero(mask) < FEWEST_VOXELS:
        return None
    values = np.linalg.eigvalsh(_covariance(mask) * np.outer(spacing_mm, spacing_mm))
    l3, l2, l1 = np.maximum(values, 0).tolist()  # a flat structure has one of about -1e-16
    return PrincipalShape((l1 - l2) / l1, (l2 - l3) / l1, l3 / l1)


def _covariance(mask: Mask) -> NDArray[np.float64]:
    """Covariance (3, 3) of the voxel indices, without a list of them.

    The sums over a plane of the mask are all that a pair of axes needs. They are whole numbers, so
    that the result does not depend on the order of voxels or axes.
    """
    n = int(np.count_nonzero(mask))
    covariance = np.zeros((3, 3))
    for a, b in combinations(range(3), 2):
        counts = np.count_nonzero(mask, axis=3 - a - b)
        i, j = (np.arange(size) for size in counts.shape)
        per_i, per_j = counts.sum(axis=1), counts.sum(axis=0)
        sum_i, sum_j = int(i @ per_i), int(j @ per_j)
        # Python's integers: the products would overflow those of NumPy in a large scan.
        covariance[a, a] = (n * int(i**2 @ per_i) - sum_i**2) / n**2
        covariance[b, b] = (n * int(j**2 @ per_j) - sum_j**2) / n**2
        covariance[a, b] = covariance[b, a] = (n * int(i @ counts @ j) - sum_i * sum_j) / n**2
    return covariance


def isoperimetric_quotient(mask: Mask, spacing_mm: Triple) -> float | None:
    """36 pi V^2 / S^3 of a 3-D mask, at most 1; None without a voxel.

    V is the volume of the voxels and S the area of the surface of ``distance.py``. Of all bodies a
    ball has the largest quotient, 1. A ball of voxels has about 0.78, and 0.6 where they are three
    times as long as wide: steps make its surface larger, however many there are. What is a few
    voxels wide loses its corners to that surface and would be above 1.
    """
    codes = neighbour_codes(mask)
    # Plane by plane: bincount makes 64-bit integers of what it counts.
    counts = sum(np.bincount(plane.ravel(), minlength=256) for plane in codes)
    area = float(counts @ surfel_areas(spacing_mm))
    if area == 0:
        return None
    volume = int(np.count_nonzero(mask)) * prod(spacing_mm)
    return min(36 * pi * volume**2 / area**3, 1.0)


def skeleton_ratio(mask: Mask) -> float | None:
    """Share of the voxels of a 3-D mask that are left when it is thinned to its centre lines.

    None without a voxel, and above 500 000. Lee, Kashyap & Chu, CVGIP 56 (1994) 462-478.
    """
    n = int(np.count_nonzero(mask))
    if n == 0 or n > MOST_VOXELS_TO_THIN:
        return None
    return int(np.count_nonzero(skeletonize(mask))) / n
