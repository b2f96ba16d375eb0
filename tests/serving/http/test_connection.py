"""One connection: framing, order, refusals and ends, byte by byte."""

import gzip
import sys
import threading
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.serving.http.harness import HeldExecutor, Server, Service, contract_of, records, scalar, serving
from tests.serving.http.peer import Peer, request
from tidegate.contract.objective import Limits
from tidegate.contract.schema import DataType
from tidegate.serving.http import connection as limits
from tidegate.serving.http import site as timeouts


def zipped(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)  # without the time: it would be part of the tests' names


CONTRACT = contract_of([scalar("x", DataType.FLOAT64)], [scalar("y", DataType.FLOAT64)])
MAX_BODY = 1 << 18


def services() -> list[Service]:
    def echo(batch: Any) -> dict[str, Any]:
        return {"y": batch["x"]}

    return [
        Service("echo", CONTRACT, echo, limits=Limits(max_body_bytes=MAX_BODY)),
        Service("held", CONTRACT, echo, held=True, limits=Limits(deadline_ms=60_000)),
    ]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server"), *services()) as running:
        yield running


@pytest.fixture
def peer(server: Server) -> Iterator[Peer]:
    with Peer(server) as made:
        yield made


@pytest.fixture
def held(server: Server) -> Iterator[HeldExecutor]:
    executor: HeldExecutor = server.services[1].executors[0]
    executor.arrived.clear()
    yield executor
    server.in_loop(executor.release)


def sent(x: float, **more: Any) -> bytes:
    return request(f'{{"x": {x}}}', **more)


HELD = "/services/held/predict"


# --- order and framing ---


def test_pipelined_requests_are_answered_in_order(peer: Peer) -> None:
    peer.send(b"".join(sent(x) for x in range(200)))

    assert [peer.answer().json["output"]["y"] for _ in range(200)] == list(range(200))


def test_answer_that_is_ready_waits_for_the_one_before(
    server: Server, peer: Peer, held: HeldExecutor
) -> None:
    peer.send(sent(1, path=HELD), sent(2), request(method="GET", path="/v2/health/live", body=""))
    assert held.arrived.wait(10)

    server.in_loop(held.release)

    assert peer.answer().json["output"]["y"] == 1
    assert peer.answer().json["output"]["y"] == 2
    assert peer.answer().json == {"live": True}


def test_request_in_single_bytes_is_read(peer: Peer) -> None:
    for byte in sent(3):
        peer.send(bytes([byte]))

    assert peer.answer().json["output"]["y"] == 3


def test_chunked_bodies_are_read(peer: Peer) -> None:
    head = request(b"", headers="Transfer-Encoding: chunked\r\n")
    peer.send(head, b'4\r\n{"x"\r\n', b"4;ext=1\r\n: 5}\r\n", b"0\r\nTrailer: t\r\n\r\n")
    assert peer.answer().json["output"]["y"] == 5

    peer.send(sent(6))
    assert peer.answer().json["output"]["y"] == 6


def test_trailer_does_not_change_what_the_head_said(peer: Peer) -> None:
    head = request(b"", headers="Transfer-Encoding: chunked\r\n")
    peer.send(head, b'8\r\n{"x": 5}\r\n0\r\nContent-Encoding: gzip\r\n\r\n')

    assert peer.answer().json["output"]["y"] == 5


def test_empty_lines_before_a_request_are_passed_over(peer: Peer) -> None:
    peer.send(b"\r\n\r\n", sent(1), b"\r\n", sent(2))

    assert [peer.answer().json["output"]["y"] for _ in range(2)] == [1, 2]


def test_head_has_no_body_and_the_length_of_one(peer: Peer) -> None:
    peer.send(request(b"", method="GET", path="/v2"), request(b"", method="HEAD", path="/v2"))
    full = peer.answer()

    bare = peer.answer(head_only=True)

    assert bare.status == 200
    assert bare.headers["content-length"] == str(len(full.body))
    peer.send(sent(1))
    assert peer.answer().status == 200


