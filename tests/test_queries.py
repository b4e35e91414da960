"Queries: corrections that lose no near word, votes by hand, readers that must be readers, and pairs that a corpus has by itself."
import random
import subprocess
import sys
from collections import Counter
from functools import lru_cache

import numpy as np
import pytest
import torch
import transformers

import domain_search_engine
import tl_nb.queries as Q
from small_models import SMALL, WORDS, everything, save_text
from tl_nb.backbones import load_backbone
from tl_nb.data import from_csv
from tl_nb.exercises_applications import check_fusion
from tl_nb.queries import CrossEncoder, Intent, QueryIntent, Speller, adapt_index, edit_distance, own_pairs, rerank
from tl_nb.ranking import RankingError
from tl_nb.search import Hits, SearchError, SearchIndex

DOCUMENTS = ["the cat sat on the mat", "a dog ran", "red hat", "blue hat under the mat", "dog and cat", "the red mat", "a blue cat"]
STRANGE = ["\U0001F600\U0001F680", "die Katze saß auf der Matte", "猫が座った", "кот сидел", "مرحبا", "x" * 100_000, "a\x00b", "cat " * 5000]


@pytest.fixture(scope="module")
def bert(tmp_path_factory): return load_backbone(save_text("bert", tmp_path_factory.mktemp("queries") / "bert"))


@pytest.fixture(scope="module")
def index(bert): return SearchIndex(DOCUMENTS, bert, mode="hybrid", progress=False)


# --- spelling ---------------------------------------------------------------------------------------------------------

def slow_distance(a, b):
    "By the recursion that defines it."
    @lru_cache(None)
    def d(i, j):
        if not i or not j: return i + j
        found = min(d(i - 1, j) + 1, d(i, j - 1) + 1, d(i - 1, j - 1) + (a[i - 1] != b[j - 1]))
        if i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]: found = min(found, d(i - 2, j - 2) + 1)
        return found
    return d(len(a), len(b))


def test_the_distance_is_its_recursion():
    rng = random.Random(0)
    for _ in range(500):
        a, b = ("".join(rng.choices("abc", k=rng.randint(0, 7))) for _ in range(2))
        assert edit_distance(a, b) == slow_distance(a, b) == edit_distance(b, a)


@pytest.mark.parametrize("a,b,n", [("", "", 0), ("", "abc", 3), ("abc", "acb", 1), ("ca", "abc", 3), ("кот", "кто", 1), ("saß", "sass", 2)])
def test_distances_by_hand(a, b, n): assert edit_distance(a, b) == n


def test_no_near_word_is_lost_by_the_glance():
    rng = random.Random(1)
    vocabulary = sorted({"".join(rng.choices("abcdeäж", k=rng.randint(3, 11))) for _ in range(400)})
    speller = Speller([" ".join(vocabulary)] * 2)
    for word in ("".join(rng.choices("abcdeäж", k=rng.randint(3, 11))) for _ in range(60)):
        most = 0 if len(word) < 4 else 1 if len(word) < 8 else 2
        expected = sorted((edit_distance(word, w), -2, w) for w in vocabulary if most and edit_distance(word, w) <= most)
        assert speller.near(word) == expected


def test_the_nearest_then_the_most_frequent_word_wins():
    speller = Speller(["planet planes", "planet planes", "planet", "plants plants"])
    assert speller.known["planet"] == 3 and "plants" not in speller.offered, "documents are counted, not words; one document is too few"
    assert speller("planets plane").changes == [("planets", "planet"), ("plane", "planet")]
    assert speller.near("planex") == [(1, -3, "planet"), (1, -2, "planes")]


def test_what_is_known_short_or_no_word_stays():
    speller = Speller(["the motorcycle of honda", "motorcycle honda", "rd350 rare"])
    for query in ("the motorcycle", "rare", "hnd", "rd351", "zzzzzzzz", "   motorcycle?  ", "1234567", "HondaMotorcycle"):
        assert speller(query) == (query, [])
    assert speller("a Motorcylce, (hoonda)!") == ("a motorcycle, (honda)!", [("Motorcylce", "motorcycle"), ("hoonda", "honda")])


