"""Ten epochs of head training, from texts: features stored once, against the usual loop with its frozen backbone."""
import logging
import os
import sys
import tempfile
import time
import warnings
from types import SimpleNamespace

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from torch import nn

from benchmarks.interleave import machine, report, verdict
from tl_nb.assets import fetch
from tl_nb.backbones import load_backbone, _quiet_transformers
from tl_nb.data import load_data
from tl_nb.embedding import _fast_linears
from tl_nb.settings import settings
from tl_nb.store import FeatureStore

STORED, USUAL = "features stored once", "frozen backbone every epoch"


def mixed(part, n, seed=0):
    "`n` items of a Dataset in random order."
    return part[np.random.default_rng(seed).permutation(len(part))[:n]]


def plan(lengths, epochs=10, bs=32, seed=0):
    "The batches of each epoch, as positions: texts of like length together, batches and their order drawn anew."
    rng, lengths, found = np.random.default_rng(seed), np.asarray(lengths), []
    for _ in range(epochs):
        order = rng.permutation(len(lengths))
        order = order[np.argsort(lengths[order], kind="stable")]
        batches = [order[i:i + bs] for i in range(0, len(order), bs)]
        found.append([batches[i] for i in rng.permutation(len(batches))])
    return found


def train(task, rows):
    "A linear head trained by AdamW on what `rows` (positions -> features (n, d)) gives: shared by all ways."
    torch.manual_seed(0)
    head = nn.Linear(task.width, len(task.train.classes))
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3, weight_decay=0.01, fused=True)
    labels = torch.as_tensor(task.train.labels)
    for at in (at for epoch in task.epochs for at in epoch):
        nn.functional.cross_entropy(head(rows(at)), labels[at]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return head


def stored(task, backbone):
    "A new store, filled; then epochs on its rows."
    with tempfile.TemporaryDirectory() as folder:
        features = FeatureStore(folder).embed(backbone, task.train, precision="fp32", progress=False)
    features = torch.from_numpy(features)
    return train(task, lambda at: features[at])


def peer(folder):
    "(tokenizer, model) by transformers alone: evaluation mode, no gradients, no pooler, which a mean does not need."
    from transformers import AutoModel, AutoTokenizer

    with _quiet_transformers(): model = AutoModel.from_pretrained(str(folder), add_pooling_layer=False)
    return AutoTokenizer.from_pretrained(str(folder)), model.eval().requires_grad_(False)


def tokens(tokenizer, texts): return tokenizer(list(texts), truncation=True, max_length=256)["input_ids"]


def mean_rows(tokenizer, model, ids):
    "(n, d): the mean over the tokens of each text."
    inputs = tokenizer.pad({"input_ids": ids}, return_tensors="pt")
    with torch.no_grad(): hidden = model(**inputs).last_hidden_state
    keep = inputs["attention_mask"].unsqueeze(-1)
    return (hidden * keep).sum(1) / keep.sum(1)


def usual(task, tokenizer, model):
    "The loop of most tutorials, with care: tokenised once, no gradient in the backbone, little padding."
    ids = tokens(tokenizer, task.train.items)
    return train(task, lambda at: mean_rows(tokenizer, model, [ids[i] for i in at]))


def accuracy(head, features, labels):
    with torch.no_grad(): return float((head(features).argmax(1).numpy() == labels).mean())


def accuracies(heads, task, tokenizer, model):
    "{name: accuracy on the test items}, all on the same features, which transformers alone computes."
    ids = tokens(tokenizer, task.test.items)
    parts = [mean_rows(tokenizer, model, ids[i:i + 32]) for i in range(0, len(ids), 32)]
    return {name: accuracy(head, torch.cat(parts), task.test.labels) for name, head in heads.items()}


def prepare(backbone, data, n_train=2000, n_test=2000, epochs=10):
    "What all ways share: items, their order in every epoch, the width of the features."
    train, test = mixed(data.train, n_train), mixed(data.test, n_test)
    lengths = [len(ids) for ids in backbone.tokenize(train.items, 256).ids]
    return SimpleNamespace(train=train, test=test, epochs=plan(lengths, epochs), width=backbone.num_features)


def timed(run):
    "(seconds, what it returned)"
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def with_our_layers(task, tokenizer, model):
    "The usual loop with its linear layers run by oneDNN as ours are: the difference left is that of storing alone."
    with _fast_linears(model, "cpu"): return usual(task, tokenizer, model)


def in_turns(ways, runs):
    "As `interleave`, without its round that is not counted: a run takes a minute, so `main` warms up on a few items."
    rounds = [{name: timed(run) for name, run in ways.items()} for _ in range(runs)]
    return {name: ([r[name][0] for r in rounds], rounds[-1][name][1]) for name in ways}


def main(runs=3):
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(settings.threads)
    backbone, theirs, data = load_backbone("minilm-l6"), peer(fetch("minilm-l6")), load_data("sentiment-movie")
    task, few, two = prepare(backbone, data), prepare(backbone, data, 64, 1, 1), prepare(backbone, data, epochs=2)
    print(f"head: ten epochs on {len(task.train):,} sentences, minilm-l6, fp32, {runs} runs\n  {machine()}")
    for warm_up in (usual, with_our_layers): warm_up(few, *theirs)
    stored(few, backbone)
    found = in_turns({USUAL: lambda: usual(task, *theirs), STORED: lambda: stored(task, backbone)}, runs)
    ratio = report(found, USUAL)[STORED]
    seconds = 5 * timed(lambda: with_our_layers(two, *theirs))[0]
    print(f"  {'that, with our linear layers':<34}{seconds:8.3f} s   for information: two epochs, times five")
    score = accuracies({name: head for name, (_, head) in found.items()}, task, *theirs)
    apart = 100 * abs(score[STORED] - score[USUAL])
    goals = [verdict(f"at least 8x: {ratio:.2f}x", ratio >= 8),
             verdict(f"same accuracy within 0.5 points on {len(task.test):,}: {100 * score[STORED]:.2f} and "
                     f"{100 * score[USUAL]:.2f} %", apart <= 0.5)]
    return 0 if all(goals) else 1


if __name__ == "__main__":
    sys.exit(main())
