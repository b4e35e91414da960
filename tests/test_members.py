"Members by name: static vectors, networks as estimators, and the three families of the hub profile."
from dataclasses import replace

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

import tl_nb.members as M
from small_models import everything, image_backbone, images, save_text, texts
from tl_nb.backbones import BackboneError, load_backbone
from tl_nb.calibration import calibrate
from tl_nb.embedding import FeatureError
from tl_nb.ensemble import Ensemble, Stack, average, predictions, soup
from tl_nb.finetune import text_learner
from tl_nb.members import FineTuned, StaticVectors, member, members
from tl_nb.settings import load_settings, settings
from tl_nb.splits import Dataset

FAMILIES = ("bert", "xlnet", "roberta")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    "{family: folder} of small random models, in the hub's own format."
    return {f: str(save_text(f, tmp_path_factory.mktemp("members") / f)) for f in FAMILIES}


@pytest.fixture(scope="module")
def bert(folders): return load_backbone(folders["bert"])


QUICK = dict(epochs=1, seed=0)


# --- static vectors ---------------------------------------------------------------------------------------------------

def test_a_static_vector_is_the_mean_of_its_tokens(cache):
    matrix, tokenizer = M._table("wordllama")
    found = StaticVectors().fit_transform(["a good film", "good"])
    for row, text in zip(found, ["a good film", "good"]):
        mean = np.mean([matrix[i] for i in tokenizer.encode(text, add_special_tokens=False).ids], axis=0)
        assert np.allclose(row, mean / np.linalg.norm(mean), atol=1e-6)
    assert found.dtype == np.float32 and list(StaticVectors().get_feature_names_out())[-1] == f"staticvectors{found.shape[1] - 1}"


def test_static_vectors_know_no_order_and_no_neighbours(cache):
    one, two = StaticVectors().transform(["man bites dog", "dog bites man"])
    assert np.allclose(one, two, atol=1e-6)
    many = StaticVectors().transform(["man bites dog", "another text that is much longer than the first"])
    assert np.allclose(many[0], one, atol=1e-6) and StaticVectors().transform([]).shape == (0, len(one))


@pytest.mark.parametrize("bad, says", [(["good", ""], "Item 1 of 2 is an empty"), ([3], "is a int"), ([], "no texts"), ("good", "list")])
def test_what_is_no_text_is_named(bad, says):
    with pytest.raises(FeatureError, match=says): StaticVectors().fit(bad)


def test_static_vectors_take_arrays_and_columns(cache):
    import pandas as pd

    items = ["good", "bad"]
    plain = StaticVectors().transform(items)
    for same in (np.array(items), np.array(items, dtype=object), pd.Series(items), pd.DataFrame({"text": items})):
        assert (StaticVectors().transform(same) == plain).all()


# --- a network as an estimator ----------------------------------------------------------------------------------------

@parametrize_with_checks([StaticVectors(), FineTuned()])
def test_scikit_learn_accepts_it(estimator, check): check(estimator)


def test_it_is_what_the_learner_does(bert):
    data = texts()
    found = FineTuned(bert, **QUICK).fit(data.items, data.label_names)
    learn = text_learner(bert, replace(data, splits={}), data[:16], seed=0).probe()
    learn.freeze_to(0)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1, 1e-4)
    assert np.allclose(found.predict_proba(data.items), learn.predict_proba(data, progress=False), atol=1e-6)
    assert list(found.classes_) == ["cold", "warm"] and found.predict(data.items[:2]).tolist() in (
        [a, b] for a in found.classes_ for b in found.classes_)


def test_fitting_leaves_the_backbone_and_repeats(bert):
    data, before = texts(), everything(bert.model)
    one = FineTuned(bert, **QUICK).fit(data.items, data.label_names)
    two = clone(one).fit(np.array(data.items, dtype=object), np.array(data.label_names))
    assert two.backbone is bert and (one.predict_proba(data.items) == two.predict_proba(data.items)).all()
    assert all((before[k] == v).all() for k, v in everything(bert.model).items())
    assert not np.allclose(one.predict_proba(data.items), FineTuned(bert, epochs=0, seed=0).fit(
        data.items, data.label_names).predict_proba(data.items), atol=1e-4), "training changes something"


def test_it_takes_images():
    data = images()
    found = FineTuned(image_backbone("resnet18"), epochs=1, lr=1e-3, bs=4, seed=0).fit(data.items, data.label_names)
    assert found.predict_proba(data.items[:3]).shape == (3, 2)


@pytest.mark.parametrize("items, labels, says", [(["a", "b"], ["x", "x"], "more than one class"), (["a", ""], ["x", "y"], "empty"),
                                                 (["a"], ["x", "y"], "1 items and 2 labels"), ([], [], "more than one class")])
