"""Train one network on one fold, from memory-mapped arrays to one file that is enough to predict.

Everything random comes from (seed, fold, step, item), so a run that was stopped goes on from its
checkpoint as if it had not been.
"""

import logging
import math
import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mist_core import checkpoint
from mist_core.config import WHEN_IT_ENDS, Train
from mist_core.contact_sheet import contact_sheet
from mist_core.criterion import alpha_of, criterion
from mist_core.device import (
    MEMORY_FORMAT,
    enough_memory,
    half_precision,
    is_idle,
    mend_small_convolutions,
    tune,
)
from mist_core.errors import DataError
from mist_core.loading import Draws, pieces_of
from mist_core.modelfile import versions, write_state
from mist_core.models import check_outputs, for_plan, outputs_for
from mist_core.optimizers import Average, learning_rate, new_optimizer, set_learning_rate
from mist_core.own import is_own
from mist_core.parallel import Part, join, leave
from mist_core.patches import TrainingCase
from mist_core.pictures import write_png
from mist_core.plan import Plan
from mist_core.records import Records, of_the_time
from mist_core.transfer import begin_with
from mist_core.validation import Validation, look, validation_of

log = logging.getLogger(__name__)

FORMAT = 1  # of checkpoints
STEPS_PER_EPOCH = 250
LONGEST_VALIDATION = 0.1  # of the time
LOSSES_AT_ONCE = 10  # are fetched from the device, which would wait for each


@dataclass(frozen=True)
class Paths:
    """Where a fold keeps what it makes."""

    checkpoint: Path
    logs: Path


@dataclass(frozen=True, eq=False)
class Trained:
    """A network, why these are its weights, and whether the cases that score it chose them."""

    network: nn.Module
    chosen: str
    by_held_out: bool


@dataclass
class State:
    """What a checkpoint holds besides the weights and the optimiser."""

    step: int = 0  # steps done
    seconds: float = 0.0  # that took
    losses: list[float] = field(default_factory=list)  # of the steps of this epoch
    stepping: float = 0.0  # seconds of this epoch, without validation
    waiting: float = 0.0  # of them for data
    validating: float = 0.0  # seconds of all epochs
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)  # weights
    best_dice: float = -math.inf
    best_epoch: int = 0
    finished: bool = False


@dataclass(eq=False)
class Learner:
    """A network, and what changes its weights."""

    network: nn.Module
    model: Any  # the network as it is trained: compiled, one of several processes
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler  # of losses in float16, whose gradients would vanish
    average: Average | None

    @property
    def result(self) -> nn.Module:
        """The network that is to be used."""
        return self.average.network if self.average else self.network

    def parts(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        parts = {"model": self.network, "optimizer": self.optimizer, "scaler": self.scaler}
        return parts | ({"average": self.average} if self.average else {})

    def step(self, largest_norm: float) -> Tensor:
        """Change the weights by their gradients, and forget these; returns their norm."""
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), largest_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.follow(self.network)
        return norm


