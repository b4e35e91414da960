"Averages, weights, selection, stacks and soups, against brute force, naive loops and members with a memory."
import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from small_models import everything, image_backbone, save_text, texts
from tl_nb.backbones import load_backbone
from tl_nb.calibration import ProbabilityError, brier
from tl_nb.classifier import Classifier
from tl_nb.ensemble import (Ensemble, Stack, _best_weights, ambiguity, average, diversity, greedy_selection, out_of_fold,
                            predictions, soup, weighted)


def members(n=120, k=3, m=4, seed=0):
    "{name: probabilities} of members of unlike quality, and the labels."
    rng = np.random.default_rng(seed)
    y = rng.integers(k, size=n)
    found = {}
    for i in range(m):
        z = rng.normal(size=(n, k)) + (0.3 + 0.5 * i) * np.eye(k)[y]
        found[f"m{i}"] = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    return found, y


def loss_of(P, y): return lambda w: log_loss(y, np.tensordot(np.asarray(w), P, 1), labels=range(P.shape[2]))


# --- averaging --------------------------------------------------------------------------------------------------------

def test_an_average_is_that_of_a_loop():
    p, _ = members()
    a, g = average(p), average(p, how="geometric")
    for i in range(5):
        assert np.allclose(a[i], sum(q[i] for q in p.values()) / 4)
        product = np.prod([q[i] for q in p.values()], axis=0) ** 0.25
        assert np.allclose(g[i], product / product.sum())
    weights = {"m0": 1, "m1": 0, "m2": 3, "m3": 0}  # votes; the sum is theirs
    assert np.allclose(average(p, weights), 0.25 * p["m0"] + 0.75 * p["m2"])


def test_the_average_of_one_is_itself():
    p, _ = members(m=1)
    assert (average(p) == p["m0"]).all()
    assert np.allclose(average(p, how="geometric"), p["m0"], rtol=1e-9)


def test_the_order_of_members_does_not_count():
    p, y = members()
    other = dict(reversed(p.items()))
    assert np.allclose(average(p), average(other)) and np.allclose(average(p, how="geometric"), average(other, how="geometric"))
    a, b = weighted(p, y), weighted(other, y)
    assert all(math.isclose(a[name], b[name], abs_tol=1e-6) for name in p)


def test_a_zero_is_no_veto_for_ever():
    sure = {"a": [[1.0, 0.0]], "b": [[0.0, 1.0]]}
    assert np.allclose(average(sure, how="geometric"), 0.5) and np.allclose(average(sure), 0.5)


@pytest.mark.parametrize("bad, says", [
    ({}, "one member or more"), ([[0.5, 0.5]], "dictionary"), ({"a": [[0.5, 0.6]]}, "member 'a'"),
    ({"a": [[0.5, 0.5]], "b": [[np.nan, 0.5]]}, "member 'b'"), ({"a": [[0.5, 0.5]], "b": [[-0.5, 1.5]]}, "member 'b'"),
    ({"a": [[0.5, 0.5]], "b": [[0.5, 0.5]] * 2}, "same items"), ({"a": [[0.5, 0.5]], "b": [[0.2, 0.3, 0.5]]}, "same classes")])
def test_members_that_do_not_fit_are_named(bad, says):
    for of in (average, lambda p: weighted(p, [0]), lambda p: greedy_selection(p, [0]), lambda p: diversity(p, [0])):
        with pytest.raises(ProbabilityError) as e: of(bad)
        assert says in str(e.value)


@pytest.mark.parametrize("weights, says", [({"m0": 1}, "weight for each"), ([1, 1, 1, 1], "list"),
                                           ({"m0": -1, "m1": 1, "m2": 1, "m3": 1}, "negative"),
                                           ({f"m{i}": 0 for i in range(4)}, "above 0"),
                                           ({f"m{i}": np.nan for i in range(4)}, "above 0")])
def test_bad_weights(weights, says):
    with pytest.raises(ProbabilityError, match=says): average(members()[0], weights)


def test_bad_names_of_ways():
    p, y = members()
    with pytest.raises(ProbabilityError, match="'arithmetic' and 'geometric'"): average(p, how="median")
    with pytest.raises(ProbabilityError, match="log_loss, accuracy, brier"): greedy_selection(p, y, score="auc")


