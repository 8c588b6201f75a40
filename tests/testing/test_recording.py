"""Recordings in files: exact both ways, deterministic, atomic; everything wrong in a file is explained."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import threading
import tracemalloc
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from aivvm.transport import Headers, Request
from aivvm_testing import format as module
from aivvm_testing import journal as journals
from aivvm_testing import recording as stored
from aivvm_testing import strategies
from aivvm_testing.damage import inspect
from aivvm_testing.errors import CorruptRecording
from aivvm_testing.journal import Journal, recover
from aivvm_testing.recording import Exchange, Recording
from aivvm_testing.reply import ENDING_KINDS, Chunk, Ending, Head, Reply
from aivvm_testing.strategies import recordings

HEADER = b'{"aivvm_recording": 1, "origin": "written", "note": ""}\n'
REQUEST = b'{"request": {"method": "GET", "url": "http://x/", "headers": []}, "started": 0.0}\n'
REPLY = b'{"reply": {"status": 200, "reason": "OK", "headers": []}}\n'
END = b'{"end": "complete"}\n'
WHOLE = HEADER + REQUEST + REPLY + END

GET = Request("GET", "http://x/")


@pytest.fixture(autouse=True)
def _disks_are_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of files are saved here: waiting for the disk would take most of the time."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "session.jsonl"


def saved(recording: Recording, path: Path) -> bytes:
    recording.save(path)
    return path.read_bytes()


def lines_of(exchange: Exchange, path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in saved(Recording([exchange]), path).splitlines()[1:]]


def posted(body: bytes, path: Path) -> dict[str, Any]:
    """The request member of a file that holds this body, which it also gives back."""
    exchange = Exchange(Request("POST", "http://x/", body=body), Reply.of("a"))
    event = lines_of(exchange, path)[0]["request"]
    assert Recording.load(path)[0].request.body == body
    return {name: value for name, value in event.items() if name not in ("method", "url", "headers")}


class TestRoundTrip:
    @given(recordings())
    def test_loading_gives_what_was_saved(self, scratch: Path, recording: Recording) -> None:
        recording.save(scratch)
        assert Recording.load(scratch) == recording

    @given(recordings())
    def test_saving_is_deterministic(self, scratch: Path, recording: Recording) -> None:
        first = saved(recording, scratch)
        assert saved(Recording.load(scratch), scratch) == first

    @given(recordings())
    def test_a_file_is_lines_of_json_that_disturb_no_terminal(
        self, scratch: Path, recording: Recording
    ) -> None:
        text = saved(recording, scratch).decode()
        assert text.endswith("\n")
        for line in text[:-1].split("\n"):
            assert isinstance(json.loads(line), dict)
            assert not re.search(
                "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]", line
            )

    @given(st.text(st.characters(codec=None), max_size=5))
    @example("\ud83d\u202e\x85\u2028\ufeff")
    def test_any_text_comes_back(self, scratch: Path, text: str) -> None:
        assume(not re.search("[\ud800-\udbff][\udc00-\udfff]", text))
        head = Head(200, "", decoded=Headers([(text, text), (text, "")]))
        request = Request("GET", "http://x/", Headers([(text, text)]))
        exchange = Exchange(request, Reply(head, (), Ending("cut", error=text)))
        recording = Recording([exchange], note=text, expected={text: [text]})
        recording.save(scratch)
        assert Recording.load(scratch) == recording

    @given(st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=5))
    @example("\x1b[2J\x85\xa0")
    def test_whatever_a_wire_carries_comes_back(self, scratch: Path, text: str) -> None:
        head = Head(200, text, Headers([("!#$%&'*+.^_`|~0aZ-", text)]))
        recording = Recording([Exchange(Request("M-SEARCH", f"http://x/{text}"), Reply(head))])
        recording.save(scratch)
        assert Recording.load(scratch) == recording

    @given(st.binary(max_size=8), st.binary(max_size=8))
    @example(b"\xef\xbb\xbf\r\x00", b"\xed\xa0\x80")
    def test_any_bytes_come_back(self, scratch: Path, one: bytes, two: bytes) -> None:
        reply = Reply(Head(), (Chunk(one), Chunk(two)), Ending("cut", data=one))
        recording = Recording([Exchange(Request("POST", "http://x/", body=two), reply)])
        recording.save(scratch)
        assert Recording.load(scratch) == recording

    @given(
        st.floats(0, allow_infinity=False),
        st.floats(0, allow_infinity=False),
    )
    @example(-0.0, 5e-324)
    def test_any_time_comes_back(self, scratch: Path, one: float, two: float) -> None:
        one, two = sorted([one, two])
        reply = Reply(Head(at=one), (Chunk(b"a", two), Chunk(b"b", two)), Ending(at=two))
        recording = Recording([Exchange(GET, reply, two)])
        recording.save(scratch)
        assert Recording.load(scratch) == recording

    def test_equal_recordings_are_equal_files(self, tmp_path: Path) -> None:
        as_ints = Recording([Exchange(GET, Reply(Head(at=0), (Chunk(b"a", 1),), Ending(at=1)), 2)])
        as_floats = Recording([Exchange(GET, Reply(Head(at=-0.0), (Chunk(b"a", 1.0),), Ending(at=1.0)), 2.0)])
        assert as_ints == as_floats
        assert saved(as_ints, tmp_path / "1") == saved(as_floats, tmp_path / "2")

    def test_every_ending_comes_back(self, tmp_path: Path) -> None:
        headed = [Reply.of("a").cut(), Reply.of("a").reset(), Reply.of("a")]
        headless = [Reply.no_answer(kind, at=0.5) for kind in ENDING_KINDS if kind != "complete"]
        recording = Recording([Exchange(GET, reply) for reply in headed + headless])
        recording.save(tmp_path / "f")
        assert Recording.load(tmp_path / "f") == recording


class TestForm:
    def test_the_example_of_the_specification_is_what_is_saved(self, tmp_path: Path) -> None:
        page = Path(__file__).parents[2] / "docs" / "recording-format.md"
        found = re.search(r"```jsonl\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
        assert found
        (tmp_path / "f").write_text(found[1], "utf-8")
        recording = Recording.load(tmp_path / "f")
        assert saved(recording, tmp_path / "g").decode() == found[1]
        assert recording[0].reply.body == b"caf\xc3"

    def test_a_moment_is_written_once(self, tmp_path: Path) -> None:
        reply = Reply(Head(at=0.0), (Chunk(b"a"), Chunk(b"b", 0.5), Chunk(b"c", 0.5)), Ending(at=0.75))
        assert [line.get("at") for line in lines_of(Exchange(GET, reply), tmp_path / "f")] == [
            None,
            None,
            None,
            0.5,
            None,
            0.75,
        ]

    def test_a_chunk_is_text_where_it_is_utf8_and_hex_where_it_is_not(self, tmp_path: Path) -> None:
        exchange = Exchange(GET, Reply.of("é\ufeff", b"\xc3", b"\xed\xa0\x80", b""))
        assert lines_of(exchange, tmp_path / "f")[2:-1] == [
            {"text": "é\ufeff"},
            {"hex": "c3"},
            {"hex": "eda080"},
            {"text": ""},
        ]

    def test_a_non_ascii_answer_can_be_read_in_the_file(self, tmp_path: Path) -> None:
        assert "Привет, 世界 👩‍👩‍👧".encode() in saved(
            Recording([Exchange(GET, Reply.of("Привет, 世界 👩‍👩‍👧"))]), tmp_path / "f"
        )

    @pytest.mark.parametrize(
        "body",
        [
            b"{}",
            b'{"a": [1, 2.5, true, null, "x"]}',
            b'"\\ud83d"',
            b'{"\\u2028": -0.0}',
            b"[1e+16]",
            b"null",
            b"0",
        ],
    )
    def test_a_body_in_the_default_form_is_json(self, scratch: Path, body: bytes) -> None:
        assert posted(body, scratch) == {"json": json.loads(body)}

    @pytest.mark.parametrize("body", [b'{"a":[1,2.5]}', b'[1,"a, b"]'])
    def test_a_body_in_the_compact_form_is_json(self, scratch: Path, body: bytes) -> None:
        assert posted(body, scratch) == {"json": json.loads(body), "json_style": "compact"}

    @pytest.mark.parametrize(
        "body",
        [
            b'{"a": 1, "a": 2}',
            b'{"a":1, "b":2}',
            b"[1.50]",
            b"[-0]",
            b"[1e400]",
            b"[NaN]",
            b"[9007199254740993]",
            b"[" + b"9" * 5000 + b"]",
            b"[" * 101 + b"]" * 101,
            b"[" * 100_000,
            b'{"a": 1}\n',
            '"é"'.encode(),
            b'"\\u00E9"',
            b'"\\/"',
            b'"\\u0061"',
            b'{"a": ',
            b"key=value",
        ],
        ids=lambda body: ascii(body[:20]),
    )
    def test_a_body_that_json_would_change_is_text(self, scratch: Path, body: bytes) -> None:
        assert posted(body, scratch) == {"text": body.decode()}

    @pytest.mark.parametrize("body", [b"\xff", '{"a": 1}'.encode("utf-16"), b'"\xed\xa0\x80"'])
    def test_a_body_that_is_not_utf8_is_hex(self, scratch: Path, body: bytes) -> None:
        assert posted(body, scratch) == {"hex": body.hex()}

    def test_no_body_is_no_member(self, scratch: Path) -> None:
        assert posted(b"", scratch) == {}

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
            ),
        ),
        st.sampled_from([{}, {"separators": (",", ":")}, {"ensure_ascii": False}, {"indent": 1}]),
    )
    def test_every_json_body_comes_back_byte_for_byte(
        self, scratch: Path, value: Any, style: dict[str, Any]
    ) -> None:
        assert len(posted(json.dumps(value, **style).encode("utf-8", "surrogatepass"), scratch)) in (1, 2)

    def test_what_was_decoded_is_an_object_or_pairs_where_names_repeat(self, tmp_path: Path) -> None:
        once = Headers([("content-encoding", "gzip"), ("content-length", "9")])
        twice = Headers([("content-encoding", "gzip"), ("content-encoding", "br")])
        for decoded, form in ((once, dict(once)), (twice, [list(pair) for pair in twice])):
            reply = Reply(Head(decoded=decoded))
            assert lines_of(Exchange(GET, reply), tmp_path / "f")[1]["reply"]["decoded"] == form
            assert Recording.load(tmp_path / "f")[0].reply == reply


class TestByHand:
    def test_what_has_a_default_may_be_left_out(self, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(
            b'{"aivvm_recording": 1}\n'
            b'{"request": {"url": "http://x/", "method": "GET"}}\n'
            b'{"reply": {"reason": "OK", "status": 200}}\n'
            b'{"end": "complete"}'
        )
        assert Recording.load(tmp_path / "f") == Recording([Exchange(GET, Reply.of())])

    def test_whole_seconds_carriage_returns_spaces_and_capital_hex_are_fine(self, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(
            HEADER.replace(b"\n", b"\r\n")
            + REQUEST.replace(b"\n", b"  \r\n")
            + b' {"reply": {"status": 200, "reason": "OK"}, "at": 1}\r\n{"hex": "C3 A9"}\r\n{"end": "complete", "at": 2}\r\n'
        )
        reply = Reply(Head(at=1.0), (Chunk("é".encode(), 1.0),), Ending(at=2.0))
        assert Recording.load(tmp_path / "f") == Recording([Exchange(GET, reply)])

    def test_a_body_by_hand_is_what_python_makes_of_the_json(self, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(
            HEADER
            + b'{"request": {"method": "POST", "url": "u", "json": {"a":["\xc3\xa9",1e2]}}}\n'
            + REPLY
            + END
        )
        assert Recording.load(tmp_path / "f")[0].request.body == b'{"a": ["\\u00e9", 100.0]}'


def nested(depth: int) -> bytes:
    return b'{"request": {"method": "GET", "url": "u", "json": ' + b"[" * depth + b"]" * depth + b"}}\n"


def reply_line(reason: str, *fields: list[str]) -> bytes:
    return json.dumps({"reply": {"status": 200, "reason": reason, "headers": fields}}).encode() + b"\n"


EXAMPLE = '{"aivvm_recording": 1, "origin": "written", "note": "why it exists"}'
KINDS = ", ".join(f'"{kind}"' for kind in ENDING_KINDS)

CORRUPT: dict[str, tuple[bytes, int, str]] = {
    # Not a recording
    "empty": (b"", 0, f"the file is empty: a recording begins with a line such as {EXAMPLE}"),
    "html": (
        b"<!DOCTYPE html>\n<html>",
        1,
        f"not a recording: it begins with a line such as {EXAMPLE}, but this file with b'<!DOCTYPE html>\\n'",
    ),
    "binary": (
        b"\x89PNG\x00\x1b[2J" + b"\xff" * 100,
        1,
        f"not a recording: it begins with a line such as {EXAMPLE}, but this file with "
        r"b'\x89PNG\x00\x1b[2J\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff'",
    ),
    "byte order mark": (
        b"\xef\xbb\xbf" + WHOLE,
        1,
        "the file begins with a byte order mark: save it as UTF-8 without one",
    ),
    "no header": (
        REQUEST + REPLY + END,
        1,
        f'no header: a recording begins with a line such as {EXAMPLE}, but this line has "request", "started"',
    ),
    "empty object": (
        b"{}\n",
        1,
        f"no header: a recording begins with a line such as {EXAMPLE}, but this line has nothing",
    ),
    "newer version": (
        b'{"aivvm_recording": 2}\n',
        1,
        "version 2 of the format, and this aivvm_testing reads version 1: was it written by a newer one? Then upgrade",
    ),
    "version true": (
        b'{"aivvm_recording": true}\n',
        1,
        "version true of the format, and this aivvm_testing reads version 1: was it written by a newer one? Then upgrade",
    ),
    "journal": (
        HEADER + b'{"x": 1, ' + REQUEST[1:],
        2,
        "a line of a journal, not of a recording: its recorder was never closed, and only closing makes the recording",
    ),
    # The header
    "header member": (
        b'{"aivvm_recording": 1, "notes": ""}\n',
        1,
        'the header has no member "notes" (did you mean "note"?); '
        'it has "aivvm_recording", "origin", "note", "recorded_at", "expected"',
    ),
    "origin": (
        b'{"aivvm_recording": 1, "origin": "Recorded"}\n',
        1,
        'origin is one of recorded, written, converted, but got "Recorded"',
    ),
    "note": (b'{"aivvm_recording": 1, "note": 5}\n', 1, "note is a string, but got 5"),
    "recorded_at": (
        b'{"aivvm_recording": 1, "recorded_at": "2026-13-01T00:00:00Z"}\n',
        1,
        'recorded_at is a moment such as 2026-11-23T00:00:00Z, but got "2026-13-01T00:00:00Z"',
    ),
    "recorded_at null": (
        b'{"aivvm_recording": 1, "recorded_at": null}\n',
        1,
        '"recorded_at" is a string, but got null',
    ),
    "expected": (b'{"aivvm_recording": 1, "expected": ["a"]}\n', 1, '"expected" is an object, but got ["a"]'),
    # Lines
    "truncated line": (
        WHOLE + REQUEST[:45],
        5,
        "not JSON (column 38: Unterminated string starting at), and the file ends here: it was cut off; "
        "restore it, or delete its last exchange",
    ),
    "bad json": (
        HEADER + b'{"request": }\n' + REPLY + END,
        2,
        "not JSON (column 13: Expecting value): every line is one JSON object",
    ),
    "empty line": (
        HEADER + b"\n" + REQUEST + REPLY + END,
        2,
        "an empty line: every line is one event; delete it",
    ),
    "not an object": (HEADER + b"[1]\n", 2, "every line is one JSON object, but got [1]"),
    "not utf-8": (
        HEADER + b'{"text": "\xff"}\n',
        2,
        "byte 11 of the line is not UTF-8: save the file as UTF-8",
    ),
    "nan": (
        HEADER + REQUEST + b'{"reply": {"status": 200, "reason": "OK"}, "at": NaN}\n',
        3,
        "not JSON that a recording can hold: NaN is not JSON",
    ),
    "twice": (
        HEADER + b'{"started": 1, "started": 2}\n',
        2,
        'not JSON that a recording can hold: "started" is there twice',
    ),
    "huge number": (
        HEADER + b'{"started": ' + b"1" * 5000 + b"}\n",
        2,
        "not JSON that a recording can hold: a number of 5000 digits is too long",
    ),
    "deep": (HEADER + nested(100_000), 2, "JSON that is nested too deeply for an event"),
    "deep header": (
        b'{"aivvm_recording": 1, "expected": ' + b"[" * 100_000 + b"\n",
        1,
        "JSON that is nested too deeply for an event",
    ),
    # Events and their order
    "unknown event": (
        HEADER + b'{"requets": {}}\n',
        2,
        'an event has one of "request", "reply", "text", "hex", "end", but this line has "requets" (did you mean "request"?)',
    ),
    "control characters": (
        HEADER + b'{"\\u001b[2J": {}}\n',
        2,
        'an event has one of "request", "reply", "text", "hex", "end", but this line has "\\u001b[2J"',
    ),
    "only at": (
        HEADER + REQUEST + REPLY + b'{"at": 1.0}\n',
        4,
        'an event has one of "request", "reply", "text", "hex", "end", but this line has only "at"',
    ),
    "second header": (
        WHOLE + WHOLE,
        5,
        "a second header: one file is one recording, and its header is the first line",
    ),
    "reply first": (
        HEADER + REPLY + END,
        2,
        '"reply" outside an exchange: each begins with a "request" line and is over with its "end" line',
    ),
    "event after the end": (
        WHOLE + b'{"text": "late"}\n',
        5,
        '"text" outside an exchange: each begins with a "request" line and is over with its "end" line',
    ),
    "chunk before reply": (
        HEADER + REQUEST + b'{"text": "a"}\n' + REPLY + END,
        3,
        'a chunk before the head of exchange 0: a "reply" line comes first',
    ),
    "reply twice": (
        HEADER + REQUEST + REPLY + REPLY + END,
        4,
        'a second "reply" in exchange 0, begun in line 2: an exchange has one head',
    ),
    "request within an exchange": (
        WHOLE + REQUEST + REPLY + REQUEST,
        7,
        'a request, but exchange 1, begun in line 5, has no end yet: a line such as {"end": "complete"} comes first',
    ),
    "no end": (
        WHOLE + REQUEST + REPLY,
        6,
        "exchange 1, begun in line 5, has no end: its last line is one such as "
        '{"end": "complete"}; restore it, or delete the exchange',
    ),
    # Members
    "request is no object": (HEADER + b'{"request": "GET"}\n', 2, '"request" is an object, but got "GET"'),
    "no url": (HEADER + b'{"request": {"method": "GET"}}\n', 2, '"request" has no "url", and needs one'),
    "url is no string": (
        HEADER + b'{"request": {"method": "GET", "url": 1}}\n' + REPLY + END,
        2,
        '"url" is a string, but got 1',
    ),
    "request member": (
        HEADER + b'{"request": {"method": "GET", "url": "u", "body": "x"}}\n',
        2,
        '"request" has no member "body"; it has "method", "url", "headers", "json", "text", "hex", "json_style"',
    ),
    "member beside request": (
        HEADER + b'{"request": {"method": "GET", "url": "u"}, "start": 0}\n',
        2,
        'a request line has no member "start" (did you mean "started"?); it has "request", "started"',
    ),
    "two bodies": (
        HEADER + b'{"request": {"method": "GET", "url": "u", "text": "", "hex": ""}}\n',
        2,
        'data is either "text" or "hex", but got both',
    ),
    "json and text": (
        HEADER + b'{"request": {"method": "GET", "url": "u", "json": 1, "text": ""}}\n',
        2,
        'a body is one of "json", "text", "hex", but got two of them',
    ),
    "json style": (
        HEADER + b'{"request": {"method": "GET", "url": "u", "json": 1, "json_style": "pretty"}}\n',
        2,
        '"json_style" is "compact", beside "json", or absent, but got "pretty"',
    ),
    "json style without json": (
        HEADER + b'{"request": {"method": "GET", "url": "u", "text": "1", "json_style": "compact"}}\n',
        2,
        '"json_style" is "compact", beside "json", or absent, but got "compact"',
    ),
    "headers are no list": (
        HEADER + b'{"request": {"method": "GET", "url": "u", "headers": {"a": "b"}}}\n',
        2,
        '"headers" is a list of [name, value] pairs, but got {"a": "b"}',
    ),
    "header is no pair": (
        HEADER + b'{"request": {"method": "GET", "url": "u", "headers": [["a", 1]]}}\n',
        2,
        '"headers" is a list of [name, value] pairs of strings, but got ["a", 1]',
    ),
    "started": (
        HEADER + b'{"request": {"method": "GET", "url": "u"}, "started": true}\n',
        2,
        '"started" takes seconds, 0 or more, but got true',
    ),
    "status": (
        HEADER + REQUEST + b'{"reply": {"status": "200", "reason": "OK"}}\n',
        3,
        '"status" is a whole number, 200 to 999, but got "200"',
    ),
    "status too small": (
        HEADER + REQUEST + b'{"reply": {"status": 99, "reason": "OK"}}\n',
        3,
        '"status" is a whole number, 200 to 999, but got 99',
    ),
    "no reason": (
        HEADER + REQUEST + b'{"reply": {"status": 200}}\n',
        3,
        '"reply" has no "reason", and needs one',
    ),
    "decoded": (
        HEADER + REQUEST + b'{"reply": {"status": 200, "reason": "OK", "decoded": {"content-length": 3}}}\n',
        3,
        '"decoded" is a list of [name, value] pairs of strings, but got ["content-length", 3]',
    ),
    "two lines in a field": (
        HEADER + REQUEST + reply_line("OK", ["a", "1\r\nb: 2"]),
        3,
        "a line of the head holds no CR, LF or NUL, but got 'a: 1\\r\\nb: 2'",
    ),
    "surrogate in a field": (
        HEADER + REQUEST + reply_line("OK", ["a", "\ud800"]),
        3,
        "a head is latin-1, which cannot carry '\\ud800' of 'a: \\ud800'",
    ),
    "no name of a field": (
        HEADER + REQUEST + reply_line("OK", ["", "x"]),
        3,
        "the name of a header field is a token (RFC 9110, 5.6.2), but got ''",
    ),
    "colon in the name of a field": (
        HEADER + REQUEST + reply_line("OK", ["a: b", "x"]),
        3,
        "the name of a header field is a token (RFC 9110, 5.6.2), but got 'a: b'",
    ),
    "surrogate in the reason": (
        HEADER + REQUEST + reply_line("\ud800"),
        3,
        "a head is latin-1, which cannot carry '\\ud800' of 'HTTP/1.1 200 \\ud800'",
    ),
    "two lines in the reason": (
        HEADER + REQUEST + reply_line("OK\r\nX: y"),
        3,
        "a line of the head holds no CR, LF or NUL, but got 'HTTP/1.1 200 OK\\r\\nX: y'",
    ),
    "two lines in the method": (
        HEADER + b'{"request": {"method": "GET\\r\\n", "url": "http://x/"}}\n' + REPLY + END,
        2,
        'a method holds no control characters, but got "GET\\r\\n"',
    ),
    "surrogate in the url": (
        HEADER + b'{"request": {"method": "GET", "url": "http://x/\\ud800"}}\n' + REPLY + END,
        2,
        "\"http://x/\\ud800\" is no url: '\\ud800' has no UTF-8 form",
    ),
    "half an address in the url": (
        HEADER + b'{"request": {"method": "GET", "url": "http://[::1"}}\n' + REPLY + END,
        2,
        '"http://[::1" is no url: Invalid IPv6 URL',
    ),
    "port in the url": (
        HEADER + b'{"request": {"method": "GET", "url": "http://x:99999999/"}}\n' + REPLY + END,
        2,
        '"http://x:99999999/" is no url: Port out of range 0-65535',
    ),
    "text and hex": (
        HEADER + REQUEST + REPLY + b'{"text": "a", "hex": "61"}\n',
        4,
        'data is either "text" or "hex", but got both',
    ),
    "neither text nor hex": (
        HEADER + REQUEST + REPLY + b'{"end": "cut", "data": {}}\n',
        4,
        'data is either "text" or "hex", but got neither',
    ),
    "text is no string": (HEADER + REQUEST + REPLY + b'{"text": 1}\n', 4, '"text" is a string, but got 1'),
    "surrogate": (
        HEADER + REQUEST + REPLY + b'{"text": "\\ud83d"}\n',
        4,
        '"\\ud83d" in "text" has no UTF-8 form: give the bytes as "hex"',
    ),
    "odd hex": (
        HEADER + REQUEST + REPLY + b'{"hex": "c3a"}\n',
        4,
        '"hex" is two hexadecimal digits a byte, but got 3 characters: "c3a"',
    ),
    "chunk member": (
        HEADER + REQUEST + REPLY + b'{"text": "a", "After": 1}\n',
        4,
        'a chunk line has no member "After"; it has "at", "text", "hex"',
    ),
    # Time
    "negative": (
        HEADER + REQUEST + REPLY + b'{"at": -0.5, "text": "a"}\n',
        4,
        '"at" takes seconds, 0 or more, but got -0.5',
    ),
    "infinite": (
        HEADER + REQUEST + REPLY + b'{"at": 1e999, "text": "a"}\n',
        4,
        '"at" takes seconds, 0 or more, but got Infinity',
    ),
    "more than a float": (
        HEADER + REQUEST + REPLY + b'{"at": 1' + b"0" * 400 + b', "text": "a"}\n',
        4,
        '"at" takes seconds, 0 or more, but got 1' + "0" * 56 + "...",
    ),
    "decreasing": (
        HEADER + REQUEST + REPLY + b'{"at": 0.5, "text": "a"}\n{"at": 0.25, "end": "complete"}\n',
        5,
        '"at" never decreases within an exchange, but got 0.25 after 0.5',
    ),
    # Endings
    "kind": (
        HEADER + REQUEST + REPLY + b'{"end": "completed"}\n',
        4,
        f'"end" is one of {KINDS}, but got "completed" (did you mean "complete"?)',
    ),
    "kind is no string": (
        HEADER + REQUEST + REPLY + b'{"end": ["cut"]}\n',
        4,
        f'"end" is one of {KINDS}, but got ["cut"]',
    ),
    "refused with a head": (
        HEADER + REQUEST + REPLY + b'{"end": "refused"}\n',
        4,
        '"refused" means that there was no connection, but the exchange has a head',
    ),
    "complete without a head": (
        HEADER + REQUEST + END,
        3,
        '"complete" means that an answer came whole, but the exchange has no "reply" line',
    ),
    "error is no string": (
        HEADER + REQUEST + REPLY + b'{"end": "cut", "error": null}\n',
        4,
        '"error" is a string, but got null',
    ),
    "data is no object": (
        HEADER + REQUEST + REPLY + b'{"end": "cut", "data": "00"}\n',
        4,
        '"data" is an object, but got "00"',
    ),
}


def written(event: dict[str, object], tag: bytes) -> bytes:
    """The line that the format's page tells of: JSON, and escapes for what disturbs a terminal."""
    text = json.dumps(event, ensure_ascii=False)
    disturbing = "[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
    text = re.sub(disturbing, lambda match: f"\\u{ord(match[0]):04x}", text)
    return b"{" + tag + text[1:].encode() + b"\n"