@enough_memory("Lower train.batch_size or analyze.patch_size.")
def train(  # noqa: PLR0912, PLR0915 (to be read from top to bottom)
    cases: Sequence[TrainingCase],
    looked_at: Sequence[TrainingCase],
    plan: Plan,
    settings: Train,
    fold: int,
    paths: Paths,
    identity: str,
) -> Trained:
    """Fit a network to the cases, and look at others while it learns.

    Resumes from ``paths.checkpoint`` when that was written under the same ``identity``, a text
    that stands for the data and the settings. Raises DataError when a loss or a gradient is not
    finite.
    """
    device, part = join()
    tune(device)
    half = half_precision(settings.amp, device)
    if half == torch.float16 and device.type == "cpu":
        log.warning("train.amp: float16 is for GPUs and slow on this CPU; auto is not")
    learner = new_learner(plan, settings, fold, device, part)
    loss_of = criterion(plan, settings, device)
    draws = Draws(cases, plan, settings, fold, part)
    items = part.size * settings.accumulate * settings.batch_size  # of a step
    epoch_steps = steps_per_epoch(settings, len(cases), items)
    all_steps = settings.epochs * epoch_steps
    state = resume(paths.checkpoint, identity, settings, epoch_steps, learner)
    if state.step == 0 and settings.pretrained_weights:
        begin_with(learner.network, plan, settings, fold)
    validation = validation_of(looked_at, plan, settings, epoch_steps * items)
    log.info("%s", summary(learner.network, draws, epoch_steps, device, half))
    log.info("%s", validation.in_words())

    records = Records(paths.logs, state.history, settings) if part.rank == 0 else None
    if records and state.step == 0:
        sheet = contact_sheet(cases, plan, settings, fold)
        write_png(paths.logs / "patches.png", sheet)
        records.show("patches", sheet, 0)
    pending: list[Tensor] = []  # losses and norms of gradients that are still on the device
    done = share_done(state, all_steps, settings)
    pace = Pace(done, time.perf_counter())
    saved = clock = time.perf_counter()
    learner.model.train()

    patches = pieces_of(draws, state.step, all_steps, device)
    with records or nullcontext(), closing(patches) as loader:
        while not state.finished:
            # The gradients of a step, summed up over its batches.
            epoch = state.step // epoch_steps
            schedule_epoch = int(done * settings.epochs) if settings.minutes else epoch
            set_learning_rate(learner.optimizer, learning_rate(done, settings))
            torch.manual_seed(seed_of(settings.seed, fold, state.step, part.rank))
            total = torch.zeros((), device=device)
            for turn in range(settings.accumulate):
                asked = time.perf_counter()
                pieces = next(loader)
                if is_idle(device):
                    state.waiting += time.perf_counter() - asked
                batch = draws.batch(pieces, state.step * settings.accumulate + turn, device)
                with part.sharing(learner.model, turn + 1 == settings.accumulate):
                    with torch.autocast(device.type, half, enabled=half is not None):
                        outputs = learner.model(batch.images)
                    if state.step == 0 and is_own(settings.model):
                        n_classes = outputs_for(plan, settings)
                        check_outputs(outputs, batch.images, n_classes, settings.model)
                    loss = loss_of(outputs, batch, schedule_epoch) / settings.accumulate
                    learner.scaler.scale(loss).backward()
                total += loss.detach()
            norm = learner.step(settings.gradient_clip)
            pending.append(torch.stack([total, norm]))

            state.step += 1
            seconds, clock = time.perf_counter() - clock, time.perf_counter()
            state.seconds, state.stepping = state.seconds + seconds, state.stepping + seconds
            done = share_done(state, all_steps, settings)
            done = part.agreed(done, device) if settings.minutes else done
            state.finished = done >= 1
            epoch_ends = state.step % epoch_steps == 0 or state.finished
            save_now = clock - saved >= 60 * settings.checkpoint_minutes
            if epoch_ends or save_now or len(pending) == LOSSES_AT_ONCE:
                fetch_losses(pending, state, draws)

            if epoch_ends:
                record = epoch_record(state, learner, settings, epoch, schedule_epoch, items)
                record["loss"] = float(part.mean(torch.tensor(record["loss"], device=device)))
                if validation.is_due(epoch + 1, state.finished) and not validated_too_long(
                    state, validation, part, device
                ):
                    record |= validate(state, learner, validation, records, draws, epoch, device)
                    if has_stalled(state, epoch + 1, settings):
                        log.info("no better validation for %d epochs", epoch + 1 - state.best_epoch)
                        state.finished = True
                if records:
                    left = 0.0 if state.finished else pace.seconds_left(done, time.perf_counter())
                    records.add(record, done, left)
                state.losses, state.stepping, state.waiting = [], 0.0, 0.0
            if save_now or state.finished:
                saved = time.perf_counter()
                if records:
                    save_checkpoint(paths.checkpoint, state, identity, settings, learner)
            if epoch_ends or save_now:  # what that took is no step's
                seconds, clock = time.perf_counter() - clock, time.perf_counter()
                state.seconds += seconds

    leave()
    return the_model(state, learner, settings, validation, epoch_steps)


def new_learner(
    plan: Plan, settings: Train, fold: int, device: torch.device, part: Part
) -> Learner:
    """With fresh weights, on the device."""
    network = new_network(plan, settings, fold, device)
    model: Any = torch.compile(network) if settings.compile else network
    return Learner(
        network,
        part.wrapped(model),
        new_optimizer(network, settings),
        torch.amp.GradScaler(device.type, enabled=settings.amp == "float16"),
        Average(network, settings.ema) if settings.ema else None,
    )


def new_network(plan: Plan, settings: Train, fold: int, device: torch.device) -> nn.Module:
    """The network that fits the plan, with fresh weights, on the device."""
    torch.manual_seed(settings.seed + fold)
    network = for_plan(plan, settings)
    network.to(device, memory_format=MEMORY_FORMAT)  # type: ignore[call-overload]
    mend_small_convolutions(network, device)
    return network


