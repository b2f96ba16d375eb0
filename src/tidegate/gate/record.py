"""What a gate can tell from what was recorded of two versions: contracts, files, dates, parity, leaks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.contract.batch import Column
from tidegate.contract.compare import compare
from tidegate.contract.schema import Contract
from tidegate.core.decision import Evidence, Verdict
from tidegate.gate.declaration import Gates
from tidegate.gate.verdict import found, not_asked
from tidegate.registry.card_file import asking

_DAY_S = 86_400.0
_QUANTILES = np.linspace(0.05, 0.95, 19)
_STEADY = 0.02
"""A change of unit multiplies every quantile by one number: they agree within this share of it."""

_MIN_SCALED_ROWS = 200

UNIT_FACTORS = (1.609344, 1.852, 2.20462, 2.54, 3.28084, 3.6, 3.785, 10.0, 12.0, 24.0, 25.4, 60.0, 100.0,
                2.237, 1000.0, 3600.0, 1440.0, 86400.0, 1e6)  # fmt: skip
"""What one unit is of another: miles and kilometres, pounds and kilograms, minutes and hours, cents and
euros. A factor near one of these is believed on less than one that nobody would choose."""

_NEAR = 0.03
_EXPLAINED = 0.15
_LEFT = 0.05
"""Such a factor has to explain all but this part of the shift, and leave this part of the mean at most."""


def contract(candidate: Contract, champion: Contract | None) -> Evidence:
    """Ask whether those who call the champion can go on under the candidate's contract."""
    gate = "contract"
    if champion is None:
        return not_asked(gate, "nobody calls this service yet")
    comparison = compare(champion, candidate)
    observed = {"changes": msgspec.to_builtins(comparison.changes), "verdict": comparison.verdict}
    if comparison.breaking:
        words = "breaks callers: " + "; ".join(map(str, comparison.breaking[:3]))
        return found(gate, Verdict.REGRESSED, words, observed=observed)
    words = "callers go on as before"
    if comparison.changes:
        words += f"; {len(comparison.changes)} changes, none breaking: {comparison.changes[0]}"
    return found(gate, Verdict.SAFE, words, observed=observed)


def leaks(suspects: Sequence[Mapping[str, Any]] | None, gates: Gates, *, why_not: str = "") -> Evidence:
    """Ask whether a feature knows the outcome, which at the time of asking nobody does.

    Args:
        suspects: What the detector found, as plain data; None where it could not look.
        gates: Its limit and the features that a person has explained.
        why_not: Why it could not look.
    """
    gate = "leaks"
    if suspects is None:
        return found(gate, Verdict.UNDECIDED, why_not)
    parameters = {"auc": gates.leak_auc, "known": list(gates.known_leaks)}
    guilty = [one for one in suspects if one["column"] not in gates.known_leaks]
    observed = {"leaks": [dict(one) for one in suspects]}
    if guilty:
        words = "; ".join(str(one["message"]).rstrip(".") for one in guilty[:3])
        words += ". Leave it out, or, if it is known when asked, declare tg.Gates(known_leaks=(...,))"
        return found(gate, Verdict.REGRESSED, words, parameters=parameters, observed=observed)
    words = "no feature orders the outcomes by itself"
    if suspects:
        words += f" but {', '.join(str(one['column']) for one in suspects)}, which is known"
    return found(gate, Verdict.SAFE, words, parameters=parameters, observed=observed)


def units(
    candidate: Mapping[str, Column] | None, champion: Mapping[str, Column] | None, gates: Gates
) -> Evidence:
    """Ask whether a column came in another unit than the champion's did.

    A unit multiplies every quantile by the same factor; a season, a new customer or a drift does not.
    Where values are few and heavy, such as distances between airports, quantiles jump from one to the
    next; there a factor that is between two known units counts if it explains nearly all of the shift.

    Args:
        candidate: Input columns of the rows that the candidate was fitted on; None where none are kept.
        champion: The same of the champion.
        gates: From which factor on it counts.
    """
    gate = "units"
    if candidate is None:
        return not_asked(gate, "nothing is kept of the rows that it was fitted on")
    if champion is None:
        return not_asked(gate, "there are no rows of a champion to compare with")
    scaled = {}
    n_compared = 0
    for name in candidate.keys() & champion.keys():
        factor = scale(candidate[name], champion[name])
        if factor is None:
            continue
        n_compared += 1
        if max(factor, 1 / factor) >= gates.unit_ratio:
            scaled[name] = factor
    observed = {"n_columns": n_compared, "scaled": scaled}
    parameters = {"ratio": gates.unit_ratio}
    if not n_compared:
        return not_asked(gate, "there is no column of numbers that both have")
    if scaled:
        said = (
            f"the values of {name!r} are {factor:.4g} times what they were"
            for name, factor in sorted(scaled.items())
        )
        words = "; ".join(said) + ": another unit? The contract did not change it"
        return found(gate, Verdict.REGRESSED, words, parameters=parameters, observed=observed)
    return found(
        gate,
        Verdict.SAFE,
        f"{n_compared} columns of numbers are on the scale they were on",
        parameters=parameters,
        observed=observed,
    )


