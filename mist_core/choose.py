"""Choose a strategy by its scores on the training cases, or none, and say what choosing is worth.

What a choice is worth is told by patients that it did not see: each is scored with what ranks first
without it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mist_core.config import Rank
from mist_core.ranking import (
    Array,
    Numbers,
    differences,
    holm_of,
    numbered,
    patient_ranks,
    patient_values,
    rank_then_aggregate,
    signed_rank,
)
from mist_core.results import Results, better, compared

GROUPS = 100  # patients are left out one by one, and of more than that in so many groups
SHOWN = 3  # columns in a sentence
RESAMPLES = 2000


@dataclass(frozen=True, eq=False)
class Scored:
    """K candidates beside none, which is the first of them.

    ``average_rank`` is that of all patients, ``p_holm`` says that a candidate is better than none,
    ``better_in`` in which share of the patients it is. Candidates that scored alike in everything
    are ranked and tested as one. ``best`` is the best beside none, the first of equal ones,
    ``leader`` the best of all, none before its equals.
    """

    average_rank: Array
    p_holm: Array
    better_in: Array
    best: int
    leader: int
    n_tests: int

    def sure(self, alpha: float) -> int:
        """The best candidate if it is before none, and better with confidence; else 0."""
        return self.leader if self.p_holm[self.leader] <= alpha else 0


@dataclass(frozen=True, eq=False)
class Choice:
    """What is chosen of all patients, and what ranks first without each of them.

    ``by_case`` is none everywhere where none is chosen.
    """

    names: tuple[str, ...]
    columns: tuple[str, ...]
    scored: Scored
    chosen: int
    by_case: Mapping[str, int]
    by_group: Mapping[str, int]
    gain: float  # mean rank of none less that of what led without them, on patients left out
    means: Array  # (K, columns), in the units of the tables
    fair: Array  # (2, patients, columns): none, and what led without the patient
    n_patients: int
    alpha: float
    n_missing: int
    missing: str  # what was done about missing scores


def choose(
    results: Results, settings: Rank | None = None, patient_of: Mapping[str, str] | None = None
) -> Choice:
    """Choose among candidates of which the first is to do nothing.

    Another is chosen if it has the best mean rank of all, is better than nothing by the one-sided
    signed-rank test over patients, corrected by Holm's method, and if what ranks first without
    them gives patients that are left out a better mean rank than nothing does. Raises DataError for
    missing scores if they are to be refused, and for weights that do not fit the columns.
    """
    settings = settings or Rank()
    found = compared(results, settings)
    results, values, weights = found.results, found.values, found.weights
    patients = numbered(results.ids, patient_of)
    of_all = scored(values, weights, patients)
    by_patient, by_group = _without_each(values, weights, patients)
    of_case = by_patient[patients]
    fair = np.stack([values[0], values[of_case, np.arange(len(patients))]])
    if np.isnan(fair[0]).all():
        gain = 0.0
    else:
        none, chosen = rank_then_aggregate(fair, weights, patients)[0]
        gain = float(none - chosen)
    # As in the tables, but for a metric whose best value is zero: how far from it.
    plain = results.values * [-1 if better(c) == "higher" else 1 for c in results.columns]
    plain_fair = np.stack([plain[0], plain[of_case, np.arange(len(patients))]])
    means = _mean_of_patients(patient_values(plain, patients))
    sure = of_all.sure(settings.alpha) if gain > 0 else 0
    taken = of_case if sure else np.zeros_like(of_case)
    return Choice(
        names=results.names,
        columns=results.columns,
        scored=of_all,
        chosen=sure,
        by_case=dict(zip(results.ids, taken.tolist(), strict=True)),
        by_group=by_group,
        gain=gain,
        means=means,
        fair=patient_values(plain_fair, patients),
        n_patients=int(patients.max()) + 1,
        alpha=settings.alpha,
        n_missing=found.n_missing,
        missing=found.missing,
    )


def scored(values: Array, weights: Array, patients: Numbers) -> Scored:
    """Rank and test candidates (K, cases, columns), the lowest values the best."""
    first = _first_alike(values)
    distinct = np.unique(first)
    ranks = patient_ranks(values[distinct], weights, patients)
    ranks = ranks[:, ~np.isnan(ranks[0])]
    if not ranks.size:
        ranks = np.ones((len(distinct), 1))
    apart = [differences(each, ranks[0]) for each in ranks]
    p = holm_of(np.array([signed_rank(each)[0][0] for each in apart[1:]]))
    back = np.searchsorted(distinct, first)  # of each candidate the one that it is alike
    average = ranks.mean(axis=1)[back]
    others = np.where(np.arange(len(values)) > 0, average, np.inf)
    return Scored(
        average_rank=average,
        p_holm=np.concatenate([[1.0], p])[back],
        better_in=np.array([(each < 0).mean() for each in apart])[back],
        best=int(np.argmin(others)) if len(values) > 1 else 0,
        leader=int(np.argmin(average)),
        n_tests=len(distinct) - 1,
    )


def _first_alike(values: Array) -> NDArray[np.intp]:
    """Of each candidate the first that has the same values everywhere."""
    first: dict[bytes, int] = {}
    plain = np.nan_to_num(values, nan=np.inf) + 0.0  # one kind of NaN and of zero
    return np.array([first.setdefault(each.tobytes(), k) for k, each in enumerate(plain)])


def _without_each(
    values: Array, weights: Array, patients: Numbers
) -> tuple[NDArray[np.intp], dict[str, int]]:
    """What ranks first without each patient, and without each group of them.

    No test is made here: it would fail just without those patients to whom a strategy matters, who
    would be scored without it.
    """
    n_patients = int(patients.max()) + 1
    group_of = np.arange(n_patients) % GROUPS
    chosen = np.zeros(n_patients, np.intp)
    for group in range(min(n_patients, GROUPS) if n_patients > 1 else 0):
        rest = group_of[patients] != group
        others = np.unique(patients[rest], return_inverse=True)[1]
        chosen[group_of == group] = scored(values[:, rest], weights, others).leader
    return chosen, {str(group): int(chosen[group]) for group in range(min(n_patients, GROUPS))}


def _mean_of_patients(of_patients: Array) -> Array:
    """Mean of (K, patients, columns) over the patients that have a number; NaN for none."""
    known = ~np.isnan(of_patients)
    with np.errstate(invalid="ignore"):
        means: Array = np.where(known, of_patients, 0).sum(axis=1) / known.sum(axis=1)
    return means


def effects(choice: Choice, seed: int = 0) -> dict[str, dict[str, float]]:
    """Of each column the mean over patients without a strategy, with what ranks first without the
    patient, and their difference with a 95 % interval from bootstraps of the patients.
    """
    table = {}
    drawn = np.random.default_rng(seed).integers(
        choice.n_patients, size=(RESAMPLES, choice.n_patients)
    )
    for m, column in enumerate(choice.columns):
        none, chosen = choice.fair[..., m]
        known = np.isfinite(none) & np.isfinite(chosen)
        low = high = np.nan
        if known.sum() > 1:
            apart = np.where(known, chosen - np.where(known, none, 0), np.nan)
            counted = known[drawn].sum(axis=1)
            sums = np.nan_to_num(apart)[drawn].sum(axis=1)
            low, high = np.percentile((sums / np.maximum(counted, 1))[counted > 0], [2.5, 97.5])
        before, after = (
            float(each[known].mean()) if known.any() else np.nan for each in (none, chosen)
        )
        table[column] = {
            "none": before,
            "chosen": after,
            "difference": after - before,
            "ci_low": float(low),
            "ci_high": float(high),
        }
    return table


def described(choice: Choice, steps: Mapping[str, Sequence[Any]], seed: int = 0) -> dict[str, Any]:
    """The choice as JSON: candidates, the best first, and what choosing is worth."""
    order = np.argsort(choice.scored.average_rank, kind="stable")
    of_columns = effects(choice, seed)
    name = choice.names[choice.chosen]
    return {
        "chosen": name,
        "sentence": sentence(choice, of_columns),
        "strategy": list(steps.get(name, [])),
        "missing": {"sentence": choice.missing, "cells": choice.n_missing},
        "candidates": [
            {
                "name": choice.names[k],
                "average_rank": float(choice.scored.average_rank[k]),
                "p_holm": float(choice.scored.p_holm[k]) if k else None,
                "better_in": float(choice.scored.better_in[k]) if k else None,
                "steps": list(steps.get(choice.names[k], [])),
                "means": {
                    column: _number(mean)
                    for column, mean in zip(choice.columns, choice.means[k], strict=True)
                },
            }
            for k in order
        ],
        "held_out": {
            "columns": {
                column: {key: _number(value) for key, value in each.items()}
                for column, each in of_columns.items()
            },
            "chosen_by_group": {g: choice.names[k] for g, k in choice.by_group.items()},
            "chosen_by_case": {case: choice.names[k] for case, k in choice.by_case.items()},
        },
    }


def sentence(choice: Choice, of_columns: Mapping[str, Mapping[str, float]]) -> str:
    """What was chosen, why, and what it brings."""
    found, n = choice.scored, choice.n_patients
    best, p = choice.names[found.best], found.p_holm[found.best]
    tried = f"{found.n_tests} strategies that differ, {n} patients"
    if choice.chosen:
        return (
            f"{best} is better than no post-processing with p = {p:.2g} (Holm, {tried}). For "
            f"patients left out of the choice: {_shown(of_columns)}."
        )
    if not found.n_tests:
        return "No post-processing: none of the strategies changes a score."
    if found.average_rank[found.best] >= found.average_rank[0]:
        return f"No post-processing: no strategy ranks before it ({tried})."
    if p > choice.alpha:
        few = f" With {n} patients none could be." if 0.5**n * found.n_tests > choice.alpha else ""
        return (
            f"No post-processing: {best}, the best, is not better with confidence, p = {p:.2g} "
            f"(Holm, {tried}).{few}"
        )
    return (
        f"No post-processing: {best} is better with p = {p:.2g} (Holm, {tried}), but patients left "
        f"out of the choice gain nothing: {_shown(of_columns)}."
    )


def _shown(of_columns: Mapping[str, Mapping[str, float]]) -> str:
    """The columns whose interval is on one side of zero, or the first where there is none."""
    clear = [c for c, each in of_columns.items() if each["ci_low"] * each["ci_high"] > 0]
    parts = [
        f"{column} {each['chosen']:.4g} in place of {each['none']:.4g} ({each['difference']:+.2g}, "
        f"95 % interval {each['ci_low']:+.2g} to {each['ci_high']:+.2g})"
        for column, each in of_columns.items()
        if column in (clear or list(of_columns))[:SHOWN]
    ]
    return ", ".join(parts)


def _number(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return float(value) if np.isfinite(value) else None
