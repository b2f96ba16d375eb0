"""Validation: all checks of a table in one pass over its rows."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import polars as pl

from tidegate.contract.schema import Schema
from tidegate.data.check import ROW, Check, RowCheck, TableCheck, contract_checks, filled_checks, typed
from tidegate.data.report import SAMPLE_ROWS, Finding, Policy, Report
from tidegate.data.rule import Context, References, Rule
from tidegate.data.source import Source, UnreadableData, readable

HIDDEN = "(hidden)"
REASONS = "quarantined_for"
"""Column of a quarantine table that says which rules a row broke."""

_DAMAGED = "\ufffd"
_SHOWN_FIELDS = 20
_SHOWN_BYTES = 200


class Validated(NamedTuple):
    """A report, and the rows by what follows from it.

    Attributes:
        report: What was found.
        accepted: The rows to take, typed by the contract; None where the data set is rejected.
        quarantined: The rows to put aside, as they came, with the column `quarantined_for`; None if none.
    """

    report: Report
    accepted: Source | None
    quarantined: Source | None


def validate(
    source: Source,
    *,
    rules: Sequence[Rule] = (),
    schema: Schema | None = None,
    references: References,
    now_us: int,
    policy: Policy = Policy.REJECT,
) -> Validated:
    """Check rows against a contract's fields and against rules.

    The rules see values as the contract types them. Every row is looked at once, for all checks together.

    Args:
        source: The rows.
        rules: What else must hold.
        schema: The fields that must be there; further columns pass.
        references: Finds the snapshots that rules name.
        now_us: The time against which freshness is judged.
        policy: What follows from a row that breaks the contract.

    Raises:
        InvalidSetting: A rule does not fit the table.
        NotFound: A rule names a snapshot that does not exist.
    """
    hidden = {field.name for field in schema.fields if field.sensitive} if schema is not None else set()
    try:
        with readable(source.origin.location or "The source"):
            columns = dict(source.frame.collect_schema())
            if not columns:
                empty = Finding("rows", "", Policy.REJECT, 0, "The file is empty: not even a header.")
                return _refused(empty)
            frame, checks = _compile(
                source,
                columns,
                rules=rules,
                schema=schema,
                references=references,
                now_us=now_us,
                policy=policy,
            )
            report = _look(frame, checks, hidden)
    except UnreadableData as error:
        return _refused(_unreadable(source, error, shown=not hidden))
    if not report.accepted:
        return Validated(report, None, None)
    return _split(source, frame, checks, list(columns), report)


def _compile(
    source: Source,
    columns: dict[str, pl.DataType],
    *,
    rules: Sequence[Rule],
    schema: Schema | None,
    references: References,
    now_us: int,
    policy: Policy,
) -> tuple[pl.LazyFrame, list[Check]]:
    """Return the table with a flag a check of rows, and the checks.

    The contract's checks see the columns as they came, the rules as the contract types them; `ROW` keeps
    each row as it came.
    """
    fields = [] if schema is None else [field for field in schema.fields if field.name in columns]
    checks: list[Check] = _header_checks(source)
    if source.lossy:
        checks += _encoding_checks(columns)
    if schema is not None:
        checks += contract_checks(schema, columns, policy)
    checks += filled_checks(columns, frozenset(field.name for field in fields))
    found = {field.name: typed(field, columns[field.name]) for field in fields}
    types = [expression.alias(name) for name, expression in found.items() if expression is not None]
    frame = source.frame.with_columns(pl.struct(*columns).alias(ROW), *_flags(checks, 0)).with_columns(types)
    known = {name: kind for name, kind in frame.collect_schema().items() if name in columns}
    ruled = [rule.compile(Context(known, references, now_us)) for rule in rules]
    return frame.with_columns(_flags(ruled, len(checks))), [*checks, *ruled]


def _flag(index: int) -> str:
    return f"\x00{index}"  # no column of a data set is called so


def _flags(checks: Sequence[Check], start: int) -> list[pl.Expr]:
    flags = []
    for index, check in enumerate(checks, start):
        if isinstance(check, RowCheck):
            bad = check.bad.fill_null(value=False)
            if check.allowance:
                bad &= bad.sum() > check.allowance * pl.len()
            flags.append(bad.alias(_flag(index)))
    return flags


def _quarantining(checks: Sequence[Check]) -> dict[int, RowCheck]:
    return {
        index: check
        for index, check in enumerate(checks)
        if isinstance(check, RowCheck) and check.policy == Policy.QUARANTINE
    }


def _any(indices: Collection[int]) -> pl.Expr:
    return pl.any_horizontal([_flag(index) for index in indices]) if indices else pl.lit(value=False)


def _header_checks(source: Source) -> list[Check]:
    """Find names that stand twice in the header of a CSV file: polars would rename the second."""
    if source.path is None or source.origin.kind != "csv":
        return []
    with source.path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        header = next(csv.reader(file), [])
    message = "Must stand once in the header."
    return [
        TableCheck("column", name, Policy.REJECT, pl.len(), lambda _, __: message)
        for name in dict.fromkeys(header)
        if header.count(name) > 1
    ]


def _encoding_checks(columns: dict[str, pl.DataType]) -> list[Check]:
    message = "Must be UTF-8: the file mixes encodings, or has another one."
    checks: list[Check] = []
    for name, kind in columns.items():
        bad = pl.lit(value=True) if _DAMAGED in name else None
        if bad is None and kind == pl.String:
            bad = pl.col(name).str.contains(_DAMAGED, literal=True)
        if bad is not None:
            checks.append(RowCheck("encoding", name, Policy.REJECT, bad, message))
    return checks


def _look(frame: pl.LazyFrame, checks: Sequence[Check], hidden: Collection[str]) -> Report:
    """Run everything in one pass and turn the figures into findings."""
    aggregates = [
        pl.len().alias("n_rows"),
        (_any(_quarantining(checks)) & pl.int_range(pl.len()).is_not_null()).sum().alias("n_quarantined"),
    ]
    for index, check in enumerate(checks):
        if isinstance(check, RowCheck):
            bad = pl.col(_flag(index))
            aggregates += [
                bad.sum().alias(f"count {index}"),
                pl.int_range(pl.len()).filter(bad).head(SAMPLE_ROWS).implode().alias(f"where {index}"),
                pl.col(ROW).filter(bad).head(SAMPLE_ROWS).implode().alias(f"rows {index}"),
            ]
        else:
            aggregates.append(check.figure.alias(f"figure {index}"))
    figures = frame.select(aggregates).collect(engine="streaming").row(0, named=True)
    n_rows = int(figures["n_rows"])
    found = [_finding(check, index, figures, n_rows, hidden) for index, check in enumerate(checks)]
    findings = [finding for finding in found if finding is not None]
    if not n_rows:
        findings.insert(0, Finding("rows", "", Policy.REJECT, 0, "There are no rows."))
    return Report(n_rows, len(checks) + 1, int(figures["n_quarantined"]), tuple(findings))


def _finding(
    check: Check, index: int, figures: Mapping[str, Any], n_rows: int, hidden: Collection[str]
) -> Finding | None:
    if isinstance(check, RowCheck):
        count = int(figures[f"count {index}"])
        if not count:
            return None
        return Finding(
            check.rule,
            check.column,
            check.policy,
            count,
            check.message,
            tuple(figures[f"where {index}"]),
            tuple(_plain(row, hidden) for row in figures[f"rows {index}"]),
        )
    fault = check.judge(figures[f"figure {index}"], n_rows)
    return None if fault is None else Finding(check.rule, check.column, check.policy, n_rows, fault)


def _plain(row: Mapping[str, Any], hidden: Collection[str]) -> dict[str, Any]:
    shown = {name: HIDDEN if name in hidden else value for name, value in row.items()}
    plain: dict[str, Any] = msgspec.to_builtins(shown, enc_hook=str)
    return plain


def _split(
    source: Source, frame: pl.LazyFrame, checks: Sequence[Check], columns: Sequence[str], report: Report
) -> Validated:
    bad = _quarantining(checks)
    accepted = frame.filter(~_any(bad)).select(columns) if report.n_quarantined else frame.select(columns)
    good = Source(accepted, source.origin, source.path)
    if not report.n_quarantined:
        return Validated(report, good, None)
    reasons = [
        pl.when(_flag(index)).then(pl.lit(f"{check.rule} {check.column}")) for index, check in bad.items()
    ]
    side = frame.filter(_any(bad)).select(
        pl.col(ROW).struct.unnest(), pl.concat_str(reasons, separator="; ", ignore_nulls=True).alias(REASONS)
    )
    return Validated(report, good, Source(side, source.origin, source.path))


def _refused(finding: Finding) -> Validated:
    return Validated(Report(finding.count, 1, 0, (finding,)), None, None)


def _unreadable(source: Source, error: UnreadableData, *, shown: bool) -> Finding:
    """Say which lines of a file keep it from being read, where they can be found.

    Where fields are sensitive nothing of the file is shown: nobody knows which field a broken line is in.
    """
    lines: list[tuple[int, dict[str, Any]]] = []
    if source.path is not None and source.origin.kind == "csv":
        lines = list(_ragged_lines(source.path))
    elif source.path is not None and source.origin.kind == "jsonl":
        lines = list(_broken_lines(source.path))
    samples = lines[:SAMPLE_ROWS]
    return Finding(
        "readable",
        "",
        Policy.REJECT,
        len(lines),
        error.message if shown else f"{source.origin.location or 'The source'} cannot be read.",
        tuple(number for number, _ in samples),
        tuple(row for _, row in samples) if shown else (),
    )


def _ragged_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Give the rows of a CSV file that have another number of fields than its header."""
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        rows = csv.reader(file)
        header = next(rows, [])
        for number, row in enumerate(rows):
            if row and len(row) != len(header):
                yield number, {"fields": row[:_SHOWN_FIELDS], "expected": len(header), "got": len(row)}


def _broken_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Give the lines of a JSON-lines file that are no object."""
    with path.open("rb") as file:
        for number, line in enumerate(file):
            try:
                if line.strip():
                    msgspec.json.decode(line, type=dict[str, Any])
            except (msgspec.MsgspecError, UnicodeDecodeError):
                yield number, {"line": line[:_SHOWN_BYTES].decode(errors="replace").rstrip()}
