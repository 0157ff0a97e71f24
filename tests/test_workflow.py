"""The real workflow on made-up data: what runs when, and what a user sees when data are bad."""

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pytest
import SimpleITK as sitk
import yaml
from conftest import ROOT

from mist_core.files import read_json, read_rows
from mist_core.io import read_labels, read_probabilities

BIN = Path(sys.executable).parent
TINY = {
    "dataset": "data",
    "cases_per_job": 8,
    "analyze": {"folds": 2, "patch_size": [16, 16, 16]},
    "train": {"epochs": 1, "steps_per_epoch": 1, "batch_size": 1},
    "predict": {"flips": False, "overlap": 0.0},
    "postprocess": {"strategies": []},
    "experiments": {"a": {}},
}
BOTH = {"a": {}, "b": {"train": {"learning_rate": 0.002}}}
STRATEGIES = {"strategies": ["strategies/s1.json", "strategies/s2.json"]}
TEST_FILE = "test_01.nii.gz"
SMALL = [{"transform": "remove_small_objects", "apply_to_labels": [-1], "per_label": True}]


class Project:
    """A folder as a user has it, with a dataset of four training cases and one test case."""

    def __init__(self, folder: Path, root: Path = ROOT, options: tuple = ("--cores", "2")) -> None:
        self.folder = folder
        self.root = root
        self.options = options
        self.config = json.loads(json.dumps(TINY))
        make = ROOT / "workflow/scripts/make_demo_data.py"
        subprocess.run([sys.executable, make, "--output", folder / "data"], check=True)
        for number in range(5, 11):
            shutil.rmtree(folder / f"data/train/demo_{number:02d}")
        shutil.rmtree(folder / "data/test/test_02")
        (folder / "config").mkdir()
        shutil.copy(ROOT / "config/config.yaml", folder / "config")
        (folder / "strategies").mkdir()
        self.write_strategy("s1", SMALL)
        self.write_strategy("s2", SMALL)

    def write_strategy(self, name, steps):
        (self.folder / f"strategies/{name}.json").write_text(json.dumps(steps))

    def add(self, part, name, like):
        """Another case: that of another, a little brighter."""
        home = self.folder / "data" / part
        shutil.copytree(home / like, home / name)
        for path in (home / name).glob("t?.nii.gz"):
            sitk.WriteImage(sitk.ReadImage(str(path)) * 1.25, str(path))

    def command(self):
        (self.folder / "my.yaml").write_text(yaml.safe_dump(self.config))
        return [
            BIN / "snakemake",
            *("--snakefile", self.root / "Snakefile"),
            *self.options,
            *("--configfile", "my.yaml"),
        ]

    def run(self, *more, **environment):
        """Exit code, output, and how many jobs of each rule ran, counted by their logs."""
        started = time.time_ns()
        done = subprocess.run(
            [*self.command(), *more],
            cwd=self.folder,
            check=False,
            text=True,
            timeout=600,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                **{"OMP_NUM_THREADS": "1", "PYTHONPATH": str(self.root)},
                **environment,
            },
        )
        logs = self.folder / "results/logs"
        written = [p for p in logs.rglob("*.log") if p.stat().st_mtime_ns >= started]
        return done.returncode, done.stdout, Counter(p.relative_to(logs).parts[0] for p in written)

    def jobs(self, *more):
        """Jobs of a run that succeeds; a second run must find nothing to do."""
        code, output, jobs = self.run(*more)
        assert code == 0, output
        code, output, again = self.run()
        assert code == 0, output
        assert again == Counter()
        assert "Nothing to be done" in output
        return {rule.removesuffix(".log"): count for rule, count in jobs.items()}

    def made(self):
        """Times of change of all that stages made, by path below the project."""
        files = [p for k in ("results", "numpy") for p in (self.folder / k).rglob("*.*")]
        kept = [p for p in files if p.suffix in {".npy", ".gz"}]
        return {str(p.relative_to(self.folder)): p.stat().st_mtime_ns for p in kept}

    def changed(self, before):
        """Files that are new or were written again since ``before``."""
        return {path for path, time in self.made().items() if before.get(path) != time}

    def folds(self):
        rows = read_rows(self.folder / "results/train_paths.csv")
        return {row["id"]: int(row["fold"]) for row in rows}


CLUSTER = (
    *("--executor", "cluster-generic", "--jobs", "2", "--latency-wait", "10"),
    *("--cluster-generic-submit-cmd", str(ROOT / "tests/qsub.sh")),
)
SLURM = (
    *("--workflow-profile", str(ROOT / "profiles/slurm"), "--jobs", "4"),
    *("--default-resources", "mem_mb=1000", "runtime=30"),
    *("--set-resources", *(f"{rule}:mem_mb=2000" for rule in ("fingerprint", "preprocess"))),
    *("--set-threads", "train=1", "predict=1", "predict_test=1"),
    *("--slurm-init-seconds-before-status-checks", "5", "--latency-wait", "10"),
    "--slurm-no-account",
)


@pytest.fixture(scope="module")
def slurm():
    """A SLURM of one node with two made-up GPUs; skips where it cannot be had."""
    script = ROOT / "tests/slurm_loopback.sh"
    if os.geteuid() != 0:
        pytest.skip("needs root, to start SLURM")
    nowhere = os.environ.pop("SLURM_CONF")
    subprocess.run(["bash", script, "down"], check=False)
    time.sleep(5)  # for daemons that someone left to be gone
    up = subprocess.run(["bash", script, "up"], check=False, capture_output=True, text=True)
    works = up.returncode == 0 and "ok " in up.stdout
    if works:
        yield
    subprocess.run(["bash", script, "down"], check=False)
    os.environ["SLURM_CONF"] = nowhere
    if not works:
        pytest.skip(f"needs SLURM: {up.stderr[-200:]}")


@pytest.fixture
def project(tmp_path, request):
    """One whose jobs run here, or by the executor that a test names."""
    executor = getattr(request, "param", "local")
    if executor == "slurm":
        request.getfixturevalue("slurm")
    options = {"local": ("--cores", "2"), "cluster": CLUSTER, "slurm": SLURM}[executor]
    return Project(tmp_path, options=options)


# One experiment is scored raw and with two strategies; a chunk for each of the two folds and one
# for the test cases.
OF_ONE_EXPERIMENT = {
    "train": 2,
    "predict": 2,
    "predict_test": 1,
    "gather_predicted_tests": 1,
    "postprocess": 2 * 3,
    "evaluate": 3,
}
OF_ALL = {"rank": 1, "report": 1}
GATHER = {"gather_cases": 1}
ON_THE_GRID = {"analyze": 1, "preprocess": 3, "gather_arrays": 1, "gather_test_arrays": 1}


