"The bot: left out by formula and by hand, sure and silent where it should be, the same after save and load; and its panel."
import asyncio
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics import roc_auc_score

import tl_nb.chat as C
from small_models import image_backbone, save_text
from tl_nb.backbones import load_backbone
from tl_nb.chat import Chat, ChatError, ChatPanel, IntentBot
from tl_nb.data import DataError
from tl_nb.embedding import embed
from tl_nb.exercises_applications import check_abstain
from tl_nb.store import FeatureStore

TEXTS = ["the cat sat on the mat", "a cat ran", "cat under a red hat", "the dog ran", "a dog on the mat", "dog sat under the mat", "red hat", "a blue hat on the mat", "hat and hat"]
INTENTS = ["cat"] * 3 + ["dog"] * 3 + ["hat"] * 3
QUERIES = ["the cat ran on", "a dog and a dog", "blue red hat", "mat mat mat", "the"]
ANSWERS = {"cat": ["the cat sat", "a red mat"], "dog": "a dog"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory): return save_text("bert", tmp_path_factory.mktemp("chat") / "bert")


@pytest.fixture(scope="module")
def bert(folder): return load_backbone(folder)


@pytest.fixture(scope="module")
def fitted(bert): return IntentBot(bert, progress=False).fit(TEXTS, INTENTS, ANSWERS)


@pytest.fixture
def bot(bert): return IntentBot(bert, progress=False).fit(TEXTS, INTENTS, ANSWERS)


@pytest.fixture(scope="module")
def minilm(): return load_backbone("minilm-l6")


def problem(seed, counts=(4, 2, 1, 6)):
    "A kernel of random unit rows, classes of unequal size, and the zeros and ones."
    rng = np.random.default_rng(seed)
    y = np.repeat(range(len(counts)), counts)
    X = rng.normal(size=(len(y), 20)) + 2 * rng.normal(size=(len(counts), 20))[y]
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    return X @ X.T, np.eye(len(counts))[y], y


def refitted(K, Y, penalty, gone):
    "Scores of the rows `gone` by a ridge regression on the others, with the weights that they had."
    stay, n = np.setdiff1d(range(len(K)), gone), Y.sum(0)
    D = np.diag((Y @ n / n.mean())[stay])
    return K[np.ix_(gone, stay)] @ np.linalg.solve(K[np.ix_(stay, stay)] + penalty * D, Y[stay])


# --- what is computed -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("penalty", [0.01, 1.0])
def test_left_out_by_formula_is_left_out_by_hand(seed, penalty):
    S, Y, y = problem(seed)
    A, G = C._solve(S + 1, Y, penalty)
    blocks = [[i] for i in range(len(y))], [np.flatnonzero(y == c) for c in range(4)], [[0, 5, 9], [1]]
    for some in blocks:
        found = C._left_out(A, G, Y, some)
        for b in some: np.testing.assert_allclose(found[b], refitted(S + 1, Y, penalty, b), atol=1e-8)


def test_the_head_is_a_weighted_kernel_ridge_regression():
    S, Y, y = problem(0)
    weight = Y.sum(0).mean() / Y.sum(0)[y]
    other = KernelRidge(alpha=0.3, kernel="precomputed").fit(S + 1, Y, sample_weight=weight)
    np.testing.assert_allclose((S + 1) @ C._solve(S + 1, Y, 0.3)[0], other.predict(S + 1), atol=1e-8)


def test_tries_are_those_of_a_loop():
    S, Y, y = problem(1, (3, 2, 4))
    (scores, near), (scores_out, near_out) = C._tries(S, Y, 0.1, 2)
    for i in range(len(y)):
        np.testing.assert_allclose(scores[i], refitted(S + 1, Y, 0.1, [i])[0], atol=1e-8)
        assert near[i] == pytest.approx(np.sort(np.delete(S[i], i))[-2:].mean())
        same = np.flatnonzero(y == y[i])
        expected = refitted(S + 1, Y, 0.1, same)[list(same).index(i)]
        np.testing.assert_allclose(np.delete(scores_out[i], y[i]), np.delete(expected, y[i]), atol=1e-8)
        assert np.isneginf(scores_out[i, y[i]]) and near_out[i] == pytest.approx(np.sort(S[i][y != y[i]])[-2:].mean())