def test_a_correction_is_found_by_words_and_is_corrected_no_further():
    docs = ["sensor calibration manual", "calibration of a sensor", "manual for brakes", "brakes manual"]
    speller, found = Speller(docs), SearchIndex(docs, mode="bm25")
    assert found.search("calibraton snesor") == [] and len(found.search(speller("calibraton snesor").text)) == 2
    again = speller("calibraton snesor").text
    assert speller(again) == (again, [])


@pytest.mark.parametrize("query", STRANGE)
def test_any_query_can_be_corrected(query):
    speller = Speller(DOCUMENTS * 2 + STRANGE[:5])
    assert speller(query).text == query and Speller([query])("cat").text == "cat"


@pytest.mark.parametrize("make,message", [
    (lambda: Speller([]), "list is empty"), (lambda: Speller("cat"), "brackets"), (lambda: Speller(["cat", " "]), "number 1 of 2"),
    (lambda: Speller(["cat"])(""), "empty text"), (lambda: Speller(["cat"])(None), "NoneType"), (lambda: Speller(["cat"])("\ud83d"), "surrogate")])
def test_bad_input_of_the_speller(make, message):
    with pytest.raises(SearchError, match=message): make()


# --- intent -----------------------------------------------------------------------------------------------------------

KINDS = ["animal", "animal", "clothes", "clothes", "animal", "house", "animal"]


def test_votes_by_hand(index):
    intent = QueryIntent(index, KINDS, k=3, mode="bm25")
    names = [KINDS[h.position] for h in index.search("hat", 3, "bm25")]
    assert names == ["clothes", "clothes"] and intent("hat") == ("clothes", 1.0, {"clothes": 1.0})
    mixed = QueryIntent(index, KINDS, k=3, least=0.9, mode="bm25")("mat")
    votes = Counter(KINDS[h.position] for h in index.search("mat", 3, "bm25"))
    assert mixed.name is None and mixed.shares == {n: c / 3 for n, c in votes.items()} and mixed.share == max(mixed.shares.values())


def test_each_mode_and_the_list(index):
    for mode in (None, "dense", "bm25", "hybrid"):
        intent = QueryIntent(index, KINDS, k=4, mode=mode)
        for one, query in zip(intent.intents(["cat", "red hat", "dog"]), ["cat", "red hat", "dog"]):
            names = [KINDS[h.position] for h in index.search(query, 4, mode)]
            assert one == intent(query) and one.shares == {n: names.count(n) / len(names) for n in dict.fromkeys(sorted(names, key=lambda n: -names.count(n)))}
            assert list(one.shares.values()) == sorted(one.shares.values(), reverse=True) and sum(one.shares.values()) == pytest.approx(1)


def test_of_equal_shares_the_first_leads(): assert Q._vote(["b", "a", "a", "b"], 0.5) == ("b", 0.5, {"b": 0.5, "a": 0.5})


def test_nothing_found_and_no_category(index, bert):
    assert QueryIntent(index, KINDS, mode="bm25")("zebra") == (None, 0.0, {})
    found = SearchIndex(DOCUMENTS, bert, mode="bm25")
    intent = QueryIntent(found, {0: "animal", 4: "animal"}, k=100)
    assert intent("hat") == (None, 0.0, {}) and intent("cat").name == "animal"
    found.add(["cat hat"])
    found.remove(0)
    assert intent("cat") == ("animal", 1.0, {"animal": 1.0}), "categories go by ids, so documents may come and go"


@pytest.mark.parametrize("query", STRANGE)
def test_any_query_has_an_intent_or_none(index, query): assert QueryIntent(index, KINDS)(query).name in {*KINDS, None}


