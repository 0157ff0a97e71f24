"""Metrics of counts: by hand, by law, and by counting pairs."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mist_core.metrics import METRICS, choose, score
from mist_core.metrics.counts import (
    accuracy,
    adjusted_rand_index,
    balanced_accuracy,
    dice,
    f_beta,
    iou,
    kappa,
    mcc,
    precision,
    relative_volume_difference,
    sensitivity,
    specificity,
    volumetric_similarity,
)
from mist_core.metrics.pairs import Counts

SHARES = (dice, iou, sensitivity, specificity, precision, accuracy, balanced_accuracy)
counts = st.builds(Counts, *[st.integers(0, 10**9)] * 4)
few = st.builds(Counts, *[st.integers(0, 4)] * 4).filter(lambda c: c.tp + c.fp + c.fn + c.tn > 0)


def test_by_hand():
    c = Counts(tp=6, fp=2, fn=3, tn=9)
    assert dice(c) == 12 / 17
    assert iou(c) == 6 / 11
    assert sensitivity(c) == 6 / 9
    assert specificity(c) == 9 / 11
    assert precision(c) == 6 / 8
    assert accuracy(c) == 15 / 20
    assert balanced_accuracy(c) == pytest.approx((6 / 9 + 9 / 11) / 2)
    assert volumetric_similarity(c) == pytest.approx(1 - 1 / 17)
    assert relative_volume_difference(c) == pytest.approx(-1 / 9)
    assert mcc(c) == pytest.approx((54 - 6) / math.sqrt(8 * 9 * 11 * 12))
    by_chance = (8 * 9 + 12 * 11) / 400
    assert kappa(c) == pytest.approx((0.75 - by_chance) / (1 - by_chance))
    assert f_beta(c, 2) == pytest.approx(5 * 0.75 * (2 / 3) / (4 * 0.75 + 2 / 3))


@given(few)
def test_the_adjusted_rand_index_counts_pairs_of_voxels(c):
    truth = [1] * c.tp + [0] * c.fp + [1] * c.fn + [0] * c.tn
    found = [1] * c.tp + [1] * c.fp + [0] * c.fn + [0] * c.tn
    pairs = list(combinations(range(len(truth)), 2))
    in_truth = [truth[i] == truth[j] for i, j in pairs]
    in_found = [found[i] == found[j] for i, j in pairs]
    both = sum(a and b for a, b in zip(in_truth, in_found, strict=True))
    most = (sum(in_truth) + sum(in_found)) / 2
    chance = sum(in_truth) * sum(in_found) / max(len(pairs), 1)
    assume(abs(most - chance) > 1e-9)
    assert adjusted_rand_index(c) == pytest.approx((both - chance) / (most - chance))


@given(counts)
def test_dice_and_iou_say_the_same(c):
    assert iou(c) == pytest.approx(dice(c) / (2 - dice(c)))


@given(counts)
def test_dice_is_f_1_and_lies_between_precision_and_sensitivity(c):
    assert f_beta(c, 1) == pytest.approx(dice(c))
    low, high = sorted([precision(c), sensitivity(c)])
    assume(c.tp + c.fp and c.tp + c.fn)
    assert low - 1e-12 <= dice(c) <= high + 1e-12


@given(counts)
def test_reference_and_prediction_exchanged(c):
    turned = Counts(c.tp, c.fn, c.fp, c.tn)
    assert precision(c) == sensitivity(turned)
    for symmetric in (dice, iou, kappa, mcc, adjusted_rand_index, volumetric_similarity):
        assert symmetric(c) == pytest.approx(symmetric(turned))


@given(counts)
def test_foreground_and_background_exchanged(c):
    turned = Counts(c.tn, c.fn, c.fp, c.tp)
    assume(c.tp + c.fp + c.fn + c.tn)
    assert specificity(c) == sensitivity(turned)
    for symmetric in (accuracy, balanced_accuracy, kappa, mcc, adjusted_rand_index):
        assert symmetric(c) == pytest.approx(symmetric(turned))


@given(counts)
def test_shares_lie_between_0_and_1(c):
    assume(c.tp + c.fp + c.fn + c.tn)
    for share in SHARES:
        assert 0 <= share(c) <= 1
    for coefficient in (mcc, kappa, adjusted_rand_index):
        assert -1 - 1e-12 <= coefficient(c) <= 1 + 1e-12


@pytest.mark.parametrize("c", [Counts(0, 0, 0, 7), Counts(7, 0, 0, 0), Counts(3, 0, 0, 4)])
def test_masks_that_agree_are_perfect_also_when_they_are_empty_or_full(c):
    for metric in (*SHARES, mcc, kappa, adjusted_rand_index, volumetric_similarity):
        assert metric(c) == 1
    assert relative_volume_difference(c) == 0


@pytest.mark.parametrize("c", [Counts(0, 5, 0, 7), Counts(0, 0, 5, 7)])
def test_a_mask_against_an_empty_one_has_nothing_right(c):
    for metric in (dice, iou, sensitivity, precision, kappa, mcc, volumetric_similarity):
        assert metric(c) == 0


def test_products_of_large_counts_do_not_overflow():
    c = Counts(tp=10**12, fp=10**11, fn=10**11, tn=10**13)
    small = Counts(tp=1000, fp=100, fn=100, tn=10000)
    assert kappa(c) == pytest.approx(kappa(small), rel=1e-12)
    assert mcc(c) == pytest.approx(mcc(small), rel=1e-12)
    assert adjusted_rand_index(c) == pytest.approx(adjusted_rand_index(small), rel=1e-3)


def test_the_auc_of_masks_is_their_balanced_accuracy_also_without_a_reference():
    empty, some = np.zeros((4, 4), bool), np.eye(4, dtype=bool)
    for pair in ((some, empty), (empty, some), (some, some)):
        found = score(*pair, (1, 1), ["auc", "bacc"])
        assert found["auc"] == found["bacc"]


def test_volumes_are_in_mm3():
    mask = np.zeros((3, 4, 5), bool)
    mask[1, 1, 1:4] = True
    found = score(mask, mask & ~mask, (3.0, 2.0, 0.5), ["volume_reference", "volume_prediction"])
    assert found == {"volume_reference": 9.0, "volume_prediction": 0.0}


def test_every_formula_of_counts_is_in_the_table():
    (chosen,) = choose(["f_beta@2"]).values()
    assert chosen.parameters["beta"] == 2
    assert {"tp", "fp", "fn", "tn"} <= METRICS.keys()
