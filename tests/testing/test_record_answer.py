"""The parser of answers: what came is told as what it was, however it was split, and damage ends with its raw bytes."""

from __future__ import annotations

import http.client
import io
import re
import time
import tracemalloc

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aivvm.transport import Headers
from aivvm_testing import strategies
from aivvm_testing.record.answer import (
    AnswerChunk,
    AnswerEnd,
    AnswerEvent,
    AnswerParser,
)
from aivvm_testing.reply import Chunk, Ending, Head, Reply
from aivvm_testing.wire import schedule

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
CLOSE = b"HTTP/1.1 200 OK\r\n\r\n"


def parsed(*pieces: bytes, method: str = "GET", **limits: int) -> list[AnswerEvent]:
    """The events of these pieces, and of the peer closing after them."""
    parser = AnswerParser(method, **limits)
    return [event for piece in pieces for event in parser.feed(piece)] + parser.finish()


def one_by_one(data: bytes) -> list[bytes]:
    return [data[n : n + 1] for n in range(len(data))]


def end(data: bytes, method: str = "GET") -> AnswerEnd:
    event = parsed(data, method=method)[-1]
    assert isinstance(event, AnswerEnd)
    return event


def chunks(events: list[AnswerEvent]) -> list[bytes]:
    return [event.data for event in events if isinstance(event, AnswerChunk)]


def head(*lines: str) -> Head:
    event = parsed("\r\n".join(["HTTP/1.1 200 OK", *lines, "", ""]).encode("latin-1"))[0]
    assert isinstance(event, Head)
    return event


# What is well-formed


@given(strategies.replies(with_head=True, endings=["complete", "cut"]), st.data())
def test_what_a_reply_becomes_on_the_wire_comes_back_however_it_is_split(
    reply: Reply, data: st.DataObject
) -> None:
    assume(not re.match(rb"0+[ \t]*(;[^\r\n\0]*)?\r?\n", reply.ending.data))  # which would end the body
    played = schedule(reply)
    stream = b"".join([sent for _, sent in played.steps])
    whole = parsed(stream)
    assert isinstance(whole[0], Head)
    assert reply.head is not None
    assert (whole[0].status, whole[0].reason) == (reply.head.status, reply.head.reason)
    pieces = data.draw(strategies.chunkings(stream))
    if whole[0].headers.get("transfer-encoding") == "chunked":
        assert chunks(whole) == [chunk.data for chunk in reply.chunks if chunk.data]
        assert [*whole[1:-1], whole[-1][:1]] == [
            *map(AnswerChunk, chunks(whole)),
            ("complete",) if reply.ending.kind == "complete" else ("cut",),
        ]
        assert parsed(*pieces)[:-1] == whole[:-1]
    else:
        assert b"".join(chunks(parsed(*pieces))) == b"".join(chunks(whole))
    assert parsed(*pieces)[-1][:1] == whole[-1][:1]


@given(
    st.lists(
        st.sampled_from(
            [
                b"HTTP/1.1 200 OK\r\n",
                b"HTTP/1.1 100 Continue\r\n\r\n",
                b"HTTP/1.0 ",
                b"Transfer-Encoding: chunked\r\n",
                b"Content-Length: 3\r\n",
                b"\r\n",
                b"\n",
                b"\r",
                b"3\r\nabc\r\n",
                b"3;x\nabc\n",
                b"0\r\n",
                b"a: b\r\n",
                b" ",
                b"\0",
                b"ff",
                CHUNKED,
                LENGTH,
            ]
        ),
        max_size=12,
    ),
    st.sampled_from(["GET", "HEAD"]),
)
def test_any_split_of_anything_gives_the_same_head_body_and_kind(pieces: list[bytes], method: str) -> None:
    def told(*pieces: bytes) -> object:
        events = parsed(*pieces, method=method, max_head=60, max_chunk=4)
        heads = [event for event in events if isinstance(event, Head)]
        got = chunks(events)
        assert all(got)
        assert sum(isinstance(event, AnswerEnd) for event in events) == 1
        chunked = heads and heads[0].headers.get("transfer-encoding")
        return heads, got if chunked else b"".join(got), events[-1][0]

    whole = told(b"".join(pieces))
    assert told(*pieces) == whole
    assert told(*one_by_one(b"".join(pieces))) == whole


def test_names_keep_case_order_and_duplicates_and_values_are_latin_1() -> None:
    assert head("X-b: 1", "x-A:\t caf\xe9 ", "X-B:", "x-b: 2").headers == Headers(
        [("X-b", "1"), ("x-A", "caf\xe9"), ("X-B", ""), ("x-b", "2")]
    )


