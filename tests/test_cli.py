"""How scripts start and fail, and how one job does many cases."""

import json
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from signal import SIGINT, SIGKILL

import pytest
from conftest import heed_ctrl_c

from mist_core import cli
from mist_core.errors import DataError


def script(body, **environment):
    """Run a program whose main() is ``body``."""
    program = (
        "from pathlib import Path\nfrom mist_core import cli\nfrom mist_core.errors import *\n"
    )
    program += "def main():\n" + textwrap.indent(textwrap.dedent(body), "    ") + "\ncli.run(main)"
    command = [sys.executable, "-c", program]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | environment
    )


def test_a_data_error_is_one_line():
    done = script("raise DataError('a.nii: expected 3-D, found 2-D. Stack it.')")
    assert done.returncode == 1
    assert done.stderr == "ERROR: a.nii: expected 3-D, found 2-D. Stack it.\n"


def test_a_bug_keeps_its_traceback():
    done = script("{}['key']")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert "KeyError: 'key'" in done.stderr
    assert "ERROR" not in done.stderr


def test_success_is_silent():
    done = script("pass")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_library_starts_without_torch():
    done = script("import sys; raise DataError(str('torch' in sys.modules))")
    assert done.stderr == "ERROR: False\n"


def test_itk_takes_no_more_threads_than_the_job_was_given():
    body = "import os; raise DataError(os.environ['ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS'])"
    assert script(body, OMP_NUM_THREADS="3").stderr == "ERROR: 3\n"


def test_the_key_of_a_file_changes_with_it(tmp_path):
    path = tmp_path / "a"
    path.write_text("one")
    os.utime(path, ns=(10**18, 10**18))
    first = cli.digest(path, 1)
    assert cli.digest(path, 1) == first
    os.utime(path, ns=(10**18, 10**18 + 1))
    touched = cli.digest(path, 1)
    path.write_text("longer")
    os.utime(path, ns=(10**18, 10**18))
    assert len({first, touched, cli.digest(path, 1)}) == 3


def test_the_key_tells_values_apart():
    values = [(), (1,), ("1",), (1, 2), ([1, 2],), ({"a": 1},), ({"a": 2},), (None,), (1.5,)]
    assert len({cli.digest(*each) for each in values}) == len(values)
    assert cli.digest({"a": 1, "b": 2}) == cli.digest({"b": 2, "a": 1})


def test_the_key_of_a_missing_file_names_it(tmp_path):
    with pytest.raises(DataError, match=r"none\.nii"):
        cli.digest(tmp_path / "none.nii")


def test_what_is_no_json_has_no_key():
    with pytest.raises(TypeError, match="set"):
        cli.digest({1, 2})


class Stage:
    """A stage that makes <case>.txt and deep/<case>.txt from a case's source, and counts."""

    def __init__(self, folder):
        self.folder = folder
        self.bad = set()
        for case in "abc":
            (folder / f"{case}.source").write_text(case)

    def key(self, case):
        return cli.digest((self.folder / f"{case}.source").read_text())

    def outputs(self, case):
        return [f"{case}.txt", f"deep/{case}.txt"]

    def compute(self, case, folder):
        with (self.folder / "counter").open("a") as stream:
            stream.write(case)
        for name in self.outputs(case):
            if name.startswith("deep") and case in self.bad:
                raise DataError(f"{case}.source: expected good, found bad. Mend it.")
            (folder / name).write_text((self.folder / f"{case}.source").read_text() * 2)

    def run(self, *cases, **options):
        work = cli.CaseWork(self.outputs, self.key, self.compute)
        cli.do_cases(work, cases, self.folder / "out", **options)

    def manifest(self, *cases, **options):
        """Run with a manifest, and read it."""
        path = self.folder / "done/manifest.json"
        self.run(*cases, manifest=path, **options)
        return json.loads(path.read_text())["cases"]

    def computed(self):
        """Cases in the order in which they were computed, since the last time."""
        path = self.folder / "counter"
        text = path.read_text() if path.exists() else ""
        path.unlink(missing_ok=True)
        return text

    def made(self):
        """Contents of all outputs by name."""
        out = self.folder / "out"
        return {str(path.relative_to(out)): path.read_text() for path in out.rglob("*.txt")}


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path)


