"""A data directory of the trainer becomes labelling tasks.

docs/training/data.md describes the format of `samples.jsonl`. Only the id, the product and the pictures are read:
labels that the directory may hold must not influence the reviewers.
"""

from __future__ import annotations

import errno
import json
import secrets
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from screening.errors import ImageError
from screening.images import accept, decode
from screening.task import OPTIONS
from service.decisions.database import Database
from service.decisions.kept_pictures import keep_pictures
from service.decisions.picture_store import PictureStore
from service.decisions.record import StoredPicture, product_of
from service.decisions.review_tables import REVIEW_TASK
from service.review.tasks import insert_tasks
from service.schemas import has_control_characters

SAMPLES = "samples.jsonl"
_MAX_ID = 256
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class ImportRefused(Exception):
    """The data directory cannot be imported; the message names the file, the line and the field."""


@dataclass(frozen=True, slots=True)
class SampleLine:
    """What a labelling task needs of a sample."""

    id: str
    product: str | None
    files: tuple[str, ...]
    """Original, A, B, C, D."""
    where: str
    """File and line, for error messages."""


def import_directory(
    database: Database, pictures: PictureStore, directory: Path, *, batch: str, reviews: int
) -> tuple[int, int]:
    """Make one labelling task for each sample; returns how many are new, and how many the batch had already.

    All lines are checked before the first task is made. An interrupted import continues when it is repeated.

    Args:
        reviews: number of reviews that each sample needs, 1 or 2.

    Raises:
        ImportRefused: a line is not a sample, or a picture is missing or not accepted.
        PictureStoreError: a picture could not be written.
    """
    lines = read_lines(directory)
    known = _known(database, batch)
    fresh = [line for line in lines if line.id not in known]
    seed = secrets.randbelow(2**31)
    for line in fresh:
        found = [_picture(directory, file, line.where) for file in line.files]
        for one in found:
            pictures.put(one.sha256, one.data)
        with database.writing() as connection:
            database.lock_erasure(connection, shared=True)
            keep_pictures(connection, pictures, {one.sha256: one for one in found})
            task = {
                "job": "label", "reason": "label", "sample": line.id, "batch": batch, "product": line.product,
                "reviews_required": reviews,
            }  # fmt: skip
            addresses = {position: one.sha256 for position, one in enumerate(found)}
            insert_tasks(connection, [(task, addresses)], seed, database.now(connection))
    return len(fresh), len(lines) - len(fresh)


def read_lines(directory: Path) -> list[SampleLine]:
    """The samples of a data directory. As for the trainer, only a line feed ends a line.

    Raises:
        ImportRefused: see `import_directory`.
    """
    path = directory / SAMPLES
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImportRefused(f"{path} cannot be read ({error}). Give a data directory with {SAMPLES}.") from None
    lines: dict[str, SampleLine] = {}
    for number, line in enumerate(data.split(b"\n"), 1):
        line = line.removeprefix(_BYTE_ORDER_MARK)  # also within a file, which `cat` may have joined
        if line.strip():
            one = _parsed(line, f"{path}, line {number}")
            if one.id in lines:
                raise ImportRefused(f"{one.where}, id: {one.id!r} is already in {lines[one.id].where}")
            for file in one.files:
                _resolved(directory, file, one.where)
            lines[one.id] = one
    if not lines:
        raise ImportRefused(f"{path} holds no samples")
    return list(lines.values())


def _parsed(line: bytes, where: str) -> SampleLine:
    try:
        sample = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ImportRefused(f"{where}: this is not UTF-8 ({error})") from None
    except ValueError as error:
        raise ImportRefused(f"{where}: this is not JSON ({error})") from None
    if not isinstance(sample, dict):
        raise ImportRefused(f"{where}: this is not a JSON object")
    identity = sample.get("id")
    if not isinstance(identity, str) or not 0 < len(identity) <= _MAX_ID or has_control_characters(identity):
        raise ImportRefused(f"{where}, id: give a text of at most {_MAX_ID} characters, without control characters")
    generated = sample.get("generated")
    if not isinstance(generated, list) or len(generated) != len(OPTIONS):
        raise ImportRefused(f"{where}, generated: give four pictures")
    files = (_file(sample.get("original"), f"{where}, original"), *_in_order(generated, where))
    return SampleLine(identity, product_of(sample), files, where)


def _in_order(generated: Sequence[Any], where: str) -> Iterator[str]:
    """The files of A to D. Each entry may name its own letter; otherwise the letters follow the order."""
    named = [one.get("option") if isinstance(one, dict) else None for one in generated]
    letters = [name if name is not None else OPTIONS[place] for place, name in enumerate(named)]
    if sorted(map(str, letters)) != list(OPTIONS):
        raise ImportRefused(f"{where}, generated: each of the letters A to D must occur once")
    for letter in OPTIONS:
        yield _file(generated[letters.index(letter)], f"{where}, generated {letter}")


def _file(value: Any, where: str) -> str:
    file = value.get("file") if isinstance(value, dict) else value
    if not isinstance(file, str) or not file or "\0" in file:
        raise ImportRefused(f"{where}: give the path of a picture")
    return file


def _resolved(directory: Path, file: str, where: str) -> Path:
    """The path of a picture, whose name may be in either Unicode form."""
    if Path(file).is_absolute() or ".." in Path(file).parts:
        raise ImportRefused(f"{where}: {file} must be a path inside {directory}")
    for form in (file, unicodedata.normalize("NFC", file), unicodedata.normalize("NFD", file)):
        try:
            if (directory / form).is_file():
                return directory / form
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise ImportRefused(f"{where}: {directory / form}: {error.strerror}") from None
    raise ImportRefused(f"{where}: the picture {file} is not in {directory}")


def _picture(directory: Path, file: str, where: str) -> StoredPicture:
    path = _resolved(directory, file, where)
    try:
        picture = accept(path.read_bytes())
        decode(picture, shrink_to=1)
    except (ImageError, OSError) as error:
        raise ImportRefused(f"{where}: {path}: {error}") from None
    return StoredPicture.of(picture)


def _known(database: Database, batch: str) -> set[str]:
    with database.reading() as connection:
        return set(connection.scalars(sa.select(REVIEW_TASK.c.sample).where(REVIEW_TASK.c.batch == batch)))
