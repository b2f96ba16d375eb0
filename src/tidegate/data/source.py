"""Tables from files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl

from tidegate.core.error import InvalidSetting, NotFound, TidegateError


class UnreadableData(TidegateError):
    """A data file is not what its name says."""

    code = "unreadable_data"


def _read_csv(path: Path) -> pl.DataFrame:
    # All rows decide on a column's type: a code that is a number in the first hundred rows may not be later.
    return pl.read_csv(path, infer_schema_length=None, try_parse_dates=True)


_READERS: dict[str, Callable[[Path], pl.DataFrame]] = {
    ".parquet": pl.read_parquet,
    ".csv": _read_csv,
    ".jsonl": pl.read_ndjson,
    ".ndjson": pl.read_ndjson,
    ".json": pl.read_json,
    ".arrow": pl.read_ipc,
}


def read_table(path: Path) -> pl.DataFrame:
    """Return the rows of a data file, which its ending says how to read.

    Raises:
        NotFound: There is no such file.
        InvalidSetting: Its ending is not known.
        UnreadableData: It cannot be read as what its ending says.
    """
    if not path.is_file():
        raise NotFound(f"There is no data file {path}.", path=str(path))
    reader = _READERS.get(path.suffix)
    if reader is None:
        raise InvalidSetting(
            f"{path.name} is no data file that Tidegate knows.",
            hint=f"Known endings: {', '.join(_READERS)}.",
            path=str(path),
        )
    try:
        return reader(path)
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UnreadableData(f"{path.name} cannot be read: {reason}", path=str(path)) from error
