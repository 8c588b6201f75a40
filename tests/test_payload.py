"""`build_request`: what it sends, and what it refuses before anything is sent."""

from __future__ import annotations

import copy
import json
from collections import UserDict, UserList
from collections.abc import Iterator, Mapping
from enum import Enum
from fractions import Fraction
from math import inf, nan
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aivvm import MODELS, Headers, InvalidMessages, InvalidOption, build_request
from aivvm.payload import DEFAULT_SYSTEM_MESSAGE

roles = st.sampled_from(["system", "user", "assistant"])
any_text = st.text(st.characters(), max_size=40)  # lone surrogates included: JSON carries them
plain_messages = st.fixed_dictionaries({"role": roles, "content": any_text})
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=8,
)
rich_messages = st.dictionaries(any_text, json_values, max_size=2).flatmap(
    lambda extras: plain_messages.map(lambda message: {**extras, **message})
)
conversations = st.lists(plain_messages | rich_messages, max_size=4)
temperatures = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**300), 10**300)

HELLO = [{"role": "user", "content": "Hello"}]


@given(
    model=st.sampled_from([*MODELS, "", None]),
    messages=conversations,
    system_message=st.none() | any_text,
    temperature=st.none() | temperatures,
    key=st.none() | any_text,
)
def test_the_body_parses_back_to_the_input_and_its_length_is_in_bytes(
    model: str | None,
    messages: list[dict[str, Any]],
    system_message: str | None,
    temperature: float | None,
    key: str | None,
) -> None:
    before = copy.deepcopy(messages)
    request = build_request(model, messages, system_message=system_message, temperature=temperature, key=key)
    known = MODELS[model or "gpt-3.5-turbo"]
    expected = {
        "model": {"id": known.id, "name": known.name},
        "messages": messages,
        "key": key or "",
        "prompt": DEFAULT_SYSTEM_MESSAGE if system_message is None else system_message,
        "temperature": 0.7 if temperature is None else temperature,
    }
    assert request.json() == expected
    assert list(request.json()) == list(expected)
    assert request.body == json.dumps(expected).encode()
    assert request.body.isascii()
    assert request.headers.get_all("Content-Length") == [str(len(request.body))]
    assert messages == before


def test_every_byte_of_a_plain_request() -> None:
    request = build_request("gpt-4", [{"role": "user", "content": "é"}])
    assert request.method == "POST"
    assert request.url == "https://chat.aivvm.com/api/chat"
    assert request.body == (
        rb'{"model": {"id": "gpt-4", "name": "GPT-4"}, "messages": [{"role": "user", "content": "\u00e9"}], '
        rb'"key": "", "prompt": "You are ChatGPT, a large language model trained by OpenAI. '
        b"Follow the user's instructions carefully. "
        rb'Respond using markdown.", "temperature": 0.7}'
    )
    assert request.headers == Headers(
        [
            ("accept", "text/event-stream"),
            ("accept-language", "en-US,en;q=0.9"),
            ("content-type", "application/json"),
            ("content-length", str(len(request.body))),
            ("sec-ch-ua", '"Chrome";v="117", "Not;A=Brand";v="8", "Chromium";v="117"'),
            ("sec-ch-ua-mobile", "?0"),
            ("sec-ch-ua-platform", '"Windows"'),
            ("sec-fetch-dest", "empty"),
            ("sec-fetch-mode", "cors"),
            ("sec-fetch-site", "same-origin"),
            ("sec-gpc", "1"),
            ("referrer", "https://chat.aivvm.com/"),
            (
                "user-agent",
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
                "Chrome/117.0.0.0 Safari/537.36",
            ),
        ]
    )
    assert isinstance(request.headers, Headers)


def test_an_empty_system_message_and_a_zero_temperature_are_values_not_absences() -> None:
    body = build_request("gpt-4", HELLO, system_message="", temperature=0).json()
    assert (body["prompt"], body["temperature"]) == ("", 0)


@pytest.mark.parametrize(
    "messages",
    [
        tuple(HELLO),
        UserList(HELLO),
        [UserDict(HELLO[0])],
        [MappingProxyType(HELLO[0])],
    ],
    ids=["tuple", "another sequence", "another mapping", "a read-only mapping"],
)
def test_any_sequence_of_any_mappings_will_do(messages: Any) -> None:
    assert build_request("gpt-4", messages).json()["messages"] == HELLO


