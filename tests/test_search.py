"Search: exact against brute force, fusion by hand, the loss against its formula, and tuning that leaves the given network alone."
from math import exp, log

import numpy as np
import pytest
import torch

import tl_nb.search as S
from small_models import TEXT, everything, image_backbone, save_text
from tl_nb.backbones import BackboneError, load_backbone
from tl_nb.embedding import FeatureError, embed
from tl_nb.pairs import Pairs
from tl_nb.ranking import BM25, RankingError, mrr, top_k
from tl_nb.search import SearchError, SearchIndex, contrastive_tune, info_nce
from tl_nb.store import FeatureStore

DOCUMENTS = ["the cat sat on the mat", "a dog ran", "red hat", "blue hat under the mat", "dog and cat", "the red mat", "a blue cat"]
QUERIES = ["cat on mat", "dog", "blue hat", "ran under"]
PAIRS = [("cat red", "the cat sat on red mat"), ("dog blue", "a dog ran under blue hat"), ("hat red", "the hat on red dog"),
         ("mat blue", "the mat and blue cat"), ("cat blue", "cat ran under blue mat"), ("dog red", "a dog sat on red hat")]


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    return {f: load_backbone(save_text(f, tmp_path_factory.mktemp("search") / f)) for f in TEXT}


@pytest.fixture(scope="module")
def bert(backbones): return backbones["bert"]


@pytest.fixture(scope="module")
def index(bert): return SearchIndex(DOCUMENTS, bert, progress=False)


# --- the index --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("k", [1, 3, 7, 99, None])
def test_dense_is_brute_force(index, bert, k):
    q, d = (embed(bert, texts).astype(float) for texts in (QUERIES, DOCUMENTS))
    for ranked, row in zip(index.rank(QUERIES, k), q):
        cosine = [row @ x / np.linalg.norm(row) / np.linalg.norm(x) for x in d]
        assert ranked.tolist() == sorted(range(7), key=lambda i: -cosine[i])[:k]
        assert index.search(QUERIES[0], 1)[0].score == pytest.approx(q[0] @ d[index.rank(QUERIES[:1], 1)[0][0]] / np.linalg.norm(q[0])
                                                                     / np.linalg.norm(d[index.rank(QUERIES[:1], 1)[0][0]]), abs=1e-5)


def test_words_alone_are_bm25(index):
    expected = BM25(DOCUMENTS).rank(QUERIES, 3)
    assert [r.tolist() for r in index.rank(QUERIES, 3, mode="bm25")] == [r.tolist() for r in expected]
    assert index.search("zebra", mode="bm25") == [] and repr(index.search("zebra", mode="bm25")) == "Nothing found."


def test_words_alone_load_no_network(monkeypatch):
    monkeypatch.setattr(S, "load_backbone", lambda *a, **k: pytest.fail("a network was loaded"))
    found = SearchIndex(DOCUMENTS, "minilm-l6", mode="bm25")
    assert found.search("red hat", 1)[0].document == "red hat" and "shared words" in repr(found)


def test_a_hybrid_by_hand(bert):
    found = SearchIndex(DOCUMENTS, bert, mode="hybrid", weight=0.3, progress=False)
    dense = embed(bert, QUERIES, normalize=True) @ embed(bert, DOCUMENTS, normalize=True).T
    words = BM25(DOCUMENTS).scores(QUERIES)
    for i, query in enumerate(QUERIES):
        scale = lambda row: [(x - min(row)) / (max(row) - min(row)) for x in row.tolist()]
        fused = [0.3 * a + 0.7 * b for a, b in zip(scale(dense[i]), scale(words[i]))]
        hits = found.search(query, 7)
        assert [h.score for h in hits] == pytest.approx(sorted(fused, reverse=True), abs=1e-4)
        assert [fused[h.position] for h in hits] == pytest.approx([h.score for h in hits], abs=1e-4)


def test_the_ends_of_the_weight(bert, index):
    meaning, words = (SearchIndex(DOCUMENTS, bert, mode="hybrid", weight=w, progress=False) for w in (1, 0))
    same = lambda a, b: all(x.tolist()[:len(y)] == y.tolist() for x, y in zip(a, b))
    assert same(meaning.rank(QUERIES, None), index.rank(QUERIES, None))
    assert same(words.rank(QUERIES, None), index.rank(QUERIES, None, mode="bm25"))


def test_without_a_shared_word_meaning_decides(bert, index):
    hybrid = SearchIndex(DOCUMENTS, bert, mode="hybrid", progress=False)
    assert [h.position for h in hybrid.search("and", 7)][0] == 4
    strange = [h.position for h in hybrid.search("zebra", 7)]
    assert strange == [h.position for h in index.search("zebra", 7)]


