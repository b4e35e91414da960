"""Build the site in _docs/: by Quarto where it is installed, else staged by nbdev and rendered plainly by pandoc.

Both ways check first: the two configurations are one, every page is in the sidebar, every relative link resolves. Both
write the reference of the library and llms.txt, and then follow every link of the site that was made."""
import argparse
import json
import os
import posixpath
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from functools import cache
from html import escape, unescape
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml

import reference
import staging
from navigate import MARK
from notebooks import NBS, ROOT, lessons, read, sidebar

OUT = ROOT / "_docs"
REFERENCE = "api/index.qmd"
READER = {".ipynb": "ipynb+fenced_divs+bracketed_spans+yaml_metadata_block+tex_math_dollars", ".qmd": "markdown"}
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)|(?:href|src)=\"([^\"#]+)")
FENCED = re.compile(r"^```.*?^```|`[^`\n]*`", re.S | re.M)
SILENT = re.compile(r"^#\| *(?:output: *asis|echo: *false)\s*$", re.M)
HREF = re.compile(r'(<[a-z]+\s[^<>]*?\b(?:href|src)=")([^"]*)"')
WAY = re.compile(re.escape(MARK) + r"\s*<p>.*?</p>", re.S)


# --- before -----------------------------------------------------------------------------------------------------------

def dead_links(path):
    "Relative links of a notebook that lead nowhere. A link may leave the site for a file of the project."
    text = "\n".join(FENCED.sub("", c.source) for c in read(path).cells if c.cell_type == "markdown")
    links = [a or b for a, b in LINK.findall(text)]
    return [x for x in links if not re.match(r"[a-z]+:|/", x) and not (path.parent / x).exists()]


def problems(nbs=NBS, root=ROOT):
    "What would be broken on the site, as sentences."
    found = []
    if (root / "_quarto.yml").read_bytes() != (nbs / "_quarto.yml").read_bytes():
        found.append("nbs/_quarto.yml is not the _quarto.yml of the project: make it a link to ../_quarto.yml again")
    css = yaml.safe_load((root / "_quarto.yml").read_text(encoding="utf-8"))["format"]["html"]["css"]
    if not (nbs / css).exists(): found.append(f"no stylesheet nbs/{css}")
    listed = [page for _, pages in sidebar(root) for page in pages]
    there = [p.relative_to(nbs).as_posix() for p in lessons(nbs)]
    found += [f"the sidebar lists {p}, which is not there" for p in listed if p not in [*there, REFERENCE]]
    found += [f"{p} is in no section of the sidebar of _quarto.yml" for p in there if p not in listed]
    return found + [f"{p.relative_to(nbs)}: dead link {x}" for p in lessons(nbs) for x in dead_links(p)]


@contextmanager
def with_reference(sections, nbs=NBS):
    "The pages of the reference in nbs/ for as long as the site is made, if the sidebar lists them; their names."
    asked = any(REFERENCE in pages for _, pages in sections)
    made = reference.write(nbs / "api") if asked else []
    try: yield [p.relative_to(nbs).as_posix() for p in made]
    finally: shutil.rmtree(nbs / "api", ignore_errors=True)


def stage():
    "nbdev's own step before Quarto: pages with front matter and with the documentation of what they export, in _proc/."
    from nbdev.quarto import refresh_quarto_yml
    from nbdev.serve import proc_nbs

    staging.install()
    refresh_quarto_yml()
    return proc_nbs(force=True, n_workers=2)


# --- a page -----------------------------------------------------------------------------------------------------------

def page_name(path):
    "Where a staged page goes: nbdev drops the numbers of files, so that a lesson can move."
    from nbdev.config import nbpath2html

    return nbpath2html(path)


def href(page): return page_name(Path(page)).as_posix()


def front_matter(cells):
    "Take the front matter that nbdev put first off the cells of a staged page: {title, description, …}."
    return yaml.safe_load("".join(cells.pop(0)["source"]).strip().strip("-"))


def unfold(cell):
    "Make a cell of which only the result shall show that Markdown, as Quarto does; pandoc would show the code."
    if cell["cell_type"] != "code" or not SILENT.search("".join(cell["source"])): return
    texts = ["".join(o.get("data", {}).get("text/markdown", "")) for o in cell["outputs"]]
    if "#| echo" in "".join(cell["source"]) and "" in texts: return  # a picture needs its cell
    for key in ("outputs", "execution_count"): cell.pop(key)
    cell.update(cell_type="markdown", source="\n".join(texts))


