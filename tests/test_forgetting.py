"Not forgetting: the Fisher information is exact, penalties are their formulas, frozen stays frozen, and mixtures are mixtures."
import copy
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.optimizer import OptimWrapper
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from small_models import everything, images, small_backbones, texts
from tl_nb.backbones import freeze, is_frozen
from tl_nb.classifier import Classifier
from tl_nb.finetune import image_learner, text_learner
from tl_nb.forgetting import (EWC, L2SP, ForgettingError, GradualUnfreeze, LwF, Remedy, Replay, Reservoir, alpha_sweep,
                              fisher, next_learner, old_task, remembered, retention, retention_table, wise_ft)

SAME, OTHER = ("cold", "warm"), ("x", "y", "z")
FAMILIES = ["bert", "xlnet", "vit_tiny_patch16_224", "efficientnet_lite0", "resnet18", "hf-resnet"]


@pytest.fixture(scope="module")
def backbones(tmp_path_factory): return small_backbones(tmp_path_factory.mktemp("backbones"))


def data_for(backbone, **kwargs): return (texts if backbone.kind == "text" else images)(**kwargs)


def first(backbone, **kwargs):
    "A network that has learned a first task."
    learn = (text_learner if backbone.kind == "text" else image_learner)(backbone, data_for(backbone), seed=0, bs=8, **kwargs)
    return fitted(learn).model.eval()


def second(old, classes=OTHER, cbs=(), **kwargs):
    return next_learner(old, data_for(old.backbone, classes=classes, seed=3), seed=1, bs=8, cbs=list(cbs), **kwargs)


def fitted(learn, epochs=1, lr=1e-3, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs, lr, **kwargs)
    return learn


def sgd(learn):
    "Plain gradient descent, so that a step can be made by hand."
    learn.opt_func, learn.opt = partial(OptimWrapper, opt=torch.optim.SGD), None
    learn.remove_cbs([cb for cb in learn.cbs if cb.name == "gradient_clip"])
    return learn


def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def one_batch(learn):
    "A single batch of the training part, again and again."
    batch = next(iter(learn.dls.train))
    learn.dls = DataLoaders([batch], [batch])
    return batch


# ---- Fisher

def logistic(n=300, d=6, seed=0):
    "Rows of different sizes, labels, and a logistic regression: two logits whose difference is x w + b."
    rng = np.random.default_rng(seed)
    X = torch.tensor(rng.normal(size=(n, d)) * rng.uniform(0.2, 3, d), dtype=torch.float64)
    net = Logistic(d)
    return X, torch.tensor(rng.integers(0, 2, n)), net


class Logistic(nn.Module):
    def __init__(self, d):
        super().__init__()
        torch.manual_seed(0)
        self.line = nn.Linear(d, 1, bias=False).double()

    def forward(self, x): return torch.cat([torch.zeros_like(z := self.line(x)), z], 1)


@pytest.mark.parametrize("bs", [1, 8, 32, 128])
def test_the_fisher_of_logistic_regression_is_the_textbooks(bs):
    X, y, net = logistic()
    p = torch.sigmoid(net.line(X)).squeeze(1)
    exact = (X.T @ torch.diag(p * (1 - p)) @ X).diagonal().detach()
    for batches in (list(X.split(bs)), DataLoader(TensorDataset(X, y), bs, shuffle=True)):
        found = fisher(net, batches, reduction="sum")["line.weight"][0]
        assert (found / exact - 1).abs().max() <= 1e-5
    mean = fisher(net, list(X.split(bs)))["line.weight"][0]
    assert torch.allclose(mean * len(X), exact, rtol=1e-9)


@pytest.mark.parametrize("bs", [1, 8, 32, 128])
def test_softmax_regression_with_a_bias(bs):
    "Every class has X' diag(p_c (1 - p_c)) X on its diagonal; the bias is a column of ones."
    X, _, _ = logistic()
    net = nn.Linear(6, 3).double()
    p = net(X).softmax(1).detach()
    found, weight = fisher(net, list(X.split(bs)), reduction="sum"), p * (1 - p)
    assert torch.allclose(found["weight"], weight.T @ X ** 2, rtol=1e-8)
    assert torch.allclose(found["bias"], weight.sum(0), rtol=1e-8)


