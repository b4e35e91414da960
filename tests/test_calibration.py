"Temperature, calibration error and reliability, against explicit loops and other optimisers."
import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from tl_nb.calibration import (Calibrated, ProbabilityError, as_labels, as_probabilities, brier, calibrate, classes_of, ece,
                               fit_temperature, plot_reliability, reliability, temper)


def rows(n=300, k=3, seed=0, sharp=3.0):
    "Random probabilities and labels that follow them, the probabilities then sharpened."
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(k), n)
    y = np.array([rng.choice(k, p=row) for row in p])
    q = p ** sharp
    return q / q.sum(1, keepdims=True), y


# --- what counts as probabilities -------------------------------------------------------------------------------------

@pytest.mark.parametrize("bad, says", [
    ([[0.5, np.nan]], "not finite"), ([[0.5, np.inf]], "not finite"), ([[1.2, -0.2]], "negative"), ([[0.5, 0.4]], "sum"),
    ([[2.0, 3.0]], "sum"), ([0.5, 0.5], "shape (2,)"), ([[0.7], [0.3]], "column_stack"), (np.empty((0, 2)), "(0, 2)"),
    ([["a", "b"]], "numbers")])
def test_bad_probabilities_are_named(bad, says):
    with pytest.raises(ProbabilityError) as e: as_probabilities(bad, "member 'x'")
    assert says in str(e.value) and "member 'x'" in str(e.value)


def test_the_first_bad_row_is_named():
    with pytest.raises(ProbabilityError, match="2 of 4 rows .* first row 1"):
        as_probabilities([[0.5, 0.5], [0.9, 0.9], [0.5, 0.5], [0, 0]])


def test_rounding_is_no_fault():
    p = np.random.default_rng(0).dirichlet(np.ones(50), 20).astype(np.float32)
    assert as_probabilities(p).dtype == np.float64 and (as_probabilities(p) == p).all()
    assert as_probabilities(np.round(p, 5)).shape == p.shape


@pytest.mark.parametrize("labels, says", [([0, 2], "from 0 to 1"), ([0, -1], "from 0 to 1"), ([0], "shape (1,)"),
                                          (["a", "b"], "classes.index"), ([0.5, 1], "0.5"), ([[0], [1]], "shape (2, 1)")])
def test_bad_labels_are_named(labels, says):
    with pytest.raises(ProbabilityError) as e: as_labels(labels, np.full((2, 2), 0.5))
    assert says in str(e.value)


def test_the_label_that_does_not_fit_is_named():
    with pytest.raises(ProbabilityError, match="labels such as 5:"): as_labels([0, 5, 1], np.full((3, 2), 0.5))
    with pytest.raises(ProbabilityError, match="labels such as 'cat'"): as_labels(["cat", "dog"], np.full((2, 2), 0.5))


def test_labels_may_be_booleans_or_whole_floats():
    p = np.full((2, 2), 0.5)
    assert as_labels([True, False], p).tolist() == [1, 0] and as_labels([1.0, 0.0], p).tolist() == [1, 0]


# --- calibration error ------------------------------------------------------------------------------------------------

def ece_by_loop(p, y, bins):
    total = 0.0
    for b in range(bins):
        inside = [i for i in range(len(p)) if b / bins < max(p[i]) <= (b + 1) / bins]
        if not inside: continue
        confidence = sum(max(p[i]) for i in inside) / len(inside)
        accuracy = sum(int(list(p[i]).index(max(p[i])) == y[i]) for i in inside) / len(inside)
        total += len(inside) / len(p) * abs(confidence - accuracy)
    return total


@pytest.mark.parametrize("bins", [1, 2, 7, 15])
@pytest.mark.parametrize("k", [2, 5])
def test_ece_is_that_of_an_explicit_loop(bins, k):
    p, y = rows(200, k, seed=bins)
    assert math.isclose(ece(p, y, bins=bins), ece_by_loop(p, y, bins), abs_tol=1e-12)


def test_ece_of_edges():
    sure = np.array([[1.0, 0.0]] * 4)
    assert ece(sure, [0, 0, 0, 0]) == 0 and ece(sure, [1, 1, 1, 1]) == 1 and ece(sure, [0, 0, 0, 1]) == 0.25
    assert math.isclose(ece([[0.7, 0.3]], [0]), 0.3) and math.isclose(ece([[0.7, 0.3]], [0], adaptive=True), 0.3)
    half = np.full((6, 2), 0.5)
    assert ece(half, [0, 1] * 3) == 0 and ece(half, [0, 1] * 3, adaptive=True) == 0


def test_adaptive_bins_are_equally_full():
    p, y = rows(300, 3)
    t = reliability(p, y, bins=10, adaptive=True)
    assert t.n.sum() == 300 and t.n.min() >= 29 and t.n.max() <= 31
    assert (t.low < t.confidence).all() | (t.low.iloc[0] == t.confidence.iloc[0]) and (t.confidence <= t.high).all()


