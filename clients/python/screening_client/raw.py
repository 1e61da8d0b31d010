"""The service's response as it came over HTTP, for callers who need its headers or exact bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx

from screening_client import wire
from screening_client.request import RequestArguments
from screening_client.result import Screening

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from screening_client.async_client import AsyncClient
    from screening_client.client import Client


@dataclass(frozen=True, slots=True)
class RawResponse:
    """A response with status 200. An error status raises its error, as in `Client.screen`."""

    status: int
    headers: httpx.Headers
    """Names are compared without regard to case: `headers["idempotent-replayed"]`."""
    content: bytes = field(repr=False)
    """The body: the JSON of the answer."""
    http_response: httpx.Response = field(repr=False, compare=False)

    @property
    def request_id(self) -> str | None:
        """The `X-Request-Id` of the exchange."""
        return wire.id_of(self.http_response)

    def parse(self) -> Screening:
        """The result that `Client.screen` returns.

        Raises:
            UnexpectedAnswer: the body is not a screening.
        """
        return wire.read_screening(self.http_response)


class ScreenArguments(RequestArguments, total=False):
    """The arguments of `Client.screen`, for annotations."""

    extra_headers: Mapping[str, str] | None


class RawClient:
    """`Client.with_raw_response`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def screen(self, **arguments: Unpack[ScreenArguments]) -> RawResponse:
        """`Client.screen` with the response in place of the result."""
        return self._client._call(read_raw, **arguments)


class AsyncRawClient:
    """`AsyncClient.with_raw_response`."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def screen(self, **arguments: Unpack[ScreenArguments]) -> RawResponse:
        """`AsyncClient.screen` with the response in place of the result."""
        return await self._client._call(read_raw, **arguments)


def read_raw(response: httpx.Response) -> RawResponse:
    return RawResponse(response.status_code, response.headers, response.content, response)
