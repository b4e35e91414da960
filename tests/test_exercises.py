"Exercises: verdicts never raise, and every check of the course refuses wrong answers."
from types import SimpleNamespace as Object

import pytest

from tl_nb import exercises
from tl_nb.exercises import Verdict, check_checker, check_paired, check_settings, checker

CHECKS = [f for name, f in vars(exercises).items() if name.startswith("check_")]


@pytest.mark.parametrize("check", CHECKS, ids=lambda f: f.__name__)
def test_unanswered_says_so(check):
    verdict = check(...)
    assert verdict.passed is None and repr(verdict).startswith("Not answered yet")


@pytest.mark.parametrize("check", CHECKS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("answer", [None, 0, -1e9, "nonsense", [], {}, object(), lambda *a: None, float("nan")], ids=repr)
def test_nonsense_is_refused_with_a_hint_and_never_raises(check, answer):
    verdict = check(answer)
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
