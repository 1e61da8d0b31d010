"""Send one question to an OpenAI-compatible endpoint and return the completion, with retries.

Retried are 429, 408, 5xx, timeouts, broken connections, and answers that are not chat completions (for example a
proxy's error page). Other 4xx answers are not retried. The openai client's own retries are off: they cannot pause all
requests of a run after a `Retry-After`, and they do not retry answers that are not chat completions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import openai
from openai.types.chat import ChatCompletion
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

from trainer.endpoint.errors import EndpointUnusable, Refused, Unanswered
from trainer.endpoint.pace import Clock, Pace
from trainer.runs.http_retry import retry_after

LONGEST_RETRY_AFTER = 600.0
"""Longest accepted `Retry-After` in seconds. A longer one, such as a daily quota, ends the run; the same command
continues it later."""

_FOR_ALL = {401: "the key is not accepted", 402: "the account has no credit", 404: "the model or address is unknown"}
"""Statuses that every other request would get as well."""


@dataclass(frozen=True, slots=True)
class Completion:
    """The answer to one question."""

    text: str
    finish: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    metered: bool
    """Whether the endpoint reported the number of tokens."""


@dataclass(frozen=True, slots=True)
class Asking:
    """Settings of every request that decide the answers."""

    model: str
    reply_tokens: int
    length_field: str = "max_tokens"
    """Name of the field that limits the reply; newer models of some providers accept only `max_completion_tokens`."""
    temperature: float | None = None
    """Sampling temperature; None uses the endpoint's default."""
    extra_body: Mapping[str, Any] = field(default_factory=dict)


class NotACompletion(Exception):
    """The endpoint answered with status 200, but not with a chat completion that has a choice."""


class Endpoint:
    """A client for one endpoint. Use it as an async context manager, because it holds open connections."""

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
        """Create the client without sending a request.

        Args:
            api_key: None or empty for a local server; no Authorization header is sent then.
            tries: maximum number of tries of one request, the first included.
            timeout: maximum time in seconds of one try, from its start to the last byte.
        """
        self.retries = 0
        self._asking = asking
        self._pace = pace
        self._timeout = timeout
        self._api_key = api_key or ""
        # The openai client requires a key; the header is removed below if there is none.
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
        """Ask one question.

        Args:
            content: parts of one user message, text and `image_url`.

        Raises:
            Refused, Unanswered, EndpointUnusable: see `trainer.endpoint.errors`.
        """
        try:
            # A copy per request, because a tenacity object stores the state of its call.
            return cast("Completion", await self._retrying.copy()(self._ask_once, content))
        except openai.APIStatusError as error:
            said = f"status {error.status_code}: {_said(error)}"
            if error.status_code in _FOR_ALL:
                raise EndpointUnusable(f"{_FOR_ALL[error.status_code]} ({said})") from error
            if (wait := _retry_after(error)) is not None and wait > LONGEST_RETRY_AFTER:
                raise EndpointUnusable(f"the endpoint asks to wait {wait / 60:.0f} minutes ({said})") from error
            raise (Unanswered(said) if _may_pass(error) else Refused(said)) from error
        except (openai.APIConnectionError, NotACompletion, TimeoutError) as error:
            raise Unanswered(_sentence(error, self._timeout, self._api_key)) from error

    async def _ask_once(self, content: Sequence[Mapping[str, Any]]) -> Completion:
        await self._pace.turn()
        body: dict[str, Any] = {
            "model": self._asking.model,
            "messages": [{"role": "user", "content": list(content)}],
            self._asking.length_field: self._asking.reply_tokens,
        }
        if self._asking.temperature is not None:
            body["temperature"] = self._asking.temperature
        # The client's timeout is per read, so a server that sends one byte a minute would never reach it.
        async with asyncio.timeout(self._timeout):
            try:
                completion = await self._client.chat.completions.create(
                    **body, extra_headers=self._headers, extra_body=dict(self._asking.extra_body)
                )
            except ValueError as error:  # the content type is JSON, the body is not
                raise NotACompletion("the body is not JSON") from error
        return _read(completion)

    def _before_sleep(self, state: RetryCallState) -> None:
        self.retries += 1
        error = state.outcome.exception() if state.outcome else None
        if error is not None and (wait := _retry_after(error)) is not None:
            self._pace.hold(wait)


def _read(completion: object) -> Completion:
    """Check the answer, because servers omit fields that the client's types declare and the client does not check."""
    choices = completion.choices if isinstance(completion, ChatCompletion) else None
    if not isinstance(completion, ChatCompletion) or not choices:
        raise NotACompletion("the body is not a chat completion with a choice")
    choice: Any = choices[0]
    if choice.message is None:
        raise NotACompletion("the choice has no message")
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
    """Whether the same request may succeed later."""
    if isinstance(error, openai.APIStatusError):
        passing = error.status_code in (408, 429) or error.status_code >= 500
        return passing and (_retry_after(error) or 0) <= LONGEST_RETRY_AFTER
    return isinstance(error, openai.APIConnectionError | NotACompletion | TimeoutError)


_backoff = wait_random_exponential(multiplier=2, max=60)
"""Exponential backoff with full jitter: at most 2, 4, 8, … 60 s."""


def _wait(state: RetryCallState) -> float:
    """Backoff with jitter. The wait is never shorter than `Retry-After`; jitter after it spreads the retries."""
    error = state.outcome.exception() if state.outcome else None
    after = _retry_after(error) if error is not None else None
    if after is None:
        return max(0.1, _backoff(state))
    return after + min(1.0, _backoff(state))


def _retry_after(error: BaseException) -> float | None:
    """Seconds that the endpoint asks to wait; None if it does not ask."""
    return retry_after(error.response.headers) if isinstance(error, openai.APIStatusError) else None


def _said(error: openai.APIStatusError) -> str:
    """The endpoint's own error message in one line."""
    return " ".join(error.message.split())[:300]


def _sentence(error: BaseException, timeout: float, key: str) -> str:
    if isinstance(error, openai.APITimeoutError | TimeoutError):
        return f"no answer within {timeout:g} s"
    if isinstance(error, openai.APIConnectionError):
        return f"the connection failed ({_without(key, str(error.__cause__ or error))})"
    return f"status 200, but {error}"


def _without(key: str, text: str) -> str:
    """A text without the API key, which an HTTP library shows when it refuses a header."""
    if not key:
        return text
    return text.replace(repr(key)[1:-1], "…").replace(key, "…")
