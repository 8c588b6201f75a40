"""Redaction: no secret stays, nothing else changes, lengths are kept, and twice is once."""

from __future__ import annotations

import json
import string
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aivvm.payload import build_request
from aivvm.transport import Headers, Request
from aivvm_testing.redaction import is_secret, redact_headers, redact_request, redact_text
from aivvm_testing.strategies import recordings

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
    redacted = redact_request(Request("POST", "https://x/", body=body)).body
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
