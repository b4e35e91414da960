"Transferability scores against oracles that are computed in another way."
import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.covariance import LedoitWolf
from sklearn.datasets import load_iris

from tl_nb.transferability import ScoreError, h_score, leep, logme, nce, score_stages


@pytest.fixture(scope="module")
def iris():
    "As in seaborn's copy, which follows Fisher (1936); scikit-learn's differs from it in two rows."
    X, y = load_iris(return_X_y=True)
    return X.copy(), y


def log_evidence(X, y, prior, noise):
    "Of y ~ N(0, prior · XXᵀ + noise · 1), by Cholesky, per item."
    C = prior * X @ X.T + noise * np.eye(len(X))
    L = np.linalg.cholesky(C)
    half = np.linalg.solve(L, y)
    return (-0.5 * half @ half - np.log(np.diag(L)).sum() - 0.5 * len(y) * np.log(2 * np.pi)) / len(y)


def best_evidence(X, y):
    "The maximum over both sizes, from several starts, by a search that knows no formula."
    def loss(v):
        try: return -log_evidence(X, y, *np.exp(v))
        except np.linalg.LinAlgError: return 1e3
    scale = np.log(np.mean(X ** 2) * X.shape[1])
    starts = [(a - scale, b) for a in (-4.0, -1.0, 2.0) for b in (-4.0, -1.0)]
    return max(-minimize(loss, s, method="Nelder-Mead", options=dict(xatol=1e-5, fatol=1e-9, maxiter=2000)).fun for s in starts)


def test_iris(iris):
    assert logme(*iris) == pytest.approx(-0.16006, abs=1e-4)
    assert h_score(*iris) == pytest.approx(1.17784, abs=1e-4)
    assert h_score(*iris, shrink=False) == pytest.approx(1.19190, abs=1e-4)


@pytest.mark.parametrize("d", [3, 30, 60, 90, 200, 1000])
@pytest.mark.parametrize("signal", [0.0, 1.0])
def test_logme_is_the_evidence_from_wide_to_narrow(d, signal):
    "D/N from 0.03 to 10."
    rng = np.random.default_rng(d)
    n = 100
    X = rng.normal(size=(n, d)) * rng.uniform(0.2, 2, d)
    y = ((signal * X[:, 0] + rng.normal(size=n)) > 0).astype(int)
    expected = np.mean([best_evidence(X, (y == c).astype(float)) for c in (0, 1)])
    assert logme(X, y) == pytest.approx(expected, abs=1e-3)


def test_logme_of_numbers_and_scale():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 6))
    y = X @ rng.normal(size=6) + rng.normal(size=80)
    assert logme(X, y) == pytest.approx(best_evidence(X, y), abs=1e-3)
    assert logme(1e3 * X, y) == pytest.approx(logme(X, y), abs=1e-6)  # the prior adapts
    assert logme(X, 10 * y) == pytest.approx(logme(X, y) - np.log(10), abs=1e-6)  # a density
    assert logme(X, np.stack([y, -y], 1)) == pytest.approx(logme(X, y), abs=1e-9)
    Q = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    assert logme(X @ Q, y) == pytest.approx(logme(X, y), abs=1e-8)


@pytest.mark.parametrize("score", [logme, h_score])
@pytest.mark.parametrize("width", [64, 512, 2048])
def test_noise_of_any_width_never_above_informative_features(score, width):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        y = np.arange(60) % 3
        informative = np.eye(3)[y] @ rng.normal(size=(3, 32)) + rng.normal(size=(60, 32))
        assert score(informative, y) > score(rng.normal(size=(60, width)), y), seed


def test_the_plain_h_score_is_fooled_which_is_why_it_is_not_the_default():
    rng = np.random.default_rng(0)
    assert h_score(rng.normal(size=(60, 100)), np.arange(60) % 3, shrink=False) == pytest.approx(2.0, abs=1e-6)


@pytest.mark.parametrize("n,d", [(90, 5), (40, 200)])
def test_h_score_by_matrices(n, d):
    rng = np.random.default_rng(1)
    y = np.sort(rng.integers(0, 3, n))
    X = np.eye(3)[y] @ rng.normal(size=(3, d)) + rng.normal(size=(n, d))
    lw = LedoitWolf().fit(X)
    means = np.stack([(X - X.mean(0))[y == c].mean(0) for c in range(3)])[y]
    expected = np.trace(np.linalg.solve(lw.covariance_, (1 - lw.shrinkage_) * np.cov(means, rowvar=False)))
    assert h_score(X, y) == pytest.approx(expected, rel=1e-6)


