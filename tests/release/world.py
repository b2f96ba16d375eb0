"""One release in a world where everything that can go wrong does, drawn from one seed.

Controllers die between any two instructions, sleep and come back, or are interrupted in the middle of a
change by someone else; the database goes down, also during a commit; clocks jump; evidence is missing;
people pause, abort, promote and roll back at any moment. After every step every invariant is checked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.release.fleet import ANA, BEN, SERVICE, FakeWorker, manifest
from tests.release.memory import GENESIS, MemoryUnit
from tests.route.simulation import Disk, Killed, SimulatedFiles
from tidegate.core.decision import Decision
from tidegate.core.error import Conflict, TidegateError
from tidegate.core.principal import Principal
from tidegate.governance.audit import entry_hash, verify
from tidegate.journal.ledger import LedgerUnavailable
from tidegate.journal.matured import OutcomeTallies, OutcomeWatch
from tidegate.journal.pair import PairTally
from tidegate.journal.watch import EventTally, KeyTally, ReleaseTallies, Watch
from tidegate.operation import rollout
from tidegate.operation.book import DatabaseBook, release_state
from tidegate.operation.pending import PendingMoves, reconcile
from tidegate.operation.release import roll_back
from tidegate.registry.lineage import Lineage
from tidegate.registry.version import Version
from tidegate.release import move
from tidegate.release.controller import ReleaseController
from tidegate.release.machine import Ending, Stage, State
from tidegate.release.plan import Guardrail, Plan, PlanStep, ShadowStep
from tidegate.release.readiness import Cell, Patience
from tidegate.release.switch import clear_latch
from tidegate.route.route import PARTS, ServiceRoute, check_route
from tidegate.route.status import WorkerStatus
from tidegate.route.store import RouteStore

OLD, STABLE_VERSION, CANDIDATE_VERSION = 1, 2, 3
IMPATIENT = Patience(ready_s=1.0, follow_s=0.0, poll_s=0.5)
FOLDER = Path("/home/route")
PENDING = Path("/home/run/pending")


class Broken(AssertionError):
    """An invariant does not hold; the message names the seed, so that it can be run again."""


class WorldClock:
    """Time that grows, and a wall clock that jumps."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.offset_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_us(self) -> int:
        return round((self.now_s + self.offset_s) * 1e6)


