"""The stages of pretraining: see, read and speak. Each defines the loss of one step.

1. `See` trains ViT and projector with the heads on their output. It is fast, because it runs no language model.
2. `Read` adds the language model, still without text: five pictures, followed by the markers `<A>` … `<D>`.
3. `Speak` trains captions and the real task in words. ViT and projector are frozen, as in the paper's later stages. The
   heads on the language model stay active.

All random choices depend on the recipe's seed, the stage and the step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from screening.answer import Mode
from screening.prompt import PICTURES_PER_SAMPLE
from screening.task import OPTIONS
from trainer.research.pretrain.batches import IGNORED, Batcher, draw_shifts
from trainer.research.pretrain.measurements import Recall, option_score, verdict_recall
from trainer.research.pretrain.pool import PoolShot
from trainer.research.pretrain.questions import BOXES, DIMENSIONS, FINE, PRINTED, AnswerSheet, Questionnaire
from trainer.research.pretrain.scaffold import (
    LossWeights,
    Scaffold,
    States,
    answer_loss,
    generated_only,
    original_only,
)
from trainer.research.pretrain.tasks import Tasks
from trainer.training.recipe.pretrain import HeadsStageSettings, SeeStageSettings, SpeakStageSettings, StageSettings


@dataclass(frozen=True)
class Workshop:
    """The objects that all stages share."""

    scaffold: Scaffold
    questionnaire: Questionnaire
    answers: AnswerSheet
    tokenizer: PreTrainedTokenizerFast
    batcher: Batcher
    training: Tasks
    held_out: Tasks
    jitter: int
    seed: int
    device: torch.device

    def families(
        self, tasks: Tasks, count: int, rng: np.random.Generator, varied_share: float = 0.0
    ) -> list[tuple[PoolShot, ...]]:
        """Originals with four generated pictures each."""
        return [tasks.family(rng, varied_share) for _ in range(count)]

    def pixels(self, families: Sequence[Sequence[PoolShot]], shifts: np.ndarray | None = None) -> torch.Tensor:
        """Pixels of all pictures (pictures, 3, side, side), moved by `shifts` as in `PixelBatcher`."""
        return self.batcher.pixels([s.row for f in families for s in f], shifts).to(self.device)

    def targets(
        self, families: Sequence[Sequence[PoolShot]], shifts: np.ndarray | None = None
    ) -> dict[str, torch.Tensor]:
        """The answers about all pictures. Boxes move with the pictures."""
        found = self.answers(shot.row for family in families for shot in family)
        if shifts is not None:
            found[BOXES] = moved(found[BOXES], shifts, self.batcher.side)
        return {name: target.to(self.device) for name, target in found.items()}

    def training_batch(
        self, course: HeadsStageSettings, rng: np.random.Generator
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Projected tokens and answers of new families, each picture moved by a few pixels."""
        families = self.families(self.training, course.families_per_step, rng, course.varied_share)
        shifts = draw_shifts(rng, len(families) * PICTURES_PER_SAMPLE, self.jitter)
        return self.scaffold.look(self.pixels(families, shifts)), self.targets(families, shifts)

    def reading_ids(self) -> torch.Tensor:
        """The screening prompt and the four markers, shape (length,)."""
        prompt = self.batcher.prompt_ids(self.training.screen_prompt(Mode.COT))
        return torch.tensor([*prompt, *self.markers], device=self.device)

    @property
    def end_of_picture(self) -> int:
        return int(self.tokenizer.convert_tokens_to_ids("</img>"))

    @property
    def markers(self) -> list[int]:
        return [int(self.tokenizer.convert_tokens_to_ids(f"<{option}>")) for option in OPTIONS]


class Stage(Protocol):
    """The interface of a stage for the training loop."""

    name: str
    shop: Workshop

    @property
    def course(self) -> StageSettings:
        """Number of steps, and the learning rate over time."""

    def trained(self) -> Iterator[nn.Parameter]:
        """Parameters that are trained."""

    def loss(self, rng: np.random.Generator) -> torch.Tensor:
        """Loss of one step."""

    def measure(self) -> dict[str, Any]:
        """Quality on held-out products."""


