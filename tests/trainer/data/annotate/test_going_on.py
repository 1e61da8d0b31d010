"""Whatever ended a run, the same command continues; another one is refused."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest

from tests.trainer.chat_server import Say, honest
from trainer.data.annotate.by_teacher import annotate_by_teacher
from trainer.data.annotate.errors import AnnotationError
from trainer.data.annotate.replies import open_replies
from trainer.data_directory import read_samples
from trainer.endpoint.client import Asking
from trainer.runs.json_log import LogError
from trainer.runs.run_directory import RunMismatch

pytestmark = pytest.mark.slow


def test_a_finished_annotation_asks_nothing_and_writes_the_same(endpoint, order, clock):
    annotate_by_teacher(order, clock)
    names = ("samples.jsonl", "rejected.jsonl", "annotation.json")
    before = {name: (order.out / name).read_bytes() for name in names}
    (order.out / "annotation.json").unlink()
    endpoint.asked.clear()
    annotate_by_teacher(replace(order, concurrency=1, requests_per_minute=5, base_url="http://127.0.0.1:9/v1"), clock)
    assert not endpoint.asked
    assert {name: (order.out / name).read_bytes() for name in names} == before


@pytest.mark.parametrize("torn", [b"", b'{"sample":"s4","task":"rea', b'{"sample":"s4"'])
def test_after_a_kill_only_missing_answers_are_requested(endpoint, order, clock, torn):
    annotate_by_teacher(order, clock)
    whole = {name: (order.out / name).read_bytes() for name in ("samples.jsonl", "annotation.json")}
    log = order.out / "replies.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    kept, lost = lines[:17], lines[17:]
    log.write_bytes(b"".join(kept) + torn)
    for name in whole:
        (order.out / name).unlink()
    endpoint.asked.clear()

    annotate_by_teacher(order, clock)
    missing = [json.loads(line) for line in lost]
    assert endpoint.tasks == Counter((int(reply["sample"][1:]), reply["task"]) for reply in missing)
    assert {name: (order.out / name).read_bytes() for name in whole} == whole


def test_a_damaged_log_is_refused_with_its_line(order, clock):
    annotate_by_teacher(order, clock)
    log = order.out / "replies.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*lines[:3], b"garbage\n", *lines[3:]]))
    with pytest.raises(LogError, match=r"replies\.jsonl, line 4 is damaged or not a reply"):
        annotate_by_teacher(order, clock)


@pytest.mark.parametrize(
    "other",
    [
        {"asking": Asking(model="other", reply_tokens=200)},
        {"asking": Asking(model="teacher", reply_tokens=200, temperature=0.5)},
        {"asking": Asking(model="teacher", reply_tokens=200, extra_body={"top_k": 3})},
        {"picture_size": 512},
        {"attempts": 5},
        {"method": "answer-driven"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_another_annotation_in_the_same_directory_is_refused(endpoint, order, clock, other):
    annotate_by_teacher(order, clock)
    endpoint.asked.clear()
    with pytest.raises(RunMismatch):
        annotate_by_teacher(replace(order, **other), clock)
    assert not endpoint.asked


def test_a_higher_limit_continues_the_run(endpoint, order, clock):
    assert annotate_by_teacher(replace(order, limit=2), clock).annotation.complete
    assert len(read_samples(order.out)) == 2
    annotate_by_teacher(order, clock)
    assert len(read_samples(order.out)) == 5
    assert set(endpoint.tasks.values()) == {1}


def test_a_run_with_only_refused_questions_left_ends(endpoint, order, clock):
    annotate_by_teacher(replace(order, limit=4), clock)
    endpoint.speak = lambda asked: Say("our policy", status=400) if asked.sample == 4 else honest(asked)
    annotation = annotate_by_teacher(order, clock).annotation
    assert annotation.complete
    assert (annotation.accepted.hits, annotation.rejected) == (4, 1)


def test_a_directory_that_is_written_by_another_process_is_refused(endpoint, order, clock):
    annotate_by_teacher(order, clock)
    with open_replies(order.out), pytest.raises(LogError, match="written by another process"):
        annotate_by_teacher(order, clock)


def test_foreign_directories_are_left_alone(order, clock):
    before = (order.data / "samples.jsonl").read_bytes()
    with pytest.raises(AnnotationError, match="the data directory itself"):
        annotate_by_teacher(replace(order, out=order.data), clock)
    order.out.mkdir()
    (order.out / "thesis.tex").write_text("x")
    with pytest.raises(RunMismatch, match=r"thesis\.tex"):
        annotate_by_teacher(order, clock)
    assert (order.data / "samples.jsonl").read_bytes() == before
    assert sorted(path.name for path in order.out.iterdir()) == ["thesis.tex"]
