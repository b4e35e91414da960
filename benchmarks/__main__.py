"""Every benchmark, one after another; fails if one of them missed a goal."""
import sys

from benchmarks import coral, embed, finetune, head, import_time, logme, mmd, store

if __name__ == "__main__":
    sys.exit(max([part.main() for part in (import_time, embed, store, head, finetune, coral, mmd, logme)]))