EXECUTORS = [
    "local",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("cluster", "slurm")),
]


@pytest.mark.parametrize("project", EXECUTORS, indirect=True)
def test_each_change_reruns_what_depends_on_it_and_nothing_else(project):
    data, results = project.folder / "data", project.folder / "results"
    project.config["postprocess"] = STRATEGIES
    project.config["analyze"]["target_spacing"] = [1.5, 1.5, 1.5]
    once = {"fingerprint": 2, "test_paths": 1} | ON_THE_GRID
    new = OF_ONE_EXPERIMENT | {"keep_strategy": 2}
    assert project.jobs() == once | new | GATHER | OF_ALL

    # None of the three needs anything of the others.
    project.write_strategy("s1", [*SMALL, *SMALL])
    project.config["analyze"]["data_dump"] = True
    project.config["rank"] = {"weights": {"dice": 2}}
    of_strategy = {"postprocess": 3, "evaluate": 1, "keep_strategy": 1}
    of_dump = {"describe": 2, "data_dump": 1}
    assert project.jobs() == of_strategy | of_dump | GATHER | OF_ALL

    # The target spacing is fixed, so another case leaves the plan as it is.
    before, files = project.folds(), project.made()
    project.add("train", "case_00", like="demo_01")
    jobs = project.jobs()
    folds = project.folds()
    assert {i: folds[i] for i in before} == before
    assert jobs == (
        {"fingerprint": 1, "analyze": 1, "preprocess": 1, "gather_arrays": 1}
        | {"describe": 1, "data_dump": 1}
        | OF_ONE_EXPERIMENT
        | {"train": 1}
        | GATHER
        | OF_ALL
    )
    # Of the jobs of its chunk only the case itself was done; its mates kept their files.
    mates = [i for i in before if folds[i] == folds["case_00"]]
    others = [i for i in before if folds[i] != folds["case_00"]]
    changed = project.changed(files)
    assert {p for p in changed if p.startswith("numpy")} == {
        f"numpy/{kind}/case_00.npy" for kind in ("images", "labels", "foreground")
    }
    predictions = {Path(p).name for p in changed if "predictions/train" in p}
    assert predictions == {f"{i}.nii.gz" for i in ["case_00", *others]}
    assert mates

    project.add("test", "test_07", like="test_01")
    files = project.made()
    of_test = {"preprocess": 1, "gather_test_arrays": 1, "predict_test": 1, "postprocess": 2}
    of_test |= {"gather_predicted_tests": 1}
    # The report says how many were predicted, and names those that were not.
    assert project.jobs() == of_test | {"test_paths": 1, "report": 1} | GATHER
    assert {Path(p).name.split(".")[0] for p in project.changed(files)} == {"test_07"}

    # What is lost is made again, and what was made from it before is as good as it was.
    files = project.made()
    (results / "a/predictions/test/test_01.nii.gz").unlink()
    (results / "a/results.csv").unlink()
    (results / "report.html").unlink()
    (project.folder / "numpy/images/demo_01.npy").unlink()
    missing = {"predict_test": 1, "postprocess": 2, "evaluate": 1, "gather_predicted_tests": 1}
    missing |= {"preprocess": 1, "gather_arrays": 1}
    assert project.jobs() == missing | GATHER | OF_ALL
    assert {Path(p).name for p in project.changed(files)} == {"test_01.nii.gz", "demo_01.npy"}

    for path in [*data.rglob("*.nii.gz"), *project.folder.glob("strategies/*")]:
        path.touch()
    assert project.jobs() == {}


@pytest.mark.slow
@pytest.mark.parametrize("project", ["local", "cluster"], indirect=True)  # SLURM: an hour
def test_changes_of_grid_classes_cases_and_search_rerun_what_depends_on_them(project):
    results = project.folder / "results"
    project.config["postprocess"] = STRATEGIES
    project.jobs()

    project.config["experiments"] = BOTH
    assert project.jobs() == OF_ONE_EXPERIMENT | {"keep_strategy": 2} | GATHER | OF_ALL

    project.config["evaluate"] = {"metrics": {"dice": {}, "haus95": {}}}
    assert project.jobs() == {"evaluate": 6} | OF_ALL

    project.config["evaluate"] = {"classes": {"whole": [1, 2, 4]}}
    assert project.jobs() == {"evaluate": 6} | OF_ALL

    project.config["experiments"] = {"a": {}, "b": {"train": {"epochs": 2}}}
    assert project.jobs() == OF_ONE_EXPERIMENT | GATHER | OF_ALL

    project.config["experiments"] = {"a": {}}
    assert project.jobs() == GATHER | OF_ALL

    project.config["analyze"]["target_spacing"] = [1.5, 1.5, 1.5]
    assert project.jobs() == ON_THE_GRID | OF_ONE_EXPERIMENT | GATHER | OF_ALL

    project.add("train", "case_00", like="demo_01")
    project.jobs()
    shutil.rmtree(project.folder / "data/train/case_00")
    files = project.made()
    of_chunk = {"fingerprint": 1, "analyze": 1, "preprocess": 1, "gather_arrays": 1}
    assert project.jobs() == of_chunk | OF_ONE_EXPERIMENT | {"train": 1} | GATHER | OF_ALL
    assert not [p for p in project.changed(files) if p.startswith("numpy")]
    assert not list((project.folder / "numpy").rglob("case_00*"))

    # One strategy is tried for the two chunks of the training cases; what is chosen is taken for
    # these and made for the test cases.
    search = {"keep_largest": ["none", "label"], "min_volume_mm3": [0], "fill_holes": [False]}
    project.config["postprocess"] = STRATEGIES | {"auto": True, "search": search}
    chosen = {"choose": 1, "postprocess": 3, "evaluate": 1}
    tried = {"tried": 1, "postprocess": 2 + 3, "evaluate": 1 + 1}
    assert project.jobs() == chosen | tried | GATHER | OF_ALL
    auto = results / "a/postprocess/auto"
    assert read_json(auto / "choice.json")["chosen"] == "none"  # of four patients nothing is sure
    assert read_json(auto / "strategy.json") == []
    for part, raw in (("train", "train/raw"), ("test", "test")):
        for path in (auto / "predictions" / part).glob("*.nii.gz"):
            same = read_labels(results / "a/predictions" / raw / path.name).array
            np.testing.assert_array_equal(read_labels(path).array, same)
    scores = read_rows(auto / "postprocess_results.csv")
    assert scores == read_rows(results / "a/results.csv")
    ranked = {row["strategy"] for row in read_rows(results / "rank/ranking.csv")}
    assert ranked == {"a/raw", "a/s1", "a/s2", "a/auto"}

    files = project.made()
    search["min_volume_mm3"] = [0, 5]
    more = {"tried": 2, "postprocess": 2 * 2 + 3, "evaluate": 2 + 1}
    assert project.jobs() == chosen | more | GATHER | OF_ALL
    assert all("/min-5mm3" in path for path in project.changed(files))


