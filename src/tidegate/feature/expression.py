"""Views to plain data and back: transforms are kept in polars' own JSON form."""

from __future__ import annotations

import io
from datetime import timedelta
from typing import Any

import polars as pl

from tidegate.contract.schema import Schema
from tidegate.core.error import InvalidSetting
from tidegate.feature.definition import ViewDefinition
from tidegate.feature.view import FeatureView

_OPAQUE = '"AnonymousFunction"'  # a Python function, pickled


def define(view: FeatureView) -> ViewDefinition:
    """Return a view as plain data.

    Raises:
        InvalidSetting: Its transform holds Python functions, which only this process could run.
    """
    return ViewDefinition(
        plan=view.plan,
        source=view.source_fields,
        event_time=view.event_time,
        created_time=view.created_time or "",
        event_id=view.event_id or "",
        transform={name: _written(view, name, expression) for name, expression in view.transform.items()},
    )


def view_of(definition: ViewDefinition) -> FeatureView:
    """Return the view that a definition describes.

    Raises:
        InvalidSetting: This version of polars does not read its transform.
    """
    plan = definition.plan
    names = [field.name for field in plan.features]
    return FeatureView(
        name=plan.name,
        entity=Schema(plan.entity),
        source=Schema(definition.source),
        event_time=definition.event_time,
        ttl=None if plan.aggregates else timedelta(microseconds=plan.ttl_us),
        transform={name: _read(plan.name, name, text) for name, text in definition.transform.items()},
        aggregates=dict(zip(names, plan.aggregates, strict=True)) if plan.aggregates else {},
        features=Schema(plan.features),
        created_time=definition.created_time or None,
        event_id=definition.event_id or None,
        missing=plan.missing,
        stale=plan.stale,
    )


def _written(view: FeatureView, name: str, expression: Any) -> str:
    if not isinstance(expression, pl.Expr):
        raise InvalidSetting(
            f"Column {name!r} of view {view.name!r} must be a polars expression. "
            f"Got {type(expression).__name__}.",
            view=view.name,
            field=name,
        )
    try:
        text: str = expression.meta.serialize(format="json")
    except (pl.exceptions.PolarsError, ValueError) as error:
        raise _opaque(view.name, name) from error
    if _OPAQUE in text:
        raise _opaque(view.name, name)
    return text


def _opaque(view: str, name: str) -> InvalidSetting:
    return InvalidSetting(
        f"Column {name!r} of view {view!r} is computed by a Python function, which cannot be stored.",
        hint="Write it with polars' own expressions.",
        view=view,
        field=name,
    )


def _read(view: str, name: str, text: str) -> pl.Expr:
    if _OPAQUE in text:  # it would be unpickled, and could do anything
        raise _opaque(view, name)
    try:
        return pl.Expr.deserialize(io.StringIO(text), format="json")
    except (pl.exceptions.PolarsError, ValueError, TypeError) as error:
        raise InvalidSetting(
            f"Column {name!r} of view {view!r} was stored by another version of polars, and this one "
            f"({pl.__version__}) does not read it.",
            hint="Register the service again.",
            view=view,
            field=name,
        ) from error
