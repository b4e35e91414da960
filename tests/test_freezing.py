"Freezing: what is frozen stays, a sweep equals the trainings it stands for, and a killed one goes on as if nothing had happened."
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageOps
from fastai.callback.core import Callback, CancelValidException
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from torch import nn

from small_models import everything, images, small_backbones, texts
from tl_nb import freezing as F
from tl_nb.backbones import BackboneError, is_frozen
from tl_nb.classifier import Classifier, ClassifierError
from tl_nb.finetune import EarlyStopping, image_learner, text_learner
from tl_nb.freeze_plan import FreezePlan
from tl_nb.freezing import (FreezeError, PrefixCache, Sweep, freeze_sweep, freeze_to, frozen, layer_relevance, train_only)
from tl_nb.settings import seed_everything
from tl_nb.splits import Dataset

FIGURES = ["seed", "depth", "valid", "valid_loss", "test", "memory", "trainable"]


@pytest.fixture(scope="module")
def backbones(tmp_path_factory): return small_backbones(tmp_path_factory.mktemp("backbones"))


def noisy(data, share=0.25, seed=0):
    "The same items with some labels turned round, so that no depth is perfect."
    rng, labels = np.random.default_rng(seed), np.array(data.labels)
    turn = rng.random(len(labels)) < share
    labels[turn] = (labels[turn] + 1) % len(data.classes)
    return Dataset(data.items, labels, data.classes, data.kind, splits=data.splits)


def learner(backbones, family, seed=1, n=48):
    if backbones[family].kind == "text": return text_learner(backbones[family], noisy(texts(n)), seed=seed, lr=1e-2, bs=8)
    return image_learner(backbones[family], noisy(images(n)), seed=seed, lr=1e-2, bs=8)


def sweep(learn, folder, **kwargs):
    return freeze_sweep(learn, **dict(epochs=1, seeds=[3], folder=folder, progress=False) | kwargs)


# ---- freezing, and the report of it

@pytest.mark.parametrize("family", ["bert", "efficientnet_lite0"])
def test_freeze_to_counts_as_fastai_does(backbones, family):
    learn = learner(backbones, family)
    n = len(learn.stages)
    for asked, first in (-1, n - 1), (-n, 0), (0, 0), (2, 2), (n, n):
        for what in (learn, learn.model):
            assert freeze_to(what, asked) is what
            assert [is_frozen(s) for s in learn.stages] == [i < first for i in range(n)]
    body = freeze_to(backbones[family], 1)
    assert [is_frozen(s) for s in body.stages] == [True] + [False] * (len(body.stages) - 1)
    freeze_to(body, 0)


def test_freeze_to_takes_a_learner_of_fastai():
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    data = [(torch.zeros(2), torch.tensor(0))] * 4
    learn = Learner(DataLoaders.from_dsets(data, data, bs=2), net, loss_func=nn.CrossEntropyLoss(),
                    splitter=lambda m: [list(m[0].parameters()), list(m[1].parameters())])
    freeze_to(learn, -1)
    assert [p.requires_grad for p in net.parameters()] == [False, False, True, True]
    assert [r["trainable"] for r in frozen(learn).rows] == [0, 8]
    freeze_to(learn, 0)
    assert [r["trainable"] for r in frozen(learn).rows] == [9, 8]


@pytest.mark.parametrize("n, error", [(9, ClassifierError), (-5, ClassifierError), (True, FreezeError), (1.0, FreezeError)])
def test_a_number_out_of_range_is_refused(backbones, n, error):
    with pytest.raises(error): freeze_to(learner(backbones, "bert"), n)


def test_what_has_no_stages_is_refused(backbones):
    with pytest.raises(FreezeError, match="no stages"): freeze_to(nn.Linear(2, 2), 1)
    with pytest.raises(FreezeError, match="needed"): frozen("bert")
    with pytest.raises(FreezeError, match="nothing to report"): frozen(nn.Linear(2, 2))
    with pytest.raises(BackboneError): freeze_to(backbones["bert"], 12)


