"""The vote of the orders, the thresholds and the balance of the selection."""

from __future__ import annotations

import pytest

from screening.answer import Mode
from screening.task import DIMENSIONS, OPTIONS
from tests.trainer.coloured import thought
from tests.trainer.training.pseudo_label.reordered_engine import at_positions
from trainer.training.pseudo_label.answers import OrderAnswer
from trainer.training.pseudo_label.consensus import Consensus, vote
from trainer.training.pseudo_label.orders import ORDERS
from trainer.training.pseudo_label.select import CLASSES, Rules, class_limits, select

ANY = Rules(min_agreement=0, min_confidence=0, max_overshare=100)


def answer(order: str, text: str, confidence: float = 0.9) -> OrderAnswer:
    choice = text[0] if text[:1] in OPTIONS else None
    return OrderAnswer(id="s", order=order, text=text, choice=choice, confidence=confidence)


def voted(
    name: str, label: str, *, agreeing: int = 4, confidence: float = 0.9, reasoning: str | None = ""
) -> Consensus:
    options = None if label == "?" else frozenset(label) - {"N"}
    return Consensus(name, options, agreeing, 4, confidence, label[:1], True, reasoning, flagged=False)


def direct(*answers: OrderAnswer) -> Consensus:
    return vote(answers, Mode.DIRECT, DIMENSIONS)


def test_the_label_that_most_orders_give_counts_with_their_mean_confidence() -> None:
    # B in the data's letters stands in position A of BCDA and in position D of CDAB.
    result = direct(
        answer("ABCD", "B", 0.7), answer("BCDA", "A", 0.9), answer("CDAB", "D", 0.8), answer("DABC", "N", 1.0)
    )
    assert (result.options, result.agreeing, result.agreement) == (frozenset("B"), 3, 0.75)
    assert result.confidence == pytest.approx(0.8)
    assert (result.choice, result.own_order) == ("B", True)


def test_of_two_labels_with_equally_many_orders_the_surer_one_counts() -> None:
    result = direct(answer("ABCD", "A", 0.6), answer("BCDA", "B", 0.7))
    assert (result.options, result.own_order) == (frozenset("C"), False)


def test_unreadable_answers_count_against_the_agreement() -> None:
    assert direct(answer("ABCD", "A"), answer("BCDA", "what?")).agreement == 0.5
    nothing = direct(answer("ABCD", "what?"), answer("BCDA", ""))
    assert (nothing.options, nothing.agreement, nothing.confidence) == (None, 0, 0)


def test_the_reasoning_of_the_data_s_own_order_is_kept_as_it_is() -> None:
    own = thought("B").replace("as one can see", "a free text about B")
    result = vote([answer("BCDA", thought("A"), 0.99), answer("ABCD", own)], Mode.COT, DIMENSIONS)
    assert f"<think>{result.reasoning}</think><answer>B</answer>" == own


def test_where_other_orders_correct_the_own_one_their_reasoning_is_rewritten() -> None:
    wrong = answer("ABCD", thought("C"))
    result = vote([wrong, answer("BCDA", thought("A")), answer("CDAB", thought("D"))], Mode.COT, DIMENSIONS)
    assert (result.options, result.own_order) == (frozenset("B"), False)
    assert f"<think>{result.reasoning}</think><answer>B</answer>" == thought("B")


@pytest.mark.parametrize("order", ORDERS[1:])
def test_reasoning_is_rewritten_from_every_order(order: str) -> None:
    for label in ("B", "AD", "BCD", "N"):
        shown = thought(at_positions(label, order))
        result = vote([answer(order, shown)], Mode.COT, DIMENSIONS)
        assert f"<think>{result.reasoning}</think><answer>{label}</answer>" == thought(label)


def test_an_empty_reasoning_is_not_taken_where_another_order_has_words() -> None:
    empty = "<think> </think><answer>{}</answer>"
    own, other = answer("ABCD", empty.format("B")), answer("BCDA", empty.format("A"))
    result = vote([own, answer("CDAB", thought("D"))], Mode.COT, DIMENSIONS)
    assert f"<think>{result.reasoning}</think><answer>B</answer>" == thought("B")
    assert vote([own, other], Mode.COT, DIMENSIONS).reasoning is None
    assert direct(answer("ABCD", "B")).reasoning == ""


