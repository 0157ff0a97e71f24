"""Results tables of several candidates as one array: the same cases, the same columns."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from mist_core.config import Rank
from mist_core.dataset import RESERVED_IDS
from mist_core.errors import DataError, raise_all
from mist_core.metrics import lowest_best, metric_of, split_column
from mist_core.ranking import settled

Rows = Sequence[Mapping[str, str]]
SHOWN = 5  # names in a message


@dataclass(frozen=True)
class Results:
    """Scores (candidates, cases, columns), turned so that the lowest is the best; NaN: missing."""

    names: tuple[str, ...]
    ids: tuple[str, ...]
    columns: tuple[str, ...]
    values: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Compared:
    """What decides between candidates: the columns whose weight is above 0.

    ``results`` has those alone, ``values`` are theirs without missing ones (``ranking.settled``);
    ``missing`` says what was done about these.
    """

    results: Results
    weights: NDArray[np.float64]
    values: NDArray[np.float64]
    n_missing: int
    missing: str


def read_results(
    tables: Mapping[str, Rows],
    directions: Mapping[str, str] | None = None,
    id_column: str = "id",
    places: Mapping[str, object] | None = None,
) -> Results:
    """The tables by name of the candidate, cases in the order of the first, as numbers.

    Rows of summaries are left out, and columns of metrics that cannot be ranked, such as a volume.
    ``directions`` says of columns whether "higher" or "lower" is better, ``places`` where a table
    comes from, for messages. Raises one DataError with all that is wrong in the tables.
    """
    where = {n: f"{places[n]} ({n})" if places else f"results of {n}" for n in tables}
    cases = {
        n: [r for r in rows if r.get(id_column) not in RESERVED_IDS] for n, rows in tables.items()
    }
    raise_all(
        [
            f"{where[name]}: expected rows with a column {id_column}, found none. Name the column "
            "of the cases."
            for name, rows in cases.items()
            if not rows or id_column not in rows[0]
        ],
        "results",
    )
    raise_all(_problems_of_layout(cases, id_column, where), "results")
    first = cases[next(iter(cases))]
    ids = [row[id_column] for row in first]
    ways = _directions([c for c in first[0] if c and c not in ("id", id_column)], directions or {})
    columns = [c for c in ways if ways[c] != "neither"]  # a volume is not better than another
    if not columns:
        raise DataError(
            f"results: expected a metric that can be ranked, found {', '.join(ways) or 'none'}. "
            "Add another."
        )
    values = np.empty((len(cases), len(ids), len(columns)))
    problems = []
    for k, (name, rows) in enumerate(cases.items()):
        by_id = {row[id_column]: row for row in rows}
        for n, case in enumerate(ids):
            for m, column in enumerate(columns):
                cell = by_id[case][column]
                try:
                    values[k, n, m] = float(cell or "nan")
                except ValueError:
                    problems.append(
                        f"{where[name]}: expected a number for {column} of {case}, found {cell!r}."
                    )
    raise_all(problems, "results")
    for m, column in enumerate(columns):
        values[..., m] = lowest_best(values[..., m], ways[column])
    return Results(tuple(cases), tuple(ids), tuple(columns), values)


def _problems_of_layout(
    cases: Mapping[str, Rows], id_column: str, where: Mapping[str, str]
) -> list[str]:
    """A line for each table with cases that are there twice, or others than those of the first."""
    first, *others = cases
    lines = []
    for name, rows in cases.items():
        twice = [case for case, times in Counter(r[id_column] for r in rows).items() if times > 1]
        if twice:
            lines.append(f"{where[name]}: expected every case once, found {some(twice)} again.")
    kinds: dict[str, dict[str, list[str]]] = {
        "cases": {n: [row[id_column] for row in rows] for n, rows in cases.items()},
        "columns": {n: [c for c in rows[0] if c] for n, rows in cases.items()},
    }
    for name in others:
        for kind, by_name in kinds.items():
            lacking = sorted(set(by_name[first]) - set(by_name[name]))
            more = sorted(set(by_name[name]) - set(by_name[first]))
            found = [f"no {some(lacking)}"] if lacking else []
            found += [f"{some(more)} as well"] if more else []
            if found:
                lines.append(
                    f"{where[name]}: expected the {kind} of {where[first]}, found "
                    f"{' and '.join(found)}. Evaluate both on the same cases with the same metrics."
                )
    return lines


def some(names: Sequence[str]) -> str:
    """The first of many names."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _directions(columns: Sequence[str], given: Mapping[str, str]) -> dict[str, str]:
    """Which values of each column are better. Raises one DataError for all that is not known."""
    ways: dict[str, str] = {}
    problems = [
        f"direction of {name}: expected a column among {some(columns)}, found none of that name. "
        f"{_meant(name, columns)}"
        for name in given
        if name not in columns
    ]
    for column in columns:
        try:
            if given.get(column) not in (None, "higher", "lower"):
                raise DataError(
                    f"direction of {column}: expected higher or lower, found {given[column]!r}."
                )
            ways[column] = given.get(column) or better(column)
        except DataError as error:
            problems.append(str(error))
    raise_all(problems, "results")
    return ways


