"Alignments against formulas written out with dense matrices, and against what SciPy finds."
import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn
from scipy.linalg import sqrtm
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from tl_nb.alignment import CORAL, AlignmentError, MeanVarianceAlign, OTMap, SubspaceAlign

EVERY = [CORAL(), CORAL(0.0), CORAL(align_mean=False), MeanVarianceAlign(), MeanVarianceAlign(variance=False), SubspaceAlign(),
         OTMap(), OTMap(0.1)]
each = pytest.mark.parametrize("align", EVERY, ids=repr)


@parametrize_with_checks([*EVERY, SubspaceAlign(1)])
def test_scikit_learn_accepts_it(estimator, check): check(estimator)


def domains(n=60, m=50, d=5, seed=0, dtype=np.float64):
    "Rows of both domains, mixed, and their sample_domain."
    rng = np.random.default_rng(seed)
    S = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 3
    T = rng.normal(size=(m, d)) @ rng.normal(size=(d, d)) - 1
    order = rng.permutation(n + m)
    return np.vstack([S, T]).astype(dtype)[order], np.repeat([1, -1], [n, m])[order]


def root(C, p):
    "C^p by SciPy's square root, which knows nothing of symmetry."
    half = np.real(sqrtm(C))
    return half if p > 0 else np.linalg.inv(half)


def dense_coral(S, T, reg):
    d = S.shape[1]
    A, B = np.atleast_2d(np.cov(S, rowvar=False)), np.atleast_2d(np.cov(T, rowvar=False))
    ridge = reg * (np.trace(A) + np.trace(B)) / (2 * d) * np.eye(d)
    return (S - S.mean(0)) @ root(A + ridge, -0.5) @ root(B + ridge, 0.5) + T.mean(0)


# --- all ----------------------------------------------------------------------------------------------------------------

@each
def test_target_rows_stay_source_rows_move_and_the_order_is_kept(align):
    X, domain = domains()
    found = clone(align).fit(X, sample_domain=domain).transform(X, sample_domain=domain)
    assert np.array_equal(found, clone(align).fit_transform(X, sample_domain=domain))
    assert np.isfinite(found).all()
    if isinstance(align, SubspaceAlign): return
    assert np.array_equal(found[domain < 0], X[domain < 0]) and (found[domain > 0] != X[domain > 0]).all()


@each
def test_without_domains_at_transform_all_rows_are_target(align):
    X, domain = domains()
    fitted = clone(align).fit(X, sample_domain=domain)
    as_target = fitted.transform(X, sample_domain=-np.ones(len(X)))
    assert np.array_equal(fitted.transform(X), as_target)
    if not isinstance(align, SubspaceAlign): assert np.array_equal(as_target, X)


@each
def test_fitted_without_domains_nothing_moves(align):
    X, domain = domains()
    fitted = clone(align).fit(X)
    assert fitted.n_target_ == 0 and fitted.n_source_ == len(X)
    found = fitted.transform(X, sample_domain=domain)
    assert np.allclose(found, clone(align).fit_transform(X), atol=1e-12)
    if isinstance(align, SubspaceAlign): expected = np.abs(PCA().fit_transform(X))
    assert np.allclose(*((np.abs(found), expected) if isinstance(align, SubspaceAlign) else (found, X)), atol=1e-10)


@each
def test_what_comes_out_is_not_a_view_of_what_went_in(align):
    X, domain = domains()
    before = X.copy()
    found = clone(align).fit(X, sample_domain=domain).transform(X)
    found += 1
    clone(align).fit_transform(X, sample_domain=domain)
    assert np.array_equal(X, before)


@each
@pytest.mark.parametrize("d", [5, 150])
def test_the_order_of_rows_does_not_matter(align, d):
    X, domain = domains(d=d)
    at = np.random.default_rng(1).permutation(len(X))
    found = clone(align).fit_transform(X, sample_domain=domain)
    again = clone(align).fit_transform(X[at], sample_domain=domain[at])
    assert np.allclose(found[at], again, atol=1e-7 * np.abs(found).max())


@each
def test_any_positive_number_is_source(align):
    X, domain = domains()
    other = np.where(domain > 0, np.arange(1, len(X) + 1), -np.arange(1, len(X) + 1))
    expected = clone(align).fit_transform(X, sample_domain=domain)
    for same in (other, other.astype(float) / 7, other.tolist(), pd.Series(other)):
        assert np.array_equal(clone(align).fit_transform(X, sample_domain=same), expected)


