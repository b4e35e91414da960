"The command line: every bad input is one line and a code, nothing is half-made or overwritten, Ctrl-C is real; what is asked arrives at the library."
import dataclasses
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

import lab
import tl_nb.cli as C
from notebooks import NBS, ROOT, lessons
from tl_nb.assets import Asset
from tl_nb.cli import CommandError, app, copy_course, find_lesson, one_line, seconds, whole
from tl_nb.data import DataError
from tl_nb.doctor import diagnose
from tl_nb.exercises_ship import check_safe_cache, check_span
from tl_nb.settings import load_settings, settings

ENV = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "tools" / "offline"), str(ROOT)])}


def tree(folder):
    "{path: content} of all that is in a folder, hidden or not."
    return {p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else None for p in sorted(Path(folder).rglob("*"))}


@pytest.fixture
def place(tmp_path, monkeypatch):
    "A working folder with some data in it."
    monkeypatch.chdir(tmp_path)
    for word in ("good", "bad"):
        (tmp_path / "data" / word).mkdir(parents=True)
        for i in range(4): (tmp_path / "data" / word / f"{i}.txt").write_text(f"{word} number {i}")
    (tmp_path / "data.csv").write_text("text,label\n" + "".join(f"{w} number {i},{w}\n" for w in ("good", "bad") for i in range(4)))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.csv").touch()
    return tmp_path


class Ours(ValueError): __module__ = "tl_nb.template"


class Report:
    best = "tfidf"
    def __init__(self, fails=None): self.fails = fails
    def __str__(self): return "the best is tfidf"
    def to_dict(self): return {"best": "tfidf", "accuracy": np.float32(0.5), "low": float("nan"), "recipes": [{"mb": np.int64(3)}], "at": Path("x")}
    def save(self, path):
        Path(path).write_text("half")
        if self.fails: raise self.fails
        Path(path).write_text(f"report {Path(path).suffix}")


@pytest.fixture
def asked(monkeypatch):
    "Stand-ins for the advisor and the template that note what they are asked; `fails` is raised by both."
    seen = SimpleNamespace(advise=[], new=[], fails=None, report=Report())
    def advise(data, budget=120, *, seed=None, progress=None, store=None, **columns):
        seen.advise.append((data, budget, seed, progress))
        seen.columns = columns
        if seen.fails: raise seen.fails
        return seen.report
    def package(name, path):
        name = path.name.replace("-", "_") if name is None else name
        if not name.isidentifier() or name == "class": raise Ours(f"name = {name!r}: it is no Python identifier. Give another one with --name.")
    def new_project(path, data, kind=None, *, name=None, recipe=None, **reading):
        seen.new.append((path, data, kind, name, recipe))
        seen.reading = reading
        if seen.fails: raise seen.fails
        path.mkdir()
        return path
    monkeypatch.setitem(sys.modules, "tl_nb.advisor", SimpleNamespace(advise=advise))
    monkeypatch.setitem(sys.modules, "tl_nb.template", SimpleNamespace(new_project=new_project, _package=package))
    return seen


def run(*args, **more):
    "A command in this process."
    done = CliRunner().invoke(app, list(map(str, args)), **more)
    return SimpleNamespace(code=done.exit_code, out=done.stdout, err=done.stderr, exception=done.exception)


def call(*args, cwd=None, env=ENV, **more):
    "A command in a process of its own."
    return subprocess.run([sys.executable, "-m", "tl_nb.cli", *map(str, args)], cwd=cwd, env=env, capture_output=True, text=True, **more)


def one(err, *words):
    "Asserts one line on stderr with these words in it; returns it."
    lines = err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("tl-nb: "), err
    assert [w for w in words if str(w).lower() not in lines[0].lower()] == [], lines[0]
    return lines[0]


# --- spans and lines --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("text, right", [("90s", 90), ("2min", 120), ("2m", 120), ("1h30m", 5400), ("1 h 30 min", 5400), ("1.5h", 5400), ("45", 45),
                                         ("0.5", 0.5), (" 10 S ", 10), ("1h5s", 3605), ("90sec", 90)])
def test_a_span_of_time(text, right): assert seconds(text) == right


def test_a_span_is_the_sum_of_its_parts():
    rng = random.Random(0)
    for _ in range(50):
        h, m, s = rng.randrange(30), rng.randrange(90), rng.randrange(1, 90)
        assert seconds(f"{h}h{m}min{s}s") == h * 3600 + m * 60 + s


@pytest.mark.parametrize("text", ["", " ", "s", "0", "0s", "-5m", "2 minutes", "1h30", "30m1h", "1h1h", "1e3s", "inf", "nan", "1,5h", "2min!", "9" * 400 + "h", "٣s"])
def test_what_is_no_span_is_refused_by_name(text):
    with pytest.raises(CommandError, match="such as 90s, 2min or 1h30m") as e: seconds(text)
    assert repr(text.strip()) in str(e.value)


