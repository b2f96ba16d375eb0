"""Options that several commands share."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from tidegate.bootstrap.local import Local

F = TypeVar("F", bound=Callable[..., Any])

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
PLACE = click.Path(path_type=Path, exists=True)

MOST = 2**31 - 1
"""The largest number of a version or decision that every database holds."""


class _Number(click.ParamType[int, int]):
    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = int(value)
        except ValueError:
            number = 0
        if not 1 <= number <= MOST:
            self.fail(f"{str(value)[:40]!r} is no whole number from 1 to {MOST}.", param, ctx)
        return number


NUMBER = _Number()
"""Number of a version or of a decision."""


class _Reason(click.ParamType[str, str]):
    name = "text"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        # bytes that are no UTF-8 come as lone surrogates, which nothing can store: what a person wants
        # done in an emergency does not fail on how they say why
        text = re.sub(r"\s", " ", value.encode(errors="backslashreplace").decode())
        return "".join(each for each in text if unicodedata.category(each) != "Cc")


REASON = _Reason()
"""Why, in a person's words: whatever bytes they are, as one line that can be stored and shown."""


def home_option(command: F) -> F:
    """Add `--home`."""
    return click.option(
        "--home",
        type=FOLDER,
        help="Home folder: .tidegate in the current folder unless TIDEGATE_HOME says otherwise.",
    )(command)


def json_option(command: F) -> F:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")(command)


def key_option(command: F) -> F:
    """Add `--key`."""
    return click.option(
        "--key", help="Idempotency key: repeating a command with the same key changes nothing more."
    )(command)


def reason_option(command: F) -> F:
    """Add `--reason`."""
    return click.option(
        "--reason", type=REASON, default="", help="Why, in your words; kept with the decision."
    )(command)


def open_local(
    home: Path | None, *, must_exist: bool = False, beside: Path | None = None, **flags: Any
) -> Local:
    """Open the home that the settings and flags name.

    Args:
        home: The flag, if it was given.
        must_exist: Only look: refuse a home that is not there instead of making it.
        beside: A service's folder or a model file: unless something names a home, it is there.
        flags: Further flags that are settings.

    Raises:
        NotFound: There is no such home, and it must exist.
        InvalidSetting: A setting cannot be used.
    """
    import msgspec

    from tidegate.bootstrap.local import Local
    from tidegate.bootstrap.setting import read_settings
    from tidegate.core.error import NotFound

    resolved = read_settings({"home": None if home is None else str(home), **flags})
    settings = resolved.settings
    if beside is not None and resolved.sources["home"] == "default":
        folder = beside if beside.is_dir() else beside.parent
        settings = msgspec.structs.replace(settings, home=str(folder / settings.home))
    if must_exist and not settings.database_url and not Path(settings.home).is_dir():
        raise NotFound(
            f"There is no Tidegate home at {Path(settings.home).absolute()}.",
            hint="Name it with --home or TIDEGATE_HOME; `tidegate up` and `tidegate register` make one.",
            path=settings.home,
        )
    local = Local(settings)
    click.get_current_context().call_on_close(local.close)
    return local
