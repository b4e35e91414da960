"The project template: what it makes passes its own `make test` and answers for new items; what it cannot make leaves nothing behind."
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module, invalidate_caches
from importlib.metadata import distributions
from pathlib import Path
from sysconfig import get_paths

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

import project as tool
import tl_nb.template as T
from notebooks import LIBRARY, ROOT
from small_models import save_text
from tl_nb.exercises_ship import check_all_or_nothing
from tl_nb.template import RECIPES, TemplateError, new_project

KINDS = ("image", "text")


# --- data that no lesson has ever used ----------------------------------------------------------------------------------

def photo(name, rng):
    "A drawing with the look of a photograph: a hill under a sky, a window in a wall, or a leaf on the ground; light, place and noise vary."
    size, x, y = 96, *rng.integers(20, 70, 2)
    tint = rng.uniform(0.7, 1.2)
    colour = lambda *c: tuple(int(min(255, max(0, v * tint + rng.normal(0, 12)))) for v in c)
    image = Image.new("RGB", (size, size), {"hill": colour(130, 170, 220), "window": colour(150, 90, 70), "leaf": colour(110, 95, 75)}[name])
    draw = ImageDraw.Draw(image)
    if name == "hill": draw.polygon([(0, size), (0, int(y)), (int(x), int(y) - 20), (size, int(y) + 10), (size, size)], fill=colour(70, 120, 60))
    if name == "window":
        for row in range(0, size, 8): draw.line([(0, row), (size, row)], fill=colour(110, 60, 50))
        draw.rectangle([int(x) - 18, int(y) - 18, int(x) + 18, int(y) + 18], fill=colour(200, 220, 235), outline=colour(240, 240, 240), width=3)
        draw.line([(int(x), int(y) - 18), (int(x), int(y) + 18)], fill=colour(240, 240, 240), width=2)
    if name == "leaf":
        draw.ellipse([int(x) - 26, int(y) - 12, int(x) + 26, int(y) + 12], fill=colour(80, 150, 50))
        draw.line([(int(x) - 26, int(y)), (int(x) + 26, int(y))], fill=colour(50, 110, 40), width=2)
        image = image.rotate(float(rng.uniform(0, 180)), fillcolor=image.getpixel((0, 0)))
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.2)))
    return Image.fromarray(np.clip(np.asarray(image) + rng.normal(0, 14, (size, size, 3)), 0, 255).astype(np.uint8))


def photos(folder, n, seed):
    "A folder with n photos of each of three classes; returns it."
    rng = np.random.default_rng(seed)
    for name in ("hill", "leaf", "window"):
        (folder / name).mkdir(parents=True)
        for i in range(n): photo(name, rng).save(folder / name / f"{seed}-{i}.jpg", quality=85)
    return folder


WORDS = {"bicycle": (["tyre", "chain", "brake", "saddle", "gear"], ["is worn out", "makes a noise on hills", "came loose while riding"]),
         "garden": (["rose", "hedge", "lawn", "tomato plant", "apple tree"], ["has yellow leaves", "needs water every evening", "was eaten by snails"]),
         "kitchen": (["oven", "soup", "bread dough", "frying pan", "cake"], ["burns at the bottom", "did not rise", "tastes of too much salt"])}


def notes(n, seed):
    "n notes on each of three subjects, as (text, label)."
    rng, found = np.random.default_rng(seed), []
    for label, (things, faults) in WORDS.items():
        pairs = [f"{start} {thing} {fault}{end}" for thing in things for fault in faults for start in ("The", "Our old", "Help, my", "A neighbour says the")
                 for end in (".", ", what can I do?", " since last week.")]
        found += [(pairs[i], label) for i in rng.permutation(len(pairs))[:n]]
    return found


def table(path, rows, head=("text", "label")):
    with open(path, "w", newline="", encoding="utf-8") as f: csv.writer(f).writerows([head, *rows])
    return path


