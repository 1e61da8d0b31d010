"""The verdicts per picture that the reasoning states, compared with the truth.

They show which dimension a model does not recognise. In the intervals, pictures of one product may count as fewer; see
`trainer.products`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from screening.task import Dimension, Options
from trainer.judged import Judged
from trainer.products import repeated
from trainer.records import Generated
from trainer.shares import Share, share_of


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Verdicts(_Table):
    """Share of the pictures with a given defect that the model recognised.

    `named` counts the reasoning and is empty in direct mode; `held_back` counts the answer and exists in both modes.
    An unreadable answer, and a picture that the reasoning does not mention, name no dimension.
    """

    named: Share
    """Pictures whose stated verdict names the dimension."""
    held_back: Share
    """Pictures that are not in the answer. A model that names only its surest option also holds back usable ones."""


class DimensionVerdicts(_Table):
    """Recognition of one dimension, counted per picture."""

    all: Verdicts
    by_severity: dict[int, Verdicts]
    """By severity of the picture's worst defect of this dimension: 1 subtle, 2 clear, 3 gross."""
    false_alarms: Share
    """Share of the normal pictures whose verdict names this dimension."""
    precision: Share
    """Share of the pictures with known dimensions whose verdict names this dimension and that do have it."""


class PictureVerdicts(_Table):
    """Comparison of the stated verdicts with the truth, over all generated pictures."""

    stated: Share
    """Pictures with a readable verdict."""
    exact: Share
    """Share of the pictures with known dimensions whose verdict names exactly these (none for a normal picture)."""
    normal_recognised: Share
    """Share of the normal pictures that the verdict calls normal."""
    false_alarms: Share
    """Share of the normal pictures whose verdict names an issue."""
    normal_held_back: Share
    """Share of the normal pictures that are not in the answer."""
    dimensions: dict[Dimension, DimensionVerdicts]
    kinds: dict[str, Verdicts]
    """By kind of defect, with keys `dimension/kind`; empty if the data names no kinds."""


def picture_verdicts(judged: Sequence[Judged], level: float = 0.95) -> PictureVerdicts:
    """Compare the verdicts of the reasoning, and the pictures that the answer holds back, with the truth."""
    # The four pictures of a question count as independent, but not those of several questions about one product.
    alike = repeated([one.product for one in judged]) is not None
    seen = [
        _Seen(picture, one.verdict(picture.option), one.options, one.product if alike else object())
        for one in judged
        for picture in one.sample.generated
    ]
    normal = [picture for picture in seen if picture.truth.usable]
    known = [picture for picture in seen if picture.truth.dimensions_known]
    return PictureVerdicts(
        stated=share_of(seen, lambda picture: picture.verdict is not None, level),
        exact=share_of(known, lambda picture: picture.verdict == picture.truth.dimensions, level),
        normal_recognised=share_of(normal, lambda picture: picture.verdict == frozenset(), level),
        false_alarms=share_of(normal, lambda picture: bool(picture.verdict), level),
        normal_held_back=share_of(normal, lambda picture: picture.held_back, level),
        dimensions={dimension: _dimension_verdicts(seen, dimension, level) for dimension in Dimension},
        kinds=_kinds(seen, level),
    )


@dataclass(frozen=True, slots=True)
class _Seen:
    """One generated picture: its truth, the verdict stated about it, and the answer to its question."""

    truth: Generated
    verdict: frozenset[Dimension] | None
    answer: Options | None
    product: Hashable
    """Pictures with the same value count as alike."""

    @property
    def held_back(self) -> bool:
        return self.truth.option not in (self.answer or frozenset())

    def names(self, dimension: Dimension) -> bool:
        return self.verdict is not None and dimension in self.verdict


def _dimension_verdicts(seen: Sequence[_Seen], dimension: Dimension, level: float) -> DimensionVerdicts:
    having = [picture for picture in seen if dimension in picture.truth.dimensions]
    severities = sorted({picture.truth.severity_of(dimension) for picture in having})
    return DimensionVerdicts(
        all=_verdicts(having, dimension, level),
        by_severity={
            severity: _verdicts(
                [picture for picture in having if picture.truth.severity_of(dimension) == severity], dimension, level
            )
            for severity in severities
        },
        false_alarms=share_of([p for p in seen if p.truth.usable], lambda picture: picture.names(dimension), level),
        precision=share_of(
            [picture for picture in seen if picture.names(dimension) and picture.truth.dimensions_known],
            lambda picture: dimension in picture.truth.dimensions,
            level,
        ),
    )


def _kinds(seen: Sequence[_Seen], level: float) -> dict[str, Verdicts]:
    groups: dict[tuple[Dimension, str], list[_Seen]] = {}
    for picture in seen:
        for dimension, kind in sorted({(defect.dimension, defect.kind) for defect in picture.truth.defects}):
            groups.setdefault((dimension, kind), []).append(picture)
    return {
        f"{dimension}/{kind}": _verdicts(groups[dimension, kind], dimension, level)
        for dimension in Dimension
        for kind in sorted(kind for owner, kind in groups if owner is dimension)
    }


def _verdicts(pictures: Sequence[_Seen], dimension: Dimension, level: float) -> Verdicts:
    return Verdicts(
        named=share_of(pictures, lambda picture: picture.names(dimension), level),
        held_back=share_of(pictures, lambda picture: picture.held_back, level),
    )
