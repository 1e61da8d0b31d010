"""Feedback that is sent by several threads, under one key and under several."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import sqlalchemy as sa

from service.decisions import erasure, feedback
from service.decisions.picture_store import PictureStore
from service.decisions.tables import FEEDBACK
from tests.service.decisions.test_erasure import write
from tests.service.decisions.test_writer import record


def test_the_same_feedback_at_once_is_added_once_for_each_caller(database, tmp_path) -> None:
    store, one = PictureStore(str(tmp_path / "pictures")), record()
    write(database, store, [one])
    add = partial(feedback.add, database, one.answer.id, kind="shown", options="A", comment=None, idempotency_key="k")
    with ThreadPoolExecutor(8) as threads:
        added = list(threads.map(lambda caller: add(caller=caller), ["shop", "lead"] * 8))
    assert len({row.id for row, _ in added}) == sum(new for _, new in added) == 2
    with database.reading() as connection:
        assert sorted(connection.scalars(sa.select(FEEDBACK.c.caller))) == ["lead", "shop"]
    erasure.erase_one(database, store, one.answer.id, caller="lead")
    with pytest.raises(feedback.UnknownDecision):
        add(caller="shop")
