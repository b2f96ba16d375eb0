"""Why a model errs: likely causes with the numbers behind them, and what to do about each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from tidegate.contract.batch import Column
from tidegate.contract.infer import columns_of
from tidegate.contract.schema import Schema
from tidegate.core.error import InvalidSetting
from tidegate.data.distribution import binned, population_stability_index, psi_by_chance
from tidegate.data.mislabel import Learner
from tidegate.data.summary import summarise
from tidegate.evaluation.classification import share
from tidegate.evaluation.estimate import Estimate, estimate_of
from tidegate.evaluation.measure import Measure
from tidegate.statistics.interval import welch
from tidegate.training.baseline import TrialColumns, candidate_answers, gain_estimates, read_trial
from tidegate.training.trial import Trial

Floats = npt.NDArray[np.float64]

MAX_ROWS = 40_000
"""Training rows that models are fitted to here: enough to see a gap of a few percent, and quick."""

SUREST = 0.1
"""Share of the answers on each side that count as the surest."""

MIN_PART = 0.25
"""Share of all errors that the surest answers' rate stands for, from which on noise is a likely cause."""

RARE = 0.1
"""Share of the rarer outcome below which imbalance is looked for."""

MIN_EFFECT = 0.05
"""Share of the loss below which a cause, however certain, is not worth a remedy."""

MIN_RESIDUAL = 0.01
"""Share of the residuals' variance that a column has to explain to be missed."""

_N_BINS = 20
_PSI_FLOOR = 0.1


class Cause(StrEnum):
    """Why a model may err."""

    LABEL_NOISE = "label noise"
    IMBALANCE = "imbalance"
    MISSING_FEATURE = "missing feature"
    RECENT_SHIFT = "recent shift"
    TOO_LITTLE_CAPACITY = "too little capacity"
    TOO_MUCH_CAPACITY = "too much capacity"


class Finding(msgspec.Struct, frozen=True):
    """One cause that was looked into.

    Attributes:
        cause: Which.
        likely: Whether the numbers speak for it; None where it could not be looked into.
        effect: Share of the loss (or of the errors) that it stands for, at most 1; 0 where it is not likely.
        message: The numbers in words.
        remedy: What helps; empty where it is not likely.
        figures: The numbers.
    """

    cause: Cause
    likely: bool | None
    effect: float
    message: str
    remedy: str = ""
    figures: tuple[Estimate, ...] = ()


class Diagnosis(msgspec.Struct, frozen=True):
    """Why a model errs.

    Attributes:
        measure: Of the loss, as `training.baseline.Comparison` has it.
        loss: Its mean on the test rows.
        n_test: Test rows.
        findings: Likely causes first, by falling effect; then the others.
    """

    measure: str
    loss: float
    n_test: int
    findings: tuple[Finding, ...]

    @property
    def likely(self) -> tuple[Finding, ...]:
        """The causes that the numbers speak for."""
        return tuple(each for each in self.findings if each.likely)


class _Case(NamedTuple):
    """A trial, and the candidate's kind of model fitted to half of its training rows."""

    trial: Trial
    columns: TrialColumns
    schema: Schema
    predicted: Floats
    losses: Floats
    halves: _Halves | None
    rng: np.random.Generator


class _Halves(NamedTuple):
    """Losses of a model fitted on one random half of the training rows.

    Attributes:
        known: On the rows it was fitted on.
        fresh: On the other half.
        test: On the test rows.
        reference: Of a reference model, fitted on the same half, on the other half.
    """

    known: Floats
    fresh: Floats
    test: Floats
    reference: Floats | None


