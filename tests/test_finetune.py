"Fine-tuning: frozen is frozen, rates reach their stages, gradients are PyTorch's, and fastai's methods work."
import copy

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from PIL import Image
from torch import nn

import tl_nb.finetune as F
from small_models import IMAGE, TEXT, everything, images, small_backbones, texts
from tl_nb.backbones import freeze, is_frozen
from tl_nb.classifier import Classifier, ClassifierError
from tl_nb.embedding import FeatureError
from tl_nb.finetune import EarlyStopping, image_learner, text_learner

WAYS = [(f, p) for f in TEXT for p in ("mean", "native")] + [(f, "native") for f in (*IMAGE, "hf-vit", "hf-resnet")]
FEW = [("bert", "mean"), ("xlnet", "native"), ("resnet18", "native"), ("efficientnet_lite0", "native")]


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    return small_backbones(tmp_path_factory.mktemp("backbones"))


@pytest.fixture
def learner(backbones, tmp_path):
    "learner('bert', …): quiet, small, and with a folder of its own."
    def make(family, pooling=None, data=None, seed=0, bs=8, **kwargs):
        bb = backbones[family]
        kwargs |= {"pooling": pooling} if pooling else {}
        if bb.kind == "text": learn = text_learner(bb, data or texts(24), bs=bs, seed=seed, path=tmp_path, **kwargs)
        else: learn = image_learner(bb, data or images(12), bs=bs, seed=seed, path=tmp_path, **kwargs)
        learn.logger = lambda *a, **k: None
        if hasattr(learn, "progress"): learn.remove_cb(learn.progress)
        return learn
    return make


def moved(before, model): return {k for k, v in everything(model).items() if not torch.equal(before[k], v)}


def names_in(model, stages):
    "Names of the parameters and buffers of some stages."
    held = {id(t) for s in stages for t in s.parameters()}
    held |= {id(b) for s in stages for m in s.modules.values() for b in m.buffers()}
    return {n for n, t in [*model.named_parameters(), *model.named_buffers()] if id(t) in held}


def statistics(model):
    return {f"{n}.{b}" for n, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)
            for b in ("running_mean", "running_var", "num_batches_tracked")}


# ---- frozen means frozen

