"""One self-contained HTML page of a run: what was done, how well, and what it looks like.

It needs no network and no JavaScript, which only sorts its table and turns over the slices of its
viewers. What the numbers are is decided here; how they look, in ``templates/report.html``.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from math import isfinite, isnan, nan
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from mist_core.config import Config
from mist_core.errors import DataError
from mist_core.io import read_image, read_labels
from mist_core.metrics import resolve
from mist_core.report import cases, figures, provenance, viewer
from mist_core.report.comparison import compare
from mist_core.report.figures import Panel
from mist_core.report.provenance import Run, failures
from mist_core.report.scores import (
    Candidate,
    Row,
    Rows,
    Summary,
    badness,
    better,
    case_means,
    columns,
    failed_cases,
    formula,
    headline,
    label,
    macro,
    mean,
    split,
    title,
    unit,
)

TEMPLATES = Path(__file__).parent.parent / "templates"
# What stands beside the headline, where it was scored.
BESIDE = (
    *("iou", "sensitivity", "specificity", "precision"),
    *("haus95", "surf_dice", "average_hausdorff", "avg_surf"),
)
COUNTS = ("tp", "fp", "fn", "tn")
ML = 1000.0  # mm3
MOST_BOXES = 8  # candidates side by side
MOST_CLASSES = 12  # that have panels of their own
NO_NUMBER = "\N{EN DASH}"
TIMES = " \N{MULTIPLICATION SIGN} "
DICE_FIRST = "Dice is the main metric"
DISTANCE = "average Hausdorff distance for contours"
ACCURACY = "no interpretation of accuracy"
OTHERS = "IoU, sensitivity and specificity, too"
SAMPLES = "samples of annotation and prediction"
NO_CHERRIES = "no cherry-picking"
SPREAD = "how scores are spread"
# What is asked of an evaluation, the section that answers it, and how.
GUIDELINE = (
    (DICE_FIRST, "scores", "the first table, and what cases are ordered by"),
    (DISTANCE, "scores", "AHD, in mm, beside the other distances"),
    (ACCURACY, "accuracy", "listed apart, beside the share of background"),
    (OTHERS, "scores", "the second table"),
    (SAMPLES, "cases", "pictures of both, and of their errors"),
    (NO_CHERRIES, "cases", "cases are chosen by a rule, and one that failed comes first"),
    (SPREAD, "distribution", "box plots with a point for each case, histograms"),
    ("every class by itself", "scores", "each table has a row for every class"),
    (
        "no background in means",
        "scores",
        "background is no class, and means say how many there are",
    ),
    (
        "access to scripts and results",
        "repeat",
        "the command, versions, hashes and evaluation.json",
    ),
)


@dataclass(frozen=True)
class Shown:
    """A case with its pictures; ``scene`` is for the viewer, ``problem`` what kept it from view."""

    id: str
    rule: str
    pictures: Sequence[Any] = ()  # CasePicture
    scene: Mapping[str, Any] | None = None
    problem: str = ""


def show(run: Run) -> list[Shown]:
    """The cases that the rule chooses, with pictures, as far as their files can be read."""
    best, key = run.best, headline(run.best)
    files = {row["id"]: row for row in run.paths}
    chosen = cases.choose(
        case_means(best, key),
        partial(badness, key=key),
        mean_of(best, key),
        failed_cases(best),
        provenance.SEED,
    )
    return [_shown(run, each.case_id, each.rule, files[each.case_id]) for each in chosen]


def _shown(run: Run, case_id: str, rule: str, files: Row) -> Shown:
    info = run.plan.dataset_info
    channels = [name for name in info.images if files[name]]
    missing = [name for name in info.images if not files[name]]
    rule += f"; without {', '.join(missing)}" if missing else ""
    try:
        image = read_image(Path(files[channels[0]]))
        reference = read_labels(Path(files["mask"]))
        prediction = read_labels(run.best.predictions / f"{case_id}.nii.gz")
        case = compare(
            case_id, image, reference, prediction, scored_classes(run), info.ignore_label
        )
    except DataError as error:
        return Shown(case_id, rule, problem=str(error))
    pictures = cases.pictures(case_id, case, channels)
    return Shown(case_id, rule, pictures, viewer.scene(case_id, case))


def mean_of(candidate: Candidate, key: str) -> str:
    """What a case is judged by, in words."""
    several = len(candidate.classes) > 1
    return f"{'mean ' * several}{label(candidate, key)}"


def judging_column(candidate: Candidate, key: str) -> str:
    """The column that cases are judged by; nothing where that is a mean, or was not asked for."""
    if len(candidate.classes) > 1:
        return ""
    names = (name for name in columns([candidate]) if resolve(split(name)[1])[0] == key)
    return next(names, "")


def scored_classes(run: Run) -> Mapping[str, Sequence[int]]:
    """The label values of every class that was scored."""
    chosen = run.config.evaluate.classes
    return run.plan.regions if chosen == "auto" else chosen


def render(run: Run, shown: Sequence[Shown] = ()) -> str:
    """The page. Candidates are shown in the order of the ranking, cases are those of the first."""
    environment = Environment(
        loader=PackageLoader("mist_core", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        "number": number,
        "score": score,
        "signed": signed,
        "hours": hours,
        "x": in_x,
        "own": own,
        "worth": worth,
    }
    best, key = run.best, headline(run.best)
    environment.globals |= {
        "label": partial(label, best),
        "title": title,
        "unit": unit,
        "split": split,
        "formula": formula,
    }
    scripts = [_text("report.js"), *([_text("viewer.js")] if _has_scenes(shown) else [])]
    return environment.get_template("report.html").render(
        run=run,
        best=best,
        key=key,
        styles=[_text("report.css"), *([_text("viewer.css")] if _has_scenes(shown) else [])],
        scripts=scripts,
        hashes=" ".join(f"'sha256-{_sha256(script)}'" for script in scripts),
        failures=failures(run),
        classes=[class_row(best, name, key) for name in best.classes],
        headline=label(best, key),
        judged_by=mean_of(best, key),
        judging_column=judging_column(best, key),
        macro={name: macro(best, name) for name in (key, *BESIDE)},
        beside=[name for name in BESIDE if name != key and best.has(name)],
        accuracy=accuracy(best),
        table=score_table(run.candidates),
        columns=columns(run.candidates),
        grouped=grouped(columns(run.candidates)),
        drawn=drawn_classes(best, key),
        boxes=box_panels(run, key),
        histograms=histogram_panels(best, key),
        volumes=volume_panels(best, key),
        ranking=ranking_panels(run.ranking),
        curves=curve_panels(run),
        experiments=[experiment(run, name) for name in run.config.experiment_names()],
        shown=shown,
        anchors={each.id: f"case-{place}" for place, each in enumerate(shown, 1)},
        cases=case_rows(run, key),
        rule=cases.RULE,
        guideline=guideline(run, shown),
        config_text=yaml.safe_dump(run.config.model_dump(mode="json"), sort_keys=False),
        versions=provenance.versions(),
        machine=provenance.machine(),
        sha256={
            "config": provenance.sha256_of_json(run.config.model_dump(mode="json")),
            "sources": provenance.sha256_of_sources(),
            "description": _sha256_of_description(run),
        },
        definitions=provenance.definitions(best),
        rising={"higher": "ascending", "lower": "descending"}.get(better(key), ""),
    )


def _text(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _sha256(script: str) -> str:
    """The script as the page's policy names it, so that no other runs."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _has_scenes(shown: Sequence[Shown]) -> bool:
    return any(each.scene for each in shown)


