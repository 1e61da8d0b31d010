"""All questions of a run: N workers, each with one question at a time, until all are settled or none can be.

Told apart: a question without an answer (the others go on), a question that is refused (it is settled), a limit, and an
endpoint that is of no use to any question.
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
"""So many refusals before the first answer, and it is not the pictures: the endpoint refuses everything."""


class Named(Protocol):
    """A question; `id` names it in messages."""

    @property
    def id(self) -> str: ...


Item = TypeVar("Item", bound=Named)


@dataclass(slots=True)
class Outcome:
    """How a run ended."""

    limit_reached: bool = False
    unanswered: dict[str, str] = field(default_factory=dict)
    """Question → why there was no answer, after all tries."""

    def sentences(self, meter: Meter) -> tuple[str, ...]:
        """What is still to be done, and how; empty when nothing is."""
        lines = []
        if self.unanswered:
            name, why = next(iter(self.unanswered.items()))
            lines.append(f"no answer about {len(self.unanswered)} samples ({name}: {why}); the same command asks again")
        if self.limit_reached:
            lines.append(
                f"stopped at the limit after {meter.tokens} tokens; to go on, run the same command with a higher "
                "--max-tokens-total or --budget"
            )
        return tuple(lines)


class Workers:
    """Asks one endpoint, within the limits of one run."""

    def __init__(self, endpoint: Endpoint, meter: Meter, concurrency: int) -> None:
        self._endpoint = endpoint
        self._meter = meter
        self._concurrency = concurrency
        self._answers = 0
        self._failures_in_a_row = 0
        self._unusable: EndpointUnusable | None = None
        self._held: list[tuple[Refused, Callable[[], None]]] = []
        """Refusals before the first answer of this run."""

    async def settle_all(self, items: Iterable[Item], settle: Callable[[Item], Awaitable[None]]) -> Outcome:
        """Settle every question, or as many as limits and endpoint allow.

        Args:
            settle: asks about one question (`ask`, once or several times) and keeps what came back.

        Raises:
            EndpointUnusable: no request can succeed now. What was kept is kept.
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
        """Put one request, within the limits.

        Args:
            content: parts of one user message.

        Raises:
            Refused, Unanswered, EndpointUnusable: see `trainer.endpoint.errors`.
            LimitReached: it might go over a limit.
        """
        async with self._meter.request():
            if self._unusable:  # found out while this one waited for its turn
                raise self._unusable
            completion = await self._complete(content)
            self._meter.add(completion.prompt_tokens, completion.completion_tokens)
        self._answers += 1
        self._failures_in_a_row = 0
        while self._held:  # the endpoint answers others, so these were refused for what they are
            self._held.pop(0)[1]()
        return completion

    def refused(self, error: Refused, keep: Callable[[], None]) -> bool:
        """Keep a refusal: at once, or as soon as the endpoint has answered anything, as it may refuse everything.

        Returns:
            Whether it is kept now.

        Raises:
            EndpointUnusable: it does refuse everything.
        """
        if self._answers:
            keep()
            return True
        self._held.append((error, keep))
        if len(self._held) >= REFUSED_FROM_THE_START:
            raise self._refuses_everything()
        return False

    async def _complete(self, content: Sequence[Mapping[str, Any]]) -> Completion:
        try:
            completion = await self._endpoint.ask(content)
            if self._meter.limited and not completion.metered:
                raise EndpointUnusable("the endpoint does not report tokens, so no limit on them can be kept")
        except EndpointUnusable as error:
            self._unusable = error
            raise
        return completion

    def _count_failure(self, error: Unanswered) -> None:
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= max(3, self._concurrency):
            raise EndpointUnusable(f"{self._failures_in_a_row} questions in a row got no answer ({error})") from error

    def _refuses_everything(self) -> EndpointUnusable:
        return EndpointUnusable(f"it refuses every request ({self._held[0][0]})")