def slow_leep(P, y):
    n, K, Z = len(y), len(np.unique(y)), P.shape[1]
    joint = np.array([[sum(P[i, z] for i in range(n) if y[i] == k) / n for z in range(Z)] for k in range(K)])
    seen = [z for z in range(Z) if joint[:, z].sum() > 0]
    return np.mean([np.log(sum(P[i, z] * joint[y[i], z] / joint[:, z].sum() for z in seen)) for i in range(n)])


def test_leep_and_nce_by_loops():
    rng = np.random.default_rng(0)
    P, y = rng.dirichlet(np.ones(4), 50), rng.integers(0, 3, 50)
    assert leep(P, y) == pytest.approx(slow_leep(P, y), abs=1e-12)
    z = P.argmax(1)
    by_hand = sum(np.mean((z == a) & (y == b)) * np.log(np.mean((z == a) & (y == b)) / np.mean(z == a))
                  for a in set(z) for b in set(y) if np.mean((z == a) & (y == b)) > 0)
    assert nce(z, y) == pytest.approx(by_hand, abs=1e-12)


def test_leep_and_nce_at_their_ends():
    y = np.arange(60) % 3
    assert leep(np.eye(3)[y], y) == pytest.approx(0, abs=1e-12) and nce(y, y) == pytest.approx(0, abs=1e-12)
    assert leep(np.full((60, 3), 1 / 3), y) == pytest.approx(-np.log(3)) and nce(np.zeros(60), y) == pytest.approx(-np.log(3))
    never = np.hstack([np.eye(3)[y], np.zeros((60, 2))])
    assert leep(never, y) == pytest.approx(0, abs=1e-12)
    assert nce(["a", "b", "c"] * 20, ["x", "y", "z"] * 20) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("X", [np.eye(4)[np.arange(40) % 4], np.ones((40, 3)), np.repeat(np.eye(2), 20, 0)[:, :1],
                               np.hstack([np.ones((40, 1)), np.zeros((40, 500))])])
@pytest.mark.parametrize("score", [logme, h_score])
def test_separable_and_constant_features_are_finite(score, X):
    y = np.arange(40) % 2
    assert np.isfinite(score(X, y))
    if np.ptp(X) and X.shape[1] == 4: assert score(X, y) > score(np.random.default_rng(0).normal(size=(40, 4)), y)


def test_h_score_of_constant_features_is_nothing(): assert h_score(np.ones((10, 3)), np.arange(10) % 2) == 0


def test_one_item_a_class_and_large_offsets():
    rng = np.random.default_rng(0)
    assert np.isfinite([logme(rng.normal(size=(3, 5)), [0, 1, 2]), h_score(rng.normal(size=(3, 5)), [0, 1, 2])]).all()
    X, y = rng.normal(size=(50, 4)), np.arange(50) % 2
    assert h_score(X + 1e6, y) == pytest.approx(h_score(X, y), rel=1e-4)


@pytest.mark.parametrize("score", [logme, h_score])
def test_bad_input(score):
    X, y = np.random.default_rng(0).normal(size=(10, 3)), np.arange(10) % 2
    with pytest.raises(ScoreError, match="label 0"): score(X, np.zeros(10, int))
    with pytest.raises(ScoreError, match="expected are"): score(X, y[:9])
    with pytest.raises(ScoreError, match="expected are"): score(X[0], y)
    with pytest.raises(ScoreError, match="expected are"): score(X[:0], y[:0])
    bad = X.copy(); bad[4, 1] = np.nan
    with pytest.raises(ScoreError, match="row 4"): score(bad, y)
    with pytest.raises(ScoreError): score(X, np.where(y, np.nan, 1.0))
    with pytest.raises(ScoreError, match="zero"): logme(np.zeros((10, 3)), y)


def test_bad_probabilities():
    y = np.arange(10) % 2
    with pytest.raises(ScoreError, match="softmax"): leep(np.ones((10, 2)), y)
    with pytest.raises(ScoreError, match="softmax"): leep(np.tile([1.5, -0.5], (10, 1)), y)
    with pytest.raises(ScoreError, match="same length"): nce([0, 1], y)


def test_all_stages():
    X, y = np.random.default_rng(0).normal(size=(30, 4)), np.arange(30) % 2
    table = score_stages({"a": X, "b": X[:, :2]}, y)
    assert list(table.columns) == ["logme", "h_score"] and list(table.index) == ["a", "b"]
    assert table.loc["b", "logme"] == logme(X[:, :2], y)
