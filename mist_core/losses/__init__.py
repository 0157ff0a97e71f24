"""Losses by name: logits (B, K, Z, Y, X) and labels to a scalar.

Labels are class indices (B, Z, Y, X), where 0 is background and a voxel has one class; or
memberships of regions (B, K, Z, Y, X), 0 or 1, where regions may overlap and none is background.
Where labels are negative, voxels are ignored as if the image ended there. Foreground are all
classes but background, or all regions.

All compute in float32, also under autocast: sums over a patch overflow half precision.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from mist_core.losses.distances import boundary_loss, generalized_surface_loss, hausdorff_loss
from mist_core.losses.overlap import dice_ce, dice_loss, dice_topk, focal_dice, tversky
from mist_core.losses.pair import Loss, needs_of
from mist_core.losses.surfaces import cldice, vessel_sddl, volumetric_sddl

__all__ = [
    "LOSSES",
    "Loss",
    "composite_weight",
    "deep_supervision",
    "dice_ce",
    "dice_loss",
    "needs_of",
]

CONSTANT_WEIGHT = 0.5
LOSSES: Mapping[str, Loss] = {
    "dice": dice_loss,
    "dice_ce": dice_ce,
    "bl": boundary_loss,
    "hdos": hausdorff_loss,
    "gsl": generalized_surface_loss,
    "cldice": cldice,
    "volumetric_sddl": volumetric_sddl,
    "vessel_sddl": vessel_sddl,
    "dice_topk": dice_topk,
    "tversky": tversky,
    "focal_dice": focal_dice,
}


def composite_weight(
    epoch: int,
    epochs: int,
    schedule: Literal["constant", "linear", "cosine"],
    init_pause: int = 5,
) -> float:
    """Alpha of an epoch, counted from 0.

    Constantly a half; or 1 until epoch ``init_pause``, then down to 0 in the last epoch along a
    line or half a cosine. A run that ends before keeps 1.
    """
    if schedule == "constant":
        return CONSTANT_WEIGHT
    if epoch <= init_pause:
        return 1.0
    progress = min((epoch - init_pause) / max(epochs - 1 - init_pause, 1), 1.0)
    return 1 - progress if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))


def deep_supervision(
    loss: Callable[..., Tensor], outputs: Sequence[Tensor], labels: Tensor, **keywords: Any
) -> Tensor:
    """Weighted mean of a loss over the heads: each coarser head counts half as much.

    A coarse head (B, K, Z/s, ...) is compared with the labels at its own voxels, by nearest
    neighbour: cheaper than bringing its logits up, and no label is made up. ``keywords`` are those
    of the loss, for the finest head.
    """
    total = torch.zeros((), device=labels.device)
    weights = [0.5**k for k in range(len(outputs))]
    for weight, logits in zip(weights, outputs, strict=True):
        size = logits.shape[2:]
        there = _keywords_at(size, labels.shape[-3:], keywords)
        total = total + weight / sum(weights) * loss(logits, _nearest(labels, size), **there)
    return total


def _keywords_at(
    size: Sequence[int], full: Sequence[int], keywords: Mapping[str, Any]
) -> dict[str, Any]:
    """Keywords of a loss for a head of a size: the same distances, larger voxels.

    Distance maps follow the labels, by nearest neighbour: means over voxels would have another
    sign than the label here and there. A tolerance in mm stays unless voxels are larger.
    """
    there = dict(keywords)
    if tuple(size) == tuple(full):
        return there
    if "distance_maps" in there:
        there["distance_maps"] = _nearest(there["distance_maps"], size)
    if "spacing" in there:
        edges = zip(there["spacing"], full, size, strict=True)
        there["spacing"] = tuple(edge * n / m for edge, n, m in edges)
        if there.get("tolerance_mm", "auto") != "auto":
            there["tolerance_mm"] = max(there["tolerance_mm"], *there["spacing"])
    return there


def _nearest(values: Tensor, size: Sequence[int]) -> Tensor:
    """The values (..., Z, Y, X) next to the centres of the voxels of another size."""
    for axis, n in zip((-3, -2, -1), size, strict=True):
        old = values.shape[axis]
        if n != old:
            middles = 2 * torch.arange(n, device=values.device) + 1
            values = values.index_select(axis, middles * old // (2 * n))
    return values
