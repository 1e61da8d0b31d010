"""The training pages cannot drift: they list every command, every recipe and every field of a record."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from trainer.__main__ import COMMANDS
from trainer.records import Generated, Sample

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = (ROOT / "docs/training/reference.md").read_text(encoding="utf-8")
DATA = (ROOT / "docs/training/data.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_table(command: str) -> None:
    assert re.search(rf"^\| `{command}(?: --stage [\w-]+)?` \|", REFERENCE, re.MULTILINE)


@pytest.mark.parametrize("recipe", sorted(file.stem for file in (ROOT / "trainer/recipes").glob("*.yaml")))
def test_every_recipe_is_in_the_table(recipe: str) -> None:
    rows = [line for line in REFERENCE.splitlines() if line.startswith("| `")]
    assert any(f"`{recipe}`" in row for row in rows)


@pytest.mark.parametrize("field", sorted({*Sample.model_fields, *(f".{name}" for name in Generated.model_fields)}))
def test_every_field_of_a_record_is_in_the_table(field: str) -> None:
    assert re.search(rf"^\|[^|]*`(?:generated\[\])?{re.escape(field)}`", DATA, re.MULTILINE)
