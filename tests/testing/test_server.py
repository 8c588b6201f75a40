"""The loopback server over real sockets: what clients see of each answer and each ending, and what it leaves behind.

Nothing here sleeps: where time must pass, a reply of the server takes that time.
"""

from __future__ import annotations

import gc
import http.client
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from aivvm.transport import Request
from aivvm_testing.errors import ReadPastRecording, SetupFailure, UnmatchedRequest
from aivvm_testing.replay import server as server_module
from aivvm_testing.replay.server import FakeServer
from aivvm_testing.reply import Chunk, Ending, Head, Reply, wait

GET = b"GET /api/chat HTTP/1.1\r\nHost: h\r\n\r\n"
CLOSING = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
KEPT = {"content-length": "2"}
LINUX = sys.platform == "linux"


class Scripted:
    """The least that a server needs: replies in order, the last of them for ever; exceptions are raised."""

    def __init__(self, *replies: Reply | Exception) -> None:
        self.replies = list(replies)
        self.requests: list[Request] = []
        self.errors: list[SetupFailure] = []
        self.threads: set[threading.Thread] = set()

    def answer(self, request: Request) -> Reply:
        self.requests.append(request)
        self.threads.add(threading.current_thread())
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        return reply

    def refuses_next(self) -> bool:
        reply = self.replies[0]
        return isinstance(reply, Reply) and reply.ending.kind == "refused"

    def skip_refused(self) -> None:
        del self.replies[0]

    def failed(self, error: SetupFailure) -> None:
        self.errors.append(error)


