"""Scores over instances: lesion by lesion, and panoptic. Parameters are those of the registry."""

from collections.abc import Callable
from math import nan
from typing import Literal

from mist_core.metrics import counts
from mist_core.metrics.distances import hausdorff, surf_dice
from mist_core.metrics.instances import (
    Lesions,
    Panoptic,
    connected_components,
    lesions_of,
    panoptic,
)
from mist_core.metrics.pairs import MaskPair


def find_lesions(
    pair: MaskPair, dilation_iters: float, gt_consolidation_iters: float, connectivity: int
) -> Lesions:
    """The lesions of a pair; found once for all who ask for the same."""
    asked = int(dilation_iters), int(gt_consolidation_iters), connectivity
    if asked not in pair.lesions:
        pair.lesions[asked] = lesions_of(pair, *asked)
    found: Lesions = pair.lesions[asked]
    return found


def lesion_mean(score: Callable[..., float], of_a_miss: float, best: float) -> Callable[..., float]:
    """The mean of a score over lesions; misses and false positives have that of a miss.

    sum(scores) / (counted lesions + false positives); the best where there is none of them. A
    false positive is a component that belongs to no lesion of the reference, however small.
    """

    def compute(
        pair: MaskPair,
        min_lesion_volume: float,
        dilation_iters: float,
        gt_consolidation_iters: float,
        connectivity: int,
        penalty: float | Literal["diagonal"] = of_a_miss,
        **own: float | str,
    ) -> float:
        missed = pair.diagonal_mm if penalty == "diagonal" else float(penalty)
        lesions = find_lesions(pair, dilation_iters, gt_consolidation_iters, connectivity)
        counted = lesions.counted(min_lesion_volume)
        scores = [score(each.pair, **own) if each.found else missed for each in counted]
        scores += [missed] * len(lesions.false_positives)
        return sum(scores) / len(scores) if scores else best

    return compute


lesion_dice = lesion_mean(lambda pair: counts.dice(pair.counts), 0.0, 1.0)
lesion_hausdorff = lesion_mean(hausdorff, nan, 0.0)
lesion_surf_dice = lesion_mean(surf_dice, 0.0, 1.0)


def lesion_f1(
    pair: MaskPair,
    min_lesion_volume: float,
    dilation_iters: float,
    gt_consolidation_iters: float,
    connectivity: int,
) -> float:
    """2 TP / (2 TP + FP + FN) of lesions; 1 where there is none."""
    lesions = find_lesions(pair, dilation_iters, gt_consolidation_iters, connectivity)
    counted = lesions.counted(min_lesion_volume)
    tp = sum(bool(each.found) for each in counted)
    whole = len(counted) + tp + len(lesions.false_positives)
    return 2 * tp / whole if whole else 1.0


def panoptic_quality(pair: MaskPair, threshold: float, connectivity: int) -> float:
    """Recognition times segmentation quality. Kirillov et al., CVPR 2019, 9404-9413."""
    return _matched(pair, threshold, connectivity).panoptic_quality


def recognition_quality(pair: MaskPair, threshold: float, connectivity: int) -> float:
    """F1 of the detection of components; 1 if neither mask has any."""
    return _matched(pair, threshold, connectivity).recognition_quality


def segmentation_quality(pair: MaskPair, threshold: float, connectivity: int) -> float:
    """Mean IoU of the components that were matched; without any 0, or 1 if neither mask has one."""
    return _matched(pair, threshold, connectivity).segmentation_quality


def _matched(pair: MaskPair, threshold: float, connectivity: int) -> Panoptic:
    """The components of both masks, matched; once for all who ask for the same."""
    if pair.box is None:
        return Panoptic((), 0, 0)
    asked = threshold, connectivity
    if asked not in pair.matched:
        reference, prediction = (connected_components(m, connectivity).numbers for m in pair.masks)
        pair.matched[asked] = panoptic(reference, prediction, threshold)
    found: Panoptic = pair.matched[asked]
    return found
