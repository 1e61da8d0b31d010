"""One reviewed task as `GET /review/export` states it. Unknown fields of later services are ignored."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from screening.task import OPTIONS
from trainer.records import DimensionName, Severity

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Stated(BaseModel):
    model_config = ConfigDict(frozen=True)


class Verdict(_Stated):
    """What people say about one generated picture."""

    option: str
    usable: bool
    dimensions: dict[DimensionName, Severity] = {}
    """Dimensions that are wrong, each with its severity."""
    comment: str | None = None


class PictureFile(_Stated):
    """One of the five pictures."""

    position: int
    """0 for the original, 1 to 4 for A to D."""
    sha256: Sha256
    media_type: str
    bytes: int


class ModelAnswer(_Stated):
    """What the model had answered."""

    acceptable: tuple[str, ...] | None = None
    reasoning: str | None = None


class Item(_Stated):
    """One task that people have decided."""

    task: str = Field(min_length=1)
    job: Literal["review", "label"]
    decision: str | None = None
    sample: str | None = None
    """Id of the imported sample."""
    batch: str | None = None
    product: str | None = None
    reason: str
    inclusion_probability: float | None = Field(None, gt=0, le=1)
    checkpoint: str | None = None
    model: ModelAnswer | None = None
    decided: str
    reviewers: int
    letters: str
    pictures: tuple[Verdict, ...]
    files: tuple[PictureFile, ...]
    reviews: tuple[str, ...]
    at: AwareDatetime

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if sorted(one.option for one in self.pictures) != list(OPTIONS):
            raise ValueError("pictures must hold one verdict on each of A, B, C and D")
        if sorted(one.position for one in self.files) != list(range(1 + len(OPTIONS))):
            raise ValueError("files must name the pictures 0 to 4")
        if not (self.decision if self.job == "review" else self.sample):
            raise ValueError(
                f"a task of the job {self.job} must name its {'decision' if self.job == 'review' else 'sample'}"
            )
        return self

    @property
    def name(self) -> str:
        """Id of what was judged: the decision, or the imported sample."""
        return (self.decision if self.job == "review" else self.sample) or ""

    @property
    def digests(self) -> tuple[str, ...]:
        """SHA-256 of the five pictures: original, A, B, C, D."""
        return tuple(one.sha256 for one in sorted(self.files, key=lambda one: one.position))


class Page(_Stated):
    """One page of the export."""

    items: tuple[Item, ...]
    next: str | None = None
