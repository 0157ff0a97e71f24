"""Score predicted label maps against reference label maps, case by case and class by class."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isnan, nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mist_core.config import Evaluate, EvaluatedClass
from mist_core.dataset import COUNTED, RESERVED_IDS
from mist_core.errors import DataError, raise_all
from mist_core.geometry import Geometry
from mist_core.io import Volume
from mist_core.labels import without
from mist_core.metrics import Chosen, LabelPair, MaskPair, choose, resolve
from mist_core.metrics.instances import kind_of
from mist_core.metrics.lesionwise import find_lesions

Classes = Mapping[str, EvaluatedClass]
Rows = list[dict[str, Any]]
RESAMPLES = 2000
CONFIDENCE = 0.95
LESION_METRICS = ("dice", "haus95")  # of each lesion in the table of lesions
# What a report shows beside the metrics that were chosen, and the counts that others can compute
# more from.
COMPANIONS = (
    *("dice", "iou", "sensitivity", "specificity", "precision", "accuracy"),
    *("haus95", "avg_surf", "surf_dice", "average_hausdorff"),
    *("volume_reference", "volume_prediction", "tp", "fp", "fn", "tn"),
)


@dataclass(frozen=True)
class Record:
    """A score, with all that is needed to read it.

    ``status`` is ok, both_empty, reference_empty, prediction_empty or failed; ``definition`` are
    the parameters of the metric.
    """

    class_name: str
    metric: str
    value: float
    unit: str
    status: str
    definition: str

    def row(self) -> dict[str, Any]:
        """For a table."""
        fields = asdict(self)
        return {"class": fields.pop("class_name"), **fields}


def chosen_classes(classes: Classes, settings: Evaluate) -> dict[str, EvaluatedClass]:
    """The classes of an evaluation config, with what the settings say instead.

    Raises DataError for no class, and where two columns ``<class>_<metric>`` of the table would
    have one name.
    """
    labels = {name: each.labels for name, each in classes.items()}
    if settings.classes != "auto":
        labels = settings.classes
    own = settings.metrics
    chosen = {
        name: EvaluatedClass(labels=members, metrics=own)
        if own != "auto"
        else classes.get(name, EvaluatedClass(labels=members))
        for name, members in labels.items()
    }
    if not chosen:
        raise DataError("expected at least one class to score, found none. Add one.")
    columns = Counter(_column(name, m) for name, each in chosen.items() for m in each.metrics)
    raise_all(
        [
            f"expected every column of the table once, found {column} twice. Rename a class."
            for column, times in columns.items()
            if times > 1
        ],
        "classes",
    )
    return chosen


def with_companions(classes: Classes) -> dict[str, EvaluatedClass]:
    """The classes with the ``COMPANIONS`` that they do not have, by any name, behind their own."""
    return {
        name: EvaluatedClass(labels=each.labels, metrics={**each.metrics, **_others(each.metrics)})
        for name, each in classes.items()
    }


def _others(metrics: Iterable[str]) -> dict[str, dict[str, Any]]:
    known = {resolve(name)[0] for name in metrics}
    return {name: {} for name in COMPANIONS if name not in known}


def refuse_other_labels(volume: Volume, classes: Classes, ignore_label: int | None = None) -> None:
    """Raise DataError for label values that belong to no class: a sign of a wrong file."""
    known = {0}.union(*(each.labels for each in classes.values()))
    if odd := sorted(set(np.unique(volume.array).tolist()) - known - {ignore_label}):
        raise DataError(
            f"expected labels among {sorted(known)}, found {odd}. Mend the label map, or add the "
            "labels to a class."
        )


def evaluate(
    reference: Volume,
    prediction: Volume,
    classes: Classes,
    ignore_label: int | None = None,
    preset: str = "mist",
    lesions: bool = False,
) -> tuple[list[Record], Rows]:
    """Scores of one case, by class, then metric, in their order; and a row for every lesion.

    Where the reference has ``ignore_label``, both count as background. Raises DataError when the
    two are not on one grid.

    With ``lesions``, those of the classes that have a lesion-wise metric are listed, found with the
    parameters of the first of them. ``kind`` is hit, missed, small (of the reference, too small to
    be scored) or false_positive; dice and haus95 are those of the lesion and what was found of it.
    """
    if not prediction.geometry.matches(reference.geometry):
        raise DataError(
            f"expected the prediction on the grid of the reference ({reference.geometry}), "
            f"found {prediction.geometry}. Predict again, or resample it."
        )
    spacing_mm = reference.geometry.spacing
    maps = reference.array, prediction.array
    return evaluate_arrays(*maps, spacing_mm, classes, ignore_label, preset, lesions)


def evaluate_arrays(
    reference: NDArray[Any],
    prediction: NDArray[Any],
    spacing_mm: Sequence[float],
    classes: Classes,
    ignore_label: int | None = None,
    preset: str = "mist",
    lesions: bool = False,
) -> tuple[list[Record], Rows]:
    """The same for two label maps of one shape, 2-D or 3-D; ``spacing_mm`` is per array axis."""
    if ignore_label is not None:
        prediction = np.where(reference == ignore_label, 0, prediction).astype(prediction.dtype)
        reference = without(reference, ignore_label)
    maps = LabelPair(reference, prediction, spacing_mm)
    records: list[Record] = []
    rows: Rows = []
    for name, own in classes.items():
        pair, chosen = maps.structure(own.labels), choose(own.metrics, preset)
        records += [
            _record(name, m, each, each.of(pair), pair.status) for m, each in chosen.items()
        ]
        if lesions:
            rows += _lesion_rows(name, pair, chosen, preset)
    return records, rows


def failed(classes: Classes, geometry: Geometry | None, preset: str = "mist") -> list[Record]:
    """The records of a case without a prediction: the worst values; NaN where they are not known.

    ``geometry`` is that of the reference; None where that could not be read.
    """
    diagonal = nan
    if geometry:
        diagonal = float(np.linalg.norm(np.multiply(geometry.shape, geometry.spacing)))
    return [
        _record(name, metric, each, each.worst(diagonal) if geometry else nan, "failed")
        for name, own in classes.items()
        for metric, each in choose(own.metrics, preset).items()
    ]


def _lesion_rows(name: str, pair: MaskPair, chosen: Mapping[str, Chosen], preset: str) -> Rows:
    """The lesions of a class, those of the reference first."""
    of_lesions = (c.parameters for c in chosen.values() if "min_lesion_volume" in c.parameters)
    asked: Mapping[str, Any] | None = next(of_lesions, None)
    if asked is None:
        return []
    scored = choose(LESION_METRICS, preset)
    matching = ("dilation_iters", "gt_consolidation_iters", "connectivity")
    lesions = find_lesions(pair, *(asked[name] for name in matching))
    rows: Rows = [
        {
            "class": name,
            "lesion": number,
            "kind": kind_of(lesion, asked["min_lesion_volume"]),
            "volume_mm3": lesion.volume_mm3,
            "found_mm3": int(np.count_nonzero(lesion.masks[1])) * pair.voxel_mm3,
            **{m: scored[m].of(lesion.pair) if lesion.found else "" for m in LESION_METRICS},
        }
        for number, lesion in enumerate(lesions.reference, start=1)
    ]
    return rows + [
        {
            "class": name,
            "lesion": "",
            "kind": "false_positive",
            "volume_mm3": 0.0,
            "found_mm3": volume_mm3,
            **dict.fromkeys(LESION_METRICS, ""),
        }
        for volume_mm3 in lesions.false_positives
    ]


LESION_COLUMNS = ("id", "class", "lesion", "kind", "volume_mm3", "found_mm3", *LESION_METRICS)


def _record(name: str, metric: str, chosen: Chosen, value: float, status: str) -> Record:
    return Record(name, metric, value, chosen.metric.unit, status, chosen.definition)


def wide_row(records: Iterable[Record]) -> dict[str, float]:
    """Column ``<class>_<metric>`` to value."""
    return {_column(r.class_name, r.metric): r.value for r in records}


def _column(class_name: str, metric: str) -> str:
    return f"{class_name}_{metric}"


def summary_rows(rows: Sequence[Mapping[str, Any]]) -> Rows:
    """Mean, Std (of the population), quartiles and median of every column, as MIST appends them.

    Of the values that are numbers; NaN where there is none.
    """
    if not rows:
        return []
    table: Rows = [{"id": name} for name in RESERVED_IDS]
    for column in (c for c in rows[0] if c != "id"):
        statistics = _statistics([float(row[column]) for row in rows])
        for row, value in zip(table, statistics, strict=True):
            row[column] = value
    return table


def _statistics(values: Sequence[float]) -> list[float]:
    """Mean, standard deviation, first quartile, median, third quartile."""
    used = np.array([v for v in values if not isnan(v)])
    if used.size == 0:
        return [nan] * 5
    with np.errstate(invalid="ignore"):  # the deviation of what may be infinite is NaN
        quartiles = np.percentile(used, [25, 50, 75])
        # Between a number and infinity lies infinity, not NaN.
        above = np.percentile(used, [25, 50, 75], method="higher")
        quartiles = np.where(np.isnan(quartiles), above, quartiles)
        return [float(used.mean()), float(used.std()), *quartiles.tolist()]


SUMMARY_COLUMNS = (
    *("class", "metric", "unit", "mean", "ci_low", "ci_high", "std", "q25", "median", "q75"),
    *("min", "max", "n_used", "n", *COUNTED, "definition"),
)


def summaries(
    cases: Mapping[str, Sequence[Record]], patients: Mapping[str, str] | None = None
) -> Rows:
    """A row for each class and metric: ``mean`` of the ``n_used`` of ``n`` values that are numbers.

    ``ci_low`` and ``ci_high`` are a 95 % confidence interval of the mean: percentiles of 2000
    bootstraps, in which the cases of a patient stay together. ``n_absent`` counts the cases in
    which both masks are empty, ``n_missed`` those in which the prediction alone is, ``n_invented``
    those in which the reference alone is, ``n_failed`` those without a prediction.
    """
    who = [(patients or {}).get(case, case) for case in cases]
    rows = []
    for records in zip(*cases.values(), strict=True):
        first, values = records[0], np.array([r.value for r in records])
        mean, std, q25, median, q75 = _statistics(values.tolist())
        low, high = confidence_interval(values, who)
        used = values[~np.isnan(values)]
        numbers = {
            "mean": mean, "ci_low": low, "ci_high": high, "std": std,
            "q25": q25, "median": median, "q75": q75,
            "min": float(used.min()) if used.size else nan,
            "max": float(used.max()) if used.size else nan,
            "n_used": used.size,
            "n": values.size,
            **{name: sum(r.status == status for r in records) for name, status in COUNTED.items()},
        }  # fmt: skip
        named = {"class": first.class_name, "metric": first.metric, "unit": first.unit}
        rows.append(named | numbers | {"definition": first.definition})
    return rows


def confidence_interval(
    values: NDArray[np.float64], patients: Sequence[str], seed: int = 0
) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of the mean over bootstraps of the patients.

    NaN are left out. NaN for fewer than two patients, and where a value is infinite. Efron &
    Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13.
    """
    used = ~np.isnan(values)
    _, group = np.unique(np.asarray(patients)[used], return_inverse=True)
    if group.size == 0 or group.max() == 0 or not np.isfinite(values[used]).all():
        return nan, nan
    sums, sizes = np.bincount(group, values[used]), np.bincount(group)
    drawn = np.random.default_rng(seed).integers(sums.size, size=(RESAMPLES, sums.size))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)
