"""The catalogue of faults: each does what its line says, to scripted and recorded replies, and a client sees it."""

from __future__ import annotations

import codecs
import inspect
import pickle
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aivvm.transport import Headers
from aivvm_testing import FakeAivvm, faults, fixtures, strategies
from aivvm_testing.faults import CATALOGUE, Fault, Kind
from aivvm_testing.reply import Chunk, Ending, Head, Reply, wait

PAGE = Path(__file__).parent.parent.parent / "docs" / "faults.md"
KINDS = [pytest.param(kind, id=name) for name, kind in CATALOGUE.items()]
GROUPS = ("before the answer", "in the stream", "in the content")

# Faults with any options, and what they make of replies

_PLACE = st.one_of(
    st.just({}),
    st.integers(0, 5).map(lambda n: {"after": n}),
    st.integers(0, 12).map(lambda n: {"after_bytes": n}),
)
_SECONDS = st.floats(0.001, 60) | st.integers(1, 60)
_OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "seconds": _SECONDS,
    "gap": _SECONDS,
    "bytes_per_second": st.floats(0.5, 1e6) | st.integers(1, 10**6),
    "size": st.integers(1, 40),
    "by": st.integers(1, 9),
    "seed": st.integers(0, 2**64),
    "data": st.binary(min_size=1, max_size=9),
    "reason": st.text(min_size=1, max_size=9),
    "retry_after": st.integers(0, 3600),
    "invalid_bytes.data": strategies.malformed_utf8(),
    "sliced.size": st.integers(1, 9) | st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple),
}


def options_of(kind: Kind) -> st.SearchStrategy[dict[str, Any]]:
    names = list(inspect.signature(kind.make).parameters)
    others = {
        name: _OPTIONS.get(f"{kind.name}.{name}", _OPTIONS.get(name))
        for name in names
        if name not in ("after", "after_bytes")
    }
    chosen = st.fixed_dictionaries({}, optional=others)
    return st.builds(dict.__or__, chosen, _PLACE) if "after" in names else chosen


def some_fault(*names: str) -> st.SearchStrategy[Fault]:
    """One fault of these names, or of all, with any of its options."""
    kinds = st.sampled_from([CATALOGUE[name] for name in names] if names else list(CATALOGUE.values()))
    return kinds.flatmap(lambda kind: options_of(kind).map(lambda options: kind.make(**options)))


def in_group(group: str) -> list[str]:
    return [name for name, kind in CATALOGUE.items() if kind.group == group]


few = settings(max_examples=40)  # for what one line does to any reply; making replies takes the time
REPLIES = strategies.replies()
ANSWERS = strategies.replies(with_head=True)
FAULTS = some_fault()
CHAINS = st.lists(FAULTS, min_size=1, max_size=3).map(lambda parts: joined(*parts))


def joined(first: Fault, *others: Fault) -> Fault:
    for other in others:
        first = first | other
    return first


def outcome(fault: Any, reply: Reply) -> Reply | None:
    """What becomes of the reply; None where the fault says that it does not go with it."""
    try:
        return fault(reply)
    except ValueError:
        return None


def applied(fault: Fault, reply: Reply) -> Reply:
    """What becomes of the reply; examples with which the fault does not go are passed over."""
    changed = outcome(fault, reply)
    assume(changed is not None)
    assert changed is not None
    return changed


def datas(reply: Reply) -> list[bytes]:
    return [chunk.data for chunk in reply.chunks]


# What a fault is


@given(CHAINS)
def test_a_fault_prints_as_the_code_that_makes_it(fault):
    assert eval(repr(fault), {"faults": faults}) == fault


@few
@given(CHAINS)
def test_a_fault_is_read_from_what_it_prints_with_or_without_the_module(fault):
    assert faults.parse(repr(fault)) == fault
    assert faults.parse(repr(fault).replace("faults.", "")) == fault


@few
@given(CHAINS, CHAINS)
def test_faults_are_equal_and_hashed_by_value_and_survive_pickling(one, other):
    again = pickle.loads(pickle.dumps(one))
    assert (again == one, hash(again) == hash(one)) == (True, True)
    assert one == other or repr(one) != repr(other)


@few
@given(FAULTS, FAULTS, FAULTS)
def test_composition_is_associative(a, b, c):
    assert (a | b) | c == a | (b | c)


@given(FAULTS, FAULTS, REPLIES)
def test_of_two_faults_the_left_one_happens_first(first, then, reply):
    once = outcome(first, reply)
    assert outcome(first | then, reply) == (None if once is None else outcome(then, once))


@given(CHAINS, REPLIES)
def test_the_same_fault_does_the_same_to_the_same_reply(fault, reply):
    assert outcome(fault, reply) == outcome(eval(repr(fault), {"faults": faults}), reply)


@given(FAULTS, REPLIES)
def test_a_fault_changes_the_reply_or_says_why_it_cannot(fault, reply):
    assert outcome(fault, reply) != reply


def test_options_at_their_defaults_are_left_out():
    assert repr(faults.cut(after=3)) == "faults.cut(after=3)"
    assert repr(faults.cut(after=None)) == "faults.cut()"
    assert repr(faults.jitter(0.2, seed=7) | faults.cut()) == "faults.jitter(0.2, seed=7) | faults.cut()"
    assert repr(faults.jitter(seconds=0.2, seed=0)) == "faults.jitter(0.2)"
    assert faults.slow_head(1) == faults.slow_head()


