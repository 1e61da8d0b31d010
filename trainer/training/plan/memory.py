"""Computes the memory of one GPU, by use. This is arithmetic on shapes; nothing is allocated or measured.

The stages hold weights in float32, compute in bfloat16 (autocast), use AdamW, and are data-parallel. Without sharding
these are the bytes per parameter (`trainer.training.plan.sharded` has those with FSDP2):

    weights 4, gradients 4, AdamW's two moments 8 (in 8 bits about 2; see `trainer.training.plan.optimizer`),
    bfloat16 copies of the trained matrices 2, reference model 4

With several GPUs, 4 more are needed for the buckets in which gradients are exchanged. A stage with LoRA holds less;
`trainer.training.plan.adapters` has its formulas.

Activations follow the method of Korthikanti et al. 2022 (arXiv 2205.05198, section 4.1): count what each operation
keeps for the backward pass. Counted on transformers' modules under autocast with fused attention, in bytes per token
and layer, with h the width, d = heads x head dimension, m the MLP's width, a the heads and s the length:

    Qwen2 layer        26 h + 8 d + 8 m + 4 a + 8 + 2 s
        norms 2 x (8 h + 4); inputs of q, k, v, gate, up 5 x 2 h, each cast separately; q, k, v, output of the attention
        4 x 2 d (keys and values repeated to all heads), its log-sum 4 a, its mask 2 s (none with flash attention);
        gate, its SiLU, up, product 4 x 2 m
    InternViT layer    20 h + 8 d + 4 m + 4 a + 16
        norms 2 x (4 h + 8); inputs of q, k, v, fc1 4 x 2 h; attention 4 x 2 d and 4 a, no mask; two layer scales
        2 x 2 h; fc1 and its GELU 2 x 2 m
    projector          6 c + 4 h + 8 per image token, c the width after pixel shuffle

With gradient checkpointing a layer keeps only its input, 4 h, and one layer at a time is recomputed in full. The tests
compare these counts with the tensors that autograd really saves.

The logits are never in memory at once: TRL's fused head computes them in tiles of 4,096 tokens x 32,768 words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from screening.prompt import PICTURES_PER_SAMPLE
from trainer.training.plan.adapters import find_adapters
from trainer.training.plan.optimizer import TITLES, state_bytes
from trainer.training.plan.parameters import Parameters
from trainer.training.plan.shapes import Shapes
from trainer.training.plan.sharded import divided_reference, sharded_states, whole_weights
from trainer.training.recipe.stages import FLASH, HcmGrpoRecipe, SftRecipe

GIB = 2**30

ALLOWANCE = 2 * GIB
"""Bytes for the CUDA context, workspaces of libraries and fragmentation: a usual amount, not computed."""

ENGINE_ALLOWANCE = 3 * GIB // 2
"""Bytes that vLLM needs besides weights and KV cache: activations of its 4,096-token batches."""

HEAD_TILE = 4096 * 32768 * 2
"""Bytes of the largest tile of logits in TRL's fused head."""

WHOLE = "whole weights in bfloat16"
"""Use of the weights that a sharded model gathers before it answers."""

PICTURES = "pictures of a step"
"""Use of the pixels that stage 2 keeps."""

