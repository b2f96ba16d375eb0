"""A model on its way into the registry: a fitted object or a file, made ready to be stored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tidegate.adapter.runtime.fitted import FittedModel, recognise
from tidegate.adapter.runtime.model_file import kind_of, open_model
from tidegate.adapter.runtime.native import TABLE, NativeOptions
from tidegate.adapter.runtime.preparation import Preparation, output_fields, table_type
from tidegate.adapter.runtime.prepared import Prepared
from tidegate.contract.infer import check_rows
from tidegate.contract.schema import Contract, DataType, Field, Schema
from tidegate.core.error import InvalidSetting
from tidegate.predictor.binding import Signature, Tensor, as_field_name, bind, contract_from
from tidegate.predictor.protocol import Spec
from tidegate.predictor.remote import RemoteOptions
from tidegate.training.parity import Tolerance

WHOLE_CALLS = (
    "Rows of one call influence each other's answers: each request is a call of its own, its tensors whole."
)
ROW_BY_ROW = "Rows of one call influence each other's answers: each row is a call of its own."


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
    check_rows(sample)
    if isinstance(model, RemoteOptions):
        return _prepare_remote(model, contract)
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
    return Preparation(fitted, sample, contract, trusted, tolerance or Tolerance()).run()


def _prepare_onnx(path: Path, contract: Contract | None) -> Prepared:
    from tidegate.adapter.runtime.session import external_files, open_session
    from tidegate.adapter.runtime.signature import signature_of

    signature = signature_of(open_session(path))
    if contract is None:
        contract, binding = contract_from(signature)
    else:
        binding = bind(contract, signature)
    row_by_row = signature.coupled and contract.batched
    notes = () if not signature.coupled else (ROW_BY_ROW,) if row_by_row else (WHOLE_CALLS,)
    files: dict[str, bytes | Path] = {path.name: path}
    files |= {name: path.parent / name for name in external_files(path)}
    spec = Spec("onnx", options={"binding": binding.to_options()}, row_by_row=row_by_row)
    return Prepared(spec, contract, files, notes=notes)


def _prepare_python(files: dict[str, bytes | Path], module: str, contract: Contract | None) -> Prepared:
    if contract is None:
        raise InvalidSetting(
            "A Python predictor says nothing of its columns.",
            hint="Give its contract: a service's folder with tg.Input and tg.Output classes.",
        )
    notes = (f"It runs in a process of its own, as {module}:predict.",)
    return Prepared(Spec("python", options={"entry": f"{module}:predict"}), contract, files, notes=notes)


def _prepare_remote(remote: RemoteOptions, contract: Contract | None) -> Prepared:
    if contract is None:
        raise InvalidSetting(
            "A remote predictor is registered with its contract.",
            hint="Declare a service whose trainer returns tg.Trained(model=tg.Remote(...)).",
        )
    options = msgspec.to_builtins(remote)
    notes = (f"It is asked at {remote.url}, as model {remote.model!r}.",)
    return Prepared(
        Spec("remote", options=options), contract, {"remote.json": msgspec.json.encode(options)}, notes=notes
    )


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
        optional = _takes_gaps(fitted, wanted, np.full((2, len(names)), np.nan))
        columns = tuple(
            Field(field, DataType.CATEGORY, optional=optional, categories=fitted.codes[name])
            if name in fitted.codes
            else Field(field, DataType.FLOAT64, optional=optional)
            for name, field in fields.items()
        )
        contract = Contract(Schema(columns), Schema(output_fields(outputs, fitted.classes)))
    signature = Signature((Tensor(TABLE, table_type(fitted), (len(names),)),), outputs)
    named = [fields[name] for name in names]
    known = all(field in contract.input.by_name for field in named)
    codes = {fields[name]: values for name, values in fitted.codes.items() if name in fields}
    binding = bind(contract, signature, features=named if known else None, codes=codes)
    options = NativeOptions(binding.to_options(), (), fitted.classes, tuple(trusted), fitted.missing)
    note = (
        f"It stays a {fitted.title} in its own format: without real rows no conversion can be shown to "
        "answer the same. Give a sample to have it converted."
    )
    # What was changed on the way in, its own file does not hold.
    files: dict[str, bytes | Path] = {fitted.file_name: fitted.dump()} if fitted.notes else {path.name: path}
    spec = Spec(fitted.kind, options=options.to_plain())
    return Prepared(spec, contract, files, notes=(*fitted.notes, note))


def _takes_gaps(fitted: FittedModel, wanted: frozenset[str], gaps: Any) -> bool:
    """Tell whether a model answers rows in which every number is missing."""
    try:
        fitted.run(wanted)(gaps)
    except ValueError:
        return False
    return True
