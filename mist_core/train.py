"""Train one network on one fold, from memory-mapped arrays to one file that is enough to predict.

Everything random comes from (seed, fold, step), so a run that was stopped goes on from its
checkpoint as if it had not been.
"""

import csv
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from mist_core import __version__
from mist_core.augment import augment, recipe_for
from mist_core.config import Train
from mist_core.criterion import criterion
from mist_core.device import (
    MEMORY_FORMAT,
    enough_memory,
    has_bfloat16,
    mend_small_convolutions,
)
from mist_core.errors import DataError
from mist_core.files import replacing
from mist_core.models import check_outputs, for_plan, outputs_for
from mist_core.optimizers import averaged, learning_rate, new_optimizer, set_learning_rate
from mist_core.own import is_own
from mist_core.parallel import join, leave
from mist_core.patches import Batch, TrainingCase, draw_batch
from mist_core.plan import Plan
from mist_core.transfer import begin_with

log = logging.getLogger(__name__)

STEPS_PER_EPOCH = 250
DRAW, AUGMENT = 0, 1  # what a random stream is for


@dataclass(frozen=True)
class Paths:
    """Where a fold keeps what it makes."""

    checkpoint: Path
    logs: Path


@enough_memory("Lower train.batch_size or analyze.patch_size.")
def train(
    cases: list[TrainingCase],
    plan: Plan,
    settings: Train,
    fold: int,
    paths: Paths,
    identity: str,
) -> nn.Module:
    """Fit a network to the cases and return it.

    Resumes from ``paths.checkpoint`` when that was written under the same ``identity``, a text
    that stands for the data and the settings. Raises DataError when the loss stops being finite.
    """
    device, part = join()
    amp = has_bfloat16(device) if settings.amp == "auto" else settings.amp
    torch.manual_seed(settings.seed + fold)
    network = new_network(plan, settings, device)
    model = part.wrapped(network)
    optimizer = new_optimizer(network, settings)
    average = averaged(network, settings.ema) if settings.ema else None
    loss_of = criterion(plan, settings, device)
    batch_size = part.size * settings.batch_size
    epoch_steps = steps_per_epoch(settings, len(cases), batch_size)
    all_steps = settings.epochs * epoch_steps
    parts: dict[str, Any] = {"model": network, "optimizer": optimizer} | (
        {"average": average} if average else {}
    )
    first_epoch, history = resume(paths.checkpoint, identity, parts)
    if first_epoch == 0 and settings.pretrained_weights:
        begin_with(network, plan, settings, fold)
    log.info(
        "%s: %d cases, %s with %.1f M parameters, %s, patch %s (x, y, z), %s, %s%s",
        f"fold {fold}",
        len(cases),
        settings.model,
        sum(p.numel() for p in network.parameters()) / 1e6,
        settings.loss,
        plan.spatial_config.patch_size,
        f"{settings.epochs} epochs of {epoch_steps} steps",
        f"{part.size} x {device.type}" if part.size > 1 else device,
        ", bfloat16" if amp else "",
    )

    board = SummaryWriter(str(paths.logs), purge_step=first_epoch + 1) if part.rank == 0 else None
    for epoch in range(first_epoch, settings.epochs):
        model.train()
        started = time.perf_counter()
        running = torch.zeros((), device=device)
        for step in range(epoch * epoch_steps, (epoch + 1) * epoch_steps):
            items = part.items(settings.batch_size)
            batch = random_batch(cases, plan, settings, fold, step, items, device)
            set_learning_rate(optimizer, learning_rate(step, all_steps, epoch_steps, settings))
            with torch.autocast(device.type, torch.bfloat16, enabled=amp):
                outputs = model(batch.images)
            if step == first_epoch * epoch_steps and is_own(settings.model):
                check_outputs(outputs, batch.images, outputs_for(plan, settings), settings.model)
            loss = loss_of(outputs, batch, epoch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), settings.gradient_clip)
            optimizer.step()
            if average:
                average.update_parameters(network)
            running += loss.detach()

        seconds = time.perf_counter() - started
        record = {
            "epoch": epoch + 1,
            "loss": float(part.mean(running)) / epoch_steps,
            "learning_rate": optimizer.param_groups[0]["lr"],
            "patches_per_second": epoch_steps * batch_size / seconds,
        }
        if not math.isfinite(record["loss"]):
            raise DataError(
                f"fold {fold}: expected a finite loss, found {record['loss']} in epoch "
                f"{epoch + 1}. Lower train.learning_rate (now {settings.learning_rate:g})."
            )
        history.append(record)
        if board is None:
            continue
        report(record, settings.epochs, epoch_steps * batch_size, board)
        write_history(paths.logs / "history.csv", history)
        save(
            paths.checkpoint,
            {
                "identity": identity,
                "epoch": epoch + 1,
                "history": history,
            }
            | {name: part.state_dict() for name, part in parts.items()},
        )
    if board:
        board.close()
    leave()
    return average.module if average else network


