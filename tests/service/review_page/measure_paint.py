"""Measures the time from Enter until the next task is painted: 10 Mbit/s, 100 ms latency, five pictures of 2 MB.

    python tests/service/review_page/measure_paint.py [TASKS]

It prints the times that the browser's Event Timing interface reports: from the key press until the frame with the next
task is presented, in steps of 8 ms. The person of this measurement takes at least as long for a task as the connection
needs for the next one's pictures. No test asserts these times, because they depend on the machine.
"""

from __future__ import annotations

import io
import random
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from tests.service.review_page.fake_review import FakeReview, served

NETWORK = {"offline": False, "latency": 100, "downloadThroughput": 10e6 / 8, "uploadThroughput": 10e6 / 8}
SIDE = 2000
OBSERVE = """
window.presses = [];
new PerformanceObserver(list => window.presses.push(
  ...list.getEntries().filter(entry => entry.name === 'keydown').map(entry => entry.duration),
)).observe({ type: 'event', durationThreshold: 16 });
"""


def noisy(seed: int) -> bytes:
    """A JPEG of about 2 MB."""
    noise = Image.frombytes("RGB", (SIDE // 4, SIDE // 4), random.Random(seed).randbytes(3 * (SIDE // 4) ** 2))
    picture = noise.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    stored = io.BytesIO()
    picture.save(stored, "JPEG", quality=91)
    return stored.getvalue()


def painted(page: Any, key: str) -> float:
    """Milliseconds from a key press until the frame that shows its effect."""
    page.evaluate("window.presses.length = 0")
    page.keyboard.press(key)
    time.sleep(1)
    return max(page.evaluate("window.presses"), default=8.0)


def measure(page: Any, tasks: int) -> tuple[list[float], list[float]]:
    """Times of Enter for each task, and of a key that only moves a frame, which tells how busy the machine is."""
    times, control = [], []
    for _ in range(tasks):
        page.locator("#station[data-ahead='1'], #station[data-ahead='2']").wait_for()
        for key in "aaaa":
            page.keyboard.press(key)
        time.sleep(0.5)
        control.append(painted(page, "j"))
        times.append(painted(page, "Enter"))
        page.locator(".pane img").nth(4).wait_for()
    return times, control


def told(name: str, times: list[float]) -> str:
    ordered = sorted(times)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return f"{name}: median {statistics.median(ordered):.0f} ms, p95 {p95:.0f} ms, maximum {ordered[-1]:.0f} ms"


def main() -> None:
    tasks = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    pictures = [noisy(seed) for seed in range(5)]
    print(f"pictures of {statistics.fmean(map(len, pictures)) / 1e6:.1f} MB, {SIDE} by {SIDE} pixels")
    with served(FakeReview(tasks=tasks + 2, pictures=pictures)) as review, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(120_000)
        page.add_init_script(OBSERVE)
        page.context.new_cdp_session(page).send("Network.emulateNetworkConditions", NETWORK)
        page.goto(f"{review.url}/review/station")
        page.locator(".pane img").nth(4).wait_for()
        times, control = measure(page, tasks)
        browser.close()
    print(told(f"Enter, {len(times)} tasks", times))
    print(told("a key that moves a frame", control))


if __name__ == "__main__":
    main()
