"Write README.md from nbs/index.ipynb: the first page of the course and of the project are one. `--check` compares."
import argparse
import copy
import posixpath
import re
import sys

from nbconvert import MarkdownExporter
from traitlets.config import Config

from navigate import MARK
from notebooks import NBS, ROOT, read

INDEX, README, PICTURES = NBS / "index.ipynb", ROOT / "README.md", ROOT / ".github" / "readme"
HEAD = "<!-- Made from nbs/index.ipynb by `make readme`: edit that notebook. -->\n\n"
LINK = re.compile(r"(\]\(|(?:href|src)=\")(?![a-z]+:|#|/)([^)\s\"]+)")
SHOWN = ["text/markdown", "image/png", "image/jpeg", "text/plain"]  # not HTML: code hosts drop its styles


def from_root(text):
    "Markdown with its relative links turned from nbs/ to the top of the project; code is left alone."
    parts = re.split(r"(^```.*?^```)", text, flags=re.S | re.M)
    turn = lambda m: m[1] + posixpath.normpath(posixpath.join("nbs", m[2]))
    return "".join(p if p.startswith("```") else LINK.sub(turn, p) for p in parts)


def readable(nb):
    "A copy of a notebook as the README shows it: hidden cells, directives and the way on left out, links from the top."
    nb = copy.deepcopy(nb)
    nb.metadata["language_info"] = {"name": "python"}  # colours its code blocks
    nb.cells = [c for c in nb.cells if not re.match(rf"#\|\s*hide|{re.escape(MARK)}", c.source) and c.source.strip()]
    for c in nb.cells:
        if c.cell_type == "markdown": c.source = from_root(c.source)
        else: show(c)
    return nb


def show(cell):
    "In place: a code cell without directives, or without its code where it says `echo: false`; links in what it shows."
    silent = re.search(r"^#\|\s*echo:\s*false", cell.source, re.M)
    cell.source = "" if silent else re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M)
    for o in cell.outputs:
        if text := o.get("data", {}).get("text/markdown"): o.data["text/markdown"] = from_root(text)


def convert(nb):
    "(the text of the README, {name: bytes} of its pictures)"
    config = Config({"NbConvertBase": {"display_data_priority": SHOWN}})
    names = {"output_files_dir": PICTURES.relative_to(ROOT).as_posix(), "unique_key": "index"}
    text, found = MarkdownExporter(config=config).from_notebook_node(readable(nb), resources=names)
    text = re.sub(r"^```python\n\s*```\n", "", text, flags=re.M)  # of a cell whose code is not shown
    text = re.sub(r"[ \t]+$", "", text, flags=re.M).replace("![png](", "![The figure that the code above draws](")
    return HEAD + re.sub(r"\n{3,}", "\n\n", text).strip() + "\n", dict(found.get("outputs") or {})


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail when README.md is old")
    text, pictures = convert(read(INDEX))
    there = {p.relative_to(ROOT).as_posix() for p in PICTURES.glob("*")}
    if parser.parse_args().check:
        same = README.exists() and README.read_text(encoding="utf-8") == text and there == set(pictures)
        if not same: sys.exit("README.md is not what nbs/index.ipynb gives: run `make readme`")
        return
    README.write_text(text, encoding="utf-8")
    for name in there - set(pictures): (ROOT / name).unlink()
    for name, data in pictures.items():
        (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / name).write_bytes(data)
    print(f"README.md written, with {len(pictures)} pictures")


if __name__ == "__main__":
    main()
