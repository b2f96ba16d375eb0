"""Adapter: SQLite by the standard library, for what lives beside one process."""
