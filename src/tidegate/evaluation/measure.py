"""What a wrong answer costs, whatever is predicted: the one scale on which models are compared row by row."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.contract.field import Field
from tidegate.contract.schema import Contract
from tidegate.core.error import InvalidSetting
from tidegate.evaluation.declaration import Evaluation, Task
from tidegate.evaluation.estimate import Column, Floats
from tidegate.evaluation.ranking import list_gains

Ints = npt.NDArray[np.int64]

LIST_CUT = 10
"""Results of a list that count, from the top."""

_LEAST_PROBABILITY = 1e-15
_SUM_TOLERANCE = 1e-3
_ROUNDING = 1e-6
_NAMES: dict[Task, str] = {
    "binary": "log_loss",
    "multiclass": "log_loss",
    "regression": "squared_error",
    "ranking": "lost_ndcg",
    "forecast": "absolute_error",
}


class Measure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is predicted, how outcomes and answers are written as numbers, and what an answer loses.

    Attributes:
        task: What is predicted.
        classes: Names of the classes, in the order of the answers' values; of an event none, or both.
        has_scores: Of classes: answers are probabilities, not the decided class.
        query: Of a ranking: column that says which results stand in one list.
        season: Of a forecast: steps of a season.
        at: Of a forecast: column that says in which order steps came; empty: as they stand.
    """

    task: Task
    classes: tuple[str, ...] = ()
    has_scores: bool = True
    query: str = ""
    season: int = 1
    at: str = ""

    @property
    def name(self) -> str:
        """What a loss is: log loss in nats, squared or absolute error in the outcome's unit, or a share."""
        return _NAMES[self.task] if self.has_scores else "share_wrong"

    @property
    def is_binary(self) -> bool:
        return self.task == "binary"

    @property
    def is_number(self) -> bool:
        """Answers are numbers in the outcomes' unit."""
        return self.task in ("regression", "forecast")

    def fitting(self, *outcomes: Floats) -> Measure:
        """Return the measure of these outcomes: of shares, for which a probability stands, as of numbers.

        Raises:
            InvalidSetting: A probability cannot stand for them: they are codes such as 1 and 2, or numbers.
        """
        if self.task != "binary" or are_events(*outcomes):
            return self
        odd = next((value for each in outcomes for value in each[~((each >= 0) & (each <= 1))][:1]), None)
        if odd is not None:
            raise InvalidSetting(
                f"What came true is neither 0/1 nor a share that a probability could stand for. Got {odd:g}.",
                hint="Name the classes, no before yes: tg.Evaluation(classes=('1', '2')). Of a number say "
                "tg.Evaluation(task='regression').",
            )
        return Measure(task="regression")

    def outcomes(self, column: Column, *, name: str = "what came true") -> Floats:
        """Return what came true as numbers: of classes their places, shape (n_rows,).

        Two names of an event are sought whatever the column's type. Where none of them is found, and all
        values are 0 or 1, these are the places themselves.

        Raises:
            InvalidSetting: A value is no number, or none of the classes.
        """
        if self.task == "multiclass" or (self.is_binary and len(self.classes) == 2):
            places = self._places(column)
            if self.is_binary and (places < 0).all() and _are_places(column):
                return np.asarray(column, dtype=np.float64)
            if (places < 0).any():
                odd = column[int(np.flatnonzero(places < 0)[0])]
                raise InvalidSetting(
                    f"The column {name!r} holds {class_name(odd)!r}, which is none of the classes "
                    f"{', '.join(self.classes[:10])}.",
                    hint="Name the classes in the order of the output: tg.Evaluation(classes=(...)).",
                )
            return places
        try:
            if column.dtype.kind == "M":
                column = np.where(np.isnat(column), np.nan, column.astype("M8[us]").astype(np.int64))
            return np.asarray(column, dtype=np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidSetting(
                f"The column {name!r} is neither 0 and 1 nor a number: {error}.",
                hint="Of an event told in words: tg.Evaluation(classes=('no', 'yes')). Of several classes: "
                "an output of categories, or tg.vector(N) with tg.Evaluation(classes=(...)).",
            ) from error

    def answers(self, column: object) -> Floats:
        """Return answers as numbers: (n_rows, n_classes) of probabilities of classes, else (n_rows,).

        A decided class that does not exist has the place -1, and is always wrong.

        Raises:
            InvalidSetting: They have another shape, or are no numbers.
        """
        given = np.asarray(column)
        if self.task == "multiclass" and not self.has_scores:
            if given.ndim != 1:
                raise InvalidSetting(f"The decided class is one value a row. Got shape {given.shape}.")
            return self._places(given)
        try:
            values = np.asarray(given, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InvalidSetting(f"Answers are no numbers: {error}.") from error
        width = len(self.classes) if self.task == "multiclass" else None
        if values.ndim != (1 if width is None else 2) or (width is not None and values.shape[1] != width):
            expected = "one number a row" if width is None else f"{width} probabilities a row, one a class"
            raise InvalidSetting(f"Answers are {expected}. Got shape {values.shape}.")
        return within_bounds(values) if self.is_binary or width is not None else values

    def checked_answers(self, column: object, n_rows: int, *, what: str) -> Floats:
        """Return answers, complete and within bounds.

        Raises:
            InvalidSetting: They are not one finite answer a row, or no probabilities where they should be.
        """
        try:
            values = self.answers(column)
        except InvalidSetting as error:
            raise InvalidSetting(f"{what} does not fit: {error.message}", hint=error.hint) from error
        if len(values) != n_rows or not bool(np.isfinite(values).all()):
            raise InvalidSetting(
                f"{what} must be {n_rows} finite answers, one a test row. Got shape {values.shape}"
                + ("." if len(values) != n_rows else ", some of them no numbers.")
            )
        if self.is_binary and not bool(((values >= 0) & (values <= 1)).all()):
            raise InvalidSetting(
                f"{what} must be probabilities in [0, 1], for what comes true is 0 or 1.",
                hint="Of a classifier: predict_proba(rows)[:, 1].",
            )
        if values.ndim == 2 and not bool(
            ((values >= 0) & (values <= 1)).all() and (np.abs(values.sum(axis=1) - 1) <= _SUM_TOLERANCE).all()
        ):
            raise InvalidSetting(f"{what} must be probabilities that sum to 1 in each row.")
        return values

    def loss(self, outcomes: Floats, answers: Floats, lists: Ints | None = None) -> Floats:
        """Return what each row loses; of a ranking each list that has a relevant result: 1 less its NDCG.

        An answer that is no number loses infinitely much.

        Args:
            outcomes: As `outcomes` gives them.
            answers: As `answers` gives them.
            lists: Of a ranking: the list of each result, integers from 0.
        """
        if self.task == "ranking":
            assert lists is not None
            gained, has_any = list_gains(lists, outcomes, answers, cut=LIST_CUT)
            return np.asarray(np.nan_to_num(1.0 - gained[has_any], nan=np.inf))
        if self.task == "multiclass" and answers.ndim == 1:
            return np.asarray(outcomes != answers, dtype=np.float64)
        if self.is_number:
            error = answers - outcomes
            lost = np.abs(error) if self.task == "forecast" else np.square(error)
            return np.asarray(np.nan_to_num(lost, nan=np.inf, posinf=np.inf))
        likelihood = (
            np.where(outcomes == 1, answers, 1 - answers)
            if answers.ndim == 1
            else answers[np.arange(len(answers)), outcomes.astype(np.int64)]
        )
        lost = -np.log(np.clip(likelihood, _LEAST_PROBABILITY, 1.0))
        return np.asarray(np.nan_to_num(lost, nan=np.inf, posinf=np.inf))

    def decided(self, answers: Floats) -> Floats:
        """Return the place of the likeliest class of each row, shape (n_rows,)."""
        if answers.ndim == 1:
            return answers
        return np.asarray(np.where(np.isnan(answers), -1.0, answers).argmax(axis=1), dtype=np.float64)

    def _places(self, column: Column) -> Floats:
        place = {name: at for at, name in enumerate(self.classes)}
        by_truth = {value: _truth_place(value, self.classes) for value in (False, True)}
        found = [
            by_truth[bool(value)] if isinstance(value, bool | np.bool_) else place.get(class_name(value), -1)
            for value in column.tolist()
        ]
        return np.array(found, dtype=np.float64)


def _truth_place(value: bool, classes: tuple[str, ...]) -> int:
    """Return which class a truth value is: `true` in any case, or 1; -1 where it is none."""
    written = (str(value).lower(), str(int(value)))
    return next((at for at, name in enumerate(classes) if name.lower() in written), -1)


def _are_places(column: Column) -> bool:
    # By value, not by type: truth values and numbers with gaps come as objects.
    return all(
        isinstance(value, bool | np.bool_ | int | float) and value in (0, 1) for value in column.tolist()
    )


def are_events(*outcomes: Floats) -> bool:
    """Tell whether all outcomes are 0 or 1."""
    return all(bool(np.isin(each, (0.0, 1.0)).all()) for each in outcomes)


def measure_of(contract: Contract, declared: Evaluation) -> Measure:
    """Return by what a service's answers are measured.

    Raises:
        InvalidSetting: Several outputs could be judged, the classes are not known, or nothing says which
            results stand in one list.
    """
    field, task = declared.judged(contract), declared.kind(contract)
    if task == "multiclass":
        classes = classes_of(declared, contract, field)
        return Measure(task=task, classes=classes, has_scores=not field.is_scalar)
    if task == "ranking" and not declared.query:
        raise InvalidSetting(
            "A ranking is judged by list, and no column says which.",
            hint="Declare it: tg.Evaluation(query=...).",
        )
    return Measure(
        task=task,
        classes=declared.classes if task == "binary" else (),
        query=declared.query if task == "ranking" else "",
        season=declared.season if task == "forecast" else 1,
        at=declared.event_time if task == "forecast" else "",
    )


def classes_of(declared: Evaluation, contract: Contract, field: Field) -> tuple[str, ...]:
    """Return the names of the classes, in the order of the output's values.

    Raises:
        InvalidSetting: They are not known.
    """
    if declared.classes:
        return declared.classes
    if field.categories:
        return field.categories
    beside = [other.categories for other in contract.output.fields if other.categories]
    if len(beside) == 1:
        return beside[0]
    if field.shape and field.shape[0] is not None:
        return tuple(str(place) for place in range(field.shape[0]))
    raise InvalidSetting(
        f"The classes of the output {field.name!r} are not known.",
        hint="Name them: tg.Evaluation(classes=(...)).",
    )


def within_bounds(probabilities: Floats) -> Floats:
    """Return probabilities with those put back that rounding took past 0 or 1; others stay as they are.

    The sum of a hundred trees' shares in float32 ends at 1.0000001.
    """
    inside = np.clip(probabilities, 0.0, 1.0)
    return np.asarray(np.where(np.abs(inside - probabilities) <= _ROUNDING, inside, probabilities))


def class_name(value: object) -> str:
    """Return a class as text: 2.0 and 2 are one class."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def numbered(column: Column) -> Ints:
    """Return which rows have the same value, as integers from 0 in order of appearance."""
    known: dict[object, int] = {}
    return np.array([known.setdefault(value, len(known)) for value in column.tolist()], np.int64)