@pytest.mark.parametrize("text, line", [
    ("one", "one"), ("one.\nTwo.", "one. Two."), ("a:\n  x: 1\n  y: 2\nDo.", "a: x: 1; y: 2. Do."), ("", "ValueError"),
    ("it:\n  - a: no.\n  - b\n  - c\n  - d\n  - e\nWays out: f.", "it: a: no.; b; c; 2 more. Ways out: f.".replace("no.;", "no;")),
    ("my  folder\x1b[31m.txt", "my  folder?[31m.txt")])
def test_a_message_becomes_one_line(text, line): assert one_line(ValueError(text)) == line


@pytest.mark.parametrize("said, line", [("or pass on_error='skip' to", "or pass --skip-broken to"), ("with encoding='utf-16'; check", "with --encoding utf-16; check"),
                                        ("say kind='image' or kind='text'.", "say --kind image or --kind text."), ("text=, image=, label= or group=.", "--text, --image, --label or --group."),
                                        ("name = 'x': filename='y'", "name = 'x': filename='y'")])
def test_keywords_of_the_library_are_written_as_options(said, line): assert C._as_options(said) == line


# --- exit codes -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("error, code, words", [
    (DataError("data: 2 cannot be used:\n  a: empty\n  b: empty\nRepair them."), 1, ["a: empty; b: empty. Repair"]),
    (Ours("no such recipe"), 1, ["no such recipe"]), (PermissionError(13, "Permission denied", "x/y"), 1, ["x/y: Permission denied"]),
    (OSError("odd"), 1, ["odd"]), (ModuleNotFoundError("no", name="copier"), 1, ["pip install 'tl_nb[cli]'"]), (KeyboardInterrupt(), 130, ["stopped"]),
    (ValueError("a slip of ours"), 3, ["a fault of tl_nb, ValueError", "--debug"]), (KeyError("k"), 3, ["KeyError"]), (ModuleNotFoundError("no", name="x"), 3, [])])
@pytest.mark.parametrize("command", [("advise", "data"), ("new", "made", "--data", "data")], ids=["advise", "new"])
def test_each_error_has_its_code(place, asked, command, error, code, words):
    asked.fails, before = error, tree(place)
    done = run(*command)
    assert (done.code, done.out) == (code, "") and tree(place) == before
    one(done.err, *words)


def test_debug_shows_the_whole_error(place, asked):
    asked.fails = Ours("no such recipe")
    for args in (["--debug", "advise", "data"], ["advise", "data", "--debug"]):
        assert run(*args).exception is asked.fails


@pytest.mark.parametrize("args, words", [
    (["claen"], ["claen", "--help"]), (["advise"], ["PATH", "tl-nb advise --help"]), (["advise", "data", "--nothing"], ["--nothing"]),
    (["advise", "data", "--budget", "soon"], ["'soon'", "--budget", "2min"]), (["advise", "data", "--budget", "0s"], ["'0s'"]),
    (["advise", "data", "--save", "report.doc"], ["report.doc", ".html, .md and .json"]), (["advise", "data", "--seed", "x"], ["--seed"]),
    (["new", "made"], ["--data"]), (["new", "made", "--data", "data", "--kind", "sound"], ["sound", "image", "text"]),
    (["new", "made", "--data", "data", "--recipe", "full", "--advise"], ["one or the other"]), (["course", "--port", "0"], ["--port"])])
def test_what_is_written_wrongly_is_2(place, asked, args, words):
    before, done = tree(place), run(*args)
    assert (done.code, done.out) == (2, "") and tree(place) == before and not asked.advise and not asked.new
    one(done.err, *words)


TAKEN = ["is there already", "nothing is overwritten"]


@pytest.mark.parametrize("args, words", [
    (["advise", "missing"], ["missing: no such file or folder"]), (["advise", "empty"], ["empty: the folder is empty", "cat/1.jpg"]),
    (["advise", "empty.csv"], ["empty.csv: the file is empty"]), (["advise", "data", "--save", "data.csv/x.md"], ["no folder data.csv"]),
    (["advise", "data", "--save", "there.md"], TAKEN), (["advise", "data", "--save", "no/where.md"], ["no folder no"]),
    (["new", "made", "--data", "missing"], ["missing: no such"]), (["new", "made", "--data", "empty"], ["the folder is empty"]),
    (["new", "data", "--data", "data.csv"], TAKEN), (["new", "empty", "--data", "data.csv"], TAKEN), (["new", "link", "--data", "data.csv"], TAKEN),
    (["new", "no/made", "--data", "data"], ["no folder no"]), (["new", "2nd", "--data", "data"], ["'2nd'", "--name"]),
    (["new", "made", "--data", "data", "--name", "a-b"], ["'a-b'"]), (["new", "made", "--data", "data", "--name", "class"], ["'class'"]),
    (["new", "made", "--data", "data", "--name", ""], ["''"]), (["course", "--copy-only", "--to", "data"], TAKEN),
    (["course", "--copy-only", "--to", "no/course"], ["no folder"]), (["course", "--list", "--to", "data"], ["no course"]),
    (["course", "freze_lab", "--copy-only"], ["no lesson 'freze_lab'", "freeze_lab"]), (["course", "freeze", "--copy-only"], ["lessons fit", "Did you mean"]),
    (["prefetch", "minilm"], ["minilm-l6"])])
