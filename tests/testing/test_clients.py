"""Any client can read the server: each sees the chunks, the text and the ending as well as it can see them at all.

Each client is a small function that asks once, `(url, body, timeout) -> Seen`, and gives an ending of ours for its own
names of errors. What a client cannot see is said with it, in `CLIENTS`, or in `TOLD_OTHERWISE`. One that is not
installed is skipped. Nothing here sleeps: where time must pass, a reply of the server takes that time.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate
from types import ModuleType
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

from aivvm.payload import build_request
from aivvm_testing import FakeAivvm, Reply, UnmatchedRequest, fixtures, wait

CHAT = build_request("gpt-4", [{"role": "user", "content": "Hello"}]).body
JSON = {"content-type": "application/json"}
PATIENCE = {"stall": 0.5, "silence": 0.2}
"""Seconds that a client waits for a server that falls silent: long enough to have read what came before."""


@dataclass
class Seen:
    """What a client got, in its own pieces, and how that ended: a kind of `Ending`, or `empty` for no answer at all."""

    status: int | None = None
    reason: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    ending: str = "complete"

    def head(self, status: int, reason: str, headers: Mapping[str, str]) -> None:
        self.status, self.reason = status, reason
        self.headers = {name.lower(): value for name, value in headers.items()}

    @contextmanager
    def ends(self, kinds: Mapping[type[Exception], str]) -> Iterator[None]:
        """Exceptions of these classes, the first that fits, are these endings."""
        try:
            yield
        except tuple(kinds) as error:
            kind = next(kind for one, kind in kinds.items() if isinstance(error, one))
            self.ending = "empty" if kind == "cut" and self.status is None else kind


# The clients


OF_CURL = {0: "complete", 7: "refused", 18: "cut", 28: "stall", 52: "empty", 56: "reset"}


def ask_curl(url: str, body: bytes, timeout: float) -> Seen:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    command = ["curl", "-q", "--silent", "--no-buffer", "--include", "--noproxy", "*", "--data-binary", "@-"]
    fields = [part for name, value in JSON.items() for part in ("--header", f"{name}: {value}")]
    command += [*fields, "--max-time", str(timeout), url]
    done = subprocess.run(command, input=body, capture_output=True)
    seen = Seen()
    seen.ending = OF_CURL[done.returncode]
    if done.stdout:
        head, _, data = done.stdout.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        _, status, reason = first.split(" ", 2)
        seen.head(int(status), reason, dict(line.split(": ", 1) for line in lines))
        seen.chunks = [data]
    return seen


OF_HTTP_CLIENT: dict[type[Exception], str] = {
    http.client.IncompleteRead: "cut",
    http.client.RemoteDisconnected: "cut",  # it is a ConnectionResetError, too
    ConnectionResetError: "reset",
    ConnectionRefusedError: "refused",
    TimeoutError: "stall",
}


def ask_http_client(url: str, body: bytes, timeout: float) -> Seen:
    seen = Seen()
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=timeout)
    try:
        with seen.ends(OF_HTTP_CLIENT):
            connection.request("POST", urlsplit(url).path, body, JSON)
            response = connection.getresponse()
            seen.head(response.status, response.reason, response.headers)
            while piece := response.read1():
                seen.chunks.append(piece)
    finally:
        connection.close()
    return seen


def ask_urllib(url: str, body: bytes, timeout: float) -> Seen:
    seen = Seen()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, body, JSON)
    with seen.ends(OF_HTTP_CLIENT):
        try:
            response = opener.open(request, timeout=timeout)
        except urllib.error.HTTPError as error:
            response = error
        except urllib.error.URLError as error:
            raise error.reason from None  # before the answer, the error is wrapped
        with response:
            seen.head(response.status, response.reason, response.headers)
            try:
                seen.chunks.append(response.read())
            except http.client.IncompleteRead as error:
                seen.chunks.append(error.partial)
                raise
    return seen


def ask_aiohttp(url: str, body: bytes, timeout: float) -> Seen:
    aiohttp = pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    seen = Seen()

    async def ask() -> None:
        patience = aiohttp.ClientTimeout(sock_read=timeout)
        async with (
            aiohttp.ClientSession(timeout=patience) as session,
            session.post(url, data=body, headers=JSON) as response,
        ):
            reason = response.reason.encode("utf-8", "surrogateescape").decode("latin-1")
            seen.head(response.status, reason, response.headers)
            chunk = b""
            async for data, whole in response.content.iter_chunks():
                chunk += data
                if chunk and (whole or not response.headers.get("transfer-encoding")):
                    seen.chunks.append(chunk)
                    chunk = b""

    kinds = {
        aiohttp.ServerTimeoutError: "stall",
        aiohttp.ServerDisconnectedError: "cut",
        aiohttp.ClientConnectorError: "refused",
        aiohttp.ClientOSError: "reset",
        aiohttp.ClientPayloadError: "cut",
    }
    with seen.ends(kinds):
        try:
            asyncio.run(ask())
        except aiohttp.ClientPayloadError as error:
            # After the head, a reset is told from a cut by the text alone.
            if "ConnectionResetError" in str(error):
                raise aiohttp.ClientOSError from error
            raise
    return seen


def ask_httpx(url: str, body: bytes, timeout: float) -> Seen:
    httpx = pytest.importorskip("httpx", reason="httpx is not installed")
    seen = Seen()
    with (
        seen.ends(of_httpx()),
        httpx.Client(timeout=httpx.Timeout(10, read=timeout)) as client,
        client.stream("POST", url, content=body, headers=JSON) as response,
    ):
        # `reason_phrase` leaves out what is not ASCII.
        seen.head(
            response.status_code, response.extensions["reason_phrase"].decode("latin-1"), response.headers
        )
        for piece in response.iter_raw():
            seen.chunks.append(piece)
    return seen


def ask_httpx_async(url: str, body: bytes, timeout: float) -> Seen:
    httpx = pytest.importorskip("httpx", reason="httpx is not installed")
    seen = Seen()

    async def ask() -> None:
        async with (
            httpx.AsyncClient(timeout=httpx.Timeout(10, read=timeout)) as client,
            client.stream("POST", url, content=body, headers=JSON) as response,
        ):
            reason = response.extensions["reason_phrase"].decode("latin-1")
            seen.head(response.status_code, reason, response.headers)
            async for piece in response.aiter_raw():
                seen.chunks.append(piece)

    with seen.ends(of_httpx()):
        asyncio.run(ask())
    return seen


def of_httpx() -> dict[type[Exception], str]:
    import httpx

    return {
        httpx.ReadTimeout: "stall",
        httpx.ConnectError: "refused",
        httpx.ReadError: "reset",
        httpx.RemoteProtocolError: "cut",
    }


FETCH = """
import { createInterface } from 'node:readline';
for await (const line of createInterface({ input: process.stdin })) {
  const [url, body, timeout] = JSON.parse(line), seen = { chunks: [] };
  try {
    const headers = { 'content-type': 'application/json' };
    const signal = AbortSignal.timeout(1000 * timeout);
    const response = await fetch(url, { method: 'POST', body, headers, signal });
    seen.head = [response.status, response.statusText, Object.fromEntries(response.headers)];
    for await (const piece of response.body) seen.chunks.push(Buffer.from(piece).toString('base64'));
  } catch (error) {
    seen.error = error.cause?.code ?? error.name;
  }
  console.log(JSON.stringify(seen));
}
"""


@cache
def node() -> subprocess.Popen[str]:
    """A node that fetches what it reads about on its stdin: to start one takes longer than what it does here."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version[1:].split(".")[0]) < 18:
        pytest.skip(f"node {version} is too old: fetch came with 18")
    command = ["node", "--input-type=module", "--eval", FETCH]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module", autouse=True)
