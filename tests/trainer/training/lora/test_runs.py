"""Whole trainings with adapters, beside full fine-tuning, through all stages, and continued with other settings."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from screening.checkpoint.manifest import read_manifest, verify
from screening.checkpoint.registry import PRODUCTION, Registry
from tests.service.conftest import Sample, launch
from tests.service.swapping import screen
from tests.trainer.command_line import CHECKPOINT, trainer
from tests.trainer.published import make_data, make_evaluation, make_prober
from trainer.__main__ import main
from trainer.data_directory import data_digest, read_samples
from trainer.reward import completion_text
from trainer.training.hard_cases.cases import Cases
from trainer.training.hard_cases.record import write_hard_cases
from trainer.training.recipe.recipe import load_recipe

pytestmark = [pytest.mark.slow]


def write_recipe(path: Path, **changes: Any) -> str:
    """The shipped recipe of the 2B model, scaled down. `lora` and `stage_2` replace settings of these parts."""
    lora, stage_2 = {"rank": 4, "alpha": 8, **changes.pop("lora", {})}, changes.pop("stage_2", {})
    length = changes.pop("max_tokens_cot", 256)
    sft = {
        "epochs": 1,
        "batch_size": 2,
        "learning_rate": 0.003,
        "lora": lora,
        "gradient_checkpointing": True,
        **changes,
    }
    grpo = {"epochs": 1, "last_epochs": 1, "group_size": 2, "batch_size": 4, "learning_rate": 0.01, "lora": lora}
    grpo |= stage_2
    settings = {"extends": "internvl3-2b-lora", "name": "small", "prompt": "compact", "max_tokens_cot": length}
    settings |= {
        "sft_weak": sft,
        "sft_answer": sft,
        "hcm_grpo": {**grpo, "max_completion_tokens": 8, "cut_rollouts": True},
    }
    path.write_text(yaml.safe_dump(settings))
    return str(path)


def sft(recipe: str, checkpoint: Path, data: Path, out: Path, stage: str = "answer-driven") -> int:
    given = ["--recipe", recipe, "--checkpoint", str(checkpoint), "--data", str(data), "--out", str(out)]
    return main(["sft", "--stage", stage, *given, "--tracking-uri", "none"])


def losses(out: Path) -> list[float]:
    return [entry["loss"] for entry in json.loads((out / "log.json").read_text()) if "loss" in entry]


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / "model.safetensors")


def test_adapters_of_full_rank_learn_what_full_fine_tuning_learns(
    small_data: Path, small_checkpoint: Path, tmp_path: Path
) -> None:
    """Both learn six samples by heart. Rank 32 is that of the model's matrices. Embeddings and head are trained in full
    in both, and only norms and biases differ."""
    full = {"rank": 32, "alpha": 32, "in_full": ["embeddings", "head"]}
    settings = {"epochs": 25, "batch_size": 3, "learning_rate": 0.02, "gradient_checkpointing": False}
    recipe = write_recipe(tmp_path / "lora.yaml", lora=full, **settings)
    assert sft(recipe, small_checkpoint, small_data, tmp_path / "lora") == 0
    plain = yaml.safe_load((tmp_path / "lora.yaml").read_text())
    plain["sft_answer"]["lora"] = None
    (tmp_path / "full.yaml").write_text(yaml.safe_dump(plain))
    assert sft(str(tmp_path / "full.yaml"), small_checkpoint, small_data, tmp_path / "full") == 0
    adapters, everything = losses(tmp_path / "lora"), losses(tmp_path / "full")
    assert adapters[0] == pytest.approx(everything[0], abs=0.4)
    assert everything[-1] < everything[0] / 4
    assert adapters[-1] < adapters[0] / 4
    assert max(abs(a - b) for a, b in zip(adapters, everything, strict=True)) < 0.2 * everything[0]


def run_here(*arguments: str | Path) -> None:
    """Run a command of the trainer in this process."""
    assert main([str(argument) for argument in arguments]) == 0


def run_all_stages(recipe: str, checkpoint: Path, data: Path, out: Path) -> None:
    """SFT 1.1, SFT 1.2 and stage 2, in the folders `weak`, `answer` and `rl`. Every other sample counts as hard."""
    assert sft(recipe, checkpoint, data, out / "weak", "weak") == 0
    assert sft(recipe, out / "weak" / "checkpoint", data, out / "answer") == 0
    start = out / "answer" / "checkpoint"
    samples = read_samples(data)
    names = tuple(sample.id for sample in samples)
    write_hard_cases(
        out, Cases(names, names[::2]), checkpoint=read_manifest(start).digest, data=data_digest(data, samples)
    )
    given = ["--recipe", recipe, "--checkpoint", str(start), "--data", str(data), "--hard-cases", str(out)]
    assert main(["hcm-grpo", *given, "--out", str(out / "rl"), "--tracking-uri", "none"]) == 0


@pytest.fixture
def noisy_rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewards that differ within a group: random weights earn none and would not learn."""

    def noise(completions: Any, **_: Any) -> list[float]:
        return [zlib.crc32(completion_text(c).encode()) % 7 / 7 for c in completions]

    monkeypatch.setattr("trainer.training.hcm_grpo.train.reward_functions", lambda *_: [noise])


