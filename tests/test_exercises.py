"Exercises: verdicts never raise, and every check of the course refuses wrong answers."
from inspect import signature
from types import SimpleNamespace as Object

import numpy as np
import pytest

from tl_nb import exercises, exercises_applications, exercises_methods, exercises_ship
from tl_nb.exercises import Verdict, check_checker, check_paired, check_settings, check_training_loop, checker

CHECKS = [f for module in (exercises, exercises_methods, exercises_applications, exercises_ship) for name, f in vars(module).items() if name.startswith("check_")]


@pytest.mark.parametrize("check", CHECKS, ids=lambda f: f.__name__)
def test_unanswered_says_so(check):
    verdict = check(..., *[None] * (len(signature(check).parameters) - 1))
    assert verdict.passed is None and repr(verdict).startswith("Not answered yet")


@pytest.mark.parametrize("check", CHECKS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("answer", [None, 0, -1e9, "nonsense", [], {}, object(), lambda *a: None, float("nan")], ids=repr)
def test_nonsense_is_refused_with_a_hint_and_never_raises(check, answer):
    verdict = check(answer, *[None] * (len(signature(check).parameters) - 1))
    assert verdict.passed is False and verdict.message


def test_keyboard_interrupt_is_not_an_answer():
    @checker
    def stopped(answer): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): stopped(1)


def test_verdict_is_readable_without_colour_and_escapes():
    shown = Verdict(False, "a < b")._repr_html_()
    assert "Not yet." in shown and "a &lt; b" in shown


def test_settings_check_wants_both():
    assert check_settings(Object(profile="hub", seed=7)).passed
    assert not check_settings(Object(profile="hub", seed=42)).passed


def test_paired_check_sees_the_wrong_number_of_labels_and_seeds():
    answer = lambda mean, n, a="1 nearest neighbour": Object(a=a, difference=Object(mean=mean, n=n))
    assert check_paired(answer(0.004, 10)).passed
    assert not check_paired(answer(0.027, 10)).passed and not check_paired(answer(0.004, 5)).passed
    assert not check_paired(answer(-0.004, 10, "logistic regression")).passed


def test_checker_check_wants_hints():
    @checker
    def silent(colour):
        if colour != "blue": raise AssertionError  # not `assert`: pytest would write a message for it
        return "x"
    assert "no hint" in check_checker(silent).message


def loop(known=("backbone", "head"), zero=True, gradient=True, call_head=True, learn=True):
    "A fine-tuning loop with chosen faults."
    import contextlib

    import torch
    from torch.nn.functional import cross_entropy

    def train(backbone, head, batches, lr):
        parts = {"backbone": backbone, "head": head}
        optimizer = torch.optim.AdamW([p for k in known for p in parts[k].parameters()], lr=lr)
        for x, y in batches:
            with contextlib.nullcontext() if gradient else torch.no_grad(): out = backbone(x)
            if not call_head: optimizer.step(); continue
            loss = cross_entropy(head(out), y)
            if zero: optimizer.zero_grad()
            if learn: loss.backward()
            optimizer.step()
    return train


def test_training_loop_check_accepts_the_right_loop_every_time():
    assert all(check_training_loop(loop()).passed for _ in range(5))


@pytest.mark.parametrize("faults, hint", [
    (dict(known=("backbone",)), "head has not learned"), (dict(known=("head",)), "backbone has not learned"),
    (dict(zero=False), "pile up"), (dict(gradient=False), "backbone has not learned"),
    (dict(call_head=False, gradient=False), "No weight has moved"), (dict(learn=False), "No weight has moved")])
def test_training_loop_check_names_each_fault(faults, hint):
    assert hint in check_training_loop(loop(**faults)).message


def test_labels_saved_wants_the_smallest_number():
    import pandas as pd

    from tl_nb.exercises import check_labels_saved
    rows = [(n, s, m, v) for n, t, f in [(50, 0.7, 0.5), (100, 0.7, 0.6), (200, 0.8, 0.7), (400, 0.8, 0.8)]
            for s in (0, 1) for m, v in (("transfer", t), ("TF-IDF", f))]
    curve = pd.DataFrame(rows, columns=["n", "seed", "method", "score"])
    assert check_labels_saved(200, curve).passed
    assert "to the right" in check_labels_saved(100, curve).message
    assert "smaller" in check_labels_saved(400, curve).message and "sizes" in check_labels_saved(300, curve).message


@pytest.mark.parametrize("wrong, hint", [
    (lambda a, b: sorted(k for k in a.keys() | b.keys() if k not in a or k not in b or not np.array_equal(a[k], b[k])), "NaN"),
    (lambda a, b: sorted(k for k in a.keys() | b.keys() if k not in a or k not in b
                         or not np.allclose(a[k], b[k], equal_nan=True)), "no tolerance"),
    (lambda a, b: sorted(k for k in a if "weight" in k and a[k].tobytes() != b[k].tobytes()), "buffer"),
    (lambda a, b: sorted(k for k in a if k in b and a[k].tobytes() != b[k].tobytes()), "not there before"),
    (lambda a, b: [k for k in [*a, *(b.keys() - a.keys())] if k not in b or k not in a or a[k].tobytes() != b[k].tobytes()],
     "sort the names"),
], ids=["by value", "nearly", "weights alone", "shared names alone", "unsorted"])
def test_what_moved_is_told_by_bytes(wrong, hint):
    verdict = exercises_methods.check_what_moved(wrong)
    assert verdict.passed is False and hint in verdict.message


@pytest.mark.parametrize("rule, hint", [
    (lambda p, wrong, silent: p.argmax(1), "silence is cheaper"),
    (lambda p, wrong, silent: np.where(p.max(1) >= 0.5, p.argmax(1), -1), "one half"),
    (lambda p, wrong, silent: np.where(p.max(1) >= min(1, silent / wrong), p.argmax(1), -1), "silence is cheaper"),
    (lambda p, wrong, silent: np.where(p.max(1) >= 1 - min(1, silent / wrong) - 0.2, p.argmax(1), -1), "never answer"),
    (lambda p, wrong, silent: np.where(p.max(1) >= 0.8, p.argmax(1), -1), "answer always"),
], ids=["always", "one half", "upside down", "too low", "fixed"])
def test_a_decision_follows_from_both_prices(rule, hint):
    verdict = exercises_applications.check_decide(rule)
    assert verdict.passed is False and hint in verdict.message


@pytest.mark.parametrize("rule, hint", [
    (lambda once, each: (once[1] - once[0]) / (each[1] - each[0]), "yours is"),
    (lambda once, each: abs(once[0] - once[1]) / abs(each[0] - each[1]), "at every price"),
    (lambda once, each: (once[0] - once[1]) / (each[1] - each[0]) if once[0] > once[1] else np.nan, "Swapping"),
], ids=["sign", "absolute", "one side"])
def test_the_price_at_which_two_ways_cost_the_same(rule, hint):
    verdict = exercises_ship.check_break_even(rule)
    assert verdict.passed is False and hint in verdict.message
