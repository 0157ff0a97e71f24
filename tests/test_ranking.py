"""The arithmetic of rankings, by hand, by law, and against SciPy and slow loops."""

from itertools import permutations, product
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import kendalltau, rankdata, wilcoxon

from mist_core import config
from mist_core.ranking import (
    SCHEMES,
    aggregate_then_rank,
    bootstrap,
    differences,
    effect_size,
    holm,
    kendall_tau,
    numbered,
    p_values,
    patient_ranks,
    patient_values,
    rank_by_tests,
    rank_then_aggregate,
    settled,
    signed_rank,
)

NAN, INF = np.nan, np.inf
schemes = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
few = settings(max_examples=25)
# Scores (candidates, cases, columns) of few values, so that ties are common.
tables = arrays(
    float,
    st.tuples(st.integers(1, 4), st.integers(2, 7), st.integers(1, 3)),
    elements=st.sampled_from([0.0, 0.25, 0.5, 1.0, 3.0]),
)
lists = st.lists(
    st.sampled_from([-2.0, -1.5, -1.0, 0.0, 0.5, 1.0, 1.5, 3.0]), min_size=1, max_size=9
)


def alone(values):
    """Every case is a patient of its own, every column counts alike."""
    return values, np.ones(values.shape[2]), np.arange(values.shape[1])


def random_scores(k, n, m, seed=0):
    better = np.linspace(0, 0.7, k)[:, None, None]
    return np.random.default_rng(seed).normal(size=(k, n, m)) + better


def test_the_config_names_the_schemes():
    assert get_args(config.Scheme) == tuple(SCHEMES)


# Three candidates, three cases, two columns, lowest best.
#          column 0   ranks        column 1   ranks
# case     a b c      a b c        a b c      a b c
# 0        1 2 9      1 2 3        5 5 6      1.5 1.5 3
# 1        1 2 9      1 2 3        4 1 2      3 1 2
# 2        8 2 1      3 2 1        7 7 7      2 2 2
BY_HAND = np.array(
    [[[1, 5], [1, 4], [8, 7]], [[2, 5], [2, 1], [2, 7]], [[9, 6], [9, 2], [1, 7]]], float
)


def test_rank_then_aggregate_by_hand():
    means = [
        (1 + 1 + 3 + 1.5 + 3 + 2) / 6,
        (2 + 2 + 2 + 1.5 + 1 + 2) / 6,
        (3 + 3 + 1 + 3 + 2 + 2) / 6,
    ]
    assert rank_then_aggregate(*alone(BY_HAND))[0] == pytest.approx(means)


def test_aggregate_then_rank_by_hand():
    # Column 0: means 10/3, 2, 19/3; column 1: 16/3, 13/3, 5.
    assert aggregate_then_rank(*alone(BY_HAND))[0].tolist() == [(2 + 3) / 2, 1, (3 + 2) / 2]


def test_ranks_by_tests_by_hand():
    # Six patients: a is better than b and c in all of them, p = 1/64, b and c take turns. Six
    # ordered pairs: Holm makes 6/64 of the least, then 5/64.
    column = np.array([[1.0] * 6, [2, 3, 2.2, 3.5, 2.4, 3.9], [3, 2, 3.1, 2.3, 3.2, 2.5]])
    values = column[..., None]
    assert rank_by_tests(*alone(values), alpha=6 / 64)[0].tolist() == [1, 2.5, 2.5]
    assert rank_by_tests(*alone(values), alpha=0.05)[0].tolist() == [2, 2, 2]


def test_a_patient_counts_once_however_many_cases_there_are():
    values = np.array([[[1], [1], [1], [5]], [[2], [2], [2], [1]]], float)
    patients = numbered(["x1", "x2", "x3", "y"], {"x1": "x", "x2": "x", "x3": "x"})
    assert patients.tolist() == [0, 0, 0, 1]
    given = values, np.ones(1), patients
    assert patient_ranks(*given).tolist() == [[1, 2], [2, 1]]
    assert rank_then_aggregate(*given)[0].tolist() == [1.5, 1.5]
    assert patient_values(values, patients)[..., 0].tolist() == [[1, 5], [2, 1]]
    assert aggregate_then_rank(*given)[0].tolist() == [2, 1]  # means 3 and 1.5


def test_a_case_may_have_the_name_of_another_ones_patient():
    assert numbered(["a", "b", "c"], {"a": "c", "b": "c"}).tolist() == [0, 0, 1]


