"Classifiers: what they leave alone, what is saved comes back in a new process, LoRA and BitFit, and raw items in order."
import copy
import json
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import tl_nb.classifier as C
from small_models import IMAGE, TEXT, everything, images, save_text, small_backbones, texts, tokenizer
from tl_nb.backbones import BackboneError, freeze, is_frozen, load_backbone
from tl_nb.classifier import Classifier, ClassifierError, random_twin
from tl_nb.embedding import FeatureError, embed

WAYS = [(f, p) for f in TEXT for p in ("mean", "cls", "max", "native")] + [(f, "native") for f in IMAGE]
WAYS += [("hf-vit", "mean"), ("hf-vit", "native"), ("hf-vit", "cls"), ("hf-resnet", "mean"), ("hf-resnet", "native")]
ONE_EACH = [(f, p) for f, p in WAYS if p in ("mean", "native")]


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    return small_backbones(tmp_path_factory.mktemp("backbones"))


def data_for(backbone): return texts() if backbone.kind == "text" else images(6)


def stirred(backbone, pooling="mean", method=None, classes=("cold", "warm")):
    "A classifier whose open parameters have moved, as if by training."
    torch.manual_seed(1)
    found = Classifier(backbone, classes, pooling=pooling)
    if method: found.parameter_efficient(method)
    with torch.no_grad():
        for p in found.parameters():
            if p.requires_grad: p.add_(torch.randn_like(p) * 0.05)
    return found.eval()


def batch_of(backbone):
    items = data_for(backbone).items[:5]
    if backbone.kind == "text": return backbone.collate(backbone.tokenize(items).ids)
    return torch.stack([backbone.transform(Image.fromarray(x)) for x in items])


def logits(classifier, inputs):
    with torch.no_grad(): return classifier.eval()(inputs)


# ---- what is built

@pytest.mark.parametrize("family,pooling", WAYS)
def test_logits_of_a_batch(backbones, family, pooling):
    classifier = stirred(backbones[family], pooling, classes=["a", "b", "c"])
    found = logits(classifier, batch_of(backbones[family]))
    assert found.shape == (5, 3) and found.dtype == torch.float32 and found.isfinite().all()


@pytest.mark.parametrize("method", [None, "bitfit", "lora"])
@pytest.mark.parametrize("family,pooling", ONE_EACH)
def test_every_parameter_is_in_exactly_one_stage(backbones, family, pooling, method):
    classifier = stirred(backbones[family], pooling, method)
    held = [id(p) for s in classifier.stages for p in s.parameters()]
    assert len(held) == len(set(held)) and set(held) == {id(p) for p in classifier.parameters()}
    leaves = [id(m) for s in classifier.stages for t in s.modules.values() for m in t.modules() if not list(m.children())]
    plain = classifier.net.get_base_model() if classifier.adapted else classifier.net
    assert len(leaves) == len(set(leaves)) and {id(m) for m in plain.modules() if not list(m.children())} == set(leaves)
    assert classifier.stages[-1].name == "head" and all(s.parameters() for s in classifier.stages)


@pytest.mark.parametrize("family,pooling", ONE_EACH)
def test_the_backbone_stays_as_it_is_and_its_weights_are_taken(backbones, family, pooling):
    bb = copy.deepcopy(backbones[family])
    before, modes = everything(bb.model), [m.training for m in bb.model.modules()]
    freeze(bb)
    classifier = Classifier(bb, ["a", "b"], pooling=pooling)
    assert is_frozen(bb) and not any(is_frozen(s) for s in classifier.stages)
    assert all(p.requires_grad for p in classifier.parameters())
    classifier.train()
    assert all(m.training for m in classifier.modules())
    own = everything(classifier.backbone.model)
    both = [k for k in before if k in own and before[k].shape == own[k].shape and not k.startswith(("head", "fc", "classifier"))]
    assert len(both) > 5 and all(torch.equal(before[k], own[k]) for k in both)
    with torch.no_grad():
        for p in classifier.parameters(): p.add_(1)
    assert all(torch.equal(before[k], v) for k, v in everything(bb.model).items())
    assert [m.training for m in bb.model.modules()] == modes and is_frozen(bb)


