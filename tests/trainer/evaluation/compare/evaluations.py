"""Data and evaluations to compare."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from screening.answer import Finding, Mode, compose, parse, render
from screening.runtime.utc_time import utc_now_text
from screening.task import NONE, OPTIONS, Dimension
from trainer.__main__ import main
from trainer.data_directory import data_digest, read_samples
from trainer.evaluation.evaluate.predictions import Prediction
from trainer.evaluation.evaluate.result import EvaluatedCheckpoint, EvaluatedData, Evaluation, Tokens, versions
from trainer.judged import Judged
from trainer.metrics import evaluate_scores

SHADOW, LAYOUT = Dimension.SHADOW, Dimension.LAYOUT

LABELS = ("AC", "N", "B", "ABCD", "D")

WRONG = {"AC": "B", "N": "A", "B": "AB", "ABCD": "N", "D": "N"}
"""An answer that is wrong for each label."""


def make_data(directory: Path, labels: Sequence[str] = LABELS, *, comment: str = "", per_product: int = 1) -> Path:
    """Sample n has shadow issues where n is even, layout issues where it is odd."""
    lines = []
    for number, label in enumerate(labels):
        folder = directory / "pictures" / f"s{number}"
        folder.mkdir(parents=True)
        for place, name in enumerate(("original", *"abcd")):
            Image.new("RGB", (300, 150), (40 * number, 50 * place, 0)).save(folder / f"{name}.png")
        generated = [
            {
                "file": f"pictures/s{number}/{option.lower()}.png",
                "option": option,
                "usable": option in label,
                "dimensions": [] if option in label else [LAYOUT if number % 2 else SHADOW],
                "severity": 0 if option in label else 2,
                "comment": comment,
            }
            for option in OPTIONS
        ]
        original = {"file": f"pictures/s{number}/original.png"}
        record = {"id": f"s{number}", "product": f"p{number // per_product}", "original": original}
        lines.append(json.dumps(record | {"generated": generated, "label": label}) + "\n")
    (directory / "samples.jsonl").write_text("".join(lines))
    return directory


def think(options: str, comment: str = "seen") -> str:
    """A chain of thought that ends in these letters."""
    findings = tuple(
        Finding(option, frozenset() if option in options else frozenset({SHADOW}), comment) for option in OPTIONS
    )
    return render(compose(frozenset(options) - {NONE}, findings), Mode.COT)


def make_evaluation(
    directory: Path, data: Path, texts: Sequence[str], *, name: str = "tiny", limit: int | None = None, **changes: Any
) -> Path:
    """Write an evaluation with these texts as answers; `changes` apply to scores.json."""
    samples = read_samples(data)
    mode = changes.get("mode", Mode.COT)
    judged = [Judged(sample, parse(text, mode)) for sample, text in zip(samples, texts, strict=False)]
    logged = [
        Prediction.of(one, text=text, finish="stop", confidence=0.5, prompt_tokens=1, completion_tokens=1)
        for one, text in zip(judged, texts, strict=False)
    ]
    evaluated = judged[:limit]
    result = Evaluation(
        created=utc_now_text(),
        checkpoint=EvaluatedCheckpoint(name=name, version="1", digest=f"sha256:{name}"),
        data=EvaluatedData(digest=data_digest(data, samples), samples=len(samples), evaluated=len(evaluated)),
        mode=mode,
        scores=evaluate_scores(evaluated),
        reliability=None,
        tokens=Tokens(prompt=1, completion=1, cut=0),
        versions=versions(),
    ).model_copy(update=changes)
    directory.mkdir()
    (directory / "scores.json").write_text(result.model_dump_json())
    (directory / "predictions.jsonl").write_text("".join(one.model_dump_json() + "\n" for one in logged))
    return directory


def compare(before: Path, after: Path, out: Path, data: Path | None = None) -> int:
    named = ["--data", str(data)] if data else []
    return main(["compare", "--before", str(before), "--after", str(after), "--out", str(out), *named])


def result(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "comparison.json").read_text()))
