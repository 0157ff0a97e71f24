"""What is seen of a training from outside: log lines, history.csv, TensorBoard."""

import logging
import time
from pathlib import Path
from typing import Any, Self

from torch.utils.tensorboard import SummaryWriter

from mist_core.config import Train
from mist_core.files import write_rows
from mist_core.pictures import Picture

log = logging.getLogger(__name__)
LONGEST_WAIT = 0.05  # share of the time without a word


class Records:
    """The records of a run, whose earlier epochs are in ``history``; to be used in a ``with``."""

    def __init__(self, logs: Path, history: list[dict[str, Any]], settings: Train) -> None:
        self.logs, self.history, self.settings = logs, history, settings
        # What a run wrote after the checkpoint from which this one goes on is made again.
        self.board = SummaryWriter(str(logs), purge_step=len(history) + 1)
        self.warned = False

    def add(self, record: dict[str, Any], done: float, seconds_left: float) -> None:
        """Write down an epoch; ``done`` is the share of the run up to its end."""
        self.history.append(record)
        columns = list(dict.fromkeys(name for each in self.history for name in each))
        write_rows(self.logs / "history.csv", columns, self.history)
        for name in record.keys() - {"epoch"}:
            self.board.add_scalar(name, record[name], record["epoch"])
        log.info("%s", self.line(record, done, seconds_left))
        if record["waiting"] > LONGEST_WAIT and not self.warned:
            self.warned = True
            log.warning(
                "WARNING: the network waits %.0f %% of the time for patches to be read: raise "
                "train.workers (%s now), or put the arrays on a faster disk",
                *(100 * record["waiting"], self.settings.workers),
            )

    def show(self, name: str, picture: Picture, epoch: int) -> None:
        """A picture (height, width, 3) for TensorBoard."""
        self.board.add_image(name, picture, epoch, dataformats="HWC")

    def line(self, record: dict[str, Any], done: float, seconds_left: float) -> str:
        """An epoch in one line."""
        words = [
            f"epoch {record['epoch']}/{self.settings.epochs}{of_the_time(done, self.settings)}",
            f"loss {record['loss']:.4f}",
            *([f"Dice {record['dice']:.4f}"] if "dice" in record else []),
            f"lr {record['learning_rate']:.2e}",
            f"{record['patches_per_second']:.2f} patches/s",
            f"waiting {record['waiting']:.1%}",
            f"{_clock(seconds_left)} left",
        ]
        return "  ".join(words)

    def __enter__(self) -> Self:
        """Nothing is left to open."""
        return self

    def __exit__(self, *failure: object) -> None:
        """Write what is still in memory, and end the thread that writes, also of a failed run."""
        self.board.close()


def of_the_time(done: float, settings: Train) -> str:
    """How far a run is that time ends; progress.py reads it."""
    return f" ({100 * done:.0f} % of the time)" if settings.minutes else ""


def _clock(seconds: float) -> str:
    days, rest = divmod(round(seconds), 24 * 3600)
    return f"{days} d " * (days > 0) + time.strftime("%H:%M:%S", time.gmtime(rest))
