"Evaluate: intervals and paired comparisons against SciPy and simulation; stored results; refusals."
import json
import linecache
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tl_nb.evaluate import (Results, ResultsError, code_hash, compare, comparison_table, interval, learning_curve,
                            plot_comparison, plot_learning_curve, repeat, results, seed_list)
from tl_nb.settings import settings

rng = np.random.default_rng(0)


def test_interval_is_students():
    x = rng.normal(3, 2, 7)
    i = interval(x, level=0.9)
    assert (i.low, i.high) == pytest.approx(stats.t.interval(0.9, 6, x.mean(), stats.sem(x)))
    assert i.n == 7 and i.excludes(-50) and not i.excludes(i.mean)


def test_interval_of_equal_scores_is_a_point():
    i = interval([0.5, 0.5, 0.5])
    assert i.low == i.mean == i.high == 0.5


def test_overlapping_splits_widen_the_interval_as_nadeau_and_bengio_say():
    x = rng.normal(size=10)
    plain, corrected = interval(x), interval(x, test_train_ratio=0.25)
    assert (corrected.high - corrected.low) / (plain.high - plain.low) == pytest.approx(np.sqrt((0.1 + 0.25) / 0.1))


def test_correction_repairs_coverage_over_resplits_of_one_set():
    "Means of a half-sample: the plain interval misses far too often, the corrected one does not."
    plain = corrected = 0
    for _ in range(300):
        data = rng.normal(size=60)
        scores = [rng.permutation(data)[:30].mean() for _ in range(20)]
        plain += not interval(scores).excludes(0)
        corrected += not interval(scores, test_train_ratio=1).excludes(0)
    assert plain / 300 < 0.7 and corrected / 300 > 0.9


def test_compare_is_the_paired_t_test():
    a, b = rng.normal(0.8, 0.1, 9), rng.normal(0.7, 0.1, 9)
    c, oracle = compare(a, b), stats.ttest_rel(a, b)
    assert c.p == pytest.approx(oracle.pvalue)
    assert (c.difference.low, c.difference.high) == pytest.approx(tuple(oracle.confidence_interval()))
    assert c.wins == (a > b).sum() and c.losses == (a < b).sum()


@pytest.mark.parametrize("ratio", [0, 0.3])
def test_p_and_interval_never_disagree(ratio):
    for _ in range(200):
        c = compare(rng.normal(0.5, 1, 6), rng.normal(0, 1, 6), test_train_ratio=ratio)
        assert c.clear == (c.p < 0.05)


def test_compare_edge_cases():
    assert compare([1, 2], [1, 2]).p == 1 and not compare([1, 2], [1, 2]).clear
    assert compare([1, 2], [0, 1]).p == 0 and compare([1, 2], [0, 1], ("x", "y")).__repr__().endswith("x is better")


def test_refusals_name_the_input_and_the_reason():
    with pytest.raises(ValueError, match="at least two scores"): interval([0.5])
    with pytest.raises(ValueError, match=r"values has no finite score at position \[1\]"): interval([0.5, np.nan, 1])
    with pytest.raises(ValueError, match="knn has 3 scores and tree has 2"): compare([1, 2, 3], [1, 2], ("knn", "tree"))
    with pytest.raises(ValueError, match="between 0 and 1"): interval([1, 2], level=95)
    with pytest.raises(ValueError, match="none of the methods: a, b"): comparison_table({"a": [1, 2], "b": [1, 3]}, "c")


def test_repeat_refuses_nothing_to_do_and_methods_that_come_and_go():
    with pytest.raises(ValueError, match="at least one run"): repeat(lambda seed: 1, seeds=0)
    with pytest.raises(ValueError, match="other methods with seed 2"):
        repeat(lambda seed: {"a": 1} if seed == 1 else {"a": 1, "b": 2}, seeds=[1, 2])


def test_repeat_gives_every_method_the_same_seeds_in_order():
    seen = []
    scores = repeat(lambda seed: seen.append(seed) or {"a": seed, "b": -seed}, seeds=[5, 3, 9])
    assert seen == [5, 3, 9] and scores["a"].tolist() == [5, 3, 9] and scores["b"].tolist() == [-5, -3, -9]
    assert repeat(lambda seed: seed, seeds=3).tolist() == [settings.seed + i for i in range(3)] == seed_list(3)


