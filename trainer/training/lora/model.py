"""Models with adapters: how a training loads, wraps, saves and merges them. peft does the work."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

from trainer.training.base_source import refuse_adapters
from trainer.training.lora.four_bits import keep_differentiable
from trainer.training.lora.layers import HEAD, IN_FULL, VISION_PREFIXES, adapted_layers
from trainer.training.number_format import computed_in
from trainer.training.plan.parameters import build_on_meta
from trainer.training.recipe.recipe import RecipeError
from trainer.training.recipe.stages import LoraRecipe

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel


def check_lora(checkpoint: Path, lora: LoraRecipe | None, *, vision: bool) -> None:
    """Check before a training that the model of a checkpoint can have these adapters, without loading its weights.

    Raises:
        BaseModelError: the checkpoint itself holds adapters.
        RecipeError: a target matches no layer, or bitsandbytes is needed and not installed.
    """
    refuse_adapters(checkpoint)
    if lora:
        adapter_config(build_on_meta(AutoConfig.from_pretrained(checkpoint)), lora, vision=vision)
        if lora.bits == 4 and find_spec("bitsandbytes") is None:
            raise RecipeError("lora.bits 4 needs the package bitsandbytes. Install it, or set `bits: 16`")


def load_for_training(checkpoint: Path, lora: LoraRecipe | None, attention: str = "sdpa") -> PreTrainedModel:
    """Load a model as a training holds it: in float32 for full fine-tuning, else in the recipe's bits, to be frozen.

    On a CPU, 16 bits are float32, in which the stages compute there.

    Args:
        attention: kernels of the attention, by transformers' name.
    """
    load = partial(AutoModelForImageTextToText.from_pretrained, checkpoint, attn_implementation=attention)
    if lora is None:
        return load(dtype=torch.float32)
    if lora.bits == 16:
        return load(dtype=computed_in())
    model: PreTrainedModel = load(
        dtype=computed_in(),
        quantization_config=_quantization(),
        device_map={"": torch.cuda.current_device() if torch.cuda.is_available() else "cpu"},
    )
    keep_differentiable(model)
    return model


def adapter_config(model: nn.Module, lora: LoraRecipe | None, *, vision: bool) -> LoraConfig | None:
    """peft's settings for the adapters of a model; None for full fine-tuning.

    Args:
        vision: whether the stage trains ViT and projector.

    Raises:
        RecipeError: a target matches no layer.
    """
    if lora is None:
        return None
    from peft import LoraConfig

    linear = (name for name, module in model.named_modules() if isinstance(module, nn.Linear))
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=adapted_layers(linear, lora, vision=vision),
        modules_to_save=[IN_FULL[part] for part in lora.in_full] or None,
    )


def prepare(model: nn.Module) -> None:
    """Hold trained weights in float32. TRL rounds adapters on a 4-bit model to bfloat16, in which AdamW's small updates
    are lost, and a part that is trained in full has the type of the frozen weights."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def load_adapters(model: PeftModel, directory: str | Path) -> None:
    """Load the adapters of a saved state into a model that has adapters of the same form.

    Raises:
        ValueError: the state holds other tensors. peft itself would ignore this.
    """
    from peft import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict

    saved = load_peft_weights(str(directory), device="cpu")
    expected = get_peft_model_state_dict(model, save_embedding_layers=False)
    if (
        different := {name: tuple(t.shape) for name, t in saved.items()}.items()
        ^ {name: tuple(t.shape) for name, t in expected.items()}.items()
    ):
        raise ValueError(f"{directory} holds adapters of another form: {min(different)[0]} differs")
    set_peft_model_state_dict(model, saved)


def merged(model: PeftModel, checkpoint: Path) -> PreTrainedModel:
    """The model of a checkpoint with the adapters added to its weights, in float32 on the CPU.

    The weights are read from the checkpoint again. So the sum is rounded once, when it is exported, and with 4 bits the
    error of the quantization does not enter the result.

    Args:
        checkpoint: the checkpoint from which the training started.
    """
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    trained = {n: t.detach().cpu() for n, t in get_peft_model_state_dict(model, save_embedding_layers=False).items()}
    base = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32)
    whole = get_peft_model(base, model.peft_config["default"])
    set_peft_model_state_dict(whole, trained)
    return whole.merge_and_unload()


def _quantization() -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=computed_in(),
        # ViT and projector stay in 16 bits: they are small, and all that the model sees passes through them. The head
        # is read by TRL as a plain matrix.
        llm_int8_skip_modules=[HEAD, *(prefix.removesuffix(".") for prefix in VISION_PREFIXES)],
    )
