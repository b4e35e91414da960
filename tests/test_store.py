"The store of features: the key, kills, two processes, damage, cleaning; and the Embedder in scikit-learn's machinery."
import copy
import json
import os
import sqlite3
import subprocess
import sys
import threading

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline

import tl_nb.backbones as B
import tl_nb.store as S
from tl_nb.backbones import load_backbone
from tl_nb.embedding import FeatureError, _groups, embed, embed_stages
from tl_nb.store import Embedder, FeatureStore

WORDS = "the a cat dog sat ran on under red blue mat hat and good bad film plot".split()


def make_texts(n, seed=0):
    rng = np.random.default_rng(seed)
    return [f"{i} " + " ".join(rng.choice(WORDS, rng.integers(1, 25))) for i in range(n)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "A small random BERT in the format of the Hub."
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *map(str, range(10)), *(f"##{i}" for i in range(10))]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
                        intermediate_size=64, max_position_embeddings=40)
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def bert(folder): return load_backbone(str(folder))


@pytest.fixture(scope="module")
def lite0(): return load_backbone("efficientnet-lite0")


@pytest.fixture
def store(tmp_path): return FeatureStore(tmp_path / "store")


class Passes:
    "Counts the items that pass through a model."
    def __init__(self, model): self.model, self.n = model, 0

    def __enter__(self):
        def note(model, args, kwargs): self.n += len(args[0] if args else kwargs["input_ids"])
        self.hook = self.model.register_forward_pre_hook(note, with_kwargs=True)
        return self

    def __exit__(self, *error): self.hook.remove()


def computed(store, backbone, items, **kw):
    with Passes(backbone.model) as passes: store.embed(backbone, items, **kw)
    return passes.n


# ---- the same results as embed, each item once

def test_equals_embed_and_computes_once(store, bert):
    texts = make_texts(60)
    assert computed(store, bert, texts) == 60
    assert computed(store, bert, texts) == 0
    assert np.abs(store.embed(bert, texts) - embed(bert, texts)).max() < 1e-5
    assert computed(store, bert, texts + make_texts(70)[60:]) == 10
    assert computed(store, bert, texts[::-1]) == 0
    assert np.array_equal(store.embed(bert, texts[::-1]), store.embed(bert, texts)[::-1])
    x = store.embed(bert, texts, normalize=True)
    assert np.allclose(np.linalg.norm(x, axis=1), 1, atol=1e-6) and x.dtype == np.float32 and x.flags.c_contiguous


@pytest.mark.parametrize("kw", [dict(stage=[0, "block 3"]), dict(pooling="cls"), dict(pooling="max"), dict(max_length=6),
                                dict(precision="bf16"), dict(batch_size=3), dict(token_budget=50), dict(stage="pooler")])
def test_equals_embed_with_every_keyword(store, bert, kw):
    texts = make_texts(20)
    for _ in range(2): assert np.abs(store.embed(bert, texts, **kw) - embed(bert, texts, **kw)).max() < 1e-5


def test_stages_and_what_is_missing_of_them(store, bert):
    texts = make_texts(30)
    store.embed(bert, texts[:10])
    with Passes(bert.model) as passes: found = store.embed_stages(bert, texts, [0, 1, -1], normalize=True)
    assert passes.n == 30
    for name, x in embed_stages(bert, texts, [0, 1, -1], normalize=True).items(): assert np.abs(found[name] - x).max() < 1e-5
    assert computed(store, bert, texts, stage=1) == 0


def test_copies_are_computed_once(store, bert, lite0, tmp_path):
    assert computed(store, bert, ["good film", "bad film", "good film"]) == 2
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    for name in ("a.png", "b.png"): Image.fromarray(picture).save(tmp_path / name)
    items = [tmp_path / "a.png", str(tmp_path / "b.png"), (tmp_path / "a.png").read_bytes(), picture, picture.copy()]
    with Passes(lite0.model) as passes: passes.n = 0
    x = store.embed(lite0, items)
    assert store.sizes()["items"].sum() == 2 + 2 and np.abs(x - embed(lite0, items)).max() < 1e-5