def test_a_reason_is_kept_as_it_is() -> None:
    assert parsed(b"HTTP/1.1 500 R\xe9ason: too  long \r\n\r\n")[0] == Head(
        500, "R\xe9ason: too  long ", Headers()
    )
    assert parsed(b"HTTP/1.0 200\r\n\r\n")[0] == Head(200, "", Headers())


def test_what_clients_read_is_read() -> None:
    assert parsed(b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n3\nabc\n0\n\n") == [
        Head(200, "OK", Headers([("Transfer-Encoding", "chunked")])),
        AnswerChunk(b"abc"),
        AnswerEnd("complete"),
    ]
    assert head("A: one", "  two", "\tthree", "B : 4").headers == Headers(
        [("A", "one two three"), ("B", "4")]
    )


def test_interim_answers_are_skipped() -> None:
    stream = (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\nContent-Length: 9\r\n\r\n"
        + LENGTH
    )
    for pieces in ([stream], one_by_one(stream)):
        assert parsed(*pieces, b"hello")[0] == Head(200, "OK", Headers([("Content-Length", "5")]))
    assert end(b"HTTP/1.1 100 Continue\r\n\r\n") == AnswerEnd("cut")


@pytest.mark.parametrize(
    ("stream", "method"),
    [
        (LENGTH, "HEAD"),
        (CHUNKED, "HEAD"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "GET"),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "GET"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "GET"),
    ],
)
def test_an_answer_without_a_body_ends_with_its_head(stream: bytes, method: str) -> None:
    parser = AnswerParser(method)
    assert parser.feed(stream)[1:] == [AnswerEnd("complete")]
    assert parser.keeps_connection


def test_a_body_without_framing_ends_with_the_connection() -> None:
    parser = AnswerParser()
    assert parser.feed(CLOSE) == [Head(200, "OK", Headers())]
    assert parser.feed(b"5\r\nab") == [AnswerChunk(b"5\r\nab")]
    assert parser.finish() == [AnswerEnd("complete")]
    assert parser.finish() == []
    assert not parser.keeps_connection


def test_what_is_fed_at_once_is_a_chunk_where_there_are_no_chunks() -> None:
    parser = AnswerParser()
    assert chunks(parser.feed(LENGTH + b"he")) == [b"he"]
    assert parser.feed(b"") == []
    assert parser.feed(b"llo") == [AnswerChunk(b"llo"), AnswerEnd("complete")]


def test_extensions_and_trailers_are_dropped() -> None:
    stream = CHUNKED + b'3;a="b\xe9" \r\nabc\r\n00 \r\nChecksum: 1\r\n folded\r\n\r\n'
    for pieces in ([stream], one_by_one(stream)):
        assert parsed(*pieces)[1:] == [AnswerChunk(b"abc"), AnswerEnd("complete")]


def test_a_chunked_answer_is_complete_with_its_last_chunk() -> None:
    for after in (b"", b"\r", b"Checksum: 1\r\n", b"Check"):
        assert end(CHUNKED + b"3\r\nabc\r\n0\r\n" + after) == AnswerEnd("complete")
    parser = AnswerParser()
    parser.feed(CHUNKED + b"0\r\n")
    assert (parser.over, parser.pending) == (False, b"")
    parser.finish()
    assert not parser.keeps_connection


def test_a_long_chunk_comes_in_parts() -> None:
    stream = CHUNKED + b"a\r\n0123456789\r\n4\r\nabcd\r\n0\r\n\r\n"
    for pieces in ([stream], one_by_one(stream)):
        assert chunks(parsed(*pieces, max_chunk=4)) == [b"0123", b"4567", b"89", b"abcd"]


# Where the connection goes on


@pytest.mark.parametrize(
    ("stream", "keeps"),
    [
        (LENGTH + b"hello", True),
        (CHUNKED + b"0\r\n\r\n", True),
        (LENGTH + b"hello!", False),
        (b"HTTP/1.1 200 OK\r\nConnection: x , Close\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", False),
        (LENGTH + b"hell", False),
        (CHUNKED + b"0\r\n:\r\n", False),
    ],
)
def test_a_connection_goes_on_after_an_answer_that_says_where_it_ends(stream: bytes, keeps: bool) -> None:
    parser = AnswerParser()
    assert not parser.keeps_connection
    parser.feed(stream)
    parser.finish()
    assert parser.keeps_connection is False
    parser = AnswerParser()
    parser.feed(stream)
    assert (parser.over and parser.keeps_connection) is keeps


