"""Tap 1: whatever a transport does is recorded, and reaches the reader as it would have without the tap."""

from __future__ import annotations

import errno
import gc
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aivvm.errors import ConnectFailed, Interrupted, TimedOut, TransportError
from aivvm.payload import build_request
from aivvm.transport import Headers, Request, Response, Timeout
from aivvm_testing.clock import VirtualClock
from aivvm_testing.errors import SetupFailure, UnmatchedRequest
from aivvm_testing.fake import FakeAivvm
from aivvm_testing.record.transport import RecordingTransport
from aivvm_testing.recording import Exchange, Recording
from aivvm_testing.reply import Chunk, Ending, Head, Reply
from aivvm_testing.strategies import replies

GET = Request("GET", "http://x/")


class Scripted:
    """A transport that plays replies on a virtual clock, each as its parts say."""

    def __init__(self, *scripts: Reply, clock: VirtualClock | None = None) -> None:
        self.clock = clock or VirtualClock()
        self.scripts = list(scripts)
        self.closed = 0
        self.raised: BaseException | None = None
        self.timeouts: list[Timeout] = []

    def send(self, request: Request, *, timeout: Timeout) -> Response:
        self.timeouts.append(timeout)
        reply = self.scripts.pop(0)
        with self.clock.exchange() as timer:
            if reply.head is None:
                timer.wait_until(reply.ending.at)
                self.stop(reply.ending)
            timer.wait_until(reply.head.at)
        return Response(
            reply.head.status,
            reply.head.reason,
            reply.head.headers,
            self.play(reply, timer.wait_until),
            self.close,
        )

    def play(self, reply: Reply, wait_until: Callable[[float], None]) -> Iterator[bytes]:
        for chunk in reply.chunks:
            wait_until(chunk.at)
            yield chunk.data
        wait_until(reply.ending.at)
        if reply.ending.kind != "complete":
            self.stop(reply.ending)

    def stop(self, ending: Ending) -> None:
        kind, said = ending.kind, ending.error or ""
        if kind == "cut" or kind == "reset":
            self.raised = Interrupted(said, kind=kind)
        elif kind == "stall":
            self.raised = TimedOut(said)
        elif kind == "closed":
            self.raised = KeyboardInterrupt(said)
        else:
            assert kind in ("refused", "unresolved", "tls", "unreachable")
            self.raised = ConnectFailed(said, kind=kind)  # type: ignore[arg-type]  # mypy does not narrow by `in`
        raise self.raised

    def close(self) -> None:
        self.closed += 1


class Canned:
    """A transport that answers everything with these chunks; an exception among them is raised in its turn."""

    def __init__(self, *chunks: bytes | BaseException) -> None:
        self.chunks = chunks

    def send(self, request: Request, *, timeout: Timeout) -> Response:
        return Response(200, "OK", Headers(), self.play())

    def play(self) -> Iterator[bytes]:
        for chunk in self.chunks:
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk


def tap(inner: Any, path: Path, **options: Any) -> RecordingTransport:
    return RecordingTransport(inner, path, clock=getattr(inner, "clock", None), **options)


def read(transport: Any, request: Request = GET) -> tuple[Response | None, list[bytes], BaseException | None]:
    """What a reader sees: the head, the chunks, and the error if there is one."""
    response, chunks = None, []
    try:
        response = transport.send(request, timeout=None)
        for chunk in response:
            chunks.append(chunk)
    except BaseException as error:
        return response, chunks, error
    return response, chunks, None


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "session.jsonl"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "session.jsonl"


played = replies(
    endings=["complete", "cut", "reset", "stall", "refused", "unresolved", "tls", "unreachable"], plain=True
)


