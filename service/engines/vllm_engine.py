"""The engine that runs the model: vLLM's AsyncLLM in this process. Only this module of the service imports vllm."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from PIL import Image

from screening.answer import Mode
from screening.checkpoint.domain import Domain
from screening.checkpoint.manifest import Manifest, verify
from screening.checkpoint.probes import Probe
from screening.errors import CheckpointError
from screening.images import PADDING
from screening.inference.generation import (
    FINISHED,
    PICTURE_FEATURES,
    WATCH_DRAFTS,
    WATCH_PICTURES,
    CpuDtype,
    CpuWorker,
    Spelling,
    answer_regex,
    cpu_environment,
    engine_arguments,
    last_log_probabilities,
    probe_sampling_arguments,
    sampling_arguments,
    watched,
)
from screening.inference.pictures import largest_canvas
from screening.prompt import PICTURES_PER_SAMPLE, Form
from screening.runtime.environment import QUIET_ENVIRONMENT
from screening.runtime.machine import machine_name
from screening.runtime.process_reaper import ProcessReaper
from service.engines.checkpoint_inspection import inspect_in_subprocess
from service.engines.domain_scoring import score_pictures, score_while_answering
from service.engines.engine_calls import EngineCalls
from service.engines.prompt_rendering import PromptRenderer
from service.engines.protocol import Generated, LoadedCheckpoint, Question
from service.errors import EngineFailed, EngineLost
from service.ids import new_id
from service.logs import log
from service.tracing import outgoing_headers

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM

LOGGER = logging.getLogger("service.engines.vllm_engine")

Result = TypeVar("Result")


class VllmEngine:
    """One checkpoint in one AsyncLLM. vLLM's engine core is another process, and its worker may be a third: both may
    die."""

    def __init__(
        self,
        *,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        max_concurrent: int = 16,
        gpu_memory_utilization: float = 0.85,
        cpu_worker: CpuWorker = "inside",
        cpu_dtype: CpuDtype = "auto",
        draft_tokens: int | None = None,
        fast_preprocessing: bool = True,
        traces_endpoint: str | None = None,
    ) -> None:
        """
        Args:
            traces_endpoint: URL to which vLLM's processes post their spans; None for no tracing.
        """
        self._device = device
        self._max_concurrent = max_concurrent
        self._gpu_memory_utilization = gpu_memory_utilization
        self._cpu_worker = cpu_worker
        self._cpu_dtype = cpu_dtype
        self._draft_tokens = draft_tokens
        self._fast_preprocessing = fast_preprocessing
        self._traces_endpoint = traces_endpoint
        self._computes_on = "cpu"
        """Name of the accelerator, or `cpu`; valid once a checkpoint is loaded."""
        self._in_float32 = False
        self._llm: AsyncLLM | None = None
        self._loading: asyncio.Future[AsyncLLM] | None = None
        self._lost = False
        """Whether nothing is loaded any more: the engine was stopped or killed, or its last start failed."""
        self._stops = 0
        """Number of calls of `stop`."""
        self._reaper = ProcessReaper()
        self._calls = EngineCalls(_is_death)
        self._outputs = 0
        # What follows belongs to the loaded checkpoint.
        self._checkpoint: LoadedCheckpoint | None = None
        self._prompts: PromptRenderer | None = None
        self._spelling: Spelling
        self._sampling: dict[Form, SamplingParams] = {}
        self._domain: Domain | None = None

    @property
    def name(self) -> str:
        return "vllm"

    @property
    def loads_checkpoints(self) -> bool:
        return True

    @property
    def machine(self) -> str:
        return machine_name(self._computes_on, in_float32=self._in_float32)

    @property
    def in_float32(self) -> bool:
        return self._in_float32

    @property
    def checkpoint(self) -> LoadedCheckpoint:
        if self._checkpoint is None:
            raise RuntimeError("The engine has not started.")
        return self._checkpoint

    @property
    def alive(self) -> bool:
        return not self._lost and (self._llm is None or not self._llm.errored)

    def running(self) -> int:
        return self._llm.get_num_unfinished_requests() if self._llm is not None else 0

    @property
    def progress(self) -> int:
        return self._outputs

    async def start(self, checkpoint: Path | None, /) -> None:
        """Verify the checkpoint, load it, and ask it one question of each mode.

        Raises:
            CheckpointError: the directory differs from its manifest.
            EngineLost: `stop` was called meanwhile.
        """
        if checkpoint is None:
            raise CheckpointError("The vllm engine needs a checkpoint")
        try:
            await self._start(checkpoint)
        except Exception:
            self._lost = True
            raise
        self._lost = False

    async def _start(self, checkpoint: Path) -> None:
        loop, stops = asyncio.get_running_loop(), self._stops
        manifest = await loop.run_in_executor(None, verify, checkpoint)
        if self._stops != stops:  # `stop` found nothing to end and has returned.
            raise EngineLost()
        self._loading = loop.run_in_executor(None, self._load, checkpoint, manifest)
        llm = await asyncio.shield(self._loading)
        if self._stops != stops:  # `stop` ends what was loaded.
            raise EngineLost()
        self._llm = llm
        await asyncio.to_thread(self._reaper.look, os.getpid())
        if llm.vllm_config.speculative_config is not None:
            await self._command(llm, llm.collective_rpc(WATCH_DRAFTS))
        await self._command(llm, llm.collective_rpc(WATCH_PICTURES, args=(manifest.image.tokens_per_picture,)))
        await self._command(llm, llm.update_weight_version(manifest.digest))
        self._prompts = prompts = PromptRenderer(llm, fast=self._fast_preprocessing)
        await self._command(llm, prompts.prepare(manifest))
        self._use(llm, prompts, manifest)
        grey = Image.new("RGB", largest_canvas(manifest.image), PADDING)
        for mode in Mode:
            # An engine is ready when it has answered, not when it has loaded.
            await self.generate(Question(f"warm-up-{mode}", mode, (grey,) * PICTURES_PER_SAMPLE))
        # A full garbage collection would visit 600,000 objects of torch and vLLM and stop all requests for 0.3 s.
        gc.unfreeze()
        gc.collect()  # frees what the engine before this one left
        gc.freeze()

    async def stop(self) -> None:
        self._stops += 1
        llm, self._llm, loading, self._loading = self._llm, None, self._loading, None
        self._prompts = None  # The next engine must answer nothing before it has its own.
        if loading is None:
            return
        self._lost = True
        self._calls.end()
        gc.unfreeze()  # Otherwise, libraries that count their objects report leaks at the end of the process.
        if llm is None:
            # Loading cannot be cancelled. Without its processes it fails at once and does not delay our exit. It may be
            # about to start the next process, so the kill is repeated.
            while not loading.done():
                await self.kill()
                await asyncio.wait({loading}, timeout=0.2)
            with suppress(Exception):
                llm = loading.result()
        if llm is not None:
            await _shut_down(llm)
        await self._clean_up()

    async def kill(self) -> None:
        self._lost = True
        await asyncio.to_thread(self._reaper.look, os.getpid())
        await self._clean_up()
        self._calls.end()

    async def _clean_up(self) -> None:
        """Remove what the engine's end leaves: a killed worker's shared memory, or a hanging worker without a core."""
        if found := await asyncio.to_thread(self._reaper.clear):
            log(LOGGER, logging.WARNING, "cleaned up after the engine", found=found)

    async def inspect(self, checkpoint: Path, _manifest: Manifest, /) -> None:
        await inspect_in_subprocess(checkpoint)

    async def reload(self, checkpoint: Path, manifest: Manifest, /) -> None:
        """See `Engine.reload`. vLLM's version of the weights is the checkpoint's digest.

        After a failure the engine stays paused, because an engine that resumes with half-loaded weights dies. The next
        `reload` continues from there.
        """
        llm, prompts = self._loaded()
        try:
            await self._command(llm, _reload(llm, checkpoint, manifest))
            await self._command(llm, prompts.prepare(manifest))
        except EngineLost:
            raise
        except Exception as error:
            raise EngineFailed(f"vLLM did not load the weights: {type(error).__name__}: {error}") from error
        self._use(llm, prompts, manifest)

    async def expect(self, manifest: Manifest, /) -> None:
        if self._llm is not None and self._prompts is not None:
            await self._prompts.expect(manifest)

    async def log_probabilities(self, probe: Probe, /) -> list[float]:
        from vllm import SamplingParams

        _, prompts = self._loaded()
        sampling = SamplingParams(**probe_sampling_arguments())
        output = await self._request(prompts.probe(probe, self.checkpoint.digest), sampling, new_id("probe_"))
        return last_log_probabilities(output.prompt_token_ids, output.prompt_logprobs, len(probe.logprobs))

    async def generate(self, question: Question) -> Generated:
        checkpoint, spelling = self.checkpoint, self._spelling
        sampling = self._sampling[question.mode, question.locate]
        _, prompts = self._loaded()
        prompt = await prompts.question(question.mode, question.pictures, question.locate)
        answered = asyncio.Event()
        scoring = asyncio.create_task(score_while_answering(self._domain, self._picture_features, prompt, answered))
        try:
            final = await self._request(prompt, sampling, question.request_id)
            answered.set()
            scores = await scoring
        finally:
            scoring.cancel()
            await asyncio.gather(scoring, return_exceptions=True)
        completion = final.outputs[0]
        if completion.finish_reason not in FINISHED:
            raise EngineFailed(f"vLLM ended the request with {completion.finish_reason!r}.")
        if others := {span.version for span in completion.weight_versions or ()} - {checkpoint.digest}:
            raise EngineFailed(f"Other weights than {checkpoint.digest} wrote tokens: {sorted(map(str, others))}.")
        return Generated(
            text=spelling.text(completion.token_ids),
            steps=spelling.steps(completion.token_ids, completion.logprobs),
            prompt_tokens=len(final.prompt_token_ids or ()),
            completion_tokens=len(completion.token_ids),
            checkpoint=checkpoint,
            domain_scores=scores,
        )

    async def domain_scores(self, pictures: Sequence[Image.Image], /) -> tuple[float, ...] | None:
        from vllm import SamplingParams

        if self._domain is None:
            return None
        _, prompts = self._loaded()
        # An engine that has just answered a probe with these pictures has read them, under the names of vLLM.
        prompt = await prompts.question_by_vllm(Mode.COT, pictures)
        if (scores := await score_pictures(self._domain, self._picture_features, prompt)) is not None:
            return scores
        await self._request(prompt, SamplingParams(max_tokens=1, temperature=0.0), new_id("domain_"))
        return await score_pictures(self._domain, self._picture_features, prompt)

    async def _picture_features(self, names: list[str]) -> list[bytes | None]:
        llm, _ = self._loaded()
        # Each worker of a tensor-parallel engine runs the whole vision tower, so the first answer is complete.
        answers = await self._command(llm, llm.collective_rpc(PICTURE_FEATURES, args=(names,)))
        features: list[bytes | None] = answers[0]
        return features

    def _loaded(self) -> tuple[AsyncLLM, PromptRenderer]:
        if self._llm is None or self._prompts is None:
            raise EngineLost()
        return self._llm, self._prompts

    async def _request(self, prompt: Any, sampling: SamplingParams, request_id: str) -> RequestOutput:
        """Make one request and return its last output.

        Raises:
            EngineLost: the engine died.
            EngineFailed: this one request failed.
        """
        if (llm := self._llm) is None:
            raise EngineLost()
        try:
            # Cancelling this cancels the call, which aborts its request in the engine core.
            outputs = llm.generate(prompt, sampling, request_id, trace_headers=outgoing_headers())
            final = await self._calls.request(_last(outputs))
        except EngineLost:
            raise
        except Exception as error:
            # `alive` is false until `start` has ended, so it says nothing about a warm-up question.
            if llm.errored or self._llm is not llm:
                raise EngineLost() from error
            raise EngineFailed(f"vLLM failed the request: {type(error).__name__}: {error}") from error
        if final is None:
            raise EngineFailed("vLLM ended the request without an output.")
        return final

    async def _command(self, llm: AsyncLLM, call: Coroutine[Any, Any, Result]) -> Result:
        return await self._calls.command(call, died=lambda: llm.errored)

    def _load(self, checkpoint: Path, manifest: Manifest) -> AsyncLLM:
        """Import vLLM and load the checkpoint, in a thread: this takes from 15 s to minutes."""
        os.environ.update(QUIET_ENVIRONMENT)
        # vLLM's log lines then go through our root logger, as JSON.
        os.environ.setdefault("VLLM_CONFIGURE_LOGGING", "0")
        # A forked engine would inherit our listening socket, and the pipe by which `guard` sees this process die.
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform
        from vllm.v1.engine.async_llm import AsyncLLM

        device = self._device
        if device == "auto":
            device = "cpu" if current_platform.is_cpu() else "cuda"
        arguments = engine_arguments(
            checkpoint,
            manifest,
            device=device,
            cpu_worker=self._cpu_worker,
            cpu_dtype=self._cpu_dtype,
            draft_tokens=self._draft_tokens,
        )
        self._in_float32 = arguments.get("dtype") == "float32"
        arguments["max_num_seqs"] = self._max_concurrent
        # This cache takes up to 4 GiB in the engine core, for what `FastPrompt` computes in a millisecond.
        arguments["mm_processor_cache_gb"] = 0
        for name, value in cpu_environment().items() if device == "cpu" else ():
            os.environ.setdefault(name, value)
        self._computes_on = device if device == "cpu" else current_platform.get_device_name()
        if self._traces_endpoint is not None:
            arguments["otlp_traces_endpoint"] = self._traces_endpoint
            os.environ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] = "http/protobuf"  # vLLM's default is gRPC
        if device == "cuda":
            arguments["gpu_memory_utilization"] = self._gpu_memory_utilization
        log(LOGGER, logging.INFO, "loading", checkpoint=manifest.name, digest=manifest.digest, device=device)
        try:
            return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments), stat_loggers=[self._count_outputs()])
        except RuntimeError as error:
            if "Engine core initialization failed" not in str(error):
                raise
            # vLLM's processes wrote the cause to our standard error before they ended.
            raise EngineFailed("vLLM could not load the checkpoint. The log lines above this one say why.") from error

    def _count_outputs(self) -> Any:
        """A class of vLLM's statistics loggers: the only public hook that sees every step of every request."""
        from vllm.v1.metrics.loggers import StatLoggerBase

        engine = self

        class CountOutputs(StatLoggerBase):  # type: ignore[misc]  # mypy does not follow vllm
            def __init__(self, *_: object) -> None: ...

            def record(self, *_: object, **__: object) -> None:
                engine._outputs += 1

            def log_engine_initialized(self) -> None: ...

        return CountOutputs

    def _use(self, llm: AsyncLLM, prompts: PromptRenderer, manifest: Manifest) -> None:
        """Answer by this checkpoint from now on. It is loaded, and its prompts are prepared."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        tokenizer: Any = llm.get_tokenizer()
        tokens, self._spelling = watched(tokenizer), Spelling(tokenizer)
        self._domain = manifest.domain
        self._checkpoint = LoadedCheckpoint(
            name=manifest.name,
            version=manifest.version,
            digest=manifest.digest,
            image=manifest.image,
            calibration=manifest.calibration,
            watched=tokens,
            domain=manifest.domain.rule if manifest.domain else None,
            dimensions=manifest.dimensions,
            locates=manifest.prompt.locate is not None,
        )
        prompts.use(manifest)
        self._sampling = {}
        for mode, locate in manifest.prompt.forms:
            regex = answer_regex(manifest, mode, locate)
            self._sampling[mode, locate] = SamplingParams(
                **sampling_arguments(manifest, mode, tokens.ids, locate),
                output_kind=RequestOutputKind.FINAL_ONLY,
                structured_outputs=StructuredOutputsParams(regex=regex) if regex else None,
            )


async def _shut_down(llm: AsyncLLM) -> None:
    """End an engine so that it logs no error, and does nothing when it is deleted."""
    if llm.output_handler is not None:
        llm.output_handler.cancel()  # It would log an error when its connection closes.
    await asyncio.to_thread(llm.shutdown)
    # `AsyncLLM.__del__` calls it again. At the interpreter's end its module is empty, which prints a TypeError.
    llm.shutdown = lambda: None


async def _reload(llm: AsyncLLM, checkpoint: Path, manifest: Manifest) -> None:
    # These are the two parts of `pause_generation`, without the 20 ms that it sleeps for callers who still wait for
    # outputs. Here no request runs.
    await llm.renderer.clear_mm_cache_async()
    await llm.engine_core.pause_scheduler_async(mode="wait", clear_cache=True)
    await llm.collective_rpc("reload_weights", kwargs={"weights_path": str(checkpoint)})
    await llm.update_weight_version(manifest.digest)
    await llm.resume_generation()


def _is_death(error: Exception) -> bool:
    from vllm.v1.engine.exceptions import EngineDeadError

    return isinstance(error, EngineDeadError)


async def _last(outputs: AsyncIterator[RequestOutput]) -> RequestOutput | None:
    final = None
    async for output in outputs:
        final = output
    return final
