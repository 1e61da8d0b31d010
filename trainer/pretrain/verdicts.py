"""How well single pictures are judged, measured while training.

A loss curve says nothing here: most tokens of an answer are the same in every sample. What counts is the first word
behind each `<A>` … `<D>`: `normal`, or a dimension. With the target's own words before it (teacher forcing), one
forward pass gives the model's choice for all pictures of a batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from transformers import InternVLForConditionalGeneration, PreTrainedTokenizerFast

from screening.task import NORMAL, OPTIONS, Dimension


@torch.no_grad()
def verdict_recall(
    model: InternVLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    batches: Iterable[dict[str, torch.Tensor]],
) -> dict[str, float]:
    """Share of pictures whose verdict word is right, per true verdict: `normal`, `appearance`, ...

    For a picture with two issues, the first word counts.
    """
    names = {tokenizer.encode(f" {w}", add_special_tokens=False)[0]: w for w in (NORMAL, *(d.short for d in Dimension))}
    markers = torch.tensor([tokenizer.convert_tokens_to_ids(f"<{o}>") for o in OPTIONS])
    right: dict[str, int] = defaultdict(int)
    seen: dict[str, int] = defaultdict(int)
    for batch in batches:
        labels = batch["labels"].cpu()
        logits = model(input_ids=batch["input_ids"], pixel_values=batch["pixel_values"], use_cache=False).logits.cpu()
        at_marker = torch.isin(labels[:, :-1], markers)
        truth = labels[:, 1:][at_marker]
        guess = logits[:, :-1][at_marker].argmax(-1)
        for t, g in zip(truth.tolist(), guess.tolist(), strict=True):
            if t in names:
                seen[names[t]] += 1
                right[names[t]] += t == g
    return {name: right[name] / seen[name] for name in names.values() if seen[name]}


@torch.no_grad()
def inspection_recall(
    model: InternVLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    batches: Iterable[dict[str, torch.Tensor]],
) -> dict[str, tuple[float, float]]:
    """Per dimension of the `inspect` task: share of defects seen, and share of sound pictures called sound."""
    (fine,) = tokenizer.encode(" fine", add_special_tokens=False)
    # Behind a marker or a comma a dimension's word begins a place; elsewhere it is part of a sentence.
    before = set(tokenizer.convert_tokens_to_ids([*(f"<{o}>" for o in OPTIONS), ","]))
    places: dict[int, str] = {}
    for dimension in Dimension:
        *head, last = tokenizer.encode(f" {dimension.short}", add_special_tokens=False)
        places[last] = dimension.short
        before.update(head[-1:])  # a small vocabulary may spell the word with several tokens
    counts: dict[str, list[int]] = {d.short: [0, 0, 0, 0] for d in Dimension}
    for batch in batches:
        labels = batch["labels"].cpu()
        logits = model(input_ids=batch["input_ids"], pixel_values=batch["pixel_values"], use_cache=False).logits.cpu()
        at_place = torch.isin(labels[:, :-1], torch.tensor(list(places)))
        at_place[:, 1:] &= torch.isin(labels[:, :-2], torch.tensor(sorted(before)))
        guesses = logits[:, :-1][at_place].argmax(-1)
        places_there = labels[:, :-1][at_place].tolist()
        truths = labels[:, 1:][at_place].tolist()
        for place, truth, guess in zip(places_there, truths, guesses.tolist(), strict=True):
            count = counts[places[place]]
            if truth == fine:
                count[2] += 1
                count[3] += guess == fine
            else:
                count[0] += 1
                count[1] += guess != fine
    return {name: (seen / max(1, n), sound / max(1, m)) for name, (n, seen, m, sound) in counts.items() if n + m}
