"""`/review` as reviewers and leads see it: tasks, pictures, reviews, corrections and export."""

from __future__ import annotations

import hashlib

import pytest

from tests.service.review.conftest import LEAD, OTHER, REVIEW, database_url, kept, open_review, postgresql, review_of  # noqa: F401

pytestmark = pytest.mark.anyio


async def lease(running, headers=REVIEW, **order):
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
