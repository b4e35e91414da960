"Distances of samples against oracles that are computed in another way, their intervals by simulation, and bad input."
import math
import pickle
from itertools import combinations, permutations

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import jensenshannon, pdist
from sklearn.covariance import LedoitWolf

from tl_nb.evaluate import Interval
from tl_nb.ranking import words
from tl_nb.similarity import Distance, SimilarityError, frechet, js_divergence, mmd, otdd, proxy_a_distance

OF_FEATURES = [mmd, frechet, proxy_a_distance, js_divergence]


def draw(seed, n=60, m=None, d=8, shift=0.5, scale=1.0):
    "Two samples of Gaussians."
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), scale * rng.normal(size=(m or n, d)) + shift * np.eye(d)[0]


def in_groups(seed, shift=1.0, n=30, each=5):
    "Two samples in which the rows of a group are alike, and the groups."
    rng, g = np.random.default_rng(seed), np.repeat(np.arange(n), each)
    one = lambda s: rng.normal(size=(n, 8))[g] + 0.5 * rng.normal(size=(n * each, 8)) + s * np.eye(8)[0]
    return one(0), one(shift), g


def covered(found):
    "In how many simulations the interval holds the mean of the statistic over all of them."
    middle = np.mean(found)
    return sum(f.interval.low <= middle <= f.interval.high for f in found)


# ---- what all have in common

@pytest.mark.parametrize("distance", OF_FEATURES)
def test_a_distance_is_a_number_with_an_interval(distance):
    found = distance(*draw(0))
    assert isinstance(found, float) and isinstance(found.interval, Interval) and found.interval.n == 60
    assert found.interval.low <= found <= found.interval.high and found.interval.mean == found
    assert (found.p is None) == (distance is not mmd)
    again = pickle.loads(pickle.dumps(found))
    assert again == found and again.interval == found.interval and again.p == found.p
    assert repr(distance(*draw(0))) == repr(found) and "[" in repr(found)


@pytest.mark.parametrize("distance", OF_FEATURES)
def test_further_is_more_and_order_does_not_count(distance):
    near, far = distance(*draw(0, 100, shift=0.5)), distance(*draw(0, 100, shift=3.0))
    assert far.interval.low > near.interval.high
    a, b = draw(1, 50, 70)
    assert distance(a, b) == pytest.approx(distance(b, a), abs=1e-6)


