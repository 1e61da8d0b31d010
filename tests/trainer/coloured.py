"""Samples whose pictures have one colour each: red encodes the sample, green the place in the question. An engine or a
server can therefore recognise the question, also in a JPEG."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from screening.answer import Finding, Mode, compose, render
from screening.task import NONE, OPTIONS, Dimension
from trainer.records import Sample

LABELS = ("AC", "N", "B", "ABCD", "D")
SHADOW = frozenset({Dimension.SHADOW})
LAYOUT = frozenset({Dimension.LAYOUT})


def make_data(directory: Path, labels: Sequence[str] = LABELS, *, labelled: bool = True) -> Path:
    """A data directory of at most seven samples; pictures outside the label have a wrong shadow, of any severity."""
    lines = []
    for number, label in enumerate(labels):
        folder = f"pictures/s{number}"
        (directory / folder).mkdir(parents=True)
        for place, name in enumerate(("original", *"abcd")):
            Image.new("RGB", (48, 36), (number * 40, place * 50, 0)).save(directory / folder / f"{name}.png")
        generated: list[dict[str, Any]] = [{"file": f"{folder}/{o.lower()}.png", "option": o} for o in OPTIONS]
        record = {
            "id": f"s{number}",
            "product": f"p{number}",
            "original": {"file": f"{folder}/original.png", "attributes": {"colour": "red"}},
            "generated": generated,
        }
        if labelled:
            for picture in generated:
                usable = picture["option"] in label
                picture |= {"usable": usable, "dimensions": [] if usable else [Dimension.SHADOW.value]}
                picture["severity"] = 0 if usable else 1 + number % 3
            record["label"] = label
        lines.append(json.dumps(record) + "\n")
    (directory / "samples.jsonl").write_text("".join(lines))
    return directory


def sample_of(name: str, label: str) -> Sample:
    """One without pictures; those outside the label have a wrong shadow."""
    generated = [
        {
            "file": f"{option}.jpg",
            "option": option,
            "usable": option in label,
            "dimensions": [] if option in label else [Dimension.SHADOW.value],
            "severity": 0 if option in label else 2,
        }
        for option in OPTIONS
    ]
    fields = {"id": name, "product": name, "original": {"file": "o.jpg"}, "generated": generated, "label": label}
    return Sample.model_validate(fields)


def shown(pixel: tuple[int, ...]) -> tuple[int, int]:
    """Number of the sample and place in the question."""
    return round(pixel[0] / 40), round(pixel[1] / 50)


def thought(options: str, wrong: dict[str, frozenset[Dimension]] | None = None) -> str:
    """A complete reasoning: the named options are normal, and the others have a wrong shadow or the defect `wrong`."""
    verdicts = {option: frozenset() if option in options else SHADOW for option in OPTIONS} | (wrong or {})
    findings = tuple(Finding(option, verdict, "as one can see") for option, verdict in verdicts.items())
    return render(compose(frozenset(options) - {NONE}, findings), Mode.COT)
