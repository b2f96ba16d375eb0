"""Parity: whether a converted model is the model it was converted from, shown on real rows."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate.contract.batch import Batch, Column
from tidegate.contract.schema import Field
from tidegate.core.decision import Evidence, Verdict
from tidegate.core.error import TidegateError
from tidegate.predictor.protocol import Predictor

RULE = "parity"


class ParityRefused(TidegateError):
    """A converted model does not answer as the original does."""

    code = "parity_refused"


class Tolerance(msgspec.Struct, frozen=True):
    """How far a converted model may be from its original.

    Attributes:
        absolute: Largest difference of a probability (a float output declared within [0, 1]) that
            is taken for rounding. 1e-4 is a hundred times what float32 sums of some hundred trees
            show, and below what a decision threshold with two digits can see.
        relative: Largest difference of any other number, as a share of the larger of the
            original's absolute value and the median of these over the rows (so that values near 0
            do not count as infinitely far).
        labels: Largest share of rows whose labels, texts or whole numbers differ. They flip where
            two scores are equal but for rounding.
    """

    absolute: float = 1e-4
    relative: float = 1e-3
    labels: float = 1e-3


class OutputParity(msgspec.Struct, frozen=True):
    """What was found of one output.

    Attributes:
        field: The output field.
        measure: `absolute`, `relative` or `labels`.
        largest_absolute: Largest absolute difference; None for labels.
        largest_relative: Largest relative difference; None for labels.
        share_above: Share of rows above the tolerance; of labels, of rows that differ.
        worst_row: Row of the largest difference, None where there is none.
        passed: Within tolerance.
    """

    field: str
    measure: str
    largest_absolute: float | None
    largest_relative: float | None
    share_above: float
    worst_row: int | None
    passed: bool


class Parity(msgspec.Struct, frozen=True):
    """How two predictors compare on the same rows.

    Attributes:
        n_rows: Rows compared.
        outputs: One finding an output field.
        tolerance: What was allowed.
    """

    n_rows: int
    outputs: tuple[OutputParity, ...]
    tolerance: Tolerance

    @property
    def passed(self) -> bool:
        return all(output.passed for output in self.outputs)

    @property
    def largest(self) -> float:
        """Largest absolute difference of any number, 0 where there are none."""
        return max((output.largest_absolute or 0.0 for output in self.outputs), default=0.0)

    def describe(self) -> str:
        """Say in one line what was found."""
        return "; ".join(_describe(output, self.n_rows) for output in self.outputs)

    def evidence(self, *, reference: str = "", candidate: str = "") -> Evidence:
        """Return what was found, complete enough to be judged again.

        Args:
            reference: What the original is, for example `sklearn.pipeline.Pipeline`.
            candidate: What was compared with it, for example `onnx, float32 matrix`.
        """
        return Evidence(
            rule=RULE,
            verdict=Verdict.SAFE if self.passed else Verdict.REGRESSED,
            reason=self.describe(),
            parameters=msgspec.to_builtins(self.tolerance),
            observed={
                "n_rows": self.n_rows,
                "outputs": msgspec.to_builtins(self.outputs),
                "reference": reference,
                "candidate": candidate,
            },
            statistic=self.largest,
        )


def compare(
    reference: Predictor, candidate: Predictor, batch: Batch, *, tolerance: Tolerance | None = None
) -> Parity:
    """Ask two predictors of one contract the same and compare their answers.

    Args:
        reference: The original.
        candidate: What shall stand for it.
        batch: Real rows, at least one.
        tolerance: What may differ.

    Raises:
        PredictorError: One of them failed.
    """
    fields = reference.contract.output.fields
    return compare_answers(fields, reference.predict(batch), candidate.predict(batch), tolerance=tolerance)


def compare_answers(
    fields: Sequence[Field], expected: Batch, got: Batch, *, tolerance: Tolerance | None = None
) -> Parity:
    """Compare two answers to the same rows.

    Args:
        fields: The output fields.
        expected: The original's answers.
        got: Those of what shall stand for it.
        tolerance: What may differ.
    """
    allowed = tolerance or Tolerance()
    outputs = tuple(_compare_field(field, expected[field.name], got[field.name], allowed) for field in fields)
    return Parity(got.n_rows, outputs, allowed)


def require_parity(parity: Parity, *, model: str = "model") -> None:
    """Refuse a conversion that is above tolerance.

    Raises:
        ParityRefused: It is; names the outputs, the differences and the worst row.
    """
    if parity.passed:
        return
    failed = [output for output in parity.outputs if not output.passed]
    raise ParityRefused(
        f"The converted {model} answers differently from the original on {parity.n_rows} rows: "
        f"{'; '.join(_describe(output, parity.n_rows) for output in failed)}.",
        hint="A single row far off is typical of a tree's threshold that float32 cannot hold: fit on float32 "
        "data, keep the model in its own format, or pass a wider tolerance that you can defend.",
        outputs={output.field: output.largest_absolute for output in failed},
    )


def _compare_field(field: Field, expected: Column, got: Column, allowed: Tolerance) -> OutputParity:
    if None in field.shape:
        return _compare_ragged(field, expected, got, allowed)
    if not field.type.is_float:
        differs = _by_row(np.not_equal(expected, got).astype(bool)) > 0
        share = float(differs.mean())
        worst = int(np.argmax(differs)) if share else None
        return OutputParity(field.name, "labels", None, None, share, worst, share <= allowed.labels)
    one, two = expected.astype(np.float64), got.astype(np.float64)
    absolute = _by_row(_difference(one, two))
    scale = np.abs(np.where(np.isfinite(one), one, 0.0))
    with np.errstate(over="ignore"):  # beside a tiny value any difference is as good as infinite
        ratio = _difference(one, two) / np.maximum(scale, np.median(scale) or 1.0)
    relative = _by_row(ratio)
    is_probability = field.ge == 0 and field.le == 1
    judged, limit = (absolute, allowed.absolute) if is_probability else (relative, allowed.relative)
    worst = int(np.argmax(judged))
    return OutputParity(
        field.name,
        "absolute" if is_probability else "relative",
        float(absolute.max()),
        float(relative.max()),
        float((judged > limit).mean()),
        worst if judged[worst] > 0 else None,
        bool(judged[worst] <= limit),
    )


def _compare_ragged(field: Field, expected: Column, got: Column, allowed: Tolerance) -> OutputParity:
    """Compare rows of differing length by their largest difference; another length is infinitely far."""
    if not field.type.is_float:
        differs = np.array([not np.array_equal(a, b) for a, b in zip(expected, got, strict=True)])
        share = float(differs.mean())
        return OutputParity(
            field.name, "labels", None, None, share, int(np.argmax(differs)) if share else None, share == 0
        )
    flat = msgspec.structs.replace(field, shape=())
    parts = [
        _compare_field(flat, np.ravel(a), np.ravel(b), allowed) if np.shape(a) == np.shape(b) else None
        for a, b in zip(expected, got, strict=True)
    ]
    absolute = [np.inf if part is None else part.largest_absolute or 0.0 for part in parts]
    relative = [np.inf if part is None else part.largest_relative or 0.0 for part in parts]
    failed = [part is None or not part.passed for part in parts]
    return OutputParity(
        field.name,
        "relative",
        float(max(absolute)),
        float(max(relative)),
        float(np.mean(failed)),
        int(np.argmax(absolute)) if max(absolute) > 0 else None,
        not any(failed),
    )


def _difference(one: npt.NDArray[np.float64], two: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return absolute differences; 0 for the same infinity or NaN, infinite where one is not finite."""
    with np.errstate(invalid="ignore"):
        difference = np.abs(one - two)
    same = (one == two) | (np.isnan(one) & np.isnan(two))
    return np.where(same, 0.0, np.where(np.isnan(difference), np.inf, difference))


def _by_row(values: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """Return each row's largest value, shape (n_rows,)."""
    largest: npt.NDArray[np.float64] = values.reshape(len(values), -1).astype(np.float64).max(axis=1)
    return largest


def _describe(output: OutputParity, n_rows: int) -> str:
    if output.measure == "labels":
        return f"{output.field}: {output.share_above:.3%} of {n_rows} rows differ"
    text = (
        f"{output.field}: largest difference {output.largest_absolute:.3g}, "
        f"relative {output.largest_relative:.3g}"
    )
    if output.worst_row is not None:
        text += f" (row {output.worst_row})"
    return text + (
        f", {output.share_above:.3%} of {n_rows} rows above tolerance" if not output.passed else ""
    )
