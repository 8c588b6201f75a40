"""Ten thousand requests, good and bad, over real sockets: each gets the answer that it should get, or a clean close.

A case is made of `SEED` and its index alone; `check([index])` repeats one. What should come is computed without a
server, by the parser, a second fake and `schedule`, and compared byte for byte; then it is read again by a reader that
shares no code with them. Beyond that a server must not crash, hang, or leave anything behind. Nothing sleeps: the client
is one loop over many sockets at once.
"""

from __future__ import annotations

import gc
import json
import random
import re
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice, pairwise
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

from aivvm_testing import FakeAivvm, Reply, rules, service
from aivvm_testing.replay.server import FakeServer
from aivvm_testing.reply import Chunk, Ending, Head
from aivvm_testing.wire import CONTINUE, Incoming, Refusal, RequestParser, schedule
from tests.testing.test_server import LINUX, Scripted, catch_up, open_files, until_end

COUNT = 10_000
SEED = 1
BATCH = 1_000
AT_ONCE = 100
BOUND = 30.0  # seconds for one connection, on the busiest of machines
IMPATIENT = 0.2
SILENT = 2.0  # so long a stall goes on for a client that may have left

# What is sent

SCRIPT = {
    "/chunks": Reply.of("caf", b"\xc3", b"\xa9"),
    "/empty": Reply.of(),
    "/length": Reply.of("ab", "c", headers={"content-length": "3"}),
    "/close": Reply.of("abc", headers={"connection": "close"}),
    "/204": Reply.of(status=204),
    "/304": Reply.of(status=304, headers={"etag": '"x"'}),
    "/error": Reply.error(429, reason="café", retry_after=1),
    "/big": Reply.of("x" * 200_000, "y" * 200_000),
    "/many": Reply.of(*["x"] * 500),
    "/paced": Reply.of("a", "b", "c").pace(0.002),
    "/late": Reply.of("a").delay(0.003),
    # No well-formed answers, by intention
    "/cut": Reply.of("a", "b").cut(after=1),
    "/reset": Reply.of("a", "b").reset(after=1),
    "/stall": Reply.of("a", "b").stall(after=1),
    "/nothing": Reply.no_answer("cut"),
    "/tls": Reply.no_answer("tls"),
    "/silence": Reply.no_answer("stall"),
    "/garbage": Reply(Head(), (Chunk(b"a"),), Ending("complete", data=b"garbage")),
    "/long": Reply.of("abc", headers={"content-length": "9"}),
    "/short": Reply.of("abc", headers={"content-length": "1"}),
}
BROKEN = ["/cut", "/reset", "/stall", "/nothing", "/tls", "/silence", "/garbage", "/long", "/short"]
PATHS = [*SCRIPT, *["/api/chat"] * 3, "/api/models", "/", "/api/chat/", "/nowhere", "/api/chat?x=1"]
METHODS = ["POST", "POST", "POST", "GET", "GET", "HEAD", "PUT", "OPTIONS", "DELETE", "PATCH"]
FIELDS = [
    "accept: text/event-stream",
    "content-type: application/json",
    "User-Agent: \xe9\xff",
    "Origin: http://x.example",
    "Upgrade: h2c",
    "TE: trailers",
    "Connection: keep-alive",
    "Connection: close",
    "Connection: Upgrade, HTTP2-Settings",
    "Expect: 100-continue",
    "Cookie: a=b; c=d",
    "X-Empty:",
]
CONTENTS = [
    "Hello",
    "привет, мир",
    "你好 🙂",
    "",
    "\0\r\n",
    "\ud800",
    "a " * 300,
    5,
    None,
    [[]],
    {"a": 1},
    1e400,
]
GOOD = b"GET /api/models HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
"""What no server may ever understand as a request of its own."""


def each(values: bytes, template: bytes = b"%b") -> list[bytes]:
    return [template % value for value in values.split(b"|")]


