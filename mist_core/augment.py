"""Random changes to a batch of patches, on the device where it lies.

What is drawn depends on the generators only, so that a step can be repeated.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mist_core.config import Augment
from mist_core.geometry import ANISOTROPY, Triple
from mist_core.patches import Batch

LARGEST_ANGLE = np.deg2rad(30)
SCALES = (0.7, 1.4)


def augment(
    batch: Batch, settings: Augment, spacing: Triple, generators: Sequence[np.random.Generator]
) -> Batch:
    """Change images, class indices and distance maps together.

    Every item has a generator of its own, so it looks the same in whatever batch it is.
    """
    batch = affine(batch, settings.affine, spacing, generators)
    batch = flip(batch, settings.flip, flip_axes(settings), generators)
    if settings.noise or settings.brightness or settings.contrast:
        pairs = zip(batch.images, generators, strict=True)
        images = torch.stack([_intensity(image, settings, g) for image, g in pairs])
        batch = batch._replace(images=images)
    return batch


def flip_axes(settings: Augment) -> tuple[int, ...]:
    """Array axes (Z, Y, X = 0, 1, 2) that are mirrored; none when flips are switched off."""
    if settings.flip == 0:
        return ()
    return tuple(axis for axis, name in enumerate("zyx") if name in settings.flip_axes)


def flip(
    batch: Batch,
    probability: float,
    axes: tuple[int, ...],
    generators: Sequence[np.random.Generator],
) -> Batch:
    """Mirror each item along each axis with the given probability."""
    batch = _copied(batch)
    for item, generator in enumerate(generators):
        chosen = [axis - 3 for axis in axes if generator.random() < probability]
        for tensor in batch:
            if tensor is not None and chosen:
                tensor[item] = tensor[item].flip(chosen)
    return batch


def _copied(batch: Batch) -> Batch:
    images, labels, maps = batch
    return Batch(images.clone(), labels.clone(), None if maps is None else maps.clone())


def affine(
    batch: Batch,
    probability: float,
    spacing: Triple,
    generators: Sequence[np.random.Generator],
) -> Batch:
    """Rotate and scale about the patch centre in one resampling, linear for images and distance
    maps, nearest for labels. What comes in from outside is zero and background, as far away as it
    is at the border.
    """
    chosen = [i for i, generator in enumerate(generators) if generator.random() < probability]
    if not chosen:
        return batch
    size = batch.images.shape[2:]
    edges_mm = np.asarray(size) * np.asarray(spacing)
    matrices = np.stack([_random_matrix(edges_mm, spacing, generators[i]) for i in chosen])
    theta = torch.from_numpy(matrices).to(batch.images)
    grid = F.affine_grid(theta, [len(chosen), 1, *size], align_corners=False)
    images, labels, maps = batch = _copied(batch)
    images[chosen] = F.grid_sample(images[chosen], grid, "bilinear", align_corners=False)
    moved = F.grid_sample(labels[chosen, None].float(), grid, "nearest", align_corners=False)
    labels[chosen] = moved[:, 0].to(labels.dtype)
    if maps is not None:
        moved = F.grid_sample(maps[chosen], grid, "bilinear", "border", align_corners=False)
        scales = theta[:, :, :3].det().abs() ** (-1 / 3)  # distances grow as shapes do
        maps[chosen] = moved * scales[:, None, None, None, None]
    return batch


def _random_matrix(
    edges_mm: np.ndarray, spacing: Triple, generator: np.random.Generator
) -> np.ndarray:
    """(3, 4) map from output to input positions in grid_sample's units, which go (x, y, z)."""
    long_axis = int(np.argmax(spacing))
    thick_slices = max(spacing) / min(spacing) > ANISOTROPY
    rotation = np.eye(3)
    for axis in range(3):
        angle = generator.uniform(-LARGEST_ANGLE, LARGEST_ANGLE)
        if thick_slices and axis != long_axis:
            continue  # turning a thick slice out of its plane would interpolate between slices
        i, j = [a for a in range(3) if a != axis]
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        rotation = rotation @ turn
    scale = np.exp(generator.uniform(*np.log(SCALES)))
    # Turn in millimetres, not in the patch's relative coordinates, or shapes would shear.
    matrix = np.diag(1 / edges_mm) @ (rotation / scale) @ np.diag(edges_mm)
    return np.concatenate([matrix[::-1, ::-1], np.zeros((3, 1))], axis=1)


def _intensity(image: Tensor, settings: Augment, generator: np.random.Generator) -> Tensor:
    """Noise, brightness and contrast of one item (C, Z, Y, X); ranges are MIST's."""
    low, high = image.amin(), image.amax()
    if generator.random() < settings.noise:
        noise = torch.Generator(image.device).manual_seed(int(generator.integers(2**31)))
        sigma = float(generator.uniform(0, 0.33))
        image = image + sigma * torch.randn(image.shape, generator=noise, device=image.device)
    if generator.random() < settings.brightness:
        image = image * float(generator.uniform(0.7, 1.3))
    if generator.random() < settings.contrast:
        centre = image.mean((1, 2, 3), keepdim=True)
        image = (image - centre) * float(generator.uniform(0.65, 1.5)) + centre
        image = image.clamp(low, high)
    return image
