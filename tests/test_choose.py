"""A strategy chosen by cross-validation, or none."""

import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, ball, grid

from mist_core.choose import GROUPS, choose, described, scored
from mist_core.cli import show_summary
from mist_core.config import Postprocess, Rank, Search, read_config
from mist_core.errors import DataError
from mist_core.files import read_json, write_json, write_rows
from mist_core.io import read_labels, write_volume
from mist_core.postprocess import read_strategy
from mist_core.results import read_results
from mist_core.search import strategies


def chosen(settings=None, patients=None, **dice):
    """A choice by Dice alone: the values of each candidate, one for each case."""
    tables = {
        name: [{"id": f"{n:03d}", "organ_dice": str(v)} for n, v in enumerate(values)]
        for name, values in dice.items()
    }
    found = choose(read_results(tables), settings, patients)
    return found, described(found, {name: [{"of": name}] for name in dice if name != "none"})


def test_what_is_better_in_every_patient_is_chosen():
    """All 12 differences have one sign: p = 1 / 2^12, of two tests twice that."""
    found, told = chosen(none=[0.8] * 12, good=[0.9] * 12, bad=[0.7] * 12)
    assert told["chosen"] == "good"
    assert told["strategy"] == [{"of": "good"}]
    assert [each["name"] for each in told["candidates"]] == ["good", "none", "bad"]
    assert [each["average_rank"] for each in told["candidates"]] == [1, 2, 3]
    assert told["candidates"][0]["p_holm"] == pytest.approx(2 / 2**12)
    assert told["candidates"][0]["means"] == {"organ_dice": pytest.approx(0.9)}
    assert [each["better_in"] for each in told["candidates"]] == [1, None, 0]
    effect = told["held_out"]["columns"]["organ_dice"]
    assert effect["none"] == pytest.approx(0.8)
    assert effect["chosen"] == pytest.approx(0.9)
    assert [effect[k] for k in ("difference", "ci_low", "ci_high")] == pytest.approx([0.1] * 3)
    assert set(found.by_case.values()) == {1}
    assert told["sentence"].startswith("good is better than no post-processing with p = 0.00049")
    assert "organ_dice 0.9 in place of 0.8 (+0.1, 95 % interval +0.1 to +0.1)" in told["sentence"]


def test_a_metric_whose_low_values_are_good_is_turned():
    tables = {
        name: [{"id": str(n), "organ_haus95": value} for n in range(8)]
        for name, value in {"none": "4", "good": "3"}.items()
    }
    told = described(choose(read_results(tables)), {})
    assert told["chosen"] == "good"
    assert told["held_out"]["columns"]["organ_haus95"]["difference"] == -1


def test_what_is_best_by_chance_is_not_chosen():
    """Better in 7 of 12: of 2^12 signs 1586 have 7 or more, p = 0.387; the mean rank is lower."""
    good = [0.9] * 7 + [0.7] * 5
    found, told = chosen(none=[0.8] * 12, good=good)
    assert found.scored.average_rank[1] < found.scored.average_rank[0]
    assert told["candidates"][0]["p_holm"] == pytest.approx(1586 / 2**12)
    assert (told["chosen"], told["strategy"]) == ("none", [])
    assert "is not better with confidence, p = 0.39" in told["sentence"]


def test_of_many_that_are_noise_one_ranks_before_none_and_none_is_kept():
    """In at least 95 of 100 such runs; by the mean rank alone it would be in nearly none."""
    kept = in_front = 0
    for seed in range(100):
        noise = np.random.default_rng(seed).normal(size=(18, 20, 1))
        found = scored(noise, np.ones(1), np.arange(20))
        kept += found.sure(0.05) == 0
        in_front += found.average_rank.argmin() != 0
    assert in_front > 85
    assert kept >= 95


def test_what_helps_few_patients_is_scored_on_them_too():
    """Better in 6 of 40 and worse in none: p = 1 / 2^6, and without one of the 6 it is 1 / 2^5.

    A test without each of them would leave these without it, to whom alone it matters.
    """
    found, told = chosen(Rank(alpha=0.02), none=[0.8] * 40, good=[0.9] * 6 + [0.8] * 34)
    assert told["chosen"] == "good"
    assert set(found.by_case.values()) == {1}
    effect = told["held_out"]["columns"]["organ_dice"]
    assert effect["difference"] == pytest.approx(0.6 / 40)


