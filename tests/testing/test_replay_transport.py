"""Door 1: chunk for chunk, in virtual time, with every ending as an error of a transport."""

from __future__ import annotations

import time

import pytest
from hypothesis import given

from aivvm import Aivvm
from aivvm.errors import ConnectFailed, Interrupted, TimedOut, TransportError
from aivvm.payload import build_request
from aivvm.transport import Request
from aivvm_testing import strategies
from aivvm_testing.clock import SystemClock
from aivvm_testing.errors import ReadPastRecording, SetupFailure, WouldHang
from aivvm_testing.fake import FakeAivvm
from aivvm_testing.reply import Chunk, Ending, Head, Reply, wait

REQUEST = build_request("gpt-4", [{"role": "user", "content": "Hello"}])


def played(reply, *, timeout=30, request=REQUEST, **options):
    """What a reader gets: its chunks, then the error that stopped it or None."""
    fake = FakeAivvm(**options)
    fake.reply(reply)
    chunks = []
    try:
        with fake.transport().send(request, timeout=timeout) as response:
            for chunk in response:
                chunks.append(chunk)
    except (TransportError, SetupFailure) as error:
        return chunks, error
    return chunks, None


@given(strategies.replies(with_head=True, endings=["complete"]))
def test_a_reader_gets_the_chunks_of_the_reply(reply):
    if reply.headers.get("content-length") is None:
        chunks, error = played(reply, timeout=None)
        assert chunks == [chunk.data for chunk in reply.chunks]
        assert error is None


@pytest.mark.parametrize(
    ("reply", "chunks", "error", "kind"),
    [
        (Reply.of("a", "b").cut(after=1), [b"a"], Interrupted, "cut"),
        (Reply.of("a", "b").reset(after=1), [b"a"], Interrupted, "reset"),
        (Reply.of("a", "b").stall(after=1), [b"a"], TimedOut, None),
        (Reply(Head(), (Chunk(b"a"),), Ending("closed")), [b"a"], ReadPastRecording, None),
        (Reply(Head(), (Chunk(b"a"),), Ending("unfinished")), [b"a"], ReadPastRecording, None),
        (Reply.no_answer("cut"), [], Interrupted, "cut"),
        (Reply.no_answer("reset"), [], Interrupted, "reset"),
        (Reply.no_answer("stall"), [], TimedOut, None),
        (Reply.no_answer("closed"), [], ReadPastRecording, None),
        (Reply.no_answer("refused"), [], ConnectFailed, "refused"),
        (Reply.no_answer("unresolved"), [], ConnectFailed, "unresolved"),
        (Reply.no_answer("tls"), [], ConnectFailed, "tls"),
        (Reply.no_answer("unreachable"), [], ConnectFailed, "unreachable"),
        (Reply.of("abc", headers={"content-length": "5"}), [b"abc"], Interrupted, "cut"),
        (Reply.of("abc", "d", headers={"content-length": "2"}), [b"ab"], type(None), None),
        (Reply.of("abc", headers={"Connection": "close"}).cut(), [b"abc"], type(None), None),
        (Reply.of("abc", headers={"Connection": "close"}).reset(), [b"abc"], Interrupted, "reset"),
        (Reply.of("abc", status=204), [], type(None), None),
        (Reply.of("abc", headers={"content-length": "3"}), [b"abc"], type(None), None),
    ],
)
def test_every_ending_reaches_the_reader_after_the_same_chunk(reply, chunks, error, kind):
    got, stopped = played(reply)
    assert got == chunks
    assert type(stopped) is error
    assert getattr(stopped, "kind", None) == kind


@pytest.mark.parametrize(
    ("kind", "why"), [("closed", "the recorded reader stopped"), ("unfinished", "the recorder was killed")]
)
def test_who_ended_a_recorded_answer_is_told_to_whoever_reads_on(kind, why):
    _, stopped = played(Reply(Head(), (Chunk(b"a"),), Ending(kind, 0.5)))
    assert str(stopped).startswith(f"1 chunk was there when {why}, at 0.5 s: ")


def test_the_answer_to_a_head_request_has_no_body():
    assert played(Reply.of("abc"), request=Request("HEAD", "http://fake.invalid/api/x")) == ([], None)


def test_a_read_timeout_of_a_minute_takes_milliseconds():
    fake = FakeAivvm()
    fake.reply(Reply.of("a", "b").stall(after=1))
    begun = time.monotonic()
    answer = Aivvm(transport=fake.transport()).create_completion("gpt-4", [], timeout=60)
    assert next(answer) == "a"
    with pytest.raises(TimedOut, match=r"nothing came for 60 s") as caught:
        next(answer)
    assert caught.value.text == "a"
    assert fake.clock.furthest == 60
    assert time.monotonic() - begun < 1


def test_a_timeout_is_a_gap_between_reads_not_a_bound_on_the_answer():
    slow = Reply.of("a", "b", "c", "d").pace(0.9)
    assert played(slow, timeout=1) == ([b"a", b"b", b"c", b"d"], None)
    chunks, error = played(slow.scale(2), timeout=1)
    assert chunks == [b"a"]
    assert isinstance(error, TimedOut)


def test_a_slow_head_times_out_before_there_is_a_response():
    chunks, error = played(Reply.of(wait(61), "late"), timeout=(1, 60))
    assert chunks == []
    assert isinstance(error, TimedOut)


def test_one_streams_wait_never_expires_anothers():
    fake = FakeAivvm()
    fake.reply(Reply.of("a", "b").stall(after=1)).reply(Reply.of("c", wait(5), "d"))
    one = fake.transport().send(REQUEST, timeout=60)
    other = fake.transport().send(REQUEST, timeout=10)
    assert (next(one), next(other)) == (b"a", b"c")
    with pytest.raises(TimedOut):
        next(one)
    assert next(other) == b"d"


def test_silence_without_a_timeout_in_virtual_time_is_an_error_at_once():
    chunks, error = played(Reply.of("a").stall(), timeout=None)
    assert chunks == [b"a"]
    assert isinstance(error, WouldHang)
    assert "Pass a timeout" in str(error)


def test_a_stall_at_speed_0_waits_for_this_readers_timeout():
    reply = Reply.of("a", wait(3)).stall().scale(0)
    fake = FakeAivvm()
    fake.reply(reply)
    response = fake.transport().send(REQUEST, timeout=7)
    next(response)
    with pytest.raises(TimedOut):
        next(response)
    assert fake.clock.furthest == 7


def test_a_connect_timeout_is_the_readers_own():
    fake = FakeAivvm()
    fake.reply(Reply.no_answer("unreachable", at=30))
    with pytest.raises(ConnectFailed) as caught:
        fake.transport().send(REQUEST, timeout=(2, 60))
    assert caught.value.kind == "unreachable"
    assert fake.clock.furthest == 2


def test_the_systems_clock_waits_for_real():
    begun = time.monotonic()
    assert played(Reply.of("a", wait(0.01), "b"), clock=SystemClock()) == ([b"a", b"b"], None)
    assert time.monotonic() - begun >= 0.01


def test_a_closed_response_gives_nothing_more():
    fake = FakeAivvm()
    fake.reply(Reply.of("a", "b"))
    response = fake.transport().send(REQUEST, timeout=None)
    next(response)
    response.close()
    response.close()
    assert list(response) == []
