"""A model on its way into the registry: recognised, converted where its answers stay the same, described."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tidegate.adapter.runtime import convert
from tidegate.adapter.runtime.builder import BUILDERS
from tidegate.adapter.runtime.fitted import FittedModel, recognise
from tidegate.adapter.runtime.model_file import kind_of, open_model
from tidegate.adapter.runtime.native import TABLE, NativeOptions, NativePredictor, make_frame
from tidegate.contract.batch import Batch, Column
from tidegate.contract.infer import columns_of, infer_fields
from tidegate.contract.schema import Contract, DataType, Field, Role, Schema
from tidegate.contract.validate import Validator
from tidegate.contract.violation import ContractViolation
from tidegate.core.decision import Evidence
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
from tidegate.predictor.protocol import BuildContext, LoadError, Spec, build
from tidegate.registry.artifact import ArtifactStore
from tidegate.training.parity import Parity, Tolerance, compare

PARITY_ROWS = 2000
"""Rows of the sample that a conversion is checked on, evenly spread over it: enough to meet most
leaves of an ensemble, few enough that a slow native model answers in seconds."""

_NO_ARTIFACT = Digest("sha256:" + "0" * 64)


class Prepared(msgspec.Struct, frozen=True):
    """A model, ready to be stored and registered.

    Attributes:
        spec: How to rebuild it; its artifact is known once the files are stored (see `store`).
        contract: What it takes and gives.
        files: Name -> content, or where it lies. One file, or a folder's.
        evidence: What was checked.
        notes: What a person should know, a sentence each.
        sample: Rows of the sample under the contract's names; None where there was none.
    """

    spec: Spec
    contract: Contract
    files: dict[str, bytes | Path]
    evidence: tuple[Evidence, ...] = ()
    notes: tuple[str, ...] = ()
    sample: Batch | None = None

    def store(self, artifacts: ArtifactStore) -> Spec:
        """Store the files and return the spec that names them.

        Raises:
            ArtifactRefused: A file cannot be stored.
        """
        return msgspec.structs.replace(self.spec, artifact=_store(self.files, artifacts))


def prepare(
    model: Any,
    sample: Any = None,
    *,
    contract: Contract | None = None,
    trusted: Sequence[str] = (),
    tolerance: Tolerance | None = None,
) -> Prepared:
    """Make a model ready for the registry.

    A fitted scikit-learn, LightGBM or XGBoost model becomes an ONNX graph if the graph answers as the
    model does on the sample; else it stays in its own format, and the notes say why.

    Args:
        model: A fitted model, or the path of a model file.
        sample: Real input rows: a data frame, a mapping of columns, or an array. Needed for a fitted
            model; without it a file of a library's own format stays in it.
        contract: What it has to fulfil; inferred if None.
        trusted: Of a skops file: types beyond the safe ones that it may hold.
        tolerance: How far a conversion may be from the original.

    Raises:
        PickleRefused: The file is a pickle.
        NotFound: There is no such file.
        InvalidSetting: It is no supported model, or contract, sample and model do not fit together.
        ContractViolation: The sample breaks the contract; names the field.
        LoadError: The file is damaged.
        UntrustedTypes: A skops file holds types that nobody has agreed to.
        MissingExtra: A library is not installed.
    """
    if isinstance(model, str | Path):
        path = Path(model)
        if path.is_dir():
            return _prepare_folder(path, contract)
        kind = kind_of(path)
        if kind == "onnx":
            return _prepare_onnx(path, contract)
        if kind == "python":
            return _prepare_python({path.name: path}, path.stem, contract)
        fitted = open_model(path, trusted=trusted, sample=sample)
        if sample is None:
            return _prepare_file(fitted, path, contract, trusted)
    elif sample is None:
        raise InvalidSetting(
            "A fitted model is registered with some rows of its input.",
            hint='tg.register("name", model, sample=X): they show that the stored model answers as this one.',
        )
    else:
        fitted = recognise(model, sample)
    return _Preparation(fitted, sample, contract, trusted, tolerance or Tolerance()).run()


# --- files ------------------------------------------------------------------------------------


def _prepare_onnx(path: Path, contract: Contract | None) -> Prepared:
    from tidegate.adapter.runtime.session import external_files
    from tidegate.adapter.runtime.signature import bind_contract, infer_contract

    if contract is None:
        contract, binding = infer_contract(path)
    else:
        binding = bind_contract(path, contract)
    files: dict[str, bytes | Path] = {path.name: path}
    files |= {name: path.parent / name for name in external_files(path)}
    return Prepared(Spec("onnx", options={"binding": binding.to_options()}), contract, files)


def _prepare_python(files: dict[str, bytes | Path], module: str, contract: Contract | None) -> Prepared:
    if contract is None:
        raise InvalidSetting(
            "A Python predictor says nothing of its columns.",
            hint="Give its contract: a service's folder with tg.Input and tg.Output classes.",
        )
    notes = (f"It runs in a process of its own, as {module}:predict.",)
    return Prepared(Spec("python", options={"entry": f"{module}:predict"}), contract, files, notes=notes)


def _prepare_folder(folder: Path, contract: Contract | None) -> Prepared:
    graphs = sorted(folder.glob("*.onnx"))
    if len(graphs) == 1:
        return _prepare_onnx(graphs[0], contract)
    if (folder / "model.py").is_file():
        paths = [
            path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts
        ]
        return _prepare_python(
            {path.relative_to(folder).as_posix(): path for path in paths}, "model", contract
        )
    raise InvalidSetting(
        f"The folder {folder} holds neither one .onnx file nor a model.py.",
        hint="Name the model file itself.",
        path=str(folder),
    )


def _prepare_file(
    fitted: FittedModel, path: Path, contract: Contract | None, trusted: Sequence[str]
) -> Prepared:
    """Describe a model of a library's own format without having rows of its input."""
    width = fitted.n_features or len(fitted.features)
    names = fitted.features or tuple(f"feature_{position}" for position in range(width))
    if not names:
        raise InvalidSetting(
            f"{path.name} does not say what it takes.",
            hint="Register it with some rows of its input: tg.register(name, model, sample=X).",
        )
    zeros = np.zeros((2, len(names)))
    try:
        outputs = fitted.outputs(zeros)
        wanted = frozenset(tensor.name for tensor in outputs)
        fitted.run(wanted)(zeros)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise InvalidSetting(
            f"{path.name} does not take a matrix of {len(names)} numbers a row, and its file does not say "
            f"what it takes ({type(error).__name__}).",
            hint="Register it with some rows of its input: tg.register(name, model, sample=X).",
            path=str(path),
        ) from error
    fields = {name: as_field_name(name) for name in names}
    if contract is None:
        columns = tuple(Field(field, DataType.FLOAT64, optional=True) for field in fields.values())
        contract = Contract(Schema(columns), Schema(_output_fields(outputs)))
    signature = Signature((Tensor(TABLE, _table_type(fitted), (len(names),)),), outputs)
    named = [fields[name] for name in names]
    known = all(field in contract.input.by_name for field in named)
    binding = bind(contract, signature, features=named if known else None)
    options = NativeOptions(binding.to_options(), (), fitted.classes, tuple(trusted))
    note = (
        f"It stays a {fitted.title} in its own format: without real rows no conversion can be shown to "
        "answer the same. Give a sample to have it converted."
    )
    return Prepared(Spec(fitted.kind, options=options.to_plain()), contract, {path.name: path}, notes=(note,))


