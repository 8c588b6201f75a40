"""The data model: constructors say what they make, transforms keep the bytes they promise to keep."""

from __future__ import annotations

import dataclasses
import itertools
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aivvm_testing import strategies
from aivvm_testing.reply import ENDING_KINDS, HEADLESS_KINDS, Chunk, Ending, Head, Reply, wait

REPLIES = strategies.replies()
ANSWERED = strategies.replies(with_head=True)


def test_text_is_split_at_bytes_wherever_the_size_says():
    reply = Reply.text("Hello, мир", chunk_size=4)
    assert [chunk.data for chunk in reply.chunks] == [b"Hell", b"o, \xd0", b"\xbc\xd0\xb8\xd1", b"\x80"]
    assert reply.ending == Ending("complete", 0.0)


def test_an_empty_text_is_an_answer_without_chunks():
    assert Reply.text("").chunks == ()
    assert Reply.text("").status == 200


def test_a_wait_delays_all_that_follows_and_the_head_when_it_comes_first():
    reply = Reply.of(wait(1), "a", wait(0.25), b"b")
    assert reply.head is not None
    assert reply.head.at == 1
    assert reply.chunks == (Chunk(b"a", 1), Chunk(b"b", 1.25))
    assert reply.ending.at == 1.25


def test_an_error_is_what_the_real_server_sends():
    reply = Reply.error(500, reason="Rate limit reached")
    assert reply.head == Head(500, "Rate limit reached", reply.headers)
    assert list(reply.headers) == [("content-type", "text/plain;charset=UTF-8")]
    assert reply.body == b"Error"


@pytest.mark.parametrize("reason", ["лимит", "two\nlines", "nul\0", "c1\x9b"])
def test_a_reason_that_no_status_line_carries_becomes_the_real_servers_own_500(reason):
    reply = Reply.error(429, reason=reason)
    assert (reply.status, reply.body, reply.headers) == (500, b"Internal Server Error", ())


def test_an_error_can_say_when_to_come_back():
    assert Reply.error(429, retry_after=20).headers.get("Retry-After") == "20"


@pytest.mark.parametrize("kind", sorted(set(ENDING_KINDS) - {"complete"}))
def test_every_ending_but_complete_can_come_before_any_answer(kind):
    reply = Reply.no_answer(kind, at=0.5)
    assert reply.head is None
    assert reply.status is None
    assert reply.ending == Ending(kind, 0.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Reply(None, (Chunk(b"a"),), Ending("cut")), "without a head has no chunks"),
        (lambda: Reply(None), "without a head cannot be complete"),
        (lambda: Reply(Head(), (), Ending("refused")), "has no head: there was no connection"),
        (lambda: Reply(Head(status=42)), "the status of an answer is 200 to 999"),
        (lambda: Reply.of("a", status="200"), "the status of an answer is 200 to 999, but got '200'"),
        (lambda: Reply.of("a", status=100), "the status of an answer is 200 to 999, but got 100"),
        (lambda: Reply(Head(), (Chunk("text"),)), "a chunk's data is bytes, but chunk 0 has 'text'"),
        (lambda: Reply(Head(), (), Ending("melted")), "an ending is one of complete, cut"),
        (lambda: Reply(Head(at=2), (Chunk(b"a", 1),)), "chunk 0 is at 1 and the head at 2"),
        (lambda: Reply(Head(), (), Ending(at=float("nan"))), "the ending is at nan"),
        (lambda: Reply(Head(at=-1.0)), "the head is at -1.0 and the request at 0.0"),
        (lambda: Reply(Head(), (), Ending("stall", float("inf"))), "the ending is at inf"),
        (lambda: Reply.of("a").rechunk(0), "1 or more bytes, but got 0"),
        (lambda: Reply.of("a").rechunk([1, -1]), "1 or more bytes, but got"),
        (lambda: Reply.of("a").cut(after=2), "has 1 chunks: after=2 is not within it"),
        (lambda: Reply.of("a").cut(after_bytes=2), "has 1 bytes: after_bytes=2 is not within it"),
        (lambda: Reply.of("a").cut(after=1, after_bytes=1), "not both"),
        (lambda: Reply.of("a").scale(-1), "a factor is 0 or more"),
        (lambda: Reply.of("a").pace(float("inf")), "seconds, 0 or more"),
        (lambda: Reply.of("a").delay(-0.1), "seconds, 0 or more"),
        (lambda: Reply.of("\ud800"), "has no UTF-8 form"),
    ],
)
def test_nonsense_is_refused_with_what_was_expected_and_what_came(make, message):
    with pytest.raises(ValueError, match=r".") as caught:
        make()
    assert message in str(caught.value)


