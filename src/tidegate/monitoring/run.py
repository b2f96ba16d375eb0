"""A period looked at as a whole: the watch day by day, then month by month and field by field."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from tidegate.core.error import InvalidSetting, TidegateError
from tidegate.evaluation.calibration import ReliabilityBin, calibration
from tidegate.evaluation.slice import SliceFinding, find_slices
from tidegate.monitoring.declaration import Kpi
from tidegate.monitoring.domain import Design, TwoSample, two_sample
from tidegate.monitoring.estimate import Estimated, fused
from tidegate.monitoring.part import plain_column
from tidegate.monitoring.pattern import PatternReport, patterns
from tidegate.monitoring.profile import profile_of
from tidegate.monitoring.quality import FEWEST_LABELS, Quality
from tidegate.monitoring.shift import FieldShift
from tidegate.monitoring.signal import Signal, SignalBook
from tidegate.monitoring.subject import LABEL, SURE, History, Subject, day_numbers, number_of
from tidegate.monitoring.value import told, untold
from tidegate.monitoring.watch import DayView, Spending, Watch, matured_by
from tidegate.statistics.interval import grouped

Floats = npt.NDArray[np.float64]
_MOST_ROWS = 50_000
_SHOWN_VALUES = 3
_SHOWN_CHARACTERS = 40


class Stretch(msgspec.Struct, frozen=True, omit_defaults=True):
    """One month of the period: what was estimated without labels beside what came true.

    Attributes:
        name: `2013-10`.
        first, last: Its days.
        n_rows, n_labelled: Records, and those with a label by now.
        estimated: Figures without labels, CBPE or PAPE or DLE.
        constant: The reference's figures: what one would say who did not look at all.
        realised: Figures from the labels.
        fused: Mean loss from estimates of all rows and labels of those that have one, with the ends of its
            interval; None where there is none, as of a single day.
        value: Money per prediction.
        kpis: KPI -> its mean over the predictions of which it is known.
    """

    name: str
    first: date
    last: date
    n_rows: int
    n_labelled: int
    estimated: tuple[Estimated, ...] = ()
    constant: dict[str, float] = {}
    realised: dict[str, float] = {}
    fused: tuple[float, float | None, float | None] | None = None
    value: float | None = None
    kpis: dict[str, float] = {}


class Realised(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the predictions of a period lost themselves, whenever their outcomes are due.

    Attributes:
        loss: Mean loss of those that have an outcome at the period's end.
        reference_loss: That of the reference's rows; None without outcomes.
        n_labelled: How many have an outcome.
        n_early: How many are of days whose outcomes are not due yet: the risk monitor has not looked at them.
        n_waiting: Of them, those that have none yet.
        low, high: Interval of the loss, by days; None of a single day.
    """

    loss: float
    reference_loss: float | None
    n_labelled: int
    n_early: int = 0
    n_waiting: int = 0
    low: float | None = None
    high: float | None = None


class Result(msgspec.Struct, omit_defaults=True):
    """What the monitors make of a period; plain data.

    Attributes:
        service, owner, task, judged, loss: What is watched, and which loss is meant.
        first, last: The period.
        reference_first, reference_last, reference_rows: What it is compared with.
        days: Day by day.
        stretches: Month by month.
        fields: Each field over the whole period, the costliest first.
        signals: All that began in the period.
        spending: Monitor -> budget of false alarms, and what is spent.
        budget: False alarms a month, all monitors together.
        reference_loss, accepted_loss: Mean loss of the reference's days; the risk that is still accepted.
        realised: What the period's own predictions lost; None without outcomes.
        calibration: Predicted beside observed, by bins of the prediction.
        slices: Parts of the data on which the model does worse, confirmed on other rows.
        two_sample: Whether the period can be told from the reference at all.
        patterns: Combinations of inputs that the reference hardly has.
        currency: Of values; empty without costs.
        kpis: The declared figures of the business.
        scale: By which losses are multiplied to be errors in the answer's unit.
        notes: What could not be done, and why.
    """

    service: str
    owner: str
    task: str
    judged: str
    loss: str
    first: date
    last: date
    reference_first: date
    reference_last: date
    reference_rows: int
    days: list[DayView]
    stretches: list[Stretch]
    fields: list[FieldShift]
    signals: list[Signal]
    spending: dict[str, Spending]
    budget: float
    reference_loss: float | None = None
    accepted_loss: float | None = None
    realised: Realised | None = None
    calibration: tuple[ReliabilityBin, ...] = ()
    slices: tuple[SliceFinding, ...] = ()
    two_sample: TwoSample | None = None
    patterns: PatternReport | None = None
    currency: str = ""
    kpis: tuple[Kpi, ...] = ()
    scale: float = 1.0
    notes: list[str] = []

    @property
    def n_rows(self) -> int:
        """Records of the period."""
        return sum(day.n_rows for day in self.days)

    @property
    def coverage(self) -> float | None:
        """Share of the matured records that have a label."""
        matured = sum(day.n_matured for day in self.days)
        return sum(day.n_labelled for day in self.days) / matured if matured else None


