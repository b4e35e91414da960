"The tools must be able to fail: each fault that they promise to find is planted here."
import base64
import io
import os
import subprocess
import sys

import nbformat
import numpy as np
import pytest
import yaml
from PIL import Image
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import docs
import lessons
import readme
import sync
from notebooks import ROOT, code_hash, imported, modules_of, read

KERNEL = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
HEADER = "| | |\n|---|---|\n| **Time** | 1 minutes to read · 5 s to run |"
CHECK = """from tl_nb.exercises import checker
@checker
def check_two(answer):
    assert answer == 2, "Count again."
    return "Two it is.\""""
SOLUTION = "<details><summary>Solution</summary>\n\n```python\n# one and one\nanswer = {}\n```\n\n</details>"


@pytest.fixture
def notebook(tmp_path):
    "notebook(cells…) -> path; a text that starts with # or < is Markdown, any other is code."
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())  # nbdev's rules for cleaning
    def make(*cells, name="lesson.ipynb"):
        cells = ("# Title\n> subtitle", HEADER, *cells)
        made = [new_markdown_cell(c) if c[0] in "#<|" else new_code_cell(c) for c in cells]
        nbformat.write(new_notebook(cells=made, metadata=KERNEL), tmp_path / name)
        return tmp_path / name
    return make


def edit(path, change):
    "Change a stored notebook in place."
    nb = read(path)
    change(nb)
    nbformat.write(nb, path)


def check(path, **kwargs): return "\n".join(lessons.lesson(path, **kwargs).problems)


# --- lessons ----------------------------------------------------------------------------------------------------------

def test_a_lesson_is_stored_then_fresh_then_stale(notebook):
    path = notebook("import sys", "x = 1\nx", "print('one', file=sys.stderr)")
    assert "make refresh" in check(path)
    assert check(path, write=True) == ""
    stored = path.read_bytes()
    assert read(path).cells[4].outputs == [] and read(path).cells[3].outputs[0].data["text/plain"] == "1"
    assert check(path) == "" and check(path, write=True) == ""
    assert path.read_bytes() == stored, "a second refresh changes nothing"
    edit(path, lambda nb: nb.cells[3].update(source="# a remark\n\nx = 1\nx"))
    assert check(path) == "", "a remark changes no result"
    edit(path, lambda nb: nb.cells[3].update(source="x = 2\nx"))
    assert "code changed" in check(path)


def test_other_digits_are_no_news_but_a_missing_output_is(notebook):
    path = notebook("import matplotlib.pyplot as plt", "plt.plot([1, 2])\n0.123456")
    assert check(path, write=True) == ""
    edit(path, lambda nb: nb.cells[3].outputs[0].data.update({"text/plain": "0.123457"}))
    assert check(path) == ""
    assert check(path, write=True) == ""
    assert "0.123457" in path.read_text(), "nor are they written again"
    edit(path, lambda nb: nb.cells[3].update(outputs=nb.cells[3].outputs[:1]))
    assert "lack image/png" in check(path)


def test_a_change_of_the_library_below_makes_a_lesson_stale(notebook, monkeypatch, tmp_path):
    path = notebook("from tl_nb.low import f")
    library = tmp_path / "library"
    library.mkdir()
    (library / "low.py").write_text("from tl_nb.lower import g\nf = g\n")
    (library / "lower.py").write_text("g = 1\n")
    monkeypatch.setattr("notebooks.LIBRARY", library)
    nb = read(path)
    assert modules_of(nb) == ["low", "lower"]
    nb.metadata["tl_nb"] = lessons.stamps(nb)
    assert lessons.stale(nb, nb) == []
    (library / "lower.py").write_text("# only a remark\ng = 1\n")
    assert lessons.stale(nb, nb) == []
    (library / "lower.py").write_text("g = 2\n")
    assert "the library below it" in lessons.stale(nb, nb)[0]


@pytest.mark.parametrize("code, said", [
    ("1 / 0", "ZeroDivisionError"),
    ("import warnings\nwarnings.warn('old')", "UserWarning: old"),
    ("print('/home/someone/data')", "a path of this machine"),
    ("import socket\nsocket.create_connection(('192.0.2.1', 80), 1)", "The network is cut"),
    ("import socket\ntry: socket.getaddrinfo('example.org', 80)\nexcept OSError: pass", "reached for the network"),
    ("import os\nos.kill(os.getpid(), 9)", "died"),
])
def test_a_faulty_lesson_fails(notebook, code, said): assert said in check(notebook(code), write=True)


