"""Sessions of signed-in browsers. They are in the database, so that every service of a fleet knows them."""

from __future__ import annotations

import hashlib
import secrets
from datetime import timedelta

import sqlalchemy as sa

from service.decisions.database import Database
from service.decisions.review_tables import REVIEW_SESSION

HOURS = 12
"""Time in hours after which a session ends."""


def begin(database: Database, key: str) -> str:
    """Begin a session for a key; returns the secret value of its cookie.

    Args:
        key: SHA-256 of the key. The session is valid only while the operator allows this key.
    """
    token = secrets.token_urlsafe(32)
    with database.writing() as connection:
        now = database.now(connection)
        connection.execute(sa.delete(REVIEW_SESSION).where(REVIEW_SESSION.c.expires_at < now))
        row = {"id": _digest(token), "key": key, "expires_at": now + timedelta(hours=HOURS)}
        connection.execute(sa.insert(REVIEW_SESSION).values(row))
    return token


def key_of(database: Database, token: str) -> str | None:
    """SHA-256 of the key that began a session; None if the session has ended."""
    with database.reading() as connection:
        row = connection.execute(sa.select(REVIEW_SESSION).where(REVIEW_SESSION.c.id == _digest(token))).one_or_none()
        return None if row is None or row.expires_at <= database.now(connection) else row.key


def end(database: Database, token: str) -> None:
    """End a session."""
    with database.writing() as connection:
        connection.execute(sa.delete(REVIEW_SESSION).where(REVIEW_SESSION.c.id == _digest(token)))


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
