"""A fitted model with rows of its input: converted if the graph answers the same, else kept as it is."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tidegate.adapter.runtime import convert
from tidegate.adapter.runtime.builder import BUILDERS
from tidegate.adapter.runtime.fitted import FittedModel
from tidegate.adapter.runtime.native import (
    TABLE,
    NativeOptions,
    NativePredictor,
    frame_maker,
    marked,
    missing_text,
)
from tidegate.adapter.runtime.prepared import Prepared
from tidegate.adapter.runtime.sample import (
    feature_columns,
    given_rows,
    none_columns,
    sample_columns,
    time_columns,
    to_batch,
)
from tidegate.contract.batch import Batch, Column, missing_rows
from tidegate.contract.infer import categories_of, infer_fields
from tidegate.contract.schema import Contract, DataType, Field, Schema
from tidegate.core.digest import Digest
from tidegate.core.error import InvalidSetting
from tidegate.predictor.binding import (
    Binding,
    InputBinding,
    Signature,
    Tensor,
    as_field_name,
    bind,
    bind_outputs,
)
from tidegate.predictor.protocol import BuildContext, LoadError, PredictorError, Spec, build
from tidegate.training.parity import Parity, ParityRefused, Tolerance, compare, compare_answers

_LOOSE = Tolerance(absolute=1e-3, relative=1e-2)
"""What answers to rows as given and as rebuilt may differ by: by how numbers are summed."""
_GAP_ROWS = 64
_NO_ARTIFACT = Digest("sha256:" + "0" * 64)


class Preparation:
    """One fitted model with rows of its input."""

    def __init__(
        self,
        fitted: FittedModel,
        sample: Any,
        contract: Contract | None,
        trusted: Sequence[str],
        tolerance: Tolerance,
    ) -> None:
        self._fitted = fitted
        self._trusted = tuple(trusted)
        self._tolerance = tolerance
        self._notes: list[str] = list(fitted.notes)
        self._refused: list[str] = []
        columns = sample_columns(sample, fitted, contract)
        sources = feature_columns(fitted, columns)
        fields = self._fields(sources, columns, contract, categories_of(sample))
        self._features = list(zip(sources, fields, strict=True))
        self._codes = {
            field.name: fitted.codes[source] for source, field in self._features if source in fitted.codes
        }
        self._rows = to_batch(fields, {field.name: columns[source] for source, field in self._features})
        named = {source: field.name for source, field in self._features}
        self._nones = tuple(sorted(named[source] for source in none_columns(sample, sources)))
        self._times = {
            named[source]: dtype
            for source, dtype in time_columns(sample, sources).items()
            if self._rows[named[source]].dtype == np.int64
        }
        self._given = given_rows(sample, sources)
        frame = self._needs_frame()
        self._frame = tuple(sources) if frame else ()
        self._is_list = not frame and self._takes_list()
        if self._is_list and contract is None:  # however few texts the sample repeats, others will come
            fields = [msgspec.structs.replace(fields[0], type=DataType.STRING, categories=())]
            self._features = [(sources[0], fields[0])]
        outputs = fitted.outputs(self._table(self._rows.rows(0, min(8, self._rows.n_rows))))
        self._contract = contract or Contract(
            Schema(tuple(fields)), Schema(output_fields(outputs, fitted.classes))
        )
        self._native = self._native_binding(outputs)

    def run(self) -> Prepared:
        native = self._native_predictor(self._fitted)
        self._require_own_answers(native)
        return self._converted(native) or self._kept(native)

    def _require_own_answers(self, native: NativePredictor) -> None:
        """See that rows rebuilt from the contract's fields are to the model what they were as they came.

        Everything else is compared with the rebuilt rows. What they have lost, a missing text or a time, no
        other comparison would find.

        Raises:
            ParityRefused: They are not.
        """
        rows = self._given
        if rows is None:
            return
        if self._is_list and hasattr(rows, "columns"):
            rows = rows[rows.columns[0]]
        try:
            answers = self._fitted.answers(rows, self._native_options().tensors)
            expected = native.answered(answers, self._rows.n_rows)
        except Exception:  # noqa: BLE001 - it may take its rows in another form than the sample's
            return
        got = native.predict(self._rows)
        parity = compare_answers(self._contract.output.fields, expected, got, tolerance=_LOOSE)
        if not parity.passed:
            raise ParityRefused(
                f"The {self._fitted.title} answers rows of the sample otherwise when they are rebuilt from "
                f"the contract's fields: {parity.describe()}.",
                hint="Something of the rows is lost on the way: look at columns with missing values, and at "
                "types that are neither numbers, texts nor times. Fit on plain columns, or register an ONNX "
                "graph.",
                outputs={output.field: output.largest_absolute for output in parity.outputs},
            )

    def _fields(
        self,
        sources: Sequence[str],
        columns: Mapping[str, Column],
        contract: Contract | None,
        categories: Mapping[str, Sequence[str]],
    ) -> list[Field]:
        if contract is None:
            own = self._fitted.codes  # what the model knows comes first, in its order
            texts = {
                name: tuple(dict.fromkeys([*own.get(name, ()), *categories.get(name, ())]))
                for name in sources
            }
            inferred = infer_fields({source: columns[source] for source in sources}, categories=texts)
            renamed = [
                f"{one.source!r} is {one.field.name}" for one in inferred if one.source != one.field.name
            ]
            if renamed:
                self._notes.append(f"Columns were renamed: {', '.join(renamed)}.")
            return [one.field for one in inferred]
        known = contract.input.by_name
        missing = [source for source in sources if source not in known and as_field_name(source) not in known]
        if missing:
            raise InvalidSetting(
                f"The model's features {', '.join(missing)} are not input fields of the contract.",
                hint=f"The contract has {', '.join(known)}.",
                missing=missing,
            )
        return [known.get(source) or known[as_field_name(source)] for source in sources]

    def _needs_frame(self) -> bool:
        if self._fitted.kind != "skops":
            return False
        numeric = all(not field.type.dtype.hasobject for _, field in self._features)
        if self._times:
            return bool(self._fitted.features)
        if numeric and not convert.needs_columns(self._fitted.native):
            names = tuple(field.name for _, field in self._features)
            try:
                self._fitted.run(frozenset({"variable"}))(self._rows.rows(0, 1).matrix(names, np.float64))
            except (TypeError, ValueError, KeyError, IndexError, AttributeError):
                return True  # a step of its own that asks for columns by name
            return False
        return bool(self._fitted.features)

    def _takes_list(self) -> bool:
        """Tell whether it takes one text a row, not a row of one text: vectorisers of text do."""
        if self._fitted.kind != "skops" or len(self._features) != 1:
            return False
        field = self._features[0][1]
        if not (field.is_scalar and field.type.is_text):
            return False
        texts = self._rows.rows(0, 1)[field.name]
        run = self._fitted.run(frozenset({"variable"}))
        try:
            run(texts.reshape(-1, 1))
        except Exception:  # noqa: BLE001 - a step raises what it likes
            try:
                run(texts)
            except Exception:  # noqa: BLE001 - it takes neither: what it says of rows is told later
                return False
            return True
        return False

    def _table(self, batch: Batch) -> Any:
        """Return rows as the model takes them."""
        if self._is_list:
            return batch[self._features[0][1].name]
        if self._frame:
            fields = [field.name for _, field in self._features]
            return frame_maker(self._nones, self._times)(self._frame, fields, batch)
        names = tuple(field.name for _, field in self._features)
        if any(batch[name].dtype.hasobject for name in names) and not self._codes:
            return np.stack([marked(batch[name], missing_text(name, self._nones)) for name in names], axis=1)
        return np.zeros((batch.n_rows, len(names))) if self._codes else batch.matrix(names, np.float64)

    def _native_binding(self, outputs: tuple[Tensor, ...]) -> Binding:
        names = tuple(field.name for _, field in self._features)
        is_text = any(
            field.type.dtype.hasobject and field.name not in self._codes for _, field in self._features
        )
        kind = DataType.STRING if is_text and not self._frame else table_type(self._fitted)
        table = InputBinding(TABLE, names, kind, () if self._is_list else (len(names),), self._codes)
        return Binding((table,), bind_outputs(self._contract.output, Signature((), outputs)))

    def _native_options(self) -> NativeOptions:
        fitted = self._fitted
        return NativeOptions(
            self._native.to_options(),
            self._frame,
            fitted.classes,
            self._trusted,
            fitted.missing,
            self._nones,
            self._times if self._frame else {},
        )

    def _native_predictor(self, fitted: FittedModel) -> NativePredictor:
        options = self._native_options()
        run = fitted.run(options.tensors)
        return NativePredictor(self._contract, options, run, engine=fitted.title)

    def _converted(self, native: NativePredictor) -> Prepared | None:
        """Try the ways to write it as a graph; None where none answers as the model does."""
        missing = convert.missing_packages(self._fitted.kind)
        if missing:
            self._refused.append(f"the converter needs {', '.join(missing)}, which is not installed")
            return None
        if self._fitted.missing is not None:
            self._refused.append(f"it takes {self._fitted.missing:g} for missing, and graphs know NaN alone")
            return None
        model = self._fitted.native if self._fitted.kind == "xgboost" else self._fitted.model
        for attempt in convert.attempts(model, self._fitted.kind, self._features):
            try:
                graph = attempt.convert()
                binding, parity = self._try_graph(graph, native)
            except Exception as error:  # noqa: BLE001 - converters raise what they like; the model stays native
                told = " ".join(str(error).split())[:160]
                self._refused.append(f"as {attempt.form} it failed with {type(error).__name__}: {told}")
                continue
            if not parity.passed:
                self._refused.append(f"as {attempt.form} it answers differently: {parity.describe()}")
                continue
            self._notes.append(
                f"Converted to ONNX with {attempt.form}: largest difference {parity.largest:.2g} on "
                f"{parity.n_rows} rows of the sample."
            )
            prepared = self._prepared(
                Spec("onnx", options={"binding": binding.to_options()}),
                {"model.onnx": graph},
                parity,
                f"onnx, {attempt.form}",
            )
            return self._explained(prepared)
        return None

    def _explained(self, prepared: Prepared) -> Prepared:
        """Keep a converted booster beside its graph, which cannot say what each column added."""
        if self._fitted.kind == "skops":
            return prepared
        return msgspec.structs.replace(
            prepared,
            explainer=Spec(self._fitted.kind, options=self._native_options().to_plain()),
            explainer_files={self._fitted.file_name: self._fitted.dump()},
        )

    def _try_graph(self, graph: bytes, native: NativePredictor) -> tuple[Binding, Parity]:
        from tidegate.adapter.runtime.onnx import OnnxPredictor
        from tidegate.adapter.runtime.session import open_session
        from tidegate.adapter.runtime.signature import signature_of

        session = open_session(graph)
        signature = signature_of(session)
        is_matrix = len(signature.inputs) == 1 and len(self._features) > 1
        binding = bind(
            self._contract,
            signature,
            features=[field.name for _, field in self._features] if is_matrix else None,
            codes=self._codes,
            sources={source: field.name for source, field in self._features},
        )
        candidate = OnnxPredictor(session, self._contract, binding)
        parity = compare(native, candidate, self._rows, tolerance=self._tolerance)
        if parity.passed:
            for rows in self._gaps():
                try:
                    expected = native.predict(rows)
                except PredictorError:  # it takes no missing value there
                    continue
                fields = self._contract.output.fields
                beside = compare_answers(fields, expected, candidate.predict(rows), tolerance=self._tolerance)
                if not beside.passed:
                    return binding, beside
        return binding, parity

    def _gaps(self) -> Iterator[Batch]:
        """Return rows with values missing that may be, where the sample lacks none: one field, then all."""
        holes = [
            field.name
            for _, field in self._features
            if field.optional and field.type.is_float and not missing_rows(self._rows[field.name]).any()
        ]
        some = self._rows.rows(0, min(_GAP_ROWS, self._rows.n_rows))
        for empty in [*([name] for name in holes), *([holes] if len(holes) > 1 else ())]:
            columns = dict(some.columns)
            columns.update({name: np.full_like(some[name], np.nan) for name in empty})
            yield Batch(columns, some.n_rows)

    def _kept(self, native: NativePredictor) -> Prepared:
        """Store it in its own format, and show that the file answers as the model in memory does."""
        data = self._fitted.dump()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / self._fitted.file_name
            path.write_bytes(data)
            if self._fitted.kind == "skops":
                self._agree_to_types(path)
            spec = Spec(self._fitted.kind, _NO_ARTIFACT, self._native_options().to_plain())
            again = build(spec, BuildContext(self._contract, lambda _: path), BUILDERS)
            parity = compare(native, again, self._rows, tolerance=self._tolerance)
            again.close()
        if not parity.passed:
            raise LoadError(
                f"The {self._fitted.title} answers differently after it is stored and read again: "
                f"{parity.describe()}."
            )
        self._notes.append(
            f"It stays a {self._fitted.title} in its own format ({self._fitted.kind}), which answers more "
            f"slowly than ONNX: {'; '.join(self._refused)}."
        )
        return self._prepared(
            msgspec.structs.replace(spec, artifact=None),
            {self._fitted.file_name: data},
            parity,
            f"{self._fitted.kind}, read from its file",
        )

    def _agree_to_types(self, path: Path) -> None:
        """Take the types of an estimator that the person holds in hand for agreed to, and say which."""
        from tidegate.adapter.runtime.skops import untrusted_types

        unknown = untrusted_types(path)
        homeless = [name for name in unknown if name.startswith(("__main__.", "__mp_main__."))]
        if homeless:
            raise InvalidSetting(
                f"The model uses {', '.join(homeless)}, defined in this script or notebook, which the server "
                "does not have.",
                hint="Move them to a package that is installed where the model is served, or register an "
                "ONNX graph.",
                types=homeless,
            )
        self._trusted = tuple(dict.fromkeys([*self._trusted, *unknown]))
        if unknown:
            self._notes.append(f"Beside skops' safe types the file holds: {', '.join(unknown)}.")

    def _prepared(
        self, spec: Spec, files: dict[str, bytes | Path], parity: Parity, candidate: str
    ) -> Prepared:
        evidence = parity.evidence(reference=self._fitted.title, candidate=candidate)
        evidence = msgspec.structs.replace(
            evidence, observed={**evidence.observed, "refused": list(self._refused)}
        )
        notes = tuple(self._notes)
        return Prepared(spec, self._contract, files, (evidence,), notes, self._rows)


def table_type(fitted: FittedModel) -> DataType:
    """Return the element type of the matrix that a native model takes."""
    return DataType.FLOAT32 if fitted.kind == "xgboost" else DataType.FLOAT64


def output_fields(outputs: Sequence[Tensor], classes: Sequence[Any] = ()) -> tuple[Field, ...]:
    """Return the outputs of a contract that is inferred: label and probability, or a prediction.

    Args:
        outputs: What the model gives.
        classes: What its labels are, where it says so.
    """
    fields = []
    for tensor in outputs:
        if tensor.name == "label":
            fields.append(
                Field("label", DataType.INT64 if tensor.type is not DataType.STRING else DataType.STRING)
            )
        elif tensor.name == "probabilities" and len(tensor.classes) == 2:
            doc = f"probability of {tensor.classes[1]!r}"
            fields.append(Field("probability", DataType.FLOAT64, ge=0, le=1, doc=doc))
        elif tensor.name == "probabilities":
            doc = f"probabilities of {', '.join(tensor.classes)}"
            fields.append(Field("probabilities", DataType.FLOAT64, tensor.row_shape, ge=0, le=1, doc=doc))
        else:
            fields.append(Field("prediction", DataType.FLOAT64, tensor.row_shape))
    return tuple(
        msgspec.structs.replace(field, type=DataType.CATEGORY, categories=tuple(map(str, classes)))
        if field.type is DataType.STRING and classes
        else field
        for field in fields
    )