def test_missing_scores():
    values = np.array([[[1, NAN], [NAN, 3]], [[4, NAN], [2, INF]]])
    worst = settled(values, "worst")
    assert worst[0, 1, 0] == pytest.approx(4, abs=1e-4)
    assert worst[0, 1, 0] > 4
    assert np.isnan(worst[:, 0, 1]).all()
    skipped = settled(values, "skip")
    np.testing.assert_array_equal(skipped, [[[1, NAN], [NAN, 3]], [[4, NAN], [NAN, INF]]])
    assert np.isnan(values[0, 1, 0])  # what was given is as it was


def test_a_missing_score_is_last_where_it_is_all_there_is_beside_zeros():
    assert rank_then_aggregate(*alone(settled(np.array([[[0.0]], [[NAN]]]), "worst")))[
        0
    ].tolist() == [1, 2]


@given(tables)
def test_ranks_of_one_case_have_the_mean_of_their_number(values):
    ranks = patient_ranks(*alone(values))
    assert ranks.mean(axis=0) == pytest.approx((len(values) + 1) / 2)


@schemes
@few
@given(values=tables, random=st.randoms(use_true_random=False))
def test_order_is_of_no_account(scheme, values, random):
    k, n, m = (random.sample(range(size), size) for size in values.shape)
    mixed = values[k][:, n][..., m]
    assert scheme(*alone(mixed))[0] == pytest.approx(scheme(*alone(values))[0][k])


@schemes
@few
@given(values=tables)
def test_scores_of_all_candidates_have_the_mean_of_ranks(scheme, values):
    assert scheme(*alone(values))[0].mean() == pytest.approx((len(values) + 1) / 2)


@schemes
@few
@given(values=tables, factor=st.sampled_from([1e-3, 0.1, 3, 1e6]))
def test_the_scale_of_weights_and_of_columns_is_of_no_account(scheme, values, factor):
    weights, patients = np.arange(1.0, values.shape[2] + 1), np.arange(values.shape[1])
    expected = scheme(values, weights, patients)
    assert scheme(values, weights * factor, patients) == pytest.approx(expected)
    assert scheme(values * factor, weights, patients) == pytest.approx(expected)


@schemes
@few
@given(values=tables)
def test_a_column_of_double_weight_counts_as_two(scheme, values):
    weights, patients = np.ones(values.shape[2]), np.arange(values.shape[1])
    weights[0] = 2
    twice = np.concatenate([values, values[..., :1]], axis=2)
    assert scheme(values, weights, patients) == pytest.approx(scheme(*alone(twice)))


@schemes
@few
@given(values=tables)
def test_a_copy_of_a_candidate_ties_with_it(scheme, values):
    values = np.concatenate([values, values[:1]])
    scores = scheme(*alone(values))[0]
    assert scores[0] == scores[-1]
    found = bootstrap(scheme, *alone(values), times=20)
    assert found.wins[0, -1] == 0.5
    np.testing.assert_array_equal(found.frequencies[0], found.frequencies[-1])


@given(tables)
def test_a_monotone_change_of_a_column_changes_no_ranks_in_cases(values):
    changed = values.copy()
    changed[..., 0] = np.exp(changed[..., 0])
    np.testing.assert_array_equal(
        rank_then_aggregate(*alone(values)), rank_then_aggregate(*alone(changed))
    )


def test_means_that_differ_by_rounding_tie():
    a, b = [0.1, 0.2, 0.3, 0.4, 0.7], [0.7, 0.4, 0.3, 0.2, 0.1]
    assert sum(a) != sum(b)
    assert aggregate_then_rank(*alone(np.array([a, b])[..., None]))[0].tolist() == [1.5, 1.5]


def test_an_infinite_distance_makes_a_mean_infinite():
    values = np.array([[1, INF], [5, 5], [INF, 2]])[..., None]
    assert aggregate_then_rank(*alone(values))[0].tolist() == [2.5, 1, 2.5]
    counts = np.array([[2.0, 0], [0, 2]])
    assert aggregate_then_rank(*alone(values), counts).tolist() == [[1, 2, 3], [3, 2, 1]]


# --- tests -------------------------------------------------------------------------------------


@given(lists)
def test_signed_rank_is_that_of_all_signs(numbers):
    """The definition: the share of ways to give signs with a sum of ranks as low, or lower."""
    d = np.array([x for x in numbers if x])
    if d.size == 0:
        assert signed_rank(np.array(numbers)) == (1, 1)
        return
    ranks = rankdata(np.abs(d))
    observed = ranks[d > 0].sum()
    sums = np.array([ranks @ signs for signs in product([0, 1], repeat=d.size)])
    less, greater = signed_rank(np.array(numbers))
    assert less == pytest.approx((sums <= observed).mean())
    assert greater == pytest.approx((sums >= observed).mean())


