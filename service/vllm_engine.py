"""The model itself: vLLM's AsyncLLM inside this process. The only module that imports vllm."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image

from screening.answer import Mode
from screening.checkpoint import Manifest, verify
from screening.generation import (
    FINISHED,
    QUIET_ENVIRONMENT,
    answer_regex,
    engine_arguments,
    prompt_text,
    sampling_arguments,
    steps_of,
    watched,
)
from screening.images import PADDING
from screening.prompt import PICTURES_PER_SAMPLE
from service.engine import Contract, Generated, Question
from service.errors import EngineFailed, EngineLost
from service.logs import log

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM

LOGGER = logging.getLogger("service.vllm_engine")


class VllmEngine:
    """One checkpoint in one AsyncLLM. Its core and worker are processes of their own, and may die apart from us."""

    def __init__(
        self,
        checkpoint: Path,
        *,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        max_concurrent: int = 16,
        gpu_memory_utilization: float = 0.85,
    ) -> None:
        self._checkpoint = checkpoint
        self._device = device
        self._max_concurrent = max_concurrent
        self._gpu_memory_utilization = gpu_memory_utilization
        self._llm: AsyncLLM | None = None
        self._loading: asyncio.Future[AsyncLLM] | None = None
        self._contract: Contract | None = None
        self._prompts: dict[Mode, str] = {}
        self._sampling: dict[Mode, SamplingParams] = {}

    @property
    def name(self) -> str:
        return "vllm"

    @property
    def contract(self) -> Contract:
        if self._contract is None:
            raise RuntimeError("the engine has not started")
        return self._contract

    @property
    def alive(self) -> bool:
        return self._llm is None or not self._llm.errored

    def running(self) -> int:
        return self._llm.get_num_unfinished_requests() if self._llm is not None else 0

    async def start(self) -> None:
        """Verify the checkpoint, load it, and ask it one question of each mode.

        Raises:
            CheckpointError: the directory is not what its manifest describes.
        """
        loop = asyncio.get_running_loop()
        manifest = await loop.run_in_executor(None, verify, self._checkpoint)
        self._loading = loop.run_in_executor(None, self._load, manifest)
        self._llm = await asyncio.shield(self._loading)
        self._prepare(self._llm, manifest)
        grey = Image.new("RGB", (manifest.image.size, manifest.image.size), PADDING)
        for mode in Mode:
            # Ready means that it has answered, not that it has loaded.
            await self.generate(Question(f"warm-up-{mode}", mode, (grey,) * PICTURES_PER_SAMPLE))

    async def stop(self) -> None:
        if self._llm is None and self._loading is not None:
            # Loading cannot be cancelled; without its processes it fails at once instead of holding up our exit. Again
            # and again, because it may be about to start the next one.
            while not self._loading.done():
                for child in multiprocessing.active_children():
                    child.terminate()
                await asyncio.wait({self._loading}, timeout=0.2)
            with suppress(Exception):
                self._llm = self._loading.result()
        if self._llm is not None:
            llm, self._llm = self._llm, None
            await asyncio.get_running_loop().run_in_executor(None, llm.shutdown)

    async def generate(self, question: Question) -> Generated:
        from vllm.v1.engine.exceptions import EngineDeadError

        if self._llm is None:
            raise EngineLost()
        prompt: Any = {
            "prompt": self._prompts[question.mode],
            "multi_modal_data": {"image": list(question.pictures)},
        }
        final = None
        try:
            # A cancelled `generate` aborts its request in the engine core.
            async for output in self._llm.generate(prompt, self._sampling[question.mode], question.request_id):
                final = output
        except EngineDeadError as error:
            raise EngineLost() from error
        except Exception as error:
            if not self.alive:
                raise EngineLost() from error
            raise EngineFailed(f"vLLM failed the request: {type(error).__name__}: {error}") from error
        if final is None or final.outputs[0].finish_reason not in FINISHED:
            reason = final.outputs[0].finish_reason if final is not None else "no output"
            raise EngineFailed(f"vLLM ended the request with {reason!r}")
        completion = final.outputs[0]
        return Generated(
            text=completion.text,
            steps=steps_of(completion.token_ids, completion.logprobs),
            prompt_tokens=len(final.prompt_token_ids or ()),
            completion_tokens=len(completion.token_ids),
            contract=self.contract,
        )

    def _load(self, manifest: Manifest) -> AsyncLLM:
        """Runs in a thread: imports and loading take from 15 s to minutes."""
        os.environ.update(QUIET_ENVIRONMENT)
        # Its lines then go through our root logger, as JSON.
        os.environ.setdefault("VLLM_CONFIGURE_LOGGING", "0")
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform
        from vllm.v1.engine.async_llm import AsyncLLM

        device = self._device
        if device == "auto":
            device = "cpu" if current_platform.is_cpu() else "cuda"
        arguments = engine_arguments(self._checkpoint, manifest, device=device)
        arguments["max_num_seqs"] = self._max_concurrent
        if device == "cuda":
            arguments["gpu_memory_utilization"] = self._gpu_memory_utilization
        log(LOGGER, logging.INFO, "loading", checkpoint=manifest.name, digest=manifest.digest, device=device)
        return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))

    def _prepare(self, llm: AsyncLLM, manifest: Manifest) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        tokenizer: Any = llm.get_tokenizer()
        tokens = watched(tokenizer)
        self._contract = Contract(
            manifest.name, manifest.version, manifest.digest, manifest.image.size, manifest.calibration, tokens
        )
        for mode in Mode:
            self._prompts[mode] = prompt_text(tokenizer, manifest.prompt, mode)
            regex = answer_regex(manifest, mode)
            self._sampling[mode] = SamplingParams(
                **sampling_arguments(manifest, mode, tokens.ids),
                output_kind=RequestOutputKind.FINAL_ONLY,
                structured_outputs=StructuredOutputsParams(regex=regex) if regex else None,
            )
