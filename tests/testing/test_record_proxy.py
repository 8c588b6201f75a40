"""Tap 3, over real sockets: what passes is what would have passed without the proxy, and all of it is recorded.

Nothing here sleeps: threads wait for events and for data. A peer is a server of scripted bytes.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import re
import select
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aivvm import Aivvm, RequestsTransport
from aivvm.errors import Interrupted, StatusError, TimedOut, TransportError
from aivvm.payload import build_request
from aivvm.transport import Headers, Request
from aivvm_testing import FakeAivvm, Recording, Reply, SystemClock, strategies, wait
from aivvm_testing.record import proxy as proxy_module
from aivvm_testing.record.coding import Decoding
from aivvm_testing.record.proxy import RecordingProxy
from aivvm_testing.redaction import Redaction
from aivvm_testing.reply import EndingKind
from tests.peers import END, HEAD, PATIENCE, Peer, framed, serving

LINUX = sys.platform == "linux"
CERTIFICATE = Path(__file__).parent.parent / "loopback.pem"
GET = b"GET /api/chat HTTP/1.1\r\nHost: h\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def open_files() -> int:
    return len(os.listdir("/dev/fd"))


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """No socket and no thread outlives its test; an unclosed socket is a ResourceWarning, which is an error."""
    files, threads = open_files(), threading.active_count()
    yield
    if threading.active_count() > threads or open_files() > files:
        gc.collect()
    assert threading.active_count() <= threads
    assert open_files() <= files


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "session.jsonl"


def connect(proxy: RecordingProxy) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def until_end(sock: socket.socket) -> bytes:
    """All that comes until the other side closes; `ConnectionResetError` has it as its `data`."""
    data = b""
    try:
        while piece := sock.recv(65536):
            data += piece
    except ConnectionResetError as error:
        error.data = data  # type: ignore[attr-defined]  # for the test to see
        raise
    return data


def receive(sock: socket.socket, until: bytes) -> bytes:
    """What comes, up to and with these bytes."""
    data = b""
    while not data.endswith(until):
        piece = sock.recv(1)
        assert piece, data
        data += piece
    return data


def ask(proxy: RecordingProxy, sent: bytes = GET) -> bytes:
    """What a client that closes nothing gets until the proxy does."""
    with connect(proxy) as sock:
        sock.sendall(sent)
        return until_end(sock)


def through(
    answer: bytes | Callable[[socket.socket], None], path: Path, sent: bytes = GET, **options: Any
) -> tuple[bytes, Peer]:
    """What such a client gets of a peer that answers and closes, and the peer."""
    with serving(answer) as peer, RecordingProxy(peer.url, path, **options) as proxy:
        return ask(proxy, sent), peer


def until_idle(proxy: RecordingProxy) -> None:
    """Returns when the proxy has no connection to any client."""
    assert proxy._running is not None
    for thread in proxy._running._threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def reply_of(path: Path, n: int = 0) -> Reply:
    return Recording.load(path)[n].reply


def pieces(path: Path, n: int = 0) -> list[bytes]:
    return [chunk.data for chunk in reply_of(path, n).chunks]


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


# The promise: the same stream, with the proxy and without it, and again when its recording is replayed


def raw(url: str, timeout: float = PATIENCE) -> tuple[object, ...]:
    """What a reader gets, below the provider: the head's own fields, the chunks, the error."""
    chunks: list[bytes] = []
    with RequestsTransport() as transport:
        try:
            with transport.send(build_request("gpt-4", [], url=url), timeout=timeout) as response:
                for chunk in response:
                    chunks.append(chunk)
        except TransportError as error:
            return chunks, type(error), getattr(error, "kind", None)
    return chunks, response.status, response.reason


FRAMINGS = st.sampled_from(["chunked", "length", "close"])
CARRIED: tuple[EndingKind, ...] = ("complete", "cut", "reset")


@st.composite
def streams(draw: st.DrawFn) -> Reply:
    """Replies that a socket carries, at once, in each framing."""
    reply = draw(strategies.replies(endings=CARRIED, plain=True)).scale(0)
    if reply.head is None:
        return reply
    framing = draw(FRAMINGS)
    headers = {
        "chunked": [],
        "length": [("Content-Length", str(len(reply.body)))],
        "close": [("Connection", "close")],
    }[framing]
    return replace(reply, head=replace(reply.head, headers=Headers([*reply.head.headers, *headers])))


def joined(outcome: tuple[object, ...]) -> tuple[object, ...]:
    chunks, *rest = outcome
    assert isinstance(chunks, list)
    return (b"".join(chunks), *rest)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(reply=streams())
def test_a_stream_is_the_same_through_the_proxy_and_replayed(path: Path, reply: Reply) -> None:
    fake = FakeAivvm()
    fake.reply(reply, times=2)
    with fake.server() as server:
        direct = raw(server.url)
        with RecordingProxy(server.url, path) as proxy:
            live = raw(proxy.url)
    chunked = reply.headers.get("content-length") is None and reply.headers.get("connection") is None
    same = (lambda outcome: outcome) if chunked else joined
    assert same(live) == same(direct)
    recording = Recording.load(path)
    assert recording[0].request.url == f"{server_url(recording)}/api/chat"
    recorded = recording[0].reply
    if reply.head is not None and chunked:
        assert [chunk.data for chunk in recorded.chunks] == [
            chunk.data for chunk in reply.chunks if chunk.data
        ]
        assert recorded.ending.kind == reply.ending.kind
    with FakeAivvm.replaying(recording).server() as again:
        assert same(raw(again.url)) == same(live)


def server_url(recording: Recording) -> str:
    return "http://" + (recording[0].request.headers.get("host") or "")


def test_an_answer_whose_end_only_the_connection_tells_is_replayed_like_that(path: Path) -> None:
    got, _ = through(b"HTTP/1.1 200 OK\r\n\r\nabc", path)
    assert got == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc"
    assert reply_of(path).headers == Headers([("Connection", "close")])
    with (
        FakeAivvm.replaying(path, match_on=("path",)).server() as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as sock,
    ):
        sock.sendall(GET)
        assert until_end(sock) == got


