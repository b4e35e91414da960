"""Build the site in _docs/: by Quarto where it is installed, else staged by nbdev and rendered plainly by pandoc.

Both ways check first: the two configurations are one, every page is in the sidebar, every relative link resolves."""
import argparse
import json
import re
import shutil
import subprocess
import sys
from html import escape
from pathlib import Path

import yaml

from notebooks import NBS, ROOT, lessons, read

OUT = ROOT / "_docs"
READER = "ipynb+fenced_divs+bracketed_spans+yaml_metadata_block+tex_math_dollars"
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)|(?:href|src)=\"([^\"#]+)")
FENCED = re.compile(r"^```.*?^```|`[^`\n]*`", re.S | re.M)


def sidebar(config):
    "[(section, [page, …]), …] of the site."
    return [(part["section"], part["contents"]) for part in config["website"]["sidebar"]["contents"]]


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
    config = yaml.safe_load((root / "_quarto.yml").read_text(encoding="utf-8"))
    css = config["format"]["html"]["css"]
    if not (nbs / css).exists(): found.append(f"no stylesheet nbs/{css}")
    listed = [page for _, pages in sidebar(config) for page in pages]
    there = [p.relative_to(nbs).as_posix() for p in lessons(nbs)]
    found += [f"the sidebar lists {p}, which is not there" for p in listed if p not in there]
    found += [f"{p} is in no section of the sidebar of _quarto.yml" for p in there if p not in listed]
    return found + [f"{p.relative_to(nbs)}: dead link {x}" for p in lessons(nbs) for x in dead_links(p)]


def stage():
    "nbdev's own step before Quarto: pages with front matter and with the documentation of what they export, in _proc/."
    from nbdev.quarto import refresh_quarto_yml
    from nbdev.serve import proc_nbs

    refresh_quarto_yml()
    return proc_nbs(force=True, n_workers=2)


def page_name(path):
    "Where a staged page goes: nbdev drops the numbers of files, so that a lesson can move."
    from nbdev.config import nbpath2html

    return nbpath2html(path)


def front_matter(cells):
    "Take the front matter that nbdev put first off the cells of a staged page: {title, description, …}."
    return yaml.safe_load("".join(cells.pop(0)["source"]).strip().strip("-"))


def unfold(cell):
    "Make a cell whose result is documentation that Markdown, as Quarto does; pandoc would show the call."
    if "#| output: asis\n" not in cell["source"]: return
    text = "".join("".join(o["data"].get("text/markdown", "")) for o in cell.pop("outputs"))
    cell.pop("execution_count")
    cell.update(cell_type="markdown", source=text)


def for_pandoc(path):
    "(front matter, JSON) of a staged page. Pandoc's reader insists on a count at each result, which nbdev cleans away."
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
        return f'<li><a href="{up}{page_name(Path(page)).as_posix()}"{mark}>{escape(titles[page])}</a></li>'
    return "\n".join(f"<p>{escape(section)}</p><ul>{''.join(map(row, pages))}</ul>" for section, pages in sections)


def render(page, proc, variables):
    "One staged page to _docs/ by pandoc, its links to notebooks made links to pages; returns what went wrong, or None."
    import pypandoc

    front, text = for_pandoc(proc / page)
    target = OUT / page_name(Path(page))
    target.parent.mkdir(parents=True, exist_ok=True)
    variables |= {"pagetitle": front["title"], "description": front.get("description", "")}
    command = [pypandoc.get_pandoc_path(), "-f", READER, "-t", "html5", "-s", "--mathml", "--embed-resources",
               "--template", ROOT / "tools/page.html", "--css", proc / "styles.css", "-o", target]
    command += [part for name, value in variables.items() for part in ("-V", f"{name}={value}")]
    done = subprocess.run(command, input=text, cwd=(proc / page).parent, capture_output=True, text=True)
    if done.returncode or "WARNING" in done.stderr: return f"{page}: pandoc says {done.stderr.strip()[:300]}"
    link = lambda m: f'href="{page_name(Path(m[1])).as_posix()}'
    html = re.sub(r'href="(?![a-z]+:)([^"#]+\.ipynb)', link, target.read_text(encoding="utf-8"))
    target.write_text(html, encoding="utf-8")


def by_pandoc():
    "Stage and render every page; returns the problems."
    proc = stage()
    sections = sidebar(yaml.safe_load((proc / "_quarto.yml").read_text(encoding="utf-8")))
    pages = [page for _, some in sections for page in some]
    titles = {p: for_pandoc(proc / p)[0]["title"] for p in pages}
    shutil.rmtree(OUT, ignore_errors=True)
    return [why for p in pages if (why := render(p, proc, {"navigation": navigation(sections, titles, p)}))]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plain", action="store_true", help="by pandoc even where Quarto is installed")
    plain = parser.parse_args().plain or shutil.which("quarto") is None
    found = problems()
    if not found and not plain:
        subprocess.run([Path(sys.executable).with_name("nbdev-docs")], cwd=ROOT, check=True)
        if not (OUT / "index.html").exists(): found.append("Quarto left no _docs/index.html")
    elif not found:
        found = by_pandoc()
        print("Without Quarto: plain pages by pandoc. How Quarto renders the site is not checked here.")
    print(*found, sep="\n", end="\n" if found else "")
    if found: sys.exit(f"{len(found)} problems in the site")
    print(f"{len(list(OUT.rglob('*.html')))} pages in _docs/, start with _docs/index.html")


if __name__ == "__main__":
    main()