@pytest.mark.parametrize("method", [None, "bitfit", "lora"])
@pytest.mark.parametrize("family,pooling", WAYS)
def test_frozen_is_bit_identical_after_an_epoch(learner, backbones, family, pooling, method):
    "Parameters and buffers, the statistics of BatchNorm too; all that is open and has a gradient moves."
    bb = backbones[family]
    original, modes = everything(bb.model), [m.training for m in bb.model.modules()]
    learn = learner(family, pooling, method=method, dropout=0.0)
    n = len(learn.stages)
    for k in (-1, n // 2, 0):
        learn.freeze_to(k)
        seen, handles = set(), []
        for name, p in learn.model.named_parameters():
            if p.requires_grad:
                note = lambda p, name=name: seen.add(name) if p.grad is not None and bool(p.grad.ne(0).any()) else None
                handles.append(p.register_post_accumulate_grad_hook(note))
        before = everything(learn.model)
        learn.fit(1, 1e-2)
        for h in handles: h.remove()
        changed, frozen = moved(before, learn.model), names_in(learn.model, learn.stages[:k % n])
        assert not changed & frozen
        assert {x for x in seen if x not in frozen} <= changed and seen
        closed = {x for x, p in learn.model.named_parameters() if not p.requires_grad}
        assert not changed & closed and not seen & closed
        held = statistics(learn.model)
        if method: assert not changed & held
        elif k == 0 and held: assert held <= changed
        assert all(p.grad is None for name, p in learn.model.named_parameters() if name in frozen)
        learn.validate()
    assert all(torch.equal(v, original[x]) for x, v in everything(bb.model).items())
    assert [m.training for m in bb.model.modules()] == modes


@pytest.mark.parametrize("family,pooling", FEW)
def test_momentum_and_decay_do_not_move_a_stage_frozen_later(learner, family, pooling):
    learn = learner(family, pooling, wd=0.5)
    learn.fit(1, 1e-2)
    for close in (lambda: learn.freeze_to(-1), lambda: learn.model.freeze_to(-1), learn.freeze):
        learn.freeze_to(0)
        learn.fit(1, 1e-2)
        close()
        before, frozen = everything(learn.model), names_in(learn.model, learn.stages[:-1])
        learn.fit(1, 1e-2, wd=0.9)
        changed = moved(before, learn.model)
        assert changed and not changed & frozen


def test_a_frozen_backbone_gives_a_learner_that_trains(learner, backbones):
    bb = freeze(copy.deepcopy(backbones["resnet18"]))
    before = everything(bb.model)
    learn = image_learner(bb, images(12), bs=4, seed=0)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert is_frozen(bb) and all(torch.equal(v, before[k]) for k, v in everything(bb.model).items())
    assert not any(is_frozen(s) for s in learn.stages)


@pytest.mark.parametrize("family", ["bert", "resnet18"])
def test_fine_tune_trains_the_head_first(learner, family):
    learn = learner(family)
    before, seen = everything(learn.model), []
    class Note(Callback):
        def after_epoch(self): seen.append(moved(before, self.learn.model) & names_in(self.learn.model, self.learn.stages[:-1]))
    learn.fine_tune(2, 1e-2, cbs=Note())
    assert [bool(s) for s in seen] == [False, True, True]
    assert all(p.requires_grad for p in learn.model.parameters())


@pytest.mark.parametrize("n", [9, -9])
def test_freeze_to_out_of_range(learner, n):
    with pytest.raises(ClassifierError, match="stages"): learner("bert").freeze_to(n)


# ---- the linear layer of training

def ramp(like): return torch.linspace(-1, 1, like.numel()).reshape(like.shape)


def same_gradients(x, layer, use):
    want = [t for t in (x, layer.weight, layer.bias) if t is not None and t.requires_grad]
    out = use(layer(x))
    ours = torch.autograd.grad(out, want)
    theirs = torch.autograd.grad(use(nn.functional.linear(x, layer.weight, layer.bias)), want)
    for a, b in zip(ours, theirs): assert a.shape == b.shape and (a - b).abs().max() <= 1e-5 * max(1, float(b.abs().max()))


@pytest.fixture
def amx(monkeypatch):
    "As on a processor with AMX units, where linear layers train by oneDNN; it works on any x86 processor."
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)


def test_without_amx_units_training_is_pytorchs_own(monkeypatch):
    net = nn.Sequential(nn.Linear(12, 6))
    net.bf16 = False
    for here in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: here)
        with F._fast_training(net): assert ("forward" in net[0].__dict__) == (here and torch.backends.mkldnn.is_available())


@pytest.mark.parametrize("shape", [(7, 12), (3, 5, 12), (2, 3, 4, 12), (1, 12), (12,)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", ["", "weight", "bias", "input", "weight bias"])
def test_gradients_are_those_of_pytorch(amx, shape, bias, frozen):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 6, bias=bias))
    net.bf16 = False
    x = torch.randn(shape, requires_grad="input" not in frozen)
    net[0].weight.requires_grad_("weight" not in frozen)
    if bias: net[0].bias.requires_grad_("bias" not in frozen)
    if not any(t.requires_grad for t in (x, *net.parameters())): return
    with F._fast_training(net):
        assert "forward" in net[0].__dict__ or not torch.backends.mkldnn.is_available()
        assert (net(x) - nn.functional.linear(x, net[0].weight, net[0].bias)).abs().max() < 1e-5
        same_gradients(x, net[0], lambda y: (y ** 3).sum())
        if len(shape) > 1: same_gradients(x, net[0], lambda y: (y.transpose(0, 1) * ramp(y.transpose(0, 1))).sum())
        same_gradients(x, net[0], lambda y: y.sum())  # its gradient is one number, expanded
    assert "forward" not in net[0].__dict__


def test_gradients_of_inputs_that_are_not_contiguous(amx):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 6))
    net.bf16 = False
    with F._fast_training(net):
        for x in (torch.randn(12, 5).t(), torch.randn(5, 24)[:, ::2], torch.randn(1, 12).expand(5, 12), torch.randn(4, 12, 3).transpose(1, 2)):
            same_gradients(x.requires_grad_(), net[0], lambda y: (y ** 2).sum())


