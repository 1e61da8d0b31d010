"""How fast and for how much: rates, requests at once, tokens, money."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import pairwise

import pytest

from tests.trainer.chat_server import COMPLETION_TOKENS, PROMPT_TOKENS, Asked, Say, honest
from tests.trainer.data.annotate.written import annotation
from trainer.data.annotate.by_teacher import annotate_by_teacher
from trainer.data_directory import read_samples
from trainer.endpoint.budget import Prices
from trainer.endpoint.errors import EndpointUnusable

pytestmark = pytest.mark.slow


def test_retries_count_against_the_rate(endpoint, order, clock):
    times: list[float] = []

    def speak(asked: Asked) -> Say:
        times.append(clock.now())
        return Say(status=500) if asked.time == 0 and asked.task == "reason" else honest(asked)

    endpoint.speak = speak
    annotate_by_teacher(replace(order, concurrency=1, requests_per_minute=4), clock)
    assert len(times) == 35
    assert all(later - earlier >= 14.999 for earlier, later in pairwise(times))


def test_no_more_requests_at_once_than_asked_for(endpoint, order, clock):
    both = threading.Barrier(2)

    def speak(asked: Asked) -> Say:
        if len(endpoint.asked) <= 2:
            both.wait(300)
        return replace(honest(asked), delay=0.01)

    endpoint.speak = speak
    annotate_by_teacher(replace(order, concurrency=2), clock)
    assert endpoint.most_at_once == 2


def test_a_token_limit_is_respected_and_a_higher_one_continues_the_run(endpoint, order, clock):
    each = PROMPT_TOKENS + COMPLETION_TOKENS
    report = annotate_by_teacher(replace(order, max_tokens=each * 13 + 5, concurrency=8), clock)
    assert len(endpoint.asked) == 13
    assert not report.annotation.complete
    assert any("--max-tokens-total" in line for line in report.lines)
    assert annotation(order.out)["unfinished"] >= 3

    annotate_by_teacher(replace(order, max_tokens=each * 13 + 5), clock)
    assert len(endpoint.asked) == 13  # earlier spending counts
    assert annotate_by_teacher(replace(order, max_tokens=each * 30), clock).annotation.complete
    assert len(endpoint.asked) == 30
    assert set(endpoint.tasks.values()) == {1}


def test_a_budget_is_kept_in_the_currency_of_the_prices(endpoint, order, clock):
    prices = Prices(prompt=1000.0, completion=20_000.0)  # 0.1 + 0.2 for each reply
    report = annotate_by_teacher(replace(order, budget=2.75, prices=prices, concurrency=1), clock)
    assert len(endpoint.asked) == 9
    assert report.annotation.teacher is not None
    assert report.annotation.teacher.cost == pytest.approx(2.7)
    assert [sample.id for sample in read_samples(order.out)] == ["s0"]


def test_a_limit_on_tokens_needs_an_endpoint_that_counts_them(endpoint, order, clock):
    endpoint.speak = lambda asked: replace(honest(asked), usage=False)
    with pytest.raises(EndpointUnusable, match="does not report token counts"):
        annotate_by_teacher(replace(order, max_tokens=10_000), clock)
    assert len(endpoint.asked) == 1
    assert annotate_by_teacher(order, clock).annotation.complete
