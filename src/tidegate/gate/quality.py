"""Whether a candidate answers as well as the champion, the baselines, and itself when it was tried."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from tidegate.core.decision import Evidence, Verdict
from tidegate.evaluation.measure import Measure
from tidegate.gate.answer import Answers, Floats, Ints
from tidegate.gate.declaration import Gates
from tidegate.gate.verdict import against_margin, found, not_asked, times_as_many
from tidegate.statistics.bootstrap import MIN_UNITS, percentile_interval, replicate_sums
from tidegate.training.baseline import Comparison

REHEARSAL_TOLERANCE = 1e-4
"""As far as a registered model may answer from the one that was tried: what float32 sums of some hundred
trees show. Of numbers that are no probabilities, as a share of their typical size."""

_WITHOUT_END = 10.0

_SAME_SHARE = 0.999
"""Share of rows within the tolerance: a tree's threshold that float32 cannot hold moves a row at times."""


def champion(
    answers: Answers | None, gates: Gates, *, rng: np.random.Generator, why_not: str = ""
) -> Evidence:
    """Ask whether a candidate is not worse than the champion on the same rows, by more than the margin.

    Args:
        answers: Both models' answers; None where they could not be had.
        gates: The margin and the level.
        rng: Source of randomness of the bootstrap.
        why_not: Why there are no answers; "" where there is no champion.
    """
    gate = "champion"
    if answers is None:
        return found(gate, Verdict.UNDECIDED, why_not)
    if answers.champion is None:
        if why_not:
            return found(gate, Verdict.UNDECIDED, why_not)
        return not_asked(gate, "there is no champion: the baselines decide")
    if answers.n_units < MIN_UNITS:
        return found(gate, Verdict.UNDECIDED, _too_few(answers), observed={"n_rows": answers.n_rows})
    own, other = answers.candidate_loss(), answers.champion_loss()
    if not np.isfinite(own).all():
        n_bad = int((~np.isfinite(own)).sum())
        return found(gate, Verdict.REGRESSED, f"{n_bad:,} of {answers.n_rows:,} answers are no numbers")
    sums = replicate_sums(np.column_stack([own - other, other]), rng=rng, cluster=answers.cluster)
    interval = percentile_interval(_ratio(sums), level=gates.level)
    rise = float(_ratio(np.array([[(own - other).sum(), other.sum()]]))[0])
    verdict = against_margin(interval, gates.quality_margin)
    observed = {
        "measure": answers.measured_in,
        "n_rows": answers.n_rows,
        "n_units": answers.n_units,
        "unit": answers.unit,
        "candidate": float(own.mean()),
        "champion": float(other.mean()),
        "rise": rise,
        "interval": None if interval is None else [interval.low, interval.high],
    }
    assert interval is not None  # losses are finite
    on = f"{answers.n_rows:,} {answers.rows} of {_units(answers)}"
    words = (
        f"{answers.measured_in} {own.mean():.4f} against {other.mean():.4f}: {rise:+.1%} "
        f"[{interval.low:+.1%}, {interval.high:+.1%}] on {on}; "
        f"allowed {gates.quality_margin:+.0%}"
    )
    if verdict is Verdict.UNDECIDED:
        more = times_as_many(interval, rise, gates.quality_margin)
        words += f". The interval holds the margin: hold out more {answers.unit}" + (
            f"; {more}" if more else ""
        )
    return found(
        gate,
        verdict,
        words,
        statistic=rise,
        parameters={"margin": gates.quality_margin, "level": gates.level},
        observed=observed,
    )


def baselines(comparison: Comparison | None, why_not: str = "") -> Evidence:
    """Ask whether a candidate beats every simple model that was fitted beside it, intervals apart from 0."""
    gate = "baselines"
    if comparison is None:
        return found(
            gate,
            Verdict.UNDECIDED,
            why_not or "nothing was compared: return tg.Trained(trial=tg.Trial(...)) from the trainer",
        )
    worse = [
        each.name
        for each in comparison.baselines
        if each.gain.high is not None and each.gain.high < 0 and not each.same
    ]
    unbeaten = [each.name for each in comparison.baselines if not each.beaten and not each.same]
    same = next((each.name for each in comparison.baselines if each.same and not each.beaten), None)
    closest = min(comparison.baselines, key=lambda each: each.loss)
    gain = closest.gain
    span = (
        ""
        if gain.low is None or gain.high is None
        else f" by {gain.value:.4f} [{gain.low:.4f}, {gain.high:.4f}]"
    )
    if worse:
        verdict, words = Verdict.REGRESSED, f"worse than {', '.join(worse)}"
    elif unbeaten:
        verdict = Verdict.UNDECIDED
        words = f"not shown to be better than {', '.join(unbeaten)}; more held-out rows, or a better model"
        if unbeaten == ["linear"]:
            words += ". If it is as simple itself: tg.Gates(left_out={'baselines': 'it is linear'})"
    elif same is not None:
        verdict = Verdict.SAFE
        words = f"answers as {same} does, so it is as simple itself, and better than the others"
    else:
        measure = comparison.measure.replace("_", " ")
        verdict, words = (
            Verdict.SAFE,
            f"better than the best of {len(comparison.baselines)}, {closest.name}, in {measure}{span}",
        )
    return found(
        gate, verdict, words, statistic=gain.value, observed={"comparison": msgspec.to_builtins(comparison)}
    )


