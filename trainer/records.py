"""Samples: the lines of `samples.jsonl`, which `trainer render` and `trainer import-pairs` write and every stage reads.

There are three kinds of lines. The first gives the truth about each picture (`usable`, `dimensions`, `severity`). The
second gives only a `label`, like the paper's training data (section 3.2). The third gives neither, like the paper's
pseudo-label and exploration data (table 1). docs/training/data.md has a table of the fields.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    model_serializer,
    model_validator,
)

from screening.answer import check_reasoning
from screening.boxes import Box, split_boxes
from screening.task import NONE, OPTIONS, Dimension, Options, options_text
from trainer.partial_records import has_label, in_full, without_verdicts


def _inside(path: str) -> str:
    """Refuse a path outside the data directory, because data directories are moved between machines."""
    pure = PurePosixPath(path)
    if not path or "\\" in path or pure.is_absolute() or ".." in pure.parts:
        raise ValueError(f"{path!r} must be a relative path inside the data directory, with forward slashes")
    return path


RelativePath = Annotated[str, AfterValidator(_inside)]
Severity = Annotated[int, Field(ge=1, le=3)]


def _dimension(value: object) -> object:
    """Accept only full names of dimensions, and list them in the error, which pydantic's own message does not."""
    if value not in tuple(Dimension):
        raise ValueError(f"unknown dimension {value!r}; choose from {', '.join(Dimension)}")
    return value


DimensionName = Annotated[Dimension, BeforeValidator(_dimension)]


def _box(value: object) -> object:
    """Refuse everything but four numbers with one sentence; pydantic's own messages name the parts of a tuple."""
    form = "must be [left, top, right, bottom] from 0 to 1, with left < right and top < bottom"
    edges = list(value) if isinstance(value, list | tuple) else []
    if len(edges) != 4 or any(isinstance(edge, bool) or not isinstance(edge, int | float) for edge in edges):
        raise ValueError(f"{str(value)[:80]} {form}")
    if not Box(*edges).valid:
        raise ValueError(f"{edges} {form}")
    return Box(*map(float, edges))


FaultBox = Annotated[Box, BeforeValidator(_box)]


def _without_boxes(reasoning: str) -> str:
    """Refuse boxes in a reasoning: a model would learn to write them although the question does not ask for them."""
    if split_boxes(reasoning)[1]:
        raise ValueError("the reasoning must not contain boxes. Write each as `box` of a defect, and take it out here")
    return reasoning


def _is_missing(value: object) -> bool:
    return value is None


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Pictured(_Record):
    """A record that a line may shorten to the file name of its picture."""

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: object) -> object:
        return {"file": value} if isinstance(value, str) else value


class Defect(_Record):
    """One planted or annotated defect of a generated picture."""

    dimension: DimensionName
    kind: str = Field(min_length=1)
    """The exact defect, in the source's own vocabulary: `floating`, `label_digit`."""
    severity: Severity
    """1 subtle, 2 clear, 3 gross."""
    comment: str
    box: FaultBox | None = Field(None, exclude_if=_is_missing)
    """Where the defect is in the picture: left, top, right and bottom edge as shares of its width and height. None if
    that is unknown. `trainer.data.render.regions` says what counts as the region."""


class Original(_Pictured):
    """The original product photo."""

    file: RelativePath
    caption: str = ""
    attributes: dict[str, Any] = {}
    """Facts about the product, in free form: kind, colours, lettering."""


class Picture(_Pictured):
    """One of the four generated pictures, judged or not."""

    file: RelativePath
    option: str
    caption: str = ""


