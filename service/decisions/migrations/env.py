"""Alembic runs this file for every migration: the open transaction comes from `service.decisions.schema_version`."""

from alembic import context

from service.decisions import review_tables  # noqa: F401 - its tables join METADATA
from service.decisions.tables import METADATA, VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
