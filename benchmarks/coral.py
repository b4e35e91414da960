"""CORAL, fit and transform, against skada and `adapt`: equal regularisation, same result, each in a process of its own."""
import os
import select
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.interleave import machine, report, verdict

ROOT = Path(__file__).parents[1]
ADAPT = ROOT / ".venv-adapt" / "bin" / "python"  # made by `make bench`
WORKER, REG = Path(__file__).with_name("coral_worker.py"), 0.01


def domains(n, d, seed=0):
    "Two domains (n, d) with different axes, spectra like those of features, and a mean variance of one."
    rng = np.random.default_rng(seed)
    def one(slope):
        X = rng.normal(size=(n, d)) * np.arange(1, d + 1) ** -slope
        X = X[:, rng.permutation(d)] + 0.3 * np.roll(X, 1, axis=1)
        return X / np.sqrt(X.var(0, ddof=1).mean()) + rng.normal(size=d)
    return one(0.3), one(0.5)


class Worker:
    "A process that runs one way of CORAL when told to, and says how long it took."
    def __init__(self, who, python, folder):
        self.result = Path(folder, f"{who}.npy")
        env = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore"}
        self.process = subprocess.Popen([str(python), WORKER, who, Path(folder, "domains.npz"), self.result], text=True, env=env,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self._answer("ready")

    def _answer(self, what=None):
        line = self.process.stdout.readline()
        if not line or what and line.strip() != what: raise OSError(self.process.communicate()[1].strip().splitlines()[-1])
        return line

    def run(self, limit=None):
        "(seconds, peak of memory in MB); ends the process and raises `TimeoutError` after `limit` seconds."
        self.process.stdin.write("run\n"), self.process.stdin.flush()
        if limit and not select.select([self.process.stdout], [], [], limit)[0]:
            self.process.kill()
            raise TimeoutError(f"stopped after {limit} s")
        return tuple(map(float, self._answer().split()))

    def close(self):
        if self.process.poll() is None: self.process.communicate()  # closes its input, upon which it ends


@contextmanager
def workers(n, d):
    "{who: Worker} on the same domains; `adapt` where its environment is there and works."
    pythons, found = {"skada": sys.executable, "adapt": ADAPT, "tl_nb": sys.executable}, {}
    with tempfile.TemporaryDirectory() as folder:
        S, T = domains(n, d)
        np.savez(Path(folder, "domains.npz"), S=S, T=T, reg=REG)
        try:
            for who, python in pythons.items():
                try: found[who] = Worker(who, python, folder)
                except OSError as e:
                    if who != "adapt": raise
                    print(f"  without adapt: its environment .venv-adapt is not there or does not work ({e})")
            yield found
        finally:
            for worker in found.values(): worker.close()


def in_turns(found, runs, pause=0.5):
    """{who: [(seconds, MB)]}; every round runs each once, after one that is not counted.

    Threads of linear algebra go on spinning for a moment after their work: without a pause, each way pays for the one before it."""
    def alone(worker):
        time.sleep(pause)
        return worker.run()
    rounds = [{who: alone(worker) for who, worker in found.items()} for _ in range(runs + 1)]
    return {who: [r[who] for r in rounds[-runs:]] for who in found}


def centred(worker):
    "What a worker has made of the source, without its mean, which the three place differently."
    X = np.load(worker.result)
    return X - X.mean(0)


def side_by_side(n, d, runs):
    "Seconds of all, their ratio, and how far apart the results are: (ratio to the faster, largest difference)."
    print(f" {n:,} rows a domain, {d:,} features, {runs} runs")
    with workers(n, d) as found:
        times = in_turns(found, runs)
        ratio = report({who: ([s for s, _ in of], None) for who, of in times.items()}, "skada")
        ours = centred(found["tl_nb"])
        apart = max(float(np.abs(ours - centred(worker)).max()) for who, worker in found.items() if who != "tl_nb")
    return ratio["tl_nb"] / max(r for who, r in ratio.items() if who != "tl_nb"), apart


def wide(n=200, d=4096, limit=300):
    "Seconds and memory where features are many and rows are few, one run each. Largest difference from those that came to an end."
    print(f" {n:,} rows a domain, {d:,} features, one run")
    with workers(n, d) as found:
        for who, worker in list(found.items()):
            try: seconds, peak = worker.run(limit)
            except TimeoutError as e: print(f"  {who:<34}{e}", flush=True)
            else: print(f"  {who:<34}{seconds:8.3f} s   peak {peak:8.1f} MB", flush=True)
        made = {who: centred(worker) for who, worker in found.items() if worker.result.exists()}
    return max(float(np.abs(made["tl_nb"] - X).max()) for who, X in made.items() if who != "tl_nb")


def main(runs=5):
    print(f"coral: fit and transform, double precision, reg = {REG}\n  {machine()}")
    goals = []
    for n, d in ((2000, 384), (3000, 1280)):
        ratio, apart = side_by_side(n, d, runs)
        goals += [verdict(f"at least 1x the faster: {ratio:.2f}x", ratio >= 1), verdict(f"same result to 1e-5: {apart:.1e}", apart <= 1e-5)]
    apart = wide()
    goals.append(verdict(f"same result to 1e-5: {apart:.1e}", apart <= 1e-5))
    return 0 if all(goals) else 1


if __name__ == "__main__":
    sys.exit(main())