class See:
    """Stage 1."""

    name = "see"

    def __init__(self, shop: Workshop, course: SeeStageSettings) -> None:
        self.shop, self.course = shop, course

    def trained(self) -> Iterator[nn.Parameter]:
        scaffold = self.shop.scaffold
        core = scaffold.model.model
        heads = [scaffold.seen] if self.course.unrelated else [scaffold.seen, scaffold.compared]
        for part in (core.vision_tower, core.multi_modal_projector, *heads):
            yield from part.parameters()

    def loss(self, rng: np.random.Generator) -> torch.Tensor:
        shop = self.shop
        weights = weights_of(self.course)
        if not self.course.unrelated:
            return shop.scaffold.seeing_loss(*shop.training_batch(self.course, rng), weights)
        shots = [shop.training.any_shot(rng) for _ in range(self.course.families_per_step * PICTURES_PER_SAMPLE)]
        tokens = shop.scaffold.look(shop.pixels([shots], draw_shifts(rng, len(shots), shop.jitter)))
        return answer_loss(shop.scaffold.seen(tokens), shop.targets([shots]), weights)

    def measure(self, families: int = 256) -> dict[str, Any]:
        shop, rng, recall = self.shop, np.random.default_rng(0), Recall(self.shop.questionnaire)
        for _ in range(families // 16):
            drawn = shop.families(shop.held_out, 16, rng)
            tokens = shop.scaffold.look(shop.pixels(drawn))
            targets = shop.targets(drawn)
            recall.add(shop.scaffold.seen(tokens), targets)
            if not self.course.unrelated:
                recall.add(shop.scaffold.compared(tokens), generated_only(targets))
        return {"seen": recall.result()}


class Read:
    """Stage 2."""

    name = "read"

    def __init__(self, shop: Workshop, course: HeadsStageSettings) -> None:
        self.shop, self.course = shop, course
        self._ids = shop.reading_ids()
        self._ends = (self._ids == shop.end_of_picture).nonzero()[:, 0]

    def trained(self) -> Iterator[nn.Parameter]:
        for name, parameter in self.shop.scaffold.named_parameters():
            if "lm_head" not in name:
                yield parameter

    def _states(self, tokens: torch.Tensor, families: int) -> States:
        """Of the pictures' ends, and twice of the markers, each (places, width)."""
        read, found, top = self.shop.scaffold.think(self._ids.expand(families, -1), tokens)
        markers = slice(-len(OPTIONS), None)
        return States(*(s.flatten(0, 1) for s in (read[:, self._ends], found[:, markers], top[:, markers])))

    def loss(self, rng: np.random.Generator) -> torch.Tensor:
        shop = self.shop
        tokens, targets = shop.training_batch(self.course, rng)
        read, found, top = self._states(tokens, self.course.families_per_step)
        weights = weights_of(self.course)
        loss = shop.scaffold.seeing_loss(tokens, targets, weights)
        loss = loss + answer_loss(shop.scaffold.read(read), targets, weights)
        return loss + shop.scaffold.marker_loss(found, top, targets, weights)

    def measure(self, families: int = 256) -> dict[str, Any]:
        shop, rng = self.shop, np.random.default_rng(0)
        names = ("seen", "read", "found", "changed", "recalled", "judged")
        recalls = {name: Recall(shop.questionnaire) for name in names}
        fine, usable = [], []
        for _ in range(families // 16):
            drawn = shop.families(shop.held_out, 16, rng)
            tokens = shop.scaffold.look(shop.pixels(drawn))
            targets = shop.targets(drawn)
            recalls["seen"].add(shop.scaffold.seen(tokens), targets)
            read, found, top = self._states(tokens, len(drawn))
            judged = shop.scaffold.judged(top)
            recalls["read"].add(shop.scaffold.read(read), targets)
            recalls["found"].add(found_there := shop.scaffold.found(found), generated_only(targets))
            recalls["changed"].add(*differing(found_there, targets))
            recalls["recalled"].add(shop.scaffold.recalled(found), original_only(targets))
            recalls["judged"].add(judged, generated_only(targets))
            fine.append(fine_probability(judged, shop.questionnaire).reshape(-1, len(OPTIONS)))
            usable.append(torch.tensor([[not s.dimensions for s in f[1:]] for f in drawn]))
        measured: dict[str, Any] = {name: recall.result() for name, recall in recalls.items()}
        return measured | {"score": option_score(torch.cat(fine).cpu(), torch.cat(usable))}


class Speak:
    """Stage 3. Pictures of answers in words are not shifted, because the boxes in words do not move with them."""

    name = "speak"

    def __init__(self, shop: Workshop, course: SpeakStageSettings, reading: Read) -> None:
        self.shop, self.course, self.reading = shop, course, reading
        self._markers = torch.tensor(shop.markers, device=shop.device)
        self._brackets = brackets(shop.tokenizer)
        counts = course.usable_counts
        self._tasks = shop.training if counts is None else shop.training.with_usable_counts(counts)

    def trained(self) -> Iterator[nn.Parameter]:
        model = self.shop.scaffold.model
        scaffold = self.shop.scaffold
        heads = (scaffold.read, scaffold.found, scaffold.recalled, scaffold.judged)
        for part in (model.model.language_model, model.lm_head, *heads):
            yield from part.parameters()

    def loss(self, rng: np.random.Generator) -> torch.Tensor:
        shares = self.course.shares
        task = str(rng.choice(list(shares), p=np.array(list(shares.values())) / sum(shares.values())))
        if task == "read":
            return self.reading.loss(rng)
        shop, scaffold = self.shop, self.shop.scaffold
        count = self.course.families_per_step * (PICTURES_PER_SAMPLE if task == "describe" else 1)
        examples = [self._tasks.draw[task](rng) for _ in range(count)]
        batch = {name: t.to(shop.device) for name, t in shop.batcher(examples).items()}
        with torch.no_grad():
            tokens = scaffold.look(batch["pixel_values"])
        states = scaffold.think(batch["input_ids"], tokens)
        wanted = batch["labels"][:, 1:]
        places = wanted != IGNORED
        logits = scaffold.model.lm_head(states.top[:, :-1][places]).float()
        each = functional.cross_entropy(logits, wanted[places], reduction="none")
        within = inside_boxes(wanted, self._brackets)[places]
        loss = (each * torch.where(within, self.course.box_weight, 1.0)).mean()
        if task.startswith("screen"):
            ended = batch["input_ids"] == shop.end_of_picture
            targets = shop.targets([e.shots for e in examples])
            weights = weights_of(self.course)
            loss = loss + answer_loss(scaffold.read(states.read[ended]), targets, weights)
            if task != "screen_direct":
                marked = torch.isin(batch["labels"], self._markers)
                loss = loss + scaffold.marker_loss(states.found[marked], states.top[marked], targets, weights)
        return loss

    def measure(self, samples: int = 256) -> dict[str, Any]:
        shop, rng = self.shop, np.random.default_rng(0)

        def batches() -> Iterator[dict[str, torch.Tensor]]:
            for _ in range(samples // 16):
                examples = [shop.held_out.draw["screen"](rng) for _ in range(16)]
                yield {name: tensor.to(shop.device) for name, tensor in shop.batcher(examples).items()}

        return {"verdicts": verdict_recall(shop.scaffold.model, shop.tokenizer, batches())}


def weights_of(course: StageSettings) -> LossWeights:
    """The weights of a stage in the losses of its heads."""
    return LossWeights(places=course.place_weight, measures=course.measure_weight)


def moved(boxes: torch.Tensor, shifts: np.ndarray, side: int) -> torch.Tensor:
    """Boxes (pictures, boxes x 4), as shares of the side, after their pictures moved as in `PixelBatcher`.

    Args:
        side: of the pictures, in pixels.
    """
    steps = torch.from_numpy(shifts[:, ::-1] / side).to(boxes.dtype)  # to the left, up
    return (boxes.unflatten(1, (-1, 2)) - steps[:, None]).clamp(0, 1).flatten(1)


def differing(
    found: dict[str, torch.Tensor], targets: dict[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Only the attributes of generated pictures that differ from the original's: logits and targets, others ignored.

    Where nothing differs, reading the original is enough to be right. So the recall over all pictures says little about
    how well the generated ones are read.
    """
    own, original = generated_only(targets), original_only(targets)
    differs = {name: own[name].where(own[name] != original[name], IGNORED) for name in PRINTED if name in found}
    return {name: found[name] for name in differs}, differs


def brackets(tokenizer: PreTrainedTokenizerFast) -> tuple[int, int]:
    """The tokens around the numbers of a box, `[[310, 80, 520, 190]]`."""
    opening, closing = tokenizer.convert_tokens_to_ids(["[", "]"])
    return opening, closing


def inside_boxes(labels: torch.Tensor, around: tuple[int, int]) -> torch.Tensor:
    """Which tokens of answers (batch, length) belong to the numbers of a box, with its brackets up to the first `]`."""
    opened, closed = ((labels == bracket).cumsum(1) for bracket in around)
    return opened > closed


def fine_probability(judged: dict[str, torch.Tensor], questionnaire: Questionnaire) -> torch.Tensor:
    """Probability that no dimension has an issue, (pictures,), if the dimensions are independent."""
    shares = [judged[d].softmax(-1)[:, questionnaire.classes[d].index(FINE)] for d in DIMENSIONS if d in judged]
    return torch.stack(shares).prod(0)
