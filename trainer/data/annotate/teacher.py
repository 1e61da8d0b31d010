"""Ask the teacher all open questions.

The teacher is asked about a sample until the method accepts or rejects it. Every reply is on disk before the next step,
so the same command continues after the last reply however the run ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from trainer.data.annotate.method import Accepted, Ask, Method, Rejected, Step
from trainer.data.annotate.prompts import PLACES, Part
from trainer.data.annotate.replies import Refusal, Replies, Reply
from trainer.data_directory import DataError
from trainer.endpoint.client import Completion
from trainer.endpoint.errors import Refused
from trainer.endpoint.pictures import data_url, picture_part
from trainer.endpoint.workers import Outcome, Workers
from trainer.records import AnySample

Watch = Callable[[Step], None]
"""Called for every question that is finished: accepted, rejected, or (`Ask`) refused for now."""


class Teacher:
    """One run over the open questions."""

    def __init__(
        self, method: Method, workers: Workers, replies: Replies, *, data: Path, picture_size: int, watch: Watch
    ) -> None:
        self._method = method
        self._workers = workers
        self._replies = replies
        self._data = data
        self._picture_size = picture_size
        self._watch = watch

    async def ask_all(self, questions: Sequence[AnySample]) -> Outcome:
        """Ask until every question is settled, a limit is reached, or the endpoint cannot answer.

        Raises:
            EndpointUnusable: no request can succeed now. All replies so far are kept.
        """
        return await self._workers.settle_all(questions, self._settle)

    async def _settle(self, question: AnySample) -> None:
        urls: dict[str, str] = {}
        while isinstance(step := self._step(question), Ask):
            try:
                completion = await self._workers.ask([await self._part(question, part, urls) for part in step.parts])
            except DataError as error:
                self._replies.append(_refusal(question, step, Refusal(reason="picture", detail=str(error))))
            except Refused as error:
                reply = _refusal(question, step, Refusal(reason="refused", detail=str(error)))
                if not self._workers.refused(error, partial(self._replies.append, reply)):
                    break
            else:
                self._replies.append(_reply(question, step, completion))
        self._watch(step)

    def _step(self, question: AnySample) -> Step:
        return self._method.step(question, self._replies.of(question.id))

    async def _part(self, question: AnySample, part: Part, urls: dict[str, str]) -> dict[str, Any]:
        """Encode one part of the message.

        Args:
            urls: place → data URL; a cache of the pictures of this question that were already encoded.
        """
        if isinstance(part, str):
            return {"type": "text", "text": part}
        if part.place not in urls:
            file = question.files[PLACES.index(part.place)]
            urls[part.place] = await asyncio.to_thread(data_url, self._data, file, self._picture_size)
        return picture_part(urls[part.place])


def progress_of(method: Method, questions: Sequence[AnySample], replies: Replies) -> dict[str, Step]:
    """The state of each question: sample → accepted, rejected, or the next question to ask."""
    return {question.id: method.step(question, replies.of(question.id)) for question in questions}


def is_settled(step: Step) -> bool:
    """Whether a question is accepted or rejected, so that nothing more is asked."""
    return isinstance(step, Accepted | Rejected)


def _reply(question: AnySample, step: Ask, completion: Completion) -> Reply:
    return Reply(
        sample=question.id,
        task=step.task,
        text=completion.text,
        finish=completion.finish,
        model=completion.model,
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
    )


def _refusal(question: AnySample, step: Ask, refusal: Refusal) -> Reply:
    return Reply(sample=question.id, task=step.task, refusal=refusal)
