"""Runs a model in the event loop: for those whose call is shorter than a hand-over would be."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from tidegate.contract.batch import Batch
from tidegate.predictor.protocol import Predictor, PredictorError
from tidegate.serving.admission import Backlog
from tidegate.serving.call import Group
from tidegate.serving.duration import DurationModel

_SLICE_ROWS = 512
"""Rows after which a large request lets the loop's other work in."""


class InlineExecutor:
    """An executor without a queue."""

    in_loop = True

    def __init__(self, predictor: Predictor, *, call_soon: Callable[[Callable[[], None]], object]) -> None:
        """Take a loaded predictor.

        Args:
            predictor: The model.
            call_soon: Runs a function in the loop's next turn.
        """
        self._predictor = predictor
        self._call_soon = call_soon
        self.backlog = Backlog(DurationModel({}), max_batch_rows=_SLICE_ROWS)

    @property
    def is_there(self) -> bool:
        return True

    @property
    def waiting_rows(self) -> int:
        return self.backlog.own

    @property
    def wait_s(self) -> float:
        return self.backlog.wait_s

    def submit(self, group: Group, done: Callable[[Group], None]) -> None:
        """Run at once; a group too large for one turn goes on in the next ones."""
        if group.n_rows > _SLICE_ROWS and group.arm.version.contract.batched:
            self.backlog.own += group.n_rows
            self._call_soon(lambda: self._run_slice(group, done, [], 0))
            return
        started_s = perf_counter()
        try:
            group.outputs = self._predict(group.inputs)
        except PredictorError as error:
            group.error = error
        group.predict_us = (perf_counter() - started_s) * 1e6
        group.batch_rows = group.n_rows
        done(group)

    def close(self) -> None:
        self._predictor.close()

    def _predict(self, inputs: Batch) -> Batch:
        return predict_checked(self._predictor, inputs)

    def _run_slice(self, group: Group, done: Callable[[Group], None], parts: list[Batch], start: int) -> None:
        stop = min(start + _SLICE_ROWS, group.n_rows)
        started_s = perf_counter()
        try:
            parts.append(self._predict(group.inputs.rows(start, stop)))
        except PredictorError as error:
            group.error = error
        took_s = perf_counter() - started_s
        group.predict_us += took_s * 1e6
        self.backlog.duration.observe(stop - start, took_s)
        self.backlog.own -= stop - start
        self.backlog.told(self.backlog.own)
        if group.error is None and stop < group.n_rows:
            self._call_soon(lambda: self._run_slice(group, done, parts, stop))
            return
        if group.error is None:
            group.outputs = Batch.concat(parts)
        else:
            self.backlog.own -= group.n_rows - stop
        group.batch_rows = min(_SLICE_ROWS, group.n_rows)
        done(group)


def predict_checked(predictor: Predictor, inputs: Batch) -> Batch:
    """Call a predictor, and see that it gives one output row for each input row.

    Raises:
        PredictorError: It failed in any way.
    """
    try:
        outputs = predictor.predict(inputs)
    except PredictorError:
        raise
    except Exception as error:
        raise PredictorError(
            f"The model raised {type(error).__name__}.",
            hint="Its log has the details; the request is not at fault.",
        ) from error
    for name, column in outputs.columns.items():
        if len(column) != inputs.n_rows:
            raise PredictorError(
                f"The model answered {len(column)} rows of {name!r} to {inputs.n_rows} rows.", field=name
            )
    return outputs
