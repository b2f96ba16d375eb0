"""Whether a candidate is worse than the champion somewhere: on parts of the rows, on protected groups.

Every part is judged on how much the candidate loses beyond the champion on the same rows, with bounds
that hold for all parts together. Parts named by one column are known before anybody looks, and are
judged on all rows; parts named by two are searched on one half of the evidence and judged on the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.contract.batch import Column
from tidegate.core.decision import Evidence, Verdict
from tidegate.evaluation.slice import MIN_PART_ROWS, N_PART_BINS, Condition, encode, least_rows, search
from tidegate.gate.answer import Answers, Floats
from tidegate.gate.declaration import Gates
from tidegate.gate.verdict import found, not_asked
from tidegate.statistics.bootstrap import MAX_UNITS, MIN_UNITS, replicate_sums

Flags = npt.NDArray[np.bool_]

_N_PAIRS = 5
_SHOWN = 8
_MAX_CLASSES = 5
_EVEN = 1e-12


class Part(msgspec.Struct, frozen=True):
    """A part of the rows, and how the candidate does there.

    Attributes:
        name: What its rows have in common.
        n_rows: How many they are.
        n_units: Pieces of independent evidence among them.
        candidate: The candidate's mean loss.
        champion: The champion's.
        rise: The difference as a share of the champion's.
        low: Lower bound of the rise; those of all parts hold together. Minus infinity where draws
            cannot tell.
    """

    name: str
    n_rows: int
    n_units: int
    candidate: float
    champion: float
    rise: float
    low: float


def slices(answers: Answers | None, gates: Gates, *, rng: np.random.Generator, why_not: str = "") -> Evidence:
    """Ask whether the candidate is confirmed to be worse than the champion on a part of the rows.

    Source: simultaneous bounds: Westfall & Young, Resampling-Based Multiple Testing, 1993; search:
    Sagadeeva & Boehm, SliceLine, SIGMOD 2021.
    """
    gate = "slices"
    refused = _cannot(gate, answers, why_not)
    if refused is not None:
        return refused
    assert answers is not None
    columns = {
        name: column
        for name, column in answers.columns.items()
        if column.ndim == 1 and column.dtype.kind != "M"
    }
    units = _units(answers, rng)
    level = 1 - (1 - gates.level) / 2  # one half for parts known beforehand, one for those searched
    known = _named(columns, answers.n_rows)
    judged = _judge(answers, known, units, gates.slice_margin, level=level, rng=rng)
    half = rng.permutation(int(units.max()) + 1) % 2 == 0
    second = ~half[units]
    searched = _searched(answers, columns, ~second, rng)
    named = {name: fits & second for name, fits in searched.items()}
    judged += _judge(answers, named, units, gates.slice_margin, level=level, rng=rng)
    return _verdict(gate, judged, gates.slice_margin, answers)


def groups(
    answers: Answers | None,
    attributes: Sequence[str],
    gates: Gates,
    *,
    rng: np.random.Generator,
    threshold: float,
    why_not: str = "",
) -> Evidence:
    """Ask whether a protected group fares worse: in its own loss, or in decisions beside the others.

    Args:
        answers: Both models' answers.
        attributes: Protected attributes, as they are called in the columns.
        gates: Margins and level.
        rng: Source of randomness.
        threshold: From which probability on one acts.
        why_not: Why there are no answers.
    """
    gate = "groups"
    if not attributes:
        return not_asked(gate, "no field is declared protected")
    if answers is None or (answers.champion is None and why_not):
        return found(gate, Verdict.UNDECIDED, why_not)
    absent = [name for name in attributes if name not in answers.columns]
    if absent:
        words = f"the held-out rows lack {', '.join(absent)}: keep protected attributes in the trial's rows"
        return found(gate, Verdict.UNDECIDED, words)
    if answers.n_units < MIN_UNITS:
        return found(
            gate, Verdict.UNDECIDED, f"{answers.n_units} {answers.unit} are no basis for an interval"
        )
    units = _units(answers, rng)
    named = _named({name: answers.columns[name] for name in attributes}, answers.n_rows)
    level = 1 - (1 - gates.level) / 2
    decisions = _decisions(answers, threshold)
    if not decisions and answers.champion is None:
        return not_asked(gate, "without a champion only decisions are compared between groups")
    gaps = _gaps(answers, named, units, decisions, level=level, rng=rng)
    wide = [
        gap
        for gap in gaps
        if gap.low > (gates.group_margin if answers.champion is not None else 2 * gates.group_margin)
    ]
    judged: list[Part] = []
    if answers.champion is not None:
        judged = _judge(answers, named, units, gates.slice_margin, level=level, rng=rng)
    worse = [part for part in judged if part.low > gates.slice_margin]
    observed = {
        "threshold": threshold,
        "groups": msgspec.to_builtins(judged),
        "gaps": msgspec.to_builtins(sorted(gaps, key=lambda gap: -gap.low)[:_SHOWN]),
    }
    parameters = {"margin": gates.slice_margin, "gap_margin": gates.group_margin, "level": gates.level}
    if worse or wide:
        said = [_said(part) for part in worse] + [str(gap) for gap in wide]
        return found(gate, Verdict.REGRESSED, "; ".join(said[:3]), parameters=parameters, observed=observed)
    if not named:
        return found(gate, Verdict.UNDECIDED, "no group has enough rows to be judged", observed=observed)
    widest = max(gaps, key=lambda gap: gap.change, default=None)
    words = f"{len(named)} groups, none confirmed to be worse" + (
        "" if widest is None else f"; widest: {widest}"
    )
    return found(gate, Verdict.SAFE, words, parameters=parameters, observed=observed)


class Gap(msgspec.Struct, frozen=True):
    """How far a group's decisions are from the others', and how much further than under the champion.

    Attributes:
        group: The group.
        figure: `true positive`, `false positive` or `selection` rate.
        gap: Absolute difference of the group's rate and the others', in [0, 1].
        change: The gap less the champion's; without a champion the gap.
        low: Lower bound of `change`; those of all gaps hold together. Minus infinity as in `Part`.
    """

    group: str
    figure: str
    gap: float
    change: float
    low: float

    def __str__(self) -> str:
        return (
            f"{self.group}: {self.figure} rate {self.gap:.1%} from the others' "
            f"({self.change:+.1%}, {_at_least(self.low)})"
        )


def _cannot(gate: str, answers: Answers | None, why_not: str) -> Evidence | None:
    """Return why nothing can be compared; None if it can."""
    if answers is None or (answers.champion is None and why_not):
        return found(gate, Verdict.UNDECIDED, why_not)
    if answers.champion is None:
        return not_asked(gate, "there is no champion to be worse than")
    if answers.n_units < MIN_UNITS:
        words = (
            f"{answers.n_units} {answers.unit} are no basis for an interval: at least {MIN_UNITS} are needed"
        )
        return found(gate, Verdict.UNDECIDED, words)
    return None


def _verdict(gate: str, judged: list[Part], margin: float, answers: Answers) -> Evidence:
    worse = sorted((part for part in judged if part.low > margin), key=lambda part: -part.low)
    shown = sorted(judged, key=lambda part: -part.low)[:_SHOWN]
    observed = {
        "n_parts": len(judged),
        "n_rows": answers.n_rows,
        "worst": msgspec.to_builtins(shown),
        "measure": answers.measured_in,
    }
    parameters = {"margin": margin}
    if worse:
        words = "confirmed worse where " + "; ".join(_said(part) for part in worse[:3])
        return found(
            gate, Verdict.REGRESSED, words, statistic=worse[0].rise, parameters=parameters, observed=observed
        )
    if not judged:
        return found(
            gate, Verdict.UNDECIDED, "no part of the rows is large enough to be judged", observed=observed
        )
    worst = max(judged, key=lambda part: part.rise)
    words = (
        f"{len(judged)} parts, none confirmed to be worse by more than {margin:.0%}; "
        f"worst so far: {_said(worst)}"
    )
    return found(gate, Verdict.SAFE, words, statistic=worst.rise, parameters=parameters, observed=observed)


def _said(part: Part) -> str:
    return (
        f"{part.name}: loss {part.candidate:.4f} against {part.champion:.4f}, {part.rise:+.1%} "
        f"({_at_least(part.low)}), {part.n_rows:,} rows"
    )


def _at_least(low: float) -> str:
    return f"at least {low:+.1%}" if np.isfinite(low) else "with no lower bound"


def _units(answers: Answers, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return which unit of the bootstrap each row is in: its cluster, or one of many random ones."""
    if answers.cluster is not None:
        return answers.cluster
    if answers.n_rows <= MAX_UNITS:
        return np.arange(answers.n_rows)
    return (rng.permutation(answers.n_rows) % MAX_UNITS).astype(np.int64)


