"""Measure during training how well the model recognises and judges pictures.

The loss is not informative here, because most tokens of an answer are the same in every sample. The important token is
the first word after each `<A>` … `<D>`: `normal`, or a dimension. With the target's own words before it (teacher
forcing), one forward pass gives the model's choice for all pictures of a batch.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from transformers import InternVLForConditionalGeneration, PreTrainedTokenizerFast

from screening.boxes import Box
from screening.task import NORMAL, OPTIONS, Dimension
from trainer.research.pretrain.batches import IGNORED
from trainer.research.pretrain.questions import BOXES, DIMENSIONS, FINE, MEASURES, Questionnaire


class Recall:
    """Collects the answers of the heads."""

    def __init__(self, questionnaire: Questionnaire) -> None:
        self._questionnaire = questionnaire
        self._pairs: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._errors: list[torch.Tensor] = []
        self._places: dict[str, list[tuple[Box, Box]]] = defaultdict(list)

    def add(self, logits: dict[str, torch.Tensor], targets: dict[str, torch.Tensor]) -> None:
        """Logits (pictures, classes) and class numbers (pictures,) per question."""
        for name, found in logits.items():
            if name == MEASURES:
                self._errors.append((found - targets[name]).detach().float().cpu())
                continue
            if name == BOXES:
                self._add_places(found, targets[name])
                continue
            for truth, guess in zip(targets[name].tolist(), found.argmax(-1).tolist(), strict=True):
                if truth != IGNORED:
                    self._pairs[name].append((truth, guess))

    def _add_places(self, found: torch.Tensor, wanted: torch.Tensor) -> None:
        for guesses, truths in zip(found.tolist(), wanted.tolist(), strict=True):
            for number, dimension in enumerate(DIMENSIONS):
                edges = slice(4 * number, 4 * number + 4)
                if not math.isnan(truths[edges][0]):
                    self._places[dimension].append((Box(*truths[edges]), Box(*guesses[edges])))

    def result(self) -> dict[str, float | list[float]]:
        """Compute the results.

        For dimensions: the share of defects that are recognised, and the share of normal pictures called fine. For
        other questions: mean recall over the classes (guessing gives 1 / classes). For measures: root mean square error
        in standard deviations. For places, such as `place of shadow`: share of the boxes whose centre lies in the true
        one, and share that overlaps it by at least half (IoU).
        """
        found: dict[str, float | list[float]] = {}
        for name, pairs in self._pairs.items():
            if name in DIMENSIONS:
                fine = self._questionnaire.classes[name].index(FINE)
                defects = [guess != fine for truth, guess in pairs if truth != fine]
                sound = [guess == fine for truth, guess in pairs if truth == fine]
                found[name] = [sum(defects) / max(1, len(defects)), sum(sound) / max(1, len(sound))]
            else:
                by_class: dict[int, list[bool]] = defaultdict(list)
                for truth, guess in pairs:
                    by_class[truth].append(truth == guess)
                found[name] = sum(sum(hits) / len(hits) for hits in by_class.values()) / len(by_class)
        if self._errors:
            squared = torch.cat(self._errors).square().nanmean(0).sqrt().tolist()
            found |= dict(zip(self._questionnaire.measures, squared, strict=True))
        for dimension, boxes in self._places.items():
            inside = [truth.contains(guess.centre) for truth, guess in boxes]
            half = [truth.iou(guess) >= 0.5 for truth, guess in boxes]
            found[f"place of {dimension}"] = [sum(inside) / len(boxes), sum(half) / len(boxes)]
        return found


def option_score(fine: torch.Tensor, usable: torch.Tensor) -> dict[str, float]:
    """Compute the paper's score of the verdicts.

    Args:
        fine: probability per picture that it has no issue, (samples, 4).
        usable: the truth, (samples, 4).

    Returns:
        Shares of correct answers: `all` names every picture above one half, `surest` the most probable of those.
    """
    named = fine > 0.5
    surest = named & (fine == fine.max(1, keepdim=True).values)
    return {
        name: (((options & ~usable).sum(1) == 0) & (options.any(1) == usable.any(1))).float().mean().item()
        for name, options in (("all", named), ("surest", surest))
    }


@torch.no_grad()
def verdict_recall(
    model: InternVLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    batches: Iterable[dict[str, torch.Tensor]],
) -> dict[str, float]:
    """Share of pictures with a correct verdict word, per true verdict: `normal`, `appearance`, ...

    For a picture with two issues, the first word counts. `all` and `surest` are the scores of `option_score`.
    """
    names = {tokenizer.encode(f" {w}", add_special_tokens=False)[0]: w for w in (NORMAL, *(d.short for d in Dimension))}
    normal = next(token for token, word in names.items() if word == NORMAL)
    markers = torch.tensor([tokenizer.convert_tokens_to_ids(f"<{o}>") for o in OPTIONS])
    right: dict[str, int] = defaultdict(int)
    seen: dict[str, int] = defaultdict(int)
    fine, usable = [], []
    for batch in batches:
        labels = batch["labels"].cpu()
        logits = model(input_ids=batch["input_ids"], pixel_values=batch["pixel_values"], use_cache=False).logits.cpu()
        at_marker = torch.isin(labels[:, :-1], markers)
        truth = labels[:, 1:][at_marker]
        verdicts = logits[:, :-1][at_marker].float()
        fine.append(verdicts.softmax(-1)[:, normal].reshape(-1, len(OPTIONS)))
        usable.append((truth == normal).reshape(-1, len(OPTIONS)))
        for t, g in zip(truth.tolist(), verdicts.argmax(-1).tolist(), strict=True):
            if t in names:
                seen[names[t]] += 1
                right[names[t]] += t == g
    recall = {name: right[name] / seen[name] for name in names.values() if seen[name]}
    return recall | option_score(torch.cat(fine), torch.cat(usable))
