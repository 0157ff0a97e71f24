"""Losses that weigh each voxel by its signed distance D to the border of the label.

Distance maps are (B, K, Z, Y, X), negative inside, in voxels or normalised; that of the background
is not used.
"""

from torch import Tensor

from mist_core.losses.overlap import dice_ce_of
from mist_core.losses.pair import EPSILON, VOXELS, compare, mean, needs


@needs("distance_maps", "alpha")
def boundary_loss(
    logits: Tensor, labels: Tensor, *, distance_maps: Tensor, alpha: float = 0.5
) -> Tensor:
    """alpha * dice_ce + (1 - alpha) * mean of D p over the foreground.

    Below 0 for a good prediction, which lies inside. Kervadec et al., "Boundary loss for highly
    unbalanced segmentation", MIDL 2019.
    """
    pair = compare(logits, labels)
    p, _, valid = pair.foreground
    boundary = mean(_maps_for(p, distance_maps) * p, valid)
    return alpha * dice_ce_of(pair) + (1 - alpha) * boundary


@needs("distance_maps", "alpha")
def hausdorff_loss(
    logits: Tensor, labels: Tensor, *, distance_maps: Tensor, alpha: float = 0.5
) -> Tensor:
    """alpha * dice_ce + (1 - alpha) * mean of (y - p)^2 D^2 over the foreground.

    The distances are to the label alone: the one-sided form of Karimi & Salcudean, "Reducing the
    Hausdorff distance in medical image segmentation with convolutional neural networks", IEEE
    Trans. Med. Imaging 39 (2020) 499-513.
    """
    pair = compare(logits, labels)
    p, y, valid = pair.foreground
    hausdorff = mean(((y - p) * _maps_for(p, distance_maps)).square(), valid)
    return alpha * dice_ce_of(pair) + (1 - alpha) * hausdorff


@needs("distance_maps", "alpha")
def generalized_surface_loss(
    logits: Tensor, labels: Tensor, *, distance_maps: Tensor, alpha: float = 0.5
) -> Tensor:
    """alpha * dice_ce + (1 - alpha) * (1 - sum (D (1 - (y + p)))^2 / sum D^2), foreground only.

    Celaya et al., "A generalized surface loss for reducing the Hausdorff distance in medical
    imaging segmentation", arXiv:2302.03868, 2023, without its weights of the classes.
    """
    pair = compare(logits, labels)
    p, y, valid = pair.foreground
    squares = _maps_for(p, distance_maps).square() * valid
    # 1 - (1 - s)^2 is s (2 - s): one sum, not the difference of two that are almost the same.
    both = y + p
    ratios = (squares * both * (2 - both)).sum(VOXELS) / (squares.sum(VOXELS) + EPSILON)
    return alpha * dice_ce_of(pair) + (1 - alpha) * mean(ratios, valid)


def _maps_for(p: Tensor, distance_maps: Tensor) -> Tensor:
    """The last maps, as many as there are probabilities of the foreground."""
    return distance_maps[:, -p.shape[1] :].to(p.dtype)
