"""Lines of `samples.jsonl` may leave out what the rest of the line implies. This module fills it in, on JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from screening.task import OPTIONS, options_text
from trainer.labels import read_label

_TRUTH = ("dimensions", "severity", "defects", "comment")
"""Fields of a generated picture that describe its defects."""


def in_full(line: dict[str, Any]) -> dict[str, Any]:
    """Fill in what the rest of a line implies: letters from the order, and verdicts from the label or the reverse.

    A null value counts as a missing field.

    Raises:
        ValueError: the label cannot be read, or the pictures are not four in order, or their verdicts give no label.
    """
    line = _without_nulls(line)
    pictures = line.get("generated")
    if "label" in line:
        line["label"] = read_label(line["label"])
    if not isinstance(pictures, list | tuple):
        return line
    if len(pictures) != len(OPTIONS):
        raise ValueError(f"generated must list four pictures (options A, B, C, D), not {len(pictures)}")
    full = [_without_nulls({"file": one} if isinstance(one, str) else one) for one in pictures]
    if not all(isinstance(one, dict) for one in full):
        return line
    if not any("option" in one for one in full):
        full = [{**one, "option": option} for one, option in zip(full, OPTIONS, strict=True)]
    if (options := [one.get("option") for one in full]) != list(OPTIONS):
        raise ValueError(f"generated must list options A, B, C, D in this order, not {', '.join(map(str, options))}")
    if "label" in line:
        full = [{"usable": one["option"] in line["label"], **one} for one in full]
    elif verdicts := [one["usable"] for one in full if "usable" in one]:
        _refuse_verdicts(verdicts)
        line["label"] = options_text(one["option"] for one in full if one["usable"])
    return {**line, "generated": full}


def has_label(line: object) -> bool:
    """Whether a line says which pictures are usable. True for other JSON values, which then fail as a sample."""
    if not isinstance(line, dict) or line.get("label") is not None:
        return True
    pictures = line.get("generated")
    return isinstance(pictures, list) and any(
        isinstance(one, dict) and one.get("usable") is not None for one in pictures
    )


def without_verdicts(line: dict[str, Any]) -> dict[str, Any]:
    """Drop the empty fields that describe defects from a line without a label.

    Raises:
        ValueError: one of them is not empty, or the line has a reasoning.
    """
    pictures = line["generated"] if isinstance(line.get("generated"), list | tuple) else []
    said = [name for one in pictures if isinstance(one, dict) for name in _TRUTH if _without_nulls(one).get(name)]
    if said or line.get("reasoning"):
        what = repr(said[0]) if said else "'reasoning'"
        raise ValueError(f"{what} is given without a label; add 'label', or 'usable' for all four pictures")
    return {**line, "generated": [_without_truth(one) for one in pictures]} if pictures else line


def _refuse_verdicts(verdicts: Sequence[object]) -> None:
    """Refuse verdicts that do not determine a label."""
    if other := [one for one in verdicts if not isinstance(one, bool)]:
        raise ValueError(f"usable must be true or false, not {other[0]!r}")
    if len(verdicts) != len(OPTIONS):
        raise ValueError("only some generated pictures have 'usable'; give it for all four, or give a label")


def _without_nulls(record: Any) -> Any:
    return {key: value for key, value in record.items() if value is not None} if isinstance(record, dict) else record


def _without_truth(picture: object) -> object:
    """Drop the fields that describe defects; they are empty in an unlabelled picture."""
    return {k: v for k, v in picture.items() if k not in _TRUTH} if isinstance(picture, dict) else picture
