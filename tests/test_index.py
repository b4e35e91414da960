"An index that lives: what comes and goes leaves what a new index would be, what is saved comes back, and what was changed is refused."
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

import tl_nb.search as S
from benchmarks import search as bench
from small_models import image_backbone, save_text
from tl_nb.backbones import load_backbone
from tl_nb.ranking import BM25, RankingError, top_k
from tl_nb.search import SearchError, SearchIndex, TunedBackbone, contrastive_tune, nearest
from tl_nb.store import FeatureStore

DOCUMENTS = ["the cat sat on the mat", "a dog ran", "red hat", "blue hat under the mat", "dog and cat", "the red mat", "a blue cat"]
QUERIES = ["cat on mat", "dog", "blue hat", "ran under"]
PAIRS = [("cat red", "the cat sat on red mat"), ("dog blue", "a dog ran under blue hat"), ("hat red", "the hat on red dog")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory): return save_text("bert", tmp_path_factory.mktemp("index") / "bert")


@pytest.fixture(scope="module")
def bert(folder): return load_backbone(folder)


@pytest.fixture
def index(bert): return SearchIndex(DOCUMENTS, bert, mode="hybrid", weight=0.4, progress=False)


def answers(index): return [[(h.id, h.document, round(h.score, 4)) for h in index.search(q, 7, mode)] for q in QUERIES for mode in S.MODES]


# --- exact search -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("k", [1, 2, 10, 63, 999, 1000, 1001, None])
@pytest.mark.parametrize("kind", ["normal", "ties", "constant", "rising"])
def test_the_first_are_those_of_a_stable_sort(kind, k):
    rng = np.random.default_rng(0)
    for n in (1, 7, 1000):
        scores = {"normal": rng.normal(size=n), "ties": rng.integers(0, 5, n), "constant": np.ones(n), "rising": np.arange(n)}[kind].astype(np.float32)
        assert S._first(scores, k).tolist() == np.argsort(-scores, kind="stable")[:k].tolist()


@pytest.mark.parametrize("block", [1, 500, 1 << 22])
def test_nearest_is_a_sort_of_all_products(block):
    rng = np.random.default_rng(1)
    rows, vectors = (rng.normal(size=(n, 16)).astype(np.float32) for n in (9, 400))
    at, products = nearest(rows, vectors, 12, block)
    assert (at == top_k(rows @ vectors.T, 12)).all() and at.shape == products.shape == (9, 12)
    assert np.allclose(products, np.take_along_axis(rows.astype(float) @ vectors.T, at, 1), atol=1e-5)
    assert nearest(rows, vectors, 500)[0].shape == nearest(rows, vectors, None)[0].shape == (9, 400)


@pytest.mark.parametrize("rows,vectors,message", [
    (np.ones(4), np.ones((3, 4)), "are needed"), (np.ones((2, 4)), np.ones((3, 5)), "same d"), (np.ones((2, 4)), np.ones((0, 4)), "none of them 0"),
    (np.full((1, 4), np.nan), np.ones((3, 4)), "not finite")])
def test_nearest_refuses_what_has_no_answer(rows, vectors, message):
    with pytest.raises(SearchError, match=message): nearest(rows, vectors, 1)
    with pytest.raises(RankingError, match="k = 0"): nearest(np.ones((1, 4)), np.ones((3, 4)), 0)


def test_the_benchmark_compares_the_same_work():
    vectors, queries = bench.corpus(3000, queries=16)
    assert vectors.dtype == queries.dtype == np.float32 and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    for rows in (queries, queries[:1]):
        agree, apart = bench.same(nearest(rows, vectors, 10), bench.plain(rows, vectors, 10))
        assert agree and apart < 1e-5
    assert {name: len(found) for name, found in bench.one_by_one(vectors, queries, 10).items()} == {bench.OURS: 6, bench.PLAIN: 6}