@given(st.lists(played, min_size=1, max_size=3))
def test_the_recording_is_what_was_played_and_the_reader_sees_no_difference(
    scratch: Path, scripts: list[Reply]
) -> None:
    bare, inner = Scripted(*scripts), Scripted(*scripts)
    with tap(inner, scratch) as recorder:
        for _ in scripts:
            expected, chunks, failure = read(bare)
            response, recorded_chunks, error = read(recorder)
            assert recorded_chunks == chunks
            assert type(error) is type(failure)
            assert error is None or error is inner.raised
            assert (response is None) == (expected is None)
            if response is not None and expected is not None:
                assert (response.status, response.reason) == (expected.status, expected.reason)
                assert response.headers == expected.headers
    assert inner.clock.furthest == bare.clock.furthest
    assert [exchange.reply for exchange in Recording.load(scratch)] == scripts


class TestEndings:
    @pytest.mark.parametrize(
        ("error", "ending"),
        [
            (Interrupted("gone", kind="cut"), Ending("cut", error="gone")),
            (Interrupted(kind="reset"), Ending("reset")),
            (TimedOut("nothing for 5 s"), Ending("stall", error="nothing for 5 s")),
            (ConnectFailed("odd", kind="tls"), Ending("closed", error="ConnectFailed: odd")),
            (KeyboardInterrupt(), Ending("closed", error="KeyboardInterrupt")),
            (UnmatchedRequest("no answer"), Ending("closed", error="UnmatchedRequest: no answer")),
            (ValueError("a bug"), Ending("closed", error="ValueError: a bug")),
        ],
    )
    def test_an_error_within_the_body(self, path: Path, error: BaseException, ending: Ending) -> None:
        inner = Canned(b"a", error)
        with RecordingTransport(inner, path, clock=VirtualClock()) as recorder:
            assert read(recorder)[1:] == ([b"a"], error)
        assert Recording.load(path)[0].reply == Reply(Head(), (Chunk(b"a"),), ending)

    @pytest.mark.parametrize(
        ("error", "ending"),
        [
            (Interrupted("gone", kind="cut"), Ending("cut", error="gone")),
            (Interrupted("gone", kind="reset"), Ending("reset", error="gone")),
            (TimedOut("slow"), Ending("stall", error="slow")),
            (ConnectFailed("no", kind="refused"), Ending("refused", error="no")),
            (ConnectFailed("no", kind="unresolved"), Ending("unresolved", error="no")),
            (ConnectFailed("no", kind="tls"), Ending("tls", error="no")),
            (ConnectFailed("no", kind="unreachable"), Ending("unreachable", error="no")),
            (TransportError("what"), Ending("closed", error="TransportError: what")),
            (KeyboardInterrupt(), Ending("closed", error="KeyboardInterrupt")),
            (UnmatchedRequest("no answer"), Ending("closed", error="UnmatchedRequest: no answer")),
        ],
    )
    def test_an_error_instead_of_a_head(self, path: Path, error: BaseException, ending: Ending) -> None:
        class Failing:
            def send(self, request: Request, *, timeout: Timeout) -> Response:
                raise error

        with RecordingTransport(Failing(), path, clock=VirtualClock()) as recorder:
            assert read(recorder) == (None, [], error)
        assert Recording.load(path)[0].reply == Reply(None, (), ending)

    def test_a_kind_that_no_recording_knows_is_recorded_as_the_nearest(self, path: Path) -> None:
        odd: Any = "truncated"
        with RecordingTransport(Canned(Interrupted(kind=odd)), path) as recorder:
            read(recorder)
        assert Recording.load(path)[0].reply.ending.kind == "cut"

    def test_a_reader_that_stops_early(self, path: Path) -> None:
        inner = Scripted(Reply.of(b"a", b"b", b"c").pace(1.0))
        with tap(inner, path) as recorder:
            with recorder.send(GET, timeout=None) as response:
                assert next(response) == b"a"
                assert next(response) == b"b"
            assert inner.closed == 1
            assert list(response) == []
            response.close()
        assert Recording.load(path)[0].reply == Reply(
            Head(), (Chunk(b"a"), Chunk(b"b", 1.0)), Ending("closed", 1.0)
        )

    def test_an_endless_stream_can_be_left(self, path: Path) -> None:
        def endless() -> Iterator[bytes]:
            while True:
                yield b"more"

        class Endless:
            def send(self, request: Request, *, timeout: Timeout) -> Response:
                return Response(200, "OK", Headers(), endless())

        with RecordingTransport(Endless(), path) as recorder, recorder.send(GET, timeout=None) as response:
            assert [next(response) for _ in range(3)] == [b"more"] * 3
        reply = Recording.load(path)[0].reply
        assert (len(reply.chunks), reply.ending.kind) == (3, "closed")

    def test_a_reader_that_read_everything_and_then_closes(self, path: Path) -> None:
        with tap(Scripted(Reply.of(b"a")), path) as recorder, recorder.send(GET, timeout=None) as response:
            assert list(response) == [b"a"]
            assert list(response) == []
        assert Recording.load(path)[0].reply == Reply.of(b"a")

    @pytest.mark.parametrize("taken", [0, 1])
    def test_a_response_that_is_dropped(self, path: Path, taken: int) -> None:
        inner = Scripted(Reply.of(b"a", b"b"))
        recorder = tap(inner, path)
        response = recorder.send(GET, timeout=None)
        for _ in range(taken):
            next(response)
        del response
        gc.collect()
        assert b'"end": "closed"' in Path(f"{path}.journal").read_bytes()
        recorder.close()
        assert Recording.load(path)[0].reply == Reply(Head(), (Chunk(b"a"),) * taken, Ending("closed"))

    def test_closing_the_tap_ends_what_is_open_and_the_reader_goes_on(self, path: Path) -> None:
        inner = Scripted(Reply.of(b"a", b"b", b"c").pace(1.0))
        recorder = tap(inner, path)
        response = recorder.send(GET, timeout=None)
        assert [next(response), next(response)] == [b"a", b"b"]
        recorder.close()
        assert list(response) == [b"c"]
        assert Recording.load(path)[0].reply == Reply(
            Head(), (Chunk(b"a"), Chunk(b"b", 1.0)), Ending("closed", 1.0)
        )

    def test_closing_the_tap_while_a_request_waits_for_its_head(self, path: Path) -> None:
        sent, answer = threading.Event(), threading.Event()

        class Slow:
            def send(self, request: Request, *, timeout: Timeout) -> Response:
                sent.set()
                assert answer.wait(10)
                return Response(200, "OK", Headers(), [b"late"])

        recorder = RecordingTransport(Slow(), path)
        got: list[list[bytes]] = []
        thread = threading.Thread(target=lambda: got.append(read(recorder)[1]))
        thread.start()
        assert sent.wait(10)
        recorder.close()
        answer.set()
        thread.join()
        assert got == [[b"late"]]
        reply = Recording.load(path)[0].reply
        assert (reply.head, reply.ending.kind) == (None, "closed")


