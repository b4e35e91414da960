"Knobs without a screen: the shift of a domain is the alignment's own, and a mixture is the average it says."
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tl_nb.alignment import CORAL, AlignmentError, SubspaceAlign
from tl_nb.calibration import ProbabilityError, ece
from tl_nb.ensemble import average, greedy_selection, weighted
from tl_nb.what_if import METHODS, DomainShift, Mixture, png


def domains(n=90, m=70, d=4, seed=0):
    rng = np.random.default_rng(seed)
    y, t = rng.integers(0, 2, n), rng.integers(0, 2, m)
    S = rng.normal(size=(n, d)) + 2.5 * y[:, None]
    T = (rng.normal(size=(m, d)) + 2.5 * t[:, None]) * 1.7 + 4
    return S, y, T, t


def answers(seed=0, n=60, k=3):
    rng = np.random.default_rng(seed)
    return {name: rng.dirichlet(np.ones(k), n) for name in "abc"}, rng.integers(0, k, n)


@pytest.mark.parametrize("method", METHODS)
def test_strength_goes_straight_from_nothing_to_the_alignment(method):
    S, y, T, t = domains()
    shift = DomainShift(S, y, T, method=method)
    both = METHODS[method].fit_transform(np.concatenate([S, T]), sample_domain=np.r_[np.ones(len(S)), -np.ones(len(T))])
    assert np.array_equal(shift.moved(0), S) and np.allclose(shift.moved(1), both[:len(S)])
    assert np.allclose(shift.moved(0.5), (shift.moved(0) + shift.moved(1)) / 2)


def test_scores_are_those_of_a_classifier_on_moved_rows():
    S, y, T, t = domains()
    shift = DomainShift(S, y, T, t, method="CORAL", strength=0.7)
    X, aside = shift.moved(), shift._aside
    head = LogisticRegression(max_iter=2000).fit(X[~aside], y[~aside])
    assert shift.score()["target"] == head.score(T, t) and shift.score()["source"] == head.score(X[aside], y[aside])
    assert 0.2 < aside.mean() < 0.5


def test_alignment_helps_where_the_target_is_a_stretched_source():
    shift = DomainShift(*domains(300, 300))
    before, after = shift.score(0), shift.score(1)
    assert after["target"] > before["target"] + 0.2 and after["distance"] < before["distance"] / 5


def test_labels_of_the_target_are_not_needed_and_not_used():
    S, y, T, t = domains()
    known, unknown = DomainShift(S, y, T, t), DomainShift(S, y, T)
    assert unknown.score()["target"] is None
    assert known.score()["source"] == unknown.score()["source"] and known.score()["distance"] == unknown.score()["distance"]


@pytest.mark.parametrize("strength", [1.0, 0.3])
@pytest.mark.parametrize("method", METHODS)
def test_the_code_does_what_is_set(method, strength):
    S, y, T, t = domains()
    shift = DomainShift(S, y, T, t, method=method, strength=strength)
    space = dict(np=np, source=S, target=T, labels=y, classifier=LogisticRegression(max_iter=2000))
    exec(shift.code(), space)
    whole = LogisticRegression(max_iter=2000).fit(shift.moved(), y)
    assert np.allclose(space["classifier"].coef_, whole.coef_, atol=1e-4)


def test_the_plane_stays_while_the_strength_moves():
    S, y, T, t = domains()
    shift = DomainShift(S, y, T, method="mean shift")
    (s0, t0), (s1, t1) = shift.plane(0), shift.plane(1)
    assert np.array_equal(t0, t1) and not np.allclose(s0, s1) and np.allclose(s1.mean(0), t1.mean(0))


def test_own_methods_and_own_classifier():
    S, y, T, t = domains()
    shift = DomainShift(S, y, T, t, methods={"mine": CORAL(reg=0.5)}, classifier=LogisticRegression(C=0.01))
    assert shift.method == "mine" and 0 <= shift.score()["target"] <= 1


def test_bad_domains_are_named():
    S, y, T, t = domains()
    for call, said in (
            (lambda: DomainShift(S, y[:-1], T), "labels"), (lambda: DomainShift(S, y, T[:, :2]), "target"),
            (lambda: DomainShift(S, y, T, y), "target_labels"),
            (lambda: DomainShift(np.where(S > 5, np.nan, S), y, T), "source"),
            (lambda: DomainShift(S, y, T, method="magic").score(), "magic.*CORAL"),
            (lambda: DomainShift(S, y, T, strength=1.5).moved(), "1.5"),
            (lambda: DomainShift(S, y, T, methods={"sub": SubspaceAlign(2)}).moved(), "coordinates")):
        with pytest.raises(AlignmentError, match=said): call()