def test_images_by_content(store, lite0, tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "p.png"
    a, b = (rng.integers(0, 256, (40, 60, 3), dtype=np.uint8) for _ in range(2))
    Image.fromarray(a).save(path)
    first = store.embed(lite0, [path])
    Image.fromarray(b).save(path)
    assert np.abs(store.embed(lite0, [path]) - embed(lite0, [path])).max() < 1e-5
    assert np.abs(store.embed(lite0, [path]) - first).max() > 1e-3
    grey = rng.integers(0, 256, (24, 96), dtype=np.uint8)  # the same bytes in another shape are another image
    both = [grey, grey.reshape(96, 24), Image.fromarray(a), Image.fromarray(b)]
    assert np.abs(store.embed(lite0, both) - embed(lite0, both)).max() < 1e-5


def test_bad_items(store, bert, lite0, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    pictures = [np.full((30, 30), v, np.uint8) for v in (10, 200)]
    for backbone, items in ((bert, ["good film", "", "bad film", None]),
                            (lite0, [pictures[0], tmp_path / "text.png", tmp_path / "none.png", None, pictures[1]])):
        for _ in range(2):
            with pytest.raises(FeatureError, match=r"Item [12] of"): store.embed(backbone, items)
            ours, theirs = (f(backbone, items, on_error="skip") for f in (store.embed, embed))
            assert np.abs(ours[0] - theirs[0]).max() < 1e-5 and ours[1] == theirs[1]
        with pytest.raises(FeatureError, match="None of the 1"): store.embed(backbone, items[1:2], on_error="skip")
        assert store.embed(backbone, []).shape == embed(backbone, []).shape
    with pytest.raises(FeatureError, match="pooling"): store.embed(bert, ["a"], pooling="sum")


def test_cut_texts_are_counted_also_when_stored(store, bert, caplog):
    long = "film " * 60
    for _ in range(2):
        caplog.clear()
        with caplog.at_level("WARNING", logger="tl_nb"): store.embed(bert, ["good", long, long, "film " * 38])
        assert [r.getMessage() for r in caplog.records] == [
            "2 of 4 texts have more than 40 tokens; what comes after is not read."]


# ---- the key

def train_step(bb):
    optimizer = torch.optim.SGD(bb.model.parameters(), lr=0.1)
    bb.model(**bb.collate(bb.tokenize(["good film"]).ids)).last_hidden_state.pow(2).sum().backward()
    optimizer.step()


def load_state(bb): bb.model.load_state_dict({k: v * 1.5 for k, v in bb.model.state_dict().items()})
def edit_data(bb): bb.model.encoder.layer[0].output.dense.weight.data[0] *= 3
def swap_rows(bb): bb.model.embeddings.word_embeddings.weight.data.copy_(
    bb.model.embeddings.word_embeddings.weight.data.flip(0))
def edit_numpy(bb): bb.model.encoder.layer[0].output.dense.weight.detach().numpy()[:4] += 1
def more_heads(bb):
    for layer in bb.model.encoder.layer:
        layer.attention.self.num_attention_heads, layer.attention.self.attention_head_size = 2, 16


@pytest.mark.parametrize("change", [train_step, load_state, edit_data, swap_rows, edit_numpy, more_heads])
def test_other_weights_are_never_served(store, bert, change):
    texts = make_texts(8)
    first, mark = store.embed(bert, texts), bert.fingerprint
    change(bert)
    assert bert.fingerprint != mark == first_of(B._FINGERPRINTS[bert])
    assert np.abs(store.embed(bert, texts) - embed(bert, texts)).max() < 1e-5
    if change is not more_heads: assert np.abs(store.embed(bert, texts) - first).max() > 1e-4
    assert store.sizes()["weights"].nunique() == 2


def first_of(known): return known[1]


def test_preprocessing_pooling_length_precision_are_never_mixed(store, bert):
    texts = make_texts(8)
    ways = [{}, dict(pooling="max"), dict(pooling="cls"), dict(max_length=5), dict(precision="bf16"), dict(stage=0)]
    for kw in ways: assert computed(store, bert, texts, **kw) == 8
    for kw in ways: assert np.abs(store.embed(bert, texts, **kw) - embed(bert, texts, **kw)).max() < 1e-5
    assert computed(store, bert, texts, max_length=40) == computed(store, bert, texts, max_length=99) == 0  # its own limit
    other = copy.deepcopy(bert)
    other.processor.backend_tokenizer.normalizer = None
    assert computed(store, other, texts) == 8


def test_fingerprint_is_remembered_only_while_true(bert, monkeypatch):
    asked, real = [], B.Backbone.fingerprint
    monkeypatch.setattr(B.Backbone, "fingerprint", property(lambda self: asked.append(1) or real.fget(self)))
    first = B._fingerprint(bert)
    bert.tokenize(["good film"], max_length=4)  # sets the truncation of the tokenizer
    assert B._fingerprint(bert) == first and len(asked) == 1
    edit_data(bert)
    assert B._fingerprint(bert) != first and len(asked) == 2


# ---- the plan

def test_groups_are_resumed_at_their_borders():
    rng = np.random.default_rng(0)
    sizes = np.sort(rng.integers(1, 9, 80))[::-1]
    plan = S.plan_batches(sizes, 20, 4)
    start = rng.random(80) < 0.5
    load = lambda rest: [(i, None) for i in rest if i % 7]  # every seventh cannot be read
    whole = [[i for i, _ in g] for g in _groups(plan, start, load, sizes, 20, 4)]
    assert sorted(sum(whole, [])) == [i for i in range(80) if start[i] and i % 7]
    for n in range(len(whole)):
        left = start.copy()
        left[sum(whole[:n], [])] = False
        assert [[i for i, _ in g] for g in _groups(plan, left, load, sizes, 20, 4)] == whole[n:]
    assert all(len(g) <= 4 and sizes[g[0]] * len(g) <= 20 for g in whole)


# ---- kills and company: one warm process forks the runs, so that each takes a moment

SERVER = """
import json, os, random, shutil, signal, sqlite3, sys, time
import numpy as np
from tl_nb.backbones import load_backbone
from tl_nb.store import FeatureStore
folder, out, texts = json.loads(sys.argv[1])
bert, random_ = load_backbone(folder), random.Random(0)

def run(where, save=None):
    "A child that runs all texts; its process id."
    pid = os.fork()
    if pid: return pid
    code = 1
    try:
        store, kw = FeatureStore(f"{out}/{where}"), dict(token_budget=64, progress=False)
        part = texts[::3] if where == "template" else texts
        found = store.embed_stages(bert, part, [1, -1] if "stages" in where else [-1], **kw)
        if save: np.savez(f"{out}/{save}.npz", **found)
        code = 0
    finally: os._exit(code)

def entries(where):
    path = f"{out}/{where}/index.sqlite"
    if not os.path.exists(path): return 0
    db = sqlite3.connect(path)
    try: return db.execute("SELECT count(*) FROM entry").fetchone()[0]
    except sqlite3.OperationalError: return 0
    finally: db.close()

def prepare(where):
    "The state to start from: nothing, or the last stage of every third text."
    if "stages" in where: shutil.copytree(f"{out}/template", f"{out}/{where}")
    return where

def wait(*pids): assert all(os.waitpid(p, 0)[1] == 0 for p in pids)

def same(a, b):
    a, b = np.load(f"{out}/{a}.npz"), np.load(f"{out}/{b}.npz")
    return a.files == b.files and all(np.array_equal(a[k], b[k]) for k in a.files)

wait(run("template"))
report = {"kills": [], "pairs": []}
for kind in ("one", "stages"):
    prepare(f"{kind}-whole")
    start = time.perf_counter()
    wait(run(f"{kind}-whole", f"{kind}-whole"))
    took, whole = time.perf_counter() - start, entries(f"{kind}-whole")
    for i in range(15):
        pid, before = run(prepare(f"{kind}-kill{i}")), 67 * (kind == "stages")
        time.sleep(took * random_.random())
        os.kill(pid, signal.SIGKILL)
        killed = os.waitpid(pid, 0)[1] == signal.SIGKILL
        left = entries(f"{kind}-kill{i}")
        wait(run(f"{kind}-kill{i}", f"{kind}-kill{i}"))
        report["kills"].append([killed and before < left < whole, same(f"{kind}-kill{i}", f"{kind}-whole"),
                                entries(f"{kind}-kill{i}") == whole])
    for i in range(10):
        a = run(prepare(f"{kind}-pair{i}"), f"{kind}-a{i}")
        time.sleep(took * 0.5 * random_.random() * (i % 2))
        b = run(f"{kind}-pair{i}", f"{kind}-b{i}")
        wait(a, b)
        report["pairs"].append([same(f"{kind}-a{i}", f"{kind}-whole"), same(f"{kind}-b{i}", f"{kind}-whole"),
                                entries(f"{kind}-pair{i}") == whole])
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def report(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    env = os.environ | {"TL_NB_THREADS": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run([sys.executable, "-c", SERVER, json.dumps([str(folder), str(out), make_texts(200)])],
                          capture_output=True, text=True, env=env, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_killed_and_finished_is_equal_to_the_bit(report):
    inside, same, complete = zip(*report["kills"])
    assert len(same) == 30 and all(same) and all(complete)
    assert sum(inside) >= 8, "too few of the kills hit a run that had stored a part"


def test_two_processes_at_once_are_equal_to_the_bit(report):
    assert len(report["pairs"]) == 20 and all(all(row) for row in report["pairs"])


def test_threads_share_a_store(store, bert):
    texts, found = make_texts(80), []
    run = lambda: found.append(FeatureStore(store.folder).embed(bert, texts, token_budget=60))
    with Passes(bert.model) as passes:
        threads = [threading.Thread(target=run) for _ in range(3)]
        for t in threads: t.start()
        for t in threads: t.join()
    assert len(found) == 3 and passes.n == 80
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


# ---- damage

def row_file(store): return next((store.folder / "rows").iterdir())


def test_damaged_rows_are_computed_again(store, bert, caplog):
    texts = make_texts(20)
    first = store.embed(bert, texts)
    data = bytearray(row_file(store).read_bytes())
    data[5] ^= 1
    data[128 * 7 + 3] ^= 128
    row_file(store).write_bytes(data)
    with caplog.at_level("WARNING", logger="tl_nb"): n = computed(store, bert, texts)
    assert n == 2 and "2 rows" in caplog.text
    assert np.abs(store.embed(bert, texts) - first).max() < 1e-5 and computed(store, bert, texts) == 0


@pytest.mark.parametrize("tear,lost", [(lambda p: p.write_bytes(p.read_bytes()[:-200]), 2), (lambda p: p.unlink(), 20),
                                       (lambda p: p.write_bytes(b""), 20), (lambda p: p.open("ab").write(b"rubbish"), 0)])
def test_torn_files(store, bert, tear, lost):
    texts = make_texts(30)
    first = store.embed(bert, texts[:20])
    tear(row_file(store))
    assert computed(store, bert, texts[:20]) == lost
    assert np.abs(store.embed(bert, texts)[:20] - first).max() < 1e-5 and computed(store, bert, texts) == 0


def test_rows_of_one_another_are_not_served(store, bert):
    texts = make_texts(10)
    first = store.embed(bert, texts)
    with sqlite3.connect(store.folder / "index.sqlite") as db: db.execute("UPDATE entry SET row = 9 - row")
    db.close()
    assert computed(store, bert, texts) == 10 and np.abs(store.embed(bert, texts) - first).max() < 1e-5


def test_interrupted_write_leaves_no_entry(store, bert, monkeypatch):
    texts = make_texts(20)
    store.embed(bert, texts[:10])

    def full(self, file, row, rows):
        real(self, file, row, rows[:1])
        raise OSError(28, "No space left on device")

    real = S._Index._append
    monkeypatch.setattr(S._Index, "_append", full)
    with pytest.raises(FeatureError, match="No space left.*clean"): store.embed(bert, texts)
    monkeypatch.undo()
    assert store.sizes()["items"].sum() == 10 and computed(store, bert, texts) == 10


def test_folder_that_cannot_be_used(tmp_path, bert):
    (tmp_path / "file").write_text("")
    with pytest.raises(FeatureError, match="another one: FeatureStore"): FeatureStore(tmp_path / "file" / "x").embed(bert, ["a"])
    (tmp_path / "index.sqlite").write_text("no database, though long enough to be read as one" * 99)
    with pytest.raises(FeatureError, match="damaged, delete"): FeatureStore(tmp_path).embed(bert, ["a"])


def test_another_format(store, bert):
    store.embed(bert, ["a film"])
    db = sqlite3.connect(store.folder / "index.sqlite")
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(FeatureError, match="format 99"): store.embed(bert, ["a film"])


# ---- sizes and clean

def test_sizes_and_clean(store, bert):
    assert len(store.sizes()) == 0 and "0 rows" in repr(store)
    texts, other = make_texts(40), copy.deepcopy(bert)
    edit_data(other)
    store.embed(bert, texts)
    store.embed_stages(other, texts[:9], [0, -1])
    assert sorted(store.sizes()["items"]) == [9, 9, 40] and "58 rows of 2 sets" in repr(store) and "<table" in store._repr_html_()
    assert store.clean("nobody") == store.clean(days=1) == 0
    assert store.clean(other) == 2 * 9 * 128 and computed(store, bert, texts) == 0
    store.embed(other, texts)
    assert store.clean(max_bytes=40 * 128) == 40 * 128 and computed(store, other, texts) == 0
    assert store.clean(bert.name, days=0) == 40 * 128 and list((store.folder / "rows").iterdir()) == []
    assert computed(store, bert, texts) == 40 and store.clean() > 0 and len(store.sizes()) == 0


def test_clean_while_another_runs(store, bert):
    "Every group of one run is followed by a clean, and the rows are still right."
    texts = make_texts(60)
    hook = bert.model.register_forward_hook(lambda *args: FeatureStore(store.folder).clean() * 0 or None)
    x = store.embed(bert, texts, token_budget=60)
    hook.remove()
    assert np.abs(x - embed(bert, texts)).max() < 1e-5
    assert np.abs(store.embed(bert, texts) - x).max() < 1e-5


def test_clean_between_index_and_rows(store, bert, monkeypatch):
    texts, real = make_texts(20), S._rows_of
    first = store.embed(bert, texts)
    monkeypatch.setattr(S, "_rows_of", lambda path, width: (FeatureStore(store.folder).clean(), real(path, width))[1])
    assert np.abs(store.embed(bert, texts) - first).max() < 1e-5


# ---- Embedder

def data(n=40):
    texts = make_texts(n)
    return texts, np.array([len(t) > 60 for t in texts])


def test_grid_search_computes_each_item_once(store, bert):
    texts, y = data()
    pipeline = make_pipeline(Embedder(bert, store=store), LogisticRegression())
    with Passes(bert.model) as passes:
        search = GridSearchCV(pipeline, {"logisticregression__C": [0.1, 1, 10]}, cv=3).fit(texts, y)
        cross_val_score(pipeline, np.array(texts, dtype=object), y, cv=4)
    assert store.sizes()["items"].sum() == 40
    stand_ins = 9 + 1 + 4  # one item per fit, by which the parameters are checked
    assert passes.n <= 40 + stand_ins and search.best_score_ > 0.7
    assert np.array_equal(search.predict(texts), search.predict(pd.Series(texts)))


def test_in_processes(store, folder):
    texts, y = data()
    pipeline = make_pipeline(Embedder(str(folder), store=store), LogisticRegression())
    alone = cross_val_score(pipeline, texts, y, cv=4)
    assert np.array_equal(cross_val_score(pipeline, texts, y, cv=4, n_jobs=2), alone)
    assert store.sizes()["items"].sum() == 40


def test_embedder_gives_what_embed_gives(store, bert, lite0):
    texts = make_texts(9)
    for kw in ({}, dict(stage=[0, -1], pooling="max", normalize=False), dict(store=False)):
        e = Embedder(bert, **{"store": store} | kw)
        theirs = embed(bert, texts, **{"normalize": True} | {k: v for k, v in kw.items() if k != "store"})
        for X in (texts, np.array(texts), np.array(texts, dtype=object), pd.Series(texts), pd.DataFrame({"t": texts})):
            assert np.abs(e.transform(X) - theirs).max() < 1e-5
        assert len(e.get_feature_names_out()) == theirs.shape[1]
    pictures = np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), dtype=np.uint8)
    e = Embedder(lite0, store=store, normalize=False)
    assert np.abs(e.fit(pictures).transform(pictures) - embed(lite0, list(pictures))).max() < 1e-5
    objects = np.empty(3, dtype=object)
    objects[:] = [Image.fromarray(p) for p in pictures]
    assert np.abs(e.transform(objects) - embed(lite0, list(pictures))).max() < 1e-5


def test_embedder_is_a_good_estimator(store, bert):
    e = Embedder(bert, store=store, pooling="max")
    twin = clone(e)
    assert twin is not e and twin.backbone is bert and twin.get_params() == e.get_params()
    assert twin.set_params(pooling="mean").pooling == "mean" and e.pooling == "max"
    tags = e.__sklearn_tags__()
    assert not tags.requires_fit and tags.input_tags.string and not tags.input_tags.two_d_array
    assert "Embedder" in e._repr_html_() and "Embedder" in repr(make_pipeline(e, LogisticRegression()))
    assert clone(Embedder("nobody")).backbone == "nobody"  # nothing is loaded before it is used
    assert list(Embedder(bert, store=store).set_output(transform="pandas").fit_transform(["a", "b"]).columns)[:1] == ["embedder0"]


@pytest.mark.parametrize("kw,X,why", [(dict(pooling="sum"), ["a"], "pooling"), ({}, [], "no items"), ({}, ["a", ""], "Item 1"),
                                      (dict(store="x"), ["a"], "store"), (dict(stage=9), ["a"], "stage")])
def test_embedder_checks_before_it_runs(store, bert, kw, X, why):
    with pytest.raises(ValueError, match=why): Embedder(bert, **{"store": store} | kw).fit(X)
