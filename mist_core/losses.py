"""Losses by name: logits (B, K, Z, Y, X) and class indices (B, Z, Y, X) to a scalar.

All compute in float32, also under autocast: sums over a patch overflow half precision.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-6
Loss = Callable[[Tensor, Tensor], Tensor]


def dice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Squared soft Dice loss, background included, averaged over batch and classes.

    sum (y - p)^2 / (sum y^2 + sum p^2), after Milletari et al., "V-Net", 3DV 2016. A class that is
    absent and not predicted costs nothing.
    """
    probabilities = logits.float().softmax(dim=1)
    # Not F.one_hot: its 64-bit integers take 8 bytes for each class and voxel.
    onehot = torch.zeros_like(probabilities).scatter_(1, labels.long().unsqueeze(1), 1.0)
    voxels = (2, 3, 4)
    difference = (onehot - probabilities).square().sum(voxels)  # (B, K)
    sizes = onehot.sum(voxels) + probabilities.square().sum(voxels)
    return (difference / (sizes + EPSILON)).mean()


def dice_ce(logits: Tensor, labels: Tensor) -> Tensor:
    """Half Dice loss, half cross-entropy, background included in both."""
    cross_entropy = F.cross_entropy(logits.float(), labels.long())
    return 0.5 * (cross_entropy + dice_loss(logits, labels))


LOSSES: Mapping[str, Loss] = {"dice_ce": dice_ce}


def needs_of(loss: Any) -> tuple[str, ...]:
    """What a loss needs beside logits and labels."""
    return tuple(getattr(loss, "needs", ()))


def composite_weight(
    epoch: int, epochs: int, schedule: str, constant: float = 0.5, init_pause: int = 5
) -> float:
    """Alpha."""
    return constant


def deep_supervision(
    loss: Any, outputs: Sequence[Tensor], labels: Tensor, **keywords: Any
) -> Tensor:
    """Weighted mean of a loss over the heads: each coarser head counts half as much.

    A coarse head (B, K, Z/s, ...) is compared with the labels at its own voxels, by nearest
    neighbour: cheaper than bringing its logits up, and no label is made up.
    """
    total = torch.zeros((), device=labels.device)
    weights = [0.5**k for k in range(len(outputs))]
    for weight, logits in zip(weights, outputs, strict=True):
        total = total + weight / sum(weights) * loss(logits, _at_size(labels, logits.shape[2:]))
    return total


def _at_size(labels: Tensor, size: torch.Size) -> Tensor:
    if labels.shape[1:] == size:
        return labels
    return F.interpolate(labels[:, None].float(), size=tuple(size), mode="nearest-exact")[:, 0]
