"""A browser for the tests of each file. Its pages must show no error and no violation of the security policy."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.service.review_page.fake_review import FakeReview, served

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_QUIET = ("net::ERR_INTERNET_DISCONNECTED", "net::ERR_FAILED", "the server responded with a status of 4")
"""Parts of the browser's own messages about requests that a test makes fail."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, driven by Playwright, whose event loop must end before the tests of another file begin."""
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: install Debian's package chromium")
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield started
        started.close()


@pytest.fixture
def serve() -> Iterator[Callable[[FakeReview], FakeReview]]:
    """Serve a stand-in for the service until the test has ended."""
    with ExitStack() as stack:
        yield lambda review: stack.enter_context(served(review))


@pytest.fixture
def review(serve: Callable[[FakeReview], FakeReview]) -> FakeReview:
    """The stand-in for the service, with five tasks."""
    return serve(FakeReview())


@pytest.fixture
def open_page(browser: Any, serve: Callable[[FakeReview], FakeReview]) -> Iterator[Callable[..., Any]]:
    """Open an address in a new context: `open_page(url, viewport=…, color_scheme="dark")`.

    Its pages are closed before `serve` ends their server: a page would report each request that is then refused.
    """
    errors: list[str] = []

    def opened(url: str, **options: Any) -> Any:
        context = stack.enter_context(browser.new_context(**options))
        context.set_default_timeout(60_000)
        context.add_init_script(
            "addEventListener('securitypolicyviolation', e => console.error('policy: ' + e.violatedDirective))"
        )
        context.on("page", watch)
        page = context.new_page()
        page.goto(url)
        return page

    def watch(page: Any) -> None:
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)

    with ExitStack() as stack:
        yield opened
    assert [error for error in errors if not any(quiet in error for quiet in _QUIET)] == []


@pytest.fixture
def station(review: FakeReview, open_page: Callable[..., Any]) -> Any:
    """The station of the stand-in, with the first task on it."""
    return begin(open_page(f"{review.url}/review/station"))


def begin(page: Any) -> Any:
    """Wait until a task with all its pictures is shown."""
    page.locator(".pane img").nth(4).wait_for(state="attached")
    return page


def press(page: Any, keys: str) -> None:
    """Press keys one after the other: `press(page, "a 2 q q Enter")`."""
    for key in keys.split():
        page.keyboard.press(key)


def stored_drafts(page: Any) -> list[dict[str, Any]]:
    """The drafts in the browser's storage."""
    read = "JSON.parse(localStorage.getItem('screening-review/ann/any/tasks')).map(task => task.draft)"
    return page.evaluate(read)
