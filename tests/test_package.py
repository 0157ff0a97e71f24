"""The command: one file of all folds, or ONNX files, used alone in another place."""

import csv
import re

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import ROOT, grid
from test_commands import mist
from test_modelfile import saved
from test_predict import plan_of

from mist_core.config import Train
from mist_core.files import write_json
from mist_core.io import Volume, read_labels, write_volume
from mist_core.modelfile import read_models, read_states, write_package

SETTINGS = Train(model="nnunet-pocket", amp=False)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Models of two folds, their plan, a licence, and an image to predict."""
    home = tmp_path_factory.mktemp("results")
    for fold in (0, 1):
        saved(home / f"models/fold_{fold}.pt", fold, settings=SETTINGS)
    write_json(home / "config.json", plan_of().model_dump(mode="json"))
    write_json(home / "other.json", plan_of((2.0, 1.0, 1.0)).model_dump(mode="json"))
    (home / "LICENCE").write_text("Free for all\nand for all time")
    image = np.random.default_rng(0).normal(size=(9, 12, 10))
    write_volume(home / "image.nii.gz", Volume(image.astype(np.float32), grid(image.shape)))
    with (home / "paths.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("id", "t1"), ("a", home / "image.nii.gz")])
    return home


def done(name, *words, cwd=None):
    ended = mist(name, *words, cwd=cwd)
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


def predicted(results, output, models, *words, cwd=None):
    said = ("--paths-csv", results / "paths.csv", "--output", output, "--device", "cpu")
    done("predict", "--models-dir", models, *said, *words, cwd=cwd)
    return read_labels(output / "a.nii.gz").array


def test_one_file_and_onnx_files_predict_in_an_empty_folder(results, tmp_path):
    models, package, empty = results / "models", tmp_path / "organ.pt", tmp_path / "empty"
    empty.mkdir()
    words = ("--config", results / "config.json", "--licence", results / "LICENCE")
    done("package", "--models-dir", models, "--output", package, *words)
    # The ONNX files come from the package, which keeps its licence.
    log = done("package", "--models-dir", package, "--onnx", empty / "onnx")
    differences = [float(n) for n in re.findall(r"are those of torch within (\S+)", log)]
    assert len(differences) == 2
    assert max(differences) < 1e-3
    assert "Free for all" in log

    expected = predicted(results, tmp_path / "folder", models, *words[:2])
    assert len(np.unique(expected)) > 1
    away = package.rename(empty / "organ.pt")
    for number, path in enumerate([away, empty / "onnx"]):
        found = predicted(results, tmp_path / str(number), path.relative_to(empty), cwd=empty)
        if path == away:
            np.testing.assert_array_equal(found, expected)
        assert np.mean(found != expected) < 0.01  # where two classes are as likely
    one = predicted(results, tmp_path / "one", empty / "onnx/fold_1.onnx")
    alone = predicted(results, tmp_path / "alone", models / "fold_1.pt")
    assert np.mean(one != alone) < 0.01
    assert np.mean(alone != expected) > 0.01  # of one fold, not of both


def test_folds_are_chosen_and_no_licence_is_said(results, tmp_path):
    path = tmp_path / "some.pt"
    log = done("package", "--models-dir", results / "models", "--folds", "1", "--output", path)
    assert "fold_1 of nnunet-pocket, channels t1, labels 0, 1, 2, 4, licence: not given" in log
    (model,) = read_models(path).values()
    assert model.licence == "not given"
    assert done("package", "--models-dir", path).endswith(log.split("models: ")[1])
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_onnx_files_take_no_gpu(results, tmp_path, monkeypatch):
    """Not even one that there is, of which the lock would be taken."""
    done("package", "--models-dir", results / "models", "--onnx", tmp_path / "onnx")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("MIST_GPU_LOCKS", str(tmp_path / "locks"))
    words = ("--paths-csv", results / "paths.csv", "--output", tmp_path / "out")
    for device in ((), ("--device", "0")):
        said = done("predict", "--models-dir", tmp_path / "onnx", *words, *device)
        assert f"{tmp_path / 'onnx'}: ONNX files run on the CPU" in said
    assert not (tmp_path / "locks").exists()
    assert (tmp_path / "out/a.nii.gz").exists()


@pytest.mark.parametrize("text", ["docs/predict.md", "README.md"])
def test_the_documented_lines_predict_what_the_command_does(results, tmp_path, text, monkeypatch):
    """On a sagittal scan: axes are turned there, too."""
    blocks = re.findall(
        r"```python\n(.*?)```", (ROOT / text).read_text(encoding="utf-8"), re.DOTALL
    )
    (code,) = [block for block in blocks if "load_model" in block]
    write_package(tmp_path / "liver.pt", read_states(results / "models"))
    noise = np.random.default_rng(1).normal(100, 20, (9, 14, 12)).astype(np.float32)
    scan = sitk.GetImageFromArray(noise)
    scan.SetSpacing((1.0, 1.2, 2.5))
    scan.SetOrigin((-5, 20, 30))
    scan.SetDirection((0, 0, -1, 1, 0, 0, 0, -1, 0))
    sitk.WriteImage(scan, str(tmp_path / "scan.nii.gz"))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, text, "exec"), {})

    image = ("--image", "t1=scan.nii.gz", "--id", "a", "--output", "out", "--device", "cpu")
    done("predict", "--models-dir", "liver.pt", *image, cwd=tmp_path)
    found, expected = map(sitk.ReadImage, ("labels.nii.gz", "out/a.nii.gz"))
    assert found.GetSize() == (9, 12, 14)
    assert expected.GetSize() == scan.GetSize() == (12, 14, 9)
    turned = sitk.GetArrayFromImage(sitk.DICOMOrient(expected, "LPS"))
    assert len(np.unique(turned)) > 1
    differ = sitk.GetArrayFromImage(found) != turned
    assert np.mean(differ) < 0.01  # on a GPU, where two classes are as likely


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config", "other.json"], "other.json: expected the plan that models/fold_0.pt was"),
        (["--folds", "0", "5"], "models: expected fold_5, found fold_0, fold_1."),
        (["--licence", "none.txt"], "none.txt: expected a text file, found none"),
        (["--output", "organ.onnx"], "--output: expected a package, found organ.onnx."),
    ],
)
def test_what_cannot_be_packed_is_told_in_a_line(results, words, message):
    ended = mist("package", "--models-dir", "models", *words, cwd=results)
    assert ended.returncode == 1
    assert f"ERROR: {message}" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not list(results.glob("organ*"))


def test_a_plan_of_other_models_is_refused(results, tmp_path):
    said = ("--paths-csv", results / "paths.csv", "--output", tmp_path, "--device", "cpu")
    words = ("--models-dir", results / "models", "--config", results / "other.json")
    ended = mist("predict", *words, *said)
    assert ended.returncode == 1
    assert f"other.json: expected the plan that {results / 'models'} was trained" in ended.stderr