@pytest.mark.parametrize("family", ["bert", "resnet18"])
def test_the_report_says_what_training_can_change(backbones, family):
    learn = freeze_to(learner(backbones, family), 2)
    report = frozen(learn)
    assert report.parameters == sum(p.numel() for p in learn.model.parameters())
    assert report.trainable == learn.model.n_trainable == sum(r["trainable"] for r in report.rows[2:])
    assert sum(r["buffers"] for r in report.rows) == sum(b.numel() for b in learn.model.buffers())
    assert [r["mode"] for r in report.rows] == ["eval", "eval"] + ["train"] * (len(report.rows) - 2)
    learn.model.train()
    for row, stage in zip(report.rows, learn.stages):  # the mode is the one that a training finds
        assert {m.training for top in stage.modules.values() for m in top.modules()} == {row["mode"] == "train"}
    for shown in (repr(report), report._repr_html_(), report.table().to_string()): assert all(r["stage"] in shown for r in report.rows)
    assert f"{report.trainable:,} of {report.parameters:,}" in repr(report)


def test_a_stage_that_is_frozen_in_part_is_called_mixed(backbones):
    learn = image_learner(backbones["resnet18"], images(), method="bitfit", seed=1)
    rows = frozen(learn).rows
    assert {r["mode"] for r in rows[1:-1]} == {"mixed"} and all(0 < r["trainable"] < r["parameters"] for r in rows[1:-1])


@pytest.mark.parametrize("family", ["bert", "efficientnet_lite0"])
def test_train_only_moves_one_stage_and_the_head(backbones, family):
    learn = learner(backbones, family)
    assert train_only(learn, "block 2") is learn and train_only(learn, 2) is learn
    before = everything(learn.model)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-2)
    moved = {k for k, v in everything(learn.model).items() if not torch.equal(v, before[k])}
    open_ = {id(p) for i in (2, -1) for p in learn.stages[i].parameters()}
    assert {k for k, p in learn.model.named_parameters() if id(p) in open_} == {k for k in moved if k in dict(learn.model.named_parameters())}
    inside = {id(b) for i in (2, -1) for m in learn.stages[i].modules.values() for b in m.buffers()}
    assert all(id(b) in inside for k, b in learn.model.named_buffers() if k in moved)


def test_train_only_refuses_a_stage_that_is_not_there(backbones):
    for wrong in ("block 9", 12, 1.5):
        with pytest.raises(FreezeError, match="there are embeddings"): train_only(learner(backbones, "bert"), wrong)


# ---- the sweep

@pytest.mark.parametrize("family", ["bert", "xlnet", "efficientnet_lite0", "resnet18", "vit_tiny_patch16_224"])
def test_rows_are_those_of_uncached_trainings(backbones, family, tmp_path):
    kind, lr = backbones[family].kind, 1e-2 if backbones[family].kind == "text" else 1e-3  # batch normalisation amplifies rounding
    found = sweep(learner(backbones, family), tmp_path, start="given", lr=lr).rows.set_index("depth")
    valid = noisy(texts(48) if kind == "text" else images(48)).valid
    for depth in range(len(found)):
        learn = learner(backbones, family)
        new = freeze_to(F._whole(learn, True), depth)
        seed_everything(3)
        new.dls.train.rng = random.Random(3)
        with new.no_bar(), new.no_logging(): new.fit_one_cycle(1, lr)
        P = new.predict_proba(valid, progress=False)
        assert found.valid_loss[depth] == pytest.approx(-np.log(P[range(len(valid)), valid.labels]).mean(), abs=2e-3), depth
        assert found.valid[depth] == pytest.approx((P.argmax(1) == valid.labels).mean(), abs=0.07), depth


class Unvalidated(Callback):
    "A pass over validation items draws from the stream of random numbers that dropout takes."
    def before_validate(self): raise CancelValidException()