@pytest.mark.parametrize("family,pooling", [w for w in WAYS if w[0] in TEXT])
def test_a_prediction_does_not_depend_on_the_batch(backbones, family, pooling):
    bb = backbones[family]
    classifier = stirred(bb, pooling)
    alone = logits(classifier, bb.collate(bb.tokenize(["cat dog"]).ids))
    among = logits(classifier, bb.collate(bb.tokenize(["the mat " * 8, "cat dog"]).ids))[1:]
    assert (alone - among).abs().max() < 1e-5


@pytest.mark.parametrize("family,pooling", [("bert", "mean"), ("bert", "cls"), ("distilbert", "max"), ("hf-vit", "mean")])
def test_head_sees_what_embed_gives(backbones, family, pooling):
    bb = backbones[family]
    items = data_for(bb).items
    found = Classifier(bb, ["a", "b"], pooling=pooling).features(items)
    assert np.abs(found - embed(bb, items, pooling=pooling)).max() < 1e-5


@pytest.mark.parametrize("family,pooling", ONE_EACH)
def test_features_are_what_enters_the_last_layer(backbones, family, pooling):
    classifier, items = stirred(backbones[family], pooling), data_for(backbones[family]).items
    last = classifier.last_layer
    with torch.no_grad(): rebuilt = last(torch.as_tensor(classifier.features(items))).softmax(1).numpy()
    assert np.abs(rebuilt - classifier.predict_proba(items)).max() < 1e-5
    assert not last._forward_pre_hooks


def test_dropout_reaches_every_head(backbones):
    "Each family has its own name for the dropout before the last layer."
    for family in TEXT:
        classifier = Classifier(backbones[family], ["a", "b"], pooling="native", dropout=0.77)
        rates = [m.p for s in classifier.stages[-1:] for t in s.modules.values() for m in t.modules() if isinstance(m, nn.Dropout)]
        assert 0.77 in rates, (family, rates)


def test_native_keeps_what_half_precision_would_lose(tmp_path):
    "A backbone saved in half precision and trained in fp32 since: its weights are not rounded."
    TEXT["bert"][0](TEXT["bert"][1]).half().save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    bb = load_backbone(tmp_path)
    with torch.no_grad(): bb.model.encoder.layer[0].output.dense.weight.add_(1e-5)
    net = Classifier(bb, ["a", "b"], pooling="native").backbone.model
    assert torch.equal(net.encoder.layer[0].output.dense.weight, bb.model.encoder.layer[0].output.dense.weight)


@pytest.mark.parametrize("classes", [["a"], [], ["1", 1], ["a", "a"]])
def test_classes_that_cannot_be(backbones, classes):
    with pytest.raises(ClassifierError, match="classes"): Classifier(backbones["bert"], classes)


@pytest.mark.parametrize("family,allowed", [("bert", "native"), ("resnet18", "native")])
def test_unknown_pooling(backbones, family, allowed):
    with pytest.raises(ClassifierError, match=allowed): Classifier(backbones[family], ["a", "b"], pooling="median")


def test_class_token_that_is_not_there(tmp_path):
    save_text("bert", tmp_path)
    plain = tokenizer()
    plain.cls_token = None
    plain.save_pretrained(tmp_path)
    with pytest.raises(ClassifierError, match="class token"): Classifier(tmp_path, ["a", "b"], pooling="cls")


@pytest.mark.parametrize("family", [*TEXT, *IMAGE, "hf-vit", "hf-resnet"])
def test_random_twin(backbones, family):
    bb = backbones[family]
    first, again, other = random_twin(bb, 1), random_twin(bb, 1), random_twin(bb, 2)
    assert first.fingerprint == again.fingerprint != other.fingerprint != bb.fingerprint
    shapes = lambda b: {k: v.shape for k, v in b.model.state_dict().items()}
    assert shapes(first) == shapes(bb) and [s.name for s in first.stages] == [s.name for s in bb.stages]
    assert first.max_length == bb.max_length and not first.model.training


# ---- freezing

@pytest.mark.parametrize("method", [None, "bitfit", "lora"])
@pytest.mark.parametrize("family,pooling", [("bert", "mean"), ("roberta", "native"), ("resnet18", "native"),
                                            ("efficientnet_lite0", "native"), ("convnext_atto", "native")])
