"""Run by Alembic: migrates over the connection, and inside the transaction, that it is given."""

from __future__ import annotations

from alembic import context

from tidegate.adapter.sql.migrate import REVISION_TABLE
from tidegate.adapter.sql.table import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=REVISION_TABLE,
    transactional_ddl=True,  # true of SQLite as well, once the driver leaves transactions to us
    render_as_batch=True,  # SQLite cannot alter a column in place
)
context.run_migrations()
