"""Samples on disk: what `trainer render` and `trainer collect` write, and every later stage reads.

A data directory holds `samples.jsonl`, one JSON object per line, and the pictures that the lines name, relative to
the directory (`pictures/<id>/{original,a,b,c,d}.jpg`). Everything is checked when it is read: a stage that trains for
an hour must not find in its last minute that line 4,711 names a picture that is not there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Self, TypeVar

from PIL import Image
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from screening.answer import check_reasoning
from screening.errors import ImageError
from screening.images import decode, inspect, load_square
from screening.task import NONE, OPTIONS, Dimension, Options, options_text

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


class Defect(_Record):
    """One planted or annotated defect of a generated picture."""

    dimension: DimensionName
    kind: str = Field(min_length=1)
    """What exactly is wrong, in one word of the source's own vocabulary: `floating`, `label_digit`."""
    severity: Severity
    """1 subtle, 2 clear, 3 gross."""
    comment: str


class Original(_Record):
    """The original product photo."""

    file: RelativePath
    caption: str = ""
    attributes: dict[str, Any] = {}
    """What the source knows about the product: kind, colours, lettering. Free form."""


class Picture(_Record):
    """One of the four generated pictures, judged or not."""

    file: RelativePath
    option: str


class Generated(Picture):
    """One of the four generated pictures, and what is wrong with it."""

    usable: bool
    dimensions: frozenset[DimensionName]
    """Empty for a normal picture."""
    severity: int = Field(ge=0, le=3)
    """Of the worst defect; 0 for a normal picture."""
    defects: tuple[Defect, ...] = ()
    """May be empty for annotated pictures: people name dimensions, not kinds."""
    comment: str = ""
    caption: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.usable == bool(self.dimensions):
            raise ValueError(f"usable is {self.usable} but dimensions are {sorted(self.dimensions) or 'empty'}")
        if self.defects:
            if (named := frozenset(defect.dimension for defect in self.defects)) != self.dimensions:
                raise ValueError(f"the defects are of {sorted(named)} but dimensions are {sorted(self.dimensions)}")
            if (worst := max(defect.severity for defect in self.defects)) != self.severity:
                raise ValueError(f"the worst defect has severity {worst} but severity is {self.severity}")
        return self

    def severity_of(self, dimension: Dimension) -> int:
        """Severity of the worst defect of one dimension; the picture's own where no defects are listed."""
        own = [defect.severity for defect in self.defects if defect.dimension is dimension]
        return max(own) if own else (self.severity if dimension in self.dimensions else 0)


class SampleLine(_Record):
    """What every line of `samples.jsonl` has, labelled or not: an original and four generated pictures."""

    id: str = Field(min_length=1)
    product: str
    """What is shown. Splits keep all samples of a product on one side."""
    original: Original
    generated: tuple[Picture, ...]

    @model_validator(mode="after")
    def _four(self) -> Self:
        if (options := tuple(picture.option for picture in self.generated)) != OPTIONS:
            raise ValueError(f"generated must be options A, B, C, D in this order, not {', '.join(options) or 'none'}")
        return self

    @property
    def files(self) -> tuple[str, ...]:
        """The five pictures in the order of the question: original, A, B, C, D."""
        return (self.original.file, *(picture.file for picture in self.generated))


class Sample(SampleLine):
    """One question with its truth: an original, four generated pictures, and which of them may be shown."""

    generated: tuple[Generated, ...]
    label: str
    """Letters in order, or `N`."""
    reasoning: Annotated[str, AfterValidator(check_reasoning)] = ""
    """The chain of thought that leads to the label."""
    seed: int | None = None
    setting: str | None = None
    """The scene that the generated pictures are set in, in a word of the source's own vocabulary."""

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


Line = TypeVar("Line", bound=SampleLine)


def read_samples(directory: Path) -> list[Sample]:
    """Read and check all samples of a data directory, in the order of the file.

    Raises:
        DataError: no or empty `samples.jsonl`, a line that is not a sample, an id that occurs twice, a missing picture.
    """
    return read_lines(directory, Sample)


def read_lines(directory: Path, kind: type[Line], note: str = "") -> list[Line]:
    """Read and check all lines of `samples.jsonl`, whatever form they have.

    Args:
        kind: the form.
        note: what to say behind a complaint about a field.

    Raises:
        DataError: see `read_samples`.
    """
    path = directory / SAMPLES_NAME
    records: list[Line] = []
    numbers: dict[str, int] = {}
    try:
        with path.open("rb") as handle:
            for number, line in enumerate(handle, 1):
                where = f"{path}, line {number}"
                record = _parse(line, kind, where, note)
                if record.id in numbers:
                    raise DataError(f"{where}, id: {record.id!r} is already in line {numbers[record.id]}")
                for file in record.files:
                    if not (directory / file).is_file():
                        raise DataError(f"{where}: the picture {file} is not in {directory}")
                numbers[record.id] = number
                records.append(record)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); is {directory} a data directory?") from error
    if not records:
        raise DataError(f"{path} holds no samples")
    return records


def data_digest(directory: Path, samples: Sequence[Sample], *, check: bool = True) -> str:
    """`sha256:…` over `samples.jsonl` and the bytes of all pictures: the same digest, the same questions and truth.

    Args:
        samples: all samples of the directory, as `read_samples` gives them.
        check: whether the pictures must be ones that a model can be shown. A training would find a broken one after
            hours. Each picture is decoded for it, on all cores: 4 ms for a JPEG of 1024 pixels a side.

    Raises:
        DataError: a file cannot be read, or a picture is truncated, damaged, of another format or over a limit of
            `screening.images`.
    """
    digest = hashlib.sha256(read_bytes(directory, SAMPLES_NAME))

    def read(sample: int, place: int, file: str) -> bytes:
        data = read_bytes(directory, file)
        try:
            if check:
                decode(inspect(data), shrink_to=1)
        except ImageError as error:
            field = f"generated.{place - 1}.file" if place else "original.file"
            where = f"{directory / SAMPLES_NAME}, line {sample}, {field}"
            raise DataError(f"{where}: {directory / file}: {error}") from error
        return hashlib.sha256(data).digest()

    files = [
        (number, place, file) for number, sample in enumerate(samples, 1) for place, file in enumerate(sample.files)
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
        return (directory / file).read_bytes()
    except OSError as error:
        raise DataError(f"{directory / file} cannot be read ({error.strerror})") from error


def _parse(line: bytes, kind: type[Line], where: str, note: str) -> Line:
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        others = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise DataError(f"{where}{', ' + field if field else ''}: {message}{others}{note}") from error
