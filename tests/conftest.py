"""Fixtures that several packages' tests share."""

import os

# Before numpy: the threads of a matrix product wait for each other by spinning, which on a busy machine of
# two cores, with a test process on each, was seen to turn one second into forty.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from hypothesis import HealthCheck, settings

from tests.database import (
    database_url,
    empty_database_url,
    postgresql,
    postgresql_tables,
    sqlite_template,
    unit,
)

# A deadline, or a limit on how long examples take to make, would make a slow machine fail what is right; and
# tests whose examples share a folder know that they do.
settings.register_profile(
    "tidegate",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("tidegate")

__all__ = [
    "database_url",
    "empty_database_url",
    "postgresql",
    "postgresql_tables",
    "sqlite_template",
    "unit",
]
