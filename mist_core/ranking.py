"""The arithmetic of rankings: arrays in, arrays out.

``values`` are scores (candidates, cases, columns), turned so that the lowest is the best; a cell
that tells nothing is NaN for every candidate. ``weights`` are those of the columns, ``patients``
the number of each case's patient, from 0. A patient counts once, however many cases there are.

A scheme makes of these a score for each candidate, the lowest the best: its mean rank over the
columns. They are those of Wiesenfarth et al., Sci Rep 11, 2369 (2021), for more than one column.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Numbers = NDArray[np.intp]
DECIMALS = 10  # of ranks: sums that differ by rounding alone are ties
EXACT = 50  # patients up to which the signed-rank test is exact
JUST_BEHIND = 1e-6  # of the largest value of a column: a missing one, behind the worst
BLOCK = 2**22  # numbers that a block of bootstraps may take at once
CACHED = 2**16  # numbers that stay near the processor


def _ranks_of(values: Array, axis: int | None = None) -> Array:
    """Ranks, 1 for the lowest; ties share the mean of theirs, a NaN makes all NaN."""
    from scipy.stats import rankdata  # noqa: PLC0415 (a second, also where tables are wrong)

    ranks: Array = rankdata(values, axis=axis)
    return ranks


# --- values ------------------------------------------------------------------------------------


def numbered(ids: Sequence[str], patient_of: Mapping[str, str] | None = None) -> Numbers:
    """The number of each case's patient; a case that is not in ``patient_of`` is its own."""
    order: dict[tuple[bool, str], int] = {}
    known = patient_of or {}
    keys = [(case in known, known.get(case, case)) for case in ids]
    return np.array([order.setdefault(key, len(order)) for key in keys], dtype=np.intp)


def settled(values: Array, policy: str) -> Array:
    """Values in which a cell has a number for every candidate, or NaN for every one.

    ``worst`` puts a missing value just behind the worst of its column, of all cases and candidates,
    beside an infinite one if there is any;
    ``skip`` leaves its cell out. A cell that all candidates miss is left out by either.
    """
    missing = np.isnan(values)
    if policy == "skip":
        return np.where(missing.any(axis=0), np.nan, values)
    finite = np.where(np.isfinite(values), np.abs(values), 0).max(axis=(0, 1))
    worst = np.where(missing, -np.inf, values).max(axis=(0, 1))
    behind = worst + JUST_BEHIND * np.where(finite > 0, finite, 1)
    return np.where(missing & ~missing.all(axis=0), behind, values)


def patient_values(values: Array, patients: Numbers) -> Array:
    """Mean value (candidates, patients, columns) over the cases of each patient; NaN for none."""
    by_case = np.moveaxis(values, 1, 0)
    known = ~np.isnan(by_case)
    sums = np.zeros((int(patients.max()) + 1, *by_case.shape[1:]))
    sizes = np.zeros_like(sums)
    np.add.at(sums, patients, np.where(known, by_case, 0))
    np.add.at(sizes, patients, known)
    with np.errstate(invalid="ignore"):
        return np.moveaxis(sums / sizes, 1, 0)


def patient_ranks(values: Array, weights: Array, patients: Numbers) -> Array:
    """Mean rank (candidates, patients): ranks within each case and column, 1 the best, averaged.

    Ties share the mean of their ranks. NaN for a patient of whom no cell is left.
    """
    ranks = _ranks_of(values, axis=0)
    of_cell = np.where(np.isnan(values[0]), 0, weights)  # (cases, columns)
    belongs = np.eye(patients.max() + 1)[patients]  # (cases, patients)
    sums = (np.nan_to_num(ranks) * of_cell).sum(axis=2) @ belongs
    with np.errstate(invalid="ignore"):
        means = sums / (of_cell.sum(axis=1) @ belongs)
    return _rounded(means)


# --- schemes -----------------------------------------------------------------------------------