def connect(server: FakeServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


def until_end(sock: socket.socket) -> bytes:
    """All that comes until the server closes; `ConnectionResetError` has it as its `data`."""
    data = b""
    try:
        while piece := sock.recv(65536):
            data += piece
    except ConnectionResetError as error:
        error.data = data
        raise
    return data


def ask(server: FakeServer, sent: bytes = CLOSING) -> bytes:
    with connect(server) as sock:
        sock.sendall(sent)
        return until_end(sock)


def read_answer(sock: socket.socket) -> bytes:
    """One answer in chunks, no more."""
    data = b""
    while not data.endswith(b"0\r\n\r\n"):
        piece = sock.recv(1)
        assert piece, data
        data += piece
    return data


def open_files() -> int:
    return len(os.listdir("/dev/fd"))


def catch_up(server: FakeServer) -> None:
    """Returns when the server has seen all that clients did before: a connection, then its bytes, then its end."""
    for _ in range(3):
        server.recheck()


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


@contextmanager
def ending_in(
    kind: type[BaseException], match: str, *replies: Reply | Exception
) -> Iterator[tuple[FakeServer, Scripted]]:
    """A running server that raises such an error, the first of the fake's, when its block is left."""
    fake = Scripted(*replies)
    with pytest.raises(kind, match=match) as caught, FakeServer(fake) as server:
        yield server, fake
    assert fake.errors[0] is caught.value


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """No socket and no thread outlives its test; an unclosed socket is a ResourceWarning, which is an error."""
    files, threads = open_files(), threading.active_count()
    yield
    gc.collect()
    assert threading.active_count() <= threads
    assert open_files() <= files


# Endings, as a plain `requests` client sees them


def got(
    session: requests.Session, url: str, timeout: float = 10
) -> tuple[list[bytes], type[Exception] | None]:
    chunks: list[bytes] = []
    try:
        with session.get(url, stream=True, timeout=timeout) as response:
            for chunk in response.iter_content(None):
                chunks.append(chunk)
    except requests.RequestException as error:
        return chunks, type(error)
    return chunks, None


STREAM = Reply.of(b"caf\xc3", wait(0.01), b"\xa9", "x" * 300_000, wait(0.01), "end")
DATA = [b"caf\xc3", b"\xa9", b"x" * 300_000, b"end"]
BROKEN = requests.exceptions.ChunkedEncodingError
ENDINGS: dict[str, tuple[Reply, list[bytes], type[Exception] | None]] = {
    "complete": (STREAM, DATA, None),
    "complete, empty": (Reply.of(), [], None),
    "complete, with a length": (Reply.of("ab", headers=KEPT), [b"ab"], None),
    "complete, to the close": (Reply.of("ab", headers={"connection": "close"}), [b"ab"], None),
    "complete, then garbage": (Reply(Head(), (Chunk(b"a"),), Ending(data=b"garbage")), [b"a"], None),
    "a length too long": (Reply.of("a", headers=KEPT), [], BROKEN),  # requests keeps back what is not whole
    "a length too short": (Reply.of("abc", headers=KEPT), [b"ab"], None),
    "cut": (STREAM.cut(), DATA, BROKEN),
    "cut early": (STREAM.cut(after=1), DATA[:1], BROKEN),
    "cut after the head": (STREAM.cut(after=0), [], BROKEN),
    "malformed chunk": (Reply(Head(), (Chunk(b"a"),), Ending("cut", data=b"zz\r\n")), [b"a"], BROKEN),
    "reset": (STREAM.reset(), DATA, BROKEN),
    "reset in the middle": (STREAM.reset(after=3), DATA[:3], BROKEN),
    "stall": (STREAM.stall(after=2), DATA[:2], requests.ConnectionError),
    "closed": (Reply(Head(), (Chunk(b"a"),), Ending("closed")), [b"a"], BROKEN),
    "no answer: cut": (Reply.no_answer("cut"), [], requests.ConnectionError),
    "no answer: garbage": (Reply(None, (), Ending("cut", data=b"garbage\r\n")), [], requests.ConnectionError),
    "no answer: reset": (Reply.no_answer("reset", at=0.01), [], requests.ConnectionError),
    "no answer: stall": (Reply.no_answer("stall"), [], requests.ReadTimeout),
    "no answer: closed": (Reply.no_answer("closed"), [], requests.ConnectionError),
    "no answer: unresolved": (Reply.no_answer("unresolved"), [], requests.ConnectionError),
    "no answer: tls": (Reply.no_answer("tls"), [], requests.ConnectionError),
    "no answer: unreachable": (Reply.no_answer("unreachable"), [], requests.ConnectionError),
}


@pytest.mark.parametrize(("reply", "chunks", "error"), ENDINGS.values(), ids=ENDINGS)
def test_a_requests_client_sees_the_chunks_and_the_ending(
    session: requests.Session, reply: Reply, chunks: list[bytes], error: type[Exception] | None
):
    fake = Scripted(reply)
    server = FakeServer(fake)
    server.start()
    try:
        timeout = 0.1 if reply.ending.kind == "stall" else 10
        assert got(session, server.url, timeout) == (chunks, error)
    finally:
        server.stop()
    assert len(fake.errors) == (reply.ending.kind == "closed")


def test_a_refused_connection_is_refused_by_the_kernel_until_resumed(session: requests.Session):
    fake = Scripted(
        Reply.of("1"), Reply.no_answer("refused"), Reply.no_answer("refused"), Reply.of("2"), Reply.of("3")
    )
    with FakeServer(fake) as server:
        port = server.port
        with connect(server) as kept:
            assert got(session, server.url) == ([b"1"], None)
            assert kept.recv(1) == b""  # an idle connection would have let the next request in
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError):
                connect(server)
            with pytest.raises(requests.ConnectionError, match="refused"):
                session.get(server.url)
            with socket.socket() as other, pytest.raises(OSError, match="in use"):
                other.bind(("127.0.0.1", port))
            server.resume()
        assert got(session, server.url) == ([b"2"], None)
        assert got(session, server.url) == ([b"3"], None)
        assert server.port == port
    assert len(fake.requests) == 3


def test_a_server_may_begin_by_refusing():
    fake = Scripted(Reply.no_answer("refused"), Reply.of("a"))
    with FakeServer(fake) as server:
        with pytest.raises(ConnectionRefusedError):
            connect(server)
        server.resume()
        assert ask(server).endswith(b"\r\n1\r\na\r\n0\r\n\r\n")


def test_a_script_that_changes_while_nobody_asks_can_be_read_again():
    fake = Scripted(Reply.of("a"))
    with FakeServer(fake) as server:
        fake.replies.insert(0, Reply.no_answer("refused"))
        server.recheck()
        with pytest.raises(ConnectionRefusedError):
            connect(server)
        fake.skip_refused()
        server.recheck()
        assert ask(server).endswith(b"\r\n1\r\na\r\n0\r\n\r\n")


