"Ranking: metrics against brute force and scikit-learn, intervals, ties, and BM25 against its formula in a double loop."
import pickle
import re
from math import log, log2

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from tl_nb.evaluate import compare
from tl_nb.ranking import BM25, RankingError, Score, bootstrap, mrr, ndcg, recall, top_k, words


def made_up(n=40, docs=12, seed=0):
    "Rankings of all documents, and one to four relevant ones with gains, for each query."
    rng = np.random.default_rng(seed)
    ranked = [rng.permutation(docs).tolist() for _ in range(n)]
    relevant = [{int(d): int(g) for d, g in zip(rng.permutation(docs)[:m], rng.integers(1, 5, m))} for m in rng.integers(1, 5, n)]
    return ranked, relevant


# ---- metrics

def slow_reciprocal_rank(ranked, relevant, k):
    for place in range(len(ranked)):
        if (k is None or place < k) and ranked[place] in relevant: return 1 / (place + 1)
    return 0.0


@pytest.mark.parametrize("k", [1, 2, 5, 12, 99, None])
def test_mrr_and_recall_by_brute_force(k):
    ranked, relevant = made_up()
    assert mrr(ranked, relevant, k).values.tolist() == [slow_reciprocal_rank(r, w, k) for r, w in zip(ranked, relevant)]
    share = [len([d for d in (r if k is None else r[:k]) if d in w]) / len(w) for r, w in zip(ranked, relevant)]
    assert recall(ranked, relevant, k).values.tolist() == share
    assert mrr(ranked, relevant, k) == pytest.approx(np.mean(mrr(ranked, relevant, k).values))


@pytest.mark.parametrize("k", [1, 3, 10, 12, 99, None])
def test_ndcg_is_scikit_learns(k):
    ranked, relevant = made_up()
    for r, w, found in zip(ranked, relevant, ndcg(ranked, relevant, k).values):
        truth, score = np.zeros((1, 12)), np.zeros((1, 12))
        for d, g in w.items(): truth[0, d] = g
        for place, d in enumerate(r): score[0, d] = -place
        assert found == pytest.approx(ndcg_score(truth, score, k=k), abs=1e-12)


def test_by_hand():
    assert ndcg([["b", "d", "a"]], [{"a": 3, "d": 1}]) == pytest.approx((1 / log2(3) + 3 / log2(4)) / (3 + 1 / log2(3)))
    assert mrr([["x", "y"], ["y"], []], ["y", "y", "y"]).values.tolist() == [0.5, 1.0, 0.0]
    assert recall([["a"]], [["a", "b"]]) == 0.5
    assert ndcg([["a"]], [["a", "b"]]) == pytest.approx(1 / (1 + 1 / log2(3)))  # what is not found counts as missing


@pytest.mark.parametrize("relevant", [3, [3], {3}, (3,), frozenset([3]), np.array([3]), np.int64(3), {3: 1.0}, {3: 2, 4: 0}, range(3, 4)])
def test_forms_of_relevant(relevant):
    for ranking in ([1, 3, 4], np.array([1, 3, 4]), (1, 3, 4)):
        assert [float(m([ranking], [relevant])) for m in (mrr, recall)] == [0.5, 1.0]


def test_a_text_is_one_id():
    assert mrr([["ab", "a"]], ["ab"]) == 1 and mrr([["a", "ab"]], ["ab"]) == 0.5


@pytest.mark.parametrize("ranked,relevant,message", [
    ([], [], "one query at least"), ([[1]], [1, 2], "1 rankings and 2 sets"), ([[1, 1]], [1], "names 1 twice"),
    (["ab"], ["a"], "is a text"), ([[1], [2]], [1, []], "Query 1 has no relevant"), ([[1]], [{1: 0}], "no relevant"),
    ([[1]], [{1: -1}], "0 or more"), ([[1]], [{1: float("nan")}], "finite")])
def test_bad_rankings(ranked, relevant, message):
    for metric in (mrr, recall, ndcg):
        with pytest.raises(RankingError, match=message): metric(ranked, relevant)


@pytest.mark.parametrize("k", [0, -1, 1.5, "3"])
def test_bad_k(k):
    with pytest.raises(RankingError, match="k = "): mrr([[1]], [1], k)
    with pytest.raises(RankingError, match="k = "): top_k(np.zeros((1, 3)), k)


# ---- scores and intervals

def test_score_is_a_number_with_values():
    score = Score([1.0, 0.5, 0.0, 0.5])
    assert isinstance(score, float) and score == 0.5 and score + 1 == 1.5 and f"{score:.2f}" == "0.50"
    assert "(4 queries)" in repr(score) and repr(Score([0.25])) == "0.250 (1 query)"
    again = pickle.loads(pickle.dumps(score))
    assert again == score and again.values.tolist() == score.values.tolist()


def test_bootstrap_is_near_t_for_many_queries():
    rng = np.random.default_rng(0)
    a, b = rng.random(800), rng.random(800)
    t, found = compare(a, b).difference, Score(a).minus(Score(b))
    assert found.mean == pytest.approx(t.mean) and abs(found.low - t.low) < 2e-3 and abs(found.high - t.high) < 2e-3
    assert found == Score(a).minus(Score(b)) and bootstrap(a - b, seed=1) != found  # the same for a seed


def test_bootstrap_covers():
    rng, hits = np.random.default_rng(0), 0
    for i in range(200): hits += not bootstrap(rng.exponential(size=60), draws=400, seed=i).excludes(1.0)
    assert 175 <= hits <= 199