def scale(values: Column, others: Column) -> float | None:
    """Return the one factor between two columns' quantiles; 1.0 without one, None for too few numbers."""
    if values.dtype.kind not in "iuf" or others.dtype.kind not in "iuf" or values.ndim != 1:
        return None
    one, two = _present(values), _present(others)
    if min(len(one), len(two)) < _MIN_SCALED_ROWS:
        return None
    a, b = np.quantile(one, _QUANTILES), np.quantile(two, _QUANTILES)
    usable = (np.abs(b) > 1e-12) & (np.abs(a) > 1e-12)
    if usable.sum() < 10 or len(np.unique(b[usable])) < 5:  # a few values: their shares decide, not a scale
        return 1.0
    ratios = a[usable] / b[usable]
    if (ratios <= 0).any():
        return 1.0
    middle = float(np.median(ratios))
    agree = np.abs(ratios / middle - 1) <= _STEADY
    if agree.mean() >= 0.9:
        return middle
    factor = float(a.mean() / b.mean())
    known = min(
        (*UNIT_FACTORS, *(1 / each for each in UNIT_FACTORS)), key=lambda each: abs(factor / each - 1)
    )
    before, after = float(np.abs(a - b).mean()), float(np.abs(a / known - b).mean())
    noise = np.hypot(*(each.std() / max(abs(each.mean()), 1e-12) / np.sqrt(len(each)) for each in (one, two)))
    is_unit = abs(factor / known - 1) <= _NEAR + 3 * noise and after <= _EXPLAINED * before
    left = (_LEFT + noise) * float(np.abs(b).mean())
    return known if is_unit and after <= left else 1.0


def parity(evidence: Evidence | None, kind: str) -> Evidence:
    """Ask whether the exported model is the fitted one, as its registration found.

    Args:
        evidence: What was compared when the version was registered; None if nothing was.
        kind: Kind of the registered predictor.
    """
    gate = "parity"
    if evidence is None:
        return not_asked(gate, f"nothing was converted: the {kind} model is served as it was given")
    return found(
        gate, evidence.verdict, evidence.reason, statistic=evidence.statistic, observed=evidence.observed
    )


def size(size_bytes: int, champion_bytes: int | None, gates: Gates) -> Evidence:
    """Ask whether the files stay within the limit, and in proportion to the champion's."""
    gate = "size"
    observed = {"bytes": size_bytes, "champion": champion_bytes}
    parameters = {"ratio": gates.size_ratio, "limit_bytes": gates.size_limit_bytes}
    words = f"{in_bytes(size_bytes)}"
    too_large = gates.size_limit_bytes is not None and size_bytes > gates.size_limit_bytes
    if too_large:
        assert gates.size_limit_bytes is not None
        words += f", allowed {in_bytes(gates.size_limit_bytes)}"
    if champion_bytes:
        ratio = size_bytes / champion_bytes
        words += (
            f", {ratio:.2f} times the champion's {in_bytes(champion_bytes)}; allowed {gates.size_ratio:g}"
        )
        too_large = too_large or ratio > gates.size_ratio
    return found(
        gate,
        Verdict.REGRESSED if too_large else Verdict.SAFE,
        words,
        statistic=float(size_bytes),
        parameters=parameters,
        observed=observed,
    )


def data_age(
    newest_us: int | None,
    champion_us: int | None,
    gates: Gates,
    *,
    now_us: int,
    why_not: str = "the rows carry no time: declare tg.Evaluation(event_time=...)",
) -> Evidence:
    """Ask whether the newest row is young enough, and no older than what the champion knows.

    Args:
        newest_us: Time of the newest row kept of the candidate, microseconds UTC; None where rows carry
            no time.
        champion_us: The same of the champion.
        gates: Limits.
        now_us: Now, microseconds UTC.
        why_not: Why the newest row's time is not known.
    """
    gate = "data-age"
    if newest_us is None:
        if gates.max_data_age_s is None:
            return not_asked(gate, why_not)
        words = f"a largest age is declared, and {why_not}"
        return found(gate, Verdict.UNDECIDED, words)
    age_s = (now_us - newest_us) / 1e6
    observed = {"newest_us": newest_us, "age_s": age_s, "champion_us": champion_us}
    parameters = {"max_age_s": gates.max_data_age_s, "behind_s": gates.data_behind_s}
    words = f"the newest row is {age_s / _DAY_S:,.0f} days old"
    verdict = Verdict.SAFE
    if age_s < -_DAY_S:
        return found(
            gate,
            Verdict.INVALID,
            f"the newest row lies {-age_s / _DAY_S:,.0f} days in the future",
            observed=observed,
        )
    if gates.max_data_age_s is not None and age_s > gates.max_data_age_s:
        verdict, words = Verdict.REGRESSED, words + f", allowed {gates.max_data_age_s / _DAY_S:g}"
    if champion_us is not None:
        behind_s = (champion_us - newest_us) / 1e6
        said = "newer than" if behind_s < 0 else "older than" if behind_s > 0 else "as new as"
        days = f"{abs(behind_s) / _DAY_S:,.0f} days " if behind_s else ""
        words += f", {days}{said} the champion's newest"
        if behind_s > gates.data_behind_s:
            verdict, words = (
                Verdict.REGRESSED,
                words + f"; allowed {gates.data_behind_s / _DAY_S:g} days behind",
            )
    return found(gate, verdict, words, statistic=age_s, parameters=parameters, observed=observed)


def card(missing: Iterable[str]) -> Evidence:
    """Ask whether a person has written the parts of the model card that only a person can."""
    gate, lacking = "card", list(missing)
    if lacking:
        return found(gate, Verdict.UNDECIDED, asking(lacking), observed={"missing": lacking})
    return found(gate, Verdict.SAFE, "complete", observed={"missing": []})


def in_bytes(size_bytes: float) -> str:
    """Return a number of bytes for people."""
    for unit in ("B", "KiB", "MiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} GiB"


def _present(column: Column) -> npt.NDArray[np.float64]:
    values = column.astype(np.float64)
    return np.asarray(values[np.isfinite(values)])
