"""Rules of a data set beyond its contract, as plain data: in Python, or as JSON with the name as `rule`."""

from __future__ import annotations

from typing import NamedTuple, Protocol, get_args

import msgspec
import polars as pl

from tidegate.core.error import InvalidSetting
from tidegate.data.check import Check, Columns, RowCheck, TableCheck, absent
from tidegate.data.distribution import population_stability_index, psi_by_chance
from tidegate.data.report import Policy
from tidegate.data.summary import ColumnSummary


class References(Protocol):
    """Finds the snapshots that rules refer to."""

    def summary(self, label: str, column: str) -> ColumnSummary:
        """Return a column's summary in the snapshot called `label`.

        Raises:
            NotFound: There is no such snapshot or column.
        """
        ...

    def values(self, label: str, column: str) -> pl.Series:
        """Return the values of a column in the snapshot called `label`.

        Raises:
            NotFound: There is no such snapshot or column.
        """
        ...


class Context(NamedTuple):
    """What rules are compiled with.

    Attributes:
        columns: The table's columns, as the contract types them.
        references: Finds snapshots.
        now_us: When the check is made, microseconds UTC.
    """

    columns: Columns
    references: References
    now_us: int


class _Rule(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag_field="rule",
    tag=str.lower,
    forbid_unknown_fields=True,
):
    """What all rules share."""

    policy: Policy = Policy.REJECT

    def __post_init__(self) -> None:
        if self.policy not in list(Policy):
            raise InvalidSetting(
                f"The rule {type(self).__name__.lower()!r} has the unknown policy {self.policy!r}.",
                hint=f"Policies: {', '.join(Policy)}.",
            )

    def compile(self, context: Context) -> Check:
        """Return the rule as a check of a table.

        Raises:
            InvalidSetting: It does not fit the table.
            NotFound: It refers to a snapshot that does not exist.
        """
        raise NotImplementedError

    def _table_policy(self) -> Policy:
        if self.policy == Policy.QUARANTINE:
            raise InvalidSetting(
                f"The rule {type(self).__name__.lower()!r} judges a column: it cannot quarantine rows.",
                hint="Use the policy reject or warn.",
            )
        return self.policy


class Unique(_Rule, frozen=True, kw_only=True):
    """No two rows agree in all of `columns`.

    All rows of a key that stands twice offend: nobody can say which of them is right. With `keep_first`
    the first one is taken to be.
    """

    columns: tuple[str, ...]
    keep_first: bool = False

    def __post_init__(self) -> None:
        _Rule.__post_init__(self)
        if not self.columns:
            raise InvalidSetting(
                "The rule 'unique' names no column.", hint="Name those in which no two rows may agree."
            )

    def compile(self, context: Context) -> Check:
        names = ", ".join(self.columns)
        for column in self.columns:
            if column not in context.columns:
                return absent("unique", column, self.policy)
        key = pl.struct(*self.columns)
        bad = ~key.is_first_distinct() if self.keep_first else key.is_duplicated()
        return RowCheck("unique", names, self.policy, bad, "Must be unique.")


class Monotone(_Rule, frozen=True, kw_only=True):
    """Values never fall from row to row, within each group of equal `by`; they rise where `strict`."""

    column: str
    by: tuple[str, ...] = ()
    strict: bool = False

    def compile(self, context: Context) -> Check:
        for column in (self.column, *self.by):
            if column not in context.columns:
                return absent("monotone", column, self.policy)
        value = pl.col(self.column)
        if context.columns[self.column].is_float():
            value = value.fill_nan(None)
        before = value.forward_fill().shift(1)  # a gap does not excuse what comes after it
        if self.by:
            before = before.over(self.by)
        bad = value <= before if self.strict else value < before
        return RowCheck("monotone", self.column, self.policy, bad, "Must not lie before the row above it.")


class Fresh(_Rule, frozen=True, kw_only=True):
    """The newest time of a column is at most `within_s` seconds old, and not in the future.

    Clocks differ: `ahead_s` seconds of future pass. One wrong year would otherwise make any table fresh.
    """

    column: str
    within_s: float
    ahead_s: float = 60.0

    def compile(self, context: Context) -> Check:
        found = context.columns.get(self.column)
        policy = self._table_policy()
        if found is None:
            return absent("fresh", self.column, policy)
        if not isinstance(found, pl.Datetime | pl.Date):
            raise InvalidSetting(f"Column {self.column!r} is {found}, so it has no age.", hint="Name a time.")

        def judge(newest_us: int | None, n_rows: int) -> str | None:
            if newest_us is None:
                return "There is no time to judge by."
            age_s = (context.now_us - newest_us) / 1e6
            if age_s < -self.ahead_s:
                return f"The newest lies {-age_s:,.0f} s in the future."
            if age_s <= self.within_s:
                return None
            return f"The newest is {age_s:,.0f} s old, at most {self.within_s:,.0f} s are allowed."

        return TableCheck("fresh", self.column, policy, pl.col(self.column).max().dt.epoch("us"), judge)