@pytest.mark.parametrize("kind", KINDS)
def test_the_catalogue_describes_each_fault_in_one_line(kind):
    assert CATALOGUE[kind.name].make is getattr(faults, kind.name)
    assert kind.make.__name__ == kind.name
    assert kind.summary.endswith(".")
    assert 20 < len(kind.summary) <= 110
    assert kind.sees.partition(": ")[1]
    assert repr(kind.make()) == f"faults.{kind.name}()"
    assert faults.parse(f"{kind.name}({kind.takes})") == kind.make()
    assert (
        sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in inspect.signature(kind.make).parameters.values()) < 2
    )


def test_the_catalogue_is_in_groups_and_cannot_be_changed():
    order = [kind.group for kind in CATALOGUE.values()]
    assert order == sorted(order, key=GROUPS.index)
    with pytest.raises(TypeError):
        CATALOGUE["mine"] = CATALOGUE["cut"]  # type: ignore[index]  # what the test is about


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("EMPTY_RESPONSE", "empty_response"),
        ("CONNECTION_RESET_BY_PEER", "reset_before_headers"),
        ("MALFORMED_RESPONSE_CHUNK", "malformed_chunk"),
        ("RANDOM_DATA_THEN_CLOSE", "garbage_then_close"),
        ("latency", "slow_head"),
        ("bandwidth", "bandwidth"),
        ("slow_close", "late_end"),
        ("timeout", "silence"),
        ("reset_peer", "reset_before_headers"),
        ("slicer", "sliced"),
        ("limit_data", "cut"),
    ],
)
def test_the_names_of_other_tools_are_known(alias, name):
    assert alias in CATALOGUE[name].aliases
    for written in (alias, alias.lower(), alias.upper(), alias.replace("_", "-"), f" {alias} "):
        assert faults.named(written) is CATALOGUE[name].make
        assert faults.parse(written) == CATALOGUE[name].make()


def test_names_and_aliases_are_nobody_elses():
    claimed = [
        name
        for kind in CATALOGUE.values()
        for name in {kind.name, *(alias.lower() for alias in kind.aliases)}
    ]
    assert len(claimed) == len(set(claimed))


def test_importing_the_catalogue_brings_no_http_library_no_socket_and_no_fake():
    code = (
        "import sys; before = set(sys.modules); import aivvm_testing.faults; "
        "print({'requests', 'urllib3', 'socket', 'http.client', 'hypothesis', 'aivvm_testing.fake'}"
        " & (set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# Options, names and texts


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: faults.cut(after=-1), ValueError, "faults.cut: after is a number of chunks, 0 or more, but got -1"),
        (lambda: faults.cut(after=True), TypeError, "faults.cut: after is a number of chunks, 0 or more, but got True"),
        (lambda: faults.cut(after="3"), TypeError, "after is a number of chunks, 0 or more, but got '3'"),
        (lambda: faults.cut(after=1.0), TypeError, "after is a number of chunks, 0 or more, but got 1.0"),
        (lambda: faults.cut(after_bytes=-1), ValueError, "after_bytes is a number of bytes, 0 or more, but got -1"),
        (lambda: faults.cut(after=1, after_bytes=1), ValueError, "faults.cut: give after (chunks) or after_bytes, not both"),
        (lambda: faults.cut(aftr=1), TypeError, "faults.cut takes after=None, after_bytes=None: got an unexpected"),
        (lambda: faults.cut(1), TypeError, "faults.cut takes after=None, after_bytes=None: too many positional"),
        (lambda: faults.refused(1), TypeError, "faults.refused takes no options: too many positional"),
        (lambda: faults.cut(Reply.of("a")), TypeError, "that takes the reply: faults.cut()(reply)"),
        (lambda: faults.slow_head(reply=Reply.of("a")), TypeError, "that takes the reply: faults.slow_head()(reply)"),
        (lambda: faults.slow_head(0), ValueError, "seconds is a number of seconds, more than 0, but got 0"),
        (lambda: faults.slow_head(float("nan")), ValueError, "more than 0, but got nan"),
        (lambda: faults.slow_head(float("inf")), ValueError, "more than 0, but got inf"),
        (lambda: faults.slow_head(10**400), ValueError, "more than 0, but got 1000"),
        (lambda: faults.slow_head(None), TypeError, "more than 0, but got None"),
        (lambda: faults.jitter(seed=-1), ValueError, "seed is a whole number, 0 or more, but got -1"),
        (lambda: faults.bandwidth(0), ValueError, "a number of bytes a second, more than 0, but got 0"),
        (lambda: faults.sliced(0), ValueError, "a number of bytes, 1 or more, or a tuple of such, but got 0"),
        (lambda: faults.sliced(()), ValueError, "or a tuple of such, but got ()"),
        (lambda: faults.sliced((1, True)), ValueError, "or a tuple of such, but got (1, True)"),
        (lambda: faults.sliced([1]), TypeError, "or a tuple of such, but got [1]"),
        (lambda: faults.slow_drip(size=0), ValueError, "size is a number of bytes, 1 or more, but got 0"),
        (lambda: faults.short_content_length(0), ValueError, "by is a number of bytes, 1 or more, but got 0"),
        (lambda: faults.trailing_bytes(b""), ValueError, "data is bytes, at least one, but got b''"),
        (lambda: faults.trailing_bytes("a"), TypeError, "data is bytes, at least one, but got 'a'"),
        (lambda: faults.invalid_bytes("é".encode()), ValueError, "data is bytes that are no UTF-8, such as b'\\xff', but"),
        (lambda: faults.server_error(""), ValueError, "reason is text, at least one character, but got ''"),
        (lambda: faults.rate_limited(-1), ValueError, "retry_after is whole seconds, 0 or more, but got -1"),
        (lambda: faults.named("cutt"), ValueError, "no fault is called 'cutt'; did you mean 'cut'?"),
        (lambda: faults.named("RESET-BY-PEER"), ValueError, "did you mean 'reset_peer' or"),
        (lambda: faults.named("zzz"), ValueError, "no fault is called 'zzz'; faults.CATALOGUE has them all"),
        (lambda: faults.parse(""), ValueError, "a fault is written as in 'cut(after=3)' or 'jitter(0.2, seed=7) | cut', but got ''"),
        (lambda: faults.parse("cut("), ValueError, "but got 'cut('"),
        (lambda: faults.parse("(" * 5000), ValueError, "a fault is written as in"),
        (lambda: faults.parse("-".join("a" * 5000)), ValueError, "a fault is written as in"),
        (lambda: faults.parse("cut('\ud800')"), ValueError, "a fault is written as in"),
        (lambda: faults.parse("cut & reset"), ValueError, "but got cut & reset"),
        (lambda: faults.parse("cut()()"), ValueError, "but got cut()"),
        (lambda: faults.parse("os.cut"), ValueError, "but got os.cut"),
        (lambda: faults.parse("cutt | reset"), ValueError, "no fault is called 'cutt'"),
        (lambda: faults.parse("cut(after=-1)"), ValueError, "faults.cut: after is a number of chunks"),
        (lambda: faults.parse("cut(after='3')"), ValueError, "after is a number of chunks, 0 or more, but got '3'"),
        (lambda: faults.parse("cut(aftr=3)"), ValueError, "faults.cut takes after=None, after_bytes=None"),
        (lambda: faults.parse("cut(after=len('a'))"), ValueError, "an option is a literal, such as 3, 0.2 or b'\\xff', but got len('a')"),
        (lambda: faults.parse("cut(*[1])"), ValueError, "an option is a literal"),
        (lambda: faults.parse("cut(after={[]: 1})"), ValueError, "an option is a literal"),
        (lambda: faults.parse("cut(after=1, after=2)"), ValueError, "an option is written once, as name=value"),
        (lambda: faults.parse("cut(**{'after': 1})"), ValueError, "an option is written once, as name=value"),
        (lambda: faults.cut()("a"), TypeError, "a fault takes a Reply, such as Reply.of('a'), but got 'a'"),
        (lambda: faults.cut() | Reply.cut, TypeError, "unsupported operand"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_what_was_expected_and_what_came(make, kind, message):
    with pytest.raises(kind) as caught:
        make()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("cut", faults.cut()),
        ("cut(after=3)", faults.cut(after=3)),
        (" faults.cut(after_bytes = 3) ", faults.cut(after_bytes=3)),
        ("jitter(0.2, seed=7) | cut", faults.jitter(0.2, seed=7) | faults.cut()),
        ("slow_drip(0.05)", faults.slow_drip(0.05)),
        ("slow-drip(0.2, size=2)|Reset-Peer", faults.slow_drip(0.2, size=2) | faults.reset_before_headers()),
        ("faults.ends-inside-a-character | nul", faults.ends_inside_a_character() | faults.nul()),
        ("sliced((3, 1))", faults.sliced((3, 1))),
        ("invalid_bytes(b'\\xc3', after_bytes=2)", faults.invalid_bytes(b"\xc3", after_bytes=2)),
        ("server_error('no | not-now')", faults.server_error("no | not-now")),
    ],
)
def test_a_fault_is_read_from_a_command_line(text, fault):
    assert faults.parse(text) == fault


