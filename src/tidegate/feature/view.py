"""The feature view: declared once, read in two places.

`FeatureView` is what a person declares; its `Plan` is the plain part that a reader of the online
store needs, and knows no data frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from enum import IntEnum, StrEnum
from typing import Any

import msgspec

from tidegate.contract.declare import Input, Output, schema_of
from tidegate.contract.field import DataType, Field
from tidegate.contract.schema import Schema
from tidegate.core.error import InvalidSetting
from tidegate.feature.aggregate import Aggregate, Kind


class Policy(StrEnum):
    """What happens to a request for which a view has no fresh value."""

    DEFAULT = "default"  # each feature's own default stands in
    REJECT = "reject"  # the request is refused
    FALLBACK = "fallback"  # the service's fallback answers


class State(IntEnum):
    """What a view knows of a key at a moment."""

    FRESH = 0
    STALE = 1  # there is a value, older than the view's time to live
    MISSING = 2
    UNREAD = 3  # the store could not be asked, or not in time


class Plan(msgspec.Struct, frozen=True):
    """What it takes to read a view online.

    Attributes:
        name: The view's.
        entity: Fields of the key, in order.
        features: Fields of the values, in order.
        ttl_us: Age up to which a value is fresh, microseconds. Of a view of aggregates, its
            longest window.
        aggregates: One a feature; empty where the features are values of the latest event.
        missing: What happens where nothing is known of the key.
        stale: What happens where what is known is too old.
    """

    name: str
    entity: tuple[Field, ...]
    features: tuple[Field, ...]
    ttl_us: int
    aggregates: tuple[Aggregate, ...] = ()
    missing: Policy = Policy.DEFAULT
    stale: Policy = Policy.DEFAULT

    @property
    def stored(self) -> tuple[tuple[str, int], ...]:
        """Column and steps per unit of what the events of aggregates keep, without repetition."""
        kept = (aggregate.stored for aggregate in self.aggregates)
        return tuple(dict.fromkeys(item for item in kept if item is not None))

    def key_of(self, values: Sequence[Any]) -> bytes:
        """Return the key of an entity's values, given in the order of `entity`.

        Raises:
            InvalidSetting: There are too many or too few values, or one has the wrong type.
        """
        if len(values) != len(self.entity):
            names = ", ".join(field.name for field in self.entity)
            raise InvalidSetting(
                f"View {self.name!r} is keyed by {names}. Got {len(values)} values.", view=self.name
            )
        return _encode([_plain(self.name, *pair) for pair in zip(self.entity, values, strict=True)])

    def policy(self, state: State) -> Policy | None:
        """Return what happens in a state; None where the value is fresh. Unread is as good as missing."""
        if state is State.FRESH:
            return None
        return self.stale if state is State.STALE else self.missing


class FeatureView(msgspec.Struct, frozen=True, kw_only=True):
    """Features of an entity, from a table of events.

    Attributes:
        name: Of the view; an identifier.
        entity: The key columns.
        source: The other columns that the transform reads.
        event_time: Column of the time from which a row is true.
        ttl: How old a value may be; not given for aggregates, whose windows say it.
        transform: Feature or intermediate column -> polars expression over the row's columns. Only
            expressions that take each row by itself: one that looks at other rows is refused.
        aggregates: Feature -> trailing aggregate over source or transformed columns. With these,
            every feature of the view is an aggregate, and a key without an event in the longest
            window is missing, never stale.
        features: The schema of what comes out. Aggregates may leave it out.
        created_time: Column of the time at which a row became known; without one, a row is known
            at its event time.
        event_id: Column that tells events of one entity and time apart. Required for aggregates.
        missing: What happens where nothing is known of a key.
        stale: What happens where what is known is older than `ttl`.
        rows: Function without arguments that returns the view's table as known today; what
            `tidegate features` reads where no file is named.
    """

    name: str
    entity: Schema | type[Input]
    source: Schema | type[Input]
    event_time: str
    ttl: timedelta | None = None
    transform: Mapping[str, Any] = {}
    aggregates: Mapping[str, Aggregate] = {}
    features: Schema | type[Input] | type[Output] | None = None
    created_time: str | None = None
    event_id: str | None = None
    missing: Policy = Policy.DEFAULT
    stale: Policy = Policy.DEFAULT
    rows: Callable[[], Any] | None = None

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise InvalidSetting(f"A view is named by an identifier. Got {self.name!r}.", view=self.name)
        self._check_aggregates() if self.aggregates else self._check_values()
        for field in (*self.entity_fields, *self.source_fields, *self.feature_fields):
            _check_type(self.name, field)
        for field in self.entity_fields:
            if field.type.is_float:
                raise InvalidSetting(
                    f"View {self.name!r} cannot be keyed by {field.name!r}: floats are no keys.",
                    view=self.name,
                    field=field.name,
                )
        for field in self.feature_fields:
            _check_default(self.name, field)

    @property
    def entity_fields(self) -> tuple[Field, ...]:
        return _schema(self.entity).fields

    @property
    def source_fields(self) -> tuple[Field, ...]:
        return _schema(self.source).fields

    @property
    def feature_fields(self) -> tuple[Field, ...]:
        if self.features is not None:
            return _schema(self.features).fields
        return tuple(_field_of(name, aggregate) for name, aggregate in self.aggregates.items())

    @property
    def plan(self) -> Plan:
        """What it takes to read this view online."""
        fields = self.feature_fields
        return Plan(
            name=self.name,
            entity=self.entity_fields,
            features=fields,
            ttl_us=self._ttl_us(),
            aggregates=tuple(self.aggregates[field.name] for field in fields) if self.aggregates else (),
            missing=self.missing,
            stale=self.stale,
        )

    def _ttl_us(self) -> int:
        if self.aggregates:
            return max(aggregate.window_us for aggregate in self.aggregates.values())
        assert self.ttl is not None  # checked when declared
        return self.ttl // timedelta(microseconds=1)

    def _check_values(self) -> None:
        if self.ttl is None or self.ttl <= timedelta():
            raise InvalidSetting(
                f"View {self.name!r} needs a positive time to live.",
                hint="Say how old a value may be, as in ttl=timedelta(hours=3).",
                view=self.name,
            )
        if self.features is None:
            raise InvalidSetting(f"View {self.name!r} needs the schema of its features.", view=self.name)
        known = {field.name for field in (*self.entity_fields, *self.source_fields)} | set(self.transform)
        for field in self.feature_fields:
            if field.name not in known:
                raise InvalidSetting(
                    f"Feature {field.name!r} of view {self.name!r} is neither transformed nor a source "
                    "column.",
                    view=self.name,
                    field=field.name,
                )

    def _check_aggregates(self) -> None:
        if self.ttl is not None:
            raise InvalidSetting(
                f"View {self.name!r} has aggregates and a time to live.",
                hint="Leave ttl out: the windows say how far back its values reach.",
                view=self.name,
            )
        if self.event_id is None:
            raise InvalidSetting(
                f"View {self.name!r} counts events, and nothing tells two of one time apart.",
                hint="Name the column that does as event_id.",
                view=self.name,
            )
        known = {field.name for field in self.source_fields} | set(self.transform)
        for name, aggregate in self.aggregates.items():
            if aggregate.column and aggregate.column not in known:
                raise InvalidSetting(
                    f"Aggregate {name!r} of view {self.name!r} is over {aggregate.column!r}, which is "
                    "neither transformed nor a source column.",
                    view=self.name,
                    field=name,
                )
        if {field.name for field in self.feature_fields} != set(self.aggregates):
            raise InvalidSetting(
                f"The features of view {self.name!r} are not its aggregates.",
                hint="Declare one aggregate for each feature, or leave the features out.",
                view=self.name,
            )
        for field in self.feature_fields:
            wanted = _field_of(field.name, self.aggregates[field.name]).type
            if field.type is not wanted:
                raise InvalidSetting(
                    f"Feature {field.name!r} of view {self.name!r} is {wanted.value}. "
                    f"Got {field.type.value}.",
                    view=self.name,
                    field=field.name,
                )


def stand_in(field: Field) -> Any:
    """Return what stands in for a feature without a value: its default, or NaN, or None for text."""
    if field.default is not None:
        return field.default
    return float("nan") if field.type.is_float else None


def has_stand_in(field: Field) -> bool:
    """Tell whether a feature can be without a value."""
    return field.default is not None or field.type.is_float or field.type.is_text


_encode = msgspec.msgpack.Encoder().encode


def _schema(declared: Schema | type[Input] | type[Output]) -> Schema:
    return declared if isinstance(declared, Schema) else schema_of(declared)


def _field_of(name: str, aggregate: Aggregate) -> Field:
    if aggregate.kind is Kind.COUNT:
        return Field(name, DataType.INT64, optional=True, default=0)
    return Field(name, DataType.FLOAT64, optional=True)


def _check_type(view: str, field: Field) -> None:
    if not field.is_scalar or field.type in {DataType.BYTES, DataType.FLOAT16}:
        raise InvalidSetting(
            f"Field {field.name!r} of view {view!r} must be one number, truth value, text or time.",
            view=view,
            field=field.name,
        )


def _check_default(view: str, field: Field) -> None:
    # A text without a default has None, which no model takes for a category; a number has nothing.
    if not has_stand_in(field):
        raise InvalidSetting(
            f"Feature {field.name!r} of view {view!r} needs a default: {field.type.value} has no value for "
            "'missing'.",
            view=view,
            field=field.name,
        )


def _plain(view: str, field: Field, value: Any) -> Any:
    """Return a part of a key as the one value that stands for it, whatever library it came from."""
    item = value.item() if hasattr(value, "item") else value
    if field.type.is_text:
        fits = isinstance(item, str)
    elif field.type is DataType.BOOL:
        fits = isinstance(item, bool)
    else:
        fits = isinstance(item, int) and not isinstance(item, bool)
    if not fits:
        raise InvalidSetting(
            f"Key {field.name!r} of view {view!r} must be {field.type.value}. Got {type(item).__name__}.",
            view=view,
            field=field.name,
        )
    return item