class TestTee:
    def test_each_chunk_is_in_the_journal_when_the_reader_has_it(self, path: Path) -> None:
        with tap(Scripted(Reply.of(b"one", b"two", b"three")), path) as recorder:
            for n, _ in enumerate(recorder.send(GET, timeout=None), 1):
                lines = Path(f"{path}.journal").read_bytes().splitlines()
                assert len(lines) == 3 + n

    def test_no_chunk_is_fetched_before_the_reader_asks(self, path: Path) -> None:
        fetched = []

        def chunks() -> Iterator[bytes]:
            for n in range(3):
                fetched.append(n)
                yield b"%d" % n

        class Counting:
            def send(self, request: Request, *, timeout: Timeout) -> Response:
                return Response(200, "OK", Headers(), chunks())

        with RecordingTransport(Counting(), path) as recorder:
            response = recorder.send(GET, timeout=None)
            assert fetched == []
            next(response)
            assert fetched == [0]

    def test_the_inner_transport_gets_the_request_and_the_timeout_as_they_are(self, path: Path) -> None:
        seen: list[Any] = []

        class Seeing:
            def send(self, request: Request, *, timeout: Timeout) -> Response:
                seen.extend((request, timeout))
                return Response(200, "OK", Headers(), [])

        request = Request(
            "POST", "https://x/?key=secret", Headers([("Authorization", "Bearer s")]), b'{"key": "s"}'
        )
        with RecordingTransport(Seeing(), path) as recorder:
            recorder.send(request, timeout=(1.0, None))
        assert seen[0] is request
        assert seen[1] == (1.0, None)

    def test_the_inner_transport_is_not_closed(self, path: Path) -> None:
        class Owned(Canned):
            def close(self) -> None:
                raise AssertionError("not the tap's to close")

        with RecordingTransport(Owned(b"a"), path) as recorder:
            assert read(recorder)[1] == [b"a"]

    def test_no_secret_reaches_the_journal_or_the_file(self, path: Path) -> None:
        secret = "sk-Zq81xWvU7yTt"

        class Leaky:
            def send(self, request: Request, *, timeout: Timeout) -> Response:
                if request.method == "GET":
                    raise ConnectFailed(f"refused: {request.url}")
                return Response(200, "OK", Headers([("Set-Cookie", f"id={secret}")]), [b"a"])

        request = Request(
            "POST",
            f"https://u:{secret}@x/?api_key={secret}",
            Headers([("Authorization", f"Bearer {secret}"), ("cookie", secret)]),
            b'{"key": "%s"}' % secret.encode(),
        )
        with RecordingTransport(Leaky(), path) as recorder:
            response, _, _ = read(recorder, request)
            read(recorder, request._replace(method="GET"))
            assert secret.encode() not in Path(f"{path}.journal").read_bytes()
        assert secret.encode() not in path.read_bytes()
        assert response is not None
        assert response.headers.get("set-cookie") == f"id={secret}"

    @pytest.mark.parametrize(
        ("headers", "kept", "decoded"),
        [
            (
                [("Content-Encoding", "gzip"), ("A", "b"), ("Content-Length", "9")],
                [("A", "b")],
                [("Content-Encoding", "gzip"), ("Content-Length", "9")],
            ),
            ([("content-encoding", "Identity"), ("content-length", "9")],) * 2 + ([],),
            ([("content-length", "9")],) * 2 + ([],),
        ],
    )
    def test_fields_of_a_coding_that_was_undone_are_set_aside(
        self, path: Path, headers: list[Any], kept: list[Any], decoded: list[Any]
    ) -> None:
        inner = Scripted(Reply(Head(headers=Headers(headers)), (Chunk(b"a"),)))
        with tap(inner, path) as recorder:
            response, _, _ = read(recorder)
        assert response is not None
        assert response.headers == Headers(headers)
        assert Recording.load(path)[0].reply.head == Head(headers=Headers(kept), decoded=Headers(decoded))


