"The benchmarks' own code, on small random models: what they set side by side does the same work. Nothing is timed."
import logging
from functools import wraps

import numpy as np
import pytest
import torch

from benchmarks import finetune, head, logme, mmd
from benchmarks.interleave import interleave
from small_models import save_text, texts
from tl_nb.backbones import load_backbone
from tl_nb.splits import Dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory): return save_text("bert", tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def backbone(folder): return load_backbone(folder)


@pytest.fixture(scope="module")
def data():
    found = texts(96)
    return Dataset(found.items, found.labels, found.classes, "text", splits=found.splits | {"test": found.splits["valid"]})


@pytest.fixture
def quiet():
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def test_a_plan_has_every_item_once_an_epoch_with_its_like():
    lengths = np.random.default_rng(0).integers(3, 60, 500)
    epochs = head.plan(lengths, epochs=3, bs=16)
    assert [sorted(np.concatenate(e)) for e in epochs] == [list(range(500))] * 3
    assert not np.array_equal(np.concatenate(epochs[0]), np.concatenate(epochs[1]))
    padded = sum(len(at) * lengths[at].max() for at in epochs[0])
    assert padded <= 1.1 * lengths.sum(), "little padding: it must not be what makes the usual loop slow"


def test_both_ways_of_head_training_end_in_the_same_head(folder, backbone, data, quiet):
    theirs, task = head.peer(folder), head.prepare(backbone, data, 48, 24, epochs=3)
    ways = {"stored": head.stored(task, backbone), "usual": head.usual(task, *theirs),
            "layers": head.with_our_layers(task, *theirs)}
    for found in ways.values(): torch.testing.assert_close(found.weight, ways["usual"].weight, atol=1e-5, rtol=1e-4)
    assert len(set(head.accuracies(ways, task, *theirs).values())) == 1
    assert not any(p.requires_grad for p in theirs[1].parameters()) and not theirs[1].training


def test_the_usual_loop_runs_the_backbone_once_a_batch_and_storing_once_an_item(folder, backbone, data, quiet):
    tokenizer, model = head.peer(folder)
    task, seen = head.prepare(backbone, data, 40, 8, epochs=4), {"usual": 0, "stored": 0}
    def count(name): return lambda module, args, kwargs: seen.update({name: seen[name] + len(kwargs["input_ids"])})
    handles = [m.register_forward_pre_hook(count(name), with_kwargs=True)
               for name, m in (("usual", model), ("stored", backbone.model))]
    head.usual(task, tokenizer, model), head.stored(task, backbone)
    for handle in handles: handle.remove()
    assert seen == {"usual": 4 * 40, "stored": len(set(task.train.items))}


def test_all_ways_of_fine_tuning_see_the_same_items_steps_and_weights(backbone, data, tmp_path, monkeypatch, quiet):
    monkeypatch.setattr(finetune, "BATCH", 8)
    kind, starts, steps, items = type(finetune.learner(backbone, data.train, data.valid).model.net), [], [], []
    forward, step = kind.forward, torch.optim.AdamW.step
    @wraps(forward)  # Trainer reads the names of its parameters
    def watched(self, **inputs):
        if not items: starts.append({k: v.clone() for k, v in self.state_dict().items()})
        items.append(len(inputs["input_ids"]))
        return forward(self, **inputs)
    monkeypatch.setattr(kind, "forward", watched)
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, *args: (steps.append(1), step(self, *args))[1])
    counts = {}
    for name, run in finetune.ways(backbone, data.train, data.valid, tmp_path, 1).items():
        items.clear(), steps.clear()
        assert all(p.requires_grad for p in run()[-1].parameters())
        counts[name] = len(steps), sum(items)
    assert set(counts.values()) == {(8, 64)}, counts
    for start in starts[1:]:
        for k, v in starts[0].items(): torch.testing.assert_close(start[k], v, msg=k)


def test_the_loss_is_that_of_the_whole_set(backbone, data):
    net = finetune.learner(backbone, data.train, data.valid).model.net.eval()
    with torch.no_grad(): logits = net(**backbone.collate(backbone.tokenize(data.items, 256).ids)).logits
    expected = torch.nn.functional.cross_entropy(logits, torch.as_tensor(data.labels)).item()
    assert finetune.loss(net, backbone, data, most=7) == pytest.approx(expected, abs=1e-5)


def test_interleave_takes_turns_and_does_not_count_the_first_round():
    turns = []
    found = interleave({"a": lambda: turns.append("a"), "b": lambda: turns.append("b")}, runs=2)
    assert turns == list("ababab") and [len(seconds) for seconds, _ in found.values()] == [2, 2]


def test_on_the_same_batches_without_dropout_both_trainers_end_with_the_same_weights(backbone, data, tmp_path, quiet,
                                                                                     monkeypatch):
    monkeypatch.setattr(finetune, "BATCH", 8)
    order = np.argsort([-len(ids) for ids in backbone.tokenize(data.train.items, 256).ids], kind="stable")
    train, made = data.train[order], []
    def without_dropout(*args):
        learn = learner(*args)
        for m in learn.model.modules():
            if isinstance(m, torch.nn.Dropout): m.p = 0.0
        learn.dls.loaders[0] = learn.dls.train.new(shuffle=False)
        made.append(learn)
        return learn
    learner = finetune.learner
    monkeypatch.setattr(finetune, "learner", without_dropout)
    run = finetune.ours(backbone, train, data.valid)
    start = finetune.copy.deepcopy(made[0].model.net)
    theirs = finetune.theirs(start, finetune.rows(backbone, train), backbone.processor, tmp_path,
                             train_sampling_strategy="sequential")()
    ours, moved = run().state_dict(), 0.0
    for k, v in theirs.state_dict().items():
        if k.endswith("key.bias"): continue  # takes no part in the result: its gradient is rounding
        moved = max(moved, float((v - start.state_dict()[k]).abs().max()))
        torch.testing.assert_close(ours[k], v, atol=2e-5, rtol=0, msg=k)
    assert moved > 2e-4, "the tolerance must be small beside what training changes"


def test_the_loop_over_pairs_and_mmd_give_the_same_value():
    a, b, width = mmd.samples(12, 5)
    assert mmd.loop(a, b, width) == pytest.approx(mmd.mmd(a, b, width=width, permutations=0), abs=1e-12)


@pytest.mark.parametrize("d", [2, 80])
def test_the_explicit_evidence_and_logme_give_the_same_value(d):
    X, y = logme.task(40, d)
    assert logme.explicit(X, y) == pytest.approx(logme.logme(X, y), abs=1e-3)