@pytest.mark.slow
def test_strategies_may_look_at_probabilities_and_be_of_the_users_own(project):
    project.config["postprocess"] = STRATEGIES
    project.jobs()
    (project.folder / "my_steps.py").write_text(
        "def only(labels, mask, *, keep):\n    return labels * (labels == keep)\n"
    )
    step = {"transform": "my_steps:only", "apply_to_labels": [-1], "per_label": False}
    project.write_strategy("s1", [step | {"kwargs": {"keep": 1}}])
    of_one = {"postprocess": 3, "evaluate": 1, "keep_strategy": 1}
    assert project.jobs() == of_one | GATHER | OF_ALL
    (project.folder / "my_steps.py").write_text(
        "def only(labels, mask, *, keep):\n    return labels * (labels != keep)\n"
    )
    assert project.jobs() == {"postprocess": 3, "evaluate": 1} | GATHER | OF_ALL

    step = {"transform": "remove_by_mean_probability", "apply_to_labels": [-1], "per_label": True}
    project.write_strategy("s2", [step])
    again = OF_ONE_EXPERIMENT | {"keep_strategy": 1}
    del again["train"]
    assert project.jobs() == again | GATHER | OF_ALL
    predictions = project.folder / "results/a/predictions"
    assert len(list(predictions.rglob("probabilities/*.nii.gz"))) == 5
    files = project.made()
    project.write_strategy("s2", SMALL)
    project.jobs()
    assert not [path for path in project.changed(files) if path.startswith("results/a/predictions")]

    project.write_strategy("s2", [step])
    project.config["predict"]["restore"] = "labels"
    project.config["ensemble"] = {"both": {"experiments": ["a", "c"]}}
    project.config["experiments"]["c"] = {}
    code, output, jobs = project.run()
    assert code == 1
    assert jobs == {}
    assert "ensemble.both: expected no ensemble beside strategies/s2.json" in output
    assert (
        "predict.restore of a: expected probabilities, at which strategies/s2.json looks" in output
    )


@pytest.mark.slow
def test_experiments_are_combined_and_the_ensemble_is_scored_as_they_are(project):
    """Other weights make the ensemble again and what follows from it, and nothing else."""
    project.config["experiments"] = BOTH
    members = {"experiments": ["b", "a"], "backend": "majority_vote"}
    project.config["ensemble"] = {"both": members}
    code, output, jobs = project.run()
    assert code == 0, output
    assert (jobs["ensemble"], jobs["predict"], jobs["evaluate"]) == (3, 4, 3)
    results = project.folder / "results"

    def label_maps(name):
        files = (results / name / "predictions").rglob("*.nii.gz")
        return {path.name: sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in files}

    a, b, both = (label_maps(name) for name in ("a", "b", "both"))
    assert set(both) == set(a) == {*(f"demo_{n:02d}.nii.gz" for n in range(1, 5)), TEST_FILE}
    for case, found in both.items():
        np.testing.assert_array_equal(found, np.where(a[case] == b[case], a[case], 0))
    assert any((a[case] != b[case]).any() for case in a)
    ranked = {row["strategy"] for row in read_rows(results / "rank/ranking.csv")}
    assert ranked == {"a/raw", "b/raw", "both/raw"}
    assert "both/raw" in (results / "report.html").read_text(encoding="utf-8")

    before = project.made()
    members["weights"] = [2, 1]
    again = {"ensemble": 3, "gather_predicted_tests": 1, "evaluate": 1}
    assert project.jobs() == again | GATHER | OF_ALL
    assert {Path(path).parts[1] for path in project.changed(before)} == {"both"}
    for case, found in label_maps("both").items():
        np.testing.assert_array_equal(found, b[case])


@pytest.mark.slow
def test_an_ensemble_follows_its_experiments(project):
    """Here one of probabilities, on the grid of the scanner, whatever grid a network sees."""
    project.config["ensemble"] = {"both": {"experiments": ["a", "b"], "backend": "mean"}}
    project.config["experiments"]["b"] = {"analyze": {"target_spacing": [1.5, 1.5, 1.5]}}
    assert project.jobs()["evaluate"] == 3
    # Another case, in one invocation: behind the checkpoints of both.
    project.add("train", "case_00", like="demo_01")
    assert project.jobs()["ensemble"] == 3
    raw = "predictions/train/raw"
    results = project.folder / "results"
    found = read_labels(results / f"both/{raw}/case_00.nii.gz").array
    a, b = (
        read_probabilities(results / f"{name}/{raw}/probabilities/case_00.nii.gz")[0]
        for name in "ab"
    )
    labels = np.array(read_json(results / "config.json")["dataset_info"]["labels"])
    np.testing.assert_array_equal(found, labels[((a + b) / 2).argmax(axis=0)])


@pytest.mark.slow
def test_an_ensemble_passes_on_what_failed_in_its_experiments(project):
    project.config["postprocess"] = {"strategies": ["strategies/s1.json"]}
    project.config["experiments"] = BOTH
    project.config["ensemble"] = {"both": {"experiments": ["a", "b"]}}
    image = project.folder / "data/test/test_01/t1.nii.gz"
    good = image.read_bytes()
    image.write_bytes(b"nothing")
    code, output, _ = project.run()
    assert code == 1
    assert "case test_01: data/test/test_01/t1.nii.gz: expected a readable image" in output
    predictions = project.folder / "results/both/predictions"
    assert len(list((predictions / "train/raw").glob("*.nii.gz"))) == 4
    assert not (predictions / "test" / TEST_FILE).exists()
    image.write_bytes(good)
    jobs = project.jobs()
    assert (jobs["ensemble"], jobs["postprocess"]) == (1, 3)
    before = project.made()
    (predictions / "test" / TEST_FILE).unlink()
    again = {"ensemble": 1, "gather_predicted_tests": 1, "postprocess": 1, "report": 1}
    assert project.jobs() == again | GATHER
    assert {Path(path).name for path in project.changed(before)} == {TEST_FILE}
    del project.config["ensemble"]
    assert project.jobs() == GATHER | OF_ALL


