"""End every notebook with links to the page before, the map and the page after, in the order of _quarto.yml.

`--check` changes nothing and fails where a notebook ends otherwise. The outputs stay fresh: only Markdown is touched."""
import argparse
import posixpath
import sys

import nbformat
from nbdev.clean import nbdev_clean

from notebooks import NBS, ROOT, read, sidebar, title

MARK = "<!-- written by tools/navigate.py -->"
TOP = "index.ipynb"


def pages(root=ROOT):
    "The notebooks of the course in order, relative to nbs/."
    return [page for _, some in sidebar(root) for page in some if page.endswith(".ipynb")]


def link(here, there, text):
    "A Markdown link from one page to another, which may end in #place."
    return f"[{text}]({posixpath.relpath(there, posixpath.dirname(here) or '.')})"


def ending(order, titles, here):
    "The last cell of a page."
    at = order.index(here)
    heads = [t.split(":")[0] for t in titles.values()]
    short = lambda page: head if heads.count(head := titles[page].split(":")[0]) == 1 else titles[page]
    links = [link(here, order[at - 1], f"← {short(order[at - 1])}")] if at else []
    if here != TOP: links.append(link(here, f"{TOP}#the-map", "The map"))
    if at + 1 < len(order): links.append(link(here, order[at + 1], f"{short(order[at + 1])} →"))
    return f"{MARK}\n\n{' · '.join(links)}"


def endings(nbs=NBS, root=ROOT):
    "{path of a notebook: its last cell}"
    order = pages(root)
    titles = {page: title(read(nbs / page)) for page in order}
    return {nbs / page: ending(order, titles, page) for page in order}


def ends_with(nb, text):
    "Whether a notebook ends with this cell and has no other such cell."
    marked = [cell.source for cell in nb.cells if cell.source.startswith(MARK)]
    return marked == [text] and nb.cells[-1].source == text


def write(path, text):
    "Give a notebook this last cell; true if that changed it."
    nb = read(path)
    if ends_with(nb, text): return False
    cell = nbformat.v4.new_markdown_cell(text, id="navigation")  # the same id each time: the same bytes
    nb.cells = [c for c in nb.cells if not c.source.startswith(MARK)] + [cell]
    nbformat.write(nb, path)
    nbdev_clean(str(path))
    return True


def problems(nbs=NBS, root=ROOT):
    "The notebooks that end otherwise, as sentences."
    return [f"{path.relative_to(nbs)}: its last cell is not the way to the pages before and after: run `make library`"
            for path, text in endings(nbs, root).items() if not ends_with(read(path), text)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a notebook ends otherwise")
    if parser.parse_args().check:
        if found := problems(): sys.exit("\n".join(found))
        return
    changed = [path for path, text in endings().items() if write(path, text)]
    print(f"{len(changed)} notebooks given their last cell")


if __name__ == "__main__":
    main()
