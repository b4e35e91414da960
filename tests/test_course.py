"The course as a whole: one order, one way through it, pages that say what the lessons say, and a site without a dead end."
import inspect
import re
import sys
import unicodedata

import nbformat
import pytest
import yaml
from fastcore.docments import docments
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import docs
import lessons
import navigate
import reference
import staging
from notebooks import LIBRARY, NBS, ROOT, code_cells, read, sidebar, stamps, title
from test_tools import KERNEL, notebook, project, tool  # fixtures and helpers

LINK = re.compile(r"\[([^\]]+)\]\(([^)#]+\.ipynb)(?:#[^)]*)?\)")


def shown(path, kinds=("text/markdown", "text/plain")):
    "What the stored outputs of a notebook say: of each, the first of these kinds."
    found = []
    for o in (o for c in code_cells(read(path)) for o in c.outputs):
        data = {"text/plain": o.get("text", "")} | dict(o.get("data", {}))
        found.append(next((data[k] for k in kinds if k in data), ""))
    return "\n".join(found)


# --- the way through the course ---------------------------------------------------------------------------------------

ORDER = ("index.ipynb", "01_one.ipynb", "part/01_two.ipynb", "part/02_three.ipynb")
TITLES = dict(zip(ORDER, ("tl_nb", "One: the first", "Across: a", "Across: b")))


@pytest.mark.parametrize("here, said", [
    ("index.ipynb", "[One →](01_one.ipynb)"),
    ("01_one.ipynb", "[← tl_nb](index.ipynb) · [The map](index.ipynb#the-map) · [Across: a →](part/01_two.ipynb)"),
    ("part/01_two.ipynb", "[← One](../01_one.ipynb) · [The map](../index.ipynb#the-map) · [Across: b →](02_three.ipynb)"),
    ("part/02_three.ipynb", "[← Across: a](01_two.ipynb) · [The map](../index.ipynb#the-map)"),
])
def test_a_page_ends_with_the_way_on(here, said):
    assert navigate.ending(ORDER, TITLES, here) == f"{navigate.MARK}\n\n{said}"


def test_the_way_is_written_once_and_makes_nothing_stale(notebook):
    path = notebook("x = 1\nx", "## Further reading")
    nb = read(path)
    nb.cells[2].outputs = [new_output("execute_result", data={"text/plain": "1"})]
    nbformat.write(nb, path)
    before, text = stamps(read(path)), f"{navigate.MARK}\n\n[← a](b.ipynb)"
    assert navigate.write(path, text)
    nb, stored = read(path), path.read_bytes()
    assert nb.cells[-1].source == text and nb.cells[2].outputs[0].data["text/plain"] == "1" and stamps(nb) == before
    nbformat.validate(nb)
    assert not navigate.write(path, text) and path.read_bytes() == stored, "the second time changes nothing"


@pytest.mark.parametrize("cells", [["end"], ["old"], ["new", "more"], ["new", "new"]], ids=["none", "old", "in the middle", "twice"])
def test_another_ending_is_found_and_mended(notebook, cells):
    text = {"old": f"{navigate.MARK}\n\n[old](x.ipynb)", "new": f"{navigate.MARK}\n\n[new](x.ipynb)"}
    path = notebook(*(text.get(c, f"# {c}") for c in cells))
    assert not navigate.ends_with(read(path), text["new"])
    assert navigate.write(path, text["new"]) and navigate.ends_with(read(path), text["new"])
    kept = [c.source for c in read(path).cells[2:-1]]
    assert kept == [f"# {c}" for c in cells if c not in text], "nothing else is lost"


def test_a_new_title_and_a_new_order_are_noticed(project):
    nbs = project / "nbs"
    def mend(): return [navigate.write(path, text) for path, text in navigate.endings(nbs, project).items()]
    assert len(navigate.problems(nbs, project)) == 2 and mend() == [True, True] and navigate.problems(nbs, project) == []
    nb = read(nbs / "01_one.ipynb")
    nb.cells[0].source = "# Another\n> sub"
    nbformat.write(nb, nbs / "01_one.ipynb")
    said, = navigate.problems(nbs, project)
    assert said.startswith("index.ipynb: ") and "make library" in said, "the page that names it is old"
    assert mend() == [True, False]
    config = (project / "_quarto.yml").read_text()
    (project / "_quarto.yml").write_text(config.replace("- 01_one.ipynb", "- x").replace("- index.ipynb", "- 01_one.ipynb").replace("- x", "- index.ipynb"))
    assert navigate.pages(project) == ["01_one.ipynb", "index.ipynb"] and mend() == [True, True]


