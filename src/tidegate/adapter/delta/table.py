"""Appends records to Delta Lake tables, each part exactly once.

A commit of a Delta table may carry the number up to which one application has got; it is in the same
commit as the rows. So what is appended again after a crash is known, and left out.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from tidegate.core.error import Conflict, MissingExtra, TidegateError

DAY = "day"
"""The column by which tables are partitioned."""
_WIDER: dict[type[pl.DataType] | pl.DataType, pl.DataType] = {
    pl.UInt8: pl.Int16(),
    pl.UInt16: pl.Int32(),
    pl.UInt32: pl.Int64(),
    pl.UInt64: pl.Decimal(20, 0),
    pl.Duration: pl.Int64(),
}


class DeltaUnavailable(TidegateError):
    """A Delta table cannot be read or written. What it would have got waits in the record store."""

    code = "delta_unavailable"


class DeltaTables:
    """A service's table each, under one folder or address."""

    def __init__(self, target: str) -> None:
        """Take the place.

        Args:
            target: A folder, or an address that delta-rs knows, such as `s3://BUCKET/PREFIX`.

        Raises:
            MissingExtra: The library is not installed.
        """
        try:
            self._delta: Any = importlib.import_module("deltalake")
        except ImportError as error:
            raise MissingExtra("Records as Delta Lake tables", extra="delta", package="deltalake") from error
        self._target = target.rstrip("/")

    def address(self, service: str, contract: str = "") -> str:
        """Return where a service's table is; with a contract, the one of rows that the first cannot take."""
        return f"{self._target}/{service}" + (f"-{contract}" if contract else "")

    def append(
        self,
        service: str,
        contract: str,
        parts: Mapping[int, pl.DataFrame],
        *,
        sender: str,
        former: Sequence[str] = (),
    ) -> int:
        """Append the parts that the table does not have yet, in one commit.

        Where the service's table has a column of another type, the rows go to a table of their contract.

        Args:
            service: Whose rows.
            contract: First digits of their contract's fingerprint.
            parts: Number -> rows with the column `day`, of one set of columns. Numbers of one service
                grow, from call to call as well.
            sender: Name under which the last number is kept in the table.
            former: Names under which the same rows may have been sent before.

        Returns:
            How many rows were appended now.

        Raises:
            DeltaUnavailable: The table cannot be read or written.
            Conflict: The same records were copied to this table before, under another name.
        """
        try:
            return self._append(service, contract, parts, sender, former)
        except (OSError, self._delta.exceptions.DeltaError) as error:
            raise DeltaUnavailable(
                f"The Delta table {self.address(service)} cannot be written: {error}.",
                hint="It is tried again; the rows wait in the record store.",
                service=service,
            ) from error

    def _append(
        self,
        service: str,
        contract: str,
        parts: Mapping[int, pl.DataFrame],
        sender: str,
        former: Sequence[str],
    ) -> int:
        schema = _plain(next(iter(parts.values())).clear()).schema
        address = self.address(service)
        table = self._open(address)
        if table is not None and not _fits(table, schema):
            address = self.address(service, contract)
            table = self._open(address)
        reached = None
        if table is not None:
            reached = table.transaction_version(sender)
            if reached is None and any(table.transaction_version(name) is not None for name in former):
                raise Conflict(
                    f"The Delta table {address} already has records of this home, copied before another "
                    "place was named.",
                    hint="Name another place in `records_delta`, or delete that table: all are copied again.",
                    service=service,
                )
        new = [part for number, part in sorted(parts.items()) if reached is None or number > reached]
        if not new:
            return 0
        rows = _plain(pl.concat(new))
        self._delta.write_deltalake(
            address if table is None else table,
            rows,
            mode="append",
            partition_by=[DAY],
            schema_mode="merge",
            commit_properties=self._delta.CommitProperties(
                app_transactions=[self._delta.Transaction(sender, max(parts))]
            ),
        )
        return rows.height

    def _open(self, address: str) -> Any:
        return self._delta.DeltaTable(address) if self._delta.DeltaTable.is_deltatable(address) else None


def _fits(table: Any, schema: pl.Schema) -> bool:
    """Tell whether no column has another type in the table."""
    there = pl.DataFrame(table.schema().to_arrow().empty_table()).schema
    return all(there.get(name, dtype) == dtype for name, dtype in schema.items())


def _plain(rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows in types that Delta has: no unsigned numbers, durations, or categories."""
    return rows.cast({name: _plain_type(dtype) for name, dtype in rows.schema.items()})


def _plain_type(dtype: pl.DataType) -> pl.DataType:
    if isinstance(dtype, pl.Enum | pl.Categorical):
        return pl.String()
    if isinstance(dtype, pl.Array | pl.List):
        return pl.List(_plain_type(dtype.inner))  # type: ignore[arg-type]  # an instance, as a schema has them
    return _WIDER.get(type(dtype), dtype)
