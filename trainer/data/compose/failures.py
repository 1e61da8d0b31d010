"""Why a product has no sample, and what was noticed about one that has."""

from __future__ import annotations

from enum import StrEnum

from screening.errors import UserError


class ComposeError(UserError):
    """The command cannot start or go on at all; the message says what to do."""


class Reason(StrEnum):
    """Why a product was left out. The names are stable; `failures.jsonl` and `compose.json` contain them."""

    UNREADABLE = "unreadable"
    """The file cannot be read as a picture."""
    NO_ALPHA = "no-alpha"
    """The segmenter `alpha` got a file without transparency."""
    BUSY_BACKGROUND = "busy-background"
    """The segmenter `backdrop` got a photo whose background is not plain."""
    PART_MISSING = "part-missing"
    """The segmenter `backdrop` removed something with an outline: probably a part of the product."""
    EMPTY = "empty"
    """Nothing was found in the photo, or the cut-out is transparent."""
    TOO_SMALL = "too-small"
    """The product has too few pixels."""
    FULL_FRAME = "full-frame"
    """The whole photo was taken for the product."""
    OUT_OF_MEMORY = "out-of-memory"
    """A model did not fit into memory."""
    WRONG_SIZE = "wrong-size"
    """The inpainter returned a picture of another size."""
    BLANK = "blank"
    """The inpainter returned one colour, or left the canvas white."""
    REPEATED = "repeated"
    """Two of the four pictures are the same."""


class Note(StrEnum):
    """What a person should look at in a sample that was made."""

    SEVERAL_PIECES = "several-pieces"
    """The cut-out has more than one piece: a pair of products, or a part of the background."""
    HOLES = "holes"
    """The cut-out has holes: a handle, or a part of the product that was taken for background."""
    TOUCHES_EDGE = "touches-edge"
    """The product is cut off by the edge of the photo."""
    ENLARGED = "enlarged"
    """The product was enlarged to more than 1.5 times its size in the photo, so it is blurred."""


class Failed(Exception):
    """One product cannot be composed; the run goes on with the next one."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
