from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from inspect import signature
from random import Random
from typing import Any

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument
from hypothesis.strategies import SearchStrategy
from hypothesis.vendor.pretty import pretty

from aivvm.models import MODELS
from aivvm.payload import build_request
from aivvm_testing import strategies
from aivvm_testing.faults import CATALOGUE, Fault, cut, parse
from aivvm_testing.recording import Recording
from aivvm_testing.reply import ENDING_KINDS, HEADLESS_KINDS, Head, Reply
from aivvm_testing.strategies import (
    byte_streams,
    chunkings,
    faults,
    malformed_utf8,
    messages,
    model_ids,
    payloads,
    recordings,
    register_profiles,
    replies,
    well_formed_text,
)

SIZES = st.integers(0, 6)


def anything(value: object) -> bool:
    return True


def simplest(strategy: SearchStrategy[Any], condition: Callable[[Any], object] = anything) -> Any:
    """The smallest value that meets the condition, the same one each time; fails where none is ever made."""
    return search(strategy, condition, [Phase.generate, Phase.shrink])


def reached(strategy: SearchStrategy[Any], condition: Callable[[Any], object]) -> Any:
    """The first value that meets the condition; fails where none is ever made."""
    return search(strategy, condition, [Phase.generate])


def search(strategy: SearchStrategy[Any], condition: Callable[[Any], object], phases: list[Phase]) -> Any:
    return find(
        strategy,
        lambda value: bool(condition(value)),
        settings=settings(max_examples=3000, database=None, phases=phases, report_multiple_bugs=False),
        random=Random(0),
    )


def is_utf8(data: bytes) -> bool:
    return data.decode(errors="ignore").encode() == data


def splits_a_character(chunks: tuple[bytes, ...]) -> bool:
    return is_utf8(b"".join(chunks)) and not all(map(is_utf8, chunks))


# What they make


@given(well_formed_text())
def test_well_formed_text_survives_utf8(text: str) -> None:
    assert text.encode().decode() == text


@given(st.data(), SIZES, SIZES)
def test_well_formed_text_keeps_to_its_sizes(data: st.DataObject, one: int, other: int) -> None:
    least, most = sorted((one, other))
    assert least <= len(data.draw(well_formed_text(min_size=least, max_size=most))) <= most


@given(malformed_utf8())
def test_malformed_utf8_never_decodes(data: bytes) -> None:
    assert not is_utf8(data)


@pytest.mark.parametrize("data", strategies.ILL_FORMED, ids=repr)
def test_each_ill_formed_unit_is_malformed_on_its_own(data: bytes) -> None:
    assert not is_utf8(data)


@given(byte_streams(well_formed=True))
def test_well_formed_streams_join_to_utf8(chunks: tuple[bytes, ...]) -> None:
    assert is_utf8(b"".join(chunks))


@given(byte_streams(well_formed=False))
def test_malformed_streams_join_to_something_else(chunks: tuple[bytes, ...]) -> None:
    assert not is_utf8(b"".join(chunks))


@given(st.data(), st.booleans(), st.none() | st.integers(1, 4))
def test_streams_keep_to_their_options(data: st.DataObject, empty_chunks: bool, most: int | None) -> None:
    chunks = data.draw(byte_streams(max_chunks=most, empty_chunks=empty_chunks))
    assert most is None or len(chunks) <= most
    assert empty_chunks or all(chunks)


@given(st.data(), st.binary(max_size=40), st.booleans(), st.none() | st.integers(1, 5))
def test_chunkings_join_to_the_data(
    data: st.DataObject, whole: bytes, empty_chunks: bool, most: int | None
) -> None:
    chunks = data.draw(chunkings(whole, max_chunks=most, empty_chunks=empty_chunks))
    assert isinstance(chunks, tuple)
    assert b"".join(chunks) == whole
    assert most is None or len(chunks) <= most
    assert empty_chunks or all(chunks)


@given(model_ids())
def test_known_model_ids_are_known(name: str) -> None:
    assert name in MODELS


@given(model_ids(known=False))
def test_unknown_model_ids_are_not_empty_and_not_known(name: str) -> None:
    assert name
    assert name not in MODELS


@given(st.data(), SIZES, SIZES)
def test_messages_are_dicts_of_a_role_and_content(data: st.DataObject, one: int, other: int) -> None:
    least, most = sorted((one, other))
    drawn = data.draw(messages(min_size=least, max_size=most))
    assert least <= len(drawn) <= most
    for message in drawn:
        assert set(message) == {"role", "content"}
        assert message["role"] in {"user", "assistant", "system"}
        message["content"].encode()


