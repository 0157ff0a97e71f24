"""mist_predict: from images in files to label maps, whatever way they are named."""

import io
import json
import logging
import re
import runpy
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr

import numpy as np
import pytest
import torch
from conftest import ROOT, grid, heed_ctrl_c
from PIL import Image
from test_predict import LABELS, plan_of

from mist_core.config import Predict, Train
from mist_core.errors import DataError
from mist_core.files import read_rows, write_json
from mist_core.io import Volume, read_image, read_labels, read_probabilities, write_volume
from mist_core.models import for_plan
from mist_core.plan import parse_plan
from mist_core.predict import load_model, predict_array, predict_preprocessed
from mist_core.preprocess import preprocess
from mist_core.quality import write_quality
from mist_core.train import save_model

SCRIPT = ROOT / "workflow/scripts/predict_files.py"
CHANNELS = ("t1", "t2")
# The slices are thick: what is drawn must not look flat.
GRID = grid((6, 14, 12), (3.0, 1.0, 1.0))


def plan_with(labels=LABELS, optional=(), **parts):
    """A plan of two channels; ``parts`` take the place of parts of it."""
    fields = plan_of(labels=labels).model_dump(mode="json")
    fields["dataset_info"] |= {"images": CHANNELS, "image_names": {"t1": ["t1."], "t2": ["t2"]}}
    fields["dataset_info"]["optional_images"] = optional
    fields["preprocessing"] |= {
        "normalize_with_nonzero_mask": [False, False],
        "ct_normalization": [None, None],
    }
    fields["model"]["in_channels"] = 2
    return parse_plan(fields | parts, "test")


def write_models(folder, plan, folds=(0, 1), **train):
    folder.mkdir(parents=True)
    for fold in folds:
        torch.manual_seed(fold)
        settings = Train(model="nnunet-pocket", **train)
        save_model(folder / f"fold_{fold}.pt", for_plan(plan, settings), plan, settings, fold)
    return folder


