"""The surface of a mask, and the distance of every voxel to its border.

The surface is the one of Nikolov et al., "Clinically applicable segmentation of head and neck
anatomy" (JMIR 2021), as their library surface-distance defines it: eight neighbouring voxels that
are not all inside or all outside enclose a piece of surface (a *surfel*), whose area follows from
marching cubes. Outside the image is background.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from mist_core.geometry import Triple

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

# Triangles of marching cubes (Lorensen & Cline 1987) for each code of eight corners: the size, in
# eighths of a voxel face, of each triangle's normal along the three axes. Corner (i, j, k) adds
# 2 ** (7 - 4 i - 2 j - k) to the code. A code and its complement share a surface.
_TRIANGLES = {
    "111": (1, 2, 4, 8, 16, 32, 64, 127),
    "220 220": (3, 12, 48, 63),
    "202 202": (5, 10, 80, 95),
    "022 022": (17, 34, 68, 119),
    "111 111": (6, 9, 18, 20, 24, 33, 36, 40, 65, 66, 72, 96, 111, 123, 125, 126),
    "400 400": (15,),
    "040 040": (51,),
    "004 004": (85,),
    "111 222 400": (7, 11, 13, 14, 31, 47, 79, 112),
    "111 222 040": (19, 35, 49, 50, 55, 59, 76, 115),
    "111 222 004": (21, 42, 69, 81, 84, 87, 93, 117),
    "111 111 111": (22, 41, 73, 97, 104, 107, 109, 121),
    "111 111 222 222": (23, 43, 77, 113),
    "111 220 220": (28, 44, 52, 56, 61, 62, 67, 124),
    "111 202 202": (26, 37, 74, 82, 88, 91, 94, 122),
    "111 022 022": (25, 38, 70, 98, 100, 103, 110, 118),
    "111 333 220 202": (53, 58, 83, 92),
    "111 333 220 022": (29, 46, 71, 116),
    "111 333 202 022": (27, 39, 78, 114),
    "111 111 222 400": (30, 45, 75, 120),
    "111 111 222 040": (54, 57, 99, 108),
    "111 111 222 004": (86, 89, 101, 106),
    "220 220 220 220": (60,),
    "202 202 202 202": (90,),
    "022 022 022 022": (102,),
    "111 111 111 111": (105,),
}


def neighbour_codes(mask: Mask) -> NDArray[np.uint8]:
    """Code of the eight voxels around every corner; each axis grows by one."""
    padded = np.pad(mask, 1).astype(np.uint8)
    codes = padded[:-1] * np.uint8(16) + padded[1:]
    codes = codes[:, :-1] * np.uint8(4) + codes[:, 1:]
    return codes[:, :, :-1] * np.uint8(2) + codes[:, :, 1:]


@cache
def surfel_areas(spacing_mm: Triple) -> Floats:
    """Area in mm2 of the surface around a corner, for each of the 256 codes; 0 for 0 and 255."""
    a, b, c = spacing_mm
    face_areas = np.array([b * c, a * c, a * b]) / 8
    areas = np.zeros(256)
    for triangles, codes in _TRIANGLES.items():
        normals = np.array([[int(digit) for digit in t] for t in triangles.split()])
        area = np.linalg.norm(normals * face_areas, axis=1).sum()
        for code in codes:
            areas[code] = areas[255 - code] = area
    return areas


def signed_distance_map(mask: Mask, normalize: bool) -> NDArray[np.float32]:
    """Distance of every voxel to the border of a mask, negative inside; float32, in voxels.

    The border are the voxels of the mask that touch another, also at a corner; they have 0.
    Normalised, the farthest voxel outside has 1 and the deepest inside -1. A mask without voxels is
    as far away as can be everywhere: 1, or the diagonal of the array; a mask of all voxels the
    negative of that. Maurer et al., IEEE Trans. PAMI 25 (2003) 265-270.
    """
    if mask.all() or not mask.any():
        far = 1.0 if normalize else float(np.linalg.norm(mask.shape))
        return np.full(mask.shape, -far if mask.all() else far, np.float32)
    import SimpleITK as sitk  # noqa: PLC0415 (metrics, which import this module, do without)

    image = sitk.GetImageFromArray(mask.view(np.uint8))
    settings = {"insideIsPositive": False, "squaredDistance": False, "useImageSpacing": False}
    distance = sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(image, **settings))
    if normalize:
        distance[distance > 0] /= max(float(distance.max()), 1)
        distance[distance < 0] /= max(-float(distance.min()), 1)
    return np.asarray(distance)
