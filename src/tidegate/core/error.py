"""The one base of every error a user can meet."""

from __future__ import annotations

import errno
from typing import ClassVar


class TidegateError(Exception):
    """Report a fault in words: what was wrong, where, what was expected, what to do.

    The domain knows no HTTP or gRPC status; each edge maps `code` to its own.

    Attributes:
        code: Stable identifier of the kind of error, part of the public interface.
        message: One sentence or two for a person.
        context: Plain values that locate the fault (field, service, row, path ...). Never payload
            of a sensitive field.
        hint: What the reader can do about it; may be empty.
    """

    code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, hint: str = "", **context: object) -> None:
        super().__init__(message)
        self.message = message
        self.context = context
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class InvalidSetting(TidegateError):
    """A setting, option or declaration cannot be used as written."""

    code = "invalid_setting"


class NotFound(TidegateError):
    """Something that was named does not exist."""

    code = "not_found"


class Conflict(TidegateError):
    """Someone else changed the same thing first, or a key was used for something else."""

    code = "conflict"


class Corrupt(TidegateError):
    """Stored bytes are not what was written: a digest or checksum does not match."""

    code = "corrupt"


class SystemRefused(TidegateError):
    """The operating system did not do what was asked: a full disk, a folder that may not be written."""

    code = "system_refused"

    @classmethod
    def of(cls, error: OSError) -> SystemRefused:
        """Return what the system has said, with what to do about it where that is known."""
        where = f": {error.filename}" if error.filename else ""
        return cls(f"{error.strerror}{where}.", hint=system_hint(error))


_SYSTEM_HINTS = {
    errno.ENOSPC: "The disk is full: make room, or name a folder on another one with --home.",
    errno.EDQUOT: "The disk quota is used up: make room, or name another folder with --home.",
    errno.EACCES: "Name a folder that you may write (of a home: --home), or change who may write it.",
    errno.EPERM: "Name a folder that you may write (of a home: --home), or change who may write it.",
    errno.EROFS: "The disk may only be read: name a folder on another one with --home.",
    errno.ENOENT: "Check the path: all but its last part must be there.",
    errno.ENOTDIR: "A part of the path is a file: name another folder.",
    errno.EMFILE: "Too many files are open: raise the limit with `ulimit -n`.",
}


def system_hint(error: OSError) -> str:
    """Return what to do about an error of the operating system; empty where nothing is known."""
    return _SYSTEM_HINTS.get(error.errno or 0, "")


class MissingExtra(TidegateError):
    """A feature needs a package that is not installed."""

    code = "missing_extra"

    def __init__(self, feature: str, *, extra: str, package: str) -> None:
        super().__init__(
            f"{feature} needs the package {package!r}, which is not installed.",
            hint=f"Install it with: pip install 'tidegate[{extra}]'",
            feature=feature,
            extra=extra,
            package=package,
        )
