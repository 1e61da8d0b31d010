"""Defines every setting of the service. No other file reads settings from the environment, except for those of
OpenTelemetry (`service.config.traces_endpoint`)."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from screening.checkpoint.registry import MODEL, MODEL_NAME, PRODUCTION
from screening.images import ImageLimits
from screening.inference.generation import CpuDtype, CpuWorker
from screening.runtime.argument_types import is_address
from screening.runtime.validation import first_fault
from service.config.address_guard import Network
from service.config.named_keys import NamedKey, named_keys
from service.config.picture_hosts import PictureHost, picture_host
from service.config.upload_pace import Pace

PREFIX = "SCREENING_"

_OTHERS = frozenset({"SCREENING_API_KEY", "SCREENING_BASE_URL", "SCREENING_TEST_CHECKPOINT"})
"""Variables of the client and of the tests. They often exist in the shell that starts the service."""

_ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?")


class Settings(BaseSettings):
    """The settings of the service. docs/settings.md lists them all, and a test enforces that."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True, use_attribute_docstrings=True
    )

    checkpoint: Path | None = None
    """Directory of the checkpoint to serve."""
    state_dir: Path | None = None
    """Directory for copies of checkpoints and for state that survives a restart; if unset, a temporary one."""
    checkpoint_store: Path | None = None
    """Directory of the published checkpoints that POST /admin/checkpoint may load; if unset, it refuses all."""
    registry: str | None = None
    """Tracking URI of the MLflow registry to watch for new checkpoints; if unset, none is watched."""
    registry_model: str = Field(MODEL, pattern=MODEL_NAME)
    """Name of the registered model in the registry."""
    registry_alias: str = Field(PRODUCTION, min_length=1)
    """Alias in the registry whose checkpoint the service serves."""
    registry_poll_seconds: float = Field(30.0, gt=0)
    """Time in seconds between two polls of the registry, with a random variation of up to 25 %."""
    registry_timeout_seconds: float = Field(30.0, gt=0)
    """Maximum time in seconds to wait for the registry. At start-up, a service without a copy of its last checkpoint
    then loads --checkpoint."""
    restart_spread_seconds: float = Field(120.0, ge=0)
    """Maximum random delay in seconds before a checkpoint that needs an engine restart is loaded."""
    engine: str = "vllm"
    """Engine that answers requests: vllm; scripted, a deterministic stand-in that needs no checkpoint; or
    package.module:name, an engine of your own."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device that vLLM runs on; auto selects the device that the installed vLLM was built for."""
    gpu_memory_utilization: float = Field(0.85, gt=0, le=1)
    """Fraction of the GPU's memory that vLLM may use; ignored on a CPU."""
    cpu_worker: CpuWorker = "inside"
    """Process of vLLM's worker on a CPU: inside shares the engine core's process; apart uses one more core."""
    cpu_dtype: CpuDtype = "auto"
    """Number format of the model on a CPU. auto: bfloat16 if the processor has instructions for it, else float32, which
    needs twice the memory and is faster there."""
    draft_tokens: int | None = Field(None, ge=0, le=64)
    """Number of tokens that speculative decoding drafts ahead; 0 disables it; if unset, 12 on a CPU, 0 on a GPU."""
    fast_preprocessing: bool = True
    """Whether a lookup table prepares the pictures, if its result equals that of vLLM's slower preprocessing. It never
    does for a checkpoint with several tiles per picture."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 listens on every interface."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 selects a free port and logs it."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Minimum log level."""

    max_concurrent: int = Field(16, ge=1, le=4096)
    """Maximum number of requests that are decoded or in the engine at the same time."""
    max_queue: int = Field(48, ge=0, le=65536)
    """Maximum number of further requests that wait for a slot; the service answers 429 to more."""
    deadline_seconds: float = Field(60.0, gt=0)
    """Maximum time in seconds from the end of the upload to the answer; when it expires, the service answers 504."""
    header_timeout_seconds: float = Field(20.0, gt=0)
    """Maximum time in seconds for the headers of a request, and for the first byte of a new connection, to arrive. The
    service answers 408 to incomplete headers, and closes a connection that sent nothing."""
    body_timeout_seconds: float = Field(20.0, gt=0)
    """Period in seconds in which at least --body-min-rate times this many bytes of a body must arrive, or its end. The
    service answers 408 otherwise. An upload that keeps this pace may take any time."""
    body_min_rate: float = Field(8192.0, ge=0)
    """Minimum rate of an upload in bytes per second, measured over --body-timeout-seconds."""
    keep_alive_seconds: float = Field(75.0, gt=0)
    """Time in seconds for which an idle connection stays open. It must exceed the idle timeout of the proxy in front of
    the service (60 s for AWS ALB and nginx), or the proxy will send requests over connections that are closing."""
    max_connections: int = Field(1024, ge=1)
    """Maximum number of open connections. For a new connection, the service closes the one that has been idle longest.
    While all have a request in progress, new ones wait. The limit of open files may allow fewer."""
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = ()
    """Addresses or networks of the proxies whose X-Forwarded-For gives the client's address for the log, separated by
    commas; * trusts every peer; if unset, none is trusted."""
    drain_seconds: float = Field(65.0, ge=0)
    """Maximum time in seconds for requests in flight to finish after SIGTERM, SIGINT or SIGHUP. The service then
    answers 503 to the remaining ones. Choose a value above --deadline-seconds to lose none."""
    swap_drain_seconds: float = Field(30.0, gt=0)
    """Maximum time in seconds to wait for requests in flight before a swap; when it expires, the swap is postponed."""
    swap_reload_seconds: float = Field(120.0, gt=0)
    """Maximum time in seconds to load and verify new weights; when it expires, the engine restarts on the old ones."""
    store_read_seconds: float = Field(30.0, gt=0)
    """Maximum time in seconds to read up to 1 MiB from a checkpoint store; when it expires, the swap is postponed."""
    engine_hang_seconds: float = Field(30.0, gt=0)
    """Maximum time in seconds without output while the engine has requests; when it expires, the service restarts
    the engine."""
    engine_restart_seconds: float = Field(600.0, gt=0)
    """Maximum time in seconds for one engine restart."""
    engine_restart_attempts: int = Field(5, ge=1)
    """Number of consecutive failed engine restarts after which /livez answers 503."""
    decode_threads: int = Field(2, ge=1, le=256)
    """Number of threads that decode pictures of up to 4 megapixels; an equal number decodes larger pictures."""

    max_body_bytes: int = Field(32 * 2**20, ge=1)
    """Maximum size of a request body in bytes; the service answers 413 to a larger one."""
    max_picture_bytes: int = Field(10 * 2**20, ge=1)
    """Maximum size of one picture in bytes; the service answers 413 to a larger one."""
    max_picture_pixels: int = Field(25_000_000, ge=1)
    """Maximum number of pixels of one picture; the service answers 422 to a larger one."""
    max_total_pixels: int = Field(100_000_000, ge=1)
    """Maximum number of pixels of the five pictures together; the service answers 422 to larger ones."""
    max_picture_side: int = Field(16_384, ge=1)
    """Maximum width and height of a picture in pixels; the service answers 422 to a larger one."""

    answer_cache_entries: int = Field(10_000, ge=0)
    """Maximum number of cached answers; 0 disables the answer cache."""
    answer_cache_bytes: int = Field(64 * 2**20, ge=1)
    """Maximum size of the answer cache in bytes; the least recently used answer is evicted first."""
    idempotency_entries: int = Field(10_000, ge=0)
    """Maximum number of replies that are stored by Idempotency-Key; 0 stores none."""
    idempotency_bytes: int = Field(64 * 2**20, ge=1)
    """Maximum size of all stored replies in bytes; the oldest reply is evicted first."""
    idempotency_seconds: float = Field(3600.0, gt=0)
    """Time in seconds for which a reply is stored."""

    review_below: float = Field(0.5, ge=0, le=1)
    """Confidence below which an answer has needs_review set, unless the request gives its own threshold."""
    api_keys: Annotated[tuple[NamedKey, ...], NoDecode] = ()
    """SHA-256 of each key that may call /screen, or NAME:SHA-256, separated by commas; if neither this nor a keys file
    is set, anyone may call it."""
    admin_keys: Annotated[tuple[NamedKey, ...], NoDecode] = ()
    """SHA-256 of each key that may call /admin, or NAME:SHA-256, separated by commas; /admin is disabled if no key,
    here or in the keys file, has the scope admin."""
    keys_file: Path | None = None
    """File with further keys, one line NAME SCOPE[,SCOPE] SHA256 for each, which is read again when it changes. /screen
    then needs a key; if unset, there are only the keys of the other settings."""
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins whose pages may call the service from a browser, separated by commas, or *; if unset, no CORS."""

    picture_hosts: Annotated[tuple[PictureHost, ...], NoDecode] = ()
    """Hosts from which the service may fetch pictures by URL, separated by commas: NAME, *.NAME, NAME:PORT or
    http://NAME; if unset, pictures by URL are disabled."""
    picture_networks: Annotated[tuple[Network, ...], NoDecode] = ()
    """Private networks that may contain picture hosts, such as 10.1.0.0/16, separated by commas; if unset, hosts must
    have public addresses."""
    picture_fetch_seconds: float = Field(10.0, gt=0)
    """Maximum time in seconds to fetch one picture by URL; when it expires, the service answers 422."""

    decisions: str | None = None
    """Database for decisions and feedback: sqlite:///FILE for one machine or postgresql://USER@HOST/NAME for several;
    if unset, decisions are not stored."""
    pictures: str | None = None
    """Store for the pictures of decisions: a directory, s3://BUCKET/PREFIX, gs://… or az://…; required with
    --decisions, and refused without it."""
    decisions_required: bool = False
    """Whether the service answers 503 if it cannot queue a decision (true, which needs --decisions), or drops the
    decision (false)."""
    decisions_queue_bytes: int = Field(256 * 2**20, ge=2**20)
    """Maximum size in bytes of the decisions that wait in memory to be stored, including their pictures."""
    decisions_days: float | None = Field(None, gt=0, le=1_000_000)
    """Time in days after which `python -m service prune` deletes a decision; if unset, never."""
    decisions_flush_seconds: float = Field(10.0, ge=0)
    """Maximum time in seconds to store waiting decisions at shutdown; the rest is dropped."""
    feedback_keys: Annotated[tuple[NamedKey, ...], NoDecode] = ()
    """SHA-256 of each key that may read decisions and send feedback, or NAME:SHA-256, separated by commas;
    /decisions is disabled if no key has the scope feedback or admin."""
    review: bool = False
    """Whether people can review decisions and label pictures under /review; needs --decisions."""

    scripted_latency_ms: float = Field(20.0, ge=0)
    """Mean time in milliseconds that the scripted engine takes for an answer."""
    scripted_start_ms: float = Field(0.0, ge=0)
    """Time in milliseconds that the scripted engine takes to start."""
    scripted_failure: Literal["none", "unreadable", "error", "dead", "start"] = "none"
    """Failure that the scripted engine simulates: unreadable output, an error for every request, a crash at the first
    request (dead), or a failed start."""

    @field_validator("api_keys", "admin_keys", "feedback_keys", mode="before")
    @classmethod
    def _parse_keys(cls, value: object) -> object:
        return named_keys(value) if isinstance(value, str) else value

    @field_validator("picture_hosts", "picture_networks", "cors_origins", "trusted_proxies", mode="before")
    @classmethod
    def _parse_list(cls, value: object, info: ValidationInfo) -> object:
        if not isinstance(value, str):
            return value
        parse = _PARSERS[info.field_name or ""]
        return tuple(parse(entry) for part in value.split(",") if (entry := part.strip()))

    @field_validator("checkpoint", "state_dir", "checkpoint_store", "keys_file")
    @classmethod
    def _refuse_addresses(cls, value: Path | None) -> Path | None:
        if value is not None and is_address(value):
            raise ValueError(f"{value} is not a path in a file system. Mount the store and give the path of its mount")
        return value

    @model_validator(mode="after")
    def _check_combinations(self) -> Settings:
        if self.registry is not None and "://" not in self.registry:
            raise ValueError("--registry is not a tracking URI; give one such as sqlite:////path.db or http://server")
        if (self.decisions is None) != (self.pictures is None):
            raise ValueError("--decisions and --pictures belong together: give both, or neither")
        if self.review and self.decisions is None:
            raise ValueError("--review needs --decisions and --pictures, which store what people review")
        if self.decisions_required and self.decisions is None:
            raise ValueError("--decisions-required needs --decisions and --pictures, which store the decisions")
        if "*" in self.trusted_proxies and len(self.trusted_proxies) > 1:
            raise ValueError("--trusted-proxies: * trusts every peer; give it alone, or give the proxies without it")
        return self

    @property
    def needs_key(self) -> bool:
        """Whether `/screen` needs a key."""
        return bool(self.api_keys) or self.keys_file is not None

    @property
    def has_keys(self) -> bool:
        """Whether there is any key, of whatever scope."""
        return self.needs_key or bool(self.admin_keys or self.feedback_keys)

    @property
    def upload_pace(self) -> Pace:
        """The minimum pace of uploads."""
        return Pace(self.body_timeout_seconds, self.body_min_rate)

    @property
    def image_limits(self) -> ImageLimits:
        """The limits that apply to each picture and to all five."""
        return ImageLimits(
            self.max_picture_bytes, self.max_picture_pixels, self.max_total_pixels, self.max_picture_side
        )


