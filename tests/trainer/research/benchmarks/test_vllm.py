"""A published MuirBench, divided and scored with the real engine on the shipped checkpoint."""

from __future__ import annotations

import json
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pillow

from screening.checkpoint.manifest import read_manifest
from trainer.research.benchmarks.questions import Part, read_benchmark
from trainer.research.benchmarks.split import split

TEXT = Value("string")
COLUMNS = ("idx", "task", "image_relation", "image_type", "question", "answer", "counterpart_idx")


def picture(number: int, place: int) -> dict[str, Any]:
    data = BytesIO()
    Pillow.new("RGB", (90, 60), (30 * number, 25 * place, 9)).save(data, "JPEG")
    return {"bytes": data.getvalue(), "path": None}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Questions of two to nine pictures."""
    rows = [
        dict.fromkeys(COLUMNS, "Ordering")
        | {
            "idx": str(number),
            "question": "Which is first?" + " <image>" * (2 + number),
            "options": ["the first", "the second", "None of the choices provided"],
            "answer": "C",
            "image_list": [picture(number, place) for place in range(2 + number)],
            "counterpart_idx": None,
        }
        for number in range(8)
    ]
    features = Features(dict.fromkeys(COLUMNS, TEXT) | {"options": List(TEXT), "image_list": List(Image())})
    path = tmp_path / "published/data/test-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    Dataset.from_list(rows, features=features).to_parquet(path)
    split("muirbench", tmp_path / "published", tmp_path / "data", 0)
    return tmp_path / "data"


@pytest.mark.vllm
@pytest.mark.exhaustive  # research; `evaluate` uses the same engine
def test_questions_of_two_to_nine_pictures_are_asked_and_answered(
    data: Path, tiny_checkpoint: Path, repository: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "trainer", "benchmark", "evaluate", "--checkpoint", str(tiny_checkpoint)]
    command += ["--data", str(data), "--part", "all", "--batch", "5", "--out", str(out)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.startswith((out / "report.md").read_text())
    replies = {line["id"]: line for line in map(json.loads, (out / "replies.jsonl").read_text().splitlines())}
    questions = read_benchmark(data, Part.ALL).questions
    assert replies.keys() == {question.id for question in questions}
    assert all(reply["completion_tokens"] for reply in replies.values())
    # Besides the pictures there are the text, of one length, and a few tokens around each picture.
    each = read_manifest(tiny_checkpoint).image.tokens_per_picture
    lengths = {len(question.files): replies[question.id]["prompt_tokens"] for question in questions}
    steps = [lengths[count + 1] - lengths[count] for count in range(2, 9)]
    assert all(each <= step <= each + 5 for step in steps)