def _sha256_of_description(run: Run) -> str:
    path = run.description
    return provenance.sha256_of(path) if path and path.exists() else ""


def guideline(run: Run, shown: Sequence[Shown]) -> list[tuple[str, str, str]]:
    """GUIDELINE, with what this page lacks said to be lacking."""
    best = run.best
    there = {
        DICE_FIRST: headline(best) == "dice",
        DISTANCE: best.has("average_hausdorff"),
        OTHERS: all(best.has(name) for name in ("iou", "sensitivity", "specificity")),
        **dict.fromkeys((SAMPLES, NO_CHERRIES), bool(shown)),
        ACCURACY: bool(accuracy(best)),
        SPREAD: bool(best.long),
    }
    return [
        (rule, place, how) if there.get(rule, True) else (rule, "guideline", "not on this page")
        for rule, place, how in GUIDELINE
    ]


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many decimals, a dash where there is none."""
    return NO_NUMBER if value is None or isnan(value) else f"{value:.{digits}f}"


def score(value: float | None, metric: str) -> str:
    """A score with as many decimals as its unit bears."""
    return number(value, {"mm": 2, "voxels": 0, "mm3": 0}.get(unit(metric), 3))


def signed(value: float | None) -> str:
    """A difference: two significant digits, so that none is called zero, and its sign."""
    return NO_NUMBER if value is None or isnan(value) else f"{value:+.2g}"


def own(definition: str) -> str:
    """The parameters of a metric without those that say that nothing is special."""
    return " ".join(word for word in definition.split() if not word.endswith("=computed"))


def worth(value: float | str) -> str:
    """What an absent structure scores, in words."""
    if isinstance(value, str):
        return value or NO_NUMBER
    return "not counted" if isnan(value) else f"{value:g}"


def hours(seconds: float) -> str:
    """A duration in words."""
    if isnan(seconds):
        return NO_NUMBER
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def in_x(values: Sequence[float]) -> str:
    """Sizes along the axes."""
    return TIMES.join(f"{value:g}" for value in values)


@dataclass(frozen=True)
class ClassRow:
    """The scores of a class, and the case that has the worst one."""

    name: str
    headline: Summary
    worst: str
    worst_value: float
    summaries: Mapping[str, Summary]  # by metric
    imputed: Mapping[str, int]  # by metric: cases that have no distance, and the worst value


def class_row(candidate: Candidate, name: str, key: str) -> ClassRow:
    """All of a candidate that is said of one class."""
    used = [each for each in candidate.scores(name, key) if each.used]
    pick = max if better(key) == "lower" else min
    worst = pick(used, key=lambda each: each.value, default=None)
    found = {metric: candidate.summary_of(name, metric) for metric in (key, *BESIDE)}
    summaries = {metric: each for metric, each in found.items() if each}
    return ClassRow(
        name,
        summaries.get(key, Summary(key)),
        worst.case if worst else "",
        worst.value if worst else nan,
        summaries,
        {metric: imputed(candidate, name, metric) for metric in summaries},
    )


def imputed(candidate: Candidate, class_name: str, metric: str) -> int:
    """How many numbers of a metric were not computed, but set to stand for the worst."""
    found = candidate.summary_of(class_name, metric)
    rules = {} if found is None else found.parameters
    by_formula = {status for status, rule in rules.items() if rule in ("computed", "best")}
    bad = {"prediction_empty", "reference_empty", "failed"} - by_formula
    return sum(each.used and each.status in bad for each in candidate.scores(class_name, metric))


def accuracy(candidate: Candidate) -> list[dict[str, Any]]:
    """Accuracy of each class beside what background alone gives: the mean share of true background
    of all voxels, over the ``n`` cases that could be scored. Nothing where voxels were not counted.
    """
    if not all(candidate.has(name) for name in (*COUNTS, "accuracy")):
        return []
    rows = []
    for name in candidate.classes:
        tables = (candidate.scores(name, each) for each in (*COUNTS, "accuracy"))
        found = [each for each in zip(*tables, strict=True) if each[0].status != "failed"]
        shares = [
            (fp.value + tn.value) / sum(c.value for c in (tp, fp, fn, tn))
            for tp, fp, fn, tn, _ in found
        ]
        of_cases = mean(share.value for *_, share in found)
        rows.append({"class": name, "accuracy": of_cases, "share": mean(shares), "n": len(found)})
    return rows


def score_table(candidates: Sequence[Candidate]) -> dict[str, dict[str, tuple[float, float]]]:
    """Mean and population standard deviation over cases, by candidate and column; of the values
    that are numbers.
    """
    return {
        each.name: {c: _spread(each.results, c) for c in columns(candidates)} for each in candidates
    }


def _spread(rows: Rows, column: str) -> tuple[float, float]:
    values = [float(row[column] or "nan") for row in rows]
    centre = mean(values)
    variance = mean((value - centre) ** 2 for value in values)
    return centre, variance**0.5 if isfinite(variance) else nan


def grouped(names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Classes and their metrics, for a heading of two lines."""
    pairs = [split(name) for name in names]
    return [(c, [m for _, m in group]) for c, group in groupby(pairs, key=lambda pair: pair[0])]


