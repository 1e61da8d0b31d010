"""Samples on disk: what `trainer render` and `trainer import-pairs` write, and every later stage reads.

A data directory holds `samples.jsonl`, one JSON object per line, and the pictures that the lines name, relative to
the directory (`pictures/<id>/{original,a,b,c,d}.jpg`). Everything is checked when it is read: a stage that trains for
an hour must not find in its last minute that line 4,711 names a picture that is not there.

A line is one of three kinds. It has the truth of each picture (`usable`, `dimensions`, `severity`), or a `label` alone,
as the paper's training data has (section 3.2), or neither, as its pseudo-label and exploration data have (table 1).
docs/training.md has a table of the fields.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self, TypeVar

from PIL import Image
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    model_serializer,
    model_validator,
)

from screening.answer import check_reasoning
from screening.errors import ImageError
from screening.images import accept, decode, load_square
from screening.task import NONE, OPTIONS, Dimension, Options, options_text
from trainer.labels import read_label

SAMPLES_NAME = "samples.jsonl"


class DataError(Exception):
    """A data directory cannot be used; the message names the file, the line and the field."""


def _inside(path: str) -> str:
    """Refuse a path that leads out of the data directory: directories are passed between machines and people."""
    pure = PurePosixPath(path)
    if not path or "\\" in path or pure.is_absolute() or ".." in pure.parts:
        raise ValueError(f"{path!r} is not a path inside the data directory, relative and with forward slashes")
    return path


RelativePath = Annotated[str, AfterValidator(_inside)]
Severity = Annotated[int, Field(ge=1, le=3)]


def _dimension(value: object) -> object:
    """Only the full names are dimensions on disk; pydantic's own message would not say which they are."""
    if value not in tuple(Dimension):
        raise ValueError(f"{value!r} is no dimension; dimensions are {', '.join(Dimension)}")
    return value


DimensionName = Annotated[Dimension, BeforeValidator(_dimension)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Pictured(_Record):
    """A record that a line may give as the name of its picture alone."""

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: object) -> object:
        return {"file": value} if isinstance(value, str) else value


class Defect(_Record):
    """One planted or annotated defect of a generated picture."""

    dimension: DimensionName
    kind: str = Field(min_length=1)
    """What exactly is wrong, in one word of the source's own vocabulary: `floating`, `label_digit`."""
    severity: Severity
    """1 subtle, 2 clear, 3 gross."""
    comment: str


class Original(_Pictured):
    """The original product photo."""

    file: RelativePath
    caption: str = ""
    attributes: dict[str, Any] = {}
    """What the source knows about the product: kind, colours, lettering. Free form."""


class Picture(_Pictured):
    """One of the four generated pictures, judged or not."""

    file: RelativePath
    option: str
    caption: str = ""