class Generated(Picture):
    """One of the four generated pictures, and what is wrong with it."""

    usable: bool
    dimensions: frozenset[DimensionName] = frozenset()
    """Dimensions of the defects; empty for a normal picture, and for an unusable one if only the label is known."""
    severity: int = Field(0, ge=0, le=3)
    """Severity of the worst defect; 0 for a normal picture, or if the severity is unknown."""
    defects: tuple[Defect, ...] = ()
    """Single defects. They may be missing in annotated pictures, where people name dimensions and not kinds."""
    comment: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        given = "dimensions" in self.model_fields_set
        if bool(self.dimensions) if self.usable else given and not self.dimensions:
            named_here = ", ".join(sorted(self.dimensions)) or "empty"
            raise ValueError(f"usable is {self.usable} but dimensions is {named_here}")
        if self.defects:
            if (named := frozenset(defect.dimension for defect in self.defects)) != self.dimensions:
                raise ValueError(f"the defects are of {sorted(named)} but dimensions are {sorted(self.dimensions)}")
            if (worst := max(defect.severity for defect in self.defects)) != self.severity:
                raise ValueError(f"the worst defect has severity {worst} but severity is {self.severity}")
        return self

    @model_serializer(mode="wrap")
    def _with_known_dimensions(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Sort the dimensions, because every process has another order of sets; leave them out if they are unknown."""
        written: dict[str, Any] = {**write(self), "dimensions": sorted(self.dimensions)}
        if not self.dimensions_known:
            del written["dimensions"]
        return written

    @property
    def dimensions_known(self) -> bool:
        """Whether `dimensions` is known; False for an unusable picture about which there is only a label."""
        return self.usable or bool(self.dimensions)

    def box_of(self, dimension: Dimension) -> Box | None:
        """Box of the worst defect of one dimension that has one; None if no box is known."""
        placed = [one for one in self.defects if one.dimension is dimension and one.box is not None]
        return max(placed, key=lambda one: one.severity).box if placed else None

    def severity_of(self, dimension: Dimension) -> int:
        """Severity of the worst defect of one dimension, or of the picture if no defects are listed."""
        own = [defect.severity for defect in self.defects if defect.dimension is dimension]
        return max(own) if own else (self.severity if dimension in self.dimensions else 0)


class Provenance(BaseModel):
    """Where a label came from, as `trainer collect` writes it. Fields of later versions are carried along."""

    model_config = ConfigDict(extra="allow", frozen=True)

    task: str
    """Id of the review task."""
    job: str
    """`review` for a decision of the service, `label` for an imported sample."""
    decision: str | None = None
    """Id of the reviewed decision."""
    batch: str | None = None
    """Name of the import that the sample came from."""
    reason: str
    """Why people were asked: `low_confidence`, `disagreement`, `audit`, `label`."""
    inclusion_probability: float | None = Field(None, gt=0, le=1)
    """Probability with which the decision was put into the queue; None if it was not drawn."""
    checkpoint: str | None = None
    """Digest of the checkpoint that answered."""
    decided: str
    """`one` person, two who `agreed`, or a third who decided (`adjudicated`)."""
    reviewers: int
    reviews: tuple[str, ...]
    """Ids of the reviews, sorted."""
    at: Annotated[AwareDatetime, AfterValidator(lambda moment: moment.astimezone(UTC))]
    """Time of the verdict. The latest verdict on a sample counts."""


class PseudoLabel(_Record):
    """How a checkpoint labelled a sample by itself, as `trainer pseudo-label` writes it. No person saw the label."""

    checkpoint: str
    """Digest of the checkpoint that answered."""
    mode: str
    """`cot` or `direct`."""
    orders: int
    """Number of picture orders in which it was asked."""
    agreement: float = Field(ge=0, le=1)
    """Share of the orders that gave this label."""
    confidence: float = Field(ge=0, le=1)
    """Mean calibrated confidence of these orders."""


class SampleLine(_Record):
    """The fields of every line of `samples.jsonl`, labelled or not: an original and four generated pictures."""

    id: str = Field(min_length=1)
    product: str = ""
    """Name of the product. A split keeps all samples of a product together, or of an original if this is empty."""
    original: Original
    generated: tuple[Picture, ...]
    seed: int | None = None
    setting: str | None = None
    """Scene of the generated pictures, in the source's own vocabulary."""
    weight: float | None = Field(None, gt=0, allow_inf_nan=False, exclude_if=_is_missing)
    """Number of questions that this one stands for: the inverse of the probability with which it was drawn. None
    counts as 1."""
    provenance: Provenance | None = Field(None, exclude_if=_is_missing)
    """Where the label came from, if people gave it on the review page."""
    licence: str | None = None
    """Licence of the model that made the pictures, if it restricts what may be done with them."""

    @model_validator(mode="before")
    @classmethod
    def _in_full(cls, value: object) -> object:
        return in_full(value) if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _four(self) -> Self:
        if (options := tuple(picture.option for picture in self.generated)) != OPTIONS:
            raise ValueError(
                f"generated must list options A, B, C, D in this order, not {', '.join(options) or 'none'}"
            )
        return self

    @property
    def files(self) -> tuple[str, ...]:
        """The five pictures in the order of the question: original, A, B, C, D."""
        return (self.original.file, *(picture.file for picture in self.generated))


class Unlabelled(SampleLine):
    """One question whose answer is unknown (paper, table 1: the pseudo-label and exploration splits)."""

    label: None = None
    reasoning: Literal[""] = ""

    @model_validator(mode="before")
    @classmethod
    def _nothing_judged(cls, value: object) -> object:
        """Refuse fields that need a label; pydantic's own message would only call them extra inputs."""
        return without_verdicts(value) if isinstance(value, dict) else value


class Sample(SampleLine):
    """One question with its label: an original, four generated pictures, and which of them may be shown."""

    generated: tuple[Generated, ...]
    label: str
    """Letters in order, or `N`."""
    reasoning: Annotated[str, AfterValidator(check_reasoning), AfterValidator(_without_boxes)] = ""
    """The chain of thought that leads to the label."""
    pseudo_label: PseudoLabel | None = Field(None, exclude_if=_is_missing)
    """How the label came about, if a checkpoint gave it; None for labels of people, of a teacher or of the renderer."""

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
        """Whether the defects of every picture are known, and not only which pictures are usable."""
        return all(picture.dimensions_known for picture in self.generated)


AnySample = Sample | Unlabelled


def licences_of(samples: Iterable[SampleLine]) -> dict[str, list[str]]:
    """The licences that restrict the pictures of some samples, for a checkpoint's manifest; empty if there are none."""
    named = sorted({sample.licence for sample in samples if sample.licence})
    return {"licences": named} if named else {}


def pseudo_labels_of(samples: Iterable[Sample]) -> dict[str, int]:
    """How many samples a checkpoint labelled by itself, for a checkpoint's manifest; empty if there are none."""
    count = sum(sample.pseudo_label is not None for sample in samples)
    return {"pseudo_labels": count} if count else {}


class NoLabel(Exception):
    """A line has no label although the caller needs one."""


def parse_labelled(line: bytes) -> Sample:
    """Parse one line of `samples.jsonl` that must have a label.

    Raises:
        ValidationError: the line is not a sample.
        NoLabel: the sample has no label.
    """
    sample = parse_any(line)
    if isinstance(sample, Unlabelled):
        raise NoLabel(
            "label: missing. `trainer split` puts samples without a label into pseudo-label and exploration, and "
            "`trainer annotate progressive` labels them with a teacher model"
        )
    return sample


def parse_any(line: bytes) -> AnySample:
    """Parse one line of `samples.jsonl`, with or without a label.

    Raises:
        ValidationError: the line is not a sample.
    """
    value = _JSON.validate_json(line)
    return (Sample if has_label(value) else Unlabelled).model_validate(value)


_JSON: TypeAdapter[Any] = TypeAdapter(Any)
