"Adapting classifiers: scikit-learn's own checks, what each must do by its definition, and bad input."
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from tl_nb.adapters import (AdaptError, AlignedClassifier, ImportanceWeighting, PriorRecalibration, SelfTraining,
                            SourcePriorLogisticRegression, domain_pair, domain_weights, _estimated, _matched, _surest)
from tl_nb.alignment import CORAL, AlignmentError, MeanVarianceAlign
from tl_nb.splits import Dataset

UNLABELLED = [AlignedClassifier(), AlignedClassifier(CORAL()), ImportanceWeighting(), SelfTraining(), SelfTraining(aligner=CORAL()),
              PriorRecalibration(), PriorRecalibration(prior="source")]
EVERY = [*UNLABELLED, SourcePriorLogisticRegression()]
unlabelled = pytest.mark.parametrize("adapter", UNLABELLED, ids=str)
each = pytest.mark.parametrize("adapter", EVERY, ids=str)


@parametrize_with_checks(EVERY)
def test_scikit_learns_checks(estimator, check): check(estimator)


def shifted(n=150, shift=1.5, seed=0):
    "Two classes in the plane, and the same moved along the first axis: X, y of both domains, sample_domain."
    rng = np.random.default_rng(seed)
    y = np.arange(2 * n) % 2
    X = rng.normal(size=(2 * n, 2)) * 0.6 + np.where(y[:, None] == 1, [1.5, 1.0], [-1.5, -1.0])
    X[n:, 0] += shift
    return X, y, np.repeat([1, -1], n)


# --- what holds for all ---------------------------------------------------------------------------------------------------

@unlabelled
def test_labels_of_the_target_are_never_read(adapter):
    X, y, domain = shifted()
    hidden, wrong = np.where(domain > 0, y, -1), np.where(domain > 0, y, 1 - y)
    found = [clone(adapter).fit(X, t, sample_domain=domain).predict_proba(X) for t in (y, hidden, wrong)]
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])
    named = np.where(domain > 0, np.array(["no", "yes"], dtype=object)[y], None)
    assert clone(adapter).fit(X, named, sample_domain=domain).classes_.tolist() == ["no", "yes"]
    missing = np.where(domain > 0, y, np.nan)
    assert clone(adapter).fit(X, missing, sample_domain=domain).classes_.tolist() == [0, 1]


@each
def test_rows_may_come_in_any_order(adapter):
    X, y, domain = shifted()
    at = np.random.default_rng(1).permutation(len(X))
    one, two = (clone(adapter).fit(X[i], y[i], sample_domain=domain[i]) for i in (np.arange(len(X)), at))
    assert (one.predict(X) == two.predict(X)).mean() > 0.97  # folds may differ


@each
def test_without_a_target_it_is_an_ordinary_classifier(adapter):
    X, y, domain = shifted()
    S, y = X[domain > 0], y[domain > 0]
    found = clone(adapter).fit(S, y).predict(S)
    assert (found == LogisticRegression().fit(S, y).predict(S)).mean() > 0.98


@each
def test_metadata_is_routed_where_it_is_switched_on(adapter):
    X, y, domain = shifted()
    with config_context(enable_metadata_routing=True):
        pipe = make_pipeline(StandardScaler(), clone(adapter).set_fit_request(sample_domain=True))
        piped = pipe.fit(X, y, sample_domain=domain).predict(X)
    assert np.array_equal(piped, clone(adapter).fit(StandardScaler().fit_transform(X), y, sample_domain=domain).predict(StandardScaler().fit_transform(X)))


@each
@pytest.mark.parametrize("change, says", [(lambda X, y, d: (X, y, np.ones(len(X))), "no target"), (lambda X, y, d: (X, y, -np.ones(len(X))), "no source"),
                                          (lambda X, y, d: (X, y, d[:-1]), "sample_domain"), (lambda X, y, d: (X, y, np.where(np.arange(len(d)) == 3, 0, d)), "row 3")])
def test_bad_domains_are_named(adapter, change, says):
    X, y, domain = change(*shifted())
    with pytest.raises(AlignmentError, match=says): clone(adapter).fit(X, y, sample_domain=domain)