# --- what comes and goes ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("first", [1, 3, 6])
def test_adding_gives_the_index_of_all(bert, index, first):
    grown = SearchIndex(DOCUMENTS[:first], bert, mode="hybrid", weight=0.4, progress=False)
    grown.search("cat", 1)  # whatever was computed before must be computed anew
    assert grown.add(DOCUMENTS[first:]) == list(range(first, 7))
    assert np.allclose(grown.vectors, index.vectors, atol=1e-5) and answers(grown) == answers(index)
    assert (grown.bm25.scores(QUERIES) == BM25(DOCUMENTS).scores(QUERIES)).all()


def test_removing_gives_the_index_of_the_rest(bert, index):
    index.search("cat", 1)
    index.remove([0, 5])
    rest = SearchIndex([DOCUMENTS[i] for i in (1, 2, 3, 4, 6)], bert, ids=[1, 2, 3, 4, 6], mode="hybrid", weight=0.4, progress=False)
    assert index.ids == rest.ids and np.allclose(index.vectors, rest.vectors, atol=1e-5) and answers(index) == answers(rest)
    assert [h.position for h in index.search("dog", 2)] != [h.id for h in index.search("dog", 2)]


def test_to_add_and_remove_is_to_do_nothing(index):
    before = answers(index), index.vectors.copy()
    index.remove(index.add(["a hat", "the dog"]))
    assert answers(index) == before[0] and np.array_equal(index.vectors, before[1])


def test_only_new_documents_are_read(bert, index, monkeypatch):
    seen = []
    monkeypatch.setattr(S, "embed", lambda b, items, **how: seen.extend(items) or np.ones((len(items), 32), np.float32))
    index.add(["a hat"])
    index.remove(0)
    assert seen == ["a hat"]


def test_by_words_alone_nothing_is_read(monkeypatch):
    monkeypatch.setattr(S, "load_backbone", lambda *a, **k: pytest.fail("a network was loaded"))
    found = SearchIndex(DOCUMENTS, mode="bm25")
    found.add(["green hat"], ids=["new"])
    found.remove([0, 1])
    assert found.search("green", 1)[0].id == "new" and len(found) == 6


def test_a_store_is_used_for_new_documents(bert, tmp_path):
    store = FeatureStore(tmp_path / "store")
    found = SearchIndex(DOCUMENTS, bert, store=store, progress=False)
    found.add(["a hat"])
    assert store.sizes()["items"].sum() == 8


def test_an_id_is_not_given_twice(index):
    index.remove(6)
    assert index.add(["a hat"]) == [7]
    index.remove([7])
    assert index.add(["a hat", "the hat"], ids=["x", 30]) == ["x", 30] and index.add(["mat"]) == [31]


def test_ids_of_ones_own(bert):
    found = SearchIndex(DOCUMENTS, bert, ids=np.array(list("abcdefg")), progress=False)
    hit = found.search("dog", 1)[0]
    assert found.documents[found.ids.index(hit.id)] == hit.document and type(hit.id) is str
    assert hit.id in repr(found.search("dog", 1)) and f"<td style='text-align:left'>{hit.id}</td>" in found.search("dog", 1)._repr_html_()
    assert SearchIndex(["a"], mode="bm25", ids=np.array([7])).ids == [7]


@pytest.mark.parametrize("act,message", [
    (lambda x: x.add([]), "list is empty"), (lambda x: x.add("a cat"), "brackets"), (lambda x: x.add(["a", ""]), "number 1 of 2"),
    (lambda x: x.add(["a"], ids=[3]), "id 3 is there twice"), (lambda x: x.add(["a", "b"], ids=["n", "n"]), "id 'n' is there twice"),
    (lambda x: x.add(["a"], ids=["n", "m"]), "2 ids for 1"), (lambda x: x.add(["a"], ids=[1.5]), "1.5 is a float"), (lambda x: x.add(["a"], ids="n"), "a list with one id"),
    (lambda x: x.add(["a"], ids=[True]), "bool"), (lambda x: x.add(["a"], ids=[None]), "NoneType"), (lambda x: x.remove([0, 9]), "has the id 9"),
    (lambda x: x.remove("zero"), "has the id 'zero'"), (lambda x: x.remove([["a"]]), "No document has"), (lambda x: x.remove(range(7)), "leave no document")])