def test_the_penalty_is_the_best_of_a_loop():
    S, Y, y = problem(2, (3, 5, 2))
    error = lambda p: sum(((Y[i] - refitted(S + 1, Y, p, [i])[0]) ** 2).sum() / Y.sum(0)[y[i]] for i in range(len(y)))
    assert C._penalty(S + 1, Y) == min(C.PENALTIES, key=error)
    assert C._penalty(*[f(problem(2, (1, 1, 1))) for f in (lambda p: p[0] + 1, lambda p: p[1])]) == C._PENALTY


def test_the_gap():
    assert C._gap(np.array([[0.2, 0.9, 0.5], [-np.inf, 0.4, -np.inf]])).tolist() == [pytest.approx(0.4), np.inf]


def test_a_curve_is_where_its_slope_is_zero():
    rng = np.random.default_rng(0)
    x, weight, start = rng.normal(size=60), rng.uniform(0.2, 2, 60), (-1.0, 2.0)
    hit = rng.random(60) < 1 / (1 + np.exp(-(0.5 + 1.5 * x)))
    a, b = C._curve(x, hit, weight, start)
    left = weight * (1 / (1 + np.exp(-(a + b * x))) - hit)
    assert left.sum() + a - start[0] == pytest.approx(0, abs=1e-3) and left @ x + b - start[1] == pytest.approx(0, abs=1e-3)
    assert C._curve(x[:0], hit[:0], weight[:0], start) == pytest.approx(start)
    assert C._curve(x, x < 0, weight * 100, start)[1] == pytest.approx(0.05), "sureness never falls where closeness rises"


def test_the_threshold_by_rank():
    ten = np.random.default_rng(0).permutation(np.arange(1, 11) / 10)
    assert [C._threshold(ten, share) for share in (0, 0.05, 0.1, 0.2, 0.5, 1)] == [1.0, 1.0, 1.0, 0.9, 0.6, -1.0]
    assert C._threshold(np.full(9, 0.4), 0.3) == 0.4
    assert C._threshold(np.arange(100), 0.29) == 71, "0.71 times 101 is 71.71, so the 72nd smallest"


# --- the bot ----------------------------------------------------------------------------------------------------------

def test_scores_are_those_of_the_rows(fitted, bert):
    Q, X = (embed(bert, t, normalize=True).astype(float) for t in (QUERIES, TEXTS))
    Y = np.eye(3)[np.repeat(range(3), 3)]
    expected = (Q @ X.T + 1) @ np.linalg.solve(X @ X.T + 1 + fitted.penalty_ * np.eye(9), Y)
    np.testing.assert_allclose(fitted.decision_function(QUERIES), expected, atol=1e-4)
    assert fitted.predict(QUERIES).tolist() == [["cat", "dog", "hat"][i] for i in expected.argmax(1)]


def test_it_learns_what_can_be_learned(fitted):
    assert fitted.predict(TEXTS).tolist() == INTENTS and fitted.score(TEXTS, INTENTS) == 1
    sure = fitted.confidence(TEXTS + QUERIES)
    assert sure.shape == (14,) and ((0 <= sure) & (sure <= 1)).all()


def test_the_order_of_the_examples_does_not_matter(fitted, bert):
    order = np.random.default_rng(1).permutation(9)
    other = IntentBot(bert, progress=False).fit([TEXTS[i] for i in order], [INTENTS[i] for i in order])
    np.testing.assert_allclose(other.confidence(QUERIES), fitted.confidence(QUERIES), atol=1e-3)
    assert other.threshold_ == pytest.approx(fitted.threshold_, abs=1e-3)


def test_what_it_expects_is_what_the_tries_say(fitted):
    S, Y = fitted.rows_.astype(float) @ fitted.rows_.astype(float).T, np.eye(3)[fitted.y_]
    (scores, near), (scores_out, near_out) = C._tries(S, Y, fitted.penalty_, fitted.neighbours_)
    assert fitted.expects_["right"] == pytest.approx((scores.argmax(1) == fitted.y_).mean())
    outside = fitted._sure(near_out, C._gap(scores_out)).prod(0)
    assert fitted.expects_["answered outside"] == pytest.approx((outside > fitted.threshold_).mean()) and fitted.expects_["answered outside"] <= 0.1
    assert fitted.expects_["examples judged"] == 9


