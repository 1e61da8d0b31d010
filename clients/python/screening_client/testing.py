"""A fake service for the tests of programs that use this package. It needs neither a network nor a model.

    from screening_client.testing import FakeService, answer, problem

    def test_a_product_without_a_usable_picture_is_left_out():
        service = FakeService(answer("N"))
        with service.client() as client:
            assert publish(product, client) is None
        assert service.requests[0].metadata == {"product": "4711"}

Everything except the network is real: checks, encoding, retries and errors. Each request gets the next reply. When none
is left, the answer depends only on the pictures, so that the same request always gets the same answer. The stand-in
keeps its answers as decisions, which `client.decisions` reads and erases. A call of `client.decisions` gets the next
reply only if that is an error.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, get_args

import httpx

from screening_client.async_client import AsyncClient
from screening_client.client import Client
from screening_client.errors import PROBLEM_PREFIX
from screening_client.fake_decisions import FakeDecisions
from screening_client.result import Choice, Option

Reply: TypeAlias = "Mapping[str, Any] | httpx.Response | Exception"
"""The JSON of an answer (see `answer`), a response (see `problem`), or an error such as `httpx.ReadError("broke")`."""


@dataclass(frozen=True, slots=True)
class FakeRequest:
    """A request as the service received it. Each attempt of a call is a separate request."""

    original: bytes = field(repr=False)
    generated: tuple[bytes, ...] = field(repr=False)
    mode: str
    metadata: Mapping[str, Any]
    review_below: float | None
    locate: bool
    headers: httpx.Headers = field(repr=False)

    @property
    def request_id(self) -> str:
        return str(self.headers["X-Request-Id"])

    @property
    def idempotency_key(self) -> str:
        return str(self.headers["Idempotency-Key"])


class FakeService:
    """Creates clients for itself. `requests` lists what they sent; `is_ready` is the result of the readiness probe."""

    def __init__(self, *replies: Reply) -> None:
        self.requests: list[FakeRequest] = []
        self.is_ready = True
        self._replies = deque(replies)
        self._decisions = FakeDecisions(problem)

    @property
    def feedback(self) -> list[Mapping[str, Any]]:
        """Feedback on decisions that are not erased: `decision`, `kind`, `options`, `comment`, and its other fields."""
        return self._decisions.feedback()

    def reply(self, *replies: Reply) -> None:
        """Add replies for the next requests, after the replies that are still left."""
        self._replies.extend(replies)

    def client(self, **options: Any) -> Client:
        """Create a client of this service. `options` are the arguments of `Client`."""
        return Client(**{"base_url": _URL, **options}, http_client=lambda: httpx.Client(transport=self.transport))

    def async_client(self, **options: Any) -> AsyncClient:
        """Create an asynchronous client of this service. `options` are the arguments of `AsyncClient`."""
        options = {"base_url": _URL, **options}
        return AsyncClient(**options, http_client=lambda: httpx.AsyncClient(transport=self.transport))

    @property
    def transport(self) -> httpx.MockTransport:
        """Transport for your own httpx client, synchronous or asynchronous."""
        return httpx.MockTransport(self._respond)

    def _respond(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/readyz"):
            response = httpx.Response(200, json={"status": "ok"}) if self.is_ready else problem(503, "not-ready")
        elif "/decisions" in request.url.path:
            response = self._next_failure() or self._decisions.respond(request)
        else:
            asked = _read(request)
            self.requests.append(asked)
            response = self._kept(_response(self._next_reply(asked), asked), asked)
        if "X-Request-Id" in request.headers:
            response.headers.setdefault("X-Request-Id", request.headers["X-Request-Id"])
        return response

    def _kept(self, response: httpx.Response, asked: FakeRequest) -> httpx.Response:
        if response.status_code == 200 and isinstance(answered := response.json(), dict) and "id" in answered:
            self._decisions.keep(answered, (asked.original, *asked.generated))
        return response

    def _next_failure(self) -> httpx.Response | None:
        """The next reply, if it is an error and not an answer to a screening."""
        if not self._replies or isinstance(self._replies[0], Mapping):
            return None
        return _response(self._replies.popleft(), None)

    def _next_reply(self, asked: FakeRequest) -> Reply:
        try:
            return self._replies.popleft()
        except IndexError:  # another thread could take the last reply between a check and this line
            return _answer_to(asked)


def answer(
    choice: Choice | None = "A",
    *,
    acceptable: tuple[Option, ...] | None = None,
    confidence: float = 0.9,
    needs_review: bool = False,
    reasoning: str | None = "A reasoning.",
    **changes: Any,
) -> dict[str, Any]:
    """Return the JSON of an answer.

    Args:
        choice: the picture to show, `N` for none, None for an answer that could not be read.
        acceptable: the usable pictures; by default only the choice.
        changes: values for other fields of the answer, such as `checkpoint`.
    """
    usable = acceptable if acceptable is not None else () if choice in ("N", None) else (choice,)
    readable = choice is not None
    return {
        "id": "scr_fake",
        "outcome": "answered" if readable else "unreadable",
        "unreadable_reason": None if readable else "no_answer",
        "choice": choice,
        "acceptable": list(usable),
        "reasoning": reasoning if readable else None,
        "options": [_option(letter, letter in usable) for letter in get_args(Option)],
        "confidence": confidence if readable else 0.0,
        "needs_review": needs_review or not readable,
        "warnings": [],
        "mode": "cot",
        "checkpoint": {"name": "fake", "version": "1", "digest": "sha256:" + "0" * 64},
        "engine": "scripted",
        "source": "engine",
        "timings": {"queue_ms": 0.0, "decode_ms": 0.0, "engine_ms": 0.0, "total_ms": 0.0},
        "usage": {"prompt_tokens": 0, "completion_tokens": 0},
        **changes,
    }


def problem(
    status: int,
    code: str = "fake-problem",
    detail: str = "A scripted failure.",
    *,
    retry_after: float | None = None,
    picture: str | None = None,
) -> httpx.Response:
    """Return an error response, for example `problem(422, "image-unreadable", picture="generated[1]")`.

    Args:
        code: type of the problem without its prefix; docs/http-api.md lists those of the service.
        retry_after: number of seconds; with 0, the client retries at once.
        picture: name of the picture at fault.
    """
    body = {"type": PROBLEM_PREFIX + code, "title": code, "status": status, "detail": detail, "instance": "/screen"}
    return httpx.Response(
        status,
        content=json.dumps(body | ({"picture": picture} if picture else {})),
        headers={"Content-Type": "application/problem+json"}
        | ({} if retry_after is None else {"Retry-After": f"{retry_after:g}"}),
    )


_URL = "http://screening.test"


def _option(letter: str, usable: bool) -> dict[str, Any]:
    issues = [] if usable else ["appearance_deformation"]
    return {"option": letter, "usable": usable, "probability": None, "issues": issues, "comment": None}


def _answer_to(asked: FakeRequest) -> Reply:
    digest = hashlib.sha256(b"".join(hashlib.sha256(each).digest() for each in (asked.original, *asked.generated)))
    choices: tuple[Choice, ...] = get_args(Choice)
    return answer(choices[digest.digest()[0] % len(choices)], id=f"scr_{digest.hexdigest()[:26]}", mode=asked.mode)


def _response(reply: Reply, asked: FakeRequest | None) -> httpx.Response:
    if isinstance(reply, Exception):
        raise reply
    if isinstance(reply, httpx.Response):
        # The response is copied, because it may be the reply to several requests and httpx closes it after the first.
        return httpx.Response(reply.status_code, headers=reply.headers, content=reply.content)
    reply = {"metadata": dict(asked.metadata) if asked else {}, **reply}
    return httpx.Response(200, json=_located(reply) if asked and asked.locate else reply)


def _located(reply: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give each issue a box, as a service does for a call with `locate`. A reply with `regions` keeps them."""
    if not isinstance(options := reply.get("options"), list) or not all(isinstance(one, Mapping) for one in options):
        return reply
    return {**reply, "options": [{"regions": _regions(one.get("issues") or ()), **one} for one in options]}


def _regions(issues: Iterable[str]) -> list[dict[str, Any]]:
    return [{"issue": issue, "box": [0.25, 0.25, 0.75, 0.75]} for issue in issues]


def _read(request: httpx.Request) -> FakeRequest:
    boundary = request.headers["Content-Type"].partition("boundary=")[2].encode()
    parts: dict[str, list[bytes]] = {}
    for part in request.read().split(b"--" + boundary)[1:-1]:
        head, _, data = part.partition(b"\r\n\r\n")
        name = re.findall(rb' name="([^"]*)"', head)[0].decode()
        parts.setdefault(name, []).append(data.removesuffix(b"\r\n"))
    return FakeRequest(
        original=parts["original"][0],
        generated=tuple(parts["generated"]),
        mode=parts["mode"][0].decode(),
        metadata=json.loads(parts["metadata"][0]),
        review_below=float(parts["review_below"][0]) if "review_below" in parts else None,
        locate=parts.get("locate") == [b"true"],
        headers=request.headers,
    )
