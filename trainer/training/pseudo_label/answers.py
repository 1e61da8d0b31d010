"""`answers.jsonl`: the answer of the checkpoint to each question in each order, from which a killed run resumes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from screening.answer import Mode
from screening.checkpoint.manifest import Manifest
from screening.decision import read_decision
from trainer.evaluation.evaluate.generate import OfflineEngine, Reply, answer_samples
from trainer.records import AnySample
from trainer.runs.json_log import JsonLog, open_log
from trainer.training.pseudo_label.orders import in_order

ANSWERS_NAME = "answers.jsonl"


class OrderAnswer(BaseModel):
    """The answer to one question in one order. The letters in `text` and `choice` are positions in that order."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    """Id of the sample."""
    order: str
    """See `trainer.training.pseudo_label.orders`."""
    text: str
    """The model's whole output."""
    choice: str | None = None
    """The one option that the service would give, or `N`; None if the answer is unreadable."""
    confidence: float = Field(0.0, ge=0, le=1)
    """Calibrated confidence of the choice; 0 if the answer is unreadable. Unlike in the service, it is not capped for
    pictures outside the training domain: self-training is meant for these."""
    flagged: bool = False
    """Whether the pictures are outside the checkpoint's training domain."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One question in one order, as the engine is asked."""

    id: str
    order: str
    files: tuple[str, ...]
    """Original, then the pictures in this order."""


class Answers:
    """The open log. `done` maps (sample id, order) to answers, including those of earlier runs."""

    def __init__(self, log: JsonLog[OrderAnswer]) -> None:
        self.done: dict[tuple[str, str], OrderAnswer] = {(one.id, one.order): one for one in log.written}
        self._log = log

    def missing(self, samples: Iterable[AnySample], orders: Sequence[str]) -> list[Asked]:
        """The questions without an answer. All orders of a sample follow each other, so its pictures stay cached."""
        return [
            Asked(sample.id, order, in_order(sample.files, order))
            for sample in samples
            for order in orders
            if (sample.id, order) not in self.done
        ]

    def append(self, answers: Iterable[OrderAnswer]) -> None:
        """Append answers as whole lines. They are on disk when this returns."""
        new = list(answers)
        self._log.append(new)
        self.done.update({(one.id, one.order): one for one in new})


@contextmanager
def open_answers(directory: Path) -> Iterator[Answers]:
    """Open the log of a directory, and create it if it does not exist.

    Raises:
        LogError: another process is writing the log, or it is damaged before its last line.
    """
    with open_log(directory / ANSWERS_NAME, OrderAnswer) as log:
        yield Answers(log)


def ask(
    engine: OfflineEngine,
    manifest: Manifest,
    mode: Mode,
    asked: Sequence[Asked],
    data: Path,
    answers: Answers,
    *,
    batch: int,
) -> None:
    """Ask the questions with a progress bar, and log each batch when it is answered.

    Raises:
        DataError: a picture is missing or damaged.
        Unfinished: the engine failed.
    """
    done = len(answers.done)
    with tqdm(desc=f"answering ({mode})", total=done + len(asked), initial=done, unit="question") as bar:
        for answered in answer_samples(engine, asked, data, image=manifest.image, batch=batch):
            answers.append(_answer(one, reply, engine, manifest, mode) for one, reply in answered)
            bar.update(len(answered))


def _answer(asked: Asked, reply: Reply, engine: OfflineEngine, manifest: Manifest, mode: Mode) -> OrderAnswer:
    decision = read_decision(
        reply.text,
        reply.steps,
        mode,
        watched=engine.watched,
        calibration=manifest.calibration_of(mode),
        dimensions=manifest.dimensions,
    )
    return OrderAnswer(
        id=asked.id,
        order=asked.order,
        text=reply.text,
        choice=decision.choice,
        confidence=decision.confidence,
        flagged=reply.domain_score is not None and reply.domain_score >= 1,
    )


def of_sample(
    answers: Mapping[tuple[str, str], OrderAnswer], sample: AnySample, orders: Sequence[str]
) -> tuple[OrderAnswer, ...]:
    """The answers to one sample, in the order of `orders`."""
    return tuple(answers[sample.id, order] for order in orders)