@each
@pytest.mark.parametrize("d", [5, 150])
def test_single_precision_in_and_out_and_close_to_double(align, d):
    X, domain = domains(d=d, dtype=np.float32)
    found = clone(align).fit_transform(X, sample_domain=domain)
    double = clone(align).fit_transform(X.astype(np.float64), sample_domain=domain)
    assert found.dtype == np.float32 and double.dtype == np.float64
    assert np.allclose(found, double, atol=1e-5 * np.abs(double).max())
    assert clone(align).fit_transform(np.arange(20).reshape(10, 2) % 7, sample_domain=[1, -1] * 5).dtype == np.float64


@each
def test_new_rows_alone_or_in_company_and_after_pickling(align):
    X, domain = domains()
    fitted = clone(align).fit(X, sample_domain=domain)
    new = np.random.default_rng(2).normal(size=(7, X.shape[1]))
    found = fitted.transform(new, sample_domain=[1] * 7)
    alone = [fitted.transform(row[None], sample_domain=[1])[0] for row in new]
    assert np.allclose(found, alone) and np.array_equal(found, pickle.loads(pickle.dumps(fitted)).transform(new, [1] * 7))


@each
def test_names_and_tables(align):
    X, domain = domains()
    table = pd.DataFrame(X, columns=list("abcde"))
    found = clone(align).set_output(transform="pandas").fit_transform(table, sample_domain=domain)
    names = [f"subspacealign{i}" for i in range(5)] if isinstance(align, SubspaceAlign) else list("abcde")
    assert list(found.columns) == names and list(found.index) == list(table.index)


# --- pipelines and metadata -------------------------------------------------------------------------------------------------

@each
def test_in_a_pipeline_by_metadata_that_is_scoped(align):
    assert sklearn.get_config()["enable_metadata_routing"] is False, "importing us must not switch it on"
    X, domain = domains()
    y = (X[:, 0] > X[:, 0].mean()).astype(int)
    moved = clone(align).fit_transform(X, sample_domain=domain)
    expected = LogisticRegression().fit(moved[domain > 0], y[domain > 0])
    with sklearn.config_context(enable_metadata_routing=True):
        step = clone(align).set_fit_request(sample_domain=True).set_transform_request(sample_domain=True)
        pipe = make_pipeline(step, LogisticRegression().set_fit_request(sample_weight=True))
        pipe.fit(X, y, sample_domain=domain, sample_weight=(domain > 0).astype(float))
        assert np.allclose(pipe.predict_proba(X), expected.predict_proba(pipe[0].transform(X)), atol=1e-4)
        assert np.allclose(pipe[:-1].transform(X, sample_domain=domain), moved)
    assert sklearn.get_config()["enable_metadata_routing"] is False


@each
def test_in_a_pipeline_without_metadata_routing(align):
    X, domain = domains()
    step = clone(align)
    name = type(align).__name__.lower()
    make_pipeline(step, LogisticRegression()).fit(X, domain > 0, **{f"{name}__sample_domain": domain})
    assert step.n_target_ == (domain < 0).sum()
    with pytest.raises(RuntimeError): step.set_fit_request(sample_domain=True)


# --- CORAL ------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("n,m,d", [(60, 50, 5), (400, 900, 30), (60, 50, 1), (300, 260, 250)])
def test_coral_gives_the_source_the_covariance_of_the_target(n, m, d):
    X, domain = domains(n, m, d)
    found = CORAL(0.0).fit_transform(X, sample_domain=domain)
    S, T = found[domain > 0], found[domain < 0]
    assert np.allclose(np.cov(S, rowvar=False), np.cov(T, rowvar=False), atol=1e-6)
    assert np.allclose(S.mean(0), T.mean(0), atol=1e-9)


@pytest.mark.parametrize("n,m,d", [(60, 50, 5), (40, 30, 100), (120, 20, 60), (20, 120, 60), (60, 60, 60), (61, 60, 60), (2, 3, 8)])
@pytest.mark.parametrize("reg", [1e-3, 0.1, 10.0])
def test_coral_is_the_dense_formula(n, m, d, reg):
    X, domain = domains(n, m, d, seed=d)
    fitted = CORAL(reg).fit(X, sample_domain=domain)
    expected = dense_coral(X[domain > 0], X[domain < 0], reg)
    found = fitted.transform(X, sample_domain=domain)[domain > 0]
    assert np.allclose(found, expected, atol=1e-8 * np.abs(expected).max())
    kept = CORAL(reg, align_mean=False).fit_transform(X, sample_domain=domain)[domain > 0]
    assert np.allclose(kept.mean(0), X[domain > 0].mean(0)) and np.allclose(np.cov(kept.T), np.cov(found.T))


