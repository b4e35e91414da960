"The advisor and its recipes: what is wrong with data is found, a budget is kept, evidence moves what was expected, and a test part is never touched."
import json
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import tl_nb.advisor as A
import tl_nb.recipes as R
from small_models import everything, image_backbone, images, save_text, texts
from tl_nb.advisor import AdviceError, advise, find_problems, shrunk_gain
from tl_nb.backbones import load_backbone
from tl_nb.data import DataError, Dataset, from_folder
from tl_nb.embedding import FeatureError
from tl_nb.exercises_ship import check_items_that_fit, check_shrunk
from tl_nb.recipes import RecipeError, Task, Training, Trial, fit_recipe, prepare, recipes_for, training_seconds


@pytest.fixture(scope="module")
def bert(tmp_path_factory): return load_backbone(save_text("bert", tmp_path_factory.mktemp("advisor") / "bert"))


@pytest.fixture(scope="module")
def net(): return image_backbone("efficientnet_lite0")


@pytest.fixture(scope="module")
def task(bert): return prepare(texts(36)[:], bert, progress=False)


@pytest.fixture(scope="module")
def advice(bert):
    "Of texts with a test part that cannot be read: whoever looks at it fails."
    good = texts(45, ("cold", "<b>warm|</b>"))
    parts = {"train": np.arange(30), "valid": np.arange(30, 45), "test": np.array([45, 46])}
    return advise(Dataset([*good.items, "", " "], [*good.labels, 0, 1], good.classes, splits=parts), budget=5, backbone=bert, seed=0, progress=False)


# --- data made here, and never used in a lesson -----------------------------------------------------------------------

PLACES = {"sea": "waves sand shells harbour gull sailing tide beach".split(), "kitchen": "oven onion frying soup spoon recipe baking pan".split()}
OTHERS = {"sea": "ocean coast boat seaweed lighthouse swimming fish anchor".split(), "kitchen": "stove garlic roasting stew knife dinner bread kettle".split()}


def notes(n, words, seed):
    "Short texts about one of two places, each with two of its words."
    rng, forms = np.random.default_rng(seed), ("we talked about {} and {} all day", "there was {} next to the {}", "she likes {} more than {}", "first the {}, then the {}")
    labels = [list(words)[i % 2] for i in range(n)]
    return Dataset.from_items([rng.choice(forms).format(*rng.choice(words[y], 2, replace=False)) for y in labels], labels)


def photos(n, seed):
    "Photo-like pictures, 48 pixels wide, of round or of striped things, of any colour and light."
    rng, found = np.random.default_rng(seed), []
    for i in range(n):
        picture = Image.fromarray(rng.integers(0, 90, (48, 48, 3), np.uint8))
        pen, colour, (x, y) = ImageDraw.Draw(picture), tuple(rng.integers(100, 255, 3).tolist()), rng.integers(4, 20, 2)
        if i % 2: pen.ellipse([x, y, x + 24, y + 24], fill=colour)
        else:
            for k in range(0, 24, 6): pen.rectangle([x, y + k, x + 24, y + k + 2], fill=colour)
        found.append(np.asarray(picture))
    return Dataset.from_items(found, [("stripes", "round")[i % 2] for i in range(n)])


def near_the_best(learn, test, backbone, budget, monkeypatch):
    "Advice within its budget, and the accuracies of all recipes on new items."
    monkeypatch.setattr(R, "SEEN", 80)  # short trainings: nine recipes have to be fitted
    said = advise(learn, budget, backbone=backbone, seed=0, progress=False)
    assert 0.75 * budget <= said.spent <= 1.25 * budget, said.spent
    task = prepare(learn, backbone, progress=False)
    right = {name: np.mean(np.array(fit_recipe(task, name, seed=1).predict(test.items)) == test.label_names) for name in recipes_for(learn.kind)}
    assert right[said.best] >= max(right.values()) - 0.02, (said.best, right)
    assert set(said.recipes.recipe) == set(right)
    return said, right


def test_texts_made_here(monkeypatch):
    said, right = near_the_best(notes(40, PLACES, 0), notes(40, OTHERS, 1), replace(load_backbone("minilm-l6"), max_length=24), 7, monkeypatch)
    assert right["tfidf"] < right["frozen"], "the words are others, so counts of words do not help"


def test_photos_made_here(monkeypatch):
    from timm.data import create_transform, resolve_model_data_config

    lite = load_backbone("efficientnet-lite0")
    config = resolve_model_data_config(lite.model) | {"input_size": (3, 48, 48), "crop_pct": 1.0}
    near_the_best(photos(40, 0), photos(40, 1), replace(lite, processor=create_transform(**config, is_training=False)), 12, monkeypatch)


