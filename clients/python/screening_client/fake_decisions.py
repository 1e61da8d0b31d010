"""The decisions of `testing.FakeService`: kept in memory, read, corrected and erased like those of the service."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx

_FIRST = datetime(2026, 1, 1, tzinfo=timezone.utc)  # noqa: UP017 - Python 3.10 has no datetime.UTC
_SUMMARY = ("id", "created_at", "caller", "product", "checkpoint", "choice", "confidence", "needs_review")


class FakeDecisions:
    """Keeps every answer that the stand-in gives. Times are one second apart, so that tests have the same each time."""

    def __init__(self, problem: Callable[[int, str, str], httpx.Response]) -> None:
        self._problem = problem
        self._lock = threading.Lock()
        self._kept: dict[str, dict[str, Any]] = {}
        self._bytes: dict[str, Sequence[bytes]] = {}
        self._by_key: dict[tuple[str, str], dict[str, Any]] = {}
        self._moments = 0

    def keep(self, answer: Mapping[str, Any], pictures: Sequence[bytes]) -> None:
        """An answer and its pictures, original first."""
        with self._lock:
            identity = str(answer["id"])
            self._kept.pop(identity, None)  # so that the newest is the last
            self._bytes[identity] = pictures
            self._kept[identity] = {
                "id": identity,
                "created_at": self._now(),
                "caller": "",
                "answer": dict(answer),
                "pictures": [_picture(position, data) for position, data in enumerate(pictures)],
                "feedback": [],
            }

    def feedback(self) -> list[Mapping[str, Any]]:
        """All feedback, with the field `decision` for the id of its decision."""
        with self._lock:
            return [{**given, "decision": one["id"]} for one in self._kept.values() for given in one["feedback"]]

    def respond(self, request: httpx.Request) -> httpx.Response:
        """The answer to a request to `/decisions…`."""
        _, _, path = request.url.path.partition("/decisions")
        identity, _, rest = path.strip("/").partition("/")
        with self._lock:
            if not identity:
                return self._page(request.url.params)
            if request.method == "DELETE":
                self._kept.pop(identity, None)
                return httpx.Response(204)
            if identity not in self._kept:
                return self._problem(404, "decision-not-found", f"There is no decision {identity!r}.")
            if request.method == "POST":
                return self._add(identity, request)
            if rest:
                data = self._bytes[identity][int(rest.rpartition("/")[2])]
                return httpx.Response(200, content=data, headers={"Content-Type": "image/jpeg"})
            return httpx.Response(200, json=self._kept[identity])

    def _page(self, asked: httpx.QueryParams) -> httpx.Response:
        # The cursor is a time, so it stays valid when its decision is erased.
        cursor, limit = asked.get("cursor"), int(asked.get("limit", 50))
        found = [one for one in map(_summary, reversed(self._kept.values())) if _fits(one, asked)]
        found = [one for one in found if cursor is None or one["created_at"] < cursor]
        after = found[limit - 1]["created_at"] if len(found) > limit else None
        return httpx.Response(200, json={"decisions": found[:limit], "next": after})

    def _add(self, identity: str, request: httpx.Request) -> httpx.Response:
        given, key = json.loads(request.read()), (identity, request.headers["Idempotency-Key"])
        earlier = self._by_key.get(key)
        if earlier is None:
            fields = {"kind": given["kind"], "options": given["options"], "comment": given.get("comment")}
            earlier = {"id": f"fbk_fake{len(self._by_key)}", "created_at": self._now(), "caller": "", **fields}
            self._by_key[key] = earlier
            self._kept[identity]["feedback"].append(earlier)
        elif any(earlier[name] != value for name, value in given.items()):
            return self._problem(
                422, "idempotency-key-reused", "This Idempotency-Key was used for another piece of feedback."
            )
        return httpx.Response(201, json=earlier)

    def _now(self) -> str:
        self._moments += 1
        return (_FIRST + timedelta(seconds=self._moments)).isoformat()


def _picture(position: int, data: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    return {"position": position, "sha256": digest, "media_type": "image/jpeg", "bytes": len(data)}


def _summary(kept: Mapping[str, Any]) -> dict[str, Any]:
    answer = kept["answer"]
    product = answer["metadata"].get("product")
    more = {"product": product if isinstance(product, str) else None, "checkpoint": answer["checkpoint"]["digest"]}
    fields = {**answer, **kept, **more}
    return {name: fields[name] for name in _SUMMARY}


def _fits(one: Mapping[str, Any], asked: httpx.QueryParams) -> bool:
    moment = datetime.fromisoformat(one["created_at"])
    compared: Mapping[str, Callable[[str], bool]] = {
        "since": lambda value: moment >= datetime.fromisoformat(value),
        "until": lambda value: moment < datetime.fromisoformat(value),
        "min_confidence": lambda value: one["confidence"] >= float(value),
        "max_confidence": lambda value: one["confidence"] <= float(value),
        "needs_review": lambda value: one["needs_review"] is (value == "true"),
    }
    equal = ("checkpoint", "choice", "product", "caller")
    return all(one[name] == asked[name] for name in equal if name in asked) and all(
        compare(asked[name]) for name, compare in compared.items() if name in asked
    )
