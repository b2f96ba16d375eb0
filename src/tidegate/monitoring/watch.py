"""The watch over one service: a reference, then day after day what the monitors make of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from tidegate.core.error import InvalidSetting
from tidegate.monitoring.part import EVERY_DAYS, PartMonitor
from tidegate.monitoring.profile import block_counts, grids_of, profile_of
from tidegate.monitoring.shift import ShiftMonitor, ShiftTest, mean_losses
from tidegate.monitoring.signal import Finding, Severity
from tidegate.monitoring.standing import StandingAlarm
from tidegate.monitoring.subject import (
    AT,
    FAILED,
    KPI,
    KPI_AT,
    LABEL,
    LABELLED_AT,
    SURE,
    Subject,
    day_numbers,
    number_of,
)
from tidegate.monitoring.value import MeanMonitor, brought, kpi_monitor, told, value_monitor
from tidegate.statistics.histogram import Counts
from tidegate.statistics.special import student_quantile

Floats = npt.NDArray[np.float64]
_WEEK = 7
_N_DRAWS = 2000
_MONTH_DAYS = 30.0
_NAMES = {"input": "Inputs", "output": "Predictions", "label": "Outcomes", "service": "Errors"}


class DayView(msgspec.Struct, omit_defaults=True):
    """What the monitors saw on one day.

    Attributes:
        on: The day.
        n_rows: Records that arrived.
        n_failed: Of them, answered with an error.
        mean_output: Mean of the judged output.
        expected_loss: Mean loss that the model's own probabilities expect.
        matured_on: The day whose labels have had their time by now.
        n_matured, n_labelled: Records of that day, and those that have a label.
        realised_loss: Their mean loss.
        base_rate: Mean label.
        risk: The detector's value over its limit; at 1 it alarms.
        p_values: Monitor and window -> p-value of its test.
        value: Money per prediction on that day, where costs are declared.
        kpis: KPI -> its mean on that day, where it is known.
    """

    on: date
    n_rows: int = 0
    n_failed: int = 0
    mean_output: float | None = None
    expected_loss: float | None = None
    matured_on: date | None = None
    n_matured: int = 0
    n_labelled: int = 0
    realised_loss: float | None = None
    base_rate: float | None = None
    risk: float | None = None
    p_values: dict[str, float] = {}
    value: float | None = None
    kpis: dict[str, float] = {}


class Spending(msgspec.Struct):
    """What of the budget of false alarms a monitor has used.

    Attributes:
        allowance: Alarms a month that it may raise without cause.
        level: Of one test, or one over the mean time to a false alarm.
        n_tests: Tests so far.
    """

    allowance: float
    level: float
    n_tests: int = 0

    @property
    def spent(self) -> float:
        """False alarms that its tests so far raise in expectation, at most."""
        return self.level * self.n_tests


class Watch:
    """Compares each day with a reference. Days are handed over in order."""

    def __init__(self, subject: Subject, reference: pl.DataFrame, *, rng: np.random.Generator) -> None:
        """Learn what is normal.

        Args:
            subject: What is watched.
            reference: Records of days on which all was well; the more days, the finer the tests.
            rng: Source of randomness.

        Raises:
            InvalidSetting: The reference has fewer than two days.
        """
        self.subject = subject
        self._rng = rng
        days = day_numbers(reference)
        present, block = np.unique(days, return_inverse=True)
        if len(present) < 2:
            raise InvalidSetting(
                f"The reference of {subject.service!r} has {len(present)} day{'s' * (len(present) != 1)}.",
                hint="Name a longer one: --reference FIRST..LAST. A month sees much.",
            )
        self.n_days = len(present)
        self.first_day, self.last_day = int(present[0]), int(present[-1])
        self.n_rows = reference.height
        self._budget = subject.monitoring.budget
        self.spending: dict[str, Spending] = {}
        self.notes: list[str] = []
        self.untested: set[str] = set()
        """Monitors that did not look on the last day."""
        self.scale = self._loss_scale(reference)
        losses = subject.losses(reference, scale=self.scale)
        self.shifts: dict[str, ShiftMonitor] = {}
        self._recent: dict[str, deque[dict[str, Counts]]] = {}
        self._add_shift("input", subject.inputs, reference, block, losses)
        self._add_shift("output", subject.outputs, reference, block, losses)
        if FAILED in reference.columns:
            self._add_shift("service", (FAILED,), reference, block, None)
        if subject.task != "none" and reference[LABEL].null_count() < reference.height:
            # rows without a label are a bin as well: labels that no longer come are seen
            self._add_shift("label", (LABEL,), reference, block, None)
        self.parts = self._part_monitor(reference, losses, days)
        self._learn_losses(losses, block)
        self.worth = self._value_monitor(reference, losses, block)
        self.kpis = self._kpi_monitors(reference)
        self._estimates: deque[tuple[float, int]] = deque(maxlen=_WEEK)
        self._learn_expectation(reference, block)

    def _part_monitor(
        self, reference: pl.DataFrame, losses: Floats, days: npt.NDArray[np.int64]
    ) -> PartMonitor | None:
        known = np.isfinite(losses)
        if not self.subject.inputs or known.sum() < 100:
            return None
        allowance = self._budget.allowance("slice")
        level = allowance * EVERY_DAYS / _MONTH_DAYS
        self.spending["slice"] = Spending(allowance, level)
        labelled = reference.filter(pl.Series(known))
        return PartMonitor(self.subject, labelled, losses[known], days[known], level=level, rng=self._rng)

    def _loss_scale(self, reference: pl.DataFrame) -> float:
        """Return the error at which a loss is 1: what one row in a hundred of the reference exceeds."""
        if self.subject.task != "regression" or LABEL not in reference.columns:
            return 1.0
        errors = (reference[LABEL].cast(pl.Float64) - reference[self.subject.judged].cast(pl.Float64)).abs()
        known = errors.drop_nulls().to_numpy()
        return float(np.quantile(known, 0.99)) or 1.0 if len(known) else 1.0

    def _add_shift(
        self,
        kind: str,
        fields: Sequence[str],
        table: pl.DataFrame,
        block: npt.NDArray[np.int64],
        losses: Floats | None,
    ) -> None:
        grids = grids_of(table, [name for name in fields if name in table.columns])
        if not grids or not table.height:
            return
        counts = block_counts(table, grids, block, n_blocks=self.n_days)
        known = None if losses is None else np.isfinite(losses)
        by_bin = None
        if losses is not None and known is not None and known.sum() >= 100:
            by_bin = mean_losses(table.filter(pl.Series(known)), grids, losses[known])
        monitor = ShiftMonitor(
            counts,
            grids,
            allowance=self._budget.allowance(kind),
            min_effect=self.subject.monitoring.min_effect,
            rng=self._rng,
            losses=by_bin,
        )
        self.shifts[kind] = monitor
        self._recent[kind] = deque(maxlen=_WEEK)
        self.spending[kind] = Spending(self._budget.allowance(kind), monitor.level)

    def _learn_losses(self, losses: Floats, block: npt.NDArray[np.int64]) -> None:
        """Set the risk that is still accepted: the reference's, as well as it is known, and the tolerance."""
        self.reference_loss: float | None = None
        self.alarm: StandingAlarm | None = None
        known = np.isfinite(losses)
        rows = np.bincount(block[known], minlength=self.n_days)
        means = (
            (np.bincount(block[known], weights=losses[known], minlength=self.n_days)[rows > 0])
            / rows[rows > 0]
        )
        if len(means) < 2:
            if self.subject.task != "none":
                self.notes.append("The reference has no labels on two days: realised loss is not watched.")
            return
        self.reference_loss = float(means.mean())
        declared = self.subject.monitoring.max_loss
        upper = self.reference_loss + student_quantile(0.975, len(means) - 1) * float(
            means.std(ddof=1)
        ) / np.sqrt(len(means))
        threshold = declared or upper * (1 + self.subject.monitoring.tolerance)
        threshold = float(min(max(threshold, 1e-3), 0.99))
        limit = self._limit
        # Rows of a day resemble each other, so that they are no bets of their own: a day is one.
        self.alarm = StandingAlarm(threshold=threshold, limit=limit)
        self.spending["risk"] = Spending(_MONTH_DAYS / limit, 1 / limit)

    @property
    def _limit(self) -> float:
        """Mean days to a false alarm, of each monitor of what came true: loss, value and KPIs share alike."""
        n_sharing = len(self.subject.monitoring.kpis)
        if self.subject.task != "none":
            n_sharing += 2 if self.subject.costs is not None and self.subject.task == "binary" else 1
        return n_sharing * self._budget.limit("risk", labels_per_month=_MONTH_DAYS)

    def _value_monitor(
        self, reference: pl.DataFrame, losses: Floats, block: npt.NDArray[np.int64]
    ) -> MeanMonitor | None:
        known = np.isfinite(losses)
        found = brought(self.subject, reference.filter(pl.Series(known))) if known.any() else None
        if found is None or self.subject.costs is None:
            return None
        rows = np.bincount(block[known], minlength=self.n_days)
        means = np.bincount(block[known], weights=found, minlength=self.n_days)[rows > 0] / rows[rows > 0]
        if len(means) < 2:
            return None
        limit = self._limit
        self.spending["value"] = Spending(_MONTH_DAYS / limit, 1 / limit)
        tolerance = self.subject.monitoring.tolerance
        return value_monitor(self.subject.costs, means, tolerance=tolerance, limit=limit)

    def _kpi_monitors(self, reference: pl.DataFrame) -> dict[str, MeanMonitor]:
        monitoring, found = self.subject.monitoring, {}
        if not monitoring.kpis:
            return {}
        limit = self._limit
        days = [day for _, day in reference.group_by(pl.col(AT).cast(pl.Date), maintain_order=True)]
        for kpi in monitoring.kpis:
            values = [told(day, kpi.name) for day in days]
            means = np.array([each.mean() for each in values if len(each)])
            if len(means) < 2:
                self.notes.append(f"The reference has no {kpi.name!r} on two days: this KPI is not watched.")
                continue
            found[kpi.name] = kpi_monitor(kpi, means, tolerance=monitoring.tolerance, limit=limit)
            self.spending[f"kpi.{kpi.name}"] = Spending(_MONTH_DAYS / limit, 1 / limit)
        return found

    def _learn_expectation(self, reference: pl.DataFrame, block: npt.NDArray[np.int64]) -> None:
        """Draw weeks of the reference: how far does the loss that the model itself expects vary?"""
        self._expected_null: Floats | None = None
        self._expected_mean = 0.0
        expected = self.expected_loss(reference)
        if expected is None or self.n_days < 2 * _WEEK:
            return
        rows = np.bincount(block, minlength=self.n_days).astype(np.float64)
        sums = np.bincount(block, weights=expected, minlength=self.n_days)
        drawn = np.zeros(_N_DRAWS)
        for place in range(_N_DRAWS):
            chosen = np.zeros(self.n_days, np.bool_)
            chosen[self._rng.choice(self.n_days, _WEEK, replace=False)] = True
            drawn[place] = sums[chosen].sum() / rows[chosen].sum() - sums[~chosen].sum() / rows[~chosen].sum()
        self._expected_null = np.sort(drawn)
        self._expected_mean = float(sums.sum() / rows.sum())
        allowance = self._budget.allowance("estimate")
        self.spending["estimate"] = Spending(allowance, allowance / _MONTH_DAYS)

    def expected_loss(self, table: pl.DataFrame) -> Floats | None:
        """Return the loss that the model itself expects of each row; None where it says nothing of it.

        Of an event p (1 - p), of classes the probability that the likeliest is wrong.
        """
        if self.subject.task == "multiclass" and SURE in table.columns and table.height:
            sure = table[SURE].cast(pl.Float64).fill_nan(None).fill_null(0.5).to_numpy()
            return np.asarray(np.clip(1 - sure, 0.0, 1.0))
        if self.subject.task != "binary" or not table.height:
            return None
        given = table[self.subject.judged].cast(pl.Float64).fill_nan(None).fill_null(0.5).to_numpy()
        return np.asarray(given * (1 - given))

    def step(self, on: date, rows: pl.DataFrame, matured: pl.DataFrame) -> tuple[DayView, list[Finding]]:
        """Take in one day.

        Args:
            on: The day.
            rows: Its records.
            matured: Records of the day whose labels have had their time by the end of `on`, with the
                labels that were known by then.
        """
        view = DayView(on, rows.height)
        self.untested = {"slice"}
        findings: list[Finding] = []
        if FAILED in rows.columns:
            view.n_failed = int(rows[FAILED].sum() or 0)
        good = rows if FAILED not in rows.columns else rows.filter(~pl.col(FAILED).fill_null(False))
        if not rows.height:
            findings.append(self._silence(on))
        if "service" in self.shifts and rows.height:
            findings += self._shift("service", rows, view)
        for kind in ("input", "output"):
            if kind in self.shifts and good.height:
                findings += self._shift(kind, good, view)
        if good.height and self.subject.judged and good[self.subject.judged].dtype.is_numeric():
            mean = good[self.subject.judged].cast(pl.Float64).mean()
            view.mean_output = float(mean) if isinstance(mean, float) else None
        findings += self._estimate(good, view)
        if self.subject.task != "none" or self.kpis:
            view.matured_on = on - timedelta(days=self.subject.horizon_days)
            view.n_matured = matured.height
        findings += self._realised(matured, view)
        findings += self._business(matured, view)
        if not view.n_labelled:
            self.untested |= {"risk", "value"}
        if len(view.kpis) < len(self.kpis):
            self.untested.add("kpi")
        return view, findings

    def _shift(self, kind: str, table: pl.DataFrame, view: DayView) -> list[Finding]:
        monitor = self.shifts[kind]
        profile = profile_of(table, monitor.grids)
        self._recent[kind].append({name: np.array(found) for name, found in profile.counts.items()})
        findings = []
        for length in monitor.nulls:
            recent = list(self._recent[kind])[-length:]
            if len(recent) < length:
                continue
            counts = {name: np.sum([day[name] for day in recent], axis=0) for name in recent[0]}
            test = monitor.test(counts, length)
            self.spending[kind].n_tests += 1
            view.p_values[f"{kind}.{length}d"] = test.p_value
            if test.culprits:
                findings.append(self._moved(kind, test))
        return findings[-1:]  # the longer window has the better figures, and it is one cause

    def _moved(self, kind: str, test: ShiftTest) -> Finding:
        first = test.culprits[0]
        names = [each.field.split(".", 1)[-1] for each in test.culprits]
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        effect = first.effect
        return Finding(
            kind=kind,
            subjects=tuple(names),
            title=f"{_NAMES[kind]} moved: {names[0]}{more} ({_in_words(first)})",
            severity=Severity.WARNING if first.kind != "drift" else Severity.NOTICE,
            evidence={
                "window_days": test.n_blocks,
                "p_value": test.p_value,
                "level": test.level,
                "fields": [msgspec.to_builtins(each) for each in test.culprits[:5]],
            },
            remedy=_remedy(kind, first.kind),
            cost=""
            if effect is None or not self.reference_loss
            else f"mean error about {abs(effect) / self.reference_loss:.1%} "
            f"{'higher' if effect > 0 else 'lower'}, by this field alone",
        )

    def _silence(self, on: date) -> Finding:
        return Finding(
            kind="service",
            subjects=("traffic",),
            title=f"No records on {on.isoformat()}",
            severity=Severity.CRITICAL,
            evidence={"n_rows": 0, "reference_rows_a_day": self.n_rows / self.n_days},
            remedy="Check whether callers reach the service and whether the controller follows the journal.",
        )

    def _estimate(self, table: pl.DataFrame, view: DayView) -> list[Finding]:
        expected = self.expected_loss(table)
        if expected is None:
            return []
        view.expected_loss = float(expected.mean())
        self._estimates.append((float(expected.sum()), len(expected)))
        if self._expected_null is None or len(self._estimates) < _WEEK:
            return []
        mean = sum(s for s, _ in self._estimates) / sum(n for _, n in self._estimates)
        above = len(self._expected_null) - int(
            np.searchsorted(self._expected_null, mean - self._expected_mean, side="left")
        )
        p_value = (1 + above) / (1 + len(self._expected_null))
        view.p_values["estimate.7d"] = p_value
        spending = self.spending["estimate"]
        spending.n_tests += 1
        floor = self._expected_mean * (1 + self.subject.monitoring.tolerance)
        if p_value > spending.level or mean < floor:
            return []
        return [
            Finding(
                kind="estimate",
                subjects=("expected loss",),
                title=f"The model expects a mean error of {mean:.4f} instead of {self._expected_mean:.4f}",
                severity=Severity.NOTICE,
                evidence={
                    "expected": mean,
                    "reference": self._expected_mean,
                    "p_value": p_value,
                    "level": spending.level,
                    "blind": "The model's own opinion: it cannot see that its probabilities are wrong.",
                },
                remedy="Look at the inputs that moved. If labels come late, ask for some now.",
                cost=f"mean error about {mean / self._expected_mean - 1:.0%} higher, if it is right",
            )
        ]

    def _business(self, matured: pl.DataFrame, view: DayView) -> list[Finding]:
        findings = []
        for name, monitor in self.kpis.items():
            values = told(matured, name)
            if len(values):
                view.kpis[name] = float(values.mean())
                self.spending[f"kpi.{name}"].n_tests += 1
                findings += monitor.take(view.kpis[name], len(values))
        return findings

    def _realised(self, matured: pl.DataFrame, view: DayView) -> list[Finding]:
        if self.subject.task == "none" or view.matured_on is None:
            return []
        losses = self.subject.losses(matured, scale=self.scale)
        known = np.isfinite(losses)
        view.n_labelled = int(known.sum())
        findings = self._shift("label", matured, view) if "label" in self.shifts and matured.height else []
        if not view.n_labelled:
            return findings
        labelled = matured.filter(pl.Series(known))
        view.realised_loss = float(losses[known].mean())
        if self.subject.task != "multiclass":
            view.base_rate = float(labelled[LABEL].cast(pl.Float64).to_numpy().mean())
        view.value = self.value_of(labelled)
        if self.worth is not None and view.value is not None:
            self.spending["value"].n_tests += 1
            findings += self.worth.take(view.value, view.n_labelled)
        if self.parts is not None:
            self.parts.take(number_of(view.matured_on), labelled, losses[known])
            if self.parts.is_due:
                self.untested.clear()
                self.spending["slice"].n_tests += 1
                findings += self.parts.search()
        return findings + self._risk(view)

    def value_of(self, labelled: pl.DataFrame) -> float | None:
        """Return the money that a prediction brought, on average over rows with labels."""
        found = brought(self.subject, labelled) if labelled.height else None
        return None if found is None else float(found.mean())

    def _risk(self, view: DayView) -> list[Finding]:
        alarm = self.alarm
        if alarm is None or view.realised_loss is None or self.reference_loss is None:
            return []
        self.spending["risk"].n_tests += 1
        since = alarm.take(min(1.0, view.realised_loss))
        view.risk = alarm.level
        if since is None:
            return []
        return [
            Finding(
                kind="risk",
                subjects=("realised loss",),
                title=f"Mean error is above {alarm.threshold * self.scale:.4g}, for about {since} days "
                "by now",
                severity=Severity.CRITICAL,
                evidence={
                    "rule": "e-SR detector over days",
                    "threshold": alarm.threshold,
                    "limit": alarm.limit,
                    "reference_loss": self.reference_loss,
                    "last_day_loss": view.realised_loss,
                    "days_since_estimated_change": since,
                    "coverage": view.n_labelled / max(1, view.n_matured),
                },
                remedy="Roll back if a version was released since; else retrain on rows from the change on.",
                cost=f"mean error {view.realised_loss / self.reference_loss - 1:+.0%} on the last such day",
            )
        ]


