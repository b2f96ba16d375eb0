"""Gather what the gates look at: rows, answers, records and a running server, and ask each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from tidegate.contract.batch import Column
from tidegate.core.decision import Evidence, Verdict
from tidegate.core.digest import Digest
from tidegate.core.error import InvalidSetting, TidegateError
from tidegate.evaluation.measure import Measure, measure_of, numbered
from tidegate.gate import load, part, quality, record
from tidegate.gate.answer import Answers, Floats, Ints, alike, by_list
from tidegate.gate.calibration import calibration
from tidegate.gate.declaration import NAMES
from tidegate.gate.probe import Probe, ProbeFailed
from tidegate.gate.verdict import found, not_asked
from tidegate.operation.gate import COMPARED
from tidegate.operation.mutation import UnitOfWork
from tidegate.operation.subject import GivenRows, Rows, Subject, no_trial, unseen_rows
from tidegate.operation.version import list_decisions
from tidegate.registry.artifact import ArtifactStore
from tidegate.training.baseline import Comparison, TrialColumns, compare_crossed
from tidegate.training.held_out import leaks_in, leaks_of, read_answers, read_rows

SEED = 0
"""Of every bootstrap here: the same evidence gives the same verdict, and a replay the same figures."""

Ask = Callable[[Subject, Mapping[str, Column]], Column]
"""Asks a version's registered files about rows, and gives the judged output, rows first."""

OpenProbe = Callable[[Subject, Subject | None, Mapping[str, Column] | None], AbstractContextManager[Probe]]
"""Starts servers of a candidate and a champion, to be loaded with rows."""

Tell = Callable[[str], None]
"""Told what is being done, for a person who waits."""


def examine(
    unit: UnitOfWork,
    artifacts: ArtifactStore,
    candidate: Subject,
    champion: Subject | None,
    *,
    ask: Ask,
    open_probe: OpenProbe,
    now_us: int,
    given: GivenRows | None = None,
    tell: Tell = lambda _: None,
) -> list[Evidence]:
    """Ask every gate about a candidate, and return what each found, in their order.

    Args:
        unit: The metadata database.
        artifacts: The artifact store.
        candidate: The version that wants traffic.
        champion: The version that has it; None where none has.
        ask: Asks registered files.
        open_probe: Starts servers.
        now_us: Now, microseconds UTC.
        given: Rows to judge by, instead of those that were held out.
        tell: Told what is being done.
    """
    examination = _Examination(unit, artifacts, candidate, champion, ask=ask, now_us=now_us, given=given)
    return list(examination.run(open_probe, tell))


