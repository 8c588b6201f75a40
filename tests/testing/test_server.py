"""The loopback server over real sockets: what clients see of each answer and each ending, and what it leaves behind.

Nothing here sleeps: where time must pass, a reply of the server takes that time.
"""

from __future__ import annotations

import asyncio
import gc
import http.client
import inspect
import os
import random
import re
import select
import selectors
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
from aivvm_testing import FakeAivvm, sockets
from aivvm_testing.call import Call
from aivvm_testing.errors import ReadPastRecording, SetupFailure, UnmatchedRequest
from aivvm_testing.replay import loop as loop_module
from aivvm_testing.replay.server import FakeServer
from aivvm_testing.reply import Chunk, Ending, Head, Reply, wait
from aivvm_testing.wire import Refusal

GET = b"GET /api/chat HTTP/1.1\r\nHost: h\r\n\r\n"
CLOSING = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
KEPT = {"content-length": "2"}
LINUX = sys.platform == "linux"


class Scripted:
    """The least that a server needs: replies in order, the last of them for ever; exceptions are raised."""

    def __init__(self, *replies: Reply | Exception) -> None:
        self.replies = list(replies)
        self.requests: list[Request] = []
        self.calls: list[Call] = []
        self.errors: list[SetupFailure] = []
        self.refusals: list[Refusal] = []
        self.threads: set[threading.Thread] = set()

    def answer(self, request: Request) -> Call:
        self.requests.append(request)
        self.threads.add(threading.current_thread())
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        self.calls.append(Call(request, reply))
        return self.calls[-1]

    def refuses_next(self) -> bool:
        reply = self.replies[0]
        return isinstance(reply, Reply) and reply.ending.kind == "refused"

    def skip_refused(self) -> None:
        del self.replies[0]

    def refused(self, refusal: Refusal) -> None:
        self.refusals.append(refusal)

    def failed(self, error: SetupFailure) -> None:
        self.errors.append(error)


def connect(server: FakeServer) -> socket.socket:
    """What is sent here arrives at once, however little it is."""
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


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


def take(sock: socket.socket, size: int) -> int:
    """Reads so many bytes."""
    left = size
    while left:
        piece = sock.recv(left)
        assert piece
        left -= len(piece)
    return size


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

        def answer(self, request: Request) -> Call:
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


@pytest.mark.parametrize("reply", [Reply.of("a").stall(), Reply.of("a", wait(0.02), "b").stall()])
@pytest.mark.parametrize("waits", [True, False])
def test_a_client_that_closed_its_half_meets_the_silence_of_a_stall(reply: Reply, waits: bool):
    fake = Scripted(reply, Reply.of(wait(0.05), "later"))
    with FakeServer(fake, idle_timeout=0.3) as server, connect(server) as sock:
        began = time.monotonic()
        sock.sendall(GET)
        body = b"".join([b"1\r\n%b\r\n" % chunk.data for chunk in reply.chunks])
        got = b""
        while waits and not got.endswith(body):
            got += sock.recv(65536)
        sock.shutdown(socket.SHUT_WR)
        while not got.endswith(body):
            got += sock.recv(65536)
        assert ask(server).endswith(b"later\r\n0\r\n\r\n")
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(1)
        assert fake.calls[0].outcome == "played"  # nobody can tell whether it reads on
        assert fake.calls[0].chunks_taken == len(reply.chunks)
        sock.settimeout(10)
        assert until_end(sock) == b""
        assert time.monotonic() - began >= 0.3


def test_a_stalled_client_that_resets_after_closing_its_half_is_let_go_at_once():
    with FakeServer(Scripted(Reply.of("a").stall())) as server:
        before = open_files()
        with connect(server) as sock:
            sock.sendall(GET)
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(9)
            catch_up(server)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if LINUX:  # elsewhere nobody is told
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
    fake = Scripted(Reply.of(wait(0.001), "a"), Reply.of("a"))
    padded = GET.replace(
        b"Host", b"x: " + b"y" * 1000 + b"\r\nHost"
    )  # so many bytes are read in several turns
    with FakeServer(fake) as server, connect(server) as sock:
        sock.sendall(padded * 999 + CLOSING)
        assert until_end(sock).count(b"\r\n1\r\na\r\n0\r\n\r\n") == 1000
    assert [call.outcome for call in fake.calls] == ["played"] * 1000


