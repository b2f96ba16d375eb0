"""Labels: whether they can be learnt from at all."""

from __future__ import annotations

from enum import StrEnum

import msgspec
import polars as pl

from tidegate.core.error import InvalidSetting

MAX_MISSING = 0.05
"""Share of rows without a label above which someone should say why: labels are rarely missing at random."""

MIN_CLASS_SHARE = 0.01
MIN_CLASS_ROWS = 50
"""Below this many rows the rate of a class is known to a seventh of itself at best (1 / sqrt(50))."""

MAX_CLASSES = 100


class LabelFault(StrEnum):
    """What is wrong with a label."""

    MISSING = "missing"
    CONSTANT = "constant"
    SKEWED = "skewed"
    RARE = "rare"


class LabelFinding(msgspec.Struct, frozen=True):
    """One fault, with its figure.

    Attributes:
        fault: Which.
        share: Of the rows (missing), or of the labelled rows (of the class that it is about).
        count: The same in rows.
        value: The class that it is about, as text; empty for missing.
        message: In words.
    """

    fault: LabelFault
    share: float
    count: int
    value: str
    message: str


class LabelReport(msgspec.Struct, frozen=True):
    """What a label looks like.

    Attributes:
        n_rows: Rows.
        n_missing: Of them without a label.
        classes: Rows of each class, most frequent first; empty for a number of many values.
        findings: What is wrong.
    """

    n_rows: int
    n_missing: int
    classes: dict[str, int]
    findings: tuple[LabelFinding, ...]


def require_single_values(label: pl.Series) -> None:
    """Refuse a column that has more than a value a row.

    Raises:
        InvalidSetting: It holds lists, structs or objects.
    """
    if label.dtype.is_nested() or label.dtype == pl.Object:
        raise InvalidSetting(
            f"The label {label.name!r} is {label.dtype}, not a single value a row.",
            hint="Make it text, numbers or truth values.",
            column=label.name,
        )


def check_label(
    label: pl.Series,
    *,
    max_missing: float = MAX_MISSING,
    min_class_share: float = MIN_CLASS_SHARE,
    min_class_rows: int = MIN_CLASS_ROWS,
) -> LabelReport:
    """Look at a label: is it there, does it vary, is each class frequent enough.

    Args:
        label: The column. Floats, and numbers of more than `MAX_CLASSES` values, have no classes.
        max_missing: Share of the rows that may have none (null or NaN).
        min_class_share: Least share of the labelled rows that a class should have.
        min_class_rows: Least rows that a class should have.

    Raises:
        InvalidSetting: It is text of so many values that it is no label, or holds no single values.
    """
    require_single_values(label)
    present = label.drop_nulls()
    if present.dtype.is_float():
        present = present.drop_nans()
    n_missing = len(label) - len(present)
    found: list[LabelFinding] = []
    if n_missing > max_missing * len(label) or not len(present):
        share = n_missing / len(label) if len(label) else 1.0
        message = f"{n_missing} of {len(label)} rows have no label, more than {max_missing:.3g} of them."
        found.append(LabelFinding(LabelFault.MISSING, share, n_missing, "", message))
    n_distinct = present.n_unique()
    if n_distinct == 1:
        message = "Every label is the same: there is nothing to learn."
        found.append(LabelFinding(LabelFault.CONSTANT, 1.0, len(present), str(present[0]), message))
    if present.dtype.is_float() or n_distinct > MAX_CLASSES:
        if not present.dtype.is_numeric():
            raise InvalidSetting(
                f"The label {label.name!r} has {n_distinct} values and is no number.",
                hint=f"A class label has at most {MAX_CLASSES} values.",
            )
        return LabelReport(len(label), n_missing, {}, tuple(found))
    counted = present.cast(pl.String).value_counts().iter_rows()
    classes = dict(sorted(counted, key=lambda pair: (-pair[1], pair[0])))
    for value, count in classes.items():
        share = count / len(present)
        if count < min_class_rows:
            message = f"The class {value!r} has {count} rows, fewer than {min_class_rows}."
            found.append(LabelFinding(LabelFault.RARE, share, count, value, message))
        elif share < min_class_share:
            message = f"The class {value!r} has {share:.3g} of the rows, less than {min_class_share:.3g}."
            found.append(LabelFinding(LabelFault.SKEWED, share, count, value, message))
    return LabelReport(len(label), n_missing, classes, tuple(found))
