"""What a recording is for: whatever happened is in it, comes back as it was, and nothing secret is.

Over real sockets and in processes that are killed; the parts of this promise that need neither are with their modules.
"""

from __future__ import annotations

import base64
import json
import os
import random
import re
import shutil
import socket
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import quote

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from aivvm import RequestsTransport
from aivvm.errors import ConnectFailed, Interrupted, TransportError
from aivvm.payload import build_request
from aivvm.transport import Headers, Request, Response, Timeout, Transport
from aivvm_testing import (
    FakeAivvm,
    Recording,
    RecordingProxy,
    RecordingTransport,
    Redaction,
    Reply,
    SystemClock,
    fixtures,
    use_recording,
    wait,
)
from aivvm_testing.blanking import Secrets
from aivvm_testing.cli import main
from aivvm_testing.errors import CorruptRecording
from aivvm_testing.journal import Journal, recover
from aivvm_testing.record.adapter import RecordingAdapter
from aivvm_testing.reply import Chunk, Ending, EndingKind, Head
from aivvm_testing.strategies import replies
from aivvm_testing.wire import body_framing
from tests.peers import PATIENCE
from tests.testing.recorder_process import TAPS, Recorders
from tests.testing.test_record_adapter import READ, Seen, classes, plain_session, seen
from tests.testing.test_use_recording import ask