def test_who_waits_at_the_door_when_it_closes_is_reset():
    class Gated(Scripted):
        entered, opened = threading.Event(), threading.Event()

        def answer(self, request: Request) -> Reply:
            self.entered.set()
            assert self.opened.wait(10)
            return super().answer(request)

    fake = Gated(Reply.of("1"), Reply.of("2"), Reply.no_answer("refused"), Reply.of("3"))
    with FakeServer(fake) as server, connect(server) as first, connect(server) as second:
        catch_up(server)
        first.sendall(CLOSING)
        assert fake.entered.wait(10)
        second.sendall(CLOSING)  # its answer is the last before a refused connection
        with connect(server) as third:
            fake.opened.set()
            assert until_end(first).endswith(b"\r\n1\r\n1\r\n0\r\n\r\n")
            assert until_end(second).endswith(b"\r\n1\r\n2\r\n0\r\n\r\n")
            with pytest.raises(ConnectionResetError):
                third.recv(1)
        server.resume()
        assert ask(server).endswith(b"\r\n1\r\n3\r\n0\r\n\r\n")


def test_a_refusal_that_a_rule_gives_is_a_reset():
    fake = Scripted(Reply.no_answer("refused"))
    fake.refuses_next = lambda: False
    with FakeServer(fake) as server, pytest.raises(ConnectionResetError):
        ask(server)


def test_a_reset_waits_until_the_client_has_everything():
    size = 8_000_000
    replies = Reply.of("x" * size).reset(), Reply.of(wait(0.05), "b")
    with FakeServer(Scripted(*replies)) as server, connect(server) as sock:
        sock.sendall(GET)
        assert sock.recv(9) == b"HTTP/1.1 "
        assert ask(server).endswith(b"b\r\n0\r\n\r\n")
        with pytest.raises(ConnectionResetError) as caught:
            until_end(sock)
    if LINUX:  # elsewhere nobody can tell how much the peer has
        assert caught.value.data.endswith(b"x\r\n")
        assert caught.value.data.count(b"x") == size


def test_a_cut_is_a_fin_even_when_the_client_had_more_to_say():
    with FakeServer(Scripted(Reply.of("a").cut())) as server:
        assert ask(server, GET * 10_000).endswith(b"\r\n\r\n1\r\na\r\n")


def test_a_stalled_client_may_leave():
    with FakeServer(Scripted(Reply.of("a").stall())) as server:
        before = open_files()
        with connect(server) as sock:
            sock.sendall(GET)
            assert sock.recv(9)
        catch_up(server)
        assert open_files() == before


@pytest.mark.parametrize("early", [True, False])
def test_a_client_that_leaves_as_the_recorded_one_did_is_no_failure(early: bool):
    reply = Reply(Head(), (Chunk(b"a", 0), Chunk(b"b", 0.02)), Ending("closed", 0.03))
    fake = Scripted(reply, Reply.of(wait(0.4), "late"))
    with FakeServer(fake) as server:
        with connect(server) as sock:
            sock.sendall(GET)
            while not early and b"b" not in sock.recv(9):
                pass
        assert b"late" in ask(server)
    assert fake.errors == []


def test_reading_past_a_recording_is_raised_at_the_exit():
    reply = Reply(Head(), (Chunk(b"a"),), Ending("closed"))
    with ending_in(ReadPastRecording, r"GET http://h/api/chat: .* cut off", reply) as (server, _):
        assert ask(server, GET).endswith(b"\r\n1\r\na\r\n")


# Bytes and times


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=3000), max_size=8), st.sampled_from([0, 0.002]))
def test_every_chunk_is_one_chunk_for_the_client(pieces: list[bytes], gap: float):
    with FakeServer(Scripted(Reply.of(*pieces).pace(gap))) as server, requests.Session() as session:
        session.trust_env = False
        assert got(session, server.url) == (pieces, None)