def test_what_cannot_be_used_is_1(place, asked, args, words):
    (place / "there.md").write_text("mine")
    (place / "link").symlink_to("nowhere")
    before = tree(place)
    for advised in ([], ["--advise"] if args[0] == "new" else []):
        done = run(*args, *advised)
        assert (done.code, done.out) == (1, "") and tree(place) == before and not asked.advise and not asked.new
        one(done.err, *words)


@pytest.mark.parametrize("what, method", [("data.csv", "open"), ("data", "iterdir")])
def test_what_may_not_be_read_is_1(place, asked, monkeypatch, what, method):
    def denied(path, *args, **more): raise PermissionError(13, "Permission denied", str(path))
    monkeypatch.setattr(Path, method, denied)  # not by chmod, since root may read everything
    for args in (["advise", what], ["new", "made", "--data", what]):
        done = run(*args)
        assert (done.code, done.out) == (1, "") and not asked.advise and not asked.new
        one(done.err, f"{what}: Permission denied")


def test_from_a_process_of_its_own(place):
    before = tree(place)
    for args, code, words in ((["advise", "missing"], 1, "no such file"), (["new", "data", "--data", "data.csv"], 1, "already"), (["clena"], 2, "clena")):
        done = call(*args, cwd=place)
        assert (done.returncode, done.stdout) == (code, "") and tree(place) == before
        one(done.stderr, words)


def test_broken_settings_stop_all_but_the_help(place):
    (place / "settings.ini").write_text("[tl_nb]\nsead = 1\n")
    for args in (["prefetch"], ["clean", "--yes"], ["course", "--copy-only", "--to", "copy"]):
        done = call(*args, cwd=place)
        assert done.returncode == 1 and not (place / "copy").exists()
        one(done.stderr, "settings.ini:2", "Did you mean seed?")
    assert call("--help", cwd=place).returncode == 0
    found = json.loads(call("doctor", "--json", cwd=place).stdout)
    assert not found["ok"] and found["checks"][-1]["check"] == "settings" and "sead" in found["checks"][-1]["found"]


def test_help_and_version(place):
    assert run("--help").code == run("-h").code == 0 and run("--version").out.startswith("tl_nb ")
    for name in ("advise", "new", "course", "prefetch", "doctor", "clean"):
        assert name in run("--help").out and run(name, "--help").code == 0
    alone = run()
    assert alone.code == 2 and "advise" in alone.out + alone.err


def test_help_loads_nothing_heavy(tmp_path):
    code = """
import sys
sys.argv = ["tl-nb", "--help"]
from tl_nb.cli import main
try: main()
except SystemExit as e: print(e.code, [m for m in "torch numpy pandas sklearn transformers fastai requests tl_nb.settings".split() if m in sys.modules])"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=ENV, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr


def test_without_typer_one_line_says_how_to_get_it(tmp_path):
    code = "import sys; sys.modules['typer'] = None\nfrom tl_nb.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=ENV, capture_output=True, text=True)
    assert done.returncode == 1
    one(done.stderr, "pip install 'tl_nb[cli]'")


def test_a_terminal_without_letters_and_a_reader_that_leaves(place):
    (place / "größe").mkdir()
    done = call("advise", "größe", cwd=place, env=ENV | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert done.returncode == 1 and "the folder is empty" in one(done.stderr)
    gone = subprocess.Popen([sys.executable, "-m", "tl_nb.cli", "--help"], env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    gone.stdout.close()
    assert gone.stderr.read() == "" and gone.wait() == 1


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------

STAND_IN = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
import tl_nb.cli as C
def say(word): print(word, file=sys.stderr, flush=True)
def advise(*args, **more):
    say("ready")
    {advise}
def new_project(path, data, kind=None, **more):
    with C.whole(path) as new:
        (new / "a").write_text("half")
        say("ready")
        time.sleep(30)
sys.modules["tl_nb.advisor"], sys.modules["tl_nb.template"] = SimpleNamespace(advise=advise), SimpleNamespace(new_project=new_project, _package=lambda *a: None)
def copy(*args, **more):
    (Path(args[1])).mkdir()
    say("ready")
    time.sleep(30)
C.shutil.copytree = copy
C.main()"""
SWALLOWS = """try: time.sleep(30)
    except KeyboardInterrupt: raise ImportError("half a module") from None"""
SLOWLY = """try: time.sleep(30)
    finally: say("tidying"), time.sleep(0.8), Path("tidy").touch()"""