# --- weights ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("seed", range(6))
def test_weights_are_those_of_slsqp(seed):
    p, y = members(m=2 + seed, seed=seed)
    P, w = np.stack(list(p.values())), np.array(list(weighted(p, y).values()))
    m = len(w)
    assert (w >= 0).all() and math.isclose(w.sum(), 1)
    theirs = minimize(loss_of(P, y), np.full(m, 1 / m), method="SLSQP", bounds=[(0, 1)] * m, options={"ftol": 1e-14},
                      constraints={"type": "eq", "fun": lambda w: w.sum() - 1})
    assert loss_of(P, y)(w) <= theirs.fun + 1e-9
    assert np.allclose(w, theirs.x, atol=2e-3)


def test_weights_beat_every_point_of_a_grid():
    p, y = members(n=60, m=3, seed=8)
    P = np.stack(list(p.values()))
    best = min(loss_of(P, y)((a / 40, b / 40, (40 - a - b) / 40)) for a in range(41) for b in range(41 - a))
    assert loss_of(P, y)(list(weighted(p, y).values())) <= best


def test_weights_are_optimal_in_hard_cases():
    "No member could gain from more weight: the condition of Karush, Kuhn and Tucker, for ties, zeros and few rows."
    rng = np.random.default_rng(0)
    for trial in range(300):
        n, m = int(rng.choice([1, 2, 10, 200])), int(rng.integers(1, 10))
        hit = rng.uniform(size=(n, m)) ** (20 if trial % 3 else 1)
        if trial % 2: hit = np.where(rng.uniform(size=(n, m)) < 0.4, 1e-12, hit)
        if trial % 5 == 0: hit[:, -1] = hit[:, 0]
        w = _best_weights(np.maximum(hit, 1e-12))
        assert (w >= 0).all() and math.isclose(w.sum(), 1)
        assert (hit.clip(1e-12) / (hit.clip(1e-12) @ w)[:, None]).mean(0).max() < 1 + 1e-7


def test_weights_of_edges():
    p, y = members(m=1)
    assert weighted(p, y) == {"m0": 1.0}
    twins = {"a": members(seed=1)[0]["m2"], "b": members(seed=1)[0]["m2"]}
    assert all(math.isclose(w, 0.5, abs_tol=1e-9) for w in weighted(twins, members(seed=1)[1]).values())
    good, bad = np.tile([0.1, 0.9], (5, 1)), np.tile([0.6, 0.4], (5, 1))
    assert weighted({"bad": bad, "good": good}, [1] * 5) == {"bad": 0.0, "good": 1.0}
    assert weighted({"bad": bad[:1], "good": good[:1]}, [1]) == {"bad": 0.0, "good": 1.0}
    never = {"a": [[1.0, 0.0]], "b": [[1.0, 0.0]]}
    assert math.isclose(sum(weighted(never, [1]).values()), 1)


# --- greedy selection -------------------------------------------------------------------------------------------------

def test_selection_refuses_fewer_than_no_rounds():
    with pytest.raises(ProbabilityError, match="rounds = -1"): greedy_selection({"a": [[0.2, 0.8]]}, [1], rounds=-1)
    with pytest.raises(ProbabilityError, match="an empty dict"): average({})


def naive_selection(p, y, rounds, score):
    names = list(p)
    of = {"accuracy": lambda q: np.mean(q.argmax(1) == y), "log_loss": lambda q: -log_loss(y, q, labels=range(q.shape[1])),
          "brier": lambda q: -brier(q, y)}[score]
    mean = lambda bag: np.mean([p[name] for name in bag], axis=0)
    ranked = sorted(names, key=lambda name: -of(p[name]))
    bag = max((ranked[:n] for n in range(1, len(names) + 1)), key=lambda b: of(mean(b)))
    best = bag, of(mean(bag))
    for _ in range(rounds):
        bag = max(([*bag, name] for name in names), key=lambda b: of(mean(b)))
        if of(mean(bag)) > best[1] + 1e-15: best = bag, of(mean(bag))
    return {name: best[0].count(name) / len(best[0]) for name in names}


@pytest.mark.parametrize("score", ["log_loss", "accuracy", "brier"])
@pytest.mark.parametrize("seed", range(4))
def test_selection_is_that_of_a_naive_loop(score, seed):
    p, y = members(n=150, m=5, seed=seed)
    ours, theirs = greedy_selection(p, y, rounds=12, score=score), naive_selection(p, y, 12, score)
    assert all(math.isclose(ours[name], theirs[name]) for name in p)


