"""What a run was made with and from: versions, hashes, the command, and evaluation.json.

Nothing here depends on the time: the same results give the same files.
"""

import hashlib
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from pathlib import Path
from typing import Any

from mist_core import __version__
from mist_core.config import Config
from mist_core.files import read_json
from mist_core.plan import Plan
from mist_core.report.scores import (
    Candidate,
    Row,
    Rows,
    better,
    failed_cases,
    formula,
    headline,
    label,
    macro,
    split,
)
from mist_core.sources import HOME

SCHEMA = "mist_core evaluation 1"
# What numbers may depend on. Asked of the installed packages: importing them would take seconds.
PACKAGES = ("torch", "numpy", "scipy", "scikit-image", "SimpleITK", "numba", "snakemake")
SEED = 0  # of the cases that are chosen at random


@dataclass(frozen=True)
class Run:
    """All that is told of a run. ``candidates`` are the best first, as in the ranking."""

    plan: Plan
    paths: Rows  # train_paths.csv, and the patient of each case where it is known
    candidates: Sequence[Candidate]
    ranking: Mapping[str, Any]  # ranking.json
    config: Config = field(default_factory=Config)
    command: str = ""
    histories: Mapping[str, Mapping[str, Rows]] = field(default_factory=dict)  # experiment, fold
    models: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    choices: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # choice.json
    tests: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # case to what is wrong
    inputs: Sequence[Mapping[str, Any]] = ()  # by case: what its images and labels were
    description: Path | None = None  # of the dataset
    plans: Mapping[str, Plan] = field(default_factory=dict)  # of experiments

    @property
    def best(self) -> Candidate:
        """The candidate that the page is about."""
        return self.candidates[0]

    @property
    def average_ranks(self) -> dict[str, float]:
        """Of every candidate."""
        return {each["strategy"]: each["average_rank"] for each in self.ranking["candidates"]}

    @property
    def patients(self) -> int:
        """How many different ones there are."""
        return len({row.get("patient") or row["id"] for row in self.paths})

    @property
    def folds(self) -> list[str]:
        """The folds by name."""
        return sorted({row["fold"] for row in self.paths}, key=int)

    @property
    def optimistic(self) -> bool:
        """Whether a model was chosen by the cases that score it."""
        return any(m["by_held_out"] for folds in self.models.values() for m in folds.values())


@dataclass(frozen=True)
class Failure:
    """Cases to which the same has happened."""

    what: str
    cases: Mapping[str, str]  # and what is said of each, if anything


def failures(run: Run) -> list[Failure]:
    """What a reader must know before any score, the worst first."""
    best, key = run.best, headline(run.best)
    found = [
        Failure("Training cases that were left out, since their files are bad", run.plan.left_out)
    ]
    for name, tests in run.tests.items():
        found.append(Failure(f"Test cases without a prediction of {name}", _bad(tests)))
    failed = failed_cases(best)
    what = (
        "Cases whose prediction or reference could not be used, which have the worst values or none"
    )
    found.append(Failure(what, failed))
    statuses: dict[str, dict[str, list[str]]] = {}
    for class_name in best.classes:
        for each in best.scores(class_name, key):
            kind = each.status if each.used else "no number"
            statuses.setdefault(kind, {}).setdefault(each.case, []).append(class_name)
    said = {
        "no number": f"Cases without a number for {label(best, key)}, which no mean takes in",
        "prediction_empty": "Structures that were missed: in the reference, and nothing predicted",
        "reference_empty": "Structures that were invented: predicted, and none in the reference",
    }
    for kind, what in said.items():
        cases = {
            case: ", ".join(names)
            for case, names in statuses.get(kind, {}).items()
            if case not in failed
        }
        found.append(Failure(what, cases))
    return [each for each in found if each.cases]


