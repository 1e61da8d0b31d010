"""A run of SFT or HCM-GRPO that is killed at any moment and run again ends with exactly the weights of an unbroken run.

Processes and signals are real. A run kills itself at the moment that the test names, because the interesting moments,
such as a half-written state, last only milliseconds.
"""

from __future__ import annotations

import itertools
import json
import os
import pydoc
import signal
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from screening.checkpoint.manifest import read_manifest, verify
from screening.runtime.digests import file_sha256
from tests.trainer import forked
from trainer.data_directory import data_digest, read_samples
from trainer.reward import completion_text
from trainer.training.hard_cases.cases import Cases
from trainer.training.hard_cases.record import write_hard_cases

pytestmark = [pytest.mark.slow, pytest.mark.fork_server, pytest.mark.timeout(3000)]

SAVE_STEPS = 2

Moments = tuple[tuple[str, str, int], ...]
MOMENTS: Moments = (
    ("before the first state", "transformers.Trainer.training_step", 2),
    ("while the first state is written", "transformers.Trainer._save_optimizer_and_scheduler", 1),
    ("between two states", "transformers.Trainer.training_step", 4),
    ("while a later state is written", "transformers.Trainer._save_optimizer_and_scheduler", 2),
    ("while the checkpoint is written", "trainer.training.export.write_manifest", 1),
)
"""Moments of kills in one run: name, function, and the number of its call in the process at which the kill happens."""
AT_MOMENTS = pytest.mark.parametrize(
    "moments", [pytest.param(MOMENTS[3:], id="late"), pytest.param(MOMENTS, marks=pytest.mark.exhaustive, id="all")]
)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Nine and ten steps, so that states and kills are both within epochs and on their borders."""
    sft = {"epochs": 3, "batch_size": 2, "learning_rate": 0.003, "captions": False, "save_steps": SAVE_STEPS}
    grpo = {"epochs": 2, "last_epochs": 1, "group_size": 2, "batch_size": 4, "learning_rate": 0.01}
    grpo |= {"save_steps": SAVE_STEPS}
    grpo |= {"max_completion_tokens": 6, "gradient_checkpointing": False}
    settings = {"name": "small", "prompt": "compact", "max_tokens_cot": 256, "sft_weak": sft, "sft_answer": sft}
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump({**settings, "hcm_grpo": grpo}))
    return path


@pytest.fixture
def hard_cases(tmp_path: Path, small_data: Path, small_checkpoint: Path) -> Path:
    """Every second sample is hard."""
    samples = read_samples(small_data)
    names = tuple(sample.id for sample in samples)
    digests = {"checkpoint": read_manifest(small_checkpoint).digest, "data": data_digest(small_data, samples)}
    directory = tmp_path / "hard-cases"
    directory.mkdir()
    write_hard_cases(directory, Cases(names, names[::2]), **digests)
    return directory


@AT_MOMENTS
def test_interrupted_sft_ends_with_the_weights_of_an_uninterrupted_run(
    moments: Moments, recipe: Path, small_data: Path, small_checkpoint: Path, tmp_path: Path
) -> None:
    command = ["sft", "--stage", "answer-driven", "--recipe", str(recipe), "--data", str(small_data)]
    check_that_kills_change_nothing(
        [*command, "--checkpoint", str(small_checkpoint)], small_checkpoint, tmp_path, moments
    )


@AT_MOMENTS
def test_interrupted_hcm_grpo_ends_with_the_weights_of_an_uninterrupted_run(
    moments: Moments, recipe: Path, small_data: Path, small_checkpoint: Path, hard_cases: Path, tmp_path: Path
) -> None:
    command = ["hcm-grpo", "--recipe", str(recipe), "--data", str(small_data), "--hard-cases", str(hard_cases)]
    check_that_kills_change_nothing(
        [*command, "--checkpoint", str(small_checkpoint)], small_checkpoint, tmp_path, moments
    )


@pytest.mark.parametrize("bits", [16, 4])
def test_interrupted_training_of_adapters_ends_with_the_weights_of_an_uninterrupted_run(
    bits: int, recipe: Path, small_data: Path, small_checkpoint: Path, hard_cases: Path, tmp_path: Path
) -> None:
    settings = yaml.safe_load(recipe.read_text())
    stage = "sft_answer" if bits == 4 else "hcm_grpo"
    settings[stage]["lora"] = {"rank": 4, "alpha": 8, "dropout": 0.1, "bits": bits}
    recipe.write_text(yaml.safe_dump(settings))
    command = ["sft", "--stage", "answer-driven"] if bits == 4 else ["hcm-grpo", "--hard-cases", str(hard_cases)]
    command += ["--recipe", str(recipe), "--data", str(small_data), "--checkpoint", str(small_checkpoint)]
    check_that_kills_change_nothing(command, small_checkpoint, tmp_path, MOMENTS[2:3])


def test_a_continued_run_saves_as_often_as_its_recipe_says_now(
    recipe: Path, small_data: Path, small_checkpoint: Path, tmp_path: Path
) -> None:
    command = ["sft", "--stage", "answer-driven", "--recipe", str(recipe), "--data", str(small_data)]
    command += ["--checkpoint", str(small_checkpoint), "--out", str(tmp_path / "out"), "--tracking-uri", "none"]
    settings = yaml.safe_load(recipe.read_text())
    for save_steps, taken, saved in ((4, 4, {"checkpoint-4"}), (1, 1, {"checkpoint-4", "checkpoint-5"})):
        settings["sft_answer"]["save_steps"] = save_steps
        recipe.write_text(yaml.safe_dump(settings))
        assert run_process(command, "transformers.Trainer.training_step", taken + 1) == -signal.SIGKILL
        assert {state.name for state in (tmp_path / "out" / "trl").glob("checkpoint-*")} == saved


def check_that_kills_change_nothing(command: list[str], start: Path, directory: Path, moments: Moments) -> None:
    """A run that ends normally, and one that is killed at each moment in turn."""
    command += ["--tracking-uri", "none", "--out"]
    whole, killed = directory / "whole", directory / "killed"
    assert run_process([*command, str(whole)]) == 0
    for moment, function, call in moments:
        assert run_process([*command, str(killed)], function, call) == -signal.SIGKILL, moment
        assert not (killed / "checkpoint").exists()
    assert run_process([*command, str(killed)]) == 0
    verify(killed / "checkpoint")
    before, *after = (
        file_sha256(d / "model.safetensors") for d in (start, whole / "checkpoint", killed / "checkpoint")
    )
    assert after[0] == after[1]
    assert after[0] != before, "the training changed the weights"
    assert steps_of(killed) == steps_of(whole), "no step is missing, repeated or different"


def steps_of(out: Path) -> list[dict[str, Any]]:
    """The log of each step, without durations."""
    logged = [entry for entry in json.loads((out / "log.json").read_text()) if "loss" in entry]
    assert [entry["step"] for entry in logged] == list(range(1, 1 + len(logged)))
    return [{key: value for key, value in entry.items() if "time" not in key} for entry in logged]


def run_process(command: list[str], function: str | None = None, call: int = 0) -> int:
    """Run a command of the trainer in a separate process; returns the exit code."""
    return forked.run(_train, command, function, call)


def _train(command: list[str], function: str | None, call: int) -> None:
    """The work of the new process."""
    import trainer.training.hcm_grpo.train
    import trainer.training.sft.train
    from trainer.__main__ import main

    patch = pytest.MonkeyPatch()
    # Random weights earn no reward and would not learn.
    patch.setattr(trainer.training.hcm_grpo.train, "reward_functions", lambda *_: [_noise])
    for stage in (trainer.training.sft.train, trainer.training.hcm_grpo.train):
        patch.setattr(stage, "arguments", _logging_every_step(stage.arguments))
    if function:
        _end_at(patch, function, call)
    raise SystemExit(main(command))


def _noise(completions: Any, **_: Any) -> list[float]:
    return [zlib.crc32(completion_text(completion).encode()) % 7 / 7 for completion in completions]


def _logging_every_step(arguments: Callable[..., Any]) -> Callable[..., Any]:
    def changed(*given: Any) -> Any:
        made = arguments(*given)
        made.logging_steps = 1
        return made

    return changed


def _end_at(patch: pytest.MonkeyPatch, function: str, call: int) -> None:
    """Kill the process by SIGKILL instead of this call of the function."""
    owner, _, name = function.rpartition(".")
    real, calls = getattr(pydoc.locate(owner), name), itertools.count(1)

    def counted(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    patch.setattr(pydoc.locate(owner), name, counted)
