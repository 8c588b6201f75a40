"""HTTP/1.1 without I/O: what a request is does not depend on how its bytes are split, and a reply survives the wire."""

from __future__ import annotations

import http.client
import io
import itertools
import json
import time
import tracemalloc
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aivvm.transport import Headers, Request
from aivvm_testing import strategies
from aivvm_testing.reply import Chunk, Ending, Head, Reply, wait
from aivvm_testing.wire import (
    AwaitsContinue,
    Event,
    Incoming,
    Refusal,
    RequestParser,
    Schedules,
    schedule,
    whole_request,
)

HOST = "127.0.0.1:3000"
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"


def parsed(*pieces: bytes, **limits: int) -> list[Event]:
    """What the pieces give; whether the client was told to go on depends on the split, and is left out."""
    parser = RequestParser(authority=HOST, **limits)
    return [event for piece in pieces for event in parser.feed(piece) if event != AwaitsContinue()]


def one_by_one(data: bytes) -> list[bytes]:
    return [data[n : n + 1] for n in range(len(data))]


# Requests


def head(*lines: str, body: bytes = b"") -> bytes:
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


@st.composite
def requests_and_bytes(draw: st.DrawFn) -> tuple[Incoming, bytes]:
    """A well-formed request as it should be understood, and one way to write it."""
    version = draw(st.sampled_from(["1.1", "1.1", "1.1", "1.0"]))
    method = draw(st.sampled_from(["GET", "POST", "PUT", "HEAD", "M-SEARCH"]))
    path = draw(st.text(st.sampled_from("abc/.;,:@!$&'()*+=-_~%?[]{}|<>^`\\\""), max_size=9).map("/".__add__))
    host = draw(st.sampled_from([HOST, "h", "a-b.example:", "[::1]:80", "%41:65535", "A_b.example:8080"]))
    begins = draw(st.sampled_from(["", "", "http://x.example:81", "HTTP://[::ffff:1.2.3.4]", "https://x:"]))
    target = begins + path
    url = target if begins else f"http://{host}{path}"
    value = st.text(
        st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=9
    )
    name = st.sampled_from(["X-oDD-CaSe", "x-odd-case", "Via", "!#$%&'*+.^_`|~0"])
    fields = [("Host", host), *draw(st.lists(st.tuples(name, value.map(lambda v: v.strip(" "))), max_size=3))]
    keep_alive = draw(st.booleans())
    if keep_alive and version == "1.0":
        fields.append(("Connection", draw(st.sampled_from(["keep-alive", "x,Keep-Alive"]))))
    elif not keep_alive and version == "1.1":
        fields.append(("Connection", draw(st.sampled_from(["close", "Close", "x, CLOSE"]))))
    if draw(st.booleans()):
        fields.append(("Expect", "100-Continue"))
    body = draw(st.binary(max_size=40))
    chunks = draw(st.none() | strategies.chunkings(body)) if version == "1.1" else None
    if chunks is not None:
        fields.append(("Transfer-Encoding", draw(st.sampled_from(["chunked", "Chunked"]))))
        size = draw(st.sampled_from(["%x", "%X", "00%x", "%x;a=b", "%x ; q", '%x;a="\\"; ";b\t=\tc']))
        trailers = draw(st.sampled_from([b"", b"Checksum: 1\r\n", b"A: \r\nB: x\r\n"]))
        sent = b"".join([(size % len(c)).encode() + b"\r\n" + c + b"\r\n" for c in chunks if c])
        sent += b"0\r\n" + trailers + b"\r\n"
    else:
        sent = body
        if body or draw(st.booleans()):
            fields.append(("Content-Length", draw(st.sampled_from(["%d", "000%d"])) % len(body)))
    blank = draw(st.sampled_from(["", " ", "\t ", "   "]))
    lines = [f"{name}:{blank}{value}{blank}" for name, value in fields]
    before = draw(st.sampled_from([b"", b"\r\n", b"\r\n\r\n"]))
    request = Request(method, url, Headers(fields), body)
    return Incoming(request, version, keep_alive), before + head(
        f"{method} {target} HTTP/{version}", *lines, body=sent
    )


@given(st.lists(requests_and_bytes(), min_size=1, max_size=3), st.data())
def test_any_split_of_requests_gives_the_requests_that_were_written(
    written: list[tuple[Incoming, bytes]], data: st.DataObject
):
    written = data.draw(st.lists(st.sampled_from(written), min_size=1, max_size=4))  # a client repeats itself
    expected = [incoming for incoming, _ in written]
    stream = b"".join([text for _, text in written])
    assert parsed(stream) == expected
    assert parsed(*[text for _, text in written]) == expected
    assert parsed(*one_by_one(stream)) == expected
    assert parsed(*data.draw(strategies.chunkings(stream))) == expected


@given(st.lists(requests_and_bytes(), min_size=1, max_size=2), st.integers(0, 3))
def test_a_whole_request_is_read_without_a_parser(
    written: list[tuple[Incoming, bytes]], missing: int
) -> None:
    stream = b"".join([text for _, text in written])
    stream = stream[: len(stream) - missing]
    request = whole_request(stream, scheme="http", authority="localhost")
    events = parsed(stream)
    if request is not None:
        assert [event.request for event in events if isinstance(event, Incoming)] == [request]
    elif events and not missing and len(written) == 1:
        assert b"chunked" in stream.lower() or stream.startswith(b"\r\n")  # which is a parser's business


@given(
    st.lists(
        st.sampled_from([*GET.split(b" "), b"\r", b"\n", b" ", b"\0", b":", GET, CHUNKED, b"5\r\nab", b"0"])
    )
)
def test_any_split_of_anything_gives_the_same_answer(pieces: list[bytes]):
    limits = {"max_head": 60, "max_body": 8}
    stream = b"".join(pieces)
    whole = [event[:1] for event in parsed(stream, **limits)]
    assert [event[:1] for event in parsed(*pieces, **limits)] == whole
    assert [event[:1] for event in parsed(*one_by_one(stream), **limits)] == whole
    request = whole_request(stream, scheme="http", authority="localhost")
    assert request is None or [event[0] for event in parsed(stream)] == [request]


def field(line: bytes) -> bytes:
    """A request with this field."""
    return b"GET / HTTP/1.1\r\nHost: h\r\n" + line + b"\r\n\r\n"


def of_length(said: bytes) -> bytes:
    """A request whose body has five bytes, or whatever is said."""
    return b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: " + said + b"\r\n\r\nhello"


def coded(said: bytes) -> bytes:
    """A request with this transfer coding, whose body is as it should be when it is chunked."""
    return CHUNKED.replace(b"chunked", said) + b"0\r\n\r\n"