def versions() -> dict[str, str]:
    """Of this library, Python, and what numbers may depend on."""
    return {
        "mist_core": __version__,
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def machine() -> dict[str, str]:
    """The system that wrote the report, in words."""
    return {
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cores": str(os.cpu_count()),
    }


def sha256_of(path: Path) -> str:
    """Of what is in a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of_json(value: Any) -> str:
    """Of JSON values, whatever the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sha256_of_sources() -> str:
    """Of all modules of this library together."""
    total = hashlib.sha256()
    for path in sorted(HOME.rglob("*.py")):
        total.update(f"{path.relative_to(HOME)} {sha256_of(path)}\n".encode())
    return total.hexdigest()


def inputs(fingerprints: Path, paths: Rows, channels: Iterable[str]) -> list[dict[str, Any]]:
    """What is known of the files of every training case: from its fingerprint, not read again."""
    return [_input(fingerprints / f"{row['id']}.json", row, [*channels, "mask"]) for row in paths]


def _input(path: Path, row: Row, columns: Sequence[str]) -> dict[str, Any]:
    files = {name: row[name] for name in columns if row.get(name)}
    known = {"id": row["id"], "fold": row["fold"], "patient": row.get("patient", ""), **files}
    if not path.exists():
        return known
    found = read_json(path)
    return {
        **known,
        "images": found.get("voxels", ""),  # a key of the voxels of all channels
        "label_counts": found.get("label_counts"),
        "fingerprint_sha256": sha256_of(path),
    }


def evaluation(run: Run) -> dict[str, Any]:
    """Everything that a reviewer needs to judge, and to repeat, the numbers of a report."""
    config = run.config.model_dump(mode="json")
    trained = run.config.experiment_names()
    settings = {name: run.config.for_experiment(name).train for name in trained}
    description = run.description if run.description and run.description.exists() else None
    found: dict[str, Any] = without_nan(
        {
            "schema": SCHEMA,
            "task": run.plan.dataset_info.task,
            "versions": versions(),
            "sources_sha256": sha256_of_sources(),
            "machine": machine(),
            "command": run.command,
            "config": config,
            "config_sha256": sha256_of_json(config),
            "description": str(description) if description else None,
            "description_sha256": sha256_of(description) if description else None,
            "plan": run.plan.model_dump(mode="json"),
            "n_cases": len(run.paths),
            "n_patients": run.patients,
            "folds": {f: [r["id"] for r in run.paths if r["fold"] == f] for f in run.folds},
            "left_out": run.plan.left_out,
            "cases": run.inputs,
            "seeds": {
                "train": {name: each.seed for name, each in settings.items()},
                "intervals": 0,
                "ranking": run.ranking.get("seed"),
                "cases_shown": SEED,
            },
            "models": run.models,
            "chosen_by_held_out_cases": run.optimistic,
            "metrics": definitions(run.best),
            "intervals": "95 % of the mean, percentiles of 2000 bootstraps of patients",
            "failures": [asdict(each) for each in failures(run)],
            "macro": {each.name: macros(each) for each in run.candidates},
            "results": {each.name: results(each) for each in run.candidates},
            "ranking": dict(run.ranking),
            "strategies_chosen": dict(run.choices),
            "test_cases": {
                name: {"predicted": sum(not w for w in cases.values()), "problems": _bad(cases)}
                for name, cases in run.tests.items()
            },
        }
    )
    return found


def _bad(cases: Mapping[str, str]) -> dict[str, str]:
    return {case: problem for case, problem in cases.items() if problem}


def definitions(candidate: Candidate) -> list[dict[str, Any]]:
    """Of every metric unit, direction, formula and parameters, with the classes that it has so, and
    the score of a structure that is rightly absent.
    """
    classes: dict[tuple[str, str], list[str]] = {}
    for row in candidate.summary:
        classes.setdefault((row["metric"], row["definition"]), []).append(row["class"])
    found = []
    for (metric, definition), names in classes.items():
        summary = candidate.summary_of(names[0], metric)
        assert summary is not None
        found.append(
            {
                "metric": metric,
                "classes": names,
                "unit": summary.unit,
                "better": better(metric),
                "formula": formula(metric),
                "parameters": definition,
                "both_empty": summary.worth_of_absent,
            }
        )
    return found


def results(candidate: Candidate) -> dict[str, Any]:
    """Means and intervals by class and metric, and where the scores of the cases are."""
    by_class: dict[str, dict[str, Any]] = {name: {} for name in candidate.classes}
    ranked = {split(name) for name in candidate.results[0] if name != "id"}
    for row in candidate.summary:
        words = ("class", "metric", "unit", "definition")
        told: dict[str, Any] = {k: _number(v) for k, v in row.items() if k not in words}
        told |= {"definition": row["definition"], "ranked": (row["class"], row["metric"]) in ranked}
        by_class[row["class"]][row["metric"]] = told
    tables = {
        name: {"path": str(path), "sha256": sha256_of(path)}
        for name, path in candidate.files.items()
    }
    return {"classes": by_class, "tables": tables, "predictions": str(candidate.predictions)}


def macros(candidate: Candidate) -> dict[str, Any]:
    """Means over classes of the means of every metric, and over how many; background is none."""
    names = dict.fromkeys(row["metric"] for row in candidate.summary)
    found = {name: macro(candidate, name) for name in names if better(name) != "neither"}
    return {
        "n_classes": len(candidate.classes),
        "background": False,
        "means": {metric: each.mean for metric, each in found.items()},
        "n": {metric: each.n for metric, each in found.items()},
    }


def _number(text: str) -> float | int:
    return int(text) if text.isdigit() else float(text)


def without_nan(value: Any) -> Any:
    """JSON has no NaN and no infinity: null stands for them."""
    if isinstance(value, Mapping):
        return {str(key): without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value