def test_adaptive_bins_do_not_depend_on_the_order_of_the_rows():
    p, y = rows(300, 3)
    p = p.round(1)
    p[:, 0] = 1 - p[:, 1:].sum(1)  # many ties
    p = np.abs(p) / np.abs(p).sum(1, keepdims=True)
    order = np.random.default_rng(1).permutation(300)
    assert math.isclose(ece(p, y, adaptive=True), ece(p[order], y[order], adaptive=True), abs_tol=1e-12)


@pytest.mark.parametrize("bins", [0, -1, 2.5, "many"])
def test_bins_are_a_whole_number(bins):
    with pytest.raises(ProbabilityError, match="bins"): ece(np.full((2, 2), 0.5), [0, 1], bins=bins)


def test_brier_is_the_squared_distance():
    p, y = rows(50, 4)
    assert math.isclose(brier(p, y), np.mean([sum((p[i, c] - (y[i] == c)) ** 2 for c in range(4)) for i in range(50)]))
    assert brier([[0.0, 1.0]], [0]) == 2


# --- temperature ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sharp", [0.3, 1.0, 4.0])
def test_the_temperature_has_the_smallest_loss(seed, sharp):
    p, y = rows(400, 3, seed, sharp)
    found = minimize_scalar(lambda u: log_loss(y, temper(p, np.exp(u))), bounds=(-4.6, 4.6), method="bounded",
                            options={"xatol": 1e-9})
    assert math.isclose(fit_temperature(p, y), np.exp(found.x), rel_tol=1e-4)
    assert log_loss(y, temper(p, fit_temperature(p, y))) <= found.fun + 1e-9


def test_it_finds_the_sharpening():
    p, y = rows(40_000, 3, sharp=3.0)
    assert abs(fit_temperature(p, y) - 3) < 0.1


def test_it_agrees_with_scikit_learn():
    calibration = pytest.importorskip("sklearn.calibration")
    if not hasattr(calibration, "_TemperatureScaling"): pytest.skip("this scikit-learn has no temperature scaling")
    from sklearn.frozen import FrozenEstimator

    X, y = rows(600, 3, seed=3)
    member = LogisticRegression(C=1e4).fit(X[:30], y[:30])
    theirs = calibration.CalibratedClassifierCV(FrozenEstimator(member), method="temperature").fit(X[30:], y[30:])
    ours = calibrate(member, X[30:], y[30:])
    assert np.allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-3)


def test_a_temperature_keeps_the_order():
    p, _ = rows()
    for t in (0.2, 1, 5):
        assert (temper(p, t).argsort(1) == p.argsort(1)).all() and np.allclose(temper(p, t).sum(1), 1)
    assert (temper(p, 1) == p).all()


def test_temperatures_of_edges():
    assert fit_temperature([[0.9, 0.1]], [0]) == 0.01  # always right: as sure as can be
    assert fit_temperature([[0.9, 0.1]], [1]) == 100  # always wrong: as doubtful as can be
    assert fit_temperature(np.full((4, 3), 1 / 3), [0, 1, 2, 0]) == 1  # it says nothing
    assert np.isfinite(fit_temperature([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [0, 1, 1]))
    for t in (0, -1, np.nan, np.inf):
        with pytest.raises(ProbabilityError, match="temperature"): temper([[0.5, 0.5]], t)


# --- models -----------------------------------------------------------------------------------------------------------

class Fixed:
    "A member that says what it was told to, with classes as tl_nb's classifiers have them."
    classes = ["cold", "warm"]

    def __init__(self, p): self.p, self.asked = np.asarray(p), []

    def predict_proba(self, items, **kwargs):
        self.asked.append(kwargs)
        return self.p[:len(items)]


def test_calibrate_leaves_the_member_as_it_is():
    p, y = rows(200, 2)
    member = Fixed(p)
    found = calibrate(member, range(200), [["cold", "warm"][i] for i in y])
    assert isinstance(found, Calibrated) and found.temperature == fit_temperature(p, y) and found.classes == ["cold", "warm"]
    assert np.allclose(found.predict_proba(range(200), progress=False), temper(p, found.temperature))
    assert member.asked[-1] == {"progress": False}
    assert found.predict(range(5)) == [["cold", "warm"][i] for i in p[:5].argmax(1)]
    with pytest.raises(ProbabilityError, match="'hot' is none of the classes"): calibrate(member, [0], ["hot"])


def test_classes_of():
    X, y = rows(30, 2)
    assert classes_of(LogisticRegression().fit(X, y)) == [0, 1] and type(classes_of(LogisticRegression().fit(X, y))[0]) is int
    assert classes_of(LogisticRegression().fit(X, np.array(["b", "a"])[y])) == ["a", "b"]
    for bad in (LogisticRegression(), object()):
        with pytest.raises(ProbabilityError, match="lacks predict_proba or its classes"): classes_of(bad)


def test_the_diagram_shows_the_bins():
    import matplotlib

    matplotlib.use("Agg")
    p, y = rows(300, 2)
    ax = plot_reliability({"as it is": p, "tempered": temper(p, 3)}, y, bins=5)
    shown, t = ax.lines[1], reliability(p, y, bins=5, adaptive=True)
    assert np.allclose(shown.get_xdata(), t.confidence) and np.allclose(shown.get_ydata(), t.accuracy)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["as it is", "tempered"]
    assert plot_reliability(p, y).get_legend() is None
