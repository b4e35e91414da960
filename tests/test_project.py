"What holds for the whole repository: one form for notebooks, modules on their floors, a library that stands alone."
import ast
import os
import re
import subprocess
import sys
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import docs
import sync
from lessons import exercises, unclean
from notebooks import LIBRARY, NBS, ROOT, code_cells, imported, lessons, read
from tl_nb.settings import load_settings

# A module may import from its own floor and from those below; see the design in CONTRIBUTING.md.
FLOORS = {1: "settings evaluate transferability exercises exercises_methods exercises_applications exercises_ship ranking",
          2: "archives assets similarity alignment adapters adapt calibration ensemble",
          3: "sources splits pairs data stages backbones signs leaves", 4: "embedding store features classifier finetune",
          5: "recipes prefix freezing freeze_plan what_if forgetting adapt_deep members impact search anomaly clinical queries distributed", 6: "widgets advisor chat doctor", 7: "template cli"}
FLOOR = {name: floor for floor, names in FLOORS.items() for name in names.split()}
MODULES = sorted(p for p in LIBRARY.glob("*.py") if not p.name.startswith("_"))
NOT_THE_LIBRARYS = ("ipython", "ipykernel", "ipywidgets", "jupyter", "jupyterlab", "jupyter-client", "notebook",
                    "nbdev", "nbclient")
HEADER = ("**You will be able to**", "**Before you start**", "**Time**", "**Data**")
FOOTER = ("## Summary", "## Questions", "## Exercise", "## Take it to your domain", "## Further reading")
EMOJI = re.compile("[\U0001F000-\U0001FAFF\u2B50\u2705\u274C\uFE0F]")
PAGES = ("index.ipynb", "cheat_sheet.ipynb", "glossary.ipynb")  # no lessons: nothing to ask, to solve or to take home
by_name = {"ids": lambda p: p.relative_to(ROOT).as_posix()}
each_notebook = pytest.mark.parametrize("path", lessons(NBS), **by_name)
each_lesson = pytest.mark.parametrize("path", [p for p in lessons(NBS) if p.name not in PAGES], **by_name)
each_row_of_the_map = pytest.mark.parametrize("path", [p for p in lessons(NBS) if p.name != "index.ipynb"], **by_name)
each_module = pytest.mark.parametrize("path", MODULES, **by_name)


def markdown(path): return "\n".join(c.source for c in read(path).cells if c.cell_type == "markdown")


# --- notebooks --------------------------------------------------------------------------------------------------------

@each_notebook
def test_the_form_is_valid_and_names_its_kernel(path):
    assert sync.invalid(path) is None


@each_notebook
def test_cells_are_short(path):
    sources = [c.source.splitlines() for c in code_cells(read(path))]
    lines = sorted(sum(bool(x.strip()) and not x.startswith("#|") for x in source) for source in sources)
    assert not lines or lines[int(0.9 * (len(lines) - 1))] <= 15, f"90th percentile of the cells' lines: {lines}"


@each_notebook
def test_stored_outputs_show_no_error_warning_or_path(path):
    assert unclean(read(path)) == []


@each_row_of_the_map
def test_the_header_says_what_when_how_long(path):
    title, table = (c.source for c in read(path).cells[:2])
    alone = re.fullmatch(r"# .+\n+> .+(\n> .+)*\s*", title)
    assert alone, "the first cell is the title and the > subtitle, nothing else: the site drops the rest of that cell"
    assert [row for row in HEADER if row not in table] == [], "the second cell is the table"
    assert re.search(r"\d+ minutes to read · \d+ s to run", table)


@each_lesson
def test_the_footer_is_complete_and_in_order(path):
    heads = re.findall(r"^## .+$", markdown(path), re.M)
    found = [next((i for i, h in enumerate(heads) if h.startswith(want)), None) for want in FOOTER]
    assert None not in found and found == sorted(found), f"{list(zip(FOOTER, found))}"


@each_lesson
def test_questions_have_answers_and_exercises_can_be_checked(path):
    text = markdown(path)
    assert text.count("<summary>Answer</summary>") >= 3
    assert text.count("<details>") == text.count("</details>")
    assert exercises(read(path)), "no exercise with a solution"
    assert all(e.checks for e in exercises(read(path)))


def test_stems_are_unique_on_the_site():
    pages = [docs.page_name(p.relative_to(NBS)) for p in lessons(NBS)]
    assert len(set(pages)) == len(pages)


def test_notebooks_library_notice_and_readme_are_one():
    assert sync.problems() == []