def _node_ends() -> Iterator[None]:
    yield
    if node.cache_info().currsize:
        with node() as process:
            process.stdin.close()
            assert process.wait(10) == 0
    node.cache_clear()


def ask_node(url: str, body: bytes, timeout: float) -> Seen:
    process = node()
    print(json.dumps([url, body.decode(), timeout]), file=process.stdin, flush=True)
    got = json.loads(process.stdout.readline())
    seen = Seen(chunks=[base64.b64decode(piece) for piece in got["chunks"]])
    if "head" in got:
        seen.head(*got["head"])
    if error := got.get("error"):
        kinds = {
            "UND_ERR_SOCKET": "cut" if seen.status else "empty",
            "ECONNRESET": "reset",
            "ECONNREFUSED": "refused",
            "TimeoutError": "stall",
        }
        seen.ending = kinds[error]
    return seen


class Client(NamedTuple):
    """`keeps_chunks`: never joins two. `keeps_all`: before it tells of a break, it hands on all that came before it."""

    ask: Callable[[str, bytes, float], Seen]
    keeps_chunks: bool = False
    keeps_all: bool = True
    reason: Callable[[str], str] = str  # what it makes of a reason phrase


CLIENTS = {
    "curl": Client(ask_curl),
    "http.client": Client(ask_http_client, keeps_chunks=True),
    "urllib.request": Client(ask_urllib, keeps_all=False),
    "aiohttp": Client(ask_aiohttp, keeps_chunks=True, keeps_all=False),
    "httpx": Client(ask_httpx, keeps_chunks=True),
    "httpx, asynchronous": Client(ask_httpx_async, keeps_chunks=True),
    "fetch of node": Client(
        ask_node,
        keeps_all=False,
        reason=lambda reason: reason.encode("latin-1").decode("utf-8", "replace"),
    ),
}