class TestTime:
    def test_times_are_those_of_the_clock_in_whole_microseconds(self, path: Path) -> None:
        reply = Reply(Head(at=0.1234567), (Chunk(b"a", 0.1234567), Chunk(b"b", 1 / 3)), Ending(at=60.0))
        with tap(Scripted(reply), path) as recorder:
            read(recorder)
        recorded = Recording.load(path)[0].reply
        assert recorded == Reply(
            Head(at=0.123457), (Chunk(b"a", 0.123457), Chunk(b"b", 0.333333)), Ending(at=60.0)
        )

    def test_on_a_virtual_clock_all_start_at_once_in_the_order_of_their_requests(self, path: Path) -> None:
        requests = [Request("GET", f"http://x/{n}") for n in range(3)]
        with tap(Scripted(*[Reply.of(b"a").delay(5.0)] * 3), path) as recorder:
            for request in requests:
                read(recorder, request)
        assert list(Recording.load(path)) == [
            Exchange(request, Reply.of(b"a").delay(5.0)) for request in requests
        ]

    def test_on_the_system_clock_exchanges_start_one_after_the_other(self, path: Path) -> None:
        with RecordingTransport(Canned(b"a", b"b"), path) as recorder:
            for _ in range(5):
                read(recorder)
        recording = Recording.load(path)
        started = [exchange.started for exchange in recording]
        assert started == sorted(started)
        assert 0.0 <= started[0] < started[-1] < 60.0
        for exchange in recording:
            assert exchange.reply.ending.at < 60.0

    def test_a_session_says_what_it_is(self, path: Path) -> None:
        with tap(Scripted(Reply.of(b"a")), path, note="why") as recorder:
            read(recorder)
        recording = Recording.load(path)
        assert (recording.origin, recording.note) == ("recorded", "why")
        assert recording.recorded_at


