"""The packages that only some segmenters and inpainters need. They are imported where they are used."""

from __future__ import annotations

import importlib
from types import ModuleType

from screening.runtime.commands import INSTALL
from trainer.data.compose.failures import ComposeError


def need(module: str) -> ModuleType:
    """Import an optional package.

    Raises:
        ComposeError: the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ComposeError(
            f"this segmenter or inpainter needs the package {error.name}. Install it with: {INSTALL}"
        ) from error