class Nulls(_Rule, frozen=True, kw_only=True):
    """At most the share `at_most` of a column is missing (null or NaN)."""

    column: str
    at_most: float = 0.0

    def __post_init__(self) -> None:
        _Rule.__post_init__(self)
        if not 0 <= self.at_most <= 1:
            raise InvalidSetting(f"The rule 'nulls' has a share in [0, 1] as `at_most`. Got {self.at_most}.")

    def compile(self, context: Context) -> Check:
        found = context.columns.get(self.column)
        if found is None:
            return absent("nulls", self.column, self.policy)
        value = pl.col(self.column)
        bad = value.is_null() | value.is_nan() if found.is_float() else value.is_null()
        message = f"May be missing in {self.at_most:.4g} of the rows."
        return RowCheck("nulls", self.column, self.policy, bad, message, self.at_most)


class Range(_Rule, frozen=True, kw_only=True):
    """Numbers lie in [low, high]."""

    column: str
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        _Rule.__post_init__(self)
        if self.low is None and self.high is None:
            raise InvalidSetting(
                f"The rule 'range' of column {self.column!r} has no bound.",
                hint="Give `low`, `high` or both.",
            )
        if self.low is not None and self.high is not None and not self.low <= self.high:
            raise InvalidSetting(
                f"The rule 'range' of column {self.column!r} must have `low` at most `high`. "
                f"Got {self.low} and {self.high}."
            )

    def compile(self, context: Context) -> Check:
        value = _number(self.column, context, "range")
        if value is None:
            return absent("range", self.column, self.policy)
        bad = pl.lit(False)
        if self.low is not None:
            bad |= value < self.low
        if self.high is not None:
            bad |= value > self.high
        return RowCheck("range", self.column, self.policy, bad, f"Must lie in [{self.low}, {self.high}].")


class Typical(_Rule, frozen=True, kw_only=True):
    """Numbers lie within `times` interquartile ranges of the median: a unit mistaken, a digit too many.

    Of the reference snapshot where one is named, else of the table itself. 3 is Tukey's "far out"; a
    heavy-tailed column needs more.
    """

    column: str
    times: float = 3.0
    reference: str | None = None

    def __post_init__(self) -> None:
        _Rule.__post_init__(self)
        if not self.times > 0:
            raise InvalidSetting(f"The rule 'typical' has `times` above 0. Got {self.times}.")

    def compile(self, context: Context) -> Check:
        value = _number(self.column, context, "typical")
        if value is None:
            return absent("typical", self.column, self.policy)
        middle, low, high = (value.quantile(share) for share in (0.5, 0.25, 0.75))
        if self.reference is not None:
            numbers = context.references.values(self.reference, self.column).cast(pl.Float64).drop_nulls()
            middle, low, high = (pl.lit(numbers.quantile(share)) for share in (0.5, 0.25, 0.75))
        bad = (value - middle).abs() > self.times * (high - low)
        message = f"Must lie within {self.times:g} interquartile ranges of the median."
        return RowCheck("typical", self.column, self.policy, bad, message)


class Referential(_Rule, frozen=True, kw_only=True):
    """Every value present stands in the column `to_column` of the snapshot `to`."""

    column: str
    to: str
    to_column: str

    def compile(self, context: Context) -> Check:
        if self.column not in context.columns:
            return absent("referential", self.column, self.policy)
        values = context.references.values(self.to, self.to_column)
        found = context.columns[self.column]
        if values.dtype != found and not (values.dtype.is_integer() and found.is_integer()):
            raise InvalidSetting(
                f"Column {self.column!r} is {found}, {self.to_column!r} of {self.to} is {values.dtype}.",
                hint="Keys are compared where their types agree; a contract gives both the same.",
            )
        known = pl.lit(values).implode()
        value = pl.col(self.column)
        bad = value.is_not_null() & ~value.is_in(known)
        return RowCheck(
            "referential", self.column, self.policy, bad, f"Must stand in {self.to_column!r} of {self.to}."
        )


