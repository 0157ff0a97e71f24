"""One line for a whole run, and failures with their cause, from the records of Snakemake."""

import io
import json
import logging

import pytest

from mist_core.cli import STOPPED
from mist_core.progress import Progress, Work, cause, duration


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (599, "9 min 59 s"),
        (600, "10 min"),
        (3599, "59 min"),
        (7260, "2 h 01 min"),
    ],
)
def test_a_time_is_as_exact_as_a_reader_needs_it(seconds, words):
    assert duration(seconds) == words


class Run:
    """The records that Snakemake would write, of jobs with logs in a folder."""

    def __init__(self, folder):
        self.folder = folder
        self.left = {}
        self.text = io.StringIO()
        self.progress = Progress(
            lambda job: self.left.get(job.jobid), lambda: list(self.left.values()), self.text
        )
        self.say("run_info")
        self.progress.over.set()  # no clock of its own: the tests say when

    def say(self, event, level=logging.INFO, **fields):
        record = logging.LogRecord("snakemake", level, "", 0, event, None, None)
        record.__dict__.update(fields, event=event)
        if self.progress.passes(record):
            self.text.write(f"snakemake: {event}\n")
        self.progress.handle(record)

    def begin(self, number, stage, **wildcards):
        log, output = (self.folder / f"{number}.{kind}" for kind in ("log", "json"))
        fields = {"wildcards": wildcards, "log": [str(log)], "output": [str(output)]}
        self.say("job_info", jobid=number, rule_name=stage, **fields)
        return log, output

    def end(self, number):
        self.say("job_finished", job_id=number)
        del self.left[number]
        self.progress.counted = 0.0

    def fail(self, number, **more):
        fields = {"jobid": number, "log": [str(self.folder / f"{number}.log")], "aux": {}} | more
        self.say("job_error", logging.ERROR, **fields)

    def pass_time(self, seconds):
        self.progress.show(self.progress.ticked + seconds)


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def test_the_line_counts_cases_and_epochs_and_the_time_that_is_left(run):
    run.left = {
        1: Work("preprocess", 3),
        2: Work("preprocess", 1),
        3: Work("train", 10),
        4: Work("train", 10),
        5: Work("predict", 4),
    }
    run.begin(1, "preprocess")
    assert run.progress.line() == "preprocess 0/4 | then train, predict"
    run.pass_time(30)
    run.end(1)
    # 3 cases took 30 s, so one is 10 s; how long the rest will take is not known yet.
    run.begin(2, "preprocess")
    assert run.progress.line() == "preprocess 3/4 | then train, predict | more than 10 s left"
    run.end(2)

    log, _ = run.begin(3, "train", fold="0")
    log.write_text("12:00:00 fold 0: 3 cases\n12:00:50 epoch 1/10  loss 1\nepoch 2/10  loss 1\n")
    run.pass_time(100)
    # 2 epochs took 100 s, so the 18 others of two folds take 900 s.
    expected = "train 2/20 epochs | then predict | more than 15 min left"
    assert run.progress.line() == expected


def test_a_run_that_time_ends_counts_its_share_of_the_time(run):
    run.left = {1: Work("train", 1000)}
    log, _ = run.begin(1, "train", fold="0")
    log.write_text("epoch 3/1000 (25 % of the time)  loss 1\n")
    run.pass_time(10)
    assert run.progress.line() == "train 250/1000 epochs | about 30 s left"


def test_epochs_of_an_earlier_run_do_not_count_as_speed(run):
    run.left = {1: Work("train", 10)}
    log, _ = run.begin(1, "train", fold="0")
    log.write_text("x.pt: going on after epoch 6\n")
    run.pass_time(10)
    assert run.progress.line() == "train 6/10 epochs"
    log.write_text("x.pt: going on after epoch 6\nepoch 7/10  loss 1\nepoch 8/10  loss 1\n")
    run.pass_time(10)
    assert run.progress.line() == "train 8/10 epochs | about 20 s left"


def test_what_jobs_say_is_kept_from_the_terminal_and_warnings_are_not(run):
    run.begin(1, "rank")
    run.say("", logging.WARNING)
    run.say("shellcmd")
    run.say("progress")
    assert run.text.getvalue() == "snakemake: run_info\nsnakemake: \n"