def new_network(plan: Plan, settings: Train, device: torch.device) -> nn.Module:
    """The network that fits the plan, with fresh weights, on the device."""
    network = for_plan(plan, settings)
    network.to(device, memory_format=MEMORY_FORMAT)  # type: ignore[call-overload]
    mend_small_convolutions(network, device)
    return network


def random_batch(
    cases: list[TrainingCase],
    plan: Plan,
    settings: Train,
    fold: int,
    step: int,
    items: Sequence[int],
    device: torch.device,
) -> Batch:
    """The patches of one step, augmented, on the device.

    The same for the same seed, fold, step and items.
    """
    images, labels, maps = draw_batch(
        cases,
        items,
        plan.patch_size,
        settings.foreground_probability,
        (settings.seed, fold, step, DRAW),
    )
    moved = Batch(
        images.to(device, memory_format=MEMORY_FORMAT),
        labels.to(device),
        None if maps is None else maps.to(device),
    )
    return augment(
        moved,
        recipe_for(settings, plan),
        plan.target_spacing_mm,
        [np.random.default_rng([settings.seed, fold, step, AUGMENT, item]) for item in items],
    )


def steps_per_epoch(settings: Train, n_cases: int, batch_size: int) -> int:
    """As set, or 250, or what one pass over the cases takes if that is more."""
    if settings.steps_per_epoch != "auto":
        return settings.steps_per_epoch
    return max(STEPS_PER_EPOCH, math.ceil(n_cases / batch_size))


def resume(
    checkpoint: Path, identity: str, parts: Mapping[str, Any]
) -> tuple[int, list[dict[str, Any]]]:
    """Load a checkpoint of the same identity; return the epochs done and their history."""
    if not checkpoint.exists():
        return 0, []
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if state["identity"] != identity:
        log.info("%s is of other data or settings: starting anew", checkpoint)
        return 0, []
    for name, part in parts.items():
        part.load_state_dict(state[name])
    log.info("%s: going on after epoch %d", checkpoint, state["epoch"])
    return state["epoch"], state["history"]


def save(path: Path, state: dict[str, Any]) -> None:
    """Write under a temporary name, then rename: a kill never leaves half a file."""
    with replacing(path) as temporary:
        torch.save(state, temporary)


def save_model(path: Path, model: nn.Module, plan: Plan, settings: Train, fold: int) -> None:
    """One file with all that prediction needs: weights, plan, settings, versions."""
    weights: dict[str, Tensor] = {k: v.cpu() for k, v in model.state_dict().items()}
    save(
        path,
        {
            "weights": weights,
            "plan": plan.model_dump(mode="json"),
            "train": settings.model_dump(mode="json"),
            "fold": fold,
            "versions": {"mist_core": __version__, "torch": str(torch.__version__)},
        },
    )


def report(record: dict[str, Any], epochs: int, patches: int, board: SummaryWriter) -> None:
    """One log line and the TensorBoard scalars of an epoch."""
    left = (epochs - record["epoch"]) * patches / record["patches_per_second"]
    log.info(
        "epoch %d/%d  loss %.4f  lr %.2e  %.2f patches/s  %s left",
        record["epoch"],
        epochs,
        record["loss"],
        record["learning_rate"],
        record["patches_per_second"],
        time.strftime("%H:%M:%S", time.gmtime(left)),
    )
    for name in ("loss", "learning_rate", "patches_per_second"):
        board.add_scalar(name, record[name], record["epoch"])


def write_history(path: Path, history: list[dict[str, Any]]) -> None:
    """All epochs so far, as a table."""
    with replacing(path) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
