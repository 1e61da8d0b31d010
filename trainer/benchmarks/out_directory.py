"""An --out that is not this run's is left alone, also where nothing says whose it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainer.run_directory import ORIGIN_NAME, RunMismatch, claim


def claim_out(out: Path, origin: dict[str, Any]) -> None:
    """Make `out` this run's, or see that it is.

    Raises:
        RunMismatch: it is another run's, or holds files of something else.
    """
    if out.exists() and not (out / ORIGIN_NAME).exists() and (not out.is_dir() or any(map(_foreign, out.iterdir()))):
        raise RunMismatch(f"{out} exists and holds something else; give a new --out")
    claim(out, origin)


def _foreign(path: Path) -> bool:
    return path.name != f".{ORIGIN_NAME}.partial"  # all that a run leaves which is killed while it claims
