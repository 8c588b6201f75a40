"""The nouns of the seam: `Headers`, `Request`, `Response`."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aivvm import Headers, Request, Response

names = st.text("aBc-", min_size=1, max_size=3)
fields = st.lists(st.tuples(names, st.text(max_size=5)), max_size=6)


@given(fields)
def test_headers_keep_case_order_and_duplicates(pairs: list[tuple[str, str]]) -> None:
    headers = Headers(pairs)
    assert list(headers) == pairs
    assert headers == tuple(pairs)
    assert hash(headers) == hash(tuple(pairs))
    assert Headers(headers) == headers


@given(fields, names)
def test_headers_are_found_in_whatever_case(pairs: list[tuple[str, str]], name: str) -> None:
    headers = Headers(pairs)
    wanted = [value for key, value in pairs if key.lower() == name.lower()]
    assert headers.get_all(name.swapcase()) == wanted
    assert headers.get(name.upper()) == (wanted[0] if wanted else None)
    assert headers.get(name, "default") == (wanted[0] if wanted else "default")
    assert headers.without(name.lower()).get_all(name) == []
    assert len(headers.without(name)) == len(pairs) - len(wanted)


def test_headers_may_come_from_a_mapping_and_show_themselves() -> None:
    headers = Headers({"A": "1", "b": "2"})
    assert headers == Headers([("A", "1"), ("b", "2")])
    assert repr(headers) == "Headers([('A', '1'), ('b', '2')])"
    assert eval(repr(headers)) == headers


def test_headers_are_pairs_or_an_error() -> None:
    with pytest.raises(ValueError, match="unpack"):
        Headers([("a", "b", "c")])  # type: ignore[list-item]  # the mistake under test


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5)))
def test_a_request_gives_its_body_as_json(value: dict[str, object]) -> None:
    assert Request("POST", "http://x/", body=json.dumps(value).encode()).json() == value


def test_a_request_without_json_says_so() -> None:
    with pytest.raises(ValueError, match="Expecting value"):
        Request("GET", "http://x/").json()


def test_a_response_gives_its_chunks_once_each() -> None:
    response = Response(200, "OK", Headers(), [b"a", b"", b"b"])
    assert next(response) == b"a"
    assert list(response) == [b"", b"b"]
    assert list(response) == []


def test_a_closed_response_ends_and_closes_once() -> None:
    closed = []
    with Response(200, "OK", Headers(), [b"a", b"b"], lambda: closed.append(1)) as response:
        assert next(response) == b"a"
    assert list(response) == []
    response.close()
    assert closed == [1]


def test_closing_a_response_finishes_the_generator_behind_it() -> None:
    ended = []

    def chunks() -> Iterator[bytes]:
        try:
            yield b"a"
        finally:
            ended.append(1)

    response = Response(200, "OK", Headers(), chunks())
    assert next(response) == b"a"
    response.close()
    assert ended == [1]


def test_an_error_between_chunks_reaches_the_reader() -> None:
    def chunks() -> Iterator[bytes]:
        yield b"a"
        raise RuntimeError("cut")

    response = Response(200, "OK", Headers(), chunks())
    assert next(response) == b"a"
    with pytest.raises(RuntimeError, match="cut"):
        next(response)
