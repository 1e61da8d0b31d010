"""The page of the decision store cannot drift: it lists every table and every line that the store logs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.decisions import review_tables

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/decision-store.md").read_text(encoding="utf-8")
CODE = "".join((ROOT / f"service/decisions/{name}.py").read_text(encoding="utf-8") for name in ("store", "writer"))


def first_cells(section: str) -> list[str]:
    """What the first column of a section's table names."""
    _, _, text = PAGE.partition(f"\n## {section}\n")
    rows = [line for line in text.partition("\n## ")[0].splitlines() if line.startswith("| `")]
    return [name for row in rows for name in re.findall("`([^`]+)`", row.split("|")[1])]


@pytest.mark.parametrize(
    ("section", "known"),
    [
        ("Tables", review_tables.METADATA.tables),
        ("Log lines", re.findall(r'log\(LOGGER, logging\.\w+, "([^"]+)"', CODE)),
    ],
)
def test_the_section_names_what_exists_and_nothing_else(section: str, known: list[str]) -> None:
    assert sorted(first_cells(section)) == sorted(known)
