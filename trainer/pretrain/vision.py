"""The first part of pretraining: the ViT and the projector learn to see, before the language model learns to say.

A base model brings a ViT that was trained on pictures for long; this stands in for that. Every question that the
renderer can answer about a picture gets a linear head on the projected tokens, and all heads are trained at once:
attributes of the product, digit by digit, side of the light, and per dimension what is wrong. Through captions alone
each of these gets a signal of one word in forty; see docs/experiments.md. The heads are thrown away.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import InternVLForConditionalGeneration

from trainer.pretrain.batches import IGNORED, PixelBatcher
from trainer.pretrain.pool import VISIBLE_ALONE, Pool, PoolProduct, PoolShot

ATTRIBUTES = ("kind", "body", "cap", "label", "mark", "mark_colour", "stripes")
FINE = "fine"


def questions(shot: PoolShot) -> dict[str, str]:
    """What can be asked about a picture, and the answers: head → class."""
    answers = {name: shot.attributes.get(name, "none") for name in ATTRIBUTES}
    number = shot.attributes.get("number", "")
    if len(number) == 2:
        answers["tens"], answers["ones"] = number
    if light := re.search(r"light from the (\w+)", shot.caption):
        answers["light"] = light[1]
    comments = dict(zip(shot.dimensions, shot.comments, strict=True))
    answers |= {d.short: comments.get(d.value, FINE) for d in VISIBLE_ALONE}
    return answers


@dataclass(frozen=True, slots=True)
class Heads:
    """Classes of every head, in the order of their logits."""

    classes: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, pool: Pool) -> Heads:
        """All answers that occur in a pool."""
        seen: dict[str, Counter[str]] = {}
        for product in pool.products:
            for shot in shots_of(product):
                for name, answer in questions(shot).items():
                    seen.setdefault(name, Counter())[answer] += 1
        return cls({name: tuple(sorted(answers)) for name, answers in sorted(seen.items())})

    def targets(self, shots: Sequence[PoolShot]) -> dict[str, torch.Tensor]:
        """Class numbers per head, shape (pictures,); IGNORED where a picture has no answer."""
        answers = [questions(shot) for shot in shots]
        return {
            name: torch.tensor([classes.index(a[name]) if a.get(name) in classes else IGNORED for a in answers])
            for name, classes in self.classes.items()
        }


class VisionStage(nn.Module):
    """The model's vision part with one linear head per question."""

    def __init__(self, model: InternVLForConditionalGeneration, heads: Heads) -> None:
        super().__init__()
        self.model = model
        width = model.config.image_seq_length * model.config.text_config.hidden_size
        self.norm = nn.LayerNorm(model.config.text_config.hidden_size)
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(classes)) for name, classes in heads.classes.items()})

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits per head, (pictures, classes), of pixels (pictures, 3, side, side)."""
        tokens = self.model.model.get_image_features(pixel_values=pixels).pooler_output
        flat = self.norm(tokens.float()).reshape(len(pixels), -1)
        return {name: head(flat) for name, head in self.heads.items()}

    def loss(self, pixels: torch.Tensor, targets: dict[str, torch.Tensor]) -> torch.Tensor:
        """Mean over the heads of the cross-entropy."""
        logits = self(pixels)
        losses = [functional.cross_entropy(logits[n].float(), t, ignore_index=IGNORED) for n, t in targets.items()]
        return torch.stack(losses).mean()

    def trained(self) -> Iterator[nn.Parameter]:
        """Parameters of ViT, projector and heads."""
        for part in (self.model.model.vision_tower, self.model.model.multi_modal_projector, self.norm, self.heads):
            yield from part.parameters()


def shots_of(product: PoolProduct) -> tuple[PoolShot, ...]:
    """All pictures of a product."""
    return (product.original, *product.usable, *product.defective)


def draw(pool: Pool, count: int, rng: np.random.Generator) -> list[PoolShot]:
    """Pictures to look at: half of them with a defect that shows without the original, because each kind is rare."""
    drawn = []
    for _ in range(count):
        product = pool.products[rng.integers(len(pool.products))]
        visible = [s for s in product.defective if {d.value for d in VISIBLE_ALONE} & set(s.dimensions)]
        shots = visible if visible and rng.random() < 0.5 else shots_of(product)
        drawn.append(shots[rng.integers(len(shots))])
    return drawn


@torch.no_grad()
def accuracy(stage: VisionStage, heads: Heads, pool: Pool, pixels: PixelBatcher, count: int = 512) -> dict[str, float]:
    """Mean recall over the classes of each head (guessing gives 1 / classes), on `count` pictures."""
    rng = np.random.default_rng(0)
    right: dict[str, Counter[int]] = {name: Counter() for name in heads.classes}
    seen: dict[str, Counter[int]] = {name: Counter() for name in heads.classes}
    for _ in range(count // 64):
        shots = draw(pool, 64, rng)
        logits = stage(pixels([s.row for s in shots], rng).to(stage.norm.weight.device))
        for name, target in heads.targets(shots).items():
            for truth, guess in zip(target.tolist(), logits[name].argmax(-1).tolist(), strict=True):
                if truth != IGNORED:
                    seen[name][truth] += 1
                    right[name][truth] += truth == guess
    return {
        name: float(np.mean([right[name][c] / n for c, n in found.items()])) for name, found in seen.items() if found
    }
