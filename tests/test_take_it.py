"""*Take it to your domain*, as a reader would: the recipe of each lesson on an application runs on a folder or CSV of one's own.

`domain_NAME.py` beside this file makes a small one for the lesson `NN_NAME.ipynb`; its data are not the lesson's."""
import importlib
import os
import re
import subprocess
import sys

import pytest

from notebooks import ROOT, lessons, read

NAMES = ("driving", "medical", "agriculture", "chatbot", "search_engine", "anomaly")
HERE = "MINE = None"


def recipe(name):
    "The code under *Take it to your domain*, as one script."
    path, = (p for p in lessons() if p.parent.name == "4_applications" and p.stem[3:] == name)
    under, cells = False, []
    for cell in read(path).cells:
        if cell.cell_type == "code": cells += [cell.source] * under
        elif headings := re.findall(r"^## .*", cell.source, re.M): under = headings[-1] == "## Take it to your domain"
    return "\n\n".join(cells)


@pytest.mark.parametrize("name", NAMES)
def test_the_recipe_runs_on_data_of_ones_own(name, tmp_path):
    script = recipe(name)
    assert script.startswith(HERE), "the recipe begins with the one line to change"
    mine = importlib.import_module(f"domain_{name}").make(tmp_path)
    script = re.sub(r"\AMINE = None.*", lambda line: f"MINE = {str(mine)!r}", script)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "tools" / "offline"), str(ROOT)]), "MPLBACKEND": "agg"}
    ran = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
