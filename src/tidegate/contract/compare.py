"""Whether those who were built for one contract can go on under another.

The view is the caller's. What a caller sends must still be taken, so inputs may widen; what a caller
gets must still be understood, so outputs may narrow. Both safe directions are called widening: the
promise got wider. Whoever learns a default or a meaning by heart (unit, key, what a missing value
stands for) is broken by its change, even where every byte is still accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Literal

import msgspec

from tidegate.contract.check import is_allowed
from tidegate.contract.field import DataType, Field, Role
from tidegate.contract.limit import type_limit, wire_limit
from tidegate.contract.schema import Contract, Schema

Side = Literal["input", "output", "contract"]


class Compatibility(StrEnum):
    """What a change means to those who were built for the old contract."""

    IDENTICAL = "identical"  # to callers; documentation may differ
    WIDENING = "widening"  # safe
    BREAKING = "breaking"


_ORDER = (Compatibility.IDENTICAL, Compatibility.WIDENING, Compatibility.BREAKING)


class Change(msgspec.Struct, frozen=True):
    """One difference.

    Attributes:
        side: Where it is; `contract` for what concerns both.
        field: The field, empty for what concerns the whole side.
        verdict: What it means.
        reason: What changed, as a clause: "the range [0, 1] became [0, 2]".
    """

    side: Side
    field: str
    verdict: Compatibility
    reason: str

    def __str__(self) -> str:
        return f"{self.side} {self.field}: {self.reason} ({self.verdict.value})".replace(" :", ":")


class Comparison(msgspec.Struct, frozen=True):
    """All differences between two contracts, breaking ones first."""

    changes: tuple[Change, ...]

    @property
    def verdict(self) -> Compatibility:
        """The worst of the changes."""
        return max((change.verdict for change in self.changes), key=_ORDER.index, default=_ORDER[0])

    @property
    def breaking(self) -> tuple[Change, ...]:
        """The changes that break callers."""
        return tuple(change for change in self.changes if change.verdict is Compatibility.BREAKING)


def compare(old: Contract, new: Contract) -> Comparison:
    """Say what becomes of callers built for `old` when they meet `new`."""
    changes = [
        *_side_changes("input", old.input, new.input),
        *_side_changes("output", old.output, new.output),
    ]
    if old.batched != new.batched:
        # Without batching one request is one row: who sent several no longer can.
        verdict = Compatibility.WIDENING if new.batched else Compatibility.BREAKING
        changes.append(
            Change(
                "contract", "", verdict, f"rows {'may now' if new.batched else 'may no longer'} be batched"
            )
        )
    changes.sort(key=lambda change: -_ORDER.index(change.verdict))
    return Comparison(tuple(changes))


def _side_changes(side: Literal["input", "output"], old: Schema, new: Schema) -> Iterator[Change]:
    for field in old.fields:
        if field.name not in new.by_name:
            reason = "was removed" + (", and callers that send it are refused" if side == "input" else "")
            yield Change(side, field.name, Compatibility.BREAKING, reason)
    for field in new.fields:
        before = old.by_name.get(field.name)
        if before is not None:
            for verdict, reason in _field_changes(side, before, field):
                yield Change(side, field.name, verdict, reason)
        elif side == "input" and not field.optional:
            yield Change(side, field.name, Compatibility.BREAKING, "is new and required")
        else:
            kind = "is new and optional" if side == "input" else "is new"
            yield Change(side, field.name, Compatibility.WIDENING, kind)
    kept = [name for name in old.names if name in new.by_name]
    if kept != [name for name in new.names if name in old.by_name]:
        yield Change(side, "", Compatibility.IDENTICAL, "the order of fields changed; they go by name")


Difference = tuple[Compatibility, str]


def _field_changes(side: str, old: Field, new: Field) -> Iterator[Difference]:
    """Yield the differences of one field. `wide` and `narrow` are safe or not as the side has it."""
    wide = Compatibility.WIDENING if side == "input" else Compatibility.BREAKING
    narrow = Compatibility.BREAKING if side == "input" else Compatibility.WIDENING

    def moved(widened: bool, narrowed: bool, reason: str) -> Iterator[Difference]:
        if narrowed and (narrow is Compatibility.BREAKING or not widened):
            yield narrow, reason
        elif widened:
            yield wide, reason

    yield from _type_changes(side, old, new, moved)
    yield from _shape_changes(old, new, moved)
    yield from _range_changes(old, new, moved)
    yield from _text_changes(old, new, moved)
    if old.optional != new.optional:
        became = "optional" if new.optional else "required"
        yield from moved(new.optional, old.optional, f"became {became}")
    elif side == "input" and old.default != new.default:
        yield Compatibility.BREAKING, f"a missing value stood for {old.default!r}, now for {new.default!r}"
    yield from _meaning_changes(old, new)


Moved = Callable[[bool, bool, str], Iterator[Difference]]


def _type_changes(side: str, old: Field, new: Field, moved: Moved) -> Iterator[Difference]:
    if old.type is new.type:
        return
    reason = f"the type {old.type.value} became {new.type.value}"
    if side == "output" and old.type.dtype != new.type.dtype:
        yield Compatibility.BREAKING, f"{reason}, and a tensor says its type"
    elif old.type.is_integer and new.type.is_integer:
        yield Compatibility.WIDENING, f"{reason}, and goes by its range"
    else:
        contains, contained = _contains(new.type, old.type), _contains(old.type, new.type)
        if contains or contained:
            yield from moved(contains, contained, reason)
        else:
            yield Compatibility.BREAKING, reason


_EXACT_BITS = {DataType.FLOAT16: 11, DataType.FLOAT32: 24, DataType.FLOAT64: 64}
"""Bits of the integers that each float type stands for without loss. For float64 that is 53, but
JSON's own numbers are such, and int64 to float64 is what people mean by widening."""