STORED = """from tl_nb.evaluate import results
def compute(seed): return {{"a": {}}}"""
READ = "found = results('slow', compute, [dict(seed=1)], folder='results', progress=False)\nfound.rows.a[0]"


def test_slow_results_are_computed_when_asked_and_stale_ones_refused(notebook, monkeypatch, tmp_path):
    monkeypatch.setenv("TL_NB_CACHE", str(tmp_path / "cache"))
    path = notebook(STORED.format(0.5), READ)
    assert "slow.json: there is no such file" in check(path, write=True)
    monkeypatch.setenv("TL_NB_FULL", "slow")
    assert check(path, write=True) == "" and (tmp_path / "results/slow.json").exists()
    monkeypatch.delenv("TL_NB_FULL")
    assert check(path) == ""
    edit(path, lambda nb: nb.cells[2].update(source=STORED.format("1 / 2")))
    assert "a warning" in check(path, write=True) and "these results are stale" in check(path, write=True)


def test_limits_of_time_and_memory(notebook, monkeypatch):
    path = notebook("import time", "hold = bytearray(300_000_000)\ntime.sleep(1.5)")
    run = lessons.execute(path)
    assert 1.5 < run.seconds < 30 and 0.3 < run.peak < 1
    monkeypatch.setattr(lessons, "GIGABYTES", 0.2)
    lessons.judge(run, seconds=1)
    assert len(run.problems) == 2