def test_groups_are_drawn_together():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), 20)
    values = rng.normal(size=30)[groups] + 0.1 * rng.normal(size=600)
    wide, narrow = bootstrap(values, groups), bootstrap(values)
    assert wide.mean == narrow.mean and wide.high - wide.low > 3 * (narrow.high - narrow.low)
    names = [f"module {g}" for g in groups]
    assert bootstrap(values, names).high - bootstrap(values, names).low == pytest.approx(wide.high - wide.low, rel=0.1)
    hits = 0
    for i in range(100):
        values = rng.normal(size=30)[groups] + 0.1 * rng.normal(size=600)
        hits += not bootstrap(values, groups, draws=400, seed=i).excludes(0)
    assert hits >= 86


def test_bad_bootstraps():
    for values, groups in (([1.0], None), ([1.0, 2.0], ["a", "a"]), ([1.0, 2.0], ["a"]), ([[1.0, 2.0]], None)):
        with pytest.raises(RankingError, match="at least two queries"): bootstrap(values, groups)
    with pytest.raises(RankingError, match="finite"): bootstrap([1.0, float("nan")])
    with pytest.raises(RankingError, match="same queries"): Score([1, 2]).minus(Score([1, 2, 3]))


# ---- top_k

@pytest.mark.parametrize("k", [1, 3, 7, 20, 99, None])
def test_top_k_with_many_ties(k):
    scores = np.random.default_rng(0).integers(0, 4, (30, 20)).astype(float)
    slow = [sorted(range(20), key=lambda j: (-row[j], j))[:k] for row in scores]
    assert top_k(scores, k).tolist() == slow


def test_top_k_of_odd_shapes():
    assert top_k(np.zeros((0, 5)), 2).shape == (0, 2)
    assert top_k(np.array([[0, 3, 2]], np.uint8), 2).tolist() == [[1, 2]]
    assert top_k(np.array([[-np.inf, 1.0, -np.inf]]), 2).tolist() == [[1, 0]]
    with pytest.raises(RankingError, match="NaN"): top_k([[0.0, float("nan")]])
    with pytest.raises(RankingError, match="shape"): top_k([0.0, 1.0])


# ---- words and BM25

@pytest.mark.parametrize("text,expected", [
    ("parseHTTPHeaders", "parse http headers"), ("get_file_name", "get file name"), ("__init__", "init"), ("utf8 md5sum", "utf8 md5sum"),
    ("XMLHttpRequest2", "xml http request2"), ("a.b(c)", "a b c"), ("Don't stop", "don t stop"), ("Größe überprüfen", "größe überprüfen"),
    ("x", "x"), ("", ""), ("?! --", ""), ("HTTP", "http"), ("iPhone", "i phone")])
def test_words(text, expected): assert words(text) == expected.split()


TEXTS = ["open the file and read the file", "def openFile(path): return open(path)", "close it", "", "the the the the", "close it"]
QUERIES = ["open file", "the file the", "unknown words only", "", "close"]


def slow_bm25(query, document, texts, k1, b, tokenize):
    bags = [tokenize(t) for t in texts]
    mean = sum(map(len, bags)) / len(bags)
    total = 0.0
    for word in tokenize(query):  # a word that is twice in the query counts twice
        df, tf = sum(word in bag for bag in bags), bags[document].count(word)
        idf = log(1 + (len(bags) - df + 0.5) / (df + 0.5))
        if tf: total += idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * len(bags[document]) / mean))
    return total


@pytest.mark.parametrize("k1,b", [(1.2, 0.75), (0.0, 0.5), (2.0, 0.0), (1.0, 1.0)])
@pytest.mark.parametrize("tokenize", [words, str.split])
def test_bm25_is_the_formula(k1, b, tokenize):
    found = BM25(TEXTS, k1=k1, b=b, tokenize=tokenize).scores(QUERIES)
    slow = [[slow_bm25(q, d, TEXTS, k1, b, tokenize) for d in range(len(TEXTS))] for q in QUERIES]
    assert found.dtype == np.float32 and np.allclose(found, slow, rtol=1e-6, atol=1e-7)


def test_bm25_ranks_what_shares_a_word():
    engine = BM25(TEXTS)
    found = [r.tolist() for r in engine.rank(QUERIES)]
    assert found[2] == found[3] == [] and found[4] == [2, 5]  # equal texts, in the order of the corpus
    assert engine.rank(["the"], k=1)[0].tolist() == [4] and len(engine.rank(["the"], k=99)[0]) == 2
    assert engine.scores(QUERIES).min() >= 0 and len(engine) == 6 and "6 documents" in repr(engine)


def test_bm25_of_texts_without_words():
    engine = BM25(["?", "!"])
    assert engine.scores(["a ?"]).tolist() == [[0, 0]] and engine.rank(["a"])[0].tolist() == []


@pytest.mark.parametrize("documents,kw,message", [
    ([], {}, "empty"), ("text", {}, "brackets"), (["a", 3], {}, "number 1 is a int"), (["a", None], {}, "NoneType"),
    (["a"], dict(k1=-1), "k1 = -1"), (["a"], dict(b=1.1), "b = 1.1"), (["a"], dict(k1=float("nan")), "k1")])
def test_bad_corpora(documents, kw, message):
    with pytest.raises(RankingError, match=message): BM25(documents, **kw)


@pytest.mark.parametrize("queries,message", [([], "empty"), ("text", "brackets"), ([b"x"], "bytes, not a text")])
def test_bad_queries(queries, message):
    with pytest.raises(RankingError, match=message): BM25(TEXTS).scores(queries)


def test_words_of_a_pattern_are_not_split():
    assert BM25(["getFile"], tokenize=lambda t: re.findall(r"\w+", t)).rank(["file"])[0].tolist() == []