def test_bad_items_for_a_network(bert, items, labels, says):
    with pytest.raises(ValueError, match=says): FineTuned(bert, **QUICK).fit(items, labels)


def test_it_says_when_it_is_not_fitted():
    with pytest.raises(NotFittedError): FineTuned().predict(["a"])


def test_a_network_in_a_stack(bert):
    data = texts(36)
    words = make_pipeline(TfidfVectorizer(), LogisticRegression(C=100))
    stack = Stack({"network": FineTuned(bert, **QUICK), "words": words}, cv=2).fit(data.items, data.label_names)
    assert stack.predict(data.items).tolist() == data.label_names and stack.out_of_fold_["network"].shape == (36, 2)


def test_networks_in_a_soup(bert):
    data = texts()
    nets = [FineTuned(bert, epochs=1, seed=s).fit(data.items, data.label_names).learner_ for s in (0, 1)]
    found = soup(nets, "greedy", data.valid)
    assert found.classes == ["cold", "warm"]


# --- names ------------------------------------------------------------------------------------------------------------

def test_three_families_of_the_hub_are_averaged(folders, monkeypatch):
    "The settings' names of profile = hub, trained and averaged by the code of every profile, against a mean by hand."
    hub = load_settings(env={"TL_NB_PROFILE": "hub"})
    assert hub.ensemble == ("bert-base-uncased", "xlnet-base-cased", "roberta-base")
    asked, real = [], load_backbone

    def small(name, kind=None):
        asked.append(name)
        return real(folders[name.split("-")[0]], kind=kind)
    monkeypatch.setattr(M, "load_backbone", small)
    monkeypatch.setattr(M, "settings", hub)
    data = texts(36)
    found = members(data, **QUICK)
    assert list(found) == list(hub.ensemble) and set(asked) == set(hub.ensemble)
    kinds = [type(m.learner_.backbone.model).__name__ for m in found.values()]
    assert kinds == ["BertModel", "XLNetModel", "RobertaModel"]
    rows = [m.learner_.model.predict_proba(data.valid, progress=False).astype(float) for m in found.values()]
    by_hand = (rows[0] + rows[1] + rows[2]) / 3
    assert np.allclose(average(predictions(found, data.valid.items)), by_hand, atol=1e-6)
    assert np.allclose(Ensemble(found).predict_proba(data.valid.items), by_hand, atol=1e-6)
    assert max(abs(a - b).max() for a in rows for b in rows) > 1e-4, "the families differ"


def test_all_kinds_of_names_together(folders, cache):
    data = texts(36)
    found = members(data, [folders["bert"], "wordllama", "tfidf"], **QUICK)
    both = Ensemble(found)
    assert both.classes == ["cold", "warm"] and np.allclose(both.predict_proba(data.valid.items).sum(1), 1)
    stack = Stack(found, cv="prefit").fit(data.valid.items, data.valid.label_names)
    assert set(stack.predict(data.valid.items)) <= {"cold", "warm"}
    assert calibrate(found["tfidf"], data.valid.items, data.valid.label_names).temperature > 0


def test_only_the_training_part_is_seen(cache):
    data = texts(36)
    data.labels[data.splits["valid"]] = 0  # wrong labels where nobody should look
    found = members(data, ["tfidf"])["tfidf"]
    assert found.predict(data.train.items).tolist() == data.train.label_names


def test_few_items_of_a_class_choose_nothing():
    data = Dataset(["a cat", "a dog", "the cat", "one dog"], [0, 1, 0, 1], ["cat", "dog"])
    assert members(data, ["tfidf"])["tfidf"].predict(["cat"]).tolist() == ["cat"]
    assert members(data[[0, 1]], ["tfidf"])["tfidf"][-1].C == 10


@pytest.mark.parametrize("names, says", [([], "one member or more"), (["tfidf", "tfidf"], "each once")])
def test_bad_names(names, says):
    with pytest.raises(FeatureError, match=says): members(texts(), names)


def test_names_are_checked_before_anything_is_trained(folders, monkeypatch):
    monkeypatch.setattr(FineTuned, "fit", lambda *a: pytest.fail("trained too early"))
    with pytest.raises(BackboneError): members(texts(), [folders["bert"], "no-such-network"])
    with pytest.raises(FeatureError, match="for texts, and data holds images"): members(images(), ["tfidf"])


def test_the_settings_name_the_members(monkeypatch):
    monkeypatch.setattr(M, "settings", replace(settings, ensemble=("tfidf",)))
    assert list(members(texts())) == ["tfidf"]
    assert isinstance(member("bert-base-uncased", epochs=2), FineTuned) and member("bert-base-uncased", epochs=2).epochs == 2