@each
def test_bad_rows_and_labels(adapter):
    X, y, domain = shifted()
    broken = X.copy()
    broken[7, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"): clone(adapter).fit(broken, y, sample_domain=domain)
    with pytest.raises(ValueError): clone(adapter).fit(X, y[:-1], sample_domain=domain)
    with pytest.raises(AdaptError, match="more than one class"): clone(adapter).fit(X, np.ones(len(X)), sample_domain=domain)


@each
def test_constant_features_and_small_domains_give_probabilities(adapter):
    X, y, domain = shifted(6)
    X = np.column_stack([X, np.ones(len(X))])
    few = np.flatnonzero((domain > 0) | (np.arange(len(X)) >= len(X) - 2))  # two rows of the target
    P = clone(adapter).fit(X[few], y[few], sample_domain=domain[few]).predict_proba(X)
    assert np.isfinite(P).all() and np.allclose(P.sum(1), 1)


@pytest.mark.parametrize("adapter", [SelfTraining, ImportanceWeighting])
def test_a_classifier_without_weights_is_refused(adapter):
    X, y, domain = shifted()
    with pytest.raises(AdaptError, match="sample_weight"): adapter(KNeighborsClassifier()).fit(X, y, sample_domain=domain)


def test_what_is_no_aligner_is_refused():
    X, y, domain = shifted()
    with pytest.raises(AdaptError, match="sample_domain"): AlignedClassifier(StandardScaler()).fit(X, y, sample_domain=domain)


@each
def test_names_of_columns_are_kept(adapter):
    X, y, domain = shifted()
    table = pd.DataFrame(X, columns=["a", "b"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = clone(adapter).fit(table, pd.Series(y), sample_domain=pd.Series(domain))
        found.predict(table)
    assert found.feature_names_in_.tolist() == ["a", "b"]


@unlabelled
def test_a_classifier_without_probabilities_is_refused(adapter):
    X, y, domain = shifted()
    with pytest.raises(AdaptError, match="predict_proba"): clone(adapter).set_params(classifier=RidgeClassifier()).fit(X, y, sample_domain=domain)


# --- each ------------------------------------------------------------------------------------------------------------------

def test_an_aligned_classifier_is_alignment_then_classifier():
    X, y, domain = shifted()
    moved = CORAL().fit(X, sample_domain=domain).transform(X, sample_domain=domain)
    by_hand = LogisticRegression(max_iter=1000).fit(moved[domain > 0], y[domain > 0])
    found = AlignedClassifier(CORAL()).fit(X, y, sample_domain=domain)
    assert np.allclose(found.predict_proba(X[domain < 0]), by_hand.predict_proba(X[domain < 0]), atol=1e-4)


def test_self_training_finds_the_gap_between_the_targets_classes():
    gains = []
    for seed in range(5):
        X, y, domain = shifted(shift=2.0, seed=seed)
        score = lambda a: a.fit(X, y, sample_domain=domain).score(X[domain < 0], y[domain < 0])
        gains.append(score(SelfTraining()) - score(AlignedClassifier()))
    assert min(gains) >= 0 and np.mean(gains) > 0.03


def test_no_round_is_source_only():
    X, y, domain = shifted()
    assert np.array_equal(SelfTraining(rounds=0).fit(X, y, sample_domain=domain).predict_proba(X), AlignedClassifier().fit(X, y, sample_domain=domain).predict_proba(X))
    for name, bad in (("keep", 0), ("keep", "all"), ("rounds", -1), ("rounds", 1.5)):
        with pytest.raises(AdaptError, match=name): SelfTraining(**{name: bad}).fit(X, y, sample_domain=domain)


def test_the_surest_of_every_class():
    P = np.array([[.9, .1], [.8, .2], [.6, .4], [.51, .49], [.45, .55]])
    assert sorted(_surest(P, 0.5)) == [0, 1, 4]
    assert sorted(_surest(P, 1.0)) == [0, 1, 2, 3, 4]


def test_domain_weights_are_the_ratio_of_the_densities():
    rng = np.random.default_rng(0)
    S, T = rng.normal(size=(4000, 1)), rng.normal(0.5, 1, size=(4000, 1))  # ratio exp(x/2 - 1/8): logistic in x
    true = np.exp(S[:, 0] / 2 - 1 / 8)
    found = domain_weights(S, T)
    assert found.mean() == pytest.approx(1) and np.corrcoef(found, true)[0, 1] > 0.99
    assert np.abs(found - true / true.mean()).mean() < 0.05
    alike = domain_weights(S[:2000], S[2000:])
    assert alike.std() < 0.15
    assert np.allclose(domain_weights(1e-3 * S + 5, 1e-3 * T + 5), found)  # the unit does not matter


@pytest.mark.parametrize("most", [2, 20])
def test_no_weight_is_above_the_limit(most):
    rng = np.random.default_rng(0)
    found = domain_weights(rng.normal(size=(500, 5)), rng.normal(2, 1, size=(500, 5)), most=most)
    assert found.mean() == pytest.approx(1) and found.max() <= most * 1.001
    for bad in (0, -1, np.nan):
        with pytest.raises(AdaptError, match="most"): domain_weights(np.zeros((5, 2)), np.zeros((5, 2)), most=bad)


def test_domain_weights_refuse_what_they_cannot_weigh():
    X = np.zeros((5, 2))
    with pytest.raises(AdaptError, match="features"): domain_weights(X, np.zeros((5, 3)))
    with pytest.raises(AdaptError, match="cv"): domain_weights(X, np.zeros((2, 2)), cv=3)
    with pytest.raises(AdaptError, match="source"): domain_weights([[np.inf, 0]] * 5, X)


def test_weighting_by_nothing_is_source_only():
    X, y, domain = shifted()
    plain = LogisticRegression(max_iter=1000).fit(X[domain > 0], y[domain > 0])
    assert np.allclose(ImportanceWeighting(exponent=0).fit(X, y, sample_domain=domain).predict_proba(X), plain.predict_proba(X), atol=1e-4)
    with pytest.raises(AdaptError, match="exponent"): ImportanceWeighting(exponent=2).fit(X, y, sample_domain=domain)


def gaussians(n, share, seed):
    "Two overlapping classes, `share` of them class 1."
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < share).astype(int)
    return rng.normal(size=(n, 1)) + 2 * y[:, None] - 1, y


@pytest.mark.parametrize("share", [0.1, 0.3, 0.8])
@pytest.mark.parametrize("C", [1e-3, 1.0])
def test_the_targets_shares_are_found_even_by_a_timid_classifier(share, C):
    (S, y), (T, t) = gaussians(2000, 0.5, 0), gaussians(2000, share, 1)
    X, labels, domain = np.concatenate([S, T]), np.concatenate([y, t]), np.repeat([1, -1], 2000)
    plain = LogisticRegression(C=C).fit(S, y)
    found = PriorRecalibration(LogisticRegression(C=C)).fit(X, labels, sample_domain=domain)
    assert found.prior_[1] == pytest.approx(t.mean(), abs=0.03)
    assert found.score(T, t) > plain.score(T, t) + (0.03 if share < 0.2 else 0.0)


def test_known_shares_are_met_by_the_mean_prediction():
    (S, y), (T, t) = gaussians(500, 0.5, 0), gaussians(500, 0.5, 1)
    X, labels, domain = np.concatenate([S, T + 1.0]), np.concatenate([y, t]), np.repeat([1, -1], 500)
    for prior in ([0.5, 0.5], [0.9, 0.1]):
        found = PriorRecalibration(prior=prior).fit(X, labels, sample_domain=domain)
        assert np.allclose(found.predict_proba(T + 1.0).mean(0), prior, atol=1e-5)
    same = PriorRecalibration(prior="source").fit(X, labels, sample_domain=domain)
    assert same.predict_proba(T + 1.0).mean(0)[1] == pytest.approx(y.mean(), abs=1e-5)
    assert same.score(T + 1.0, t) > LogisticRegression().fit(S, y).score(T + 1.0, t) + 0.03


@pytest.mark.parametrize("prior", ["known", [0.5, 0.6], [1.0, 0.0], [1.0], [0.2, 0.3, 0.5]])
def test_shares_that_are_none_are_refused(prior):
    X, y, domain = shifted()
    with pytest.raises(AdaptError, match="prior"): PriorRecalibration(prior=prior).fit(X, y, sample_domain=domain)


def test_shares_that_no_weights_can_give_are_said_to_be_so():
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(size=(30, 2)), rng.normal(size=(30, 2)) + 8, rng.normal(size=(40, 2))])
    y, domain = np.repeat([0, 1, 0], [30, 30, 40]), np.repeat([1, -1], [60, 40])
    with pytest.raises(AdaptError, match="exactly 0"): PriorRecalibration(KNeighborsClassifier(), "source").fit(X, y, sample_domain=domain)
    assert np.isfinite(PriorRecalibration(KNeighborsClassifier()).fit(X, y, sample_domain=domain).predict_proba(X)).all()


