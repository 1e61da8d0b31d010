"""A planted mix, a stale answer and foreign letters are found, and nothing else is."""

from __future__ import annotations

import pytest

from loadtest.targets.versions import Finding, Served, examine, examine_all

ALPHABETS = {"x": "EFG", "y": "%&*"}


@pytest.fixture
def served() -> Served:
    """x; from 10 to 11 a swap to y is under way; y; from 20 to 22 one back to x."""
    served = Served()
    served.start("x")
    served.swapped("y", 10, 11)
    served.swapped("x", 20, 22)
    return served


@pytest.mark.parametrize(
    ("digest", "sent", "finished", "may"),
    [
        ("x", 0, 1, True),
        ("y", 0, 9.9, False),  # before the swap was ordered
        ("y", 0, 10.5, True),  # while it was under way
        ("x", 10.5, 15, True),  # sent while it was under way
        ("x", 11.1, 19.9, False),  # between the two swaps, only y was served
        ("x", 11.1, 20.1, True),
        ("y", 22.1, 30, False),
        ("z", 0, 30, False),
    ],
)
def test_a_version_is_right_if_it_was_served_between_sending_and_answer(served, digest, sent, finished, may) -> None:
    assert served.may_be(digest, sent, finished) is may


def test_a_swap_to_the_served_checkpoint_is_not_counted(served) -> None:
    served.swapped("x", 30, 31)
    assert served.may_be("x", 40, 41)
    assert len(served.windows["x"]) == 2


@pytest.mark.parametrize(
    ("fields", "finding"),
    [
        ({"digest": "x", "reasoning": "the E is blue F"}, None),
        ({"digest": "x", "reasoning": "the E is blue %"}, Finding.MIXED),
        ({"digest": "x", "reasoning": "the % is blue &"}, Finding.WRONG_VERSION),  # the text betrays it
        ({"digest": "y", "reasoning": "the % is blue &"}, Finding.WRONG_VERSION),  # y was not served at 0 to 1
        ({"digest": "z", "reasoning": "the E is blue F"}, Finding.WRONG_VERSION),
        ({"digest": "x", "reasoning": "the cup is blue"}, Finding.UNRECOGNISED),
        ({"digest": "x", "reasoning": None, "outcome": "unreadable"}, Finding.UNRECOGNISED),
        ({"status": 503, "error": "Unavailable"}, None),
    ],
)
def test_every_fault_of_an_answer_is_named(served, exchange, fields, finding) -> None:
    assert examine(exchange(sent=0, finished=1, **fields), served, ALPHABETS) == finding


def test_a_planted_mix_is_the_only_finding_among_sound_answers(served, exchange) -> None:
    sound = [exchange(number=n, sent=0, finished=1, digest="x", reasoning="E F") for n in range(50)]
    planted = exchange(number=50, sent=0, finished=1, digest="x", reasoning="E F %")
    findings = examine_all([*sound, planted], served, ALPHABETS)
    assert {finding: [e.number for e in found] for finding, found in findings.items()} == {
        Finding.MIXED: [50],
        Finding.WRONG_VERSION: [],
        Finding.UNRECOGNISED: [],
    }
