"""How outputs are parsed: the requested form, other accepted forms, and refused ones."""

from __future__ import annotations

import pytest

from screening.answer import Mode, Reason, Unreadable
from trainer.research.benchmarks.answer import Read, normalised, read, right
from trainer.research.benchmarks.prompt import messages
from trainer.research.benchmarks.questions import Question
from trainer.research.benchmarks.reward import reward_functions

CHOICE = Question(
    id="c",
    subtask="t",
    text="Look: <image> Which?\n(A) left\n(B) <image>\n(C) a man",
    files=("1.png", "2.png"),
    options=("left", "<image>", "a man"),
    answer="B",
)
OPEN = Question(id="o", subtask="t", text="<image>\nHow many?", files=("1.png",), options=(), answer="2")


@pytest.mark.parametrize(
    ("text", "letter", "strict"),
    [
        ("B", "B", True),
        (" B.\n", "B", True),
        ("(B)", "B", True),
        ("b", "B", False),
        ("**B**", "B", False),
        ("B. something", "B", False),
        ("(B) the second", "B", False),
        ("Answer: B", "B", False),
        ("The picture is blurred. The answer is (B).", "B", False),
        ("The correct answer is: **B**", "B", False),
        ("(A) is wrong. The answer is (B).", "B", False),
        ("B. The one that is a bit darker, i.e. the second", "B", False),
        ("B: (B) is sharper.", "B", False),
        ("The answer is B because A is wrong. Answer: B", "B", False),
        ("<answer>B</answer>", "B", False),
        ("Left.", "A", False),
        ("A man", "C", False),
    ],
)
def test_letters_are_read_in_documented_ways(text: str, letter: str, strict: bool) -> None:
    assert read(text, CHOICE, Mode.DIRECT) == Read(letter, strict)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", Reason.EMPTY),
        (" \n", Reason.EMPTY),
        ("<answer> </answer>", Reason.EMPTY_ANSWER),
        ("D", Reason.UNKNOWN_OPTION),
        ("A left turn", Reason.UNKNOWN_OPTION),
        ("the answer is a man with a hat", Reason.UNKNOWN_OPTION),
        ("AB", Reason.UNKNOWN_OPTION),
        ("<image>", Reason.UNKNOWN_OPTION),
        ("Neither left nor a man", Reason.UNKNOWN_OPTION),
        ("The answer is A. No, the answer is B.", Reason.CONTRADICTION),
        ("(A) or (B)", Reason.CONTRADICTION),
        ("A. No, B.", Reason.CONTRADICTION),
        ("A. No, **B**", Reason.CONTRADICTION),
        ("A. Left or B", Reason.CONTRADICTION),
        ("(D) or (B)", Reason.UNKNOWN_OPTION),
    ],
)
def test_an_answer_without_an_option_is_unreadable_and_never_drawn(text: str, reason: Reason) -> None:
    result = read(text, CHOICE, Mode.DIRECT)
    assert isinstance(result, Unreadable)
    assert result.reason is reason
    assert not right(result, CHOICE)


def test_the_words_of_an_option_may_name_other_options() -> None:
    options = ("a cat", "a dog", "both (A) and (B)")
    question = CHOICE.model_copy(update={"options": options, "answer": "C"})
    assert read("C. Both (A) and (B).", question, Mode.DIRECT) == Read("C", strict=False)
    assert isinstance(read("C. Both (A) and (B) are shown", question, Mode.DIRECT), Unreadable)


@pytest.mark.parametrize(
    ("text", "answer", "strict"),
    [
        ("<think>Two.</think><answer>B</answer>", "B", True),
        ("<think>Two.</think>\n<answer>b</answer>", "B", False),
        ("I see. <answer>(B)</answer>", "B", False),
    ],
)
def test_thinking_stands_before_one_tagged_answer(text: str, answer: str, strict: bool) -> None:
    assert read(text, CHOICE, Mode.COT) == Read(answer, strict)


@pytest.mark.parametrize("text", ["B", "<think>cut", "<answer>A</answer> or <answer>B</answer>"])
def test_without_one_tagged_answer_thinking_has_no_answer(text: str) -> None:
    result = read(text, CHOICE, Mode.COT)
    assert isinstance(result, Unreadable)
    assert result.reason is Reason.NO_ANSWER


@pytest.mark.parametrize("text", ["2", "2.", " Two ", '"two."', "Answer: 2", "The answer is two"])
def test_short_answers_are_compared_in_one_form(text: str) -> None:
    assert right(read(text, OPEN, Mode.DIRECT), OPEN)


@pytest.mark.parametrize("text", ["3", "2 cars", "twenty-two", "22"])
def test_other_short_answers_are_wrong(text: str) -> None:
    assert not right(read(text, OPEN, Mode.DIRECT), OPEN)


def test_short_answers_keep_their_words() -> None:
    assert normalised("  Stop  Sign. ") == "stop sign"
    assert normalised("3.5") == "3.5"


def test_pictures_stand_where_the_text_shows_them() -> None:
    content = messages(CHOICE, Mode.DIRECT)[0]["content"]
    shown = [part.get("text", "<image>").splitlines()[0] for part in content]
    assert shown == [
        "Look:",
        "<image>",
        "Which?",
        "<image>",
        "(C) a man",
        "Answer with the letter of the right option and nothing else.",
    ]
    assert "<think>" in messages(OPEN, Mode.COT)[0]["content"][-1]["text"]


def test_rewards_pay_for_form_and_for_the_right_answer() -> None:
    form, accuracy = reward_functions({"c": CHOICE, "o": OPEN}, Mode.DIRECT)
    texts, ids = ["B", "b", "A", "?", "2"], ["c", "c", "c", "c", "o"]
    assert form(completions=texts, id=ids, prompts=None) == [1, 0, 1, 0, 1]
    assert accuracy(completions=texts, id=ids) == [1, 1, 0, 0, 1]
    form, accuracy = reward_functions({"c": CHOICE}, Mode.COT)
    texts = ["<think>…</think><answer>B</answer>", "<answer>B</answer>", "<think>…</think><answer>A</answer>"]
    messages_of = [[{"role": "assistant", "content": text}] for text in texts]
    assert form(completions=messages_of, id=["c"] * 3) == [1, 0, 1]
    assert accuracy(completions=messages_of, id=["c"] * 3) == [1, 1, 0]
    assert [function.__name__ for function in (form, accuracy)] == ["format_reward", "answer_reward"]
