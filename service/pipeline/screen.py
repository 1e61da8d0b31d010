"""One request, read top to bottom: door → body → pictures → asked before? → slot → pixels → engine → answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from PIL import Image
from starlette.requests import Request

from screening.errors import ImageError
from screening.images import Picture, decode, fit_square
from service.admission.admission import Admission, Place
from service.admission.upload import Upload
from service.checkpoints.hot_swap import HotSwap
from service.checkpoints.served import ServedCheckpoint
from service.checkpoints.supervisor import Supervisor
from service.config.settings import Settings
from service.decisions.store import DecisionStore
from service.engines.protocol import Engine, Question
from service.errors import ClientGone, DeadlineExceeded, EngineLost, PictureRefused
from service.ids import new_id
from service.metrics import Metrics
from service.pipeline.answer import Judged, Source, compose_answer, judge
from service.pipeline.bounded_cache import BoundedStore
from service.pipeline.coalescing import SameWork
from service.pipeline.idempotency import Idempotency, Reply
from service.pipeline.thread_pools import Lanes
from service.request import request_body as intake
from service.request.fields import picture_name
from service.request.fingerprint import request_fingerprint, work_key
from service.request.picture_fetch import PictureFetch
from service.request.request_body import Submission
from service.schemas import ScreenAnswer, Timings
from service.timings import Clock

Result = TypeVar("Result")

LARGE_BODY_BYTES = 4 * 2**20
"""Bodies above this are parsed in threads of their own."""
LARGE_PICTURE_PIXELS = 4_000_000
LARGE_SCANNED_PIXELS = 40_000_000
"""Pictures above these are decoded in threads of their own. A progressive JPEG has about ten scans."""


@dataclass(frozen=True, slots=True)
class Worked:
    """What identical requests share: the judged answer, and when its stages passed."""

    judged: Judged
    clock: Clock


@dataclass(frozen=True, slots=True)
class Service:
    """What a request needs; made by `create_app`."""

    settings: Settings
    engine: Engine
    admission: Admission
    metrics: Metrics
    parsers: Lanes
    """Threads that parse request bodies."""
    decoders: Lanes
    """Threads that decode pictures."""
    served: ServedCheckpoint | None
    """What is served; None for an engine without a checkpoint."""
    hot_swap: HotSwap | None
    """How another checkpoint takes its place; None likewise."""
    supervisor: Supervisor | None
    """Builds a lost engine anew; None likewise."""
    same_work: SameWork[Worked]
    """Identical requests in flight."""
    answers: BoundedStore[Judged]
    """Answers to give again, each under the checkpoint that wrote it."""
    idempotency: Idempotency
    """Replies to send again."""
    picture_fetch: PictureFetch
    """Fetches pictures that a request names by URL."""
    decisions: DecisionStore | None
    """Keeps decisions for review; None where they are not kept."""

    @property
    def serving(self) -> str:
        """Digest of the checkpoint served. During a swap that is the old one, until the new one is proved."""
        return self.served.manifest.digest if self.served else self.engine.contract.digest


@dataclass(frozen=True, slots=True)
class Screened:
    """What goes out, and the answer that it was made of; None for a reply that goes out again."""

    reply: Reply
    answer: ScreenAnswer | None

    @property
    def source(self) -> str:
        """`engine`, `shared`, `cache` or `replay`."""
        return self.answer.source if self.answer else "replay"


async def screen(request: Request, service: Service, caller: str) -> Screened:
    """Answer one `POST /screen`.

    Args:
        caller: whose `Idempotency-Key` it is.

    Raises:
        ServiceError: see `service.errors`; every refusal of a request is one of them.
    """
    clock, key = Clock(service.metrics), request.headers.get("idempotency-key")
    if not service.engine.alive and service.admission.is_open:
        service.metrics.rejected.labels("not_ready").inc()
        raise EngineLost(service.admission.ready_in())
    if service.decisions is not None:
        service.decisions.check_room()
    with service.admission.door() as place:
        try:
            async with asyncio.timeout(None) as deadline:
                submission = await _take_in(request, service, clock, place, deadline)
                fingerprint = request_fingerprint(submission.content, submission.metadata, submission.review_below)
                with service.idempotency.claim(caller, key, fingerprint, new_id("scr_")) as claim:
                    if claim.reply is not None:
                        return Screened(claim.reply, None)
                    answer = await _answer(request, claim.identity, submission, service, clock)
                    if service.decisions is not None:
                        service.decisions.keep(answer, caller, submission.content, submission.pictures)
                    reply = Reply(answer.id, answer.outcome, answer.model_dump_json().encode())
                    kept = service.idempotency.settle(claim, reply)
                    return Screened(kept, answer if kept is reply else None)
        except TimeoutError:
            service.metrics.aborted.labels("deadline").inc()
            seconds = service.settings.deadline_seconds
            raise DeadlineExceeded(f"No answer within {seconds:g} s after the body had arrived.") from None
        except EngineLost as error:
            raise EngineLost(service.admission.ready_in()) from error
        except ClientGone:
            service.metrics.aborted.labels("client_gone").inc()
            raise


async def _take_in(
    request: Request, service: Service, clock: Clock, place: Place, deadline: asyncio.Timeout
) -> Submission:
    """Read and understand the body, and fetch the pictures that lie elsewhere.

    While the body arrives, its pace is limited; the deadline begins when it has arrived.
    """
    settings = service.settings
    media_type, boundary = intake.content_type(request)
    with clock.stage("body"):
        place.upload = Upload(settings.upload_pace)
        body = await intake.read_body(request, max_bytes=settings.max_body_bytes, upload=place.upload)
        place.upload = None
        deadline.reschedule(asyncio.get_running_loop().time() + settings.deadline_seconds)
        parse = partial(intake.parse, body, media_type, boundary)
        fields = await service.parsers.run(parse, large=len(body) > LARGE_BODY_BYTES)
    if not (blobs := fields.blobs):
        with clock.stage("fetch"):
            blobs = await _unless_gone(request, service.picture_fetch.blobs(fields.pictures))
    accept = partial(intake.accept, fields, blobs, settings.image_limits)
    return await service.parsers.run(accept, large=sum(map(len, blobs)) > LARGE_BODY_BYTES)


async def _answer(
    request: Request, identity: str, submission: Submission, service: Service, clock: Clock
) -> ScreenAnswer:
    """From the cache, from the work of an identical request in flight, or from the engine."""
    asked, key = time.perf_counter(), work_key(service.serving, submission.content)
    source: Source
    if (judged := service.answers.get(key)) is not None:
        worked, source = Worked(judged, Clock(service.metrics)), "cache"
    else:
        work = partial(_work, submission, service)
        worked, joined = await _unless_gone(request, service.same_work.do(key, work))
        source = "shared" if joined else "engine"
    clock.note("total", clock.began)
    # Of shared work, only what passed while this caller waited.
    queue_ms, decode_ms, engine_ms = (worked.clock.milliseconds(name, asked) for name in ("queue", "decode", "engine"))
    return compose_answer(
        worked.judged,
        identity=identity,
        source=source,
        timings=Timings(
            queue_ms=queue_ms, decode_ms=decode_ms, engine_ms=engine_ms, total_ms=clock.milliseconds("total")
        ),
        engine=service.engine.name,
        metadata=submission.metadata,
        review_below=service.settings.review_below if submission.review_below is None else submission.review_below,
    )


async def _work(submission: Submission, service: Service) -> Worked:
    """Wait for a slot, decode, ask the engine, judge: once for all who share it, and for those who ask again."""
    clock, mode = Clock(service.metrics), submission.mode
    async with service.admission.slot():
        clock.note("queue", clock.began)
        with clock.stage("decode"):
            squares = await _squares(submission.pictures, service.engine.contract.image_size, service.decoders)
        with clock.stage("engine"):
            generated = await service.engine.generate(Question(new_id("gen_"), mode, squares))
    judged = judge(generated, mode, review_below=service.settings.review_below, metrics=service.metrics)
    if judged.readable:
        # Under the checkpoint that wrote it, which need not be the one served when it was asked for.
        service.answers.put(work_key(generated.contract.digest, submission.content), judged)
    return Worked(judged, clock)


async def _squares(pictures: tuple[Picture, ...], size: int, decoders: Lanes) -> tuple[Image.Image, ...]:
    jobs = [
        decoders.run(partial(_square, index, picture, size), large=_is_large(picture))
        for index, picture in enumerate(pictures)
    ]
    try:
        return tuple(await asyncio.gather(*jobs))
    finally:
        # After one refusal the others' pixels are of no use; a job that has not begun is taken out of the threads.
        for job in jobs:
            job.cancel()


def _is_large(picture: Picture) -> bool:
    return picture.pixels > LARGE_PICTURE_PIXELS or picture.scanned_pixels > LARGE_SCANNED_PIXELS


def _square(index: int, picture: Picture, size: int) -> Image.Image:
    try:
        return fit_square(decode(picture, shrink_to=size), size)
    except ImageError as error:
        raise PictureRefused(picture_name(index), error) from error


async def _unless_gone(request: Request, waiting: Coroutine[Any, Any, Result]) -> Result:
    """Wait, but no longer than the caller does.

    Raises:
        ClientGone: the caller hung up first.
    """
    task = asyncio.create_task(waiting)
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
        await asyncio.gather(task, gone, return_exceptions=True)


async def _next_message(request: Request) -> None:
    await request.receive()