class Traffic:
    """What the tailer would have counted: a `Source`.

    Attributes:
        is_down: The ledger cannot be read.
        ratio: The candidate's rate over stable's.
    """

    def __init__(self, random: Random, clock: WorldClock, *, rate: float, ratio: float) -> None:
        self.random = random
        self.clock = clock
        self.rate = rate
        self.ratio = ratio
        self.is_down = False
        self.is_nan = False
        self.watches: set[str] = set()
        self.counts: dict[str, dict[float, list[int]]] = {}
        self.shadowed = PairTally()
        self.wrong_ratio = 1.0
        self.young: list[tuple[float, float, list[int]]] = []
        self.judged: dict[float, list[int]] = {}
        self.paired = [0, 0, 0]

    def watch(self, wanted: Watch) -> None:
        self.watches.add(wanted.release)

    def unwatch(self, release: str) -> None:
        self.watches.discard(release)

    def watched(self) -> frozenset[str]:
        return frozenset(self.watches)

    def tallies(self, release: str) -> ReleaseTallies:
        self._check()
        counts = self.counts.get(release, {})
        events = [
            EventTally(share, share, share, 0.0, row[2], row[3])
            for share, row in counts.items()
            if row[2] + row[3]
        ]
        keys = [KeyTally(share, row[0], row[1]) for share, row in counts.items()]
        if self.is_nan:
            events = [EventTally(math.nan, math.nan, math.nan, 0.0, 1, 1)]
        n_candidate, n_stable = (sum(row[part] for row in counts.values()) for part in (0, 1))
        return ReleaseTallies({"errors": events}, keys, n_candidate, n_stable)

    def pairs(self, service: str, *, answered: int, shadow: int) -> PairTally:
        self._check()
        return self.shadowed

    def outcomes(self, wanted: OutcomeWatch) -> dict[str, OutcomeTallies]:
        self._check()
        due_s = self.clock.now_s - wanted.horizon_s
        for _, share, counts in [each for each in self.young if each[0] <= due_s]:
            into = self.judged.setdefault(share, [0, 0, 0, 0]) if share < 1 else self.paired
            into[:] = [a + b for a, b in zip(into, counts, strict=True)]
        self.young = [each for each in self.young if each[0] > due_s]
        events = [EventTally(share, share, share, 0.0, row[2], row[3]) for share, row in self.judged.items()]
        keys = [KeyTally(share, row[0], row[1]) for share, row in self.judged.items()]
        pairs, worse, better = self.paired
        found = OutcomeTallies(events, keys, pairs=pairs, worse=worse, better=better)
        return {each.name: found for each in wanted.events}

    def _check(self) -> None:
        if self.is_down:
            raise LedgerUnavailable("The ledger cannot be read.")

    def flow(self, route: ServiceRoute, n_keys: int) -> None:
        """Let new keys come by the route in force."""
        share = sum(arm.parts for arm in route.arms if arm.version == CANDIDATE_VERSION) / PARTS
        wrong = min(1.0, 0.01 * self.wrong_ratio)
        if any(each.version in (STABLE_VERSION, CANDIDATE_VERSION) for each in route.shadows):
            pair = [n_keys, self._poisson(n_keys * wrong), self._poisson(n_keys * 0.01)]
            self.young.append((self.clock.now_s, 1.0, pair))
        if 0 < share < 1:
            n = round(n_keys * share)
            counts = [n, n_keys - n, self._poisson(n * wrong), self._poisson((n_keys - n) * 0.01)]
            self.young.append((self.clock.now_s, share, counts))
            for name in self.watches:
                row = self.counts.setdefault(name, {}).setdefault(share, [0, 0, 0, 0])
                candidate = round(
                    n_keys * share + self.random.gauss(0, math.sqrt(n_keys * share * (1 - share)))
                )
                candidate = min(n_keys, max(0, candidate))
                row[0] += candidate
                row[1] += n_keys - candidate
                row[2] += self._poisson(candidate * min(1.0, self.rate * self.ratio))
                row[3] += self._poisson((n_keys - candidate) * self.rate)
        if any(each.version == CANDIDATE_VERSION for each in route.shadows):
            tally = self.shadowed
            tally.pairs += n_keys
            tally.key_pairs += n_keys
            tally.timed += n_keys
            tally.key_worse += self._poisson(n_keys * min(1.0, self.rate * self.ratio))
            tally.key_better += self._poisson(n_keys * self.rate)

    def _poisson(self, mean: float) -> int:
        if mean > 30:
            return max(0, round(self.random.gauss(mean, math.sqrt(mean))))
        limit, product, count = math.exp(-mean), self.random.random(), 0
        while product > limit:
            product *= self.random.random()
            count += 1
        return count


@dataclass
class Running:
    """A controller process: it may be dead, or asleep with what it knew."""

    name: str
    controller: ReleaseController
    asleep: bool = False


