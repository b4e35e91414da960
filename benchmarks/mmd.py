"""`mmd` beside the same U-statistic in a loop over pairs: the statistic alone, and with the p-value of 500 permutations."""
import sys

import numpy as np

from benchmarks.interleave import interleave, machine, report, verdict
from tl_nb.settings import settings
from tl_nb.similarity import mmd

SCALES = 2.0 ** np.array([1, 0.5, 0, -0.5, -1])


def loop(a, b, width):
    "The mean similarity within each sample and between them, pair by pair; five Gaussians at once."
    rates = -0.5 / (SCALES * width) ** 2
    kernel = lambda x, y: np.exp(rates * ((x - y) @ (x - y))).mean()
    within = lambda X: sum(kernel(X[i], X[j]) for i in range(len(X)) for j in range(i)) / (len(X) * (len(X) - 1) / 2)
    return within(a) + within(b) - 2 * sum(kernel(x, y) for x in a for y in b) / (len(a) * len(b))


def samples(n, d, seed=0):
    "Two samples that differ a little, and a width about the median distance."
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=(n, d)) + 0.05, np.sqrt(2 * d)


def main(n=300, d=384):
    a, b, width = samples(n, d)
    print(f"mmd: two samples of {n} rows, {d} columns\n  {machine()}")
    found = interleave({"loop over pairs": lambda: loop(a, b, width),
                        "mmd with interval, no p": lambda: mmd(a, b, width=width, permutations=0),
                        "mmd with 500 permutations": lambda: mmd(a, b, width=width, seed=settings.seed)}, runs=3)
    ratios = report(found, "loop over pairs")
    values = [float(last) for _, last in found.values()]
    apart = max(values) - min(values)
    goals = [verdict(f"the same value to 1e-9: {apart:.1e}", apart < 1e-9)]
    goals += [verdict(f"{name} at least 10x: {ratio:.0f}x", ratio >= 10) for name, ratio in ratios.items() if name.startswith("mmd")]
    return 0 if all(goals) else 1


if __name__ == "__main__":
    sys.exit(main())
