"""A model as it goes into the registry: its spec, its contract, its files, and what was checked."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from tidegate.contract.batch import Batch
from tidegate.contract.schema import Contract
from tidegate.core.decision import Evidence
from tidegate.core.digest import Digest
from tidegate.predictor.protocol import Spec
from tidegate.registry.artifact import ArtifactStore


class Prepared(msgspec.Struct, frozen=True):
    """A model, ready to be stored and registered.

    Attributes:
        spec: How to rebuild it; its artifact is known once the files are stored (see `store`).
        contract: What it takes and gives.
        files: Name -> content, or where it lies. One file, or a folder's.
        evidence: What was checked.
        notes: What a person should know, a sentence each.
        sample: Rows of the sample under the contract's names; None where there was none.
        explainer: A booster that was converted, as it was: it can say what a graph cannot, which
            column added what. None where `spec` is it, or there is none.
        explainer_files: Its files, as `files`.
    """

    spec: Spec
    contract: Contract
    files: dict[str, bytes | Path]
    evidence: tuple[Evidence, ...] = ()
    notes: tuple[str, ...] = ()
    sample: Batch | None = None
    explainer: Spec | None = None
    explainer_files: dict[str, bytes | Path] = {}

    def store(self, artifacts: ArtifactStore) -> Spec:
        """Store the files and return the spec that names them.

        Raises:
            ArtifactRefused: A file cannot be stored.
        """
        return msgspec.structs.replace(self.spec, artifact=_store(self.files, artifacts))

    def store_explainer(self, artifacts: ArtifactStore) -> Spec | None:
        """Store the booster's own files and return the spec that names them; None without one.

        Raises:
            ArtifactRefused: A file cannot be stored.
        """
        if self.explainer is None:
            return None
        return msgspec.structs.replace(self.explainer, artifact=_store(self.explainer_files, artifacts))


def _store(files: Mapping[str, bytes | Path], artifacts: ArtifactStore) -> Digest:
    if len(files) == 1:
        content = next(iter(files.values()))
        return artifacts.put_bytes(content) if isinstance(content, bytes) else artifacts.put_file(content)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                shutil.copyfile(content, path)
        return artifacts.put_folder(Path(folder))