# What is sent, and its ending

BREAK = wait(0.02)
REPLIES: dict[str, tuple[Reply, str]] = {
    "several chunks": (Reply.of("one ", "two ", BREAK, "three"), "complete"),
    "split emoji": (Reply.text("a😀b", chunk_size=1), "complete"),
    "empty answer": (Reply.of(), "complete"),
    "one chunk of 300 KB": (Reply.of("a", "x" * 300_000, "b"), "complete"),
    "with a length": (Reply.of("ab", headers={"content-length": "2"}), "complete"),
    "to the close": (Reply.of("ab", headers={"connection": "close"}), "complete"),
    "error with a reason": (Reply.error(500, reason="Límite alcanzado: 3 / min"), "complete"),
    "429": (Reply.error(429, retry_after=20), "complete"),
    "cut": (Reply.of("one ", b"\xf0\x9f", BREAK, "more").cut(after=2), "cut"),
    "length too long": (Reply.of("ab", BREAK, "cd", headers={"content-length": "9"}), "cut"),
    "reset": (Reply.of("one ", BREAK, b"\xf0\x9f").reset(), "reset"),
    "stall": (Reply.of("one ", b"\xf0\x9f").stall(), "stall"),
    "empty response": (Reply.no_answer("cut"), "empty"),
    "reset without a head": (Reply.no_answer("reset"), "reset"),
    "silence": (Reply.no_answer("stall"), "stall"),
}
TOLD_OTHERWISE = {
    # read1() comes to its end; `response.length` says how much is missing.
    ("http.client", "length too long"): {"complete"},
    # Whichever it notices first, the error or the end.
    ("fetch of node", "reset"): {"reset", "cut"},
}
HOP_BY_HOP = {"connection", "keep-alive"}


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> str:
    return request.param


def ask(client: str, url: str, body: bytes = CHAT, timeout: float = 10) -> Seen:
    return CLIENTS[client].ask(f"{url}/api/chat", body, timeout)


def edges(chunks: list[bytes]) -> set[int]:
    return set(accumulate(map(len, chunks)))


def check(client: str, seen: Seen, reply: Reply) -> None:
    """The client has seen this reply, as far as it can."""
    able = CLIENTS[client]
    head, sent = reply.head, [chunk.data for chunk in reply.chunks]
    if head is not None:
        assert (seen.status, seen.reason) == (head.status, able.reason(head.reason))
        fields = {name.lower(): value for name, value in head.headers}
        assert {item for item in fields.items() if item[0] not in HOP_BY_HOP} <= seen.headers.items()
    got = b"".join(seen.chunks)
    if able.keeps_all or seen.ending == "complete":
        assert got == b"".join(sent)
    else:
        assert b"".join(sent).startswith(got)
    if able.keeps_chunks and got == b"".join(sent):
        assert edges(sent) <= edges(seen.chunks)
        if len(got) < 1000:  # a read of theirs has room for all of it, and splits nothing
            assert seen.chunks == sent


@pytest.mark.parametrize("name", REPLIES)
def test_a_client_sees_the_answer_and_how_it_ends(client: str, name: str):
    reply, ending = REPLIES[name]
    fake = FakeAivvm().reply(reply)
    with fake.server() as server:
        seen = ask(client, server.url, timeout=PATIENCE.get(name, 10))
    assert seen.ending in TOLD_OTHERWISE.get((client, name), {ending})
    assert (seen.status is None) == (reply.head is None)
    check(client, seen, reply)
    assert fake.requests[0].body == CHAT


