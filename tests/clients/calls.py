"""One call of either client."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from screening_client import AsyncClient, Client


def screen(kind: type[Client | AsyncClient], question: Any, **options: Any) -> Any:
    """One call of either client, under the request id `mine.1`."""
    if issubclass(kind, Client):
        with kind(**options) as client:
            return client.screen(**question, request_id="mine.1")

    async def call() -> Any:
        async with AsyncClient(**options) as client:
            return await client.screen(**question, request_id="mine.1")

    return asyncio.run(call())


both = pytest.mark.parametrize("kind", [Client, AsyncClient])
