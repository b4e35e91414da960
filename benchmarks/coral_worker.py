"""One way of CORAL in a process of its own: loads two domains, then runs once for every line that it is sent.

    python coral_worker.py {tl_nb,skada,adapt} domains.npz result.npy

Imports nothing of the project but what it times: the environment of `adapt` has no other. Answers each line with the seconds
that fit and transform took, measured here, and the peak of memory in MB above what was there before."""
import sys
import time
import warnings
from pathlib import Path

import numpy as np

STATUS = Path("/proc/self/status")


def ready(who, S, T, reg):
    "A run of one of the three, all with the same ridge; the mean variance of both domains is one."
    X, domain = np.vstack([S, T]), np.repeat([1, -1], [len(S), len(T)])
    if who == "tl_nb":
        from tl_nb.alignment import CORAL
        return lambda: CORAL(reg).fit_transform(X, sample_domain=domain)[:len(S)]
    if who == "skada":  # (1 - r)·covariance + r·mean variance·1: the ridge r / (1 - r), and a factor that cancels
        from skada import CORALAdapter
        return lambda: CORALAdapter(reg=reg / (1 + reg)).fit_transform(X, sample_domain=domain)[:len(S)]
    from adapt.feature_based import CORAL
    return lambda: CORAL(lambda_=reg, verbose=0).fit_transform(S, T)  # covariance + lambda·1


def memory(key):
    "A line of the process's status in MB; NaN where the system has none."
    lines = STATUS.read_text().splitlines() if STATUS.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(key)), float("nan"))


def main():
    warnings.filterwarnings("ignore")
    who, data, result = sys.argv[1:]
    with np.load(data) as parts: run = ready(who, parts["S"], parts["T"], float(parts["reg"]))
    print("ready", flush=True)
    for _ in sys.stdin:
        if STATUS.exists(): Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        before, start = memory("VmRSS"), time.perf_counter()
        found = run()
        seconds, peak = time.perf_counter() - start, memory("VmHWM") - before
        np.save(result, found)
        print(seconds, peak, flush=True)


if __name__ == "__main__":
    main()
