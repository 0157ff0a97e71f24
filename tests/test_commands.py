"""The commands that are installed: every flag there, none ignored, Snakemake underneath."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import yaml
from conftest import ROOT, ball, grid
from test_train import PLAN

from mist_core.commands import home
from mist_core.config import Train
from mist_core.errors import DataError
from mist_core.files import read_rows
from mist_core.io import Volume, read_labels, write_volume

FLAGS = {
    "analyze": "--data --results --nfolds --num-workers-analyze --verify --data-dump --overwrite",
    "preprocess": "--results --numpy --num-workers-preprocess --compute-dtms --no-preprocess "
    "--overwrite",
    "train": "--numpy --results --overwrite --num-workers-evaluate --model --patch-size --loss "
    "--composite-loss-weighting --epochs --batch-size-per-gpu --learning-rate --lr-scheduler "
    "--warmup-epochs --optimizer --l2-penalty --folds --val-percent --resume "
    "--pretrained-weights --pretrained-config --input-channel-strategy",
    "predict": "--models-dir --config --paths-csv --output --device --postprocess-strategy --input "
    "--image --id --folds --tta --overlap --window-batch --resume --overwrite",
    "postprocess": "--base-predictions --output --postprocess-strategy --num-workers-postprocess "
    "--num-workers-evaluate --paths-csv --eval-config",
    "evaluate": "--config --paths-csv --output-csv --num-workers-evaluate --validate",
    "rank": "--results --output-csv --names --output-detailed-csv --metric-direction-overrides "
    "--id-column --significance-csv",
    "ensemble": "--predictions --output --input-type --config --ensemble-backend "
    "--probability-ensemble-backend --weights --output-probs --num-workers-ensemble",
    "average_weights": "--weights --output",
    "package": "--models-dir --config --folds --output --onnx --licence",
    "convert_msd": "--source --output --link --num-workers-conversion",
    "convert_csv": "--train-csv --output --test-csv --link --num-workers-conversion",
    "convert_nnunet": "--source --output --link --num-workers-conversion",
}
FLAGS["run_all"] = " ".join(FLAGS[name] for name in ("analyze", "preprocess", "train"))
DEFAULTS = [
    ("run_all", "--results", "results"),
    ("run_all", "--numpy", "numpy"),
    ("analyze", "--nfolds", "5"),
    ("train", "--model", "nnunet"),
    ("train", "--loss", "dice_ce"),
    ("train", "--epochs", "1000"),
    ("train", "--batch-size-per-gpu", "2"),
    ("train", "--learning-rate", "0.001"),
    ("train", "--warmup-epochs", "20"),
    ("train", "--l2-penalty", "0.0001"),
    ("predict", "--device", "cuda"),
    ("predict", "--overlap", "0.5"),
    ("predict", "--window-batch", "4"),
    ("postprocess", "--num-workers-postprocess", "1"),
    ("evaluate", "--num-workers-evaluate", "1"),
    ("rank", "--id-column", "id"),
    ("ensemble", "--ensemble-backend", "staple"),
    ("ensemble", "--probability-ensemble-backend", "mean"),
    ("convert_msd", "--num-workers-conversion", "1"),
]


def mist(name, *words, cwd=None):
    """Run a command as its entry point does."""
    code = f"from mist_core.commands import {name}; {name}()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def helps():
    """What every command says of its flags, by flag."""
    texts = {}
    for name in FLAGS:
        done = mist(name, "--help")
        assert done.returncode == 0, done.stderr
        options = done.stdout.split("\n  --")[1:]
        texts[name] = {"--" + part.split()[0]: " ".join(part.split()) for part in options}
    return texts


@pytest.mark.parametrize("name", FLAGS)
def test_every_flag_is_there_and_explained(helps, name):
    for flag in FLAGS[name].split():
        assert flag in helps[name], f"{name} lacks {flag}"
        explanation = helps[name][flag].split("]")[-1].split("}")[-1]
        assert len(explanation.split()) >= 2, f"{name} {flag} is not explained"


@pytest.mark.parametrize(("name", "flag", "default"), DEFAULTS)
def test_defaults_are_shown(helps, name, flag, default):
    assert f"(default: {default})" in helps[name][flag]


def test_every_flag_that_users_of_mist_know_is_there(shared, helps):
    """Whatever the usage text names, in the command that it belongs to or in another."""
    known = set().union(*helps.values()) | {"--help"}
    text = (shared / "reference/mist-usage.txt").read_text()
    named = set(re.findall(r"--[a-z][a-z-]+[a-z]", text))
    assert len(named) > 40
    # Words of the text may have lost the space after a flag.
    assert [flag for flag in named if not any(flag.startswith(k) for k in known)] == []


def test_every_command_is_installed():
    scripts = (ROOT / "pyproject.toml").read_text().split("[project.scripts]")[1].split("\n\n")[0]
    assert {line.split(" =")[0] for line in scripts.strip().splitlines()} == {
        f"mist_{name}" for name in FLAGS
    }


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--overwrite", "maybe"], "expected yes or no, found 'maybe'"),
        (["--num-workers-analyze", "0"], "expected a whole number from 1, found '0'"),
        (["--optimizer", "lion"], "invalid choice: 'lion' (choose from 'adam', 'adamw', 'sgd')"),
    ],
)
def test_a_bad_value_of_a_flag_is_one_line(tmp_path, words, reason):
    done = mist("run_all", "--data", "data", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(reason)


def planned(tmp_path, *words):
    """The command line and the config that a command would hand to Snakemake."""
    code = (
        "from mist_core import commands; import json; "
        "commands._become = lambda command: print(json.dumps(command)); commands.run_all()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--data", "data", *map(str, words)],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    command = json.loads(done.stdout)
    files = list((tmp_path / "results").glob("run-*.yaml"))
    return command, [yaml.safe_load(path.read_text()) for path in files]


def after(command, flag):
    """The words that follow a flag, up to the next."""
    rest = command[command.index(flag) + 1 :]
    return rest[: next((i for i, word in enumerate(rest) if word.startswith("-")), len(rest))]


def test_config_files_and_rules_of_the_user_are_joined_with_those_of_the_flags(tmp_path):
    command, configs = planned(
        tmp_path, "--configfile", "mine.yaml", "-R", "rank", "--overwrite", "--epochs", "5"
    )
    *before, last = after(command, "--configfile")
    assert before == ["mine.yaml"]  # flags are stronger
    assert last.startswith("results/run-")
    assert configs[0]["train"] == {"epochs": 5}
    stages = ["fingerprint", "analyze", "describe", "preprocess", "train"]
    assert after(command, "--forcerun") == ["rank", *stages]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {}),
        (["--data-dump"], {"analyze": {"data_dump": True}}),
        (["--data-dump", "no", "--nfolds", "3"], {"analyze": {"folds": 3, "data_dump": False}}),
        (
            ["--compute-dtms", "--no-preprocess"],
            {"preprocess": {"compute_dtms": True, "skip": True}},
        ),
    ],
)
def test_a_switch_is_in_the_config_only_when_it_is_given(tmp_path, words, expected):
    _, configs = planned(tmp_path, *words)
    assert {k: configs[0][k] for k in ("analyze", "preprocess") if k in configs[0]} == expected


def test_flags_of_the_training_are_in_its_section(tmp_path):
    words = (
        "--model mednext-base --loss cldice --composite-loss-weighting linear --optimizer sgd",
        "--lr-scheduler polynomial --pretrained-weights w.pt --pretrained-config c.json",
        "--input-channel-strategy first --l2-penalty 0.01 --val-percent 0.1",
    )
    _, configs = planned(tmp_path, *" ".join(words).split())
    assert configs[0]["train"] == {
        "model": "mednext-base",
        "loss": "cldice",
        "composite_loss_weighting": "linear",
        "optimizer": "sgd",
        "lr_scheduler": "polynomial",
        "pretrained_weights": "w.pt",
        "pretrained_config": "c.json",
        "input_channel_strategy": "first",
        "weight_decay": 0.01,
        "val_percent": 0.1,
    }


@pytest.mark.parametrize(
    ("words", "cores"),
    [
        ([], ["all"]),
        (["--num-workers-analyze", "3", "--num-workers-preprocess", "2"], ["3"]),
        (["--num-workers-evaluate", "2"], ["all"]),
        (["-c4", "--num-workers-analyze", "3"], None),
        (["-j4"], None),
        (["--cores=4"], None),
    ],
)
def test_cores_are_those_of_the_workers_unless_they_are_named(tmp_path, words, cores):
    command, _ = planned(tmp_path, *words)
    assert (after(command, "--cores") if "--cores" in command else None) == cores
    if "--num-workers-evaluate" in words:
        assert after(command, "--set-threads") == [
            *("evaluate=2", "evaluate_strategy=2", "evaluate_tried=2")
        ]


def test_another_config_does_not_touch_that_of_a_run_at_work(tmp_path):
    planned(tmp_path, "--epochs", "5")
    _, configs = planned(tmp_path, "--epochs", "6", "-n")
    assert sorted(each["train"]["epochs"] for each in configs) == [5, 6]


def test_resume_and_overwrite_exclude_each_other(tmp_path):
    done = mist("run_all", "--data", "data", "--resume", "--overwrite", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("ERROR: --resume: expected no --overwrite beside it")


@pytest.mark.parametrize("name", ["preprocess", "train"])
def test_a_stage_without_the_one_before_says_what_is_missing(tmp_path, name):
    done = mist(name, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("ERROR: results/config.json: expected the plan of an analysis")
    assert "Give mist_analyze first" in done.stderr


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Four training cases and a test case of the demo."""
    folder = tmp_path_factory.mktemp("dataset")
    make = ROOT / "workflow/scripts/make_demo_data.py"
    subprocess.run([sys.executable, make, "--output", folder], check=True)
    for number in range(5, 11):
        shutil.rmtree(folder / f"train/demo_{number:02d}")
    shutil.rmtree(folder / "test/test_02")
    return folder


