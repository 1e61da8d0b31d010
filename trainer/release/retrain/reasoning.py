"""Writes the reasoning that supervised fine-tuning teaches, for labels that people gave without one.

A sample keeps its reasoning if that leads to its label. Otherwise the reasoning is written from the verdicts, if their
dimensions are known. A label alone gives no material for reasoning: only stage 2 uses such samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainer.data.annotate.ground_truth import reasoned
from trainer.data.split.assign import Item
from trainer.data.split.write import write_data
from trainer.data_directory import data_digest, read_samples
from trainer.records import Sample
from trainer.release.retrain.errors import BadInput
from trainer.training.sft.agreement import contradictions


def with_reasoning(items: Sequence[Item], out: Path) -> dict[str, Any]:
    """Write a data directory in which every sample has a reasoning.

    Returns:
        Its directory, digest and counts.

    Raises:
        BadInput: no sample can have one.
        OSError: a file cannot be written.
    """
    found = [(item, _reasoning(item.sample)) for item in items if isinstance(item.sample, Sample)]
    kept = [_told(item, text) for item, text in found if text]
    if not kept:
        raise BadInput(
            "no sample of the part sft has a reasoning, or verdicts with dimensions from which one could be written; "
            "run `annotate answer-driven` on the data, or give verdicts per picture"
        )
    write_data(out, kept, copy=False)
    return {
        "directory": str(out),
        "digest": data_digest(out, read_samples(out), check=False),
        "samples": len(kept),
        "without_reasoning": len(items) - len(kept),
    }


def _reasoning(sample: Sample) -> str:
    if sample.reasoning.strip() and not contradictions([sample]):
        return sample.reasoning
    if not sample.dimensions_known:
        return ""
    try:
        return reasoned(sample.model_copy(update={"reasoning": ""})).reasoning or ""
    except ValueError:  # a comment in the words of the grammar
        return ""


def _told(item: Item, text: str) -> Item:
    if not isinstance(item.sample, Sample) or text == item.sample.reasoning:
        return item
    sample = item.sample.model_copy(update={"reasoning": text})
    return replace(item, sample=sample, line=sample.model_dump_json().encode())
