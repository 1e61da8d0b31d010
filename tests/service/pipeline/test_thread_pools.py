"""Large pictures and bodies do not hold up small ones."""

from __future__ import annotations

import asyncio
import io
import threading

import pytest
from PIL import Image

from screening.images import Picture
from service.pipeline import screen
from service.pipeline.thread_pools import ThreadPools
from service.request import request_body

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


def large_picture(number: int) -> bytes:
    """A PNG of more pixels than decoders take for small."""
    out = io.BytesIO()
    Image.new("L", (2_500, 2_000), number).save(out, "PNG")
    return out.getvalue()


async def test_a_small_request_is_answered_while_large_pictures_hold_their_threads(start, sample, monkeypatch) -> None:
    release, prepare = threading.Event(), screen._prepare
    large: list[int] = []

    def held(index, picture, image):
        if picture.pixels > screen.LARGE_PICTURE_PIXELS:
            large.append(index)
            assert release.wait(60)
        return prepare(index, picture, image)

    monkeypatch.setattr(screen, "_prepare", held)
    huge = type(sample)(tuple(large_picture(number) for number in range(5)))
    async with start(decode_threads=1) as running:
        first = asyncio.create_task(running.client.post("/screen", json=huge.json()))
        try:
            async with asyncio.timeout(60):
                while not large:
                    await asyncio.sleep(0.001)
            assert (await running.client.post("/screen", json=sample.json())).status_code == 200
            assert not first.done() and large == [0]
        finally:
            release.set()
        assert (await first).status_code == 200
    assert large == [0, 1, 2, 3, 4]


async def test_a_small_body_is_parsed_while_a_large_one_holds_its_thread(start, sample, monkeypatch) -> None:
    release, began, parse = threading.Event(), threading.Event(), request_body.parse

    def held(body, *rest):
        if len(body) > screen.LARGE_BODY_BYTES:
            began.set()
            assert release.wait(60)
        return parse(body, *rest)

    monkeypatch.setattr(request_body, "parse", held)
    huge = sample.json()
    huge["original"] = " " * (screen.LARGE_BODY_BYTES + 1) + huge["original"]
    async with start() as running:
        first = asyncio.create_task(running.client.post("/screen", json=huge))
        try:
            assert await asyncio.to_thread(began.wait, 60)
            assert (await running.client.post("/screen", json=sample.json())).status_code == 200
            assert not first.done()
        finally:
            release.set()
        assert (await first).status_code == 200


async def test_parsing_and_decoding_do_not_share_threads(start, sample, monkeypatch) -> None:
    threads: dict[str, set[str]] = {"parse": set(), "decode": set()}
    prepare, parse = screen._prepare, request_body.parse

    def parsing(*arguments):
        threads["parse"].add(threading.current_thread().name)
        return parse(*arguments)

    def decoding(*arguments):
        threads["decode"].add(threading.current_thread().name)
        return prepare(*arguments)

    monkeypatch.setattr(request_body, "parse", parsing)
    monkeypatch.setattr(screen, "_prepare", decoding)
    async with start() as running:
        assert (await running.client.post("/screen", json=sample.json())).status_code == 200
    assert threads["parse"] and threads["decode"] and not threads["parse"] & threads["decode"]


@pytest.mark.parametrize(
    ("width", "scans", "large"),
    [(1_000, 1, False), (2_000, 10, False), (2_001, 1, True), (1_000, 40, False), (1_000, 41, True)],
)
async def test_pixels_and_scans_make_a_picture_large(width, scans, large) -> None:
    assert screen._is_large(Picture(b"", "JPEG", width, width, scans)) is large


async def test_only_so_many_large_tasks_run_at_a_time() -> None:
    pools, release, lock = ThreadPools("test", 2), threading.Event(), threading.Lock()
    running, most = 0, 0

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        assert release.wait(60)
        with lock:
            running -= 1

    jobs = [pools.run(work, large=True) for _ in range(6)]
    await asyncio.wait_for(pools.run(lambda: None, large=False), 60)
    release.set()
    await asyncio.gather(*jobs)
    pools.close()
    assert most == 2