def test_every_notebook_is_in_the_order_once():
    assert sorted(navigate.pages()) == sorted(p.relative_to(NBS).as_posix() for p in lessons.lessons(NBS))


# --- the map and its times --------------------------------------------------------------------------------------------

def test_the_map_lists_every_page_with_about_the_time_of_its_header():
    rows = {m[2]: line for line in shown(NBS / "index.ipynb").splitlines() if (m := re.match(r"\| \[(.+?)\]\(([^)]+\.ipynb)\)", line))}
    assert list(rows) == navigate.pages()[1:], "run `make refresh NBS=nbs/index.ipynb`"
    for page, line in rows.items():
        assert title(read(NBS / page)) in line
        mapped, now = (int(re.search(r"· (\d+) s to run", text)[1]) for text in (line, read(NBS / page).cells[1].source))
        assert now / 2 <= mapped <= 2 * now, page


@pytest.mark.parametrize("minutes, grown, late", [(24, 0, False), (26, 0, True), (26, 5e6, False), (38, 5e6, True)])
def test_the_course_has_a_budget_and_a_first_run_half_as_much_again(minutes, grown, late):
    said, found = lessons.course(60 * minutes, grown)
    assert found == late and f"{minutes:.1f} minutes" in said and ("first run" in said) == bool(grown)


@pytest.mark.parametrize("arguments, each, code, said", [
    ([], 700, 0, "the whole course: 23.3 minutes"), ([], 800, 0, "OVER ITS BUDGET, the whole course"),
    (["-j", "2"], 800, 0, None), (["nbs/index.ipynb"], 1600, 0, None)])
def test_the_total_is_told_with_its_budget(monkeypatch, capsys, arguments, each, code, said):
    two = [NBS / "index.ipynb", NBS / "01_prototype.ipynb"]
    monkeypatch.setattr(lessons, "lessons", lambda folder: two)
    monkeypatch.setattr(lessons, "lesson", lambda path, write, seconds: lessons.Run(path, None, each))
    monkeypatch.setattr(lessons, "cut_network", lambda: None)
    monkeypatch.setattr(sys, "argv", ["lessons.py", *arguments])
    with pytest.raises(SystemExit) as end: lessons.main()
    told = capsys.readouterr().out
    assert int(end.value.code) == code and (said in told if said else "whole course" not in told)


# --- the glossary -----------------------------------------------------------------------------------------------------

ENTRY = re.compile(r"^- \*\*(.+?)\*\*(.+) \[([^\]]+)\]\(([^)]+)\)$")
TERMS = [ENTRY.match(line) for c in read(NBS / "glossary.ipynb").cells[2:] for line in c.source.splitlines() if line.startswith("- ")]
SMALL = str.maketrans("", "", " -`*\n")


def test_the_terms_are_in_order_and_short():
    assert None not in TERMS and len(TERMS) > 80
    names = [unicodedata.normalize("NFKD", m[1]).encode("ascii", "ignore").decode().casefold() for m in TERMS]
    assert names == sorted(set(names))
    assert [m[1] for m in TERMS if len(m[2].split()) > 45] == []


@pytest.mark.parametrize("name, page", [(m[1], m[4]) for m in TERMS if m], ids=[m[1] for m in TERMS if m])
def test_a_term_is_linked_to_a_lesson_that_uses_it(name, page):
    assert page in navigate.pages()
    text = "\n".join(c.source for c in read(NBS / page).cells).casefold().translate(SMALL)
    assert name.casefold().translate(SMALL).removesuffix("s") in text


# --- the cheat sheet --------------------------------------------------------------------------------------------------