@pytest.mark.slow
def test_many_changes_at_once_are_all_followed(project):
    project.config["postprocess"] = STRATEGIES
    project.jobs()
    project.add("train", "case_00", like="demo_01")
    project.add("test", "test_07", like="test_01")
    project.write_strategy("s1", [*SMALL, *SMALL])
    project.config["train"]["learning_rate"] = 0.01
    (project.folder / "numpy/images/demo_01.npy").unlink()
    (project.folder / "results/a/results.csv").unlink()
    jobs = project.jobs()
    expected = {"train": 2, "predict": 2, "predict_test": 1, "evaluate": 3}
    assert {rule: jobs[rule] for rule in expected} == expected


@pytest.mark.slow
def test_a_stage_that_is_asked_for_again_is_made_again(project):
    project.jobs()
    before = project.made()
    # The arrays are what they were, so nothing follows from them.
    jobs = project.jobs("--forcerun", "preprocess")
    assert jobs == {"preprocess": 3, "gather_arrays": 1, "gather_test_arrays": 1}
    arrays = {path for path in before if path.startswith("numpy")}
    assert project.changed(before) == arrays

    checkpoint = project.folder / "results/a/checkpoints/fold_0_checkpoint.pt"
    trained = checkpoint.stat().st_mtime_ns
    assert project.jobs("--forcerun", "train")["predict"] == 2
    assert checkpoint.stat().st_mtime_ns > trained


@pytest.mark.slow
def test_code_is_followed_where_the_config_says_so(tmp_path):
    root = tmp_path / "repository"
    for name in ("mist_core", "workflow", "profiles", "config", "envs"):
        shutil.copytree(ROOT / name, root / name)
    shutil.copy(ROOT / "Snakefile", root)
    (tmp_path / "project").mkdir()
    project = Project(tmp_path / "project", root)
    project.config |= {"postprocess": STRATEGIES, "track_code": ["preprocess", "postprocess"]}
    project.jobs()

    def edit(module):
        with (root / f"mist_core/{module}.py").open("a") as stream:
            stream.write("# an edit\n")

    edit("train")
    edit("predict")
    assert project.jobs() == {}
    before = project.made()
    edit("postprocess")
    assert project.jobs() == {"postprocess": 6, "evaluate": 2} | GATHER | OF_ALL
    assert {"postprocess"} == {Path(p).parts[2] for p in project.changed(before)}
    before = project.made()
    edit("resample")
    gather = {"gather_arrays": 1, "gather_test_arrays": 1} | GATHER
    assert project.jobs() == {"preprocess": 3} | gather
    assert {path for path in before if path.startswith("numpy")} == project.changed(before)


@pytest.mark.slow
def test_experiments_share_the_grid_unless_they_change_it(project):
    project.config["experiments"] = {
        "a": {},
        "patch": {"analyze": {"patch_size": [32, 16, 16]}},
        "fine": {"analyze": {"target_spacing": [0.9, 0.9, 0.9]}},
    }
    jobs = project.jobs()
    assert (jobs["fingerprint"], jobs["analyze"], jobs["preprocess"]) == (2, 3, 6)
    assert (jobs["gather_arrays"], jobs["train"]) == (2, 6)
    shapes = [
        np.load(project.folder / f"numpy/{grid}images/demo_01.npy", mmap_mode="r").shape
        for grid in ("", "fine/")
    ]
    assert np.prod(shapes[1]) > 1.3 * np.prod(shapes[0])
    assert not (project.folder / "numpy/patch").exists()

    project.config["experiments"]["fine"]["analyze"]["target_spacing"] = [1.0, 0.9, 0.9]
    jobs = project.jobs()
    assert (jobs["analyze"], jobs["preprocess"], jobs["train"]) == (1, 3, 2)
    assert "fingerprint" not in jobs


@pytest.mark.slow
def test_the_cases_of_a_patient_share_a_fold(project):
    rows = [f"demo_{n:02d},{patient}" for n, patient in enumerate("PQPQ", 1)]
    (project.folder / "cases.csv").write_text("\n".join(["id,patient", *rows]) + "\n")
    project.config["analyze"]["case_table"] = "cases.csv"
    project.jobs()
    folds = project.folds()
    assert folds["demo_01"] == folds["demo_03"] != folds["demo_02"] == folds["demo_04"]
    row = read_rows(project.folder / "results/a/results_summary.csv")[0]
    scores = read_rows(project.folder / "results/a/results.csv")[:4]
    dice = {r["id"]: float(r[f"{row['class']}_{row['metric']}"]) for r in scores}
    means = [dice["demo_01"] + dice["demo_03"], dice["demo_02"] + dice["demo_04"]]
    assert float(row["ci_low"]) == pytest.approx(min(means) / 2)  # of two patients, not four cases
    facts = json.loads((project.folder / "results/evaluation.json").read_text())
    assert (facts["n_cases"], facts["n_patients"]) == (4, 2)

    (project.folder / "cases.csv").write_text("id,patient\ndemo_01,P\n")
    code, output, _ = project.run()
    assert code == 1
    assert "cases.csv: expected one row for case demo_04, found 0." in output


def test_folds_may_have_the_cases_of_every_label_in_equal_parts(project):
    for name in ("demo_01", "demo_02"):
        path = project.folder / f"data/train/{name}/mask.nii.gz"
        mask = sitk.ReadImage(str(path))
        sitk.WriteImage(mask * (mask != 4), str(path))
    project.config["analyze"]["stratify"] = True
    target = ("--", "analyzed")
    code, output, _ = project.run(*target)
    assert code == 0, output
    assert "Looking at the labels of all cases" in output
    folds = project.folds()
    assert folds["demo_01"] != folds["demo_02"]
    assert folds["demo_03"] != folds["demo_04"]
    code, output, _ = project.run(*target)
    assert code == 0, output
    assert "Nothing to be done" in output
    assert "Looking at" not in output