def test_an_epoch_is_as_in_plain_pytorch(amx, learner, monkeypatch):
    "Whole training with and without the fast layers: the same weights but for rounding."
    fast = learner("bert", dropout=0.0)
    fast.fit(1, 1e-3)
    monkeypatch.setattr(F.torch.backends.mkldnn, "is_available", lambda: False)
    plain = learner("bert", dropout=0.0)
    plain.fit(1, 1e-3)
    for (name, a), b in zip(fast.model.named_parameters(), plain.model.parameters()): assert (a - b).abs().max() < 1e-4, name


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_modules_are_as_before_when_training_breaks(amx, learner, error):
    class Break(Callback):
        def after_backward(self): raise error("stop")
    learn = learner("bert")
    with pytest.raises(error): learn.fit(1, cbs=Break())
    assert not any("forward" in m.__dict__ for m in learn.model.modules())
    learn.fit(1)


# ---- rates

@pytest.mark.parametrize("family", ["bert", "resnet18", "convnext_atto"])
def test_groups_of_the_optimizer_are_the_stages(learner, family):
    learn = learner(family)
    learn.create_opt()
    held = [[id(p) for p in group] for group in learn.opt.param_lists]
    assert held == [[id(p) for p in s.parameters()] for s in learn.stages]
    flat = sum(held, [])
    assert len(flat) == len(set(flat)) and set(flat) == {id(p) for p in learn.model.parameters()}


def rates(learn): return [h["lr"] for h in learn.opt.hypers]


def test_every_stage_gets_its_rate(learner):
    learn = learner("bert")
    learn.fit(1, learn.layer_rates(1e-2, 0.5))
    assert rates(learn) == pytest.approx([1e-2 / 8, 1e-2 / 4, 1e-2 / 2, 1e-2])
    learn.fit(1, slice(1e-5, 1e-2))
    assert rates(learn) == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2])
    learn.fit(1, slice(1e-2))
    assert rates(learn) == pytest.approx([1e-3, 1e-3, 1e-3, 1e-2])
    learn.fit(1, learn.layer_rates(1e-2, 1))
    assert rates(learn) == pytest.approx([1e-2] * 4)
    for wrong in (0, -1, 1.5):
        with pytest.raises(ClassifierError, match="decay"): learn.layer_rates(1e-2, wrong)


def test_rates_reach_the_right_parameters(learner):
    "A rate of nothing leaves a stage where it is, and the peak of one cycle has the ratio that was asked for."
    learn = learner("distilbert", wd=0.0)
    before, peaks = everything(learn.model), []
    class Note(Callback):
        def before_step(self): peaks.append(rates(self.learn))
    learn.fit_one_cycle(1, np.array([0.0, 1e-2, 0.0, 1e-2]), cbs=Note())
    changed = moved(before, learn.model)
    assert not changed & names_in(learn.model, [learn.stages[0], learn.stages[2]])
    assert names_in(learn.model, [learn.stages[3]]) <= changed and changed & names_in(learn.model, [learn.stages[1]])
    peaks.clear()
    learn.fit_one_cycle(1, learn.layer_rates(1e-2, 0.5), cbs=Note())
    assert np.allclose(np.array(peaks)[:, :-1] / np.array(peaks)[:, 1:], 0.5)


# ---- probe

@pytest.mark.parametrize("classes", [("a", "b"), ("a", "b", "c")])
@pytest.mark.parametrize("family,pooling", [("bert", "mean"), ("bert", "native"), ("roberta", "native"), ("resnet18", "native"),
                                            ("vit_tiny_patch16_224", "native")])