@given(st.text(max_size=30) | st.text("cutafernul|()=-,.0123 ", max_size=30))
def test_any_text_is_a_fault_or_a_value_error(text):
    try:
        fault = faults.parse(text)
    except ValueError:
        return
    assert faults.parse(repr(fault)) == fault


# What depends on the reply

ABC = Reply.of("ab", "c", "def")
SIZED = Reply.of("ab", "c", headers={"content-length": "3"})


@pytest.mark.parametrize(
    ("fault", "reply", "message"),
    [
        (faults.cut(after=4), ABC, "faults.cut(after=4) does not go with this reply: the reply has 3 chunks: after=4 is"),
        (faults.cut(after_bytes=7), ABC, "the reply has 6 bytes: after_bytes=7 is not within it"),
        (faults.cut(after=0), Reply.no_answer("stall"), "it has no head, so there is no place within an answer"),
        (faults.stall(after_bytes=0), Reply.no_answer(), "it has no head, so there is no place within an answer"),
        (faults.cut(), SIZED, "all 3 bytes of its body come before, so nobody would see it"),
        (faults.reset(), Reply.of(status=204), "all 0 bytes of its body come before, so nobody would see it"),
        (faults.cut(), ABC.cut(), "faults.cut() does not go with this reply: it would change nothing"),
        (faults.jitter(1e-30), ABC.delay(1), "it would change nothing, as the reply is like that already"),
        (faults.sliced(2), Reply.of("ab", "c"), "it would change nothing, as the reply is like that already"),
        (faults.refused(), Reply.no_answer("refused"), "it would change nothing"),
        (faults.nul(), Reply.no_answer(), "it has no head, so there is no answer to break"),
        (faults.nul(), Reply.of(status=304), "an answer with status 304 has no body"),
        (faults.nul(after=4), ABC, "the reply has 3 chunks: after=4 is not within it"),
        (faults.nul(after_bytes=7), ABC, "the reply has 6 bytes: after_bytes=7 is not within it"),
        (faults.dropped_chunk(after=3), ABC, "the reply has 3 chunks: there is none after 3 of them"),
        (faults.dropped_chunk(after_bytes=6), ABC, "the reply has 6 bytes: there is none after 6 of them"),
        (faults.dropped_chunk(), Reply.of(""), "its body is empty"),
        (faults.reordered_chunks(after=2), ABC, "chunk 2 is its last, with none to change places with"),
        (faults.reordered_chunks(), Reply.of("a", "a", "", "b"), "no two neighbours among its chunks differ"),
        (faults.slow_first_chunk(), Reply.of(), "the reply has no chunks: late_end is for its end"),
        (faults.slow_drip(), Reply.of(), "its body is empty"),
        (faults.short_content_length(7), ABC, "the reply has 6 bytes: by=7 is more"),
        (faults.trailing_bytes(), ABC.cut(), "its body is not whole, so nothing can come after it"),
        (faults.trailing_bytes(), Reply.of("a", headers={"content-length": "2"}), "its body is not whole"),
        (faults.trailing_bytes(), Reply.of("a", headers={"connection": "close"}), "its body ends with the connection"),
        (faults.nul() | faults.cut(after=9), ABC, "faults.cut(after=9) does not go with this reply: the reply has 4"),
    ],
)  # fmt: skip
def test_a_fault_that_does_not_go_with_a_reply_says_why(fault, reply, message):
    with pytest.raises(ValueError, match="does not go with this reply") as caught:
        fault(reply)
    assert message in str(caught.value)