def test_a_head_says_whether_the_connection_goes_on() -> None:
    for stream, keeps in [(LENGTH, True), (CHUNKED, True), (CLOSE, False), (b"HTTP/1.0" + LENGTH[8:], False)]:
        parser = AnswerParser()
        parser.feed(stream)
        assert parser.keeps_connection is keeps


@pytest.mark.parametrize("interim", [b"", b"HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n"])
def test_what_is_fed_beyond_the_head_is_the_body(interim: bytes) -> None:
    parser = AnswerParser()
    parser.feed(interim + LENGTH + b"hel")
    parser.feed(b"lo")
    assert parser.head_size == len(interim + LENGTH)


def test_chunks_count_where_a_length_is_there_too() -> None:
    both = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    assert parsed(both)[1:] == [AnswerChunk(b"abc"), AnswerEnd("complete")]


def test_what_comes_after_the_end_is_raw_data_and_then_nothing() -> None:
    parser = AnswerParser()
    assert parser.feed(LENGTH + b"helloHTTP/1.1")[-1] == AnswerEnd("complete", b"HTTP/1.1")
    assert (parser.over, parser.feed(b"more"), parser.finish(), parser.pending) == (True, [], [], b"")


# What is not


NO_HEAD = {
    "nothing": b"",
    "a version alone": b"HTTP/1.1",
    "half a head": b"HTTP/1.1 200 OK\r\nA: b\r\n",
    "TLS": b"\x15\x03\x01\x00\x02\x02\x46\n",
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "HTTP/2": b"HTTP/2 200 OK\r\n\r\n",
    "a status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "a status below 100": b"HTTP/1.1 099 OK\r\n\r\n",
    "an empty line first": b"\r\nHTTP/1.1 200 OK\r\n\r\n",
    "a leading blank": b" HTTP/1.1 200 OK\r\n\r\n",
    "NUL in the reason": b"HTTP/1.1 200 O\0K\r\n\r\n",
    "bare CR": b"HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n",
    "NUL in a value": b"HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n",
    "no colon": b"HTTP/1.1 200 OK\r\nA b\r\n\r\n",
    "no name": b"HTTP/1.1 200 OK\r\n: b\r\n\r\n",
    "a blank in a name": b"HTTP/1.1 200 OK\r\nA b: c\r\n\r\n",
    "a fold at the beginning": b"HTTP/1.1 200 OK\r\n A: b\r\n\r\n",
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n\x81\x05hello",
}


@pytest.mark.parametrize("stream", NO_HEAD.values(), ids=NO_HEAD)
def test_what_is_no_head_is_cut_with_its_raw_bytes(stream: bytes) -> None:
    assert parsed(stream) == [AnswerEnd("cut", stream)]
    (event,) = parsed(*one_by_one(stream))
    assert isinstance(event, AnswerEnd)
    assert stream.startswith(event.data)


def test_an_answer_after_an_interim_one_that_is_none_is_cut_with_its_own_bytes() -> None:
    assert parsed(b"HTTP/1.1 100 Continue\r\n\r\ngarbage\r\n") == [AnswerEnd("cut", b"garbage\r\n")]


BROKEN = {
    "no chunk": b"",
    "half a size": b"5",
    "half a chunk": b"5\r\nab",
    "a chunk without its line end": b"2\r\nab",
    "half a line end": b"2\r\nab\r",
    "a size that is none": b"zz\r\nab",
    "a negative size": b"-1\r\nab",
    "a size as Python has it": b"0x5\r\n",
    "a size beyond all bounds": b"f" * 16 + b"\r\n",
    "no size": b"\r\nabc",
    "an endless size": b"0" * 4096,
    "a chunk that is longer than its size": b"2\r\nabc\r\n",
    "an answer within": CHUNKED,
    "NUL in an extension": b"3;\0\r\nabc\r\n",
}


@pytest.mark.parametrize("rest", BROKEN.values(), ids=BROKEN)
def test_a_body_that_breaks_keeps_its_chunks_and_the_raw_bytes_after_them(rest: bytes) -> None:
    stream = CHUNKED + b"3\r\nabc\r\n" + rest
    assert parsed(stream)[1:] == [AnswerChunk(b"abc"), AnswerEnd("cut", rest)]
    *before, last = parsed(*one_by_one(stream))
    assert before[1:] == [AnswerChunk(b"abc")]
    assert isinstance(last, AnswerEnd)
    assert (last.kind, rest.startswith(last.data)) == ("cut", True)


