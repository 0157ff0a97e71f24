"""From arrays on disk to batches on the device, in the order of the steps.

What a batch holds follows from the seed, the fold, the step and the numbers of its items alone:
not from how many processes read, nor from where a run was stopped.
"""

import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from mist_core.augment import Changes, Recipe, augment, draw, reach, recipe_for
from mist_core.config import Train
from mist_core.device import MEMORY_FORMAT
from mist_core.errors import DataError
from mist_core.parallel import Part
from mist_core.patches import Batch, Piece, TrainingCase, draw_case, draw_pieces
from mist_core.plan import Plan

DRAW, AUGMENT = 0, 1  # what a random stream is for
MOST_WORKERS = 8
IN_MEMORY = 0.5  # share of the memory that the arrays may take, to stay there once read


@dataclass(frozen=True)
class Draws(Dataset[list[Piece] | DataError]):
    """The pieces of a run's batches by number: ``settings.accumulate`` of them make a step.

    A case that cannot be read gives the error in place of a batch: from a process that reads it
    would arrive as a traceback.
    """

    cases: Sequence[TrainingCase]
    plan: Plan
    settings: Train
    fold: int
    part: Part

    def __getitem__(self, number: int) -> list[Piece] | DataError:
        step, items = self.step_and_items(number)
        size, spacing = self.plan.patch_size, self.plan.target_spacing_mm
        reaches = [reach(changes, size, spacing) for changes in self.changes(number)]
        chance, seed = self.settings.foreground_probability, self.seed(step, DRAW)
        try:
            return draw_pieces(self.cases, items, size, chance, seed, reaches)
        except DataError as error:
            return error

    def step_and_items(self, number: int) -> tuple[int, range]:
        """The step that a batch is of, and the numbers of its items within the step."""
        step, turn = divmod(number, self.settings.accumulate)
        size = self.settings.batch_size
        first = turn * self.part.size * size
        return step, range(first + self.part.rank * size, first + (self.part.rank + 1) * size)

    def seed(self, step: int, purpose: int) -> tuple[int, ...]:
        """Of the random numbers of a step."""
        return (self.settings.seed, self.fold, step, purpose)

    @cached_property
    def recipe(self) -> Recipe:
        """How patches are changed."""
        return recipe_for(self.settings, self.plan)

    def changes(self, number: int) -> list[Changes]:
        """What happens to each item of a batch."""
        step, items = self.step_and_items(number)
        seeds = [[*self.seed(step, AUGMENT), item] for item in items]
        channels, spacing = self.plan.model.in_channels, self.plan.target_spacing_mm
        return [draw(self.recipe, channels, spacing, np.random.default_rng(s)) for s in seeds]

    def batch(self, pieces: Sequence[Piece], number: int, device: torch.device) -> Batch:
        """The patches of a batch, changed, on the device, images as a network likes them to lie."""
        there = [on_device(piece, device) for piece in pieces]
        size, spacing = self.plan.patch_size, self.plan.target_spacing_mm
        batch = augment(there, self.changes(number), self.recipe, size, spacing)
        return batch._replace(images=batch.images.contiguous(memory_format=MEMORY_FORMAT))

    def names(self, step: int) -> list[str]:
        """The cases of the items of a step, as they were drawn."""
        n_items = self.part.size * self.settings.accumulate * self.settings.batch_size
        seeds = [[*self.seed(step, DRAW), item] for item in range(n_items)]
        return [draw_case(self.cases, np.random.default_rng(seed)).id for seed in seeds]


def pieces_of(draws: Draws, first: int, last: int, device: torch.device) -> Generator[list[Piece]]:
    """What the batches of the steps from ``first`` to before ``last`` are made of, on the host.

    The processes that read, if there are any, live until the iterator is closed. Raises DataError
    where a case cannot be read, or such a process is killed.
    """
    each = draws.settings.accumulate
    loader = DataLoader(
        draws,
        sampler=range(first * each, last * each),
        batch_size=None,
        num_workers=workers(draws),
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # not the global one, of which networks may draw
        collate_fn=list_or_error,
    )
    try:
        for pieces in loader:
            if isinstance(pieces, DataError):
                raise pieces
            yield pieces
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(
            f"train.workers: expected the processes that read patches to live, found one killed, "
            f"most often for want of memory ({error}). Lower train.workers; 0 needs none."
        ) from error


def list_or_error(pieces: list[Piece] | DataError) -> list[Piece] | DataError:
    """What was read, as it is."""
    return pieces


def on_device(piece: Piece, device: torch.device) -> Piece:
    """A copy where the network is, or on the CPU the piece itself."""
    image, labels, maps, corner = piece
    return Piece(
        image.to(device, non_blocking=True),
        labels.to(device, non_blocking=True),
        None if maps is None else maps.to(device, non_blocking=True),
        corner,
    )


def workers(draws: Draws) -> int:
    """Processes that read: as set; none where the arrays stay in memory once they were read.

    A copy from memory costs less than handing a patch from process to process.
    """
    if draws.settings.workers != "auto":
        return draws.settings.workers
    if sum(case.n_bytes for case in draws.cases) <= IN_MEMORY * memory_bytes():
        return 0
    return min(MOST_WORKERS, max(1, torch.get_num_threads() - 1))


def memory_bytes() -> int:
    """Memory of the computer, or what a control group leaves of it to this process."""
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return min(whole, int(text)) if text.isdigit() else whole