@pytest.mark.parametrize("args, advise, twice", [
    (["advise", "data", "--save", "a.md"], "time.sleep(30)", False), (["advise", "data"], SWALLOWS, False), (["advise", "data"], SLOWLY, True),
    (["new", "made", "--data", "data"], "", False), (["new", "made", "--data", "data", "--advise"], "time.sleep(30)", False),
    (["course", "--copy-only", "--to", "copy"], "", False)], ids=["advise", "swallowed", "twice", "new", "new --advise", "course"])
def test_ctrl_c_leaves_one_line_and_nothing_else(place, args, advise, twice):
    (place / "here").mkdir()
    for p in ("data",): shutil.move(place / p, place / "here" / p)
    code = STAND_IN.format(advise=advise).replace("shutil.copytree = copy", "shutil.copytree = copy; C._here = lambda: Path('package').absolute()")
    (place / "here" / "package" / "_course").mkdir(parents=True)
    (place / "here" / "package" / "_course" / "index.ipynb").write_text('{"cells": [{"source": ["# Index"]}]}')
    before = tree(place / "here")
    running = subprocess.Popen([sys.executable, "-c", code, *args], cwd=place / "here", env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stderr.readline() == "ready\n"
    running.send_signal(signal.SIGINT)
    if twice:
        assert running.stderr.readline() == "tidying\n"
        running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=20)
    assert (running.returncode, out) == (130, "")
    one(err, "stopped")
    after = tree(place / "here")
    assert after.pop("tidy", None) == (b"" if twice else None), "the second Ctrl-C does not stop the tidying"
    assert after == before


def test_the_handler_is_put_back():
    before = signal.getsignal(signal.SIGINT)
    run("--version")
    assert signal.getsignal(signal.SIGINT) is before


# --- whole ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_whole_or_not_at_all(tmp_path, error):
    with pytest.raises(error), whole(tmp_path / "made") as new:
        (new / "a").touch()
        assert not (tmp_path / "made").exists()
        raise error
    assert tree(tmp_path) == {}
    with whole(tmp_path / "made") as new: (new / "a").write_text("all")
    assert tree(tmp_path) == {"made": None, "made/a": b"all"}


def test_a_place_that_is_taken_meanwhile_stays_as_it_is(tmp_path):
    with pytest.raises(CommandError, match="already"), whole(tmp_path / "made") as new:
        (new / "a").touch()
        (tmp_path / "made").mkdir()
        (tmp_path / "made" / "mine").write_text("mine")
    assert tree(tmp_path) == {"made": None, "made/mine": b"mine"}


# --- advise and new ---------------------------------------------------------------------------------------------------

def test_the_advisor_is_asked_what_was_said(place, asked):
    done = run("advise", "data", "--budget", "1h30m", "--seed", "7")
    assert (done.code, done.out, done.err) == (0, "the best is tfidf\n", "")
    assert asked.advise == [(Path("data"), 5400, 7, False)]
    assert run("advise", "data.csv").code == 0 and asked.advise[1] == (Path("data.csv"), 120, None, False)


def test_json_is_json(place, asked):
    found = json.loads(run("advise", "data", "--json").out, parse_constant=pytest.fail)
    assert found == {"best": "tfidf", "accuracy": 0.5, "low": None, "recipes": [{"mb": 3}], "at": "x"}
    assert json.loads(run("new", "made", "--data", "data", "--json", "--kind", "text").out) == {"path": "made", "data": "data", "kind": "text", "recipe": "frozen"}


@pytest.mark.parametrize("suffix", [".html", ".md", ".json"])
def test_a_report_is_saved_whole_or_not_at_all(place, asked, suffix):
    before = tree(place)
    asked.report = Report(fails=OSError(28, "No space left on device", "report"))
    done = run("advise", "data", "--save", f"report{suffix}")
    assert done.code == 1 and tree(place) == before
    one(done.err, "No space left")
    asked.report = Report()
    assert run("advise", "data", "--save", f"report{suffix}").code == 0
    assert tree(place) == before | {f"report{suffix}": f"report {suffix}".encode()}


def test_warnings_for_users_are_lines_and_others_are_not(place, asked, monkeypatch):
    import warnings
    def advise(*args, **more):
        warnings.warn("2 texts are cut")
        warnings.warn("old", DeprecationWarning)
        return Report()
    monkeypatch.setitem(sys.modules, "tl_nb.advisor", SimpleNamespace(advise=advise))
    assert one(run("advise", "data").err) == "tl-nb: note: 2 texts are cut"


def test_a_project_is_made_as_was_said(place, asked):
    done = run("new", "made", "--data", "data", "--kind", "text", "--name", "mine", "--recipe", "lp-ft")
    assert done.code == 0 and "cd made" in done.out and asked.new == [(Path("made"), Path("data"), "text", "mine", "lp-ft")]
    done = run("new", "other-one", "--data", "data.csv", "--advise", "--budget", "9s")
    assert done.code == 0 and asked.advise == [(Path("data.csv"), 9, None, False)] and asked.new[1] == (Path("other-one"), Path("data.csv"), None, None, "tfidf")
    one(done.err, "tfidf")