class _Examination:
    def __init__(
        self,
        unit: UnitOfWork,
        artifacts: ArtifactStore,
        candidate: Subject,
        champion: Subject | None,
        *,
        ask: Ask,
        now_us: int,
        given: GivenRows | None,
    ) -> None:
        self._unit = unit
        self._artifacts = artifacts
        self._candidate = candidate
        self._champion = champion
        self._gates = candidate.gates
        self._ask = ask
        self._now_us = now_us
        self._given = given

    def run(self, open_probe: OpenProbe, tell: Tell) -> Iterator[Evidence]:
        tell("Asking both versions about rows that neither was fitted on ...")
        rows, why_not = unseen_rows(self._artifacts, self._candidate, self._champion, self._given)
        found_ = {each.rule: each for each in self._of_answers(rows, why_not)}
        found_ |= {each.rule: each for each in self._of_records()}
        if not {"latency", "memory", "check-inputs"} <= self._gates.left_out.keys():
            tell("Starting servers, and loading them in turn ...")
            columns = None if rows is None else rows.columns
            servers = examine_servers(self._candidate, self._champion, open_probe, columns)
            found_ |= {each.rule: each for each in servers}
        yield self._compared(rows)
        for gate in NAMES:
            if gate in self._gates.left_out:
                yield not_asked(gate, f"left out by the service: {self._gates.left_out[gate]}")
            else:
                yield found_[gate]

    def _compared(self, rows: Rows | None) -> Evidence:
        champion = self._champion
        observed = {
            "champion": None if champion is None else champion.version.number,
            "held_out": None if rows is None else rows.snapshot,
            "given": None if self._given is None else self._given.source,
            "n_rows": 0 if rows is None else len(rows.outcomes),
            "note": "" if rows is None else rows.note,
            "seed": SEED,
        }
        beside = "no champion" if champion is None else champion.version.label
        return found(
            COMPARED,
            Verdict.SAFE,
            f"beside {beside}" + (f"; {rows.note}" if rows and rows.note else ""),
            observed=observed,
        )

    def _of_answers(self, rows: Rows | None, why_not: str) -> Iterator[Evidence]:
        gates, candidate = self._gates, self._candidate
        yield self._rehearsal()
        answers = None
        why_no_champion = why_not
        if rows is not None:
            answers, why_not, why_no_champion = self._answers(rows)
        yield quality.baselines(*self._comparison(rows, answers))
        attributes = candidate.evaluation.attributes(candidate.manifest.contract)
        why = why_not or why_no_champion
        yield quality.champion(answers, gates, rng=_rng(), why_not=why)
        yield part.slices(answers, gates, rng=_rng(), why_not=why)
        yield part.groups(
            answers, attributes, gates, rng=_rng(), threshold=_threshold(candidate), why_not=why
        )
        yield calibration(answers, gates, rng=_rng(), why_not=why)

    def _comparison(self, rows: Rows | None, answers: Answers | None) -> tuple[Comparison | None, str]:
        """Return the candidate beside simple models, as its training found, or on the rows given now."""
        run = self._candidate.run
        if run is not None and run.comparison is not None:
            return run.comparison, ""
        if rows is None or answers is None or rows.whose is not None:
            return None, ""
        none, lists = np.zeros(0), _lists(rows.measure, rows.columns)
        columns = TrialColumns({}, rows.columns, none, rows.outcomes, rows.measure, rows.cluster, lists)
        try:
            own = rows.measure.checked_answers(
                self._ask(self._candidate, rows.columns), len(rows.outcomes), what="What it answers"
            )
            return compare_crossed(columns, own, self._candidate.manifest.contract.input), ""
        except TidegateError as error:
            return None, error.message

    def _rehearsal(self) -> Evidence:
        candidate, held_out = self._candidate, self._candidate.held_out
        if held_out is None:
            if self._given is not None:
                return not_asked("rehearsal", "nothing was tried before: the registered files were asked now")
            return found("rehearsal", Verdict.UNDECIDED, no_trial(candidate))
        columns = read_rows(self._artifacts, held_out.test)
        try:
            measure = measure_of(candidate.manifest.contract, candidate.evaluation)
            outcomes = measure.outcomes(columns[held_out.target], name=held_out.target)
            measure = measure.fitting(outcomes)
            tried = measure.answers(read_answers(self._artifacts, held_out))
        except InvalidSetting as error:
            return found("rehearsal", Verdict.UNDECIDED, f"{error.message} {error.hint}".rstrip())
        try:
            registered = measure.answers(self._ask(candidate, columns))
        except TidegateError as error:
            words = f"the registered model cannot answer the held-out rows: {error.message}"
            return found("rehearsal", Verdict.REGRESSED, words)
        return quality.rehearsal(
            tried,
            registered,
            outcomes,
            measure=measure,
            lists=_lists(measure, columns),
            refitted=held_out.refitted,
            margin=self._gates.quality_margin,
        )

    def _answers(self, rows: Rows) -> tuple[Answers | None, str, str]:
        """Return both versions' answers; why the candidate's cannot be had, why the champion's cannot."""
        candidate, champion, measure = self._candidate, self._champion, rows.measure
        why_no_champion = ""
        theirs = None
        try:
            own = self._answered(candidate, rows, measure)
        except TidegateError as error:
            return None, f"the candidate cannot answer the held-out rows: {error.message}", ""
        if champion is not None:
            try:
                other = measure_of(champion.manifest.contract, champion.evaluation).fitting(rows.outcomes)
                theirs = self._answered(champion, rows, other)
                own, theirs, measure = alike(own, measure, theirs, other)
            except TidegateError as error:
                theirs = None
                why_no_champion = f"the champion cannot be asked about these rows: {error.message}"
        names = [
            *candidate.manifest.contract.input.names,
            *candidate.evaluation.attributes(candidate.manifest.contract),
        ]
        answers = Answers(
            columns={name: rows.columns[name] for name in dict.fromkeys(names) if name in rows.columns},
            outcomes=rows.outcomes,
            candidate=own,
            champion=theirs,
            measure=measure,
            cluster=rows.cluster,
            unit=rows.unit,
        )
        lists = _lists(measure, rows.columns)
        if lists is not None:
            answers = by_list(answers, lists, candidate=own, champion=theirs, grades=rows.outcomes)
        return answers, "", why_no_champion

    def _answered(self, subject: Subject, rows: Rows, measure: Measure) -> Floats:
        """Return a version's answers; of one that was fitted on them since, those of its trial."""
        if rows.whose is subject and subject.held_out is not None and subject.held_out.refitted:
            return measure.answers(read_answers(self._artifacts, subject.held_out)[rows.kept])
        return measure.answers(self._ask(subject, rows.columns))

    def _of_records(self) -> Iterator[Evidence]:
        candidate, champion, gates = self._candidate, self._champion, self._gates
        schema = candidate.manifest.contract.input
        yield record.contract(
            candidate.manifest.request, None if champion is None else champion.manifest.request
        )
        suspects, why_not = self._leaks(schema.names)
        yield record.leaks(suspects, gates, why_not=why_not)
        own, theirs = (self._fitted_rows(subject) for subject in (candidate, champion))
        yield record.units(own, theirs, gates)
        yield record.parity(self._parity(), candidate.manifest.predictor.kind)
        yield record.size(self._size(candidate), None if champion is None else self._size(champion), gates)
        yield record.data_age(
            self._newest(candidate),
            None if champion is None else self._newest(champion),
            gates,
            now_us=self._now_us,
            **({} if candidate.run is not None else {"why_not": "no training was recorded"}),
        )
        yield record.card(candidate.card.missing)

    def _leaks(self, features: Sequence[str]) -> tuple[list[dict[str, Any]] | None, str]:
        """Return features that know the answer, or why they cannot be looked for."""
        candidate, given, limit = self._candidate, self._given, self._gates.leak_auc
        try:
            if candidate.held_out is not None:
                return leaks_of(self._artifacts, candidate.held_out, features, auc_limit=limit), ""
            if given is not None and given.target in given.columns:
                return leaks_in(given.admitted.table, given.target, features, auc_limit=limit), ""
        except InvalidSetting as error:
            return None, error.message
        return None, no_trial(candidate)

    def _fitted_rows(self, subject: Subject | None) -> dict[str, Column] | None:
        if subject is None or subject.held_out is None:
            return None
        names = subject.manifest.contract.input.names
        rows = read_rows(self._artifacts, subject.held_out.train)
        return {name: rows[name] for name in names if name in rows}

    def _parity(self) -> Evidence | None:
        version = self._candidate.version
        for stored in list_decisions(self._unit, version.service, kind="parity", version=version.number):
            for evidence in stored.decision.evidence:
                return evidence
        return None

    def _size(self, subject: Subject) -> int:
        return sum(_bytes(self._artifacts, digest) for digest in subject.manifest.artifacts)

    def _newest(self, subject: Subject) -> int | None:
        """Return the time of the newest row that is kept of a version, microseconds UTC."""
        held_out = subject.held_out
        if held_out is None or held_out.event_time is None:
            return None
        times = read_rows(self._artifacts, held_out.test)[held_out.event_time]
        if times.dtype.kind == "M":
            return int(times[~np.isnat(times)].astype("M8[us]").astype(np.int64).max())
        return int(times.max()) if times.dtype.kind in "iu" else None


