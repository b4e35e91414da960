"Several processes: what they compute is what one computes, and when one fails all end, with a reason."
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace

import numpy as np
import pytest

import tl_nb.distributed as D
from small_models import images, save_text, texts
from tl_nb.backbones import load_backbone
from tl_nb.embedding import FeatureError, embed, plan_batches
from tl_nb.exercises_ship import check_shares
from tl_nb.finetune import text_learner

SCRIPT = Path(__file__).with_name("two_processes.py")
TRAININGS = ("one step", "an epoch", "less items than processes in the last batch", "adamw, three epochs", "opened on the way", "stopped early",
             "images, frozen", "images, open", "with dropout")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    save_text("bert", folder / "text")
    return folder


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    "A script in which the second process does not do its part."
    path = tmp_path_factory.mktemp("faults") / "faults.py"
    path.write_text(dedent("""
        import os, sys, time
        import tl_nb.distributed as D
        state = D.processes(timeout=10)
        if state.process_index == 1 and sys.argv[1] == "dies": os._exit(7)
        if state.process_index == 1 and sys.argv[1] == "sleeps": time.sleep(200)
        D._told(state, "here")
        """))
    return path


NEVER = "import tl_nb.distributed as D\ntry: D.processes(timeout=2)\nexcept D.DistributedError as e: print(e)"
TOLD = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "OMP_NUM_THREADS": "1"}


def fault(path, kind):
    "(what `launch` says, seconds)."
    start = time.monotonic()
    try: said = D.launch(path, kind, timeout=150)
    except D.DistributedError as e: said = str(e)
    return said, time.monotonic() - start


@pytest.fixture(scope="module")
def runs(folder, faults):
    "All launches of this file, two at a time: by number of processes what was found and what each has seen; by fault what was said."
    with ThreadPoolExecutor(2) as pool:
        both = pool.submit(D.launch, SCRIPT, folder, timeout=250)
        failed = {kind: pool.submit(fault, faults, kind) for kind in ("sleeps", "dies")}
        never = pool.submit(subprocess.run, [sys.executable, "-c", NEVER], env=os.environ | TOLD, capture_output=True, text=True, timeout=200)
        one = subprocess.run([sys.executable, SCRIPT, folder], env=D._surroundings(1, 1), capture_output=True, text=True, timeout=250)  # not launched
        assert one.returncode == 0, one.stderr[-3000:]
        failed = {kind: run.result() for kind, run in failed.items()} | {"never": never.result()}
        both.result()
    seen = {n: [json.loads((folder / f"{n}-{rank}.json").read_text()) for rank in range(n)] for n in (1, 2)}
    connected = [json.loads((folder / f"{n}-{rank}-end.json").read_text()) for n in (1, 2) for rank in range(n)]
    return SimpleNamespace(found={n: dict(np.load(folder / f"{n}.npz")) for n in (1, 2)}, seen=seen, failed=failed, connected=connected)


# ---- features

@pytest.mark.parametrize("name", ["texts", "several stages, normalised", "images", "one text", "none", "skipped", "skipped texts", "afterwards"])
def test_two_processes_give_the_bits_of_one(runs, name):
    one, two = (runs.found[n][name] for n in (1, 2))
    assert one.shape == two.shape and one.dtype == two.dtype == np.float32 and np.array_equal(one, two)
    assert len(one) == {"one text": 1, "none": 0, "images": 21, "skipped": 21, "skipped texts": 9}.get(name, 41)


def test_each_process_counts_itself_and_takes_its_part_of_the_threads(runs):
    assert [(s["rank"], s["world"], s["threads"]) for n in (1, 2) for s in runs.seen[n]] == [(0, 1, 1), (0, 2, 1), (1, 2, 1)]


def test_what_was_skipped_is_the_same_everywhere(runs):
    for name, at in (("skipped", [6, 10]), ("skipped texts", [9, 10])):
        one, *two = (s[name] for n in (1, 2) for s in runs.seen[n])
        assert [i for i, _ in one] == at and all(s == one for s in two)


