"""`/admin`: which checkpoint is served, and another one now. A key of its own; switched off without one."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.admission.upload import Upload
from service.checkpoints.hot_swap import HotSwap, Swap
from service.checkpoints.registry_watcher import Following, RegistryWatcher
from service.checkpoints.store_reads import StoreRead
from service.errors import (
    BodyTimeout,
    CheckpointRefused,
    Forbidden,
    InvalidRequest,
    MalformedRequest,
    NotReady,
    RequestTooLarge,
    SwapBusy,
    Unauthenticated,
    UnsupportedMediaType,
    UploadTooSlow,
)
from service.http.auth import check_key
from service.http.openapi import problem_responses
from service.pipeline.screen import Service
from service.request.json_body import utf8_of
from service.request.request_body import read_body
from service.schemas import CheckpointName

router = APIRouter(prefix="/admin", tags=["admin"])

_MAX_BODY = 4096
_running: set[asyncio.Task[Any]] = set()
"""Swaps go on when their caller hangs up; a task that nobody holds may be collected."""


class Refusal(BaseModel):
    """A checkpoint that failed, and is not tried again unless `retry` says so."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    digest: str
    """Digest of the checkpoint."""
    manifest: str
    """Digest of its whole manifest. The same checkpoint with another manifest, for example with other probes, is not
    refused."""
    reason: str
    """Why it was refused."""


class CheckpointState(BaseModel):
    """What is served and how it came to be."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    serving: CheckpointName
    """The checkpoint that answers now."""
    busy: bool
    """A swap is under way."""
    swaps: list[Swap]
    """Newest first."""
    refused: list[Refusal]
    """Newest first."""
    reading: list[StoreRead]
    """Reads of the checkpoint store that have not ended; one that hangs holds up nothing else."""
    following: Following | None
    """None where no registry is followed."""


class CheckpointOrder(BaseModel):
    """Which checkpoint to take up."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    checkpoint: str = Field(min_length=1, pattern=r"^[^\x00]+$")
    """A directory of the store."""
    retry: bool = False
    """Try it even if it was refused before."""


_ORDER: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/CheckpointOrder"}}},
    },
    "security": [{"key": []}],
}


@router.get(
    "/checkpoint",
    response_model=CheckpointState,
    responses=problem_responses(Unauthenticated, Forbidden, NotReady),
    openapi_extra={"security": [{"key": []}]},
    operation_id="get_checkpoint",
    response_description="The state of the service's checkpoint.",
    summary="What is served, what was, and what was refused",
)
async def get_checkpoint(request: Request) -> Response:
    hot_swap = _hot_swap(request)
    served = hot_swap.served
    serving = served.manifest
    watcher: RegistryWatcher | None = request.app.state.registry_watcher
    state = CheckpointState(
        serving=CheckpointName(name=serving.name, version=serving.version, digest=serving.digest),
        busy=served.busy,
        swaps=list(reversed(hot_swap.swaps)),
        refused=[_refusal(key, reason) for key, reason in reversed(served.history.refused.items())],
        reading=served.reads.under_way(),
        following=watcher.state if watcher else None,
    )
    return Response(state.model_dump_json(), media_type="application/json")


@router.post(
    "/checkpoint",
    response_model=Swap,
    responses=problem_responses(
        MalformedRequest,
        Unauthenticated,
        Forbidden,
        BodyTimeout,
        UploadTooSlow,
        CheckpointRefused,
        RequestTooLarge,
        UnsupportedMediaType,
        InvalidRequest,
        NotReady,
        SwapBusy,
    ),
    openapi_extra=_ORDER,
    operation_id="serve_checkpoint",
    response_description="The checkpoint is served.",
    summary="Serve a checkpoint of the store once it is verified, or keep the one that is served",
)
async def post_checkpoint(request: Request) -> Response:
    hot_swap, service = _hot_swap(request), _service(request)
    body = await read_body(request, max_bytes=_MAX_BODY, upload=Upload(service.settings.upload_pace))
    order = _order_in(body)
    source = await _resolve(hot_swap, service.settings.checkpoint_store, order.checkpoint)
    task = asyncio.get_running_loop().create_task(hot_swap.swap_to(source, retry=order.retry))
    _running.add(task)
    task.add_done_callback(_running.discard)
    swap = await asyncio.shield(task)
    return JSONResponse(dataclasses.asdict(swap))


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _hot_swap(request: Request) -> HotSwap:
    """Let in who has a key.

    Raises:
        Forbidden: no key is set, or the engine has no checkpoint.
        NotReady: nothing is served yet.
        Unauthenticated: this is none of the keys.
    """
    service = _service(request)
    allowed = service.settings.admin_keys
    if not allowed:
        raise Forbidden("Set SCREENING_ADMIN_KEYS to the sha256 of a key to use /admin.")
    check_key(request, allowed, "an admin key")
    if service.hot_swap is None:
        raise Forbidden("This engine serves no checkpoint.")
    if not request.app.state.started:
        raise NotReady("The service is starting.")
    return service.hot_swap


def _order_in(body: bytes | bytearray) -> CheckpointOrder:
    try:
        return CheckpointOrder.model_validate_json(bytes(utf8_of(body)))
    except ValidationError as error:
        if error.errors(include_url=False)[0]["type"] == "json_invalid":
            raise MalformedRequest('Send JSON: {"checkpoint": NAME}, a directory of the store.') from None
        raise InvalidRequest("checkpoint: the name of a directory of the store; retry: true or false.") from None


def _refusal(key: str, reason: str) -> Refusal:
    digest, _, manifest = key.partition("@")
    return Refusal(digest=digest, manifest=manifest, reason=reason)


async def _resolve(hot_swap: HotSwap, store: Path | None, name: str) -> Path:
    if store is None:
        raise Forbidden("Set SCREENING_CHECKPOINT_STORE to the directory that holds the checkpoints.")
    return await hot_swap.served.reads.resolve(store, name)