@pytest.mark.parametrize("distance", OF_FEATURES)
def test_more_columns_than_rows_and_large_offsets(distance):
    a, b = draw(0, 20, 25, d=100, shift=3)
    found = distance(a, b)
    assert np.isfinite([found, found.interval.low, found.interval.high]).all()
    assert distance(a + 1e5, b + 1e5) == pytest.approx(found, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("distance", OF_FEATURES)
def test_rows_that_are_all_the_same(distance):
    same = np.ones((6, 3))
    assert distance(same, same) == pytest.approx(0, abs=1e-12)
    found = distance(same, same + 1)
    assert 0 < found < np.inf and not math.isnan(found.interval.high)


@pytest.mark.parametrize("distance", OF_FEATURES)
def test_bad_features(distance):
    a, b = draw(0, 10)
    nan = a.copy(); nan[4, 1] = np.nan
    with pytest.raises(SimilarityError, match="a holds numbers that are not finite, first in row 4"): distance(nan, b)
    with pytest.raises(SimilarityError, match="b holds"): distance(a, np.where(np.isnan(nan), np.inf, nan))
    with pytest.raises(SimilarityError, match="a has 8 columns and b has 7"): distance(a, b[:, :7])
    with pytest.raises(SimilarityError, match="a has a single row"): distance(a[:1], b)
    with pytest.raises(SimilarityError, match="b has the shape"): distance(a, b[:0])
    with pytest.raises(SimilarityError, match="shape"): distance(a, b[0])
    with pytest.raises(SimilarityError, match="groups_b"): distance(a, b, groups_b=[1, 2])
    with pytest.raises(SimilarityError, match="groups_a: some are missing"): distance(a, b, groups_a=[None] * 5 + [1] * 5)
    with pytest.raises(SimilarityError, match="a is no array of numbers|other is not"): distance(np.full((3, 8), "x"), b)
    with pytest.raises(SimilarityError, match="one group"): distance(a, b, groups_a=["x"] * 10)


def test_values_without_interval_say_so(): assert repr(Distance(0.25)) == "0.25" and Distance(0.25).interval is None


# ---- MMD

def slow_mmd(a, b, width, groups_a=None, groups_b=None):
    "The U-statistic by loops, over pairs of different groups."
    def k(x, y): return np.mean([math.exp(-sum((p - q) ** 2 for p, q in zip(x, y)) / (2 * w * w * width ** 2)) for w in (2, 2 ** .5, 1, 2 ** -.5, .5)])
    def within(X, g): return np.mean([k(X[i], X[j]) for i in range(len(X)) for j in range(len(X)) if g[i] != g[j]])
    ga, gb = (range(len(X)) if g is None else g for X, g in ((a, groups_a), (b, groups_b)))
    return within(a, ga) + within(b, gb) - 2 * np.mean([k(x, y) for x in a for y in b])


def test_mmd_is_the_u_statistic():
    a, b = draw(0, 14, 9, d=3)
    median = np.median(pdist(np.concatenate([a, b])))
    assert mmd(a, b) == pytest.approx(slow_mmd(a, b, np.sqrt(np.median(pdist(np.concatenate([a, b]), "sqeuclidean")))), abs=1e-12)
    assert mmd(a, b) == pytest.approx(mmd(a, b, width=median), abs=1e-3)
    assert mmd(a, b, width=0.7) == pytest.approx(slow_mmd(a, b, 0.7), abs=1e-12)
    g, h = np.arange(14) // 3, ["x", "y", "z"] * 3
    assert mmd(a, b, width=1.0, groups_a=g, groups_b=h) == pytest.approx(slow_mmd(a, b, 1.0, g, h), abs=1e-12)


def test_the_permutation_test_by_all_permutations():
    a, b = draw(3, 5, 4, d=2, shift=1.5)
    Z, width = np.concatenate([a, b]), 1.0
    splits = [mmd(Z[list(one)], Z[[i for i in range(9) if i not in one]], width=width, permutations=0) for one in combinations(range(9), 5)]
    exact = np.mean(np.array(splits) >= splits[0] - 1e-12)
    assert mmd(a, b, width=width, permutations=4000).p == pytest.approx(exact, abs=0.03)


def test_p_is_uniform_without_a_shift_and_small_with_one():
    p = np.array([mmd(*draw(s, 30, shift=0), permutations=99).p for s in range(300)])
    assert 4 <= (p <= 0.05).sum() <= 28 and 120 <= (p <= 0.5).sum() <= 180 and p.min() >= 0.01
    assert max(mmd(*draw(s, 60, shift=1.5), permutations=99).p for s in range(10)) == 0.01
    assert mmd(*draw(0), permutations=0).p is None


def test_groups_keep_p_honest():
    p, naive = zip(*[(mmd(a, b, permutations=99, groups_a=g, groups_b=g).p, mmd(a, b, permutations=99).p)
                     for a, b, g in (in_groups(s, shift=0, n=12) for s in range(100))])
    assert np.mean(np.array(p) <= 0.05) <= 0.12 and np.mean(np.array(naive) <= 0.05) > 0.3


def test_mmd_is_unbiased():
    found = [mmd(*draw(s, 20, shift=0), permutations=0, width=4.0) for s in range(300)]
    assert min(found) < 0 and abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(300)


@pytest.mark.parametrize("shift", [0.3, 1.0])
def test_the_interval_of_mmd_covers(shift):
    assert 185 <= covered([mmd(*draw(s, 80, 50, shift=shift), width=4.0, permutations=0) for s in range(200)]) <= 200


def test_the_interval_of_mmd_covers_with_groups():
    found = [mmd(a, b, width=4.0, permutations=0, groups_a=g, groups_b=g) for a, b, g in map(in_groups, range(200))]
    plain = [mmd(a, b, width=4.0, permutations=0) for a, b, g in map(in_groups, range(200))]
    assert covered(found) >= 183 and covered(plain) < 170


def test_bad_settings_of_mmd():
    for bad in (0, -1, float("nan")):
        with pytest.raises(SimilarityError, match="width"): mmd(*draw(0), width=bad)
    for bad in (-1, 2.5, "many"):
        with pytest.raises(SimilarityError, match="permutations"): mmd(*draw(0), permutations=bad)


# ---- Fréchet

def with_moments(mean, root, n=40, seed=0):
    "Rows whose sample mean and covariance are exactly mean and root.T @ root."
    Z = np.random.default_rng(seed).normal(size=(n, len(mean)))
    Z = np.linalg.qr(Z - Z.mean(0))[0]
    return np.sqrt(n - 1) * Z @ root + mean


def test_frechet_is_the_closed_form():
    rng = np.random.default_rng(0)
    s, t, shift = rng.uniform(0.5, 2, 5), rng.uniform(0.5, 2, 5), rng.normal(size=5)
    found = frechet(with_moments(np.zeros(5), np.diag(s)), with_moments(shift, np.diag(t), 60))
    assert found == pytest.approx(shift @ shift + ((s - t) ** 2).sum(), abs=1e-10)
    Q = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    a, b = draw(0, 40, 30, d=5)
    assert frechet(a @ Q, b @ Q) == pytest.approx(frechet(a, b), abs=1e-10) and frechet(3 * a, 3 * b) == pytest.approx(9 * frechet(a, b))


def test_frechet_by_square_roots_of_matrices():
    a, b = draw(0, 60, 50, d=6, scale=1.7)
    S, T = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(S + T) - 2 * np.trace(sqrtm(S @ T).real)
    assert frechet(a, b) == pytest.approx(expected, abs=1e-8)


def test_frechet_with_fewer_rows_than_columns():
    a, b = draw(0, 10, 12, d=40)
    S, T = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    w, V = np.linalg.eigh(S)
    half = (V * np.sqrt(np.maximum(w, 0))) @ V.T
    roots = np.sqrt(np.maximum(np.linalg.eigvalsh(half @ T @ half), 0)).sum()
    assert frechet(a, b) == pytest.approx(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(S + T) - 2 * roots, abs=1e-5)
    assert frechet(a, a) == pytest.approx(0, abs=1e-10)


def test_frechet_is_biased_as_it_says():
    small, large = (np.mean([frechet(*draw(s, n, shift=0)) for s in range(30)]) for n in (20, 200))
    assert small > 5 * large > 0


def slow_variance(distance, a, b):
    "The jackknife: every row left out in turn."
    out = lambda X, i: np.delete(X, i, 0)
    parts = [np.array([distance(out(a, i), b) for i in range(len(a))]), np.array([distance(a, out(b, i)) for i in range(len(b))])]
    return sum((len(v) - 1) / len(v) * ((v - v.mean()) ** 2).sum() for v in parts)


@pytest.mark.parametrize("distance", [frechet, lambda a, b: mmd(a, b, width=3.0, permutations=0)])
def test_the_influences_agree_with_leaving_out(distance):
    a, b = draw(0, 80, 60, d=3, shift=1.5, scale=1.5)
    i = distance(a, b).interval
    from scipy.stats import t
    assert (i.high - i.mean) / t.ppf(0.975, 59) == pytest.approx(np.sqrt(slow_variance(distance, a, b)), rel=0.06)


@pytest.mark.parametrize("n,d,scale", [(150, 8, 1.2), (60, 150, 1.5)])
def test_the_interval_of_frechet_covers(n, d, scale):
    assert 182 <= covered([frechet(*draw(s, n, d=d, shift=1.0, scale=scale)) for s in range(200)]) <= 200


# ---- proxy A-distance

def test_proxy_a_distance_at_its_ends():
    a, b = draw(0, 40)
    assert abs(proxy_a_distance(a, a)) < 1e-9 and js_divergence(a, a) < 1e-9, "a copy of a row is in the same fold"
    same = [proxy_a_distance(*draw(s, 100, shift=0)) for s in range(10)]
    assert abs(np.mean(same)) < 0.15 and sum(f.interval.excludes(0) for f in same) <= 2
    assert proxy_a_distance(*draw(0, 60, shift=12)) == 2
    assert abs(proxy_a_distance(*draw(0, 40, d=400, shift=0))) < 0.5, "separable when it is trained, but not when it is tested"


def test_proxy_a_distance_is_near_what_the_best_classifier_gives():
    a, b = draw(0, 2000, shift=2.0)
    assert proxy_a_distance(a, b) == pytest.approx(2 * (2 * 0.8413 - 1), abs=0.08)  # the error of the best one is Φ(-1)
    assert proxy_a_distance(a, b[:400]) == pytest.approx(proxy_a_distance(a, b), abs=0.15), "sizes do not count"


def test_groups_stay_in_one_fold():
    a, b, g = in_groups(0, shift=0, n=20, each=10)
    assert proxy_a_distance(a, b) > 0.8, "it knows the documents again"
    assert proxy_a_distance(a, b, groups_a=g, groups_b=g) < 0.7
    assert js_divergence(a, b, groups_a=g, groups_b=g) < js_divergence(a, b)


def test_the_interval_of_proxy_a_distance_covers():
    assert 85 <= covered([proxy_a_distance(*draw(s, 60, d=4, shift=1.0), seed=0) for s in range(100)]) <= 100


# ---- Jensen-Shannon

def test_js_of_histograms_is_scipys():
    rng = np.random.default_rng(0)
    for a, b in [(rng.integers(0, 9, 20), rng.integers(0, 9, 20)), (rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(6))), ([1, 0, 3], [0, 5, 0])]:
        assert js_divergence(a, b) == pytest.approx(jensenshannon(a, b) ** 2, abs=1e-12) and 0 <= js_divergence(a, b) <= np.log(2)
    assert js_divergence([3, 1], [6, 2]) == 0 and js_divergence([1, 0], [0, 1]) == np.log(2)


