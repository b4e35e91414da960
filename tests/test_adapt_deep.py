"Deep adaptation: statistics are the pooled ones, losses are the formulas, gradients are right, and nothing else moves."
import copy

import numpy as np
import pytest
import torch
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from small_models import everything, images, small_backbones, texts
from tl_nb.adapt_deep import (AlignDomains, DANN, DeepCORAL, DomainError, MMDLoss, Tent, adapt_batchnorm, coral_loss,
                              _Moments, _Reversed)
from tl_nb.classifier import Classifier
from tl_nb.finetune import image_learner, text_learner


@pytest.fixture(scope="module")
def backbones(tmp_path_factory): return small_backbones(tmp_path_factory.mktemp("backbones"))


def small_net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(),
                         nn.Flatten(), nn.Linear(96, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def shifted(n=50, seed=1): return 3 + 2 * torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def learner(n=48, cbs=(), bs=16, net=None):
    torch.manual_seed(0)
    x, y = torch.randn(n, 1, 8, 8), torch.arange(n) % 3
    dls = DataLoaders(*(DataLoader(TensorDataset(x, y), bs) for _ in range(2)))
    learn = Learner(dls, net or small_net(), loss_func=nn.CrossEntropyLoss(), cbs=list(cbs))
    learn.logger = lambda *a: None
    return learn


def fitted(learn, epochs=1, lr=1e-2):
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs, lr)
    return learn


# ---- AdaBN

@pytest.mark.parametrize("bs", [50, 16, 7])
@torch.no_grad()
def test_statistics_equal_the_pooled_ones(bs):
    x, net = shifted(), small_net()
    adapted = adapt_batchnorm(net, x, bs=bs)
    h, expected = x, copy.deepcopy(net).eval()
    for layer in expected:  # layer by layer, all items at once, the layers before already adapted
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            rows = h.double().movedim(1, -1).flatten(0, -2)
            layer.running_mean.copy_(rows.mean(0)), layer.running_var.copy_(rows.var(0))
        h = layer(h)
    for (name, a), (_, b) in zip(adapted.named_buffers(), expected.named_buffers()):
        if "running" in name: assert torch.allclose(a, b, atol=1e-5, rtol=1e-5), name
    assert torch.allclose(adapted(x), h, atol=1e-4)


def test_one_pass_equals_exact_for_a_single_batch_and_batch_means_otherwise():
    x, net = shifted(), small_net()
    one, exact = (adapt_batchnorm(net, x, bs=50, exact=e) for e in (False, True))
    for (name, a), (_, b) in zip(one.named_buffers(), exact.named_buffers()):
        if "running" not in name: continue
        # a batch is normalised by its biased variance on the way, and the stored one is unbiased: hence n / (n - 1)
        assert torch.allclose(a, b, rtol=0.05, atol=1e-2), name
    first = dict(adapt_batchnorm(net, x, bs=7, exact=False).named_buffers())
    assert torch.allclose(first["1.running_mean"], dict(exact.named_buffers())["1.running_mean"], atol=1e-5)


def test_only_statistics_change_and_the_model_given_stays():
    x, net = shifted(), small_net()
    before = everything(net)
    adapted = adapt_batchnorm(net, x)
    assert all(torch.equal(before[k], v) for k, v in everything(net).items())
    changed = {k for k, v in everything(adapted).items() if not torch.equal(before[k], v)}
    assert changed == {f"{i}.running_{s}" for i in (1, 4, 8) for s in ("mean", "var")}
    assert not adapted.training and not any(m._forward_pre_hooks for m in [*net.modules(), *adapted.modules()])


def test_batches_a_loader_and_a_tensor_are_the_same():
    x, net = shifted(), small_net()
    ways = [x, list(x.split(9)), DataLoader(TensorDataset(x, torch.zeros(50)), 9), [(b,) for b in x.split(9)]]
    found = [adapt_batchnorm(net, w)(x) for w in ways]
    assert all(torch.allclose(found[0], f, atol=1e-5) for f in found)


