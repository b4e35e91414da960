"""Depths of freezing on stored activations against full fine-tuning and against the same depths uncached; all I/O included."""
import logging
import os
import sys
import tempfile
import warnings
from types import SimpleNamespace

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from benchmarks.head import in_turns, mixed
from benchmarks.interleave import machine, report, verdict
from tl_nb.backbones import load_backbone
from tl_nb.data import load_data
from tl_nb.finetune import image_learner, text_learner
from tl_nb.freezing import freeze_sweep, freeze_to, _score, _train, _whole
from tl_nb.prefix import PrefixCache
from tl_nb.settings import settings
from tl_nb.store import FeatureStore

FULL, SWEEP, UNCACHED = "full, 3 epochs", "freeze_sweep, 3 epochs", "the same uncached, 3 epochs"
LEAN = "full, 3 epochs, the sweep's loop"
LONG, ONE = "full, 5 epochs", "one depth, stored, 5 epochs"


def task(backbone, make, data, n_train, n_valid, **kwargs):
    "What all ways share: a learner as new, cuts from all frozen to half of the blocks trained, and the cut at two thirds."
    new = lambda: make(backbone, mixed(data.train, n_train), mixed(data.valid, n_valid), seed=0, precision="fp32", **kwargs)
    body = len(new().stages) - 1  # the stem or embeddings and the blocks
    blocks = body - 1
    return SimpleNamespace(new=new, blocks=blocks, cuts=[body - k for k in range(blocks // 2 + 1)], one=1 + round(2 * blocks / 3))


def fit(learn, epochs):
    "Train, with validation after each epoch as usual; the accuracy on the validation items."
    with learn.no_bar(), learn.no_logging(): learn.fit(epochs)
    return float(learn.recorder.values[-1][-1])


def full(task, epochs): return [fit(task.new(), epochs)]


def trained(learn, depth, epochs):
    "As `freeze_sweep` trains and judges a depth, but through the whole network: without events, validated once at the end."
    near = _whole(learn, True)
    freeze_to(learn.model, depth)
    _train(near, SimpleNamespace(epochs=epochs, lr=None), 0)
    return _score(near.model, near.dls.valid)[0]


def uncached(task, cuts, epochs):
    "Every depth from the same weights, its frozen stages computed in every epoch."
    learn, found = task.new(), []
    start = {k: v.clone() for k, v in learn.model.state_dict().items()}
    for cut in cuts:
        learn.model.load_state_dict(start)
        found.append(trained(learn, cut, epochs))
    return found


def swept(task, cuts, epochs):
    "`freeze_sweep` as a user calls it, into a new store and a new journal."
    with tempfile.TemporaryDirectory() as folder:
        found = freeze_sweep(task.new(), cuts, seeds=[0], epochs=epochs, start="given", store=FeatureStore(f"{folder}/store"),
                             folder=f"{folder}/journal", progress=False)
    return [found.scores()[cut][0] for cut in cuts]


def stored(task, cut, epochs):
    "The activations of a cut in one pass into a new store, then a training on them, with validation as usual."
    with tempfile.TemporaryDirectory() as folder:
        return [fit(PrefixCache(task.new(), [cut], store=FeatureStore(folder), progress=False).learner(cut), epochs)]


def ways(task):
    return {FULL: lambda: full(task, 3), SWEEP: lambda: swept(task, task.cuts, 3), LEAN: lambda: [trained(task.new(), 0, 3)],
            UNCACHED: lambda: uncached(task, task.cuts, 3), LONG: lambda: full(task, 5), ONE: lambda: stored(task, task.one, 5)}


def measure(name, task, runs):
    "Print the medians of the ways and judge the three ratios; whether all goals were met."
    print(f"  {name}: {task.blocks} blocks, cuts {task.cuts}, one depth with {task.one - 1} of {task.blocks} blocks frozen")
    found = in_turns(ways(task), runs)
    speed = report(found, FULL)
    price, lean = (speed[way] / speed[SWEEP] for way in (FULL, LEAN))
    saved, faster = speed[UNCACHED] / speed[SWEEP], speed[ONE] / speed[LONG]
    print(f"  {name}: the sweep takes {lean:.2f}x a full fine-tuning by its own loop, without events and validated once")
    plain, ours = found[UNCACHED][1], found[SWEEP][1]
    apart = 100 * max(abs(a - b) for a, b in zip(plain, ours))
    show = lambda found: ", ".join(f"{100 * x:.1f}" for x in found)
    return all([verdict(f"{name}: the sweep at most 1.0x a full fine-tuning as usual: {price:.2f}x", price <= 1),
                verdict(f"{name}: the sweep at most 0.75x the uncached one: {saved:.2f}x", saved <= 0.75),
                verdict(f"{name}: one depth at least 2.5x faster than full: {faster:.2f}x", faster >= 2.5),
                verdict(f"{name}: the same accuracies within 0.5 point: {show(ours)} and {show(plain)} %", apart <= 0.5)])


def tasks(text=(512, 64), image=(64, 32)):
    return {"minilm-l6": task(load_backbone("minilm-l6"), text_learner, load_data("sentiment-movie"), *text, lr=1e-4),
            "efficientnet-lite0": task(load_backbone("efficientnet-lite0"), image_learner, load_data("textures"), *image, lr=1e-3)}


def main(runs=5, names=("minilm-l6", "efficientnet-lite0")):
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(settings.threads)
    print(f"prefix: activations at a cut stored once, fp32, {runs} runs\n  {machine()}")
    for few in tasks((32, 16), (32, 16)).values(): uncached(few, few.cuts[-1:], 1), swept(few, few.cuts[-1:], 1)  # a warm-up
    every = tasks()
    return 0 if all([measure(name, every[name], runs) for name in names]) else 1  # a list: all are measured


if __name__ == "__main__":
    sys.exit(main(*([int(sys.argv[1]), sys.argv[2:]] if sys.argv[2:] else [])))