def test_a_role_may_be_a_string_enum() -> None:
    class Role(str, Enum):
        USER = "user"

    body = build_request("gpt-4", [{"role": Role.USER, "content": "Hello"}]).json()
    assert body["messages"] == HELLO


# What is refused

circle: list[Any] = []
circle.append(circle)
deep: list[Any] = []
for _ in range(200):
    deep = [deep]
very_deep: list[Any] = []
for _ in range(100_000):
    very_deep = [very_deep]


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def with_extra(value: object) -> list[dict[str, Any]]:
    return [*HELLO, {**HELLO[0], "extra": value}]


BAD_MESSAGES: dict[str, Any] = {
    "None": None,
    "text": "Hello",
    "bytes": b"Hello",
    "one message": HELLO[0],
    "a generator": (message for message in HELLO),
    "a set": {1},
    "a list of text": ["Hello"],
    "a list of pairs": [("role", "user")],
    "no role": [{"content": "Hello"}],
    "no content": [{"role": "user"}],
    "an empty object": [{}],
    "an unknown role": [{"role": "tool", "content": "Hello"}],
    "a role of another type": [{"role": ["user"], "content": "Hello"}],
    "content None": [{"role": "user", "content": None}],
    "content a number": [{"role": "user", "content": 5}],
    "content bytes": [{"role": "user", "content": b"Hello"}],
    "content NaN": [{"role": "user", "content": nan}],
    "a key that is no string": [{**HELLO[0], 1: "x"}],
    "an inner key that is no string": with_extra({"a": {1: 2}}),
    "NaN": with_extra(nan),
    "infinity, deep down": with_extra([{"a": [0, -inf]}]),
    "an object": with_extra(object()),
    "a set deep down": with_extra([{1}]),
    "bytes deep down": with_extra({"a": b"x"}),
    "a repr that raises": with_extra(Unprintable()),
    "content with a repr that raises": [{"role": "user", "content": Unprintable()}],
    "a circle": with_extra(circle),
    "too deep": with_extra(deep),
    "far too deep": with_extra(very_deep),
    "an integer beyond what Python writes": with_extra(10**5000),
    "content an integer beyond what Python writes": [{"role": "user", "content": 10**5000}],
}


@pytest.mark.parametrize("messages", BAD_MESSAGES.values(), ids=BAD_MESSAGES)
def test_messages_that_cannot_be_sent_are_refused_with_one_readable_line(messages: Any) -> None:
    with pytest.raises(InvalidMessages) as caught:
        build_request("gpt-4", messages)
    assert isinstance(caught.value, ValueError)
    text = str(caught.value)
    assert "messages" in text
    assert text.isprintable()
    assert len(text) < 300


@pytest.mark.parametrize("value", [object(), {1}, b"x", 1j, nan])
def test_the_place_of_a_value_that_json_lacks_is_named(value: object) -> None:
    with pytest.raises(InvalidMessages) as caught:
        build_request("gpt-4", with_extra({"a": [0, {"b\n": value}]}))
    assert str(caught.value).startswith(r'messages[1]["extra"]["a"][1]["b\n"] must be')


def test_the_same_value_twice_is_no_circle() -> None:
    shared = {"a": [1]}
    body = build_request("gpt-4", with_extra([shared, shared])).json()
    assert body["messages"][1]["extra"] == [shared, shared]


@pytest.mark.parametrize("levels", [100, 101])
def test_a_hundred_levels_are_not_too_deep(levels: int) -> None:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    if levels <= 100:
        assert build_request("gpt-4", with_extra(value)).json()["messages"][1]["extra"] == value
    else:
        with pytest.raises(InvalidMessages, match="deeper than 100 levels"):
            build_request("gpt-4", with_extra(value))


