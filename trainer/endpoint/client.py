"""One request to an OpenAI-compatible endpoint: a question in, a completion out, retried while that may help.

Retried: 429, 408, 5xx, timeouts, broken connections, and answers that are not chat completions (a proxy's error page).
Not retried: any other 4xx. The client's own retries are off, or each of ours would be three.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import Any, cast

import openai
from openai.types.chat import ChatCompletion
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

from trainer.endpoint.errors import EndpointUnusable, Refused, Unanswered
from trainer.endpoint.pace import Clock, Pace

LONGEST_RETRY_AFTER = 600.0
"""Seconds. An endpoint that asks for more (a quota of the day) ends the run; the same command continues it later."""

_FOR_ALL = {401: "the key is not accepted", 402: "the account has no credit", 404: "there is no such model or address"}
"""Statuses that every other request would get as well."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What came back."""

    text: str
    finish: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    metered: bool
    """Whether the endpoint said how many tokens it took."""


@dataclass(frozen=True, slots=True)
class Asking:
    """How every request is made."""

    model: str
    reply_tokens: int
    length_field: str = "max_tokens"
    """Newer models of some providers take `max_completion_tokens` only."""
    temperature: float | None = None
    """None leaves it to the endpoint."""
    extra_body: Mapping[str, Any] = field(default_factory=dict)


class NotACompletion(Exception):
    """Status 200, but not a chat completion with a choice in it."""


class Endpoint:
    """Asks questions. Use as an async context manager: it holds connections."""

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        asking: Asking,
        *,
        pace: Pace,
        clock: Clock,
        tries: int = 6,
        timeout: float = 120.0,
    ) -> None:
        """Nothing is sent yet.

        Args:
            api_key: None or empty for a local server: no Authorization header is sent then.
            tries: of one request, the first included.
            timeout: seconds of one try, from its start to the last byte.
        """
        self.retries = 0
        self._asking = asking
        self._pace = pace
        self._timeout = timeout
        # The client insists on a key; the header with it is left out below.
        self._client = openai.AsyncOpenAI(base_url=base_url, api_key=api_key or "none", max_retries=0, timeout=timeout)
        self._headers = {} if api_key else {"Authorization": openai.Omit()}
        self._retrying = AsyncRetrying(
            sleep=clock.sleep,
            stop=stop_after_attempt(tries),
            wait=_wait,
            retry=retry_if_exception(_may_pass),
            before_sleep=self._before_sleep,
            reraise=True,
        )

    async def __aenter__(self) -> Endpoint:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def ask(self, content: Sequence[Mapping[str, Any]]) -> Completion:
        """Put one question.

        Args:
            content: parts of one user message, text and `image_url`.

        Raises:
            Refused, Unanswered, EndpointUnusable: see `trainer.endpoint.errors`.
        """
        try:
            # A copy per request: tenacity's objects keep the state of the call that they retry.
            return cast("Completion", await self._retrying.copy()(self._ask_once, content))
        except openai.APIStatusError as error:
            said = f"status {error.status_code}: {_said(error)}"
            if error.status_code in _FOR_ALL:
                raise EndpointUnusable(f"{_FOR_ALL[error.status_code]} ({said})") from error
            if (wait := _retry_after(error)) is not None and wait > LONGEST_RETRY_AFTER:
                raise EndpointUnusable(f"the endpoint asks to wait {wait / 60:.0f} minutes ({said})") from error
            raise (Unanswered(said) if _may_pass(error) else Refused(said)) from error
        except (openai.APIConnectionError, NotACompletion, TimeoutError) as error:
            raise Unanswered(_sentence(error, self._timeout)) from error

    async def _ask_once(self, content: Sequence[Mapping[str, Any]]) -> Completion:
        await self._pace.turn()
        body: dict[str, Any] = {
            "model": self._asking.model,
            "messages": [{"role": "user", "content": list(content)}],
            self._asking.length_field: self._asking.reply_tokens,
        }
        if self._asking.temperature is not None:
            body["temperature"] = self._asking.temperature
        # The client's timeout is per read; a server that drips one byte a minute would never run into it.
        async with asyncio.timeout(self._timeout):
            try:
                completion = await self._client.chat.completions.create(
                    **body, extra_headers=self._headers, extra_body=dict(self._asking.extra_body)
                )
            except ValueError as error:  # a body that says it is JSON and is not
                raise NotACompletion("the body is not JSON") from error
        return _read(completion)

    def _before_sleep(self, state: RetryCallState) -> None:
        self.retries += 1
        error = state.outcome.exception() if state.outcome else None
        if error is not None and (wait := _retry_after(error)) is not None:
            self._pace.hold(wait)


def _read(completion: object) -> Completion:
    """Servers leave out what the client's types promise; the client does not check."""
    choices = completion.choices if isinstance(completion, ChatCompletion) else None
    if not isinstance(completion, ChatCompletion) or not choices:
        raise NotACompletion("it is not a chat completion with a choice in it")
    choice: Any = choices[0]
    if choice.message is None:
        raise NotACompletion("its choice has no message")
    usage: Any = completion.usage
    return Completion(
        text=choice.message.content or choice.message.refusal or "",
        finish=choice.finish_reason or "stop",
        model=completion.model or "",
        prompt_tokens=(usage.prompt_tokens or 0) if usage else 0,
        completion_tokens=(usage.completion_tokens or 0) if usage else 0,
        metered=bool(usage),
    )


def _may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed in a while."""
    if isinstance(error, openai.APIStatusError):
        passing = error.status_code in (408, 429) or error.status_code >= 500
        return passing and (_retry_after(error) or 0) <= LONGEST_RETRY_AFTER
    return isinstance(error, openai.APIConnectionError | NotACompletion | TimeoutError)


_backoff = wait_random_exponential(multiplier=2, max=60)
"""Full jitter: up to 2, 4, 8, … 60 s."""


def _wait(state: RetryCallState) -> float:
    """Backoff with jitter; never shorter than Retry-After, and spread behind it, or all would come back at once."""
    error = state.outcome.exception() if state.outcome else None
    after = _retry_after(error) if error is not None else None
    if after is None:
        return max(0.1, _backoff(state))
    return after + min(1.0, _backoff(state))


def _retry_after(error: BaseException) -> float | None:
    """Seconds that the endpoint asks to wait (RFC 9110, section 10.2.3: a number or a date); None if it does not say.

    `retry-after-ms` is a habit of some providers, and finer.
    """
    if not isinstance(error, openai.APIStatusError):
        return None
    headers = error.response.headers
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * scale
        except ValueError:
            continue
        return seconds if isfinite(seconds) and seconds >= 0 else None
    try:
        moment = parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _said(error: openai.APIStatusError) -> str:
    """The endpoint's own words, in one line."""
    return " ".join(error.message.split())[:300]


def _sentence(error: BaseException, timeout: float) -> str:
    if isinstance(error, openai.APITimeoutError | TimeoutError):
        return f"no answer within {timeout:g} s"
    if isinstance(error, openai.APIConnectionError):
        return f"the connection failed ({error.__cause__ or error})"
    return f"status 200, but {error}"
