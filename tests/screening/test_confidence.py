"""Confidence, compared with numbers calculated by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from screening.answer import Answer, Mode, parse
from screening.calibration import UNCALIBRATED, Calibration, Curve, Shifts
from screening.confidence import Source, decide, option_probabilities
from screening.inference.generation import Step, Watched

LETTERS = {"A": 1, "B": 2, "C": 3, "D": 4, "N": 5}
NORMAL = 6
WATCHED = Watched(LETTERS, frozenset({NORMAL}))


def step(piece: str, own: float = 0.99, **probabilities: float) -> Step:
    """A step with the probabilities of watched tokens; `normal` for the verdict's, letters for theirs."""
    ids = {**LETTERS, "normal": NORMAL}
    token = LETTERS.get(piece.strip(), NORMAL if piece.strip() == "normal" else 99)
    values = {ids[name]: math.log(value) for name, value in probabilities.items()}
    return Step(piece, token, {token: math.log(own), **values})


def read(steps: list[Step], mode: Mode) -> Answer:
    answer = parse("".join(each.piece for each in steps), mode)
    assert isinstance(answer, Answer)
    return answer


def thought(verdicts: dict[str, tuple[str, float]], letters: str) -> list[Step]:
    """A chain of thought: option → (verdict word, probability of `normal`)."""
    steps = [step("<think>"), step("I observed ")]
    for option, (word, probability) in verdicts.items():
        steps += [step("<"), step(option), step("> "), step(word, normal=probability), step(": it is so, ")]
    steps += [step("so I ultimately chose it."), step("</think>"), step("<answer>")]
    steps += [step(letter, A=0.999, B=0.999, C=0.999, D=0.999, N=0.001) for letter in letters]
    return [*steps, step("</answer>")]


def test_the_verdict_decides_and_not_the_copied_letter() -> None:
    verdicts = {"A": ("normal", 0.6), "B": ("shadow", 0.1), "C": ("normal", 0.9), "D": ("layout", 0.2)}
    steps = thought(verdicts, "AC")
    judgement = decide(read(steps, Mode.COT), steps, WATCHED, UNCALIBRATED)
    assert judgement.source is Source.VERDICTS
    assert judgement.usable == pytest.approx({"A": 0.6, "B": 0.1, "C": 0.9, "D": 0.2})
    assert judgement.choice == "C"
    assert judgement.probability == pytest.approx(0.9)
    assert judgement.confidence == pytest.approx(0.9)


def test_a_shunned_position_is_shifted_before_one_is_chosen() -> None:
    verdicts = {"A": ("normal", 0.6), "B": ("shadow", 0.1), "C": ("normal", 0.75), "D": ("layout", 0.2)}
    steps = thought(verdicts, "AC")
    shifted = Calibration(shifts=Shifts(A=math.log(4)), option=Curve(intercept=-math.log(3)))
    judgement = decide(read(steps, Mode.COT), steps, WATCHED, shifted)
    assert judgement.choice == "A"  # 0.6 is odds of 3 : 2; four times that is 6 : 1
    assert judgement.probability == pytest.approx(6 / 7)
    assert judgement.confidence == pytest.approx(2 / 3)
    assert judgement.usable["A"] == pytest.approx(0.6), "what the model gave"


def test_none_is_as_probable_as_all_four_being_unusable() -> None:
    verdicts = {option: ("shadow", value) for option, value in zip("ABCD", (0.1, 0.2, 0.3, 0.4), strict=True)}
    steps = thought(verdicts, "N")
    judgement = decide(read(steps, Mode.COT), steps, WATCHED, UNCALIBRATED)
    assert judgement.choice == "N"
    assert judgement.probability == pytest.approx(0.9 * 0.8 * 0.7 * 0.6)


def test_a_repeated_marker_keeps_its_first_verdict() -> None:
    steps = thought({"A": ("normal", 0.8), "B": ("shadow", 0.1), "C": ("shadow", 0.1), "D": ("shadow", 0.1)}, "A")
    steps.insert(-4, step("<A> "))
    steps.insert(-4, step("odd", normal=0.01))
    assert decide(read(steps, Mode.COT), steps, WATCHED, UNCALIBRATED).usable["A"] == pytest.approx(0.8)


def test_in_direct_mode_each_letter_is_read_where_it_could_be_named() -> None:
    # "AC": B's chance was the step that wrote C, D's the step that ended the list.
    steps = [step("A", A=0.7, B=0.1, N=0.05), step("C", B=0.2, C=0.75), step("", D=0.3)]
    judgement = decide(read(steps, Mode.DIRECT), steps, WATCHED, UNCALIBRATED)
    assert judgement.source is Source.LETTERS
    assert judgement.usable == pytest.approx({"A": 0.7, "B": 0.2, "C": 0.75, "D": 0.3})
    assert (judgement.choice, judgement.probability) == ("C", pytest.approx(0.75))


def test_in_direct_mode_none_is_the_letter_n() -> None:
    steps = [step("N", N=0.8, A=0.1), step("<|im_end|>")]
    judgement = decide(read(steps[:1], Mode.DIRECT), steps, WATCHED, UNCALIBRATED)
    assert (judgement.choice, judgement.probability) == ("N", pytest.approx(0.8))


def test_one_token_that_spells_two_letters_stands_for_both() -> None:
    steps = [step("AC", own=0.66)]
    judgement = decide(read(steps, Mode.DIRECT), steps, WATCHED, UNCALIBRATED)
    assert judgement.usable["A"] == judgement.usable["C"] == pytest.approx(0.66)