def _named(columns: Mapping[str, Column], n_rows: int) -> dict[str, Flags]:
    """Return the parts that one column names, which everybody would ask for: each value, each fifth."""
    codes, conditions = encode(columns, N_PART_BINS)
    least = least_rows(n_rows)
    found_: dict[str, Flags] = {}
    for name, column in codes.items():
        for code, condition in enumerate(conditions[name]):
            fits = column == code
            if least <= fits.sum() < n_rows:
                found_[str(condition)] = fits
    return found_


def _searched(
    answers: Answers, columns: Mapping[str, Column], rows: Flags, rng: np.random.Generator
) -> dict[str, Flags]:
    """Return the parts of two conditions that look worst on `rows`, as flags over all rows."""
    excess = np.maximum(answers.candidate_loss() - answers.champion_loss(), 0.0)[rows]
    if not excess.sum() > 0 or not np.isfinite(excess).all():
        return {}
    codes, conditions = encode({name: column[rows] for name, column in columns.items()}, N_PART_BINS)
    least = least_rows(int(rows.sum()))
    best = search(codes, excess, min_rows=least, n_slices=4 * _N_PAIRS, max_conditions=2)
    parts: dict[str, Flags] = {}
    for each in [each for each in best if len(each.conditions) == 2][:_N_PAIRS]:
        chosen: tuple[Condition, ...] = tuple(conditions[name][code] for name, code in each.conditions)
        fits = np.logical_and.reduce([one.matches(columns[one.column]) for one in chosen])
        parts[" and ".join(map(str, chosen))] = np.asarray(fits)
    return parts


