"""Take the notebooks and the package of a made project back into the template, tl_nb/_project.

    python -c 'from tl_nb.template import new_project; new_project("PATH", "DATA", name="tlnbproject")'
    (edit PATH/nbs in JupyterLab)
    python tools/project.py PATH

The other files of the template are edited where they are."""
import os
import subprocess
import sys
from pathlib import Path

from notebooks import LIBRARY, code_cells, read
from sync import NBDEV

PACKAGE = "tlnbproject"  # stands for the name of the package, and occurs nowhere else
TEMPLATE = LIBRARY / "_project"


def gaps(text, name):
    "The text with gaps for copier in place of the name of the package."
    if odd := [sign for sign in ("{{", "{%", "{#") if sign in text]: raise ValueError(f"{name} holds {odd[0]!r}, which copier would take for a gap. Write it otherwise.")
    return text.replace(PACKAGE, "{{ package }}")


def emptied(path):
    "A notebook without outputs, written in place."
    import nbformat

    nb = read(path)
    for cell in code_cells(nb): cell.outputs, cell.execution_count = [], None
    nbformat.write(nb, path)


def take(project, template=TEMPLATE):  # a project whose package is called PACKAGE; a folder to write to
    "Export and clean the project, and write its notebooks and modules as templates. Returns the files."
    project, template = Path(project), Path(template)
    for path in project.glob("nbs/*.ipynb"): emptied(path)
    for command in NBDEV:
        subprocess.run([sys.executable, "-c", f"{command}; do.__wrapped__()"], cwd=project, check=True, env=os.environ | {"PYTHONPATH": str(project)})
    targets = {p: template / "nbs" / f"{p.name}.jinja" for p in sorted(project.glob("nbs/*.ipynb"))}
    targets |= {p: template / "{{ package }}" / f"{p.name}.jinja" for p in sorted((project / PACKAGE).glob("*.py"))}
    written = {target: gaps(path.read_text(encoding="utf-8"), path.name) for path, target in targets.items()}
    for target, text in written.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    for folder in {t.parent for t in written}:
        for old in set(folder.iterdir()) - written.keys(): old.unlink()
    return list(written)


if __name__ == "__main__":
    if len(sys.argv) != 2: sys.exit(__doc__)
    print(*(p.relative_to(TEMPLATE).as_posix() for p in take(sys.argv[1])), sep="\n")
