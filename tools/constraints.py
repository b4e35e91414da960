"Write constraints.txt, the tested set: exact versions of what the extras need, read from this environment."
import sys
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from notebooks import ROOT

EXTRAS = ("course", "dev", "bench")
# What PyTorch brings for its own build differs between platforms: pip takes what that build asks for.
OF_PYTORCH = ("nvidia-", "cuda-", "triton", "torch", "torchvision", "pytorch-triton")
ARM = 'platform_machine == "aarch64" and sys_platform == "linux"'
NOT_ARM = 'platform_machine != "aarch64" or sys_platform != "linux"'
HEADER = """\
# The tested set: the exact versions that the course, its tests and its benchmarks are run with. Written by
# `make constraints` on Python {0}.{1}; used as `pip install -e .[course] -c constraints.txt`. The ranges that the
# library asks for are in pyproject.toml. A package whose tested version needs a newer Python is marked, and on an
# older one pip takes the newest that the ranges allow.
torch==2.14.1 ; {2}
torch==2.9.1 ; {3}
torchvision==0.29.1 ; {2}
torchvision==0.24.1 ; {3}
"""


def closure(name, extras):
    "{canonical name: distribution} of a project with its extras and everything they need here."
    found, todo = {}, [(name, extra) for extra in ("", *extras)]
    seen = set(todo)
    while todo:
        name, extra = todo.pop()
        try:
            dist = distribution(name)
        except PackageNotFoundError:
            continue  # asked for on other platforms only
        found[canonicalize_name(name)] = dist
        for text in dist.requires or []:
            need = Requirement(text)
            if need.marker and not need.marker.evaluate({"extra": extra}): continue
            more = {(need.name, e) for e in ("", *need.extras)} - seen
            seen |= more
            todo += more
    return found


def line(dist):
    "name==version, marked when the version does not support the oldest Python of the project."
    needs = SpecifierSet(dist.metadata.get("Requires-Python") or "")
    oldest = next((v for v in ("3.10", "3.11") if needs.contains(f"{v}.99")), None)
    mark = "" if oldest == "3.10" else f' ; python_version >= "{oldest or "%d.%d" % sys.version_info[:2]}"'
    return f"{dist.name}=={dist.version}{mark}"


def main():
    dists = {n: d for n, d in closure("tl_nb", EXTRAS).items() if n != "tl-nb" and not n.startswith(OF_PYTORCH)}
    head = HEADER.format(*sys.version_info[:2], NOT_ARM, ARM)
    (ROOT / "constraints.txt").write_text(head + "\n".join(line(dists[n]) for n in sorted(dists)) + "\n")
    print(f"constraints.txt: {len(dists)} packages, and PyTorch")


if __name__ == "__main__":
    main()