@pytest.mark.parametrize("n,m,d", [(40, 30, 100), (120, 20, 60), (20, 120, 60)])
def test_coral_of_new_rows_is_the_dense_formula_too(n, m, d):
    X, domain = domains(n, m, d, seed=d)
    S, T, new = X[domain > 0], X[domain < 0], np.random.default_rng(5).normal(size=(9, d))
    ridge = 0.05 * (np.trace(np.cov(S.T)) + np.trace(np.cov(T.T))) / (2 * d) * np.eye(d)
    expected = (new - S.mean(0)) @ root(np.cov(S.T) + ridge, -0.5) @ root(np.cov(T.T) + ridge, 0.5) + T.mean(0)
    found = CORAL(0.05).fit(X, sample_domain=domain).transform(new, sample_domain=[1] * 9)
    assert np.allclose(found, expected, atol=1e-8 * np.abs(expected).max())


def test_coral_without_reg_and_few_rows_is_the_limit_of_little_reg_on_the_rows_it_has_seen():
    X, domain = domains(20, 15, 80)
    found = CORAL(0.0).fit_transform(X, sample_domain=domain)
    assert np.allclose(found, CORAL(1e-12).fit_transform(X, sample_domain=domain), atol=1e-4)


def test_coral_of_equal_domains_changes_nothing_and_of_a_scaled_copy_scales():
    X, _ = domains()
    for factor in (1.0, 3.0):
        found = CORAL(0.0).fit_transform(np.vstack([X, factor * X]), sample_domain=np.repeat([1, -1], len(X)))
        assert np.allclose(found[:len(X)], factor * X)


def test_coral_does_not_depend_on_the_unit():
    X, domain = domains()
    assert np.allclose(CORAL(0.1).fit_transform(1e4 * X, sample_domain=domain), 1e4 * CORAL(0.1).fit_transform(X, sample_domain=domain))


def test_coral_needs_no_square_matrix_where_features_are_many():
    import tracemalloc

    X, domain = domains(30, 30, 3, seed=1)
    X = np.random.default_rng(0).normal(size=(60, 40_000))
    tracemalloc.start()
    CORAL().fit_transform(X, sample_domain=domain)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * X.nbytes, "a square matrix would take 12.8 GB, and ten copies of the rows 0.2"


# --- means and variances ----------------------------------------------------------------------------------------------------

def test_means_and_variances():
    X, domain = domains()
    S, T = X[domain > 0], X[domain < 0]
    both = MeanVarianceAlign().fit_transform(X, sample_domain=domain)[domain > 0]
    assert np.allclose(both, (S - S.mean(0)) / S.std(0) * T.std(0, ddof=1) / S.std(0, ddof=1) * S.std(0) + T.mean(0))
    assert np.allclose(both.std(0, ddof=1), T.std(0, ddof=1)) and np.allclose(both.mean(0), T.mean(0))
    shift = MeanVarianceAlign(variance=False).fit_transform(X, sample_domain=domain)[domain > 0]
    assert np.allclose(shift, S - S.mean(0) + T.mean(0))


# --- subspaces --------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("n,m,d,k", [(60, 50, 5, 3), (60, 50, 5, 5), (20, 15, 40, 6), (20, 15, 40, 14), (100, 15, 40, None)])
def test_subspaces_by_matrices(n, m, d, k):
    X, domain = domains(n, m, d)
    S, T, width = X[domain > 0], X[domain < 0], k or min(n - 1, m - 1, d)
    P, Q = (PCA(width, svd_solver="full").fit(rows).components_.T for rows in (S, T))
    fitted = SubspaceAlign(k).fit(X, sample_domain=domain)
    turn = np.sign((fitted.components_target_.T * Q).sum(0))  # the sign of a component is free
    found = fitted.transform(X, sample_domain=domain)
    assert found.shape == (n + m, width)
    assert np.allclose(found[domain > 0], (S - S.mean(0)) @ P @ P.T @ Q * turn)
    assert np.allclose(found[domain < 0], (T - T.mean(0)) @ Q * turn)


