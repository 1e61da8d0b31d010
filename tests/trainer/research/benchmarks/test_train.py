"""Training on the training half of a MuirBench, with two to four pictures per question."""

from __future__ import annotations

import json
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pillow
from safetensors.torch import load_file
from transformers import AutoProcessor
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from screening.answer import Mode
from screening.checkpoint.directory import verify
from screening.checkpoint.manifest import read_manifest
from tests.squares import load_square
from tests.trainer.contracts import SMALL
from trainer.__main__ import main
from trainer.research.benchmarks import hcm_grpo
from trainer.research.benchmarks.evaluate import REPLIES_NAME, Response, origin
from trainer.research.benchmarks.questions import Part, read_benchmark
from trainer.research.benchmarks.rows import answer_rows
from trainer.research.benchmarks.split import split
from trainer.reward import completion_text
from trainer.runs.json_log import open_log
from trainer.runs.run_directory import claim
from trainer.training.sft.rows import dataset

pytestmark = pytest.mark.slow

TEXT = Value("string")
COLUMNS = ("idx", "task", "image_relation", "image_type", "question", "answer", "counterpart_idx")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("muirbench")
    rows = []
    for number in range(12):
        count = 2 + number % 3
        rows.append(
            dict.fromkeys(COLUMNS, "")
            | {
                "idx": str(number),
                "task": "Ordering",
                "question": "Which is first? " + "<image>" * (count - 1),
                "options": ["the first", "<image>", "None of the choices provided"],
                "answer": "ABC"[number % 3],
                "image_list": [picture(number, place) for place in range(count)],
                "counterpart_idx": None,
            }
        )
    features = Features(dict.fromkeys(COLUMNS, TEXT) | {"options": List(TEXT), "image_list": List(Image())})
    (directory / "published/data").mkdir(parents=True)
    path = directory / "published/data/test-00000-of-00001.parquet"
    Dataset.from_list(rows, features=features).to_parquet(path)
    split("muirbench", directory / "published", directory / "data", 0)
    return directory / "data"


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    stage = {"learning_rate": 0.001, "captions": False, "epochs": 1, "batch_size": 3}
    stage_2 = {"group_size": 2, "batch_size": 4, "gradient_accumulation": 2, "learning_rate": 0.01}
    stage_2 |= {"max_completion_tokens": 8, "epochs": 1, "last_epochs": 1, "gradient_checkpointing": False}
    settings = {"name": "small", "prompt": "compact", "max_tokens_cot": 256, "sft_weak": stage, "sft_answer": stage}
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump({**settings, "hcm_grpo": stage_2}))
    return str(path)


def picture(number: int, place: int) -> dict[str, Any]:
    data = BytesIO()
    Pillow.new("RGB", (40, 30), (20 * number, 60 * place, 9)).save(data, "PNG")
    return {"bytes": data.getvalue(), "path": None}


def changed(before: Path, after: Path) -> set[str]:
    old, new = (load_file(directory / "model.safetensors") for directory in (before, after))
    return {name for name, tensor in old.items() if not torch.equal(tensor, new[name])}


def test_a_batch_of_questions_keeps_every_picture_and_learns_the_letter_alone(
    data: Path, small_checkpoint: Path
) -> None:
    processor = AutoProcessor.from_pretrained(small_checkpoint)
    questions = read_benchmark(data, Part.TRAIN).questions
    table = dataset(answer_rows(questions), data, SMALL)
    batch = DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True)(list(table))
    each = read_manifest(small_checkpoint).image.tokens_per_picture
    for question, ids, labels in zip(questions, batch["input_ids"], batch["labels"], strict=True):
        assert (ids == processor.image_token_id).sum() == each * len(question.files)
        assert processor.tokenizer.decode(labels[labels != -100]) == f"{question.answer}<|im_end|>\n"
    assert len(batch["pixel_values"]) == sum(len(question.files) for question in questions)
    for image, file in zip(table[0]["images"], questions[0].files, strict=True):
        assert image.tobytes() == load_square((data / file).read_bytes(), 64).tobytes()


