"""Metrics of counted voxels. Nothing divided by nothing is 1 where the masks agree, else 0.

Sensitivity of an empty reference, say, is 1 when nothing was predicted and 0 when something was; so
the laws between metrics, such as IoU = Dice / (2 - Dice), hold for empty masks, too. Definitions as
in Taha & Hanbury, "Metrics for evaluating 3D medical image segmentation", BMC Medical Imaging 15
(2015) 29, where no other source is named.
"""

import math

from mist_core.metrics.pairs import Counts


def dice(c: Counts) -> float:
    """2 TP / (2 TP + FP + FN). Dice, Ecology 26 (1945) 297-302."""
    return _share(2 * c.tp, 2 * c.tp + c.fp + c.fn, c)


def iou(c: Counts) -> float:
    """Intersection over union, TP / (TP + FP + FN). Jaccard, New Phytologist 11 (1912) 37-50."""
    return _share(c.tp, c.tp + c.fp + c.fn, c)


def sensitivity(c: Counts) -> float:
    """Recall: TP / (TP + FN)."""
    return _share(c.tp, c.tp + c.fn, c)


def specificity(c: Counts) -> float:
    """TN / (TN + FP). Close to 1 in any image that is mostly background."""
    return _share(c.tn, c.tn + c.fp, c)


def precision(c: Counts) -> float:
    """TP / (TP + FP)."""
    return _share(c.tp, c.tp + c.fp, c)


def accuracy(c: Counts) -> float:
    """Share of voxels that are right. Close to 1 in any image that is mostly background."""
    return (c.tp + c.tn) / _voxels(c)


def balanced_accuracy(c: Counts) -> float:
    """Mean of sensitivity and specificity. For masks it is the area under the ROC curve, too."""
    return (sensitivity(c) + specificity(c)) / 2


def f_beta(c: Counts, beta: float) -> float:
    """Precision and sensitivity, which counts ``beta`` times as much; Dice where beta is 1.

    Van Rijsbergen, "Information Retrieval" (1979).
    """
    found = (1 + beta**2) * c.tp
    return _share(found, found + beta**2 * c.fn + c.fp, c)


def mcc(c: Counts) -> float:
    """Matthews correlation coefficient, -1 to 1. Biochim. Biophys. Acta 405 (1975) 442-451."""
    sizes = (c.tp + c.fp) * (c.tp + c.fn) * (c.tn + c.fp) * (c.tn + c.fn)
    return _share(c.tp * c.tn - c.fp * c.fn, math.sqrt(sizes), c)


def kappa(c: Counts) -> float:
    """Cohen's kappa, agreement beyond chance. Educ. Psychol. Meas. 20 (1960) 37-46."""
    n = _voxels(c)
    by_chance = (c.tp + c.fp) * (c.tp + c.fn) + (c.tn + c.fn) * (c.tn + c.fp)
    return _share(n * (c.tp + c.tn) - by_chance, n * n - by_chance, c)


def adjusted_rand_index(c: Counts) -> float:
    """Pairs of voxels that are together in both or in none, beyond chance.

    Hubert & Arabie, Journal of Classification 2 (1985) 193-218.
    """
    together = sum(map(_pairs, (c.tp, c.fp, c.fn, c.tn)))
    reference = _pairs(c.tp + c.fn) + _pairs(c.tn + c.fp)
    prediction = _pairs(c.tp + c.fp) + _pairs(c.tn + c.fn)
    everything = _pairs(_voxels(c))
    by_chance = reference * prediction
    most = (reference + prediction) * everything
    return _share(2 * (together * everything - by_chance), most - 2 * by_chance, c)


def volumetric_similarity(c: Counts) -> float:
    """1 - |FN - FP| / (2 TP + FP + FN): 1 where volumes are equal, wherever they are."""
    return _share(2 * (c.tp + min(c.fp, c.fn)), 2 * c.tp + c.fp + c.fn, c)


def relative_volume_difference(c: Counts) -> float:
    """(predicted - reference) / reference volume; NaN where only the reference is empty."""
    if c.tp + c.fn == 0:
        return math.nan if c.fp else 0.0
    return (c.fp - c.fn) / (c.tp + c.fn)


def _voxels(c: Counts) -> int:
    return c.tp + c.fp + c.fn + c.tn


def _pairs(n: int) -> int:
    return n * (n - 1) // 2


def _share(part: float, whole: float, c: Counts) -> float:
    if whole:
        return part / whole
    return 0.0 if c.fp or c.fn else 1.0
