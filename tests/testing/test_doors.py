"""One table: every shipped stream and every fault, through doors 2, 3 and 4, to a plain `requests` client.

The client sees the same chunks, the same text, and the same class of exception after the same chunk, whichever door it is
and however it reads. What cannot be equal is listed with its reason in docs/doors.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import pytest
import requests

from aivvm.decoding import BoundarySafeDecoder
from aivvm_testing import FakeAivvm, ReadPastRecording, Reply, faults, fixtures
from aivvm_testing.faults import Fault
from aivvm_testing.replay import loop as loop_module
from aivvm_testing.reply import Head
from aivvm_testing.wire import body_framing

SIZES = (None, 1, 4096)
LONG = 5000  # bytes; a longer body is read byte by byte through each door once, and its beginning under each fault
PATIENCE = 30.0  # seconds a client waits; no reply takes as long
SILENCE = 0.05  # seconds a client of a real socket waits in vain
URL = "http://chat.aivvm.com/api/chat"
CHAT = {"model": {"id": "gpt-4"}, "messages": [{"role": "user", "content": "Hello"}]}


def middle(reply: Reply) -> int:
    return len(reply.chunks) // 2


BROKEN: dict[str, Callable[[Reply], Fault]] = {
    "cut": lambda reply: faults.cut(after=middle(reply)),
    "reset": lambda reply: faults.reset(after=middle(reply)),
    "stall": lambda reply: faults.stall(after=middle(reply)),
    "malformed_chunk": lambda reply: faults.malformed_chunk(after=middle(reply)),
    "slow_head": lambda reply: faults.slow_head(0.002),
    "slow_first_chunk": lambda reply: faults.slow_first_chunk(0.002),
    "slow_drip": lambda reply: faults.slow_drip(0.0005, size=len(reply.body) // 4 + 1),
    "jitter": lambda reply: faults.jitter(0.001, seed=len(reply.body)),
    "bandwidth": lambda reply: faults.bandwidth(10_000_000),
    "late_end": lambda reply: faults.late_end(0.002),
    "sliced": lambda reply: faults.sliced((3, 1, 4, 1, 5)),
    "oversized_chunk": lambda reply: faults.oversized_chunk(size=5000),
}
"""Options that suit a test over real time; the other faults do what they do by default."""


class Seen(NamedTuple):
    """What a client saw."""

    chunks: tuple[bytes, ...]
    text: str
    error: str | None
    status: int | None
    headers: tuple[tuple[str, str], ...]


def read(session: requests.Session, url: str, size: int | None, timeout: float) -> Seen:
    chunks: list[bytes] = []
    status, headers, error = None, (), None
    try:
        with session.post(url, json=CHAT, stream=True, timeout=timeout, allow_redirects=False) as response:
            status = response.status_code
            headers = tuple([pair for pair in response.raw.headers.items() if pair[0] != "Date"])
            for chunk in response.iter_content(size):
                chunks.append(chunk)
    except (requests.RequestException, ReadPastRecording) as failure:
        error = type(failure).__name__
    session.close()  # each on a connection of its own: what one leaves behind is no other's matter
    decoder = BoundarySafeDecoder()
    text = "".join([decoder.feed(chunk) for chunk in chunks]) + decoder.finish()
    return Seen(tuple(chunks), text, error, status, headers)


Plays = list[tuple[Reply, "int | None"]]


def scripted(plays: Plays) -> FakeAivvm:
    fake = FakeAivvm()
    for reply, _ in plays:
        fake.reply(reply)
    return fake


@contextmanager
def client() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


def door_2(plays: Plays) -> list[Seen]:
    fake = scripted(plays)
    with client() as session:
        session.mount("http://", fake.adapter())
        return [read(session, URL, size, PATIENCE) for _, size in plays]


def door_3(plays: Plays) -> list[Seen]:
    fake = scripted(plays)
    with suppress(ReadPastRecording), fake.responses(), client() as session:
        seen = [read(session, URL, size, PATIENCE) for _, size in plays]
    return seen


def door_4(plays: Plays, silence: float = SILENCE) -> list[Seen]:
    fake = scripted(plays)
    server = fake.server()
    server.start()
    seen = []
    try:
        with client() as session:
            for reply, size in plays:
                timeout = silence if reply.ending.kind == "stall" else PATIENCE
                seen.append(read(session, f"{server.url}/api/chat", size, timeout))
                if reply.ending.kind == "refused":
                    server.resume()
    finally:
        server.stop()
    return seen


def expected_chunks(reply: Reply, size: int | None) -> list[bytes]:
    """The chunks of a reply that is framed in chunks, as `requests` says that it gives them."""
    data = [chunk.data for chunk in reply.chunks if chunk.data]
    if size is None:
        return data
    return [chunk[begin : begin + size] for chunk in data for begin in range(0, len(chunk), size)]


def is_plain(reply: Reply) -> bool:
    """Whether what `requests` gives of it follows from its chunks: it is framed in chunks, nothing comes after them,
    and it is no redirect, whose body `requests` reads by itself."""
    head = reply.head
    return (
        head is not None
        and body_framing(head, "POST") == "chunked"
        and not reply.ending.data
        and head.headers.get("location") is None
    )


STREAMS = {
    name: reply
    for reply, name in {
        exchange.reply.scale(0): f"{name}-{n}"
        for name in fixtures.names()
        for n, exchange in enumerate(fixtures.load(name))
    }.items()
}
"""Every shipped reply; those that are equal, once."""


def broken(reply: Reply) -> Iterator[tuple[str, Reply]]:
    """The reply as it is, and under each fault that can be done to it."""
    yield "as it is", reply
    for name, kind in faults.CATALOGUE.items():
        fault = BROKEN[name](reply) if name in BROKEN else kind.make()
        with suppress(ValueError):  # it would change nothing: tests of the faults tell when
            yield name, fault(reply)


def beginning(reply: Reply) -> Reply:
    """The first chunks of a long reply."""
    size = count = 0
    while size <= LONG and count < len(reply.chunks):
        size += len(reply.chunks[count].data)
        count += 1
    return replace(reply, chunks=reply.chunks[: max(1, count - 1)])


def table(whole: Reply) -> Iterator[tuple[str, Reply, int | None]]:
    """Every case of a stream, with each way to read it."""
    for case, reply in broken(whole):
        for size in SIZES:
            if size != 1 or len(whole.body) <= LONG or reply == whole:
                yield case, reply, size
    if len(whole.body) > LONG:
        yield from ((case, reply, 1) for case, reply in broken(beginning(whole)))


FIRST: dict[tuple[Reply, int | None], tuple[str, str]] = {}
"""Which stream and fault give this reply first: what is the same is played once."""
for _name, _stream in STREAMS.items():
    for _case, _reply, _size in table(_stream):
        FIRST.setdefault((_reply, _size), (_name, _case))


@pytest.mark.parametrize("name", STREAMS)
def test_the_same_reply_is_the_same_to_a_requests_client_through_doors_2_3_and_4(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "_GRACE", 0.01)  # for a reader that is meant to stay too long
    whole = STREAMS[name]
    cases = [(case, reply, size) for case, reply, size in table(whole) if FIRST[reply, size] == (name, case)]
    plays: Plays = [(reply, size) for _, reply, size in cases]
    through_2, through_3, through_4 = door_2(plays), door_3(plays), door_4(plays)
    for (case, reply, size), two, three, four in zip(cases, through_2, through_3, through_4, strict=True):
        where = f"{name}, {case}, chunk_size={size}: {reply!r}"
        assert two == three, where
        if two.error == "ReadPastRecording":
            # A server cannot tell its client what is wrong: it cuts, and says so when it is left.
            assert reply.ending.kind == "closed", where
            assert four.error in ("ChunkedEncodingError", "ConnectionError"), where
            two = two._replace(error=four.error)
        if two != four and reply.ending.kind == "stall":
            (four,) = door_4([(reply, size)], silence=2.0)  # a busy machine may have been late
        assert two == four, where
        if is_plain(reply):
            assert list(two.chunks) == expected_chunks(reply, size), where
            assert (two.error is None) == (reply.ending.kind == "complete"), where
        if reply.head is None:
            assert (two.status, two.chunks) == (None, ()), where
            assert two.error, where


def test_the_table_has_every_fault() -> None:
    """Each is done to some stream, and the options above are for faults that exist."""
    assert BROKEN.keys() <= faults.CATALOGUE.keys()
    done = {case for reply in STREAMS.values() for case, _ in broken(reply)}
    assert done == {"as it is", *faults.CATALOGUE}


REASONS: dict[str, Callable[[Reply], bool]] = {
    "it has no head": lambda reply: reply.head is None,
    "its body is empty": lambda reply: not reply.body,
    "the reply has no chunks": lambda reply: not reply.chunks,
    "its body is not whole": lambda reply: reply.ending.kind != "complete",
    "its body ends with the connection": lambda reply: body_framing(reply.head or Head(), "POST") == "close",
    "no two neighbours among its chunks differ": lambda reply: (
        not any(one.data and other.data and one.data != other.data for one, other in pairwise(reply.chunks))
    ),
}
"""What a fault may say of a reply that it cannot be done to."""

LIKE_THAT_ALREADY = {"silence", "empty_answer", "sliced"}


def test_a_fault_is_left_out_only_where_it_cannot_be_done() -> None:
    for name, kind in faults.CATALOGUE.items():
        for stream, reply in STREAMS.items():
            fault = BROKEN[name](reply) if name in BROKEN else kind.make()
            try:
                fault(reply)
            except ValueError as error:
                said = str(error).partition("does not go with this reply: ")[2]
                if said.startswith("it would change nothing"):
                    assert name in LIKE_THAT_ALREADY, (name, stream)
                else:
                    (reason,) = [true for words, true in REASONS.items() if said.startswith(words)]
                    assert reason(reply), (name, stream, said)
