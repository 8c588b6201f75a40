"""Tap 2: what `requests` does is recorded as it was on the wire, and the caller never notices."""

from __future__ import annotations

import errno
import gc
import gzip
import http.client
import io
import json
import os
import re
import select
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
import responses
import urllib3
from hypothesis import given, settings
from hypothesis import strategies as st
from requests.adapters import HTTPAdapter
from requests.auth import HTTPDigestAuth
from urllib3.util import Retry

from aivvm.transport import Headers, Request
from aivvm_testing.clock import SystemClock, VirtualClock
from aivvm_testing.errors import SetupFailure
from aivvm_testing.fake import FakeAivvm
from aivvm_testing.record.adapter import RecordingAdapter, tapped
from aivvm_testing.record.answer import AnswerParser
from aivvm_testing.record.coding import MAX_PART, Decoding
from aivvm_testing.record.tap import Tap
from aivvm_testing.recording import Recording
from aivvm_testing.reply import Ending, Head, Reply
from aivvm_testing.strategies import chunkings, replies, well_formed_text
from aivvm_testing.wire import Incoming, RequestParser, Schedule, schedule
from tests.peers import END, HEAD, PATIENCE, framed, serving

CERTIFICATE = str(Path(__file__).parent.parent / "loopback.pem")
SILENCE = 0.2  # seconds after which a reader gives up on a server that stays silent
BODY = {"model": {"id": "gpt-4"}, "messages": [{"role": "user", "content": "Hello"}]}

READ: dict[str, Callable[[requests.Response], Iterator[bytes]]] = {
    "iter_content(None)": lambda r: r.iter_content(None),
    "iter_content(1)": lambda r: r.iter_content(1),
    "iter_content(3)": lambda r: r.iter_content(3),
    "iter_content(4096)": lambda r: r.iter_content(4096),
    "iter_lines": lambda r: r.iter_lines(),
    "content": lambda r: iter([r.content]),
    "raw.read": lambda r: iter([r.raw.read()]),
    "raw.read(3)": lambda r: iter(lambda: r.raw.read(3), b""),
    "raw.read1": lambda r: iter(lambda: r.raw.read1(), b""),
    "raw.stream": lambda r: r.raw.stream(5),
    "raw.readinto": lambda r: read_into(r.raw),
    "the first chunk": lambda r: iter([next(r.iter_content(None), b"")]),
    "nothing": lambda r: iter([]),
}


UNCLOSED = """
import sys
import requests
from aivvm_testing import RecordingAdapter
session = requests.Session()
session.mount("http://", RecordingAdapter(sys.argv[1]))
stream = session.get(sys.argv[2], stream=True)
print(next(stream.iter_content(None)).decode())
"""


def test_what_nobody_has_closed_when_the_process_ends_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    reply = Reply.of("one", "two")
    with FakeAivvm() as fake, fake.server() as server:
        fake.on(path="/x").reply(reply)
        done = subprocess.run(
            [sys.executable, "-c", UNCLOSED, path, f"{server.url}/x"], capture_output=True, text=True
        )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "one\n")
    (exchange,) = Recording.load(path)
    assert exchange.reply.chunks[0].data == b"one"
    assert not path.with_name("a.jsonl.journal").exists()


def test_what_cannot_be_finished_when_the_process_ends_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    code = UNCLOSED + "import os; os.unlink(sys.argv[1] + '.journal')"
    with FakeAivvm() as fake, fake.server() as server:
        fake.on(path="/x").reply("one")
        done = subprocess.run(
            [sys.executable, "-c", code, path, f"{server.url}/x"], capture_output=True, text=True
        )
    assert done.stderr.startswith("aivvm_testing: ")
    assert "Traceback" not in done.stderr
    assert not path.exists()


def read_into(raw: Any) -> Iterator[bytes]:
    buffer = bytearray(4)
    while size := raw.readinto(buffer):
        yield bytes(buffer[:size])


def plain_session(adapter: HTTPAdapter | None = None) -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    if adapter is not None:
        session.mount("https://", adapter)
        session.mount("http://", adapter)
    return session


class Seen(list[Any]):
    """What a caller gets: the head, each piece of the body, and the error."""

    error: BaseException | None = None


def seen(session: requests.Session, url: str, style: str = "iter_content(None)", **options: Any) -> Seen:
    got = Seen()
    options = {"method": "POST", "timeout": PATIENCE, "stream": True, **options}
    if options["method"] == "POST":
        options.setdefault("json", BODY)
    try:
        with session.request(url=url, **options) as response:
            fields = [pair for pair in response.raw.headers.items() if pair[0] != "Date"]
            got += (response.status_code, response.reason, fields)
            for piece in READ[style](response):
                got.append(piece)
    except Exception as error:
        got.error = error
        got.append(said(error))
    return got


def said(error: BaseException) -> tuple[type, str]:
    return type(error), re.sub("0x[0-9a-f]+", "0x", str(error))


def classes(got: Seen) -> list[Any]:
    """What must be equal after a replay, where a port and a cause's words are not."""
    return [one[0] if isinstance(one, tuple) else one for one in got]


def recorded(path: Path) -> list[Reply]:
    return [exchange.reply for exchange in Recording.load(path)]


def data_of(reply: Reply) -> list[bytes]:
    return [chunk.data for chunk in reply.chunks]


