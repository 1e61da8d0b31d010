"""The model itself: vLLM's AsyncLLM inside this process. The only module that imports vllm."""

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
from screening.checkpoint.domain import Domain, DomainError
from screening.checkpoint.manifest import Manifest, verify
from screening.checkpoint.probes import Probe, probe_pictures
from screening.errors import CheckpointError
from screening.images import PADDING
from screening.inference.generation import (
    FINISHED,
    PICTURE_FEATURES,
    QUIET_ENVIRONMENT,
    WATCH_DRAFTS,
    WATCH_PICTURES,
    CpuWorker,
    Spelling,
    answer_regex,
    cpu_environment,
    engine_arguments,
    last_log_probabilities,
    probe_sampling_arguments,
    prompt_text,
    sampling_arguments,
    watched,
)
from screening.inference.picture_features import read_features
from screening.prompt import PICTURES_PER_SAMPLE
from screening.runtime.machine import machine_name
from screening.runtime.process_reaper import ProcessReaper
from service.engines.checkpoint_inspection import inspect_apart
from service.engines.fast_preprocessing import RenderedPrompt
from service.engines.protocol import Contract, Generated, Question
from service.errors import EngineFailed, EngineLost
from service.ids import new_id
from service.logs import log

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM

LOGGER = logging.getLogger("service.engines.vllm_engine")

_LOOK_SECONDS = 0.25
"""Between two looks at a core that was told to do something."""

Result = TypeVar("Result")


