"""Functions of the user's own, by the name of their module."""

import json
import re

import pytest
from conftest import ROOT
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


def test_an_installed_module_is_found():
    assert load("textwrap:dedent")("  a") == "a"
    assert "def dedent" in source_of("textwrap:dedent")


def test_names_of_the_library_have_no_source():
    assert source_of("nnunet") == ""


@pytest.mark.parametrize("name", ["nowhere:tiny", "no.where:tiny"])
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
    losses = [float(line.split(",")[1]) for line in lines[1:]]
    assert losses[-1] < losses[0]


def test_parameters_that_a_function_does_not_have_are_refused(documented):
    settings = SHORT.model_copy(update=documented | {"model_params": {"depth": 3}})
    with pytest.raises(DataError, match=r"train\.model_params: .* my_nets:tiny, found .*depth"):
        for_plan(PLAN, settings)


def test_a_network_of_ones_own_may_say_what_its_patches_must_be(folder, documented):
    assert divisor((40, 40, 40), (1.0, 1.0, 1.0), "my_nets:tiny") == (8, 8, 8)  # as nnunet
    assert planned_as("my_nets:tiny") == "nnunet"
    with (folder / "my_nets.py").open("a") as stream:
        stream.write("\n\ntiny.divisor = 5\n")
    assert divisor((40, 40, 40), (1.0, 1.0, 1.0), "my_nets:tiny") == (5, 5, 5)
    assert planned_as("my_nets:tiny") == "my_nets:tiny"
