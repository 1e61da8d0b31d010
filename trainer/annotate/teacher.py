"""Asking the teacher about every question: N workers, each with one question at a time.

A worker asks the method for the next step until its question is accepted or rejected. Every reply is on disk before
the next step, so whatever ends the run, the same command goes on behind the last reply.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.annotate.budget import LimitReached, Meter
from trainer.annotate.endpoint import Completion, Endpoint
from trainer.annotate.errors import EndpointUnusable, Refused, Unanswered
from trainer.annotate.method import Accepted, Ask, Method, Rejected, Step
from trainer.annotate.pictures import data_url
from trainer.annotate.prompts import PLACES, Part
from trainer.annotate.questions import Question
from trainer.annotate.replies import Refusal, Replies, Reply
from trainer.records import DataError

REFUSED_FROM_THE_START = 5
"""So many refusals before the first answer, and it is not the pictures: the endpoint refuses everything."""

Watch = Callable[[Step], None]
"""Told of every question's end in this run: accepted, rejected, or (`Ask`) left open."""


@dataclass(slots=True)
class Outcome:
    """How a run ended."""

    limit_reached: bool = False
    unanswered: dict[str, str] = field(default_factory=dict)
    """Sample → why there was no answer, after all tries."""


class Teacher:
    """One run over the questions that are still open."""

    def __init__(
        self,
        method: Method,
        endpoint: Endpoint,
        replies: Replies,
        meter: Meter,
        *,
        data: Path,
        picture_size: int,
        concurrency: int,
        watch: Watch,
    ) -> None:
        self._method = method
        self._endpoint = endpoint
        self._replies = replies
        self._meter = meter
        self._data = data
        self._picture_size = picture_size
        self._concurrency = concurrency
        self._watch = watch
        self._outcome = Outcome()
        self._waiting: deque[Question] = deque()
        self._answers = 0
        self._failures_in_a_row = 0
        self._unusable: EndpointUnusable | None = None
        self._held: list[Reply] = []
        """Refusals before the first answer of this run: not written down while the endpoint itself may be at fault."""

    async def ask_all(self, questions: Sequence[Question]) -> Outcome:
        """Ask until every question is settled, a limit is reached, or the endpoint is of no use.

        Raises:
            EndpointUnusable: no request can succeed now. What was answered is kept.
        """
        self._waiting.extend(questions)
        workers = [asyncio.create_task(self._work()) for _ in range(min(self._concurrency, len(questions)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        if self._held:
            raise self._refuses_everything()
        return self._outcome

    async def _work(self) -> None:
        while self._waiting and not self._outcome.limit_reached:
            question = self._waiting.popleft()
            try:
                step = await self._settle(question)
            except Unanswered as error:
                self._outcome.unanswered[question.id] = str(error)
                self._failures_in_a_row += 1
                if self._failures_in_a_row >= max(3, self._concurrency):
                    raise EndpointUnusable(
                        f"{self._failures_in_a_row} questions in a row got no answer ({error})"
                    ) from error
                step = self._step(question)
            except LimitReached:
                self._outcome.limit_reached = True
                step = self._step(question)
            self._watch(step)

    def _step(self, question: Question) -> Step:
        return self._method.step(question, self._replies.of(question.id))

    async def _settle(self, question: Question) -> Step:
        urls: dict[str, str] = {}
        while isinstance(step := self._step(question), Ask):
            try:
                reply = await self._put(question, step, urls)
            except DataError as error:
                reply = _refusal(question, step, Refusal(reason="picture", detail=str(error)))
            except Refused as error:
                reply = _refusal(question, step, Refusal(reason="refused", detail=str(error)))
                if not self._answers:
                    self._hold(reply)
                    return step
            self._replies.append(reply)
        return step

    async def _put(self, question: Question, step: Ask, urls: dict[str, str]) -> Reply:
        """Ask once, within the limits.

        Args:
            urls: place → data URL, of the pictures of this question that were needed before.
        """
        content = [await self._part(question, part, urls) for part in step.parts]
        async with self._meter.request():
            if self._unusable:  # found out while this one waited for its turn
                raise self._unusable
            completion = await self._ask(content)
            reply = _reply(question, step, completion)
            self._meter.add(reply)
        self._answers += 1
        self._failures_in_a_row = 0
        while self._held:  # the endpoint answers others, so these were refused for what they are
            self._replies.append(self._held.pop(0))
        return reply

    async def _ask(self, content: Sequence[dict[str, Any]]) -> Completion:
        try:
            completion = await self._endpoint.ask(content)
            if self._meter.limited and not completion.metered:
                raise EndpointUnusable("the endpoint does not report tokens, so no limit on them can be kept")
        except EndpointUnusable as error:
            self._unusable = error
            raise
        return completion

    async def _part(self, question: Question, part: Part, urls: dict[str, str]) -> dict[str, Any]:
        if isinstance(part, str):
            return {"type": "text", "text": part}
        if part.place not in urls:
            file = question.files[PLACES.index(part.place)]
            urls[part.place] = await asyncio.to_thread(data_url, self._data, file, self._picture_size)
        return {"type": "image_url", "image_url": {"url": urls[part.place]}}

    def _hold(self, reply: Reply) -> None:
        self._held.append(reply)
        if len(self._held) >= REFUSED_FROM_THE_START:
            raise self._refuses_everything()

    def _refuses_everything(self) -> EndpointUnusable:
        detail = self._held[0].refusal.detail if self._held[0].refusal else ""
        return EndpointUnusable(f"it refuses every request ({detail})")


def progress_of(method: Method, questions: Sequence[Question], replies: Replies) -> dict[str, Step]:
    """Where each question stands: sample → accepted, rejected, or what would be asked next."""
    return {question.id: method.step(question, replies.of(question.id)) for question in questions}


def is_settled(step: Step) -> bool:
    """Whether nothing more will be asked."""
    return isinstance(step, Accepted | Rejected)


def _reply(question: Question, step: Ask, completion: Completion) -> Reply:
    return Reply(
        sample=question.id,
        task=step.task,
        text=completion.text,
        finish=completion.finish,
        model=completion.model,
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
    )


def _refusal(question: Question, step: Ask, refusal: Refusal) -> Reply:
    return Reply(sample=question.id, task=step.task, refusal=refusal)