def test_in_one_process_it_is_embed(folder):
    backbone, items = load_backbone(folder / "text"), texts(30).items
    assert np.array_equal(D.embed_distributed(backbone, items, stage=[0, 1], token_budget=50), embed(backbone, items, stage=[0, 1], token_budget=50))
    assert D.embed_distributed(backbone, []).shape == embed(backbone, []).shape
    with pytest.raises(FeatureError, match="Item 1 of 2 is an empty text"): D.embed_distributed(backbone, ["a", ""])
    with pytest.raises(FeatureError, match="pooling"): D.embed_distributed(backbone, items, pooling="best")
    found, skipped = D.embed_distributed(backbone, ["a", "", "b"], on_error="skip")
    assert len(found) == 2 and [i for i, _ in skipped] == [1]


@pytest.mark.parametrize("n,world", [(1, 3), (10, 3), (33, 2), (64, 5)])
def test_own_batches_of_images_are_those_of_the_whole_plan(n, world, monkeypatch):
    "Whoever computes it, a batch has the same images, in the same order."
    def batches(run, items, bad, most):
        for at in plan_batches([1] * len(items), most): yield [int(i) for i in at], [items[i] for i in at]
    monkeypatch.setattr(D, "_image_batches", batches)
    job = SimpleNamespace(items=[f"image {i}" for i in range(n)], budget=4)
    found = [list(D._own_images(None, job, SimpleNamespace(process_index=r, num_processes=world), [])) for r in range(world)]
    for at, items in sum(found, []): assert items == [job.items[i] for i in at]
    assert sorted(at for own in found for at, _ in own) == sorted([int(i) for i in at] for at in plan_batches([1] * n, 4))
    assert max(map(len, found)) - min(map(len, found)) <= 1


# ---- faults

@pytest.mark.parametrize("name,first", [("bad text", "FeatureError: Item 1 of 3 is an empty text"),
                                        ("bad image", "FeatureError: Item 6 of 23 is"), ("none usable", "FeatureError: None of the 1 items")])
def test_a_bad_item_is_the_same_error_in_all_processes_and_in_one(runs, name, first):
    said = [s[name] for n in (1, 2) for s in runs.seen[n]]
    assert said[0].startswith(first) and set(said) == {said[0]}


def test_a_fault_that_one_sees_is_told_to_all(runs):
    zero, second = (s["one fails"] for s in runs.seen[2])
    assert second.startswith("BackboneError") and zero.startswith("DistributedError: Process 1 of 2 failed") and "nowhere" in zero


@pytest.mark.parametrize("name", ["other items", "other order", "other options", "other weights"])
def test_what_differs_is_refused_in_all_processes(runs, name):
    for s in runs.seen[2]: assert s[name].startswith("DistributedError: Items, weights or options differ between the processes 0 and 1 of 2")


@pytest.mark.parametrize("kind,words", [("dies", "process 1 ended with the code 7, and said nothing"), ("sleeps", "lost the others")])
def test_when_one_fails_for_good_all_end_and_it_is_said_how(runs, kind, words):
    said, seconds = runs.failed[kind]
    assert said.startswith("faults.py failed in 2 processes: ") and words in said and seconds < 100


def test_one_that_was_told_of_another_which_never_comes_says_so(runs):
    said = runs.failed["never"]
    assert "Process 0 of 2 could not reach the others within 2 s" in said.stdout, said.stderr[-2000:]


def test_connections_are_let_go_before_python_ends(runs):
    "PyTorch's own thread may abort the process otherwise."
    assert runs.connected == [[], [], []]


GLOO = "RuntimeError: [pair.cc:545] gloo: Connection closed by peer"
LOST = "tl_nb.distributed.DistributedError: Process 0 of 2 has lost the others ([pair.cc:545] gloo: Connection closed by peer)"
ROOT = "[0]:\n  rank      : 1 (local_rank: 1)\n  exitcode  : {} (pid: 99)\ntorch.distributed.elastic.multiprocessing.errors.ChildFailedError: "


