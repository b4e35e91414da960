"""Open the course: fetch what is missing, then start JupyterLab on a notebook. What `make course` runs.

    python tools/lab.py [--no-browser] [--port 8899] [notebook]

After the models and data are there, nothing leaves the machine: JupyterLab's news, its look for updates and its list of
extensions are off. Settings of your own in ~/.jupyter stay in force."""
import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OFFLINE = ["--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
           "--LabApp.extension_manager=readonly"]


def arguments(notebook="nbs/index.ipynb", port=None, browser=True):
    "The command line of JupyterLab."
    args = [f"--ServerApp.root_dir={ROOT}", f"--LabApp.default_url=/lab/tree/{notebook}", *OFFLINE]
    if not browser: args.append("--no-browser")
    if port: args += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    if hasattr(os, "geteuid") and os.geteuid() == 0: args.append("--allow-root")  # JupyterLab refuses root otherwise
    return args


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", nargs="?", default="nbs/index.ipynb", help="path from the top of the project")
    parser.add_argument("--port", type=int, help="default: the first free one from 8888")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    args = parser.parse_args()

    from tl_nb.assets import prefetch

    prefetch()
    # Two extensions of JupyterLab ask the network when the page opens; this folder of configuration disables them.
    own = [str(ROOT / "tools" / "jupyter"), *filter(None, [os.environ.get("JUPYTER_CONFIG_PATH")])]
    os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join(own)
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # the kernel of this environment, not its namesake in the home folder
    print("Starting JupyterLab; its address is printed below. Ctrl-C twice stops it.", flush=True)

    from jupyterlab.labapp import main as lab

    sys.exit(lab(arguments(args.notebook, args.port, not args.no_browser)))


if __name__ == "__main__":
    main()