def image_of(seed):
    noise = np.random.default_rng(seed).normal(100, 20, GRID.shape)
    return Volume(noise.astype(np.float32), GRID)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with a plan and the models of two folds."""
    folder = tmp_path_factory.mktemp("results")
    write_json(folder / "config.json", plan_with().model_dump(mode="json"))
    write_models(folder / "models", plan_with())
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Folders 001 to 005 of patients with t1.nii.gz and t2.nii.gz."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(1, 6):
        for channel, name in enumerate(CHANNELS):
            write_volume(folder / f"{number:03d}/{name}.nii.gz", image_of((number, channel)))
    return folder


def words_of(models, output, *words, device="cpu"):
    known = {"--models-dir": models / "models", "--config": models / "config.json"}
    known |= {"--output": output, "--device": device}
    return [str(word) for pair in known.items() for word in pair] + [str(word) for word in words]


def predict(models, output, *words, code=0, device="cpu"):
    """Run mist_predict in this process; returns what it said."""
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(said):
        patch.setattr(
            sys, "argv", ["mist_predict", *words_of(models, output, *words, device=device)]
        )
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setattr(logging.root, "handlers", [handler])
        level = logging.root.level
        logging.root.setLevel(logging.INFO)
        found = 0
        try:
            runpy.run_path(str(SCRIPT))["main"]()
        except DataError as error:
            said.write(f"ERROR: {error}\n")
            found = 1
        except SystemExit as end:
            found = end.code
        finally:
            logging.root.setLevel(level)
    assert found == code, said.getvalue()
    return said.getvalue()


def table(path, images, cases, columns=("id", *CHANNELS)):
    rows = [[c if n == "id" else str(images / c / f"{n}.nii.gz") for n in columns] for c in cases]
    path.write_text("\n".join(",".join(row) for row in [columns, *rows]) + "\n")
    return path


def label_maps(folder):
    return {path.name: read_labels(path).array for path in folder.glob("*.nii.gz")}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name])


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.nii.gz")}


@pytest.fixture(scope="module")
def whole(models, images, tmp_path_factory):
    """The folder of the predictions of all five cases, by a table."""
    folder = tmp_path_factory.mktemp("whole")
    cases = [f"{number:03d}" for number in range(1, 6)]
    predict(models, folder / "out", "--paths-csv", table(folder / "paths.csv", images, cases))
    return folder / "out"


def test_every_case_has_a_label_map_a_picture_and_a_row(whole):
    cases = [f"{number:03d}" for number in range(1, 6)]
    maps = label_maps(whole)
    assert sorted(maps) == [f"{case}.nii.gz" for case in cases]
    assert all(np.unique(array).size > 1 for array in maps.values())  # else nothing is compared
    assert len({array.tobytes() for array in maps.values()}) == 5
    others = {".done", ".predictions.csv.lock", "qc", "predictions.csv"}
    assert {path.name for path in whole.iterdir()} == {*maps, *others}
    rows = read_rows(whole / "predictions.csv")
    assert [row["id"] for row in rows] == cases
    for row in rows:
        voxels = (maps[f"{row['id']}.nii.gz"] > 0).sum()
        assert float(row["organ_volume_ml"]) == pytest.approx(voxels * 0.003)
        with Image.open(whole / f"qc/{row['id']}.png") as picture:
            assert picture.size[0] > 700


def test_channels_are_known_by_name_in_a_table(models, images, whole, tmp_path):
    swapped = table(tmp_path / "p.csv", images, ["001", "002"], ("t2", "fold", "id", "t1"))
    predict(models, tmp_path / "out", "--paths-csv", swapped)
    for name, array in label_maps(tmp_path / "out").items():
        np.testing.assert_array_equal(array, label_maps(whole)[name])
    mixed = tmp_path / "mixed.csv"
    mixed.write_text(swapped.read_text().replace("t2,fold,id,t1", "t1,fold,id,t2"))
    predict(models, tmp_path / "mixed", "--paths-csv", mixed)
    found = label_maps(tmp_path / "mixed")["001.nii.gz"]
    assert (found != label_maps(whole)["001.nii.gz"]).any()  # the channels do matter


def test_a_folder_of_patients_needs_no_table(models, images, whole, tmp_path):
    said = predict(models, tmp_path / "out", "--input", images)
    assert_same(label_maps(tmp_path / "out"), label_maps(whole))
    assert f"case 001: t1 {images}/001/t1.nii.gz, t2 {images}/001/t2.nii.gz" in said


def test_files_of_nnunet_need_no_table(models, images, whole, tmp_path):
    for case in ("001", "002"):
        for number, name in enumerate(CHANNELS):
            link = tmp_path / f"in/{case}_{number:04d}.nii.gz"
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(images / case / f"{name}.nii.gz")
    (tmp_path / "in/dataset.json").write_text("{}")
    (tmp_path / "in/003_0001.nii.gz").symlink_to(images / "003/t2.nii.gz")
    said = predict(models, tmp_path / "out", "--input", tmp_path / "in", code=1)
    assert "by the numbers in the names of files: t1 *_0000, t2 *_0001" in said
    assert "case 003:" in said
    assert "expected a file for every channel, found no 003_0000 (t1)" in said
    found = label_maps(tmp_path / "out")
    assert_same(found, {n: label_maps(whole)[n] for n in ("001.nii.gz", "002.nii.gz")})


def test_predictions_may_lie_among_the_patients(models, images, whole, tmp_path):
    for case in ("001", "002"):
        (tmp_path / case).symlink_to(images / case)
    (tmp_path / "out").mkdir()
    for folder in ("out", "out", "other"):
        predict(models, tmp_path / folder, "--input", tmp_path)
        found = label_maps(tmp_path / folder)
        assert_same(found, {n: label_maps(whole)[n] for n in ("001.nii.gz", "002.nii.gz")})
    said = predict(models, tmp_path, "--input", tmp_path / "out/..", code=1)
    assert said.startswith(f"ERROR: --output: expected a folder of its own, found {tmp_path}, that")


def test_no_prediction_takes_the_place_of_an_image(models, tmp_path):
    for number, name in enumerate(CHANNELS):
        write_volume(tmp_path / f"{name}.nii.gz", image_of(number))
    before = times(tmp_path)
    files = [f"{name}={tmp_path}/{name}.nii.gz" for name in CHANNELS]
    said = predict(models, tmp_path, "--image", *files, "--id", "t2", code=1)
    assert "t2.nii.gz: expected a place for the prediction of case t2, found an image." in said
    assert {path.name for path in tmp_path.iterdir()} == {"t1.nii.gz", "t2.nii.gz"}
    assert times(tmp_path) == before


def test_no_prediction_takes_the_place_of_the_image_of_another_case(models, tmp_path):
    for name in "ab":
        write_volume(tmp_path / f"{name}.nii.gz", image_of(1))
    a, b = tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"
    (tmp_path / "p.csv").write_text(f"id,t1,t2\na,{b},{b}\nb,{a},{a}\n")
    before = times(tmp_path)
    said = predict(models, tmp_path, "--paths-csv", tmp_path / "p.csv", code=1)
    for name in "ab":
        assert f"{name}.nii.gz: expected a place for the prediction of case {name}, found" in said
    assert times(tmp_path) == before


def test_files_that_are_no_predictions_are_replaced_only_when_asked(models, images, tmp_path):
    out = tmp_path / "labelsTr"
    out.mkdir()
    (out / "001.nii.gz").write_text("by hand")
    paths = table(tmp_path / "p.csv", images, ["001"])
    said = predict(models, out, "--paths-csv", paths, code=1)
    assert "found a file. Choose another folder, or say --overwrite." in said
    assert (out / "001.nii.gz").read_text() == "by hand"
    predict(models, out, "--paths-csv", paths, "--overwrite")
    read_labels(out / "001.nii.gz")


def test_one_case_is_named_by_its_files(models, images, whole, tmp_path):
    files = [f"t2={images}/002/t2.nii.gz", f"t1={images}/002/t1.nii.gz"]
    predict(models, tmp_path / "out", "--image", *files, "--id", "0007")
    found = label_maps(tmp_path / "out")
    assert_same(found, {"0007.nii.gz": label_maps(whole)["002.nii.gz"]})
    predict(models, tmp_path / "out", "--image", *files, "--id", "8")
    assert [row["id"] for row in read_rows(tmp_path / "out/predictions.csv")] == ["0007", "8"]


def test_bad_cases_fail_alone_and_by_name(models, images, whole, tmp_path):
    """One file is cut off, one is missing, and one is not named."""
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes((images / "002/t1.nii.gz").read_bytes()[:900])
    paths = table(tmp_path / "p.csv", images, ["001", "002", "003", "004", "005"])
    text = paths.read_text().replace(f"{images}/002/t1.nii.gz", str(broken))
    text = text.replace("003/t2", "003/none").replace(f"{images}/004/t1.nii.gz", "")
    paths.write_text(text)
    said = predict(models, tmp_path / "out", "--paths-csv", paths, code=1)
    end = said[said.index("ERROR: ") :].removeprefix("ERROR: ").splitlines()
    assert [line.split(":")[0] for line in end] == ["case 002", "case 003", "case 004"]
    assert f"case 002: {broken}: expected" in said
    assert f"case 003: {images}/003/none.nii.gz: expected a file, found none" in said
    assert f"case 004: {paths}: expected a file for channel t1, found an empty cell" in said
    good = {f"{case}.nii.gz": label_maps(whole)[f"{case}.nii.gz"] for case in ("001", "005")}
    assert_same(label_maps(tmp_path / "out"), good)
    rows = {row["id"]: row["flags"] for row in read_rows(tmp_path / "out/predictions.csv")}
    assert [rows[case] == "no prediction" for case in sorted(rows)] == [False, *[True] * 3, False]


def test_what_is_done_is_kept_unless_a_setting_changes(models, images, tmp_path):
    paths = table(tmp_path / "p.csv", images, ["001", "002"])
    out = tmp_path / "out"

    def again(*words):
        said = predict(models, out, "--paths-csv", paths, *words)
        seen.append(times(out))
        return said

    seen = []
    again()
    assert "2 of 2 cases were done before and are kept" in again("--resume")
    again("--window-batch", "1")  # changes no label map
    assert seen[0] == seen[1] == seen[2]
    words = [("--overlap", "0.25"), ("--tta", "flips"), ("--folds", "1"), ("--overwrite",)]
    for choice in words:
        again(*choice)
        assert not seen[-1].items() & seen[-2].items(), choice
    (out / "001.nii.gz").unlink()
    again()
    assert len(seen[-1]) == 2


def test_only_the_folds_that_are_named_predict(models, images, tmp_path):
    paths = table(tmp_path / "p.csv", images, ["001"])
    one = tmp_path / "one"
    write_json(one / "config.json", plan_with().model_dump(mode="json"))
    (one / "models").mkdir()
    (one / "models/fold_0.pt").symlink_to(models / "models/fold_1.pt")
    predict(models, tmp_path / "a", "--paths-csv", paths, "--folds", "1")
    predict(one, tmp_path / "b", "--paths-csv", paths)
    assert_same(label_maps(tmp_path / "a"), label_maps(tmp_path / "b"))
    predict(models, tmp_path / "c", "--paths-csv", paths, "--folds", "0")
    found = label_maps(tmp_path / "c")["001.nii.gz"]
    assert (found != label_maps(tmp_path / "a")["001.nii.gz"]).any()


def test_flips_are_told_of_and_made_when_asked_for(images, tmp_path):
    plan = plan_with()
    write_json(tmp_path / "config.json", plan.model_dump(mode="json"))
    write_models(tmp_path / "models", plan, (0,), mirror_axes="xyz")
    paths = table(tmp_path / "p.csv", images, ["001"])
    said = predict(tmp_path, tmp_path / "a", "--paths-csv", paths)
    assert "--tta flips would take 8 times as long" in said
    said = predict(tmp_path, tmp_path / "b", "--paths-csv", paths, "--tta", "flips")
    assert "times as long" not in said
    assert (
        label_maps(tmp_path / "a")["001.nii.gz"] != label_maps(tmp_path / "b")["001.nii.gz"]
    ).any()


def test_flips_that_change_nothing_are_told_of(models, images, tmp_path):
    paths = table(tmp_path / "p.csv", images, ["001"])
    said = predict(models, tmp_path / "a", "--paths-csv", paths, "--tta", "flips")
    assert "--tta flips changes nothing" in said


@pytest.mark.parametrize(
    ("code", "words", "reason"),
    [
        (2, ["--overlap", "1"], "--overlap: expected a number from 0 to below 1, found '1'"),
        (2, ["--overlap", "nan"], "--overlap: expected a number from 0 to below 1, found 'nan'"),
        (2, ["--tta", "all"], "--tta: invalid choice: 'all'"),
        (2, ["--folds", "-1"], "--folds: expected"),
        (2, ["--folds", "one"], "--folds: expected a whole number from 0, found 'one'"),
        (1, ["--folds", "0", "7"], "expected fold_7, found fold_0, fold_1"),
        (2, ["--window-batch", "0"], "expected a whole number from 1, found '0'"),
        (1, ["--resume", "--overwrite"], "--resume: expected no --overwrite beside it"),
        (1, ["--id", "x"], "--id: expected together with --image"),
        (2, ["--input", "here"], "not allowed with argument --paths-csv"),
        (1, ["--device", "tpu"], "--device: expected cpu or cuda"),
        (1, ["--postprocess-strategy", "none.json"], "none.json: expected a JSON file, found none"),
    ],
)
def test_a_wrong_value_is_one_line(models, images, tmp_path, code, words, reason):
    paths = table(tmp_path / "p.csv", images, ["001"])
    said = predict(models, tmp_path / "out", "--paths-csv", paths, *words, code=code)
    assert reason in said.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--image", "t1=a", "--id", "x"], "--image: expected t1=FILE t2=FILE, found t1=a."),
        (["--image", "t1=a", "t1=b", "--id", "x"], "--image: expected t1=FILE t2=FILE"),
        (["--image", "t1=a", "t3=b", "--id", "x"], "--image: expected t1=FILE t2=FILE"),
        (["--image", "a", "b", "--id", "x"], "--image: expected t1=FILE t2=FILE"),
        (["--image", "t1=a", "t2=b"], "--id: expected together with --image"),
        (["--image", "t1=a", "t2=b", "--id", "../x"], "without /"),
        (["--input", "nowhere"], "nowhere: expected a folder of images, found none"),
        (["--input", "."], "expected folders of patients, or images, found none"),
    ],
)
def test_wrong_inputs_are_told_before_any_work(models, tmp_path, monkeypatch, words, reason):
    monkeypatch.chdir(tmp_path)
    said = predict(models, tmp_path / "out", *words, code=1)
    assert reason in said
    assert not (tmp_path / "out").exists()


def test_the_wrong_config_is_told_once(models, images, tmp_path):
    other = tmp_path / "other"
    write_json(other / "config.json", plan_with(labels=(0, 1, 2, 3)).model_dump(mode="json"))
    (other / "models").symlink_to(models / "models")
    paths = table(tmp_path / "p.csv", images, ["001", "002", "003"])
    said = predict(other, tmp_path / "out", "--paths-csv", paths, code=1)
    assert said.count("expected the plan that") == 1
    assert "models was trained with, found another" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("largest", [255, 256, 65535])
def test_label_maps_are_as_wide_as_their_labels(images, tmp_path, largest):
    plan = plan_with(labels=(0, 3, largest))
    write_json(tmp_path / "config.json", plan.model_dump(mode="json"))
    write_models(tmp_path / "models", plan, (0,))
    paths = table(tmp_path / "p.csv", images, ["001"])
    predict(tmp_path, tmp_path / "out", "--paths-csv", paths)
    found = read_labels(tmp_path / "out/001.nii.gz").array
    assert largest in found
    assert set(np.unique(found)) <= {0, 3, largest}


def test_a_strategy_changes_label_maps_and_what_is_measured(models, images, tmp_path):
    step = {"transform": "replace_small_objects_with_label", "apply_to_labels": [-1]}
    kwargs = {"small_object_threshold": 10**6, "replacement_label": 700}
    write_json(tmp_path / "s.json", [step | {"per_label": True, "kwargs": kwargs}])
    paths = table(tmp_path / "p.csv", images, ["001"])
    out = tmp_path / "out"
    words = ["--paths-csv", paths, "--postprocess-strategy", tmp_path / "s.json"]
    predict(models, out, *words)
    assert np.unique(label_maps(out)["001.nii.gz"]).tolist() == [0, 700]
    assert float(read_rows(out / "predictions.csv")[0]["organ_volume_ml"]) == 0
    before = times(out)
    kwargs["replacement_label"] = 701
    write_json(tmp_path / "s.json", [step | {"per_label": True, "kwargs": kwargs}])
    predict(models, out, *words)
    assert times(out) != before


def test_a_strategy_may_look_at_probabilities_that_are_not_written(models, images, tmp_path):
    """Nothing has a mean probability of 1, everything one of 0."""
    paths = table(tmp_path / "p.csv", images, ["001"])
    step = {"transform": "remove_by_mean_probability", "apply_to_labels": [-1], "per_label": True}
    out = tmp_path / "out"
    for least, left in ((1.0, False), (0.0, True)):
        write_json(tmp_path / "s.json", [step | {"kwargs": {"min_mean_probability": least}}])
        predict(models, out, "--paths-csv", paths, "--postprocess-strategy", tmp_path / "s.json")
        assert label_maps(out)["001.nii.gz"].any() == left
    assert not (out / "probabilities").exists()


def test_odd_volumes_are_flagged_and_cost_no_exit_code(models, images, tmp_path):
    known = {"organ": {"smallest_ml": 1e3, "largest_ml": 2e3, "in_every_case": True}}
    plan = plan_with(training_volumes=known)
    write_json(tmp_path / "config.json", plan.model_dump(mode="json"))
    (tmp_path / "models").symlink_to(models / "models")
    paths = table(tmp_path / "p.csv", images, ["001", "002"])
    said = predict(tmp_path, tmp_path / "out", "--paths-csv", paths)
    assert [row["flags"] for row in read_rows(tmp_path / "out/predictions.csv")] == [
        "organ small",
        "organ small",
    ]
    assert said.count("look at case 001: organ small") == 1


def test_a_case_that_lacks_an_optional_channel_is_predicted_and_flagged(images, tmp_path):
    """By a table, as files and from a folder; and anew when the file is there."""
    plan = plan_with(optional=("t1",))
    write_json(tmp_path / "config.json", plan.model_dump(mode="json"))
    write_models(tmp_path / "models", plan, (0,))
    (tmp_path / "p.csv").write_text(f"id,t1,t2\n001,,{images}/001/t2.nii.gz\n")
    said = predict(tmp_path, tmp_path / "a", "--paths-csv", tmp_path / "p.csv")
    assert said.count("001: t1 missing") == 1
    assert f"look at case 001: t1 missing ({tmp_path}/a/qc/001.png)" in said
    (row,) = read_rows(tmp_path / "a/predictions.csv")
    assert row["flags"] == "t1 missing"
    found = label_maps(tmp_path / "a")

    models = load_model(tmp_path / "models")
    second = read_image(images / "001/t2.nii.gz")
    done = preprocess([None, second], None, plan)
    wanted = predict_preprocessed(models, done.image, done.origin, Predict(flips=False))
    assert_same(found, {"001.nii.gz": wanted.labels.array})

    # The picture is that of the channel that is there.
    write_quality(tmp_path / "qc", "001", second, wanted.labels, plan, ["t1"])
    assert (tmp_path / "qc/001.png").read_bytes() == (tmp_path / "a/qc/001.png").read_bytes()

    predict(tmp_path, tmp_path / "b", "--image", f"t2={images}/001/t2.nii.gz", "--id", "001")
    assert_same(label_maps(tmp_path / "b"), found)
    patient = tmp_path / "in/001"
    patient.mkdir(parents=True)
    (patient / "t2.nii.gz").symlink_to(images / "001/t2.nii.gz")
    said = predict(tmp_path, tmp_path / "c", "--input", tmp_path / "in")
    assert f"case 001: t1 missing, t2 {patient}/t2.nii.gz" in said
    assert_same(label_maps(tmp_path / "c"), found)
    assert "are kept" in predict(tmp_path, tmp_path / "c", "--input", tmp_path / "in")
    (patient / "t1.nii.gz").symlink_to(images / "001/t1.nii.gz")
    said = predict(tmp_path, tmp_path / "c", "--input", tmp_path / "in")
    assert "missing" not in said
    assert (label_maps(tmp_path / "c")["001.nii.gz"] != found["001.nii.gz"]).any()
    assert read_rows(tmp_path / "c/predictions.csv")[0]["flags"] == ""


def test_a_line_for_each_case_tells_the_time_that_is_left(models, images, tmp_path):
    paths = table(tmp_path / "p.csv", images, ["001", "002"])
    said = predict(models, tmp_path / "out", "--paths-csv", paths)
    assert re.search(r"case 1/2 001: \d+\.\d s, \d\d:\d\d:\d\d left", said)
    assert re.search(r"case 2/2 002: \d+\.\d s, 00:00:00 left", said)


def test_ctrl_c_leaves_whole_cases_that_are_kept(models, images, tmp_path):
    cases = [f"{number:03d}" for number in range(1, 6)]
    rows = table(tmp_path / "p.csv", images, cases).read_text().splitlines()
    many = [rows[0], *(f"{n}{row}" for n in range(10) for row in rows[1:])]
    (tmp_path / "p.csv").write_text("\n".join(many) + "\n")
    out = tmp_path / "out"
    words = words_of(models, out, "--paths-csv", tmp_path / "p.csv")
    command = [sys.executable, SCRIPT, *words]
    job = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,  # noqa: PLW1509 (it starts no thread)
    )
    until = time.monotonic() + 60
    while not (out / ".done/0002.json").exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    job.send_signal(signal.SIGINT)
    _, said = job.communicate(timeout=20)
    assert job.returncode == 130, said
    assert "Traceback" not in said
    done = {path.stem for path in (out / ".done").iterdir()}
    assert done < {row.split(",")[0] for row in many}
    for case in done:
        assert json.loads((out / f".done/{case}.json").read_text())["files"]
        assert read_labels(out / f"{case}.nii.gz").array.shape == GRID.shape
    assert {path.name for path in out.glob(".*")} == {".done", ".predictions.csv.lock"}


def test_probabilities_are_written_where_they_are_asked_for(models, images, whole, tmp_path):
    paths = table(tmp_path / "paths.csv", images, ["001"])
    predict(models, tmp_path / "out", "--paths-csv", paths, "--output-probs")
    found, place = read_probabilities(tmp_path / "out/probabilities/001.nii.gz")
    labels = read_labels(tmp_path / "out/001.nii.gz")
    assert place.matches(labels.geometry, 1e-6)
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)
    values = np.array(plan_with().dataset_info.labels)
    np.testing.assert_array_equal(values[found.argmax(axis=0)], labels.array)
    assert_same(label_maps(tmp_path / "out"), {"001.nii.gz": label_maps(whole)["001.nii.gz"]})


def test_code_that_a_model_file_names_is_not_run_unless_it_is_trusted(tmp_path):
    folder = write_models(tmp_path / "models", plan_with(), folds=(0,))
    state = torch.load(folder / "fold_0.pt", weights_only=True)
    state["train"]["model"] = "antigravity:fly"
    torch.save(state, folder / "fold_0.pt")
    with pytest.raises(DataError, match="found antigravity:fly, whose code would be run"):
        load_model(folder)


def test_an_array_is_predicted_as_its_file_is(models, images, whole):
    volumes = [read_image(images / f"001/{name}.nii.gz") for name in CHANNELS]
    assert volumes[0].geometry.to_lps() == ((0, 1, 2), (False, False, False))
    found = predict_array(
        load_model(models / "models"),
        np.stack([volume.array for volume in volumes]),
        volumes[0].geometry.spacing,
    )
    np.testing.assert_array_equal(found, label_maps(whole)["001.nii.gz"])
    with pytest.raises(ValueError, match="expected an image of 2 channels"):
        predict_array(load_model(models / "models"), volumes[0].array, (1, 1, 1))