def test_freezing_and_opening_come_back_to_the_same(backbones, family, pooling, method):
    classifier = stirred(backbones[family], pooling, method).train()
    picture = lambda: ([(n, p.requires_grad) for n, p in classifier.named_parameters()], [m.training for m in classifier.modules()])
    start, n = picture(), len(classifier.stages)
    for steps in ([-1, 0], [1, 2, -1, 0], [-1, -1, 1, 0], [n - 1, 0]):
        for k in steps: classifier.freeze_to(k).train()
        assert picture() == start, steps
    opened = {n for n, p in classifier.named_parameters() if p.requires_grad}
    for k in range(n):
        classifier.freeze_to(k)
        now = {n for n, p in classifier.named_parameters() if p.requires_grad}
        assert now <= opened and [is_frozen(s) for s in classifier.stages[:k]] == [True] * k
        held = {id(p) for s in classifier.stages[k:] for p in s.parameters()}
        assert now == {n for n, p in classifier.named_parameters() if n in opened and id(p) in held}
    classifier.freeze_to(-1)
    assert classifier.n_trainable == sum(p.numel() for p in classifier.stages[-1].parameters() if p.requires_grad)


@pytest.mark.parametrize("n", [4, 5, -5])
def test_freeze_to_out_of_range(backbones, n):
    with pytest.raises(ClassifierError, match="4 stages"): Classifier(backbones["bert"], ["a", "b"]).freeze_to(n)


# ---- LoRA and BitFit

@pytest.mark.parametrize("method", ["lora", "bitfit"])
@pytest.mark.parametrize("family,pooling", ONE_EACH)
def test_a_method_changes_no_logit_at_first(backbones, family, pooling, method):
    classifier, inputs = stirred(backbones[family], pooling), batch_of(backbones[family])
    before = logits(classifier, inputs)
    assert torch.equal(before, logits(classifier.parameter_efficient(method), inputs))


@pytest.mark.parametrize("family,pooling", ONE_EACH)
def test_lora_opens_thin_matrices_and_the_head_and_nothing_else(backbones, family, pooling):
    from peft.tuners.lora import LoraLayer

    plain = Classifier(backbones[family], ["a", "b"], pooling=pooling)
    head = {id(m) for top in plain.stages[-1].modules.values() for m in top.modules()}
    expected = {n for n, m in plain.net.named_modules() if id(m) not in head
                and (isinstance(m, nn.Linear) or isinstance(m, nn.Conv2d) and m.groups == 1)}
    full = sum(p.numel() for p in plain.stages[-1].parameters())
    classifier = plain.parameter_efficient("lora")
    base = classifier.net.get_base_model()
    assert {n for n, m in base.named_modules() if isinstance(m, LoraLayer)} == expected
    inside = {id(p) for p in classifier.stages[-1].parameters() if p.requires_grad}
    assert sum(p.numel() for p in classifier.stages[-1].parameters() if p.requires_grad) == full
    assert all("lora_" in n for n, p in base.named_parameters() if p.requires_grad and id(p) not in inside)
    assert classifier.last_layer.weight.requires_grad
    with pytest.raises(ClassifierError, match="already"): classifier.parameter_efficient("bitfit")


@pytest.mark.parametrize("family,pooling", ONE_EACH)
def test_bitfit_opens_biases_and_the_head(backbones, family, pooling):
    classifier = stirred(backbones[family], pooling, "bitfit")
    head = {id(p) for p in classifier.stages[-1].parameters()}
    for name, p in classifier.net.named_parameters():
        assert p.requires_grad == (id(p) in head or name.endswith("bias")), name


def test_a_configuration_of_peft_trains_and_keeps_the_head(backbones, tmp_path):
    from peft import LoraConfig

    config = LoraConfig(r=2, target_modules=["query", "value"])
    classifier = stirred(backbones["bert"], method=config)
    assert classifier.last_layer.weight.requires_grad and config.modules_to_save is None  # the caller's stays as it is
    classifier.save_pretrained(tmp_path / "a")
    again, items = Classifier.from_pretrained(tmp_path / "a", backbones["bert"]), texts().items
    assert np.abs(again.predict_proba(items) - classifier.predict_proba(items)).max() < 1e-6


