"""What the model is asked in pretraining, and how a sample becomes tokens.

This stage stands in for the pretraining that a real base model brings: it teaches to see and to compare, in words
that the renderer knows. The tasks are mixed in shares that change over the course (`recipes/tiny.yaml`):

* `describe`: one picture → its caption.
* `describe_all`: five pictures of *unrelated* products → five captions. Each must be looked at: with one product on
  all five, copying the first description is right nine times in ten, and that is what a model then learns.
* `compare`: five pictures → for each generated one, attribute by attribute, `same` or `other`. Products are exchanged
  at random, so that the answer is never known before looking.
* `inspect_one`: one picture → for light, placement and additions, `fine` or the sentence about the defect.
* `inspect`: five pictures → for each generated one, dimension by dimension, `fine` or the sentence about the defect.
* `screen`, `screen_direct`: the real task, with its reasoning and without.

`compare` and `inspect` have a place for every finding. A first try that listed only what was wrong learned next to
nothing in 2,400 steps: one word then stands for "any of forty things", and no single cause gets a clear signal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from transformers import PreTrainedTokenizerFast

from screening.answer import Finding, Mode, compose, render
from screening.prompt import Prompt, messages
from screening.task import OPTIONS, Dimension, Options
from trainer.instructions import COMPARE, DESCRIBE, DESCRIBE_ALL, INSPECT, INSPECT_ONE
from trainer.pretrain.pool import VISIBLE_ALONE, Pool, PoolProduct, PoolShot
from trainer.render.words import JOINT, NORMAL_COMMENT

COMPARED = ("kind", "body", "cap", "mark", "number", "stripes")
"""The attributes that `compare` asks for, in this order."""


@dataclass(frozen=True, slots=True)
class Example:
    """One training example: rows of the pool in order, prompt text with one placeholder per picture, and target."""

    rows: tuple[int, ...]
    prompt: str
    target: str


class Tasks:
    """Draws examples from a pool. All randomness comes from the generator that is passed in."""

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
            "compare": self.compare,
            "inspect_one": self.inspect_one,
            "inspect": self.inspect,
            "screen": lambda rng: self.screen(rng, Mode.COT),
            "screen_direct": lambda rng: self.screen(rng, Mode.DIRECT),
        }

    def describe(self, rng: np.random.Generator) -> Example:
        """One picture → its caption."""
        product = self._product(rng)
        shots = (product.original, *product.usable, *product.defective)
        shot = shots[rng.integers(len(shots))]
        return Example((shot.row,), self._chat(DESCRIBE, 1), shot.caption)

    def describe_all(self, rng: np.random.Generator) -> Example:
        """Five pictures of unrelated products → five captions."""
        shots = []
        for _ in range(5):
            product = self._product(rng)
            candidates = (product.original, *product.usable, *product.defective)
            shots.append(candidates[rng.integers(len(candidates))])
        captions = [f"<{option}> {shot.caption}" for option, shot in zip(OPTIONS, shots[1:], strict=True)]
        return Example(
            tuple(s.row for s in shots), self._chat(DESCRIBE_ALL, 5), " ".join([shots[0].caption, *captions])
        )

    def compare(self, rng: np.random.Generator) -> Example:
        """Five pictures → which attributes differ: one in four of ten pictures, any in three, none in three."""
        product = self._product(rng)
        appearance = [s for s in product.defective if s.changed]
        shots: list[PoolShot] = []
        for _ in OPTIONS:
            kind = rng.random()
            if kind < 0.4 and appearance:
                shots.append(appearance[rng.integers(len(appearance))])
            elif kind < 0.7:
                shots.append(product.usable[rng.integers(len(product.usable))])
            else:
                other = self._product(rng)
                shots.append(other.usable[rng.integers(len(other.usable))])
        return self._per_picture(COMPARE, product, shots, lambda shot: differences(product.original, shot))

    def inspect_one(self, rng: np.random.Generator) -> Example:
        """One generated picture → what it is like, as far as can be told without the original.

        Three of four pictures have something to find: every single kind of defect is rare as it is.
        """
        product = self._product(rng)
        visible = [s for s in product.defective if {d.value for d in VISIBLE_ALONE} & set(s.dimensions)]
        shots = visible if visible and rng.random() < 0.75 else product.usable
        shot = shots[rng.integers(len(shots))]
        return Example((shot.row,), self._chat(INSPECT_ONE, 1), f"<A> {inspection(shot, VISIBLE_ALONE)}")

    def inspect(self, rng: np.random.Generator) -> Example:
        """Five pictures → what each dimension of each picture is like."""
        product = self._product(rng)
        shots, _ = self._choose(product, rng)
        return self._per_picture(INSPECT, product, shots, inspection)

    def _per_picture(
        self, instruction: str, product: PoolProduct, shots: list[PoolShot], say: Callable[[PoolShot], str]
    ) -> Example:
        parts = [f"<{option}> {say(shot)}" for option, shot in zip(OPTIONS, shots, strict=True)]
        rows = (product.original.row, *(s.row for s in shots))
        return Example(rows, self._chat(instruction, 5), " ".join(parts))

    def screen(self, rng: np.random.Generator, mode: Mode) -> Example:
        """The real task."""
        product = self._product(rng)
        shots, options = self._choose(product, rng)
        findings = tuple(finding(o, s) for o, s in zip(OPTIONS, shots, strict=True))
        answer = compose(options, findings, opening=f"The original is {product.description}.")
        rows = (product.original.row, *(s.row for s in shots))
        return Example(rows, self._screen_prompt(mode), render(answer, mode))

    def _choose(self, product: PoolProduct, rng: np.random.Generator) -> tuple[list[PoolShot], Options]:
        """Four pictures in random order: how many are usable first, then which."""
        usable = int(rng.choice(5, p=self.usable_counts))
        good = rng.permutation(len(product.usable))[:usable]
        bad = rng.permutation(len(product.defective))[: 4 - len(good)]
        shots = [product.usable[i] for i in good] + [product.defective[i] for i in bad]
        shots = [shots[i] for i in rng.permutation(4)]
        return shots, frozenset(o for o, s in zip(OPTIONS, shots, strict=True) if not s.dimensions)

    def _product(self, rng: np.random.Generator) -> PoolProduct:
        return self.pool.products[rng.integers(len(self.pool.products))]

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

    @lru_cache(maxsize=2)  # noqa: B019
    def _screen_prompt(self, mode: Mode) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                messages(self._prompt, mode), tokenize=False, add_generation_prompt=True
            )
        )


def finding(option: str, shot: PoolShot) -> Finding:
    """What the reasoning says about a picture of the pool."""
    dimensions = frozenset(Dimension(d) for d in shot.dimensions)
    return Finding(option, dimensions, JOINT.join(shot.comments) or NORMAL_COMMENT)


def differences(original: PoolShot, shot: PoolShot) -> str:
    """Attribute by attribute: `kind same body other cap same mark same number same stripes same`."""
    words = []
    for name in COMPARED:
        own = {n: v for n, v in shot.attributes.items() if n == name or n == f"{name}_colour"}
        first = {n: v for n, v in original.attributes.items() if n == name or n == f"{name}_colour"}
        changed = own != first or name in shot.changed or f"{name}_colour" in shot.changed
        words.append(f"{name} {'other' if changed else 'same'}")
    return " ".join(words)


def inspection(shot: PoolShot, dimensions: Iterable[Dimension] = Dimension) -> str:
    """Dimension by dimension: `appearance fine, shadow fine, layout it leans without support, extension fine`."""
    comments = dict(zip(shot.dimensions, shot.comments, strict=True))
    return ", ".join(f"{d.short} {comments.get(d.value, 'fine')}" for d in dimensions)
