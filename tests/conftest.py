"""Fixtures that several packages' tests share."""

from tests.database import database_url, postgresql, unit

__all__ = ["database_url", "postgresql", "unit"]
