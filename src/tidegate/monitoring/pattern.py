"""Which combinations of inputs come, how often, and which the model has hardly seen or never."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import msgspec
import polars as pl

_MOST_VALUES = 200
_MOST_FIELDS = 6


class Pattern(msgspec.Struct, frozen=True):
    """One combination of values of two fields.

    Attributes:
        values: Field -> value.
        n_rows: Rows of the window that have it.
        n_reference: Rows of the reference that have it.
        mean_loss: Mean loss of the window's labelled rows that have it; None without labels.
    """

    values: dict[str, str]
    n_rows: int
    n_reference: int
    mean_loss: float | None = None


class PatternReport(msgspec.Struct, frozen=True):
    """How much of a window the model has experience with.

    Attributes:
        never: Share of the rows with a combination that the reference lacks, in [0, 1].
        rare: Share of the rows with a combination of which the reference has fewer than `few` rows.
        few: What counts as rare.
        strangest: The most frequent combinations that are rare or new.
    """

    never: float
    rare: float
    few: int
    strangest: tuple[Pattern, ...]


def patterns(
    reference: pl.DataFrame,
    window: pl.DataFrame,
    fields: Sequence[str],
    *,
    losses: pl.Series | None = None,
    few: int = 30,
    n_shown: int = 8,
) -> PatternReport:
    """Count pairs of categories in both tables.

    Args:
        reference: Records that the model is at home with.
        window: Records to be looked at.
        fields: Columns; of those that are texts or categories with at most 200 values, the first six.
        losses: Loss of each of the window's rows, NaN without a label.
        few: Rows of the reference below which a combination is rare.
        n_shown: Combinations to name.
    """
    chosen = [name for name in fields if _is_category(reference, name)][:_MOST_FIELDS]
    found: list[Pattern] = []
    marks = {"never": pl.Series([False] * window.height), "rare": pl.Series([False] * window.height)}
    with_loss = window.with_columns(_loss=losses if losses is not None else pl.lit(None, pl.Float64))
    for pair in combinations(chosen, 2):
        keys = [pl.col(name).cast(pl.String) for name in pair]
        before = reference.group_by(keys).agg(_before=pl.len())
        now = with_loss.with_columns(keys).join(before, on=list(pair), how="left", nulls_equal=True)
        seen = now["_before"].fill_null(0)
        marks["never"] |= seen == 0
        marks["rare"] |= seen < few
        strange = (
            now.filter(pl.col("_before").fill_null(0) < few)
            .group_by(pair)
            .agg(
                n=pl.len(),
                before=pl.col("_before").fill_null(0).first(),
                loss=pl.col("_loss").drop_nans().mean(),
            )
            .sort("n", *pair, descending=[True, False, False])
            .head(n_shown)
        )
        for row in strange.iter_rows(named=True):
            values = {name.split(".", 1)[-1]: str(row[name]) for name in pair}
            found.append(Pattern(values, row["n"], row["before"], row["loss"]))
    found.sort(key=lambda each: -each.n_rows)
    shares = {name: float(mark.mean() or 0.0) for name, mark in marks.items()}  # type: ignore[arg-type]  # a truth column's mean is a number
    return PatternReport(shares["never"], shares["rare"], few, tuple(found[:n_shown]))


def _is_category(table: pl.DataFrame, name: str) -> bool:
    column = table[name]
    kind = column.dtype
    is_text = kind == pl.String or isinstance(kind, pl.Categorical | pl.Enum)
    return is_text and column.n_unique() <= _MOST_VALUES