def rank_then_aggregate(
    values: Array,
    weights: Array,
    patients: Numbers,
    counts: Array | None = None,
    alpha: float = 0.05,
) -> Array:
    """Scores (bootstraps, candidates): mean over patients of their mean ranks.

    ``counts`` (bootstraps, patients) says how often each patient was drawn; None: each once.
    """
    ranks = patient_ranks(values, weights, patients)
    known = ~np.isnan(ranks[0])
    drawn = _once(ranks.shape[1]) if counts is None else counts
    sums = drawn @ np.where(known, ranks, 0).T
    with np.errstate(invalid="ignore"):
        means = sums / (drawn @ known)[:, None]
    return _rounded(means)


def aggregate_then_rank(
    values: Array,
    weights: Array,
    patients: Numbers,
    counts: Array | None = None,
    alpha: float = 0.05,
) -> Array:
    """The same by the rank of each candidate's mean over patients, column by column."""
    of_patients = patient_values(values, patients)
    drawn = _once(of_patients.shape[1]) if counts is None else counts
    columns = []
    for column in np.moveaxis(of_patients, 2, 0):  # (candidates, patients)
        known = ~np.isnan(column[0])
        infinite = np.isinf(column)
        finite = np.where(known & ~infinite, column, 0)
        scale = np.abs(finite).max() or 1.0
        with np.errstate(invalid="ignore"):
            means = _rounded(drawn @ (finite / scale).T / (drawn @ known)[:, None])
        for sign in (-np.inf, np.inf):
            means[drawn @ (column == sign).T.astype(float) > 0] = sign
        columns.append(_ranks_of(means, axis=1))
    return _mean_of_columns(columns, weights)


def rank_by_tests(
    values: Array,
    weights: Array,
    patients: Numbers,
    counts: Array | None = None,
    alpha: float = 0.05,
) -> Array:
    """The same by the number of rivals that each is better than, column by column.

    Better: by ``signed_rank`` on the values of patients, with p at most ``alpha`` after ``holm``
    over all ordered pairs of a column. For drawn patients p comes from the normal approximation.
    """
    columns = []
    for column in np.moveaxis(patient_values(values, patients), 2, 0):
        known = ~np.isnan(column[0])
        p = p_values(column[:, known], None if counts is None else counts[:, known])
        wins = (holm(p) <= alpha).sum(axis=2)
        ranks = _ranks_of(-wins, axis=1)
        seen = known.any() if counts is None else counts[:, known].sum(axis=1) > 0
        columns.append(np.where(np.reshape(seen, (-1, 1)), ranks, np.nan))
    return _mean_of_columns(columns, weights)


Scheme = Callable[..., Array]
SCHEMES: Mapping[str, Scheme] = {
    "rank-then-aggregate": rank_then_aggregate,
    "aggregate-then-rank": aggregate_then_rank,
    "test-based": rank_by_tests,
}


def _once(n_patients: int) -> Array:
    return np.ones((1, n_patients))


def _mean_of_columns(ranks: Sequence[Array], weights: Array) -> Array:
    """Weighted mean of ranks (bootstraps, candidates) over the columns that have any."""
    stacked = np.stack(ranks, axis=2)
    used = np.where(np.isnan(stacked), 0, weights)
    with np.errstate(invalid="ignore"):
        means = (np.nan_to_num(stacked) * used).sum(axis=2) / used.sum(axis=2)
    return _rounded(means)


def _rounded(means: Array) -> Array:
    """Sums of the same numbers in another order are ties."""
    rounded: Array = np.round(means, DECIMALS)
    return rounded


# --- tests -------------------------------------------------------------------------------------