def test_probe_is_logistic_regression(learner, backbones, family, pooling, classes):
    from sklearn.linear_model import LogisticRegression

    data = texts(36, classes) if backbones[family].kind == "text" else images(18, classes)
    learn = learner(family, pooling, data)
    last = {f"{n}.{x}" for n, m in learn.model.named_modules() if m is learn.model.last_layer for x in ("weight", "bias")}
    before, X = everything(learn.model), learn.model.features(data.train)
    assert learn.probe(C=0.5) is learn
    theirs = LogisticRegression(C=0.5, max_iter=2000).fit(X, data.train.labels)
    assert moved(before, learn.model) == last
    expected = theirs.predict_proba(learn.model.features(data.valid))
    assert np.abs(learn.predict_proba(data.valid) - expected).max() < 1e-4
    assert learn.predict(data.valid) == [classes[i] for i in expected.argmax(1)]
    learn.probe()  # with C by cross-validation
    assert moved(before, learn.model) == last


def test_probe_after_lora_and_with_a_frozen_body(learner):
    learn = learner("bert", method="lora")
    learn.freeze_to(-1)
    learn.probe()
    assert np.mean(np.array(learn.predict(learn.train_data)) == np.array(learn.train_data.label_names)) > 0.6
    learn.fit(1)


def test_probe_needs_every_class(learner):
    data = texts(24, ("a", "b", "c"))
    some = data[[i for i in range(16) if data.labels[i] < 2]]
    with pytest.raises(FeatureError, match="class"): learner("bert", data=some, valid=data.valid).probe()


# ---- early stopping

@pytest.mark.parametrize("family", ["bert", "resnet18"])
@pytest.mark.parametrize("how", ["fit", "fit_one_cycle"])
def test_early_stopping_goes_back_to_the_best(learner, family, how):
    values, states = [0.5, 0.4, 0.7, 0.6, 0.1, 0.1], []
    stop = EarlyStopping(patience=2)
    class Told(Callback):
        order = 55  # after the Recorder, before EarlyStopping
        def after_epoch(self):
            states.append(everything(self.learn.model))
            log = self.learn.recorder.values[-1]
            log[1] = values[len(states) - 1]
    learn = learner(family, cbs=[stop, Told()])
    getattr(learn, how)(6, 1e-2)
    assert len(states) == 4 and stop.best_epoch == 1
    assert not moved(states[1], learn.model) and moved(states[3], learn.model)
    learn.validate(), learn.get_preds()
    assert not moved(states[1], learn.model)


def test_early_stopping_with_fine_tune_and_lr_find(learner):
    stop = EarlyStopping(patience=1, monitor="accuracy")
    learn = learner("bert", cbs=stop)
    learn.fine_tune(4, 0.0)
    assert stop.best_epoch == 0 and len(learn.recorder.values) == 2
    before = everything(learn.model)
    learn.lr_find(num_it=20, show_plot=False)
    assert not moved(before, learn.model)


# ---- what fastai offers

@pytest.mark.parametrize("family", ["bert", "distilbert", "resnet18"])
def test_predict_agrees_with_get_preds_and_validate(learner, backbones, family):
    data = texts(45) if backbones[family].kind == "text" else images(15)
    learn = learner(family, data=data)
    learn.fit_one_cycle(1, 1e-3)
    modes = [m.training for m in learn.model.modules()]
    rows, labels = learn.get_preds()
    valid = data.valid
    own = learn.predict_proba(valid)
    assert np.abs(rows.numpy() - own).max() < 1e-5
    assert labels.tolist() == valid.labels.tolist()
    loss, accuracy = learn.validate()
    assert accuracy == pytest.approx(np.mean(np.array(learn.predict(valid)) == np.array(valid.label_names)))
    assert loss == pytest.approx(-np.log(own[np.arange(len(valid)), valid.labels]).mean(), abs=1e-4)
    assert [m.training for m in learn.model.modules()] == modes
    rows, labels = learn.get_preds(ds_idx=0)
    assert sorted(labels.tolist()) == sorted(data.train.labels.tolist())


def test_max_length_holds_for_training_prediction_and_saving(learner, tmp_path):
    data = texts(30)
    learn = learner("bert", data=data, max_length=4)
    assert max(len(x[0]) for x in learn.dls.train.dataset) == 4
    assert np.abs(learn.get_preds()[0].numpy() - learn.predict_proba(data.valid)).max() < 1e-5
    again = Classifier.from_pretrained(learn.save_pretrained(tmp_path / "a"))
    assert again.backbone.max_length == 4 and np.abs(again.predict_proba(data.valid) - learn.predict_proba(data.valid)).max() < 1e-6