def summary_text(candidates: Sequence[Candidate], ranking: Rows) -> str:
    """The table for the terminal: mean of every metric, a block for each candidate, best first."""
    table = score_table(candidates)
    pairs = [split(name) for name in columns(candidates)]
    classes, metrics = (list(dict.fromkeys(names)) for names in zip(*pairs, strict=True))
    width = max(len(c) for c in [*classes, *table]) + 2
    widths = [max(12, len(m) + 2) for m in metrics]
    lines = []
    for row in ranking:
        name = row["strategy"]
        lines.append(f"{name}  (mean rank {row['average_rank']})")
        lines.append(" " * width + _cells(metrics, widths))
        for class_name in classes:
            values = [f"{table[name].get(f'{class_name}_{m}', (nan, 0))[0]:.4f}" for m in metrics]
            lines.append(f"  {class_name:<{width - 2}}" + _cells(values, widths))
    return "\n".join(lines) + "\n"


def _cells(words: Sequence[str], widths: Sequence[int]) -> str:
    return "".join(f"{word:>{width}}" for word, width in zip(words, widths, strict=True))


def worst_first(scores: Mapping[str, float], key: str) -> list[str]:
    """Cases without a number first, then from worst to best."""
    return sorted(
        scores, key=lambda case: (not isnan(scores[case]), -badness(scores[case], key), case)
    )


