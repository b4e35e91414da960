"What transfer is worth: amounts that are counted right, prices by hand, curves that are read with their ends open, whole variants."
import json
import math
import mmap
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

import tl_nb.impact as M
from small_models import image_backbone, save_text
from tl_nb.backbones import load_backbone
from tl_nb.classifier import Classifier
from tl_nb.evaluate import learning_curve
from tl_nb.exercises_ship import check_labels_needed
from tl_nb.impact import (Cost, ImpactError, Power, compare_cost, energy, labels_needed, labels_saved, machine, measure_cost, money, ratio,
                          scalability, variant_bytes, velocity)
from tl_nb.settings import Prices, settings

PRICES = Prices("EUR", label=0.1, cpu_hour=0.05, gpu_hour=1.5, engineer_hour=80.0)


# --- amounts, prices, energy ------------------------------------------------------------------------------------------

def test_money_by_hand():
    assert money(Cost(7200, labels=30, gpu_seconds=1800, work_hours=0.25), PRICES) == pytest.approx(3 + 2 * 0.05 + 0.75 + 20)
    assert money(Cost(0), PRICES) == 0
    assert money(Cost(0, labels=10)) == pytest.approx(10 * settings.prices.label)


def test_energy_by_hand():
    cost = Cost(3600, seconds=1800, peak_mb=2000, gpu_seconds=360)
    assert energy(cost, Power(core=10, gb=0.5, gpu=200, overhead=1.5)) == pytest.approx(1.5 * (10 + 0.5 * 2 * 0.5 + 20))
    assert math.isnan(energy(Cost(10))) and math.isnan(energy(Cost(10, seconds=10)))  # memory was not measured: no half of an estimate


def test_costs_add_up_and_memory_does_not():
    assert Cost(1, 2, 30, 4, 5, 6) + Cost(10, 20, 20, 40, 50, 60) == Cost(11, 22, 30, 44, 55, 66)
    assert math.isnan((Cost(1, 1, 30) + Cost(1, 1)).peak_mb)
    with pytest.raises(TypeError): Cost(1) + 1


@pytest.mark.parametrize("wrong", [dict(cpu_seconds=-1), dict(cpu_seconds=math.nan), dict(cpu_seconds=math.inf), dict(cpu_seconds="3"), dict(cpu_seconds=1, labels=-2),
                                   dict(cpu_seconds=1, labels=math.nan), dict(cpu_seconds=1, seconds=math.inf), dict(cpu_seconds=True)], ids=str)
def test_amounts_that_are_none_are_refused_by_name(wrong):
    with pytest.raises(ImpactError, match=f"{list(wrong)[-1]} = .*0 or more"): Cost(**wrong)


def test_a_run_is_measured_and_its_result_returned():
    def busy(turns, scale=1):
        end = time.process_time() + 0.2
        while time.process_time() < end: pass
        return turns * scale
    found, cost = measure_cost(busy, 3, scale=2, labels=7)
    assert found == 6 and cost.labels == 7
    assert 0.15 < cost.cpu_seconds < 10 and cost.seconds > 0.15  # the two clocks tick apart


def test_waiting_is_no_computing():
    _, cost = measure_cost(time.sleep, 0.3)
    assert cost.seconds >= 0.3 and cost.cpu_seconds < 0.15


def test_the_peak_is_seen_though_it_is_gone_at_the_end():
    def grows():
        with mmap.mmap(-1, 160_000_000) as fresh:  # pages of its own: an array may lie in memory that the process has kept
            for at in range(0, len(fresh), 4096): fresh[at] = 1
            time.sleep(0.1)
    assert 140 < measure_cost(grows)[1].peak_mb < 400


def test_a_run_that_fails_leaves_no_thread_behind():
    import threading

    before = threading.active_count()
    with pytest.raises(ZeroDivisionError): measure_cost(lambda: 1 / 0)
    assert threading.active_count() == before
    with pytest.raises(ImpactError, match="run is a float: give the function itself"): measure_cost(3.0)