FIGURE = re.compile(r"([-+−]?\d\.\d{3})\s+\[([-+−]?\d\.\d{3}), ([-+−]?\d\.\d{3})\]")
LINE = re.compile(r"^\| (.+?) \| (.+?) \| \[(.+?)\]\((.+?)\) \| (.+?) \| (.+?) \|$", re.M)
OWN = ("train everything, from a probed head", "closeness and gap of features | the nearest example")  # lessons show these otherwise
LINES = LINE.findall(shown(NBS / "cheat_sheet.ipynb"))


def figures(text):
    "Each mean with its interval, as numbers, also the other way round."
    found = [tuple(float(x.replace("−", "-")) for x in m) for m in FIGURE.findall(text)]
    return set(found) | {(-mean, -high, -low) for mean, low, high in found}


@pytest.mark.parametrize("do, over, on, page, figure, verdict", LINES, ids=[f"{x[0]}: {x[2]}" for x in LINES])
def test_a_line_of_the_cheat_sheet_says_what_the_lesson_says(do, over, on, page, figure, verdict):
    assert page in navigate.pages()
    (mean, low, high), = (tuple(map(float, m)) for m in FIGURE.findall(figure))
    assert low <= mean <= high
    if low > 0 or high < 0: assert verdict == ("**helps**" if low > 0 else "**costs**")
    if low < 0 < high: assert verdict == "not clear"
    if f"{do} | {over}".startswith(OWN): return
    assert (mean, low, high) in figures(shown(NBS / page, ("text/plain", "text/markdown")))


def test_the_cheat_sheet_has_no_typed_figure_and_hides_no_failure():
    text = "\n".join(c.source for c in read(NBS / "cheat_sheet.ipynb").cells if c.cell_type == "markdown")
    assert not re.search(r"\d\.\d", text)
    verdicts = [x[-1] for x in LINES]
    assert len(LINES) >= 30 and verdicts.count("**costs**") >= 5 and verdicts.count("not clear") >= 10


# --- the reference ----------------------------------------------------------------------------------------------------

MADE = '''"""What it is for"""
# AUTOGENERATED! DO NOT EDIT! File to edit: ../nbs/2_techniques/01_made.ipynb.
__all__ = ['SIZE', 'Box', 'Plain', 'pack', 'other']
from dataclasses import dataclass
from fastcore.basics import patch
from .elsewhere import other
# %% auto #0
SIZE = 3
@dataclass
class Box:
    "A box."
    width: int  # in cm
    name: str = "a|b"  # what <it> says
    _hidden: int = 0
    @property
    def area(self) -> float: return 1.0
    def _secret(self): pass
class _Base:
    def __init__(self, size=1):  # how large
        pass
    def held(self, a, b): "Held by `a`."
class Plain(_Base):
    "Plain."
@patch
def save(self: Box, path,  # where to
         *, over: bool = False,  # whether to write over
         ) -> str:  # its hash
    """Save it.

    And say so."""
@patch(as_prop=True)
def volume(self: Box) -> float: "Its volume."
def pack(a, b=2,  # two in a line: this is of b
         *more,  # the rest
         **options):
    "Pack `a` < b & c."
'''


@pytest.fixture
def made(tmp_path):
    (tmp_path / "made.py").write_text(MADE)
    return reference.Module(tmp_path / "made.py")


def test_a_module_is_read_without_importing_it(made):
    entries = {e.name: e for e in made.entries}
    assert (made.doc, made.notebook, made.borrowed) == ("What it is for", "2_techniques/01_made.ipynb", {"other": "elsewhere"})
    assert list(entries) == ["SIZE", "Box", "Plain", "pack"]
    assert entries["SIZE"].signature == "SIZE = 3"
    assert entries["Box"].signature == "Box(width: int, name: str = 'a|b')"
    assert [p.signature for p in entries["Box"].parts] == ["Box.area: float", "Box.save(path, *, over: bool = False) -> str", "Box.volume: float"]
    assert [p.signature for p in entries["Plain"].parts] == ["Plain.held(a, b)"] and entries["Plain"].signature == "Plain(size=1)"
    assert entries["pack"].signature == "pack(a, b=2, *more, **options)"
    assert [(p.name, p.said) for p in entries["pack"].parameters] == [
        ("a", ""), ("b", "two in a line: this is of b"), ("*more", "the rest"), ("**options", "")]