def case_rows(run: Run, key: str) -> list[dict[str, Any]]:
    """The table of all cases, worst first; ``mean`` is that of the headline over classes."""
    folds = {row["id"]: row["fold"] for row in run.paths}
    best = run.best
    asked = {row["id"]: row for row in best.results}
    problems = failed_cases(best)
    notes: dict[str, list[str]] = {case: [f"failed: {why}"] for case, why in problems.items()}
    words = {"prediction_empty": "missed", "reference_empty": "invented", "both_empty": "absent"}
    for class_name in best.classes:
        for each in best.scores(class_name, key):
            if each.status in words:
                notes.setdefault(each.case, []).append(f"{class_name}: {words[each.status]}")
    means = case_means(best, key)
    return [
        {
            "id": case,
            "fold": folds.get(case, ""),
            "mean": means[case],
            "values": {name: float(asked[case][name] or "nan") for name in columns([best])},
            "note": "; ".join(notes.get(case, [])),
        }
        for case in worst_first(means, key)
    ]


def drawn_classes(candidate: Candidate, key: str) -> list[str]:
    """The classes that have panels: all, or as many of those with the worst means, as a page of a
    hundred classes would be too large to open.
    """
    sign = -1 if better(key) == "lower" else 1
    found = {name: candidate.summary_of(name, key) for name in candidate.classes}
    means = {name: sign * each.mean if each else nan for name, each in found.items()}
    ordered = sorted(means, key=lambda name: (not isnan(means[name]), means[name]))
    return [name for name in candidate.classes if name in ordered[:MOST_CLASSES]]


def box_panels(run: Run, key: str) -> list[Panel]:
    """The headline of the best candidates by class; then HD95 and NSD of the best one."""
    best, shown = run.best, run.candidates[:MOST_BOXES]
    limits = (-0.03, 1.03) if unit(key) == "" else None
    classes, axis = drawn_classes(best, key), f"{label(best, key)}{_of(key)}"
    panels = [
        figures.boxes(
            name,
            {each.name: [s.value for s in each.scores(name, key)] for each in shown},
            axis,
            limits,
        )
        for name in classes
    ]
    for metric in ("haus95", "surf_dice"):
        if metric != key and best.has(metric):
            rows = {name: [s.value for s in best.scores(name, metric)] for name in classes}
            share = (-0.03, 1.03) if unit(metric) == "" else None
            panels.append(
                figures.boxes(
                    f"{label(best, metric)}, class by class",
                    rows,
                    f"{label(best, metric)}{_of(metric)}",
                    share,
                )
            )
    return panels


def _of(metric: str) -> str:
    return f" / {unit(metric)}" if unit(metric) else ""


