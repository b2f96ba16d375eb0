"""Settings from several places into one frozen tree, with the source of each value kept.

Later places win: default < file < environment < flag. A name that nobody knows fails: a misspelt
setting must not look as if it were in force.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar, get_args

import msgspec

from tidegate.core.error import InvalidSetting

S = TypeVar("S", bound=msgspec.Struct)

MASK = "********"


class Layer(NamedTuple):
    """Settings from one place.

    Attributes:
        source: Where they stand, for people.
        values: Name -> value; text is converted to the setting's type.
        prefix: What stands before the names there; in capitals, if the names are too.
    """

    source: str
    values: Mapping[str, Any]
    prefix: str = ""

    def spell(self, name: str) -> str:
        """Return a setting's name as it is written in this place."""
        written = self.prefix + name
        return written.upper() if self.prefix.isupper() else written


class Resolved(msgspec.Struct, Generic[S], frozen=True):
    """Settings and where each comes from.

    Attributes:
        settings: The tree.
        sources: Name -> source.
    """

    settings: S
    sources: dict[str, str]


def resolve(kind: type[S], *layers: Layer, secret: Collection[str] = ()) -> Resolved[S]:
    """Put settings together; later layers win.

    Args:
        kind: Struct whose fields are the settings, each with a default, and its bounds as `msgspec.Meta`.
        layers: Values by place, least first. None stands for "not given here".
        secret: Names of settings whose values are not shown.

    Raises:
        InvalidSetting: A name is unknown, or a value has the wrong type or is out of its bounds; the message
            says where.
    """
    known = {field.name: field for field in msgspec.structs.fields(kind)}
    values: dict[str, Any] = {}
    sources = dict.fromkeys(known, "default")
    for layer in layers:
        for name, value in layer.values.items():
            if name not in known:
                raise InvalidSetting(
                    f"There is no setting {layer.spell(name)!r} ({layer.source}).",
                    hint=f"Known: {', '.join(layer.spell(each) for each in known)}.",
                    setting=name,
                )
            if value is None:
                continue
            try:
                values[name] = msgspec.convert(value, known[name].type, strict=not isinstance(value, str))
            except msgspec.ValidationError as error:
                shown, allowed = repr(MASK if name in secret else value), _allowed(known[name].type)
                raise InvalidSetting(
                    f"The setting {layer.spell(name)!r} ({layer.source}) cannot be {shown}"
                    + ("." if allowed else f": {error}."),
                    hint=allowed,
                    setting=name,
                ) from error
            sources[name] = layer.source
    return Resolved(kind(**values), sources)


def _allowed(kind: Any) -> str:
    """Return what a setting may be, in the words that stand beside its bounds."""
    said = [each.description for each in get_args(kind) if isinstance(each, msgspec.Meta)]
    return next((each for each in said if each), "")


def file_layer(path: Path) -> Layer:
    """Return the settings of a TOML file.

    Raises:
        InvalidSetting: The file cannot be read or is not TOML.
    """
    import tomllib  # few have such a file, and all commands read settings

    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidSetting(f"The settings file {path} cannot be read: {error}.", path=str(path)) from error
    return Layer(str(path), values)


def environment_layer(environment: Mapping[str, str], *, prefix: str) -> Layer:
    """Return the settings among environment variables: those that start with `prefix`, in lower case."""
    values = {
        name.removeprefix(prefix).lower(): value
        for name, value in environment.items()
        if name.startswith(prefix)
    }
    return Layer("environment", values, prefix)
