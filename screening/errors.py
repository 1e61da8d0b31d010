"""The errors that the package `screening` raises.

UserError                         its message is all that a user needs; a command prints it without a traceback
└── ScreeningError
    ├── ImageError                a picture is not accepted; `code` says why
    │   ├── ImageUnsupported      the picture has an unsupported format or is animated
    │   ├── ImageUnreadable       the picture is truncated or damaged
    │   ├── ImageShapeRefused     the picture is too small or too narrow to show a product
    │   └── ImageTooLarge         the picture exceeds a limit of bytes or pixels
    ├── CheckpointError           a directory is not a complete, unchanged checkpoint
    │   ├── CheckpointDamaged     the directory does not match its manifest; another copy may be intact
    │   └── CheckpointUnavailable the checkpoint cannot be read or copied now; it may be intact
    └── RegistryError             the model registry does not answer, or lacks the requested model or alias
"""

from __future__ import annotations


class UserError(Exception):
    """Base class of all errors that a user can act on. A command prints the message in one line and exits with
    `exit_status`."""

    exit_status = 2
    advice = ""
    """Sentence that a command prints after the message, for example that the same command continues."""


class ScreeningError(UserError):
    """Base class of all errors of the package `screening`."""


class ImageError(ScreeningError):
    """A picture is not accepted. `code` is stable; the message says what to do."""

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
    """The picture exceeds a limit; `unit` is `bytes` or `pixels`."""

    code = "image-too-large"

    def __init__(self, message: str, *, unit: str) -> None:
        super().__init__(message)
        self.unit = unit


class CheckpointError(ScreeningError):
    """A directory is not a complete checkpoint, or does not match its manifest."""


class CheckpointDamaged(CheckpointError):
    """The directory is incomplete or was changed. Another copy of the same checkpoint may be intact."""


class CheckpointUnavailable(CheckpointError):
    """The checkpoint cannot be read or copied now, for example because a disk is full. It may be intact."""


class RegistryError(ScreeningError):
    """The model registry does not answer, or lacks the requested model or alias. The message names the registry."""
