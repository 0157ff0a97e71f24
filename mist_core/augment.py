"""Random changes to a batch of patches, on the device where it lies.

All is drawn on the host, for every item by its own generator and in a fixed order, whether it comes
to pass or not: so an item looks the same in whatever batch it is, and a kind that is switched off
leaves the others as they were.

Shapes: B items of C channels and K classes; N channels of any items; Z, Y, X voxels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mist_core.config import Train
from mist_core.device import to_device
from mist_core.geometry import ANISOTROPY, Shape, Triple
from mist_core.patches import Batch, Piece, cut_out, stacked
from mist_core.plan import Plan
from mist_core.regions import mirrored_classes
from mist_core.sliding import X_AXIS

Matrix = NDArray[np.float64]
VOXELS = (1, 2, 3)  # axes of channels (N, Z, Y, X)
TINY = 1e-7  # in place of the range of a channel that has one value


@dataclass(frozen=True)
class Kind:
    """How often a patch is changed in one way, and by how much."""

    probability: float
    low: float = 0.0
    high: float = 0.0
    share: float = 1.0  # of the channels of a patch that is changed, each by chance
    alike: bool = False  # all channels are changed by one amount, else each by its own


@dataclass(frozen=True)
class Recipe:
    """Every kind of change. Amounts are drawn evenly from their ranges, those of scaling and gamma
    on a logarithmic scale.
    """

    mirror: Kind = Kind(0.0)  # the probability is that of each axis
    rotation: Kind = Kind(0.0, -30, 30)  # degrees about each axis
    scaling: Kind = Kind(0.0, 0.7, 1.4)  # factor by which shapes grow
    noise: Kind = Kind(0.0, 0, 0.33)  # standard deviation
    blur: Kind = Kind(0.0, 0.5, 1.0)  # sigma in voxels
    brightness: Kind = Kind(0.0, 0.7, 1.3)  # factor
    contrast: Kind = Kind(0.0, 0.65, 1.5)  # factor of the distance from the channel's mean
    low_resolution: Kind = Kind(0.0, 0.5, 1.0)  # share of the voxels that are kept along an axis
    inverted_gamma: Kind = Kind(0.0, 0.7, 1.5)  # exponent, of the negative
    gamma: Kind = Kind(0.0, 0.7, 1.5)  # exponent
    missing: Kind = Kind(0.0)  # the probability is that of each optional channel
    stretch: float = 1.0  # largest factor by which scaling differs between axes, beside its range
    mirror_axes: tuple[int, ...] = (0, 1, 2)  # of Z, Y, X
    mirrored: tuple[int, ...] = ()  # class index of each class mirrored along x; none: itself
    optional: tuple[int, ...] = ()  # numbers of the channels that a case may lack


KINDS = tuple(field.name for field in fields(Recipe) if field.type is Kind)
INTENSITIES = KINDS[3:-1]  # in the order in which they come about, which is nnU-Net's

AUGMENTATIONS: Mapping[str, Recipe] = {
    "default": Recipe(
        mirror=Kind(0.5),
        rotation=Kind(0.3, -15, 15),
        scaling=Kind(0.3, 0.85, 1.2),
        stretch=1.1,
        noise=Kind(0.1, 0, 0.1),
        blur=Kind(0.1, 0.5, 1.0),
        brightness=Kind(0.1, 0.75, 1.25),
        contrast=Kind(0.1, 0.75, 1.25),
        low_resolution=Kind(0.1, 0.5, 1.0),
        gamma=Kind(0.1, 0.7, 1.5),
        missing=Kind(0.2),
    ),
    # Zoom is a crop that is resized: scaling up, and nothing comes in from outside. Noise is not
    # clamped to the range before it, which would take a pass of its own; blur stays in it anyway.
    # Contrast is about the mean, not about 0, as in the other recipes.
    "mist": Recipe(
        mirror=Kind(0.5),
        scaling=Kind(0.15, 1, 1 / 0.7),
        noise=Kind(0.15, 0, 0.33, alike=True),
        blur=Kind(0.15, 0.5, 1.5, alike=True),
        brightness=Kind(0.15, 0.7, 1.3, alike=True),
        contrast=Kind(0.15, 0.65, 1.5, alike=True),
        missing=Kind(0.2),
    ),
    # nnU-Net v2, nnUNetTrainer. What it calls the variance of noise is used as its deviation.
    "nnunet": Recipe(
        mirror=Kind(0.5),
        rotation=Kind(0.2, -30, 30),
        scaling=Kind(0.2, 0.7, 1.4),
        noise=Kind(0.1, 0, 0.1, alike=True),
        blur=Kind(0.2, 0.5, 1.0, share=0.5),
        brightness=Kind(0.15, 0.75, 1.25),
        contrast=Kind(0.15, 0.75, 1.25),
        low_resolution=Kind(0.25, 0.5, 1.0, share=0.5),
        inverted_gamma=Kind(0.1, 0.7, 1.5),
        gamma=Kind(0.3, 0.7, 1.5),
        missing=Kind(0.2),
    ),
    "none": Recipe(),
}


def recipe_for(settings: Train, plan: Plan) -> Recipe:
    """The recipe that the settings name, with what they overrule, for the labels of a plan."""
    info = plan.dataset_info
    return replace(
        _recipe(settings),
        mirror_axes=mirror_axes(settings),
        mirrored=mirrored_classes(info.labels, info.mirrored_labels),
        optional=plan.optional_channels,
    )


def _recipe(settings: Train) -> Recipe:
    recipe = AUGMENTATIONS[settings.augmentation]
    overruled = {
        name: replace(getattr(recipe, name), probability=probability)
        for name, probability in settings.augment.model_dump().items()
        if probability is not None
    }
    return replace(recipe, **overruled)


def mirror_axes(settings: Train) -> tuple[int, ...]:
    """Array axes (Z, Y, X = 0, 1, 2) that are mirrored."""
    return tuple(axis for axis, name in enumerate("zyx") if name in settings.mirrored_axes)


class Changes(NamedTuple):
    """What happens to one item."""

    matrix: Matrix | None  # (3, 3) from its places to those before, in mm from the centre, z y x
    mirrored: tuple[int, ...]  # array axes
    amounts: dict[str, NDArray[np.float64]]  # (C,) by kind; NaN where a channel stays as it is
    seeds: NDArray[np.int64]  # (C,) of the noise
    missing: tuple[int, ...] = ()  # numbers of the channels that are left out


def draw(recipe: Recipe, channels: int, spacing: Triple, generator: np.random.Generator) -> Changes:
    """What happens to an item of so many channels. ``spacing`` is in mm, (z, y, x)."""
    turned = generator.random() < recipe.rotation.probability
    angles = np.deg2rad(generator.uniform(recipe.rotation.low, recipe.rotation.high, 3))
    scaled = generator.random() < recipe.scaling.probability
    scale = np.exp(generator.uniform(np.log(recipe.scaling.low), np.log(recipe.scaling.high)))
    stretch = np.exp(generator.uniform(-1, 1, 3) * np.log(recipe.stretch))
    rotation = _rotation(angles, spacing) if turned else np.eye(3)
    scales = scale * stretch if scaled else np.ones(3)
    mirrored = generator.random(3) < recipe.mirror.probability
    return Changes(
        np.diag(1 / scales) @ rotation if turned or scaled else None,
        tuple(axis for axis in recipe.mirror_axes if mirrored[axis]),
        {name: _amounts(name, getattr(recipe, name), channels, generator) for name in INTENSITIES},
        generator.integers(2**31, size=channels),
        tuple(n for n in recipe.optional if generator.random() < recipe.missing.probability),
    )


def _amounts(
    name: str, kind: Kind, channels: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """How much each channel is changed; NaN: not at all."""
    changed = generator.random() < kind.probability
    chosen = generator.random(channels) < kind.share
    low, high = np.log((kind.low, kind.high)) if "gamma" in name else (kind.low, kind.high)
    amounts = generator.uniform(low, high, channels)
    if kind.alike:
        amounts[:] = amounts[0]
    return np.where(changed & chosen, np.exp(amounts) if "gamma" in name else amounts, np.nan)


def _rotation(angles: NDArray[np.float64], spacing: Triple) -> Matrix:
    """(3, 3) of rotations by these angles about z, y and x."""
    rotation = np.eye(3)
    thick = _thick_axis(spacing)
    for axis, angle in enumerate(angles):
        if thick is not None and axis != thick:
            continue  # turning a thick slice out of its plane would interpolate between slices
        i, j = (a for a in range(3) if a != axis)
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        rotation = rotation @ turn
    return rotation


def _thick_axis(spacing: Triple) -> int | None:
    """The array axis across slices that are thick, if they are."""
    thick = max(spacing) / min(spacing) > ANISOTROPY
    return int(np.argmax(spacing)) if thick else None


def reach(changes: Changes, patch_size: Shape, spacing: Triple) -> Shape:
    """How many voxels beyond each side of a patch are seen in it, once it is turned or scaled."""
    if changes.matrix is None:
        return (0, 0, 0)
    half_mm = np.asarray(patch_size) * spacing / 2
    seen_mm = np.abs(changes.matrix) @ half_mm
    z, y, x = np.maximum(np.ceil((seen_mm - half_mm) / spacing) + 1, 0).astype(int).tolist()
    return (z, y, x)


def augment(
    pieces: Sequence[Piece],
    drawn: Sequence[Changes],
    recipe: Recipe,
    patch_size: Shape,
    spacing: Triple,
) -> Batch:
    """A batch of patches of the pieces, which stay as they are, each changed as drawn for it.

    ``spacing`` is in mm, (z, y, x).
    """
    patches = []
    for piece, changes in zip(pieces, drawn, strict=True):
        # torch cannot mirror 16 bits without a sign.
        wide = piece.labels.dtype == torch.uint16
        whole = piece._replace(labels=piece.labels.to(torch.int32)) if wide else piece
        if changes.matrix is None:
            patch = cut_out(whole, patch_size)
        else:
            patch = moved(whole, changes.matrix, patch_size, spacing)
        patches.append(mirror(patch, changes.mirrored, recipe.mirrored))
    batch = stacked(patches)
    absent = absent_channels(batch.images, drawn, recipe.optional) if recipe.optional else None
    change_intensities(batch.images, drawn, _thick_axis(spacing))
    if absent is not None:
        batch.images.masked_fill_(absent[..., None, None, None], 0)
    return batch._replace(labels=batch.labels.to(pieces[0].labels.dtype))


# --- places: of one item, (C, Z, Y, X), (Z, Y, X) and (K, Z, Y, X) --------------------------------


def mirror(item: Piece, axes: tuple[int, ...], mirrored: tuple[int, ...] = ()) -> Piece:
    """Mirror along array axes; along x classes change places with those ``mirrored`` names."""
    if not axes:
        return item
    dims = [axis - 3 for axis in axes]
    image, labels, maps, _ = item
    image, labels = image.flip(dims), labels.flip(dims)
    maps = None if maps is None else maps.flip(dims)
    if X_AXIS in axes and mirrored:
        for one, other in enumerate(mirrored):
            if one < other:
                is_one, is_other = labels == one, labels == other
                labels.masked_fill_(is_one, other).masked_fill_(is_other, one)
        maps = None if maps is None else maps[list(mirrored)]
    return Piece(image, labels, maps)


def moved(piece: Piece, matrix: Matrix, patch_size: Shape, spacing: Triple) -> Piece:
    """Rotate and scale about the centre of the patch in one resampling, linear for images and
    distance maps, nearest for labels. Where the case ends begin zeros and background, as far away
    as the border is.

    ``matrix`` leads from places (mm from the centre; z, y, x) to those that are seen there.
    """
    image, labels, maps, _ = piece
    grid = sampling_grid(matrix, piece, patch_size, spacing)
    if maps is not None:
        growth = float(np.linalg.det(matrix)) ** (-1 / 3)  # distances grow as shapes do
        maps = _sampled(maps, grid, "bilinear", "border").mul_(growth)
    return Piece(_sampled(image, grid, "bilinear", "zeros"), _nearest(labels, grid), maps)


def sampling_grid(matrix: Matrix, piece: Piece, patch_size: Shape, spacing: Triple) -> Tensor:
    """(Z, Y, X, 3): where in a piece each voxel of the patch looks, in the units and the order
    (x, y, z) of grid_sample, which has -1 and 1 at the outer edges.
    """
    sizes = np.asarray(_shape(piece.labels))
    middle = np.asarray(piece.corner) + np.asarray(patch_size) / 2  # in voxels, from the outer edge
    parts = []
    for axis, (n, mm) in enumerate(zip(patch_size, spacing, strict=True)):
        offsets_mm = (np.arange(n) - (n - 1) / 2) * mm
        seen = 2 * offsets_mm[:, None] * matrix[:, axis] / (sizes * spacing)
        if axis == 0:
            seen = seen + 2 * middle / sizes - 1
        parts.append(to_device(seen[:, ::-1].copy(), piece.image.device, torch.float32))
    by_z, by_y, by_x = parts
    return by_z[:, None, None] + (by_y[:, None] + by_x)


def _sampled(volume: Tensor, grid: Tensor, mode: str, outside: str) -> Tensor:
    """(C, Z, Y, X) as it is seen through a grid (Z, Y, X, 3)."""
    # A CPU works at several items of a batch at once, but not at parts of one: slices are items.
    slices = volume.expand(len(grid), *volume.shape)
    seen = F.grid_sample(slices, grid[:, None], mode, outside, align_corners=False)
    return seen[:, :, 0].movedim(0, 1)


def _nearest(labels: Tensor, grid: Tensor) -> Tensor:
    """Class indices (Z, Y, X) as they are seen through a grid, the nearest, 0 outside: what
    grid_sample does, in half the time on a CPU.
    """
    around = F.pad(labels, (1, 1) * 3).flatten()  # the zeros that come in from outside
    size = grid.shape[:3]
    places = torch.zeros(size, dtype=torch.int32, device=labels.device)
    for axis, n in enumerate(labels.shape):
        place = grid[..., 2 - axis].add(1).mul_(n / 2).add_(0.5).round_().clamp_(0, n + 1)
        places.mul_(n + 2).add_(place.to(torch.int32))
    return around.index_select(0, places.flatten()).view(size)


def _shape(labels: Tensor) -> Shape:
    z, y, x = labels.shape
    return z, y, x


# --- intensities: of channels (N, Z, Y, X), each with its own amount (N,) -------------------------


def change_intensities(images: Tensor, drawn: Sequence[Changes], thick: int | None) -> None:
    """Change images (B, C, Z, Y, X) in place, kind by kind, all channels of a kind together."""
    for kind in INTENSITIES:
        amounts = np.stack([changes.amounts[kind] for changes in drawn])  # (B, C)
        chosen = np.nonzero(~np.isnan(amounts))
        if not chosen[0].size:
            continue
        own = amounts[chosen]
        places = tuple(to_device(each, images.device, torch.int64) for each in chosen)
        channels = images[places]
        if kind == "noise":
            seeds = np.stack([changes.seeds for changes in drawn])[chosen]
            changed = add_noise(channels, own, seeds)
        elif kind == "low_resolution":
            changed = low_resolution(channels, own, thick)
        else:
            changed = BY_AMOUNT[kind](channels, own)
        images[places] = changed


def absent_channels(images: Tensor, drawn: Sequence[Changes], optional: tuple[int, ...]) -> Tensor:
    """Which channels (B, C) of images (B, C, Z, Y, X) are to be zeros: the optional ones that were
    drawn, and those that the cases lack, which noise must not fill.
    """
    chosen = np.array([[n in each.missing for n in range(images.shape[1])] for each in drawn])
    absent = to_device(chosen, images.device, torch.bool)
    for number in optional:
        absent[:, number] |= ~images[:, number].flatten(1).any(1)
    return absent


def add_noise(channels: Tensor, sigmas: NDArray[np.float64], seeds: NDArray[np.int64]) -> Tensor:
    """Add Gaussian noise of these standard deviations."""
    noise = torch.empty_like(channels)
    for part, sigma, seed in zip(noise, sigmas, seeds, strict=True):
        generator = torch.Generator(channels.device).manual_seed(int(seed))
        part.normal_(0, float(sigma), generator=generator)
    return noise.add_(channels)


def blur(channels: Tensor, sigmas: NDArray[np.float64]) -> Tensor:
    """Smooth by Gaussians of these sigmas (voxels). What lies outside mirrors what is inside, so
    that the mean stays.
    """
    matrices = [np.stack([gaussian_matrix(n, s) for s in sigmas]) for n in channels.shape[1:]]
    return _along_axes(channels, matrices)


def gaussian_matrix(n: int, sigma: float) -> Matrix:
    """(n, n) that smooths n voxels as scipy.ndimage.gaussian_filter1d does."""
    radius = int(4 * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    place = (np.arange(n)[:, None] + offsets) % (2 * n)  # twice the image: itself, then mirrored
    place = np.where(place < n, place, 2 * n - 1 - place)
    matrix = np.zeros((n, n))
    np.add.at(matrix, (np.arange(n)[:, None], place), weights / weights.sum())
    return matrix


def low_resolution(
    channels: Tensor, shares: NDArray[np.float64], thick: int | None = None
) -> Tensor:
    """Keep a share of the voxels along each axis but the ``thick`` one, and fill in linearly.

    As nnU-Net simulates it: the nearest voxels are kept.
    """
    matrices = [
        np.stack([low_resolution_matrix(n, 1.0 if axis == thick else s) for s in shares])
        for axis, n in enumerate(channels.shape[1:])
    ]
    return _along_axes(channels, matrices)


def low_resolution_matrix(n: int, share: float) -> Matrix:
    """(n, n) that picks a share of n voxels, the nearest, and fills in linearly between them."""
    kept = max(1, round(n * share))
    picked = ((np.arange(kept) + 0.5) * n / kept).astype(int)
    place = np.clip((np.arange(n) + 0.5) * kept / n - 0.5, 0, kept - 1)
    below = place.astype(int)
    above = np.minimum(below + 1, kept - 1)
    matrix = np.zeros((n, n))
    np.add.at(matrix, (np.arange(n), picked[below]), 1 - (place - below))
    np.add.at(matrix, (np.arange(n), picked[above]), place - below)
    return matrix


def _along_axes(channels: Tensor, matrices: Sequence[Matrix]) -> Tensor:
    """Apply a matrix (N, n, n) along each axis of channels (N, Z, Y, X)."""
    device, dtype = channels.device, channels.dtype
    by_z, by_y, by_x = (to_device(matrix, device, dtype) for matrix in matrices)
    n, z, y, x = channels.shape
    changed = channels.reshape(n, z * y, x) @ by_x.mT
    changed = by_y[:, None] @ changed.view(n, z, y, x)
    return (by_z @ changed.view(n, z, y * x)).view(n, z, y, x)


def brighten(channels: Tensor, factors: NDArray[np.float64]) -> Tensor:
    """Multiply."""
    return channels * _each(factors, channels)


def change_contrast(channels: Tensor, factors: NDArray[np.float64]) -> Tensor:
    """Multiply the distance from the channel's mean, within its range."""
    mean = channels.mean(VOXELS, keepdim=True)
    low, high = channels.amin(VOXELS, keepdim=True), channels.amax(VOXELS, keepdim=True)
    return (channels - mean).mul_(_each(factors, channels)).add_(mean).clamp_(low, high)