def outputs_of(*cases, times=2):
    return {name: c * times for c in cases for name in (f"{c}.txt", f"deep/{c}.txt")}


@pytest.mark.parametrize("workers", [1, 2])
def test_cases_are_done_and_nothing_is_left_over(stage, workers):
    stage.run("a", "b", workers=workers)
    assert stage.made() == outputs_of("a", "b")
    assert sorted(stage.computed()) == ["a", "b"]
    left = {path.name for path in (stage.folder / "out").iterdir()}
    assert left == {"a.txt", "b.txt", "deep", ".done"}


def test_what_is_done_is_kept(stage):
    stage.run("a", "b")
    before = {path: path.stat().st_mtime_ns for path in (stage.folder / "out").rglob("*.txt")}
    stage.run("a", "b", "c")
    assert stage.computed() == "abc"
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_a_case_that_changed_is_done_again(stage):
    stage.run("a", "b")
    (stage.folder / "b.source").write_text("new")
    stage.run("a", "b")
    assert stage.computed() == "abb"
    assert stage.made()["b.txt"] == "newnew"


def test_a_lost_file_is_made_again(stage):
    stage.run("a", "b")
    (stage.folder / "out/deep/a.txt").unlink()
    stage.run("a", "b")
    assert stage.computed() == "aba"
    assert stage.made() == outputs_of("a", "b")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bug_stops_the_job_when_the_other_cases_are_done(stage, workers, caplog):
    (stage.folder / "a.source").unlink()
    with pytest.raises(FileNotFoundError):
        stage.run("a", "b", workers=workers)
    assert stage.made() == outputs_of("b")


def test_too_little_memory_is_a_failure_of_the_case(stage, monkeypatch):
    def compute(case, folder):
        raise MemoryError

    monkeypatch.setattr(stage, "compute", compute)
    with pytest.raises(DataError, match="case a: expected enough memory for it"):
        stage.run("a")


def test_a_killed_worker_is_told_in_words(stage, monkeypatch):
    monkeypatch.setattr(stage, "compute", lambda case, folder: os.kill(os.getpid(), SIGKILL))
    with pytest.raises(DataError, match="found one killed, most often for want of memory"):
        stage.run("a", "b", workers=2)


@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are looked up in /proc")
def test_workers_end_with_a_job_that_is_killed(tmp_path):
    program = textwrap.dedent("""
        import os, time
        from pathlib import Path
        from mist_core import cli

        def compute(case, folder):
            Path(f"{case}.pid").write_text(str(os.getpid()))
            time.sleep(600)

        work = cli.CaseWork(lambda case: [f"{case}.txt"], lambda case: "key", compute)
        cli.do_cases(work, ["a", "b"], Path("made"), workers=2)
    """)
    job = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path)
    wait_until(lambda: len([p for p in tmp_path.glob("*.pid") if p.read_text()]) == 2)
    job.terminate()
    job.wait(30)
    for path in tmp_path.glob("*.pid"):
        wait_until(lambda path=path: has_ended(path.read_text()))


def has_ended(pid):
    """Whether a process is gone, or waits for nothing but to be asked how it ended."""
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def wait_until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_what_a_case_left_is_removed_when_it_failed_before(stage):
    stage.run("a", "b")
    before = stage.folder / "before.json"
    before.write_text(json.dumps({"cases": {"a": {"error": "unreadable"}, "b": {}}}))
    stage.manifest("a", "b", after=[before])
    assert stage.made() == outputs_of("b")


