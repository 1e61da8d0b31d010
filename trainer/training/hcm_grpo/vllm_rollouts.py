"""Rollouts through vLLM: the settings that TRL gets, and what its code leaves out.

TRL runs the engine, either inside the training process (colocated) or as a server on other GPUs, and copies the
policy's weights to it before each step.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

import torch

from trainer.training.lora.merged_weights import merged_weights
from trainer.training.recipe.recipe import RecipeError
from trainer.training.recipe.stages import HcmGrpoRecipe


def check_vllm(settings: HcmGrpoRecipe) -> None:
    """Check before a training that this machine can run the recipe's engine.

    Raises:
        RecipeError: it has no GPU. On a CPU TRL cannot send weights to a server, vLLM has no sleep mode, and on many
            CPUs it packs its weights, so that it cannot take new ones from TRL.
    """
    if settings.vllm != "none" and not torch.cuda.is_available():
        raise RecipeError(f"hcm_grpo.vllm: {settings.vllm} needs a GPU. Set `vllm: none` for rollouts of transformers")


def vllm_arguments(settings: HcmGrpoRecipe, question_tokens: int | None) -> dict[str, Any]:
    """Settings of `GRPOConfig` for rollouts through vLLM; none for rollouts of transformers.

    Args:
        question_tokens: maximum number of tokens of a question; None if it is not known. A colocated engine then
            needs a KV cache for all positions of the model, and otherwise one for the longest sample, as `plan` counts.
    """
    if settings.vllm == "none":
        return {}
    where: dict[str, Any] = {"vllm_server_base_url": settings.vllm_server}
    if settings.vllm == "colocate":
        where = {"vllm_gpu_memory_utilization": settings.vllm_memory, "vllm_enable_sleep_mode": settings.vllm_sleep}
        if question_tokens is not None:
            where["vllm_max_model_length"] = question_tokens + settings.max_completion_tokens
    return {
        "use_vllm": True,
        "vllm_mode": settings.vllm,
        # With top_k and top_p the correction compares different distributions and drives every ratio to zero.
        "vllm_importance_sampling_correction": False,
        **where,
    }


def forget_pictures_after_sync(generation: Any) -> None:
    """Make TRL's engine forget the features of pictures whenever it gets weights.

    vLLM keeps the output of the ViT by picture alone (vllm #44910). Stage 2 trains the ViT and asks about the same
    pictures in several epochs, and TRL resets only the cache of prompts.

    Args:
        generation: TRL's `VLLMGeneration`.
    """
    sync = generation.sync_weights

    @wraps(sync)
    def sync_weights() -> None:
        sync()
        if generation.mode == "colocate":
            generation.llm.llm_engine.reset_encoder_cache()
        elif generation.accelerator.is_main_process:
            client = generation.vllm_client
            client.session.post(f"{client.base_url}/reset_encoder_cache").raise_for_status()

    generation.sync_weights = sync_weights


def send_merged_weights(generation: Any) -> None:
    """Make TRL send the weights of a model with adapters as sums, without changing the model.

    Args:
        generation: TRL's `VLLMGeneration`, whose model has adapters.
    """
    generation._iter_named_params = lambda: merged_weights(generation.model)


def collapsed(ids: list[int], image: int, begin: int, end: int) -> list[int]:
    """A prompt's token numbers for a colocated vLLM: one image token for each picture's begin, image and end tokens.

    vLLM expands that token itself, and would expand already expanded tokens once more (trl #6294). A server gets the
    tokens as they are: TRL looks for the runs of image tokens in them.

    Args:
        image, begin, end: the token numbers, such as `InternVLProcessor.image_token_ids`.
    """
    kept: list[int] = []
    inside = False
    for token in ids:
        if token == begin:
            kept.append(image)
        elif token != end and not inside:
            kept.append(token)
        inside = token == begin or (inside and token != end)
    return kept