@pytest.mark.parametrize("err,words", [
    (f"Traceback\n{GLOO}\n{LOST}\nTraceback\nKeyError: 'of its own'\n{ROOT.format(1)}", "KeyError: 'of its own'"),
    (f"[rank0]: Traceback\n[rank0]: {GLOO}\n[rank0]: {LOST}\n{ROOT.format(-9)}", "process 1 ended with the code -9, and said nothing"),
    (f"terminate called without an active exception\n{ROOT.format(-6)}", "process 1 ended with the code -6, and said terminate called without an active exception"),
    (f"Traceback\n{GLOO}\n{LOST}\n{ROOT.format(-15)}", LOST), ("", "it ended, and said nothing"), ("one\nsomething else", "something else")])
def test_the_cause_is_found_among_all_that_was_said(err, words): assert D._cause(err) == words


def test_an_accelerator_made_for_gpus_that_are_not_there_is_noticed(monkeypatch):
    D.processes()  # counts one; what comes later does not change that
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(D.DistributedError, match=r"2 processes were started, and Accelerate counts 1.*cpu=True"): D.processes()


def test_the_command_that_starts_only_one_is_warned_about(monkeypatch, caplog):
    D._warn_alone.cache_clear()
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_PORT", "29500")
    D.processes(), D.processes()
    assert len(caplog.records) == 1 and "--multi_gpu" in caplog.text
    D._warn_alone.cache_clear()


@pytest.mark.parametrize("timeout", [0, -1, "long", None, True])
def test_a_timeout_is_a_number_of_seconds(timeout):
    with pytest.raises(D.DistributedError, match="timeout = "): D.processes(timeout)


def test_launch_refuses_what_it_cannot_start(tmp_path):
    with pytest.raises(D.DistributedError, match="no such file"): D.launch(tmp_path / "none.py")
    with pytest.raises(D.DistributedError, match="a folder"): D.launch(tmp_path)
    (script := tmp_path / "slow.py").write_text("import time; time.sleep(100)")
    for bad in (dict(processes=0), dict(threads=1.5), dict(processes=True)):
        with pytest.raises(D.DistributedError, match="a whole number of 1 or more"): D.launch(script, **bad)
    with pytest.raises(D.DistributedError, match="slow.py was ended after 0.1 s"): D.launch(script, processes=1, timeout=0.1)


def test_lists_are_told_apart():
    same = D._digest("text", ["ab", "c"])
    assert same == D._digest("text", ["ab", "c"])
    others = [["a", "bc"], ["c", "ab"], ["ab"], ["ab", "c", ""], ["ab", b"c"], ["ab", 7]]
    assert len({same, D._digest("text", ["ab", "c"], "option"), *(D._digest("text", x) for x in others)}) == len(others) + 2


def test_a_file_is_told_apart_by_name_and_size_and_a_picture_by_its_pixels(tmp_path):
    from PIL import Image

    for name, size in (("a.png", 8), ("b.png", 8), ("c.png", 9)): Image.new("RGB", (size, size)).save(tmp_path / name)
    brief = lambda x: D._brief("image", x)
    assert brief(tmp_path / "a.png") == brief(str(tmp_path / "a.png")) != brief(tmp_path / "b.png")
    assert brief(tmp_path / "gone.png") != brief(tmp_path / "a.png")
    first, second = images(2).items
    assert brief(first) == brief(first.copy()) != brief(second) and brief(Image.fromarray(first)) != brief(Image.fromarray(second))
    assert brief(first.reshape(64, 16, 3)) != brief(first)


# ---- training

@pytest.mark.parametrize("name", ["one step", "an epoch", "less items than processes in the last batch", "opened on the way", "stopped early",
                                  "images, frozen"])
def test_sgd_makes_the_same_weights_in_two_processes_as_in_one(runs, name):
    one, two = (runs.found[n][name] for n in (1, 2))
    assert np.abs(one - two).max() < 1e-5
    if name in ("one step", "an epoch"): assert np.abs(one - runs.found[1]["stopped early"]).max() > 1e-3  # whose rate is next to nothing


