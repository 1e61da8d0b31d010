"""Failures of an endpoint: which requests are repeated, which are not, and which end a run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.trainer.chat_server import Asked, Say, honest
from tests.trainer.data.annotate.written import rejected
from trainer.data.annotate.by_teacher import annotate_by_teacher
from trainer.data_directory import read_samples
from trainer.endpoint.errors import EndpointUnusable

pytestmark = pytest.mark.slow

PASSING = [
    Say("slow down", status=429),
    Say("oops", status=500),
    Say(status=502, raw=b"<html>bad gateway</html>", headers={"Content-Type": "text/html"}),
    Say("overloaded", status=529),
    Say("waited too long for you", status=408),
    Say(drop=True),
    Say(raw=b"<html>who are you</html>", headers={"Content-Type": "text/html"}),
    Say(raw=b'{"half": '),
    Say(raw=b'{"error": {"message": "no provider"}}'),
    Say(raw=b'{"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": []}'),
]


@pytest.mark.parametrize("failure", PASSING, ids=lambda say: f"{say.status}{'-drop' if say.drop else ''}")
def test_temporary_failures_are_retried_by_us_alone(endpoint, order, clock, failure):
    endpoint.speak = lambda a: failure if a.sample == 0 and a.task == "reason" and a.time < 3 else honest(a)
    report = annotate_by_teacher(order, clock)
    assert report.annotation.complete
    assert report.annotation.accepted.hits == 5
    assert endpoint.tasks[0, "reason"] == 4
    assert len(endpoint.asked) == 33
    assert len(clock.slept) == 3
    assert all(0 < seconds <= 8 for seconds in clock.slept)
    assert (order.out / "replies.jsonl").read_bytes().count(b"\n") == 30


def test_a_slow_answer_is_given_up_and_asked_for_again(endpoint, order, clock):
    endpoint.speak = lambda a: Say(delay=20) if a.sample == 0 and a.task == "reason" and a.time == 0 else honest(a)
    report = annotate_by_teacher(replace(order, timeout=5.0), clock)
    assert report.annotation.accepted.hits == 5
    assert endpoint.tasks[0, "reason"] == 2


@pytest.mark.parametrize(
    ("headers", "least"), [({"Retry-After": "37"}, 37), ({"retry-after-ms": "4500", "Retry-After": "5"}, 4.5)]
)
def test_retry_after_is_obeyed_for_all(endpoint, order, clock, headers, least):
    times: list[float] = []

    def speak(asked: Asked) -> Say:
        times.append(clock.now())
        return Say("slow down", status=429, headers=headers) if len(endpoint.asked) == 1 else honest(asked)

    endpoint.speak = speak
    annotate_by_teacher(replace(order, concurrency=1), clock)
    assert clock.slept[0] >= least
    assert times[1] - times[0] >= least
    assert len(times) == 31


def test_the_message_about_a_header_that_cannot_be_sent_hides_the_key(endpoint, order, clock):
    with pytest.raises(EndpointUnusable, match="Bearer …") as caught:
        annotate_by_teacher(replace(order, api_key="secret-4711\n", tries=1), clock)
    assert "4711" not in str(caught.value)
    assert not endpoint.asked


def test_retry_after_may_be_a_date(endpoint, order, clock):
    dated = Say("later", status=503, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})
    endpoint.speak = lambda asked: dated if len(endpoint.asked) == 1 else honest(asked)
    assert annotate_by_teacher(replace(order, concurrency=1), clock).annotation.complete
    assert len(clock.slept) == 1
    assert clock.slept[0] <= 1  # that date is over; only the jitter is left


def test_a_retry_after_of_hours_ends_the_run_and_the_same_command_continues(endpoint, order, clock):
    endpoint.speak = lambda a: (
        honest(a) if len(endpoint.asked) < 10 else Say(status=429, headers={"Retry-After": "7200"})
    )
    with pytest.raises(EndpointUnusable, match="asks to wait 120 minutes"):
        annotate_by_teacher(replace(order, concurrency=1), clock)
    assert len(endpoint.asked) == 10
    assert not clock.slept
    assert not (order.out / "samples.jsonl").exists()

    endpoint.speak = honest
    assert annotate_by_teacher(order, clock).annotation.complete
    assert len(endpoint.asked) == 31
    assert max(endpoint.tasks.values()) == 2  # the one that got the 429


@pytest.mark.parametrize("status", [400, 403, 409, 413, 422])
def test_a_refused_request_is_not_repeated_and_rejects_its_sample(endpoint, order, clock, status):
    endpoint.speak = lambda a: (
        Say("bad picture", status=status) if a.sample == 0 and a.task == "describe C" else honest(a)
    )
    report = annotate_by_teacher(replace(order, concurrency=1), clock)
    assert endpoint.tasks[0, "describe C"] == 1
    assert not clock.slept
    (line,) = rejected(order.out)
    assert (line["sample"], line["task"], line["reason"]) == ("s0", "describe C", "refused")
    assert f"status {status}" in line["detail"]
    assert "bad picture" in line["detail"]
    assert report.annotation.complete

    assert annotate_by_teacher(order, clock).annotation.rejected == 1
    assert len(endpoint.asked) == 4 + 4 * 6


def test_refusals_before_the_first_answer_count_only_if_an_answer_follows(endpoint, order, clock):
    endpoint.speak = lambda a: Say("no", status=400) if a.sample < 2 else honest(a)
    report = annotate_by_teacher(replace(order, concurrency=1), clock)
    assert (report.annotation.accepted.hits, report.annotation.rejected) == (3, 2)


def test_refusals_that_overtake_slow_answers_do_not_end_the_run(endpoint, order, clock, monkeypatch):
    monkeypatch.setattr("trainer.endpoint.workers.REFUSED_FROM_THE_START", 2)
    endpoint.speak = lambda a: Say("no", status=400) if a.sample < 3 else replace(honest(a), delay=0.3)
    report = annotate_by_teacher(replace(order, concurrency=3), clock)
    assert (report.annotation.accepted.hits, report.annotation.rejected) == (2, 3)


def test_an_endpoint_that_refuses_everything_rejects_nothing(endpoint, order, clock):
    endpoint.speak = lambda _: Say("this model takes no pictures", status=400)
    with pytest.raises(EndpointUnusable, match=r"refuses every request .*takes no pictures"):
        annotate_by_teacher(order, clock)
    assert (order.out / "replies.jsonl").read_bytes() == b""

    endpoint.asked.clear()
    endpoint.speak = honest
    assert annotate_by_teacher(order, clock).annotation.accepted.hits == 5
    assert len(endpoint.asked) == 30


@pytest.mark.parametrize(("status", "words"), [(401, "key"), (402, "credit"), (404, "the model or address is unknown")])
def test_a_failure_that_affects_every_request_ends_the_run_at_once(endpoint, order, clock, status, words):
    endpoint.speak = lambda _: Say("no", status=status)
    with pytest.raises(EndpointUnusable, match=words):
        annotate_by_teacher(replace(order, concurrency=1), clock)
    assert len(endpoint.asked) == 1


def test_a_question_without_any_answer_stays_open_and_the_others_are_done(endpoint, order, clock):
    endpoint.speak = lambda a: Say("oops", status=500) if a.sample == 2 and a.task == "reason" else honest(a)
    report = annotate_by_teacher(order, clock)
    assert endpoint.tasks[2, "reason"] == order.tries
    assert not report.annotation.complete
    assert (report.annotation.accepted.hits, report.annotation.unfinished) == (4, 1)
    assert any("s2: status 500: " in line and "asks again" in line for line in report.lines)

    endpoint.speak = honest
    assert annotate_by_teacher(order, clock).annotation.complete
    assert endpoint.tasks[2, "reason"] == order.tries + 1
    assert len(endpoint.asked) == 30 + order.tries
    assert [sample.id for sample in read_samples(order.out)] == ["s0", "s1", "s2", "s3", "s4"]


def test_an_endpoint_that_is_not_there_is_given_up(order, clock):
    with pytest.raises(EndpointUnusable, match=r"3 questions in a row got no answer .the connection failed"):
        annotate_by_teacher(replace(order, base_url="http://127.0.0.1:9/v1"), clock)


def test_a_damaged_picture_rejects_its_sample_alone(endpoint, order, clock):
    picture = order.data / "pictures/s1/b.png"
    picture.write_bytes(picture.read_bytes()[:50])
    report = annotate_by_teacher(order, clock)
    (line,) = rejected(order.out)
    assert (line["sample"], line["task"], line["reason"]) == ("s1", "describe B", "picture")
    assert report.annotation.accepted.hits == 4
    asked = len(endpoint.asked)
    assert annotate_by_teacher(order, clock).annotation.complete
    assert len(endpoint.asked) == asked
