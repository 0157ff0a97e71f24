"""Losses that ask of each voxel alone whether it is right."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mist_core.losses.pair import EPSILON, VOXELS, Pair, compare, expect, mean, needs


@needs()
def dice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Squared soft Dice loss, background included, averaged over batch and classes.

    sum (y - p)^2 / (sum y^2 + sum p^2), after Milletari et al., "V-Net", 3DV 2016. A class that is
    absent and not predicted costs nothing.
    """
    return dice_of(compare(logits, labels))


@needs()
def dice_ce(logits: Tensor, labels: Tensor) -> Tensor:
    """Half Dice loss, half cross-entropy, background included in both."""
    return dice_ce_of(compare(logits, labels))


@needs()
def dice_topk(logits: Tensor, labels: Tensor, *, share: float = 0.1) -> Tensor:
    """Half Dice loss, half cross-entropy over the worst voxels: this share of those of the batch.

    Wu et al., "Bridging category-level and instance-level semantic image segmentation",
    arXiv:1605.06885, 2016.
    """
    expect(0 < share <= 1, "a share above 0 and up to 1", share)
    pair = compare(logits, labels)
    costs = cross_entropy(pair).flatten()
    most = max(1, int(share * costs.numel()))
    worst = costs.topk(most).values  # in falling order: what is ignored costs 0 and comes last
    count = (share * pair.valid.sum()).floor().clamp(min=1)
    counts = torch.arange(most, device=costs.device) < count
    return 0.5 * ((worst * counts).sum() / count + dice_of(pair))


@needs()
def focal_dice(logits: Tensor, labels: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Half Dice loss, half focal loss: cross-entropy times (1 - p)^gamma, p of what is true.

    Lin et al., "Focal loss for dense object detection", ICCV 2017, all classes weighted alike.
    """
    expect(gamma >= 0, "a gamma of at least 0", gamma)
    pair = compare(logits, labels)
    costs = cross_entropy(pair)
    doubt = -torch.expm1(-costs)
    # Not down to 0, where the slope of a power below 1 is infinite.
    focal = doubt.clamp(min=EPSILON) ** gamma * costs
    return 0.5 * (mean(focal, pair.valid) + dice_of(pair))


@needs()
def tversky(
    logits: Tensor, labels: Tensor, *, false_positives: float = 0.3, false_negatives: float = 0.7
) -> Tensor:
    """1 - TP / (TP + a FP + b FN) of the foreground, with weights a and b of the two mistakes.

    Salehi et al., "Tversky loss function for image segmentation using 3D fully convolutional deep
    networks", MLMI 2017. Background has no part in it: its false positives are the false negatives
    of the other classes. A class that is absent and not predicted costs nothing.
    """
    weights = (false_positives, false_negatives)
    expect(min(weights) >= 0 < max(weights), "weights of at least 0, not both 0", weights)
    p, y, valid = compare(logits, labels).foreground
    hits = (y * p).sum(VOXELS)  # (B, F)
    false_alarms = ((1 - y) * p).sum(VOXELS)
    misses = (y * (1 - p)).sum(VOXELS)
    mistakes = false_positives * false_alarms + false_negatives * misses
    return mean(mistakes / (hits + mistakes + EPSILON), valid)


def dice_of(pair: Pair) -> Tensor:
    """The formula of ``dice_loss``."""
    difference = (pair.y - pair.p).square().sum(VOXELS)  # (B, K)
    sizes = pair.y.sum(VOXELS) + pair.p.square().sum(VOXELS)
    return mean(difference / (sizes + EPSILON), pair.valid)


def dice_ce_of(pair: Pair) -> Tensor:
    """The formula of ``dice_ce``."""
    return 0.5 * (mean(cross_entropy(pair), pair.valid) + dice_of(pair))


def cross_entropy(pair: Pair) -> Tensor:
    """Cost of every voxel (B, 1, Z, Y, X), for regions (B, K, Z, Y, X); 0 where ignored."""
    if pair.of_regions:
        targets = pair.y.to(pair.logits.dtype)
        costs = F.binary_cross_entropy_with_logits(pair.logits, targets, reduction="none")
        return costs.masked_fill(~pair.valid, 0)
    targets = pair.labels.long().clamp(min=-1)
    costs = F.cross_entropy(pair.logits, targets, ignore_index=-1, reduction="none")
    return costs.unsqueeze(1)