FLOAT32 = 4
BFLOAT16 = 2


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one GPU in one stage."""

    held: Mapping[str, int]
    """Bytes that are allocated during the whole training, by use."""
    rollouts: Mapping[str, int] = field(default_factory=dict)
    """Additional bytes while completions are generated."""
    training: Mapping[str, int] = field(default_factory=dict)
    """Additional bytes while a step is computed."""

    @property
    def peak(self) -> int:
        """Maximum number of bytes at a time; rollouts and training take turns."""
        return sum(self.held.values()) + max(sum(self.rollouts.values()), sum(self.training.values()))


def text_layer_bytes(shapes: Shapes, mask: int) -> int:
    """Bytes per token that one layer of the language model keeps for the backward pass.

    Args:
        mask: length of a row of the mask; 0 for flash attention, which has none.
    """
    text = shapes.text
    attention = 8 * text.heads * text.head_dim + 4 * text.heads + 2 * mask
    return 26 * text.width + 8 * text.mlp + 8 + attention


def vision_layer_bytes(shapes: Shapes) -> int:
    """Bytes per position that one layer of the ViT keeps for the backward pass."""
    vision = shapes.vision
    return 20 * vision.width + 8 * vision.heads * vision.head_dim + 4 * vision.mlp + 4 * vision.heads + 16


def projector_bytes(shapes: Shapes) -> int:
    """Bytes per image token that the projector keeps for the backward pass."""
    return 6 * shapes.folded_width + 4 * shapes.text.width + 8


def text_activations(
    shapes: Shapes, sequences: int, length: int, *, checkpointing: bool, attention: str = "sdpa"
) -> int:
    """Bytes that the language model keeps for the backward pass, without the head.

    Args:
        attention: the stage's attention, by its name in the recipe.
    """
    mask = 0 if attention == FLASH else length
    tokens, layer, text = sequences * length, text_layer_bytes(shapes, mask), shapes.text
    final_norm = tokens * (8 * text.width + 4)
    return final_norm + _stack(tokens, text.number, text.width, layer, checkpointing=checkpointing)


def vision_activations(shapes: Shapes, tiles: int, *, checkpointing: bool) -> int:
    """Bytes that a trained ViT and projector keep for the backward pass; frozen ones keep nothing."""
    positions, vision = tiles * shapes.vision_length, shapes.vision
    layers = _stack(positions, vision.number, vision.width, vision_layer_bytes(shapes), checkpointing=checkpointing)
    return layers + tiles * shapes.tokens_per_picture * projector_bytes(shapes)


def head_bytes(shapes: Shapes, tokens: int, *, trained: bool = True) -> int:
    """Bytes of TRL's fused head: a tile of logits, and float32 gradients of the states and of a trained matrix."""
    tile = min(HEAD_TILE, min(tokens, 4096) * min(shapes.vocabulary, 32768) * BFLOAT16)
    return tile + FLOAT32 * shapes.text.width * (tokens + (shapes.vocabulary if trained else 0))


def kv_cache_bytes(shapes: Shapes, sequences: int, length: int) -> int:
    """Bytes of the keys and values of all layers in bfloat16."""
    text = shapes.text
    return 2 * BFLOAT16 * text.number * text.kv_heads * text.head_dim * sequences * length


def picture_bytes(shapes: Shapes, completions: int) -> int:
    """Bytes of the pixels of a step of stage 2, in float32.

    TRL keeps them on the GPU from one round of rollouts to the next, once per completion, although the completions of a
    group share their pictures.
    """
    tiles = PICTURES_PER_SAMPLE * shapes.tiles * completions
    return FLOAT32 * 3 * shapes.image_size**2 * tiles


def sft_memory(
    settings: SftRecipe,
    parameters: Parameters,
    shapes: Shapes,
    *,
    prompt: int,
    answer: int,
    gpus: int,
    sharded: bool = False,
) -> Memory:
    """Memory of one GPU in an SFT stage, for a batch of the longest samples.

    Args:
        prompt: tokens of the question, image tokens included.
        answer: tokens of the longest answer.
        sharded: whether FSDP2 divides the model among the GPUs.
    """
    length, checkpointing, answers = prompt + answer, settings.gradient_checkpointing, settings.batch_size * answer
    if settings.lora:
        adapters = find_adapters(parameters, settings.lora, vision=False)
        activations = adapters.text_activations(
            shapes, settings.batch_size, length, checkpointing=checkpointing, attention=settings.attention
        )
        head = head_bytes(shapes, answers, trained="head" in settings.lora.in_full)
        held = {**adapters.held(gpus, settings.optimizer), "CUDA and fragmentation": ALLOWANCE}
    else:
        activations = text_activations(
            shapes, settings.batch_size, length, checkpointing=checkpointing, attention=settings.attention
        )
        head = head_bytes(shapes, answers)
        held = _states(parameters, shapes, gpus, settings.optimizer, vision=False, sharded=sharded)
    scoring = {WHOLE: whole_weights(parameters)} if sharded and settings.validation else {}
    return Memory(held, scoring, {"activations of the language model": activations, "head": head})


