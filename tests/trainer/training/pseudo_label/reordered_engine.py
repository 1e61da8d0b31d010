"""A scripted engine that recognises the order in which it is shown the pictures of `tests.trainer.coloured`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from screening.answer import Mode
from screening.checkpoint.manifest import Manifest
from screening.inference.generation import Step
from screening.task import NONE, OPTIONS, options_text
from tests.trainer.coloured import shown, thought
from tests.trainer.scripted_engine import LETTERS, SIZE
from trainer.evaluation.evaluate.errors import Unfinished
from trainer.evaluation.evaluate.generate import OfflineEngine, Pictures, Reply

Speak = Callable[[int, str], tuple[str, float]]
"""(number of the sample, order shown) → (letters of the answer, by position, and the probability of each token)."""


def at_positions(label: str, order: str) -> str:
    """A label of the data as positions of an order."""
    return options_text(OPTIONS[order.index(letter)] for letter in label if letter != NONE)


def truthful(labels: Sequence[str], probability: float = 0.95) -> Speak:
    """A model that sees the pictures: it gives the right label in every order."""
    return lambda number, order: (at_positions(labels[number], order), probability)


class ReorderedEngine:
    """Opens engines that answer as `speak` says, and remembers what they were asked."""

    def __init__(self, speak: Speak, *, fail_after: int | None = None, domain_score: float | None = None) -> None:
        self.speak = speak
        self.fail_after = fail_after
        self.domain_score = domain_score
        self.asked: list[tuple[int, str]] = []
        self.opened = 0

    @contextmanager
    def __call__(self, _checkpoint: Path, _manifest: Manifest, mode: Mode) -> Iterator[OfflineEngine]:
        self.opened += 1
        yield OfflineEngine(lambda questions: self.ask(questions, mode), LETTERS)

    def ask(self, questions: Sequence[Pictures], mode: Mode) -> list[Reply]:
        if self.fail_after is not None and len(self.asked) + len(questions) > self.fail_after:
            raise Unfinished("the engine died")
        return [self.reply(pictures, mode) for pictures in questions]

    def reply(self, pictures: Pictures, mode: Mode) -> Reply:
        seen = [shown(picture.getpixel((SIZE // 2, SIZE // 2))) for picture in pictures]  # type: ignore[arg-type]
        number = seen[0][0]
        assert {one for one, _ in seen} == {number}
        assert seen[0][1] == 0, "the original comes first in every order"
        order = "".join(OPTIONS[place - 1] for _, place in seen[1:])
        self.asked.append((number, order))
        letters, probability = self.speak(number, order)
        text = thought(letters) if mode is Mode.COT and set(letters) <= {*OPTIONS, NONE} else letters
        return Reply(text, "stop", _steps(text, probability), 100, len(text), self.domain_score)


def _steps(text: str, probability: float) -> tuple[Step, ...]:
    """One token per character, each of this probability."""
    ids = {**LETTERS.letters}
    return tuple(
        Step(character, (token := ids.get(character, 99)), dict.fromkeys({token, *ids.values()}, math.log(probability)))
        for character in text
    )