def _judge(
    answers: Answers,
    parts: Mapping[str, Flags],
    units: npt.NDArray[np.int64],
    margin: float,
    *,
    level: float,
    rng: np.random.Generator,
) -> list[Part]:
    """Return each part with the rise of its loss, bounded from below for all parts at once."""
    own, other = answers.candidate_loss(), answers.champion_loss()
    if not np.isfinite(own).all():
        own = np.where(np.isfinite(own), own, 1e6)
    usual = float(other.mean())
    n_units = int(units.max()) + 1
    kept, terms = [], []
    for name, fits in parts.items():
        place = units[fits]
        present = len(np.unique(place))
        if present < MIN_UNITS or fits.sum() < MIN_PART_ROWS or not usual > 0:
            continue
        lost = other[fits]
        # where the champion loses nothing, a rise is held against what it loses elsewhere
        base = lost if lost.sum() > 0 else np.full(len(lost), usual)
        kept.append((name, fits, present, float(base.sum())))
        terms += [
            np.bincount(place, weights=own[fits] - lost, minlength=n_units),
            np.bincount(place, weights=base, minlength=n_units),
        ]
    if not kept:
        return []
    matrix = np.column_stack(terms)
    sums = replicate_sums(matrix, rng=rng)
    lows = _lower_bounds(_ratios(matrix.sum(axis=0)[np.newaxis]), _ratios(sums), level=level)
    return [
        Part(
            name=name,
            n_rows=int(fits.sum()),
            n_units=present,
            candidate=float(own[fits].mean()),
            champion=float(other[fits].mean()),
            rise=float((own[fits] - other[fits]).sum() / base),
            low=float(low),
        )
        for (name, fits, present, base), low in zip(kept, lows, strict=True)
    ]