class TestClosing:
    def test_a_closed_tap_sends_nothing(self, path: Path) -> None:
        inner = Scripted(Reply.of(b"a"))
        recorder = tap(inner, path)
        recorder.close()
        recorder.close()
        with pytest.raises(
            SetupFailure, match=r"this tap is closed, and .*session\.jsonl is written: make a new tap"
        ):
            recorder.send(GET, timeout=None)
        assert inner.timeouts == []

    def test_two_taps_do_not_share_a_file(self, path: Path) -> None:
        with RecordingTransport(Canned(), path), pytest.raises(FileExistsError, match="another recorder"):
            RecordingTransport(Canned(), path)
        assert os.listdir(path.parent) == [path.name]

    def test_what_cannot_send_is_no_transport(self, path: Path) -> None:
        with pytest.raises(
            TypeError, match=r"a transport has a method send\(request, \*, timeout\), but got 'http"
        ):
            RecordingTransport("http://x/", path)  # type: ignore[arg-type]  # the point of the test
        assert os.listdir(path.parent) == []

    def test_a_full_disk_never_reaches_the_reader(self, path: Path) -> None:
        Recording(note="earlier").save(path)
        recorder = RecordingTransport(Canned(b"a", b"b"), path)

        class Full:
            def write(self, data: bytes) -> int:
                raise OSError(errno.ENOSPC, "No space left on device")

            def close(self) -> None:
                file.close()

        file = recorder._tap._journal._file
        recorder._tap._journal._file = Full()  # type: ignore[assignment]  # stands in for the file
        assert read(recorder)[1:] == ([b"a", b"b"], None)
        assert read(recorder)[1:] == ([b"a", b"b"], None)
        for _ in range(2):
            with pytest.raises(OSError, match="No space left on device"):
                recorder.close()
        assert Recording.load(path).note == "earlier"


class TestThreads:
    def test_all_that_many_threads_read_is_recorded_in_a_deterministic_order(self, path: Path) -> None:
        class Echo:
            def send(self, request: Request, *, timeout: Timeout) -> Response:
                return Response(200, "OK", Headers(), [request.body, b"!", request.body])

        failures: list[BaseException | None] = []
        barrier = threading.Barrier(8)

        def work(k: int) -> None:
            barrier.wait()
            for n in range(25):
                body = b"%d/%d" % (k, n)
                _, chunks, error = read(recorder, Request("POST", "http://x/", body=body))
                failures.append(error)
                assert chunks == [body, b"!", body]

        with RecordingTransport(Echo(), path) as recorder:
            threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert failures == [None] * 200
        recording = Recording.load(path)
        assert {exchange.request.body for exchange in recording} == {
            b"%d/%d" % (k, n) for k in range(8) for n in range(25)
        }
        for exchange in recording:
            body = exchange.request.body
            assert [chunk.data for chunk in exchange.reply.chunks] == [body, b"!", body]
            assert exchange.reply.ending.kind == "complete"
        started = [exchange.started for exchange in recording]
        assert started == sorted(started)
        for k in range(8):
            own = [e.request.body for e in recording if e.request.body.startswith(b"%d/" % k)]
            assert own == [b"%d/%d" % (k, n) for n in range(25)]

    def test_a_stream_that_garbage_collection_closes_while_another_is_written_blocks_nothing(
        self, path: Path
    ) -> None:
        recorder = RecordingTransport(Canned(b"a"), path)
        with recorder._tap._journal._lock:  # as if this very thread were writing
            response = recorder.send(GET, timeout=None)
            del response
        recorder.close()
        assert Recording.load(path)[0].reply.ending.kind == "closed"