def test_the_machine_is_named_without_a_path():
    assert "cores" in machine() and "/" not in machine()


# --- ratios -----------------------------------------------------------------------------------------------------------

def test_a_ratio_is_the_geometric_mean_with_the_interval_of_logarithms():
    a, b = np.array([2.0, 8.0, 3.0, 5.0]), np.array([1.0, 2.0, 2.0, 1.5])
    logs, found = np.log(a / b), ratio(a, b)
    half = t.ppf(0.975, 3) * logs.std(ddof=1) / 2
    assert [found.mean, found.low, found.high] == pytest.approx(np.exp([logs.mean(), logs.mean() - half, logs.mean() + half]))
    turned = ratio(b, a)
    assert [turned.mean, turned.low, turned.high] == pytest.approx([1 / found.mean, 1 / found.high, 1 / found.low])
    assert ratio(a * 1000, b * 1000).mean == pytest.approx(found.mean)  # whatever the unit


@pytest.mark.parametrize("a, b, why", [([1, 0], [1, 1], "above 0"), ([1], [1], "two or more"), ([1, 2, 3], [1, 2], "3 amounts and b has 2"),
                                       ([1, math.nan], [1, 1], "above 0"), ([[1, 2]], [[1, 2]], "list")], ids=str)
def test_ratios_that_are_none(a, b, why):
    with pytest.raises(ImpactError, match=why): ratio(a, b)


@pytest.fixture
def costs():
    return compare_cost({"frozen": [Cost(1, 1, 100, 40), Cost(2, 2, 100, 50)], "scratch": [Cost(40, 40, 50, 1000), Cost(20, 20, 50, 1000)]}, prices=PRICES)


def test_ways_are_compared_seed_by_seed(costs):
    assert costs.lower("frozen", "CPU seconds").mean == pytest.approx(1 - math.sqrt(1 / 40 * 2 / 20))
    assert costs.lower("frozen", "labels").mean == pytest.approx(1 - math.sqrt(40 * 50) / 1000)
    assert costs.lower("frozen", "peak MB").mean == pytest.approx(-1)  # twice as much: lower by less than nothing
    assert costs.values("frozen", "EUR") == pytest.approx([4 + 0.05 / 3600, 5 + 0.1 / 3600])
    low = costs.lower("frozen", "CPU seconds")
    assert low.low < low.mean < low.high < 1


def test_the_table_shows_what_was_measured_and_nothing_else(costs):
    assert list(costs.table().index) == ["labels", "CPU seconds", "seconds", "peak MB", "Wh", "EUR"]  # no GPU, no hours
    only = compare_cost({"a": [Cost(1), Cost(2)], "b": [Cost(2), Cost(3)]}, prices=replace(PRICES, currency="CHF"))
    assert list(only.table().index) == ["CPU seconds", "CHF"]
    assert "lower by" in repr(only) and "<table" in only._repr_html_()


def test_an_amount_that_one_way_does_not_take_has_no_ratio():
    found = compare_cost({"free": [Cost(1), Cost(2)], "paid": [Cost(2, labels=5), Cost(3, labels=5)]}, prices=PRICES)
    assert found.table().loc["labels", "free: lower by"] == "–"
    with pytest.raises(ImpactError, match="above 0"): found.lower("free", "labels")


@pytest.mark.parametrize("mb, says", [(0.004, "–"), (1.0, "–"), (2.0, "no: 50 times as much")])
def test_a_peak_too_small_to_be_seen_is_not_compared(mb, says):
    found = compare_cost({"large": [Cost(1, 1, 100), Cost(2, 2, 100)], "small": [Cost(1, 1, mb), Cost(2, 2, mb)]}, prices=PRICES)
    assert found.table().loc["peak MB", "large: lower by"] == says