def bend(channels: Tensor, exponents: NDArray[np.float64]) -> Tensor:
    """Raise intensities, from 0 to 1 within the channel's range, to a power (gamma); the mean and
    the deviation stay, as in nnU-Net.
    """
    # Not std_mean, which took six times as long as both (torch 2.13 on a CPU).
    mean, std = channels.mean(VOXELS, keepdim=True), channels.std(VOXELS, keepdim=True)
    low, high = channels.amin(VOXELS, keepdim=True), channels.amax(VOXELS, keepdim=True)
    bent = (channels - low).div_((high - low).clamp_(min=TINY)).pow_(_each(exponents, channels))
    growth = std / bent.std(VOXELS, keepdim=True).clamp_(min=TINY)
    return bent.sub_(bent.mean(VOXELS, keepdim=True)).mul_(growth).add_(mean)


def bend_negative(channels: Tensor, exponents: NDArray[np.float64]) -> Tensor:
    """The same for the negative, which bends the bright end of the range."""
    return bend(-channels, exponents).neg_()


def _each(amounts: NDArray[np.float64], channels: Tensor) -> Tensor:
    return to_device(amounts, channels.device, channels.dtype)[:, None, None, None]


BY_AMOUNT: Mapping[str, Callable[[Tensor, NDArray[np.float64]], Tensor]] = {
    "blur": blur,
    "brightness": brighten,
    "contrast": change_contrast,
    "inverted_gamma": bend_negative,
    "gamma": bend,
}
