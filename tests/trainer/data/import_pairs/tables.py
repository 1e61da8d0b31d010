"""A shop's table of pictures, and the import of it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from trainer.__main__ import main

Row = dict[str, Any]


def picture(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 64), (shade % 256, shade * 7 % 256, 90)).save(path)


def shop(images: Path, counts: Iterable[int]) -> list[Row]:
    """Originals with so many generated pictures each; every third picture is usable."""
    rows = []
    for number, count in enumerate(counts):
        original = f"o{number}.png"
        picture(images / original, 200 + number)
        for index in range(count):
            name = f"g/{number}-{index}.png"
            picture(images / name, 10 * number + index)
            rows.append({"original": original, "generated": name, "usable": index % 3 == 0})
    return rows


def json_lines(path: Path, rows: Iterable[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run(*arguments: object) -> int:
    return main(["import-pairs", *map(str, arguments)])


def report(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "import-pairs.json").read_text())
    return found


def left_over(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "left-over.jsonl").read_text().splitlines()]