def test_a_bad_case_leaves_the_files_of_others_alone(stage):
    path = stage.folder / "out/a.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("by hand")
    stage.bad = {"a"}
    with pytest.raises(DataError):
        stage.run("a")
    assert path.read_text() == "by hand"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_case_is_named_and_the_others_are_done(stage, workers):
    stage.bad = {"a", "c"}
    with pytest.raises(DataError) as caught:
        stage.run("a", "b", "c", workers=workers)
    lines = str(caught.value).splitlines()
    assert [line.split(".source")[0] for line in lines] == ["case a: a", "case c: c"]
    assert stage.made() == outputs_of("b")


def test_a_bad_case_leaves_no_part_of_itself(stage):
    stage.run("a")
    (stage.folder / "a.source").write_text("new")
    stage.bad = {"a"}
    with pytest.raises(DataError):
        stage.run("a")
    assert not stage.made()  # nor what it was made of something else: it would be taken for new
    stage.bad = set()
    stage.run("a")
    assert stage.made()["a.txt"] == "newnew"


def test_a_manifest_says_what_became_of_each_case(stage):
    stage.bad = {"b"}
    cases = stage.manifest("a", "b", "c")
    assert list(cases) == ["a", "b", "c"]
    assert cases["b"] == {"error": "b.source: expected good, found bad. Mend it."}
    assert cases["a"]["files"] == ["a.txt", "deep/a.txt"]
    assert cases["a"]["content"] != cases["c"]["content"]
    names = cases["a"]["files"]
    assert cli.content_of(stage.folder / "out", "a", names) == cases["a"]["content"]
    cli.record_of(stage.folder / "out", "a").unlink()
    assert cli.content_of(stage.folder / "out", "a", names) == cases["a"]["content"]


def test_the_content_does_not_depend_on_when_it_was_made(stage):
    first = stage.manifest("a")
    (stage.folder / "out/a.txt").unlink()
    assert stage.manifest("a") == first
    assert stage.computed() == "aa"


def test_files_that_come_from_the_others_do_not_count_and_go_when_they_are_not_asked_for(tmp_path):
    def made(*names):
        def compute(case, folder):
            for number, name in enumerate(names):
                (folder / name).write_text(f"{number} {len(names) if 'extra' in name else ''}")

        work = cli.CaseWork(lambda case: names, lambda case: str(names), compute, aside="extra/")
        cli.do_cases(work, ["a"], tmp_path / "out", tmp_path / "manifest.json")
        return json.loads((tmp_path / "manifest.json").read_text())["cases"]["a"]["content"]

    assert made("a.txt") == made("a.txt", "extra/a.txt")
    assert (tmp_path / "out/extra/a.txt").exists()
    assert made("a.txt") != made("a.txt", "b.txt")
    assert not (tmp_path / "out/extra/a.txt").exists()


def test_what_failed_before_fails_with_the_same_words_and_without_work(stage):
    before = stage.folder / "before.json"
    before.write_text(json.dumps({"cases": {"b": {"error": "b.nii: no image"}}}))
    cases = stage.manifest("a", "b", after=[before])
    assert cases["b"] == {"error": "b.nii: no image"}
    assert stage.computed() == "a"


def test_a_case_that_failed_in_one_of_several_jobs_before_is_not_done(stage):
    before = [stage.folder / f"{name}.json" for name in "ab"]
    for path in before:
        path.write_text(json.dumps({"cases": {path.stem: {"error": "no image"}, "c": {}}}))
    cases = stage.manifest("a", "b", "c", after=before)
    assert cases["a"] == cases["b"] == {"error": "no image"}
    assert stage.computed() == "c"


def test_the_content_of_a_lost_file_is_refused_by_name(stage):
    stage.run("a")
    (stage.folder / "out/deep/a.txt").unlink()
    with pytest.raises(DataError, match=r"out/deep/a\.txt: expected a file"):
        cli.content_of(stage.folder / "out", "a", stage.outputs("a"))