MALFORMED = {
    # The line
    "garbage": (400, b"hello\r\n"),
    "garbage without a line end": (400, b'7}"'),
    "a blank first": (400, b" GET / HTTP/1.1\r\n"),
    "method in small letters": (400, b"get / HTTP/1.1\r\n"),
    "endless method": (400, b"A" * 33),
    "no target": (400, b"GET HTTP/1.1\r\n"),
    "no version": (400, b"GET /\r\n"),
    "two blanks": (400, b"GET  / HTTP/1.1\r\n"),
    "a tab for a blank": (400, b"GET\t/ HTTP/1.1\r\n"),
    "blank in the target": (400, b"GET /a b HTTP/1.1\r\n"),
    "control in the target": (400, b"GET /\x00 HTTP/1.1\r\n"),
    "8 bits in the target": (400, b"GET /\xe9 HTTP/1.1\r\n"),
    "fragment": (400, b"GET /#x HTTP/1.1\r\n"),
    "the line ends in a bare LF": (400, b"GET / HTTP/1.1\n"),
    "the line ends in a bare CR": (400, b"GET / HTTP/1.1\rHost: h\r\n"),
    "HTTP/2": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/1.2": (505, b"GET / HTTP/1.2\r\n"),
    "HTTP/0.9": (400, b"GET / HTTP/0\r\n"),
    "HTTP/1.10": (400, b"GET / HTTP/1.10\r\n"),
    "HTTP/01.1": (400, b"GET / HTTP/01.1\r\n"),
    "http in small letters": (400, b"GET / http/1.1\r\n"),
    "a blank after the version": (400, b"GET / HTTP/1.1 \r\n"),
    "a bare CR in the line": (400, b"GET /\r HTTP/1.1\r\n"),
    "a bare CR first": (400, b"\rGET / HTTP/1.1\r\n"),
    "a bare LF first": (400, b"\nGET / HTTP/1.1\r\n"),
    "a tab first": (400, b"\tGET / HTTP/1.1\r\n"),
    "NUL first": (400, b"\0GET / HTTP/1.1\r\n"),
    "a byte order mark first": (400, b"\xef\xbb\xbfGET / HTTP/1.1\r\n"),
    "a digit in the method": (400, b"GET2 / HTTP/1.1\r\n"),
    "a colon after the method": (400, b"GET: / HTTP/1.1\r\n"),
    "a field first": (400, b"Host: h\r\nGET / HTTP/1.1\r\n\r\n"),
    "an answer": (400, b"HTTP/1.1 200 OK\r\n\r\n"),
    "a body without a head": (400, b'{"model": "gpt-4"}'),
    "TLS": (400, b"\x16\x03\x01\x02\x00"),
    "SSH": (400, b"SSH-2.0-OpenSSH_9.2\r\n"),
    # The target
    "a relative target": (400, b"GET x HTTP/1.1\r\nHost: h\r\n\r\n"),
    "an asterisk for anything but OPTIONS": (400, b"GET * HTTP/1.1\r\nHost: h\r\n\r\n"),
    "another scheme": (400, b"GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n"),
    "user information": (400, b"GET http://me@h/ HTTP/1.1\r\nHost: h\r\n\r\n"),
    "a user and a password": (400, b"GET http://me:x@h/ HTTP/1.1\r\nHost: h\r\n\r\n"),
    "a backslash in the authority": (400, b"GET http://h\\@x/ HTTP/1.1\r\nHost: h\r\n\r\n"),
    "an authority for anything but CONNECT": (400, b"GET h:80 HTTP/1.1\r\nHost: h\r\n\r\n"),
    "no host": (400, b"GET http:///x HTTP/1.1\r\nHost: h\r\n\r\n"),
    "a port and no host": (400, b"GET http://:80/ HTTP/1.1\r\nHost: h\r\n\r\n"),
    "no number for a port": (400, b"GET http://h:x/ HTTP/1.1\r\nHost: h\r\n\r\n"),
    "a port that there is not": (400, b"GET http://h:65536/ HTTP/1.1\r\nHost: h\r\n\r\n"),
    "no address in brackets": (400, b"GET http://[x]/ HTTP/1.1\r\nHost: h\r\n\r\n"),
    "an open bracket": (400, b"GET http://[::1/ HTTP/1.1\r\nHost: h\r\n\r\n"),
    "half an escape in the host": (400, b"GET http://a%2/ HTTP/1.1\r\nHost: h\r\n\r\n"),
    "one slash": (400, b"GET http:/h/ HTTP/1.1\r\nHost: h\r\n\r\n"),
    "a fragment behind a url": (400, b"GET http://h/#x HTTP/1.1\r\nHost: h\r\n\r\n"),
    "two asterisks": (400, b"OPTIONS ** HTTP/1.1\r\nHost: h\r\n\r\n"),
    "CONNECT": (501, b"CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n"),
    "CONNECT to a path": (501, b"CONNECT / HTTP/1.1\r\nHost: h\r\n\r\n"),
    "CONNECT to a url": (501, b"CONNECT http://h/ HTTP/1.1\r\nHost: h\r\n\r\n"),
    # The host
    "no Host": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "two Hosts": (400, b"GET / HTTP/1.1\r\nHost: h\r\nhost: h\r\n\r\n"),
    "a path in Host": (400, b"GET / HTTP/1.1\r\nHost: h/x\r\n\r\n"),
    "a user in Host": (400, b"GET / HTTP/1.1\r\nHost: me@h\r\n\r\n"),
    "two Hosts in HTTP/1.0": (400, b"GET / HTTP/1.0\r\nHost: h\r\nHost: x\r\n\r\n"),
    "two Hosts, one of them empty": (400, b"GET / HTTP/1.1\r\nHost:\r\nHost: h\r\n\r\n"),
    "two Hosts in one": (400, b"GET / HTTP/1.1\r\nHost: h,x\r\n\r\n"),
    "no Host for an absolute target": (400, b"GET http://h/ HTTP/1.1\r\n\r\n"),
    "a bad Host for an absolute target": (400, b"GET http://h/ HTTP/1.1\r\nHost: h/\r\n\r\n"),
    "a scheme in Host": (400, b"GET / HTTP/1.1\r\nHost: http://h\r\n\r\n"),
    "a blank in Host": (400, b"GET / HTTP/1.1\r\nHost: h x\r\n\r\n"),
    "8 bits in Host": (400, b"GET / HTTP/1.1\r\nHost: \xe9\r\n\r\n"),
    "a port alone in Host": (400, b"GET / HTTP/1.1\r\nHost: :80\r\n\r\n"),
    "a signed port": (400, b"GET / HTTP/1.1\r\nHost: h:+80\r\n\r\n"),
    "two ports": (400, b"GET / HTTP/1.1\r\nHost: h:80:80\r\n\r\n"),
    "a port beyond all": (400, b"GET / HTTP/1.1\r\nHost: h:65536\r\n\r\n"),
    "brackets around no address": (400, b"GET / HTTP/1.1\r\nHost: [:::]\r\n\r\n"),
    "an address with a zone": (400, b"GET / HTTP/1.1\r\nHost: [fe80::1%25eth0]\r\n\r\n"),
    # The fields
    "no colon": (400, b"GET / HTTP/1.1\r\nHost: h\r\nx\r\n\r\n"),
    "no name": (400, b"GET / HTTP/1.1\r\nHost: h\r\n: x\r\n\r\n"),
    "a blank before the colon": (400, b"GET / HTTP/1.1\r\nHost : h\r\n\r\n"),
    "a blank in the name": (400, b"GET / HTTP/1.1\r\nHost: h\r\nx y: z\r\n\r\n"),
    "8 bits in the name": (400, b"GET / HTTP/1.1\r\nHost: h\r\n\xe9: z\r\n\r\n"),
    "a folded line": (400, b"GET / HTTP/1.1\r\nHost: h\r\nx: y\r\n z\r\n\r\n"),
    "a folded line first": (400, b"GET / HTTP/1.1\r\n Host: h\r\n\r\n"),
    "a bare CR": (400, b"GET / HTTP/1.1\r\nHost: h\r\nx: y\rz: 1\r\n\r\n"),
    "a bare LF": (400, b"GET / HTTP/1.1\r\nHost: h\nx: y\r\n\r\n"),
    "a head that ends in bare LFs": (400, b"GET / HTTP/1.1\r\nHost: h\n\n"),
    "an empty line in bare LFs": (400, b"GET / HTTP/1.1\r\nHost: h\r\n\nx: y\r\n\r\n"),
    "a bare LF and CRLF": (400, b"GET / HTTP/1.1\r\nHost: h\n\r\n"),
    "NUL": (400, b"GET / HTTP/1.1\r\nHost: h\r\nx: \0\r\n\r\n"),
    "a control": (400, b"GET / HTTP/1.1\r\nHost: h\r\nx: \x1b[2J\r\n\r\n"),
    "DEL": (400, b"GET / HTTP/1.1\r\nHost: h\r\nx: \x7f\r\n\r\n"),
    "a tab before the colon": (400, field(b"x\t: y")),
    "a bracket in the name": (400, field(b"x(: y")),
    "a control in the name": (400, field(b"x\0: y")),
    "a folded line with a tab": (400, field(b"x: y\r\n\tz")),
    "a folded line that begins empty": (400, field(b"x:\r\n z")),
    "two CRs": (400, field(b"x: y\r")),
    "a CR for an empty line": (400, b"GET / HTTP/1.1\r\nHost: h\r\n\r\r\n\r\n"),
    "a vertical tab": (400, field(b"x: \x0by")),
    "another expectation": (417, field(b"Expect: a miracle")),
    "an expectation twice": (417, field(b"Expect: 100-continue\r\nExpect: 100-continue")),
    "an expectation with a parameter": (417, field(b"Expect: 100-continue;x=y")),
    "one expectation too many": (417, field(b"Expect: 100-continue, x")),
    # The length
    "two lengths": (400, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"),
    "one length twice": (
        400,
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\ncontent-length: 1\r\n\r\n",
    ),
    "lengths in a list": (400, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1, 1\r\n\r\n"),
    "a negative length": (400, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n"),
    "a signed length": (400, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +1\r\n\r\n"),
    "a hexadecimal length": (400, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0x1\r\n\r\n"),
    "an empty length": (400, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: \r\n\r\n"),
    "a superscript length": (400, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: \xb2\r\n\r\n"),
    "a list that ends in nothing": (400, of_length(b"5,")),
    "a list that begins with nothing": (400, of_length(b",5")),
    "two numbers": (400, of_length(b"5 5")),
    "a fraction": (400, of_length(b"5.0")),
    "an exponent": (400, of_length(b"5e0")),
    "a length with underscores": (400, of_length(b"0_5")),
    "a length in quotes": (400, of_length(b'"5"')),
    "a length with a parameter": (400, of_length(b"5;q=1")),
    "a length in hexadecimal letters": (400, of_length(b"a")),
    "a length in Arabic digits": (400, of_length("٥".encode())),
    "a vertical tab before the length": (400, of_length(b"\x0b5")),
    "a no-break space after the length": (400, of_length(b"5\xa0")),
    "a folded length": (400, of_length(b"5\r\n 0")),
    "a blank before the length's colon": (400, of_length(b"5").replace(b":", b" :")),
    "two lengths in HTTP/1.0": (400, of_length(b"5\r\nContent-Length: 6").replace(b"/1.1", b"/1.0")),
    "a length of many zeros": (413, of_length(b"0" * 18 + b"5")),
    "a long body": (413, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 67108865\r\n\r\n"),
    "an absurd length": (413, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n"),
    "a length and chunks": (400, CHUNKED[:-2] + b"Content-Length: 5\r\n\r\n"),
    "chunks and a length": (400, CHUNKED.replace(b"Host", b"Content-Length: 5\r\nHost")),
    "chunks twice": (400, CHUNKED[:-2] + b"Transfer-Encoding: chunked\r\n\r\n"),
    "chunks not last": (400, CHUNKED.replace(b"chunked", b"chunked, gzip")),
    "another coding": (400, CHUNKED.replace(b"chunked", b"identity")),
    "almost chunked": (400, CHUNKED.replace(b"chunked", b"xchunked")),
    "no coding": (400, CHUNKED.replace(b"chunked", b"")),
    "gzip inside": (501, CHUNKED.replace(b"chunked", b"gzip, chunked")),
    "chunks in HTTP/1.0": (400, CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0")),
    "chunked with a parameter": (400, coded(b"chunked;q=1")),
    "chunked in quotes": (400, coded(b'"chunked"')),
    "chunked twice in a list": (400, coded(b"chunked, chunked")),
    "chunked twice without a comma": (400, coded(b"chunked chunked")),
    "chunked and identity": (400, coded(b"chunked, identity")),
    "chunked, then nothing": (400, coded(b"chunked,")),
    "nothing, then chunked": (501, coded(b",chunked")),
    "identity inside": (501, coded(b"identity, chunked")),
    "two fields for two codings": (501, coded(b"gzip\r\ntransfer-encoding: chunked")),
    "two fields, chunked first": (400, coded(b"chunked\r\nTransfer-encoding: x")),
    "a field for nothing": (400, coded(b"chunked\r\nTransfer-encoding:")),
    "a vertical tab before chunked": (400, coded(b"\x0bchunked")),
    "a no-break space after chunked": (400, coded(b"chunked\xa0")),
    "a folded coding": (400, coded(b"\r\n chunked")),
    "a blank before the coding's colon": (400, coded(b"chunked").replace(b"g:", b"g :")),
    "a length and another coding": (400, of_length(b"5\r\nTransfer-Encoding: identity")),
    "a length and no coding": (400, of_length(b"5\r\nTransfer-Encoding:")),
    # The chunks
    "no size": (400, CHUNKED + b"\r\n"),
    "a negative size": (400, CHUNKED + b"-1\r\n"),
    "a prefixed size": (400, CHUNKED + b"0x5\r\n"),
    "a size with underscores": (400, CHUNKED + b"1_0\r\n"),
    "a blank before the size": (400, CHUNKED + b" 5\r\n"),
    "a blank after the size": (400, CHUNKED + b"5 \r\n"),
    "a size that ends in LF": (400, CHUNKED + b"5\nhello\r\n"),
    "a signed size": (400, CHUNKED + b"+5\r\nhello\r\n"),
    "a signed last chunk": (400, CHUNKED + b"-0\r\n\r\n"),
    "a tab after the size": (400, CHUNKED + b"5\t\r\nhello\r\n"),
    "a size and a letter": (400, CHUNKED + b"5h\r\nhello\r\n"),
    "a size of 16 digits": (400, CHUNKED + b"0000000000000005\r\nhello\r\n"),
    "a size in full-width digits": (400, CHUNKED + "５\r\nhello\r\n".encode()),
    "two CRs after the size": (400, CHUNKED + b"5\r\r\nhello\r\n"),
    "a semicolon alone": (400, CHUNKED + b"5;\r\nhello\r\n"),
    "two semicolons": (400, CHUNKED + b"5;;a\r\nhello\r\n"),
    "an extension without a value": (400, CHUNKED + b"5;a=\r\nhello\r\n"),
    "an extension without a name": (400, CHUNKED + b"5;=a\r\nhello\r\n"),
    "an extension with an open quote": (400, CHUNKED + b'5;a="b\r\nhello\r\n'),
    "an extension in two words": (400, CHUNKED + b"5;a b\r\nhello\r\n"),
    "a blank after an extension": (400, CHUNKED + b"5;a \r\nhello\r\n"),
    "a bare LF in an extension": (400, CHUNKED + b"5;a\nhello\r\n0\r\n\r\n"),
    "a bare LF in a quoted extension": (400, CHUNKED + b'5;a="\n"\r\nhello\r\n0\r\n\r\n'),
    "a bare CR in an extension": (400, CHUNKED + b"5;a\rb\r\nhello\r\n0\r\n\r\n"),
    "a control in an extension": (400, CHUNKED + b"5;\0\r\n"),
    "an endless extension": (400, CHUNKED + b"5;" + b"x" * 300),
    "an endless size": (400, CHUNKED + b"0" * 300),
    "a size beyond all bounds": (413, CHUNKED + b"fffffffffffffff\r\n"),
    "a size past the limit": (413, CHUNKED + b"4000001\r\n"),
    "a chunk that is longer than its size": (400, CHUNKED + b"2\r\nabc\r\n"),
    "a chunk that ends in LF": (400, CHUNKED + b"2\r\nab\n"),
    "a chunk that ends in CR": (400, CHUNKED + b"2\r\nab\r0\r\n\r\n"),
    "a chunk that does not end": (400, CHUNKED + b"2\r\nab0\r\n\r\n"),
    "a blank after a chunk": (400, CHUNKED + b"2\r\nab \r\n0\r\n\r\n"),
    "a chunk in a row of LFs": (400, CHUNKED + b"2\nab\n0\n\n"),
    "a trailer with a control": (400, CHUNKED + b"0\r\nx: \0\r\n\r\n"),
    "a trailer with a blank before the colon": (400, CHUNKED + b"0\r\nx : y\r\n\r\n"),
    "a trailer with a bare CR": (400, CHUNKED + b"0\r\nx: y\rz\r\n\r\n"),
    "a trailer that ends in LF": (400, CHUNKED + b"0\r\nx: y\n\r\n"),
    "a malformed trailer": (400, CHUNKED + b"0\r\nx\r\n\r\n"),
    "a folded trailer": (400, CHUNKED + b"0\r\n x: y\r\n\r\n"),
    "trailers that end in LF": (400, CHUNKED + b"0\r\n\n"),
    # The limits
    "a long line": (431, b"GET /" + b"x" * 65536),
    "a long head": (431, b"GET / HTTP/1.1\r\nHost: h\r\nx: " + b"x" * 65536),
    "many fields": (431, b"GET / HTTP/1.1\r\nHost: h\r\n" + b"x: y\r\n" * 11000 + b"\r\n"),
    "one field too many": (431, field(b"\r\n".join([b"x:"] * 1000))),
    "long extensions": (431, CHUNKED + (b"1;" + b"x" * 200 + b"\r\ny\r\n") * 330),
    "long trailers": (431, CHUNKED + b"0\r\n" + b"x: y\r\n" * 11000),
    "a long trailer": (431, CHUNKED + b"0\r\nx: " + b"y" * 65536),
}


@pytest.mark.parametrize(("status", "data"), MALFORMED.values(), ids=MALFORMED)
def test_what_is_malformed_is_refused_with_its_status_at_any_split(status: int, data: bytes):
    rubbish = data + b"\0\xff\r\n"
    for pieces in ([data], [GET + data], [data + GET], [rubbish], one_by_one(data), one_by_one(GET + data)):
        *good, last = parsed(*pieces)
        assert isinstance(last, Refusal), pieces[0][:80]
        assert last.status == status, last
        assert last.why
        assert last.why.isprintable()
        assert len(good) == b"".join(pieces).startswith(GET)


def request(method: str = "GET", url: str = "http://h/", body: bytes = b"") -> tuple[str, str, bytes]:
    return method, url, body


UNDERSTOOD = {
    # The line
    "an empty line first": (request(), b"\r\n" + GET),
    "a thousand empty lines first": (request(), b"\r\n" * 1000 + GET),
    "a method of 32 letters": (request("A" * 32), GET.replace(b"GET", b"A" * 32)),
    "a long target": (request(url="http://h/" + "x" * 60000), GET.replace(b"/ ", b"/" + b"x" * 60000 + b" ")),
    "a query with marks": (
        request(url="http://h/?a=/?:@[]{}|\\^`\"<>'"),
        GET.replace(b"/ ", b"/?a=/?:@[]{}|\\^`\"<>' "),
    ),
    "two slashes": (request(url="http://h//x@y:1/"), GET.replace(b"/ ", b"//x@y:1/ ")),
    "an asterisk": (request("OPTIONS", "http://h"), GET.replace(b"GET /", b"OPTIONS *")),
    "a url of another host": (
        request(url="https://x.example:81/y?z"),
        GET.replace(b"/ ", b"https://x.example:81/y?z "),
    ),
    "a url without a path": (request(url="http://x/"), GET.replace(b"/ ", b"http://x ")),
    "a url with an empty port": (request(url="http://x:/"), GET.replace(b"/ ", b"http://x:/ ")),
    "a url with an @ behind the host": (request(url="http://x?@y"), GET.replace(b"/ ", b"http://x?@y ")),
    "a url with an address": (request(url="http://[::1]:1/"), GET.replace(b"/ ", b"http://[::1]:1/ ")),
    # The host
    "an address": (request(url="http://[2001:db8::1.2.3.4]/"), GET.replace(b": h", b": [2001:db8::1.2.3.4]")),
    "a port": (request(url="http://h:65535/"), GET.replace(b": h", b": h:65535")),
    "an empty Host": (request(url=f"http://{HOST}/"), GET.replace(b": h", b":")),
    "no Host in HTTP/1.0": (request(url=f"http://{HOST}/"), b"GET / HTTP/1.0\r\n\r\n"),
    # The fields
    "8 bits in a value": (request(), field(b"x: \xff\x80")),
    "a tab in a value": (request(), field(b"x:\ty\tz\t")),
    "an empty value": (request(), field(b"x:")),
    "a colon in a value": (request(), field(b"x::: y: z")),
    "as many fields as there may be": (request(), field(b"\r\n".join([b"x:"] * 999))),
    "an upgrade to HTTP/2": (
        request(),
        field(b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: "),
    ),
    "an upgrade to WebSocket": (request(), field(b"Connection: upgrade\r\nUpgrade: websocket")),
    "an expectation in HTTP/1.0": (request(), field(b"Expect: a miracle").replace(b"/1.1", b"/1.0")),
    "no expectation": (request(), field(b"Expect:")),
    # The length
    "a length": (request("POST", body=b"hello"), of_length(b"5")),
    "a length with zeros": (request("POST", body=b"hello"), of_length(b"0" * 17 + b"5")),
    "a length with blanks": (request("POST", body=b"hello"), of_length(b" \t 5 \t ")),
    "a length for GET": (request(body=b"hello"), of_length(b"5").replace(b"POST", b"GET")),
    "a length in HTTP/1.0": (request("POST", body=b"hello"), of_length(b"5").replace(b"/1.1", b"/1.0")),
    "a length of nothing": (request(), field(b"Content-Length: 0")),
    "almost a length": (request(), field(b"Content_Length: 5\r\nX-Content-Length: 6\r\nContent-Lengths: 7")),
    "a request in a body": (request("POST", body=GET), of_length(b"%d" % len(GET))[:-5] + GET),
    # The chunks
    "chunks": (request("POST", body=b"hello"), CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
    "no chunks": (request("POST"), CHUNKED + b"0\r\n\r\n"),
    "chunked in other letters": (request("POST"), coded(b"cHuNkEd")),
    "chunked between tabs": (request("POST"), coded(b"\tchunked\t")),
    "sizes with zeros": (
        request("POST", body=b"hello"),
        CHUNKED + b"000000000000005\r\nhello\r\n000\r\n\r\n",
    ),
    "extensions": (
        request("POST", body=b"hello"),
        CHUNKED + b'5;a;b=c ;\td = "\xff\\"\t;"\r\nhello\r\n0;last\r\n\r\n',
    ),
    "trailers that must not be": (
        request("POST", body=b"hi"),
        CHUNKED + b"2\r\nhi\r\n0\r\nContent-Length: 9\r\nTransfer-Encoding: x\r\nHost: x\r\n\r\n",
    ),
    "a request in a chunk": (request("POST", body=GET), CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(GET), GET)),
    "CRLFs in a chunk": (
        request("POST", body=b"\r\n0\r\n\r\n"),
        CHUNKED + b"7\r\n\r\n0\r\n\r\n\r\n0\r\n\r\n",
    ),
}


@pytest.mark.parametrize(("expected", "data"), UNDERSTOOD.values(), ids=UNDERSTOOD)
def test_what_is_unusual_and_well_formed_is_understood_at_any_split(
    expected: tuple[str, str, bytes], data: bytes
):
    for pieces in ([data], [data, data], [data + data], one_by_one(data), [data + b"\0 rubbish"]):
        *good, last = parsed(*pieces, b"\0 rubbish")
        assert isinstance(last, Refusal)
        assert last.status == 400
        assert len(good) == b"".join(pieces).count(data)
        for incoming in good:
            assert isinstance(incoming, Incoming)
            assert (incoming.request.method, incoming.request.url, incoming.request.body) == expected
            assert urlsplit(incoming.request.url).port != 0  # it can be taken apart


def test_a_trailer_is_no_field():
    (incoming,) = parsed(CHUNKED + b"0\r\nx: y\r\n\r\n")
    assert isinstance(incoming, Incoming)
    assert incoming.request.headers == (("Host", "h"), ("Transfer-Encoding", "chunked"))


@pytest.mark.parametrize(
    "line",
    [
        b"Authorization : sk-1",
        b"Authorization\r\n: sk-1",
        b"x: y\r\n sk-1",
        b"key: sk-1\r",
        b"key: sk-1\0",
        b"sk-1 ",
    ],
)
def test_what_a_field_holds_is_never_told(line: bytes):
    (refusal,) = parsed(field(line))
    assert isinstance(refusal, Refusal)
    assert "sk-1" not in refusal.why
    assert "line " in refusal.why


@pytest.mark.parametrize("data", [data for _, data in MALFORMED.values()], ids=MALFORMED)
def test_a_refusal_knows_as_much_of_its_request_at_any_split(data: bytes):
    at_once, in_bytes = parsed(data)[-1], parsed(*one_by_one(data))[-1]
    assert isinstance(at_once, Refusal)
    assert isinstance(in_bytes, Refusal)
    assert at_once.request == in_bytes.request
    assert at_once.request is None or at_once.request.body == b""


@pytest.mark.parametrize(
    ("data", "known"),
    [
        (b"\x16\x03", None),
        (b"GET / HTTP/2.0\r\n\r\n", None),
        (b"GET nowhere HTTP/1.1\r\n\r\n", None),
        (b"GET /a?b HTTP/1.1\r\n\r\n", Request("GET", "http://127.0.0.1:3000/a?b")),
        (b"GET /a HTTP/1.1\r\nHost: h\r\nx\r\n\r\n", Request("GET", "http://127.0.0.1:3000/a")),
        (CHUNKED + b"zz\r\n", parsed(CHUNKED + b"0\r\n\r\n")[0][0]),
    ],
)
def test_a_refusal_has_the_request_as_far_as_it_is_known(data: bytes, known: Request | None):
    (refusal,) = parsed(data)
    assert isinstance(refusal, Refusal)
    assert refusal.request == known


def test_a_parser_can_be_told_to_give_up():
    parser = RequestParser()
    assert parser.feed(GET + GET[:-2]) != []
    refusal = parser.give_up(408, "too slow")
    assert (refusal.status, refusal.why) == (408, "too slow")
    assert refusal.request == Request("GET", "http://localhost/")
    assert not parser.incomplete
    assert parser.feed(GET) == []


def test_nothing_is_understood_after_a_refusal():
    parser = RequestParser()
    assert [type(event) for event in parser.feed(b"x\r\n" + GET)] == [Refusal]
    assert parser.feed(GET) == []
    assert not parser.incomplete


@pytest.mark.parametrize("surplus", [0, 1])
def test_limits_are_met_exactly(surplus: int):
    fits = parsed(GET, max_head=len(GET) - surplus)
    assert [type(event) for event in fits] == [Refusal if surplus else Incoming]
    long = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"
    assert [type(e) for e in parsed(long, max_body=5 - surplus)] == [Refusal if surplus else Incoming]
    chunks = CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
    assert [type(e) for e in parsed(chunks, max_body=5 - surplus)] == [Refusal if surplus else Incoming]


def test_a_refusal_is_answered_as_the_real_server_answers():
    assert Refusal(400, "").answer == b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
    for status, _ in MALFORMED.values():
        assert Refusal(status, "").answer.startswith(b"HTTP/1.1 %d " % status)


def test_bytes_past_the_content_length_are_refused_and_the_request_is_there_too():
    body = '{"messages": [{"role": "user", "content": "日本"}]}'
    sent = head(
        "POST /api/chat HTTP/1.1", f"Host: {HOST}", f"Content-Length: {len(body)}", body=body.encode()
    )
    request, refusal = parsed(sent)
    assert isinstance(request, Incoming)
    assert request.request.body == body.encode()[: len(body)]
    assert isinstance(refusal, Refusal)
    assert refusal.status == 400


@pytest.mark.parametrize(
    ("version", "connection", "keeps"),
    [
        ("1.1", None, True),
        ("1.1", "keep-alive", True),
        ("1.1", "close", False),
        ("1.1", "Keep-Alive, Close", False),
        ("1.1", "closed", True),
        ("1.0", None, False),
        ("1.0", "Keep-Alive", True),
        ("1.0", "keep-alive, close", False),
    ],
)
def test_a_client_says_whether_it_can_take_another_answer(version: str, connection: str | None, keeps: bool):
    lines = [f"GET / HTTP/{version}", "Host: h", *([f"Connection: {connection}"] if connection else [])]
    (incoming,) = parsed(head(*lines))
    assert isinstance(incoming, Incoming)
    assert (incoming.version, incoming.keep_alive) == (version, keeps)


@pytest.mark.parametrize(
    ("line", "host", "url"),
    [
        ("GET /x HTTP/1.1", "h:1", "http://h:1/x"),
        ("GET /x HTTP/1.1", "", f"http://{HOST}/x"),
        ("GET /x HTTP/1.0", None, f"http://{HOST}/x"),
        ("GET /x HTTP/1.1", "[::1]:80", "http://[::1]:80/x"),
        ("GET //h2/x HTTP/1.1", "h", "http://h//h2/x"),
        ("GET https://a.example/x?y HTTP/1.1", "h", "https://a.example/x?y"),
        ("GET http://a.example?y HTTP/1.1", "h", "http://a.example?y"),
        ("OPTIONS * HTTP/1.1", "h", "http://h"),
    ],
)
def test_a_url_is_made_of_the_target_and_the_host(line: str, host: str | None, url: str):
    (incoming,) = parsed(head(line, *([] if host is None else [f"Host: {host}"])))
    assert isinstance(incoming, Incoming)
    assert incoming.request.url == url


def test_the_scheme_is_the_parsers():
    (incoming,) = RequestParser(scheme="https").feed(GET)
    assert isinstance(incoming, Incoming)
    assert incoming.request.url == "https://h/"


EXPECTING = head("POST / HTTP/1.1", "Host: h", "Expect: 100-Continue", "Content-Length: 2")


def test_a_client_that_waits_to_be_told_to_go_on_is_reported_once():
    parser = RequestParser()
    assert parser.feed(EXPECTING) == [AwaitsContinue()]
    assert parser.incomplete
    assert parser.feed(b"{") == []
    assert [type(event) for event in parser.feed(b"}")] == [Incoming]
    assert not parser.incomplete


@pytest.mark.parametrize(
    "sent",
    [
        EXPECTING + b"{",
        EXPECTING.replace(b"Length: 2", b"Length: 0"),
        EXPECTING.replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
)
def test_a_client_that_does_not_wait_is_not_told_to_go_on(sent: bytes):
    assert AwaitsContinue() not in RequestParser().feed(sent)


def test_a_long_body_in_small_pieces_takes_linear_time():
    size = 4 * 1024 * 1024
    parser = RequestParser()
    began = time.process_time()
    parser.feed(head("POST / HTTP/1.1", "Host: h", f"Content-Length: {size}"))
    piece = b"x" * 512
    for _ in range(size // 512 - 1):
        assert parser.feed(piece) == []
    (incoming,) = parser.feed(piece)
    assert isinstance(incoming, Incoming)
    assert incoming.request.body == b"x" * size
    assert time.process_time() - began < 2  # quadratic: 20 and more


@pytest.mark.parametrize(
    ("begin", "unit"),
    [
        (b"GET /", b"x"),
        (GET[:-2] + b"x: ", b"y"),
        (GET[:-2], b"x: y\r\n"),
        (b"", b"\r\n"),
        (CHUNKED + b"1fffff\r\n", b"x"),
        (CHUNKED, b"8\r\nabcdefgh\r\n"),
        (CHUNKED, b"1;a=b\r\nx\r\n"),
        (CHUNKED + b"0\r\nx: ", b"y"),
        (CHUNKED + b"0\r\n", b"x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n"),
    ],
)
def test_small_pieces_of_anything_take_linear_time(begin: bytes, unit: bytes):
    size = 1024 * 1024
    data = begin + unit * (size // len(unit))
    parser = RequestParser(max_head=2 * size, max_body=2 * size)
    began = time.process_time()
    events = [event for n in range(0, len(data), 64) for event in parser.feed(data[n : n + 64])]
    assert time.process_time() - began < 2  # quadratic: 8 and more
    assert events == []


ENDLESS = {
    "target": (b"GET /", b"x"),
    "field": (GET[:-2] + b"x: ", b"y"),
    "fields": (GET[:-2], b"x: y\r\n"),
    "empty lines": (b"", b"\r\n"),
    "body": (of_length(b"32768"), b"x"),
    "chunk": (CHUNKED + b"8000\r\n", b"x"),
    "chunks": (CHUNKED, b"1\r\nx\r\n"),
    "size": (CHUNKED, b"0"),
    "extension": (CHUNKED + b"1;", b"x"),
    "extensions": (CHUNKED, b"1;a=b\r\nx\r\n"),
    "trailer": (CHUNKED + b"0\r\nx: ", b"y"),
    "trailers": (CHUNKED + b"0\r\n", b"x: y\r\n"),
    "requests": (b"", GET),
    "requests with bodies": (b"", of_length(b"5")),
    "requests with chunks": (b"", CHUNKED + b"0\r\n\r\n"),
}


@pytest.mark.parametrize(("begin", "unit"), ENDLESS.values(), ids=ENDLESS)
def test_whatever_comes_memory_has_a_bound(begin: bytes, unit: bytes):
    max_head, max_body, piece = 8 * 1024, 32 * 1024, 4 * 1024
    unit *= -(-piece // len(unit))
    parser = RequestParser(max_head=max_head, max_body=max_body)
    tracemalloc.start()
    try:
        parser.feed(begin)
        for _ in range(50):
            parser.feed(unit)
        parser.feed(b"\0")
        left, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * (max_head + max_body)  # a body is copied once
    assert left < 4 * 1024


@pytest.mark.parametrize("line", [b"x" * 60000, b"x: " + b" " * 60000, b"x: " + b"\t" * 60000 + b"\0"])
def test_hostile_lines_take_linear_time(line: bytes):
    sent = b"GET / HTTP/1.1\r\nHost: h\r\n" + line + b"\r\n\r\n"
    began = time.process_time()
    (event,) = parsed(sent)
    assert time.process_time() - began < 2  # quadratic: 20 and more
    assert isinstance(event, Refusal) == (b": " not in line or b"\0" in line)


@pytest.mark.parametrize(
    "data",
    [
        GET.replace(b": h", b": " + b"a" * 60000 + b"%"),
        GET.replace(b": h", b": " + b"%41" * 20000 + b"%"),
        GET.replace(b": h", b": [" + b":" * 60000 + b"]"),
        GET.replace(b"/ ", b"http://" + b"a" * 60000 + b"@ "),
        coded(b"," * 60000),
        coded(b" " * 60000),
        of_length(b"1," * 30000),
        field(b"Connection: " + b" ," * 30000 + b"\r\nExpect: " + b"," * 1000),
        *[
            CHUNKED + b"1" + (unit * 250)[:250] + b"\r\n"
            for unit in (b"\t", b" ;", b';a="\\"', b"; a = ", b";a=b ", b'\\"')
        ],
    ],
)
def test_hostile_values_take_linear_time(data: bytes):
    began = time.process_time()
    assert isinstance(parsed(data)[-1], Refusal)
    assert time.process_time() - began < 1  # quadratic: 10 and more


# Replies


class _Wire(io.BytesIO):
    """What http.client takes for a socket."""

    def makefile(self, *args: object, **kwargs: object) -> io.BytesIO:
        return self


def sent(reply: Reply, **asked: object) -> bytes:
    return b"".join([data for _, data in schedule(reply, **asked).steps])


def read_by_http_client(data: bytes, method: str = "GET") -> tuple[http.client.HTTPResponse, bytes]:
    response = http.client.HTTPResponse(_Wire(data), method=method)
    response.begin()
    return response, response.read()


FRAMINGS = [[], [("Transfer-Encoding", "Chunked")], [("connection", "close")], [("content-length", None)]]


@given(
    strategies.replies(endings=["complete"]),
    st.sampled_from(FRAMINGS),
    st.sampled_from(["GET", "HEAD", "POST"]),
    st.sampled_from(["1.0", "1.1"]),
    st.booleans(),
)
def test_http_client_reads_a_complete_reply_back(
    reply: Reply, framing: list[tuple[str, str | None]], method: str, version: str, keep_alive: bool
):
    assert reply.head is not None
    added = [(name, str(len(reply.body)) if value is None else value) for name, value in framing]
    reply = Reply(
        Head(reply.head.status, reply.head.reason, Headers([*reply.head.headers, *added]), reply.head.at),
        reply.chunks,
        Ending("complete", reply.ending.at),
    )
    plan = schedule(reply, method=method, version=version, keep_alive=keep_alive)
    response, body = read_by_http_client(b"".join([data for _, data in plan.steps]), method)
    assert response.status == reply.status
    assert response.reason == reply.head.reason.strip()
    assert body == (b"" if method == "HEAD" else reply.body)
    kept = [pair for pair in reply.headers if pair not in added]
    assert [pair for pair in response.getheaders() if pair in kept] == kept
    closes = version == "1.0" or not keep_alive or (added and added[0][0] == "connection")
    assert plan.stop == ("close" if closes else "keep")


@given(strategies.replies(with_head=True))
def test_every_chunk_is_one_http_chunk_at_its_own_moment(reply: Reply):
    assert reply.head is not None
    if reply.head.status < 200:
        return
    plan = schedule(reply)
    frames = [
        (chunk.at, b"%x\r\n%b\r\n" % (len(chunk.data), chunk.data)) for chunk in reply.chunks if chunk.data
    ]
    if reply.ending.kind == "complete":
        frames.append((reply.ending.at, b"0\r\n\r\n"))
    frames.append((reply.ending.at, reply.ending.data))
    text = b"".join([data for _, data in plan.steps])
    assert text.partition(b"\r\n\r\n")[2] == b"".join([data for _, data in frames])
    for at, data in plan.steps:
        due = b"".join([frame for moment, frame in frames if moment == at])
        assert data.endswith(due)
        assert data == due or at == reply.head.at
    moments = [at for at, _ in plan.steps]
    assert moments == sorted(set(moments))
    assert moments[0] == reply.head.at
    assert plan.at == reply.ending.at


STOPS = {
    "cut": "close",
    "reset": "reset",
    "stall": "stall",
    "closed": "closed",
    "unfinished": "closed",
}


@pytest.mark.parametrize(("kind", "stop"), STOPS.items())
def test_a_stream_that_breaks_has_no_last_chunk(kind: str, stop: str):
    reply = Reply(Head(), (Chunk(b"a", 1),), Ending(kind, 2.5))
    plan = schedule(reply)
    assert (plan.stop, plan.at) == (stop, 2.5)
    assert plan.steps[-1] == (1, b"1\r\na\r\n")


@pytest.mark.parametrize(
    ("kind", "stop"),
    [*STOPS.items(), *[(kind, "reset") for kind in ("refused", "unresolved", "tls", "unreachable")]],
)
def test_an_answer_without_a_head_is_nothing_and_a_stop(kind: str, stop: str):
    assert schedule(Reply.no_answer(kind, at=0.5)) == ((), stop, 0.5, ())


def test_a_head_and_chunks_that_are_due_together_leave_together():
    assert schedule(Reply.of("a", "b", wait(1), "c")).steps == (
        (0, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n"),
        (1, b"1\r\nc\r\n0\r\n\r\n"),
    )


@pytest.mark.parametrize("headers", [{}, {"content-length": "3"}, {"connection": "close"}])
def test_a_schedule_knows_where_its_head_and_each_of_its_chunks_end(headers: dict[str, str]):
    plan = schedule(Reply.of("a", b"", wait(1), "bc", headers=headers))
    data = b"".join([data for _, data in plan.steps])
    assert data[: plan.ends[0]].endswith(b"\r\n\r\n")
    parts = [data[begin:end] for begin, end in itertools.pairwise(plan.ends)]
    assert parts == ([b"a", b"bc"] if headers else [b"1\r\na\r\n", b"2\r\nbc\r\n"])


def test_the_servers_own_fields_give_way_to_the_replys():
    reply = Reply.of("a", headers={"Vary": "mine"})
    assert b"\r\nVary: mine\r\nx: 1\r\n" in sent(reply, added=Headers([("vary", "Origin"), ("x", "1")]))


def with_data(kind: str, data: bytes, **headers: str) -> Reply:
    reply = Reply.of("abc", headers={name.replace("_", "-"): value for name, value in headers.items()})
    return Reply(reply.head, reply.chunks, Ending(kind, 0, data))


@pytest.mark.parametrize(
    ("reply", "end"),
    [
        (with_data("complete", b"!"), b"3\r\nabc\r\n0\r\n\r\n!"),
        (with_data("cut", b"zz\r\n"), b"3\r\nabc\r\nzz\r\n"),
        (with_data("complete", b"!", content_length="3"), b"abc!"),
        (Reply(None, (), Ending("cut", 0, b"garbage")), b"garbage"),
    ],
)
def test_raw_bytes_follow_whatever_was_sent_and_end_the_connection(reply: Reply, end: bytes):
    assert sent(reply).endswith(end)
    assert schedule(reply).stop == "close"


@pytest.mark.parametrize(
    ("length", "stop"),
    [("3", "keep"), (" 03", "keep"), ("4", "close"), ("2", "close"), ("x", "close"), ("9" * 5000, "close")],
)
def test_a_content_length_is_sent_as_it_is_and_only_a_right_one_keeps_the_connection(length: str, stop: str):
    plan = schedule(Reply.of("ab", "c", headers={"Content-Length": length}))
    assert plan.steps[0][1] == f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\nabc".encode()
    assert plan.stop == stop


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ([("content-length", "3"), ("content-length", "4")], b"abc"),
        ([("content-length", "3"), ("Content-Length", "3")], b"abc"),
        ([("content-length", "3, 3")], b"abc"),
        ([("content-length", "3"), ("transfer-encoding", "chunked")], b"3\r\nabc\r\n0\r\n\r\n"),
    ],
)
def test_two_lengths_are_sent_as_they_are_and_end_the_connection(fields: list[tuple[str, str]], body: bytes):
    reply = Reply.of("abc", headers=fields)
    lines = "".join([f"{name}: {value}\r\n" for name, value in fields])
    assert sent(reply) == f"HTTP/1.1 200 OK\r\n{lines}\r\n".encode() + body
    assert schedule(reply).stop == "close"


@pytest.mark.parametrize("headers", [{"connection": "close"}, {"transfer-encoding": "identity"}])
def test_a_body_without_length_or_chunks_ends_with_the_connection(headers: dict[str, str]):
    reply = Reply.of("abc", headers=headers)
    assert sent(reply).endswith(b"\r\n\r\nabc")
    assert schedule(reply).stop == "close"


def test_chunks_stay_chunks_when_the_head_says_close_too():
    reply = Reply.of("a", headers={"Connection": "close", "transfer-encoding": "chunked"})
    assert sent(reply).endswith(b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n")
    assert schedule(reply).stop == "close"


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_without_a_body_has_none(status: int):
    reply = Reply.of("x", status=status, reason="R", headers={"a": "b", "Transfer-Encoding": "chunked"})
    assert sent(reply) == f"HTTP/1.1 {status} R\r\na: b\r\n\r\n".encode()
    assert schedule(reply).stop == "keep"


def test_an_answer_to_head_is_the_head_as_it_is():
    assert sent(Reply.of("abc"), method="HEAD") == b"HTTP/1.1 200 OK\r\n\r\n"
    for headers in ({"content-length": "7"}, {"Transfer-Encoding": "chunked"}):
        plan = schedule(Reply.of("abc", headers=headers), method="HEAD")
        ((name, value),) = headers.items()
        assert plan == (((0, f"HTTP/1.1 200 OK\r\n{name}: {value}\r\n\r\n".encode()),), "keep", 0, ())


DRESSED = {"Date": "D", "Connection": "keep-alive", "Keep-Alive": "timeout=5", "Transfer-Encoding": "chunked"}


def test_a_client_that_says_close_is_told_close_as_the_real_server_does():
    plan = schedule(Reply.of(headers=DRESSED), keep_alive=False)
    assert plan.steps[0][1] == (
        b"HTTP/1.1 200 OK\r\nDate: D\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    )
    assert plan.stop == "close"


def test_a_client_of_http_1_0_gets_a_body_without_chunks_as_from_the_real_server():
    plan = schedule(Reply.of("a", "b", headers=DRESSED), version="1.0", keep_alive=True)
    assert plan.steps == ((0, b"HTTP/1.1 200 OK\r\nDate: D\r\nConnection: close\r\n\r\nab"),)
    assert plan.stop == "close"


def test_reasons_and_values_are_latin_1():
    reply = Reply.of(status=500, reason="café", headers={"x": "\xff", "content-length": "0"})
    assert sent(reply) == b"HTTP/1.1 500 caf\xe9\r\nx: \xff\r\ncontent-length: 0\r\n\r\n"


@pytest.mark.parametrize("bad", ["a\r\nSet-Cookie: b", "a\nb", "a\rb", "a\0b", "лимит"])
def test_text_that_breaks_its_line_is_not_sent(bad: str):
    for reply in (Reply.of(reason=bad), Reply.of(headers={"x": bad}), Reply.of(headers={bad: "x"})):
        with pytest.raises(ValueError, match="head"):
            schedule(reply)


WORDS = st.text(max_size=9) | st.text("\r\n\0: \tab\x0b\x0c\x1c\x85\u2028", max_size=9)


@given(WORDS, st.lists(st.tuples(WORDS | st.just("x"), WORDS), max_size=4), st.booleans())
def test_no_recording_says_more_than_its_fields(reason: str, fields: list[tuple[str, str]], keep_alive: bool):
    """Whatever a recording holds: what comes out is its lines, or nothing."""
    try:
        text = sent(Reply.of("", reason=reason, headers=fields), keep_alive=keep_alive)
    except ValueError:
        return
    said, _, rest = text.decode("latin-1").partition("\r\n\r\n")
    line, *lines = said.split("\r\n")
    assert line == f"HTTP/1.1 200 {reason}"
    assert lines[: len(fields)] == [f"{name}: {value}" for name, value in fields]
    assert lines[len(fields) :] in ([], ["Transfer-Encoding: chunked"])
    assert not set("\r\n\0") & set("".join([line, *lines]))
    assert rest in ("", "0\r\n\r\n")
    if reason.isprintable():  # some controls are blanks for http.client, and an empty reason then
        response, body = read_by_http_client(text)
        assert [name for name, _ in response.getheaders()] == [line.partition(":")[0] for line in lines]
        assert body == b""


def test_many_chunks_and_many_fields_take_linear_time():
    began = time.process_time()
    reply = Reply.of(*[b"x"] * 100_000, headers=[("x", "y")] * 10_000).pace(0.001)
    plan = schedule(reply, version="1.1", keep_alive=False, added=Headers([("z", "1")]))
    assert time.process_time() - began < 3  # quadratic: 100 and more
    assert len(plan.steps) == len(plan.ends) - 1 == 100_000


def test_the_bytes_of_a_reply_are_made_once():
    schedules = Schedules()
    reply = Reply.of("a", wait(1), "b")
    asked = {"method": "GET", "version": "1.1", "keep_alive": True}
    first = schedules.of(reply, **asked)
    assert first == schedule(reply)
    assert schedules.of(reply, **asked) is first
    assert schedules.of(reply, method="GET", version="1.0", keep_alive=True) == schedule(reply, version="1.0")


def test_bytes_past_the_limit_are_forgotten_oldest_first():
    schedules = Schedules(max_bytes=4000)
    asked = {"method": "GET", "version": "1.1", "keep_alive": True}
    replies = [Reply.of("x" * 100), Reply.of("y" * 100), Reply.of("z" * 100), Reply.of("!" * 5000)]
    made = [schedules.of(reply, **asked) for reply in replies[:2]]
    assert schedules.of(replies[0], **asked) is made[0]
    schedules.of(replies[2], **asked)
    assert schedules.of(replies[0], **asked) is not made[0]
    huge = schedules.of(replies[3], **asked)
    assert schedules.of(replies[3], **asked) is not huge


@pytest.mark.parametrize("parts", [[b"x"] * 100, [b"x" * 1000]])
def test_replies_that_nobody_else_keeps_count_too(parts: list[bytes]):
    schedules = Schedules(max_bytes=100_000)
    tracemalloc.start()
    try:
        for n in range(100):
            made = Reply.of(*[bytes(part) + b"%d" % n for part in parts]).pace(0.1)
            schedules.of(made, method="GET", version="1.1", keep_alive=True)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 30_000 < held < 150_000


def test_the_json_of_a_request_is_at_hand():
    body = json.dumps({"model": "gpt-4"}).encode()
    (incoming,) = parsed(head("POST / HTTP/1.1", "Host: h", f"Content-Length: {len(body)}", body=body))
    assert isinstance(incoming, Incoming)
    assert incoming.request.json() == {"model": "gpt-4"}