def diagnose(
    trial: Trial,
    schema: Schema,
    *,
    measure: Measure | None = None,
    reference: Learner | None = None,
    event_time: str = "",
    seed: int = 0,
) -> Diagnosis:
    """Look into each cause.

    - Label noise: the error rate among the surest answers of both sides is a floor that no model of these
      labels gets under, be it wrong labels or chance.
    - Imbalance: the rarer outcome is mostly not recognised.
    - Missing feature: a column of the trial that is no input explains the residuals.
    - Recent shift: the loss on the test rows is larger than on training rows that were held out at random,
      or rises within the test rows.
    - Too much capacity: the loss on the rows fitted on is far below that on others of the same time.
    - Too little: a reference model of more freedom does better on the same rows.

    Args:
        trial: The trial; its `fit` is called once. Without it shift and capacity are partly not looked into.
        schema: Input side of the contract.
        measure: What is predicted; None: an event where the target is 0 or 1, else a number.
        reference: Fits the reference model, for events and classes.
        event_time: Column that says when a test row happened, if there is one.
        seed: Of halves and bootstraps.

    Raises:
        InvalidSetting: The trial does not hold together, or is of a ranking.
    """
    columns = read_trial(trial, measure)
    if columns.measure.task == "ranking":
        raise InvalidSetting(
            "Why a ranking errs is not looked into: its losses are of lists, the causes of rows.",
            hint="`tidegate evaluate` and `tidegate feasibility` measure it.",
        )
    predicted = candidate_answers(columns, trial.predicted)
    rng = np.random.default_rng(seed)
    losses = columns.loss(predicted)
    case = _Case(
        trial, columns, schema, predicted, losses, _halves(trial, columns, schema, reference, rng), rng
    )
    checks: Sequence[Callable[[_Case], Iterator[Finding]]] = (
        _noise,
        _imbalance,
        lambda each: _missing(each, event_time),
        lambda each: _shift(each, event_time),
        _overfit,
        _underfit,
    )
    found = [finding for check in checks for finding in check(case)]
    order = {True: 0, False: 1, None: 2}
    return Diagnosis(
        columns.measure.name,
        float(losses.mean()),
        len(losses),
        tuple(sorted(found, key=lambda each: (order[each.likely], -each.effect))),
    )


def _halves(
    trial: Trial, columns: TrialColumns, schema: Schema, reference: Learner | None, rng: np.random.Generator
) -> _Halves | None:
    n_rows = len(columns.train_target)
    if trial.fit is None or n_rows < 40:
        return None
    chosen = rng.permutation(n_rows)[:MAX_ROWS]
    first, second = (np.sort(part) for part in np.array_split(chosen, 2))
    known, fresh = (_take(trial.train, rows) for rows in (first, second))
    model, measure = trial.fit(known), columns.measure

    def loss(rows: Any, target: Floats) -> Floats:
        return measure.loss(target, measure.answers(model(rows)))

    beside = None
    if reference is not None and not measure.is_number:
        table = _frame(columns.train, [name for name in schema.names if name in columns.train])
        fitted = reference(
            table[first], columns.train_target[first].astype(np.int64), max(2, len(measure.classes))
        )
        given = fitted(table[second])
        answered = given[:, 1] if measure.is_binary else given
        beside = measure.loss(
            columns.train_target[second], answered if measure.has_scores else measure.decided(given)
        )
    return _Halves(
        loss(known, columns.train_target[first]),
        loss(fresh, columns.train_target[second]),
        loss(trial.test, columns.test_target),
        beside,
    )


