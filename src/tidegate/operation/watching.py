"""A release as a person watches it: share, counts, each rule's evidence against its threshold, time left."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
import numpy as np

from tidegate.core.clock import Clock
from tidegate.core.decision import Evidence, Verdict
from tidegate.core.error import NotFound, TidegateError
from tidegate.journal.ledger import Ledger
from tidegate.journal.record import RecordKind
from tidegate.journal.tally import US_PER_MINUTE, Tally, merge, upper_us
from tidegate.journal.watched import tallies as release_tallies
from tidegate.operation.mutation import UnitOfWork
from tidegate.operation.rollout import Traffic, find_release
from tidegate.release.controller import outcome_watch
from tidegate.release.evidence import judge_canary, judge_outcomes, judge_shadow, trials_of
from tidegate.release.machine import Stage, State
from tidegate.release.plan import at_once, forecast
from tidegate.release.readiness import Cell, look_prepared
from tidegate.release.source import LedgerSource
from tidegate.statistics.allowance import log_wealth

LOOK_BACK_MINUTES = 15
"""Today's traffic is that of the last quarter of an hour: it follows the day, and is not a moment's."""
_KEY = np.dtype([("hash", "<u8"), ("event_us", "<i8"), ("request", "V16"), ("row", "<u4")])


class RuleView(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one rule says now.

    Attributes:
        rule: Name of the rule.
        verdict: What follows.
        evidence: Evidence of a regression, in nats.
        threshold: At how much of it the candidate is rolled back.
        proven: Part of the proof of safety that is there, in [0, 1]; None where there is no such figure.
        reason: In words.
    """

    rule: str
    verdict: Verdict
    evidence: float
    threshold: float
    reason: str
    proven: float | None = None


class ReleaseView(msgspec.Struct, frozen=True):
    """A release at one moment.

    Attributes:
        state: As it is kept.
        share: Share of the keys that the candidate answers, in [0, 1].
        candidate, stable: Rows that each has answered since the release began; in the shadow stage the
            candidate's are pairs.
        rules: What the rules of the present stage say.
        left_s: How long it takes from here if the candidate is as good as stable; None if unknown.
        waiting: What workers still lack while the release prepares, in words.
    """

    state: State
    share: float
    candidate: int
    stable: int
    rules: tuple[RuleView, ...] = ()
    left_s: float | None = None
    waiting: str = ""


def watch_release(
    unit: UnitOfWork,
    ledger: Path,
    service: str,
    *,
    clock: Clock,
    cells: Mapping[str, Cell] | None = None,
) -> ReleaseView:
    """Return the latest release of a service as it stands now.

    Args:
        unit: The metadata database.
        ledger: The ledger's file; it may not be there yet.
        service: Name of the service.
        clock: Says when.
        cells: Where the release goes, by name; without them nothing is said of workers.

    Raises:
        NotFound: The service never had a release.
        StoreUnavailable: The database cannot be reached.
    """
    state = find_release(unit, service)
    if state is None:
        raise NotFound(
            f"Service {service!r} never had a release.",
            hint=f"Start one: tidegate release start {service} VERSION",
            service=service,
        )
    waiting = _waiting(state, cells or {})
    try:
        opened = Ledger(ledger, read_only=True)
    except TidegateError:  # nothing was counted yet
        return ReleaseView(state, state.share, 0, 0, waiting=waiting)
    try:
        candidate, stable, rules = _judge(opened, state)
        left_s = _left_s(opened, state, clock=clock)
    finally:
        opened.close()
    return ReleaseView(state, state.share, candidate, stable, rules, left_s, waiting)


def _waiting(state: State, cells: Mapping[str, Cell]) -> str:
    if state.stage is not Stage.PREPARING or not state.is_open:
        return ""
    names = state.plan.waves[state.wave] if state.plan.waves else cells
    here = {name: cells[name] for name in names if name in cells}
    prepared = look_prepared(here, state.service, version=state.candidate, named=len(cells) > 1)
    return "" if prepared.is_good else prepared.evidence.reason


def _judge(ledger: Ledger, state: State) -> tuple[int, int, tuple[RuleView, ...]]:
    plan = state.plan
    source = LedgerSource(ledger)
    if state.is_open and state.step < 0 and plan.shadow is not None:
        pairs = source.pairs(state.service, answered=state.stable, shadow=state.candidate)
        found = judge_shadow(plan, plan.shadow, pairs, rules=state.rules)
        proven = min(1.0, pairs.key_pairs / plan.shadow.least_pairs) if plan.shadow.least_pairs else None
        return pairs.pairs, pairs.pairs, tuple(_view(each, proven) for each in found)
    late = tuple(_view(each, None) for each in _judge_outcomes(source, state))
    tallies = release_tallies(ledger, state.watch_id)
    if not state.is_open or state.stage is Stage.MATURING:
        return tallies.candidate, tallies.stable, late
    found = judge_canary(plan, tallies, step=state.step, rules=state.rules)
    proofs = {
        f"guardrail:{rule.name}": _proven(
            log_wealth(
                trials_of(tallies.events.get(rule.name, []), tallies.keys),
                allowance=plan.allowed(rule, state.step),
            ),
            plan.alpha,
        )
        for rule in at_once(state.rules)
    }
    rules = tuple(_view(each, proofs.get(each.rule)) for each in found)
    return tallies.candidate, tallies.stable, (*rules, *late)


