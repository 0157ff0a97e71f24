"""Where the body is, and one range of intensities for all."""

from collections.abc import Iterator
from math import floor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mist_core.geometry import Box, box_of
from mist_core.labels import value_counts

Array = NDArray[Any]  # integers of 8 or 16 bits, as scanners store them, or float32
BLOCK = 1 << 20  # voxels that are looked at together, where a whole volume would take memory

OTSU_BINS = 256
LOWEST_HU, HIGHEST_HU = -1024, 3072  # histogram of CT intensities, one bin per Hounsfield unit


def foreground_box(image: Array) -> Box:
    """Box of the voxels above Otsu's threshold; the whole image when none is.

    The image is clipped to its 33rd and 99.5th percentiles first, so that neither air nor a few
    bright voxels decide. Otsu, IEEE Trans. SMC 9 (1979) 62-66.
    """
    low, high = percentiles(image, (33, 99.5))
    whole = (slice(0, image.shape[0]), slice(0, image.shape[1]), slice(0, image.shape[2]))
    if high - low <= OTSU_BINS * np.spacing(max(abs(low), abs(high))):
        return whole  # one value, but for rounding
    counts = np.zeros(OTSU_BINS, np.int64)
    for values, weights in _parts(image):
        clipped = np.clip(values.astype(np.float64), low, high)
        counts += np.histogram(clipped, OTSU_BINS, (low, high), weights=weights)[0].astype(np.int64)
    edges = np.linspace(low, high, OTSU_BINS + 1)
    threshold = otsu_threshold(counts, (edges[1:] + edges[:-1]) / 2)
    # Integers are above a threshold when they are above its floor; then nothing is converted.
    above = image > (np.float64(threshold) if image.dtype.kind == "f" else floor(threshold))
    return box_of(above) or whole


def otsu_threshold(counts: NDArray[np.int64], centres: NDArray[np.float64]) -> float:
    """The centre of a histogram's bin up to which values are of one class, so that the variance
    between two classes is largest. Otsu, IEEE Trans. SMC 9 (1979) 62-66.
    """
    below, total = np.cumsum(counts), np.cumsum(counts * centres)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):  # a class without any value
        gap = total / below - (total[-1] - total) / above
        variance = below * above * gap**2
    return float(centres[np.nanargmax(variance[:-1])])


def percentiles(image: Array, shares: tuple[float, ...]) -> list[float]:
    """Percentiles (0 to 100) of all values, between two of them by linear interpolation."""
    if image.dtype.kind == "f":
        return [float(value) for value in np.percentile(image, shares)]
    values, counts = value_counts(image)
    last = np.cumsum(counts) - 1  # in sorted order
    at = np.array(shares) / 100 * last[-1]
    below = values[np.searchsorted(last, np.floor(at))]
    above = values[np.searchsorted(last, np.ceil(at))]
    return [float(value) for value in below + (at - np.floor(at)) * (above - below)]


def _parts(image: Array) -> Iterator[tuple[NDArray[Any], NDArray[Any] | None]]:
    """All values, some at a time; or those that occur and how often, where there are few kinds."""
    if image.dtype.kind == "f":
        yield from ((plane, None) for plane in image)
    else:
        yield value_counts(image)


def window_and_scale(
    image: Array, window: tuple[float, float], mean: float, std: float
) -> NDArray[np.float32]:
    """Clip to the window, then subtract ``mean`` and divide by ``std``; zeros when std is 0."""
    if std == 0:
        return np.zeros(image.shape, np.float32)
    scaled = image.astype(np.float32)
    np.clip(scaled, *map(np.float32, window), out=scaled)
    scaled -= np.float32(mean)
    scaled /= np.float32(std)
    return scaled


def z_score(image: Array, mask: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    """Clip to the 0.5th and 99.5th percentiles, then z-score, per image.

    With a mask the statistics are those of its voxels, and the others become zero: they are the
    background of, say, a skull-stripped image, not an intensity. An empty mask gives zeros.
    """
    voxels = image if mask is None or not mask.any() else image[mask]
    low, high = percentiles(voxels, (0.5, 99.5))
    scaled = window_and_scale(image, (low, high), *mean_and_std(voxels))
    if mask is not None:
        scaled *= mask
    return scaled


def mean_and_std(voxels: Array) -> tuple[float, float]:
    """Mean and standard deviation (of the population), in float64."""
    flat = voxels.ravel()
    blocks = [flat[start : start + BLOCK] for start in range(0, flat.size, BLOCK)]
    mean = sum(float(block.sum(dtype=np.float64)) for block in blocks) / flat.size
    squares = sum(float(np.square(block.astype(np.float64) - mean).sum()) for block in blocks)
    return mean, (squares / flat.size) ** 0.5
