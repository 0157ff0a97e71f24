"""Looking at a network while it trains: its Dice on whole volumes, for a small part of the time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mist_core.config import Train
from mist_core.parallel import Part
from mist_core.patches import TrainingCase, sliding_window, windows
from mist_core.pictures import Picture, colour_of, fullest_slice, slice_picture, tile
from mist_core.plan import Plan

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

    def is_due(self, epoch: int, settings: Train) -> bool:
        """Whether to look after an epoch, counted from 1."""
        last = epoch == settings.epochs
        return 0 < self.every <= settings.epochs and (last or epoch % self.every == 0)

    def whose(self, settings: Train) -> str:
        """What the cases are besides."""
        return "that were set aside" if settings.val_percent else "of the held-out fold"

    def in_words(self, settings: Train) -> str:
        """For the log."""
        if not 0 < self.every <= settings.epochs:
            return "no epoch is validated: it would take too much of the time, or is switched off"
        use = "the best is the model" if settings.takes_best else "no model is chosen by them"
        often = "every epoch" if self.every == 1 else f"every {self.every} epochs"
        return f"validation of {len(self.cases)} cases {self.whose(settings)} {often}; {use}"


def validation_of(
    cases: Sequence[TrainingCase], plan: Plan, settings: Train, items_per_epoch: int
) -> Validation:
    """As often as ``validate_every`` says; or as it costs a twentieth of the training.

    The cost is counted in windows, not in seconds, so that the same run looks at the same cases in
    the same epochs wherever it runs. Where all cases would take so long that fewer than 20 looks
    remain, the first of them, in the order given, are taken.
    """
    if not cases or settings.validate_every == 0:
        return Validation([], 0)
    if settings.validate_every != "auto":
        return Validation(cases, settings.validate_every)
    costs = np.cumsum([n_windows(case, plan) for case in cases])
    budget = SHARE * STEP_IN_PASSES * items_per_epoch  # windows for an epoch
    rarest = 1 if settings.minutes else max(1, settings.epochs // LOOKS)
    every = min(math.ceil(costs[-1] / budget), rarest)
    count = int(np.searchsorted(costs, every * budget, side="right"))
    if count == 0:
        return Validation([cases[0]], math.ceil(costs[0] / budget))
    return Validation([cases[i] for i in range(count)], every)


def n_windows(case: TrainingCase, plan: Plan) -> int:
    """How many windows cover a case."""
    padded = tuple(max(n, p) for n, p in zip(case.labels.shape, plan.patch_size, strict=True))
    return sum(1 for _ in windows(padded, plan.patch_size, OVERLAP))


@torch.inference_mode()
def predicted_regions(
    network: nn.Module, case: TrainingCase, plan: Plan, settings: Train, device: torch.device
) -> NDArray[np.bool_]:
    """What the network finds of each final class, (R, Z, Y, X), on the training grid."""
    image = torch.tensor(np.asarray(case.image), device=device, dtype=torch.float32)
    logits = sliding_window(
        network, image, plan.patch_size, overlap=OVERLAP, batch_size=WINDOW_BATCH
    )
    found: Tensor
    if settings.regions:
        found = logits > 0
    else:
        table = torch.from_numpy(_table(plan)).to(device)
        found = table[:, logits.argmax(dim=0)]
    regions: NDArray[np.bool_] = found.cpu().numpy()
    return regions


def true_regions(case: TrainingCase, plan: Plan) -> NDArray[np.bool_]:
    """What is there of each final class, (R, Z, Y, X)."""
    unknown = np.zeros((len(plan.regions), 1), bool)  # the index after the last, to be ignored
    regions: NDArray[np.bool_] = np.concatenate([_table(plan), unknown], axis=1)[:, case.labels]
    return regions


def _table(plan: Plan) -> NDArray[np.bool_]:
    labels = plan.dataset_info.labels
    return np.array([[label in members for label in labels] for members in plan.regions.values()])


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
    picture = np.zeros((1, 1, 3), np.uint8)
    counts = torch.zeros((len(cases), len(plan.regions), 2), dtype=torch.float64)
    for number in range(part.rank, len(cases), part.size):
        case = cases[number]
        known = np.asarray(case.labels) < len(plan.dataset_info.labels)
        found = predicted_regions(network, case, plan, settings, device) & known
        truth = true_regions(case, plan)
        if number == 0:
            picture = picture_of(case, truth, found, plan)
        axes = (1, 2, 3)
        counts[number, :, 0] = torch.from_numpy(2 * (found & truth).sum(axes))
        counts[number, :, 1] = torch.from_numpy(found.sum(axes) + truth.sum(axes))
    overlaps, sizes = part.sum(counts.to(device)).cpu().numpy().transpose(2, 0, 1)
    with np.errstate(invalid="ignore"):
        dice: NDArray[np.float64] = overlaps / sizes
    return dice, picture


def picture_of(
    case: TrainingCase, truth: NDArray[np.bool_], found: NDArray[np.bool_], plan: Plan
) -> Picture:
    """The axial slice of a case with most of the truth (R, Z, Y, X), beside it what was found."""
    image = np.asarray(case.image[0], np.float32)
    numbers = np.arange(1, len(truth) + 1)[:, None, None, None]
    z = fullest_slice((truth * numbers).max(0))
    window = tuple(np.percentile(image[z], [1, 99.5]).tolist())
    cells = [
        slice_picture(image[z], (regions * numbers).max(0)[z], plan.target_spacing_mm[1:], window)
        for regions in (truth, found)
    ]
    legend = {name: colour_of(number) for number, name in enumerate(plan.regions, start=1)}
    return tile({case.id: cells}, ["reference", "prediction"], legend)
