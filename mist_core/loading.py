"""From arrays on disk to batches on the device, in the order of the steps.

What a batch holds follows from the seed, the fold, the step and the numbers of its items alone:
not from how many processes read, nor from where a run was stopped.
"""

import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from mist_core.config import Train
from mist_core.device import MEMORY_FORMAT
from mist_core.errors import DataError
from mist_core.parallel import Part
from mist_core.patches import Batch, TrainingCase, draw_batch, draw_case
from mist_core.plan import Plan

DRAW, AUGMENT = 0, 1  # what a random stream is for
MOST_WORKERS = 8
IN_MEMORY = 0.5  # share of the memory that the arrays may take, to stay there once read


@dataclass(frozen=True)
class Draws(Dataset[Batch | DataError]):
    """The batches of a run by number: ``settings.accumulate`` of them make a step.

    A case that cannot be read gives the error in place of a batch: from a process that reads it
    would arrive as a traceback.
    """

    cases: Sequence[TrainingCase]
    plan: Plan
    settings: Train
    fold: int
    part: Part

    def __getitem__(self, number: int) -> Batch | DataError:
        step, items = self.step_and_items(number)
        try:
            return draw_batch(
                self.cases,
                items,
                self.plan.patch_size,
                self.settings.foreground_probability,
                self.seed(step, DRAW),
            )
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

    def generators(self, number: int) -> list[np.random.Generator]:
        """What each item of a batch is augmented by."""
        step, items = self.step_and_items(number)
        return [np.random.default_rng([*self.seed(step, AUGMENT), item]) for item in items]

    def names(self, step: int) -> list[str]:
        """The cases of the items of a step, as they were drawn."""
        n_items = self.part.size * self.settings.accumulate * self.settings.batch_size
        seeds = [[*self.seed(step, DRAW), item] for item in range(n_items)]
        return [draw_case(self.cases, np.random.default_rng(seed)).id for seed in seeds]


def batches(draws: Draws, first: int, last: int, device: torch.device) -> Generator[Batch]:
    """The batches of the steps from ``first`` to before ``last``, not augmented, on the device.

    The processes that read, if there are any, live until the iterator is closed. Raises DataError
    where a case cannot be read, or such a process is killed.
    """
    each = draws.settings.accumulate
    loader = DataLoader(
        draws,
        sampler=range(first * each, last * each),
        batch_size=None,
        num_workers=workers(draws, device),
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # not the global one, of which networks may draw
    )
    try:
        for batch in loader:
            if isinstance(batch, DataError):
                raise batch
            yield on_device(batch, device)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DataError(
            f"train.workers: expected the processes that read patches to live, found one killed, "
            f"most often for want of memory ({error}). Lower train.workers; 0 needs none."
        ) from error


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The batch where the network is, images as it likes them to lie."""
    images, labels, maps = batch
    return Batch(
        images.to(device, memory_format=MEMORY_FORMAT, non_blocking=True),
        labels.to(device, non_blocking=True),
        None if maps is None else maps.to(device, non_blocking=True),
    )


def workers(draws: Draws, device: torch.device) -> int:
    """Processes that read: as set; none where the arrays stay in memory once they were read.

    A copy from memory costs less than handing a patch from process to process.
    """
    if draws.settings.workers != "auto":
        return draws.settings.workers
    if sum(case.n_bytes for case in draws.cases) <= IN_MEMORY * memory_bytes():
        return 0
    cores = len(os.sched_getaffinity(0))
    return min(MOST_WORKERS, max(1, cores // draws.part.size - 1))


def memory_bytes() -> int:
    """Memory of the computer, or what a control group leaves of it to this process."""
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return min(whole, int(text)) if text.isdigit() else whole
