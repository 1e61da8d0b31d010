"""What TRL's trainers call at every logging step."""

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

LOG_NAME = "log.json"
EXAMPLES_EVERY = 4
"""Logging steps from one kept example to the next."""


class LogFile(TrainerCallback):
    """Writes `OUT/log.json`, whole each time, and hands it to the tracker.

    The log is part of the trainer's saved state: a resumed run has it up to the step that it resumes from.
    """

    def __init__(self, out: Path, tracker: Tracker) -> None:
        self._path, self._tracker = out / LOG_NAME, tracker

    def on_log(self, _args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        if state.is_world_process_zero:
            state.log_history[-1].setdefault("time", round(time.time(), 3))
            write_atomically(self._path, json.dumps(state.log_history, indent=1) + "\n")
            self._tracker.record(state.log_history)


class ExampleKeeper(TrainerCallback):
    """Keeps a group of rollouts of the first logging step and of every fourth from there.

    The trainer hands each group to `see`.
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
        """Take note of the newest group.

        Args:
            question: id of its sample.
            completions: as TRL hands them to reward functions.
            ids: their tokens.
            rewards: of each completion, by the name of the reward function.
        """
        self._seen = (
            question,
            [
                Completion(text=completion_text(completion), tokens=len(tokens), rewards=dict(earned))
                for completion, tokens, earned in zip(completions, ids, rewards, strict=True)
            ],
        )

    def on_log(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        due = state.global_step // int(args.logging_steps) % EXAMPLES_EVERY == 1
        if self._seen and due and state.is_world_process_zero:
            question, group = self._seen
            keep_example(self._out, self._data, self._samples[question], state.global_step, group)
            self._seen = None
