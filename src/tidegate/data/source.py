"""Tables from wherever they are: files, SQL queries, data frames."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import msgspec
import polars as pl

from tidegate.core.digest import Digest, digest_file
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
    reader = _reader(path, _READERS)
    with readable(path.name):
        table: pl.DataFrame = reader(path)
        return table


_Reader = Callable[[Path], Any]
CsvEncoding = Literal["utf8", "utf8-lossy"]


def _reader(path: Path, known: dict[str, _Reader]) -> _Reader:
    if not path.is_file():
        raise NotFound(f"There is no data file {path}.", path=str(path))
    reader = known.get(path.suffix)
    if reader is None:
        raise InvalidSetting(
            f"{path.name} is no data file that Tidegate knows.",
            hint=f"Known endings: {', '.join(known)}.",
            path=str(path),
        )
    return reader


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Tell a failure to read `name` in words.

    Raises:
        UnreadableData: What ran inside could not read it.
    """
    try:
        yield
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UnreadableData(f"{name} cannot be read: {reason}", source=name) from error


class Origin(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where rows came from.

    Attributes:
        kind: `csv`, `parquet`, `jsonl`, `arrow`, `sql` or `frame`.
        location: The file's name, or the database without its password.
        query: The SQL query, if one.
        digest: Of the file's bytes, if it is one.
    """

    kind: str
    location: str = ""
    query: str = ""
    digest: Digest | None = None


class Source(NamedTuple):
    """Rows that nobody has read yet.

    Attributes:
        frame: Gives them.
        origin: Where they come from.
        path: The file they stand in, if one.
        lossy: The file is not UTF-8; its damaged characters read as U+FFFD. Such rows are for a report
            only.
    """

    frame: pl.LazyFrame
    origin: Origin
    path: Path | None = None
    lossy: bool = False


class QueryReader(Protocol):
    """Runs queries in a database; an adapter implements it."""

    @property
    def location(self) -> str:
        """The database, without its password."""
        ...

    def read(self, query: str) -> Iterator[pl.DataFrame]:
        """Give the rows that `query` selects, some thousands at a time; at least one frame.

        Raises:
            UnreadableData: The database cannot be reached, or refuses the query.
        """
        ...


def _scan_csv(path: Path) -> pl.LazyFrame:
    return _csv(path, ())


def _csv(path: Path, text: Collection[str], encoding: CsvEncoding = "utf8") -> pl.LazyFrame:
    # All rows decide on a column's type, as in `read_table`.
    asis = dict.fromkeys(text, pl.String)

    def scan(length: int | None) -> pl.LazyFrame:
        return pl.scan_csv(
            path,
            infer_schema_length=length,
            try_parse_dates=True,
            schema_overrides=asis,
            encoding=encoding,
        )

    # Looking at all rows for their types takes twenty times as long as reading them by known types. Where
    # those of the first rows read the whole file they are those of all, but for columns that begin empty.
    def typed(found: pl.Schema) -> pl.LazyFrame:
        return pl.scan_csv(path, schema=found, try_parse_dates=True, encoding=encoding)

    with suppress(pl.exceptions.PolarsError):
        head = scan(_FIRST_ROWS).head(_FIRST_ROWS).collect()
        if all(kind != pl.String or head[name].count() for name, kind in head.schema.items()):
            rows = typed(head.schema)
            rows.select(pl.all().count()).collect(engine="streaming")
            return rows
    whole = scan(None)
    with suppress(pl.exceptions.PolarsError):  # a file that cannot be read says so when it is read
        return typed(whole.collect_schema())
    return whole


_FIRST_ROWS = 10_000


def _scan_lines(path: Path) -> pl.LazyFrame:
    return pl.scan_ndjson(path, infer_schema_length=None)


_SCANNERS: dict[str, _Reader] = {
    ".parquet": pl.scan_parquet,
    ".csv": _scan_csv,
    ".jsonl": _scan_lines,
    ".ndjson": _scan_lines,
    ".arrow": pl.scan_ipc,
}
_KINDS = {".ndjson": "jsonl"}
_TEXT = frozenset({".csv", ".jsonl", ".ndjson"})
_CHUNK_BYTES = 1 << 20


def file_source(path: Path, *, text: Collection[str] = ()) -> Source:
    """Return the rows of a CSV, Parquet, JSON-lines or Arrow file, unread.

    Args:
        path: The file; its ending says which kind.
        text: Columns of a CSV file that stay text, whatever they look like: "007" is not 7.

    Raises:
        NotFound: There is no such file.
        InvalidSetting: Its ending is not known.
        UnreadableData: It is not what its ending says.
    """
    scanner = _reader(path, _SCANNERS)
    kind = _KINDS.get(path.suffix, path.suffix.removeprefix("."))
    origin = Origin(kind, location=path.name, digest=digest_file(path))
    if path.suffix in _TEXT and path.stat().st_size == 0:
        return Source(pl.LazyFrame(), origin, path)
    if path.suffix in _TEXT and not _is_utf8(path):
        if kind != "csv":
            raise UnreadableData(f"{path.name} is not UTF-8.", hint="Convert it first.", path=str(path))
        return Source(_csv(path, text, "utf8-lossy"), origin, path, lossy=True)
    with readable(path.name):
        return Source(_csv(path, text) if kind == "csv" else scanner(path), origin, path)


def _is_utf8(path: Path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        try:
            while chunk := file.read(_CHUNK_BYTES):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def query_source(reader: QueryReader, query: str) -> Source:
    """Return the rows that a query selects.

    They are fetched now: a query that ran again later could select others.

    Raises:
        UnreadableData: The database cannot be reached, or refuses the query.
    """
    frames = list(reader.read(query))
    with readable(f"The result of the query on {reader.location}"):
        # The first rows of a column may all be null: then its type is only known from later ones.
        frame = pl.concat(frames, how="vertical_relaxed")
    return Source(frame.lazy(), Origin("sql", location=reader.location, query=query))


def frame_source(data: Any, *, name: str = "") -> Source:
    """Return the rows of a polars or pandas data frame.

    Args:
        data: The frame. An index of pandas is left out: what counts belongs into a column.
        name: For the lineage.

    Raises:
        InvalidSetting: It is neither.
        UnreadableData: A column holds values of several types, or two have one name.
    """
    origin = Origin("frame", location=name)
    if isinstance(data, pl.LazyFrame):
        return Source(data, origin)
    if isinstance(data, pl.DataFrame):
        return Source(data.lazy(), origin)
    if not hasattr(data, "columns") or not hasattr(data, "itertuples"):
        raise InvalidSetting(
            f"Rows are taken from polars and pandas data frames, not from {type(data).__name__}.",
            hint="Wrap it: polars.DataFrame(...).",
        )
    names = [str(column) for column in data.columns]
    twice = sorted({each for each in names if names.count(each) > 1})
    if twice:
        raise UnreadableData(
            f"The data frame has several columns called {', '.join(map(repr, twice))}.", hint="Rename them."
        )
    with readable("The data frame"):
        series = [_pandas_series(str(column), data[column]) for column in data.columns]
        return Source(pl.DataFrame(series).lazy(), origin)


def _pandas_series(name: str, column: Any) -> pl.Series:
    # pandas is not imported to be read. Its kinds without a missing value of their own go as arrays.
    if getattr(column.dtype, "kind", "O") in "biufmM" and hasattr(column.dtype, "byteorder"):
        return pl.Series(name, column.to_numpy())
    missing = column.isna().tolist()
    values = [None if gone else value for value, gone in zip(column.tolist(), missing, strict=True)]
    try:
        return pl.Series(name, values, strict=True)
    except (TypeError, OverflowError) as error:
        kinds = sorted({type(value).__name__ for value in values if value is not None})
        raise UnreadableData(
            f"The column {name!r} of the data frame holds values of several types, or too large ones: "
            f"{', '.join(kinds)}.",
            hint="Make them one type, for example with .astype(str).",
            column=name,
        ) from error