def grpo_memory(
    settings: HcmGrpoRecipe,
    parameters: Parameters,
    shapes: Shapes,
    *,
    prompt: int,
    gpus: int,
    gpu_memory: float,
    sharded: bool = False,
) -> Memory:
    """Memory of one GPU in stage 2, if every completion has the maximum length.

    Args:
        prompt: tokens of the question, image tokens included.
        gpu_memory: bytes of the GPU, of which a colocated vLLM takes a share.
        sharded: whether FSDP2 divides the model among the GPUs.
    """
    answer = settings.max_completion_tokens
    adapters = find_adapters(parameters, settings.lora, vision=True) if settings.lora else None
    if adapters:
        held = {**adapters.held(gpus, settings.optimizer), "CUDA and fragmentation": ALLOWANCE}
    else:
        held = _states(parameters, shapes, gpus, settings.optimizer, vision=True, sharded=sharded)
    if settings.kl_beta and not adapters:
        held["reference model"] = divided_reference(parameters, gpus if sharded else 1)
    generated = settings.batch_size * settings.gradient_accumulation
    held[PICTURES] = picture_bytes(shapes, generated)
    rollouts: dict[str, int] = {}
    if sharded:
        rollouts[WHOLE] = whole_weights(parameters)
        if settings.kl_beta:
            rollouts["buffer of the gathered reference"] = whole_weights(parameters)
    if settings.vllm == "colocate":
        # A sleeping engine holds nothing while a step is computed.
        (rollouts if settings.vllm_sleep else held)["vLLM engine"] = math.ceil(settings.vllm_memory * gpu_memory)
    elif settings.vllm == "none":
        rollouts["KV cache of the rollouts"] = kv_cache_bytes(shapes, generated, prompt + answer)
    checkpointing, length = settings.gradient_checkpointing, prompt + answer
    tiles, answers = PICTURES_PER_SAMPLE * shapes.tiles * settings.batch_size, settings.batch_size * answer
    if adapters:
        seeing = adapters.vision_activations(shapes, tiles, checkpointing=checkpointing)
        writing = adapters.text_activations(
            shapes, settings.batch_size, length, checkpointing=checkpointing, attention=settings.attention
        )
        head = head_bytes(shapes, answers, trained="head" in adapters.lora.in_full)
    else:
        seeing = vision_activations(shapes, tiles, checkpointing=checkpointing)
        writing = text_activations(
            shapes, settings.batch_size, length, checkpointing=checkpointing, attention=settings.attention
        )
        head = head_bytes(shapes, answers)
    training = {
        "activations of the ViT and projector": seeing,
        "activations of the language model": writing,
        "head": head,
    }
    return Memory(held, rollouts, training)


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """How a colocated vLLM uses its share of the memory, in bytes."""

    share: int
    weights: int
    kv_cache: int
    """Rest of the share for the KV cache; not positive if there is none."""
    per_sequence: int
    """KV cache of one prompt with its longest completion."""
    at_once: int
    """Completions that fit at once. This is a lower bound, because a group's shared prompt is counted for each."""
    wanted: int
    """Completions of one round of rollouts on one GPU."""

    @property
    def least_share(self) -> int:
        """Share with which one sequence fits."""
        return self.weights + ENGINE_ALLOWANCE + self.per_sequence


def engine_memory(
    settings: HcmGrpoRecipe, parameters: Parameters, shapes: Shapes, *, prompt: int, gpu_memory: float
) -> EngineMemory | None:
    """Memory of the colocated vLLM; None without one. Its weights are a second copy, in bfloat16."""
    if settings.vllm != "colocate":
        return None
    share = math.ceil(settings.vllm_memory * gpu_memory)
    weights = BFLOAT16 * parameters.total
    room = share - weights - ENGINE_ALLOWANCE
    one = kv_cache_bytes(shapes, 1, prompt + settings.max_completion_tokens)
    wanted = settings.batch_size * settings.gradient_accumulation
    return EngineMemory(share, weights, room, one, min(max(room, 0) // one, wanted), wanted)


def _states(
    parameters: Parameters, shapes: Shapes, gpus: int, optimizer: str, *, vision: bool, sharded: bool
) -> dict[str, int]:
    """Bytes that do not depend on the batch, by use."""
    if sharded:
        divided = sharded_states(parameters, shapes, gpus, optimizer, vision=vision)
        return {**divided, "CUDA and fragmentation": ALLOWANCE}
    trained = parameters.trained(vision=vision)
    states = {
        "weights": FLOAT32 * parameters.total,
        "gradients": FLOAT32 * trained,
        TITLES[optimizer]: state_bytes(optimizer, parameters.trained_parts(vision=vision)),
        "bfloat16 copies": BFLOAT16 * parameters.copied(vision=vision),
    }
    if gpus > 1:
        states["gradient buckets"] = FLOAT32 * trained
    return {**states, "CUDA and fragmentation": ALLOWANCE}


def _stack(tokens: int, number: int, width: int, layer: int, *, checkpointing: bool) -> int:
    """Bytes of a stack of layers: all in full, or with checkpointing the input of each and one in full."""
    return tokens * (number * FLOAT32 * width + layer if checkpointing else number * layer)
