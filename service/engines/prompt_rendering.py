"""The inputs that a vLLM engine gets: the checkpoint's prompts with the pictures of a question or a probe."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from PIL import Image

from screening.answer import Mode
from screening.checkpoint.manifest import ImageContract, Manifest
from screening.checkpoint.probes import Probe, probe_pictures
from screening.inference.generation import prompt_text
from screening.prompt import Form
from service.engines.fast_preprocessing import FastPrompt
from service.errors import EngineFailed
from service.logs import log

LOGGER = logging.getLogger(__name__)

Rendered = dict[str, Any]
"""vLLM's `MultiModalInput`: token ids, the pictures' tensors, and the pictures' names in `mm_hashes`."""


class PromptRenderer:
    """Renders the prompts of one engine. An engine that starts needs a new renderer, because its own may differ."""

    def __init__(self, llm: Any, *, fast: bool) -> None:
        """
        Args:
            llm: vLLM's `AsyncLLM`.
            fast: whether `service.engines.fast_preprocessing` may be used.
        """
        self._llm = llm
        self._may_be_fast = fast
        self._texts: dict[Form, str] = {}
        self._image: ImageContract
        self._fast: dict[str, FastPrompt | None] = {}
        """Prompt text → its fast form, or None if vLLM must render it; of the loaded and the expected checkpoint."""
        self._expected: tuple[str, dict[Probe, Rendered]] = "", {}
        """Digest of the expected checkpoint, and its rendered probes that were not asked yet."""

    async def prepare(self, manifest: Manifest) -> None:
        """Prepare the fast forms of a checkpoint's prompts, if there are none yet."""
        for form, text in self._texts_of(manifest).items():
            if text not in self._fast:
                self._fast[text] = await self._fast_form(text, form, manifest.image)

    async def expect(self, manifest: Manifest) -> None:
        """Prepare the prompts of a checkpoint, and render its probes."""
        await self.prepare(manifest)
        if manifest.probes is None:
            return
        probes, texts, image = manifest.probes.questions, self._texts_of(manifest), manifest.image
        prompts = await asyncio.to_thread(
            lambda: [_probe_prompt(texts[probe.mode, False], probe, image) for probe in probes]
        )
        self._expected = manifest.digest, dict(zip(probes, await self._render(prompts), strict=True))

    def use(self, manifest: Manifest) -> None:
        """Render the prompts of this checkpoint from now on. It is loaded, and `prepare` was called with it."""
        self._texts, self._image = self._texts_of(manifest), manifest.image
        self._fast = {text: self._fast[text] for text in self._texts.values()}

    async def question(self, mode: Mode, pictures: Sequence[Image.Image], locate: bool = False) -> Rendered:
        """
        Args:
            locate: whether the model is to say where the issues are. Only for a checkpoint that can.

        Raises:
            EngineFailed: the pictures do not have the checkpoint's size.
        """
        text = self._texts[mode, locate]
        try:
            if (fast := self._fast[text]) is not None:
                return await asyncio.to_thread(fast, pictures)
            return await self.question_by_vllm(mode, pictures, locate)
        except ValueError as error:
            raise EngineFailed(f"The engine does not accept these pictures: {error}") from error

    async def question_by_vllm(self, mode: Mode, pictures: Sequence[Image.Image], locate: bool = False) -> Rendered:
        """As `question`, by vLLM itself, which gives a picture the same name in a question and in a probe."""
        (rendered,) = await self._render([_prompt(self._texts[mode, locate], pictures)])
        return rendered

    def probe(self, probe: Probe, digest: str) -> Rendered:
        """Return a probe's input: rendered if `expect` was told of this checkpoint, otherwise for vLLM to render.

        A rendered probe is used once.

        Args:
            digest: of the loaded checkpoint, to which the probe belongs.
        """
        expected, rendered = self._expected
        # Another checkpoint may have the same probes and another prompt.
        prompt = rendered.pop(probe, None) if expected == digest else None
        return prompt or _probe_prompt(self._texts[probe.mode, False], probe, self._image)

    def _texts_of(self, manifest: Manifest) -> dict[Form, str]:
        tokenizer = self._llm.get_tokenizer()
        return {form: prompt_text(tokenizer, manifest.prompt, *form) for form in manifest.prompt.forms}

    async def _fast_form(self, text: str, form: Form, image: ImageContract) -> FastPrompt | None:
        # The trial of the fast form has pictures of one tile, and cannot show that several tiles are right.
        if not self._may_be_fast or image.max_patches > 1:
            return None

        async def render(pictures: Sequence[Image.Image]) -> Rendered:
            (rendered,) = await self._render([_prompt(text, pictures)])
            return rendered

        asked = {"mode": form[0], "locate": form[1]}
        try:
            prompt = await FastPrompt.of(render, image.size)
        except Exception as error:  # noqa: BLE001 - whatever a processor returns; the fast form only saves time
            log(LOGGER, logging.INFO, "fast preprocessing not possible", **asked, because=repr(error))
            return None
        log(LOGGER, logging.INFO, "fast preprocessing ready", **asked)
        return prompt

    async def _render(self, prompts: Sequence[Rendered]) -> list[Rendered]:
        # Without vLLM's cache, also if vLLM has one: it would leave out pictures that the engine core was sent before.
        rendered = await self._llm.renderer.render_cmpl_async(prompts, skip_mm_cache=True)
        return [dict(one) for one in rendered]


def _prompt(text: str, pictures: Sequence[Image.Image]) -> Rendered:
    return {"prompt": text, "multi_modal_data": {"image": list(pictures)}}


def _probe_prompt(text: str, probe: Probe, image: ImageContract) -> Rendered:
    return _prompt(text + probe.answer, probe_pictures(probe.seed, image.size, image.max_patches))