def test_more_from_outside_means_less_sure(bert, fitted):
    many = IntentBot(bert, outside=0.9, progress=False).fit(TEXTS, INTENTS)
    none = IntentBot(bert, outside=0, progress=False).fit(TEXTS, INTENTS)
    assert many.confidence(QUERIES).mean() < fitted.confidence(QUERIES).mean() < none.confidence(QUERIES).mean()


def test_a_larger_share_answers_more(bert):
    thresholds = [IntentBot(bert, answered=a, progress=False).fit(TEXTS, INTENTS).threshold_ for a in (0, 0.2, 0.5, 1)]
    assert thresholds == sorted(thresholds, reverse=True) and thresholds[-1] < 0
    assert all(not r.abstains for r in IntentBot(bert, answered=1, progress=False).fit(TEXTS, INTENTS).replies(QUERIES))


@pytest.mark.parametrize("texts, intents", [(["cat", "dog"], ["a", "b"]), (["cat", "dog", "hat"], [1, 2, 3]), (["cat", "the cat", "dog"], ["a", "a", "b"]),
                                            (["cat", "a cat", "dog", "a dog"], [True, True, False, False])], ids=["1 + 1", "1 + 1 + 1", "2 + 1", "2 + 2"])
def test_very_few_examples(bert, texts, intents):
    bot = IntentBot(bert, progress=False).fit(texts, intents)
    assert bot.predict(texts).tolist() == intents
    assert np.isfinite(bot.confidence(QUERIES)).all() and 0 <= bot.threshold_ <= 1
    assert bot.expects_["examples judged"] == sum(intents.count(i) > 1 for i in intents)
    assert type(bot.reply("the cat").intent) is type(intents[0])


def test_a_copy_is_used_once(bert, fitted):
    again = IntentBot(bert, progress=False).fit([*TEXTS, "The  CAT sat on the mat", TEXTS[3]], [*INTENTS, "cat", "dog"])
    assert again.texts_ == TEXTS and again.threshold_ == fitted.threshold_


@pytest.mark.parametrize("texts, intents, hint", [
    ([], [], "no examples"), (TEXTS, INTENTS[:-1], "9 texts and 8 intents"), (TEXTS[:3], INTENTS[:3], "All 3 texts have the intent 'cat'"),
    ([*TEXTS, "a  CAT ran"], [*INTENTS, "dog"], "texts 1 and 9 are the same"), ("the cat", ["a"], "this is a str"), (TEXTS, "cat", "this is a str"),
    ([*TEXTS[:8], " "], INTENTS, "number 8 of 9 is an empty text"), ([*TEXTS[:8], None], INTENTS, "number 8 of 9 is a NoneType"),
    ([*TEXTS[:8], "half \ud83d"], INTENTS, "half of a character"), (7, INTENTS, "this is a int"),
], ids=["none", "lengths", "one intent", "two intents of one text", "one text", "one name", "empty", "no text", "surrogate", "a number"])
def test_examples_that_cannot_be_learned(bert, texts, intents, hint):
    with pytest.raises(ChatError, match=hint): IntentBot(bert, progress=False).fit(texts, intents)


def test_a_missing_intent_is_named(bert):
    with pytest.raises(DataError, match="text 8"): IntentBot(bert, progress=False).fit(TEXTS, [*INTENTS[:8], None])


@pytest.mark.parametrize("settings_", [dict(outside=1.5), dict(outside=-0.1), dict(answered=2)], ids=str)
def test_settings_out_of_range(bert, settings_):
    with pytest.raises(ChatError, match="a share from 0 to"): IntentBot(bert, **settings_).fit(TEXTS, INTENTS)


def test_a_network_for_images_is_refused():
    with pytest.raises(ChatError, match="reads no texts"): IntentBot(image_backbone("resnet18")).fit(TEXTS, INTENTS)


def test_not_fitted(bert, tmp_path):
    for ask in (lambda b: b.reply("cat"), lambda b: b.predict(["cat"]), lambda b: b.save(tmp_path / "x"), lambda b: b.learn("cat", "a")):
        with pytest.raises(NotFittedError): ask(IntentBot(bert))