_LOSSES = {
    "binary": "Brier score, (outcome - probability)²",
    "regression": "absolute error; what exceeds that of 99% of the reference counts as that",
    "multiclass": "share of wrong answers",
    "none": "",
}


def run(
    history: History,
    subject: Subject,
    *,
    over: tuple[date, date],
    reference: tuple[date, date] | None = None,
    seed: int = 0,
) -> Result:
    """Let the monitors look at a period as if it came day by day.

    Args:
        history: Where records come from.
        subject: What is watched.
        over: First and last day.
        reference: First and last day of what it is compared with; None: as many of the first days of
            the history as the service's monitoring declares, all before the period.
        seed: Of all randomness: the same history gives the same result.

    Raises:
        InvalidSetting: There is no reference before the period, or no record in it.
    """
    seen = look(history, subject, over=over, reference=reference, rng=np.random.default_rng(seed))
    closing = _Closing(seen)
    return closing.result(over, seen.days, seen.signals)


def signals_of(
    history: History,
    subject: Subject,
    *,
    over: tuple[date, date],
    reference: tuple[date, date] | None = None,
    seed: int = 0,
) -> list[Signal]:
    """Return the signals that `run` finds, without what it measures for a report: that may fail by itself.

    Raises:
        InvalidSetting: See `run`.
    """
    rng = np.random.default_rng(seed)
    return look(history, subject, over=over, reference=reference, rng=rng).signals


class Seen(NamedTuple):
    """A period as its monitors went through it, day by day.

    Attributes:
        subject: What was watched, as far as the records have it.
        watch: The monitors, at the end of the period.
        basis, table: Prepared records of the reference and of the period, with the labels known at its end.
        days: What was seen on each day.
        signals: What came of it.
        rng: Source of randomness, as it was left.
    """

    subject: Subject
    watch: Watch
    basis: pl.DataFrame
    table: pl.DataFrame
    days: list[DayView]
    signals: list[Signal]
    rng: np.random.Generator


def look(
    history: History,
    subject: Subject,
    *,
    over: tuple[date, date],
    reference: tuple[date, date] | None = None,
    rng: np.random.Generator,
) -> Seen:
    """Let the monitors look at a period day by day, and measure nothing else; see `run`."""
    span = reference or _first_days(history, subject, before=over[0])
    came = [history.records(*each) for each in (span, over)]
    basis, table = (subject.prepared(each) for each in came)
    if not table.height:
        raise InvalidSetting(
            f"Service {subject.service!r} has no records from {over[0]} to {over[1]}.",
            hint="`tidegate journal count` shows what there is.",
        )
    strange = [value for each in came for value in subject.unreadable(each)]
    subject = subject.within(basis.columns, table.columns)
    watch = Watch(subject, matured_by(basis, over[0]), rng=rng)
    book = SignalBook(subject.service, owner=subject.monitoring.owner)
    days: list[DayView] = []
    day_of = day_numbers(table)
    for on in _days(*over):
        rows = _on(table, day_of, on)
        matured_on = on - timedelta(days=subject.horizon_days)
        cohort = _on(table, day_of, matured_on)
        if matured_on < over[0] and matured_on > span[1]:
            cohort = subject.prepared(history.records(matured_on, matured_on))
        view, findings = watch.step(on, rows, matured_by(cohort, on))
        book.update(on, findings, untested=watch.untested)
        days.append(view)
    n_both = (min(span[1], over[1]) - max(span[0], over[0])).days + 1
    if n_both > 0:
        watch.notes.append(
            f"{n_both} of the period's days {'are' if n_both > 1 else 'is'} in the reference as well: what "
            "they have in common cannot be seen."
        )
    if strange:
        name = subject.judged.split(".", 1)[-1]
        watch.notes.append(
            f"{len(strange):,} outcomes are none that {name!r} could be held against: {_shown(strange)}."
        )
    for kpi in subject.monitoring.kpis:
        untellable = [value for each in came for value in untold(each, kpi.name)]
        if untellable:
            watch.notes.append(
                f"{len(untellable):,} values of {kpi.name!r} are no numbers and do not count: "
                f"{_shown(untellable)}."
            )
    return Seen(subject, watch, basis, matured_by(table, over[1]), days, book.signals, rng)


