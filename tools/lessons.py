"""Run the lessons, each in a fresh kernel, with no network but loopback, within the limits of time and memory.

    python tools/lessons.py [notebooks]            check: they run, they are fresh, their exercises can be solved
    python tools/lessons.py --write [notebooks]    and store the outputs and the measured seconds
    TL_NB_FULL=1 python tools/lessons.py …         before that, compute slow results again, without a limit of time

What is compared are claims, which the lessons assert themselves, kinds of output, and hashes of code; never digits."""
import argparse
import ast
import base64
import copy
import io
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import psutil
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbdev.clean import nbdev_clean
from PIL import Image

from notebooks import NBS, ROOT, code_cells, lessons, read, stamps

SECONDS, GIGABYTES = 120, 4.0  # the budget of one lesson
COURSE = 25 * 60  # seconds for all lessons, one after another
COLD = 1.5  # a first run, which fills the store of features, may take so many times as long
WEEK = 7 * 24 * 3600  # seconds for slow results, which tl_nb.evaluate.results computes
WIDGET = "application/vnd.jupyter.widget-view+json"
MACHINE_PATH = re.compile(r"(?<![\w.:/~-])/(?:work|tmp|root|home|Users|var/folders)/[\w.@~-]+|\b[A-Z]:\\Users\\")
WARNING = re.compile(r"^.*\b\w*Warning\b: .*$|^.*\bWARNING\b.*$", re.M)
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # nbdev cleans them away
NUMBER = re.compile(r"\d+:\d\d(?::\d\d)?|-?\d[\d,_]*(?:\.\d+)?(?:e[+-]?\d+)?%?")
SOLUTION = re.compile(r"<details>\s*<summary>Solution</summary>(.*?)</details>", re.S)
FENCE = re.compile(r"^```python\n(.*?)^```", re.S | re.M)
TIME = re.compile(r"· (\d+) s to run")


# --- what a notebook shows --------------------------------------------------------------------------------------------

def texts(output):
    "The texts that a reader sees in one output, without pictures that are drawn inside HTML."
    if output.output_type == "stream": return [output.text]
    if output.output_type == "error": return ["\n".join(output.traceback)]
    shown = [v if isinstance(v, str) else "".join(v) for k, v in sorted(output.data.items()) if k.startswith("text/")]
    return [re.sub(r"data:[\w/+;]+,[\w+/=]+", "", t) for t in shown]


def kinds(cell):
    "The kinds of output of a cell: {'stream', 'text/plain', 'image/png', …}; progress on stderr is none."
    found = set()
    for o in cell.outputs:
        if o.output_type == "stream": found |= {"stream"} - ({"stream"} if o.name == "stderr" else set())
        else: found |= {"image/png" if kind == "image/jpeg" else kind for kind in o.get("data", {})} - {WIDGET} or {o.output_type}
    return found


def unclean(nb):
    "What no committed or fresh output may show: warnings, paths of the machine that ran it, errors."
    found = []
    for i, cell in enumerate(code_cells(nb)):
        for o in cell.outputs:
            if o.output_type == "error": found.append(f"code cell {i}: a stored error, {o.ename}")
            for text in texts(o):
                if m := WARNING.search(text): found.append(f"code cell {i}: a warning, {m[0].strip()[:150]}")
                if m := MACHINE_PATH.search(text): found.append(f"code cell {i}: a path of this machine, {m[0]}")
    return list(dict.fromkeys(found))  # each once


def scrub(nb):
    "In place: no progress, no widget state, no counts; what nbdev cleans is left to nbdev."
    nb.metadata.pop("widgets", None)
    for cell in code_cells(nb):
        cell.execution_count = None
        cell.outputs = [o for o in cell.outputs if not (o.output_type == "stream" and o.name == "stderr")]
        for o in cell.outputs: o.get("data", {}).pop(WIDGET, None)
        cell.outputs = [o for o in cell.outputs if o.get("data") != {}]
    return nb


