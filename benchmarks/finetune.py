"""Full fine-tuning by `text_learner` against Trainer of Hugging Face: same weights, sentences, batches and clipping."""
import copy
import logging
import os
import statistics
import sys
import tempfile
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import nn

from benchmarks.head import mixed
from benchmarks.interleave import interleave, machine, report, verdict
from tl_nb.backbones import load_backbone
from tl_nb.data import load_data
from tl_nb.finetune import text_learner
from tl_nb.settings import settings

from fastai.callback.core import Callback, CancelValidException  # after tl_nb, which keeps its import from warning

OURS, PLAIN, GROUPED = "text_learner", "Trainer, as it comes", "Trainer, grouped by length"
RATE, BATCH, TOKENS = 5e-5, 16, 256


class NoValidation(Callback):
    "Leave out the pass over the validation items: Trainer makes none unless asked."
    def before_validate(self): raise CancelValidException


def learner(backbone, train, valid, seed=0):
    "A learner on the architecture's own classifier, as `AutoModelForSequenceClassification` makes it."
    return text_learner(backbone, train, valid, pooling="native", lr=RATE, bs=BATCH, max_length=TOKENS, seed=seed,
                        precision="fp32", cbs=[NoValidation()])


def ours(backbone, train, valid, seed=0):
    "A run without arguments that trains for an epoch and returns the network."
    learn = learner(backbone, train, valid, seed)
    def run():
        with learn.no_bar(), learn.no_logging(): learn.fit(1)
        return learn.model.net
    return run


def rows(backbone, train):
    "What Trainer trains on: tokens as they are, padded per batch by its own collator."
    ids = backbone.processor(list(train.items), truncation=True, max_length=TOKENS)
    return [{"input_ids": i, "attention_mask": m, "labels": int(y)}
            for i, m, y in zip(ids["input_ids"], ids["attention_mask"], train.labels)]


def arguments(folder, seed=0, **kwargs):
    "One epoch of AdamW at a constant rate in fp32, clipped at 1.0 (its default), that reports and saves nothing."
    from transformers import TrainingArguments

    return TrainingArguments(
        str(folder), num_train_epochs=1, per_device_train_batch_size=BATCH, learning_rate=RATE, weight_decay=0.01,
        lr_scheduler_type="constant", max_grad_norm=1.0, seed=seed, use_cpu=True, dataloader_pin_memory=False,
        eval_strategy="no", save_strategy="no", logging_strategy="no", report_to="none", disable_tqdm=True, **kwargs)


def theirs(net, data, tokenizer, folder, **kwargs):
    "The same by Trainer, on a copy of `net`."
    from transformers import PrinterCallback, Trainer

    trainer = Trainer(copy.deepcopy(net), arguments(folder, **kwargs), train_dataset=data, processing_class=tokenizer)
    trainer.remove_callback(PrinterCallback)
    def run():
        trainer.train()
        return trainer.model
    return run


def fresh(make, n):
    "A run that trains a new network each of `n` times, with seeds 0 … n - 1, and returns all that it has trained so far."
    ready, trained = [make(seed) for seed in range(n)], []  # all are made now, so that only training is timed

    def run():
        trained.append(ready[len(trained)]())
        return trained
    return run


def ways(backbone, train, valid, folder, n):
    "{name: run}, each for `n` times, all from the same weights."
    net, data = learner(backbone, train, valid).model.net, rows(backbone, train)
    trainer = lambda **kwargs: fresh(lambda seed: theirs(net, data, backbone.processor, folder, seed=seed, **kwargs), n)
    return {PLAIN: trainer(), GROUPED: trainer(train_sampling_strategy="group_by_length"),
            OURS: fresh(lambda seed: ours(backbone, train, valid, seed), n)}


def loss(net, backbone, data, most=64):
    "Mean cross-entropy of a network on all items, in evaluation mode."
    ids, labels, total = backbone.tokenize(data.items, TOKENS).ids, torch.as_tensor(data.labels), 0.0
    net.eval()
    for i in range(0, len(ids), most):
        with torch.no_grad(): logits = net(**backbone.collate(ids[i:i + most])).logits
        total += float(nn.functional.cross_entropy(logits, labels[i:i + most], reduction="sum"))
    return total / len(ids)


def main(n_items=512, runs=3):
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(settings.threads)
    backbone, data = load_backbone("minilm-l6"), load_data("sentiment-movie")
    train, valid = mixed(data.train, n_items), mixed(data.valid, 16)
    print(f"finetune: an epoch on {n_items:,} sentences, minilm-l6, fp32, {runs} runs\n  {machine()}")
    with tempfile.TemporaryDirectory() as folder:
        found = interleave(ways(backbone, train, valid, folder, runs + 1), runs)
    ratio = report(found, PLAIN)
    losses = {name: statistics.mean(loss(net, backbone, train) for net in nets) for name, (_, nets) in found.items()}
    for name, (seconds, _) in found.items():
        print(f"  {name:<34}{n_items / sorted(seconds)[runs // 2]:8.1f} items/s   mean loss afterwards {losses[name]:.3f}")
    times, apart = ratio[OURS] / max(ratio[PLAIN], ratio[GROUPED]), max(losses.values()) - min(losses.values())
    goals = [verdict(f"at least 1x the faster Trainer: {times:.2f}x", times >= 1),
             verdict(f"mean losses over {runs + 1} seeds within 0.05 of each other: {apart:.3f}", apart <= 0.05)]
    return 0 if all(goals) else 1


if __name__ == "__main__":
    sys.exit(main())
