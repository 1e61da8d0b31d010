"""Handles one request from top to bottom: admit → read the body → check the caches → decode → engine → answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from starlette.requests import Request

from screening.checkpoint.manifest import ImageContract
from screening.errors import ImageError
from screening.images import Picture
from screening.inference.pictures import Prepared, prepare
from service.admission.admission import Admission, Place
from service.admission.upload import Upload
from service.checkpoints.hot_swap import HotSwap
from service.checkpoints.served import ServedCheckpoint
from service.checkpoints.supervisor import Supervisor
from service.config.settings import Settings
from service.engines.protocol import Engine, Question
from service.errors import ClientGone, DeadlineExceeded, EngineLost, LocateUnsupported, PictureRefused
from service.ids import new_id
from service.metrics import Metrics
from service.pipeline.answer import Interpretation, Source, compose_answer, count_output, interpret
from service.pipeline.bounded_cache import BoundedCache
from service.pipeline.coalescing import RequestCoalescer
from service.pipeline.idempotency import Idempotency, Reply
from service.pipeline.thread_pools import ThreadPools
from service.request import request_body
from service.request.fields import picture_name
from service.request.fingerprint import request_fingerprint, work_key
from service.request.picture_fetch import PictureFetch
from service.request.request_body import Submission
from service.schemas import ScreenAnswer, Timings
from service.timings import StageTimer
from service.tracing import link

if TYPE_CHECKING:
    from service.decisions.store import DecisionStore

Result = TypeVar("Result")

LARGE_BODY_BYTES = 4 * 2**20
"""Larger bodies are parsed in a separate thread pool."""
LARGE_PICTURE_PIXELS = 4_000_000
LARGE_SCANNED_PIXELS = 40_000_000
"""Pictures above one of these limits are decoded in a separate thread pool. A progressive JPEG has about ten scans."""


@dataclass(frozen=True, slots=True)
class Inference:
    """The result that identical requests share: the interpreted output, and the times of its stages."""

    interpretation: Interpretation
    timer: StageTimer


@dataclass(frozen=True, slots=True)
class Service:
    """The components that handle requests. `create_app` builds them."""

    settings: Settings
    engine: Engine
    admission: Admission
    metrics: Metrics
    parsers: ThreadPools
    """Threads that parse request bodies."""
    decoders: ThreadPools
    """Threads that decode pictures."""
    served: ServedCheckpoint | None
    """The checkpoint that the service serves; None for an engine without checkpoints."""
    hot_swap: HotSwap | None
    """Swaps the checkpoint; None for an engine without checkpoints."""
    supervisor: Supervisor | None
    """Restarts an engine that crashed or hangs; None for an engine without checkpoints."""
    coalescer: RequestCoalescer[Inference]
    """Lets identical requests in flight share one inference."""
    answers: BoundedCache[Interpretation]
    """The answer cache. Its keys contain the digest of the checkpoint."""
    idempotency: Idempotency
    """Stores replies by Idempotency-Key."""
    picture_fetch: PictureFetch
    """Fetches pictures that a request gives as URLs."""
    decisions: DecisionStore | None
    """Stores decisions for review; None if decisions are not stored."""

    @property
    def serving(self) -> str:
        """Digest of the checkpoint that the service serves. During a swap, this is the old one until verification."""
        return self.served.manifest.digest if self.served else self.engine.checkpoint.digest

    @property
    def locates(self) -> bool:
        """Whether the checkpoint that the service serves can say where faults are; see `serving` about swaps."""
        return self.served.manifest.prompt.locate is not None if self.served else self.engine.checkpoint.locates


@dataclass(frozen=True, slots=True)
class Screened:
    """The reply to send and the answer that it contains; None for a replayed reply."""

    reply: Reply
    answer: ScreenAnswer | None

    @property
    def source(self) -> str:
        """`engine`, `shared`, `cache` or `replay`."""
        return self.answer.source if self.answer else "replay"


class Caller(NamedTuple):
    """Who sent a request. Both are empty where no key is needed."""

    name: str
    """Name of the API key, which decisions are stored with."""
    key: str
    """SHA-256 of the API key. An `Idempotency-Key` belongs to it: several keys may have one name."""


async def screen(request: Request, service: Service, caller: Caller) -> Screened:
    """Answer one `POST /screen`.

    Raises:
        ServiceError: the request is refused or fails; see `service.errors` for the subclasses.
    """
    timer, key = StageTimer(service.metrics), request.headers.get("idempotency-key")
    if not service.engine.alive and service.admission.is_open:
        service.metrics.rejected.labels("not_ready").inc()
        raise EngineLost(service.admission.ready_in())
    if service.decisions is not None:
        service.decisions.check_room()
    with service.admission.admit() as place:
        try:
            async with asyncio.timeout(None) as deadline:
                submission = await _read_request(request, service, timer, place, deadline)
                fingerprint = request_fingerprint(submission.content, submission.metadata, submission.review_below)
                with service.idempotency.claim(caller.key, key, fingerprint, new_id("scr_")) as claim:
                    if claim.reply is not None:
                        return Screened(claim.reply, None)
                    answer = await _answer(request, claim.answer_id, submission, service, timer)
                    if service.decisions is not None:
                        service.decisions.keep(answer, caller.name, submission.content, submission.pictures)
                    reply = Reply(answer.id, answer.outcome, answer.model_dump_json().encode())
                    kept = service.idempotency.settle(claim, reply)
                    return Screened(kept, answer if kept is reply else None)
        except TimeoutError:
            service.metrics.aborted.labels("deadline").inc()
            seconds = service.settings.deadline_seconds
            raise DeadlineExceeded(
                f"The service had no answer within {seconds:g} s after the upload. Send the request again later."
            ) from None
        except EngineLost as error:
            raise EngineLost(service.admission.ready_in()) from error
        except ClientGone:
            service.metrics.aborted.labels("client_gone").inc()
            raise


async def _read_request(
    request: Request, service: Service, timer: StageTimer, place: Place, deadline: asyncio.Timeout
) -> Submission:
    """Read and parse the body, and fetch the pictures that it gives as URLs.

    The upload must keep a minimum pace. The deadline starts when the upload is complete.
    """
    settings = service.settings
    media_type, boundary = request_body.content_type(request)
    with timer.stage("body"):
        place.upload = Upload(settings.upload_pace)
        body = await request_body.read_body(request, max_bytes=settings.max_body_bytes, upload=place.upload)
        place.upload = None
        deadline.reschedule(asyncio.get_running_loop().time() + settings.deadline_seconds)
        parse = partial(request_body.parse, body, media_type, boundary)
        fields = await service.parsers.run(parse, large=len(body) > LARGE_BODY_BYTES)
    if not (blobs := fields.blobs):
        with timer.stage("fetch"):
            blobs = await _unless_gone(request, service.picture_fetch.blobs(fields.pictures))
    accept = partial(request_body.accept, fields, blobs, settings.image_limits)
    return await service.parsers.run(accept, large=sum(map(len, blobs)) > LARGE_BODY_BYTES)


async def _answer(
    request: Request, answer_id: str, submission: Submission, service: Service, timer: StageTimer
) -> ScreenAnswer:
    """Answer from the cache, from the inference of an identical request in flight, or from the engine."""
    request.state.log["locate"] = submission.locate
    _check_ability(submission, service.locates)
    asked, key = time.perf_counter(), work_key(service.serving, submission.content)
    source: Source
    if (interpretation := service.answers.get(key)) is not None:
        inference, source = Inference(interpretation, StageTimer(service.metrics)), "cache"
        link(interpretation.span)
    else:
        infer = partial(_infer, submission, service)
        inference, joined = await _unless_gone(request, service.coalescer.do(key, infer))
        source = "shared" if joined else "engine"
    timer.note("total", timer.began)
    # If requests share the inference, each reports only the time that it waited.
    queue_ms, decode_ms, engine_ms = (
        inference.timer.milliseconds(name, asked) for name in ("queue", "decode", "engine")
    )
    return compose_answer(
        inference.interpretation,
        answer_id=answer_id,
        source=source,
        timings=Timings(
            queue_ms=queue_ms, decode_ms=decode_ms, engine_ms=engine_ms, total_ms=timer.milliseconds("total")
        ),
        engine=service.engine.name,
        metadata=submission.metadata,
        review_below=service.settings.review_below if submission.review_below is None else submission.review_below,
    )


def _check_ability(submission: Submission, locates: bool) -> None:
    """
    Raises:
        LocateUnsupported: the request asks where the faults are, and the checkpoint cannot say so.
    """
    if submission.locate and not locates:
        raise LocateUnsupported()


async def _infer(submission: Submission, service: Service) -> Inference:
    """Wait for a slot, decode the pictures, run the engine and interpret its output. Stores the result in the cache."""
    timer, mode = StageTimer(service.metrics), submission.mode
    async with AsyncExitStack() as slot:
        with timer.stage("queue"):
            await slot.enter_async_context(service.admission.slot())
        with timer.stage("decode"):
            prepared = await _prepared(submission.pictures, service.engine.checkpoint.image, service.decoders)
        service.admission.require_engine()  # The engine may have been lost during the decoding.
        with timer.stage("engine"):
            # A swap may have replaced the checkpoint while this request waited.
            _check_ability(submission, service.engine.checkpoint.locates)
            pictures = tuple(one.image for one in prepared)
            generated = await service.engine.generate(Question(new_id("gen_"), mode, pictures, submission.locate))
    frames = tuple(one.frame for one in prepared) if submission.locate else None
    interpretation = interpret(generated, mode, frames)
    count_output(generated, interpretation, service.settings.review_below, service.metrics)
    if interpretation.readable:
        # The key names the checkpoint that produced the output. A swap may have changed it since the request came in.
        service.answers.put(work_key(generated.checkpoint.digest, submission.content), interpretation)
    return Inference(interpretation, timer)


async def _prepared(pictures: tuple[Picture, ...], image: ImageContract, decoders: ThreadPools) -> tuple[Prepared, ...]:
    jobs = [
        decoders.run(partial(_prepare, index, picture, image), large=_is_large(picture))
        for index, picture in enumerate(pictures)
    ]
    try:
        return tuple(await asyncio.gather(*jobs))
    finally:
        # If one picture is refused, the others are not needed. Cancelling removes jobs that have not started.
        for job in jobs:
            job.cancel()


def _is_large(picture: Picture) -> bool:
    return picture.pixels > LARGE_PICTURE_PIXELS or picture.scanned_pixels > LARGE_SCANNED_PIXELS


def _prepare(index: int, picture: Picture, image: ImageContract) -> Prepared:
    try:
        return prepare(picture, image)
    except ImageError as error:
        raise PictureRefused(picture_name(index), error) from error


async def _unless_gone(request: Request, waiting: Coroutine[Any, Any, Result]) -> Result:
    """Wait for a result until the caller disconnects.

    Raises:
        ClientGone: the caller disconnected first.
    """
    task = asyncio.create_task(waiting)
    # The body has been read to its end, so that the next message can only be the disconnect.
    gone = asyncio.create_task(_next_message(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone("the client disconnected while the request was processed")
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _next_message(request: Request) -> None:
    await request.receive()