def lighten(nb, most=100_000):  # bytes of a picture
    "In place: a picture becomes JPEG where that needs less than half of the room, as for photographs; drawings stay as they are."
    for o in (o for cell in code_cells(nb) for o in cell.outputs if "image/png" in o.get("data", {})):
        data = base64.b64decode(o.data["image/png"])
        if len(data) <= most or o.metadata.get("image/png"): continue  # with a text in its place: that of a panel
        Image.open(io.BytesIO(data)).convert("RGB").save(out := io.BytesIO(), "JPEG", quality=90, optimize=True)
        if 2 * len(out.getvalue()) > len(data): continue
        o.data["image/jpeg"] = base64.b64encode(out.getvalue()).decode()
        del o.data["image/png"]
    return nb


def blank(text):
    "Text without addresses in memory, every number a #."
    return NUMBER.sub("#", ADDRESS.sub("", text))


def gist(nb):
    "What the outputs say, with every number and timing blanked and pictures by presence only."
    return [[sorted(kinds(c)), [blank(t) for o in c.outputs for t in texts(o)]] for c in code_cells(nb)]


# --- exercises --------------------------------------------------------------------------------------------------------

def check_calls(source):
    "The calls of check_… functions in a cell, as source."
    calls = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call)]
    return [ast.unparse(n) for n in calls if ast.unparse(n.func).split(".")[-1].startswith("check_")]


@dataclass
class Exercise:
    "The solutions in one section of a lesson, and the checks of that section."
    heading: str
    solutions: list = field(default_factory=list)
    checks: list = field(default_factory=list)


def exercises(nb):
    "The sections of a notebook that hold solutions."
    found = [Exercise("the top")]
    for cell in nb.cells:
        if cell.cell_type == "code":
            if "check_" in cell.source: found[-1].checks += check_calls(cell.source)
            continue
        guarded = SOLUTION.sub(lambda m: m[0].replace("\n#", "\n\0#"), cell.source)  # a remark in code is no heading
        for part in re.split(r"^(?=#{1,6} )", guarded, flags=re.M):
            if part.startswith("#"): found.append(Exercise(part.splitlines()[0].lstrip("# ")))
            for body in SOLUTION.findall(part): found[-1].solutions += FENCE.findall(body.replace("\0", ""))
    return [e for e in found if e.solutions]


def exercise_code(exercise):
    "Code cells that prove one exercise: unanswered it says so, and the solution passes."
    if not exercise.checks: raise ValueError(f"'{exercise.heading}' has a solution but no check_… call in its section")
    verdict = "_verdict = {0}\nassert _verdict.passed is {1}, f'{2}: ' + repr(_verdict)"
    before = [verdict.format(c, None, "unanswered, the check should say so") for c in exercise.checks]
    after = [verdict.format(c, True, "the solution does not pass") for c in exercise.checks]
    return [*before, *exercise.solutions, *after]


# --- running ----------------------------------------------------------------------------------------------------------

def _memory(process, shared):
    "Bytes in memory of a process: all of them, or those that it shares with no other, such as a library that its parent has loaded too."
    if shared or not hasattr(process, "memory_maps"): return process.memory_info().rss
    try: return process.memory_full_info().uss
    except psutil.AccessDenied: return process.memory_info().rss


class Memory(threading.Thread):
    "Watches the memory of a process and its children, what they share counted once; `.peak` in GB."
    def __init__(self, pid, every=0.3):  # looking at many processes costs them time, too
        super().__init__(daemon=True)
        self.process, self.every, self.peak, self.stopped = psutil.Process(pid), every, 0.0, threading.Event()

    def resident(self):
        total = 0
        for p in [self.process, *self.process.children(recursive=True)]:
            try: total += _memory(p, shared=p is self.process)
            except psutil.NoSuchProcess: continue  # it ended between the two lines
        return total / 1e9

    def run(self):
        while not self.stopped.wait(self.every):
            try: self.peak = max(self.peak, self.resident())
            except psutil.NoSuchProcess: return


