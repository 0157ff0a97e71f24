"""How every script starts, how it fails, and how one job does many cases.

Starting Python and its libraries costs more than the work on a small case, so a job does a chunk
of cases. A rerun of the job does only those that changed: beside the files of a case lies a record
of all that they were made from. A case that fails does not cost the others their results: its
failure goes into the job's manifest, later stages pass it on, and the run fails by name at its end.
"""

import argparse
import ctypes
import fcntl
import hashlib
import json
import logging
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import IO, Any

from mist_core.errors import DataError
from mist_core.files import parts_of, read_json, read_rows, write_json

log = logging.getLogger(__name__)
LEFT_OUT = "left_out"  # in a manifest: a case that the plan leaves out, with the reason
STOPPED = "stopped: the same command goes on from here"
BACKGROUND = "cases"  # the name of threads that work beside the main one
LAST_CASE_S = 5.0  # that a case which is computed has to be written after Ctrl-C
_claimed: list[IO[str]] = []  # open files: closing one would give up its folder


program: str | None = None  # the command by which a script was called; none: its own name


class _WithDefaults(argparse.ArgumentDefaultsHelpFormatter):
    """Help that names defaults, where there are some."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the script's docstring."""
    return argparse.ArgumentParser(
        prog=program, description=description, formatter_class=_WithDefaults
    )


def case_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser for a script that works on cases one by one."""
    p = parser(description)
    p.add_argument("--case", nargs="+", required=True, help="ids of the cases to do")
    p.add_argument("--output", type=Path, required=True, help="folder for what is made")
    add_case_options(p)
    return p


def add_case_options(p: argparse.ArgumentParser) -> None:
    """The options by which the workflow follows what becomes of cases."""
    p.add_argument("--tracked", type=Path, nargs="*", default=[], help="sources to depend on")
    p.add_argument(
        "--after", type=Path, nargs="+", default=[], help="manifests of before: failures stay"
    )
    p.add_argument(
        "--manifest",
        type=Path,
        help="JSON to write: what became of each case; failures go there and not to the exit code",
    )


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
    except KeyboardInterrupt:
        log.info(STOPPED)
        if any(thread.name == BACKGROUND for thread in threading.enumerate()):
            os._exit(130)  # libraries that are at work in a thread do not end in order
        sys.exit(130)


def end_on_sigterm() -> None:
    """Let SIGTERM end a run as Ctrl-C does, once the scheduler is there.

    Snakemake's own handler waits for a lock that the code it interrupts may hold: for ever.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def claim(*folders: str) -> None:
    """Let one run at a time write to these folders, until the process ends, however it ends.

    Snakemake's own lock (off in profiles/default) outlives a run that was killed.
    """
    for folder in dict.fromkeys(folders):
        Path(folder).mkdir(parents=True, exist_ok=True)
        stream = (Path(folder) / ".lock").open("a+")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            sys.exit(
                f"ERROR: {folder}: expected no other run, found one at work (process "
                f"{stream.read().strip()}). Wait for its end, or choose another folder."
            )
        stream.truncate(0)
        stream.write(f"{os.getpid()} on {socket.gethostname()}")
        stream.flush()
        _claimed.append(stream)


def show_summary(results: str) -> None:
    """Print at the end of a run: the table of its results, where to look, what was left out."""
    path, lock = Path(results) / "summary.txt", Path(results) / ".lock"
    # The lock was written when the run began: an older summary is of other results.
    if path.exists() and path.stat().st_mtime >= lock.stat().st_mtime:
        sys.stdout.write(f"\n{path.read_text()}\nReport: {path.with_name('report.html')}\n")
        for name, words in _choices(Path(results)).items():
            sys.stdout.write(f"{name}: {words}\n")
    for name, reason in _left_out(Path(results)).items():
        sys.stdout.write(f"Left out: {name}: {reason}\n")


