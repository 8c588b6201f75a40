"""The network in memory as urllib3 sees it: frames, time, endings, and connections that are kept or dropped."""

from __future__ import annotations

import gc
import re
import socket
import ssl
import threading
import time

import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st
from urllib3.exceptions import (
    ConnectTimeoutError,
    EmptyPoolError,
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.util import SKIP_HEADER, Retry

from aivvm_testing import strategies
from aivvm_testing.clock import SystemClock
from aivvm_testing.errors import ReadPastRecording, SetupFailure, UnmatchedRequest, WouldHang
from aivvm_testing.fake import FakeAivvm
from aivvm_testing.replay import memory
from aivvm_testing.replay.memory import Network, Pools
from aivvm_testing.reply import Chunk, Ending, Head, Reply, wait
from aivvm_testing.wire import schedule

URL = "https://peer.example/api/x"
CLOSING = {"Connection": "close"}


class Peer(FakeAivvm):
    """Answers any request with these, in order, over a network of its own."""

    def __init__(self, *replies: Reply | str, clock=None, url=URL, **options) -> None:
        super().__init__(clock=clock)
        for reply in replies:
            self.on(lambda request: True).reply(reply)
        self.network = Network(self)
        self.pools = Pools(self.network, **options)
        self.pool = self.pools.to(url)

    def ask(self, method="GET", target="/api/x", *, retries=False, **options):
        return self.pool.urlopen(method, target, retries=retries, preload_content=False, **options)


@pytest.fixture
def sockets(monkeypatch):
    """Every socket that was connected; urllib3 itself counts only the objects that connect again and again."""
    made = []

    class Counted(memory._Socket):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(memory, "_Socket", Counted)
    return made


@pytest.fixture(autouse=True)
def _nothing_is_left():
    yield
    gc.collect()  # what is left open would warn, and warnings are errors


def until_error(response, size=1):
    """What a reader with small buffers gets, then the error that stopped it or None."""
    data = b""
    try:
        while piece := response.read1(size):
            data += piece
    except (urllib3.exceptions.HTTPError, SetupFailure) as error:
        return data, error
    return data, None


# Frames


@given(strategies.replies(with_head=True, endings=["complete"]))
def test_each_chunk_is_a_chunk_of_http(reply):
    if reply.headers.get("content-length") is None and reply.status != 304:
        response = Peer(reply).ask()
        assert response.chunked
        assert list(response.read_chunked()) == [chunk.data for chunk in reply.chunks if chunk.data]


def test_a_reader_of_what_is_there_sees_the_chunks_of_an_answer_without_framing():
    peer = Peer(Reply.of("one", "two", b"", "three", headers=CLOSING))
    response = peer.ask()
    assert peer.calls[0].chunks_taken == 0
    assert (response.read1(), peer.calls[0].chunks_taken) == (b"one", 1)
    assert (response.read1(2), peer.calls[0].chunks_taken, peer.calls[0].bytes_taken) == (b"tw", 1, 5)
    assert [response.read1(), response.read1(), response.read1()] == [b"o", b"three", b""]
    assert peer.calls[0].chunks_taken == 3
    assert peer.calls[0].outcome == "played"


@given(
    strategies.replies(with_head=True, endings=["complete", "cut", "reset"]),
    st.sampled_from(["GET", "HEAD"]),
    st.data(),
)
def test_every_read_gives_what_there_is_room_for_up_to_the_end_of_a_frame(reply, method, data):
    peer = Peer(reply)
    connection = peer.pool._get_conn()
    connection.request(method, "/")
    made = schedule(peer.calls[0].reply, method=method)
    sent = b"".join(piece for _, piece in made.steps)
    ends = [*made.ends, len(sent)]
    while (position := peer.calls[0].position) < len(sent):
        frame = min(end for end in ends if end > position) - position
        room = data.draw(st.sampled_from([1, frame - 1 or 1, frame, frame + 1, 8192]))
        buffer = bytearray(room)
        size = connection.sock.take_into(memoryview(buffer))
        assert size == min(room, frame)
        assert buffer[:size] == sent[position : position + size]
        assert peer.calls[0].position == position + size
    assert connection.sock.is_idle is (made.stop == "keep")
    connection.close()


@pytest.mark.parametrize("headers", [{}, CLOSING, {"content-length": str(4 << 20)}])
def test_a_long_chunk_comes_whole_into_any_buffer(headers):
    data = bytes(range(256)) * (4 << 12)
    assert until_error(Peer(Reply.of(data, headers=headers)).ask(), 100_000) == (data, None)


def test_a_long_chunk_costs_a_small_buffer_no_more_than_its_length():
    connection = Peer(Reply.of(b"x" * (8 << 20), headers=CLOSING)).pool._get_conn()
    connection.request("GET", "/")
    buffer, taken = memoryview(bytearray(64)), 0
    begun = time.process_time()
    while size := connection.sock.take_into(buffer):
        taken += size
    assert taken > 8 << 20
    assert time.process_time() - begun < 5  # with a copy of the rest for each 64 bytes it takes half a minute
    connection.close()


def test_the_answer_to_a_head_request_and_a_204_have_no_body(sockets):
    peer = Peer(Reply.of("abc"), Reply.of("abc", status=204), "next")
    assert [peer.ask("HEAD").data, peer.ask().data, peer.ask().data] == [b"", b"", b"next"]
    assert len(sockets) == 1
    assert {call.outcome for call in peer.calls} == {"played"}


def test_a_head_that_came_before_is_read_as_the_first_time():
    fields = [
        ("Set-Cookie", "a=1"),
        ("set-cookie", "b=2"),
        ("X-Name", "ü  v"),
        *CLOSING.items(),
    ]
    reply = Reply.of("ab", status=203, reason="Só", headers=fields)
    peer = Peer(reply, reply, reply)
    first, second, bare = peer.ask(), peer.ask(), peer.ask("HEAD")
    for again in (second, bare):
        assert again.headers == first.headers
        assert again.headers is not first.headers
        assert again.headers.getlist("set-cookie") == ["a=1", "b=2"]
        assert (again.status, again.reason, again.version) == (203, first.reason, 11)
        message, parsed = again._original_response.msg, first._original_response.msg
        assert message is not parsed
        assert (message.items(), message.get_payload()) == (parsed.items(), parsed.get_payload())
    assert (first.data, second.data, bare.data) == (b"ab", b"ab", b"")


def test_a_head_is_remembered_with_the_method_that_it_answered():
    reply = Reply.of("ab", headers={"content-length": "2"})
    peer = Peer(*[reply] * 4)
    for method, length in [("GET", 2), ("HEAD", 0), ("GET", 2), ("HEAD", 0)]:
        response = peer.ask(method)
        assert (response._original_response.length, response.data) == (length, b"ab"[:length])


def test_what_is_remembered_of_heads_is_bounded():
    replies = [Reply.of(str(n), headers={"X-N": str(n)}) for n in range(1200)]
    peer = Peer(*replies)
    for n in range(1200):
        response = peer.ask(headers={"X-Mine": str(n)})
        assert (response.headers["X-N"], response.data) == (str(n), str(n).encode())
    assert [request.headers.get("x-mine") for request in peer.requests] == [str(n) for n in range(1200)]
    peer.on(lambda request: True).reply("long")
    peer.ask(headers={"X-Mine": "x" * 5000}).drain_conn()
    assert len(memory._heads) <= 512
    assert len(memory._fields) <= 512
    assert max(map(len, memory._fields.values())) < 5000


def test_a_head_that_is_none_is_never_remembered():
    broken = Reply(None, (), Ending("cut", data=b"HTTP/1.1 200 OK\n\nbody\r\n\r\nmore"))
    peer = Peer(broken, broken)
    assert [peer.ask().data, peer.ask().data] == [b"body\r\n\r\nmore"] * 2


# Requests


def test_the_request_arrives_as_it_was_made():
    peer = Peer("a", "b", url="https://peer.example:8443/")
    headers = {"X-One": "1", "x-two": "ü", "accept-encoding": SKIP_HEADER}
    for _ in range(2):  # the second is made of what was worked out for the first
        peer.ask("POST", "/p?q=1", body=b"body", headers=headers).drain_conn()
    first, second = peer.requests
    assert first == second
    assert (first.method, first.url, first.body) == ("POST", "https://peer.example:8443/p?q=1", b"body")
    assert first.headers[:2] == (("Host", "peer.example:8443"), ("Content-Length", "4"))
    assert ("X-One", "1") in first.headers
    assert ("x-two", "ü") in first.headers
    assert first.headers.get("accept-encoding") is None


def test_a_field_is_checked_and_written_by_what_it_is():
    peer = Peer(*"abcde")
    for value, written in [("1", "1"), (1, "1"), (b"1", "1"), (True, "True"), (bytearray(b"1"), "1")]:
        peer.ask(headers={"X": value}).drain_conn()
        assert peer.requests[-1].headers.get("x") == written
    with pytest.raises(TypeError, match="expected string"):
        peer.ask(headers={"X": 1.0})
    for _ in range(2):
        with pytest.raises(ValueError, match="Invalid header value"):
            peer.ask(headers={"X": "a\r\nb: c"})


@pytest.mark.parametrize(
    ("url", "asked", "host"),
    [
        ("https://peer.example/", "https://peer.example/t", "peer.example"),
        ("https://peer.example:443/", "https://peer.example/t", "peer.example"),
        ("http://PEER.example/", "http://peer.example/t", "peer.example"),
        ("http://peer.example:443/", "http://peer.example:443/t", "peer.example:443"),
        ("http://[::1]:8080/", "http://[::1]:8080/t", "[::1]:8080"),
    ],
)
def test_the_host_and_the_scheme_are_those_of_the_url(url, asked, host):
    peer = Peer("a", url=url)
    peer.ask(target="/t").drain_conn()
    assert peer.requests[0].url == asked
    assert peer.requests[0].headers.get("host") == host


def test_a_url_that_leads_nowhere_is_refused():
    pools = Pools(Network(FakeAivvm()))
    for url in ("ftp://peer.example/", "https:///x", "x"):
        with pytest.raises(ValueError, match="a url begins with"):
            pools.to(url)


def test_a_body_in_pieces_is_one_body():
    peer = Peer("a")
    peer.ask("POST", body=iter([b"one", b"", b"two"]), chunked=True).drain_conn()
    assert peer.requests[0].body == b"onetwo"


def test_a_client_that_waits_for_100_continue_gets_it():
    peer = Peer("a")
    connection = peer.pool._get_conn()
    connection.putrequest("POST", "/")
    connection.putheader("Expect", "100-continue")
    connection.putheader("Content-Length", "4")
    connection.endheaders()
    assert connection.sock.makefile("rb").readline() == b"HTTP/1.1 100 Continue\r\n"
    assert not peer.calls
    connection.send(b"body")
    assert peer.requests[0].body == b"body"
    connection.close()


def test_100_continue_before_an_answer_is_skipped_by_a_client_that_does_not_wait(sockets):
    peer = Peer("a", "b")
    for expected in (b"a", b"b"):
        assert peer.ask("POST", body=b"x", headers={"Expect": "100-continue"}).data == expected
    assert len(sockets) == 1


def test_what_is_no_request_is_answered_as_the_server_answers_it(sockets):
    peer = Peer("a")
    response = peer.ask("POST", body=b"x", headers={"Expect": "the-unexpected"})
    assert (response.status, response.data) == (417, b"")
    assert not peer.calls
    assert peer.ask().data == b"a"
    assert len(sockets) == 2


def test_bytes_after_a_request_are_refused_after_its_answer(sockets):
    peer = Peer("a", "b")
    assert peer.ask("POST", body=b"xyz", headers={"Content-Length": "1"}).data == b"a"
    assert peer.ask().data == b"b"
    assert len(sockets) == 2


def test_a_request_that_is_never_whole_is_never_answered():
    peer = Peer("a")
    too_long = {"Content-Length": "100"}
    with pytest.raises(WouldHang, match="a part of a request was sent, the peer stays silent"):
        peer.ask("POST", body=b"x", headers=too_long)
    with pytest.raises(ReadTimeoutError):
        peer.ask("POST", body=b"x", headers=too_long, timeout=60)
    assert peer.clock.furthest == 60
    assert not peer.calls


def test_reading_without_a_request_would_hang():
    connection = Peer().pool._get_conn()
    connection.connect()
    with pytest.raises(WouldHang, match="no request was sent"):
        connection.sock.makefile("rb").read()
    connection.close()


# Endings


BROKEN = ProtocolError
ENDINGS = {
    "complete": (Reply.of("ab"), b"ab", None, ""),
    "cut": (Reply.of("ab").cut(), b"ab", BROKEN, "Response ended prematurely|InvalidChunkLength"),
    "cut in a chunk": (Reply(Head(), (), Ending("cut", data=b"5\r\nab")), b"", BROKEN, "IncompleteRead"),
    "cut short of a length": (
        Reply.of("ab", headers={"content-length": "3"}),
        b"",
        BROKEN,
        "2 bytes read, 1 more",
    ),
    "cut where only the end tells": (Reply.of("ab", headers=CLOSING).cut(), b"ab", None, ""),
    "malformed chunk": (
        Reply(Head(), (Chunk(b"ab"),), Ending("cut", data=b"z\r\n")),
        b"ab",
        BROKEN,
        "InvalidChunk",
    ),
    "reset": (
        Reply.of("ab").reset(),
        b"ab",
        BROKEN,
        r"ConnectionResetError\(\d+, 'Connection reset by peer'\)",
    ),
    "stall": (Reply.of("ab").stall(), b"ab", ReadTimeoutError, "Read timed out"),
    "closed": (
        Reply(Head(), (Chunk(b"ab"),), Ending("closed", at=3)),
        b"ab",
        ReadPastRecording,
        "1 chunk was there",
    ),
    "unfinished": (Reply(Head(), (), Ending("unfinished")), b"", ReadPastRecording, "0 chunks were there"),
}


@pytest.mark.parametrize(("reply", "data", "error", "text"), ENDINGS.values(), ids=ENDINGS)
def test_an_ending_comes_after_the_last_byte(reply, data, error, text):
    peer = Peer(reply)
    got, stopped = b"", None
    try:
        for piece in peer.ask(timeout=60).stream(100):
            got += piece
    except (urllib3.exceptions.HTTPError, SetupFailure) as caught:
        stopped = caught
    assert (got, type(stopped)) == (data, error or type(None))
    assert re.search(text, str(stopped))
    assert peer.calls[0].outcome == "played"


NO_ANSWERS = {
    "cut": (ProtocolError, "RemoteDisconnected"),
    "reset": (ProtocolError, "'Connection reset by peer'"),
    "stall": (ReadTimeoutError, r"Read timed out. \(read timeout=60\)"),
    "closed": (ReadPastRecording, "no answer was there"),
    "refused": (
        NewConnectionError,
        r"HTTPSConnection.*Failed to establish a new connection: \[Errno \d+\] Connection refused",
    ),
    "unresolved": (NameResolutionError, "Failed to resolve 'peer.example'"),
    "tls": (SSLError, "handshake failure"),
    "unreachable": (ConnectTimeoutError, r"Connection to peer.example timed out. \(connect timeout=5\)"),
}


@pytest.mark.parametrize(("kind", "error", "text"), [(kind, *said) for kind, said in NO_ANSWERS.items()])
def test_without_a_head_there_is_no_response(kind, error, text):
    peer = Peer(Reply.no_answer(kind, at=2), "and after it?")
    with pytest.raises(error, match=text):
        peer.ask(timeout=urllib3.Timeout(connect=5, read=60))
    assert peer.clock.furthest == (60 if kind == "stall" else 2)
    assert peer.calls[0].outcome == "played"
    assert peer.calls[0].lasted == peer.clock.furthest
    assert peer.ask().data == b"and after it?"


@pytest.mark.parametrize("kind", ["refused", "unresolved", "unreachable"])
def test_a_connection_that_failed_is_counted_as_such(kind):
    failed = [Reply.no_answer(kind)] * 3
    assert Peer(*failed, "at last").ask(retries=Retry(connect=3, read=0, other=0)).data == b"at last"
    peer = Peer(*failed, "too late")
    with pytest.raises(MaxRetryError) as caught:
        peer.ask(retries=Retry(connect=2, read=5))
    assert isinstance(caught.value.reason, ConnectTimeoutError)
    assert len(peer.calls) == 3


def test_causes_are_those_of_the_operating_system():
    causes = {"refused": ConnectionRefusedError, "unresolved": socket.gaierror, "unreachable": TimeoutError}
    for kind, cause in causes.items():
        with pytest.raises(ConnectTimeoutError) as caught:
            Peer(Reply.no_answer(kind)).ask()
        assert type(caught.value.__cause__) is cause
    with pytest.raises(SSLError) as failed:
        Peer(Reply.no_answer("tls")).ask()
    assert isinstance(failed.value.args[0], ssl.SSLError)


def test_no_answer_lasts_no_longer_than_the_clients_patience_to_connect():
    peer = Peer(Reply.no_answer("unreachable", at=30), Reply.no_answer("refused", at=30))
    for _ in range(2):
        with pytest.raises(ConnectTimeoutError):
            peer.ask(timeout=urllib3.Timeout(connect=2, read=60))
    assert peer.clock.furthest == 2


# Failures of the set-up


def test_a_failure_of_the_set_up_comes_out_as_it_is_and_is_kept():
    peer = Peer()
    peer.reply("once")
    chat = {"method": "POST", "target": "/api/chat", "body": b'{"model": "x", "messages": []}'}
    assert peer.ask(**chat).data == b"once"
    with pytest.raises(UnmatchedRequest) as caught:
        peer.ask(**chat, retries=Retry(9))
    assert peer.network.failure is caught.value
    with pytest.raises(UnmatchedRequest):
        peer.assert_all_played()
    assert len(peer.calls) == 2


def test_no_client_takes_an_error_of_the_tests_own_code_for_the_networks():
    def predicate(request):
        raise ConnectionResetError("in the test")

    peer = Peer()
    peer.on(predicate).reply("a")
    with pytest.raises(
        SetupFailure, match=r"no answer could be made to GET .*: ConnectionResetError: in the test"
    ) as caught:
        peer.ask(retries=Retry(9))
    assert isinstance(caught.value.__cause__, ConnectionResetError)
    assert len(peer.calls) == 1


def test_a_swallowed_failure_in_mid_stream_is_kept():
    peer = Peer(Reply(Head(), (Chunk(b"a"),), Ending("closed")))
    data, error = until_error(peer.ask(headers=CLOSING))
    assert (data, type(error)) == (b"a", ReadPastRecording)
    with pytest.raises(ReadPastRecording):
        peer.assert_all_played()


# Time


def test_a_timeout_is_a_gap_between_reads():
    slow = Reply.of("a", "b", "c", "d").pace(0.9)
    peer = Peer(slow, slow.scale(2))
    assert list(peer.ask(timeout=1).read_chunked()) == [b"a", b"b", b"c", b"d"]
    response = peer.ask(timeout=1)
    chunks = response.read_chunked()
    assert next(chunks) == b"a"
    with pytest.raises(ReadTimeoutError):
        next(chunks)
    assert (peer.calls[1].outcome, peer.calls[1].lasted, peer.calls[1].chunks_taken) == ("closed", 1, 1)


def test_nothing_is_read_after_a_timeout():
    peer = Peer(Reply.of("a", wait(2), "b", headers=CLOSING))
    connection = peer.pool._get_conn()
    connection.timeout = 1
    connection.request("GET", "/")
    reader = connection.sock.makefile("rb")
    assert (reader.read1()[:5], reader.read1()) == (b"HTTP/", b"a")
    with pytest.raises(TimeoutError, match=r"^timed out$"):
        reader.read1()
    with pytest.raises(OSError, match="cannot read from timed out object"):
        reader.read1()
    connection.close()
    reader.close()


def test_silence_without_a_timeout_is_an_error_at_once_in_virtual_time():
    peer = Peer(Reply.of("a").stall())
    chunks = peer.ask().read_chunked()
    assert next(chunks) == b"a"
    with pytest.raises(
        WouldHang, match="1 chunk was there, the peer stays silent, the reader has no timeout"
    ):
        next(chunks)
    assert type(peer.network.failure) is WouldHang


def test_each_exchange_has_its_own_time():
    peer = Peer(Reply.of("a", "b").stall(after=1), Reply.of("c", wait(5), "d"))
    one, other = peer.ask(timeout=60).read_chunked(), peer.ask(timeout=10).read_chunked()
    assert (next(one), next(other)) == (b"a", b"c")
    with pytest.raises(ReadTimeoutError):
        next(one)
    assert next(other) == b"d"
    assert peer.clock.furthest == 60


def test_the_time_of_a_kept_connection_begins_with_each_request(sockets):
    peer = Peer(Reply.of(wait(50), "a"), Reply.of(wait(50), "b"))
    assert [peer.ask(timeout=51).data for _ in range(2)] == [b"a", b"b"]
    assert (len(sockets), peer.clock.furthest) == (1, 50)


def test_a_door_shares_the_time_of_the_tap_around_it():
    peer = Peer(Reply.of(wait(3), "a"))
    with peer.clock.exchange() as timer:
        peer.ask().drain_conn()
        assert timer.elapsed() == 3


def test_the_systems_clock_waits_for_real():
    peer = Peer(Reply.of("a", wait(0.01), "b"), Reply.of("a").stall(), clock=SystemClock())
    begun = time.monotonic()
    assert peer.ask().data == b"ab"
    assert time.monotonic() - begun >= 0.01
    response = peer.ask(timeout=0.01)
    with pytest.raises(ReadTimeoutError):
        response.read()
    assert peer.calls[1].outcome == "played"


# Connections


def test_a_connection_is_kept_as_long_as_both_sides_say_so(sockets):
    peer = Peer(
        "a", Reply.of("b", headers={"content-length": "1"}), "c", "d", Reply.of("e", headers=CLOSING), "f"
    )
    assert b"".join(peer.ask().data for _ in range(3)) == b"abc"
    assert len(sockets) == 1
    assert peer.ask(headers=CLOSING).data == b"d"
    assert peer.calls[3].outcome == "played"
    assert peer.ask().data == b"e"
    assert len(sockets) == 2
    assert peer.ask().data == b"f"
    assert len(sockets) == 3
    assert peer.pool.pool.qsize() == 10


@pytest.mark.parametrize(
    "reply",
    [
        Reply(Head(), (Chunk(b"a"),), Ending(data=b"garbage")),
        Reply.of("abc", headers={"content-length": "1"}),
        Reply.of("a", headers={"content-length": "1"}).reset(),
    ],
)
def test_a_connection_on_which_something_is_left_is_not_used_again(reply, sockets):
    peer = Peer(reply, "next")
    assert peer.ask().data == b"a"
    assert peer.ask().data == b"next"
    assert len(sockets) == 2
    assert peer.calls[0].outcome == "played"


def test_a_client_that_leaves_early_is_seen_to_leave(sockets):
    peer = Peer(Reply.of("one", "two", "three"), "next")
    response = peer.ask()
    chunks = response.read_chunked()
    assert [next(chunks), next(chunks)] == [b"one", b"two"]
    assert (peer.calls[0].outcome, peer.calls[0].chunks_taken) == ("open", 2)
    response.close()
    assert (peer.calls[0].closed, peer.calls[0].chunks_taken, peer.calls[0].bytes_taken) == (True, 2, 6)
    assert peer.ask().data == b"next"
    assert len(sockets) == 2


def test_a_response_that_nobody_holds_any_more_is_closed():
    peer = Peer(Reply.of("one", "two"))
    peer.ask()
    gc.collect()
    assert peer.calls[0].closed


def test_a_response_that_is_shut_down_is_over():
    peer = Peer(Reply.of("one", "two"))
    response = peer.ask()
    response._connection.sock.shutdown(socket.SHUT_RD)
    assert peer.calls[0].closed
    with pytest.raises(ProtocolError):
        response.read()


def test_closing_a_reader_twice_is_harmless():
    peer = Peer(Reply.of("a", "b"))
    connection = peer.pool._get_conn()
    connection.request("GET", "/")
    one, other = connection.sock.makefile("rb"), connection.sock.makefile("rb")
    connection.close()
    one.raw.close()
    one.raw.close()
    assert peer.calls[0].outcome == "open"
    other.close()
    assert peer.calls[0].closed


def test_closed_pools_begin_anew(sockets):
    peer = Peer("a", "b", Reply.of("c", "d"))
    assert peer.ask().data == b"a"
    half_read = peer.pools.to(URL).urlopen("GET", "/", preload_content=False)
    peer.pools.close()
    assert not sockets[0]._closed
    assert half_read.data == b"b"
    assert sockets[0]._closed
    assert peer.pools.to(URL) is not peer.pool
    peer.pool = peer.pools.to(URL)
    assert peer.ask().data == b"cd"
    assert not sockets[1]._closed
    peer.pools.close()
    assert sockets[1]._closed


def test_a_pool_is_as_large_and_as_strict_as_asked():
    peer = Peer("a", "b", maxsize=1, block=True)
    held = peer.ask()
    with pytest.raises(EmptyPoolError):
        peer.ask(pool_timeout=0.001)
    assert held.data == b"a"
    assert peer.ask().data == b"b"


def test_threads_share_a_pool_and_get_an_answer_each():
    peer = Peer(*[Reply.of(str(n), "!", status=200 + n % 2) for n in range(200)], maxsize=4)
    got = []

    def ask():
        for _ in range(25):
            response = peer.ask()
            got.append((response.status, response.data))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(got) == sorted((200 + n % 2, f"{n}!".encode()) for n in range(200))
    peer.assert_all_played()
