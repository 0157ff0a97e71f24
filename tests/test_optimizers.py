"""Optimisers, schedules and the average of weights."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mist_core.config import Train
from mist_core.optimizers import (
    OPTIMIZERS,
    SCHEDULES,
    Average,
    learning_rate,
    new_optimizer,
    set_learning_rate,
)


def line(weight=4.0):
    """y = w x, without a bias."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, weight)
    return model


def stepped(settings, steps=1):
    """The weight of y = w x after steps down the square of w."""
    model = line()
    optimizer = new_optimizer(model, settings)
    for _ in range(steps):
        optimizer.zero_grad()
        model.weight.square().sum().backward()
        optimizer.step()
    return model.weight.item()


def test_sgd_has_nesterovs_momentum_by_hand():
    settings = Train(optimizer="sgd", learning_rate=0.1, weight_decay=0)
    # The gradient of w^2 is 2 w = 8; the first step looks 0.9 of the momentum ahead: 8 + 0.9 * 8.
    assert stepped(settings) == pytest.approx(4 - 0.1 * (8 + 0.9 * 8))


def test_weight_decay_is_part_of_adams_gradient_and_beside_that_of_adamw():
    rate = {"learning_rate": 0.1, "weight_decay": 0.5}
    # Adam's first step has the length of the learning rate, whatever the gradient.
    assert stepped(Train(optimizer="adam", **rate)) == pytest.approx(3.9, abs=1e-6)
    assert stepped(Train(optimizer="adamw", **rate)) == pytest.approx(
        4 * (1 - 0.05) - 0.1, abs=1e-6
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimiser_goes_down(name):
    assert abs(stepped(Train(optimizer=name, learning_rate=0.02), 20)) < 4


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("constant", [1, 1, 1]),
        ("polynomial", [1, 0.5**0.9, 0]),
        ("cosine", [1, 0.5, 0]),
    ],
)
def test_schedules_by_hand(name, values):
    assert [SCHEDULES[name](done) for done in (0, 0.5, 1)] == pytest.approx(values)
    settings = Train(lr_scheduler=name, learning_rate=2.0, warmup_epochs=0)
    rates = [learning_rate(done, settings) for done in (0, 0.5, 1)]
    assert rates == pytest.approx([2 * v for v in values])


@given(st.sampled_from(list(SCHEDULES)), st.integers(1, 200), st.integers(0, 30))
def test_every_schedule_of_any_run_stays_between_nothing_and_what_was_set(name, epochs, warmup):
    settings = Train(lr_scheduler=name, learning_rate=0.5, warmup_epochs=warmup, epochs=epochs)
    rates = [learning_rate(step / (2 * epochs), settings) for step in range(2 * epochs)]
    assert all(0 < rate <= 0.5 for rate in rates)


def test_a_rate_holds_for_all_weights():
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.ones(1))]} for _ in range(2)], 1.0)
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


def test_the_average_follows_the_weights_by_hand():
    model = line(0.0)
    average = Average(model, 0.5)
    found = []
    for weight in (8.0, 4.0, 4.0):
        nn.init.constant_(model.weight, weight)
        average.follow(model)
        found.append(average.network.weight.item())
    # The first is taken whole. Then 2 / 11 and 3 / 12 are below 0.5, and kept of what was.
    second = 8 * 2 / 11 + 4 * 9 / 11
    assert found == pytest.approx([8, second, second * 3 / 12 + 4 * 9 / 12])


def test_the_average_of_a_short_run_forgets_the_weights_that_it_began_with():
    model = line(100.0)
    average = Average(model, 0.9999)
    for _ in range(50):
        nn.init.constant_(model.weight, 1.0)
        average.follow(model)
    assert average.network.weight.item() == pytest.approx(1.0)