@pytest.mark.parametrize("make,message", [
    (lambda i: QueryIntent(i, KINDS[:3]), "3 categories for 7"), (lambda i: QueryIntent(i, KINDS, least=2), "least = 2"),
    (lambda i: QueryIntent(i, KINDS, mode="x"), "mode = 'x'"), (lambda i: QueryIntent(i, KINDS)(""), "empty text"),
    (lambda i: QueryIntent(i, KINDS).intents([]), "list is empty"), (lambda i: QueryIntent(i, KINDS).intents("cat"), "brackets")])
def test_bad_input_of_intents(index, make, message):
    with pytest.raises(SearchError, match=message): make(index)


def test_bad_k(index):
    with pytest.raises(RankingError, match="k = 0"): QueryIntent(index, KINDS, k=0)
    with pytest.raises(RankingError, match="k = 0"): rerank(index, "cat", len, k=0)


# --- reading again ----------------------------------------------------------------------------------------------------

def pair_tokenizer():
    "As that of `small_models`, and for pairs too."
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocab = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + WORDS)}
    tok = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tok.pre_tokenizer = pre_tokenizers.Whitespace()
    tok.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tok, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
                                                model_input_names=["input_ids", "token_type_ids", "attention_mask"])


def save_cross(folder, family="bert", labels=1):
    "A small random cross-encoder in the Hub's own format."
    torch.manual_seed(0)
    cls, config = {"bert": (transformers.BertForSequenceClassification, transformers.BertConfig),
                   "roberta": (transformers.RobertaForSequenceClassification, transformers.RobertaConfig)}[family]
    cls(config(**SMALL, type_vocab_size=2, num_labels=labels, pad_token_id=0)).save_pretrained(folder)
    pair_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def cross(tmp_path_factory): return save_cross(tmp_path_factory.mktemp("cross") / "small")


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_scores_are_those_of_transformers_one_by_one(family, tmp_path):
    folder = save_cross(tmp_path / family, family)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer, reader = pair_tokenizer(), CrossEncoder(folder, batch_size=3)
    with torch.no_grad():
        expected = [model(**tokenizer("red cat", d, return_tensors="pt")).logits.item() for d in DOCUMENTS]
    found = reader("red cat", DOCUMENTS)
    assert found.shape == (7,) and found.dtype == np.float32 and np.allclose(found, expected, atol=1e-5)
    assert len(set(np.round(found, 6))) > 3, "the scores must depend on the documents, or this test shows nothing"
    assert np.allclose(reader("red cat", DOCUMENTS[::-1]), found[::-1], atol=1e-5) and reader.max_length == (40 if family == "bert" else 38)


def test_a_reader_gives_the_order_and_the_scores(index, cross):
    reader = CrossEncoder(cross)
    found = rerank(index, "cat", reader, k=3)
    scores = reader("cat", DOCUMENTS)
    assert [h.position for h in found] == np.argsort(-scores, kind="stable")[:3].tolist()
    assert np.allclose([h.score for h in found], sorted(scores, reverse=True)[:3], atol=1e-5) and isinstance(found, Hits)
    assert [h.document for h in found] == [DOCUMENTS[h.position] for h in found] and [h.id for h in found] == [h.position for h in found]


def test_only_the_first_are_read(index):
    seen = []

    def reader(query, documents):
        seen.append((query, documents))
        return range(len(documents))
    found = rerank(index, "cat", reader, k=2, first=4)
    before = index.search("cat", 4)
    assert seen == [("cat", [h.document for h in before])] and [h.position for h in found] == [h.position for h in before][::-1][:2]
    assert len(rerank(index, "cat", reader, k=100, first=1)) == 7, "no fewer are read than are wanted"
    assert rerank(index, "zebra", reader, mode="bm25") == [] and len(seen) == 2


def test_equal_scores_keep_the_order_of_the_search(index):
    assert rerank(index, "cat", lambda q, d: np.zeros(len(d)), k=7) == [h._replace(score=0.0) for h in index.search("cat", 7)]