@pytest.mark.parametrize("mode", S.MODES)
def test_blocks_do_not_matter(index, mode):
    whole, small = ([(a.tolist(), s.tolist()) for a, s in index._best(QUERIES, 4, mode, block=b)] for b in (1 << 22, 1))
    assert [a for a, _ in whole] == [a for a, _ in small]
    assert all(s == pytest.approx(t, abs=1e-4) for (_, s), (_, t) in zip(whole, small))


def test_equal_documents_keep_their_order(bert):
    found = SearchIndex(["red hat", "a dog ran", "red hat", "red hat"], bert, progress=False)
    assert found.rank(["red hat"], 3)[0].tolist() == [0, 2, 3]


def test_hits_are_what_they_say(index):
    hits = index.search("dog", 3)
    assert [h.document for h in hits] == [DOCUMENTS[h.position] for h in hits] and len(hits) == 3
    assert [h.position for h in hits] == index.rank(["dog"], 3)[0].tolist()
    assert DOCUMENTS[hits[0].position] in hits._repr_html_() and len(index.search("dog", 100)) == len(index) == 7
    with_tags = SearchIndex(["<b>bold</b>"], mode="bm25").search("bold")
    assert "<b>" not in with_tags._repr_html_()


def test_a_store_keeps_the_documents(bert, index, tmp_path):
    store = FeatureStore(tmp_path / "store")
    first = SearchIndex(DOCUMENTS, bert, store=store, progress=False)
    assert store.sizes()["items"].sum() == len(DOCUMENTS)
    again = SearchIndex(DOCUMENTS, bert, store=store, progress=False)
    assert (again.vectors == first.vectors).all() and np.allclose(again.vectors, index.vectors, atol=1e-6)


def test_a_generator_of_documents_and_numpy_texts(bert):
    found = SearchIndex((d for d in DOCUMENTS), bert, progress=False)
    assert found.rank(np.array(QUERIES), 2)[0].tolist() == found.rank(QUERIES, 2)[0].tolist()


@pytest.mark.parametrize("make,message", [
    (lambda b: SearchIndex([], b), "list is empty"), (lambda b: SearchIndex("one", b), "brackets"),
    (lambda b: SearchIndex(["a", 3], b), "number 1 of 2 is a int"), (lambda b: SearchIndex(["a", " "], b), "empty text"),
    (lambda b: SearchIndex(["a"], b, mode="sparse"), "allowed are 'dense'"), (lambda b: SearchIndex(["a"], b, weight=2), "weight = 2"),
    (lambda b: SearchIndex(["a"], b, weight=float("nan")), "weight"), (lambda b: SearchIndex(["a"], b).rank([]), "queries: the list"),
    (lambda b: SearchIndex(["a"], b).rank(["a", None]), "number 1 of 2"), (lambda b: SearchIndex(["a"], b).rank("a"), "brackets"),
    (lambda b: SearchIndex(["a"], b).search(""), "empty text"), (lambda b: SearchIndex(["a"], b).search(["a"]), "there is rank"),
    (lambda b: SearchIndex(["a"], b).search("a", mode="x"), "mode = 'x'"),
    (lambda b: SearchIndex(None, b), "NoneType. Give a list"), (lambda b: contrastive_tune(b, 3), "this is a int"),
    (lambda b: SearchIndex(Pairs(["q"], ["d"], ["n"], ["g"]), b), "Pairs. Give its .documents"),
    (lambda b: SearchIndex(["a"], image_backbone("resnet18")), "reads no texts")])
def test_bad_input(bert, make, message):
    with pytest.raises(SearchError, match=message): make(bert)


@pytest.mark.parametrize("k", [0, -1, 1.5, "3"])
def test_bad_k(index, k):
    for mode in S.MODES:
        with pytest.raises(RankingError, match="k = "): index.search("cat", k, mode)
        with pytest.raises(RankingError, match="k = "): index.rank(["cat"], k, mode)


def test_bad_names_of_backbones():
    with pytest.raises(BackboneError, match="No backbone is called"): SearchIndex(["a"], "minilm-l7")
    with pytest.raises(BackboneError, match="for image"): SearchIndex(["a"], "efficientnet-lite0")


# --- the loss ---------------------------------------------------------------------------------------------------------

def slow_info_nce(s, t, same):
    n, total = len(s), 0.0
    for i in range(n):
        for row, skip in ((s[i], same[i]), ([s[j][i] for j in range(n)], [same[j][i] for j in range(n)])):
            total -= log(exp(row[i] / t) / sum(exp(row[j] / t) for j in range(n) if not skip[j]))
    return total / (2 * n)


