"""Candidates that were scored on the same cases: tables, ranks, and what is said of them."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import wilcoxon

from mist_core.config import NAN_POLICIES, SCHEMES, Rank
from mist_core.errors import DataError
from mist_core.evaluate import summary_rows
from mist_core.files import read_rows, write_rows
from mist_core.metrics import METRICS
from mist_core.rank import (
    described,
    detailed_rows,
    rank,
    significance_rows,
    verdict,
)
from mist_core.rank import (
    summary_rows as ranking_rows,
)
from mist_core.results import better, column_weights, read_results

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


def ranked(tables, patients=None, **settings):
    return rank(read_results(tables), Rank(**({"bootstraps": 0} | settings)), patients)


def both_tables(tables):
    ranking = ranked(tables)
    return ranking_rows(ranking), detailed_rows(ranking)


def averages(summary):
    return {row["strategy"]: row["average_rank"] for row in summary}


def test_ranks_by_hand():
    columns = ("organ_dice", "organ_haus95")
    summary, detailed = both_tables(
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
    summary, _ = both_tables({name: table([[value]], columns) for name, value in values.items()})
    assert averages(summary) == {"b": 1, "a": 2.5, "c": 2.5, "d": 4}


def test_candidates_that_tie_stay_in_the_order_given():
    names = [f"{quality} {number}" for number in range(20) for quality in ("low", "high")]
    values = {name: 0.9 if name.startswith("high") else 0.1 for name in names}
    summary, _ = both_tables({name: table([[values[name]]], ["organ_dice"]) for name in names})
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
    summary, detailed = both_tables(tables(values))
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
    assert both_tables(with_summary) == both_tables(plain)


@given(scores, st.randoms(use_true_random=False))
def test_the_order_of_rows_and_columns_is_of_no_account(values, random):
    plain = tables(values)
    mixed = {name: list(rows) for name, rows in plain.items()}
    for rows in mixed.values():
        random.shuffle(rows)
        order = random.sample(["id", *COLUMNS], 5)
        rows[:] = [{key: row[key] for key in order} for row in rows]
    assert averages(both_tables(mixed)[0]) == averages(both_tables(plain)[0])


@given(scores)
def test_best_comes_first(values):
    summary, detailed = both_tables(tables(values))
    ranks = list(averages(summary).values())
    assert ranks == sorted(ranks)
    assert [row["strategy"] for row in detailed] == list(averages(summary))


def test_ids_are_text():
    first = table([[0.9] * 4, [0.1] * 4], ids=["01", "1"])
    second = table([[0.5] * 4, [0.5] * 4], ids=["1", "01"])
    _, detailed = both_tables({"first": first, "second": second})
    assert {row["strategy"]: row["organ_dice"] for row in detailed} == {"first": 1.5, "second": 1.5}
    with pytest.raises(DataError):
        both_tables(
            {"first": table([[0.9] * 4], ids=["01"]), "second": table([[0.9] * 4], ids=["1"])}
        )


def test_all_that_is_wrong_in_the_tables_is_named_at_once():
    first = table([[0.5] * 4] * 2)
    fewer = [{k: v for k, v in row.items() if k != "organ_dice"} for row in first]
    odd = [row | {"organ_haus95": "much"} for row in first]
    places = {"a": "x/a.csv", "b": "x/b.csv", "c": "x/c.csv"}
    with pytest.raises(DataError) as caught:
        read_results({"a": first, "b": [*first[:1], *first[:1]], "c": fewer}, places=places)
    heading, *lines = str(caught.value).splitlines()
    assert heading == "results: 3 problems"
    starts = (
        "x/b.csv (b): expected every case once, found a again.",
        "x/b.csv (b): expected the cases of x/a.csv (a), found no b. ",
        "x/c.csv (c): expected the columns of x/a.csv (a), found no organ_dice. ",
    )
    for line, start in zip(lines, starts, strict=True):
        assert line.strip().startswith(start)
    with pytest.raises(DataError, match=r"results of c: .* organ_haus95 of a, found 'much'"):
        read_results({"a": first, "c": odd})
    with pytest.raises(DataError, match="column case, found none"):
        read_results({"a": first}, id_column="case")
    more = table([[0.5] * 4] * 8)
    with pytest.raises(DataError, match="found c, d, e, f, g and 1 more as well"):
        read_results({"a": first, "b": more})


def test_an_unknown_column_is_refused():
    with pytest.raises(DataError, match="'organ_volume'"):
        both_tables({"only": table([[1.0]], ("organ_volume",))})


def test_all_unknown_columns_are_named():
    rows = table([[1.0, 2.0]], ("depth", "width"))
    with pytest.raises(DataError, match=r"(?s)'depth'.*'width'"):
        read_results({"only": rows})
    found = read_results({"only": rows}, {"depth": "higher", "width": "lower"})
    assert found.values.tolist() == [[[-1, 2]]]
    with pytest.raises(DataError, match="found 'up'"):
        read_results({"only": rows}, {"depth": "up", "width": "lower"})


def test_metrics_that_cannot_be_ranked_are_left_out_and_the_nearest_to_zero_is_best():
    columns = ("organ_volume_reference", "organ_relative_volume_difference")
    found = read_results({"a": table([[9.0, -0.5]], columns), "b": table([[1.0, 0.2]], columns)})
    assert found.columns == columns[1:]
    assert found.values.tolist() == [[[0.5]], [[0.2]]]
    with pytest.raises(DataError, match="metric that can be ranked"):
        read_results({"a": table([[9.0]], columns[:1])})


# --- missing scores ----------------------------------------------------------------------------

HOLES = {
    "a": table([["", 1.0], [0.9, 1.0], ["nan", 1.0]], ("organ_dice", "organ_haus95")),
    "b": table([[0.1, 2.0], [0.8, 2.0], ["", 2.0]], ("organ_dice", "organ_haus95")),
}


def test_a_missing_score_ranks_last():
    ranking = ranked(HOLES)
    # Dice: a is last in the first case, first in the second; the third tells nothing. Patients'
    # means of a: (2 + 1) / 2, (1 + 1) / 2, 1.
    assert ranking.ranks.tolist() == [[1.5, 1, 1], [1.5, 2, 2]]
    assert ranking.missing == (
        "3 of 12 scores were missing (2 of a, 1 of b). One case of one metric was left out, where "
        "no candidate has a score. The others rank last in their case and metric (worst); if they "
        "mean that there was nothing to find, choose skip."
    )
    assert described(ranking)["missing"]["cells"] == 3


def test_one_missing_score_is_told():
    ranking = ranked({"a": table([[""]], ["organ_dice"]), "b": table([[0.5]], ["organ_dice"])})
    assert ranking.missing.startswith(
        "1 of 2 scores was missing (1 of a). Missing scores rank last in their case and metric"
    )


def test_a_missing_score_is_as_bad_as_an_infinite_one():
    values = {"a": [""], "b": ["inf"], "c": [3.0]}
    found = ranked({name: table([row], ["organ_haus95"]) for name, row in values.items()})
    assert found.scores.tolist() == [2.5, 2.5, 1]


def test_a_missing_score_is_left_out_for_all():
    ranking = ranked(HOLES, nan="skip")
    assert ranking.ranks.tolist() == [[1, 1, 1], [2, 2, 2]]
    assert ranking.missing == (
        "3 of 12 scores were missing (2 of a, 1 of b). 2 cases of a metric were left out for all "
        "candidates (skip)."
    )


def test_a_missing_score_is_refused():
    with pytest.raises(DataError, match="none for organ_dice of a of a, organ_dice of c of a, "):
        ranked(HOLES, nan="refuse")
    # What is not ranked by is not looked at.
    assert ranked(HOLES, nan="refuse", weights={"dice": 0}).missing == "No score was missing."


def test_cases_and_columns_that_tell_nothing_do_not_count():
    rows = [["", ""], [0.9, ""], [0.8, ""]]
    columns = ("organ_dice", "organ_haus95")
    ranking = ranked({"a": table(rows, columns), "b": table(rows, columns)})
    assert (ranking.n_cases, ranking.columns) == (2, ("organ_dice",))
    assert ranking.missing == (
        "8 of 12 scores were missing (4 of a, 4 of b). 4 cases of a metric were left out, where "
        "no candidate has a score."
    )


def test_scores_that_are_all_missing_are_refused_with_what_helps():
    rows, columns = [["", 1], [0.9, ""]], ("organ_dice", "organ_haus95")
    nothing = {name: table([["", ""]] * 2, columns) for name in "ab"}
    for policy in ("worst", "skip"):
        with pytest.raises(DataError, match=r"found none\. Choose other .*both_empty"):
            ranked(nothing, nan=policy)
    in_turns = {"a": table(rows, columns), "b": table([["", ""]] * 2, columns)}
    with pytest.raises(DataError, match=r"found none\. Rank with nan: worst\.$"):
        ranked(in_turns, nan="skip")
    assert ranked(in_turns, nan="worst").order == [0, 1]


# --- weights -----------------------------------------------------------------------------------


def test_the_weight_of_a_column_is_the_product_of_what_names_it():
    columns = ("organ_dice", "organ_haus95", "core_dice", "core_surf_dice", "depth")
    weights = {"organ": 2, "dice": 3, "core_dice": 5, "core": 0.5}
    assert column_weights(columns, weights).tolist() == [6, 2, 7.5, 0.5, 1]
    assert column_weights(columns, {}).tolist() == [1] * 5


def test_weights_that_name_nothing_are_refused():
    columns = ("organ_dice", "dice_haus95")
    with pytest.raises(DataError, match=r"(?s)orgam: .* Did you mean organ\?.*dice: .* both"):
        column_weights(columns, {"orgam": 2, "dice": 2})
    with pytest.raises(DataError, match="above 0"):
        column_weights(columns, {"organ_dice": 0, "dice_haus95": 0})


def test_weights_decide():
    columns = ("organ_dice", "organ_haus95")
    found = {"a": table([[0.9, 9.0]], columns), "b": table([[0.8, 1.0]], columns)}
    assert ranked(found).scores.tolist() == [1.5, 1.5]
    assert ranked(found, weights={"dice": 3}).scores.tolist() == [1.25, 1.75]
    without = ranked(found, weights={"haus95": 0})
    assert (without.scores.tolist(), without.columns) == ([1, 2], ("organ_dice",))


# --- how sure ----------------------------------------------------------------------------------


def dice(**candidates):
    return {
        name: table([[v] for v in values], ("organ_dice",), range_ids(values))
        for name, values in candidates.items()
    }


def range_ids(values):
    return [f"case_{number:02d}" for number in range(len(values))]


LINE = np.linspace(0.5, 0.9, 12)
TURNS = np.where(np.arange(12) < 7, 0.01, -0.01)


@pytest.mark.parametrize(
    ("tables", "options", "said"),
    [
        (dice(a=LINE), {}, "a is the only candidate: there is nothing to compare."),
        (
            dice(a=LINE, b=LINE),
            {},
            "a and b cannot be told apart: p = 1, they rank alike in every patient.",
        ),
        (
            dice(a=[0.1, 0.9], b=[0.9, 0.1]),
            {},
            "a and b share the first place: none of them is better than the others.",
        ),
        (dice(a=[0.1], b=[0.9]), {}, "b ranks before a, but one patient is too few to test."),
        (
            dice(a=LINE[:4], b=LINE[:4] - 0.1),  # p = 1/16, times two
            {},
            "a ranks before b, but that may be chance: p = 0.12 (Holm). With 4 patients no "
            "difference could be more.",
        ),
        (  # p = 1/4096, times two
            dice(a=LINE, b=LINE - 0.1),
            {},
            "a is better than b with p < 0.001 (Holm).",
        ),
        (
            dice(a=LINE, b=LINE - 0.1),
            {"bootstraps": 50},
            "a is better than b with p < 0.001 (Holm), in 100 % of bootstraps.",
        ),
        (  # 7 wins of 12, all of one size: p = P(at least 7 of 12 heads) = 0.3872, times two
            dice(a=LINE + TURNS, b=LINE),
            {},
            "a ranks before b, but that may be chance: p = 0.77 (Holm).",
        ),
        (
            dice(a=LINE + TURNS, b=LINE, c=LINE - 0.1, d=LINE - 0.2),
            {},
            "a ranks before b, but that may be chance: p = 1 (Holm). It is better than 2 of the 3 "
            "others.",
        ),
    ],
    ids=range(9),
)
def test_what_the_verdict_says(tables, options, said):
    assert verdict(ranked(tables, **options)) == said


def test_the_cases_of_a_patient_are_one_witness():
    found = dice(a=LINE, b=LINE - 0.1)
    patients = {case: case[-1] for case in range_ids(LINE)}  # 10 and 11 are of 0 and 1
    assert described(ranked(found, patients))["n_patients"] == 10
    assert ranked(found, patients).p[0, 1] == 0.5**10
    assert ranked(found, dict.fromkeys(patients, "x")).stability is None


def test_significance_is_that_of_mist():
    """p of scipy.stats.wilcoxon on mean ranks of patients, less; identical candidates 1."""
    values = np.random.default_rng(0).normal(size=(3, 60, 4)).round(1)
    values[1] += 0.2
    values = np.concatenate([values, values[:1]])
    ids = [str(n) for n in range(60)]
    found = {f"c{k}": table(own, ids=ids) for k, own in enumerate(values)}
    ranking = ranked(found)
    rows = significance_rows(ranking)
    assert [row["strategy"] for row in rows] == list(found)
    for i, row in enumerate(rows):
        assert row[f"c{i}"] == ""
        for j in set(range(4)) - {i}:
            first, second = ranking.ranks[i], ranking.ranks[j]
            same = (first == second).all()
            moved = np.round(first - second, 9)
            expected = 1 if same else wilcoxon(moved, alternative="less").pvalue
            assert row[f"c{j}"] == pytest.approx(expected)
    assert rows[0]["c3"] == rows[3]["c0"] == 1


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("policy", NAN_POLICIES[:2])
def test_the_description_is_whole(scheme, policy):
    random = np.random.default_rng(1)
    values = random.random((3, 20, 4))
    values += np.array([0.6, 0.3, 0])[:, None, None] * [1, -1, -1, 1]
    values[2, :3, 1] = np.nan
    ids = [str(n) for n in range(20)]
    found = {f"c{k}": table(own, ids=ids) for k, own in enumerate(values)}
    ranking = ranked(found, scheme=scheme, nan=policy, bootstraps=200, weights={"organ": 2})
    fields = json.loads(json.dumps(described(ranking), allow_nan=False))
    assert (fields["scheme"], fields["n_cases"], fields["n_patients"]) == (scheme, 20, 20)
    assert fields["weights"] == {c: 1 + c.startswith("organ") for c in COLUMNS}
    averages = [each["average_rank"] for each in fields["candidates"]]
    assert averages == sorted(averages)
    for each in fields["candidates"]:
        assert each["ci_low"] <= each["average_rank"] <= each["ci_high"]
        assert sum(each["frequencies"]) == pytest.approx(1, abs=1e-4)
        assert fields["schemes"][scheme][each["strategy"]] == each["rank"]
    assert set(fields["schemes"]) == set(SCHEMES)
    assert len(fields["pairs"]) == 6
    for pair in fields["pairs"]:
        (back,) = (
            other
            for other in fields["pairs"]
            if (other["strategy"], other["other"]) == (pair["other"], pair["strategy"])
        )
        assert pair["wins"] + back["wins"] == pytest.approx(1)
        assert pair["difference"] == -back["difference"]
        assert pair["effect_size"] == -back["effect_size"]
        assert pair["p_holm"] >= pair["p"]
    assert ranked(found, scheme=scheme, nan=policy).settings.bootstraps == 0
    tau = fields["kendall_tau"]
    assert -1 <= tau["ci_low"] <= tau["mean"] <= tau["ci_high"] <= 1


def test_what_is_not_defined_is_null():
    fields = described(ranked(dice(a=[0.1], b=[0.2]), bootstraps=9))
    assert fields["bootstraps"] == 0
    assert fields["candidates"][0] | {"strategy": ""} == {
        "strategy": "",
        "rank": 1,
        "average_rank": 1,
        "ci_low": None,
        "ci_high": None,
        "frequencies": [],
    }
    assert fields["pairs"][0]["p"] is fields["pairs"][0]["wins"] is None
    assert fields["kendall_tau"] == {"mean": None, "ci_low": None, "ci_high": None}
    assert described(ranked(dice(a=[0.1, 0.2]), bootstraps=9))["pairs"] == []


# --- the command -------------------------------------------------------------------------------


def command(*words):
    done = subprocess.run(
        [sys.executable, ROOT / "workflow/scripts/rank.py", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


def test_the_script_writes_both_tables(tmp_path):
    for name, value in (("low", 0.2), ("high", 0.6)):
        write_rows(tmp_path / f"{name}.csv", ["id", *COLUMNS], table([[value] * 4]))
    words = ["--results", tmp_path / "low.csv", tmp_path / "high.csv", "--names", "e/low", "e/high"]
    words += ["--output-csv", tmp_path / "ranking.csv"]
    words += ["--output-detailed-csv", tmp_path / "detailed.csv"]
    assert command(*words)[0] == 0
    # Two metrics favour the high values, two the low ones.
    assert (
        tmp_path / "ranking.csv"
    ).read_text() == "strategy,average_rank\ne/low,1.5\ne/high,1.5\n"
    assert (tmp_path / "detailed.csv").read_text().splitlines()[1] == "e/low,2.0,1.0,1.0,2.0"


def test_the_script_says_how_sure_the_ranking_is(tmp_path):
    for name, shift in (("low", 0.0), ("high", 0.05)):
        rows = table([[v + shift, 3.0] for v in LINE], COLUMNS[:2], range_ids(LINE))
        write_rows(tmp_path / f"{name}.csv", list(rows[0]), rows)
    cases = [{"id": case, "patient": case[-1]} for case in [*range_ids(LINE), "another"]]
    write_rows(tmp_path / "cases.csv", ["id", "patient"], cases)
    (tmp_path / "weights.json").write_text('{"haus95": 0}')
    words = ["--results", tmp_path / "low.csv", tmp_path / "high.csv"]
    words += ["--output-csv", tmp_path / "out/ranking.csv"]
    words += ["--significance-csv", tmp_path / "out/significance.csv"]
    words += ["--output-json", tmp_path / "out/ranking.json", "--scheme", "aggregate-then-rank"]
    words += ["--weights", tmp_path / "weights.json", "--case-table", tmp_path / "cases.csv"]
    words += ["--bootstraps", 100, "--seed", 3, "--nan", "skip"]
    code, said = command(*words, "--settings", '{"alpha": 0.01, "bootstraps": 7}')
    assert code == 0, said
    fields = json.loads((tmp_path / "out/ranking.json").read_text())
    assert {
        k: fields[k] for k in ("scheme", "n_cases", "n_patients", "bootstraps", "seed", "alpha")
    } == {
        "scheme": "aggregate-then-rank",
        "n_cases": 12,
        "n_patients": 10,
        "bootstraps": 100,
        "seed": 3,
        "alpha": 0.01,
    }
    assert (
        fields["verdict"]
        == "high is better than low with p = 0.002 (Holm), in 100 % of bootstraps."
    )
    assert fields["verdict"] in said
    assert read_rows(tmp_path / "out/significance.csv") == [
        {"strategy": "low", "low": "", "high": "1.0"},
        {"strategy": "high", "low": str(0.5**10), "high": ""},
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--names", "one"], "--names: expected a different name for each of 2 tables"),
        (["--bootstraps", "-1"], "bootstraps: expected at least 0, found -1."),
        (
            ["--weights", "w.json"],
            "rank with w.json: 1 problem\n  weights.dice: expected at least 0",
        ),
        (["--weights", "l.json"], "l.json: expected names and values in braces, found [1]."),
        (["--metric-direction-overrides", "l.json"], "l.json: expected names and values in braces"),
        (["--case-table", "c.csv"], "c.csv: expected a patient of every case, found none of b."),
        (["--id-column", "case"], "a.csv (a): expected rows with a column case, found none."),
        (
            ["--output-json", "../here/a.csv"],
            "../here/a.csv: expected a file of its own to write, found one to read. Name another.",
        ),
        (
            ["--significance-csv", "./out.csv"],
            "out.csv: expected a file of its own to write, found another output.",
        ),
        (
            ["--metric-direction-overrides", "d.json"],
            "direction of organ_dise: expected a column among organ_dice, organ_haus95, "
            "core_avg_surf, core_surf_dice, found none of that name. Did you mean organ_dice?",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_is_wrong_on_the_command_line_is_one_line(words, message, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    tmp_path /= "here"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.json").write_text('{"organ_dise": "higher"}')
    for name in "ab":
        write_rows(tmp_path / f"{name}.csv", ["id", *COLUMNS], table([[0.5] * 4] * 2))
    (tmp_path / "w.json").write_text('{"dice": -1}')
    (tmp_path / "l.json").write_text("[1]")
    (tmp_path / "c.csv").write_text("id,patient\na,x\n")
    code, said = command("--results", "a.csv", "b.csv", "--output-csv", "out.csv", *words)
    assert code == 1
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "out.csv").exists()
