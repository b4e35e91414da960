"""Every benchmark, one after another, each in a fresh process; fails if one of them missed a goal."""
import subprocess
import sys

PARTS = ("import_time", "embed", "store", "head", "finetune", "coral", "mmd", "logme", "prefix", "widget", "search", "anomaly",
         "distributed")

if __name__ == "__main__":
    missed = [part for part in PARTS if subprocess.run([sys.executable, "-m", f"benchmarks.{part}"]).returncode]
    sys.exit(f"missed: {', '.join(missed)}" if missed else 0)
