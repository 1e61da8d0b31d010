"""A reasoning must agree with itself before a student learns from it."""

from __future__ import annotations

from typing import Any

import pytest

from screening.answer import Answer, Mode, parse
from tests.trainer.coloured import thought
from trainer.data.annotate.reading import Fault, read_reasoning, tells
from trainer.data.annotate.replies import Reply


def said(text: str, **kwargs: Any) -> Reply:
    return Reply(sample="s", task="reason", text=text, **kwargs)


GOOD = thought("AC")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (GOOD.replace("<C> normal", "<C> shadow"), "self_contradiction"),
        (GOOD.replace("<B> shadow", "<B> normal"), "self_contradiction"),
        (GOOD.replace("chose AC", "chose B"), "self_contradiction"),
        (GOOD.replace("chose AC", "chose A and B"), "self_contradiction"),
        (GOOD.replace("<B> shadow", "<B> the shadow is odd"), "no_verdict"),
        (GOOD.replace("<D> shadow: as one can see", ""), "no_verdict"),
        (GOOD.replace("<answer>AC</answer>", "<answer>AN</answer>"), "contradiction"),
        ("Sure! " + GOOD, "stray_text"),
    ],
)
def test_a_reasoning_must_agree_with_itself(text, reason):
    assert text != GOOD
    fault = read_reasoning(said(text))
    assert isinstance(fault, Fault)
    assert fault.reason == reason


@pytest.mark.parametrize("conclusion", ["AC", "A and C", "A, C", "C, A", "both, A being nicer", "Nothing else", "A C"])
def test_a_conclusion_in_other_words_is_not_a_contradiction(conclusion):
    answer = read_reasoning(said(GOOD.replace("chose AC", f"chose {conclusion}")))
    assert isinstance(answer, Answer)
    assert answer.options == {"A", "C"}


def test_findings_come_in_the_order_of_the_options_whatever_that_of_the_text():
    text = "<think><D> shadow: x, <B> layout: y, <A> normal: z, <C> normal: w</think><answer>CA</answer>"
    answer = read_reasoning(said(text))
    assert isinstance(answer, Answer)
    assert [finding.option for finding in answer.findings] == ["A", "B", "C", "D"]


def test_truncated_reasoning_is_reported_as_truncated():
    fault = read_reasoning(said(GOOD[:-30], finish="length"))
    assert isinstance(fault, Fault)
    assert fault.reason == "cut"


@pytest.mark.parametrize(
    ("comment", "gives_away"),
    [
        ("this fits the given answer", True),
        ("the ground truth says so", True),
        ("as I was told", True),
        ("the label is the one of the original", False),
        ("the right label and the expected number", False),
    ],
)
def test_a_reasoning_that_speaks_of_the_answer_it_was_given_is_noticed(comment, gives_away):
    answer = parse(GOOD.replace("as one can see", comment, 1), Mode.COT)
    assert isinstance(answer, Answer)
    assert (tells(answer) is not None) == gives_away