@pytest.mark.parametrize("family,method", [("bert", None), ("bert", "lora"), ("convnext_atto", None), ("convnext_atto", "bitfit")])
def test_lr_find_save_and_load(learner, family, method):
    learn = learner(family, method=method)
    learn.fit(1, 1e-3)
    before, opened = everything(learn.model), [p.requires_grad for p in learn.model.parameters()]
    found = learn.lr_find(num_it=5, show_plot=False)
    assert 0 < found[0] < 10 and not moved(before, learn.model)
    assert [p.requires_grad for p in learn.model.parameters()] == opened
    learn.save("kept")
    learn.fit(1, 1e-2)
    assert moved(before, learn.model)
    learn.load("kept")
    assert not moved(before, learn.model)
    learn.fit(1, 1e-3)


def test_plots_and_other_schedules(learner):
    learn = learner("bert")
    learn.fit(1)
    learn.recorder.plot_loss()
    with learn.no_bar(): learn.fit_flat_cos(1, 1e-3)


def test_export_works_or_says_what_does(learner, tmp_path):
    from fastai.learner import load_learner

    learn = learner("bert")
    try: learn.export(tmp_path / "all.pkl")
    except ClassifierError as e: assert "save_pretrained" in str(e)
    else: assert load_learner(tmp_path / "all.pkl").predict(["the cat"]) == learn.predict(["the cat"])


def test_other_optimizers_and_callbacks_of_fastai(learner):
    from fastai.callback.tracker import SaveModelCallback
    from fastai.callback.training import GradientAccumulation
    from fastai.optimizer import Adam, ranger

    for opt in (Adam, ranger):
        learn = learner("resnet18", opt_func=opt, cbs=[SaveModelCallback(), GradientAccumulation(8)])
        learn.freeze_to(-1)
        before = everything(learn.model)
        learn.fit(2, 1e-2)
        changed = moved(before, learn.model)
        assert changed and not changed & names_in(learn.model, learn.stages[:-1])


@pytest.mark.parametrize("family", ["bert", "xlnet", "resnet18", "convnext_atto"])
def test_bf16_is_close_to_fp32(learner, backbones, family):
    data = texts(24) if backbones[family].kind == "text" else images(12)
    half, full = (learner(family, data=data, precision=p, dropout=0.0) for p in ("bf16", "fp32"))
    assert half.model.bf16 and not full.model.bf16
    assert np.abs(half.predict_proba(data) - full.predict_proba(data)).max() < 0.03
    assert (half.get_preds()[0] - full.get_preds()[0]).abs().max() < 0.03
    before = everything(half.model)
    half.fit_one_cycle(1, 1e-4), full.fit_one_cycle(1, 1e-4)
    assert moved(before, half.model) and all(p.dtype == torch.float32 for p in half.model.parameters())
    assert np.abs(half.predict_proba(data) - full.predict_proba(data)).max() < 0.05
    half.probe()


def test_bf16_saved_and_read_predicts_the_same(learner, tmp_path):
    learn = learner("bert", precision="bf16")
    again = Classifier.from_pretrained(learn.save_pretrained(tmp_path / "a"))
    assert np.abs(again.predict_proba(texts()) - learn.predict_proba(texts())).max() <= 1e-6


def test_fastais_own_bf16(learner):
    learn = learner("bert").to_bf16()
    learn.fit(1, 1e-3)


# ---- learning, seeds, augmentation

def test_it_learns(learner):
    data = texts(90)
    learn = learner("bert", data=data, seed=3)
    learn.fit_one_cycle(6, 5e-3)
    assert learn.validate()[1] > 0.9


@pytest.mark.parametrize("family,method", [("bert", None), ("bert", "lora"), ("resnet18", None)])
def test_a_seed_decides_all(learner, family, method):
    def weights(seed, **kwargs):
        learn = learner(family, seed=seed, method=method, **kwargs)
        learn.fit_one_cycle(2, 1e-3)
        return everything(learn.model)
    extra = dict(augment=True) if family == "resnet18" else {}
    first, again, other = weights(1, **extra), weights(1, **extra), weights(2, **extra)
    assert all(torch.equal(v, again[k]) for k, v in first.items())
    assert any(not torch.equal(v, other[k]) for k, v in first.items())


