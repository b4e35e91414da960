"""Exact search over 100,000 rows of 384 numbers: `nearest` beside plain NumPy, one query at a time and many at once."""
import sys
import time

import numpy as np

from benchmarks.interleave import interleave, machine, report, verdict
from tl_nb.search import nearest

OURS, PLAIN = "nearest", "plain NumPy"


def plain(rows, vectors, k):
    "Product, `argpartition`, and a sort of the k: what one writes without a library."
    scores = rows @ vectors.T
    at = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(scores, at, 1), axis=1, kind="stable")
    at = np.take_along_axis(at, order, 1)
    return at, np.take_along_axis(scores, at, 1)


def corpus(n, d=384, queries=512, seed=0):
    "Rows of length 1 (n, d), some closer together than others as those of texts are, and queries near some of them."
    rng = np.random.default_rng(seed)
    unit = lambda x: (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    centres = rng.normal(size=(200, d))
    vectors = unit(centres[rng.integers(0, 200, n)] + rng.normal(size=(n, d)))
    return vectors, unit(vectors[rng.integers(0, n, queries)] + 0.05 * rng.normal(size=(queries, d)))


def one_by_one(vectors, queries, k):
    "{way: seconds of each query}, the ways in turns, and who goes first changing from query to query; the first few are not counted."
    ways, seconds = {OURS: nearest, PLAIN: plain}, {OURS: [], PLAIN: []}
    for i, query in enumerate(queries):
        for name in list(ways)[::1 if i % 2 else -1]:
            start = time.perf_counter()
            ways[name](query[None], vectors, k)
            seconds[name].append(time.perf_counter() - start)
    return {name: np.array(found[10:]) for name, found in seconds.items()}


def percentiles(seconds):
    "Print p50 and p99 of each way; return the median over queries of how many times faster ours is."
    for name, found in seconds.items():
        p50, p99 = 1e3 * np.quantile(found, [0.5, 0.99])
        print(f"  {name + ', one query':<34}p50 {p50:7.2f} ms   p99 {p99:7.2f} ms")
    return float(np.median(seconds[PLAIN] / seconds[OURS]))


def same(ours, theirs):
    "Whether both found the same rows in the same order; and how far apart their products are."
    return bool((ours[0] == theirs[0]).all()), float(np.abs(ours[1] - theirs[1]).max())


def main(n=100_000, k=10, runs=5):
    print(f"search: the best {k} of {n:,} rows of 384 numbers, exactly\n  {machine()}")
    vectors, queries = corpus(n)
    alone = percentiles(one_by_one(vectors, queries, k))
    many = interleave({PLAIN: lambda: plain(queries, vectors, k), OURS: lambda: nearest(queries, vectors, k)}, runs)
    print(f" {len(queries)} queries at once")
    together = report(many, PLAIN)[OURS]
    agree, apart = same(many[OURS][1], many[PLAIN][1])
    goals = [verdict(f"same rows, products to 1e-5: {apart:.1e}", agree and apart < 1e-5), verdict(f"at least 1x, one query: {alone:.2f}x", alone >= 1),
             verdict(f"at least 1x, many: {together:.2f}x", together >= 1)]
    return 0 if all(goals) else 1


if __name__ == "__main__":
    sys.exit(main())
