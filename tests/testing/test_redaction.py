"""Redaction: no secret stays, nothing else changes, lengths are kept, and twice is once."""

from __future__ import annotations

import json
import string
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aivvm.payload import build_request
from aivvm.transport import Headers, Request
from aivvm_testing.redaction import (
    BlankedStream,
    Secrets,
    is_secret,
    redact,
    redact_headers,
    redact_request,
    redact_text,
)
from aivvm_testing.strategies import chunkings, recordings

SECRET = "sk-Zq81xWvU7yTt"
BLANK = "REDACTEDREDACTE"

secrets = st.text(string.ascii_letters + string.digits + "-._~+/", min_size=9, max_size=40).map(
    lambda s: "Zq" + s
)
secret_names = st.sampled_from(
    ["key", "api_key", "apiKey", "token", "access_token", "Password", "authorization", "client_secret", "sig"]
)


def everything(request: Request) -> bytes:
    return repr(request).encode() + request.body


@given(secret_names, secrets, st.sampled_from([None, "x-www-form-urlencoded"]))
def test_a_secret_in_every_place_leaves_none(name: str, secret: str, form: str | None) -> None:
    url = f"https://user:{quote(secret, safe='')}@x.example/v1?a=b&{name}={secret}&c=d#{name}={secret}"
    headers = Headers(
        [
            ("Authorization", f"Bearer {secret}"),
            ("Cookie", f"id={secret}"),
            ("X-Api-Key", secret),
            ("Referer", f"https://x.example/?{name}={secret}"),
            ("content-type", f"application/{form}" if form else "application/json"),
        ]
    )
    fields = f"a=b&{name}={secret}".encode()
    body = fields if form else json.dumps({"a": [{"b": {name: secret}}, 1]}).encode()
    request = Request("POST", url, headers, body)
    redacted = redact_request(request)
    assert secret.encode() not in everything(redacted)
    assert quote(secret, safe="").encode() not in everything(redacted)
    assert len(redacted.url) == len(url)
    assert len(redacted.body) == len(body)
    assert [(key, len(value)) for key, value in redacted.headers] == [
        (key, len(value)) for key, value in headers
    ]


@given(recordings(min_size=1), st.text(st.sampled_from('/:?&=;#@ "\\{},[]\nkeytokn'), max_size=60))
def test_redacting_twice_is_redacting_once(recording: Any, text: str) -> None:
    requests = [exchange.request for exchange in recording]
    requests.append(Request("POST", text, Headers([("authorization", text), ("a", text)]), text.encode()))
    requests.append(
        Request("POST", text, Headers([("content-type", "application/x-www-form-urlencoded")]), text.encode())
    )
    for request in requests:
        once = redact_request(request)
        assert redact_request(once) == once
        assert len(once.body) == len(request.body)
        assert len(once.url) == len(request.url)
    assert redact_text(redact_text(text)) == redact_text(text)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from([",", ":", '"key": "x"', "\\"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=3) | secret_names | st.sampled_from([",", ": ", ""]), inner, max_size=3
        )
    ),
    max_leaves=10,
)


def blanked(value: Any, redacted: Any) -> None:
    """Asserts that they differ in nothing but the strings under secret names."""
    if isinstance(value, dict):
        assert list(value) == list(redacted)
        for name, child in value.items():
            if isinstance(child, str) and is_secret(name):
                assert set(redacted[name]) <= set("REDACTED")
            else:
                blanked(child, redacted[name])
    elif isinstance(value, list):
        assert len(value) == len(redacted)
        for child, other in zip(value, redacted, strict=True):
            blanked(child, other)
    else:
        assert value == redacted


@given(json_values, st.sampled_from([{}, {"separators": (",", ":")}, {"indent": 1}, {"ensure_ascii": False}]))
def test_a_json_body_changes_in_nothing_but_its_secrets(value: Any, style: dict[str, Any]) -> None:
    body = json.dumps(value, **style).encode("utf-8", "surrogatepass")
    whole, by_value = redact(Request("POST", "https://x/", body=body))
    assume(not by_value)  # a long secret may stand elsewhere, too
    redacted = whole.body
    assert len(redacted) == len(body)
    blanked(value, json.loads(redacted.decode("utf-8", "surrogatepass")))


