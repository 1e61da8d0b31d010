"""Answer-driven annotation: the label is given, the reasoning is asked for and checked against it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from tests.trainer.chat_server import Asked, Say, honest
from tests.trainer.coloured import LABELS, LAYOUT, make_data, thought
from tests.trainer.data.annotate.written import annotation, rejected
from trainer.data.annotate.by_teacher import annotate_by_teacher
from trainer.data.annotate.errors import AnnotationError
from trainer.data_directory import read_samples

pytestmark = pytest.mark.slow


def test_answer_driven_gives_the_label_and_keeps_the_sample(endpoint, order, clock):
    order = replace(order, method="answer-driven")
    annotate_by_teacher(order, clock)
    assert endpoint.tasks == Counter({(number, "reason"): 1 for number in range(5)})
    for asked in endpoint.asked:
        assert f"the answer is {LABELS[asked.sample]}." in asked.text
        assert "must name exactly" not in asked.text
    for before, after in zip(read_samples(order.data), read_samples(order.out), strict=True):
        assert after.reasoning
        assert after == before.model_copy(update={"reasoning": after.reasoning})


def test_a_reasoning_against_the_label_is_asked_for_again_with_what_was_wrong(endpoint, order, clock):
    def speak(asked: Asked) -> Say:
        if asked.sample == 0 and asked.time == 0:
            return Say(thought("C"))  # picture A is good
        if asked.sample == 1:
            return Say(thought("B"))  # none is
        return honest(asked)

    endpoint.speak = speak
    order = replace(order, method="answer-driven", attempts=2)
    annotate_by_teacher(order, clock)

    again = next(asked for asked in endpoint.asked if asked.sample == 0 and asked.time == 1)
    assert "It called picture A shadow, but that one may be shown." in again.text
    assert endpoint.tasks == Counter({(0, "reason"): 2, (1, "reason"): 2} | {(n, "reason"): 1 for n in (2, 3, 4)})
    (line,) = rejected(order.out)
    assert (line["sample"], line["reason"], line["attempts"]) == ("s1", "against_label", 2)
    assert annotation(order.out)["agreement"]["correct"]["percent"] == 100


def test_issues_are_shown_and_required_only_on_request(endpoint, order, clock, tmp_path):
    endpoint.speak = lambda a: Say(thought("AC", {"B": LAYOUT})) if a.sample == 0 and not a.hint else honest(a)
    plain = replace(order, method="answer-driven")
    annotate_by_teacher(plain, clock)
    assert endpoint.tasks[0, "reason"] == 1
    assert annotation(plain.out)["agreement"]["verdicts"]["hits"] == 19

    endpoint.asked.clear()
    told = replace(plain, out=tmp_path / "told", reveal_issues=True)
    annotate_by_teacher(told, clock)
    first, second = (asked for asked in endpoint.asked if asked.sample == 0)
    assert "A normal, B shadow, C normal, D shadow" in first.text
    assert "It said layout of picture B, whose issues are shadow alone." in second.text
    assert annotation(told.out)["agreement"]["verdicts"]["hits"] == 20


def test_answer_driven_needs_labels_and_asks_nothing_without(endpoint, order, clock, tmp_path):
    data = make_data(tmp_path / "unlabelled", labelled=False)
    with pytest.raises(AnnotationError, match="s0 has no label"):
        annotate_by_teacher(replace(order, method="answer-driven", data=data), clock)
    assert not endpoint.asked