@pytest.mark.parametrize("seed", range(4))
def test_the_loss_is_its_formula(seed):
    rng = np.random.default_rng(seed)
    s, same = rng.uniform(-1, 1, (6, 6)), rng.random((6, 6)) < 0.2
    same = (same | same.T) & ~np.eye(6, dtype=bool)
    found = info_nce(torch.tensor(s), 0.2, torch.tensor(same))
    assert float(found) == pytest.approx(slow_info_nce(s.tolist(), 0.2, same.tolist()))
    assert float(info_nce(torch.tensor(s), 0.2)) == pytest.approx(slow_info_nce(s.tolist(), 0.2, np.zeros((6, 6), bool).tolist()))
    assert float(info_nce(torch.tensor(s.T), 0.2)) == pytest.approx(float(info_nce(torch.tensor(s), 0.2)))  # symmetric


def test_the_gradient_by_finite_differences():
    s = torch.tensor(np.random.default_rng(0).uniform(-1, 1, (4, 4)), requires_grad=True)
    same = torch.zeros(4, 4, dtype=torch.bool)
    same[0, 2] = same[2, 0] = True
    assert torch.autograd.gradcheck(lambda s: info_nce(s, 0.5, same), s)
    info_nce(s, 0.5, same).backward()
    assert s.grad[0, 2] == s.grad[2, 0] == 0 and (s.grad.diagonal() < 0).all()


def test_a_loss_of_nothing_and_of_everything_known():
    assert float(info_nce(torch.zeros(8, 8))) == pytest.approx(log(8))
    assert float(info_nce(torch.eye(8), 0.01)) == pytest.approx(0, abs=1e-6)


def test_twins():
    found = S._twins(["A b", "c", "a  B", "d"], ["x", "y", "z", "y"]).numpy()
    expected = np.zeros((4, 4), bool)
    expected[0, 2] = expected[2, 0] = expected[1, 3] = expected[3, 1] = True
    assert (found == expected).all()


# --- tuning -----------------------------------------------------------------------------------------------------------

QUICK = dict(epochs=8, lr=3e-3, bs=3, seed=0, progress=False)


def unchanged(before, model): return all(torch.equal(v, before[k]) for k, v in everything(model).items())


@pytest.mark.parametrize("family", TEXT)
def test_every_family_learns_and_the_given_one_stays(backbones, family):
    backbone = backbones[family]
    before, mark = everything(backbone.model), backbone.fingerprint
    tuned = contrastive_tune(backbone, PAIRS, **QUICK)
    assert unchanged(before, backbone.model) and backbone.fingerprint == mark != tuned.fingerprint
    assert not {p.data_ptr() for p in backbone.model.parameters()} & {p.data_ptr() for p in tuned.model.parameters()}
    losses = [h["loss"] for h in tuned.history]
    assert losses[0] is None and len(losses) == 9 and losses[-1] < losses[1] and tuned.best_epoch == 8
    queries, documents = zip(*PAIRS)
    score = lambda b: mrr(SearchIndex(documents, b, progress=False).rank(queries, None), range(len(PAIRS)))
    assert score(tuned) > score(backbone) and tuned.name == f"{family} (tuned)"
    assert not tuned.model.training and all(p.grad is None for p in tuned.model.parameters())
    for mode in S.MODES: assert len(SearchIndex(documents, tuned, progress=False).search(queries[0], 2, mode)) == 2


def test_a_seed_fixes_it_and_the_stream_of_random_numbers_goes_on(bert):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    a, b, c = (contrastive_tune(bert, PAIRS, **QUICK | dict(epochs=1, seed=s)) for s in (1, 1, 2))
    assert a.fingerprint == b.fingerprint != c.fingerprint and torch.equal(state, torch.get_rng_state())


def test_a_store_tells_before_from_after(bert, tmp_path):
    store, texts = FeatureStore(tmp_path / "store"), DOCUMENTS
    old = store.embed(bert, texts)
    tuned = contrastive_tune(bert, PAIRS, **QUICK)
    new = store.embed(tuned, texts)
    assert not np.allclose(old, new, atol=1e-3) and np.allclose(new, embed(tuned, texts), atol=1e-5)
    assert (store.embed(bert, texts) == old).all()


def test_the_best_epoch_is_kept(bert, monkeypatch):
    scores = iter([0.2, 0.5, 0.9, 0.4])
    seen = []

    def validate(found, held, **how):
        seen.append(everything(found.model))
        return next(scores)
    monkeypatch.setattr(S, "_valid_mrr", validate)
    tuned = contrastive_tune(bert, PAIRS, PAIRS, **QUICK | dict(epochs=3))
    assert tuned.best_epoch == 2 and unchanged(seen[2], tuned.model) and [h["valid_mrr"] for h in tuned.history] == [0.2, 0.5, 0.9, 0.4]


def test_training_that_does_not_help_gives_the_start_back(bert, monkeypatch):
    scores = iter([0.5, 0.5, 0.1])
    monkeypatch.setattr(S, "_valid_mrr", lambda *a, **k: next(scores))
    tuned = contrastive_tune(bert, PAIRS, PAIRS, **QUICK | dict(epochs=2))
    assert tuned.best_epoch == 0 and unchanged(everything(bert.model), tuned.model)