@dataclass
class Run:
    "One lesson as it went."
    path: Path
    nb: object  # with the outputs of this run
    seconds: float = 0.0
    peak: float = 0.0  # GB
    problems: list = field(default_factory=list)
    note: str = ""


def environment(folder, full="0"):  # full: which slow results to compute
    "Variables of a kernel: the network cut, nothing of the user's own IPython."
    path = [str(ROOT / "tools" / "offline"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(path), "OFFLINE_LOG": f"{folder}/network", "TL_NB_FULL": full,
                         "IPYTHONDIR": f"{folder}/ipython", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}


def execute(path, seconds=SECONDS, full="0"):
    "Run one notebook, then its exercises, in a fresh kernel."
    nb = copy.deepcopy(read(path))
    for cell in code_cells(nb): cell.outputs = []
    run = Run(path, nb)
    with tempfile.TemporaryDirectory(prefix="lesson-") as folder:
        client = NotebookClient(nb, timeout=4 * seconds, kernel_name="python3", store_widget_state=False,
                                resources={"metadata": {"path": str(path.parent)}})
        client.reset_execution_trackers()
        client.create_kernel_manager().connection_file = f"{folder}/kernel.json"
        if os.name == "posix": client.km.transport = "ipc"  # files instead of ports: private, and no warning about that
        start = time.monotonic()
        try:
            with client.setup_kernel(env=environment(folder, full)):
                memory = Memory(client.km.provisioner.pid)
                memory.start()
                for i, cell in enumerate(list(nb.cells)): client.execute_cell(cell, i)
                run.seconds = time.monotonic() - start
                memory.stopped.set()
                run.peak = memory.peak
                try_exercises(client)
        except (CellExecutionError, CellTimeoutError, DeadKernelError, ValueError) as e:
            run.problems.append(re.sub(r"\x1b\[[\d;]*m", "", str(e)).strip()[-2000:])
        log = Path(folder, "network")
        tried = sorted(set(log.read_text().splitlines())) if log.exists() else []
        if tried: run.problems.append(f"reached for the network: {', '.join(tried)}")
    return run


def try_exercises(client):
    "Run the solutions of a lesson in its own kernel; its stored cells are left alone."
    for exercise in exercises(client.nb):
        for source in exercise_code(exercise):
            client.nb.cells.append(nbformat.v4.new_code_cell(source))
            try: client.execute_cell(client.nb.cells[-1], len(client.nb.cells) - 1)
            finally: client.nb.cells.pop()


# --- judging ----------------------------------------------------------------------------------------------------------

def judge(run, seconds=SECONDS):
    "Add to the run what is wrong with it as a run, whatever is stored."
    if run.seconds > seconds: run.problems.append(f"took {run.seconds:.0f} s; a lesson has {seconds}")
    if run.peak > GIGABYTES: run.problems.append(f"took {run.peak:.1f} GB; a lesson has {GIGABYTES}")
    run.problems += unclean(run.nb)


def stale(old, new):
    "Why the stored outputs of a notebook are not those of its code, as a list; empty when they are."
    stored, now = old.metadata.get("tl_nb", {}), stamps(old)
    if not stored: return ["no stored outputs: run `make refresh`"]
    changed = {"src": "the notebook's code", "modules": "the library below it"}
    found = [f"{what} changed since the outputs were stored: run `make refresh`"
             for k, what in changed.items() if stored.get(k) != now[k]]
    for i, (a, b) in enumerate(zip(code_cells(old), code_cells(new))):
        missing = ", ".join(sorted(kinds(b) - kinds(a)))
        if missing: found.append(f"code cell {i}: the stored outputs lack {missing}")
    return found


def stamp_seconds(nb, seconds):
    "Write the measured seconds into the header, in steps of five; a stamp that still fits is left alone."
    def said(m):
        fits = 0.7 * int(m[1]) <= seconds <= int(m[1])
        return m[0] if fits else f"· {max(5, 5 * math.ceil(seconds / 5))} s to run"
    for cell in nb.cells[:2]: cell.source = TIME.sub(said, cell.source)


def store(run):
    "Write outputs, seconds and hashes; outputs that say the same as the stored ones are left as they are."
    old, new = read(run.path), lighten(scrub(run.nb))
    same = old.metadata.get("tl_nb") == stamps(old) and gist(scrub(copy.deepcopy(old))) == gist(new)
    nb = old if same else new
    nb.metadata["tl_nb"] = stamps(nb)
    nb.metadata.pop("language_info", None)
    stamp_seconds(nb, run.seconds)
    nbformat.write(nb, run.path)
    nbdev_clean(str(run.path))
    run.note = "unchanged" if same else "written"


def lesson(path, write=False, seconds=SECONDS):
    "Run one lesson and judge it; store it when asked and nothing is wrong. Slow results that TL_NB_FULL asks for first."
    full = os.environ.get("TL_NB_FULL") or "0"
    if full != "0" and (slow := execute(path, WEEK, full)).problems: return slow
    run = execute(path, seconds)
    if not run.problems and seconds < run.seconds <= COLD * seconds: run = execute(path, seconds)  # warm: the budget holds
    if not run.problems: judge(run, seconds)
    if run.problems: return run
    if write: store(run)
    else: run.problems += stale(read(path), scrub(run.nb)) + [f"stored: {p}" for p in unclean(read(path))]
    return run


def report(run):
    name = run.path.relative_to(ROOT) if run.path.is_relative_to(ROOT) else run.path.name
    state = "FAILED" if run.problems else run.note or "ok"
    print(f"{name}: {state} ({run.seconds:.0f} s, {run.peak:.1f} GB)", *run.problems, sep="\n    ", flush=True)


def features():
    "The size of the store of features in bytes: where a run has made it grow, the run was a first one."
    from tl_nb.settings import settings

    return sum(p.stat().st_size for p in (settings.cache / "features").rglob("*") if p.is_file())


def course(seconds,  # of all lessons together
           grown):  # by how many bytes the store of features
    "What all lessons took, as a sentence, and whether that is too long."
    cold = grown > 1_000_000  # less is its index, which is written anew
    limit = COLD * COURSE if cold else COURSE
    first = f"; a first run, which filled the store of features, has {limit / 60:.1f}" if cold else ""
    said = f"the whole course: {seconds / 60:.1f} minutes to run, one lesson after another, of {COURSE / 60:.0f}{first}"
    return said, seconds > limit


# --- the command ------------------------------------------------------------------------------------------------------

def cut_network():
    "Start this command again in a network of its own that has nothing but loopback, where the system allows it."
    if "--inside" in sys.argv:
        subprocess.run([sys.executable, "-c", LOOPBACK_UP], check=True)
        return
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode:
        print("No network namespace here: the lessons' own sockets are watched instead.", flush=True)
        return
    os.execvp("unshare", ["unshare", "-rn", sys.executable, *sys.argv, "--inside"])


LOOPBACK_UP = """
import fcntl, socket, struct
with socket.socket() as s:  # what `ip link set lo up` does: SIOCSIFFLAGS with IFF_UP | IFF_RUNNING
    fcntl.ioctl(s, 0x8914, struct.pack('16sh14x', b'lo', 0x1 | 0x40))
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: every lesson")
    parser.add_argument("--write", action="store_true", help="store outputs and seconds")
    parser.add_argument("-j", type=int, default=1, help="lessons at a time; with several, the seconds mean little")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="limit of one lesson")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    cut_network()
    failed, seconds, before, paths = 0, 0.0, features(), [p.resolve() for p in args.notebooks] or lessons(NBS)
    with ThreadPoolExecutor(args.j) as pool:
        for run in pool.map(lambda p: lesson(p, args.write, args.seconds), paths):
            report(run)
            failed, seconds = failed + bool(run.problems), seconds + run.seconds
    print(f"{len(paths) - failed} passed, {failed} failed")
    said, late = course(seconds, features() - before)
    whole = not args.notebooks and args.j == 1
    if whole: print(f"{'OVER ITS BUDGET, ' if late else ''}{said}")  # told, and no failure: it is the machine's speed as much as the course's
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
