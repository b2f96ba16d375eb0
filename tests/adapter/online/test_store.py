"""One behaviour of online stores, over the embedded one and a real Redis-compatible server."""

import random
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.adapter.online.store import KINDS, new_store
from tidegate.adapter.redis.online import RedisOnlineStore
from tidegate.adapter.sqlite.online import SqliteOnlineStore
from tidegate.core.error import InvalidSetting
from tidegate.feature.online import Event, OnlineStoreUnavailable

fresh_store_each_example = settings(max_examples=25)

_times = st.integers(-3, 12)
_ids = st.sampled_from([b"", b"a", b"ab", b"b", b"a\xff", b"*"])
_payloads = st.sampled_from([b"", b"\x00", b"\x90", b"b\x91\x01", b"\xff"])
_keys = st.sampled_from([b"k", b"k\x00", b"*", b"kk"])
_entries = st.lists(st.tuples(_keys, st.builds(Event, _times, _times, _ids, _payloads)), max_size=20)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def store(kind, request, tmp_path):
    with new_store(kind, request, tmp_path) as opened:
        yield opened


def event(event_us, created_us=None, event_id=b"", payload=b"p"):
    return Event(event_us, event_us if created_us is None else created_us, event_id, payload)


@fresh_store_each_example
@given(entries=_entries, key=_keys, bounds=st.tuples(st.integers(-4, 14), st.integers(-4, 14)))
def test_store_answers_like_a_sorted_list(kind, request, tmp_path, *, entries, key, bounds):
    since_us, at_us = bounds
    with new_store(kind, request, tmp_path) as store:
        n_new = store.put("view", entries)

        kept = sorted({event for name, event in entries if name == key})
        known = [event for event in kept if event.event_us < at_us and event.created_us < at_us]
        assert n_new == len(set(entries))
        assert store.latest("view", [key], at_us=at_us) == [known[-1] if known else None]
        assert store.within("view", [key], since_us=since_us, at_us=at_us) == [
            [event for event in known if event.event_us >= since_us]
        ]


@fresh_store_each_example
@given(_entries, st.integers(-4, 14))
def test_forgetting_removes_what_is_old_but_the_last_of_each_key(kind, request, tmp_path, entries, before_us):
    with new_store(kind, request, tmp_path) as store:
        store.put("view", entries)
        store.put("other", entries)

        n_removed = store.forget("view", before_us=before_us)

        n_expected = 0
        for key in {name for name, _ in entries}:
            kept = sorted({event for name, event in entries if name == key})
            stays = [event for event in kept if event.event_us >= before_us or event == kept[-1]]
            n_expected += len(kept) - len(stays)
            assert store.within("view", [key], since_us=-9, at_us=99) == [stays]
            assert store.within("other", [key], since_us=-9, at_us=99) == [kept]
        assert n_removed == n_expected


def test_order_and_repetition_of_puts_do_not_matter(store):
    entries = [(b"k", event(i % 7, i % 5, str(i % 3).encode(), str(i).encode())) for i in range(60)]
    store.put("in order", entries)
    shuffled = entries * 2
    random.Random(3).shuffle(shuffled)

    for entry in shuffled:
        store.put("shuffled", [entry])

    ask = {"since_us": 0, "at_us": 99}
    assert store.within("shuffled", [b"k"], **ask) == store.within("in order", [b"k"], **ask)


def test_put_tells_how_many_events_were_new(store):
    assert store.put("view", [(b"k", event(1)), (b"k", event(2))]) == 2
    assert store.put("view", [(b"k", event(2)), (b"k", event(3))]) == 1
    assert store.put("view", []) == 0


def test_many_keys_are_answered_in_the_order_asked(store):
    store.put("view", [(str(i).encode(), event(i)) for i in range(500)])
    asked = [str(i).encode() for i in (400, 3, 999, 3)]

    found = store.latest("view", asked, at_us=10_000)

    assert [None if one is None else one.event_us for one in found] == [400, 3, None, 3]
    assert store.latest("view", [], at_us=1) == []
    assert store.within("view", [], since_us=0, at_us=1) == []


def test_last_event_is_found_behind_many_not_yet_known(store):
    store.put("view", [(b"k", event(0, 0))] + [(b"k", event(i, 1000)) for i in range(1, 50)])

    assert store.latest("view", [b"k"], at_us=100) == [event(0, 0)]


def test_real_times_are_kept_to_the_microsecond(store):
    moment_us = 1_383_264_000_123_457
    store.put("view", [(b"k", event(moment_us, moment_us + 1))])

    assert store.latest("view", [b"k"], at_us=moment_us + 1) == [None]
    assert store.latest("view", [b"k"], at_us=moment_us + 2) == [event(moment_us, moment_us + 1)]


def test_what_another_writes_is_seen(kind, request, tmp_path):
    if kind == "sqlite":
        first, second = SqliteOnlineStore(tmp_path / "f.db"), SqliteOnlineStore(tmp_path / "f.db")
    else:
        url = request.getfixturevalue("redis_url")
        first, second = (RedisOnlineStore(url, prefix=str(tmp_path)) for _ in range(2))
    first.put("view", [(b"k", event(1))])

    assert second.latest("view", [b"k"], at_us=9) == [event(1)]
    first.close()
    second.close()


def test_writers_at_once_lose_nothing(kind, request, tmp_path):
    def opened():
        if kind == "sqlite":
            return SqliteOnlineStore(tmp_path / "f.db")
        return RedisOnlineStore(request.getfixturevalue("redis_url"), prefix=str(tmp_path))

    def write(number):
        store = opened()
        for i in range(25):
            store.put("view", [(b"k", event(i, event_id=str(number).encode()))])
        store.close()

    reader = opened()
    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    assert len(reader.within("view", [b"k"], since_us=0, at_us=99)[0]) == 100
    reader.close()


def test_store_that_cannot_be_reached_is_reported(kind, tmp_path):
    absent = tmp_path / "absent" / "store"

    with pytest.raises(OnlineStoreUnavailable):
        SqliteOnlineStore(absent) if kind == "sqlite" else RedisOnlineStore(f"unix://{absent}")


def test_address_of_no_server_is_refused():
    with pytest.raises(InvalidSetting, match="address"):
        RedisOnlineStore("somewhere")