def test_validation_is_the_mrr_of_an_index(bert):
    queries, documents = map(list, zip(*PAIRS))
    expected = mrr(SearchIndex(documents, bert, progress=False).rank(queries, None), range(len(PAIRS)))
    assert S._valid_mrr(bert, [queries, documents], max_length=64, pooling="mean") == pytest.approx(float(expected))


def test_frozen_stages_stay(tmp_path):
    backbone = load_backbone(save_text("bert", tmp_path / "bert")).freeze_to(2)
    tuned = contrastive_tune(backbone, PAIRS, **QUICK)
    for i, (a, b) in enumerate(zip(backbone.stages, tuned.stages)):
        if a.name == "pooler": continue  # mean pooling does not use it
        same = all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))
        assert same == (i < 2), a.name
    with pytest.raises(SearchError, match="All stages of the backbone are frozen"):
        contrastive_tune(backbone.freeze_to(len(backbone.stages)), PAIRS, **QUICK)


def test_tuned_again(bert):
    once = contrastive_tune(bert, PAIRS, **QUICK | dict(epochs=1))
    twice = contrastive_tune(once, PAIRS, **QUICK | dict(epochs=1))
    assert twice.name == "bert (tuned)" and len(twice.history) == 2 and once.fingerprint != twice.fingerprint


def test_equal_texts_are_no_negatives(bert):
    "With every pair the same, nothing is left to tell apart: no loss, and nothing to learn from it."
    tuned = contrastive_tune(bert, [("red hat", "a dog"), ("Red hat", "a cat"), ("red  hat", "a mat")], **QUICK)
    assert [h["loss"] for h in tuned.history[1:]] == pytest.approx([0] * 8, abs=1e-6)


def test_pairs_and_tuples_are_one(bert):
    q, d = map(list, zip(*PAIRS))
    made = Pairs(q, d, ["f"] * 6, ["m"] * 6)
    quick = QUICK | dict(epochs=1)
    assert contrastive_tune(bert, made, made, **quick).history == contrastive_tune(bert, iter(PAIRS), PAIRS, **quick).history


@pytest.mark.parametrize("change,error,message", [
    (dict(pairs=PAIRS[:1]), SearchError, "At least 2 pairs"), (dict(pairs=[]), SearchError, "At least 2 pairs"),
    (dict(pairs=["ab", "cd"]), SearchError, "number 0 is no pair"), (dict(pairs=[("a", "b", "c")] * 2), SearchError, "no pair"),
    (dict(pairs=[("a", "b"), ("a", 3)]), SearchError, "documents of pairs: number 1"), (dict(valid=PAIRS[:1]), SearchError, "valid: 1 queries"),
    (dict(pairs=Pairs(["a", "b"], ["a"], [], [])), SearchError, "2 queries and 1 documents"), (dict(epochs=0), FeatureError, "epochs = 0"),
    (dict(bs=1), SearchError, "bs = 1"), (dict(lr=0), SearchError, "lr = 0"), (dict(temperature=0), SearchError, "temperature = 0"),
    (dict(max_length=0), FeatureError, "max_length"), (dict(pooling="median"), FeatureError, "pooling")])
def test_bad_tuning(bert, change, error, message):
    arguments = dict(pairs=PAIRS) | QUICK | change
    with pytest.raises(error, match=message): contrastive_tune(bert, **arguments)


def test_tuning_of_images_is_refused():
    with pytest.raises(SearchError, match="reads no texts"): contrastive_tune(image_backbone("resnet18"), PAIRS, **QUICK)


# --- the exercise -----------------------------------------------------------------------------------------------------

def numpy_info_nce(s, t, *, ways=2, scale=None, stable=True, sign=1, reduce=np.mean):
    x = np.asarray(s, float) / t if scale is None else np.asarray(s, float) * scale

    def one(x):
        top = x.max(1, keepdims=True) if stable else np.zeros((len(x), 1))
        return reduce(top[:, 0] + np.log(np.exp(x - top).sum(1)) - np.diag(x))
    return sign * sum(one(v) for v in (x, x.T)[:ways]) / ways


@pytest.mark.parametrize("faults,hint", [
    ({}, None), (dict(sign=-1), "sign"), (dict(ways=1), "one direction"), (dict(scale=1), "temperature"), (dict(scale=0.5), "temperature"),
    (dict(reduce=np.sum), "mean over the pairs"), (dict(stable=False), "overflow")])
def test_the_check_names_each_fault(faults, hint):
    from tl_nb.exercises import check_info_nce

    with np.errstate(all="ignore"): verdict = check_info_nce(lambda s, t: numpy_info_nce(s, t, **faults))
    assert verdict.passed is (hint is None) and (hint is None or hint in verdict.message)
