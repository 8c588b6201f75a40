"""`RequestsTransport` against real sockets on loopback: what leaves, what arrives and when, and how it breaks.

The peers here are threads with a plain socket, so that every byte on the wire is visible. Nothing sleeps: threads
wait for events, and timeouts are a few hundredths of a second.
"""

from __future__ import annotations

import errno
import gzip
import json
import socket
import ssl
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
import requests
import responses
import urllib3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from requests.adapters import BaseAdapter, HTTPAdapter

from aivvm import (
    Aivvm,
    ConnectFailed,
    Headers,
    Interrupted,
    InvalidOption,
    Request,
    RequestsTransport,
    TimedOut,
    TransportError,
    build_request,
)
from tests.peers import END, HEAD, PATIENCE, Peer, framed, serving


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.fixture
def transport() -> Iterator[RequestsTransport]:
    with RequestsTransport() as transport:
        yield transport


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def read(transport: RequestsTransport, url: str, timeout: object = PATIENCE) -> list[bytes]:
    with transport.send(Request("POST", url, Headers(), b"{}"), timeout=timeout) as response:
        return list(response)


# What leaves


def test_the_request_on_the_wire_is_that_of_the_known_client(transport: RequestsTransport) -> None:
    messages = [{"role": "user", "content": "Héllo, 世界 😀\n"}]
    with serving(HEAD + END) as peer:
        assert "".join(Aivvm(transport, url=peer.url).create_completion("gpt-4", messages)) == ""
    head, _, body = peer.requests[0].partition(b"\r\n\r\n")
    line, *fields = head.decode("ascii").split("\r\n")
    assert line == "POST /api/chat HTTP/1.1"
    assert body == (
        rb'{"model": {"id": "gpt-4", "name": "GPT-4"}, '
        rb'"messages": [{"role": "user", "content": "H\u00e9llo, \u4e16\u754c \ud83d\ude00\n"}], "key": "", '
        rb'"prompt": "You are ChatGPT, a large language model trained by OpenAI. Follow the user'
        rb"'"
        rb's instructions carefully. Respond using markdown.", "temperature": 0.7}'
    )
    sent = dict(field.split(": ", 1) for field in fields)
    assert len(sent) == len(fields)
    from_requests = {name: sent.pop(name) for name in ("Host", "Accept-Encoding", "Connection")}
    assert from_requests["Host"] == f"127.0.0.1:{peer.port}"
    assert sent == {
        "accept": "text/event-stream",
        "accept-language": "en-US,en;q=0.9",
        "content-type": "application/json",
        "content-length": str(len(body)),
        "sec-ch-ua": '"Chrome";v="117", "Not;A=Brand";v="8", "Chromium";v="117"',
        "sec-ch-ua-mobile": "?0",
        "sec-ch-ua-platform": '"Windows"',
        "sec-fetch-dest": "empty",
        "sec-fetch-mode": "cors",
        "sec-fetch-site": "same-origin",
        "sec-gpc": "1",
        "referrer": "https://chat.aivvm.com/",
        "user-agent": "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
        "Chrome/117.0.0.0 Safari/537.36",
    }


def test_header_names_keep_their_case_and_repeated_ones_are_joined(transport: RequestsTransport) -> None:
    fields = Headers([("x-lOWer", "1"), ("USER-agent", "me"), ("x-twice", "a"), ("x-twice", "b")])
    with (
        serving(HEAD + END) as peer,
        transport.send(Request("PUT", peer.url + "/p", fields, b"abc"), timeout=5),
    ):
        pass
    lines = peer.requests[0].split(b"\r\n")
    assert lines[0] == b"PUT /p HTTP/1.1"
    assert {b"x-lOWer: 1", b"USER-agent: me", b"x-twice: a, b", b"Content-Length: 3"} <= set(lines)


def test_the_callers_session_adds_what_it_is_set_up_with_and_stays_open() -> None:
    with requests.Session() as session, serving(HEAD + framed(b"x") + END, keep_alive=True) as peer:
        session.headers["x-mine"] = "yes"
        session.auth = ("user", "secret")
        with RequestsTransport(session) as transport:
            assert read(transport, peer.url) == [b"x"]
        assert read(RequestsTransport(session), peer.url) == [b"x"]
        assert peer.connections == 1
        assert not peer.hung_up.is_set()
        session.close()
    assert all(b"x-mine: yes\r\n" in request for request in peer.requests)
    assert all(b"Authorization: Basic" in request for request in peer.requests)


def test_what_is_not_a_session_is_refused() -> None:
    with pytest.raises(InvalidOption, match=r"must be a requests\.Session"):
        RequestsTransport("http://127.0.0.1")  # type: ignore[arg-type]  # the mistake under test