def _origin(text: str) -> str:
    """Return an origin as browsers send it: in lower case, without a path and without the default port."""
    origin = text.lower()
    if origin == "*":
        return origin
    if _ORIGIN.fullmatch(origin) is None:
        raise ValueError(f"{text!r} is not an origin. Give scheme and host, such as https://shop.example, and no path")
    scheme, _, host = origin.partition("://")
    return f"{scheme}://{host.removesuffix({'https': ':443', 'http': ':80'}[scheme])}"


def _proxy(text: str) -> str:
    """Return an entry of `trusted_proxies` as uvicorn reads it, which does not recognise `10.0.0.5/8` as a network."""
    if text == "*":
        return text
    try:
        return str(ip_network(text, strict=False))
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address, a network such as 10.0.0.0/8, or *") from None


_OPTIONAL = frozenset(name for name, field in Settings.model_fields.items() if field.default is None)
"""Settings whose option counts as not given if its value is empty. `Path("")` would be the working directory."""

_PARSERS: dict[str, Callable[[str], object]] = {
    "picture_hosts": picture_host,
    "picture_networks": ip_network,
    "cors_origins": _origin,
    "trusted_proxies": _proxy,
}
"""Parser for one entry of each setting that holds a list."""


class StoreSettings(BaseSettings):
    """Settings that the commands for the decision store share with the service."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", frozen=True)

    decisions: str | None = None
    pictures: str | None = None


class SettingsError(Exception):
    """A setting is unknown or has an invalid value. The message names it."""


def load(given: dict[str, Any]) -> Settings:
    """Read the settings from the command line, the environment and the defaults, in this order of precedence.

    An empty variable counts as not set, and an empty option as not given if the default is None.

    Raises:
        SettingsError: a `SCREENING_*` variable is unknown, a value is invalid, or that of API keys or the keys file is
            empty.
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for variable in sorted(os.environ):
        if variable.upper().startswith(PREFIX) and variable.upper() not in known | _OTHERS:
            near = difflib.get_close_matches(variable.upper(), known, n=1)
            raise SettingsError(
                f"Unknown setting {variable}{f'; did you mean {near[0]}?' if near else '.'} (In Kubernetes, a Service "
                "whose name begins with 'screening' adds such variables; set enableServiceLinks: false.)"
            )
    _refuse_empty_keys(given)
    try:
        return Settings(**{name: value for name, value in given.items() if value != "" or name not in _OPTIONAL})
    except ValidationError as error:
        where, message = first_fault(error)
        name = where.partition(".")[0]
        option = f"--{name.replace('_', '-')} ({PREFIX}{name.upper()}): " if name else ""
        raise SettingsError(f"{option}{message}") from None


_NO_KEYS = {
    "keys_file": "the path is empty. Give the path of the keys file, or leave this setting out if there is none.",
    "api_keys": "there is no key in it. Give the SHA-256 of a key, or leave this setting out to open /screen.",
}
"""What is wrong with an empty value of the settings without which everyone may call `/screen`."""


def _refuse_empty_keys(given: dict[str, Any]) -> None:
    """Refuse an empty value where keys were meant. If it counted as not given, everyone might call `/screen`.

    Raises:
        SettingsError: a value is empty, or has only separators.
    """
    for setting, problem in _NO_KEYS.items():
        variable = f"{PREFIX}{setting.upper()}"
        of_environment = [value for name, value in os.environ.items() if name.upper() == variable]
        values = [str(given[setting])] if setting in given else of_environment
        if any(not value.replace(",", "").strip() for value in values):
            raise SettingsError(f"--{setting.replace('_', '-')} ({variable}): {problem}")
