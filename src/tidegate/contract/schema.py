"""The schema: plain data from which every face, check and column layout is compiled."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import msgspec

from tidegate.contract.check import check_fields
from tidegate.contract.field import DataType, Field, Role
from tidegate.core.digest import Digest, canonical_json, digest_bytes
from tidegate.core.error import InvalidSetting

if TYPE_CHECKING:
    from tidegate.contract.compare import Comparison

__all__ = ["Contract", "DataType", "Field", "Role", "Schema"]


class Schema(msgspec.Struct, frozen=True, dict=True):
    """An ordered list of fields with distinct names."""

    fields: tuple[Field, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.fields)

    @cached_property
    def by_name(self) -> dict[str, Field]:
        return {field.name: field for field in self.fields}

    def with_role(self, role: Role) -> tuple[Field, ...]:
        """Return the fields that have `role`, in order."""
        return tuple(field for field in self.fields if role in field.roles)


class Contract(msgspec.Struct, frozen=True, dict=True):
    """What a service takes and what it answers.

    Attributes:
        input: Fields of a request row.
        output: Fields of an answer row.
        batched: Rows of several requests may be put into one call of the model. False for a
            graph whose first dimension is fixed: then one request is one row, whatever its shape.
    """

    input: Schema
    output: Schema
    batched: bool = True

    @cached_property
    def fingerprint(self) -> Digest:
        """Digest of the canonical JSON form; equal contracts have equal fingerprints."""
        return digest_bytes(self.to_json())

    @cached_property
    def key(self) -> Field | None:
        """The input field with the role of key, if there is one."""
        return next(iter(self.input.with_role(Role.KEY)), None)

    def checked(self) -> Contract:
        """Return this contract in its normal form, so that equal promises are equal values.

        Raises:
            InvalidSetting: Something in it is impossible; the message names the field.
        """
        inputs = check_fields("input", self.input.fields)
        outputs = check_fields("output", self.output.fields)
        return Contract(Schema(inputs), Schema(outputs), self.batched)

    @staticmethod
    def compare(old: Contract, new: Contract) -> Comparison:
        """Say, change by change, what `new` means to callers built for `old`."""
        from tidegate.contract.compare import compare  # it builds on this module

        return compare(old, new)

    def to_json(self) -> bytes:
        """Return the canonical JSON form, UTF-8."""
        return canonical_json(self)

    @classmethod
    def from_json(cls, data: bytes) -> Contract:
        """Read the canonical JSON form.

        Raises:
            InvalidSetting: It is not a contract.
        """
        try:
            contract = msgspec.json.decode(data, type=cls)
        except msgspec.MsgspecError as error:
            raise InvalidSetting(f"This is not a contract: {error}") from error
        return contract.checked()