# --- projects that work -------------------------------------------------------------------------------------------------

def outside(): return {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}


def environment(**more):
    "The environment with the network cut, one thread for each of what runs at the same time, and nothing of a make that runs these tests."
    path = os.pathsep.join([str(ROOT / "tools" / "offline"), str(ROOT)])
    return outside() | {"PYTHONPATH": path, "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"} | more


def command(*words, folder, env=None):
    return subprocess.run([str(w) for w in words], cwd=folder, env=env or environment(), capture_output=True, text=True)


def contents(folder): return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and "__pycache__" not in p.parts}


class Made:
    "A project of one kind, its files as they were made, what its `make test` said, and new items with their labels."
    def __init__(self, kind, place):
        self.kind, place = kind, place / kind
        place.mkdir()
        if kind == "image":
            self.path, new = new_project(place / "Yard photos", photos(place / "pictures", 14, 1)), photos(place / "new", 4, 2)
            self.items = sorted(new.rglob("*.jpg"))
            self.labels = [p.parent.name for p in self.items]
        else:
            known = notes(16, 1)
            self.path = new_project(place / "help-desk", table(place / "notes.csv", known), "text", name="helpdesk")
            self.items, self.labels = zip(*[row for row in notes(30, 2) if row not in known][::4])
        self.package, self.files = {"image": "yard_photos", "text": "helpdesk"}[kind], contents(self.path)

    def run(self):
        "Its own `make test`, then its answers for the new items."
        self.ran = command("make", "test", f"PYTHON={sys.executable}", folder=self.path)
        self.answered = command(sys.executable, "-m", f"{self.package}.predict", "--json", *self.items, folder=self.path)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "{kind: Made}, both tested at the same time."
    found = {kind: Made(kind, tmp_path_factory.mktemp("projects")) for kind in KINDS}
    with ThreadPoolExecutor(2) as pool: list(pool.map(Made.run, found.values()))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_its_own_make_test_passes_untouched(made, kind):
    said = made[kind].ran.stdout + made[kind].ran.stderr
    assert made[kind].ran.returncode == 0, said[-3000:]
    assert re.search(r"\d+ passed", said) and not re.search(r"skipped|xfailed|warning", said), said[-1000:]


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_ships_is_what_nbdev_writes(made, kind):
    after = contents(made[kind].path)
    changed = {name for name, data in made[kind].files.items() if after.get(name) != data}
    assert changed == {"MODEL_CARD.md"}, "make test writes the card, and nothing else of what was there"
    new = {name for name in after if name not in made[kind].files}
    assert all(name.startswith((f"{made[kind].package}/model/", "results/", ".pytest_cache/")) for name in new), sorted(new)


@pytest.mark.parametrize("kind", KINDS)
def test_predict_answers_for_new_items(made, kind):
    m, done = made[kind], made[kind].answered
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [row["item"] for row in found] == [str(x) for x in m.items]
    assert all(row["confidence"] == max(row["probabilities"].values()) and set(row["probabilities"]) == set(m.labels) for row in found)
    assert np.mean([row["label"] == y for row, y in zip(found, m.labels)]) >= 0.75


@pytest.mark.parametrize("kind", KINDS)
def test_the_card_comes_from_the_figures(made, kind):
    m, card = made[kind], (made[kind].path / "MODEL_CARD.md").read_text()
    found = json.loads((m.path / "results" / "test.json").read_text())
    assert found["model"]["low"] < found["model"]["accuracy"] <= found["model"]["high"] and found["items"]["test"] == found["model"]["n"]
    assert f"{found['model']['accuracy']:.3f}" in card and m.path.name in card and "Nothing has been measured" not in card
    assert found["note"]["recipe"] == "frozen" and found["model"]["accuracy"] > found["majority"]


