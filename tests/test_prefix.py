"Prefix cache: a suffix on stored activations is the network from the cut on, and the store survives what stores meet."
import logging
import multiprocessing
import os
import signal
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import tl_nb.prefix as P
from benchmarks import prefix as bench
from small_models import IMAGE, TEXT, everything, images, save_text, small_backbones, texts
from tl_nb.backbones import load_backbone
from tl_nb.data import load_data
from tl_nb.embedding import FeatureError
from tl_nb.exercises_methods import check_sweep_passes
from tl_nb.finetune import EarlyStopping, image_learner, text_learner
from tl_nb.prefix import PrefixCache, PrefixError, Suffix, SuffixLearner
from tl_nb.store import FeatureStore

WAYS = [(f, p) for f in (*TEXT, "hf-vit", "hf-resnet") for p in ("mean", "native")] + [(f, "native") for f in IMAGE]
TRIAL = 4  # two items, once to see what is called and once through the cuts; and behind each cut
FEW = [("bert", "mean"), ("xlnet", "native"), ("resnet18", "native"), ("vit_tiny_patch16_224", "native")]


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    return small_backbones(tmp_path_factory.mktemp("backbones"))


@pytest.fixture
def learner(backbones, tmp_path):
    "learner('bert', …): quiet and small, the same each time."
    def make(family, pooling=None, data=None, seed=0, bs=8, **kwargs):
        bb = backbones[family]
        kwargs |= {"pooling": pooling} if pooling else {}
        text = bb.kind == "text"
        return quiet((text_learner if text else image_learner)(bb, data or (texts(24) if text else images(12)), bs=bs, seed=seed,
                                                               path=tmp_path, **kwargs))
    return make


@pytest.fixture
def cached(tmp_path):
    "PrefixCache in a store of the test's own."
    return partial(PrefixCache, store=FeatureStore(tmp_path / "store"), progress=False)


def quiet(learn):
    learn.logger = lambda *a, **k: None
    if hasattr(learn, "progress"): learn.remove_cb(learn.progress)
    return learn


def names_before(model, cut):
    "Names of the parameters and buffers of the first stages."
    held = {id(t) for s in model.stages[:cut] for m in s.modules.values() for t in [*m.parameters(), *m.buffers()]}
    held |= {id(p) for s in model.stages[:cut] for p in s.loose.values()}
    return {n for n, t in [*model.named_parameters(), *model.named_buffers()] if id(t) in held}


def moved(before, model): return {k for k, v in everything(model).items() if not torch.equal(before[k], v)}


def gradients(model, net, inputs, labels):
    "(logits, {name: gradient} of the classifier `net`) of a step in training mode, with the same dropout each time."
    torch.manual_seed(5)
    model.train()
    model.zero_grad()
    logits = model(inputs)
    nn.functional.cross_entropy(logits, labels).backward()
    return logits.detach(), {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}


def passes(model, stage):
    "A list that grows by the number of items of each pass that a stage computes: its first part is not called otherwise."
    seen, top = [], next(iter(model.stages[stage].modules.values()))
    part = next(m for m in top.modules() if m is not top and not list(m.children()))
    part.register_forward_hook(lambda m, args, out: seen.append(len(out)))
    return seen


# ---- the suffix is the network from the cut on

@pytest.mark.parametrize("family,pooling", WAYS)
def test_logits_and_gradients_are_those_of_the_whole_network_at_every_cut(learner, cached, family, pooling):
    learn, at = learner(family, pooling), np.array([3, 0, 5])
    net = learn.model
    cache = cached(learn, range(1, len(learn.stages)))
    whole = cache._inputs([cache.parts[0][int(i)][0] for i in at])
    labels, start = cache.labels[0][at], everything(net)
    for cut in cache.cuts:
        net.load_state_dict(start, strict=False)  # a step moves the statistics of BatchNorm
        suffix = cache.learner(cut).model
        assert {id(p) for p in suffix.parameters()} == {id(p) for s in net.stages[cut:] for p in s.parameters()}
        ours, near = gradients(suffix, net, cache.inputs(cut, 0, at), labels)
        theirs, far = gradients(net, net, whole, labels)
        assert (ours - theirs).abs().max() <= 1e-5
        assert near.keys() == far.keys() and not near.keys() & names_before(net, cut) and near
        assert max((near[n] - far[n]).abs().max() for n in near) <= 1e-4


