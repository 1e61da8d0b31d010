"""Licences of the models that make pictures. A licence that restricts use must be accepted by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from trainer.data.compose.failures import ComposeError


@dataclass(frozen=True)
class Licence:
    """The licence of a model, or of the code that takes its place."""

    name: str
    """Name for `--accept-licence`, the data and the model card."""
    restricted: str = ""
    """What the licence forbids, as a sentence; empty if it allows commercial use."""


OWN = Licence("Apache-2.0")
"""Code of this repository, and models under the same licence."""

FLUX_DEV = Licence(
    "FLUX.1-dev-non-commercial",
    "Its model may be used for non-commercial purposes only, and its pictures may not train other models for "
    "commercial use.",
)
FLUX_2 = Licence(
    "FLUX-non-commercial",
    "Its model may be used for non-commercial purposes only; among the FLUX.2 models, klein-4B is Apache-2.0.",
)
UNSTATED = Licence("unstated")
"""A model file that the user names; only the user knows its licence."""


def require_accepted(licences: Iterable[Licence], accepted: frozenset[str]) -> None:
    """Refuse a restricted licence that the user has not accepted. This comes before any weight is read.

    Raises:
        ComposeError: a licence is not accepted.
    """
    for licence in licences:
        if licence.restricted and licence.name not in accepted:
            raise ComposeError(
                f"this model has the licence {licence.name}. {licence.restricted} To use it under these terms, pass "
                f"--accept-licence {licence.name}"
            )