@pytest.mark.parametrize("wrong, says", [(["no_such.jpg"], "no such image file"), (["--model", "nowhere", "x.jpg"], "no model yet")])
def test_predict_says_what_it_cannot_use_in_one_line(made, wrong, says):
    done = command(sys.executable, "-m", "yard_photos.predict", *wrong, folder=made["image"].path)
    assert done.returncode == 1 and not done.stdout and done.stderr.startswith("error: ") and says in done.stderr and done.stderr.count("\n") == 1


def test_nothing_of_this_machine_is_kept_in_git(made):
    for m in made.values():
        shown = [name for name, data in m.files.items() if str(Path.home()).encode() in data or str(m.path.parent).encode() in data or str(ROOT).encode() in data]
        assert shown == ["local.mk"] and "local.mk" in (m.path / ".gitignore").read_text().split()


def test_no_gap_is_left_and_every_file_is_complete(made):
    for m in made.values():
        files = {name: data for name, data in m.files.items() if not name.startswith("data/")}
        for name, data in files.items(): assert not re.search(rb"(?<!\$)\{\{ |\{%", data) and b"tlnbproject" not in data and data.endswith(b"\n"), name
        want = {"settings.ini", "pyproject.toml", "Makefile", "README.md", "MODEL_CARD.md", "notes.md", ".gitignore", ".github/workflows/ci.yml", "tests/test_project.py", "local.mk",
                *(f"nbs/{n}.ipynb" for n in ("00_data", "01_baseline", "02_transfer", "03_evaluate", "04_ship", "app")),
                *(f"{m.package}/{n}.py" for n in ("__init__", "_modidx", "data", "baseline", "transfer", "evaluate", "predict"))}
        assert set(files) == want


