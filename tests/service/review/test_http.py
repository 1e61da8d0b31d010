"""`/review` as reviewers and leads see it: tasks, pictures, reviews, corrections and export."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
from typing import Any

import pytest

from tests.service.decisions.conftest import WRITING
from tests.service.review.conftest import LEAD, OTHER, REVIEW, review_of, verdicts

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For tests of what does not depend on the database."""


async def lease(running, headers=REVIEW, **order: Any) -> dict[str, Any]:
    answer = await running.client.post("/review/leases", json=order, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_decision_becomes_a_task_a_review_and_a_label(open_review, make_sample) -> None:
    async with open_review(1) as running:
        client = running.client
        made = await client.post("/review/tasks", json={"count": 1, "reviews": 1}, headers=LEAD)
        assert made.status_code == 201 and sum(made.json()["made"].values()) == 1, made.text
        found = await lease(running, count=3)
        (task,) = found["leases"]
        assert found["waiting"] == 0 and task["job"] == "review" and 590 <= task["seconds"] <= 600
        shown = [await client.get(one["url"], headers=REVIEW) for one in [task["original"], *task["pictures"]]]
        assert [len(one.content) for one in shown] == [
            task["original"]["bytes"],
            *(p["bytes"] for p in task["pictures"]),
        ]
        assert shown[1].headers["cache-control"].startswith("private")

        assert (await client.post(f"/review/leases/{task['lease']}/heartbeat", headers=REVIEW)).status_code == 200
        sent = await client.post("/review/reviews", json=review_of(task["lease"], "13", best=3), headers=REVIEW)
        assert sent.status_code == 201, sent.text
        order, model = sent.json()["letters"], sent.json()["model"]
        sample = make_sample(0).pictures
        assert [one.content for one in shown] == [sample[0], *(sample["ABCD".index(letter) + 1] for letter in order)]
        (own,) = (await client.get("/review/reviews", headers=REVIEW)).json()["reviews"]
        assert own["id"] == sent.json()["id"] and [one["usable"] for one in own["verdicts"]] == [
            True,
            False,
            True,
            False,
        ]
        assert own["best"] == 3 and own["blind"] and not own["late"] and own["model"] == model
        again = await client.get(own["pictures"][0]["url"], headers=REVIEW)
        assert again.content == shown[1].content

        page = (await client.get("/review/export", headers=LEAD)).json()
        (item,) = page["items"]
        assert page["next"] is None and item["reviews"] == [own["id"]] and item["decided"] == "one"
        assert item["letters"] == "".join(sorted(order[0] + order[2])) and item["inclusion_probability"] == 1
        for file, data in zip(item["files"], sample, strict=True):
            assert file["sha256"] == hashlib.sha256(data).hexdigest()
            picture = await client.get(f"/review/export/pictures/{file['sha256']}", headers=LEAD)
            assert picture.content == data
        order = {"digest": "sha256:1", "tasks": [item["task"]]}
        assert (await client.post("/review/exports", json=order, headers=LEAD)).status_code == 201
        assert (await client.delete(f"/decisions/{item['decision']}", headers=LEAD)).status_code == 204
        refused = await client.post("/review/exports", json=order, headers=LEAD)
        assert refused.status_code == 409 and item["task"] in refused.json()["detail"]
        assert (await client.get("/review/reviews", headers=REVIEW)).json() == {"reviews": []}


async def make(running, count: int, **fields: Any) -> None:
    made = await running.client.post("/review/tasks", json={"count": count, "reviews": 1} | fields, headers=LEAD)
    assert made.status_code == 201, made.text


@ON_SQLITE
async def test_five_comments_of_the_greatest_length_may_be_written_in_escapes(open_review) -> None:
    said = 4000 * "\U0001f469"
    async with open_review(1) as running:
        await make(running, 1)
        (task,) = (await lease(running))["leases"]
        review = review_of(task["lease"], "13", comment=said)
        review["verdicts"] = [one | {"comment": said} for one in review["verdicts"]]
        headers = REVIEW | {"Content-Type": "application/json"}
        sent = await running.client.post("/review/reviews", content=json.dumps(review), headers=headers)
        (own,) = (await running.client.get("/review/reviews", headers=REVIEW)).json()["reviews"]
    assert sent.status_code == 201, sent.text
    assert {own["comment"], *(one["comment"] for one in own["verdicts"])} == {said}


async def test_a_repeated_submission_answers_200_with_the_same_body(open_review) -> None:
    async with open_review(1) as running:
        await make(running, 1)
        (task,) = (await lease(running))["leases"]
        order = review_of(task["lease"], "2")
        first = await running.client.post("/review/reviews", json=order, headers=REVIEW)
        again = await running.client.post("/review/reviews", json=order | {"active_seconds": 9}, headers=REVIEW)
        other = await running.client.post("/review/reviews", json=order | {"comment": "no"}, headers=REVIEW)
        stored = running.metric("screening_reviews_total", task="review")
    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 409)
    assert first.json() == again.json() and other.json()["type"].endswith(":review-conflict")
    assert stored == 1