@pytest.mark.parametrize("score", ["log_loss", "accuracy", "brier"])
def test_selection_is_never_worse_than_the_best_member(score):
    of = {"accuracy": lambda q, y: np.mean(q.argmax(1) == y), "brier": lambda q, y: -brier(q, y),
          "log_loss": lambda q, y: -log_loss(y, q, labels=range(q.shape[1]))}[score]
    for seed in range(20):
        p, y = members(n=40, m=4, seed=seed)
        chosen = of(average(p, greedy_selection(p, y, rounds=seed % 4, score=score)), y)
        assert chosen >= max(of(q, y) for q in p.values()) - 1e-12


def test_selection_of_edges():
    p, y = members(m=1)
    assert greedy_selection(p, y) == {"m0": 1.0}
    assert sum(greedy_selection({k: q[:1] for k, q in members()[0].items()}, [0]).values()) == pytest.approx(1)
    flat = {"a": np.full((4, 2), 0.5), "b": np.full((4, 2), 0.5)}
    assert sum(greedy_selection(flat, [0, 1, 0, 1]).values()) == 1


# --- diversity --------------------------------------------------------------------------------------------------------

def test_diversity_counts_pairs():
    p, y = members(n=200)
    t = diversity(p, y)
    assert list(t.index) == list(itertools.combinations(p, 2))
    right = {name: q.argmax(1) == y for name, q in p.items()}
    for (a, b), row in t.iterrows():
        n11, n10 = sum(right[a] & right[b]), sum(right[a] & ~right[b])
        n01, n00 = sum(~right[a] & right[b]), sum(~right[a] & ~right[b])
        assert math.isclose(row.disagreement, (n10 + n01) / 200) and math.isclose(row.both_wrong, n00 / 200)
        assert math.isclose(row.Q, (n11 * n00 - n10 * n01) / (n11 * n00 + n10 * n01))
        assert math.isclose(row.correlation, np.corrcoef(~right[a], ~right[b])[0, 1])


def test_diversity_of_edges():
    p = np.array([[0.9, 0.1], [0.2, 0.8]])
    same = diversity({"a": p, "b": p}, [0, 0]).iloc[0]
    assert same.disagreement == 0 and math.isclose(same.correlation, 1) and same.Q == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        always = diversity({"a": p, "b": p[::-1]}, [0, 1]).iloc[0]
    assert always.disagreement == 1 and math.isnan(always.correlation)
    assert diversity({"a": p}, [0, 1]).empty


@pytest.mark.parametrize("how", ["arithmetic", "geometric"])
def test_the_decomposition_is_exact(how):
    p, y = members()
    for weights in (None, weighted(p, y), {"m0": 1, "m1": 0, "m2": 0, "m3": 0}):
        found = ambiguity(p, y, weights, how)
        assert math.isclose(found.ensemble, found.members - found.ambiguity, rel_tol=1e-9) and found.ambiguity >= -1e-12
    mean = average(p, how=how)
    loss = brier if how == "arithmetic" else lambda q, y: log_loss(y, q, labels=range(3))
    found = ambiguity(p, y, how=how)
    assert math.isclose(found.ensemble, loss(mean, y)) and math.isclose(found.members, np.mean([loss(q, y) for q in p.values()]))


# --- members ----------------------------------------------------------------------------------------------------------

class Fixed:
    "A member that says the same of every item, with its classes in an order of its own."
    def __init__(self, **shares): self.classes, self.row = list(shares), list(shares.values())

    def predict_proba(self, items): return np.tile(self.row, (len(items), 1))


def test_columns_are_put_into_one_order():
    found = predictions({"a": Fixed(cold=0.2, warm=0.8), "b": Fixed(warm=0.7, cold=0.3)}, range(3))
    assert np.allclose(found["a"], [0.2, 0.8]) and np.allclose(found["b"], [0.3, 0.7])
    assert np.allclose(predictions({"a": Fixed(cold=0.2, warm=0.8)}, range(3), ["warm", "cold"])["a"], [0.8, 0.2])