class World:
    """A cell, a database, two controllers, and people.

    Args:
        seed: Everything follows from it.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.log: list[str] = []
        self.clock = WorldClock()
        self.disk = Disk()
        self.fuse = 0
        self.intruder_in = 0
        self.depth = 0
        self.store = RouteStore(FOLDER, files=SimulatedFiles(self.disk, self.pause), clock=self.clock, keep=8)
        self.eye = RouteStore(FOLDER, files=SimulatedFiles(self.disk), clock=self.clock, keep=8)
        self.unit = MemoryUnit(self.pause)
        self.workers = [FakeWorker(slot, self.eye, self.clock) for slot in range(2)]  # type: ignore[arg-type]
        self.cell = Cell(
            self.store, self, clock=self.clock, sleep=self.sleep, pending=PENDING, files=self.store.files
        )
        self.rollbacks: list[Decision] = []
        self.is_bad = self.random.random() < 0.4
        self.traffic = Traffic(
            self.random, self.clock, rate=self.random.choice([0.0, 0.01]), ratio=30.0 if self.is_bad else 1.0
        )
        self.is_wrong = self.random.random() < 0.3
        self.traffic.wrong_ratio = 30.0 if self.is_wrong else 1.0
        if self.is_bad:
            self.traffic.rate = 0.01
        self.traffic.is_nan = self.random.random() < 0.05
        self.deads: set[str] = set()
        self.n_processes = 0
        self.running = [self._new_process(), self._new_process()]
        self.generation = 0
        self.share = 0.0
        self.cleared = False
        self.n_verified = 0
        self.forced = False
        self._set_up()

    # -- the parts of the world

    def _set_up(self) -> None:
        for version in (OLD, STABLE_VERSION, CANDIDATE_VERSION):
            self.unit.tables.versions[SERVICE, version] = Version(
                service=SERVICE,
                number=version,
                manifest=manifest(version),
                contract=manifest(version),
                artifacts=(),
                lineage=Lineage(),
                changelog="",
                created_at_us=0,
                principal=ANA,
            )
        fallback = ("mean",) if self.random.random() < 0.5 else ()

        def deploy(old: ServiceRoute | None) -> ServiceRoute:
            first = move.deploy_first(
                old, SERVICE, version=OLD, manifest=manifest(OLD), salt="s", fallback=fallback
            )
            manifests = {**first.manifests, STABLE_VERSION: manifest(STABLE_VERSION)}
            return move.commit(
                ServiceRoute(SERVICE, 0, "s", first.arms, fallback=fallback, manifests=manifests),
                version=STABLE_VERSION,
            )

        self.eye.change(SERVICE, deploy)
        self._turn_workers()
        if self.random.random() < 0.1:
            self.workers[0].broken[CANDIDATE_VERSION] = "it does not load"
        for worker in self.workers:
            worker.load_s[CANDIDATE_VERSION] = self.random.choice([0.0, 0.0, 3.0])
        shadow = ShadowStep(least_s=2.0, least_pairs=50, max_disagreement=None)
        wrong = Guardrail(
            "wrong", outcome="late", against="p", allowance=0.03, every_step=self.random.random() < 0.3
        )
        self.has_outcomes = self.random.random() < 0.4
        self.plan = Plan(
            shadow=shadow if self.random.random() < 0.5 else None,
            steps=(PlanStep(0.05, 1.0), PlanStep(0.5, 1.0)),
            guardrails=(Guardrail("errors", allowance=0.03), *((wrong,) if self.has_outcomes else ())),
            limit_s=400.0,
            idle_s=100.0,
            ready_s=20.0,
            approve=(1.0,) if self.random.random() < 0.2 else (),
            mature_s=5.0 if self.has_outcomes else self.random.choice([0.0, 5.0]),
        )

    def live(self) -> list[WorkerStatus]:
        return [worker.status for worker in self.workers]

    def _turn_workers(self) -> None:
        for worker in self.workers:
            worker.turn()

    def _new_process(self) -> Running:
        self.n_processes += 1
        name = f"c{self.n_processes}"
        controller = ReleaseController(
            book=DatabaseBook(self.unit, clock=self.clock),
            source=self.traffic,
            cells={"local": self.cell},
            clock=self.clock,
            holder=name,
            limit_s=5.0,
            is_dead=lambda holder: holder in self.deads and self.random.random() < 0.5,
        )
        return Running(name, controller)

    def sleep(self, seconds: float) -> None:
        self.clock.now_s += seconds
        self._turn_workers()

    def pause(self) -> None:
        """Between any two operations: perhaps die here, perhaps let someone else go first."""
        if self.intruder_in:
            self.intruder_in -= 1
            if not self.intruder_in and self.depth == 0:
                self.depth += 1
                fuse, self.fuse = self.fuse, 0
                try:
                    self._act(self.random.choice(self._intrusions()))
                finally:
                    self.depth -= 1
                    self.fuse = fuse
        if self.fuse:
            self.fuse -= 1
            if not self.fuse:
                raise Killed

    # -- what happens

    def run(self, n_steps: int = 30) -> Ending | None:
        """Live through a release, then let everything recover, and see how it ended."""
        self._start(ANA)
        for _ in range(n_steps):
            self._act(self.random.choice(self._actions()))
        return self._recover()

    def _actions(self) -> list[Callable[[], None]]:
        often = [self._tick, self._tick, self._tick, self._tick, self._flow, self._flow, self._flow]
        return [
            *often,
            self._tick_and_die,
            self._tick_interrupted,
            self._tick_interrupted,
            *self._intrusions(),
        ]

    def _intrusions(self) -> list[Callable[[], None]]:
        return [
            self._tick_other,
            self._flow,
            self._flip_database,
            self._flip_ledger,
            self._jump,
            self._doze,
            self._person,
        ]

    def _act(self, action: Callable[[], None]) -> None:
        self.log.append(action.__name__)
        try:
            action()
        except Killed:
            if self.depth:
                raise
        except TidegateError as error:
            self.log.append(f"  {type(error).__name__}: {error.message}")
        self.check()

    def _tick(self) -> None:
        self.clock.now_s += self.random.choice([0.25, 1.0])
        self._turn_workers()
        self._run_process(self.random.randrange(2))

    def _tick_other(self) -> None:
        self._run_process(1)

    def _run_process(self, number: int) -> None:
        process = self.running[number]
        if process.asleep:
            return
        try:
            process.controller.tick()
        except Killed:
            self.log.append(f"  {process.name} died")
            self.deads.add(process.name)
            self.running[number] = self._new_process()
            raise

    def _tick_and_die(self) -> None:
        self.fuse = self.random.randrange(1, 40)
        try:
            self._tick()
        finally:
            self.fuse = 0

    def _tick_interrupted(self) -> None:
        self.intruder_in = self.random.randrange(1, 25)
        try:
            self._run_process(0)
        finally:
            self.intruder_in = 0

    def _doze(self) -> None:
        process = self.running[0]
        process.asleep = not process.asleep

    def _flow(self) -> None:
        self.clock.now_s += self.random.choice([0.5, 2.0])
        self._turn_workers()
        self.traffic.flow(self._route(), self.random.choice([0, 50, 400, 400]))

    def _flip_database(self) -> None:
        self.unit.is_down = not self.unit.is_down

    def _flip_ledger(self) -> None:
        self.traffic.is_down = not self.traffic.is_down

    def _jump(self) -> None:
        self.clock.offset_s += self.random.choice([-3600.0, 3600.0])

    def _person(self) -> None:
        if self.random.random() < 0.5:
            return
        who = self.random.choice([ANA, BEN])
        choice = self.random.randrange(12)
        if choice == 0:
            rollout.pause_release(self.unit, SERVICE, principal=who, clock=self.clock)
        elif choice == 1:
            rollout.resume_release(self.unit, SERVICE, principal=who, clock=self.clock)
        elif choice == 2:
            rollout.approve_release(self.unit, SERVICE, principal=who, clock=self.clock)
        elif choice == 3:
            rollout.promote_now(self.unit, SERVICE, principal=who, clock=self.clock, reason="I know better")
            self.forced = True
        elif choice == 4:
            rollout.abort_release(
                lambda: self.unit, {"local": self.cell}, SERVICE, principal=who, clock=self.clock
            )
        elif choice in (5, 6, 9, 10, 11):
            self._roll_back(who, latch=choice in (5, 9, 10))
        elif choice == 7:
            clear_latch(self.cell, SERVICE, version=CANDIDATE_VERSION, principal=who)
            self.cleared = True
        else:
            self._start(who)

    def _start(self, who: Principal) -> None:
        rollout.start_release(
            self.unit,
            {"local": self.cell},
            SERVICE,
            version=CANDIDATE_VERSION,
            plan=self.plan,
            fallback_of=lambda _: (),
            principal=who,
            clock=self.clock,
        )

    def _roll_back(self, who: Principal, *, latch: bool) -> None:
        """A person's way back: it needs no database, and takes the candidate's traffic away at once (I4)."""
        before = self._route()
        if not self._share(before) and before.releasing is None:
            return
        key = f"rollback {len(self.rollbacks)} of seed {self.seed}"
        moved = roll_back(
            lambda: self.unit,
            self.cell,
            SERVICE,
            principal=who,
            clock=self.clock,
            latch=latch,
            patience=IMPATIENT,
            key=key,
        )  # I4: whatever is down
        self.rollbacks.append(moved.decision)
        if self.unit.is_down and moved.number is not None:
            raise self._broken("a decision was kept while the database was down")
        after = self._route()
        if self.depth == 0 and self._share(after) and not after.safe_mode:
            raise self._broken(f"rollback left the candidate {self._share(after):.2%}")
        if self.depth == 0 and before.stable == STABLE_VERSION != after.stable:
            raise self._broken(f"rollback of the candidate went back to version {after.stable}")

    # -- what must hold

    def _route(self) -> ServiceRoute:
        return self.eye.read().services[SERVICE]

    def _share(self, route: ServiceRoute) -> float:
        return sum(arm.parts for arm in route.arms if arm.version == CANDIDATE_VERSION) / PARTS

    def _releases(self) -> list[State]:
        return [release_state(each) for each in self.unit.tables.releases.values()]

    def _broken(self, what: str) -> Broken:
        history = "\n".join(self.log[-40:])
        return Broken(f"seed {self.seed}: {what}\n{history}\nReplay: World({self.seed}).run()")

    def check(self) -> None:
        """Check every invariant that can be read off what is."""
        route = self._route()
        try:
            check_route(route)  # I2, I5: arms neither overlap nor leave a gap; nothing latched has traffic
        except TidegateError as error:
            raise self._broken(f"the route cannot be followed: {error}") from error
        if route.generation < self.generation:
            raise self._broken(f"generation {route.generation} after {self.generation}")
        self.generation = route.generation
        releases = self._releases()
        if sum(each.is_open for each in releases) > 1:
            raise self._broken("two releases are open")
        share = self._share(route)
        if share > self.share:
            self._check_widened(share, releases)
        self.share = share
        latched = route.latch_of(CANDIDATE_VERSION) is not None
        if latched and share and not route.safe_mode:
            raise self._broken("a latched version has traffic")  # I5
        self._check_audit()

    def _check_audit(self) -> None:
        """Check the entries that are new, each against the one before (I6)."""
        entries = self.unit.tables.entries
        for before, entry in zip(
            [None, *entries][self.n_verified :], entries[self.n_verified :], strict=False
        ):
            linked = entry.previous == (before.hash if before is not None else GENESIS.hash)
            if not linked or entry.hash != entry_hash(entry):
                raise self._broken(f"audit entry {entry.sequence} does not follow from the one before")
        self.n_verified = len(entries)

    def _check_widened(self, share: float, releases: list[State]) -> None:
        """More traffic only as a kept state says, and only where every worker has the version ready (I3)."""
        # a controller that was overtaken between its look and its change may still make the change before
        known = {kept for state in releases for kept in (state.share, *(each.share for each in state.before))}
        if not any(abs(each - share) < 1e-9 for each in known):
            raise self._broken(f"share {share} without a state that wants it: {known}")
        for worker in self.workers:
            if CANDIDATE_VERSION not in worker.status.of(SERVICE).ready:
                raise self._broken(f"worker {worker.slot} got traffic for a version it has not ready")

    def _recover(self) -> Ending | None:
        """Let every fault end: then every release ends too, and the route is what it says."""
        self.unit.is_down = self.traffic.is_down = False
        for process in self.running:
            process.asleep = False
        state = None
        for _ in range(400):
            state = max(self._releases(), key=lambda each: each.started_us, default=None)
            if not any(each.is_open for each in self._releases()):
                break
            self.clock.now_s += 5.0
            self._turn_workers()
            self.traffic.flow(self._route(), 2000)
            for number in range(2):
                self._run_process(number)
            self._help()
            self.check()
        else:
            raise self._broken(f"the release never ends: {state}")
        with suppress(Conflict):
            reconcile(self.unit, PendingMoves(PENDING, files=self.eye.files), self.eye, clock=self.clock)
        self._check_end()
        found = self._releases()
        return found[-1].ending if found else None

    def _help(self) -> None:
        """Say what a release waits for."""
        for state in self._releases():
            if state.is_open and state.paused:
                rollout.resume_release(self.unit, SERVICE, principal=ANA, clock=self.clock)
            elif state.stage is Stage.APPROVAL and state.approved < state.next_share:
                try:
                    rollout.approve_release(self.unit, SERVICE, principal=ANA, clock=self.clock)
                except Conflict as error:
                    self.log.append(str(error))

    def _check_end(self) -> None:
        verification = verify(self.unit.tables.entries)
        if verification.fault is not None:
            raise self._broken(f"the audit chain: {verification.fault}")
        route, releases = self._route(), self._releases()
        share = self._share(route)
        promoted = [each for each in releases if each.ending is Ending.PROMOTED]
        if share == 1.0 and not promoted and not any(each.forced for each in releases):
            raise self._broken("the candidate has everything, and no release says so")
        if 0 < share < 1 and not any(each.ending is Ending.OVERTAKEN for each in releases):
            raise self._broken(f"the candidate was left with {share:.2%}")
        is_proven = not (self.is_bad or self.traffic.is_nan or (self.is_wrong and self.has_outcomes))
        if not is_proven and any(not each.forced for each in promoted):
            raise self._broken("promoted without evidence")
        kept = [
            each.decision
            for each in self.unit.tables.decisions
            if each.decision.principal in (ANA, BEN) and each.decision.kind in ("rollback", "switch-back")
        ]
        if sorted(each.at_us for each in kept) != sorted(each.at_us for each in self.rollbacks):
            raise self._broken(f"{len(self.rollbacks)} rollbacks by people, {len(kept)} decisions")  # I4
        ends = [each for each in self.unit.tables.decisions if each.decision.outcome == Ending.PROMOTED.value]
        if len(ends) != len(promoted):
            raise self._broken(f"{len(promoted)} promotions, and {len(ends)} decisions")