def test_a_part_that_is_neither_text_nor_bytes_nor_a_wait_is_named():
    with pytest.raises(TypeError, match=r"text, bytes or wait\(seconds\), but got 3"):
        Reply.of(3)  # type: ignore[arg-type]  # what the test is about


@given(REPLIES, st.integers(1, 9) | st.lists(st.integers(1, 5), max_size=6))
def test_rechunking_keeps_the_bytes_the_head_and_the_ending(reply, size):
    again = reply.rechunk(size)
    assert (again.body, again.head, again.ending) == (reply.body, reply.head, reply.ending)
    assert all(chunk.data for chunk in again.chunks)


@given(ANSWERED, st.integers(1, 9))
def test_a_rechunked_byte_comes_no_earlier_than_it_came(reply, size):
    def arrivals(one):
        return [chunk.at for chunk in one.chunks for _ in chunk.data]

    assert all(new >= old for new, old in zip(arrivals(reply.rechunk(size)), arrivals(reply), strict=True))


@given(ANSWERED, st.data(), st.sampled_from(["cut", "reset", "stall"]))
def test_a_broken_reply_keeps_its_first_chunks_as_they_were(reply, data, kind):
    after = data.draw(st.integers(0, len(reply.chunks)))
    broken = getattr(reply, kind)(after=after)
    assert broken.chunks == reply.chunks[:after]
    assert broken.ending.kind == kind
    assert broken.head == reply.head


@given(ANSWERED, st.data())
def test_breaking_after_bytes_keeps_exactly_so_many(reply, data):
    after = data.draw(st.integers(0, len(reply.body)))
    assert reply.reset(after_bytes=after).body == reply.body[:after]


@given(REPLIES, st.floats(0, 100), st.floats(0, 100))
def test_retiming_keeps_everything_but_the_moments(reply, factor, gap):
    for changed in (reply.scale(factor), reply.delay(gap), reply.pace(gap)):
        assert [chunk.data for chunk in changed.chunks] == [chunk.data for chunk in reply.chunks]
        assert changed.ending.kind == reply.ending.kind
        assert changed.status == reply.status


@given(REPLIES)
def test_transforms_that_change_nothing_give_an_equal_reply(reply):
    assert reply.scale(1) == reply
    assert reply.delay(0) == reply


@given(ANSWERED, st.floats(0.001, 10))
def test_paced_chunks_are_one_gap_apart(reply, gap):
    ats = [chunk.at for chunk in reply.pace(gap).chunks]
    assert ats[:1] == [reply.head.at][: len(ats)]
    assert all(later - sooner == pytest.approx(gap) for sooner, later in itertools.pairwise(ats))


@given(REPLIES)
def test_replies_are_values(reply):
    same = dataclasses.replace(reply)
    assert same == reply
    assert hash(same) == hash(reply)
    assert pickle.loads(pickle.dumps(reply)) == reply
    assert len(repr(reply)) < 20_000


def test_chunks_may_come_as_any_sequence_and_are_kept_as_a_tuple():
    assert Reply(Head(), [Chunk(b"x")]) == Reply.of("x")
    assert hash(Reply(Head(), [Chunk(b"x")])) == hash(Reply.of("x"))


def test_a_repr_is_the_code_that_makes_the_reply():
    for reply in (
        Reply.of("a", wait(0.25), b"\xc3").cut(),
        Reply.of(wait(2.0)),
        Reply.error(500, reason="Rate limit reached"),
        Reply.no_answer("refused", at=0.5),
        Reply.of(),
    ):
        assert eval(repr(reply), {"Reply": Reply, "wait": wait}) == reply


def test_a_long_reply_has_a_short_repr():
    shown = repr(Reply.of(b"x" * 100_000).rechunk(100))
    assert "... 992 more chunks" in shown
    assert len(shown) < 1000


def test_an_ending_without_a_connection_is_one_of_four():
    assert {"refused", "unresolved", "tls", "unreachable"} == HEADLESS_KINDS