def test_photographs_are_stored_as_jpeg_and_drawings_as_they_are(notebook):
    def png(pixels):
        Image.fromarray(pixels).save(out := io.BytesIO(), "PNG")
        return base64.b64encode(out.getvalue()).decode()
    grey = np.linspace(0, 120, 200)[:, None] + np.random.default_rng(0).normal(60, 8, (200, 200))
    photo = np.repeat(np.uint8(grey.clip(0, 255))[..., None], 3, axis=2)
    nb = read(notebook("1", "2", "3"))
    for cell, pixels in zip([c for c in nb.cells if c.cell_type == "code"], (photo, photo // 128 * 128, photo[:20])):
        cell.outputs = [new_output("display_data", data={"image/png": png(pixels), "text/plain": "<Figure>"})]
    lessons.lighten(nb, most=6000)
    kept = [set(c.outputs[0].data) for c in nb.cells if c.cell_type == "code"]
    assert kept == [{"image/jpeg", "text/plain"}, {"image/png", "text/plain"}, {"image/png", "text/plain"}]
    assert all("image/png" in lessons.kinds(c) for c in nb.cells if c.cell_type == "code")  # a picture is a picture


@pytest.mark.parametrize("took, passes, runs", [((60,), True, 1), ((150, 60), True, 2), ((150, 130), False, 2), ((190,), False, 1)],
                         ids=["warm", "cold", "slow when warm too", "too slow when cold"])
def test_a_first_run_may_take_half_as_long_again(notebook, monkeypatch, took, passes, runs):
    path, begun = notebook(), []
    def execute(path, seconds):
        begun.append(took[len(begun)])
        return lessons.Run(path, read(path), begun[-1])
    monkeypatch.setattr(lessons, "execute", execute)
    run = lessons.lesson(path, write=True)
    assert (run.problems == []) == passes and len(begun) == runs


def test_seconds_in_the_header_are_measured_in_steps_of_five(notebook):
    nb = read(notebook())
    for seconds, said in [(3, "5"), (7, "10"), (7.5, "10"), (31, "35"), (26, "35"), (20, "20"), (12, "15")]:
        lessons.stamp_seconds(nb, seconds)
        assert f"· {said} s to run" in nb.cells[1].source


@pytest.mark.parametrize("answer, solution, said", [
    ("...", 2, ""), ("...", 3, "Count again"), ("2", 2, "unanswered, the check should say so"), ("3", 2, "unanswered"),
])
def test_solutions_are_run_and_checked(notebook, answer, solution, said):
    end = SOLUTION.format(solution) + "\n\n## Further"
    path = notebook(CHECK, "## Exercise", f"answer = {answer}", "check_two(answer)", end)
    found = check(path, write=True)
    assert (said in found) if said else found == ""
    if not said: assert "_verdict" not in path.read_text(), "the trial leaves no trace"


def test_a_solution_without_a_check_is_reported(notebook):
    assert "no check_" in check(notebook(CHECK, "check_two(2)", "## Exercise", SOLUTION.format(2)), write=True)


def test_check_above_or_below_and_two_in_a_section():
    both = SOLUTION.format(2) + "\n" + SOLUTION.format(3)
    cells = ["## One", "check_a(f(x)), m.check_b(1)", SOLUTION.format(1), "## Two", both, "check_c(y)"]
    nb = new_notebook(cells=[new_code_cell(c) if c.startswith("check") else new_markdown_cell(c) for c in cells])
    one, two = lessons.exercises(nb)
    assert (one.heading, one.checks) == ("One", ["check_a(f(x))", "m.check_b(1)"])
    assert two.checks == ["check_c(y)"]
    assert two.solutions == ["# one and one\nanswer = 2\n", "# one and one\nanswer = 3\n"]


@pytest.mark.parametrize("text, found", [
    ("see /root/.cache/x", 1), ("/Users/me/x", 1), ("C:\\Users\\me", 1), ("FutureWarning: soon", 1),
    ("https://x.org/home/a", 0), ("warnings matter", 0), ("~/.cache/tl_nb", 0),
    ('<img src="data:image/png;base64,AA/home/BB">', 0),
])
def test_what_an_output_may_not_show(text, found):
    cell = new_code_cell("1", outputs=[new_output("display_data", data={"text/html": text})])
    assert len(lessons.unclean(new_notebook(cells=[cell]))) == found


def test_hashes_ignore_remarks_only():
    assert code_hash(["a = 1\n"]) == code_hash(["# remark\n\na = 1  "]) != code_hash(["a = 2"])
    assert code_hash(["a\nb"]) != code_hash(["a", "b"])


@pytest.mark.parametrize("code", ["from tl_nb.settings import x\nimport tl_nb.exercises\n%matplotlib inline",
                                  "from .settings import x\nfrom . import exercises",
                                  "from tl_nb import settings, exercises, nothing"])
def test_imports_of_the_library_are_seen(code): assert imported(code) == {"settings", "exercises"}


def test_the_guard_cuts_everything_but_this_machine(tmp_path):
    code = """
import socket, threading
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(server.getsockname()).close()
socket.getaddrinfo("localhost", 80)
for host in ("192.0.2.1", "10.0.0.1", "2001:db8::1"):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for kind, act in ((socket.SOCK_STREAM, "connect"), (socket.SOCK_DGRAM, "send")):
        with socket.socket(family, kind) as s:
            try: s.connect((host, 80)) if act == "connect" else s.sendto(b"x", (host, 80))
            except OSError as e: assert "cut" in str(e), e
            else: raise SystemExit("not cut")
"""
    env = os.environ | {"PYTHONPATH": str(ROOT / "tools/offline"), "OFFLINE_LOG": str(tmp_path / "log")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "log").read_text().splitlines()) == 6


# --- README, site, synchrony ------------------------------------------------------------------------------------------

def test_links_of_the_readme_start_at_the_top():
    code = "\n```\n[f](g.ipynb)\n```\n"
    text = "[a](01_prototype.ipynb) [b](../LICENSE) [c](https://x.org) [d](#e) <img src=\"x.png\">" + code
    want = "[a](nbs/01_prototype.ipynb) [b](LICENSE) [c](https://x.org) [d](#e) <img src=\"nbs/x.png\">" + code
    assert readme.from_root(text) == want


def test_the_readme_hides_silent_code_and_turns_the_links_it_shows():
    table = {"text/markdown": "[a](01_prototype.ipynb)", "text/plain": "<Markdown>"}
    silent = new_code_cell("#| echo: false\nsecret = 1", outputs=[new_output("display_data", table)])
    text, _ = readme.convert(new_notebook(cells=[silent]))
    assert "[a](nbs/01_prototype.ipynb)" in text and "secret" not in text and "```" not in text


def test_the_readme_shows_pictures_and_no_directives():
    picture = new_output("display_data", data={"image/png": "iVBORw0KGgo=", "text/plain": "<Figure>"})
    table = new_output("display_data", data={"text/html": "<table></table>", "text/plain": "a table"})
    plot = new_code_cell("#| echo: true\nplot()", outputs=[picture, table])
    cells = [new_markdown_cell("# T"), new_code_cell("#| hide\nsecret"), plot]
    text, pictures = readme.convert(new_notebook(cells=cells, metadata=KERNEL))
    assert "```python\nplot()" in text and "a table" in text
    assert not any(part in text for part in ("secret", "#|", "<table>", "<Figure>"))
    assert list(pictures) == [".github/readme/index_1_0.png"] and f"]({list(pictures)[0]})" in text


@pytest.fixture
def project(tmp_path):
    "A copy of the project with two small pages, to be broken."
    copy = sync.copy_project(tmp_path / "project")
    for path in (copy / "nbs").rglob("*.ipynb"): path.unlink()
    for name, text in {"index": "See [one](01_one.ipynb).", "01_one": "Back to [the top](index.ipynb)."}.items():
        one = new_code_cell("1", outputs=[new_output("execute_result", data={"text/plain": "1"})])
        cells = [new_markdown_cell(f"# {name}\n> sub"), new_markdown_cell(text), one]
        nbformat.write(new_notebook(cells=cells, metadata=KERNEL), copy / f"nbs/{name}.ipynb")
    config = yaml.safe_load((copy / "_quarto.yml").read_text())
    config["website"]["sidebar"]["contents"] = [{"section": "Start", "contents": ["index.ipynb", "01_one.ipynb"]}]
    (copy / "_quarto.yml").write_text(yaml.safe_dump(config))
    return copy


def tool(project, *command):
    "Run a tool of a copied project; returns (exit code, what it said)."
    env = os.environ | {"PYTHONPATH": str(project)}
    done = subprocess.run([sys.executable, *command], cwd=project, capture_output=True, text=True, env=env)
    return done.returncode, done.stdout + done.stderr


def test_pages_are_built_and_linked(project):
    code, said = tool(project, "tools/docs.py", "--plain")
    assert code == 0 and "2 pages" in said, said
    index, one = (project / "_docs/index.html").read_text(), (project / "_docs/one.html").read_text()
    assert 'href="one.html"' in index and 'href="index.html"' in one and "<h1>01_one</h1>" in one
    assert "http://" not in index and "https://" not in index, "a page asks nobody for anything"


def test_the_root_quarto_file_is_the_one_that_is_staged(project):
    stage = "import sys; sys.path.insert(0, 'tools')\nfrom docs import stage\nif __name__ == '__main__': print(stage())"
    (project / "stage.py").write_text(stage)
    path = project / "_quarto.yml"
    path.write_text(path.read_text().replace("cosmo", "flatly"))
    code, said = tool(project, "stage.py")
    assert code == 0, said
    staged = project / "_proc/_quarto.yml"
    assert "flatly" in staged.read_text() and not staged.is_symlink() and (project / "nbs/_quarto.yml").is_symlink()


def test_holes_in_the_site_are_found(project):
    assert docs.problems(project / "nbs", project) == []
    (project / "nbs/01_one.ipynb").rename(project / "nbs/02_two.ipynb")
    (project / "nbs/_quarto.yml").unlink()
    (project / "nbs/_quarto.yml").write_text("other")
    (project / "nbs/styles.css").unlink()
    said = docs.problems(project / "nbs", project)
    parts = ("make it a link", "no stylesheet", "lists 01_one.ipynb", "02_two.ipynb is in no section",
             "dead link 01_one.ipynb")
    assert [part for part in parts if part not in "\n".join(said)] == [] and len(said) == len(parts)


def test_a_library_edited_by_hand_is_found(project):
    cells = [new_code_cell("#| default_exp thing"), new_code_cell("#| export\nthing = 1")]
    nb = new_notebook(cells=[new_markdown_cell("# Thing\n> a thing"), *cells], metadata=KERNEL)
    nbformat.write(nb, project / "nbs/02_thing.ipynb")
    for path in (project / "tl_nb").glob("[a-z]*.py"): path.unlink()
    for command in sync.NBDEV: assert tool(project, "-c", f"{command}; do.__wrapped__()")[0] == 0
    assert sync.remade(project) == []
    module = project / "tl_nb/thing.py"
    module.write_text(module.read_text().replace("thing = 1", "thing = 2"))
    page = project / "nbs/01_one.ipynb"
    page.write_text(page.read_text() + "\n")
    assert sync.remade(project) == ["nbs/01_one.ipynb", "tl_nb/thing.py"]


def test_a_notebook_without_kernel_is_reported(tmp_path):
    nbformat.write(new_notebook(), tmp_path / "x.ipynb")
    assert "kernelspec" in sync.invalid(tmp_path / "x.ipynb")
