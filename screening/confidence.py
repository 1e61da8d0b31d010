"""Computes from log-probabilities how likely each option is usable, which option to choose, and how confident that is.

Two places of an answer carry information.

*The verdict* (chain of thought). After the first `<X>` marker, the model writes `normal` or what is wrong. If s is the
step that begins the verdict's word, then

    u(X) = sum of p_s(t) over the tokens t that begin "normal"

The letters in `<answer>` merely copy these verdicts: their probabilities are close to 1 for any verdict. So they are
used only if a verdict step was not found.

*The answer's letters* (direct mode, or verdicts not found). Letters come in order, so the model can name X only at the
step that generated the first letter from X onwards, or the end. If s is that step, then

    u(X) = p_s(X)          and       p(N) = p_s(N) at the first letter's step

*The choice* is the option with the highest u' among those that the answer names (the first one of equals). u' is u with
its log-odds shifted by the checkpoint's calibration for the position. The probability of the choice is

    P = u'(choice)                                 for an option
    P = product of (1 - u(X)) over A-D             for N, from verdicts
    P = p(N)                                       for N, from letters

*The confidence* is P mapped by a curve of the checkpoint's calibration (`screening.calibration`). An option and N have
separate curves. `option_probabilities` maps u'(X) of every option and P of N by the same curves, so that the value of
the chosen one equals the confidence.

Positions are found in the decoded text, because a tag or a marker may consist of several tokens.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from screening.answer import Answer
from screening.calibration import Calibration
from screening.inference.generation import Step, Watched
from screening.task import NONE, NORMAL, OPTIONS, Options

_MARKER = re.compile(r"<([A-D])>\s*")
_ANSWER = re.compile(r"<answer>\s*")
_LETTERS = re.compile(r"[A-DN\s,;/&+.]*", re.IGNORECASE)
"""Text that `screening.answer.parse_options` accepts. It ends before `</answer>` or an end-of-text token."""
_NORMAL_WORD = re.compile(rf"{NORMAL}\b", re.IGNORECASE)


class Source(StrEnum):
    """Place in the answer from which the probabilities were read."""

    VERDICTS = "verdicts"
    LETTERS = "letters"
    NOWHERE = "nowhere"


@dataclass(frozen=True, slots=True)
class Judgement:
    """The decision that a parsed answer leads to.

    `usable` contains the unshifted u(X) of each option for which it could be read, and `none` the P of N, if it could
    be read. `probability` is P before the calibration curve and `confidence` after it, both in [0, 1]. Both are 0 if
    `source` is NOWHERE, so that a person reviews the answer.
    """

    choice: str
    usable: Mapping[str, float]
    probability: float
    confidence: float
    source: Source
    none: float | None = None


def decide(answer: Answer, steps: Sequence[Step], watched: Watched, calibration: Calibration) -> Judgement:
    """Choose among the acceptable options and compute the confidence; see the module's docstring for the formulas."""
    verdicts = verdict_probabilities(steps, watched) if answer.reasoning is not None else {}
    needed = answer.options or frozenset(OPTIONS)
    if verdicts.keys() >= needed:
        whole = verdicts.keys() >= set(OPTIONS)
        none = math.prod(1.0 - verdicts[option] for option in OPTIONS) if whole else None
        return _judgement(answer, verdicts, none, Source.VERDICTS, calibration)
    letters, none = letter_probabilities(steps, watched)
    if letters.keys() >= answer.options and (answer.options or none is not None):
        return _judgement(answer, letters, none, Source.LETTERS, calibration)
    choice = min(answer.options) if answer.options else NONE
    return Judgement(choice, {}, 0.0, 0.0, Source.NOWHERE)


def choose(options: Options, usable: Mapping[str, float], calibration: Calibration) -> tuple[str, float]:
    """Choose one of the options that an answer names (at least one). Returns the option and its P.

    P is NaN if any of these options has NaN.
    """
    shifted = {option: calibration.shifts(option, usable[option]) for option in sorted(options)}
    # Which of two values `max` takes if one is NaN depends on their order, so NaN comes first here.
    choice = max(shifted, key=lambda option: (math.isnan(shifted[option]), shifted[option]))
    return choice, shifted[choice]


