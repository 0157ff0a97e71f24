"""The scores of a run as its tables have them: what the page and evaluation.json are made of."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isnan, nan
from pathlib import Path
from typing import Any

import numpy as np

from mist_core.dataset import COUNTED, RESERVED_IDS
from mist_core.errors import DataError
from mist_core.files import read_rows
from mist_core.metrics import Chosen, LabelPair, lowest_best, metric_of, resolve, split_column

Row = Mapping[str, str]
Rows = Sequence[Row]
Value = float | str

# Short names for readers of papers, by the name of the metric.
TITLES = {
    "dice": "Dice",
    "iou": "IoU",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "precision": "Precision",
    "accuracy": "Accuracy",
    "haus95": "HD95",
    "surf_dice": "NSD",
    "average_hausdorff": "AHD",
    "avg_surf": "ASSD",
}


# What is read of the tables beside results.csv.
WORDS = ("metric", "unit", "definition")
NUMBERS = ("mean", "ci_low", "ci_high", "q25", "median", "q75")
COUNTS = ("n_used", "n", *COUNTED)
NEEDED = {
    "long": ("id", "class", "metric", "value", "status", "problem"),
    "summary": ("class", *WORDS, *NUMBERS, *COUNTS),
}


@dataclass(frozen=True)
class Score:
    """What one case has for one metric of one class; ``status`` and ``problem``, what is wrong with
    the files of the case, as in results_long.csv.
    """

    case: str
    value: float
    status: str
    problem: str = ""

    @property
    def used(self) -> bool:
        """Whether it is a number, which enters means."""
        return not isnan(self.value)


@dataclass(frozen=True)
class Summary:
    """What all cases have for one metric of one class; NaN where there is no number."""

    metric: str
    unit: str = ""
    definition: str = ""
    mean: float = nan
    ci_low: float = nan
    ci_high: float = nan
    q25: float = nan
    median: float = nan
    q75: float = nan
    n_used: int = 0
    n: int = 0
    n_absent: int = 0
    n_missed: int = 0
    n_invented: int = 0
    n_failed: int = 0

    @property
    def parameters(self) -> dict[str, Value]:
        """Those of the metric, from its definition."""
        pairs = (word.partition("=") for word in self.definition.split())
        return {name: _value(text) for name, _, text in pairs}

    @property
    def main(self) -> float | None:
        """What a name such as surf_dice@2 says behind its @, whether it does or not."""
        found = self.parameters.get(metric_of(self.metric).main)
        return None if isinstance(found, str) else found

    @property
    def worth_of_absent(self) -> Value:
        """The score of a case in which both masks are empty; nothing for what is no score."""
        if unit(self.metric) in ("voxels", "mm3"):
            return ""
        chosen = Chosen(metric_of(self.metric), self.parameters)
        rule = chosen.parameters.get("both_empty")
        if rule == "diagonal" or (rule == "worst" and chosen.metric.worst == "diagonal"):
            return "diagonal"
        nothing = np.zeros((2, 2, 2), np.uint8)
        return chosen.of(LabelPair(nothing, nothing, (1.0, 1.0, 1.0)).structure([1]))


@dataclass(frozen=True)
class Candidate:
    """An experiment with a strategy: its scores, and where its label maps are.

    ``results`` has a row for each case, ``long`` and ``summary`` are those of the evaluation.
    """

    name: str
    results: Rows
    predictions: Path
    long: Rows = ()
    summary: Rows = ()
    files: Mapping[str, Path] = field(default_factory=dict)  # the tables

    @property
    def classes(self) -> list[str]:
        """The scored classes; background is never among them."""
        return list(dict.fromkeys(row["class"] for row in self.summary))

    def summary_of(self, class_name: str, metric: str) -> Summary | None:
        """The summary of the metric of that name in the tables, else of that name in METRICS,
        whatever it is called there; None where it was not scored.
        """
        return self._summaries.get((class_name, metric))

    @cached_property
    def _summaries(self) -> dict[tuple[str, str], Summary]:
        found = {(row["class"], row["metric"]): _summary(row) for row in self.summary}
        for (class_name, metric), summary in list(found.items()):
            found.setdefault((class_name, resolve(metric)[0] or metric), summary)
        return found

    def scores(self, class_name: str, metric: str) -> list[Score]:
        """The scores of a metric, by case in the order of the table; none where it has none."""
        found = self.summary_of(class_name, metric)
        return self._scores.get((class_name, found.metric), []) if found else []

    @cached_property
    def _scores(self) -> dict[tuple[str, str], list[Score]]:
        found: dict[tuple[str, str], list[Score]] = {}
        for row in self.long:
            score = Score(row["id"], float(row["value"]), row["status"], row["problem"])
            found.setdefault((row["class"], row["metric"]), []).append(score)
        return found

    def has(self, metric: str) -> bool:
        """Whether every class was scored with a metric."""
        return all(self.summary_of(name, metric) for name in self.classes)


def read_candidate(name: str, results: Path, predictions: Path) -> Candidate:
    """The tables of a candidate: results.csv without its summary rows, and the two beside it.

    Raises DataError if those lack a column, as tables of other versions do.
    """
    files = {
        "results": results,
        "long": results.with_name(f"{results.stem}_long.csv"),
        "summary": results.with_name(f"{results.stem}_summary.csv"),
    }
    cases = [row for row in read_rows(results) if row["id"] not in RESERVED_IDS]
    long, summary = (_rows_with(files[table], needed) for table, needed in NEEDED.items())
    return Candidate(name, cases, predictions, long, summary, files)


def _rows_with(path: Path, needed: Sequence[str]) -> Rows:
    """The rows of a table, which has some columns."""
    rows = read_rows(path)
    if lacking := [column for column in needed if rows and column not in rows[0]]:
        raise DataError(
            f"{path}: expected the columns {', '.join(needed)}, found no {', '.join(lacking)}. "
            "Another version wrote the table: evaluate again, in the workflow by --forcerun "
            "evaluate evaluate_strategy."
        )
    return rows


def _summary(row: Row) -> Summary:
    values: dict[str, Any] = {name: row[name] for name in WORDS}
    values |= {name: float(row[name]) for name in NUMBERS}
    values |= {name: int(row[name]) for name in COUNTS}
    return Summary(**values)


def _value(text: str) -> Value:
    if text.isdigit():
        return int(text)
    try:
        return float(text)
    except ValueError:
        return text


def columns(candidates: Sequence[Candidate]) -> list[str]:
    """The metric columns that were asked for, ``<class>_<metric>``."""
    return [c for c in candidates[0].results[0] if c != "id"] if candidates[0].results else []


def split(column: str) -> tuple[str, str]:
    """Class and metric of a column."""
    parts = split_column(column)
    assert parts is not None, column
    return parts


def title(metric: str) -> str:
    """A metric as a reader knows it, with what stands behind its @."""
    key, at = resolve(metric)
    short = TITLES.get(key or "", (key or metric).replace("_", " "))
    return short if at is None else f"{short} @ {at:g}"


def label(candidate: Candidate, key: str) -> str:
    """The title of a metric with the parameter that all classes share, such as a tolerance."""
    found = {s.main for name in candidate.classes if (s := candidate.summary_of(name, key))}
    (at,) = found if len(found) == 1 else (None,)
    return title(key if at is None or "@" in key else f"{key}@{at:g}")


def unit(metric: str) -> str:
    """Its unit; nothing for a share."""
    return metric_of(metric).unit


def better(metric: str) -> str:
    """Which values are better: higher, lower, near_zero or neither."""
    return metric_of(metric).better


def headline(candidate: Candidate) -> str:
    """The metric by which cases are compared: Dice, or the first that was asked for."""
    asked = [split(name)[1] for name in columns([candidate])]
    known = [key for name in asked if (key := resolve(name)[0])]
    return "dice" if candidate.has("dice") or not known else known[0]


def mean(values: Iterable[float]) -> float:
    """The mean of those that are numbers; NaN without any."""
    used = [value for value in values if not isnan(value)]
    return sum(used) / len(used) if used else nan


@dataclass(frozen=True)
class Macro:
    """The mean over the ``n`` classes that have a number of their means; background is none."""

    mean: float
    n: int


def macro(candidate: Candidate, metric: str) -> Macro:
    """That of a metric by any name; NaN where no class has a number."""
    found = (candidate.summary_of(name, metric) for name in candidate.classes)
    means = [each.mean for each in found if each and not isnan(each.mean)]
    return Macro(mean(means), len(means))


def case_means(candidate: Candidate, key: str) -> dict[str, float]:
    """By case the mean over its classes that have a number; NaN for none."""
    values: dict[str, list[float]] = {row["id"]: [] for row in candidate.results}
    for class_name in candidate.classes:
        for each in candidate.scores(class_name, key):
            values[each.case].append(each.value)
    return {case: mean(numbers) for case, numbers in values.items()}


def failed_cases(candidate: Candidate) -> dict[str, str]:
    """The cases that could not be scored, and what is wrong with their files."""
    return {row["id"]: row["problem"] for row in candidate.long if row["status"] == "failed"}


def badness(value: float, key: str) -> float:
    """A score of a metric so that the lowest is the best."""
    return float(lowest_best(np.array(value), better(key)))


FORMULAS = {
    "dice": "2 TP / (2 TP + FP + FN)",
    "iou": "TP / (TP + FP + FN)",
    "sensitivity": "TP / (TP + FN)",
    "specificity": "TN / (TN + FP)",
    "precision": "TP / (TP + FP)",
    "accuracy": "(TP + TN) / all voxels",
    "haus95": (
        "95th percentile of the distances between the surfaces, the larger of both directions"
    ),
    "avg_surf": "mean of the distances between the surfaces, both directions together",
    "surf_dice": "share of both surfaces that is within the tolerance of the other",
    "average_hausdorff": (
        "mean distance of all voxels of one mask to the nearest of the other, the larger of both "
        "directions"
    ),
    "volume_reference": "volume of the reference",
    "volume_prediction": "volume of the prediction",
    "tp": "voxels that are in both masks",
    "fp": "voxels that are in the prediction alone",
    "fn": "voxels that are in the reference alone",
    "tn": "voxels that are in neither mask",
}


def formula(metric: str) -> str:
    """What a metric is; nothing for those that docs/metrics.md explains at length."""
    return FORMULAS.get(resolve(metric)[0] or "", "")