def test_a_package_of_it_takes_the_model_along(made, tmp_path):
    m = made["text"]
    copy = shutil.copytree(m.path, tmp_path / "copy")
    done = command(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", tmp_path, copy, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    shutil.unpack_archive(next(tmp_path.glob("*.whl")), tmp_path / "content", "zip")
    assert {p.name for p in (tmp_path / "content" / "helpdesk" / "model").iterdir()} == {"model.json", "linear.safetensors"}
    assert "helpdesk-predict = helpdesk.predict:main" in next((tmp_path / "content").glob("*.dist-info/entry_points.txt")).read_text()


# --- the template itself ------------------------------------------------------------------------------------------------

def test_the_template_is_a_project_with_its_name_taken_out(tmp_path):
    project = new_project(tmp_path / "p", table(tmp_path / "notes.csv", notes(5, 0)), name=tool.PACKAGE)
    tool.take(project, tmp_path / "taken")
    template = {name: data for name, data in contents(tool.TEMPLATE).items() if name.startswith(("nbs/", "{{ package }}/"))}
    assert contents(tmp_path / "taken") == template, "run tools/project.py, or undo by hand what was changed by hand"


def test_a_notebook_with_a_sign_of_copier_is_not_taken():
    with pytest.raises(ValueError, match="x.ipynb holds '{{'"): tool.gaps("f'{{x}}'", "x.ipynb")
    assert tool.gaps("from tlnbproject.data import load", "x") == "from {{ package }}.data import load"


def test_the_wheel_of_the_library_takes_the_template_along():
    from setuptools.glob import glob

    patterns = re.search(r'^tl_nb = \[(.*)\]$', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    packed = {Path(p).relative_to(LIBRARY).as_posix() for pattern in re.findall('"(.*?)"', patterns) for p in glob(str(LIBRARY / pattern), recursive=True) if Path(p).is_file()}
    assert {f"_project/{name}" for name in contents(tool.TEMPLATE)} <= packed


# --- every recipe, on small networks ------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def package(tmp_path_factory):
    "The modules of a project on texts whose network is a small random BERT."
    place = tmp_path_factory.mktemp("recipes")
    rows = [(f"the {a} {b} on the {c}", "warm" if a in ("cat", "hat") else "cold") for a in ("cat", "dog", "hat", "mat") for b in ("sat", "ran") for c in ("mat", "hat", "cat", "dog", "red mat")]
    path = new_project(place / "p", table(place / "t.csv", rows), name="small_recipes")
    settings = path / "settings.ini"
    settings.write_text(settings.read_text().replace("backbone = minilm-l6", f"backbone = {save_text('bert', place / 'bert')}"))
    sys.path.insert(0, str(path))
    invalidate_caches()
    yield lambda name: import_module(f"small_recipes.{name}")
    sys.path.remove(str(path))
    for name in [n for n in sys.modules if n.startswith("small_recipes")]: del sys.modules[name]


@pytest.fixture(scope="module")
def small(package):
    "(settings of the project, its data)"
    return package("data").read_settings()[0], package("data").load()


@pytest.mark.parametrize("recipe", [r for r in RECIPES if r != "pixels"])
def test_every_recipe_trains_and_is_the_same_after_save_and_load(package, small, recipe, tmp_path):
    (project, data), transfer = small, package("transfer")
    model, score = transfer.fit(recipe, data, project.backbone, 0)
    p = model.predict_proba(data.test.items)
    assert p.shape == (len(data.test), 2) and np.allclose(p.sum(1), 1, atol=1e-5) and 0 <= score <= 1
    transfer.save(model, tmp_path / "model", recipe=recipe, kind="text", backbone=project.backbone)
    again, note = transfer.load_model(tmp_path / "model")
    assert np.allclose(again.predict_proba(data.test.items), p, atol=1e-5) and note["recipe"] == recipe
    assert again.classes == ["cold", "warm"] and not list(tmp_path.rglob("*.pkl"))


def test_the_recipes_are_those_of_the_library(package): assert package("transfer").RECIPES == tuple(RECIPES)


def test_an_unknown_recipe_is_named(package, small):
    with pytest.raises(package("transfer").ModelError, match="'magic': there is no such recipe"): package("transfer").fit("magic", small[1], "minilm-l6", 0)


def test_words_are_those_of_scikit_learn(package, small):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.feature_extraction.text import TfidfVectorizer

    data = small[1]
    model, _ = package("baseline").fit_baseline(data)
    best = min((make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=C, max_iter=2000)).fit(data.train.items, data.train.labels)
                for C in package("baseline").C_GRID), key=lambda m: np.abs(m.predict_proba(data.test.items) - model.predict_proba(data.test.items)).max())
    assert np.allclose(best.predict_proba(data.test.items), model.predict_proba(data.test.items), atol=1e-6)


@pytest.mark.parametrize("spoil, says", [
    (lambda f: (f / "linear.safetensors").write_bytes(b"x"), "linear.safetensors was changed"),
    (lambda f: (f / "linear.safetensors").unlink(), "linear.safetensors was added or taken away"),
    (lambda f: (f / "more").write_text("x"), "more was added or taken away"),
    (lambda f: (f / "model.json").write_text((f / "model.json").read_text().replace('"cold"', '"told"')), "was changed after"),
    (lambda f: (f / "model.json").write_text("{"), "damaged"), (lambda f: (f / "model.json").unlink(), "no model yet")])
def test_a_spoilt_model_is_refused(package, small, spoil, says, tmp_path):
    transfer = package("transfer")
    transfer.save(package("baseline").fit_baseline(small[1])[0], tmp_path / "m")
    spoil(tmp_path / "m")
    with pytest.raises(transfer.ModelError, match=says): transfer.load_model(tmp_path / "m")


