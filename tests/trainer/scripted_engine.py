"""An engine with scripted answers that replaces vLLM, and a checkpoint for it. It checks its input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from screening.answer import Mode
from screening.checkpoint.directory import write_manifest
from screening.checkpoint.manifest import Decoding, ImageContract, Manifest
from screening.inference.generation import Watched
from screening.prompt import COMPACT, Prompt
from tests.trainer.coloured import shown
from trainer.evaluation.evaluate.errors import Unfinished
from trainer.evaluation.evaluate.generate import OfflineEngine, Pictures, Reply

SIZE = 32
SQUARE = ImageContract(size=SIZE, tokens_per_picture=4)
LETTERS = Watched(letters={"A": 1, "B": 2, "C": 3, "D": 4, "N": 5}, normal=frozenset())

Speak = Callable[[int], str]
"""The answer of the scripted model to the sample of this number."""


def make_checkpoint(directory: Path, weights: str = "weights", prompt: Prompt = COMPACT) -> Path:
    """A complete checkpoint, without the model."""
    directory.mkdir()
    (directory / "model.safetensors").write_text(weights)
    contract: dict[str, Any] = {"prompt": prompt, "image": SQUARE}
    write_manifest(directory, name="scripted", version="1", decoding=Decoding(), **contract)
    return directory


class Scripted:
    """Opens scripted engines and remembers which samples they were asked about."""

    def __init__(self, speak: Speak, *, fail_after: int | None = None) -> None:
        self.speak = speak
        self.fail_after = fail_after
        self.asked: list[int] = []
        self.opened = 0

    @contextmanager
    def __call__(self, _checkpoint: Path, _manifest: Manifest, _mode: Mode) -> Iterator[OfflineEngine]:
        self.opened += 1
        yield OfflineEngine(self.ask, LETTERS)

    def ask(self, questions: Sequence[Pictures]) -> list[Reply]:
        if self.fail_after is not None and len(self.asked) + len(questions) > self.fail_after:
            raise Unfinished("the engine died")
        return [self.reply(pictures) for pictures in questions]

    def reply(self, pictures: Pictures) -> Reply:
        seen = [shown(picture.getpixel((SIZE // 2, SIZE // 2))) for picture in pictures]  # type: ignore[arg-type]
        number = seen[0][0]
        assert seen == [(number, place) for place in range(5)]
        assert {picture.size for picture in pictures} == {(SIZE, SIZE)}
        self.asked.append(number)
        text = self.speak(number)
        return Reply(text, "stop", (), prompt_tokens=100, completion_tokens=len(text))