@pytest.mark.parametrize("body", [0, 1_000_000])
def test_a_server_takes_in_no_more_requests_than_it_can_answer_soon(body: int):
    request = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (body, b"x" * body)
    flood = memoryview(request * (2 if body else 1000))
    with FakeServer(Scripted(Reply.of("a").delay(60))) as server, connect(server) as sock:
        sock.setblocking(False)
        taken, limit = 0, 30_000_000  # the kernel's own buffers are below that
        while taken < limit and select.select([], [sock], [], 0.2)[1]:
            taken += sock.send(flood[taken % len(flood) :])
        assert taken < limit


def test_a_request_may_come_in_any_pieces():
    fake = Scripted(Reply.of("a"))
    body = "日本".encode()
    with FakeServer(fake) as server, connect(server) as sock:
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
    fake = Scripted(Reply.of("a", wait(0.02), "b"))
    with FakeServer(fake) as server, connect(server) as sock:
        sock.sendall(GET)
        sock.shutdown(socket.SHUT_WR)
        assert until_end(sock).endswith(b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n")
    assert fake.calls[0].outcome == "played"
    assert fake.calls[0].lasted >= 0.02


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


# What a call tells of its answer


@pytest.mark.parametrize("reply", [ENDINGS[name][0] for name in ENDINGS], ids=ENDINGS)
def test_an_answer_whose_ending_was_given_is_played(session: requests.Session, reply: Reply):
    fake = Scripted(reply)
    server = FakeServer(fake)
    server.start()
    got(session, server.url, 0.1 if reply.ending.kind == "stall" else 10)
    session.close()
    catch_up(server)
    outcome = fake.calls[0].outcome
    server.stop()
    (call,) = fake.calls
    # Who leaves a `closed` answer in time has done as the recorded client did; here it read on until it was cut off.
    assert (outcome, call.outcome) == ("played", "played")
    assert call.lasted is not None
    assert call.lasted >= reply.ending.at
    assert call.chunks_taken == len(reply.chunks)
    assert call.bytes_taken == sum([len(chunk.data) for chunk in reply.chunks])


@pytest.mark.parametrize(
    "how", ["it closes", "it resets", "it closes its half, then resets", "the server stops"]
)
def test_an_answer_that_is_left_before_its_end_is_closed_and_has_what_was_taken(how: str):
    fake = Scripted(Reply.of("a", wait(0.01), "bc", wait(60), "d"))
    with FakeServer(fake) as server:
        sock = connect(server)
        sock.sendall(GET)
        data = b""
        while not data.endswith(b"2\r\nbc\r\n"):
            data += sock.recv(65536)
        if how == "it closes its half, then resets":
            sock.shutdown(socket.SHUT_WR)
            catch_up(server)
        if "resets" in how:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if how == "the server stops":
            server.stop()
        sock.close()
        if how != "the server stops":
            catch_up(server)
        if LINUX and "resets" in how:
            assert fake.calls[0].closed  # a FIN alone may be half of the client
    (call,) = fake.calls
    assert call.closed
    assert (call.chunks_taken, call.bytes_taken) == (2, 3)
    assert 0.01 <= call.lasted < 10


def test_an_answer_counts_as_taken_no_further_than_the_client_has_room():
    fake = Scripted(Reply.of(*["x" * 1_000_000] * 40))
    with FakeServer(fake) as server, connect(server) as sock:
        sock.sendall(CLOSING)
        assert take(sock, 100_000)
    (call,) = fake.calls
    assert call.closed
    assert call.bytes_taken < 40_000_000
    if LINUX:
        assert call.bytes_taken > 99_000


def test_each_of_the_requests_sent_together_is_a_call():
    replies = Reply.of("a"), Reply.of("b").stall(), Reply.of("c")
    fake = Scripted(*replies)
    with FakeServer(fake) as server, connect(server) as sock:
        sock.sendall(GET * 3)
        data = b""
        while not data.endswith(b"1\r\nb\r\n"):
            data += sock.recv(65536)
        assert [call.outcome for call in fake.calls] == ["played", "open"]
    assert [call.outcome for call in fake.calls] == ["played", "played"]


def test_a_client_that_leaves_where_the_recorded_one_did_has_closed_the_answer():
    fake = Scripted(Reply(Head(), (Chunk(b"a"),), Ending("closed", 0.01)))
    with FakeServer(fake) as server:
        with connect(server) as sock:
            sock.sendall(GET)
            while b"a" not in sock.recv(65536)[-4:]:
                pass
        catch_up(server)
    (call,) = fake.calls
    assert (call.outcome, call.chunks_taken) == ("closed", 1)


def test_a_call_whose_reply_no_wire_can_carry_has_no_answer(session: requests.Session):
    with ending_in(SetupFailure, "CR, LF or NUL", Reply.of("a", reason="two\r\nlines")) as (server, fake):
        assert session.get(server.url).status_code == 500
    assert (fake.calls[0].outcome, fake.calls[0].chunks_taken) == ("unmatched", 0)


# Patience


class Hours:
    """The server's clock, which stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def passing(self, server: FakeServer, seconds: float) -> None:
        catch_up(server)
        self.now += seconds
        catch_up(server)


@pytest.fixture
def hours(monkeypatch: pytest.MonkeyPatch) -> Hours:
    hours = Hours()
    monkeypatch.setattr(loop_module, "monotonic", hours)
    return hours


def test_a_client_that_says_nothing_is_let_go(hours: Hours):
    with FakeServer(Scripted(Reply.of("a"))) as server, connect(server) as sock:
        hours.passing(server, 59)
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(1)
        sock.settimeout(10)
        hours.passing(server, 2)
        assert sock.recv(1) == b""


def test_each_answer_gives_a_client_its_time_again(hours: Hours):
    with FakeServer(Scripted(Reply.of("a")), idle_timeout=10) as server, connect(server) as sock:
        for _ in range(3):
            hours.passing(server, 9)
            sock.sendall(GET)
            assert read_answer(sock).endswith(b"\r\n1\r\na\r\n0\r\n\r\n")
        hours.passing(server, 11)
        assert sock.recv(1) == b""


def test_patience_is_with_clients_and_no_answer_is_too_long(hours: Hours):
    reply = Reply.of("a", wait(500), "b", wait(500), "c")
    with FakeServer(Scripted(reply)) as server, connect(server) as sock, connect(server) as stalled:
        sock.sendall(GET)
        for _ in range(2):
            hours.passing(server, 501)
        assert read_answer(sock).endswith(b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n")
        assert stalled.recv(1) == b""


def test_a_head_that_comes_byte_by_byte_is_given_up_all_the_same(hours: Hours):
    with FakeServer(Scripted(Reply.of("a"))) as server, connect(server) as sock:
        hours.passing(server, 50)  # its patience begins with the first byte
        for n in range(3):
            sock.sendall(GET[n : n + 1])
            hours.passing(server, 4)
        assert until_end(sock).startswith(b"HTTP/1.1 408 ")


def test_a_client_that_takes_nothing_more_is_reset(hours: Hours):
    fake = Scripted(Reply.of("x" * 60_000_000))
    with FakeServer(fake) as server, connect(server) as sock:
        sock.sendall(GET)
        for _ in range(3):
            hours.passing(server, 59)
            assert fake.calls[0].outcome == "open"
            assert take(sock, 10_000_000)
        hours.passing(server, 61)
        assert fake.calls[0].closed
        assert 30_000_000 < fake.calls[0].bytes_taken < 60_000_000
        with pytest.raises(ConnectionResetError):
            until_end(sock)


def test_a_client_that_talks_on_after_the_end_is_heard_for_a_while(hours: Hours):
    with FakeServer(Scripted(Reply.of("a").cut())) as server, connect(server) as sock:
        sock.sendall(GET)
        assert until_end(sock).endswith(b"1\r\na\r\n")
        for _ in range(3):
            hours.passing(server, 0.6)
            sock.sendall(GET)
        hours.passing(server, 0.6)
        sock.sendall(GET)
        gone = select.poll()
        gone.register(sock, 0)
        assert gone.poll(10_000)


@pytest.mark.parametrize("seconds", [1e8, 1e300])
def test_a_wait_that_no_clock_reaches_is_only_a_wait(seconds: float):
    fake = Scripted(Reply.of("a").delay(seconds), Reply.of("b"))
    with FakeServer(fake) as server, connect(server) as sock:
        sock.sendall(GET)
        catch_up(server)
        assert ask(server).endswith(b"\r\n1\r\nb\r\n0\r\n\r\n")
    assert fake.errors == []


REFUSED: dict[str, tuple[bytes, int, str, tuple[str, str] | None]] = {
    "no method": (b"\x16\x03\x01", 400, "a request begins with its method", None),
    "no host": (b"GET /a?b=c HTTP/1.1\r\n\r\n", 400, "a request has one Host field", ("GET", "/a?b=c")),
    "too long": (
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9999\r\n\r\n",
        413,
        "at most 99 bytes",
        ("POST", "/"),
    ),
    "too many fields": (GET[:-2] + b"x: " + b"y" * 999, 431, "at most 999 bytes", ("GET", "/api/chat")),
    "two lengths": (
        GET[:-2] + b"Content-Length: 1\r\n" * 2 + b"\r\n",
        400,
        "one number",
        ("GET", "/api/chat"),
    ),
    "bad chunk": (
        b"PUT /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        400,
        "a chunk begins",
        ("PUT", "/x"),
    ),
    "too slow": (GET[:-2], 408, "did not come within 0.1 s", ("GET", "/api/chat")),
}


@pytest.mark.parametrize(("sent", "status", "why", "known"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_is_told_to_the_fake_and_is_no_call(
    sent: bytes, status: int, why: str, known: tuple[str, str] | None
):
    fake = Scripted(Reply.of("a"))
    with FakeServer(fake, request_timeout=0.1, max_head=999, max_body=99) as server:
        assert ask(server, sent).startswith(b"HTTP/1.1 %d " % status)
    (refusal,) = fake.refusals
    assert refusal.status == status
    assert why in refusal.why
    if known is None:
        assert refusal.request is None
    else:
        assert refusal.request.method == known[0]
        assert refusal.request.url.partition("//")[2].partition("/")[1:] == ("/", known[1][1:])
    assert fake.requests == []


@pytest.mark.parametrize("abruptly", [True, False])
def test_a_request_that_its_client_gave_up_leaves_a_note(abruptly: bool):
    fake = Scripted(Reply.of("a"))
    with FakeServer(fake) as server:
        with connect(server) as sock:
            sock.sendall(GET + GET[:-2])
            assert read_answer(sock)
            catch_up(server)
            if abruptly:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        catch_up(server)
        with connect(server):  # says nothing
            catch_up(server)
        catch_up(server)
    assert [(one.status, one.why) for one in fake.refusals] == [
        (0, "the client left before its request was whole")
    ]
    assert fake.refusals[0].request is not None
    assert fake.refusals[0].request.method == "GET"


def test_a_request_that_is_not_answered_for_what_came_with_it_is_named():
    fake = Scripted(Reply.of("a"))
    with FakeServer(fake) as server:
        assert ask(server, b"POST /x?key=s HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n{}").startswith(
            b"HTTP/1.1 400 "
        )
    assert [one.why for one in fake.refusals] == [
        "a request begins with its method, but came b'}'; POST /x came right before it, and is not answered either"
    ]


def test_a_fake_that_cannot_take_note_is_not_the_end():
    class Broken(Scripted):
        def refused(self, refusal: Refusal) -> None:
            raise OSError("broken")

    fake = Broken(Reply.of("a"))
    server = FakeServer(fake)
    server.start()
    assert ask(server, b"\x16").startswith(b"HTTP/1.1 400 ")
    assert ask(server).endswith(b"\r\n1\r\na\r\n0\r\n\r\n")
    server.stop()
    with pytest.raises(SetupFailure, match="could not take note of a refused request: OSError: broken"):
        server.__exit__(None)


def test_a_fake_passes_on_what_its_server_is_told():
    ours = dict(inspect.signature(FakeServer).parameters)
    assert ours.pop("fake")
    theirs = dict(inspect.signature(FakeAivvm.server).parameters)
    assert theirs.pop("self")
    assert {name: one.default for name, one in theirs.items()} == {
        name: one.default for name, one in ours.items()
    }
    fake = FakeAivvm()
    fake.reply("x" * 30_000_000)
    with fake.server(
        idle_timeout=0.1, request_timeout=0.2, write_timeout=0.3, max_head=500, max_body=5
    ) as server:
        with connect(server) as sock:
            assert sock.recv(1) == b""
        assert ask(server, GET[:-2]).startswith(b"HTTP/1.1 408 ")
        assert ask(server, b"GET /" + b"a" * 500).startswith(b"HTTP/1.1 431 ")
        long = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\n"
        assert ask(server, long).startswith(b"HTTP/1.1 413 ")
        asked = b"POST /api/chat HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n"
        fake.on(path="/api/chat").reply("x" * 30_000_000)
        with connect(server) as sock:
            sock.sendall(asked + b"12345")
            while fake.calls[-1:] == [] or fake.calls[-1].outcome == "open":
                server.recheck()
            with pytest.raises(ConnectionResetError):
                until_end(sock)
    assert [one.status for one in fake.refusals] == [408, 431, 413]
    assert fake.calls[0].closed


@pytest.mark.parametrize("name", ["max_head", "max_body"])
def test_bounds_are_bytes(name: str):
    for wrong in (0, -1, 0.5, True, None, "1"):
        with pytest.raises(ValueError, match=f"{name} is a whole number of bytes, 1 or more, but got"):
            FakeServer(Scripted(Reply.of("a")), **{name: wrong})


@pytest.mark.parametrize("name", ["idle_timeout", "request_timeout", "write_timeout"])
def test_patience_is_seconds(name: str):
    for wrong in (0, -1.5, float("nan"), None, True, "1"):
        with pytest.raises(ValueError, match=f"{name} is a number of seconds over 0, but got {wrong!r}"):
            FakeServer(Scripted(Reply.of("a")), **{name: wrong})


class Sleeper:
    due = 0


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(st.sampled_from(["set", "set_by", "drop", "due"]), st.integers(0, 4), st.floats(0, 0.5)),
        max_size=60,
    )
)
def test_everyone_is_called_at_the_last_moment_that_was_said_and_never_before(
    steps: list[tuple[str, int, float]],
):
    now = 1000.0
    moments, sleepers = loop_module.Moments(), [Sleeper() for _ in range(5)]
    said: dict[Sleeper, float] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop_module, "monotonic", lambda: now)
        patch.setattr(loop_module, "_CALLS_AT_ONCE", 2)
        for verb, n, seconds in steps:
            whose = sleepers[n]
            if verb == "set":
                moments.set(whose, now + seconds)
                said[whose] = now + seconds
            elif verb == "set_by":
                moments.set_by(whose, now + seconds)
                said[whose] = min(now + seconds, said.get(whose, 1e9))
            elif verb == "drop":
                moments.drop(whose)
                said.pop(whose, None)
            else:
                now += seconds
                while due := moments.due():
                    for called in due:
                        assert said.pop(called) <= now
                assert all(moment > now - 0.0011 for moment in said.values())
            if said:
                assert 0 <= moments.patience() <= max(0, min(said.values()) - now) + 0.0011


def test_moments_that_are_taken_back_leave_nothing():
    moments, sleeper = loop_module.Moments(), Sleeper()
    for n in range(1000):
        moments.set(sleeper, float(n))
    moments.drop(sleeper)
    assert not moments._slots
    assert len(moments._ticks) < 100


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


GOOD = (
    GET,
    GET.replace(b"GET", b"HEAD"),
    CLOSING,
    b"GET / HTTP/1.0\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
    b"POST /api/chat HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /api/chat HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
    b"POST http://h:1/api/chat?x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\na: b\r\n\r\n",
)
SPICES = (
    *(b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\0", b" ", b"\t", b":", b",", b"\xff", b"0", b"-1", b"\x0b"),
    *(b"\r\nContent-Length: 5", b"\r\nContent-Length: 50", b"\r\nTransfer-Encoding: chunked", b"\r\n folded"),
    *(b"\r\nTransfer-Encoding: gzip, chunked", b"\r\nHost: other", b"\r\nConnection: close", b"9" * 30),
    *(b"\r\nExpect: 100-continue", b"HTTP/1.1", b"HTTP/2.0", b"\r\nx: " + b"y" * 70_000, b"z" * 70_000),
)
ANSWERS = re.compile(
    rb"(?:HTTP/1\.1 100 Continue\r\n\r\n"
    rb"|HTTP/1\.1 200 OK\r\n(?:Transfer-Encoding: chunked\r\n)?\r\n(?:1\r\na\r\n0\r\n\r\n|a)?)*"
    rb"(?:HTTP/1\.1 [45][0-9][0-9] [A-Za-z ]+\r\nConnection: close\r\n\r\n)?"
)


def spoiled(dice: random.Random) -> list[bytes]:
    """A request or some, damaged in up to three places, in up to three pieces."""
    data = b"".join(dice.choices(GOOD, k=dice.choice((1, 1, 1, 2, 3))))
    for _ in range(dice.randrange(4)):
        begin, end = sorted(dice.choices(range(len(data) + 1), k=2))
        spice = dice.choice(
            (b"", dice.choice(SPICES), dice.choice(SPICES), data[begin:end], dice.randbytes(3))
        )
        end = dice.choice((begin, begin + 1, end))
        data = data[:begin] + spice + data[end:]
    cuts = sorted(dice.choices(range(len(data) + 1), k=dice.randrange(3)))
    return [data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@pytest.mark.parametrize("seed", range(4))
def test_whatever_comes_is_answered_well_or_not_at_all_and_leaves_nothing(seed: int):
    dice = random.Random(seed)
    fake = Scripted(Reply.of("a"))
    with FakeServer(fake) as server:
        before = open_files()
        for _ in range(25):
            clients = [(connect(server), spoiled(dice)) for _ in range(100)]
            for n in range(3):
                for sock, pieces in clients:
                    if n < len(pieces):
                        sock.sendall(pieces[n])
            for sock, pieces in clients:
                with suppress(OSError):  # the server has closed already
                    sock.shutdown(socket.SHUT_WR)
                answers = until_end(sock)
                sock.close()
                assert ANSWERS.fullmatch(answers), (pieces, answers)
        catch_up(server)
        assert open_files() == before
        assert ask(server).endswith(b"1\r\na\r\n0\r\n\r\n")
    assert fake.errors == []
    assert {call.outcome for call in fake.calls} <= {"played", "closed"}


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
        def answer(self, request: Request) -> Call:
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
        monkeypatch.setattr(loop_module, "_bind", taken)
        assert ask(server) == b""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_server_whose_thread_has_died_says_so_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch):
    def broken(*args: object) -> Any:
        raise ZeroDivisionError

    server = FakeServer(Scripted(Reply.of("a")))
    server.start()
    monkeypatch.setattr(loop_module.Loop, "_keep_time", broken)
    with connect(server) as sock:
        sock.sendall(GET)
        with suppress(ConnectionResetError):
            until_end(sock)
        with pytest.raises(RuntimeError, match="the server has stopped"):
            server.resume()
    server.stop()


# Pages of other origins


PREFLIGHT = (
    b"OPTIONS /api/chat HTTP/1.1\r\nHost: h\r\nOrigin: http://page.example\r\n"
    b"Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: content-type,x-mine\r\n\r\n"
)


def heads(answers: bytes) -> list[dict[str, str]]:
    """The header fields of each answer, and its status."""
    found = []
    for head in answers.split(b"HTTP/1.1 ")[1:]:
        status, *lines = head.partition(b"\r\n\r\n")[0].decode().split("\r\n")
        found.append({"status": status[:3], **dict(line.lower().split(": ", 1) for line in lines)})
    return found


def test_a_preflight_is_answered_here_and_is_no_call():
    fake = Scripted(Reply.of("a"))
    with FakeServer(fake, cors=True) as server:
        asks_more = PREFLIGHT.replace(
            b"\r\n\r\n", b"\r\nAccess-Control-Request-Private-Network: true\r\n\r\n"
        )
        first, second, answer = heads(ask(server, PREFLIGHT + asks_more + CLOSING))
    assert first == {
        "status": "204",
        "access-control-allow-origin": "*",
        "access-control-expose-headers": "*",
        "access-control-allow-methods": "post",
        "access-control-allow-headers": "content-type,x-mine",
        "access-control-max-age": "600",
    }
    assert second == first | {"access-control-allow-private-network": "true"}
    assert answer["status"] == "200"
    assert [request.method for request in fake.requests] == ["GET"]


@pytest.mark.parametrize("field", [b"Origin", b"Access-Control-Request-Method"])
def test_what_is_no_preflight_is_asked_of_the_fake(field: bytes):
    fake = Scripted(Reply.of("a"))
    with FakeServer(fake, cors=True) as server:
        (answer,) = heads(
            ask(
                server,
                PREFLIGHT.replace(field, b"X-Other").replace(b"h\r\n", b"h\r\nConnection: close\r\n", 1),
            )
        )
    assert (answer["status"], answer["access-control-allow-origin"]) == ("200", "*")
    assert [request.method for request in fake.requests] == ["OPTIONS"]


@pytest.mark.parametrize(
    ("cors", "added"),
    [
        (True, {"access-control-allow-origin": "*", "access-control-expose-headers": "*"}),
        (
            "http://localhost:3000",
            {
                "access-control-allow-origin": "http://localhost:3000",
                "access-control-expose-headers": "*",
                "vary": "origin",
            },
        ),
        (False, {}),
    ],
)
def test_every_answer_says_who_may_read_it(cors: bool | str, added: dict[str, str]):
    fake = Scripted(
        Reply.of("a"), UnmatchedRequest("none"), KeyError("x"), Reply.of("b"), Reply.of("c").delay(60)
    )
    server = FakeServer(fake, cors=cors, request_timeout=0.05)
    server.start()
    answers = ask(server, GET * 3 + CLOSING) + ask(server, b"garbage\r\n\r\n") + ask(server, b"GET /")
    server.stop()
    found = heads(answers)
    assert [head["status"] for head in found] == ["200", "501", "500", "200", "400", "408"]
    for head in found:
        assert {name: head[name] for name in head if name.startswith(("access", "vary"))} == added


def test_a_reply_that_says_itself_who_may_read_it_has_its_say():
    reply = Reply.of("a", headers={"access-control-allow-origin": "https://recorded.example"})
    with FakeServer(Scripted(reply), cors=True) as server:
        answer = ask(server)
    assert answer.lower().count(b"access-control-allow-origin") == 1
    assert b"https://recorded.example" in answer


@pytest.mark.parametrize("cors", ["", "*", "localhost:3000", "http://a/", "http://a\r\nx: y", None, 1])
def test_cors_is_true_or_an_origin(cors: Any):
    with pytest.raises(
        ValueError, match="cors is True, or an origin such as 'http://localhost:3000', but got"
    ):
        FakeServer(Scripted(Reply.of("a")), cors=cors)


# Within an asyncio program


def test_an_asyncio_program_is_served_and_not_held_up():
    class Gated(Scripted):
        entered, opened = threading.Event(), threading.Event()

        def answer(self, request: Request) -> Call:
            self.entered.set()
            assert self.opened.wait(10)
            return super().answer(request)

    async def program() -> bytes:
        fake = Gated(Reply.of("a", wait(0.01), "b"))
        loop = asyncio.get_running_loop()
        async with FakeServer(fake) as server:
            fake.opened.set()
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(CLOSING)
            data = await reader.read()
            fake.opened.clear()
            fake.entered.clear()
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(CLOSING)
            await asyncio.to_thread(fake.entered.wait, 10)
            # The server's thread is within the fake, so stopping must wait; the program must not.
            loop.call_later(0.01, fake.opened.set)
        writer.close()
        with pytest.raises(RuntimeError, match="not running"):
            _ = server.port
        return data

    assert asyncio.run(program()).endswith(b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n")


@pytest.mark.parametrize("raised", [None, ZeroDivisionError])
def test_an_asyncio_program_gets_the_failure_too_unless_it_failed_itself(raised: type[Exception] | None):
    async def program() -> None:
        async with FakeServer(Scripted(UnmatchedRequest("none"))) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(CLOSING)
            assert (await reader.read()).startswith(b"HTTP/1.1 501 ")
            writer.close()
            await writer.wait_closed()
            if raised is not None:
                raise raised

    with pytest.raises(raised or UnmatchedRequest):
        asyncio.run(program())


# The server itself


def test_it_serves_where_there_is_no_epoll(monkeypatch: pytest.MonkeyPatch, session: requests.Session):
    monkeypatch.setattr(loop_module, "poller", sockets.Selected)
    monkeypatch.setattr(loop_module, "READABLE", selectors.EVENT_READ)
    monkeypatch.setattr(loop_module, "WRITABLE", selectors.EVENT_WRITE)
    size = 8_000_000
    replies = Reply.of("a", wait(0.01), "b"), Reply.of("x" * size), Reply.no_answer("refused"), Reply.of("c")
    fake = Scripted(*replies)
    with FakeServer(fake) as server:
        assert got(session, server.url) == ([b"a", b"b"], None)
        with connect(server) as sock:
            sock.sendall(CLOSING)
            sock.shutdown(socket.SHUT_WR)
            assert until_end(sock).count(b"x") == size
        with pytest.raises(ConnectionRefusedError):
            connect(server)
        server.resume()
        with connect(server) as sock:
            sock.sendall(GET.replace(b"Host", b"x: " + b"y" * 1000 + b"\r\nHost") * 199 + CLOSING)
            assert until_end(sock).count(b"\r\n1\r\nc\r\n0\r\n\r\n") == 200
    assert [call.outcome for call in fake.calls] == ["played"] * 202


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
