"""Data directories to split, the command, and its results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trainer.__main__ import main
from trainer.data.split.assign import Split
from trainer.data.split.divide import SPLIT_NAME

THIRDS = "1,1,1,0"


def record(name: str, product: str, label: str = "AC", **files: str) -> dict[str, Any]:
    """A sample as a source writes it; `files` gives pictures other names than the sample's own."""
    generated = [
        {
            "file": files.get(option, f"{name}/{option}.jpg"),
            "option": option,
            "usable": option in label,
            "dimensions": [] if option in label else ["physical_shadow", "placement_layout"],
            "severity": 0 if option in label else 2,
        }
        for option in "ABCD"
    ]
    original = {"file": files.get("original", f"{name}/original.jpg"), "attributes": {"colour": "red"}}
    return {"id": name, "product": product, "original": original, "generated": generated, "label": label}


def write(directory: Path, *records: dict[str, Any]) -> Path:
    """A data directory whose pictures are bytes of their own: splitting does not look at pixels."""
    directory.mkdir(parents=True, exist_ok=True)
    for one in records:
        for file in (one["original"]["file"], *(picture["file"] for picture in one["generated"])):
            path = directory / file
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.write_bytes(f"pixels of {file}".encode())
    (directory / "samples.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    return directory


def many(first: int, last: int) -> list[dict[str, Any]]:
    """Two samples of each product from `first` to `last - 1`."""
    labels = ("AC", "N", "B", "ABCD")
    return [
        record(f"s{number}-{take}", f"p{number}", labels[(number + take) % 4])
        for number in range(first, last)
        for take in (0, 1)
    ]


def split(out: Path, *data: Path, shares: str = THIRDS, seed: int = 0, validation: str = "0") -> int:
    given = ["--shares", shares, "--seed", str(seed), "--validation", validation]
    return main(["split", "--data", *map(str, data), "--out", str(out), *given])


def report(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / SPLIT_NAME).read_text()))


def ids(out: Path, name: str) -> set[str]:
    return {json.loads(line)["id"] for line in (out / name / "samples.jsonl").read_text().splitlines()}


def where(out: Path) -> dict[str, str]:
    return {sample: name for name in Split if (out / name).exists() for sample in ids(out, name)}


def tree(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def unlabelled(name: str, product: str, **files: str) -> dict[str, Any]:
    line = record(name, product, **files)
    for picture in line["generated"]:
        del picture["usable"], picture["dimensions"], picture["severity"]
    del line["label"]
    return line
