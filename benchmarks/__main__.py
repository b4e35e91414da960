"""Every benchmark, one after another; fails if one of them missed a goal."""
import sys

from benchmarks import embed, import_time

if __name__ == "__main__":
    sys.exit(max([import_time.main(), embed.main()]))
