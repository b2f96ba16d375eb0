"""Whether a predicted 30% still happens in 30% of the cases."""

from __future__ import annotations

import numpy as np

from tidegate.core.decision import Evidence, Verdict
from tidegate.evaluation.calibration import calibration as calibration_of
from tidegate.gate.answer import Answers, Floats
from tidegate.gate.declaration import Gates
from tidegate.gate.verdict import against_margin, found, not_asked
from tidegate.statistics.bootstrap import MIN_UNITS, percentile_interval, replicate_sums

_N_BINS = 10


def calibration(
    answers: Answers | None, gates: Gates, *, rng: np.random.Generator, why_not: str = ""
) -> Evidence:
    """Ask whether predicted and observed rates are no further apart than under the champion.

    Of several classes, the likeliest one's probability against how often it is right.
    Both errors are sums of absolute values, which noise makes larger; in their difference, on the same
    rows and with the same number of bins, that cancels. Without a champion the error itself, less what
    noise adds, has to stay below the limit.
    """
    gate = "calibration"
    if answers is None:
        return found(gate, Verdict.UNDECIDED, why_not)
    measure = answers.measure
    if not (measure.is_binary or measure.task == "multiclass") or not measure.has_scores:
        return not_asked(gate, "the answers are no probabilities")
    if answers.champion is None and why_not:
        return found(gate, Verdict.UNDECIDED, why_not)
    if answers.n_units < MIN_UNITS:
        return found(
            gate, Verdict.UNDECIDED, f"{answers.n_units} {answers.unit} are no basis for an interval"
        )
    if not np.isfinite(answers.candidate).all():
        return found(gate, Verdict.REGRESSED, "there are answers that are no numbers")
    if ((answers.candidate < 0) | (answers.candidate > 1)).any():
        return found(gate, Verdict.REGRESSED, "there are answers outside [0, 1], which are no probabilities")
    right, likeliest = _events(answers, answers.candidate)
    own = calibration_of(right, likeliest, rng=rng, level=gates.level)
    error = own.debiased
    observed: dict[str, object] = {
        "error": error.value,
        "interval": [error.low, error.high],
        "bins": [[each.n_rows, each.predicted, each.observed] for each in own.bins],
    }
    if answers.champion is None:
        assert error.value is not None
        assert error.low is not None
        assert error.high is not None
        limit = gates.calibration_limit
        verdict = (
            Verdict.SAFE
            if error.high <= limit
            else Verdict.REGRESSED
            if error.low > limit
            else Verdict.UNDECIDED
        )
        words = (
            f"predicted and observed rates are {error.value:.3f} apart "
            f"[{error.low:.3f}, {error.high:.3f}]; allowed {limit:g}"
        )
        return found(
            gate, verdict, words, statistic=error.value, parameters={"limit": limit}, observed=observed
        )
    terms = np.hstack([_terms(right, likeliest), _terms(*_events(answers, answers.champion))])
    n_rows = answers.n_rows
    whole = _difference(terms.sum(axis=0)[np.newaxis], n_rows)
    drawn = _difference(replicate_sums(terms, rng=rng, cluster=answers.cluster), n_rows)
    interval = percentile_interval(drawn, level=gates.level)
    assert interval is not None
    rise, margin = float(whole[0]), gates.calibration_margin
    verdict = against_margin(interval, margin)
    observed |= {"rise": rise, "rise_interval": [interval.low, interval.high], "n_rows": n_rows}
    words = (
        f"predicted and observed rates are {error.value:.3f} apart, {rise:+.3f} against the champion "
        f"[{interval.low:+.3f}, {interval.high:+.3f}]; allowed {margin:+g}"
    )
    if verdict is Verdict.UNDECIDED:
        words += f". Hold out more {answers.unit}"
    elif verdict is Verdict.REGRESSED:
        words += ". Recalibrate it on recent rows"
    return found(
        gate,
        verdict,
        words,
        statistic=rise,
        parameters={"margin": margin, "level": gates.level},
        observed=observed,
    )


def _events(answers: Answers, answered: Floats) -> tuple[Floats, Floats]:
    """Return what happened or not, and its probability; of classes: that the likeliest is right."""
    answered = np.clip(np.nan_to_num(answered, nan=0.0), 0.0, 1.0)  # a champion may answer anything
    if answers.measure.is_binary:
        return answers.outcomes, answered
    right = answers.measure.decided(answered) == answers.outcomes
    return right.astype(np.float64), answered.max(axis=1)


def _terms(outcomes: Floats, answered: Floats) -> Floats:
    """Return each row's predicted less observed, in the column of its bin by prediction."""
    order = np.argsort(answered, kind="stable")
    bins = np.empty(len(answered), dtype=np.int64)
    bins[order] = np.arange(len(answered)) * _N_BINS // len(answered)
    terms = np.zeros((len(answered), _N_BINS))
    terms[np.arange(len(answered)), bins] = answered - outcomes
    return terms


def _difference(sums: Floats, n_rows: int) -> Floats:
    own, other = np.abs(sums[:, :_N_BINS]).sum(axis=1), np.abs(sums[:, _N_BINS:]).sum(axis=1)
    return np.asarray((own - other) / n_rows)
