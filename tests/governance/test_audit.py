import hashlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.core.digest import digest_bytes
from tidegate.core.error import InvalidSetting
from tidegate.core.principal import Principal
from tidegate.governance.audit import (
    GENESIS,
    AuditBroken,
    AuditEntry,
    AuditEvent,
    FaultKind,
    Head,
    entry_hash,
    extend,
    verify,
)

text = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12)
scalar = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | text
plain = scalar | st.lists(scalar, max_size=2) | st.dictionaries(text, scalar, max_size=2)
events = st.builds(
    AuditEvent,
    at_us=st.integers(0, 2**52),
    principal=st.builds(Principal, text, st.sampled_from(["person", "service", "system"])),
    action=st.sampled_from(["version.register", "route.switch"]),
    subject=text,
    key=text,
    service=st.sampled_from([None, "flights", "airbnb"]),
    detail=st.dictionaries(text, plain, max_size=3),
)


def chain_of(drawn: list[AuditEvent]) -> list[AuditEntry]:
    entries: list[AuditEntry] = []
    head = Head()
    for event in drawn:
        entries.append(extend(head, event))
        head = Head(entries[-1].sequence, entries[-1].hash)
    return entries


chains = st.lists(events, min_size=1, max_size=5).map(chain_of)


def head_of(entries: list[AuditEntry]) -> Head:
    return Head(entries[-1].sequence, entries[-1].hash)


def mutations(entry: AuditEntry) -> dict[str, Any]:
    """Another value for each field of an entry."""
    return {
        "at_us": entry.at_us + 1,
        "principal": Principal(entry.principal.name + "x", entry.principal.kind),
        "action": entry.action + "x",
        "subject": entry.subject + "x",
        "key": entry.key + "x",
        "service": "other",
        "detail": {**entry.detail, "more": 1},
        "sequence": entry.sequence + 1,
        "previous": digest_bytes(b"other"),
        "hash": digest_bytes(b"other"),
        "format": entry.format + 1,
    }


@given(chains)
def test_chain_verifies_as_it_was_built_and_after_a_round_through_json(entries):
    stored = msgspec.json.decode(msgspec.json.encode(entries), type=list[AuditEntry])

    assert verify(stored, heads=[head_of(entries), Head()]).fault is None
    assert verify(stored).n_entries == len(entries)


def test_mutations_cover_every_field():
    entry = chain_of([AuditEvent(at_us=1, principal=Principal("ana"), action="a", subject="s", key="k")])[0]

    assert set(mutations(entry)) == set(AuditEntry.__struct_fields__)


@settings(max_examples=50)
@given(st.data(), chains)
def test_any_changed_field_of_any_entry_is_found_and_named(data, entries):
    place = data.draw(st.integers(0, len(entries) - 1))
    name, value = data.draw(
        st.sampled_from(sorted(mutations(entries[place]).items(), key=lambda item: item[0]))
    )
    entries[place] = msgspec.structs.replace(entries[place], **{name: value})

    found = verify(entries)

    assert found.fault is not None
    assert found.fault.kind is FaultKind.CHANGED
    assert found.fault.sequence == place + 1
    assert found.n_entries == place


@settings(max_examples=50)
@given(st.data(), chains)
def test_a_rewritten_entry_with_a_fitting_hash_is_found_at_its_successor_or_by_the_head(data, entries):
    head = head_of(entries)
    place = data.draw(st.integers(0, len(entries) - 1))
    forged = msgspec.structs.replace(entries[place], subject=entries[place].subject + "x")
    entries[place] = msgspec.structs.replace(forged, hash=entry_hash(forged))

    fault = verify(entries, heads=[head]).fault

    assert fault is not None
    last = place == len(entries) - 1
    assert fault.kind is (FaultKind.ANCHOR if last else FaultKind.UNLINKED)
    assert fault.sequence == (place + 1 if last else place + 2)


@settings(max_examples=50)
@given(st.data(), chains)
def test_a_wholly_recomputed_chain_is_found_by_an_anchor_kept_elsewhere(data, entries):
    anchor = data.draw(st.sampled_from([Head(entry.sequence, entry.hash) for entry in entries]))
    forged = chain_of([msgspec.structs.replace(as_event(entry), at_us=entry.at_us + 1) for entry in entries])

    assert verify(forged, heads=[head_of(forged)]).fault is None
    fault = verify(forged, heads=[head_of(forged), anchor]).fault
    assert fault is not None
    assert (fault.kind, fault.sequence) == (FaultKind.ANCHOR, anchor.sequence)


def as_event(entry: AuditEntry) -> AuditEvent:
    return AuditEvent(**{name: getattr(entry, name) for name in AuditEvent.__struct_fields__})


