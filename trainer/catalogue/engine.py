"""An engine that several threads ask in turn, and that is started again when it dies."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Self

from screening.inference.generation import Watched
from trainer.evaluation.evaluate.errors import Unfinished
from trainer.evaluation.evaluate.generate import OfflineEngine, Pictures, Reply


class LastingEngine:
    """Answers every question that an engine can answer, however often the engine dies."""

    def __init__(self, start: Callable[[], AbstractContextManager[OfflineEngine]]) -> None:
        """Start the engine.

        Raises:
            Exception: whatever `start` raises; an engine that cannot start at all is an error of the whole run.
        """
        self.stopping = threading.Event()
        """Set by the owner before it ends the engine for good, which is then not started again."""
        self._start = start
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._engine = self._stack.enter_context(start())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stack.close()

    @property
    def watched(self) -> Watched:
        """Tokens whose log-probabilities the engine reports."""
        return self._engine.watched

    def ask(self, questions: Sequence[Pictures]) -> list[Reply | None]:
        """Answer questions, in their order. None stands for a question at which the engine fails every time.

        The whole list is asked twice, because an engine may have been killed from outside. After that it is halved
        until the question that fails is alone.

        Raises:
            Unfinished: the engine died after `stopping` was set.
        """
        with self._lock:
            return self._ask(questions, attempts=2)

    def _ask(self, questions: Sequence[Pictures], attempts: int) -> list[Reply | None]:
        for _ in range(attempts):
            try:
                return list(self._engine.ask(questions)) if questions else []
            except Unfinished:
                if self.stopping.is_set():
                    raise
                self._restart()
        if len(questions) == 1:
            return [None]
        half = len(questions) // 2
        return self._ask(questions[:half], 1) + self._ask(questions[half:], 1)

    def _restart(self) -> None:
        self._stack.close()
        self._engine = self._stack.enter_context(self._start())
