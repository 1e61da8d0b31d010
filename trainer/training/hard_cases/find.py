"""Finds the hard cases with the real engine.

The output is an evaluation in CoT mode with two additional files. So the directory of an existing evaluation can be the
output. Then no sample is answered twice, and a complete result keeps its metrics and its confidence level.
"""

from __future__ import annotations

from pathlib import Path

from screening.answer import Mode
from screening.runtime.atomic_write import write_atomically
from trainer.data_directory import read_samples
from trainer.evaluation.evaluate.by_checkpoint import OpenEngine, evaluate
from trainer.evaluation.evaluate.generate import open_engine
from trainer.evaluation.evaluate.predictions import read_predictions
from trainer.training.hard_cases.cases import Cases, find_cases
from trainer.training.hard_cases.record import write_hard_cases
from trainer.training.hard_cases.summary import SUMMARY_NAME, summary


def find_hard_cases(
    checkpoint: Path, data: Path, out: Path, *, batch: int = 64, open_engine: OpenEngine = open_engine
) -> Cases:
    """Answer the samples that have no answer yet, and write `hard-cases.json` and `hard-cases.md`.

    Args:
        batch: samples given to the engine at once; a killed run loses at most one batch.
        open_engine: starts the engine: vLLM, unless a test gives another one.

    Raises:
        CheckpointError, DataError, EvaluationError, LogError, RunMismatch, Unfinished: see
        `trainer.evaluation.evaluate.by_checkpoint`.
    """
    evaluation = evaluate(checkpoint, data, out, mode=Mode.COT, batch=batch, open_engine=open_engine, keep_result=True)
    samples = read_samples(data)
    cases = find_cases(samples, read_predictions(out).values())
    write_atomically(out / SUMMARY_NAME, summary(evaluation.model.title, samples, cases))
    write_hard_cases(out, cases, checkpoint=evaluation.model.digest, data=evaluation.data.digest)
    return cases
