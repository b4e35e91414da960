"Scorers without target labels against their definitions, and the rule that adapts or abstains."
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import parametrize_with_checks

from tl_nb import adapt
from tl_nb.adapt import (MARGINS, SOURCE_ONLY, AdaptError, AdaptOrAbstain, AlignedClassifier, SelfTraining, adapt_or_abstain, cluster_separation,
                         label_free_scores, mutual_information, neighbourhood_density, reverse_accuracy, weighted_accuracy)
from tl_nb.calibration import ProbabilityError


@parametrize_with_checks([AdaptOrAbstain()])
def test_scikit_learns_checks(estimator, check): check(estimator)


def test_public_names_are_at_hand():
    for name in ("CORAL", "MeanVarianceAlign", "SubspaceAlign", "OTMap", "SelfTraining", "adapt_or_abstain"): assert name in adapt.__all__


# --- scorers ---------------------------------------------------------------------------------------------------------------

def test_mutual_information_is_that_of_row_and_class():
    P = np.random.default_rng(0).dirichlet([0.5] * 4, 200)
    joint = P / len(P)  # of a row drawn at random, and a class drawn by its prediction
    by_hand = (joint * np.log(joint / (joint.sum(1, keepdims=True) * joint.sum(0)))).sum()
    assert mutual_information(P) == pytest.approx(by_hand / np.log(4))
    assert mutual_information(np.eye(3)[[0, 1, 2]]) == pytest.approx(1)
    for nothing in (np.full((5, 3), 1 / 3), np.eye(3)[[1] * 5]): assert mutual_information(nothing) == pytest.approx(0, abs=1e-12)


def test_neighbourhood_density_by_hand():
    P = np.random.default_rng(0).dirichlet([0.5] * 4, 30)
    rows, found = P / np.linalg.norm(P, axis=1, keepdims=True), []
    for i in range(30):
        near = np.exp([rows[i] @ rows[j] / 0.05 for j in range(30) if j != i])
        near /= near.sum()
        found.append(-(near * np.log(near)).sum())
    assert neighbourhood_density(P) == pytest.approx(np.mean(found))
    assert neighbourhood_density(np.eye(3)[[1] * 20]) == pytest.approx(np.log(19))
    with pytest.raises(AdaptError, match="three"): neighbourhood_density(P[:2])
    with pytest.raises(AdaptError, match="temperature"): neighbourhood_density(P, 0)


def test_cluster_separation_is_the_silhouette():
    X, y = np.array([[0.0], [1.0], [10.0], [12.0]]), ["a", "a", "b", "b"]
    far = lambda i: np.mean([abs(X[i] - X[j]) for j in range(4) if y[j] != y[i]])
    near = lambda i: np.mean([abs(X[i] - X[j]) for j in range(4) if y[j] == y[i] and j != i])
    assert cluster_separation(X, y) == pytest.approx(np.mean([(far(i) - near(i)) / max(far(i), near(i)) for i in range(4)]))
    assert cluster_separation(X, ["a"] * 4) == -1
    with pytest.raises(AdaptError, match="one class a row"): cluster_separation(X, y[:3])
    with pytest.raises(AdaptError, match="not finite"): cluster_separation(np.where(X == 1, np.nan, X), y)


def test_weighted_accuracy():
    assert weighted_accuracy([1, 0, 1], [1, 1, 1], [1, 2, 1]) == pytest.approx(0.5)
    assert weighted_accuracy(["a", "b"], ["a", "a"], [3, 1]) == pytest.approx(0.75)
    for bad in ([-1, 1, 1], [0, 0, 0], [np.nan, 1, 1], [1, 1]):
        with pytest.raises(AdaptError, match="weights"): weighted_accuracy([1, 0, 1], [1, 1, 1], bad)


def test_reverse_accuracy_sees_nonsense():
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    X = rng.normal(size=(200, 3)) + 2 * y[:, None]
    right = reverse_accuracy(X[:100], y[:100], X[100:], y[100:])
    assert right == pytest.approx(LogisticRegression().fit(X[:100], y[:100]).score(X[100:], y[100:]))
    assert right > 0.9 > 0.7 > reverse_accuracy(X[:100], rng.permutation(y[:100]), X[100:], y[100:])
    assert reverse_accuracy(X[:100], np.ones(100), X[100:], y[100:]) == 0
    with pytest.raises(AdaptError, match="features"): reverse_accuracy(X[:, :2], y, X, y)
    with pytest.raises(AdaptError, match="target"): reverse_accuracy(X, y[:5], X, y)
    with pytest.raises(AdaptError, match="none in common"): reverse_accuracy(X, np.array(["no", "yes"])[y], X, y)
    assert reverse_accuracy(X[:100], y[:100], X[100:], y[100:, None]) == pytest.approx(right)


@pytest.mark.parametrize("scorer", [mutual_information, neighbourhood_density])
def test_scorers_refuse_what_is_no_probability(scorer):
    for bad in (np.full((4, 2), 0.6), np.array([[np.nan, 1.0]] * 4), np.array([[-0.5, 1.5]] * 4)):
        with pytest.raises(ProbabilityError): scorer(bad)


# --- the rule ---------------------------------------------------------------------------------------------------------------

def blobs(n=200, shift=3.0, seed=0, turn=False):
    "Three classes in three dimensions, and the same moved; with `turn`, the target's clusters have nothing to do with its classes."
    rng = np.random.default_rng(seed)
    y = np.arange(2 * n) % 3
    X = 0.7 * rng.normal(size=(2 * n, 6))
    X[:, :3] += 3 * np.eye(3)[y]
    if turn:
        X[n:, :3] += 0.7 * (1 - 3 * np.eye(3)[y[n:]])  # the classes come close to each other
        X[n:, 3:] += 3 * np.eye(3)[rng.integers(0, 3, n)]
    X[n:, :2] += [shift, -shift / 2]
    return X, y, np.repeat([1, -1], n)


