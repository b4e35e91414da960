"""Check that notebooks, library, NOTICE and README are one: cleaning, exporting and linking again changes nothing.

The work is done in a temporary copy, so nothing here is touched. `--notice` writes NOTICE instead of checking."""
import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat

import navigate
from notebooks import NBS, ROOT, lessons, read

LEFT_OUT = (".git", ".venv", ".venv-adapt", "_docs", "_proc", "build", "dist", "*.egg-info", "__pycache__",
            ".pytest_cache", ".ipynb_checkpoints")
NBDEV = ("from nbdev.clean import nbdev_clean as do", "from nbdev.doclinks import nbdev_export as do")


def copy_project(to, root=ROOT):
    "Copy the files of the project, without what is installed or built."
    return Path(shutil.copytree(root, to, symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT)))


def remade(root=ROOT):
    "Names of notebooks and modules that nbdev would write differently."
    with tempfile.TemporaryDirectory(prefix="sync-") as folder:
        copy = copy_project(f"{folder}/copy", root)
        for command in NBDEV:
            subprocess.run([sys.executable, "-c", f"{command}; do.__wrapped__()"], cwd=copy, check=True,
                           env=os.environ | {"PYTHONPATH": str(copy)})
        files = lambda top: {p.relative_to(top) for g in ("nbs/**/*.ipynb", "tl_nb/**/*.py") for p in Path(top).glob(g)}
        old, new = files(root), files(copy)
        differ = {f for f in old & new if (root / f).read_bytes() != (copy / f).read_bytes()}
        return [str(f) for f in sorted(differ | old ^ new)]


def invalid(path):
    "What is wrong with the form of a notebook, or None."
    nb = read(path)
    try: nbformat.validate(nb)
    except nbformat.ValidationError as e: return f"not a valid notebook: {str(e).splitlines()[0]}"
    if nb.metadata.get("kernelspec", {}).get("name") == "python3": return None
    return "no kernelspec python3: JupyterLab would ask for a kernel"


def notice():
    from tl_nb.assets import notice as text

    return text()


def problems():
    "All that is out of step, as sentences."
    found = [f"{p.relative_to(ROOT)}: {why}" for p in lessons(NBS) if (why := invalid(p))]
    found += [f"{name}: differs after nbdev-clean and nbdev-export: run `make library`" for name in remade()]
    found += navigate.problems()
    if not (ROOT / "NOTICE").exists() or (ROOT / "NOTICE").read_text(encoding="utf-8") != notice():
        found.append("NOTICE: not what tl_nb.assets.notice() says: run `make library`")
    readme = subprocess.run([sys.executable, ROOT / "tools" / "readme.py", "--check"], capture_output=True, text=True)
    if readme.returncode: found.append(readme.stderr.strip().splitlines()[-1])
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notice", action="store_true", help="write NOTICE from tl_nb.assets")
    if parser.parse_args().notice:
        (ROOT / "NOTICE").write_text(notice(), encoding="utf-8")
        return
    found = problems()
    print(*found, sep="\n", end="\n" if found else "")
    if found: sys.exit("Notebooks, library, NOTICE and README are out of step.")
    print("In step: notebooks, library, NOTICE and README.")


if __name__ == "__main__":
    main()
