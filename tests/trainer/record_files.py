"""Records of samples on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image


def generated(name: str, option: str, *, usable: bool) -> dict[str, Any]:
    dimension = "physical_shadow"
    defect = {"dimension": dimension, "kind": "direction", "severity": 2, "comment": "the shadow points to the light"}
    return {
        "file": f"pictures/{name}/{option.lower()}.jpg",
        "option": option,
        "usable": usable,
        "dimensions": [] if usable else [dimension],
        "severity": 0 if usable else 2,
        "defects": [] if usable else [defect],
        "comment": "the product is unchanged" if usable else defect["comment"],
        "caption": "a jar on a table",
    }


def write(directory: Path, *records: dict[str, Any]) -> Path:
    for one in records:
        for file in (one["original"]["file"], *(picture["file"] for picture in one["generated"])):
            path = directory / str(file)
            if path.is_relative_to(directory) and ".." not in path.parts:
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (40, 40), (200, 10, 10)).save(path)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "samples.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    return directory


def bare(name: str = "s1", **fields: Any) -> dict[str, Any]:
    """A sample as people write it: the five pictures and the label."""
    files = [f"{name}/{letter}.jpg" for letter in "oabcd"]
    return {"id": name, "original": files[0], "generated": files[1:], **fields}


def in_full(line: dict[str, Any]) -> dict[str, Any]:
    """The same with its pictures as objects, which `write` needs."""
    return {
        **line,
        "original": {"file": line["original"]},
        "generated": [{"file": file, "option": option} for file, option in zip(line["generated"], "ABCD", strict=True)],
    }
