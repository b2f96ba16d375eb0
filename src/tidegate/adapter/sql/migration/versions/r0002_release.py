"""Releases under way, and the lease of who leads them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_NAME = sa.String(63).with_variant(sa.String(63, collation="C"), "postgresql")
_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create the tables; nothing that was there changes."""
    op.create_table(
        "tidegate_release",
        sa.Column("number", _NUMBER, nullable=False, autoincrement=True),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("service", _NAME, nullable=False),
        sa.Column("is_open", sa.Boolean, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_tidegate_release"),
        sa.UniqueConstraint("id", name="uq_tidegate_release_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_tidegate_release_service", "tidegate_release", ["service", "number"])
    op.create_index(
        "uq_tidegate_release_open",
        "tidegate_release",
        ["service"],
        unique=True,
        sqlite_where=sa.text("is_open"),
        postgresql_where=sa.text("is_open"),
    )
    op.create_table(
        "tidegate_lease",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("token", sa.BigInteger, nullable=False),
        sa.Column("beat", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_tidegate_lease"),
    )


def downgrade() -> None:
    """Drop the tables: what was decided stands among the decisions all the same."""
    op.drop_table("tidegate_lease")
    op.drop_table("tidegate_release")