TAGS = st.sampled_from([b"", b'"x": 7, '])
MOMENTS = st.none() | st.floats(0, 1e9)


def said(data: bytes) -> dict[str, object]:
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"hex": data.hex()}


@given(
    st.one_of(strategies.malformed_utf8(), strategies.well_formed_text().map(str.encode), st.binary()),
    MOMENTS,
    TAGS,
)
@example("\x7f\x85\u2028\ufeff".encode(), None, b"")
@example(b'"\\\n\r\t\\n', 0.5, b"")
def test_the_quick_way_to_write_a_chunk_gives_json(data: bytes, at: float | None, tag: bytes) -> None:
    moment = {} if at is None else {"at": at}
    assert module.chunk_line(data, at, tag) == written({**moment, **said(data)}, tag)


@given(recordings(), MOMENTS, TAGS)
def test_every_event_is_written_as_json(recording: Recording, at: float | None, tag: bytes) -> None:
    moment = {} if at is None else {"at": at}
    for exchange in recording:
        request, reply, started = exchange.request, exchange.reply, exchange.started
        line = module.request_line(request, started, tag)
        event = json.loads(b"{" + line.removeprefix(b"{" + tag))
        assert line == written(event, tag)
        assert event["request"]["headers"] == list(map(list, request.headers))
        if (head := reply.head) is not None:
            one = {"status": head.status, "reason": head.reason, "headers": list(map(list, head.headers))}
            if head.decoded:
                fields = dict(head.decoded)
                alone = len(fields) == len(head.decoded)
                one["decoded"] = fields if alone else list(map(list, head.decoded))
            assert module.head_line(head, at, tag) == written({"reply": one, **moment}, tag)
        ending = reply.ending
        end: dict[str, object] = {**moment, "end": ending.kind}
        if ending.error is not None:
            end["error"] = ending.error
        if ending.data:
            end["data"] = said(ending.data)
        assert module.ending_line(ending, at, tag) == written(end, tag)


