"""Looking at a network while it trains: its Dice on whole volumes, for a small part of the time."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mist_core.config import Train
from mist_core.device import enough_memory, half_precision
from mist_core.parallel import Part
from mist_core.patches import TrainingCase
from mist_core.pictures import Picture, colour_of, fullest_slice, slice_picture, tile
from mist_core.plan import Plan
from mist_core.sliding import WindowGrid, sliding_window

SHARE = 0.05  # of the work of an epoch: half of what the time may be, which follows the work
LOOKS = 20  # at least so many in a run, if need be at fewer cases
OVERLAP = 0.25  # of neighbouring windows
STEP_IN_PASSES = 3  # a training step costs as much as three forward passes
WINDOW_BATCH = 2


@dataclass(frozen=True)
class Validation:
    """Which cases are looked at, and after how many epochs each time; 0: never."""

    cases: Sequence[TrainingCase]
    every: int
    settings: Train

    def is_due(self, epoch: int, finished: bool) -> bool:
        """Whether to look after an epoch, counted from 1; the last one is always looked at, where
        any is.
        """
        if self.every == 0 or (self.every > self.settings.epochs and not self.settings.takes_best):
            return False
        return finished or epoch % self.every == 0

    def whose(self) -> str:
        """What the cases are besides."""
        return "that were set aside" if self.settings.val_percent else "of the held-out fold"

    def in_words(self) -> str:
        """For the log."""
        if not self.is_due(0, finished=True):
            return "no epoch is validated: it would take too much of the time, or is switched off"
        use = "the best is the model" if self.settings.takes_best else "they choose no model"
        often = "every epoch" if self.every == 1 else f"every {self.every} epochs"
        n = f"{len(self.cases)} case{'s' if len(self.cases) > 1 else ''}"
        return f"validation of {n} {self.whose()}, {often}; {use}"


def validation_of(
    cases: Sequence[TrainingCase], plan: Plan, settings: Train, items_per_epoch: int
) -> Validation:
    """As often as ``validate_every`` says; or as it costs a twentieth of the training.

    The cost is counted in windows, not in seconds, so that the same run looks at the same cases in
    the same epochs wherever it runs. Where all cases would take so long that fewer than 20 looks
    remain, the first of them, in the order given, are taken.
    """
    if not cases or settings.validate_every == 0:
        return Validation([], 0, settings)
    if settings.validate_every != "auto":
        return Validation(cases, settings.validate_every, settings)
    costs = np.cumsum([n_windows(case, plan) for case in cases])
    budget = SHARE * STEP_IN_PASSES * items_per_epoch  # windows for an epoch
    rarest = 1 if settings.minutes else max(1, settings.epochs // LOOKS)
    every = min(math.ceil(costs[-1] / budget), rarest)
    count = int(np.searchsorted(costs, every * budget, side="right"))
    if count == 0:
        return Validation([cases[0]], math.ceil(costs[0] / budget), settings)
    return Validation([cases[i] for i in range(count)], every, settings)


def n_windows(case: TrainingCase, plan: Plan) -> int:
    """How many windows cover a case."""
    z, y, x = case.labels.shape
    return len(WindowGrid.over((z, y, x), plan.patch_size, OVERLAP).windows())


@enough_memory("Set train.validate_every to 0: validation takes whole volumes.")
@torch.inference_mode()
def look(
    network: nn.Module,
    cases: Sequence[TrainingCase],
    plan: Plan,
    settings: Train,
    device: torch.device,
    part: Part,
) -> tuple[NDArray[np.float64], Picture]:
    """Dice of each case and final class, (cases, R), NaN where a class is neither there nor found;
    and a picture of the first case.

    Voxels to be ignored count as background. Several processes share the cases; the first of them
    has the picture.
    """
    sums = torch.zeros((2, len(cases), len(plan.regions)), dtype=torch.float64)
    picture = np.zeros((1, 1, 3), np.uint8)
    for number in range(part.rank, len(cases), part.size):
        pairs = list(regions_of(network, cases[number], plan, settings, device))
        for region, (truth, found) in enumerate(pairs):
            sums[0, number, region] = 2 * (truth & found).sum()
            sums[1, number, region] = truth.sum() + found.sum()
        if number == 0:
            picture = picture_of(cases[0], pairs, plan)
    overlaps, sizes = part.sum(sums.to(device)).cpu().numpy()
    with np.errstate(invalid="ignore"):
        dice: NDArray[np.float64] = overlaps / sizes
    return dice, picture


def regions_of(
    network: nn.Module, case: TrainingCase, plan: Plan, settings: Train, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """What is there and what the network finds of each final class, (Z, Y, X) each, on the training
    grid; nothing where voxels are to be ignored.
    """
    half = half_precision(settings.amp, device)
    with torch.autocast(device.type, half, enabled=half is not None):
        logits = sliding_window(
            network,
            case.image,
            plan.patch_size,
            overlap=OVERLAP,
            device=device,
            batch_size=WINDOW_BATCH,
        )
    labels = torch.tensor(np.asarray(case.labels).astype(np.int64), device=device)
    values = plan.dataset_info.labels
    known = labels < len(values)
    strongest = None if settings.regions else logits.argmax(dim=0)
    for region, members in enumerate(plan.regions.values()):
        # The index after the last is that of what is to be ignored.
        inside = torch.tensor([value in members for value in values] + [False], device=device)
        found = logits[region] > 0 if strongest is None else inside[strongest]
        yield inside[labels], found & known


def picture_of(case: TrainingCase, pairs: Sequence[tuple[Tensor, Tensor]], plan: Plan) -> Picture:
    """The axial slice of a case with most of what is there, beside it what was found."""
    drawn = []
    for kind in range(2):
        labels = np.zeros(case.labels.shape, np.int32)
        for number, pair in enumerate(pairs, start=1):
            labels[pair[kind].cpu().numpy()] = number
        drawn.append(labels)
    z = fullest_slice(drawn[0])
    # The first channel that there is: one that the case lacks is zeros.
    slices = np.asarray(case.image[:, z], np.float32)
    image = next((each for each in slices if each.any()), slices[0])
    low, high = np.percentile(np.nan_to_num(image), [1, 99.5]).tolist()
    spacing = plan.target_spacing_mm[1:]
    cells = [slice_picture(image, labels[z], spacing, (low, high)) for labels in drawn]
    legend = {name: colour_of(number) for number, name in enumerate(plan.regions, start=1)}
    return tile({case.id: cells}, ["reference", "prediction"], legend)
