"""The configuration of a retraining: one YAML file that alone decides what a run does.

Unknown keys are refused. Relative paths are relative to the working directory, as on every command line here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from screening.checkpoint.registry import MODEL, MODEL_NAME
from trainer.release.retrain.errors import BadInput
from trainer.yaml_file import YamlError, read_yaml

Mode = Literal["cot", "direct"]
Weight = Annotated[float, Field(gt=0, le=1_000_000)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class Shares(_Section):
    """Relative weights of the four parts of the labelled products."""

    sft: Weight = 0.45
    """Weight of the products that supervised fine-tuning learns from. Default: 0.45."""
    questions: Weight = 0.25
    """Weight of the products that stage 2 asks about; fine-tuning never sees them. Default: 0.25."""
    validation: Weight = 0.15
    """Weight of the products that the confidence is fitted on. Default: 0.15."""
    test: Weight = 0.15
    """Weight of the products of the test set, which is frozen by the first run. Default: 0.15."""


class Collect(_Section):
    """The service whose reviews are collected."""

    service: str
    """Base URL of a service that people review on."""
    key_file: Path | None = None
    """File that holds a key of the service with the scope admin. Default: no key, for a service on this machine that
    has no keys."""

    @field_validator("service")
    @classmethod
    def _is_url(cls, url: str) -> str:
        return _checked_url(url)


class Data(_Section):
    """Where labelled samples come from: data directories, reviews, or both."""

    directories: tuple[str, ...] = ()
    """Data directories, or glob patterns such as `/labels/2026-*`. A directory may grow between two runs.
    Default: none."""
    collect: Collect | None = None
    """Service whose reviews are collected when a run begins. Default: none."""
    shares: Shares = Shares()
    """Division of the products among training, validation and test."""
    seed: int = Field(0, ge=0)
    """Seed of the division; another seed needs another `work` directory. Default: 0."""

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.directories and self.collect is None:
            raise ValueError("give directories, or collect with the service whose reviews are collected")
        return self


class Training(_Section):
    """What is trained, and from where."""

    recipe: str
    """Recipe of the trainings: the name of a shipped one, or the path of a YAML file."""
    start: Literal["production", "base"] = "production"
    """Checkpoint that training starts from: the one in production, or `base`. Default: production; `base` where nothing
    is in production yet."""
    base: Path | None = None
    """Directory of the base checkpoint. Default: none; a model must then be in production."""
    processes: int = Field(1, ge=1, le=64)
    """Number of training processes on this machine, one per GPU. Default: 1."""
    nodes: int = Field(1, ge=1, le=64)
    """Number of machines that train together. The others run `python -m trainer retrain --config FILE --join RANK`.
    Default: 1."""
    rendezvous: str | None = Field(None, pattern=r"^\S+:\d{1,5}$")
    """Address `HOST:PORT` of the machine that runs the retraining, reachable by the others; needed for several nodes.
    Default: none."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.start == "base" and self.base is None:
            raise ValueError("start is `base`, so `base` must name a checkpoint")
        if self.nodes > 1 and self.rendezvous is None:
            raise ValueError("several nodes need `rendezvous`, the HOST:PORT of the first one")
        return self


class When(_Section):
    """When a run is worth its cost. If a minimum is not reached, the run is skipped with exit status 0."""

    new_labels: int = Field(50, ge=0)
    """Minimum number of labels that are new or changed since the last finished run. Default: 50."""
    new_products: int = Field(10, ge=0)
    """Minimum number of products with such a label. Default: 10."""
    days_after_run: float = Field(1, ge=0, le=3650)
    """Minimum time since the last finished run, in days. Default: 1."""
    days_after_rollback: float = Field(3, ge=0, le=3650)
    """Minimum time since the last rollback of production, in days: a person should have looked. Default: 3."""


class Budget(_Section):
    """Maximum cost of a month of retraining."""

    gpu_hours_per_month: float | None = Field(None, ge=0)
    """Maximum GPU hours of a calendar month (UTC), over all runs. It does not interrupt a run that has begun.
    Default: no limit."""
    gpus: int = Field(1, ge=1)
    """GPUs that a run occupies while a GPU stage works; multiplies the time in the ledger. Default: 1."""