@ON_SQLITE
async def test_a_person_sees_only_own_leases_and_reviews(open_review) -> None:
    async with open_review(1) as running:
        client = running.client
        await make(running, 1)
        (task,) = (await lease(running))["leases"]
        for method, path in (("GET", "/pictures/1"), ("POST", "/heartbeat"), ("DELETE", "")):
            answer = await client.request(method, f"/review/leases/{task['lease']}{path}", headers=OTHER)
            assert answer.status_code == 404 and answer.json()["type"].endswith(":lease-not-found")
        sent = await client.post("/review/reviews", json=review_of(task["lease"]), headers=REVIEW)
        path = f"/review/reviews/{sent.json()['id']}"
        assert [(await client.get(path, headers=one)).status_code for one in (REVIEW, OTHER, LEAD)] == [200, 404, 200]
        assert (await client.get("/review/reviews?mine=false", headers=REVIEW)).status_code == 403
        assert len((await client.get("/review/reviews?mine=false", headers=LEAD)).json()["reviews"]) == 1


@ON_SQLITE
async def test_a_page_of_another_person_has_to_sign_in_again(open_review) -> None:
    """With a 404 the page would take its task for erased, and delete the draft."""
    page = {"X-Reviewer": "ann"}
    async with open_review(1) as running:
        client = running.client
        await make(running, 1)
        (task,) = (await lease(running))["leases"]
        path = f"/review/leases/{task['lease']}"
        own = await client.post(f"{path}/heartbeat", headers=REVIEW | page)
        review = review_of(task["lease"])
        refused = [
            await client.post(f"{path}/heartbeat", headers=OTHER | page),
            await client.get(f"{path}/pictures/1", headers=OTHER | page),
            await client.post("/review/leases", json={}, headers=OTHER | page),
            await client.post("/review/reviews", json=review, headers=OTHER | page),
        ]
        sent = await client.post("/review/reviews", json=review, headers=REVIEW | page)
    assert (own.status_code, sent.status_code) == (200, 201)
    for answer in refused:
        assert answer.status_code == 401 and answer.json()["type"].endswith(":unauthenticated")
        assert answer.json()["detail"].startswith("You are signed in as ben now, and this page belongs to ann.")


@ON_SQLITE
@pytest.mark.parametrize(
    "path",
    ["POST /review/tasks", "GET /review/export", f"GET /review/export/pictures/{'0' * 64}", "POST /review/exports"],
)
async def test_some_paths_are_for_leads(open_review, path) -> None:
    method, _, path = path.partition(" ")
    async with open_review() as running:
        for headers, status in (({}, 401), ({"Authorization": "Bearer x"}, 401), (REVIEW, 403)):
            answer = await running.client.request(method, path, headers=headers)
            assert answer.status_code == status, answer.text


