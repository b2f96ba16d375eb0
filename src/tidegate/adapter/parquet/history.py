"""A service's records with what became of them, as monitors read them: Parquet and the ledger's outcomes."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import msgspec
import polars as pl

from tidegate.adapter.parquet.record import read_parts
from tidegate.core.error import NotFound
from tidegate.core.identifier import format_prediction_id
from tidegate.evaluation.measure import class_name
from tidegate.journal.ledger import LATEST
from tidegate.journal.record import UNNAMED
from tidegate.monitoring.subject import AT, FAILED, KPI, KPI_AT, LABEL, LABELLED_AT

_US_PER_MINUTE = 60_000_000
_TIME = pl.Datetime("us", "UTC")
_KEPT = ("prediction_id", "version", "arm", AT, FAILED)
_JOINED = f"""
SELECT request, row, value, received_us FROM truth
WHERE service = :service AND {LATEST} AND EXISTS (
    SELECT 1 FROM joined WHERE joined.service = truth.service AND joined.request = truth.request
    AND joined.row = truth.row AND joined.minute >= :since AND joined.minute < :until
)
"""  # noqa: S608  # a constant


class StoredHistory:
    """Implements `History` over a record store and a ledger; opens both for each question."""

    def __init__(
        self,
        records: Path,
        ledger: Path,
        service: str,
        *,
        outcome: str = UNNAMED,
        kpis: Sequence[str] = (),
    ) -> None:
        """Name the places.

        Args:
            records: The record store's folder.
            ledger: The ledger.
            service: Whose records.
            outcome: Name of the outcome that is the label; one without a name of its own is it as well.
            kpis: Names of the outcomes that are figures of the business.
        """
        self._records = records
        self._ledger = ledger
        self._service = service
        self._outcome = outcome
        self._kpis = kpis

    def _index(self) -> sqlite3.Connection:
        path = self._records / "index.db"
        if not path.exists():
            raise NotFound(
                f"There are no records in {self._records}.",
                hint="The controller writes them while `tidegate up` runs, a minute after they came.",
                path=str(path),
            )
        return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30)

    def days(self) -> list[date]:
        index = self._index()
        try:
            return sorted({part.day for part in read_parts(index, self._service)})
        finally:
            index.close()

    def n_records(self, day: date) -> int:
        """Return how many records there are of a day, shadows among them."""
        index = self._index()
        try:
            return sum(part.rows for part in read_parts(index, self._service, since=day, until=day))
        finally:
            index.close()

    def records(self, since: date, until: date) -> pl.DataFrame:
        """Return predictions, not shadows; see `History`."""
        index = self._index()
        try:
            parts = read_parts(index, self._service, since=since, until=until)
            tables = [
                pl.scan_parquet(part.path(self._records), glob=False)
                .filter(pl.col("kind") == "prediction")
                .select(pl.col(*_KEPT), pl.col("^input\\..*$"), pl.col("^output\\..*$"))
                .collect()
                for part in parts
            ]
        finally:
            index.close()
        if not tables:
            return pl.DataFrame(schema={AT: _TIME, LABEL: pl.Float64(), LABELLED_AT: _TIME})
        # an older contract's files may lack a column, or have another type of number
        table = pl.concat([_plain(each) for each in tables], how="diagonal_relaxed")
        for names, column, at in (
            ((self._outcome, UNNAMED), LABEL, LABELLED_AT),
            *(((name, name), KPI + name, KPI_AT + name) for name in self._kpis),
        ):
            known = self._outcomes(names, since, until, column=column, at=at)
            table = table.join(known, on="prediction_id", how="left")
        return table.sort(AT)

    def _outcomes(
        self, names: tuple[str, str], since: date, until: date, *, column: str, at: str
    ) -> pl.DataFrame:
        """Return the latest outcome of either name of each prediction of a period, and when it was known."""
        schema = {"prediction_id": pl.String(), column: pl.Float64(), at: _TIME}
        if not self._ledger.exists():
            return pl.DataFrame(schema=schema)
        first, last = (_minute(day) for day in (since, until + timedelta(days=1)))
        ledger = sqlite3.connect(f"{self._ledger.absolute().as_uri()}?mode=ro", uri=True, timeout=30)
        try:
            wanted = {"service": self._service, "since": first, "until": last}
            wanted |= {"name": names[0], "other": names[1]}
            rows = ledger.execute(_JOINED, wanted).fetchall()
        finally:
            ledger.close()
        return pl.DataFrame(
            {
                "prediction_id": [format_prediction_id(request, row) for request, row, _, _ in rows],
                column: _column([value for _, _, value, _ in rows]),
                at: pl.Series([when for _, _, _, when in rows], dtype=pl.Int64).cast(_TIME),
            }
        )


def _column(told: Sequence[str]) -> pl.Series:
    """Return outcomes, told in JSON, as numbers; where one is none, as texts: true is "1", 2.0 is "2"."""
    values = [_plain_outcome(each) for each in told]
    if not any(isinstance(value, str) for value in values):
        return pl.Series(values, dtype=pl.Float64)
    texts = [class_name(value) if isinstance(value, float) else value for value in values]
    return pl.Series(texts, dtype=pl.String)


def _plain_outcome(told: str) -> float | str | None:
    value = msgspec.json.decode(told)
    if value is None or isinstance(value, str):
        return value
    try:
        return float(value)  # true counts as 1
    except (TypeError, OverflowError):
        return told  # nothing to compare with, and counted as such


def _minute(day: date) -> int:
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return int(start.timestamp() * 1_000_000) // _US_PER_MINUTE


def _plain(table: pl.DataFrame) -> pl.DataFrame:
    """Write categories as texts and vectors as lists, so that those of two contracts go together."""
    plain = {
        name: pl.List(kind.inner) if isinstance(kind, pl.Array) else pl.String()
        for name, kind in table.schema.items()
        if isinstance(kind, pl.Enum | pl.Categorical | pl.Array)
    }
    return table.cast(plain) if plain else table  # type: ignore[arg-type]  # a dict's keys are invariant
