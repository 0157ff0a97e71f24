"""How weights are changed: optimisers and learning rates by name, and the average of weights."""

import math
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from mist_core.config import Train

WARMUP_FROM = 0.01  # of the learning rate
LONGEST_WARMUP = 0.1  # of the run: or a short one would never reach its learning rate

OPTIMIZERS: Mapping[str, Callable[[Iterable[nn.Parameter], float, float], Optimizer]] = {
    "adam": lambda weights, rate, decay: Adam(weights, rate, weight_decay=decay, fused=True),
    "adamw": lambda weights, rate, decay: AdamW(weights, rate, weight_decay=decay, fused=True),
    # Not fused: a first step that a scaled loss skips would leave its momentum to chance.
    "sgd": lambda weights, rate, decay: SGD(
        weights, rate, momentum=0.9, nesterov=True, weight_decay=decay
    ),
}

# Share of the learning rate at a share of the run, both from 0 to 1.
SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "polynomial": lambda done: (1 - done) ** 0.9,  # Chen et al., "DeepLab", TPAMI 2018
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),  # Loshchilov, ICLR 2017
}


def new_optimizer(network: nn.Module, settings: Train) -> Optimizer:
    """The optimiser that the settings name, for all weights of the network."""
    new = OPTIMIZERS[settings.optimizer]
    return new(network.parameters(), settings.learning_rate, settings.weight_decay)


def learning_rate(done: float, settings: Train) -> float:
    """Linear warm-up from a hundredth, then the schedule, at a share of the run from 0 to 1.

    The warm-up takes ``warmup_epochs``, but never more than a tenth of the run.
    """
    warmup = min(settings.warmup_epochs / settings.epochs, LONGEST_WARMUP)
    if done < warmup:
        return settings.learning_rate * (WARMUP_FROM + (1 - WARMUP_FROM) * done / warmup)
    return settings.learning_rate * SCHEDULES[settings.lr_scheduler]((done - warmup) / (1 - warmup))


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """The same rate for every parameter."""
    for group in optimizer.param_groups:
        group["lr"] = rate


class Average:
    """A copy of a network that follows it: an exponential moving average of its weights.

    After n steps it forgets no faster than over n steps: (1 + n) / (10 + n) replaces a larger
    decay, or the first, random weights would stay in the average of a short run. As in Tarvainen &
    Valpola, "Mean teachers", NeurIPS 2017.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay, self.steps = deepcopy(network), decay, 0

    @torch.no_grad()
    def follow(self, network: nn.Module) -> None:
        """Take in the weights of a step; what is no weight, such as a counter, is copied."""
        own = min(self.decay, (1 + self.steps) / (10 + self.steps)) if self.steps else 0.0
        pairs = zip(self.network.parameters(), network.parameters(), strict=True)
        mine, theirs = (list(tensors) for tensors in zip(*pairs, strict=True))
        torch._foreach_lerp_(mine, theirs, 1 - own)
        for buffer, other in zip(self.network.buffers(), network.buffers(), strict=True):
            buffer.copy_(other)
        self.steps += 1  # counted here: to ask torch's AveragedModel, a GPU would have to wait

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"weights": self.network.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.network.load_state_dict(state["weights"])
        self.steps = state["steps"]