@pytest.mark.parametrize("given", ["environment", "session"])
def test_loopback_is_reached_past_every_proxy(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = "http://127.0.0.1:9"
    with requests.Session() as session, serving(HEAD + framed(b"x") + END) as peer:
        if given == "environment":
            monkeypatch.setenv("HTTP_PROXY", dead)
            monkeypatch.setenv("ALL_PROXY", dead)
        else:
            session.proxies = {"http": dead, "all": dead}
        assert read(RequestsTransport(session), peer.url) == [b"x"]
        assert read(RequestsTransport(session), f"http://localhost:{peer.port}") == [b"x"]


@pytest.mark.parametrize("given", ["environment", "session"])
def test_other_hosts_are_reached_through_the_proxy(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with requests.Session() as session, serving(HEAD + framed(b"x") + END) as peer:
        if given == "environment":
            monkeypatch.setenv("HTTP_PROXY", peer.url)
        else:
            session.proxies = {"http": peer.url}
        assert read(RequestsTransport(session), "http://far.invalid/api/chat") == [b"x"]
    assert peer.requests[0].startswith(b"POST http://far.invalid/api/chat HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://localhost:1/", True),
        ("http://LOCALHOST./", True),
        ("http://app.localhost/", True),
        ("http://127.8.9.10/", True),
        ("http://[::1]:3000/", True),
        ("http://localhost.example/", False),
        ("http://128.0.0.1/", False),
        ("http://[::2]/", False),
        ("https://chat.aivvm.com/", False),
    ],
)
def test_proxies_are_passed_over_for_loopback_alone(url: str, loopback: bool) -> None:
    class Watching(BaseAdapter):
        def send(self, request: object, **settings: object) -> requests.Response:
            seen.append(settings["proxies"])
            raise requests.ConnectionError("far enough")

        def close(self) -> None:
            pass

    seen: list[object] = []
    proxies = {"http": "http://proxy.invalid", "https": "http://proxy.invalid"}
    with requests.Session() as session:
        session.trust_env = False
        session.proxies = dict(proxies)
        session.mount("http://", Watching())
        session.mount("https://", Watching())
        with pytest.raises(ConnectFailed):
            RequestsTransport(session).send(Request("GET", url), timeout=1)
    assert seen == [{} if loopback else proxies]


# What arrives


def test_each_http_chunk_is_one_chunk_however_it_travels(transport: RequestsTransport) -> None:
    chunks = [b"\xd0", b"\x9f", b"a" * 300_012, b"z"]

    def in_odd_pieces(connection: socket.socket) -> None:
        wire = HEAD + framed(*chunks) + END
        for start in range(0, 200, 7):
            connection.sendall(wire[start : start + 7])
        connection.sendall(wire[203:])

    with serving(HEAD + framed(*chunks) + END) as peer:
        assert read(transport, peer.url) == chunks
    with serving(in_odd_pieces) as peer:
        assert read(transport, peer.url) == chunks


@pytest.mark.parametrize(
    ("head", "first", "second"),
    [
        (HEAD, framed(b"first"), framed(b"second") + END),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b"first", b"second"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n", b"first", b"second"),
        (b"HTTP/1.0 200 OK\r\n\r\n", b"first", b"second"),
    ],
    ids=["chunked", "connection-close", "content-length", "http-1.0"],
)
def test_a_chunk_is_there_before_the_next_is_sent(
    transport: RequestsTransport, head: bytes, first: bytes, second: bytes
) -> None:
    seen = threading.Event()

    def script(connection: socket.socket) -> None:
        connection.sendall(head + first)
        assert seen.wait(PATIENCE)
        connection.sendall(second)

    with serving(script) as peer, transport.send(Request("POST", peer.url), timeout=PATIENCE) as response:
        assert next(response) == b"first"
        seen.set()
        assert list(response) == [b"second"]


def test_the_head_is_there_before_the_body_and_kept_as_it_came(transport: RequestsTransport) -> None:
    seen = threading.Event()

    def script(connection: socket.socket) -> None:
        connection.sendall(
            b"HTTP/1.1 234 Fine \xe9\r\nX-b: 1\r\nx-A: 2\r\nTransfer-Encoding: chunked\r\nX-B: 3\r\n\r\n"
        )
        assert seen.wait(PATIENCE)
        connection.sendall(END)

    with serving(script) as peer, transport.send(Request("POST", peer.url), timeout=PATIENCE) as response:
        seen.set()
        assert (response.status, response.reason) == (234, "Fine é")
        assert response.headers == Headers(
            [("X-b", "1"), ("x-A", "2"), ("Transfer-Encoding", "chunked"), ("X-B", "3")]
        )
        assert list(response) == []


