"""Heads that repeat are not parsed again, and nobody can tell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.serving.http.harness import Server, Service, contract_of, records, scalar, serving
from tests.serving.http.peer import Peer, request
from tidegate.contract.schema import DataType
from tidegate.serving.http import connection

CONTRACT = contract_of([scalar("x", DataType.FLOAT64)], [scalar("y", DataType.FLOAT64)])


@pytest.fixture
def server(tmp_path: Any) -> Iterator[Server]:
    with serving(tmp_path, Service("echo", CONTRACT, lambda batch: {"y": batch["x"]})) as running:
        yield running


@pytest.fixture
def peer(server: Server) -> Iterator[Peer]:
    with Peer(server) as made:
        yield made


def known(server: Server) -> int:
    return len(server.site.heads)


def ask(peer: Peer, x: int, **more: Any) -> float:
    peer.send(request(f'{{"x": {x}}}', **more))
    answer = peer.answer()
    assert answer.status == 200, answer
    return float(answer.json["output"]["y"])


def test_each_request_of_a_known_head_is_answered_by_its_own_body(server: Server, peer: Peer) -> None:
    assert [ask(peer, x) for x in range(8)] == list(range(8))
    assert known(server) == 1

    with Peer(server) as other:
        assert ask(other, 5) == 5.0
    assert known(server) == 1


def test_the_head_of_a_client_that_says_keep_alive_is_kept(server: Server, peer: Peer) -> None:
    assert [ask(peer, x, headers="Connection: keep-alive\r\n") for x in range(3)] == [0, 1, 2]

    assert known(server) == 1


def test_a_known_head_whose_body_comes_later_is_read_as_ever(peer: Peer) -> None:
    assert ask(peer, 1) == 1.0
    whole = request('{"x": 7}')

    peer.send(whole[:-3])
    peer.send(whole[-3:])

    assert peer.answer().json["output"] == {"y": 7.0}
    assert ask(peer, 2) == 2.0


def test_several_requests_of_a_known_head_in_one_read_are_all_answered(peer: Peer) -> None:
    assert ask(peer, 1) == 1.0

    peer.send(b"".join(request(f'{{"x": {x}}}') for x in range(5)))

    assert [peer.answer().json["output"]["y"] for _ in range(5)] == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_a_refusal_of_a_known_head_is_one_of_its_body(server: Server, peer: Peer) -> None:
    assert ask(peer, 1) == 1.0

    peer.send(request('{"z": 1}'))

    assert peer.answer().status == 422
    assert ask(peer, 3) == 3.0


@pytest.mark.parametrize(
    "headers",
    [
        "Connection: close\r\n",
        "Expect: 100-continue\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Upgrade: h2c\r\n",
    ],
)
def test_special_heads_are_never_kept(server: Server, headers: str) -> None:
    with Peer(server) as peer:
        body = '8\r\n{"x": 1}\r\n0\r\n\r\n' if "chunked" in headers else '{"x": 1}'
        peer.send(request(body, headers=headers))
        assert peer.answer(head_only="100" in headers).status in (100, 200)

    assert known(server) == 0


def test_nonsense_is_not_kept_in_the_name_of_the_request_before(server: Server, peer: Peer) -> None:
    assert ask(peer, 1) == 1.0

    peer.send(b"NONSENSE\r\n\r\n")

    assert peer.answer().status == 400
    assert known(server) == 1
    with Peer(server) as other:
        other.send(b"NONSENSE\r\n\r\n")
        assert other.answer().status == 400


def test_known_heads_end_with_the_resources_they_lead_to(server: Server, peer: Peer) -> None:
    assert ask(peer, 1) == 1.0

    server.in_loop(lambda: server.site.publish({}))

    peer.send(request('{"x": 1}'))
    assert peer.answer().status == 404


def test_the_number_of_known_heads_is_bounded(
    server: Server, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MAX_KNOWN_HEADS", 4)

    for number in range(20):
        assert ask(peer, number, headers=f"X-Number: {number}\r\n") == number

    assert known(server) <= 4


def test_the_callers_own_id_is_journalled_whatever_else_is_in_the_head(server: Server, peer: Peer) -> None:
    for number in range(3):  # by a head that is new, and by one that is known
        ask(peer, number, headers=f"X-Request-Id: mine-{number // 2}\r\n")
    peer.send(
        b'POST /services/echo/predict HTTP/1.0\r\nx-request-id: old\r\ncontent-length: 8\r\n\r\n{"x": 7}'
    )
    assert peer.answer().status == 200

    assert [row["caller"] for row in records(server.folder)] == ["mine-0", "mine-0", "mine-1", "old"]


@pytest.mark.parametrize("timeout", ["soon", "1_000", "0", "nan"])
def test_a_head_that_cannot_be_used_is_refused_each_time(server: Server, peer: Peer, timeout: str) -> None:
    for _ in range(4):
        peer.send(request('{"x": 1}', headers=f"tidegate-timeout-ms: {timeout}\r\n"))
        assert peer.answer().status == 400

    assert ask(peer, 2) == 2.0
