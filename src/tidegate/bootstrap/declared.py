"""Contracts from wherever they stand: a service's folder, a Python or JSON file, a model, the registry."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import msgspec

from tidegate.bootstrap.folder import BrokenService, load_service
from tidegate.bootstrap.local import Local
from tidegate.contract.declare import Input, Output, contract_of
from tidegate.contract.schema import Contract
from tidegate.contract.source import to_source
from tidegate.core.error import InvalidSetting, NotFound, TidegateError
from tidegate.operation.version import show_version
from tidegate.registry.version import parse_version_label
from tidegate.service.manifest import Manifest


def find_contract(
    local: Local, target: str, *, service: str | None = None, as_sent: bool = False
) -> Contract:
    """Return the contract that `target` names.

    Args:
        local: The home, for registered versions.
        target: A service's folder, a `.py` or `.json` file that holds a contract, a model file, or a
            registered version as `service@number` or `service` (the latest).
        service: Which service of a folder.
        as_sent: Without the features of views: what callers send, not what the model takes.

    Raises:
        NotFound: There is no such thing.
        TidegateError: It holds no contract that can be used.
    """
    path = Path(target)
    if path.is_dir():
        declared = load_service(path, service)
        return declared.request if as_sent else declared.contract
    if path.is_file():
        if path.suffix == ".py":
            return read_source(path)
        if path.suffix == ".json" and b'"input"' in (head := path.read_bytes())[: 1 << 16]:
            return Contract.from_json(head)
        return infer_from_model(path)
    if path.suffix and "@" not in target:
        raise NotFound(f"There is no file {target}.", path=target)
    return registered_contract(local, target, as_sent=as_sent)


def registered_contract(local: Local, label: str, *, as_sent: bool = False) -> Contract:
    """Return the contract of a registered version: `service@number`, or `service` for the latest.

    Raises:
        NotFound: There is none.
    """
    name, number = parse_version_label(label) if "@" in label else (label, None)
    version = show_version(local.unit, name, number=number)
    manifest = Manifest.from_json(local.artifacts.read_bytes(version.manifest))
    return manifest.request if as_sent else manifest.contract


def infer_from_model(path: Path) -> Contract:
    """Return the contract that a model file amounts to.

    Raises:
        InvalidSetting: Nothing can be inferred from the file.
        TidegateError: It cannot be loaded.
    """
    from tidegate.adapter.runtime.prepare import prepare

    return prepare(path).contract


def read_source(path: Path, *, batched: bool = True) -> Contract:
    """Return the contract that a Python file declares as one `tg.Input` and one `tg.Output`.

    Raises:
        BrokenService: The file cannot be run.
        InvalidSetting: It declares none, or several.
    """
    try:
        names = runpy.run_path(str(path))
    except TidegateError:
        raise
    except Exception as error:
        raise BrokenService(
            f"{path} cannot be read as a contract: {type(error).__name__}: {error}", path=str(path)
        ) from error
    return contract_of(_one(names, Input, path), _one(names, Output, path), batched=batched)


def write_source(contract: Contract, path: Path) -> None:
    """Write a contract as Python for a person to edit; never over an existing file.

    Raises:
        InvalidSetting: The file exists already.
    """
    text = f'"""The contract of {path.name.split(".")[0]}: edit it, and it is used as it stands here."""\n\n'
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text + to_source(contract))
    except FileExistsError:
        raise InvalidSetting(
            f"{path} exists already.", hint="Name another file; what a person may have edited is kept."
        ) from None


def describe(contract: Contract) -> list[tuple[str, str, str, str, str]]:
    """Return (side, field, type, constraints, doc) for each field, in words."""
    rows = []
    for side, schema in (("input", contract.input), ("output", contract.output)):
        for field in schema.fields:
            shape = "".join(f"[{'any' if dim is None else dim}]" for dim in field.shape)
            said: dict[str, Any] = {
                name: value
                for name, value in msgspec.to_builtins(field).items()
                if name not in ("name", "type", "shape", "doc")
            }
            words = ", ".join(
                name if value is True else f"{name} {_brief(value)}" for name, value in said.items()
            )
            rows.append((side, field.name, field.type.value + shape, words, field.doc))
    return rows


def _brief(value: Any) -> str:
    if isinstance(value, list | tuple):
        shown = ", ".join(map(str, value[:6]))
        return f"{shown}, … ({len(value)})" if len(value) > 6 else shown
    return str(value)


def _one(names: dict[str, Any], base: type[Any], path: Path) -> Any:
    found = [
        value
        for value in names.values()
        if isinstance(value, type) and issubclass(value, base) and value is not base
    ]
    if len(found) != 1:
        raise InvalidSetting(
            f"{path} declares {len(found)} subclasses of tg.{base.__name__}, expected one.", path=str(path)
        )
    return found[0]
