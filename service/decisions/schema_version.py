"""The version of the decision database's schema: Alembic's migrations bring it forward and back."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from service.decisions.database import Database
from service.decisions.errors import DatabaseError, DatabaseUnreachable
from service.decisions.tables import VERSION_TABLE

_CANNOT_OPEN = "unable to open database file"
"""SQLite's message for a missing directory, a directory in place of the file, and missing permissions."""
_READ_ONLY = "attempt to write a readonly database"
"""SQLite's message for a file, or a directory of one, without permission to write."""


def prepare(database: Database) -> None:
    """Create the tables of an empty database, and refuse a database of another version.

    Raises:
        DatabaseUnreachable: the database does not answer.
        DatabaseError: the database cannot be used, or has another version.
    """
    try:
        with database.writing() as connection:
            database.lock_migration(connection)
            if _revision(connection) is None:
                _migrate(connection, "head")
    except sa.exc.DatabaseError as error:
        raise _unusable(database, error) from error
    check(database)
    database.is_prepared = True


def prepare_once(database: Database) -> None:
    """Do what `prepare` does, unless it has succeeded before: the database may not have answered at the start.

    Raises:
        DatabaseError: as `prepare`.
        sqlalchemy.exc.TimeoutError: as `Database.writing`.
    """
    if not database.is_prepared:
        prepare(database)


def check(database: Database) -> None:
    """Refuse a database of another version.

    Raises:
        DatabaseError: the database cannot be reached, or has another version.
    """
    if (found := current(database)) != (needed := head()):
        _refuse_newer(database, found)
        raise DatabaseError(
            f"{database.name} has version {found or 'none'} of the schema, but this service needs {needed}. "
            "Run: python -m service database upgrade"
        )


def current(database: Database) -> str | None:
    """The version of the schema; None for a database without our tables.

    Raises:
        DatabaseError: the database cannot be reached.
    """
    try:
        with database.reading() as connection:
            return _revision(connection)
    except sa.exc.DatabaseError as error:
        raise _unusable(database, error) from error


def migrate(database: Database, target: str) -> tuple[str | None, str | None]:
    """Bring the schema to another version; returns the versions before and after.

    Args:
        target: `head`, `base`, or the number of a version.

    Raises:
        DatabaseError: the database cannot be reached, or there is no such version.
    """
    if target not in ("head", "base") and target not in revisions():
        raise DatabaseError(f"there is no version {target!r}: give head, base, or one of {', '.join(revisions())}")
    try:
        with database.writing() as connection:
            database.lock_migration(connection)
            before = _revision(connection)
            _refuse_newer(database, before)
            _migrate(connection, target)
            return before, _revision(connection)
    except sa.exc.DatabaseError as error:
        raise _unusable(database, error) from error


def head() -> str:
    """The version of the schema that this service needs."""
    return revisions()[-1]


def revisions() -> list[str]:
    """All versions, oldest first."""
    walk = ScriptDirectory.from_config(_config()).walk_revisions()
    return [script.revision for script in walk][::-1]


def _refuse_newer(database: Database, found: str | None) -> None:
    """Refuse a version that this service does not know: only a newer service has the steps back."""
    if found is not None and found not in revisions():
        raise DatabaseError(
            f"{database.name} has version {found} of the schema, which this service does not know. Use the newer "
            f"service, or run its command: python -m service database downgrade {head()}"
        )


def _unusable(database: Database, error: sa.exc.DatabaseError) -> DatabaseError:
    """The error for the operator. PostgreSQL reports a wrong name or password as it reports an outage."""
    said = str(error.orig).strip().partition("\n")[0]
    is_wrong_file = said in (_CANNOT_OPEN, _READ_ONLY)
    remedy = ". Give a file in a directory that exists and is writable" if is_wrong_file else ""
    is_outage = isinstance(error, sa.exc.OperationalError) and not is_wrong_file
    kind = DatabaseUnreachable if is_outage else DatabaseError
    return kind(f"{database.name} cannot be used: {said}{remedy}")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _revision(connection: sa.Connection) -> str | None:
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()


def _migrate(connection: sa.Connection, target: str) -> None:
    config = _config()
    config.attributes["connection"] = connection
    going_down = target == "base" or (target != "head" and (now := _revision(connection)) is not None and target < now)
    (command.downgrade if going_down else command.upgrade)(config, target)
