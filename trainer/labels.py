"""Parse the label of a sample.

On disk a label is the letters of the usable pictures in order, or `N` when none is usable (paper, section 3.2). Label
sheets, spreadsheets and scripts write labels in other ways. This module accepts every form that has only one meaning.
"""

from __future__ import annotations

import re

from screening.task import NONE, OPTIONS, options_text

_SEPARATORS = re.compile(r"[\s,;/|+&]+")
_NONE_WORDS = frozenset({NONE, "NONE"})


def read_label(value: object) -> str:
    """Convert a label to the form on disk: letters in order without repetition, or `N`.

    Accepted are letters in any case and order, written together or separated by spaces, commas, semicolons, slashes,
    bars, `+` or `&`; a list of letters; and `N` or `None` in any case.

    Raises:
        ValueError: the value is not a label; the message lists the accepted forms.
    """
    text = " ".join(value) if isinstance(value, list) and all(isinstance(one, str) for one in value) else value
    if not isinstance(text, str):
        raise ValueError(_complaint(value))
    parts = [part for part in _SEPARATORS.split(text.strip().upper()) if part]
    if len(parts) == 1 and parts[0] in _NONE_WORDS:
        return NONE
    letters = "".join(parts)
    if not letters or not set(letters) <= set(OPTIONS):
        raise ValueError(_complaint(value))
    return options_text(set(letters))


def _complaint(value: object) -> str:
    return (
        f"{value!r} is not a label; write the letters of the usable pictures, such as 'AC' or 'A,C', "
        f"or '{NONE}' when none is usable"
    )
