"""A view as plain data: what a manifest keeps of it, and what of a request it is merged with.

Light, as `view` is: a data-plane worker imports this.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tidegate.contract.field import DataType, Field, Role
from tidegate.contract.layout import Column, Layout, journal_layout
from tidegate.contract.schema import Contract, Schema
from tidegate.core.error import InvalidSetting
from tidegate.feature.view import Plan, State

STATES = tuple(state.name.lower() for state in State)
"""What a record's `{view}__state` says, in the order of `State`."""


class ViewDefinition(msgspec.Struct, frozen=True, omit_defaults=True):
    """A feature view, complete and serialisable.

    Attributes:
        plan: What it takes to read it online.
        source: The other columns that the transform reads.
        event_time: Column of the time from which a row is true.
        created_time: Column of the time at which a row became known; "" without one.
        event_id: Column that tells events of one entity and time apart; "" without one.
        transform: Column -> polars expression, in polars' JSON form.
    """

    plan: Plan
    source: tuple[Field, ...]
    event_time: str
    created_time: str = ""
    event_id: str = ""
    transform: dict[str, str] = {}

    @property
    def name(self) -> str:
        return self.plan.name


def stored_form(view: ViewDefinition) -> object:
    """Return what of a view decides how its events stand in a store; the rest is decided when reading."""
    kept: object = view.plan.stored if view.plan.aggregates else view.plan.features
    return view.plan.entity, view.source, view.transform, kept


def state_column(plan: Plan) -> str:
    """Return the name of the recorded column that says how a view was read."""
    return f"{plan.name}__state"


def age_column(plan: Plan) -> str:
    """Return the name of the recorded column of the age of what was read, microseconds."""
    return f"{plan.name}__age_us"


def merged_contract(contract: Contract, plans: Sequence[Plan]) -> Contract:
    """Return what a model takes: the fields of a request, then the features of each view.

    Args:
        contract: What callers send, and what they are answered.
        plans: Of the views, in order.

    Raises:
        InvalidSetting: A view's key is not in the request, or has another type there; or two
            fields would have one name.
    """
    if not plans:
        return contract
    fields = list(contract.input.fields)
    taken = {field.name: "the request" for field in fields}
    for plan in plans:
        for field in plan.entity:
            _check_key(plan, field, contract.input)
        for field in (*plan.features, *recorded_fields(plan)):
            if field.name in taken:
                raise InvalidSetting(
                    f"Field {field.name!r} of view {plan.name!r} has the name of a field of "
                    f"{taken[field.name]}.",
                    hint="Leave it out of the request, or give the feature another name.",
                    view=plan.name,
                    field=field.name,
                )
            taken[field.name] = f"view {plan.name!r}"
        fields += (msgspec.structs.replace(field, optional=True) for field in plan.features)
    return Contract(Schema(tuple(fields)), contract.output, contract.batched).checked()


def request_contract(contract: Contract, plans: Sequence[Plan]) -> Contract:
    """Return what callers send, of what a model takes: `merged_contract` undone."""
    if not plans:
        return contract
    read = {field.name for plan in plans for field in plan.features}
    kept = tuple(field for field in contract.input.fields if field.name not in read)
    return Contract(Schema(kept), contract.output, contract.batched)


def recorded_fields(plan: Plan) -> tuple[Field, ...]:
    """Return what a record says of a view beside its features: how it was read, and how old it was."""
    return (
        Field(state_column(plan), DataType.CATEGORY, categories=STATES),
        Field(age_column(plan), DataType.INT64),
    )


def merged_layout(contract: Contract, plans: Sequence[Plan]) -> Layout:
    """Return the layout of the records of a service with views: features, states and ages as well."""
    layout = journal_layout(merged_contract(contract, plans))
    notes = tuple(
        Column(field.name, field.type, field.shape, field.categories)
        for plan in plans
        for field in recorded_fields(plan)
    )
    return msgspec.structs.replace(layout, inputs=layout.inputs + notes)


def decision_time(contract: Contract) -> str:
    """Return the request's field that says as of when features are read; "" where it is the arrival."""
    return next((field.name for field in contract.input.with_role(Role.TIMESTAMP)), "")


def _check_key(plan: Plan, field: Field, request: Schema) -> None:
    given = request.by_name.get(field.name)
    if given is None:
        raise InvalidSetting(
            f"View {plan.name!r} is keyed by {field.name!r}, which is no field of the request.",
            hint=f"Fields of the request: {', '.join(request.names)}.",
            view=plan.name,
            field=field.name,
        )
    alike = given.type is field.type or (
        (given.type.is_text and field.type.is_text) or (given.type.is_integer and field.type.is_integer)
    )
    if not alike or not given.is_scalar:
        raise InvalidSetting(
            f"View {plan.name!r} is keyed by {field.name!r}, which is {field.type.value}. In the request it "
            f"is {given.type.value}.",
            view=plan.name,
            field=field.name,
        )