def test_what_holds_no_model_is_not_replaced(package, small, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("x")
    with pytest.raises(package("transfer").ModelError, match="holds no model"): package("transfer").save(package("baseline").fit_baseline(small[1])[0], tmp_path / "mine")
    assert contents(tmp_path) == {"mine/letter": b"x"}


def test_data_that_come_in_parts_keep_them(package, tmp_path):
    from tl_nb.data import from_folder

    for part, n in (("train", 6), ("test", 3)):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(n): (tmp_path / part / name / f"{i}.txt").write_text(f"{part} {name} {i}")
    data = package("data").parted(from_folder(tmp_path), 0)
    assert {name: len(at) for name, at in data.splits.items()} == {"train": 10, "valid": 2, "test": 6}
    assert all(x.startswith("test") for x in data.test.items) and all(x.startswith("train") for x in data.train.items + data.valid.items)


# --- data, names and recipes ----------------------------------------------------------------------------------------------

def settings_of(project):
    from configparser import ConfigParser

    parser = ConfigParser(interpolation=None)
    parser.read(project / "settings.ini")
    return dict(parser["project"]) | {f"read.{k}": v for k, v in parser["read"].items()}


@pytest.fixture(scope="module")
def csv_file(tmp_path_factory): return table(tmp_path_factory.mktemp("data") / "notes.csv", notes(5, 3))


def counts(project, package):
    "The sizes of the parts, as the project itself reads its data, in a process of its own."
    done = command(sys.executable, "-c", f"from {package}.data import load; print({{k: len(v) for k, v in load().splits.items()}})", folder=project)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_small_data_are_copied_and_large_ones_pointed_at(tmp_path, monkeypatch):
    data = photos(tmp_path / "home" / "pictures", 5, 0)
    (data / ".hidden").mkdir()
    (data / ".hidden" / "x.jpg").write_bytes(b"x")
    copied = new_project(tmp_path / "home" / "one", data)
    assert settings_of(copied)["data"] == "data/pictures"
    assert contents(copied / "data" / "pictures") == {k: v for k, v in contents(data).items() if not k.startswith(".")}
    monkeypatch.setattr(T, "COPY", 1000)
    near = new_project(tmp_path / "home" / "two", data)
    (tmp_path / "away").mkdir()
    far = new_project(tmp_path / "away" / "three", data)
    assert settings_of(near)["data"] == "../pictures" and settings_of(far)["data"] == str(data)
    assert not (near / "data").exists() and not (far / "data").exists()
    assert counts(near, "two") == counts(far, "three") == counts(copied, "one") == "{'train': 9, 'valid': 3, 'test': 3}"


def test_a_table_of_images_takes_them_along(tmp_path):
    photos(tmp_path / "pictures", 5, 0)
    rows = [(f"pictures/{name}/0-{i}.jpg", name, f"day {i}") for name in ("hill", "leaf", "window") for i in range(5)]
    project = new_project(tmp_path / "p", table(tmp_path / "list.csv", rows, ("image", "label", "day")), "image", group="day")
    assert settings_of(project) | {"data": "data/list.csv", "kind": "image", "read.image": "image", "read.group": "day"} == settings_of(project)
    assert len(list((project / "data" / "pictures").rglob("*.jpg"))) == 15
    assert counts(project, "p") == "{'train': 9, 'valid': 3, 'test': 3}"


def test_images_outside_of_the_table_are_pointed_at(tmp_path):
    photos(tmp_path / "pictures", 3, 0)
    (tmp_path / "lists").mkdir()
    rows = [(f"../pictures/{name}/0-{i}.jpg", name) for name in ("hill", "leaf") for i in range(3)]
    project = new_project(tmp_path / "p", table(tmp_path / "lists" / "list.csv", rows, ("image", "label")), "image")
    assert settings_of(project)["data"] == "../lists/list.csv" and not (project / "data").exists()


def test_columns_are_kept_in_the_settings(tmp_path):
    project = new_project(tmp_path / "p", table(tmp_path / "t.csv", notes(4, 0), ("what", "about")), text="what", label="about")
    assert settings_of(project)["read.text"] == "what" and counts(project, "p") == "{'train': 6, 'valid': 3, 'test': 3}"


def test_the_settings_name_kind_recipe_network_and_seed(tmp_path, csv_file):
    found = settings_of(new_project(tmp_path / "p", csv_file, recipe="tfidf"))
    assert found == {"title": "p", "kind": "text", "data": "data/notes.csv", "recipe": "tfidf", "backbone": "minilm-l6", "seed": "42"}


@pytest.mark.parametrize("folder, package", [("help-desk", "help_desk"), ("My Photos", "my_photos"), ("v1.2", "v1_2"), ("leaves", "leaves")])
def test_the_package_is_called_like_the_folder(tmp_path, csv_file, folder, package):
    assert (new_project(tmp_path / folder, csv_file) / package / "data.py").is_file()


def test_a_folder_of_that_name_beside_is_no_module(tmp_path, csv_file, monkeypatch):
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "x.jpg").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert (new_project("p", csv_file, name="beside") / "beside").is_dir()


