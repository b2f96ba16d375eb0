"""A contract as the Python text that declares it: what a person edits after it was inferred."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tidegate.contract.field import DataType, Field, Role
from tidegate.contract.schema import Contract, Schema

_LINE = 100
_ANNOTATIONS = {
    DataType.BOOL: "bool",
    DataType.INT64: "int",
    DataType.FLOAT64: "float",
    DataType.STRING: "str",
    DataType.CATEGORY: "str",
    DataType.BYTES: "bytes",
    DataType.TIMESTAMP: "datetime",
    DataType.DURATION: "timedelta",
}
_BOUNDS = ("ge", "gt", "le", "lt")


def to_source(
    contract: Contract,
    *,
    input_name: str = "Input",
    output_name: str = "Output",
    imports: bool = True,
) -> str:
    """Return Python text that declares `contract` as two classes.

    Run, and put together by `contract_of(input, output, batched=...)`, it gives an equal contract.

    Args:
        contract: What to write.
        input_name: Name of the class of the input.
        output_name: Name of the class of the output.
        imports: Whether to begin with the imports that the text needs.
    """
    classes = "\n\n".join(
        [_class(input_name, "tg.Input", contract.input), _class(output_name, "tg.Output", contract.output)]
    )
    return f"{_imports(classes)}\n\n{classes}" if imports else classes


def _imports(text: str) -> str:
    times = [name for name in ("datetime", "timedelta") if f"{name}" in text]
    lines = [f"from datetime import {', '.join(times)}", ""] if times else []
    if "np." in text:
        lines += ["import numpy as np", ""]
    return "\n".join([*lines, "import tidegate as tg", ""])


def _class(name: str, base: str, schema: Schema) -> str:
    body = "\n".join(f"    {line}" for field in schema.fields for line in _field(field))
    return f"class {name}({base}):\n{body}\n"


def _field(field: Field) -> Iterator[str]:
    annotation = _annotation(field)
    call, arguments = _call(field)
    if not arguments and call == "field":
        yield f"{field.name}: {annotation}"
        return
    line = f"{field.name}: {annotation} = tg.{call}({', '.join(arguments)})"
    if len(line) <= _LINE:
        yield line
        return
    yield f"{field.name}: {annotation} = tg.{call}("
    for argument in arguments:
        yield f"    {argument},"
    yield ")"


def _annotation(field: Field) -> str:
    text = _ANNOTATIONS.get(field.type, f"np.{field.type.value}")
    for _ in field.shape:
        text = f"list[{text}]"
    return f"{text} | None" if field.optional and field.default is None else text


def _call(field: Field) -> tuple[str, list[str]]:
    """Return which of the declaring functions it takes, and its arguments."""
    arguments = []
    if not field.is_scalar:
        call = "vector"
        if len(field.shape) > 1:
            arguments.append(f"shape={field.shape!r}")
        elif field.shape[0] is not None:
            arguments.append(str(field.shape[0]))
        if field.categories:
            arguments.append(f"categories={field.categories!r}")
    elif field.type is DataType.CATEGORY:
        call = "category"
        arguments += [repr(value) for value in field.categories]
    else:
        call = {DataType.TIMESTAMP: "timestamp", DataType.DURATION: "duration"}.get(field.type, "field")
    return call, arguments + _settings(field)


def _settings(field: Field) -> list[str]:
    settings: dict[str, Any] = {}
    if field.default is not None:
        settings["default"] = field.default
    for name in (*_BOUNDS, "min_length", "max_length", "pattern"):
        if getattr(field, name) is not None:
            settings[name] = getattr(field, name)
    if field.unit:
        settings["unit"] = field.unit
    if field.doc:
        settings["doc"] = field.doc
    texts = [f"{name}={value!r}" for name, value in settings.items()]
    if len(field.roles) == 1:
        texts.append(f'role="{field.roles[0].value}"')
    elif field.roles:
        texts.append(f"roles=({', '.join(repr(role.value) for role in Role if role in field.roles)})")
    if field.sensitive:
        texts.append("sensitive=True")
    return texts
