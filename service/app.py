"""Builds the ASGI app from the settings and an engine. Nothing in this module handles a request.

The decision store and its HTTP interface are imported only if the settings enable them, because their database
libraries take a third of the time of all imports.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from screening import __version__
from screening.errors import UserError
from service.admission.admission import Admission
from service.checkpoints.hot_swap import HotSwap
from service.checkpoints.registry_watcher import RegistryWatcher
from service.checkpoints.served import ServedCheckpoint
from service.checkpoints.startup import start_serving
from service.checkpoints.supervisor import Supervisor
from service.config.settings import Settings
from service.engines.protocol import Engine
from service.errors import ServiceError
from service.http.admin import CheckpointRequest
from service.http.admin import router as admin_router
from service.http.docs import router as docs_router
from service.http.keys import KeyRing
from service.http.middleware import RequestMiddleware
from service.http.openapi import extend_openapi
from service.http.paths import VERSION, HeadAsGet, Versioned
from service.http.routes import answer_error, router
from service.http.trace_requests import TracingMiddleware
from service.logs import log
from service.metrics import Metrics
from service.pipeline.answer import size_of as size_of_answer
from service.pipeline.bounded_cache import BoundedCache
from service.pipeline.coalescing import RequestCoalescer
from service.pipeline.idempotency import Idempotency
from service.pipeline.idempotency import size_of as size_of_reply
from service.pipeline.screen import Service
from service.pipeline.thread_pools import ThreadPools
from service.request.picture_fetch import PictureFetch

if TYPE_CHECKING:
    from service.decisions.store import DecisionStore

LOGGER = logging.getLogger("service.app")


def create_app(settings: Settings, engine: Engine, *, on_failed_start: Callable[[], None] | None = None) -> FastAPI:
    """Build the app.

    Args:
        on_failed_start: called when the engine cannot be started, so that the launcher can end the process.

    Raises:
        KeysFileError, DatabaseError, PictureStoreError: a setting names something that cannot be used.
    """
    metrics = Metrics()
    keys = KeyRing(settings, metrics)
    admission = Admission(max_concurrent=settings.max_concurrent, max_queue=settings.max_queue, metrics=metrics)
    served = _served(settings, engine, admission, metrics)
    service = Service(
        settings=settings,
        engine=engine,
        admission=admission,
        metrics=metrics,
        parsers=ThreadPools("parse", 1),
        decoders=ThreadPools("decode", settings.decode_threads),
        served=served,
        hot_swap=HotSwap(served) if served is not None else None,
        supervisor=Supervisor(served) if served is not None else None,
        coalescer=RequestCoalescer(max_age=settings.deadline_seconds),
        answers=BoundedCache(
            "answers",
            metrics,
            size_of=size_of_answer,
            max_entries=settings.answer_cache_entries,
            max_bytes=settings.answer_cache_bytes,
        ),
        idempotency=Idempotency(
            BoundedCache(
                "replies",
                metrics,
                size_of=size_of_reply,
                max_entries=settings.idempotency_entries,
                max_bytes=settings.idempotency_bytes,
                max_seconds=settings.idempotency_seconds,
            )
        ),
        picture_fetch=PictureFetch(
            settings.picture_hosts,
            settings.picture_networks,
            seconds=settings.picture_fetch_seconds,
            max_picture_bytes=settings.max_picture_bytes,
            max_total_bytes=settings.max_body_bytes,
        ),
        decisions=_open_decisions(settings, metrics),
    )

    watcher = RegistryWatcher(service.hot_swap) if settings.registry is not None and service.hot_swap else None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # The server listens while the engine loads, so that /startupz and /livez answer from the beginning.
        keys.start()
        if service.decisions is not None:
            service.decisions.writer.start()
        starting = asyncio.create_task(_start(app, service, on_failed_start))
        watching = _watch_reviews(settings, service)
        try:
            yield
        finally:
            service.admission.close()
            keys.stop()
            if watcher is not None:
                await watcher.stop()
            if service.hot_swap is not None:
                await service.hot_swap.end()
            starting.cancel()
            with suppress(asyncio.CancelledError):
                await starting
            if watching is not None:
                watching.cancel()
            if service.decisions is not None:
                await service.decisions.close(settings.decisions_flush_seconds)
            await engine.stop()
            if served is not None:
                served.store.close()
            service.parsers.close()
            service.decoders.close()

    app = FastAPI(
        title="Product picture screening",
        version=__version__,
        description="Which of four generated pictures may be shown for this product?",
        servers=[
            {"url": "/", "description": "Paths without a version"},
            {"url": VERSION, "description": "The same paths with the version of the API"},
        ],
        openapi_tags=[
            {"name": "screening", "description": "Screen generated pictures."},
            {"name": "decisions", "description": "Stored decisions and feedback. Needs the scope `feedback`."},
            {
                "name": "review",
                "description": "Review of decisions by people. Needs the scope `review`.",
            },
            {"name": "probes", "description": "Probes and metrics for orchestrators and monitoring."},
            {"name": "admin", "description": "Checkpoint management for operators. Needs the scope `admin`."},
        ],
        # `service.http.docs` serves the page from local files. A redirect would repeat the caller's Host header.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.service = service
    app.state.keys = keys
    app.state.started = False
    app.state.registry_watcher = watcher
    _include_routers(app, settings)
    app.add_exception_handler(ServiceError, answer_error)
    app.add_exception_handler(HTTPException, answer_error)
    app.add_exception_handler(RequestValidationError, answer_error)
    _add_middleware(app, settings)
    return app


def _open_decisions(settings: Settings, metrics: Metrics) -> DecisionStore | None:
    """Open the decision store that the settings name, if they name one.

    Raises:
        DatabaseError, PictureStoreError: it cannot be used.
    """
    if settings.decisions is None:
        return None
    from service.decisions.store import open_store

    return open_store(settings, metrics)


def _include_routers(app: FastAPI, settings: Settings) -> None:
    """Add the paths that the settings enable, with the request bodies that OpenAPI cannot derive from them."""
    bodies: list[type[BaseModel]] = [CheckpointRequest]
    app.include_router(router)
    app.include_router(admin_router)
    if settings.decisions is not None:
        from service.http.decision_bodies import FeedbackRequest
        from service.http.decisions import router as decisions_router

        app.include_router(decisions_router)
        bodies.append(FeedbackRequest)
    if settings.review:
        from service.http.review.bodies import BODIES as REVIEW_BODIES
        from service.http.review.lead_bodies import BODIES as REVIEW_LEAD_BODIES
        from service.http.review.lead_routes import router as review_leads_router
        from service.http.review.pages import add_review_pages
        from service.http.review.routes import router as review_router
        from service.http.review.session import SessionRequest
        from service.http.review.session import router as session_router

        app.include_router(session_router)
        app.include_router(review_router)
        app.include_router(review_leads_router)
        add_review_pages(app)
        bodies += [SessionRequest, *REVIEW_BODIES, *REVIEW_LEAD_BODIES]
    app.include_router(docs_router)
    extend_openapi(app, *bodies)


def _watch_reviews(settings: Settings, service: Service) -> asyncio.Task[None] | None:
    """Keep the metrics of the review queue up to date, if people review."""
    if not settings.review or service.decisions is None:
        return None
    from service.review.monitor import watch_queue

    return asyncio.create_task(watch_queue(service.decisions, service.metrics))


def _add_middleware(app: FastAPI, settings: Settings) -> None:
    """Add the middleware, from the innermost to the outermost."""
    app.add_middleware(HeadAsGet)
    app.add_middleware(TracingMiddleware)
    app.add_middleware(RequestMiddleware)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["Authorization", "Idempotency-Key", "X-Request-Id"],
            expose_headers=["X-Request-Id", "Retry-After", "Idempotent-Replayed"],
            allow_credentials=False,
        )
    app.add_middleware(Versioned)


def _served(settings: Settings, engine: Engine, admission: Admission, metrics: Metrics) -> ServedCheckpoint | None:
    if not engine.loads_checkpoints or settings.checkpoint is None:
        return None
    return ServedCheckpoint(engine, admission, metrics, settings, settings.checkpoint)


async def _start(app: FastAPI, service: Service, on_failed_start: Callable[[], None] | None) -> None:
    """Start the engine, admit requests, and supervise the engine from then on."""
    engine = service.engine
    watcher: RegistryWatcher | None = app.state.registry_watcher
    log(LOGGER, logging.INFO, "starting", engine=engine.name)
    try:
        if service.served is not None:
            await start_serving(service.served, watcher.production if watcher else None)
        else:
            await engine.start(None)
    except Exception as error:  # a boundary: any error of an engine that loads is logged once and ends the process
        known = isinstance(error, UserError)  # its message says what to do, and no traceback would add to it
        LOGGER.error("start failed", exc_info=not known, extra={"fields": {"engine": engine.name, "error": str(error)}})
        if on_failed_start is not None:
            on_failed_start()
        return
    checkpoint = engine.checkpoint
    service.metrics.serves(checkpoint, engine)
    app.state.started = True
    service.admission.open()
    log(LOGGER, logging.INFO, "ready", engine=engine.name, checkpoint=checkpoint.name, digest=checkpoint.digest)
    if watcher is not None:
        watcher.start()
    if service.supervisor is not None:
        await service.supervisor.run()
