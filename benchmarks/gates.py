"""`python -m benchmarks.gates`: bad flight models are stopped by the right gate, and healthy ones pass.

python -m benchmarks.gates                    # each kind of bad candidate once, and a healthy one
python -m benchmarks.gates --seeds 0:50       # healthy retrains only: how many are stopped falsely
python -m benchmarks.gates --seeds 0:50 --compare-only   # the same by the gates that compare answers
python -m benchmarks.gates --seeds 0:50 --servers-only   # the same by the gates that load servers
python -m benchmarks.gates --keep FOLDER      # go on with the champion that stands there
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import polars as pl
from sklearn.ensemble import VotingClassifier  # type: ignore[import-untyped]  # no stubs
from sklearn.preprocessing import LabelEncoder  # type: ignore[import-untyped]  # no stubs

sys.path.append(str(Path(__file__).parent.parent / "examples" / "flights"))

import flight_data
import service as flights

import tidegate as tg
from tidegate.bootstrap.gate import champion_of, gate_version, open_servers, subject_of
from tidegate.bootstrap.local import Local
from tidegate.bootstrap.setting import Settings
from tidegate.bootstrap.train import publish_service
from tidegate.contract.field import DataType, Field
from tidegate.contract.infer import columns_of
from tidegate.contract.schema import Schema
from tidegate.core.decision import Evidence
from tidegate.evaluation.measure import Measure
from tidegate.gate import part, quality
from tidegate.gate.answer import Answers
from tidegate.gate.calibration import calibration
from tidegate.operation.examination import examine_servers
from tidegate.operation.gate import GateState
from tidegate.operation.release import deploy_first
from tidegate.operation.version import list_versions
from tidegate.service.declare import Service
from tidegate.training.baseline import (
    Baseline,
    Comparison,
    gain_estimates,
)
from tidegate.training.held_out import read_rows
from tidegate.training.simple import fit_constant, fit_linear_model, fit_lookup

FOLDER = Path(flights.__file__).parent
KM_PER_MILE = 1.609344

EVENT = Measure(task="binary")

CHAMPION = {"first_month": 1, "held_out_month": 7}
RETRAIN = {"first_month": 2, "held_out_month": 8}
"""A month later: neither the champion's rows nor its own held-out month were learnt from by either."""

COPIES = 6
"""Times that the slow candidate asks the same trees: with what a call costs anyhow, three times the time."""

LOADED = ("check-inputs", "latency", "memory")
"""Gates that need servers."""

MONTHS = ((1, 8), (2, 8), (3, 9), (2, 9), (4, 10), (5, 11))
"""First and held-out months of the healthy retrains; the champion's held-out month is over by then."""


class Scenario(NamedTuple):
    """A candidate and what should become of it.

    Attributes:
        make: Trains it, and gives its number.
        stopped_by: Gates of which at least one has to find it worse; empty where it has to pass.
    """

    make: Callable[[], int]
    stopped_by: tuple[str, ...] = ()


