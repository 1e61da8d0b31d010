"""Where the issues are: the option of a call, the typed result, the command line."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from screening_client import Box, Client, InputError, Region, Screening, ScreenRequest, UnexpectedAnswer, cli
from screening_client.report import report
from screening_client.testing import FakeService, answer

LOCATED = answer("C")
LOCATED["options"][1]["regions"] = [{"issue": "appearance_deformation", "box": [0.25, 0, 0.5, 1]}]


def test_only_a_call_that_asks_sends_the_field(server: Any, question: Any) -> None:
    with Client(base_url=server.url) as client:
        client.screen(**question)
        client.screen(**question, locate=True)
    plain, located = (request.body for request in server.received)
    assert b"locate" not in plain, "a service of an earlier version does not know the field"
    assert b'name="locate"\r\n\r\ntrue\r\n' in located


def test_both_clients_and_bulk_calls_give_typed_regions(question: Any) -> None:
    service = FakeService()

    async def ask() -> Screening:
        async with service.async_client() as client:
            return await client.screen(**question, locate=True)

    with service.client() as client:
        found = [
            client.screen(**question, locate=True),
            *client.screen_many([ScreenRequest(**question, locate=True)], progress=False),
            asyncio.run(ask()),
        ]
        assert client.screen(**question).options["A"].regions is None
    assert [request.locate for request in service.requests] == [True] * 3 + [False]
    for screening in found:
        for option in screening.options:
            assert option.regions is not None and [region.issue for region in option.regions] == list(option.issues)


def test_a_given_reply_has_regions_if_the_call_asks_for_them(question: Any) -> None:
    with FakeService(answer("C"), LOCATED, answer("C"), {"options": None}).client() as client:
        made, given = client.screen(**question, locate=True), client.screen(**question, locate=True)
        assert client.screen(**question).options["B"].regions is None
        with pytest.raises(UnexpectedAnswer):
            client.screen(**question, locate=True)
    assert made.options["B"].regions == (Region("appearance_deformation", Box(0.25, 0.25, 0.75, 0.75)),)
    assert made.options["C"].regions == ()
    assert given.options["B"].regions == (Region("appearance_deformation", Box(0.25, 0.0, 0.5, 1.0)),)


def test_a_result_with_regions_survives_being_stored(question: Any) -> None:
    with FakeService(LOCATED).client() as client:
        screening = client.screen(**question, locate=True)
    region = Region("appearance_deformation", Box(0.25, 0.0, 0.5, 1.0))
    assert screening.options["B"].regions == (region,)
    assert Screening.from_dict(json.loads(screening.to_json())) == screening
    assert region.box.pixels(200, 100) == (50, 0, 100, 100)
    assert Box(0.501, 0.999, 0.502, 1.0).pixels(40, 40) == (20, 39, 21, 40), "a small region has a pixel"


def test_the_report_says_where_an_issue_is(question: Any) -> None:
    with FakeService(LOCATED).client() as client:
        screening = client.screen(**question)
    assert "appearance deformation at 25-0-50-100 %" in report(screening)


@pytest.mark.parametrize("box", [[0, 0, 1], [0, 0, 1, "1"], "0011", None])
def test_a_box_of_another_form_is_no_answer(question: Any, box: Any) -> None:
    wrong = json.loads(json.dumps(LOCATED))
    wrong["options"][1]["regions"][0]["box"] = box
    with FakeService(wrong).client() as client, pytest.raises(UnexpectedAnswer, match=r"regions\[0\]\.box"):
        client.screen(**question)


def test_a_direct_call_cannot_locate(question: Any) -> None:
    with FakeService().client() as client:
        with pytest.raises(InputError, match="locate needs mode 'cot'"):
            client.screen(**question, mode="direct", locate=True)
        with pytest.raises(InputError, match="must be True or False"):
            client.screen(**question, locate="yes")


def test_the_commands_have_the_option_and_a_line_may_overrule_it(
    server: Any, pictures: list[str], write_batch: Any, tmp_path: Any, capsys: Any
) -> None:
    assert cli.main(["screen", *pictures, "--locate", "--base-url", server.url]) == cli.OK
    source = write_batch("1", "2")
    first, second = source.read_text().splitlines()
    direct = json.dumps(json.loads(second) | {"id": "3", "mode": "direct"})
    source.write_text(f"{first}\n{json.dumps(json.loads(second) | {'locate': False})}\n{direct}\n")
    out = str(tmp_path / "out.jsonl")
    command = ["batch", str(source), "--out", out, "--locate", "--concurrency", "1", "--base-url", server.url]
    assert cli.main(command) == cli.OK
    assert [b'name="locate"' in request.body for request in server.received] == [True, True, False, False]
