"""Write what is in a home's journal as files for other programs."""

from __future__ import annotations

from pathlib import Path

from tidegate.adapter.parquet.export import ExportReport, export_journal
from tidegate.core.home import Home

__all__ = ["ExportReport", "export"]


def export(
    home: Home,
    target: Path,
    *,
    service: str | None = None,
    since_us: int | None = None,
    until_us: int | None = None,
    shadows: bool = False,
) -> ExportReport:
    """Write predictions as Parquet; see `export_journal` for the files.

    Args:
        home: Whose journal.
        target: Folder for the files; made if it is not there.
        service: Only records of this service.
        since_us: Only records that arrived at this time or later, microseconds UTC.
        until_us: Only records that arrived before this time.
        shadows: Also what versions answered in the shadow.
    """
    return export_journal(
        home.journal, target, service=service, since_us=since_us, until_us=until_us, shadows=shadows
    )