def test_the_baseline_can_be_chosen_and_work_is_paid(costs):
    other = compare_cost(costs.ways, "frozen", prices=PRICES)
    assert other.ratio("scratch", "labels").mean == pytest.approx(1 / costs.ratio("frozen", "labels").mean)
    worked = {name: [c + Cost(0, 0, 0, work_hours=8) for c in of] for name, of in costs.ways.items()}
    assert compare_cost(worked, prices=PRICES).lower("frozen", "EUR").mean < 0.2 < 0.9 < costs.lower("frozen", "EUR").mean


@pytest.mark.parametrize("ways, baseline, why", [
    ({"a": [Cost(1), Cost(2)]}, None, "at least two"), ({"a": [Cost(1), Cost(2)], "b": [Cost(1)]}, None, "2 of a, 1 of b"),
    ({"a": [Cost(1)], "b": [Cost(1)]}, None, "at least two"), ({"a": [1.0, 2.0], "b": [Cost(1), Cost(2)]}, None, "'a' holds a float"),
    ({"a": [Cost(1), Cost(2)], "b": [Cost(1), Cost(2)]}, "c", "none of the ways: a, b")], ids=["one", "uneven", "one seed", "no cost", "baseline"])
def test_ways_that_cannot_be_compared(ways, baseline, why):
    with pytest.raises(ImpactError, match=why): compare_cost(ways, baseline)


def test_amounts_and_ways_are_asked_for_by_name(costs):
    with pytest.raises(ImpactError, match="no way 'tuned'. There are: frozen, scratch"): costs.values("tuned", "EUR")
    with pytest.raises(ImpactError, match="'USD' was not measured"): costs.values("frozen", "USD")


# --- labels -----------------------------------------------------------------------------------------------------------

def test_labels_are_read_on_a_straight_line_over_their_logarithm():
    low, high = labels_needed((10, 1000, 100), (0.5, 0.8, 0.7), 0.6)  # in any order
    assert low == high == pytest.approx(10 ** 1.5)
    assert labels_needed((10, 100, 1000), (0.5, 0.7, 0.8), 0.775)[0] == pytest.approx(10 ** 2.75)


@pytest.mark.parametrize("seed", range(5))
def test_reading_a_curve_turns_it_round(seed):
    rng = np.random.default_rng(seed)
    n, s = np.cumsum(rng.integers(3, 400, 7)), np.sort(rng.uniform(0.1, 0.95, 7))
    for accuracy in rng.uniform(s[0], s[-1], 20):
        low, high = labels_needed(n, s, accuracy)
        assert low == high and np.interp(np.log(low), np.log(n), s) == pytest.approx(accuracy)


def test_the_ends_are_open():
    n, s = (10, 100, 1000), (0.5, 0.7, 0.8)
    assert labels_needed(n, s, 0.81) == (1000, math.inf)
    assert labels_needed(n, s, 0.49) == labels_needed(n, s, 0.5) == (0, 10)
    assert labels_needed(n, s, 0.8) == pytest.approx((1000, 1000))


def test_a_dip_is_smoothed_and_a_flat_part_counts_from_its_start():
    assert labels_needed((10, 100, 1000), (0.5, 0.8, 0.7), 0.75) == pytest.approx((100, 100))  # the closest rising curve has 0.75 at both
    assert labels_needed((10, 100, 1000), (0.5, 0.8, 0.7), 0.76) == (1000, math.inf)


@pytest.mark.parametrize("n, s, why", [((1,), (0.5,), "two sizes"), ((1, 1), (0.5, 0.6), "different numbers"), ((0, 1), (0.5, 0.6), "above 0"),
                                       ((1, 2), (0.5,), "one score a size"), ((1, 2), (0.5, math.nan), "finite")], ids=str)
def test_curves_that_cannot_be_read(n, s, why):
    with pytest.raises(ImpactError, match=why): labels_needed(n, s, 0.5)


