"""The settings of a run, and everything that decides its pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from trainer.data.compose.segmenter import Segmenter, make_segmenter
from trainer.data.compose.sources import Source, references_in
from trainer.data.render.defects import SEVERITIES
from trainer.data.render.sample import USABLE_COUNTS


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the command line says."""

    products: Path
    references: Path | None = None
    """Directory of background pictures; None renders the backgrounds."""
    out: Path
    seed: int
    count: int = 1
    """Number of samples of each photo."""
    size: int = 384
    """Side of the pictures in pixels."""
    severities: Sequence[float] = field(default=SEVERITIES)
    usable_counts: Sequence[float] = field(default=USABLE_COUNTS)
    segmenter: str = "auto"

    @cached_property
    def cutter(self) -> Segmenter:
        return make_segmenter(self.segmenter)

    @cached_property
    def scenes(self) -> tuple[Source, ...]:
        """The reference pictures; empty to draw the backgrounds."""
        return tuple(references_in(self.references)) if self.references else ()

    @cached_property
    def origin(self) -> dict[str, Any]:
        """Everything that decides the samples of a photo. The number of samples and the other photos do not.

        Raises:
            ComposeError: the segmenter or the references cannot be used.
        """
        return {
            "stage": "render --products",
            "seed": self.seed,
            "size": self.size,
            "severities": list(self.severities),
            "usable_counts": list(self.usable_counts),
            "segmenter": self.cutter.identity,
            "references": [scene.digest for scene in self.scenes],
        }