def histogram_panels(candidate: Candidate, key: str) -> list[Panel]:
    """How the headline is spread, class by class."""
    share = unit(key) == ""
    return [
        figures.histogram(
            name, [s.value for s in candidate.scores(name, key)], f"{title(key)}{_of(key)}", share
        )
        for name in drawn_classes(candidate, key)
    ]


def volume_panels(candidate: Candidate, key: str) -> list[tuple[str, list[Panel]]]:
    """By class: predicted and reference volume, Bland-Altman, and the headline by volume."""
    if not (candidate.has("volume_reference") and candidate.has("volume_prediction")):
        return []
    found = []
    for name in drawn_classes(candidate, key):
        by_case = {s.case: s.value for s in candidate.scores(name, key)}
        reference, prediction = (
            {s.case: s.value / ML for s in candidate.scores(name, metric) if s.status != "failed"}
            for metric in ("volume_reference", "volume_prediction")
        )
        x, y = list(reference.values()), [prediction[case] for case in reference]
        panels = [
            figures.volumes(f"{name}: volumes", x, y),
            figures.bland_altman(f"{name}: agreement", x, y),
        ]
        if unit(key) == "":
            scores = [by_case[case] for case in reference]
            panels.append(
                figures.score_by_volume(f"{name}: {title(key)} by volume", x, scores, title(key))
            )
        found.append((name, panels))
    return found


def ranking_panels(ranking: Mapping[str, Any]) -> list[Panel]:
    """Mean ranks, rank frequencies and significance; nothing for a single candidate."""
    candidates = ranking.get("candidates", [])
    if len(candidates) < 2:
        return []
    panels = [figures.ranks(candidates)]
    if all(each.get("frequencies") for each in candidates):
        panels.append(figures.frequencies(candidates))
    if ranking.get("pairs"):
        names = [each["strategy"] for each in candidates]
        panels.append(figures.significance(names, ranking["pairs"], ranking["alpha"]))
    return panels


def curve_panels(run: Run) -> list[Panel]:
    """Training loss and, where it was looked at, Dice of the validated cases, by experiment."""
    panels = []
    for experiment_name, folds in run.histories.items():
        for column, axis in (("loss", "training loss"), ("dice", "Dice of validated cases")):
            lines = {fold: _curve(rows, column) for fold, rows in folds.items()}
            lines = {fold: line for fold, line in lines.items() if line[0]}
            if lines:
                panels.append(figures.curves(f"{experiment_name}: {axis}", lines, axis))
    return panels


def _curve(rows: Rows, column: str) -> tuple[list[float], list[float]]:
    known = [row for row in rows if row.get(column)]
    return [float(row["epoch"]) for row in known], [float(row[column]) for row in known]


def experiment(run: Run, name: str) -> dict[str, Any]:
    """How an experiment was trained."""
    config: Config = run.config.for_experiment(name)
    train = config.train
    folds = run.histories.get(name, {})
    patches = train.batch_size * train.accumulate * train.gpus
    seconds = [_seconds(rows, patches) for rows in folds.values()]
    done = [int(rows[-1]["epoch"]) for rows in folds.values() if rows]
    return {
        "name": name,
        "network": f"{train.model}{_params(train.model_params)}",
        "loss": f"{train.loss}{_params(train.loss_params)}",
        "epochs": " to ".join(map(str, sorted({min(done), max(done)}) if done else [train.epochs])),
        "steps": next((r[0]["steps"] for r in folds.values() if r), train.steps_per_epoch),
        "patches": patches,
        "patch": in_x(run.plans.get(name, run.plan).spatial_config.patch_size),
        "optimizer": f"{train.optimizer}, {train.learning_rate:g}, {train.lr_scheduler}",
        "augmentation": train.augmentation,
        "mirrored": "".join(train.mirrored_axes) or "none",
        "seed": train.seed,
        "folds": len(folds) or len(run.folds),
        "time": hours(sum(seconds) if seconds else nan),
    }


def _params(values: Mapping[str, Any]) -> str:
    return f" ({', '.join(f'{key} {value}' for key, value in values.items())})" if values else ""


def _seconds(rows: Rows, patches: int) -> float:
    """Time of the steps of a fold, from how many there were and how fast; NaN where not known."""
    try:
        return sum(int(r["steps"]) * patches / float(r["patches_per_second"]) for r in rows)
    except (KeyError, ValueError, ZeroDivisionError):
        return nan