# --- what cannot be made ----------------------------------------------------------------------------------------------------

def refused(tmp_path, *args, **kwargs):
    "The message of a project that is refused; raises unless it is one line and nothing has changed around it."
    before = sorted((str(p), p.lstat().st_mtime_ns if p.is_file() else 0) for p in tmp_path.rglob("*"))
    with pytest.raises(TemplateError) as caught: new_project(*args, **kwargs)
    assert before == sorted((str(p), p.lstat().st_mtime_ns if p.is_file() else 0) for p in tmp_path.rglob("*")), "something was left behind, or changed"
    assert "\n" not in str(caught.value) and len(str(caught.value)) > 40
    return str(caught.value)


@pytest.mark.parametrize("name, why", [("2nd", "no Python identifier"), ("my-project", "no Python identifier"), ("", "no Python identifier"), ("a b", "no Python identifier"), ("../x", "no Python identifier"),
                                       ("class", "word of the language"), ("match", "word of the language"), ("json", "there already"), ("numpy", "there already"), ("tl_nb", "there already"),
                                       ("sys", "there already"), ("_x", "name of a package"), ("étude", "name of a package"), ("data", "every project"), ("Tests", "every project")])
def test_a_name_that_cannot_be_imported_is_refused(tmp_path, csv_file, name, why):
    message = refused(tmp_path, tmp_path / "p", csv_file, name=name)
    assert repr(name) in message and why in message and "name=" in message


def test_a_folder_that_gives_no_name_is_refused(tmp_path, csv_file):
    message = refused(tmp_path, tmp_path / "2024", csv_file)
    assert "'2024'" in message and "made of the folder" in message


def there(kind, path):
    if kind == "file": path.write_text("mine")
    if kind in ("folder", "full"): path.mkdir()
    if kind == "full": (path / "letter").write_text("mine")
    if kind == "link": path.symlink_to(path.parent / "nowhere")


@pytest.mark.parametrize("kind", ["file", "folder", "full", "link"])
def test_what_is_there_is_not_touched(tmp_path, csv_file, kind):
    there(kind, tmp_path / "p")
    assert "there already" in refused(tmp_path, tmp_path / "p", csv_file)


def test_what_appears_meanwhile_is_not_touched(tmp_path, csv_file, monkeypatch):
    monkeypatch.setattr(T, "_localise", lambda folder: there("full", tmp_path / "p"))
    with pytest.raises(TemplateError, match="cannot be made"): new_project(tmp_path / "p", csv_file)
    assert contents(tmp_path) == {"p/letter": b"mine"}