def flushed(compressor: zlib._Compress, *pieces: bytes) -> list[bytes]:
    done = [compressor.compress(piece) + compressor.flush(zlib.Z_SYNC_FLUSH) for piece in pieces]
    return [*done, compressor.flush()]


@pytest.mark.parametrize(("coding", "bits"), [("gzip", 31), ("deflate", 15)])
@pytest.mark.parametrize("is_chunked", [True, False])
def test_a_compressed_answer_is_decoded_as_it_arrives(
    transport: RequestsTransport, coding: str, bits: int, is_chunked: bool
) -> None:
    one, two, rest = flushed(zlib.compressobj(wbits=bits), "Привет, ".encode(), "мир".encode())
    seen = threading.Event()

    def script(connection: socket.socket) -> None:
        framing = b"Transfer-Encoding: chunked" if is_chunked else b"Connection: close"
        connection.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Encoding: %b\r\n%b\r\n\r\n" % (coding.encode(), framing)
        )
        connection.sendall(framed(one) if is_chunked else one)
        assert seen.wait(PATIENCE)
        connection.sendall(framed(two, rest) + END if is_chunked else two + rest)

    with serving(script) as peer, transport.send(Request("POST", peer.url), timeout=PATIENCE) as response:
        assert next(response).decode() == "Привет, "
        seen.set()
        assert b"".join(response).decode() == "мир"
        assert response.headers.get("content-encoding") == coding


def compressed(coding: str, data: bytes) -> bytes:
    for one in coding.split(", "):
        bits = {"gzip": 31, "x-gzip": 31, "deflate": 15, "raw deflate": -15, "identity": 0}[one]
        if bits:
            compressor = zlib.compressobj(wbits=bits)
            data = compressor.compress(data) + compressor.flush()
    return data


CODINGS = ("gzip", "x-gzip", "deflate", "raw deflate", "gzip, deflate", "identity, GZIP, identity")
FRAMINGS = ("chunked", "content-length", "connection-close")


def encoded_answer(coding: str, framing: str, *pieces: bytes) -> bytes:
    body = framed(*filter(None, pieces)) + END if framing == "chunked" else b"".join(pieces)
    field = {
        "chunked": b"Transfer-Encoding: chunked",
        "content-length": b"Content-Length: %d" % len(body),
        "connection-close": b"Connection: close",
    }[framing]
    named = coding.removeprefix("raw ").encode()
    return b"HTTP/1.1 200 OK\r\nContent-Encoding: %b\r\n%b\r\n\r\n%b" % (named, field, body)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[begin:end] for begin, end in pairwise(edges)]


BODIES = st.binary(max_size=40) | st.text(max_size=40).map(str.encode) | st.just(b"ab" * 40_000)
CUTS = st.lists(st.integers(0, 200), max_size=6)
REUSING = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)


@REUSING
@given(st.sampled_from(CODINGS), st.sampled_from(FRAMINGS), BODIES, CUTS)
def test_a_compressed_answer_is_whole_however_it_is_cut_and_framed(
    transport: RequestsTransport, coding: str, framing: str, body: bytes, cuts: list[int]
) -> None:
    pieces = split(compressed(coding.lower(), body), cuts)
    with serving(encoded_answer(coding, framing, *pieces)) as peer:
        chunks = read(transport, peer.url)
    assert b"".join(chunks) == body
    assert all(chunks)
    if framing == "chunked":
        assert len(chunks) <= len(pieces)


@REUSING
@given(st.sampled_from(CODINGS), st.sampled_from(FRAMINGS), BODIES, CUTS, st.integers(1, 200))
def test_a_compressed_answer_without_its_own_end_is_cut_though_its_framing_is_whole(
    transport: RequestsTransport, coding: str, framing: str, body: bytes, cuts: list[int], missing: int
) -> None:
    data = compressed(coding.lower(), body)
    pieces = split(data[: -min(missing, len(data) - 1)], cuts)
    came = []
    with (
        serving(encoded_answer(coding, framing, *pieces)) as peer,
        transport.send(Request("POST", peer.url), timeout=PATIENCE) as response,
    ):
        with pytest.raises(Interrupted, match=r"end of its (gzip|x-gzip|deflate) is missing") as caught:
            came.extend(response)
        assert caught.value.kind == "cut"
    assert body.startswith(b"".join(came))