def test_the_squared_mean_of_a_batch_would_be_another_thing():
    X, y, net = logistic()
    exact = fisher(net, [(X, y)], labels="observed", reduction="sum")["line.weight"]
    wrong = torch.zeros_like(exact)
    for x, t in zip(X.split(32), y.split(32)):
        wrong += torch.autograd.grad(F.cross_entropy(net(x), t), net.line.weight)[0] ** 2 * len(x)
    assert wrong.sum() < 0.2 * exact.sum()


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.BatchNorm1d(4), nn.Linear(4, 3)).double()


@pytest.mark.parametrize("labels", ["expected", "observed"])
def test_a_small_network_by_finite_differences(labels):
    net, x, y = small_net(), torch.randn(7, 3, dtype=torch.float64), torch.arange(7) % 3
    net[2].running_mean += 0.3
    found, step = fisher(net, [(x[:5], y[:5]), (x[5:], y[5:])], labels=labels, reduction="sum"), 1e-5
    net.eval()
    with torch.no_grad():
        p = net(x).softmax(1)
        weight = p if labels == "expected" else F.one_hot(y, 3).double()
        for name, param in net.named_parameters():
            for i in range(param.numel()):
                flat, kept = param.view(-1), param.view(-1)[i].item()
                flat[i] = kept + step; up = net(x).log_softmax(1)
                flat[i] = kept - step; down = net(x).log_softmax(1)
                flat[i] = kept
                exact = (weight * ((up - down) / (2 * step)) ** 2).sum().item()
                assert found[name].view(-1)[i].item() == pytest.approx(exact, rel=1e-5, abs=1e-9), (name, i)


def test_expected_is_what_sampled_labels_give_on_average():
    X, _, net = logistic(n=40)
    torch.manual_seed(1)
    exact, p = fisher(net, [X], reduction="sum")["line.weight"], net(X).softmax(1).detach()
    draws = [fisher(net, [(X, torch.multinomial(p, 1).squeeze(1))], labels="observed", reduction="sum")["line.weight"] for _ in range(60)]
    assert torch.allclose(torch.stack(draws).mean(0), exact, rtol=0.25)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_fisher_of_real_architectures(backbones, family):
    "Item by item, by hand; the network stays as it was, modes and gradients included."
    net, data = first(backbones[family]), data_for(backbones[family], seed=5).valid[:3]
    net.train()
    before, modes = everything(net), [m.training for m in net.modules()]
    found = fisher(net, data, reduction="sum")
    assert same(before, everything(net)) and modes == [m.training for m in net.modules()]
    assert all(p.grad is None or not p.grad.any() for p in net.parameters())
    one = fisher(net, data[:1], reduction="sum")
    rest = fisher(net, data[1:], reduction="sum")
    assert found.keys() == dict(net.named_parameters()).keys()
    for name in found: assert torch.allclose(found[name], one[name] + rest[name], rtol=1e-3, atol=1e-5 * found[name].max() + 1e-12), name
    assert sum(f.sum() for f in found.values()) > 0 and all((f >= 0).all() for f in found.values())


def test_frozen_parameters_have_no_fisher():
    X, _, net = logistic()
    net = nn.Sequential(nn.Linear(6, 4).double(), nn.Linear(4, 2).double())
    freeze(net[0])
    assert list(fisher(net, [X])) == ["1.weight", "1.bias"]
    with pytest.raises(ForgettingError, match="frozen"): fisher(freeze(net), [X])


def test_what_has_no_fisher_is_said(backbones):
    X, _, net = logistic()
    with pytest.raises(ForgettingError, match="empty"): fisher(net, [])
    with pytest.raises(ForgettingError, match="'observed', and data has none"): fisher(net, [X], labels="observed")
    with pytest.raises(ForgettingError, match="labels = 'all'"): fisher(net, [X], labels="all")
    with pytest.raises(ForgettingError, match="reduction"): fisher(net, [X], reduction="none")
    with pytest.raises(ForgettingError, match="classes"): fisher(Classifier(backbones["bert"], SAME), texts(classes=OTHER))
    with pytest.raises(ForgettingError, match="two logits"): fisher(net.line, [X])
    with pytest.raises(ForgettingError, match="Linear"): fisher(net.line, texts())


# ---- the next task, and the old one beside it