def test_what_fails_changes_nothing(index, act, message):
    before = answers(index), list(index.ids), list(index.documents)
    with pytest.raises(SearchError, match=message): act(index)
    assert (answers(index), index.ids, index.documents) == before


def test_duplicate_ids_are_named(bert):
    with pytest.raises(SearchError, match="id 'a' is there twice"): SearchIndex(["x", "y"], bert, ids=["a", "a"])


@pytest.mark.parametrize("text", ["\U0001F600\U0001F680", "die Katze saß auf der Matte", "猫が座った", "кот сидел", "مرحبا", "cat " * 5000, "a\x00b", "[PAD] [UNK]"])
def test_any_text_can_be_searched_and_indexed(bert, index, text, tmp_path):
    new, = index.add([text])
    for mode in S.MODES: assert len(index.search(text, 99, mode)) <= 8
    assert index.search(text, 1, "dense")[0].score > 0.99
    index.save(tmp_path / "x")
    assert SearchIndex.load(tmp_path / "x", bert).documents[-1] == text


# --- saving -----------------------------------------------------------------------------------------------------------

CODE = "import sys, json; from tl_nb.search import SearchIndex; x = SearchIndex.load(sys.argv[1], *sys.argv[2:], progress=False); " \
       "print(json.dumps([[list(h) for h in x.search(q, 7, m)] for q in ('cat on mat', 'dog', 'blue hat', 'ran under') for m in (None, 'dense', 'bm25')]))"