@given(payloads())
def test_every_payload_builds_a_request(payload: dict[str, Any]) -> None:
    assert build_request(**payload).json()["messages"] == payload["messages"]


@given(replies())
def test_times_of_replies_are_whole_microseconds(reply: Reply) -> None:
    moments = (
        [chunk.at for chunk in reply.chunks] + [reply.ending.at] + ([reply.head.at] if reply.head else [])
    )
    assert [round(at, 6) for at in moments] == moments


@given(st.data(), st.none() | st.lists(st.sampled_from(ENDING_KINDS), min_size=1), st.integers(0, 3))
def test_replies_keep_to_their_options(data: st.DataObject, endings: Any, most: int) -> None:
    reply = data.draw(replies(endings=endings, max_chunks=most))
    assert reply.ending.kind in (endings or ENDING_KINDS)
    assert len(reply.chunks) <= most
    assert endings or reply.ending.kind != "unfinished"


@given(replies(with_head=True))
def test_replies_have_a_head_where_it_is_asked_for(reply: Reply) -> None:
    assert reply.head is not None


@given(replies(with_head=False))
def test_replies_have_no_head_where_none_is_asked_for(reply: Reply) -> None:
    assert reply.head is None


@given(replies(plain=True))
def test_plain_replies_hold_only_what_every_door_plays(reply: Reply) -> None:
    assert all(chunk.data for chunk in reply.chunks)
    assert (reply.ending.data, reply.ending.error) == (b"", None)
    assert reply.head is None or not reply.head.decoded


@given(replies())
def test_headers_of_replies_say_nothing_about_framing(reply: Reply) -> None:
    framing = {"content-length", "transfer-encoding", "connection", "content-encoding"}
    assert not framing & {name.lower() for name, _ in reply.headers}


@given(recordings())
def test_exchanges_of_recordings_are_in_the_order_they_started(recording: Recording) -> None:
    started = [exchange.started for exchange in recording]
    assert started == sorted(started)
    assert len(recording) <= 3


REPLY = Reply.of("Hello, ", "мир", "!")
NO_ANSWER = Reply.no_answer("cut")


@given(faults())
def test_faults_are_read_back_from_what_they_print(fault: Fault) -> None:
    assert parse(repr(fault)) == fault
    assert pretty(fault) == repr(fault)
    assert 1 <= len(fault.steps) <= 2


