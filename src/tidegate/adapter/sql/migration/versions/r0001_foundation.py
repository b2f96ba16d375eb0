"""Services, versions, decisions, the audit chain, and the keys of mutations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_NAME = sa.String(63).with_variant(sa.String(63, collation="C"), "postgresql")
_DIGEST = sa.String(71)
_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_GENESIS = "sha256:" + "0" * 64
_IMMUTABLE = ("tidegate_version", "tidegate_decision", "tidegate_audit")


def upgrade() -> None:
    """Create the tables, the empty chain's head, and the triggers that keep records as they are."""
    _create_registry()
    _create_audit()
    for table in _IMMUTABLE:
        _forbid_changes(table)


def _create_registry() -> None:
    op.create_table(
        "tidegate_service",
        sa.Column("name", _NAME, nullable=False),
        sa.Column("latest", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_tidegate_service"),
    )
    op.create_table(
        "tidegate_version",
        sa.Column("service", _NAME, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("manifest", _DIGEST, nullable=False),
        sa.Column("contract", _DIGEST, nullable=False),
        sa.Column("artifacts", sa.Text, nullable=False),
        sa.Column("lineage", sa.Text, nullable=False),
        sa.Column("changelog", sa.Text, nullable=False),
        sa.Column("created_at_us", sa.BigInteger, nullable=False),
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("principal_kind", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("service", "number", name="pk_tidegate_version"),
        sa.ForeignKeyConstraint(["service"], ["tidegate_service.name"], name="fk_tidegate_version_service"),
        sa.CheckConstraint("number >= 1", name="ck_tidegate_version_number"),
    )
    op.create_table(
        "tidegate_decision",
        sa.Column("id", _NUMBER, nullable=False, autoincrement=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("service", _NAME, nullable=False),
        sa.Column("version", sa.Integer),
        sa.Column("body", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_tidegate_decision"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_tidegate_decision_service", "tidegate_decision", ["service", "kind", "id"])


def _create_audit() -> None:
    op.create_table(
        "tidegate_audit",
        sa.Column("sequence", _NUMBER, nullable=False, autoincrement=False),
        sa.Column("at_us", sa.BigInteger, nullable=False),
        sa.Column("principal", sa.Text, nullable=False),
        sa.Column("principal_kind", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("service", _NAME),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("previous", _DIGEST, nullable=False),
        sa.Column("hash", _DIGEST, nullable=False),
        sa.Column("format", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_tidegate_audit"),
    )
    op.create_index("ix_tidegate_audit_service", "tidegate_audit", ["service", "sequence"])
    head = op.create_table(
        "tidegate_audit_head",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("hash", _DIGEST, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_tidegate_audit_head"),
        sa.CheckConstraint("id = 1", name="ck_tidegate_audit_head_single"),
    )
    op.bulk_insert(head, [{"id": 1, "sequence": 0, "hash": _GENESIS}])
    op.create_table(
        "tidegate_mutation",
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("request", _DIGEST, nullable=False),
        sa.Column("result", sa.LargeBinary, nullable=False),
        sa.Column("sequence", _NUMBER, nullable=False),
        sa.Column("at_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_tidegate_mutation"),
        sa.UniqueConstraint("sequence", name="uq_tidegate_mutation_sequence"),
        sa.ForeignKeyConstraint(
            ["sequence"], ["tidegate_audit.sequence"], name="fk_tidegate_mutation_sequence"
        ),
    )


def _forbid_changes(table: str) -> None:
    """Have the database itself refuse to alter what is kept for good: a guard against mistakes."""
    message = f"rows of {table} are kept as they are"
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{message}'); END"
            )
        return
    op.execute(
        f"CREATE FUNCTION {table}_keep() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{message}'; END $$"
    )
    op.execute(
        f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {table}_keep()"
    )


def downgrade() -> None:
    """Refuse: the tables hold the only record of who did what."""
    raise NotImplementedError("the first revision is not undone; delete the database to start afresh")
