"""What every loss is made of: the two things it compares, means over them, and what it needs."""

from collections.abc import Callable
from typing import Any, Concatenate, NamedTuple, Protocol, cast

import torch
from torch import Tensor

EPSILON = 1e-6
VOXELS = (2, 3, 4)


class Loss(Protocol):
    """A function of logits and labels, and the names of the keywords that it needs besides.

    ``distance_maps``: signed distances (B, K, Z, Y, X) of the classes or regions, negative inside.
    ``spacing``: edges of a voxel (z, y, x) in mm. ``alpha``: weight of the plain part of a loss,
    against 1 - alpha for the part with distances, centrelines or surfaces.
    """

    needs: tuple[str, ...]

    def __call__(self, logits: Tensor, labels: Tensor, /, *args: Any, **keywords: Any) -> Tensor:
        """The loss of a batch."""


Function = Callable[Concatenate[Tensor, Tensor, ...], Tensor]


def needs(*names: str) -> Callable[[Function], Loss]:
    """Note on a function which keywords it needs."""

    def noted(function: Function) -> Loss:
        loss = cast(Loss, function)
        loss.needs = names
        return loss

    return noted


def needs_of(loss: Callable[..., Tensor]) -> tuple[str, ...]:
    """Keywords that a loss needs; none where nothing is noted."""
    names: tuple[str, ...] = getattr(loss, "needs", ())
    return names


class Pair(NamedTuple):
    """A prediction and what it should be, of K classes or regions."""

    logits: Tensor  # (B, K, Z, Y, X), float32 or float64
    labels: Tensor  # (B, Z, Y, X) or (B, K, Z, Y, X), as they were given
    p: Tensor  # probabilities (B, K, Z, Y, X), 0 where ignored
    y: Tensor  # targets (B, K, Z, Y, X), 0 or 1, 0 where ignored; uint8
    valid: Tensor  # what is not ignored: (B, 1, Z, Y, X), for regions (B, K, Z, Y, X); bool

    @property
    def of_regions(self) -> bool:
        """Whether each channel is a question of its own."""
        return self.labels.ndim == self.logits.ndim

    @property
    def foreground(self) -> tuple[Tensor, Tensor, Tensor]:
        """Probabilities and targets without background, (B, F, Z, Y, X), and what is valid."""
        first = 0 if self.of_regions else 1
        return self.p[:, first:], self.y[:, first:], self.valid


def compare(logits: Tensor, labels: Tensor) -> Pair:
    """Bring logits and labels, of either kind, to what the formulas use."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if labels.ndim == logits.ndim:
        p, y, valid = logits.sigmoid(), labels > 0, labels >= 0
    else:
        # Not F.one_hot: its 64-bit integers take 8 bytes for each class and voxel.
        classes = torch.arange(logits.shape[1], device=labels.device, dtype=labels.dtype)
        y = labels.unsqueeze(1) == classes.view(-1, 1, 1, 1)
        p, valid = logits.softmax(dim=1), labels.unsqueeze(1) >= 0
    if labels.dtype.is_signed:  # else no label is negative, and p needs no copy
        p = p.masked_fill(~valid, 0)
    return Pair(logits, labels, p, y.view(torch.uint8), valid)


def mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean over what is valid, of values that are 0 elsewhere; 0 where nothing is valid.

    Values are (B, F, Z, Y, X), or (B, F): those count whose item has any valid voxel.
    """
    if values.ndim < valid.ndim:
        valid = valid.any(VOXELS)
    return values.sum() / valid.expand_as(values).sum().clamp(min=1)


def expect(fine: bool, expected: str, found: object) -> None:
    """Raise ValueError for a keyword that makes no sense."""
    if not fine:
        raise ValueError(f"expected {expected}, found {found}")