@REUSING
@given(
    bodies=st.lists(BODIES, min_size=1, max_size=3),
    garbage=st.just(b"") | st.binary(max_size=20).filter(lambda data: data[:1] != b"\x1f"),
    cuts=CUTS,
    framing=st.sampled_from(FRAMINGS),
)
def test_gzip_may_have_members_and_garbage_after_them_as_it_may_for_requests(
    transport: RequestsTransport, bodies: list[bytes], garbage: bytes, cuts: list[int], framing: str
) -> None:
    pieces = split(b"".join([compressed("gzip", body) for body in bodies]) + garbage, cuts)
    with serving(encoded_answer("gzip", framing, *pieces)) as peer:
        assert b"".join(read(transport, peer.url)) == b"".join(bodies)
        assert requests.post(peer.url, timeout=PATIENCE).content == b"".join(bodies)


def test_a_later_member_that_is_damaged_or_cut_is_not_taken_for_garbage(transport: RequestsTransport) -> None:
    one, two = gzip.compress(b"one"), gzip.compress(b"two")
    for rest in (two[:1], two[:9], two[:-1], two[:10] + b"\xff" * 9, two[:-8] + b"\0" * 8):
        came = []
        with (
            serving(encoded_answer("gzip", "chunked", one, rest)) as peer,
            transport.send(Request("POST", peer.url), timeout=PATIENCE) as response,
            pytest.raises(Interrupted),
        ):
            came.extend(response)
        assert b"".join(came) in (b"one", b"onetwo")


def test_what_follows_the_end_of_deflate_is_ignored(transport: RequestsTransport) -> None:
    for coding in ("deflate", "raw deflate"):
        answer = encoded_answer(coding, "chunked", compressed(coding, b"ab") + b"x", b"yz")
        with serving(answer) as peer:
            assert read(transport, peer.url) == [b"ab"]


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "deflate", "gzip, deflate"])
@pytest.mark.parametrize("framing", FRAMINGS)
def test_an_empty_body_needs_no_coding_to_end(
    transport: RequestsTransport, coding: str, framing: str
) -> None:
    with serving(encoded_answer(coding, framing)) as peer:
        assert read(transport, peer.url) == []


def test_an_answer_whose_coding_breaks_off_leaves_its_connection_for_the_next(
    transport: RequestsTransport,
) -> None:
    answer = encoded_answer("gzip", "chunked", gzip.compress(b"ab")[:-1])
    with serving(answer, keep_alive=True) as peer:
        for _ in range(2):
            with pytest.raises(Interrupted):
                read(transport, peer.url)
        assert peer.connections == 1
        transport.close()
        assert peer.hung_up.wait(PATIENCE)


def test_what_a_little_unpacks_to_comes_in_parts_that_fit_into_memory(transport: RequestsTransport) -> None:
    size = 40 * 1024 * 1024 + 1
    packed = gzip.compress(bytes(size))
    for framing in FRAMINGS:
        answer = encoded_answer("gzip", framing, packed)
        with serving(answer) as peer, transport.send(Request("POST", peer.url), timeout=PATIENCE) as response:
            lengths = [len(chunk) for chunk in response]
        assert sum(lengths) == size
        assert max(lengths) <= 16 * 1024 * 1024


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_an_answer_and_its_endless_body_is_not_read(
    transport: RequestsTransport, status: int
) -> None:
    def script(connection: socket.socket) -> None:
        connection.sendall(
            b"HTTP/1.1 %d Go\r\nLocation: http://[nowhere/\r\nConnection: close\r\n\r\n" % status
        )
        with suppress(ConnectionError):
            while True:
                connection.sendall(b"away " * 1000)

    with serving(script) as peer, transport.send(Request("POST", peer.url), timeout=PATIENCE) as response:
        assert response.status == status
        assert response.headers.get("location") == "http://[nowhere/"
        assert next(response).startswith(b"away")
    assert len(peer.requests) == 1


def test_closing_early_closes_the_connection_of_an_endless_stream(transport: RequestsTransport) -> None:
    gone = threading.Event()

    def script(connection: socket.socket) -> None:
        connection.sendall(HEAD)
        with suppress(ConnectionError):
            while True:
                connection.sendall(framed(b"more"))
        gone.set()

    with serving(script) as peer:
        response = transport.send(Request("POST", peer.url), timeout=PATIENCE)
        assert [next(response), next(response)] == [b"more", b"more"]
        response.close()
        assert gone.wait(PATIENCE)
        response.close()
        assert list(response) == []


def test_a_response_that_is_never_iterated_lets_go_when_closed(transport: RequestsTransport) -> None:
    def script(connection: socket.socket) -> None:
        connection.sendall(HEAD + framed(b"x"))
        assert connection.recv(1) == b""

    with serving(script) as peer:
        transport.send(Request("POST", peer.url), timeout=PATIENCE).close()
    assert len(peer.requests) == 1


