"""A model of any supported kind as a stored artifact and the spec that rebuilds it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from tidegate.contract.schema import Contract
from tidegate.core.error import InvalidSetting, NotFound
from tidegate.predictor.protocol import Spec
from tidegate.registry.artifact import ArtifactStore
from tidegate.service.manifest import NativeTensor

PICKLES = frozenset({".pkl", ".pickle", ".joblib", ".dill", ".cloudpickle"})


class Packed(msgspec.Struct, frozen=True, kw_only=True):
    """A model, stored.

    Attributes:
        spec: How to rebuild it.
        contract: What it takes and gives.
        tensor_names: Contract field -> the model's own tensor name, where they differ.
        native_input: The model's own matrix, if it takes one.
        metrics: Figures of the conversion.
        notes: What a person should know.
    """

    spec: Spec
    contract: Contract
    tensor_names: dict[str, str] = {}
    native_input: NativeTensor | None = None
    metrics: dict[str, float] = {}
    notes: list[str] = []


def pack(store: ArtifactStore, model: Any, *, sample: Any, contract: Contract | None) -> Packed:
    """Store a model and say how to rebuild it.

    Args:
        store: Takes its files.
        model: A fitted model, or the path of a model file.
        sample: Real input rows, for parity and inference; may be None for a file.
        contract: What it has to fulfil; inferred if None.

    Raises:
        NotFound: There is no such file.
        InvalidSetting: It is of no supported kind, or does not fit the contract.
        TidegateError: It cannot be loaded.
    """
    if isinstance(model, str | Path):
        return _pack_file(store, Path(model), contract=contract)
    raise InvalidSetting(f"A model of type {type(model).__name__} is not supported yet.")


def _pack_file(store: ArtifactStore, path: Path, *, contract: Contract | None) -> Packed:
    if not path.exists():
        raise NotFound(f"There is no model file {path}.", path=str(path))
    if path.suffix in PICKLES:
        raise InvalidSetting(
            f"{path.name} is a pickle, which runs whatever code is in it when it is read.",
            hint="Load it where it was made, and call tg.register(name, model, sample=X) there: "
            "it becomes ONNX or skops.",
            path=str(path),
        )
    packer = _PACKERS.get(path.suffix)
    if packer is None:
        raise InvalidSetting(
            f"{path.name} is no model file that Tidegate knows.",
            hint=f"Known endings: {', '.join(sorted(_PACKERS))}.",
            path=str(path),
        )
    return packer(store, path, contract)


def _pack_onnx(store: ArtifactStore, path: Path, contract: Contract | None) -> Packed:
    from tidegate.adapter.runtime.session import external_files
    from tidegate.adapter.runtime.signature import bind_contract, infer_contract

    if contract is None:
        contract, binding = infer_contract(path)
    else:
        binding = bind_contract(path, contract)
    digest = store.put_folder(path.parent) if external_files(path) else store.put_file(path)
    matrix = next((item for item in binding.inputs if len(item.fields) > 1), None)
    return Packed(
        spec=Spec("onnx", artifact=digest, options={"binding": binding.to_options()}),
        contract=contract,
        tensor_names={
            item.fields[0]: item.tensor
            for item in binding.inputs
            if len(item.fields) == 1 and item.fields[0] != item.tensor
        }
        | {item.field: item.tensor for item in binding.outputs if item.field != item.tensor},
        native_input=None if matrix is None else NativeTensor(matrix.tensor, matrix.fields),
    )


_Packer = Callable[[ArtifactStore, Path, Contract | None], Packed]
_PACKERS: dict[str, _Packer] = {".onnx": _pack_onnx}
