"""The limits on visitors, on a clock that the test moves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.demo.limits import Limits, Rate, Rates, Refused, check_prompt


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@given(st.integers(1, 5), st.lists(st.floats(0, 40), max_size=60))
def test_no_minute_ever_holds_more_than_the_rate(most: int, gaps: list[float]) -> None:
    clock = Clock()
    rate = Rate(most, clock=clock)
    taken = []
    for gap in gaps:
        clock.now += gap
        if rate.wait_s() == 0:
            rate.count()
            taken.append(clock.now)
    for moment in taken:
        assert sum(moment <= other < moment + 60 for other in taken) <= most


def test_the_wait_that_is_told_is_the_wait_that_is_needed() -> None:
    clock = Clock()
    rate = Rate(1, clock=clock)
    rate.count()
    clock.now = 25.0
    left = rate.wait_s()
    clock.now += left
    assert 34 < left <= 35.01 and rate.wait_s() == 0


def test_one_visitor_is_refused_in_words_while_another_is_served() -> None:
    clock = Clock()
    limits = Limits(2, 100, clock=clock)
    for _ in range(2):
        limits.enter("a")
        limits.leave("a")
    with pytest.raises(Refused, match="2 questions a minute. Ask again in 60 seconds"):
        limits.enter("a")
    limits.enter("b")
    clock.now = 60.0
    limits.enter("a")
    assert limits.refused == 1


def test_all_visitors_together_have_a_limit_too() -> None:
    limits = Limits(100, 3, clock=Clock())
    for client in "abc":
        limits.enter(client)
    with pytest.raises(Refused, match="Many people"):
        limits.enter("d")


def test_one_visitor_holds_only_a_few_places_at_once() -> None:
    limits = Limits(100, 100, at_once=2, waiting=3, clock=Clock())
    limits.enter("a")
    limits.enter("a")
    with pytest.raises(Refused, match="still being answered"):
        limits.enter("a")
    limits.enter("b")
    with pytest.raises(Refused, match="Many people"):
        limits.enter("c")
    limits.leave("a")
    limits.enter("c")


def test_quiet_clients_are_forgotten_before_the_memory_grows() -> None:
    rates = Rates(1)
    for number in range(10_050):
        rates.of(f"client {number}").count()
    assert len(rates._clients) == 10_000
    assert rates.of("client 10049").wait_s() > 0


def test_a_question_is_neither_empty_nor_too_long() -> None:
    assert check_prompt("  hi \n", 5) == "hi"
    for given_text, words in (
        ("", "Write a question"),
        (" \n", "Write a question"),
        (None, "Write a"),
        ("x" * 6, "5 are"),
    ):
        with pytest.raises(Refused, match=words):
            check_prompt(given_text, 5)