# --- what is wrong with data ------------------------------------------------------------------------------------------

def starts(problems): return [p.split(":")[0] for p in problems]


def test_sound_data_have_no_problem():
    assert find_problems(Dataset.from_items([f"text {i}" for i in range(40)], ["a", "b"] * 20)) == []


def test_each_fault_is_found_and_named():
    items, labels = [f"text {i}" for i in range(40)], ["a"] * 31 + ["b"] * 9
    assert starts(find_problems(Dataset.from_items(items, labels))) == ["Imbalance", "Tiny classes"]
    same = Dataset.from_items([*items, "Text  7", "text 8"], ["a", "b"] * 20 + ["b", "b"])
    copies, contradiction = find_problems(same)
    assert "2 items" in copies and "7 and 40" in copies and "1 items" in contradiction and "8 and 41" in contradiction
    split = replace(same, splits={"train": np.arange(36), "test": np.arange(36, 42)})
    leak = find_problems(split)[-1]
    assert leak.startswith("Leakage: 2 items") and "7 and 40" in leak
    grouped = Dataset.from_items(items, ["a", "b"] * 20, groups=[f"g{i // 3}" for i in range(40)])
    grouped = replace(grouped, splits={"train": np.arange(20), "valid": np.arange(20, 40)})
    leak, = find_problems(grouped)
    assert leak.startswith("Leakage: 1 groups") and "18 and 20" in leak and "'g6'" in leak
    assert starts(find_problems(Dataset(items, [0, 1] * 20, ["a", "b", "c"]))) == ["Empty classes"]


def test_a_folder_with_a_broken_file_is_advised_on_and_the_file_named(tmp_path, net):
    data = images(30)
    for i, (x, y) in enumerate(zip(data.items, data.label_names)):
        (tmp_path / y).mkdir(exist_ok=True)
        Image.fromarray(x).save(tmp_path / y / f"{i}.png")
    (tmp_path / "warm" / "broken.png").write_bytes((tmp_path / "warm" / "1.png").read_bytes()[:60])
    (tmp_path / "alone").mkdir()
    Image.fromarray(data.items[0]).rotate(90).save(tmp_path / "alone" / "one.png")
    said = advise(tmp_path, 5, backbone=net, seed=0, progress=False)
    assert any(p.startswith("Unusable") and "warm/broken.png" in p for p in said.problems)
    assert any(p.startswith("Left out: 'alone'") for p in said.problems) and said.about["classes"] == 2
    assert said.kind == "image" and said.recipes.recipe[0] == said.best
    (tmp_path / "set.csv").write_text("image,label\n" + "\n".join(f"{y}/{i}.png,{y}" for i, y in enumerate(data.label_names)) + "\n")
    assert A._read(tmp_path / "set.csv", {}).kind == "image"


# --- what is computed -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("prior, spread", [(0.02, 0.03), (-0.1, 0.2)])
def test_a_shrunk_gain_is_the_mean_of_the_posterior(prior, spread):
    d = np.repeat([1.0, -1.0, 0.0], [9, 4, 27])
    error = (((d - d.mean()) ** 2).sum() + 1) / 41 / 40
    grid = np.linspace(-1, 1, 200_001)
    weight = np.exp(-(grid - prior) ** 2 / (2 * spread ** 2) - (d.mean() - grid) ** 2 / (2 * error))
    mean = (grid * weight).sum() / weight.sum()
    found = shrunk_gain(d, prior, spread)
    assert found[0] == pytest.approx(mean, abs=1e-6) and found[1] == pytest.approx(np.sqrt(((grid - mean) ** 2 * weight).sum() / weight.sum()), abs=1e-6)
    assert shrunk_gain([], prior, spread) == (prior, spread) and shrunk_gain(d, prior, 0) == (prior, 0)
    assert shrunk_gain(np.tile(d, 3), prior, spread, 40)[1] > shrunk_gain(np.tile(d, 3), prior, spread)[1], "items that are validated thrice are no new items"


def test_turned_rows_have_the_same_products():
    X = np.random.default_rng(0).normal(size=(12, 50))
    np.testing.assert_allclose(R._turned(X) @ R._turned(X).T, X @ X.T, atol=1e-9)
    assert R._turned(X).shape == (12, 12) and R._turned(X.T) is not X.T and R._turned(X.T).shape == (50, 12)