class TestLongFiles:
    """A file of more than `LAZY_FROM` bytes; here every file is one."""

    @pytest.fixture(autouse=True)
    def _every_file_is_long(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stored, "LAZY_FROM", 0)

    @given(recordings(), st.sampled_from([1, 7, 100, 4096]))
    def test_what_is_loaded_lazily_is_what_was_saved(
        self, scratch: Path, recording: Recording, block: int
    ) -> None:
        recording.save(scratch)
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(stored, "_BLOCK", block)
            loaded = Recording.load(scratch)
        assert len(loaded) == len(recording)
        assert loaded == recording
        assert list(loaded[::-1]) == list(recording[::-1])
        assert hash(loaded) == hash(recording)

    def test_lines_in_another_hand_are_found_too(self, scratch: Path) -> None:
        request = b'{"started": 2, "request": {"url": "http://x/", "method": "GET"}}\n'
        scratch.write_bytes(HEADER + request + b'{ "reply": {"reason": "", "status": 200} }\n{"end":"cut"}')
        assert Recording.load(scratch)[0] == Exchange(GET, Reply(Head(reason=""), (), Ending("cut")), 2.0)

    def test_an_exchange_is_checked_when_it_is_asked_for(self, scratch: Path) -> None:
        good = REQUEST + REPLY + END
        scratch.write_bytes(HEADER + good + REQUEST + REPLY + b'{"hex": "0"}\n' + END + good)
        recording = Recording.load(scratch)
        assert len(recording) == 3
        assert recording[0] == recording[2]
        with pytest.raises(CorruptRecording, match=r':7: "hex" is two hexadecimal digits a byte'):
            recording[1]

    def test_it_stays_what_it_was_when_the_file_is_replaced(self, scratch: Path) -> None:
        first = Recording([Exchange(GET, Reply.of("first"))])
        first.save(scratch)
        loaded = Recording.load(scratch)
        Recording([Exchange(GET, Reply.of("second"))]).save(scratch)
        assert loaded == first

    def test_its_file_is_closed_with_it(self, scratch: Path) -> None:
        Recording([Exchange(GET, Reply.of("first"))]).save(scratch)
        before = os.listdir("/dev/fd")
        loaded = Recording.load(scratch)
        assert len(os.listdir("/dev/fd")) == len(before) + 1
        del loaded
        assert os.listdir("/dev/fd") == before