class Stable(_Rule, frozen=True, kw_only=True):
    """A column is distributed as in the snapshot `reference`.

    Broken only where the PSI exceeds both `psi` (it matters) and what chance explains once in a hundred
    times (it is real).
    """

    column: str
    reference: str
    psi: float = 0.1

    def compile(self, context: Context) -> Check:
        found = context.columns.get(self.column)
        policy = self._table_policy()
        if found is None:
            return absent("stable", self.column, policy)
        summary = context.references.summary(self.reference, self.column)
        counted = _bins(summary, pl.col(self.column), found)
        if counted is None:
            raise InvalidSetting(
                f"Column {self.column!r} has no distribution to compare in {self.reference}.",
                hint="The rule is for numbers, and for text of few distinct values.",
            )
        figure, expected = counted

        def judge(actual: list[int], n_rows: int) -> str | None:
            n_reference = sum(expected)
            if not n_rows or not n_reference:
                return "There are no rows to compare."
            counts = [*actual, n_rows - sum(actual)]
            n_bins = sum(1 for pair in zip(expected, counts, strict=True) if any(pair))
            psi = population_stability_index(expected, counts)
            chance = psi_by_chance(n_reference, n_rows, n_bins=n_bins)
            if psi <= max(self.psi, chance):
                return None
            return f"PSI {psi:.3g} against {self.reference}, at most {self.psi:g} (by chance {chance:.2g})."

        return TableCheck("stable", self.column, policy, figure, judge)


def _bins(summary: ColumnSummary, value: pl.Expr, found: pl.DataType) -> tuple[pl.Expr, list[int]] | None:
    """Return the rows by bin of the reference, and the reference's; the last bin is missing or unknown."""
    if summary.edges and found.is_numeric():
        number = value.cast(pl.Float64).fill_nan(None)
        lows, highs = [None, *summary.edges], [*summary.edges, None]
        parts = [_between(number, *ends).sum() for ends in zip(lows, highs, strict=True)]
        return pl.concat_list(parts), [*summary.counts, summary.n_null]
    if summary.values:
        text = value.cast(pl.String)
        return pl.concat_list([(text == known).sum() for known in summary.values]), [
            *summary.values.values(),
            summary.n_null,
        ]
    return None


def _between(number: pl.Expr, low: float | None, high: float | None) -> pl.Expr:
    """Tell whether a number lies in a bin; the end bins are open, and hold infinities."""
    above = number.is_not_null() if low is None else number > low
    return above if high is None else above & (number <= high)


def _number(column: str, context: Context, rule: str) -> pl.Expr | None:
    found = context.columns.get(column)
    if found is None:
        return None
    if not found.is_numeric():
        raise InvalidSetting(f"The rule {rule!r} is for numbers. Column {column!r} is {found}.")
    value = pl.col(column).cast(pl.Float64)
    return value.fill_nan(None)


Rule = Unique | Monotone | Fresh | Nulls | Range | Typical | Referential | Stable


def read_rules(text: bytes) -> list[Rule]:
    """Read rules from a JSON list, such as `[{"rule": "unique", "columns": ["id"]}]`.

    Raises:
        InvalidSetting: It is none, or a rule is unknown or incomplete.
    """
    try:
        return msgspec.json.decode(text, type=list[Rule])
    except msgspec.MsgspecError as error:
        raise InvalidSetting(f"These are not rules: {error}.", hint=_hint(text)) from error


_KINDS: dict[object, type[_Rule]] = {str(kind.__struct_config__.tag): kind for kind in get_args(Rule)}


def _hint(text: bytes) -> str:
    """Say what the first rule that cannot be read may hold."""
    try:
        written = msgspec.json.decode(text)
    except msgspec.MsgspecError:
        written = None
    for rule in written if isinstance(written, list) else ():
        try:
            msgspec.convert(rule, Rule)
        except msgspec.MsgspecError:
            kind = _KINDS.get(rule.get("rule")) if isinstance(rule, dict) else None
            if kind is None:
                return f"Rules: {', '.join(map(str, _KINDS))}."
            return (
                f"Fields of {rule['rule']!r}: {', '.join(kind.__struct_fields__)}. "
                f"Policies: {', '.join(Policy)}."
            )
    return 'Write a list: [{"rule": "unique", "columns": ["id"]}].'
