"""Labels from rules of thumb: several functions vote on each row, and a model weighs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from tidegate.core.error import InvalidSetting

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]

ABSTAIN = -1
_MAX_STEPS = 200
_TOLERANCE = 1e-7
_EDGE = 1e-3
"""No function counts as surer than this lets it: one that was never seen to fail could still."""

_PRIOR_VOTES = 2.0
"""Votes that are added to each function's record, at an accuracy of `_PRIOR_ACCURACY`: without them, two
functions that agree on three rows would outvote everything."""
_PRIOR_ACCURACY = 0.7
_PRIOR_ROWS = 10.0
"""Rows of each class that are added to those that tell the shares of classes: a handful decides nothing."""
_FEW = 20
"""With fewer votes beside another one or a hand label, an accuracy is mostly the one assumed beforehand."""


class LabellingRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A rule of thumb as plain data: where a condition holds, it votes for a label.

    Attributes:
        name: Names it in reports.
        when: Condition on the columns, in SQL: `lead_time > 300 AND deposit_type = 'Non Refund'`.
        label: What it votes for; elsewhere it abstains.
    """

    name: str
    when: str
    label: str | int | bool

    def __call__(self, table: pl.DataFrame) -> pl.Series:
        """Return a vote a row, null where it abstains.

        Raises:
            InvalidSetting: The condition cannot be read, or does not fit the table.
        """
        try:
            condition = table.select(pl.sql_expr(self.when).alias("when")).to_series()
        except pl.exceptions.PolarsError as error:
            reason = str(error).strip().splitlines()[0]
            raise InvalidSetting(
                f"The labelling rule {self.name!r} cannot be used: {reason}", rule=self.name
            ) from error
        if condition.dtype != pl.Boolean or len(condition) != len(table):
            raise InvalidSetting(
                f"The condition of the labelling rule {self.name!r} must be true or false of each row.",
                rule=self.name,
            )
        value = pl.lit(self.label)
        return table.select(pl.when(condition).then(value).alias(self.name)).to_series()


LabellingFunction = Callable[[pl.DataFrame], Any]
"""Maps a table to a vote a row: a label, or None to abstain."""


class FunctionReport(msgspec.Struct, frozen=True):
    """What one function does.

    Attributes:
        name: Which.
        coverage: Share of the rows on which it votes.
        overlap: Share of the rows on which it and another one vote.
        conflict: Share of the rows on which another one votes otherwise.
        n_told: Of its votes, those that tell how often it is right: on rows with another vote or a hand
            label.
        accuracy: Estimated share of its votes that are right, at least what chance would give; None where
            it never votes.
        weight: Of its vote, in log odds; 0 is chance.
        n_checked: Of its votes, those on rows with a hand label.
        checked: Share of those that agree with it; None without any.
    """

    name: str
    coverage: float
    overlap: float
    conflict: float
    n_told: int
    accuracy: float | None
    weight: float
    n_checked: int
    checked: float | None


class LabellingReport(msgspec.Struct, frozen=True):
    """What all functions together do.

    Attributes:
        n_rows: Rows.
        classes: What is voted for, as text.
        coverage: Share of the rows on which at least one votes.
        conflict: Share of the rows on which two disagree.
        balance: Estimated share of each class among rows that are voted on.
        functions: One each.
        n_hand: Rows with a hand label.
        agreement: Share of them, of those that were voted on, that the model labels the same; None
            without any.
        notes: Where the figures are hardly better than what was assumed beforehand, in words.
    """

    n_rows: int
    classes: tuple[str, ...]
    coverage: float
    conflict: float
    balance: dict[str, float]
    functions: tuple[FunctionReport, ...]
    n_hand: int
    agreement: float | None
    notes: tuple[str, ...] = ()


class Labelled(msgspec.Struct, frozen=True):
    """Labels, and how they came about.

    Attributes:
        table: The rows with the columns `label` (null where nobody votes and no hand label stands),
            `label_probability`, and `label_by`: `hand`, `functions` or null.
        report: What the functions do.
    """

    table: pl.DataFrame
    report: LabellingReport