def test_columns_are_handed_on_if_they_are_given(place, asked):
    assert run("advise", "data.csv", "--text", "said", "--group", "who", "--encoding", "cp1252").code == 0 and asked.columns == {"text": "said", "group": "who", "encoding": "cp1252"}
    assert run("advise", "data.csv").code == 0 and asked.columns == {}
    assert run("new", "one", "--data", "data.csv", "--advise", "--image", "file", "--label", "kind", "--skip-broken").code == 0
    assert asked.columns == {"image": "file", "label": "kind"} and asked.reading == {"image": "file", "label": "kind", "on_error": "skip"}


# --- the course -------------------------------------------------------------------------------------------------------

def test_a_copy_has_all_lessons_results_and_settings(tmp_path):
    copy_course(tmp_path / "copy", NBS)
    same = lambda top: {p.relative_to(top).as_posix(): p.read_bytes() for p in lessons(top)}
    assert same(tmp_path / "copy" / "nbs") == same(NBS)
    results = {p.name for p in (NBS / "results").glob("*.json")}
    assert {p.name for p in (tmp_path / "copy" / "nbs" / "results").iterdir()} == results
    assert load_settings(tmp_path / "copy" / "settings.ini", env={}) == load_settings(ROOT / "settings.ini", env={})
    assert {p.name for p in (tmp_path / "copy").iterdir()} == {"nbs", "settings.ini"}


def test_a_clone_is_opened_where_it_is(): assert C._place(None) == ROOT


@pytest.fixture
def by_pip(place, monkeypatch):
    "As if tl_nb had come by pip: a package with the notebooks inside, and no clone around it."
    shutil.copytree(NBS, place / "site" / "tl_nb" / "_course", ignore=lambda folder, names: {n for n in names if n.startswith(("2_", "3_", "4_", "5_"))})
    monkeypatch.setattr(C, "_here", lambda: place / "site" / "tl_nb")
    return place


def test_who_came_by_pip_gets_a_copy_and_keeps_it(by_pip):
    done = run("course", "settings", "--copy-only")
    lesson = by_pip / "tl_nb_course" / "nbs" / "1_foundations" / "01_settings.ipynb"
    assert (done.code, done.out.strip()) == (0, str(lesson)) and lesson.is_file()
    lesson.write_text(lesson.read_text().replace("# Settings", "# My settings"))
    before = tree(by_pip)
    assert run("course", "settings", "--copy-only").code == 0 and tree(by_pip) == before
    listed = json.loads(run("course", "--list", "--json").out)
    assert {"lesson": "nbs/1_foundations/01_settings.ipynb", "title": "My settings"} in listed
    assert listed[0]["lesson"] == "nbs/index.ipynb" and "My settings" in run("course", "--list").out


def test_a_wrong_name_makes_no_copy(by_pip):
    before, done = tree(by_pip), run("course", "setings", "--copy-only")
    assert done.code == 1 and tree(by_pip) == before
    one(done.err, "Did you mean settings?")


def test_without_notebooks_the_way_out_is_said(by_pip):
    shutil.rmtree(by_pip / "site" / "tl_nb" / "_course")
    before, done = tree(by_pip), run("course", "--copy-only")
    assert done.code == 1 and tree(by_pip) == before and run("course", "--list").code == 1
    one(done.err, "Clone its repository")


def test_every_lesson_is_found_by_its_short_name():
    paths = list(C._lessons(NBS))
    assert paths == [p.relative_to(ROOT).as_posix() for p in lessons()]
    for p in paths:
        stem = Path(p).stem
        assert find_lesson(paths, stem) == find_lesson(paths, stem.lstrip("0123456789_")) == find_lesson(paths, p) == p
    assert find_lesson(paths, "Freeze Lab").endswith("02_freeze_lab.ipynb")
    for name in ("", "/", "../settings", "nothing at all"):
        with pytest.raises(CommandError, match="course --list"): find_lesson(paths, name)


@pytest.mark.parametrize("port, browser", [(None, True), (8899, False)])
def test_the_lab_is_that_of_make_course(port, browser):
    assert C._arguments(ROOT, "nbs/index.ipynb", port, browser) == lab.arguments("nbs/index.ipynb", port, browser)
    assert C._QUIET == json.loads((ROOT / "tools" / "jupyter" / "labconfig" / "page_config.json").read_text())


def test_without_jupyterlab_nothing_is_copied(by_pip, monkeypatch):
    monkeypatch.setitem(sys.modules, "jupyterlab", None)
    before, done = tree(by_pip), run("course")
    assert done.code == 1 and tree(by_pip) == before
    one(done.err, "pip install 'tl_nb[course]'")