def test_no_chunk_comes_before_its_time():
    times = [0.02, 0.05, 0.05, 0.12]
    reply = Reply(Head(at=0.02), tuple([Chunk(b"x", at) for at in times]), Ending(at=0.15))
    with FakeServer(Scripted(reply)) as server, connect(server) as sock:
        began = time.monotonic()
        sock.sendall(GET)
        data = b""
        while not data.endswith(b"0\r\n\r\n"):
            data += sock.recv(65536)
            now = time.monotonic() - began
            assert now >= [0.02, *times][data.count(b"1\r\nx\r\n")]
    assert now >= 0.15


def test_fifty_slow_streams_at_once_share_one_thread():
    fake = Scripted(Reply.of(*["x"] * 10).pace(0.02))
    before = threading.active_count()
    with FakeServer(fake) as server:
        socks = [connect(server) for _ in range(50)]
        began = time.monotonic()
        for sock in socks:
            sock.sendall(GET)
        answers = [read_answer(sock) for sock in socks]
        took = time.monotonic() - began
        assert threading.active_count() == before + 1
        for sock in socks:
            sock.close()
    assert len(answers) == 50
    assert {answer.count(b"1\r\nx\r\n") for answer in answers} == {10}
    assert len(fake.threads) == 1
    assert 0.18 <= took < 50 * 0.18 / 3  # not one after the other


def test_a_client_that_does_not_read_delays_nobody_and_loses_nothing():
    size = 30_000_000
    with FakeServer(Scripted(Reply.of("x" * size), Reply.of("b"))) as server, connect(server) as slow:
        slow.sendall(CLOSING)
        assert slow.recv(9) == b"HTTP/1.1 "
        assert ask(server).endswith(b"b\r\n0\r\n\r\n")
        rest = until_end(slow)
        assert rest.count(b"x") == size
        assert rest.endswith(b"0\r\n\r\n")


# Connections


def test_a_connection_is_used_again():
    fake = Scripted(Reply.of("a"), Reply.of("b", headers={"content-length": "1"}), Reply.of("c"))
    with FakeServer(fake) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        answers = []
        ports = set()
        for _ in range(3):
            connection.request("POST", "/api/chat", body=b"{}")
            ports.add(connection.sock.getsockname()[1])
            answers.append(connection.getresponse().read())
        connection.close()
        url = server.url
    assert answers == [b"a", b"b", b"c"]
    assert len(ports) == 1
    assert fake.requests[0][:2] == ("POST", f"{url}/api/chat")
    assert fake.requests[0].body == b"{}"


def test_requests_sent_together_are_answered_in_order():
    fake = Scripted(Reply.of(wait(0.02), "a"), Reply.of("b"))
    with FakeServer(fake) as server, connect(server) as sock:
        sock.sendall(GET + GET.replace(b"chat", b"models"))
        assert read_answer(sock).endswith(b"\r\n1\r\na\r\n0\r\n\r\n")
        assert read_answer(sock).endswith(b"\r\n1\r\nb\r\n0\r\n\r\n")
    assert [request.url for request in fake.requests] == ["http://h/api/chat", "http://h/api/models"]


def test_a_thousand_requests_sent_together_are_all_answered():
    with FakeServer(Scripted(Reply.of(wait(0.001), "a"), Reply.of("a"))) as server, connect(server) as sock:
        sock.sendall(GET * 999 + CLOSING)
        assert until_end(sock).count(b"\r\n1\r\na\r\n0\r\n\r\n") == 1000


def test_a_server_takes_in_no_more_requests_than_it_can_answer_soon():
    with FakeServer(Scripted(Reply.of("a").delay(60))) as server, connect(server) as sock:
        sock.setblocking(False)
        taken, limit = 0, 30_000_000  # the kernel's own buffers are below that
        while taken < limit and select.select([], [sock], [], 0.2)[1]:
            taken += sock.send(GET * 1000)
        assert taken < limit


def test_a_request_may_come_in_any_pieces():
    fake = Scripted(Reply.of("a"))
    body = "日本".encode()
    with FakeServer(fake) as server, connect(server) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in (
            b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n%b\r\n0\r\n\r\n" % body
        ):
            sock.sendall(bytes([byte]))
        assert read_answer(sock).endswith(b"\r\n1\r\na\r\n0\r\n\r\n")
    assert fake.requests[0].body == body