def test_verdicts_that_cannot_be_found_leave_the_letters() -> None:
    steps = [step("<think>"), step("they look fine"), step("</think>"), step("<answer>"), step("B", A=0.2, B=0.6)]
    steps.append(step("</answer>"))
    judgement = decide(read(steps, Mode.COT), steps, WATCHED, UNCALIBRATED)
    assert judgement.source is Source.LETTERS and judgement.probability == pytest.approx(0.6)


def test_without_log_probabilities_nothing_is_known() -> None:
    judgement = decide(Answer(frozenset("BD")), [], WATCHED, UNCALIBRATED)
    assert (judgement.choice, judgement.confidence, judgement.source) == ("B", 0.0, Source.NOWHERE)


def test_log_probabilities_of_nan_give_no_confidence() -> None:
    steps = [Step("A", 1, {1: math.nan})]
    assert decide(read(steps, Mode.DIRECT), steps, WATCHED, UNCALIBRATED).confidence == 0.0


@pytest.mark.parametrize(("first", "second"), [(math.nan, 0.9), (0.9, math.nan)])
def test_a_verdict_of_nan_gives_no_confidence_wherever_it_stands(first: float, second: float) -> None:
    verdicts = {"A": ("normal", first), "B": ("normal", second), "C": ("shadow", 0.1), "D": ("shadow", 0.1)}
    steps = thought(verdicts, "AB")
    judgement = decide(read(steps, Mode.COT), steps, WATCHED, UNCALIBRATED)
    assert (judgement.source, judgement.confidence) == (Source.NOWHERE, 0.0)


def test_none_after_verdicts_of_nan_has_no_confidence() -> None:
    steps = thought(dict.fromkeys("ABCD", ("shadow", math.nan)), "N")
    judgement = decide(read(steps, Mode.COT), steps, WATCHED, UNCALIBRATED)
    assert (judgement.source, judgement.confidence) == (Source.NOWHERE, 0.0)


def test_a_picture_and_none_have_curves_of_their_own() -> None:
    halved = Curve(slope=1.0, intercept=-math.log(4))
    calibration = Calibration(option=halved, none=Curve(knots=((-15.0, 0.499999), (15.0, 0.500001))))
    steps = [step("B", B=0.8), step("</answer>")]
    judgement = decide(read(steps[:1], Mode.DIRECT), steps, WATCHED, calibration)
    assert (judgement.probability, judgement.confidence) == (pytest.approx(0.8), pytest.approx(0.5))
    steps = [step("N", N=0.8), step("</answer>")]
    assert decide(read(steps[:1], Mode.DIRECT), steps, WATCHED, calibration).confidence == pytest.approx(0.5)


def test_every_option_and_none_have_a_calibrated_probability() -> None:
    verdicts = {"A": ("normal", 0.6), "B": ("shadow", 0.1), "C": ("normal", 0.75), "D": ("layout", 0.2)}
    steps = thought(verdicts, "AC")
    calibration = Calibration(shifts=Shifts(A=math.log(4)), option=Curve(intercept=-math.log(3)), none=Curve(slope=2.0))
    judgement = decide(read(steps, Mode.COT), steps, WATCHED, calibration)
    probabilities = option_probabilities(judgement, calibration)
    # Odds: A 3/2 * 4 / 3, B 1/9 / 3, C 3 / 3, D 1/4 / 3; none 0.4 * 0.9 * 0.25 * 0.8 = 0.072, its odds squared.
    odds = 0.072 / 0.928
    expected = {"A": 2 / 3, "B": 1 / 28, "C": 1 / 2, "D": 1 / 13, "N": odds**2 / (1 + odds**2)}
    assert probabilities == pytest.approx(expected)
    assert probabilities[judgement.choice] == judgement.confidence


def test_an_unreadable_answer_has_no_probability() -> None:
    steps = thought({"A": ("normal", 0.8), "C": ("normal", 0.7)}, "AC")
    judgement = decide(read(steps, Mode.COT), steps, WATCHED, UNCALIBRATED)
    assert option_probabilities(judgement, UNCALIBRATED) == pytest.approx({"A": 0.8, "C": 0.7})
    assert option_probabilities(decide(Answer(frozenset()), [], WATCHED, UNCALIBRATED), UNCALIBRATED) == {}
    steps = [Step("A", 1, {1: math.log(0.7), 5: math.nan}), Step("", 99, {2: math.nan, 3: math.log(0.2)})]
    judgement = decide(read(steps, Mode.DIRECT), steps, WATCHED, UNCALIBRATED)
    assert option_probabilities(judgement, UNCALIBRATED) == pytest.approx({"A": 0.7, "C": 0.2})


@pytest.mark.slow
@given(st.lists(st.text(alphabet="<>ABCDN/answerthik normal:,.", max_size=8), max_size=40))
def test_any_pieces_are_survived(pieces: list[str]) -> None:
    steps = [step(piece, A=0.5, B=0.5, C=0.5, D=0.5, N=0.5, normal=0.5) for piece in pieces]
    for mode in Mode:
        answer = parse("".join(pieces), mode)
        if isinstance(answer, Answer):
            judgement = decide(answer, steps, WATCHED, UNCALIBRATED)
            assert judgement.choice in (answer.options or {"N"}) and 0 <= judgement.confidence <= 1