def test_a_manifest_whose_files_are_lost_is_forgotten(stage):
    stage.manifest("a", "b")
    path = stage.folder / "done/manifest.json"
    cli.forget_lost_files(stage.folder / "done")
    assert path.exists()
    (stage.folder / "out/b.txt").unlink()
    cli.forget_lost_files(stage.folder / "done")
    assert not path.exists()


def test_a_case_whose_source_is_missing_fails_alone(stage):
    stage.key = lambda case: cli.digest(stage.folder / f"{case}.source")
    (stage.folder / "a.source").unlink()
    with pytest.raises(DataError, match=r"case a: .*a\.source"):
        stage.run("a", "b")
    assert stage.made() == outputs_of("b")


def test_a_job_that_died_between_two_outputs_is_done_again(stage):
    (stage.folder / "out/deep/b.txt/occupied").mkdir(parents=True)
    with pytest.raises(OSError, match=r"b\.txt"):
        stage.run("b")
    (stage.folder / "out/deep/b.txt/occupied").rmdir()
    (stage.folder / "out/deep/b.txt").rmdir()
    stage.run("b")
    assert stage.computed() == "bb"
    assert stage.made() == outputs_of("b")


PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from signal import SIGKILL
from mist_core import cli

folder = Path.cwd()


def compute(case, target):
    with open("counter", "a") as stream:
        stream.write(case)
    (target / f"{case}.txt").write_text(case)
    if "die" in os.environ:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.2)
    (target / f"deep/{case}.txt").write_text(case)