class VllmEngine:
    """One checkpoint in one AsyncLLM. Its core is a process of its own, a worker may be another: both may die."""

    def __init__(
        self,
        *,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        max_concurrent: int = 16,
        gpu_memory_utilization: float = 0.85,
        cpu_worker: CpuWorker = "inside",
        draft_tokens: int | None = None,
    ) -> None:
        self._device = device
        self._max_concurrent = max_concurrent
        self._gpu_memory_utilization = gpu_memory_utilization
        self._cpu_worker = cpu_worker
        self._draft_tokens = draft_tokens
        self._computes_on = "cpu"
        """The accelerator's name, once something is loaded."""
        self._llm: AsyncLLM | None = None
        self._loading: asyncio.Future[AsyncLLM] | None = None
        self._lost = False
        """Nothing is loaded any more: stopped, killed, or the last start failed."""
        self._stops = 0
        """How often it was told to stop."""
        self._remains = ProcessReaper()
        self._asked: set[asyncio.Task[Any]] = set()
        """Requests in vLLM, and what its core was told to do."""
        self._outputs = 0
        self._contract: Contract | None = None
        self._expected: tuple[str, dict[Probe, Any]] = "", {}
        """Digest of the checkpoint that `expect` was told of, and what was made of its probes, until each is asked."""
        self._spelling: Spelling
        """Of what is loaded, as the rest from here on."""
        self._prompts: dict[Mode, str] = {}
        self._rendered: dict[str, RenderedPrompt | None] = {}
        """Of each prompt, and of those of a checkpoint that is expected; None where there is no short way."""
        self._sampling: dict[Mode, SamplingParams] = {}
        self._domain: Domain | None = None

    @property
    def name(self) -> str:
        return "vllm"

    @property
    def loads_checkpoints(self) -> bool:
        return True

    @property
    def machine(self) -> str:
        return machine_name(self._computes_on)

    @property
    def contract(self) -> Contract:
        if self._contract is None:
            raise RuntimeError("the engine has not started")
        return self._contract

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
            CheckpointError: the directory is not what its manifest describes.
            EngineLost: it was stopped meanwhile.
        """
        if checkpoint is None:
            raise CheckpointError("vLLM needs a checkpoint")
        try:
            await self._start(checkpoint)
        except Exception:
            self._lost = True
            raise
        self._lost = False

    async def _start(self, checkpoint: Path) -> None:
        loop, stops = asyncio.get_running_loop(), self._stops
        manifest = await loop.run_in_executor(None, verify, checkpoint)
        if self._stops != stops:  # `stop` found nothing to end, and has returned
            raise EngineLost()
        self._loading = loop.run_in_executor(None, self._load, checkpoint, manifest)
        llm = await asyncio.shield(self._loading)
        if self._stops != stops:  # what was loaded all the same, it ends
            raise EngineLost()
        self._llm = llm
        await asyncio.to_thread(self._remains.look, os.getpid())
        if llm.vllm_config.speculative_config is not None:
            await self._tell(llm, llm.collective_rpc(WATCH_DRAFTS))
        await self._tell(llm, llm.collective_rpc(WATCH_PICTURES))
        await self._tell(llm, llm.update_weight_version(manifest.digest))
        self._rendered = {}  # those of an engine before it may differ
        await self._tell(llm, self._render(llm, manifest))
        self._prepare(llm, manifest)
        grey = Image.new("RGB", (manifest.image.size, manifest.image.size), PADDING)
        for mode in Mode:
            # Ready means that it has answered, not that it has loaded.
            await self.generate(Question(f"warm-up-{mode}", mode, (grey,) * PICTURES_PER_SAMPLE))
        # What stays from here on, 600,000 objects, is looked through no more: each time would stop everybody for 0.3 s.
        gc.unfreeze()
        gc.collect()  # what an engine before it left
        gc.freeze()

    async def stop(self) -> None:
        self._stops += 1
        llm, self._llm, loading, self._loading = self._llm, None, self._loading, None
        if loading is None:
            return
        self._lost = True
        self._give_up()
        gc.unfreeze()  # or libraries with their own counts complain of leaks when the process ends
        if llm is None:
            # Loading cannot be cancelled; without its processes it fails at once instead of holding up our exit. Again
            # and again, because it may be about to start the next one.
            while not loading.done():
                await self.kill()
                await asyncio.wait({loading}, timeout=0.2)
            with suppress(Exception):
                llm = loading.result()
        if llm is not None:
            await _end(llm)
        await self._clear()

    async def kill(self) -> None:
        self._lost = True
        await asyncio.to_thread(self._remains.look, os.getpid())
        await self._clear()
        self._give_up()

    def _give_up(self) -> None:
        """End what is asked of an engine that is gone.

        vLLM does so itself when it hears of the end; but an engine that is shut down before that leaves its requests
        waiting for ever, each with a slot.
        """
        for task in self._asked:
            task.cancel()

    async def _clear(self) -> None:
        """A killed worker leaves its shared memory, and a worker that hangs survives its core."""
        if found := await asyncio.to_thread(self._remains.clear):
            log(LOGGER, logging.WARNING, "cleared up after the engine", found=found)

    async def inspect(self, checkpoint: Path, _manifest: Manifest, /) -> None:
        await inspect_apart(checkpoint)

    async def reload(self, checkpoint: Path, manifest: Manifest, /) -> None:
        """See `Engine.reload`. The weights' version in the engine is the checkpoint's digest.

        After a failure the engine stays paused: an engine that resumes on half-loaded weights dies. The next `reload`
        goes on from there.
        """
        if (llm := self._llm) is None:
            raise EngineLost()
        try:
            await self._tell(llm, _reload(llm, checkpoint, manifest))
            await self._tell(llm, self._render(llm, manifest))
        except EngineLost:
            raise
        except Exception as error:
            raise EngineFailed(f"vLLM did not take the weights: {type(error).__name__}: {error}") from error
        self._prepare(llm, manifest)

    async def expect(self, manifest: Manifest, /) -> None:
        if (llm := self._llm) is None:
            return
        await self._render(llm, manifest)
        if manifest.probes is None:
            return
        probes, size = manifest.probes.questions, manifest.image.size
        texts = {mode: prompt_text(llm.get_tokenizer(), manifest.prompt, mode) for mode in Mode}
        prompts = await asyncio.to_thread(lambda: [_probe_prompt(texts[probe.mode], probe, size) for probe in probes])
        rendered = await _rendered_by(llm, prompts)
        self._expected = manifest.digest, dict(zip(probes, rendered, strict=True))

    async def log_probabilities(self, probe: Probe, /) -> list[float]:
        from vllm import SamplingParams

        expected, rendered = self._expected
        # Another checkpoint may have the same probes, and another prompt.
        prompt = rendered.pop(probe, None) if expected == self.contract.digest else None
        if prompt is None:
            prompt = _probe_prompt(self._prompts[probe.mode], probe, self.contract.image_size)
        sampling = SamplingParams(**probe_sampling_arguments())
        output = await self._run(prompt, sampling, new_id("probe_"))
        return last_log_probabilities(output.prompt_token_ids, output.prompt_logprobs, len(probe.logprobs))

    async def generate(self, question: Question) -> Generated:
        contract, spelling, sampling = self.contract, self._spelling, self._sampling[question.mode]
        prompt = await self._render_question(self._prompts[question.mode], question.pictures)
        answered = asyncio.Event()
        scoring = asyncio.create_task(self._score(prompt, answered))
        try:
            final = await self._run(prompt, sampling, question.request_id)
            answered.set()
            scores = await scoring
        finally:
            scoring.cancel()
            await asyncio.gather(scoring, return_exceptions=True)
        completion = final.outputs[0]
        if completion.finish_reason not in FINISHED:
            raise EngineFailed(f"vLLM ended the request with {completion.finish_reason!r}")
        if strange := {span.version for span in completion.weight_versions or ()} - {contract.digest}:
            raise EngineFailed(f"tokens of other weights than {contract.digest}: {sorted(map(str, strange))}")
        return Generated(
            text=spelling.text(completion.token_ids),
            steps=spelling.steps(completion.token_ids, completion.logprobs),
            prompt_tokens=len(final.prompt_token_ids or ()),
            completion_tokens=len(completion.token_ids),
            contract=contract,
            domain_scores=scores,
        )

    async def domain_scores(self, pictures: Sequence[Image.Image], /) -> tuple[float, ...] | None:
        from vllm import SamplingParams

        if self._domain is None:
            return None
        if (llm := self._llm) is None:
            raise EngineLost()
        # Rendered by vLLM, which then gives the pictures the names that they have in a probe of the weights: where the
        # engine has just been asked that, it has seen them.
        (prompt,) = await _rendered_by(llm, [_prompt(self._prompts[Mode.COT], pictures)])
        if (scores := await self._domain_scores(prompt)) is not None:
            return scores
        await self._run(prompt, SamplingParams(max_tokens=1, temperature=0.0), new_id("domain_"))
        return await self._domain_scores(prompt)

    async def _score(self, prompt: dict[str, Any], answered: asyncio.Event) -> tuple[float, ...] | None:
        """The scores of a prompt's pictures, as soon as the engine has read them.

        The engine answers such a call between two steps, so that each turn here takes a step, as a rule two in all.
        Asking only after the answer would add a step to every request.

        Args:
            answered: set when the engine has answered the prompt, and so must have read the pictures.
        """
        while True:
            last = answered.is_set()
            scores = await self._domain_scores(prompt)
            if scores is not None or last or self._domain is None:
                return scores

    async def _domain_scores(self, prompt: dict[str, Any]) -> tuple[float, ...] | None:
        """Scores of the pictures of a prompt that the engine has just read.

        Returns:
            None where the checkpoint has no domain, or the worker no longer remembers one of the pictures.

        Raises:
            EngineLost: the engine died.
            EngineFailed: the features do not fit the checkpoint's domain, or are not finite.
        """
        if (domain := self._domain) is None:
            return None
        if (llm := self._llm) is None:
            raise EngineLost()
        names = list(prompt["mm_hashes"]["image"])
        # Every worker of a tensor-parallel engine runs the whole vision tower: the first one's answer is all there is.
        answers = await self._tell(llm, llm.collective_rpc(PICTURE_FEATURES, args=(names,)))
        features = [read_features(data) for data in answers[0]]
        known = [each for each in features if each is not None]
        if len(known) < len(names):
            return None
        try:
            return domain.scores(known)
        except DomainError as error:
            raise EngineFailed(f"the out-of-domain score cannot be computed: {error}") from error

    async def _render_question(self, text: str, pictures: Sequence[Image.Image]) -> dict[str, Any]:
        """The input of vLLM's engine; the names of the pictures are in its `mm_hashes`.

        Raises:
            EngineFailed: the pictures are not such as this engine takes.
            EngineLost: nothing is loaded.
        """
        if (llm := self._llm) is None:
            raise EngineLost()
        try:
            if (rendered := self._rendered.get(text)) is not None:
                return await asyncio.to_thread(rendered, pictures)
            return (await _rendered_by(llm, [_prompt(text, pictures)]))[0]
        except ValueError as error:
            raise EngineFailed(f"not the pictures that this engine takes: {error}") from error

    async def _run(self, prompt: Any, sampling: SamplingParams, request_id: str) -> RequestOutput:
        """One request to its end.

        Args:
            prompt: text and pictures, or what vLLM's renderer made of them.

        Raises:
            EngineLost: the engine died.
            EngineFailed: this one request failed.
        """
        if self._llm is None:
            raise EngineLost()
        try:
            # When we are cancelled the task is too, and aborts its request in the engine core.
            final = await _result_of(self._ask(_last(self._llm.generate(prompt, sampling, request_id))))
        except EngineLost:
            raise
        except Exception as error:
            if not self.alive:
                raise EngineLost() from error
            raise EngineFailed(f"vLLM failed the request: {type(error).__name__}: {error}") from error
        if final is None:
            raise EngineFailed("vLLM ended the request without output")
        return final

    async def _tell(self, llm: AsyncLLM, call: Coroutine[Any, Any, Result]) -> Result:
        """Have the engine core do something else than answer.

        When the core dies, vLLM ends the requests that wait for it, and leaves such a call waiting for ever
        (`AsyncMPClient._call_utility_async`); so whether it lives is looked at here.

        Raises:
            EngineLost: the engine died, or was stopped or killed.
        """
        task = self._ask(call)
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=_LOOK_SECONDS)
                if llm.errored:
                    task.cancel()
        finally:
            task.cancel()
        return await _result_of(task)

    def _ask(self, call: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """A task of its own, so that `_give_up` can end it."""
        task = asyncio.create_task(call)
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)
        return task

    def _load(self, checkpoint: Path, manifest: Manifest) -> AsyncLLM:
        """Runs in a thread: imports and loading take from 15 s to minutes."""
        os.environ.update(QUIET_ENVIRONMENT)
        # Its lines then go through our root logger, as JSON.
        os.environ.setdefault("VLLM_CONFIGURE_LOGGING", "0")
        # A forked engine would hold our listening socket, and the pipe by which `remains.guard` sees us die.
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform
        from vllm.v1.engine.async_llm import AsyncLLM

        device = self._device
        if device == "auto":
            device = "cpu" if current_platform.is_cpu() else "cuda"
        arguments = engine_arguments(
            checkpoint, manifest, device=device, cpu_worker=self._cpu_worker, draft_tokens=self._draft_tokens
        )
        arguments["max_num_seqs"] = self._max_concurrent
        # Up to 4 GiB in the core, of what `RenderedPrompt` makes anew in a millisecond.
        arguments["mm_processor_cache_gb"] = 0
        for name, value in cpu_environment().items() if device == "cpu" else ():
            os.environ.setdefault(name, value)
        self._computes_on = device if device == "cpu" else current_platform.get_device_name()
        if device == "cuda":
            arguments["gpu_memory_utilization"] = self._gpu_memory_utilization
        log(LOGGER, logging.INFO, "loading", checkpoint=manifest.name, digest=manifest.digest, device=device)
        try:
            return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments), stat_loggers=[self._count_outputs()])
        except RuntimeError as error:
            if "Engine core initialization failed" not in str(error):
                raise
            # Its processes wrote the cause to our standard error and died; all that is left here is that they did.
            raise EngineFailed("vLLM could not load the checkpoint; the log says why, above this") from error

    def _count_outputs(self) -> Any:
        """A logger of vLLM's statistics: the one public place that hears of every step, also of unfinished requests."""
        from vllm.v1.metrics.loggers import StatLoggerBase

        engine = self

        class CountOutputs(StatLoggerBase):  # type: ignore[misc]  # vllm is not followed by mypy
            def __init__(self, *_: object) -> None: ...

            def record(self, *_: object, **__: object) -> None:
                engine._outputs += 1

            def log_engine_initialized(self) -> None: ...

        return CountOutputs

    async def _render(self, llm: AsyncLLM, manifest: Manifest) -> None:
        """Make ready the prompts of a checkpoint, where they are not yet."""
        known = self._rendered  # of this engine, also if another one takes its place meanwhile
        for mode in Mode:
            text = prompt_text(llm.get_tokenizer(), manifest.prompt, mode)
            if text in known:
                continue

            async def render(pictures: Sequence[Image.Image], text: str = text) -> dict[str, Any]:
                (rendered,) = await _rendered_by(llm, [_prompt(text, pictures)])
                return rendered

            try:
                known[text] = await RenderedPrompt.of(render, manifest.image.size)
                log(LOGGER, logging.INFO, "pictures are looked up", mode=mode)
            except Exception as error:  # noqa: BLE001 - whatever a processor gives; it only saves time
                known[text] = None
                log(LOGGER, logging.INFO, "pictures go through vLLM's processor", mode=mode, because=repr(error))

    def _prepare(self, llm: AsyncLLM, manifest: Manifest) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        tokenizer: Any = llm.get_tokenizer()
        tokens, self._spelling = watched(tokenizer), Spelling(tokenizer)
        self._domain = manifest.domain
        self._contract = Contract(
            name=manifest.name,
            version=manifest.version,
            digest=manifest.digest,
            image_size=manifest.image.size,
            calibration=manifest.calibration,
            watched=tokens,
            domain=manifest.domain.rule if manifest.domain else None,
            dimensions=manifest.dimensions,
        )
        for mode in Mode:
            self._prompts[mode] = prompt_text(tokenizer, manifest.prompt, mode)
            regex = answer_regex(manifest, mode)
            self._sampling[mode] = SamplingParams(
                **sampling_arguments(manifest, mode, tokens.ids),
                output_kind=RequestOutputKind.FINAL_ONLY,
                structured_outputs=StructuredOutputsParams(regex=regex) if regex else None,
            )
        self._rendered = {text: self._rendered[text] for text in self._prompts.values()}


