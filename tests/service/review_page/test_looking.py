"""Zoom, pan and comparison in a browser: the panes show the same place of pictures of different sizes."""

from __future__ import annotations

import io
from itertools import pairwise
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageStat

from tests.service.review_page.conftest import begin, press
from tests.service.review_page.fake_review import SIZES

pytestmark = pytest.mark.slow

WHEEL = """
async () => {
  let seed = 7;
  const next = () => (seed = (seed * 16807) % 2147483647) / 2147483647;
  for (let turn = 0; turn < 1000; turn++) {
    const panes = document.querySelectorAll('.pane');
    const pane = panes[Math.floor(5 * next())];
    const box = pane.getBoundingClientRect();
    const at = { clientX: box.left + box.width * next(), clientY: box.top + box.height * next() };
    const deltaY = (next() < 0.52 ? -1 : 1) * 120 * next();
    pane.dispatchEvent(new WheelEvent('wheel', { ...at, deltaY, bubbles: true, cancelable: true }));
    if (turn % 100 === 99) await new Promise(requestAnimationFrame);
  }
  await new Promise(requestAnimationFrame);
}
"""
CENTRES = """
() => [...document.querySelectorAll('.pane')].map(pane => {
  const box = pane.getBoundingClientRect(), picture = pane.querySelector('img').getBoundingClientRect();
  return {
    x: (box.left + box.width / 2 - picture.left) / picture.width,
    y: (box.top + box.height / 2 - picture.top) / picture.height,
    width: picture.width, height: picture.height,
  };
})
"""


NO_LONG_PRESS = """
() => {
  const real = setTimeout;
  window.setTimeout = (act, ms) => real(act, ms >= 350 ? 600000 : ms);
}
"""
"""On a slow machine, the time from a press to the first move would be one."""


def assert_same_place(page: Any) -> list[dict[str, float]]:
    """The point in the middle of each pane is the same within one pixel."""
    places = page.evaluate(CENTRES)
    for one, other in pairwise(places):
        assert abs(one["x"] - other["x"]) * max(one["width"], other["width"]) < 1
        assert abs(one["y"] - other["y"]) * max(one["height"], other["height"]) < 1
    return places


def test_all_panes_show_the_same_place_after_a_thousand_turns_of_the_wheel(station):
    station.evaluate(WHEEL)
    places = assert_same_place(station)
    assert places[0]["width"] > 1.5 * station.locator(".pane").first.bounding_box()["width"]
    # A picture that lies on its side in the file is shown upright.
    shapes = [round(place["width"] / place["height"], 2) for place in places]
    assert shapes == [round(width / height, 2) for width, height in SIZES]


def test_a_preview_shows_the_same_as_its_picture(station):
    """Also picture 2, which lies on its side in the file."""
    for number in range(5):
        pane = station.locator(f".pane[data-number='{number}']")
        both = Image.open(io.BytesIO(pane.screenshot())).convert("RGB")
        pane.locator("img").evaluate("picture => picture.remove()")
        preview = Image.open(io.BytesIO(pane.screenshot())).convert("RGB")
        assert sum(ImageStat.Stat(ImageChops.difference(both, preview)).mean) < 3, number


def test_the_wheel_keeps_the_point_below_the_mouse(station):
    box = station.locator(".pane[data-number='2']").bounding_box()
    x, y = round(box["x"] + 0.45 * box["width"]), round(box["y"] + 0.6 * box["height"])
    point = """([x, y]) => {
      const box = document.querySelector(".pane[data-number='2'] img").getBoundingClientRect();
      return [(x - box.left) / box.width, (y - box.top) / box.height];
    }"""
    before = station.evaluate(point, [x, y])
    station.mouse.move(x, y)
    for _ in range(5):
        station.mouse.wheel(0, -150)
    station.locator(".scale", has_text="100 %").wait_for(state="hidden")
    station.evaluate("new Promise(requestAnimationFrame)")
    assert station.evaluate(point, [x, y]) == pytest.approx(before, abs=0.003)


def test_dragging_moves_all_pictures_and_a_double_click_zooms_in_and_out(station):
    station.evaluate(NO_LONG_PRESS)
    box = station.locator(".pane[data-number='3']").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    station.mouse.dblclick(x, y)
    assert station.locator(".scale").inner_text() == "300 %"
    station.mouse.move(x, y)
    station.mouse.down()
    station.mouse.move(x - 60, y - 30, steps=4)
    station.mouse.up()
    station.evaluate("new Promise(requestAnimationFrame)")
    assert assert_same_place(station)[0]["x"] > 0.52
    station.mouse.dblclick(x, y)
    assert station.locator(".scale").inner_text() == "100 %"


def test_a_long_press_lays_the_original_over_the_picture(station):
    pane = station.locator(".pane[data-number='4']")
    pane.hover()
    station.mouse.down()
    pane.locator("img.over").wait_for()
    station.mouse.up()
    pane.locator("img.over").wait_for(state="detached")


def test_two_fingers_zoom(open_page, review):
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    page = begin(open_page(f"{review.url}/review/station", **phone))
    box = page.locator(".pane[data-number='1']").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    touch = page.context.new_cdp_session(page)

    def fingers(kind: str, apart: float | None) -> None:
        points = [] if apart is None else [{"x": x - apart, "y": y, "id": 0}, {"x": x + apart, "y": y, "id": 1}]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    fingers("touchStart", 30)
    for apart in (40, 50, 60):
        fingers("touchMove", apart)
    fingers("touchEnd", None)
    page.locator(".scale", has_text="200 %").wait_for()


def test_zoom_does_not_outlive_the_task(station):
    press(station, "+ + + a a a a Enter")
    begin(station)
    assert station.locator(".scale").inner_text() == "100 %"