class Generated(Picture):
    """One of the four generated pictures, and what is wrong with it."""

    usable: bool
    dimensions: frozenset[DimensionName] = frozenset()
    """Empty for a normal picture, and for one that is not usable where only the label is known."""
    severity: int = Field(0, ge=0, le=3)
    """Of the worst defect; 0 for a normal picture, and where it is not known."""
    defects: tuple[Defect, ...] = ()
    """May be empty for annotated pictures: people name dimensions, not kinds."""
    comment: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        given = "dimensions" in self.model_fields_set
        if bool(self.dimensions) if self.usable else given and not self.dimensions:
            raise ValueError(f"usable is {self.usable} but dimensions are {sorted(self.dimensions) or 'empty'}")
        if self.defects:
            if (named := frozenset(defect.dimension for defect in self.defects)) != self.dimensions:
                raise ValueError(f"the defects are of {sorted(named)} but dimensions are {sorted(self.dimensions)}")
            if (worst := max(defect.severity for defect in self.defects)) != self.severity:
                raise ValueError(f"the worst defect has severity {worst} but severity is {self.severity}")
        return self

    @model_serializer(mode="wrap")
    def _without_unknown_dimensions(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        if not self.dimensions_known:
            del written["dimensions"]
        return written

    @property
    def dimensions_known(self) -> bool:
        """Whether `dimensions` is the truth; False for a picture of which only the label says that it is not usable."""
        return self.usable or bool(self.dimensions)

    def severity_of(self, dimension: Dimension) -> int:
        """Severity of the worst defect of one dimension; the picture's own where no defects are listed."""
        own = [defect.severity for defect in self.defects if defect.dimension is dimension]
        return max(own) if own else (self.severity if dimension in self.dimensions else 0)


class SampleLine(_Record):
    """What every line of `samples.jsonl` has, labelled or not: an original and four generated pictures."""

    id: str = Field(min_length=1)
    product: str = ""
    """What is shown. Splits keep all samples of a product on one side; where it is empty, those of an original."""
    original: Original
    generated: tuple[Picture, ...]
    seed: int | None = None
    setting: str | None = None
    """The scene that the generated pictures are set in, in a word of the source's own vocabulary."""

    @model_validator(mode="before")
    @classmethod
    def _in_full(cls, value: object) -> object:
        return _in_full(value) if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _four(self) -> Self:
        if (options := tuple(picture.option for picture in self.generated)) != OPTIONS:
            raise ValueError(f"generated must be options A, B, C, D in this order, not {', '.join(options) or 'none'}")
        return self

    @property
    def files(self) -> tuple[str, ...]:
        """The five pictures in the order of the question: original, A, B, C, D."""
        return (self.original.file, *(picture.file for picture in self.generated))


class Unlabelled(SampleLine):
    """One question whose answer is not known (paper, table 1: the pseudo-label and exploration splits)."""

    label: None = None
    reasoning: Literal[""] = ""

    @model_validator(mode="before")
    @classmethod
    def _nothing_judged(cls, value: object) -> object:
        """Refuse what only a labelled sample can say; pydantic would call it an extra input."""
        if isinstance(value, dict):
            pictures = value["generated"] if isinstance(value.get("generated"), list | tuple) else []
            said = [
                name for one in pictures if isinstance(one, dict) for name in _TRUTH if _without_nulls(one).get(name)
            ]
            if said or value.get("reasoning"):
                what = repr(said[0]) if said else "'reasoning'"
                raise ValueError(f"{what} is given but no label; add 'label', or 'usable' of all four pictures")
            if pictures:
                value = {**value, "generated": [_without_truth(one) for one in pictures]}
        return value


class Sample(SampleLine):
    """One question with its truth: an original, four generated pictures, and which of them may be shown."""

    generated: tuple[Generated, ...]
    label: str
    """Letters in order, or `N`."""
    reasoning: Annotated[str, AfterValidator(check_reasoning)] = ""
    """The chain of thought that leads to the label."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        usable = options_text(picture.option for picture in self.generated if picture.usable)
        if self.label != usable:
            raise ValueError(f"label is {self.label!r} but the usable pictures are {usable!r}")
        return self

    @property
    def options(self) -> Options:
        """The label as a set; empty for `N`."""
        return frozenset(self.label) - {NONE}

    @property
    def dimensions_known(self) -> bool:
        """Whether it is known what is wrong with each picture, and not only which ones are usable."""
        return all(picture.dimensions_known for picture in self.generated)


def _in_full(line: dict[str, Any]) -> dict[str, Any]:
    """A line with what follows from the rest of it: the letters from the order, the verdicts from the label or the
    label from the verdicts. Null is the same as a field that is left out."""
    line = _without_nulls(line)
    pictures = line.get("generated")
    if "label" in line:
        line["label"] = read_label(line["label"])
    if not isinstance(pictures, list | tuple):
        return line
    if len(pictures) != len(OPTIONS):
        raise ValueError(f"generated must be options A, B, C, D, which are four pictures and not {len(pictures)}")
    full = [_without_nulls({"file": one} if isinstance(one, str) else one) for one in pictures]
    if not all(isinstance(one, dict) for one in full):
        return line
    if not any("option" in one for one in full):
        full = [{**one, "option": option} for one, option in zip(full, OPTIONS, strict=True)]
    if (options := [one.get("option") for one in full]) != list(OPTIONS):
        raise ValueError(f"generated must be options A, B, C, D in this order, not {', '.join(map(str, options))}")
    if "label" in line:
        full = [{"usable": one["option"] in line["label"], **one} for one in full]
    elif verdicts := [one["usable"] for one in full if "usable" in one]:
        _refuse_verdicts(verdicts)
        line["label"] = options_text(one["option"] for one in full if one["usable"])
    return {**line, "generated": full}


def _refuse_verdicts(verdicts: Sequence[object]) -> None:
    """Refuse verdicts that a label cannot follow from."""
    if other := [one for one in verdicts if not isinstance(one, bool)]:
        raise ValueError(f"usable must be true or false, not {other[0]!r}")
    if len(verdicts) != len(OPTIONS):
        raise ValueError("some generated pictures have 'usable' and others do not; give it for all four, or a label")


def _without_nulls(record: Any) -> Any:
    return {key: value for key, value in record.items() if value is not None} if isinstance(record, dict) else record


AnySample = Sample | Unlabelled
Line = TypeVar("Line", bound=SampleLine)

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_OTHER_ENCODINGS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


def read_samples(directory: Path) -> list[Sample]:
    """Read and check all samples of a data directory that is labelled throughout, in the order of the file.

    Raises:
        DataError: no or empty `samples.jsonl`, a line that is not a sample or has no label, an id that occurs twice,
            a missing picture.
    """
    return _read(directory, _labelled)


def read_any_samples(directory: Path) -> list[AnySample]:
    """As `read_samples`, with the lines that have no label among them.

    Raises:
        DataError: see `read_samples`.
    """
    return _read(directory, _either)


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


class _NoLabel(Exception):
    """A line without a label where one is needed."""


def _labelled(line: bytes) -> Sample:
    sample = _either(line)
    if isinstance(sample, Unlabelled):
        raise _NoLabel(
            "label: the sample has none. `trainer split` puts samples without a label into pseudo-label and "
            "exploration, `trainer annotate progressive` lets a teacher label them"
        )
    return sample


def _either(line: bytes) -> AnySample:
    value = _JSON.validate_json(line)
    return (Sample if _has_label(value) else Unlabelled).model_validate(value)


_JSON: TypeAdapter[Any] = TypeAdapter(Any)


_TRUTH = ("dimensions", "severity", "defects", "comment")
"""Fields of a generated picture that say what is wrong with it."""


def _without_truth(picture: object) -> object:
    """Without the fields that say nothing, such as an empty comment."""
    return {k: v for k, v in picture.items() if k not in _TRUTH} if isinstance(picture, dict) else picture


def _has_label(line: object) -> bool:
    """Whether a line says which pictures are usable; what is no object at all is reported as a broken sample."""
    if not isinstance(line, dict) or line.get("label") is not None:
        return True
    pictures = line.get("generated")
    return isinstance(pictures, list) and any(
        isinstance(one, dict) and one.get("usable") is not None for one in pictures
    )


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
    except _NoLabel as error:
        raise DataError(f"{where}, {error}") from error
