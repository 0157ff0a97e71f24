"""Functions of the user's own, by the name of their module."""

import json
import re
import sys
import threading

import pytest
from conftest import ROOT
from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread as Writer
from test_train import PLAN, SHORT, case, run

from mist_core.errors import DataError
from mist_core.models import for_plan
from mist_core.own import is_own, load, source_of
from mist_core.topology import divisor, planned_as


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_names_of_the_library_are_told_from_those_of_modules():
    assert [is_own(name) for name in ("my_nets:tiny", "a.b:c", "nnunet", "a:b:c", "a-b:c")] == [
        *(True, True, False, False, False)
    ]


def test_a_function_is_found_in_a_file_of_the_folder(folder):
    (folder / "my_nets.py").write_text("def tiny():\n    return 3\n")
    assert load("my_nets:tiny")() == 3
    assert "return 3" in source_of("my_nets:tiny")


def test_a_file_may_have_the_name_of_a_module_that_is_there_already(folder):
    (folder / "json.py").write_text("def tiny():\n    return 5\n")
    assert load("json:tiny")() == 5
    assert json.loads("1") == 1


def test_a_file_may_lie_deeper_and_import_its_neighbours(folder):
    (folder / "nets").mkdir()
    (folder / "nets/parts_of_mine.py").write_text("NUMBER = 7\n")
    (folder / "nets/mine.py").write_text(
        "from parts_of_mine import NUMBER\n\n\ndef tiny():\n    return NUMBER\n"
    )
    assert load("nets.mine:tiny")() == 7


def test_a_file_may_be_part_of_a_package(folder):
    (folder / "nets_of_mine").mkdir()
    (folder / "nets_of_mine/parts.py").write_text("NUMBER = 7\n")
    (folder / "nets_of_mine/__init__.py").write_text("def six():\n    return 6\n")
    (folder / "nets_of_mine/net.py").write_text(
        "from .parts import NUMBER\nfrom nets_of_mine.parts import NUMBER as SAME\n\n\n"
        "def tiny():\n    return NUMBER + SAME\n"
    )
    assert load("nets_of_mine.net:tiny")() == 14
    assert load("nets_of_mine:six")() == 6
    assert "NUMBER = 7" in source_of("nets_of_mine.net:tiny")


def test_classes_of_a_file_find_their_module(folder):
    """As those of dataclasses must."""
    (folder / "my_sizes.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n\n"
        "@dataclass\nclass Size:\n    width: int\n\n\ndef tiny():\n    return Size(3)\n"
    )
    assert load("my_sizes:tiny")().width == 3
    assert load("my_sizes:Size") is load("my_sizes:Size")  # the file is run once


def test_what_a_file_imports_beside_it_belongs_to_its_source(folder):
    (folder / "my_nets.py").write_text("from my_parts import K\nimport json\n")
    (folder / "my_parts.py").write_text("import my_nets\nK = 1\n")
    assert source_of("my_nets:tiny").count("import") == 3
    before = source_of("my_nets:tiny")
    (folder / "my_parts.py").write_text("K = 2\n")
    assert source_of("my_nets:tiny") != before


def test_an_installed_module_is_found():
    assert load("textwrap:dedent")("  a") == "a"
    assert "def dedent" in source_of("textwrap:dedent")


def test_names_of_the_library_have_no_source():
    assert source_of("nnunet") == ""


@pytest.mark.parametrize("name", ["nowhere:tiny", "no.where:tiny", "math:sqrt"])
def test_a_module_that_is_nowhere_is_named(name):
    with pytest.raises(DataError, match=rf"{name}: expected a file .*\.py or an installed module"):
        load(name)


def test_a_function_that_is_not_there_is_named(folder):
    (folder / "my_nets.py").write_text("tiny = 3\n")
    with pytest.raises(DataError, match=r"my_nets\.py: expected a function tiny, found none"):
        load("my_nets:tiny")


