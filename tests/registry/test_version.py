import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.core.digest import Digest, canonical_json, digest_bytes
from tidegate.core.error import InvalidSetting
from tidegate.core.principal import Principal
from tidegate.registry.version import (
    Lineage,
    Version,
    VersionDraft,
    check_draft,
    parse_version_label,
    version_label,
)

DIGEST = digest_bytes(b"")


@given(st.from_regex(r"[a-z0-9]([a-z0-9_-]{0,10}[a-z0-9])?", fullmatch=True), st.integers(1, 10**9 - 1))
def test_label_reads_back(service, number):
    assert parse_version_label(version_label(service, number)) == (service, number)


@pytest.mark.parametrize(
    "text", ["", "flights", "flights@", "@1", "flights@0", "flights@-1", "flights@x", "a/b@1", "f@٣"]
)
def test_label_of_another_form_is_refused(text):
    with pytest.raises(InvalidSetting):
        parse_version_label(text)


@pytest.mark.parametrize(
    "change",
    [
        {"service": "../etc"},
        {"manifest": Digest("sha256:0")},
        {"contract": Digest("")},
        {"artifacts": (Digest("model.onnx"),)},
        {"changelog": "two\nlines"},
        {"changelog": "x" * 501},
        {"lineage": Lineage(parameters={"path": object()})},
    ],
)
def test_draft_that_cannot_be_kept_is_refused(change):
    draft = VersionDraft(service="flights", manifest=DIGEST, contract=DIGEST)

    with pytest.raises(InvalidSetting):
        check_draft(msgspec.structs.replace(draft, **change))


def test_draft_is_returned_as_it_will_read():
    lineage = Lineage(parameters={"depth": (1, 2)}, metrics={"auc": float("nan"), "rows": 3})

    checked = check_draft(VersionDraft(service="flights", manifest=DIGEST, contract=DIGEST, lineage=lineage))

    assert checked.lineage.parameters == {"depth": [1, 2]}
    assert checked.lineage.metrics == {"auc": None, "rows": 3.0}
    assert check_draft(checked) == checked


def test_digest_of_a_version_is_not_altered_by_empty_fields():
    version = Version(
        service="flights",
        manifest=DIGEST,
        contract=DIGEST,
        number=3,
        created_at_us=1,
        principal=Principal("ana"),
    )

    written_out = {
        "service": "flights",
        "manifest": DIGEST,
        "contract": DIGEST,
        "number": 3,
        "created_at_us": 1,
        "principal": {"name": "ana", "kind": "person"},
    }
    assert version.digest == digest_bytes(canonical_json(written_out))
    assert msgspec.json.decode(msgspec.json.encode(version), type=Version).digest == version.digest
    assert version.label == "flights@3"
