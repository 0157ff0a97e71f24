"""Rank experiments and strategies by their scores on the same cases, and say how sure that is.

The default is the scheme of Bakas et al., arXiv 1811.02629 (BraTS): for each case and metric the
candidates are ranked, 1 the best, ties sharing the mean of their ranks; the mean rank decides.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mist_core.config import Rank
from mist_core.errors import DataError
from mist_core.ranking import (
    SCHEMES,
    Array,
    Stability,
    bootstrap,
    differences,
    effect_size,
    final_ranks,
    holm,
    numbered,
    p_values,
    patient_ranks,
)
from mist_core.results import Results, compared

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Ranking:
    """K candidates, in the order given, ranked by M columns of P patients.

    ``scores`` (K) decide, the lowest the best; ``by_column`` (K, M) are those of single columns,
    ``by_scheme`` (K each) those of all schemes. ``ranks`` (K, P) are mean ranks of patients, which
    ``p`` (K, K) compares; ``p_holm`` is corrected. ``stability`` is None without bootstraps.
    """

    settings: Rank
    names: tuple[str, ...]
    columns: tuple[str, ...]
    weights: Array
    n_cases: int
    scores: Array
    by_column: Array
    by_scheme: Mapping[str, Array]
    ranks: Array
    p: Array
    p_holm: Array
    stability: Stability | None
    n_missing: int
    missing: str

    @property
    def order(self) -> list[int]:
        """Candidates from the best to the worst; those that tie as they were given."""
        return [int(i) for i in np.argsort(self.scores, kind="stable")]


def rank(
    results: Results, settings: Rank | None = None, patient_of: Mapping[str, str] | None = None
) -> Ranking:
    """Rank the candidates; the cases of a patient are averaged, and stay together in bootstraps.

    Raises DataError for missing scores if they are to be refused, for weights that do not fit the
    columns, and when no score is left to rank by.
    """
    settings = settings or Rank()
    found = compared(results, settings)
    columns, values, weights = np.array(found.results.columns), found.values, found.weights
    known = ~np.isnan(values[0])
    if not known.any():
        raise DataError(
            "results: expected a case and a metric with a score of every candidate, found none. "
            + (
                "Rank with nan: worst."
                if not np.isnan(found.results.values).all()
                else "Choose other metrics, or for evaluate.metrics what empty masks are worth "
                "(both_empty, reference_empty, prediction_empty)."
            )
        )
    # Of cases and columns that tell nothing nothing is drawn.
    values = values[:, known.any(axis=1)][..., known.any(axis=0)]
    columns, weights = columns[known.any(axis=0)], weights[known.any(axis=0)]
    ids = [
        case for case, some_known in zip(results.ids, known.any(axis=1), strict=True) if some_known
    ]
    patients = numbered(ids, patient_of)
    scheme = SCHEMES[settings.scheme]
    ranks = patient_ranks(values, weights, patients)
    p = p_values(ranks)[0]
    given = values, weights, patients
    options = settings.bootstraps, settings.seed, settings.alpha
    stability = bootstrap(scheme, *given, *options) if options[0] and patients.max() > 0 else None
    by_scheme = {name: each(*given, alpha=settings.alpha)[0] for name, each in SCHEMES.items()}
    single = [
        scheme(values[..., [m]], np.ones(1), patients, alpha=settings.alpha)[0]
        for m in range(len(columns))
    ]
    return Ranking(
        settings=settings,
        names=results.names,
        columns=tuple(columns.tolist()),
        weights=weights,
        n_cases=len(ids),
        scores=by_scheme[settings.scheme],
        by_column=np.stack(single, axis=1),
        by_scheme=by_scheme,
        ranks=ranks,
        p=p,
        p_holm=holm(p),
        stability=stability,
        n_missing=found.n_missing,
        missing=found.missing,
    )


# --- what is written ---------------------------------------------------------------------------


def summary_rows(ranking: Ranking) -> Rows:
    """strategy, average_rank; best first."""
    return [
        {"strategy": ranking.names[i], "average_rank": round(float(ranking.scores[i]), 4)}
        for i in ranking.order
    ]


def detailed_rows(ranking: Ranking) -> Rows:
    """strategy, and what it has in the ranking by each column alone; best first."""
    return [
        {"strategy": ranking.names[i]}
        | {
            column: round(float(score), 4)
            for column, score in zip(ranking.columns, ranking.by_column[i], strict=True)
        }
        for i in ranking.order
    ]


def significance_rows(ranking: Ranking) -> Rows:
    """The matrix of p, not corrected, that a row is better than a column; as given.

    The diagonal is empty, and all is for fewer than two patients.
    """
    return [
        {"strategy": name}
        | {
            other: "" if np.isnan(p) else float(p)
            for other, p in zip(ranking.names, row, strict=True)
        }
        for name, row in zip(ranking.names, ranking.p, strict=True)
    ]


def described(ranking: Ranking) -> dict[str, Any]:
    """All of a ranking for JSON; None for what is not defined."""
    settings, names, stability = ranking.settings, ranking.names, ranking.stability
    tau = stability.tau if stability else np.array([])
    return {
        "scheme": settings.scheme,
        "n_cases": ranking.n_cases,
        "n_patients": ranking.ranks.shape[1],
        "columns": list(ranking.columns),
        "weights": dict(zip(ranking.columns, ranking.weights.tolist(), strict=True)),
        "missing": {
            "policy": settings.nan,
            "sentence": ranking.missing,
            "cells": ranking.n_missing,
        },
        "bootstraps": settings.bootstraps if stability else 0,
        "seed": settings.seed,
        "alpha": settings.alpha,
        "verdict": verdict(ranking),
        "candidates": [_candidate(ranking, i) for i in ranking.order],
        "kendall_tau": {
            "mean": _number(tau.mean()) if tau.size else None,
            "ci_low": _number(np.percentile(tau, 2.5)) if tau.size else None,
            "ci_high": _number(np.percentile(tau, 97.5)) if tau.size else None,
        },
        "pairs": [_pair(ranking, i, j) for i in ranking.order for j in ranking.order if i != j],
        "schemes": {
            name: dict(zip(names, final_ranks(scores).tolist(), strict=True))
            for name, scores in ranking.by_scheme.items()
        },
    }


def _candidate(ranking: Ranking, i: int) -> dict[str, Any]:
    stability = ranking.stability
    return {
        "strategy": ranking.names[i],
        "rank": float(final_ranks(ranking.scores)[i]),
        "average_rank": _number(ranking.scores[i]),
        "ci_low": _number(stability.low[i]) if stability else None,
        "ci_high": _number(stability.high[i]) if stability else None,
        "frequencies": [_number(f) for f in stability.frequencies[i]] if stability else [],
    }


def _pair(ranking: Ranking, i: int, j: int) -> dict[str, Any]:
    difference = differences(ranking.ranks[i], ranking.ranks[j])
    return {
        "strategy": ranking.names[i],
        "other": ranking.names[j],
        "p": _number(ranking.p[i, j]),
        "p_holm": _number(ranking.p_holm[i, j]),
        "wins": _number(ranking.stability.wins[i, j]) if ranking.stability else None,
        "effect_size": _number(effect_size(difference)),
        "difference": _number(difference.mean()),
    }


def _number(value: float) -> float | None:
    """Six digits; None for NaN, which JSON does not have."""
    return None if np.isnan(value) else float(f"{value:.6g}")


# --- verdict -----------------------------------------------------------------------------------


def verdict(ranking: Ranking) -> str:
    """Who is best, and whether that is more than chance, in a sentence or two."""
    names, order = ranking.names, ranking.order
    if len(names) == 1:
        return f"{names[0]} is the only candidate: there is nothing to compare."
    leaders = [i for i in order if ranking.scores[i] == ranking.scores[order[0]]]
    if len(leaders) > 1:
        who = f"{', '.join(names[i] for i in leaders[:-1])} and {names[leaders[-1]]}"
        if (ranking.ranks[leaders] == ranking.ranks[leaders[0]]).all():
            return f"{who} cannot be told apart: p = 1, they rank alike in every patient."
        return f"{who} share the first place: none of them is better than the others."
    if ranking.ranks.shape[1] < 2:
        before = f"{names[order[0]]} ranks before {names[order[1]]}"
        return f"{before}, but one patient is too few to test."
    return _first_against_second(ranking, *order[:2])


def _first_against_second(ranking: Ranking, first: int, second: int) -> str:
    names, p, alpha = ranking.names, ranking.p_holm, ranking.settings.alpha
    how = f"{_p_in_words(p[first, second])} (Holm)"
    if ranking.stability:
        how += f", in {100 * ranking.stability.wins[first, second]:.0f} % of bootstraps"
    if p[first, second] <= alpha:
        said = f"{names[first]} is better than {names[second]} with {how}."
    else:
        said = f"{names[first]} ranks before {names[second]}, but that may be chance: {how}."
    others = len(names) - 1
    beaten = int((p[first] <= alpha).sum())
    if beaten:
        return said + (f" It is better than {beaten} of the {others} others." if others > 1 else "")
    n_patients = ranking.ranks.shape[1]
    least = 0.5**n_patients * len(names) * others  # p where one is better in every patient
    if least > alpha:
        said += f" With {n_patients} patients no difference could be more."
    return said


def _p_in_words(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