WRONG_REVIEWS: list[tuple[dict[str, Any], str]] = [
    ({"id": "x"}, "id"),
    ({"verdicts": verdicts()[:3]}, "verdicts"),
    ({"verdicts": verdicts()[:3] + verdicts()[:1]}, "pictures 1 to 4"),
    ({"verdicts": [{"number": n, "usable": False, "dimensions": {}} for n in range(1, 5)]}, "say what is wrong"),
    ({"verdicts": [one | {"usable": True} for one in verdicts()]}, "a usable picture has none"),
    ({"verdicts": verdicts(dimension="colour")}, "verdicts.0.dimensions"),
    ({"verdicts": [one | {"dimensions": {"physical_shadow": 4}} for one in verdicts()]}, "physical_shadow"),
    ({"best": 1}, "best"),
    ({"verdicts": verdicts("12"), "best": 3}, "best"),
    ({"comment": "a\u0000b"}, "comment"),
    ({"verdicts": [one | {"comment": "\u001b[2J"} for one in verdicts()]}, "comment"),
    ({"active_seconds": -1}, "active_seconds"),
    ({"unknown": 1}, "unknown"),
]
"""What is wrong with a review, and what the answer says about it."""


@ON_SQLITE
async def test_a_wrong_review_is_refused_with_the_field(open_review) -> None:
    async with open_review() as running:
        for change, where in WRONG_REVIEWS:
            answer = await running.client.post("/review/reviews", json=review_of("lse_1") | change, headers=REVIEW)
            assert answer.status_code == 422 and where in answer.json()["detail"], (change, answer.text)


@ON_SQLITE
async def test_a_comment_can_replace_the_dimensions(open_review) -> None:
    async with open_review(1) as running:
        await make(running, 1)
        (task,) = (await lease(running))["leases"]
        said = [{"number": n, "usable": False, "dimensions": {}, "comment": "a watermark"} for n in range(1, 5)]
        sent = await running.client.post(
            "/review/reviews", json=review_of(task["lease"]) | {"verdicts": said}, headers=REVIEW
        )
        (item,) = (await running.client.get("/review/export", headers=LEAD)).json()["items"]
    assert sent.status_code == 201 and item["letters"] == "N" and item["pictures"][0]["comment"] == "a watermark"


async def test_comments_in_ordinary_writing_are_kept(open_review) -> None:
    async with open_review(1) as running:
        await make(running, 1)
        (task,) = (await lease(running))["leases"]
        said = [one | {"comment": WRITING} for one in verdicts("1")]
        order = review_of(task["lease"], comment=WRITING, verdicts=said)
        sent = await running.client.post("/review/reviews", json=order, headers=REVIEW)
        (own,) = (await running.client.get("/review/reviews", headers=REVIEW)).json()["reviews"]
    assert sent.status_code == 201, sent.text
    assert own["comment"] == WRITING and [one["comment"] for one in own["verdicts"]] == [WRITING] * 4


@ON_SQLITE
async def test_the_local_reviewer_does_not_sign_in(open_review) -> None:
    no_keys = {"feedback_keys": "", "admin_keys": "", "keys_file": None}
    here = "http://127.0.0.1:8000"
    own_page = {"Origin": here}
    async with open_review(1, **no_keys) as running:
        client = running.client
        assert (await client.post(f"{here}/review/tasks", json={"count": 1}, headers=own_page)).status_code == 201
        found = await client.post(f"{here}/review/leases", json={}, headers=own_page)
        review = review_of(found.json()["leases"][0]["lease"])
        sent = await client.post(f"{here}/review/reviews", json=review, headers=own_page)
        (own,) = (await client.get("http://localhost:8000/review/reviews")).json()["reviews"]
        assert sent.status_code == 201 and own["reviewer"] == "local"
        # A foreign page: by its origin, or by a name of its own that it points at this machine.
        foreign = await client.post(f"{here}/review/leases", json={}, headers={"Origin": "http://evil.example"})
        assert foreign.status_code == 403
        assert (await client.get("http://evil.example:8000/review/reviews")).status_code == 403
    async with open_review(**no_keys, host="0.0.0.0") as running:
        assert (await running.client.get(f"{here}/review/reviews")).status_code == 403


