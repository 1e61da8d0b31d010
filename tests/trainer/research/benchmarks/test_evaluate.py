"""From a published BLINK to scores, with a scripted engine instead of vLLM: requests, log, resumption and written
files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pillow

from screening.answer import Mode
from screening.checkpoint.directory import write_manifest
from screening.checkpoint.manifest import Decoding, ImageContract, Manifest, read_manifest
from screening.prompt import COMPACT
from trainer.__main__ import main
from trainer.evaluation.evaluate.errors import EvaluationError
from trainer.evaluation.evaluate.generate import Reply
from trainer.research.benchmarks.engine import Ask, Asked
from trainer.research.benchmarks.evaluate import evaluate, read_judged
from trainer.research.benchmarks.questions import Part, read_benchmark
from trainer.research.benchmarks.report import BenchmarkEvaluation
from trainer.research.benchmarks.split import split
from trainer.runs.run_directory import RunMismatch

SIZE = 32
TEXT = Value("string")
COUNTS = {"Counting": 8, "IQ_Test": 6}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A split BLINK. Right is A for even numbers, B for odd ones; red is the number, green the picture's place."""
    columns = dict.fromkeys(("idx", "question", "sub_task", "answer", "prompt"), TEXT) | {"choices": List(TEXT)}
    features = Features(columns | {f"image_{place}": Image() for place in range(1, 5)})
    number = 0
    for task, count in COUNTS.items():
        rows = []
        for _ in range(count):
            number += 1
            rows.append(
                {
                    "idx": f"val_{task}_{number}",
                    "question": "Which?",
                    "sub_task": task,
                    "answer": "(B)" if number % 2 else "(A)",
                    "prompt": f"Which is number {number}?\n(A) this\n(B) that",
                    "choices": ["this", "that"],
                    **{f"image_{p}": picture(number, p) if p <= 1 + number % 4 else None for p in range(1, 5)},
                }
            )
        path = tmp_path / "published" / task / "val-00000-of-00001.parquet"
        path.parent.mkdir(parents=True)
        Dataset.from_list(rows, features=features).to_parquet(path)
    split("blink", tmp_path / "published", tmp_path / "data", 0)
    return tmp_path / "data"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    directory = tmp_path / "checkpoint"
    directory.mkdir()
    (directory / "model.safetensors").write_text("weights")
    contract: dict[str, Any] = {"prompt": COMPACT, "image": ImageContract(size=SIZE, tokens_per_picture=4)}
    write_manifest(directory, name="scripted", version="1", decoding=Decoding(), **contract)
    return directory


def picture(number: int, place: int) -> dict[str, Any]:
    data = BytesIO()
    Pillow.new("RGB", (40, 30), (number, 50 * place, 0)).save(data, "PNG")
    return {"bytes": data.getvalue(), "path": None}


def truth(number: int) -> str:
    return "B" if number % 2 else "A"