def for_pandoc(path):
    "(front matter, text) of a staged page. Pandoc's reader insists on a count at each result, which nbdev cleans away."
    if path.suffix == ".qmd":
        _, front, text = path.read_text(encoding="utf-8").split("---\n", 2)
        return yaml.safe_load(front), text
    page = json.loads(path.read_text(encoding="utf-8"))
    front = front_matter(page["cells"])
    for cell in page["cells"]: unfold(cell)
    results = (o for c in page["cells"] for o in c.get("outputs", []) if o["output_type"] == "execute_result")
    for output in results: output["execution_count"] = output.get("execution_count") or 1
    return front, json.dumps(page)


def navigation(sections, titles, here):
    "The sidebar as HTML, with links as seen from one page."
    up = "../" * (len(Path(here).parts) - 1)
    def row(page):
        mark = " aria-current=page" if page == here else ""
        return f'<li><a href="{up}{href(page)}"{mark}>{escape(titles[page])}</a></li>'
    return "\n".join(f"<p>{escape(section)}</p><ul>{''.join(map(row, pages))}</ul>" for section, pages in sections)


def turning(sections, titles, here):
    "Links to the page before and the page after, as HTML; nothing for a page that is not in the sidebar."
    order, up = [page for _, pages in sections for page in pages], "../" * (len(Path(here).parts) - 1)
    if here not in order: return ""
    at, link = order.index(here), lambda page, mark, text: f'<a rel="{mark}" href="{up}{href(page)}">{text.format(escape(titles[page]))}</a>'
    before = link(order[at - 1], "prev", "← {}") if at else ""
    return f"{before}<span></span>{link(order[at + 1], 'next', '{} →') if at + 1 < len(order) else ''}"


def render(page, proc, variables):
    "One staged page to _docs/ by pandoc, its links to sources made links to pages; returns what went wrong, or None."
    import pypandoc

    front, text = for_pandoc(proc / page)
    target = OUT / page_name(Path(page))
    target.parent.mkdir(parents=True, exist_ok=True)
    variables |= {"pagetitle": escape(front["title"]), "description": escape(front.get("description") or "", quote=False)}
    command = [pypandoc.get_pandoc_path(), "-f", READER[Path(page).suffix], "-t", "html5", "-s", "--mathml", "--embed-resources",
               "--template", ROOT / "tools/page.html", "--css", proc / "styles.css", "-o", target]
    command += [part for name, value in variables.items() for part in ("-V", f"{name}={value}")]
    done = subprocess.run(command, input=text, cwd=(proc / page).parent, capture_output=True, text=True)
    if done.returncode or "WARNING" in done.stderr: return f"{page}: pandoc says {done.stderr.strip()[:300]}"
    html = re.sub(r'href="(?![a-z]+:)([^"#]+\.(?:ipynb|qmd))', lambda m: f'href="{href(m[1])}', target.read_text(encoding="utf-8"))
    target.write_text(html, encoding="utf-8")


def by_pandoc(sections, more):
    "Stage and render every page, and more that are in no sidebar; returns the problems."
    proc = stage()
    pages = dict.fromkeys([page for _, some in sections for page in some] + more)
    titles = {p: for_pandoc(proc / p)[0]["title"] for p in pages}
    shutil.rmtree(OUT, ignore_errors=True)
    around = lambda p: {"navigation": navigation(sections, titles, p), "turning": turning(sections, titles, p)}
    return [why for p in pages if (why := render(p, proc, around(p)))]


def by_quarto():
    "What the command nbdev-docs does, in this process, so that pages are staged as above; returns the problems."
    from nbdev.quarto import nbdev_docs

    staging.install()
    os.chdir(ROOT)
    nbdev_docs.__wrapped__(n_workers=2)
    return [] if (OUT / "index.html").exists() else ["Quarto left no _docs/index.html"]


# --- after ------------------------------------------------------------------------------------------------------------

def exported():
    "{page of a lesson: the module that it exports}"
    return {m.notebook: m.name for m in reference.modules() if m.notebook}


def outside(page, link, root=ROOT, nbs=NBS):
    "The file of the project that a link on a page means and that is no page, or None. nbdev writes /blob/… for sources."
    path = unquote(urlsplit(link).path)
    file = root / path.split("/", 3)[-1] if path.startswith("/blob/") else (nbs / Path(page).parent / path).resolve()
    return file if file.is_file() and file.is_relative_to(root) and file.suffix not in READER else None


def places(html):
    "The names in a page that a link can lead to."
    return {unescape(x) for x in re.findall(r'\s(?:id|name)="([^"]+)"', html)}


@cache
def places_in(path): return places(path.read_text(encoding="utf-8"))