class Lab:
    """A home with a champion, and candidates of every kind beside it."""

    def __init__(self, local: Local, rows: pl.DataFrame, *, with_load: bool = True) -> None:
        self.local = local
        self.rows = rows
        self.declared = copy.copy(flights.service)
        if not with_load:
            reason = "not measured in this run"
            self.declared.gates = tg.Gates(left_out=dict.fromkeys(LOADED, reason))

    def deploy_champion(self) -> None:
        """Train the champion and give it the traffic, unless that was done."""
        if self.local.routes.read().services.get(flights.service.name) is None:
            number = self.train(params=CHAMPION)
            deploy_first(
                self.local.unit,
                self.local.cell,
                flights.service.name,
                version=number,
                fallback_of=self.local.fallback_of,
                principal=self.local.principal,
                clock=self.local.clock,
            )

    def train(
        self,
        service: Service | None = None,
        *,
        rows: pl.DataFrame | None = None,
        params: Mapping[str, Any] = RETRAIN,
        changelog: str = "",
    ) -> int:
        """Train and register a version, and return its number."""
        data = self.rows if rows is None else rows
        declared = service or self.declared
        published = publish_service(
            self.local, declared, FOLDER, data=data, params=params, changelog=changelog
        )
        return published.version.number

    def gate(self, number: int) -> GateState:
        """Put a version through its gates."""
        return gate_version(self.local, flights.service.name, number)

    def scenarios(self) -> dict[str, Scenario]:
        """Return every kind of candidate by name."""
        return {
            "healthy retrain on another month": Scenario(self.train),
            "leaky feature dep_delay": Scenario(self._leaky, ("leaks",)),
            "distance arrives in kilometres": Scenario(self._kilometre_rows, ("units",)),
            "trained on kilometres, asked in miles": Scenario(self._kilometre_model, ("rehearsal",)),
            "contract says kilometres": Scenario(self._kilometre_contract, ("contract",)),
            "trained on shuffled labels": Scenario(self._shuffled, ("champion", "baselines")),
            "worse only at LGA": Scenario(self._worse_at_one_airport, ("slices",)),
            "contract drops dest_delay": Scenario(self._dropped, ("contract",)),
            "slower by 3 times": Scenario(self._slow, ("latency",)),
        }

    def _leaky(self) -> int:
        known = flight_data.read_flights().with_row_index("row").sort("sched_dep_at", "row")
        rows = self.rows.with_columns(dep_delay=known["dep_delay"].cast(pl.Float64))
        extra = Field("dep_delay", DataType.FLOAT64, optional=True, unit="minute")
        with patched(flight_data, "FEATURES", (*flight_data.FEATURES, "dep_delay")):
            return self.train(self._with_inputs(lambda fields: (*fields, extra)), rows=rows)

    def _kilometre_rows(self) -> int:
        return self.train(rows=self.rows.with_columns(_in_km()))

    def _kilometre_model(self) -> int:
        fit, answer = flights._fit, flights._answer
        with (
            patched(flights, "_fit", lambda rows, params: fit(rows.with_columns(_in_km()), params)),
            patched(flights, "_answer", lambda model, rows: answer(model, rows.with_columns(_in_km()))),
        ):
            return self.train()

    def _kilometre_contract(self) -> int:
        def changed(fields: tuple[Field, ...]) -> tuple[Field, ...]:
            return tuple(
                msgspec.structs.replace(field, unit="kilometre") if field.name == "distance" else field
                for field in fields
            )

        return self.train(self._with_inputs(changed), rows=self.rows.with_columns(_in_km()))

    def _shuffled(self) -> int:
        return self.train(rows=self.rows.with_columns(pl.col("late").shuffle(seed=0)))

    def _worse_at_one_airport(self) -> int:
        fit = flights._fit

        def broken(rows: pl.DataFrame, params: Mapping[str, Any]) -> Any:
            there = pl.col("origin") == "LGA"
            mixed = pl.col("late").shuffle(seed=0).over("origin")
            return fit(rows.with_columns(late=pl.when(there).then(mixed).otherwise(pl.col("late"))), params)

        with patched(flights, "_fit", broken):
            return self.train()

    def _dropped(self) -> int:
        kept = tuple(name for name in flight_data.FEATURES if name != "dest_delay")
        declared = self._with_inputs(lambda fields: tuple(f for f in fields if f.name != "dest_delay"))
        with patched(flight_data, "FEATURES", kept):
            return self.train(declared)

    def _slow(self) -> int:
        fit = flights._fit

        def repeated(rows: pl.DataFrame, params: Mapping[str, Any]) -> Any:
            one = fit(rows, params)
            many = VotingClassifier([(f"copy_{number}", one) for number in range(COPIES)], voting="soft")
            many.estimators_ = [one] * COPIES  # the same answers, several times over
            many.le_ = LabelEncoder().fit(one.classes_)
            many.classes_ = many.le_.classes_
            many.feature_names_in_ = one.feature_names_in_
            return many

        with patched(flights, "_fit", repeated):
            return self.train()

    def healthy(self, seed: int, *, changelog: str = "") -> int:
        """Train a retrain that nothing is wrong with, and return its number."""
        rows, first, held_out = retrain_rows(self.rows, seed)
        params = {"first_month": first, "held_out_month": held_out, "seed": seed}
        return self.train(rows=rows, params=params, changelog=changelog)

    def _with_inputs(self, change: Callable[[tuple[Field, ...]], tuple[Field, ...]]) -> Service:
        """Return the flights' service with other input fields, and its own trainer."""
        declared = copy.copy(self.declared)
        fields = change(declared.contract.input.fields)
        declared.contract = msgspec.structs.replace(declared.contract, input=Schema(fields))
        declared._trainer = None

        @declared.trainer
        def train(data: Any, params: Mapping[str, Any]) -> tg.Trained:
            with patched(flights, "service", declared):
                return flights.train(data, params)

        return declared