def bad_data(what, place):
    "Data that no project can be made of; returns their path."
    path = place / "bad"
    if what == "missing": return path
    if what == "a text file": (path := place / "bad.txt").write_text("hello")
    if what == "binary": (path := place / "bad.csv").write_bytes(bytes(range(256)) * 4)
    if what == "one label": return table(place / "bad.csv", [("a", "x"), ("b", "x")])
    if what == "no label": return table(place / "bad.csv", [("a", "x"), ("b", "")])
    if what == "no text column": return table(place / "bad.csv", [("a", "x"), ("b", "y")], ("words", "label"))
    if what == "header only": return table(place / "bad.csv", [])
    if what == "too few": return table(place / "bad.csv", [("a", "x"), ("b", "x"), ("c", "x"), ("d", "y")])
    if what in ("empty", "empty classes", "one class", "torn", "no images"): path.mkdir()
    if what == "empty classes": (path / "a").mkdir(), (path / "b").mkdir()
    if what == "no images": (path / "a").mkdir(), (path / "a" / "x.dat").write_bytes(b"x")
    if what in ("one class", "torn"): shutil.copytree(photos(place / "good", 3, 0) / "hill", path / "hill")
    if what == "torn":
        shutil.copytree(place / "good" / "leaf", path / "leaf")
        (path / "leaf" / "torn.jpg").write_bytes((path / "leaf" / "0-0.jpg").read_bytes()[:400])
    return path


@pytest.mark.parametrize("what, says", [("missing", "no such folder or file"), ("empty", "the folder is empty"), ("empty classes", "no images and no .txt"), ("no images", "no images and no .txt"),
                                        ("one class", "one class, 'hill'"), ("torn", "leaf/torn.jpg"), ("a text file", "column 'text'|a header, and no rows"), ("binary", "bad.csv"), ("one label", "one class, 'x'"),
                                        ("no label", "line 3"), ("no text column", "no column 'text'"), ("header only", "a header, and no rows"), ("too few", "class 'y' has 1")])
def test_data_that_cannot_be_used_are_refused(tmp_path, what, says):
    path = bad_data(what, tmp_path)
    message = refused(tmp_path, tmp_path / "p", path)
    assert re.search(says, message) and path.stem in message


@pytest.mark.parametrize("more, says", [(dict(kind="sound"), "kind = 'sound'"), (dict(kind="image"), "no column 'image'"), (dict(image="text", kind="text"), "no image|cannot be used|Leave one"), (dict(recipe="magic"), "recipe = 'magic'"),
                                        (dict(recipe="pixels"), "it is for images"), (dict(colour="red"), "no keyword of from_csv"), (dict(delimiter=";;"), "delimiter")])
def test_what_does_not_fit_is_refused(tmp_path, csv_file, more, says): assert re.search(says, refused(tmp_path, tmp_path / "p", csv_file, **more))


def test_tfidf_is_not_for_images(tmp_path):
    data = photos(tmp_path / "pictures", 3, 0)
    assert "it is for texts" in refused(tmp_path, tmp_path / "p", data, recipe="tfidf")


def test_a_place_that_cannot_be_is_refused(tmp_path, csv_file):
    data = photos(tmp_path / "pictures", 3, 0)
    assert "no folder" in refused(tmp_path, tmp_path / "nowhere" / "p", csv_file)
    assert "inside of its data" in refused(tmp_path, data / "p", data)
    assert "cannot keep it" in refused(tmp_path, tmp_path / "a\nb", csv_file, name="fine")
    assert "cannot be used as a path" in refused(tmp_path, "p" * 5000, csv_file)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=["Ctrl-C", "disk"])
@pytest.mark.parametrize("where", ["shutil.copyfile", "tl_nb.template._localise", "tl_nb.template._render"])
def test_stopped_in_the_middle_it_leaves_nothing(tmp_path, csv_file, monkeypatch, error, where):
    called = []

    def stop(*args):
        called.append(sorted(p.name for p in tmp_path.iterdir()))
        raise error
    monkeypatch.setattr(where, stop)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else TemplateError) as caught: new_project(tmp_path / "p", csv_file)
    assert called and called[0] != ["p"] and list(tmp_path.iterdir()) == []
    if isinstance(error, OSError): assert "No space left on device" in str(caught.value) and "\n" not in str(caught.value)


