"""A data directory on disk: `samples.jsonl`, one JSON object per line, and the pictures that the lines name.

Pictures are named relative to the directory (`pictures/<id>/{original,a,b,c,d}.jpg`). Everything is checked when it is
read: a stage that trains for an hour must not find in its last minute that line 4,711 names a missing picture.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TypeVar

from PIL import Image
from pydantic import ValidationError

from screening.errors import ImageError, UserError
from screening.images import accept, decode, load_square
from trainer.records import AnySample, NoLabel, Sample, SampleLine, parse_any, parse_labelled

SAMPLES_NAME = "samples.jsonl"


class DataError(UserError):
    """A data directory cannot be used; the message names the file, the line and the field."""


Line = TypeVar("Line", bound=SampleLine)

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_OTHER_ENCODINGS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


def read_samples(directory: Path) -> list[Sample]:
    """Read and check all samples of a data directory that is labelled throughout, in the order of the file.

    Raises:
        DataError: no or empty `samples.jsonl`, a line that is not a sample or has no label, an id that occurs twice,
            a missing picture.
    """
    return _read(directory, parse_labelled)


def read_any_samples(directory: Path) -> list[AnySample]:
    """As `read_samples`, with the lines that have no label among them.

    Raises:
        DataError: see `read_samples`.
    """
    return _read(directory, parse_any)


def sample_lines(directory: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of `samples.jsonl` with their numbers from 1, without a byte order mark and without blank lines.

    Raises:
        DataError: the file cannot be read, or is not UTF-8.
    """
    path = directory / SAMPLES_NAME
    try:
        with path.open("rb") as handle:
            for number, line in enumerate(handle, 1):
                if number == 1 and (other := _OTHER_ENCODINGS.get(line[:2])):
                    raise DataError(f"{path} is {other} text; save it as UTF-8")
                line = line.removeprefix(_BYTE_ORDER_MARK)  # also inside: files are joined with `cat`
                if line.strip():
                    yield number, line
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); is {directory} a data directory?") from error


def _read(directory: Path, parse: Callable[[bytes], Line]) -> list[Line]:
    path = directory / SAMPLES_NAME
    records: list[Line] = []
    numbers: dict[str, int] = {}
    for number, line in sample_lines(directory):
        where = f"{path}, line {number}"
        record = _parsed(line, parse, where)
        if record.id in numbers:
            raise DataError(f"{where}, id: {record.id!r} is already in line {numbers[record.id]}")
        for file in record.files:
            if not is_there(directory, file):
                raise DataError(f"{where}: the picture {file} is not in {directory}")
        numbers[record.id] = number
        records.append(record)
    if not records:
        raise DataError(f"{path} holds no samples")
    return records


def data_digest(directory: Path, samples: Sequence[SampleLine], *, check: bool = True) -> str:
    """`sha256:…` over `samples.jsonl` and the bytes of all pictures: the same digest, the same questions and truth.

    Args:
        samples: all samples of the directory, as `read_samples` gives them.
        check: whether the pictures must be ones that the service takes in. A training would find a broken one after
            hours. Each picture is decoded for it, on all cores: 4 ms for a JPEG of 1024 pixels a side.

    Raises:
        DataError: a file cannot be read, or a picture is truncated, damaged, of another format, too small, too narrow
            or over a limit of `screening.images`.
    """
    digest = hashlib.sha256(read_bytes(directory, SAMPLES_NAME))

    def read(sample: int, place: int, file: str) -> bytes:
        data = read_bytes(directory, file)
        try:
            if check:
                decode(accept(data), shrink_to=1)
        except ImageError as error:
            field = f"generated.{place - 1}.file" if place else "original.file"
            where = f"{directory / SAMPLES_NAME}, line {sample}, {field}"
            raise DataError(f"{where}: {directory / file}: {error}") from error
        return hashlib.sha256(data).digest()

    files = [
        (number, place, file)
        for sample, (number, _) in zip(samples, sample_lines(directory), strict=True)
        for place, file in enumerate(sample.files)
    ]
    with ThreadPoolExecutor(thread_name_prefix="check") as pool:  # decoders leave Python's lock
        try:
            for part in pool.map(read, *zip(*files, strict=True)) if files else ():
                digest.update(part)
        except DataError:
            pool.shutdown(cancel_futures=True)
            raise
    return f"sha256:{digest.hexdigest()}"


def read_square(directory: Path, file: str, size: int) -> Image.Image:
    """A picture of a data directory as the model sees it.

    Args:
        size: side of the model's square, in pixels.

    Raises:
        DataError: the file cannot be read, is damaged, or is over a limit of `screening.images`.
    """
    try:
        return load_square(read_bytes(directory, file), size)
    except ImageError as error:
        raise DataError(f"{directory / file}: {error}") from error


def read_bytes(directory: Path, file: str) -> bytes:
    """The bytes of one file of a data directory, a picture as a rule.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        return picture_path(directory, file).read_bytes()
    except OSError as error:
        raise DataError(f"{directory / file} cannot be read ({error.strerror})") from error


def picture_path(directory: Path, file: str) -> Path:
    """Where a file of a data directory lies on disk.

    A name may be written in another Unicode normal form than the disk has it: macOS and some archives decompose `é`
    into two characters. The name as it is written comes first, then the one file of the same normal form (NFC).
    """
    path = directory / file
    if file.isascii() or path.exists():
        return path
    found = directory
    for part in PurePosixPath(file).parts:
        try:
            name = _names_on_disk(found, found.stat().st_mtime_ns).get(unicodedata.normalize("NFC", part))
        except OSError:
            return path
        if name is None:
            return path
        found = found / name
    return found


@lru_cache(maxsize=64)
def _names_on_disk(directory: Path, changed_ns: int) -> dict[str, str]:  # noqa: ARG001 - a part of the key
    """Normal form (NFC) → name, of all entries of a directory. A directory may hold thousands and is asked for each.

    Args:
        changed_ns: when the directory was changed.
    """
    return {unicodedata.normalize("NFC", entry.name): entry.name for entry in directory.iterdir()}


def is_there(directory: Path, file: str) -> bool:
    """Whether a file of a data directory is there.

    Raises:
        DataError: the file system cannot tell: the name is too long for it, or a folder may not be read.
    """
    try:
        return picture_path(directory, file).is_file()
    except OSError as error:
        raise DataError(f"{str(directory / file)[:200]} cannot be read ({error.strerror})") from error


def _parsed(line: bytes, parse: Callable[[bytes], Line], where: str) -> Line:
    try:
        return parse(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        others = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise DataError(f"{where}{', ' + field if field else ''}: {message}{others}") from error
    except NoLabel as error:
        raise DataError(f"{where}, {error}") from error