# Before the answer


@given(some_fault(*sorted(set(in_group(GROUPS[0])) - {"refused", "slow_head"})), REPLIES)
def test_what_comes_instead_of_an_answer_comes_when_the_answer_would_have(fault, reply):
    changed = applied(fault, reply)
    moment = reply.ending.at if reply.head is None else reply.head.at
    first = changed.ending if changed.head is None else changed.head
    assert first.at == moment


@given(st.integers(0, 2**32))
def test_garbage_is_no_status_line_and_ends_its_line(seed):
    reply = faults.garbage_then_close(seed=seed)(ABC)
    assert (reply.head, reply.ending.kind) == (None, "cut")
    assert reply.ending.data[0] >= 0x80
    assert reply.ending.data.endswith(b"\n")
    assert reply.ending.data != faults.garbage_then_close(seed=seed + 1)(ABC).ending.data


@few
@given(ANSWERS, st.data())
def test_a_malformed_chunk_follows_whole_ones(reply, data):
    after = data.draw(st.integers(0, len(reply.chunks)))
    changed = faults.malformed_chunk(after=after)(reply)
    assert changed.chunks == reply.chunks[:after]
    assert changed.ending.kind == "cut"
    with pytest.raises(ValueError, match="invalid literal"):
        int(changed.ending.data.split(b"\r\n")[0], 16)
    assert faults.malformed_chunk()(reply).chunks == ()


def test_a_malformed_chunk_makes_the_framing_chunked():
    for headers in ({"content-length": "3"}, {"connection": "close"}, {"transfer-encoding": "gzip"}):
        reply = Reply.of("abc", headers={"x": "y", **headers})
        assert faults.malformed_chunk()(reply).headers == (("x", "y"),)
    assert faults.malformed_chunk()(kept := Reply.of(headers={"connection": "keep-alive"})).head == kept.head


def test_an_error_says_what_it_was_told_to_say():
    assert faults.server_error("Rate limit reached")(ABC) == Reply.error(500, reason="Rate limit reached")
    assert faults.server_error()(ABC.delay(2)) == Reply.error(500).delay(2)
    assert faults.rate_limited(7)(ABC).headers.get("retry-after") == "7"


# In the stream

LATER = ["slow_head", "slow_first_chunk", "slow_drip", "jitter", "bandwidth", "late_end"]


def arrivals(reply: Reply) -> list[float]:
    """When each byte came."""
    return [chunk.at for chunk in reply.chunks for _ in chunk.data]


@given(some_fault(*LATER), REPLIES)
def test_a_delay_keeps_the_bytes_and_the_way_it_ends_and_nothing_comes_earlier(fault, reply):
    slow = applied(fault, reply)
    assert (slow.body, slow.status, slow.headers) == (reply.body, reply.status, reply.headers)
    assert replace(slow.ending, at=0.0) == replace(reply.ending, at=0.0)
    assert all(new >= old for new, old in zip(arrivals(slow), arrivals(reply), strict=True))
    assert slow.ending.at >= reply.ending.at
    assert slow.head is reply.head is None or slow.head.at >= reply.head.at


@few
@given(some_fault("cut", "reset", "stall", "malformed_chunk"), ANSWERS)
def test_what_breaks_a_stream_keeps_its_beginning(fault, reply):
    broken = applied(fault, reply)
    assert reply.body.startswith(broken.body)
    assert broken.head == reply.head


@few
@given(ANSWERS, st.data(), st.sampled_from(["cut", "reset", "stall"]))
def test_breaking_a_stream_is_what_the_reply_does_itself(reply, data, kind):
    after = data.draw(st.integers(0, len(reply.body)))
    assume(reply.status != 304)
    fault = getattr(faults, kind)(after_bytes=after)
    assert outcome(fault, reply) in (getattr(reply, kind)(after_bytes=after), None)


@few
@given(ANSWERS, _SECONDS)
def test_a_slow_first_chunk_leaves_the_head_on_time(reply, seconds):
    slow = applied(faults.slow_first_chunk(seconds), reply)
    assert slow.head == reply.head
    assert slow.chunks == reply.delay(seconds).chunks


@few
@given(ANSWERS, _SECONDS, st.integers(1, 9))
def test_a_drip_has_pieces_of_one_size_a_gap_apart(reply, gap, size):
    drip = applied(faults.slow_drip(gap, size=size), reply)
    assert all(len(chunk.data) == size for chunk in drip.chunks[:-1])
    assert all(later.at - sooner.at >= gap * 0.999 for sooner, later in pairwise(drip.chunks))


