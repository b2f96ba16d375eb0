"""Runs: stored as artifacts, listed by the decisions that name them."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from tidegate.core.clock import Clock
from tidegate.core.decision import Decision, Evidence, Verdict
from tidegate.core.digest import Digest
from tidegate.core.error import Corrupt, NotFound
from tidegate.core.principal import Principal
from tidegate.operation.decide import record_decision
from tidegate.operation.mutation import UnitOfWork
from tidegate.operation.version import list_decisions
from tidegate.registry.artifact import ArtifactStore
from tidegate.registry.store import PAGE
from tidegate.registry.version import parse_version_label
from tidegate.training.run import Run

KIND = "run"
_RULE = "run"
_SHORTEST = 4
"""Fewest digits by which a run can be named: fewer would mean another run after the next training."""


class ListedRun(msgspec.Struct, frozen=True):
    """A run and the version it led to.

    Attributes:
        digest: Names the run.
        version: Number of the version.
        run: The record.
    """

    digest: Digest
    version: int | None
    run: Run


def record_run(
    unit: UnitOfWork,
    artifacts: ArtifactStore,
    run: Run,
    *,
    version: int,
    principal: Principal,
    at_us: int,
    key: str,
    clock: Clock,
) -> Digest:
    """Store a run, and note that `version` came of it.

    Raises:
        Conflict: The key was used for something else.
        StoreUnavailable: The database cannot be reached; the run is stored and listed nowhere.
    """
    digest = artifacts.put_bytes(run.to_json())
    decision = Decision(
        kind=KIND,
        service=run.service,
        version=version,
        outcome="trained",
        principal=principal,
        at_us=at_us,
        evidence=[Evidence(rule=_RULE, verdict=Verdict.SAFE, observed={"run": digest}), _baselines(run)],
    )
    record_decision(unit, decision, key=key, clock=clock)
    return digest


def list_runs(unit: UnitOfWork, artifacts: ArtifactStore, service: str | None = None) -> list[ListedRun]:
    """Return the runs of one service or of all, oldest first.

    Raises:
        Corrupt: A stored record is damaged; names it.
        NotFound: A record is no longer in the artifact store.
    """
    return [ListedRun(digest, version, _read(artifacts, digest)) for digest, version in _named(unit, service)]


def find_run(unit: UnitOfWork, artifacts: ArtifactStore, name: str) -> ListedRun:
    """Return the run called `name`: the first digits of its digest, or the version that came of it.

    Raises:
        NotFound: There is none, or several begin so.
        Corrupt: The stored record is damaged.
    """
    if "@" in name:
        service, number = parse_version_label(name)
        found: dict[Digest, int | None] = {
            digest: version for digest, version in _named(unit, service) if version == number
        }
    else:
        start = name.removeprefix("sha256:").lower()
        found = {
            digest: version
            for digest, version in _named(unit, None)
            if len(start) >= _SHORTEST and digest.removeprefix("sha256:").startswith(start)
        }
    if len(found) != 1:
        raise NotFound(
            f"{'No run is' if not found else f'{len(found)} runs are'} called {name!r}.",
            hint="`tidegate runs` lists them; name one by its first digits, or by its version, "
            "such as flights@3.",
            run=name,
        )
    ((digest, version),) = found.items()
    return ListedRun(digest, version, _read(artifacts, digest))


def _baselines(run: Run) -> Evidence:
    """Say whether the model is better than every simple one; the figures are in the run."""
    if run.comparison is None:
        reason = "the trainer returned no trial: nothing was compared"
        return Evidence(rule="baselines", verdict=Verdict.UNDECIDED, reason=reason)
    baselines = run.comparison.baselines
    worse = [each.name for each in baselines if each.gain.high is not None and each.gain.high < 0]
    unbeaten = [each.name for each in baselines if not each.beaten]
    if worse:
        verdict, reason = Verdict.REGRESSED, f"worse than {', '.join(worse)}"
    elif unbeaten:
        verdict, reason = Verdict.UNDECIDED, f"not shown to be better than {', '.join(unbeaten)}"
    else:
        verdict, reason = Verdict.SAFE, f"better than {', '.join(each.name for each in baselines)}"
    return Evidence(rule="baselines", verdict=verdict, reason=reason)


def _named(unit: UnitOfWork, service: str | None) -> Iterator[tuple[Digest, int | None]]:
    after = 0
    while True:
        page = list_decisions(unit, service, kind=KIND, after=after)
        for stored in page:
            after = stored.id
            for evidence in stored.decision.evidence:
                if evidence.rule == _RULE:
                    yield Digest(evidence.observed["run"]), stored.decision.version
        if len(page) < PAGE:
            return


def _read(artifacts: ArtifactStore, digest: Digest) -> Run:
    try:
        return Run.from_json(artifacts.read_bytes(digest))
    except msgspec.MsgspecError as error:
        raise Corrupt(f"The run {digest} cannot be read: {error}", digest=digest) from error