def test_header_fields_that_are_not_of_our_own_type_are_recorded(tmp_path: Path) -> None:
    class Fields(list[tuple[str, str]]):
        def get(self, name: str, default: str) -> str:
            return dict(self).get(name, default)

    class Odd:
        def send(self, request: Request, *, timeout: object) -> Response:
            response = Response(200, "OK", Headers(), [b"as it is"])
            response.headers = Fields([("content-type", "text/plain")])  # type: ignore[assignment]  # a stand-in
            return response

    path = tmp_path / "session.jsonl"
    with RecordingTransport(Odd(), path) as tap:
        assert list(tap.send(Request("GET", "http://h/"), timeout=None)) == [b"as it is"]
    head = Recording.load(path)[0].reply.head
    assert head is not None
    assert head.headers == Headers([("content-type", "text/plain")])


@pytest.mark.parametrize("body", [b"", b'{"key": "sk-123456789"}'], ids=["no secret", "a secret"])
@pytest.mark.parametrize(
    ("status", "reason"), [(103, "Early Hints"), (0, ""), (1000, ""), (200, None), (200, [])]
)
def test_a_head_that_no_recording_holds_reaches_the_reader_and_is_told_at_the_end(
    tmp_path: Path, status: int, reason: str, body: bytes
) -> None:
    class Odd:
        def send(self, request: Request, *, timeout: object) -> Response:
            return Response(status, reason, Headers(), [b"as it is"])

    path = tmp_path / "session.jsonl"
    tap = RecordingTransport(Odd(), path)
    with tap.send(Request("GET", "http://h/", body=body), timeout=None) as response:
        assert (response.status, list(response)) == (status, [b"as it is"])
    with tap.send(Request("GET", "http://h/", body=body), timeout=None) as response:
        assert list(response) == [b"as it is"]
    why = "an answer has a status of 200 to 999 and a reason"
    with pytest.raises(SetupFailure, match=f"is written, but exchange 0 breaks off in it: {why}"):
        tap.close()
    replies = [exchange.reply for exchange in Recording.load(path)]
    assert [(reply.head, reply.ending.kind) for reply in replies] == [(None, "closed")] * 2


@pytest.mark.parametrize("value", [b"text/plain", 5, None, ["json"]])
def test_a_content_type_that_is_no_text_reaches_the_reader_and_is_told_at_the_end(
    tmp_path: Path, value: Any
) -> None:
    class Odd:
        def send(self, request: Request, *, timeout: object) -> Response:
            return Response(200, "OK", Headers([("content-type", value)]), [b"as", b"it is"])

    path = tmp_path / "session.jsonl"
    tap = RecordingTransport(Odd(), path)
    response = tap.send(Request("GET", "http://h/"), timeout=None)
    assert (response.headers.get("content-type"), list(response)) == (value, [b"as", b"it is"])
    with pytest.raises(SetupFailure, match="not all was recorded as it was: TypeError"):
        tap.close()
    assert Recording.load(path)[0].reply.body == b"asit is"


