"""Compares greedy rollouts of a colocated vLLM with those of transformers, before and after all weights have changed.

`python -m tests.trainer.training.colocated CHECKPOINT DATA SCRATCH` prints both as JSON. It runs in a process of its
own, because vLLM leaves its state in the process.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from screening.checkpoint.manifest import read_manifest
from trainer.data_directory import read_samples
from trainer.reward import reward_functions
from trainer.training.hcm_grpo.train import build_trainer
from trainer.training.recipe.stages import HcmGrpoRecipe
from trainer.training.sft.rows import dataset, rollout_rows

SETTINGS = {"group_size": 2, "batch_size": 2, "learning_rate": 1e-6, "max_completion_tokens": 24, "top_k": 1}


def main(checkpoint: Path, data: Path, scratch: Path) -> None:
    samples, manifest = read_samples(data)[:2], read_manifest(checkpoint)
    rows = dataset(rollout_rows(samples, manifest.prompt), data, manifest.image)
    rewards = reward_functions("dpa", {sample.id: sample for sample in samples})
    trainers = {}
    for vllm in ("none", "colocate"):
        recipe = HcmGrpoRecipe.model_validate({**SETTINGS, "vllm": vllm})
        trainers[vllm] = build_trainer(checkpoint, rows, rewards, recipe, scratch / vllm)
    batch = next(iter(trainers["none"].get_train_dataloader()))
    found = [{name: completions(trainer, batch) for name, trainer in trainers.items()}]
    for trainer in trainers.values():
        disturb(trainer.model)
        trainer.state.global_step += 1  # after a step, TRL copies the weights to vLLM
    found.append({name: completions(trainer, batch) for name, trainer in trainers.items()})
    print(json.dumps(found))


def disturb(model: Any) -> None:
    """Change all weights, those of the ViT most, in the same way in every trainer."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator) * parameter.data.std()
        parameter.data += noise * (1.0 if "vision" in name else 0.3)


def completions(trainer: Any, batch: Any) -> list[list[int]]:
    trainer.model.train()
    made = trainer._generate_and_score_completions(batch)
    lengths = made["completion_mask"].sum(1).tolist()
    return [ids[:length] for ids, length in zip(made["completion_ids"].tolist(), lengths, strict=True)]


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