def _contains(wide: DataType, narrow: DataType) -> bool:
    """Tell whether each value of `narrow` is taken where `wide` is expected, with nothing lost."""
    if wide is DataType.STRING:
        return narrow is DataType.CATEGORY
    if wide.is_float and narrow.is_float:
        return wide.dtype.itemsize >= narrow.dtype.itemsize
    return wide.is_float and narrow.is_integer and 8 * narrow.dtype.itemsize <= _EXACT_BITS[wide]


def _shape_changes(old: Field, new: Field, moved: Moved) -> Iterator[Difference]:
    if old.shape == new.shape:
        return
    reason = f"the shape {_shape(old)} became {_shape(new)}"
    if len(old.shape) != len(new.shape):
        yield Compatibility.BREAKING, reason
        return
    pairs = list(zip(old.shape, new.shape, strict=True))
    if any(before is not None and after is not None and before != after for before, after in pairs):
        yield Compatibility.BREAKING, reason
        return
    widened = any(before is not None and after is None for before, after in pairs)
    narrowed = any(before is None and after is not None for before, after in pairs)
    yield from moved(widened, narrowed, reason)


def _range_changes(old: Field, new: Field, moved: Moved) -> Iterator[Difference]:
    if not (_has_limits(old) and _has_limits(new)):
        return
    if not (old.has_range or new.has_range) and not (old.type.is_integer and new.type.is_integer):
        return  # floats without a range differ by their types only
    before, after = wire_limit(old), wire_limit(new)
    reason = f"the range {_range(old)} became {_range(new)}"
    if _range(old) == _range(new):  # what was written is rounded to the type
        reason = f"the range {_range(old)} has other ends in {new.type.value} than in {old.type.value}"
    yield from moved(
        after.low < before.low or after.high > before.high,
        after.low > before.low or after.high < before.high,
        reason,
    )


def _has_limits(field: Field) -> bool:
    return field.type.is_float or field.type.is_integer or field.type.is_time