@pytest.mark.parametrize("body", [b"", b'{"key": "sk-123456789"}'], ids=["no secret", "a secret"])
def test_a_chunk_that_is_no_bytes_reaches_the_reader_and_is_told_at_the_end(
    tmp_path: Path, body: bytes
) -> None:
    chunks: list[Any] = [b"bytes", "text", b"bytes"]

    class Odd:
        def send(self, request: Request, *, timeout: object) -> Response:
            return Response(200, "OK", Headers(), chunks)

    path = tmp_path / "session.jsonl"
    tap = RecordingTransport(Odd(), path)
    assert list(tap.send(Request("GET", "http://h/", body=body), timeout=None)) == chunks
    with pytest.raises(SetupFailure, match="is written, but"):
        tap.close()
    reply = Recording.load(path)[0].reply
    assert (reply.body, reply.ending.kind) == (b"bytes", "closed")


@pytest.mark.parametrize("moment", [inf, nan, 10**400], ids=["inf", "nan", "more than a float"])
def test_a_clock_that_gives_no_moment_is_told_at_the_end(tmp_path: Path, moment: float) -> None:
    class Broken(VirtualClock):
        def exchange(self) -> Any:
            return nullcontext(self)

        def elapsed(self) -> float:
            return moment

    fake = FakeAivvm()
    fake.reply(Reply.of(b"a", b"b"))
    path = tmp_path / "session.jsonl"
    tap = RecordingTransport(fake.transport(), path, clock=Broken())
    with tap.send(build_request("gpt-4", [], url="http://h"), timeout=None) as response:
        assert list(response) == [b"a", b"b"]
    with pytest.raises(SetupFailure, match="not all was recorded as it was"):
        tap.close()
    reply = Recording.load(path)[0].reply
    assert (reply.chunks, reply.ending) == ((Chunk(b"a"), Chunk(b"b")), Ending())


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_a_secret_that_the_answer_repeats_is_in_neither_file_nor_journal(tmp_path: Path, size: int) -> None:
    secret = "sk-proj-ABCDEFGH12345678"
    path = tmp_path / "session.jsonl"
    journal = tmp_path / "session.jsonl.journal"
    said = f"Incorrect API key provided: {secret}. "
    reply = Reply.of(said * 3, status=500, reason=said, headers={"x-echo": secret}).rechunk(size).pace(0.1)
    fake = FakeAivvm()
    fake.reply(reply).reply(Reply.of(said).cut())
    request = build_request("gpt-4", [{"role": "user", "content": f"is {secret} good?"}], key=secret)
    with RecordingTransport(fake.transport(), path, clock=fake.clock) as tap:
        with tap.send(request, timeout=9) as response:
            came = list(response)
            assert secret.encode() not in journal.read_bytes()
        with tap.send(request, timeout=9) as response, pytest.raises(Interrupted):
            list(response)
        assert secret.encode() not in journal.read_bytes()
    assert came == [chunk.data for chunk in reply.chunks]
    assert secret.encode() not in path.read_bytes()
    recorded = Recording.load(path)
    assert [(len(chunk.data), chunk.at) for chunk in recorded[0].reply.chunks] == [
        (len(chunk.data), round(chunk.at, 6)) for chunk in reply.chunks
    ]
    again = FakeAivvm.replaying(recorded)
    assert again.answer(request).reply.status == 500


def test_a_tap_that_is_closed_early_writes_what_still_waited(tmp_path: Path) -> None:
    fake = FakeAivvm()
    fake.reply(Reply.of("sk-proj-", "ABC", "never"))
    tap = RecordingTransport(fake.transport(), tmp_path / "session.jsonl", clock=fake.clock)
    response = tap.send(build_request("gpt-4", [], key="sk-proj-ABCDEFGH"), timeout=9)
    next(response), next(response)
    tap.close()
    reply = Recording.load(tmp_path / "session.jsonl")[0].reply
    assert ([chunk.data for chunk in reply.chunks], reply.ending.kind) == (
        [b"REDACTED", b"RED"],  # the beginning of the key
        "closed",
    )
    response.close()
