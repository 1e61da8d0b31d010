"""With the real service: nothing that reaches the browser tells the model's answer before the verdict is stored."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.service.conftest import Process, Sample
from tests.service.review_page.conftest import begin, press

pytestmark = pytest.mark.slow

TASKS = 3
SECRET = re.compile(
    r"\b(confidence|needs_review|reasoning|acceptable|choice|letters|audit|gold|repeat)\b|I observed|tsk_|scr_"
)
"""Words and ids of the model's answer, and of why a task exists."""


@pytest.fixture
def service(launch_service: Callable[..., Any], make_sample: Callable[[int], Sample], tmp_path) -> Iterator[Process]:
    """A service with review tasks of scripted decisions."""
    store = ["--decisions", f"sqlite:///{tmp_path / 'decisions.db'}", "--pictures", str(tmp_path / "pictures")]
    with launch_service("--engine", "scripted", "--review", "true", *store) as process:
        for seed in range(TASKS):
            httpx.post(f"{process.base_url}/screen", json=make_sample(seed).json()).raise_for_status()
        until = time.monotonic() + 60
        while process.metric('screening_decisions_total{result="stored"}') < TASKS:
            assert time.monotonic() < until
            time.sleep(0.05)
        made = httpx.post(f"{process.base_url}/review/tasks", json={"count": TASKS, "reviews": 1})
        assert sum(made.json()["made"].values()) == TASKS
        yield process


def test_nothing_tells_the_answer_before_the_verdict_is_stored(service, open_page):
    traffic: list[str] = []

    def record(response: Any) -> None:
        traffic.append(f"{response.url} {response.all_headers()}")
        if "javascript" in response.headers.get("content-type", "") or "static" in response.url:
            return  # the program itself, equal for everyone
        if response.request.method != "DELETE" and "image/" not in response.headers.get("content-type", ""):
            traffic.append(response.text())

    page = open_page("about:blank")
    page.on("response", record)
    page.goto(f"{service.base_url}/review/station?job=review")
    begin(page)
    for task in range(TASKS):
        begin(page)
        press(page, "a q")
        page.wait_for_timeout(100)
        kept = page.evaluate("JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie])")
        shown = page.evaluate("document.documentElement.outerHTML") if task == 0 else ""
        assert [found for text in [*traffic, kept, shown] if (found := SECRET.search(text))] == []
        press(page, "3 a w")
        with page.expect_response(lambda one: one.request.method == "POST" and one.url.endswith("/reviews")) as answer:
            press(page, "Enter")
        told = answer.value.json()["model"]
        assert {"choice", "confidence", "reasoning"} <= told.keys()  # the words that are searched for
        page.get_by_text("Last task").wait_for()
        traffic.clear()
    names = {name.lower() for name in ("choice", "confidence")}
    assert not any(name in page.evaluate("JSON.stringify({ ...localStorage })").lower() for name in names)


def test_pictures_tell_nothing_by_their_size_or_name(service):
    """The order of display differs from the order of the letters, and only the server knows it."""
    with httpx.Client(base_url=service.base_url) as http:
        (lease,) = http.post("/review/leases", json={"count": 1}).json()["leases"]
        assert lease.keys() == {"lease", "job", "expires_at", "seconds", "dimensions", "original", "pictures"}
        assert {key for one in lease["pictures"] for key in one} == {"number", "url", "bytes"}
        headers = http.get(lease["pictures"][0]["url"]).headers
        assert not {"etag", "last-modified", "content-disposition"} & set(headers)
