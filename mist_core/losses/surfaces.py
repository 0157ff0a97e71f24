"""Losses that compare centrelines and surfaces, found by pooling so that they have gradients.

Pooling knows nothing beyond the image: what ends there has no surface there.
"""

import math
from collections.abc import Sequence
from functools import reduce
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mist_core.geometry import Shape, Triple
from mist_core.losses.overlap import dice_ce_of
from mist_core.losses.pair import EPSILON, VOXELS, Pair, compare, expect, mean, needs

Tolerance = float | Literal["auto"]
CUBE: tuple[Shape, ...] = ((3, 3, 3),)
CROSS: tuple[Shape, ...] = ((3, 1, 1), (1, 3, 1), (1, 1, 3))


@needs("alpha")
def cldice(
    logits: Tensor,
    labels: Tensor,
    *,
    alpha: float = 0.5,
    iterations: int = 10,
    smoothing: float = 1.0,
) -> Tensor:
    """alpha * dice_ce + (1 - alpha) * (1 - clDice) of the foreground.

    clDice asks how much of each centreline lies in the other mask. Centrelines are complete for
    tubes with a radius of up to ``iterations`` voxels. Shit et al., "clDice - a novel
    topology-preserving loss function for tubular structure segmentation", CVPR 2021.
    """
    return _cldice_of(compare(logits, labels), alpha, iterations, smoothing)


@needs("spacing", "alpha")
def volumetric_sddl(
    logits: Tensor,
    labels: Tensor,
    *,
    spacing: Triple,
    alpha: float = 0.5,
    tolerance_mm: Tolerance = "auto",
) -> Tensor:
    """alpha * dice_ce + (1 - alpha) * (1 - surface Dice by dilation) of the foreground.

    A smooth form of the surface Dice of Nikolov et al., "Clinically applicable segmentation of
    head and neck anatomy", JMIR 2021: both surfaces are dilated by the tolerance, by default 1.25
    times the largest spacing. A class that is absent and not predicted costs nothing.
    """
    pair = compare(logits, labels)
    surfaces = _surfaces_of(pair, radii(spacing, tolerance_mm))
    return alpha * dice_ce_of(pair) + (1 - alpha) * surfaces


@needs("spacing", "alpha")
def vessel_sddl(
    logits: Tensor,
    labels: Tensor,
    *,
    spacing: Triple,
    alpha: float = 0.5,
    tolerance_mm: Tolerance = "auto",
    iterations: int = 10,
    smoothing: float = 1.0,
) -> Tensor:
    """alpha * cldice + (1 - alpha) * (1 - surface Dice by dilation) of the foreground.

    Alpha is used twice, as in MIST: once more within cldice, so that dice_ce has alpha^2.
    """
    pair = compare(logits, labels)
    surfaces = _surfaces_of(pair, radii(spacing, tolerance_mm))
    return alpha * _cldice_of(pair, alpha, iterations, smoothing) + (1 - alpha) * surfaces


def _cldice_of(pair: Pair, alpha: float, iterations: int, smoothing: float) -> Tensor:
    expect(iterations >= 0, "at least 0 iterations", iterations)
    expect(smoothing > 0, "a smoothing above 0", smoothing)
    p, y, valid = pair.foreground
    y = y.to(p.dtype)
    precision = _share(_skeleton(p, valid, iterations), y, smoothing)  # (B, F)
    sensitivity = _share(_skeleton(y, valid, iterations), p, smoothing)
    harmonic = 2 * precision * sensitivity / (precision + sensitivity)
    return alpha * dice_ce_of(pair) + (1 - alpha) * mean(1 - harmonic, valid)


def _share(centreline: Tensor, mask: Tensor, smoothing: float) -> Tensor:
    """How much of a centreline lies in a mask, (B, F)."""
    inside = (centreline * mask).sum(VOXELS)
    return (inside + smoothing) / (centreline.sum(VOXELS) + smoothing)


def _surfaces_of(pair: Pair, radii: Shape) -> Tensor:
    """1 - 2 sum (P Y) / (sum P + sum Y), where P and Y are the dilated surfaces."""
    p, y, valid = pair.foreground
    near_p, near_y = (_near_surface(image, valid, radii) for image in (p, y.to(p.dtype)))
    common = (near_p * near_y).sum(VOXELS)  # (B, F)
    sizes = near_p.sum(VOXELS) + near_y.sum(VOXELS)
    return mean(1 - (2 * common + EPSILON) / (sizes + EPSILON), valid)


def radii(spacing: Triple, tolerance_mm: Tolerance) -> Shape:
    """How many voxels along each axis it takes to cover a tolerance."""
    largest = max(spacing)
    if tolerance_mm == "auto":
        tolerance_mm = 1.25 * largest
    expect(
        tolerance_mm >= largest,
        f"a tolerance_mm of at least the largest spacing, {largest:g}: a smaller one does not "
        "reach the next voxel",
        f"{tolerance_mm:g}",
    )
    z, y, x = (math.ceil(tolerance_mm / edge - EPSILON) for edge in spacing)
    return (z, y, x)


def _near_surface(image: Tensor, valid: Tensor, radii: Shape) -> Tensor:
    """The outermost voxels of an image (B, F, Z, Y, X), dilated."""
    return _dilated(image - _eroded(image, valid, CUBE), radii) * valid


def _skeleton(image: Tensor, valid: Tensor, iterations: int) -> Tensor:
    """Soft skeleton (B, F, Z, Y, X): what opening takes away from ever thinner images."""
    skeleton = torch.zeros_like(image)
    for _ in range(iterations + 1):  # the first is of the image itself
        # What a gradient needs of all the pooling is computed again, not kept: else one channel of
        # 128 x 128 x 128 voxels takes two gigabytes.
        image, skeleton = checkpoint(
            _thinner, image, skeleton, valid, use_reentrant=False, preserve_rng_state=False
        )
    return skeleton


def _thinner(image: Tensor, skeleton: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """The image without its outermost voxels, and the skeleton with those that are thin."""
    core = _eroded(image, valid, CROSS)
    found = F.relu(image - _dilated(core, (1, 1, 1)))
    return core, skeleton + F.relu(found - skeleton * found)


def _eroded(image: Tensor, valid: Tensor, windows: Sequence[Shape]) -> Tensor:
    """Smallest valid value in any of the windows (B, F, Z, Y, X); 0 where not valid."""
    negative = -image.masked_fill(~valid, 1)
    return -reduce(torch.maximum, [_max_pool(negative, w) for w in windows]) * valid


def _dilated(image: Tensor, radii: Shape) -> Tensor:
    """Largest value in the box of these radii (B, F, Z, Y, X), one axis after the other."""
    z, y, x = (2 * radius + 1 for radius in radii)
    for window in ((z, 1, 1), (1, y, 1), (1, 1, x)):
        image = _max_pool(image, window)
    return image


def _max_pool(image: Tensor, window: Shape) -> Tensor:
    return F.max_pool3d(image, window, stride=1, padding=tuple(n // 2 for n in window))
