"""Bring a case to the training grid and to one range of intensities."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mist_core.config import Preprocess
from mist_core.distance import signed_distance_map
from mist_core.errors import DataError
from mist_core.files import write_json
from mist_core.geometry import Box, Geometry, Origin, union_box, widened_box
from mist_core.intensity import foreground_box, window_and_scale, z_score
from mist_core.io import Volume, write_array, write_arrays
from mist_core.labels import sample_coordinates, to_indices
from mist_core.plan import Plan
from mist_core.resample import canonical, resample_image, resample_labels


@dataclass(frozen=True, eq=False)
class Preprocessed:
    """A case on the training grid, and what is needed to go back."""

    image: NDArray[np.float32]  # (C, Z, Y, X)
    labels: NDArray[Any] | None  # (Z, Y, X), class indices; after the last: to be ignored
    origin: Origin


def preprocess(images: Sequence[Volume | None], mask: Volume | None, plan: Plan) -> Preprocessed:
    """Crop, turn to LPS, resample and normalise the channels and the label map of one case.

    A channel that is missing (None) becomes zeros. Raises DataError when the channels do not share
    a grid or a label is not in the plan.
    """
    named = zip(plan.dataset_info.images, images, strict=True)
    there = {name: image for name, image in named if image}
    first, original = next((name, image.geometry) for name, image in there.items())
    for name, other in {**there, "the mask": mask}.items():
        if other and not other.geometry.matches(original):
            raise DataError(
                f"{name}: expected the grid of {first} ({original}), "
                f"found {other.geometry}. Resample one onto the other, or mend the header."
            )
    box = _kept_box(list(there.values()), plan)
    labels = None if mask is None else _cropped(mask, box)
    ignored = plan.dataset_info.ignore_label
    values = [*plan.dataset_info.labels, *([] if ignored is None else [ignored])]
    channels = [canonical(_cropped(image, box)) if image else None for image in images]
    grid = next(channel.geometry for channel in channels if channel)
    if not plan.preprocessing.skip:
        grid = grid.with_spacing(plan.target_spacing_mm)
    image = np.empty((len(channels), *grid.shape), np.float32)
    for index, channel in enumerate(channels):
        image[index] = _normalised(channel, grid, index, plan) if channel else 0
    return Preprocessed(
        image=image,
        labels=None if labels is None else _resampled_labels(labels, grid, values),
        origin=Origin(original, box, grid),
    )


def _kept_box(images: Sequence[Volume], plan: Plan) -> Box:
    """The foreground of all channels that there are, with the plan's margin.

    The label map has no say: a new case has none.
    """
    geometry = images[0].geometry
    whole = tuple(slice(0, n) for n in geometry.shape)
    if not plan.preprocessing.crop_to_foreground:
        return whole  # type: ignore[return-value]
    margin_mm = plan.preprocessing.crop_margin_mm
    voxels = tuple(ceil(round(margin_mm / edge, 6)) for edge in geometry.spacing)
    bright = reduce(union_box, (foreground_box(image.array) for image in images))
    return widened_box(bright, geometry.shape, voxels)


def _cropped(volume: Volume, box: Box) -> Volume:
    return Volume(volume.array[box], volume.geometry.cropped(box))


def _resampled_labels(mask: Volume, grid: Geometry, labels: Sequence[int]) -> NDArray[Any]:
    try:
        indices = to_indices(mask.array, labels)
    except ValueError as error:
        raise DataError(f"the mask: {error}. Mend the label map or the dataset.") from None
    return resample_labels(canonical(Volume(indices, mask.geometry)), grid).array


def _normalised(channel: Volume, grid: Geometry, index: int, plan: Plan) -> NDArray[np.float32]:
    image = resample_image(channel, grid).array
    if plan.preprocessing.skip:
        return image.astype(np.float32)
    ct = plan.preprocessing.ct_normalization[index]
    if plan.preprocessing.normalize_with_nonzero_mask[index]:
        # Taken before resampling: splines ring, so that afterwards no background is quite zero.
        body = Volume((channel.array != 0).astype(np.uint8), channel.geometry)
        return z_score(image, resample_labels(body, grid).array > 0)
    if ct is None:
        return z_score(image)
    window = (ct.window_min, ct.window_max)
    return window_and_scale(image, window, ct.z_score_mean, ct.z_score_std)


def _stored(image: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """The image in the type that it is to be stored in, if its values fit."""
    largest = float(np.finfo(dtype).max)
    if max(float(image.max()), -float(image.min())) > largest:
        raise DataError(
            f"preprocess.dtype: expected intensities up to {largest:g} for {dtype}, found "
            f"{image.min():g} to {image.max():g}. Set it to float32."
        )
    return image.astype(dtype, copy=False)


def write(
    done: Preprocessed, folder: Path, case_id: str, n_classes: int, settings: Preprocess
) -> None:
    """Write the image, the geometry and, where there are labels, labels, voxels of the foreground
    and distance maps (classes, Z, Y, X) of a case.
    """
    write_array(folder / "images" / f"{case_id}.npy", _stored(done.image, settings.dtype))
    write_json(folder / "geometry" / f"{case_id}.json", done.origin.to_json())
    if done.labels is None:
        return
    seed = zlib.crc32(case_id.encode())
    coordinates = sample_coordinates(done.labels, n_classes, settings.foreground_samples, seed)
    write_array(folder / "labels" / f"{case_id}.npy", done.labels)
    write_array(folder / "foreground" / f"{case_id}.npy", coordinates)
    if settings.compute_dtms:
        masks = (done.labels == index for index in range(n_classes))
        maps = (signed_distance_map(mask, settings.normalize_dtms) for mask in masks)
        shape = (n_classes, *done.labels.shape)
        write_arrays(folder / "dtms" / f"{case_id}.npy", maps, shape, settings.dtype)