def test_a_whole_answer_leaves_its_connection_for_the_next_and_close_ends_it(
    transport: RequestsTransport,
) -> None:
    with serving(HEAD + framed(b"x") + END, keep_alive=True) as peer:
        assert [read(transport, peer.url) for _ in range(3)] == [[b"x"]] * 3
        assert peer.connections == 1
        transport.close()
        assert peer.hung_up.wait(PATIENCE)
        transport.close()
        assert read(transport, peer.url) == [b"x"]
        assert peer.connections == 2
        transport.close()


def test_called_on_the_class_the_provider_closes_its_connection_with_the_stream() -> None:
    with serving(HEAD + framed(b"a", b"b") + END, keep_alive=True) as peer:

        class Here(Aivvm):
            url = peer.url

        assert list(Here.create_completion("gpt-4", [])) == ["a", "b"]
        assert peer.hung_up.wait(PATIENCE)
        peer.hung_up.clear()
        answer = Here.create_completion("gpt-4", [])
        assert next(answer) == "a"
        answer.close()
        assert peer.hung_up.wait(PATIENCE)


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]
)
def test_an_answer_without_a_body_is_empty(transport: RequestsTransport, answer: bytes) -> None:
    with serving(answer) as peer:
        assert read(transport, peer.url) == []


@pytest.mark.parametrize("status", [b"101 Switching Protocols", b"103 Early Hints"])
def test_what_only_announces_an_answer_is_none(transport: RequestsTransport, status: bytes) -> None:
    with (
        serving(b"HTTP/1.1 " + status + b"\r\n\r\n" + HEAD + END) as peer,
        pytest.raises(Interrupted, match=f"status {int(status[:3])}, which only announces an answer"),
    ):
        read(transport, peer.url)


