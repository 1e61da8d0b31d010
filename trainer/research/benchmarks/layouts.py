"""The published columns of three benchmarks, and pure functions that convert a row to a question.

Only these columns are read. docs/training/benchmarks.md gives the source of each column and the assumptions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from trainer.research.benchmarks.questions import PICTURE

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Found:
    """A question as published: the fields of `Question`, with the bytes of its pictures."""

    id: str
    subtask: str
    text: str
    pictures: tuple[bytes, ...]
    options: tuple[str, ...]
    answer: str
    counterpart: str | None = None
    """Id of a variant of this question, which must be in the same half."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The place of a benchmark's rows, and the way to read them."""

    title: str
    home: str
    """Name of the published data set."""
    files: str
    """Pattern of the parquet files with answers in the downloaded directory."""
    columns: tuple[str, ...]
    questions: int
    """Number of questions with answers, as the authors state."""
    read: Callable[[int, Row], Found]
    """(number of the row in the whole benchmark, row) → question; raises ValueError if the row is invalid."""


def real_world_qa(number: int, row: Row) -> Found:
    """RealWorldQA: one picture. The question contains its options and ends with an instruction for the answer.

    The instruction is removed, because `trainer.research.benchmarks.prompt` adds the same one for all benchmarks.
    """
    question = _HOW_TO_ANSWER.sub("", _text(row, "question"))
    answer = _text(row, "answer")
    listed = _LISTED_OPTION.findall(question)
    letter = answer.rstrip(".").upper()
    # Some lines only look like options: they are not named A, B, …, or the answer is not one of their letters.
    in_order = len(listed) > 1 and [name for name, _ in listed] == list(ascii_uppercase[: len(listed)])
    choice = in_order and letter in dict(listed)
    return Found(
        id=f"{number:04d}",  # the benchmark has no ids of its own
        subtask="multiple choice" if choice else "short answer",
        text=f"{PICTURE}\n{_without_placeholders(question)}",
        pictures=(_picture(row["image"], "image"),),
        options=tuple(text for _, text in listed) if choice else (),
        answer=letter if choice else answer,
    )


def muirbench(_number: int, row: Row) -> Found:
    """MuirBench: `<image>` marks pictures in the question and then in the options, in the order of `image_list`."""
    options = _texts(row, "options")
    pictures = row["image_list"]
    if not isinstance(pictures, Sequence):
        raise ValueError("image_list is missing")
    counterpart = row["counterpart_idx"]
    return Found(
        id=_text(row, "idx"),
        subtask=_text(row, "task"),
        text="\n".join([_text(row, "question"), *map("({}) {}".format, ascii_uppercase, options)]),
        pictures=tuple(_picture(picture, f"image_list[{place}]") for place, picture in enumerate(pictures)),
        options=options,
        answer=_text(row, "answer"),
        counterpart=None if counterpart is None else str(counterpart),
    )


def blink(_number: int, row: Row) -> Found:
    """BLINK: one to four pictures; `prompt` is the question with its options."""
    names = [name for name in _BLINK_PICTURES if row[name] is not None]
    return Found(
        id=_text(row, "idx"),
        subtask=_text(row, "sub_task"),
        text=PICTURE * len(names) + "\n" + _without_placeholders(_text(row, "prompt")),
        pictures=tuple(_picture(row[name], name) for name in names),
        options=_texts(row, "choices"),
        answer=_text(row, "answer").strip("()"),
    )


_BLINK_PICTURES = ("image_1", "image_2", "image_3", "image_4")
_HOW_TO_ANSWER = re.compile(
    r"\s*Please answer directly with (?:only the letter of the correct option and nothing else"
    r"|a single word or number)\.?\s*$"
)
_LISTED_OPTION = re.compile(r"^[ \t]*([A-Z])[.)][ \t]+(\S.*?)[ \t]*$", re.MULTILINE)

LAYOUTS: Mapping[str, Layout] = {
    "realworldqa": Layout(
        title="RealWorldQA",
        home="xai-org/RealworldQA",
        files="data/test-*.parquet",
        columns=("image", "question", "answer"),
        questions=765,
        read=real_world_qa,
    ),
    "muirbench": Layout(
        title="MuirBench",
        home="MUIRBENCH/MUIRBENCH",
        files="data/test-*.parquet",
        columns=("idx", "task", "question", "options", "answer", "image_list", "counterpart_idx"),
        questions=2600,
        read=muirbench,
    ),
    "blink": Layout(
        title="BLINK",
        home="BLINK-Benchmark/BLINK",
        files="*/val-*.parquet",  # the answers of the test files are withheld
        columns=("idx", "sub_task", "prompt", "choices", "answer", *_BLINK_PICTURES),
        questions=1901,
        read=blink,
    ),
}
"""Name on the command line → layout."""


def _text(row: Row, column: str) -> str:
    """The text of a column; ids may be numbers."""
    value = row[column]
    text = str(value).strip() if isinstance(value, (str, int)) else ""
    if not text:
        raise ValueError(f"{column} is missing or is not text")
    return text


def _texts(row: Row, column: str) -> tuple[str, ...]:
    values = row[column]
    if not isinstance(values, Sequence) or len(values) < 2 or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{column} is not a list of at least two texts")
    return tuple(value.strip() for value in values)


def _picture(value: Any, column: str) -> bytes:
    data = value.get("bytes") if isinstance(value, Mapping) else None
    if not isinstance(data, bytes):
        raise ValueError(f"{column} holds no picture")
    return data


def _without_placeholders(text: str) -> str:
    """Replace `<image>` by a plain word, for layouts that give the position of the pictures in another way."""
    return text.replace(PICTURE, "image")