def test_head_gets_the_head_alone():
    with FakeServer(Scripted(Reply.of("abc", headers={"content-length": "3"}))) as server:
        answer = ask(server, CLOSING.replace(b"GET", b"HEAD"))
    assert answer == b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n"


def test_a_client_of_http_1_0_reads_to_the_end():
    with FakeServer(Scripted(Reply.of("a", wait(0.01), "b"))) as server:
        assert ask(server, b"GET / HTTP/1.0\r\n\r\n") == b"HTTP/1.1 200 OK\r\n\r\nab"


def test_a_client_that_closed_its_half_is_answered():
    with FakeServer(Scripted(Reply.of("a", wait(0.02), "b"))) as server, connect(server) as sock:
        sock.sendall(GET)
        sock.shutdown(socket.SHUT_WR)
        assert until_end(sock).endswith(b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n")


@pytest.mark.parametrize("abruptly", [False, True])
def test_a_client_may_leave_in_the_middle(abruptly: bool):
    fake = Scripted(Reply.of(*["x" * 1000] * 500).pace(0.002), Reply.of(wait(0.1), "b"))
    with FakeServer(fake) as server:
        before = open_files()
        with connect(server) as sock:
            sock.sendall(GET)
            assert sock.recv(9)
            if abruptly:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert ask(server).endswith(b"b\r\n0\r\n\r\n")
        catch_up(server)
        assert open_files() == before
    assert fake.errors == []


def test_a_client_that_waits_to_be_told_to_go_on_is_told():
    with FakeServer(Scripted(Reply.of("a"))) as server, connect(server) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert sock.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"{}")
        assert read_answer(sock).startswith(b"HTTP/1.1 200 OK\r\n")


# Requests that are none


def test_bytes_past_the_content_length_are_answered_as_by_the_real_server():
    fake = Scripted(Reply.of("a"))
    body = '{"content": "日本"}'
    sent = b"POST /api/chat HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body.encode())
    with FakeServer(fake) as server:
        answer = ask(server, sent)
    assert answer == b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
    assert len(answer) == 47
    assert fake.requests == []


def test_garbage_after_an_answer_has_begun_is_refused_when_it_is_over():
    with FakeServer(Scripted(Reply.of("a", wait(0.05), "b"))) as server, connect(server) as sock:
        sock.sendall(GET)
        begun = sock.recv(65536)
        sock.sendall(b"garbage\r\n\r\n")
        answers = begun + until_end(sock)
    assert answers.endswith(
        b"1\r\na\r\n1\r\nb\r\n0\r\n\r\nHTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
    )


def test_garbage_before_an_answer_has_begun_takes_its_place():
    with FakeServer(Scripted(Reply.of("a").delay(60))) as server, connect(server) as sock:
        sock.sendall(GET)
        catch_up(server)
        sock.sendall(b"garbage\r\n\r\n")
        assert until_end(sock) == b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"


def test_an_answer_that_was_given_up_has_no_say_in_what_follows():
    fake = Scripted(Reply.of("a").delay(0.1), Reply.of(wait(0.15), "b"))
    with FakeServer(fake) as server, connect(server) as sock:
        sock.sendall(GET)
        catch_up(server)
        sock.sendall(b"garbage\r\n\r\n")
        assert until_end(sock).startswith(b"HTTP/1.1 400 ")
        assert ask(server).endswith(b"b\r\n0\r\n\r\n")
        for _ in range(3):  # what it still says is dropped, and no reason for a reset
            sock.sendall(b"x")
            catch_up(server)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: h\r\nx: " + b"y" * 5_000_000, 431),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999\r\n\r\n" + b"y" * 5_000_000, 413),
        (b"GET / HTTP/3.0\r\n\r\n", 505),
    ],
)
def test_an_oversized_request_gets_an_answer_and_not_a_reset(sent: bytes, status: int):
    with FakeServer(Scripted(Reply.of("a"))) as server:
        assert ask(server, sent).startswith(b"HTTP/1.1 %d " % status)


