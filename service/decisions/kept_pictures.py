"""Rows of stored pictures, under the locks that keep a picture from being deleted while it gets a new reference."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from service.decisions.picture_store import PictureStore
from service.decisions.record import StoredPicture
from service.decisions.tables import PICTURE


def keep_pictures(connection: sa.Connection, store: PictureStore, pictures: Mapping[str, StoredPicture]) -> None:
    """Make sure that each picture has a row that is not deleted, and lock these rows until the commit.

    Write the pictures to the store before. One may have been deleted since: then it is written again inside this
    transaction, which its deletion waits for.

    Raises:
        PictureStoreError: a deleted picture could not be written again.
    """
    rows = [
        {"sha256": one.sha256, "media_type": one.media_type, "bytes": len(one.data)}
        for one in sorted(pictures.values(), key=lambda one: one.sha256)
    ]
    connection.execute(_insert_ignoring(connection, PICTURE), rows)
    found = connection.execute(
        sa.select(PICTURE.c.sha256, PICTURE.c.deleted_at)
        .where(PICTURE.c.sha256.in_(pictures))
        .order_by(PICTURE.c.sha256)
        .with_for_update(read=True)
    ).all()
    deleted = [row.sha256 for row in found if row.deleted_at is not None]
    for sha256 in deleted:
        store.put(sha256, pictures[sha256].data)
    if deleted:
        kept = sa.update(PICTURE).where(PICTURE.c.sha256.in_(deleted))
        connection.execute(kept.values(deleted_at=None, purged_at=None))


def _insert_ignoring(connection: sa.Connection, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    """An insert that does not change an existing row."""
    if connection.dialect.name == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    return postgresql.insert(table).on_conflict_do_nothing()