def test_estimation_is_a_fixed_point_and_matching_needs_no_step_when_it_fits():
    P = np.random.default_rng(0).dirichlet([1, 2, 3], 500)
    source = np.full(3, 1 / 3)
    q = _estimated(P, source)
    R = P * q / source
    assert np.allclose((R / R.sum(1, keepdims=True)).mean(0), q, atol=1e-4)
    assert np.allclose(_matched(P, P.mean(0)), 1)


# --- a few labels -------------------------------------------------------------------------------------------------------------

def test_on_the_source_it_is_scikit_learns_regression():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(200, 5)), rng.integers(0, 3, 200)
    X[:, 0] += y
    ours = SourcePriorLogisticRegression(source_C=0.5).fit(X, y)
    theirs = LogisticRegression(C=0.5, fit_intercept=False, tol=1e-8, max_iter=5000).fit(np.column_stack([X, np.ones(200)]), y)
    assert np.allclose(ours.predict_proba(X), theirs.predict_proba(np.column_stack([X, np.ones(200)])), atol=1e-4)


def test_between_the_source_and_the_target_alone():
    X, y, domain = shifted(shift=4.0)
    few = np.flatnonzero((domain > 0) | (np.arange(len(X)) >= len(X) - 20))
    of = lambda C: SourcePriorLogisticRegression(C).fit(X[few], y[few], sample_domain=domain[few])
    tight, loose = of(1e-9), of(1e4)
    assert np.allclose(tight.weights_, tight.source_weights_, atol=1e-4)
    target = domain < 0
    assert loose.score(X[target], y[target]) > tight.score(X[target], y[target]) + 0.1