def test_a_real_lab_opens_and_stops(tmp_path):
    copy_course(tmp_path / "copy", NBS)
    with socket.socket() as s: port = s.bind(("127.0.0.1", 0)) or s.getsockname()[1]
    command = [sys.executable, "-m", "tl_nb.cli", "course", "settings", "--to", "copy", "--no-browser", "--port", str(port)]
    with open(tmp_path / "log", "w") as log:
        running = subprocess.Popen(command, cwd=tmp_path, env=ENV | {"JUPYTER_TOKEN": "token", "TL_NB_CACHE": str(settings.cache)}, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        address, page = f"http://127.0.0.1:{port}/lab/tree/nbs/1_foundations/01_settings.ipynb?token=token", ""
        for _ in range(120):
            if running.poll() is not None: break
            try: page = urllib.request.urlopen(address, timeout=5).read().decode()
            except OSError: time.sleep(0.25)
            if page: break
        assert "announcements" in page and "JupyterLab" in page, (tmp_path / "log").read_text()[-2000:]
    finally:
        running.send_signal(signal.SIGINT)  # where no terminal can be asked, one is enough
        try: code = running.wait(20)
        except subprocess.TimeoutExpired: code = running.kill()
    assert code == 0 and "Traceback" not in (tmp_path / "log").read_text()


# --- prefetch, doctor, clean ------------------------------------------------------------------------------------------

class Shelf:
    "A source of files that stands in for the index."
    def __init__(self, text): self.text = text
    def give(self, files, folder, stash, progress):
        from tl_nb.archives import OfflineError
        if self.text is None: raise OfflineError("the network is off")
        for name in files: (folder / name).write_text(self.text)


@pytest.fixture
def own(place, monkeypatch):
    "A cache of one's own, and a catalogue of two assets: own.assets, own.cache, own.settings(profile=…)."
    from hashlib import sha256
    shelves = {name: Shelf(name * 100) for name in ("cats", "dogs")}
    assets = {name: Asset(name, {"a.txt": sha256((name * 100).encode()).hexdigest()}, (shelf,), size=400) for name, shelf in shelves.items()}
    monkeypatch.setattr("tl_nb.assets.ASSETS", assets)
    def change(**values): monkeypatch.setattr("tl_nb.settings.settings", dataclasses.replace(settings, cache=place / "cache", **values))
    change()
    return SimpleNamespace(cache=place / "cache", shelves=shelves, assets=assets, settings=change, folder=lambda name: assets[name].folder(place / "cache"))


def test_prefetch_fetches_what_is_missing_and_says_what_failed(own):
    own.shelves["cats"].text = None
    done = run("prefetch", "--json")
    assert (done.code, done.out) == (1, "") and not own.folder("cats").exists() and own.folder("dogs").is_dir(), "the others are fetched"
    one(done.err, "1 of 2", "cats", "the network is off", "Ways out")
    own.shelves["cats"].text = "cats" * 100
    assert json.loads(run("prefetch", "--json").out) == {name: str(own.folder(name)) for name in ("cats", "dogs")}
    assert run("prefetch", "cats").out.startswith("1 ")


def test_a_changed_file_is_replaced_only_when_asked(own):
    assert run("prefetch").code == 0
    file = own.folder("dogs") / "a.txt"
    file.write_text("other")
    done = run("prefetch")
    assert done.code == 1 and file.read_text() == "other"
    one(done.err, "dogs", "SHA-256")
    assert run("prefetch", "--repair").code == 0 and file.read_text() == "dogs" * 100
    assert not list(own.cache.glob(".removed*"))


def states(**more): return {f.check: f for f in diagnose(**more)}


def test_the_doctor_finds_health_and_changes_nothing(own):
    assert run("prefetch").code == 0
    before, done = tree(own.cache), run("doctor")
    assert done.code == 0 and done.err == "" and tree(own.cache) == before
    assert set(states()) == {"python", "packages", "settings", "cache", "assets", "disk", "device", "threads", "bf16", "hub"}
    assert json.loads(run("doctor", "--json").out)["ok"] is True


def test_the_doctor_says_what_is_missing_and_does_not_make_it(own):
    done = run("doctor")
    assert done.code == 1 and "tl-nb prefetch" in done.out and "cats, dogs" in done.out and not own.cache.exists()
    one(done.err, "wrong: assets")
    own.settings(profile="hub")
    assert states()["assets"].state == "note", "with the hub they are not needed"


def plant_changed(own, monkeypatch): (own.folder("cats") / "a.txt").write_text("other")
def plant_readonly(own, monkeypatch): monkeypatch.setattr(os, "access", lambda *a: False)
def plant_full(own, monkeypatch):
    shutil.rmtree(own.folder("cats"))
    monkeypatch.setattr(shutil, "disk_usage", lambda p: SimpleNamespace(free=700))
def plant_device(own, monkeypatch): own.settings(device="cuda:99")
def plant_threads(own, monkeypatch): own.settings(threads=9999)
def plant_openmp(own, monkeypatch): monkeypatch.setenv("OMP_NUM_THREADS", "77")
def plant_bf16(own, monkeypatch):
    own.settings(precision="bf16")
    monkeypatch.setattr("tl_nb.embedding.fast_bf16", lambda device: False)
def plant_package(own, monkeypatch): monkeypatch.setattr("importlib.metadata.requires", lambda name: ["numpy>=99", "nothing-of-this-name"])
def plant_silence(own, monkeypatch):
    import requests
    own.settings(profile="hub")
    def head(*a, **k): raise requests.ConnectionError("no route")
    monkeypatch.setattr(requests, "head", head)
def plant_environment(own, monkeypatch): own.settings(origin=settings.origin | {"seed": "environment variable TL_NB_SEED"})


@pytest.mark.parametrize("plant, check, state, found, todo", [
    (plant_changed, "assets", "wrong", "cats", "--repair"), (plant_readonly, "cache", "wrong", "cannot be written", "TL_NB_CACHE"),
    (plant_full, "disk", "wrong", "free", "free some space"), (plant_device, "device", "wrong", "cuda:99", "mend"),
    (plant_threads, "threads", "note", "9999", "threads = auto"), (plant_openmp, "threads", "note", "77", "unset"),
    (plant_bf16, "bf16", "note", "slow", "auto"), (plant_package, "packages", "wrong", "numpy>=99", "pip install"),
    (plant_silence, "hub", "wrong", "cannot be reached", "proxy"), (plant_environment, "settings", "note", "seed", "unset")])
def test_the_doctor_finds_what_is_planted(own, monkeypatch, plant, check, state, found, todo):
    assert run("prefetch").code == 0
    plant(own, monkeypatch)
    said = states()[check]
    assert said.state == state and found in said.found and todo in said.todo
    done = run("doctor")
    assert state in done.out and check in done.out
    if state == "wrong":
        assert done.code == 1
        one(done.err, check)


def test_the_doctor_asks_the_hub_only_when_told(own, monkeypatch):
    import requests
    calls = []
    monkeypatch.setattr(requests, "head", lambda *a, **k: calls.append(a) or True)
    assert states()["hub"].state == "ok" and calls == []
    assert states(hub=True)["hub"].state == "ok" and len(calls) == 1


@pytest.fixture
def full(own):
    for name in ("assets/x", "hub/y", "features/rows", "prefix/rows", "notes/mine"):
        (own.cache / name).parent.mkdir(parents=True, exist_ok=True)
        (own.cache / name).write_text("x" * 100)
    return own


def test_clean_asks_and_takes_no_for_an_answer(full):
    before = tree(full.cache)
    for more in (dict(input="n\n"), dict(input="")):
        done = run("clean", **more)
        assert done.code == 1 and done.out.strip() in ("", "n") and tree(full.cache) == before  # what is typed is echoed
        assert ("nothing was removed." if more["input"] else "no answer was given") in done.err.strip().splitlines()[-1]


def test_clean_removes_what_it_says_and_nothing_else(full):
    (full.cache / "sweeps").symlink_to(full.cache / "notes")
    assert run("clean", "--keep-fetched", "--yes").code == 0
    assert sorted(p.name for p in full.cache.iterdir()) == ["assets", "hub", "notes"]
    done = run("clean", input="y\n")
    assert done.code == 0 and "assets, hub" in done.out and tree(full.cache) == {"notes": None, "notes/mine": b"x" * 100}
    assert run("clean").code == 0 and "nothing to remove" in run("clean").out


@pytest.mark.parametrize("danger", ["home", "above home", "here", "above", "repository"])
def test_clean_refuses_a_place_that_holds_more_than_a_cache(full, monkeypatch, danger):
    if danger == "home": monkeypatch.setenv("HOME", str(full.cache))
    if danger == "above home": monkeypatch.setenv("HOME", str(full.cache / "notes"))
    if danger == "here": monkeypatch.chdir(full.cache)
    if danger == "above": monkeypatch.chdir(full.cache / "notes")
    if danger == "repository": (full.cache / ".git").mkdir()
    before, done = tree(full.cache), run("clean", "--yes")
    assert done.code == 1 and tree(full.cache) == before
    one(done.err, "more than a cache")


# --- with the real ones -----------------------------------------------------------------------------------------------

def test_the_real_advisor_answers_and_refuses(place):
    pytest.importorskip("tl_nb.advisor")
    done = call("advise", "data.csv", "--budget", "10s", "--json", cwd=place)
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr
    if done.returncode: one(done.stderr)  # eight texts may be too few
    else: assert json.loads(done.stdout)
    (place / "broken.csv").write_text("text,label\nonly one column\n")
    before, done = tree(place), call("advise", "broken.csv", cwd=place)
    assert done.returncode == 1 and tree(place) == before
    one(done.stderr, "broken.csv")


SPOILT = {"no classes": {"d/a.txt": b"good"}, "one class": {"d/good/a.txt": b"good", "d/good/b.txt": b"fine"}, "no text": {"d/a/1.txt": b"\xff\xfe", "d/b/1.txt": b"\xff"},
          "no image": {"d/a/1.png": b"PNG", "d/b/1.png": b""}, "no utf-8": {"d.csv": b"text,label\n\xff\xfe\xe9,good\n"}, "a zip": {"d.csv": b"PK\x03\x04data"},
          "no columns": {"d.csv": b"a,b\n1,2\n"}, "no rows": {"d.csv": b"text,label\n"}, "no labels": {"d.csv": b"text,label\none,\ntwo,\n"}}


@pytest.mark.parametrize("command", ["advise", "new"])
@pytest.mark.parametrize("name", SPOILT)
def test_the_real_ones_refuse_what_cannot_be_used(tmp_path, monkeypatch, command, name):
    pytest.importorskip({"advise": "tl_nb.advisor", "new": "tl_nb.template"}[command])
    monkeypatch.chdir(tmp_path)
    for file, content in SPOILT[name].items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(content)
    data, before = "d.csv" if "d.csv" in SPOILT[name] else "d", tree(tmp_path)
    done = run(*(["advise", data] if command == "advise" else ["new", "made", "--data", data]))
    assert (done.code, done.out) == (1, "") and tree(tmp_path) == before, done
    assert data in one(done.err) or "class" in done.err


@pytest.mark.parametrize("name", ["2nd", "class", "a-b c!", ""])
def test_the_real_template_refuses_a_name_that_is_no_identifier(place, name):
    pytest.importorskip("tl_nb.template")
    before, done = tree(place), run("new", "made", "--data", "data", "--name", name, "--advise")
    assert (done.code, done.out) == (1, "") and tree(place) == before
    one(done.err, repr(name))


def test_the_real_template_makes_or_leaves(place):
    pytest.importorskip("tl_nb.template")
    before, done = tree(place), call("new", "made", "--data", "data", "--recipe", "nonsense", cwd=place)
    assert done.returncode == 1 and tree(place) == before
    one(done.stderr, "nonsense")
    done = call("new", "made", "--data", "data", "--kind", "text", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    assert (place / "made" / "settings.ini").is_file() and {p: c for p, c in tree(place).items() if not p.startswith("made")} == before


def test_the_real_template_leaves_nothing_after_ctrl_c(place):
    pytest.importorskip("tl_nb.template")
    before = tree(place)
    running = subprocess.Popen([sys.executable, "-m", "tl_nb.cli", "new", "made", "--data", "data", "--kind", "text"], cwd=place, env=ENV,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(400):
        if running.poll() is not None or tree(place).keys() != before.keys(): break  # it has begun to write
        time.sleep(0.01)
    if running.poll() is None: running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=30)
    if running.returncode == 0: return  # it was done before the signal came
    assert running.returncode == 130 and tree(place) == before
    one(err, "stopped")


@pytest.mark.skipif("_course" not in (ROOT / "pyproject.toml").read_text(), reason="the notebooks are not in the wheel")
def test_the_wheel_brings_the_course(tmp_path):
    import zipfile
    import sync
    project = sync.copy_project(tmp_path / "project")
    done = subprocess.run([sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", tmp_path, project], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as z: z.extractall(tmp_path / "site")
    inside = {p.relative_to(tmp_path / "site" / "tl_nb" / "_course") for p in (tmp_path / "site" / "tl_nb" / "_course").rglob("*.ipynb")}
    assert inside == {p.relative_to(NBS) for p in lessons()}
    env = ENV | {"PYTHONPATH": os.pathsep.join([str(ROOT / "tools" / "offline"), str(tmp_path / "site")])}
    done = call("course", "freeze_lab", "--copy-only", cwd=tmp_path, env=env)
    assert done.returncode == 0 and Path(done.stdout.strip()) == tmp_path / "tl_nb_course" / "nbs" / "3_practice" / "02_freeze_lab.ipynb", done.stderr


# --- the exercise -----------------------------------------------------------------------------------------------------

def sloppy(text):
    import re
    return sum(float(n) * {"h": 3600, "m": 60, "s": 1}[unit] for n, unit in re.findall(r"([0-9.]+) *([hms])", text))


def zero(text):
    try: return seconds(text)
    except CommandError:
        if text in ("", "0s"): return 0
        raise


@pytest.mark.parametrize("answer, hint", [(lambda t: float(t), "could not"), (sloppy, "must be refused"), (zero, "must be refused"), (lambda t: 90, "120"),
                                          (lambda t: seconds(t) if t != "1h30" else 5400, "nobody knows"), (lambda t: None, "None")])
def test_the_exercise_catches_slips(answer, hint):
    found = check_span(answer)
    assert found.passed is False and hint in found.message


def test_the_exercise_takes_the_right_answer(): assert check_span(seconds).passed and check_span(...).passed is None


@pytest.mark.parametrize("answer", [lambda c, h, w: not h.startswith(c), lambda c, h, w: c not in (h, w), lambda c, h, w: Path(c) not in (Path(h), *Path(h).parents), lambda c, h, w: "yes"])
def test_the_exercise_on_caches_catches_slips(answer): assert check_safe_cache(answer).passed is False


def test_the_exercise_on_caches_takes_the_right_answer():
    assert check_safe_cache(lambda c, h, w: all(Path(c) not in (Path(x), *Path(x).parents) for x in (h, w))).passed
