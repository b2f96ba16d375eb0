"""Spans as a collector gets them: over a real socket, read by OpenTelemetry's own message types."""

import base64
import random

import msgspec
import pytest

from tests.journal.fake import START_US, new_ids, new_stream, new_turn
from tests.receiver import receiving
from tidegate.adapter.telemetry.otlp import MOST_WAITING, SpanExporter, encode, headers_of
from tidegate.adapter.telemetry.span import INTERNAL, SERVER, spans_of
from tidegate.core.error import InvalidSetting
from tidegate.core.identifier import format_uuid
from tidegate.journal.codec import TurnEncoder
from tidegate.journal.decode import StreamCodec, Turns, mask_of
from tidegate.journal.record import NO_ID, NO_SPAN, Flag, RecordKind

TRACE, PARENT = bytes(range(1, 17)), bytes(range(1, 9))


def turns_of(*turns, kind=RecordKind.PREDICTION):
    stream = new_stream(kind=kind)
    bodies = [memoryview(TurnEncoder(1, stream).encode(turn))[8:] for turn in turns]
    return Turns(StreamCodec(stream), mask_of(bodies[0]), bodies)


@pytest.fixture
def collector():
    with receiving(status=200) as found:
        yield found


def test_a_sampled_request_is_a_span_of_the_callers_trace_with_its_wait_and_model_call():
    (request,) = new_ids(1)
    turn = new_turn([request], trace_ids=[TRACE], parent_ids=[PARENT], took_us=[350.0])

    whole, wait, model = spans_of(turns_of(turn), share=0.0)

    assert (whole.trace, whole.parent, whole.kind) == (TRACE, PARENT, SERVER)
    assert (whole.start_us, whole.end_us) == (START_US, START_US + 350)
    assert whole.attributes["tidegate.request"] == format_uuid(request)
    assert [(each.name, each.parent, each.kind) for each in (wait, model)] == [
        ("wait", whole.id, INTERNAL),
        ("model", whole.id, INTERNAL),
    ]
    assert (wait.start_us, wait.end_us, model.end_us) == (START_US, START_US + 250, START_US + 350)
    assert list(spans_of(turns_of(turn), share=0.0)) == [whole, wait, model]  # the same when read again


def test_the_caller_decides_and_of_the_others_a_share_is_chosen():
    ids = new_ids(2000)
    turn = new_turn(
        ids,
        trace_ids=[TRACE, TRACE, *[NO_ID] * 1998],
        parent_ids=[PARENT, NO_SPAN, *[NO_SPAN] * 1998],
        took_us=[200.0] * 2000,
    )

    def requests(share):
        return [each for each in spans_of(turns_of(turn), share=share) if each.kind == SERVER]

    assert [each.trace for each in requests(0.0)] == [TRACE]
    assert len(requests(1.0)) == 1999  # not the one whose caller says no
    assert 150 < len(requests(0.1)) < 250
    own = requests(1.0)[-1]
    assert own.trace == ids[-1]
    assert own.parent == b""


def test_errors_fallbacks_and_cached_answers_say_so():
    failed = new_turn(new_ids(1), errors=["predictor_failed"], flags=int(Flag.FAILED), took_us=[10.0])
    cached = new_turn(new_ids(1, seed=1), flags=int(Flag.CACHED), took_us=[10.0])
    fallen = new_turn(new_ids(1, seed=2), flags=int(Flag.FALLBACK), answered_by="table", took_us=[10.0])

    (error, *_) = spans_of(turns_of(failed), share=1.0)
    (hit,) = spans_of(turns_of(cached), share=1.0)
    (fallback, *_) = spans_of(turns_of(fallen), share=1.0)

    assert error.error == "predictor_failed"
    assert hit.attributes["tidegate.cached"] is True
    assert fallback.attributes["tidegate.answered_by"] == "table"


def test_a_collector_reads_what_is_sent(collector):
    json_format = pytest.importorskip("google.protobuf.json_format")
    messages = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    url, received, _ = collector
    exporter = SpanExporter(url, share=0.0, headers=headers_of("authorization=Bearer t0ken, x-a=b"))
    turn = new_turn(
        new_ids(1), trace_ids=[TRACE], parent_ids=[PARENT], took_us=[350.0], errors=["predictor_failed"]
    )

    exporter.take(turns_of(turn))
    assert exporter.flush()

    ((path, headers, body, _),) = received
    assert path == "/v1/traces"
    assert headers["authorization"] == "Bearer t0ken"
    plain = msgspec.json.decode(body)
    for span in plain["resourceSpans"][0]["scopeSpans"][0]["spans"]:
        # protobuf's own JSON has base64 where OTLP has hexadecimal digits
        for name in ("traceId", "spanId", "parentSpanId"):
            span[name] = base64.b64encode(bytes.fromhex(span[name])).decode()
    request = json_format.ParseDict(plain, messages.ExportTraceServiceRequest())
    (resource,) = request.resource_spans
    assert resource.resource.attributes[0].value.string_value == "delay"
    whole, _, model = resource.scope_spans[0].spans
    assert (whole.trace_id, whole.parent_span_id, whole.kind) == (TRACE, PARENT, 2)
    assert whole.end_time_unix_nano - whole.start_time_unix_nano == 350_000
    assert (whole.status.code, whole.status.message) == (2, "predictor_failed")
    assert model.parent_span_id == whole.span_id


def test_a_collector_that_is_away_gets_it_later_and_what_is_too_much_is_counted(collector):
    url, received, statuses = collector
    statuses += [503]
    exporter = SpanExporter(url, share=1.0)
    exporter.take(turns_of(new_turn(new_ids(3), took_us=[200.0] * 3)))

    assert not exporter.flush()
    assert exporter.flush()
    taken = [each for each in received if each.status == 200]
    assert (exporter.n_sent, exporter.n_dropped, len(taken)) == (9, 0, 1)

    many = turns_of(new_turn(new_ids(MOST_WAITING // 3 + 10), took_us=[200.0] * (MOST_WAITING // 3 + 10)))
    exporter.take(many)
    assert exporter.n_dropped == 3 * (MOST_WAITING // 3 + 10) - MOST_WAITING


def test_shadows_have_no_spans_and_nothing_of_an_input_leaves(collector):
    url, _, _ = collector
    exporter = SpanExporter(url, share=1.0)
    exporter.take(turns_of(new_turn(new_ids(3)), kind=RecordKind.SHADOW))
    assert exporter.flush()
    assert exporter.n_sent == 0

    (first, *_) = spans_of(turns_of(new_turn(new_ids(1), took_us=[1.0])), share=1.0)
    names = {
        each["key"]
        for span in msgspec.json.decode(encode([("delay", first)]))["resourceSpans"][0]["scopeSpans"][0][
            "spans"
        ]
        for each in span["attributes"]
    }
    assert names == {"tidegate.version", "tidegate.arm", "tidegate.request", "tidegate.rows"}


@pytest.mark.parametrize(("url", "share"), [("localhost:4318", 0.1), ("grpc://x", 0.1), ("http://x", 1.5)])
def test_what_is_no_address_or_share_is_refused(url, share):
    with pytest.raises(InvalidSetting):
        SpanExporter(url, share=share)


def test_many_frames_are_sampled_as_if_they_were_one():
    rng = random.Random(0)
    turns = [
        new_turn(new_ids(n, seed=rng.random()), took_us=[200.0 + n] * n, trace_ids=[NO_ID] * n)
        for n in (2, 3, 4)
    ]

    together = list(spans_of(turns_of(*turns), share=1.0))

    assert together == [span for turn in turns for span in spans_of(turns_of(turn), share=1.0)]
