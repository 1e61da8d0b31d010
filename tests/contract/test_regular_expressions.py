"""Regular expressions mean the same in every Python 3.11."""

from __future__ import annotations

import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("folder", ["screening", "service", "trainer", "loadtest", "clients/python"])
def test_no_pattern_has_possessive_quantifiers(folder):
    # Before 3.11.5, Python matches a group with such a quantifier wrongly (cpython #106052). With Debian 12's 3.11.2,
    # every answer with reasoning was unreadable.
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    assert not [f"{file}: {text}" for file in files for text in _raw_strings(file) if _is_possessive(text)]


def _raw_strings(file: Path) -> Iterator[str]:
    with file.open("rb") as source:
        for token in tokenize.tokenize(source.readline):
            if token.type == tokenize.STRING and "r" in re.match(r"\w*", token.string)[0].lower():
                yield token.string


def _is_possessive(pattern: str) -> bool:
    without_escapes = re.sub(r"\\.", "x", pattern, flags=re.DOTALL)
    without_sets = re.sub(r"\[[^]]*]", "x", without_escapes)
    return re.search(r"[*+?}][+]|[(][?]>", without_sets) is not None
