"""The tasks of pretraining, and their texts.

* `describe`: one picture → its caption.
* `describe_all`: five pictures of *unrelated* products → five captions, so the model must look at each picture. With
  one product on all five, copying the first description is right nine times in ten, and the model learns to copy.
* `screen`, `screen_direct`: the real task, with its reasoning and without.
* `screen_locate`: the real task, with a box for every defect in the reasoning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from transformers import PreTrainedTokenizerFast

from screening.answer import Answer, Finding, Mode, compose, render, with_boxes
from screening.prompt import Prompt, locating, messages
from screening.task import OPTIONS, Dimension
from trainer.data.render.words import JOINT, NORMAL_COMMENT
from trainer.research.pretrain.pool import Pool, PoolProduct, PoolShot
from trainer.training.instructions import DESCRIBE, DESCRIBE_ALL


@dataclass(frozen=True, slots=True)
class Example:
    """One training example: pictures of the pool in order, prompt text with one placeholder per picture, and target."""

    shots: tuple[PoolShot, ...]
    prompt: str
    target: str


class Tasks:
    """Draws examples from a pool, with all randomness from the given generator."""

    def __init__(
        self,
        pool: Pool,
        tokenizer: PreTrainedTokenizerFast,
        prompt: Prompt,
        *,
        usable_counts: tuple[float, ...],
    ) -> None:
        self.pool = pool
        self.usable_counts = np.asarray(usable_counts) / np.sum(usable_counts)
        self._tokenizer = tokenizer
        self._prompt = prompt
        self.draw: dict[str, Callable[[np.random.Generator], Example]] = {
            "describe": self.describe,
            "describe_all": self.describe_all,
            "screen": lambda rng: self.screen(rng, Mode.COT),
            "screen_direct": lambda rng: self.screen(rng, Mode.DIRECT),
            "screen_locate": self.screen_locate,
        }

    def with_usable_counts(self, usable_counts: tuple[float, ...]) -> Tasks:
        """The same tasks with other shares of samples with 0 to 4 usable pictures."""
        return Tasks(self.pool, self._tokenizer, self._prompt, usable_counts=usable_counts)

    def describe(self, rng: np.random.Generator) -> Example:
        """One picture → its caption."""
        shot = self.any_shot(rng)
        return Example((shot,), self._chat(DESCRIBE, 1), shot.caption)

    def describe_all(self, rng: np.random.Generator) -> Example:
        """Five pictures of unrelated products → five captions."""
        shots = tuple(self.any_shot(rng) for _ in range(1 + len(OPTIONS)))
        captions = [f"<{option}> {shot.caption}" for option, shot in zip(OPTIONS, shots[1:], strict=True)]
        return Example(shots, self._chat(DESCRIBE_ALL, 5), " ".join([shots[0].caption, *captions]))

    def screen(self, rng: np.random.Generator, mode: Mode) -> Example:
        """The real task."""
        product = self._product(rng)
        shots = self._generated(product, rng)
        return Example((product.original, *shots), self.screen_prompt(mode), render(_answer(product, shots), mode))

    def screen_locate(self, rng: np.random.Generator) -> Example:
        """The real task with boxes. A sample with a defect that cannot be seen, and so has no box, is replaced."""
        product = self._product(rng)
        shots = self._generated(product, rng)
        if any(set(shot.dimensions) - shot.boxes.keys() for shot in shots):
            return self.screen_locate(rng)
        boxes = {
            option: [shot.boxes[d.value] for d in Dimension if d.value in shot.boxes]
            for option, shot in zip(OPTIONS, shots, strict=True)
        }
        answer = _answer(product, shots)
        located = Answer(answer.options, with_boxes(answer.reasoning or "", boxes))
        prompt = self.screen_prompt(Mode.COT, locate=True)
        return Example((product.original, *shots), prompt, render(located, Mode.COT))

    def family(self, rng: np.random.Generator, varied_share: float = 0.0) -> tuple[PoolShot, ...]:
        """An original and four generated pictures of it, as in `screen`.

        Args:
            varied_share: share of the four pictures that are replaced by variations of the product, on average.
        """
        product = self._product(rng)
        shots = self._generated(product, rng)
        if varied_share:
            others = [product.variations[i] for i in rng.permutation(len(product.variations))[: len(shots)]]
            for place, other in enumerate(others):
                if rng.random() < varied_share:
                    shots[place] = other
        return (product.original, *shots)

    def _generated(self, product: PoolProduct, rng: np.random.Generator) -> list[PoolShot]:
        """Four pictures in random order; the number of usable ones is drawn first."""
        usable = int(rng.choice(5, p=self.usable_counts))
        good = rng.permutation(len(product.usable))[:usable]
        bad = rng.permutation(len(product.defective))[: 4 - len(good)]
        shots = [product.usable[i] for i in good] + [product.defective[i] for i in bad]
        return [shots[i] for i in rng.permutation(4)]

    def _product(self, rng: np.random.Generator) -> PoolProduct:
        return self.pool.products[rng.integers(len(self.pool.products))]

    def any_shot(self, rng: np.random.Generator) -> PoolShot:
        """A picture of any product, which may be an original."""
        shots = self._product(rng).shots
        return shots[rng.integers(len(shots))]

    @lru_cache(maxsize=16)  # noqa: B019 - one Tasks object lives as long as its process
    def _chat(self, instruction: str, pictures: int) -> str:
        names = ("Original", *OPTIONS) if pictures == 5 else ("Original",)
        content: list[dict[str, str]] = [{"type": "text", "text": instruction}]
        for name in names:
            content += [{"type": "text", "text": f"{name}:"}, {"type": "image"}]
        return str(
            self._tokenizer.apply_chat_template(
                [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
            )
        )

    @lru_cache(maxsize=3)  # noqa: B019
    def screen_prompt(self, mode: Mode, locate: bool = False) -> str:
        """The screening question as text."""
        prompt = locating(self._prompt) if locate else self._prompt
        return str(
            self._tokenizer.apply_chat_template(
                messages(prompt, mode, locate), tokenize=False, add_generation_prompt=True
            )
        )


def _answer(product: PoolProduct, shots: Sequence[PoolShot]) -> Answer:
    """The true answer about four generated pictures, with its reasoning."""
    findings = tuple(finding(o, s) for o, s in zip(OPTIONS, shots, strict=True))
    options = frozenset(f.option for f in findings if not f.dimensions)
    return compose(options, findings, opening=f"The original is {product.description}.")


def finding(option: str, shot: PoolShot) -> Finding:
    """The finding of the reasoning about a picture of the pool."""
    dimensions = frozenset(d for d in Dimension if d.value in shot.dimensions)
    return Finding(option, dimensions, JOINT.join(shot.comments) or NORMAL_COMMENT)
