"""Where the body is, and one range of intensities for all."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.filters import threshold_otsu

from mist_core.geometry import Box, box_of

Array = NDArray[np.float32]

LOWEST_HU, HIGHEST_HU = -1024, 3072  # histogram of CT intensities, one bin per Hounsfield unit


def foreground_box(image: Array) -> Box:
    """Box of the voxels above Otsu's threshold; the whole image when none is.

    The image is clipped to its 33rd and 99.5th percentiles first, so that neither air nor a few
    bright voxels decide. Otsu, IEEE Trans. SMC 9 (1979) 62-66.
    """
    low, high = np.percentile(image, [33, 99.5])
    whole = (slice(0, image.shape[0]), slice(0, image.shape[1]), slice(0, image.shape[2]))
    if low == high:
        return whole
    threshold = threshold_otsu(np.clip(image, low, high).ravel(), nbins=256)
    return box_of(image > threshold) or whole


def window_and_scale(
    image: Array, window: tuple[float, float], mean: float, std: float
) -> NDArray[np.float32]:
    """Clip to the window, then subtract ``mean`` and divide by ``std``; zeros when std is 0."""
    if std == 0:
        return np.zeros_like(image)
    return ((np.clip(image, *window) - np.float32(mean)) / np.float32(std)).astype(np.float32)


def z_score(image: Array, mask: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    """Clip to the 0.5th and 99.5th percentiles, then z-score, per image.

    With a mask the statistics are those of its voxels, and the others become zero: they are the
    background of, say, a skull-stripped image, not an intensity. An empty mask gives zeros.
    """
    voxels = image if mask is None or not mask.any() else image[mask]
    low, high = np.percentile(voxels, [0.5, 99.5])
    scaled = window_and_scale(
        image, (float(low), float(high)), float(voxels.mean(dtype=np.float64)), _std(voxels)
    )
    return scaled if mask is None else scaled * mask


def _std(voxels: NDArray[Any]) -> float:
    return float(voxels.std(dtype=np.float64))