def test_a_request_that_does_not_end_is_given_up():
    with FakeServer(Scripted(Reply.of("a")), request_timeout=0.05) as server:
        answer = ask(server, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhe")
        assert answer == b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n"
        assert ask(server).startswith(b"HTTP/1.1 200 ")


def test_only_unfinished_requests_are_given_up():
    reply = Reply.of(wait(0.15), "a")
    with (
        FakeServer(Scripted(reply), request_timeout=0.05) as server,
        connect(server) as sock,
        connect(server) as idle,
    ):
        sock.sendall(GET)
        sock.sendall(GET[:9])  # begun while the server was busy: its time is not the client's fault
        first = read_answer(sock)
        sock.sendall(GET[9:])
        assert read_answer(sock) == first
        idle.sendall(GET)
        assert read_answer(idle) == first


# Failures


def test_an_unmatched_request_is_answered_and_raised_at_the_exit(session: requests.Session):
    error = UnmatchedRequest("no reply for POST /nöwhere\nTo fix it: 1. …")
    with ending_in(UnmatchedRequest, "nöwhere", error, Reply.of("a")) as (server, _):
        response = session.get(server.url)
        assert (response.status_code, response.reason) == (501, "no reply for POST /n?where")
        assert response.headers["x-aivvm-testing"] == "unmatched"
        assert response.headers["content-type"] == "text/plain;charset=UTF-8"
        assert response.text == str(error)
        assert session.get(server.url).text == "a"


def test_whatever_else_a_fake_raises_is_answered_and_raised_at_the_exit(session: requests.Session):
    error, later = KeyError("x"), UnmatchedRequest("later")
    with ending_in(SetupFailure, r"no answer .* GET http://.*: KeyError: 'x'", error, later) as (
        server,
        fake,
    ):
        response = session.get(server.url)
        assert (response.status_code, response.headers["x-aivvm-testing"]) == (500, "error")
        assert "KeyError" in response.reason
        assert session.head(server.url).status_code == 501
    assert fake.errors[0].__cause__ is error
    assert fake.errors[1] is later


def test_a_test_that_fails_within_the_fake_fails(session: requests.Session):
    class Failing(Scripted):
        def answer(self, request: Request) -> Reply:
            pytest.fail("asked too early")

    server = FakeServer(Failing(Reply.of("a")))
    server.start()
    assert session.get(server.url).status_code == 500
    with pytest.raises(SetupFailure, match="asked too early"):
        server.__exit__(None)


def test_a_reply_that_cannot_be_sent_is_a_failure(session: requests.Session):
    with ending_in(SetupFailure, "CR, LF or NUL", Reply.of(reason="two\r\nlines")) as (server, _):
        assert session.get(server.url).status_code == 500


def test_an_exception_of_the_block_is_not_replaced():
    def block() -> None:
        with FakeServer(Scripted(UnmatchedRequest("x"))) as server:
            assert ask(server).startswith(b"HTTP/1.1 501 ")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        block()


def test_a_fake_that_cannot_say_what_comes_next_is_not_the_end():
    class Broken(Scripted):
        def refuses_next(self) -> bool:
            raise OSError("broken")

        def failed(self, error: SetupFailure) -> None:
            raise OSError("broken, too")

    server = FakeServer(Broken(Reply.of("a")))
    server.start()
    assert ask(server).endswith(b"1\r\na\r\n0\r\n\r\n")
    with pytest.raises(SetupFailure, match="what comes next: OSError: broken"):
        server.__exit__(None)


def test_a_port_lost_while_refusing_is_a_failure_and_no_hang(monkeypatch: pytest.MonkeyPatch):
    def taken(*args: object) -> Any:
        raise OSError("taken")

    replies = Reply.of("a"), Reply.no_answer("refused")
    with ending_in(SetupFailure, "could not be served: OSError: taken", *replies) as (server, _):
        monkeypatch.setattr(server_module, "_bind", taken)
        assert ask(server) == b""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_server_whose_thread_has_died_says_so_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch):
    def broken(*args: object) -> Any:
        raise ZeroDivisionError

    server = FakeServer(Scripted(Reply.of("a")))
    server.start()
    monkeypatch.setattr(server_module._Loop, "_keep_time", broken)
    with connect(server) as sock:
        sock.sendall(GET)
        with suppress(ConnectionResetError):
            until_end(sock)
        with pytest.raises(RuntimeError, match="the server has stopped"):
            server.resume()
    server.stop()


