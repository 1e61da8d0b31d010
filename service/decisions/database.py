"""Connections to the decision database, and the version of its schema."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.dialects import postgresql, sqlite

from service.decisions.errors import DatabaseError, DatabaseUnreachable, WrongAddress
from service.decisions.tables import VERSION_TABLE

_CANNOT_OPEN = "unable to open database file"
"""SQLite's message for a missing directory, a directory in place of the file, and missing permissions."""
_READ_ONLY = "attempt to write a readonly database"
"""SQLite's message for a file, or a directory of one, without permission to write."""
BUSY_SECONDS = 10.0
"""Maximum wait for another writer of an SQLite file."""
_SILENCE = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
"""How long a PostgreSQL server may be silent: settings of libpq in seconds, the last one in milliseconds.

Without them, a query to a server that vanished without closing its connections waits for 15 minutes to 2 hours.
"""
# Any two numbers, the same in every service, for PostgreSQL's advisory locks.
_MIGRATION_LOCK = 0x5C7EE21
_ERASURE_LOCK = 0x5C7EE22
_NAME_LOCK = 0x5C7EE23


class Database:
    """One database. Safe to use from several threads."""

    def __init__(self, url: str) -> None:
        """
        Args:
            url: an SQLAlchemy URL, `sqlite:///FILE` or `postgresql://…`, whose query may have settings of libpq.

        Raises:
            WrongAddress: the address has another form.
        """
        self.url = _address(url)
        self.name = self.url.render_as_string(hide_password=True)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._writing = threading.Lock()
        self._is_prepared = False
        self._engine = sa.create_engine(self.url, connect_args=self._timeouts(), pool_pre_ping=not self.is_sqlite)
        if self.is_sqlite:
            sa.event.listen(self._engine, "connect", _prepare_sqlite)
            sa.event.listen(self._engine, "connect", self._note_file)
            sa.event.listen(self._engine, "checkout", self._leave_moved_file)
            sa.event.listen(self._engine, "begin", _begin_sqlite)

    def _timeouts(self) -> dict[str, Any]:
        """Arguments of the driver. What the address sets itself is left out, because an argument would replace it."""
        if self.is_sqlite:
            return {"timeout": BUSY_SECONDS}
        return {name: value for name, value in _SILENCE.items() if name not in self.url.query}

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Yield a connection in a transaction that only reads. All its queries see the database at one moment."""
        options = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ"}
        with self._engine.connect().execution_options(**options) as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Yield a connection in a transaction that writes and is committed at the end of the block.

        SQLite takes its lock at once: a transaction that reads first and then writes can fail without waiting.

        Raises:
            sqlalchemy.exc.TimeoutError: other threads of this service wrote to an SQLite file for too long.
        """
        with (
            self._turn(),
            self._engine.connect().execution_options(writes=True) as connection,
            connection.begin(),
        ):
            yield connection

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Let the threads of this service write to an SQLite file in turn.

        SQLite itself lets waiting writers try again at random times, so that one of twenty can fail after ten seconds.
        """
        if not self.is_sqlite:
            yield
        elif self._writing.acquire(timeout=BUSY_SECONDS):
            try:
                yield
            finally:
                self._writing.release()
        else:
            raise sa.exc.TimeoutError(f"{self.name}: other threads wrote for {BUSY_SECONDS:g} s")

    def _note_file(self, _: Any, record: sa.pool.ConnectionPoolEntry) -> None:
        record.info["file"] = self._file()

    def _leave_moved_file(self, _: Any, record: sa.pool.ConnectionPoolEntry, __: Any) -> None:
        """Connect again if the SQLite file was deleted, moved or replaced, for example by a backup.

        Otherwise everything would be written to a file without a name, and be lost at the end of the service.
        """
        if record.info["file"] != self._file():
            raise sa.exc.DisconnectionError(f"{self.name} is another file now")

    def _file(self) -> tuple[int, int] | None:
        try:
            found = Path(str(self.url.database)).stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def lock_erasure(self, connection: sa.Connection, *, shared: bool) -> None:
        """Hold erasures (`shared`), or writers and other erasures, back until the transaction ends.

        Without the lock a decision could be committed between the look for it and the note that it is erased, and two
        transactions could lock the same decisions in different orders. SQLite has one writing transaction at a time and
        needs no lock.
        """
        if not self.is_sqlite:
            lock = sa.func.pg_advisory_xact_lock_shared if shared else sa.func.pg_advisory_xact_lock
            connection.execute(sa.select(lock(_ERASURE_LOCK)))

    def lock_name(self, connection: sa.Connection, name: str) -> None:
        """Let only one transaction at a time work for this name, such as a person's; SQLite needs no lock for it."""
        if not self.is_sqlite:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_NAME_LOCK, sa.func.hashtext(name))))

    def now(self, connection: sa.Connection) -> datetime:
        """The database's clock, which all services share. SQLite's is that of its one machine."""
        if self.is_sqlite:
            return datetime.now(UTC)
        found: datetime = connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
        return found.astimezone(UTC)

    def close(self) -> None:
        self._engine.dispose()

    def prepare(self) -> None:
        """Create the tables of an empty database, and refuse a database of another version.

        Raises:
            DatabaseUnreachable: the database does not answer.
            DatabaseError: the database cannot be used, or has another version.
        """
        try:
            with self.writing() as connection:
                self._lock(connection)
                if _revision(connection) is None:
                    _migrate(connection, "head")
        except sa.exc.DatabaseError as error:
            raise self._unusable(error) from error
        self.check()
        self._is_prepared = True

    def prepare_once(self) -> None:
        """Do what `prepare` does, unless it has succeeded before: the database may not have answered at the start.

        Raises:
            DatabaseError: as `prepare`.
            sqlalchemy.exc.TimeoutError: as `writing`.
        """
        if not self._is_prepared:
            self.prepare()

    def check(self) -> None:
        """Refuse a database of another version.

        Raises:
            DatabaseError: the database cannot be reached, or has another version.
        """
        if (found := self.version()) != (needed := head()):
            self._refuse_newer(found)
            raise DatabaseError(
                f"{self.name} has version {found or 'none'} of the schema, but this service needs {needed}. "
                "Run: python -m service database upgrade"
            )

    def version(self) -> str | None:
        """The version of the schema; None for a database without our tables.

        Raises:
            DatabaseError: the database cannot be reached.
        """
        try:
            with self.reading() as connection:
                return _revision(connection)
        except sa.exc.DatabaseError as error:
            raise self._unusable(error) from error

    def migrate(self, target: str) -> tuple[str | None, str | None]:
        """Bring the schema to another version; returns the versions before and after.

        Args:
            target: `head`, `base`, or the number of a version.

        Raises:
            DatabaseError: the database cannot be reached, or there is no such version.
        """
        if target not in ("head", "base") and target not in revisions():
            raise DatabaseError(f"there is no version {target!r}: give head, base, or one of {', '.join(revisions())}")
        try:
            with self.writing() as connection:
                self._lock(connection)
                before = _revision(connection)
                self._refuse_newer(before)
                _migrate(connection, target)
                return before, _revision(connection)
        except sa.exc.DatabaseError as error:
            raise self._unusable(error) from error

    def _refuse_newer(self, found: str | None) -> None:
        """Refuse a version that this service does not know: only a newer service has the steps back."""
        if found is not None and found not in revisions():
            raise DatabaseError(
                f"{self.name} has version {found} of the schema, which this service does not know. Use the newer "
                f"service, or run its command: python -m service database downgrade {head()}"
            )

    def _unusable(self, error: sa.exc.DatabaseError) -> DatabaseError:
        """The error for the operator. PostgreSQL reports a wrong name or password as it reports an outage."""
        said = str(error.orig).strip().partition("\n")[0]
        is_wrong_file = said in (_CANNOT_OPEN, _READ_ONLY)
        remedy = ". Give a file in a directory that exists and is writable" if is_wrong_file else ""
        is_outage = isinstance(error, sa.exc.OperationalError) and not is_wrong_file
        kind = DatabaseUnreachable if is_outage else DatabaseError
        return kind(f"{self.name} cannot be used: {said}{remedy}")

    def _lock(self, connection: sa.Connection) -> None:
        """Let only one service at a time check and change the version; SQLite's transaction already does this."""
        if not self.is_sqlite:
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})


def insert_ignoring(connection: sa.Connection, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    """An insert that does not change an existing row."""
    insert = sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)
    return insert.on_conflict_do_nothing()


def head() -> str:
    """The version of the schema that this service needs."""
    return revisions()[-1]


def revisions() -> list[str]:
    """All versions, oldest first."""
    walk = ScriptDirectory.from_config(_config()).walk_revisions()
    return [script.revision for script in walk][::-1]


def _address(url: str) -> sa.URL:
    try:
        address = sa.make_url(url)
    except sa.exc.ArgumentError:
        raise WrongAddress(
            "--decisions (SCREENING_DECISIONS) is not sqlite:///FILE or postgresql://USER@HOST/NAME"
        ) from None
    backend = address.get_backend_name()
    if backend == "sqlite" and address.database not in (None, "", ":memory:"):
        return address
    if backend == "postgresql":
        return address.set(drivername="postgresql+psycopg")
    raise WrongAddress(
        f"--decisions (SCREENING_DECISIONS) names a {backend} database: give sqlite:///FILE or postgresql://USER@HOST/NAME"
    )


def _prepare_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # `_begin_sqlite` begins transactions, not the driver
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")  # readers do not wait for the writer
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


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
