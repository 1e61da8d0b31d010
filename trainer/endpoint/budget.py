"""Count the tokens and the cost of a run, and enforce their limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass


class LimitReached(Exception):
    """The next request might exceed a limit, and no request is in flight."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices of a million tokens, in any currency."""

    prompt: float
    completion: float

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Cost of one request, in the currency of the prices."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


@dataclass(slots=True)
class _Limit:
    total: float
    of: Callable[[int, int], float]
    """Prompt tokens, completion tokens → amount."""
    spent: float = 0.0
    largest: float = 0.0

    def add(self, prompt_tokens: int, completion_tokens: int) -> None:
        amount = self.of(prompt_tokens, completion_tokens)
        self.spent += amount
        self.largest = max(self.largest, amount)

    def allows(self, in_flight: int) -> bool:
        """Whether one more request fits; every request in flight counts as much as the most expensive one so far."""
        if in_flight and not self.largest:
            return False  # the cost of a request is known after the first answer
        return self.spent < self.total and self.spent + self.largest * (in_flight + 1) <= self.total


class Meter:
    """Counts tokens and cost over all runs in one directory, and enforces their limits.

    A request starts only if it and all requests in flight fit into the limit; each counts as much as the most expensive
    one so far. Until the first answer shows the cost of a request, requests run one at a time. A limit can only be
    exceeded by an answer that is more expensive than all before it.
    """

    def __init__(
        self, *, max_tokens: int | None = None, budget: float | None = None, prices: Prices | None = None
    ) -> None:
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self._prices = prices
        self._limits: list[_Limit] = []
        if max_tokens is not None:
            self._limits.append(_Limit(max_tokens, lambda prompt, completion: prompt + completion))
        if budget is not None:
            if prices is None:
                raise ValueError("a budget needs prices")
            self._limits.append(_Limit(budget, prices.cost))
        self._in_flight = 0
        self._changed = asyncio.Condition()

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        return bool(self._limits)

    @property
    def tokens(self) -> int:
        """Tokens of prompts and completions together."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def cost(self) -> float | None:
        """Cost so far, in the currency of the prices; None without prices."""
        return self._prices.cost(self.prompt_tokens, self.completion_tokens) if self._prices else None

    def add(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Count an answer."""
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
        for limit in self._limits:
            limit.add(prompt_tokens, completion_tokens)

    @asynccontextmanager
    async def request(self) -> AsyncIterator[None]:
        """Reserve one request within the limits; waits while the requests in flight might use up the rest.

        Raises:
            LimitReached: no request is in flight, and one more might exceed a limit.
        """
        async with self._changed:
            while not all(limit.allows(self._in_flight) for limit in self._limits):
                if not self._in_flight:
                    raise LimitReached
                await self._changed.wait()
            self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1
            async with self._changed:
                self._changed.notify_all()
