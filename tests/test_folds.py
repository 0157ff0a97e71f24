"""Folds: even, the same on every machine, and kept when cases come or go."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mist_core.errors import DataError
from mist_core.folds import (
    assign_folds,
    deal_folds,
    in_random_order,
    read_recorded_folds,
    set_aside,
    write_recorded_folds,
)

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


@given(
    st.dictionaries(st.text("abc01", min_size=1, max_size=4), st.sampled_from("PQRSTU")),
    N_FOLDS,
)
def test_the_cases_of_a_patient_share_a_fold(patients, n_folds):
    folds = assign_folds(patients, n_folds, {}, patients)
    assert folds.keys() == patients.keys()
    for patient in set(patients.values()):
        assert len({folds[case] for case in patients if patients[case] == patient}) == 1


def test_a_new_case_of_a_known_patient_joins_its_fold():
    recorded = {"p1_a": 1, "p2_a": 0, "p3_a": 0}
    patients = {"p1_a": "p1", "p1_b": "p1", "p2_a": "p2", "p3_a": "p3"}
    assert assign_folds(patients, 2, recorded, patients)["p1_b"] == 1


def test_patients_with_many_cases_go_where_there_are_few():
    patients = {f"big_{n}": "big" for n in range(4)} | {c: c for c in "abcd"}
    folds = assign_folds(patients, 2, {}, patients)
    assert sorted(folds.values()) == [0] * 4 + [1] * 4


def test_a_patient_in_two_recorded_folds_is_refused_by_name():
    with pytest.raises(DataError, match=r"patient P: .* folds 0, 1 recorded for a, b"):
        assign_folds("ab", 2, {"a": 0, "b": 1}, {"a": "P", "b": "P"})


def table(tmp_path, *lines):
    path = tmp_path / "cases.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_folds_of_the_user_are_kept(tmp_path):
    mine = table(tmp_path, "id,fold,site", "a,2,x", "b,2,y", "c,0,y", "gone,1,y")
    assert deal_folds("abc", 3, tmp_path / "folds.json", mine) == {"a": 2, "b": 2, "c": 0}


def test_folds_of_the_user_win_over_the_record(tmp_path):
    record = tmp_path / "folds.json"
    write_recorded_folds(record, 2, {"a": 0, "b": 0})
    mine = table(tmp_path, "id,fold", "a,1", "b,0")
    assert deal_folds("ab", 2, record, mine) == {"a": 1, "b": 0}


def test_patients_of_the_user_are_grouped(tmp_path):
    mine = table(tmp_path, "id,patient", "a,P", "b,Q", "c,P", "d,Q")
    folds = deal_folds("abcd", 2, tmp_path / "folds.json", mine)
    assert folds["a"] == folds["c"] != folds["b"] == folds["d"]


def test_all_mistakes_of_a_case_table_are_shown(tmp_path):
    mine = table(tmp_path, "id,fold,patient", "a,3,P", "b,x,Q", "b,1,Q", "c,1,")
    with pytest.raises(DataError) as caught:
        deal_folds("abcd", 3, tmp_path / "folds.json", mine)
    text = str(caught.value)
    assert "expected fold 0 to 2 for a, found '3'" in text
    assert "expected one row for case b, found 2" in text
    assert "expected a patient for c, found nothing" in text
    assert "expected one row for case d, found 0" in text


def test_a_patient_in_two_folds_of_the_user_is_refused(tmp_path):
    mine = table(tmp_path, "id,fold,patient", "a,0,P", "b,1,P")
    with pytest.raises(DataError, match="patient P"):
        deal_folds("ab", 2, tmp_path / "folds.json", mine)


@pytest.mark.parametrize("header", ["case,fold", "id,site"])
def test_a_case_table_without_its_columns_is_refused(tmp_path, header):
    with pytest.raises(DataError, match="expected a column id, and fold or patient"):
        deal_folds("a", 2, tmp_path / "folds.json", table(tmp_path, header, "a,0"))


# --- labels ---------------------------------------------------------------------------------------


@given(st.dictionaries(st.text("ab01", min_size=1, max_size=6), st.frozensets(st.integers(1, 4))),
       N_FOLDS)  # fmt: skip
def test_the_rarest_label_is_spread_evenly_and_so_are_the_cases(labels, n_folds):
    folds = assign_folds(labels, n_folds, {}, labels=labels)
    assert folds.keys() == labels.keys()
    counts = {v: sum(v in own for own in labels.values()) for own in labels.values() for v in own}
    if counts:
        rarest = min(counts, key=lambda v: (counts[v], v))
        spread = [sum(rarest in labels[c] for c in folds if folds[c] == k) for k in range(n_folds)]
        assert max(spread) - min(spread) <= 1
    sizes = [list(folds.values()).count(k) for k in range(n_folds)]
    assert max(sizes) - min(sizes) <= 1 + len(counts)


def test_every_fold_has_a_case_of_a_rare_label():
    labels = {f"{n:02d}": frozenset({1, 2} if n % 6 == 0 else {1}) for n in range(30)}
    folds = assign_folds(labels, 5, {}, labels=labels)
    assert sorted(folds[f"{n:02d}"] for n in range(0, 30, 6)) == [0, 1, 2, 3, 4]
    assert [list(folds.values()).count(k) for k in range(5)] == [6] * 5
    # Without the labels some fold has none.
    assert len({assign_folds(labels, 5, {})[f"{n:02d}"] for n in range(0, 30, 6)}) < 5


def test_a_new_case_with_a_rare_label_goes_where_there_is_none():
    recorded = {"a": 0, "b": 0, "c": 1, "d": 1}
    labels = {"a": frozenset({1, 2}), "b": frozenset({1}), "c": frozenset({1}),
              "d": frozenset({1}), "new": frozenset({1, 2})}  # fmt: skip
    assert assign_folds(labels, 2, recorded, labels=labels)["new"] == 1


def test_a_patient_with_a_rare_label_stays_in_one_fold():
    labels = {c: frozenset({2} if c in "ae" else {1}) for c in "abcdef"}
    patients = {"a": "p", "b": "p", "e": "q", "f": "q"}
    folds = assign_folds(labels, 2, {}, patients, labels)
    assert folds["a"] == folds["b"] != folds["e"] == folds["f"]


def test_labels_are_asked_for_only_if_a_case_is_new(tmp_path):
    asked = []

    def labels_of(cases):
        asked.append(cases)
        return {case: frozenset({1}) for case in cases}

    record = tmp_path / "folds.json"
    folds = deal_folds("abcd", 2, record, labels_of=labels_of)
    write_recorded_folds(record, 2, folds)
    assert deal_folds("abc", 2, record, labels_of=labels_of) == {c: folds[c] for c in "abc"}
    assert len(asked) == 1


@given(st.integers(2, 60), st.floats(0.01, 0.6), st.integers(0, 5))
def test_cases_set_aside_are_a_share_with_whole_patients(n_cases, share, seed):
    cases = [f"case {n}" for n in range(n_cases)]
    patients = {case: f"patient {n // 3}" for n, case in enumerate(cases)}
    try:
        learnt, aside = set_aside(cases, share, seed, patients)
    except DataError:
        assert n_cases <= 6
        return
    assert sorted(learnt + aside) == sorted(cases)
    assert not {patients[c] for c in learnt} & {patients[c] for c in aside}
    assert share * n_cases <= len(aside) < share * n_cases + 3


def test_a_case_keeps_its_place_when_others_come():
    order = in_random_order("abcdefgh", 1)
    assert [c for c in in_random_order("abcdefghij", 1) if c in order] == order
    assert order != in_random_order("abcdefgh", 2)


def test_setting_all_aside_is_refused():
    with pytest.raises(DataError, match=r"train\.val_percent: .* of 1 patients"):
        set_aside(["a", "b"], 0.5, 0, {"a": "p", "b": "p"})
