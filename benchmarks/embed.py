"""`embed` against sentence-transformers: the same weights, machine and 2,000 sentences, medians of five interleaved runs."""
import logging
import os
import sys
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from benchmarks.interleave import interleave, machine, report, verdict
from tl_nb.assets import fetch
from tl_nb.backbones import load_backbone
from tl_nb.data import load_data
from tl_nb.features import embed
from tl_nb.settings import settings


def sentences(n=2000):
    "The first `n` sentences of the movie reviews."
    return list(load_data("sentiment-movie").items[:n])


def peer(folder):
    "sentence-transformers on the same folder: mean pooling and normalising, as its own modules.json says; 256 tokens."
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    parts = [type(m).__name__ for m in model]
    assert parts == ["Transformer", "Pooling", "Normalize"] and model.max_seq_length == 256, (parts, model.max_seq_length)
    return model


def main():
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(settings.threads)
    texts, backbone = sentences(), load_backbone("minilm-l6")
    model = peer(fetch("minilm-l6"))
    ours = lambda precision: embed(backbone, texts, normalize=True, precision=precision, progress=False)
    found = interleave({
        "sentence-transformers encode": lambda: model.encode(texts, show_progress_bar=False),
        "embed, fp32": lambda: ours("fp32"),
        "embed, auto": lambda: ours("auto"),
    })
    print(f"embed: {len(texts):,} sentences, minilm-l6\n  {machine()}")
    ratio = report(found, "sentence-transformers encode")
    theirs, fp32, auto = (result for _, result in found.values())
    difference, cosine = float(np.abs(theirs - fp32).max()), float((theirs * auto).sum(1).min())
    amx = torch.cpu._is_amx_tile_supported()
    goals = [
        verdict(f"fp32 at least 1.2x: {ratio['embed, fp32']:.2f}x", ratio["embed, fp32"] >= 1.2),
        verdict(f"fp32 differs by at most 1e-5: {difference:.1e}", difference <= 1e-5),
        verdict(f"auto at least 2.5x on a CPU with AMX: {ratio['embed, auto']:.2f}x", ratio["embed, auto"] >= 2.5, amx),
        verdict(f"auto has a cosine of at least 0.999: {cosine:.5f}", cosine >= 0.999),
    ]
    return 0 if all(goals) else 1


if __name__ == "__main__":
    sys.exit(main())