def _text_changes(old: Field, new: Field, moved: Moved) -> Iterator[Difference]:
    if old.type is DataType.CATEGORY and new.type is DataType.CATEGORY:
        yield from _category_changes(old, new, moved)
    if (old.type, new.type) in ((DataType.CATEGORY, DataType.STRING), (DataType.STRING, DataType.CATEGORY)):
        # What the text asks for concerns only the categories on the other side, all of which are known.
        listed, text = (old, new) if new.type is DataType.STRING else (new, old)
        unfit = [value for value in listed.categories if not is_allowed(text, value)]
        if unfit:
            reason = f"the text's length or pattern excludes categories: {_some(unfit)}"
            yield from moved(listed is new, listed is old, reason)
        return
    if (old.min_length or 0) != (new.min_length or 0):
        fewer = (new.min_length or 0) < (old.min_length or 0)
        yield from moved(
            fewer, not fewer, f"the least length {old.min_length or 0} became {new.min_length or 0}"
        )
    if old.max_length != new.max_length:
        more = new.max_length is None or (old.max_length is not None and new.max_length > old.max_length)
        yield from moved(more, not more, f"the greatest length {old.max_length} became {new.max_length}")
    if old.pattern != new.pattern:
        reason = f"the pattern {old.pattern!r} became {new.pattern!r}"
        if old.pattern is not None and new.pattern is not None:
            # Whether one pattern's texts are all the other's is more than can be told.
            yield Compatibility.BREAKING, reason
        else:
            yield from moved(new.pattern is None, old.pattern is None, reason)


def _category_changes(old: Field, new: Field, moved: Moved) -> Iterator[Difference]:
    added = [value for value in new.categories if value not in old.categories]
    removed = [value for value in old.categories if value not in new.categories]
    if added:
        yield from moved(True, False, f"new categories: {_some(added)}")
    if removed:
        yield from moved(False, True, f"removed categories: {_some(removed)}")
    if not added and not removed and old.categories != new.categories:
        yield Compatibility.IDENTICAL, "the order of the categories changed; they go by value"


def _meaning_changes(old: Field, new: Field) -> Iterator[Difference]:
    if old.unit != new.unit:
        yield Compatibility.BREAKING, f"the unit {old.unit or 'none'!r} became {new.unit or 'none'!r}"
    gained = [role for role in new.roles if role not in old.roles]
    lost = [role for role in old.roles if role not in new.roles]
    if Role.KEY in (*gained, *lost):
        # Callers keep no key, but the same entity's traffic and outcomes go by another value.
        yield Compatibility.BREAKING, "became the key" if Role.KEY in gained else "is the key no more"
    if Role.TIMESTAMP in lost:
        yield Compatibility.BREAKING, "is the time of the event no more"
    elif Role.TIMESTAMP in gained:
        yield Compatibility.WIDENING, "became the time of the event"
    if Role.PROTECTED in (*gained, *lost):
        yield Compatibility.IDENTICAL, "fairness is judged by other fields; callers do not notice"
    if old.sensitive and not new.sensitive:
        # A promise to whom the values are about: from now on they would be journalled.
        yield Compatibility.BREAKING, "was sensitive, and would now be journalled"
    elif new.sensitive and not old.sensitive:
        yield Compatibility.WIDENING, "became sensitive, and is journalled no more"
    if old.doc != new.doc:
        yield Compatibility.IDENTICAL, "the description changed"


def _shape(field: Field) -> str:
    return "[" + ", ".join("any" if size is None else str(size) for size in field.shape) + "]"


def _range(field: Field) -> str:
    span = type_limit(field.type)
    low = field.ge if field.ge is not None else field.gt
    high = field.le if field.le is not None else field.lt
    left = "(" if field.gt is not None else "["
    right = ")" if field.lt is not None else "]"
    if not field.type.is_float:  # a whole number's type is a range by itself
        low, high = span.low if low is None else low, span.high if high is None else high
    return f"{left}{'-inf' if low is None else low}, {'inf' if high is None else high}{right}"


def _some(values: list[str]) -> str:
    shown = ", ".join(repr(value) for value in values[:5])
    return shown + (f" and {len(values) - 5} more" if len(values) > 5 else "")