@pytest.mark.parametrize("name,cuts", [("minilm-l6", (1, 4, 7)), ("efficientnet-lite0", (1, 5, 8))])
def test_logits_and_gradients_of_real_networks(cached, name, cuts):
    bb, data = load_backbone(name), load_data("sentiment-movie" if name == "minilm-l6" else "textures")
    make = text_learner if bb.kind == "text" else image_learner
    learn, at = make(bb, data.train[:8], data.valid[:2], seed=0, precision="fp32"), np.arange(6)
    cache = cached(learn, cuts)
    whole, labels, start = cache._inputs([cache.parts[0][int(i)][0] for i in at]), cache.labels[0][at], everything(learn.model)
    for cut in cuts:
        learn.model.load_state_dict(start, strict=False)
        ours, near = gradients(cache.learner(cut).model, learn.model, cache.inputs(cut, 0, at), labels)
        theirs, far = gradients(learn.model, learn.model, whole, labels)
        assert (ours - theirs).abs().max() <= 1e-5 and near.keys() == far.keys()
        assert max((near[n] - far[n]).abs().max() for n in near) <= 1e-4


@pytest.mark.parametrize("family,pooling", FEW)
def test_a_training_is_the_uncached_one_step_by_step(learner, cached, family, pooling):
    "Order, dropout, rates by depth and schedule included; it trains the learner's own network, and nothing before the cut."
    for cut in (1, -2, -1):
        plain, ours = learner(family, pooling), learner(family, pooling)
        plain.freeze_to(cut)
        plain.fit_one_cycle(2, plain.layer_rates(1e-3))
        before = everything(ours.model)
        suffix = quiet(cached(ours, cut).learner(cut))
        suffix.fit_one_cycle(2, suffix.layer_rates(1e-3))
        k = cut % len(ours.stages)
        assert suffix.model.classifier is ours.model and not moved(before, ours.model) & names_before(ours.model, k)
        assert any(n.startswith("net") for n in moved(before, ours.model))
        for name, value in everything(plain.model).items():
            torch.testing.assert_close(everything(ours.model)[name], value, atol=2e-4, rtol=2e-4, msg=lambda m: f"{name}: {m}")
        assert np.allclose(suffix.recorder.values, plain.recorder.values, atol=1e-4)
        assert np.allclose(suffix.validate(), ours.validate(), atol=1e-5), "uncached, and on what is stored"


def test_one_pass_serves_all_cuts_and_ends_behind_the_last(learner, cached):
    learn = learner("bert")
    first, second = passes(learn.model, 1), passes(learn.model, 2)
    cache = cached(learn, [1, 2])
    assert sum(first) == 24 + TRIAL + 2 and sum(second) == 2 + 4, "behind the last cut only the trial ran"
    first.clear(), second.clear()
    cached(learn, [2, 1])
    assert sum(first) == TRIAL + 2, "a second time it is read"
    cached(learn, [1, 2, 3])
    assert sum(second) == 24 + TRIAL + 4 + 6
    again = PrefixCache(learn, [1, 2], store=cache.store, progress=False)
    assert torch.equal(again.inputs(2, 0, np.arange(16))["stored"], cache.inputs(2, 0, np.arange(16))["stored"])


@pytest.mark.parametrize("cut,rows", [(1, 3), (2, 3), (3, 2)])
def test_padding_is_not_stored(learner, cached, cut, rows):
    cache = cached(learner("bert"), cut)
    n = sum(len(x) for part in cache.parts for x, _ in part) if cut < 3 else sum(len(part) for part in cache.parts)
    assert cache._rows[cut][0].shape == (n, 32)
    assert cache.sizes()["MB"][0] == pytest.approx(n * 32 * 4 / 1e6, abs=0.005)


# ---- an ordinary learner

