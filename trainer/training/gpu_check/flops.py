"""Model FLOPs of a step: the operations that the model needs, without what checkpointing computes twice.

A matrix of n weights takes 2 n operations per token; causal attention takes half of the full product. A backward pass
takes twice the forward pass; without gradients of frozen weights (LoRA) it takes about as much as the forward pass.
Operations of adapters are not counted.
"""

from __future__ import annotations

from screening.task import OPTIONS
from trainer.training.gpu_check.order import Task
from trainer.training.plan.shapes import Shapes

PICTURES = 1 + len(OPTIONS)

PEAKS = {
    "B200": 2250,
    "H200": 989,
    "GH200": 989,
    "H100 PCIe": 756,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L4": 121,
    "A10G": 70,
    "A10": 125,
    "A30": 165,
    "RTX 6000 Ada": 364,
    "RTX 4090": 165,
    "RTX 3090": 71,
}
"""Part of a card's name → TFLOP/s of dense bfloat16 products with sums in float32, from the vendor's data sheets. The
first match counts."""


def stated_peak(card: str) -> float | None:
    """FLOP/s that the vendor states for a card; None for an unknown one."""
    words = card.replace("-", " ")
    found = next((rate for name, rate in PEAKS.items() if f" {name} " in f" {words} "), None)
    return None if found is None else found * 1e12


def sft_step(task: Task, shapes: Shapes) -> float:
    """FLOPs of an SFT step: ViT and projector only look, the language model learns."""
    length = task.prompt + task.answer
    learnt = _text(shapes, length, length**2 / 2) + _head(shapes, task.answer)
    return task.batch_size * task.passes * (_looking(task, shapes) + _passes(task) * learnt)


def rollout(task: Task, shapes: Shapes) -> float:
    """FLOPs of the rollouts of a step. Each prompt is read once per group."""
    return task.questions * (_looking(task, shapes) + _group(task, shapes))


def scoring(task: Task, shapes: Shapes, *, trained: bool) -> float:
    """FLOPs of the log-probabilities of a step's completions, with or without their backward pass."""
    once = task.questions * (_looking(task, shapes) + _group(task, shapes))
    return once * (_passes(task) if trained else 1)


def _passes(task: Task) -> int:
    """Forward passes that forward and backward pass together are worth."""
    return 2 if task.adapters else 3


def _group(task: Task, shapes: Shapes) -> float:
    """FLOPs of the language model for a prompt and its completions."""
    answers, size, prompt, answer = task.group_size * task.answer, task.group_size, task.prompt, task.answer
    pairs = prompt**2 / 2 + size * (answer * prompt + answer**2 / 2)
    return _text(shapes, prompt + answers, pairs) + _head(shapes, answers)


def _text(shapes: Shapes, tokens: float, pairs: float) -> float:
    """FLOPs of the language model's layers for a number of tokens, and of pairs of which one attends to the other."""
    text = shapes.text
    inner = text.heads * text.head_dim
    matrices = 2 * text.width * (inner + text.kv_heads * text.head_dim) + 3 * text.width * text.mlp
    return text.number * (2 * matrices * tokens + 4 * inner * pairs)


def _head(shapes: Shapes, tokens: float) -> float:
    return 2 * shapes.text.width * shapes.vocabulary * tokens


def _looking(task: Task, shapes: Shapes) -> float:
    """FLOPs of ViT and projector for the pictures of one question."""
    vision, positions = shapes.vision, shapes.vision_length
    matrices = 4 * vision.width**2 + 2 * vision.width * vision.mlp
    layers = vision.number * (2 * matrices * positions + 4 * vision.heads * vision.head_dim * positions**2)
    embedded = 2 * 3 * (shapes.image_size * shapes.image_size) * vision.width
    projector = 2 * (shapes.folded_width + shapes.text.width) * shapes.text.width * shapes.tokens_per_picture
    return PICTURES * task.tiles * (embedded + layers + projector)
