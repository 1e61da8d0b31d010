"""`Client.decisions` and `AsyncClient.decisions`: stored decisions, their pictures, feedback and erasure.

A test enforces that the signatures of the twins are the same.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from screening_client import constants, decision_calls
from screening_client.decision_calls import Filters
from screening_client.decision_results import Decision, DecisionSummary, Feedback, FeedbackKind
from screening_client.result import Choice

if TYPE_CHECKING:
    from screening_client.async_client import AsyncClient
    from screening_client.client import Client


class Decisions:
    """`Client.decisions`, for a service that keeps decisions.

    The API key needs the scope `feedback`; erasure needs `admin`.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def list(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        checkpoint: str | None = None,
        choice: Choice | None = None,
        min_confidence: float | None = None,
        max_confidence: float | None = None,
        needs_review: bool | None = None,
        product: str | None = None,
        caller: str | None = None,
        page_size: int = constants.PAGE_SIZE,
    ) -> Iterator[DecisionSummary]:
        """All decisions that fulfil every filter, newest first. Pages are asked for as the loop needs them.

        Args:
            since: answered at this time or later; with a time zone.
            until: answered before this time; with a time zone.
            checkpoint: digest of the checkpoint that answered.
            choice: the chosen picture, `N` for none.
            min_confidence: lowest confidence, 0 to 1.
            max_confidence: highest confidence, 0 to 1.
            needs_review: whether the answer has `needs_review` set.
            product: `metadata["product"]` of the request.
            caller: name of the key that asked.
            page_size: decisions of one request, 1 to 500.

        Raises:
            InputError: a filter cannot be sent.
            StatusError, ConnectionFailed, TimedOut, UnexpectedAnswer: as `Client.screen`, from the loop.
        """
        parameters = Filters(
            since=since, until=until, checkpoint=checkpoint, choice=choice, min_confidence=min_confidence,
            max_confidence=max_confidence, needs_review=needs_review, product=product, caller=caller,
        ).parameters()  # fmt: skip
        decision_calls.page(parameters, page_size)  # refused here, and not in the caller's loop
        return self._pages(parameters, page_size)

    def _pages(self, parameters: dict[str, str], page_size: int) -> Iterator[DecisionSummary]:
        page = self._client._perform(decision_calls.page(parameters, page_size))
        yield from page.decisions
        while page.next is not None:
            page = self._client._perform(decision_calls.page(parameters, page_size, page.next))
            yield from page.decisions

    def get(self, decision: str) -> Decision:
        """One decision with its answer and feedback.

        Args:
            decision: the `id` of its `Screening`. It can be read about a second after the answer.

        Raises:
            NotFound: it was erased, is not kept, or has not been written yet.
            InputError, StatusError, ConnectionFailed, TimedOut, UnexpectedAnswer: as `Client.screen`.
        """
        return self._client._perform(decision_calls.get(decision))

    def picture(self, decision: str, position: int) -> bytes:
        """The bytes of a picture as the caller of `/screen` sent them.

        Args:
            position: 0 for the original, 1 to 4 for A to D.

        Raises:
            NotFound, InputError, StatusError, ConnectionFailed, TimedOut: as `get`.
        """
        return self._client._perform(decision_calls.picture(decision, position))

    def feedback(
        self,
        decision: str,
        *,
        kind: FeedbackKind,
        options: str,
        comment: str | None = None,
        idempotency_key: str | None = None,
    ) -> Feedback:
        """Add feedback to a decision: what became of it.

        Args:
            kind: `shown`: the shop showed these pictures. `returned`: a customer returned the product because of these.
                `verdict`: a person says that these may be shown, and no others.
            options: letters of the pictures, such as `AC`; `N` for none of them.
            comment: free text of at most 4000 characters.
            idempotency_key: otherwise one is made, the same for all attempts of this call.

        Raises:
            NotFound, InputError, StatusError, ConnectionFailed, TimedOut, UnexpectedAnswer: as `get`.
        """
        call = decision_calls.feedback(
            decision, kind=kind, options=options, comment=comment, idempotency_key=idempotency_key
        )
        return self._client._perform(call)

    def erase(self, decision: str) -> None:
        """Erase a decision, its feedback, and each picture that no other decision shows. Needs the scope `admin`.

        Erasing it again changes nothing.

        Raises:
            InputError, StatusError, ConnectionFailed, TimedOut: as `get`.
        """
        self._client._perform(decision_calls.erase(decision))