@pytest.mark.parametrize("how", ["arithmetic", "geometric"])
def test_a_mixture_is_the_average(how):
    P, y = answers()
    mixture = Mixture(P, y, how=how)
    assert np.allclose(mixture.proba(), average(P, how=how))
    mixture.weights = {"a": 2.0, "b": 0.0, "c": 6.0}
    p = average(P, {"a": 0.25, "b": 0, "c": 0.75}, how=how)
    assert np.allclose(mixture.proba(), p) and mixture.shares() == {"a": 0.25, "b": 0.0, "c": 0.75}
    assert mixture.score()["accuracy"] == (p.argmax(1) == y).mean() and mixture.score()["calibration error"] == pytest.approx(ece(p, y))
    exec(mixture.code(), space := dict(probabilities=P))
    assert np.allclose(space["mixed"], mixture.proba())


def test_rules_set_the_weights_of_the_library():
    P, y = answers()
    assert Mixture(P, y).set("log loss").weights == weighted(P, y)
    assert Mixture(P, y).set("greedy").weights == greedy_selection(P, y)
    assert Mixture(P, y, weights=dict(a=1, b=0, c=0)).set("equal").shares() == pytest.approx(dict.fromkeys("abc", 1 / 3))


def test_the_table_has_a_row_a_member_and_one_for_all():
    P, y = answers()
    table = Mixture(P, y, weights=dict(a=1, b=0, c=0)).table()
    assert list(table.index) == ["a", "b", "c", "mixture"] and table.loc["a"].equals(table.loc["mixture"].rename("a"))


def test_bad_mixtures_are_named():
    P, y = answers()
    for call, said in (
            (lambda: Mixture(P, y[:-1]), "labels"), (lambda: Mixture(P, y, weights=dict(a=1)), "weights"),
            (lambda: Mixture(P, y, weights=dict.fromkeys("abc", 0)), "above 0"),
            (lambda: Mixture(P, y, how="harmonic"), "harmonic"), (lambda: Mixture(P, y).set("best"), "best.*greedy"),
            (lambda: Mixture({}, y), "dictionary")):
        with pytest.raises(ProbabilityError, match=said): call()


def test_pictures_need_no_screen():
    S, y, T, t = domains()
    for found in (DomainShift(S, y, T).figure(), Mixture(*answers()).figure()):
        assert png(found).startswith(b"\x89PNG\r\n") and len(png(found)) > 5000


def test_the_check_of_a_strength_sees_each_fault():
    from tl_nb.exercises_methods import check_strength

    def answer(shift, pick=min, tidy=True, also=()):
        old, found = shift.strength, {}
        for shift.strength in (0, 0.25, 0.5, 0.75, 1): found[shift.strength] = shift.score()["distance"]
        if tidy: shift.strength = old
        return pick(found, key=found.get)
    assert check_strength(answer).passed
    for fault, said in ((dict(pick=max), "largest"), (dict(tidy=False), "put shift.strength back")):
        verdict = check_strength(lambda shift: answer(shift, **fault))
        assert verdict.passed is False and said in verdict.message, fault
    assert "none of the five" in check_strength(lambda shift: 0.3).message
    assert "each time" in check_strength(lambda shift: 0.75).message


# --- pictures of a plan -----------------------------------------------------------------------------------------------

def drawn(losses=(), hits=(), scores=()):
    from types import SimpleNamespace
    return SimpleNamespace(losses=list(losses), hits=list(hits), scores=list(scores))


def numbers(svg, shape):
    import re
    return [[float(v) for v in pair.split(",")] for found in re.findall(shape + r"[^>]*points='([^']*)'", svg) for pair in found.split()]


def test_curves_are_whole_svg_with_every_step_inside():
    from xml.etree import ElementTree

    from tl_nb.what_if import curves

    for trainer in (drawn(), drawn([0.7], [0.5]), drawn(np.linspace(3, 0.1, 50), np.linspace(0, 1, 50), [(25, 5.0, 0.4), (50, 0.2, np.nan)])):
        found = ElementTree.fromstring(curves(trainer))
        assert [s.attrib["role"] for s in found] == ["img", "img"] and all(s.attrib["aria-label"] for s in found)
        at = numbers(curves(trainer), "polyline")
        assert len(at) == 2 * len(trainer.losses) and all(40 <= x <= 398 and 28 <= y <= 132 for x, y in at)


def test_states_in_words():
    from tl_nb.what_if import state_of

    assert [state_of(f) for f in ({"a": True}, {"a": False, "b": False}, {"a": True, "b": False})] == ["frozen", "trains", "1 of 2 layers frozen"]