def test_threads_may_share_a_transport(transport: RequestsTransport) -> None:
    results: list[list[bytes]] = []
    # The peer closes after each answer, and says so: a pool that did not know could meet the close in its next request.
    closing = HEAD.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with serving(closing + framed(b"x") + END) as peer:
        threads = [
            threading.Thread(target=lambda: results.append(read(transport, peer.url))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    assert results == [[b"x"]] * 8


# How it breaks, on real sockets


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def test_nobody_listening_is_refused(transport: RequestsTransport) -> None:
    port = free_port()
    with pytest.raises(ConnectFailed) as caught:
        read(transport, f"http://127.0.0.1:{port}")
    assert caught.value.kind == "refused"
    assert f"127.0.0.1:{port}" in str(caught.value)


CUT_SHORT = {
    "between chunks": HEAD + framed(b"ab"),
    "within a chunk": HEAD + framed(b"ab") + b"5\r\ncd",
    "within a chunk's size": HEAD + framed(b"ab") + b"1",
    "before the last CRLF": HEAD + framed(b"ab") + b"2\r\ncd",
    "a size that is no number": HEAD + framed(b"ab") + b"zz\r\ncd\r\n" + END,
    "a negative size": HEAD + framed(b"ab") + b"-5\r\ncd\r\n" + END,
    "a size line without end": HEAD + framed(b"ab") + b"1" * 200_000,
    "a short content-length": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab",
    "what gzip is not": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n\r\nnot gzip!",
    "a damaged gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n"
    + gzip.compress(b"ab")[:10]
    + b"\xff" * 9,  # a block of the kind that deflate reserves
    "what nobody decodes": b"HTTP/1.1 200 OK\r\nContent-Encoding: identity, x-snappy\r\nContent-Length: 2\r\n\r\nab",
}


@pytest.mark.parametrize("answer", CUT_SHORT.values(), ids=CUT_SHORT)
def test_an_answer_that_is_cut_or_damaged_is_interrupted_after_what_came(
    transport: RequestsTransport, answer: bytes
) -> None:
    came = []
    with serving(answer) as peer, transport.send(Request("POST", peer.url), timeout=PATIENCE) as response:
        with pytest.raises(Interrupted) as caught:
            came.extend(response)
        assert caught.value.kind == "cut"
    assert came == ([] if b"Content-Encoding" in answer else [b"ab"])


NOT_HTTP = {
    "nothing": b"",
    "half a status line": b"HTTP/1.1 2",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-",
    "a head with a line that is no field": b"HTTP/1.1 200 OK\r\nwhat\r\nContent-Length: 2\r\n\r\nab",
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "binary": bytes(range(256)),
    "a status that is no number": b"HTTP/1.1 abc OK\r\n\r\n",
    "a status out of range": b"HTTP/1.1 99 Low\r\n\r\n",
    "a line without end": b"HTTP/1.1 200 " + b"x" * 100_000,
    "too many headers": b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 200 + b"\r\n",
    "two content-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
}


@pytest.mark.parametrize("answer", NOT_HTTP.values(), ids=NOT_HTTP)
def test_what_is_not_an_http_answer_is_interrupted(transport: RequestsTransport, answer: bytes) -> None:
    with serving(answer) as peer, pytest.raises(Interrupted) as caught:
        read(transport, peer.url)
    assert caught.value.kind == "cut"


def test_a_reset_is_told_from_a_cut_before_the_head_and_after(transport: RequestsTransport) -> None:
    seen = threading.Event()

    def before(connection: socket.socket) -> None:
        reset(connection)

    def after(connection: socket.socket) -> None:
        connection.sendall(HEAD + framed(b"ab"))
        assert seen.wait(PATIENCE)
        reset(connection)

    with serving(before) as peer, pytest.raises(Interrupted) as caught:
        read(transport, peer.url)
    assert caught.value.kind == "reset"

    with serving(after) as peer, transport.send(Request("POST", peer.url), timeout=PATIENCE) as response:
        assert next(response) == b"ab"
        seen.set()
        with pytest.raises(Interrupted) as caught:
            next(response)
        assert caught.value.kind == "reset"


@pytest.mark.parametrize("timeout", [0.05, (PATIENCE, 0.05)])
def test_silence_times_out_before_the_head_and_after(transport: RequestsTransport, timeout: object) -> None:
    over = threading.Event()

    def script(connection: socket.socket) -> None:
        if len(peer.requests) == 2:
            connection.sendall(HEAD + framed(b"ab"))
        assert over.wait(PATIENCE)

    with serving(script) as peer:
        with pytest.raises(TimedOut, match=r"nothing for 0\.05 s before it answered"):
            read(transport, peer.url, timeout)
        over.set()
        over.clear()
        with transport.send(Request("POST", peer.url), timeout=timeout) as response:
            assert next(response) == b"ab"
            with pytest.raises(TimedOut, match=r"nothing for 0\.05 s within its answer"):
                next(response)
        over.set()


@pytest.mark.parametrize("trouble", ["plain text", "reset", "close"])
def test_a_failed_tls_handshake_is_tls(transport: RequestsTransport, trouble: str) -> None:
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
        with pytest.raises(ConnectFailed) as caught:
            read(transport, f"https://127.0.0.1:{peer.port}")
        assert caught.value.kind == "tls"
    finally:
        peer.stop()


def test_a_tls_handshake_that_does_not_end_is_unreachable(transport: RequestsTransport) -> None:
    over = threading.Event()

    class Silent(Peer):
        def _read(self, connection: socket.socket) -> bytes:  # type: ignore[override]  # needs no request
            assert over.wait(PATIENCE)
            return b""

    peer = Silent(lambda _: None, False)
    try:
        with pytest.raises(ConnectFailed, match=r"no connection within 0\.05 s") as caught:
            read(transport, f"https://127.0.0.1:{peer.port}", (0.05, PATIENCE))
        assert caught.value.kind == "unreachable"
    finally:
        over.set()
        peer.stop()


def test_a_backlog_that_is_full_is_unreachable(transport: RequestsTransport) -> None:
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
            with pytest.raises(ConnectFailed) as caught:
                read(transport, f"http://127.0.0.1:{port}", (0.05, PATIENCE))
        finally:
            for one in waiting:
                one.close()
    assert caught.value.kind == "unreachable"


def test_what_the_caller_was_handling_does_not_name_the_failure(transport: RequestsTransport) -> None:
    with serving(b"") as peer:
        try:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "an earlier attempt")
        except ConnectionRefusedError:
            with pytest.raises(Interrupted):
                read(transport, peer.url)


def test_the_sessions_own_retries_happen_and_give_up_with_their_reason() -> None:
    retry = urllib3.Retry(total=2, status_forcelist=[500], allowed_methods=None, backoff_factor=0)
    answer = b"HTTP/1.1 500 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with requests.Session() as session, serving(answer) as peer:
        session.mount("http://", HTTPAdapter(max_retries=retry))
        with pytest.raises(Interrupted, match=r"retries gave up on .*too many 500 error responses"):
            read(RequestsTransport(session), peer.url)
    assert len(peer.requests) == 3


PIECES = [
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 ",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 3\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Content-Encoding: deflate\r\n",
    b"\r\n",
    b"3\r\nabc\r\n",
    b"0\r\n\r\n",
    b"ffffffffffffffffff\r\n",
    b"\x1f\x8b\x08\x00",
    b"\xff\x00",
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(answer=st.lists(st.sampled_from(PIECES) | st.binary(max_size=6), max_size=9).map(b"".join))
def test_whatever_a_peer_sends_is_chunks_or_an_interruption(
    transport: RequestsTransport, answer: bytes
) -> None:
    with serving(answer) as peer:
        chunks: list[bytes] = []
        with suppress(Interrupted), transport.send(Request("POST", peer.url), timeout=PATIENCE) as response:
            chunks.extend(response)
        assert all(chunks)


# How it breaks, where loopback cannot show it


def connection_failure(inner: OSError) -> requests.ConnectionError:
    """What requests raises where connecting fails with `inner`, as urllib3 wraps it."""
    connection = urllib3.connection.HTTPConnection("far.invalid")
    outer = urllib3.exceptions.NewConnectionError(
        connection, f"Failed to establish a new connection: {inner}"
    )
    outer.__cause__ = inner
    pool = urllib3.HTTPConnectionPool("far.invalid")
    return requests.ConnectionError(urllib3.exceptions.MaxRetryError(pool, "/", outer))


def unresolved() -> requests.ConnectionError:
    inner = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    connection = urllib3.connection.HTTPConnection("far.invalid")
    outer = urllib3.exceptions.NameResolutionError("far.invalid", connection, inner)
    return requests.ConnectionError(
        urllib3.exceptions.MaxRetryError(urllib3.HTTPConnectionPool("x"), "/", outer)
    )


RAISED = {
    "a name without an address": (unresolved(), ConnectFailed, "unresolved"),
    "a bare gaierror": (socket.gaierror(-2, "Name or service not known"), ConnectFailed, "unresolved"),
    "a host that IDNA refuses": (requests.exceptions.InvalidURL("bad label"), ConnectFailed, "unresolved"),
    "a host that urllib3 refuses": (
        urllib3.exceptions.LocationParseError("..."),
        ConnectFailed,
        "unresolved",
    ),
    "refused": (connection_failure(ConnectionRefusedError(111, "refused")), ConnectFailed, "refused"),
    "no route": (
        connection_failure(OSError(errno.EHOSTUNREACH, "No route to host")),
        ConnectFailed,
        "unreachable",
    ),
    "no network": (
        connection_failure(OSError(errno.ENETUNREACH, "unreachable")),
        ConnectFailed,
        "unreachable",
    ),
    "the kernel gave up": (
        connection_failure(TimeoutError(errno.ETIMEDOUT, "timed out")),
        ConnectFailed,
        "unreachable",
    ),
    "connect timeout": (requests.ConnectTimeout("slow"), ConnectFailed, "unreachable"),
    "proxy": (
        requests.exceptions.ProxyError(
            urllib3.exceptions.ProxyError(
                "Unable to connect to proxy", OSError("Tunnel connection failed: 407")
            )
        ),
        ConnectFailed,
        "unreachable",
    ),
    "a refusing proxy": (
        requests.exceptions.ProxyError(
            urllib3.exceptions.ProxyError("no", ConnectionRefusedError(111, "refused"))
        ),
        ConnectFailed,
        "refused",
    ),
    "bad certificate": (requests.exceptions.SSLError("self-signed certificate"), ConnectFailed, "tls"),
    "bare ssl": (ssl.SSLCertVerificationError("expired"), ConnectFailed, "tls"),
    "no certificates": (
        OSError("Could not find a suitable TLS CA certificate bundle"),
        ConnectFailed,
        "unreachable",
    ),
    "tls that just stops": (
        requests.ConnectionError(urllib3.exceptions.SSLError(ssl.SSLEOFError(8, "EOF occurred"))),
        Interrupted,
        "cut",
    ),
    "read timeout": (requests.ReadTimeout("slow"), TimedOut, None),
    "a bare timeout": (TimeoutError("timed out"), TimedOut, None),
    "sending timed out": (
        requests.ConnectionError(
            urllib3.exceptions.ProtocolError("Connection aborted.", TimeoutError("timed out"))
        ),
        TimedOut,
        None,
    ),
    "aborted": (
        requests.ConnectionError(
            urllib3.exceptions.ProtocolError("aborted", ConnectionAbortedError(103, "abort"))
        ),
        Interrupted,
        "reset",
    ),
    "broken pipe": (requests.ConnectionError(BrokenPipeError(32, "Broken pipe")), Interrupted, "reset"),
    "protocol": (requests.ConnectionError(urllib3.exceptions.ProtocolError("odd")), Interrupted, "cut"),
    "a mock's own": (requests.ConnectionError("Connection refused by a mock"), ConnectFailed, "unreachable"),
    "no adapter": (requests.exceptions.InvalidSchema("No connection adapters"), ConnectFailed, "unreachable"),
    "no words": (OSError(), ConnectFailed, "unreachable"),
}


class Raising(BaseAdapter):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def send(self, *_: object, **__: object) -> requests.Response:
        raise self.error

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("error", "expected", "kind"), RAISED.values(), ids=RAISED)
def test_what_an_adapter_raises_becomes_one_of_the_three(
    error: Exception, expected: type[TransportError], kind: str | None
) -> None:
    with requests.Session() as session:
        session.mount("http://", Raising(error))
        with pytest.raises(expected) as caught:
            RequestsTransport(session).send(Request("POST", "http://far.invalid/"), timeout=1)
    assert getattr(caught.value, "kind", None) == kind
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [AssertionError("the set-up of a test"), TypeError("a bug"), KeyboardInterrupt()]
)
def test_what_is_no_failure_of_the_network_passes_through(error: BaseException) -> None:
    with requests.Session() as session:
        session.mount("http://", Raising(error))
        with pytest.raises(type(error)) as caught:
            RequestsTransport(session).send(Request("POST", "http://far.invalid/"), timeout=1)
    assert caught.value is error