@pytest.mark.parametrize(
    ("body", "redacted"),
    [
        (b'{"key": ""}', b'{"key": ""}'),
        (b'{"key": "abc"}', b'{"key": "RED"}'),
        (b'{"key":\n "a\\"b\\\\"}', b'{"key":\n "REDACT"}'),
        ('{"key": "ключ"}'.encode(), b'{"key": "REDACTED"}'),
        (b'{"key": "sk-cut-o', b'{"key": "REDACTED'),
        (b'{"key": 12, "token": null, "max_tokens": "9"}', b'{"key": 12, "token": null, "max_tokens": "9"}'),
        (b'{"a": "key", "b": "token"}', b'{"a": "key", "b": "token"}'),
        (b'["key", "abc"]', b'["key", "abc"]'),
        (b'{"content": "my \\"key\\": \\"abc\\""}', b'{"content": "my \\"key\\": \\"abc\\""}'),
        (b'\xff\xfe"key": "abc" \x00', b'\xff\xfe"key": "RED" \x00'),
        (b"key=abc", b"key=abc"),
    ],
)
def test_a_body(body: bytes, redacted: bytes) -> None:
    assert redact_request(Request("POST", "https://x/", body=body)).body == redacted


@pytest.mark.parametrize(
    ("field", "redacted"),
    [
        (("Authorization", f"Bearer {SECRET}"), f"Bearer {BLANK}"),
        (("authorization", "basic  dXNlcjpwdw=="), "basic  REDACTEDREDA"),
        (("Authorization", SECRET), BLANK),
        (("Authorization", f"{SECRET} more"), f"{BLANK}DREDA"),
        (("Proxy-Authorization", "Digest x"), "Digest R"),
        (("Cookie", "a=b; c=d"), "REDACTED"),
        (("Set-Cookie", "a=b"), "RED"),
        (("x-api-key", "k"), "R"),
        (("X-Auth-Token", "k"), "R"),
        (("X-Amz-Security-Token", "k"), "R"),
        (("CF-Access-Client-Secret", "k"), "R"),
        (("x-api-key", ""), ""),
        (("content-type", "application/json; charset=utf-8"), "application/json; charset=utf-8"),
        (("accept", "text/html;q=0.9"), "text/html;q=0.9"),
        (("x-ratelimit-remaining-tokens", "39999"), "39999"),
        (("WWW-Authenticate", 'Bearer realm="x"'), 'Bearer realm="x"'),
        (("Location", "https://a:b@x/?token=abc"), "https://RED@x/?token=RED"),
    ],
)
def test_a_header(field: tuple[str, str], redacted: str) -> None:
    assert redact_headers([field, ("a", "b")]) == Headers([(field[0], redacted), ("a", "b")])


@pytest.mark.parametrize(
    ("url", "redacted"),
    [
        ("https://x/?key=a'b c&d=e", "https://x/?key=REDAC&d=e"),
        ("https://x/?api%5Fkey=abc", "https://x/?api%5Fkey=RED"),
        ("https://x/?a=1;token=abc", "https://x/?a=1;token=RED"),
        ("https://x/?monkey=abc&keys=d", "https://x/?monkey=abc&keys=d"),
        ("https://x/?key=", "https://x/?key="),
        ("https://x/?key", "https://x/?key"),
        ("https://me@x/", "https://RE@x/"),
        ("https://a@b:c@x/p@q", "https://REDAC@x/p@q"),
        ("http://x/@key=1", "http://x/@key=1"),
        ("/api/chat?token=abc", "/api/chat?token=RED"),
    ],
)
def test_a_url(url: str, redacted: str) -> None:
    assert redact_request(Request("GET", url)).url == redacted


def test_an_error_keeps_its_words() -> None:
    text = f"Max retries exceeded with url: /v1?key={SECRET} (caused by https://u:{SECRET}@x/ 'key={SECRET}')"
    assert SECRET not in redact_text(text).replace(f"'key={SECRET}'", "")
    assert redact_text(text).startswith(
        f"Max retries exceeded with url: /v1?key={BLANK} (caused by https://REDACTED"
    )


def test_what_the_provider_sends_without_a_key_is_not_touched() -> None:
    request = build_request("gpt-4", [{"role": "user", "content": 'what is a "key": "value" pair?'}])
    assert redact_request(request) == request
    with_key = build_request("gpt-4", [{"role": "user", "content": "hi"}], key=SECRET)
    assert json.loads(redact_request(with_key).body) == {**json.loads(with_key.body), "key": BLANK}