def test_learning_curve_and_table_and_plots():
    curve = learning_curve(lambda n, seed: {"a": n + seed, "b": n}, sizes=[10, 20], seeds=[1, 2])
    assert curve[(curve.n == 20) & (curve.method == "a")].score.tolist() == [21, 22] and len(curve) == 8
    table = comparison_table({"a": [1.0, 2.0], "b": [1.5, 2.0]}, baseline="a")
    assert table.loc["b", "won"] == "1 of 2" and table.loc["b", "vs a"].startswith("+0.250")
    lines = {line.get_label() for line in plot_learning_curve(curve).get_lines()}
    assert {"a", "b"} <= lines
    ax = plot_comparison({"a": [1.0, 2.0], "b": [1.5, 2.0]})
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]


# --- results ----------------------------------------------------------------------------------------------------------

CALLS = []


def work(seed, strategy="head"):
    "What is slow."
    CALLS.append((seed, strategy))  # a remark
    return {"accuracy": np.float64(0.123456789 + seed), "clear": np.bool_(True)}


JOBS = [dict(seed=seed, strategy=s) for s in ("head", "full") for seed in (2, 1)]


@pytest.fixture
def full(monkeypatch, tmp_path):
    "full(text) sets TL_NB_FULL; journals go to a folder of the test."
    CALLS.clear()
    monkeypatch.setattr("tl_nb.evaluate.settings", replace(settings, cache=tmp_path / "cache"))
    return lambda text: monkeypatch.setenv("TL_NB_FULL", text)


@pytest.fixture
def made(full, tmp_path):
    "A folder with results 'work', and TL_NB_FULL off."
    full("1")
    results("work", work, JOBS, folder=tmp_path, progress=False)
    full("0")
    return tmp_path


def load(folder, compute=work, jobs=JOBS, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return results("work", compute, jobs, folder=folder, **kwargs)


def test_results_are_computed_once_then_read(made):
    calls, text = list(CALLS), (made / "work.json").read_text()
    found = load(made)
    assert calls == CALLS == [(2, "head"), (1, "head"), (2, "full"), (1, "full")]
    assert found.rows.columns.tolist() == ["seed", "strategy", "accuracy", "clear", "seconds"]
    assert found.rows.accuracy.tolist() == [2.12346, 1.12346] * 2 and found.rows.clear.all() and not found.stale
    assert found.seconds == pytest.approx(found.rows.seconds.sum()) and found.code == code_hash(work)
    assert {"python", "numpy"} <= found.versions.keys()
    assert text.count('\n  {"seed"') == 4 and list(json.loads(text)) == sorted(json.loads(text))
    assert not list(made.rglob("*.jsonl")) and not list(made.glob("*.part"))
    for shown in (repr(found), found._repr_html_()): assert "TL_NB_FULL=work" in shown and "4 rows" in shown


def test_rows_come_in_the_order_of_the_jobs_asked_for(made):
    assert load(made, jobs=JOBS[::-1]).rows[["seed", "strategy"]].to_dict("records") == JOBS[::-1]


def test_named_results_alone_are_computed_again(made, full):
    CALLS.clear()
    full("other,fine-tuning")
    load(made)
    assert CALLS == []
    full("other, work")
    assert len(load(made, progress=False).rows) == len(CALLS) == 4


def test_rows_without_jobs(full, tmp_path):
    full("1")
    table = results("one", small_table, folder=tmp_path)
    assert table.rows.a.tolist() == [1, 2] and np.isnan(table.rows.b[1]) and table.seconds >= 0
    full("0")
    assert results("one", small_table, folder=tmp_path).rows.equals(table.rows)
    with pytest.warns(UserWarning, match="jobs are missing"): results("one", small_table, JOBS, folder=tmp_path)


def small_table(): return pd.DataFrame({"a": [1, 2], "b": [0.5, np.nan]}, index=[7, 8])


KILLED = """
import os, signal, sys
from pathlib import Path
from tl_nb.evaluate import results
folder, kill_at = Path(sys.argv[1]), int(sys.argv[2])

def compute(seed):
    if seed == kill_at: os.kill(os.getpid(), signal.SIGKILL)
    with open(folder / "calls", "a") as f: f.write(f"{seed} ")
    return {"square": seed ** 2}

print(results("killed", compute, [dict(seed=s) for s in range(6)], folder=folder, progress=False).rows.square.tolist())
"""


def run_killed(folder, kill_at):
    (folder / "killed.py").write_text(KILLED)
    command = [sys.executable, str(folder / "killed.py"), str(folder), str(kill_at)]
    env = os.environ | {"TL_NB_FULL": "1", "TL_NB_CACHE": str(folder / "cache")}
    return subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True)