def test_counts_have_an_interval_and_probabilities_none():
    p, q = np.array([0.5, 0.3, 0.2, 0.0]), np.array([0.2, 0.2, 0.3, 0.3])
    assert js_divergence(p, q).interval is None and js_divergence(100 * p, 100 * q).interval.n == 100
    rng = np.random.default_rng(0)
    assert 182 <= covered([js_divergence(rng.multinomial(150, p), rng.multinomial(100, q)) for _ in range(200)]) <= 199


TEXTS = ["the engine is loud", "an engine needs oil", "the Oil is hot"], ["a planet is cold", "the planet has a moon", "moon and engine"]


def test_js_of_texts_is_that_of_their_words():
    vocabulary = sorted({w for text in sum(TEXTS, []) for w in words(text)})
    count = lambda texts: [sum(words(t).count(w) for t in texts) for w in vocabulary]
    assert js_divergence(*TEXTS) == pytest.approx(jensenshannon(*map(count, TEXTS)) ** 2, abs=1e-12)
    assert js_divergence(TEXTS[0], TEXTS[0]) == 0 and js_divergence(["a b"] * 2, ["c"] * 3) == pytest.approx(np.log(2))
    assert js_divergence(np.array(TEXTS[0]), tuple(TEXTS[1])) == js_divergence(*TEXTS)