def test_what_turns_bad_after_it_was_checked_is_refused_all_the_same() -> None:
    class Turning(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            looks.append(1)
            return iter([1 if len(looks) == 1 else nan])

    looks: list[int] = []
    with pytest.raises(InvalidMessages, match=r"messages\[1\] cannot be written as JSON"):
        build_request("gpt-4", with_extra(Turning([1])))


@pytest.mark.parametrize(
    "temperature", [nan, inf, -inf, 10**400, True, "0.7", [0.7], 1j, Fraction(1, 2)], ids=repr
)
def test_a_temperature_is_a_finite_number(temperature: Any) -> None:
    with pytest.raises(InvalidOption, match="temperature must be a"):
        build_request("gpt-4", HELLO, temperature=temperature)


@pytest.mark.parametrize("value", [5, b"x", ["x"], True])
@pytest.mark.parametrize("option", ["system_message", "key"])
def test_texts_are_strings(option: str, value: object) -> None:
    given_options: dict[str, Any] = {option: value}
    with pytest.raises(InvalidOption, match=f"{option} must be a string"):
        build_request("gpt-4", HELLO, **given_options)


def test_a_key_of_the_wrong_type_is_not_quoted() -> None:
    wrong: Any = ["sk-very-secret"]
    with pytest.raises(InvalidOption) as caught:
        build_request("gpt-4", HELLO, key=wrong)
    assert "secret" not in str(caught.value)


# The url


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("https://chat.aivvm.com", "https://chat.aivvm.com/api/chat"),
        ("https://chat.aivvm.com/", "https://chat.aivvm.com/api/chat"),
        ("http://127.0.0.1:3000", "http://127.0.0.1:3000/api/chat"),
        ("http://[::1]:3000/", "http://[::1]:3000/api/chat"),
        ("HTTPS://Example.COM/deep/base//", "HTTPS://Example.COM/deep/base/api/chat"),
        ("http://localhost./%7Eme/@home", "http://localhost./%7Eme/@home/api/chat"),
        ("http://чат.example", "http://чат.example/api/chat"),
    ],
)
def test_the_endpoint_is_the_url_and_api_chat(url: str, endpoint: str) -> None:
    request = build_request("gpt-4", HELLO, url=url)
    assert request.url == endpoint
    assert request.headers.get("referrer") == "https://chat.aivvm.com/"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/",
        "chat.aivvm.com",
        "127.0.0.1:3000",
        "localhost:3000",
        "//chat.aivvm.com",
        "ftp://chat.aivvm.com",
        "file:///etc/passwd",
        "http://",
        "http:///api",
        "http://:80",
        "http://host:port",
        "http://host:99999",
        "http://[::1",
        "http://a..b",
        "http://.a",
        f"http://{'a' * 64}.example",
        "http://host/?q=1",
        "http://host?",
        "http://host#part",
        "http://host/#",
        "http://ho st",
        "http://host/a b",
        "http://host\n",
        "http://host\x00",
        "http://host\\path",
        "http://ho\u202est",
    ],
)
def test_what_is_no_address_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(InvalidOption, match="url") as caught:
        build_request("gpt-4", HELLO, url=url)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("url", [None, 80, b"http://host", ["http://host"]])
def test_a_url_is_a_string(url: Any) -> None:
    with pytest.raises(InvalidOption, match="url must be a string"):
        build_request("gpt-4", HELLO, url=url)


@pytest.mark.parametrize(
    "url", ["http://me:hunter2@host", "http://hunter2@host:99999/?x", "https://hunter2@"]
)
def test_credentials_in_a_url_are_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(InvalidOption, match="credentials") as caught:
        build_request("gpt-4", HELLO, url=url)
    assert "hunter2" not in str(caught.value)


@given(st.text(max_size=30) | st.text("htps:/@.[]?#1a\\ \n", max_size=30))
def test_any_text_is_an_address_or_a_clear_refusal(text: str) -> None:
    said = ""
    try:
        url = build_request("gpt-4", HELLO, url=f"http://{text}").url
    except InvalidOption as error:
        said = str(error)
        url = "http:///api/chat"
    assert said.isprintable()
    assert url.startswith("http://")
    assert url.endswith("/api/chat")


def test_arguments_of_other_types_are_not_changed_either() -> None:
    class Noting(dict[str, Any]):
        def __setitem__(self, *_: object) -> None:
            raise AssertionError("changed")

    messages: list[Mapping[str, Any]] = [Noting(HELLO[0]), Noting({**HELLO[0], "n": [1]})]
    build_request("gpt-4", messages)
    assert messages == [HELLO[0], {**HELLO[0], "n": [1]}]
