"""The engines that `--engine` names."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from screening.runtime.extensions import ExtensionError, find
from service.config.settings import Settings, SettingsError
from service.config.traces_endpoint import traces_endpoint
from service.engines.protocol import Engine


def _vllm(settings: Settings) -> Engine:
    from service.engines.vllm_engine import VllmEngine

    return VllmEngine(
        device=settings.device,
        max_concurrent=settings.max_concurrent,
        gpu_memory_utilization=settings.gpu_memory_utilization,
        cpu_worker=settings.cpu_worker,
        cpu_dtype=settings.cpu_dtype,
        draft_tokens=settings.draft_tokens,
        fast_preprocessing=settings.fast_preprocessing,
        traces_endpoint=traces_endpoint(os.environ),
    )


def _scripted(settings: Settings) -> Engine:
    from service.engines.scripted_engine import ScriptedEngine

    return ScriptedEngine(
        latency_ms=settings.scripted_latency_ms,
        start_ms=settings.scripted_start_ms,
        failure=settings.scripted_failure,
    )


ENGINES: Mapping[str, Callable[[Settings], Engine]] = {"vllm": _vllm, "scripted": _scripted}
"""Name → what makes the engine. Imports inside the functions: only the engine in use is loaded."""


def create_engine(settings: Settings) -> Engine:
    """The engine that the settings name: an entry of `ENGINES`, or `package.module:name`. Nothing is started.

    Raises:
        SettingsError: there is no such engine, or another setting does not fit it.
    """
    try:
        engine = find(settings.engine, ENGINES, "engine")(settings)
    except ExtensionError as error:
        raise SettingsError(f"--engine (SCREENING_ENGINE): {error}") from error
    if engine.loads_checkpoints and settings.checkpoint is None:
        raise SettingsError(f"the {engine.name} engine needs --checkpoint DIR; --engine scripted needs none")
    if settings.registry is not None and not engine.loads_checkpoints:
        raise SettingsError(f"--registry: the {engine.name} engine has no checkpoint to change; use --engine vllm")
    return engine