def test_subspaces_have_only_directions_in_which_both_spread():
    X, domain = domains()
    X[domain < 0, 2] = 1.0
    assert SubspaceAlign().fit_transform(X, sample_domain=domain).shape[1] == 4
    with pytest.raises(AlignmentError, match="from 1 to 4"): SubspaceAlign(5).fit(X, sample_domain=domain)
    for wrong in (0, -1, 2.5, "all", True):
        with pytest.raises(AlignmentError, match="n_components"): SubspaceAlign(wrong).fit(X, sample_domain=domain)


# --- transport --------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("reg", [0.0, 0.01, 1.0])
@pytest.mark.parametrize("n,m", [(60, 50), (30, 70), (1, 9), (9, 1)])
def test_plans_have_uniform_marginals(reg, n, m):
    X, domain = domains(n, m)
    plan = OTMap(reg).fit(X, sample_domain=domain).plan_
    assert plan.shape == (n, m) and (plan >= 0).all()
    assert np.allclose(plan.sum(1), 1 / n, atol=1e-7) and np.allclose(plan.sum(0), 1 / m, atol=1e-7)


def test_exact_transport_costs_what_the_best_assignment_does():
    X, domain = domains(40, 40, 6)
    S, T = X[domain > 0], X[domain < 0]
    cost = cdist(S, T, "sqeuclidean")
    rows, columns = linear_sum_assignment(cost)
    fitted = OTMap().fit(X, sample_domain=domain)
    assert fitted.cost_ == pytest.approx(cost[rows, columns].mean(), rel=1e-9)
    assert np.allclose(fitted.transform(S, sample_domain=[1] * 40), T[columns]), "each row goes to its partner"


def test_entropy_costs_more_and_much_of_it_sends_all_to_the_mean():
    X, domain = domains()
    costs = [OTMap(reg).fit(X, sample_domain=domain).cost_ for reg in (0.0, 0.01, 0.1, 1.0)]
    assert costs == sorted(costs)
    found = OTMap(1e4).fit_transform(X, sample_domain=domain)[domain > 0]
    assert np.allclose(found, X[domain < 0].mean(0), atol=1e-2)


def test_new_rows_move_as_the_nearest_that_was_seen():
    X, domain = domains()
    S, fitted = X[domain > 0], OTMap().fit(X, sample_domain=domain)
    new = np.random.default_rng(3).normal(size=(20, 5)) + 3
    nearest = cdist(new, S).argmin(1)
    expected = new + (fitted.transform(S, sample_domain=[1] * len(S)) - S)[nearest]
    assert np.allclose(fitted.transform(new, sample_domain=[1] * 20), expected)


def test_no_plan_is_an_error():
    X, domain = domains(200, 150)
    with np.errstate(over="ignore"), pytest.raises(AlignmentError, match="Raise max_steps"): OTMap(1e-4, max_steps=3).fit(X, sample_domain=domain)
    with pytest.warns(UserWarning), pytest.raises(AlignmentError, match="Raise max_steps"): OTMap(max_steps=3).fit(X, sample_domain=domain)


# --- bad input --------------------------------------------------------------------------------------------------------------

@each
@pytest.mark.parametrize("wrong,message", [([1] * 110, "no target"), ([-1] * 110, "no source"), ([1, -1], "a list of 110 numbers"),
                                           ([1, -1, 0] + [1] * 107, "0 in row 2"), ([1.0, np.nan] + [-1] * 108, "nan in row 1"),
                                           (["s", "t"] * 55, "a list of 110 numbers"), ([[1]] * 110, "a list of 110 numbers"),
                                           ([True, False] * 55, "a list of 110 numbers"), ([1, None] * 55, "a list of 110 numbers"),
                                           (1, "a list of 110 numbers")])
def test_wrong_domains(align, wrong, message):
    with pytest.raises(AlignmentError, match=message): clone(align).fit(domains()[0], sample_domain=wrong)


@each
def test_wrong_domains_at_transform(align):
    X, domain = domains()
    fitted = clone(align).fit(X, sample_domain=domain)
    for wrong in ([1] * 109, [0] * 110, [np.nan] * 110):
        with pytest.raises(AlignmentError, match="sample_domain"): fitted.transform(X, sample_domain=wrong)