def test_other_classes_are_named():
    with pytest.raises(ProbabilityError, match="'b' has other classes .*'hot'.*only in it.*'warm'"):
        predictions({"a": Fixed(cold=0.2, warm=0.8), "b": Fixed(cold=0.2, hot=0.8)}, range(3))
    with pytest.raises(ProbabilityError, match="'b' has other classes"):
        predictions({"a": Fixed(cold=0.2, warm=0.8), "b": Fixed(cold=0.2, warm=0.3, hot=0.5)}, range(3))
    lying = Fixed(cold=0.2, warm=0.8)
    lying.classes = ["cold", "warm", "hot"]
    with pytest.raises(ProbabilityError, match="'a' gives 2 columns for its 3 classes"): predictions({"a": lying}, range(3))
    with pytest.raises(ProbabilityError, match="'a' lacks predict_proba"): predictions({"a": object()}, range(3))


def test_an_ensemble_is_a_member():
    a, b = Fixed(cold=0.2, warm=0.8), Fixed(warm=0.4, cold=0.6)
    both = Ensemble({"a": a, "b": b})
    assert both.classes == ["cold", "warm"] and np.allclose(both.predict_proba(range(2)), [0.4, 0.6])
    assert both.predict(range(2)) == ["warm", "warm"]
    nested = Ensemble({"both": both, "b": b}, {"both": 1, "b": 3}, "geometric")
    assert np.allclose(nested.predict_proba([0]), average({"x": [[0.4, 0.6]], "y": [[0.6, 0.4]]}, {"x": 1, "y": 3}, "geometric"))
    for bad in ({}, [("a", a), ("a", b)]):
        with pytest.raises(ProbabilityError, match="name of its own"): Ensemble(bad)


# --- stacking ---------------------------------------------------------------------------------------------------------

STACKS = [Stack([("lr", LogisticRegression()), ("nb", GaussianNB())]), Stack({"one": LogisticRegression()}, cv=2)]


@parametrize_with_checks(STACKS)
def test_scikit_learn_accepts_it(estimator, check): check(estimator)


class Memory(ClassifierMixin, BaseEstimator):
    "Knows the label of every item it has seen, and nothing of others."
    def fit(self, X, y):
        self.classes_, self.known = np.unique(y), dict(zip(map(str, X), y))
        return self

    def predict_proba(self, X):
        k = len(self.classes_)
        rows = [np.eye(k)[list(self.classes_).index(self.known[str(x)])] if str(x) in self.known else np.full(k, 1 / k) for x in X]
        return np.array(rows)


ITEMS, NAMES = [f"text {i}" for i in range(40)], ["no", "yes"] * 20


def test_no_row_is_judged_by_a_model_that_saw_it():
    stack = Stack([("memory", Memory())], random_state=3).fit(ITEMS, NAMES)
    assert (stack.out_of_fold_["memory"] == 0.5).all()
    assert (stack.members_["memory"].predict_proba(ITEMS).max(1) == 1).all(), "in the end it is fitted on all"


def test_rows_of_one_group_share_a_fold():
    twins, groups = [f"text {i // 2}" for i in range(40)], [i // 2 for i in range(40)]
    names = [["no", "yes"][i // 2 % 2] for i in range(40)]
    apart = Stack([("memory", Memory())]).fit(twins, names)
    assert (apart.out_of_fold_["memory"] != 0.5).any(), "without groups the twin gives the label away"
    for cv in (2, 5, 100):
        assert (Stack([("memory", Memory())], cv=cv).fit(twins, names, groups).out_of_fold_["memory"] == 0.5).all()


@pytest.mark.parametrize("cv", [2, 3, 5])
def test_out_of_fold_is_that_of_a_loop(cv):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 3)), rng.integers(3, size=60)
    fold = rng.integers(cv, size=60)
    found = out_of_fold(LogisticRegression(), X, y, fold)
    for f in range(cv):
        assert np.allclose(found[fold == f], LogisticRegression().fit(X[fold != f], y[fold != f]).predict_proba(X[fold == f]))


def test_a_class_may_be_missing_in_a_fold():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(31, 2)) + 2
    y = np.array([0] * 15 + [1] * 15 + [2])  # a single item of class 2: without its fold no member knows it
    stack = Stack([("lr", LogisticRegression()), ("nb", KNeighborsClassifier(3))]).fit(X, y)
    row = stack.out_of_fold_["lr"][30]
    assert row[2] < 1e-9 and math.isclose(row.sum(), 1)
    assert stack.predict_proba(X).shape == (31, 3) and np.allclose(stack.predict_proba(X).sum(1), 1)