def test_a_run_that_is_killed_goes_on_where_it_stopped(tmp_path):
    assert run_killed(tmp_path, 3).returncode == -9 and not (tmp_path / "killed.json").exists()
    journal = next((tmp_path / "cache/results").glob("killed-*.jsonl"))
    assert run_killed(tmp_path, 5).returncode == -9
    torn = journal.read_bytes()
    journal.write_bytes(torn[:-9])  # the kill fell into the writing of seed 4
    done = run_killed(tmp_path, -1)
    assert done.stdout.strip() == "[0, 1, 4, 9, 16, 25]", done.stderr
    assert (tmp_path / "calls").read_text().split() == ["0", "1", "2", "3", "4", "4", "5"]
    assert not journal.exists()


def test_a_job_that_fails_is_named_and_the_others_are_kept(full, tmp_path):
    broken = [True]
    def compute(seed):
        CALLS.append(seed)
        return {"a": 1 / (seed - 2 * broken[0])}
    full("1")
    jobs = [dict(seed=s) for s in (1, 2, 3)]
    with pytest.raises(ResultsError, match=r"seed.: 2.*ZeroDivisionError.*kept") as e:
        results("work", compute, jobs, folder=tmp_path, progress=False)
    assert isinstance(e.value.__cause__, ZeroDivisionError)
    broken[0] = False
    assert len(results("work", compute, jobs, folder=tmp_path, progress=False).rows) == 3 and CALLS == [1, 2, 2, 3]


# --- what made them ---------------------------------------------------------------------------------------------------

def variant(text):
    "A function of some source, as a notebook cell has it."
    name, space = f"<cell {hash(text)}>", {}
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    exec(compile(text, name, "exec"), space)
    return space["f"]


BASE = "def f(x, n=3):\n    y = x + n\n    return f'{y:.2f}'\n"


@pytest.mark.parametrize("text", [
    "# above\ndef f(x, n=3):\n\n    'doc'\n    y = x + n  # why\n\n    return f'{y:.2f}'\n",
    "def f(x: int, n: float = 3) -> str:\n    y: float = (x + n)\n    return f\"{y:.2f}\"\n",
])
def test_the_hash_ignores_what_does_nothing(text): assert code_hash(variant(text)) == code_hash(variant(BASE))


@pytest.mark.parametrize("old, new", [("n=3", "n=4"), ("x + n", "n + x"), (".2f", ".3f"), ("n=3", "n=3.0")])
def test_the_hash_sees_what_can_change_a_result(old, new):
    assert code_hash(variant(BASE.replace(old, new))) != code_hash(variant(BASE))


def test_the_hash_is_the_same_everywhere():
    "A change of this value makes every stored result stale: it must not come with a Python or a machine."
    assert code_hash(variant(BASE)) == "a9e0e076348b"


def test_the_hash_takes_modules_classes_and_inner_functions():
    def inner(x): return x
    assert code_hash(inner) == code_hash(variant("def inner(x): return x\nf = inner"))
    assert code_hash(linecache, Path, inner) == code_hash(inner, linecache, Path) != code_hash(inner, linecache)
    for bad in (len, lambda x: x, 3, np.float64):
        with pytest.raises(ResultsError, match="No source of"): code_hash(bad)


def test_results_of_other_code_warn_and_are_shown(made):
    def other(seed, strategy="head"): return {"accuracy": 1.0}
    with pytest.warns(UserWarning, match="stale: they were made by other code.*TL_NB_FULL=work") as seen:
        found = results("work", other, JOBS, folder=made)
    assert found.stale and found.rows.accuracy[0] == 2.12346 and "STALE" in repr(found)
    assert seen[0].filename == __file__, "the warning points at the call"
    with pytest.warns(UserWarning, match="other code"): results("work", work, JOBS, code=other, folder=made)


@pytest.mark.parametrize("jobs, said", [
    (JOBS[:-1], "1 jobs are not asked for.*full"), ([*JOBS, dict(seed=9, strategy="x")], "1 jobs are missing.*9"),
    (None, "missing"),
])
def test_results_of_other_jobs_warn_and_are_shown(made, jobs, said):
    with pytest.warns(UserWarning, match=said): found = results("work", work, jobs, folder=made)
    assert found.stale and len(found.rows) == 4


# --- pairing ----------------------------------------------------------------------------------------------------------

def stored(rows): return Results("r", pd.DataFrame(rows, columns=["n", "seed", "m", "a"]), 1.0, {}, "c")