SHORT = ["--epochs", "1", "--batch-size-per-gpu", "1", "--patch-size", "16", "16", "16"]
QUICK = ["--config", 'train={"steps_per_epoch": 1}', 'predict={"flips": false}']


def logs(folder):
    return {p: p.stat().st_mtime_ns for p in (folder / "results/logs").rglob("*.log")}


@pytest.mark.slow
def test_the_stages_one_after_the_other_and_all_at_once(dataset, tmp_path):
    """No stage does again what another did; a flag reruns what it changes; none is remembered."""

    def run(name, *words):
        before = logs(tmp_path)
        done = mist(name, *words, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        changed = [p for p, time in logs(tmp_path).items() if before.get(p) != time]
        return {p.relative_to(tmp_path / "results/logs").parts[0] for p in changed}

    folders = ["--results", "results", "--numpy", tmp_path / "numpy"]
    data = ["--data", dataset / "dataset.json"]
    assert run("analyze", *data, "--nfolds", "2", "--results", "results") == {
        *("fingerprint", "analyze", "test_paths.log"),
    }
    assert run("preprocess", *folders, "--compute-dtms") == {
        *("preprocess", "gather_arrays", "gather_test_arrays", "gather_tests.log"),
    }
    assert len(list((tmp_path / "numpy/dtms").glob("*.npy"))) == 4
    trained = run("train", *folders, *SHORT, *QUICK)
    assert {"train", "predict", "predict_test", "evaluate", "rank.log"} <= trained
    assert "preprocess" not in trained  # what it was told is known
    assert (tmp_path / "results/default/results.csv").exists()
    # The same as one command: nothing is left to do.
    whole = ["run_all", *data, "--nfolds", "2", *folders, *SHORT, *QUICK]
    assert run(*whole, "--compute-dtms") == set()
    # More epochs: training and what follows.
    longer = [*SHORT[2:], "--epochs", "2"]
    again = run("train", *folders, *longer, *QUICK)
    assert "train" in again
    assert not again & {"fingerprint", "preprocess", "analyze"}
    # A dry run goes through to Snakemake.
    assert run("train", *folders, *SHORT, *QUICK, "-n") == set()
    assert run("train", *folders, *longer, *QUICK, "--overwrite") >= {"train", "predict"}

    models = tmp_path / "results/default/models"
    table = tmp_path / "new.csv"
    test = dataset / "test/test_01"
    table.write_text(f"id,t2,t1\nnew,{test}/t2.nii.gz,{test}/t1.nii.gz\n")
    done = mist(
        "predict",
        *("--models-dir", models, "--config", tmp_path / "results/config.json"),
        *("--paths-csv", table, "--output", tmp_path / "new", "--device", "cpu"),
    )
    assert done.returncode == 0, done.stderr
    new = read_labels(tmp_path / "new/new.nii.gz")
    image = sitk.ReadImage(str(test / "t1.nii.gz"))
    assert new.array.shape == image.GetSize()[::-1]
    # Channels go by their names: the columns in another order give the same.
    table.write_text(f"id,t1,t2\nsame,{test}/t1.nii.gz,{test}/t2.nii.gz\n")
    mist(
        "predict",
        *("--models-dir", models, "--config", tmp_path / "results/config.json"),
        *("--paths-csv", table, "--output", tmp_path / "new", "--device", "cpu"),
    )
    same = read_labels(tmp_path / "new/same.nii.gz")
    np.testing.assert_array_equal(new.array, same.array)

    # A switch of one run is not one of the next; distance maps are no reason to train again.
    assert "preprocess" in run("preprocess", *folders)
    assert not list((tmp_path / "numpy/dtms").glob("*.npy"))
    assert run("train", *folders, *longer, *QUICK) <= {"gather_cases.log"}

    folds = [models / "fold_0.pt", models / "fold_1.pt"]
    done = mist("average_weights", "--weights", *folds, "--output", tmp_path / "mean.pt")
    assert done.returncode == 0, done.stderr
    states = [torch.load(p, weights_only=True)["weights"] for p in [*folds, tmp_path / "mean.pt"]]
    for name, value in states[2].items():
        torch.testing.assert_close(value, (states[0][name] + states[1][name]) / 2)


def test_counters_are_kept_and_no_halves_made_of_them(tmp_path):
    plan, settings = PLAN.model_dump(mode="json"), Train().model_dump(mode="json")
    for fold, number in enumerate((3, 4)):
        weights = {"w": torch.tensor([float(number)]), "steps": torch.tensor(number)}
        state = {"weights": weights, "plan": plan, "train": settings, "fold": fold}
        torch.save(state, tmp_path / f"fold_{fold}.pt")
    folds = [tmp_path / "fold_0.pt", tmp_path / "fold_1.pt"]
    done = mist("average_weights", "--weights", *folds, "--output", tmp_path / "mean.pt")
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "mean.pt", weights_only=True)["weights"]
    assert (found["w"].item(), found["steps"].item()) == (3.5, 3)
    assert found["steps"].dtype == torch.int64


