"""The schema: versions forward and back, refusals, and the tables as the code knows them."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from service.__main__ import main as command
from service.__main__ import main as service_main
from service.decisions import erasure, feedback, reading
from service.decisions.database import Database, head, revisions
from service.decisions.errors import DatabaseError, DatabaseUnreachable
from service.decisions.tables import METADATA, PICTURE, VERSION_TABLE

pytestmark = pytest.mark.slow


def tables(database: Database) -> set[str]:
    with database.reading() as connection:
        return set(sa.inspect(connection).get_table_names())


def test_migrations_make_the_tables_that_the_code_knows(empty_database_url) -> None:
    database = Database(empty_database_url)
    database.prepare()
    with database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE, "compare_type": True})
        assert compare_metadata(context, METADATA) == []
    database.close()


def test_every_migration_goes_forward_and_back(empty_database_url) -> None:
    database = Database(empty_database_url)
    for version in revisions():
        assert database.migrate(version)[1] == version
    for version in [*revisions()[-2::-1], "base"]:
        database.migrate(version)
    assert tables(database) <= {VERSION_TABLE}
    assert database.migrate("head") == (None, head())
    database.close()


def test_no_query_reads_a_whole_table(database) -> None:
    """SQLite says so without statistics; the indexes are the same in PostgreSQL."""
    if not database.is_sqlite:
        pytest.skip("its plans depend on the number of rows")
    plans: list[str] = []

    def explain(connection, cursor, statement, parameters, *_) -> None:
        if statement.startswith(("SELECT", "UPDATE", "DELETE")):
            plans.extend(
                row[-1] for row in connection.connection.execute("EXPLAIN QUERY PLAN " + statement, parameters)
            )

    sa.event.listen(sa.Engine, "before_cursor_execute", explain)
    try:
        pictures = SimpleNamespace(delete=lambda _: None)
        erasure.prune(database, pictures, datetime.now(UTC))
        erasure.erase_one(database, pictures, "scr_1", caller="lead")
        for filters in ({}, {"product": "SKU-1"}, {"checkpoint": "sha256:0"}):
            reading.page(database, reading.Filters(**filters), before="scr_2", limit=50)
        reading.one(database, "scr_1")
        reading.picture_of(database, "scr_1", 0)
        with suppress(feedback.UnknownDecision):
            feedback.add(database, "scr_1", caller="", kind="shown", options="A", comment=None, idempotency_key="k")
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", explain)
    assert len(plans) > 10
    assert [plan for plan in plans if "TEMP B-TREE FOR ORDER" in plan] == []
    whole = [plan for plan in plans if re.match("SCAN (decision|picture|feedback|erased)", plan)]
    assert [plan for plan in whole if "ix_picture_marked" not in plan] == [], "that index has marked pictures only"


def test_services_that_start_at_once_make_the_tables_once(empty_database_url) -> None:
    with ThreadPoolExecutor(4) as threads:
        databases = [Database(empty_database_url) for _ in range(4)]
        list(threads.map(Database.prepare, databases))
    assert databases[0].version() == head()
    for one in databases:
        one.close()


def test_a_database_of_a_newer_service_is_refused_with_the_command_to_run(database) -> None:
    with database.writing() as connection:
        connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    for refused in (database.prepare, lambda: database.migrate("head"), lambda: database.migrate("base")):
        with pytest.raises(DatabaseError, match=f"version 9999 .* not know.* database downgrade {head()}"):
            refused()


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "mysql://root@localhost/x", "decisions.db", "postgresql//x"]
)
def test_an_address_that_cannot_keep_decisions_is_refused(url) -> None:
    with pytest.raises(DatabaseError, match=r"SCREENING_DECISIONS.*(give sqlite:///FILE|is not sqlite:///FILE)"):
        Database(url)


@pytest.mark.parametrize("command", [["prune"], ["database", "status"], ["review", "queue", "--count", "1"]])
@pytest.mark.parametrize("given", [[], ["--decisions", "mysql://root@localhost/x"]])
def test_a_wrong_address_is_a_wrong_argument(command, given, monkeypatch, capsys) -> None:
    """Exit status 2, after which Kubernetes does not repeat the Job."""
    monkeypatch.delenv("SCREENING_DECISIONS", raising=False)
    assert service_main([*command, *given]) == 2
    assert "SCREENING_DECISIONS" in capsys.readouterr().err


def test_a_file_that_is_no_database_is_refused(tmp_path) -> None:
    (tmp_path / "decisions.db").write_text("not a database " * 100)
    database = Database(f"sqlite:///{tmp_path / 'decisions.db'}")
    for refused in (database.prepare, database.version, lambda: database.migrate("head")):
        with pytest.raises(DatabaseError, match="cannot be used: file is not a database"):
            refused()


def test_a_directory_that_is_missing_is_named_with_the_remedy(tmp_path) -> None:
    with pytest.raises(DatabaseError, match=r"cannot be used: .* Give a file in a directory that exists") as refused:
        Database(f"sqlite:///{tmp_path / 'missing' / 'decisions.db'}").prepare()
    assert refused.type is DatabaseError, "a service does not start"


def test_nothing_is_written_to_a_file_that_was_moved_or_deleted(prepared_file, tmp_path) -> None:
    file, backup = tmp_path / "decisions.db", Path(shutil.copy(prepared_file, tmp_path / "backup.db"))
    database = Database(f"sqlite:///{file}")
    database.prepare()
    _note(database, "before")
    backup.replace(file)
    _note(database, "after the backup was restored")
    database.close()
    assert "after the backup was restored" in _noted(file)
    database.prepare()
    _note(database, "again")
    file.unlink()
    with pytest.raises(sa.exc.OperationalError, match="no such table"):
        _note(database, "into nothing")
    database.close()


def _note(database: Database, text: str) -> None:
    with database.writing() as connection:
        connection.execute(sa.insert(PICTURE).values(sha256=text, media_type="x", bytes=1))


def _noted(file: Path) -> list[str]:
    with sqlite3.connect(file) as connection:
        return [row[0] for row in connection.execute("SELECT sha256 FROM picture")]


def test_a_password_is_not_shown() -> None:
    assert "secret" not in Database("postgresql://user:secret@db.example/x").name


def test_a_postgresql_server_that_vanishes_is_noticed_after_seconds(monkeypatch) -> None:
    given = []

    def connect(**arguments) -> None:
        given.append(arguments)
        raise psycopg.OperationalError("no server")

    monkeypatch.setattr(psycopg, "connect", connect)
    for query in ("", "?keepalives_idle=60&connect_timeout=2"):
        database = Database(f"postgresql://user@db.example/x{query}")
        with pytest.raises(DatabaseUnreachable, match="no server"):
            database.version()
        database.close()
    usual = {
        "host": "db.example", "connect_timeout": 10, "keepalives_idle": 10, "keepalives_interval": 5,
        "keepalives_count": 3, "tcp_user_timeout": 20_000,
    }  # fmt: skip
    first, second = given
    assert first.items() >= usual.items()
    assert second.items() >= (usual | {"keepalives_idle": "60", "connect_timeout": "2"}).items(), "the address decides"


def test_commands_say_the_version_and_change_it(empty_database_url, capsys) -> None:
    def run(*words: str) -> tuple[int, str]:
        code = command([*words, "--decisions", empty_database_url])
        return code, "".join(capsys.readouterr())

    code, said = run("database", "status")
    assert code == 0 and json.loads(said)["version"] is None
    code, said = run("prune", "--pictures", "/nowhere")
    assert code == 1 and "Run: python -m service database upgrade" in said
    code, said = run("database", "upgrade")
    assert code == 0 and json.loads(said)["after"] == head()
    code, said = run("database", "downgrade")
    assert code == 1 and "downgrade needs a version: base" in said
    code, said = run("database", "downgrade", "base")
    assert code == 0 and json.loads(said)["after"] is None