@each
def test_nan_and_wrong_width(align):
    X, domain = domains()
    bad = X.copy()
    bad[3, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"): clone(align).fit(bad, sample_domain=domain)
    fitted = clone(align).fit(X, sample_domain=domain)
    with pytest.raises(ValueError, match="NaN"): fitted.transform(bad)
    with pytest.raises(ValueError, match="features"): fitted.transform(X[:, :3])


@each
@pytest.mark.parametrize("offset", [0.0, 1.0, 1e6 / 3])
@pytest.mark.parametrize("where", ["source", "target", "both"])
@pytest.mark.parametrize("d", [5, 150])
def test_constant_features_stay_finite(align, where, offset, d):
    X, domain = domains(d=d)
    rows = {"source": domain > 0, "target": domain < 0, "both": domain != 0}[where]
    X[np.ix_(rows, [1, 4])] = offset
    found = clone(align).fit_transform(X, sample_domain=domain)
    assert np.isfinite(found).all() and np.abs(found).max() <= 1e3 * np.abs(X).max()
    if where == "both" and not isinstance(align, SubspaceAlign): assert np.allclose(found[:, [1, 4]], offset)


def test_constant_features_come_to_lie_on_the_targets_mean():
    X, domain = domains()
    X[domain > 0, 2] = 0.1
    for align in (CORAL(0.0), MeanVarianceAlign(), MeanVarianceAlign(variance=False)):
        moved = align.fit_transform(X, sample_domain=domain)[domain > 0, 2]
        if not isinstance(align, CORAL): assert np.allclose(moved, X[domain < 0, 2].mean())
        assert moved.mean() == pytest.approx(X[domain < 0, 2].mean())


@each
def test_domains_that_are_constant_altogether(align):
    X, domain = domains()
    X[domain > 0] = 7.0
    if isinstance(align, SubspaceAlign):
        with pytest.raises(AlignmentError, match="all alike"): clone(align).fit(X, sample_domain=domain)
        return
    found = clone(align).fit_transform(X, sample_domain=domain)[domain > 0]
    assert np.allclose(found, 7.0 if not getattr(align, "align_mean", True) else X[domain < 0].mean(0))


@each
@pytest.mark.parametrize("name", ["source", "target"])
def test_one_sample_of_a_domain(align, name):
    X, domain = domains(1, 20) if name == "source" else domains(20, 1)
    if isinstance(align, OTMap):
        assert np.isfinite(clone(align).fit_transform(X, sample_domain=domain)).all()
        return
    with pytest.raises(AlignmentError, match=f"The {name} has one sample"): clone(align).fit(X, sample_domain=domain)


@pytest.mark.parametrize("wrong", [-0.1, np.nan, np.inf, "auto", None])
@pytest.mark.parametrize("align", [CORAL, OTMap])
def test_wrong_amounts(align, wrong):
    X, domain = domains()
    with pytest.raises(AlignmentError, match="reg = "): align(wrong).fit(X, sample_domain=domain)


# --- the benchmark ----------------------------------------------------------------------------------------------------------

def test_the_benchmark_sets_the_same_work_side_by_side():
    pytest.importorskip("skada")
    from benchmarks import coral, coral_worker

    S, T = coral.domains(200, 30)
    assert [X.var(0, ddof=1).mean() for X in (S, T)] == pytest.approx([1, 1])
    found = {who: coral_worker.ready(who, S, T, 0.05)() for who in ("tl_nb", "skada")}
    A, B = np.cov(S.T) + 0.05 * np.eye(30), np.cov(T.T) + 0.05 * np.eye(30)  # as `adapt` writes it
    found["adapt"] = S @ root(A, -0.5) @ root(B, 0.5)
    for X in found.values(): assert np.allclose(X - X.mean(0), found["adapt"] - found["adapt"].mean(0), atol=1e-9)


def test_the_benchmark_goes_on_without_its_second_peer(monkeypatch, capsys, tmp_path):
    pytest.importorskip("skada")
    from benchmarks import coral

    monkeypatch.setattr(coral, "ADAPT", tmp_path / "nothing")
    ratio, apart = coral.side_by_side(40, 5, 1)
    assert ratio > 0 and apart < 1e-9 and "without adapt" in capsys.readouterr().out


@each
def test_numbers_whose_squares_cannot_be_held_are_refused(align):
    X, domain = domains()
    with pytest.raises(AlignmentError, match="constant"): clone(align).fit(1e200 * X, sample_domain=domain)


def test_nothing_is_left_of_an_earlier_fit():
    X, domain = domains()
    found = OTMap().fit(X, sample_domain=domain)
    assert hasattr(found, "plan_") and not hasattr(found.fit(X), "plan_")


def test_steps_are_at_least_one():
    X, domain = domains()
    with pytest.raises(AlignmentError, match="max_steps"): OTMap(0.1, max_steps=0).fit(X, sample_domain=domain)