@few
@given(ANSWERS, st.integers(1, 1000))
def test_a_line_carries_no_more_than_its_bandwidth(reply, rate):
    slow = applied(faults.bandwidth(rate), reply)
    carried = 0
    for chunk in slow.chunks:
        carried += len(chunk.data)
        assert chunk.at - reply.head.at >= carried / rate * 0.999
    assert datas(slow) == datas(reply)


def test_a_chunk_that_waited_for_the_line_delays_those_behind_it():
    reply = Reply.of("a" * 10, "b" * 10, wait(10), "c" * 10)
    assert [chunk.at for chunk in faults.bandwidth(10)(reply).chunks] == [1, 2, 11]


def test_a_slow_line_and_a_drip_do_not_bring_the_end_forward():
    reply = Reply.of("a", "b").delay(1)
    late = replace(reply, ending=Ending(at=60))
    for fault in (faults.bandwidth(1), faults.slow_drip(1)):
        assert fault(late).ending.at == 60
        assert fault(reply).ending.at == fault(reply).chunks[-1].at


@few
@given(REPLIES, st.integers(0, 2**32), st.floats(0.01, 60))
def test_jitter_is_bounded_and_its_seed_decides(reply, seed, seconds):
    late = faults.jitter(seconds, seed=seed)(reply)
    gaps = len(reply.chunks) + (1 if reply.head is None else 2)
    assert 0 < late.ending.at - reply.ending.at <= gaps * seconds * 1.001
    assert late == faults.jitter(seconds, seed=seed)(reply)
    assert late != faults.jitter(seconds, seed=seed + 1)(reply)


@few
@given(ANSWERS, st.integers(1, 9))
def test_a_wrong_length_is_wrong_by_so_many_bytes(reply, by):
    long = faults.long_content_length(by)(reply)
    assert int(long.headers.get("content-length")) == len(reply.body) + by
    assert long.ending.kind == ("cut" if reply.ending.kind == "complete" else reply.ending.kind)
    if (short := outcome(faults.short_content_length(by), reply)) is not None:
        assert int(short.headers.get("content-length")) == len(reply.body) - by
        assert short.ending == reply.ending
    else:
        assert by > len(reply.body)


def test_a_length_replaces_what_the_head_said_of_the_framing():
    chunked = Reply.of("abc", headers=[("Transfer-Encoding", "chunked"), ("Content-Length", "9"), ("x", "y")])
    assert faults.short_content_length()(chunked).headers == (("x", "y"), ("content-length", "2"))


@few
@given(ANSWERS, st.integers(1, 9) | st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple))
def test_slicing_is_rechunking(reply, size):
    assert outcome(faults.sliced(size), reply) in (reply.rechunk(size), None)


def test_trailing_bytes_come_after_the_answer_and_after_others():
    twice = (faults.trailing_bytes(b"a") | faults.trailing_bytes(b"b"))(ABC)
    assert twice == replace(ABC, ending=Ending(data=b"ab"))


# In the content


@few
@given(some_fault(*sorted(set(in_group(GROUPS[2])) - {"empty_answer"})), ANSWERS)
def test_a_fault_in_the_content_leaves_the_head_and_the_ending(fault, reply):
    changed = applied(fault, reply)
    assert (changed.head, changed.ending) == (reply.head, reply.ending)


@given(some_fault(*in_group(GROUPS[2])), ANSWERS, st.integers(-3, 3))
def test_a_content_length_stays_as_right_or_wrong_as_it_was(fault, reply, off):
    said = max(0, len(reply.body) + off)
    head = Head(headers=Headers({"x": "y", "Content-Length": str(said)}))
    changed = applied(fault, replace(reply, head=head))
    assert [name for name, _ in changed.headers] == ["x", "Content-Length"]
    surplus = max(said - len(reply.body), -len(changed.body))
    assert int(changed.headers.get("content-length")) - len(changed.body) == surplus


def test_a_length_never_becomes_less_than_nothing():
    assert faults.empty_answer()(Reply.of("abc", headers={"content-length": "2"})).headers[0][1] == "0"


def test_a_length_that_is_no_number_is_left_alone():
    reply = Reply.of("a", headers={"content-length": "²"})
    assert faults.nul()(reply).headers == reply.headers


INSERTED = {
    "invalid_bytes": b"\xff",
    "byte_order_mark": b"\xef\xbb\xbf",
    "nul": b"\0",
    "split_crlf": b"\r\n",
    "oversized_chunk": "€".encode() * 100_000,
}


@few
@given(st.sampled_from(sorted(INSERTED)), ANSWERS, st.data())
def test_after_chunks_what_is_inserted_is_chunks_of_its_own(name, reply, data):
    after = data.draw(st.integers(0, len(reply.chunks)))
    changed = applied(CATALOGUE[name].make(after=after), reply)
    added = 2 if name == "split_crlf" else 1
    assert b"".join(datas(changed)[after : after + added]) == INSERTED[name]
    assert (*changed.chunks[:after], *changed.chunks[after + added :]) == reply.chunks


@given(st.sampled_from(sorted(INSERTED)), ANSWERS, st.data())
def test_after_bytes_what_is_inserted_is_there_and_no_other_boundary_moves(name, reply, data):
    assume(reply.chunks)
    after = data.draw(st.integers(0, len(reply.body)))
    changed = applied(CATALOGUE[name].make(after_bytes=after), reply)
    assert changed.body == reply.body[:after] + INSERTED[name] + reply.body[after:]
    moved = [n if n <= after else n + len(INSERTED[name]) for n in boundaries(reply)]
    assert boundaries(changed) == sorted(moved + [after + 1] * (name == "split_crlf"))


