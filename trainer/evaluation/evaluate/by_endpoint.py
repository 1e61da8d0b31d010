"""Evaluates a model at an OpenAI-compatible endpoint (paper, table 3) with the same questions, scores and files.

Only the instruction and the pictures are sent. Labels, ids and file names stay on this machine.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from screening.answer import Mode, Reason, Unreadable, parse
from screening.prompt import Prompt, messages
from trainer.data.split.divide import is_test_set
from trainer.data_directory import data_digest, read_samples
from trainer.endpoint.budget import Meter
from trainer.endpoint.client import Completion, Endpoint
from trainer.endpoint.errors import Refused
from trainer.endpoint.order import EndpointOrder
from trainer.endpoint.pace import Clock
from trainer.endpoint.pictures import data_url, picture_part
from trainer.endpoint.workers import Outcome, Workers
from trainer.evaluation.evaluate.errors import Unfinished
from trainer.evaluation.evaluate.identity import EndpointModel, Identity
from trainer.evaluation.evaluate.predictions import Prediction, Predictions, open_predictions
from trainer.evaluation.evaluate.report import write_result
from trainer.evaluation.evaluate.result import EvaluatedEndpoint, Evaluation, conclude
from trainer.judged import Judged
from trainer.metrics import METRICS, Metric
from trainer.records import Sample

REFUSED = "refused"
"""`finish` of a prediction whose request the endpoint refused, so that no output ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order(EndpointOrder):
    """What to evaluate at which endpoint, and how."""

    mode: Mode
    prompt: Prompt
    confidence_level: float = 0.95
    metrics: Mapping[str, Metric] = field(default_factory=lambda: METRICS)

    def model(self) -> EndpointModel:
        """The settings that decide the answers."""
        return EndpointModel(
            model=self.asking.model,
            prompt=self.prompt.version,
            instruction=self.prompt.cot if self.mode is Mode.COT else self.prompt.direct,
            picture_size=self.picture_size,
            reply_tokens=self.asking.reply_tokens,
            temperature=self.asking.temperature,
            extra_body=dict(self.asking.extra_body),
        )


def evaluate_endpoint(order: Order, clock: Clock | None = None) -> Evaluation:
    """Ask about the samples without an answer, score all answers, and write the result.

    If the evaluation in the directory is complete, it is scored again without a request.

    Args:
        clock: the real clock, unless a test gives another one.

    Raises:
        DataError: the data directory cannot be used.
        RunMismatch: `out` holds another evaluation or other files.
        LogError: another process is writing the log in `out`, or it is damaged.
        EndpointUnusable: no request to the endpoint can succeed now; the answers so far are kept.
        Unfinished: some samples got no answer, or a limit was reached; the answers so far are kept.
    """
    everything = read_samples(order.data)
    samples = everything[: order.limit]
    model = order.model()
    identity = Identity(endpoint=model, data=data_digest(order.data, everything), mode=order.mode)
    with open_predictions(order.out, identity) as predictions:
        meter = order.new_meter()
        for prediction in predictions.done.values():
            meter.add(prediction.prompt_tokens or 0, prediction.completion_tokens or 0)
        if todo := predictions.missing(samples):
            outcome = asyncio.run(_ask(order, todo, predictions, meter, clock or Clock(), total=len(samples)))
            if left := outcome.sentences(meter):
                raise Unfinished("; ".join(left))
        predictions.put_in_order(everything)
        answered = [predictions.done[sample.id] for sample in samples]
        evaluated = EvaluatedEndpoint(
            asked=model,
            digest=model.digest,
            url=_public(order.base_url),
            answered_as=dict(Counter(one.model or "" for one in answered if one.finish != REFUSED).most_common()),
            refused=sum(one.finish == REFUSED for one in answered),
            cost=meter.cost,
        )
        evaluation = conclude(
            predictions,
            everything,
            samples,
            identity,
            evaluated,
            order.confidence_level,
            frozen=is_test_set(order.data, identity.data),
            metrics=order.metrics,
        )
        write_result(order.out, evaluation)
    return evaluation


def question(prompt: Prompt, mode: Mode, data: Path, sample: Sample, picture_size: int) -> list[dict[str, Any]]:
    """The parts of one user message that ask the project's question about a sample.

    Raises:
        DataError: a picture is missing or damaged.
    """
    files = iter(sample.files)
    return [
        picture_part(data_url(data, next(files), picture_size)) if part["type"] == "image" else part
        for part in messages(prompt, mode)[0]["content"]
    ]


async def _ask(
    order: Order, todo: Sequence[Sample], predictions: Predictions, meter: Meter, clock: Clock, *, total: int
) -> Outcome:
    """Ask about all samples with a progress bar, and log each answer when it arrives."""
    answers = sum(one.finish != REFUSED for one in predictions.done.values())
    async with order.connect(clock) as endpoint:
        workers = Workers(endpoint, meter, order.concurrency, answers=answers)
        with _bar(order.mode, total, total - len(todo), meter, endpoint) as count:

            def keep(prediction: Prediction) -> None:
                predictions.append([prediction])
                count()

            async def settle(sample: Sample) -> None:
                arguments = (order.prompt, order.mode, order.data, sample, order.picture_size)
                content = await asyncio.to_thread(question, *arguments)
                try:
                    completion = await workers.ask(content)
                except Refused as error:
                    workers.refused(error, partial(keep, _refusal(sample, error)))
                else:
                    keep(_prediction(sample, completion, order.mode))

            return await workers.settle_all(todo, settle)


@contextmanager
def _bar(mode: Mode, total: int, done: int, meter: Meter, endpoint: Endpoint) -> Iterator[Callable[[], None]]:
    """Show a progress bar. The block gets a function that counts one more sample."""
    from tqdm import tqdm

    with tqdm(desc=f"answering ({mode})", total=total, initial=done, unit="sample") as bar:

        def count() -> None:
            bar.set_postfix(tokens=meter.tokens, retries=endpoint.retries, refresh=False)
            bar.update()

        yield count


def _prediction(sample: Sample, completion: Completion, mode: Mode) -> Prediction:
    """The prediction of an answer. Without probabilities, choice among several options and confidence are unknown."""
    return Prediction.of(
        Judged(sample, parse(completion.text, mode)),
        text=completion.text,
        finish=completion.finish,
        confidence=None,
        prompt_tokens=completion.prompt_tokens if completion.metered else None,
        completion_tokens=completion.completion_tokens if completion.metered else None,
        model=completion.model,
    )


def _refusal(sample: Sample, error: Refused) -> Prediction:
    """The prediction of a refused request, usually by a content filter: an empty answer, which counts as wrong."""
    detail = f"The endpoint refused the request ({error})."
    return Prediction.of(
        Judged(sample, Unreadable(Reason.EMPTY, detail)),
        text="",
        finish=REFUSED,
        confidence=None,
        prompt_tokens=None,
        completion_tokens=None,
    )


def _public(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
