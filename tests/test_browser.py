"A learner's first minutes: JupyterLab as `make course BROWSER=none` serves it, in a real Chromium, network cut."
import json
import re
import subprocess

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import expect

from notebooks import ROOT, code_cells, read

pytestmark = pytest.mark.browser


def test_the_address_is_the_one_that_make_course_serves():
    command = ["make", "--no-print-directory", "-n", "course", "BROWSER=none", "PORT=8899"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1].endswith("tools/lab.py --no-browser --port 8899")


def test_index_opens(lab, open_notebook):
    page = open_notebook("nbs/index.ipynb")
    expect(page.notebook.locator("h1").first).to_be_visible()
    page.quiet()
    assert f":{lab.port}/lab/tree/nbs/index.ipynb?token=" in lab.log.read_text(), "the address is printed"


def test_nothing_asks_for_news_or_extensions(open_notebook):
    page = open_notebook("nbs/index.ipynb")
    page.page.wait_for_timeout(2000)  # the announcement came a moment after the page
    expect(page.page.get_by_text("Would you like to")).to_have_count(0)
    expect(page.page.get_by_role("tab", name="Extension Manager")).to_have_count(0)
    page.quiet()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("notebook, shows", [("nbs/index.ipynb", 0), ("nbs/01_prototype.ipynb", 2)])
def test_a_lesson_runs_and_shows_its_figures(open_notebook, notebook, shows):
    page = open_notebook(notebook)
    figures = page.notebook.locator(".jp-OutputArea-output img")
    page.menu("Edit", "Clear Outputs of All Cells")
    expect(figures).to_have_count(0)
    page.run_all()
    assert page.complaints() == []
    expect(figures).to_have_count(shows)
    for figure in figures.all():
        expect(figure).to_be_visible()
        assert figure.evaluate("image => image.naturalWidth") > 100
    folded = lambda cell: cell.metadata.get("jupyter", {}).get("source_hidden", False)  # such a cell shows no number
    assert page.cells_run() == sum(not folded(c) for c in code_cells(read(ROOT / notebook)))
    page.quiet()


def test_a_fault_would_be_seen(lab, open_notebook):
    faults = ["import urllib.request\ntry: urllib.request.urlopen('http://192.0.2.1')\nexcept OSError: print('caught')",
              "from IPython.display import HTML\nHTML('<img src=\"http://192.0.2.2/x.png\">')", "1 / 0", "'never run'"]
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    nb = new_notebook(cells=[new_code_cell(c) for c in faults], metadata=kernel)
    nbformat.write(nb, lab.project / "nbs" / "faults.ipynb")
    page = open_notebook("nbs/faults.ipynb")
    page.run_all()
    assert len(page.complaints()) == 1 and "ZeroDivisionError" in page.complaints()[0]
    assert page.cells_run() == 3
    assert set(page.outside) == {"http://192.0.2.2/x.png"}
    assert lab.attempts() == ["socket.getaddrinfo 192.0.2.1"]
    lab.network.unlink()  # the attempts of this test are not those of another


# --- panels -----------------------------------------------------------------------------------------------------------

STATE = """import json
print("STATE", json.dumps(dict(frozen=[all(f.values()) for f in lab.plan.frozen()], layers=lab.plan.frozen(6), depth=lab.plan.depth,
                               trainable=learner.model.n_trainable, all=lab.plan.counts()["all"], steps=len(lab.trainer.losses),
                               state=lab.trainer.state, code=lab.plan.code(lab.epochs.value, lab.lr.value))))"""


def python_says(page):
    "Run the last cell of the notebook again, which prints the state of the learner, and read it."
    cell = page.notebook.locator(".jp-CodeCell").last
    before = cell.locator(".jp-InputPrompt").inner_text()
    cell.locator(".cm-content").click()
    page.page.keyboard.press("Control+Enter")
    expect(cell.locator(".jp-InputPrompt")).not_to_have_text(before)
    expect(cell.locator(".jp-InputPrompt")).to_have_text(re.compile(r"\[\d+\]"), timeout=30_000)
    return json.loads(cell.locator(".jp-OutputArea-output").inner_text().removeprefix("STATE "))