@pytest.mark.parametrize("wrong", ["lorra", 3, {"r": 8}])
def test_unknown_method(backbones, wrong):
    with pytest.raises(ClassifierError, match="bitfit"): Classifier(backbones["bert"], ["a", "b"]).parameter_efficient(wrong)


# ---- raw items

def test_predictions_are_in_the_order_of_the_items(backbones):
    for family in ("bert", "convnext_atto"):
        data = data_for(backbones[family])
        classifier = stirred(backbones[family], "native").train()
        found = classifier.predict_proba(data)
        assert all(m.training for m in classifier.modules()) and found.dtype == np.float32
        one_by_one = np.concatenate([classifier.predict_proba([x]) for x in data.items])
        assert np.abs(found - one_by_one).max() < 1e-5 and np.abs(found.sum(1) - 1).max() < 1e-5
        assert classifier.predict(data) == [classifier.classes[i] for i in found.argmax(1)]
        assert classifier.predict_proba([]).shape == (0, 2) and classifier.predict([]) == []
        assert not any("forward" in m.__dict__ for m in classifier.modules())


@pytest.mark.parametrize("family,bad", [("bert", "  "), ("bert", 7), ("bert", None), ("resnet18", "nowhere.png"), ("resnet18", b"junk")])
def test_a_bad_item_is_named_or_skipped(backbones, family, bad):
    classifier = stirred(backbones[family], "native")
    items = data_for(backbones[family]).items[:4]
    spoilt = [*items[:2], bad, *items[2:]]
    with pytest.raises(FeatureError, match="Item 2 of 5"): classifier.predict(spoilt)
    rows, skipped = classifier.predict_proba(spoilt, on_error="skip")
    assert [i for i, _ in skipped] == [2] and np.abs(rows - classifier.predict_proba(items)).max() < 1e-5
    labels, skipped = classifier.predict(spoilt, on_error="skip")
    assert labels == classifier.predict(items) and [i for i, _ in skipped] == [2]
    rows, skipped = classifier.predict_proba([bad], on_error="skip")
    assert rows.shape == (0, 2) and len(skipped) == 1
    assert not any("forward" in m.__dict__ for m in classifier.modules())


def test_one_text_is_no_list(backbones):
    with pytest.raises(FeatureError, match="brackets"): stirred(backbones["bert"]).predict("the cat")


def test_long_texts_are_cut_and_told(backbones, caplog):
    classifier, long = stirred(backbones["bert"]), " ".join(["cat"] * 60)
    with caplog.at_level(logging.WARNING, "tl_nb"):
        classifier.predict([long])
        classifier.features([long])
        classifier.predict([long], max_length=7)
    assert [[a for a in r.args] for r in caplog.records] == [[1, 1, 40], [1, 1, 40], [1, 1, 7]]
    assert all(r.getMessage() for r in caplog.records)
    short = classifier.predict_proba([long], max_length=5)
    assert np.abs(short - classifier.predict_proba(["cat cat cat"])).max() < 1e-6
    for wrong in (0, "9"):
        with pytest.raises(FeatureError, match="max_length"): classifier.predict([long], max_length=wrong)


# ---- saving, and reading it in a new process

SAVED = [(f, p, m) for f, p in ONE_EACH for m in (None, "lora")]
SAVED += [("bert", "cls", None), ("bert", "max", None), ("xlnet", "cls", "lora"), ("bert", "mean", "bitfit"),
          ("roberta", "native", "merged"), ("bert", "mean", "merged"), ("resnet18", "native", "merged"),
          ("resnet18", "native", "bitfit"), ("hf-vit", "cls", "merged")]
READER = """
import json, socket, sys
def refuse(*args, **kwargs): raise AssertionError("tried the network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import numpy as np
from tl_nb.backbones import load_backbone
from tl_nb.classifier import Classifier
jobs, out, found = json.load(open(sys.argv[1])), sys.argv[2], {}
for name, job in jobs.items():
    try:
        classifier = Classifier.from_pretrained(job["folder"], job["backbone"])
        items = job["texts"] or list(np.load(job["images"]))
        found[name] = [classifier.predict_proba(items).tolist(), classifier.predict(items), classifier.classes,
                       classifier.backbone.max_length, classifier.training, len(classifier.backbone.fingerprint)]
    except Exception as e: found[name] = f"{type(e).__name__}: {e}"
json.dump(found, open(out, "w"))
"""