def _in_km() -> pl.Expr:
    return (pl.col("distance") * KM_PER_MILE).round().cast(pl.Int64).alias("distance")


def retrain_rows(rows: pl.DataFrame, seed: int) -> tuple[pl.DataFrame, int, int]:
    """Return the rows of a healthy retrain, its first month and the one it holds out.

    Other months than the champion's, and without a tenth of their days, which every seed draws anew.
    """
    rng = np.random.default_rng(seed)
    first, held_out = MONTHS[seed % len(MONTHS)]
    days = rows["sched_dep_at"].dt.date()
    every = days.unique().sort()
    chosen = every.filter(pl.Series(rng.random(len(every)) < 0.9))
    kept = days.is_in(chosen.implode()) | (rows["month"] == held_out)
    return rows.filter(kept), first, held_out


@contextmanager
def patched(module: Any, name: str, value: Any) -> Iterator[None]:
    """Let a module have another value for a while."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def judge(name: str, scenario: Scenario, state: GateState) -> bool:
    """Print what became of a candidate, and return whether that is right."""
    worse = [finding.gate for finding in state.findings if finding.verdict == "regressed"]
    undecided = [finding.gate for finding in state.findings if finding.verdict == "undecided"]
    right = any(gate in worse or (gate == "baselines" and gate in undecided) for gate in scenario.stopped_by)
    right = right if scenario.stopped_by else state.passed
    print(
        f"{'right' if right else 'WRONG'}  {name:<40} regressed: {', '.join(worse) or '-':<30} "
        f"undecided: {', '.join(undecided) or '-'}",
        flush=True,
    )
    for finding in state.findings:
        if finding.gate in scenario.stopped_by or (not right and finding.stops):
            print(f"       {finding.gate}: {finding.reason}", flush=True)
    return right


def main() -> None:
    """Run what the command line asks for; exit with 1 if anything came out wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", help="FIRST:END of healthy retrains")
    parser.add_argument(
        "--without-load", action="store_true", help="start no servers: not for what is slower"
    )
    parser.add_argument("--only", help="one scenario: a part of its name")
    parser.add_argument("--keep", type=Path, help="the home; a temporary one without it")
    parser.add_argument(
        "--servers-only", action="store_true", help="of retrains, ask only what is asked of servers"
    )
    parser.add_argument("--compare-only", action="store_true", help="of retrains, register nothing")
    options = parser.parse_args()
    rows = flight_data.load_flights()
    if options.compare_only:
        first, end = map(int, (options.seeds or "0:50").split(":"))
        sys.exit(0 if compare_only(rows, range(first, end)) else 1)
    with tempfile.TemporaryDirectory(prefix="tidegate-gates-") as temporary:
        home = options.keep or Path(temporary)
        with Local(Settings(home=str(home))) as local:
            lab = Lab(local, rows, with_load=not options.without_load)
            lab.deploy_champion()
            if options.servers_only:
                first, end = map(int, (options.seeds or "0:50").split(":"))
                sys.exit(0 if servers_only(lab, range(first, end)) else 1)
            if options.seeds:
                first, end = map(int, options.seeds.split(":"))
                sys.exit(0 if retrains(lab, range(first, end)) else 1)
            right = [
                judge(name, scenario, lab.gate(scenario.make()))
                for name, scenario in lab.scenarios().items()
                if not options.only or options.only in name
            ]
    print(f"{sum(right)} of {len(right)} as they should be")
    sys.exit(0 if all(right) else 1)


def compare_only(rows: pl.DataFrame, seeds: range) -> bool:
    """Ask the gates that compare answers about healthy retrains; nothing is converted or registered.

    The other gates look at records that are the same for every healthy retrain. Fits are shared: one
    champion, and one set of baselines for each window of months.
    """
    known = rows.filter(pl.col("late").is_not_null())
    champion = flights._fit(_months(known, **CHAMPION)[0], flights.MODEL)
    schema, stopped = flights.service.contract.input, 0
    windows: dict[tuple[int, int], list[Any]] = {}
    for seed in seeds:
        kept, first, held_out = retrain_rows(known, seed)
        train, test = _months(kept, first, held_out)
        if (first, held_out) not in windows:
            whole, columns = _months(known, first, held_out)[0], columns_of(test)
            target = whole["late"].to_numpy().astype(np.float64)
            linear = fit_linear_model(schema, columns_of(whole), target, measure=EVENT)
            by = fit_lookup(columns_of(whole), target, ("carrier", "origin"))
            constant = fit_constant(target)
            windows[first, held_out] = [constant(columns), by(columns), linear(columns)]
        model = flights._fit(train, {**flights.MODEL, "seed": seed})
        day = test["sched_dep_at"].dt.date().rank("dense").to_numpy().astype(np.int64) - 1
        answers = Answers(
            columns={name: test[name].to_numpy() for name in flight_data.FEATURES},
            outcomes=test["late"].to_numpy().astype(np.float64),
            candidate=flights._answer(model, test),
            champion=flights._answer(champion, test),
            measure=EVENT,
            cluster=day,
            unit="days",
        )
        found = [*_asked(answers), _beside_baselines(answers, windows[first, held_out])]
        stops = [f"{each.rule} {each.verdict}: {each.reason}" for each in found if each.verdict != "safe"]
        stopped += bool(stops)
        rise = next(each.statistic for each in found if each.rule == "champion")
        print(f"seed {seed}: months {first} to {held_out}, loss {rise:+.2%} {'; '.join(stops)}", flush=True)
    print(f"{stopped} of {len(seeds)} healthy retrains were stopped")
    return stopped <= len(seeds) / 25


