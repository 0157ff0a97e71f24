"""The interface of miseval (Müller et al., BMC Research Notes 15 (2022) 210), with our metrics.

Names and calls are the same; values differ where miseval's are wrong: see docs/metrics.md.
Distances are between voxel centres, in voxels unless a ``spacing`` in mm per axis is given.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mist_core.metrics.pairs import LabelPair
from mist_core.metrics.registry import choose

Array = NDArray[Any]
LARGEST = 2.0**53  # whole numbers of floating point are exact up to here


def evaluate(
    truth: Array,
    pred: Array,
    metric: str | Callable[..., Any],
    multi_class: bool = False,
    n_classes: int = 2,
    labels: Sequence[int] | None = None,
    **options: Any,
) -> np.float64 | NDArray[np.float64]:
    """Score a 2-D or 3-D label map against the truth: one number, or one for each class.

    ``metric`` is any name or alias of ``METRICS``, in any case, or a function
    ``metric(truth, pred, c=class, **options)``. Two classes without ``multi_class`` give the score
    of class 1; else there is an array with a score for each class, background first. Classes are
    0 .. n_classes - 1, or the ``labels`` in their order, 0 among them, in place of ``n_classes``.
    Where labels have gaps and are not given, they are the n_classes labels that occur, with a
    warning: another pair, in which one of them is absent, could have other places for them.

    A last axis of length 1 is dropped. ``options`` are parameters of the metric. Raises ValueError
    for arrays, labels or options that do not fit.
    """
    truth, pred = label_map(truth), label_map(pred)
    of_all = _classes(truth, pred, n_classes) if labels is None else _given(truth, pred, labels)
    several = multi_class or len(of_all) > 2
    classes = of_all[0 if several else 1 :]
    if callable(metric):
        scores = [metric(truth, pred, c=c, **options) for c in classes]
    else:
        scores = _scores(truth, pred, metric, classes, options)
    return np.array(scores, np.float64) if several else np.float64(scores[0])


def label_map(array: Array) -> Array:
    """The array without a channel axis, as whole numbers. Raises ValueError for other numbers."""
    array = np.asarray(array)
    if array.ndim > 2 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.dtype.kind != "f":
        return array
    whole = np.where(np.abs(array) < LARGEST, array, 0).astype(np.int64)  # NaN is not below
    if not np.array_equal(whole, array):
        raise ValueError(
            "expected whole-number labels, found others. Threshold probabilities first."
        )
    return whole


def _scores(
    truth: Array, pred: Array, metric: str, classes: list[int], options: dict[str, Any]
) -> list[float]:
    own = {name: value for name, value in options.items() if name != "spacing"}
    (chosen,) = choose([metric], "miseval", **own).values()
    pair = LabelPair(truth, pred, options.get("spacing", (1.0,) * truth.ndim))
    return [chosen.of(pair.structure([c])) for c in classes]


def _classes(truth: Array, pred: Array, n_classes: int) -> list[int]:
    found = _labels(truth, pred)
    if n_classes < 2:
        raise ValueError(f"expected n_classes of at least 2 with background, found {n_classes}")
    if found[0] >= 0 and found[-1] < n_classes:
        return list(range(n_classes))
    if len(found) == n_classes:
        if n_classes > 2:
            warnings.warn(f"labels {found} are taken for all there are: give labels=", stacklevel=3)
        return found
    raise ValueError(
        f"expected labels 0..{n_classes - 1} or {n_classes} different ones, background included, "
        f"found {found}. Give labels=, all that there may be."
    )


def _given(truth: Array, pred: Array, labels: Sequence[int]) -> list[int]:
    """The labels that the caller named."""
    if 0 not in labels or len(labels) < 2 or len(set(labels)) < len(labels):
        raise ValueError(f"expected labels with 0 and others, each once, found {list(labels)}")
    if odd := sorted(set(_labels(truth, pred)) - set(labels)):
        raise ValueError(f"expected labels among {list(labels)}, found {odd}")
    return [0, *(label for label in labels if label)]


def _labels(truth: Array, pred: Array) -> list[int]:
    """The labels of both, and 0, ascending."""
    labels: list[int] = np.unique(np.concatenate([[0], np.unique(truth), np.unique(pred)])).tolist()
    return labels


def _calc(metric: str) -> Callable[..., np.float64]:
    """The function of miseval for one metric."""

    def calc(truth: Array, pred: Array, c: int | None = None, **options: Any) -> np.float64:
        truth, pred = label_map(truth), label_map(pred)
        if c is None:
            found = _labels(truth, pred)
            c = found[1] if len(found) == 2 else 1
            if len(found) > 2 and 1 not in found:
                raise ValueError(f"expected the class c where there are several, found {found}")
        return np.float64(_scores(truth, pred, metric, [c], options)[0])

    calc.__doc__ = (
        f"{metric} of one class: 1, or the one label there is. ``options`` are parameters of the "
        "metric; without ``spacing`` a voxel measures 1 along each axis."
    )
    return calc


calc_DSC = _calc("dice")
calc_IoU = _calc("iou")
calc_Sensitivity = _calc("sensitivity")
calc_Specificity = _calc("specificity")
calc_Precision = _calc("precision")
calc_Accuracy = _calc("accuracy")
calc_BalancedAccuracy = _calc("balanced_accuracy")
calc_AdjustedRandIndex = _calc("ari")
calc_AUC = _calc("auc")
calc_Kappa = _calc("kappa")
calc_SimpleHausdorffDistance = _calc("hausdorff")
calc_AverageHausdorffDistance = _calc("average_hausdorff")
calc_VolumetricSimilarity = _calc("volumetric_similarity")
calc_TruePositive = _calc("tp")
calc_FalsePositive = _calc("fp")
calc_TrueNegative = _calc("tn")
calc_FalseNegative = _calc("fn")
# The other ways to the same number that miseval has.
calc_DSC_Sets = calc_DSC_CM = calc_DSC
calc_IoU_Sets = calc_IoU_CM = calc_IoU
calc_Sensitivity_Sets = calc_Sensitivity_CM = calc_Sensitivity
calc_Specificity_Sets = calc_Specificity_CM = calc_Specificity
calc_Precision_Sets = calc_Precision_CM = calc_Precision
calc_Accuracy_Sets = calc_Accuracy_CM = calc_Accuracy
calc_AUC_trapezoid = calc_AUC
