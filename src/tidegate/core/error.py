"""The one base of every error a user can meet."""

from __future__ import annotations

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