SILENCE = 0.1  # seconds after which a reader gives up on a server that stays silent
KILLS = int(os.environ.get("AIVVM_KILLS", "30"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "session.jsonl"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "session.jsonl"


# What is recorded comes back, through every door, to whoever reads it in the same way

Reader = Callable[[requests.Session, str], Seen]


def through_adapter(url: str, path: Path, read: Reader) -> Seen:
    with plain_session(RecordingAdapter(path)) as session:
        return read(session, url)


def through_use_recording(url: str, path: Path, read: Reader) -> Seen:
    with use_recording(path, "rewrite"), plain_session() as session:
        return read(session, url)


def through_proxy(url: str, path: Path, read: Reader) -> Seen:
    with RecordingProxy(url, path, timeout=(PATIENCE, SILENCE / 2)) as proxy, plain_session() as session:
        return read(session, proxy.url)


RECORDED = {"adapter": through_adapter, "use_recording": through_use_recording, "proxy": through_proxy}


def asked(path: Path) -> str:
    """The url of the server that was recorded, which is gone."""
    return Recording.load(path)[0].request.url.rstrip("/")


def from_adapter(path: Path, read: Reader) -> Seen:
    with plain_session() as session:
        session.mount("http://", FakeAivvm.replaying(path).adapter())
        return read(session, asked(path))


def from_use_recording(path: Path, read: Reader) -> Seen:
    with use_recording(path), plain_session() as session:
        return read(session, asked(path))


def from_responses(path: Path, read: Reader) -> Seen:
    with FakeAivvm.replaying(path).responses(), plain_session() as session:
        return read(session, asked(path))


def from_server(path: Path, read: Reader) -> Seen:
    with FakeAivvm.replaying(path).server() as server, plain_session() as session:
        return read(session, server.url)


REPLAYED = {
    "adapter": from_adapter,
    "use_recording": from_use_recording,
    "responses": from_responses,
    "server": from_server,
}


BROKEN_HEADS = [
    b"HTTP/1.1 2",
    b"HTTP/1.1 200 OK\r\nA: b",
    b"HTTP/1.1 200 OK\r\nno field\r\nContent-Length: 3\r\n\r\nabc",
    b"HTTP/1.1 200 OK\r\n no field\r\n\r\nabc",
    b"HTTP/1.1 200 OK\r\nA b\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"HTTP/1.1 OK\r\n\r\n",
    b"HTTP/2 200\r\n\r\nabc",
    b"<html>",
    b"\x16\x03\x01\0",
    b"\r\n\r\n",
]
BROKEN_BODIES = [
    b"5\r\nab",
    b"5\r\nabcde",
    b"5\r\nabcde\r",
    b"5\r\nabcdefg\r\n0\r\n\r\n",
    b"5;a=b\nabc",
    b"5",
    b"-1\r\n",
    b"zz\r\nabc",
    b"\r\n",
    b"0\r\n",
    b"0\r\nA: b\r\n",
    b"0\r\nno field\r\n\r\n",
    b"3\r\nabc\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
]
"""What may come after the last chunk, or in an answer's place, if a server is wrong."""


@st.composite
def streams(draw: st.DrawFn, endings: Sequence[EndingKind] = ("complete", "cut", "reset")) -> Reply:
    """Whatever a server can answer, without a gap: each framing, right or wrong, and each ending."""
    reply = draw(replies(endings=endings)).scale(0)
    if draw(st.booleans()):
        data = draw(st.sampled_from(BROKEN_HEADS if reply.head is None else BROKEN_BODIES))
        reply = replace(reply, ending=replace(reply.ending, data=data))
    if reply.head is None:
        return reply
    size = len(reply.body)
    said = {
        "chunked": [],
        "length": [("Content-Length", str(size))],
        "too short": [("Content-Length", str(size - 1 if size else 0))],
        "too long": [("Content-Length", str(size + 3))],
        "close": [("Connection", "close")],
    }[draw(st.sampled_from(["chunked", "chunked", "chunked", "length", "too short", "too long", "close"]))]
    return replace(reply, head=replace(reply.head, headers=Headers([*reply.head.headers, *said])))


def reading(style: str, patience: float = PATIENCE) -> Reader:
    return lambda session, url: seen(session, url, style, timeout=(PATIENCE, patience))


def told(got: Seen, *, chunked: bool, proxied: bool = False) -> list[Any]:
    """What must be the same: all of it, but for what only some connections have; boundaries where they are promised."""
    status, reason, fields, *pieces = classes(got) if len(got) > 2 else [None, None, [], *classes(got)]
    if proxied:
        fields = [pair for pair in fields if pair[0].lower() not in ("connection", "keep-alive")]
    if not chunked:
        body = b"".join([piece for piece in pieces if isinstance(piece, bytes)])
        pieces = [body, *[piece for piece in pieces if not isinstance(piece, bytes)]]
    return [status, reason, fields, *pieces]


def check_replays(path: Path, reply: Reply, tap: str, style: str, patience: float = PATIENCE) -> Reply:
    """Records the reply in this way, and plays it through every door; what was recorded."""
    read = reading(style, patience)
    fake = FakeAivvm()
    fake.on(lambda _: True).reply(reply)
    with fake.server() as server:
        live = RECORDED[tap](server.url, path, read)
    [exchange] = Recording.load(path)
    recorded = exchange.reply
    chunked = reply.head is not None and body_framing(reply.head, "POST") == "chunked"
    expected = told(live, chunked=chunked, proxied=tap == "proxy")
    for door, replay in REPLAYED.items():
        got = told(replay(path, read), chunked=chunked, proxied=tap == "proxy")
        assert got == expected, (door, recorded)
    if recorded.ending.kind != "closed" and not reply.ending.data:
        assert recorded.ending.kind == reply.ending.kind or not chunked
        sent = [chunk.data for chunk in reply.chunks if chunk.data]
        if chunked:
            assert [chunk.data for chunk in recorded.chunks] == sent
        else:
            assert b"".join(sent).startswith(recorded.body)
    if chunked and recorded.ending.kind == reply.ending.kind == "cut":
        assert recorded.ending.data == reply.ending.data
    return recorded


@settings(max_examples=40)
@given(reply=streams(), tap=st.sampled_from(["adapter", "use_recording"]), style=st.sampled_from(list(READ)))
def test_what_a_reader_got_it_gets_again_through_every_door(
    scratch: Path, reply: Reply, tap: str, style: str
) -> None:
    check_replays(scratch, reply, tap, style)


@settings(max_examples=15)
@given(reply=streams(), style=st.sampled_from(list(READ)))
def test_what_a_client_of_the_proxy_got_it_gets_again_through_every_door(
    scratch: Path, reply: Reply, style: str
) -> None:
    check_replays(scratch, reply, "proxy", style)


@pytest.mark.parametrize(
    ("tap", "style", "reply"),
    [
        ("adapter", "iter_content(None)", Reply.of("ab", b"\xd0", "c").stall(after=2)),
        ("use_recording", "iter_content(1)", Reply.of("ab", headers={"content-length": "5"}).stall()),
        ("adapter", "content", Reply.no_answer("stall")),
        ("use_recording", "iter_lines", Reply.of("a\nb", "c").stall()),
        ("proxy", "raw.read1", Reply.of("ab", "c").stall(after=1)),
        ("proxy", "content", Reply.no_answer("stall")),
        ("adapter", "raw.stream", Reply.of("ab", headers={"connection": "close"}).stall()),
    ],
    ids=repr,
)
def test_a_reader_that_lost_its_patience_loses_it_again_at_every_door(
    path: Path, tap: str, style: str, reply: Reply
) -> None:
    assert check_replays(path, reply, tap, style, SILENCE).ending.kind == "stall"


@pytest.mark.parametrize("tap", RECORDED)
@pytest.mark.parametrize("leave", ["the first chunk", "nothing"])
def test_a_reader_that_left_leaves_again_at_every_door(path: Path, tap: str, leave: str) -> None:
    assert check_replays(path, Reply.of("ab", "c").stall(), tap, leave).ending.kind == "closed"


def by_transport(transport: Transport, url: str, take: int | None, patience: float = PATIENCE) -> list[Any]:
    """What the reader of a transport gets who takes so many chunks, or all."""
    got: list[Any] = []
    try:
        with transport.send(build_request("gpt-4", [], url=url), timeout=(PATIENCE, patience)) as response:
            got += [response.status, response.reason]
            got += islice(response, take)
    except TransportError as error:
        got.append((type(error), getattr(error, "kind", None)))
    return got


def joined(got: list[Any], chunked: bool) -> list[Any]:
    if chunked:
        return got
    body = b"".join([one for one in got if isinstance(one, bytes)])
    return [body, *[one for one in got if not isinstance(one, bytes)]]


def transports(path: Path) -> Iterator[tuple[Transport, str]]:
    """Every door, as a transport and the url to ask."""
    url = asked(path).removesuffix("/api/chat")
    yield FakeAivvm.replaying(path).transport(), url
    with plain_session() as session:
        session.mount("http://", FakeAivvm.replaying(path).adapter())
        yield RequestsTransport(session), url
    with use_recording(path), RequestsTransport() as network:
        yield network, url
    with FakeAivvm.replaying(path).responses(), RequestsTransport() as network:
        yield network, url
    with FakeAivvm.replaying(path).server() as server, RequestsTransport() as network:
        yield network, server.url


@settings(max_examples=40)
@given(reply=streams(), take=st.sampled_from([None, None, 0, 1]))
def test_what_the_reader_of_a_transport_got_it_gets_again_through_every_door(
    scratch: Path, reply: Reply, take: int | None
) -> None:
    check_transports(scratch, reply, take)


def check_transports(path: Path, reply: Reply, take: int | None, patience: float = PATIENCE) -> Reply:
    fake = FakeAivvm()
    fake.on(lambda _: True).reply(reply)
    with fake.server() as server, RequestsTransport() as network, RecordingTransport(network, path) as tap:
        live = by_transport(tap, server.url, take, patience)
    [exchange] = Recording.load(path)
    chunked = reply.head is not None and body_framing(reply.head, "POST") == "chunked"
    for transport, url in transports(path):
        again = by_transport(transport, url, take, patience)
        assert joined(again, chunked) == joined(live, chunked), (transport, exchange.reply)
    return exchange.reply


@pytest.mark.parametrize("reply", [Reply.of("a", b"\xd0").stall(), Reply.no_answer("stall")], ids=repr)
def test_the_reader_of_a_transport_loses_its_patience_again_at_every_door(path: Path, reply: Reply) -> None:
    assert check_transports(path, reply, None, SILENCE).ending.kind == "stall"


# Times


@settings(max_examples=40)
@given(
    reply=replies(with_head=True, endings=["complete", "cut", "reset"], plain=True),
    tap=st.sampled_from([1, 2]),
)
def test_in_virtual_time_every_moment_is_exact_however_often_it_is_recorded(
    scratch: Path, reply: Reply, tap: int
) -> None:
    for _ in range(2):
        fake = FakeAivvm()
        fake.on(lambda _: True).reply(reply)
        if tap == 1:
            with RecordingTransport(fake.transport(), scratch, clock=fake.clock) as recording:
                by_transport(recording, "http://fake.invalid", None, 100)
        else:
            with plain_session(RecordingAdapter(scratch, inner=fake.adapter(), clock=fake.clock)) as session:
                seen(session, "http://fake.invalid", timeout=100)
        [exchange] = Recording.load(scratch)
        assert exchange.reply.chunks == reply.chunks
        assert exchange.reply.head is not None
        assert reply.head is not None
        assert exchange.reply.head.at == reply.head.at
        assert (exchange.reply.ending.kind, exchange.reply.ending.at) == (reply.ending.kind, reply.ending.at)
        reply = exchange.reply


def moments(transport: Transport, url: str) -> list[float]:
    """When a reader gets each chunk, and the end."""
    found = []
    with SystemClock().exchange() as timer:
        for _ in transport.send(build_request("gpt-4", [], url=url), timeout=PATIENCE):
            found.append(timer.elapsed())
        return [*found, timer.elapsed()]


@pytest.mark.parametrize("tap", TAPS)
def test_over_sockets_moments_come_back_within_20_ms(path: Path, tap: str) -> None:
    fake = FakeAivvm()
    fake.on(lambda _: True).reply(
        Reply.of("a", wait(0.03), "b", "c", wait(0.05), "d").delay(0.02), forever=True
    )
    with fake.server() as server:
        if tap == "transport":
            with RequestsTransport() as network, RecordingTransport(network, path) as recorder:
                moments(recorder, server.url)
        elif tap == "proxy":
            with RecordingProxy(server.url, path) as proxy, RequestsTransport() as network:
                moments(network, proxy.url)
        elif tap == "use_recording":
            with use_recording(path, "rewrite"), RequestsTransport() as network:
                moments(network, server.url)
        else:
            with plain_session(RecordingAdapter(path)) as session:
                moments(RequestsTransport(session), server.url)
    [exchange] = Recording.load(path)
    recorded = [*[chunk.at for chunk in exchange.reply.chunks], exchange.reply.ending.at]
    for door in ("transport", "adapter", "server"):
        for left in range(9, -1, -1):  # a busy machine may be late, but not each time
            again = FakeAivvm.replaying(path, speed=1, clock=SystemClock())
            if door == "transport":
                got = moments(again.transport(), "http://fake.invalid")
            elif door == "adapter":
                with plain_session() as session:
                    session.mount("http://", again.adapter())
                    got = moments(RequestsTransport(session), "http://fake.invalid")
            else:
                with again.server() as server, RequestsTransport() as network:
                    got = moments(network, server.url)
            if got == pytest.approx(recorded, abs=0.02):
                break
            assert left, (door, got, recorded)


# Processes


@pytest.fixture(scope="module")
def recorders() -> Iterator[Recorders]:
    with Recorders() as running:
        yield running


def test_what_several_processes_recorded_is_merged_and_answers_all_of_it(
    tmp_path: Path, recorders: Recorders, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [[f"{process}.{n}" for n in range(25)] for process in range(4)]
    paths = [str(tmp_path / f"{process}.jsonl") for process in range(4)]
    upstream = FakeAivvm()
    with upstream.server() as server:
        running = [
            recorders.start("ask", url=server.url, path=path, texts=some)
            for path, some in zip(paths, texts, strict=True)
        ]
        assert [process.finish() for process in running] == [b"." * 25] * 4
        merged = tmp_path / "merged.jsonl"
        assert main(["merge", *paths, "--out", str(merged)]) == 0
        assert "100 exchanges of 4 files" in capsys.readouterr().out
        everything = [text for some in texts for text in some]
        said = [exchange.request.json()["messages"][-1]["content"] for exchange in Recording.load(merged)]
        assert sorted(said) == sorted(everything)
        for some in texts:
            assert [text for text in said if text in some] == some, "each process's in its own order"

        def no_socket(*_: object, **__: object) -> None:
            raise AssertionError("a socket was opened")

        with (
            monkeypatch.context() as without,
            use_recording(merged) as session,
            ThreadPoolExecutor(8) as pool,
        ):
            without.setattr(socket, "socket", no_socket)
            without.setattr(socket, "getaddrinfo", no_socket)
            got = list(pool.map(lambda text: b"".join(ask(server, text)).decode(), everything))
    assert got == everything
    assert len(session.fake.calls) == len(upstream.calls) == 100


STREAM = Reply.of(*[f"{n} ".encode() + b"x" * (n % 16 == 15) * 60_000 for n in range(120)]).pace(0.001)
"""Some of its chunks take a while to be written: a recorder is killed within a line, too."""
TOKEN = "Bearer eyJhbGciOiJIUzI1NiJ9." + "a1B2" * 300
AT_ONCE = 3


@contextmanager
def serving_stream() -> Iterator[str]:
    """The url of a server that answers with the stream, whatever it is asked."""
    fake = FakeAivvm()
    fake.on(lambda _: True).reply(STREAM, forever=True)
    with fake.server() as server:
        yield server.url


def killed(recorders: Recorders, url: str, path: Path, seed: int) -> tuple[int, str]:
    """Kills a recorder at a moment of chance; how many chunks its reader had, and how its last exchange was recovered."""
    tap, moment = TAPS[seed % len(TAPS)], random.Random(seed).uniform(0.0, 0.2)
    shutil.copy(fixtures.path("ascii"), path)
    earlier = path.read_bytes()
    recorder = recorders.start("stream", url=url, path=str(path), tap=tap, authorization=TOKEN)
    assert recorder.listen(moment), recorder.told
    recorder.kill()
    assert path.read_bytes() == earlier
    assert not recorder.told.strip(b"."), recorder.told
    told = len(recorder.told)
    if not os.path.exists(f"{path}.journal"):
        assert not told
        return told, "nothing"
    out = path.with_suffix(".recovered.jsonl")
    count = recover(path, out=out)
    assert path.read_bytes() == earlier
    assert sorted(os.listdir(path.parent)) == sorted([path.name, out.name])
    recording = Recording.load(out)
    assert len(recording) == count
    recovered = [[chunk.data for chunk in exchange.reply.chunks] for exchange in recording]
    sent = [chunk.data for chunk in STREAM.chunks]
    assert all(chunks == sent[: len(chunks)] for chunks in recovered)
    assert sum(map(len, recovered)) >= told
    endings = [exchange.reply.ending.kind for exchange in recording]
    for chunks, ending in zip(recovered, endings, strict=True):
        if ending == "complete":
            assert chunks == sent
    assert endings[:-1] == ["complete"] * (count - 1)
    if not recording:
        return told, "none"
    assert endings[-1] in ("unfinished", "complete"), "complete where it is killed between two exchanges"
    return told, endings[-1]


def test_a_recorder_that_is_killed_loses_nothing_that_its_reader_had(tmp_path: Path) -> None:
    def some(first: int) -> list[tuple[int, str]]:
        outcomes = []
        with Recorders() as recorders:
            for seed in range(first, KILLS, AT_ONCE):
                folder = tmp_path / str(seed)
                folder.mkdir()
                outcomes.append(killed(recorders, url, folder / "session.jsonl", seed))
        return outcomes

    with serving_stream() as url, ThreadPoolExecutor(AT_ONCE) as pool:
        outcomes = [outcome for found in pool.map(some, range(AT_ONCE)) for outcome in found]
    assert len(outcomes) == KILLS
    print(f"{sum(told for told, _ in outcomes)} chunks were read,", Counter(last for _, last in outcomes))
    assert any(told and last == "unfinished" for told, last in outcomes), (
        "all were killed before they read anything"
    )


def test_a_journal_that_was_only_just_begun_is_an_empty_recording(path: Path) -> None:
    journal = Journal(path)
    journal.abandon()
    left = Path(journal.journal_path)
    header = left.read_bytes()
    for upto in (0, 1, 20, len(header) - 1):
        left.write_bytes(header[:upto])
        assert recover(path) == 0
        assert Recording.load(path) == Recording(origin="recorded")
        path.unlink()
        assert os.listdir(path.parent) == []
    for other in (b"{", b"\n", b"x", header[:19] + b"2", b'{"aivvm_recording": 1}\0'):
        left.write_bytes(other)
        if not header.startswith(other):
            with pytest.raises(CorruptRecording):
                recover(path)
            assert os.listdir(path.parent) == [left.name]


ALL = [chunk.data for chunk in STREAM.chunks]


@pytest.mark.parametrize("tap", TAPS)
def test_a_full_disk_is_told_and_costs_what_no_longer_fits_and_nothing_else(
    path: Path, recorders: Recorders, tap: str
) -> None:
    shutil.copy(fixtures.path("ascii"), path)
    earlier = path.read_bytes()
    with serving_stream() as url:
        recorder = recorders.start("fill", url=url, path=str(path), tap=tap, room=100_000, at_the_end=False)
        told, error = recorder.finish().decode().split("\n")
    assert told == "." * len(ALL), "the reader never notices"
    assert error.endswith(f"is in {path}.journal: {str(path)!r}")
    assert "recording stopped at an error ([Errno 27] File too large); the file is as it was before" in error
    assert path.read_bytes() == earlier
    assert os.path.getsize(f"{path}.journal") == 100_000
    out = path.with_name("recovered.jsonl")
    assert recover(path, out=out) == 1
    [exchange] = Recording.load(out)
    chunks = [chunk.data for chunk in exchange.reply.chunks]
    assert len(chunks) > 16
    assert (chunks, exchange.reply.ending.kind) == (ALL[: len(chunks)], "unfinished")


@pytest.mark.parametrize("tap", TAPS)
def test_a_disk_that_is_full_at_the_end_leaves_the_journal_and_the_earlier_file(
    path: Path, recorders: Recorders, tap: str
) -> None:
    shutil.copy(fixtures.path("ascii"), path)
    earlier = path.read_bytes()
    with serving_stream() as url:
        recorder = recorders.start("fill", url=url, path=str(path), tap=tap, room=100_000, at_the_end=True)
        told, error = recorder.finish().decode().split("\n")
    assert told == "." * len(ALL)
    assert "File too large" in error
    assert str(path) in error
    assert path.read_bytes() == earlier
    assert sorted(os.listdir(path.parent)) == [path.name, f"{path.name}.journal"]
    out = path.with_name("recovered.jsonl")
    assert recover(path, out=out) == 1
    [exchange] = Recording.load(out)
    assert [chunk.data for chunk in exchange.reply.chunks] == ALL
    assert exchange.reply.ending.kind == "complete"


@pytest.mark.parametrize("tap", TAPS)
def test_a_folder_that_cannot_be_written_to_is_named_before_anything_is_sent(
    recorders: Recorders, tap: str
) -> None:
    folder = Path(tempfile.mkdtemp())  # which anybody can come to, unlike the fixture's
    try:
        path = folder / "locked" / "session.jsonl"
        path.parent.mkdir()
        shutil.copy(fixtures.path("ascii"), path)
        earlier = path.read_bytes()
        folder.chmod(0o755)
        path.parent.chmod(0o555)
        recorder = recorders.start("refuse", folder=str(folder), path=str(path), tap=tap)
        told = recorder.finish().decode()
        assert (
            told
            == f"PermissionError: [Errno 13] nothing can be recorded here (Permission denied): {str(path)!r}"
        )
        assert path.read_bytes() == earlier
        assert os.listdir(path.parent) == [path.name]
    finally:
        path.parent.chmod(0o755)
        shutil.rmtree(folder)


# Secrets in what is no answer


def blanked(
    data: bytes,
    *,
    headers: Headers | None = None,
    chunks: Sequence[bytes] = (),
    secrets: Sequence[str] = (),
    complete: bool = False,
) -> tuple[list[bytes], bytes]:
    """The chunks, and what came raw after them, as they are written."""
    written: list[bytes] = []
    answer = Redaction().redact_reply(Secrets(secrets), lambda data, _: written.append(data))
    if headers is not None:
        answer.head("OK", headers)
    for chunk in chunks:
        answer.chunk(chunk, 0.0)
    rest = answer.finish(data, complete=complete)
    assert len(rest) == len(data)
    return written, rest


MALFORMED_HEADS = {
    "a line that is no field": (
        b"HTTP/1.1 200 OK\r\nSet-Cookie: sid=%; Path=/\r\nno field\r\nX-Auth-Token: %\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nSet-Cookie: sid=REDACTEDREDA; Path=/\r\nno field\r\nX-Auth-Token: REDACTEDREDA\r\n\r\nabc",
    ),
    "cut within it": (
        b"HTTP/1.1 200 OK\r\nAuthorization: Bearer %",
        b"HTTP/1.1 200 OK\r\nAuthorization: Bearer REDACTEDREDA",
    ),
    "folded": (
        b"HTTP/1.1 200\r\nno\r\nX-Token: a\r\n %\n\tb\r\n\r\n",
        b"HTTP/1.1 200\r\nno\r\nX-Token: REDACTEDREDACTEDRED\r\n\r\n",
    ),
    "a CR alone": (
        b"HTTP/1.1 200\rA: b\rSet-Cookie: sid=%\rc\n\n",
        b"HTTP/1.1 200\rA: b\rSet-Cookie: sid=REDACTEDREDACT\n\n",
    ),
    "spaces and NULs in the name": (
        b"HTTP/9 200\r\n Set -Cookie\0 : sid=%\r\n",
        b"HTTP/9 200\r\n Set -Cookie\0 : sid=REDACTEDREDA\r\n",
    ),
    "in a url": (
        b"HTTP/1.1 302\r\n?\r\nLocation: http://a/?token=%&b=c\r\n",
        b"HTTP/1.1 302\r\n?\r\nLocation: http://a/?token=REDACTEDREDA&b=c\r\n",
    ),
    "in JSON": (b'oops\r\n\r\n{"token": "%"}', b'oops\r\n\r\n{"token": "REDACTEDREDA"}'),
    "in JSON that a frame divides": (
        b'?\r\n\r\na\r\n{"token": \r\ne\r\n"%"\r\n',
        b'?\r\n\r\na\r\n{"token": \r\ne\r\n"REDACTEDREDA"\r\n',
    ),
    "repeated in the body": (
        b"?\r\nX-Token: %\r\n\r\nsaid % again",
        b"?\r\nX-Token: REDACTEDREDA\r\n\r\nsaid REDACTEDREDA again",
    ),
}


@pytest.mark.parametrize(("data", "redacted"), MALFORMED_HEADS.values(), ids=MALFORMED_HEADS)
def test_a_secret_in_what_is_no_head_is_blanked_out(data: bytes, redacted: bytes) -> None:
    assert blanked(data.replace(b"%", b"0123456789ab")) == ([], redacted)


def test_what_follows_a_whole_answer_may_be_a_head() -> None:
    data = b"HTTP/1.1 200 OK\r\nSet-Cookie: sid=0123456789ab\r\n\r\n"
    expected = data.replace(b"0123456789ab", b"REDACTEDREDA")
    assert blanked(data, headers=Headers(), chunks=[b"a"], complete=True) == ([b"a"], expected)


def test_a_body_that_speaks_of_fields_is_left_alone() -> None:
    data = b"1f\r\nSet-Cookie: sid=0123456789ab"
    assert blanked(data, headers=Headers(), chunks=[b"a\n"]) == ([b"a\n"], data)


def test_a_secret_is_found_on_both_sides_of_the_frame_of_a_chunk_that_breaks_off() -> None:
    assert blanked(
        b"b;x\r\n34567 and", headers=Headers(), chunks=[b"say 0", b"12"], secrets=["01234567"]
    ) == (
        [b"say R", b"ED"],
        b"b;x\r\nACTED and",
    )
    json = Headers([("content-type", "application/json")])
    assert blanked(b"5\r\nt\n", headers=json, chunks=[b'{"token": "s', b"ecre"]) == (
        [b'{"token": "R', b"EDAC"],
        b"5\r\nTE",
    )


@pytest.mark.parametrize("size", [7, 8, 15])
def test_the_beginning_of_a_secret_at_which_an_answer_breaks_off_is_blanked_out(size: int) -> None:
    secret = "0123456789abcdef"
    kept = secret[:size] if size < 8 else "REDACTEDREDACTED"[:size]
    for data, chunks in (
        (b"", ["say ", secret[:3], secret[3:size]]),
        (b"5\r\n%b" % secret[3:size].encode(), ["say ", secret[:3]]),
    ):
        written, rest = blanked(
            data,
            headers=Headers(),
            chunks=[chunk.encode() for chunk in chunks],
            secrets=["other secret", secret],
        )
        assert (b"".join(written) + rest.replace(b"5\r\n", b"")).decode() == f"say {kept}"
        assert [len(chunk) for chunk in written] == [len(chunk) for chunk in chunks]
    chunks = [f"say {secret[:size]}".encode()]
    assert blanked(b"", headers=Headers(), chunks=chunks, secrets=[secret], complete=True) == (chunks, b"")
    assert blanked(b"", headers=Headers(), chunks=[b"01234567 "], secrets=[secret]) == ([b"01234567 "], b"")


def test_raw_bytes_are_searched_in_linear_time() -> None:
    for data in (
        b"a:\r" * 100_000,
        b"token:\r" * 30_000,
        b"1\r\n" * 100_000,
        b"x" * 300_000,
        b"token: \n " * 30_000,
    ):
        begin = monotonic()
        blanked(data)
        assert monotonic() - begin < 5


# Twenty-four secrets

S = [f"s3cr3t-{n:02d}/+{chr(97 + n) * 5}" for n in range(24)]
S[13] = "cust-0123456789"  # what a pattern describes
HOOKS = Redaction(names=["x-tenant"], patterns=[r"\bcust-\d+"])
FORMS = [
    form
    for secret in S
    for form in {secret, quote(secret), quote(secret, safe=""), secret.replace("/", "\\/")}
]
FORMS += [base64.b64encode(f"joe:{S[8]}".encode()).decode()]
LOGIN = Request(
    "POST",
    f"http://host/v1/login?api_key={quote(S[6])}&a=b&access_token={quote(S[7], safe='')}",
    Headers(
        [
            ("Authorization", f"Bearer {S[0]}"),
            ("X-Api-Key", S[1]),
            ("X-Auth-Token", S[2]),
            ("Cookie", f"sid={S[3]}; theme=dark; csrf={S[4]}"),
            ("X-Tenant", S[5]),
            ("Referer", f"https://x.example/?token={S[9]}"),
            ("X-Customer", f"no. {S[13]} with {S[0]}"),
            ("Content-Type", "application/json"),
        ]
    ),
    json.dumps(
        {"a": [{"client_secret": S[10]}, {"b": {"password": S[11]}}], "token": S[12], "c": "d"}
    ).encode(),
)
FORM = Request(
    "POST",
    "http://host/v1/form",
    Headers([("Content-Type", "application/x-www-form-urlencoded")]),
    f"a=b&password={quote(S[14])}&user%5Bpassword%5D={quote(S[15], safe='')}".encode(),
)
MOVED = Request("GET", f"http://joe:{quote(S[8], safe='')}@host/v1/moved", Headers(), b"")
BROKEN = Request("GET", "http://host/v1/broken", Headers([("X-Api-Key", S[1])]), b"")
CUT = Request("GET", "http://host/v1/cut", Headers([("X-Api-Key", S[1])]), b"")
ANSWER = json.dumps(
    {
        "you": f"said {S[0]}, {S[3]}, {S[9]}, {S[12]} and {S[13]}",
        "access_token": S[16],
        "a": [{"refreshToken": S[17]}],
    }
).encode()
NO_HEAD = f"HTTP/1.1 200 OK\r\nSet-Cookie: sid={S[21]}\r\nno field\r\nX-Auth-Token: {S[22]}\r\n\r\nnot {S[1]}".encode()


def served(chunks: Sequence[bytes]) -> FakeAivvm:
    fake = FakeAivvm()
    headers = {
        "Content-Type": "application/json",
        "Set-Cookie": f"other={S[18]}; Path=/elsewhere; HttpOnly",
        "X-Auth-Token": S[19],
        "X-Echo": f"{S[1]} {S[2]}",
    }
    login = Reply.of(*chunks, status=201, reason=f"see http://x/?token={S[23]}", headers=headers)
    fake.on(path="/v1/login").reply(login)
    fake.on(path="/v1/form").reply(Reply.of(f"no {S[14]}", f" or {S[15]}").cut())
    fake.on(path="/v1/moved").reply(
        Reply.of("moved", status=302, headers={"Location": f"/v1/next?token={quote(S[20])}"})
    )
    fake.on(path="/v1/next").reply(Reply.of("here, ", "joe", f":{S[8]}"))
    fake.on(path="/v1/broken").reply(Reply(None, (), Ending("cut", data=NO_HEAD)))
    half = S[1][:10].encode()
    fake.on(path="/v1/cut").reply(
        Reply(Head(), (Chunk(b"not " + half),), Ending("cut", data=b"40\r\n" + S[1][10:].encode()))
    )
    return fake


class Watch:
    """Looks for the secrets in a journal while it is written, also in what its chunks are together."""

    def __init__(self, path: Path) -> None:
        self._journal = Path(f"{path}.journal")
        self._seen = 0
        self._bodies: dict[int, str] = {}

    def found(self) -> list[str]:
        with open(self._journal, "rb") as file:
            file.seek(self._seen)
            new = file.read()
        self._seen += len(new)
        for line in new.splitlines():
            event = json.loads(line)
            if "text" in event or "hex" in event:
                tag = event["x"]
                data = event.get("text") or bytes.fromhex(event["hex"]).decode("latin-1")
                self._bodies[tag] = self._bodies.get(tag, "") + data
        texts = [new.decode(), *self._bodies.values()]
        self._bodies = {tag: body[-100:] for tag, body in self._bodies.items()}  # longer than any form
        return [form for form in FORMS for text in texts if form in text]


def pieces(data: bytes, how: str) -> list[bytes]:
    if how == "byte by byte":
        return [data[n : n + 1] for n in range(len(data))]
    places = sorted(data.index(form.encode()) + 9 for form in FORMS if form.encode() in data)
    return [data[begin:end] for begin, end in pairwise([0, *places, len(data)])]


Sending = Callable[[Request], Iterator[bytes]]


def by_requests(session: requests.Session, url: str) -> Sending:
    def send(request: Request) -> Iterator[bytes]:
        where = request.url.replace("host", url.removeprefix("http://"))
        options = {
            "headers": dict(request.headers),
            "data": request.body,
            "stream": True,
            "timeout": PATIENCE,
        }
        with session.request(request.method, where, **options) as response:
            yield from response.iter_content(None)

    return send


def by_a_transport(transport: Transport, url: str) -> Sending:
    def send(request: Request) -> Iterator[bytes]:
        where = request.url.replace("host", url.removeprefix("http://"))
        with transport.send(request._replace(url=where), timeout=PATIENCE) as response:
            yield from response

    return send


@contextmanager
def sending(tap: str, url: str, path: Path) -> Iterator[Sending]:
    with ExitStack() as stack:
        enter = stack.enter_context
        if tap == "transport":
            network = enter(RequestsTransport())
            yield by_a_transport(enter(RecordingTransport(network, path, redaction=HOOKS)), url)
        elif tap == "proxy":
            proxy = enter(RecordingProxy(url, path, redaction=HOOKS))
            yield by_requests(enter(plain_session()), proxy.url)
        elif tap == "use_recording":
            enter(use_recording(path, "rewrite", redaction=HOOKS))
            yield by_requests(enter(plain_session()), url)
        else:
            yield by_requests(enter(plain_session(RecordingAdapter(path, redaction=HOOKS))), url)


def got_by(send: Sending, request: Request, watch: Watch | None = None) -> tuple[list[bytes], type | None]:
    got: list[bytes] = []
    try:
        for piece in send(request):
            got.append(piece)
            assert watch is None or not watch.found()
    except (requests.RequestException, TransportError) as error:
        return got, type(error)
    return got, None


def with_none(request: Request) -> Request:
    """The request of somebody who has none of the secrets, or others. A form is compared by its bytes, at its length."""
    url, body = request.url.replace("joe:", ""), request.body
    for form in sorted(FORMS, key=len, reverse=True):
        other = "x" * len(form) if request is FORM else "test"
        url, body = url.replace(form, ""), body.replace(form.encode(), other.encode())
    url = url.replace("//@", "//")
    headers = Headers([pair for pair in request.headers if pair[0] == "Content-Type"])
    return Request(request.method, url, headers, body)


@pytest.mark.parametrize("how", ["byte by byte", "inside each secret"])
@pytest.mark.parametrize("tap", TAPS)
def test_no_secret_is_in_the_journal_or_the_file_which_still_matches_and_replays(
    path: Path, tap: str, how: str
) -> None:
    chunks = pieces(ANSWER, how)
    requests_sent = (LOGIN, FORM, MOVED, BROKEN, CUT)
    watch = Watch(path)
    with served(chunks).server() as server, sending(tap, server.url, path) as send:
        live = [got_by(send, request, watch) for request in requests_sent]
        assert not watch.found()
    assert live[0] == (chunks, None), "the reader gets the secrets"
    if tap != "transport":  # which follows no redirect
        assert b"".join(live[2][0]) == f"here, joe:{S[8]}".encode()
    assert [error is None for _, error in live] == [True, False, True, tap != "transport", False]

    written = path.read_bytes()
    assert [form for form in FORMS if form.encode() in written] == []
    recording = Recording.load(path)
    for exchange in recording:
        reply = exchange.reply
        assert [form for form in FORMS if form.encode() in reply.body + reply.ending.data] == []
    login, form = recording[:2]
    assert [len(chunk.data) for chunk in login.reply.chunks] == [len(chunk) for chunk in chunks]
    assert [len(chunk.data) for chunk in form.reply.chunks] == [len(piece) for piece in live[1][0]]
    broken, cut = recording[-2:]
    if tap != "transport":  # which never sees such bytes
        assert [len(one.reply.ending.data) for one in (broken, cut)] == [
            len(NO_HEAD),
            len(b"40\r\n" + S[1][10:].encode()),
        ]
    assert b"".join([chunk.data for chunk in cut.reply.chunks]) == b"not REDACTEDRE"

    for change in (lambda request: request, with_none):
        fake = FakeAivvm.replaying(path, match_on=("method", "path", "query", "json"))
        with fake.server() as server, ExitStack() as stack:
            if tap == "transport":
                send = by_a_transport(stack.enter_context(RequestsTransport()), server.url)
            else:
                send = by_requests(stack.enter_context(plain_session()), server.url)
            again = [got_by(send, change(request)) for request in requests_sent]
        sizes = [([len(piece) for piece in got], error) for got, error in again]
        assert sizes == [([len(piece) for piece in got], error) for got, error in live]


def test_no_secret_of_an_error_is_in_the_file(path: Path) -> None:
    """Also where it breaks off within a stream, or before there is one."""
    url = f"http://joe:{quote(S[8], safe='')}@127.0.0.1:9/?token={quote(S[9])}"

    class Lost:
        def send(self, request: Request, *, timeout: Timeout) -> Response:
            if request.method == "GET":
                raise ConnectFailed(f"no {url} for {S[1]}", kind="refused")
            return Response(200, "OK", Headers(), self.body())

        def body(self) -> Iterator[bytes]:
            yield b"a"
            raise Interrupted(f"lost {url} with {S[1]}", kind="reset")

    with RecordingTransport(Lost(), path) as tap:
        for request in (BROKEN, BROKEN._replace(method="POST")):
            with pytest.raises(TransportError, match=re.escape(S[1])):
                list(tap.send(request, timeout=None))
    endings = [exchange.reply.ending for exchange in Recording.load(path)]
    assert [ending.kind for ending in endings] == ["refused", "reset"]
    for ending, word in zip(endings, ("no", "lost"), strict=True):
        assert re.fullmatch(
            word + r" http://[RED:ACT]+@127\.0\.0\.1:9/\?token=[REDACT]+ \w+ [REDACT]+", ending.error or ""
        )
    assert [form for form in FORMS if form in path.read_text()] == []
