"""Reads the result of an annotation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def rejected(report_of: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (report_of / "rejected.jsonl").read_text().splitlines()]


def annotation(out: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((out / "annotation.json").read_text())
    return result