def agrees(page, panel):
    "Assert that the screen shows what Python says; returns that."
    said = python_says(page)
    names = ["embeddings", *(f"block {i}" for i in range(1, 7)), "head"]
    assert [panel.get_by_role("checkbox", name=n, exact=True).is_checked() for n in names] == said["frozen"]
    expect(panel).to_contain_text(f"{said['trainable']:,} of {said['all']:,} parameters")
    assert panel.get_by_role("textbox", name="As code").input_value() == said["code"]
    for name, frozen in said["layers"].items():
        box = panel.get_by_role("checkbox", name=name, exact=True)
        if box.count(): assert box.is_checked() == frozen
    return said


def take_in_hand(page, panel, steps):
    "Move the slider, tick a box, open a row, tick a layer, train, stop, train again; Python agrees each time. `steps` are an epoch's."
    assert agrees(page, panel)["depth"] == 5
    panel.get_by_role("slider").focus()
    for _ in range(2): page.page.keyboard.press("ArrowLeft")
    expect(panel.get_by_role("spinbutton", name="Freeze the first stages")).to_have_value("3")
    assert agrees(page, panel)["depth"] == 3
    panel.get_by_role("checkbox", name="block 5", exact=True).check()
    panel.get_by_role("button", name="layers of block 6", exact=True).click()
    panel.get_by_role("checkbox", name="attention.self.key", exact=True).focus()
    page.page.keyboard.press("Space")
    expect(panel).to_contain_text("1 of 8 layers frozen")
    said = agrees(page, panel)
    assert said["depth"] is None and said["layers"]["attention.self.key"] and sum(said["layers"].values()) == 1 and said["frozen"][5]

    def press(name): panel.get_by_role("button", name=name, exact=True).click()
    press("Train")
    expect(panel).to_contain_text(re.compile(r"Training: step [1-9]"), timeout=60_000)
    expect(panel.get_by_role("checkbox", name="block 5", exact=True)).to_be_disabled()
    press("Stop")
    expect(panel).to_contain_text(re.compile(r"Stopped after \d+ steps"), timeout=60_000)
    stopped = agrees(page, panel)
    assert stopped["state"] == "stopped" and 0 < stopped["steps"] < steps
    press("Train")
    expect(panel).to_contain_text(re.compile(r"Finished after \d+ steps.*accuracy \d\.\d+"), timeout=120_000)
    finished = agrees(page, panel)
    assert finished["state"] == "finished" and finished["steps"] == stopped["steps"] + steps and finished["frozen"] == stopped["frozen"]
    expect(panel).to_contain_text(f"Finished after {finished['steps']} steps")


@pytest.mark.timeout(600)
def test_the_freeze_lab_in_the_hand(lab, open_notebook):
    path = lab.project / "nbs" / "3_practice" / "02_freeze_lab.ipynb"
    nb = read(path)
    nb.cells.append(new_code_cell(STATE))
    nbformat.write(nb, path)
    page = open_notebook("nbs/3_practice/02_freeze_lab.ipynb")
    page.menu("Edit", "Clear Outputs of All Cells")
    page.run_all()
    assert page.complaints() == []
    panels = page.notebook.locator(".tl-panel.widget-vbox")
    expect(panels).to_have_count(3)
    panel, explorer, mixer = (panels.nth(i) for i in range(3))
    take_in_hand(page, panel, steps=10)
    explorer.get_by_role("combobox", name="Method").select_option("mean shift")
    expect(explorer.get_by_role("textbox", name="As code")).to_have_value(re.compile("MeanVarianceAlign"))
    mixer.get_by_role("button", name="Smallest log loss").click()
    expect(mixer.get_by_role("textbox", name="As code")).not_to_have_value(re.compile(r"'word counts': 0\.2,"))
    for one in (panel, explorer, mixer): assert one.evaluate(TOO_WIDE) == []
    page.quiet()


TOO_WIDE = """panel => [panel, ...panel.querySelectorAll('*')].filter(x => x.scrollWidth > x.clientWidth + 1 && x.clientWidth
  && ['auto', 'scroll'].includes(getComputedStyle(x).overflowX)).map(x => x.className)"""


def test_a_saved_notebook_shows_pictures_of_the_panels(open_notebook):
    page = open_notebook("nbs/3_practice/02_freeze_lab.ipynb")
    pictures = page.notebook.locator(".jp-OutputArea-output img")
    expect(pictures).to_have_count(3)  # of FreezeLab, DomainExplorer and EnsembleMixer, in place of live controls
    assert min(pictures.evaluate_all("images => images.map(image => image.naturalWidth)")) > 400
    page.quiet()
