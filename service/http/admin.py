"""The paths under `/admin`, which show the checkpoint that the service serves and swap it.

They need a key with the scope `admin`, and are disabled if there is none.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from service.checkpoints.hot_swap import HotSwap, Swap
from service.checkpoints.registry_watcher import RegistryState, RegistryWatcher
from service.checkpoints.store_reads import StoreRead
from service.errors import (
    CheckpointRefused,
    Forbidden,
    InsufficientScope,
    NotReady,
    SwapBusy,
    Unauthenticated,
)
from service.http.auth import authorize
from service.http.json_api import BODY_ERRORS, SECURED, json_answer, read_json, service_of, takes
from service.http.openapi import problem_responses
from service.schemas import CheckpointName, Documented, RequestBody

router = APIRouter(prefix="/admin", tags=["admin"])

_MAX_BODY = 4096


class Refusal(Documented):
    """A checkpoint that failed. The service refuses it from then on unless a request sets `retry`."""

    digest: str
    """Digest of the checkpoint."""
    manifest: str
    """Digest of the whole manifest. The same checkpoint with another manifest, for example with other probes, is not
    refused."""
    reason: str
    """Why the checkpoint was refused."""


class CheckpointState(Documented):
    """The checkpoint that the service serves, and the history of its swaps."""

    serving: CheckpointName
    """The checkpoint that the service serves now."""
    busy: bool
    """Whether a swap is running."""
    swaps: list[Swap]
    """Past swaps, newest first."""
    refused: list[Refusal]
    """Refused checkpoints, newest first."""
    store_reads: list[StoreRead]
    """Reads of the checkpoint store that have not finished. A read that hangs does not block other reads."""
    registry: RegistryState | None
    """State of the registry watcher. Null if the service watches no registry."""


class CheckpointRequest(RequestBody):
    """Request to serve a checkpoint."""

    checkpoint: str = Field(min_length=1, pattern=r"^[^\x00]+$")
    """Name of a directory in the checkpoint store."""
    retry: bool = False
    """Whether to try a checkpoint that was refused before."""


@router.get(
    "/checkpoint",
    response_model=CheckpointState,
    responses=problem_responses(Unauthenticated, Forbidden, InsufficientScope, NotReady),
    openapi_extra=SECURED,
    operation_id="get_checkpoint",
    response_description="The current checkpoint, past swaps and refused checkpoints.",
    summary="Show the current checkpoint, past swaps and refused checkpoints",
)
async def get_checkpoint(request: Request) -> Response:
    hot_swap = _hot_swap(request)
    served = hot_swap.served
    serving = served.manifest
    watcher: RegistryWatcher | None = request.app.state.registry_watcher
    state = CheckpointState(
        serving=CheckpointName(name=serving.name, version=serving.version, digest=serving.digest),
        busy=hot_swap.busy,
        swaps=list(reversed(hot_swap.swaps)),
        refused=[_refusal(key, reason) for key, reason in reversed(served.history.refused.items())],
        store_reads=served.reads.under_way(),
        registry=watcher.state if watcher else None,
    )
    return json_answer(state)


@router.post(
    "/checkpoint",
    response_model=Swap,
    responses=problem_responses(
        Unauthenticated, Forbidden, InsufficientScope, *BODY_ERRORS, CheckpointRefused, NotReady, SwapBusy
    ),
    openapi_extra=SECURED | takes(CheckpointRequest),
    operation_id="serve_checkpoint",
    response_description="The service serves the checkpoint.",
    summary="Verify a checkpoint of the store and serve it, or keep the current one if verification fails",
)
async def post_checkpoint(request: Request) -> Response:
    hot_swap = _hot_swap(request)
    body = await read_json(request, CheckpointRequest, max_bytes=_MAX_BODY)
    source = await _resolve(hot_swap, service_of(request).settings.checkpoint_store, body.checkpoint)
    swap = await hot_swap.swap_to(source, retry=body.retry)
    return json_answer(swap)


def _hot_swap(request: Request) -> HotSwap:
    """Check the caller's key and return the hot swap.

    Raises:
        Unauthenticated, InsufficientScope: see `authorize`.
        Forbidden: no key has the scope `admin`, or the engine has no checkpoint.
        NotReady: the engine is still starting.
    """
    authorize(request, "admin")
    service = service_of(request)
    if service.hot_swap is None:
        raise Forbidden(f"The engine {service.engine.name} has no checkpoint. Start the service with --engine vllm.")
    if not request.app.state.started:
        raise NotReady("The service is starting.")
    return service.hot_swap


def _refusal(key: str, reason: str) -> Refusal:
    digest, _, manifest = key.partition("@")
    return Refusal(digest=digest, manifest=manifest, reason=reason)


async def _resolve(hot_swap: HotSwap, store: Path | None, name: str) -> Path:
    if store is None:
        raise Forbidden("To swap checkpoints, set SCREENING_CHECKPOINT_STORE to the directory that contains them.")
    return await hot_swap.served.reads.resolve(store, name)