def reset(connection: socket.socket) -> None:
    connection.recv(1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextmanager
def listening(script: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port on loopback, each of whose connections goes through the script, one after the other, and is closed."""
    trouble: list[BaseException] = []

    def serve() -> None:
        with suppress(OSError):  # the listener is closed: the test is over
            while True:
                connection, _ = listener.accept()
                connection.settimeout(PATIENCE)
                try:
                    with connection:
                        script(connection)
                except OSError:  # the client has left
                    pass
                except BaseException as error:
                    trouble.append(error)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert not trouble


def with_tls(answer: bytes) -> Callable[[socket.socket], None]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)

    def script(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secure:
            while secure.recv(65536):
                secure.sendall(answer)

    return script


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "session.jsonl"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "session.jsonl"


# Nobody notices, and it comes back


@settings(max_examples=60)
@given(
    replies(with_head=True, endings=["complete", "cut", "reset"]).map(lambda reply: reply.scale(0)),
    st.sampled_from(list(READ)),
)
def test_the_caller_gets_what_it_gets_without_and_gets_it_again_from_the_recording(
    scratch: Path, reply: Reply, style: str
) -> None:
    check(scratch, reply, style, PATIENCE)


@pytest.mark.parametrize("style", ["iter_content(1)", "content", "raw.read1", "the first chunk", "nothing"])
def test_a_reader_that_gives_up_on_a_silent_server_gives_up_again(path: Path, style: str) -> None:
    check(path, Reply.of("ab", "c", "d").stall(after=2), style, SILENCE)


def check(path: Path, reply: Reply, style: str, patience: float) -> None:
    fake = FakeAivvm()
    fake.on(lambda _: True).reply(reply, times=2)
    options = {"style": style, "timeout": (PATIENCE, patience)}
    with fake.server() as server, plain_session() as bare:
        expected = seen(bare, server.url, **options)
        with plain_session(RecordingAdapter(path)) as session:
            assert seen(session, server.url, **options) == expected
    [again] = recorded(path)
    if not reply.ending.data and again.ending.kind != "closed":
        assert data_of(again) == [data for data in data_of(reply) if data]
        assert again.ending.kind == reply.ending.kind
    with FakeAivvm.replaying(path).server() as server, plain_session() as bare:
        assert classes(seen(bare, server.url, **options)) == classes(expected)


class Memory(HTTPAdapter):
    """An adapter whose connections are in memory and in virtual time; each request takes the next answer."""

    def __init__(self, *script: Reply | Schedule, **options: Any) -> None:
        self.clock = VirtualClock()
        self.script = list(script)
        self.pools: dict[str, Any] = {}
        super().__init__(**options)

    def get_connection_with_tls_context(self, request: Any, *_: Any, **__: Any) -> Any:
        adapter = self

        class Connection(urllib3.connection.HTTPConnection):
            def connect(self) -> None:
                self.sock = Line(adapter, self.timeout)  # type: ignore[assignment]  # what is used of one

            @property
            def is_connected(self) -> bool:
                return self.sock is not None

        if "x" not in self.pools:
            self.pools["x"] = urllib3.HTTPConnectionPool("x")
            self.pools["x"].ConnectionCls = Connection
        return self.pools["x"]


class Line:
    """As much of a socket as http.client uses, and one step of a schedule for each read."""

    def __init__(self, adapter: Memory, timeout: float | None) -> None:
        self.adapter = adapter
        self.timeout = timeout
        self.parser = RequestParser()
        self.rest = b""

    def settimeout(self, timeout: float | None) -> None:
        self.timeout = timeout

    def sendall(self, data: bytes) -> None:
        for event in self.parser.feed(data):
            assert isinstance(event, Incoming)
            self.timer = self.adapter.clock.timer()
            answer = self.adapter.script.pop(0)
            self.made = schedule(answer, method=event.request.method) if isinstance(answer, Reply) else answer
            self.steps = iter(self.made.steps)

    def makefile(self, mode: str, *_: Any) -> io.BufferedReader:
        return io.BufferedReader(LineReader(self))

    def receive(self, size: int) -> bytes:
        if not self.rest:
            at, self.rest = next(self.steps, (self.made.at, b""))
            self.wait_until(at)
            if not self.rest and self.made.stop == "stall":
                self.wait_until(1e9)
            if not self.rest and self.made.stop == "reset":
                raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        data, self.rest = self.rest[:size], self.rest[size:]
        return data

    def wait_until(self, at: float) -> None:
        latest = self.timer.elapsed() + (1e6 if self.timeout is None else self.timeout)
        self.timer.wait_until(min(at, latest))
        if at > latest:
            raise TimeoutError("timed out")

    def close(self) -> None:
        pass

    shutdown = close


class LineReader(io.RawIOBase):
    def __init__(self, line: Line) -> None:
        self.line = line

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.line.receive(len(buffer))
        buffer[: len(data)] = data
        return len(data)


LONG = 1000.0  # seconds, of virtual time


@given(
    st.lists(replies(endings=["complete", "cut", "reset", "stall"], plain=True), min_size=1, max_size=3),
    st.sampled_from(list(READ)[:-2]),
)
def test_an_inner_adapter_with_virtual_time_is_recorded_to_the_microsecond(
    scratch: Path, script: list[Reply], style: str
) -> None:
    inner = Memory(*script)
    with plain_session(RecordingAdapter(scratch, inner=inner, clock=inner.clock)) as session:
        for _ in script:
            seen(session, "http://x/api/chat", style, timeout=LONG)
    for reply, exchange in zip(script, Recording.load(scratch), strict=True):
        head, ending = reply.head, reply.ending
        if head is not None:
            head = replace(head, headers=Headers([*head.headers, ("Transfer-Encoding", "chunked")]))
        at = round(ending.at + LONG, 6) if ending.kind == "stall" else ending.at
        error = exchange.reply.ending.error
        assert exchange.started == 0.0
        assert exchange.reply == Reply(head, reply.chunks, Ending(ending.kind, at, error=error))


def test_chunks_are_the_wire_s_and_not_the_reader_s(path: Path) -> None:
    long = "x" * 300_012
    answer = HEAD + framed(b"a", long.encode(), b"bc") + END
    with serving(answer) as peer, plain_session(RecordingAdapter(path)) as session:
        got = seen(session, peer.url, "iter_content(4096)")
    assert len(got) == 3 + 1 + 74 + 1
    assert [len(data) for data in data_of(recorded(path)[0])] == [1, 300_012, 2]


def test_each_chunk_has_reached_the_file_and_the_reader_before_the_next_one_is_sent(path: Path) -> None:
    more = threading.Event()

    def answer(connection: socket.socket) -> None:
        connection.sendall(HEAD + framed(b"first"))
        assert more.wait(10)
        connection.sendall(framed(b"second") + END)

    with serving(answer) as peer, plain_session(RecordingAdapter(path)) as session:
        pieces = session.get(peer.url, stream=True, timeout=10).iter_content(4096)
        assert next(pieces) == b"first"
        assert b'"text": "first"' in Path(f"{path}.journal").read_bytes()
        more.set()
        assert next(pieces) == b"second"
        assert next(pieces, None) is None
    [reply] = recorded(path)
    moments = [reply.head.at if reply.head else -1, *[chunk.at for chunk in reply.chunks], reply.ending.at]
    assert all(before <= after for before, after in pairwise(moments))
    assert 0 < reply.chunks[0].at < reply.chunks[1].at


@pytest.mark.parametrize("length", [True, False], ids=["content-length", "until it closes"])
def test_an_answer_that_is_not_chunked_is_recorded_read_by_read(path: Path, length: bool) -> None:
    more = threading.Event()

    def answer(connection: socket.socket) -> None:
        field = b"Content-Length: 11\r\n" if length else b""
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + field + b"\r\nfirst")
        assert more.wait(10)
        connection.sendall(b"second")

    with serving(answer) as peer, plain_session(RecordingAdapter(path)) as session:
        raw = session.get(peer.url, stream=True, timeout=10).raw
        assert raw.read1() == b"first"
        more.set()
        assert raw.read() == b"second"
        assert raw.read() == b""
    [reply] = recorded(path)
    assert data_of(reply) == [b"first", b"second"]
    assert reply.ending.kind == "complete"
    # A reply that says nothing about its length would be sent in chunks.
    assert reply.headers == Headers([("Content-Length", "11") if length else ("Connection", "close")])


# What was sent


def test_a_request_is_recorded_as_it_stood_on_the_wire(path: Path) -> None:
    with serving(HEAD + END) as peer, plain_session(RecordingAdapter(path)) as session:
        session.headers.clear()
        session.post(
            f"{peer.url}/a%20b?c=%C3%A9#d",
            data=b"\xff\0",
            headers={"x-oDD": "1", "B": "2", "Accept-Encoding": "br"},
        )
    [exchange] = Recording.load(path)
    assert exchange.request.method == "POST"
    assert exchange.request.url == f"{peer.url}/a%20b?c=%C3%A9"
    head = peer.requests[0].partition(b"\r\n\r\n")[0].decode("latin-1")
    assert [": ".join(pair) for pair in exchange.request.headers] == head.split("\r\n")[1:]
    assert exchange.request.headers[-4:] == (
        ("x-oDD", "1"),
        ("B", "2"),
        ("Accept-Encoding", "br"),
        ("Content-Length", "2"),
    )
    assert exchange.request.body == b"\xff\0"


@pytest.mark.parametrize(
    ("sent", "body"),
    [
        ({"data": "text"}, b"text"),
        ({"data": {"a": "1 2"}}, b"a=1+2"),
        ({"data": io.BytesIO(b"from a file")}, b"from a file"),
        ({"data": iter([b"in ", b"parts"])}, b"in parts"),
        ({"json": {"é": 1}}, b'{"\\u00e9": 1}'),
        ({}, b""),
    ],
    ids=["text", "form", "file", "generator", "json", "nothing"],
)
def test_bodies_of_every_kind_are_recorded(path: Path, sent: dict[str, Any], body: bytes) -> None:
    fake = FakeAivvm()
    fake.on(lambda _: True).reply("yes")
    with fake.server() as server, plain_session(RecordingAdapter(path)) as session:
        assert session.put(server.url, **sent).content == b"yes"
    [exchange] = Recording.load(path)
    assert exchange.request.body == body
    assert exchange.request == fake.requests[0]


@pytest.mark.parametrize("part", [10**13, [1, 2]], ids=["a number", "a list of numbers"])
def test_a_body_that_cannot_be_sent_is_refused_as_without_a_tap_and_not_recorded(
    path: Path, part: Any
) -> None:
    class Parts:
        def __iter__(self) -> Iterator[Any]:
            return iter([part])

        def __len__(self) -> int:
            return 2

    said = []
    for adapter in (HTTPAdapter(), RecordingAdapter(path)):
        with serving(HEAD + END) as peer, plain_session(adapter) as session:
            with pytest.raises(TypeError) as caught:
                session.post(peer.url, data=Parts())
            said.append(str(caught.value))
    assert said[0] == said[1]
    [exchange] = Recording.load(path)
    assert (exchange.request.body, exchange.reply.ending.kind) == (b"", "closed")


def test_an_answer_that_comes_before_the_whole_request_is_recorded(path: Path) -> None:
    def refusing(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")

    def body() -> Iterator[bytes]:
        for _ in range(3):
            yield b"x" * 10

    with serving(refusing) as peer, plain_session(RecordingAdapter(path)) as session:
        assert session.post(peer.url, data=body()).content == b"no"
    assert recorded(path)[0].status == 413


def test_what_a_server_says_before_its_answer_is_not_the_answer(path: Path) -> None:
    said = b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + framed(b"yes") + END
    with serving(said) as peer, plain_session(RecordingAdapter(path)) as session:
        answer = session.post(peer.url, data=b"body", headers={"Expect": "100-continue"})
        assert answer.content == b"yes"
    [exchange] = Recording.load(path)
    assert exchange.request.body == b"body"
    assert exchange.reply.status == 200
    assert data_of(exchange.reply) == [b"yes"]


@pytest.mark.parametrize(
    ("method", "status", "fields"),
    [
        ("HEAD", 200, b"Content-Length: 5\r\nContent-Encoding: gzip\r\n"),
        ("HEAD", 200, b"Transfer-Encoding: chunked\r\n"),
        ("GET", 204, b""),
        ("GET", 304, b"Content-Length: 5\r\n"),
    ],
)
def test_an_answer_without_a_body_is_complete_with_its_head(
    path: Path, method: str, status: int, fields: bytes
) -> None:
    with serving(b"HTTP/1.1 %d X\r\n%b\r\n" % (status, fields), keep_alive=True) as peer:
        with plain_session(RecordingAdapter(path)) as session:
            for _ in range(2):
                assert session.request(method, peer.url).content == b""
        assert peer.connections == 1
    for reply in recorded(path):
        assert (reply.status, reply.ending.kind, reply.chunks) == (status, "complete", ())
        sent = "".join(f"{name}: {value}\r\n" for name, value in reply.headers)
        assert sent.encode() == fields


# One exchange for each request on the wire


def test_two_requests_on_one_connection_are_two_exchanges(path: Path) -> None:
    with serving(HEAD + framed(b"a", b"b") + END, keep_alive=True) as peer:
        with plain_session(RecordingAdapter(path)) as session:
            assert [session.get(peer.url).content for _ in range(3)] == [b"ab"] * 3
        assert peer.connections == 1
    assert [data_of(reply) for reply in recorded(path)] == [[b"a", b"b"]] * 3


def test_redirects_are_exchanges_of_their_own_and_cookies_stay_out_of_the_file(path: Path) -> None:
    moved = b"HTTP/1.1 302 Found\r\nLocation: /there\r\nSet-Cookie: sid=Zq81mcX0pLw2\r\nContent-Length: 4\r\n\r\naway"
    answers = [moved, HEAD + framed(b"here") + END]
    with serving(lambda connection: connection.sendall(answers.pop(0)), keep_alive=True) as peer:
        with plain_session(RecordingAdapter(path)) as session:
            assert session.get(f"{peer.url}/here").content == b"here"
        assert b"Cookie: sid=Zq81mcX0pLw2" in peer.requests[1]
    there, here = Recording.load(path)
    assert (there.request.url, here.request.url) == (f"{peer.url}/here", f"{peer.url}/there")
    assert (there.reply.status, data_of(there.reply)) == (302, [b"away"])
    assert there.started <= here.started
    assert here.request.headers.get("Cookie") is not None
    assert "Zq81mcX0pLw2" not in path.read_text()


def test_retries_are_exchanges_of_their_own(path: Path) -> None:
    busy = b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbusy"
    answers = [busy, b"", busy, HEAD + framed(b"at last") + END]
    inner = HTTPAdapter(max_retries=Retry(5, status_forcelist=[503], allowed_methods=None))
    adapter = RecordingAdapter(path, inner=inner)
    with serving(lambda one: one.sendall(answers.pop(0))) as peer, plain_session(adapter) as session:
        assert session.post(peer.url, json=BODY).content == b"at last"
    exchanges = Recording.load(path)
    assert [exchange.reply.status for exchange in exchanges] == [503, None, 503, 200]
    assert [exchange.reply.ending.kind for exchange in exchanges] == [
        "complete",
        "cut",
        "complete",
        "complete",
    ]
    assert len({exchange.request for exchange in exchanges}) == 1
    assert json.loads(exchanges[3].request.body) == BODY


def test_an_attempt_that_finds_its_idle_connection_gone_is_recorded(path: Path) -> None:
    """A server may close a connection while the next request is on its way."""
    first = threading.Event()

    def answer(connection: socket.socket) -> None:
        if not first.is_set():
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            first.set()
        else:
            connection.shutdown(socket.SHUT_RDWR)

    with serving(answer, keep_alive=True) as peer, plain_session(RecordingAdapter(path)) as session:
        assert session.get(peer.url).content == b"ok"
        with pytest.raises(requests.ConnectionError, match="aborted"):
            session.get(peer.url)
    gone = recorded(path)[1]
    assert gone.head is None
    assert gone.ending.kind in ("cut", "reset")


def test_a_tap_can_be_closed_while_another_thread_tells_of_an_answer(path: Path) -> None:
    tap = Tap(path)
    entry = tap.begin(Request("GET", "http://x/", Headers([("Authorization", "Bearer Zq81mcX0pLw2")])))
    entry.head(Head())
    entry.chunk(b"said Zq81")  # which waits for what follows
    inside, go = threading.Event(), threading.Event()

    def read() -> None:
        with tap.together:
            inside.set()
            go.wait(10)
            entry.chunk(b"mcX0pLw2")

    threads = [threading.Thread(target=read, daemon=True), threading.Thread(target=tap.close, daemon=True)]
    threads[0].start()
    inside.wait(10)
    threads[1].start()
    threads[1].join(0.2)  # it comes as far as it can
    go.set()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
    assert [chunk.data for chunk in recorded(path)[0].chunks] == [b"said REDA", b"CTEDREDA"]


def test_many_threads_record_all_of_their_requests(path: Path) -> None:
    fake = FakeAivvm()
    wrong: list[object] = []
    with fake.server() as server, plain_session(RecordingAdapter(path)) as session:

        def ask(thread: int) -> None:
            for n in range(25):
                message = f"{thread}-{n}"
                body = {**BODY, "messages": [{"role": "user", "content": message}]}
                answer = session.post(f"{server.url}/api/chat", json=body, timeout=10)
                if answer.text != message:
                    wrong.append((message, answer.text))

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
    exchanges = Recording.load(path)
    said = {exchange.request.json()["messages"][0]["content"]: exchange for exchange in exchanges}
    assert len(exchanges) == len(said) == 200
    for message, exchange in said.items():
        assert exchange.reply.body.decode() == message
        assert exchange.reply.ending.kind == "complete"
    assert [exchange.started for exchange in exchanges] == sorted(exchange.started for exchange in exchanges)


# Endings


def failing(path: Path, url: str, inner: Callable[[], HTTPAdapter] = HTTPAdapter, **options: Any) -> Reply:
    """The reply that a failing attempt is recorded as, once it is sure that the caller saw the same as without."""
    with plain_session(inner()) as bare:
        expected = seen(bare, url, **options)
    with plain_session(RecordingAdapter(path, inner=inner())) as session:
        got = seen(session, url, **options)
    assert got == expected
    assert got.error is not None
    assert got.error.__traceback__ is not None
    [reply] = recorded(path)
    return reply


@pytest.fixture
def refused() -> Iterator[str]:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{unused.getsockname()[1]}"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_refused_connection_is_recorded(path: Path, refused: str, scheme: str) -> None:
    reply = failing(path, f"{scheme}://{refused}/api/chat?a=1")
    assert reply == Reply(
        None, (), Ending("refused", reply.ending.at, error="[Errno 111] Connection refused")
    )
    [exchange] = Recording.load(path)
    assert exchange.request.url == f"{scheme}://{refused}/api/chat?a=1"
    assert exchange.request.headers.get("host") == refused
    assert exchange.request.headers.get("user-agent") == requests.utils.default_user_agent()
    assert exchange.request.json() == BODY


def test_each_attempt_to_connect_is_recorded(path: Path, refused: str) -> None:
    failing(path.with_name("one"), f"http://{refused}")
    adapter = RecordingAdapter(path, inner=HTTPAdapter(max_retries=2))
    with plain_session(adapter) as session, pytest.raises(requests.ConnectionError):
        session.get(f"http://{refused}")
    assert [reply.ending.kind for reply in recorded(path)] == ["refused"] * 3


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "unresolved"),
        (TimeoutError("timed out"), "unreachable"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "unreachable"),
    ],
    ids=["no such name", "connect timeout", "no route"],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_connection_that_never_was_is_recorded(
    path: Path, monkeypatch: pytest.MonkeyPatch, raised: OSError, kind: str, scheme: str
) -> None:
    def connect(*_: object, **__: object) -> socket.socket:
        raise raised

    monkeypatch.setattr("urllib3.util.connection.create_connection", connect)
    reply = failing(path, f"{scheme}://nowhere.invalid:81/x", headers={"HOST": "elsewhere"})
    assert (reply.head, reply.ending.kind, reply.ending.error) == (None, kind, str(raised))
    [exchange] = Recording.load(path)
    assert exchange.request.url == f"{scheme}://nowhere.invalid:81/x"
    assert exchange.request.headers.get_all("host") == ["elsewhere"]


def hang_up(connection: socket.socket) -> None:
    connection.recv(65536)


def no_tls(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@pytest.mark.parametrize("script", [no_tls, hang_up, reset])
def test_a_failed_handshake_is_recorded(path: Path, script: Callable[[socket.socket], None]) -> None:
    with listening(script) as port:
        reply = failing(path, f"https://127.0.0.1:{port}/")
    assert (reply.head, reply.ending.kind) == (None, "tls")


def test_a_certificate_that_nobody_vouches_for_is_recorded(path: Path) -> None:
    with listening(with_tls(b"")) as port:
        reply = failing(path, f"https://127.0.0.1:{port}")
    assert (reply.head, reply.ending.kind) == (None, "tls")
    assert "certificate verify failed" in (reply.ending.error or "")


def test_what_goes_through_tls_is_recorded_as_it_was_before_and_after(path: Path) -> None:
    script = with_tls(HEAD + framed(b"se", b"cret") + END)
    with listening(script) as port, plain_session(RecordingAdapter(path)) as session:
        for _ in range(2):
            assert session.get(f"https://localhost:{port}/x", verify=CERTIFICATE).text == "secret"
    for exchange in Recording.load(path):
        assert exchange.request.url == f"https://localhost:{port}/x"
        assert data_of(exchange.reply) == [b"se", b"cret"]


def test_without_tls_s_own_end_an_answer_is_cut(path: Path) -> None:
    def script(connection: socket.socket) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        secure = context.wrap_socket(connection, server_side=True)
        secure.recv(65536)
        secure.sendall(HEAD + framed(b"a"))
        os.close(secure.detach())

    with listening(script) as port:
        url = f"https://localhost:{port}"
        reply = failing(path, url, method="GET", verify=CERTIFICATE)
    assert (data_of(reply), reply.ending.kind) == ([b"a"], "cut")


def test_a_read_timeout_is_a_stall(path: Path) -> None:
    fake = FakeAivvm()
    fake.on(lambda _: True).reply(Reply.of("a", "b").stall(after=1), times=2)
    with fake.server() as server:
        reply = failing(path, server.url, timeout=(5, SILENCE))
    assert (data_of(reply), reply.ending.kind, reply.ending.error) == ([b"a"], "stall", "timed out")
    assert reply.ending.at >= SILENCE


def test_a_server_that_never_answers_is_a_stall_without_a_head(path: Path) -> None:
    fake = FakeAivvm()
    fake.on(lambda _: True).reply(Reply.no_answer("stall"), times=2)
    with fake.server() as server:
        reply = failing(path, server.url, timeout=(5, SILENCE))
    assert (reply.head, reply.ending.kind) == (None, "stall")


def test_a_connection_that_breaks_inside_a_chunk_ends_with_what_came_of_it(path: Path) -> None:
    with serving(HEAD + framed(b"whole") + b"6\r\npar") as peer:
        reply = failing(path, peer.url)
        with plain_session() as bare:
            expected = seen(bare, peer.url, "iter_content(1)")
    assert (data_of(reply), reply.ending.kind, reply.ending.data) == ([b"whole"], "cut", b"6\r\npar")
    with FakeAivvm.replaying(path).server() as server, plain_session() as session:
        assert classes(seen(session, server.url, "iter_content(1)")) == classes(expected)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 two hundred\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnot a size\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: 1\r\n" % n for n in range(101)) + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Len",
        b"",
    ],
    ids=["status", "not HTTP", "chunk size", "short", "too many fields", "half a head", "nothing"],
)
def test_what_is_no_answer_is_a_cut_that_a_replay_gives_again(path: Path, answer: bytes) -> None:
    with serving(answer) as peer:
        with plain_session() as bare:
            expected = seen(bare, peer.url)
        with plain_session(RecordingAdapter(path)) as session:
            assert seen(session, peer.url) == expected
    [reply] = recorded(path)
    assert reply.ending.kind == "cut"
    with FakeAivvm.replaying(path).server() as server, plain_session() as session:
        assert classes(seen(session, server.url)) == classes(expected)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nX-Good: 1\r\nno field\r\n\r\nthe body, to the end",
        HEAD + b"+2\r\nab\r\n0x1\r\nc\r\n" + END,
    ],
    ids=["a line without a colon", "odd sizes"],
)
def test_what_only_a_lenient_reader_reads_is_read_so_again(path: Path, answer: bytes) -> None:
    in_two_reads = Schedule(((0.0, answer[:-8]), (0.1, answer[-8:])), "close", 0.2)
    with plain_session(Memory(in_two_reads)) as bare:
        expected = seen(bare, "http://x/")
    with plain_session(RecordingAdapter(path, inner=Memory(in_two_reads))) as session:
        assert seen(session, "http://x/") == expected
    assert expected.error is None
    with FakeAivvm.replaying(path).server() as server, plain_session() as session:
        assert seen(session, server.url) == expected


# Readers that leave


def leaving(path: Path, leave: Callable[[requests.Response], object]) -> Reply:
    """What is recorded of a long stream whose reader has left it."""
    fake = FakeAivvm()
    fake.on(lambda _: True).reply(Reply.of("a", "b").stall())
    adapter = RecordingAdapter(path)
    with fake.server() as server, plain_session(adapter) as session:
        leave(session.get(server.url, stream=True, timeout=10))
        assert b'"end": "closed"' in Path(f"{path}.journal").read_bytes()
    [reply] = recorded(path)
    assert reply.ending.kind == "closed"
    return reply


def test_a_response_that_is_closed_early_is_recorded_as_closed(path: Path) -> None:
    def leave(response: requests.Response) -> None:
        assert next(response.iter_content(None)) == b"a"
        response.close()

    assert data_of(leaving(path, leave)) == [b"a", b"b"]  # both were there


def test_a_response_that_is_never_read_is_recorded_as_closed(path: Path) -> None:
    assert leaving(path, lambda response: response.close()).ending.kind == "closed"


def test_a_response_that_is_dropped_is_recorded_as_closed(path: Path) -> None:
    def leave(response: requests.Response) -> None:
        pieces = response.iter_content(1)
        assert next(pieces) == b"a"
        del response, pieces
        gc.collect()

    # The caller's own frame holds it no longer either.
    fake = FakeAivvm()
    fake.on(lambda _: True).reply(Reply.of("a").stall())
    with fake.server() as server, plain_session(RecordingAdapter(path)) as session:
        leave(session.get(server.url, stream=True, timeout=10))
        gc.collect()
        assert b'"end": "closed"' in Path(f"{path}.journal").read_bytes()


def test_a_reader_that_leaves_inside_a_chunk_may_leave_there_again(path: Path) -> None:
    silent = threading.Event()

    def script(connection: socket.socket) -> None:
        connection.sendall(HEAD + framed(b"a") + b"ff\r\nbegun")
        assert silent.wait(PATIENCE)

    with serving(script) as peer, plain_session(RecordingAdapter(path)) as session:
        with session.get(peer.url, stream=True, timeout=PATIENCE) as response:
            pieces = response.iter_content(4)
            assert [next(pieces), next(pieces)] == [b"a", b"begu"]
        silent.set()
    [reply] = recorded(path)
    assert (data_of(reply), reply.ending.kind, reply.ending.data) == ([b"a"], "closed", b"ff\r\nbegun")
    with FakeAivvm.replaying(path).server() as server, plain_session() as session:
        response = session.get(server.url, stream=True, timeout=PATIENCE)
        pieces = response.iter_content(4)
        assert [next(pieces), next(pieces)] == [b"a", b"begu"]
        response.close()


def test_an_exception_in_the_reader_s_loop_leaves_what_was_known(path: Path) -> None:
    def read(response: requests.Response) -> None:
        with response:
            for _ in response.iter_content(None):
                raise KeyboardInterrupt

    def leave(response: requests.Response) -> None:
        with pytest.raises(KeyboardInterrupt):
            read(response)

    assert data_of(leaving(path, leave)) == [b"a", b"b"]


def test_an_interrupt_while_waiting_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = Memory(Reply.of("a"))
    monkeypatch.setattr(Line, "receive", interrupted)
    adapter = RecordingAdapter(path, inner=inner, clock=inner.clock)
    with plain_session(adapter) as session, pytest.raises(KeyboardInterrupt):
        session.get("http://x/")
    [reply] = recorded(path)
    assert reply == Reply(None, (), Ending("closed", error="KeyboardInterrupt: ^C"))


def interrupted(*_: object) -> bytes:
    raise KeyboardInterrupt("^C")


def test_streams_that_are_open_when_the_session_closes_are_closed_and_go_on(path: Path) -> None:
    more = threading.Event()

    def answer(connection: socket.socket) -> None:
        connection.sendall(HEAD + framed(b"first"))
        assert more.wait(10)
        connection.sendall(framed(b"second") + END)

    with serving(answer) as peer:
        session = plain_session(RecordingAdapter(path))
        response = session.get(peer.url, stream=True, timeout=10)
        session.close()
        more.set()
        assert response.content == b"firstsecond"
    [reply] = recorded(path)
    assert (data_of(reply), reply.ending.kind) == ([b"first"], "closed")


# Content-codings


def zipped(*parts: bytes) -> list[bytes]:
    """A gzip stream in pieces that each decode to one of the parts."""
    packer = zlib.compressobj(wbits=31)
    pieces = [packer.compress(part) + packer.flush(zlib.Z_SYNC_FLUSH) for part in parts]
    return [*pieces[:-1], pieces[-1] + packer.flush()]


def coded(coding: bytes, *chunks: bytes) -> bytes:
    return HEAD[:-2] + b"Content-Encoding: " + coding + b"\r\n\r\n" + framed(*chunks) + END


def test_a_coded_answer_is_recorded_decoded_chunk_by_chunk(path: Path) -> None:
    answer = coded(b"gzip", *zipped(b"one", "двa".encode(), b"three"))
    with serving(answer) as peer, plain_session(RecordingAdapter(path)) as session:
        assert session.get(peer.url).content == "oneдвathree".encode()
    [reply] = recorded(path)
    assert data_of(reply) == [b"one", "двa".encode(), b"three"]
    assert reply.head is not None
    assert reply.head.headers == Headers([("Transfer-Encoding", "chunked")])
    assert reply.head.decoded == Headers([("Content-Encoding", "gzip")])


@pytest.mark.parametrize(
    ("coding", "chunks"),
    [(b"gzip", [b"this is no gzip"]), (b"made-up", [b"a", b"b"]), (b"gzip", [])],
    ids=["not what it says", "unknown", "no body"],
)
def test_an_answer_that_does_not_decode_is_recorded_as_received(
    path: Path, coding: bytes, chunks: list[bytes]
) -> None:
    with serving(coded(coding, *chunks)) as peer:
        with plain_session() as bare:
            expected = seen(bare, peer.url)
        with plain_session(RecordingAdapter(path)) as session:
            assert seen(session, peer.url) == expected
    [reply] = recorded(path)
    assert (data_of(reply), reply.ending.kind) == (chunks, "complete")
    assert reply.headers.get("content-encoding") == coding.decode()
    with FakeAivvm.replaying(path).server() as server, plain_session() as session:
        assert classes(seen(session, server.url)) == classes(expected)


def test_an_answer_whose_coding_lacks_its_end_is_cut_where_readers_miss_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finish(_: Decoding) -> None:
        raise ValueError("the end of its zstd is missing")

    monkeypatch.setattr(Decoding, "finish", finish)
    answer = coded(b"gzip", *zipped(b"one"))
    with serving(answer) as peer, plain_session(RecordingAdapter(path)) as session:
        assert session.get(peer.url).content == b"one"
    [reply] = recorded(path)
    assert (data_of(reply), reply.ending.kind) == ([b"one"], "cut")
    assert (
        reply.ending.error
        == "the answer does not decode as its content-encoding says: the end of its zstd is missing"
    )


def test_a_chunk_that_decodes_to_nothing_yet_is_no_chunk(path: Path) -> None:
    [packed] = zipped(b"one")
    answer = coded(b"gzip", packed[:10], packed[10:])
    with serving(answer) as peer, plain_session(RecordingAdapter(path)) as session:
        assert session.get(peer.url).content == b"one"
    assert data_of(recorded(path)[0]) == [b"one"]


def test_an_answer_that_is_damaged_further_on_is_cut_there(path: Path) -> None:
    with serving(coded(b"gzip", zipped(b"one", b"two")[0], b"\xff" * 9)) as peer:
        reply = failing(path, peer.url)
    assert (data_of(reply), reply.ending.kind, reply.ending.data) == ([b"one"], "cut", b"")
    assert (reply.ending.error or "").startswith("the answer does not decode as its content-encoding says: ")


def test_a_coded_answer_that_breaks_inside_a_chunk_ends_with_what_came_of_it(path: Path) -> None:
    one, two = zipped(b"one", b"two" * 5)
    broken = coded(b"gzip", one)[: -len(END)] + b"%x\r\n%b" % (len(two), two[:-9])
    with serving(broken) as peer:
        reply = failing(path, peer.url)
    assert (data_of(reply), reply.ending.kind) == ([b"one"], "cut")
    size, _, part = reply.ending.data.partition(b"\r\n")
    assert part == b"two" * 5
    assert int(size, 16) > len(part)


def test_what_came_of_a_chunk_and_does_not_decode_is_left_out(path: Path) -> None:
    whole = coded(b"gzip", zipped(b"one", b"two")[0])
    with serving(whole[: -len(END)] + b"9\r\n\xff\xff\xff") as peer:
        reply = failing(path, peer.url)
    assert (data_of(reply), reply.ending.kind, reply.ending.data) == ([b"one"], "cut", b"")


@given(st.data(), st.sampled_from(["gzip", "x-gzip", "deflate", "raw deflate", "gzip, deflate", "identity"]))
def test_decoding_gives_what_came_as_soon_as_it_can(data: st.DataObject, coding: str) -> None:
    text = data.draw(well_formed_text()).encode()
    packed = text
    for name in coding.split(", "):
        if name != "identity":
            wbits = {"deflate": 15, "raw deflate": -15}.get(name, 31)
            packer = zlib.compressobj(wbits=wbits)
            packed = packer.compress(packed) + packer.flush()
    decoding = Decoding(coding.removeprefix("raw "))
    assert b"".join([decoding.feed(part) for part in data.draw(chunkings(packed))]) == text
    decoding.finish()


def test_decoding_ignores_what_readers_ignore_after_the_end() -> None:
    two = gzip.compress(b"one") + gzip.compress(b"two")
    assert Decoding("gzip").feed(two + b"padding") == b"onetwo"
    decoding = Decoding("gzip")
    assert [decoding.feed(part) for part in (two, b"\x1f\x8b", b"padding", b"more")] == [
        b"onetwo",
        b"",
        b"",
        b"",
    ]
    decoding = Decoding("deflate")
    assert decoding.feed(zlib.compress(b"one") + b"padding") == b"one"
    assert decoding.feed(b"more") == b""


def test_decoding_leaves_other_codings_to_urllib3(monkeypatch: pytest.MonkeyPatch) -> None:
    class Backwards:
        def __init__(self, coding: str) -> None:
            assert coding == "br"

        def decompress(self, data: bytes) -> bytes:
            if b"!" in data:
                raise urllib3.exceptions.DecodeError("an exclamation mark")
            return data[::-1]

        def flush(self) -> bytes:
            raise urllib3.exceptions.DecodeError("no full stop")

    monkeypatch.setattr("urllib3.response.HTTPResponse.CONTENT_DECODERS", ["gzip", "br"])
    monkeypatch.setattr("urllib3.response.MultiDecoder", Backwards)
    decoding = Decoding("BR")
    assert decoding.feed(b"eno") == b"one"
    with pytest.raises(ValueError, match="damaged br: an exclamation mark"):
        decoding.feed(b"!")
    with pytest.raises(ValueError, match="the end of its br is missing: no full stop"):
        decoding.finish()


def test_decoding_refuses_what_it_cannot_do() -> None:
    for coding in ("made-up", "gzip, made-up", ", ".join(["gzip"] * 6)):
        with pytest.raises(ValueError, match=r"installed|more than 5"):
            Decoding(coding)
    bomb = gzip.compress(b"\0" * (MAX_PART + 1), 1)
    with pytest.raises(ValueError, match=f"unpack to more than {MAX_PART}"):
        Decoding("gzip").feed(bomb)
    for coding in ("gzip", "deflate"):
        with pytest.raises(ValueError, match="damaged"):
            Decoding(coding).feed(b"\xff" * 20)


# Other people's adapters, and what else is on the way


class Signing(HTTPAdapter):
    """Overrides what people override."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        super().__init__(max_retries=Retry(1, status_forcelist=[503], raise_on_status=False))

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        self.asked.append("send")
        request.headers["X-Signed"] = "yes"
        return super().send(request, *args, **options)

    def get_connection_with_tls_context(self, *args: Any, **options: Any) -> Any:
        self.asked.append("connection")
        return super().get_connection_with_tls_context(*args, **options)

    def add_headers(self, request: requests.PreparedRequest, **_: Any) -> None:
        request.headers["X-Added"] = "yes"


def test_what_the_inner_adapter_overrides_and_sets_applies(path: Path) -> None:
    inner = Signing()
    fake = FakeAivvm()
    fake.on(lambda _: True).reply(Reply.error(503), times=2)
    with fake.server() as server, plain_session(RecordingAdapter(path, inner=inner)) as session:
        answer = session.get(server.url)
    assert answer.status_code == 503
    assert inner.asked == ["send", "connection"]
    assert [request.headers.get("X-Signed") for request in fake.requests] == ["yes"] * 2
    assert [request.headers.get("X-Added") for request in fake.requests] == ["yes"] * 2
    assert [exchange.request for exchange in Recording.load(path)] == fake.requests


def test_somebody_s_adapter_and_its_connections_are_left_as_they_were(path: Path) -> None:
    adapter = HTTPAdapter()
    before = dict(vars(adapter))
    tap = Tap(path)
    with serving(HEAD + framed(b"a") + END, keep_alive=True) as peer, plain_session(adapter) as session:
        request = session.prepare_request(requests.Request("GET", peer.url))
        assert adapter.send(request).content == b"a"
        pool = adapter.get_connection_with_tls_context(request, verify=True)
        assert pool.pool is not None
        idle = pool.pool.queue[-1]
        found = idle.sock
        answer = tapped(adapter, tap).send(request, stream=True)
        assert answer.connection is adapter
        assert idle.sock is found
        assert answer.content == b"a"
        assert pool.pool.queue[-1] is idle
        assert adapter.send(request).content == b"a"
        del answer, pool  # so that the session can close it
        assert peer.connections == 1
    tap.close()
    assert vars(adapter) == before
    assert "connect" not in vars(idle)
    assert [data_of(reply) for reply in recorded(path)] == [[b"a"]]  # of three, the one that was tapped


def test_every_session_can_be_recorded_where_adapters_send(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tap = Tap(path)
    send = HTTPAdapter.send

    def recording(
        adapter: HTTPAdapter, request: requests.PreparedRequest, **options: Any
    ) -> requests.Response:
        return send(tapped(adapter, tap), request, **options)

    monkeypatch.setattr(HTTPAdapter, "send", recording)
    fake = FakeAivvm()
    fake.on(lambda _: True).reply("yes", times=4)
    inner = Signing()
    with fake.server() as server, plain_session(inner) as signing, plain_session() as plain:
        for session in (plain, signing, signing):
            assert session.get(server.url).content == b"yes"
        assert session.get(server.url).connection is inner
    tap.close()
    assert inner.asked == ["send", "connection"] * 3
    assert [exchange.request for exchange in Recording.load(path)] == fake.requests


def test_an_adapter_that_is_tapped_already_stays_so(path: Path) -> None:
    taps = Tap(path), Tap(path.with_name("other"))
    once = tapped(HTTPAdapter(), taps[0])
    assert tapped(once, taps[1]) is once
    for tap in taps:
        tap.close()


def test_who_sends_again_through_the_response_s_connection_is_recorded_too(path: Path) -> None:
    challenge = (
        b'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Digest realm="r", nonce="n", qop="auth"\r\n'
        b"Content-Length: 0\r\n\r\n"
    )
    answers = [challenge, HEAD + framed(b"welcome") + END]

    def script(connection: socket.socket) -> None:
        connection.sendall(answers.pop(0))

    with serving(script, keep_alive=True) as peer, plain_session(RecordingAdapter(path)) as session:
        answered = session.get(peer.url, auth=HTTPDigestAuth("user", "password")).content
    assert answered == b"welcome"
    assert [reply.status for reply in recorded(path)] == [401, 200]


def test_the_socket_can_still_be_reached_through_the_response(path: Path) -> None:
    with serving(HEAD + framed(b"a") + END) as peer, plain_session(RecordingAdapter(path)) as session:
        answer = session.get(peer.url, stream=True)
        assert answer.raw._fp.fp.raw._sock.getpeername()[1] == peer.port
        assert answer.raw._fp.fp.fileno() >= 0
        assert answer.content == b"a"


def test_a_request_through_a_proxy_is_recorded_as_if_there_was_none(path: Path) -> None:
    with serving(HEAD + framed(b"via") + END) as proxy, plain_session(RecordingAdapter(path)) as session:
        session.proxies = {"http": f"http://me:pa55w0rd-of-mine@127.0.0.1:{proxy.port}"}
        assert session.get("http://chat.aivvm.invalid/a?b=c").content == b"via"
        assert b"Proxy-Authorization: Basic" in proxy.requests[0]
    [exchange] = Recording.load(path)
    assert exchange.request.url == "http://chat.aivvm.invalid/a?b=c"
    assert exchange.request.headers.get("proxy-authorization") is None
    assert exchange.request.headers.get("host") == "chat.aivvm.invalid"
    assert data_of(exchange.reply) == [b"via"]


def test_a_request_through_a_tunnel_is_recorded_as_if_there_was_none(path: Path) -> None:
    inside = with_tls(HEAD + framed(b"in", b"side") + END)
    asked = []

    def tunnel(connection: socket.socket) -> None:
        asked.append(connection.recv(65536))
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        inside(connection)

    with listening(tunnel) as port, plain_session(RecordingAdapter(path)) as session:
        session.proxies = {"https": f"http://me:pa55w0rd-of-mine@127.0.0.1:{port}"}
        for _ in range(2):
            assert session.get("https://localhost/x", verify=CERTIFICATE).text == "inside"
    assert len(asked) == 1
    assert b"Proxy-Authorization: Basic" in asked[0]
    for exchange in Recording.load(path):
        assert exchange.request.url == "https://localhost/x"
        assert exchange.request.headers.get("proxy-authorization") is None
        assert data_of(exchange.reply) == [b"in", b"side"]


def test_a_request_through_a_tunnel_within_tls_is_recorded_as_if_there_was_none(path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    target = with_tls(HEAD + framed(b"in", b"side") + END)

    def tunnel(connection: socket.socket) -> None:
        with (
            context.wrap_socket(connection, server_side=True) as outer,
            socket.create_connection(("127.0.0.1", target_port)) as onward,
            suppress(OSError),
        ):
            outer.recv(65536)
            outer.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            to = {outer: onward, onward: outer}  # by one thread, as no two may use a connection with TLS
            while ready := [outer] if outer.pending() else select.select([*to], [], [], PATIENCE)[0]:
                for one in ready:
                    if not (data := one.recv(65536)):
                        return
                    to[one].sendall(data)

    with (
        listening(target) as target_port,
        listening(tunnel) as port,
        plain_session(RecordingAdapter(path)) as session,
    ):
        session.proxies = {"https": f"https://localhost:{port}"}
        for _ in range(2):
            assert session.get("https://localhost/x", verify=CERTIFICATE).text == "inside"
    for exchange in Recording.load(path):
        assert exchange.request.url == "https://localhost/x"
        assert data_of(exchange.reply) == [b"in", b"side"]


def test_a_tunnel_that_a_proxy_refuses_is_recorded(path: Path) -> None:
    def refuse(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")

    with listening(refuse) as port:
        proxies = {"https": f"http://127.0.0.1:{port}"}
        reply = failing(path, "https://chat.aivvm.invalid/x", proxies=proxies)
    assert (reply.head, reply.ending.kind) == (None, "unreachable")
    assert "407" in (reply.ending.error or "")
    [exchange] = Recording.load(path)
    assert exchange.request.url == "https://chat.aivvm.invalid/x"
    assert exchange.request.headers.get("host") == "chat.aivvm.invalid"


class Slotted(HTTPAdapter):
    __slots__ = ("secret",)

    def __init__(self) -> None:
        self.secret = "kept elsewhere"
        super().__init__()

    def add_headers(self, request: requests.PreparedRequest, **_: Any) -> None:
        request.headers["X-Slot"] = self.secret


class SlottedPool(urllib3.HTTPConnectionPool):
    __slots__ = ("limit",)

    def _validate_conn(self, conn: Any) -> None:
        assert self.limit == 1


def test_state_that_is_not_in_a_dictionary_is_shared_too(path: Path) -> None:
    class Inner(Slotted):
        def get_connection_with_tls_context(self, *_: Any, **__: Any) -> Any:
            pool = SlottedPool("127.0.0.1", peer.port)
            pool.limit = 1
            return pool

    adapter = RecordingAdapter(path, inner=Inner())
    with serving(HEAD + framed(b"a") + END) as peer, plain_session(adapter) as session:
        assert session.get(peer.url).content == b"a"
    assert Recording.load(path)[0].request.headers.get("x-slot") == "kept elsewhere"


def with_connections(change: Callable[[Any], None]) -> HTTPAdapter:
    class Inner(HTTPAdapter):
        def get_connection_with_tls_context(self, *args: Any, **options: Any) -> Any:
            pool = super().get_connection_with_tls_context(*args, **options)
            conn = pool._get_conn()
            change(conn)
            pool._put_conn(conn)
            return pool

    return Inner()


def test_what_somebody_did_to_a_connection_stays_done(path: Path) -> None:
    connected: list[Any] = []

    def change(conn: Any) -> None:
        def connect() -> None:
            connected.append(conn)
            type(conn).connect(conn)

        conn.connect = connect

    adapter = RecordingAdapter(path, inner=with_connections(change))
    with serving(HEAD + framed(b"a") + END) as peer, plain_session(adapter) as session:
        assert session.get(peer.url).content == b"a"
    [conn] = connected
    assert vars(conn)["connect"].__name__ == "connect"
    assert len(recorded(path)) == 1


class Final(urllib3.HTTPConnectionPool):
    def __init_subclass__(cls) -> None:
        raise TypeError("a pool of which there is no other kind")


@pytest.mark.parametrize("kind", [Final, object], ids=["no subclasses", "no pool"])
def test_connections_that_cannot_be_tapped_are_used_and_said_to_be_missing(path: Path, kind: Any) -> None:
    class Inner(HTTPAdapter):
        def get_connection_with_tls_context(self, *_: Any, **__: Any) -> Any:
            if kind is Final:
                return Final("127.0.0.1", peer.port)
            real = urllib3.HTTPConnectionPool("127.0.0.1", peer.port)
            return SimpleNamespace(urlopen=real.urlopen)

    adapter = RecordingAdapter(path, inner=Inner())
    with serving(HEAD + framed(b"fine") + END) as peer:
        assert plain_session(adapter).get(peer.url).content == b"fine"
    with pytest.raises(SetupFailure, match=r"no other kind|on no connection"):
        adapter.close()


# Recording never hurts


@pytest.mark.parametrize("broken", ["feed", "finish"])
def test_what_goes_wrong_with_the_recording_is_raised_when_it_is_closed(
    path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a mistake in the tap")

    adapter = RecordingAdapter(path)
    with serving(b"HTTP/1.1 200 OK\r\n\r\nfine") as peer:
        session = plain_session(adapter)
        with monkeypatch.context() as patch:
            patch.setattr(AnswerParser, broken, fail)
            assert session.get(peer.url).content == b"fine"
        assert session.get(peer.url).content == b"fine"
    with pytest.raises(
        SetupFailure, match="not all was recorded as it was: RuntimeError: a mistake in the tap"
    ):
        session.close()
    adapter.close()
    assert [reply.ending.kind for reply in recorded(path)] == ["closed", "complete"]


def test_a_full_disk_is_not_the_caller_s_business(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    adapter = RecordingAdapter(path)
    with serving(HEAD + framed(b"fine") + END) as peer, monkeypatch.context() as patch:
        patch.setattr("aivvm_testing.journal.Journal._write", full)
        assert plain_session(adapter).get(peer.url).content == b"fine"
    with pytest.raises(OSError, match="No space left"):
        adapter.close()


def test_an_answer_that_comes_from_somewhere_else_is_said_to_be_missing(path: Path) -> None:
    adapter = RecordingAdapter(path)
    with responses.RequestsMock() as mock:
        mock.get("http://chat.aivvm.invalid/?token=Zq81mcX0pLw2", body="mocked")
        answer = plain_session(adapter).get("http://chat.aivvm.invalid/?token=Zq81mcX0pLw2")
        assert answer.content == b"mocked"
    with pytest.raises(SetupFailure, match="is not recorded: did something else answer") as caught:
        adapter.close()
    assert "Zq81mcX0pLw2" not in str(caught.value)
    assert recorded(path) == []


def test_an_answer_that_is_read_past_the_tap_is_said_to_be_missing(path: Path) -> None:
    class Around:
        def __init__(self, sock: Any) -> None:
            self.makefile = lambda _: io.BufferedReader(sock.makefile("rb", 0))

    class Response(http.client.HTTPResponse):
        def __init__(self, sock: Any, *args: Any, **options: Any) -> None:
            super().__init__(Around(sock), *args, **options)  # type: ignore[arg-type]  # what is used of one

    def change(conn: Any) -> None:
        conn.response_class = Response

    adapter = RecordingAdapter(path, inner=with_connections(change))
    with serving(HEAD + framed(b"fine") + END) as peer:
        assert plain_session(adapter).post(peer.url, b"asked").content == b"fine"
    with pytest.raises(SetupFailure, match=r"a POST to 127.0.0.1:[0-9]+ is not recorded: it is not read as"):
        adapter.close()
    (exchange,) = Recording.load(path)
    assert exchange.request.body == b"asked"
    assert exchange.reply.ending.error == "the rest could not be recorded"


def test_a_socket_that_has_nothing_to_say_yet_is_not_at_its_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LineReader, "readinto", lambda *_: None)
    with plain_session(Memory(Reply.of("a"))) as bare:
        expected = seen(bare, "http://x/")
    with plain_session(RecordingAdapter(path, inner=Memory(Reply.of("a")))) as session:
        assert seen(session, "http://x/") == expected
    assert [reply.ending.kind for reply in recorded(path)] == ["cut"]


def test_a_body_that_cannot_be_told_is_said_to_be_missing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aivvm_testing.wire.MAX_BODY", 10)
    monkeypatch.setattr(
        RequestParser.__init__, "__kwdefaults__", {**RequestParser.__init__.__kwdefaults__, "max_body": 10}
    )
    adapter = RecordingAdapter(path)
    with serving(HEAD + framed(b"fine") + END) as peer, plain_session(adapter) as session:
        assert session.post(peer.url, data=b"x" * 11).content == b"fine"
        assert session.post(peer.url, data=io.BytesIO(b"x" * 11)).content == b"fine"
        with pytest.raises(SetupFailure, match=r"the body of a POST to 127.0.0.1:.* at most 10 bytes"):
            adapter.close()
    assert [len(exchange.request.body) for exchange in Recording.load(path)] == [11, 0]


def test_a_closed_adapter_refuses_to_send_what_it_would_not_record(path: Path) -> None:
    with RecordingAdapter(path) as adapter:
        session = plain_session(adapter)
    with pytest.raises(SetupFailure, match=r"this adapter is closed, and .* is written: make a new one"):
        session.get("http://127.0.0.1:1/")


def test_a_tap_that_is_closed_lets_a_request_pass(path: Path) -> None:
    tap = Tap(path)
    tap.close()
    with serving(HEAD + framed(b"fine") + END) as peer, plain_session() as session:
        request = session.prepare_request(requests.Request("GET", peer.url))
        assert tapped(HTTPAdapter(), tap).send(request).content == b"fine"
    tap.close()
    assert recorded(path) == []


def test_misuse_is_refused_at_the_call(path: Path) -> None:
    with pytest.raises(TypeError, match="inner takes an HTTPAdapter"):
        RecordingAdapter(path, inner=requests.Session())  # type: ignore[arg-type]  # that is the point

    class Alone(HTTPAdapter):
        def __init_subclass__(cls) -> None:
            raise TypeError("an adapter of which there is no other kind")

    with pytest.raises(TypeError, match="no other kind"):
        RecordingAdapter(path, inner=Alone())
    assert not list(path.parent.iterdir())
    with RecordingAdapter(path), pytest.raises(FileExistsError):
        RecordingAdapter(path)


@pytest.mark.parametrize("at", [1, 2], ids=["request", "answer"])
def test_an_exception_of_a_signal_handler_reaches_the_caller(path: Path, at: int) -> None:
    class Late(Exception):
        pass

    class Alarming(SystemClock):
        """A signal comes while the tap looks at the clock."""

        moments = 0

        def timer(self) -> Any:
            return self

        def exchange(self) -> Any:
            return nullcontext(self)

        def elapsed(self) -> float:
            self.moments += 1
            if self.moments == at:
                signal.raise_signal(signal.SIGINT)
            return 0.0

    def handler(signum: int, frame: object) -> None:
        raise Late

    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(HEAD + framed(b"a") + END)

    before = signal.signal(signal.SIGINT, handler)
    try:
        with (
            listening(answer) as port,
            plain_session(RecordingAdapter(path, clock=Alarming())) as session,
            pytest.raises(Late),
        ):
            session.get(f"http://127.0.0.1:{port}/")
    finally:
        signal.signal(signal.SIGINT, before)
    (reply,) = recorded(path)
    assert (reply.ending.kind, reply.ending.error) == ("closed", "Late")
