"""A version put through its gates on this machine: its files asked, its server started."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import msgspec

from tidegate.adapter.runtime.builder import BUILDERS
from tidegate.bootstrap.local import Local
from tidegate.bootstrap.probe import ServerProbe, TrialServer
from tidegate.bootstrap.trial import plain_row
from tidegate.contract.batch import Column
from tidegate.contract.encode import RowEncoder
from tidegate.contract.infer import columns_of
from tidegate.contract.validate import Validator
from tidegate.core.error import InvalidSetting, TidegateError
from tidegate.data.admission import admit_rows
from tidegate.data.snapshot import write_snapshot
from tidegate.data.source import frame_source
from tidegate.gate.probe import Probe, Side
from tidegate.operation.card import written_card
from tidegate.operation.examination import examine
from tidegate.operation.gate import GateState, record_gates
from tidegate.operation.key import new_key
from tidegate.operation.rows import load_rows
from tidegate.operation.subject import GivenRows, Subject, as_champion, read_subject
from tidegate.operation.version import show_version
from tidegate.predictor.protocol import BuildContext, build

_LOAD_ROWS = 500
"""Different rows that a server is loaded with: enough that no cache of a processor holds the answers."""


def champion_of(local: Local, service: str) -> int | None:
    """Return the version that answers a service's requests now; None where nothing was deployed."""
    route = local.routes.read().services.get(service)
    return None if route is None else route.stable


def gate_version(
    local: Local,
    service: str,
    number: int | None = None,
    *,
    data: str | None = None,
    target: str | None = None,
    key: str | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> GateState:
    """Put a version through its gates beside the champion, and keep what they found.

    Args:
        local: The home.
        service: Name of the service.
        number: Number of the version; the latest if None.
        data: A data file or snapshot of rows with what came true, to compare on; None: the rows that the
            version's trial held out.
        target: Column of what came true; as declared, or as the trials call it, if None.
        key: Idempotency key; a fresh one if None.
        tell: Told what is being done.

    Raises:
        NotFound: There is no such version, or no such rows.
        InvalidSetting: Nothing says which column holds what came true.
        ContractViolation: None of the rows that are named is what the contract allows.
        TidegateError: The registry or the artifacts cannot be read.
    """
    candidate = subject_of(local, service, number)
    champion_number = champion_of(local, service)
    champion = None
    if champion_number is not None and champion_number != candidate.version.number:
        champion = subject_of(local, service, champion_number)
    candidate = as_champion(candidate, champion)
    if target is not None and data is None:
        raise InvalidSetting(
            "A target is named of rows that are given.", hint="Name them too: --data FILE --target COLUMN."
        )
    evidence = examine(
        local.unit,
        local.artifacts,
        candidate,
        champion,
        ask=lambda subject, columns: answers_of(local, subject, columns),
        open_probe=partial(open_servers, local),
        now_us=local.clock.wall_us(),
        given=None if data is None else _given_rows(local, candidate, champion, data, target),
        tell=tell,
    )
    return record_gates(
        local.unit,
        service=service,
        version=candidate.version.number,
        evidence=evidence,
        principal=local.principal,
        key=key or new_key(),
        clock=local.clock,
    )


def subject_of(local: Local, service: str, number: int | None = None) -> Subject:
    """Return a version as the gates see it; the latest if `number` is None.

    Raises:
        NotFound: There is none.
        Corrupt: Something stored of it is damaged.
    """
    version = show_version(local.unit, service, number=number)
    return read_subject(
        local.unit, local.artifacts, version, written_card(local.unit, local.artifacts, version)
    )


def _given_rows(
    local: Local, candidate: Subject, champion: Subject | None, data: str, target: str | None
) -> GivenRows:
    """Return rows that a person names, kept as a snapshot unless they hold sensitive fields."""
    declared = [target, candidate.evaluation.target]
    trials = [each.held_out for each in (candidate, champion) if each is not None]
    goal = next((name for name in [*declared, *(one.target for one in trials if one)] if name), None)
    if goal is None:
        raise InvalidSetting(
            f"Nothing says which column holds what came true of {candidate.version.label}.",
            hint="Name it with --target, or declare tg.Evaluation(target=...).",
        )
    rows = load_rows(local.unit, local.artifacts, data)
    admitted = admit_rows(rows.table, candidate.manifest.contract.input, name=rows.name)
    snapshot = rows.snapshot
    if snapshot is None and not any(field.sensitive for field in candidate.manifest.contract.input.fields):
        # what was compared can be compared again
        snapshot = write_snapshot(frame_source(rows.table, name=rows.name), local.artifacts).digest
    return GivenRows(admitted, columns_of(admitted.table), goal, rows.name, snapshot)


def answers_of(local: Local, subject: Subject, columns: Mapping[str, Column]) -> Column:
    """Return the judged output of a version's registered files, asked as a worker asks them.

    Raises:
        ContractViolation: The rows are not as the version's contract wants them.
        TidegateError: The files cannot be loaded, or fail.
    """
    contract = subject.manifest.contract
    batch = Validator(contract.input).coerce(
        {name: column for name, column in columns.items() if name in contract.input.by_name}
    )
    output = subject.evaluation.judged(contract)
    context = BuildContext(contract, local.artifacts.open)
    predictor = build(subject.manifest.predictor, context, BUILDERS)
    try:
        return predictor.predict(batch)[output.name]
    finally:
        predictor.close()


@contextmanager
def open_servers(
    local: Local, candidate: Subject, champion: Subject | None, rows: Mapping[str, Column] | None
) -> Iterator[Probe]:
    """Run servers of both versions for the length of a block, to be loaded with rows.

    Raises:
        ProbeFailed: One cannot be served here.
    """
    servers: dict[Side, TrialServer] = {"candidate": _server(local, candidate, rows)}
    if champion is not None:
        servers["champion"] = _server(local, champion, rows)
    with ServerProbe(servers) as probe:
        yield probe


def _server(local: Local, subject: Subject, rows: Mapping[str, Column] | None) -> TrialServer:
    return TrialServer(local, subject.version, subject.manifest, _bodies(subject, rows))


def _bodies(subject: Subject, rows: Mapping[str, Column] | None) -> list[bytes]:
    """Return requests with real rows as callers send them; without rows, the check inputs."""
    manifest = subject.manifest
    if rows is not None:
        schema = manifest.request.input
        given = {name: column[:_LOAD_ROWS] for name, column in rows.items() if name in schema.by_name}
        try:
            batch = Validator(schema).coerce(given)
        except TidegateError:
            pass  # rows of another contract: its own check inputs will do
        else:
            return [msgspec.json.encode(row) for row in RowEncoder(schema).rows(batch)]
    if manifest.check_inputs is not None:
        return [msgspec.json.encode(row) for row in manifest.request_rows(manifest.check_inputs.rows)]
    return [msgspec.json.encode(plain_row(manifest.request))]
