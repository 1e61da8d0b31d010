"""Reading a model's output as the answer to a benchmark's question.

Strict is what was asked for: the letter alone (`B`, `(B)`, `B.`), or one word or number; in CoT mode inside
`<think>…</think><answer>…</answer>` and nothing else. General models add words, so more is understood, in this order:

1. CoT: the one `<answer>…</answer>`, whatever stands around it (in Direct mode too, where there is one).
2. The letter in lower case, or in bold (`**B**`).
3. The letter with the option's words behind it: `B. Left`, `(B) the second image`. Not `A man`: without a mark the
   letter can be a word.
4. `Answer: B`, `the answer is (B)`; all such places must name the same letter.
5. The words of exactly one option and nothing else.

A short answer is compared without case, a full stop, quotes or bold, and with zero to ten as digits; `Answer:` or
`The answer is` before it is dropped. Anything else is unreadable and counts as wrong. Nothing is drawn at random, as
some evaluation code of these benchmarks does: that pays for answers that say nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from screening.answer import Mode, Reason, Unreadable
from trainer.research.benchmarks.questions import PICTURE, Question
from trainer.reward import score_format


@dataclass(frozen=True, slots=True)
class Read:
    """A readable answer: a letter, or a short answer in the form in which it is compared."""

    answer: str
    strict: bool
    """Exactly as asked for."""


_NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
}
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_LETTER = re.compile(r"\(?([A-Z])\)?[.:]?")
_LETTER_AND_WORDS = re.compile(r"(?:\(([A-Z])\)|([A-Z])[.:)])\s+\S.*", re.DOTALL)
_ANNOUNCED = re.compile(r"\banswer(?:\s+is|\s*:|\s+is\s*:)\s*(?:option\s+)?\(?([A-Z])(?:\)|(?![\w'’]))", re.IGNORECASE)
_ANNOUNCEMENT = re.compile(r"^(?:the\s+)?(?:final\s+)?answer(?:\s+is)?\s*:?\s+", re.IGNORECASE)
_WRAPPING = " \t\r\n*`\"'“”"


def read(text: str, question: Question, mode: Mode) -> Read | Unreadable:
    """Read a whole output."""
    if not text.strip():
        return Unreadable(Reason.EMPTY, "The output is empty.")
    tagged = _TAGGED.findall(text)
    if mode is Mode.COT and len(tagged) != 1:
        return Unreadable(Reason.NO_ANSWER, f"There are {len(tagged)} <answer>…</answer> parts, not one.")
    inner = tagged[0] if len(tagged) == 1 else text
    if not inner.strip(_WRAPPING):
        return Unreadable(Reason.EMPTY_ANSWER, "The answer is empty.")
    result = _letter(inner, question) if question.options else _short(inner)
    as_asked = bool(score_format(text)) if mode is Mode.COT else not tagged
    return Read(result.answer, result.strict and as_asked) if isinstance(result, Read) else result


def right(result: Read | Unreadable, question: Question) -> bool:
    """Whether an answer is the right one."""
    if isinstance(result, Unreadable):
        return False
    return result.answer == (question.answer if question.options else normalised(question.answer))


def normalised(text: str) -> str:
    """A short answer in the form in which it is compared: `" Two. "` → `2`."""
    word = " ".join(text.strip(_WRAPPING).casefold().split()).removesuffix(".").strip(_WRAPPING)
    return _NUMBERS.get(word, word)


def _short(text: str) -> Read:
    bare = text.strip(_WRAPPING)
    answer = _ANNOUNCEMENT.sub("", bare) or bare
    return Read(normalised(answer), strict=answer == text.strip())


def _letter(text: str, question: Question) -> Read | Unreadable:
    if match := _LETTER.fullmatch(text.strip()):
        return _known(match[1], question, strict=True)
    bare = text.strip(_WRAPPING)
    if match := _LETTER.fullmatch(bare.upper()):
        return _known(match[1], question, strict=False)
    if match := _LETTER_AND_WORDS.fullmatch(bare):
        return _known(match[1] or match[2], question, strict=False)
    # The letter itself must be a capital: "the answer is a man" announces no option.
    announced = {match[1] for match in _ANNOUNCED.finditer(text.replace("*", "")) if match[1].isupper()}
    if len(announced) > 1:
        return Unreadable(Reason.CONTRADICTION, f"The output announces {' and '.join(sorted(announced))}.")
    if announced:
        return _known(announced.pop(), question, strict=False)
    wanted = normalised(bare)
    same = [
        letter
        for letter, option in zip(question.letters, question.options, strict=True)
        if option != PICTURE and normalised(option) == wanted
    ]
    if len(same) == 1:
        return Read(same[0], strict=False)
    return Unreadable(Reason.UNKNOWN_OPTION, f"The output {bare[:40]!r} names none of {', '.join(question.letters)}.")


def _known(letter: str, question: Question, *, strict: bool) -> Read | Unreadable:
    if letter in question.letters:
        return Read(letter, strict)
    return Unreadable(Reason.UNKNOWN_OPTION, f"The output names {letter}, which is none of {question.letters}.")