def seed_of(*numbers: int) -> int:
    """One number for the random numbers that a network draws itself, such as of dropout."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def steps_per_epoch(settings: Train, n_cases: int, items: int) -> int:
    """As set, or 250, or what one pass over the cases takes if that is more."""
    if settings.steps_per_epoch != "auto":
        return settings.steps_per_epoch
    return max(STEPS_PER_EPOCH, math.ceil(n_cases / items))


def share_done(state: State, all_steps: int, settings: Train) -> float:
    """Of the run, from 0 to 1: of its steps, or of its time where that is nearer its end."""
    by_time = state.seconds / (60 * settings.minutes) if settings.minutes else 0.0
    return min(max(state.step / all_steps, by_time), 1.0)


def fetch_losses(pending: list[Tensor], state: State, draws: Draws) -> None:
    """Move losses from the device to the state. Raises DataError where one, or the norm of its
    gradient, is not finite: a scaled loss skips a step whose gradient is not.
    """
    values = torch.stack(pending).tolist()
    first = state.step - len(values)
    pending.clear()
    for step, (loss, norm) in enumerate(values, start=first):
        if not math.isfinite(loss):
            raise not_finite("loss", step, loss, draws)
        if not math.isfinite(norm) and draws.settings.amp != "float16":
            raise not_finite("gradient", step, norm, draws)
    state.losses += [loss for loss, _ in values]


def not_finite(what: str, step: int, value: float, draws: Draws) -> DataError:
    """What to say of a loss or gradient that is no number: the step, its cases, and what to do."""
    names = draws.names(step)
    odd = [c.id for c in draws.cases if c.id in names and not np.isfinite(c.image).all()]
    advice = (
        f"The image of {', '.join(odd)} holds such values itself: mend it, and preprocess again."
        if odd
        else f"Lower train.learning_rate (now {draws.settings.learning_rate:g}) or "
        "train.gradient_clip, or set train.amp to false. The last checkpoint is kept."
    )
    return DataError(
        f"fold {draws.fold}: expected a finite {what}, found {value} in step {step + 1}, of the "
        f"cases {', '.join(dict.fromkeys(names))}. {advice}"
    )


def epoch_record(
    state: State,
    learner: Learner,
    settings: Train,
    epoch: int,
    schedule_epoch: int,
    items: int,
) -> dict[str, Any]:
    """What history.csv and TensorBoard show of an epoch, without validation."""
    alpha = alpha_of(settings, schedule_epoch)
    return {
        "epoch": epoch + 1,
        "steps": len(state.losses),
        "loss": float(np.mean(state.losses)),
        "learning_rate": learner.optimizer.param_groups[0]["lr"],
        **({} if alpha is None else {"alpha": alpha}),
        "patches_per_second": len(state.losses) * items / state.stepping,
        "waiting": state.waiting / state.stepping,
    }


def validate(
    state: State,
    learner: Learner,
    validation: Validation,
    records: Records | None,
    draws: Draws,
    epoch: int,
    device: torch.device,
) -> dict[str, float]:
    """Dice of the network as it is now, for the record of an epoch; keeps the best weights."""
    began = time.perf_counter()
    network = learner.result.eval()
    plan, settings, part = draws.plan, draws.settings, draws.part
    dice, picture = look(network, validation.cases, plan, settings, device, part)
    learner.network.train()
    found = scores(dice, list(plan.regions))
    if records:
        records.show("validation", picture, epoch + 1)
    if settings.takes_best and found["dice"] > state.best_dice:
        state.best_dice, state.best_epoch = found["dice"], epoch + 1
        state.best = {k: value.detach().clone() for k, value in network.state_dict().items()}
    state.validating += time.perf_counter() - began
    return found


def scores(dice: NDArray[np.float64], names: Sequence[str]) -> dict[str, float]:
    """Mean Dice of each class over the cases (cases, R) that have it, and of all classes."""
    means = {}
    for name, column in zip(names, dice.T, strict=True):
        known = column[~np.isnan(column)]
        means[f"dice_{name}"] = float(known.mean()) if known.size else math.nan
    known = [value for value in means.values() if not math.isnan(value)]
    return {"dice": float(np.mean(known)) if known else math.nan} | means


def has_stalled(state: State, epoch: int, settings: Train) -> bool:
    """Whether validation did not get better for as many epochs as early stopping allows."""
    patience = settings.early_stopping
    return patience is not None and state.best_epoch > 0 and epoch - state.best_epoch >= patience


def the_model(
    state: State, learner: Learner, settings: Train, validation: Validation, epoch_steps: int
) -> Trained:
    """The network with the weights that are to be used, and which these are in words."""
    chosen = f"last weights, after {state.step} steps ({state.step / epoch_steps:.4g} epochs)"
    best = settings.takes_best and bool(state.best)
    if best:
        learner.result.load_state_dict(state.best)
        chosen = (
            f"weights of epoch {state.best_epoch}, the best by the mean Dice "
            f"({state.best_dice:.4f}) of {len(validation.cases)} cases {validation.whose()}"
        )
    share = validated_share(state)
    log.info("the model: %s; %.1f %% of the time went into validation", chosen, 100 * share)
    return Trained(learner.result, chosen, best and settings.chooses_by_held_out)


@dataclass(frozen=True)
class Pace:
    """Where in the run this process began, as a share of it, and when."""

    done: float
    clock: float

    def seconds_left(self, done: float, clock: float) -> float:
        """If it goes on as it went since."""
        return (clock - self.clock) * (1 - done) / max(done - self.done, 1e-9)


def validated_share(state: State) -> float:
    """Of the time, for validation."""
    return state.validating / state.seconds if state.seconds else 0.0


def validated_too_long(
    state: State, validation: Validation, part: Part, device: torch.device
) -> bool:
    """Whether validation has taken a tenth of the time, which nobody asked for, and no model is
    chosen by it.
    """
    settings = validation.settings
    if settings.takes_best or settings.validate_every != "auto":
        return False
    return part.agreed(validated_share(state), device) > LONGEST_VALIDATION


def summary(
    network: nn.Module,
    draws: Draws,
    epoch_steps: int,
    device: torch.device,
    half: torch.dtype | None,
) -> str:
    """What is about to be done, in a line."""
    plan, settings = draws.plan, draws.settings
    parameters = sum(p.numel() for p in network.parameters()) / 1e6
    where = f"{draws.part.size} x {device.type}" if draws.part.size > 1 else str(device)
    threads = f" of {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    batch = f"{settings.batch_size}" + (f" x {settings.accumulate}" * (settings.accumulate > 1))
    limit = f"{settings.epochs} epochs of {epoch_steps} steps"
    limit += f" or {settings.minutes:g} minutes" if settings.minutes else ""
    return (
        f"fold {draws.fold}: {len(draws.cases)} cases, {settings.model} with {parameters:.1f} M "
        f"parameters, {settings.loss}, patch {plan.spatial_config.patch_size} (x, y, z), batch "
        f"{batch}, {limit}, {where}{threads}, {str(half or torch.float32).removeprefix('torch.')}"
    )


def resume(path: Path, identity: str, settings: Train, epoch_steps: int, learner: Learner) -> State:
    """Load a checkpoint of the same identity, or begin.

    One that has ended goes on if it is to take longer now. Where it went further than it is to go
    now, it is of no use.
    """
    found = checkpoint.load(path)
    if not found:
        return State()
    if found.get("format") != FORMAT or found["identity"] != identity:
        log.info("%s is of other data or settings: starting anew", path)
        return State()
    state = State(**found["state"])
    all_steps, limit = settings.epochs * epoch_steps, settings.minutes or math.inf
    if found["ends"] != ends(settings):
        shorter = limit < (found["ends"]["minutes"] or math.inf) and state.seconds > 60 * limit
        if state.step > all_steps or shorter:
            log.info("%s went further than this run is to go: starting anew", path)
            return State()
        state.finished = share_done(state, all_steps, settings) >= 1
        if not state.finished and len(state.history) * epoch_steps > state.step:
            state.history.pop()  # of an epoch that time cut short, and that now goes on
    for name, part in learner.parts().items():
        part.load_state_dict(found[name])
    share = of_the_time(share_done(state, all_steps, settings), settings)
    log.info("%s: going on after epoch %d, step %d%s", path, len(state.history), state.step, share)
    return state


def ends(settings: Train) -> dict[str, Any]:
    """When a run is over."""
    return settings.model_dump(mode="json", include=set(WHEN_IT_ENDS))


def save_checkpoint(
    path: Path, state: State, identity: str, settings: Train, learner: Learner
) -> None:
    """All that ``resume`` needs."""
    known = {
        "format": FORMAT,
        "identity": identity,
        "ends": ends(settings),
        "state": vars(state),
    }
    parts = {name: part.state_dict() for name, part in learner.parts().items()}
    checkpoint.save(path, known | parts)


def save_model(
    path: Path, network: nn.Module, plan: Plan, settings: Train, fold: int, chosen: str = ""
) -> None:
    """One file with all that prediction needs: weights, plan, settings, versions."""
    write_state(
        path,
        {
            "weights": {name: value.cpu() for name, value in network.state_dict().items()},
            "plan": plan.model_dump(mode="json"),
            "train": settings.model_dump(mode="json"),
            "fold": fold,
            "chosen": chosen,
            "versions": versions(),
        },
    )