@pytest.mark.slow
def test_some_folds_only(dataset, tmp_path):
    words = ["--data", dataset, "--nfolds", "2", *SHORT, "--folds", "1", *QUICK]
    done = mist("run_all", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    home = tmp_path / "results/default"
    assert [p.name for p in (home / "models").iterdir()] == ["fold_1.pt"]
    assert not (home / "results.csv").exists()
    folds = {row["id"]: row["fold"] for row in read_rows(tmp_path / "results/train_paths.csv")}
    predicted = {p.name.split(".")[0] for p in (home / "predictions/train/raw").glob("*.gz")}
    assert predicted == {case for case, fold in folds.items() if fold == "1"}
    # The other one later: tables are made, the first is not trained again.
    before = (home / "models/fold_1.pt").stat().st_mtime_ns
    done = mist("train", *SHORT, *QUICK, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (home / "results.csv").exists()
    assert (home / "models/fold_1.pt").stat().st_mtime_ns == before


def label_map(folder, name, array):
    write_volume(folder / name, Volume(np.asarray(array, np.uint8), grid(np.shape(array))))


def test_a_tie_of_votes_is_background_and_no_new_label(tmp_path):
    a = np.zeros((4, 4, 4))
    a[0], a[1], a[2] = 1, 2, 2
    b = np.zeros((4, 4, 4))
    b[0], b[1], b[2] = 1, 1, 0
    for name, array in (("one", a), ("two", b)):
        label_map(tmp_path / name, "x.nii.gz", array)
    done = mist(
        "ensemble",
        *("--predictions", tmp_path / "one", tmp_path / "two", "--output", tmp_path / "out"),
        *("--ensemble-backend", "majority_vote"),
    )
    assert done.returncode == 0, done.stderr
    found = read_labels(tmp_path / "out/x.nii.gz").array
    assert [set(np.unique(s).tolist()) for s in found] == [{1}, {0}, {0}, {0}]


def test_staple_follows_those_who_agree(tmp_path):
    truth = ball(grid((12, 12, 12)), value=3).array
    odd = np.roll(truth, 3, axis=0)
    for name, array in (("one", truth), ("two", truth), ("three", odd)):
        label_map(tmp_path / name, "x.nii.gz", array)
    folders = [tmp_path / name for name in ("one", "two", "three")]
    done = mist("ensemble", "--predictions", *folders, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    found = read_labels(tmp_path / "out/x.nii.gz").array
    np.testing.assert_array_equal(found, truth)


def test_cases_that_not_all_models_predicted_are_named(tmp_path):
    label_map(tmp_path / "one", "x.nii.gz", np.zeros((4, 4, 4)))
    label_map(tmp_path / "one", "y.nii.gz", np.zeros((4, 4, 4)))
    label_map(tmp_path / "two", "x.nii.gz", np.zeros((4, 4, 4)))
    folders = [tmp_path / "one", tmp_path / "two"]
    done = mist("ensemble", "--predictions", *folders, "--output", tmp_path / "out")
    assert done.returncode == 1
    assert f"{tmp_path}/two: expected the cases of the other folders, found no y.nii.gz" in (
        done.stderr
    )


STRATEGY = [
    {
        "transform": "remove_small_objects",
        "apply_to_labels": [1],
        "per_label": True,
        "kwargs": {"small_object_threshold": 5},
    }
]


def test_postprocessing_by_hand_has_the_layout_of_the_workflow(tmp_path):
    truth = ball(grid((12, 12, 12))).array
    speck = truth.copy()
    speck[0, 0, 0] = 1
    for number in range(3):
        label_map(tmp_path / "in", f"{number:03d}.nii.gz", speck)
    label_map(tmp_path, "truth.nii.gz", truth)
    (tmp_path / "s.json").write_text(json.dumps(STRATEGY))
    (tmp_path / "eval.json").write_text('{"organ": {"labels": [1], "metrics": {"dice": {}}}}')
    rows = [f"{number:03d},{tmp_path}/truth.nii.gz,ignored" for number in range(3)]
    (tmp_path / "paths.csv").write_text("\n".join(["id,mask,t1", *rows]) + "\n")
    done = mist(
        "postprocess",
        *("--base-predictions", tmp_path / "in", "--output", tmp_path / "out"),
        *("--postprocess-strategy", tmp_path / "s.json", "--num-workers-postprocess", "2"),
        *("--paths-csv", tmp_path / "paths.csv", "--eval-config", tmp_path / "eval.json"),
    )
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    np.testing.assert_array_equal(read_labels(out / "predictions/001.nii.gz").array, truth)
    assert json.loads((out / "strategy.json").read_text()) == STRATEGY
    rows = read_rows(out / "postprocess_results.csv")
    assert [(row["id"], row["organ_dice"]) for row in rows[:4]] == [
        *((f"{number:03d}", "1.0") for number in range(3)),
        ("Mean", "1.0"),
    ]


def test_ranking_of_columns_of_ones_own(tmp_path):
    (tmp_path / "a.csv").write_text("case,x_depth\np,1\nq,2\nMean,1.5\n")
    (tmp_path / "b.csv").write_text("case,x_depth\np,3\nq,4\nMean,3.5\n")
    (tmp_path / "d.json").write_text('{"x_depth": "lower"}')
    words = ["--results", tmp_path / "a.csv", tmp_path / "b.csv", "--id-column", "case"]
    words += ["--output-csv", tmp_path / "out.csv"]
    done = mist("rank", *words)
    assert done.returncode == 1
    assert "x_depth" in done.stderr
    done = mist("rank", *words, "--metric-direction-overrides", tmp_path / "d.json")
    assert done.returncode == 0, done.stderr
    rows = read_rows(tmp_path / "out.csv")
    assert [(r["strategy"], float(r["average_rank"])) for r in rows] == [("a", 1.0), ("b", 2.0)]


def test_a_decathlon_dataset_of_several_channels_is_converted(tmp_path):
    source = tmp_path / "Task01"
    image = sitk.JoinSeries([sitk.Image(6, 5, 4, sitk.sitkFloat32) + c for c in (1, 2)])
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (source / folder).mkdir(parents=True)
    sitk.WriteImage(image, str(source / "imagesTr/case_01.nii.gz"))
    sitk.WriteImage(image, str(source / "imagesTs/case_02.nii.gz"))
    sitk.WriteImage(sitk.Image(6, 5, 4, sitk.sitkUInt8), str(source / "labelsTr/case_01.nii.gz"))
    description = {
        "name": "Two",
        "modality": {"0": "FLAIR", "1": "T1w"},
        "labels": {"0": "background", "1": "whole tumour"},
        "training": [{"image": "./imagesTr/case_01.nii.gz", "label": "./labelsTr/case_01.nii.gz"}],
        "test": ["./imagesTs/case_02.nii.gz"],
    }
    (source / "dataset.json").write_text(json.dumps(description))
    done = mist("convert_msd", "--source", source, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    fields = json.loads((tmp_path / "out/dataset.json").read_text())
    assert (fields["task"], fields["modality"], fields["labels"]) == ("Two", "mr", [0, 1])
    assert fields["final_classes"] == {"whole_tumour": [1]}
    for part, case in (("train", "case_01"), ("test", "case_02")):
        for channel, value in (("FLAIR", 1), ("T1w", 2)):
            path = tmp_path / "out" / fields[f"{part}-data"] / case / f"{channel}.nii.gz"
            array = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
            assert array.shape == (4, 5, 6)
            assert np.all(array == value)
    (source / "imagesTs/case_02.nii.gz").unlink()
    done = mist("convert_msd", "--source", source, "--output", tmp_path / "again")
    assert done.returncode == 1
    assert "imagesTs/case_02.nii.gz: expected a file, found none" in done.stderr
    assert not (tmp_path / "again").exists()


def test_files_listed_in_tables_are_converted_under_their_own_formats(tmp_path):
    volume = ball(grid((6, 6, 6)))
    for name in ("m.nii.gz", "t1.nrrd", "t1.mha", "ct1.nii"):
        write_volume(tmp_path / "in" / name, volume)
    rows = ["id,mask,t1,c.t1", "01,m.nii.gz,t1.nrrd,ct1.nii", "02,m.nii.gz,t1.mha,ct1.nii"]
    (tmp_path / "in/train.csv").write_text("\n".join(rows) + "\n")
    done = mist("convert_csv", "--train-csv", tmp_path / "in/train.csv", "--output", tmp_path / "o")
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (tmp_path / "o/raw/train/01").iterdir()} == {
        "mask.nii.gz",
        "t1.nrrd",
        "c.t1.nii",
    }
    fields = json.loads((tmp_path / "o/dataset.json").read_text())
    assert fields["images"] == {"t1": ["t1.mha", "t1.nrrd"], "c.t1": ["c.t1.nii"]}
    assert fields["mask"] == ["mask.nii.gz"]
    assert fields["labels"] is None
    assert "fill in task, modality, labels" in done.stderr


@pytest.mark.parametrize(
    ("pool", "device", "chosen"),
    [("4,5", "1", "5"), ("4,5", "cuda", "4,5"), ("4,5", "cpu", ""), ("4,5", "2", None)],
)
def test_the_number_of_a_gpu_counts_those_to_be_seen(monkeypatch, pool, device, chosen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", pool)
    choose = runpy.run_path(str(ROOT / "workflow/scripts/predict_files.py"))["choose_device"]
    if chosen is None:
        with pytest.raises(DataError, match="cpu or cuda, or a number below 2, found '2'"):
            choose(device)
    else:
        choose(device)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == chosen


def test_the_workflow_is_found_beside_the_library():
    assert (home() / "workflow/Snakefile").exists()
    assert home() == ROOT


def test_the_installed_package_brings_the_workflow(dataset, tmp_path):
    """A wheel is built and run from where it is unpacked, far from the repository."""
    source = tmp_path / "source"
    ignore = shutil.ignore_patterns(".*", "results", "numpy", "data", "build", "*.egg-info")
    shutil.copytree(ROOT, source, ignore=ignore)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*build, "--wheel-dir", tmp_path, source], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "site"
    shutil.unpack_archive(wheel, installed, "zip")
    work = tmp_path / "work"
    work.mkdir()
    code = "from mist_core.commands import run_all; run_all()"
    words = ["--data", dataset, "--nfolds", "2", *SHORT, "--until", "analyze"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        cwd=work,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (work / "results/config.json").exists()
    assert str(installed / "mist_core/shipped/profiles") in done.stdout + done.stderr