def test_what_fastai_can_do_works(learner, cached):
    cache = cached(learner("bert"), [1, -1])
    learn = quiet(cache.learner(1, lr=2e-3, cbs=EarlyStopping(patience=5)))
    assert isinstance(learn, SuffixLearner) and isinstance(learn.model, Suffix) and len(learn.stages) == 4
    learn.fine_tune(1)
    assert learn.opt.frozen_idx == 1 and all(p.requires_grad for s in learn.stages[1:] for p in s.parameters())
    scores, labels = learn.get_preds()
    assert scores.shape == (8, 2) and labels.tolist() == cache.labels[-1].tolist(), "in the order of the items"
    assert learn.predict(["the cat sat"])[0] in ("cold", "warm") and learn.predict_proba(["the cat sat"]).shape == (1, 2)
    assert sum(p.numel() for g in learn.opt.param_lists for p in g) == sum(p.numel() for s in learn.stages[1:] for p in s.parameters())


def test_freezing_more_holds_and_less_is_refused(learner, cached):
    learn = quiet(cached(learner("bert"), 2).learner(2))
    learn.freeze_to(3)
    before = everything(learn.model)
    learn.fit(1, 1e-2)
    assert not moved(before, learn.model) & {f"classifier.{n}" for n in names_before(learn.model.classifier, 3)}
    for n in (0, 1, -4, -3):
        with pytest.raises(PrefixError, match="cannot train"): learn.freeze_to(n)
    learn.unfreeze()
    learn.fit(1)