def test_nor_is_it_a_failure_of_the_network_after_the_head() -> None:
    class Checked:
        def read(self, _: int) -> bytes:
            raise error

        def close(self) -> None:
            pass

    error = AssertionError("the set-up of a test")
    answer = requests.Response()
    answer.raw = Checked()
    with pytest.raises(AssertionError) as caught:
        canned(answer)
    assert caught.value is error


def test_a_header_that_cannot_be_sent_is_the_callers(transport: RequestsTransport) -> None:
    with serving(b"") as peer, pytest.raises(UnicodeEncodeError):
        transport.send(Request("POST", peer.url, Headers({"x": "世界"})), timeout=PATIENCE)


# Sessions whose answers do not come from a socket


def test_a_mocked_session_gives_its_body() -> None:
    with responses.RequestsMock() as mocked, requests.Session() as session:
        mocked.post("http://far.invalid/api/chat", body="Привет", headers={"Transfer-Encoding": "chunked"})
        request = build_request("gpt-4", [], url="http://far.invalid")
        with RequestsTransport(session).send(request, timeout=1) as response:
            assert b"".join(response).decode() == "Привет"
            assert response.headers.get("transfer-encoding") == "chunked"


class Canned(BaseAdapter):
    def __init__(self, answer: requests.Response) -> None:
        super().__init__()
        self.answer = answer

    def send(self, *_: object, **__: object) -> requests.Response:
        return self.answer

    def close(self) -> None:
        pass