@pytest.mark.parametrize("reader", [lambda q, d: [1.0], lambda q, d: np.full(len(d), np.nan), lambda q, d: np.ones((len(d), 2))])
def test_a_reader_that_is_none(index, reader):
    with pytest.raises(SearchError, match="The reader gave scores of shape"): rerank(index, "cat", reader)


@pytest.mark.parametrize("query", STRANGE)
def test_any_query_can_be_read(index, cross, query): assert len(rerank(index, query, CrossEncoder(cross), k=3, mode="dense")) == 3


def test_very_long_documents_are_cut(cross):
    reader = CrossEncoder(cross)
    assert np.isfinite(reader("cat", ["dog " * 10_000, "a"])).all() and np.isfinite(reader("cat " * 10_000, ["dog " * 10_000])).all()


def test_the_model_is_left_alone_and_ready(cross):
    reader = CrossEncoder(cross)
    before = everything(reader.model)
    reader("cat", DOCUMENTS)
    assert not reader.model.training and all(torch.equal(v, before[k]) for k, v in everything(reader.model).items())
    assert repr(reader) == "CrossEncoder: small, 40 tokens"


def test_what_is_no_cross_encoder(bert, cross, tmp_path):
    save_text("bert", tmp_path / "encoder")
    with pytest.raises(SearchError, match="is no cross-encoder: classifier"): CrossEncoder(tmp_path / "encoder")
    with pytest.raises(SearchError, match="gives 3 numbers for a pair"): CrossEncoder(save_cross(tmp_path / "three", labels=3))
    save_cross(tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(SearchError, match="cannot be loaded as a cross-encoder"): CrossEncoder(tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").unlink()
    torch.save({}, tmp_path / "broken" / "pytorch_model.bin")
    with pytest.raises(SearchError, match="cannot be loaded"): CrossEncoder(tmp_path / "broken")


def test_out_of_reach_names_the_ways_out(monkeypatch, tmp_path):
    code = "from tl_nb.queries import CrossEncoder\ntry: CrossEncoder()\nexcept ValueError as e: print(e)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=__import__("os").environ | {"TL_NB_CACHE": str(tmp_path)})
    assert ran.returncode == 0 and "the profile is embedded" in ran.stdout and "Two ways out" in ran.stdout and "ms-marco-MiniLM-L6-v2" in ran.stdout, ran.stderr


def test_bad_input_of_a_reader(cross):
    reader = CrossEncoder(cross)
    for query, documents, message in (("", ["a"], "query: number 0"), ("cat", [], "documents: the list"), ("cat", "dog", "brackets"), ("cat", ["a", 3], "is a int")):
        with pytest.raises(SearchError, match=message): reader(query, documents)


# --- a corpus by itself -----------------------------------------------------------------------------------------------

TEXTS = [" ".join(f"w{i}x{j}" for j in range(n)) for i, n in enumerate((40, 12, 11, 13, 100))]


@pytest.mark.parametrize("seed", range(5))
def test_a_cut_and_its_rest_are_the_text(seed):
    found = own_pairs(TEXTS, seed=seed)
    assert found.names == found.groups == ["0", "1", "3", "4"], "a text of 11 words is too short for cuts of 4"
    for query, rest, i in zip(found.queries, found.documents, found.names):
        text, q, r = TEXTS[int(i)].split(), query.split(), rest.split()
        at = text.index(q[0])
        assert text[at:at + len(q)] == q and text[:at] + text[at + len(q):] == r and 4 <= len(q) <= min(12, len(text) // 3)


def test_a_seed_fixes_the_cuts_and_cuts_are_everywhere():
    assert own_pairs(TEXTS, seed=1).queries == own_pairs(TEXTS, seed=1).queries != own_pairs(TEXTS, seed=2).queries
    starts = {own_pairs([TEXTS[1]], seed=s).queries[0].split()[0] for s in range(200)}
    assert starts == {f"w1x{j}" for j in range(9)}, "of 12 words, a cut of 4 can begin at nine places"


def test_titles_are_queries():
    found = own_pairs(["one text", "two text", "three text"], ["One", " ", None])
    assert (found.queries, found.documents, found.names) == (["One"], ["one text"], ["0"])


def test_pairs_can_be_split():
    parts = own_pairs([f"{t} {i}" for i in range(20) for t in TEXTS[:1]]).split(0.3, 0.3)
    assert sum(map(len, parts)) == 20 and not {*parts[0].names} & {*parts[2].names}


@pytest.mark.parametrize("make,message", [
    (lambda: own_pairs([]), "list is empty"), (lambda: own_pairs(["too short"]), "12 words or more"), (lambda: own_pairs(["猫が座った"]), "Give titles"),
    (lambda: own_pairs(["a", "b"], ["t"]), "1 titles for 2"), (lambda: own_pairs(["a"], [""]), "No text has a title"),
    (lambda: own_pairs(TEXTS, shortest=5, longest=4), "shortest = 5"), (lambda: own_pairs(TEXTS, shortest=0), "shortest = 0")])
def test_bad_input_of_pairs(make, message):
    with pytest.raises(SearchError, match=message): make()


def test_adapting_leaves_the_index_and_keeps_its_documents(bert):
    index = SearchIndex(DOCUMENTS, bert, ids=list("abcdefg"), mode="hybrid", weight=0.7, max_length=20, progress=False)
    before, mark = index.vectors.copy(), bert.fingerprint
    pairs = [("cat red", "the cat sat on red mat"), ("dog blue", "a dog ran under blue hat"), ("hat red", "the hat on red dog")]
    new = adapt_index(index, pairs, epochs=2, lr=3e-3, bs=3, seed=0, progress=False)
    assert (new.ids, new.documents, new.mode, new.weight, new._how) == (index.ids, index.documents, "hybrid", 0.7, index._how)
    assert np.array_equal(index.vectors, before) and bert.fingerprint == mark != new.backbone.fingerprint
    assert not np.allclose(new.vectors, before, atol=1e-3) and np.allclose(np.linalg.norm(new.vectors, axis=1), 1, atol=1e-5)


# --- the recipe's data ------------------------------------------------------------------------------------------------

def test_the_data_of_ones_own_can_be_read(tmp_path):
    data = from_csv(domain_search_engine.make(tmp_path))
    assert len(data) == 40 and len(own_pairs(data.items)) == 40 and data.classes == ["bakery", "workshop"]


# --- the exercise -----------------------------------------------------------------------------------------------------

def fused(start=1, constant=None, tie=lambda id: 0, worth=lambda c, place: 1 / (c + place), add=True):
    "An answer to the exercise, right but for what is changed."
    def answer(rankings, c=60):
        found = {}
        for ranking in rankings:
            for place, id in enumerate(ranking, start):
                new = worth(c if constant is None else constant, place)
                found[id] = found.get(id, 0) + new if add else max(found.get(id, 0), new)
        return sorted(found, key=lambda id: (-found[id], tie(id)))
    return answer


def test_the_check_of_fusion():
    assert check_fusion(fused()).passed
    wrong = {"from 0": fused(start=0), "constant": fused(constant=60), "by id": fused(tie=lambda id: str(id)), "places": fused(worth=lambda c, place: -place),
             "best alone": fused(add=False), "common alone": lambda rankings, c=60: [i for i in fused()(rankings, c) if all(i in r for r in rankings)],
             "first alone": lambda rankings, c=60: rankings[0], "by last": lambda rankings, c=60: fused()(rankings[::-1], c),
             "counts": lambda rankings, c=60: [i for i, _ in Counter(i for r in rankings for i in r).most_common()]}
    for name, answer in wrong.items(): assert check_fusion(answer).passed is False, name