def label_rows(
    table: pl.DataFrame, functions: Mapping[str, LabellingFunction], *, hand: str | None = None
) -> Labelled:
    """Label rows by weighted vote; a hand label goes before any vote.

    Each function is taken to be right with a probability of its own, on all classes alike and
    independently of the others given the truth; its vote then counts with the log odds of being right.
    The probabilities are estimated from how functions agree, and from hand labels where they stand, by
    expectation maximisation over the rows with two votes or a hand label: one vote alone says nothing of
    whoever cast it. Without truth a set of accuracies fits as well as its mirror image, so that none is
    taken to be below chance. Shares of classes are estimated only where every function votes for several:
    of one that knows one label, the share is in its accuracy already. Functions that copy each other break
    the assumption and count too much: look at the overlaps.

    Args:
        table: The rows.
        functions: By name.
        hand: Column of hand labels, null where there is none.

    Raises:
        InvalidSetting: There is no function, one returns something other than a vote a row, or there is
            only one class.

    Source: Dawid & Skene, Applied Statistics 28(1), 1979 (with one accuracy a worker); log-odds weights:
    Nitzan & Paroush, International Economic Review 23(2), 1982. Labelling functions: Ratner et al.,
    Snorkel, VLDB 2018.
    """
    if not functions:
        raise InvalidSetting("There is no labelling function.")
    votes, classes = _votes(table, functions)
    truth = _hand(table, hand, classes)
    accuracy, prior = _estimate(votes, truth, len(classes))
    odds = _log_odds(accuracy, len(classes))
    posterior = _posterior(votes, odds, prior)
    voted = (votes != ABSTAIN).any(axis=1)
    chosen = np.where(voted, posterior.argmax(axis=1), ABSTAIN)
    final = np.where(truth != ABSTAIN, truth, chosen)
    chance = np.where(truth != ABSTAIN, 1.0, posterior.max(axis=1))
    names = pl.Series([*classes, None])
    by = np.where(truth != ABSTAIN, "hand", np.where(voted, "functions", ""))
    labelled = table.with_columns(
        names.gather(np.where(final == ABSTAIN, len(classes), final)).alias("label"),
        pl.Series("label_probability", np.where(final == ABSTAIN, np.nan, chance)).fill_nan(None),
        pl.Series("label_by", by).replace("", None),
    )
    return Labelled(
        labelled,
        _report(
            list(functions), votes, truth, classes=classes, accuracy=accuracy, odds=odds, posterior=posterior
        ),
    )


def read_labelling_rules(data: bytes) -> list[LabellingRule]:
    """Read a JSON list of labelling rules.

    Raises:
        InvalidSetting: It is something else, or two have one name.
    """
    try:
        rules = msgspec.json.decode(data, type=list[LabellingRule])
    except msgspec.MsgspecError as error:
        raise InvalidSetting(
            f"These are no labelling rules: {error}",
            hint='Write [{"name": "far ahead", "when": "lead_time > 300", "label": 1}].',
        ) from error
    if len({rule.name for rule in rules}) < len(rules):
        raise InvalidSetting("Two labelling rules have the same name.")
    return rules


def _votes(table: pl.DataFrame, functions: Mapping[str, LabellingFunction]) -> tuple[Codes, list[Any]]:
    columns: list[list[Any]] = []
    for name, function in functions.items():
        given = function(table)
        values = given.to_list() if isinstance(given, pl.Series) else list(given)
        if len(values) != len(table):
            raise InvalidSetting(
                f"The labelling function {name!r} gives {len(values)} votes on {len(table)} rows.", rule=name
            )
        columns.append(values)
    distinct = {value for values in columns for value in values if value is not None}
    classes = sorted(distinct, key=lambda value: (str(type(value)), value))
    if len(classes) < 2:
        raise InvalidSetting(
            f"The functions vote for {len(classes)} label{'s' * (len(classes) != 1)}.",
            hint="At least two are needed: a rule that only ever says yes tells nothing apart.",
        )
    if len({type(value) for value in classes}) > 1:
        raise InvalidSetting("The functions vote for labels of different types.", hint="Use one type.")
    place = {value: at for at, value in enumerate(classes)}
    codes = [[ABSTAIN if value is None else place[value] for value in values] for values in columns]
    return np.array(codes, dtype=np.int64).T.reshape(len(table), len(columns)), classes


def _hand(table: pl.DataFrame, hand: str | None, classes: list[Any]) -> Codes:
    if hand is None:
        return np.full(len(table), ABSTAIN)
    if hand not in table.columns:
        raise InvalidSetting(f"There is no column {hand!r}.", hint=f"Columns: {', '.join(table.columns)}.")
    place = {str(value).lower(): at for at, value in enumerate(classes)}
    found = []
    for value in table[hand].to_list():
        code = ABSTAIN if value is None else place.get(str(value).lower())
        if code is None:
            raise InvalidSetting(
                f"The hand label {value!r} is none of the labels that are voted for.",
                hint=f"They are: {', '.join(map(str, classes))}.",
            )
        found.append(code)
    return np.array(found, dtype=np.int64)