def test_folds_keep_together_what_belongs_together(bert):
    data = texts(40)
    data = replace(Dataset(data.items, data.labels, data.classes, groups=np.arange(40) // 4), splits={})
    trial = Trial(prepare(data, bert, progress=False))
    for i in range(4):
        train, valid = trial.part(i)
        assert not set(data.groups[train]) & set(data.groups[valid]) and set(data.labels[train]) == {0, 1}
    assert sorted(np.concatenate([trial.part(i)[1] for i in range(trial.k)])) == list(range(40))
    train, valid = trial.part(1, 10)
    assert len(train) == 10 and set(train) < set(trial.part(1)[0]) and (valid == trial.part(1)[1]).all()


def test_differences_are_those_of_the_same_items(task):
    trial = Trial(task)
    for i in range(2): trial.head("frozen", i), trial.head("tfidf", i)
    by_hand = [float(trial.head("tfidf", i)[j].argmax() == task.y[at]) - float(trial.head("frozen", i)[j].argmax() == task.y[at])
               for i in range(2) for j, at in enumerate(trial.part(i)[1])]
    assert trial.differences("tfidf").tolist() == by_hand and len(trial.differences("lora")) == 0


def test_a_step_is_measured_and_the_learner_stays_as_it_was(task):
    training = Training(task, "last-k", range(30), seed=0)
    before, stream = everything(training.learner.model), torch.get_rng_state()
    assert training.step() > 0
    assert all(torch.equal(v, before[k]) for k, v in everything(training.learner.model).items()) and torch.equal(stream, torch.get_rng_state())
    assert training_seconds(0.01, 32, 3, 0) == pytest.approx(0.96) and training_seconds(0, 33, 2, 10**9) == pytest.approx(2 * 3 * 3.0)


@pytest.mark.parametrize("name", R.TRAINED)
def test_what_moves_is_what_the_recipe_says(task, name):
    training = Training(task, name, range(36), seed=0, epochs=1)
    before = everything(training.learner.model)
    assert training.run()
    moved = {k for k, v in everything(training.learner.model).items() if not torch.equal(v, before[k])}
    assert any("head" in k for k in moved) and any("body" in k for k in moved)
    if name == "lora": assert all("lora" in k or "head" in k for k in moved)


def test_a_training_that_is_late_is_broken_off_and_does_not_count(task):
    assert not Training(task, "lp-ft", range(36), seed=0).run(until=time.perf_counter() - 1)
    trial = Trial(task, start=time.perf_counter() - 100, budget=5)
    assert not trial.train("lp-ft", 0) and not trial.runs("lp-ft") and trial.misfit["lp-ft"] > 0


# --- how a budget is spent --------------------------------------------------------------------------------------------

class Pretended:
    "A trial in which trainings take no time and gains are known."
    kind, task = "text", SimpleNamespace(y=np.zeros(90), data=SimpleNamespace(classes=["a", "b"]))

    def __init__(self, gains, budget=100.0, each=1.0): self.gains, self.budget, self.each, self.spent, self.done, self.took, self.k, self.misfit = gains, budget, each, 0.0, [], {}, 3, {}

    def part(self, i, n=None): return np.arange(60 if n is None else min(n, 60)), np.arange(30)

    def price(self, name, n, valid, epochs=None): return self.each * n / 60

    def fits(self, seconds): return self.spent + seconds <= 1.1 * self.budget

    def train(self, name, i, n=None, epochs=None):
        self.spent += self.price(name, len(self.part(i, n)[0]), 0)
        self.done.append((name, i, len(self.part(i, n)[0])))
        return True

    def head(self, name, i, n=None): self.done.append((name, i, 60))

    def runs(self, name):
        found = [(i, n) for who, i, n in self.done if who == name]
        return [(i, n) for i, n in found if n >= 0.9 * max(n for _, n in found)]

    def differences(self, name, other="frozen"): return np.full(30 * len(self.runs(name)), self.gains.get(name, 0.0))


def test_halving_keeps_the_better_two_and_then_the_most_hopeful():
    trial = Pretended({"lora": 0.3, "full": 0.2, "lp-ft": -0.2, "last-k": -0.3})
    alive = A._first_round(trial)
    assert alive == ["lora", "full"] and [(name, n) for name, _, n in trial.done] == [(name, 30) for name in sorted(R.TRAINED, key=lambda r: -A.PRIOR["text"][r][0])]
    A._spend(trial, alive)
    later = [name for name, _, n in trial.done[4:] if name in R.TRAINED]
    assert set(later) <= {"lora", "full"} and later.count("lora") >= later.count("full") and later[0] == "lora"
    assert sorted(i for name, i, n in trial.done[4:] if name == "lora") == list(range(later.count("lora"))), "each fold once"


def test_a_round_that_is_too_dear_is_left_out_and_the_budget_kept():
    trial = Pretended({}, budget=5.0, each=2.0)
    assert set(A._first_round(trial)) == set(R.TRAINED) and not trial.done
    A._spend(trial, R.TRAINED)
    assert 0.75 * 5 <= trial.spent <= 1.1 * 5
    trial = Pretended({}, budget=1.0, each=100.0)
    A._spend(trial, R.TRAINED)
    assert not [d for d in trial.done if d[0] in R.TRAINED] and set(trial.misfit) == set(R.TRAINED)


def test_where_all_items_do_not_fit_fewer_are_tried():
    trial = Pretended({}, budget=1.0, each=1.6)
    name, = ["lora"]
    assert A._size_that_fits(trial, name) is None or A._size_that_fits(trial, name)[1] < 60
    trial.part = lambda i, n=None: (np.arange(64 if n is None else min(n, 64)), np.arange(30))
    assert A._size_that_fits(trial, name) == (0, 32, 3)


def test_the_test_part_is_never_used(advice):
    assert advice.about["items"] == 45 and len(advice.pool) == 45, "reading an empty text would have raised"


# --- the report -------------------------------------------------------------------------------------------------------

def test_what_the_report_holds(advice):
    t = advice.recipes
    assert list(t.columns) == ["recipe", "accuracy", "low", "high", "seconds", "mb", "evidence"] and sorted(t.recipe) == sorted(recipes_for("text"))
    assert advice.best == t.recipe[0] and (t.low <= t.accuracy).all() and (t.accuracy <= t.high).all() and t[["low", "high"]].stack().between(0, 1).all()
    assert t.accuracy[1:].is_monotonic_decreasing and not t.evidence[0].startswith("not tried") and (t.mb > 0).all() and (t.seconds > 0).all()
    assert list(advice.stages.index) == ["embeddings", "block 1", "block 2"] and set(advice.curve.method) == {"tfidf", "frozen"}
    assert advice.spent <= 1.25 * 5 and 0 <= advice.familiar["nearest neighbour of the same class"] <= 1


@pytest.mark.parametrize("gain, said", [(0.5, "Transfer is worth it"), (-0.5, "Do not use transfer"), (0.0, "Not clear")])
def test_the_verdict_follows_the_differences(gain, said):
    trial = Pretended({"lora": gain})
    trial.task, trial.done = SimpleNamespace(y=np.arange(90) % 2), [("lora", 0, 60), ("lora", 1, 60)]
    table = A.pd.DataFrame([dict(recipe="ensemble", accuracy=0.9, untried=True), dict(recipe="lora", accuracy=0.9, untried=False)])
    assert A._verdict(trial, table).startswith(said)
    assert A._verdict(trial, table.assign(accuracy=0.52)).startswith("Nothing has been learned")


def test_a_curve_has_one_size_a_step():
    rows = [(size + i, i, name, 0.5) for i in range(2) for size in (20, 40, 80) for name in ("tfidf", "frozen")]
    curve = A._levelled(A.pd.DataFrame(rows, columns=["n", "seed", "method", "score"]))
    assert curve.groupby(["method", "n"]).size().tolist() == [2] * 6
    assert A._levelled(curve[:0]).empty


def test_it_prints_and_is_a_page_and_a_table(advice):
    assert advice.best in str(advice) and str(advice) == repr(advice) and "Recipes, best first" in str(advice)
    odd = replace(advice, problems=["a | b <script>", "two\nlines"])
    assert "<script>" not in odd.to_html() and "&lt;script&gt;" in odd._repr_html_() and odd.to_html().startswith("<!doctype html>")
    rows = [line for line in odd.to_markdown().splitlines() if line.startswith("|")]
    assert rows and "- two lines" in odd.to_markdown() and len({r.count("|") - r.count("\\|") for r in rows if "frozen against" in r or r.startswith("| frozen")}) <= 2


def test_a_saved_report_is_read_by_a_new_process(advice, tmp_path):
    for suffix in ("html", "md", "json"): assert advice.save(tmp_path / f"advice.{suffix}").stat().st_size > 500
    code = f"import json; d = json.load(open({str(tmp_path / 'advice.json')!r})); print(d['best'], len(d['recipes']), d['recipes'][0]['recipe'])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert said == [advice.best, str(len(advice.recipes)), advice.best]
    assert json.loads(json.dumps(advice.to_dict())) == json.loads((tmp_path / "advice.json").read_text())
    with pytest.raises(AdviceError, match="something of that name"): advice.save(tmp_path / "advice.md")
    assert advice.save(tmp_path / "advice.md", overwrite=True) and len(list(tmp_path.iterdir())) == 3, "nothing half-made lies about"
    with pytest.raises(AdviceError, match=".html, .md or .json"): advice.save(tmp_path / "advice.pdf")
    with pytest.raises(AdviceError, match="no folder"): advice.save(tmp_path / "none" / "advice.md")


def test_fit_predicts_new_items(advice):
    new = texts(10, ("cold", "<b>warm|</b>"), seed=9)
    for name in (None, "tfidf", "ensemble"):
        found = advice.fit(name)
        p = found.predict_proba(new.items)
        assert p.shape == (10, 2) and np.allclose(p.sum(1), 1, atol=1e-5)
        assert list(found.predict(new.items)) == [new.classes[i] for i in p.argmax(1)]


# --- what cannot be used ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("budget", [0, -3, 4.9, float("nan"), float("inf"), "2min", None, True])
def test_a_budget_that_is_none(budget):
    with pytest.raises(AdviceError, match="budget"): advise(texts(), budget)


def test_data_that_cannot_be_advised_on(tmp_path, bert):
    with pytest.raises(AdviceError, match="no such file"): advise(tmp_path / "none")
    with pytest.raises(AdviceError, match="a list"): advise(["a", "b"])
    with pytest.raises(AdviceError, match="only for a folder"): advise(texts(), text="review")
    with pytest.raises(DataError, match="empty"): advise(tmp_path)
    with pytest.raises(AdviceError, match="at least two such classes"): advise(Dataset.from_items(["a", "b", "c", "c"], ["x", "x", "y", "y"]))
    with pytest.raises(AdviceError, match="0 items"): advise(replace(texts(12), splits={"train": np.array([], int), "test": np.arange(12)}))
    (tmp_path / "set.csv").write_text("words,label\na,b\n")
    with pytest.raises(DataError, match="no column 'text'"): advise(tmp_path / "set.csv")


def test_recipes_that_cannot_be_fitted(task, bert):
    with pytest.raises(RecipeError, match="tfidf, frozen"): fit_recipe(task, "pixels")
    with pytest.raises(RecipeError, match="no item"): fit_recipe(Dataset(["a b", "c d"], [0, 0], ["x", "y"]), "tfidf", backbone=bert)
    with pytest.raises(RecipeError, match="Dataset is needed"): prepare(["a"])
    with pytest.raises(RecipeError, match="kind"): recipes_for("sound")
    with pytest.raises(RecipeError, match="both learned and judged"):
        Trial(prepare(Dataset([f"cat {w}" for w in "abcdefgh"], [0, 1, 0, 1, 0, 0, 0, 0], ["x", "y"], groups=np.array([0, 0, 0, 0, 1, 1, 1, 1])), bert, progress=False))
    found = fit_recipe(task, "tfidf")
    with pytest.raises(FeatureError, match="Item 1"): found.predict(["a cat", 3])
    assert found.predict([]) == [] and found.predict_proba([]).shape == (0, 2)


# --- the exercises ----------------------------------------------------------------------------------------------------

def test_the_checks_find_slips():
    fit = lambda step, epochs, left: int(left / (step * epochs) + 1e-9)
    assert check_items_that_fit(fit).passed
    wrong = [lambda s, e, left: int(left / s + 1e-9), lambda s, e, left: int(left / (s * e)), lambda s, e, left: int(np.ceil(left / (s * e))), lambda s, e, left: left / (s * e), lambda s, e, left: fit(s, e, left) - 1]
    assert [check_items_that_fit(w).passed for w in wrong] == [False] * 5 and check_items_that_fit(...).passed is None

    def shrunk(p, s, g, e): return p + (s ** 2 / (s ** 2 + e ** 2)) * (g - p)
    assert check_shrunk(shrunk).passed
    wrong = [lambda p, s, g, e: p + s / (s + e) * (g - p), lambda p, s, g, e: p + e ** 2 / (s ** 2 + e ** 2) * (g - p), lambda p, s, g, e: g, lambda p, s, g, e: p, lambda p, s, g, e: (p + g) / 2]
    assert [check_shrunk(w).passed for w in wrong] == [False] * 5