@pytest.mark.parametrize("n", [1, 5, 20, 50])
def test_signed_rank_without_ties_is_that_of_scipy(n):
    d = np.random.default_rng(n).normal(0.2, 1, n)
    for p, way in zip(signed_rank(d), ("less", "greater"), strict=True):
        assert p == pytest.approx(wilcoxon(d, alternative=way, method="exact").pvalue)


@pytest.mark.parametrize("seed", range(4))
def test_signed_rank_of_many_with_ties_is_that_of_scipy(seed):
    d = np.round(np.random.default_rng(seed).normal(0.2, 1, 90), 1)
    assert 0 in d
    for p, way in zip(signed_rank(d), ("less", "greater"), strict=True):
        expected = wilcoxon(d, alternative=way, method="asymptotic", correction=False).pvalue
        assert p == pytest.approx(expected)


def test_signed_rank_of_drawn_differences_is_that_of_a_longer_list():
    random = np.random.default_rng(0)
    d = np.round(random.normal(size=20), 1)
    counts = random.integers(0, 4, (10, 20))
    less, _ = signed_rank(d, counts.astype(float))
    for row, p in zip(counts, less, strict=True):
        drawn = np.repeat(d, row)
        assert p == pytest.approx(wilcoxon(drawn, alternative="less", method="asymptotic").pvalue)


def test_differences_of_equal_infinities_are_none():
    first, second = np.array([INF, INF, 1, 0.3]), np.array([INF, 1, INF, 0.1 + 0.2])
    assert differences(first, second).tolist() == [0, INF, -INF, 0]
    one, other = differences(np.array([0.3, 0.2]), np.array([0.1 + 0.1, 0.1]))
    assert one == other  # but 0.3 - 0.2 < 0.2 - 0.1
    assert 0.3 - 0.2 < 0.2 - 0.1


def test_too_few_patients_are_not_tested():
    assert np.isnan(p_values(np.array([[1.0], [2.0]]))).all()


def test_holm_by_hand():
    # 0.01 x 6, 0.02 x 5, 0.03 x 4 = 0.12, 0.04 x 3 = 0.12, 0.3 x 2, 0.9 x 1, none less than before.
    p = np.full((3, 3), NAN)
    p[~np.eye(3, dtype=bool)] = [0.9, 0.02, 0.01, 0.04, 0.3, 0.03]
    assert holm(p)[~np.eye(3, dtype=bool)] == pytest.approx([0.9, 0.1, 0.06, 0.12, 0.6, 0.12])
    p[0, 1] = 0.015  # now 0.015 x 5, 0.02 x 4, 0.03 x 3, 0.04 x 2 = 0.08 < 0.09, 0.3 x 1
    assert holm(p)[~np.eye(3, dtype=bool)] == pytest.approx([0.075, 0.08, 0.06, 0.09, 0.3, 0.09])


@given(arrays(float, (2, 4, 4), elements=st.floats(0, 1)))
def test_holm_keeps_the_order_and_never_lowers_p(p):
    pairs = ~np.eye(4, dtype=bool)
    for raw, corrected in zip(p, holm(p), strict=True):
        assert (corrected[pairs] >= raw[pairs]).all()
        order = np.argsort(raw[pairs], kind="stable")
        assert (np.diff(corrected[pairs][order]) >= 0).all()
        assert np.isnan(np.diag(corrected)).all()


def test_effect_size_by_hand():
    assert effect_size(np.array([-1.0, -2, -3])) == 1
    assert effect_size(np.array([-1.0, 2, 0])) == pytest.approx(-1 / 3)  # ranks 1 and 2
    assert effect_size(np.zeros(3)) == 0


# --- bootstrap ---------------------------------------------------------------------------------


def slow_score(name, values, patients, weights, drawn):
    """The score of each candidate, from the definitions, for patients that may come twice."""
    of = [values[:, np.flatnonzero(patients == patient)] for patient in drawn]
    w = weights
    if name == "rank-then-aggregate":
        ranks = [
            [np.average(rankdata(case, axis=0), axis=1, weights=w) for case in np.moveaxis(p, 1, 0)]
            for p in of
        ]
        return np.mean([np.mean(own, axis=0) for own in ranks], axis=0)
    means = np.stack([p.mean(axis=1) for p in of], axis=1)  # candidates, drawn, columns
    if name == "aggregate-then-rank":
        ranks = rankdata(np.round(means.mean(axis=1), 9), axis=0)
    else:
        ranks = np.stack([rankdata(-slow_wins(means[..., m])) for m in range(len(w))], axis=1)
    return np.average(ranks, axis=1, weights=w)