# --- fitted models ----------------------------------------------------------------------------


class _Preparation:
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
        self._notes: list[str] = []
        self._refused: list[str] = []
        columns = _sample_columns(sample, fitted, contract)
        sources = _feature_columns(fitted, columns)
        fields = self._fields(sources, columns, contract)
        self._features = list(zip(sources, fields, strict=True))
        self._codes = {
            field.name: fitted.codes[source] for source, field in self._features if source in fitted.codes
        }
        self._rows = _to_batch(fields, {field.name: columns[source] for source, field in self._features})
        frame = self._needs_frame()
        self._frame = tuple(sources) if frame else ()
        outputs = fitted.outputs(self._table(self._rows.rows(0, min(8, self._rows.n_rows))))
        self._contract = contract or Contract(Schema(tuple(fields)), Schema(_output_fields(outputs)))
        self._native = self._native_binding(outputs)

    def run(self) -> Prepared:
        native = self._native_predictor(self._fitted)
        return self._converted(native) or self._kept(native)

    def _fields(
        self, sources: Sequence[str], columns: Mapping[str, Column], contract: Contract | None
    ) -> list[Field]:
        if contract is None:
            inferred = infer_fields({source: columns[source] for source in sources})
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
        if numeric and not convert.needs_columns(self._fitted.native):
            names = tuple(field.name for _, field in self._features)
            try:
                self._fitted.run(frozenset({"variable"}))(self._rows.rows(0, 1).matrix(names, np.float64))
            except (TypeError, ValueError, KeyError, IndexError, AttributeError):
                return True  # a step of its own that asks for columns by name
            return False
        return bool(self._fitted.features)

    def _table(self, batch: Batch) -> Any:
        """Return rows as the model takes them."""
        if self._frame:
            return make_frame({source: batch[field.name] for source, field in self._features})
        names = tuple(field.name for _, field in self._features)
        if any(batch[name].dtype.hasobject for name in names) and not self._codes:
            return np.stack([batch[name] for name in names], axis=1)
        return np.zeros((batch.n_rows, len(names))) if self._codes else batch.matrix(names, np.float64)

    def _native_binding(self, outputs: tuple[Tensor, ...]) -> Binding:
        names = tuple(field.name for _, field in self._features)
        is_text = any(
            field.type.dtype.hasobject and field.name not in self._codes for _, field in self._features
        )
        kind = DataType.STRING if is_text and not self._frame else _table_type(self._fitted)
        table = InputBinding(TABLE, names, kind, (len(names),), self._codes)
        return Binding((table,), bind_outputs(self._contract.output, Signature((), outputs)))

    def _native_options(self) -> NativeOptions:
        return NativeOptions(self._native.to_options(), self._frame, self._fitted.classes, self._trusted)

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
            return self._prepared(
                Spec("onnx", options={"binding": binding.to_options()}),
                {"model.onnx": graph},
                parity,
                f"onnx, {attempt.form}",
            )
        return None

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
        return binding, compare(native, candidate, self._rows, tolerance=self._tolerance)

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


