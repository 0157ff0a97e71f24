"""Score predicted label maps against reference label maps, case by case and class by class."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mist_core.config import Evaluate, EvaluatedClass
from mist_core.dataset import RESERVED_IDS
from mist_core.errors import DataError
from mist_core.io import Volume
from mist_core.labels import in_labels, without
from mist_core.metrics import score

Classes = Mapping[str, EvaluatedClass]


def chosen_classes(classes: Classes, settings: Evaluate) -> dict[str, EvaluatedClass]:
    """The classes of an evaluation config, with what the settings say instead."""
    labels = {name: each.labels for name, each in classes.items()}
    if settings.classes != "auto":
        labels = settings.classes
    own = settings.metrics
    return {
        name: EvaluatedClass(labels=members, metrics=own)
        if own != "auto"
        else classes.get(name, EvaluatedClass(labels=members))
        for name, members in labels.items()
    }


def refuse_other_labels(
    reference: Volume, prediction: Volume, classes: Classes, ignore_label: int | None = None
) -> None:
    """Raise DataError for label values that belong to no class: a sign of a wrong file."""
    known = {0}.union(*(each.labels for each in classes.values()))
    for name, volume in (("reference", reference), ("prediction", prediction)):
        also = {ignore_label} if name == "reference" else set()
        if odd := sorted(set(np.unique(volume.array).tolist()) - known - also):
            raise DataError(
                f"{name}: expected labels among {sorted(known)}, found {odd}. Mend the label map, "
                "or add the labels to a class."
            )


def evaluate(
    reference: Volume, prediction: Volume, classes: Classes, ignore_label: int | None = None
) -> dict[str, float]:
    """Scores of one case as ``<class>_<metric>``, classes in order.

    Where the reference has ``ignore_label``, both count as background. Raises DataError when the
    two are not on one grid.
    """
    if not prediction.geometry.matches(reference.geometry):
        raise DataError(
            f"expected the prediction on the grid of the reference ({reference.geometry}), "
            f"found {prediction.geometry}. Predict again, or resample it."
        )
    truth, found = reference.array, prediction.array
    if ignore_label is not None:
        found = np.where(truth == ignore_label, 0, found)
        truth = without(truth, ignore_label)
    row: dict[str, float] = {}
    for name, each in classes.items():
        scores = score(
            in_labels(truth, each.labels),
            in_labels(found, each.labels),
            reference.geometry.spacing,
            {k: options.model_dump(exclude_none=True) for k, options in each.metrics.items()},
        )
        row |= {f"{name}_{metric}": value for metric, value in scores.items()}
    return row


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