@pytest.mark.parametrize("items, labels, says", [
    (ITEMS, ["no"] * 40, "more than one class"), (ITEMS[:2], ["no", "yes"], "cannot learn"), ([], [], "more than one class"),
    (ITEMS[:1], ["no"], "more than one class"), (ITEMS, NAMES[:10], "inconsistent numbers")])
def test_too_little_to_stack(items, labels, says):
    with pytest.raises(ValueError, match=says): Stack([("memory", Memory())]).fit(items, labels)


@pytest.mark.parametrize("change, says", [(dict(cv=1), "cv = 1"), (dict(cv="often"), "prefit"), (dict(members=[]), "name of its own"),
                                          (dict(members=[("a", Memory()), ("a", Memory())]), "name of its own")])
def test_bad_parameters_of_a_stack(change, says):
    with pytest.raises(ProbabilityError, match=says): Stack(**{"members": [("a", Memory())]} | change).fit(ITEMS, NAMES)


def test_bad_groups():
    with pytest.raises(ProbabilityError, match="groups"): Stack([("a", Memory())]).fit(ITEMS, NAMES, groups=[1, 2])
    with pytest.raises(ProbabilityError, match="1 item or group"): Stack([("a", Memory())]).fit(ITEMS, NAMES, groups=[1] * 40)


def test_a_stack_of_texts_keeps_names_and_ignores_a_constant_member():
    data = texts(90)
    words = make_pipeline(TfidfVectorizer(), LogisticRegression(C=100))
    one = Stack({"words": words}).fit(data.items, data.label_names)
    two = Stack({"words": words, "constant": DummyClassifier()}).fit(data.items, data.label_names)
    assert one.predict(data.items).tolist() == data.label_names == two.predict(data.items).tolist()
    assert np.allclose(one.predict_proba(data.items), two.predict_proba(data.items), atol=0.02)
    assert list(one.classes_) == ["cold", "warm"] and one.out_of_fold_["words"].shape == (90, 2)
    again = clone(one).fit(np.array(data.items, dtype=object), data.label_names)
    assert np.allclose(again.predict_proba(data.items), one.predict_proba(data.items))


def test_another_head_and_a_seed():
    data = texts(60)
    words = make_pipeline(TfidfVectorizer(), LogisticRegression())
    stack = Stack({"words": words}, head=KNeighborsClassifier(3), random_state=1).fit(data.items, data.label_names)
    assert isinstance(stack.head_, KNeighborsClassifier) and stack.predict(data.items).tolist() == data.label_names


def test_members_that_are_fitted_stay_as_they_are():
    p, y = members(k=2)
    ours = [["cold", "warm"][i] for i in y]

    class Told:
        def __init__(self, p, classes): self.p, self.classes = p, classes
        def predict_proba(self, items): return self.p[list(items)]
    told = {"a": Told(p["m3"], ["cold", "warm"]), "b": Told(p["m2"][:, ::-1], ["warm", "cold"])}
    stack = Stack(told, cv="prefit").fit(range(120), ours)
    assert stack.members_["a"] is told["a"] and np.allclose(stack.out_of_fold_["b"], p["m2"])
    z = np.stack([np.log(p[m][:, 1] / p[m][:, 0]) / 2 for m in ("m3", "m2")], 1)
    assert np.allclose(stack.predict_proba(range(120)), LogisticRegression().fit(z, y).predict_proba(z))
    with pytest.raises(ProbabilityError, match="'a' has other classes"): Stack(told, cv="prefit").fit(range(120), y)


# --- soups ------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def backbone(tmp_path_factory): return load_backbone(save_text("bert", tmp_path_factory.mktemp("soup") / "bert"))


def tunings(backbone, n=3, classes=("cold", "warm"), **kw):
    "Classifiers of one backbone whose weights were shaken, each in its way."
    found = []
    for seed in range(n):
        torch.manual_seed(seed)
        found.append(Classifier(backbone, list(classes), **kw).eval())
        with torch.no_grad():
            for p in found[-1].parameters(): p.add_(0.05 * torch.randn_like(p))
    return found


