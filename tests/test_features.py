"Features: embedding in batches, order, precision and bad items; and the prototype with its honest baseline."
import copy
import io
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

import tl_nb.embedding as E
import tl_nb.features as F
from tl_nb.assets import fetch
from tl_nb.backbones import _timm_backbone, freeze, load_backbone, unfreeze
from tl_nb.data import DataError, Dataset, load_data
from tl_nb.embedding import FeatureError, embed, embed_stages, plan_batches
from tl_nb.evaluate import compare
from tl_nb.features import Probe, Prototype, probe, probe_stages, prototype

WORDS = "the a cat dog sat ran on under red blue mat hat and good bad film plot".split()


@pytest.fixture(scope="module")
def minilm(): return load_backbone("minilm-l6")


@pytest.fixture(scope="module")
def lite0(): return load_backbone("efficientnet-lite0")


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 60))) for _ in range(90)]


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (40, 60, 3), dtype=np.uint8) for _ in range(5)]


def vit():
    import timm

    torch.manual_seed(0)
    return _timm_backbone(timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=3,
                                            num_heads=2, num_classes=3,
                                            pretrained_cfg_overlay=dict(input_size=(3, 32, 32))), "small-vit")


# ---- the plan

@pytest.mark.parametrize("budget,most", [(10, None), (100, None), (1000, 3), (1, None)])
def test_plan_covers_all_once_within_budget(budget, most):
    lengths = np.random.default_rng(1).integers(1, 50, 200)
    plan = plan_batches(lengths, budget, most)
    assert sorted(np.concatenate(plan)) == list(range(200))
    for batch in plan:
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= budget
        assert not most or len(batch) <= most
    longest = [lengths[b].max() for b in plan]
    assert longest == sorted(longest, reverse=True)


def test_plan_is_a_pure_function():
    lengths = [5, 3, 5, 5, 9]
    assert [b.tolist() for b in plan_batches(lengths, 10)] == [b.tolist() for b in plan_batches(np.array(lengths), 10)]
    assert plan_batches([], 10) == []
    assert plan_batches([7, 7, 7], 14)[0].tolist() == [0, 1]  # equal lengths stay in order


# ---- embed: numbers

def test_embed_is_mean_of_real_tokens_one_by_one(minilm, texts):
    fast = embed(minilm, texts)
    assert fast.shape == (90, 384) and fast.dtype == np.float32 and fast.flags.c_contiguous
    with torch.inference_mode():
        slow = [minilm.model(**minilm.collate(minilm.tokenize([t]).ids)).last_hidden_state.mean(1)[0].numpy() for t in texts]
    assert np.abs(fast - np.stack(slow)).max() < 1e-5


def test_order_and_neighbours_do_not_matter(minilm, texts):
    whole = embed(minilm, texts)
    order = np.random.default_rng(2).permutation(len(texts))
    assert np.abs(embed(minilm, [texts[i] for i in order]) - whole[order]).max() < 1e-5
    assert np.abs(embed(minilm, texts[10:13]) - whole[10:13]).max() < 1e-5
    assert np.abs(embed(minilm, texts, token_budget=70) - whole).max() < 1e-5
    assert np.abs(embed(minilm, texts, batch_size=1) - whole).max() < 1e-5
    assert np.array_equal(embed(minilm, texts), whole)  # and again, to the bit