def _judge_outcomes(source: LedgerSource, state: State) -> list[Evidence]:
    wanted = outcome_watch(state)
    if wanted is None or not state.is_open:
        return []
    share = 1.0 if state.stage is Stage.MATURING else state.next_share
    return judge_outcomes(
        state.plan, source.outcomes(wanted), share=share, rules=state.rules, horizon_s=wanted.horizon_s
    )


def _proven(wealth: float, alpha: float) -> float:
    return max(0.0, min(1.0, wealth / -math.log(alpha)))


def _view(evidence: Evidence, proven: float | None) -> RuleView:
    alpha = float(evidence.parameters.get("alpha", 0.01)) / float(evidence.parameters.get("rules", 1))
    if evidence.verdict is Verdict.SAFE and proven is not None:
        proven = 1.0
    return RuleView(
        rule=evidence.rule,
        verdict=evidence.verdict,
        evidence=max(0.0, evidence.statistic or 0.0),
        threshold=-math.log(alpha),
        reason=evidence.reason,
        proven=proven,
    )


def _left_s(ledger: Ledger, state: State, *, clock: Clock) -> float | None:
    if not state.is_open:
        return 0.0
    traffic = traffic_of(ledger, state.service, clock=clock, latency_us=state.latency_us)
    if traffic is None:
        return None
    plan = msgspec.structs.replace(state.plan, guardrails=state.rules or state.plan.guardrails)
    expected = forecast(plan, keys_per_s=traffic.keys_per_s, rates=traffic.rates)
    # steps of the forecast begin with the shadow, if there is one
    here = state.step + (1 if plan.shadow is not None else 0)
    rest = [step.seconds for step in expected.steps[max(0, here) :]]
    if state.stage is Stage.MATURING:
        return max(0.0, state.mature_s - state.stage_s)
    if rest and state.stage is not Stage.PREPARING:
        rest[0] = max(0.0, rest[0] - state.stage_s)
    return sum(rest) + state.mature_s


def read_traffic(
    ledger: Path, service: str, *, clock: Clock, latency_us: float | None = None
) -> Traffic | None:
    """Return a service's traffic of today; None if nothing was counted lately.

    Args:
        ledger: The ledger's file.
        service: Name of the service.
        clock: Says when.
        latency_us: Service time above which a request counts as slow.
    """
    try:
        opened = Ledger(ledger, read_only=True)
    except TidegateError:
        return None
    try:
        return traffic_of(opened, service, clock=clock, latency_us=latency_us)
    finally:
        opened.close()


def traffic_of(
    ledger: Ledger, service: str, *, clock: Clock, latency_us: float | None = None
) -> Traffic | None:
    """Return a service's traffic of today; None if nothing was counted lately."""
    now_minute = clock.wall_us() // US_PER_MINUTE
    since = now_minute - LOOK_BACK_MINUTES
    found = ledger.tallies(service, kind=RecordKind.PREDICTION, since_minute=since)
    if not found:
        return None
    total = merge(tally for _, tally in found)
    first = min(key.minute for key, _ in found)
    seconds = max(1.0, clock.wall_us() / 1e6 - 60.0 * max(first, since))
    keys = _distinct_keys(ledger, service, since_us=since * US_PER_MINUTE)
    n_new = min(total.requests, keys) if keys else total.requests
    return Traffic(
        keys_per_s=n_new / seconds, rates=_rates(total, latency_us), latency_p99_us=total.quantile_us(0.99)
    )


def _rates(total: Tally, latency_us: float | None) -> dict[str, float]:
    requests = max(1, total.requests)
    slow = 0.01 * requests  # stable's own 99th percentile is the limit where none is declared
    if latency_us is not None:
        slow = sum(count for step, count in total.service_times.items() if upper_us(step) > latency_us)
    return {
        "errors": sum(total.errors.values()) / requests,
        "contract": total.invalid / requests,
        "fallback": total.fallback / requests,
        "latency": slow / requests,
    }


def _distinct_keys(ledger: Ledger, service: str, *, since_us: int) -> int:
    """Return how many keys were seen lately, of services whose requests have some."""
    rows = ledger.connection.execute(
        "SELECT rows FROM key_block WHERE service = ? AND max_us >= ? ORDER BY max_us DESC LIMIT 64",
        (service, since_us),
    )
    return _count(np.frombuffer(stored, _KEY) for (stored,) in rows)


def _count(blocks: Iterable[np.ndarray]) -> int:
    seen = [block["hash"] for block in blocks]
    return len(np.unique(np.concatenate(seen))) if seen else 0
