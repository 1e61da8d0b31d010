"""Send one request through the SDK, and record its outcome."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from loadtest.load.pictures import Question
from loadtest.results.record import Exchange, RunRecorder
from screening_client import AsyncClient, Screening, ScreeningClientError, StatusError


class Asker:
    """Asks the next question and records the exchange."""

    def __init__(self, client: AsyncClient, questions: Iterator[Question], recorder: RunRecorder) -> None:
        self._client = client
        self._questions = questions
        self._recorder = recorder
        self._asked = 0
        self.stage: str | None = None
        """Name of the current part of the run, recorded with every new exchange."""
        self.attempts: defaultdict[str, list[int | None]] = defaultdict(list)
        """Statuses of the attempts by request id, for requests in flight; None for an attempt without an answer."""

    async def ask(self, intended: float | None = None) -> Exchange:
        """
        Args:
            intended: planned send time in seconds since the run began; None means now.
        """
        number, stage, question = self._asked, self.stage, next(self._questions)
        self._asked += 1
        request_id = f"load-{number}"
        sent = self._recorder.now
        try:
            screening = await self._client.screen(
                original=question.original, generated=question.generated, request_id=request_id
            )
            found = _answer(screening)
        except ScreeningClientError as error:
            found = _failure(error)
        finally:
            statuses = self.attempts.pop(request_id, [])
        exchange = Exchange(
            number=number,
            intended=sent if intended is None else intended,
            sent=sent,
            finished=self._recorder.now,
            attempts=max(1, len(statuses)),
            refusals=tuple(status for status in statuses[:-1] if status is not None),
            repeated=question.repeated,
            stage=stage,
            **found,
        )
        self._recorder.add(exchange)
        return exchange


@asynccontextmanager
async def open_asker(
    base_url: str,
    questions: Iterator[Question],
    recorder: RunRecorder,
    *,
    api_key: str | None = None,
    retries: int = 0,
    seconds: float | None = None,
) -> AsyncIterator[Asker]:
    """
    Args:
        api_key: None takes SCREENING_API_KEY; empty sends no key.
        retries: maximum number of retries by the SDK.
        seconds: time limit of a whole call; None takes the SDK's own limits.
    """
    asker: Asker | None = None

    async def before(request: httpx.Request) -> None:
        if asker is not None:
            asker.attempts[request.headers["x-request-id"]].append(None)

    async def after(response: httpx.Response) -> None:
        if asker is not None:
            asker.attempts[response.request.headers["x-request-id"]][-1] = response.status_code

    # Without a proxy, which would be measured too.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    hooks: dict[str, list[Any]] = {"request": [before], "response": [after]}
    async with (
        httpx.AsyncClient(limits=limits, trust_env=False, event_hooks=hooks) as http,
        AsyncClient(
            base_url=base_url, api_key=api_key, max_retries=retries, timeout=seconds, http_client=http
        ) as client,
    ):
        asker = Asker(client, questions, recorder)
        yield asker


def _answer(screening: Screening) -> dict[str, Any]:
    return {
        "status": 200,
        "outcome": screening.outcome,
        "choice": screening.choice,
        "digest": screening.checkpoint.digest,
        "version": screening.checkpoint.version,
        "reasoning": screening.reasoning,
        "source": screening.source,
        "queue_ms": screening.timings.queue_ms,
        "engine_ms": screening.timings.engine_ms,
    }


def _failure(error: ScreeningClientError) -> dict[str, Any]:
    return {
        "status": error.status if isinstance(error, StatusError) else None,
        "error": type(error).__name__,
        "detail": str(error),
        "retry_after": error.retry_after,
    }
