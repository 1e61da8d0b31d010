"""Calls to a dead engine end, also if vLLM itself does not end them. A fake replaces vLLM."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from screening.checkpoint.manifest import read_manifest
from screening.inference.generation import WATCH_DRAFTS
from service.engines.fast_preprocessing import NotPossible
from service.engines.prompt_rendering import PromptRenderer
from service.engines.vllm_engine import VllmEngine
from service.errors import EngineFailed, EngineLost
from tests.service.engine_ends import NoReaper
from tests.service.obedient_engine import make_checkpoint

pytestmark = pytest.mark.vllm  # for its class of errors


class SilentLLM:
    """Takes requests and never answers; notes those that were aborted.

    Like vLLM, it does not end the commands to its core when the core dies (`errored`).
    """

    def __init__(self, *, deaf_to: str | None = None) -> None:
        self.errored = False
        self.vllm_config = SimpleNamespace(speculative_config="some")
        self.deaf_to = deaf_to
        self.asked: list[str] = []
        self.aborted: list[str] = []
        self.was_shut_down = False

    async def generate(self, _prompt: object, _sampling: object, request_id: str, **_: object) -> AsyncIterator[None]:
        self.asked.append(request_id)
        try:
            await asyncio.Event().wait()
            yield
        except asyncio.CancelledError:
            self.aborted.append(request_id)
            raise

    @property
    def renderer(self) -> SilentLLM:
        return self

    @property
    def engine_core(self) -> SilentLLM:
        return self

    async def clear_mm_cache_async(self) -> None:
        return None

    async def pause_scheduler_async(self, **_: object) -> None:
        await self._told("pause")

    async def collective_rpc(self, method: str, **_: object) -> None:
        await self._told(method)

    async def update_weight_version(self, _version: str) -> None:
        await self._told("version")

    async def resume_generation(self) -> None:
        await self._told("resume")

    async def render_cmpl_async(self, *_: object, **__: object) -> list[object]:
        await self._told("render")
        return []

    def get_tokenizer(self) -> SimpleNamespace:
        return SimpleNamespace(apply_chat_template=lambda *_, **__: "the question")

    async def _told(self, what: str) -> None:
        self.asked.append(what)
        if what == self.deaf_to:
            await asyncio.Event().wait()

    output_handler = None

    def shutdown(self) -> None:
        self.was_shut_down = True


async def ask(engine: VllmEngine, llm: SilentLLM, name: str) -> asyncio.Task[object]:
    """A request that has reached the engine."""
    task = asyncio.create_task(engine._request({}, None, name))
    while name not in llm.asked:
        await asyncio.sleep(0)
    return task


async def until_asked(llm: SilentLLM, what: str) -> None:
    async with asyncio.timeout(10):
        while what not in llm.asked:
            await asyncio.sleep(0.005)


def loaded(llm: SilentLLM) -> VllmEngine:
    engine = VllmEngine()
    engine._llm, engine._reaper = llm, NoReaper()
    engine._prompts = PromptRenderer(llm, fast=True)
    engine._loading = asyncio.get_running_loop().create_future()
    return engine


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_requests_end_with_their_engine(end) -> None:
    async def run() -> None:
        llm = SilentLLM()
        engine = loaded(llm)
        tasks = [await ask(engine, llm, name) for name in ("one", "two")]
        await getattr(engine, end)()
        async with asyncio.timeout(5):
            found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(error) for error in found] == [EngineLost, EngineLost]
        assert llm.was_shut_down == (end == "stop")

    asyncio.run(run())


@pytest.mark.parametrize(("died", "raised"), [(False, EngineFailed), (True, EngineLost)])
def test_a_warm_up_question_that_fails_is_no_death_of_its_engine(died, raised) -> None:
    class Refusing(SilentLLM):
        async def generate(self, *_: object, **__: object) -> AsyncIterator[None]:
            raise ValueError("no such token")
            yield

    async def run() -> None:
        engine = loaded(SilentLLM())
        await engine.stop()
        assert not engine.alive, "until the start of the next engine has ended"
        engine._llm = llm = Refusing()
        llm.errored = died
        with pytest.raises(raised):
            await engine._request({}, None, "warm-up")

    asyncio.run(run())


def test_no_request_reaches_the_next_engine_before_its_prompts_are_ready() -> None:
    async def run() -> None:
        engine = loaded(SilentLLM())
        await engine.stop()
        engine._llm = SilentLLM()
        with pytest.raises(EngineLost):
            engine._loaded()

    asyncio.run(run())


def test_a_cancelled_request_is_aborted_and_reported() -> None:
    async def run() -> None:
        llm = SilentLLM()
        engine = loaded(llm)
        task, other = await ask(engine, llm, "one"), await ask(engine, llm, "two")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert llm.aborted == ["one"]
        assert not other.done()

    asyncio.run(run())


def test_a_deadline_stays_a_deadline() -> None:
    async def run() -> None:
        llm = SilentLLM()
        engine = loaded(llm)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await engine._request({}, None, "one")
        assert llm.aborted == ["one"]

    asyncio.run(run())


@pytest.mark.parametrize("end", ["dies", "stop", "kill"])
@pytest.mark.parametrize("call", ["pause", "reload_weights", "version", "resume", "render"])
def test_a_reload_ends_with_its_engine(call, end, tmp_path) -> None:
    checkpoint = make_checkpoint(tmp_path / "two", 2)

    async def run() -> None:
        llm = SilentLLM(deaf_to=call)
        engine = loaded(llm)
        reloading = asyncio.create_task(engine.reload(checkpoint, read_manifest(checkpoint)))
        await until_asked(llm, call)
        if end == "dies":
            llm.errored = True
        else:
            await getattr(engine, end)()
        async with asyncio.timeout(10):
            with pytest.raises(EngineLost):
                await reloading

    asyncio.run(run())


@pytest.mark.parametrize("call", [WATCH_DRAFTS, "version", "render"])
def test_a_start_ends_with_its_engine(call, tmp_path, monkeypatch) -> None:
    async def run() -> None:
        llm = SilentLLM(deaf_to=call)
        engine = VllmEngine()
        engine._reaper = NoReaper()
        monkeypatch.setattr(engine, "_load", lambda *_: llm)
        starting = asyncio.create_task(engine.start(make_checkpoint(tmp_path / "one", 1)))
        await until_asked(llm, call)
        llm.errored = True
        async with asyncio.timeout(10):
            with pytest.raises(EngineLost):
                await starting

    asyncio.run(run())


def test_an_engine_that_is_stopped_while_it_verifies_its_checkpoint_loads_nothing(tmp_path, monkeypatch) -> None:
    begun, stopped, loaded_from = threading.Event(), threading.Event(), []

    def slow(checkpoint: Path) -> Any:
        begun.set()
        stopped.wait(10)
        return read_manifest(checkpoint)

    async def run() -> None:
        engine = VllmEngine()
        monkeypatch.setattr("service.engines.vllm_engine.verify", slow)
        monkeypatch.setattr(engine, "_load", lambda checkpoint, _: loaded_from.append(checkpoint))
        starting = asyncio.create_task(engine.start(make_checkpoint(tmp_path / "one", 1)))
        await asyncio.to_thread(begun.wait, 10)
        await engine.stop()
        stopped.set()
        with pytest.raises(EngineLost):
            await starting
        assert loaded_from == [] and not engine.alive

    asyncio.run(run())


def test_a_failed_reload_is_reported_and_a_slow_one_times_out(tmp_path) -> None:
    checkpoint = make_checkpoint(tmp_path / "two", 2)

    async def fails(*_: object, **__: object) -> None:
        raise ValueError("no such tensor")

    async def run() -> None:
        llm: Any = SilentLLM(deaf_to="version")
        engine = loaded(llm)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await engine.reload(checkpoint, read_manifest(checkpoint))
        llm.collective_rpc = fails
        with pytest.raises(EngineFailed, match="no such tensor"):
            await engine.reload(checkpoint, read_manifest(checkpoint))

    asyncio.run(run())


def test_an_engine_that_is_stopped_while_it_loads_is_ended_and_not_kept(tmp_path, monkeypatch) -> None:
    begun, stopped, llm = threading.Event(), threading.Event(), SilentLLM()

    def load(_self: VllmEngine, _checkpoint: Path, _manifest: object) -> SilentLLM:
        begun.set()
        stopped.wait(10)
        return llm

    async def run() -> None:
        engine = VllmEngine()
        engine._reaper = NoReaper()
        starting = asyncio.create_task(engine.start(make_checkpoint(tmp_path / "one", 1)))
        await asyncio.to_thread(begun.wait, 10)
        stopping = asyncio.create_task(engine.stop())
        await asyncio.sleep(0)
        stopped.set()
        await stopping
        with pytest.raises(EngineLost):
            await starting
        assert llm.was_shut_down
        assert engine._llm is None and not engine.alive

    monkeypatch.setattr(VllmEngine, "_load", load)
    asyncio.run(run())


class Renderer:
    """Records its argument and returns it in a wrapper."""

    def __init__(self) -> None:
        self.cached = False

    async def render_cmpl_async(self, prompts: list[dict[str, str]], *, skip_mm_cache: bool) -> list[dict[str, str]]:
        self.cached |= not skip_mm_cache
        return [{"rendered": prompt["prompt"]} for prompt in prompts]


async def not_possible(*_: object) -> None:
    raise NotPossible("a stand-in")


def test_a_probe_that_was_expected_is_rendered_once_and_used_for_its_checkpoint_only(tmp_path, monkeypatch) -> None:
    make_checkpoint(tmp_path / "two", 2)
    two = read_manifest(tmp_path / "two")
    assert two.probes is not None
    (probe,) = two.probes.questions
    asked: list[object] = []

    async def run() -> None:
        renderer = Renderer()
        monkeypatch.setattr(SilentLLM, "renderer", renderer)
        monkeypatch.setattr("service.engines.prompt_rendering.FastPrompt.of", not_possible)
        monkeypatch.setattr(
            "service.engines.prompt_rendering.prompt_text", lambda _, prompt, mode, _locate: f"{prompt.version} {mode} "
        )
        prompts = PromptRenderer(SilentLLM(), fast=True)
        await prompts.expect(two)
        prompts.use(two)
        assert not renderer.cached, "the core has never been sent these pictures"
        asked.extend(prompts.probe(probe, digest) for digest in ("sha256:another", two.digest, two.digest))

    asyncio.run(run())
    assert asked[1] == {"rendered": f"{two.prompt.version} cot x"}
    assert all("prompt" in prompt for prompt in (asked[0], asked[2]))
