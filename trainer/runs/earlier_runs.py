"""Continue runs that an earlier version started, whose `run.json` stores the settings in another form."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.runs.run_directory import ORIGIN_NAME


def as_begun(directory: Path, origin: dict[str, Any], deciding: Callable[[Any], Any]) -> dict[str, Any]:
    """Return a run's origin in the form that its directory stores, for `run_directory.claim`.

    Args:
        origin: the origin in the current form; `deciding` made its `settings`.
        deciding: converts the settings that any version wrote to those that decide the result. Raises ValueError if
            they are not settings.

    Returns:
        The content of the directory's `run.json` if it means the same; otherwise `origin`, which `claim` then refuses.
    """
    try:
        begun = json.loads((directory / ORIGIN_NAME).read_text(encoding="utf-8"))
        same = {**begun, "settings": deciding(begun["settings"])} == json.loads(json.dumps(origin))
    except (OSError, ValueError, KeyError, TypeError):  # the file is missing, or belongs to another kind of run
        return origin
    return dict(begun) if same else origin
