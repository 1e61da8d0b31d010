"""The model with random weights as a training holds it, and its inputs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers import InternVLForConditionalGeneration, PreTrainedModel

from trainer.training.freezing import freeze_vision
from trainer.training.gpu_check.flops import PICTURES
from trainer.training.gpu_check.order import Adapters, Order, Task
from trainer.training.hcm_grpo.shared_prompt import GROUP_ATTENTION, SharedPrompt
from trainer.training.lora.four_bits import keep_differentiable
from trainer.training.number_format import computed_in

HEAD_TOKENS = 1024
"""Tokens of which the logits are in memory at a time. Trainings use TRL's head, which works in tiles as well."""
QUANTIZED = "language_model.layers"
"""Part of the names of the linear layers that QLoRA holds in 4 bits."""


class Scorer(nn.Module):
    """Gives the log-probabilities of labelled tokens. This is the module whose forward pass is trained."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, *, labels: Tensor, **inputs: Any) -> Tensor:
        """(B, L) labels, negative where a token is not scored → (N,) log-probabilities of the N others in order."""
        hidden = self.model.model(**inputs, use_cache=False).last_hidden_state[:, :-1]
        labels = labels[:, 1:]
        scored, head = labels >= 0, self.model.lm_head.weight
        parts = zip(hidden[scored].split(HEAD_TOKENS), labels[scored].split(HEAD_TOKENS), strict=True)
        return torch.cat([checkpoint(_log_probability, some, head, of, use_reentrant=False) for some, of in parts])


def _log_probability(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    return -cross_entropy((hidden @ head.T.to(hidden.dtype)).float(), labels, reduction="none")


def build_model(order: Order, task: Task, device: torch.device) -> PreTrainedModel:
    """Build the model of a task with its adapters: trained weights in float32, frozen ones as in a training."""
    adapters = task.adapters
    dtype = computed_in(device) if adapters else torch.float32
    with torch.device(device):
        model: PreTrainedModel = InternVLForConditionalGeneration._from_config(order.model_config(), dtype=dtype)
    if task.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if adapters:
        add_adapters(model, adapters, device)
    if task.stage == "sft":
        freeze_vision(model)
    else:
        share_prompts(model)
    model.train()
    return model


def build_reference(order: Order, device: torch.device) -> PreTrainedModel:
    """Build the reference model of stage 2, in float32 as TRL loads it."""
    with torch.device(device):
        model: PreTrainedModel = InternVLForConditionalGeneration._from_config(
            order.model_config(), dtype=torch.float32
        )
    share_prompts(model)
    model.requires_grad_(False).eval()
    return model


def share_prompts(model: PreTrainedModel) -> None:
    """Let the completions of a group share their prompt, as `GroupGRPOTrainer` does."""
    model.config.get_text_config()._attn_implementation = GROUP_ATTENTION


def add_adapters(model: PreTrainedModel, adapters: Adapters, device: torch.device) -> None:
    """Freeze a model and put adapters into it, as `trainer.training.lora.model` does for a recipe."""
    from peft import LoraConfig, inject_adapter_in_model

    model.requires_grad_(False)
    if adapters.bits == 4:
        _quantize(model, device)
    config = LoraConfig(
        r=adapters.rank,
        lora_alpha=adapters.alpha,
        lora_dropout=adapters.dropout,
        target_modules=list(adapters.layers),
        modules_to_save=list(adapters.in_full) or None,
    )
    inject_adapter_in_model(config, model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(device, torch.float32)


def _quantize(model: PreTrainedModel, device: torch.device) -> None:
    from bitsandbytes.nn.modules import Linear4bit, Params4bit

    for name, layer in list(model.named_modules()):
        if not isinstance(layer, nn.Linear) or QUANTIZED not in name:
            continue
        small: nn.Module = Linear4bit(  # type: ignore[no-untyped-call]
            layer.in_features,
            layer.out_features,
            bias=layer.bias is not None,
            compute_dtype=layer.weight.dtype,
            compress_statistics=True,
            quant_type="nf4",
            device="meta",
        )
        small.weight = Params4bit(
            layer.weight.data.to("cpu"), requires_grad=False, quant_type="nf4", compress_statistics=True
        )
        small.bias = layer.bias
        model.set_submodule(name, small.to(device))
    keep_differentiable(model)


@dataclass(frozen=True, slots=True)
class Question:
    """Random questions: (Q, P) token numbers, with image tokens, and the pixels of all pictures."""

    ids: Tensor
    pixels: Tensor


def make_questions(model: PreTrainedModel, number: int, task: Task, device: torch.device) -> Question:
    """Make questions of a task, of five pictures each, surrounded by random words."""
    config = model.config
    side = config.vision_config.image_size[0]
    per_picture = task.tiles * int(side // config.vision_config.patch_size[0] * config.downsample_ratio) ** 2
    row = random_words(model, (number, task.prompt), device)
    first = task.prompt - PICTURES * (per_picture + 1)
    for picture in range(PICTURES):
        begin = first + picture * (per_picture + 1)
        row[:, begin : begin + per_picture] = config.image_token_id
    return Question(row, torch.randn(number * PICTURES * task.tiles, 3, side, side, device=device))


def random_words(model: PreTrainedModel, shape: Iterable[int], device: torch.device) -> Tensor:
    """Random token numbers without image tokens."""
    config = model.config
    words = torch.randint(0, config.text_config.vocab_size - 1, tuple(shape), device=device)
    return words + (words >= config.image_token_id).long()


def packed_inputs(rows: SharedPrompt, pixels: Tensor) -> dict[str, Any]:
    """The inputs of a forward pass over groups in one row each, as in `GroupGRPOTrainer`."""
    return {
        "input_ids": rows.ids,
        "attention_mask": rows.completion_sees,
        "shared_prompt": rows,
        "position_ids": rows.positions,
        "pixel_values": pixels,
        "labels": rows.labels,
    }