def test_the_interval_of_texts_covers():
    rng = np.random.default_rng(0)
    names, p, q = np.array([f"w{chr(97 + i // 10)}{chr(97 + i % 10)}" for i in range(100)]), rng.dirichlet(np.full(100, 0.3)), rng.dirichlet(np.full(100, 0.3))
    some = lambda p: [" ".join(rng.choice(names, 20, p=rng.dirichlet(30 * p + 1e-9))) for _ in range(50)]
    assert 92 <= covered([js_divergence(some(p), some((p + q) / 2)) for _ in range(100)]) <= 100


def test_js_of_features_is_a_lower_bound_within_its_range():
    grid = np.linspace(-8, 10, 4001)
    p, q = (np.exp(-(grid - m) ** 2 / 2) / np.sqrt(2 * np.pi) for m in (0, 2))
    true = float(np.sum(p * np.log(2 * p / (p + q)) + q * np.log(2 * q / (p + q))) / 2 * (grid[1] - grid[0]))
    found = js_divergence(*draw(0, 2000, d=2, shift=2.0))
    assert found == pytest.approx(true, abs=0.03) and np.mean([js_divergence(*draw(s, 60, d=2, shift=2.0)) for s in range(20)]) < true
    assert 0 <= js_divergence(*draw(0, 40, d=80, shift=0)) < 0.05 and 0.6 < js_divergence(*draw(0, 60, shift=15)) <= np.log(2)