args = cli.case_parser(None).parse_args()
work = cli.CaseWork(lambda c: [f"{c}.txt", f"deep/{c}.txt"], lambda c: "key", compute)
cli.run(lambda: cli.do_asked(work, args))
"""


def start(folder, *cases, **environment):
    words = ["--case", *cases, "--output", "out", "--manifest", "done/manifest.json"]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words], cwd=folder, env=os.environ | environment
    )


def test_a_job_that_outlived_its_run_is_waited_for(stage):
    jobs = [start(stage.folder, "a", "b", "c") for _ in range(3)]
    assert [job.wait(60) for job in jobs] == [0] * 3
    assert stage.computed() == "abc"
    assert stage.made() == outputs_of("a", "b", "c", times=1)


def test_a_killed_job_leaves_nothing_in_the_way_of_the_next(stage):
    assert start(stage.folder, "a", die="1").wait(60) < 0
    assert not (stage.folder / "out/a.txt").exists()
    assert start(stage.folder, "a").wait(60) == 0
    assert stage.computed() == "aa"
    assert stage.made() == outputs_of("a", times=1)


STEPS = ("prepare", "compute", "finish")
WHOLE = {f"{case}.txt": case.upper() * 2 for case in "abc"}


class Overlapping:
    """A stage in three steps, which makes <case>.txt and records when each began."""

    def __init__(self, folder):
        self.folder = folder
        self.bad = {}  # (step, case) to the error that it ends with
        self.waits = {}  # (step, case) to another one that must begin before it ends
        self.order = []
        self.began = {(step, case): threading.Event() for step in STEPS for case in "abc"}

    def step(self, name, case):
        self.order.append(f"{name} {case}")
        self.began[name, case].set()
        if other := self.waits.get((name, case)):
            assert self.began[other].wait(10), f"{other} did not begin during {name} of {case}"
        if error := self.bad.get((name, case)):
            raise error

    def prepare(self, case):
        self.step("prepare", case)
        return case.upper()

    def compute(self, case, folder, prepared):
        self.step("compute", case)
        return prepared * 2

    def finish(self, case, folder, computed):
        (folder / f"{case}.txt").write_text(computed)
        self.step("finish", case)

    def work(self, key=str):
        return cli.CaseWork(
            lambda case: [f"{case}.txt"],
            key,
            self.compute,
            prepare=self.prepare,
            finish=self.finish,
        )

    def run(self, cases="abc", **options):
        cli.do_cases(self.work(**options), list(cases), self.folder / "out")

    def made(self):
        return {path.name: path.read_text() for path in (self.folder / "out").glob("*.txt")}

    def left_over(self):
        return {path.name for path in (self.folder / "out").glob(".*")} - {".done"}


@pytest.fixture
def overlapping(tmp_path):
    return Overlapping(tmp_path)


def test_a_case_is_computed_while_the_next_is_prepared_and_the_last_is_finished(overlapping):
    overlapping.waits = {
        ("compute", "a"): ("prepare", "b"),
        ("finish", "a"): ("compute", "b"),
        ("prepare", "c"): ("finish", "a"),
    }
    overlapping.run()
    assert overlapping.made() == WHOLE
    assert not overlapping.left_over()


def test_no_more_than_one_case_is_prepared_ahead(overlapping):
    compute = overlapping.compute

    def slowly(case, folder, prepared):
        time.sleep(0.2)  # in which a thread without bounds would prepare all
        return compute(case, folder, prepared)

    overlapping.compute = slowly
    overlapping.run()
    when = overlapping.order.index
    assert when("prepare b") < when("compute a") < when("prepare c")
    for step in STEPS:
        assert [line[-1] for line in overlapping.order if line.startswith(step)] == list("abc")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("case", "abc")
def test_a_case_fails_alone_in_whatever_step(overlapping, step, case):
    overlapping.bad = {(step, case): DataError("b.nii: expected good, found bad. Mend it.")}
    with pytest.raises(DataError, match=rf"^case {case}: b\.nii: expected good, found bad"):
        overlapping.run()
    assert overlapping.made() == {k: v for k, v in WHOLE.items() if not k.startswith(case)}
    assert not overlapping.left_over()
    later = STEPS[STEPS.index(step) + 1 :]
    assert not [line for line in overlapping.order if line in [f"{s} {case}" for s in later]]


@pytest.mark.parametrize("step", STEPS)
def test_a_bug_in_a_step_is_raised_when_the_other_cases_are_done(overlapping, step):
    overlapping.bad = {(step, "a"): KeyError("bug")}
    with pytest.raises(KeyError, match="bug"):
        overlapping.run()
    assert overlapping.made() == {k: v for k, v in WHOLE.items() if k != "a.txt"}


def test_what_is_done_is_neither_prepared_again_nor_counted(overlapping, caplog):
    overlapping.run("ab")
    overlapping.order.clear()
    caplog.clear()
    caplog.set_level("INFO")
    assert cli.unfinished(overlapping.work(), list("abc"), overlapping.folder / "out") == ["c"]
    overlapping.run()
    assert overlapping.order == ["prepare c", "compute c", "finish c"]
    kept, line = caplog.messages
    assert kept == "2 of 3 cases were done before and are kept"
    assert line.startswith("case 1/1 c: ")
    overlapping.run(key=lambda case: "other")
    assert len(overlapping.order) == 12
    overlapping.run(key=lambda case: "other")
    assert len(overlapping.order) == 12


def test_a_case_without_its_files_is_nothing_to_work_on(stage):
    work = cli.CaseWork(stage.outputs, lambda c: cli.digest(stage.folder / f"{c}.source"), print)
    (stage.folder / "a.source").unlink()
    assert cli.unfinished(work, list("abc"), stage.folder / "out") == ["b", "c"]


def test_each_case_has_a_line_in_order(overlapping, caplog):
    caplog.set_level("INFO")
    overlapping.bad = {("prepare", "b"): DataError("bad")}
    with pytest.raises(DataError):
        overlapping.run()
    lines = [m for m in caplog.messages if re.search(r": \d+\.\d s, 00:00:0\d left", m)]
    assert [line.split(":")[0] for line in lines] == ["case 1/3 a", "case 2/3 b", "case 3/3 c"]
    assert [line.endswith("left, it failed") for line in lines] == [False, True, False]


def test_long_times_are_told_in_hours(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(cli.time, "monotonic", lambda: now[0])
    clock = cli._Clock(20)
    now[0] = 1000.0
    assert clock.line("x") == "case 1/20 x: 1000.0 s, 05:16:40 left"


INTERRUPTED = """
import sys, time
from pathlib import Path
from mist_core import cli