class AsyncDecisions:
    """`AsyncClient.decisions`, the twin of `Decisions` for asyncio."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    def list(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        checkpoint: str | None = None,
        choice: Choice | None = None,
        min_confidence: float | None = None,
        max_confidence: float | None = None,
        needs_review: bool | None = None,
        product: str | None = None,
        caller: str | None = None,
        page_size: int = constants.PAGE_SIZE,
    ) -> AsyncIterator[DecisionSummary]:
        """All decisions that fulfil every filter, newest first. Pages are asked for as the loop needs them.

        Args:
            since: answered at this time or later; with a time zone.
            until: answered before this time; with a time zone.
            checkpoint: digest of the checkpoint that answered.
            choice: the chosen picture, `N` for none.
            min_confidence: lowest confidence, 0 to 1.
            max_confidence: highest confidence, 0 to 1.
            needs_review: whether the answer has `needs_review` set.
            product: `metadata["product"]` of the request.
            caller: name of the key that asked.
            page_size: decisions of one request, 1 to 500.

        Raises:
            InputError: a filter cannot be sent.
            StatusError, ConnectionFailed, TimedOut, UnexpectedAnswer: as `AsyncClient.screen`, from the loop.
        """
        parameters = Filters(
            since=since, until=until, checkpoint=checkpoint, choice=choice, min_confidence=min_confidence,
            max_confidence=max_confidence, needs_review=needs_review, product=product, caller=caller,
        ).parameters()  # fmt: skip
        decision_calls.page(parameters, page_size)  # refused here, and not in the caller's loop
        return self._pages(parameters, page_size)

    async def _pages(self, parameters: dict[str, str], page_size: int) -> AsyncIterator[DecisionSummary]:
        page = await self._client._perform(decision_calls.page(parameters, page_size))
        for each in page.decisions:
            yield each
        while page.next is not None:
            page = await self._client._perform(decision_calls.page(parameters, page_size, page.next))
            for each in page.decisions:
                yield each

    async def get(self, decision: str) -> Decision:
        """One decision with its answer and feedback.

        Args:
            decision: the `id` of its `Screening`. It can be read about a second after the answer.

        Raises:
            NotFound: it was erased, is not kept, or has not been written yet.
            InputError, StatusError, ConnectionFailed, TimedOut, UnexpectedAnswer: as `AsyncClient.screen`.
        """
        return await self._client._perform(decision_calls.get(decision))

    async def picture(self, decision: str, position: int) -> bytes:
        """The bytes of a picture as the caller of `/screen` sent them.

        Args:
            position: 0 for the original, 1 to 4 for A to D.

        Raises:
            NotFound, InputError, StatusError, ConnectionFailed, TimedOut: as `get`.
        """
        return await self._client._perform(decision_calls.picture(decision, position))

    async def feedback(
        self,
        decision: str,
        *,
        kind: FeedbackKind,
        options: str,
        comment: str | None = None,
        idempotency_key: str | None = None,
    ) -> Feedback:
        """Add feedback to a decision: what became of it.

        Args:
            kind: `shown`: the shop showed these pictures. `returned`: a customer returned the product because of these.
                `verdict`: a person says that these may be shown, and no others.
            options: letters of the pictures, such as `AC`; `N` for none of them.
            comment: free text of at most 4000 characters.
            idempotency_key: otherwise one is made, the same for all attempts of this call.

        Raises:
            NotFound, InputError, StatusError, ConnectionFailed, TimedOut, UnexpectedAnswer: as `get`.
        """
        call = decision_calls.feedback(
            decision, kind=kind, options=options, comment=comment, idempotency_key=idempotency_key
        )
        return await self._client._perform(call)

    async def erase(self, decision: str) -> None:
        """Erase a decision, its feedback, and each picture that no other decision shows. Needs the scope `admin`.

        Erasing it again changes nothing.

        Raises:
            InputError, StatusError, ConnectionFailed, TimedOut: as `get`.
        """
        await self._client._perform(decision_calls.erase(decision))