TOKENS = [
    *[bytes([byte]) for byte in b'\r\n\0 \t:,;/?#%[]@"{\x0b\x7f\x80\xff'],
    *each(
        b"\r\n\r\n|\n\n|0\r\n\r\n|1\r\nx\r\n|-1|+5|0x5|99999999999|http://|http://[|GET |HEAD | HTTP/1.1|HTTP/1.0"
    ),
    *each(
        b"Host: x|Content-Length: 5|Transfer-Encoding: chunked|Connection: close|Expect: 100-continue",
        b"%b\r\n",
    ),
]
_LENGTH = b"%d" % (5 + len(SMUGGLED))
AMBIGUOUS = [
    *each(b"chunked|xchunked|identity|", b"Content-Length: " + _LENGTH + b"\r\nTransfer-Encoding: %b"),
    *each(b"chunked| ,chunked|x, chunked", b"Transfer-Encoding: %b\r\nContent-Length: " + _LENGTH),
    *each(b'chunked, chunked|chunked;q=1|chunked,|,chunked|"chunked"|\x0bchunked', b"Transfer-Encoding: %b"),
    *each(b"x|identity|chunked", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: %b"),
    *each(b" |\t|\r\n |\0|\xa0", b"Transfer-Encoding%b: chunked"),
    *each(b"\r\n |\n|\r|\xa0|\0|\x0c", b"Transfer-Encoding:%bchunked"),
    *each(b"\n|\r|\r\n |\r\r\n|\0\r\n", b"X: y%bTransfer-Encoding: chunked"),
    *each(b"0|5|" + _LENGTH, b"Content-Length: 0\r\nContent-Length: %b"),
    *each(b"0|5|" + _LENGTH, b"Content-Length: " + _LENGTH + b"\r\nContent-Length: %b"),
    *each(b"5, 5|0,5|+0|-0|0x0|0 5|\xb2|0\xa0|0;", b"Content-Length: %b"),
    *each(b" |\t|\r\n |\0", b"Content-Length%b: 0"),
    *each(b"\n|\r|\r\r\n|\n\r", b"Content-Length: 0%bX: y"),
    *each(b"h|x|", b"Host: %b"),
]
NO_SIZES = each(b'0x0|-0|+0| 0|0 |0;|0\n|0\r|0;a\n|0;"\n|0_0|\xef\xbc\x90|0000000000000000|')


def body_of(dice: random.Random) -> bytes:
    messages = [
        {"role": dice.choice(["user", "user", "assistant", "x"]), "content": dice.choice(CONTENTS)}
        for _ in range(dice.randrange(4))
    ]
    model = dice.choice([{"id": "gpt-4"}, "gpt-4", None, {}])
    body: object = {"model": model, "messages": messages, "key": ""}
    if dice.random() < 0.1:
        body = dice.choice([None, [], {}, "x", {"messages": []}])
    data = json.dumps(body).encode()
    if dice.random() < 0.1:
        return dice.choice([b"", b"{", b"\xef\xbb\xbf" + data, data[:-1] + b"\xff}"])
    return data


def chunked(dice: random.Random, body: bytes) -> bytes:
    sent = b""
    while body:
        size = dice.randrange(1, len(body) + 1)
        sent += b"%x%b\r\n%b\r\n" % (size, dice.choice([b"", b"", b";a=b", b' ;q="\\""']), body[:size])
        body = body[size:]
    return sent + b"0\r\n" + dice.choice([b"", b"", b"Checksum: 1\r\n"]) + b"\r\n"


def valid(dice: random.Random) -> bytes:
    """A well-formed request."""
    target = dice.choice(PATHS)
    if dice.random() < 0.1:
        target = dice.choice(["http://x.example:81", "HTTPS://[::1]", "http://h:"]) + target
    method, version = dice.choice(METHODS), dice.choice(["1.1"] * 7 + ["1.0"])
    lines = [f"{method} {target} HTTP/{version}", "Host: h", *dice.sample(FIELDS, dice.randrange(4))]
    body = body_of(dice) if method in ("POST", "PUT", "PATCH") else b""
    if body and version == "1.1" and dice.random() < 0.3:
        lines.append("Transfer-Encoding: chunked")
        body = chunked(dice, body)
    elif body or dice.random() < 0.2:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def pipelined(dice: random.Random) -> bytes:
    return b"".join([valid(dice) for _ in range(dice.randrange(2, 13))])


def mutated(dice: random.Random) -> bytes:
    data = bytearray(valid(dice) if dice.random() < 0.7 else valid(dice) + valid(dice))
    for _ in range(dice.choice([1, 1, 1, 2, 3, 8])):
        place = dice.randrange(len(data) + 1)
        end = min(len(data), place + dice.choice([1, 1, 2, 5, 30]))
        change = dice.randrange(6)
        if change == 0:
            data[place:place] = dice.choice(TOKENS)
        elif change == 1:
            data[place:end] = dice.choice(TOKENS)
        elif change == 2:
            del data[place:end]
        elif change == 3:
            data[place:place] = data[place:end]
        elif change == 4:
            data[place:end] = data[place:end].swapcase()
        else:
            data[place:end] = dice.randbytes(end - place)
    return bytes(data)


def truncated(dice: random.Random) -> bytes:
    data = valid(dice) if dice.random() < 0.7 else pipelined(dice)
    return data[: dice.randrange(1, len(data))]


def disordered(dice: random.Random) -> bytes:
    """All the parts of a request, but not in their order."""
    parts = valid(dice).split(dice.choice([b"\r\n", b"\r\n\r\n", b" ", b": "]))
    dice.shuffle(parts)
    return b"\r\n".join(parts)


def smuggling(dice: random.Random) -> bytes:
    """A request that two readers may see the end of at two places, and another one between them."""
    path, fields = dice.choice(PATHS).encode(), dice.choice(AMBIGUOUS)
    before = b"" if dice.random() < 0.7 else b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
    between = dice.choice([b"0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"hello", b"5;\nx", b""])
    return before + b"POST %b HTTP/1.1\r\nHost: h\r\n%b\r\n\r\n" % (path, fields) + between + SMUGGLED


def smuggling_in_chunks(dice: random.Random) -> bytes:
    head = b"POST %b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" % dice.choice(PATHS).encode()
    return head + dice.choice(NO_SIZES) + b"\r\n\r\n" + SMUGGLED


def oversized(dice: random.Random) -> bytes:
    head, much = b"POST / HTTP/1.1\r\nHost: h\r\n", 66_000
    chunks = head + b"Transfer-Encoding: chunked\r\n\r\n"
    return dice.choice(
        [
            b"GET /" + b"x" * much,
            b"G" * much,
            head + b"x: " + b"y" * much,
            head + b"x" * much,
            head + b"x:\r\n" * (much // 4),
            head + b"x:\r\n" * 1200 + b"\r\n",
            head + b"Content-Length: 67108865\r\n\r\n" + b"x" * much,
            head + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
            head + b"Content-Length: %d\r\n\r\n" % (much - 1) + b"x" * much,
            chunks + b"4000001\r\n" + b"x" * much,
            chunks + b"f" * 15 + b"\r\n",
            chunks + b"0" * much,
            chunks + b"1;" + b"x" * much,
            chunks + (b"1;" + b"x" * 250 + b"\r\ny\r\n") * 300,
            chunks + b"0\r\nx: " + b"y" * much,
            chunks + b"0\r\n" + b"x: y\r\n" * (much // 6),
            b"\r\n" * (much // 2) + valid(dice),
        ]
    )


def rubbish(dice: random.Random) -> bytes:
    return dice.choice(
        [
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + dice.randbytes(200),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"GET /\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            b"\r\n" * dice.randrange(1, 9),
            body_of(dice) or b"{",
            dice.randbytes(dice.randrange(1, 300)),
            bytes(dice.choices(b"GETPOS /HTTP1.:\r\n\r\n ,;0", k=dice.randrange(1, 200))),
        ]
    )


KINDS: list[tuple[Callable[[random.Random], bytes], int]] = [
    (valid, 22),
    (pipelined, 8),
    (mutated, 32),
    (truncated, 10),
    (disordered, 6),
    (smuggling, 10),
    (smuggling_in_chunks, 4),
    (oversized, 3),
    (rubbish, 5),
]
LEAVING = [("reads", 50), ("half", 20), ("closes", 15), ("resets", 15)]


class Case(NamedTuple):
    """`pieces` are sent one by one. Then the client `reads` all that must come, or closes its `half` first, or it `closes`
    or `resets` the connection when it has read `enough` bytes or all that must come. A `narrow` one takes in little at a
    time."""

    index: int
    kind: str
    pieces: list[bytes]
    leaving: str
    enough: int
    narrow: bool = False

    @property
    def sent(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def impatient(self) -> bool:
        """Whether it is for a server that soon gives up: all of the last batch."""
        return self.index >= COUNT - BATCH


def case(index: int) -> Case:
    dice = random.Random(f"{SEED}/{index}")
    (make,) = dice.choices([make for make, _ in KINDS], [weight for _, weight in KINDS])
    (leaving,) = dice.choices([name for name, _ in LEAVING], [weight for _, weight in LEAVING])
    one = Case(
        index, make.__name__, [make(dice)], leaving, dice.choice([0, 0, 1, 100, 10_000]), dice.random() < 0.1
    )
    if one.impatient:
        make = dice.choice([truncated, truncated, mutated, disordered])
        return Case(index, make.__name__, [make(dice)], "reads", 0)
    if dice.random() < 0.2:
        data = one.sent
        cuts = sorted(dice.choices(range(len(data) + 1), k=dice.choice([1, 2, 10, 50])))
        pieces = [data[begin:end] for begin, end in pairwise([0, *cuts, len(data)]) if begin < end]
        return one._replace(pieces=pieces)
    return one


# What should come


class Expected(NamedTuple):
    """`answers` come in this order, as bytes, and then `refusal`, which may come earlier and instead of them: requests that
    came in together with what is refused are not answered. `stop`: how the server goes on. `methods`: those that were
    asked with, up to the first answer that is broken by intention."""

    answers: list[bytes]
    refusal: bytes
    refused_at_last: bool
    stop: str
    methods: list[str]
    continues: bool

    def fits(self, received: bytes, *, partly: bool = False) -> bool:
        """Whether this may come; `partly`: or the beginning of it."""
        if self.continues:
            received = received.replace(CONTINUE, b"")
            if partly:
                cut = [n for n in range(len(CONTINUE)) if received.endswith(CONTINUE[:n])]
                return any([self._fits(received[: len(received) - n], True) for n in cut])
        return self._fits(received, partly)

    def _fits(self, received: bytes, partly: bool) -> bool:
        fits = bytes.startswith if partly else bytes.__eq__
        so_far = b""
        for answer in self.answers:
            if self.refusal and fits(so_far + self.refusal, received):
                return True
            so_far += answer
        return fits(so_far + (self.refusal if self.refused_at_last else b""), received)

    @property
    def is_over(self) -> bool:
        """Whether the server ends the connection."""
        return self.refused_at_last or self.stop in ("close", "reset")


def expected(case: Case, fake: FakeAivvm, authority: str) -> Expected:
    parser = RequestParser(authority=authority)
    events = parser.feed(case.sent)
    last = events[-1] if events else None
    refusal = last.answer if isinstance(last, Refusal) else b""
    answers: list[bytes] = []
    methods: list[str] = []
    stop, broken = "keep", False
    for event in events:
        if isinstance(event, Incoming) and stop == "keep":
            request, version, keep_alive = event
            reply = fake.answer(request).reply
            assert reply is not None
            plan = schedule(reply, method=request.method, version=version, keep_alive=keep_alive)
            answers.append(b"".join([data for _, data in plan.steps]))
            stop = plan.stop
            broken = broken or urlsplit(request.url).path in BROKEN
            methods += [] if broken else [request.method]
    if not refusal and case.impatient and parser.incomplete:
        refusal = Refusal(408, "").answer
    at_last = bool(refusal) and stop == "keep"
    return Expected(answers, refusal, at_last, stop, methods, b"100-continue" in case.sent.lower())


STATUS_LINE = re.compile(rb"HTTP/1\.1 ([2-5][0-9][0-9]) [\t\x20-\x7e\x80-\xff]*")
FIELD_LINE = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ([\x21-\x7e\x80-\xff]([\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)"
)
CHUNK = re.compile(rb"([0-9a-f]+)\r\n")


def read_strictly(data: bytes, method: str) -> bytes:
    """What follows the first answer; `AssertionError` where that is not whole, or can be read in two ways."""
    head, end, rest = data.partition(b"\r\n\r\n")
    assert end, "the head does not end"
    first, *lines = head.split(b"\r\n")
    line = STATUS_LINE.fullmatch(first)
    assert line, f"no status line: {first!r}"
    fields: dict[bytes, list[bytes]] = {}
    for one in lines:
        field = FIELD_LINE.fullmatch(one)
        assert field, f"no field: {one!r}"
        fields.setdefault(field[1].lower(), []).append(field[2])
    codings, lengths = fields.get(b"transfer-encoding", []), fields.get(b"content-length", [])
    assert len(codings) + len(lengths) <= 1, "the length is said twice"
    if method == "HEAD" or line[1] in (b"204", b"304"):
        return rest
    if lengths:
        assert len(rest) >= int(lengths[0]), "the body is too short"
        return rest[int(lengths[0]) :]
    if not codings:
        assert fields.get(b"connection") == [b"close"] or b"connection" not in fields, "the body does not end"
        return b""
    assert codings == [b"chunked"]
    while True:
        size = CHUNK.match(rest)
        assert size, f"no chunk: {rest[:40]!r}"
        chunk, rest = rest[size.end() : size.end() + int(size[1], 16)], rest[size.end() + int(size[1], 16) :]
        assert len(chunk) == int(size[1], 16), "a chunk is cut"
        assert rest.startswith(b"\r\n"), "a chunk does not end"
        rest = rest[2:]
        if not chunk:
            return rest


# The client


class Client:
    """One connection of a case, from its beginning to its end."""

    def __init__(self, case: Case, expected: Expected, address: tuple[str, int]) -> None:
        self.case = case
        self.expected = expected
        self.began = time.monotonic()
        self.received = b""
        self.end = ""  # then `closed` or `reset`, by the server, or `left`
        self.gone = False  # as sending has shown
        self._pieces = list(case.pieces)
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if case.narrow:  # or the kernel takes in any answer at once
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        with suppress(BlockingIOError):
            self.sock.connect(address)

    @property
    def wants(self) -> int:
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self._pieces else 0)

    def step(self, events: int) -> None:
        if events & selectors.EVENT_WRITE and self._pieces:
            self._send()
        if events & selectors.EVENT_READ and not self.end:
            self._receive()
        if not self.end and not self._pieces and self._has_enough():
            self.leave()

    def _send(self) -> None:
        piece = self._pieces[0]
        try:
            sent = self.sock.send(piece)
        except BlockingIOError:
            return
        except OSError:
            self.gone = True
            self._pieces.clear()
            return
        if sent < len(piece):
            self._pieces[0] = piece[sent:]
            return
        del self._pieces[0]
        if not self._pieces and self.case.leaving == "half":
            with suppress(OSError):  # it has gone, which reading will tell
                self.sock.shutdown(socket.SHUT_WR)

    def _receive(self) -> None:
        try:
            data = self.sock.recv(256 * 1024)
        except BlockingIOError:
            return
        except ConnectionError:
            self._over("reset")
            return
        self.received += data
        if not data:
            self._over("closed")

    def _has_enough(self) -> bool:
        if self.case.leaving in ("closes", "resets") and len(self.received) >= self.case.enough:
            return True
        return self.case.leaving != "half" and not self.expected.is_over and self.expected.fits(self.received)

    def leave(self) -> None:
        if self.case.leaving == "resets":
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._over("left")

    def _over(self, end: str) -> None:
        self.end = end
        self.sock.close()

    def verdict(self) -> str:
        """What is wrong; empty where nothing is."""
        expected = self.expected
        leaves = self.case.leaving in ("closes", "resets")
        if not expected.fits(self.received, partly=leaves and self.end == "left"):
            return "these bytes should not have come"
        if self.end == "reset" and expected.stop != "reset":
            return "a reset, and no clean close"
        if self.end == "closed" and expected.stop == "reset" and not (self.gone or expected.refusal):
            return "a clean close, and no reset"
        if self.end == "closed" and not (expected.is_over or expected.refusal or self.case.leaving == "half"):
            return "the server should have gone on"
        if self.end == "left" and leaves:
            return ""
        rest = self.received.replace(CONTINUE, b"") if expected.continues else self.received
        try:
            for method in expected.methods:
                if rest and rest != expected.refusal:
                    rest = read_strictly(rest, method)
            if rest and len(expected.methods) == len(expected.answers):
                assert read_strictly(rest, "GET") == b"", "something comes after the last answer"
        except AssertionError as error:
            return f"no well-formed answer: {error}"
        return ""


def play(cases: Iterable[Case], address: tuple[str, int], fake: FakeAivvm) -> Iterator[str]:
    """Plays the cases, many at once; what went wrong."""
    waiting = iter(cases)
    running: dict[Client, int] = {}
    authority = f"{address[0]}:{address[1]}"
    with selectors.DefaultSelector() as selector:
        while True:
            for case in islice(waiting, AT_ONCE - len(running)):
                client = Client(case, expected(case, fake, authority), address)
                running[client] = client.wants
                selector.register(client.sock, client.wants, client)
            if not running:
                return
            oldest = next(iter(running))
            ready = selector.select(max(0.0, oldest.began + BOUND - time.monotonic()))
            for key, events in ready:
                client = key.data
                client.step(events)
                if not client.end and client.wants == running[client]:
                    continue
                if client.end:
                    selector.unregister(key.fileobj)
                    del running[client]
                    if problem := client.verdict():
                        yield told(client, problem)
                else:
                    running[client] = client.wants
                    selector.modify(key.fileobj, client.wants, client)
            if not ready:
                selector.unregister(oldest.sock)
                del running[oldest]
                oldest.leave()
                yield told(oldest, f"no end within {BOUND:g} s")


def told(client: Client, problem: str) -> str:
    case, expected = client.case, client.expected
    return (
        f"{problem}. To repeat it: check([{case.index}]) with SEED = {SEED}\n"
        f"  {case.kind}, in {len(case.pieces)} pieces, then {case.leaving} (enough: {case.enough}); end: {client.end}\n"
        f"  sent     {shown(case.sent, 4000)}\n"
        f"  got      {shown(client.received, 400)}\n"
        f"  expected {shown(b''.join(expected.answers), 400)}, then {expected.stop}, refusal {expected.refusal!r}"
    )


def shown(data: bytes, size: int) -> str:
    return (
        repr(data)
        if len(data) <= size
        else f"{data[: size // 2]!r} ... {data[-size // 2 :]!r}, {len(data)} bytes"
    )


# The tests


def scripted() -> FakeAivvm:
    """A fake that answers by its script and, where that is silent, as the real server."""
    fake = FakeAivvm()
    for path, reply in SCRIPT.items():
        fake.on(path=path).reply(reply, forever=True)
    fake.reply("Hello", forever=True)
    return fake


def check(indices: Iterable[int]) -> None:
    """Plays the cases of one batch against one server."""
    cases = [case(index) for index in indices]
    make = scripted if cases[0].index // BATCH % 2 == 0 else FakeAivvm
    files, threads = open_files(), threading.active_count()
    fake = make()
    patience = {"request_timeout": IMPATIENT} if cases[0].impatient else {"idle_timeout": SILENT}
    server = fake.server(**patience)
    with server:
        around = open_files()
        address = ("127.0.0.1", server.port)
        problems = list(play(cases, address, make()))
        problems += play([Case(-1, "good", [GOOD], "reads", 0)], address, make())
        deadline = time.monotonic() + BOUND
        while server._loop._connections and time.monotonic() < deadline:
            server.recheck()  # a turn of the server's own thread
        assert not server._loop._connections, "connections that their clients have left"
        assert open_files() == around
        assert threading.active_count() == threads + 1
    gc.collect()  # a socket that nobody closed is a warning, which is an error
    assert open_files() == files
    assert threading.active_count() == threads
    fake.assert_all_played()
    if problems:
        pytest.fail("\n\n".join([f"{len(problems)} of {len(cases)} went wrong:", *problems[:5]]))
    assert not [request for request in fake.requests if "/smuggled" in request.url]


@pytest.fixture(autouse=True)
def _always_the_same_day(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (service, rules):
        monkeypatch.setattr(module, "date", lambda: "Sun, 06 Nov 1994 08:49:37 GMT")


@pytest.mark.parametrize("first", range(0, COUNT, BATCH))
def test_whatever_is_sent_is_answered_well_or_the_connection_ends_cleanly(first: int):
    check(range(first, min(first + BATCH, COUNT)))


def test_the_cases_are_always_the_same_and_of_every_kind():
    cases = [case(index) for index in range(0, COUNT, 10)]
    assert cases == [case(index) for index in range(0, COUNT, 10)]
    assert {one.kind for one in cases} == {make.__name__ for make, _ in KINDS}
    assert {one.leaving for one in cases} == {name for name, _ in LEAVING}
    assert max([len(one.pieces) for one in cases]) > 20


# What was found


@pytest.mark.skipif(
    not LINUX, reason="elsewhere nobody can tell how much the peer has, and a reset does not wait"
)
def test_a_client_that_closes_its_half_while_a_reset_waits_for_it_is_reset():
    reply = Reply.of("x" * 200_000).reset()
    with FakeServer(Scripted(reply)) as server, socket.socket() as sock:
        sock.settimeout(10)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", server.port))
        sock.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert sock.recv(1) == b"H"
        sock.shutdown(socket.SHUT_WR)
        catch_up(server)
        with pytest.raises(ConnectionResetError) as caught:
            until_end(sock)
        assert caught.value.data.count(b"x") == 200_000
