"What the tools share: where things are, which lessons there are in which order, and how their code is hashed."
import ast
import hashlib
import re
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT / "nbs"
LIBRARY = ROOT / "tl_nb"


def lessons(folder=None):  # another folder of notebooks, for tests
    "Every notebook in the order of the course: the top first, then folder by folder."
    folder = Path(folder or NBS)
    found = [p for p in folder.rglob("*.ipynb") if not any(part[0] in "._" for part in p.relative_to(folder).parts)]
    return sorted(found, key=lambda p: (len(p.relative_to(folder).parts) > 1, p.name != "index.ipynb", str(p)))


def read(path): return nbformat.read(path, as_version=4)


def title(nb):
    "The title of a notebook: what its first cell says behind #."
    return re.search(r"^# (.+)$", nb.cells[0].source, re.M)[1].strip()


def sidebar(root=ROOT):
    "[(section, [page, …]), …] of the site: the one place where the order of the course is written down."
    config = yaml.safe_load((root / "_quarto.yml").read_text(encoding="utf-8"))
    return [(part["section"], part["contents"]) for part in config["website"]["sidebar"]["contents"]]


def code_cells(nb): return [c for c in nb.cells if c.cell_type == "code" and c.source.strip()]


def bare(source):
    "Source without blank lines and lines that only comment: what can change a result."
    return [line.rstrip() for line in source.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def code_hash(sources):
    "A short hash of pieces of code; the same for the same code on every machine and Python."
    return hashlib.sha256("\0".join("\n".join(bare(s)) for s in sources).encode()).hexdigest()[:12]


def imported(source):
    "Names of the modules of the library that some code imports."
    source = re.sub(r"^\s*[%!].*$", "pass", source, flags=re.M)  # IPython's own lines are no Python
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import): names |= {a.name for a in node.names}
        if isinstance(node, ast.ImportFrom):
            base = "tl_nb." * (node.level > 0) + (node.module or "")
            names |= {base, *(f"{base.rstrip('.')}.{a.name}" for a in node.names)}
    modules = {n.split(".")[1] for n in names if n.startswith("tl_nb.") and n != "tl_nb."}
    return {m for m in modules if (LIBRARY / f"{m}.py").exists()}


def modules_of(nb):
    "The library's modules that a notebook rests on, directly or not, as sorted names."
    todo, found = set().union(*(imported(c.source) for c in code_cells(nb))), set()
    while todo:
        name = todo.pop()
        found.add(name)
        todo |= imported((LIBRARY / f"{name}.py").read_text()) - found
    return sorted(found)


def stamps(nb):
    "What the stored outputs of a notebook were made by: the hash of its code, and of the library below it."
    library = [(LIBRARY / f"{m}.py").read_text() for m in modules_of(nb)]
    return {"src": code_hash(c.source for c in code_cells(nb)), "modules": code_hash(library)}