@pytest.fixture(scope="module")
def reread(backbones, tmp_path_factory):
    "{(family, pooling, method): (classifier, items, its folder, what a new process without network found in it)}"
    root = tmp_path_factory.mktemp("saved")
    jobs, made = {}, {}
    np.save(root / "images.npy", np.stack(images(6).items))
    for family, pooling, method in SAVED:
        bb, name = backbones[family], f"{family}-{pooling}-{method}"
        made[name] = classifier = stirred(bb, pooling, "lora" if method == "merged" else method, [30, 4, 100])
        if bb.kind == "text": classifier.backbone.max_length = 9
        folder = classifier.save_pretrained(root / name, merge=method == "merged")
        (root / f"b-{family}").mkdir(exist_ok=True)
        there = load_from(bb, root / f"b-{family}") if method == "lora" else None
        jobs[name] = dict(folder=str(folder), backbone=there, texts=texts().items if bb.kind == "text" else None,
                          images=str(root / "images.npy"))
    (root / "jobs.json").write_text(json.dumps(jobs))
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", READER, root / "jobs.json", root / "out.json"], check=True, env=env)
    return root, made, json.loads((root / "out.json").read_text())


def load_from(backbone, folder):
    "A folder that holds the backbone, for another process."
    if not (folder / "config.json").exists():
        if backbone.library == "timm":
            import timm

            timm.models.save_for_hf(backbone.model, str(folder), safe_serialization=True)
        else:
            backbone.model.save_pretrained(folder)
            (backbone.processor if backbone.kind == "text" else backbone.processor.processor).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("family,pooling,method", SAVED)
def test_a_new_process_predicts_the_same(reread, family, pooling, method):
    root, made, found = reread
    classifier = made[name := f"{family}-{pooling}-{method}"]
    assert not isinstance(found[name], str), found[name]
    rows, labels, classes, max_length, training, _ = found[name]
    items = texts().items if classifier.backbone.kind == "text" else images(6).items
    assert np.abs(np.array(rows) - classifier.predict_proba(items)).max() <= 1e-6
    assert labels == classifier.predict(items) and classes == [30, 4, 100] and not training
    assert max_length == (9 if classifier.backbone.kind == "text" else None)


