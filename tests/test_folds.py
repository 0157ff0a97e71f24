"""Folds: even, the same on every machine, and kept when cases come or go."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mist_core.errors import DataError
from mist_core.folds import assign_folds, read_recorded_folds, write_recorded_folds

IDS = st.sets(st.text("ab01", min_size=1, max_size=6), min_size=1, max_size=40)
N_FOLDS = st.integers(2, 7)


@given(IDS, N_FOLDS)
def test_every_patient_has_one_fold_and_folds_are_even(patients, n_folds):
    folds = assign_folds(patients, n_folds, {})
    assert folds.keys() == patients
    counts = [list(folds.values()).count(k) for k in range(n_folds)]
    assert sum(counts) == len(patients)
    assert max(counts) - min(counts) <= 1


@given(st.lists(st.text("ab01", max_size=5)), N_FOLDS, st.randoms(use_true_random=False))
def test_order_and_repetition_of_ids_do_not_matter(patients, n_folds, random):
    shuffled = patients + patients[:2]
    random.shuffle(shuffled)
    assert assign_folds(shuffled, n_folds, {}) == assign_folds(patients, n_folds, {})


@given(IDS, IDS, N_FOLDS)
def test_a_case_keeps_its_fold_when_others_come_or_go(before, after, n_folds):
    first = assign_folds(before, n_folds, {})
    second = assign_folds(after, n_folds, first)
    assert second.keys() == after
    assert all(second[p] == first[p] for p in before & after)


def test_one_new_case_goes_to_the_smallest_fold():
    recorded = {"a": 0, "b": 0, "c": 1, "d": 2, "e": 2}
    assert assign_folds([*recorded, "new"], 3, recorded) == recorded | {"new": 1}


def test_cases_that_left_do_not_fill_a_fold():
    recorded = {"a": 0, "b": 0, "c": 0, "d": 1}
    folds = assign_folds(["a", "d", "x", "y"], 2, recorded)
    assert sorted(folds.values()) == [0, 0, 1, 1]


def test_folds_are_the_same_on_every_machine():
    ids = [f"case_{n}" for n in range(8)]
    folds = assign_folds(ids, 3, {})
    assert [folds[i] for i in ids] == [1, 0, 0, 2, 1, 0, 1, 2]


def test_folds_do_not_follow_the_order_of_the_ids():
    # Ids are often given in order of scanner or hospital: neighbours must be dealt out.
    folds = assign_folds([f"{n:03d}" for n in range(60)], 3, {})
    in_order = [folds[f"{n:03d}"] for n in range(60)]
    assert in_order != [n % 3 for n in range(60)]
    assert in_order != sorted(in_order)


def test_ids_with_leading_zeros_have_folds_of_their_own(tmp_path):
    folds = assign_folds(["001", "01", "1"], 3, {})
    assert sorted(folds.values()) == [0, 1, 2]
    write_recorded_folds(tmp_path / "folds.json", 3, folds)
    assert read_recorded_folds(tmp_path / "folds.json", 3) == folds


def test_who_leaves_and_comes_back_finds_the_old_fold(tmp_path):
    record = tmp_path / "folds.json"
    assert read_recorded_folds(record, 3) == {}
    folds = assign_folds("abcdef", 3, {})
    write_recorded_folds(record, 3, folds)
    fewer = assign_folds("abc", 3, read_recorded_folds(record, 3))
    write_recorded_folds(record, 3, fewer)
    assert assign_folds("abcdef", 3, read_recorded_folds(record, 3)) == folds


def test_another_number_of_folds_starts_anew(tmp_path):
    record = tmp_path / "folds.json"
    write_recorded_folds(record, 3, {"a": 2, "b": 0})
    assert read_recorded_folds(record, 2) == {}
    write_recorded_folds(record, 2, {"a": 1})
    assert read_recorded_folds(record, 2) == {"a": 1}


@pytest.mark.parametrize("text", ["{", "[]", '{"n_folds": 3}', '{"n_folds": 3, "folds": {"a": 3}}'])
def test_a_mistake_of_a_hand_edit_is_said_in_words(tmp_path, text):
    (tmp_path / "folds.json").write_text(text)
    with pytest.raises(DataError, match=r"folds\.json: expected"):
        read_recorded_folds(tmp_path / "folds.json", 3)