def test_a_clone_is_unfitted_and_shares_the_network(fitted):
    other = clone(fitted)
    assert other.backbone is fitted.backbone and not hasattr(other, "texts_") and other.get_params() == fitted.get_params()


def test_a_store_keeps_the_rows(bert, fitted, tmp_path):
    store = FeatureStore(tmp_path / "store")
    stored = IntentBot(bert, store=store, progress=False).fit(TEXTS, INTENTS)
    assert store.sizes()["items"].sum() == 9
    np.testing.assert_allclose(stored.confidence(QUERIES), fitted.confidence(QUERIES), atol=1e-3)


# --- replies ----------------------------------------------------------------------------------------------------------

def test_a_reply_says_what_was_measured(fitted, bert):
    for text, r in zip(QUERIES, fitted.replies(QUERIES)):
        cosines = (embed(bert, [text], normalize=True) @ embed(bert, TEXTS, normalize=True).T)[0]
        assert [e.cosine for e in r.nearest] == pytest.approx(np.sort(cosines)[::-1][:3], abs=1e-5)
        assert all(INTENTS[TEXTS.index(e.text)] == e.intent for e in r.nearest)
        assert r.intent == fitted.predict([text])[0] and r.confidence == pytest.approx(fitted.confidence([text])[0], abs=1e-4)
        assert r.abstains == (r.confidence <= fitted.threshold_) == bool(r.why) and (r.answer is None or not r.abstains)


def test_the_threshold_decides(bot):
    bot.threshold_ = -1.0
    assert not any(r.abstains or r.why for r in bot.replies(QUERIES))
    bot.threshold_ = 1.0
    assert all(r.abstains and r.why and r.answer is None for r in bot.replies(QUERIES))


def test_why_it_abstains(bot):
    bot.threshold_ = 1.0
    bot._sure = lambda near, gap: np.array([[0.9] * len(gap), [0.2] * len(gap)])
    assert bot.reply("the cat").why.startswith("Undecided between '")
    bot._sure = lambda near, gap: np.array([[0.2] * len(gap), [0.9] * len(gap)])
    assert bot.reply("a cat ran on").why.startswith("Unlike the examples; the nearest is '")


@pytest.mark.parametrize("text, why", [("", "an empty text"), (" \n\t", "an empty text"), ("half \ud83d", "half of a character"), ("\U0001F600\U0001F600", "does not know"),
                                       ("wo ist der Ausgang", "does not know"), ("これは何ですか", "does not know")],
                         ids=["empty", "blank", "surrogate", "emoji", "German", "Japanese"])
def test_what_cannot_be_read_is_abstained_on(fitted, text, why):
    found = fitted.replies(["the cat", text, "the dog"])
    r = found[1]
    assert r.abstains and why in r.why and r.intent is None and r.answer is None and r.confidence == 0 and r.nearest == ()
    assert repr(r) and [f.text for f in found] == ["the cat", text, "the dog"]
    for one in (found[0], found[2]):
        assert one.intent == fitted.reply(one.text).intent and one.confidence == pytest.approx(fitted.reply(one.text).confidence, abs=1e-4)


def test_emoji_among_words_are_read(fitted):
    assert fitted.reply("the cat sat on \U0001F600").intent is not None


def test_a_long_text_is_cut_and_says_so(fitted):
    r = fitted.reply("the cat sat on the mat " * 500)
    assert "its end was not read" in r.note and r.intent is not None and fitted.reply("the cat").note == ""


@pytest.mark.parametrize("text", [None, 3, b"cat", ["cat"]], ids=repr)
def test_what_is_no_text_is_an_error(fitted, text):
    with pytest.raises(ChatError, match="reads texts"): fitted.reply(text)


def test_lists_for_measuring_are_checked(fitted):
    with pytest.raises(ChatError, match="this is a str"): fitted.replies("the cat")
    for ask in (fitted.predict, fitted.confidence, fitted.decision_function):
        with pytest.raises(ChatError, match="number 1 of 2 is an empty text"): ask(["cat", ""])
    assert fitted.replies([]) == []


# --- answers ----------------------------------------------------------------------------------------------------------

