"""Time several ways of doing the same, in turns, so that a busy moment of the machine hits all of them alike."""
import platform
import statistics
import time


def interleave(ways: dict, runs: int = 5) -> dict:
    "{name: (seconds of each run, last result)}; every round runs each way once, after one round that is not counted."
    for run in ways.values(): run()
    seconds, results = {name: [] for name in ways}, {}
    for _ in range(runs):
        for name, run in ways.items():
            start = time.perf_counter()
            results[name] = run()
            seconds[name].append(time.perf_counter() - start)
    return {name: (seconds[name], results[name]) for name in ways}


def report(found: dict, against: str) -> dict:
    "Print the median and range of each way and its ratio to `against`; return the ratios of the medians."
    median = {name: statistics.median(seconds) for name, (seconds, _) in found.items()}
    for name, (seconds, _) in found.items():
        print(f"  {name:<34}{median[name]:8.3f} s   [{min(seconds):.3f}, {max(seconds):.3f}]   "
              f"{median[against] / median[name]:5.2f}x")
    return {name: median[against] / median[name] for name in found}


def machine() -> str:
    "The processor and what it multiplies fast, in a line."
    import torch

    amx, bf16 = torch.cpu._is_amx_tile_supported(), torch.cpu._is_avx512_bf16_supported()
    return (f"{platform.machine()}, {torch.get_num_threads()} threads, AMX: {'yes' if amx else 'no'}, "
            f"AVX512-BF16: {'yes' if bf16 else 'no'}, torch {torch.__version__}")


def verdict(what: str, met: bool, applies: bool = True) -> bool:
    "Print whether a goal was met; true unless it applies and was missed."
    print(f"  {'met     ' if met else 'MISSED  '}{what}" if applies else f"  no floor here: {what}")
    return met or not applies
