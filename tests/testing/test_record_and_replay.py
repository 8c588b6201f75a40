"""The promise, over real sockets: what was recorded is replayed, through both doors, as it was."""

from __future__ import annotations

import itertools
import socket
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aivvm import Aivvm, RequestsTransport
from aivvm.errors import ConnectFailed, Interrupted, StatusError, TimedOut, TransportError
from aivvm.payload import build_request
from aivvm_testing import (
    Exchange,
    FakeAivvm,
    ReadPastRecording,
    Recording,
    RecordingTransport,
    Reply,
    SystemClock,
    strategies,
    wait,
)

HELLO = [{"role": "user", "content": "Hello"}]
SILENCE = 0.15
"""Seconds after which a reader of this file gives up on a silent server."""


def read(transport, url, *, leave_after=None, patience=SILENCE):
    """What a reader of the stream gets: its texts, and the error that ended them or None."""
    provider = Aivvm(transport=transport, url=url)
    answer = provider.create_completion("gpt-4", HELLO, timeout=(5, patience))
    texts = []
    try:
        for text in itertools.islice(answer, leave_after):
            texts.append(text)
    except (TransportError, StatusError, ReadPastRecording) as error:
        return texts, error
    finally:
        answer.close()
    return texts, None


def record(reply, path, **options):
    """Serves `reply` over a socket to a recorded reader; returns what the reader got."""
    fake = FakeAivvm()
    fake.reply(reply)
    with fake.server() as server, RequestsTransport() as network, RecordingTransport(network, path) as tap:
        return read(tap, server.url, **options)


def through_door_1(source, **options):
    return read(FakeAivvm.replaying(source).transport(), "http://fake.invalid", **options)


def through_door_4(source, **options):
    with FakeAivvm.replaying(source).server() as server, RequestsTransport() as network:
        return read(network, server.url, **options)


def outcome(texts, error):
    return texts, type(error), getattr(error, "kind", None)


