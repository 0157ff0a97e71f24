"""ONNX files: the same output as torch, all that prediction needs, and what is refused."""

import logging
import random
import re
import sys

import numpy as np
import onnx
import pytest
import torch
from conftest import grid
from test_modelfile import saved
from test_predict import CPU, plan_of
from torch import nn

from mist_core.config import Predict, Train
from mist_core.errors import DataError
from mist_core.geometry import Origin
from mist_core.modelfile import read_models
from mist_core.onnxfile import read_onnx, read_onnx_models, write_onnx
from mist_core.predict import load_model, predict_preprocessed

SETTINGS = Train(model="nnunet-pocket", mirror_axes="x", amp=False)


def one_line(function, *args):
    with pytest.raises(DataError) as caught:
        function(*args)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models of two folds, as torch and as ONNX, of patches that are longer in y than in x."""
    folder = tmp_path_factory.mktemp("models")
    plan = plan_of(patch_size=(8, 16, 8))
    for fold in (0, 1):
        saved(folder / f"fold_{fold}.pt", fold, plan, SETTINGS)
    for name, model in read_models(folder).items():
        assert write_onnx(folder / f"onnx/{name}.onnx", name, model) < 1e-3
    return folder


@pytest.mark.parametrize("number", [1, 2, 5])
def test_a_batch_of_any_size_has_the_logits_of_torch(folder, number):
    images = torch.randn((number, 1, 8, 16, 8), generator=torch.Generator().manual_seed(number))
    (there,) = load_model(folder, [1], CPU)
    here = read_onnx(folder / "onnx/fold_1.onnx")
    with torch.inference_mode():
        (found,), expected = here.network(images), there.network(images)[0]
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_predictions_are_those_of_torch(folder):
    image = np.random.default_rng(0).normal(size=(1, 13, 20, 17)).astype(np.float32)
    models = [load_model(path, device=CPU) for path in (folder, folder / "onnx")]
    size = (13, 20, 17)
    whole = Origin(grid(size), tuple(slice(0, n) for n in size), grid(size))
    options = image, whole, Predict(), True
    found, expected = (predict_preprocessed(each, *options) for each in models)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-4)
    assert len(np.unique(expected.labels.array)) > 1
    differ = found.labels.array != expected.labels.array
    assert np.mean(differ) < 1e-3  # where two classes are as likely


def test_a_file_has_all_that_the_model_file_has(folder):
    model = read_models(folder)["fold_1"]
    found = read_onnx(folder / "onnx/fold_1.onnx")
    assert (found.name, found.plan, found.train) == ("fold_1", model.plan, model.train)
    notes = {p.key: p.value for p in onnx.load(folder / "onnx/fold_1.onnx").metadata_props}
    assert notes["licence"] == "not given"
    assert set(notes) >= {"name", "plan", "train", "licence", "versions"}


def test_a_file_has_nothing_but_operators_of_the_standard(folder):
    program = onnx.load(folder / "onnx/fold_0.onnx")
    onnx.checker.check_model(program, full_check=True)
    assert {node.domain for node in program.graph.node} == {""}
    assert not program.functions
    assert "InstanceNormalization" in {node.op_type for node in program.graph.node}
    shape = program.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in shape] == ["batch", 1, 8, 16, 8]


def test_folds_are_chosen_by_number(folder):
    assert list(read_onnx_models(folder / "onnx")) == ["fold_0", "fold_1"]
    assert list(read_onnx_models(folder / "onnx", [1])) == ["fold_1"]
    assert list(read_onnx_models(folder / "onnx/fold_1.onnx", [1])) == ["fold_1"]
    message = one_line(load_model, folder / "onnx", [2])
    assert message.startswith(f"{folder / 'onnx'}: expected fold_2, found fold_0, fold_1.")
    assert len(load_model([folder / "onnx/fold_0.onnx", folder / "fold_1.pt"], device=CPU)) == 2


OWN = """
import torch
from torch import nn

