"""The interface of miseval, with values that are right."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mist_core import metrics
from mist_core.metrics import evaluate

NAMES = {
    "dice": ("DSC", "Dice", "DiceSimilarityCoefficient"),
    "iou": ("IoU", "Jaccard", "IntersectionOverUnion"),
    "sensitivity": ("SENS", "Sensitivity", "Recall", "TPR", "TruePositiveRate"),
    "specificity": ("SPEC", "Specificity", "TNR", "TrueNegativeRate"),
    "precision": ("PREC", "Precision"),
    "accuracy": ("ACC", "Accuracy", "RI", "RandIndex"),
    "balanced_accuracy": ("BACC", "BalancedAccuracy"),
    "ari": ("ARI", "AdjustedRandIndex"),
    "auc": ("AUC", "AUC_trapezoid"),
    "kappa": ("KAP", "Kappa", "CohensKappa"),
    "hausdorff": ("HD", "HausdorffDistance"),
    "average_hausdorff": ("AHD", "AverageHausdorffDistance"),
    "volumetric_similarity": ("VS", "VolumetricSimilarity"),
    "tp": ("TP", "TruePositive"),
    "fp": ("FP", "FalsePositive"),
    "tn": ("TN", "TrueNegative"),
    "fn": ("FN", "FalseNegative"),
}
FUNCTIONS = {
    "dice": "calc_DSC",
    "iou": "calc_IoU",
    "sensitivity": "calc_Sensitivity",
    "specificity": "calc_Specificity",
    "precision": "calc_Precision",
    "accuracy": "calc_Accuracy",
    "balanced_accuracy": "calc_BalancedAccuracy",
    "ari": "calc_AdjustedRandIndex",
    "auc": "calc_AUC",
    "kappa": "calc_Kappa",
    "hausdorff": "calc_SimpleHausdorffDistance",
    "average_hausdorff": "calc_AverageHausdorffDistance",
    "volumetric_similarity": "calc_VolumetricSimilarity",
    "tp": "calc_TruePositive",
    "fp": "calc_FalsePositive",
    "tn": "calc_TrueNegative",
    "fn": "calc_FalseNegative",
}
TRUTH = np.zeros((12, 12), np.uint8)
TRUTH[2:8, 3:9] = 1
PRED = np.zeros((12, 12), np.uint8)
PRED[3:9, 3:10] = 1


@pytest.mark.parametrize("metric", NAMES)
def test_every_name_in_any_case_and_every_function_gives_the_same_number(metric):
    expected = evaluate(TRUTH, PRED, metric)
    assert isinstance(expected, np.float64)
    for name in NAMES[metric]:
        for written in (name, name.lower(), name.upper()):
            assert evaluate(TRUTH, PRED, written) == expected
    function = getattr(metrics, FUNCTIONS[metric])
    assert function(TRUTH, PRED) == expected
    assert evaluate(TRUTH, PRED, metric=function) == expected


def test_several_classes_have_a_score_each_background_first():
    truth, pred = np.array([[0, 1, 2, 2]]), np.array([[0, 1, 1, 2]])
    found = evaluate(truth, pred, metric="DSC", multi_class=True, n_classes=3)
    assert found.tolist() == pytest.approx([1, 2 / 3, 2 / 3])
    assert evaluate(truth, pred, "DSC", n_classes=3).tolist() == found.tolist()
    two = evaluate(TRUTH, PRED, "DSC", multi_class=True)
    assert two[1] == evaluate(TRUTH, PRED, "DSC")


@given(*[arrays(np.int64, (6, 7), elements=st.integers(0, 2))] * 2)
def test_labels_with_gaps_are_scored_as_without(truth, pred):
    values = np.array([0, 3, 255])
    found = np.union1d(np.union1d(truth, pred), [0])
    if found.size == 3:
        with pytest.warns(UserWarning, match=r"\[0, 3, 255\] are taken for all there are"):
            gaps = evaluate(values[truth], values[pred], "DSC", n_classes=3)
        assert gaps.tolist() == evaluate(truth, pred, "DSC", n_classes=3).tolist()


def test_named_labels_have_their_places_whichever_of_them_occur():
    truth, pred = np.array([[0, 0, 4, 4]]), np.array([[0, 4, 4, 0]])
    found = evaluate(truth, pred, "DSC", multi_class=True, labels=[0, 2, 4, 5])
    assert found.tolist() == [0.5, 1, 0.5, 1]
    with pytest.raises(ValueError, match=r"among \[0, 2, 5\], found \[4\]"):
        evaluate(truth, pred, "DSC", multi_class=True, labels=[0, 2, 5])
    with pytest.raises(ValueError, match="expected labels with 0 and others"):
        evaluate(truth, pred, "DSC", labels=[4])


def test_a_missed_structure_of_any_label_is_missed():
    assert evaluate(TRUTH * 255, PRED * 0, "DSC") == 0
    assert metrics.calc_DSC(TRUTH * 255, PRED * 0) == 0


@pytest.mark.parametrize("n_classes", [2, 3])
def test_labels_that_fit_no_class_are_refused(n_classes):
    truth = np.array([[0, 5, 7, 9]])
    with pytest.raises(ValueError, match=r"found \[0, 5, 7, 9\]"):
        evaluate(truth, truth, "DSC", n_classes=n_classes)


def test_a_function_scores_each_class():
    def voxels(truth, pred, c=1, weight=1):
        return weight * np.count_nonzero(truth == c)

    truth = np.array([[0, 1, 2, 2]])
    assert evaluate(truth, truth, voxels, n_classes=3, weight=10).tolist() == [10, 10, 20]


@pytest.mark.parametrize("shape", [(6, 7), (6, 7, 1), (5, 6, 7), (5, 6, 7, 1)])
@pytest.mark.parametrize("kind", [bool, np.uint8, np.int64, np.uint16, float])
def test_arrays_of_many_kinds(shape, kind):
    mask = np.zeros(shape, kind)
    mask[1:3, 2:4] = 1
    assert evaluate(mask, mask, "DSC") == 1
    assert evaluate(mask, mask, "HD") == 0


def test_probabilities_are_refused():
    with pytest.raises(ValueError, match="whole-number labels"):
        evaluate(TRUTH * 0.5, PRED, "DSC")


def test_the_hausdorff_distance_is_one():
    truth, pred = np.zeros((32, 32), int), np.zeros((32, 32), int)
    truth[2:10, 2:10], pred[2:10, 14:22] = 1, 1
    assert evaluate(truth, pred, "HD") == 12
    assert evaluate(truth, truth[::-1], "HD") == 20
    assert evaluate(truth, pred, "HD", spacing=(1.0, 0.5)) == 6
    assert evaluate(truth * 7, pred * 7, "HD") == 12
    classes = np.zeros((5, 20), int)
    classes[2, 2], classes[2, 10] = 1, 2
    moved = np.roll(classes, 3, 1)
    moved[2, 13], moved[2, 11] = 0, 2
    assert evaluate(classes, moved, "HD", n_classes=3)[1:].tolist() == [3, 1]


def test_the_average_hausdorff_distance_is_an_average():
    truth, pred = np.zeros((1, 20), int), np.zeros((1, 20), int)
    truth[0, :8], pred[0, :9] = 1, 1
    assert evaluate(truth, pred, "AHD") == pytest.approx(1 / 9)
    assert evaluate(truth, pred, "AHD", form="mean") == pytest.approx(1 / 18)


def test_three_dimensions():
    truth, pred = np.zeros((9, 9, 9), int), np.zeros((9, 9, 9), int)
    truth[4, 4, 2], pred[4, 4, 6] = 1, 1
    assert evaluate(truth, pred, "HD") == evaluate(truth, pred, "AHD") == 4