@pytest.mark.usefixtures("noisy_rewards")
def test_the_scaled_down_recipe_runs_all_stages_to_a_normal_checkpoint_in_production(
    small_data: Path, small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry_file: Path
) -> None:
    run_all_stages(write_recipe(tmp_path / "small.yaml"), small_checkpoint, small_data, tmp_path)
    start = tmp_path / "answer" / "checkpoint"
    made = verify(tmp_path / "rl" / "checkpoint")
    assert made.recipe["hcm_grpo"]["lora"]["rank"] == 4
    assert set(made.files) == set(verify(small_checkpoint).files), "no file of adapters"
    before, middle, after = map(weights, (small_checkpoint, start, tmp_path / "rl" / "checkpoint"))
    assert {n: (t.shape, t.dtype) for n, t in before.items()} == {n: (t.shape, t.dtype) for n, t in after.items()}
    learned = {name for name in before if not torch.equal(before[name], middle[name])}
    assert learned and all(
        name.startswith("language_model.model.layers.") and name.endswith("proj.weight") for name in learned
    )
    moved = {name for name in before if not torch.equal(middle[name], after[name])}
    assert any("vision_tower" in name for name in moved) and any("language_model" in name for name in moved)
    assert not any("norm" in name or "lm_head" in name or "embed" in name for name in moved), "they are frozen"

    registry = Registry(f"sqlite:///{registry_file}")
    # The next test publishes and answers with the real engine.
    monkeypatch.setattr("trainer.release.publish.probing.open_prober", lambda *_, **__: nullcontext(make_prober()))
    promoted = put_into_production(tmp_path / "rl" / "checkpoint", tmp_path, registry, run_here)
    assert weights(promoted).keys() == after.keys()


def put_into_production(checkpoint: Path, folder: Path, registry: Registry, run: Callable[..., Any]) -> Path:
    """Publish, register and promote a checkpoint. The evaluation for the gate is written, not measured.

    Args:
        run: runs a command of the trainer.
    """
    store, data = folder / "store", make_data(folder / "testing")
    run("publish", "--checkpoint", checkpoint, "--store", store, "--tracking-uri", registry.uri)
    manifest = read_manifest(checkpoint)
    evaluation = make_evaluation(folder / "evaluation", data, manifest)
    gate = ("--data", data, "--out", folder / "gate", "--candidate-evaluation", evaluation)
    run("promote", "candidate", *gate, "--by", "ann", "--tracking-uri", registry.uri)
    production = registry.resolve(PRODUCTION)
    assert production is not None and production.digest == manifest.digest
    return production.directory


@pytest.mark.vllm
@pytest.mark.exhaustive  # the test before it does the same without an engine
@pytest.mark.usefixtures("noisy_rewards")
def test_the_real_service_answers_from_a_checkpoint_that_was_trained_with_adapters(
    small_data: Path, tmp_path: Path, registry_file: Path
) -> None:
    """The shipped checkpoint, trained a little further, still answers in the form that the service reads."""
    # It is so sure that at temperature 1 the completions of a group begin alike.
    stage_2 = {"learning_rate": 1e-3, "temperature": 3.0, "top_k": 0, "top_p": 1.0}
    length = read_manifest(CHECKPOINT).decoding.max_tokens_cot
    recipe = write_recipe(tmp_path / "small.yaml", learning_rate=1e-3, stage_2=stage_2, max_tokens_cot=length)
    run_all_stages(recipe, CHECKPOINT, small_data, tmp_path)
    registry = Registry(f"sqlite:///{registry_file}")
    promoted = put_into_production(tmp_path / "rl" / "checkpoint", tmp_path, registry, trainer)
    sample = read_samples(small_data)[0]
    pictures = (sample.original, *sample.generated)
    question = Sample(tuple((small_data / picture.file).read_bytes() for picture in pictures))
    # The registry decides; the service would load --checkpoint only if the registry did not answer.
    with launch(tmp_path, "--checkpoint", str(CHECKPOINT), "--registry", registry.uri) as service:
        answer = screen(service, question)
    assert answer["checkpoint"]["digest"] == read_manifest(promoted).digest
    assert (answer["engine"], answer["outcome"]) == ("vllm", "answered")


def test_a_run_is_not_continued_with_other_adapters(
    small_data: Path, small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path / "small.yaml")
    assert sft(recipe, small_checkpoint, small_data, tmp_path / "out") == 0
    assert sft(recipe, small_checkpoint, small_data, tmp_path / "out") == 0, "its checkpoint is kept"
    write_recipe(tmp_path / "small.yaml", lora={"rank": 5})
    assert sft(recipe, small_checkpoint, small_data, tmp_path / "out") == 2
    assert "other settings" in capsys.readouterr().err
    write_recipe(tmp_path / "small.yaml", lora={"target": ["nothing"]})
    assert sft(recipe, small_checkpoint, small_data, tmp_path / "new") == 2
    assert "'nothing' names no linear layer" in capsys.readouterr().err
    assert not (tmp_path / "new").exists(), "the directory is still free for the corrected recipe"


def test_the_shipped_recipe_differs_from_full_fine_tuning_only_in_adapters_and_rates() -> None:
    lora, full = (load_recipe(name).model_dump() for name in ("internvl3-2b-lora", "internvl3-2b"))
    for section in ("sft_weak", "sft_answer", "hcm_grpo"):
        different = {key for key, value in lora[section].items() if value != full[section][key]}
        assert different == {"lora", "learning_rate"} | ({"vllm"} if section == "hcm_grpo" else set())