# --- samples ----------------------------------------------------------------------------------


def _sample_columns(sample: Any, fitted: FittedModel, contract: Contract | None) -> dict[str, Column]:
    """Return the sample's columns by name; an array's are named by the model or the contract."""
    if isinstance(sample, Mapping) or hasattr(sample, "columns"):
        return columns_of(sample)
    width = np.shape(sample)[1] if len(np.shape(sample)) == 2 else 1
    names: Sequence[str] | None = fitted.features if len(fitted.features) == width else None
    if names is None and contract is not None:
        names = _matrix_names(contract.input, width)
    return columns_of(sample, names=names)


def _matrix_names(schema: Schema, width: int) -> Sequence[str]:
    """Return which fields an array's columns are, where the contract leaves no doubt."""
    scalars = [field for field in schema.fields if field.is_scalar]
    apart = {Role.KEY, Role.TIMESTAMP}
    for chosen in (scalars, [field for field in scalars if not apart.intersection(field.roles)]):
        if len(chosen) == width:
            return [field.name for field in chosen]
    raise InvalidSetting(
        f"The sample is an array of {width} columns without names; the contract has {len(scalars)} fields.",
        hint="Give a data frame or a mapping whose columns are named as the fields.",
    )


def _feature_columns(fitted: FittedModel, columns: Mapping[str, Column]) -> list[str]:
    """Return the sample's columns that are the model's features, in the model's order."""
    if fitted.features:
        plain = {as_field_name(name): name for name in columns}  # LightGBM writes blanks as '_'
        found = [name if name in columns else plain.get(as_field_name(name)) for name in fitted.features]
        missing = [name for name, column in zip(fitted.features, found, strict=True) if column is None]
        if missing:
            raise InvalidSetting(
                f"The sample lacks the model's features {', '.join(missing)}.",
                hint=f"The sample has {', '.join(columns)}.",
                missing=missing,
            )
        return [column for column in found if column is not None]
    if fitted.n_features is not None and fitted.n_features != len(columns):
        raise InvalidSetting(
            f"The model takes {fitted.n_features} features, and the sample has {len(columns)} columns.",
            hint="Give rows as the model takes them.",
            expected=fitted.n_features,
            got=len(columns),
        )
    return list(columns)


def _to_batch(fields: Sequence[Field], columns: Mapping[str, Column]) -> Batch:
    """Return rows of the sample, evenly spread over it, under the contract's names and types."""
    n_rows = len(next(iter(columns.values())))
    if n_rows > PARITY_ROWS:
        index = np.linspace(0, n_rows - 1, PARITY_ROWS).astype(np.intp)
        columns = {name: column[index] for name, column in columns.items()}
    validator = Validator(Schema(tuple(fields)))
    batch = validator.coerce(columns)
    violations = validator.violations(batch)
    if violations:
        raise ContractViolation.of(violations, hint="These are real rows: correct the contract, or the rows.")
    return batch


def _table_type(fitted: FittedModel) -> DataType:
    return DataType.FLOAT32 if fitted.kind == "xgboost" else DataType.FLOAT64


def _output_fields(outputs: Sequence[Tensor]) -> tuple[Field, ...]:
    """Return the outputs of a contract that is inferred: label and probability, or a prediction."""
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
    label = next((tensor for tensor in outputs if tensor.classes), None)
    return tuple(
        msgspec.structs.replace(field, type=DataType.CATEGORY, categories=label.classes)
        if field.type is DataType.STRING and label is not None
        else field
        for field in fields
    )


def _store(files: Mapping[str, bytes | Path], artifacts: ArtifactStore) -> Digest:
    if len(files) == 1:
        content = next(iter(files.values()))
        return artifacts.put_bytes(content) if isinstance(content, bytes) else artifacts.put_file(content)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                shutil.copyfile(content, path)
        return artifacts.put_folder(Path(folder))