def _meant(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, 1)
    return f"Did you mean {near[0]}?" if near else "Check the spelling."


def better(column: str) -> str:
    """Which values of ``<class>_<metric>`` are better: higher, lower, near_zero, or neither."""
    parts = split_column(column)
    if parts is None:
        raise DataError(
            f"expected a column <class>_<metric>, found {column!r}. Say in the metric direction "
            "overrides whether higher or lower is better."
        )
    return metric_of(parts[1]).better


def column_weights(columns: Sequence[str], weights: Mapping[str, float]) -> NDArray[np.float64]:
    """The weight of each column: the product of those of its class, its metric and itself.

    What ``weights`` does not name counts 1. Raises one DataError for every name that is none of
    these, or a class and a metric at once, and one when no column is left.
    """
    named = {column: (split_column(column) or ("", "")) for column in columns}
    classes, metrics = ({parts[i] for parts in named.values()} - {""} for i in (0, 1))
    known = [*columns, *sorted(classes | metrics)]
    problems = []
    for name in weights:
        if name not in known:
            problems.append(
                f"{name}: expected a class, a metric or a column among {some(known)}. "
                f"{_meant(name, known)}"
            )
        if name in classes & metrics:
            problems.append(f"{name}: expected a class or a metric, found both. Name the columns.")
    raise_all(problems, "weights")
    found = [
        float(np.prod([weights.get(key, 1) for key in {column, *parts}]))
        for column, parts in named.items()
    ]
    if not any(found):
        raise DataError("weights: expected a column with a weight above 0, found none. Raise one.")
    return np.array(found)


def compared(results: Results, settings: Rank) -> Compared:
    """What is left of results by the weights, and by what a missing score is worth.

    Raises DataError for missing scores if they are to be refused, and for weights that do not fit
    the columns.
    """
    weights = column_weights(results.columns, settings.weights)
    columns = [c for c, weight in zip(results.columns, weights, strict=True) if weight > 0]
    left = replace(results, columns=tuple(columns), values=results.values[..., weights > 0])
    missing = np.isnan(left.values)
    if settings.nan == "refuse" and missing.any():
        _refuse(left, missing)
    return Compared(
        results=left,
        weights=weights[weights > 0],
        values=settled(left.values, settings.nan),
        n_missing=int(missing.sum()),
        missing=_what_was_missing(results.names, missing, settings.nan),
    )


def _refuse(results: Results, missing: NDArray[np.bool_]) -> None:
    cells = [
        f"{results.columns[m]} of {results.ids[n]} of {results.names[k]}"
        for k, n, m in np.argwhere(missing)
    ]
    raise DataError(
        f"results: expected a number for every score, found none for {some(cells)}. Evaluate "
        "again, choose for evaluate.metrics what empty masks are worth (both_empty, "
        "reference_empty, prediction_empty), or rank with nan: worst or skip."
    )


def _what_was_missing(names: tuple[str, ...], missing: NDArray[np.bool_], policy: str) -> str:
    """What was done about missing scores, in a sentence or two."""
    if not missing.any():
        return "No score was missing."
    of_each = [
        f"{number} of {name}"
        for name, number in zip(names, missing.sum(axis=(1, 2)).tolist(), strict=True)
        if number
    ]
    were = "was" if missing.sum() == 1 else "were"
    lines = [f"{missing.sum()} of {missing.size} scores {were} missing ({some(of_each)})."]
    of_all = int(missing.all(axis=0).sum())
    if policy == "skip":
        lines.append(
            f"{_cells(int(missing.any(axis=0).sum()))} left out for all candidates (skip)."
        )
        return " ".join(lines)
    if of_all:
        lines.append(f"{_cells(of_all)} left out, where no candidate has a score.")
    if missing.sum() > of_all * len(names):
        which = "The others" if of_all else "Missing scores"
        lines.append(
            f"{which} rank last in their case and metric (worst); if they mean that there was "
            "nothing to find, choose skip."
        )
    return " ".join(lines)


def _cells(number: int) -> str:
    return "One case of one metric was" if number == 1 else f"{number} cases of a metric were"
