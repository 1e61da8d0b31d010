"""The stage `benchmark split`: read the published files, check and store every picture, divide, and freeze.

`split.json` is written last, so it always describes a complete division. The same command finishes a killed run.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

from pydantic import ValidationError
from tqdm import tqdm

from screening.errors import ImageError
from screening.images import decode, inspect
from screening.runtime.atomic_write import write_atomically
from screening.runtime.digests import file_sha256
from screening.runtime.validation import first_fault
from trainer.data_directory import DataError
from trainer.research.benchmarks.divide import Tied, groups_of, halve
from trainer.research.benchmarks.layouts import LAYOUTS, Found
from trainer.research.benchmarks.published import files_digest, published_files, published_questions
from trainer.research.benchmarks.questions import (
    DIVISION_NAME,
    HALVES,
    Division,
    Half,
    Part,
    Question,
    lines_name,
    questions_digest,
    read_benchmark,
    read_division,
    read_questions,
)
from trainer.runs.run_directory import claim

PICTURES_NAME = "pictures"

CHECKED_AT = 64
"""Side in pixels to which pictures are decoded for the check; a JPEG is cheap to decode at a small size."""


def split(name: str, data: Path, out: Path, seed: int) -> Division:
    """Divide a downloaded benchmark into `out`, or check that an earlier division there is unchanged.

    Args:
        name: a key of `LAYOUTS`.
        data: directory of the download.

    Raises:
        DataError: the download cannot be used, or the earlier division is damaged.
        RunMismatch: `out` belongs to another run.
        OSError: a file cannot be written.
    """
    layout = LAYOUTS[name]
    paths = published_files(data, layout)
    source = files_digest(data, paths)
    claim(out, {"stage": "benchmark-split", "benchmark": name, "seed": seed, "data": source})
    if (out / DIVISION_NAME).exists():
        read_benchmark(out, Part.ALL)
        return read_division(out)

    pictures = _Pictures(out)
    questions: dict[str, Question] = {}
    tied: list[Tied] = []
    rows = published_questions(paths, layout)
    for where, found in tqdm(rows, desc=f"reading {layout.title}", total=layout.questions, unit="question"):
        question = _question(where, found, pictures)
        if question.id in questions:
            raise DataError(f"{where}: the id {question.id!r} occurs twice")
        questions[question.id] = question
        variants = () if found.counterpart is None else (f"question {found.counterpart}",)
        tied.append(Tied(question.id, question.subtask, (*question.files, *variants)))

    groups = groups_of(tied)
    placed = halve(groups, seed)
    if set(placed.values()) != set(HALVES):
        raise DataError(f"{data}: {len(questions)} questions in {len(groups)} groups cannot be divided into two halves")
    for half in HALVES:
        lines = (question.model_dump_json() + "\n" for question in questions.values() if placed[question.id] is half)
        write_atomically(out / lines_name(half), "".join(lines))
    division = Division(
        benchmark=name,
        seed=seed,
        source=source,
        published=layout.questions,
        groups=len(groups),
        largest_group=max(map(len, groups)),
        halves={half: _summary(out, half) for half in HALVES},
    )
    write_atomically(out / DIVISION_NAME, division.model_dump_json(indent=1) + "\n")
    return division


class _Pictures:
    """The stored pictures of one run, identified by the digest of their bytes."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._names: dict[str, str] = {}
        (out / PICTURES_NAME).mkdir(exist_ok=True)

    def store(self, data: bytes) -> str:
        """Check a picture and write it once; returns its name relative to the directory.

        Raises:
            ImageError: the picture is damaged, has an unsupported format, or is over a limit.
        """
        digest = hashlib.sha256(data).hexdigest()
        if digest not in self._names:
            picture = inspect(data)
            decode(picture, shrink_to=CHECKED_AT)
            name = f"{PICTURES_NAME}/{digest}.{picture.format.lower()}"
            path = self._out / name
            if not path.exists() or file_sha256(path) != digest:
                write_atomically(path, data)
            self._names[digest] = name
        return self._names[digest]


def _question(where: str, found: Found, pictures: _Pictures) -> Question:
    files = []
    for place, data in enumerate(found.pictures, 1):
        try:
            files.append(pictures.store(data))
        except ImageError as error:
            raise DataError(f"{where}, picture {place}: {error}") from error
    try:
        return Question(
            id=found.id,
            subtask=found.subtask,
            text=found.text,
            files=tuple(files),
            options=found.options,
            answer=found.answer,
        )
    except ValidationError as error:
        raise DataError(f"{where}: {first_fault(error)[1]}") from error


def _summary(out: Path, half: Part) -> Half:
    questions = read_questions(out, half)
    return Half(
        questions=len(questions),
        pictures=len({file for question in questions for file in question.files}),
        digest=questions_digest(out, half, questions),
        subtasks=dict(sorted(Counter(question.subtask for question in questions).items())),
    )