def test_normalize(minilm, texts):
    x = embed(minilm, texts[:9], normalize=True)
    assert np.allclose(np.linalg.norm(x, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_text_pooling_ignores_padding(minilm, pooling):
    short, long = "good film", "the plot of the bad film ran on and on under the red mat and the blue hat"
    together = embed(minilm, [short, long], pooling=pooling, token_budget=1000)
    alone = np.concatenate([embed(minilm, [t], pooling=pooling) for t in (short, long)])
    assert np.abs(together - alone).max() < 1e-5
    with torch.inference_mode(): h = minilm.model(**minilm.collate(minilm.tokenize([short]).ids)).last_hidden_state[0]
    expected = {"mean": h.mean(0), "cls": h[0], "max": h.amax(0)}[pooling].numpy()
    assert np.abs(together[0] - expected).max() < 1e-5


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_image_tokens(pictures, pooling):
    bb = vit()
    x = torch.stack([bb.transform(Image.fromarray(p)) for p in pictures])
    with torch.inference_mode(): h = bb.model.forward_features(x)
    expected = {"mean": h[:, 1:].mean(1), "cls": h[:, 0], "max": h[:, 1:].amax(1)}[pooling].numpy()
    assert np.abs(embed(bb, pictures, pooling=pooling) - expected).max() < 1e-5


def test_image_mean_is_what_timm_pools(lite0, pictures):
    x = torch.stack([lite0.transform(Image.fromarray(p)) for p in pictures])
    with torch.inference_mode(): expected = lite0.model.forward_head(lite0.model.forward_features(x), pre_logits=True)
    assert np.abs(embed(lite0, pictures) - expected.numpy()).max() < 1e-5
    with torch.inference_mode(): logits = lite0.model(x).numpy()
    assert np.abs(embed(lite0, pictures, stage="head") - logits).max() < 1e-4


def test_stages_by_number_name_and_several(minilm, texts):
    some = texts[:8]
    by_name = embed_stages(minilm, some)
    assert list(by_name) == ["embeddings"] + [f"block {i}" for i in range(1, 7)]
    assert np.array_equal(embed(minilm, some, stage=0), by_name["embeddings"])
    assert np.array_equal(embed(minilm, some, stage="block 3"), embed(minilm, some, stage=-4))
    assert embed(minilm, some, stage="pooler").shape == (8, 384)
    two = embed(minilm, some, stage=[2, "block 6"])
    assert two.flags.c_contiguous and np.array_equal(two, np.concatenate([by_name["block 2"], by_name["block 6"]], axis=1))
    with pytest.raises(ValueError, match="no stage"): embed(minilm, some, stage=7)


def test_image_stages_have_their_own_widths(lite0, pictures):
    shapes = {k: v.shape[1] for k, v in embed_stages(lite0, pictures).items()}
    assert shapes["stem"] == 32 and shapes["block 7"] == 1280 and len(shapes) == 8


def test_image_items_of_every_kind_agree(lite0, pictures, tmp_path):
    path = tmp_path / "p.png"
    Image.fromarray(pictures[0]).save(path)
    items = [pictures[0], Image.fromarray(pictures[0]), path, str(path), path.read_bytes()]
    x = embed(lite0, items)
    assert np.abs(x - x[0]).max() < 1e-5


def test_images_come_channels_last_with_the_same_features(lite0, pictures):
    came = []
    with torch.no_grad():
        rows = torch.stack([lite0.transform(Image.fromarray(x)) for x in pictures[:3]])
        plain = lite0.model.forward_features(rows).mean((2, 3)).numpy()
    hook = lite0.model.conv_stem.register_forward_pre_hook(lambda m, args: came.append(args[0].is_contiguous(memory_format=torch.channels_last)))
    try: found = embed(lite0, pictures[:3])
    finally: hook.remove()
    assert came and all(came)
    np.testing.assert_allclose(found, plain, atol=1e-4)


def test_rows_in_their_own_directions_are_the_same_to_a_regression():
    rng = np.random.default_rng(0)
    train, new = rng.normal(size=(12, 40)), rng.normal(size=(5, 40))
    turned = F._Turned()
    a = turned.fit_transform(train)
    assert a.shape == (12, 12)
    np.testing.assert_allclose(a @ a.T, train @ train.T, atol=1e-9)
    np.testing.assert_allclose(turned.transform(new) @ a.T, new @ train.T, atol=1e-9)
    assert F._Turned().fit_transform(train.T).shape == (40, 12)  # more rows than columns: nothing to gain


def test_grey_and_transparent_images(lite0):
    grey = np.full((30, 30), 120, np.uint8)
    assert np.abs(np.diff(embed(lite0, [grey, np.stack([grey] * 3, -1)]), axis=0)).max() < 1e-5


def test_bf16_is_close(minilm, texts):
    a, b = (embed(minilm, texts, precision=p, normalize=True) for p in ("fp32", "bf16"))
    assert b.dtype == np.float32 and (a * b).sum(1).min() > 0.999
    assert next(minilm.model.parameters()).dtype == torch.float32


@pytest.mark.parametrize("amx,avx,expected", [(False, False, torch.float32), (True, False, torch.bfloat16),
                                              (False, True, torch.bfloat16)])
def test_auto_follows_the_processor(monkeypatch, amx, avx, expected):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    assert E._dtype("auto", "cpu") == expected
    assert E._dtype("fp32", "cpu") == torch.float32 and E._dtype(None, "cpu") == torch.float32


def test_nothing_gives_nothing_of_the_right_width(minilm, lite0):
    assert embed(minilm, []).shape == (0, 384) and embed(lite0, []).shape == (0, 1280)
    assert embed(lite0, [], stage=["stem", -1]).shape == (0, 1312)
    features, skipped = embed(minilm, [], on_error="skip", normalize=True)
    assert features.shape == (0, 384) and skipped == []


def test_a_name_or_a_dataset_will_do(minilm):
    data = Dataset.from_items(["good film", "bad film"], ["a", "b"])
    assert np.array_equal(embed("minilm-l6", data), embed(minilm, data.items))


# ---- embed: what it leaves behind

def modes(model): return [m.training for m in model.modules()]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_model_is_left_as_it_was(minilm, precision):
    bb = copy.deepcopy(minilm)
    bb.model.train()
    freeze(bb.stages[1])
    threads, before, fingerprint = torch.get_num_threads(), modes(bb.model), bb.fingerprint
    embed(bb, ["good film"], precision=precision)
    assert modes(bb.model) == before and bb.fingerprint == fingerprint and torch.get_num_threads() == threads
    assert not any("forward" in m.__dict__ or m._forward_hooks for m in bb.model.modules())
    assert all(p.requires_grad for p in bb.stages[2].parameters())
    unfreeze(bb)
    assert all(modes(bb.model))
    bb.model(**bb.collate(bb.tokenize(["good film"]).ids)).last_hidden_state.sum().backward()  # still trains


def test_interrupt_leaves_everything_as_it_was(minilm, texts, monkeypatch):
    bb = copy.deepcopy(minilm)
    bb.model.train()
    before, seen = modes(bb.model), []

    def stop(*args):
        seen.append(1)
        if len(seen) == 3: raise KeyboardInterrupt
        return real(*args)

    real = E._pool
    monkeypatch.setattr(E, "_pool", stop)
    with pytest.raises(KeyboardInterrupt): embed(bb, texts, token_budget=200)
    monkeypatch.undo()
    assert modes(bb.model) == before and not any("forward" in m.__dict__ for m in bb.model.modules())
    assert np.array_equal(embed(bb, texts), embed(minilm, texts))


def test_weights_are_read_anew_each_time(minilm):
    bb = copy.deepcopy(minilm)
    first = embed(bb, ["good film"])
    with torch.no_grad(): bb.model.encoder.layer[5].output.dense.weight.mul_(1.5)
    assert np.abs(embed(bb, ["good film"]) - first).max() > 1e-3


# ---- embed: bad items

@pytest.mark.parametrize("item,why", [("", "empty text"), (" \n", "empty text"), (None, "NoneType"), (3, "int"),
                                      (float("nan"), "float"), (b"bytes", "bytes"), (np.zeros((4, 4, 3), np.uint8), "images")])
def test_bad_text_is_named(minilm, item, why):
    with pytest.raises(FeatureError) as e: embed(minilm, ["good film", item, "bad film"])
    assert "Item 1 of 3" in str(e.value) and why in str(e.value)
    features, skipped = embed(minilm, ["good film", item, "bad film"], on_error="skip")
    assert np.abs(features - embed(minilm, ["good film", "bad film"])).max() < 1e-5
    assert [i for i, _ in skipped] == [1] and why in skipped[0][1]


def bad_images(tmp_path):
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(whole, "JPEG")
    cut, text, missing = tmp_path / "cut.jpg", tmp_path / "text.png", tmp_path / "missing.png"
    cut.write_bytes(whole.getvalue()[:600])
    text.write_text("no image")
    return [cut, text, missing, "a review of a film", None]


@pytest.mark.parametrize("which,why", list(enumerate(["cut.jpg", "text.png", "missing.png", "is a text", "NoneType"])))
def test_bad_image_is_named(lite0, pictures, tmp_path, which, why):
    items = [pictures[0], bad_images(tmp_path)[which], pictures[1]]
    with pytest.raises(FeatureError, match=why) as e: embed(lite0, items)
    assert "Item 1 of 3" in str(e.value)
    features, skipped = embed(lite0, items, on_error="skip")
    assert features.shape == (2, 1280) and np.isfinite(features).all() and skipped[0][0] == 1
    assert np.abs(features - embed(lite0, pictures[:2])).max() < 1e-5


def test_a_whole_batch_of_bad_images(lite0, pictures, tmp_path):
    bad = bad_images(tmp_path)[:2]
    features, skipped = embed(lite0, bad + pictures + bad, on_error="skip", batch_size=2)
    assert len(features) == 5 and [i for i, _ in skipped] == [0, 1, 7, 8]
    with pytest.raises(FeatureError, match="None of the 2"): embed(lite0, bad, on_error="skip")


def test_images_broken_off_are_closed_without_waiting_for_a_thread(lite0, pictures):
    "The collector may close them while a thread starts, which keeps every other thread from ending: waiting would hang."
    batches, go, closed = E._image_batches(lite0, pictures, [], 2), threading.Event(), threading.Event()
    closer = threading.Thread(target=lambda: (go.wait(), batches.close(), closed.set()))
    next(batches), closer.start()
    with threading._active_limbo_lock:
        go.set()
        assert closed.wait(10)
    closer.join()


@pytest.mark.parametrize("kw", [dict(pooling="sum"), dict(precision="fp16"), dict(on_error="ignore"), dict(max_length=0),
                                dict(batch_size=-1), dict(token_budget=1.5)])
def test_wrong_parameters(minilm, kw):
    with pytest.raises(FeatureError, match=str(list(kw)[0])): embed(minilm, ["good film"], **kw)


def test_one_item_in_place_of_a_list(minilm, lite0, pictures):
    with pytest.raises(FeatureError, match="brackets"): embed(minilm, "good film")
    with pytest.raises(FeatureError, match="brackets"): embed(lite0, Image.fromarray(pictures[0]))


def test_no_class_token(lite0, pictures):
    with pytest.raises(FeatureError, match="class token"): embed(lite0, pictures, pooling="cls")


def test_long_texts_are_cut_and_it_is_said_once(minilm, caplog):
    long = " ".join(["film"] * 400)
    with caplog.at_level("WARNING", logger="tl_nb"): a = embed(minilm, ["good film", long, long])
    assert [r.getMessage() for r in caplog.records] == ["2 of 3 texts have more than 256 tokens; what comes after is not read."]
    assert np.abs(a[1] - embed(minilm, [" ".join(["film"] * 254)])[0]).max() < 1e-5
    caplog.clear()
    assert np.abs(embed(minilm, [long], max_length=10) - embed(minilm, [" ".join(["film"] * 8)])).max() < 1e-5


# ---- prototype

def crops(n, seed=0, size=80):
    "Crops of two photographs, grass and gravel."
    rng, photos = np.random.default_rng(seed), fetch("skimage-photos")
    items, labels = [], []
    for name in ("grass", "gravel"):
        photo = np.asarray(Image.open(photos / f"{name}.png").convert("L"))
        for y, x in rng.integers(0, 512 - size, (n // 2, 2)):
            items.append(photo[y:y + size, x:x + size])
            labels.append(name)
    return items, labels


@pytest.fixture(scope="module")
def textures():
    start = time.perf_counter()
    return prototype(*crops(240)), time.perf_counter() - start


def test_two_classes_of_photographs(textures):
    p, seconds = textures
    assert p.score >= 0.90 and seconds < 60
    assert p.classes == ["grass", "gravel"] and p.n_items == 240 and p.interval.low <= p.score <= p.interval.high
    assert set(p.scores) == {"transfer", "raw pixels", "majority"} and len(p.scores["transfer"]) == 10
    assert abs(p.scores["majority"].mean() - 0.5) < 0.01


def test_predict_new_photographs(textures):
    items, labels = crops(40, seed=9)
    p = textures[0]
    assert np.mean([a == b for a, b in zip(p.predict(items), labels)]) >= 0.90
    probability = p.predict_proba(items)
    assert probability.shape == (40, 2) and np.allclose(probability.sum(1), 1)
    assert [p.classes[i] for i in probability.argmax(1)] == p.predict(items)
    assert p.predict([]) == [] and p.predict_proba([]).shape == (0, 2)


def test_summary(textures):
    p = textures[0]
    for shown in (repr(p), p._repr_html_()):
        assert "grass" in shown and "raw pixels" in shown and f"{p.score:.3f}" in shown and p.verdict().split("(")[0] in shown


@pytest.fixture(scope="module")
def reviews(): return load_data("sentiment-movie").train.few_shot(40, seed=1)


def test_texts_from_list_csv_folder_and_dataset_agree(reviews, minilm, tmp_path):
    import pandas as pd

    kw = dict(backbone=minilm, folds=3, repeats=1)
    p = prototype(reviews, **kw)
    assert isinstance(p, Prototype) and set(p.scores) == {"transfer", "TF-IDF", "majority"}
    q = prototype(reviews.items, reviews.label_names, **kw)
    assert np.array_equal(p.scores["transfer"], q.scores["transfer"])
    pd.DataFrame({"review": reviews.items, "stars": reviews.label_names}).to_csv(tmp_path / "r.csv", index=False)
    r = prototype(tmp_path / "r.csv", text="review", label="stars", **kw)
    assert np.array_equal(p.scores["TF-IDF"], r.scores["TF-IDF"])
    for i, (text, label) in enumerate(zip(reviews.items, reviews.label_names)):
        (tmp_path / "f" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "f" / label / f"{i:03}.txt").write_text(text)
    s = prototype(str(tmp_path / "f"), **kw)
    assert s.n_items == 80 and s.classes == p.classes and set(s.predict(["good", "bad"])) <= set(p.classes)


def test_labels_come_back_as_they_were_given(reviews, minilm):
    p = prototype(reviews.items, [7 if y else 3 for y in reviews.labels], backbone=minilm, folds=2, repeats=1)
    assert p.classes == [3, 7] and all(type(y) is int for y in p.predict(["good film", "bad film"]))


def test_same_seed_same_scores(reviews, minilm):
    a, b, c = (prototype(reviews, backbone=minilm, folds=3, repeats=1, seed=s) for s in (1, 1, 2))
    assert all(np.array_equal(a.scores[k], b.scores[k]) for k in a.scores)
    assert not np.array_equal(a.scores["TF-IDF"], c.scores["TF-IDF"])


def test_stage_and_pooling_are_used_for_predicting(reviews, minilm):
    p = prototype(reviews, backbone=minilm, stage=[1, 3], pooling="max", folds=2, repeats=1)
    assert p.head.n_features_in_ == 768 and len(p.predict(["good film"])) == 1


def test_shuffled_labels_are_at_chance(minilm):
    "Nothing leaks: with labels that mean nothing the score is that of a coin."
    data = load_data("sentiment-movie").train.few_shot(100, seed=3)
    labels = np.random.default_rng(0).permutation(data.label_names)
    p = prototype(data.items, labels, backbone=minilm)
    assert 0.38 < p.score < 0.62 and not p.comparison.clear


def test_groups_stay_together(minilm):
    "Items repeated within a group: split by item they are recognised, split by group they are not."
    rng = np.random.default_rng(0)
    sentences = [" ".join(rng.choice(WORDS, 12)) for _ in range(24)]
    labels = rng.permutation([0, 1] * 12)
    items, y, g = [], [], []
    for i, (s, label) in enumerate(zip(sentences, labels)):
        for tail in ("", " .", " !", " ?"): items.append(s + tail); y.append(label); g.append(i)
    leaky = prototype(items, y, backbone=minilm, folds=4)
    fair = prototype(Dataset(items, y, [0, 1], groups=np.array(g)), backbone=minilm, folds=4)
    assert leaky.score > 0.9 and fair.score < 0.75


def test_honest_when_transfer_loses():
    p = prototype(load_data("uci-digits").train.few_shot(20, seed=0), folds=4, repeats=1)
    assert p.score < p.baseline and p.reference == "raw pixels"
    assert "loses to raw pixels" in p.verdict() or "chance" in p.verdict()


def made_up(transfer, other):
    return Prototype(None, ["a", "b"], None, {"transfer": np.array(transfer), "TF-IDF": np.array(other),
                                               "majority": np.full(len(other), 0.5)}, "TF-IDF", 5, 50, 1.0)


def test_verdicts():
    assert "Transfer beats TF-IDF" in made_up([.9, .91, .9, .92, .9], [.7, .71, .72, .7, .71]).verdict()
    assert "Transfer loses to TF-IDF" in made_up([.7, .71, .72, .7, .71], [.9, .91, .9, .92, .9]).verdict()
    assert "chance" in made_up([.7, .9, .6, .8, .7], [.8, .7, .7, .7, .8]).verdict()


def test_skipped_images_are_reported(lite0, tmp_path):
    items, labels = crops(16)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n")
    kw = dict(backbone=lite0, folds=2, repeats=1)
    with pytest.raises(ValueError, match="broken.png"): prototype(items + [broken], labels + ["grass"], **kw)
    p = prototype(items + [broken], labels + ["grass"], on_error="skip", **kw)
    assert p.n_items == 16 and len(p.skipped) == 1 and "1 skipped" in repr(p)


@pytest.mark.parametrize("items,labels,why", [
    (["a", "b", "c"], [0, 1], "3 items and 2 labels"),
    (["a", "b", "c"], None, "needs labels"),
    (["a", "b", "c"], ["x", "x", "x"], "one class"),
    (["a", "b", "c"], ["x", "x", "y"], "one item of y"),
    ([], [], "no items|empty|None"),
    (["a", "b", "c", "d"], ["x", "x", "", "y"], "label"),
    ("a text", None, "no folder or file"),
    ("long text " * 999, None, "Expected is the path"),
    ("", None, "no folder or file"),
    (["same"] * 3 + ["other"] * 3, [0] * 3 + [1] * 3, "identical"),
])
def test_unusable_data(items, labels, why):
    with pytest.raises(ValueError, match=why): prototype(items, labels)


def test_unlabelled_or_empty_folder(tmp_path):
    with pytest.raises(DataError): prototype(tmp_path)
    (tmp_path / "a.txt").write_text("a text without a class")
    with pytest.raises(DataError): prototype(tmp_path)


def test_wrong_backbone_and_parameters(reviews, lite0):
    with pytest.raises(ValueError, match="image"): prototype(reviews, backbone="efficientnet-lite0")
    with pytest.raises(ValueError, match="image|text"): prototype(reviews, backbone=lite0)
    with pytest.raises(FeatureError, match="folds"): prototype(reviews, folds=1)
    with pytest.raises(FeatureError, match="only for a folder"): prototype(reviews, text="review")


def test_small_classes_work(minilm):
    p = prototype(["good film", "good plot", "bad film", "bad plot"], [1, 1, 0, 0], backbone=minilm)
    assert p.folds == 2 and len(p.predict(["bad"])) == 1
    assert repr(p) and p.too_few


# ---- prototype: copies, and too few items

def made_up_embed(backbone, items, on_error="raise", **kw):
    "Features that depend on the item alone, and mean nothing."
    seeds = [sum(ord(c) * 31 ** i for i, c in enumerate(str(item))) % 2 ** 32 for item in getattr(items, "items", items)]
    X = np.stack([np.random.default_rng(s).normal(size=24) for s in seeds])
    return (X, []) if on_error == "skip" else X


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(F, "embed", made_up_embed)
    monkeypatch.setattr(F, "C_GRID", (1.0,))


def sentences(rng, n): return [" ".join(rng.choice(WORDS, 8)) for _ in range(n)]


def test_copies_stay_on_one_side(quick, minilm):
    "Random labels score at chance, however often each item is there."
    found = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        a, y = sentences(rng, 15), rng.permutation([0, 1] * 7 + [0]).tolist()
        p = prototype(a * 4, y * 4, backbone=minilm)
        assert p.n_units == 15 and not (p.comparison.clear and p.comparison.difference.mean > 0)
        found.append(p.score)
    assert 0.3 < np.mean(found) < 0.6


def test_units_in_every_fold():
    "Copies and groups are linked: outer and inner folds never part them."
    rng = np.random.default_rng(0)
    items, groups = [f"t{i}" for i in rng.integers(0, 40, 120)], rng.integers(0, 90, 120)
    data = Dataset(items, rng.integers(0, 2, 120), ["a", "b"], groups=groups)
    units = F._together(data)
    for i in range(120):
        for j in range(i):
            if items[i] == items[j] or groups[i] == groups[j]: assert units[i] == units[j]
    alone = Dataset(["a", "b", "a", "c", "d"], [0, 1, 0, 1, 0], ["x", "y"], groups=[0, 1, 2, 2, 3])
    assert len(set(F._together(alone))) == 3
    copies = np.repeat(np.arange(20), 3)
    for n in (3, 5):
        for train, test in F._folds(np.repeat([0, 1], 30), copies, n, 0): assert not set(copies[train]) & set(copies[test])


def test_four_items_cannot_tell(minilm):
    p = prototype(["good", "nice", "bad", "awful"], [0, 0, 1, 1], backbone=minilm)
    assert p.too_few and not p.comparison.clear and "Too few labelled items" in p.verdict()
    for shown in (repr(p), p._repr_html_()): assert "beats TF-IDF (" not in shown and "[" not in shown
    assert (p.interval.low, p.interval.high) == (0, 1)


def test_folds_that_are_dealt_again_are_dropped():
    outer, n = F._outer(np.array([0, 0, 1, 1]), np.arange(4), 5, 50, 0)
    assert n == 2 and len(outer) == 4  # there are two ways to deal them


def test_scores_without_variance_show_no_point_interval():
    p = made_up([1.0] * 5, [0.5] * 5)
    assert not p.too_few and "[" not in f"{p._lines()[0][1]} {p.verdict()}" and "Transfer beats" in p.verdict()
    p.n_units = 20
    assert p.too_few and "Too few" in p.verdict() and not p.comparison.clear


@pytest.mark.parametrize("k", [2, 3, 5, 6, 8])
def test_random_labels_are_rarely_clear(quick, minilm, k):
    clear = 0
    for draw in range(40):
        rng = np.random.default_rng(100 * k + draw)
        p = prototype(sentences(rng, 2 * k), rng.permutation(np.repeat([0, 1], k)), backbone=minilm)
        clear += p.comparison.clear
        assert p.comparison.clear == p.verdict().startswith("Transfer ")
    assert clear <= 2


@pytest.mark.parametrize("items", [list("😀😃😄😡😠👿"), list("abcxyz")])
def test_texts_without_a_word(items, minilm):
    p = prototype(items, [0, 0, 0, 1, 1, 1], backbone=minilm)
    assert "TF-IDF" in p.scores and len(p.predict(items)) == 6


def test_predict_can_skip(minilm):
    p = prototype(["good film", "good plot", "bad film", "bad plot"], [1, 1, 0, 0], backbone=minilm)
    labels, bad = p.predict(["good film", ""], on_error="skip")
    assert labels == [1] and bad == [(1, "is an empty text")]
    probability, bad = p.predict_proba(["", "good film"], on_error="skip")
    assert probability.shape == (1, 2) and bad[0][0] == 0
    assert p.predict([], on_error="skip") == ([], [])
    with pytest.raises(FeatureError, match="Item 1 of 2"): p.predict(["good film", ""])


def test_prototype_refuses_an_unknown_on_error(minilm):
    with pytest.raises(FeatureError, match="on_error"): prototype(["a", "b"] * 3, [0, 1] * 3, on_error="ignore")


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_constant_images(lite0):
    p = prototype([np.zeros((20 + i, 20, 3), np.uint8) for i in range(12)], [0, 1] * 6, backbone=lite0)
    assert "raw pixels" in p.scores


def test_a_lone_surrogate_is_named(minilm):
    with pytest.raises(FeatureError, match="Item 1 of 2 has half of a character"): embed(minilm, ["a", "\ud800 a"])


def test_no_stage_at_all(minilm):
    with pytest.raises(FeatureError, match="one stage or more"): embed(minilm, ["a"], stage=[])
    with pytest.raises(FeatureError, match="a list"): embed_stages(minilm, ["a"], -1)


def test_a_model_in_half_precision_is_left_so(minilm):
    half = copy.deepcopy(minilm)
    half.model.half()
    assert np.abs(embed(half, ["good film"]) - embed(minilm, ["good film"])).max() < 0.01
    assert all(p.dtype == torch.float16 for p in half.model.parameters())


def test_a_thin_image_is_refused(lite0, pictures):
    with pytest.raises(FeatureError, match="Item 1 of 2 is an image of 20000 x 1 pixels"):
        embed(lite0, [pictures[0], np.zeros((1, 20000, 3), np.uint8)])
    assert np.isfinite(embed(lite0, [np.zeros((2, 200, 3), np.uint8)])).all()


# ---- probe: the choice on validation, the report on test

def noisy(n=120, seed=0, groups=None):
    "Items that are numbers written as texts, two classes, and views: one knows the class, one half knows, one is noise."
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    data = Dataset([f"item {i}" for i in range(n)], y, ["a", "b"], groups=groups)
    signal = lambda s: np.c_[(2 * y - 1) * s, rng.normal(size=(n, 3))] + rng.normal(size=(n, 4)) * 0.5
    return data, {"noise": signal(0), "weak": signal(0.6), "strong": signal(4)}


def test_probe_finds_the_view_that_knows():
    data, views = noisy()
    found = probe(views, data, n=30, seeds=4)
    assert found.chosen == ["strong"] * 4 and list(found.valid) == list(found.test) == list(views)
    assert np.array_equal(found.scores["chosen"], found.test["strong"])
    assert found.test["strong"].min() > 0.9 and 0.3 < found.test["noise"].mean() < 0.7
    c = found.against("noise")
    assert c.clear and c.difference.mean > 0 and (c.a, c.b) == ("chosen", "noise")
    assert found.against().b == "strong" and found.against("weak", "noise").a == "noise"


def test_probe_chooses_by_validation_alone_and_reports_the_test():
    p = Probe({"a": np.array([.9, .5, .7]), "b": np.array([.8, .6, .7])}, {"a": np.array([.1, .2, .3]),
              "b": np.array([.4, .5, .6])}, 0.25)
    assert p.chosen == ["a", "b", "a"]  # of equals, the first
    assert p.scores["chosen"].tolist() == [.1, .5, .3] and "chosen" not in p.test
    table = p.table()
    assert table.loc["a", "chosen"] == "2 of 3" and table.loc["chosen", "test"] == "0.300"
    assert table.loc["b", "test − b"] == "" and table.loc["a", "test − b"].startswith("-0.300 [")
    assert "0.500" in repr(p) and "<table" in p._repr_html_()
    independent = compare(p.scores["chosen"], p.test["b"]).difference
    assert p.against().difference.low < independent.low, "the overlap of the parts makes the interval wider"


def test_probe_is_the_same_for_a_seed_and_trains_all_views_on_the_same_items():
    data, views = noisy()
    a, b = (probe(views | {"twice": views["weak"]}, data, n=20, seeds=[3, 5]) for _ in range(2))
    assert all(np.array_equal(a.test[v], b.test[v]) and np.array_equal(a.valid[v], b.valid[v]) for v in a.test)
    assert np.array_equal(a.test["weak"], a.test["twice"]) and not np.array_equal(a.test["weak"], a.test["strong"])


def test_probe_keeps_groups_together():
    "A view that only knows the group is worth nothing on groups that were not seen; split by item it knows all."
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), 6)
    y = rng.permutation(np.arange(30) % 2)[groups]
    views, items = {"group": np.eye(30)[groups]}, [f"t{i}" for i in range(180)]
    fair = probe(views, Dataset(items, y, ["a", "b"], groups=groups), seeds=4)
    leaky = probe(views, Dataset(items, y, ["a", "b"]), seeds=4)
    assert leaky.test["group"].mean() > 0.95 and fair.test["group"].mean() < 0.65


def test_a_transformer_learns_from_training_items_only():
    from sklearn.base import BaseEstimator, TransformerMixin
    seen = []

    class Lengths(TransformerMixin, BaseEstimator):
        def fit(self, X, y=None):
            seen.append(list(X))
            return self

        def transform(self, X): return np.array([[len(x), 1.0] for x in X])

    data, views = noisy()
    probe({"lengths": Lengths()}, data, n=25, seeds=[0, 1])
    for items, seed in zip(seen, (0, 1)):
        assert len(items) == 25 and set(items) <= set(data.split(0.2, 0.2, seed).train.items)


def test_each_class_is_drawn():
    y = np.r_[np.zeros(200, int), [1, 2]]
    for seed in range(20):
        at = F._drawn(y, np.arange(202), 5, seed)
        assert len(at) == len(set(at.tolist())) == 5 and set(y[at]) == {0, 1, 2}
    assert sorted(F._drawn(y, np.arange(202), None, 0)) == list(range(202))


@pytest.mark.parametrize("views,n,why", [
    ({}, None, "at least one"), ({"chosen": np.ones((120, 2))}, None, "may be called 'chosen'"),
    ({"a": np.ones((7, 2))}, None, "'a' has 7 rows, and there are 120"), ({"a": "text"}, None, "'a' has 0 rows"),
    ({"a": np.where(np.arange(240).reshape(120, 2) == 5, np.nan, 1.0)}, None, "not finite, first in row 2"),
    ({"a": np.ones((120, 2))}, 1, "n = 1: from 2"), ({"a": np.ones((120, 2))}, 99, "up to the 72 items"),
])
def test_probe_refuses(views, n, why):
    with pytest.raises(FeatureError, match=why): probe(views, noisy()[0], n=n, seeds=2)


def test_probe_stages_is_probe_of_all_stages_and_uses_the_store(minilm, reviews, tmp_path):
    from tl_nb.features import FeatureStore
    store, kw = FeatureStore(tmp_path), dict(seeds=[1], n=20)
    a = probe_stages(minilm, reviews, store=store, **kw)
    assert list(a.test) == [s.name for s in minilm.body]
    passed = []
    hook = minilm.model.register_forward_hook(lambda *_: passed.append(1))
    try: b = probe_stages(minilm, reviews, store=store, **kw)
    finally: hook.remove()
    assert not passed and all(np.array_equal(a.test[s], b.test[s]) for s in a.test)
    c = probe_stages(minilm, reviews, stages=[2, -1], **kw)
    assert list(c.test) == ["block 2", "block 6"] and np.array_equal(c.test["block 6"], a.test["block 6"])


def test_probe_plots_a_point_a_seed():
    from matplotlib import pyplot as plt
    ax = Probe({"a": np.ones(3)}, {"a": np.array([.1, .2, .3]), "b": np.array([.4, .5, .6])}, 0.25).plot(label="x")
    mean = next(line for line in ax.lines if line.get_label() == "x")
    assert np.allclose(mean.get_ydata(), [0.2, 0.5]) and [t.get_text() for t in ax.get_xticklabels()] == ["a", "b"]
    assert sum(len(line.get_ydata()) for line in ax.lines if line is not mean) == 6
    plt.close(ax.figure)