def p_values(scores: Array, counts: Array | None = None) -> Array:
    """p (bootstraps, candidates, candidates) that the first is better than the second.

    ``scores`` (candidates, patients), the lowest the best, are compared patient by patient with
    ``signed_rank``. The diagonal is NaN, and all is NaN for fewer than two patients.
    """
    n_candidates, n_patients = scores.shape
    n_draws = 1 if counts is None else len(counts)
    p = np.full((n_draws, n_candidates, n_candidates), np.nan)
    if n_patients < 2:
        return p
    size = max(1, CACHED // n_patients)
    blocks = [slice(start, start + size) for start in range(0, n_draws, size)]
    # As rows of patients in memory, which is how signed_rank goes through them.
    drawn = [None if counts is None else np.ascontiguousarray(counts[b].T).T for b in blocks]
    for i in range(n_candidates):
        for j in range(i + 1, n_candidates):
            difference = differences(scores[i], scores[j])
            for block, own in zip(blocks, drawn, strict=True):
                p[block, i, j], p[block, j, i] = signed_rank(difference, own)
    return p


def differences(first: Array, second: Array) -> Array:
    """First less second; 0 where both are the same infinity, or differ by rounding alone."""
    same = np.isclose(first, second, rtol=1e-12, atol=0)
    moved = np.where(same, 0, first - np.where(same, 0, second))
    scale = np.abs(moved[np.isfinite(moved)]).max(initial=0) or 1.0
    return _rounded(moved / scale) * scale


def signed_rank(difference: Array, counts: Array | None = None) -> tuple[Array, Array]:
    """p of Wilcoxon's signed-rank test that differences are below zero, and above.

    One for each row of ``counts`` (bootstraps, patients), or one for each patient taken once. Zeros
    are left out; without any other difference p is 1. Exact for up to 50 differences taken once,
    with ties, too; else the normal approximation, its variance corrected for ties.
    """
    from scipy.special import ndtr  # noqa: PLC0415 (see _ranks_of)

    kept = np.flatnonzero(difference)
    kept = kept[np.argsort(np.abs(difference[kept]), kind="stable")]
    moved = difference[kept]
    if counts is None and 0 < moved.size <= EXACT:
        return _exact_signed_rank(_ranks_of(np.abs(moved)), moved > 0)
    # Bootstraps come last here: sums over patients then run over long rows.
    drawn = np.ones((moved.size, 1)) if counts is None else counts.T[kept]
    if moved.size == 0:
        return np.ones(drawn.shape[1]), np.ones(drawn.shape[1])
    firsts = np.flatnonzero(np.diff(np.abs(moved), prepend=-1) > 0)  # of each size
    here, above = drawn, drawn * (moved > 0)[:, None]
    if firsts.size < moved.size:  # ties share a rank
        here, above = np.add.reduceat(here, firsts), np.add.reduceat(above, firsts)
    ranks = np.cumsum(here, axis=0) - (here - 1) / 2
    rank_sum = np.einsum("ib,ib->b", above, ranks)
    n = here.sum(axis=0)
    mean = n * (n + 1) / 4
    variance = (
        n * (n + 1) * (2 * n + 1) / 24 - (np.einsum("ib,ib,ib->b", here, here, here) - n) / 48
    )
    with np.errstate(invalid="ignore"):
        z = (rank_sum - mean) / np.sqrt(variance)
    return np.where(n == 0, 1, ndtr(z)), np.where(n == 0, 1, ndtr(-z))


def _exact_signed_rank(ranks: Array, above: NDArray[np.bool_]) -> tuple[Array, Array]:
    """The same from the sums of ranks over all signs; ranks may end in a half."""
    halves = np.rint(2 * ranks).astype(int)
    chance = np.ones(1)
    for step in halves:
        chance = (np.pad(chance, (0, step)) + np.pad(chance, (step, 0))) / 2
    observed = halves[above].sum()
    p = chance[: observed + 1].sum(), chance[observed:].sum()
    return np.minimum(p[0], 1)[None], np.minimum(p[1], 1)[None]


def holm(p: Array) -> Array:
    """p (..., candidates, candidates) corrected for the number of ordered pairs; NaN stay.

    Holm, Scand J Stat 6, 65-70 (1979).
    """
    pairs = ~np.eye(p.shape[-1], dtype=bool)
    result = np.full_like(p, np.nan)
    result[..., pairs] = holm_of(p[..., pairs])
    return result


def holm_of(p: Array) -> Array:
    """p (..., tests) corrected for the number of tests."""
    order = np.argsort(p, axis=-1)
    factors = np.arange(p.shape[-1], 0, -1)
    corrected = np.maximum.accumulate(np.take_along_axis(p, order, -1) * factors, axis=-1)
    back = np.empty_like(p)
    np.put_along_axis(back, order, np.minimum(corrected, 1), -1)
    return back


def effect_size(difference: Array) -> float:
    """Rank-biserial correlation of paired differences: 1 where all are below zero, -1 above.

    The share of the rank sum below zero less the share above; 0 where nothing differs.
    Kerby, Comprehensive Psychology 3, 11.IT.3.1 (2014).
    """
    moved = difference[difference != 0]
    if moved.size == 0:
        return 0.0
    ranks = _ranks_of(np.abs(moved))
    return float(-(ranks * np.sign(moved)).sum() / ranks.sum())


# --- bootstrap ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stability:
    """What bootstraps of the patients say of a ranking of K candidates.

    ``low`` and ``high`` (K) hold 95 % of the scores. ``frequencies`` (K, K) are the shares of
    bootstraps in which a candidate has each rank, ``wins`` (K, K) those in which the first is
    before the second; ties share. ``tau`` has Kendall's tau of each bootstrap with the whole, where
    it is defined.
    """

    low: Array
    high: Array
    frequencies: Array
    wins: Array
    tau: Array


def bootstrap(
    scheme: Scheme,
    values: Array,
    weights: Array,
    patients: Numbers,
    times: int,
    seed: int = 0,
    alpha: float = 0.05,
) -> Stability:
    """Rank candidates again for patients drawn with replacement, all cases of a patient together.

    Efron & Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13.
    """
    whole = scheme(values, weights, patients, None, alpha)
    n_candidates, n_patients = len(values), int(patients.max()) + 1
    random = np.random.default_rng(seed)
    block = max(1, BLOCK // max(n_patients, n_candidates**2, n_candidates * values.shape[2]))
    scores, frequencies, wins, tau = [], [], [], []
    for start in range(0, times, block):
        size = min(block, times - start)
        counts = random.multinomial(n_patients, [1 / n_patients] * n_patients, size).astype(float)
        drawn = scheme(values, weights, patients, counts, alpha)
        drawn = drawn[~np.isnan(drawn).any(axis=1)]  # only patients that tell nothing were drawn
        signs = _signs(drawn)
        scores.append(drawn)
        frequencies.append(_frequencies(signs))
        wins.append((0.5 - signs / 2).sum(axis=0))
        tau.append(kendall_tau(_signs(whole), signs))
    drawn = np.concatenate(scores)
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    every_tau = np.concatenate(tau)
    return Stability(
        low,
        high,
        np.sum(frequencies, axis=0) / len(drawn),
        np.sum(wins, axis=0) / len(drawn),
        every_tau[~np.isnan(every_tau)],
    )


def _signs(scores: Array) -> Array:
    """Sign of first less second (bootstraps, candidates, candidates): -1 where it is better."""
    return np.sign(scores[:, :, None] - scores[:, None, :])


def _frequencies(signs: Array) -> Array:
    """How many times each candidate has each rank; those that tie share the ranks they take."""
    before, ties = (signs > 0).sum(axis=2), (signs == 0).sum(axis=2)
    place = np.arange(signs.shape[1])
    taken = (place >= before[..., None]) & (place < (before + ties)[..., None])
    shares: Array = (taken / ties[..., None]).sum(axis=0)
    return shares


def kendall_tau(first: Array, second: Array) -> Array:
    """Kendall's tau-b from signs of differences (..., K, K); NaN where all of one tie."""
    agree = (first * second).sum(axis=(-2, -1))
    norms = (first**2).sum(axis=(-2, -1)) * (second**2).sum(axis=(-2, -1))
    with np.errstate(invalid="ignore"):
        tau: Array = agree / np.sqrt(norms)
    return tau


def final_ranks(scores: Array) -> Array:
    """Rank of each candidate by its score, along the last axis; ties share the mean."""
    return _ranks_of(scores, axis=-1)
