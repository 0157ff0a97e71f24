"""Ranks of candidates that were scored on the same cases."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mist_core.errors import DataError
from mist_core.evaluate import summary_rows
from mist_core.files import write_rows
from mist_core.metrics import METRICS
from mist_core.rank import better, rank

COLUMNS = ("organ_dice", "organ_haus95", "core_avg_surf", "core_surf_dice")
# Few values, so that ties are common.
scores = arrays(
    float,
    st.tuples(st.integers(1, 4), st.integers(1, 4), st.just(len(COLUMNS))),
    elements=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
)


def table(values, columns=COLUMNS, ids="abcdefgh"):
    """Rows of a results table as read from its CSV: all text."""
    return [
        {"id": case} | {c: str(v) for c, v in zip(columns, row, strict=True)}
        for case, row in zip(ids, values, strict=False)
    ]


def tables(values):
    return {f"candidate {i}": table(one) for i, one in enumerate(values)}


def averages(summary):
    return {row["strategy"]: row["average_rank"] for row in summary}


def test_ranks_by_hand():
    columns = ("organ_dice", "organ_haus95")
    summary, detailed = rank(
        {
            "poor": table([[0.5, 9.0], [0.5, 2.0]], columns),
            "good": table([[0.9, 1.0], [0.8, 3.0]], columns),
        }
    )
    # Dice: good first twice. Distance: good first in case a, second in case b.
    assert summary == [
        {"strategy": "good", "average_rank": 1.25},
        {"strategy": "poor", "average_rank": 1.75},
    ]
    assert detailed == [
        {"strategy": "good", "organ_dice": 1.0, "organ_haus95": 1.5},
        {"strategy": "poor", "organ_dice": 2.0, "organ_haus95": 1.5},
    ]


def test_ties_share_the_mean_of_their_ranks():
    columns = ("organ_dice",)
    values = {"a": 0.7, "b": 0.9, "c": 0.7, "d": 0.1}
    summary, _ = rank({name: table([[value]], columns) for name, value in values.items()})
    assert averages(summary) == {"b": 1, "a": 2.5, "c": 2.5, "d": 4}


def test_candidates_that_tie_stay_in_the_order_given():
    names = [f"{quality} {number}" for number in range(20) for quality in ("low", "high")]
    values = {name: 0.9 if name.startswith("high") else 0.1 for name in names}
    summary, _ = rank({name: table([[values[name]]], ["organ_dice"]) for name in names})
    assert list(averages(summary)) == names[1::2] + names[::2]


@pytest.mark.parametrize(
    ("column", "higher"),
    [
        ("organ_dice", True),
        ("organ_surf_dice", True),
        ("organ_haus95", False),
        ("organ_avg_surf", False),
        ("surf_dice_haus95", False),
        ("dice_avg_surf", False),
        ("haus95_dice", True),
    ],
)
def test_direction_is_that_of_the_metric_at_the_end_of_the_name(column, higher):
    assert better(column) == ("higher" if higher else "lower")


def test_a_metric_may_end_like_another(monkeypatch):
    monkeypatch.setitem(METRICS, "no_dice", replace(METRICS["dice"], better="lower"))
    assert better("organ_no_dice") == "lower"
    assert better("organ_dice") == "higher"


@given(scores)
def test_ranks_are_those_of_counting_who_is_better(values):
    signs = np.array([-1, 1, 1, -1])  # lower is better after this
    lower = values * signs
    better = (lower[None] < lower[:, None]).sum(axis=1)
    ties = (lower[None] == lower[:, None]).sum(axis=1)
    expected = better + (ties + 1) / 2
    summary, detailed = rank(tables(values))
    for i, average in enumerate(expected.mean(axis=(1, 2))):
        assert averages(summary)[f"candidate {i}"] == pytest.approx(average, abs=1e-4)
    for row in detailed:
        mine = expected[int(row["strategy"].split()[1])].mean(axis=0)
        assert [row[c] for c in COLUMNS] == pytest.approx(mine.tolist(), abs=1e-4)


@given(scores)
def test_summary_rows_of_a_table_are_not_cases(values):
    plain = tables(values)
    with_summary = {
        name: rows + [{k: str(v) for k, v in row.items()} for row in summary_rows(rows)]
        for name, rows in plain.items()
    }
    assert rank(with_summary) == rank(plain)


@given(scores, st.randoms(use_true_random=False))
def test_the_order_of_rows_and_columns_is_of_no_account(values, random):
    plain = tables(values)
    mixed = {name: list(rows) for name, rows in plain.items()}
    for rows in mixed.values():
        random.shuffle(rows)
        order = random.sample(["id", *COLUMNS], 5)
        rows[:] = [{key: row[key] for key in order} for row in rows]
    assert averages(rank(mixed)[0]) == averages(rank(plain)[0])


@given(scores)
def test_best_comes_first(values):
    summary, detailed = rank(tables(values))
    ranks = list(averages(summary).values())
    assert ranks == sorted(ranks)
    assert [row["strategy"] for row in detailed] == list(averages(summary))


def test_ids_are_text():
    first = table([[0.9] * 4, [0.1] * 4], ids=["01", "1"])
    second = table([[0.5] * 4, [0.5] * 4], ids=["1", "01"])
    _, detailed = rank({"first": first, "second": second})
    assert {row["strategy"]: row["organ_dice"] for row in detailed} == {"first": 1.5, "second": 1.5}
    with pytest.raises(DataError):
        rank({"first": table([[0.9] * 4], ids=["01"]), "second": table([[0.9] * 4], ids=["1"])})


def test_other_cases_or_columns_are_refused_by_name():
    first = table([[0.5] * 4] * 2)
    with pytest.raises(DataError, match=r"results of second: .*first.*'b'"):
        rank({"first": first, "second": first[:1]})
    fewer = [{k: v for k, v in row.items() if k != "organ_dice"} for row in first]
    with pytest.raises(DataError, match="results of second"):
        rank({"first": first, "second": fewer})


@pytest.mark.parametrize("missing", ["nan", ""])
def test_a_missing_value_is_refused(missing):
    broken = table([[0.5] * 4] * 2)
    broken[1]["organ_haus95"] = missing
    with pytest.raises(DataError, match="expected a number"):
        rank({"first": table([[0.5] * 4] * 2), "second": broken})


def test_an_unknown_column_is_refused():
    with pytest.raises(DataError, match="'organ_volume'"):
        rank({"only": table([[1.0]], ("organ_volume",))})


def test_the_script_writes_both_tables(tmp_path):
    for name, value in (("low", 0.2), ("high", 0.6)):
        write_rows(tmp_path / f"{name}.csv", ["id", *COLUMNS], table([[value] * 4]))
    command = [sys.executable, ROOT / "workflow/scripts/rank.py"]
    command += [
        "--results",
        tmp_path / "low.csv",
        tmp_path / "high.csv",
        "--names",
        "e/low",
        "e/high",
    ]
    command += ["--output-csv", tmp_path / "ranking.csv"]
    command += ["--output-detailed-csv", tmp_path / "detailed.csv"]
    subprocess.run(command, check=True)
    # Two metrics favour the high values, two the low ones.
    assert (
        tmp_path / "ranking.csv"
    ).read_text() == "strategy,average_rank\ne/low,1.5\ne/high,1.5\n"
    assert (tmp_path / "detailed.csv").read_text().splitlines()[1] == "e/low,2.0,1.0,1.0,2.0"