def test_a_page_of_the_reference_is_markdown_that_shows_all(made, tmp_path):
    text = reference.page(made)
    front = yaml.safe_load(text.split("---\n")[1])
    assert front == {"title": "tl_nb.made", "description": "What it is for"}
    for part in ("## Box {#Box}", "### Box.save {#Box.save}", "<p>And say so.</p>", "<td>what &lt;it&gt; says</td>", "<td>its hash</td>",
                 "<code>a</code> &lt; b &amp; c", "(../2_techniques/01_made.ipynb)", "[`tl_nb.elsewhere`](elsewhere.qmd#other)"):
        assert part in text, part


def test_every_public_name_of_the_library_is_in_the_reference():
    for module in reference.modules():
        missing = set(module.public) - {e.name for e in module.entries} - set(module.borrowed)
        assert not missing, f"{module.name}: {missing}"
        assert module.notebook and (NBS / module.notebook).exists(), module.name
        for name, home in module.borrowed.items(): assert name in reference.Module(LIBRARY / f"{home}.py").public, (module.name, name)


@pytest.mark.parametrize("name", ["evaluate", "settings", "ranking", "calibration"])
def test_signatures_and_remarks_are_those_that_python_and_fastcore_see(name):
    module = __import__(f"tl_nb.{name}", fromlist=["x"])
    functions = [e for e in reference.Module(LIBRARY / f"{name}.py").entries if e.kind == "function"]
    assert functions
    for e in functions:
        f = getattr(module, e.name)
        assert [p.name.lstrip("*") for p in e.parameters if p.name != "*"] == [p for p in inspect.signature(f).parameters if p != "self"], e.name
        said = {p.name: p.said for p in e.parameters if p.said and not p.name.startswith("*")}
        theirs = {k: v for k, v in docments(f, returns=False).items() if v}
        assert {k: v for k, v in theirs.items() if k in said} == said, e.name


# --- the site ---------------------------------------------------------------------------------------------------------

@pytest.fixture
def site(tmp_path):
    "A small site as it was made, with the project around it."
    out, nbs = tmp_path / "_docs", tmp_path / "nbs"
    for folder in (out / "part", nbs / "part"): folder.mkdir(parents=True)
    (tmp_path / "LICENSE").write_text("mine")
    way = f"{navigate.MARK}\n<p><a href=\"part/one.html\">on</a></p>"
    (out / "index.html").write_text(f'<main><h2 id="a">A</h2><a href="part/one.html#b">b</a> <a href="../LICENSE">c</a> <a href="https://x.org/y">d</a>{way}</main>')
    (out / "part/one.html").write_text('<main><p id="b">B</p><a href="../index.html#a">a</a><a href="#b">b</a></main>')
    return tmp_path


def test_a_page_is_finished(site):
    out, args = site / "_docs", dict(root=site, nbs=site / "nbs")
    assert docs.unreached(out)[0] == ["index.html: dead link ../LICENSE"]
    docs.finish("index.ipynb", out, **args, module="made")
    docs.finish("part/01_one.ipynb", out, **args)
    html = (out / "index.html").read_text()
    assert navigate.MARK not in html and html.count("part/one.html") == 1, "the way of the notebook gives way to that of the site"
    assert 'href="api/made.html"' in html and 'href="project/LICENSE"' in html and (out / "project/LICENSE").read_text() == "mine"


@pytest.mark.parametrize("link, said", [("/index.html#a", "../index.html#a"), ("/index.html#gone", "../index.html"), ("/blob/main/LICENSE#L3", "../project/LICENSE"),
                                        ("../../LICENSE", "../project/LICENSE"), ("../index.html", "../index.html"), ("/blob/main/gone.py#L1", "/blob/main/gone.py#L1"),
                                        ("https://x.org/a", "https://x.org/a"), ("#b", "#b"), ("../../nbs/part/x.ipynb", "../../nbs/part/x.ipynb")])