def test_adamw_makes_nearly_the_same(runs):
    one, two = (runs.found[n]["adamw, three epochs"] for n in (1, 2))
    assert np.sqrt(((one - two) ** 2).mean()) < 1e-4


@pytest.mark.parametrize("name", [t for t in TRAININGS if t not in ("images, open", "with dropout", "adamw, three epochs")])
def test_validation_counts_every_item_once(runs, name):
    one, two = (runs.found[n][f"{name}: values"] for n in (1, 2))
    assert one.shape == two.shape and np.abs(one[:, 1:] - two[:, 1:]).max() < 1e-4  # loss and accuracy; the first is the loss of one share


@pytest.mark.parametrize("name", TRAININGS)
def test_all_processes_end_with_the_same_weights_and_frozen_is_frozen(runs, name):
    assert len({s[f"{name}: weights"] for s in runs.seen[2]}) == 1
    for s in runs.seen[1] + runs.seen[2]: assert s[f"{name}: frozen moved"] == 0 and s[f"{name}: loaders are back"]


def test_batchnorm_that_trains_is_the_same_everywhere_too(runs):
    assert all(s["statistics moved"] for s in runs.seen[2])  # and the weights of "images, open", which hold them, agree


def test_early_stopping_stops_everywhere(runs):
    assert len({len(runs.found[n]["stopped early: values"]) for n in (1, 2)}) == 1


def test_validate_and_predict_work_inside_and_after(runs):
    for n in (1, 2):
        assert np.allclose(runs.found[n]["validate"], runs.found[n]["with dropout: values"][-1][1:], atol=1e-5)
        assert runs.found[n]["probabilities"].shape == (41, 2)


def test_dropout_is_drawn_by_each_process(runs):
    assert np.abs(runs.found[1]["with dropout"] - runs.found[2]["with dropout"]).max() > 1e-4


def test_training_refuses_other_weights_other_data_and_other_loaders(runs):
    for s in runs.seen[2]:
        assert s["other seed"].startswith("DistributedError: The weights before training differ between the processes 0 and 1")
        assert s["other data"].startswith("DistributedError: The items to train on differ")
        assert s["new loader"].startswith("DistributedError: Inside distribute")


def test_in_one_process_distribute_changes_nothing(folder):
    learn = text_learner(load_backbone(folder / "text"), texts(12), bs=4, seed=0, path=folder)
    loaders, cbs = list(learn.dls.loaders), list(learn.cbs)
    with D.distribute(learn) as same: assert same is learn and list(learn.dls.loaders) == loaders and list(learn.cbs) == cbs


def test_fastai_still_sends_the_order_through_a_gpu():
    "When this fails, fastai's own context may do; see the lesson."
    import fastai

    assert re.search(r"def _broadcast\(.*\n.*\n\s+t = LongTensor\(t\)\.cuda\(\)", (Path(fastai.__file__).parent / "distributed.py").read_text())


# ---- the exercise

WRONG = {
    "a plan of a part": lambda lengths, plan, rank, world: plan(lengths[rank::world]),
    "all": lambda lengths, plan, rank, world: plan(lengths),
    "the rest is lost": lambda lengths, plan, rank, world: (lambda b: b[rank * (len(b) // world):(rank + 1) * (len(b) // world)])(plan(lengths)),
    "the rest for the last": lambda lengths, plan, rank, world: (lambda b, k: b[rank * k:(rank + 1) * k if rank < world - 1 else None])(
        plan(lengths), len(plan(lengths)) // world),
    "other batches": lambda lengths, plan, rank, world: [b[rank::world] for b in plan(lengths) if len(b[rank::world])],
}


@pytest.mark.parametrize("name", WRONG)
def test_the_exercise_refuses(name): assert check_shares(WRONG[name]).passed is False


def test_the_exercise_accepts_a_slice_and_a_loop():
    assert check_shares(lambda lengths, plan, rank, world: plan(lengths)[rank::world]).passed
    assert check_shares(lambda lengths, plan, rank, world: [b for i, b in enumerate(plan(lengths)) if i % world == rank]).passed
    assert check_shares(...).passed is None
