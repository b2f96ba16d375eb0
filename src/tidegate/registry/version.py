"""A version: what was registered under a service's name and a number, for good."""

from __future__ import annotations

from typing import Any

import msgspec

from tidegate.core.digest import Digest, canonical_json, digest_bytes, stored_form
from tidegate.core.error import InvalidSetting
from tidegate.core.identifier import check_name
from tidegate.core.principal import Principal
from tidegate.registry.artifact import check_digest

CHANGELOG_LENGTH = 500
"""Most characters of a changelog line: what fits a screen's table with its wrapping."""


class Environment(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the training ran.

    Attributes:
        python: Version of the interpreter.
        platform: Operating system and processor, as the `platform` module names them.
        packages: Installed version of each package that can change a model.
    """

    python: str = ""
    platform: str = ""
    packages: dict[str, str] = {}


class Lineage(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a version came from, as far as it is known.

    Attributes:
        code_revision: Commit of the repository that holds the training code.
        code_changed: There were changes that the commit does not hold; None without a repository.
        code_digest: Digest of the source files.
        data_digest: Digest of the training data (of its snapshot).
        parameters: What the trainer was told, plain JSON values.
        environment: Where it ran.
        metrics: What was measured, by name; None stands for undefined (NaN).
        machine: Name of the machine.
        who: Who ran it.
        when_us: When it ended, microseconds UTC.
    """

    code_revision: str | None = None
    code_changed: bool | None = None
    code_digest: Digest | None = None
    data_digest: Digest | None = None
    parameters: dict[str, Any] = {}
    environment: Environment = Environment()
    metrics: dict[str, float | None] = {}
    machine: str = ""
    who: str = ""
    when_us: int = 0


class VersionDraft(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A version before it has its number.

    Attributes:
        service: Name of the service.
        manifest: Digest of the compiled service, from which workers are built.
        artifacts: Digests of everything the manifest refers to.
        contract: Fingerprint of the contract.
        lineage: What it came from.
        changelog: One line: what is new.
    """

    service: str
    manifest: Digest
    contract: Digest
    artifacts: tuple[Digest, ...] = ()
    lineage: Lineage = Lineage()
    changelog: str = ""


class Version(VersionDraft, frozen=True, kw_only=True, omit_defaults=True):
    """What was registered. It never changes: its state is what later decisions say about it.

    Attributes:
        number: 1 for a service's first, and so on without a gap.
        created_at_us: When it was registered, microseconds UTC.
        principal: Who registered it.
    """

    number: int
    created_at_us: int
    principal: Principal

    @property
    def label(self) -> str:
        """Service and number, for people and for the audit log."""
        return version_label(self.service, self.number)

    @property
    def digest(self) -> Digest:
        """Digest of the whole record; the audit log keeps it.

        Empty values are left out of it, so that a field added later (empty by default, for msgspec
        tells other defaults by identity) alters no old digest.
        """
        return digest_bytes(canonical_json(self))


def version_label(service: str, number: int) -> str:
    """Return `service@number`."""
    return f"{service}@{number}"


def parse_version_label(text: str) -> tuple[str, int]:
    """Return the service and the number of `service@number`.

    Raises:
        InvalidSetting: It has another form.
    """
    service, at, number = text.rpartition("@")
    if not at or not (number.isascii() and number.isdigit() and 0 < len(number) < 10 and int(number)):
        raise InvalidSetting(
            f"{text!r} does not name a version.", hint="Write it as service@number, for example flights@3."
        )
    return check_name("service", service), int(number)


def check_draft(draft: VersionDraft) -> VersionDraft:
    """Return `draft` as it will read when it comes back from a store.

    Raises:
        InvalidSetting: A name, digest or the changelog line has the wrong form, or the lineage
            holds values that JSON cannot keep.
    """
    check_name("service", draft.service)
    for digest in (draft.manifest, draft.contract, *draft.artifacts):
        check_digest(digest)
    if len(draft.changelog) > CHANGELOG_LENGTH or not draft.changelog.isprintable():
        raise InvalidSetting(
            f"The changelog line of {draft.service!r} must be one line of printable characters, "
            f"at most {CHANGELOG_LENGTH}. Got {len(draft.changelog)} characters.",
            service=draft.service,
        )
    return msgspec.structs.replace(draft, lineage=stored_form(draft.lineage, "lineage"))