def test_scores_are_paired_by_seed_whatever_the_order():
    rows = [(5, 1, "x", .1), (5, 2, "x", .2), (5, 2, "y", .4), (5, 1, "y", .3), (9, 1, "x", .9), (9, 1, "y", .9)]
    found = stored(rows).scores("m", "a", n=5)
    assert {k: v.tolist() for k, v in found.items()} == {"x": [.1, .2], "y": [.3, .4]}
    curve = stored(rows).curve("m", "a")
    assert curve.columns.tolist() == ["n", "seed", "method", "score"] and len(curve) == 6
    assert curve[(curve.method == "y") & (curve.n == 5)].score.tolist() == [.3, .4]


@pytest.mark.parametrize("rows, args, where, said", [
    ([(5, 1, "x", 1.), (5, 2, "x", 1.), (5, 1, "y", 1.)], ("m", "a"), {}, "m = y has no row for seed = 2"),
    ([(5, 1, "x", 1.), (9, 1, "x", 1.)], ("m", "a"), {}, "several rows for seed = 1.*: n"),
    ([(5, 1, "x", 1.)], ("m", "a"), {"n": 6}, r"n = 6.*\[5\]"),
    ([(5, 1, "x", 1.)], ("strategy", "a"), {}, "no column 'strategy'.*n, seed, m, a"),
    ([(5, 1, "x", "high")], ("m", "a"), {}, "'a'.*not a number"),
])
def test_what_cannot_be_paired_is_refused(rows, args, where, said):
    with pytest.raises(ResultsError, match=said): stored(rows).scores(*args, **where)


# --- errors -----------------------------------------------------------------------------------------------------------

def test_no_file_says_how_to_make_it(full, tmp_path):
    full("0")
    with pytest.raises(ResultsError, match=r"absent\.json.*TL_NB_FULL=absent"): results("absent", work, folder=tmp_path)


@pytest.mark.parametrize("text, said", [
    ("{", "damaged"), ("[]", "damaged"), ('{"format": 2}', "format 2"), ('{"format": 1}', "damaged.*code"), (b"\xff", "damaged"),
    ('{"format": 1, "code": "c", "versions": {}, "seconds": 1, "jobs": null, "rows": [3]}', "damaged.*rows"),
])
def test_a_damaged_file_is_an_error(full, tmp_path, text, said):
    full("0")
    (tmp_path / "work.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ResultsError, match=rf"work\.json.*{said}"): results("work", work, JOBS, folder=tmp_path)


@pytest.mark.parametrize("value", ["yes", "2", "work;other", "True", "all", "on", "../x"])
def test_other_values_of_tl_nb_full_are_errors(full, made, value):
    full(value)
    with pytest.raises(ResultsError, match="TL_NB_FULL = .*allowed"): load(made)


@pytest.mark.parametrize("name", ["a/b", "", "A", "1", "a.json", "..", None])
def test_a_name_is_no_path(name, tmp_path):
    with pytest.raises(ResultsError, match="name = "): results(name, work, folder=tmp_path)


@pytest.mark.parametrize("jobs, said", [
    ([], "empty"), ([dict(seed=1)] * 2, "twice"), ([3], "Job 0 is a int"), ([dict(seconds=1)], "'seconds'"),
    ([dict(seed=object())], "object"),
])
def test_jobs_that_cannot_be_told_apart(jobs, said, tmp_path):
    with pytest.raises(ResultsError, match=said): results("work", work, jobs, folder=tmp_path)


@pytest.mark.parametrize("figures, said", [
    (0.5, "is a float, not a dictionary"), ({"seed": 1}, "'seed'"), ({"seconds": 1}, "'seconds'"),
    ({"a": float("inf")}, "inf"), ({"a": np.zeros(2)}, "ndarray"),
])
def test_figures_that_cannot_be_stored(full, tmp_path, figures, said):
    def compute(seed): return figures
    full("1")
    with pytest.raises(ResultsError, match=said):
        results("work", compute, [dict(seed=1)], folder=tmp_path, progress=False)


def test_no_rows_are_an_error(full, tmp_path):
    def compute(): return []
    full("1")
    with pytest.raises(ResultsError, match="no rows"): results("work", compute, folder=tmp_path)


def test_the_folder_is_that_of_the_project_around(full, tmp_path, monkeypatch):
    full("1")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ResultsError, match="folder="): results("work", work, JOBS)
    (tmp_path / "nbs/deep").mkdir(parents=True)
    (tmp_path / "settings.ini").write_text("")
    monkeypatch.chdir(tmp_path / "nbs/deep")
    results("work", work, JOBS, progress=False)
    assert (tmp_path / "nbs/results/work.json").is_file()