def examine_servers(
    candidate: Subject, champion: Subject | None, open_probe: OpenProbe, rows: Mapping[str, Column] | None
) -> Iterator[Evidence]:
    """Ask the gates that need running servers: check inputs, latency, memory.

    Args:
        candidate: The version that wants traffic.
        champion: The version that has it; None where none has.
        open_probe: Starts servers.
        rows: Columns to load them with; None: the versions' own check inputs.
    """
    gates = candidate.gates
    measured, checked, failed, why_not = None, None, "", ""
    try:
        with open_probe(candidate, champion, rows) as probe:
            checked = probe.check()
            measured = load.measure(probe, gates, rng=_rng())
    except ProbeFailed as error:
        why_not = error.message
        failed = why_not if f"version {candidate.version.number} " in why_not else ""
    yield load.check_inputs(checked, why_not=why_not, failed=failed if checked is None else "")
    yield load.latency(
        measured,
        gates,
        rng=_rng(),
        objective_ms=candidate.manifest.objectives.latency_p99_ms,
        why_not=why_not,
    )
    yield load.memory(measured, gates, why_not=why_not)


def _rng() -> np.random.Generator:
    return np.random.default_rng(SEED)


def _lists(measure: Measure, columns: Mapping[str, Column]) -> Ints | None:
    """Return the list of each result of a ranking."""
    if measure.task != "ranking":
        return None
    if measure.query not in columns:
        raise InvalidSetting(
            f"The rows have no column {measure.query!r}, which says which results stand in one list."
        )
    return numbered(columns[measure.query])


def _threshold(subject: Subject) -> float:
    """Return from which probability on one acts, as the service declares it."""
    declared = subject.evaluation
    if declared.threshold is not None:
        return declared.threshold
    return 0.5 if declared.costs is None else declared.costs.threshold()


def _bytes(artifacts: ArtifactStore, digest: Digest) -> int:
    path = artifacts.open(digest)
    if path.is_file():
        return path.stat().st_size
    return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