@pytest.mark.parametrize("family", ["bert", "resnet18"])
@pytest.mark.parametrize("lr", [None, 3e-3])
def test_a_sweep_trains_as_fit_one_cycle_does(backbones, family, lr):
    one, other = (F._whole(freeze_to(learner(backbones, family), 2), True) for _ in range(2))
    start, (_, kept) = everything(one.model), F._train(one, SimpleNamespace(epochs=2, lr=lr), 3)
    seed_everything(3)
    other.dls.train.rng = random.Random(3)
    with other.no_bar(), other.no_logging(): other.fit_one_cycle(2, lr, cbs=[Unvalidated()])
    ours, theirs = everything(one.model), everything(other.model)
    assert kept > 0 and any(not torch.equal(v, start[k]) for k, v in ours.items())
    for k, v in ours.items(): torch.testing.assert_close(v, theirs[k], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", ["roberta", "efficientnet_lite0"])
def test_the_start_is_the_probe_of_the_learner(backbones, family, tmp_path):
    learn = learner(backbones, family)
    row = sweep(learn, tmp_path, depths=[len(learn.stages)], test=learn.train_data).rows.iloc[0]
    P = learn.probe().predict_proba(learn.train_data, progress=False)
    assert row.test == pytest.approx((P.argmax(1) == learn.train_data.labels).mean(), abs=1e-6) and row.test > 0.6


@pytest.mark.parametrize("family", ["bert", "efficientnet_lite0"])
def test_the_learner_is_left_as_it_was(backbones, family, tmp_path):
    learn = freeze_to(learner(backbones, family), 2)
    before, rows = everything(learn.model), frozen(learn).rows
    sweep(learn, tmp_path, depths=[0, 1, 3])
    sweep(learn, tmp_path, depths=[1], single=True)
    layer_relevance(learn)
    assert all(torch.equal(before[k], v) for k, v in everything(learn.model).items())
    assert frozen(learn).rows == rows


def test_the_learner_is_left_as_it_was_after_an_error(backbones, tmp_path, monkeypatch):
    learn = freeze_to(learner(backbones, "bert"), 2)
    before, rows = everything(learn.model), frozen(learn).rows
    def breaks(*args): raise KeyboardInterrupt
    monkeypatch.setattr(F, "_score", breaks)
    with pytest.raises(KeyboardInterrupt): sweep(learn, tmp_path)
    assert all(torch.equal(before[k], v) for k, v in everything(learn.model).items()) and frozen(learn).rows == rows


def test_all_depths_share_the_start_and_each_its_trainable_part(backbones, tmp_path):
    found = sweep(learner(backbones, "bert"), tmp_path, test=texts(48).valid)
    one, two = learner(backbones, "bert"), found.rows.set_index("depth")
    for depth in range(len(one.stages)): assert two.trainable[depth] == frozen(freeze_to(one, depth)).trainable
    assert two.trainable[len(one.stages)] == 0 and two.seconds[len(one.stages)] == 0
    memory = two.memory.sort_index().to_numpy()
    assert (np.diff(memory) <= 0).all() and memory[-1] < memory[0]
    some = sweep(one, tmp_path / "other", depths=[2, 0], test=texts(48).valid)
    pd.testing.assert_frame_equal(some.rows[FIGURES], found.rows[found.rows.depth.isin([0, 2])][FIGURES].reset_index(drop=True))


def test_memory_is_what_a_step_holds():
    net = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5))
    x = torch.randn(8, 10)
    held = {}
    with F._kept(net, held): net(x).sum()
    weights = 4 * (10 * 20 + 20 + 20 * 5 + 5)
    kept = 4 * (8 * 10 + 8 * 20)  # the input of the first layer; the output of the ReLU, which the second layer keeps too
    assert sum(held.values()) == kept
    assert F._memory(net) * 2**20 == pytest.approx(4 * weights)
    net[0].requires_grad_(False)
    assert F._memory(net) * 2**20 == pytest.approx(weights + 3 * 4 * (20 * 5 + 5))


def test_single_trains_one_stage_and_the_head(backbones, tmp_path):
    learn = learner(backbones, "bert")
    found = sweep(learn, tmp_path, single=True)
    assert sorted(found.rows.depth) == list(range(len(learn.stages)))
    for depth, n in zip(found.rows.depth, found.rows.trainable): assert n == frozen(train_only(learn, depth)).trainable
    assert "block 1 and head" in repr(found)


def test_a_function_of_the_seed_may_draw_its_own_data(backbones, tmp_path):
    make = lambda seed: text_learner(backbones["bert"], noisy(texts(48, seed=seed), seed=seed), seed=seed, lr=1e-2)
    both = freeze_sweep(make, [1, 4], test=lambda seed: noisy(texts(48, seed=9 + seed)), seeds=[0, 1], epochs=1, folder=tmp_path, progress=False)
    ones = [freeze_sweep(make(s), [1, 4], test=noisy(texts(48, seed=9 + s)), seeds=[s], epochs=1, folder=tmp_path / "x", progress=False).rows for s in (0, 1)]
    pd.testing.assert_frame_equal(both.rows[FIGURES], pd.concat(ones, ignore_index=True)[FIGURES])