def test_the_interval_of_js_of_features_covers_where_there_is_a_shift_and_many_rows():
    assert 45 <= covered([js_divergence(*draw(s, 200, d=2, shift=1.5), seed=0) for s in range(50)]) <= 50


@pytest.mark.parametrize("a,b,message", [
    ([1, -1], [1, 1], "a is no histogram"), ([1, 1], [0, 0], "b is no histogram"), ([1, np.nan], [1, 1], "a is no"),
    ([1, 2], [1, 2, 3], "2 bins and b has 3"), (["?!", ""], ["a b", "c"], "a: no text has a word"), (["a"], ["b", "c"], "a has 1 texts"),
    (None, [1, 2], "a holds no list"), (5, [1, 2], "a holds no list"), ([], [], "a holds no list"), (np.array([]), np.array([]), "no histogram"),
    ("a text", ["b", "c"], "one text"), (["a", "b"], [1, 2], "the other is not"), (["a", None], ["b", "c"], "number 1 is no text")])
def test_bad_histograms_and_texts(a, b, message):
    with pytest.raises(SimilarityError, match=message): js_divergence(a, b)


def test_histograms_have_no_groups():
    with pytest.raises(SimilarityError, match="groups"): js_divergence([1, 2], [2, 1], groups_a=[0, 1])


# ---- OTDD

def labelled(seed, n=24, shift=1.0, d=4, k=3):
    (a, b), y = draw(seed, n, d=d, shift=shift), np.arange(n) % k
    return a + 2 * np.eye(d)[y], y, b + 2 * np.eye(d)[y], y


def slow_otdd(a, ya, b, yb):
    "By loops, and by assignment: with as many rows in both, an optimal plan is a matching."
    def label(c, e):
        p, q = a[ya == c], b[yb == e]
        S, T = LedoitWolf().fit(p).covariance_, LedoitWolf().fit(q).covariance_
        return ((p.mean(0) - q.mean(0)) ** 2).sum() + np.trace(S) + np.trace(T) - 2 * np.trace(sqrtm(S @ T).real)
    table = {(c, e): label(c, e) for c in set(ya) for e in set(yb)}
    cost = np.array([[((x - z) ** 2).sum() + table[c, e] for z, e in zip(b, yb)] for x, c in zip(a, ya)])
    return np.sqrt(cost[linear_sum_assignment(cost)].mean())


def test_otdd_by_brute_force():
    a, ya, b, yb = labelled(0)
    assert otdd(a, ya, b, yb) == pytest.approx(slow_otdd(a, ya, b, yb), abs=1e-8)
    assert otdd(a, ya, b, yb % 2) == pytest.approx(slow_otdd(a, ya, b, yb % 2), abs=1e-8)