@pytest.mark.parametrize("text", ["as the last", "unlike the First picture", "darker than the second", "as the next"])
def test_reasoning_with_words_of_position_is_not_rewritten(text: str) -> None:
    named = thought("A").replace("as one can see", text)
    assert vote([answer("BCDA", named)], Mode.COT, DIMENSIONS).reasoning is None
    assert vote([answer("ABCD", named)], Mode.COT, DIMENSIONS).reasoning is not None, "nothing moves in the own order"


@pytest.mark.parametrize("text", ["a second product was added beside it", "it stands next to a box, on the left"])
def test_words_for_places_in_a_picture_do_not_prevent_rewriting(text: str) -> None:
    named = thought("A").replace("as one can see", text)
    assert text in (vote([answer("BCDA", named)], Mode.COT, DIMENSIONS).reasoning or "")


@pytest.mark.parametrize("text", ["it looks like C", "no comment, and so"])
def test_reasoning_that_cannot_be_rewritten_safely_is_left_out(text: str) -> None:
    named = thought("A").replace("as one can see", text)
    if "C" not in text:
        named = named.replace("<D>", "D")
    assert vote([answer("BCDA", named)], Mode.COT, DIMENSIONS).reasoning is None


def test_every_question_that_is_not_selected_has_a_reason() -> None:
    votes = [
        voted("unreadable", "?", agreeing=0),
        voted("split", "A", agreeing=3),
        voted("unsure", "A", confidence=0.79),
        voted("mute", "A", reasoning=None),
        voted("contradicts", "A"),
        voted("good", "A", confidence=0.8),
    ]
    result = select(votes, Rules(1.0, 0.8, 1.0), {1: 1}, frozenset({"contradicts"}))
    assert [one.id for one in result.selected] == ["good"]
    assert result.rejected == {
        "unreadable": "unreadable",
        "split": "agreement",
        "unsure": "confidence",
        "mute": "no reasoning",
        "contradicts": "contradiction",
    }


def test_a_class_takes_its_surest_questions_up_to_its_share() -> None:
    votes = [voted(f"n{n}", "N", confidence=0.9 + n / 100) for n in range(8)] + [voted("a", "A"), voted("ab", "AB")]
    result = select(votes, Rules(0, 0, 1.0), {0: 2, 1: 1, 2: 1})
    assert [one.id for one in result.selected] == ["n5", "n6", "n7", "a", "ab"]
    assert set(result.rejected.values()) == {"balance"}


def test_agreement_counts_before_confidence() -> None:
    votes = [
        voted("sure", "A", agreeing=3, confidence=0.99),
        voted("agreed", "A", confidence=0.5),
        voted("agreed too", "A", confidence=0.4),
        voted("n", "N"),
    ]
    result = select(votes, Rules(0, 0, 1.0), {0: 1, 1: 1})
    assert [one.id for one in result.selected] == ["agreed", "agreed too", "n"]


@pytest.mark.parametrize(
    ("available", "reference", "overshare", "limits"),
    [
        ({0: 90, 1: 10}, {0: 50, 1: 50}, 1.0, [11, 10, 0, 0, 0]),
        ({0: 90, 1: 10}, {0: 50, 1: 50}, 1.5, [33, 10, 0, 0, 0]),
        ({0: 90, 1: 10}, {0: 90, 1: 10}, 1.0, [90, 10, 0, 0, 0]),
        ({0: 5, 1: 5, 4: 7}, {0: 1, 1: 1}, 1.0, [5, 5, 0, 0, 0]),
        ({}, {0: 1}, 1.0, [0, 0, 0, 0, 0]),
    ],
)
def test_no_class_exceeds_its_share_of_the_reference_by_more_than_one_sample(
    available: dict[int, int], reference: dict[int, int], overshare: float, limits: list[int]
) -> None:
    assert list(class_limits(available, reference, overshare).values()) == limits


def test_without_a_limit_everything_is_selected() -> None:
    votes = [voted(f"n{n}", "N") for n in range(9)] + [voted("a", "A")]
    assert len(select(votes, ANY, {0: 1, 1: 1}).selected) == 10


def test_without_a_reference_none_is_taken() -> None:
    assert class_limits({0: 4, 1: 2}, {}, 1.5) == dict.fromkeys(CLASSES, 0)