def _estimate(votes: Codes, truth: Codes, n_classes: int) -> tuple[Floats, Floats]:
    """Return each function's accuracy, and the share of each class."""
    known = truth != ABSTAIN
    told = known | ((votes != ABSTAIN).sum(axis=1) > 1)
    votes, truth, known = votes[told], truth[told], known[told]
    n_functions = votes.shape[1]
    accuracy = np.full(n_functions, _PRIOR_ACCURACY)
    prior = np.full(n_classes, 1 / n_classes)
    knows_several = all(len(np.unique(each[each != ABSTAIN])) > 1 for each in votes.T)
    for _ in range(_MAX_STEPS):
        belief = _posterior(votes, _log_odds(accuracy, n_classes), prior)
        belief[known] = np.eye(n_classes)[truth[known]]
        before = accuracy
        right, cast = np.zeros(n_functions), np.zeros(n_functions)
        for each in range(n_functions):
            rows = np.flatnonzero(votes[:, each] != ABSTAIN)
            right[each] = belief[rows, votes[rows, each]].sum()
            cast[each] = len(rows)
        accuracy = (right + _PRIOR_VOTES * _PRIOR_ACCURACY) / (cast + _PRIOR_VOTES)
        accuracy = np.maximum(accuracy, _least(n_classes))
        if knows_several:
            total = belief.sum(axis=0) + _PRIOR_ROWS
            prior = total / total.sum()
        if float(np.abs(accuracy - before).max()) < _TOLERANCE:
            break
    return accuracy, prior


def _least(n_classes: int) -> float:
    # A trace above chance: a vote that nobody contradicts decides, if only just.
    return 1 / n_classes + _EDGE


def _log_odds(accuracy: Floats, n_classes: int) -> Floats:
    inside = accuracy.clip(_EDGE, 1 - _EDGE)
    return np.asarray(np.log(inside * (n_classes - 1) / (1 - inside)))


def _posterior(votes: Codes, odds: Floats, prior: Floats) -> Floats:
    scores = np.tile(np.log(prior), (len(votes), 1))
    for each, weight in enumerate(odds):
        rows = np.flatnonzero(votes[:, each] != ABSTAIN)
        scores[rows, votes[rows, each]] += weight
    scores -= scores.max(axis=1, keepdims=True)
    likely = np.exp(scores)
    return np.asarray(likely / likely.sum(axis=1, keepdims=True))


def _report(
    names: Sequence[str],
    votes: Codes,
    truth: Codes,
    *,
    classes: Sequence[Any],
    accuracy: Floats,
    odds: Floats,
    posterior: Floats,
) -> LabellingReport:
    n_rows = max(1, len(votes))
    cast = votes != ABSTAIN
    voted = cast.any(axis=1)
    n_cast = cast.sum(axis=1)
    highest, lowest = votes.max(axis=1), np.where(cast, votes, len(classes)).min(axis=1)
    disagreed = (n_cast > 1) & (highest != lowest)
    known = truth != ABSTAIN
    functions = []
    for at, name in enumerate(names):
        mine = cast[:, at]
        others = np.delete(votes, at, axis=1)
        against = ((others != ABSTAIN) & (others != votes[:, [at]])).any(axis=1)
        checked = mine & known
        functions.append(
            FunctionReport(
                name=name,
                coverage=float(mine.sum()) / n_rows,
                overlap=float((mine & (n_cast > 1)).sum()) / n_rows,
                conflict=float((mine & against).sum()) / n_rows,
                n_told=int((mine & (known | (n_cast > 1))).sum()),
                accuracy=float(accuracy[at]) if mine.any() else None,
                weight=float(odds[at]),
                n_checked=int(checked.sum()),
                checked=float((votes[checked, at] == truth[checked]).mean()) if checked.any() else None,
            )
        )
    both = known & voted
    share = posterior[voted].mean(axis=0) if voted.any() else np.zeros(len(classes))
    return LabellingReport(
        n_rows=len(votes),
        classes=tuple(map(str, classes)),
        coverage=float(voted.sum()) / n_rows,
        conflict=float(disagreed.sum()) / n_rows,
        balance={str(value): float(part) for value, part in zip(classes, share, strict=True)},
        functions=tuple(functions),
        n_hand=int(known.sum()),
        agreement=float((posterior[both].argmax(axis=1) == truth[both]).mean()) if both.any() else None,
        notes=tuple(_notes(functions, len(classes))),
    )


def _notes(functions: Sequence[FunctionReport], n_classes: int) -> Iterator[str]:
    """Say which accuracies are not to be relied on."""
    for each in functions:
        if each.accuracy is None:
            yield f"The rule {each.name!r} votes on no row."
        elif each.n_told < _FEW:
            rows = "no row" if not each.n_told else f"{each.n_told} row{'s' * (each.n_told != 1)} only"
            yield (
                f"The rule {each.name!r} meets another vote or a hand label on {rows}: how often it is right "
                f"is mostly what is assumed beforehand, {_PRIOR_ACCURACY:.0%}."
            )
        elif each.accuracy <= _least(n_classes):
            yield (
                f"The rule {each.name!r} looks no better than chance beside the others and the hand labels, "
                "and hardly counts: look at it."
            )
