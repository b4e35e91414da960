"""`FeatureStore`: what a few new items cost beside the first run over all; each round has a new store of its own."""
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from benchmarks.interleave import machine, verdict
from tl_nb.backbones import load_backbone
from tl_nb.data import load_data
from tl_nb.settings import settings
from tl_nb.store import FeatureStore


def photos(n):
    "`n` different photographs of 96 by 96 pixels: noise, which costs as much as any."
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 256, (n, 96, 96, 3), dtype=np.uint8))


def timed(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def one_round(backbone, items, new):
    "Seconds of the first run, of the same again, and of `new` items more, in a store that starts empty."
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore(Path(folder) / "store")
        run = lambda part: timed(lambda: store.embed(backbone, part, progress=False))
        return run(items[:-new]), run(items[:-new]), run(items)


def share(name, backbone, items, new, rounds):
    "Print the medians; return the median over rounds of the share of the first run that the new items cost."
    found = np.array([one_round(backbone, items, new) for _ in range(rounds)])
    for what, seconds in zip((f"{name}: first run", "the same again", f"and {new} more"), found.T):
        print(f"  {what:<34}{statistics.median(seconds):8.3f} s   [{seconds.min():.3f}, {seconds.max():.3f}]")
    return float(np.median(found[:, 2] / found[:, 0]))


def main():
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(settings.threads)
    texts = list(load_data("sentiment-movie").items[:2010])
    text, image = load_backbone("minilm-l6"), load_backbone("efficientnet-lite0")
    print(f"store: {len(texts) - 10:,} sentences, minilm-l6; 400 images, efficientnet-lite0\n  {machine()}")
    shares = {"10 new beside 2,000 texts": share("2,000 texts", text, texts, 10, rounds=3),
              "2 new beside 400 images": share("400 images", image, photos(402), 2, rounds=3)}
    goals = [verdict(f"{what} cost at most 2%: {100 * part:.1f}%", part <= 0.02) for what, part in shares.items()]
    return 0 if all(goals) else 1


if __name__ == "__main__":
    sys.exit(main())
