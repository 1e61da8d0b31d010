"""The recipe `paper-prompt`, scaled down: a base model gets the paper's question, and every stage asks with it."""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path

import pytest
import yaml

from screening.answer import Mode
from screening.checkpoint.manifest import read_manifest, verify
from screening.inference.inspection import inspect
from trainer.__main__ import main
from trainer.data_directory import data_digest, read_samples
from trainer.prompt_texts import load_prompt
from trainer.reward import Completion, completion_text
from trainer.training.hard_cases.cases import Cases
from trainer.training.hard_cases.record import write_hard_cases
from trainer.training.recipe.recipe import load_recipe
from trainer.training.sft.rows import rollout_rows

PAPER = load_prompt("paper")


def scaled_down(path: Path, **changed: object) -> str:
    """The recipe with the lengths and rates of a model that trains in seconds."""
    sft = {"epochs": 1, "batch_size": 6, "learning_rate": 0.001, "warmup_ratio": 0.0}
    sft |= {"gradient_checkpointing": False}
    grpo = {"epochs": 1, "last_epochs": 0, "group_size": 2, "batch_size": 12, "learning_rate": 0.01, "vllm": "none"}
    grpo |= {"max_completion_tokens": 8, "cut_rollouts": True, "gradient_checkpointing": False}
    settings = {"extends": "paper-prompt", "max_tokens_cot": 256, "sft_answer": sft, "hcm_grpo": grpo}
    path.write_text(yaml.safe_dump({**settings, **changed}))
    return str(path)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    return scaled_down(tmp_path_factory.mktemp("recipe") / "small.yaml")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, recipe: str, small_checkpoint: Path) -> Path:
    out = tmp_path_factory.mktemp("paper") / "base"
    assert main(["import", recipe, "--model", str(small_checkpoint), "--out", str(out)]) == 0
    return out


@pytest.mark.slow
def test_every_stage_asks_with_the_prompt_that_the_checkpoint_carries(
    base: Path, recipe: str, tmp_path: Path, small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def noise(completions: list[Completion], **_: object) -> list[float]:  # random weights earn no reward
        return [zlib.crc32(completion_text(one).encode()) % 7 / 7 for one in completions]

    monkeypatch.setattr("trainer.training.hcm_grpo.train.reward_functions", lambda *_: [noise])
    assert verify(base).prompt == PAPER
    inspect(base, read_manifest(base))  # as the service does: the question fits, with every picture in it
    common = ["--recipe", recipe, "--data", str(small_data), "--tracking-uri", "none"]
    sft = tmp_path / "sft" / "checkpoint"
    command = ["sft", "--stage", "answer-driven", "--checkpoint", str(base), "--out", str(sft.parent)]
    assert main([*command, *common]) == 0
    samples = read_samples(small_data)
    names, hard = tuple(sample.id for sample in samples), tmp_path / "hard"
    hard.mkdir()
    started = read_manifest(sft)
    write_hard_cases(hard, Cases(names, names[:1]), checkpoint=started.digest, data=data_digest(small_data, samples))
    command = ["hcm-grpo", "--checkpoint", str(sft), "--hard-cases", str(hard), "--out", str(tmp_path / "rl")]
    assert main([*command, *common]) == 0
    trained = verify(tmp_path / "rl" / "checkpoint")
    assert started.prompt == trained.prompt == PAPER
    assert trained.recipe["prompt"] == {"cot": PAPER.cot, "direct": PAPER.direct}
    asked = rollout_rows(samples, trained.prompt)[0]["prompt"][0]["content"][0]
    assert asked == {"type": "text", "text": PAPER.cot}


def test_a_checkpoint_that_is_asked_otherwise_is_refused(
    recipe: str, tmp_path: Path, small_data: Path, small_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--recipe", recipe, "--checkpoint", str(small_checkpoint), "--data", str(small_data)]
    common += ["--out", str(tmp_path / "out"), "--tracking-uri", "none"]
    assert main(["sft", "--stage", "answer-driven", *common]) == 2
    assert main(["hcm-grpo", "--hard-cases", str(tmp_path), *common]) == 2
    refused = capsys.readouterr().err
    assert refused.count(f"states the prompt {PAPER.version}, but the checkpoint is asked with compact-1") == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"max_tokens_cot": 1000}, "(max_tokens_cot) exceed the model's 1024 positions. Lower max_tokens_cot to "),
        (
            {"prompt": {"cot": "Think.", "direct": "Answer. " * 2000}},
            "(Direct mode) exceed the model's 1024 positions.",
        ),
        ({"prompt": {"cot": "Think <mark>.", "direct": "Answer."}}, "prompt.cot: '<mark>' is a special token of this"),
    ],
)
def test_a_prompt_that_the_base_model_cannot_read_is_refused(
    changed: dict[str, object], said: str, tmp_path: Path, small_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = shutil.copytree(small_checkpoint, tmp_path / "base")
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    last = max(one["id"] for one in tokenizer["added_tokens"])
    special = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
    tokenizer["added_tokens"].append({"id": last + 1, "content": "<mark>", **special})
    (source / "tokenizer.json").write_text(json.dumps(tokenizer))
    recipe = scaled_down(tmp_path / "small.yaml", **changed)
    assert main(["import", recipe, "--model", str(source), "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_direct_question_is_the_papers_too(base: Path) -> None:
    from transformers import AutoTokenizer

    from screening.inference.generation import prompt_text

    text = prompt_text(AutoTokenizer.from_pretrained(base), read_manifest(base).prompt, Mode.DIRECT)
    assert "Answer with the letter alone." in text and "<think>" not in text


def test_ablation_refuses_a_base_model_that_is_asked_otherwise(
    small_checkpoint: Path, tmp_path: Path, small_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load_recipe("paper-prompt").stage_2.schedule == "constant", "as `ablation` needs it"
    command = ["ablation", "--recipe", "paper-prompt", "--base", str(small_checkpoint), "--out", str(tmp_path / "out")]
    for name in ("training", "pseudo-label", "test"):
        command += [f"--{name}", str(small_data)]
    assert main([*command, "--tables", "4"]) == 2
    assert "the checkpoint is asked with compact-1" in capsys.readouterr().err
