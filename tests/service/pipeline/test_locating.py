"""Requests with `locate`: where the issues are, on the pictures as they were sent."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from screening.images import fit_square
from service.engines.protocol import Generated, LoadedCheckpoint, Question
from service.engines.scripted_engine import ISSUE_BOX, ScriptedEngine
from tests.service.conftest import Sample, draw

pytestmark = pytest.mark.anyio


def regions(answer: dict[str, Any]) -> dict[str, Any]:
    return {entry["option"]: entry["regions"] for entry in answer["options"]}


def without_regions(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [{key: value for key, value in entry.items() if key != "regions"} for entry in answer["options"]]


async def test_every_named_issue_has_its_place_and_the_decision_is_the_same(start, sample) -> None:
    async with start() as running:
        plain, located = [
            (await running.client.post("/screen", json=sample.json(**fields))).json()
            for fields in ({}, {"locate": True})
        ]
        form = await running.client.post("/screen", files=sample.files(), data={"locate": "true"})
        assert (running.metric("screening_boxes_total", result="dropped")) == 0
        assert running.metric("screening_boxes_total", result="given") == sum(map(len, regions(located).values())) > 0
    assert all("regions" not in entry for entry in plain["options"])
    assert without_regions(located) == plain["options"] and located["reasoning"] == plain["reasoning"]
    assert form.json()["options"] == located["options"] and form.json()["source"] == "cache"
    for entry in located["options"]:
        assert [region["issue"] for region in entry["regions"]] == entry["issues"]
    assert "box>" not in form.text and "[[" not in form.text


def turned(width: int, height: int, orientation: int) -> bytes:
    """A JPEG that is stored with this width and height, and that browsers turn."""
    with Image.open(io.BytesIO(draw(3, (width, height)))) as image:
        exif = Image.Exif()
        exif[0x0112] = orientation
        out = io.BytesIO()
        image.save(out, "JPEG", exif=exif)
    return out.getvalue()


@pytest.mark.parametrize(
    "picture, box",
    [
        (draw(1, (400, 400)), [0.25, 0.5, 0.75, 0.6]),
        (draw(2, (400, 100)), [0.25, 0.5, 0.75, 0.9]),
        (draw(2, (100, 400)), [0.0, 0.5, 1.0, 0.6]),
        (turned(400, 100, 6), [0.0, 0.5, 1.0, 0.6]),
    ],
    ids=["square", "wide", "high", "wide file that is shown high"],
)
async def test_boxes_are_shares_of_the_picture_that_was_sent(start, sample, picture, box) -> None:
    asked = Sample((sample.pictures[0], *[picture] * 4))
    async with start(ScriptedFaults()) as running:
        answer = (await running.client.post("/screen", json=asked.json(locate=True))).json()
    assert [[region["box"] for region in found] for found in regions(answer).values()] == [[box]] * 4


def test_a_wide_picture_is_padded_where_the_conversion_says() -> None:
    white = fit_square(Image.new("RGB", (400, 100), "white"), 400)
    assert white.convert("L").point(lambda value: 255 if value > 200 else 0).getbbox() == (0, 150, 400, 250)
    assert (ISSUE_BOX.top - 150 / 400) / (100 / 400) == pytest.approx(0.5)


class ScriptedFaults(ScriptedEngine):
    """Calls every picture faulty."""

    def __init__(self, box: str = "<box>[[250, 500, 750, 600]]</box>", locates: bool = True) -> None:
        super().__init__(latency_ms=0)
        self._box, self._locates = box, locates

    @property
    def checkpoint(self) -> LoadedCheckpoint:
        return replace(super().checkpoint, locates=self._locates)

    async def generate(self, question: Question) -> Generated:
        seen = "".join(f"<{option}> layout: it floats {self._box}, " for option in "ABCD")
        text = f"<think>I observed {seen}so I ultimately chose N.</think><answer>N</answer>"
        return replace(await super().generate(question), text=text, steps=())


@pytest.mark.parametrize(
    "box", ["<box>[[250, 100, 750, 200]]</box>", "<box>[[9]]</box>", "<box>[[800, 0, 1, 9]]</box>"]
)
async def test_a_box_in_the_padding_or_a_broken_one_is_dropped_and_counted(start, sample, box) -> None:
    wide = Sample((sample.pictures[0], *[draw(2, (400, 100))] * 4))
    async with start(ScriptedFaults(box)) as running:
        answer = (await running.client.post("/screen", json=wide.json(locate=True))).json()
        assert running.metric("screening_boxes_total", result="dropped") == 4
    assert answer["outcome"] == "answered" and not any(regions(answer).values())
    assert {entry["comment"] for entry in answer["options"]} == {"layout: it floats"}


async def test_a_checkpoint_that_cannot_locate_refuses_with_a_problem_of_its_own(start, sample) -> None:
    async with start(ScriptedFaults(locates=False)) as running:
        refused = await running.client.post("/screen", json=sample.json(locate=True))
        answered = await running.client.post("/screen", json=sample.json(locate=False))
    assert (refused.status_code, answered.status_code) == (422, 200)
    assert refused.json()["type"] == "urn:screening:problem:locate-unsupported"
    assert "without locate" in refused.json()["detail"]


@pytest.mark.parametrize("fields", [{"locate": "true", "mode": "direct"}, {"locate": "perhaps"}])
async def test_locate_is_refused_in_direct_mode_and_if_it_is_no_switch(start, sample, fields) -> None:
    async with start() as running:
        form = await running.client.post("/screen", files=sample.files(), data=fields)
        switch = {"true": True}.get(fields["locate"], fields["locate"])
        body = await running.client.post("/screen", json=sample.json(**{**fields, "locate": switch}))
    for response in (form, body):
        assert (response.status_code, response.json()["type"]) == (422, "urn:screening:problem:invalid-request")
        assert "locate" in response.json()["detail"]


async def test_located_and_plain_answers_are_never_mixed(start, sample) -> None:
    async with start() as running:
        asked = [({}, "engine"), ({"locate": True}, "engine"), ({}, "cache"), ({"locate": True}, "cache")]
        for fields, source in asked:
            answer = (await running.client.post("/screen", json=sample.json(**fields))).json()
            assert answer["source"] == source
            assert all(("regions" in entry) == bool(fields) for entry in answer["options"])
        headers = {"Idempotency-Key": "one"}
        first = await running.client.post("/screen", json=sample.json(), headers=headers)
        other = await running.client.post("/screen", json=sample.json(locate=True), headers=headers)
    assert (first.status_code, other.json()["type"]) == (200, "urn:screening:problem:idempotency-key-reused")