def test_links_are_mended(site, link, said):
    (site / "nbs/part/x.ipynb").write_text("{}")
    assert docs.mended(link, "part/01_one.ipynb", site / "_docs", site, site / "nbs") == said


@pytest.mark.parametrize("link, said", [("gone.html", "dead link gone.html"), ("one.html#gone", "no such place one.html#gone"),
                                        ("#gone", "no such place #gone"), ("../../x.html", "dead link ../../x.html")])
def test_a_dead_link_of_the_site_is_found(site, link, said):
    out = site / "_docs"
    (out / "index.html").write_text('<a href="part/one.html">one</a>')
    (out / "part/one.html").write_text(f'<a href="../index.html">up</a><img src="data:image/png;base64,AA"><a href="{link}">x</a>')
    dead, lost = docs.unreached(out)
    assert dead == [f"part/one.html: {said}"] and lost == []


def test_a_page_that_nobody_links_is_found(site):
    (site / "_docs/lost.html").write_text('<a href="index.html">up</a>')
    assert docs.unreached(site / "_docs")[1] == ["lost.html"]


def test_the_whole_site_is_made_with_reference_and_list_for_programs(project):
    for path in (project / "tl_nb").glob("[a-z]*.py"):
        if path.stem not in ("settings", "ranking"): path.unlink()
    path = project / "_quarto.yml"
    config = yaml.safe_load(path.read_text())
    config["website"]["sidebar"]["contents"].append({"section": "Reference", "contents": ["api/index.qmd"]})
    path.write_text(yaml.safe_dump(config))
    for name in ("ranking", "settings"):  # their lessons are not in this copy
        module = project / f"tl_nb/{name}.py"
        module.write_text(re.sub(r"\.\./nbs/\S+\.ipynb\.\n", "../nbs/01_one.ipynb.\n", module.read_text()))
    assert "2 notebooks" in tool(project, "tools/navigate.py")[1]
    code, said = tool(project, "tools/docs.py", "--plain")
    assert code == 0 and "5 pages" in said, said
    out = project / "_docs"
    index, one, api = ((out / f"{name}.html").read_text() for name in ("index", "one", "api/ranking"))
    assert 'rel="next" href="one.html"' in index and 'rel="prev" href="index.html"' in one and navigate.MARK not in one
    assert 'href="api/settings.html"' in one, "a lesson leads to the reference of its module"
    assert 'id="Score.minus"' in api and 'href="../one.html"' in api and "<table>" in api
    assert not (project / "nbs/api").exists(), "nothing is left behind"
    listed = LINK_TO.findall((out / "llms.txt").read_text())
    assert [page for _, page, _ in listed] == ["index.html", "one.html", "api/index.html", "api/ranking.html", "api/settings.html"]
    assert all(name and about for name, _, about in listed)


LINK_TO = re.compile(r"^- \[(.+)\]\((.+)\): (.+)$", re.M)


@pytest.mark.parametrize("source, run", [("import json", True), ("import json\nopen('x')", False), ("#| export\nimport json\nx = 1", True), ("y = x", False),
                                         ("#| output: asis\nshow_doc(f)", True), ("def f(): import json", True)])
def test_only_imports_and_exports_run_for_the_site(source, run):
    from fastcore.nbio import mk_cell

    cell = mk_cell(source)
    cell.directives_ = cell.directives
    staging.as_stored(cell)
    assert (cell.directives_.get("eval") != "false") == run


def test_a_silent_cell_shows_its_result_only():
    table = {"text/markdown": "| a |"}
    cell = lambda source, data: {"cell_type": "code", "source": source, "execution_count": None, "outputs": [{"output_type": "display_data", "data": data}]}
    silent, picture, loud = cell("#| echo: false\nsecret", table), cell("#| echo: false\nplot()", {"image/png": "AA"}), cell("shown", table)
    for c in (silent, picture, loud): docs.unfold(c)
    assert (silent["cell_type"], silent["source"]) == ("markdown", "| a |") and (picture["cell_type"], loud["cell_type"]) == ("code", "code")
