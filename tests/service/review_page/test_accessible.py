"""axe-core finds nothing on any page: light and dark, on a narrow screen, and at 400 % zoom."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import pytest

from tests.service.review_page.conftest import begin, press

pytestmark = pytest.mark.slow

SCREENS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1280, "height": 800}},
    "dark": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"},
    "narrow": {"viewport": {"width": 320, "height": 640}, "color_scheme": "dark"},
    # 400 % of a window of 1280 by 1024.
    "zoomed": {"viewport": {"width": 320, "height": 256}, "device_scale_factor": 4},
}


@pytest.fixture(scope="module")
def axe() -> str:
    pytest.importorskip("axe_playwright_python")
    return (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")


def findings(page: Any, axe: str) -> list[str]:
    page.evaluate(axe)
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    lines = [f"{one['id']}: {node['html'][:120]}" for one in found["violations"] for node in one["nodes"]]
    wide = page.evaluate("document.scrollingElement.scrollWidth - innerWidth")
    return lines + ([f"the page is {wide} px wider than the window"] if wide > 0 else [])


IN_EVERY_RUN = {"light", "narrow"}
"""The narrow screen has the colours of the dark one, and the width of the zoomed one."""


@pytest.mark.parametrize(
    "screen",
    [pytest.param(name, marks=[] if name in IN_EVERY_RUN else [pytest.mark.exhaustive]) for name in SCREENS],
)
def test_axe_finds_nothing(review, open_page, axe, screen):
    page = open_page(f"{review.url}/review/sign-in", **SCREENS[screen])
    found = {"sign-in": findings(page, axe)}
    for name in ("", "/statistics"):
        page.goto(f"{review.url}/review{name}")
        found[f"review{name}"] = findings(page, axe)
    page.goto(f"{review.url}/review/station")
    begin(page)
    press(page, "a q q a 1 b a")
    found["station"] = findings(page, axe)
    press(page, "?")
    found["keys"] = findings(page, axe)
    press(page, "Escape w 4 e Enter")
    page.get_by_text("Last task").wait_for()
    press(page, "v")
    page.locator("dialog.answer").wait_for()
    found["answer"] = findings(page, axe)
    assert not any(found.values()), found
