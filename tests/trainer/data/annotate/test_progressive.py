"""Progressive annotation: its requests, the use of the replies, and the written samples."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import replace

import pytest

from screening.answer import Answer, Mode, render
from screening.prompt import STANDARD
from screening.task import OPTIONS
from tests.trainer.chat_server import PROMPT_TOKENS, Asked, Say, honest
from tests.trainer.coloured import LABELS, LAYOUT, make_data, thought
from tests.trainer.data.annotate.written import annotation, rejected
from trainer.data.annotate.by_teacher import annotate_by_teacher
from trainer.data_directory import read_samples

pytestmark = pytest.mark.slow


def test_progressive_describes_each_picture_and_reasons_from_its_own_words(endpoint, order, clock):
    report = annotate_by_teacher(order, clock)

    tasks = [f"describe {place}" for place in ("original", *OPTIONS)] + ["reason"]
    assert endpoint.tasks == Counter({(n, task): 1 for n in range(len(LABELS)) for task in tasks})
    for asked in endpoint.asked:
        assert asked.body["model"] == "teacher"
        assert asked.body["max_tokens"] == 200
        if asked.task == "reason":
            for place in ("original", *OPTIONS):
                assert f"Your description: Sample {asked.sample}, {place}." in asked.text
    samples = read_samples(order.out)
    assert [sample.id for sample in samples] == ["s0", "s1", "s2", "s3", "s4"]
    assert tuple(sample.label for sample in samples) == LABELS
    for number, sample in enumerate(samples):
        assert sample.original.caption == f"Sample {number}, original."
        assert sample.original.attributes == {"colour": "red"}
        assert [picture.caption for picture in sample.generated] == [f"Sample {number}, {o}." for o in OPTIONS]
        assert render(Answer(sample.options, sample.reasoning), Mode.COT) == thought(LABELS[number])
    assert report.annotation.complete
    assert report.annotation.teacher is not None
    assert report.annotation.teacher.models == {"teacher-2026-01": 30}
    assert annotation(order.out)["teacher"]["prompt_tokens"] == 30 * PROMPT_TOKENS
    assert not rejected(order.out)
    assert not clock.slept


def test_the_weak_label_is_the_teachers_own_and_is_compared_with_the_truth(endpoint, order, clock):
    answers = ["A", "N", "BC", "N", "D"]  # right by the paper's rule: s0 (a part of AC), s1 and s4

    def speak(asked: Asked) -> Say:
        if asked.task != "reason":
            return honest(asked)
        answer = answers[asked.sample]
        return Say(thought(answer, {} if "D" in answer else {"D": LAYOUT}))

    endpoint.speak = speak
    annotate_by_teacher(order, clock)

    samples = read_samples(order.out)
    assert [sample.label for sample in samples] == answers
    assert samples[0].generated[3].dimensions == LAYOUT
    agreement = annotation(order.out)["agreement"]
    assert agreement["correct"]["hits"] == 3
    assert agreement["exact"]["hits"] == 2
    assert agreement["correct"]["n"] == 5
    assert agreement["correct"]["low"] < 60 < agreement["correct"]["high"]
    # Of 20 pictures, right are: s0 A B, s1 A B C, s2 A B, s4 A B C D. (D is said to be badly placed, not lit.)
    assert agreement["verdicts"]["hits"] == 11


def test_a_sample_keeps_its_weight_but_not_the_origin_of_its_earlier_label(order, clock):
    path = order.data / "samples.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    reviewed = {"task": "t", "job": "review", "reason": "audit", "decided": "one", "reviewers": 1, "reviews": ["r"]}
    lines[1] |= {"weight": 25.0, "provenance": reviewed | {"at": "2026-01-01T00:00:00Z"}}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    annotate_by_teacher(order, clock)
    samples = read_samples(order.out)
    assert [sample.weight for sample in samples] == [None, 25.0, None, None, None]
    assert all(sample.provenance is None for sample in samples)


def test_the_result_gives_sft_its_captions_and_its_reasoning(order, clock):
    from trainer.training.sft.rows import caption_rows, screening_rows

    annotate_by_teacher(order, clock)
    samples = read_samples(order.out)
    captions = [row["completion"][0]["content"][0]["text"] for row in caption_rows(samples)]
    assert len(captions) == 25
    assert captions[1] == "Sample 0, A."
    rows = screening_rows(samples, STANDARD, direct_share=0, seed=0)
    assert [row["completion"][0]["content"][0]["text"] for row in rows] == [thought(label) for label in LABELS]


def test_pictures_of_the_result_are_the_same_files(order, clock):
    annotate_by_teacher(order, clock)
    for sample in read_samples(order.out):
        for file in sample.files:
            assert (order.out / file).samefile(order.data / file)


def test_pictures_are_copied_where_they_cannot_be_linked(order, clock, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    annotate_by_teacher(order, clock)
    for sample in read_samples(order.out):
        for file in sample.files:
            assert (order.out / file).read_bytes() == (order.data / file).read_bytes()
            assert not (order.out / file).samefile(order.data / file)


def test_samples_without_labels_can_be_annotated_and_are_not_compared(endpoint, order, clock, tmp_path):
    order = replace(order, data=make_data(tmp_path / "unlabelled", labelled=False))
    annotate_by_teacher(order, clock)
    assert tuple(sample.label for sample in read_samples(order.out)) == LABELS
    assert annotation(order.out)["agreement"] is None


def test_an_unreadable_reply_is_asked_for_again_and_at_last_rejected_with_the_reason(endpoint, order, clock):
    def speak(asked: Asked) -> Say:
        if asked.task != "reason":
            return honest(asked)
        if asked.sample == 0:
            return Say("I like picture A best.")
        if asked.sample == 1 and asked.time == 0:
            return Say("<think>I observed <A> normal")
        return honest(asked)

    endpoint.speak = speak
    report = annotate_by_teacher(order, clock)

    assert endpoint.tasks[0, "reason"] == order.attempts == 3
    assert endpoint.tasks[1, "reason"] == 2
    assert endpoint.tasks[0, "describe A"] == 1
    assert [asked.hint for asked in endpoint.asked if asked.task == "reason" and asked.sample == 0] == [
        False,
        True,
        True,
    ]
    assert [sample.id for sample in read_samples(order.out)] == ["s1", "s2", "s3", "s4"]
    (line,) = rejected(order.out)
    assert (line["sample"], line["task"], line["reason"], line["attempts"]) == ("s0", "reason", "no_think", 3)
    assert line["text"] == "I like picture A best."
    assert report.annotation.rejected_reasons == {"no_think": 1}
    assert (report.annotation.accepted.hits, report.annotation.accepted.n) == (4, 5)
    assert report.annotation.complete


def test_a_caption_that_is_empty_cut_or_filtered_is_asked_for_again(endpoint, order, clock):
    bad = [Say(""), Say("A bottle that", finish="length"), Say("A bottle", finish="content_filter")]
    endpoint.speak = lambda asked: (
        bad[asked.sample] if asked.task == "describe B" and asked.sample < 3 else honest(asked)
    )
    annotate_by_teacher(order, clock)
    assert [(line["sample"], line["task"], line["reason"]) for line in rejected(order.out)] == [
        ("s0", "describe B", "empty"),
        ("s1", "describe B", "cut"),
        ("s2", "describe B", "content_filter"),
    ]
    assert endpoint.tasks[0, "describe B"] == 3
    assert not any(asked.task == "reason" and asked.sample < 3 for asked in endpoint.asked)
