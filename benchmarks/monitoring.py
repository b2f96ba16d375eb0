"""Monitors on real streams: what is found when, what is found for nothing, and how fast it is looked for.

The data are public sets outside the repository: name their folder with `BENCHMARK_DATA`. What is not
there, or not installed (river, evidently), is left out and said so.
"""

from __future__ import annotations

import importlib.util
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from benchmarks.measure import Goal, Options, Report, Table
from tidegate.monitoring.domain import Design, density_ratio
from tidegate.monitoring.estimate import CalibratedEstimator, by_name, realised_figures
from tidegate.monitoring.profile import block_counts, count_of, grids_of
from tidegate.monitoring.run import look
from tidegate.monitoring.shift import ShiftMonitor
from tidegate.monitoring.subject import Subject, TableHistory
from tidegate.statistics import drift
from tidegate.statistics.detector import RiskDetector, first_alarms
from tidegate.statistics.histogram import Counts
from tidegate.training.linear import fit_logistic, probability

Floats = npt.NDArray[np.float64]
DATA = Path(os.environ.get("BENCHMARK_DATA", "data"))
N_MONTHS, N_MONTHS_SHORT = 1_000, 50
MONTH = 30
BUDGET = 1.0
N_BIG, N_BIG_SHORT, N_FIELDS = 10_000_000, 500_000, 20
_STEP = 48  # rows of Elec2 a day


def _elec2() -> pl.DataFrame:
    """Half hours of the New South Wales electricity market, 1996 to 1998 (Harries 1999)."""
    table = pl.read_parquet(DATA / "elec2.parquet")
    return table.with_columns(up=(table["class"].cast(pl.String) == "UP").cast(pl.Float64))


ELEC_FIELDS = ("nswprice", "nswdemand", "vicprice", "vicdemand", "transfer")
ELEC_CHANGE = 17_424 // _STEP
"""Documented: Victoria's price and demand and the transfer are constant before row 17,424, live after."""


def _ours(counts: Mapping[str, Counts], n_reference: int, *, per_month: float, seed: int = 0) -> list[int]:
    reference = {name: found[:n_reference] for name, found in counts.items()}
    grids = {name: _Bins(found.shape[1]) for name, found in counts.items()}
    monitor = ShiftMonitor(
        reference,
        grids,  # type: ignore[arg-type]  # only the names of bins would be asked of it
        allowance=BUDGET,
        min_effect=0.02,
        rng=np.random.default_rng(seed),
        windows_per_month=per_month,
    )
    alarms = []
    n_blocks = len(next(iter(counts.values())))
    for block in range(n_reference, n_blocks):
        for length in monitor.nulls:
            if block - n_reference + 1 < length:
                continue
            window = {
                name: found[block - length + 1 : block + 1].sum(axis=0) for name, found in counts.items()
            }
            if monitor.test(window, length).culprits:
                alarms.append(block)
                break
    return alarms


class _Bins:
    """Stands for a grid of which only the number of bins is known."""

    def __init__(self, n_bins: int) -> None:
        self.n_bins = n_bins
        self.names = tuple(str(place) for place in range(n_bins))


def _psi_rule(counts: Mapping[str, Counts], n_reference: int, *, limit: float = 0.1) -> list[int]:
    found = np.zeros(len(next(iter(counts.values()))), np.bool_)
    for each in counts.values():
        found |= drift.psi(each[:n_reference].sum(axis=0), np.maximum(each, 0)) > limit
    return [block for block in np.flatnonzero(found).tolist() if block >= n_reference]


def _ks_rule(counts: Mapping[str, Counts], n_reference: int, *, level: float = 0.05) -> list[int]:
    alarms = set()
    for each in counts.values():
        before = each[:n_reference].sum(axis=0)
        for block in range(n_reference, len(each)):
            if not each[block][:-1].sum() or not before[:-1].sum():
                continue
            distance = float(drift.ks(before[:-1], each[block][:-1]))
            if drift.ks_tail(distance, float(before.sum()), float(each[block].sum())) < level:
                alarms.add(block)
    return sorted(alarms)