def _remedy(monitor: str, kind: str) -> str:
    if monitor == "label" and kind == "missing":
        return "Outcomes come less often, or more: find out who sends them. Until then quality is not known."
    return _REMEDIES.get(kind if monitor == "input" else monitor, _REMEDIES["drift"])


def _in_words(shift: Any) -> str:
    what, before, now = shift.moved
    share = "share" if what.startswith(("below ", "above ", "missing", "any other")) else "share of"
    return f"{share} {what}: {before:.1%} to {now:.1%}"


_REMEDIES: Mapping[str, str] = {
    "missing": "Find out where the values got lost; until then the fallback may be the better answer.",
    "unseen": "A category that the model never saw: check its spelling, else retrain once it has labels.",
    "range": "Values beyond all that the model saw: check the unit and the source.",
    "drift": "Compare estimated quality. If it holds, take a new reference; if not, retrain on recent rows.",
    "output": "Look at the inputs that moved; without any, at the version and its artifacts.",
    "service": "Look at the errors: `tidegate journal show --errors`; roll back if a version moved since.",
    "label": "What happens has changed. Check thresholds and costs; recalibrate or retrain.",
}


def matured_by(table: pl.DataFrame, on: date) -> pl.DataFrame:
    """Return records with only the labels, and values of KPIs, that were known by the end of a day."""
    pairs = [(LABEL, LABELLED_AT)]
    pairs += [(name, KPI_AT + name.removeprefix(KPI)) for name in table.columns if name.startswith(KPI)]
    known = []
    for column, at in pairs:
        if at in table.columns:
            end = pl.lit(on + timedelta(days=1)).cast(table.schema[at])
            in_time = pl.col(at).is_null() | (pl.col(at) < end)
            known.append(pl.when(in_time).then(pl.col(column)).otherwise(None).alias(column))
    return table.with_columns(known) if known else table