def lines(*slopes, sizes=(10, 100, 1000), top=0.9, start=0.2):
    "Straight curves over log10(n): transfer, and scratch with a slope for each seed."
    rise = lambda slope, n: min(top, start + slope * math.log10(n))
    return pd.DataFrame([(n, seed, method, rise(slope, n)) for seed, own in enumerate(slopes) for n in sizes for method, slope in (("transfer", 0.3), ("scratch", own))],
                        columns=["n", "seed", "method", "score"])


def test_the_saving_by_hand():
    found = labels_saved(lines(0.2, 0.16, 0.18), "transfer", "scratch")
    needed = np.array([10 ** (3 * s / 0.3) for s in (0.2, 0.16, 0.18)])  # transfer reaches 0.2 + 3 s there, scratch at 1000
    assert found.rows.transfer_low.to_numpy() == pytest.approx(needed) and (found.rows.scratch_low == 1000).all()
    want = ratio([1000] * 3, needed)
    assert [found.factor.mean, found.factor.low, found.factor.high] == pytest.approx([want.mean, want.low, want.high])
    assert [found.share.mean, found.share.low] == pytest.approx([1 - 1 / want.mean, 1 - 1 / want.low])
    assert found.labels.mean == pytest.approx((1000 - needed).mean())
    assert found.never == {"transfer": 0, "scratch": 0} and "never" not in repr(found)


def test_a_plateau_that_scratch_reaches_early_counts_early():
    curve = lines(0.5, 0.5)  # 0.7 with 10 labels, 0.9 with 100 as with 1000
    assert (labels_saved(curve, "transfer", "scratch").rows.scratch_high == 100).all()


def test_scratch_that_never_arrives_gives_a_bound_and_no_mean():
    curve = lines(0.2, 0.25, 0.15)
    found = labels_saved(curve, "transfer", "scratch", labels=100)  # at 0.8; scratch ends at 0.8, 0.95 and 0.65
    assert found.rows.accuracy.to_numpy() == pytest.approx([0.8] * 3)
    assert found.rows.scratch_high.isna().sum() == 0 and np.isinf(found.rows.scratch_high).tolist() == [False, False, True]
    assert math.isnan(found.factor.mean) and found.factor.high == math.inf and found.share.high == 1 and math.isnan(found.labels.mean)
    low = ratio(found.rows.scratch_low, [100] * 3)
    assert found.factor.low == pytest.approx(low.low)
    assert found.never["scratch"] == 1 and "scratch never arrives in 1 of 3 seeds" in repr(found)


def test_a_bound_stays_below_what_a_longer_curve_shows():
    slopes = (0.2, 0.17, 0.15)
    short = labels_saved(lines(*slopes), "transfer", "scratch", accuracy=0.75)
    long = labels_saved(lines(*slopes, sizes=(10, 100, 1000, 10 ** 4, 10 ** 5)), "transfer", "scratch", accuracy=0.75)
    assert not math.isnan(long.factor.mean) and short.factor.low < long.factor.mean
    assert np.isinf(short.rows.scratch_high).sum() == 2


def test_transfer_that_never_arrives_bounds_the_other_end():
    found = labels_saved(lines(0.35, 0.32), "transfer", "scratch", accuracy=0.99)
    assert found.factor.low == 0 and found.factor.high == math.inf and found.share.low == -math.inf  # neither arrives: nothing is known
    turned = labels_saved(lines(0.1, 0.12, top=0.8), "scratch", "transfer")  # now the better one is the offer
    assert turned.never["scratch"] == 2 and turned.factor.low == 0 and turned.factor.high < 1 and turned.share.high < 0


def test_what_is_there_from_the_start_is_a_bound_too():
    found = labels_saved(lines(0.2, 0.2), "transfer", "scratch", accuracy=0.45)  # transfer has 0.5 with 10 labels
    assert (found.rows.transfer_low == 0).all() and found.factor.low == pytest.approx(10 ** (0.25 / 0.2) / 10) and found.factor.high == math.inf


