"""How every script starts, how it fails, and how one job works ahead for the next.

Every case is a job of its own, so that reruns, logs and failures are exact. But starting Python
and its libraries costs more than the work on a small case. So a job also does cases that are still
to come (``--ahead``) and leaves them in a hand-over folder, where their own jobs pick them up
without loading anything. What is handed over carries a key of all that it was made from; a job
takes it only if the key is its own.
"""

import argparse
import fcntl
import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mist_core.errors import DataError

log = logging.getLogger(__name__)
_claimed: list[IO[str]] = []  # open files: closing one would give up its folder


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the script's docstring."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )


def case_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser for a script that works on cases one by one."""
    p = parser(description)
    p.add_argument("--case", nargs="+", required=True, help="ids of the cases to do")
    p.add_argument("--output", type=Path, required=True, help="folder for what is made")
    p.add_argument("--ahead", nargs="*", default=[], help="ids to do ahead if still to be done")
    p.add_argument("--handover", type=Path, help="where to leave what was done ahead")
    return p


def run(main: Callable[[], None]) -> None:
    """Run a script: DataError becomes one line and exit code 1, a bug keeps its traceback."""
    logging.basicConfig(
        format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO, stream=sys.stderr
    )
    # ITK would start a thread for every core in each of the jobs that run side by side.
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit():
        os.environ.setdefault("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", threads)
    try:
        main()
    except DataError as error:
        sys.exit(f"ERROR: {error}")


def claim(*folders: str) -> None:
    """Let one run at a time write to these folders, until the process ends, however it ends.

    Snakemake's own lock (off in profiles/default) outlives a run that was killed.
    """
    for folder in dict.fromkeys(folders):
        Path(folder).mkdir(parents=True, exist_ok=True)
        stream = (Path(folder) / ".lock").open("w")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(
                f"ERROR: {folder}: expected no other run, found one at work. Wait for its end."
            )
        _claimed.append(stream)


def digest(*parts: Any) -> str:
    """A short key of JSON values and files; a Path stands for its size and time of change."""

    def plain(part: Any) -> Any:
        if isinstance(part, Path):
            if not part.exists():
                raise DataError(f"{part}: expected a file, found none. Make or restore it.")
            state = part.stat()
            return [str(part), state.st_size, state.st_mtime_ns]
        raise TypeError(f"expected JSON or a Path, got {type(part)}")

    text = json.dumps(parts, sort_keys=True, default=plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class CaseWork:
    """How one stage does a case.

    ``compute(case, folder)`` writes the files named by ``outputs(case)`` below a folder; ``key``
    stands for all that they are made from.
    """

    outputs: Callable[[str], Sequence[str]]
    key: Callable[[str], str]
    compute: Callable[[str, Path], None]


def do_cases(work: CaseWork, args: argparse.Namespace) -> None:
    """Do ``args.case``, each picked up if it was done ahead; then do cases ahead.

    A case that fails does not stop the others; all failures are raised together at the end. What
    fails ahead is left to its own job, which will say so in its own log.
    """
    failures: list[str] = []
    for case in args.case:
        try:
            with _claim(args.handover, case, wait=True):
                _finish(work, args, case)
        except DataError as error:
            failures.append(f"case {case}: {error}")
    for case in args.ahead if args.handover else []:
        try:
            with _claim(args.handover, case, wait=False) as claimed:
                if claimed and _to_be_done(work, args, case):
                    _do(work, case, _ready(args, case, work.key(case)))
                    log.info("done ahead: %s", case)
        except Exception:  # nothing is lost: the case's own job meets it again, and fails by name
            log.warning("not done ahead: %s", case, exc_info=True)
    if failures:
        raise DataError("\n".join(failures))


def _finish(work: CaseWork, args: argparse.Namespace, case: str) -> None:
    """Bring the outputs of a case into place, from the hand-over or by doing the work."""
    key = work.key(case)
    ready = _ready(args, case, key)
    names = work.outputs(case)
    if not all((ready / name).exists() for name in names):  # a killed job may have moved some
        _do(work, case, ready)
    for name in names:
        target = args.output / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (ready / name).replace(target)
    shutil.rmtree(ready.parent)  # with whatever was left there under other keys
    if args.handover:
        (args.handover / f"{case}.key").write_text(key)


def _ready(args: argparse.Namespace, case: str, key: str) -> Path:
    """Where the outputs of a case wait, whole, until its own job moves them into place."""
    home: Path = args.handover / f"{case}.ready" if args.handover else args.output / f".{case}"
    return home / key


def _do(work: CaseWork, case: str, folder: Path) -> None:
    """Compute a case into ``folder``, which appears only when it is whole."""
    unfinished = folder.with_name(f".{folder.name}")
    for left_by_a_killed_job in (unfinished, folder):
        shutil.rmtree(left_by_a_killed_job, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        for name in work.outputs(case):
            (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
        work.compute(case, unfinished)
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        if not folder.exists():
            shutil.rmtree(folder.parent, ignore_errors=True)


def _to_be_done(work: CaseWork, args: argparse.Namespace, case: str) -> bool:
    """Whether a case's own job is still to come, as far as can be told: a hint, never a rule."""
    key = work.key(case)
    if _ready(args, case, key).is_dir():
        return False
    last = args.handover / f"{case}.key"
    done = all((args.output / name).exists() for name in work.outputs(case))
    return not (done and last.exists() and last.read_text() == key)


@contextmanager
def _claim(handover: Path | None, case: str, wait: bool) -> Iterator[bool]:
    """Lock one case of a stage; yields whether it was free. The kernel unlocks it on any death."""
    if handover is None:
        yield True
        return
    handover.mkdir(parents=True, exist_ok=True)
    with (handover / f"{case}.lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