def test_a_patient_is_scored_by_what_ranks_first_without_it():
    """One is better in 8 of 8, the other in 7: without patient 0, to whom it is bad, both are
    alike, and the first of them is taken.
    """
    one, other = [0.9] * 4 + [0.85] * 4, [0.1] + [0.85] * 4 + [0.9] * 3
    found, told = chosen(none=[0.8] * 8, other=other, one=one)
    assert told["chosen"] == "one"
    assert found.by_case["000"] == 1
    assert found.by_case["007"] == 2
    effect = told["held_out"]["columns"]["organ_dice"]
    assert effect["chosen"] < np.mean(one)


def test_patients_left_out_that_gain_nothing_keep_none_and_nothing_is_taken():
    """Each has p = 4 / 2^8, of three tests 3 times that; too often that one leads which is bad for
    the patient left out.
    """
    lowest_best = {
        "none": [2.5] * 8,
        "a": [3, 2, 2, 1, 2, 3, 1, 2],
        "b": [2, 4, 0, 2, 2, 2, 2, 1],
        "c": [1, 2, 4, 1, 0, 0, 3, 2],
    }
    found, told = chosen(**{name: [1 - v / 10 for v in of] for name, of in lowest_best.items()})
    assert found.scored.p_holm[found.scored.best] < 0.05
    assert (found.chosen, found.gain < 0) == (0, True)
    assert set(found.by_case.values()) == {0}
    assert set(told["held_out"]["chosen_by_group"].values()) == {"a", "b", "c"}
    assert "patients left out of the choice gain nothing" in told["sentence"]


@pytest.mark.parametrize(("n", "chosen_one"), [(8, 0), (9, 1)])
def test_of_17_strategies_one_can_be_chosen_from_9_patients_on(n, chosen_one):
    """17 / 2^9 is less than 0.05, 17 / 2^8 is not."""
    others = {f"bad{k}": [0.1 + k / 100] * n for k in range(16)}
    found, told = chosen(none=[0.8] * n, good=[0.9] * n, **others)
    assert found.scored.n_tests == 17
    assert found.chosen == chosen_one
    assert ("none could be" in told["sentence"]) == (not chosen_one)


def test_with_few_patients_it_is_said_that_none_could_be_better():
    _, told = chosen(none=[0.8] * 4, good=[0.9] * 4)
    assert told["sentence"].endswith("With 4 patients none could be.")
    _, told = chosen(none=[0.8], good=[0.9])
    assert told["chosen"] == "none"


def test_candidates_that_score_alike_count_once_and_the_first_is_taken():
    copies = {f"copy{n}": [0.9] * 12 for n in range(16)}
    alone, _ = chosen(none=[0.8] * 12, good=[0.9] * 12)
    found, told = chosen(none=[0.8] * 12, good=[0.9] * 12, **copies, idle=[0.8] * 12)
    assert told["chosen"] == "good"
    assert found.scored.p_holm[1] == alone.scored.p_holm[1]
    np.testing.assert_array_equal(found.scored.average_rank, [2, *[1] * 17, 2])
    assert found.scored.n_tests == 1


def test_strategies_that_change_nothing_are_not_chosen():
    _, told = chosen(none=[0.8] * 12, idle=[0.8] * 12)
    assert told["sentence"] == "No post-processing: none of the strategies changes a score."
    _, told = chosen(none=[0.8] * 12, bad=[0.7] * 12)
    assert "no strategy ranks before it" in told["sentence"]


def test_the_cases_of_a_patient_are_left_out_together():
    """24 cases of 6 patients: p = 1 / 2^6, not 1 / 2^24."""
    of = {f"{n:03d}": f"p{n // 4}" for n in range(24)}
    found, told = chosen(patients=of, none=[0.8] * 24, good=[0.9] * 24)
    assert found.n_patients == 6
    assert told["candidates"][0]["p_holm"] == pytest.approx(1 / 2**6)
    assert told["chosen"] == "good"


def test_many_patients_are_left_out_in_groups():
    n = 2 * GROUPS + 1
    found, told = chosen(none=[0.8] * n, good=[0.9] * n)
    assert len(told["held_out"]["chosen_by_group"]) == GROUPS
    assert len(found.by_case) == n
    assert told["chosen"] == "good"