class TestCorruptFiles:
    @pytest.mark.parametrize("lazy_from", [0, stored.LAZY_FROM], ids=["lazily", "at once"])
    @pytest.mark.parametrize("name", CORRUPT)
    def test_the_error_names_file_line_and_what_is_wrong(
        self, scratch: Path, name: str, lazy_from: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        content, line, why = CORRUPT[name]
        scratch.write_bytes(content)
        monkeypatch.setattr(stored, "LAZY_FROM", lazy_from)
        with pytest.raises(CorruptRecording) as caught:
            list(Recording.load(scratch))
        assert (caught.value.line, caught.value.why) == (line, why)
        assert str(caught.value) == (f"{scratch}:{line}: {why}" if line else f"{scratch}: {why}")

    def test_a_long_line_is_refused_without_being_read(
        self, scratch: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "MAX_LINE", 1000)
        with open(scratch, "wb") as file:
            file.write(HEADER)
            file.seek(1 << 33)  # a hole: reading it all would be seen
            file.write(b"\n")
        with pytest.raises(
            CorruptRecording, match=":2: a line of more than 1000 bytes: no recorder writes one"
        ):
            Recording.load(scratch)
        scratch.unlink()

    @pytest.mark.parametrize("before", [b"", REQUEST + REPLY], ids=["header", "chunk"])
    @pytest.mark.parametrize("read", ["load", "inspect", "recover"])
    def test_refusing_a_long_line_holds_a_small_part_of_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: str, before: bytes
    ) -> None:
        monkeypatch.setattr(module, "MAX_LINE", 48 * 1024 * 1024)
        path = tmp_path / "f.journal" if read == "recover" else tmp_path / "f"
        begin = HEADER + (before or b"{") if before else HEADER[:-3]
        path.write_bytes(begin)
        os.truncate(path, 1 << 28)  # a hole, after which no line ends
        tracemalloc.start()
        try:
            if read == "inspect":
                [damage] = inspect(path).damages
            else:
                with pytest.raises(CorruptRecording) as caught:
                    (Recording.load if read == "load" else recover)(tmp_path / "f")
                damage = caught.value
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert damage.line == begin.count(b"\n") + 1 or read == "recover"
        assert peak < 20 * 1024 * 1024

    @pytest.mark.parametrize("lazy_from", [0, 1 << 40], ids=["lazily", "at once"])
    @pytest.mark.parametrize("over", [-1, 0, 1])
    def test_a_line_of_several_pieces_is_read_whole(
        self, scratch: Path, monkeypatch: pytest.MonkeyPatch, over: int, lazy_from: int
    ) -> None:
        monkeypatch.setattr(stored, "LAZY_FROM", lazy_from)
        monkeypatch.setattr(module, "PIECE", 1000)
        monkeypatch.setattr(stored, "_BLOCK", 1500)
        for pieces in (1, 2, 5):
            body = b"a" * (pieces * 1000 + over - len(b'{"text": ""}\n'))
            recording = Recording([Exchange(GET, Reply.of(body, b"b"))] * 2)
            recording.save(scratch)
            assert Recording.load(scratch) == recording
            assert inspect(scratch) == (2, [])

    def test_after_damage_in_a_line_of_several_pieces_reading_goes_on_with_the_next(
        self, scratch: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("aivvm_testing.damage.PIECE", 100)
        monkeypatch.setattr(module, "PIECE", 100)
        good = REQUEST + REPLY + END
        scratch.write_bytes(
            HEADER + REQUEST + REPLY + b"x" * 250 + b"\n" + END + good + b"y" * 350 + b"\n" + good
        )
        found = inspect(scratch)
        assert (found.exchanges, [one.line for one in found.damages]) == (2, [4, 9])

    def test_what_cannot_be_loaded_is_not_saved(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "MAX_LINE", 1000)
        recording = Recording([Exchange(GET, Reply.of(b"\xff" * 496))])
        with pytest.raises(ValueError, match="one event takes 1003 bytes, and a line at most 1000"):
            recording.save(tmp_path / "f")
        recording = Recording([Exchange(GET, Reply.of(b"\xff" * 494))])
        recording.save(tmp_path / "f")
        assert Recording.load(tmp_path / "f") == recording
        for request, head in (
            (GET, Head(200, "\u4e2d")),
            (GET, Head(200, headers=Headers([("a b", "c")]))),
            (Request("GET", "http://[::1"), Head()),
        ):
            with pytest.raises(ValueError, match=r"latin-1|token|is no url"):
                Recording([Exchange(request, Reply(head))]).save(tmp_path / "g")
        assert os.listdir(tmp_path) == ["f"]

    @pytest.mark.parametrize("depth", [100, 300, 900])
    def test_deep_json_is_either_read_or_refused(self, scratch: Path, depth: int) -> None:
        scratch.write_bytes(HEADER + nested(depth) + REPLY + END)
        try:
            assert Recording.load(scratch)[0].request.body == b"[" * depth + b"]" * depth
        except CorruptRecording as error:
            assert "nested too deeply" in error.why  # noqa: PT017  # either outcome is right; a crash is not
            assert depth > 100

    @given(recordings(min_size=1), st.data())
    def test_a_damaged_file_is_read_or_explained(
        self, scratch: Path, recording: Recording, data: st.DataObject
    ) -> None:
        content = bytearray(saved(recording, scratch))
        for _ in range(data.draw(st.integers(1, 3))):
            where = data.draw(st.integers(0, len(content)))
            content[where : where + data.draw(st.integers(0, 4))] = data.draw(
                st.binary(max_size=3) | st.sampled_from([b'"', b"}", b"\n", b"[", b"-", b"null", b"1e999"])
            )
        scratch.write_bytes(content)
        try:
            assert isinstance(Recording.load(scratch), Recording)
        except CorruptRecording as error:
            assert error.why  # noqa: PT017  # either outcome is right; any other exception is not

    @given(recordings(min_size=1, max_size=2), st.data())
    def test_a_cut_file_loses_whole_exchanges_or_is_refused(
        self, scratch: Path, recording: Recording, data: st.DataObject
    ) -> None:
        content = saved(recording, scratch)
        scratch.write_bytes(content[: data.draw(st.integers(0, len(content)))])
        try:
            loaded = Recording.load(scratch)
            assert list(loaded) == list(recording)[: len(loaded)]
        except CorruptRecording as error:
            assert error.path == str(scratch)  # noqa: PT017  # either outcome is right; any other exception is not

    def test_a_missing_file_is_missing_not_corrupt(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"nothing\.jsonl"):
            Recording.load(tmp_path / "nothing.jsonl")

    def test_a_missing_file_with_a_journal_says_that_its_recorder_was_not_closed(
        self, tmp_path: Path
    ) -> None:
        journal = Journal(tmp_path / "f")
        with pytest.raises(
            FileNotFoundError, match=r"only its journal .*f\.journal: its recorder runs, or was stopped"
        ):
            Recording.load(tmp_path / "f")
        journal.finish()
        assert len(Recording.load(tmp_path / "f")) == 0


class TestSaving:
    def test_a_failure_keeps_the_earlier_file_and_leaves_nothing_behind(self, tmp_path: Path) -> None:
        path = tmp_path / "f"
        before = saved(Recording([Exchange(GET, Reply.of("a"))]), path)
        split = Exchange(GET, Reply(Head(), (), Ending("cut", error="\ud83d" + "\ude00")))
        with pytest.raises(ValueError, match="a surrogate pair as two characters"):
            Recording([split]).save(path)
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == ["f"]

    def test_a_missing_directory_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(
            FileNotFoundError,
            match=r"the recording cannot be saved \(No such file .*: there is no folder .*/nowhere\): .*nowhere/deep/f",
        ):
            Recording().save(tmp_path / "nowhere" / "deep" / "f")

    def test_an_earlier_file_is_replaced_by_bytes_that_are_on_the_disk(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Recording(note="the earlier one").save(tmp_path / "f")
        done: list[tuple[str, int]] = []
        fsync, move = os.fsync, os.replace

        def synced(file: int) -> None:
            done.append(("fsync", os.fstat(file).st_size))
            fsync(file)

        def moved(one: str, other: str) -> None:
            done.append(("replace", os.stat(one).st_size))
            move(one, other)

        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr(os, "replace", moved)
        Recording().save(tmp_path / "f")
        size = (tmp_path / "f").stat().st_size
        assert done == [("fsync", size), ("replace", size)]

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_a_read_only_directory_is_named(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        with pytest.raises(PermissionError, match="the recording cannot be saved"):
            Recording().save(tmp_path / "f")
        tmp_path.chmod(0o700)

    def test_a_directory_or_device_is_not_replaced(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        for path in (tmp_path, tmp_path / "pipe"):
            with pytest.raises(OSError, match="something that is not a file has this name"):
                Recording().save(path)
        assert os.listdir(tmp_path) == ["pipe"]

    def test_a_link_stays_one(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to("real")
        Recording(note="x").save(tmp_path / "link")
        assert (tmp_path / "link").is_symlink()
        assert Recording.load(tmp_path / "real").note == "x"

    def test_permissions_are_those_of_any_new_file(self, tmp_path: Path) -> None:
        (tmp_path / "plain").write_bytes(b"")
        Recording().save(tmp_path / "f")
        assert (tmp_path / "f").stat().st_mode == (tmp_path / "plain").stat().st_mode


class TestRecording:
    EXCHANGES = tuple(Exchange(GET, Reply.of(text)) for text in "abc")

    def test_it_is_a_sequence(self) -> None:
        recording = Recording(iter(self.EXCHANGES), note="n")
        assert len(recording) == 3
        assert (*recording,) == self.EXCHANGES
        assert recording[-1] is self.EXCHANGES[2]
        assert self.EXCHANGES[1] in recording
        with pytest.raises(IndexError):
            recording[3]

    def test_a_slice_is_a_recording_of_the_same_session(self) -> None:
        recording = Recording(self.EXCHANGES, origin="recorded", note="n", expected={"a": 1})
        assert recording[1:] == Recording(self.EXCHANGES[1:], origin="recorded", note="n")

    def test_every_part_counts_for_equality(self) -> None:
        at = "2026-11-23T00:00:00Z"
        different = [
            Recording(self.EXCHANGES),
            Recording(self.EXCHANGES[:2]),
            Recording(self.EXCHANGES, origin="recorded"),
            Recording(self.EXCHANGES, note="n"),
            Recording(self.EXCHANGES, recorded_at=at),
            Recording(self.EXCHANGES, expected={}),
        ]
        assert len(set(different)) == len(different)
        assert Recording(self.EXCHANGES, recorded_at=at) in {*different}
        assert Recording() != ()

    def test_nobody_can_change_it(self) -> None:
        pieces = ["a"]
        recording = Recording(expected={"Decoder": pieces})
        pieces.append("b")
        assert recording.expected == {"Decoder": ["a"]}
        recording.expected["Decoder"].clear()
        assert recording.expected == {"Decoder": ["a"]}
        for name in ("note", "origin", "recorded_at", "expected", "other"):
            with pytest.raises(AttributeError):
                setattr(recording, name, None)

    def test_it_can_be_pickled(self) -> None:
        recording = Recording(self.EXCHANGES, expected={"a": ["b"]})
        assert pickle.loads(pickle.dumps(recording)) == recording

    def test_its_repr_is_short(self) -> None:
        recording = Recording(
            self.EXCHANGES, origin="recorded", note="n" * 100, recorded_at="2026-11-23T00:00:00Z"
        )
        assert repr(recording) == (
            f"<Recording of 3 exchanges, recorded at 2026-11-23T00:00:00Z: '{'n' * 57}...'>"
        )
        assert repr(Recording(self.EXCHANGES[:1])) == "<Recording of 1 exchange, written>"

    def test_wrong_arguments_are_refused(self) -> None:
        with pytest.raises(TypeError, match=r"holds Exchange objects, but number 0 is Reply\.of"):
            Recording([Reply.of("a")])  # type: ignore[list-item]  # the point of the test
        with pytest.raises(
            ValueError, match='origin is one of recorded, written, converted, but got "manual"'
        ):
            Recording(origin="manual")  # type: ignore[arg-type]  # the point of the test
        with pytest.raises(ValueError, match=r'recorded_at is a moment such as .*, but got "yesterday"'):
            Recording(recorded_at="yesterday")
        with pytest.raises(ValueError, match=r"recorded_at is a moment such as .*, but got b'today'"):
            Recording(recorded_at=b"today")  # type: ignore[arg-type]  # the point of the test
        with pytest.raises(TypeError, match="note is a string, but got null"):
            Recording(note=None)  # type: ignore[arg-type]  # the point of the test
        with pytest.raises(ValueError, match="not JSON compliant"):
            Recording(expected={"a": float("nan")})

    @pytest.mark.parametrize("started", [-1.0, float("nan"), float("inf")])
    def test_an_exchange_starts_at_a_time(self, started: float) -> None:
        with pytest.raises(ValueError, match=f"started takes seconds, 0 or more, but got {started!r}"):
            Exchange(GET, Reply.of("a"), started)


def write(journal: Journal, exchange: Exchange, n: int) -> list[Any]:
    """The calls that record the rest of this exchange, in order."""
    reply = exchange.reply
    calls: list[Any] = []
    if reply.head is not None:
        calls.append(lambda head=reply.head: journal.head(n, head))
    calls += [lambda chunk=chunk: journal.chunk(n, chunk.data, chunk.at) for chunk in reply.chunks]
    calls.append(lambda: journal.end(n, reply.ending))
    return calls


class FullDisk:
    """A file that takes so many bytes."""

    def __init__(self, file: Any, room: int) -> None:
        self.file = file
        self.room = room

    def write(self, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = self.file.write(data[: self.room])
        self.room -= taken
        return taken

    def fileno(self) -> int:
        return self.file.fileno()

    def close(self) -> None:
        self.file.close()


class TestJournal:
    @given(recordings())
    def test_events_that_alternate_make_the_recording_that_saving_makes(
        self, scratch: Path, recording: Recording
    ) -> None:
        journal = Journal(
            scratch, origin=recording.origin, note=recording.note, recorded_at="2026-11-23T00:00:00Z"
        )
        calls = [write(journal, e, journal.begin(e.request, e.started)) for e in reversed(recording)]
        for together in zip_longest(*calls):
            for call in filter(None, together):
                call()
        journal.finish()
        made = scratch.read_bytes()
        # Exchanges that started together keep the order of their requests, which was the reverse here.
        order = sorted(reversed(recording), key=lambda exchange: exchange.started)
        twin = Recording(
            order, origin=recording.origin, note=recording.note, recorded_at="2026-11-23T00:00:00Z"
        )
        if len(recording):
            assert Recording.load(scratch) == twin
            assert made == saved(twin, scratch)

    def test_every_event_is_in_the_file_when_the_call_returns(self, tmp_path: Path) -> None:
        path = tmp_path / "f.journal"
        journal = Journal(tmp_path / "f", note="n", recorded_at="2026-11-23T00:00:00Z")
        seen = [path.read_bytes()]
        one = journal.begin(GET, 0.5)
        seen.append(path.read_bytes())
        two = journal.begin(GET, 0.25)
        seen.append(path.read_bytes())
        journal.head(two, Head(at=0.125))
        seen.append(path.read_bytes())
        journal.chunk(two, b"a", 0.125)
        seen.append(path.read_bytes())
        journal.end(one, Ending("refused", 1.5))
        seen.append(path.read_bytes())
        journal.end(two, Ending())
        seen.append(path.read_bytes())
        lines = [after[len(before) :] for before, after in pairwise(seen)]
        assert seen[0] == (
            b'{"aivvm_recording": 1, "origin": "recorded", "note": "n", "recorded_at": "2026-11-23T00:00:00Z"}\n'
        )
        assert lines == [
            b'{"x": 1, "request": {"method": "GET", "url": "http://x/", "headers": []}, "started": 0.5}\n',
            b'{"x": 2, "request": {"method": "GET", "url": "http://x/", "headers": []}, "started": 0.25}\n',
            b'{"x": 2, "reply": {"status": 200, "reason": "OK", "headers": []}, "at": 0.125}\n',
            b'{"x": 2, "text": "a"}\n',
            b'{"x": 1, "at": 1.5, "end": "refused"}\n',
            b'{"x": 2, "end": "complete"}\n',
        ]
        journal.finish()
        assert os.listdir(tmp_path) == ["f"]

    def test_it_says_when_it_was_recorded(self, tmp_path: Path) -> None:
        Journal(tmp_path / "f").finish()
        recording = Recording.load(tmp_path / "f")
        assert recording.origin == "recorded"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", recording.recorded_at or "")

    def test_time_that_steps_back_stands_still(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path / "f")
        n = journal.begin(GET, 0.0)
        journal.head(n, Head(at=0.5))
        journal.chunk(n, b"a", 0.25)
        journal.end(n, Ending(at=0.375))
        journal.finish()
        reply = Recording.load(tmp_path / "f")[0].reply
        assert (reply.chunks[0].at, reply.ending.at) == (0.5, 0.5)

    def test_the_first_ending_counts_and_nothing_comes_after_it(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path / "f")
        n = journal.begin(GET, 0.0)
        journal.head(n, Head())
        journal.end(n, Ending("closed", 1.0))
        journal.end(n, Ending("complete", 2.0))
        journal.chunk(n, b"late", 3.0)
        journal.head(n, Head(at=4.0))
        journal.finish()
        assert Recording.load(tmp_path / "f")[0].reply == Reply(Head(), (), Ending("closed", 1.0))

    def test_a_second_recorder_is_refused_and_harms_nothing(self, tmp_path: Path) -> None:
        first = Journal(tmp_path / "f")
        first.end(first.begin(GET, 0.0), Ending("refused"))
        with pytest.raises(
            FileExistsError, match=r"another recorder is at work on this journal: record to .*f\.journal"
        ):
            Journal(tmp_path / "f")
        first.finish()
        assert len(Recording.load(tmp_path / "f")) == 1
        Journal(tmp_path / "f").finish()

    def test_where_nothing_can_be_written_it_is_not_made(self, tmp_path: Path) -> None:
        with pytest.raises(
            FileNotFoundError,
            match=r"nothing can be recorded here \(No such file .*: there is no folder .*/nowhere\): .*nowhere/f",
        ):
            Journal(tmp_path / "nowhere" / "f")
        with pytest.raises(
            OSError, match=r"nothing can be recorded here \(something that is not a file has this name"
        ):
            Journal(tmp_path)
        with pytest.raises(ValueError, match='origin is one of recorded, written, converted, but got "me"'):
            Journal(tmp_path / "f", origin="me")  # type: ignore[arg-type]  # the point of the test
        assert os.listdir(tmp_path) == []

    def test_a_disk_that_is_full_already_is_told_at_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened = open
        monkeypatch.setattr(journals, "open", lambda *a, **k: FullDisk(opened(*a, **k), 5), raising=False)
        with pytest.raises(OSError, match=r"nothing can be recorded here \(No space left on device\).*f'"):
            Journal(tmp_path / "f")
        assert os.listdir(tmp_path) == []

    def test_without_an_exchange_an_earlier_file_stays(self, tmp_path: Path) -> None:
        earlier = saved(Recording([Exchange(GET, Reply.of("a"))]), tmp_path / "f")
        Journal(tmp_path / "f").finish()
        assert (tmp_path / "f").read_bytes() == earlier
        assert os.listdir(tmp_path) == ["f"]

    def test_an_earlier_file_is_replaced_only_at_the_end(self, tmp_path: Path) -> None:
        earlier = saved(Recording([Exchange(GET, Reply.of("a"))]), tmp_path / "f")
        journal = Journal(tmp_path / "f")
        journal.end(journal.begin(GET, 0.0), Ending("refused"))
        assert (tmp_path / "f").read_bytes() == earlier
        journal.finish()
        assert Recording.load(tmp_path / "f")[0].reply == Reply.no_answer("refused")

    def test_it_is_not_finished_with_an_open_exchange(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path / "f")
        n = journal.begin(GET, 0.0)
        with pytest.raises(ValueError, match="exchange 0 has no ending: end it before finishing"):
            journal.finish()
        journal.end(n, Ending("closed"))
        journal.finish()
        assert len(Recording.load(tmp_path / "f")) == 1

    def test_once_finished_it_takes_nothing_more(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path / "f")
        journal.finish()
        journal.finish()
        with pytest.raises(
            ValueError, match=r"the journal of .*f is finished: nothing more can be recorded in it"
        ):
            journal.begin(GET, 0.0)

    def test_it_stays_in_its_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path)
        journal = Journal("f")
        monkeypatch.chdir(tmp_path / "elsewhere")
        journal.finish()
        assert len(Recording.load(tmp_path / "f")) == 0

    @given(st.integers(0, 400))
    def test_a_full_disk_is_told_at_the_end_and_only_then(self, scratch: Path, room: int) -> None:
        earlier = saved(Recording(note="earlier"), scratch)
        journal = Journal(scratch)
        journal._file = FullDisk(journal._file, room)  # type: ignore[assignment]  # stands in for the file
        n = journal.begin(GET, 0.0)
        journal.head(n, Head())
        for _ in range(20):
            journal.chunk(n, b"abc", 0.5)
        journal.end(n, Ending(at=0.5))
        with pytest.raises(
            OSError, match=r"recording stopped at an error \(.*No space left on device\); the file is"
        ) as caught:
            journal.finish()
        assert caught.value.errno == errno.ENOSPC
        assert scratch.read_bytes() == earlier
        left = Path(f"{scratch}.journal")
        assert left.stat().st_size > room
        left.unlink()

    def test_a_disk_that_takes_parts_gets_everything(self, tmp_path: Path) -> None:
        class Reluctant(FullDisk):
            def write(self, data: bytes) -> int:
                self.room = 7
                return super().write(data)

        journal = Journal(tmp_path / "f")
        journal._file = Reluctant(journal._file, 7)  # type: ignore[assignment]  # stands in for the file
        journal.end(journal.begin(GET, 0.0), Ending("refused", 0.5))
        journal.finish()
        assert Recording.load(tmp_path / "f")[0].reply == Reply.no_answer("refused", at=0.5)

    def test_a_replacement_that_fails_can_be_tried_again(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path / "f")
        journal.end(journal.begin(GET, 0.0), Ending("refused"))
        (tmp_path / "f").mkdir()
        with pytest.raises(OSError, match=r"the recording cannot be saved \(something that is not a file"):
            journal.finish()
        assert sorted(os.listdir(tmp_path)) == ["f", "f.journal"]
        (tmp_path / "f").rmdir()
        journal.finish()
        assert len(Recording.load(tmp_path / "f")) == 1

    @pytest.mark.parametrize("foreign", [b"hello\n", b'{"x": 7, "end": "cut"}\n'])
    def test_a_foreign_line_in_the_journal_is_found(self, tmp_path: Path, foreign: bytes) -> None:
        journal = Journal(tmp_path / "f")
        n = journal.begin(GET, 0.0)
        with open(tmp_path / "f.journal", "ab") as file:
            file.write(foreign)
        journal._file.seek(0, os.SEEK_END)
        journal.end(n, Ending("refused"))
        with pytest.raises(
            CorruptRecording, match=r"f\.journal:3: not a line of this recorder: something else wrote"
        ):
            journal.finish()
        assert os.listdir(tmp_path) == ["f.journal"]

    def test_threads_share_it(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path / "f")
        barrier = threading.Barrier(8)

        def record(k: int) -> None:
            barrier.wait()
            for i in range(25):
                n = journal.begin(GET, k * 25 + i)
                journal.head(n, Head())
                for _ in range(5):
                    journal.chunk(n, b"%d" % (k * 25 + i), 0.5)
                journal.end(n, Ending(at=0.5))

        threads = [threading.Thread(target=record, args=(k,)) for k in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        journal.finish()
        recording = Recording.load(tmp_path / "f")
        assert [exchange.started for exchange in recording] == list(range(200))
        assert [exchange.reply.body for exchange in recording] == [b"%d" % n * 5 for n in range(200)]


class TestRecovery:
    def abandoned(self, path: Path, upto: int | None = None) -> bytes:
        """The journal of a recorder that was killed, cut off after so many bytes."""
        journal = Journal(path, note="killed")
        first, second = journal.begin(GET, 1.0), journal.begin(GET, 0.5)
        journal.head(first, Head(at=0.25))
        journal.head(second, Head())
        journal.chunk(first, b"one", 0.5)
        journal.chunk(second, b"two\xff", 0.5)
        journal.end(second, Ending(at=0.75))
        journal.chunk(first, "кот".encode(), 1.5)
        journal._file.close()
        left = Path(f"{path}.journal")
        whole = left.read_bytes()
        left.write_bytes(whole[:upto])
        return whole

    def test_a_journal_becomes_a_recording_whose_open_exchange_is_unfinished(self, tmp_path: Path) -> None:
        self.abandoned(tmp_path / "f")
        assert recover(tmp_path / "f") == 2
        second, first = Recording.load(tmp_path / "f")
        assert second == Exchange(
            GET, Reply(Head(), (Chunk(b"two\xff", 0.5),), Ending("complete", 0.75)), 0.5
        )
        chunks = (Chunk(b"one", 0.5), Chunk("кот".encode(), 1.5))
        assert first == Exchange(GET, Reply(Head(at=0.25), chunks, Ending("unfinished", 1.5)), 1.0)
        assert os.listdir(tmp_path) == ["f"]

    def test_whatever_was_written_when_it_was_killed_is_recovered(self, tmp_path: Path) -> None:
        whole = self.abandoned(tmp_path / "f")
        header = whole.index(b"\n") + 1
        for upto in range(header, len(whole)):
            self.abandoned(tmp_path / f"f{upto}", upto)
            recover(tmp_path / f"f{upto}")
            recording = Recording.load(tmp_path / f"f{upto}")
            chunks = [chunk.data for exchange in recording for chunk in exchange.reply.chunks]
            lines = whole[:upto].count(b'"text": ', 0, whole.rfind(b"\n", 0, upto) + 1)
            assert len([chunk for chunk in chunks if b"\xff" not in chunk]) == lines

    def test_a_recorder_that_is_at_work_is_left_alone(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path / "f")
        with pytest.raises(FileExistsError, match="its recorder is still at work: close it instead"):
            recover(tmp_path / "f")
        journal.finish()
        with pytest.raises(FileNotFoundError):
            recover(tmp_path / "f")

    def test_an_earlier_recording_is_never_overwritten(self, tmp_path: Path) -> None:
        earlier = saved(Recording(note="earlier"), tmp_path / "f")
        self.abandoned(tmp_path / "f")
        with pytest.raises(FileExistsError, match="there is a recording of an earlier session: name another"):
            recover(tmp_path / "f")
        assert (tmp_path / "f").read_bytes() == earlier
        assert recover(tmp_path / "f", out=tmp_path / "g") == 2
        assert sorted(os.listdir(tmp_path)) == ["f", "g"]

    def test_a_new_recorder_says_how_to_recover(self, tmp_path: Path) -> None:
        self.abandoned(tmp_path / "f")
        with pytest.raises(FileExistsError, match=r"a recorder that was stopped .* `aivvm-testing recover`"):
            Journal(tmp_path / "f")

    def test_what_is_no_journal_is_refused_and_kept(self, tmp_path: Path) -> None:
        (tmp_path / "f.journal").write_bytes(HEADER + b"garbage\n")
        with pytest.raises(CorruptRecording, match=r"f\.journal:2: not a line of this recorder"):
            recover(tmp_path / "f")
        assert os.listdir(tmp_path) == ["f.journal"]
