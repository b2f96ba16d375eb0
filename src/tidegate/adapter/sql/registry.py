"""Versions and decisions in tables."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection, RowMapping, Select, and_, insert, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from tidegate.adapter.sql import table
from tidegate.core.decision import Decision
from tidegate.core.digest import Digest, canonical_json, stored_form
from tidegate.core.error import Corrupt, NotFound
from tidegate.core.identifier import check_name
from tidegate.core.principal import Principal
from tidegate.registry.store import PAGE, StoredDecision
from tidegate.registry.version import Lineage, Version, VersionDraft, check_draft, version_label


class SqlVersionStore:
    """Implements `VersionStore` over one connection's transaction."""

    def __init__(self, connection: Connection, records: dict[str, Digest]) -> None:
        self._connection = connection
        self._records = records

    def add(self, draft: VersionDraft, *, principal: Principal, at_us: int) -> Version:
        checked = check_draft(draft)
        fields = {name: getattr(checked, name) for name in VersionDraft.__struct_fields__}
        version = Version(
            **fields, number=self._next_number(draft.service), created_at_us=at_us, principal=principal
        )
        self._connection.execute(
            insert(table.version).values(
                service=version.service,
                number=version.number,
                manifest=version.manifest,
                contract=version.contract,
                artifacts=canonical_json(version.artifacts).decode(),
                lineage=canonical_json(version.lineage).decode(),
                changelog=version.changelog,
                created_at_us=at_us,
                principal=principal.name,
                principal_kind=principal.kind,
            )
        )
        self._records[f"version:{version.label}"] = version.digest
        return version

    def _next_number(self, service: str) -> int:
        # One statement that locks the service's row until the transaction ends, so that whoever
        # comes second waits, and a rolled back number is given again.
        counter = table.service
        is_sqlite = self._connection.dialect.name == "sqlite"
        statement = (sqlite.insert(counter) if is_sqlite else postgresql.insert(counter)).values(
            name=service, latest=1
        )
        raised = statement.on_conflict_do_update(
            index_elements=[counter.c.name], set_={"latest": counter.c.latest + 1}
        )
        return int(self._connection.execute(raised.returning(counter.c.latest)).scalar_one())

    def get(self, service: str, number: int) -> Version:
        rows = table.version.c
        found = self._rows(select(table.version).where(rows.service == service, rows.number == number))
        if found:
            return found[0]
        latest = self.latest(service)
        raise NotFound(
            f"There is no version {version_label(service, number)}.",
            hint=f"The service's latest version is {latest.number}."
            if latest
            else f"No version of {service!r} is registered.",
            service=service,
            version=number,
        )

    def latest(self, service: str) -> Version | None:
        rows = table.version.c
        query = select(table.version).where(rows.service == service).order_by(rows.number.desc()).limit(1)
        return next(iter(self._rows(query)), None)

    def page(
        self, service: str | None = None, *, after: tuple[str, int] = ("", 0), limit: int = PAGE
    ) -> list[Version]:
        rows = table.version.c
        query = select(table.version).order_by(rows.service, rows.number).limit(limit)
        query = query.where(
            or_(rows.service > after[0], and_(rows.service == after[0], rows.number > after[1]))
        )
        return self._rows(query if service is None else query.where(rows.service == service))

    def services(self) -> list[str]:
        return list(
            self._connection.execute(select(table.service.c.name).order_by(table.service.c.name)).scalars()
        )

    def _rows(self, query: Select[Any]) -> list[Version]:
        return [_read_version(row) for row in self._connection.execute(query).mappings()]


def _read_version(row: RowMapping) -> Version:
    label = version_label(row["service"], row["number"])
    return Version(
        service=row["service"],
        number=row["number"],
        manifest=row["manifest"],
        contract=row["contract"],
        artifacts=_read_json(row["artifacts"], tuple[Digest, ...], label),
        lineage=_read_json(row["lineage"], Lineage, label),
        changelog=row["changelog"],
        created_at_us=row["created_at_us"],
        principal=Principal(row["principal"], row["principal_kind"]),
    )


class SqlDecisionStore:
    """Implements `DecisionStore` over one connection's transaction."""

    def __init__(self, connection: Connection, records: dict[str, Digest]) -> None:
        self._connection = connection
        self._records = records

    def append(self, decision: Decision) -> StoredDecision:
        check_name("service", decision.service)
        check_name("decision kind", decision.kind)
        kept = stored_form(decision, f"evidence of a {decision.kind} decision")
        statement = insert(table.decision).values(
            kind=kept.kind, service=kept.service, version=kept.version, body=canonical_json(kept).decode()
        )
        number = self._connection.execute(statement.returning(table.decision.c.id)).scalar_one()
        stored = StoredDecision(int(number), kept)
        self._records[f"decision:{stored.id}"] = stored.digest
        return stored

    def get(self, id: int) -> StoredDecision:
        query = select(table.decision).where(table.decision.c.id == id)
        for row in self._connection.execute(query).mappings():
            return _read_decision(row)
        raise NotFound(f"There is no decision {id}.", id=id)

    def page(
        self,
        service: str | None = None,
        *,
        kind: str | None = None,
        version: int | None = None,
        after: int = 0,
        limit: int = PAGE,
    ) -> list[StoredDecision]:
        query = self._matching(service, kind, version).where(table.decision.c.id > after)
        return self._rows(query.order_by(table.decision.c.id).limit(limit))

    def latest(
        self, service: str, *, kind: str | None = None, version: int | None = None
    ) -> StoredDecision | None:
        query = self._matching(service, kind, version).order_by(table.decision.c.id.desc()).limit(1)
        return next(iter(self._rows(query)), None)

    def _matching(self, service: str | None, kind: str | None, version: int | None) -> Select[Any]:
        query = select(table.decision)
        wanted = {"service": service, "kind": kind, "version": version}
        for name, value in wanted.items():
            if value is not None:
                query = query.where(table.decision.c[name] == value)
        return query

    def _rows(self, query: Select[Any]) -> list[StoredDecision]:
        return [_read_decision(row) for row in self._connection.execute(query).mappings()]


def _read_decision(row: RowMapping) -> StoredDecision:
    return StoredDecision(row["id"], _read_json(row["body"], Decision, f"decision {row['id']}"))


def _read_json(text: str, kind: Any, name: str) -> Any:
    """Decode a stored JSON column.

    Raises:
        Corrupt: It is not what was written.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.MsgspecError as error:
        raise Corrupt(
            f"The record of {name} in the metadata database is damaged: {error}.", record=name
        ) from error