def boundaries(reply: Reply) -> list[int]:
    """After how many bytes of the body one chunk ends and the next begins."""
    return list(accumulate(map(len, datas(reply)[:-1])))


@pytest.mark.parametrize("name", INSERTED)
def test_what_is_inserted_comes_last_unless_it_is_a_byte_order_mark(name):
    body = CATALOGUE[name].make()(ABC).body
    assert body == (INSERTED[name] + b"abcdef" if name == "byte_order_mark" else b"abcdef" + INSERTED[name])


def test_what_is_inserted_comes_with_its_neighbour():
    reply = Reply.of(wait(1), "a", wait(1), "b")
    assert [chunk.at for chunk in faults.nul(after=0)(reply).chunks] == [1, 1, 2]
    assert [chunk.at for chunk in faults.nul(after=1)(reply).chunks] == [1, 1, 2]
    assert faults.nul()(Reply.of().delay(3)).chunks == (Chunk(b"\0", 3),)
    assert faults.nul(after_bytes=0)(Reply.of().delay(3)).chunks == (Chunk(b"\0", 3),)


@few
@given(ANSWERS, st.data())
def test_a_duplicated_chunk_comes_twice_and_a_dropped_one_never(reply, data):
    assume(reply.chunks)
    n = data.draw(st.integers(0, len(reply.chunks) - 1))
    twice = applied(faults.duplicated_chunk(after=n), reply)
    assert twice.chunks == reply.chunks[:n] + reply.chunks[n : n + 1] * 2 + reply.chunks[n + 1 :]
    assert faults.dropped_chunk(after=n)(reply).chunks == reply.chunks[:n] + reply.chunks[n + 1 :]


@few
@given(ANSWERS, st.data())
def test_a_chunk_is_chosen_by_a_byte_that_it_holds(reply, data):
    assume(reply.body)
    place = data.draw(st.integers(0, len(reply.body) - 1))
    n = [n for n, chunk in enumerate(reply.chunks) for _ in chunk.data][place]
    for fault in (faults.duplicated_chunk, faults.dropped_chunk, faults.reordered_chunks):
        assert outcome(fault(after_bytes=place), reply) == outcome(fault(after=n), reply)


@few
@given(ANSWERS)
def test_reordering_moves_two_neighbours_and_no_moment(reply):
    changed = applied(faults.reordered_chunks(), reply)
    assert [chunk.at for chunk in changed.chunks] == [chunk.at for chunk in reply.chunks]
    moved = [n for n, (old, new) in enumerate(zip(datas(reply), datas(changed), strict=True)) if old != new]
    assert moved == [moved[0], moved[0] + 1]
    assert datas(changed)[moved[0]] == datas(reply)[moved[1]]
    assert datas(changed)[moved[1]] == datas(reply)[moved[0]]


@given(ANSWERS)
def test_an_answer_that_ends_inside_a_character_misses_the_rest_of_it(reply):
    changed = applied(faults.ends_inside_a_character(), reply)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(changed.body)
    assert decoder.getstate()[0]
    assert reply.body.startswith(changed.body) or changed.body == reply.body + b"\xf0\x9f\x98"
    assert changed.ending == reply.ending


@pytest.mark.parametrize(
    ("body", "cut_short"),
    [
        ("aé", b"a\xc3"),
        ("é€z", b"\xc3\xa9\xe2\x82"),
        ("😀 and more", b"\xf0\x9f\x98"),
        ("plain", b"plain\xf0\x9f\x98"),
        ("", b"\xf0\x9f\x98"),
        (b"\xc3\xa9\xed\xa0\x80\xc0\xaf\xf4\x90\x80\x80\xff", b"\xc3"),  # only the first is a character
    ],
)
def test_the_last_multi_byte_character_is_the_one_that_is_cut(body, cut_short):
    assert faults.ends_inside_a_character()(Reply.of(body)).body == cut_short


@few
@given(st.characters(min_codepoint=0x80, exclude_categories=["Cs"]), strategies.malformed_utf8())
def test_every_character_counts_as_one_and_no_malformed_bytes_do(character, malformed):
    whole = character.encode()
    assert faults.ends_inside_a_character()(Reply.of(whole)).body == whole[:-1]
    changed = faults.ends_inside_a_character()(Reply.of(malformed)).body
    if malformed.decode(errors="ignore").isascii():
        assert changed == malformed + b"\xf0\x9f\x98"
    else:
        assert len(changed) < len(malformed)


@given(st.integers(1, 40))
def test_an_oversized_chunk_is_well_formed_text_of_its_size(size):
    (chunk,) = faults.oversized_chunk(size)(Reply.of()).chunks
    assert len(chunk.data) == size
    assert chunk.data.decode().count("€") == size // 3


@few
@given(ANSWERS)
def test_an_empty_answer_is_complete_when_the_other_ended(reply):
    empty = applied(faults.empty_answer(), reply)
    assert empty == Reply(reply.head, (), Ending(at=reply.ending.at))


# Recorded replies

RECORDED = [
    (f"{name}[{n}]", exchange.reply)
    for name in fixtures.names()
    for n, exchange in enumerate(fixtures.load(name))
]
NEEDS_NO_HEAD = {
    *in_group(GROUPS[0]), "cut", "reset", "stall", "jitter", "late_end",
} - {"malformed_chunk"}  # fmt: skip
NEEDS_BODY = {
    "slow_drip", "bandwidth", "short_content_length", "sliced", "duplicated_chunk", "dropped_chunk", "reordered_chunks",
}  # fmt: skip


