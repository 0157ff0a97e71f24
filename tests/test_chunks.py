"""Chunks: every case in one, few that change when a case comes or goes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mist_core.chunks import chunk_cases, group_cases, read_record, write_record
from mist_core.errors import DataError

GROUPS = st.dictionaries(st.text("abc", min_size=1, max_size=4), st.sampled_from(["f0", "f1"]))
SIZE = st.integers(1, 5)


@given(GROUPS, SIZE)
def test_every_case_is_in_one_chunk_of_its_group(groups, size):
    chunks = chunk_cases(groups, set(groups), size)
    assert sorted(case for cases in chunks.values() for case in cases) == sorted(groups)
    for name, cases in chunks.items():
        assert 1 <= len(cases) <= size
        assert {groups[case] for case in cases} == {name.rsplit("-", 1)[0]}


@given(GROUPS, SIZE)
def test_one_new_case_changes_one_chunk(groups, size):
    before = chunk_cases(groups, set(groups), size)
    grown = groups | {"new": "f0"}
    after = chunk_cases(grown, set(grown), size)
    assert sum(before.get(name) != cases for name, cases in after.items()) == 1


@given(GROUPS.filter(bool), SIZE)
def test_a_case_that_leaves_changes_one_chunk_and_comes_back_to_its_place(groups, size):
    gone = sorted(groups)[0]
    before = chunk_cases(groups, set(groups), size)
    after = chunk_cases(groups, set(groups) - {gone}, size)
    changed = [name for name in before if before[name] != after.get(name)]
    assert len(changed) == 1
    assert chunk_cases(groups, set(groups), size) == before


def test_the_record_keeps_the_order_in_which_cases_came(tmp_path):
    path = tmp_path / "chunks.json"
    assert read_record(path, "liver") == (None, {})
    write_record(path, "liver", 4, {"z": "f0", "a": "f1"})
    size, groups = read_record(path, "liver")
    assert (size, list(groups.items())) == (4, [("z", "f0"), ("a", "f1")])


@pytest.mark.parametrize("text", ["[]", "{}", '{"task": "a", "cases_per_job": "x"}', "{"])
def test_a_broken_record_is_said_in_words(tmp_path, text):
    (tmp_path / "chunks.json").write_text(text)
    with pytest.raises(DataError, match=r"chunks\.json: expected"):
        read_record(tmp_path / "chunks.json", "liver")


def test_results_of_another_task_are_not_mixed_with(tmp_path):
    path = tmp_path / "results/done/chunks.json"
    write_record(path, "liver", 4, {})
    with pytest.raises(DataError, match=r"results: expected the results of demo, found .* liver"):
        read_record(path, "demo")


def test_new_cases_come_last_and_old_ones_keep_their_place():
    recorded = {"z": "fold_0", "gone": "fold_1", "t": "test"}
    groups = group_cases(recorded, {"a": 1, "z": 1}, ["s", "t"])
    assert list(groups.items()) == [
        ("z", "fold_1"),
        ("gone", "fold_1"),
        ("t", "test"),
        ("a", "fold_1"),
        ("s", "test"),
    ]