@pytest.mark.parametrize("reply", [REPLY, Reply.of(), NO_ANSWER, REPLY.cut()], ids=repr)
def test_faults_for_a_reply_can_be_done_to_it(reply: Reply) -> None:
    @settings(max_examples=settings().max_examples // 4)
    @given(faults(reply=reply))
    def can_be_done(fault: Fault) -> None:
        assert isinstance(fault(reply), Reply)

    can_be_done()


@given(faults(names=["RESET_PEER", "slow-drip"], max_steps=3))
def test_faults_keep_to_their_names_and_steps(fault: Fault) -> None:
    assert {step.name for step in fault.steps} <= {"reset_before_headers", "slow_drip"}
    assert len(fault.steps) <= 3


@given(faults(groups=["in the content"], max_steps=1))
def test_faults_keep_to_their_groups(fault: Fault) -> None:
    assert [CATALOGUE[step.name].group for step in fault.steps] == ["in the content"]


# What they reach, and how they shrink


def test_the_simplest_are_as_simple_as_can_be() -> None:
    assert simplest(well_formed_text()) == ""
    assert simplest(well_formed_text(min_size=2)) == "00"
    assert simplest(malformed_utf8()) == b"\x80"
    assert simplest(byte_streams()) == ()
    assert simplest(byte_streams(well_formed=False)) == (b"\x80",)
    assert simplest(chunkings(b"abc")) == (b"abc",)
    assert simplest(chunkings(b"")) == ()
    assert simplest(model_ids()) == next(iter(MODELS))
    assert simplest(messages()) == [{"role": "user", "content": ""}]
    assert simplest(payloads()) == {"model": next(iter(MODELS)), "messages": simplest(messages())}
    assert simplest(replies(with_head=True)) == Reply(Head())
    assert simplest(replies(with_head=False)) == Reply.no_answer("cut")
    assert len(simplest(recordings())) == 0


def test_the_simplest_split_of_a_character_is_two_chunks() -> None:
    assert simplest(byte_streams(empty_chunks=False), splits_a_character) == (b"\xc2", b"\x80")
    assert simplest(chunkings("яя".encode()), splits_a_character) == (b"\xd1", b"\x8f\xd1\x8f")


def naive(chunks: tuple[bytes, ...]) -> str:
    return "".join([chunk.decode() for chunk in chunks])


def forgiving(chunks: tuple[bytes, ...]) -> str:
    return "".join([chunk.decode(errors="replace") for chunk in chunks])


def escaping(chunks: tuple[bytes, ...]) -> str:
    return b"".join(chunks).decode("unicode-escape").encode("latin-1").decode()


def right(chunks: tuple[bytes, ...]) -> str:
    return b"".join(chunks).decode(errors="replace")


@pytest.mark.parametrize(
    ("decode", "least"),
    [
        pytest.param(naive, (b"\xc2", b"\x80"), id="each chunk by itself"),
        pytest.param(forgiving, (b"\xc2", b"\x80"), id="each chunk by itself, with replacement"),
        pytest.param(escaping, (b"\\n",), id="escapes"),
    ],
)
def test_a_wrong_decoder_shrinks_to_the_least_that_it_gets_wrong(
    decode: Callable[[tuple[bytes, ...]], str], least: tuple[bytes, ...]
) -> None:
    def is_wrong(chunks: tuple[bytes, ...]) -> bool:
        try:
            return decode(chunks) != right(chunks)
        except ValueError:
            return True

    assert simplest(byte_streams(well_formed=True, empty_chunks=False), is_wrong) == least


def test_a_client_that_minds_bad_bytes_shrinks_to_one_of_them() -> None:
    assert simplest(malformed_utf8(), lambda data: b"\xff" in data) == b"\xff"
    assert simplest(byte_streams(), lambda chunks: not is_utf8(b"".join(chunks))) == (b"\x80",)
    assert simplest(replies(with_head=True), lambda reply: not is_utf8(reply.body)) == Reply.of(b"\x80")


def test_text_and_requests_shrink_to_what_matters_in_them() -> None:
    assert simplest(well_formed_text(), lambda text: not text.isascii()) == "\x80"
    assert simplest(chunkings(b"abcd"), lambda chunks: len(chunks) == 2 and all(chunks)) in (
        (b"a", b"bcd"),
        (b"ab", b"cd"),
    )
    assert simplest(model_ids(known=False)) == "gpt-5"
    assert simplest(messages(), lambda made: len(made) == 2) == [{"role": "user", "content": ""}] * 2
    assert simplest(payloads(), lambda made: made.get("temperature"))["temperature"] == 1


def test_replies_shrink_to_what_matters_in_them() -> None:
    assert simplest(replies()) == Reply.of()
    assert simplest(replies(), lambda reply: reply.status and reply.status >= 500) == Reply(Head(500))
    assert simplest(replies(), lambda reply: len(reply.chunks) == 2 and reply.body).duration == 0
    assert (
        simplest(replies(with_head=True), lambda reply: reply.ending.kind != "complete") == Reply.of().cut()
    )
    split = simplest(replies(), lambda reply: splits_a_character(tuple(c.data for c in reply.chunks)))
    assert split == Reply.of(b"\xc2", b"\x80")


def test_recordings_shrink_to_one_empty_exchange() -> None:
    found = simplest(recordings(), lambda recording: len(recording) > 0)
    (exchange,) = found
    assert (exchange.request.method, exchange.request.body, exchange.started) == ("POST", b"", 0)
    assert exchange.reply == Reply.of()


def test_faults_shrink_to_one_step_without_options() -> None:
    assert repr(simplest(faults())) == "faults.refused()"
    assert repr(simplest(faults(groups=["in the content"]))) == "faults.ends_inside_a_character()"
    assert repr(simplest(faults(names=["stall", "cut"]))) == "faults.stall()"


@pytest.mark.parametrize(
    ("names", "misses", "least"),
    [
        (None, lambda reply: reply.head and reply.ending.kind == "reset", {"faults.reset()"}),
        (None, lambda reply: b"\0" in reply.body, {"faults.nul()"}),
        (["slow_head"], lambda reply: reply.duration >= 30, {"faults.slow_head(30.0)"}),
        (
            ["cut", "jitter"],
            lambda reply: reply.body == b"Hello, ",
            {"faults.cut(after=1)", "faults.cut(after_bytes=7)"},
        ),
    ],
    ids=["resets", "NULs", "time", "losses"],
)
def test_a_client_that_minds_no_fault_shrinks_to_the_one_it_misses(
    names: list[str] | None, misses: Callable[[Reply], object], least: set[str]
) -> None:
    found = simplest(faults(names=names, reply=REPLY), lambda fault: misses(fault(REPLY)))
    assert repr(found) in least


def test_every_fault_is_reached_with_each_of_its_options() -> None:
    missing = {
        (kind.name, option) for kind in CATALOGUE.values() for option in signature(kind.make).parameters
    }
    missing |= {(kind.name, "") for kind in CATALOGUE.values()}

    def last(made: Fault) -> bool:
        for step in made.steps:
            missing.difference_update((step.name, option) for option, _ in (*step.options, ("", None)))
        return not missing

    assert reached(faults(max_steps=5), last)


@pytest.mark.parametrize("name", [*CATALOGUE])
def test_every_fault_can_be_done_to_some_reply(name: str) -> None:
    fault = reached(faults(names=[name], reply=REPLY, max_steps=1), anything)
    assert fault(REPLY) != REPLY


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_text_has_characters_of_every_length(size: int) -> None:
    assert (
        len(reached(well_formed_text(), lambda text: any(len(char.encode()) == size for char in text))) == 1
    )


def test_text_has_escapes_and_special_characters() -> None:
    missing = {*strategies.ESCAPES, *strategies.SPECIAL_TEXT, "\u07ff", "\ud7ff", "\U0010ffff"}

    def last(made: str) -> bool:
        missing.difference_update([text for text in missing if text in made])
        return not missing

    assert reached(well_formed_text(), last)


def test_malformed_utf8_has_every_family() -> None:
    missing = set(strategies.ILL_FORMED)

    def last(made: bytes) -> bool:
        missing.difference_update([unit for unit in missing if unit in made])
        return not missing

    assert reached(malformed_utf8(), last)


def test_streams_are_split_inside_each_byte_of_the_longest_characters() -> None:
    assert reached(
        byte_streams(), lambda chunks: splits_a_character(chunks) and len(chunks) == 4 and all(chunks)
    )


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_chunkings_come_in_pieces_of_one_size(size: int) -> None:
    whole = b"abcdefghij"
    wanted = tuple(whole[at : at + size] for at in range(0, len(whole), size))
    assert reached(chunkings(whole), wanted.__eq__) == wanted


def test_chunkings_have_empty_chunks_unless_told_otherwise() -> None:
    assert reached(chunkings(b"ab"), lambda chunks: b"" in chunks)


@pytest.mark.parametrize("kind", [kind for kind in ENDING_KINDS if kind != "unfinished"])
def test_every_ending_is_reached_with_and_without_a_head(kind: str) -> None:
    if kind != "complete":
        assert reached(replies(), lambda reply: reply.head is None and reply.ending.kind == kind)
    if kind not in HEADLESS_KINDS:
        assert reached(replies(), lambda reply: reply.head is not None and reply.ending.kind == kind)


def test_unfinished_is_made_when_asked_for() -> None:
    assert simplest(replies(endings=["unfinished"])).ending.kind == "unfinished"


@pytest.mark.parametrize(
    "seen",
    [
        lambda reply: len({name.lower() for name, _ in reply.headers}) < len(reply.headers),
        lambda reply: any(not chunk.data for chunk in reply.chunks),
        lambda reply: any(chunk.data and not is_utf8(chunk.data) for chunk in reply.chunks),
        lambda reply: reply.ending.data,
        lambda reply: reply.ending.error,
        lambda reply: reply.head and reply.head.decoded,
        lambda reply: reply.duration > 1,
        lambda reply: reply.status == 500,
    ],
    ids=["duplicates", "empty chunk", "malformed chunk", "data", "error", "decoded", "slow", "status"],
)
def test_replies_vary_in_every_part(seen: Callable[[Reply], object]) -> None:
    assert seen(reached(replies(), seen))


def is_json(body: bytes, **style: Any) -> bool:
    try:
        return json.dumps(json.loads(body), **style).encode() == body
    except ValueError:
        return False


def body_kind(body: bytes) -> str:
    if not is_utf8(body):
        return "binary"
    if body[:1] not in (b"[", b"{"):
        return "text" if body else "empty"
    for kind, style in {
        "default": {},
        "compact": {"separators": (",", ":")},
        "indented": {"indent": 1},
    }.items():
        if is_json(body, **style):
            return kind
    return "other JSON"


def test_recorded_requests_have_bodies_of_every_kind() -> None:
    missing = {"binary", "text", "empty", "default", "compact", "indented", "other JSON"}

    def last(made: Recording) -> bool:
        missing.difference_update(body_kind(exchange.request.body) for exchange in made)
        return not missing

    assert reached(recordings(min_size=1, max_size=1), last)


# Misuse


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: well_formed_text(min_size=-1),
            "min_size to be a whole number, 0 or more, but got min_size=-1",
        ),
        (
            lambda: well_formed_text(max_size=1.5),
            "max_size to be a whole number, 0 or more, but got max_size=1.5",
        ),
        (lambda: messages(min_size=2, max_size=1), "max_size=1 is less than min_size=2"),
        (lambda: messages(min_size=None), "min_size to be a whole number"),
        (lambda: recordings(max_size=True), "max_size to be a whole number"),
        (lambda: chunkings("text"), "the bytes to split, such as text.encode(), but got data='text'"),
        (lambda: chunkings(b"a", max_chunks=0), "1 bytes make at least one chunk"),
        (lambda: byte_streams(max_chunks=-1), "max_chunks to be a whole number"),
        (lambda: byte_streams(well_formed=False, max_chunks=0), "allow max_chunks=1 or more"),
        (lambda: byte_streams(well_formed="yes"), "well_formed to be True, False, or None"),
        (lambda: byte_streams(empty_chunks=None), "empty_chunks=True or empty_chunks=False, but got None"),
        (lambda: chunkings(b"a", empty_chunks=0), "empty_chunks=True or empty_chunks=False, but got 0"),
        (lambda: replies(plain=None), "plain=True or plain=False, but got None"),
        (lambda: model_ids(known=None), "known=True or known=False, but got None"),
        (lambda: replies(endings="cut"), "a collection of endings, such as ['cut']"),
        (lambda: replies(endings=["cutt"]), "some of complete, cut, reset"),
        (lambda: replies(endings=[]), "some of complete, cut, reset"),
        (lambda: replies(endings=["refused"], with_head=True), "no reply with a head ends in any of"),
        (lambda: replies(endings=["complete"], with_head=False), "no reply without a head ends in any of"),
        (lambda: faults(names="cut"), "a collection of names, such as ['cut']"),
        (lambda: faults(names=["cutt"]), "no fault is called 'cutt'; did you mean 'cut'"),
        (lambda: faults(names=[cut()]), "expected names of faults, but got [faults.cut()]"),
        (lambda: faults(names=[]), "names to be some of refused, reset_before_headers"),
        (lambda: faults(groups="in the stream"), "a collection of groups, such as ['in the stream']"),
        (lambda: faults(groups=["in the steam"]), "some of before the answer, in the stream, in the content"),
        (lambda: faults(names=["cut"], groups=["in the content"]), "none of names=['cut'] is in groups="),
        (lambda: faults(max_steps=0), "max_steps to be a whole number, 1 or more, but got max_steps=0"),
        (lambda: faults(max_steps=None), "max_steps to be a whole number, 1 or more, but got max_steps=None"),
        (lambda: faults(reply="Hello"), "a Reply, such as Reply.of('a'), but got reply='Hello'"),
    ],
)
def test_arguments_are_checked_at_the_call(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        call()
    assert message in str(caught.value)


# Profiles


def test_the_profiles_are_registered_when_asked_for_and_loaded_by_nobody() -> None:
    code = """
from hypothesis import settings
before, registered = settings.default, len(settings._profiles)
from aivvm_testing import stateful, strategies
assert settings.default is before
assert len(settings._profiles) == registered
strategies.register_profiles()
assert settings.default is before
assert len(settings._profiles) == registered + 3
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_profiles_are_what_the_page_says() -> None:
    register_profiles()
    dev, ci, thorough = [settings.get_profile(f"aivvm-{name}") for name in ("dev", "ci", "thorough")]
    assert [one.max_examples for one in (dev, ci, thorough)] == [100, 100, 2000]
    assert [one.derandomize for one in (dev, ci, thorough)] == [False, True, False]
    assert thorough.stateful_step_count == 100
    assert {(one.deadline, one.print_blob) for one in (dev, ci, thorough)} == {(None, True)}


def test_no_chunks_at_all_can_be_asked_for() -> None:
    assert simplest(byte_streams(max_chunks=0)) == ()