# The server itself


def test_it_starts_and_stops_again_and_again():
    server = FakeServer(Scripted(Reply.of("a")))
    for _ in range(3):
        server.start()
        assert ask(server).startswith(b"HTTP/1.1 200 ")
        server.stop()
        server.stop()


def test_it_stops_with_streams_open():
    fake = Scripted(
        Reply.of("a", wait(60), "b"), Reply.of("a").stall(), Reply.no_answer("stall"), Reply.of("x" * 9**8)
    )
    with FakeServer(fake) as server:
        socks = [connect(server) for _ in range(5)]
        for sock in socks:
            sock.sendall(GET)
        assert socks[0].recv(9) == socks[1].recv(9) == socks[3].recv(9) == b"HTTP/1.1 "
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 1
        for sock in socks:
            sock.close()


def test_only_a_running_server_has_an_address():
    server = FakeServer(Scripted(Reply.of("a")))
    for ask_for in (lambda: server.url, lambda: server.port, server.resume):
        with pytest.raises(RuntimeError, match=r"not running: call start\(\)"):
            ask_for()
    with server, pytest.raises(RuntimeError, match="already running at http://127"):
        server.start()


def test_a_port_that_is_taken_is_named():
    with FakeServer(Scripted(Reply.of("a"))) as server:
        other = FakeServer(Scripted(Reply.of("b")), port=server.port)
        with pytest.raises(OSError, match=f"no server at 127.0.0.1 port {server.port}: .*in use"):
            other.start()


def test_a_port_may_be_chosen():
    with FakeServer(Scripted(Reply.of("a"))) as server:
        port = server.port
        assert ask(server, GET.replace(b"GET", b"x"))
    with FakeServer(Scripted(Reply.of("a")), port=port) as server:
        assert server.port == port
        assert ask(server).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_it_is_for_this_machine_alone_unless_told_otherwise(host: str):
    with pytest.raises(ValueError, match=r"use 127\.0\.0\.1 or ::1, or say allow_remote=True"):
        FakeServer(Scripted(Reply.of("a")), host=host)


def test_it_may_be_told_to_listen_for_others():
    with FakeServer(Scripted(Reply.of("a")), host="0.0.0.0", allow_remote=True) as server:
        assert server.url == f"http://0.0.0.0:{server.port}"
        assert ask(server).startswith(b"HTTP/1.1 200 ")


def test_it_listens_on_ipv6(session: requests.Session):
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError as error:
        pytest.skip(f"no IPv6 loopback here: {error}")
    fake = Scripted(Reply.of("a"), Reply.no_answer("refused"), Reply.of("b"))
    with FakeServer(fake, host="::1") as server:
        assert server.url == f"http://[::1]:{server.port}"
        assert session.get(server.url).text == "a"
        with pytest.raises(requests.ConnectionError):
            session.get(server.url)
        server.resume()
        assert session.get(server.url).text == "b"
        assert fake.requests[0].url == f"{server.url}/"


CROWDED = """
import resource, sys
from aivvm_testing.replay.server import FakeServer
from aivvm_testing.reply import Reply
from tests.testing.test_server import Scripted
server = FakeServer(Scripted(Reply.of("a")))
server.start()
resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
print(server.port, flush=True)
sys.stdin.read()
server.stop()
"""


@pytest.mark.skipif(not LINUX, reason="counts file descriptors as Linux does")
def test_a_server_out_of_file_descriptors_serves_on_when_some_are_free_again():
    with subprocess.Popen(
        [sys.executable, "-c", CROWDED], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        address = ("127.0.0.1", int(child.stdout.readline()))
        socks = [socket.create_connection(address, timeout=10) for _ in range(30)]
        for sock in socks:
            sock.sendall(GET)
        for sock in socks:  # those at the front leave, and let in those behind
            assert read_answer(sock).endswith(b"\r\n1\r\na\r\n0\r\n\r\n")
            sock.close()
        child.stdin.close()
        assert child.wait(10) == 0
