"""Score predicted label maps against reference label maps, case by case and class by class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mist_core.config import DEFAULT_METRICS, Evaluate
from mist_core.dataset import RESERVED_IDS
from mist_core.errors import DataError
from mist_core.io import Volume, read_labels
from mist_core.labels import in_labels
from mist_core.metrics import score

Classes = Mapping[str, Sequence[int]]
MetricParameters = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Pair:
    """One row of a paths CSV: what was drawn and what was predicted."""

    id: str
    mask: Path
    prediction: Path


def metric_parameters(settings: Evaluate) -> dict[str, dict[str, Any]]:
    """Metric name to the parameters that were set."""
    chosen = DEFAULT_METRICS if settings.metrics == "auto" else settings.metrics
    return {name: options.model_dump(exclude_none=True) for name, options in chosen.items()}


def evaluate_pair(
    reference: Volume, prediction: Volume, classes: Classes, metrics: MetricParameters
) -> dict[str, float]:
    """Scores of one case as ``<class>_<metric>``, classes in order.

    Raises DataError when the two are not on one grid.
    """
    if not prediction.geometry.matches(reference.geometry):
        raise DataError(
            f"expected the prediction on the grid of the reference ({reference.geometry}), "
            f"found {prediction.geometry}. Predict again, or resample it."
        )
    row: dict[str, float] = {}
    for name, labels in classes.items():
        scores = score(
            in_labels(reference.array, labels),
            in_labels(prediction.array, labels),
            reference.geometry.spacing,
            metrics,
        )
        row |= {f"{name}_{metric}": value for metric, value in scores.items()}
    return row


def evaluate(
    pairs: Sequence[Pair], classes: Classes, metrics: MetricParameters
) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of results.csv in the order of ``pairs``, and a line for each case that failed.

    A failed case has no row: it is for the caller to make the run fail.
    """
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    for pair in pairs:
        try:
            reference, prediction = read_labels(pair.mask), read_labels(pair.prediction)
            rows.append({"id": pair.id} | evaluate_pair(reference, prediction, classes, metrics))
        except DataError as error:
            problems.append(f"case {pair.id}: {error}")
    return rows, problems


def summary_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean, Std (of the population), quartiles and median of every column, as MIST appends them."""
    if not rows:
        return []
    columns = [c for c in rows[0] if c != "id"]
    table = np.array([[row[c] for c in columns] for row in rows], dtype=float)
    statistics = (
        table.mean(axis=0),
        table.std(axis=0),
        *np.percentile(table, [25, 50, 75], axis=0),
    )
    return [
        {"id": name} | dict(zip(columns, values.tolist(), strict=True))
        for name, values in zip(RESERVED_IDS, statistics, strict=True)
    ]
