"""How long `import tl_nb` takes in a fresh process, and that it leaves torch alone. Median of five."""
import statistics
import subprocess
import sys

from benchmarks.interleave import verdict

CODE = """
import sys, time
start = time.perf_counter()
import tl_nb
seconds = time.perf_counter() - start
print(seconds, *[m for m in ("torch", "transformers", "timm", "fastai", "sklearn", "IPython") if m in sys.modules])
"""


def measure(runs=5):
    "(seconds of each run, heavy modules that were loaded)"
    said = [subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout.split()
            for _ in range(runs)]
    return [float(words[0]) for words in said], sorted({w for words in said for w in words[1:]})


def main():
    seconds, heavy = measure()
    print(f"import tl_nb\n  median {statistics.median(seconds):.3f} s   [{min(seconds):.3f}, {max(seconds):.3f}]")
    goals = [verdict(f"at most 0.3 s: {statistics.median(seconds):.3f} s", statistics.median(seconds) <= 0.3),
             verdict(f"nothing heavy loaded: {', '.join(heavy) or 'nothing'}", not heavy)]
    return 0 if all(goals) else 1


if __name__ == "__main__":
    sys.exit(main())
