"""`AnomalyDetector` beside pyod's kNN on the same frozen features: fit with left-out distances, then score; same scores."""
import logging
import sys

import numpy as np

from benchmarks.interleave import interleave, machine, report, verdict
from tl_nb.anomaly import AnomalyDetector
from tl_nb.data import load_data
from tl_nb.embedding import embed, _threads
from tl_nb.settings import settings, single_threaded

K = 5


def features(n_fit, n_new, seed=0):
    "Frozen features of posts, by their first words: (n_fit, d) to fit and (n_new, d) to score, float32."
    news = load_data("newsgroups")
    items = [news.items[i] for i in np.random.default_rng(seed).permutation(len(news))[:n_fit + n_new]]
    found = embed("minilm-l6", items, normalize=True, max_length=32, precision="fp32", progress=False)
    return found[:n_fit], found[n_fit:]


def ours(X, new):
    "Left-out distances of the rows of the fit, and distances of the new rows."
    detector = AnomalyDetector(k=K).fit(X)
    return detector.distances_, -detector.score_samples(new)


def theirs(X, new):
    from pyod.models.knn import KNN

    detector = KNN(n_neighbors=K, method="mean").fit(X)
    return detector.decision_scores_, detector.decision_function(new)


def gap(a, b): return max(float(np.abs(x - y).max()) for x, y in zip(a, b))


def measure(X, new, runs):
    "Print the medians of both; whether the scores agree and ours is no slower."
    found = interleave({"pyod, KNN": lambda: theirs(X, new), "tl_nb": lambda: ours(X, new)}, runs)
    ratio, apart = report(found, "pyod, KNN")["tl_nb"], gap(found["pyod, KNN"][1], found["tl_nb"][1])
    return [verdict(f"the same scores within 1e-5: {apart:.1e}", apart < 1e-5), verdict(f"at least 1x: {ratio:.2f}x", ratio >= 1)]


def main(n_fit=6000, n_new=3000, runs=5):
    logging.disable(logging.WARNING)
    X, new = features(n_fit, n_new)
    print(f"anomaly: k = {K}, {n_fit:,} rows to fit and {n_new:,} to score, {X.shape[1]} wide\n  {machine()}")
    with _threads(settings.threads): goals = measure(X, new, runs)
    print("  on one thread")
    with _threads(1), single_threaded(): goals += measure(X, new, runs)
    return 0 if all(goals) else 1


if __name__ == "__main__":
    sys.exit(main())
