"""Put events into the online store of features, look at them, and check what was served."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from tidegate.core.clock import Clock
from tidegate.core.error import InvalidSetting, NotFound
from tidegate.core.principal import Principal
from tidegate.feature.definition import STATES, ViewDefinition, decision_time, stored_form
from tidegate.feature.materialise import Materialised, materialise, push_all
from tidegate.feature.online import OnlineStore, read
from tidegate.feature.view import FeatureView, Plan, State
from tidegate.journal.record import RecordKind
from tidegate.monitoring.skew import SkewReport, check_skew
from tidegate.operation.journal import JournalView, Wanted
from tidegate.operation.mutation import Effect, Intent, Outcome, Transaction, UnitOfWork, run
from tidegate.registry.artifact import ArtifactStore
from tidegate.service.declare import Service
from tidegate.service.manifest import Manifest

MAX_CHECKED = 100_000
"""Records of one check: the latest of them. More would tell no more of a rate."""


class RegisteredView(msgspec.Struct, frozen=True):
    """A view as the latest version of a service declares it.

    Attributes:
        service: Name of the service.
        version: Number of its latest version.
        view: The view.
    """

    service: str
    version: int
    view: ViewDefinition


def list_views(
    unit: UnitOfWork, artifacts: ArtifactStore, *, service: str | None = None
) -> list[RegisteredView]:
    """Return the views of the latest version of every service, or of one.

    Raises:
        NotFound: `service` is named and has no version.
    """
    with unit.read() as transaction:
        names = transaction.versions.services() if service is None else [service]
        latest = [version for name in names if (version := transaction.versions.latest(name)) is not None]
    if service is not None and not latest:
        raise NotFound(f"No version of a service {service!r} is registered.", service=service)
    return [
        RegisteredView(version.service, version.number, view)
        for version in latest
        for view in Manifest.from_json(artifacts.read_bytes(version.manifest)).views
    ]


def find_view(
    unit: UnitOfWork, artifacts: ArtifactStore, name: str, *, service: str | None = None
) -> ViewDefinition:
    """Return a registered view by its name.

    Raises:
        NotFound: No service declares it.
        InvalidSetting: Several declare it otherwise; name the service.
    """
    views = list_views(unit, artifacts, service=service)
    found = [each for each in views if each.view.name == name]
    if not found:
        known = ", ".join(sorted({each.view.name for each in views})) or "none"
        raise NotFound(f"No registered service declares a view {name!r}.", hint=f"Views: {known}.", view=name)
    if any(each.view != found[0].view for each in found):
        services = ", ".join(sorted(each.service for each in found))
        raise InvalidSetting(
            f"The services {services} declare view {name!r} differently.", hint="Name one.", view=name
        )
    return found[0].view


def check_meaning(unit: UnitOfWork, artifacts: ArtifactStore, views: Sequence[ViewDefinition]) -> None:
    """Refuse views that mean something else than registered ones of the same names.

    The events of both would be mixed in the store.

    Raises:
        InvalidSetting: One does; the message names it.
    """
    registered = {each.view.name: each for each in list_views(unit, artifacts)}
    for view in views:
        known = registered.get(view.name)
        if known is not None and stored_form(known.view) != stored_form(view):
            raise InvalidSetting(
                f"View {view.name!r} is not what {known.service}@{known.version} registered under that name, "
                "and its events in the online store are still as they were.",
                hint="Give the changed view a new name, and materialise it.",
                view=view.name,
            )


def declared_view(service: Service, name: str) -> FeatureView:
    """Return a view of a declared service by its name.

    Raises:
        NotFound: It declares none of that name.
    """
    for view in service.features:
        if view.name == name:
            return view
    known = ", ".join(view.name for view in service.features) or "none"
    raise NotFound(
        f"Service {service.name!r} declares no view {name!r}.", hint=f"It declares: {known}.", view=name
    )


def table_of(view: FeatureView) -> Any:
    """Return a view's table as it declares it.

    Raises:
        InvalidSetting: It declares none.
    """
    if view.rows is None:
        raise InvalidSetting(
            f"View {view.name!r} does not say where its table comes from.",
            hint="Name a file, or declare it with rows=a function that returns the table.",
            view=view.name,
        )
    return view.rows()


def materialise_view(
    unit: UnitOfWork,
    store: OnlineStore,
    view: FeatureView,
    table: Any,
    *,
    principal: Principal,
    key: str,
    clock: Clock,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Outcome[Materialised]:
    """Put the events of a table into the online store; with bounds it is a backfill.

    What is in the store already changes nothing, so it may be repeated, also after it was cut short.

    Raises:
        InvalidFeatureData: The table cannot be the view's source. Nothing was put.
        OnlineStoreUnavailable: The store failed; repeat it.
        Conflict: The key was used for something else.
    """
    put = materialise(view, table, store, since=since, until=until)
    bounds = {name: moment.isoformat() for name, moment in (("since", since), ("until", until)) if moment}
    action = "feature.backfill" if bounds else "feature.materialise"
    request = {"view": view.name, "n_events": put.n_events, **bounds}
    return _noted(unit, action, view, put, request=request, principal=principal, key=key, clock=clock)


def push_events(
    unit: UnitOfWork,
    store: OnlineStore,
    view: FeatureView,
    rows: Sequence[Mapping[str, Any]],
    *,
    principal: Principal,
    key: str,
    clock: Clock,
) -> Outcome[Materialised]:
    """Put single events into the online store, by hand: who did it is noted.

    Raises:
        InvalidFeatureData: A row is none of the view's table. Nothing was put.
        OnlineStoreUnavailable: The store failed; repeat it.
        Conflict: The key was used for something else.
    """
    put = push_all(view, rows, store)
    request = {"view": view.name, "n_events": put.n_events}
    return _noted(unit, "feature.push", view, put, request=request, principal=principal, key=key, clock=clock)


def _noted(
    unit: UnitOfWork,
    action: str,
    view: FeatureView,
    put: Materialised,
    *,
    request: dict[str, Any],
    principal: Principal,
    key: str,
    clock: Clock,
) -> Outcome[Materialised]:
    def perform(_: Transaction) -> Effect[Materialised]:
        return Effect(put, view.name, {**request, "n_new": put.n_new})

    intent = Intent(action=action, principal=principal, key=key, request=request)
    return run(unit, intent, perform=perform, result=Materialised, clock=clock)


class Forgotten(msgspec.Struct, frozen=True):
    """What was removed from a store.

    Attributes:
        n_events: How many events.
    """

    n_events: int


def forget_events(
    unit: UnitOfWork,
    store: OnlineStore,
    plan: Plan,
    *,
    before: datetime,
    principal: Principal,
    key: str,
    clock: Clock,
) -> Outcome[Forgotten]:
    """Remove a view's old events from the online store, except the last of each key.

    Raises:
        InvalidSetting: Events within the view's longest window or time to live would be removed.
        OnlineStoreUnavailable: The store failed; repeat it.
        Conflict: The key was used for something else.
    """
    before_us = int(before.timestamp() * 1e6)
    if before_us > clock.wall_us() - plan.ttl_us:
        raise InvalidSetting(
            f"View {plan.name!r} reaches back {plan.ttl_us / 3.6e9:g} hours: later events are in use.",
            hint="Name an earlier time.",
            view=plan.name,
        )
    done = Forgotten(store.forget(plan.name, before_us=before_us))
    request = {"view": plan.name, "before": before.isoformat()}

    def perform(_: Transaction) -> Effect[Forgotten]:
        return Effect(done, plan.name, {**request, "n_events": done.n_events})

    intent = Intent(action="feature.forget", principal=principal, key=key, request=request)
    return run(unit, intent, perform=perform, result=Forgotten, clock=clock)


class Features(msgspec.Struct, frozen=True):
    """What the store says of one key at one moment.

    Attributes:
        key: Field -> value.
        state: `fresh`, `stale` or `missing`.
        age_us: Age of the latest event, microseconds; None where missing.
        values: Feature -> value, None for a gap.
    """

    key: dict[str, Any]
    state: str
    age_us: int | None
    values: dict[str, Any]


def get_features(
    store: OnlineStore, plan: Plan, keys: Sequence[Sequence[Any]], *, at_us: int
) -> list[Features]:
    """Return what the online store says of keys at a moment, as serving would read it.

    Raises:
        InvalidSetting: A key does not fit the view.
        OnlineStoreUnavailable: The store cannot be read.
    """
    found = read(plan, store, [plan.key_of(key) for key in keys], at_us=at_us)
    names = [field.name for field in plan.entity]
    return [
        Features(
            key=dict(zip(names, key, strict=True)),
            state=STATES[found.states[row]],
            age_us=None if found.states[row] == State.MISSING else int(found.ages_us[row]),
            values={name: _plain(column[row]) for name, column in found.columns.items()},
        )
        for row, key in enumerate(keys)
    ]


def _plain(value: Any) -> Any:
    item = value.item() if hasattr(value, "item") else value
    return None if item != item else item  # noqa: PLR0124 - NaN


def check_served(
    journal: Path,
    service: Service,
    *,
    tables: Mapping[str, Any],
    tolerated: float,
    version: int | None = None,
    since_us: int | None = None,
    until_us: int | None = None,
    limit: int = MAX_CHECKED,
) -> SkewReport:
    """Recompute the features of recorded predictions by the offline path, and compare.

    Args:
        journal: Folder of the journal.
        service: Its views.
        tables: View -> its table as known today; `table_of` the others.
        tolerated: Mismatch rate up to which a feature is as good as equal.
        version: Only predictions of this version.
        since_us: Only those that arrived at this time or later.
        until_us: Only those that arrived before.
        limit: Most records, the latest of them.

    Raises:
        InvalidSetting: The service has no views, or one has no table.
        NotFound: No prediction has its features recorded.
    """
    if not service.features:
        raise InvalidSetting(f"Service {service.name!r} declares no features.", service=service.name)
    wanted = Wanted(
        service=service.name,
        version=version,
        kind=RecordKind.PREDICTION,
        since_us=since_us,
        until_us=until_us,
    )
    plans = [view.plan for view in service.features]
    time = decision_time(service.request)
    names = [field.name for plan in plans for field in (*plan.entity, *plan.features)]
    with contextlib.closing(JournalView(journal, wanted)) as view:
        records = list(
            deque(
                (
                    (min(record.inputs[time], record.at_us) if time else record.at_us, record.inputs)
                    for record in view.read()
                    if all(name in record.inputs for name in names)
                ),
                maxlen=limit,
            )
        )
    if not records:
        raise NotFound(
            f"The journal has no prediction of service {service.name!r} with the keys and features of its "
            "views.",
            hint="Sensitive fields are not recorded, and cannot be checked.",
            service=service.name,
        )
    views = [
        (view, tables[view.name] if view.name in tables else table_of(view)) for view in service.features
    ]
    return check_skew(service.name, records, views=views, tolerated=tolerated)
