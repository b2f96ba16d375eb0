"""A service's folder: its `service.py` is imported, and what it declares is found."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path

from tidegate.core.error import InvalidSetting, NotFound, TidegateError
from tidegate.registry.card import Card
from tidegate.registry.card_file import CARD_FILE, read_card
from tidegate.service.declare import Service

SERVICE_FILE = "service.py"

MODEL_SUFFIXES = frozenset({".onnx", ".skops", ".ubj"})
"""Files that are models beyond doubt; `.txt` and `.json` may be anything."""


class BrokenService(TidegateError):
    """A `service.py` cannot be imported."""

    code = "broken_service"


def _place(error: Exception, path: Path) -> str:
    """Say on which line of the file it went wrong, where that is not in the error's own words."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == path.resolve()]
    return f" (line {lines[-1]})" if lines else ""


def load_services(folder: Path) -> list[Service]:
    """Import `service.py` in `folder` and return the services it declares.

    The folder goes to the front of Python's path, and stays there: trainers import beside them, now
    or later.

    Raises:
        NotFound: There is no such file.
        BrokenService: Importing it failed; the cause is chained.
        InvalidSetting: It declares no service, or the model card beside it cannot be read.
    """
    path = folder / SERVICE_FILE
    if not path.is_file():
        raise NotFound(
            f"There is no {SERVICE_FILE} in {folder}.",
            hint="Name a folder whose service.py declares a tg.Service, or a model file.",
            path=str(path),
        )
    root = str(folder.absolute())
    if root not in sys.path:
        sys.path.insert(0, root)
    spec = importlib.util.spec_from_file_location("service", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["service"] = module
    try:
        spec.loader.exec_module(module)
    except TidegateError:
        raise
    except ModuleNotFoundError as error:
        raise BrokenService(
            f"{path} cannot be imported: {error}.", hint="Install what it needs.", path=str(path)
        ) from error
    except Exception as error:
        raise BrokenService(
            f"{path} cannot be imported: {type(error).__name__}: {error}{_place(error, path)}", path=str(path)
        ) from error
    services = [value for value in vars(module).values() if isinstance(value, Service)]
    if not services:
        raise InvalidSetting(
            f"{path} declares no service.", hint="service = tg.Service('name', input=..., output=...)"
        )
    for service in services:
        service.card = _card(folder, service)
    return services


def _card(folder: Path, service: Service) -> Card | None:
    """Return a service's written parts: those of its declaration, and those of the file beside it."""
    path, card = folder / CARD_FILE, service.card
    if not path.is_file():
        return card
    given = {name: text for name, text in read_card(path, service.name).items() if text}
    twice = [name for name in given if card is not None and getattr(card, name) not in ("", given[name])]
    if twice:
        raise InvalidSetting(
            f"The service {service.name!r} and {path} both write {', '.join(twice)} of the model card.",
            hint="Keep one of the two.",
            path=str(path),
        )
    return (card or Card()).with_parts(given.items())


def load_service(folder: Path, name: str | None = None) -> Service:
    """Return the one service that a folder declares, or the one called `name`.

    Raises:
        NotFound: None has that name.
        InvalidSetting: There are several and no name was given.
        TidegateError: As `load_services`.
    """
    services = load_services(folder)
    names = ", ".join(service.name for service in services)
    if name is None:
        if len(services) > 1:
            raise InvalidSetting(
                f"{folder} declares several services: {names}.", hint="Say which with --service."
            )
        return services[0]
    for service in services:
        if service.name == name:
            return service
    raise NotFound(f"{folder} declares no service {name!r}.", hint=f"It declares: {names}.", service=name)


def model_files(folder: Path) -> list[Path]:
    """Return the model files of a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix in MODEL_SUFFIXES and path.is_file())
