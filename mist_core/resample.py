"""Put a volume on another grid. The way there and the way back are the same call.

Voxels are boxes, not points: a new grid covers the same box, and within half a voxel of the border
the value of the nearest voxel holds. So no plane is lost when slices become thinner.
"""

from collections.abc import Iterable

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from mist_core.geometry import Geometry, Triple
from mist_core.io import Volume, to_sitk

# Above this ratio of voxel edges, interpolating across slices would invent what was not measured.
ANISOTROPY = 3.0


def canonical(volume: Volume) -> Volume:
    """Permute and flip axes so that they run along +z, +y, +x as nearly as they can (LPS)."""
    order, flips = volume.geometry.to_lps()
    array = np.flip(volume.array.transpose(order), tuple(a for a in range(3) if flips[a]))
    return Volume(np.ascontiguousarray(array), volume.geometry.moved_axes(order, flips))


def resample_image(volume: Volume, grid: Geometry) -> Volume:
    """Cubic B-spline interpolation (linear where an axis has fewer than four voxels), never outside
    the range of the input.

    Splines ring at edges: a step of 0 to 1000 would give -85 to 1100. Where the voxel is more than
    three times longer than wide, its long axis is resampled by nearest neighbour first.
    """
    if _same_grid(volume.geometry, grid):
        return volume
    low, high = volume.array.min(), volume.array.max()
    for step in _nearest_first(volume.geometry, grid):
        volume = _onto(volume, step, sitk.sitkNearestNeighbor)
    # A cubic spline has four supports; on an axis of two voxels ITK reads beyond its memory.
    cubic = min(volume.array.shape) >= 4
    smooth = _onto(volume, grid, sitk.sitkBSpline if cubic else sitk.sitkLinear)
    return Volume(np.clip(smooth.array, low, high), grid)


def resample_labels(volume: Volume, grid: Geometry, n_classes: int) -> Volume:
    """Class indices onto ``grid``: interpolate each class's mask linearly, then take the largest.

    Ties go to the lowest class. Long axes are treated as in ``resample_image``.
    """
    if _same_grid(volume.geometry, grid):
        return volume
    for step in _nearest_first(volume.geometry, grid):
        volume = _onto(volume, step, sitk.sitkNearestNeighbor)
    masks = ((volume.array == index).astype(np.float32) for index in range(n_classes))
    return Volume(strongest_class(masks, volume.geometry, grid, volume.array.dtype), grid)


def strongest_class(
    maps: Iterable[NDArray[np.float32]],
    source: Geometry,
    grid: Geometry,
    dtype: np.dtype[np.unsignedinteger] | type[np.unsignedinteger],
) -> NDArray[np.unsignedinteger]:
    """Index of the largest of several maps after linear interpolation onto ``grid``.

    Maps are taken one by one, so memory does not grow with their number. Ties go to the first.
    """
    best = np.full(grid.shape, -np.inf, np.float32)
    winner = np.zeros(grid.shape, dtype)
    same = _same_grid(source, grid)
    for index, values in enumerate(maps):
        here = values if same else _onto(Volume(values, source), grid, sitk.sitkLinear).array
        better = here > best
        winner[better] = index
        best[better] = here[better]
    return winner


def _same_grid(first: Geometry, second: Geometry) -> bool:
    return first.matches(second, tolerance=1e-4)


def _nearest_first(geometry: Geometry, grid: Geometry) -> list[Geometry]:
    """The grid with only the long axis already at the new spacing; nothing when none is long."""
    spacing = geometry.spacing
    if max(spacing) / min(spacing) <= ANISOTROPY:
        return []
    axis = int(np.argmax(spacing))
    there = int(np.argmax(abs(geometry.direction[:, axis] @ grid.direction)))
    new: Triple = tuple(  # type: ignore[assignment]
        grid.spacing[there] if a == axis else spacing[a] for a in range(3)
    )
    return [geometry.with_spacing(new)]


def _onto(volume: Volume, grid: Geometry, interpolator: int) -> Volume:
    header = grid.to_json()
    filter_ = sitk.ResampleImageFilter()
    filter_.SetSize(header["size"])
    filter_.SetOutputSpacing(header["spacing"])
    filter_.SetOutputOrigin(header["origin"])
    filter_.SetOutputDirection(header["direction"])
    filter_.SetInterpolator(interpolator)
    filter_.UseNearestNeighborExtrapolatorOn()
    return Volume(sitk.GetArrayFromImage(filter_.Execute(to_sitk(volume))), grid)
