"""`embed_distributed` in two processes of one thread against `embed` in one process, with one thread and with two; equal bits, wall time.

Called with a rank by its own `main` through `accelerate launch`, this file is also the script that runs in each process."""
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np

from benchmarks.interleave import machine, report, verdict
from tl_nb.data import load_data
from tl_nb.distributed import embed_distributed, launch, processes

WORK = "work"
WAYS = {"one process, 1 thread": (1, 1), "one process, 2 threads": (1, 2), "two processes, 1 thread each": (2, 1)}
ONE, THREADS, TWO = WAYS


def work(n, out):
    "In each process: embed once to warm up, then once on the clock, from the moment that all are ready; process 0 saves and prints."
    from tl_nb.backbones import load_backbone

    state, backbone, items = processes(), load_backbone("minilm-l6"), list(load_data("sentiment-movie").items[:n])
    embed_distributed(backbone, items[:64], precision="fp32", progress=False)
    if state.num_processes > 1: state.wait_for_everyone()
    start = time.perf_counter()
    found = embed_distributed(backbone, items, precision="fp32", progress=False)
    if state.is_main_process:
        np.save(out, found)
        print(time.perf_counter() - start)


def measure(n, runs, folder):
    "{way: ([seconds to embed], features)}, {way: [seconds with the start of the processes]}; the ways in turns."
    inside, outside = {name: [] for name in WAYS}, {name: [] for name in WAYS}
    for _ in range(runs):
        for name, (processes, threads) in WAYS.items():
            start = time.perf_counter()
            said = launch(Path(__file__), WORK, n, folder / f"{name}.npy", processes=processes, threads=threads)
            outside[name].append(time.perf_counter() - start)
            inside[name].append(float(said.split()[-1]))
    return {name: (inside[name], np.load(folder / f"{name}.npy")) for name in WAYS}, outside


def main(n=2000, runs=3):
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder: found, outside = measure(n, runs, Path(folder))
    print(f"distributed: {n:,} sentences, minilm-l6, fp32, {runs} runs; two processes on {os.cpu_count()} cores of one machine\n  {machine()}")
    ratio = report(found, ONE)
    print("  with the start of the processes: " + ", ".join(f"{name} {statistics.median(s):.1f} s" for name, s in outside.items()))
    one, threads, two = (rows for _, rows in found.values())
    print(f"  two processes against two threads: {ratio[TWO] / ratio[THREADS]:.2f}x; one and two threads differ by at most {np.abs(one - threads).max():.0e}")
    return 0 if verdict("two processes give features bit-equal to one", one.shape == two.shape and np.array_equal(one, two)) else 1


if __name__ == "__main__":
    if sys.argv[1:2] == [WORK]: work(int(sys.argv[2]), sys.argv[3])
    else: sys.exit(main(*map(int, sys.argv[1:])))