def test_in_a_file_a_line_is_written_once_a_minute(run):
    run.left = {1: Work("predict", 7)}
    run.begin(1, "predict")
    for _ in range(100):
        run.pass_time(1.5)
    assert run.text.getvalue().count("predict 0/7\n") == 3


def test_failed_cases_are_named_as_soon_as_their_job_ends_and_once(run):
    run.left = {1: Work("fingerprint", 2), 2: Work("preprocess", 2)}
    made = {"folder": "f", "cases": {"a": {}, "b": {"error": "b.nii: expected x, found y."}}}
    for number, stage in ((1, "fingerprint"), (2, "preprocess")):
        _, manifest = run.begin(number, stage, chunk="fold_0-0")
        manifest.write_text(json.dumps(made))
        run.end(number)
    told = "case b failed in fingerprint chunk fold_0-0: b.nii: expected x, found y.\n"
    assert run.text.getvalue().count(told) == 1
    assert run.text.getvalue().count("b.nii") == 1


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (
            "10:00:00 epoch 3\nERROR: a.nii: expected 1, found 2.\n  Mend it.\n",
            "a.nii: expected 1, found 2.\n  Mend it.",
        ),
        (
            "cp: error writing 'x': No space left on device\n",
            "its log ends with\ncp: error writing 'x': No space left on device",
        ),
        ("10:00:00 stopped: the same command goes on from here\n", STOPPED),
        (
            "epoch 3\nTraceback (most recent call last):\n  File x\nKeyError: 'a'\n",
            "A fault of the program and not of the data: please report it.\n"
            "Traceback (most recent call last):\n  File x\nKeyError: 'a'",
        ),
        (
            "10:00:00 epoch 3/250  loss 0.1\n",
            "killed before it could say why, most often for want of memory (exit code 137). "
            "Lower train.batch_size or analyze.patch_size, or free some memory, run fewer jobs "
            "at once (--cores), or ask a cluster for more (--set-resources train:mem_mb=64000).",
        ),
    ],
)
def test_a_failed_job_is_told_with_its_cause(run, log, words):
    run.left = {1: Work("train", 10)}
    run.begin(1, "train", experiment="a", fold="0")[0].write_text(log)
    assert cause(run.progress.jobs[1]) == words
    run.fail(1)
    assert f"train experiment a, fold 0 failed: {words}\n" in run.text.getvalue()
    assert len(run.progress.failed) == 1
    # Tried again, it may still be done.
    run.begin(1, "train", experiment="a", fold="0")
    assert not run.progress.failed


def test_a_job_without_a_log_fails_like_any_other(run):
    fields = {"wildcards": {}, "log": [], "output": []}
    run.say("job_info", jobid=1, rule_name="mine", **fields)
    run.fail(1, log=[], aux={"external_jobid": 77})
    assert "mine failed: killed before it could say why" in run.text.getvalue()
    assert "external_jobid: 77" in run.text.getvalue()
    assert 1 in run.progress.failed


def test_a_mistake_of_its_own_does_not_stop_the_run(run, capsys):
    run.say("job_info", jobid=1)  # a record that lacks all that is read of it
    assert "AttributeError" in capsys.readouterr().err


def test_cases_that_were_told_are_not_told_again(run):
    run.progress.failed_cases = {"b": "b.nii: expected x, found y."}
    run.left = {1: Work("gather", 0)}
    log, _ = run.begin(1, "gather_cases")
    log.write_text("ERROR: cases that failed: 1 problem\n  case b: b.nii: expected x, found y.\n")
    run.fail(1)
    assert "gather_cases" not in run.text.getvalue()
    # One that failed in an earlier run was not told in this one.
    run.begin(1, "gather_cases")
    log.write_text("ERROR: cases that failed: 2 problems\n  case b: y\n  case c: z\n")
    run.fail(1)
    assert "case c: z" in run.text.getvalue()


def test_other_json_files_are_no_manifests(run):
    run.left = {1: Work("rank", 0)}
    _, output = run.begin(1, "rank")
    output.write_text("3")
    run.end(1)
    assert run.progress.finished == 1
