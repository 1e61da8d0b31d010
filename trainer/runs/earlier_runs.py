"""Runs that an earlier version began are gone on with: what they wrote as their settings is read as today's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.runs.run_directory import ORIGIN_NAME


def as_begun(directory: Path, origin: dict[str, Any], deciding: Callable[[Any], Any]) -> dict[str, Any]:
    """A run's origin in the form in which its directory has it, for `run_directory.claim`.

    Args:
        origin: in today's form; its `settings` are what `deciding` gives.
        deciding: from settings as any version wrote them to what of them decides the result. A ValueError says that
            they are none.

    Returns:
        What the directory's `run.json` holds, if that says the same; else `origin`, which `claim` then refuses.
    """
    try:
        begun = json.loads((directory / ORIGIN_NAME).read_text(encoding="utf-8"))
        same = {**begun, "settings": deciding(begun["settings"])} == json.loads(json.dumps(origin))
    except (OSError, ValueError, KeyError, TypeError):  # there is none, or it is another kind of run's
        return origin
    return dict(begun) if same else origin
