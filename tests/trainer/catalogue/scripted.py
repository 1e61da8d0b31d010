"""An engine with scripted answers, as `--engine` names it, and data sets of small plain pictures.

A question is known by the colour of its original, which is its number. Environment variables make the engine wait, or
make it or its process die at a question.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from screening.answer import Mode
from screening.checkpoint.manifest import Manifest
from screening.errors import UserError
from screening.inference.generation import Watched
from tests.trainer.scripted_engine import LETTERS, make_checkpoint
from trainer.evaluation.evaluate.errors import Unfinished
from trainer.evaluation.evaluate.generate import OfflineEngine, Pictures, Reply

ENGINE = "tests.trainer.catalogue.scripted:open_engine"
TURNS = "CATALOGUE_TEST_TURNS"
"""The engines of a run answer one block for each turn in this folder, and then wait until they are killed."""
FAILS_AT = "CATALOGUE_TEST_FAILS_AT"
DIES_AT = "CATALOGUE_TEST_DIES_AT"
START_ERROR = "CATALOGUE_TEST_START_ERROR"
BOX = " <box>[[250, 400, 500, 600]]</box>"
"""Where the engine sees the fault of each picture, if it is asked."""
LETTERS_OF_ANSWERS = ("A", "B", "C", "D", "N", "?")

__all__ = ["ENGINE", "give_turns", "make_checkpoint", "open_engine", "picture", "question", "write_questions"]


@contextmanager
def open_engine(_checkpoint: Path, _manifest: Manifest, mode: Mode, *, locate: bool = False) -> Iterator[OfflineEngine]:
    """Start the scripted engine."""
    if error := os.environ.get(START_ERROR):
        raise UserError(error)
    yield OfflineEngine(lambda questions: _ask(questions, mode, locate), Watched(LETTERS.letters, frozenset()))


def give_turns(turns: Path, count: int) -> None:
    """Let the engines answer this number of blocks."""
    turns.mkdir(exist_ok=True)
    for _ in range(count):
        (turns / uuid4().hex).touch()


def _take_turn(turns: Path) -> None:
    while True:
        for turn in turns.iterdir():
            with suppress(FileNotFoundError):  # another engine took it
                turn.unlink()
                return
        time.sleep(0.01)


def _ask(questions: Sequence[Pictures], mode: Mode, locate: bool) -> list[Reply]:
    if turns := os.environ.get(TURNS):
        _take_turn(Path(turns))
    numbers = [_number(pictures[0]) for pictures in questions]
    for number in numbers:
        if str(number) == os.environ.get(DIES_AT):
            os.kill(os.getpid(), signal.SIGKILL)
        if str(number) == os.environ.get(FAILS_AT):
            raise Unfinished("the engine died")
    return [_reply(number, mode, BOX if locate else "") for number in numbers]


def _reply(number: int, mode: Mode, box: str) -> Reply:
    letter = LETTERS_OF_ANSWERS[number % len(LETTERS_OF_ANSWERS)]
    verdicts = ", ".join(f"<{one}> {'normal' if one == letter else f'shadow: too dark{box}'}" for one in "ABCD")
    cot = f"<think>I observed {verdicts}, so I ultimately chose {letter}.</think><answer>{letter}</answer>"
    return Reply(cot if mode is Mode.COT else letter, "stop", (), prompt_tokens=10, completion_tokens=5)


def _number(picture: Image.Image) -> int:
    red, green, _ = picture.getpixel((16, 16))  # type: ignore[misc]
    return int(red) * 256 + int(green)


def picture(number: int = 0, side: int = 40) -> bytes:
    """A picture file of one colour."""
    target = BytesIO()
    Image.new("RGB", (side, side), (number // 256, number % 256, 7)).save(target, "PNG")
    return target.getvalue()


def question(number: int, **changed: Any) -> dict[str, Any]:
    """A record whose pictures are bytes."""
    row = {"id": f"p{number}", "original": picture(number), **{one: picture(1) for one in "abcd"}, "price": number}
    return {**row, **changed}


def write_questions(path: Path, rows: Sequence[dict[str, Any]], **options: Any) -> Path:
    """Write records as a Parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path, **options)
    return path
