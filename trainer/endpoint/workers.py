"""Ask all questions of a run with N workers, each of which handles one question at a time.

A question without an answer does not stop the others. A refused question counts as settled. A limit, or an endpoint
that cannot answer any question, ends the run.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from trainer.endpoint.budget import LimitReached, Meter
from trainer.endpoint.client import Completion, Endpoint
from trainer.endpoint.errors import EndpointUnusable, Refused, Unanswered

REFUSED_FROM_THE_START = 5
"""Number of refusals before the first answer after which the endpoint is taken to refuse every request, if one
question is asked at a time. Each further worker adds one, because refusals arrive faster than answers."""


class Named(Protocol):
    """A question; messages contain its `id`."""

    @property
    def id(self) -> str: ...


Item = TypeVar("Item", bound=Named)


@dataclass(slots=True)
class Outcome:
    """What a run left open."""

    limit_reached: bool = False
    unanswered: dict[str, str] = field(default_factory=dict)
    """Question → reason why it had no answer after all tries."""

    def sentences(self, meter: Meter) -> tuple[str, ...]:
        """Sentences about what is left to do; empty if nothing is."""
        lines = []
        if self.unanswered:
            name, why = next(iter(self.unanswered.items()))
            lines.append(f"no answer for {len(self.unanswered)} samples ({name}: {why}); the same command asks again")
        if self.limit_reached:
            lines.append(
                f"stopped at the limit after {meter.tokens} tokens; to continue, run the same command with a higher "
                "--max-tokens-total or --budget"
            )
        return tuple(lines)


class Workers:
    """Workers that ask one endpoint within the limits of one run."""

    def __init__(self, endpoint: Endpoint, meter: Meter, concurrency: int, *, answers: int) -> None:
        """Prepare the workers without sending a request.

        Args:
            answers: number of answers of earlier runs; refusals do not count.
        """
        self._endpoint = endpoint
        self._meter = meter
        self._concurrency = concurrency
        self._answers = answers
        self._failures_in_a_row = 0
        self._unusable: EndpointUnusable | None = None
        self._held: list[tuple[Refused, Callable[[], None]]] = []
        """Refusals before the first answer, each with the function that records it."""

    async def settle_all(self, items: Iterable[Item], settle: Callable[[Item], Awaitable[None]]) -> Outcome:
        """Settle every question, or as many as the limits and the endpoint allow.

        Args:
            settle: asks one question (with one or more calls of `ask`) and stores the replies.

        Raises:
            EndpointUnusable: no request can succeed now. Stored replies remain.
        """
        waiting = deque(items)
        outcome = Outcome()

        async def work() -> None:
            while waiting and not outcome.limit_reached:
                item = waiting.popleft()
                try:
                    await settle(item)
                except Unanswered as error:
                    outcome.unanswered[item.id] = str(error)
                    self._count_failure(error)
                except LimitReached:
                    outcome.limit_reached = True

        workers = [asyncio.create_task(work()) for _ in range(min(self._concurrency, len(waiting)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        if self._held:
            raise self._refuses_everything()
        return outcome

    async def ask(self, content: Sequence[Mapping[str, Any]]) -> Completion:
        """Send one request within the limits.

        Args:
            content: parts of one user message.

        Raises:
            Refused, Unanswered, EndpointUnusable: see `trainer.endpoint.errors`.
            LimitReached: the request might exceed a limit.
        """
        async with self._meter.request():
            if self._unusable:  # found while this request waited
                raise self._unusable
            completion = await self._complete(content)
            self._meter.add(completion.prompt_tokens, completion.completion_tokens)
        self._answers += 1
        self._failures_in_a_row = 0
        while self._held:  # the endpoint answers other requests, so these were refused for their content
            self._held.pop(0)[1]()
        return completion

    def refused(self, error: Refused, keep: Callable[[], None]) -> bool:
        """Record a refusal, but only after the endpoint has answered a request, since it may refuse every request.

        An answer of an earlier run counts too. Otherwise a run that has only refused questions left could never end.

        Args:
            keep: records the refusal.

        Returns:
            Whether the refusal is recorded now.

        Raises:
            EndpointUnusable: the endpoint refuses every request.
        """
        if self._answers:
            keep()
            return True
        self._held.append((error, keep))
        if len(self._held) >= REFUSED_FROM_THE_START + self._concurrency - 1:
            raise self._refuses_everything()
        return False

    async def _complete(self, content: Sequence[Mapping[str, Any]]) -> Completion:
        try:
            completion = await self._endpoint.ask(content)
            if self._meter.limited and not completion.metered:
                raise EndpointUnusable("the endpoint does not report token counts, so a limit cannot be enforced")
        except EndpointUnusable as error:
            self._unusable = error
            raise
        return completion

    def _count_failure(self, error: Unanswered) -> None:
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= max(3, self._concurrency):
            raise EndpointUnusable(f"{self._failures_in_a_row} questions in a row got no answer ({error})") from error

    def _refuses_everything(self) -> EndpointUnusable:
        return EndpointUnusable(f"the endpoint refuses every request ({self._held[0][0]})")
