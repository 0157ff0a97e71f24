"""Looking at a network while it trains: how often, at what, and its Dice by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_train import PLAN, case
from torch import nn

from mist_core.config import Train
from mist_core.parallel import Part
from mist_core.patches import TrainingCase
from mist_core.validation import SHARE, STEP_IN_PASSES, look, n_windows, picture_of, validation_of

CPU = torch.device("cpu")
CASE = case()


class Oracle(nn.Module):
    """Finds in the image what its brightness, rounded, says."""

    def forward(self, x):
        return (torch.stack([-((x[:, 0] - k) ** 2) for k in range(3)], dim=1),)


class Unsummed(Part):
    """One of several processes, with what it has found itself."""

    def sum(self, value):
        return value


def of_labels(labels, found):
    """A case with these labels, on which the oracle finds something else."""
    rows = np.zeros((0, 4), np.int32)
    return TrainingCase("a", np.asarray(found, np.float32)[None], np.asarray(labels), rows)


def dice(one, plan=PLAN, **settings):
    return look(Oracle(), [one], plan, Train(amp=False, **settings), CPU, Part())[0]


def test_dice_by_hand():
    """Labels 1 and 4 (indices 1, 2) are the organ: 2 of 3 voxels found, and one beside them."""
    labels, found = np.zeros((8, 8, 8), np.uint8), np.zeros((8, 8, 8))
    labels[0, 0, :3] = 1, 2, 1
    found[0, 0, 1:4] = 1
    assert dice(of_labels(labels, found)).tolist() == [[2 * 2 / (3 + 3)]]


def test_a_class_that_is_neither_there_nor_found_has_no_dice():
    nothing = np.zeros((8, 8, 8), np.uint8)
    assert np.isnan(dice(of_labels(nothing, nothing))).all()


def test_what_is_to_be_ignored_does_not_count():
    plan = PLAN.model_copy(
        update={"dataset_info": PLAN.dataset_info.model_copy(update={"ignore_label": 9})}
    )
    labels, found = np.zeros((8, 8, 8), np.uint8), np.zeros((8, 8, 8))
    labels[0], found[0] = 1, 1
    labels[4:], found[4:] = 3, 2
    assert dice(of_labels(labels, found), plan).tolist() == [[1.0]]


def test_a_case_is_shown_in_the_first_channel_that_it_has():
    lacking = replace(CASE, image=np.concatenate([0 * CASE.image, CASE.image]))
    labels = torch.from_numpy(CASE.labels > 0)
    shown = [picture_of(one, [(labels, labels)], PLAN) for one in (CASE, lacking)]
    assert np.array_equal(*shown)


def test_processes_share_the_cases():
    halves = [
        look(Oracle(), [CASE] * 3, PLAN, Train(amp=False), CPU, Unsummed(rank, 2))[0]
        for rank in range(2)
    ]
    assert np.isfinite(halves[0][:, 0]).tolist() == [True, False, True]
    assert np.isfinite(halves[1][:, 0]).tolist() == [False, True, False]


@given(
    st.integers(1, 40),
    st.integers(1, 5000),
    st.integers(1, 2000),
    st.sampled_from([None, 20.0]),
)
def test_validation_costs_a_twentieth_of_the_work_at_most(n_cases, items, epochs, minutes):
    settings = Train(epochs=epochs, minutes=minutes)
    found = validation_of([CASE] * n_cases, PLAN, settings, items)
    windows = n_windows(CASE, PLAN) * len(found.cases)
    assert 1 <= len(found.cases) <= n_cases
    assert windows <= SHARE * STEP_IN_PASSES * items * found.every * (1 + 1e-9)


def test_all_cases_are_looked_at_every_epoch_where_that_is_cheap():
    found = validation_of([CASE] * 3, PLAN, Train(), 100_000)
    assert (len(found.cases), found.every) == (3, 1)


def test_what_is_set_holds_whatever_it_costs():
    found = validation_of([CASE] * 3, PLAN, Train(validate_every=7), 1)
    assert (len(found.cases), found.every) == (3, 7)
    assert [epoch for epoch in range(1, 21) if found.is_due(epoch, epoch == 20)] == [7, 14, 20]


@pytest.mark.parametrize("cases", [[], [CASE]])
def test_nothing_is_looked_at_where_nothing_is_or_it_is_switched_off(cases):
    found = validation_of(cases, PLAN, Train(validate_every=0), 1000)
    assert not any(found.is_due(epoch, finished=epoch == 1000) for epoch in range(1, 1001))
    assert "no epoch is validated" in found.in_words()


def test_where_the_best_model_is_asked_for_the_end_is_always_looked_at():
    """One case costs more than a twentieth of a run so short; without a choice nobody looks."""
    for settings, expected in ((Train(epochs=2), False), (Train(epochs=2, val_percent=0.1), True)):
        found = validation_of([CASE], PLAN, settings, 2)
        assert found.every > 2
        assert found.is_due(2, finished=True) == expected


def test_networks_are_looked_at_in_the_precision_that_they_predict_in():
    seen = []

    class Convolution(nn.Conv3d):
        def forward(self, x):
            seen.append(super().forward(x).dtype)
            return (super().forward(x),)

    for amp in (True, False):
        look(Convolution(1, 3, 1), [CASE], PLAN, Train(amp=amp), CPU, Part())
    assert set(seen[: len(seen) // 2]) == {torch.bfloat16}
    assert set(seen[len(seen) // 2 :]) == {torch.float32}