def mended(link, page, out, root, nbs):
    "A link of a page as it must be on the site, where a site has no top of its own and files of the project come along."
    up, parts = "../" * (len(Path(page).parts) - 1), urlsplit(link)
    if parts.scheme or parts.netloc or not parts.path: return link
    if parts.path.startswith("/") and (there := out / parts.path[1:]).is_file():  # nbdev's, to a name that may have no heading
        return up + parts.path[1:] + (f"#{parts.fragment}" if parts.fragment in places_in(there) else "")
    there = ((out / href(page)).parent / unquote(parts.path)).resolve()
    if there.is_relative_to(out.resolve()) and there.exists() or not (file := outside(page, link, root, nbs)): return link
    copy = out / "project" / file.relative_to(root)
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, copy)
    return f"{up}project/{file.relative_to(root).as_posix()}"


def finish(page, out=None, root=ROOT, nbs=NBS, module=None):
    """Finish the HTML of a page in place: the way that the notebook ends with gives way to that of the site, links are mended, and
    a lesson leads to the reference of its module."""
    out = out or OUT
    target, up = out / href(page), "../" * (len(Path(page).parts) - 1)
    html = WAY.sub("", target.read_text(encoding="utf-8"))
    html = HREF.sub(lambda m: m[0] if m[2].startswith("data:") else f'{m[1]}{escape(mended(unescape(m[2]), page, out, root, nbs))}"', html)
    more = f'<p class="reference">Reference: <a href="{up}api/{module}.html"><code>tl_nb.{module}</code></a></p>'
    if module: html = html.replace("</main>", f"{more}\n</main>", 1)
    target.write_text(html, encoding="utf-8")


def unreached(out=None, start="index.html"):
    "(dead links of a built site as sentences, pages that no way leads to from the start)"
    out, seen, todo, dead = out or OUT, {start}, [start], []
    text = cache(lambda page: (out / page).read_text(encoding="utf-8"))
    named = cache(lambda page: places(text(page)))  # not as above: pages may have been finished since
    while todo:
        page = todo.pop()
        for link in dict.fromkeys(unescape(x) for _, x in HREF.findall(text(page)) if not x.startswith("data:")):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc: continue
            to = posixpath.normpath(posixpath.join(posixpath.dirname(page), unquote(parts.path))) if parts.path else page
            if to.startswith("..") or not (out / to).is_file(): dead.append(f"{page}: dead link {link}")
            elif to.endswith(".html"):
                if parts.fragment and unquote(parts.fragment) not in named(to): dead.append(f"{page}: no such place {link}")
                if to not in seen: seen.add(to), todo.append(to)
    every = {p.relative_to(out).as_posix() for p in out.rglob("*.html") if "site_libs" not in p.parts}
    return dead, sorted(every - seen)


def llms(sections, more, proc):
    "The text of llms.txt: title, summary and address of every page, for readers that are programs."
    about = lambda page: for_pandoc(proc / page)[0]
    def row(page):
        front = about(page)
        return f"- [{front['title']}]({href(page)}): {' '.join((front.get('description') or '').split())}"
    top, rest = about("index.ipynb"), [page for page in more if page != REFERENCE]
    parts = [*sections, *([("Modules of the library", rest)] if rest else [])]
    lists = [f"## {section}\n\n" + "\n".join(map(row, pages)) for section, pages in parts]
    return "\n\n".join([f"# {top['title']}", f"> {top['description']}", *lists]) + "\n"


def finish_all(sections, more):
    "What is done to a rendered site; returns the problems."
    modules = exported() if more else {}
    for page in dict.fromkeys([p for _, some in sections for p in some] + more): finish(page, module=modules.get(page))
    (OUT / "llms.txt").write_text(llms(sections, more, ROOT / "_proc"), encoding="utf-8")
    dead, lost = unreached()
    return dead + [f"{page}: no way leads there from index.html" for page in lost]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plain", action="store_true", help="by pandoc even where Quarto is installed")
    plain, sections, found = parser.parse_args().plain or shutil.which("quarto") is None, sidebar(), problems()
    if not found:
        with with_reference(sections) as more: found = by_pandoc(sections, more) if plain else by_quarto()
    if not found:
        found = finish_all(sections, more)
        if plain: print("Without Quarto: plain pages by pandoc. How Quarto renders the site is not checked here.")
    print(*found, sep="\n", end="\n" if found else "")
    if found: sys.exit(f"{len(found)} problems in the site")
    print(f"{len(list(OUT.rglob('*.html')))} pages in _docs/, start with _docs/index.html")


if __name__ == "__main__":
    main()