def test_the_site_has_no_hole():
    assert docs.problems() == []


# --- the library ------------------------------------------------------------------------------------------------------

@each_module
def test_a_module_imports_from_its_floor_or_below(path):
    assert path.stem in FLOOR, "give it a floor in this file"
    above = {m for m in imported(path.read_text()) if FLOOR[m] > FLOOR[path.stem]}
    assert not above, f"{path.stem} (floor {FLOOR[path.stem]}) imports from above: {above}"


def test_modules_import_without_a_cycle():
    left = {p.stem: imported(p.read_text()) - {p.stem} for p in MODULES}
    while free := [m for m, needs in left.items() if not needs & left.keys()]:
        for m in free: del left[m]
    assert not left, f"these import each other: {left}"


@each_module
def test_a_module_is_readable(path):
    text = path.read_text()
    lines = [x for x in text.splitlines() if x.strip() and not x.startswith("# %%")]  # nbdev's marks are no code
    assert len(lines) <= 400
    assert ast.get_docstring(ast.parse(text)), "the > subtitle of its notebook is its docstring"
    handlers = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.ExceptHandler)]
    assert [n.lineno for n in handlers if n.type is None] == [], "a bare except"


def python(code, folder, **env):
    "Run some code in a fresh Python that starts in `folder`; returns what it prints."
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | env)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_is_light(tmp_path):
    heavy = "torch transformers timm fastai sklearn pandas matplotlib IPython"
    assert python(f"import sys, tl_nb; print([m for m in '{heavy}'.split() if m in sys.modules])", tmp_path) == "[]"


def test_the_library_needs_no_notebook_software():
    needs = {Requirement(r).name.lower() for r in requires("tl_nb") if "extra ==" not in r}
    assert not needs & set(NOT_THE_LIBRARYS)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "The wheel that `pip install` would make of this project, and a folder with its content."
    folder = tmp_path_factory.mktemp("wheel")
    project = sync.copy_project(folder / "project")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", folder, project]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as z: z.extractall(folder / "content")
    return folder / "content"


def test_the_wheel_holds_the_library_and_its_licences(wheel):
    assert {p.name for p in (wheel / "tl_nb").glob("*.py")} == {p.name for p in LIBRARY.glob("*.py")}
    assert {p.name for p in wheel.rglob("licenses/*")} == {"LICENSE", "NOTICE"}
    assert {p.name.split("-")[0] for p in wheel.iterdir()} == {"tl_nb"}, "nothing but the library"


def test_the_library_alone_imports_without_jupyter(wheel):
    blocked = {name.replace("-", "_") for name in NOT_THE_LIBRARYS} - {"ipython"} | {"IPython"}
    code = f"""
import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
class Blocked(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}: raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Blocked())
for name in {[p.stem for p in MODULES]!r}: import_module("tl_nb." + name)
print(sys.modules["tl_nb"].__file__)
"""
    assert Path(python(code, wheel, PYTHONPATH=str(wheel))).is_relative_to(wheel)


# --- files ------------------------------------------------------------------------------------------------------------

def test_settings_are_valid():
    assert load_settings(ROOT / "settings.ini", env={}).profile == "embedded"


def test_no_emoji_and_no_index_of_packages():
    hosts = re.compile(r"download\.pytorch\.org|--(extra-)?index-url|--find-links")
    top = [ROOT / name for name in ("README.md", "Makefile", "constraints.txt", "pyproject.toml")]
    for path in [*top, *MODULES, *lessons(NBS)]:
        text = path.read_text(encoding="utf-8")
        assert not EMOJI.search(text), path.name
        if path.suffix in ("", ".txt", ".toml", ".py"): assert not hosts.search(text), path.name


def test_the_tested_set_fits_the_ranges():
    lines = [Requirement(x) for x in (ROOT / "constraints.txt").read_text().splitlines() if x and not x.startswith("#")]
    here = [r for r in lines if not r.marker or r.marker.evaluate()]
    pinned = {canonicalize_name(r.name): next(iter(r.specifier)).version for r in here}
    asked = [r for r in map(Requirement, requires("tl_nb")) if r.name != "tl_nb"]
    assert [r.name for r in asked if canonicalize_name(r.name) not in pinned] == [], "run `make constraints`"
    assert [str(r) for r in asked if not r.specifier.contains(pinned[canonicalize_name(r.name)])] == []
    assert not [name for name in pinned if name.startswith(("nvidia", "cuda", "triton"))], "PyTorch asks for its own"