@pytest.mark.parametrize("family", ["efficientnet_lite0", "resnet18"])
@pytest.mark.parametrize("exact", [True, False])
def test_a_classifier_takes_raw_items(backbones, family, exact):
    net, data = Classifier(backbones[family], ["cold", "warm"]), images(6)
    adapted = adapt_batchnorm(net, data, exact=exact)
    inputs = torch.stack([net.backbone.transform(i) for i in map(backbone_image, data.items)])
    first = next(m for m in adapted.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    caught = []
    handle = first.register_forward_pre_hook(lambda m, a: caught.append(a[0]))
    with torch.no_grad(): adapted(inputs)
    handle.remove()
    assert torch.allclose(first.running_mean, caught[0].mean((0, 2, 3)), atol=1e-4)
    assert adapted.predict(data.items) is not None and adapted.classes == net.classes


def backbone_image(item):
    from tl_nb.data import open_image

    return open_image(item)


def test_adabn_undoes_a_shift_of_the_input():
    torch.manual_seed(0)
    net, x = small_net(), torch.randn(64, 1, 8, 8)
    net = adapt_batchnorm(net, x)
    here, there = net(x), adapt_batchnorm(net, 5 * x + 2)(5 * x + 2)
    assert torch.allclose(here, there, atol=1e-2) and not torch.allclose(here, net(5 * x + 2), atol=1e-1)


def test_what_cannot_be_adapted_is_said(backbones):
    with pytest.raises(DomainError, match="no batch normalisation.*Tent"): adapt_batchnorm(Classifier(backbones["bert"], "ab"), ["the cat"])
    with pytest.raises(DomainError, match="empty"): adapt_batchnorm(small_net(), [])
    with pytest.raises(DomainError, match="variance"): adapt_batchnorm(nn.Sequential(nn.BatchNorm1d(3)), torch.ones(1, 3))
    with pytest.raises(DomainError, match="empty"): adapt_batchnorm(small_net(), torch.ones(0, 1, 8, 8))
    with pytest.raises(DomainError, match="larger batches"): adapt_batchnorm(small_net(), list(shifted(3).split(1)), exact=False)
    with pytest.raises(DomainError, match="larger batches"): Tent(small_net()).predict_proba(shifted(1))


def test_moments_are_stable():
    x = 1e6 + torch.randn(1000, 3, dtype=torch.float64)
    m = _Moments()
    for part in x.split(64): m.add(part)
    assert torch.allclose(m.mean, x.mean(0), rtol=1e-12) and torch.allclose(m.squares / 999, x.var(0), rtol=1e-6)


# ---- losses

@pytest.mark.parametrize("n,m,d", [(20, 30, 4), (3, 2, 6), (2, 2, 1)])
def test_coral_loss_is_the_formula(n, m, d):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(n, d)), 2 * rng.normal(size=(m, d))
    gap = np.atleast_2d(np.cov(a, rowvar=False)) - np.atleast_2d(np.cov(b, rowvar=False))
    assert coral_loss(torch.tensor(a), torch.tensor(b)).item() == pytest.approx((gap ** 2).sum() / (4 * d * d), rel=1e-10)
    assert coral_loss(torch.tensor(a), torch.tensor(a + 7)).item() == pytest.approx(0, abs=1e-20)


@pytest.mark.parametrize("loss", [coral_loss, MMDLoss((1.0,)), MMDLoss()])
def test_gradients_by_finite_differences(loss):
    torch.manual_seed(0)
    a, b = (torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in (6, 5))
    if isinstance(loss, MMDLoss):  # the median is held fixed in the gradient, so it must be in the differences
        rows = torch.cat([a, b]).detach()
        held = torch.pdist(rows).square().median()
        plain = lambda a, b: fixed_mmd(a, b, loss.widths, held)
        x, y = (g for g in torch.autograd.grad(loss(a, b), (a, b)))
        p, q = torch.autograd.grad(plain(a, b), (a, b))
        assert torch.allclose(x, p) and torch.allclose(y, q) and torch.autograd.gradcheck(plain, (a, b))
    else: assert torch.autograd.gradcheck(loss, (a, b))


def fixed_mmd(a, b, widths, median):
    k = lambda x, y: sum(torch.exp(-(x[:, None] - y[None]).square().sum(-1) / (w * median)) for w in widths) / len(widths)
    off = lambda k: (k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1))
    return off(k(a, a)) + off(k(b, b)) - 2 * k(a, b).mean()


