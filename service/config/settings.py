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

from screening.checkpoint.registry import MODEL, MODEL_NAME, PRODUCTION
from screening.images import ImageLimits
from screening.inference.generation import CpuWorker
from service.config.address_guard import Network
from service.config.named_keys import NamedKey, named_keys
from service.config.picture_hosts import PictureHost, picture_host
from service.config.upload_pace import Pace

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
    """Directory for copies of checkpoints and for what a restart needs to know; none: a temporary one."""
    checkpoint_store: Path | None = None
    """Directory of published checkpoints that POST /admin/checkpoint may name; none: it refuses every name."""
    registry: str | None = None
    """Tracking URI of the MLflow registry whose alias the service follows; none: it follows no registry."""
    registry_model: str = Field(MODEL, pattern=MODEL_NAME)
    """Name of the registered model in the registry."""
    registry_alias: str = Field(PRODUCTION, min_length=1)
    """Alias in the registry that names the checkpoint to serve."""
    registry_poll_seconds: float = Field(30.0, gt=0)
    """Time in seconds between two polls of the registry, varied at random by up to a quarter."""
    registry_timeout_seconds: float = Field(30.0, gt=0)
    """Maximum time in seconds to wait for the registry; at start-up the service then uses its own checkpoint."""
    rebuild_spread_seconds: float = Field(120.0, ge=0)
    """Maximum random delay in seconds before a checkpoint that needs an engine restart is loaded."""
    engine: Literal["vllm", "scripted"] = "vllm"
    """Engine that answers: vllm, or scripted, a deterministic stand-in that needs no checkpoint."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device that vLLM computes on; auto takes the one that the installed vLLM was built for."""
    gpu_memory_utilization: float = Field(0.85, gt=0, le=1)
    """Share of the GPU's memory that vLLM may use. Ignored on a CPU."""
    cpu_worker: CpuWorker = "inside"
    """Place of vLLM's worker on a CPU: inside the engine core's process, or apart, which uses one more core."""
    draft_tokens: int | None = Field(None, ge=0, le=64)
    """Tokens drafted ahead by speculative decoding; 0 switches it off; none: 12 on a CPU, 0 on a GPU."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 listens on every interface."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free port and logs it."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Minimum log level."""

    max_concurrent: int = Field(16, ge=1, le=4096)
    """Maximum number of requests that are decoded or in the engine at the same time."""
    max_queue: int = Field(48, ge=0, le=65536)
    """Maximum number of further requests that wait, counted on arrival; the service answers 429 to more."""
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
    """Maximum time in seconds to wait for requests in flight before a swap; the swap is put off after it."""
    swap_reload_seconds: float = Field(120.0, gt=0)
    """Maximum time in seconds to load and verify new weights; the engine then restarts on the old ones."""
    store_read_seconds: float = Field(30.0, gt=0)
    """Maximum time in seconds to read at most 1 MiB from a checkpoint store; the swap is put off after it."""
    engine_hang_seconds: float = Field(30.0, gt=0)
    """Maximum time in seconds without output while requests are in the engine; it is restarted after it."""
    engine_rebuild_seconds: float = Field(600.0, gt=0)
    """Maximum time in seconds for one engine restart."""
    engine_rebuild_attempts: int = Field(5, ge=1)
    """Number of failed engine restarts in a row after which /livez answers 503."""
    decode_threads: int = Field(2, ge=1, le=256)
    """Number of threads that decode pictures up to 4 megapixels; as many others decode larger ones."""

    max_body_bytes: int = Field(32 * 2**20, ge=1)
    """Maximum size of a request body in bytes; the service answers 413 to a larger one."""
    max_picture_bytes: int = Field(10 * 2**20, ge=1)
    """Maximum size of one picture in bytes; the service answers 413 to a larger one."""
    max_picture_pixels: int = Field(25_000_000, ge=1)
    """Maximum number of pixels of one picture, read from its header; the service answers 422 to more."""
    max_total_pixels: int = Field(100_000_000, ge=1)
    """Maximum number of pixels of the five pictures together; the service answers 422 to more."""
    max_picture_side: int = Field(16_384, ge=1)
    """Maximum width and height of a picture in pixels; larger pictures are answered 422."""

    answer_cache_entries: int = Field(10_000, ge=0)
    """Maximum number of cached answers; 0 switches the answer cache off."""
    answer_cache_bytes: int = Field(64 * 2**20, ge=1)
    """Maximum size of the answer cache in bytes; the least recently used answer is dropped first."""
    idempotency_entries: int = Field(10_000, ge=0)
    """Maximum number of replies kept for their Idempotency-Key; 0 keeps none."""
    idempotency_bytes: int = Field(64 * 2**20, ge=1)
    """Maximum size of all kept replies in bytes; the oldest reply is dropped first."""
    idempotency_seconds: float = Field(3600.0, gt=0)
    """Time in seconds for which a reply is kept."""

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

    decisions: str | None = None
    """Database that keeps decisions and feedback: sqlite:///FILE for one machine or postgresql://USER@HOST/NAME for
    several; none: decisions are not kept."""
    pictures: str | None = None
    """Store of the pictures of kept decisions: a directory, s3://BUCKET/PREFIX, gs://… or az://…"""
    decisions_required: bool = False
    """Whether a request is answered 503 when its decision cannot be queued; otherwise the decision is dropped."""
    decisions_queue_bytes: int = Field(256 * 2**20, ge=2**20)
    """Maximum size in bytes of the decisions that wait in memory to be stored, pictures included."""
    decisions_days: float | None = Field(None, gt=0)
    """Time in days for which a decision is kept before `python -m service prune` deletes it; none: for ever."""
    decisions_flush_seconds: float = Field(10.0, ge=0)
    """Maximum time in seconds to store what waits when the service ends; the rest is dropped."""
    feedback_keys: Annotated[tuple[NamedKey, ...], NoDecode] = ()
    """SHA-256 of each key that may read decisions and send feedback, or NAME:SHA-256, separated by commas; empty
    switches /decisions off."""

    scripted_latency_ms: float = Field(20.0, ge=0)
    """Mean time of a scripted answer in milliseconds."""
    scripted_start_ms: float = Field(0.0, ge=0)
    """Time in milliseconds that the scripted engine takes to start."""
    scripted_failure: Literal["none", "unreadable", "error", "dead", "start"] = "none"
    """Fault of the scripted engine: unreadable text, an error per request, death at the first, or a failed start."""

    @field_validator("api_keys", "admin_keys", "feedback_keys", mode="before")
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
        if (self.decisions is None) != (self.pictures is None):
            raise ValueError("--decisions and --pictures belong together: give both, or neither")
        return self

    @property
    def upload_pace(self) -> Pace:
        """The pace of uploads in the form that `service.admission.upload` takes."""
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


class StoreSettings(BaseSettings):
    """What the commands for the decision store read from the environment of the service."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    decisions: str | None = None
    pictures: str | None = None


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
