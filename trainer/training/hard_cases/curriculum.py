"""Makes the curriculum of stage 2: on which samples it trains, how often and in which order (paper, section 4).

Epochs 1 to 3 are the full set; epochs 4 and 5 are the full set and the hard cases once more. The setting `last_parts`
names the parts of the last epochs, and so selects one of the paper's variants:

| last_parts | paper, 2B | |
|---|---|---|
| [hard] | table 7, 58.76 | the hard cases only |
| [easy] | table 7, 59.40 | the easy ones only |
| [all] | table 7, 59.83 | the full set, no mining: DPA-GRPO of table 6 (same score), or GRPO with the exact reward |
| [all, random] | table 7, 60.90 | the full set and as many random samples as there are hard ones |
| [all, hard] | table 7, 64.74 | HCM-GRPO |
| [] | – | no last epochs |

The paper leaves open, and this module decides: the samples of an epoch are shuffled together, so that hard cases do
not form a block at its end; each epoch has its own order; the random samples are drawn once, without replacement,
from the whole training set, and both epochs use them, like the hard cases.

Why one flat curriculum and not two runs
    `Curriculum.ids` is one sequence over all epochs, trained as *one* epoch of an unshuffled data set. Two runs, or two
    calls of `Trainer.train()`, would reset the learning-rate schedule, the optimizer's moments and the step counter at
    epoch 4, and a comparison with [all] would not be of the data alone. Since the order is part of the data, a killed
    run resumes at the exact sample; TRL's own sampler replays the order of epoch 0 when it resumes in a later one. TRL
    drops the last prompts of an epoch that do not fill a step, which happens once in a flat curriculum, not five times.

A step may contain a sample twice: from the full set and as a hard case. These are two groups with separate rollouts,
and advantages are computed within a group only.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from trainer.training.hard_cases.cases import Cases, HardCasesError

Part = Literal["all", "hard", "easy", "random"]
"""A part of an epoch."""

HCM_PARTS: tuple[Part, ...] = ("all", "hard")


@dataclass(frozen=True, slots=True)
class Curriculum:
    """Sample ids in the order of training, epoch by epoch."""

    epochs: tuple[tuple[str, ...], ...]

    @property
    def ids(self) -> list[str]:
        """The ids of all epochs in one list, which is the order of the trainer's data set."""
        return list(chain.from_iterable(self.epochs))


def make_curriculum(
    cases: Cases, *, epochs: int = 3, last_epochs: int = 2, last_parts: Sequence[Part] = HCM_PARTS, seed: int = 0
) -> Curriculum:
    """Make a curriculum: `epochs` times the full set, and then `last_epochs` times the named parts.

    The same cases, settings and seed give the same curriculum on every machine.

    Raises:
        HardCasesError: an epoch would be empty, as with [hard] for a model without mistakes.
    """
    parts = {"all": cases.all, "hard": cases.hard, "easy": cases.easy, "random": _drawn(cases, seed)}
    last = list(chain.from_iterable(parts[part] for part in last_parts))
    contents = [list(cases.all)] * epochs + ([last] * last_epochs if last_parts else [])
    if not contents or not all(contents):
        raise HardCasesError(
            f"an epoch would be empty: there are {len(cases.all)} samples, {len(cases.hard)} of them hard, and "
            f"last_parts is [{', '.join(last_parts)}]. Add `all` to last_parts"
        )
    return Curriculum(tuple(_shuffled(content, seed, number) for number, content in enumerate(contents, 1)))


def epoch_sizes(
    samples: int, hard: int, *, epochs: int = 3, last_epochs: int = 2, last_parts: Sequence[Part] = HCM_PARTS
) -> list[int]:
    """The number of questions of each epoch, from the numbers of samples and hard cases."""
    parts = {"all": samples, "hard": hard, "easy": samples - hard, "random": hard}
    return [samples] * epochs + ([sum(parts[part] for part in last_parts)] * last_epochs if last_parts else [])


def _drawn(cases: Cases, seed: int) -> list[str]:
    """Random samples, as many as there are hard cases."""
    return random.Random(f"random part, seed {seed}").sample(cases.all, len(cases.hard))


def _shuffled(content: Iterable[str], seed: int, number: int) -> tuple[str, ...]:
    """Shuffle an epoch. The seed is a text, which Python hashes with SHA-512, so that no two epochs are correlated."""
    order = list(content)
    random.Random(f"epoch {number}, seed {seed}").shuffle(order)
    return tuple(order)
