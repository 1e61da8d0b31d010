"""Compares greedy rollouts of a colocated vLLM with those of transformers, before and after all weights have changed.

`python -m tests.trainer.training.colocated CHECKPOINT DATA SCRATCH LORA` prints both as JSON, and whether the frozen
weights are as before. LORA is a recipe's section `lora` as JSON, or null. It runs in a process of its own, because vLLM
leaves its state in the process.
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
from trainer.training.plan.tokens import count_tokens, load_tokenizer
from trainer.training.recipe.stages import HcmGrpoRecipe
from trainer.training.sft.rows import dataset, rollout_rows

SETTINGS = {"group_size": 2, "batch_size": 2, "learning_rate": 1e-6, "max_completion_tokens": 24, "top_k": 1}


def main(checkpoint: Path, data: Path, scratch: Path, lora: dict[str, Any] | None) -> None:
    keep_plain_weights()
    samples, manifest = read_samples(data)[:2], read_manifest(checkpoint)
    rows = dataset(rollout_rows(samples, manifest.prompt), data, manifest.image)
    rewards = reward_functions("dpa", {sample.id: sample for sample in samples})
    question = count_tokens(manifest.prompt, manifest.image.most_tokens, load_tokenizer(checkpoint)).prompt
    trainers = {}
    for vllm in ("none", "colocate"):
        recipe = HcmGrpoRecipe.model_validate({**SETTINGS, "vllm": vllm, "lora": lora})
        trainers[vllm] = build_trainer(checkpoint, rows, rewards, recipe, scratch / vllm, question)
    batch = next(iter(trainers["none"].get_train_dataloader()))
    frozen = copies_of_frozen(trainers["colocate"].model)
    found = [{name: completions(trainer, batch) for name, trainer in trainers.items()}]
    for trainer in trainers.values():
        disturb(trainer.model)
        trainer.state.global_step += 1  # after a step, TRL copies the weights to vLLM
    found.append({name: completions(trainer, batch) for name, trainer in trainers.items()})
    unchanged = all(torch.equal(copy, now) for copy, now in frozen)
    print(json.dumps({"completions": found, "unchanged": unchanged}))


def keep_plain_weights() -> None:
    """Have vLLM's layers compute with torch, as on a GPU.

    On many CPUs they pack their weights and drop the plain ones, into which TRL would write new weights.
    """
    import vllm.model_executor.layers.utils as layers
    from vllm import _custom_ops

    layers.check_cpu_sgl_kernel = lambda *_: False
    _custom_ops._supports_onednn = False


def copies_of_frozen(model: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Each frozen weight, and a copy of it."""
    return [(parameter.data.clone(), parameter.data) for parameter in model.parameters() if not parameter.requires_grad]


def disturb(model: Any) -> None:
    """Change all weights that are trained, those of the ViT most, in the same way in every trainer."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        spread = parameter.data.std() or 0.3  # B of a new adapter is zero
        noise = torch.randn(parameter.shape, generator=generator) * spread
        parameter.data += noise * (1.0 if "vision" in name else 0.3)


def completions(trainer: Any, batch: Any) -> list[list[int]]:
    trainer.model.train()
    made = trainer._generate_and_score_completions(batch)
    lengths = made["completion_mask"].sum(1).tolist()
    return [ids[:length] for ids, length in zip(made["completion_ids"].tolist(), lengths, strict=True)]


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), json.loads(sys.argv[4]))
