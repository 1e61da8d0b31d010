"""Keeps the metrics of the review queue up to date while the service runs."""

from __future__ import annotations

import asyncio
from functools import partial

from service.decisions.store import DecisionStore
from service.errors import DecisionsUnavailable
from service.metrics import Metrics
from service.review.statistics import queue

SECONDS = 30.0
"""Time between two reads of the queue."""


async def watch_queue(store: DecisionStore, metrics: Metrics) -> None:
    """Update the metrics until the task is cancelled. While the database cannot be reached, they keep their values."""
    while True:
        try:
            found = await store.ask(partial(queue, store.database, by_reason=True))
        except DecisionsUnavailable:
            pass  # `ask` has logged the cause
        else:
            metrics.review_queue.clear()  # a reason without tasks must not keep its last values
            metrics.review_queue_age.clear()
            for reason, one in found.items():
                for state, tasks in (("open", one.open), ("leased", one.leased), ("done", one.done)):
                    metrics.review_queue.labels(reason, state).set(tasks)
                metrics.review_queue_age.labels(reason).set(one.oldest_seconds or 0)
        await asyncio.sleep(SECONDS)
