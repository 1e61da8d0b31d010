"""What people say about a sample, for counting which labels are new."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from trainer.records import Sample


@dataclass(frozen=True, slots=True)
class Truth:
    """The label of a sample, and what the sample shows."""

    digest: str
    """Digest of label, verdicts and reasoning."""
    product: str
    """Name of the product, or the SHA-256 of the original if it has none."""

    @classmethod
    def of(cls, sample: Sample, original: Callable[[], str]) -> Self:
        """The truth of a sample.

        Args:
            original: computes the SHA-256 of the original; called only if the product has no name.
        """
        verdicts = [(one.usable, sorted(one.dimensions), one.severity) for one in sample.generated]
        digest = hashlib.sha256(repr((sample.label, verdicts, sample.reasoning)).encode()).hexdigest()
        return cls(digest, sample.product.strip() or original())
