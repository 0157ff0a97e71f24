"""What training makes smaller: the loss that the config names, for the outputs of a network."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mist_core import own
from mist_core.config import Train
from mist_core.errors import DataError
from mist_core.losses import LOSSES, composite_weight, deep_supervision, needs_of
from mist_core.patches import Batch
from mist_core.plan import Plan
from mist_core.regions import membership, mirrored_regions

Criterion = Callable[[Sequence[Tensor], Batch, int], Tensor]
GIVEN = ("distance_maps", "spacing", "alpha")  # to losses that need them
IGNORED = -1  # in place of a class index; any label below zero is left out of every loss


def loss_of(settings: Train) -> Callable[..., Tensor]:
    """The loss that the settings name: of this library, or ``module:function`` of one's own."""
    name = settings.loss
    return own.load(name) if own.is_own(name) else LOSSES[name]


def needs_distances(settings: Train) -> bool:
    """Whether the loss needs the distance maps that preprocessing makes."""
    return "distance_maps" in needs_of(loss_of(settings))


def alpha_of(settings: Train, epoch: int) -> float | None:
    """The weight of the region part of the loss in an epoch; None where it has no such part."""
    if "alpha" not in needs_of(loss_of(settings)):
        return None
    weighting, pause = settings.composite_loss_weighting, settings.init_pause
    return composite_weight(epoch, settings.epochs, weighting, init_pause=pause)


def criterion(plan: Plan, settings: Train, device: torch.device) -> Criterion:
    """A function of a network's outputs, the batch they are of, and the epoch, to a scalar.

    Raises DataError where the loss has other parameters, or the regions do not tell labels apart or
    have no mirror images.
    """
    loss, params = loss_of(settings), settings.loss_params
    needs = needs_of(loss)
    if not isinstance(needs, tuple) or not set(needs) <= set(GIVEN):
        raise DataError(
            f"{settings.loss}: expected needs to be a tuple of {', '.join(GIVEN)}, found "
            f"{needs!r}. Mend the function."
        )
    try:
        inspect.signature(loss).bind(None, None, **dict.fromkeys(needs), **params)
    except TypeError as error:
        raise DataError(
            f"config: train.loss_params: expected parameters of {settings.loss}, found {params} "
            f"({error}). Mend them."
        ) from None
    info = plan.dataset_info
    ignored = None if info.ignore_label is None else len(info.labels)
    table = None
    if settings.regions:
        of_labels = membership(info.labels, plan.regions)
        if "x" in settings.mirrored_axes:
            mirrored_regions(plan.regions, info.mirrored_labels)  # said now, not in prediction
        table = torch.from_numpy(of_labels).to(device)

    if own.is_own(settings.loss):
        loss = _checked(loss, settings.loss)
    else:
        _try(loss, dict(params), plan)

    def compute(outputs: Sequence[Tensor], batch: Batch, epoch: int) -> Tensor:
        given = {
            "distance_maps": batch.distance_maps,
            "spacing": plan.target_spacing_mm,
            "alpha": alpha_of(settings, epoch),
        }
        labels = target(batch.labels, ignored, table)
        chosen = {name: given[name] for name in needs}
        return deep_supervision(loss, outputs, labels, **chosen, **params)

    return compute


def _try(loss: Callable[..., Tensor], params: dict[str, Any], plan: Plan) -> None:
    """Raise DataError where the values of the parameters make no sense to the loss."""
    nothing = torch.zeros(1, 2, 2, 2, 2)
    given = {"distance_maps": nothing, "spacing": plan.target_spacing_mm}
    params |= {name: given[name] for name in needs_of(loss) if name in given}
    try:
        loss(nothing, torch.zeros(1, 2, 2, 2, dtype=torch.uint8), **params)
    except (ArithmeticError, TypeError, ValueError) as error:
        raise DataError(f"config: train.loss_params: {error}. Mend them.") from None


def _checked(loss: Callable[..., Tensor], name: str) -> Callable[..., Tensor]:
    """The user's loss, which raises DataError where it gives no number to learn from."""

    def checked(*args: Any, **keywords: Any) -> Tensor:
        value = loss(*args, **keywords)
        learns = isinstance(value, Tensor) and value.requires_grad == args[0].requires_grad
        if not learns or value.ndim:
            found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
            raise DataError(
                f"{name}: expected one number that follows from the logits, as a tensor, found "
                f"{found}. Mend the function."
            )
        return value

    return checked


def target(labels: Tensor, ignored: int | None, regions: Tensor | None) -> Tensor:
    """What outputs are compared with: class indices (B, Z, Y, X), or 0 and 1 for each region
    (B, R, Z, Y, X). Below zero where nothing is known, which has the class index ``ignored``.

    ``regions`` says which class (column) is in which region (row).
    """
    if regions is not None:
        unknown = torch.full_like(regions[:, :1], IGNORED, dtype=torch.int8)
        table = torch.cat([regions.to(torch.int8), unknown], dim=1)  # (R, K + 1)
        return table[:, labels.long()].movedim(0, 1)
    if labels.dtype == torch.uint8 and ignored is None:
        return labels
    labels = labels.to(torch.int32)
    return labels if ignored is None else torch.where(labels == ignored, IGNORED, labels)
