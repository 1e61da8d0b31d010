"""How well a model points at the issues that it finds."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from screening.answer import Answer
from screening.boxes import Box
from screening.task import Dimension
from trainer.judged import Judged
from trainer.products import repeated
from trainer.shares import Share, share_by_product

OVERLAP = 0.5
"""Minimum intersection over union of a box that counts as overlapping the true one."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Placed(_Table):
    """Shares of the found issues whose box is right. An issue for which the model gave no box counts as wrong."""

    centre: Share
    """The middle of the box lies in the true region."""
    overlap: Share
    """The intersection over union with the true region is at least `OVERLAP`."""


class Locating(_Table):
    """How well a model points at issues. An issue is a dimension of a picture; it is found if the reasoning names it,
    and it counts if its true region is known."""

    overall: Placed
    dimensions: dict[Dimension, Placed]
    kinds: dict[str, Placed]
    """By kind of defect, with keys `dimension/kind`."""
    without_box: Share
    """Found issues for which the model gave no box, or one that was dropped."""
    dropped_boxes: int
    """Number of boxes that belong to no named issue, or are malformed, out of range or in the padding."""


@dataclass(frozen=True, slots=True)
class _Found:
    """An issue that the reasoning names, and that the picture has."""

    dimension: Dimension
    kinds: frozenset[str]
    truth: Box
    given: Box | None
    product: Hashable
    """Issues with the same value count as alike."""

    @property
    def centred(self) -> bool:
        return self.given is not None and self.truth.contains(self.given.centre)

    @property
    def overlapping(self) -> bool:
        return self.given is not None and self.truth.iou(self.given) >= OVERLAP


def locating(judged: Sequence[Judged], level: float = 0.95) -> Locating:
    """Compare the regions of the answers, which are on the pictures, with the true ones."""
    alike = repeated([one.product for one in judged]) is not None
    found = [fault for one in judged for fault in _found(one, alike)]
    kinds = sorted({(fault.dimension, kind) for fault in found for kind in fault.kinds})
    findings = [finding for one in judged if isinstance(one.result, Answer) for finding in one.result.findings]
    return Locating(
        overall=_placed(found, level),
        dimensions={d: _placed([fault for fault in found if fault.dimension is d], level) for d in Dimension},
        kinds={
            f"{dimension}/{kind}": _placed(
                [fault for fault in found if fault.dimension is dimension and kind in fault.kinds], level
            )
            for dimension, kind in kinds
        },
        without_box=_share_of(found, [fault.given is None for fault in found], level),
        dropped_boxes=sum(finding.dropped_boxes for finding in findings),
    )


def _found(judged: Judged, alike: bool) -> list[_Found]:
    """The found issues of one sample. Independent unless several samples show one product (`alike`)."""
    if not isinstance(judged.result, Answer):
        return []
    findings = {finding.option: finding for finding in judged.result.findings}
    found = []
    for picture in judged.sample.generated:
        if (finding := findings.get(picture.option)) is None:
            continue
        given = {region.dimension: region.box for region in finding.regions}
        for dimension in sorted(picture.dimensions & (finding.dimensions or frozenset())):
            if (truth := picture.box_of(dimension)) is not None:
                kinds = frozenset(defect.kind for defect in picture.defects if defect.dimension is dimension)
                product = judged.product if alike else object()
                found.append(_Found(dimension, kinds, truth, given.get(dimension), product))
    return found


def _placed(found: Sequence[_Found], level: float) -> Placed:
    return Placed(
        centre=_share_of(found, [fault.centred for fault in found], level),
        overlap=_share_of(found, [fault.overlapping for fault in found], level),
    )


def _share_of(found: Sequence[_Found], right: Sequence[bool], level: float) -> Share:
    return share_by_product(right, [fault.product for fault in found], level)
