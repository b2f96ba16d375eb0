"""Who acts."""

from __future__ import annotations

import getpass
import os

import msgspec


class Principal(msgspec.Struct, frozen=True):
    """Someone or something that changes state, as the audit log names it.

    Attributes:
        name: For example `ana@laptop` or `controller`.
        kind: `person`, `service` or `system`.
    """

    name: str
    kind: str = "person"


SYSTEM = Principal("tidegate", "system")


def local_principal() -> Principal:
    """Return the principal of the operating-system user who runs this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run under a user id that has no name
        user = "unknown"
    return person(user)


def person(user: str) -> Principal:
    """Return the principal of a user of this machine, by name."""
    return Principal(f"{user}@{os.uname().nodename}")
