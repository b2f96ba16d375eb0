"""The tables of the metadata database, as the newest migration leaves them."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)

# Sorted by bytes on both databases; the default of PostgreSQL depends on the machine's language.
NAME = String(63).with_variant(String(63, collation="C"), "postgresql")
DIGEST = String(71)
# SQLite numbers rows by itself only in a column of type INTEGER.
NUMBER = BigInteger().with_variant(Integer(), "sqlite")

service = Table(
    "tidegate_service",
    metadata,
    Column("name", NAME, primary_key=True),
    Column("latest", Integer, nullable=False),
)

version = Table(
    "tidegate_version",
    metadata,
    Column("service", NAME, ForeignKey("tidegate_service.name"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("manifest", DIGEST, nullable=False),
    Column("contract", DIGEST, nullable=False),
    Column("artifacts", Text, nullable=False),
    Column("lineage", Text, nullable=False),
    Column("changelog", Text, nullable=False),
    Column("created_at_us", BigInteger, nullable=False),
    Column("principal", Text, nullable=False),
    Column("principal_kind", Text, nullable=False),
    CheckConstraint("number >= 1", name="number"),
)

decision = Table(
    "tidegate_decision",
    metadata,
    Column("id", NUMBER, primary_key=True, autoincrement=True),
    Column("kind", Text, nullable=False),
    Column("service", NAME, nullable=False),
    Column("version", Integer),
    Column("body", Text, nullable=False),
    Index("ix_tidegate_decision_service", "service", "kind", "id"),
    sqlite_autoincrement=True,  # a number is never given twice, not even after a deletion
)

audit = Table(
    "tidegate_audit",
    metadata,
    Column("sequence", NUMBER, primary_key=True, autoincrement=False),
    Column("at_us", BigInteger, nullable=False),
    Column("principal", Text, nullable=False),
    Column("principal_kind", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("service", NAME),
    Column("subject", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("previous", DIGEST, nullable=False),
    Column("hash", DIGEST, nullable=False),
    Column("format", Integer, nullable=False),
    Index("ix_tidegate_audit_service", "service", "sequence"),
)

audit_head = Table(
    "tidegate_audit_head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("sequence", BigInteger, nullable=False),
    Column("hash", DIGEST, nullable=False),
    CheckConstraint("id = 1", name="single"),
)

mutation = Table(
    "tidegate_mutation",
    metadata,
    Column("key", Text, primary_key=True),
    Column("action", Text, nullable=False),
    Column("request", DIGEST, nullable=False),
    Column("result", LargeBinary, nullable=False),
    Column("sequence", NUMBER, nullable=False, unique=True),
    Column("at_us", BigInteger, nullable=False),
    ForeignKeyConstraint(["sequence"], ["tidegate_audit.sequence"]),
)

release = Table(
    "tidegate_release",
    metadata,
    Column("number", NUMBER, primary_key=True, autoincrement=True),
    Column("id", Text, nullable=False, unique=True),
    Column("service", NAME, nullable=False),
    Column("is_open", Boolean, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("ix_tidegate_release_service", "service", "number"),
    sqlite_autoincrement=True,
)
# A service has one open release at most: of two who start one at once, the second is refused.
Index(
    "uq_tidegate_release_open",
    release.c.service,
    unique=True,
    sqlite_where=release.c.is_open,
    postgresql_where=release.c.is_open,
)

lease = Table(
    "tidegate_lease",
    metadata,
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("token", BigInteger, nullable=False),
    Column("beat", BigInteger, nullable=False),
)
