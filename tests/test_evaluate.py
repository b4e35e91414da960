"Evaluate: intervals and paired comparisons against SciPy and simulation; refusals."
import numpy as np
import pytest
from scipy import stats

from tl_nb.evaluate import (compare, comparison_table, interval, learning_curve, plot_comparison, plot_learning_curve,
                            repeat, seed_list)
from tl_nb.settings import settings

rng = np.random.default_rng(0)


def test_interval_is_students():
    x = rng.normal(3, 2, 7)
    i = interval(x, level=0.9)
    assert (i.low, i.high) == pytest.approx(stats.t.interval(0.9, 6, x.mean(), stats.sem(x)))
    assert i.n == 7 and i.excludes(-50) and not i.excludes(i.mean)


def test_interval_of_equal_scores_is_a_point():
    i = interval([0.5, 0.5, 0.5])
    assert i.low == i.mean == i.high == 0.5


def test_overlapping_splits_widen_the_interval_as_nadeau_and_bengio_say():
    x = rng.normal(size=10)
    plain, corrected = interval(x), interval(x, test_train_ratio=0.25)
    assert (corrected.high - corrected.low) / (plain.high - plain.low) == pytest.approx(np.sqrt((0.1 + 0.25) / 0.1))


def test_correction_repairs_coverage_over_resplits_of_one_set():
    "Means of a half-sample: the plain interval misses far too often, the corrected one does not."
    plain = corrected = 0
    for _ in range(300):
        data = rng.normal(size=60)
        scores = [rng.permutation(data)[:30].mean() for _ in range(20)]
        plain += not interval(scores).excludes(0)
        corrected += not interval(scores, test_train_ratio=1).excludes(0)
    assert plain / 300 < 0.7 and corrected / 300 > 0.9


def test_compare_is_the_paired_t_test():
    a, b = rng.normal(0.8, 0.1, 9), rng.normal(0.7, 0.1, 9)
    c, oracle = compare(a, b), stats.ttest_rel(a, b)
    assert c.p == pytest.approx(oracle.pvalue)
    assert (c.difference.low, c.difference.high) == pytest.approx(tuple(oracle.confidence_interval()))
    assert c.wins == (a > b).sum() and c.losses == (a < b).sum()


@pytest.mark.parametrize("ratio", [0, 0.3])
def test_p_and_interval_never_disagree(ratio):
    for _ in range(200):
        c = compare(rng.normal(0.5, 1, 6), rng.normal(0, 1, 6), test_train_ratio=ratio)
        assert c.clear == (c.p < 0.05)


def test_compare_edge_cases():
    assert compare([1, 2], [1, 2]).p == 1 and not compare([1, 2], [1, 2]).clear
    assert compare([1, 2], [0, 1]).p == 0 and compare([1, 2], [0, 1], ("x", "y")).__repr__().endswith("x is better")


def test_refusals_name_the_input_and_the_reason():
    with pytest.raises(ValueError, match="at least two scores"): interval([0.5])
    with pytest.raises(ValueError, match=r"values has no finite score at position \[1\]"): interval([0.5, np.nan, 1])
    with pytest.raises(ValueError, match="knn has 3 scores and tree has 2"): compare([1, 2, 3], [1, 2], ("knn", "tree"))
    with pytest.raises(ValueError, match="between 0 and 1"): interval([1, 2], level=95)
    with pytest.raises(ValueError, match="none of the methods: a, b"): comparison_table({"a": [1, 2], "b": [1, 3]}, "c")


def test_repeat_refuses_nothing_to_do_and_methods_that_come_and_go():
    with pytest.raises(ValueError, match="at least one run"): repeat(lambda seed: 1, seeds=0)
    with pytest.raises(ValueError, match="other methods with seed 2"):
        repeat(lambda seed: {"a": 1} if seed == 1 else {"a": 1, "b": 2}, seeds=[1, 2])


def test_repeat_gives_every_method_the_same_seeds_in_order():
    seen = []
    scores = repeat(lambda seed: seen.append(seed) or {"a": seed, "b": -seed}, seeds=[5, 3, 9])
    assert seen == [5, 3, 9] and scores["a"].tolist() == [5, 3, 9] and scores["b"].tolist() == [-5, -3, -9]
    assert repeat(lambda seed: seed, seeds=3).tolist() == [settings.seed + i for i in range(3)] == seed_list(3)


def test_learning_curve_and_table_and_plots():
    curve = learning_curve(lambda n, seed: {"a": n + seed, "b": n}, sizes=[10, 20], seeds=[1, 2])
    assert curve[(curve.n == 20) & (curve.method == "a")].score.tolist() == [21, 22] and len(curve) == 8
    table = comparison_table({"a": [1.0, 2.0], "b": [1.5, 2.0]}, baseline="a")
    assert table.loc["b", "won"] == "1 of 2" and table.loc["b", "vs a"].startswith("+0.250")
    lines = {line.get_label() for line in plot_learning_curve(curve).get_lines()}
    assert {"a", "b"} <= lines
    ax = plot_comparison({"a": [1.0, 2.0], "b": [1.5, 2.0]})
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]
