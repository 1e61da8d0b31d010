"""The error of pseudo-labelling."""

from __future__ import annotations

from screening.errors import UserError


class PseudoLabelError(UserError):
    """Pseudo-labels cannot be made from these inputs; the message says what to do."""
