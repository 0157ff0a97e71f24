"""Losses by hand, by formula, and against MONAI."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mist_core.losses import LOSSES, deep_supervision, dice_ce, dice_loss

SIZE = (4, 5, 6)


def random_pair(seed, classes=4, batch=2, size=SIZE):
    """Logits (B, K, Z, Y, X) and class indices (B, Z, Y, X), as the patches have them."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn((batch, classes, *size), generator=generator)
    labels = torch.randint(classes, (batch, *size), generator=generator)
    return logits, labels.to(torch.uint8)


def certain(labels, classes, logit=50.0):
    """Logits of a network that is sure of these labels."""
    onehot = torch.nn.functional.one_hot(labels.long(), classes)
    return onehot.movedim(-1, 1).float() * logit


def test_a_sure_and_right_network_costs_nothing():
    _, labels = random_pair(0)
    for loss in (*LOSSES.values(), dice_loss):
        assert loss(certain(labels, 4), labels).item() == pytest.approx(0, abs=1e-6)


def test_a_sure_and_wrong_network_costs_a_whole_dice():
    _, labels = random_pair(0)
    assert dice_loss(certain((labels + 1) % 4, 4), labels).item() == pytest.approx(1, abs=1e-5)


def test_an_undecided_network_by_hand():
    labels = torch.zeros((1, 2, 2, 2), dtype=torch.uint8)
    labels[0, 0] = 1
    logits = torch.zeros((1, 2, 2, 2, 2))
    # Either class fills half of the voxels and has p = 0.5: 0.25 / (0.5 + 0.25).
    assert dice_loss(logits, labels).item() == pytest.approx(1 / 3, abs=1e-6)
    assert dice_ce(logits, labels).item() == pytest.approx((np.log(2) + 1 / 3) / 2, abs=1e-6)


def test_an_absent_class_that_is_not_predicted_costs_nothing():
    labels = torch.zeros((1, *SIZE), dtype=torch.uint8)
    labels[0, :2] = 1
    assert dice_loss(certain(labels, 3), labels).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_dice_ce_follows_its_formula(seed):
    logits, labels = random_pair(seed)
    x = logits.double().numpy()
    p = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    y = np.moveaxis(np.eye(4)[labels.numpy()], -1, 1)
    voxels = (2, 3, 4)
    dice = ((y - p) ** 2).sum(voxels) / ((y**2).sum(voxels) + (p**2).sum(voxels) + 1e-6)
    cross_entropy = -(y * np.log(p)).sum(axis=1).mean()
    expected = (dice.mean() + cross_entropy) / 2
    assert dice_ce(logits, labels).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_dice_ce_is_half_of_that_of_monai(seed):
    monai = pytest.importorskip("monai.losses")
    there = monai.DiceCELoss(
        to_onehot_y=True, softmax=True, squared_pred=True, smooth_nr=0, smooth_dr=1e-6
    )
    logits, labels = random_pair(seed)
    expected = there(logits, labels[:, None].long()).item() / 2
    assert dice_ce(logits, labels).item() == pytest.approx(expected, rel=1e-5)


@settings(max_examples=20)
@given(st.integers(0, 1000), st.permutations(range(4)))
def test_the_numbering_of_classes_is_of_no_account(seed, order):
    logits, labels = random_pair(seed, size=(2, 3, 4))
    place = torch.argsort(torch.tensor(order))
    moved = dice_ce(logits[:, order], place[labels.long()])
    assert moved.item() == pytest.approx(dice_ce(logits, labels).item(), rel=1e-5)


@settings(max_examples=20)
@given(st.integers(0, 1000), st.floats(0.1, 20))
def test_dice_lies_between_0_and_1(seed, sharpness):
    logits, labels = random_pair(seed, size=(2, 3, 4))
    assert 0 <= dice_loss(logits * sharpness, labels).item() <= 1


def test_items_of_a_batch_are_averaged():
    logits, labels = random_pair(5)
    each = [dice_ce(logits[i : i + 1], labels[i : i + 1]).item() for i in range(2)]
    assert dice_ce(logits, labels).item() == pytest.approx(np.mean(each), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_summed_in_full(dtype):
    logits, labels = random_pair(1, classes=2, batch=1, size=(48, 48, 48))
    half = logits.to(dtype)
    found = dice_ce(half, labels)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(dice_ce(half.float(), labels).item(), rel=1e-6)


def test_a_step_down_the_gradient_lowers_the_loss():
    logits, labels = random_pair(2)
    logits.requires_grad_()
    before = dice_ce(logits, labels)
    before.backward()
    assert torch.isfinite(logits.grad).all()
    assert dice_ce(logits.detach() - logits.grad, labels) < before


def mean_logit(logits, labels):
    """A loss whose value shows which head it was given."""
    assert labels.shape == logits.shape[:1] + logits.shape[2:]
    return logits.mean()


def test_each_coarser_head_counts_half_as_much():
    heads = [torch.full((1, 2, n, n, n), float(value)) for n, value in ((8, 7), (4, 70), (2, 700))]
    labels = torch.zeros((1, 8, 8, 8), dtype=torch.uint8)
    expected = (4 * 7 + 2 * 70 + 1 * 700) / 7
    assert deep_supervision(mean_logit, heads, labels).item() == pytest.approx(expected)


def test_a_single_head_is_the_loss_itself():
    logits, labels = random_pair(3)
    assert deep_supervision(dice_ce, [logits], labels) == dice_ce(logits, labels)


@pytest.mark.parametrize("size", [(4, 4, 4), (2, 4, 8), (3, 3, 3)])
def test_coarse_heads_see_labels_that_exist_where_they_are(size):
    labels = torch.zeros((1, 8, 8, 8), dtype=torch.uint8)
    labels[:, 4:] = 3  # between 0 and 3 lie 1 and 2, which must not be made up
    seen = []

    def keep(logits, there):
        seen.append(there)
        return logits.sum()

    deep_supervision(keep, [torch.zeros((1, 4, *size))], labels)
    assert set(seen[0].unique().tolist()) == {0, 3}
    assert (seen[0][:, : size[0] // 2] == 0).all()
    assert (seen[0][:, -(size[0] // 2) :] == 3).all()
