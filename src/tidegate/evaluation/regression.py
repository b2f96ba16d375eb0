"""Figures of predicted numbers and of forecasts, each with an interval."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from tidegate.core.error import InvalidSetting
from tidegate.evaluation.estimate import Estimate, Figure, Floats, numbers, resampled
from tidegate.evaluation.metric import NotMeasurable


def regression(
    outcomes: npt.ArrayLike,
    predictions: npt.ArrayLike,
    *,
    rng: np.random.Generator,
    level: float = 0.95,
    cluster: npt.NDArray[np.int64] | None = None,
) -> tuple[Estimate, ...]:
    """Measure predicted numbers: mae, rmse, bias (predicted less observed), r2; all by one bootstrap.

    Args:
        outcomes: What was observed, shape (n_rows,).
        predictions: What was predicted, the same unit and shape.
        rng: Source of randomness of the bootstrap.
        level: Confidence, in (0, 1).
        cluster: Which rows belong together, integers from 0; None: rows are independent.

    Raises:
        NotMeasurable: The columns differ in length, are empty, or hold a NaN or an infinity.
    """
    observed = numbers(outcomes, name="Outcomes")
    error = numbers(predictions, name="Predictions", n_rows=len(observed)) - observed
    # r2 subtracts squares of sums: about the mean they keep their digits
    centred = observed - observed.mean()
    terms = np.column_stack(
        [np.ones(len(error)), np.abs(error), np.square(error), error, centred, np.square(centred)]
    )
    figures: dict[str, tuple[Figure, bool | None]] = {
        "mae": (lambda s: s[:, 1] / s[:, 0], False),
        "rmse": (lambda s: np.sqrt(s[:, 2] / s[:, 0]), False),
        "bias": (lambda s: s[:, 3] / s[:, 0], None),
        "r2": (lambda s: 1 - s[:, 2] / (s[:, 5] - s[:, 4] * s[:, 4] / s[:, 0]), True),
    }
    return resampled(terms, figures, rng=rng, level=level, cluster=cluster)


def forecast(
    outcomes: npt.ArrayLike,
    predictions: npt.ArrayLike,
    *,
    history: npt.ArrayLike,
    rng: np.random.Generator,
    season: int = 1,
    block: int = 1,
    quantiles: Mapping[float, npt.ArrayLike] | None = None,
    level: float = 0.95,
) -> tuple[Estimate, ...]:
    """Measure a forecast: mae, mase, and for each declared quantile `pinball[q]` and `coverage[q]`.

    Errors of neighbouring steps resemble each other, so whole blocks of steps are resampled.

    Args:
        outcomes: What was observed, in order of time, shape (n_steps,).
        predictions: The point forecast, the same unit and shape.
        history: The series before the forecast, in order of time, more than `season` steps.
        rng: Source of randomness of the bootstrap.
        season: Steps of a season; the naive forecast that MASE divides by repeats the last one.
        block: Steps that are resampled together; at least as long as errors stay alike.
        quantiles: Forecast quantiles by their probability in (0, 1), each of shape (n_steps,).
        level: Confidence, in (0, 1).

    Raises:
        NotMeasurable: Columns do not fit, the history is too short, or it repeats itself exactly.
        InvalidSetting: `season` or `block` is below 1, or a quantile is not in (0, 1).

    Source: MASE: Hyndman & Koehler, International Journal of Forecasting 22(4), 2006; pinball loss:
    Koenker & Bassett, Econometrica 46(1), 1978.
    """
    if season < 1 or block < 1:
        raise InvalidSetting(f"A season and a block have at least one step. Got {season} and {block}.")
    observed = numbers(outcomes, name="Outcomes")
    error = np.abs(numbers(predictions, name="Predictions", n_rows=len(observed)) - observed)
    past = numbers(history, name="The history")
    scale = float(np.abs(past[season:] - past[:-season]).mean()) if len(past) > season else 0.0
    if scale == 0.0:
        raise NotMeasurable(
            f"MASE needs a history of more than {season} steps that does not repeat itself exactly.",
        )
    columns: list[Floats] = [np.ones(len(error)), error]
    figures: dict[str, tuple[Figure, bool | None]] = {
        "mae": (_ratio(1, 1.0), False),
        "mase": (_ratio(1, scale), False),
    }
    for probability, values in (quantiles or {}).items():
        if not 0 < probability < 1:
            raise InvalidSetting(f"A quantile is named by a probability in (0, 1). Got {probability}.")
        forecasted = numbers(values, name=f"Quantile {probability}", n_rows=len(observed))
        above = observed - forecasted
        figures[f"pinball[{probability}]"] = (_ratio(len(columns), 1.0), False)
        figures[f"coverage[{probability}]"] = (_ratio(len(columns) + 1, 1.0), None)
        columns += [
            np.maximum(probability * above, (probability - 1) * above),
            (above <= 0).astype(np.float64),
        ]
    blocks = np.arange(len(observed)) // block
    return resampled(np.column_stack(columns), figures, rng=rng, level=level, cluster=blocks)


def _ratio(place: int, scale: float) -> Figure:
    return lambda sums: sums[:, place] / sums[:, 0] / scale
