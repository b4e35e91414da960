"""Fetching: what arrives, what is refused, what a broken line, a full disk or a second process leaves behind.

Everything runs against a server on the loopback interface or an index in a folder; no test needs the internet.
"""
import dataclasses
import errno
import hashlib
import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import distribution
from pathlib import Path

import pytest

from tl_nb import archives, assets
from tl_nb.archives import find_in_index, index_urls, safe_extract, sha256, verify
from tl_nb.assets import (ASSETS, Asset, AssetError, Hub, IndexArchive, Installed, IntegrityError, OfflineError, fetch,
                          notice, prefetch)

ROOT = Path(__file__).resolve().parents[1]
BODY = bytes(range(256)) * 4000  # about a megabyte


def digest(data): return hashlib.sha256(data).hexdigest()


def make_zip(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as z:
        for name, data in members.items(): z.writestr(name, data)
    return buffer.getvalue()


def make_tar(*infos, mode="w:gz"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as t:
        for info, data in infos:
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


class Server:
    "Serves `files` {path: bytes}, a simple index included; `faults` {path: fault} misbehaves."
    def __init__(self):
        self.files, self.faults, self.requests, self.json = {}, {}, [], True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self): outer.answer(self)
            def log_message(self, *args): pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def add(self, project, filename, data):
        "Publish an archive."
        self.files[f"/files/{filename}"] = data
        page = self.files.setdefault(f"/simple/{project}/", [])
        page.append(filename)
        return f"/files/{filename}"

    def page(self, names, accept):
        if self.json and "json" in accept:
            listed = [{"filename": n, "url": f"../../files/{n}", "hashes": {}} for n in names]
            page = {"meta": {"api-version": "1.0"}, "files": listed}
            return json.dumps(page).encode(), "application/vnd.pypi.simple.v1+json"
        return "".join(f'<a href="../../files/{n}#sha256=0">{n}</a>\n' for n in names).encode(), "text/html"

    def answer(self, h):
        self.requests.append((h.path, h.headers.get("Range")))
        data, fault = self.files.get(h.path), self.faults.get(h.path)
        if data is None or fault == 500: return h.send_error(404 if data is None else 500)
        kind = "application/octet-stream"
        if isinstance(data, list): data, kind = self.page(data, h.headers["Accept"])
        start = 0
        if h.headers.get("Range") and fault != "no range":
            start = int(h.headers["Range"][6:-1])
            if start >= len(data): return h.send_error(416)
        h.send_response(206 if start else 200)
        h.send_header("Content-Type", kind)
        if fault != "endless": h.send_header("Content-Length", str(len(data) - start))
        h.end_headers()
        self.send(h, data[start:], fault)

    def send(self, h, data, fault):
        try:
            if isinstance(fault, int): h.wfile.write(data[:fault])  # then hang up
            elif fault == "slow":
                for i in range(0, len(data), 50_000):
                    h.wfile.write(data[i:i + 50_000])
                    time.sleep(0.05)
            elif fault == "endless":
                for _ in range(50): h.wfile.write(data)
            else: h.wfile.write(data)
        except (BrokenPipeError, ConnectionResetError): pass  # the client has gone, as it should


@pytest.fixture
def server(monkeypatch):
    server = Server()
    monkeypatch.setenv("PIP_INDEX_URL", server.url + "/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "file:///nowhere")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("PIP_NO_INDEX", raising=False)
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def toy(server):
    "An asset of two files in one archive of the server's index."
    data = make_zip({"toy-1.0/data/model.bin": BODY, "toy-1.0/data/sub/words.txt": b"hello",
                     "toy-1.0/setup.py": b"boom"})
    server.add("toy-models", "toy-1.0.zip", data)
    source = IndexArchive("Toy.Models", "1.0", "toy-1.0.zip", digest(data), "toy-1.0/data/", len(data))
    return Asset("toy", {"model.bin": digest(BODY), "sub/words.txt": digest(b"hello")}, (source,), size=len(BODY) + 5)


@pytest.fixture
def offline(monkeypatch):
    "A port on which nobody listens."
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "file:///nowhere")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def get(asset, cache): return fetch(asset, cache=cache, progress=False)


def left_over(cache):
    "What a fetch leaves beside the asset's folder: locks aside, every file, and every folder below assets."
    files = [p for p in Path(cache).rglob("*") if p.is_file() and p.parent.name != "locks"]
    return sorted(str(p.relative_to(cache)) for p in [*files, *(Path(cache) / "assets").glob("*")])


def fetch_in_another_process(asset, cache, before="", **kwargs):
    "A Python process that runs `before` and then fetches. Ctrl-C is heard, also where tests run as a background job."
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n" + textwrap.dedent(before) + textwrap.dedent(f"""
        from tl_nb.assets import Asset, IndexArchive, Installed, Hub, fetch
        print("ready", flush=True)
        print(fetch({asset!r}, cache={str(cache)!r}, progress=False), flush=True)
        """)
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, **kwargs)


# ---- what arrives -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("as_json", [True, False])
def test_fetch_from_the_index(server, toy, tmp_path, as_json):
    server.json = as_json
    folder = get(toy, tmp_path)
    assert (folder / "model.bin").read_bytes() == BODY and (folder / "sub/words.txt").read_text() == "hello"
    assert sorted(p.name for p in folder.rglob("*")) == ["model.bin", "sub", "words.txt"]  # no setup.py
    assert not list(tmp_path.rglob("*.zip")) and not list(tmp_path.rglob("*.part"))
    asked = len(server.requests)
    assert get(toy, tmp_path) == folder and len(server.requests) == asked


def test_project_names_are_normalised(server, toy, tmp_path):
    get(toy, tmp_path)
    assert server.requests[0][0] == "/simple/toy-models/"


def test_index_in_a_folder(toy, server, tmp_path, monkeypatch):
    index = tmp_path / "my index" / "toy-models"
    index.mkdir(parents=True)
    (index / "toy-1.0.zip").write_bytes(server.files["/files/toy-1.0.zip"])
    (index / "index.html").write_text('<a href="toy-1.0.zip#sha256=0">toy-1.0.zip</a>')
    monkeypatch.setenv("PIP_INDEX_URL", index.parent.as_uri())
    folder = get(toy, tmp_path / "cache")
    assert (folder / "model.bin").read_bytes() == BODY and not server.requests
    assert (index / "toy-1.0.zip").is_file(), "the index is not ours to empty"


def test_extra_index_is_asked_after_the_main_one(server, toy, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", server.url + "/empty")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", server.url + "/simple")
    get(toy, tmp_path)
    assert [path for path, _ in server.requests] == ["/empty/toy-models/", "/simple/toy-models/", "/files/toy-1.0.zip"]


def test_index_urls_from_pips_own_files(tmp_path, monkeypatch):
    config = tmp_path / "pip.conf"
    config.write_text("[global]\nindex-url = https://a.test/simple/\nextra-index-url =\n    https://b.test/s\n"
                      "    https://c.test/s\n[install]\nindex-url = https://i.test/simple\n")
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"): monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    archives._pip_config.cache_clear()
    try: assert index_urls() == ["https://i.test/simple", "https://b.test/s", "https://c.test/s"]
    finally: archives._pip_config.cache_clear()


def test_the_public_index_is_the_default(monkeypatch):
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"): monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(archives, "_pip_config", dict)  # no pip, or nothing configured
    assert index_urls() == ["https://pypi.org/simple"]


def test_certificates_of_pip_are_used(server, toy, tmp_path, monkeypatch):
    seen, real = [], archives.requests.get
    monkeypatch.setenv("PIP_CERT", "/some/where.pem")
    monkeypatch.setattr(archives.requests, "get", lambda url, verify, **k: seen.append(verify) or real(url, **k))
    get(toy, tmp_path)
    assert set(seen) == {"/some/where.pem"}


def test_fetch_from_an_installed_package(tmp_path, offline):
    path = "sklearn/datasets/data/iris.csv"
    real = Path(distribution("scikit-learn").locate_file(path))
    asset = Asset("iris", {"iris.csv": sha256(real)}, (Installed("scikit-learn", "sklearn/datasets/data/"),))
    assert (get(asset, tmp_path) / "iris.csv").read_bytes() == real.read_bytes()


def test_an_installed_package_is_not_imported(tmp_path):
    asset = Asset("iris", {"iris.csv": "0" * 64}, (Installed("scikit-learn", "sklearn/datasets/data/"),))
    code = f"""
import sys
from tl_nb.assets import *
from tl_nb.assets import AssetError
try: fetch({asset!r}, cache={str(tmp_path)!r})
except AssetError as e: print("sklearn" in sys.modules, e)
"""
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert out.startswith("False") and "iris.csv is not the file it should be" in out


def test_another_installed_version_is_no_tampering(server, toy, tmp_path):
    files = {"model.bin": digest(BODY), "sub/words.txt": digest(b"hello")}
    other = Installed("scikit-learn", "sklearn/datasets/data/")
    asset = Asset("toy", files, (other,))
    with pytest.raises(AssetError) as e: get(asset, tmp_path)
    assert type(e.value) is AssetError and "has no model.bin" in str(e.value)
    assert get(dataclasses.replace(asset, sources=(other, *toy.sources)), tmp_path)


def test_fetch_from_the_hub(server, tmp_path, monkeypatch):
    from huggingface_hub import constants
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    address = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    server.files["/org/toy/resolve/v1/sub/model.bin"] = BODY
    server.files["/org/toy/resolve/v1/sub/a/config.json"] = b"{}"
    files = {"model.bin": digest(BODY), "a/config.json": digest(b"{}")}
    asset = Asset("hubbed", files, (Hub("org/toy", "v1", "sub/"),))
    assert (get(asset, tmp_path) / "a/config.json").read_bytes() == b"{}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OfflineError, match="HF_HUB_OFFLINE"): get(asset, tmp_path / "cold")


def test_sources_are_tried_in_turn(server, toy, tmp_path):
    gone = IndexArchive("vanished", "1.0", "vanished-1.0.zip", "0" * 64)
    bad = server.add("bad", "bad-1.0.zip", b"not what was promised")
    wrong = IndexArchive("bad", "1.0", "bad-1.0.zip", "1" * 64)
    asset = dataclasses.replace(toy, sources=(Installed("a-package-nobody-has"), gone, wrong, *toy.sources))
    assert (get(asset, tmp_path) / "model.bin").read_bytes() == BODY
    assert [p for p, _ in server.requests] == ["/simple/vanished/", "/simple/bad/", bad, "/simple/toy-models/",
                                               "/files/toy-1.0.zip"]


def test_if_all_fail_each_source_says_why(server, toy, tmp_path):
    server.faults["/files/toy-1.0.zip"] = 500
    sources = (Installed("a-package-nobody-has"), IndexArchive("vanished", "1", "v-1.zip", "0" * 64), *toy.sources)
    with pytest.raises(AssetError) as e: get(dataclasses.replace(toy, sources=sources), tmp_path)
    said = str(e.value)
    for part in ("a-package-nobody-has: it is not installed", "v-1.zip: 127.0.0.1 does not have it",
                 "toy-1.0.zip: 127.0.0.1 answered 500", "make course", "pip install a-package-nobody-has",
                 "TL_NB_CACHE"):
        assert part in said
    assert left_over(tmp_path) == []


def test_a_nested_archive(server, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))  # the cache is the only place for it
    words = tarfile.TarInfo("inner/words.txt")
    data = make_zip({"p-1/inner.tar.gz": make_tar((words, b"deep")), "p-1/other": b"x"})
    server.add("p", "p-1.zip", data)
    asset = Asset("nested", {"words.txt": digest(b"deep")},
                  (IndexArchive("p", "1", "p-1.zip", digest(data), "p-1/inner.tar.gz!/inner/"),))
    folder = get(asset, tmp_path)
    assert [p.name for p in folder.iterdir()] == ["words.txt"] and (folder / "words.txt").read_bytes() == b"deep"


def test_an_unknown_name_gets_a_hint(tmp_path):
    with pytest.raises(AssetError, match="Did you mean 'minilm-l6'"): get("minilm-l7", tmp_path)


# ---- broken lines -------------------------------------------------------------------------------------------------

def test_a_broken_line_is_resumed(server, toy, tmp_path):
    served = server.answer

    def break_once(handler):
        served(handler)
        if handler.path.startswith("/files"): server.faults.clear()
    server.answer, server.faults["/files/toy-1.0.zip"] = break_once, 300_000
    assert (get(toy, tmp_path) / "model.bin").read_bytes() == BODY
    assert [r for p, r in server.requests if p.startswith("/files")] == [None, "bytes=300000-"]


def test_a_line_that_stays_broken_keeps_what_arrived(server, toy, tmp_path):
    server.faults["/files/toy-1.0.zip"] = 0
    with pytest.raises(OfflineError, match="broke off"): get(toy, tmp_path)
    server.faults["/files/toy-1.0.zip"] = 1000
    with pytest.raises(OfflineError, match="what arrived is kept"): get(toy, tmp_path)
    part, = tmp_path.rglob("*.part")
    assert part.read_bytes() == server.files["/files/toy-1.0.zip"][:part.stat().st_size] and part.stat().st_size >= 1000
    assert [p for p in left_over(tmp_path) if p.startswith("assets")] == []


def part_of(toy, cache):
    source = toy.sources[0]
    return cache / "downloads" / toy.name / f"{source.sha256[:16]}-{source.filename}.part"


@pytest.mark.parametrize("fault", [None, "no range"])
def test_a_part_is_completed_or_replaced(server, toy, tmp_path, fault):
    part, data = part_of(toy, tmp_path), server.files["/files/toy-1.0.zip"]
    part.parent.mkdir(parents=True)
    part.write_bytes(data[:500_000])
    server.faults["/files/toy-1.0.zip"] = fault
    assert (get(toy, tmp_path) / "model.bin").read_bytes() == BODY
    assert server.requests[-1] == ("/files/toy-1.0.zip", "bytes=500000-") and not part.exists()


@pytest.mark.parametrize("length", [10, 5_000_000])
def test_a_wrong_part_is_thrown_away(server, toy, tmp_path, length):
    part = part_of(toy, tmp_path)
    part.parent.mkdir(parents=True)
    part.write_bytes(b"?" * length)  # of another file; the longer one is answered with 416
    assert (get(toy, tmp_path) / "model.bin").read_bytes() == BODY
    assert [r for p, r in server.requests if p.startswith("/files")] == [f"bytes={length}-", None]


def test_a_wrong_part_and_the_wrong_bytes(server, toy, tmp_path):
    part, path = part_of(toy, tmp_path), "/files/toy-1.0.zip"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"?" * 10)
    server.files[path] = server.files[path][:-1] + b"?"
    with pytest.raises(IntegrityError): get(toy, tmp_path)
    assert [r for p, r in server.requests if p == path] == ["bytes=10-", None] and left_over(tmp_path) == []


def test_a_broken_line_and_the_wrong_bytes(server, toy, tmp_path):
    served = server.answer

    def break_once(handler):
        served(handler)
        if handler.path.startswith("/files"): server.faults.clear()
    data = server.files["/files/toy-1.0.zip"]
    server.answer, server.faults["/files/toy-1.0.zip"] = break_once, 300_000
    server.files["/files/toy-1.0.zip"] = data[:-1] + b"?"
    with pytest.raises(IntegrityError): get(toy, tmp_path)
    assert [r for p, r in server.requests if p.startswith("/files")] == [None, "bytes=300000-"]
    assert left_over(tmp_path) == []


def test_ctrl_c_keeps_the_part_and_cleans_the_rest(server, toy, tmp_path):
    server.faults["/files/toy-1.0.zip"] = "slow"
    p = fetch_in_another_process(toy, tmp_path)
    part, deadline = part_of(toy, tmp_path), time.monotonic() + 30
    while not (part.exists() and part.stat().st_size): assert time.monotonic() < deadline; time.sleep(0.01)
    p.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in p.communicate(timeout=30)[1]
    assert left_over(tmp_path) == [str(part.relative_to(tmp_path))]
    kept = part.stat().st_size
    assert 0 < kept < toy.sources[0].size
    server.faults.clear()
    assert (get(toy, tmp_path) / "model.bin").read_bytes() == BODY
    assert server.requests[-1][1] == f"bytes={kept}-"


def test_kill_in_the_middle_of_the_extraction(server, toy, tmp_path):
    before = """
        import shutil, time
        def stuck(source, target, n):
            target.write(source.read(1000)); target.flush(); print("writing", flush=True); time.sleep(60)
        shutil.copyfileobj = stuck
        """
    p = fetch_in_another_process(toy, tmp_path, before)
    assert [p.stdout.readline().strip() for _ in range(2)] == ["ready", "writing"]
    p.kill()
    p.communicate()
    assert not toy.folder(tmp_path).exists() and any(".toy-" in name for name in left_over(tmp_path))
    folder, asked = get(toy, tmp_path), len(server.requests)
    assert (folder / "model.bin").read_bytes() == BODY
    assert [n for n in left_over(tmp_path) if ".toy-" in n] == []  # what the dead process left is gone
    assert [p for p, _ in server.requests].count("/files/toy-1.0.zip") == 1, (asked, "the archive was complete")


def test_an_asset_appears_complete_in_one_step(server, toy, tmp_path, monkeypatch):
    final, real = toy.folder(tmp_path), os.replace

    def interrupted(source, target):
        if Path(target) != final: return real(source, target)
        verify(source, toy.files)
        raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt): get(toy, tmp_path)
    assert [n for n in left_over(tmp_path) if n.startswith("assets")] == []
    asked = len(server.requests)
    get(toy, tmp_path)
    assert [p for p, _ in server.requests[asked:]] == ["/simple/toy-models/"], "the complete archive was kept"


def test_two_processes_at_once(server, toy, tmp_path):
    server.faults["/files/toy-1.0.zip"] = "slow"
    both = [fetch_in_another_process(toy, tmp_path) for _ in range(2)]
    outs = [p.communicate(timeout=60) for p in both]
    assert [p.returncode for p in both] == [0, 0], outs
    assert {out.splitlines()[-1] for out, _ in outs} == {str(toy.folder(tmp_path))}
    assert [p for p, _ in server.requests].count("/files/toy-1.0.zip") == 1
    verify(toy.folder(tmp_path), toy.files)


# ---- what is refused ----------------------------------------------------------------------------------------------

def test_a_tampered_archive(server, toy, tmp_path, monkeypatch):
    monkeypatch.setattr(assets, "safe_extract", lambda *a: pytest.fail("opened before it was verified"))
    data = bytearray(server.files["/files/toy-1.0.zip"])
    data[5000] ^= 1
    server.files["/files/toy-1.0.zip"] = bytes(data)
    with pytest.raises(IntegrityError) as e: get(toy, tmp_path)
    assert toy.sources[0].sha256 in str(e.value) and digest(bytes(data)) in str(e.value)
    assert left_over(tmp_path) == []


def test_a_tampered_archive_in_a_folder_index(toy, server, tmp_path, monkeypatch):
    index = tmp_path / "index" / "toy-models"
    index.mkdir(parents=True)
    (index / "toy-1.0.zip").write_bytes(b"PK other")
    (index / "index.html").write_text('<a href="toy-1.0.zip">toy-1.0.zip</a>')
    monkeypatch.setenv("PIP_INDEX_URL", index.parent.as_uri())
    with pytest.raises(IntegrityError): get(toy, tmp_path / "cache")
    (index / "toy-1.0.zip").unlink()
    with pytest.raises(AssetError, match="the file is gone"): get(toy, tmp_path / "cache")


@pytest.mark.parametrize("change", [lambda d: d + b"x", lambda d: d[:-1]])
def test_the_wrong_size(server, toy, tmp_path, change):
    server.files["/files/toy-1.0.zip"] = change(server.files["/files/toy-1.0.zip"])
    with pytest.raises(IntegrityError, match=f"bytes, expected {toy.sources[0].size}"): get(toy, tmp_path)
    assert left_over(tmp_path) == []


def test_a_server_that_never_stops_does_not_fill_the_disk(server, toy, tmp_path, monkeypatch):
    most, real = [], archives._length
    monkeypatch.setattr(archives, "_length", lambda p: most.append(real(p)) or most[-1])
    server.faults["/files/toy-1.0.zip"] = "endless"  # fifty times the archive, no length announced
    with pytest.raises(IntegrityError, match="bytes, expected"): get(toy, tmp_path)
    assert max(most) < 4 * toy.sources[0].size and left_over(tmp_path) == []


def test_a_member_with_another_hash(server, toy, tmp_path):
    asset = dataclasses.replace(toy, files={**toy.files, "model.bin": "a" * 64})
    with pytest.raises(IntegrityError, match="model.bin is not the file it should be"): get(asset, tmp_path)
    assert [n for n in left_over(tmp_path) if n.startswith("assets")] == []


def test_tampered_cached_weights(server, toy, tmp_path):
    folder = get(toy, tmp_path)
    data = bytearray(BODY)
    data[123] ^= 1
    (folder / "model.bin").write_bytes(data)  # same size
    asked = len(server.requests)
    with pytest.raises(IntegrityError) as e: get(toy, tmp_path)
    for part in ("model.bin", digest(BODY), digest(bytes(data)), str(folder), "Delete the folder"):
        assert part in str(e.value)
    assert len(server.requests) == asked and (folder / "model.bin").read_bytes() == data  # neither fetched nor replaced
    shutil.rmtree(folder)  # the way out that the message names
    assert (get(toy, tmp_path) / "model.bin").read_bytes() == BODY


def test_a_missing_or_an_additional_cached_file(server, toy, tmp_path):
    folder = get(toy, tmp_path)
    (folder / ".DS_Store").write_bytes(b"")  # a file browser was here; no loader reads it
    get(toy, tmp_path)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(IntegrityError, match="adapter_config.json does not belong there"): get(toy, tmp_path)
    (folder / "adapter_config.json").unlink()
    (folder / "sub/words.txt").unlink()
    with pytest.raises(IntegrityError, match="words.txt is missing"): get(toy, tmp_path)


UNSAFE = ["../evil", "a/../../evil", "/abs/evil", "..\\evil", "a\\..\\..\\evil", "\\evil", "C:\\evil", "c:evil",
          "\\\\host\\evil"]


@pytest.mark.parametrize("name", UNSAFE)
@pytest.mark.parametrize("make", ["zip", "tar"])
def test_members_that_leave_the_folder(tmp_path, name, make):
    data = make_zip({"good": b"1", name: b"2"}) if make == "zip" else \
        make_tar((tarfile.TarInfo("good"), b"1"), (tarfile.TarInfo(name), b"2"))
    (tmp_path / "in" / "deep").mkdir(parents=True)
    archive, dest = tmp_path / "trap.bin", tmp_path / "in" / "deep"
    archive.write_bytes(data)
    for wanted in (["good"], [name], {name: "fine"}):
        with pytest.raises(IntegrityError) as e: safe_extract(archive, wanted, dest)
        assert repr(name) in str(e.value) and "outside" in str(e.value)
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["trap.bin"]


def test_destinations_that_leave_the_folder(tmp_path):
    (tmp_path / "a.zip").write_bytes(make_zip({"good": b"1"}))
    with pytest.raises(IntegrityError): safe_extract(tmp_path / "a.zip", {"good": "../evil"}, tmp_path)


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_links_and_devices_in_a_tar(tmp_path, kind):
    archive = tmp_path / "trap.tar.gz"
    archive.write_bytes(make_tar((tarfile.TarInfo("good"), b"1"), (special("odd", kind, "/etc/passwd"), b"")))
    with pytest.raises(IntegrityError, match="'odd' is not a regular file"):
        safe_extract(archive, ["good", "odd"], tmp_path)
    assert not (tmp_path / "good").exists()
    assert [p.read_bytes() for p in safe_extract(archive, ["good"], tmp_path)] == [b"1"]


def test_writing_through_a_linked_folder(tmp_path):
    archive = tmp_path / "trap.tar"
    link = special("d", tarfile.SYMTYPE, "..")
    archive.write_bytes(make_tar((link, b""), (tarfile.TarInfo("d/evil"), b"2"), mode="w"))
    dest = tmp_path / "in"
    dest.mkdir()
    safe_extract(archive, ["d/evil"], dest)
    assert (dest / "d/evil").read_bytes() == b"2" and not (tmp_path / "evil").exists() and not (dest / "d").is_symlink()


def test_a_link_in_a_zip(tmp_path):
    info = zipfile.ZipInfo("odd")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "trap.zip", "w") as z: z.writestr(info, "/etc/passwd")
    with pytest.raises(IntegrityError, match="'odd' is not a regular file"):
        safe_extract(tmp_path / "trap.zip", ["odd"], tmp_path)


def test_a_trap_inside_an_archive(tmp_path):
    (tmp_path / "a.zip").write_bytes(make_zip({"inner.zip": make_zip({"../evil": b"1", "good": b"2"})}))
    with pytest.raises(IntegrityError, match="evil"):
        safe_extract(tmp_path / "a.zip", {"inner.zip!/good": "good"}, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize("data", [b"", b"PK", b"PK\3\4 truncated", b"neither", b"\x1f\x8b\x08 cut"])
def test_no_archive_at_all(tmp_path, data):
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(IntegrityError, match="cannot be read as an archive"):
        safe_extract(tmp_path / "a.zip", ["x"], tmp_path)


def test_a_corrupt_member_and_a_missing_one(tmp_path):
    data = bytearray(make_zip({"x": b"hello" * 100}))
    data[60] ^= 1
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(IntegrityError, match="cannot be read"): safe_extract(tmp_path / "a.zip", ["x"], tmp_path)
    with pytest.raises(IntegrityError, match="no member 'y'"): safe_extract(tmp_path / "a.zip", ["y"], tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]  # nothing half-written


# ---- disks --------------------------------------------------------------------------------------------------------

class FullDisk:
    "A file on a disk with no space left after `space` bytes."
    def __init__(self, file, space): self.file, self.space = file, space
    def __enter__(self): return self
    def __exit__(self, *args): self.file.close()
    def __getattr__(self, name): return getattr(self.file, name)

    def write(self, data):
        if self.file.tell() + len(data) > self.space:
            self.file.write(data[:self.space])
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.file.write(data)


@pytest.mark.parametrize("where", ["download", "extraction"])
def test_a_full_disk(server, toy, tmp_path, monkeypatch, where):
    real, mode = open, {"download": "wb", "extraction": "xb"}[where]

    def full(path, how="r", *args, **kwargs):
        file = real(path, how, *args, **kwargs)
        return FullDisk(file, 5000) if how == mode else file
    monkeypatch.setattr(archives, "open", full, raising=False)
    with pytest.raises(AssetError) as e: get(toy, tmp_path)
    for part in ("is full", "1.0 MB", "TL_NB_CACHE", "No space left"): assert part in str(e.value)
    assert left_over(tmp_path) == []
    monkeypatch.setattr(archives, "open", real)
    assert (get(toy, tmp_path) / "model.bin").read_bytes() == BODY


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_cache_that_cannot_be_written(server, toy, tmp_path, monkeypatch, code):
    def refuse(self, *args, **kwargs): raise OSError(code, os.strerror(code), str(self))
    warm = get(toy, tmp_path / "warm")
    with monkeypatch.context() as m:
        m.setattr(Path, "mkdir", refuse)
        m.setattr(assets.FileLock, "acquire", lambda *a, **k: pytest.fail("a filled cache needs no lock"))
        with pytest.raises(AssetError) as e: get(toy, tmp_path / "cold")
        assert get(toy, tmp_path / "warm") == warm
    for part in (os.strerror(code), "cannot be written", "TL_NB_CACHE", "make course"): assert part in str(e.value)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission(server, toy, tmp_path):
    folder = get(toy, tmp_path)
    for d in [tmp_path, *(p for p in tmp_path.rglob("*") if p.is_dir())]: d.chmod(0o555)
    try:
        assert get(toy, tmp_path) == folder
        with pytest.raises(AssetError, match="cannot be written"): get(dataclasses.replace(toy, name="toy2"), tmp_path)
    finally:
        for d in [tmp_path, *(p for p in tmp_path.rglob("*") if p.is_dir())]: d.chmod(0o755)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0 or sys.platform != "linux",
                    reason="needs root to give up root")
def test_a_filled_cache_of_somebody_else(server, toy, tmp_path):
    folder = get(toy, tmp_path)
    code = f"""
import os
from tl_nb.assets import *
from tl_nb.assets import AssetError
import dataclasses
os.setgid(65534); os.setuid(65534)
toy = {toy!r}
print(fetch(toy, cache={str(tmp_path)!r}))
try: fetch(dataclasses.replace(toy, name="toy2"), cache={str(tmp_path)!r})
except AssetError as e: print(e)
"""
    for d in [*tmp_path.parents, tmp_path]:
        if d.stat().st_mode & 0o005 != 0o005 and str(d).startswith("/tmp/"): d.chmod(0o755)
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    if "Permission" in out.stderr: pytest.skip("this folder cannot be read by another user: " + out.stderr[-200:])
    assert out.stdout.splitlines()[0] == str(folder) and "cannot be written" in out.stdout


# ---- without a network --------------------------------------------------------------------------------------------

def test_offline_with_a_cold_cache(offline, tmp_path):
    for name in ("minilm-l6", "vader-sentiment"):
        asset = dataclasses.replace(ASSETS[name], sources=[s for s in ASSETS[name].sources if not isinstance(s, Hub)])
        with pytest.raises(OfflineError) as e: get(asset, tmp_path)
        for part in (name, "127.0.0.1 cannot be reached", "make course", "TL_NB_CACHE"): assert part in str(e.value)
        assert all(str(s) in str(e.value) for s in asset.sources) and left_over(tmp_path) == []


def test_offline_with_a_warm_cache(server, toy, tmp_path, monkeypatch):
    folder = get(toy, tmp_path)
    monkeypatch.setattr(archives.requests, "get", lambda *a, **k: pytest.fail("asked the network"))
    monkeypatch.setattr(archives.subprocess, "run", lambda *a, **k: pytest.fail("asked pip"))
    assert get(toy, tmp_path) == folder


def test_no_index_is_respected(monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert index_urls() == []
    with pytest.raises(OfflineError, match="no index"): find_in_index("toy", "toy-1.0.zip")


def test_passwords_stay_out_of_messages(monkeypatch, tmp_path, toy):
    monkeypatch.setenv("PIP_INDEX_URL", "http://someone:hunter2@127.0.0.1:9/simple")
    with pytest.raises(OfflineError) as e: get(toy, tmp_path)
    assert "hunter2" not in str(e.value)


def test_importing_fetches_nothing_and_writes_nothing(tmp_path):
    code = """
import socket
def cut(*a, **k): raise AssertionError("a socket at import")
socket.socket.connect = cut
import subprocess
subprocess.Popen.__init__ = cut
import tl_nb.assets
import sys
assert not {"torch", "transformers", "huggingface_hub", "sklearn"} & set(sys.modules)
"""
    env = {**os.environ, "HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    env.pop("TL_NB_CACHE", None)
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, check=True)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_outside_the_cache(server, toy, tmp_path):
    home, tmp, cache = tmp_path / "home", tmp_path / "tmp", tmp_path / "cache"
    home.mkdir()
    tmp.mkdir()
    env = {**os.environ, "HOME": str(home), "USERPROFILE": str(home), "TMPDIR": str(tmp), "TL_NB_CACHE": str(cache)}
    env = {k: v for k, v in env.items() if not k.startswith("XDG_")}
    out, err = fetch_in_another_process(toy, cache, env=env).communicate(timeout=60)
    assert out.splitlines()[-1] == str(toy.folder(cache)), err
    assert list(home.rglob("*")) == [] and list(tmp.rglob("*")) == []


# ---- the catalogue ------------------------------------------------------------------------------------------------

def test_the_catalogue_is_complete():
    names = {"minilm-l6", "efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2", "vader-sentiment",
             "20newsgroups", "mnist-5k", "skimage-photos", "wordllama", "phishing"}
    assert names == set(ASSETS)
    for name, asset in ASSETS.items():
        assert asset.name == name and asset.licence and asset.origin and asset.size > 0
        hashes = [*asset.files.values(), *(s.sha256 for s in asset.sources if isinstance(s, IndexArchive))]
        assert all(len(h) == 64 and set(h) <= set("0123456789abcdef") for h in hashes)
        index = [s for s in asset.sources if isinstance(s, IndexArchive)]
        assert len(index) >= 2 and len({s.sha256 for s in index}) == len(index), "one may vanish"
        for s in index: assert f"-{s.version}" in s.filename and s.size


def test_prefetch_and_the_sizes_of_the_catalogue(cache, capsys):
    folders = prefetch()
    lines = [line for line in capsys.readouterr().err.splitlines() if "ready" in line]
    assert len(lines) == len(ASSETS) == len(folders) and lines[0].rpartition("\r")[2].startswith(f"[1/{len(ASSETS)}]")
    for name, folder in folders.items():
        assert sum((folder / f).stat().st_size for f in ASSETS[name].files) == ASSETS[name].size
    start = time.perf_counter()
    prefetch(progress=False)
    assert time.perf_counter() - start < 10


def test_prefetch_goes_on_after_a_failure(server, toy, tmp_path, monkeypatch, capsys):
    bad = dataclasses.replace(toy, name="bad", sources=(IndexArchive("bad", "1", "bad-1.zip", "0" * 64),))
    monkeypatch.setattr(assets, "ASSETS", {"bad": bad, "toy": toy})
    with pytest.raises(AssetError, match="'bad'"): prefetch(cache=tmp_path)
    assert toy.folder(tmp_path).is_dir()
    said = capsys.readouterr().err
    assert "FAILED" in said and "ready" in said


def test_notice():
    text = notice()
    for asset in ASSETS.values():
        assert asset.name in text and asset.licence in text and all(h in text for h in asset.files.values())
        assert all(s.sha256 in text for s in asset.sources if isinstance(s, IndexArchive))
    assert "DejaVu" in text and "UCI" in text and max(map(len, text.splitlines())) < 180
    if not (file := ROOT / "NOTICE").is_file(): pytest.skip("NOTICE is not written yet")
    assert file.read_text(encoding="utf-8") == text, "write NOTICE again from tl_nb.assets.notice()"


def test_an_encrypted_member_is_refused_in_our_words(tmp_path):
    import struct

    archive = tmp_path / "locked.zip"
    with zipfile.ZipFile(archive, "w") as z: z.writestr("a.txt", "secret")
    data = bytearray(archive.read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flag that says: encrypted
        struct.pack_into("<H", data, data.index(mark) + at, 1)
    archive.write_bytes(data)
    (tmp_path / "out").mkdir()
    with pytest.raises(IntegrityError, match="locked.zip cannot be read as an archive"):
        safe_extract(archive, ["a.txt"], tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