def test_what_else_is_asked_is_computed_anew(backbones, tmp_path):
    learn = learner(backbones, "bert")
    first = sweep(learn, tmp_path, depths=[1])
    for change in (dict(epochs=2), dict(lr=1e-3), dict(start="given"), dict(seeds=[4]), dict(single=True), dict(precision="fp16")):
        assert sweep(learn, tmp_path, **dict(depths=[1]) | change).rows.valid_loss[0] != first.rows.valid_loss[0], change
    with torch.no_grad(): learn.stages[0].parameters()[0].mul_(1.5)
    assert sweep(learn, tmp_path, depths=[1]).rows.valid_loss[0] != first.rows.valid_loss[0]


@pytest.mark.parametrize("change, message", [
    (dict(depths=[9]), "9 is not among"), (dict(depths=[-1]), "-1 is not among"), (dict(depths=[1, 1]), "twice"), (dict(depths=[]), "at least one"),
    (dict(epochs=0), "epochs = 0"), (dict(start="random"), "start = 'random'"), (dict(test="reviews"), "test:"), (dict(seeds=[]), "at least one run")])
def test_a_bad_plan_is_refused_before_anything_slow(backbones, change, message, tmp_path, monkeypatch):
    learn = learner(backbones, "bert")
    monkeypatch.setattr(F, "_Prefixes", None)
    with pytest.raises(ValueError, match=message): sweep(learn, tmp_path, **change)


def test_a_bad_learner_is_refused(backbones, tmp_path):
    for wrong in (nn.Linear(2, 2), "minilm-l6", lambda seed: None):
        with pytest.raises(FreezeError, match="learner"): sweep(wrong, tmp_path)
    with pytest.raises(FreezeError, match="lora"): sweep(text_learner(backbones["bert"], texts(), method="lora"), tmp_path)
    other = Dataset(["a cat", "a dog", "a hat"], [0, 1, 2], ["x", "y", "z"], "text")
    with pytest.raises(FreezeError, match="test"): sweep(learner(backbones, "bert"), tmp_path, test=other)


# ---- broken off, and gone on

