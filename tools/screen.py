"A real JupyterLab seen by a real Chromium: what the browser tests, the benchmark of widgets and the pictures of panels drive."
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import browser
from sync import copy_project
from tl_nb.settings import settings

# What a tester's JupyterLab needs and a learner's does not: no autosave, and every cell in the page.
TEST_SETTINGS = {"docmanager-extension/plugin": {"autosave": False},
                 "notebook-extension/tracker": {"windowingMode": "none"}}
PRIVATE = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR",
           "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR")
STDERR = '.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.stderr"]'
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Lab:
    "JupyterLab as `make course BROWSER=none` starts it, on a copy of the project and with settings of its own."
    def __init__(self, folder):
        self.folder, self.port, self.token = Path(folder), free_port(), secrets.token_hex(16)
        self.project, self.log, self.network = self.folder / "project", self.folder / "log", self.folder / "network"
        copy_project(self.project)

    def environment(self):
        "Private folders, the real cache, and no network but loopback, with a record of attempts."
        private = {name: str(self.folder / name.lower()) for name in PRIVATE}
        path = os.pathsep.join([str(self.project / "tools" / "offline"), str(self.project)])  # the copy's own library
        offline = {"PYTHONPATH": path, "OFFLINE_LOG": str(self.network)}
        return os.environ | private | offline | {"JUPYTER_TOKEN": self.token, "TL_NB_CACHE": str(settings.cache)}

    def start(self):
        for name, values in TEST_SETTINGS.items():
            path = self.folder / "jupyterlab_settings_dir" / "@jupyterlab" / f"{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(values))
        command = [sys.executable, str(self.project / "tools" / "lab.py"), "--no-browser", "--port", str(self.port)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=self.project, env=self.environment(), stdout=log, stderr=log,
                                            start_new_session=True)
        for _ in range(600):
            if self.process.poll() is not None: break
            try: return urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api", timeout=1)
            except OSError: time.sleep(0.1)
        self.stop()
        raise RuntimeError(f"JupyterLab did not start:\n{self.log.read_text()[-3000:]}")

    def stop(self):
        "End the server; its kernels end with it."
        if self.process.poll() is not None: return
        os.killpg(self.process.pid, signal.SIGTERM)
        try: self.process.wait(20)
        except subprocess.TimeoutExpired: os.killpg(self.process.pid, signal.SIGKILL)

    def url(self, notebook):
        workspace = f"http://127.0.0.1:{self.port}/lab/workspaces/{secrets.token_hex(3)}"
        return f"{workspace}/tree/{notebook}?token={self.token}&reset"

    def is_here(self, url):
        return bool(re.match(rf"(https?|wss?)://(127\.0\.0\.1|localhost):{self.port}/|data:|blob:|about:", url))

    def attempts(self):
        "What the server and its kernels tried to reach outside this machine, up to now."
        return self.network.read_text().splitlines() if self.network.exists() else []


class Page:
    "A notebook open in JupyterLab, and what the page asked for and complained about."
    def __init__(self, lab, page):
        self.lab, self.page, self.outside, self.errors = lab, page, [], []
        page.on("request", lambda r: None if lab.is_here(r.url) else self.outside.append(r.url))
        page.on("websocket", lambda w: None if lab.is_here(w.url) else self.outside.append(w.url))
        page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: self.errors.append(str(e)))

    @property
    def notebook(self): return self.page.locator(".jp-NotebookPanel")

    def open(self, notebook):
        "Open a notebook and wait for its kernel: the page says idle before there is one, socket and status bar do not."
        from playwright.sync_api import expect

        with self.page.expect_websocket(lambda ws: "/channels" in ws.url, timeout=90_000):
            self.page.goto(self.lab.url(notebook))
        expect(self.notebook.locator(".jp-Cell").first).to_be_visible(timeout=60_000)
        expect(self.page.locator("#jp-main-statusbar")).to_contain_text("Python 3 (ipykernel) | Idle", timeout=60_000)

    def menu(self, *names):
        for name in names: self.page.get_by_role("menuitem", name=name, exact=True).click()

    def cells_run(self):
        "How many cells have a number, which they get when they run."
        return len(self.notebook.locator(".jp-CodeCell .jp-InputPrompt").filter(has_text=re.compile(r"\[\d+\]")).all())

    def run_all(self, seconds=240):
        "Run every cell and wait until none is waiting."
        from playwright.sync_api import expect

        self.menu("Run", "Run All Cells")
        prompts = self.notebook.locator(".jp-CodeCell .jp-InputPrompt")
        expect(prompts.filter(has_text=re.compile(r"\[\d+\]")).last).to_be_visible(timeout=60_000)
        expect(prompts.filter(has_text="*")).to_have_count(0, timeout=1000 * seconds)
        expect(self.page.locator("#jp-main-statusbar")).to_contain_text("| Idle", timeout=60_000)

    def complaints(self):
        "Errors and warnings that cells show; JupyterLab draws both as stderr, and progress too, which is no complaint."
        shown = self.notebook.locator(STDERR).all_inner_texts()
        return [text for text in shown if re.search(r"Traceback|Error|Warning", text)]

    def quiet(self):
        "Assert that nothing left this machine and that nothing complained."
        assert not self.outside, f"the page asked for {self.outside}"
        assert not self.lab.attempts(), f"JupyterLab or a kernel tried {self.lab.attempts()}"
        assert not self.errors, f"the console says {self.errors}"


@contextmanager
def chrome(path=None):  # of the executable; None: the one that is found
    "A running Chromium without a window."
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path or browser.find(), headless=True, args=FLAGS)
        try: yield running
        finally: running.close()


def open_page(lab, chrome, notebook, width=1280, height=1000):
    "A `Page` with a notebook open and its kernel ready."
    page = Page(lab, chrome.new_context(viewport={"width": width, "height": height}).new_page())
    page.open(notebook)
    return page