def _shown(values: Sequence[Any]) -> str:
    """Return the most frequent of some values, cut short."""
    texts = [repr(value if not isinstance(value, str) else value[:_SHOWN_CHARACTERS]) for value in values]
    common = [text for text, _ in Counter(texts).most_common(_SHOWN_VALUES)]
    return ", ".join(common) + (" and others" if len(set(texts)) > len(common) else "")


def _first_days(history: History, subject: Subject, *, before: date) -> tuple[date, date]:
    days = [day for day in history.days() if day < before][: subject.monitoring.reference_days]
    if len(days) < 2:
        raise InvalidSetting(
            f"There are no two days with records of {subject.service!r} before {before}.",
            hint="Name a reference: --reference FIRST..LAST, or begin the period later.",
        )
    return days[0], days[-1]


def _days(first: date, last: date) -> list[date]:
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def _on(table: pl.DataFrame, days: npt.NDArray[np.int64], on: date) -> pl.DataFrame:
    number = number_of(on)
    low, high = np.searchsorted(days, number, "left"), np.searchsorted(days, number, "right")
    return table.slice(int(low), int(high - low))


class _Closing:
    """What is measured once, at the end of the period."""

    def __init__(self, seen: Seen) -> None:
        subject, watch, basis, table = seen.subject, seen.watch, seen.basis, seen.table
        self._subject = subject
        self._watch = watch
        self._basis = basis
        self._table = table
        self._rng = seen.rng
        self._losses = subject.losses(table, scale=watch.scale)
        self._reference_losses = subject.losses(basis, scale=watch.scale)
        self.notes = list(watch.notes)

    def result(self, over: tuple[date, date], days: list[DayView], signals: list[Signal]) -> Result:
        subject, watch = self._subject, self._watch
        epoch = date(1970, 1, 1)
        return Result(
            scale=watch.scale,
            service=subject.service,
            owner=subject.monitoring.owner,
            task=subject.task,
            judged=subject.judged.split(".", 1)[-1],
            loss=_LOSSES[subject.task],
            first=over[0],
            last=over[1],
            reference_first=epoch + timedelta(days=watch.first_day),
            reference_last=epoch + timedelta(days=watch.last_day),
            reference_rows=watch.n_rows,
            days=days,
            stretches=self._stretches(over),
            fields=self._fields(),
            signals=signals,
            spending=watch.spending,
            budget=subject.monitoring.false_alarms_per_month,
            reference_loss=watch.reference_loss,
            accepted_loss=watch.alarm.threshold if watch.alarm else None,
            realised=self._realised(over[1]),
            calibration=self._calibration(),
            slices=self._slices(),
            two_sample=self._two_sample(),
            patterns=patterns(
                self._basis,
                self._table,
                subject.inputs,
                losses=pl.Series(self._losses),
            ),
            currency=subject.costs.currency if subject.costs else "",
            kpis=tuple(subject.monitoring.kpis),
            notes=self.notes,
        )

    def _realised(self, last: date) -> Realised | None:
        known = np.isfinite(self._losses)
        if not known.any():
            return None
        days = day_numbers(self._table)
        interval = grouped(self._losses[known], days[known] - days[0])
        before = self._reference_losses[np.isfinite(self._reference_losses)]
        is_early = days > number_of(last) - self._subject.horizon_days
        return Realised(
            loss=float(self._losses[known].mean()),
            reference_loss=float(before.mean()) if len(before) else None,
            n_labelled=int(known.sum()),
            n_early=int(is_early.sum()),
            n_waiting=int((is_early & ~known).sum()),
            low=interval.low if interval else None,
            high=interval.high if interval else None,
        )

    def _fields(self) -> list[FieldShift]:
        found = []
        n_days = max(1, len(np.unique(day_numbers(self._table))))
        for kind in ("input", "output"):
            monitor = self._watch.shifts.get(kind)
            if monitor is None:
                continue
            profile = profile_of(self._table, monitor.grids)
            found += [
                monitor.describe(name, np.array(counts), n_days) for name, counts in profile.counts.items()
            ]
        return sorted(found, key=lambda each: (-abs(each.effect or 0.0), -each.excess))

    def _stretches(self, over: tuple[date, date]) -> list[Stretch]:
        quality = Quality(self._subject, self._basis, self._reference_losses, rng=self._rng)
        self.notes += quality.notes
        found = []
        months = self._table["arrived_at"].dt.strftime("%Y-%m")
        for name in months.unique().sort().to_list():
            mine = (months == name).to_numpy()
            rows = self._table.filter(pl.Series(mine))
            losses = self._losses[mine]
            first, last = rows["arrived_at"].min(), rows["arrived_at"].max()
            labelled = rows.filter(pl.Series(np.isfinite(losses)))
            found.append(
                Stretch(
                    name=name,
                    first=first.date(),  # type: ignore[union-attr]  # a column of times
                    last=last.date(),  # type: ignore[union-attr]
                    n_rows=rows.height,
                    n_labelled=int(np.isfinite(losses).sum()),
                    estimated=quality.estimated(rows),
                    constant=quality.constant,
                    realised=quality.realised(labelled),
                    fused=self._fused(rows, losses),
                    value=self._watch.value_of(labelled),
                    kpis={
                        name: float(known.mean())
                        for name in self._watch.kpis
                        if len(known := told(rows, name))
                    },
                )
            )
        return found

    def _fused(self, rows: pl.DataFrame, losses: Floats) -> tuple[float, float | None, float | None] | None:
        expected = self._watch.expected_loss(rows)
        known = np.isfinite(losses)
        if expected is None or not known.any():
            return None
        days = day_numbers(rows)
        days = days - days.min()
        # of each day the share with labels: which rows of a day get theirs first says nothing about them
        share = np.bincount(days, weights=known) / np.maximum(np.bincount(days), 1)
        theta, interval = fused(expected, losses, np.maximum(share[days], 1e-9), cluster=days)
        return (theta, interval.low, interval.high) if interval else (theta, None, None)

    def _calibration(self) -> tuple[ReliabilityBin, ...]:
        known = np.isfinite(self._losses)
        if known.sum() < FEWEST_LABELS:
            return ()
        labelled = self._table.filter(pl.Series(known))
        if self._subject.task == "binary":
            came, said = labelled[LABEL], labelled[self._subject.judged]
        elif self._subject.task == "multiclass" and SURE in labelled.columns:
            came, said = labelled[self._subject.judged] == labelled[LABEL], labelled[SURE]
        else:
            return ()
        try:
            return calibration(
                came.cast(pl.Float64).to_numpy(), said.cast(pl.Float64).to_numpy(), rng=self._rng
            ).bins
        except TidegateError as error:
            self.notes.append(f"Calibration: {error.message}")
            return ()

    def _slices(self) -> tuple[SliceFinding, ...]:
        known = np.flatnonzero(np.isfinite(self._losses))
        if len(known) < 200:
            return ()
        if len(known) > _MOST_ROWS:
            known = np.sort(self._rng.choice(known, _MOST_ROWS, replace=False))
        rows = self._table[known]
        columns = {name.split(".", 1)[-1]: plain_column(rows[name]) for name in self._subject.inputs}
        try:
            return find_slices(columns, self._losses[known], rng=self._rng)
        except TidegateError as error:
            self.notes.append(f"Slices: {error.message}")
            return ()

    def _two_sample(self) -> TwoSample | None:
        days = [day_numbers(part) for part in (self._basis, self._table)]
        if not self._subject.inputs or min(len(np.unique(each)) for each in days) < 4:
            return None
        design = Design(self._basis, self._subject.inputs)
        return two_sample(
            design, self._basis, self._table, reference_day=days[0], window_day=days[1], rng=self._rng
        )
