"""Callbacks that TRL's trainers call at every logging step."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerState, TrainingArguments

from screening.runtime.atomic_write import write_atomically
from trainer.records import Sample
from trainer.reward import Completion as Reply
from trainer.reward import completion_text
from trainer.training.tracking.examples import Completion, keep_example
from trainer.training.tracking.tracker import Tracker
from trainer.training.validation.rule import SCORE

LOG_NAME = "log.json"
_SUMMARY = "train_runtime"
"""A key that only the summary of a training has."""
EXAMPLES_EVERY = 4
"""Number of logging steps between two kept examples."""


class LogFile(TrainerCallback):
    """Rewrites `OUT/log.json` at every logging step and passes the log to the tracker.

    The log is part of the trainer's saved state, so a resumed run has it up to the step from which it resumes. The
    summary at its end is in no state. A process that continues after the last step would summarise 0 steps, so it keeps
    the log of the process that took that step.
    """

    def __init__(self, out: Path, tracker: Tracker) -> None:
        self._out, self._tracker = out, tracker
        self._first_step = 0

    def on_train_begin(self, _args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        self._first_step = state.global_step

    def on_log(self, _args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        if not state.is_world_process_zero:
            return
        history = state.log_history
        if _SUMMARY in history[-1] and state.global_step == self._first_step:
            history = logged(self._out) or history[:-1]
        else:
            history[-1].setdefault("time", round(time.time(), 3))
        write_atomically(self._out / LOG_NAME, json.dumps(history, indent=1) + "\n")
        self._tracker.record(history)


def logged(out: Path) -> list[dict[str, Any]]:
    """The log that `LogFile` has written into a run directory; empty if there is none."""
    path = out / LOG_NAME
    history: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return history


class ExampleKeeper(TrainerCallback):
    """Keeps a group of rollouts at the first logging step and at every fourth after it.

    The trainer passes each group to `see`.
    """

    def __init__(self, out: Path, data: Path, samples: Mapping[str, Sample]) -> None:
        self._out, self._data, self._samples = out, data, samples
        self._seen: tuple[str, list[Completion]] | None = None

    def see(
        self,
        question: str,
        completions: Sequence[Reply],
        ids: Sequence[Sequence[int]],
        rewards: Sequence[Mapping[str, float]],
    ) -> None:
        """Remember the newest group.

        Args:
            question: id of the sample.
            completions: the completions in the form that reward functions get.
            ids: tokens of each completion.
            rewards: rewards of each completion, by reward function.
        """
        self._seen = (
            question,
            [
                Completion(text=completion_text(completion), tokens=len(tokens), rewards=dict(earned))
                for completion, tokens, earned in zip(completions, ids, rewards, strict=True)
            ],
        )

    def on_log(self, args: TrainingArguments, state: TrainerState, *_: Any, logs: Mapping[str, Any], **__: Any) -> None:
        due = state.global_step // int(args.logging_steps) % EXAMPLES_EVERY == 1 and SCORE not in logs
        if self._seen and due and state.is_world_process_zero:
            question, group = self._seen
            keep_example(self._out, self._data, self._samples[question], state.global_step, group)
            self._seen = None