def prepare(case):
    time.sleep(30 if case == "c" else 0)


def compute(case, folder, prepared):
    if case == "b":
        Path("ready").touch()
        time.sleep(30)
    return case


def finish(case, folder, computed):
    (folder / f"{case}.txt").write_text(case)


work = cli.CaseWork(lambda c: [f"{c}.txt"], lambda c: c, compute, prepare=prepare, finish=finish)
cli.run(lambda: cli.do_cases(work, list("abcd"), Path("out")))
"""


def interrupted(program, folder, *ready):
    """What a program says that is sent Ctrl-C when these files are there."""
    job = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,  # noqa: PLW1509 (it starts no thread)
    )
    until = time.monotonic() + 60
    while not all((folder / name).exists() for name in ready):
        assert time.monotonic() < until
        time.sleep(0.02)
    job.send_signal(SIGINT)
    _, said = job.communicate(timeout=60)
    assert job.returncode == 130
    assert said.count(cli.STOPPED) == 1
    assert "Traceback" not in said
    return said


def test_ctrl_c_ends_at_once_and_leaves_whole_cases_only(tmp_path):
    began = time.monotonic()
    interrupted(INTERRUPTED, tmp_path, "ready", "out/.done/a.json")
    assert time.monotonic() - began < 30  # not when c is prepared
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.txt", ".done"}


WRITING = """
import time
from pathlib import Path
from mist_core import cli


def prepare(case):
    time.sleep(30 if case == "c" else 0)


def compute(case, folder, prepared):
    time.sleep(30 if case == "b" else 0)


def finish(case, folder, computed):
    for name in work.outputs(case):  # each into a folder that is made for it
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(case)
        Path("ready").touch()
        time.sleep(SECONDS)


names = ["a.txt", "deep/a.txt"]
work = cli.CaseWork(lambda c: names, lambda c: c, compute, prepare=prepare, finish=finish)
cli.run(lambda: cli.do_cases(work, list("abc"), Path("out")))
"""


def test_ctrl_c_lets_a_case_that_is_being_written_come_to_its_end(tmp_path):
    said = interrupted(WRITING.replace("SECONDS", "1"), tmp_path, "ready")
    assert "waiting for the last case to be written" in said
    made = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*")}
    assert made == {"a.txt", "deep/a.txt", ".done", ".done/a.json"}


def test_ctrl_c_takes_the_files_of_a_case_that_is_written_too_slowly(tmp_path):
    interrupted(WRITING.replace("SECONDS", "20"), tmp_path, "ready")
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {"deep"}


def test_a_run_that_is_interrupted_leaves_the_log_as_it_was(overlapping, caplog):
    overlapping.bad = {("compute", "b"): KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        overlapping.run()
    caplog.clear()
    caplog.set_level("INFO")
    cli.log.info("still heard")
    assert caplog.messages == ["still heard"]
    assert overlapping.made() == {"a.txt": "AA"}
    assert not overlapping.left_over()


def test_a_case_that_cannot_be_tidied_up_ends_the_job_and_does_not_hang(tmp_path):
    def prepare(case):
        (tmp_path / "out/a.txt").mkdir(parents=True)  # which cannot be removed as a file is
        record = tmp_path / "out/.done/a.json"
        record.parent.mkdir()
        record.write_text(json.dumps({"key": "old", "files": ["a.txt"]}))
        raise DataError("unreadable")

    work = cli.CaseWork(
        lambda case: [f"{case}.txt"], lambda case: "key", lambda *_: None, prepare=prepare
    )
    with pytest.raises(OSError, match=r"a\.txt"):
        cli.do_cases(work, ["a"], tmp_path / "out")