def test_a_soup_is_the_mean_of_the_weights(backbone):
    nets = tunings(backbone)
    before = [everything(net) for net in nets]
    mixed = soup(nets)
    for k, v in mixed.state_dict().items():
        assert torch.allclose(v, torch.stack([net.state_dict()[k].double() for net in nets]).mean(0).to(v.dtype), atol=1e-7)
    for net, was in zip(nets, before):
        assert all(torch.equal(was[k], v) for k, v in everything(net).items()), "the ingredients stay as they are"
    assert mixed.classes == nets[0].classes and not mixed.training
    assert mixed.predict_proba(texts().items, progress=False).shape == (24, 2)
    assert not any(a.data_ptr() == b.data_ptr() for net in nets for a, b in zip(mixed.parameters(), net.parameters()))


def test_a_soup_does_not_depend_on_the_order(backbone):
    nets = tunings(backbone, 4)
    first = soup(nets).state_dict()
    for order in itertools.permutations(nets):
        assert all(torch.equal(first[k], v) for k, v in soup(order).state_dict().items())


def test_a_soup_of_one_or_of_twins_is_itself(backbone):
    net = tunings(backbone, 1)[0]
    for bowl in ([net], [net, net, net]):
        assert all(torch.equal(v, net.state_dict()[k]) for k, v in soup(bowl).state_dict().items())


def test_a_greedy_soup_is_that_of_a_naive_loop(backbone):
    valid = texts(60, seed=5)
    accuracy = lambda net: np.mean(net.predict_proba(valid, progress=False).argmax(1) == valid.labels)
    for some in (tunings(backbone, 5)[:3], tunings(backbone, 5)[2:]):
        ranked = sorted(some, key=lambda net: (accuracy(net), -log_loss(valid.labels, net.predict_proba(valid, progress=False))),
                        reverse=True)
        kept = [ranked[0]]
        for net in ranked[1:]:
            if accuracy(soup([*kept, net])) >= accuracy(soup(kept)): kept.append(net)
        found = soup(some, "greedy", valid)
        assert all(torch.equal(v, soup(kept).state_dict()[k]) for k, v in found.state_dict().items())
        assert accuracy(found) >= max(map(accuracy, some))
        again = soup(some[::-1], "greedy", valid).state_dict()
        assert all(torch.equal(v, again[k]) for k, v in found.state_dict().items())


def test_whole_numbers_in_a_soup():
    "BatchNorm counts its batches in integers, which have no mean."
    def net(count):
        torch.manual_seed(count)
        found = Classifier(image_backbone("resnet18"), ["a", "b"])
        for m in found.modules():
            if hasattr(m, "num_batches_tracked"): m.num_batches_tracked.fill_(count)
        return found
    mixed = soup([net(3), net(8)]).state_dict()
    counts = [v for k, v in mixed.items() if k.endswith("num_batches_tracked")]
    assert counts and all(v.dtype == torch.int64 and v == 8 for v in counts)


def test_what_does_not_mix_is_named(backbone, tmp_path):
    nets, other = tunings(backbone), load_backbone(save_text("roberta", tmp_path / "roberta"))
    cases = [([nets[0], *tunings(backbone, 1, ("warm", "cold"))], "number 1 has the classes"),
             ([nets[0], *tunings(backbone, 1, ("a", "b", "c"))], "number 1 has the classes"),
             ([nets[0], nets[1], *tunings(other, 1)], "number 2 has another architecture"),
             ([nets[0], *tunings(backbone, 1, pooling="native")], "number 1 has another architecture"),
             ([nets[0], tunings(backbone, 1)[0].parameter_efficient("lora")], "number 1 has an adapter .lora."),
             ([nets[0], LogisticRegression()], "number 1 is a LogisticRegression"), ([], "no classifiers")]
    for some, says in cases:
        with pytest.raises(ProbabilityError, match=says): soup(some)
    for how, valid, says in (("best", None, "'uniform' and 'greedy'"), ("greedy", None, "needs valid="),
                             ("greedy", texts()[[]], "needs valid=")):
        with pytest.raises(ProbabilityError, match=says): soup(nets, how, valid)


def test_bitfit_mixes(backbone):
    nets = [net.parameter_efficient("bitfit") for net in tunings(backbone, 2)]
    assert soup(nets).predict(texts().items[:3], progress=False)