@pytest.mark.parametrize(
    ("reply", "kind", "texts", "error", "error_kind"),
    [
        (Reply.of("a", wait(0.02), "b"), "complete", ["a", "b"], type(None), None),
        (Reply.of("a", "b").cut(after=1), "cut", ["a"], Interrupted, "cut"),
        (Reply.of("a", "b").reset(after=1), "reset", ["a"], Interrupted, "reset"),
        (Reply.of("a", "b").stall(after=1), "stall", ["a"], TimedOut, None),
        (Reply.no_answer("cut"), "cut", [], Interrupted, "cut"),
        (Reply.no_answer("reset"), "reset", [], Interrupted, "reset"),
        (Reply.no_answer("stall"), "stall", [], TimedOut, None),
        (Reply.error(500, reason="Rate limit reached"), "complete", [], StatusError, None),
        (Reply.of(), "complete", [], type(None), None),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_every_ending_reaches_the_reader_at_the_same_chunk_as_the_same_error(
    tmp_path, reply, kind, texts, error, error_kind
):
    path = tmp_path / "session.jsonl"
    expected = (texts, error, error_kind)
    assert outcome(*record(reply, path)) == expected
    recorded = Recording.load(path)[0].reply
    assert recorded.ending.kind == kind
    assert [chunk.data for chunk in recorded.chunks] == [chunk.data for chunk in reply.chunks]
    assert outcome(*through_door_1(path)) == expected
    assert outcome(*through_door_4(path)) == expected


def test_a_refused_connection_is_recorded_and_refused_again(tmp_path):
    path = tmp_path / "session.jsonl"
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with RequestsTransport() as network, RecordingTransport(network, path) as tap:
            live = outcome(*read(tap, url))
    assert live == ([], ConnectFailed, "refused")
    assert Recording.load(path)[0].reply.ending.kind == "refused"
    assert outcome(*through_door_1(path)) == live
    assert outcome(*through_door_4(path)) == live


def test_a_reader_that_left_early_may_leave_early_again_and_reads_on_at_its_peril(tmp_path):
    path = tmp_path / "session.jsonl"
    assert record(Reply.of("a", "b", "c").stall(after=2), path, leave_after=1) == (["a"], None)
    assert Recording.load(path)[0].reply.ending.kind == "closed"
    assert through_door_1(path, leave_after=1) == (["a"], None)
    assert through_door_4(path, leave_after=1) == (["a"], None)
    assert outcome(*through_door_1(path)) == (["a"], ReadPastRecording, None)
    with pytest.raises(ReadPastRecording):
        through_door_4(path, patience=5)


CARRIED = st.sampled_from(["complete", "cut", "reset"])


@st.composite
def streams(draw):
    """Replies that a socket carries with their boundaries: chunked framing, no empty chunks."""
    chunks = [chunk for chunk in draw(strategies.byte_streams()) if chunk]
    reply = Reply.of(*chunks, status=draw(st.sampled_from([200, 200, 200, 500])))
    kind = draw(CARRIED)
    return reply if kind == "complete" else getattr(reply, kind)(after=draw(st.integers(0, len(chunks))))


def raw(transport, url):
    """The chunks and the error's kind, below the provider: malformed bytes included."""
    chunks = []
    try:
        with transport.send(build_request("gpt-4", HELLO, url=url), timeout=5) as response:
            for chunk in response:
                chunks.append(chunk)
    except TransportError as error:
        return chunks, type(error), error.kind
    return chunks, None, None


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(reply=streams())
def test_any_stream_keeps_its_bytes_boundaries_and_ending(tmp_path, reply):
    path = tmp_path / "session.jsonl"
    fake = FakeAivvm()
    fake.reply(reply)
    with fake.server() as server, RequestsTransport() as network, RecordingTransport(network, path) as tap:
        live = raw(tap, server.url)
    recording = Recording.load(path)
    assert [chunk.data for chunk in recording[0].reply.chunks] == [chunk.data for chunk in reply.chunks]
    assert recording[0].reply.ending.kind == reply.ending.kind
    assert raw(FakeAivvm.replaying(recording).transport(), "http://fake.invalid") == live
    with FakeAivvm.replaying(recording).server() as server, RequestsTransport() as network:
        assert raw(network, server.url) == live


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(recording=strategies.recordings())
def test_in_virtual_time_a_recorded_replay_is_the_recording(tmp_path, recording):
    path = tmp_path / "again.jsonl"
    path.unlink(missing_ok=True)
    fake = FakeAivvm.replaying(recording, speed=1, match_on=("method", "path", "query", "body"))
    patience = 1e6
    with RecordingTransport(fake.transport(), path, clock=fake.clock) as tap:
        for exchange in recording:
            try:
                with tap.send(exchange.request, timeout=patience) as response:
                    left = (
                        len(exchange.reply.chunks)
                        if exchange.reply.ending.kind in ("closed", "unfinished")
                        else None
                    )
                    for _ in itertools.islice(response, left):
                        pass
            except (TransportError, ReadPastRecording):
                continue
    for was, now in zip(recording, Recording.load(path), strict=True):
        one, other = was.reply, now.reply
        if was.request.method == "HEAD":
            continue  # no body is read, whatever is recorded
        assert other.chunks == one.chunks
        assert other.ending.kind == {"unfinished": "closed"}.get(one.ending.kind, one.ending.kind)
        if one.ending.kind == "stall":
            last = one.chunks[-1].at if one.chunks else one.head.at if one.head else 0
            assert other.ending.at == pytest.approx(last + patience, abs=1e-6)
        elif one.head is None or one.ending.kind not in ("closed", "unfinished"):
            assert other.ending.at == one.ending.at


@pytest.mark.parametrize("ending", ["complete", "cut", "reset"])
@pytest.mark.parametrize(
    "headers",
    [
        {"connection": "close"},
        {"connection": "close, foo"},
        {"connection": "close", "transfer-encoding": "chunked"},
        {"content-length": "2"},
        {"content-length": " 2"},
        {"content-length": "+2"},
        {"content-length": "2, 2"},
        {"content-length": "5"},
        {"content-length": "1"},
        {"content-length": "2", "transfer-encoding": "chunked"},
    ],
    ids=str,
)
def test_both_doors_agree_on_where_a_body_ends(headers, ending):
    reply = Reply.of("ab", headers=headers)
    reply = reply if ending == "complete" else getattr(reply, ending)()
    outcomes = []
    for door in (through_door_1, through_door_4):
        outcomes.append(outcome(*door(Recording([Exchange(build_request("gpt-4", HELLO), reply)]))))
    promised = headers.get("content-length", "5") if "transfer-encoding" not in headers else "5"
    if ending == "reset" and promised != "5":
        # A client that has all it was promised hangs up; whether the reset reaches it first is up to chance.
        assert outcomes[0] == ((["ab"] if headers["content-length"] != "1" else ["a"]), type(None), None)
    else:
        assert outcomes[0] == outcomes[1]


def endless(listener):
    """Serves one connection a chunk after another until its client goes away."""
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                connection.sendall(b"6\r\nagain \r\n")
        except OSError:
            return


def test_an_endless_stream_can_be_recorded_and_left_after_three_chunks(tmp_path):
    path = tmp_path / "session.jsonl"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=endless, args=(listener,))
        server.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with RequestsTransport() as network, RecordingTransport(network, path) as tap:
            assert read(tap, url, leave_after=3) == (["again "] * 3, None)
        server.join(5)
        assert not server.is_alive()
    reply = Recording.load(path)[0].reply
    assert [chunk.data for chunk in reply.chunks] == [b"again "] * 3
    assert reply.ending.kind == "closed"


@pytest.mark.parametrize("headers", [{"connection": "close"}, {"content-length": "100"}])
def test_an_answer_without_chunked_framing_is_delivered_as_it_arrives(tmp_path, headers):
    path = tmp_path / "session.jsonl"
    texts, error = record(Reply.of("now", "never", headers=headers).stall(after=1), path)
    assert texts == ["now"]
    assert isinstance(error, TimedOut)


def test_moments_over_a_socket_are_those_that_were_served(tmp_path):
    path = tmp_path / "session.jsonl"
    reply = Reply.of("a", "b", "c", "d").pace(0.03).delay(0.02)
    record(reply, path)
    recorded = Recording.load(path)[0].reply
    for sent, came in zip(reply.chunks, recorded.chunks, strict=True):
        assert came.at == pytest.approx(sent.at, abs=1)
        assert came.at >= sent.at - 0.001
    with FakeAivvm.replaying(path, speed=1).server() as server, RequestsTransport() as network:
        with SystemClock().exchange() as timer:
            texts, _ = read(network, server.url)
        assert texts == ["a", "b", "c", "d"]
        assert timer.elapsed() >= recorded.duration - 0.001