def test_mmd_is_the_u_statistic():
    rng, widths = np.random.default_rng(0), (0.5, 2.0)
    a, b = rng.normal(size=(7, 3)), rng.normal(size=(9, 3)) + 1
    rows = np.concatenate([a, b])
    apart = [((p - q) ** 2).sum() for i, p in enumerate(rows) for q in rows[:i]]
    median = sorted(apart)[(len(apart) - 1) // 2]  # torch takes the lower of the middle two
    k = lambda x, y: np.mean([np.exp(-((x - y) ** 2).sum() / (w * median)) for w in widths])
    within = lambda z: sum(k(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j) / (len(z) * (len(z) - 1))
    expected = within(a) + within(b) - 2 * np.mean([[k(x, y) for y in b] for x in a])
    assert MMDLoss(widths)(torch.tensor(a), torch.tensor(b)).item() == pytest.approx(expected, rel=1e-9)


def test_mmd_is_unbiased_and_sees_a_difference():
    torch.manual_seed(0)
    same = torch.tensor([MMDLoss()(torch.randn(20, 4), torch.randn(20, 4)) for _ in range(300)])
    assert abs(same.mean()) < 3 * same.std() / 300 ** 0.5 and same.min() < 0
    assert MMDLoss()(torch.randn(200, 4), torch.randn(200, 4) + 1) > 0.1


@pytest.mark.parametrize("loss", [coral_loss, MMDLoss()])
@pytest.mark.parametrize("a,b", [((1, 3), (5, 3)), ((5, 3), (5, 4)), ((5,), (5,))])
def test_rows_that_do_not_fit(loss, a, b):
    with pytest.raises(DomainError, match="expected are"): loss(torch.ones(a), torch.ones(b))


def test_constant_rows_give_zero_and_a_finite_gradient():
    a = torch.ones(4, 3, requires_grad=True)
    for loss in (coral_loss, MMDLoss()):
        found = loss(a, torch.ones(5, 3))
        found.backward()
        assert found.item() == pytest.approx(0, abs=1e-6) and torch.isfinite(a.grad).all()


def test_parameters_out_of_range():
    with pytest.raises(DomainError, match="widths"): MMDLoss((0.0,))
    with pytest.raises(DomainError, match="of ="): DeepCORAL(shifted(), of="middle")
    with pytest.raises(DomainError, match="1 items"): DeepCORAL(shifted(1))
    with pytest.raises(DomainError, match="steps"): Tent(small_net(), steps=0)


# ---- callbacks

def test_the_distance_is_added_to_the_loss_that_is_followed():
    "One step of plain SGD against the same by hand."
    from functools import partial

    from fastai.optimizer import OptimWrapper

    x = shifted(16)
    learn = learner(16, [DeepCORAL([x], 2.0)], bs=16)
    learn.opt_func = partial(OptimWrapper, opt=torch.optim.SGD)
    hand = copy.deepcopy(learn.model).train()
    batch, y = next(iter(learn.dls.train))
    out = hand(batch)
    (nn.functional.cross_entropy(out, y) + 2.0 * coral_loss(out, hand(x))).backward()
    learn.wd = 0
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 0.1, wd=0)
    for p, q in zip(learn.model.parameters(), hand.parameters()): assert torch.allclose(p, q - 0.1 * q.grad, atol=1e-6)


@pytest.mark.parametrize("make", [lambda x, w: DeepCORAL(x, 30.0 * w), lambda x, w: DeepCORAL(x, 30.0 * w, of="features"),
                                  lambda x, w: AlignDomains(x, MMDLoss(), 3.0 * w, "features")])
def test_training_brings_the_domains_together(make):
    def apart(w):
        cb = make(shifted(48), w)
        fitted(learner(cbs=[cb]), 20)
        return np.mean(cb.distances[-10:])
    assert apart(1) < 0.5 * apart(1e-9)


def test_dann_follows_the_papers_schedule_and_trains_its_discriminator():
    cb, seen = DANN(shifted(48), weight=0.5, hidden=12), []
    cb.after_batch = lambda: seen.append((cb.pct_train, cb.strength)) if cb.training else None
    learn = fitted(learner(cbs=[cb]), 40)
    for p, s in seen: assert s == pytest.approx(0.5 * (2 / (1 + np.exp(-10 * p)) - 1))
    assert seen[0][1] < 0.03 and seen[-1][1] > 0.49
    started = nn.Linear(8, 12).weight.std()
    assert cb.discriminator[0].in_features == learn.model[-1].in_features and started > 0
    assert not any(m._forward_pre_hooks for m in learn.model.modules())


def test_the_reversed_gradient():
    x = torch.randn(3, 2, requires_grad=True)
    y = _Reversed.apply(x, 0.25)
    y.sum().backward()
    assert torch.equal(y, x) and torch.equal(x.grad, torch.full((3, 2), -0.25))


def test_a_discriminator_cannot_tell_after_dann():
    "The accuracy of logistic regression on the domain, from features: lower than without."
    from sklearn.linear_model import LogisticRegression

    def told(cbs):
        net = fitted(learner(96, cbs), 15).model.eval()
        with torch.no_grad(): rows = [net[:-1](x).numpy() for x in (torch.randn(96, 1, 8, 8), 0.5 + torch.randn(96, 1, 8, 8))]
        return LogisticRegression(max_iter=1000).fit(np.concatenate(rows), np.repeat([0, 1], 96)).score(np.concatenate(rows), np.repeat([0, 1], 96))
    torch.manual_seed(3)
    target = 0.5 + torch.randn(96, 1, 8, 8)
    assert told([DANN(target, 2.0)]) < told([])


def test_same_seed_same_training():
    found = []
    for _ in range(2):
        torch.manual_seed(5)
        learn = learner(cbs=[DeepCORAL(shifted(40))])
        torch.manual_seed(6)
        found.append(fitted(learn, 2).model)
    assert all(torch.equal(a, b) for a, b in zip(*(m.state_dict().values() for m in found)))


def test_an_empty_target_stops_the_training_with_the_reason():
    with pytest.raises(DomainError, match="no batches"): fitted(learner(cbs=[DeepCORAL([])]))
    once = (b for b in shifted(16).split(8))
    with pytest.raises(DomainError, match="no batches"): fitted(learner(cbs=[DeepCORAL(once)]), 2)


@pytest.mark.parametrize("of", ["logits", "features"])
@pytest.mark.parametrize("family", ["bert", "efficientnet_lite0"])
def test_raw_items_in_our_learners_and_frozen_stays_frozen(backbones, tmp_path, family, of):
    text = backbones[family].kind == "text"
    make, data = (text_learner, texts(24)) if text else (image_learner, images(12))
    target = texts(10, seed=4).items if text else images(9, seed=4)
    cb = DeepCORAL(target, of=of)
    learn = make(backbones[family], data, bs=4, seed=0, path=tmp_path, cbs=[cb])
    learn.freeze()
    before = everything(learn.model)
    fitted(learn)
    moved = {k for k, v in everything(learn.model).items() if not torch.equal(before[k], v)}
    head = {n for n, p in learn.model.named_parameters() if p.requires_grad}
    assert moved <= head and moved and len(cb.distances) >= 2
    assert all(np.isfinite(cb.distances))


# ---- Tent

def test_tent_lowers_entropy_and_moves_scale_and_shift_only():
    x, net = shifted(64), small_net()
    before, tent = everything(net), Tent(net, lr=1e-2)
    entropy = lambda p: -(p * np.log(p)).sum(1).mean()
    first = tent.predict_proba(x)
    for _ in range(10): last = tent.predict_proba(x)
    assert entropy(last) < entropy(first) and first.shape == (64, 3) and np.allclose(first.sum(1), 1, atol=1e-5)
    assert all(torch.equal(before[k], v) for k, v in everything(net).items())
    now = dict(tent.model.named_parameters())
    changed = {k for k, v in now.items() if not torch.equal(before[k], v)}
    assert changed == {f"{i}.{s}" for i in (1, 4, 8) for s in ("weight", "bias")}
    tent.reset()
    assert np.array_equal(tent.predict_proba(x), first)


def test_tent_uses_the_batchs_statistics_and_predicts_before_its_step():
    x, net = shifted(32), small_net()
    by_hand = copy.deepcopy(net).train()
    with torch.no_grad(): expected = by_hand(x).softmax(1).numpy()
    assert np.allclose(Tent(net, bs=32, steps=3).predict_proba(x), expected, atol=1e-6)


@pytest.mark.parametrize("family", ["bert", "resnet18"])
def test_tent_on_a_classifier_keeps_the_order_of_raw_items(backbones, family):
    net = Classifier(backbones[family], ["cold", "warm"])
    data = texts(11) if net.backbone.kind == "text" else images(10)
    tent = Tent(net, lr=1e-9)
    found = tent.predict_proba(data.items)
    if net.backbone.kind == "text": assert np.allclose(found, net.predict_proba(data.items), atol=1e-4)
    assert found.shape == (len(data), 2)


def test_tent_says_what_it_needs():
    with pytest.raises(DomainError, match="no normalisation"): Tent(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(DomainError, match="empty"): Tent(small_net()).predict_proba([])
