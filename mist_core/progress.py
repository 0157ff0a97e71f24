"""What a user sees while a run is at work, and when a part of it fails.

Snakemake prints a block of lines for every job, which nobody reads when there are hundreds. Here
one line stands for the whole run, and a failure is told with its cause and a way out.
"""

import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import get_terminal_size
from typing import Any, TextIO

from mist_core.cli import STOPPED, failures
from mist_core.files import read_json

TICK_SECONDS = 1.0
LINE_SECONDS = 60.0  # between lines where they are not drawn over each other
LARGEST_TAIL = 100_000  # bytes at the end of a log that are searched
STAGES = (
    *("fingerprint", "describe", "preprocess", "train", "predict", "ensemble", "postprocess"),
    "evaluate",
)
UNIT = {"train": " epochs"}  # the other stages count cases
LOG_LINE = re.compile(r"\d\d:\d\d:\d\d ")  # as cli.run lets a script write
LAST_LINES = 10
ENDED_BADLY = re.compile(r"returned non-zero exit status|died with <Signals")
CASE = re.compile(r"^  case (.+?): ", re.MULTILINE)
OF_THE_TIME = rb"(?:.*?\((\d+) % of the time\))?"
EPOCH = re.compile(rb"\bepoch (\d+)" + OF_THE_TIME)
RESUMED = re.compile(rb"after epoch (\d+)" + OF_THE_TIME)

KILLED = "killed before it could say why, most often for want of memory (exit code 137)."
LOWER = {
    "train": "Lower train.batch_size or analyze.patch_size, or free some memory",
    "predict": "Lower predict.window_batch, or free some memory",
}
MORE_MEMORY = "run fewer jobs at once (--cores), or ask a cluster for more (--set-resources"
PROGRAM_AT_FAULT = "A fault of the program and not of the data: please report it."


@dataclass(frozen=True)
class Work:
    """What a job does: ``units`` are epochs in training, cases elsewhere."""

    stage: str
    units: int


@dataclass(frozen=True)
class Job:
    """A job at work, and where it writes."""

    name: str
    work: Work
    log: Path | None
    outputs: list[Path]

    def said(self) -> bytes:
        """The end of its log; nothing where there is none, or none that can be read."""
        if self.log:
            with suppress(OSError), self.log.open("rb") as stream:
                stream.seek(max(0, self.log.stat().st_size - LARGEST_TAIL))
                return stream.read()
        return b""

    def epochs(self) -> tuple[int, int]:
        """Epochs that a training has done, and those of them that it found done; where time ends
        it, their share of the time as epochs.
        """
        text = self.said()
        done, found = (self._last(pattern.findall(text)) for pattern in (EPOCH, RESUMED))
        return done, found

    def _last(self, matches: list[tuple[bytes, bytes]]) -> int:
        epoch, percent = matches[-1] if matches else (b"0", b"")
        return self.work.units * int(percent) // 100 if percent else int(epoch)