@pytest.fixture
def documented(folder):
    """The example of the documentation, as a user would copy it."""
    text = (ROOT / "config/README.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(from torch import nn\n.*?)```", text, re.DOTALL)[1]
    (folder / "my_nets.py").write_text(code)
    return {"model": "my_nets:tiny", "model_params": {"width": 16}, "loss": "my_nets:mean_error"}


def test_the_documented_network_learns_by_the_documented_loss(folder, documented):
    settings = SHORT.model_copy(update=documented | {"steps_per_epoch": 20})
    weights = run(folder, settings, cases=[case()])
    assert weights["0.weight"].shape == (16, 1, 3, 3, 3)
    lines = (folder / "logs/history.csv").read_text().splitlines()
    losses = [float(line.split(",")[2]) for line in lines[1:]]
    assert losses[-1] < losses[0]


def test_parameters_that_a_function_does_not_have_are_refused(documented):
    settings = SHORT.model_copy(update=documented | {"model_params": {"depth": 3}})
    with pytest.raises(DataError, match=r"train\.model_params: .* my_nets:tiny, found .*depth"):
        for_plan(PLAN, settings)


OUTPUTS = {
    "x": "found Tensor",
    "None": "found NoneType",
    "(x, 3)": "found tuple",
    "()": r"found \[\]",
    "(x[:, :2],)": r"the first of shape \(1, 3, 8, 8, 8\), found \[\(1, 2, 8, 8, 8\)\]",
    "(x[..., :4],)": r"found \[\(1, 3, 8, 8, 4\)\]",
}


@pytest.mark.parametrize("value", OUTPUTS)
def test_a_network_that_does_not_give_what_it_should_is_refused(folder, value):
    (folder / "my_nets.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Conv3d):\n    def forward(self, x):\n"
        f"        x = super().forward(x)\n        return {value}\n\n\n"
        "def net(in_channels, out_channels, patch_size, spacing):\n"
        "    return Net(in_channels, out_channels, 1)\n"
    )
    settings = SHORT.model_copy(update={"model": "my_nets:net"})
    with pytest.raises(
        DataError, match=f"my_nets:net: expected a tuple of logits.*{OUTPUTS[value]}"
    ):
        run(folder, settings, cases=[case()])
    assert not [each for each in threading.enumerate() if isinstance(each, Writer)]


VALUES = {
    "3.0": "found 3.0",
    "None": "found None",
    "logits.mean((2, 3, 4))": r"found shape \(1, 3\)",
    "logits.detach().mean()": r"found shape \(\)",
}


@pytest.mark.parametrize("value", VALUES)
def test_a_loss_that_gives_nothing_to_learn_from_is_refused(folder, value):
    (folder / "my_losses.py").write_text(f"def loss(logits, labels):\n    return {value}\n")
    settings = SHORT.model_copy(update={"loss": "my_losses:loss"})
    with pytest.raises(DataError, match=f"my_losses:loss: expected one number .*{VALUES[value]}"):
        run(folder, settings, cases=[case()])


@pytest.mark.parametrize("needs", ['"alpha"', '("other",)'])
def test_needs_that_are_not_known_are_refused(folder, needs):
    (folder / "my_losses.py").write_text(
        f"def loss(logits, labels, **given):\n    return logits.mean()\n\n\nloss.needs = {needs}\n"
    )
    settings = SHORT.model_copy(update={"loss": "my_losses:loss"})
    with pytest.raises(DataError, match="expected needs to be a tuple of distance_maps, spacing"):
        run(folder, settings, cases=[case()])


def test_a_network_of_ones_own_may_say_what_its_patches_must_be(folder, documented):
    assert divisor((40, 40, 40), (1.0, 1.0, 1.0), "my_nets:tiny") == (8, 8, 8)  # as nnunet
    assert planned_as("my_nets:tiny") == "nnunet"
    del sys.modules["_own_my_nets"]  # as in another run
    with (folder / "my_nets.py").open("a") as stream:
        stream.write("\n\ntiny.divisor = 5\n")
    assert divisor((40, 40, 40), (1.0, 1.0, 1.0), "my_nets:tiny") == (5, 5, 5)
    assert planned_as("my_nets:tiny") == "my_nets:tiny"