def test_plain_transformers_reads_native_folders(reread):
    root, made, _ = reread
    items = texts().items[:4]
    for family in TEXT:
        name = f"{family}-native-None"
        net, info = transformers.AutoModelForSequenceClassification.from_pretrained(root / name, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        inputs = made[name].backbone.collate(made[name].backbone.tokenize(items).ids)
        with torch.no_grad(): theirs = net.eval()(**inputs).logits
        assert (theirs - logits(made[name], inputs)).abs().max() < 1e-5
        assert net.config.id2label == {0: "30", 1: "4", 2: "100"} and net.config.label2id["100"] == 2
    pipe = transformers.pipeline("text-classification", model=str(root / "bert-native-None"), device="cpu")
    assert [found["label"] for found in pipe(items)] == [str(c) for c in made["bert-native-None"].predict(items)]


def test_plain_transformers_reads_images(reread):
    root, made, _ = reread
    for kind in ("vit", "resnet"):
        name = f"hf-{kind}-native-None"
        net = transformers.AutoModelForImageClassification.from_pretrained(root / name)
        x = batch_of(made[name].backbone)
        with torch.no_grad(): assert (net.eval()(pixel_values=x).logits - logits(made[name], x)).abs().max() < 1e-5
        assert list(transformers.AutoImageProcessor.from_pretrained(root / name).image_mean) == [0.2, 0.4, 0.6]


def test_timm_reads_its_folders(reread):
    import timm

    root, made, _ = reread
    for family in IMAGE:
        name = f"{family}-native-None"
        net = timm.create_model(f"local-dir:{root / name}", pretrained=True).eval()
        x = batch_of(made[name].backbone)
        with torch.no_grad(): assert (net(x) - logits(made[name], x)).abs().max() < 1e-5
        assert list(net.pretrained_cfg["label_names"]) == ["30", "4", "100"]


def test_a_pooled_folder_is_a_backbone_and_a_plain_model(reread):
    root, made, _ = reread
    for family in TEXT:
        name = f"{family}-mean-None"
        bb, net = load_backbone(root / name), transformers.AutoModel.from_pretrained(root / name).eval()
        inputs = made[name].backbone.collate(made[name].backbone.tokenize(texts().items[:4]).ids)
        with torch.no_grad(): own = made[name].backbone.model.eval()(**inputs).last_hidden_state
        for other in (bb.model, net):
            with torch.no_grad(): assert (other(**inputs).last_hidden_state - own).abs().max() < 1e-5


def test_an_adapter_is_small(reread):
    root, _, _ = reread
    size = lambda name: sum(f.stat().st_size for f in (root / name).rglob("*.safetensors"))
    assert size("resnet18-native-lora") < size("resnet18-native-None") / 10
    assert not (root / "bert-mean-lora" / "model.safetensors").exists()


def test_merged_equals_unmerged(backbones, tmp_path):
    for family, pooling in (("bert", "native"), ("distilbert", "mean"), ("xlnet", "native"), ("convnext_atto", "native"), ("hf-vit", "native")):
        classifier, items = stirred(backbones[family], pooling, "lora"), data_for(backbones[family]).items
        classifier.save_pretrained(tmp_path / f"{family}-{pooling}", merge=True)
        again = Classifier.from_pretrained(tmp_path / f"{family}-{pooling}")
        assert not again.adapted and classifier.adapted  # saving has not merged the one in memory
        assert np.abs(again.predict_proba(items) - classifier.predict_proba(items)).max() <= 1e-5


def test_an_adapter_on_other_weights_is_refused(backbones, tmp_path):
    stirred(backbones["bert"], method="lora").save_pretrained(tmp_path / "a")
    with pytest.raises(ClassifierError, match="other weights"):
        Classifier.from_pretrained(tmp_path / "a", random_twin(backbones["bert"], 5))
    with pytest.raises(ClassifierError, match="other weights"): Classifier.from_pretrained(tmp_path / "a", backbones["roberta"])
    with pytest.raises((ClassifierError, BackboneError), match="backbone="): Classifier.from_pretrained(tmp_path / "a")


def test_read_again_it_can_go_on(backbones, tmp_path):
    "Saved, read, adapted, saved and read once more: classes and length are kept."
    first = stirred(backbones["bert"])
    first.backbone.max_length = 6
    items = ["the cat sat on the red mat and ran", "a dog"]
    second = Classifier.from_pretrained(first.save_pretrained(tmp_path / "one"))
    second.parameter_efficient("lora")
    assert second.backbone.max_length == 6
    assert np.abs(second.predict_proba(items) - first.predict_proba(items)).max() < 1e-6
    third = Classifier.from_pretrained(second.save_pretrained(tmp_path / "two"), load_backbone(tmp_path / "one"))
    assert np.abs(third.predict_proba(items) - first.predict_proba(items)).max() < 1e-6


@pytest.mark.parametrize("classes", [[2, 0, 1], ["b", "a", "c"], ["10", "9", "x"], np.array([5, 3, 4]), np.array(["u", "t", "ü"])])
def test_classes_keep_type_and_order(backbones, tmp_path, classes):
    classifier = stirred(backbones["bert"], classes=classes)
    found = Classifier.from_pretrained(classifier.save_pretrained(tmp_path / "a")).classes
    assert found == list(classes) and [type(c) for c in found] == [type(c) for c in np.asarray(classes).tolist()]


def test_saving_over_an_earlier_save(backbones, tmp_path):
    stirred(backbones["bert"], "native").save_pretrained(tmp_path / "a")
    second, items = stirred(backbones["resnet18"], "native"), images(4).items
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "a", tmp_path / "empty", tmp_path / "new" / "deep"):
        assert second.save_pretrained(folder) == folder
        assert np.abs(Classifier.from_pretrained(folder).predict_proba(items) - second.predict_proba(items)).max() < 1e-6
    assert not (tmp_path / "a" / "tokenizer.json").exists() and {p.name for p in tmp_path.iterdir()} == {"a", "empty", "new"}


