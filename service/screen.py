"""One request, read top to bottom: door → body → pictures → slot → pixels → engine → answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from starlette.requests import Request

from screening.answer import Answer, Unreadable, parse
from screening.confidence import judge
from screening.errors import ImageError
from screening.images import Picture, decode, fit_square
from screening.task import OPTIONS
from service import intake
from service.admission import Admission
from service.config import Settings
from service.engine import Engine, Generated, Question
from service.errors import ClientGone, DeadlineExceeded, EngineLost, PictureRefused
from service.hot_swap import HotSwap
from service.identity import new_id
from service.intake import Submission
from service.metrics import Metrics
from service.schemas import CheckpointName, OptionAnswer, ScreenAnswer, Timings, Usage
from service.supervisor import Supervisor


@dataclass(frozen=True, slots=True)
class Service:
    """What a request needs; made by `create_app`."""

    settings: Settings
    engine: Engine
    admission: Admission
    metrics: Metrics
    threads: Executor
    """Parses bodies and decodes pictures."""
    hot_swap: HotSwap | None
    """What is served and how it changes; None for an engine without a checkpoint."""
    supervisor: Supervisor | None
    """Builds a lost engine anew; None for an engine without a checkpoint."""


@dataclass(slots=True)
class Clock:
    """Milliseconds by stage, observed as they pass."""

    metrics: Metrics
    began: float = field(default_factory=time.perf_counter)
    ms: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Any:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.note(name, time.perf_counter() - began)

    def note(self, name: str, seconds: float) -> None:
        self.ms[name] = round(1000 * seconds, 3)
        self.metrics.stage_seconds.labels(name).observe(seconds)

    def total(self) -> float:
        self.note("total", time.perf_counter() - self.began)
        return self.ms["total"]


async def screen(request: Request, service: Service) -> ScreenAnswer:
    """Answer one `POST /screen`.

    Raises:
        ServiceError: see `service.errors`; every refusal of a request is one of them.
    """
    clock, identity = Clock(service.metrics), new_id("scr_")
    if not service.engine.alive and service.admission.is_open:
        service.metrics.rejected.labels("not_ready").inc()
        raise EngineLost(service.admission.ready_in())
    with service.admission.door():
        try:
            async with asyncio.timeout(service.settings.deadline_seconds):
                submission = await _take_in(request, service, clock)
                generated = await _unless_gone(request, _work(identity, submission, service, clock))
        except TimeoutError:
            service.metrics.aborted.labels("deadline").inc()
            raise DeadlineExceeded(f"No answer within {service.settings.deadline_seconds:g} s.") from None
        except EngineLost as error:
            raise EngineLost(service.admission.ready_in()) from error
        except ClientGone:
            service.metrics.aborted.labels("client_gone").inc()
            raise
        return _answer(identity, submission, generated, service, clock)


async def _take_in(request: Request, service: Service, clock: Clock) -> Submission:
    """Read and understand the body."""
    settings = service.settings
    media_type, boundary = intake.content_type(request)
    with clock.stage("body"):
        body = await intake.read_body(request, max_bytes=settings.max_body_bytes, seconds=settings.body_timeout_seconds)
        return await asyncio.get_running_loop().run_in_executor(
            service.threads, intake.parse, body, media_type, boundary, settings.image_limits
        )


async def _work(identity: str, submission: Submission, service: Service, clock: Clock) -> Generated:
    """Wait for a slot, decode, ask the engine."""
    queued = time.perf_counter()
    async with service.admission.slot():
        clock.note("queue", time.perf_counter() - queued)
        with clock.stage("decode"):
            squares = await _squares(submission.pictures, service.engine.contract.image_size, service.threads)
        with clock.stage("engine"):
            return await service.engine.generate(Question(identity, submission.mode, squares))


async def _squares(pictures: tuple[Picture, ...], size: int, threads: Executor) -> tuple[Image.Image, ...]:
    loop = asyncio.get_running_loop()
    jobs = [loop.run_in_executor(threads, _square, index, picture, size) for index, picture in enumerate(pictures)]
    try:
        return tuple(await asyncio.gather(*jobs))
    finally:
        # After one refusal the others' pixels are of no use; a job that has not begun is taken out of the threads.
        for job in jobs:
            job.cancel()


def _square(index: int, picture: Picture, size: int) -> Image.Image:
    try:
        return fit_square(decode(picture, shrink_to=size), size)
    except ImageError as error:
        raise PictureRefused(intake.picture_name(index), error) from error


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Generated]) -> Generated:
    """Do the work, but give it up (and with it the engine's request) when the caller hangs up.

    Raises:
        ClientGone: the caller hung up first.
    """
    task = asyncio.create_task(work)
    # The body was read to its end: the next message can only be the disconnect.
    gone = asyncio.create_task(_next_message(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone("the client hung up while the request was worked on")
    finally:
        task.cancel()
        gone.cancel()
        # The engine must have forgotten the request before its place at the door is free again.
        await asyncio.gather(task, gone, return_exceptions=True)


async def _next_message(request: Request) -> None:
    await request.receive()


def _answer(
    identity: str, submission: Submission, generated: Generated, service: Service, clock: Clock
) -> ScreenAnswer:
    """Read the model's text; what is not understood stays without a choice."""
    contract, metrics, mode = generated.contract, service.metrics, submission.mode
    metrics.tokens.labels("prompt").inc(generated.prompt_tokens)
    metrics.tokens.labels("completion").inc(generated.completion_tokens)
    read = parse(generated.text, mode)
    if isinstance(read, Unreadable):
        metrics.unreadable.labels(read.reason.value, mode.value).inc()
        choice, confidence, needs_review = None, 0.0, True
    else:
        judgement = judge(read, generated.steps, contract.watched, contract.calibration)
        choice, confidence = judgement.choice, judgement.confidence
        needs_review = confidence < service.settings.review_below
        metrics.choices.labels(choice, mode.value).inc()
        metrics.confidence.observe(confidence)
    if needs_review:
        metrics.needs_review.inc()
    answered = isinstance(read, Answer)
    total_ms = clock.total()
    return ScreenAnswer.model_validate(
        {
            "id": identity,
            "outcome": "answered" if answered else "unreadable",
            "unreadable_reason": read.reason.value if isinstance(read, Unreadable) else None,
            "choice": choice,
            "acceptable": sorted(read.options) if isinstance(read, Answer) else [],
            "reasoning": read.reasoning if isinstance(read, Answer) else None,
            "options": _options(read),
            "confidence": confidence,
            "needs_review": needs_review,
            "mode": mode,
            "checkpoint": CheckpointName(name=contract.name, version=contract.version, digest=contract.digest),
            "engine": service.engine.name,
            "timings": Timings(
                queue_ms=clock.ms["queue"],
                decode_ms=clock.ms["decode"],
                engine_ms=clock.ms["engine"],
                total_ms=total_ms,
            ),
            "usage": Usage(prompt_tokens=generated.prompt_tokens, completion_tokens=generated.completion_tokens),
            "metadata": submission.metadata,
        }
    )


def _options(read: Answer | Unreadable) -> list[OptionAnswer]:
    """One entry per generated picture, whatever the reasoning says or leaves out."""
    findings = {finding.option: finding for finding in read.findings} if isinstance(read, Answer) else {}
    options = []
    for option in OPTIONS:
        finding = findings.get(option)
        issues = sorted(finding.dimensions or ()) if finding else []
        usable = isinstance(read, Answer) and option in read.options
        options.append(
            OptionAnswer.model_validate(
                {"option": option, "usable": usable, "issues": issues, "comment": finding.text if finding else None}
            )
        )
    return options