@pytest.mark.parametrize("family,pooling", FEW)
def test_the_probe_is_that_of_the_whole_network(learner, cached, family, pooling):
    plain, ours = learner(family, pooling), learner(family, pooling)
    cached(ours, -1).learner(-1).probe(C=1.0)
    plain.probe(C=1.0)
    torch.testing.assert_close(ours.model.last_layer.weight, plain.model.last_layer.weight, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("method", ["lora", "bitfit"])
def test_thin_training_behind_the_cut(learner, cached, method):
    plain, ours = learner("bert", method=method), learner("bert", method=method)
    plain.freeze_to(2)
    plain.fit(1, 1e-2)
    quiet(cached(ours, 2).learner(2)).fit(1, 1e-2)
    for name, value in everything(plain.model).items():
        torch.testing.assert_close(everything(ours.model)[name], value, atol=2e-4, rtol=2e-4)


def test_every_learner_of_a_cache_has_the_same_order_and_dropout(learner, cached):
    source = learner("bert")
    cache, start = cached(source, 1), everything(source.model)
    def run(**kwargs):
        source.model.load_state_dict(start, strict=False)
        torch.rand(3), np.random.rand(2)
        learn = quiet(cache.learner(1, **kwargs))
        learn.fit(1, 1e-2)
        return everything(source.model)["net.head.weight"]
    first = run()
    assert torch.equal(first, run()) and not torch.equal(first, run(seed=9)) and torch.equal(run(seed=9), run(seed=9))


# ---- precision

@pytest.mark.parametrize("precision,most", [("fp32", 1e-6), ("fp16", 2e-3), ("bf16", 2e-2)])
@pytest.mark.parametrize("family", ["bert", "resnet18"])
def test_precision_of_what_is_stored(learner, cached, family, precision, most):
    learn, at = learner(family), np.arange(4)
    cache = cached(learn, [1, -1], precision)
    for cut in cache.cuts:
        exact = cache._through(cache._inputs([cache.parts[0][i][0] for i in range(4)])).get(cut)
        found = cache.inputs(cut, 0, at)
        keep = found["attention_mask"].bool() if isinstance(found, dict) else slice(None)
        stored = found["stored"] if isinstance(found, dict) else found
        assert stored.dtype == torch.float32 and (stored[keep] - exact[keep]).abs().max() <= most * exact.abs().max()
    whole = cached(learn, [1, -1]).sizes()["MB"].sum()
    assert cache.sizes()["MB"].sum() == pytest.approx(whole / (1 if precision == "fp32" else 2), rel=0.05)


def test_too_large_for_fp16_is_refused(learner, cached):
    learn = learner("bert")
    with torch.no_grad(): learn.model.net.body.embeddings.LayerNorm.weight.fill_(1e6)
    with pytest.raises(PrefixError, match="too large for fp16.*bf16"): cached(learn, 1, "fp16")
    cached(learn, 1, "bf16")


def test_an_odd_width_is_packed_and_unpacked():
    x = torch.randn(5, 7)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert torch.equal(P._unpack(P._pack(x, dtype), dtype, 7), x.to(dtype).float())


# ---- the store

def test_the_key_is_what_goes_in_and_the_weights_before_the_cut(learner, cached):
    learn = learner("bert")
    cache = cached(learn, [1, 2])
    with torch.no_grad(): learn.model.last_layer.weight.add_(1)
    first = passes(learn.model, 1)
    cached(learn, [1, 2])
    assert sum(first) == TRIAL + 2, "weights behind the cut do not count"
    with torch.no_grad(): learn.stages[1].parameters()[0].data.add_(0.1)
    again = cached(learn, [1, 2])
    assert again._marks[1] == cache._marks[1] and again._marks[2] != cache._marks[2] and sum(first) >= 24
    with pytest.raises(PrefixError, match="first 2 stages are no longer those"): cache.learner(2)
    cache.learner(1)


def test_a_prefix_that_was_trained_since_is_refused(learner, cached):
    source = learner("bert")
    cache = cached(source, [1, 2])
    deep = cache.learner(2)
    quiet(cache.learner(1)).fit(1, 1e-2)
    with pytest.raises(PrefixError, match="opened since|no longer"): deep.fit(1)
    with pytest.raises(PrefixError, match="no longer those"): cache.learner(2)


def test_ten_new_items_cost_ten(learner, cached):
    few, more = texts(24), texts(34)
    cached(learner("bert", data=few), 2)
    learn = learner("bert", data=more)
    seen = passes(learn.model, 1)
    cached(learn, 2)
    assert sum(seen) == 10 + TRIAL


def test_equal_items_are_stored_once(learner, cached):
    data = texts(24)
    data.items[:4] = [data.items[0]] * 4
    cache = cached(learner("bert", data=data), 3)
    assert cache.sizes()["items"][0] == len({tuple(x) for part in cache.parts for x, _ in part})


def test_an_interrupted_pass_goes_on_and_gives_the_same_bits(learner, tmp_path, monkeypatch):
    monkeypatch.setattr(P, "_budget", lambda device: 40)
    whole = PrefixCache(learner("bert"), [1, 3], store=FeatureStore(tmp_path / "whole"), progress=False)
    put, calls = P._CutIndex.put, []
    def stop(self, *args):
        calls.append(1)
        if len(calls) == 6: raise KeyboardInterrupt
        return put(self, *args)
    monkeypatch.setattr(P._CutIndex, "put", stop)
    store = FeatureStore(tmp_path / "broken")
    with pytest.raises(KeyboardInterrupt): PrefixCache(learner("bert"), [1, 3], store=store, progress=False)
    monkeypatch.setattr(P._CutIndex, "put", put)
    learn = learner("bert")
    seen = passes(learn.model, 1)
    again = PrefixCache(learn, [1, 3], store=store, progress=False)
    assert sum(seen) < 24 + TRIAL + 2, "what was there was not computed again"
    for cut in (1, 3):
        for p, part in enumerate(whole.parts):
            for i in range(len(part)):
                a, b = (c.inputs(cut, p, np.array([i])) for c in (whole, again))
                assert torch.equal(*(x["stored"] if cut == 1 else x for x in (a, b)))


def at_hand(model):
    "The learner of a saved network, the same in every process."
    return quiet(text_learner(load_backbone(str(model)), texts(24), bs=8, seed=0))


def _killed(model, folder):
    "In a process of its own: end without any farewell while the third batch is being written."
    append, calls = P._CutIndex._append, []
    def die(self, file, row, rows):
        calls.append(1)
        if len(calls) == 5:
            append(self, file, row, rows[: len(rows) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        append(self, file, row, rows)
    P._CutIndex._append, P._budget = die, lambda device: 40
    PrefixCache(at_hand(model), [1, 2], store=FeatureStore(folder), progress=False)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_kill_in_the_middle_of_a_write_loses_one_batch(tmp_path, monkeypatch):
    model = save_text("bert", tmp_path / "bert")
    process = multiprocessing.get_context("spawn").Process(target=_killed, args=(model, tmp_path / "s"), daemon=True)
    process.start()  # spawned: a fork of a process whose OpenMP has threads waits for them for ever
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    monkeypatch.setattr(P, "_budget", lambda device: 40)
    learn = at_hand(model)
    seen = passes(learn.model, 1)
    again = PrefixCache(learn, [1, 2], store=FeatureStore(tmp_path / "s"), progress=False)
    assert 0 < sum(seen) < 24 + TRIAL + 2
    fresh = PrefixCache(at_hand(model), [1, 2], store=FeatureStore(tmp_path / "t"), progress=False)
    for cut in (1, 2):
        assert torch.equal(again.inputs(cut, 0, np.arange(16))["stored"], fresh.inputs(cut, 0, np.arange(16))["stored"])


def test_damaged_bytes_are_computed_again(learner, tmp_path, caplog):
    store = FeatureStore(tmp_path / "store")
    make = lambda: PrefixCache(learner("bert"), 2, store=store, progress=False)
    before = make().inputs(2, 0, np.arange(16))["stored"].clone()
    file, = (store.folder / "rows").iterdir()
    with file.open("r+b") as f: f.seek(100), f.write(b"\x55" * 40)
    with caplog.at_level(logging.WARNING): after = make().inputs(2, 0, np.arange(16))["stored"]
    assert "damaged" in caplog.text
    torch.testing.assert_close(after, before, atol=1e-6, rtol=1e-5)


def test_the_store_has_sizes_and_can_be_cleaned(learner, tmp_path):
    store = FeatureStore(tmp_path / "store")
    cache = PrefixCache(learner("bert"), [1, -1], "fp16", store=store, progress=False)
    table = store.sizes()
    assert set(table["stage"]) == {"embeddings", "block 2"} and set(table["precision"]) == {"fp16"}
    assert table["MB"].sum() == pytest.approx(cache.sizes()["MB"].sum(), abs=0.02)
    assert store.clean() > 0 and store.sizes().empty
    assert "augmentation: none" in repr(cache) and "block 2" in repr(cache)


# ---- augmented views

def lighter(image):
    "An augmentation: brightness at random."
    return image.point(lambda v, by=float(torch.rand(())): int(v * (0.5 + by / 2)))


def test_views_are_drawn_once_and_shown_in_turn(learner, cached):
    make = lambda: learner("resnet18", augment=lighter)
    cache = cached(make(), 2, views=3)
    at = np.arange(8)
    views = [cache.inputs(2, v, at) for v in range(3)]
    assert not any(torch.equal(views[a], views[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    learn = make()
    seen = passes(learn.model, 1)
    again = cached(learn, 2, views=3)
    assert sum(seen) == TRIAL and all(torch.equal(again.inputs(2, v, at), views[v]) for v in range(3))
    suffix, shown = quiet(cache.learner(2)), []
    suffix.model.register_forward_pre_hook(lambda m, args: shown.append(args[0].clone()) if m.training else None)
    suffix.fit(4, 0.0)
    assert len(shown) == 4
    for epoch, x in enumerate(shown):
        known = {row.numpy().tobytes() for row in views[epoch % 3]}
        assert {row.numpy().tobytes() for row in x} == known
    assert "3 stored views" in repr(cache)


def test_drawing_views_leaves_the_random_numbers_alone(learner, cached):
    learn = learner("resnet18", augment=lighter)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    cached(learn, 2, views=2)
    assert torch.equal(torch.rand(2), expected)


def test_without_views_the_items_are_as_validation_sees_them(learner, cached):
    plain, augmented = cached(learner("resnet18"), 2), cached(learner("resnet18", augment=lighter), 2)
    assert torch.equal(plain.inputs(2, 0, np.arange(8)), augmented.inputs(2, 0, np.arange(8)))


def test_views_that_would_be_the_same_are_refused(learner, cached):
    with pytest.raises(PrefixError, match="texts are not augmented"): cached(learner("bert"), 1, views=2)
    with pytest.raises(PrefixError, match="augments nothing.*augment="): cached(learner("resnet18"), 1, views=2)


# ---- bad input

@pytest.mark.parametrize("cuts,said", [(0, "from 1 to 3"), (4, "embeddings, block 1, block 2, head"), (-4, "-1"), (1.5, "1.5"),
                                       ("block 1", "'block 1'"), (True, "True"), ([], "empty"), ([1, 9], "9"), (None, "None")])
def test_bad_cuts(learner, cached, cuts, said):
    with pytest.raises(PrefixError, match=said): cached(learner("bert"), cuts)


def test_other_bad_input(learner, cached, tmp_path):
    learn = learner("bert")
    with pytest.raises(PrefixError, match="'int8'.*fp16"): cached(learn, 1, "int8")
    with pytest.raises(FeatureError, match="views = 0"): cached(learn, 1, views=0)
    with pytest.raises(PrefixError, match="text_learner or image_learner"): cached(learn.model, 1)
    cache = cached(learn, [1, 2])
    with pytest.raises(PrefixError, match=r"cut = 3: stored are \[1, 2\]"): cache.learner(3)
    with pytest.raises(PrefixError, match="text_learner or image_learner"): cached(cache.learner(1), 1)
    learn.dls = learner("bert", data=texts(30)).dls
    with pytest.raises(PrefixError, match="other data"): cache.learner(1)


def test_a_folder_that_cannot_be_used(learner, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FeatureError, match="cannot be used.*FeatureStore"): PrefixCache(learner("bert"), 1, store=FeatureStore(tmp_path / "file"))


def test_a_full_disk_keeps_what_is_there(learner, tmp_path, monkeypatch):
    def full(self, *args): raise OSError(28, "No space left on device")
    monkeypatch.setattr(P._CutIndex, "_append", full)
    with pytest.raises(FeatureError, match="No space left.*free some space"):
        PrefixCache(learner("bert"), 1, store=FeatureStore(tmp_path / "s"), progress=False)
    monkeypatch.undo()
    PrefixCache(learner("bert"), 1, store=FeatureStore(tmp_path / "s"), progress=False)


def test_an_image_that_cannot_be_read_is_named(learner, cached, tmp_path):
    data = images(12)
    learn = learner("resnet18", data=data)
    learn.train_data.items[2] = tmp_path / "gone.png"
    with pytest.raises(FeatureError, match="Item 2 of 8"): cached(learn, 1)


def test_an_architecture_that_hands_on_more_is_refused(learner, cached):
    learn, kept = learner("bert"), []
    first, second = learn.model.net.body.encoder.layer
    learn.model.net.body.embeddings.register_forward_hook(lambda *a: kept.clear())
    first.attention.register_forward_hook(lambda m, args, out: kept.append(args[0]))
    second.register_forward_pre_hook(lambda m, args: (args[0] + 3 * kept.pop(), *args[1:]) if kept else None)
    with pytest.raises(PrefixError, match="cannot be cut behind block 1.*freeze_to"): cached(learn, 2)


# ---- the benchmark

def test_the_ways_of_the_benchmark_train_the_same(backbones, tmp_path):
    for family, make, data in (("bert", text_learner, texts(48)), ("efficientnet_lite0", image_learner, images(24))):
        task = bench.task(backbones[family], make, data, 16, 8, bs=8, path=tmp_path, lr=1e-3)
        assert task.cuts[0] == len(task.new().stages) - 1 and len(task.cuts) == task.blocks // 2 + 1 and task.one - 1 == round(2 * task.blocks / 3)
        assert bench.swept(task, task.cuts, 1) == bench.uncached(task, task.cuts, 1)
        assert len(bench.stored(task, task.one, 1)) == len(bench.full(task, 1)) == 1


# ---- the exercise

def test_the_check_of_the_exercise_names_each_slip():
    right = lambda b, d, e: (sum(e * (b + 2 * k) for k in d), b - min(d) + sum(3 * e * k for k in d))
    slips = {"no backward": lambda b, d, e: (3 * e * b * len(d), right(b, d, e)[1]), "uncached should be": lambda b, d, e: (1, right(b, d, e)[1]),
             "missing": lambda b, d, e: (right(b, d, e)[0], sum(3 * e * k for k in d)), "two numbers": lambda b, d, e: (1, 2, 3),
             "one pass serves": lambda b, d, e: (right(b, d, e)[0], sum(3 * e * k + b - k for k in d)),
             "ends at the deepest": lambda b, d, e: (right(b, d, e)[0], b + sum(3 * e * k for k in d)),
             "stored should be": lambda b, d, e: (right(b, d, e)[0], 1 + right(b, d, e)[1])}
    assert check_sweep_passes(right).passed
    for said, slip in slips.items():
        verdict = check_sweep_passes(slip)
        assert verdict.passed is False and said in verdict.message
