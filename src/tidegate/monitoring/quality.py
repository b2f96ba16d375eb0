"""The figures of a stretch of time: estimated without its labels, and realised with them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import polars as pl

from tidegate.core.error import TidegateError
from tidegate.evaluation.metric import NotMeasurable
from tidegate.monitoring.classes import ClassEstimator, class_figures
from tidegate.monitoring.domain import Design, ErrorModel, density_ratio
from tidegate.monitoring.estimate import CalibratedEstimator, Estimated, realised_figures
from tidegate.monitoring.subject import LABEL, Subject, day_numbers

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Estimate = Callable[[pl.DataFrame], tuple[Estimated, ...]]

FEWEST_LABELS = 100
_MOST_ROWS = 50_000
_MONTH_DAYS, _WEEK_DAYS, _MANY = 30, 7, 6


class Quality:
    """Estimates and measures how good the answers of a window are, whatever is predicted."""

    def __init__(
        self, subject: Subject, reference: pl.DataFrame, losses: Floats, *, rng: np.random.Generator
    ) -> None:
        """Learn from a reference.

        Args:
            subject: What is watched.
            reference: Its prepared records.
            losses: Their losses, NaN without a label, shape (n_rows,).
            rng: Source of randomness.
        """
        self._subject = subject
        self._rng = rng
        known = np.flatnonzero(np.isfinite(losses))
        if len(known) > _MOST_ROWS:
            known = np.sort(rng.choice(known, _MOST_ROWS, replace=False))
        self._labelled = reference[known]
        self.notes: list[str] = []
        self.constant: dict[str, float] = {}
        self._estimate: Estimate = lambda rows: ()
        if subject.task == "none":
            return
        if len(known) < FEWEST_LABELS:
            self.notes.append(
                f"Quality without labels is undecided: the reference has {len(known)} labelled records, "
                f"it needs {FEWEST_LABELS}."
            )
            return
        try:
            self.constant = self.realised(self._labelled)
            self._estimate = self._learned()
        except TidegateError as error:
            self.notes.append(f"Quality without labels is undecided: {error.message}")

    def estimated(self, rows: pl.DataFrame) -> tuple[Estimated, ...]:
        """Return the figures of a window without its labels; none where they cannot be told."""
        return self._estimate(rows) if rows.height else ()

    def realised(self, rows: pl.DataFrame) -> dict[str, float]:
        """Return the figures of labelled rows; those that are not defined are left out."""
        if not rows.height:
            return {}
        subject = self._subject
        if subject.task == "multiclass":
            found = {"error_rate": float(subject.losses(rows).mean())}
            scores, labels, _ = self._classes(rows)
            if len(scores):
                truth = np.eye(len(subject.classes))[labels]
                found |= {name: each.value for name, each in class_figures(scores, truth).items()}
            return found
        given, label = (rows[name].cast(pl.Float64).to_numpy() for name in (subject.judged, LABEL))
        if subject.task == "binary":
            return realised_figures(given, label, threshold=subject.threshold)
        errors = np.abs(given - label)
        return {"mae": float(errors.mean()), "rmse": float(np.sqrt((errors**2).mean()))}

    def _classes(self, rows: pl.DataFrame) -> tuple[Floats, Integers, Integers]:
        """Return probabilities and true classes of the rows that have both, and where these rows are."""
        scores, good = self._scores(rows)
        places = {name: place for place, name in enumerate(self._subject.classes)}
        if not places or LABEL not in rows.columns:
            return np.zeros((0, 0)), np.zeros(0, np.int64), np.zeros(0, np.int64)
        labels = rows[LABEL].cast(pl.String).replace_strict(places, default=-1, return_dtype=pl.Int64)
        codes = labels.fill_null(-1).to_numpy()[good]
        known = codes >= 0
        return scores[known], codes[known], good[known]

    def _scores(self, rows: pl.DataFrame) -> tuple[Floats, Integers]:
        """Return probabilities by class of the rows that have one a class, and where these rows are."""
        n_classes = len(self._subject.classes)
        if self._subject.scores not in rows.columns or not n_classes:
            return np.zeros((0, n_classes)), np.zeros(0, np.int64)
        column = rows[self._subject.scores].cast(pl.List(pl.Float64))
        whole = np.flatnonzero((column.list.len() == n_classes).fill_null(False).to_numpy())
        flat = column[whole].explode().cast(pl.Float64).to_numpy().reshape(-1, n_classes)
        finite = np.isfinite(flat).all(axis=1)
        return flat[finite], whole[finite]

    def _learned(self) -> Estimate:
        subject, labelled = self._subject, self._labelled
        days = day_numbers(labelled)
        span = int(days[-1] - days[0]) + 1
        # months, if there are enough of them to say how far estimates miss; shorter stretches miss more
        length = _MONTH_DAYS if span >= _MANY * _MONTH_DAYS else max(_WEEK_DAYS, span // _MANY)
        chunk = (days - days[0]) // length
        fields = [*subject.inputs, subject.judged]
        if subject.task == "binary":
            return self._by_probability(chunk, fields)
        if subject.scores:
            return self._by_class(chunk, fields)
        if subject.task == "multiclass":
            model = ErrorModel(
                labelled, subject.losses(labelled), fields=fields, chunk=chunk, metric="error_rate"
            )
            return lambda rows: (model.estimate(rows),)
        given, label = (labelled[name].cast(pl.Float64).to_numpy() for name in (subject.judged, LABEL))
        errors = np.abs(given - label)
        sizes = ErrorModel(labelled, errors, fields=fields, chunk=chunk)
        squares = ErrorModel(labelled, errors**2, fields=fields, chunk=chunk, metric="rmse")
        return lambda rows: (sizes.estimate(rows), squares.estimate(rows))

    def _by_probability(self, chunk: Integers, fields: list[str]) -> Estimate:
        subject, labelled = self._subject, self._labelled
        scores = labelled[subject.judged].cast(pl.Float64).to_numpy()
        labels = labelled[LABEL].cast(pl.Float64).to_numpy()
        estimator = CalibratedEstimator(
            scores, labels, chunk=chunk, rng=self._rng, threshold=subject.threshold
        )
        design = Design(labelled, fields)

        def estimate(rows: pl.DataFrame) -> tuple[Estimated, ...]:
            given = rows[subject.judged].cast(pl.Float64).to_numpy()
            given = given[np.isfinite(given)]
            if not len(given):
                return ()
            weights = density_ratio(design, labelled, rows, rng=self._rng)
            return estimator.pape(estimator.table(given), weights)

        return estimate

    def _by_class(self, chunk: Integers, fields: list[str]) -> Estimate:
        scores, labels, places = self._classes(self._labelled)
        if len(np.unique(labels)) < 2:
            raise NotMeasurable("All outcomes of the reference are of one class.")
        labelled = self._labelled[places]
        estimator = ClassEstimator(scores, labels, chunk=chunk[places])
        design = Design(labelled, fields)

        def estimate(rows: pl.DataFrame) -> tuple[Estimated, ...]:
            given, _ = self._scores(rows)
            if not len(given):
                return ()
            return estimator.estimate(given, density_ratio(design, labelled, rows, rng=self._rng))

        return estimate