class RegistrySettings(_Section):
    """Where models are published."""

    store: Path
    """Directory in which services find published checkpoints (`publish --store`), as this machine has it mounted. The
    checkpoint in production is looked for in it by its name."""
    tracking_uri: str | None = None
    """MLflow address of the registry. Default: the environment's MLFLOW_TRACKING_URI, else `mlflow.db` beside the
    store."""
    model: str = Field(MODEL, pattern=MODEL_NAME)
    """Name of the registered model. Default: screening."""
    lease_seconds: float = Field(600, ge=10, le=86_400)
    """Time after its last sign of life at which a run on another machine counts as dead, in seconds. Default: 600."""


class Measuring(_Section):
    """How models are measured."""

    modes: tuple[Mode, ...] = Field(("cot", "direct"), min_length=1)
    """Modes of answering that are calibrated and scored; the gate measures the first one. Default: cot, direct."""
    limits: Path | None = None
    """YAML file of the gate's limits that differ (`promote --limits`). Default: the usual ones."""
    batch: int = Field(64, ge=1)
    """Samples handed to the engine at once. Default: 64."""
    domain: str | None = Field(None, min_length=1, max_length=200)
    """Description of the pictures that the model knows (`domain --trained-on`); needs 400 validation samples. Default:
    the new model has no domain."""


class Confirm(_Section):
    """Services that must serve the new model."""

    services: tuple[str, ...] = ()
    """Base URLs of services that follow the registry; their `/metrics` is read. Default: none."""
    every_address: bool = False
    """Whether each address of a host name is asked separately, as for a headless Kubernetes Service. Needs http URLs.
    Default: false."""
    timeout_seconds: float = Field(900, gt=0, le=86_400)
    """Maximum time from the promotion until every service reports the new digest, in seconds. Default: 900."""
    interval_seconds: float = Field(5, gt=0, le=3600)
    """Time between two rounds of questions, in seconds. Default: 5."""

    @field_validator("services")
    @classmethod
    def _are_urls(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(_checked_url, urls))

    @model_validator(mode="after")
    def _addresses_over_http(self) -> Self:
        if self.every_address and any(urlsplit(url).scheme == "https" for url in self.services):
            raise ValueError(
                "every_address needs URLs that begin with http://, because a certificate is for a host name and not "
                "for its addresses"
            )
        return self


class Settings(_Section):
    """The complete configuration of a retraining."""

    work: Path
    """Directory for state, divided data, runs and reports; all runs use it."""
    data: Data
    """Where labels come from."""
    training: Training
    """What is trained."""
    registry: RegistrySettings
    """Where models are published."""
    when: When = When()
    """Conditions of a run."""
    budget: Budget = Budget()
    """GPU budget."""
    measuring: Measuring = Measuring()
    """Calibration, evaluation and gate."""
    confirm: Confirm = Confirm()
    """Services that must follow."""
    metrics_file: Path | None = None
    """File (`*.prom`) for the textfile collector of Prometheus' node exporter, replaced at the end of every call.
    Default: none."""
    keep_runs: int = Field(3, ge=1)
    """Number of run directories that are kept, and of evaluations of production; published checkpoints are not among
    them. Default: 3."""


def _checked_url(url: str) -> str:
    if not _is_url(url):
        raise ValueError(f"{url!r} is not a URL; write http://HOST:PORT")
    return url.rstrip("/")


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, brackets that do not match
        return False


def read_config(path: Path) -> Settings:
    """Read the configuration.

    Raises:
        BadInput: the file cannot be read, has an unknown key or a wrong value.
    """
    try:
        return Settings.model_validate(read_yaml(path))
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); give --config the retraining's YAML file") from error
    except YamlError as error:
        raise BadInput(str(error)) from error
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc'])) or 'the file'}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors(include_url=False)
        ]
        raise BadInput(f"{path}, {'; '.join(faults)}") from error