def rehearsal(
    tried: Floats | None,
    registered: Floats | None,
    outcomes: Floats | None,
    *,
    measure: Measure,
    lists: Ints | None = None,
    refitted: bool,
    margin: float,
    why_not: str = "",
) -> Evidence:
    """Ask whether the registered files answer as the model did that was tried.

    What was measured in a trial says nothing about files that answer otherwise: another unit on the
    way in, another model, a conversion that fails outside the sample.

    Args:
        tried: The trial's answers to its test rows; None without a trial.
        registered: The registered model's answers to the same rows.
        outcomes: What came true.
        measure: What is predicted.
        lists: Of a ranking: the list of each row.
        refitted: The registered model was fitted on these rows since: then it must only not be worse.
        margin: By which share of the loss it may be worse then.
        why_not: Why one of them is missing.
    """
    gate = "rehearsal"
    if tried is None or registered is None or outcomes is None:
        return found(gate, Verdict.UNDECIDED, why_not)
    difference = _difference(tried, registered, measure)
    share = float((difference <= REHEARSAL_TOLERANCE).mean())
    observed: Mapping[str, Any] = {
        "n_rows": len(tried),
        "share_equal": share,
        "largest": float(difference.max()) if np.isfinite(difference).all() else None,
    }
    if refitted:
        before, after = (float(measure.loss(outcomes, each, lists).mean()) for each in (tried, registered))
        is_worse = not after <= before * (1 + margin)
        words = (
            f"fitted again on the held-out rows: its loss on them is {after:.4f}, was {before:.4f} before; "
            + ("it answers otherwise than what was tried" if is_worse else "as it should, no worse")
        )
        return found(gate, Verdict.REGRESSED if is_worse else Verdict.SAFE, words, observed=observed)
    if share >= _SAME_SHARE:
        return found(
            gate,
            Verdict.SAFE,
            f"{share:.2%} of {len(tried):,} answers as in the trial",
            statistic=share,
            observed=observed,
        )
    words = (
        f"the registered model answers {1 - share:.1%} of {len(tried):,} held-out rows otherwise than the "
        f"model that was tried, by up to {difference.max():.2g}: another unit, another order of columns, or "
        "another model. If it was fitted again on all rows, say tg.Trial(refitted=True)"
    )
    return found(gate, Verdict.REGRESSED, words, statistic=share, observed=observed)


def _ratio(sums: Floats) -> Floats:
    """Return rises as shares of the champion's loss; where it loses nothing, any rise is tenfold."""
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = sums[:, 0] / sums[:, 1]
    return np.asarray(np.where(sums[:, 1] > 0, shares, np.where(sums[:, 0] > 0, _WITHOUT_END, 0.0)))


def _difference(tried: Floats, registered: Floats, measure: Measure) -> Floats:
    """Return how far apart two answers to each row are; of numbers, as a share of their usual size."""
    if tried.shape != registered.shape:
        return np.full(len(tried), np.inf)
    if measure.task == "multiclass" and tried.ndim == 1:
        return np.asarray(tried != registered, dtype=np.float64)
    scale = 1.0
    if measure.is_number or measure.task == "ranking":  # many answers may be exactly 0
        scale = max(float(np.median(np.abs(tried))), float(np.std(tried)), 1e-12)
    apart = np.abs(registered - tried) / scale
    return np.nan_to_num(apart if apart.ndim == 1 else apart.max(axis=1), nan=np.inf, posinf=np.inf)


def _units(answers: Answers) -> str:
    return "their own" if answers.cluster is None else f"{answers.n_units} {answers.unit}"


def _too_few(answers: Answers) -> str:
    return (
        f"{answers.n_units} {answers.unit} that neither was fitted on are no basis for an interval: "
        f"at least {MIN_UNITS} are needed; hold out more"
    )
