"""The reward, compared with values calculated by hand from eq. 6 and 7 of the paper."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from screening.answer import Mode, parse
from screening.errors import UserError
from trainer.judged import correct
from trainer.records import Sample
from trainer.reward import (
    REWARDS,
    RewardFunction,
    completion_text,
    format_reward,
    reward_functions,
    score,
    score_dpa,
    score_exact,
    score_format,
)


def cot(answer: str, think: str = "I observed <A> normal: fine") -> str:
    return f"<think>{think}</think><answer>{answer}</answer>"


# completion, label, r_fmt, r_acc (DPA), r_acc (exact); the fraction is len(response) / len(answer).
CASES = [
    # The paper's own examples: label ABC, then label N.
    pytest.param(cot("A"), "ABC", 1, Fraction(1, 3), 0, id="A of ABC: 1/3"),
    pytest.param(cot("AC"), "ABC", 1, Fraction(2, 3), 0, id="AC of ABC: 2/3"),
    pytest.param(cot("ABC"), "ABC", 1, 1, 1, id="ABC of ABC: 3/3"),
    pytest.param(cot("AD"), "ABC", 1, 0, 0, id="AD of ABC: D is wrong, 0"),
    pytest.param(cot("N"), "ABC", 1, 0, 0, id="N of ABC: N is no option of it, 0"),
    pytest.param(cot("N"), "N", 1, 1, 1, id="N of N: 1/1"),
    pytest.param(cot("A"), "N", 1, 0, 0, id="A of N: 0"),
    # Every length of label against every length of a right answer.
    pytest.param(cot("A"), "A", 1, 1, 1, id="1/1"),
    pytest.param(cot("B"), "BD", 1, Fraction(1, 2), 0, id="1/2"),
    pytest.param(cot("BD"), "BD", 1, 1, 1, id="2/2"),
    pytest.param(cot("D"), "ACD", 1, Fraction(1, 3), 0, id="1/3"),
    pytest.param(cot("CD"), "ACD", 1, Fraction(2, 3), 0, id="2/3"),
    pytest.param(cot("C"), "ABCD", 1, Fraction(1, 4), 0, id="1/4"),
    pytest.param(cot("AD"), "ABCD", 1, Fraction(2, 4), 0, id="2/4"),
    pytest.param(cot("BCD"), "ABCD", 1, Fraction(3, 4), 0, id="3/4"),
    pytest.param(cot("ABCD"), "ABCD", 1, 1, 1, id="4/4"),
    # One wrong option gives 0, however many others are right.
    pytest.param(cot("B"), "A", 1, 0, 0, id="B of A: 0"),
    pytest.param(cot("AB"), "A", 1, 0, 0, id="AB of A: not 2/1 but 0"),
    pytest.param(cot("ABCD"), "ABC", 1, 0, 0, id="ABCD of ABC: not 4/3 but 0"),
    pytest.param(cot("ABCD"), "N", 1, 0, 0, id="ABCD of N: 0"),
    pytest.param(cot("BC"), "AD", 1, 0, 0, id="BC of AD: 0"),
    # Options are a set: order, case, separators and repetition do not matter.
    pytest.param(cot("CBA"), "ABC", 1, 1, 1, id="order: 3/3"),
    pytest.param(cot("a"), "AB", 1, Fraction(1, 2), 0, id="lower case: 1/2"),
    pytest.param(cot("n"), "N", 1, 1, 1, id="lower case n: 1/1"),
    pytest.param(cot("A, C"), "AC", 1, 1, 1, id="comma: 2/2"),
    pytest.param(cot(" A & C "), "ACD", 1, Fraction(2, 3), 0, id="ampersand: 2/3"),
    pytest.param(cot("AAC"), "AC", 1, 1, 1, id="repetition: 2/2, not 3/2"),
    pytest.param(cot("AAAA"), "ABCD", 1, Fraction(1, 4), 0, id="repetition: 1/4, not 4/4"),
    pytest.param(cot("NN"), "N", 1, 1, 1, id="repeated N: 1/1"),
    pytest.param(cot("A"), "CA", 1, Fraction(1, 2), 0, id="label in another order: 1/2"),
    # The form is right but the options cannot be read: only r_fmt.
    pytest.param(cot(""), "A", 1, 0, 0, id="empty answer: 0/1"),
    pytest.param(cot("  "), "N", 1, 0, 0, id="blank answer is not N: 0"),
    pytest.param(cot("E"), "A", 1, 0, 0, id="unknown letter: 0"),
    pytest.param(cot("AE"), "A", 1, 0, 0, id="an option and an unknown letter: 0"),
    pytest.param(cot("NA"), "A", 1, 0, 0, id="N with an option: 0"),
    pytest.param(cot("none"), "N", 1, 0, 0, id="a word in place of N: 0"),
    pytest.param(cot("the best is A"), "A", 1, 0, 0, id="a sentence: 0"),
    # Readable and well formed, whatever the thinking contains.
    pytest.param(cot("A", think=""), "A", 1, 1, 1, id="empty thinking: 1/1"),
    pytest.param(cot("A", think="B\nC\nso D"), "A", 1, 1, 1, id="letters and line breaks in the thinking: 1/1"),
    pytest.param(f"\n {cot('A')} \n", "A", 1, 1, 1, id="white space around: 1/1"),
    pytest.param("<think>x</think>\n\n<answer>A</answer>", "A", 1, 1, 1, id="white space between: 1/1"),
    # Not the form: nothing is read, nothing is earned.
    pytest.param("", "A", 0, 0, 0, id="empty text"),
    pytest.param(" \n", "N", 0, 0, 0, id="blank text"),
    pytest.param("A", "A", 0, 0, 0, id="bare letter"),
    pytest.param("<answer>A</answer>", "A", 0, 0, 0, id="no thinking"),
    pytest.param("<think>x</think>", "A", 0, 0, 0, id="no answer"),
    pytest.param("<think>x</think><answer>A", "A", 0, 0, 0, id="cut at the token limit"),
    pytest.param("<think>x<answer>A</answer>", "A", 0, 0, 0, id="thinking left open"),
    pytest.param("<answer>A</answer><think>x</think>", "A", 0, 0, 0, id="wrong way round"),
    pytest.param("Sure! " + cot("A"), "A", 0, 0, 0, id="text before"),
    pytest.param(cot("A") + " Done.", "A", 0, 0, 0, id="text behind"),
    pytest.param(cot("A") + cot("A"), "A", 0, 0, 0, id="twice"),
    pytest.param("<think>x</think><answer>A</answer><answer>B</answer>", "A", 0, 0, 0, id="two answers"),
    pytest.param("<think>x<think>y</think></think><answer>A</answer>", "A", 0, 0, 0, id="nested thinking"),
    pytest.param(cot("<answer>A</answer>"), "A", 0, 0, 0, id="nested answer"),
    pytest.param("<THINK>x</THINK><ANSWER>A</ANSWER>", "A", 0, 0, 0, id="tags in capitals"),
]


@pytest.mark.parametrize(("text", "label", "form", "dpa", "exact"), CASES)
def test_rewards_equal_those_calculated_by_hand(
    text: str, label: str, form: int, dpa: Fraction | int, exact: int
) -> None:
    assert score_format(text) == form
    assert score_dpa(text, label) == pytest.approx(float(dpa), abs=1e-12)
    assert score_exact(text, label) == exact
    assert score(text, label) == pytest.approx(float(form + dpa), abs=1e-12)
    assert score(text, label, "exact") == form + exact


@pytest.mark.parametrize("label", ["", "E", "AN", "no label"])
def test_a_label_that_is_not_a_set_of_options_is_refused(label: str) -> None:
    for rate in (score, score_dpa, score_exact):
        with pytest.raises(ValueError, match="label"):
            rate(cot("A"), label)


LABELS = st.sets(st.sampled_from("ABCD")).map(lambda letters: "".join(sorted(letters)) or "N")
TEXTS = st.one_of(
    st.text(max_size=40),
    st.lists(
        st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "A", "B", "N", "E", " ", "x"]), max_size=9
    ).map("".join),
    st.text("ABCDNE ,", max_size=6).map(cot),
)


@pytest.mark.slow
@given(TEXTS, LABELS)
def test_rewards_stay_in_their_bounds(text: str, label: str) -> None:
    assert score_format(text) in (0, 1)
    assert score_exact(text, label) in (0, 1)
    assert 0 <= score_dpa(text, label) <= 1
    assert score_exact(text, label) <= score_dpa(text, label)


@given(TEXTS, LABELS)
def test_accuracy_is_rewarded_only_for_well_formed_answers_that_the_evaluation_calls_correct(
    text: str, label: str
) -> None:
    if score_dpa(text, label) > 0:
        assert score_format(text) == 1
        assert correct(parse(text, Mode.COT).options, frozenset(label) - {"N"})  # type: ignore[union-attr]


@given(LABELS, LABELS)
def test_only_the_exact_set_earns_the_maximum(named: str, label: str) -> None:
    assert (score(cot(named), label) == 2) == (named == label)
    assert (score(cot(named), label, "exact") == 2) == (named == label)


@pytest.mark.slow
@given(LABELS, LABELS, st.randoms(use_true_random=False))
def test_order_case_and_repetition_do_not_matter(named: str, label: str, rng) -> None:
    letters = [rng.choice([letter, letter.lower()]) for letter in named for _ in range(rng.randint(1, 3))]
    rng.shuffle(letters)
    separated = rng.choice(["", " ", ", ", "/"]).join(letters)
    for kind in ("dpa", "exact"):
        assert score(cot(separated), label, kind) == score(cot(named), label, kind)


@given(LABELS, LABELS, st.sampled_from("ABCD"))
def test_a_wrong_option_more_never_raises_the_reward(named: str, label: str, extra: str) -> None:
    if extra not in label:
        more = "".join(sorted({*named, extra} - {"N"}))
        assert score_dpa(cot(more), label) == 0
        assert score_exact(cot(more), label) == 0


@given(LABELS, LABELS, st.sampled_from("ABCD"))
def test_a_right_option_more_raises_the_reward_by_its_share(named: str, label: str, extra: str) -> None:
    if extra in label and extra not in named and set(named) <= set(label):
        more = "".join(sorted({*named, extra}))
        assert score_dpa(cot(more), label) == pytest.approx(score_dpa(cot(named), label) + 1 / len(label))


SAMPLES = {
    label: Sample.model_validate({"id": label, "original": "o.jpg", "generated": [*"abcd"], "label": label})
    for label in ("AC", "ABC")
}


def accuracy(name: str) -> RewardFunction:
    """r_acc as TRL calls it, of samples whose id is their label."""
    return reward_functions(name, SAMPLES)[1]


def message(content: object) -> list[dict[str, object]]:
    return [{"role": "assistant", "content": content}]


@pytest.mark.parametrize(
    "completion",
    [
        cot("AC"),
        message(cot("AC")),
        message([{"type": "text", "text": cot("AC")}]),
        message([{"type": "text", "text": "<think>x</think>"}, {"type": "text", "text": "<answer>AC</answer>"}]),
    ],
    ids=["text", "message", "parts", "several parts"],
)
def test_completions_are_read_in_every_form_that_trl_uses(completion) -> None:
    kwargs = {"prompts": ["?"], "completion_ids": [[1]], "label": ["ABC"], "trainer_state": None, "id": ["ABC"]}
    assert format_reward(completions=[completion], **kwargs) == [1.0]
    assert accuracy("dpa")(completions=[completion], **kwargs) == [pytest.approx(2 / 3)]
    assert accuracy("exact")(completions=[completion], **kwargs) == [0.0]


def test_a_group_gets_one_reward_per_completion_in_order() -> None:
    group, ids = [cot("A"), cot("AC"), cot("AD"), "A"], ["AC"] * 4
    assert accuracy("dpa")(group, id=ids) == [0.5, 1.0, 0.0, 0.0]
    assert accuracy("exact")(group, id=ids) == [0.0, 1.0, 0.0, 0.0]
    assert format_reward(group, id=ids) == [1.0, 1.0, 1.0, 0.0]


def test_ids_and_completions_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="shorter"):
        accuracy("dpa")([cot("A"), cot("B")], id=["AC"])


def test_without_ids_nothing_is_rewarded_silently() -> None:
    with pytest.raises(TypeError):
        accuracy("dpa")([cot("A")])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.5, 1.5, None, "much"])
def test_a_reward_that_is_not_a_number_between_0_and_1_is_an_error(value, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.reward.score_dpa", lambda _text, label: value if label == "ABC" else 1)
    assert accuracy("dpa")([cot("A")], id=["AC"]) == [1.0]
    with pytest.raises(UserError, match=f"reward 'dpa' gave {value!r} for a completion of sample 'ABC'"):
        accuracy("dpa")([cot("A"), cot("A")], id=["AC", "ABC"])


def test_the_rounding_of_a_sum_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.reward.score_dpa", lambda _text, _label: 1 + 2**-52)
    assert accuracy("dpa")([cot("A")], id=["AC"]) == [pytest.approx(1)]


@pytest.mark.parametrize("completion", [[], message(None), message([{"type": "image"}]), [{"role": "user"}]])
def test_a_completion_without_text_is_an_error_not_a_zero(completion) -> None:
    with pytest.raises(TypeError):
        completion_text(completion)


@pytest.mark.parametrize("kind", REWARDS)
def test_the_functions_for_trl_add_up_to_the_reward_under_readable_names(kind) -> None:
    functions = reward_functions(kind, SAMPLES)
    assert [function.__name__ for function in functions] == ["format_reward", f"{kind}_reward"]
    for text in (cot("A"), cot("AC"), cot("E"), "A", ""):
        assert sum(function([text], id=["AC"])[0] for function in functions) == score(text, "AC", kind)