def test_otdd_of_a_data_set_with_itself_is_nothing_and_it_is_symmetric():
    a, ya, b, yb = labelled(1)
    assert otdd(a, ya, a, ya) == pytest.approx(0, abs=1e-6)
    assert otdd(a, ya, b[:20], yb[:20]) == pytest.approx(otdd(b[:20], yb[:20], a, ya), abs=1e-8)
    names = np.array(["x", "y", "z"])
    assert otdd(a, names[ya], b, yb) == pytest.approx(otdd(a, ya, b, yb), abs=1e-12)
    Q = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    assert otdd(a @ Q, ya, b @ Q, yb) == pytest.approx(otdd(a, ya, b, yb), abs=1e-8)


def test_otdd_sees_labels():
    a, ya, _, _ = labelled(2, 60)
    assert otdd(a, ya, a, np.random.default_rng(0).permutation(ya)) > 0.5
    assert otdd(a, ya, a, 2 - ya) == pytest.approx(0, abs=1e-6), "names of classes do not count"


def test_otdd_in_few_axes_and_many_columns():
    a, ya, b, yb = labelled(3, 60, d=120)
    assert otdd(a, ya, b, yb, axes=None) == pytest.approx(otdd(a, ya, b, yb, axes=119), abs=1e-2)
    assert 0 < otdd(a, ya, b, yb, axes=5) < otdd(a, ya, b, yb)
    assert np.isfinite(otdd(np.ones((6, 3)), ya[:6], np.ones((6, 3)), ya[:6]))


@pytest.mark.parametrize("shift,scale", [(0.5, 1.0), (1.0, 2.0)])
def test_the_interval_of_otdd_covers(shift, scale):
    found = []
    for s in range(200):
        a, ya, b, yb = labelled(s, 60, shift)
        found.append(otdd(a, ya, scale * b, yb))
    assert 182 <= covered(found) <= 200


def test_bad_labels():
    a, ya, b, yb = labelled(0)
    with pytest.raises(SimilarityError, match="labels_a: class 9 has one item"): otdd(a, np.r_[9, ya[1:]], b, yb)
    with pytest.raises(SimilarityError, match="labels_b has the shape"): otdd(a, ya, b, yb[:5])
    with pytest.raises(SimilarityError, match="labels_a: some are missing"): otdd(a, [None, *ya[1:]], b, yb)
    with pytest.raises(SimilarityError, match="missing"): otdd(a, np.r_[np.nan, ya[1:]], b, yb)
    with pytest.raises(SimilarityError, match="columns"): otdd(a, ya, b[:, :2], yb)
    with pytest.raises(SimilarityError, match="axes"): otdd(a, ya, b, yb, axes=0)


# ---- the exercise of the lesson

def test_the_check_of_the_exercise_knows_the_famous_mistakes():
    from tl_nb.exercises import check_energy

    far = lambda x, y: np.sqrt(((x[:, None] - y) ** 2).sum(-1))
    within = lambda x: far(x, x).sum() / (len(x) * (len(x) - 1))
    right = lambda a, b: 2 * far(a, b).mean() - within(a) - within(b)
    assert check_energy(right).passed
    assert "itself" in check_energy(lambda a, b: 2 * far(a, b).mean() - far(a, a).mean() - far(b, b).mean()).message
    assert "twice" in check_energy(lambda a, b: far(a, b).mean() - within(a) - within(b)).message
    assert "sign" in check_energy(lambda a, b: -right(a, b)).message
    assert check_energy(lambda a, b: np.sqrt(right(a, b))).passed is False


@pytest.mark.parametrize("scale", [1e200, 1e-200])
@pytest.mark.parametrize("distance", [mmd, frechet, proxy_a_distance, js_divergence])
def test_numbers_whose_squares_cannot_be_held_are_refused(distance, scale):
    rng = np.random.default_rng(0)
    with pytest.raises(SimilarityError, match="constant"): distance(scale * rng.normal(size=(20, 3)), rng.normal(size=(20, 3)))


def test_no_error_among_few_rows_is_no_certainty():
    rng = np.random.default_rng(0)
    found = proxy_a_distance(rng.normal(size=(12, 2)), rng.normal(size=(12, 2)) + 50)
    assert found == 2 and found.interval.high == 2 and found.interval.low == pytest.approx(2 - 2 * 6 / 12)