def test_it_adapts_where_that_helps():
    gains = []
    for seed in range(4):
        X, y, domain = blobs(seed=seed)
        target, found = domain < 0, adapt_or_abstain(X, np.where(domain > 0, y, -1), domain)
        gains.append(found.score(X[target], y[target]) - AlignedClassifier().fit(X, y, sample_domain=domain).score(X[target], y[target]))
        assert SOURCE_ONLY not in found.chosen_ and "agree on" in found.reason_
    assert min(gains) > 0.05


def test_without_a_shift_it_does_no_harm():
    for seed in range(3):
        X, y, domain = blobs(shift=0.0, seed=seed)
        target, found = domain < 0, adapt_or_abstain(X, y, domain)
        assert found.score(X[target], y[target]) >= AlignedClassifier().fit(X, y, sample_domain=domain).score(X[target], y[target]) - 0.01


def test_where_it_abstains_it_is_source_only():
    X, y, domain = blobs()
    found = adapt_or_abstain(X, y, domain, margins=MARGINS | {"cluster separation": 1.0})
    assert found.chosen_ == [SOURCE_ONLY] and "none" in found.reason_ and not found.scores_.agreed.any()
    assert np.array_equal(found.predict_proba(X), AlignedClassifier().fit(X, y, sample_domain=domain).predict_proba(X))


def test_labels_of_the_target_are_never_read():
    X, y, domain = blobs()
    found = [adapt_or_abstain(X, t, domain) for t in (y, np.where(domain > 0, y, (y + 1) % 3))]
    assert found[0].scores_.equals(found[1].scores_) and np.array_equal(found[0].predict_proba(X), found[1].predict_proba(X))


def test_the_halves_keep_groups_together_and_judge_on_other_rows(monkeypatch):
    X, y, domain = blobs(120)
    groups, seen = np.arange(len(X)) // 8, []
    def watched(model, S, y, T, judge, classifier=None):
        seen.append((T, judge))
        return label_free_scores(model, S, y, T, judge, classifier)
    monkeypatch.setattr(adapt, "label_free_scores", watched)
    adapt_or_abstain(X, y, domain, groups=groups)
    of = lambda rows: {groups[i] for row in rows for i in np.flatnonzero((X == row).all(1))}
    for T, judge in seen: assert len(T) + len(judge) == 120 and not of(T) & of(judge)


@pytest.mark.parametrize("keep, groups", [(29, None), (60, "one")])
def test_too_few_rows_to_judge_on_are_left_alone(keep, groups):
    X, y, domain = blobs()
    few = np.flatnonzero((domain > 0) | (np.arange(len(X)) >= len(X) - keep))
    found = AdaptOrAbstain().fit(X[few], y[few], domain[few], groups=np.zeros(len(few)) if groups else None)
    assert found.chosen_ == [SOURCE_ONLY] and found.scores_ is None and ("one group" if groups else "too few") in found.reason_


def test_halves_that_groups_make_too_small_are_left_alone():
    X, y, domain = blobs(60)
    groups = np.where(np.arange(len(X)) == len(X) - 1, 1, 0)  # one row has a group of its own
    for seed in range(4):
        found = AdaptOrAbstain(random_state=seed).fit(X, y, domain, groups=groups)
        assert found.chosen_ == [SOURCE_ONLY] and "in each half" in found.reason_


def test_those_agreed_on_answer_together():
    X, y, domain = blobs()
    found = adapt_or_abstain(X, y, domain, margins=dict.fromkeys(MARGINS, -0.5))
    assert len(found.chosen_) > 1 and list(found.models_) == found.chosen_ == list(found.scores_.index[found.scores_.agreed])
    T, by_name = X[domain < 0], adapt.adapters_for()
    alone = [by_name[name].fit(X, y, sample_domain=domain).predict_proba(T) for name in found.chosen_]
    assert np.allclose(found.predict_proba(T), np.mean(alone, axis=0))


def test_clusters_that_are_no_classes_are_left_alone():
    for seed in range(3):
        X, y, domain = blobs(seed=seed, turn=True)
        target, found = domain < 0, adapt_or_abstain(X, y, domain)
        plain = AlignedClassifier().fit(X, y, sample_domain=domain)
        assert found.score(X[target], y[target]) >= plain.score(X[target], y[target]) - 0.02, found.scores_


def test_own_candidates_and_the_same_answer_twice():
    X, y, domain = blobs()
    one, two = (adapt_or_abstain(X, y, domain, candidates={"mine": SelfTraining(rounds=2)}, random_state=3) for _ in range(2))
    assert list(one.scores_.index) == [SOURCE_ONLY, "mine"] and one.scores_.equals(two.scores_)


@pytest.mark.parametrize("kwargs, says", [(dict(candidates={SOURCE_ONLY: SelfTraining()}), SOURCE_ONLY), (dict(margins={"accuracy": 0}), "accuracy"),
                                          (dict(margins={}), "margins"), (dict(margins={"mutual information": np.nan}), "mutual information"),
                                          (dict(candidates={}), "candidates"), (dict(candidates={"CORAL": adapt.CORAL()}), "AlignedClassifier"),
                                          (dict(candidates={"few": adapt.SourcePriorLogisticRegression()}), "few"), (dict(groups=[1, 2]), "groups")])
def test_bad_arguments_are_named(kwargs, says):
    with pytest.raises(AdaptError, match=says): adapt_or_abstain(*blobs(), **kwargs)