def test_weights_and_level_are_those_of_the_ranking():
    rows = {
        name: [{"id": str(n), "organ_dice": a, "spot_dice": b} for n in range(8)]
        for name, (a, b) in {"none": ("0.8", "0.8"), "mixed": ("0.9", "0.1")}.items()
    }
    results = read_results(rows)
    assert choose(results).chosen == 0
    assert choose(results, Rank(weights={"spot": 0})).chosen == 1
    assert choose(results, Rank(weights={"spot": 0}, alpha=0.001)).chosen == 0


def test_a_column_of_no_weight_makes_no_more_strategies():
    """16 strategies differ in it alone: they are one, and p is not corrected for them."""
    rows = {"none": ("0.8", "0")} | {f"s{k}": ("0.9", str(k)) for k in range(1, 17)}
    tables = {
        name: [{"id": str(n), "organ_dice": a, "organ_haus95": b} for n in range(8)]
        for name, (a, b) in rows.items()
    }
    found = choose(read_results(tables), Rank(weights={"haus95": 0}))
    assert found.scored.n_tests == 1
    assert found.columns == ("organ_dice",)
    assert described(found, {})["chosen"] == "s1"


def test_what_was_done_about_missing_scores_is_what_ranking_does():
    tables = {"none": ["nan", *[0.8] * 8], "good": [0.9] * 9}
    with pytest.raises(DataError, match="none for organ_dice of 000 of none"):
        chosen(Rank(nan="refuse"), **tables)
    _, told = chosen(Rank(nan="skip"), **tables)
    assert told["missing"]["cells"] == 1
    assert told["missing"]["sentence"].endswith(
        "One case of one metric was left out for all candidates (skip)."
    )
    assert (
        chosen(**(tables | {"none": [0.8] * 9}))[1]["missing"]["sentence"]
        == "No score was missing."
    )


def test_a_missing_score_is_the_worst():
    found, _ = chosen(none=["nan"] * 8, good=[0.1] * 8)
    assert found.chosen == 1
    found, told = chosen(none=["nan"] * 8, good=["nan"] * 8)
    assert found.chosen == 0
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_the_grid_is_every_combination_but_the_one_that_does_nothing(tmp_path):
    found = strategies(Search(), [0, 2, 5])
    assert len(found) == 17
    assert list(found)[:2] == ["min-10mm3", "min-100mm3"]  # simple ones first
    assert "min-100mm3+largest-label+holes" in found
    assert [s["transform"] for s in found["min-10mm3+largest-group+holes"]] == [
        *("remove_small_objects", "get_top_k_connected_components"),
        *("fill_holes_with_label", "fill_holes_with_label"),
    ]
    again = Search.model_validate(Search().model_dump())
    assert json.dumps(strategies(again, [0, 2, 5])) == json.dumps(found)  # as files are compared
    holes = found["holes"]
    assert [(s["apply_to_labels"], s["kwargs"]) for s in holes] == [
        ([2], {"fill_holes_label": 2}),
        ([5], {"fill_holes_label": 5}),
    ]
    assert [found[f"largest-{k}"][0]["per_label"] for k in ("group", "label")] == [False, True]
    for name, steps in found.items():
        write_json(tmp_path / f"{name}.json", steps)
        assert read_strategy(tmp_path / f"{name}.json")
    assert list(
        strategies(Search(keep_largest=["label"], min_volume_mm3=[0], fill_holes=[False]), [1])
    ) == ["largest-label"]


def test_with_one_label_there_is_no_group():
    assert not [name for name in strategies(Search(), [0, 1]) if "group" in name]
    only = Search(keep_largest=["group"], min_volume_mm3=[0], fill_holes=[False])
    assert list(strategies(only, [0, 1])) == ["largest-group"]


def test_volumes_that_differ_have_names_that_differ():
    search = Search(min_volume_mm3=[5, 0.1, 1234567, 1234567.5], keep_largest=["none"])
    found = list(strategies(search, [1]))[:4]
    assert found == ["min-5mm3", "min-0.1mm3", "min-1234567mm3", "min-1234567.5mm3"]


