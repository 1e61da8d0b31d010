"""Stores a manifest whose answers changed, and removes what belonged to the earlier answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from screening.checkpoint.manifest import CARD_NAME, Manifest, store_manifest
from screening.checkpoint.seal import is_sealed


def store_changed(before: Manifest, after: Manifest, checkpoint: Path) -> str:
    """Store a manifest. If its digest changed, the card and the numbers of the scores are removed.

    The card goes first, so that a process that is killed in between leaves no card of other answers.

    Args:
        before: the manifest that the checkpoint has.
        after: the same with changes; its scores are those of `before`.

    Returns:
        Lines for a report: both digests, what was removed, and what to do next.

    Raises:
        OSError: the manifest cannot be written, and is unchanged.
    """
    lines = [f"Digest before: {before.digest}", f"Digest now:    {after.digest}"]
    kept = _data_only(before.scores)
    if after.digest != before.digest and before.scores:
        (checkpoint / CARD_NAME).unlink(missing_ok=True)
    if after.digest != before.digest and kept != before.scores:
        after = after.model_copy(update={"scores": kept})
        lines.append(
            "Scores and card belonged to the earlier digest and were removed. Run `evaluate` and `card` again."
        )
    store_manifest(after, checkpoint)
    if is_sealed(before) and not is_sealed(after):
        lines.append(
            "Services refuse the checkpoint, because its probes were recorded before the change. Publish it again: "
            "`python -m trainer publish --again`."
        )
    return "\n".join(lines)


def _data_only(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Scores without their numbers. The data stays known, because it must not be used for calibration."""
    return {mode: {"data": score["data"]} for mode, score in scores.items() if "data" in score}
