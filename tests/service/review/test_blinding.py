"""Nothing that a reviewer gets before the review reveals the model's answer or why the task exists."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from service.decisions.review_tables import GOLD, REVIEW_SLOT, VERDICT
from service.review import leases, reviews
from service.review.consensus import Verdict
from service.review.shown import ORDERS, display_order, model_answer
from service.review.tasks import insert_tasks, make_tasks
from tests.service.decisions.conftest import sha256
from tests.service.review.conftest import REVIEW, answer_of, insert_decision, review_of, submission, take

pytestmark = pytest.mark.slow

VARIANTS: list[dict[str, Any]] = [
    {"reason": "audit", "choice": "A", "confidence": 0.9},
    {"reason": "low_confidence", "choice": "C", "confidence": 0.123456, "needs_review": True},
    {"reason": "low_confidence", "choice": None, "confidence": 0.0, "needs_review": True},
    {"reason": "disagreement", "choice": "N", "confidence": 0.7},
    {"reason": "gold", "choice": "B", "confidence": 0.7},
    {"reason": "repeat", "choice": "D", "confidence": 0.7},
]


HIDDEN = re.compile("gold|audit|low_conf|disagreem|repeat|secret|tsk_|scr_|choice|confidence|reason")
"""Words that no response before the review may contain."""


def insert(running, number: int, variant: dict[str, Any]) -> None:
    """Insert a task whose decision, reason and answer are those of a variant."""
    store = running.app.state.service.decisions
    answer = {name: value for name, value in variant.items() if name != "reason"}
    decision = insert_decision(store.database, number, checkpoint="sha256:secret", product="SKU-secret", **answer)
    for position in range(5):
        store.pictures.put(sha256(f"{number}/{position}"), b"7 bytes")
    with store.database.writing() as connection:
        task = {
            "job": "review", "reason": variant["reason"], "decision_id": decision, "product": "SKU-secret",
            "inclusion_probability": 0.0625 * number, "reviews_required": 1 + number % 2,
        }  # fmt: skip
        pictures = {position: sha256(f"{number}/{position}") for position in range(5)}
        (identity,) = insert_tasks(connection, [(task, pictures)], number, datetime.now(UTC))
        if variant["reason"] == "gold":
            connection.execute(sa.insert(GOLD).values(task_id=identity, expected=[{"usable": True}] * 4))


async def everything_before_the_review(client) -> tuple[list[str], dict[str, Any]]:
    """Every response that the page needs to show a task: status, headers and body."""
    seen = []

    async def ask(method: str, path: str, **request: Any) -> Any:
        response = await client.request(method, path, headers=REVIEW | {"X-Request-Id": "r"}, **request)
        assert response.status_code < 300, response.text
        seen.append(f"{method} {path} {response.status_code} {sorted(response.headers.items())} {response.text}")
        return response

    found = (await ask("POST", "/review/leases", json={"count": 3})).json()
    (task,) = found["leases"]
    for picture in [task["original"], *task["pictures"]]:
        await ask("GET", picture["url"])
    await ask("POST", f"/review/leases/{task['lease']}/heartbeat")
    await ask("GET", "/review/reviews")
    await ask("GET", "/review/stats")
    return seen, task


def without_names(text: str, lease: str) -> str:
    """A response without what differs between any two leases: its random id and its times."""
    text = text.replace(lease, "LEASE")
    text = re.sub(r'"(expires_at|seconds|oldest_seconds)":[^,}]*', r'"\1":0', text)
    return re.sub(r"\('content-length', '\d+'\)", "", text)


@pytest.mark.anyio
async def test_responses_are_equal_for_tasks_that_differ_only_in_what_is_hidden(open_review) -> None:
    traffic = []
    async with open_review() as running:
        for number, variant in enumerate(VARIANTS, 1):
            insert(running, number, variant)
            seen, task = await everything_before_the_review(running.client)
            traffic.append([without_names(text, task["lease"]) for text in seen])
            for text in seen:
                assert not HIDDEN.search(text.replace('"gold":null', "")), text
            skipped = await running.client.delete(f"/review/leases/{task['lease']}", headers=REVIEW)
            assert skipped.status_code == 204 and skipped.content == b""
            with running.app.state.service.decisions.database.writing() as connection:
                connection.execute(sa.text("DELETE FROM decision"))
    assert all(one == traffic[0] for one in traffic[1:]), json.dumps(traffic, indent=1)


@pytest.mark.anyio
async def test_the_answer_is_shown_after_the_review_and_neither_reason_nor_gold(open_review) -> None:
    async with open_review() as running:
        insert(running, 1, VARIANTS[4])
        _, task = await everything_before_the_review(running.client)
        sent = await running.client.post("/review/reviews", json=review_of(task["lease"], "1234"), headers=REVIEW)
        listed = await running.client.get("/review/reviews", headers=REVIEW)
    body = sent.json()
    assert body["model"]["choice"] == body["letters"].index("B") + 1 and body["agrees"] is True
    assert not re.search("gold|tsk_|scr_|expected|probability", sent.text + listed.text)


def test_only_the_first_review_of_identical_requests_is_blind(database) -> None:
    questions = {insert_decision(database, number, question=one): one for number, one in enumerate("qqr")}
    make_tasks(database, caller="lead", count=3, seed=1, reviews=2)
    for person in ("ann", "ben"):
        blind: dict[str, list[bool]] = {"q": [], "r": []}
        for lease in leases.lease(database, person, count=3, job=None)[0]:
            stored, _ = reviews.submit(database, submission(lease, "A"), person)
            assert stored.answer is not None
            blind[questions[stored.answer["id"]]].append(stored.review.blind)
        assert blind == {"q": [True, False], "r": [True]}


def test_every_display_order_maps_back(database) -> None:
    now = datetime.now(UTC)
    for number, order in enumerate(ORDERS):
        decision = insert_decision(database, number)
        pictures = {position: sha256(f"{number}/{position}") for position in range(5)}
        with database.writing() as connection:
            task = {"job": "review", "reason": "audit", "decision_id": decision, "reviews_required": 1}
            (identity,) = insert_tasks(connection, [(task, pictures)], 1, now)
            ordered = sa.update(REVIEW_SLOT).where(REVIEW_SLOT.c.task_id == identity)
            connection.execute(ordered.values(display_order=order))
        lease = take(database, "ann")
        shown = [leases.picture_of(database, lease.id, "ann", place)[0] for place in range(5)]
        assert shown == [pictures[0], *(pictures["ABCD".index(letter) + 1] for letter in order)]
        # The first picture on the page is the only usable one; the others name their place in a comment.
        said = tuple(Verdict(place == 1, {}, f"shown as {place}") for place in range(1, 5))
        sent = reviews.Submission(f"review-{number}", lease.id, said, None, None, 1.0, None)
        stored, _ = reviews.submit(database, sent, "ann")
        assert stored.letters == order[0]
        with database.reading() as connection:
            query = sa.select(VERDICT).where(VERDICT.c.review_id == sent.id).order_by(VERDICT.c.position)
            found = connection.execute(query).all()
        assert [row.comment for row in found] == [f"shown as {order.index(letter) + 1}" for letter in "ABCD"]
        answer = model_answer(answer_of("scr_1", "C", 0.9, needs_review=False), order)
        assert answer.choice == order.index("C") + 1 and answer.acceptable == [answer.choice]
        assert [one["usable"] for one in answer.pictures] == [letter == "C" for letter in order]
    assert len(ORDERS) == 24 == len(set(ORDERS))


def test_display_orders_are_uniform() -> None:
    counts = dict.fromkeys(ORDERS, 0)
    for task in range(6000):
        for number in range(1, 5):
            counts[display_order(2026, f"tsk_{task}", number)] += 1
    expected = 24_000 / 24
    chi_squared = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_squared < 49.73, "the 99.9 % quantile with 23 degrees of freedom"


@pytest.mark.parametrize(("letters", "numbers"), [("AC", "1, 2"), ("A,C", "2,1"), ("D", "3"), ("N", "N")])
def test_the_reasoning_names_displayed_numbers(letters: str, numbers: str) -> None:
    answer = answer_of("scr_1", "A", 0.9, needs_review=False) | {
        "reasoning": "I observed <A> normal: A cup, <B> shadow: too dark, <C> normal: fine, <D> layout: floats, so I "
        f"ultimately chose {letters}."
    }
    assert model_answer(answer, "CADB").reasoning == (
        "I observed <2> normal: A cup, <4> shadow: too dark, <1> normal: fine, <3> layout: floats, so I ultimately "
        f"chose {numbers}."
    )
