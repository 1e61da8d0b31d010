"""The pages of `/review` as the service sends them: who sees them, and with which headers."""

from __future__ import annotations

import gzip

import pytest

from service.review_page import pages
from tests.service.review.conftest import LEAD, REVIEW, kept, open_review  # noqa: F401

MAX_COMPRESSED = 40_000


@pytest.fixture
def database_url(tmp_path):
    """The pages do not depend on the kind of database."""
    return f"sqlite:///{tmp_path / 'decisions.db'}"


@pytest.mark.anyio
async def test_a_stranger_is_sent_to_the_sign_in_page(open_review):  # noqa: F811
    async with open_review() as running:
        for path, to in (
            ("/review", "review/sign-in"),
            ("/review/station", "sign-in"),
            ("/review/statistics", "sign-in"),
        ):
            answer = await running.client.get(path)
            assert (answer.status_code, answer.headers["location"]) == (303, to)
        form = await running.client.get("/review/sign-in")
        assert form.status_code == 200 and "Your review key" in form.text


@pytest.mark.anyio
async def test_every_page_has_a_strict_policy_and_no_inline_script_or_style(open_review):  # noqa: F811
    async with open_review() as running:
        for path in ("", "/station?job=label", "/statistics?since=2026-01-01&until=", "/sign-in"):
            answer = await running.client.get(f"/review{path}", headers=LEAD)
            assert answer.status_code == 200, path
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy and "unsafe" not in policy
            assert answer.headers["cache-control"] == "no-store"
            assert "style=" not in answer.text and "<style" not in answer.text and " onclick" not in answer.text
            assert "<script>" not in answer.text


@pytest.mark.slow
@pytest.mark.anyio
async def test_reviewers_do_not_see_reasons_and_leads_do(open_review):  # noqa: F811
    async with open_review(4) as running:
        made = await running.client.post("/review/tasks", json={"count": 4}, headers=LEAD)
        assert made.status_code == 201
        person, lead = [(await running.client.get("/review", headers=who)).text for who in (REVIEW, LEAD)]
        assert "random sample" in lead and "random sample" not in person and "all tasks" in person
        assert "<b>4</b> tasks wait" in person
        for who, sees in ((REVIEW, False), (LEAD, True)):
            page = (await running.client.get("/review/statistics", headers=who)).text
            assert ("Questions with a known answer" in page) is sees


@pytest.mark.anyio
async def test_a_changed_file_reaches_a_browser_that_has_the_old_one(open_review):  # noqa: F811
    async with open_review() as running:
        first = await running.client.get("/review/static/station.js")
        assert first.headers["cache-control"] == "no-cache" and "javascript" in first.headers["content-type"]
        again = await running.client.get("/review/static/station.js", headers={"If-None-Match": first.headers["etag"]})
        assert again.status_code == 304
        assert (await running.client.get("/review/static/../pages.py")).status_code == 404


def test_script_and_style_are_small():
    files = [path for path in pages.STATIC.rglob("*") if path.suffix in (".js", ".mjs", ".css")]
    compressed = sum(len(gzip.compress(path.read_bytes())) for path in files)
    assert 10_000 < compressed <= MAX_COMPRESSED


def test_vendored_files_have_their_licences():
    vendored = {path.stem for path in (pages.STATIC / "vendor").glob("*.mjs")}
    assert vendored == {path.name.removesuffix(".LICENSE") for path in (pages.STATIC / "vendor").glob("*.LICENSE")}