@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("classes", [SAME, OTHER])
def test_the_next_learner_starts_where_the_old_network_is(backbones, family, classes):
    old = first(backbones[family])
    before, learn = everything(old), second(old, classes)
    items = data_for(old.backbone, seed=5).items
    now = old_task(old, learn)
    assert np.allclose(now.predict_proba(items), old.predict_proba(items), atol=1e-6)
    assert (now is learn.model) == (classes == SAME)
    fitted(learn, 2)
    assert same(before, everything(old)), "the old network stays as it is"
    assert not np.allclose(now.predict_proba(items), old.predict_proba(items), atol=1e-6), "the body is shared"


@pytest.mark.parametrize("pooling", ["mean", "native"])
def test_the_old_head_is_kept_whatever_the_pooling(backbones, pooling):
    old = first(backbones["bert"], pooling=pooling)
    learn = second(old)
    assert learn.model.pooling == pooling
    found = old_task(old, fitted(learn))
    body, head = found.backbone.model, found.stages[-1]
    assert all(a is b for s, t in zip(found.stages[:-1], learn.stages[:-1]) for a, b in zip(s.parameters(), t.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(head.parameters(), old.stages[-1].parameters())) and is_frozen(head)
    assert body is not learn.backbone.model


@pytest.mark.parametrize("method", ["lora", "bitfit"])
def test_adapters_and_old_heads_compose(backbones, method):
    old, kept = first(backbones["bert"]), texts()
    for classes in (SAME, OTHER):
        learn = second(old, classes, [Replay(old, kept, n=2), LwF(old), GradualUnfreeze(0.5)], method=method)
        items = kept.items
        assert np.allclose(old_task(old, learn).predict_proba(items), old.predict_proba(items), atol=1e-6)
        open_before = [p.requires_grad for p in learn.model.parameters()]
        fitted(learn, 2)
        assert open_before == [p.requires_grad for p in learn.model.parameters()]
        assert np.isfinite(old_task(old, learn).predict_proba(items)).all()


def test_networks_that_do_not_belong_together(backbones):
    old = first(backbones["bert"])
    other = second(first(backbones["roberta"]))
    for make in (lambda: L2SP(old), lambda: LwF(old), lambda: Replay(old, texts())):
        cb = make()
        other.add_cb(cb)
        with pytest.raises(ForgettingError, match="next_learner"): fitted(other)
        other.remove_cb(cb)
    with pytest.raises(ForgettingError, match="next_learner"): wise_ft(old, second(first(backbones["distilbert"])))
    with pytest.raises(ForgettingError, match="next_learner"): old_task(old, first(backbones["resnet18"]))
    with pytest.raises(ForgettingError, match="no stages"): next_learner(small_net(), texts())
    with pytest.raises(ForgettingError, match="adapter"): next_learner(Classifier(backbones["bert"], SAME).parameter_efficient("lora"), texts())


def test_a_learner_without_stages_is_refused(backbones):
    old = first(backbones["bert"])
    x, y = torch.randn(16, 3, dtype=torch.float64), torch.arange(16) % 3
    dls = DataLoaders(*(DataLoader(TensorDataset(x, y), 8) for _ in range(2)))
    for cb in (GradualUnfreeze(), L2SP(old), LwF(old), Replay(old, texts())):
        learn = Learner(dls, small_net(), loss_func=nn.CrossEntropyLoss(), cbs=[cb])
        with pytest.raises(ForgettingError, match="no stages"): fitted(learn)


# ---- gradual unfreezing

@pytest.mark.parametrize("family", ["bert", "resnet18"])
@pytest.mark.parametrize("every", [1.0, 0.5, 2.0])
def test_stages_open_one_by_one_from_the_head(backbones, family, every):
    old, seen = first(backbones[family]), []
    learn = second(old, cbs=[GradualUnfreeze(every)])
    learn.add_cb(watch := Remedy())
    watch.order = 50
    watch.before_step = lambda: seen.append([not is_frozen(s) for s in learn.stages])
    fitted(learn, 3)
    n, per_epoch = len(learn.stages), len(learn.dls.train)
    for step, opened in enumerate(seen):
        k = min(n, 1 + int(step / (per_epoch * every) + 1e-9))
        assert opened == [False] * (n - k) + [True] * k
    assert not any(is_frozen(s) for s in learn.stages), "afterwards all is as open as before"


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_stays_frozen_under_all_remedies_together(backbones, family):
    old = first(backbones[family])
    kept = data_for(old.backbone)
    learn = second(old, cbs=[GradualUnfreeze(0.25), Replay(old, kept, n=2), LwF(old), L2SP(old, 0.1), EWC(old, kept, 10.0, size=2)])
    learn.freeze_to(2)
    before, still = everything(learn.model), learn.stages[:2]
    fitted(learn, 2)
    assert all(is_frozen(s) for s in still) and not any(is_frozen(s) for s in learn.stages[2:])
    still = {id(x) for s in still for m in s.modules.values() for x in [*m.parameters(), *m.buffers()]} | {id(p) for s in still for p in s.loose.values()}
    named = dict([*learn.model.named_parameters(), *learn.model.named_buffers()])
    assert all(torch.equal(before[k], v) for k, v in named.items() if id(v) in still)
    moved = [p for p in learn.model.parameters() if p.requires_grad]
    assert sum(not torch.equal(before[k], v) for k, v in learn.model.named_parameters()) >= 0.5 * len(moved)


class BreakOff(Remedy):
    "Ctrl-C in the second step."
    order = 60

    def before_step(self):
        if self.iter == 1: raise KeyboardInterrupt


def test_what_is_frozen_after_a_training_was_broken_off_stays_so(backbones):
    learn = second(first(backbones["bert"]), cbs=[GradualUnfreeze(1.0)])
    with pytest.raises(KeyboardInterrupt): fitted(learn, 2, cbs=[BreakOff()])
    assert sum(map(is_frozen, learn.stages)) == len(learn.stages) - 1
    fitted(learn, 1)
    assert not any(map(is_frozen, learn.stages)), "what the callback had closed is open again"
    with pytest.raises(KeyboardInterrupt): fitted(learn, 2, cbs=[BreakOff()])
    learn.freeze_to(2)
    before = everything(nn.ModuleList(m for s in learn.stages[:2] for m in s.modules.values()))
    fitted(learn, 2)
    assert same(before, everything(nn.ModuleList(m for s in learn.stages[:2] for m in s.modules.values())))
    assert [is_frozen(s) for s in learn.stages] == [True] * 2 + [False] * (len(learn.stages) - 2)


def test_what_is_no_list_of_items_is_refused(backbones):
    old = first(backbones["bert"])
    for wrong in (pd.DataFrame({"text": ["warm"], "label": ["warm"]}), {"warm": 1}, "reviews.csv", None):
        with pytest.raises(ForgettingError, match="a list of items"): Replay(old, wrong)
    assert len(Replay(old, pd.Series(texts().items)).kept) == len(texts())
    for wrong in ({"before": old}, [old]):
        with pytest.raises(ForgettingError, match="recipes: a dict"): retention(old, wrong, texts(), texts())


def test_what_is_frozen_within_a_stage_stays_so(backbones):
    learn = second(first(backbones["bert"]), cbs=[GradualUnfreeze(0.25)])
    block = learn.stages[1]
    inner = next(m for m in next(iter(block.modules.values())).modules() if isinstance(m, nn.Linear))
    freeze(inner)
    before = everything(inner)
    fitted(learn, 3)
    assert same(before, everything(inner)) and is_frozen(inner) and not is_frozen(block)


def test_a_training_that_broke_off_leaves_nothing_closed(backbones):
    gradual = GradualUnfreeze(10)
    learn = second(first(backbones["bert"]), cbs=[gradual])
    stop = Remedy()
    stop.before_step = lambda: 1 / 0
    learn.add_cb(stop)
    with pytest.raises(ZeroDivisionError): fitted(learn)
    assert is_frozen(learn.stages[0])
    learn.remove_cb(stop)
    fitted(learn)
    assert not any(is_frozen(s) for s in learn.stages)


def test_gradual_unfreezing_works_with_rates_by_depth(backbones):
    learn = second(first(backbones["bert"]), cbs=[GradualUnfreeze(0.5)])
    before = everything(learn.model)
    fitted(learn, 3, learn.layer_rates(1e-3, 0.5))
    assert not same(before, everything(learn.model))
    with pytest.raises(ForgettingError, match="every"): GradualUnfreeze(0)
    with pytest.raises(ForgettingError, match="every"): GradualUnfreeze(-1)


# ---- buffers

def test_a_reservoir_gives_every_item_the_same_chance():
    hits, runs = np.zeros(30), 2000
    for seed in range(runs):
        keep = Reservoir(6, seed=seed)
        for i in range(30): keep.add(i, i % 3)
        assert len(keep.items) == 6
        hits[keep.items] += 1
    assert abs(hits / runs - 0.2).max() < 4.5 * (0.2 * 0.8 / runs) ** 0.5


def test_per_class_the_room_is_shared_and_the_chances_within_a_class_are_equal():
    labels = np.array([0] * 40 + [1] * 6 + [2] * 20)
    order, hits, runs = np.random.default_rng(0).permutation(66), np.zeros(66), 1500
    for seed in range(runs):
        keep = Reservoir(12, per_class=True, seed=seed)
        for i in order: keep.add(i, labels[i])
        assert np.bincount(labels[keep.items]).tolist() == [4, 4, 4]
        hits[keep.items] += 1
    for c, n in ((0, 40), (1, 6), (2, 20)):
        p = 4 / n
        assert abs(hits[labels == c] / runs - p).max() < 4.5 * (p * (1 - p) / runs) ** 0.5


def test_a_class_that_comes_late_gets_its_room():
    keep = Reservoir(9, per_class=True)
    for i in range(100): keep.add(i, 0)
    for i in range(100, 102): keep.add(i, 1)
    for i in range(102, 150): keep.add(i, 2)
    counts = [sum(lo <= i < hi for i in keep.items) for lo, hi in ((0, 100), (100, 102), (102, 150))]
    assert sum(counts) == 9 and counts[1] == 2 and abs(counts[0] - counts[2]) <= 1


def test_remembered_is_a_part_of_the_data_and_repeatable():
    data = texts(50)
    found = remembered(data, 10, per_class=True, seed=4)
    assert len(found) == 10 and set(found.counts().values()) == {5} and found.classes == data.classes
    assert all((i, c) in list(zip(data.items, data.label_names)) for i, c in zip(found.items, found.label_names))
    assert remembered(data, 10, per_class=True, seed=4).items == found.items != remembered(data, 10, True, seed=5).items
    assert remembered(data, 1000).items == data.items
    for size in (0, -1, 2.5, True, None):
        with pytest.raises(ForgettingError, match="size"): remembered(data, size)


# ---- replay and LwF

@pytest.mark.parametrize("classes", [SAME, OTHER])
def test_replay_adds_the_loss_of_old_items(backbones, classes):
    "One step of gradient descent against the same by hand."
    old, kept = first(backbones["bert"], dropout=0.0), texts(4)
    cb = Replay(old, kept, weight=0.7, n=4)
    learn = sgd(second(old, classes, [cb], dropout=0.0))
    quiet(learn)
    batch, hand = one_batch(learn), copy.deepcopy(learn.model)
    x = old.backbone.collate(old.backbone.tokenize(cb.kept.items, 40).ids)
    loss = F.cross_entropy(hand(batch[0]), batch[1]) + 0.7 * F.cross_entropy(old_task(old, hand)(x), torch.tensor(cb.kept.labels))
    by_hand(learn, hand, loss)


def quiet(learn):
    for m in learn.model.modules():
        if isinstance(m, nn.Dropout): m.p = 0.0


def by_hand(learn, hand, loss, lr=0.1):
    "A step of `learn` moves the weights as the gradient of `loss` says."
    params = list(hand.parameters())
    grads = torch.autograd.grad(loss, params, allow_unused=True)
    before = [p.detach().clone() for p in learn.model.parameters()]
    fitted(learn, 1, lr, wd=0)
    for (name, p), b, g in zip(learn.model.named_parameters(), before, grads):
        assert torch.allclose(p, b if g is None else b - lr * g, atol=2e-6), name
    assert any((p - b).abs().max() > 1e-4 for p, b in zip(learn.model.parameters(), before))


@pytest.mark.parametrize("classes", [SAME, OTHER])
def test_lwf_adds_the_divergence_from_the_old_answers(backbones, classes):
    old = first(backbones["bert"], dropout=0.0)
    learn = sgd(second(old, classes, [LwF(old, weight=0.5, temperature=3.0)], dropout=0.0))
    quiet(learn)
    with torch.no_grad():
        for p in learn.model.parameters(): p.add_(0.02 * torch.randn_like(p))  # else the divergence is at its minimum
    batch, hand = one_batch(learn), copy.deepcopy(learn.model)
    p, now = (old(batch[0]) / 3).softmax(1).detach(), (old_task(old, hand)(batch[0]) / 3).log_softmax(1)
    loss = F.cross_entropy(hand(batch[0]), batch[1]) + 0.5 * 9 * (p * (p.log() - now)).sum(1).mean()
    by_hand(learn, hand, loss)


@pytest.mark.parametrize("family", ["bert", "efficientnet_lite0"])
def test_replay_sees_every_item_before_any_comes_again(backbones, family):
    old = first(backbones[family])
    cb = Replay(old, data_for(old.backbone), n=3, size=7)
    seen = [cb._draw() for _ in range(7)]
    assert sorted(i for at in seen for i in at) == sorted(list(range(7)) * 3)


def test_proxies_get_the_answers_of_the_old_network(backbones):
    old = first(backbones["bert"])
    proxies = texts(20, seed=9).items
    cb = Replay(old, proxies, size=50)
    assert cb.kept.items == proxies and cb.kept.label_names == old.predict(proxies)
    fitted(second(old, cbs=[cb]))


def test_without_old_data_or_with_other_labels(backbones):
    old = first(backbones["bert"])
    for make in (Replay, EWC):
        with pytest.raises(ForgettingError, match="empty"): make(old, [])
        with pytest.raises(ForgettingError, match="empty"): make(old, texts()[[]])
        with pytest.raises(ForgettingError, match="classes.*old task"): make(old, texts(classes=OTHER))
        with pytest.raises(ForgettingError, match="images"): make(old, images())
        with pytest.raises(ForgettingError, match="size"): make(old, texts(), size=0)
    with pytest.raises(ForgettingError, match="importance"): EWC(old)
    with pytest.raises(ForgettingError, match="n = 0"): Replay(old, texts(), n=0)


@pytest.mark.parametrize("make", [lambda o, w: L2SP(o, w), lambda o, w: LwF(o, w), lambda o, w: Replay(o, texts(), w),
                                  lambda o, w: EWC(o, texts(), w)])
def test_strengths_out_of_range(backbones, make):
    old = first(backbones["bert"])
    for weight in (-1, float("nan"), float("inf"), "strong", None, True):
        with pytest.raises(ForgettingError, match="weight ="): make(old, weight)
    with pytest.raises(ForgettingError, match="temperature"): LwF(old, temperature=0)


def test_of_strength_nothing_nothing_changes(backbones):
    "Weight 0 trains as without: the callbacks draw no random numbers of the training's stream."
    old = first(backbones["bert"])
    plain = everything(fitted(second(old), 2).model)
    kept = texts()
    for cb in (L2SP(old, 0), EWC(old, kept, 0, size=2), LwF(old, 0), Replay(old, kept, 0)):
        found = everything(fitted(second(old, cbs=[cb]), 2).model)
        if isinstance(cb, (L2SP, EWC)): assert same(plain, found)
        else: assert max((plain[k].float() - v.float()).abs().max() for k, v in found.items()) < 0.05


# ---- penalties

@pytest.mark.parametrize("classes", [SAME, OTHER])
@pytest.mark.parametrize("kind", ["L2SP", "EWC"])
def test_penalties_are_their_formulas(backbones, kind, classes):
    old = first(backbones["bert"], dropout=0.0)
    cb = L2SP(old, 0.3) if kind == "L2SP" else EWC(old, texts(), 40.0, size=5)
    learn = sgd(second(old, classes, [cb], dropout=0.0))
    quiet(learn)
    with torch.no_grad():
        for p in learn.model.parameters(): p.add_(0.02 * torch.randn_like(p))
    batch, hand = one_batch(learn), copy.deepcopy(learn.model)
    start, head = dict(old.named_parameters()), {id(p) for p in hand.stages[-1].parameters()}
    held = {n: p for n, p in hand.named_parameters() if classes == SAME or id(p) not in head}
    factor = cb.importance or {n: 1.0 for n in held}
    penalty = cb.weight / 2 * sum((factor[n] * (p - start[n]) ** 2).sum() for n, p in held.items())
    cb.learn = learn
    cb.before_fit()
    assert cb.penalty() == pytest.approx(penalty.item(), rel=1e-4)
    by_hand(learn, hand, F.cross_entropy(hand(batch[0]), batch[1]) + penalty)


def test_ewc_computes_the_fisher_of_the_old_network_on_old_data(backbones):
    old, data = first(backbones["bert"]), texts(30)
    cb = EWC(old, data, size=6, seed=2)
    expected = fisher(old, remembered(data, 6, seed=2))
    assert all(torch.allclose(cb.importance[n], f) for n, f in expected.items())
    observed = EWC(old, data, size=6, seed=2, labels="observed").importance
    assert not all(torch.allclose(observed[n], f) for n, f in expected.items())
    frozen = copy.deepcopy(old).freeze_to(-1)
    again = EWC(frozen, data, size=6, seed=2).importance
    assert all(torch.allclose(again[n], f) for n, f in expected.items()), "also where the old network is frozen"
    with pytest.raises(ForgettingError, match="importance has nothing"):
        fitted(second(old, cbs=[EWC(old, importance=fisher(frozen, data))]))


@pytest.mark.parametrize("make", [lambda o, d: L2SP(o, 3.0), lambda o, d: EWC(o, d, 1e4, size=8), lambda o, d: LwF(o, 20.0)])
def test_a_strong_remedy_holds_the_network(backbones, make):
    old, data = first(backbones["bert"]), texts(40)
    far = lambda model: np.abs(old_task(old, model).predict_proba(data.items) - old.predict_proba(data.items)).mean()
    assert far(fitted(second(old, cbs=[make(old, data)]), 6, 3e-3)) < 0.7 * far(fitted(second(old), 6, 3e-3))


def test_replay_keeps_the_old_task(backbones):
    "Two tasks that contradict each other but for a sign of three words, which a network sometimes learns to heed by itself: so a mean."
    test, kept, lost = texts(48, seed=7), [], []
    for seed in range(4):
        old = fitted(text_learner(backbones["bert"], texts(48), seed=seed, bs=8), 12, 3e-3).model.eval()
        against = texts(48, seed=2)
        against.items = [f"red red red {t}" for t in against.items]
        against.labels = 1 - against.labels
        for scores, cbs in ((kept, [Replay(old, texts(48), 2.0, n=8)]), (lost, [])):
            new = fitted(next_learner(old, against, seed=seed + 1, bs=8, cbs=cbs), 12, 3e-3)
            scores.append((np.array(new.predict(test.items)) == test.label_names).mean())
    assert np.mean(kept) > np.mean(lost) + 0.1


def test_penalties_come_before_clipping_and_once_with_accumulation(backbones):
    from fastai.callback.training import GradientAccumulation, GradientClip

    old = first(backbones["bert"])
    learn, norms = second(old, cbs=[L2SP(old, 1e4), GradientAccumulation(16)]), []
    with torch.no_grad(): next(learn.model.parameters()).add_(1.0)
    watch = Remedy()
    watch.order = GradientClip.order + 1
    watch.before_step = lambda: norms.append(torch.stack([p.grad.norm() for p in learn.model.parameters() if p.grad is not None]).norm().item())
    learn.add_cb(watch)
    fitted(learn)
    assert norms and max(norms) <= 1.001


# ---- mixing

@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("classes", [SAME, OTHER])
def test_a_mixture_lies_between(backbones, family, classes):
    old = first(backbones[family])
    after = fitted(second(old, classes), 2).model.eval()
    kept = everything(old), everything(after)
    mixed = {a: wise_ft(old, after, a) for a in (0, 0.25, 1)}
    start, end, own = everything(old), everything(after), {n for n, _ in after.named_parameters()}
    if classes == OTHER:
        head = {id(x) for x in [*after.stages[-1].parameters()]}
        own = {n for n, p in after.named_parameters() if id(p) not in head}
    for n in own:
        assert torch.equal(dict(mixed[0].named_parameters())[n], start[n]) and torch.equal(dict(mixed[1].named_parameters())[n], end[n])
        assert torch.allclose(dict(mixed[0.25].named_parameters())[n], 0.75 * start[n] + 0.25 * end[n], atol=1e-6)
    items = data_for(old.backbone, seed=5).items
    assert np.allclose(mixed[1].predict_proba(items), after.predict_proba(items), atol=1e-6)
    assert np.allclose(old_task(old, mixed[0]).predict_proba(items), old.predict_proba(items), atol=1e-6)
    assert same(kept[0], everything(old)) and same(kept[1], everything(after))


def test_alphas_out_of_range(backbones):
    old = first(backbones["bert"])
    for alpha in (-0.1, 1.1, float("nan"), "half", None):
        with pytest.raises(ForgettingError, match="alpha ="): wise_ft(old, second(old), alpha)
    with pytest.raises(ForgettingError, match="adapter"): wise_ft(old, second(old, method="lora"))
    with pytest.raises(ForgettingError, match="no stages"): wise_ft(old, small_net())


def test_the_sweep_ends_at_both_networks(backbones):
    old, a, b = first(backbones["bert"]), texts(30), texts(30, OTHER, seed=3)
    after = fitted(second(old), 4)
    table = alpha_sweep(old, after, a, b, (0, 0.5, 1))
    right = lambda model, data: np.mean([x == y for x, y in zip(model.predict(data.items), data.label_names)])
    assert table.old[0] == right(old, a) and table.old[1] == right(old_task(old, after), a) and table.new[1] == right(after, b)
    assert (table.mean_of_both == (table.old + table.new) / 2).all() and table.mean_of_both.idxmax() in (0, 0.5, 1)
    with pytest.raises(ForgettingError, match="classes"): alpha_sweep(old, after, b, a)


# ---- retention

def test_retention_is_accuracy_before_and_after(backbones):
    old, a, b = first(backbones["bert"]), texts(30), texts(30, OTHER, seed=3)
    after = fitted(second(old), 5, 1e-2)
    table = retention(old, {"naive": after, "mixed": wise_ft(old, after, 0.0)}, a, b)
    right = lambda model, data: np.mean([x == y for x, y in zip(model.predict(data.items), data.label_names)])
    assert table.old["before"] == right(old, a) == table.old["mixed"] and table.change["mixed"] == 0
    assert table.new["naive"] == right(after, b) and np.isnan(table.new["before"])
    assert table.change["naive"] == pytest.approx(table.old["naive"] - table.old["before"])
    assert table.low["naive"] <= table.change["naive"] <= table.high["naive"]
    same_classes = retention(old, {"naive": second(old, SAME)}, a, texts(30, seed=4))
    assert same_classes.new["before"] == same_classes.new["naive"]


def test_what_cannot_be_judged(backbones):
    old, a, b = first(backbones["bert"]), texts(), texts(classes=OTHER, seed=3)
    with pytest.raises(ForgettingError, match="old has the classes"): retention(old, {"naive": second(old)}, b, b)
    with pytest.raises(ForgettingError, match="new has the classes"): retention(old, {"naive": second(old)}, a, a)
    with pytest.raises(ForgettingError, match="old: a Dataset"): retention(old, {}, a[[]], b)
    with pytest.raises(ForgettingError, match="no stages"): retention(old, {"naive": small_net()}, a, b)


def test_the_table_over_seeds_is_paired():
    rng = np.random.default_rng(0)
    luck = rng.normal(size=5)
    rows = pd.DataFrame([dict(recipe=r, seed=s, old=0.7 + luck[s] + shift + 0.001 * s * (r == "b"), new=0.9 + luck[s] - shift)
                         for r, shift in (("a", 0.0), ("b", 0.05)) for s in range(5)])
    table = retention_table(rows, "a")
    from scipy.stats import ttest_rel

    a, b = (rows[rows.recipe == r].old.to_numpy() for r in "ab")
    exact = ttest_rel(b, a).confidence_interval()
    assert table.loc["b", ["old_low", "old_high"]].tolist() == pytest.approx([exact.low, exact.high])
    assert table.old_change["b"] == pytest.approx(0.052) and table.new_change["b"] == pytest.approx(-0.05)
    assert table.old_change["a"] == table.old_low["a"] == 0
    with pytest.raises(ForgettingError, match="baseline"): retention_table(rows, "c")
    with pytest.raises(ForgettingError, match="same seeds"): retention_table(rows[1:], "a")
    with pytest.raises(ForgettingError, match="'new'"): retention_table(rows.drop(columns="new"), "a")
    with pytest.raises(ForgettingError, match="twice"): retention_table(pd.concat([rows, rows[:1]]), "a")