def test_the_curve_of_the_course_fits():
    curve = learning_curve(lambda n, seed: {"a": 1 - 1 / n, "b": 1 - 3 / n - seed / 1000}, (10, 30, 90), seeds=3)
    assert labels_saved(curve, "a", "b").factor.low > 1


@pytest.mark.parametrize("change, kwargs, why", [
    (lambda c: c.drop(columns="seed"), {}, "no column 'seed'"), (lambda c: c[c.seed == 0], {}, "at least two"),
    (lambda c: c[(c.seed == 0) | (c.method == "transfer")], {}, "'scratch' has no row for seed 1"), (lambda c: c, dict(accuracy=0.5, labels=10), "one of them"),
    (lambda c: c, dict(labels=50), "sizes 10, 100, 1000")], ids=["column", "seeds", "half", "both", "size"])
def test_curves_that_cannot_be_compared(change, kwargs, why):
    with pytest.raises(ImpactError, match=why): labels_saved(change(lines(0.2, 0.1)), "transfer", "scratch", **kwargs)


# --- velocity and variants --------------------------------------------------------------------------------------------

def test_velocity_by_hand():
    assert velocity([36.0, 36.0]).mean == pytest.approx(100)
    assert velocity([36.0, 36.0], once=1800, hours=1).mean == pytest.approx(50)
    assert velocity([10, 40], hours=1).mean == pytest.approx(180)  # geometric: 360 and 90
    assert velocity([36.0, 36.0], once=[0, 1800], hours=1).mean == pytest.approx(math.sqrt(100 * 50))


@pytest.mark.parametrize("args, why", [(([0, 1],), "above 0"), (([1],), "two or more"), (([1, 1], -1), "0 or more"), (([1, 1], 3600, 1), "nothing gets done"), (([1, 1], 0, 0), "hours above 0"), (([1, 1], [0, 0, 0]), "one for each of the 2 seeds")], ids=str)
def test_velocities_that_are_none(args, why):
    with pytest.raises(ImpactError, match=why): velocity(*args)


def test_whole_variants_of_a_budget():
    found = scalability({"head": (91, 0.5), "copies": (0, 91)}, budget=1000)
    assert found.loc["head", "variants"] == 1818 and found.loc["copies", "variants"] == 10 and found.loc["head", "times copies"] == pytest.approx(181.8)
    assert scalability({"a": (0, 0.1), "b": (0, 1)}, 0.3).loc["a", "variants"] == 3  # 0.3 / 0.1 is a hair below 3 for a computer
    assert scalability({"dear": (100, 1), "b": (0, 1)}, 50).loc["dear", "variants"] == 0
    seeds = scalability({"a": (0, [10, 20, 25]), "b": (0, 50)}, 100, baseline="a")
    assert seeds.loc["a", "variants"] == pytest.approx(200 ** (1 / 3)) and 0 < seeds.loc["a", "low"] < 200 ** (1 / 3) < seeds.loc["a", "high"]
    assert math.isnan(scalability({"a": (0, 1), "b": (0, 50)}, 10).loc["a", "times b"])


@pytest.mark.parametrize("ways, budget, why", [({"a": (0, 0)}, 1, "'a' takes 0 once"), ({"a": (-1, 1)}, 1, "'a' takes -1 once"), ({"a": (0, math.inf)}, 1, "'a' takes"), ({"a": (0, 1)}, 0, "budget = 0"), ({"a": (0, 1)}, math.inf, "budget = inf")], ids=str)
def test_variants_that_cannot_be_counted(ways, budget, why):
    with pytest.raises(ImpactError, match=why): scalability(ways, budget)


def test_a_baseline_that_is_not_there():
    with pytest.raises(ImpactError, match="none of the ways: a"): scalability({"a": (0, 1)}, 1, "b")