@ON_SQLITE
async def test_review_is_off_by_default(start, kept) -> None:
    async with start(**kept) as running:
        assert (await running.client.get("/review/reviews", headers=REVIEW)).status_code == 404
        assert not any(
            path.startswith("/review") for path in (await running.client.get("/openapi.json")).json()["paths"]
        )


@ON_SQLITE
async def test_a_database_that_cannot_be_reached_answers_503(open_review, tmp_path) -> None:
    async with open_review(decisions=f"sqlite:///{tmp_path / 'decisions.db'}") as running:
        with sqlite3.connect(tmp_path / "decisions.db") as connection:
            connection.execute("DROP TABLE review_slot")
        connection.close()
        answer = await running.client.post("/review/leases", json={}, headers=REVIEW)
    assert answer.status_code == 503 and answer.json()["type"].endswith(":decisions-unavailable")


@ON_SQLITE
async def test_the_log_names_the_cause_of_a_503_and_nothing_that_people_wrote(
    open_review, tmp_path, monkeypatch, caplog
) -> None:
    monkeypatch.setattr("service.decisions.store._LOG_SECONDS", 3600)
    async with open_review(1, decisions=f"sqlite:///{tmp_path / 'decisions.db'}") as running:
        (one,) = (await running.client.get("/decisions", headers=LEAD)).json()["decisions"]
        with sqlite3.connect(tmp_path / "decisions.db") as connection:
            connection.execute("DROP TABLE feedback")
        connection.close()
        order = {"kind": "shown", "options": "A", "comment": WRITING}
        for _ in range(2):
            sent = await running.client.post(f"/decisions/{one['id']}/feedback", json=order, headers=LEAD)
            assert sent.status_code == 503 and sent.json()["type"].endswith(":decisions-unavailable")
    (logged,) = [one for one in caplog.records if one.getMessage() == "the decision store cannot be used"]
    assert logged.fields == {"error": "(sqlite3.OperationalError) no such table: feedback"}, "once, and only the cause"


@ON_SQLITE
async def test_the_metrics_show_the_queue(open_review, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("service.review.monitor.SECONDS", 0.01)
    same = {"decisions": f"sqlite:///{tmp_path / 'decisions.db'}"}
    async with open_review(1, **same) as running:
        await make(running, 1)
    async with open_review(**same) as running:
        text = ""
        while 'screening_review_queue{reason="audit",state="open"} 1.0' not in text:
            await asyncio.sleep(0.01)
            text = (await running.client.get("/metrics")).text
        assert 'screening_review_queue_age_seconds{reason="audit"}' in text
        (one,) = (await running.client.get("/decisions", headers=LEAD)).json()["decisions"]
        assert (await running.client.delete(f"/decisions/{one['id']}", headers=LEAD)).status_code == 204
        while 'reason="audit"' in text:
            await asyncio.sleep(0.01)
            text = (await running.client.get("/metrics")).text


@ON_SQLITE
async def test_statistics_hide_reasons_and_gold_from_reviewers(open_review) -> None:
    async with open_review(2) as running:
        await make(running, 2)
        (task,) = (await lease(running))["leases"]
        await running.client.post("/review/reviews", json=review_of(task["lease"]), headers=REVIEW)
        own, lead = [(await running.client.get("/review/stats", headers=one)).json() for one in (REVIEW, LEAD)]
        wrong = await running.client.get("/review/stats?since=yesterday", headers=LEAD)
    assert list(own["queue"]) == ["all"] and own["gold"] is None
    assert "all" not in lead["queue"] and lead["gold"] == []
    assert own["model"] == lead["model"] and own["model"]["reviewed"] == 1
    assert wrong.status_code == 422