def slow_wins(scores):
    pairs = list(permutations(range(len(scores)), 2))
    p = {}
    for i, j in pairs:
        d = np.round(scores[i] - scores[j], 12)
        p[i, j] = 1.0
        if d.any():
            p[i, j] = wilcoxon(d, alternative="less", method="asymptotic", correction=False).pvalue
    wins, worst = np.zeros(len(scores)), 0.0
    for number, pair in enumerate(sorted(pairs, key=lambda pair: p[pair])):
        worst = max(worst, p[pair] * (len(pairs) - number))
        wins[pair[0]] += worst <= 0.05
    return wins


@pytest.mark.parametrize("name", SCHEMES)
def test_bootstraps_are_those_of_a_slow_loop(name):
    values = np.round(random_scores(3, 14, 2, seed=3), 1)
    patients = np.array([0, 0, 1, 2, 3, 3, 3, 4, 5, 6, 7, 8, 9, 9])
    weights, times = np.array([2.0, 1.0]), 60
    found = bootstrap(SCHEMES[name], values, weights, patients, times, seed=5)
    counts = np.random.default_rng(5).multinomial(10, [0.1] * 10, times)
    drawn = [np.repeat(range(10), row) for row in counts]
    scores = np.array([slow_score(name, values, patients, weights, each) for each in drawn])
    assert found.low == pytest.approx(np.percentile(scores, 2.5, axis=0))
    assert found.high == pytest.approx(np.percentile(scores, 97.5, axis=0))
    before = np.round(scores[:, :, None] - scores[:, None], 9)
    assert found.wins == pytest.approx(((before < 0) + (before == 0) / 2).mean(axis=0))
    shares = np.zeros((3, 3))
    for one in np.round(scores, 9):
        for i in range(3):
            places = [int((one < one[i]).sum()) + n for n in range(int((one == one[i]).sum()))]
            shares[i, places] += 1 / len(places) / times
    assert found.frequencies == pytest.approx(shares)
    whole = SCHEMES[name](values, weights, patients)[0]
    tau = np.array([kendalltau(whole, np.round(one, 9)).statistic for one in scores])
    assert found.tau == pytest.approx(tau[~np.isnan(tau)])


@schemes
def test_patients_drawn_once_each_are_the_whole(scheme):
    values = random_scores(4, 60, 3)  # more than are tested exactly
    counts = np.ones((1, 60))
    assert scheme(*alone(values), counts) == pytest.approx(scheme(*alone(values)))


@schemes
@pytest.mark.parametrize("block", [1, 400])
def test_bootstraps_follow_from_their_seed_and_not_from_the_size_of_blocks(
    scheme, block, monkeypatch
):
    values = random_scores(3, 8, 2)
    whole = bootstrap(scheme, *alone(values), times=30, seed=1)
    monkeypatch.setattr("mist_core.ranking.BLOCK", block)
    again = bootstrap(scheme, *alone(values), times=30, seed=1)
    for name in ("low", "high", "frequencies", "wins", "tau"):
        np.testing.assert_allclose(getattr(again, name), getattr(whole, name))


@few
@given(tables)
def test_shares_of_bootstraps_add_up(values):
    found = bootstrap(rank_then_aggregate, *alone(values), times=10)
    assert found.frequencies.sum(axis=0) == pytest.approx(1)
    assert found.frequencies.sum(axis=1) == pytest.approx(1)
    assert found.wins + found.wins.T == pytest.approx(1)


def test_the_interval_holds_the_mean_of_the_patients_as_often_as_it_says():
    """Of a candidate that is first in 70 % of patients, its mean rank is 1.3."""
    random, held = np.random.default_rng(0), 0
    for seed in range(200):
        first = (random.random(60) < 0.7).astype(float)
        values = np.stack([1 - first, first])[..., None]
        found = bootstrap(rank_then_aggregate, *alone(values), times=200, seed=seed)
        held += found.low[0] <= 1.3 <= found.high[0]
    assert 0.9 <= held / 200 <= 0.99


@schemes
def test_patients_that_tell_nothing_of_a_column_may_be_drawn_alone(scheme):
    values = random_scores(3, 4, 2)
    values[:, 1:, 1] = NAN  # one patient has the second column
    found = bootstrap(scheme, *alone(values), times=50)
    assert np.isfinite(found.low).all()
    assert found.frequencies.sum(axis=1) == pytest.approx(1)


@given(arrays(float, (2, 5), elements=st.sampled_from([1.0, 1.5, 2.0, 3.0])))
def test_kendalls_tau_is_that_of_scipy(scores):
    signs = np.sign(scores[:, :, None] - scores[:, None])
    expected = kendalltau(*scores).statistic
    assert kendall_tau(signs[0], signs[1]) == pytest.approx(expected, nan_ok=True)