async def _end(llm: AsyncLLM) -> None:
    """End an engine for good, so that it neither logs an error nor does anything when it is deleted."""
    if llm.output_handler is not None:
        llm.output_handler.cancel()  # or it logs an error when its connection is closed
    await asyncio.to_thread(llm.shutdown)
    # `AsyncLLM.__del__` calls it again. At the interpreter's end its module is empty by then, which prints a TypeError.
    llm.shutdown = lambda: None


async def _reload(llm: AsyncLLM, checkpoint: Path, manifest: Manifest) -> None:
    # What `pause_generation` does, without the 20 ms that it sleeps at its end, for callers who still wait for outputs:
    # here nothing runs.
    await llm.renderer.clear_mm_cache_async()
    await llm.engine_core.pause_scheduler_async(mode="wait", clear_cache=True)
    await llm.collective_rpc("reload_weights", kwargs={"weights_path": str(checkpoint)})
    await llm.update_weight_version(manifest.digest)
    await llm.resume_generation()


async def _rendered_by(llm: AsyncLLM, prompts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    # Not through a cache, also where vLLM is given one: it would leave out pictures that the core was sent before.
    return [dict(rendered) for rendered in await llm.renderer.render_cmpl_async(prompts, skip_mm_cache=True)]


def _prompt(text: str, pictures: Sequence[Image.Image]) -> dict[str, Any]:
    return {"prompt": text, "multi_modal_data": {"image": list(pictures)}}


def _probe_prompt(text: str, probe: Probe, image_size: int) -> dict[str, Any]:
    return _prompt(text + probe.answer, probe_pictures(probe.seed, image_size))


async def _result_of(task: asyncio.Task[Result]) -> Result:
    """What the engine was asked for.

    Raises:
        EngineLost: it died, or the task was ended with it.
        Exception: whatever vLLM raised.
    """
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        return await task
    except asyncio.CancelledError:
        ours = asyncio.current_task()
        if ours is not None and ours.cancelling():
            raise
        raise EngineLost() from None
    except EngineDeadError as error:
        raise EngineLost() from error


async def _last(outputs: AsyncIterator[RequestOutput]) -> RequestOutput | None:
    final = None
    async for output in outputs:
        final = output
    return final
