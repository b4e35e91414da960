"Fixtures that several test files share: the cache of models and data, and a real JupyterLab seen by a real Chromium."
import os

os.environ["SCIPY_ARRAY_API"] = "1"  # before SciPy is loaded: without it scikit-learn skips one of its checks of estimators

import shutil

import pytest

import browser
import screen
from tl_nb.settings import settings


@pytest.fixture(scope="session")
def cache():
    "The folder with the models and data of the course; `make test` fills it first."
    return settings.cache


@pytest.fixture(scope="session")
def chromium():
    "The path of a Chromium. Without one the browser tests are skipped, but fail where CI=true."
    path = browser.find()
    if path: return path
    if browser.required(): pytest.fail("CI=true requires the browser tests, and there is no Chromium")
    pytest.skip("no Chromium here: `make test` installs it where it can, or set CHROMIUM=/path/to/it")


@pytest.fixture(scope="session")
def lab(chromium, tmp_path_factory):
    "One JupyterLab for all browser tests: starting it is most of their time."
    lab = screen.Lab(tmp_path_factory.mktemp("lab"))
    lab.start()
    yield lab
    lab.stop()
    shutil.rmtree(lab.project, ignore_errors=True)


@pytest.fixture(scope="session")
def chrome(chromium):
    with screen.chrome(chromium) as running: yield running


@pytest.fixture
def open_notebook(lab, chrome):
    "open_notebook('nbs/index.ipynb') -> Page, with its kernel ready; closed after the test."
    pages = []

    def opened(notebook):
        pages.append(screen.open_page(lab, chrome, notebook))
        return pages[-1]
    yield opened
    for page in pages: page.page.context.close()