def _noise(case: _Case) -> Iterator[Finding]:
    measure = case.columns.measure
    if not measure.has_scores:
        message = "The model gives classes without probabilities: which answers are sure is not known."
        yield Finding(Cause.LABEL_NOISE, None, 0.0, message)
        return
    if measure.is_number:
        lost = np.sort(case.losses)[::-1]
        worst = max(1, len(lost) // 100)
        part = float(lost[:worst].sum() / lost.sum()) if lost.sum() > 0 else 0.0
        likely = part > MIN_PART
        yield Finding(
            Cause.LABEL_NOISE,
            likely,
            part if likely else 0.0,
            f"The worst {worst:,} of {len(lost):,} rows (1%) make up {part:.1%} of the "
            f"{measure.name.replace('_', ' ')}.",
            "Look at those rows first: wrong outcomes and units show there; else fit to absolute errors."
            if likely
            else "",
        )
        return
    decided, sureness = _decided(case)
    wrong = decided != case.columns.test_target
    rates, names = [], {}
    for place, name in reversed(list(enumerate(measure.classes or ("0", "1")))):
        rows = np.flatnonzero(decided == place)
        if len(rows) < 50:
            continue
        surest = rows[np.argsort(-sureness[rows], kind="stable")][: max(20, int(len(rows) * SUREST))]
        rates.append(
            share(f"surest_{name}_wrong", int(wrong[surest].sum()), len(surest), larger_is_better=False)
        )
        names[rates[-1].name] = repr(name) if measure.classes else f"{name}s"
    if len(rates) < 2 or not wrong.any():
        yield Finding(
            Cause.LABEL_NOISE, None, 0.0, "Too few answers on one side to tell.", figures=tuple(rates)
        )
        return
    # Noise is on both sides: on one side alone it is what the model does not know.
    floor, overall = min(each.low or 0.0 for each in rates), float(wrong.mean())
    part = min(1.0, floor / overall)
    likely = part >= MIN_PART
    told = " and ".join(
        f"{each.value:.1%} [{each.low:.1%}, {each.high:.1%}] of the surest {names[each.name]}"
        for each in rates
    )
    yield Finding(
        Cause.LABEL_NOISE,
        likely,
        part if likely else 0.0,
        f"{told} are wrong, of all answers {overall:.1%}: at least {floor:.1%} is a floor, by wrong labels "
        "or chance.",
        "Look at the surest mistakes: `tidegate data labels` ranks them. More rows or a larger model do not "
        "help."
        if likely
        else "",
        tuple(rates),
    )


def _imbalance(case: _Case) -> Iterator[Finding]:
    measure = case.columns.measure
    if measure.is_number:
        return
    truth, (decided, _) = case.columns.test_target, _decided(case)
    counts = np.bincount(truth.astype(np.int64), minlength=max(2, len(measure.classes)))
    place = int(np.where(counts > 0, counts, len(truth) + 1).argmin())
    rare, hit = truth == place, decided == place
    n_rare = int(rare.sum())
    found = share("recall_of_the_rarer", int((rare & hit).sum()), n_rare)
    part = float((rare & ~hit).sum() / max(1, (decided != truth).sum()))
    likely = 0 < rare.mean() < RARE and found.high is not None and found.high < 0.5
    told = "none" if found.value is None else f"{found.value:.1%}"
    which = f"rarest class, {measure.classes[place]!r}," if measure.task == "multiclass" else "rarer outcome"
    yield Finding(
        Cause.IMBALANCE,
        bool(likely),
        part if likely else 0.0,
        f"The {which} is {rare.mean():.2%} of the rows ({n_rare:,}); "
        + ("" if measure.task == "multiclass" else "at a threshold of 0.5 ")
        + f"{told} of it is recognised, and {part:.0%} of the errors are its.",
        "Choose the threshold by costs (tg.Evaluation(costs=...)); weigh or collect the rarer outcome."
        if likely
        else "",
        (found,),
    )


def _missing(case: _Case, event_time: str) -> Iterator[Finding]:
    """Name columns that are no inputs and explain the residuals on the test rows."""
    left_out = {*case.schema.names, case.trial.target, event_time}
    residual = _residual(case)
    found = []
    for name, column in case.columns.test.items():
        codes = None if name in left_out else _codes(column)
        if codes is None:
            continue
        explained, p_value = _explained(codes, residual, case.rng)
        found.append((explained, p_value * max(1, len(case.columns.test) - len(left_out)), name))
    found.sort(reverse=True)
    telling = [each for each in found if each[0] >= MIN_RESIDUAL and each[1] < 0.05]
    if not found:
        message = "The trial's rows hold no column beside the inputs: nothing can be found missing."
        yield Finding(Cause.MISSING_FEATURE, None, 0.0, message)
        return
    named = ", ".join(f"{name} explains {explained:.1%}" for explained, _, name in (telling or found)[:3])
    yield Finding(
        Cause.MISSING_FEATURE,
        bool(telling),
        telling[0][0] if telling else 0.0,
        f"Of the residuals' variance {named} (cross-fitted).",
        _remedy(telling[0][2], case.trial.group) if telling else "",
    )


def _remedy(name: str, group: str | None) -> str:
    if name == group:
        return f"Rows of one {name!r} err together: find what they share, and make it an input."
    return f"Make {name!r} an input, if it is known when the question is asked."


def _shift(case: _Case, event_time: str) -> Iterator[Finding]:
    halves, losses = case.halves, case.losses
    figures, told, effects = [], [], []
    if halves is not None:
        rise = _difference("rise_to_test", halves.test, halves.fresh)
        figures.append(rise)
        told.append(f"the loss on the test rows is {_by(rise)} that on training rows held out at random")
        effects.append(_significant(rise, float(halves.test.mean())))
    at = case.columns.test.get(event_time)
    if event_time and at is not None and len(losses) >= 90:
        order = np.argsort(at, kind="stable")
        early, _, late = np.array_split(order, 3)
        within = _difference("rise_within_test", losses[late], losses[early])
        figures.append(within)
        told.append(f"in the newest third of the test rows it is {_by(within)} that in the oldest")
        effects.append(_significant(within, float(losses[late].mean())))
    if not effects:
        message = "The trial has no `fit`, and nothing says when its rows happened."
        yield Finding(Cause.RECENT_SHIFT, None, 0.0, message)
        return
    moved = _moved(case)
    if moved:
        told.append("moved most: " + ", ".join(f"{name} (PSI {psi:.2f})" for name, psi in moved[:3]))
    effect = max(effects)
    message = "; ".join(told)
    yield Finding(
        Cause.RECENT_SHIFT,
        effect >= MIN_EFFECT,
        effect if effect >= MIN_EFFECT else 0.0,
        f"{message[0].upper()}{message[1:]}.",
        "Train on newer rows, and more often; watch the columns that moved." if effect >= MIN_EFFECT else "",
        tuple(figures),
    )


def _overfit(case: _Case) -> Iterator[Finding]:
    halves = case.halves
    if halves is None:
        yield Finding(Cause.TOO_MUCH_CAPACITY, None, 0.0, "The trial has no `fit`.")
        return
    gap = _difference("gap", halves.fresh, halves.known)
    effect = _significant(gap, float(halves.fresh.mean()))
    likely = effect >= 0.2
    yield Finding(
        Cause.TOO_MUCH_CAPACITY,
        likely,
        effect if likely else 0.0,
        f"The loss is {halves.known.mean():.4g} on the rows fitted on and {halves.fresh.mean():.4g} on "
        f"others of the same time ({len(halves.known):,} rows each).",
        "Use more rows (`tidegate feasibility` says what they bring), a simpler model, or more "
        "regularisation."
        if likely
        else "",
        (gap,),
    )


def _underfit(case: _Case) -> Iterator[Finding]:
    halves = case.halves
    if halves is None or halves.reference is None:
        yield Finding(Cause.TOO_LITTLE_CAPACITY, None, 0.0, "There is no reference model to hold it against.")
        return
    (gain,) = gain_estimates(halves.reference, [halves.fresh], cluster=None, seed=0)
    effect = max(0.0, (gain.low or 0.0) / float(halves.fresh.mean()))
    likely = effect >= MIN_EFFECT
    yield Finding(
        Cause.TOO_LITTLE_CAPACITY,
        likely,
        effect if likely else 0.0,
        f"Boosted trees on the same rows have a loss of {halves.reference.mean():.4g}, the model "
        f"{halves.fresh.mean():.4g}.",
        "Let the model bend more: interactions, trees, more iterations." if likely else "",
        (msgspec.structs.replace(gain, name="gain_of_reference"),),
    )


def _moved(case: _Case) -> list[tuple[str, float]]:
    """Return inputs whose distribution moved from training to test beyond chance, by falling PSI."""
    names = [name for name in case.schema.names if name in case.columns.train and name in case.columns.test]
    train, test = _frame(case.columns.train, names), _frame(case.columns.test, names)
    found = []
    for name in train.columns:
        counts = binned(summarise(train[name]), test[name])
        if counts is None or not sum(counts[0]) or not sum(counts[1]):
            continue
        psi = population_stability_index(*counts)
        chance = psi_by_chance(sum(counts[0]), sum(counts[1]), n_bins=max(2, len(counts[0])), level=0.001)
        if psi > max(chance, _PSI_FLOOR):
            found.append((name, psi))
    return sorted(found, key=lambda each: -each[1])


def _difference(name: str, larger: Floats, smaller: Floats) -> Estimate:
    interval, _ = welch(larger, smaller)
    return estimate_of(
        name,
        float(larger.mean() - smaller.mean()),
        interval,
        method="welch",
        n_rows=len(larger) + len(smaller),
        larger_is_better=False,
    )


def _significant(difference: Estimate, loss: float) -> float:
    """Return the lower end of a rise as a share of the loss; 0 where it may be none."""
    return max(0.0, (difference.low or 0.0) / loss) if loss > 0 else 0.0


def _by(difference: Estimate) -> str:
    value, low, high = difference.value or 0.0, difference.low, difference.high
    side = "above" if value >= 0 else "below"
    if low is None or high is None:
        return f"{abs(value):.4g} {side}"
    ends = (low, high) if value >= 0 else (-high, -low)  # as far as the words say: below 0 is the other side
    return f"{abs(value):.4g} [{ends[0]:+.4g}, {ends[1]:+.4g}] {side}"


def _explained(
    codes: npt.NDArray[np.int64], residual: Floats, rng: np.random.Generator
) -> tuple[float, float]:
    """Return the share of variance that means by code explain, cross-fitted, and a p-value by shuffling.

    Args:
        codes: Shape (n_rows,).
        residual: Shape (n_rows, n_values): one a class, or one.
        rng: Of halves and shuffles.
    """
    half = rng.random(len(codes)) < 0.5

    def of(values: Floats) -> float:
        left = 0.0
        for learn in (half, ~half):
            rows = np.bincount(codes[learn], minlength=int(codes.max()) + 1)
            sums = np.stack(
                [np.bincount(codes[learn], weights=each, minlength=len(rows)) for each in values[learn].T], 1
            )
            means = sums / (rows + 1.0)[:, None]  # leans to 0, what a residual is on average
            left += float(np.square(values[~learn] - means[codes[~learn]]).sum())
        total = float(np.square(values).sum())
        return 1 - left / total if total else 0.0

    true = of(residual)
    if true < MIN_RESIDUAL:
        return max(0.0, true), 1.0
    shuffled = [of(rng.permutation(residual)) for _ in range(199)]
    return true, (1 + sum(each >= true for each in shuffled)) / 200


def _codes(column: Column) -> npt.NDArray[np.int64] | None:
    if column.ndim != 1:
        return None
    if column.dtype.kind == "M":
        column = column.astype("M8[us]").astype(np.int64)
    if column.dtype.kind in "iufb":
        values = column.astype(np.float64)
        present = np.isfinite(values)
        if not present.any():
            return None
        edges = np.unique(np.quantile(values[present], np.linspace(0, 1, _N_BINS + 1)[1:-1]))
        return np.where(present, np.searchsorted(edges, values), len(edges) + 1).astype(np.int64)
    numbers: dict[object, int] = {}
    codes = np.array([numbers.setdefault(str(value), len(numbers)) for value in column.tolist()], np.int64)
    return codes if len(numbers) <= max(2, len(column) // 10) else None


def _decided(case: _Case) -> tuple[Floats, Floats]:
    """Return the class that each answer is for, and how sure it is."""
    measure, predicted = case.columns.measure, case.predicted
    if measure.is_binary:
        return (predicted >= 0.5).astype(np.float64), np.abs(predicted - 0.5)
    sureness = predicted.max(axis=1) if predicted.ndim == 2 else np.ones(len(predicted))
    return measure.decided(predicted), sureness


def _residual(case: _Case) -> Floats:
    """Return what came true less what was predicted, shape (n_rows, n_values): a value a class, or one."""
    measure, target, predicted = case.columns.measure, case.columns.test_target, case.predicted
    if measure.task != "multiclass":
        return (target - predicted)[:, None]
    places = np.arange(len(measure.classes))
    given = predicted if predicted.ndim == 2 else (predicted[:, None] == places).astype(np.float64)
    return np.asarray((target[:, None] == places) - given, dtype=np.float64)


def _frame(columns: Mapping[str, Column], names: Sequence[str]) -> pl.DataFrame:
    return pl.DataFrame({name: pl.Series(name, columns[name].tolist(), strict=False) for name in names})


def _take(table: Any, places: npt.NDArray[np.intp]) -> Any:
    if isinstance(table, pl.DataFrame):
        return table[places]
    if isinstance(table, Mapping):
        return {name: np.asarray(column)[places] for name, column in columns_of(table).items()}
    return table.iloc[places]