def test_without_copier_it_says_how_to_get_it(tmp_path, csv_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "copier", None)
    assert "pip install 'tl_nb[cli]'" in refused(tmp_path, tmp_path / "p", csv_file)


# --- the exercise, and a fresh environment ----------------------------------------------------------------------------------

def in_place(folder, write): write(folder)


def cleans_errors_only(folder, write):
    if folder.exists(): raise FileExistsError(folder)
    beside = folder.with_name("beside")
    try: write(beside)
    except Exception:
        shutil.rmtree(beside)
        raise
    beside.rename(folder)


def swallows(folder, write):
    import tempfile

    if folder.exists(): raise FileExistsError(folder)
    with tempfile.TemporaryDirectory(dir=folder.parent) as beside:
        try: write(Path(beside) / "new")
        except (Exception, KeyboardInterrupt): return
        (Path(beside) / "new").rename(folder)


def writes_over(folder, write):
    import tempfile

    with tempfile.TemporaryDirectory(dir=folder.parent) as beside:
        write(Path(beside) / "new")
        if folder.exists(): shutil.rmtree(folder)
        (Path(beside) / "new").rename(folder)


def right(folder, write):
    import tempfile

    if os.path.lexists(folder): raise FileExistsError(folder)
    with tempfile.TemporaryDirectory(dir=folder.parent) as beside:
        write(Path(beside) / "new")
        (Path(beside) / "new").rename(folder)


@pytest.mark.parametrize("answer, hint", [(in_place, "nothing must be left"), (cleans_errors_only, "KeyboardInterrupt"), (swallows, "go on to the caller"), (writes_over, "raise FileExistsError")])
def test_the_check_of_the_exercise_knows_the_slips(answer, hint):
    verdict = check_all_or_nothing(answer)
    assert verdict.passed is False and hint in verdict.message


def test_the_check_of_the_exercise_takes_a_right_answer(): assert check_all_or_nothing(right).passed


def link_gpu_packages(environment):
    "Link what only a GPU would use into a new environment: 4 GB that this one has already, and that no test here runs."
    here, there = (Path(get_paths(vars={"base": p, "platbase": p})["purelib"]) for p in (sys.prefix, str(environment)))
    used = [d for d in distributions() if d.metadata["Name"].startswith(("nvidia-", "triton"))]
    for name in {file.parts[0] for d in used for file in d.files} - {".."}:
        (there / name).symlink_to(here / name)


@pytest.mark.timeout(3000)
@pytest.mark.skipif(os.environ.get("CI_FRESH") != "1", reason="an environment of its own is made where CI_FRESH=1, as .ci/run sets it")
def test_in_a_fresh_environment(tmp_path):
    env = {k: v for k, v in outside().items() if k not in ("PYTHONPATH", "PYTHON", "TL_NB")} | {"PIP_CONSTRAINT": str(ROOT / "constraints.txt")}
    photo, text = (Made(kind, tmp_path) for kind in KINDS)
    own = photo.path / ".venv"
    steps = [(photo, ["make", "setup", f"TL_NB={ROOT}"]), (photo, ["make", "test"]), (photo, [own / "bin" / "yard_photos-predict", "--json", *photo.items])]
    fresh = f"PYTHON={own / 'bin' / 'python'}"
    steps += [(text, ["make", "test", fresh]), (text, [fresh.removeprefix("PYTHON="), "-m", "helpdesk.predict", "--json", *text.items])]
    venv.create(own, symlinks=True)
    link_gpu_packages(own)
    try:
        for m, words in steps:
            done = command(*words, folder=m.path, env=env)
            assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
            if "--json" in words: assert np.mean([row["label"] == y for row, y in zip(json.loads(done.stdout), m.labels)]) >= 0.75
    finally: shutil.rmtree(own) # gigabytes, which pytest would keep for the runs after this one
