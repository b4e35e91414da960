"""What `test_distributed.py` runs in one process and in two: it does not know how often it runs.

    python two_processes.py FOLDER

FOLDER holds a small text network. Process 0 writes what was computed to N.npz, each process what it has seen to N-RANK.json,
and to N-RANK-end.json, what was left of its connections when Python ended: True, and names of threads."""
import atexit
import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch

import tl_nb.distributed as D

folder = Path(sys.argv[1])


@atexit.register  # before all others, so that it runs as the last of them
def left():
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]  # none where there is no /proc
    left = [True] * torch.distributed.is_initialized() + [name for name in names if "gloo" in name]
    (folder / f"{world}-{rank}-end.json").write_text(json.dumps(left))


state = D.processes(timeout=60)

from fastai.optimizer import OptimWrapper  # these come after it, as what is imported later may hold on to the connections

from small_models import everything, image_backbone, images, texts
from tl_nb.backbones import load_backbone
from tl_nb.finetune import Callback, EarlyStopping, image_learner, text_learner

rank, world = state.process_index, state.num_processes
text, image = load_backbone(folder / "text"), image_backbone("efficientnet_lite0")
sentences, pictures = texts(41).items, list(images(21).items)
found, seen = {}, {"rank": rank, "world": world, "threads": D._threads_each(state)}


def said(call):
    "The error of a call, as words."
    try: return call() is None
    except ValueError as e: return f"{type(e).__name__}: {e}"


# ---- features

small = dict(progress=False, batch_size=4)
found["texts"] = D.embed_distributed(text, sentences, token_budget=40, progress=False)
found["several stages, normalised"] = D.embed_distributed(text, sentences, stage=[0, -1], pooling="max", normalize=True, **small)
found["images"] = D.embed_distributed(image, pictures, **small)
found["one text"] = D.embed_distributed(text, sentences[:1], progress=False)  # more processes than batches
found["none"] = D.embed_distributed(text, [], progress=False)
broken = [*pictures[:6], str(folder / "missing.png"), *pictures[6:9], "no file at all", *pictures[9:]]
found["skipped"], seen["skipped"] = D.embed_distributed(image, broken, on_error="skip", **small)
found["skipped texts"], seen["skipped texts"] = D.embed_distributed(text, [*sentences[:9], "", 7], on_error="skip", **small)

# ---- faults that all are told of, and after which all can go on

seen["bad text"] = said(lambda: D.embed_distributed(text, ["a", "", "b"], progress=False))
seen["bad image"] = said(lambda: D.embed_distributed(image, broken, **small))
seen["none usable"] = said(lambda: D.embed_distributed(image, ["gone.png"], on_error="skip", progress=False))
if world > 1:
    mine = sentences[:5] + ["one more"] * rank
    seen["other items"] = said(lambda: D.embed_distributed(text, mine, progress=False))
    seen["other order"] = said(lambda: D.embed_distributed(text, sentences[::1 - 2 * rank], progress=False))
    seen["other options"] = said(lambda: D.embed_distributed(text, sentences, pooling="max" if rank else "mean", progress=False))
    seen["other weights"] = said(lambda: D.embed_distributed(image_backbone("resnet18") if rank else image, pictures, progress=False))
    seen["one fails"] = said(lambda: D.embed_distributed(folder / "nowhere" if rank else text, sentences, progress=False))
found["afterwards"] = D.embed_distributed(text, sentences, token_budget=40, progress=False)

# ---- training

STEP, OPTIMIZERS = 12, {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}


def learner(kind="text", n=41, seed=0, opt="sgd", bs=STEP, **kwargs):
    "A learner whose batches are `bs` items in all processes together, without dropout."
    make, bb, data = (text_learner, text, texts(n)) if kind == "text" else (image_learner, image, images(n))
    learn = make(bb, data, seed=seed, bs=bs // world, opt_func=partial(OptimWrapper, opt=OPTIMIZERS[opt]), path=folder, **(dict(dropout=0.0) | kwargs))
    for m in learn.model.modules():
        if isinstance(m, torch.nn.Dropout) and not kwargs.get("dropout"): m.p = 0.0
    return learn


def train(name, learn, epochs=1, frozen=0, held=None, cbs=None, lr=0.1):
    "Fit, and note weights, losses, accuracy, and how many tensors have moved of the stages that are held, as a rule the frozen ones."
    learn.freeze_to(frozen)
    held = learn.stages[:frozen if held is None else held]
    before = [everything(torch.nn.ModuleList(s.modules.values())) for s in held]
    with learn.no_bar(), learn.no_logging(), D.distribute(learn): learn.fit(epochs, lr, cbs=cbs)
    after = [everything(torch.nn.ModuleList(s.modules.values())) for s in held]
    seen[f"{name}: frozen moved"] = sum(not torch.equal(v, b[k]) for a, b in zip(after, before) for k, v in a.items())
    seen[f"{name}: loaders are back"] = all(type(dl).__name__ != "_Share" for dl in learn.dls.loaders)
    seen[f"{name}: weights"] = D._weights(learn.model)
    found[name] = torch.cat([t.detach().reshape(-1).double() for t in learn.model.parameters()]).numpy()
    found[f"{name}: values"] = np.array(learn.recorder.values, float)
    return learn


class Open(Callback):
    "Opens one more stage after each epoch, in the middle of a fit."
    def after_epoch(self): self.learn.freeze_to(max(0, len(self.learn.stages) - 2 - self.epoch))


train("one step", learner(n=18))
train("an epoch", learner(), frozen=1)  # 27 items: 12, 12 and 3
train("less items than processes in the last batch", learner(n=20))  # 13 items: 12 and 1
train("adamw, three epochs", learner(opt="adamw"), 3, lr=1e-3)
train("opened on the way", learner(), 3, frozen=3, held=1, cbs=Open())
train("stopped early", learner(), 6, cbs=EarlyStopping(patience=1), lr=1e-9)
train("images, frozen", learner("image", 18), frozen=-1)
learn = learner("image", 18)
before = everything(learn.model)
after = everything(train("images, open", learn, frozen=3).model)
seen["statistics moved"] = sum(not torch.equal(v, after[k]) for k, v in before.items() if k.endswith("running_mean"))
learn = train("with dropout", learner(dropout=0.5), 2)
with D.distribute(learn): found["validate"] = np.array([float(x) for x in learn.validate()])
found["probabilities"] = learn.predict_proba(sentences, progress=False)
if world > 1:
    seen["other seed"] = said(lambda: train("x", learner(seed=rank)))
    seen["other data"] = said(lambda: train("x", learner(n=18 + 3 * rank)))
    learn = learner()
    with D.distribute(learn): seen["new loader"] = said(lambda: learn.get_preds())
if state.is_main_process: np.savez(folder / f"{world}.npz", **found)
(folder / f"{world}-{rank}.json").write_text(json.dumps(seen))