@pytest.mark.slow
def test_results_of_another_dataset_are_not_overwritten(project):
    project.jobs()
    before = project.made()
    path = project.folder / "data/dataset.json"
    path.write_text(path.read_text().replace('"demo"', '"liver"'))
    code, output, jobs = project.run()
    assert code == 1
    assert "results: expected the results of liver, found those of demo." in output
    assert jobs == Counter()
    assert project.made() == before


def wait_for(condition, seconds=120):
    """Wait until ``condition()`` holds, but not for ever."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_a_killed_run_goes_on_where_it_was(project):
    run = subprocess.Popen(
        project.command(),
        cwd=project.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    results = project.folder / "results"
    wait_for(lambda: list(results.glob("*/models/fold_?.pt")))
    os.killpg(run.pid, signal.SIGKILL)
    run.wait(timeout=120)
    trained = len(list(results.glob("*/models/fold_?.pt")))
    assert trained >= 1
    before = project.made()
    finished = {record.stem for record in project.folder.glob("numpy/**/.done/*.json")}

    jobs = project.jobs()
    assert "fingerprint" not in jobs
    again = {Path(path).stem for path in project.changed(before) if path.startswith("numpy")}
    assert not again & finished
    # A model whose job was killed between writing it and ending is not trusted.
    assert 2 - trained <= jobs["train"] <= 2
    assert jobs["report"] == 1


@pytest.mark.slow
def test_a_killed_training_is_explained_and_goes_on(project):
    """Killed alone, killed and tried again by the same run, and left behind by a killed run."""
    epochs = 200
    project.config["train"] |= {"epochs": epochs, "checkpoint_minutes": 0}
    project.config["folds_to_train"] = [0]
    log = project.folder / "results/logs/train/a_fold_0.log"

    def start(*more):
        log.unlink(missing_ok=True)
        pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen([*project.command(), *more], cwd=project.folder, **pipe)

    def says(words, times=1):
        return lambda: log.exists() and log.read_text().count(words) >= times

    def kill_the_training_of(run):
        wait_for(says(" loss ", 3))  # so there is a checkpoint, of this try
        for process in psutil.Process(run.pid).children(recursive=True):
            if "--checkpoint" in process.cmdline():
                process.kill()

    first = start()
    kill_the_training_of(first)
    output, _ = first.communicate(timeout=120)
    assert first.returncode == 1
    assert "train experiment a, fold 0 failed: killed before it could say why" in output
    assert "Lower train.batch_size" in output.split("Failed:")[1]
    assert "CalledProcessError" not in output

    second = start("--retries", "1")
    kill_the_training_of(second)
    wait_for(lambda: not says(" loss ")())  # the second try has a log of its own
    wait_for(says(" loss "))
    assert says("going on after epoch")()
    second.kill()  # but not its jobs
    second.wait(timeout=120)
    second.stdout.close()

    assert project.jobs()["train"] == 1
    assert says(f"going on after epoch {epochs}")() or says(f"epoch {epochs}/{epochs}")()
    history = read_rows(project.folder / "results/a/logs/fold_0/history.csv")
    assert [int(row["epoch"]) for row in history] == list(range(1, epochs + 1))


def test_two_runs_on_one_results_folder_are_kept_apart(project):
    first = subprocess.Popen(
        project.command(),
        cwd=project.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for((project.folder / "results/fingerprints").exists)
    code, output, _ = project.run()
    first.terminate()
    assert first.wait(timeout=120) == 1
    assert code == 1
    assert "ERROR: results: expected no other run, found one at work (process " in output


def test_a_wrong_config_and_a_missing_file_are_shown_together_before_any_job(project):
    project.config["train"]["epoch"] = 5
    project.config["analyze"]["folds"] = 1
    project.config["postprocess"]["strategies"].append("strategies/s3.json")
    (project.folder / "data/train/demo_02/t2.nii.gz").unlink()
    code, output, jobs = project.run()
    assert code == 1
    assert "train.epoch: expected no such key, found 5." in output
    assert "analyze.folds: expected at least 2, found 1." in output
    assert "in its name for channel t2, found none." in output
    assert jobs == Counter()


@pytest.mark.slow
def test_an_edited_description_is_noticed(project):
    assert project.jobs()["train"] == 2
    path = project.folder / "data/dataset.json"
    fields = json.loads(path.read_text())

    fields["final_classes"] = {"core": [2, 4]}
    path.write_text(json.dumps(fields))
    assert project.jobs() == {"analyze": 1, "test_paths": 1, "evaluate": 1} | OF_ALL

    fields["images"] = {"t2": ["t2"], "t1": ["t1"]}
    path.write_text(json.dumps(fields))
    jobs = project.jobs()
    assert (jobs["fingerprint"], jobs["preprocess"], jobs["train"]) == (2, 3, 2)


@pytest.mark.slow
def test_folds_are_chosen_in_their_record_and_not_in_a_table(project):
    project.jobs()
    record = project.folder / "results/folds.json"
    folds = json.loads(record.read_text())
    a, b = (next(i for i in folds["folds"] if folds["folds"][i] == k) for k in (0, 1))
    folds["folds"] |= {a: 1, b: 0}
    record.write_text(json.dumps(folds))
    assert project.jobs()["train"] == 2

    table = project.folder / "results/train_paths.csv"
    assert {row["id"]: int(row["fold"]) for row in read_rows(table)} == folds["folds"]
    table.write_text(table.read_text().replace(f"{a},1", f"{a},0"))
    code, output, _ = project.run()
    assert code == 1
    assert f"expected fold 1 for {a}" in output
    table.unlink()

    # Another number of folds deals anew.
    project.config["analyze"]["folds"] = 3
    assert project.jobs()["train"] == 3
    assert set(project.folds().values()) == {0, 1, 2}


def test_all_missing_and_unclear_files_are_shown_together(project):
    data = project.folder / "data/train"
    (data / "demo_02/t2.nii.gz").unlink()
    shutil.copy(data / "demo_03/t1.nii.gz", data / "demo_03/t1_copy.nii.gz")
    (data / "demo_04/mask.nii.gz").write_text("not an image")
    for dry in (True, False):
        code, output, jobs = project.run(*["--dry-run"] * dry)
        assert code == 1
        assert "demo_02: expected one file with 't2' in its name for channel t2, found" in output
        assert "found t1.nii.gz, t1_copy.nii.gz" in output
        assert "Traceback" not in output
        assert (jobs == Counter()) if dry else not {"preprocess", "train"} & set(jobs)
    # What only the voxels show stands in the same table.
    table = output.split("analyze failed:")[1]
    assert [f"  demo_0{number}  " in table for number in (1, 2, 3, 4)] == [False, True, True, True]


def test_all_bad_files_of_a_dataset_are_shown_together(project):
    train = project.folder / "data/train"
    image = sitk.ReadImage(str(train / "demo_01/t1.nii.gz"))
    sitk.WriteImage(sitk.JoinSeries([image, image]), str(train / "demo_01/t1.nii.gz"))
    whole = (train / "demo_02/t2.nii.gz").read_bytes()
    (train / "demo_02/t2.nii.gz").write_bytes(whole[: len(whole) // 2])
    mask = sitk.ReadImage(str(train / "demo_03/mask.nii.gz"))
    mask[0, 0, 0] = 7
    sitk.WriteImage(mask, str(train / "demo_03/mask.nii.gz"))
    (train / "demo_04/t1.nii.gz").write_bytes(gzip.compress(b"not an image"))

    code, output, jobs = project.run()
    assert code == 1
    assert "data/train/demo_01/t1.nii.gz: expected a 3-D image, found 4-D" in output
    assert "data/train/demo_02/t2.nii.gz: expected a readable image" in output
    assert "demo_03/mask.nii.gz: expected labels among [0, 1, 2, 4], found 7 (1 voxels)" in output
    assert "data/train/demo_04/t1.nii.gz: expected a readable image" in output
    assert "Traceback" not in output
    assert jobs["fingerprint"] == 2
    assert "preprocess" not in jobs

    # Mending the files is all it takes: what was read well is not read again.
    made = ROOT / "workflow/scripts/make_demo_data.py"
    subprocess.run([sys.executable, made, "--output", project.folder / "fresh"], check=True)
    for case, name in (("01", "t1"), ("02", "t2"), ("03", "mask"), ("04", "t1")):
        shutil.copy(
            project.folder / f"fresh/train/demo_{case}/{name}.nii.gz", train / f"demo_{case}"
        )
    code, output, _ = project.run("--", "preprocessed")
    assert code == 0, output


def test_a_lost_description_is_made_again_for_the_same_data_dump(project):
    project.config["analyze"]["data_dump"] = True
    _, output, jobs = project.run("--", "analyzed")
    assert {rule: jobs[rule] for rule in ("describe", "data_dump.log")} == {
        **{"describe": 2, "data_dump.log": 1}
    }, output
    results = project.folder / "results"
    names = ("data_dump.json", "data_dump.md")
    texts = [(results / name).read_text(encoding="utf-8") for name in names]
    assert json.loads(texts[0])["dataset_summary"]["num_patients"] == 4
    assert texts[1].startswith("# Data dump: demo\n")

    (results / "descriptions/demo_02.npy").unlink()
    (results / "data_dump.md").unlink()
    _, output, jobs = project.run("--", "analyzed")
    assert jobs == {"describe": 1, "data_dump.log": 1}, output
    assert texts == [(results / name).read_text(encoding="utf-8") for name in names]


def test_a_bad_test_case_fails_alone_and_the_others_are_finished(project):
    test = project.folder / "data/test"
    shutil.copytree(test / "test_01", test / "test_02")
    (test / "test_02/t1.nii.gz").write_bytes(b"nothing")
    shutil.copytree(test / "test_01", test / "test_03")
    (test / "test_03/t2.nii.gz").unlink()
    code, output, _ = project.run()
    assert code == 1
    assert "case test_03: data/test/test_03: expected one file with 't2' in its name" in output
    shutil.rmtree(test / "test_03")
    assert "case test_02: data/test/test_02/t1.nii.gz: expected a readable image" in output
    results = project.folder / "results/a"
    assert (results / "predictions/test/test_01.nii.gz").exists()
    assert (results / "results.csv").exists()
    assert not (results / "predictions/test/test_02.nii.gz").exists()
    code, output, _ = project.run("--", "preprocessed")
    assert code == 1
    assert "case test_02: data/test/test_02/t1.nii.gz" in output

    # Mended by a file that is older than all that was made, as a copy of a backup is.
    shutil.copy2(test / "test_01/t1.nii.gz", test / "test_02/t1.nii.gz")
    os.utime(test / "test_02/t1.nii.gz", (1e9, 1e9))
    assert project.jobs()["predict_test"] == 1
    assert (results / "predictions/test/test_02.nii.gz").exists()


def test_the_report_is_told_of_test_cases_that_are_all_bad(project):
    (project.folder / "data/test/test_01/t2.nii.gz").unlink()
    _, output, _ = project.run("--dry-run")
    assert "rule gather_predicted_tests:" in output


def test_bad_cases_are_left_out_by_name_and_come_back_when_they_are_mended(project):
    project.add("train", "bad_mask", like="demo_01")
    project.add("train", "no_image", like="demo_02")
    project.add("test", "bad_test", like="test_01")
    data, results = project.folder / "data", project.folder / "results"
    good = (data / "train/bad_mask/mask.nii.gz").read_bytes()
    (data / "train/bad_mask/mask.nii.gz").write_text("not an image")
    (data / "train/no_image/t1.nii.gz").unlink()
    (data / "test/bad_test/t1.nii.gz").write_text("not an image")
    project.config["analyze"]["verify"] = "drop"
    code, output, _ = project.run()
    assert code == 0, output
    for name in ("bad_mask", "bad_test", "no_image"):
        assert f"Left out: {name}: data/t" in output
    page = (results / "report.html").read_text(encoding="utf-8")
    assert "bad_mask/mask.nii.gz: expected a readable image" in page
    names = {path.name for path in (results / "a/predictions").rglob("*.nii.gz")}
    assert names == {f"{i}.nii.gz" for i in (*project.folds(), "test_01")}
    assert set(project.folds()) == {f"demo_0{number}" for number in (1, 2, 3, 4)}

    # Bad in another way: the report is made again, and nothing is trained.
    shutil.copy(data / "train/demo_01/t1.nii.gz", data / "train/bad_mask/mask.nii.gz")
    _, output, _ = project.run("--", "analyzed")
    reason = "bad_mask/mask.nii.gz: expected whole-number labels"
    assert f"Left out: bad_mask: data/train/{reason}" in output
    assert not {"train", "predict"} & set(project.run()[2])
    assert reason in (results / "report.html").read_text(encoding="utf-8")

    (data / "train/bad_mask/mask.nii.gz").write_bytes(good)
    shutil.copy(data / "test/test_01/t1.nii.gz", data / "test/bad_test/t1.nii.gz")
    jobs = project.jobs()
    assert jobs["train"] >= 1
    assert jobs["predict_test"] == 1
    assert "bad_mask" in project.folds()
    rows = read_rows(results / "a/results.csv")
    assert "bad_mask" in {row["id"] for row in rows}
    assert (results / "a/predictions/test/bad_test.nii.gz").exists()


def assert_on_the_grid_of_the_scanner_with_the_labels_of_the_dataset(project):
    for case in ("demo_01", "demo_02", "demo_03", "demo_04"):
        mask = sitk.ReadImage(str(project.folder / f"data/train/{case}/mask.nii.gz"))
        path = project.folder / f"results/a/predictions/train/raw/{case}.nii.gz"
        prediction = sitk.ReadImage(str(path))
        assert prediction.GetSize() == mask.GetSize()
        np.testing.assert_allclose(prediction.GetOrigin(), mask.GetOrigin(), atol=1e-3)
        np.testing.assert_allclose(prediction.GetDirection(), mask.GetDirection(), atol=1e-6)
        assert set(np.unique(sitk.GetArrayFromImage(prediction))) <= {0, 1, 2, 4}


@pytest.mark.slow
def test_cases_may_lack_an_optional_channel(project):
    """A training and a test case run through without it, and again when its file is there.

    All predictions lie on the grid of the scanner.
    """
    data, results = project.folder / "data", project.folder / "results"
    path = data / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"optional_images": ["t2"]}))
    kept = (data / "train/demo_02/t2.nii.gz").read_bytes()
    for case in ("train/demo_02", "test/test_01"):
        (data / case / "t2.nii.gz").unlink()
        project.config["analyze"] |= {"data_dump": True, "target_spacing": [1.5, 1.5, 1.5]}
    project.jobs()

    plan = json.loads((results / "config.json").read_text())
    assert plan["dataset_info"]["optional_images"] == ["t2"]
    rows = read_rows(results / "train_paths.csv") + read_rows(results / "test_paths.csv")
    assert [row["id"] for row in rows if not row["t2"]] == ["demo_02", "test_01"]
    dump = json.loads((results / "data_dump.json").read_text())
    assert dump["dataset_summary"]["missing_images"] == {"t2": 1}
    logs = "".join(log.read_text() for log in (results / "logs/preprocess").rglob("*.log"))
    told = re.findall(r"case (\S+): t2 missing: zeros in place", logs)
    assert sorted(told) == ["demo_02", "test_01"]
    numpy = project.folder / "numpy"
    for array in (*numpy.glob("images/*.npy"), *numpy.glob("test/images/*.npy")):
        t1, t2 = np.load(array)
        assert t1.any()
        assert t2.any() == (array.stem not in told)
    made = {file.name for file in (results / "a/predictions").rglob("*.nii.gz")}
    assert made == {f"{case}.nii.gz" for case in (*project.folds(), "test_01")}
    assert_on_the_grid_of_the_scanner_with_the_labels_of_the_dataset(project)

    (project.folder / "new.csv").write_text("id,t1\nnew,data/test/test_01/t1.nii.gz\n")
    said = subprocess.run(
        [
            *(sys.executable, ROOT / "workflow/scripts/predict_files.py", "--device", "cpu"),
            *("--models-dir", "results/a/models", "--paths-csv", "new.csv", "--output", "new"),
        ],
        cwd=project.folder,
        check=True,
        text=True,
        stderr=subprocess.PIPE,
    ).stderr
    (row,) = read_rows(project.folder / "new/predictions.csv")
    assert row["flags"].startswith("t2 missing")
    assert said.count("look at case new: t2 missing") == 1

    before = project.made()
    (data / "train/demo_02/t2.nii.gz").write_bytes(kept)
    jobs = project.jobs()
    assert (jobs["fingerprint"], jobs["preprocess"], jobs["train"]) == (1, 1, 1)
    arrays = {Path(p).stem for p in project.changed(before) if p.startswith("numpy")}
    assert arrays == {"demo_02"}
    assert np.load(numpy / "images/demo_02.npy")[1].any()


OWN_NETWORK = """
from torch import nn