def _three_sigma(means: Floats, n_reference: int) -> list[int]:
    centre, spread = means[:n_reference].mean(axis=0), means[:n_reference].std(axis=0, ddof=1)
    far = (np.abs(means - centre) > 3 * np.maximum(spread, 1e-12)).any(axis=1)
    return [block for block in np.flatnonzero(far).tolist() if block >= n_reference]


def _river(values: Floats, kind: str, n_reference: int, size: int) -> list[int] | None:
    """Return the blocks in which one of river's detectors fires on any of the columns; None without river."""
    if importlib.util.find_spec("river") is None:
        return None
    from river import drift as detectors  # type: ignore[import-not-found,unused-ignore]  # not a dependency

    alarms = set()
    for column in values.T:
        detector = detectors.ADWIN() if kind == "ADWIN" else detectors.PageHinkley()
        scale = column[: n_reference * size].std() or 1.0
        centred = (column - column[: n_reference * size].mean()) / scale
        for row, value in enumerate(centred.tolist()):
            detector.update(value)
            if detector.drift_detected and row >= n_reference * size:
                alarms.add(row // size)
    return sorted(alarms)


def _describe(alarms: list[int] | None, change: int, n_reference: int, unit: str) -> list[str]:
    if alarms is None:
        return ["not installed", "", ""]
    before = [block for block in alarms if block < change]
    after = [block for block in alarms if block >= change]
    delay = f"{after[0] - change} {unit}" if after else "never"
    months = (change - n_reference) / MONTH
    return [delay, str(len(before)), f"{len(before) / months:.2f}"]


def _detections() -> Iterator[Report]:
    table = _elec2()
    n_reference = 180
    report = Report("monitoring: detection")
    for title, fields in (
        ("fields with a documented change", ("vicprice", "vicdemand", "transfer")),
        ("all fields: price and demand have seasons", ELEC_FIELDS),
    ):
        grids = grids_of(table.head(n_reference * _STEP), fields)
        block = np.arange(table.height) // _STEP
        n_blocks = int(block[-1]) + 1
        counts = block_counts(table.select(fields), grids, block, n_blocks=n_blocks)
        values = table.select(fields).to_numpy()
        means = values.reshape(n_blocks, _STEP, len(fields)).mean(axis=1)
        rules = {
            "tidegate, budget 1 a month": _ours(counts, n_reference, per_month=MONTH),
            "PSI > 0.1 a day": _psi_rule(counts, n_reference),
            "KS p < 0.05 a day": _ks_rule(counts, n_reference),
            "3 SD of daily means": _three_sigma(means, n_reference),
            "ADWIN (river)": _river(values, "ADWIN", n_reference, _STEP),
            "Page-Hinkley (river)": _river(values, "PageHinkley", n_reference, _STEP),
        }
        rows = [
            [name, *_describe(alarms, ELEC_CHANGE, n_reference, "days")] for name, alarms in rules.items()
        ]
        report.tables.append(
            Table(
                f"Elec2, {title}; reference 180 days", ["", "delay", "days alarmed before", "a month"], rows
            )
        )
    report.tables.append(_elec_risk(table))
    report.tables.append(_noaa())
    yield report


def _elec_risk(table: pl.DataFrame) -> Table:
    """A model learned on the first 180 days: when does its realised loss rise, and who says so when."""
    n = 180 * _STEP
    features = np.column_stack(
        [np.ones(table.height), table.select("nswdemand", "vicprice", "vicdemand", "transfer").to_numpy()]
    )
    hour = (np.arange(table.height) % _STEP)[:, None] == np.arange(_STEP)
    features = np.concatenate([features, hour], axis=1)
    label = table["up"].to_numpy()
    beta = fit_logistic(features[:n], label[:n])
    loss = (label - probability(features @ beta)) ** 2
    daily = loss.reshape(-1, _STEP).mean(axis=1)
    before = float(daily[:180].mean())
    rows = []
    detector = RiskDetector(threshold=before * 1.1, limit=30.0 / 0.2)
    alarm = detector.update(daily[180:].tolist())
    rows.append(["e-SR over days, 0.2 a month", str(180 + alarm) if alarm is not None else "never"])
    chunks = _three_sigma(daily[:, None], 180)
    rows.append(["3 SD of daily losses", ", ".join(map(str, chunks[:4])) or "never"])
    for kind in ("ADWIN", "PageHinkley"):
        found = _river(loss[:, None], kind, 180, _STEP)
        rows.append([f"{kind} (river)", "not installed" if found is None else ", ".join(map(str, found[:4]))])
    yearly = ", ".join(f"{daily[start : start + 90].mean():.3f}" for start in range(180, len(daily), 90))
    title = (
        f"Elec2, loss of a model of 180 days ({before:.3f} there; then by 90 days {yearly}); change at day "
        f"{ELEC_CHANGE}"
    )
    return Table(title, ["", "first alarms, day"], rows)


def _noaa() -> Table:
    """Fifty years of daily weather: a slow rise of rain in the last third, and a season every year."""
    table = pl.read_parquet(DATA / "noaa_weather.parquet")
    fields = tuple(name for name in table.columns if name.startswith("feat"))
    year, n_reference = 365, 15
    n_years = table.height // year
    table = table.head(n_years * year)
    block = np.arange(table.height) // year
    grids = grids_of(table.head(n_reference * year), fields)
    counts = block_counts(table.select(fields), grids, block, n_blocks=n_years)
    values = table.select(fields).to_numpy()
    means = values.reshape(n_years, year, len(fields)).mean(axis=1)
    rain = table["target"].cast(pl.Float64).to_numpy()
    features = np.column_stack([np.ones(len(values)), (values - values.mean(0)) / values.std(0)])
    beta = fit_logistic(features[: n_reference * year], rain[: n_reference * year])
    loss = (rain - probability(features @ beta)) ** 2
    monthly = loss[: len(loss) // 30 * 30].reshape(-1, 30).mean(axis=1)
    first = n_reference * year // 30
    before = float(monthly[:first].mean())
    alarm = RiskDetector(threshold=before * 1.1, limit=150.0).update(monthly[first:].tolist())
    change = n_years * 7 // 10
    rows = []
    for name, alarms in {
        "tidegate, inputs, years as blocks, 1 in 30 years": _ours(counts, n_reference, per_month=MONTH),
        "PSI > 0.1 a year": _psi_rule(counts, n_reference),
        "KS p < 0.05 a year": _ks_rule(counts, n_reference),
        "3 SD of yearly means": _three_sigma(means, n_reference),
        "ADWIN (river)": _river(values, "ADWIN", n_reference, year),
        "Page-Hinkley (river)": _river(values, "PageHinkley", n_reference, year),
    }.items():
        if alarms is None:
            rows.append([name, "not installed", ""])
        else:
            rows.append([name, ", ".join(map(str, alarms[:4])) or "never", f"{len(alarms)}"])
    rows.append(
        [
            f"e-SR, realised loss by 30 days ({before:.4f} in the reference)",
            "never" if alarm is None else str((first + alarm) * 30 // year),
            "",
        ]
    )
    title = f"NOAA, {n_years} years, 15 of them the reference; rain rises from about year {change}"
    return Table(title, ["", "first years alarmed", f"of {n_years - n_reference}"], rows)


def _no_drift(options: Options) -> Iterator[Report]:
    """Months of days drawn again from Elec2: nothing changes, and the rows of a day stay together."""
    table = _elec2()[ELEC_CHANGE * _STEP :]
    n_days = table.height // _STEP
    table = table.head(n_days * _STEP)
    block = np.arange(table.height) // _STEP
    grids = grids_of(table, ELEC_FIELDS)
    counts = block_counts(table.select(ELEC_FIELDS), grids, block, n_blocks=n_days)
    means = table.select(ELEC_FIELDS).to_numpy().reshape(n_days, _STEP, -1).mean(axis=1)
    losses = _no_drift_losses(table, n_days)
    n_months = N_MONTHS_SHORT if options.short else N_MONTHS
    rng = np.random.default_rng(7)
    totals: dict[str, list[int]] = {}
    months_each = 9  # as many as the days beside the reference are: none comes twice
    for _ in range(-(-n_months // months_each)):
        order = rng.permutation(n_days)
        reference, rest = order[: n_days // 2], order[n_days // 2 :]
        drawn = np.r_[reference, rest[: months_each * MONTH]]
        n_reference = len(reference)
        mine = {name: found[drawn] for name, found in counts.items()}
        found = {
            "tidegate, inputs (allowed: 1)": _ours(mine, n_reference, per_month=MONTH),
            "PSI > 0.1 a day": _psi_rule(mine, n_reference),
            "KS p < 0.05 a day": _ks_rule(mine, n_reference),
            "3 SD of daily means": _three_sigma(means[drawn], n_reference),
        }
        risk = losses[drawn]
        threshold = float(risk[:n_reference].mean()) * 1.1
        detector, alarms = RiskDetector(threshold=threshold, limit=MONTH / 0.2), []
        for day, loss in enumerate(risk[n_reference:].tolist()):
            if detector.update([loss]) is not None:
                alarms.append(day)
                detector.restart()
        found["tidegate, realised risk (allowed: 0.2)"] = alarms
        found["3 SD of daily losses"] = _three_sigma(risk[:, None], n_reference)
        for name, each in found.items():
            totals.setdefault(name, []).append(len(each))
    report = Report("monitoring: false alarms", raw={"alarms": totals})
    rows = []
    for name, each in totals.items():
        per_month = np.array(each) / months_each
        rows.append([name, f"{per_month.mean():.2f}", f"{per_month.std() / np.sqrt(len(each)):.2f}"])
    title = f"No drift: {n_months:,} service-months of days of Elec2 drawn again, 5 fields"
    report.tables.append(Table(title, ["", "alarms a month", "standard error"], rows))
    for name, allowed in (
        ("tidegate, inputs (allowed: 1)", 1.0),
        ("tidegate, realised risk (allowed: 0.2)", 0.2),
    ):
        rate = float(np.mean(totals[name])) / months_each
        report.goals.append(Goal(f"monitoring: {name}", rate, allowed, False, "alarms a month"))
    yield report


def _whole(options: Options) -> Iterator[Report]:
    """All monitors of a service together on days that are exchanged: signals a month, beside the budget."""
    table = _elec2()[ELEC_CHANGE * _STEP :]
    n_days = table.height // _STEP
    table = table.head(n_days * _STEP)
    scores = _no_drift_scores(table)
    rows = table.select(
        *(pl.col(name).alias(f"input.{name}") for name in ELEC_FIELDS),
        pl.lit(pl.Series("output.p", scores)).alias("output.p"),
        label=pl.col("up"),
    )
    subject = Subject(
        service="elec2",
        inputs=tuple(f"input.{name}" for name in ELEC_FIELDS),
        outputs=("output.p",),
        judged="output.p",
        task="binary",
    )
    n_reference, first = n_days // 2, date(2020, 1, 1)
    times = pl.datetime_range(
        datetime(2020, 1, 1, tzinfo=UTC),
        interval="30m",
        end=first + timedelta(days=n_days),
        closed="left",
        eager=True,
    ).cast(pl.Datetime("us", "UTC"))
    rng = np.random.default_rng(5)
    months_each = (n_days - n_reference) / MONTH
    n_runs = int(np.ceil((20 if options.short else N_MONTHS) / months_each))
    counts: dict[str, int] = {}
    for seed in range(n_runs):
        order = rng.permutation(n_days)
        drawn = (order[:, None] * _STEP + np.arange(_STEP)).ravel()
        shuffled = rows[drawn].with_columns(arrived_at=times, labelled_at=times)
        split = first + timedelta(days=n_reference)
        result = look(
            TableHistory(shuffled),
            subject,
            over=(split, first + timedelta(days=n_days - 1)),
            reference=(first, split - timedelta(days=1)),
            rng=np.random.default_rng(seed),
        )
        for signal in result.signals:
            counts[signal.kind] = counts.get(signal.kind, 0) + 1
    n_months = n_runs * months_each
    shown = [[kind, f"{count / n_months:.3f}"] for kind, count in sorted(counts.items())]
    rate = sum(counts.values()) / n_months
    report = Report("monitoring: the whole budget", raw={"signals": counts, "months": n_months})
    title = f"No drift, all monitors of a service: false signals a month over {n_months:,.0f} service-months"
    report.tables.append(Table(title, ["monitor", "a month"], [*shown, ["together", f"{rate:.3f}"]]))
    report.goals.append(Goal("monitoring: false signals, all monitors", rate, BUDGET, False, "a month"))
    yield report


def _no_drift_losses(table: pl.DataFrame, n_days: int) -> Floats:
    loss = (table["up"].to_numpy() - _no_drift_scores(table)) ** 2
    return np.asarray(loss.reshape(n_days, _STEP).mean(axis=1))


def _no_drift_scores(table: pl.DataFrame) -> Floats:
    label = table["up"].to_numpy()
    hour = (np.arange(table.height) % _STEP)[:, None] == np.arange(_STEP)
    features = np.concatenate(
        [np.ones((table.height, 1)), table.select(ELEC_FIELDS[1:]).to_numpy(), hour], axis=1
    )
    return probability(features @ fit_logistic(features[::3], label[::3]))


def _detector_table() -> Iterator[Report]:
    """Reproduce the detector's published figures: risk 10% to 16% at label 2,000."""
    rng = np.random.default_rng(11)
    streams = np.concatenate([rng.random((4000, 2000)) < 0.10, rng.random((4000, 2000)) < 0.16], axis=1)
    report = Report("monitoring: the risk detector")
    rows = []
    for limit, delay in ((1e4, 477.0), (1e3, 165.0)):
        alarms = first_alarms(streams, threshold=0.12, limit=limit)
        after = alarms >= 2000
        measured = float(np.median(alarms[after] - 2000))
        early = float(((alarms >= 0) & ~after).mean())
        rows.append(
            [f"A = {limit:.0e}", f"{early:.1%}", f"{after.mean():.1%}", f"{measured:.0f}", f"{delay:.0f}"]
        )
    columns = ["", "alarm before the change", "detected", "median delay, labels", "expected"]
    report.tables.append(Table("e-SR mixture, 4,000 streams", columns, rows))
    yield report


def _estimates() -> Iterator[Report]:
    """Quality without labels on two real sets, by month, beside the constant reference."""
    report = Report("monitoring: quality without labels")
    for name, load in (("flights", _flights), ("hotel bookings", _hotel)):
        made = load()
        if made is None:
            report.tables.append(Table(f"{name}: not there", [""], []))
            continue
        table, fields, train_until, reference_until = made
        report.tables.append(_estimate_table(name, table, fields, train_until, reference_until))
    yield report


def _estimate_table(
    name: str, table: pl.DataFrame, fields: list[str], train_until: date, reference_until: date
) -> Table:
    day = pl.col("on")
    train = table.filter(day < train_until)
    reference = table.filter((day >= train_until) & (day < reference_until))
    design = Design(train, fields)
    beta = fit_logistic(design.matrix(_some(train)), _some(train)["label"].to_numpy())

    def score(rows: pl.DataFrame) -> Floats:
        return probability(np.concatenate([design.matrix(part) @ beta for part in rows.iter_slices(20_000)]))

    labels = reference["label"].to_numpy()
    scores = score(reference)
    days = (reference["on"] - reference["on"].min()).dt.total_days().to_numpy()
    estimator = CalibratedEstimator(scores, labels, chunk=days // 30, rng=np.random.default_rng(0))
    constant = realised_figures(scores, labels, threshold=0.5)
    weigh = Design(reference, fields)
    rng = np.random.default_rng(1)
    errors: dict[tuple[str, str], list[float]] = {}
    covered: dict[tuple[str, str], list[bool]] = {}
    n_months = 0
    for _, rows in table.filter(day >= reference_until).group_by(day.dt.truncate("1mo"), maintain_order=True):
        given = score(rows)
        realised = realised_figures(given, rows["label"].to_numpy(), threshold=0.5)
        bins = estimator.table(given)
        weights = density_ratio(weigh, reference, rows, rng=rng)
        n_months += 1
        for method, found in (("CBPE", estimator.cbpe(bins)), ("PAPE", estimator.pape(bins, weights))):
            for metric, each in by_name(found).items():
                if metric not in realised:
                    continue
                errors.setdefault((metric, method), []).append(abs(each.value - realised[metric]))
                covered.setdefault((metric, method), []).append(each.low <= realised[metric] <= each.high)
                if method == "CBPE":
                    errors.setdefault((metric, "constant"), []).append(
                        abs(constant[metric] - realised[metric])
                    )
    rows_shown = [
        [
            metric,
            *(f"{np.mean(errors[metric, method]):.4f}" for method in ("constant", "CBPE", "PAPE")),
            *(f"{np.mean(covered[metric, method]):.0%}" for method in ("CBPE", "PAPE")),
        ]
        for metric in ("accuracy", "f1", "auc", "brier", "log_loss", "base_rate")
        if (metric, "CBPE") in errors
    ]
    title = (
        f"{name}: {n_months} months estimated, {reference.height:,} labelled rows of reference; 95% intervals"
    )
    columns = ["", "MAE constant", "MAE CBPE", "MAE PAPE", "covered CBPE", "covered PAPE"]
    return Table(title, columns, rows_shown)


def _some(table: pl.DataFrame, n_rows: int = 30_000) -> pl.DataFrame:
    return table.sample(n_rows, seed=0) if table.height > n_rows else table


def _flights() -> tuple[pl.DataFrame, list[str], date, date] | None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "flights"))
    import flight_data

    flights = flight_data.load_flights().filter(pl.col("late").is_not_null())
    table = flights.with_columns(on=pl.col("sched_dep_at").dt.date(), label=pl.col("late").cast(pl.Float64))
    fields = [name for name in flight_data.FEATURES if name in table.columns]
    return table, fields, date(2013, 3, 1), date(2013, 7, 1)


def _hotel() -> tuple[pl.DataFrame, list[str], date, date] | None:
    path = DATA / "hotel_bookings.parquet"
    if not path.exists():
        return None
    months = {datetime(2000, n, 1, tzinfo=UTC).strftime("%B"): n for n in range(1, 13)}
    table = pl.read_parquet(path).with_columns(
        on=pl.date(
            pl.col("arrival_date_year"),
            pl.col("arrival_date_month").cast(pl.String).replace_strict(months, return_dtype=pl.Int64),
            pl.col("arrival_date_day_of_month"),
        ),
        label=pl.col("is_canceled").cast(pl.Float64),
    )
    fields = [
        *("hotel", "lead_time", "meal", "market_segment", "distribution_channel", "is_repeated_guest"),
        *("previous_cancellations", "reserved_room_type", "deposit_type", "customer_type", "adr", "adults"),
        *("children", "stays_in_weekend_nights", "stays_in_week_nights", "days_in_waiting_list"),
    ]
    return table.sort("on"), fields, date(2016, 1, 1), date(2016, 9, 1)


def _speed(options: Options) -> Iterator[Report]:
    """A whole drift report over a large file, and what Evidently takes for as much of it as it can."""
    n_rows = N_BIG_SHORT if options.short else N_BIG
    report = Report("monitoring: speed")
    with tempfile.TemporaryDirectory(prefix="monitoring-") as place:
        path = Path(place) / "big.parquet"
        _write_big(path, n_rows)
        names = [f"f{place}" for place in range(N_FIELDS)]
        reference = pl.read_parquet(path, n_rows=100_000)
        began_s, cpu_s = time.perf_counter(), time.process_time()
        with _Peak() as peak:
            grids = grids_of(reference, names)
            before = {name: count_of(reference[name], grids[name]) for name in names}

            def one(name: str) -> tuple[str, Counts]:
                total = np.zeros(grids[name].n_bins, np.int64)
                column = pl.read_parquet(path, columns=[name], memory_map=False)[name]
                for part in range(0, len(column), 1 << 20):
                    total += count_of(column.slice(part, 1 << 20), grids[name])
                return name, total

            with ThreadPoolExecutor(2) as pool:
                counts = dict(pool.map(one, names))
            for name in names:
                drift.psi(before[name], counts[name])
                drift.ks(before[name], counts[name])
                drift.jensen_shannon(before[name], counts[name])
                drift.chi_square(before[name], counts[name])
        wall_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
        rows = [["tidegate", f"{n_rows:,}", f"{wall_s:.1f}", f"{cpu_s:.1f}", f"{peak.rise_mb:.0f}"]]
        n_evidently = min(n_rows, 200_000)
        taken = _evidently(path, n_evidently)
        if taken is None:
            rows.append(["evidently", "not installed", "", "", ""])
        else:
            rows.append(["evidently", f"{n_evidently:,}", f"{taken[0]:.1f}", f"{taken[1]:.1f}", ""])
            ratio = (taken[1] / n_evidently) / (cpu_s / n_rows)
            rows.append([f"CPU a row: {ratio:.0f} times as much", "", "", "", ""])
    report.tables.append(
        Table(f"Drift report, {N_FIELDS} columns", ["", "rows", "s", "CPU s", "memory rise, MB"], rows)
    )
    report.goals.append(Goal("monitoring: drift report, 10 million rows x 20", wall_s, 10.0, False, "s"))
    report.goals.append(Goal("monitoring: its memory", peak.rise_mb, 1000.0, False, "MB"))
    yield report


def _write_big(path: Path, n_rows: int) -> None:
    rng = np.random.default_rng(0)
    part = min(n_rows, 500_000)
    frame = pl.DataFrame({f"f{place}": rng.normal(size=part).astype(np.float32) for place in range(N_FIELDS)})
    pl.concat([frame.lazy()] * max(1, n_rows // part)).sink_parquet(path, compression_level=1)


class _Peak:
    """Watches the resident memory of this process; its rise over the block, MB."""

    def __enter__(self) -> _Peak:
        self._stop = threading.Event()
        self._base = self._now()
        self.rise_mb = 0.0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.rise_mb = max(self.rise_mb, self._now() - self._base)

    @staticmethod
    def _now() -> float:
        try:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
        except OSError:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        return pages * resource.getpagesize() / 1e6


_THEIRS = """
import sys, time
import pandas as pd
from evidently import Report
from evidently.presets import DataDriftPreset

current, reference = (pd.read_parquet(path) for path in sys.argv[1:3])
began_s, cpu_s = time.perf_counter(), time.process_time()
Report([DataDriftPreset()]).run(current, reference)
print(time.perf_counter() - began_s, time.process_time() - cpu_s)
"""


def _evidently(path: Path, n_rows: int) -> tuple[float, float] | None:
    """Return seconds and CPU seconds of Evidently's drift report, in a process of its own.

    `EVIDENTLY_PYTHON` names an interpreter that has it: it asks for other versions of what we use.
    """
    current, reference = path.with_name("current.parquet"), path.with_name("reference.parquet")
    pl.read_parquet(path, n_rows=n_rows).write_parquet(current)
    pl.read_parquet(path, n_rows=100_000).write_parquet(reference)
    python = os.environ.get("EVIDENTLY_PYTHON", sys.executable)
    line = [python, "-I", "-W", "ignore", "-c", _THEIRS, str(current), str(reference)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    wall_s, cpu_s = done.stdout.split()[-2:]
    return float(wall_s), float(cpu_s)


def run(options: Options) -> Iterator[Report]:
    """Measure everything that its data are there for."""
    yield from _detector_table()
    yield from _speed(options)
    if (DATA / "elec2.parquet").exists():
        yield from _detections()
        yield from _no_drift(options)
        yield from _whole(options)
    else:
        yield Report(
            "monitoring: real streams",
            tables=[
                Table(
                    f"{DATA} is not there: name the folder of the public sets with BENCHMARK_DATA", [""], []
                )
            ],
        )
    yield from _estimates()