class Odd(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.head = nn.Conv3d(1, classes, 1)

    def forward(self, x):
        logits = self.head(x)
        # Of the first class only: what all classes have in common changes no probability.
        wrong = logits[:, :1] + (1 if torch.compiler.is_compiling() else 0)
        return (torch.cat([wrong, logits[:, 1:]], dim=1),)

class Choosing(Odd):
    def forward(self, x):
        return (self.head(x) if x.sum() > 0 else self.head(-x),)

def odd(in_channels, out_channels, patch_size, spacing):
    return Odd(out_channels)

def choosing(in_channels, out_channels, patch_size, spacing):
    return Choosing(out_channels)
"""


def model_of(tmp_path, name):
    (tmp_path / "odd_nets.py").write_text(OWN)
    path = saved(tmp_path / "fold_0.pt", 0, settings=Train(model=f"odd_nets:{name}"))
    return read_models(path)["fold_0"]


def test_a_file_with_other_probabilities_is_not_left_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "onnx/fold_0.onnx"
    message = one_line(write_onnx, path, "fold_0", model_of(tmp_path, "odd"))
    assert message.startswith(f"{path}: expected probabilities within 0.001 of those of ")
    assert float(re.search(r"found a difference of (0\.\d+)\.", message)[1]) > 0.01
    assert not list(path.parent.iterdir())


def test_a_network_that_chooses_by_its_values_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "onnx/fold_0.onnx"
    message = one_line(write_onnx, path, "fold_0", model_of(tmp_path, "choosing"))
    assert message.startswith(f"{tmp_path / 'fold_0.pt'}: fold_0: expected a network that can be")
    assert not path.exists()


def test_other_files_are_refused_by_name(folder, tmp_path):
    path = tmp_path / "other.onnx"
    content = (folder / "onnx/fold_0.onnx").read_bytes()
    for broken in (b"", b"text", content[:100], content[: len(content) // 2], content[:-1]):
        path.write_bytes(broken)
        assert one_line(load_model, path).startswith(f"{path}: expected ")
    program = onnx.load(folder / "onnx/fold_0.onnx")
    del program.metadata_props[:]
    onnx.save(program, path)
    assert "expected an ONNX file of mist_package, found another" in one_line(load_model, path)
    assert "expected an ONNX file, found none" in one_line(load_model, tmp_path / "none.onnx")


def test_a_damaged_byte_is_refused_wherever_it_is(folder, tmp_path):
    content, draw = (folder / "onnx/fold_0.onnx").read_bytes(), random.Random(0)
    path = tmp_path / "damaged.onnx"
    metadata = content.index(b"sha256")
    places = [*range(metadata, metadata + 72, 4), *draw.sample(range(len(content)), 60)]
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        assert one_line(load_model, path).startswith(f"{path}: expected ")
    weights = onnx.load(folder / "onnx/fold_0.onnx").graph.initializer
    value = max(weights, key=lambda w: len(w.raw_data)).raw_data[:64]
    path.write_bytes(content.replace(value, value[::-1]))
    assert "it was damaged or changed. Copy it again." in one_line(load_model, path)
    path.write_bytes(content)
    assert len(load_model(path)) == 1


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(folder, tmp_path, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    model = read_models(folder)["fold_0"]
    message = one_line(write_onnx, tmp_path / "a.onnx", "fold_0", model)
    assert f"found no {package}." in message
    assert message.endswith('Run: pip install "mist_core[onnx]".')
    if package == "onnxruntime":
        assert one_line(read_onnx, folder / "onnx/fold_0.onnx") == message


def test_what_prediction_needs_is_onnxruntime_only(folder, monkeypatch):
    for package in ("onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, package, None)
    assert len(load_model(folder / "onnx")) == 2


@pytest.mark.usefixtures("folder")
def test_the_log_of_others_is_as_loud_as_before():
    assert logging.getLogger("torch.onnx").level == logging.NOTSET


SLOW = [
    *("nnunet", "nnunet-plain", "resenc-m", "fmgnet", "wnet", "mednext-small"),
    "swinunetr-small",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_networks_of_every_kind_can_be_written(tmp_path, name):
    size = {"mednext-small": (16, 16, 32), "swinunetr-small": (32, 32, 64)}.get(name, (8, 16, 16))
    settings = Train(model=name, gradient_checkpointing=True)
    path = saved(tmp_path / "fold_0.pt", 0, plan_of((3.0, 1.0, 1.0), patch_size=size), settings)
    state = torch.load(path, weights_only=True)
    for key, value in state["weights"].items():  # normalisations that start at zero hide the rest
        if value.ndim == 1 and key.endswith("weight"):
            nn.init.uniform_(value, 0.5, 1.5)
    torch.save(state, path)
    assert write_onnx(tmp_path / "a.onnx", "fold_0", read_models(path)["fold_0"]) < 1e-3
