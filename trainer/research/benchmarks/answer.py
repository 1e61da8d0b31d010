"""Parse a model's output as the answer to a benchmark's question.

The strict form is the one that the prompt asks for: the letter alone (`B`, `(B)`, `B.`), or one word or number. In CoT
mode it is inside `<think>…</think><answer>…</answer>` with no other text. General models add words, so other forms are
accepted too, in this order:

1. CoT: the only `<answer>…</answer>`, with any text around it (also in Direct mode, if there is one).
2. The letter in lower case, or in bold (`**B**`).
3. `Answer: B`, `the answer is (B)`; all such phrases must name the same letter.
4. The letter followed by words: `B. Left`, `(B) the second image`. Not `A man`, because a letter without a mark can be
   a word. Unless they are the option's own, the words must not name another option: `(A) or (B)`, `A. No, B.`
5. The words of exactly one option and nothing else.

Short answers are compared in lower case without a full stop, quotes or bold, and with zero to ten as digits; a leading
`Answer:` or `The answer is` is removed. Any other output is unreadable and counts as wrong. Some evaluation code for
these benchmarks draws a random answer instead, which rewards outputs without an answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from screening.answer import Mode, Reason, Unreadable
from trainer.research.benchmarks.questions import PICTURE, Question
from trainer.reward import score_format


@dataclass(frozen=True, slots=True)
class Read:
    """A readable answer: a letter, or a short answer in its normal form for comparison."""

    answer: str
    strict: bool
    """Whether the output has exactly the requested form."""


_NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
}
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_LETTER = re.compile(r"\(?([A-Z])\)?[.:]?")
_LETTER_AND_WORDS = re.compile(r"(?:\(([A-Z])\)|([A-Z])[.:)])\s+(\S.*)", re.DOTALL)
_ANNOUNCED = re.compile(r"\banswer(?:\s+is|\s*:|\s+is\s*:)\s*(?:option\s+)?\(?([A-Z])(?:\)|(?![\w'’]))", re.IGNORECASE)
_ANNOUNCEMENT = re.compile(r"^(?:the\s+)?(?:final\s+)?answer(?:\s+is)?\s*:?\s+", re.IGNORECASE)
_WRAPPING = " \t\r\n*`\"'“”"


def read(text: str, question: Question, mode: Mode) -> Read | Unreadable:
    """Parse a complete output."""
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
    """Whether an answer is correct."""
    if isinstance(result, Unreadable):
        return False
    return result.answer == (question.answer if question.options else normalised(question.answer))


def normalised(text: str) -> str:
    """The normal form of a short answer for comparison: `" Two. "` → `2`."""
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
    # The letter must be a capital, because "the answer is a man" names no option.
    announced = {match[1] for match in _ANNOUNCED.finditer(text.replace("*", "")) if match[1].isupper()}
    if len(announced) > 1:
        return Unreadable(Reason.CONTRADICTION, f"The output announces {' and '.join(sorted(announced))}.")
    if announced:
        return _known(announced.pop(), question, strict=False)
    if match := _LETTER_AND_WORDS.fullmatch(bare):
        return _with_words(match[1] or match[2], match[3], question)
    wanted = normalised(bare)
    same = [
        letter
        for letter, option in zip(question.letters, question.options, strict=True)
        if option != PICTURE and normalised(option) == wanted
    ]
    if len(same) == 1:
        return Read(same[0], strict=False)
    return Unreadable(
        Reason.UNKNOWN_OPTION, f"The output {bare[:40]!r} does not name one of {', '.join(question.letters)}."
    )


def _with_words(letter: str, words: str, question: Question) -> Read | Unreadable:
    """The letter that an output begins with, if the words after it name no other option."""
    known = _known(letter, question, strict=False)
    if isinstance(known, Unreadable):
        return known
    own = question.options[question.letters.index(letter)]
    other = f"(?!{letter})[{question.letters}]"
    named = re.search(rf"\({other}\)|(?<!\w){other}(?:[.:)]|$)|\bor\s+{other}\b", words.replace("*", ""))
    if named and normalised(words) != normalised(own):
        return Unreadable(Reason.CONTRADICTION, f"The output begins with {letter} and then names {named[0]!r}.")
    return known


def _known(letter: str, question: Question, *, strict: bool) -> Read | Unreadable:
    if letter in question.letters:
        return Read(letter, strict)
    return Unreadable(Reason.UNKNOWN_OPTION, f"The output names {letter}, which is not one of {question.letters}.")