def servers_only(lab: Lab, seeds: range) -> bool:
    """Start servers of a champion and a healthy retrain for each seed, and ask the gates that load them.

    What a retrain on other rows changes for a server is its trees' number and depth: one of each window of
    months is registered, and measured anew for each of its seeds. The same files again and again are
    no weaker a test: what stops them falsely is the machine's noise, which is new each time.
    """
    local, name = lab.local, flights.service.name
    champion = subject_of(local, name, champion_of(local, name))
    held_out = champion.held_out
    assert held_out is not None
    columns = read_rows(local.artifacts, held_out.test)
    known = {each.changelog: each.number for each in list_versions(local.unit, name)}
    stopped, began_s = 0, time.perf_counter()
    for seed in seeds:
        window = f"window {seed % len(MONTHS)}"
        if window not in known:
            known[window] = lab.healthy(seed, changelog=window)
        candidate = subject_of(local, name, known[window])
        found = list(examine_servers(candidate, champion, partial(open_servers, local), columns))
        stops = [each.rule for each in found if each.verdict != "safe"]
        stopped += bool(stops)
        told = "; ".join(f"{each.rule} {each.verdict.value}: {each.reason}" for each in found)
        print(f"{'WRONG' if stops else 'right'}  seed {seed}, version {known[window]}: {told}", flush=True)
    print(
        f"{stopped} of {len(seeds)} healthy retrains were stopped, in {time.perf_counter() - began_s:.0f} s"
    )
    return stopped <= len(seeds) / 25


def _asked(answers: Answers) -> Iterator[Evidence]:
    gates = tg.Gates()
    yield quality.champion(answers, gates, rng=np.random.default_rng(0))
    yield part.slices(answers, gates, rng=np.random.default_rng(0))
    yield part.groups(answers, ["origin"], gates, rng=np.random.default_rng(0), threshold=0.5)
    yield calibration(answers, gates, rng=np.random.default_rng(0))


def _beside_baselines(answers: Answers, others: list[Any]) -> Evidence:
    own = answers.candidate_loss()
    losses = [EVENT.loss(answers.outcomes, other) for other in others]
    gains = gain_estimates(own, losses, cluster=answers.cluster, seed=0)
    names = ("constant", "lookup", "linear")
    beside = [
        Baseline(name, float(theirs.mean()), gain)
        for name, theirs, gain in zip(names, losses, gains, strict=True)
    ]
    return quality.baselines(Comparison("log_loss", 0, answers.n_rows, float(own.mean()), tuple(beside)))


def _months(rows: pl.DataFrame, first_month: int, held_out_month: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the rows to fit on and the rows held out."""
    fitted_on = pl.col("month").is_between(first_month, held_out_month - 1)
    return rows.filter(fitted_on), rows.filter(pl.col("month") == held_out_month)


def retrains(lab: Lab, seeds: range) -> bool:
    """Gate healthy retrains, and return whether at most one in 25 was stopped."""
    stopped = 0
    began_s = time.perf_counter()
    for seed in seeds:
        state = lab.gate(lab.healthy(seed))
        stopped += not judge(f"healthy retrain, seed {seed}", Scenario(lambda: 0), state)
    took_s = time.perf_counter() - began_s
    print(f"{stopped} of {len(seeds)} healthy retrains were stopped, in {took_s:.0f} s")
    return stopped <= len(seeds) / 25


if __name__ == "__main__":
    main()