class Progress(logging.Handler):
    """Takes Snakemake's log records; writes one line for the whole run, and what failed.

    ``work_of(job)`` says what a job of Snakemake does, or None where it is not counted;
    ``waiting()`` yields that of all jobs that are not finished, those at work included.
    """

    def __init__(
        self,
        work_of: Callable[[Any], Work | None],
        waiting: Callable[[], Iterable[Work]],
        stream: TextIO,
    ) -> None:
        super().__init__()
        self.work_of, self.waiting, self.stream = work_of, waiting, stream
        self.jobs: dict[int, Job] = {}
        self.done: Counter[str] = Counter()
        self.to_do: Counter[str] = Counter()
        self.seconds: dict[str, float] = {}  # that any job of a stage was at work
        self.pace: dict[str, float] = {}  # seconds for each case of a stage
        self.failed: dict[int, str] = {}
        self.failed_cases: dict[str, str] = {}
        self.finished = 0
        self.started = self.ticked = self.counted = self.printed = 0.0
        self.drawn = False
        self.over = threading.Event()

    def passes(self, record: logging.LogRecord) -> bool:
        """Whether Snakemake's own handler is to print this as well: a filter for it."""
        if not self.started:
            return True
        if record.levelno < logging.WARNING or event_of(record) == "job_error":
            return False
        if ENDED_BADLY.search(record.getMessage()):  # job_error says why
            return False
        self.clear()
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Follow the events of jobs."""
        try:
            self.follow(record)
        except Exception:  # raised in a thread of Snakemake, it would hang the run
            self.handleError(record)

    def follow(self, record: logging.LogRecord) -> None:
        """Take note of one event."""
        event = event_of(record)
        if event == "run_info" and not self.started:
            self.begin()
        elif event == "job_info":
            self.begin_job(record)
        elif event == "job_finished":
            self.end_job(record.__dict__["job_id"])
        elif event == "job_error":
            self.fail_job(record)

    def begin(self) -> None:
        """Start the clock."""
        self.started = self.ticked = time.monotonic()
        threading.Thread(target=self.tick, daemon=True).start()

    def begin_job(self, record: Any) -> None:
        """Note what is at work now."""
        work = self.work_of(record)
        wildcards = ", ".join(f"{k} {v}" for k, v in record.wildcards.items() if v)
        self.jobs[record.jobid] = Job(
            f"{record.rule_name} {wildcards}".strip(),
            work or Work(record.rule_name, 0),
            Path(record.log[0]) if record.log else None,
            [Path(path) for path in record.output],
        )
        self.failed.pop(record.jobid, None)  # another try
        self.count()

    def end_job(self, number: int) -> None:
        """Count what was done, and tell which cases failed."""
        job = self.jobs.pop(number, None)
        if job is None:
            return
        self.finished += 1
        self.done[job.work.stage] += job.work.units
        self.to_do[job.work.stage] -= job.work.units
        if done := self.done[job.work.stage]:
            self.pace[job.work.stage] = self.seconds.get(job.work.stage, 0.0) / done
        for path in job.outputs:
            made = read_json(path) if path.suffix == ".json" and path.exists() else None
            if not isinstance(made, dict) or "folder" not in made:  # not a manifest
                continue
            for case, error in failures(made).items():
                if self.failed_cases.get(case) != error:
                    self.failed_cases[case] = error
                    self.say(f"case {case} failed in {job.name}: {error}")

    def fail_job(self, record: Any) -> None:
        """Tell what failed, why, and what to do."""
        job = self.jobs.pop(record.jobid, None)
        if job is None:
            return
        reason = cause(job)
        cases = CASE.findall(reason)
        if cases and set(cases) <= self.failed_cases.keys():  # told when it happened
            return
        text = f"{job.name} failed: {reason}"
        text += f"\n  log: {', '.join(record.log)}" if record.log else ""
        text += "".join(f"\n  {name}: {value}" for name, value in record.aux.items())
        self.failed[record.jobid] = text
        self.say(text)

    def count(self) -> None:
        """Ask what is still to do, which checkpoints change."""
        if time.monotonic() - self.counted > TICK_SECONDS:
            self.to_do.clear()
            for work in self.waiting():
                self.to_do[work.stage] += work.units
            self.counted = time.monotonic()

    def tick(self) -> None:
        """Keep the line fresh until the run is over."""
        while not self.over.wait(TICK_SECONDS):
            with self.lock:  # type: ignore[union-attr]
                self.show(time.monotonic())

    def show(self, now: float) -> None:
        """Draw the line, or print it where lines cannot be drawn over each other."""
        for stage in {job.work.stage for job in self.jobs.values()}:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self.ticked
        self.ticked = now
        if not self.jobs:
            return
        if self.stream.isatty():
            width = get_terminal_size().columns - 1
            self.stream.write(f"\r{self.line()[:width]}\x1b[K")
            self.stream.flush()
            self.drawn = True
        elif (not self.printed or now - self.printed >= LINE_SECONDS) and (line := self.line()):
            self.printed = now
            self.say(line)

    def line(self) -> str:
        """What is done of what is at work, what comes then, and how long all will take."""
        epochs = [job.epochs() for job in self.jobs.values() if job.work.stage == "train"]
        partly = Counter(train=sum(done for done, _ in epochs))
        before = Counter(train=sum(found for _, found in epochs))
        at_work, later, left, known = [], [], 0.0, True
        for stage in STAGES:
            done = self.done[stage] + partly[stage]
            to_do = self.to_do[stage] - partly[stage]
            if to_do <= 0:
                continue
            if stage == "train" and done > before[stage]:
                left += to_do * self.seconds.get(stage, 0.0) / (done - before[stage])
            elif stage in self.pace:
                left += to_do * self.pace[stage]
            else:
                known = False
            if done or any(job.work.stage == stage for job in self.jobs.values()):
                at_work.append(f"{stage} {done}/{done + to_do}{UNIT.get(stage, '')}")
            else:
                later.append(stage)
        others = {job.work.stage for job in self.jobs.values()} - set(STAGES)
        parts = [*at_work, *sorted(others)]
        parts += [f"then {', '.join(later)}"] if later else []
        parts += [f"{'about' if known else 'more than'} {duration(left)} left"] if left else []
        return " | ".join(parts)

    def say(self, text: str) -> None:
        """A line that stays."""
        self.clear()
        self.stream.write(f"{time.strftime('%H:%M:%S')} {text}\n")
        self.stream.flush()

    def clear(self) -> None:
        """Make room for words."""
        if self.drawn:
            self.stream.write("\r\x1b[K")
            self.drawn = False

    def close(self) -> None:
        """The end of the run."""
        if self.started and not self.over.is_set():
            self.over.set()
            with self.lock:  # type: ignore[union-attr]
                self.say(f"{self.finished} jobs in {duration(time.monotonic() - self.started)}")
        super().close()


def event_of(record: logging.LogRecord) -> str:
    """The kind of a record of Snakemake."""
    return str(getattr(record, "event", ""))


def cause(job: Job) -> str:
    """Why a job failed, as its log says, and what can be done."""
    text = job.said().decode(errors="replace")
    if found := list(re.finditer(r"^ERROR: ", text, re.MULTILINE)):
        return text[found[-1].end() :].strip()
    if found := list(re.finditer(r"^Traceback ", text, re.MULTILINE)):
        return f"{PROGRAM_AT_FAULT}\n{text[found[-1].start() :].strip()}"
    lines = text.splitlines()
    if lines and lines[-1].endswith(STOPPED):
        return STOPPED
    if lines and not LOG_LINE.match(lines[-1]):
        return "\n".join(["its log ends with", *lines[-LAST_LINES:]])
    stage = job.work.stage
    remedy = LOWER.get(stage, "Free some memory")
    return f"{KILLED} {remedy}, {MORE_MEMORY} {stage}:mem_mb=64000)."


def duration(seconds: float) -> str:
    """A time in words, as exactly as a reader needs it."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 10:
        return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def follow(
    logger: logging.Logger,
    work_of: Callable[[Any], Work | None],
    waiting: Callable[[], Iterable[Work]],
) -> None:
    """Show the progress of the run whose words go to ``logger``, in place of most of them."""
    for handler in logger.handlers:
        # Snakemake's own way to the terminal; where a user chose another, it stays as it is.
        if handler.name == "DefaultStreamHandler" and isinstance(handler, logging.StreamHandler):
            progress = Progress(work_of, waiting, handler.stream)
            handler.addFilter(progress.passes)
            logger.addHandler(progress)
            return


def show_failures(logger: logging.Logger) -> None:
    """Say once more, at the end of a run, what failed in it."""
    for handler in logger.handlers:
        if isinstance(handler, Progress):
            handler.clear()
            failed = [*handler.failed.values()]
            failed += [f"case {case}: {error}" for case, error in handler.failed_cases.items()]
            if failed:
                lines = "\n".join(f"  {text.splitlines()[0]}" for text in failed)
                handler.stream.write(
                    f"\nFailed:\n{lines}\n"
                    "All that does not depend on it was done. Mend it and give the same command: "
                    "it goes on from here.\n"
                )
