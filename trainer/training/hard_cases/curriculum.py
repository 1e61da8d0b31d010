"""The curriculum of stage 2: which training samples it sees, how often and in which order (paper, section 4).

Epochs 1-3 are the full set, epochs 4-5 the full set plus the hard cases again.

The paper's variants are data here: `last_parts` names what an epoch of the last two is made of.

| last_parts | paper, 2B | |
|---|---|---|
| [hard] | table 7, 58.76 | the hard cases only |
| [easy] | table 7, 59.40 | the easy ones only |
| [all] | table 7, 59.83 | the full set, no mining: DPA-GRPO of table 6 (same score), or GRPO with the exact reward |
| [all, random] | table 7, 60.90 | the full set and as many random samples as there are hard ones |
| [all, hard] | table 7, 64.74 | HCM-GRPO |
| [] | – | none: training ends after the first epochs |

Left open by the paper, decided here: an epoch's samples are shuffled together, so that hard cases lie between others
and not in a block at the end; each epoch has an order of its own; the random samples are drawn once, without
replacement and from the whole training set, and serve both epochs, as the hard cases do.

Why one flat curriculum and not two runs
    `Curriculum.ids` is one sequence over all epochs, trained as *one* epoch of an unshuffled data set. Two runs, or two
    calls of `Trainer.train()`, would start the learning-rate schedule, the optimizer's moments and the step counter
    anew at epoch 4, and the comparison with [all] would no longer be of data alone. And as the order is data, a killed
    run goes on at the exact sample: TRL's own sampler replays the order of epoch 0 when it resumes in a later one. TRL
    drops the last prompts of an epoch that do not fill a step; in a flat curriculum that happens once, not five times.

A step may hold a sample twice (once from the full set, once as a hard case). They are two groups with rollouts of their
own; nothing is compared across groups.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from trainer.training.hard_cases.cases import Cases, HardCasesError

Part = Literal["all", "hard", "easy", "random"]
"""What an epoch can be made of."""

HCM_PARTS: tuple[Part, ...] = ("all", "hard")


@dataclass(frozen=True, slots=True)
class Curriculum:
    """Sample ids in the order of training, epoch by epoch."""

    epochs: tuple[tuple[str, ...], ...]

    @property
    def ids(self) -> list[str]:
        """The flat curriculum: what the trainer's data set is made of, in this order, without shuffling."""
        return list(chain.from_iterable(self.epochs))


def make_curriculum(
    cases: Cases, *, epochs: int = 3, last_epochs: int = 2, last_parts: Sequence[Part] = HCM_PARTS, seed: int = 0
) -> Curriculum:
    """The order of training: `epochs` times the full set, then `last_epochs` times the parts named.

    The same cases, settings and seed give the same curriculum, on every machine.

    Raises:
        HardCasesError: an epoch would be empty, as with [hard] for a model without mistakes.
    """
    parts = {"all": cases.all, "hard": cases.hard, "easy": cases.easy, "random": _drawn(cases, seed)}
    last = list(chain.from_iterable(parts[part] for part in last_parts))
    contents = [list(cases.all)] * epochs + ([last] * last_epochs if last_parts else [])
    if not contents or not all(contents):
        raise HardCasesError(
            f"{len(cases.all)} samples, {len(cases.hard)} of them hard, with the last epochs made of "
            f"[{', '.join(last_parts)}], leave an epoch empty; add `all` to the last epochs"
        )
    return Curriculum(tuple(_shuffled(content, seed, number) for number, content in enumerate(contents, 1)))


def epoch_sizes(
    samples: int, hard: int, *, epochs: int = 3, last_epochs: int = 2, last_parts: Sequence[Part] = HCM_PARTS
) -> list[int]:
    """How long each epoch of a curriculum is, when only the numbers of samples and hard cases are known."""
    parts = {"all": samples, "hard": hard, "easy": samples - hard, "random": hard}
    return [samples] * epochs + ([sum(parts[part] for part in last_parts)] * last_epochs if last_parts else [])


def _drawn(cases: Cases, seed: int) -> list[str]:
    """As many samples as there are hard cases, hard or not."""
    return random.Random(f"random part, seed {seed}").sample(cases.all, len(cases.hard))


def _shuffled(content: Iterable[str], seed: int, number: int) -> tuple[str, ...]:
    """Seeded by text: Python hashes it with SHA-512, so neighbouring seeds and epochs share nothing."""
    order = list(content)
    random.Random(f"epoch {number}, seed {seed}").shuffle(order)
    return tuple(order)