ODD_ANSWERS = {
    "extensions and trailers": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Sum\r\n\r\n"
    b'3;a="b"\r\nabc\r\n00\r\nSum: 1\r\n\r\n',
    "lines that end in LF": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\n0\n\n",
    "odd fields": b"HTTP/1.1 299 Gr\xfc\xdfe  an alle \r\nX-b: 1\r\nx-B: 2\r\nX-b: 3\r\nA: \xe9\r\nEmpty: \r\n"
    b"Content-Length: 0\r\n\r\n",
    "no reason": b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n",
    "no content": b"HTTP/1.1 204 No Content\r\nA: b\r\n\r\n",
    "not modified": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: x\r\n\r\n",
    "a length and chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("answer", ODD_ANSWERS.values(), ids=ODD_ANSWERS)
def test_an_answer_reaches_the_client_byte_for_byte(path: Path, answer: bytes) -> None:
    said = answer.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
    got, _ = through(said, path)
    assert got == said
    with FakeAivvm.replaying(path, match_on=("path",)).server() as server:
        assert requests.get(f"{server.url}/api/chat", timeout=PATIENCE).content == b"".join(pieces(path))


def test_a_long_answer_of_every_framing_arrives_whole(path: Path) -> None:
    body = os.urandom(3_000_000)
    for head, sent in (
        (b"Content-Length: 3000000\r\nConnection: close", body),
        (b"Connection: close", body),
        (b"Transfer-Encoding: chunked\r\nConnection: close", framed(body[:200_000], body[200_000:]) + END),
    ):
        answer = b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n" + sent
        got, _ = through(answer, path)
        assert got == answer
        assert b"".join(pieces(path)) == body
    assert [len(piece) for piece in pieces(path)] == [200_000, 2_800_000]


# Requests


def test_a_request_reaches_the_upstream_as_it_was_sent_but_for_its_host(path: Path) -> None:
    sent = (
        b"POST /a?b=c&d=%C3%A9 HTTP/1.1\r\nX-b: 1\r\nHOST: me\r\nx-B: 2\r\nX-b: \xe9\r\nAccept-Encoding: gzip\r\n"
        b"Authorization: Bearer abcdefgh\r\nContent-LENGTH: 3\r\nConnection: keep-alive\r\n\r\n\0\xff{"
    )
    _, peer = through(OK, path, sent)
    place = peer.url.partition("//")[2].encode()
    assert peer.requests == [sent.replace(b"HOST: me", b"HOST: " + place)]
    request = Recording.load(path)[0].request
    assert request.url == f"{peer.url}/a?b=c&d=%C3%A9"
    assert (request.method, request.body) == ("POST", b"\0\xff{")
    assert request.headers == Headers(
        [
            ("X-b", "1"),
            ("HOST", place.decode()),
            ("x-B", "2"),
            ("X-b", "\xe9"),
            ("Accept-Encoding", "gzip"),
            ("Authorization", "Bearer REDACTED"),
            ("Content-LENGTH", "3"),
            ("Connection", "keep-alive"),
        ]
    )


def test_what_belongs_to_one_hop_goes_no_further(path: Path) -> None:
    sent = (
        b"GET / HTTP/1.1\r\nHost: h\r\nConnection: X-Mine, Keep-Alive, content-length, host\r\nX-Mine: 1\r\nKeep-Alive: 5\r\n"
        b"TE: trailers\r\nTrailer: x\r\nUpgrade: websocket\r\nProxy-Connection: x\r\nProxy-Authorization: x\r\n"
        b"X-Yours: 2\r\nContent-Length: 1\r\n\r\n!"
    )
    answer = (
        b"HTTP/1.1 200 OK\r\nConnection: close, x-mine\r\nKEEP-alive: timeout=5\r\nX-Mine: 1\r\nX-Yours: 2\r\n"
        b"Upgrade: h2c\r\nProxy-Authenticate: x\r\nContent-Length: 0\r\n\r\n"
    )
    got, peer = through(answer, path, sent)
    place = peer.url.partition("//")[2].encode()
    assert peer.requests == [
        b"GET / HTTP/1.1\r\nHost: "
        + place
        + b"\r\nConnection: Keep-Alive\r\nX-Yours: 2\r\nContent-Length: 1\r\n\r\n!"
    ]
    assert got == b"HTTP/1.1 200 OK\r\nConnection: close\r\nX-Yours: 2\r\nContent-Length: 0\r\n\r\n"
    assert reply_of(path).headers.get("keep-alive") == "timeout=5", "the recording has what the upstream said"


def test_nothing_tells_the_upstream_of_a_proxy(path: Path) -> None:
    _, peer = through(OK, path)
    (request,) = peer.requests
    assert request == GET.replace(b"Host: h", b"Host: " + peer.url.partition("//")[2].encode())


@pytest.mark.parametrize(
    ("chunks", "sent"),
    [(b"0\r\n\r\n", b"0\r\n\r\n"), (b"2;x\r\nab\r\n1\r\nc\r\n0\r\nA: b\r\n\r\n", b"3\r\nabc\r\n0\r\n\r\n")],
)
def test_a_chunked_request_stays_chunked(path: Path, chunks: bytes, sent: bytes) -> None:
    class Reading(Peer):
        @staticmethod
        def _read(connection: socket.socket) -> bytes:
            return receive(connection, b"0\r\n\r\n")

    peer = Reading(lambda connection: connection.sendall(OK), False)
    try:
        with RecordingProxy(peer.url, path) as proxy:
            ask(proxy, b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked\r\n\r\n" + chunks)
    finally:
        peer.stop()
    head, _, body = peer.requests[0].partition(b"\r\n\r\n")
    assert head.endswith(b"\r\nTransfer-Encoding: Chunked")
    assert body == sent
    assert Recording.load(path)[0].request.body == (b"abc" if sent[0:1] == b"3" else b"")


def test_a_client_that_waits_to_be_told_so_is_told_to_continue(path: Path) -> None:
    with serving(OK) as peer, RecordingProxy(peer.url, path) as proxy, connect(proxy) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        assert receive(sock, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"abc")
        assert until_end(sock).endswith(b"\r\n\r\nok")
    assert peer.requests[0].endswith(b"\r\n\r\nabc")


def test_interim_answers_of_the_upstream_are_not_the_answer(path: Path) -> None:
    got, _ = through(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n" + OK, path)
    assert got == OK
    assert (reply_of(path).status, pieces(path)) == (200, [b"ok"])


@pytest.mark.parametrize(
    ("prefix", "target", "asked", "url"),
    [
        ("", "/", "/", "/"),
        ("/", "/x", "/x", "/x"),
        ("/v1", "/chat?a=b", "/v1/chat?a=b", "/v1/chat?a=b"),
        ("/v1/", "/", "/v1/", "/v1/"),
        ("/v1", "http://elsewhere/chat", "/v1/chat", "/v1/chat"),
        ("/v1", "http://elsewhere?q=/", "/v1/?q=/", "/v1/?q=/"),
    ],
)
def test_the_path_of_the_upstream_stands_before_that_of_the_request(
    path: Path, prefix: str, target: str, asked: str, url: str
) -> None:
    with serving(OK) as peer:
        with RecordingProxy(peer.url + prefix, path) as proxy:
            ask(proxy, f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        assert peer.requests[0].split(b"\r\n")[0] == f"GET {asked} HTTP/1.1".encode()
    assert Recording.load(path)[0].request.url == peer.url + url


def test_a_question_about_the_server_itself_stays_one(path: Path) -> None:
    _, peer = through(OK, path, b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n")
    assert peer.requests[0].startswith(b"OPTIONS * HTTP/1.1\r\n")
    assert Recording.load(path)[0].request.url == peer.url


def test_a_client_of_http_1_0_gets_what_it_can_read(path: Path) -> None:
    sent = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    got, peer = through(HEAD + framed(b"ab", b"c") + END, path, sent)
    assert got == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc"
    place = peer.url.partition("//")[2].encode()
    assert peer.requests == [b"GET / HTTP/1.1\r\nHost: " + place + b"\r\nConnection: keep-alive\r\n\r\n"]
    assert pieces(path) == [b"ab", b"c"]
    got, _ = through(OK, path, b"GET / HTTP/1.0\r\n\r\n")
    assert got == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


def test_an_answer_to_head_has_no_body(path: Path) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Encoding: gzip\r\n\r\n"
    with serving(answer, keep_alive=True) as peer, RecordingProxy(peer.url, path) as proxy:
        with connect(proxy) as sock:
            for _ in range(2):
                sock.sendall(GET.replace(b"GET", b"HEAD"))
                assert receive(sock, b"\r\n\r\n") == answer
        assert peer.connections == 1
    assert reply_of(path).headers.get("content-encoding") == "gzip", "no coding was undone"
    assert reply_of(path).ending.kind == "complete"


REFUSED = {
    "garbage": (b"hello\r\n", 400),
    "two lengths": (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
    "a length and chunks": (
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
    ),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "a tunnel": (b"CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n", 501),
    "a head without end": (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 11_000, 431),
    "a body without end": (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 67108865\r\n\r\n", 413),
}


@pytest.mark.parametrize(("sent", "status"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_request_never_reaches_the_upstream_and_is_told_why(
    path: Path, sent: bytes, status: int
) -> None:
    refused = []

    class Watched(RecordingProxy):
        def refused(self, status: int, why: str) -> None:
            refused.append((status, why))

    with serving(OK) as peer, Watched(peer.url, path) as proxy:
        answer = ask(proxy, sent)
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert b"x-aivvm-testing: refused\r\n" in answer
        ((told, why),) = refused
        assert told == status
        assert f"\r\n\r\n{why}. This is the answer of a recording proxy".encode() in answer
        assert peer.connections == 0
    assert len(Recording.load(path)) == 0


@pytest.mark.parametrize("sent", [b"", GET, GET[:10]], ids=["nothing", "a request", "a part of one"])
def test_a_client_that_says_nothing_gives_its_place_to_others(
    path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(proxy_module, "_MOST_CONNECTIONS", 1)
    monkeypatch.setattr(proxy_module, "_IDLE", 0.05)
    with (
        serving(OK, keep_alive=True) as peer,
        RecordingProxy(peer.url, path) as proxy,
        connect(proxy) as silent,
        connect(proxy) as other,
    ):
        silent.sendall(sent)
        other.sendall(GET)
        got = until_end(silent)
        silent.close()
        assert receive(other, b"ok") == OK
    assert got.startswith({b"": b"", GET: OK}.get(sent, b"HTTP/1.1 408 Request Timeout\r\n"))


# Connections


def test_both_connections_live_as_long(path: Path) -> None:
    with serving(OK, keep_alive=True) as peer, RecordingProxy(peer.url, path) as proxy:
        for client in range(2):
            with connect(proxy) as sock:
                for _ in range(3):
                    sock.sendall(GET)
                    assert receive(sock, b"ok") == OK
                sock.shutdown(socket.SHUT_RDWR)
            assert peer.hung_up.wait(PATIENCE)
            peer.hung_up.clear()
            assert peer.connections == client + 1
    assert len(Recording.load(path)) == 6


def test_requests_that_are_sent_at_once_are_answered_in_order(path: Path) -> None:
    def script(connection: socket.socket) -> None:
        connection.sendall(HEAD + framed(b"n%d" % len(peer.requests)) + END)

    with (
        serving(script, keep_alive=True) as peer,
        RecordingProxy(peer.url, path) as proxy,
        connect(proxy) as sock,
    ):
        sock.sendall(GET * 20)
        got = b"".join([receive(sock, END) for _ in range(20)])
    expected = [b"n%d" % n for n in range(1, 21)]
    assert re.findall(rb"n\d+", got) == expected
    assert [exchange.reply.body for exchange in Recording.load(path)] == expected


def test_an_upstream_that_hangs_up_between_requests_is_seen_to_hang_up(path: Path) -> None:
    over = threading.Event()

    def script(connection: socket.socket) -> None:
        connection.sendall(OK)
        assert over.wait(PATIENCE)

    with serving(script) as peer, RecordingProxy(peer.url, path) as proxy, connect(proxy) as sock:
        sock.sendall(GET)
        assert receive(sock, b"ok") == OK
        over.set()
        assert sock.recv(1) == b""


def test_a_request_that_was_begun_when_the_upstream_hung_up_gets_a_new_connection(path: Path) -> None:
    over = threading.Event()

    def script(connection: socket.socket) -> None:
        connection.sendall(OK)
        if len(peer.requests) == 1:
            assert over.wait(PATIENCE)

    with serving(script) as peer, RecordingProxy(peer.url, path) as proxy, connect(proxy) as sock:
        sock.sendall(GET)
        assert receive(sock, b"ok") == OK
        sock.sendall(GET[:10])
        with closing(socket.create_connection(("127.0.0.1", peer.port))) as probe:
            over.set()
            probe.sendall(GET)  # answered once the connection of the proxy is closed
            assert receive(probe, b"ok") == OK
        sock.sendall(GET[10:])
        assert until_end(sock).endswith(b"ok")
    assert [exchange.reply.ending.kind for exchange in Recording.load(path)] == ["complete"] * 2


@pytest.mark.parametrize("sent", [GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")])
def test_a_client_that_says_close_is_closed_upstream_too(path: Path, sent: bytes) -> None:
    with serving(OK, keep_alive=True) as peer, RecordingProxy(peer.url, path) as proxy:
        assert ask(proxy, sent) == OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        assert peer.hung_up.wait(PATIENCE)
        assert b"\r\nConnection: close\r\n\r\n" in peer.requests[0]


def test_bytes_that_belong_to_no_answer_end_the_connection(path: Path) -> None:
    with serving(OK + b"junk", keep_alive=True) as peer, RecordingProxy(peer.url, path) as proxy:
        said = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        assert ask(proxy) == said + b"junk"
    assert (reply_of(path).ending.kind, reply_of(path).ending.data) == ("complete", b"junk")


def test_a_client_that_leaves_is_missed_by_the_upstream(path: Path) -> None:
    sent, left = threading.Event(), threading.Event()

    def script(connection: socket.socket) -> None:
        connection.sendall(HEAD + framed(b"ab"))
        sent.set()
        while connection.recv(65536):
            pass
        left.set()

    with serving(script) as peer, RecordingProxy(peer.url, path) as proxy:
        with connect(proxy) as sock:
            sock.sendall(GET)
            assert receive(sock, b"ab\r\n").startswith(HEAD)
        assert left.wait(PATIENCE)
    assert (pieces(path), reply_of(path).ending.kind) == ([b"ab"], "closed")


@pytest.mark.parametrize("hard", [False, True], ids=["FIN", "RST"])
def test_a_client_that_leaves_before_the_answer_is_missed_too(path: Path, hard: bool) -> None:
    left = threading.Event()

    def script(connection: socket.socket) -> None:
        asked.set()
        while connection.recv(65536):
            pass
        left.set()

    asked = threading.Event()
    with serving(script) as peer, RecordingProxy(peer.url, path) as proxy:
        with connect(proxy) as sock:
            sock.sendall(GET)
            assert asked.wait(PATIENCE)
            if hard:
                reset(sock)
        assert left.wait(PATIENCE)
    assert (reply_of(path).head, reply_of(path).ending.kind) == (None, "closed")


def test_a_client_that_leaves_while_much_is_sent_is_missed_too(path: Path) -> None:
    left = threading.Event()

    def script(connection: socket.socket) -> None:
        connection.sendall(HEAD)
        try:
            while True:
                connection.sendall(framed(b"x" * 60_000))
        except ConnectionError:
            left.set()

    with serving(script) as peer, RecordingProxy(peer.url, path) as proxy:
        with connect(proxy) as sock:
            sock.sendall(GET)
            receive(sock, b"xxxx")
        assert left.wait(PATIENCE)
    assert reply_of(path).ending.kind == "closed"


def test_a_long_request_and_a_long_answer_travel_at_once(path: Path) -> None:
    size = 5_000_000

    class Echoing(Peer):
        @staticmethod
        def _read(connection: socket.socket) -> bytes:
            return receive(connection, b"\r\n\r\n")

    def script(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        left = size
        while left:
            data = connection.recv(65536)
            connection.sendall(data)
            left -= len(data)

    peer = Echoing(script, False)
    body = os.urandom(1000) * (size // 1000)
    try:
        with RecordingProxy(peer.url, path) as proxy, connect(proxy) as sock:
            sock.sendall(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size + body)
            got = b""
            while piece := sock.recv(1 << 20):
                got += piece
    finally:
        peer.stop()
    assert got.endswith(body)
    assert Recording.load(path)[0].request.body == body


def test_an_upstream_that_answers_before_it_has_the_whole_request_is_heard(path: Path) -> None:
    class Hasty(Peer):
        @staticmethod
        def _read(connection: socket.socket) -> bytes:
            return receive(connection, b"\r\n\r\n")

    answer = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno"

    def script(connection: socket.socket) -> None:
        connection.sendall(answer)
        assert answered.wait(PATIENCE)

    answered = threading.Event()
    peer = Hasty(script, False)
    try:
        with RecordingProxy(peer.url, path) as proxy, connect(proxy) as sock:
            sock.sendall(
                b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 20000000\r\n\r\n" + b"x" * 20_000_000
            )
            assert until_end(sock) == answer
            answered.set()
    finally:
        answered.set()
        peer.stop()
    assert reply_of(path).status == 413


def test_a_client_that_reads_slowly_slows_down_the_upstream_and_loses_nothing(path: Path) -> None:
    size = 0
    full = threading.Event()

    def script(connection: socket.socket) -> None:
        nonlocal size
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        piece = b"x" * 10_000
        while select.select([], [connection], [], 0.1)[1]:
            size += connection.send(piece)
        full.set()
        connection.sendall(piece)
        size += len(piece)

    with serving(script) as peer, RecordingProxy(peer.url, path) as proxy, connect(proxy) as sock:
        sock.sendall(GET)
        assert full.wait(PATIENCE)
        got = b"".join(iter(lambda: sock.recv(1 << 20), b""))
    assert len(got.partition(b"\r\n\r\n")[2]) == size
    assert len(reply_of(path).body) == size


def test_a_request_that_comes_while_another_is_answered_has_its_turn(path: Path) -> None:
    first, second = threading.Event(), threading.Event()

    def script(connection: socket.socket) -> None:
        if len(peer.requests) == 1:
            first.set()
            assert second.wait(PATIENCE)
        connection.sendall(OK)

    with (
        serving(script, keep_alive=True) as peer,
        RecordingProxy(peer.url, path) as proxy,
        connect(proxy) as sock,
    ):
        sock.sendall(GET)
        assert first.wait(PATIENCE)
        sock.sendall(GET[:10])
        with connect(proxy) as probe:  # a refusal comes once the proxy has had time to hear the others
            probe.sendall(b"garbage\r\n")
            until_end(probe)
        sock.sendall(GET[10:])
        second.set()
        assert receive(sock, b"ok") + receive(sock, b"ok") == OK + OK


@pytest.mark.parametrize("leaves", ["not", "soon", "with RST"])
def test_a_client_that_is_told_to_go_is_not_waited_for_long(
    path: Path, monkeypatch: pytest.MonkeyPatch, leaves: str
) -> None:
    monkeypatch.setattr(proxy_module, "_LINGER", 0.1 if leaves == "not" else PATIENCE)
    with RecordingProxy("http://127.0.0.1:1", path) as proxy, connect(proxy) as sock:
        sock.sendall(b"garbage\r\n")
        assert until_end(sock).startswith(b"HTTP/1.1 400")
        sock.sendall(b"more")
        if leaves == "with RST":
            reset(sock)
        if leaves != "not":
            sock.close()
        until_idle(proxy)


def test_an_upstream_that_resets_an_idle_connection_closes_that_of_the_client(path: Path) -> None:
    seen = threading.Event()

    def script(connection: socket.socket) -> None:
        connection.sendall(OK)
        assert seen.wait(PATIENCE)
        reset(connection)

    with serving(script) as peer, RecordingProxy(peer.url, path) as proxy, connect(proxy) as sock:
        sock.sendall(GET)
        assert receive(sock, b"ok") == OK
        seen.set()
        assert sock.recv(1) == b""


def test_a_kept_connection_that_is_closed_when_the_next_request_is_there_is_replaced(path: Path) -> None:
    closed = threading.Event()

    class Waiting(RecordingProxy):
        def passed(self, *_: object) -> None:
            assert closed.wait(PATIENCE)

    def script(connection: socket.socket) -> None:
        connection.sendall(OK)
        connection.shutdown(socket.SHUT_RDWR)
        closed.set()

    with serving(script) as peer, Waiting(peer.url, path) as proxy, connect(proxy) as sock:
        sock.sendall(GET + GET)
        assert receive(sock, b"ok") + receive(sock, b"ok") == OK + OK
    assert [exchange.reply.ending.kind for exchange in Recording.load(path)] == ["complete"] * 2


class Faulty(socket.socket):
    """A socket whose reads fail as the network may make them fail, each of `troubles` once, with one peer."""

    port = 0
    troubles: ClassVar[list[OSError]] = []
    exhausted: ClassVar[list[OSError]] = []
    broken: ClassVar[list[OSError]] = []

    def accept(self) -> tuple[socket.socket, Any]:
        if self.exhausted:
            raise self.exhausted.pop(0)
        return super().accept()

    def send(self, *rest: Any) -> int:
        if self.broken and self.getpeername()[1] == self.port:
            raise self.broken.pop(0)
        return super().send(*rest)

    def recv(self, *rest: Any) -> bytes:
        if self.troubles and self.getpeername()[1] == self.port:
            raise self.troubles.pop(0)
        return super().recv(*rest)


def test_a_read_that_finds_nothing_after_all_is_tried_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(OK) as peer, RecordingProxy(peer.url, path) as proxy, socket.socket() as sock:
        sock.settimeout(PATIENCE)
        sock.bind(("127.0.0.1", 0))
        monkeypatch.setattr(Faulty, "port", sock.getsockname()[1])
        monkeypatch.setattr(Faulty, "troubles", [BlockingIOError()])
        monkeypatch.setattr(socket, "socket", Faulty)
        sock.connect(("127.0.0.1", proxy.port))
        sock.sendall(GET)
        assert until_end(sock) == OK
    assert Faulty.troubles == []


def test_an_idle_connection_is_read_again_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in TLS, where what came may be for TLS alone."""
    over = threading.Event()

    def script(connection: socket.socket) -> None:
        connection.sendall(OK)
        assert over.wait(PATIENCE)

    with serving(script) as peer:
        monkeypatch.setattr(Faulty, "port", peer.port)
        monkeypatch.setattr(Faulty, "troubles", [])
        monkeypatch.setattr(socket, "socket", Faulty)
        with RecordingProxy(peer.url, path) as proxy, connect(proxy) as sock:
            sock.sendall(GET)
            assert receive(sock, b"ok") == OK
            Faulty.troubles.append(BlockingIOError())
            over.set()
            assert sock.recv(1) == b""
    assert Faulty.troubles == []


def test_a_client_that_could_not_be_accepted_is_accepted_later(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(OK) as peer:
        trouble = OSError(errno.EMFILE, "Too many open files")
        monkeypatch.setattr(Faulty, "exhausted", [trouble])
        monkeypatch.setattr(socket, "socket", Faulty)
        with RecordingProxy(peer.url, path) as proxy:
            assert ask(proxy) == OK
    assert Faulty.exhausted == []


@pytest.mark.parametrize(
    ("trouble", "kind"), [(BrokenPipeError(), "cut"), (ConnectionResetError(), "reset")], ids=["FIN", "RST"]
)
def test_an_upstream_that_takes_no_request_is_told_by_how_it_hung_up(
    path: Path, monkeypatch: pytest.MonkeyPatch, trouble: OSError, kind: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        monkeypatch.setattr(Faulty, "port", port)
        monkeypatch.setattr(Faulty, "broken", [trouble])
        monkeypatch.setattr(socket, "socket", Faulty)
        with RecordingProxy(f"http://127.0.0.1:{port}", path) as proxy, connect(proxy) as sock:
            sock.sendall(GET)
            listener.accept()[0].close()
            with suppress(ConnectionResetError):
                assert sock.recv(1) == b""
    assert (reply_of(path).head, reply_of(path).ending.kind) == (None, kind)


def test_a_connection_that_the_network_breaks_is_cut(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(HEAD) as peer:
        monkeypatch.setattr(Faulty, "port", peer.port)
        trouble = OSError(errno.EHOSTUNREACH, "No route to host")
        monkeypatch.setattr(Faulty, "troubles", [trouble])
        monkeypatch.setattr(socket, "socket", Faulty)
        with RecordingProxy(peer.url, path) as proxy:
            assert ask(proxy) == b""
    ending = reply_of(path).ending
    assert ending.kind == "cut"
    assert ending.error == f"the connection to 127.0.0.1:{peer.port} broke: No route to host"


def test_an_upstream_that_hangs_up_on_a_long_request_is_a_reset(path: Path) -> None:
    class Rude(Peer):
        @staticmethod
        def _read(connection: socket.socket) -> bytes:
            return receive(connection, b"\r\n\r\n")

    peer = Rude(reset, False)
    try:
        with RecordingProxy(peer.url, path) as proxy, pytest.raises(ConnectionResetError):
            ask(proxy, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5000000\r\n\r\n" + b"x" * 5_000_000)
    finally:
        peer.stop()
    assert (reply_of(path).head, reply_of(path).ending.kind) == (None, "reset")


# Failures of the upstream


def unused_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def assert_explained(got: bytes, why: str) -> None:
    head, _, body = got.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert b"\r\nx-aivvm-testing: upstream" in head
    assert b"\r\ncontent-length: %d" % len(body) in head
    assert why in body.decode()
    assert "its upstream cannot be reached" in body.decode()


CLOSING = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


def assert_unreached(path: Path, kind: str, why: str) -> None:
    recorded = reply_of(path)
    assert (recorded.head, recorded.ending.kind) == (None, kind)
    assert why in (recorded.ending.error or "")


def test_an_upstream_that_refuses_is_recorded_as_that_and_explained(path: Path) -> None:
    port = unused_port()
    why = f"cannot connect to 127.0.0.1:{port}: connection refused"
    with RecordingProxy(f"http://127.0.0.1:{port}", path) as proxy:
        got = ask(proxy, CLOSING)
        assert b"\r\nconnection: close\r\n" in got
        assert_explained(got, why)
        with connect(proxy) as sock:  # which goes on, if the client wants
            for _ in range(2):
                sock.sendall(GET.replace(b"GET", b"HEAD"))
                assert b"502" in receive(sock, b"\r\n\r\n")
    assert_unreached(path, "refused", why)
    assert len(Recording.load(path)) == 3


def resolving(monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], Any]) -> None:
    """Lets upstream.example, and names in it, be this machine, after a change to what the resolver says of it."""
    real = socket.getaddrinfo

    def resolve(host: str, *rest: Any, **more: Any) -> Any:
        if host.endswith("upstream.example"):
            return change(real("127.0.0.1", *rest, **more))
        return real(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def test_a_name_that_does_not_resolve(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    resolving(monkeypatch, unknown)
    why = "cannot connect to upstream.example:81: the name does not resolve (Name or service not known)"
    with RecordingProxy("http://upstream.example:81", path) as proxy:
        assert_explained(ask(proxy, CLOSING), why)
    assert_unreached(path, "unresolved", why)


def test_each_address_of_a_name_is_tried(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing = unused_port()

    def more(found: Any) -> Any:
        return [(*found[0][:4], ("127.0.0.1", refusing)), (99, *found[0][1:]), *found]

    resolving(monkeypatch, more)
    with serving(OK) as peer:
        with RecordingProxy(f"http://upstream.example:{peer.port}", path) as proxy:
            assert ask(proxy) == OK
        assert peer.requests[0].endswith(f"Host: upstream.example:{peer.port}\r\n\r\n".encode())
    assert reply_of(path).ending.kind == "complete"


def test_an_address_without_a_route_is_unreachable(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, lambda found: [(*found[0][:4], ("255.255.255.255", 80))])
    with RecordingProxy("http://upstream.example", path) as proxy:
        assert_explained(ask(proxy, CLOSING), "cannot connect to upstream.example: ")
    assert_unreached(path, "unreachable", "cannot connect to upstream.example: ")


def test_a_connection_that_takes_too_long(path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        waiting = [socket.socket() for _ in range(8)]
        try:
            for one in waiting:
                one.setblocking(False)
                with suppress(BlockingIOError):
                    one.connect(("127.0.0.1", port))
            why = f"cannot connect to 127.0.0.1:{port}: no connection within 0.05 s"
            with RecordingProxy(f"http://127.0.0.1:{port}", path, timeout=(0.05, PATIENCE)) as proxy:
                assert_explained(ask(proxy, CLOSING), why)
        finally:
            for one in waiting:
                one.close()
    assert_unreached(path, "unreachable", why)


NO_ANSWER = {
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 OK\r\nA: b\r\n",
    "garbage": b"SSH-2.0-OpenSSH_9.6\r\n",
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n\x81\x05hello",
}


@pytest.mark.parametrize("answer", NO_ANSWER.values(), ids=NO_ANSWER)
def test_what_is_no_answer_is_cut_with_the_same_bytes(path: Path, answer: bytes) -> None:
    got, peer = through(answer, path)
    assert got == answer
    recorded = reply_of(path)
    assert (recorded.head, recorded.ending.kind, recorded.ending.data) == (None, "cut", answer)
    place = peer.url.partition("//")[2]
    said = "closed the connection before it answered", "sent something that is not an HTTP answer"
    assert recorded.ending.error in [f"{place} {why}" for why in said]


CUT = {
    "between chunks": (HEAD + framed(b"ab"), [b"ab"], b""),
    "within a chunk": (HEAD + framed(b"ab") + b"5\r\nxy", [b"ab"], b"5\r\nxy"),
    "malformed": (HEAD + framed(b"ab") + b"zz\r\nxy", [b"ab"], b"zz\r\nxy"),
    "after the head": (HEAD, [], b""),
    "short of its length": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", [b"ab"], b""),
}


@pytest.mark.parametrize(("answer", "chunks", "data"), CUT.values(), ids=CUT)
def test_an_answer_that_breaks_off_breaks_off_there(
    path: Path, answer: bytes, chunks: list[bytes], data: bytes
) -> None:
    got, _ = through(answer, path)
    assert got.replace(b"Connection: close\r\n", b"") == answer  # said where it is known in time
    recorded = reply_of(path)
    assert (pieces(path), recorded.ending.kind, recorded.ending.data) == (chunks, "cut", data)


def test_a_reset_is_a_reset_before_the_head_and_after_all_that_came(path: Path) -> None:
    seen = threading.Event()

    def before(connection: socket.socket) -> None:
        reset(connection)

    def within_the_head(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200")
        assert seen.wait(PATIENCE)
        reset(connection)

    def after(connection: socket.socket) -> None:
        connection.sendall(HEAD + framed(b"ab") + b"5\r\nxy")
        assert seen.wait(PATIENCE)
        reset(connection)

    with serving(before) as peer, RecordingProxy(peer.url, path) as proxy:
        with pytest.raises(ConnectionResetError) as caught:
            ask(proxy)
        assert caught.value.data == b""  # type: ignore[attr-defined]  # until_end put it there
    assert (reply_of(path).head, reply_of(path).ending.kind) == (None, "reset")

    with serving(after) as peer, RecordingProxy(peer.url, path) as proxy, connect(proxy) as sock:
        sock.sendall(GET)
        assert receive(sock, b"xy") == HEAD + framed(b"ab") + b"5\r\nxy"
        seen.set()
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    recorded = reply_of(path)
    assert (pieces(path), recorded.ending.kind, recorded.ending.data) == ([b"ab"], "reset", b"5\r\nxy")


@pytest.mark.skipif(not LINUX, reason="elsewhere a reset may overtake what came before it")
def test_a_reset_comes_after_what_a_slow_client_has_not_read_yet(path: Path) -> None:
    body = b"x" * 150_000
    done = threading.Event()

    def script(connection: socket.socket) -> None:
        connection.sendall(HEAD + framed(body))
        assert done.wait(PATIENCE)
        reset(connection)

    with serving(script) as peer, RecordingProxy(peer.url, path) as proxy, socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(PATIENCE)
        sock.connect(("127.0.0.1", proxy.port))
        sock.sendall(GET)
        got = receive(sock, b"xxxx")
        deadline = time.monotonic() + PATIENCE
        for written in (b'"text": "x', b'"end": "reset"'):  # all of the chunk has come; and then the reset
            while written not in Path(f"{path}.journal").read_bytes():
                assert time.monotonic() < deadline
            done.set()
        with pytest.raises(ConnectionResetError) as caught:
            until_end(sock)
        got += caught.value.data  # type: ignore[attr-defined]  # until_end put it there
    assert got == HEAD + framed(body)
    assert pieces(path) == [body]


@pytest.mark.parametrize(
    "came", [b"", b"HTTP/1.1 200", HEAD + framed(b"ab")], ids=["nothing", "some", "a chunk"]
)
def test_a_silent_upstream_is_a_stall_and_the_client_waits_as_long_as_it_likes(
    path: Path, came: bytes
) -> None:
    hung_up = threading.Event()

    def script(connection: socket.socket) -> None:
        connection.sendall(came)
        while connection.recv(65536):
            pass
        hung_up.set()

    with (
        serving(script) as peer,
        RecordingProxy(peer.url, path, timeout=(PATIENCE, 0.05)) as proxy,
        connect(proxy) as sock,
    ):
        sock.sendall(GET)
        assert hung_up.wait(PATIENCE)  # the proxy gave up
        got = receive(sock, came[-4:]) if came else b""
        sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            sock.recv(1)
    assert got == came
    recorded = reply_of(path)
    assert (recorded.ending.kind, recorded.ending.error) == (
        "stall",
        f"{peer.url[7:]} sent nothing for 0.05 s",
    )
    assert recorded.ending.data == (came if recorded.head is None else b"")
    assert recorded.ending.at >= 0.05


def test_failures_are_replayed_as_the_client_met_them(path: Path) -> None:
    fake = FakeAivvm()
    fake.reply(Reply.of("a", "b").cut(after=1)).reply(Reply.of("a").reset()).reply(Reply.no_answer("cut"))
    fake.reply(Reply.of("a").stall()).reply(Reply.error(500, reason="Rate limit reached"))

    def outcomes(url: str) -> list[object]:
        found: list[object] = []
        for _ in range(5):
            answer = Aivvm(url=url).create_completion(
                "gpt-4", [{"role": "user", "content": "x"}], timeout=0.25
            )
            texts = []
            try:
                for text in answer:
                    texts.append(text)
            except (TransportError, StatusError) as error:
                found.append((texts, type(error), getattr(error, "kind", None)))
        return found

    with fake.server() as server, RecordingProxy(server.url, path, timeout=(1, 0.1)) as proxy:
        live = outcomes(proxy.url)
    assert live == [
        (["a"], Interrupted, "cut"),
        (["a"], Interrupted, "reset"),
        ([], Interrupted, "cut"),
        (["a"], TimedOut, None),
        ([], StatusError, None),
    ]
    with FakeAivvm.replaying(path).server() as again:
        assert outcomes(again.url) == live


# TLS


@contextmanager
def serving_tls(script: Callable[[ssl.SSLSocket], None], certificate: Path = CERTIFICATE) -> Iterator[int]:
    """A port where one TLS connection is answered by the script; a handshake that fails is left alone."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)

        def serve() -> None:
            try:
                connection, _ = listener.accept()
            except OSError:  # closed: nobody came
                return
            connection.settimeout(PATIENCE)
            try:
                with context.wrap_socket(connection, server_side=True) as secured:
                    receive(secured, b"\r\n\r\n")
                    script(secured)
            except OSError:
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE)
            assert not thread.is_alive()


def test_an_https_upstream_is_spoken_to_in_tls(path: Path) -> None:
    body = os.urandom(200_000)
    names = []

    def script(connection: ssl.SSLSocket) -> None:
        names.append(connection.selected_alpn_protocol())
        connection.sendall(HEAD + framed(b"ab"))
        assert seen.wait(PATIENCE)
        connection.sendall(framed(body) + END)
        with suppress(OSError):
            connection.unwrap()

    seen = threading.Event()
    with (
        serving_tls(script) as port,
        RecordingProxy(f"https://localhost:{port}", path, verify=CERTIFICATE) as proxy,
        connect(proxy) as sock,
    ):
        sock.sendall(GET)
        assert receive(sock, b"ab\r\n") == HEAD + framed(b"ab")
        seen.set()
        assert until_end(sock) == framed(body) + END
    assert (pieces(path), reply_of(path).ending.kind) == ([b"ab", body], "complete")
    assert Recording.load(path)[0].request.url == f"https://localhost:{port}/api/chat"


def test_a_connection_in_tls_is_kept_and_a_long_request_gets_through(path: Path) -> None:
    size = 3_000_000

    def script(connection: ssl.SSLSocket) -> None:
        connection.sendall(OK)
        got = receive(connection, b"\r\n\r\n")
        left = size
        while left:
            left -= len(connection.recv(65536))
        assert b"POST" in got
        connection.sendall(OK)

    post = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size
    with (
        serving_tls(script) as port,
        RecordingProxy(f"https://127.0.0.1:{port}/", path, verify=str(CERTIFICATE)) as proxy,
        connect(proxy) as sock,
    ):
        for sent in (GET, post + b"x" * size):
            sock.sendall(sent)
            assert receive(sock, b"ok") == OK
    assert [exchange.reply.ending.kind for exchange in Recording.load(path)] == ["complete", "complete"]


def test_a_certificate_that_is_not_trusted_is_tls(path: Path) -> None:
    with serving_tls(lambda _: None) as port, RecordingProxy(f"https://127.0.0.1:{port}", path) as proxy:
        got = ask(proxy, CLOSING)
    assert_explained(got, f"cannot connect to 127.0.0.1:{port}: TLS failed (")
    assert_unreached(path, "tls", "certificate verify failed: self-signed certificate")


def test_a_certificate_for_another_name_is_tls(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, lambda found: found)
    with (
        serving_tls(lambda _: None) as port,
        RecordingProxy(f"https://upstream.example:{port}", path, verify=CERTIFICATE) as proxy,
    ):
        assert_explained(ask(proxy, CLOSING), "certificate is not valid for 'upstream.example'")
    assert_unreached(path, "tls", "TLS failed")


@pytest.mark.parametrize("trouble", ["plain text", "reset", "close"])
def test_a_handshake_that_fails_is_tls(path: Path, trouble: str) -> None:
    class Abrupt(Peer):
        def _read(self, connection: socket.socket) -> bytes:  # type: ignore[override]  # needs no request
            connection.recv(65536)
            if trouble == "plain text":
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            elif trouble == "reset":
                reset(connection)
            return b""

    peer = Abrupt(lambda _: None, False)
    try:
        with RecordingProxy(f"https://127.0.0.1:{peer.port}", path, verify=CERTIFICATE) as proxy:
            assert_explained(ask(proxy, CLOSING), f"cannot connect to 127.0.0.1:{peer.port}: TLS failed (")
    finally:
        peer.stop()
    assert_unreached(path, "tls", "TLS failed")


def test_a_handshake_that_does_not_end_is_unreachable(path: Path) -> None:
    over = threading.Event()

    class Silent(Peer):
        def _read(self, connection: socket.socket) -> bytes:  # type: ignore[override]  # needs no request
            assert over.wait(PATIENCE)
            return b""

    peer = Silent(lambda _: None, False)
    try:
        with RecordingProxy(
            f"https://127.0.0.1:{peer.port}", path, verify=CERTIFICATE, timeout=(0.05, PATIENCE)
        ) as proxy:
            assert_explained(ask(proxy, CLOSING), "no connection within 0.05 s")
    finally:
        over.set()
        peer.stop()
    assert_unreached(path, "unreachable", "no connection within 0.05 s")


@pytest.mark.parametrize("framed_body", [True, False], ids=["chunked", "to the close"])
def test_tls_that_just_stops_is_the_end_of_the_connection(path: Path, framed_body: bool) -> None:
    def script(connection: ssl.SSLSocket) -> None:
        connection.sendall(HEAD + framed(b"ab") if framed_body else b"HTTP/1.1 200 OK\r\n\r\nab")
        os.close(connection.detach())  # no farewell

    with (
        serving_tls(script) as port,
        RecordingProxy(f"https://127.0.0.1:{port}", path, verify=CERTIFICATE) as proxy,
    ):
        assert ask(proxy).endswith(b"ab\r\n" if framed_body else b"ab")
    assert (pieces(path), reply_of(path).ending.kind) == ([b"ab"], "cut" if framed_body else "complete")


@pytest.mark.parametrize("answered", [False, True])
def test_damaged_tls_is_tls_before_the_head_and_a_cut_after_it(path: Path, answered: bool) -> None:
    def script(connection: ssl.SSLSocket) -> None:
        if answered:
            connection.sendall(HEAD + framed(b"ab"))
            assert seen.wait(PATIENCE)
        bare = socket.socket(fileno=connection.detach())
        bare.sendall(b"this is no record of TLS, though it is long enough for one")
        bare.close()

    seen = threading.Event()
    with (
        serving_tls(script) as port,
        RecordingProxy(f"https://127.0.0.1:{port}", path, verify=CERTIFICATE) as proxy,
        connect(proxy) as sock,
    ):
        sock.sendall(CLOSING)
        if answered:
            receive(sock, b"ab\r\n")
            seen.set()
            assert until_end(sock) == b""
        else:
            assert_explained(until_end(sock), f"TLS with 127.0.0.1:{port} failed")
    if answered:
        assert (pieces(path), reply_of(path).ending.kind) == ([b"ab"], "cut")
    else:
        assert_unreached(path, "tls", f"TLS with 127.0.0.1:{port} failed")


# Tee


def test_a_chunk_is_in_the_journal_when_the_client_has_it(path: Path) -> None:
    go = threading.Semaphore(0)

    def script(connection: socket.socket) -> None:
        connection.sendall(HEAD)
        for n in range(3):
            assert go.acquire(timeout=PATIENCE)
            connection.sendall(framed(b"c%d" % n))
        connection.sendall(END)

    with serving(script) as peer, RecordingProxy(peer.url, path) as proxy, connect(proxy) as sock:
        sock.sendall(GET)
        receive(sock, b"\r\n\r\n")
        for n in range(3):
            go.release()
            receive(sock, b"c%d\r\n" % n)
            last = Path(f"{path}.journal").read_bytes().splitlines()[3 + n]
            assert json.loads(last)["text"] == f"c{n}"
        receive(sock, END)


def test_a_part_of_a_chunk_does_not_wait_for_the_rest_of_it(path: Path) -> None:
    go = threading.Event()

    def script(connection: socket.socket) -> None:
        connection.sendall(HEAD + b"4\r\na")
        assert go.wait(PATIENCE)
        connection.sendall(b"bcd\r\n" + END)

    with serving(script) as peer, RecordingProxy(peer.url, path) as proxy, connect(proxy) as sock:
        sock.sendall(GET)
        assert receive(sock, b"\na") == HEAD + b"4\r\na"
        go.set()
        receive(sock, END)
    assert pieces(path) == [b"abcd"]


def test_moments_are_those_of_the_upstream(path: Path) -> None:
    fake = FakeAivvm(clock=SystemClock())
    fake.reply(Reply.of(wait(0.03), "a", wait(0.05), "b", wait(0.04)))
    with fake.server() as server, RecordingProxy(server.url, path) as proxy:
        assert raw(proxy.url)[0] == [b"a", b"b"]
    recorded = reply_of(path)
    assert recorded.head is not None
    moments = [recorded.head.at, *[chunk.at for chunk in recorded.chunks], recorded.ending.at]
    for moment, expected in zip(moments, [0.03, 0.03, 0.08, 0.12], strict=True):
        assert expected <= moment < expected + 0.5
    assert moments == sorted(moments)


# Content-codings


def compressed(*texts: bytes, bits: int = 31) -> list[bytes]:
    packer = zlib.compressobj(wbits=bits)
    return [packer.compress(text) + packer.flush(zlib.Z_SYNC_FLUSH) for text in texts[:-1]] + [
        packer.compress(texts[-1]) + packer.flush()
    ]


def coded(coding: bytes, *chunks: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: " + coding + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + framed(*chunks)


@pytest.mark.parametrize(
    ("coding", "bits"), [(b"gzip", 31), (b"X-GZIP", 31), (b"deflate", 15), (b"deflate", -15)]
)
def test_a_coded_answer_passes_as_it_is_and_is_recorded_decoded_chunk_by_chunk(
    path: Path, coding: bytes, bits: int
) -> None:
    answer = coded(coding, *compressed(b"one", b"two", b"three", bits=bits)) + END
    got, _ = through(answer, path)
    assert got == answer
    recorded = reply_of(path)
    assert pieces(path) == [b"one", b"two", b"three"]
    assert recorded.head is not None
    assert recorded.head.headers == Headers([("Transfer-Encoding", "chunked")])
    assert recorded.head.decoded == Headers([("Content-Encoding", coding.decode())])
    with FakeAivvm.replaying(path, match_on=("path",)).server() as server:
        assert requests.get(f"{server.url}/api/chat", timeout=PATIENCE).content == b"onetwothree"


ENCODED = {
    "a coding that nobody knows": (coded(b"rot13", b"nop") + END, [b"nop"], "complete"),
    "a body that does not decode": (coded(b"gzip", b"not gzip") + END, [b"not gzip"], "complete"),
    "no body": (coded(b"gzip") + END, [], "complete"),
    "a body that did not come": (coded(b"gzip"), [], "cut"),
}


@pytest.mark.parametrize(("answer", "chunks", "kind"), ENCODED.values(), ids=ENCODED)
def test_what_is_not_decoded_is_recorded_as_it_came(
    path: Path, answer: bytes, chunks: list[bytes], kind: str
) -> None:
    got, _ = through(answer, path)
    assert got == answer
    recorded = reply_of(path)
    assert recorded.head is not None
    assert recorded.head.decoded == Headers()
    assert recorded.headers.get("content-encoding")
    assert (pieces(path), recorded.ending.kind) == (chunks, kind)


def test_a_coding_that_breaks_ends_the_recorded_answer_and_nothing_else(path: Path) -> None:
    first, *_ = compressed(b"one", b"two")
    answer = coded(b"gzip", first, b"\xff" * 20, b"more") + END
    got, _ = through(answer, path)
    assert got == answer
    recorded = reply_of(path)
    assert (pieces(path), recorded.ending.kind) == ([b"one"], "cut")
    assert "does not decode as its content-encoding says" in (recorded.ending.error or "")


def test_a_coded_chunk_that_gives_nothing_yet_is_no_chunk(path: Path) -> None:
    (whole,) = compressed(b"one")
    through(coded(b"gzip", whole[:10], whole[10:]) + END, path)
    recorded = reply_of(path)
    assert (pieces(path), recorded.ending.kind) == ([b"one"], "complete")


def test_an_end_that_a_coding_misses_is_a_cut(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def finish(self: object) -> None:
        raise ValueError("the end of its zstd is missing")

    monkeypatch.setattr(Decoding, "finish", finish)
    got, _ = through(coded(b"gzip", *compressed(b"one", b"two")) + END, path)
    assert got.endswith(END)
    recorded = reply_of(path)
    assert (pieces(path), recorded.ending.kind) == ([b"one", b"two"], "cut")
    assert "the end of its zstd is missing" in (recorded.ending.error or "")


def test_a_coded_answer_that_is_cut_within_a_chunk_is_decoded_as_far_as_it_came(path: Path) -> None:
    first, second = compressed(b"one", b"two")
    answer = coded(b"gzip", first) + framed(second)[:-3]
    got, _ = through(answer, path)
    assert got == answer
    recorded = reply_of(path)
    assert (pieces(path), recorded.ending.kind, recorded.ending.data) == ([b"one"], "cut", b"4\r\ntwo")


def test_a_coded_answer_that_is_malformed_has_its_raw_bytes(path: Path) -> None:
    first, second = compressed(b"one", b"two")
    for rest, data in ((b"zz\r\n" + second, b"zz\r\n" + second), (b"5\r\n\xff\xff", b""), (b"5", b"")):
        through(coded(b"gzip", first) + rest, path)
        recorded = reply_of(path)
        assert (pieces(path), recorded.ending.kind, recorded.ending.data) == ([b"one"], "cut", data)


# Secrets


def test_no_secret_reaches_the_file_or_the_journal_and_all_of_them_the_upstream(path: Path) -> None:
    secret = b"sk-Zq81xWvU7yTt0123"
    sent = (
        b"POST /a?api_key=%b HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer %b\r\nCookie: id=%b\r\nContent-Type: x\r\n"
        b"Content-Length: 30\r\n\r\n" + b'{"key": "%b"}' % secret
    ).replace(b"%b", secret)
    answer = (
        b"HTTP/1.1 500 bad %b\r\nSet-Cookie: id=%b\r\nTransfer-Encoding: chunked\r\n\r\n".replace(
            b"%b", secret
        )
        + framed(b"wrong key " + secret[:7], secret[7:], b"!")
        + END
    )
    with serving(answer) as peer, RecordingProxy(peer.url, path) as proxy:
        assert ask(proxy, sent) == answer
        journal = Path(f"{path}.journal").read_bytes()
    assert peer.requests[0].count(secret) == sent.count(secret) == 4
    for written in (path.read_bytes(), journal):
        assert b"REDACTED" in written
        assert secret not in written
        assert secret[7:] not in written
    assert [len(piece) for piece in pieces(path)] == [17, 12, 1]


def test_a_failure_that_repeats_a_secret_is_blanked_too(path: Path) -> None:
    sent = b"GET / HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer abcdefgh12\r\n\r\n"
    through(b"hello abcdefgh12\r\n", path, sent)
    assert reply_of(path).ending.data == b"hello REDACTEDRE\r\n"


# Many, and the end


def test_many_clients_at_once_are_all_recorded(path: Path) -> None:
    fake = FakeAivvm()
    barrier = threading.Barrier(16)
    failures: list[object] = []

    def work(k: int, url: str) -> None:
        barrier.wait()
        with RequestsTransport() as transport:
            for n in range(5):
                texts = list(
                    Aivvm(transport=transport, url=url).create_completion(
                        "gpt-4", [{"role": "user", "content": f"{k} is {n}"}]
                    )
                )
                if texts != [f"{k}", " is", f" {n}"]:
                    failures.append(texts)

    with fake.server() as server, RecordingProxy(server.url, path) as proxy:
        threads = [threading.Thread(target=work, args=(k, proxy.url)) for k in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []
    bodies = [exchange.reply.body for exchange in Recording.load(path)]
    assert sorted(bodies) == sorted(b"%d is %d" % (k, n) for k in range(16) for n in range(5))


def test_clients_beyond_the_bound_wait_for_their_turn(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_module, "_MOST_CONNECTIONS", 2)
    with serving(OK, keep_alive=False) as peer, RecordingProxy(peer.url, path) as proxy:
        first, second, third = connect(proxy), connect(proxy), connect(proxy)
        with first, second, third:
            for sock in (first, second, third):
                sock.sendall(GET)
            assert until_end(first) == OK
            first.close()
            assert until_end(second) == OK
            second.close()
            assert until_end(third) == OK
    assert len(Recording.load(path)) == 3


CROWDED = """
import resource, sys
from aivvm_testing.record.coding import Decoding
from aivvm_testing.record.proxy import RecordingProxy
with RecordingProxy(sys.argv[1], sys.argv[2]) as proxy:
    resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
    print(proxy.port, flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(not LINUX, reason="counts file descriptors as Linux does")
def test_out_of_file_descriptors_it_serves_on_when_some_are_free_again(path: Path) -> None:
    fake = FakeAivvm()
    fake.on(path="/api/chat").reply("a", forever=True)
    command = [sys.executable, "-c", CROWDED]
    with (
        fake.server() as server,
        subprocess.Popen(
            [*command, server.url, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as child,
    ):
        assert child.stdin is not None
        assert child.stdout is not None
        address = ("127.0.0.1", int(child.stdout.readline()))
        socks = [socket.create_connection(address, timeout=PATIENCE) for _ in range(30)]
        for sock in socks:
            sock.sendall(CLOSING)
        answers = []
        for sock in socks:  # those at the front leave, and let in those behind
            answers.append(until_end(sock))
            sock.close()
        child.stdin.close()
        assert child.wait(PATIENCE) == 0
    assert {answer[:12] for answer in answers} <= {b"HTTP/1.1 200", b"HTTP/1.1 502"}
    assert answers[-1].endswith(b"\r\n1\r\na\r\n0\r\n\r\n")
    assert len(Recording.load(path)) == 30


def test_out_of_threads_it_closes_and_serves_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def exhausted(thread: threading.Thread) -> None:
        if thread.name.endswith("-client"):
            monkeypatch.setattr(threading.Thread, "start", start)
            raise RuntimeError("can't start new thread")
        start(thread)

    with serving(OK) as peer, RecordingProxy(peer.url, path) as proxy:
        monkeypatch.setattr(threading.Thread, "start", exhausted)
        with connect(proxy) as sock:
            assert sock.recv(1) == b""
        assert ask(proxy) == OK


def test_what_is_to_be_redacted_can_be_added(path: Path) -> None:
    sent = b"GET / HTTP/1.1\r\nHost: h\r\nX-Mine: abcdefgh12\r\n\r\n"
    with serving(OK) as peer:
        with RecordingProxy(peer.url, path, redaction=Redaction(names=["x-mine"])) as proxy:
            ask(proxy, sent)
        assert b"abcdefgh12" in peer.requests[0]
    assert Recording.load(path)[0].request.headers.get("x-mine") == "REDACTEDRE"


def test_stopping_with_clients_that_wait_for_their_turn(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_module, "_MOST_CONNECTIONS", 1)
    with serving(OK, keep_alive=True) as peer:
        proxy = RecordingProxy(peer.url, path)
        proxy.start()
        with connect(proxy) as one, connect(proxy) as other:
            one.sendall(GET)
            assert receive(one, b"ok") == OK
            other.sendall(GET)
            proxy.stop()
            assert one.recv(1) == b""
            with suppress(ConnectionResetError):
                assert other.recv(1) == b""
    assert len(Recording.load(path)) == 1


@pytest.mark.parametrize("when", ["before the head", "in the answer", "stalled"])
def test_stopping_ends_streams_and_never_as_if_they_were_whole(path: Path, when: str) -> None:
    came = threading.Event()

    def script(connection: socket.socket) -> None:
        if when != "before the head":
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nab")
        came.set()
        with suppress(ConnectionError):
            while connection.recv(65536):
                pass
        gone.set()

    gone = threading.Event()
    timeout = (PATIENCE, 0.05) if when == "stalled" else PATIENCE
    with serving(script) as peer:
        proxy = RecordingProxy(peer.url, path, timeout=timeout)
        proxy.start()
        with connect(proxy) as sock:
            sock.sendall(GET)
            assert came.wait(PATIENCE)
            if when != "before the head":
                receive(sock, b"ab")
            if when == "stalled":
                assert gone.wait(PATIENCE)
            proxy.stop()
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        assert gone.wait(PATIENCE)
    assert reply_of(path).ending.kind == ("stall" if when == "stalled" else "closed")


def test_stopping_is_harmless_twice_and_starting_is_once(path: Path) -> None:
    proxy = RecordingProxy("http://127.0.0.1:1", path)
    proxy.stop()
    for ask_for in (lambda: proxy.url, lambda: proxy.port):
        with pytest.raises(RuntimeError, match="the proxy is not running: call start"):
            ask_for()
    proxy.start()
    with pytest.raises(RuntimeError, match="started once"):
        proxy.start()
    assert proxy.url == f"http://127.0.0.1:{proxy.port}"
    proxy.stop()
    proxy.stop()
    with pytest.raises(RuntimeError, match="makes one recording, and is started once: make a new one"):
        proxy.start()
    assert len(Recording.load(path)) == 0


def test_a_proxy_that_cannot_start_leaves_nothing(path: Path) -> None:
    with RecordingProxy("http://127.0.0.1:1", path, note="why") as proxy:
        with pytest.raises(OSError, match=f"no proxy at 127.0.0.1 port {proxy.port}: Address already in use"):
            RecordingProxy("http://127.0.0.1:1", f"{path}2", port=proxy.port).start()
        with pytest.raises(FileExistsError, match="another recorder"):
            RecordingProxy("http://127.0.0.1:1", path).start()
    assert os.listdir(path.parent) == [path.name]
    assert Recording.load(path).note == "why"


def test_a_full_disk_never_reaches_the_client_and_is_told_at_the_end(path: Path) -> None:
    Recording(note="earlier").save(path)

    class Full:
        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None:
            file.close()

    with serving(OK, keep_alive=True) as peer:
        proxy = RecordingProxy(peer.url, path)
        proxy.start()
        assert proxy._running is not None
        journal = proxy._running.tap._journal
        file = journal._file
        journal._file = Full()  # type: ignore[assignment]  # stands in for the file
        with connect(proxy) as sock:
            sock.sendall(GET)
            assert receive(sock, b"ok") == OK
        for _ in range(2):
            with pytest.raises(OSError, match="No space left on device"):
                proxy.stop()
    assert Recording.load(path).note == "earlier"


def test_whoever_wants_to_show_what_passes_can(path: Path) -> None:
    seen = []

    class Showing(RecordingProxy):
        def passed(self, request: Request, status: int | None, ending: EndingKind, chunks: int) -> None:
            seen.append((request.method, request.url, status, ending, chunks))

    def script(connection: socket.socket) -> None:
        connection.sendall(OK if len(peer.requests) == 1 else b"")

    with serving(script) as peer, Showing(peer.url, path) as proxy:
        ask(proxy)
        ask(proxy, b"PUT /x HTTP/1.1\r\nHost: h\r\n\r\n")
    assert seen == [
        ("GET", f"{peer.url}/api/chat", 200, "complete", 1),
        ("PUT", f"{peer.url}/x", None, "cut", 0),
    ]


# What it is made of


UPSTREAMS = [
    "",
    "upstream.example",
    "ftp://upstream.example",
    "http://",
    "http:///path",
    "http://h:99999",
    "http://h:0",
    "http://h:x",
    "http://user:secret99@h",
    "http://h/?q=1",
    "http://h/#f",
    "http://h/a b",
    "http://b\xfccher.example",
    "https://.upstream.example",
    "https://" + "x" * 64,
    "http://h\r\nX: y",
    "http://[::1",
    None,
    b"http://h",
]


@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_an_upstream_is_the_url_of_a_server(path: Path, upstream: Any) -> None:
    with pytest.raises(ValueError, match="upstream is the http or https url of a server") as caught:
        RecordingProxy(upstream, path)
    assert "secret99" not in str(caught.value)
    assert "but got" in str(caught.value)


@pytest.mark.parametrize("timeout", [0, -1, (1, 0), float("inf"), float("nan")])
def test_a_timeout_is_positive(path: Path, timeout: Any) -> None:
    with pytest.raises(ValueError, match="a timeout is more than 0 seconds, or None, but got"):
        RecordingProxy("http://h", path, timeout=timeout)


def test_certificates_are_a_file_a_folder_or_the_systems(path: Path, tmp_path: Path) -> None:
    RecordingProxy("https://h", path)
    RecordingProxy("https://h", path, verify=tmp_path)
    with pytest.raises(
        ValueError, match="verify is True, or a file or folder of certificates to trust, but got False"
    ):
        RecordingProxy("https://h", path, verify=False)
    with pytest.raises(FileNotFoundError):
        RecordingProxy("https://h", path, verify="nowhere.pem")


def test_it_is_for_this_machine_alone_unless_told_otherwise(path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"a recording proxy is for this machine alone, but host='0\.0\.0\.0'"
    ):
        RecordingProxy("http://h", path, host="0.0.0.0")
    RecordingProxy("http://h", path, host="0.0.0.0", allow_remote=True)


def test_it_listens_where_it_is_told_to(path: Path) -> None:
    with serving(OK) as peer, RecordingProxy(peer.url, path, host="localhost") as proxy:
        assert proxy.url == f"http://localhost:{proxy.port}"
        assert raw(proxy.url)[0] == [b"ok"]


@pytest.mark.skipif(not socket.has_ipv6, reason="this Python has no IPv6")
def test_it_speaks_ipv6_on_both_sides(path: Path) -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with listener:
        upstream = f"http://[::1]:{listener.getsockname()[1]}"
        with RecordingProxy(upstream, path, host="::1") as proxy:
            assert proxy.url == f"http://[::1]:{proxy.port}"
            with socket.create_connection(("::1", proxy.port), timeout=PATIENCE) as sock:
                sock.sendall(GET)
                connection, _ = listener.accept()
                with connection:
                    assert upstream[7:].encode() in receive(connection, b"\r\n\r\n")
                    connection.sendall(OK)
                assert until_end(sock) == OK
