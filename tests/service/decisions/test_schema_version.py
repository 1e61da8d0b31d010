"""The schema: versions forward and back, refusals, and the tables as the code knows them."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from service.__main__ import main as command
from service.decisions.database import Database
from service.decisions.errors import DatabaseError
from service.decisions.schema_version import current, head, migrate, prepare, revisions
from service.decisions.tables import METADATA, VERSION_TABLE

pytestmark = pytest.mark.slow


def tables(database: Database) -> set[str]:
    with database.reading() as connection:
        return set(sa.inspect(connection).get_table_names())


def test_migrations_make_the_tables_that_the_code_knows(empty_database_url) -> None:
    database = Database(empty_database_url)
    prepare(database)
    with database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE, "compare_type": True})
        assert compare_metadata(context, METADATA) == []
    database.close()


def test_every_migration_goes_forward_and_back(empty_database_url) -> None:
    database = Database(empty_database_url)
    for version in revisions():
        assert migrate(database, version)[1] == version
    for version in [*revisions()[-2::-1], "base"]:
        migrate(database, version)
    assert tables(database) <= {VERSION_TABLE}
    assert migrate(database, "head") == (None, head())
    database.close()


def test_services_that_start_at_once_make_the_tables_once(empty_database_url) -> None:
    with ThreadPoolExecutor(4) as threads:
        databases = [Database(empty_database_url) for _ in range(4)]
        list(threads.map(prepare, databases))
    assert current(databases[0]) == head()
    for one in databases:
        one.close()


def test_a_database_of_a_newer_service_is_refused_with_the_command_to_run(database) -> None:
    with database.writing() as connection:
        connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    for refused in (prepare, lambda one: migrate(one, "head"), lambda one: migrate(one, "base")):
        with pytest.raises(DatabaseError, match=f"version 9999 .* not know.* database downgrade {head()}"):
            refused(database)


def test_a_file_that_is_no_database_is_refused(tmp_path) -> None:
    (tmp_path / "decisions.db").write_text("not a database " * 100)
    database = Database(f"sqlite:///{tmp_path / 'decisions.db'}")
    for refused in (prepare, current, lambda one: migrate(one, "head")):
        with pytest.raises(DatabaseError, match="cannot be used: file is not a database"):
            refused(database)


def test_a_directory_that_is_missing_is_named_with_the_remedy(tmp_path) -> None:
    with pytest.raises(DatabaseError, match=r"cannot be used: .* Give a file in a directory that exists") as refused:
        prepare(Database(f"sqlite:///{tmp_path / 'missing' / 'decisions.db'}"))
    assert refused.type is DatabaseError, "a service does not start"


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
