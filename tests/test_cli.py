"""How scripts start and fail, and how jobs work ahead for each other."""

import os
import subprocess
import sys
import textwrap
from collections import Counter

import pytest

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

    def run(self, *cases, ahead=(), handover=True):
        words = ["--case", *cases, "--output", str(self.folder / "out"), "--ahead", *ahead]
        if handover:
            words += ["--handover", str(self.folder / "ahead")]
        args = cli.case_parser(None).parse_args(words)
        cli.do_cases(cli.CaseWork(self.outputs, self.key, self.compute), args)

    def computed(self):
        """Cases in the order in which they were computed, since the last time."""
        path = self.folder / "counter"
        text = path.read_text() if path.exists() else ""
        path.unlink(missing_ok=True)
        return text

    def waiting(self):
        """Names of the files that wait in the hand-over folder."""
        return {path.name for path in (self.folder / "ahead").rglob("*.txt")}

    def made(self):
        """Contents of all outputs by name."""
        out = self.folder / "out"
        files = [path for path in out.rglob("*") if path.is_file()] if out.exists() else []
        return {str(path.relative_to(out)): path.read_text() for path in files}


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path)


def outputs_of(*cases, times=2):
    return {name: c * times for c in cases for name in (f"{c}.txt", f"deep/{c}.txt")}


@pytest.mark.parametrize("handover", [True, False])
def test_cases_are_done_and_nothing_else_is_left(stage, handover):
    stage.run("a", "b", handover=handover)
    assert stage.made() == outputs_of("a", "b")
    assert stage.computed() == "ab"
    assert not list((stage.folder / "out").glob(".*"))
    assert sorted(path.name for path in (stage.folder / "out").iterdir()) == [
        "a.txt",
        "b.txt",
        "deep",
    ]


def test_what_was_done_ahead_is_picked_up_without_computing(stage):
    stage.run("a", ahead=["b", "c"])
    assert stage.computed() == "abc"
    assert stage.made() == outputs_of("a")  # theirs are not in place before their own jobs
    assert stage.waiting() == {"b.txt", "c.txt"}
    stage.run("b", ahead=["c", "a"])
    stage.run("c", ahead=["a", "b"])
    assert stage.computed() == ""
    assert stage.made() == outputs_of("a", "b", "c")


def test_without_a_handover_nothing_is_done_ahead(stage):
    stage.run("a", ahead=["b", "c"], handover=False)
    assert stage.computed() == "a"


def test_what_was_done_ahead_from_something_else_is_not_taken(stage):
    stage.run("a", ahead=["b"])
    (stage.folder / "b.source").write_text("new")
    stage.run("b")
    assert stage.computed() == "abb"
    assert stage.made()["b.txt"] == "newnew"
    assert stage.waiting() == set()


def test_a_case_that_is_done_is_not_done_ahead_again_unless_it_changed(stage):
    stage.run("a")
    stage.run("b", ahead=["a"])
    assert stage.computed() == "ab"
    (stage.folder / "a.source").write_text("new")
    stage.run("c", ahead=["a"])
    assert stage.computed() == "ca"


def test_a_lost_output_is_done_ahead_again(stage):
    stage.run("a")
    (stage.folder / "out/deep/a.txt").unlink()
    stage.run("b", ahead=["a"])
    assert stage.computed() == "aba"


def test_a_case_asked_for_again_is_computed_again(stage):
    stage.run("a")
    stage.run("a")
    assert stage.computed() == "aa"


@pytest.mark.parametrize("handover", [True, False])
def test_a_bad_case_is_named_and_the_others_are_done(stage, handover):
    stage.bad = {"a", "c"}
    with pytest.raises(DataError) as caught:
        stage.run("a", "b", "c", handover=handover)
    lines = str(caught.value).splitlines()
    assert [line.split(".source")[0] for line in lines] == ["case a: a", "case c: c"]
    assert stage.made() == outputs_of("b")


def test_a_bad_case_leaves_no_part_of_itself(stage):
    stage.bad = {"a"}
    with pytest.raises(DataError):
        stage.run("a")
    assert stage.made() == {}
    assert stage.waiting() == set()


def test_a_bad_case_ahead_is_left_to_its_own_job(stage):
    stage.bad = {"b"}
    stage.run("a", ahead=["b", "c"])
    assert stage.made() == outputs_of("a")
    assert stage.computed() == "abc"
    with pytest.raises(DataError, match="case b: "):
        stage.run("b")
    stage.run("c")
    assert stage.computed() == "b"


def test_a_case_whose_source_is_missing_fails_alone(stage):
    stage.key = lambda case: cli.digest(stage.folder / f"{case}.source")
    (stage.folder / "a.source").unlink()
    with pytest.raises(DataError, match=r"case a: .*a\.source"):
        stage.run("a", "b")
    assert stage.made() == outputs_of("b")


def test_a_case_ahead_whose_source_is_not_there_yet_is_left_to_its_own_job(stage):
    stage.key = lambda case: cli.digest(stage.folder / f"{case}.source")
    (stage.folder / "b.source").unlink()
    stage.run("a", ahead=["b", "c"])
    assert stage.computed() == "ac"


def test_a_job_that_died_between_two_outputs_is_done_again(stage):
    stage.run("a", ahead=["b"])
    stage.computed()
    # The first output was moved, the second could not be; the workflow then removes the first.
    (stage.folder / "out/deep/b.txt/occupied").mkdir(parents=True)
    with pytest.raises(OSError, match=r"b\.txt"):
        stage.run("b")
    (stage.folder / "out/deep/b.txt/occupied").rmdir()
    (stage.folder / "out/deep/b.txt").rmdir()
    (stage.folder / "out/b.txt").unlink()
    stage.run("b")
    assert stage.made() == outputs_of("a", "b")


PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from mist_core import cli

folder = Path.cwd()


def compute(case, target):
    with open("counter", "a") as stream:
        stream.write(case)
    (target / f"{case}.txt").write_text(case)
    if "die" in os.environ:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.1)
    (target / f"deep/{case}.txt").write_text(case)


args = cli.case_parser(None).parse_args()
work = cli.CaseWork(lambda c: [f"{c}.txt", f"deep/{c}.txt"], lambda c: "key", compute)
cli.run(lambda: cli.do_cases(work, args))
"""


def start(folder, case, ahead, handover=True, **environment):
    words = ["--case", case, "--ahead", *ahead, "--output", "out"]
    words += ["--handover", "ahead"] * handover
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words], cwd=folder, env=os.environ | environment
    )


def test_jobs_at_once_never_compute_a_case_twice(stage):
    cases = "abcdef"
    jobs = [start(stage.folder, c, cases.replace(c, "")) for c in cases]
    assert [job.wait(60) for job in jobs] == [0] * 6
    assert Counter(stage.computed()) == Counter(cases)
    assert stage.made() == outputs_of(*cases, times=1)


@pytest.mark.parametrize("handover", [True, False])
def test_a_killed_job_leaves_nothing_in_the_way_of_the_next(stage, handover):
    assert start(stage.folder, "a", "", handover, die="1").wait(60) < 0
    assert not (stage.folder / "out/a.txt").exists()
    assert start(stage.folder, "a", "", handover).wait(60) == 0
    assert stage.computed() == "aa"
    assert stage.made() == outputs_of("a", times=1)