def elsewhere(*arguments):
    "The answers of a saved index in a new process."
    ran = subprocess.run([sys.executable, "-c", CODE, *map(str, arguments)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return json.loads(ran.stdout)


def here(index): return [[list(h) for h in index.search(q, 7, m)] for q in QUERIES for m in (None, "dense", "bm25")]


def test_a_new_process_has_the_same_answers(index, folder, tmp_path):
    index.add(["a mat"], ids=["own"])
    index.remove(2)
    index.save(tmp_path / "saved")
    assert elsewhere(tmp_path / "saved", folder) == here(index)


def test_a_tuned_network_is_saved_with_it(bert, tmp_path):
    tuned = contrastive_tune(bert, PAIRS, epochs=2, lr=3e-3, bs=3, seed=0, progress=False)
    index = SearchIndex(DOCUMENTS, tuned, mode="hybrid", progress=False)
    index.save(tmp_path / "saved")
    assert elsewhere(tmp_path / "saved") == here(index)
    again = SearchIndex.load(tmp_path / "saved")
    assert isinstance(again.backbone, TunedBackbone) and again.backbone.name == tuned.name and again.backbone.fingerprint == tuned.fingerprint
    again.save(tmp_path / "twice")
    shutil.rmtree(tmp_path / "saved")
    assert here(SearchIndex.load(tmp_path / "twice")) == here(index)


def test_all_settings_come_back(bert, tmp_path):
    index = SearchIndex(DOCUMENTS, bert, ids=list("abcdefg"), mode="hybrid", weight=0.3, pooling="cls", max_length=5, progress=False)
    again = SearchIndex.load(index.save(tmp_path / "x"), bert)
    assert (again.mode, again.weight, again.ids, again._how["pooling"], again._how["max_length"]) == ("hybrid", 0.3, list("abcdefg"), "cls", 5)
    assert np.array_equal(again.vectors, index.vectors) and answers(again) == answers(index)
    assert index.add(["hat"]) == [0]
    index.remove(0)
    assert SearchIndex.load(index.save(tmp_path / "x"), bert).add(["mat"]) == [1] == index.add(["mat"]), "numbers that were in use stay used"


def test_words_alone_are_saved_without_a_network(monkeypatch, tmp_path):
    monkeypatch.setattr(S, "load_backbone", lambda *a, **k: pytest.fail("a network was loaded"))
    SearchIndex(DOCUMENTS, "minilm-l6", mode="bm25").save(tmp_path / "x")
    again = SearchIndex.load(tmp_path / "x")
    assert again.search("red hat", 1)[0].document == "red hat" and again._asked == "minilm-l6" and not (tmp_path / "x" / "vectors.npy").exists()


def test_saving_again_replaces_and_never_mixes(index, bert, tmp_path):
    index.save(tmp_path / "x")
    index.remove([0, 1, 2])
    index.save(tmp_path / "x")
    assert answers(SearchIndex.load(tmp_path / "x", bert)) == answers(index)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x"], "nothing is left beside it"


def test_a_failed_save_leaves_the_old_one(index, bert, tmp_path, monkeypatch):
    index.save(tmp_path / "x")
    before = answers(index)
    index.remove(0)
    monkeypatch.setattr(S.np, "save", lambda *a, **k: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"): index.save(tmp_path / "x")
    assert answers(SearchIndex.load(tmp_path / "x", bert)) == before and sorted(p.name for p in tmp_path.iterdir()) == ["x"]


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("name", ["documents.json", "vectors.npy", "network/model.safetensors", "network/config.json", "network/tokenizer.json"])
def test_a_changed_file_is_refused(bert, tmp_path, name):
    SearchIndex(DOCUMENTS, TunedBackbone(**vars(bert)), progress=False).save(tmp_path / "x")
    flip(tmp_path / "x" / name)
    with pytest.raises(SearchError, match=f"{name} was changed"): SearchIndex.load(tmp_path / "x")
    (tmp_path / "x" / name).unlink()
    with pytest.raises(SearchError, match=f"{name} was taken away"): SearchIndex.load(tmp_path / "x")


def test_a_changed_index_json_or_a_stranger_is_refused(index, bert, tmp_path):
    path = index.save(tmp_path / "x") / "index.json"
    text = path.read_text()
    for new in (text.replace("0.4", "0.5"), text.replace('"hybrid"', '"dense"'), "[]", "{}", "null"):
        path.write_text(new)
        with pytest.raises(SearchError, match="was changed"): SearchIndex.load(tmp_path / "x", bert)
    path.write_text(text[:40])
    with pytest.raises(SearchError, match="damaged"): SearchIndex.load(tmp_path / "x", bert)
    about = json.loads(text) | {"format": 99}
    path.write_text(json.dumps(about | {"seal": S._seal(about)}))
    with pytest.raises(SearchError, match="format 99"): SearchIndex.load(tmp_path / "x", bert)
    path.write_text(text)
    (tmp_path / "x" / "adapter_config.json").write_text("{}")
    with pytest.raises(SearchError, match="adapter_config.json was added"): SearchIndex.load(tmp_path / "x", bert)
    (tmp_path / "x" / "adapter_config.json").rename(tmp_path / "x" / ".hidden")
    assert answers(SearchIndex.load(tmp_path / "x", bert)) == answers(index)


def test_another_network_is_refused(index, bert, tmp_path, tmp_path_factory):
    index.save(tmp_path / "x")
    other = contrastive_tune(bert, PAIRS, epochs=1, lr=3e-3, bs=3, seed=0, progress=False)
    with pytest.raises(SearchError, match="other weights than those of"): SearchIndex.load(tmp_path / "x", other)
    with pytest.raises(SearchError, match="which is needed too"): SearchIndex.load(tmp_path / "x")
    with pytest.raises(SearchError, match="reads no texts"): SearchIndex.load(tmp_path / "x", image_backbone("resnet18"))


def test_places_that_cannot_be_used(index, tmp_path):
    with pytest.raises(SearchError, match="no folder"): SearchIndex.load(tmp_path / "none")
    with pytest.raises(SearchError, match="no index.json"): SearchIndex.load(tmp_path)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SearchError, match="other files, such as mine.txt"): index.save(tmp_path)
    with pytest.raises(SearchError, match="is a file"): index.save(tmp_path / "mine.txt")
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_nothing_is_pickled(index, tmp_path):
    index.save(tmp_path / "x")
    assert sorted(p.name for p in (tmp_path / "x").iterdir()) == ["documents.json", "index.json", "vectors.npy"]
    assert np.load(tmp_path / "x" / "vectors.npy", allow_pickle=False).shape == (7, 32)
