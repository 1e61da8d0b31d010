"""Auxiliary heads that teach a model to recognise, compare and look up attributes. They are discarded after training.

They replace the large-scale pretraining of a base model. With captions alone, each attribute gets a training signal
from about one word in forty (docs/experiments/2026-11-21-tiny-checkpoint.md shows the result). So every question of the
questionnaire has its own head, and all heads are trained together, at these places:

* `seen`: on the projected tokens of one picture, before the language model;
* `compared`: on the tokens of an original and a generated picture, for differences of the product;
* `read`: on the language model's state after each picture (`</img>`), in the middle of its layers, where all facts
  about one picture must be gathered and compared with the original before it;
* `found` and `recalled`: on its state at the markers `<A>` … `<D>` of an answer, one layer later, for the attributes
  and measures of the picture that the marker names, and for those of the original. With both in one place, a
  comparison is easy;
* `judged`: on its last state at the markers, for the issue of the picture, so that the next word can be the verdict.

`read`, `found` and `judged` also say where the defect of each dimension is. For a model that is to point at issues,
`found` matters most: the words after a marker, and so the boxes, can look up its state of that layer, but not its last.
`seen` says nothing of places: with so many inputs, the gradients of the edges are thirty times as large as those of all
other questions together, and the vision tower would learn little else.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional
from transformers import InternVLForConditionalGeneration

from screening.prompt import PICTURES_PER_SAMPLE
from trainer.research.pretrain.batches import IGNORED
from trainer.research.pretrain.questions import BOXES, COMPARISONS, DIMENSIONS, MEASURES, PRINTED, Questionnaire


class Heads(nn.Module):
    """One linear head per question, all on the same vector."""

    def __init__(self, tokens: int, width: int, questionnaire: Questionnaire, names: Iterable[str]) -> None:
        super().__init__()
        self.sizes = {n: len(questionnaire.classes[n]) for n in names if n in questionnaire.classes}
        if MEASURES in names:
            self.sizes[MEASURES] = len(questionnaire.measures)
        if BOXES in names:
            self.sizes[BOXES] = 4 * len(DIMENSIONS)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(tokens * width, sum(self.sizes.values()))

    def forward(self, states: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits per question (vectors, classes), of states (vectors, tokens, width) or (vectors, width)."""
        return self._by_question(self.out(self.norm(states.float()).flatten(1)))

    def _by_question(self, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        return dict(zip(self.sizes, logits.float().split(list(self.sizes.values()), dim=1), strict=True))


class Comparison(nn.Module):
    """Finds the differences of a generated picture from its tokens and those of the original."""

    def __init__(self, tokens: int, width: int, questionnaire: Questionnaire, hidden: int = 128) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.LayerNorm(width), nn.Flatten(1), nn.Linear(tokens * width, hidden))
        self.mix = nn.Sequential(nn.Linear(3 * hidden, hidden), nn.GELU())
        self.heads = Heads(1, hidden, questionnaire, COMPARISONS)

    def forward(self, states: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits per question (families x 4, classes) of tokens (families x 5, tokens, width)."""
        embedded = self.embed(states.float()).unflatten(0, (-1, PICTURES_PER_SAMPLE))
        original, generated = embedded[:, :1], embedded[:, 1:]
        pairs = torch.cat([(generated - original).abs(), generated * original, generated], dim=-1)
        found: dict[str, torch.Tensor] = self.heads(self.mix(pairs.flatten(0, 1)))
        return found


class LossWeights(NamedTuple):
    """Weights of places and of measures in the losses of the heads. Every other question has the weight 1."""

    places: float
    measures: float


class States(NamedTuple):
    """States of the language model, each (batch, length, W), after the layers for `read`, for `found`, and the last."""

    read: torch.Tensor
    found: torch.Tensor
    top: torch.Tensor


class Scaffold(nn.Module):
    """A model with all its heads. In the shapes, P is the number of pictures (five per family), T tokens, W width."""

    def __init__(self, model: InternVLForConditionalGeneration, questionnaire: Questionnaire) -> None:
        super().__init__()
        self.model = model
        text, tokens = model.config.text_config, model.config.image_seq_length
        alone = [n for n in (*questionnaire.classes, MEASURES) if n not in COMPARISONS]
        self.seen = Heads(tokens, text.hidden_size, questionnaire, alone)
        self.compared = Comparison(tokens, text.hidden_size, questionnaire)
        self.read = Heads(1, text.hidden_size, questionnaire, [*alone, BOXES, *COMPARISONS])
        self.found = Heads(1, text.hidden_size, questionnaire, (*PRINTED, MEASURES, BOXES))
        self.recalled = Heads(1, text.hidden_size, questionnaire, (*PRINTED, MEASURES))
        self.judged = Heads(1, text.hidden_size, questionnaire, dict.fromkeys((*DIMENSIONS, *COMPARISONS, BOXES)))
        self.reading_layer = -(-text.num_hidden_layers * 3 // 5)
        self.finding_layer = min(self.reading_layer + 1, text.num_hidden_layers)

    def look(self, pixels: torch.Tensor) -> torch.Tensor:
        """Projected tokens (P, T, W) of pixels (P, 3, side, side)."""
        tokens: torch.Tensor = self.model.model.get_image_features(pixel_values=pixels).pooler_output
        return tokens

    def think(self, input_ids: torch.Tensor, tokens: torch.Tensor) -> States:
        """The language model's states on ids (batch, length) and pictures' tokens."""
        core = self.model.model.language_model
        embedded = core.get_input_embeddings()(input_ids)
        places = (input_ids == self.model.config.image_token_id)[..., None].expand_as(embedded)
        embedded = embedded.masked_scatter(places, tokens.to(embedded.dtype))
        states = core(inputs_embeds=embedded, use_cache=False, output_hidden_states=True).hidden_states
        return States(states[self.reading_layer], states[self.finding_layer], states[-1])

    def seeing_loss(self, tokens: torch.Tensor, targets: dict[str, torch.Tensor], weights: LossWeights) -> torch.Tensor:
        """Loss of `seen` and `compared` from projected tokens (P, T, W)."""
        seen = answer_loss(self.seen(tokens), targets, weights)
        return seen + answer_loss(self.compared(tokens), generated_only(targets), weights)

    def marker_loss(
        self, found: torch.Tensor, top: torch.Tensor, targets: dict[str, torch.Tensor], weights: LossWeights
    ) -> torch.Tensor:
        """Loss of `found`, `recalled` and `judged` from states at the markers (families x 4, W)."""
        own, original = generated_only(targets), original_only(targets)
        loss = answer_loss(self.found(found), own, weights) + answer_loss(self.recalled(found), original, weights)
        return loss + answer_loss(self.judged(top), own, weights)


def generated_only(targets: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Targets of the generated pictures only."""
    return {name: t.reshape(-1, PICTURES_PER_SAMPLE, *t.shape[1:])[:, 1:].flatten(0, 1) for name, t in targets.items()}


def original_only(targets: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Targets of the originals, repeated for each of their generated pictures."""
    return {
        name: t.reshape(-1, PICTURES_PER_SAMPLE, *t.shape[1:])[:, 0].repeat_interleave(PICTURES_PER_SAMPLE - 1, dim=0)
        for name, t in targets.items()
    }


def answer_loss(
    logits: dict[str, torch.Tensor], targets: dict[str, torch.Tensor], weights: LossWeights
) -> torch.Tensor:
    """Cross-entropy, the Huber loss of standardised numbers for the measures, and the mean error of edges for boxes.

    The result is the mean over the questions about changed attributes, plus the mean over all others, plus the error of
    the boxes in tenths of the picture's side, times `weights.places`. All measures together count as one question,
    times `weights.measures`.
    """
    losses: dict[str, list[torch.Tensor]] = defaultdict(list)
    for name, found in logits.items():
        wanted = targets[name]
        if name in (MEASURES, BOXES):
            known = ~wanted.isnan()
            distance = functional.huber_loss if name == MEASURES else functional.l1_loss
            loss = distance(found[known], wanted[known], reduction="sum") / max(1, known.sum())
        else:
            known = (wanted != IGNORED).sum()
            total = functional.cross_entropy(found, wanted, ignore_index=IGNORED, reduction="sum")
            loss = total / max(1, known)
        group = BOXES if name == BOXES else "changed" if name in COMPARISONS[1:] else "other"
        factor = {BOXES: 10 * weights.places, MEASURES: weights.measures}.get(name, 1.0)
        losses[group].append(factor * loss)
    return torch.stack([torch.stack(group).mean() for group in losses.values()]).sum()
