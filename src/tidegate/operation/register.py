"""Register a version: its files first, then its record, in one transaction with the audit entry."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from tidegate.core.clock import Clock
from tidegate.core.digest import Digest, digest_bytes
from tidegate.core.error import NotFound
from tidegate.core.principal import Principal
from tidegate.operation.mutation import Effect, Intent, Outcome, Transaction, UnitOfWork, run
from tidegate.registry.artifact import ArtifactStore
from tidegate.registry.version import Lineage, Version, VersionDraft, check_draft

ACTION = "version.register"


def register(
    unit: UnitOfWork,
    store: ArtifactStore,
    *,
    service: str,
    manifest: bytes,
    artifacts: Sequence[Digest],
    contract: Digest,
    principal: Principal,
    key: str,
    clock: Clock,
    lineage: Lineage | None = None,
    changelog: str = "",
) -> Outcome[Version]:
    """Give a compiled service its next version number.

    The artifacts must be in the store already: a process that dies before the commit leaves files
    that no version names, never a version whose files are missing.

    Args:
        unit: The metadata database.
        store: Holds the artifacts; the manifest is put there too.
        service: Name of the service.
        manifest: The compiled service, JSON.
        artifacts: Digests of the files that the manifest refers to.
        contract: Fingerprint of its contract.
        principal: Who registers.
        key: Idempotency key.
        clock: Says when.
        lineage: What it came from.
        changelog: One line: what is new.

    Raises:
        NotFound: An artifact is not in the store.
        Conflict: The key was used for something else.
        InvalidSetting: A name, a digest or the changelog line has the wrong form.
        StoreUnavailable: The database cannot be reached; nothing was registered.
    """
    draft = check_draft(
        VersionDraft(
            service=service,
            manifest=digest_bytes(manifest),
            contract=contract,
            artifacts=tuple(dict.fromkeys(artifacts)),
            lineage=lineage or Lineage(),
            changelog=changelog,
        )
    )
    for digest in draft.artifacts:
        if not store.exists(digest):
            raise NotFound(
                f"The artifact {digest} of service {service!r} is not in the artifact store.",
                hint="Put its files there before registering.",
                service=service,
                digest=digest,
            )
    store.put_bytes(manifest)

    def perform(transaction: Transaction) -> Effect[Version]:
        version = transaction.versions.add(draft, principal=principal, at_us=clock.wall_us())
        detail = {"manifest": version.manifest, "contract": version.contract, "changelog": version.changelog}
        return Effect(version, version.label, detail)

    intent = Intent(
        action=ACTION, principal=principal, key=key, request=_request(draft), service=draft.service
    )
    return run(unit, intent, perform=perform, result=Version, clock=clock)


def _request(draft: VersionDraft) -> VersionDraft:
    # The hour at which the lineage was collected is no part of what is asked: a caller who
    # repeats a lost request collects it again.
    return msgspec.structs.replace(draft, lineage=msgspec.structs.replace(draft.lineage, when_us=0))