def test_the_config_knows_auto_in_a_word_and_with_a_grid():
    assert read_config({"postprocess": "auto"}).postprocess == Postprocess(auto=True)
    search = {"min_volume_mm3": [0, 5.5]}
    found = read_config({"postprocess": {"auto": True, "search": search}}).postprocess
    assert found.search == Search(min_volume_mm3=[0, 5.5])
    wrong = {"auto": True, "search": {"keep_largest": [], "min_volume_mm3": [-1], "holes": [True]}}
    with pytest.raises(DataError, match="3 problems"):
        read_config({"postprocess": wrong})
    nothing = {"keep_largest": ["none"], "min_volume_mm3": [0, 0], "fill_holes": [False]}
    with pytest.raises(DataError, match=r"search: expected a combination that changes something, "):
        read_config({"postprocess": {"auto": True, "search": nothing}})
    for name, value in (("min_volume_mm3", [0, 5]), ("fill_holes", [True])):
        assert read_config({"postprocess": {"search": nothing | {name: value}}})


def test_the_scripts_choose_and_take_label_maps(tmp_path):
    """Better in 6 of 7, p = 8 / 2^7, from tables to label maps."""
    home = tmp_path / "e"
    values = {"raw": [0.8] * 7, "good": [0.9] * 6 + [0.1]}
    tables = {
        "raw": home / "results.csv",
        "good": home / "postprocess/good/postprocess_results.csv",
    }
    maps = {"raw": "predictions/train/raw", "good": "postprocess/good/predictions/train"}
    for number, name in enumerate(values, start=1):
        rows = [{"id": f"{n:03d}", "organ_dice": v} for n, v in enumerate(values[name])]
        write_rows(tables[name], ("id", "organ_dice"), [*rows, {"id": "Mean", "organ_dice": 1}])
        for n in range(7):
            write_volume(home / maps[name] / f"{n:03d}.nii.gz", ball(grid((5, 5, 5)), value=number))
    write_json(tmp_path / "good.json", [{"of": "good"}])
    auto = home / "postprocess/auto"

    def script(name, *words):
        command = [sys.executable, ROOT / f"workflow/scripts/{name}.py", *words]
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)

    given = ["--raw", tables["raw"], "--results", tables["good"]]
    given += ["--strategies", tmp_path / "good.json"]
    given_to = [*given, "--output", auto / "choice.json"]
    given_to += ["--output-strategy", auto / "strategy.json"]
    done = script("choose", *given_to)
    assert done.returncode == 0, done.stderr
    assert "No post-processing: good, the best, is not better" in done.stderr
    assert read_json(auto / "strategy.json") == []
    assert set(read_json(auto / "choice.json")["held_out"]["chosen_by_case"].values()) == {"none"}
    done = script("choose", *given_to, "--settings", '{"alpha": 0.1}')
    assert done.returncode == 0, done.stderr
    assert read_json(auto / "strategy.json") == [{"of": "good"}]
    write_json(tmp_path / "before.json", {"folder": "x", "cases": {"001": {"error": "lost"}}})
    done = script(
        "take_chosen",
        *("--choice", auto / "choice.json", "--experiment", home, "--case", "001", "005", "006"),
        *("--after", tmp_path / "before.json", "--output", auto / "predictions/train"),
        *("--manifest", tmp_path / "m.json"),
    )
    assert done.returncode == 0, done.stderr
    found = {p.name[:3]: read_labels(p).array.max() for p in auto.glob("predictions/train/*.gz")}
    assert found == {"005": 2, "006": 2}
    assert read_json(tmp_path / "m.json")["cases"]["001"] == {"error": "lost"}


def test_a_run_ends_with_what_was_chosen_if_that_is_ranked(tmp_path, capsys):
    (tmp_path / ".lock").touch()
    (tmp_path / "summary.txt").write_text("table")
    for name in ("a", "old"):
        write_json(tmp_path / name / "postprocess/auto/choice.json", {"sentence": f"{name} says."})
    rows = [{"strategy": "a/raw"}, {"strategy": "a/auto"}, {"strategy": "b/auto"}]
    write_rows(tmp_path / "rank/ranking.csv", ["strategy"], rows)
    show_summary(str(tmp_path))
    assert capsys.readouterr().out == (
        f"\ntable\nReport: {tmp_path / 'report.html'}\na/auto: a says.\n"
    )