def test_of_several_answers_the_nearest(bot, bert):
    bot.threshold_, bot._sure = -1.0, lambda near, gap: np.ones((2, len(gap)))
    rows = embed(bert, ANSWERS["cat"], normalize=True)
    for text, r in zip(QUERIES, bot.replies(QUERIES)):
        expected = {"dog": "a dog", "hat": None, "cat": ANSWERS["cat"][int((rows @ embed(bert, [text], normalize=True)[0]).argmax())]}
        assert r.answer == expected[r.intent]


def test_an_answer_to_each_text(bert):
    answers = [f"answer {i}" for i in range(10)]
    bot = IntentBot(bert, answered=1, progress=False).fit([TEXTS[0], *TEXTS], [INTENTS[0], *INTENTS], answers)
    assert [r.answer for r in bot.replies(TEXTS)] == ["answer 0", *answers[2:]], "a copy takes its answer along"


@pytest.mark.parametrize("answers, hint", [({"cow": "moo"}, "intent 'cow', of which there is no example"), (["a"] * 8, "8 answers for 9 texts"), (["a"] * 8 + [""], "number 8 of 9"),
                                           ({"cat": [""]}, "answers: number 0 of 1 is an empty"), ({"cat": 3}, "answers to 'cat': this is a int"), ("moo", "answers: this is a str")],
                         ids=["unknown", "too few", "empty", "empty in a list", "number", "one text"])
def test_answers_that_do_not_fit(bert, answers, hint):
    with pytest.raises(ChatError, match=hint): IntentBot(bert, progress=False).fit(TEXTS, INTENTS, answers)


def test_without_answers(bert):
    bot = IntentBot(bert, answered=1, progress=False).fit(TEXTS, INTENTS)
    assert bot.reply("the cat").answer is None and not bot.reply("the cat").abstains


# --- learning on ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("text, intent", [("blue mat", "cat"), ("mat and mat", "mat"), ("a mat", "aaa")], ids=["known", "new, last", "new, first"])
def test_learned_on_is_fitted_anew(bot, bert, text, intent):
    bot.learn(text, intent)
    anew = IntentBot(bert, progress=False).fit([*TEXTS, text], [*INTENTS, intent], ANSWERS)
    assert bot.texts_ == anew.texts_ and bot.classes_.tolist() == anew.classes_.tolist()
    np.testing.assert_allclose(bot.confidence(QUERIES), anew.confidence(QUERIES), atol=1e-3)
    bot.threshold_ = anew.threshold_ = -1.0
    assert [r.answer for r in bot.replies(QUERIES)] == [r.answer for r in anew.replies(QUERIES)]


def test_only_the_new_text_goes_through_the_network(bot, monkeypatch):
    asked = []
    monkeypatch.setattr(C, "embed", lambda backbone, texts, **kw: asked.append(list(texts)) or embed(backbone, texts, **kw))
    bot.learn("blue mat", "cat")
    assert asked == [["blue mat"]]


def test_what_it_knows_changes_nothing_and_a_contradiction_is_refused(bot, fitted):
    bot.learn(TEXTS[0].upper(), "cat")
    assert bot.texts_ == TEXTS and bot.threshold_ == fitted.threshold_
    with pytest.raises(ChatError, match="are the same"): bot.learn(TEXTS[0], "dog")
    with pytest.raises(ChatError, match="empty"): bot.learn("", "dog")
    assert bot.texts_ == TEXTS and bot.replies(QUERIES) == fitted.replies(QUERIES)


# --- save and load ----------------------------------------------------------------------------------------------------

def test_the_same_replies_in_a_new_process(fitted, folder, tmp_path):
    saved = fitted.save(tmp_path / "bot")
    code = f"""
from tl_nb.backbones import load_backbone
from tl_nb.chat import IntentBot
bot = IntentBot.load({str(saved)!r}, load_backbone({str(folder)!r}), progress=False)
print([r.__dict__ for r in bot.replies({QUERIES!r})] == {[r.__dict__ for r in fitted.replies(QUERIES)]!r}, bot.expects_ == {fitted.expects_!r})
"""
    code = code.replace("Example(", "__import__('tl_nb.chat').chat.Example(")
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert ran.stdout.split() == ["True", "True"], ran.stdout + ran.stderr