@settings(max_examples=50)
@given(st.data(), chains)
def test_a_removed_entry_is_found_and_named(data, entries):
    head = head_of(entries)
    place = data.draw(st.integers(0, len(entries) - 1))
    del entries[place]

    fault = verify(entries, heads=[head]).fault

    assert fault is not None
    assert fault.sequence == place + 1
    assert fault.kind is (FaultKind.TRUNCATED if place == len(entries) else FaultKind.MISSING)


@settings(max_examples=50)
@given(st.data(), st.lists(events, min_size=2, max_size=6).map(chain_of))
def test_reordered_entries_are_found_and_named(data, entries):
    one = data.draw(st.integers(0, len(entries) - 2))
    other = data.draw(st.integers(one + 1, len(entries) - 1))
    entries[one], entries[other] = entries[other], entries[one]

    fault = verify(entries).fault

    assert fault is not None
    assert (fault.kind, fault.sequence) == (FaultKind.MISSING, one + 1)


@settings(max_examples=50)
@given(st.data(), chains, events)
def test_an_inserted_entry_is_found(data, entries, event):
    head = head_of(entries)
    place = data.draw(st.integers(0, len(entries)))
    before = Head(entries[place - 1].sequence, entries[place - 1].hash) if place else Head()
    inserted = extend(before, msgspec.structs.replace(event, key="inserted by somebody else"))

    fault = verify([*entries[:place], inserted, *entries[place:]], heads=[head]).fault

    if place == len(entries):  # a well-made entry at the end is what appending is
        assert fault is None
    else:
        assert fault is not None
        assert fault.sequence <= place + 2


@settings(max_examples=50)
@given(st.data(), chains)
def test_a_truncated_tail_is_found_by_any_later_head(data, entries):
    kept = data.draw(st.integers(0, len(entries) - 1))

    found = verify(entries[:kept], heads=[head_of(entries)])

    assert found.fault is not None
    assert (found.fault.kind, found.fault.sequence) == (FaultKind.TRUNCATED, kept + 1)
    assert found.head.sequence == kept


def test_check_raises_and_names_the_first_broken_entry():
    event = AuditEvent(at_us=1, principal=Principal("ana"), action="version.register", subject="s", key="k")
    entries = chain_of([event, event, event])
    entries[1] = msgspec.structs.replace(entries[1], subject="t")

    with pytest.raises(AuditBroken, match="broken at entry 2") as caught:
        verify(entries).check()

    assert caught.value.context == {"sequence": 2, "kind": "changed"}
    verify(entries[:1]).check()


def test_hash_of_an_entry_is_the_same_in_every_release():
    event = AuditEvent(
        at_us=1_700_000_000_000_000,
        principal=Principal("ana@laptop"),
        action="version.register",
        subject="flights@1",
        key="k-1",
        service="flights",
        detail={"changelog": "first", "ratio": 0.25},
    )

    entry = extend(Head(), event)

    assert entry.previous == GENESIS
    by_hand = {
        "action": "version.register",
        "at_us": 1_700_000_000_000_000,
        "detail": {"changelog": "first", "ratio": 0.25},
        "format": 1,
        "key": "k-1",
        "previous": GENESIS,
        "principal": {"kind": "person", "name": "ana@laptop"},
        "sequence": 1,
        "service": "flights",
        "subject": "flights@1",
    }
    canonical = json.dumps(by_hand, sort_keys=True, separators=(",", ":")).encode()
    assert entry.hash == f"sha256:{hashlib.sha256(canonical).hexdigest()}"
    assert entry.hash == "sha256:c4f387da4ea5c91869c284ef242a0a659072f09f8fa284053487b4874f8fc3fc"


@pytest.mark.parametrize(
    "change",
    [
        {"subject": "a\nb"},
        {"key": "\x00"},
        {"action": "\ud800"},
        {"service": "../x"},
        {"detail": {"x": object()}},
    ],
)
def test_what_a_database_might_not_keep_is_refused(change):
    event = AuditEvent(at_us=1, principal=Principal("ana"), action="a", subject="s", key="k")

    with pytest.raises(InvalidSetting):
        extend(Head(), msgspec.structs.replace(event, **change))


@given(st.integers(0, 10**12))
def test_head_reads_back_what_it_wrote(sequence):
    head = Head(sequence, digest_bytes(str(sequence).encode()))

    assert Head.parse(str(head)) == head


@pytest.mark.parametrize("text", ["", "5", "x:sha256:" + "0" * 64, "5:sha256:00", "-1:sha256:" + "0" * 64])
def test_head_refuses_other_text(text):
    with pytest.raises(InvalidSetting):
        Head.parse(text)
