"""Errors of the contract.

UserError                     its message is all that a user needs; a command prints it without a traceback
└── ScreeningError
    ├── ImageError                a picture cannot be taken in; `code` says in which way
    │   ├── ImageUnsupported      not one of the allowed formats, or not a still picture
    │   ├── ImageUnreadable       truncated or damaged
    │   ├── ImageShapeRefused     too small or too narrow to show a product
    │   └── ImageTooLarge         over a limit of bytes or pixels
    ├── CheckpointError           a directory is not a whole, unchanged checkpoint
    │   ├── CheckpointDamaged     the directory is not what its manifest describes; another copy may be
    │   └── CheckpointUnavailable it cannot be read or copied now, which says nothing about it
    └── RegistryError             the model registry does not answer, or does not hold what is asked for
"""

from __future__ import annotations


class UserError(Exception):
    """Root of all errors that a user can act on. A command prints the message in one line and exits with
    `exit_status`."""

    exit_status = 2
    advice = ""
    """Sentence that a command prints after the message, for example that the same command continues."""


class ScreeningError(UserError):
    """Root of all errors of the contract."""


class ImageError(ScreeningError):
    """A picture cannot be taken in. `code` is stable; the message says what to do."""

    code = "image-error"


class ImageUnsupported(ImageError):
    """The bytes are not a still JPEG, PNG, WebP or AVIF picture."""

    code = "image-unsupported"


class ImageUnreadable(ImageError):
    """The picture has an allowed format but is truncated or damaged."""

    code = "image-unreadable"


class ImageShapeRefused(ImageError):
    """The picture is too small or too narrow to show a product."""

    code = "image-shape"


class ImageTooLarge(ImageError):
    """The picture is over a limit; `unit` is `bytes` or `pixels`."""

    code = "image-too-large"

    def __init__(self, message: str, *, unit: str) -> None:
        super().__init__(message)
        self.unit = unit


class CheckpointError(ScreeningError):
    """A directory is not a whole checkpoint, or not the one its manifest describes."""


class CheckpointDamaged(CheckpointError):
    """This directory is half copied or was changed. The checkpoint that its manifest describes may be a good one."""


class CheckpointUnavailable(CheckpointError):
    """A checkpoint cannot be read or copied now: no such directory, no room. It may be a good one."""


class RegistryError(ScreeningError):
    """The model registry does not answer, or does not hold what is asked for. The message says which registry."""