@given(strategies.replies(with_head=True, endings=["cut"]), st.integers(0, 40))
def test_what_is_in_no_event_is_pending(reply: Reply, less: int) -> None:
    """So that chunks and pending bytes are the stream again, at any moment."""
    bare = Reply(Head(), tuple([Chunk(chunk.data) for chunk in reply.chunks]), Ending("cut"))
    ((_, stream),) = schedule(bare).steps
    stream = stream[: max(len(CHUNKED), len(stream) - less)]
    parser = AnswerParser()
    events = parser.feed(stream)
    again = Reply(Head(), tuple(map(Chunk, chunks(events))), Ending("cut", data=parser.pending))
    assert schedule(again).steps == ((0.0, stream),)
    assert parser.finish() == [AnswerEnd("cut", again.ending.data)]


def test_what_is_left_of_a_long_chunk_is_pending_as_a_chunk() -> None:
    parser = AnswerParser(max_chunk=4)
    assert chunks(parser.feed(CHUNKED + b"a\r\n012345")) == [b"0123"]
    assert parser.pending == b"6\r\n45"
    assert parser.finish() == [AnswerEnd("cut", b"6\r\n45")]


def test_a_body_shorter_than_its_length_is_cut() -> None:
    assert parsed(LENGTH + b"hell")[1:] == [AnswerChunk(b"hell"), AnswerEnd("cut")]


def test_trailers_that_are_none_are_what_comes_after_the_end() -> None:
    for after in (b"no colon\r\n\r\n", b": x\r\n", b"A: \0\r\n", b"A: b\r\n" * 20):
        stream = CHUNKED + b"3\r\nabc\r\n0\r\nA: b\r\n" + after
        *_, chunk, last = parsed(stream, max_head=64)
        assert chunk == AnswerChunk(b"abc")
        assert isinstance(last, AnswerEnd)
        assert last.kind == "complete"
        assert last.data
        assert after.endswith(last.data)


# Bounds


def test_a_head_is_bounded() -> None:
    limit = 64 * 1024
    for endless in (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * limit, b"H" * 2 * limit):
        parser = AnswerParser()
        fed = 0
        events: list[AnswerEvent] = []
        while not events:
            events = parser.feed(endless[fed : fed + 1000])
            fed += 1000
        assert [type(event) for event in events] == [AnswerEnd]
        assert limit <= fed <= limit + 1000
    fits = b"HTTP/1.1 200 OK\r\nA: " + b"b" * (limit - 24) + b"\r\n\r\n"
    assert len(fits) == limit
    assert isinstance(parsed(fits)[0], Head)
    assert isinstance(parsed(fits.replace(b"b", b"bb", 1))[0], AnswerEnd)


@pytest.mark.parametrize(
    "stream",
    [
        CHUNKED + b"10000000\r\n" + b"x" * 300_000,
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 10_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 60_000 + b"\r\n\r\n",
        CHUNKED + b"0\r\nA: " + b"b" * 60_000,
        CHUNKED + b"1\r\nx\r\n" * 60_000,
    ],
    ids=["a long chunk", "many fields", "a long field", "a long trailer", "many chunks"],
)
def test_byte_by_byte_takes_linear_time(stream: bytes) -> None:
    began = time.process_time()
    parsed(*one_by_one(stream))
    assert time.process_time() - began < 5.0  # a second where it is linear, minutes where it is not


def test_memory_is_bounded_by_one_chunk() -> None:
    piece = b"1000\r\n" + b"x" * 0x1000 + b"\r\n"
    parser = AnswerParser()
    parser.feed(CHUNKED)
    tracemalloc.start()
    try:
        for _ in range(500):
            assert len(parser.feed(piece)) == 1
        assert tracemalloc.get_traced_memory()[1] < 64 * 1024
    finally:
        tracemalloc.stop()


# The reference


class _Recorded:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


@given(strategies.replies(with_head=True, endings=["complete", "cut"]), st.sampled_from(["GET", "HEAD"]))
def test_the_standard_library_reads_the_same(reply: Reply, method: str) -> None:
    stream = b"".join([sent for _, sent in schedule(reply, method=method).steps])
    response = http.client.HTTPResponse(_Recorded(stream), method=method)  # type: ignore[arg-type]  # the least of a socket
    response.begin()
    kind, body = "complete", b""
    try:
        body = response.read()
    except http.client.IncompleteRead as error:
        kind, body = "cut", error.partial
    events = parsed(stream, method=method)
    assert isinstance(events[0], Head)
    assert (events[0].status, b"".join(chunks(events)), events[-1][0]) == (response.status, body, kind)
