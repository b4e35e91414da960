"A learner's first minutes: JupyterLab as `make course BROWSER=none` serves it, in a real Chromium, network cut."
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