def option_probabilities(judgement: Judgement, calibration: Calibration) -> dict[str, float]:
    """Return the calibrated probabilities of the options and of `N`, without those that could not be read.

    The probability of an option is that its picture may be shown, and that of `N` that no picture may. They need not
    sum to 1, because several pictures may be usable. The curve for options was fitted on chosen options only.
    """
    read = {option: calibration.shifts(option, value) for option, value in judgement.usable.items()}
    found = {option: calibration.option.confidence(value) for option, value in read.items() if math.isfinite(value)}
    if judgement.none is not None and math.isfinite(judgement.none):
        found[NONE] = calibration.none.confidence(judgement.none)
    return found


def verdict_probabilities(steps: Sequence[Step], watched: Watched) -> dict[str, float]:
    """Return u(X) from the step after each option's first marker, without options for which it cannot be read."""
    text, starts = _layout(steps)
    body = text.partition("<answer>")[0]
    usable: dict[str, float] = {}
    for match in _MARKER.finditer(body):
        if match[1] in usable or match.end() >= len(body):
            continue
        index = _step_at(starts, match.end())
        if text[starts[index] : match.end()].strip():
            continue  # one token contains both the marker's end and the verdict, and such tokens are not watched
        step = steps[index]
        if (value := _normal_probability(step, watched, _NORMAL_WORD.match(body, match.end()) is not None)) is not None:
            usable[match[1]] = value
    return usable


def letter_probabilities(steps: Sequence[Step], watched: Watched) -> tuple[dict[str, float], float | None]:
    """Return u(X) of each option and p(N), read from the letters of the answer. p(N) is None if there is no letter."""
    text, starts = _layout(steps)
    opening = _ANSWER.search(text)
    begin = opening.end() if opening else 0
    inside = run[0] if (run := _LETTERS.match(text, begin)) else ""
    spelled = [
        (letter.upper(), steps[_step_at(starts, begin + at)])
        for at, letter in enumerate(inside)
        if letter.upper() in (*OPTIONS, NONE)
    ]
    if not spelled:
        return {}, None
    after = _step_after(steps, starts, begin + len(inside.rstrip()))
    usable: dict[str, float] = {}
    for option in OPTIONS:
        chance = next((step for letter, step in spelled if letter != NONE and letter >= option), after)
        named = any(letter == option for letter, _ in spelled)
        if chance is not None and (value := _letter_probability(chance, option, named, watched)) is not None:
            usable[option] = value
    first_letter, first_step = spelled[0]
    return usable, _letter_probability(first_step, NONE, first_letter == NONE, watched)


def _judgement(
    answer: Answer, usable: dict[str, float], none: float | None, source: Source, calibration: Calibration
) -> Judgement:
    choice, probability = choose(answer.options, usable, calibration) if answer.options else (NONE, none)
    if probability is None or not math.isfinite(probability):
        # Weights with NaN produce NaN log-probabilities, from which no confidence can be computed.
        return Judgement(choice, {}, 0.0, 0.0, Source.NOWHERE)
    curve = calibration.option if answer.options else calibration.none
    return Judgement(choice, usable, probability, curve.confidence(probability), source, none)


def _normal_probability(step: Step, watched: Watched, says_normal: bool) -> float | None:
    known = [step.logprobs[token] for token in watched.normal if token in step.logprobs]
    if known:
        total = math.fsum(math.exp(value) for value in known)
        return min(1.0, total) if math.isfinite(total) else math.nan  # min(1.0, nan) is 1.0
    # Without watched values, the generated token's own probability is u(X) if the word was `normal`.
    own = step.logprobs.get(step.token_id)
    return math.exp(own) if says_normal and own is not None else None


def _letter_probability(step: Step, letter: str, named: bool, watched: Watched) -> float | None:
    token = watched.letters.get(letter)
    # One token may contain several letters (`AC`). Its own probability then applies to each of them.
    own = step.logprobs.get(step.token_id) if named and len(step.piece.strip()) != 1 else None
    value = own if own is not None else step.logprobs.get(token) if token is not None else None
    return None if value is None else math.exp(value)


def _layout(steps: Sequence[Step]) -> tuple[str, list[int]]:
    """Return the whole text, and the offset at which the piece of each step begins."""
    starts, length = [], 0
    for step in steps:
        starts.append(length)
        length += len(step.piece)
    return "".join(step.piece for step in steps), starts


def _step_at(starts: Sequence[int], offset: int) -> int:
    """Return the index of the step whose piece contains the character at `offset`. Pieces may be empty."""
    return max(index for index, start in enumerate(starts) if start <= offset)


def _step_after(steps: Sequence[Step], starts: Sequence[int], offset: int) -> Step | None:
    """Return the first step that begins at or after `offset`, where the model ended the list of letters."""
    return next((step for step, start in zip(steps, starts, strict=True) if start >= offset), None)
