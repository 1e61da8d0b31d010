"""Every setting of the service; the only file that reads settings from the environment."""

from __future__ import annotations

import difflib
import os
import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from screening.generation import CpuWorker
from screening.images import ImageLimits
from screening.registry import MODEL, MODEL_NAME, PRODUCTION
from service.address_guard import Network
from service.named_keys import NamedKey, named_keys
from service.picture_hosts import PictureHost, picture_host
from service.upload import Pace

PREFIX = "SCREENING_"

_OTHERS = frozenset({"SCREENING_API_KEY", "SCREENING_BASE_URL", "SCREENING_TEST_CHECKPOINT"})
"""Variables of the client and of the tests, which often share a shell with the service."""

_ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?")


class Settings(BaseSettings):
    """Settings from the command line, then from `SCREENING_*`. docs/operations.md has the table; a test holds it."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, use_attribute_docstrings=True)

    checkpoint: Path | None = None
    """Directory of the checkpoint to serve; required by the vllm engine."""
    state_dir: Path | None = None
    """Copies of checkpoints, and which was served last, to go on with after a restart; none: forgotten at the end."""
    checkpoint_store: Path | None = None
    """Directory of the checkpoints that POST /admin/checkpoint may name; none: it may name none."""
    registry: str | None = None
    """MLflow's tracking URI; what the alias names there is taken up. None: no registry is followed."""
    registry_model: str = Field(MODEL, pattern=MODEL_NAME)
    """Name of the registered model."""
    registry_alias: str = Field(PRODUCTION, min_length=1)
    """Alias that is followed."""
    registry_poll_seconds: float = Field(30.0, gt=0)
    """Between two questions to the registry; a quarter more or less at random."""
    registry_timeout_seconds: float = Field(30.0, gt=0)
    """For an answer of the registry; what a fresh service waits for it at most before it starts with its own."""
    rebuild_spread_seconds: float = Field(120.0, ge=0)
    """What the alias names and needs a new engine is taken up after a random part of this; 0: at once."""
    engine: Literal["vllm", "scripted"] = "vllm"
    """What answers: vllm, or scripted, a deterministic stand-in that needs no checkpoint."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where vLLM computes; auto takes what the installed vLLM was built for."""
    gpu_memory_utilization: float = Field(0.85, gt=0, le=1)
    """Share of the GPU's memory that vLLM may take. Unused on a CPU."""
    cpu_worker: CpuWorker = "inside"
    """Where vLLM's worker runs on a CPU: inside its engine core, or apart, as vLLM has it, which takes a core more."""
    draft_tokens: int | None = Field(None, ge=0, le=64)
    """Tokens guessed ahead from earlier answers, for the model to check in one step; none: 12 on a CPU, 0 on a GPU."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for every interface."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one and logs it."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe log line that is written."""

    max_concurrent: int = Field(16, ge=1, le=4096)
    """Requests decoded and in the engine at a time."""
    max_queue: int = Field(48, ge=0, le=65536)
    """Further requests that may wait, counted at the door; more are answered 429."""
    deadline_seconds: float = Field(60.0, gt=0)
    """Maximum time in seconds from the arrival of the whole body to the answer; the service answers 504 after it."""
    header_timeout_seconds: float = Field(20.0, gt=0)
    """Maximum time in seconds for a request's headers to arrive, and for the first byte of a new connection. The
    service answers 408 to headers that broke off, and closes a connection that sent nothing."""
    body_timeout_seconds: float = Field(20.0, gt=0)
    """Period in seconds in which a body must make progress: at least this times --body-min-rate bytes, or its end. The
    service answers 408 otherwise. A body that keeps this pace may take as long as it needs."""
    body_min_rate: float = Field(8192.0, ge=0)
    """Minimum rate of an upload in bytes per second, measured over --body-timeout-seconds."""
    keep_alive_seconds: float = Field(75.0, gt=0)
    """Time in seconds for which an idle connection is kept open for the next request. Keep it above the idle timeout
    of the proxy in front, 60 s for AWS ALB and nginx, or the proxy sends requests into connections that close."""
    max_connections: int = Field(1024, ge=1)
    """Open connections. The one that has been idle for longest is closed for a new one; while all have a request in
    progress, new ones wait. The limit of open files may allow fewer."""
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = ()
    """Addresses or networks of the proxies whose X-Forwarded-For names the client for the log, separated by commas; *
    trusts every peer. Empty: none is trusted."""
    drain_seconds: float = Field(65.0, ge=0)
    """Maximum time in seconds for requests in flight to finish after SIGTERM or SIGHUP; the rest is answered 503. A
    value below the deadline cuts some off."""
    swap_drain_seconds: float = Field(30.0, gt=0)
    """For requests in flight to end before other weights are loaded; then the swap is put off."""
    swap_reload_seconds: float = Field(120.0, gt=0)
    """For the engine to load and prove other weights; then it is built anew on the old ones."""
    store_read_seconds: float = Field(30.0, gt=0)
    """Maximum time in seconds for one step of reading a checkpoint store, of at most 1 MiB; then the checkpoint is not
    taken up now."""
    engine_hang_seconds: float = Field(30.0, gt=0)
    """With requests in the engine and no output from it; then it is killed and built anew."""
    engine_rebuild_seconds: float = Field(600.0, gt=0)
    """For one attempt to build the engine anew."""
    engine_rebuild_attempts: int = Field(5, ge=1)
    """Attempts in a row without lasting success, after which /livez turns red."""
    decode_threads: int = Field(2, ge=1, le=256)
    """Number of threads that decode pictures up to 4 megapixels, and of as many others for larger ones."""

    max_body_bytes: int = Field(32 * 2**20, ge=1)
    """For the whole body, whatever its encoding; then 413."""
    max_picture_bytes: int = Field(10 * 2**20, ge=1)
    """For one picture; then 413."""
    max_picture_pixels: int = Field(25_000_000, ge=1)
    """For one picture, told from its header; then 422."""
    max_total_pixels: int = Field(100_000_000, ge=1)
    """For the five pictures together; then 422."""
    max_picture_side: int = Field(16_384, ge=1)
    """Maximum width and height of a picture in pixels; larger pictures are answered 422."""

    answer_cache_entries: int = Field(10_000, ge=0)
    """Answers kept to be given again to the same question; 0 keeps none."""
    answer_cache_bytes: int = Field(64 * 2**20, ge=1)
    """For all answers kept; what was not asked for longest goes first."""
    idempotency_entries: int = Field(10_000, ge=0)
    """Replies kept to be sent again for their Idempotency-Key; 0 keeps none."""
    idempotency_bytes: int = Field(64 * 2**20, ge=1)
    """For all replies kept; the oldest goes first."""
    idempotency_seconds: float = Field(3600.0, gt=0)
    """For which a reply is kept."""

    review_below: float = Field(0.5, ge=0, le=1)
    """Threshold of the confidence below which an answer carries needs_review, unless the request gives its own."""
    api_keys: Annotated[tuple[NamedKey, ...], NoDecode] = ()
    """SHA-256 of each key that may call /screen, or NAME:SHA-256, separated by commas; empty lets everyone in."""
    admin_keys: Annotated[tuple[NamedKey, ...], NoDecode] = ()
    """SHA-256 of each key that may call /admin, or NAME:SHA-256, separated by commas; empty switches /admin off."""
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins whose pages may call the service from a browser, separated by commas, or *; empty: none (no CORS)."""

    picture_hosts: Annotated[tuple[PictureHost, ...], NoDecode] = ()
    """Hosts from which pictures are fetched by URL: NAME, *.NAME, NAME:PORT, http://NAME, by commas; empty: none."""
    picture_networks: Annotated[tuple[Network, ...], NoDecode] = ()
    """Networks, such as 10.1.0.0/16, that picture hosts may be in although they are not public; empty: none."""
    picture_fetch_seconds: float = Field(10.0, gt=0)
    """Maximum time in seconds to fetch one picture by URL; then 422."""

    scripted_latency_ms: float = Field(20.0, ge=0)
    """Mean time of a scripted answer."""
    scripted_start_ms: float = Field(0.0, ge=0)
    """Time the scripted engine takes to start."""
    scripted_failure: Literal["none", "unreadable", "error", "dead", "start"] = "none"
    """How the scripted engine misbehaves: unreadable text, an error per request, death at the first, a failed start."""

    @field_validator("api_keys", "admin_keys", mode="before")
    @classmethod
    def _keys(cls, value: object) -> object:
        return named_keys(value) if isinstance(value, str) else value

    @field_validator("picture_hosts", mode="before")
    @classmethod
    def _hosts(cls, value: object) -> object:
        return tuple(map(picture_host, _entries(value))) if isinstance(value, str) else value

    @field_validator("picture_networks", mode="before")
    @classmethod
    def _networks(cls, value: object) -> object:
        return tuple(map(ip_network, _entries(value))) if isinstance(value, str) else value

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _origins(cls, value: object) -> object:
        return tuple(map(_origin, _entries(value))) if isinstance(value, str) else value

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _are_networks(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        parts = tuple(part.strip() for part in value.split(",") if part.strip())
        for part in parts:
            if part != "*":
                try:
                    ip_network(part, strict=False)
                except ValueError:
                    raise ValueError(f"{part!r} is not an IP address, a network such as 10.0.0.0/8, or *") from None
        return parts

    @model_validator(mode="after")
    def _needs_checkpoint(self) -> Settings:
        if self.engine == "vllm" and self.checkpoint is None:
            raise ValueError("the vllm engine needs --checkpoint DIR; --engine scripted needs none")
        if self.registry is not None and "://" not in self.registry:
            raise ValueError("--registry is not an address; give sqlite:////path.db or http://server")
        if self.registry is not None and self.engine == "scripted":
            raise ValueError("--registry needs the vllm engine: the scripted one has no checkpoint to change")
        return self

    @property
    def upload_pace(self) -> Pace:
        """The pace of uploads in the form that `service.upload` takes."""
        return Pace(self.body_timeout_seconds, self.body_min_rate)

    @property
    def image_limits(self) -> ImageLimits:
        """The limits in the form that intake takes."""
        return ImageLimits(
            self.max_picture_bytes, self.max_picture_pixels, self.max_total_pixels, self.max_picture_side
        )


def _entries(text: str) -> list[str]:
    return [entry for part in text.split(",") if (entry := part.strip())]


def _origin(text: str) -> str:
    """An origin as browsers send it: in lower case, without a path and without the default port."""
    origin = text.lower()
    if origin == "*":
        return origin
    if _ORIGIN.fullmatch(origin) is None:
        raise ValueError(f"{text!r} is not an origin. Give scheme and host, such as https://shop.example, and no path")
    scheme, _, host = origin.partition("://")
    return f"{scheme}://{host.removesuffix({'https': ':443', 'http': ':80'}[scheme])}"


class SettingsError(Exception):
    """A setting is unknown or has a wrong value; the message names it."""


def load(given: dict[str, Any]) -> Settings:
    """Settings from the command line's values, then the environment, then defaults.

    Raises:
        SettingsError: unknown `SCREENING_*` variable, or a value that does not fit.
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for variable in sorted(os.environ):
        if variable.upper().startswith(PREFIX) and variable.upper() not in known | _OTHERS:
            near = difflib.get_close_matches(variable.upper(), known, n=1)
            raise SettingsError(
                f"{variable} is no setting{f'; did you mean {near[0]}?' if near else '.'} (In Kubernetes, a Service "
                "named like this adds such variables: set enableServiceLinks: false.)"
            )
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        where = f"--{name.replace('_', '-')} ({PREFIX}{name.upper()}): " if name else ""
        raise SettingsError(where + first["msg"].removeprefix("Value error, ")) from None
