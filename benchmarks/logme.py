"""`logme` beside the explicit evidence: n × n log determinants, maximised by a search over both hyper-parameters."""
import sys

import numpy as np
from scipy.optimize import minimize

from benchmarks.interleave import interleave, machine, report, verdict
from tl_nb.settings import single_threaded
from tl_nb.transferability import logme


def evidence(gram, y, prior, noise):
    "Log evidence per item of y ~ N(0, prior · gram + noise · 1)."
    C = prior * gram + noise * np.eye(len(y))
    sign, logdet = np.linalg.slogdet(C)
    if sign <= 0: return -1e3
    return -0.5 * (len(y) * np.log(2 * np.pi) + logdet + y @ np.linalg.solve(C, y)) / len(y)


def explicit(X, y):
    "The mean over classes of the largest evidence, from four starts each, by a search that knows no formula."
    gram, scale = X @ X.T, np.log((X ** 2).sum(1).mean())
    loss = lambda v, t: -evidence(gram, t, *np.exp(np.clip(v, -40, 40)))
    starts = [(a - scale, b) for a in (-4.0, 0.0) for b in (-3.0, -1.0)]
    search = lambda t: min(minimize(loss, s, (t,), method="Nelder-Mead", options=dict(xatol=1e-4, fatol=1e-8)).fun for s in starts)
    return -float(np.mean([search((y == c).astype(float)) for c in np.unique(y)]))


def task(n, d, seed=0):
    "Features of unequal spread, and two classes that one of them explains in part."
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) * rng.uniform(0.2, 2, d)
    return X, ((X[:, 0] + rng.normal(size=n)) > 0).astype(int)


def main(n=100, widths=(3, 30, 100, 300, 1000)):
    print(f"logme: {n} items, two classes\n  {machine()}")
    goals = []
    for d in widths:
        X, y = task(n, d)
        with single_threaded():
            found = interleave({"explicit evidence": lambda: explicit(X, y), f"logme, D/N = {d / n:g}": lambda: logme(X, y)}, runs=3)
        ratio = report(found, "explicit evidence")[f"logme, D/N = {d / n:g}"]
        apart = abs(found["explicit evidence"][1] - found[f"logme, D/N = {d / n:g}"][1])
        goals += [verdict(f"within 1e-3 nats per item: {apart:.1e}", apart < 1e-3), verdict(f"at least 1x: {ratio:.0f}x", ratio >= 1)]
    return 0 if all(goals) else 1


if __name__ == "__main__":
    sys.exit(main())