def why_not(name: str, reply: Reply) -> str | None:
    """Why the fault, without options, does not go with a recorded reply; None where it does."""
    framed = reply.headers.get("transfer-encoding") == "chunked"
    sizes = [len(chunk.data) for chunk in reply.chunks]
    reasons = {
        "it has no head": reply.head is None and name not in NEEDS_NO_HEAD,
        "its body is empty": not reply.body and name in NEEDS_BODY,
        "the reply has no chunks": not reply.chunks and name == "slow_first_chunk",
        "its body is not whole": reply.ending.kind != "complete" and name == "trailing_bytes",
        "its body ends with the connection": name == "trailing_bytes"
        and not framed
        and reply.headers.get("connection") == "close",
        "no two neighbours": name == "reordered_chunks"
        and all(not one or not two or one == two for one, two in pairwise(datas(reply))),
        "it would change nothing": (name == "sliced" and set(sizes) == {1})
        or (name == "empty_answer" and not reply.chunks and reply.ending.kind == "complete")
        or (name == "stall" and reply.ending == reply.stall().ending)
        or (name == "silence" and (reply.head, reply.ending.kind) == (None, "stall")),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


@pytest.mark.parametrize("kind", KINDS)
def test_every_fault_goes_with_every_recorded_reply_or_says_why_not(kind):
    fault = kind.make()
    went = 0
    for where, reply in RECORDED:
        reason = why_not(kind.name, reply)
        if reason is None:
            assert fault(reply) != reply, where
            went += 1
        else:
            with pytest.raises(ValueError, match=f"does not go with this reply: {reason}"):
                fault(reply)
    assert went > 40


def test_a_recorded_answer_is_broken_at_a_chunk_and_at_a_byte():
    reply = fixtures.load("real_chat")[0].reply
    fault = faults.invalid_bytes(after=2) | faults.stall(after_bytes=40)
    broken = fault(reply)
    before = b"".join(datas(reply)[:2])
    assert broken.body == (before + b"\xff" + reply.body[len(before) :])[:40]
    assert (broken.head, broken.ending.kind) == (reply.head, "stall")


# What a `requests` client sees

CHAT = {"model": "gpt-4", "messages": []}
SPOKEN = Reply.of("Hi, ", wait(0.01), "ми".encode()[:3], "ми".encode()[3:], "р!", wait(0.01), "end")
WAITS = 0.05  # seconds: what slow faults add here
PATIENCE = {"stall": 0.1, "silence": 0.1}  # seconds; for the others it is 10


class Seen(NamedTuple):
    """What a client with `stream=True` gets from `iter_content(None)`: pieces, and how it ended."""

    pieces: list[bytes]
    error: str = "text"
    status: int | None = 200


class Case(NamedTuple):
    seen: Seen
    fault: Fault | None = None  # where it is not the fault without options
    whole: bool = True  # the pieces are the chunks; otherwise they only join to the same


PIECES = datas(SPOKEN)
TEXT = SPOKEN.body
CASES = {
    "refused": Case(Seen([], "ConnectionError", None)),
    "reset_before_headers": Case(Seen([], "ConnectionError", None)),
    "empty_response": Case(Seen([], "ConnectionError", None)),
    "garbage_then_close": Case(Seen([], "ConnectionError", None)),
    "silence": Case(Seen([], "ReadTimeout", None)),
    "malformed_chunk": Case(Seen(PIECES[:2], "ChunkedEncodingError"), faults.malformed_chunk(after=2)),
    "slow_head": Case(Seen(PIECES), faults.slow_head(WAITS)),
    "challenge_page": Case(Seen([faults.challenge_page()(SPOKEN).body], status=403)),
    "html_page": Case(Seen([faults.html_page()(SPOKEN).body])),
    "server_error": Case(Seen([b"Error"], status=500), faults.server_error("Rate limit reached")),
    "rate_limited": Case(Seen([b"Error"], status=429)),
    "cut": Case(Seen(PIECES[:3], "ChunkedEncodingError"), faults.cut(after=3)),
    "reset": Case(Seen(PIECES[:3], "ChunkedEncodingError"), faults.reset(after=3)),
    "stall": Case(Seen(PIECES[:3], "ConnectionError"), faults.stall(after=3)),
    "slow_first_chunk": Case(Seen(PIECES), faults.slow_first_chunk(WAITS)),
    "slow_drip": Case(Seen([bytes([byte]) for byte in TEXT]), faults.slow_drip(WAITS / len(TEXT))),
    "jitter": Case(Seen(PIECES), faults.jitter(WAITS)),
    "bandwidth": Case(Seen(PIECES), faults.bandwidth(len(TEXT) / WAITS)),
    "short_content_length": Case(Seen([TEXT[:-2]]), faults.short_content_length(2), whole=False),
    "long_content_length": Case(Seen([], "ChunkedEncodingError"), whole=False),
    "sliced": Case(Seen([TEXT[n : n + 4] for n in range(0, len(TEXT), 4)]), faults.sliced(4)),
    "trailing_bytes": Case(Seen(PIECES)),
    "late_end": Case(Seen(PIECES), faults.late_end(WAITS)),
    "ends_inside_a_character": Case(Seen([*PIECES[:3], b"\xd1"])),
    "invalid_bytes": Case(Seen([PIECES[0], b"\xff", *PIECES[1:]]), faults.invalid_bytes(after=1)),
    "byte_order_mark": Case(Seen(["\ufeff".encode(), *PIECES])),
    "nul": Case(Seen([*PIECES, b"\0"])),
    "split_crlf": Case(Seen([*PIECES, b"\r", b"\n"])),
    "duplicated_chunk": Case(Seen([PIECES[0], *PIECES])),
    "dropped_chunk": Case(Seen(PIECES[1:])),
    "reordered_chunks": Case(Seen([PIECES[1], PIECES[0], *PIECES[2:]])),
    "oversized_chunk": Case(Seen([*PIECES, "€".encode() * 100_000])),
    "empty_answer": Case(Seen([])),
}


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


def seen(session: requests.Session, url: str, timeout: float) -> Seen:
    pieces: list[bytes] = []
    status = None
    try:
        with session.post(f"{url}/api/chat", json=CHAT, stream=True, timeout=timeout) as response:
            status = response.status_code
            for piece in response.iter_content(None):
                pieces.append(piece)
    except requests.RequestException as error:
        return Seen(pieces, type(error).__name__, status)
    return Seen(pieces, "text", status)


@pytest.mark.parametrize("kind", KINDS)
def test_a_requests_client_sees_what_the_catalogue_says(kind, session):
    case = CASES[kind.name]
    fault = kind.make() if case.fault is None else case.fault
    broken = fault(SPOKEN)
    fake = FakeAivvm()
    with fake.server() as server:
        fake.reply(broken)
        began = time.monotonic()
        met = seen(session, server.url, PATIENCE.get(kind.name, 10))
        took = time.monotonic() - began
    expected = case.seen
    if not case.whole:
        met, expected = (one._replace(pieces=[b"".join(one.pieces)]) for one in (met, expected))
    assert met == expected

    says, _, detail = kind.sees.partition(": ")
    text = b"".join(met.pieces)
    assert says == met.error
    for claim, holds in CLAIMS.items():
        assert claim not in detail or holds(text), claim
    assert ("as it was" in detail) == (met.error == "text" and text == TEXT)
    assert ("later" in detail or "slowly" in detail) == (kind.name in LATER)
    assert met.status in (None, 200) or f"status {met.status}" in detail
    assert set(re.findall(r"status (\d+)", detail)) <= {str(met.status)}
    if met.error == "text":
        assert took >= broken.ending.at


CLAIMS = {
    "as it was": lambda text: text == TEXT,
    "more of it": lambda text: len(text) > len(TEXT),
    "no UTF-8": lambda text: "\ufffd" in text.decode(errors="replace"),
    "U+FEFF": lambda text: "\ufeff" in text.decode(),
    "U+0000": lambda text: "\0" in text.decode(),
    "line end": lambda text: "\r\n" in text.decode(),
    "less of it": lambda text: len(text) < len(TEXT),
    "all of it": lambda text: sorted(text) == sorted(TEXT) and text != TEXT,
    "none of it": lambda text: not text,
    "missing": lambda text: len(text) < len(TEXT),
    "last character is not": lambda text: text.decode(errors="replace").endswith("\ufffd"),
    "HTML": lambda text: text.startswith(b"<!DOCTYPE html>"),
    "the word Error": lambda text: text == b"Error",
}


def test_the_reason_and_the_header_are_where_the_catalogue_says(session):
    fake = FakeAivvm()
    with fake.server() as server:
        fake.reply(faults.server_error("Rate limit reached")(SPOKEN)).reply(faults.rate_limited(7)(SPOKEN))
        first, second = (session.post(f"{server.url}/api/chat", json=CHAT, timeout=10) for _ in range(2))
    assert first.reason == "Rate limit reached"
    assert second.headers["retry-after"] == "7"


def test_a_reader_that_waits_less_than_a_gap_gets_an_error_of_the_place_it_waited_at(session):
    fake = FakeAivvm()
    with fake.server() as server:
        fake.reply(faults.slow_head(60)(SPOKEN)).reply(faults.slow_first_chunk(60)(SPOKEN))
        assert seen(session, server.url, 0.1) == Seen([], "ReadTimeout", None)
        assert seen(session, server.url, 0.2) == Seen([], "ConnectionError", 200)


def test_after_trailing_bytes_the_connection_is_not_used_again(session):
    fake = FakeAivvm()
    ports = []
    with fake.server() as server:
        for reply in (SPOKEN, SPOKEN, faults.trailing_bytes()(SPOKEN), SPOKEN):
            fake.reply(reply)
            with session.post(f"{server.url}/api/chat", json=CHAT, stream=True, timeout=10) as response:
                ports.append(response.raw.connection.sock.getsockname()[1])
                assert response.content == TEXT
    assert [port == ports[0] for port in ports] == [True, True, True, False]


def test_what_a_cut_shows_depends_on_the_framing(session):
    fake = FakeAivvm()
    with fake.server() as server:
        for headers in ({"connection": "close"}, {"content-length": "2"}):
            fake.reply(faults.cut(after=1)(Reply.of("a", wait(0.01), "b", headers=headers)))
        assert seen(session, server.url, 10) == Seen([b"a"])
        assert seen(session, server.url, 10) == Seen([], "ChunkedEncodingError")


# The page


def table(group: str) -> str:
    rows = [
        f"| `{kind.name}({kind.takes})` | {kind.summary} | {kind.sees} | {', '.join(map('`{}`'.format, kind.aliases))} |"
        for kind in CATALOGUE.values()
        if kind.group == group
    ]
    return "\n".join(
        ["| fault | what it does | a `requests` client sees | other names |", "|---|---|---|---|", *rows]
    )


@pytest.mark.parametrize("group", GROUPS)
def test_the_page_has_the_catalogue_as_it_is(group):
    page = PAGE.read_text(encoding="utf-8")
    assert f"\n### {group.capitalize()}\n\n{table(group)}\n" in page