def _lower_bounds(figures: Floats, replicates: Floats, *, level: float) -> Floats:
    """Return bounds that all hold at once with `level`: one cut holds the largest error of any, studentised.

    Args:
        figures: Shape (1, n_figures).
        replicates: Shape (n_replicates, n_figures); what is not finite does not count.
        level: Confidence, in (0, 1).
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.nanstd(np.where(np.isfinite(replicates), replicates, np.nan), axis=0)
        varies = spread > _EVEN
        errors = (replicates - figures) / np.where(varies, spread, np.inf)
    largest = np.nanmax(np.where(np.isfinite(errors), errors, -np.inf), axis=1)
    cut = float(np.quantile(largest, level))
    lows = figures[0] - cut * np.where(varies, spread, 0.0)
    # What is the same in every draw is its own bound: all of a group is accepted, or both models agree.
    same = np.isfinite(replicates).all(axis=0)
    return np.asarray(np.where(varies | same, lows, -np.inf))


def _ratios(sums: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(sums[:, 0::2] / sums[:, 1::2])


class Decisions(NamedTuple):
    """Decisions of both models for one thing.

    Attributes:
        of: What they are for, in words; empty of an event.
        happened: Whether it came true, shape (n_rows,).
        decided: Whether the candidate, and the champion if there is one, decided for it.
    """

    of: str
    happened: Flags
    decided: list[Flags]


def _decisions(answers: Answers, threshold: float) -> list[Decisions]:
    """Return what is decided from answers: an event from the threshold on, each of the frequent classes."""
    measure = answers.measure
    models = [answers.candidate] if answers.champion is None else [answers.candidate, answers.champion]
    if measure.is_binary:
        return [Decisions("", answers.outcomes == 1, [answered >= threshold for answered in models])]
    if measure.task != "multiclass":
        return []
    decided = [measure.decided(answered) for answered in models]
    counts = np.bincount(answers.outcomes.astype(np.int64), minlength=len(measure.classes))
    return [
        Decisions(
            f", {measure.classes[place]}", answers.outcomes == place, [each == place for each in decided]
        )
        for place in np.argsort(-counts, kind="stable")[:_MAX_CLASSES].tolist()
    ]


def _gaps(
    answers: Answers,
    parts: Mapping[str, Flags],
    units: npt.NDArray[np.int64],
    decisions: Sequence[Decisions],
    *,
    level: float,
    rng: np.random.Generator,
) -> list[Gap]:
    """Return how far each group's rates are from the others', beside the champion's."""
    n_models = 1 if answers.champion is None else 2
    n_units = int(units.max()) + 1
    labels, terms = [], []
    for each in decisions:
        happened = each.happened
        bases = {"true positive": happened, "false positive": ~happened, "selection": np.ones_like(happened)}
        if answers.champion is None:
            del bases["selection"]  # groups may differ in what happens; with a champion the change counts
        for name, fits in parts.items():
            for figure, base in bases.items():
                sides = [fits & base, ~fits & base]
                if min(side.sum() for side in sides) < MIN_PART_ROWS:
                    continue
                labels.append((name + each.of, figure))
                for decided in each.decided:
                    for side in sides:
                        weights = decided[side].astype(np.float64)
                        terms.append(np.bincount(units[side], weights=weights, minlength=n_units))
                        terms.append(np.bincount(units[side], minlength=n_units).astype(np.float64))
    if not labels:
        return []
    matrix = np.column_stack(terms)
    whole = _gap_of(matrix.sum(axis=0)[np.newaxis], n_models)
    drawn = _gap_of(replicate_sums(matrix, rng=rng), n_models)
    lows = _lower_bounds(whole[1], drawn[1], level=level)
    return [
        Gap(name, figure, float(gap), float(change), float(low))
        for (name, figure), gap, change, low in zip(labels, whole[0][0], whole[1][0], lows, strict=True)
    ]


def _gap_of(sums: Floats, n_models: int) -> tuple[Floats, Floats]:
    """Return (gap, change against the champion) of each label, shape (n_replicates, n_labels)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        rates = sums[:, 0::2] / sums[:, 1::2]
    gaps = np.abs(rates[:, 0::2] - rates[:, 1::2])
    own = gaps[:, 0::n_models]
    return own, own if n_models == 1 else own - gaps[:, 1::n_models]
