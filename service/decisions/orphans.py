"""Removes what killed services left: pictures without a row, temporary files, and rows of pictures deleted long ago.

A writer stores pictures before their rows. If it is killed in between, or gives up, its pictures have no row. This
module gives each of them a row that is marked as deleted, and the usual deletion follows. A writer that gets the same
picture meanwhile finds the mark, as for every deleted picture, and writes it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

import sqlalchemy as sa

from service.decisions.database import BATCH, Database, insert_ignoring
from service.decisions.erasure import purge
from service.decisions.picture_store import PictureStore
from service.decisions.tables import PICTURE

AGE = timedelta(days=1)
"""Minimum age of what is removed. It is much longer than a writer takes from a picture to its row: the writer relies on
the row of a deleted picture to learn that its bytes are gone."""


def remove(database: Database, pictures: PictureStore, now: datetime) -> int:
    """Remove what is older than `AGE`; returns the number of pictures that had no row.

    Raises:
        PictureStoreError: the store cannot be used now; the next call continues.
    """
    before = now - AGE
    count = sum(_mark(database, some, now) for some in pictures.older_than(before))
    if count:
        purge(database, pictures)
    pictures.delete_unfinished(before)
    _forget_purged(database, before)
    return count


def _mark(database: Database, sizes: Mapping[str, int], now: datetime) -> int:
    """Give pictures without a row one that is marked as deleted; returns how many there were."""
    with database.reading() as connection:
        known = set(connection.scalars(sa.select(PICTURE.c.sha256).where(PICTURE.c.sha256.in_(sizes))))
    rows = [
        {"sha256": sha256, "media_type": "unknown", "bytes": size, "deleted_at": now}
        for sha256, size in sorted(sizes.items())
        if sha256 not in known
    ]
    if rows:
        with database.writing() as connection:
            connection.execute(insert_ignoring(connection, PICTURE), rows)
    return len(rows)


def _forget_purged(database: Database, before: datetime) -> None:
    """Delete the rows of pictures whose bytes were deleted before a moment."""
    old = PICTURE.c.purged_at < before
    with database.reading() as connection:
        addresses = connection.scalars(sa.select(PICTURE.c.sha256).where(old)).all()
    for start in range(0, len(addresses), BATCH):
        some = PICTURE.c.sha256.in_(addresses[start : start + BATCH])
        with database.writing() as connection:
            connection.execute(sa.delete(PICTURE).where(some, old))