def test_a_seed_decides_all_when_learners_are_made_before_they_train(learner):
    one, two = (learner("bert", seed=1) for _ in range(2))
    one.fit(1, 1e-3), two.fit(1, 1e-3)
    assert not moved(everything(one.model), two.model)


def test_augmentation_is_for_training_alone(learner):
    learn = learner("resnet18", augment=True)
    valid = [torch.cat([x for x, _ in learn.dls.valid]) for _ in range(2)]
    train = [torch.stack([learn.dls.train.do_item(i)[0] for i in range(4)]) for _ in range(2)]
    assert torch.equal(*valid) and not torch.equal(*train)
    plain = learner("resnet18")
    assert torch.equal(valid[0], torch.cat([x for x, _ in plain.dls.valid]))
    assert torch.equal(*[torch.stack([plain.dls.train.do_item(i)[0] for i in range(4)]) for _ in range(2)])
    gray = learner("resnet18", augment=lambda image: Image.new("RGB", image.size, (9, 9, 9)))
    assert len({float(x) for x in gray.dls.train.do_item(0)[0].flatten()}) <= 3


def test_sizes_of_batches_and_that_all_items_are_seen(learner):
    for family, data in (("bert", texts(33)), ("resnet18", images(15))):
        learn = learner(family, data=data, bs=4)
        seen = [y for _, ys in learn.dls.train for y in ys.tolist()]
        assert len(seen) == len(data.train) and sorted(seen) == sorted(data.train.labels.tolist())
        assert {len(y) for _, y in learn.dls.train} <= {4, len(data.train) % 4}


# ---- errors

def test_data_that_cannot_be_trained_on(learner, backbones):
    data, bb = texts(24), backbones["bert"]
    with pytest.raises(FeatureError, match="validation"): text_learner(bb, data[np.arange(24)])
    with pytest.raises(FeatureError, match="image_learner"): text_learner(bb, images())
    with pytest.raises(FeatureError, match="text_learner"): image_learner(backbones["resnet18"], data)
    with pytest.raises(FeatureError, match="Dataset"): text_learner(bb, data.items)
    with pytest.raises(FeatureError, match="valid"): text_learner(bb, data.train, data.valid.items)
    with pytest.raises(FeatureError, match="classes"): text_learner(bb, data.train, texts(24, ("x", "y")).valid)
    with pytest.raises(FeatureError, match="text|image"): text_learner(bb, data.train, images(12).valid)
    with pytest.raises(FeatureError, match="0"): text_learner(bb, data.train, data.valid[[]])
    with pytest.raises((FeatureError, ClassifierError), match="classes"): text_learner(bb, texts(24, ("one",)))
    with pytest.raises((FeatureError, ValueError), match="image|text"): text_learner(backbones["resnet18"], data)
    with pytest.raises((FeatureError, ValueError), match="image|text"): image_learner(bb, images())


@pytest.mark.parametrize("wrong", [dict(method="lorra"), dict(pooling="median"), dict(precision="fp8"), dict(max_length=0), dict(bs=0)])
def test_arguments_out_of_range(backbones, wrong):
    with pytest.raises((FeatureError, ClassifierError), match=next(iter(wrong.values())) if isinstance(next(iter(wrong.values())), str) else next(iter(wrong))):
        text_learner(backbones["bert"], texts(), **wrong)


def test_an_empty_text_is_named(backbones):
    data = texts(24)
    data.items[3] = "  "
    with pytest.raises(FeatureError, match="Item 3 of 16 is an empty text"): text_learner(backbones["bert"], data)


@pytest.mark.parametrize("augment", [None, True])
def test_an_image_that_cannot_be_read_is_named(learner, tmp_path, augment):
    data = images(12)
    (tmp_path / "broken.png").write_bytes(b"no image")
    data.items[5] = tmp_path / "broken.png"
    with pytest.raises(FeatureError, match="Item 5 of 8.*broken.png"): learner("resnet18", data=data, augment=augment).fit(1)