def test_two_classes_count_c_as_scikit_learn_does():
    X, y, _ = shifted()
    rows = np.column_stack([X, np.ones(len(X))])
    theirs = LogisticRegression(C=0.1, fit_intercept=False, tol=1e-8, max_iter=5000).fit(rows, y)
    assert np.allclose(SourcePriorLogisticRegression(source_C=0.1).fit(X, y).predict_proba(X), theirs.predict_proba(rows), atol=1e-4)


def test_placeholders_are_no_labels():
    X, y, domain = shifted()
    with pytest.raises(AdaptError, match="unlabelled"): SourcePriorLogisticRegression().fit(X, np.where(domain > 0, y, -1), sample_domain=domain)


def test_a_class_of_the_target_only_is_learned_and_one_of_the_source_only_is_kept():
    X, y, domain = shifted()
    y = np.where(domain < 0, np.where(y == 1, 2, y), y)  # class 1 is in the source only, class 2 in the target only
    found = SourcePriorLogisticRegression().fit(X, y, sample_domain=domain)
    assert found.classes_.tolist() == [0, 1, 2] and (found.predict(X[domain < 0]) == 2).any()


@pytest.mark.parametrize("name", ["C", "source_C"])
def test_strengths_are_above_zero(name):
    X, y, domain = shifted()
    with pytest.raises(AdaptError, match=name): SourcePriorLogisticRegression(**{name: 0}).fit(X, y, sample_domain=domain)


# --- pairs ---------------------------------------------------------------------------------------------------------------------

def dataset(n, groups=None, classes=("no", "yes")):
    return Dataset([f"text {i}" for i in range(n)], np.arange(n) % 2, list(classes), "text", groups=groups)


def test_a_pair_keeps_parts_and_documents_apart():
    source, target = dataset(200), dataset(300, groups=np.arange(300) // 5)
    X, Z = np.arange(200.0)[:, None], np.arange(1000.0, 1300.0)[:, None]
    pair = domain_pair(source, X, target, Z, seed=3, most=100)
    rows = [set(part[0][:, 0]) for part in (pair.train, pair.valid, pair.unlabelled, pair.test)]
    assert sum(map(len, rows)) == len(set.union(*rows)) and len(rows[0]) == len(rows[2]) == 100
    documents = lambda part: {int(x - 1000) // 5 for x in part}
    assert not documents(rows[2]) & documents(rows[3])
    assert pair.X.shape == (200, 1) and (pair.y[pair.sample_domain < 0] == -1).all() and len(pair.groups) == 200
    at = (pair.X[100:, 0] - 1000).astype(int)
    assert [g for g in pair.groups[100:]] == [f"target {i // 5}" for i in at]
    again = domain_pair(source, X, target, Z, seed=3, most=100)
    assert np.array_equal(pair.X, again.X)


@pytest.mark.parametrize("kwargs, says", [(dict(source_features=np.zeros((5, 1))), "source_features"), (dict(target_features=np.zeros((50, 2))), "features"),
                                          (dict(target_features=np.full((50, 1), np.nan)), "finite"), (dict(most=0), "most")])
def test_a_pair_checks_its_features(kwargs, says):
    fine = dict(source=dataset(50), source_features=np.zeros((50, 1)), target=dataset(50), target_features=np.zeros((50, 1)))
    with pytest.raises(AdaptError, match=says): domain_pair(**(fine | kwargs))


def test_a_pair_needs_the_same_classes():
    with pytest.raises(AdaptError, match="classes"): domain_pair(dataset(50), np.zeros((50, 1)), dataset(50, classes=("a", "b")), np.zeros((50, 1)))


def test_a_pair_tunes_its_classifier_on_the_source_alone():
    source, target = dataset(200), dataset(100)
    rng = np.random.default_rng(0)
    X, Z = rng.normal(size=(200, 5)) + np.asarray(source.labels)[:, None], rng.normal(size=(100, 5))
    pair = domain_pair(source, X, target, Z)
    found, scores = pair.tuned(), {C: LogisticRegression(C=C, max_iter=400, tol=1e-3).fit(*pair.train).score(*pair.valid) for C in (0.01, 0.1, 1.0, 10.0, 100.0)}
    assert scores[found.C] == max(scores.values()) and found.C == min(C for C in scores if scores[C] == max(scores.values()))
    assert not hasattr(found, "classes_") and pair.tuned(grid=(3.0,), max_iter=7).get_params()["max_iter"] == 7