def test_a_port_refuses_until_the_server_resumes(client: str):
    fake = FakeAivvm().reply(Reply.no_answer("refused")).reply("back")
    with fake.server() as server:
        assert ask(client, server.url) == Seen(ending="refused")
        server.resume()
        seen = ask(client, server.url)
    assert (seen.ending, b"".join(seen.chunks)) == ("complete", b"back")
    assert len(fake.requests) == 1


def test_a_recorded_chat_reaches_every_client(client: str):
    recording = fixtures.load("real_chat")
    with FakeAivvm.replaying(recording) as fake, fake.server() as server:
        for exchange in recording:
            seen = ask(client, server.url, exchange.request.body)
            assert seen.ending == "complete"
            check(client, seen, exchange.reply)


def test_an_unmatched_request_is_explained_to_every_client(client: str):
    fake = FakeAivvm.replaying(fixtures.load("real_chat"))
    server = fake.server()
    server.start()
    seen = ask(client, server.url)
    assert (seen.status, seen.headers["x-aivvm-testing"]) == (501, "unmatched")
    assert seen.reason.startswith("no reply for POST http://127.0.0.1")
    assert "Nearest: exchange " in b"".join(seen.chunks).decode()
    with pytest.raises(UnmatchedRequest, match="no reply for POST"):
        server.__exit__(None)


def test_an_asyncio_program_serves_and_reads_at_once():
    aiohttp = pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    fake = FakeAivvm().reply(Reply.of("slow ", wait(0.3), "one"), times=5).reply(Reply.of("a", "b").cut())
    read: list[bytes] = []
    at_once: list[int] = []

    async def ask(session: aiohttp.ClientSession, url: str) -> None:
        async with session.post(f"{url}/api/chat", data=CHAT) as response:
            at_once.append(5 - len(read))
            read.append(await response.read())

    async def program() -> None:
        async with fake.server() as server, aiohttp.ClientSession() as session:
            await asyncio.gather(*[ask(session, server.url) for _ in range(5)])
            with pytest.raises(aiohttp.ClientPayloadError):
                await ask(session, server.url)

    with fake:
        asyncio.run(program())
    assert read == [b"slow one"] * 5
    assert at_once[:2] == [5, 5]  # the second began before the first was over


def test_an_unmatched_request_fails_an_asyncio_program():
    aiohttp = pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    fake = FakeAivvm.replaying(fixtures.load("real_chat"))
    statuses: list[int] = []

    async def program() -> None:
        async with (
            fake.server() as server,
            aiohttp.ClientSession() as session,
            session.post(f"{server.url}/api/chat", data=CHAT) as response,
        ):
            statuses.append(response.status)

    with pytest.raises(UnmatchedRequest, match="no reply for POST"):
        asyncio.run(program())
    assert statuses == [501]


# Code that was not written for us

THEIRS = '''
import requests


def complete(prompt):
    """Yields the answer's text as it comes."""
    response = requests.post(
        "https://chat.aivvm.com/api/chat",
        json={"model": {"id": "gpt-4", "name": "GPT-4"}, "messages": [{"role": "user", "content": prompt}]},
        stream=True,
        timeout=10,
    )
    with response:
        response.raise_for_status()
        response.encoding = "utf-8"
        yield from response.iter_content(None, decode_unicode=True)
'''


def theirs(url: str) -> ModuleType:
    """Their module, in which the url is the only thing that was changed."""
    module = ModuleType("theirs")
    exec(THEIRS.replace("https://chat.aivvm.com", url), module.__dict__)
    return module


def test_unmodified_code_works_with_another_url():
    with FakeAivvm() as fake, fake.server() as server:
        assert list(theirs(server.url).complete("When the 😀 smiles")) == ["When", " the", " 😀", " smiles"]
        assert fake.requests[0].json()["model"]["id"] == "gpt-4"


def test_unmodified_code_meets_what_breaks_it():
    import requests

    fake = FakeAivvm().reply(Reply.of("a", b"\xf0", BREAK, b"\x9f").cut()).reply(Reply.error(429))
    with fake, fake.server() as server:
        complete = theirs(server.url).complete
        answer = complete("Hello")
        assert next(answer) == "a"
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            next(answer)
        with pytest.raises(requests.HTTPError, match="429 Client Error: Too Many Requests"):
            next(complete("Hello"))