def test_sft_trains_the_language_model_on_the_training_half(
    data: Path, small_checkpoint: Path, recipe: str, tmp_path: Path
) -> None:
    out = tmp_path / "sft"
    command = ["benchmark", "sft", "--recipe", recipe, "--checkpoint", str(small_checkpoint), "--data", str(data)]
    command += ["--tracking-uri", "none", "--out", str(out)]
    assert main(command) == 0
    manifest = verify(out / "checkpoint")
    assert (manifest.version, manifest.parent) == ("muirbench-sft", read_manifest(small_checkpoint).digest)
    train = read_benchmark(data, Part.TRAIN)
    assert manifest.data["muirbench-sft"] == {"digest": train.digest, "samples": len(train.questions)}
    names = changed(small_checkpoint, out / "checkpoint")
    assert any("lm_head" in name for name in names)
    assert not any("vision_tower" in name or "multi_modal_projector" in name for name in names)
    assert json.loads((out / "log.json").read_text())

    settings = yaml.safe_load(Path(recipe).read_text())
    settings["sft_answer"] |= {"save_steps": 7, "gradient_checkpointing": True}
    Path(recipe).write_text(yaml.safe_dump(settings))
    begun = json.loads((out / "run.json").read_text())
    assert not {"save_steps", "gradient_checkpointing"} & begun["settings"].keys()
    assert main(command) == 0, "a run continues with other settings that do not decide the weights"
    Path(recipe).write_text(Path(recipe).read_text().replace("learning_rate: 0.001", "learning_rate: 0.002"))
    assert main(command) == 2, "but not with other settings that decide the weights"


def test_stage_2_trains_on_questions_of_several_lengths_and_knows_the_hard_ones(
    data: Path,
    small_checkpoint: Path,
    recipe: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    manifest, benchmark, predictions = read_manifest(small_checkpoint), read_benchmark(data, Part.TRAIN), tmp_path / "p"
    claim(predictions, origin(manifest, benchmark, Mode.DIRECT))
    with open_log(predictions / REPLIES_NAME, Response) as log:
        figures = {"finish": "stop", "prompt_tokens": 1, "completion_tokens": 1}
        log.append(Response(id=question.id, text="B", **figures) for question in benchmark.questions)

    def noise(completions: list[Any], **_: Any) -> list[float]:  # a model of random weights earns nothing
        return [zlib.crc32(completion_text(completion).encode()) % 7 / 7 for completion in completions]

    functions = hcm_grpo.reward_functions
    monkeypatch.setattr(hcm_grpo, "reward_functions", lambda *arguments: [*functions(*arguments), noise])
    out = tmp_path / "run"
    command = ["benchmark", "hcm-grpo", "--recipe", recipe, "--checkpoint", str(small_checkpoint), "--data", str(data)]
    command += ["--predictions", str(predictions), "--tracking-uri", "none", "--out", str(out)]
    assert main(command) == 0
    assert verify(out / "checkpoint").version == "muirbench-hcm-grpo"
    hard = json.loads((out / "hard-cases.json").read_text())
    assert hard["ids"] == [question.id for question in benchmark.questions if question.answer != "B"]
    names = changed(small_checkpoint, out / "checkpoint")
    assert any("lm_head" in name for name in names)
    assert any("vision_tower" in name for name in names)
    entries = [entry for entry in json.loads((out / "log.json").read_text()) if "reward" in entry]
    assert {"rewards/format_reward/mean", "rewards/answer_reward/mean"} <= set(entries[0])
    assert main([*command, "--mode", "cot"]) == 2, "the predictions are of the other mode"

    # As if the same number of other questions had been hard when the run started.
    easy = next(question.id for question in benchmark.questions if question.id not in hard["ids"])
    (out / "hard-cases.json").write_text(json.dumps({**hard, "ids": [easy, *hard["ids"][1:]]}))
    assert main(command) == 2
    assert "other hard cases" in capsys.readouterr().err
