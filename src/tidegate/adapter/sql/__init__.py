"""The metadata database: SQLite embedded, PostgreSQL shared."""