class Tiny(nn.Conv3d):
    def forward(self, x):
        return (super().forward(x),)


def tiny(in_channels, out_channels, patch_size, spacing):
    return Tiny(in_channels, out_channels, 1)
"""


@pytest.mark.slow
def test_networks_and_losses_of_all_kinds_share_a_run(project):
    """Each with the patch, the targets and the arrays that it needs; some voxels are ignored."""
    path = project.folder / "data/dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"ignore_label": 255}))
    mask = project.folder / "data/train/demo_01/mask.nii.gz"
    image = sitk.ReadImage(str(mask))
    image[:, :, :5] = 255
    sitk.WriteImage(image, str(mask))
    (project.folder / "my_nets.py").write_text(OWN_NETWORK)
    project.config["preprocess"] = {"compute_dtms": True}
    own = {"train": {"model": "my_nets:tiny", "optimizer": "sgd"}}
    project.config["experiments"] = {
        "own": own,
        "regions": {"train": {"regions": True, "ema": 0.9}},
        "mednext": {
            "analyze": {"patch_size": [32, 16, 16]},
            "train": {"model": "mednext-small", "loss": "hdos"},
        },
    }
    jobs = project.jobs()
    assert (jobs["train"], jobs["analyze"]) == (6, 2)  # own: the plan of the others
    results = project.folder / "results"
    for name in project.config["experiments"]:
        predicted = results / name / "predictions/train/raw/demo_01.nii.gz"
        assert set(np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(predicted))))) <= {
            0,
            1,
            2,
            4,
        }
        rows = read_rows(results / name / "results.csv")
        assert len([row for row in rows if row["id"].startswith("demo")]) == 4

    # An experiment begins with the weights of another; code of one's own is tracked.
    weights = "results/regions/models/fold_{fold}.pt"
    project.config["experiments"] |= {
        "regions": {"train": {"regions": True, "ema": 0.95}},
        "tuned": {"train": {"pretrained_weights": weights}},
    }
    del project.config["experiments"]["mednext"]
    assert project.jobs()["train"] == 4
    assert "tensors loaded" in (results / "logs/train/tuned_fold_0.log").read_text()
    project.config["experiments"] = {
        "own": {"train": {"model": "my_nets:tiny", "optimizer": "sgd"}}
    }
    assert "train" not in project.jobs()
    wider = OWN_NETWORK.replace("channels, 1)", "channels, 3, padding=1)")
    (project.folder / "my_nets.py").write_text(wider)
    code, output, jobs = project.run("--", "results/own/models/fold_0.pt")
    assert code == 0, output
    assert jobs["train"] == 1


def test_what_a_training_lacks_is_said_before_any_job(project):
    project.config["train"] |= {"loss": "bl", "pretrained_weights": "none.pt"}
    project.config["experiments"] = {
        "a": {"train": {"model": "my_nets:tiny"}},
        "b": {"train": {"model": "unet"}},
    }
    code, output, jobs = project.run()
    assert (code, jobs) == (1, Counter())
    assert "experiments.b.train.model: expected one of nnunet, nnunet-pocket, " in output
    del project.config["experiments"]["b"]
    code, output, _ = project.run()
    assert code == 1
    assert "experiments.a.train.loss: expected preprocess.compute_dtms to be true for bl" in output
    project.config["preprocess"] = {"compute_dtms": True}
    project.config["rank"] = {"weights": {"organ_dise": 2, "spot": 2, "avg_surf": 0}}
    code, output, _ = project.run()
    assert code == 1
    assert "train.pretrained_weights: expected a model file, found none at none.pt" in output
    assert "my_nets:tiny: expected a file" in output
    assert "  organ_dise: expected a class, a metric or a column among organ_dice, " in output
    for name, words in (("a", "weights of another model"), ("b", "fold_{fold}.pt for weights in")):
        project.config["experiments"] = {name: {}, "a": {}}
        weights = {"pretrained_weights": "results/a/models/fold_0.pt"}
        project.config["experiments"][name] = {"train": weights}
        code, output, _ = project.run()
        assert code == 1
        assert f"train.pretrained_weights: expected {words}" in output


def test_left_and_right_are_told_apart_before_any_job(project):
    path = project.folder / "data/dataset.json"
    classes = {"left_organ": [1], "right_organ": [2], "spot": [2, 4]}
    fields = json.loads(path.read_text()) | {"final_classes": classes}
    path.write_text(json.dumps(fields))
    code, output, _ = project.run("--dry-run")
    assert code == 0, output
    assert "Warning" not in output  # nothing is mirrored
    project.config["train"]["mirror_axes"] = "x"
    code, output, _ = project.run("--dry-run")
    assert code == 0, output
    assert "Warning: left_organ and right_organ look like left and right" in output
    path.write_text(json.dumps(fields | {"mirrored_labels": [[1, 2]]}))
    code, output, _ = project.run("--dry-run")
    assert code == 0, output
    assert "Warning" not in output
    project.config["train"]["regions"] = True
    code, output, _ = project.run("--dry-run")
    assert code == 1
    assert "expected final_classes with a mirror image of each by mirrored_labels" in output
    assert "found none for spot [2, 4]. Add a class of [1, 4], or leave x out" in output


def gpus_taken(project, rule="train"):
    """The GPU that each job says it took, with when it did so and when it ended."""
    logs = sorted((project.folder / f"results/logs/{rule}").glob("*.log"))
    taken = [(re.search(r"(\S+) took GPU (\S+)", path.read_text()), path) for path in logs]
    times = [
        (found[2], found[1], time.strftime("%H:%M:%S", time.localtime(path.stat().st_mtime)))
        for found, path in taken
        if found
    ]
    return sorted(times)


def assert_one_job_at_a_time(taken):
    """No GPU had two jobs at once, as far as whole seconds tell."""
    for (gpu, _, end), (next_gpu, start, _) in pairwise(taken):
        assert gpu != next_gpu or end <= start


def test_jobs_on_one_machine_have_a_gpu_each(project):
    """Two made-up GPUs: the count of jobs at once follows, and no two of them share a device."""
    project.config["experiments"] = BOTH
    models = [f"results/{name}/models/fold_{fold}.pt" for name in BOTH for fold in (0, 1)]
    code, output, _ = project.run("--", *models, CUDA_VISIBLE_DEVICES="4,7")
    assert code == 0, output
    taken = gpus_taken(project)
    assert len(taken) == 4
    assert {gpu for gpu, _, _ in taken} == {"4", "7"}
    assert_one_job_at_a_time(taken)
    assert 'Provided resources: gpu=Resource("gpu", 2)' in output


@pytest.mark.slow
@pytest.mark.usefixtures("slurm")
def test_a_slurm_cluster_runs_it_all(tmp_path):
    project = Project(tmp_path, options=SLURM)
    jobs = project.jobs()
    assert (jobs["train"], jobs["preprocess"], jobs["report"]) == (2, 3, 1)
    assert {gpu for gpu, _, _ in gpus_taken(project)} == {"0", "1"}


@pytest.mark.slow
def test_another_workflow_uses_it_as_a_module(project):
    """With names of its own for the rules, and a result that is made from those of this one."""
    (project.folder / "Snakefile").write_text(f'''
configfile: "my.yaml"


module mist:
    snakefile:
        "{ROOT}/workflow/Snakefile"
    config:
        config


use rule * from mist as mist_*


rule mine:
    default_target: True
    input:
        "results/rank/ranking.csv",
    output:
        "mine.csv",
    shell:
        "cp {{input}} {{output}}"
''')
    project.command()
    project.options = (*project.options, "--workflow-profile", str(ROOT / "profiles/default"))
    project.root = project.folder
    assert project.jobs()["train"] == 2
    assert (project.folder / "mine.csv").read_text().startswith("strategy")


def test_the_demo_goes_from_nothing_to_the_report(tmp_path):
    """With its own data and strategies, and, as the command line says, fewer steps of training."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    few = ["train={epochs: 1, steps_per_epoch: 1, batch_size: 1}", "postprocess={auto: false}"]
    few += ["analyze={patch_size: [16, 16, 16]}", "predict={flips: false, overlap: 0}"]
    command = [BIN / "snakemake", "--snakefile", ROOT / "Snakefile", "--cores", "2"]
    for outcome in ("Report: results/report.html", "Nothing to be done"):
        done = subprocess.run(
            [*command, "--config", *few],
            cwd=tmp_path,
            check=False,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stdout
        assert outcome in done.stdout
    assert (tmp_path / "results/report.html").exists()
    log = (tmp_path / "results/logs/train/default_fold_1.log").read_text()
    assert "batch 1, 1 epochs of 1 steps" in log
    assert (tmp_path / "results/default/postprocess/keep-largest").exists()
