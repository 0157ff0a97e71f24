"""The page and the tables that sum up a run."""

import json
import re
import shutil
import subprocess
from dataclasses import fields
from html.parser import HTMLParser
from itertools import chain, pairwise
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_runs import CHOICE, ODD_ID, SECRET, made_up_run, words

from mist_core.config import Rank
from mist_core.errors import DataError
from mist_core.files import read_rows, write_rows
from mist_core.report import figures
from mist_core.report.page import (
    GUIDELINE,
    drawn_classes,
    grouped,
    hours,
    imputed,
    own,
    score,
    summary_text,
    worst_first,
)
from mist_core.report.provenance import definitions, sha256_of, versions, without_nan
from mist_core.report.scores import (
    Candidate,
    Macro,
    Summary,
    case_means,
    failed_cases,
    headline,
    label,
    macro,
    read_candidate,
    title,
    unit,
)

TIMES = "\N{MULTIPLICATION SIGN}"
PATCH = f"patch (x {TIMES} y {TIMES} z), voxels"
VOID = ("meta", "img", "br", "hr", "link", "input", "wbr")


class Elements(HTMLParser):
    """Every element with its attributes and words, in order; all must be closed."""

    def __init__(self, page):
        super().__init__()
        self.found, self.open = [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "words": "", "inside": [e["tag"] for e in self.open], **dict(attrs)}
        element["sections"] = [e.get("id", "") for e in self.open if e["tag"] == "section"]
        self.found.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self.open:
            element["words"] += data

    def all(self, tag, section=""):
        of_tag = (e for e in self.found if e["tag"] == tag)
        return [e for e in of_tag if not section or section in e["sections"]]

    def section(self, name):
        return next(e for e in self.found if e["tag"] == "section" and e.get("id") == name)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The arguments for a made-up run that is reported, and its results."""
    folder = tmp_path_factory.mktemp("run")
    arguments = made_up_run(folder)
    done = subprocess.run(words(arguments), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return arguments, folder / "results"


@pytest.fixture(scope="module")
def page(run):
    return (run[1] / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def elements(page):
    return Elements(page)


@pytest.fixture(scope="module")
def facts(run):
    return json.loads((run[1] / "evaluation.json").read_text(encoding="utf-8"))


def test_the_page_needs_nothing_but_itself(elements, page):
    for tag in ("link", "iframe", "object", "form"):
        assert not elements.all(tag)
    for image in elements.all("img"):
        assert image["alt"]
        assert image["src"].startswith("data:image/")
    assert not [e for e in elements.all("script") if "src" in e]
    assert not re.findall(r'(?:src|href|action)="(?:https?:)?//', page)
    assert not re.findall(r"url\((?!%23|#)", page)  # of a figure: what it defines itself
    assert "@import" not in page
    policy = next(e for e in elements.all("meta") if "http-equiv" in e)["content"]
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert "unsafe-inline" not in policy.split("script-src")[1]
    assert len(page) < 3e6


def test_every_link_leads_somewhere(elements):
    places = {e["id"] for e in elements.found if "id" in e}
    ids = [e["id"] for e in elements.found if "id" in e]
    assert len(places) == len(ids), "an id stands twice"
    links = [e["href"] for e in elements.all("a")]
    assert {link[1:] for link in links if link.startswith("#")} <= places
    assert {link for link in links if not link.startswith("#")} == {"evaluation.json"}
    for element in elements.found:
        if "aria-labelledby" in element:
            assert element["aria-labelledby"] in places


def test_headings_go_down_step_by_step(elements):
    levels = [int(e["tag"][1]) for e in elements.found if re.fullmatch(r"h\d", e["tag"])]
    assert levels.count(1) == 1
    inside = [e for e in elements.found if re.fullmatch(r"h\d", e["tag"]) and "main" in e["inside"]]
    steps = [int(e["tag"][1]) for e in inside]
    assert steps[0] == 2
    assert all(b - a <= 1 for a, b in pairwise(steps))


def test_names_are_shown_and_never_markup(page, elements):
    assert elements.all("h1")[0]["words"] == "liver <1>"
    assert elements.all("script")[-1]["words"].startswith("//")
    for raw in ("<1>", "<b>", ODD_ID, SECRET, "<broke>"):
        assert raw not in page
    cases = [e["words"] for e in elements.all("th", "table")]
    assert ODD_ID in cases
    assert SECRET in elements.section("repeat")["words"]


def test_what_went_wrong_stands_before_any_score(elements, page):
    words_of = elements.section("failures")["words"]
    assert "Test cases without a prediction of plain: 1" in words_of
    assert "test_2: its disk <broke>" in words_of
    assert "Structures that were missed" in words_of
    assert "case_001: core <b>" in words_of
    assert page.index('id="failures"') < page.index('id="scores"')


def table(elements, section, number=0):
    """The cells of a table as lists of words."""
    start = [e for e in elements.all("table") if section in e["sections"]][number]
    lines = []
    began = elements.found.index(start)
    for element in elements.found[began + 1 :]:
        if element["tag"] == "table":
            break
        if element["tag"] == "tr":
            lines.append([])
        if element["tag"] in ("th", "td") and lines:
            lines[-1].append(" ".join(element["words"].split()))
    return lines


def test_the_headline_is_what_the_summary_says(elements, run):
    (heads, *rows) = table(elements, "scores")
    assert heads[:2] == ["class", "mean Dice"]
    best = json.loads((run[1] / "rank/ranking.json").read_text())["candidates"][0]["strategy"]
    summary = {
        row["class"]: row
        for row in read_rows(run[1] / best / "results_summary.csv")
        if row["metric"] == "dice"
    }
    assert [row[0] for row in rows] == ["organ", "core <b>", "mean of 2 classes"]
    for row in rows[:2]:
        one = summary[row[0]]
        low, high = (f"{float(one[name]):.3f}" for name in ("ci_low", "ci_high"))
        assert row[1:3] == [f"{float(one['mean']):.3f}", f"{low}\u2013{high}"]
        counts = [one[f"n_{what}"] for what in ("absent", "missed", "invented", "failed")]
        assert row[5:] == [f"{one['n_used']} of {one['n']}", *counts]
    assert heads[6:] == ["absent in both", "missed", "invented", "failed"]
    assert (rows[1][6], rows[1][7]) == ("1", "1")  # case 3 has no core, that of case 1 is missed
    means = [float(summary[name]["mean"]) for name in ("organ", "core <b>")]
    assert rows[2][1] == f"{np.mean(means):.3f}"
    cases = read_rows(run[1] / best / "results.csv")[:-5]
    worst = min(cases, key=lambda row: float(row["organ_dice"]))
    assert rows[0][4] == f"{float(worst['organ_dice']):.3f} {worst['id']}"


def test_every_case_has_a_row_and_the_worst_is_first(elements, run):
    _, _, *rows = table(elements, "table")
    assert len(rows) == 12
    means = [float(row[2]) for row in rows]
    assert means == sorted(means)
    assert rows[0][0] == "case_001"
    assert rows[0][-1] == "core <b>: missed"
    links = {e["words"]: e["href"] for e in elements.all("a", "table")}
    assert links["case_001"] == "#case-1"


def test_the_page_tells_how_it_was_trained(elements):
    told = {head: cell.replace(TIMES, "x") for head, cell in table(elements, "training")}
    expected = {
        **{"experiment": "plain", "network": "nnunet", "loss": "dice", "folds": "2"},
        **{
            "epochs": "8",
            "steps per epoch": "10",
            "patches per step": "2",
            "augmentation": "default",
            "seed": "42",
        },
        # Two folds of eight epochs of ten steps of two patches, four patches a second.
        **{PATCH: "8 x 16 x 32", "time of all steps": "80 s"},
    }
    assert {name: told[name] for name in expected} == expected


def test_the_choice_of_a_strategy_is_told(elements):
    words_of = elements.section("strategy")["words"]
    assert CHOICE["sentence"] in words_of
    _, first, second = table(elements, "strategy")
    assert first[:4] == ["largest-group (chosen)", "1.250", "0.010", "97"]
    assert second[:4] == ["none", "1.750", "\u2013", "\u2013"]
    _, effect = table(elements, "strategy", 1)
    assert effect == ["organ Dice", "0.900", "0.910", "+0.013", "+0.004 to +0.021"]


def test_the_ranking_is_told_near_the_top(elements, run):
    ranking = json.loads((run[1] / "rank/ranking.json").read_text())
    assert ranking["verdict"] in elements.all("header")[0]["words"]
    assert len(elements.all("img", "ranking")) == 3


@pytest.mark.parametrize(
    ("scheme", "bootstraps", "said"),
    [
        ("rank-then-aggregate", 50, "ranks over cases and metrics, with 95 % intervals of 50 boot"),
        ("test-based", 0, "ranks over metrics, of each by the number of rivals that a candidate"),
    ],
)
def test_the_ranking_says_how_it_was_made(tmp_path, scheme, bootstraps, said):
    ranked = Rank(scheme=scheme, bootstraps=bootstraps)
    arguments = made_up_run(tmp_path, n_cases=4, choices=False, ranked=ranked)
    subprocess.run(words(arguments), check=True)
    shown = Elements((tmp_path / "results/report.html").read_text(encoding="utf-8"))
    told = " ".join(shown.section("ranking")["words"].split())
    assert said in told
    assert ("intervals" in told) == ("Rank frequencies" in told) == bool(bootstraps)
    assert len(shown.all("img", "ranking")) == (3 if bootstraps else 2)


def test_the_same_run_gives_the_same_files(run, tmp_path):
    arguments, results = run
    again = arguments | {
        "--output": [tmp_path / "report.html"],
        "--summary": [tmp_path / "summary.txt"],
    }
    subprocess.run(words(again), check=True)
    for name in ("report.html", "evaluation.json", "summary.txt"):
        assert (tmp_path / name).read_bytes() == (results / name).read_bytes(), name


def test_one_candidate_has_nothing_empty(tmp_path):
    arguments = made_up_run(tmp_path, n_cases=2, names=("plain/raw",), choices=False)
    arguments["--logs"] = arguments["--tests"] = arguments["--plans"] = []
    subprocess.run(words(arguments), check=True)
    shown = Elements((tmp_path / "results/report.html").read_text(encoding="utf-8"))
    sections = {e.get("id") for e in shown.all("section")}
    assert not {"ranking", "strategy", "tests"} & sections
    assert {"failures", "scores", "table", "training"} <= sections
    assert "nan" not in " ".join(e["words"] for e in shown.all("td"))


def test_a_case_that_cannot_be_read_is_told_and_not_shown(tmp_path):
    arguments = made_up_run(tmp_path, n_cases=3, names=("plain/raw",), choices=False)
    (tmp_path / "results/plain/raw/predictions/case_002.nii.gz").write_text("no image")
    subprocess.run(words(arguments), check=True)
    shown = Elements((tmp_path / "results/report.html").read_text(encoding="utf-8"))
    assert "case_002.nii.gz: expected" in shown.section("cases")["words"]
    assert len(shown.all("article")) == 3


# What a reviewer asks of a report, and where it is found: in the section that the page names.
EVIDENCE = {
    "Dice is the main metric": ("mean Dice", "95 % interval"),
    "average Hausdorff distance for contours": ("AHD, mm",),
    "no interpretation of accuracy": ("Most voxels of an image are background", "share of"),
    "IoU, sensitivity and specificity, too": ("IoU", "Sensitivity", "Specificity"),
    "samples of annotation and prediction": ("slice", "labelled voxels differ"),
    "no cherry-picking": ("chosen by rule", "drawn at random"),
    "how scores are spread": ("A point is a case", "How many cases"),
    "every class by itself": ("organ", "core <b>"),
    "no background in means": ("mean of 2 classes", "background is no class"),
    "access to scripts and results": ("snakemake", "evaluation.json", "torch", "sha256"),
}


@pytest.mark.parametrize("number", range(10))
def test_the_guideline_is_followed_where_the_page_says_so(elements, number):
    rule, place, _ = GUIDELINE[number]
    items = elements.all("li", "guideline")
    assert items[number]["words"].startswith(rule)
    links = elements.all("a", "guideline")
    assert links[number]["href"] == f"#{place}"
    target = next(e for e in elements.found if e.get("id") == place)
    section = target if target["tag"] == "section" else elements.section(target["sections"][-1])
    for word in EVIDENCE[rule]:
        assert word in section["words"], word
    if place in ("distribution", "cases"):
        assert elements.all("img", place)
    if rule == "no interpretation of accuracy":
        tiles = [e["words"] for e in elements.all("ul") if "tiles" in e.get("class", "")]
        assert not [text for text in tiles if "ccuracy" in text]
    if rule == "no background in means":
        assert not [line for line in table(elements, "scores") if "background" in line[0]]


def test_the_tables_of_scores_hold_what_they_should(elements):
    first, *rows = table(elements, "scores")
    assert first[1:3] == ["mean Dice", "95 % interval"]
    second, *beside = table(elements, "scores", 1)
    assert second == [
        *("class", "IoU", "Sensitivity", "Specificity", "Precision"),
        *("HD95, mm", "NSD @ 1", "AHD, mm", "ASSD, mm"),
    ]
    third, *shares = table(elements, "scores", 2)
    assert third == ["class", "accuracy", "share of background, %", "cases of both"]
    assert [row[-1] for row in shares] == ["12", "12"]
    heads = [e["words"].lower() for e in elements.all("th") if e.get("scope") == "col"]
    assert sum("accuracy" in words for words in heads) == 1
    for heads, lines, columns in ((first, rows, [1]), (second, beside, range(1, 9))):
        for column in columns:
            number = re.compile(r"\d+\.\d{2}" if "mm" in heads[column] else r"\d+\.\d{3}")
            organ, core, both = (float(number.match(line[column])[0]) for line in lines)
            assert both == pytest.approx((organ + core) / 2, abs=0.0101), heads[column]


def test_the_spread_of_every_class_is_drawn(elements):
    words_of = [e["alt"] for e in elements.all("img", "distribution")]
    for name in ("organ", "core <b>"):
        assert [w for w in words_of if w.startswith(f"Box plots of {name}, Dice")]
        assert [w for w in words_of if w.startswith("Histogram of Dice") and f"of {name}:" in w]


def test_the_cases_shown_are_those_of_the_rule(elements, run):
    best = json.loads((run[1] / "rank/ranking.json").read_text())["candidates"][0]["strategy"]
    means = {
        row["id"]: (float(row["organ_dice"]) + float(row["core <b>_dice"])) / 2
        for row in read_rows(run[1] / best / "results.csv")[:-5]
    }
    shown = [e["words"] for e in elements.all("article")]
    assert min(means, key=means.get) in shown[0]
    assert "Worst" in shown[0]
    for word in ("worse quartile", "median", "better quartile", "best", "drawn at random"):
        assert [text for text in shown if word in text.lower()], word


def test_the_table_of_cases_says_how_it_is_sorted(elements):
    (sorted_by,) = [e for e in elements.all("th") if "aria-sort" in e]
    assert sorted_by["aria-sort"] == "ascending"
    assert " ".join(sorted_by["words"].split()) == "mean Dice"


def test_evaluation_json_has_what_the_page_has(facts, run):
    arguments, results = run
    assert facts["schema"] == "mist_core evaluation 1"
    assert facts["versions"] == versions()
    assert facts["command"] == arguments["--command"][0]
    assert facts["description_sha256"] == sha256_of(arguments["--dataset"][0])
    assert (facts["n_cases"], facts["n_patients"]) == (12, 6)
    assert [case["patient"] for case in facts["cases"]] == [f"p{n // 2}" for n in range(12)]
    assert sorted(chain(*facts["folds"].values())) == sorted(
        row["id"] for row in read_rows(results / "train_paths.csv")
    )
    assert facts["test_cases"]["plain"] == {
        "predicted": 1,
        "problems": {"test_2": "its disk <broke>"},
    }
    assert facts["seeds"]["train"] == {"plain": 42}
    assert facts["ranking"] == json.loads((results / "rank/ranking.json").read_text())
    for name, each in facts["results"].items():
        for kept in each["tables"].values():
            assert sha256_of(results / name / kept["path"].rsplit("/", 1)[1]) == kept["sha256"]
        summary = read_rows(results / name / "results_summary.csv")
        for row in summary:
            told = each["classes"][row["class"]][row["metric"]]
            assert told["mean"] == float(row["mean"])
            assert told["n_used"] == int(row["n_used"])
            asked = row["metric"] in ("dice", "haus95", "avg_surf", "surf_dice")
            assert told["ranked"] is asked
            assert told["definition"] == row["definition"]
        assert facts["macro"][name]["n"]["dice"] == 2
    dice = facts["metrics"][0]
    assert (dice["metric"], dice["classes"]) == ("dice", ["organ", "core <b>"])
    assert (dice["formula"], dice["both_empty"]) == ("2 TP / (2 TP + FP + FN)", 1.0)
    assert (
        facts["failures"][-1]["cases"] | {"case_001": "core <b>"} == facts["failures"][-1]["cases"]
    )


def test_json_has_no_nan():
    assert without_nan({"a": [float("nan"), 1.5, (float("inf"),)], 2: "x"}) == {
        "a": [None, 1.5, [None]],
        "2": "x",
    }


def test_cases_are_ordered_from_the_worst():
    scores = {f"c{i}": v for i, v in enumerate((0.5, float("nan"), 0.9, 0.1))}
    assert worst_first(scores, "dice") == ["c1", "c3", "c0", "c2"]
    assert worst_first(scores, "haus95") == ["c1", "c2", "c0", "c3"]


def test_the_text_table_by_hand():
    values = {"organ_dice": 0.5, "organ_surf_dice": 0.25, "core_dice": 1, "core_surf_dice": 0}
    only = Candidate("default/raw", [{"id": "a"} | {k: str(v) for k, v in values.items()}], None)
    ranking = [{"strategy": "default/raw", "average_rank": "1.75"}]
    lines = summary_text([only], ranking).splitlines()
    assert lines[0] == "default/raw  (mean rank 1.75)"
    assert [line.split() for line in lines[1:]] == [
        ["dice", "surf_dice"],
        ["organ", "0.5000", "0.2500"],
        ["core", "1.0000", "0.0000"],
    ]
    assert len({len(line) for line in lines[1:]}) == 1
    row = {"id": "a", "organ_dice": "0.5", "organ_average_hausdorff": "2"}
    wide = summary_text([Candidate("default/raw", [row], None)], ranking).splitlines()
    assert wide[1].split() == ["dice", "average_hausdorff"]
    assert len(wide[1]) == len(wide[2])


def made_up(scores, metric="dice", definition="both_empty=computed", asked="dice"):
    """A candidate with the scores of each class: (value, status) by case."""
    long = [
        {"id": case, "class": name, "metric": metric, "value": str(value), "status": status}
        | {"problem": "b.nii.gz is no image" if status == "failed" else ""}
        for name, cases in scores.items()
        for case, (value, status) in cases.items()
    ]
    summary = []
    for number, (name, cases) in enumerate(scores.items()):
        used = [value for value, _ in cases.values() if value == value]
        own = definition[number] if isinstance(definition, tuple) else definition
        middle = np.mean(used) if used else float("nan")
        row = {"class": name, "metric": metric, "unit": unit(metric), "definition": own}
        row |= dict.fromkeys(("mean", "ci_low", "ci_high", "q25", "median", "q75"), str(middle))
        row |= {"n_used": str(len(used)), "n": str(len(cases))}
        summary.append(row | dict.fromkeys(("n_absent", *OTHER_COUNTS), "0"))
    cases = dict.fromkeys(case for each in scores.values() for case in each)
    return Candidate("a/raw", [{"id": c, f"x_{asked}": ""} for c in cases], None, long, summary)


OTHER_COUNTS = ("n_missed", "n_invented", "n_failed")
NAN = float("nan")


def test_means_over_classes_say_how_many_have_a_number():
    found = made_up({"x": {"a": (0.5, "ok")}, "y": {"a": (NAN, "both_empty")}})
    assert macro(found, "dice") == Macro(0.5, 1)
    assert macro(found, "iou").n == 0


def test_a_metric_keeps_its_name_and_tolerance():
    scores = {"x": {"a": (0.5, "ok")}, "y": {"a": (0.25, "ok")}}
    named = made_up(scores, "nsd@2", "tolerance=2.0 both_empty=best")
    assert label(named, "surf_dice") == "NSD @ 2"
    mixed = made_up(
        scores, "surf_dice", ("tolerance=1.0 both_empty=best", "tolerance=5.0 both_empty=best")
    )
    assert label(mixed, "surf_dice") == "NSD"
    assert [(d["classes"], d["parameters"]) for d in definitions(mixed)] == [
        (["x"], "tolerance=1.0 both_empty=best"),
        (["y"], "tolerance=5.0 both_empty=best"),
    ]


def test_what_an_absent_structure_is_worth_is_told():
    scores = {"x": {"a": (0.5, "ok")}}
    worths = [
        definitions(made_up(scores, metric, definition))[0]["both_empty"]
        for metric, definition in (
            ("dice", "both_empty=computed"),
            ("haus95", "both_empty=best"),
            ("haus95", "both_empty=diagonal"),
            ("tp", "both_empty=computed"),
        )
    ]
    assert worths == [1.0, 0.0, "diagonal", ""]
    assert np.isnan(definitions(made_up(scores, "iou", "both_empty=nan"))[0]["both_empty"])


def test_cases_are_judged_by_dice_whatever_was_asked_for():
    scores = {"x": {"a": (0.5, "ok"), "b": (0.2, "ok")}, "y": {"a": (NAN, "ok"), "b": (0.4, "ok")}}
    found = made_up(scores, asked="haus95")
    assert headline(found) == "dice"
    assert case_means(found, "dice") == pytest.approx({"a": 0.5, "b": 0.3})


def test_distances_that_were_set_are_counted():
    cases = {"a": (1.0, "ok"), "b": (90.0, "prediction_empty"), "c": (0.0, "both_empty")}
    cases |= {"d": (90.0, "failed"), "e": (NAN, "failed")}
    found = made_up({"x": cases}, "haus95", "reference_empty=worst prediction_empty=worst")
    assert imputed(found, "x", "haus95") == 2
    assert failed_cases(found) == dict.fromkeys("de", "b.nii.gz is no image")


def test_summary_rows_of_a_table_are_left_out(run):
    results = run[1]
    found = read_candidate("x", results / "plain/raw/results.csv", results)
    assert len(found.results) == 12
    assert found.classes == ["organ", "core <b>"]
    assert found.has("average_hausdorff")
    assert found.summary_of("organ", "mcc") is None


def test_tables_of_another_version_are_told(run, tmp_path):
    for table in ("", "_long", "_summary"):
        shutil.copy(run[1] / f"plain/raw/results{table}.csv", tmp_path)
    path = tmp_path / "results_summary.csv"
    rows = [{k: v for k, v in row.items() if k != "n_absent"} for row in read_rows(path)]
    write_rows(path, list(rows[0]), rows)
    with pytest.raises(DataError, match=r"_summary.csv: expected .*, found no n_absent. Another"):
        read_candidate("x", tmp_path / "results.csv", tmp_path)


def test_numbers_in_words():
    assert [score(v, m) for v, m in ((0.12345, "dice"), (1.2345, "HD95"), (None, "dice"))] == [
        *("0.123", "1.23", "\u2013"),
    ]
    assert [hours(s) for s in (12, 600, 2 * 3600 * 1.05, float("nan"))] == [
        *("12 s", "10 min", "2.1 h", "\u2013"),
    ]
    assert [title(m) for m in ("DSC", "surf_dice@2", "lesion_wise_f1")] == [
        *("Dice", "NSD @ 2", "lesion wise f1"),
    ]
    assert own("beta=1.0 both_empty=best reference_empty=computed") == "beta=1.0 both_empty=best"
    assert grouped(["a_dice", "a_haus95", "b_dice"]) == [("a", ["dice", "haus95"]), ("b", ["dice"])]


def test_limits_of_agreement_by_hand():
    """Differences 1, 2 and 3: mean 2, sample deviation 1."""
    found = figures.limits_of_agreement([10, 20, 30, 1], [11, 22, 33, float("nan")])
    assert found == pytest.approx((2, 2 - 1.96, 2 + 1.96))


def svg(panel):
    head, text = panel.src.split(",", 1)
    assert head == "data:image/svg+xml;charset=utf-8"
    return ElementTree.fromstring(unquote(text))


def words_in(panel):
    return " ".join(
        "".join(t.itertext()) for t in svg(panel).iter("{http://www.w3.org/2000/svg}text")
    )


def test_panels_say_what_they_show():
    boxes = figures.boxes("organ", {"a $x$": [0.5, 0.7, float("nan")], "b": []}, "Dice", (0, 1))
    assert "medians: a $x$ 0.6, b none" in boxes.alt
    assert "a $x$" in words_in(boxes)
    spread = figures.histogram("organ", [0.91, 0.92, 0.1], "Dice", share=True)
    assert "3 cases, most of them, 2, from 0.9 to 0.95" in spread.alt
    agreement = figures.bland_altman("organ", [1, 2], [2, 4])
    assert "bias 1.5 mL" in agreement.alt
    by_volume = figures.score_by_volume("organ", [0, 1, 30], [1, 0.5, 0.9], "Dice")
    assert "2 cases; 1 cases without the class are left out" in by_volume.alt
    assert "mathdefault" not in words_in(by_volume)
    candidates = [
        {"strategy": n, "average_rank": r, "ci_low": r, "ci_high": r, "frequencies": f}
        for n, r, f in (("x", 1.2, [0.8, 0.2]), ("y", 1.8, [0.2, 0.8]))
    ]
    assert "x 80%, y 20%" in figures.frequencies(candidates).alt
    pairs = [
        {"strategy": "x", "other": "y", "p_holm": 0.01},
        {"strategy": "y", "other": "x", "p_holm": None},
    ]
    assert "x over y at 0.05" in figures.significance(["x", "y"], pairs, 0.05).alt


def test_a_logarithmic_axis_has_a_few_round_numbers():
    assert figures.log_ticks(0.02, 700) == [0.1, 1, 10, 100]
    assert figures.log_ticks(0.8, 40) == [1, 3, 10, 30]
    assert figures.log_ticks(2, 11) == [2, 5, 10]
    assert figures.log_ticks(2.1, 3.4) == [2.4, 2.8, 3.2]
    assert figures.log_ticks(1e-6, 1e6)[:2] == pytest.approx([1e-6, 1e-4])


@given(st.floats(1e-6, 1e6), st.floats(1.05, 1e6))
def test_no_logarithmic_axis_is_crowded(low, ratio):
    ticks = figures.log_ticks(low, low * ratio)
    assert 1 <= len(ticks) <= 7
    assert ticks == sorted(ticks)
    assert low <= ticks[0]
    assert ticks[-1] <= low * ratio


def test_one_far_value_crushes_no_box_and_is_told():
    """The box is from 2 to 4, so that 10 ends the axis, but for its margin."""
    near, far = ({"organ": [1.0, 2.0, 3.0, 4.0, last]} for last in (5.0, 500.0))
    assert "beyond" not in words_in(figures.boxes("HD95", near, "HD95 / mm", None))
    panel = figures.boxes("HD95", far, "HD95 / mm", None)
    assert "organ (1 beyond)" in words_in(panel)
    assert panel.alt.endswith("Beyond 10.5 lie 1 that are not drawn.")
    spread = figures.histogram("organ", far["organ"], "HD95 / mm", share=False)
    assert "HD95 / mm (1 beyond)" in words_in(spread)
    assert "5 cases, most of them, 1, from 0.53 to 1.1." in spread.alt
    assert spread.alt.endswith("Beyond 10.5 lie 1 that are not drawn.")
    assert "beyond" not in words_in(figures.histogram("organ", near["organ"], "mm", share=False))


def test_long_names_stay_different():
    names = [f"experiment_{'with_a_long_name_' * 4}{end}/raw" for end in ("first", "second")]
    panel = figures.boxes("organ", {name: [0.5, 0.6] for name in names}, "Dice", (0, 1))
    assert all(name in words_in(panel).replace(" ", "") for name in names)
    short = figures.boxes("organ", {"a": [0.5], "b": [0.5]}, "Dice", (0, 1))
    assert panel.height > short.height
    assert panel.title == "organ"


def test_of_many_classes_the_worst_have_panels():
    blank = {field.name: "0" for field in fields(Summary)} | {"metric": "dice"}
    summary = [blank | {"class": f"class {n}", "mean": str(1 - n / 100)} for n in range(40)]
    found = drawn_classes(Candidate("default/raw", [], None, summary=summary), "dice")
    assert found == [f"class {n}" for n in range(28, 40)]


@pytest.mark.parametrize("values", [[], [float("nan")], [0.5], [0.0] * 3, [2000.0] * 2])
def test_panels_of_little_can_be_drawn(values):
    for panel in (
        figures.boxes("a", {"b": values}, "Dice", None),
        figures.histogram("a", values, "Dice", share=False),
        figures.volumes("a", values, values),
        figures.bland_altman("a", values, values),
        figures.score_by_volume("a", values, values, "Dice"),
    ):
        assert svg(panel).tag.endswith("svg")