def test_query_escapes_and_absolute_form_name_the_same_resource(peer: Peer) -> None:
    for path in (
        "/v2/health/live?verbose=1",
        "/v2/health/liv%65",
        "http://other:80/v2/health/live",
        "HTTPS://other/v2/health/live",
    ):
        peer.send(request(b"", method="GET", path=path))
        assert peer.answer().json == {"live": True}


# --- compression ---


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", zipped(b'{"x": 7}')),
        ("x-gzip", zipped(b'{"x": 7}')),
        ("gzip", zipped(b'{"x"') + zipped(b": 7}")),
        ("deflate", zlib.compress(b'{"x": 7}')),
        ("deflate", zlib.compress(b'{"x": 7}')[2:-4]),
        ("identity", b'{"x": 7}'),
    ],
)
def test_compressed_bodies_are_read(peer: Peer, coding: str, body: bytes) -> None:
    peer.send(request(body, headers=f"Content-Encoding: {coding}\r\n"))

    assert peer.answer().json["output"]["y"] == 7


@pytest.mark.parametrize(
    ("coding", "body", "status", "code"),
    [
        ("gzip", b'{"x": 7}', 400, "bad_request"),
        ("gzip", zipped(b'{"x": 7}')[:-5], 400, "bad_request"),
        ("gzip", zipped(b'{"x": 7}') + b"tail", 400, "bad_request"),
        ("gzip", b"", 400, "bad_request"),
        ("deflate", b"\x00\x01\x02", 400, "bad_request"),
        ("br", b"x", 415, "unsupported_encoding"),
        ("gzip, gzip", b"x", 415, "unsupported_encoding"),
        ("br\r\nContent-Encoding: identity", b'{"x": 7}', 415, "unsupported_encoding"),
        ("gzip", zipped(b"") * 12_000, 400, "bad_request"),
        ("gzip", zipped(bytes(50 << 20)), 413, "body_too_large"),
        ("gzip", b"".join(zipped(bytes(MAX_BODY // 4)) for _ in range(5)), 413, "body_too_large"),
        ("deflate", zlib.compress(bytes(MAX_BODY + 1)), 413, "body_too_large"),
    ],
)
def test_bodies_compressed_wrongly_are_refused(
    peer: Peer, coding: str, body: bytes, status: int, code: str
) -> None:
    peer.send(request(body, headers=f"Content-Encoding: {coding}\r\n"))

    answer = peer.answer()

    assert (answer.status, answer.error["code"]) == (status, code)
    peer.send(sent(1))
    assert peer.answer().status == 200


# --- headers ---


@pytest.mark.parametrize("space", [" ", "\t", " \t "])
def test_white_space_after_a_value_is_none_of_it(peer: Peer, space: str) -> None:
    whole = sent(4, headers=f"Expect: 100-continue{space}\r\nX-Request-Id:{space}\r\n")
    head, _, body = whole.partition(b"\r\n\r\n")
    peer.send(head + b"\r\n\r\n")
    assert peer.answer().status == 100
    peer.send(body)
    assert peer.answer().status == 200

    peer.send(sent(5, headers=f"tidegate-timeout-ms: 5000{space}\r\ntidegate-criticality: batch{space}\r\n"))
    assert peer.answer().status == 200


def test_lines_of_one_name_are_one_list(peer: Peer) -> None:
    peer.send(sent(4, headers="Expect: other\r\nExpect: 100-continue\r\n"))
    assert peer.answer().status == 100
    assert peer.answer().status == 200

    two = "Accept-Encoding: gzip\r\nAccept-Encoding: br\r\n"
    data = ",".join(["1.5"] * 500)
    tensor = f'{{"inputs": [{{"name": "x", "datatype": "FP64", "shape": [500], "data": [{data}]}}]}}'
    peer.send(request(tensor, path="/v2/models/echo/infer", headers=two))
    assert peer.answer().headers["content-encoding"] == "gzip"


def test_zeros_before_a_length_are_none_of_it(server: Server, peer: Peer) -> None:
    peer.send(request('{"x": 1}', headers=f"Content-Length: {'0' * 5000}8\r\n"))
    assert peer.answer().status == 200
    peer.send(request('{"x": 1}', path="/nope", headers=f"Content-Length: {'0' * 5000}8\r\n"))
    assert peer.answer().status == 404

    with Peer(server) as other:
        other.send(request(b"", headers=f"Content-Length: {'0' * 5000}{2**64 - 1}\r\n"))
        assert other.answer().status == 413


# --- refusals of what cannot be read ---

LONG = "x" * 8000


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02",
        b"nonsense\r\n\r\n",
        b"BREW /a HTTP/2.0\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /a HTTP/9.9\r\n\r\n",
        b"G@T /a HTTP/1.1\r\n\r\n",
        b"GET /a HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost : t\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: t\x00\r\n\r\n",
        b"GET /a b HTTP/1.1\r\n\r\n",
        request(headers="host: u\r\n"),
        request(b"x", headers="Content-Length: -1\r\n"),
        request(b"x", headers="Content-Length: abc\r\n"),
        request(b"x", headers="Content-Length: 1, 1\r\n"),
        request(b"x", headers="Content-Length: 1\r\nContent-Length: 2\r\n"),
        request(b"x", headers=f"Content-Length: {'9' * 30}\r\n"),
        request(b"0\r\n\r\n", headers="Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        request(b"0\r\n\r\n", headers="Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"),
        request(b"zz\r\n", headers="Transfer-Encoding: chunked\r\n"),
        request(b"1\r\nabc\r\n", headers="Transfer-Encoding: chunked\r\n"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_what_is_not_http_is_400_and_the_end(server: Server, data: bytes) -> None:
    with Peer(server) as peer:
        peer.send(data)

        answer = peer.answer()

        assert (answer.status, answer.error["code"]) == (400, "bad_request")
        assert answer.headers["connection"] == "close"
        assert peer.is_closed


def test_transfer_encoding_other_than_chunked_is_refused(server: Server) -> None:
    for name in ("gzip, chunked", "x, chunked", "gzip\r\nTransfer-Encoding: chunked"):
        with Peer(server) as peer:
            peer.send(request(b"0\r\n\r\n", headers=f"Transfer-Encoding: {name}\r\n"))

            assert peer.answer().status == 415
            assert peer.is_closed


@pytest.mark.parametrize(
    "data",
    [
        request(headers=f"X: {LONG}\r\n" * 5),
        request(headers="A: b\r\n" * (limits.MAX_HEADERS + 1)),
        b"GET /a HTTP/1.1\r\nHost: t\r\nX: " + LONG.encode() * 50,
        b"GET /a HTTP/1.1\r\nHost: t\r\n" + LONG.encode() * 50,
    ],
    ids=["headers", "many", "endless value", "endless name"],
)
def test_head_that_is_too_large_is_431(server: Server, data: bytes) -> None:
    with Peer(server) as peer:
        peer.send(data)

        answer = peer.answer()

        assert (answer.status, answer.error["code"]) == (431, "headers_too_large")
        assert peer.is_closed


@pytest.mark.parametrize(
    "data", [request(path="/" + LONG * 5), b"GET /" + LONG.encode() * 50], ids=["whole", "endless"]
)
def test_target_that_is_too_long_is_414(server: Server, data: bytes) -> None:
    with Peer(server) as peer:
        peer.send(data)

        answer = peer.answer()

        assert (answer.status, answer.error["code"]) == (414, "target_too_long")
        assert peer.is_closed


@pytest.mark.parametrize("method", ["BREW", "get", "GETT", "M-SEARCH2"])
def test_method_that_is_not_known_is_told_so(server: Server, method: str) -> None:
    with Peer(server) as peer:
        peer.send(request(method=method))

        answer = peer.answer()

        assert (answer.status, answer.error["message"]) == (400, "This method is not known.")
        assert answer.headers["connection"] == "close"
        assert peer.is_closed


@pytest.mark.parametrize("host", ["a b/c", "a/b", "user@a", "a, b", "h\xe9"])
def test_host_that_is_none_is_400_and_the_connection_stays(peer: Peer, host: str) -> None:
    peer.send(sent(1).replace(b"Host: t", f"Host: {host}".encode()), sent(2))

    refused = peer.answer()

    assert (refused.status, refused.error["code"]) == (400, "bad_request")
    assert peer.answer().json["output"]["y"] == 2


@pytest.mark.parametrize("host", ["", "a", "a_b.c:80", "[::1]:8080", "%C3%A9.example"])
def test_host_of_every_form_is_taken(peer: Peer, host: str) -> None:
    peer.send(sent(1).replace(b"Host: t", f"Host: {host}".encode()))

    assert peer.answer().status == 200


def test_head_that_never_ends_is_cut_off_in_small_pieces(server: Server) -> None:
    with Peer(server) as peer:
        peer.send(b"GET /v2 HTTP/1.1\r\nHost: t\r\nX: ")
        peer.send_until_cut(LONG)

        assert b"431" in peer.rest()[:20]


def test_many_requests_in_one_piece_are_no_large_head(peer: Peer) -> None:
    padded = sent(1, headers=f"X: {LONG}\r\n")
    peer.send(padded * 40 + padded[:4000])

    assert [peer.answer().status for _ in range(40)] == [200] * 40
    peer.send(padded[4000:])
    assert peer.answer().status == 200


def test_error_before_a_resource_is_known_has_the_shape_of_its_face(peer: Peer) -> None:
    peer.send(f"GET /v2/models/echo HTTP/1.1\r\nHost: t\r\nX: {LONG * 5}\r\n\r\n")

    assert peer.answer().json["error"].startswith("The request line and headers exceed")


# --- resources and methods ---


def test_unknown_resource_is_404_and_the_connection_stays(peer: Peer) -> None:
    peer.send(request(path="/nope"), request(path="/v2/nope"), sent(1))

    native, protocol, good = peer.answer(), peer.answer(), peer.answer()

    assert (native.status, native.error["code"]) == (404, "not_found")
    assert "/services/echo/predict" in native.error["hint"]
    assert (protocol.status, list(protocol.json)) == (404, ["error"])
    assert good.status == 200


@pytest.mark.parametrize("verb", ["predict", "outcomes"])
def test_service_of_no_name_is_unknown_and_others_are_listed(peer: Peer, verb: str) -> None:
    peer.send(request(path=f"/services/nope/{verb}"), request(path=f"/services/echo/{verb}s"))

    unknown, other = peer.answer(), peer.answer()

    assert (unknown.status, unknown.error["code"]) == (404, "unknown_service")
    assert "echo" in unknown.error["hint"]
    assert (other.status, other.error["code"]) == (404, "not_found")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "HEAD"])
def test_wrong_method_is_405_and_says_which(peer: Peer, method: str) -> None:
    peer.send(request(method=method))

    answer = peer.answer(head_only=method == "HEAD")

    assert answer.status == 405
    assert answer.headers["allow"] == "POST"
    peer.send(sent(1))
    assert peer.answer().status == 200


def test_wrong_method_where_there_is_something_to_get_may_ask_for_its_head(peer: Peer) -> None:
    peer.send(request(b"", method="PUT", path="/v2"))

    answer = peer.answer()

    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


def test_path_that_begins_like_a_scheme_is_a_path(peer: Peer) -> None:
    peer.send(request(b"", method="GET", path="/http://x/v2"))

    assert peer.answer().status == 404


def test_connect_is_refused_and_the_connection_goes_on(peer: Peer) -> None:
    peer.send(b"CONNECT other:443 HTTP/1.1\r\nHost: other\r\n\r\n", sent(1))

    assert peer.answer().status == 404
    assert peer.answer().json["output"]["y"] == 1


# --- bodies that are too large ---


def test_announced_body_that_is_too_large_is_413_before_it_is_read(server: Server) -> None:
    with Peer(server) as peer:
        peer.send(request(b"", headers="Content-Length: 1000000000\r\n"))

        answer = peer.answer()

        assert (answer.status, answer.error["context"]["limit_bytes"]) == (413, MAX_BODY)
        assert answer.headers["connection"] == "close"


def test_answer_to_a_large_refused_body_can_be_read_after_sending_it_all(server: Server) -> None:
    with Peer(server) as peer:
        body = bytes(32 << 20)
        peer.send(request(body))

        assert peer.answer().status == 413
        peer.finish()
        assert peer.is_closed


def test_small_refused_body_leaves_the_connection_open(peer: Peer) -> None:
    peer.send(request(bytes(1000), path="/nope"), sent(1))

    assert [peer.answer().status, peer.answer().status] == [404, 200]


def test_chunked_body_that_grows_too_large_is_413(server: Server) -> None:
    with Peer(server) as peer:
        peer.send(request(b"", headers="Transfer-Encoding: chunked\r\n"))
        chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
        peer.send(chunk * 40, b"0\r\n\r\n")

        answer = peer.answer()

        assert answer.status == 413
        assert answer.headers["connection"] == "close"
        peer.finish()
        assert peer.is_closed


def test_chunked_request_that_is_refused_on_its_head_is_answered_once(server: Server) -> None:
    with Peer(server) as peer:
        peer.send(
            request(b'8\r\n{"x": 5}\r\n0\r\n\r\n', path="/nope", headers="Transfer-Encoding: chunked\r\n"),
            sent(1),
        )

        assert peer.answer().status == 404
        peer.finish()
        assert peer.is_closed


@pytest.mark.parametrize(
    "start",
    [b'8\r\n{"x": 5}\r\n0\r\nX: ', b'8\r\n{"x": 5}\r\n0\r\n', b"8;x="],
    ids=["value", "name", "extension"],
)
def test_framing_of_a_chunked_body_that_never_ends_is_cut_off(server: Server, start: bytes) -> None:
    with Peer(server) as peer:
        peer.send(request(b"", headers="Transfer-Encoding: chunked\r\n") + start)
        peer.send_until_cut(LONG)

        assert b"431" in peer.rest()[:20]


def test_framing_of_a_large_chunked_body_earns_no_credit_for_its_trailer(server: Server) -> None:
    with Peer(server) as peer:
        peer.send(request(b"", headers="Transfer-Encoding: chunked\r\n"))
        peer.send(b"3e800\r\n" + bytes(0x3E800) + b"\r\n0\r\nX: ")
        peer.send_until_cut(LONG)

        assert b"431" in peer.rest()[:20]


def test_body_in_the_smallest_chunks_is_read_and_kept_small(server: Server, peer: Peer) -> None:
    n_chunks = 100_000
    peer.send(request(b"", headers="Transfer-Encoding: chunked\r\n"), b"1\r\n \r\n" * n_chunks)
    _seen(server, "body", n_chunks)

    (kept,) = server.in_loop(
        lambda: [one._body for one in server.site.connections if one._body_bytes == n_chunks]
    )
    assert sys.getsizeof(kept) < 2 * n_chunks
    peer.send(b'8\r\n{"x": 5}\r\n0\r\n\r\n')
    assert peer.answer().json["output"]["y"] == 5


# --- expectations ---


def test_expected_continue_is_sent(peer: Peer) -> None:
    whole = sent(4, headers="Expect: 100-continue\r\n")
    head, _, body = whole.partition(b"\r\n\r\n")
    peer.send(head + b"\r\n\r\n")

    assert peer.answer().status == 100
    peer.send(body)
    assert peer.answer().json["output"]["y"] == 4


def test_refusal_comes_instead_of_the_expected_continue(server: Server) -> None:
    with Peer(server) as peer:
        head = request(b"", path="/nope", headers="Expect: 100-continue\r\nContent-Length: 10\r\n")
        peer.send(head)

        answer = peer.answer()

        assert (answer.status, answer.headers["connection"]) == (404, "close")
        assert peer.is_closed


def test_continue_is_not_sent_while_an_earlier_answer_is_owed(
    server: Server, peer: Peer, held: HeldExecutor
) -> None:
    peer.send(sent(1, path=HELD), sent(2, headers="Expect: 100-continue\r\n"))
    assert held.arrived.wait(10)

    server.in_loop(held.release)

    assert [peer.answer().status, peer.answer().status] == [200, 200]


def test_continue_is_sent_once_the_earlier_answers_are(
    server: Server, peer: Peer, held: HeldExecutor
) -> None:
    head, _, body = sent(3, headers="Expect: 100-continue\r\n").partition(b"\r\n\r\n")
    peer.send(sent(1, path=HELD), sent(2), head + b"\r\n\r\n")
    assert held.arrived.wait(10)
    _seen(server, "body")

    server.in_loop(held.release)

    assert [peer.answer().status for _ in range(3)] == [200, 200, 100]
    peer.send(body, sent(4))
    assert [peer.answer().json["output"]["y"] for _ in range(2)] == [3, 4]


def test_expectation_of_an_old_client_is_ignored(peer: Peer) -> None:
    peer.send(sent(4, version="1.0", headers="Expect: 100-continue\r\n"))

    assert peer.answer().status == 200


# --- staying and closing ---


def test_connection_closes_after_the_answer_when_asked(peer: Peer) -> None:
    peer.send(sent(1, headers="Connection: close\r\n"))

    answer = peer.answer()

    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert peer.is_closed


def test_nothing_is_read_after_the_last_request(server: Server, peer: Peer) -> None:
    before = len(records(server.folder))
    peer.send(sent(1, headers="Connection: close\r\n") + sent(2) + b"nonsense")

    assert peer.answer().json["output"]["y"] == 1
    assert peer.is_closed
    assert len(records(server.folder)) == before + 1


def test_old_client_gets_its_answer_and_the_end(peer: Peer) -> None:
    peer.send(sent(1, version="1.0"))

    answer = peer.answer()

    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert peer.is_closed


def test_old_client_may_ask_to_stay(peer: Peer) -> None:
    for x in (1, 2):
        peer.send(sent(x, version="1.0", headers="Connection: keep-alive\r\n"))
        answer = peer.answer()
        assert answer.json["output"]["y"] == x
        assert answer.headers["connection"] == "keep-alive"


def test_old_client_may_not_stay_after_a_chunked_body(peer: Peer) -> None:
    framing = "Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n"
    peer.send(request(b'8\r\n{"x": 5}\r\n0\r\n\r\n', version="1.0", headers=framing))

    answer = peer.answer()

    assert (answer.json["output"]["y"], answer.headers["connection"]) == (5, "close")
    assert peer.is_closed


def test_new_client_is_not_told_that_it_may_stay(peer: Peer) -> None:
    peer.send(sent(1, headers="Connection: keep-alive\r\n"))

    assert "connection" not in peer.answer().headers


@pytest.mark.parametrize("offer", ["h2c", "websocket"])
def test_offer_to_upgrade_is_declined_by_going_on(peer: Peer, offer: str) -> None:
    upgrade = f"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: {offer}\r\nHTTP2-Settings: AAMAAABk\r\n"
    peer.send(sent(1, headers=upgrade) + sent(2), request(b"", method="GET", path="/v2", headers=upgrade))
    peer.send(sent(3))

    assert [peer.answer().json["output"]["y"] for _ in range(2)] == [1, 2]
    assert peer.answer().json["name"] == "tidegate"
    assert peer.answer().json["output"]["y"] == 3


def test_old_client_that_offers_to_upgrade_stays_an_old_one(peer: Peer) -> None:
    staying = "Connection: keep-alive, Upgrade\r\nUpgrade: h2c\r\n"
    peer.send(sent(1, version="1.0", headers=staying).replace(b"Host: t\r\n", b""))
    assert peer.answer().headers["connection"] == "keep-alive"

    peer.send(sent(2, version="1.0", headers="Connection: Upgrade\r\nUpgrade: h2c\r\n"))
    answer = peer.answer()

    assert (answer.json["output"]["y"], answer.headers["connection"]) == (2, "close")
    assert peer.is_closed


def test_wish_to_close_is_heard_on_a_line_beside_the_offer_to_upgrade(peer: Peer) -> None:
    peer.send(sent(1, headers="Connection: close\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"))

    assert peer.answer().headers["connection"] == "close"
    assert peer.is_closed


def test_body_of_a_request_that_offers_to_upgrade_is_no_request(server: Server, peer: Peer) -> None:
    upgrade = "Connection: Upgrade\r\nUpgrade: h2c\r\n"
    hidden = sent(9)
    before = len(records(server.folder))
    peer.send(request(hidden, headers=upgrade) + sent(1))
    peer.send(request(b"", headers=upgrade + "Transfer-Encoding: chunked\r\n"))
    peer.send(b'4\r\n{"x"\r\n4\r\n: 5}\r\n0\r\n\r\n')
    peer.send(sent(2, headers="Connection: Upgrade, close\r\nUpgrade: h2c\r\n"))

    assert peer.answer().error["code"] == "malformed_body"
    assert [peer.answer().json["output"]["y"] for _ in range(3)] == [1, 5, 2]
    assert peer.is_closed
    assert len(records(server.folder)) == before + 3


def test_a_request_without_a_host_is_400_and_the_connection_stays(peer: Peer) -> None:
    nameless = sent(1).replace(b"Host: t\r\n", b"")

    peer.send(nameless, nameless.replace(b"HTTP/1.1", b"HTTP/1.0\r\nConnection: keep-alive"), sent(2))

    refused = peer.answer()
    assert (refused.status, refused.error["code"]) == (400, "bad_request")
    assert "Host" in refused.error["hint"]
    assert [peer.answer().json["output"]["y"] for _ in range(2)] == [1, 2]


def test_thousands_of_offers_to_upgrade_in_one_piece(peer: Peer) -> None:
    one = b"GET /v2 HTTP/1.1\r\nHost: t\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"
    peer.send(one * 3000)

    assert {peer.answer().status for _ in range(3000)} == {200}


def test_client_that_ends_its_side_still_gets_its_answers(
    server: Server, peer: Peer, held: HeldExecutor
) -> None:
    peer.send(sent(1, path=HELD), sent(2), sent(3, path=HELD)[:-3])
    peer.finish()
    assert held.arrived.wait(10)

    server.in_loop(held.release)

    assert [peer.answer().json["output"]["y"] for _ in range(2)] == [1, 2]
    assert peer.is_closed


@pytest.mark.parametrize("cut", [1, 20, 60, -1])
def test_client_that_ends_in_the_middle_gets_nothing(server: Server, cut: int) -> None:
    before = len(records(server.folder))
    with Peer(server) as peer:
        peer.send(sent(1)[:cut])
        peer.finish()

        assert peer.is_closed
    assert len(records(server.folder)) == before


def test_call_of_a_client_that_is_gone_is_abandoned(server: Server, held: HeldExecutor) -> None:
    gone = Peer(server)
    gone.send(sent(1, path=HELD))
    assert held.arrived.wait(10)
    (call,) = server.in_loop(lambda: [call for group, _ in held._held for call in group.calls])
    gone_for_good = threading.Event()
    server.in_loop(lambda: _when_lost(server, gone_for_good))

    gone.reset()

    assert gone_for_good.wait(10)
    assert call.abandoned
    server.in_loop(held.release)  # its answer has nowhere to go, and that hurts nobody
    with Peer(server) as peer:
        peer.send(sent(1))
        assert peer.answer().status == 200


def _when_lost(server: Server, event: threading.Event) -> None:
    """Set an event when the server has no connection left that owes an answer."""

    def look() -> None:
        if any(connection.owes for connection in server.site.connections):
            server.loop.call_later(0.001, look)
        else:
            event.set()

    look()


def test_client_that_does_not_read_stops_being_read(server: Server) -> None:
    with Peer(server) as peer:
        stop = threading.Event()

        def flood() -> None:
            one = request(b"", method="GET", path="/openapi.json") * 50
            try:
                while not stop.is_set():
                    peer.socket.send(one)
            except OSError:
                return

        peer.socket.settimeout(1.0)
        thread = threading.Thread(target=flood)
        thread.start()
        thread.join(20)

        assert not thread.is_alive(), "the server went on reading what it could not answer"
        stop.set()
    with Peer(server) as other:
        other.send(sent(1))
        assert other.answer().status == 200


# --- time ---


def _age(server: Server, by_s: float) -> None:
    """Let the site look at its connections as if time had passed."""

    def later() -> None:
        server.site.now_s += by_s
        server.site._sweep()
        server.site.now_s -= by_s

    server.in_loop(later)


def _seen(server: Server, state: str, n_bytes: int = 0) -> None:
    """Wait until the server has a connection in a state, with so much of a body at least."""
    seen = threading.Event()

    def look() -> None:
        connections = server.site.connections
        if any(one.state == state and one._body_bytes >= n_bytes for one in connections):
            seen.set()
        else:
            server.loop.call_later(0.001, look)

    server.in_loop(look)
    assert seen.wait(10)


@pytest.fixture
def alone(tmp_path: Any) -> Iterator[Server]:
    with serving(tmp_path, *services()) as running:
        yield running


@pytest.mark.parametrize("cut", [10, -3])
def test_request_that_takes_too_long_is_408(alone: Server, cut: int) -> None:
    with Peer(alone) as peer:
        peer.send(sent(1)[:cut])
        _seen(alone, "head" if cut > 0 else "body")

        _age(alone, timeouts.BODY_TIMEOUT_S + 1)

        answer = peer.answer()
        assert (answer.status, answer.error["code"]) == (408, "request_timeout")
        assert peer.is_closed


def test_idle_connection_is_closed_without_a_word(alone: Server) -> None:
    with Peer(alone) as peer:
        peer.send(sent(1))
        assert peer.answer().status == 200

        _age(alone, timeouts.IDLE_TIMEOUT_S + 1)

        assert peer.is_closed


def test_connection_that_waits_for_its_answer_is_not_idle(alone: Server) -> None:
    held: HeldExecutor = alone.services[1].executors[0]
    with Peer(alone) as peer:
        peer.send(sent(1, path=HELD))
        assert held.arrived.wait(10)

        _age(alone, timeouts.IDLE_TIMEOUT_S + 1)
        alone.in_loop(held.release)

        assert peer.answer().status == 200


def test_refused_body_that_never_ends_gets_no_second_answer(alone: Server) -> None:
    with Peer(alone) as peer:
        peer.send(request(b"", path="/nope", headers="Content-Length: 100\r\n"))
        assert peer.answer().status == 404

        _age(alone, timeouts.BODY_TIMEOUT_S + 1)

        assert peer.is_closed


def test_client_that_goes_on_after_a_refusal_is_cut_off(alone: Server) -> None:
    with Peer(alone) as peer:
        peer.send(b"nonsense\r\n\r\n")
        assert peer.answer().status == 400
        _seen(alone, "linger")

        _age(alone, timeouts.LINGER_TIMEOUT_S + 1)

        assert peer.is_closed
        alone.in_loop(lambda: None)
        assert not alone.in_loop(lambda: set(alone.site.connections))


# --- draining ---


def test_draining_answers_what_is_under_way_and_closes(alone: Server) -> None:
    held: HeldExecutor = alone.services[1].executors[0]
    with Peer(alone) as waiting, Peer(alone) as idle:
        idle.send(sent(1))
        assert idle.answer().status == 200
        waiting.send(sent(1, path=HELD))
        assert held.arrived.wait(10)

        alone.in_loop(alone.site.drain)
        assert idle.is_closed
        alone.in_loop(held.release)

        assert waiting.answer().status == 200
        alone.in_loop(alone.site.drain)
        assert waiting.is_closed