def test_other_files_are_not_harmed(backbones, tmp_path):
    classifier = stirred(backbones["bert"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(ClassifierError, match="mine"): classifier.save_pretrained(tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"] and (tmp_path / "mine" / "thesis.txt").read_text() == "years"
    with pytest.raises(ClassifierError, match="thesis"): classifier.save_pretrained(tmp_path / "mine" / "thesis.txt")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"


def test_files_beside_a_save_are_not_deleted(backbones, tmp_path):
    classifier = stirred(backbones["bert"])
    classifier.save_pretrained(tmp_path / "a")
    (tmp_path / "a" / "notes.txt").write_text("years")
    try: classifier.save_pretrained(tmp_path / "a")
    except ClassifierError as e: assert "notes.txt" in str(e) or "other files" in str(e)
    assert (tmp_path / "a" / "notes.txt").read_text() == "years"


def test_a_save_that_fails_leaves_the_earlier_one(backbones, tmp_path, monkeypatch):
    classifier, items = stirred(backbones["bert"]), texts().items
    classifier.save_pretrained(tmp_path / "a")
    before = {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    monkeypatch.setattr(C, "_save_processor", lambda *args: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"): stirred(backbones["roberta"]).save_pretrained(tmp_path / "a")
    with pytest.raises(OSError): classifier.save_pretrained(tmp_path / "b")
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()} and [p.name for p in tmp_path.iterdir()] == ["a"]


def test_no_folder_and_a_foreign_one(backbones, tmp_path):
    with pytest.raises(ClassifierError, match="no folder"): Classifier.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(ClassifierError, match="tl_nb.json"): Classifier.from_pretrained(save_text("bert", tmp_path / "bare"))


@pytest.mark.parametrize("text", ["{ not json", "[]", "null", '{"format": 99}', '{"format": 1}', "{}", "\xff"])
def test_damaged_description(backbones, tmp_path, text):
    folder = stirred(backbones["bert"]).save_pretrained(tmp_path / "hurt")
    (folder / "tl_nb.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ClassifierError, match="hurt"): Classifier.from_pretrained(folder)


@pytest.mark.parametrize("family,pooling,method,file", [
    ("bert", "mean", None, "head.safetensors"), ("bert", "mean", None, "model.safetensors"), ("bert", "native", None, "model.safetensors"),
    ("bert", "mean", "lora", "adapter_model.safetensors"), ("bert", "mean", "lora", "adapter_config.json"),
    ("resnet18", "native", None, "model.safetensors"), ("resnet18", "native", None, "config.json"), ("bert", "mean", None, "tokenizer.json")])
@pytest.mark.parametrize("harm", ["missing", "half"])
def test_damaged_folder(backbones, tmp_path, family, pooling, method, file, harm):
    folder = stirred(backbones[family], pooling, method).save_pretrained(tmp_path / "hurt")
    data = (folder / file).read_bytes()
    (folder / file).unlink() if harm == "missing" else (folder / file).write_bytes(data[:len(data) // 2])
    with pytest.raises((ClassifierError, BackboneError), match="hurt"):
        Classifier.from_pretrained(folder, backbones[family] if method else None)


@pytest.mark.parametrize("pooling,method,file,key", [("native", None, "model.safetensors", "classifier.weight"),
                                                    ("mean", None, "head.safetensors", "weight"), ("mean", "lora", "adapter_model.safetensors", "head.weight"),
                                                    ("mean", "lora", "adapter_model.safetensors", "lora_B")])
def test_missing_weights_are_not_made_up(backbones, tmp_path, pooling, method, file, key):
    folder = stirred(backbones["bert"], pooling, method).save_pretrained(tmp_path / "hurt")
    weights = load_file(folder / file)
    weights.pop(next(k for k in weights if key in k))
    save_file(weights, folder / file, metadata={"format": "pt"})
    with pytest.raises((ClassifierError, BackboneError), match="hurt"):
        Classifier.from_pretrained(folder, backbones["bert"] if method else None)


def test_classes_that_do_not_fit_the_weights(backbones, tmp_path):
    for family, pooling in (("bert", "mean"), ("bert", "native"), ("resnet18", "native")):
        folder = stirred(backbones[family], pooling).save_pretrained(tmp_path / f"hurt-{family}-{pooling}")
        about = json.loads((folder / "tl_nb.json").read_text())
        (folder / "tl_nb.json").write_text(json.dumps(about | {"classes": ["a", "b", "c"]}))
        with pytest.raises((ClassifierError, BackboneError), match="hurt"): Classifier.from_pretrained(folder)