def test_loaded_it_learns_on(bot, bert, tmp_path):
    other = IntentBot.load(bot.save(tmp_path / "bot"), bert, progress=False).learn("blue mat", "cat")
    assert other.replies(QUERIES) == bot.learn("blue mat", "cat").replies(QUERIES)


def test_numbers_as_intents_stay_numbers(bert, tmp_path):
    bot = IntentBot(bert, progress=False).fit(TEXTS, [i // 3 for i in range(9)], {1: "dog"})
    other = IntentBot.load(bot.save(tmp_path / "bot"), bert, progress=False)
    assert other.classes_.tolist() == [0, 1, 2] and other.replies(QUERIES) == bot.replies(QUERIES) and other.answer_intents_ == [1]


@pytest.mark.parametrize("old, new", [('"a dog"', '"a cow"'), ('"threshold_": ', '"threshold_": 1'), ("a cat ran", "a cat sat"), ('"arrays_sha256": "', '"arrays_sha256": "0')],
                         ids=["answer", "threshold", "example", "hash"])
def test_a_changed_json_is_refused(fitted, bert, tmp_path, old, new):
    path = fitted.save(tmp_path / "bot") / "bot.json"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ChatError, match="bot.json of bot is not what was saved"): IntentBot.load(path.parent, bert)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"sha256"'], ids=repr)
def test_a_damaged_json_is_refused(fitted, bert, tmp_path, text):
    path = fitted.save(tmp_path / "bot") / "bot.json"
    path.write_text(text)
    with pytest.raises(ChatError, match="bot.json of bot is damaged"): IntentBot.load(path.parent, bert)


def test_a_changed_array_is_refused(fitted, bert, tmp_path):
    path = fitted.save(tmp_path / "bot") / "bot.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ChatError, match="bot.safetensors of bot is not what was saved"): IntentBot.load(path.parent, bert)
    path.unlink()
    with pytest.raises(ChatError, match="holds no bot.safetensors"): IntentBot.load(path.parent, bert)


def test_another_format_is_refused(fitted, bert, tmp_path):
    path = fitted.save(tmp_path / "bot") / "bot.json"
    about = json.loads(path.read_text()) | {"format": 2}
    path.write_text(json.dumps(about | {"sha256": C._digest(about)}))
    with pytest.raises(ChatError, match="has format 2, and this tl_nb reads 1"): IntentBot.load(path.parent, bert)


def test_another_network_is_refused(fitted, tmp_path, bert):
    other = load_backbone(save_text("bert", tmp_path / "other"))
    next(other.model.parameters()).data.add_(1e-3)
    with pytest.raises(ChatError, match="other weights"): IntentBot.load(fitted.save(tmp_path / "bot"), other)


def test_a_folder_of_others_is_not_touched(fitted, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    (tmp_path / "file").write_text("x")
    for name in ("mine", "file"):
        with pytest.raises(ChatError, match="Give a new folder"): fitted.save(tmp_path / name)
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


def test_saved_twice_and_nothing_is_left_over(fitted, bert, tmp_path):
    fitted.save(tmp_path / "bot")
    assert IntentBot.load(fitted.save(tmp_path / "bot"), bert).threshold_ == fitted.threshold_
    assert [p.name for p in tmp_path.iterdir()] == ["bot"] and sorted(p.name for p in (tmp_path / "bot").iterdir()) == ["bot.json", "bot.safetensors"]


def test_a_missing_folder(tmp_path, bert):
    with pytest.raises(ChatError, match="holds no bot.json"): IntentBot.load(tmp_path / "nowhere", bert)


# --- the real network -------------------------------------------------------------------------------------------------

def test_the_real_network_knows_inside_from_outside(minilm):
    examples = {"weather": ["will it rain tomorrow", "how warm is it outside", "do I need an umbrella", "is there snow in the mountains"],
                "music": ["play some jazz", "turn up the volume", "skip this song", "who sings this"],
                "alarm": ["wake me at seven", "set a timer for ten minutes", "cancel my alarm", "remind me in an hour"]}
    texts, intents = zip(*[(t, c) for c, ts in examples.items() for t in ts])
    bot = IntentBot(minilm, progress=False).fit(texts, intents)
    inside = {"is a storm coming this evening": "weather", "put on the new album": "music", "get me up early on Monday": "alarm", "what is the temperature today": "weather",
              "make the song louder": "music", "count down five minutes": "alarm"}
    outside = ["how do I cook rice", "who won the election", "my tooth hurts", "sell my old car", "what does this contract say", "translate this into Latin"]
    assert bot.predict(list(inside)).tolist() == list(inside.values())
    sure = bot.confidence([*inside, *outside])
    assert roc_auc_score([1] * 6 + [0] * 6, sure) > 0.9
    assert bot.reply("\U0001F600\U0001F600").abstains and not bot.reply("will it rain tomorrow morning").abstains


# --- the conversation and its panel -----------------------------------------------------------------------------------

def all_of(widget): return [widget] + [w for child in getattr(widget, "children", ()) for w in all_of(child)]


@pytest.fixture
def panel(bot): return ChatPanel(bot)


def test_a_conversation(bot):
    chat = Chat(bot, fallback="Sorry.")
    assert repr(chat) == "Nothing has been said yet." and "Nothing has been said" in chat._repr_html_()
    with pytest.raises(ChatError, match="Say something first"): chat.teach("cat")
    bot.threshold_ = -1.0
    said = chat.say("the dog ran")
    assert chat.turns == [said] and "Bot: a dog" in repr(chat)
    bot.threshold_ = 1.0
    assert chat.said(chat.say("<b>mat</b>")) == "Sorry." and "<b>mat" not in chat._repr_html_() and "&lt;b&gt;mat" in chat._repr_html_()
    chat.clear()
    assert chat.turns == []


def test_taught_it_knows(bot):
    chat = Chat(bot)
    chat.say("mat mat mat")
    chat.teach("mat")
    assert bot.texts_[-1] == "mat mat mat" and bot.predict(["mat mat mat"]).tolist() == ["mat"] and len(chat.turns) == 2


def test_enter_and_button_send(panel):
    panel.text.value = "the cat"
    panel.text._handle_custom_msg({"event": "submit"}, [])
    assert panel.chat.turns[-1].text == "the cat" and panel.text.value == "" and "the cat" in panel.log.value
    panel.text.value = "the dog"
    panel.text._handle_custom_msg({"event": "other"}, [])
    assert len(panel.chat.turns) == 1
    panel.send_button.click()
    assert len(panel.chat.turns) == 2 and "the dog" in panel.log.value
    panel.send_button.click()
    assert len(panel.chat.turns) == 2 and "nothing to send" in panel.status.value
    panel.clear_button.click()
    assert panel.chat.turns == [] and "Nothing has been said" in panel.log.value


def test_teaching_in_the_panel(panel, bot):
    panel.intent.value = "mat"
    panel.teach_button.click()
    assert "Say something first" in panel.status.value
    panel.text.value = "mat mat mat"
    panel.send_button.click()
    panel.teach_button.click()
    assert "mat" in panel.intent.options and "Learned as" in panel.status.value and bot.texts_[-1] == "mat mat mat"
    panel.intent.value = "cat"
    panel.teach_button.click()
    assert "are the same" in panel.status.value
    panel.intent.value = " "
    panel.teach_button.click()
    assert "missing" in panel.status.value


def test_letters_that_arrive_behind_the_enter_are_sent_too(panel, monkeypatch):
    monkeypatch.setattr(type(panel.text.comm), "kernel", object(), raising=False)  # as in a notebook

    async def type_on():
        panel.text.value = "the c"
        panel.text._handle_custom_msg({"event": "submit"}, [])
        panel.text.value = "the cat"
        await asyncio.sleep(0.45)
        assert panel.chat.turns == []  # it has changed since, so there may be more to come
        await asyncio.sleep(0.3)
    with ThreadPoolExecutor(1) as elsewhere: elsewhere.submit(asyncio.run, type_on()).result()  # this thread may have a loop, of a browser's
    assert [turn.text for turn in panel.chat.turns] == ["the cat"] and panel.text.value == ""


def test_numbers_can_be_taught(bert):
    panel = ChatPanel(IntentBot(bert, progress=False).fit(TEXTS, [i // 3 for i in range(9)]))
    panel.text.value = "mat mat mat"
    panel.send_button.click()
    panel.intent.value = "2"
    panel.teach_button.click()
    assert panel.chat.bot.classes_.tolist() == [0, 1, 2]


def test_controls_have_names_of_their_own(panel):
    names = [w.description for w in all_of(panel.box) if getattr(w, "description", "")]
    assert sorted(names) == ["It is about", "Send", "Start over", "Teach", "You"]
    assert "role='log'" in panel.log.value and "aria-live='polite'" in panel.log.value and "role='status'" in panel.status.value


def test_a_saved_page_shows_the_conversation(panel):
    panel.text.value = "the cat"
    panel.send_button.click()
    shown = panel._repr_mimebundle_()
    assert "<table>" in shown["text/html"] and "the cat" in shown["text/html"] and "script" not in shown["text/html"]
    assert shown["text/plain"] == repr(panel.chat) and shown["application/vnd.jupyter.widget-view+json"]["model_id"] == panel.box.model_id


def test_the_bot_needs_neither_widgets_nor_fastai():
    code = "import sys, tl_nb.chat; print([m for m in ('ipywidgets', 'fastai', 'IPython', 'peft') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_without_ipywidgets_the_panel_says_what_to_do(fitted, monkeypatch):
    import tl_nb.widgets
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(ImportError, match="tl_nb.chat.Chat"): ChatPanel(fitted)
    assert tl_nb.widgets


BROWSER = ["""from tl_nb.chat import ChatPanel, IntentBot
bot = IntentBot("minilm-l6", answered=1).fit(["red wine", "white wine", "brown bread", "white bread"], ["wine", "wine", "bread", "bread"], {"wine": "In the cellar.", "bread": "At noon."})
panel = ChatPanel(bot)
panel"""]


@pytest.mark.browser
@pytest.mark.timeout(300)
def test_the_panel_by_keyboard(lab, open_notebook):
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook
    from playwright.sync_api import expect

    kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    nbformat.write(new_notebook(cells=[new_code_cell(c) for c in BROWSER], metadata=kernel), lab.project / "nbs" / "chat_panel.ipynb")
    page = open_notebook("nbs/chat_panel.ipynb")
    page.run_all()
    assert page.complaints() == []
    panel, key = page.notebook.locator(".tl-panel.widget-vbox"), page.page.keyboard
    log = panel.get_by_role("log")
    expect(log).to_contain_text("Nothing has been said yet.")
    panel.get_by_role("textbox", name="You").focus()
    key.type("a glass of sparkling wine")
    key.press("Enter")
    expect(log).to_contain_text("In the cellar.")
    expect(panel.get_by_role("textbox", name="You")).to_have_value("")
    key.type("a loaf of bread")
    key.press("Tab")
    expect(panel.get_by_role("button", name="Send")).to_be_focused()
    key.press("Enter")
    expect(log).to_contain_text("At noon.")
    panel.get_by_role("combobox", name="It is about").focus()
    key.type("crumbs")
    key.press("Tab")
    key.press("Enter")
    expect(panel.get_by_role("status")).to_contain_text("Learned as 'crumbs'")
    page.quiet()


# --- the exercise -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("answer, hint", [
    (lambda o, share: float(np.quantile(o, 1 - share)), "one of the confidences themselves"),
    (lambda o, share: float(np.sort(o)[::-1][min(int(share * len(o) + 1e-9) + 1, len(o) - 1)]), "at most 2 may be"),
    (lambda o, share: float(np.sort(o)[::-1][max(int(share * len(o) + 1e-9) - 1, 0)]), "a smaller one would do"),
    (lambda o, share: float(np.sort(o)[::-1][int(share * len(o))]), "29 may be"),
    (lambda o, share: float(o.max()), "a smaller one would do"),
], ids=["interpolated", "one too many", "one too few", "rounded down", "largest"])
def test_slips_in_the_exercise_are_named(answer, hint):
    verdict = check_abstain(answer)
    assert verdict.passed is False and hint in verdict.message


def test_the_right_threshold_passes():
    assert check_abstain(lambda o, share: float(np.sort(o)[::-1][min(int(share * len(o) + 1e-9), len(o) - 1)])).passed
