"""Every key that `?` lists acts, in a browser; and none acts where a person writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.service.review_page.conftest import begin, press, stored_drafts

pytestmark = pytest.mark.slow


def listed(page: Any) -> dict[str, str]:
    """The key of each action, as the list of keys shows it."""
    press(page, "?")
    rows = page.locator("dialog [data-action]")
    keys = {row.get_attribute("data-action"): row.get_attribute("data-key") for row in rows.all()}
    press(page, "Escape")
    return keys


def chosen(page: Any) -> str:
    return page.locator("#verdict-title").inner_text()


def zoom(page: Any) -> str:
    return page.locator(".scale").inner_text()


def place(page: Any) -> dict[str, float]:
    return page.locator(".pane[data-number='1'] img").bounding_box()


def verdict(page: Any) -> dict[str, Any]:
    return stored_drafts(page)[0]["verdicts"][0]


def focused(page: Any) -> str:
    return page.evaluate("document.activeElement.id")


Check = tuple[str, Callable[[Any], object]]
"""Keys pressed before, and what the key changes."""

CHECKS: dict[str, Check] = {
    "select-1": ("2", chosen),
    "select-2": ("1", chosen),
    "select-3": ("1", chosen),
    "select-4": ("1", chosen),
    "next": ("1", chosen),
    "previous": ("1", chosen),
    "usable": ("1", verdict),
    "unusable": ("1", verdict),
    "dimension-appearance_deformation": ("1", verdict),
    "dimension-physical_shadow": ("1", verdict),
    "dimension-placement_layout": ("1", verdict),
    "dimension-extension_rationality": ("1", verdict),
    "comment": ("1", focused),
    "best": ("1 a a 1", lambda page: stored_drafts(page)[0]["best"]),
    "clear": ("1 x", verdict),
    "zoom-in": ("0", zoom),
    "zoom-out": ("+ +", zoom),
    "fit": ("+", zoom),
    "pan-left": ("+ +", place),
    "pan-right": ("+ +", place),
    "pan-up": ("+ +", place),
    "pan-down": ("+ +", place),
    "undo": ("1 x", verdict),
    "redo": ("1 x z", verdict),
    "remark": ("1", focused),
    "skip": ("1 x s", verdict),  # the first press on a judged task only warns
    "help": ("1", lambda page: page.locator("dialog").count()),
    "close": ("?", lambda page: page.locator("dialog").count()),
}
"""How to see that an action acts. The others, which need a submitted review or hold a key, have tests of their own."""
OTHERS = {"compare", "submit", "answer", "change", "keep", "overview"}


def act(page: Any, key: str) -> None:
    page.keyboard.press(key)
    page.evaluate("new Promise(requestAnimationFrame)")


def test_every_listed_key_acts(station, review, wait_until):
    keys = listed(station)
    assert keys.keys() == CHECKS.keys() | OTHERS
    for action, (before, look) in CHECKS.items():
        press(station, before)
        station.evaluate("new Promise(requestAnimationFrame)")
        seen = look(station)
        act(station, keys[action])
        assert look(station) != seen, action
        press(station, "Escape Delete 0")
        begin(station)
    pane = station.locator(".pane[data-number='1']")
    press(station, "1")
    station.keyboard.down(keys["compare"])
    assert pane.get_by_text("Original").count() == 0 and pane.locator("img.over").count() == 1
    station.keyboard.up(keys["compare"])
    assert pane.locator("img.over").count() == 0
    press(station, f"a a a a {keys['submit']}")
    wait_until(lambda: review.reviews)
    station.get_by_text("Last task").wait_for()
    press(station, keys["answer"])
    assert station.locator("dialog.answer").is_visible()
    press(station, keys["keep"])
    assert station.locator("dialog").count() == 0
    press(station, f"{keys['answer']} {keys['change']}")
    station.get_by_text("You are changing a review that you have sent.").wait_for()
    with station.expect_navigation():
        press(station, keys["overview"])


@pytest.mark.parametrize("field", ["comment", "remark"])
def test_typing_all_keys_in_a_comment_does_nothing_else(station, review, field):
    keys = [key for action, key in listed(station).items() if action != "close"]
    text = "".join(key for key in keys if len(key) == 1)
    station.locator(f"#{field}").focus()
    before = chosen(station), zoom(station)
    for key in keys:
        station.keyboard.press(key)
    assert sorted(station.locator(f"#{field}").input_value().lower()) == sorted(text + "zc\n\n")
    assert (chosen(station), zoom(station)) == before
    assert all(one["usable"] is None for one in stored_drafts(station)[0]["verdicts"])
    assert review.reviews == {} and review.skipped == [] and station.locator("dialog").count() == 0
    press(station, "Escape 3")
    assert chosen(station) == "Picture 3"


def test_single_keys_can_be_switched_off_and_buttons_still_act(station, review, wait_until):
    press(station, "?")
    station.get_by_label("Use single-character shortcuts", exact=False).uncheck()
    press(station, "Escape 3 x ?")
    assert chosen(station) == "Picture 1" and station.locator("dialog").count() == 0
    station.reload()
    begin(station)
    press(station, "3")
    assert chosen(station) == "Picture 1"
    for _ in range(4):
        station.get_by_role("button", name="Usable", exact=True).click()
    press(station, "Enter")
    wait_until(lambda: review.reviews)


def test_enter_after_a_click_submits_instead_of_clicking_again(station, review, wait_until):
    press(station, "a a a")
    station.get_by_role("button", name="Usable", exact=True).click()
    press(station, "Enter")
    wait_until(lambda: review.reviews)


def test_the_page_is_used_with_tab_and_enter_alone(station):
    """A focused button takes Enter for itself."""
    station.get_by_role("button", name="Not usable", exact=True).focus()
    press(station, "Enter")
    assert verdict(station)["usable"] is False