def canned(answer: requests.Response) -> list[bytes]:
    answer.status_code = 200
    with requests.Session() as session:
        session.mount("http://", Canned(answer))
        with RequestsTransport(session).send(Request("POST", "http://far.invalid/"), timeout=1) as response:
            return list(response)


def test_an_answer_made_by_hand_gives_its_content(tmp_path: Path) -> None:
    made = requests.Response()
    made._content = b"by hand"
    assert canned(made) == [b"by hand"]

    empty = requests.Response()
    empty._content = b""
    assert canned(empty) == []

    (tmp_path / "body").write_bytes(b"from a file")
    with open(tmp_path / "body", "rb") as file:
        streamed = requests.Response()
        streamed.raw = file
        assert canned(streamed) == [b"from a file"]


def test_a_body_that_a_hook_has_read_is_not_lost() -> None:
    with requests.Session() as session, serving(HEAD + framed(b"ab", b"cd") + END) as peer:
        session.hooks["response"].append(lambda answer, **_: answer.content and None)
        assert read(RequestsTransport(session), peer.url) == [b"abcd"]


def test_the_body_that_was_sent_is_what_the_request_holds(transport: RequestsTransport) -> None:
    request = build_request("gpt-3.5-turbo", [{"role": "user", "content": "\ud83d \x00 \\"}])
    with serving(HEAD + END) as peer:
        read_all = Request(request.method, peer.url + "/api/chat", request.headers, request.body)
        with transport.send(read_all, timeout=PATIENCE) as response:
            assert list(response) == []
    body = peer.requests[0].partition(b"\r\n\r\n")[2]
    assert body == request.body
    assert json.loads(body)["messages"][0]["content"] == "\ud83d \x00 \\"