SCRIPT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background would ignore it
sys.path[:0] = [{tests!r}]
from pathlib import Path
import numpy as np
from small_models import texts
from tl_nb import freezing as F
from tl_nb.backbones import load_backbone
from tl_nb.finetune import text_learner
slow = F._train
if {slow}: F._train = lambda *args: (time.sleep(0.4), slow(*args))[1]
learn = text_learner(load_backbone({model!r}), texts(48), seed=1, lr=1e-2)
found = F.freeze_sweep(learn, test=texts(48).valid, seeds=[3, 4], epochs=1, folder={folder!r}, progress=False)
found.rows.to_json({out!r}, double_precision=15)
"""


def run(tmp_path, folder, slow=False):
    from small_models import save_text
    model = tmp_path / "bert"
    if not model.exists(): save_text("bert", model)
    script = SCRIPT.format(tests=str(os.path.dirname(__file__)), slow=slow, model=str(model), folder=str(tmp_path / folder), out=str(tmp_path / f"{folder}.json"))
    env = os.environ | {"TL_NB_CACHE": str(tmp_path / f"cache-{folder}"), "OMP_NUM_THREADS": "1", "TL_NB_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-W", "ignore", "-c", script], env=env, stderr=subprocess.PIPE, text=True)


def finish(tmp_path, folder):
    process = run(tmp_path, folder)
    assert process.wait(600) == 0, process.stderr.read()
    return pd.read_json(tmp_path / f"{folder}.json", precise_float=True)


def written(folder): return sum(p.read_bytes().count(b"\n") for p in folder.glob("*.jsonl")) if folder.exists() else 0


def test_a_killed_sweep_goes_on_and_gives_the_undisturbed_table(tmp_path):
    whole = finish(tmp_path, "whole")
    for stop, how in (2, signal.SIGINT), (7, signal.SIGKILL):  # Ctrl-C in the first seed, kill -9 in the second
        process = run(tmp_path, "broken", slow=True)
        while written(tmp_path / "broken") < stop and process.poll() is None: time.sleep(0.02)
        process.send_signal(how)
        assert process.wait(300) != 0 and not (tmp_path / "broken.json").exists()
        assert stop <= written(tmp_path / "broken") < len(whole)
    lines = {p: p.read_bytes() for p in (tmp_path / "broken").glob("*.jsonl")}
    resumed = finish(tmp_path, "broken")
    for path, there in lines.items(): assert path.read_bytes().startswith(there[:there.rfind(b"\n") + 1])  # done once
    pd.testing.assert_frame_equal(resumed[FIGURES], whole[FIGURES], check_exact=True)


def test_a_line_that_was_cut_short_is_dropped(backbones, tmp_path):
    learn = learner(backbones, "bert")
    whole = sweep(learn, tmp_path, test=texts(48).valid)
    journal, = tmp_path.glob("*.jsonl")
    data = journal.read_bytes()
    journal.write_bytes(data[:len(data) - 40])
    pd.testing.assert_frame_equal(sweep(learn, tmp_path, test=texts(48).valid).rows[FIGURES], whole.rows[FIGURES])
    assert len(journal.read_bytes().splitlines()) == len(whole.rows)


# ---- what a sweep says

def planted(valid, test=None, seeds=3, **kwargs):
    "A sweep with these mean accuracies from depth 0 on, the same for all seeds but for a little."
    rows = [{"seed": s, "depth": d, "valid": v + 0.001 * (s - 1), "valid_loss": 1 - v, "test": (test or valid)[d] + 0.001 * (s - 1),
             "seconds": 10.0 - d, "memory": 100.0 - d, "trainable": 100 - 10 * d, "prefix": 1.0} for s in range(seeds) for d, v in enumerate(valid)]
    return Sweep(pd.DataFrame(rows), ["embeddings", "block 1", "block 2", "block 3", "head"][:len(valid) - (not kwargs)], **kwargs)


def test_recommend_takes_the_plain_best_and_never_looks_at_the_test():
    clear = planted([0.5, 0.6, 0.9, 0.6, 0.5, 0.5], test=[0.9, 0.1, 0.1, 0.1, 0.1, 0.1])
    assert clear.recommend() == 2
    clear.rows = clear.rows.drop(columns="test")
    assert clear.recommend() == 2


def test_the_table_holds_means_intervals_and_prices():
    found = planted([0.5, 0.6, 0.9, 0.6, 0.5, 0.5])
    table = found.table()
    assert list(table.index) == [0, 1, 2, 3, 4, 5] and table.valid[2].startswith("0.900 [0.898, 0.902]")
    assert table.seconds[1] == 9.0 and table.MB[1] == 99 and table.parameters[1] == 90
    assert table.trains[0] == "all" and table.trains[2] == "block 2 to head" and table.trains[4] == "head"
    assert planted([0.5, 0.6, 0.5], seeds=1).table().valid[1] == "0.599"
    for shown in (repr(found), found._repr_html_()): assert "Validation recommends 2: block 2 to head" in shown


def test_the_figure_shows_every_depth():
    import matplotlib
    matplotlib.use("Agg")
    ax = planted([0.5, 0.6, 0.9, 0.6, 0.5, 0.5]).plot()
    assert [t.get_text() for t in ax.get_xticklabels()] == [str(d) for d in range(6)]
    assert {t.get_text() for t in ax.get_legend().get_texts()} >= {"valid", "test"}


# ---- relevance

def test_gradient_norms_are_those_of_autograd(backbones):
    learn = learner(backbones, "bert", n=12)
    found = layer_relevance(learn, batches=1, seed=5).table.gradient
    learn.probe().model.eval()
    freeze_to(learn, 0)
    learn.model.eval()
    seed_everything(5)
    inputs, y = next(iter(F._loader(learn, learn.train_data, True)))
    learn.model.zero_grad()
    nn.functional.cross_entropy(learn.model(inputs), y).backward()
    for stage in learn.stages:
        g = torch.cat([p.grad.flatten() for p in stage.parameters() if p.grad is not None])
        w = torch.cat([p.detach().flatten() for p in stage.parameters()])
        assert found[stage.name] == pytest.approx((g.norm() / w.norm()).item(), rel=1e-4)


@pytest.mark.parametrize("family", ["bert", "resnet18"])
def test_relevance_has_a_row_a_stage(backbones, family):
    learn = learner(backbones, family)
    table = layer_relevance(learn).table
    assert list(table.index) == [s.name for s in learn.stages]
    assert table.probe[:-1].between(0, 1).all() and table[["probe", "logme"]].iloc[:-1].notna().all().all() and table.gradient.gt(0).all()


def test_agreement_is_a_rank_correlation_of_the_right_stages():
    names = ["embeddings", "block 1", "block 2", "block 3", "head"]
    table = pd.DataFrame({"probe": [1, 2, 3, 4, np.nan], "logme": [4, 3, 2, 1, np.nan], "gradient": [5, 4, 3, 2, 1]}, index=names, dtype=float)
    above = F.Relevance(table).agreement(planted([0.5, 0.6, 0.7, 0.8, 0.9, 0.9]))
    assert above["rank correlation"].round(9).to_dict() == {"probe": 1, "logme": -1, "gradient": -1}
    assert above.stages.to_dict() == {"probe": 4, "logme": 4, "gradient": 5}
    alone = F.Relevance(table).agreement(planted([0.9, 0.8, 0.7, 0.6, 0.5], single=True))
    assert alone["rank correlation"].round(9).to_dict() == {"probe": -1, "logme": 1, "gradient": 1}
    with pytest.raises(FreezeError, match="stages"): F.Relevance(table.rename({"block 1": "layer 1"})).agreement(planted([0.5, 0.6, 0.7, 0.8, 0.9, 0.9]))


def test_the_prefix_cache_is_at_hand(): assert PrefixCache is __import__("tl_nb.prefix", fromlist=["x"]).PrefixCache


# ---- the exercise

def judged(valid, test, choose=None):
    depth, of = valid.mean(0).argmax() if choose is None else choose(valid, test), test.mean(0)
    return valid.mean(0)[depth] - of[depth], of.max() - of[depth]


@pytest.mark.parametrize("wrong, hint", [
    (lambda v, t: judged(v, t, lambda v, t: t.mean(0).argmax()), "by its test accuracy"), (lambda v, t: judged(v, t, lambda v, t: v[0].argmax()), "first seed"),
    (lambda v, t: judged(v, t, lambda v, t: v.max(0).argmax()), "single figure"), (lambda v, t: judged(v, t)[::-1], "other order"),
    (lambda v, t: (judged(v, t)[0], -judged(v, t)[1]), "below zero"), (lambda v, t: (-judged(v, t)[0], judged(v, t)[1]), "Optimism:"),
    (lambda v, t: (judged(v, t)[0], t.max(1).mean() - t.mean(0)[v.mean(0).argmax()]), "anew for each seed"), (lambda v, t: judged(v, t)[0], "two numbers|could not")])
def test_regret_is_told_from_its_slips(wrong, hint):
    import re

    from tl_nb.exercises_methods import check_regret
    assert check_regret(judged).passed and check_regret(...).passed is None
    assert check_regret(wrong).passed is False and re.search(hint, check_regret(wrong).message)


def test_relevance_of_what_is_no_learner_is_refused():
    with pytest.raises(FreezeError, match="NoneType.*text_learner"): layer_relevance(None)


# ---- what else decides a row, and what a sweep leaves behind

def test_another_network_or_recipe_has_a_journal_of_its_own(backbones, tmp_path):
    make = lambda data=noisy(texts(48)), **how: text_learner(backbones["bert"], data, seed=1, lr=1e-2, bs=8, **how)
    name = lambda learn, views=1: F._identity(learn, SimpleNamespace(epochs=1, lr=None, start="given", single=False, precision="fp32", views=views, test=None), 3)
    learn, closed = make(), make()
    for p in closed.stages[1].parameters(): p.requires_grad_(False)
    others = [make(pooling="max"), make(dropout=0.9), make(precision="bf16"), closed]
    assert len({name(one) for one in (learn, *others)}) == 5
    assert name(learn) == name(make()) == name(freeze_to(make(), 2))
    mirror, invert = (image_learner(backbones["resnet18"], noisy(images(24)), seed=1, bs=8, augment=f) for f in (ImageOps.mirror, ImageOps.invert))
    assert name(mirror) == name(invert) and name(mirror, views=2) != name(invert, views=2)


def test_where_training_ends_and_the_test_begins_is_in_the_name(backbones, tmp_path):
    D = noisy(texts(48))
    short, whole = D.train[:20], D.train
    go = lambda part, **kwargs: sweep(text_learner(backbones["bert"], part, D.valid, seed=1, lr=1e-2, bs=8), tmp_path, depths=[0], **kwargs)
    go(short, test=whole[20:])
    assert "test" not in go(whole).rows and len(list(tmp_path.iterdir())) == 2


def test_gradients_of_before_take_no_part_and_stay(backbones, tmp_path):
    clean, learn = learner(backbones, "bert"), learner(backbones, "bert")
    inputs, y = next(iter(learn.dls.train))
    learn.dls.train.rng = random.Random(0)
    learn.loss_func(learn.model(inputs), y).backward()
    grads = [None if p.grad is None else p.grad.clone() for p in learn.model.parameters()]
    a, b = (sweep(one, tmp_path / str(i), depths=[1], start="given").rows for i, one in enumerate((clean, learn)))
    assert a.valid_loss[0] == b.valid_loss[0]
    assert all(p.grad is g is None or torch.equal(p.grad, g) for p, g in zip(learn.model.parameters(), grads))


def test_a_sweep_leaves_layers_modes_and_random_numbers_alone(backbones, tmp_path):
    learn = learner(backbones, "resnet18")
    plan = FreezePlan(learn)
    layer = next(name for name in plan.layers[2] if "bn" in name)
    plan.freeze(2, layer)
    learn.model.eval()
    was, rng = [m.training for m in learn.model.modules()], learn.dls.train.rng
    streams = torch.get_rng_state(), random.getstate()
    sweep(learn, tmp_path, depths=[1, 0])
    layer_relevance(learn, batches=1)
    assert plan.frozen(2)[layer] and frozen(learn).rows[2]["mode"] == "mixed"
    assert [m.training for m in learn.model.modules()] == was and learn.dls.train.rng is rng
    assert torch.equal(torch.get_rng_state(), streams[0]) and random.getstate() == streams[1]


def test_a_training_that_diverged_is_no_row(backbones, tmp_path):
    learn = learner(backbones, "bert")
    learn.loss_func = lambda out, y: nn.functional.cross_entropy(out, y) * float("nan")
    with pytest.raises(FreezeError, match="depth 1, seed 3: the network puts out no numbers.*lower lr"): sweep(learn, tmp_path, depths=[4, 1])
    assert [json.loads(line)[0] for line in next(tmp_path.glob("*.jsonl")).read_text().splitlines()] == ["4"]


@pytest.mark.parametrize("change, said", [
    (dict(seeds=[3, 3]), r"\[3, 3\]: different"), (dict(seeds=[2.5]), "whole numbers"), (dict(seeds=[-1]), "from 0 to"),
    (dict(lr="fast"), "lr = 'fast'"), (dict(lr=-1.0), "lr = -1"), (dict(lr=float("nan")), "lr = nan"),
    (dict(test=images(8)), "of the kind")])
def test_a_plan_that_means_nothing_is_refused(backbones, tmp_path, change, said):
    with pytest.raises(FreezeError, match=said): sweep(learner(backbones, "bert"), tmp_path, **change)


def test_a_learner_that_a_sweep_would_train_otherwise_is_refused(backbones, tmp_path):
    make = lambda **how: text_learner(backbones["bert"], texts(24), seed=1, bs=8, **how)
    with pytest.raises(FreezeError, match="leave out: EarlyStopping"): sweep(make(cbs=EarlyStopping()), tmp_path)
    with pytest.raises(FreezeError, match="moms"): sweep(make(moms=(0.5, 0.3, 0.5)), tmp_path)
    with pytest.raises(FreezeError, match="learner: SuffixLearner"): sweep(PrefixCache(make(), [2], progress=False).learner(2), tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [None, "half a \ud800 character"])
def test_a_text_that_cannot_be_read_is_named(backbones, tmp_path, wrong):
    test = Dataset(["warm", wrong], [0, 1], texts(8).classes, "text")
    with pytest.raises(FreezeError, match="test: item 1 of 2 cannot be read"): sweep(learner(backbones, "bert"), tmp_path, test=test)


def test_an_image_that_is_gone_is_named(backbones, tmp_path):
    data, files = noisy(images(24)), [tmp_path / f"{i}.png" for i in range(24)]
    for image, file in zip(data.items, files): Image.fromarray(np.asarray(image)).save(file)
    data = Dataset(files, data.labels, data.classes, "image", splits=data.splits)
    learn = image_learner(backbones["resnet18"], data, seed=1, bs=8)
    data.train.items[2].unlink()
    with pytest.raises(FreezeError, match="train: item 2 of .* No such file"): sweep(learn, tmp_path / "journals")
    assert not any((tmp_path / "journals").iterdir())


def test_train_only_wants_stages():
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    data = [(torch.zeros(2), torch.tensor(0))] * 4
    with pytest.raises(FreezeError, match="no stages"): train_only(Learner(DataLoaders.from_dsets(data, data, bs=2), net, loss_func=nn.CrossEntropyLoss()), 0)