@pytest.fixture(scope="module")
def bert(tmp_path_factory): return load_backbone(save_text("bert", tmp_path_factory.mktemp("impact") / "bert"))


def test_bytes_of_a_variant_are_those_of_the_files(bert, tmp_path):
    found, classes = variant_bytes(bert, 3, rank=4), ["0", "1", "2"]
    size = lambda folder: sum(f.stat().st_size for f in folder.glob("*.safetensors"))
    whole = Classifier(bert, classes)
    assert found["head"][1] == (32 * 3 + 3) * 4
    assert found["whole copy"] == (0, pytest.approx(size(whole.save_pretrained(tmp_path / "whole")), rel=0.15))
    lora = Classifier(bert, classes).parameter_efficient("lora", 4)
    assert found["LoRA"][1] == lora.n_trainable * 4 == pytest.approx(size(lora.save_pretrained(tmp_path / "lora")), rel=0.4)  # of names and shapes in the file, too
    assert found["head"][0] == found["LoRA"][0] > 0 and found["head"][1] < found["LoRA"][1] < found["whole copy"][1]


def test_bytes_of_an_image_network_count_its_statistics_and_leave_it_as_it_is():
    backbone = image_backbone("resnet18")
    before = backbone.fingerprint
    found = variant_bytes(backbone, 5)
    assert found["head"][1] == (512 * 5 + 5) * 4 and found["whole copy"][1] > 11_000_000 * 4
    assert backbone.fingerprint == before


@pytest.mark.parametrize("classes", [1, 2.5, "two", True])
def test_classes_that_are_none(bert, classes):
    with pytest.raises(ImpactError, match="whole number of 2 or more"): variant_bytes(bert, classes)


# --- the stored figures and the exercise ------------------------------------------------------------------------------

def test_the_stored_times_name_their_machine_and_their_seeds():
    from notebooks import ROOT

    stored = json.loads((ROOT / "nbs/results/worth.json").read_text(encoding="utf-8"))
    assert all("cores" in row["machine"] for row in stored["rows"])
    seeds = {}
    for row in stored["rows"]: seeds.setdefault(row["task"], set()).add(row["seed"])
    assert len(seeds) >= 4 and min(map(len, seeds.values())) >= 3
    tried = json.loads((ROOT / "nbs/results/worth-rates.json").read_text(encoding="utf-8"))
    rates = {}
    for row in tried["rows"]: rates.setdefault((row["kind"], row["net"]), set()).add(row["rate"])
    assert min(map(len, rates.values())) >= 3  # a rate that was chosen among one is no choice


def right(sizes, scores, accuracy):
    return labels_needed(sizes, scores, accuracy)[1]


@pytest.mark.parametrize("rule, hint", [
    (lambda n, s, a: float(np.interp(a, s, n)), "over the logarithm"),
    (lambda n, s, a: float(np.exp(np.interp(a, s, np.log(n)))), "ends at 0.8"),
    (lambda n, s, a: right(n, s, a) if a <= s[-1] else 2000.0, "is a guess"),
    (lambda n, s, a: float(n[np.argmax(s >= a)]) if a <= s[-1] else np.inf, "100 is enough"),
    (lambda n, s, a: right(n, s, a) if a < s[-1] else np.inf, "last point"),
    (lambda n, s, a: right(n, s, a) if a > s[0] else 0.0, "never tried"),
    (lambda n, s, a: float(n[np.flatnonzero(s <= a)[-1]]) if a in s else right(n, s, a), "flat"),
    (lambda n, s, a: right(n, s, a) if len(s) < 4 else 7.0, "sizes"),
], ids=["linear", "end", "beyond", "steps", "strict", "zero", "far end", "by heart"])
def test_the_check_of_the_exercise_sees_each_slip(rule, hint):
    verdict = check_labels_needed(rule)
    assert verdict.passed is False and hint in verdict.message


def test_the_check_of_the_exercise_accepts_the_module(): assert check_labels_needed(right).passed
