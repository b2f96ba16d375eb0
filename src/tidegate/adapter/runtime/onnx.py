"""ONNX graphs on onnxruntime."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped]  # ships no types

from tidegate.adapter.runtime.session import ENGINE_ERRORS, brief, open_session
from tidegate.adapter.runtime.signature import signature_of
from tidegate.contract.batch import Batch, Column
from tidegate.contract.schema import Contract
from tidegate.predictor.binding import Binding, bind
from tidegate.predictor.protocol import BuildContext, LoadError, PredictorError, Spec
from tidegate.predictor.tensor import Extract, Gather

_BUFFER_BYTES = 16 * 1024  # per tensor: beyond this a copy into a kept buffer is no longer free
_BUFFER_ROWS = 64


class _Kept:
    """Bound buffers for one number of rows: a small call makes nothing that could have been kept."""

    __slots__ = ("call", "inputs", "outputs")

    def __init__(
        self,
        call: ort.IOBinding,
        inputs: list[tuple[Callable[[Batch, Column], None], Column]],
        outputs: list[tuple[str, Callable[[Column], Column], Column]],
    ) -> None:
        self.call = call
        self.inputs = inputs
        self.outputs = outputs


class OnnxPredictor:
    """Runs one graph. Small numeric batches go through kept buffers, others straight to the session."""

    def __init__(
        self,
        session: ort.InferenceSession,
        contract: Contract,
        binding: Binding,
        *,
        max_rows_per_call: int | None = None,
    ) -> None:
        """Take a loaded session.

        Args:
            session: See `open_session`.
            contract: What is promised.
            binding: How it maps to the session's tensors.
            max_rows_per_call: Larger batches are run in pieces; None never splits.
        """
        self.contract = contract
        self._session = session
        self._gathers = [Gather(item, contract.input) for item in binding.inputs]
        self._tensors = list(dict.fromkeys(item.tensor for item in binding.outputs))
        self._outputs = [
            Extract(item, contract.output.by_name[item.field], self._tensors.index(item.tensor))
            for item in binding.outputs
        ]
        self._max_rows = max_rows_per_call
        self._is_ragged = any(gather.is_ragged for gather in self._gathers)
        self._can_keep = (
            contract.batched
            and not self._is_ragged
            and all(gather.is_numeric for gather in self._gathers)
            and not any(output.binding.classes for output in self._outputs)
        )
        self._keep_rows = -1  # unknown until a first run has shown the outputs' shapes
        self._kept: dict[int, _Kept] = {}
        self._buffers: tuple[list[Column], list[Column]] = ([], [])

    def predict(self, batch: Batch) -> Batch:
        """Run the graph; see `Predictor.predict`."""
        n_rows = batch.n_rows
        if n_rows <= self._keep_rows:
            return self._predict_kept(batch, n_rows)
        if not self.contract.batched:
            return self._predict_rows(batch)
        if self._max_rows is not None and n_rows > self._max_rows:
            step = self._max_rows
            pieces = range(0, n_rows, step)
            return Batch.concat([self.predict(batch.rows(at, min(at + step, n_rows))) for at in pieces])
        if self._is_ragged:
            return self._predict_ragged(batch)
        return self._predict_plain(batch)

    def warm_up(self) -> None:
        """Run zeros once, so that the first request finds buffers and kernels ready."""
        if not self.contract.batched or self._is_ragged:
            return
        columns: dict[str, Column] = {}
        for field in self.contract.input.fields:
            shape = (1, *(dim or 0 for dim in field.shape))
            is_text = field.type.dtype.hasobject
            columns[field.name] = np.full(shape, "", object) if is_text else np.zeros(shape, field.type.dtype)
        try:
            self.predict(Batch(columns, 1))
            self.predict(Batch(columns, 1))
        except PredictorError:
            return  # a graph may refuse zeros; real rows decide

    def close(self) -> None:
        """Free the buffers; the session goes with the last reference."""
        self._keep_rows = -1
        self._can_keep = False
        self._kept.clear()
        self._buffers = ([], [])

    def _predict_kept(self, batch: Batch, n_rows: int) -> Batch:
        kept = self._kept.get(n_rows) or self._keep(n_rows)
        try:
            for fill, buffer in kept.inputs:
                fill(batch, buffer)
            self._session.run_with_iobinding(kept.call)
        except RuntimeWarning:  # a value beyond float32, where warnings are errors: it becomes infinite
            with np.errstate(all="ignore"):
                return self._predict_kept(batch, n_rows)
        except ENGINE_ERRORS:
            answer = self._predict_plain(batch)  # raises again what the batch itself is at fault for
            # The outputs' shape depends on values, or is not what the graph says: from here on ask plainly.
            self._keep_rows = -1
            self._can_keep = False
            return answer
        return Batch({name: finish(column) for name, finish, column in kept.outputs}, n_rows)

    def _predict_plain(self, batch: Batch) -> Batch:
        try:
            feed = {gather.binding.tensor: gather.tensor(batch) for gather in self._gathers}
            answers = self._session.run(self._tensors, feed)
        except RuntimeWarning:
            with np.errstate(all="ignore"):
                return self._predict_plain(batch)
        except ENGINE_ERRORS as error:
            raise self._failure(error) from error
        n_rows = batch.n_rows
        columns = {output.name: output.column(answers[output.position], n_rows) for output in self._outputs}
        if self._keep_rows < 0 and self._can_keep:
            self._make_buffers(feed, answers)
        return Batch(columns, n_rows)

    def _predict_rows(self, batch: Batch) -> Batch:
        """Run a graph of fixed first dimension once a row."""
        answers = []
        for row in range(batch.n_rows):
            one = batch.rows(row, row + 1)
            try:
                feed = {gather.binding.tensor: gather.tensor(one)[0, ...] for gather in self._gathers}
                answers.append(self._session.run(self._tensors, feed))
            except ENGINE_ERRORS as error:
                raise self._failure(error) from error
        return Batch(
            {
                output.name: output.stacked([answer[output.position] for answer in answers])
                for output in self._outputs
            },
            batch.n_rows,
        )

    def _predict_ragged(self, batch: Batch) -> Batch:
        """Run rows of one shape together, and put the answers back in order."""
        groups: dict[tuple[object, ...], list[int]] = {}
        names = [name for gather in self._gathers if gather.is_ragged for name in gather.fields]
        for row in range(batch.n_rows):
            shapes = tuple(np.shape(batch.columns[name][row]) for name in names)
            groups.setdefault(shapes, []).append(row)
        if len(groups) == 1:
            return self._predict_plain(batch)
        order = np.concatenate([np.asarray(rows, np.intp) for rows in groups.values()])
        answer = Batch.concat([self._predict_plain(batch.take(rows)) for rows in groups.values()])
        return answer.take(np.argsort(order))

    def _make_buffers(self, feed: dict[str, Column], answers: list[Column]) -> None:
        """Make the buffers for small batches, now that the shapes of the outputs are known."""
        tails = [(array.shape[1:], array.dtype) for array in (*feed.values(), *answers)]
        widest = max(int(np.prod(tail)) * dtype.itemsize for tail, dtype in tails)
        self._can_keep = False  # settled, one way or the other
        if any(dtype.hasobject for _, dtype in tails) or any(output.is_open for output in self._outputs):
            return
        rows = min(_BUFFER_ROWS, self._max_rows or _BUFFER_ROWS, _BUFFER_BYTES // max(1, widest))
        arrays = [np.zeros((rows, *tail), dtype) for tail, dtype in tails]
        self._buffers = (arrays[: len(feed)], arrays[len(feed) :])
        self._keep_rows = rows

    def _keep(self, n_rows: int) -> _Kept:
        call = self._session.io_binding()
        inputs, outputs = ([array[:n_rows] for array in arrays] for arrays in self._buffers)
        for gather, array in zip(self._gathers, inputs, strict=True):
            call.bind_ortvalue_input(gather.binding.tensor, ort.OrtValue.ortvalue_from_numpy(array))
        for name, array in zip(self._tensors, outputs, strict=True):
            call.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(array))
        kept = _Kept(
            call,
            [(gather.into, array) for gather, array in zip(self._gathers, inputs, strict=True)],
            [
                (output.name, output.finish, output.part(outputs[output.position], n_rows))
                for output in self._outputs
            ],
        )
        self._kept[n_rows] = kept
        return kept

    def _failure(self, error: Exception) -> PredictorError:
        if isinstance(error, PredictorError):
            return error
        # An engine's message may quote a value; where a field is sensitive it stays inside.
        is_open = not any(field.sensitive for field in self.contract.input.fields)
        told = f": {brief(str(error))}" if is_open else f" ({type(error).__name__})."
        return PredictorError(f"onnxruntime failed{told}", error=type(error).__name__)


def build_onnx(spec: Spec, context: BuildContext) -> OnnxPredictor:
    """Build the predictor of a spec of kind `onnx`.

    Options:
        binding: See `tidegate.predictor.binding.Binding`; without it, it is worked out again.
        max_rows_per_call: Rows after which a batch is split; 0, the default, never. On rows that
            differ from call to call nothing is won by splitting, trees included: 100 trees of 31
            leaves take 4.1 us a row at 32, 3.2 at 512 rows a call (onnxruntime 1.31, one thread).
            Calls that repeat one batch look faster below 64 rows, because the branch predictor has
            learnt the batch.
        spin: See `open_session`. Default false.

    Raises:
        LoadError: The spec names no artifact, or the graph cannot be loaded.
        InvalidSetting: The contract does not fit the graph.
    """
    if spec.artifact is None:
        raise LoadError("A predictor of kind 'onnx' needs an artifact.")
    root = context.open_artifact(spec.artifact)
    n_threads = context.n_threads
    session = open_session(root, n_threads=n_threads, spin=bool(spec.options.get("spin", False)))
    stored = spec.options.get("binding")
    binding = (
        Binding.from_options(stored, context.contract)
        if stored is not None
        else bind(context.contract, signature_of(session))
    )
    limit = spec.options.get("max_rows_per_call", 0)
    return OnnxPredictor(session, context.contract, binding, max_rows_per_call=limit or None)
