"""Functions of the user's own, by the name of their module."""

import json

import pytest

from mist_core.errors import DataError
from mist_core.own import is_own, load, source_of


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
