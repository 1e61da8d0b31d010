"""Trainings whose weights, gradients and optimizer states are divided among the processes (FSDP2).

`accelerate launch --config_file trainer/recipes/accelerate/fsdp2.yaml` starts them. A layer's weights are gathered just
before they are used. Answers have different lengths in different processes, and gathering takes all processes, so all
weights are gathered before a model answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.environment import parse_flag_from_env
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, StateDictType
from torch.distributed.tensor import DTensor
from transformers import AutoModelForImageTextToText, PreTrainedModel, Trainer

from trainer.training.distributed import LaunchError
from trainer.training.plan.sharded import excluded_by_sharding
from trainer.training.recipe.recipe import RecipeError
from trainer.training.recipe.stages import HcmGrpoRecipe, SftRecipe


def is_sharded() -> bool:
    """Whether the training was launched with FSDP."""
    return bool(parse_flag_from_env("ACCELERATE_USE_FSDP"))


def check_sharding(section: str, settings: SftRecipe | HcmGrpoRecipe) -> None:
    """Check before a training that was launched with FSDP that it can be sharded.

    Args:
        section: section of the recipe, for messages.

    Raises:
        LaunchError: it was launched with another configuration than the shipped one.
        RecipeError: the recipe has a setting that FSDP excludes.
    """
    if not is_sharded():
        return
    plugin = FullyShardedDataParallelPlugin()
    if (
        plugin.fsdp_version != 2
        or plugin.state_dict_type != StateDictType.FULL_STATE_DICT
        or plugin.cpu_ram_efficient_loading
        or isinstance(plugin.cpu_offload, CPUOffloadPolicy)
    ):
        raise LaunchError(
            "FSDP must be version 2, with fsdp_state_dict_type FULL_STATE_DICT and without "
            "fsdp_cpu_ram_efficient_loading and fsdp_offload_params. Launch with "
            "--config_file trainer/recipes/accelerate/fsdp2.yaml"
        )
    if setting := excluded_by_sharding(settings):
        raise RecipeError(f"{section}.{setting} cannot be combined with FSDP. Remove it, or launch without FSDP")


def prepare_sharding(trainer: Trainer) -> None:
    """Correct three defaults of a trainer that was launched with FSDP, before it shards its model.

    - accelerate averages gradients in bfloat16, in which the model computes. Here it averages them in float32, as
      without FSDP.
    - Between the passes of a step, accelerate keeps whole gradients. Here each pass divides them, as `plan` counts.
    - TRL's fused head reads the head's matrix without calling its module, so FSDP does not gather it. TRL then gathers
      a copy with `DTensor.full_tensor`, which assumes that the gradient is the same everywhere. Each process would
      train its part of the head on its own data alone. Here FSDP gathers the head before each pass.
    """
    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    if plugin is None:
        return
    if isinstance(plugin.mixed_precision_policy, MixedPrecisionPolicy):
        plugin.mixed_precision_policy = replace(plugin.mixed_precision_policy, reduce_dtype=torch.float32)
    trainer.accelerator.gradient_state.plugin_kwargs["sync_each_batch"] = True
    trainer.model.register_forward_pre_hook(_gather_head)


def _gather_head(model: Any, _inputs: Any) -> None:
    head = model.get_output_embeddings()
    if isinstance(head, FSDPModule):
        head.unshard()


@contextmanager
def whole_weights(model: nn.Module) -> Iterator[None]:
    """Hold all weights of a sharded model in every process for a while; a model that is not sharded is left alone.

    All processes must enter together.
    """
    shards = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for shard in shards:
        shard.set_reshard_after_forward(False, recurse=False)
        shard.unshard()
    try:
        yield
    finally:
        for shard in shards:
            shard.set_reshard_after_forward(shard is not model, recurse=False)
            shard.reshard()


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load whole tensors, which each process has, into a model that may be sharded. Names must be the same."""
    if isinstance(model, FSDPModule):
        options = StateDictOptions(full_state_dict=True, strict=True)
        set_model_state_dict(model, dict(weights), options=options)
    else:
        model.load_state_dict(weights, strict=True)


def gathered(model: nn.Module, start: Path) -> PreTrainedModel:
    """A copy of a sharded model with all its weights, on the CPU, in every process. All processes must call it.

    Args:
        start: checkpoint of the same form.
    """
    whole = AutoModelForImageTextToText.from_pretrained(start, dtype=torch.float32)
    targets: dict[str, Tensor] = whole.state_dict()
    for name, tensor in model.state_dict().items():
        targets.pop(name).copy_(tensor.full_tensor() if isinstance(tensor, DTensor) else tensor)
    if targets:
        raise ValueError(f"the sharded model lacks {min(targets)}")
    return whole
