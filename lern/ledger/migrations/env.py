"""What Alembic runs to migrate the ledger: on the connection, and in the transaction, that it is handed."""

from alembic import context

from lern.ledger.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite can, as long as it is we who say BEGIN.
    transactional_ddl=True,
)
context.run_migrations()