def _choices(results: Path) -> dict[str, str]:
    """What was chosen by ``postprocess: auto`` of those that are ranked, in words."""
    ranking = results / "rank/ranking.csv"
    ranked = sorted(row["strategy"] for row in read_rows(ranking)) if ranking.exists() else []
    places = {name: results / Path(name).parent / "postprocess/auto/choice.json" for name in ranked}
    return {
        name: read_json(path)["sentence"]
        for name, path in places.items()
        if name.endswith("/auto") and path.exists()
    }


def _left_out(results: Path) -> dict[str, str]:
    """The training cases that the plan leaves out, and the cases that a run left out, and why."""
    named: dict[str, str] = {}
    for path in (results / "done/tests.json", results / "done/cases.json"):
        states = read_json(path)["cases"] if path.exists() else {}
        named |= {c: state[LEFT_OUT] for c, state in states.items() if LEFT_OUT in state}
    plan = results / "config.json"  # newer than the others, where a run ended with it
    return named | (read_json(plan).get("left_out", {}) if plan.exists() else {})


@contextmanager
def alone(path: Path) -> Iterator[int]:
    """Wait until no other process makes ``path``.

    A job can outlive the run that started it; the same job of the next run then waits for it. The
    kernel ends the wait however the other ends. Yields the descriptor of the lock, for processes
    that make ``path`` together.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(f".{path.name}.lock").open("w")
    except OSError as error:
        raise DataError(
            f"{path}: expected a place to write to, found {error.strerror}. Choose another."
        ) from error
    if path.is_dir():
        raise DataError(f"{path}: expected the name of a file, found a folder. Name a file in it.")
    with lock as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("waiting for another process, perhaps of an earlier run, that makes %s", path)
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield stream.fileno()


def digest(*parts: Any) -> str:
    """A short key of JSON values and files; a Path stands for its size and time of change.

    A folder stands for all files in it.
    """

    def plain(part: Any) -> Any:
        if isinstance(part, Path):
            if not part.exists():
                raise DataError(f"{part}: expected a file, found none. Make or restore it.")
            states = [(path, path.stat()) for path in parts_of(part)]
            return [[str(path), state.st_size, state.st_mtime_ns] for path, state in states]
        raise TypeError(f"expected JSON or a Path, got {type(part)}")

    text = json.dumps(parts, sort_keys=True, default=plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class CaseWork:
    """How one stage does a case.

    ``compute(case, folder)`` writes the files named by ``outputs(case)`` below a folder; ``key``
    stands for all that they are made from. Files whose names begin with ``aside`` do not count for
    the stages that follow: they come from the others.

    With ``prepare(case)``, compute gets its result as a third argument; with ``finish(case, folder,
    computed)``, that gets what compute returned, and writes. Either runs in a thread while another
    case is computed: the next case is prepared, and the last is finished. No more of them are under
    way, since they are in memory. With ``anew`` cases that are done are done again.
    """

    outputs: Callable[[str], Sequence[str]]
    key: Callable[[str], str]
    compute: Callable[..., Any]
    aside: str | None = None
    prepare: Callable[[str], Any] | None = None
    finish: Callable[[str, Path, Any], None] | None = None
    anew: bool = False


def do_asked(
    work: CaseWork,
    args: argparse.Namespace,
    workers: int = 1,
    left_out: Mapping[str, str] | None = None,
    leave_out: bool = False,
) -> None:
    """``do_cases`` for the arguments of a ``case_parser``."""
    sources = [path.read_text(encoding="utf-8") for path in args.tracked]
    if sources:
        own = work.key
        work = replace(work, key=lambda case: digest(own(case), sources))
    manifest, after = args.manifest, args.after
    do_cases(work, args.case, args.output, manifest, after, workers, left_out, leave_out)


def again() -> str:
    """A word for this run if the user asked to make this script's stage again, else nothing.

    The workflow says so in MIST_AGAIN: what was made, and from what, is then no reason to keep it.
    """
    word, *stages = os.environ.get("MIST_AGAIN", "").split() or [""]
    return word if Path(sys.argv[0]).stem in stages else ""


def do_cases(
    work: CaseWork,
    cases: Sequence[str],
    output: Path,
    manifest: Path | None = None,
    after: Sequence[Path] = (),
    workers: int = 1,
    left_out: Mapping[str, str] | None = None,
    leave_out: bool = False,
) -> None:
    """Do those cases that are not done yet, or were done from something else.

    A case that fails does not stop the others, nor does one that failed, or was left out, in a job
    ``after`` which this one comes; ``left_out`` names those that are left out from here on,
    and why; with ``leave_out`` so are those that fail. What any of them left earlier is removed.
    With a manifest all failures are written there, else they are raised together at the end. What
    is no DataError is raised as it is, after the others were done. More than one worker: in
    processes, each of which does a case from its beginning to its end.
    """
    ended = {case: {LEFT_OUT: reason} for case, reason in (left_out or {}).items()}
    for manifest_before in after:
        ended |= without_files(read_json(manifest_before))
    to_do = [case for case in cases if case not in ended]
    with alone(manifest) if manifest else nullcontext():
        for case in ended.keys() & set(cases):
            _remove(output, case)
        if workers == 1 and (work.prepare or work.finish):
            states = _overlapped(work, output, to_do)
        else:
            each = _each(lambda case: _Steps(work, output, case).end(), to_do, workers)
            states = dict(zip(to_do, each, strict=True))
    for state in states.values():
        if isinstance(state, Exception):
            raise state
    if leave_out:
        states = {c: {LEFT_OUT: s["error"]} if "error" in s else s for c, s in states.items()}
    made = {"folder": str(output), "cases": {case: (states | ended)[case] for case in cases}}
    if manifest:
        write_json(manifest, made)
    elif failed := failures(made):
        raise DataError("\n".join(f"case {case}: {error}" for case, error in failed.items()))


def failures(made: dict[str, Any]) -> dict[str, str]:
    """Case to message, for the cases of a manifest that failed."""
    return {c: state["error"] for c, state in made["cases"].items() if "error" in state}


def without_files(made: dict[str, Any]) -> dict[str, Any]:
    """Case to state, for the cases of a manifest that failed or were left out."""
    return {
        case: {key: state[key] for key in ("error", LEFT_OUT) if key in state}
        for case, state in made["cases"].items()
        if "error" in state or LEFT_OUT in state
    }


def _each(function: Callable[[str], Any], cases: Sequence[str], workers: int) -> list[Any]:
    """``function`` of every case, in order."""
    if min(workers, len(cases)) <= 1:
        return [function(case) for case in cases]
    # Forked processes have the function; sent through a pipe, it would have to be importable.
    with ProcessPoolExecutor(
        workers, get_context("fork"), initializer=_inherit, initargs=(function, os.getpid())
    ) as pool:
        try:
            return list(pool.map(_call_inherited, cases))
        except BrokenProcessPool:
            raise DataError(
                f"expected {workers} processes to end by themselves, found one killed, most often "
                "for want of memory. Use fewer of them, or free some memory."
            ) from None


PR_SET_PDEATHSIG = 1  # of Linux's sys/prctl.h
_inherited: list[Callable[[str], Any]] = []


def _inherit(function: Callable[[str], Any], parent: int) -> None:
    """Keep a function for later, and end with the process that wants its results (Linux only)."""
    _inherited.append(function)
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before this
            sys.exit(1)


def _call_inherited(case: str) -> Any:
    return _inherited[-1](case)


def unfinished(work: CaseWork, cases: Sequence[str], output: Path) -> list[str]:
    """Those of the cases that ``do_cases`` would work on: not done yet, or from something else."""

    def rests(case: str) -> bool:
        try:
            return _kept(output, case, _wanted(work, case), work.anew) is not None
        except DataError:  # a file of it is missing: do_cases will tell
            return True

    return [case for case in cases if not rests(case)]


def _overlapped(work: CaseWork, output: Path, cases: Sequence[str]) -> dict[str, Any]:
    """The states of all cases; the next is prepared and the last finished while one is computed."""
    steps = {case: _Steps(work, output, case) for case in cases}
    for each in steps.values():
        each.advance()
    to_do = [case for case, each in steps.items() if each.state is None]
    kept = sum(each.is_done() for each in steps.values())
    if kept:
        log.info("%d of %d cases were done before and are kept", kept, len(cases))
    ahead, behind, clock = _Background(), _Background(), _Clock(len(to_do))

    def finish(case: str) -> None:
        steps[case].end()
        log.info("%s%s", clock.line(case), "" if steps[case].is_done() else ", it failed")

    try:
        for number, case in enumerate(to_do):
            if number == 0:
                ahead.start(steps[case].advance)
            ahead.wait()
            for following in to_do[number + 1 : number + 2]:
                ahead.start(steps[following].advance)
            steps[case].advance()
            behind.wait()
            behind.start(partial(finish, case))
        behind.wait()
    except KeyboardInterrupt:
        try:
            if behind.is_at_work():
                log.info("waiting for the last case to be written")
            behind.wait(LAST_CASE_S)
        finally:
            for case in to_do:
                shutil.rmtree(_folder(output, case), ignore_errors=True)
        raise
    return {case: each.state for case, each in steps.items()}


class _Background:
    """A thread for one thing at a time. It ends with the process, whatever it is at."""

    def __init__(self) -> None:
        self.thread: threading.Thread | None = None

    def start(self, function: Callable[[], None]) -> None:
        self.thread = threading.Thread(target=function, name=BACKGROUND, daemon=True)
        self.thread.start()

    def wait(self, seconds: float | None = None) -> None:
        if self.thread:
            self.thread.join(seconds)

    def is_at_work(self) -> bool:
        return self.thread is not None and self.thread.is_alive()


class _Clock:
    """How long cases take, and how long the others will."""

    def __init__(self, cases: int) -> None:
        self.cases, self.done = cases, 0
        self.started = self.last = time.monotonic()

    def line(self, case: str) -> str:
        """What to say of a case that is done: its number, its time, and the time that is left."""
        now = time.monotonic()
        seconds, self.last = now - self.last, now
        self.done += 1
        left = round((now - self.started) / self.done * (self.cases - self.done))
        hours = f"{left // 3600:02d}:{left // 60 % 60:02d}:{left % 60:02d}"
        return f"case {self.done}/{self.cases} {case}: {seconds:.1f} s, {hours} left"


class _Steps:
    """A case on its way: looked up, prepared, computed, finished, in whatever threads."""

    def __init__(self, work: CaseWork, output: Path, case: str) -> None:
        self.case = case
        self.generator = _tried(work, output, case)
        self.state: dict[str, Any] | Exception | None = None  # at its end: what became of it

    def advance(self) -> None:
        """Take the next step, if there is one left."""
        if self.state is None:
            try:
                next(self.generator)
            except StopIteration as end:
                self.state = end.value
            except Exception as error:  # while it was tidied up: raised when its mates are done
                log.exception("case %s", self.case)
                self.state = error

    def is_done(self) -> bool:
        """Whether its files are all there."""
        return isinstance(self.state, dict) and "error" not in self.state

    def end(self) -> dict[str, Any] | Exception:
        """Take all steps that are left; return what became of the case."""
        while self.state is None:
            self.advance()
        return self.state


def _tried(
    work: CaseWork, output: Path, case: str
) -> Generator[None, None, dict[str, Any] | Exception]:
    try:
        return (yield from _do(work, output, case))
    except DataError as error:
        reason = str(error)
    except MemoryError:
        reason = "expected enough memory for it, found too little. Free some, or run fewer jobs."
    except Exception as error:  # a bug: its mates are done first, then it is raised
        log.exception("case %s", case)
        return error
    log.info("case %s: %s", case, reason)
    _remove(output, case)
    return {"error": reason}


def _remove(output: Path, case: str) -> None:
    """Remove what was made of a case before: it is not what would be made of it now."""
    for name in _recorded(output, case):  # no other files: somebody else may have made them
        (output / name).unlink(missing_ok=True)
    record_of(output, case).unlink(missing_ok=True)


def _recorded(output: Path, case: str) -> list[str]:
    """The files of a case when it was done last."""
    record = record_of(output, case)
    return read_json(record)["files"] if record.exists() else []


def _folder(output: Path, case: str) -> Path:
    """Where the files of a case are made: they appear in place only when it is whole."""
    return output / f".{case}"


def _wanted(work: CaseWork, case: str) -> dict[str, Any]:
    """What the record of a case has to say if it is done."""
    return {"key": work.key(case), "files": list(work.outputs(case))}


def _kept(output: Path, case: str, wanted: dict[str, Any], anew: bool) -> dict[str, Any] | None:
    """The record of a case that is done as wanted, with all its files, and perhaps more; None: it
    is not, or is to be done again.
    """
    record = record_of(output, case)
    there = record.exists() and all((output / name).exists() for name in wanted["files"])
    if anew or again() or not there:
        return None
    found: dict[str, Any] = read_json(record)
    as_wanted = found["key"] == wanted["key"] and set(wanted["files"]) <= set(found["files"])
    return found if as_wanted else None


def _do(work: CaseWork, output: Path, case: str) -> Generator[None, None, dict[str, Any]]:
    """Make the files of a case, or find them made; return their names and contents in short.

    Yields when it is known that the case is to be made, when it is prepared, and when it is
    computed.
    """
    state = _wanted(work, case)
    if found := _kept(output, case, state, work.anew):
        return found
    yield
    names, record, folder = state["files"], record_of(output, case), _folder(output, case)
    shutil.rmtree(folder, ignore_errors=True)
    _remove(output, case)
    prepared = [work.prepare(case)] if work.prepare else []
    yield
    try:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (output / name).parent.mkdir(parents=True, exist_ok=True)
        computed = work.compute(case, folder, *prepared)
        del prepared
        yield
        if work.finish:
            work.finish(case, folder, computed)
        counted = [n for n in names if work.aside is None or not n.startswith(work.aside)]
        state["content"] = content([folder / name for name in counted])
        for name in names:
            (folder / name).replace(output / name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    write_json(record, state)
    return state


def record_of(output: Path, case: str) -> Path:
    """Where the record of a case lies: its key, its files, and their ``content`` in short."""
    return output / ".done" / f"{case}.json"


def recorded_cases(output: Path) -> set[str]:
    """The cases that were done in a folder."""
    return {path.stem for path in record_of(output, "").parent.glob("[!.]*.json")}


def forget_cases(output: Path, cases: Iterable[str]) -> None:
    """Remove what was made of these cases."""
    for case in cases:
        _remove(output, case)


def content_of(output: Path, case: str, names: Sequence[str]) -> str:
    """A short key of what is in the files of a case, as recorded where there is a record.

    Raises DataError when a file is missing.
    """
    for name in names:
        if not (output / name).exists():
            raise DataError(f"{output / name}: expected a file, found none. Make it again.")
    record = record_of(output, case)
    return str(
        read_json(record)["content"] if record.exists() else content([output / n for n in names])
    )


def forget_lost_files(manifests: Path) -> None:
    """Remove each manifest of which a file is gone, so that its job is done again."""
    for path in manifests.rglob("[!.]*.json"):
        made = read_json(path)
        if "folder" not in made:
            continue
        names = (name for state in made["cases"].values() for name in state.get("files", ()))
        if not all((Path(made["folder"]) / name).exists() for name in names):
            path.unlink()


def content(paths: Sequence[Path]) -> str:
    """A short key of what is in files."""
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()[:16]
