"""A data directory on disk: `samples.jsonl`, one JSON object per line, and the pictures that the lines name.

Pictures are named relative to the directory (`pictures/<id>/{original,a,b,c,d}.jpg`). All lines are checked when the
file is read, so that a training does not fail after an hour because line 4,711 names a missing picture.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from PIL import Image
from pydantic import ValidationError

from screening.boxes import Frame
from screening.checkpoint.manifest import ImageContract
from screening.errors import ImageError, UserError
from screening.images import accept, decode, inspect
from screening.inference.pictures import load_prepared, prepare
from screening.runtime.validation import first_fault
from trainer.records import AnySample, NoLabel, Sample, SampleLine, parse_any, parse_labelled

SAMPLES_NAME = "samples.jsonl"


class DataError(UserError):
    """A data directory cannot be used; the message names the file, the line and the field."""


Line = TypeVar("Line", bound=SampleLine)

_AT_ONCE = 4096
"""Maximum number of pictures that wait for a thread."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_OTHER_ENCODINGS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


def read_samples(directory: Path) -> list[Sample]:
    """Read and check all samples of a data directory that is labelled throughout, in the order of the file.

    Raises:
        DataError: `samples.jsonl` is missing or empty, a line is not a sample or has no label, an id occurs twice, or
            a picture is missing.
    """
    return _read(directory, parse_labelled)


def read_any_samples(directory: Path) -> list[AnySample]:
    """Like `read_samples`, but lines without a label are allowed.

    Raises:
        DataError: see `read_samples`.
    """
    return _read(directory, parse_any)


def sample_lines(directory: Path) -> Iterator[tuple[int, bytes]]:
    """Iterate over the lines of `samples.jsonl` and their numbers, which start at 1.

    Byte order marks and blank lines are removed.

    Raises:
        DataError: the file cannot be read, or is not UTF-8.
    """
    path = directory / SAMPLES_NAME
    try:
        with path.open("rb") as handle:
            for number, line in enumerate(handle, 1):
                if number == 1 and (other := _OTHER_ENCODINGS.get(line[:2])):
                    raise DataError(f"{path} is {other} text; save it as UTF-8")
                line = line.removeprefix(_BYTE_ORDER_MARK)  # also within a file, which `cat` may have joined
                if line.strip():
                    yield number, line
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); is {directory} a data directory?") from error


def json_lines(records: Iterable[Mapping[str, Any]]) -> str:
    """One line of JSON per record, as in `samples.jsonl`."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


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
    """Compute `sha256:…` over `samples.jsonl` and the bytes of all pictures.

    Two directories with the same digest hold the same questions and labels.

    Args:
        samples: all samples of the directory, as returned by `read_samples`.
        check: whether to decode every picture and refuse those that the service would refuse. Without the check, a
            training might fail on a broken picture after hours. The check uses all cores and takes 4 ms for a JPEG of
            1024×1024 pixels.

    Raises:
        DataError: a file cannot be read, or a picture is truncated, damaged, of an unsupported format, too small, too
            narrow or over a limit of `screening.images`.
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

    files = (
        (number, place, file)
        for sample, (number, _) in zip(samples, sample_lines(directory), strict=True)
        for place, file in enumerate(sample.files)
    )
    with ThreadPoolExecutor(thread_name_prefix="check") as pool:  # decoders release the GIL
        try:
            while part := list(islice(files, _AT_ONCE)):
                for one in pool.map(read, *zip(*part, strict=True)):
                    digest.update(one)
        except DataError:
            pool.shutdown(cancel_futures=True)
            raise
    return f"sha256:{digest.hexdigest()}"


def read_picture(directory: Path, file: str, image: ImageContract) -> Image.Image:
    """Read a picture of a data directory in the form that the model sees.

    Args:
        image: how the checkpoint's pictures are prepared.

    Raises:
        DataError: the file cannot be read, is damaged, or is over a limit of `screening.images`.
    """
    try:
        return load_prepared(read_bytes(directory, file), image)
    except ImageError as error:
        raise DataError(f"{directory / file}: {error}") from error


def read_frame(directory: Path, file: str, image: ImageContract) -> Frame:
    """Return how a picture of a data directory lies on the canvas that the model sees.

    Raises:
        DataError: see `read_picture`.
    """
    try:
        picture = inspect(read_bytes(directory, file))
        if picture.width == picture.height and image.max_patches == 1:
            return Frame()  # it fills the canvas, and need not be decoded
        return prepare(picture, image).frame
    except ImageError as error:
        raise DataError(f"{directory / file}: {error}") from error


def read_bytes(directory: Path, file: str) -> bytes:
    """Read one file of a data directory, usually a picture.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        return picture_path(directory, file).read_bytes()
    except OSError as error:
        raise DataError(f"{directory / file} cannot be read ({error.strerror})") from error


def picture_path(directory: Path, file: str) -> Path:
    """The path of a file of a data directory on disk.

    The name in `samples.jsonl` and the name on disk may have different Unicode normal forms, because macOS and some
    archives decompose `é` into two characters. The exact name is tried first, then a file with the same NFC form.
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
def _names_on_disk(directory: Path, changed_ns: int) -> dict[str, str]:  # noqa: ARG001 - part of the cache key
    """Map the NFC form of each name in a directory to the name. Cached, because the map is needed for every picture.

    Args:
        changed_ns: modification time of the directory in nanoseconds; a change invalidates the cached map.
    """
    return {unicodedata.normalize("NFC", entry.name): entry.name for entry in directory.iterdir()}


def is_there(directory: Path, file: str) -> bool:
    """Whether a data directory holds a file.

    Raises:
        DataError: the file system cannot tell, because the name is too long or a folder is not readable.
    """
    try:
        return picture_path(directory, file).is_file()
    except OSError as error:
        raise DataError(f"{str(directory / file)[:200]} cannot be read ({error.strerror})") from error


def _parsed(line: bytes, parse: Callable[[bytes], Line], where: str) -> Line:
    try:
        return parse(line)
    except ValidationError as error:
        field, message = first_fault(error)
        others = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise DataError(f"{where}{', ' + field if field else ''}: {message}{others}") from error
    except NoLabel as error:
        raise DataError(f"{where}, {error}") from error