def test_hostile_bodies_take_linear_time() -> None:
    for body in (b'"key":"' + b"\\" * 1_000_000, b'"key":"' * 100_000, b'"' * 1_000_000, b"{" * 1_000_000):
        assert len(redact_request(Request("POST", "https://x/" + "?=&" * 10_000, body=body)).body) == len(
            body
        )


# By value


def test_a_secret_is_blanked_out_wherever_else_it_stands_in_its_request():
    request = Request(
        "POST",
        f"https://x/{SECRET}/chat",
        Headers([("Authorization", f"Bearer {SECRET}"), ("x-echo", f"<{SECRET}>")]),
        f'{{"content": "my key is {SECRET}"}}'.encode(),
    )
    redacted = redact_request(request)
    assert SECRET.encode() not in everything(redacted)
    assert redacted.body == f'{{"content": "my key is {BLANK}"}}'.encode()
    assert redact_request(redacted) == redacted


@pytest.mark.parametrize(
    ("headers", "body", "said"),
    [
        ([("Cookie", f"theme=dark; id={SECRET}")], b"", SECRET),
        ([], b'{"key": "sk-\\u0041bcdefgh"}', "sk-Abcdefgh"),
        ([], b'{"password": "\xd0\xba\xd0\xbb\xd1\x8e\xd1\x87\xd0\xb8"}', "ключи"),
        ([("X-Api-Key", "a%2Fb%2Fc%2Fd")], b"", "a%2Fb%2Fc%2Fd"),
    ],
)
def test_an_answer_is_searched_for_each_form_of_a_secret(headers, body, said):
    _, secrets = redact(Request("POST", "https://x/", Headers(headers), body))
    blanked = secrets.blank(f"it was {said}.".encode())
    assert said.encode() not in blanked
    assert len(blanked) == len(f"it was {said}.".encode())


def test_the_parts_of_user_information_are_secret_but_not_words_of_a_password():
    _, secrets = redact(Request("GET", "https://alexander:correct-horse@x/"))
    assert secrets.blank_text("alexander has correct-horse") == "alexander has REDACTEDREDAC"
    _, secrets = redact(Request("POST", "https://x/", body=b'{"password": "the password of all"}'))
    assert secrets.blank_text("a password") == "a password"


def test_a_short_secret_is_not_looked_for():
    assert not redact(Request("POST", "https://x/", body=b'{"key": "1234567"}'))[1]
    assert redact(Request("POST", "https://x/", body=b'{"key": "12345678"}'))[1]


@given(
    st.data(),
    st.lists(st.sampled_from([SECRET, SECRET[:7], "text ", "мир", "sk-other-0123", SECRET[3:]]), max_size=6),
)
def test_a_secret_split_over_chunks_is_blanked_out_and_nothing_else_changes(data, parts):
    secrets = Secrets([SECRET, "sk-other-0123"])
    body = "".join(parts).encode()
    chunks = data.draw(chunkings(body))
    written = []
    stream = BlankedStream(secrets, lambda chunk, at: written.append((chunk, at)))
    lags = []
    for n, chunk in enumerate(chunks):
        stream.feed(chunk, float(n))
        lags.append(sum(map(len, chunks[: n + 1])) - sum(len(one) for one, _ in written))
    stream.finish()
    assert [(len(chunk), at) for chunk, at in written] == [
        (len(chunk), float(n)) for n, chunk in enumerate(chunks)
    ]
    assert b"".join(chunk for chunk, _ in written) == secrets.blank(body)
    assert SECRET.encode() not in b"".join(chunk for chunk, _ in written)
    assert all(lag < secrets.longest - 1 + max(map(len, chunks)) for lag in lags)


def test_a_long_stream_is_blanked_out_in_linear_time():
    class Counting(Secrets):
        __slots__ = ("looked_at",)

        def blank(self, data):
            self.looked_at += len(data)
            return super().blank(data)

    secrets = Counting([SECRET])
    secrets.looked_at = 0
    stream = BlankedStream(secrets, lambda chunk, at: None)
    for _ in range(1000):
        stream.feed(b"x" * 100, 0.0)
    stream.finish()
    assert secrets.looked_at < 4 * 100_000