class Scripted:
    """Opens scripted engines, checks what they are shown and remembers which questions they were asked."""

    def __init__(self, speak: Callable[[int], str] = truth, *, fail_after: int | None = None) -> None:
        self.speak, self.fail_after = speak, fail_after
        self.asked: list[str] = []
        self.opened: list[int] = []

    @contextmanager
    def __call__(self, _checkpoint: Path, _manifest: Manifest, _mode: Mode, most_pictures: int) -> Iterator[Ask]:
        self.opened.append(most_pictures)
        yield self.ask

    def ask(self, questions: Sequence[Asked]) -> list[Reply]:
        if self.fail_after is not None and len(self.asked) + len(questions) > self.fail_after:
            raise EvaluationError("the engine died")
        return [self.reply(question) for question in questions]

    def reply(self, question: Asked) -> Reply:
        number = int(question.id.rpartition("_")[2])
        content = question.messages[0]["content"]
        shown = [image.getpixel((SIZE // 2, SIZE // 2)) for image in question.pictures]
        assert shown == [(number, 50 * place, 0) for place in range(1, 2 + number % 4)]
        assert [part["type"] for part in content] == ["image"] * len(shown) + ["text", "text"]
        assert content[-2]["text"].startswith(f"Which is number {number}?")
        self.asked.append(question.id)
        return Reply(self.speak(number), "stop", (), prompt_tokens=50, completion_tokens=1)


def go(checkpoint: Path, data: Path, out: Path, engine: Scripted, part: Part = Part.TEST, **settings: Any) -> Any:
    settings = {"mode": Mode.DIRECT, "batch": 2, **settings}
    return evaluate(checkpoint, data, part, out, open_engine=engine, **settings)


def test_a_model_that_is_always_right_scores_100_in_every_subtask(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    engine = Scripted()
    result = go(checkpoint, data, tmp_path / "out", engine)
    assert result.scores.overall.correct.percent == 100
    assert {name: score.correct.n for name, score in result.scores.subtasks.items()} == {"Counting": 4, "IQ_Test": 3}
    assert result.scores.overall.baseline == 50
    assert len(engine.asked) == 7
    assert set(engine.asked) == {question.id for question in read_benchmark(data, Part.TEST).questions}
    assert engine.opened == [max(len(q.files) for q in read_benchmark(data, Part.TEST).questions)]


def test_right_wrong_tolerated_and_unreadable_answers_as_counted_by_hand(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    said = {1: "B", 2: "B", 3: "that.", 4: "Answer: A", 5: "no idea", 6: "", 7: "C"}
    out = tmp_path / "out"
    result = go(checkpoint, data, out, Scripted(lambda number: said.get(number, "A")), Part.ALL)
    # right: 1, 3, 4 and of 8 to 14 the even ones
    assert (result.scores.overall.correct.hits, result.scores.overall.correct.n) == (7, 14)
    assert result.scores.overall.correct.low == pytest.approx(26.8, abs=0.05)
    assert result.scores.overall.correct.high == pytest.approx(73.2, abs=0.05)
    assert result.scores.unreadable.hits == 3
    assert result.scores.unreadable_reasons == {"unknown_option": 2, "empty": 1}
    assert result.scores.tolerated.hits == 2
    answers = {line["id"]: line for line in map(json.loads, (out / "answers.jsonl").read_text().splitlines())}
    assert answers["val_Counting_3"] == {
        "id": "val_Counting_3",
        "subtask": "Counting",
        "truth": "B",
        "answer": "B",
        "right": True,
        "why": "",
        "text": "that.",
    }
    assert answers["val_Counting_7"]["answer"] is None
    assert "not one of AB" in answers["val_Counting_7"]["why"]


def test_the_result_is_a_table_for_people_and_a_file_for_programs(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = go(checkpoint, data, out, Scripted(lambda _: "?"), limit=3)
    assert BenchmarkEvaluation.model_validate_json((out / "scores.json").read_bytes()) == result
    report = (out / "report.md").read_text()
    assert "# BLINK, test: scripted 1, direct" in report
    assert "3 questions (the first of 7), 95% intervals (Wilson)" in report
    assert "Reasons for unreadable answers: unknown_option 3." in report
    assert result.data.digest == read_benchmark(data, Part.TEST).digest


def test_an_interrupted_run_continues_where_it_stopped(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="the engine died"):
        go(checkpoint, data, tmp_path / "out", Scripted(fail_after=5))
    log = tmp_path / "out" / "replies.jsonl"
    log.write_bytes(log.read_bytes()[:-7])  # the kill came in the middle of a line
    second = Scripted()
    assert go(checkpoint, data, tmp_path / "out", second).scores.overall.correct.percent == 100
    assert len(second.asked) == 4
    third = Scripted()
    go(checkpoint, data, tmp_path / "out", third)
    assert third.opened == [], "a complete evaluation is scored again without an engine"


def test_another_evaluation_is_not_mixed_in(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    go(checkpoint, data, out, Scripted())
    for other in ({"mode": Mode.COT}, {"part": Part.TRAIN}):
        with pytest.raises(RunMismatch):
            go(checkpoint, data, out, Scripted(), **other)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "scores.json").write_text("{}")
    with pytest.raises(RunMismatch, match="other files"):
        go(checkpoint, data, tmp_path / "foreign", Scripted())


def test_the_halves_and_both_together_are_three_data_sets(data: Path) -> None:
    assert len({read_benchmark(data, part).digest for part in Part}) == 3
    assert len(read_benchmark(data, Part.ALL).questions) == 14


def test_hard_cases_are_read_from_a_complete_evaluation_of_the_same_model(
    checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    manifest, benchmark, out = read_manifest(checkpoint), read_benchmark(data, Part.TRAIN), tmp_path / "out"
    with pytest.raises(EvaluationError, match="holds no evaluation"):
        read_judged(out, manifest, benchmark, Mode.DIRECT)
    go(checkpoint, data, out, Scripted(lambda _: "A"), Part.TRAIN, limit=2)
    with pytest.raises(EvaluationError, match=r"lacks 5 of 7 questions.*without --limit"):
        read_judged(out, manifest, benchmark, Mode.DIRECT)
    go(checkpoint, data, out, Scripted(lambda _: "A"), Part.TRAIN)
    judged = read_judged(out, manifest, benchmark, Mode.DIRECT)
    assert [one.right for one in judged] == [one.question.answer == "A" for one in judged]
    with pytest.raises(RunMismatch):
        read_judged(out, manifest, benchmark, Mode.COT)


@pytest.mark.parametrize("action", ["evaluate", "sft", "hcm-grpo"])
def test_a_fault_that_a_user_can_mend_is_one_line(
    action: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--checkpoint", str(checkpoint), "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]
    if action == "hcm-grpo":
        places += ["--predictions", str(tmp_path / "none")]
    assert main(["benchmark", action, *places]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert "benchmark split" in said
