"""Rank experiments and strategies by their scores on the same cases.

For each case and metric the candidates are ranked, 1 the best, ties sharing the mean of their
ranks; a candidate's score is its mean rank. Bakas et al., arXiv 1811.02629 (BraTS).
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import rankdata

from mist_core.dataset import RESERVED_IDS
from mist_core.errors import DataError
from mist_core.metrics import lowest_best, metric_of, split_column

Rows = Sequence[Mapping[str, str]]


def rank(
    tables: Mapping[str, Rows],
    directions: Mapping[str, str] | None = None,
    id_column: str = "id",
) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Summary rows (strategy, average_rank), best first, and mean ranks per column.

    ``tables`` maps a candidate's name to the rows of its results.csv; summary rows are left out.
    ``directions`` says of other columns whether "higher" or "lower" is better. Raises DataError
    when the tables do not have the same cases and columns, or a value is missing.
    """
    names = list(tables)
    for name, rows in tables.items():
        if not rows or id_column not in rows[0]:
            raise DataError(
                f"results of {name}: expected rows with a column {id_column}, found none. Name "
                "the column of the cases."
            )
    tables = {n: [{**row, "id": row[id_column]} for row in rows] for n, rows in tables.items()}
    columns, ids = _shared_layout(tables, id_column)
    ways = {c: _direction(c, directions or {}) for c in columns}
    columns = [c for c in columns if ways[c] != "neither"]  # a volume is not better than another
    if not columns:
        raise DataError(
            f"results: expected a metric that can be ranked, found {', '.join(ways)}. Add another."
        )
    values = np.array(
        [[[_number(row, c, n) for c in columns] for row in _cases(tables[n], ids)] for n in names]
    )  # (candidates, cases, columns)
    for i, column in enumerate(columns):
        values[..., i] = lowest_best(values[..., i], ways[column])
    ranks = rankdata(values, method="average", axis=0)
    average = ranks.mean(axis=(1, 2))
    best_first = np.argsort(average, kind="stable")
    summary: list[dict[str, object]] = [
        {"strategy": names[i], "average_rank": round(float(average[i]), 4)} for i in best_first
    ]
    detailed: list[dict[str, object]] = [
        {"strategy": names[i]}
        | {c: round(float(r), 4) for c, r in zip(columns, ranks[i].mean(axis=0), strict=True)}
        for i in best_first
    ]
    return summary, detailed


def _number(row: Mapping[str, str], column: str, name: str) -> float:
    try:
        value = float(row[column])
    except (TypeError, ValueError):  # a row that is too short, a cell that is no number
        value = math.nan
    if math.isnan(value):
        raise DataError(
            f"results of {name}: expected a number for {column} of {row['id']}, "
            f"found {row[column]!r}. Evaluate again, or choose for evaluate.metrics what empty "
            "masks are worth (both_empty, reference_empty, prediction_empty)."
        )
    return value


def _direction(column: str, directions: Mapping[str, str]) -> str:
    given = directions.get(column)
    if given not in (None, "higher", "lower"):
        raise DataError(f"direction of {column}: expected higher or lower, found {given!r}.")
    return given or better(column)


def better(column: str) -> str:
    """Which values of ``<class>_<metric>`` are better: higher, lower, near_zero, or neither."""
    parts = split_column(column)
    if parts is None:
        raise DataError(
            f"results: expected columns <class>_<metric>, found {column!r}. Say in the metric "
            "direction overrides whether higher or lower is better."
        )
    return metric_of(parts[1]).better


def _shared_layout(tables: Mapping[str, Rows], id_column: str) -> tuple[list[str], list[str]]:
    first, *others = tables
    columns = [c for c in tables[first][0] if c not in ("id", id_column)]
    ids = [row["id"] for row in tables[first] if row["id"] not in RESERVED_IDS]
    for name in others:
        there = {row["id"] for row in tables[name]} - set(RESERVED_IDS)
        if there != set(ids) or set(tables[name][0]) - {"id", id_column} != set(columns):
            raise DataError(
                f"results of {name}: expected the cases and columns of {first}, found others "
                f"({sorted(there ^ set(ids))[:5]}). Evaluate both on the same cases."
            )
    return columns, ids


def _cases(rows: Rows, ids: Sequence[str]) -> list[Mapping[str, str]]:
    by_id = {row["id"]: row for row in rows}
    return [by_id[i] for i in ids]
