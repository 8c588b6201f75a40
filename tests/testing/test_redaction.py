"""Redaction: no secret stays, nothing else changes, lengths are kept, and twice is once."""

from __future__ import annotations

import base64
import json
import re
import string
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from aivvm.errors import Interrupted
from aivvm.payload import build_request
from aivvm.transport import Headers, Request
from aivvm_testing.blanking import LONGEST_MATCH, Members, Search, Secrets
from aivvm_testing.errors import SecretsFound, SetupFailure
from aivvm_testing.fake import FakeAivvm
from aivvm_testing.record.transport import RecordingTransport
from aivvm_testing.recording import Recording
from aivvm_testing.redaction import (
    DEFAULT,
    BlankedReply,
    Redaction,
    is_secret,
    redact_headers,
    redact_request,
    redact_text,
)
from aivvm_testing.reply import Head, Reply
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


def blanked(value: Any, redacted: Any, secret: str = "", *, numbers: bool = False) -> None:
    """Asserts that they differ in nothing but what is under secret names; `secret` is the one around the value."""
    if isinstance(value, dict):
        assert list(value) == list(redacted)
        around = secret if DEFAULT.is_secret_throughout(secret) else ""
        for name, child in value.items():
            if numbers and type(child) is int and DEFAULT.is_secret_throughout(name):
                assert len(str(child)) == len(str(redacted[name]))
                assert set(str(redacted[name])) <= set("-1")
            else:
                inside = around or (name if is_secret(name) else "")
                blanked(child, redacted[name], inside, numbers=numbers)
    elif isinstance(value, list):
        assert len(value) == len(redacted)
        for child, other in zip(value, redacted, strict=True):
            blanked(child, other, secret, numbers=numbers)
    elif isinstance(value, str) and secret:
        assert set(redacted) <= set("REDACTED")
    else:
        assert value == redacted


@given(json_values, st.sampled_from([{}, {"separators": (",", ":")}, {"indent": 1}, {"ensure_ascii": False}]))
def test_a_json_body_changes_in_nothing_but_its_secrets(value: Any, style: dict[str, Any]) -> None:
    body = json.dumps(value, **style).encode("utf-8", "surrogatepass")
    whole, by_value = DEFAULT.redact(Request("POST", "https://x/", body=body))
    assume(not by_value)  # a long secret may stand elsewhere, too
    redacted = whole.body
    assert len(redacted) == len(body)
    blanked(value, json.loads(redacted.decode("utf-8", "surrogatepass")), numbers=True)


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
        (b'{"\\u006bey": "abc", "k\\u0065ys": "abc"}', b'{"\\u006bey": "RED", "k\\u0065ys": "abc"}'),
        (b'{"\x01\\u006bey": "abc"}', b'{"\x01\\u006bey": "abc"}'),
        (b'{"key": "abc\\', b'{"key": "REDA'),
        (b'{"a": "key": "abc"}', b'{"a": "key": "RED"}'),
        (
            b'{"token": ["abc", ["d", 1, null, "\\""]], "a": "b"}',
            b'{"token": ["RED", ["R", 1, null, "RE"]], "a": "b"}',
        ),
        (
            b'{"api_keys": {"a": "bc", "d\\"": [{"e": "f"}]}, "g": "h"}',
            b'{"api_keys": {"a": "RE", "d\\"": [{"e": "R"}]}, "g": "h"}',
        ),
        (
            b'{"token": {"id": 1, "text": " Hi", "key": "a"}}',
            b'{"token": {"id": 1, "text": " Hi", "key": "R"}}',
        ),
        (b'{"token": [{"text": "Hi"}, "a"]}', b'{"token": [{"text": "Hi"}, "R"]}'),
        (b'{"key": ["a", {}, "b"], "c": "d"}', b'{"key": ["R", {}, "R"], "c": "d"}'),
        (
            b'{"token": [[{}], "a", [{"b": [{}, "c"]}], "d"]}',
            b'{"token": [[{}], "R", [{"b": [{}, "c"]}], "R"]}',
        ),
        (
            b'{"session": [{"a": "b", "key": ["c", {"d": "e"}, "f"], "g": ["h"]}, "i"], "j": "k"}',
            b'{"session": [{"a": "b", "key": ["R", {"d": "e"}, "R"], "g": ["h"]}, "R"], "j": "k"}',
        ),
        (
            b'{"key": [{"password": {"a": [{"type": "b"}]}, "c": {"d": "e", "pin": "f"}}, "g"]}',
            b'{"key": [{"password": {"a": [{"type": "R"}]}, "c": {"d": "e", "pin": "R"}}, "R"]}',
        ),
        (
            b'{"key": [{"password": {"type": "string", "secret": "a"}, "b": "c"}, "d"]}',
            b'{"key": [{"password": {"type": "string", "secret": "R"}, "b": "c"}, "R"]}',
        ),
        (b'{"password": {"ty\\pe": "a"}}', b'{"password": {"ty\\pe": "R"}}'),
        (
            b'{"key": [{"\\u006bey": "a", "k\\u0065ys": "b", "\\key": "c", "my key": "d", "\\"": "e"}, "f"]}',
            b'{"key": [{"\\u006bey": "R", "k\\u0065ys": "b", "\\key": "c", "my key": "d", "\\"": "e"}, "R"]}',
        ),
        (
            b'{"key": [{"%ssecret": "a", "%ssecret": "b"}, "c"]}' % (b"x" * 394, b"x" * 395),
            b'{"key": [{"%ssecret": "R", "%ssecret": "b"}, "R"]}' % (b"x" * 394, b"x" * 395),
        ),
        (
            b'{"key": [{"a": "token", "key": 1, "b": "c"}, "d"]}',
            b'{"key": [{"a": "token", "key": 1, "b": "c"}, "R"]}',
        ),
        (b'{"key": [{"a": oops}, "b", {"pin": "c"}]}', b'{"key": [{"a": oops}, "b", {"pin": "R"}]}'),
        (
            b'{"session": {"voice": "alloy"}, "tokens": ["Hi"]}',
            b'{"session": {"voice": "alloy"}, "tokens": ["Hi"]}',
        ),
        (
            b'{"password": {"type": "string", "secret": "a"}}',
            b'{"password": {"type": "string", "secret": "R"}}',
        ),
        (b'{"password": {"types": "string"}}', b'{"password": {"types": "REDACT"}}'),
        (b'{"secret": ["a", oops "b"], "key": "c"}', b'{"secret": ["R", oops "b"], "key": "R"}'),
        (b'{"secret": ["a"}, "b", {"key": "c"}', b'{"secret": ["R"}, "b", {"key": "R"}'),
        (
            b'{"secret": ' + b"[" * 99 + b'"a"' + b"]" * 63 + b',"b"],"c"',
            b'{"secret": ' + b"[" * 99 + b'"R"' + b"]" * 63 + b',"R"],"c"',
        ),
        (
            b'{"token": [' + b'{"a": [' * 40 + b'{"key": ["b"]},"c"' + b"]}" * 40 + b',"d"], "pin": "e"}',
            b'{"token": [' + b'{"a": [' * 40 + b'{"key": ["R"]},"c"' + b"]}" * 40 + b',"d"], "pin": "R"}',
        ),
        (b'{"password": 1234, "pin":-5.0e7}', b'{"password": 1111, "pin":-1.1e1}'),
        (b'{"token": 15496, "seed": 12345, "pin": true}', b'{"token": 15496, "seed": 12345, "pin": true}'),
        (
            json.dumps({"arguments": json.dumps({"api_key": 'a"b\\', "key": "c"})}).encode(),
            json.dumps({"arguments": json.dumps({"api_key": "REDACTEDRE", "key": "c"})}).encode(),
        ),
        (b'{"a": "\\n [{\\"password\\" :\\n\\"abc', b'{"a": "\\n [{\\"password\\" :\\n\\"RED'),
        (
            b'{"content": "it is {\\"password\\": \\"abc\\"}"}',
            b'{"content": "it is {\\"password\\": \\"abc\\"}"}',
        ),
    ],
)
def test_a_body(body: bytes, redacted: bytes) -> None:
    assert redact_request(Request("POST", "https://x/", body=body)).body == redacted


@given(json_values, st.sampled_from(["key", "session", "token"]), st.integers(0, 3))
def test_an_object_in_a_list_of_secrets_is_judged_as_it_is_elsewhere(
    value: Any, name: str, depth: int
) -> None:
    thing = json.dumps({"a": value, "password": {"type": value}}).encode()
    alone = members_of(thing, [thing])
    around = b'{"%s": %s"x", %%s, ["x"], %%s, "x"%s}' % (
        name.encode(),
        b"[" * (depth + 1),
        b"]" * (depth + 1),
    )
    body = around % (thing, thing)
    assert members_of(body, [body]) == around.replace(b"x", b"R") % (alone, alone)


@pytest.mark.parametrize(
    ("field", "redacted"),
    [
        (("Authorization", f"Bearer {SECRET}"), f"Bearer {BLANK}"),
        (("authorization", "basic  dXNlcjpwdw=="), "basic  REDACTEDREDA"),
        (("Authorization", SECRET), BLANK),
        (("Authorization", f"{SECRET} more"), f"{BLANK}DREDA"),
        (("Proxy-Authorization", "Digest x"), "Digest R"),
        (("Cookie", "a=b; c=d"), "a=R; c=R"),
        (("Cookie", f"{SECRET};a = {SECRET}=x ; b; c="), f"{BLANK};a = {BLANK}DR ; R; c="),
        (("Set-Cookie", "a=b"), "a=R"),
        (
            ("Set-Cookie", f"id={SECRET}; Path=/a; Max-Age=9; HttpOnly"),
            f"id={BLANK}; Path=/a; Max-Age=9; HttpOnly",
        ),
        (
            ("set-cookie", "a=b; Expires=Wed, 21 Oct 2026 07:28:00 GMT; SameSite=Lax"),
            "a=R; Expires=Wed, 21 Oct 2026 07:28:00 GMT; SameSite=Lax",
        ),
        (("set-cookie", 'a="b; c"; secure'), "a=RE; RE; secure"),
        (("set-cookie", "a=b; Path=/, c=d; secure"), "a=R; Path=REDACT; secure"),
        (("x-api-key", "k"), "R"),
        (("X-Auth-Token", "k"), "R"),
        (("X-Amz-Security-Token", "k"), "R"),
        (("CF-Access-Client-Secret", "k"), "R"),
        (("x-api-key", ""), ""),
        (("X-Session-Id", "k"), "R"),
        (("X-Auth", "k"), "R"),
        (("X-Key", "k"), "R"),
        (("X-JWT", "k"), "R"),
        (("Authentication", "Bearer k"), "Bearer R"),
        (("X-Authorization-Key", "k"), "R"),
        (("X-User-Credentials", "k"), "R"),
        (("Openai-Api-Keys", "k"), "R"),
        (("Xkey", "k"), "k"),
        (("Idempotency-Key", "k"), "k"),
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
        (
            "https://x/?pass=a&AWSAccessKeyId=b&pin=1&totp=2",
            "https://x/?pass=R&AWSAccessKeyId=R&pin=R&totp=R",
        ),
        ("https://x/?code=abc&state=d", "https://x/?code=abc&state=d"),
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
    for body in (
        b'"key":"' + b"\\" * 1_000_000,
        b'"key":"' * 100_000,
        b'"' * 1_000_000,
        b"{" * 1_000_000,
        b'"pin":1,' * 100_000,
        b'"secret":[' * 20_000,
        b'"secret":{"' * 20_000,
        b'"token":[{"a":"",' * 20_000,
        b':"{' * 100_000 + b'\\"pin\\":\\"',
        b':"{' + b'\\"pin\\":\\"' * 100_000,
        b':"{\\"pin\\":\\"' + b"\\" * 1_000_000,
    ):
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
        (
            [],
            b'{"password": "\xd0\xba\xd0\xbb\xd1\x8e\xd1\x87\xd0\xb8"}',
            "\\u043a\\u043b\\u044e\\u0447\\u0438",
        ),
        ([("X-Api-Key", "a%2Fb%2Fc%2Fd")], b"", "a%2Fb%2Fc%2Fd"),
        ([("X-Api-Key", "a%2Fb%2Fc%2Fdd")], b"", "a/b/c/dd"),
        ([("X-Api-Key", "a/b+c/d=")], b"", "a%2Fb%2Bc%2Fd%3D"),
        ([("X-Api-Key", "a/b+c/d=")], b"", "a\\/b+c\\/d="),
        ([("X-Api-Key", 'a"b c\\d')], b"", 'a\\"b c\\\\d'),
        ([("Cookie", 'a="abcdefgh"')], b"", "abcdefgh"),
    ],
)
def test_an_answer_is_searched_for_each_form_of_a_secret(headers, body, said):
    _, secrets = DEFAULT.redact(Request("POST", "https://x/", Headers(headers), body))
    blanked = secrets.blank(f"it was {said}.".encode())
    assert said.encode() not in blanked
    assert len(blanked) == len(f"it was {said}.".encode())


def test_the_parts_of_user_information_are_secret_but_not_words_of_a_password():
    _, secrets = DEFAULT.redact(Request("GET", "https://alexander:correct-horse@x/"))
    assert secrets.blank_text("alexander has correct-horse") == "alexander has REDACTEDREDAC"
    _, secrets = DEFAULT.redact(Request("POST", "https://x/", body=b'{"password": "the password of all"}'))
    assert secrets.blank_text("a password") == "a password"


def test_a_short_secret_is_not_looked_for():
    assert not DEFAULT.redact(Request("POST", "https://x/", body=b'{"key": "1234567"}'))[1]
    assert DEFAULT.redact(Request("POST", "https://x/", body=b'{"key": "12345678"}'))[1]


# In answers


def written(
    redaction: Redaction, secrets: Secrets, chunks: list[bytes], content_type: str = ""
) -> list[bytes]:
    """What a file gets of these chunks, whose lag is bounded and whose sizes and moments stay."""
    out: list[tuple[bytes, float]] = []
    came = went = 0
    most = max(secrets.longest + secrets.step, 1) + max(map(len, chunks), default=0)

    def write(data: bytes, at: float) -> None:
        nonlocal went
        went += len(data)
        out.append((data, at))

    blanked = BlankedReply(redaction, secrets, write)
    blanked.head("OK", Headers([("content-type", content_type)] if content_type else []))
    for n, chunk in enumerate(chunks):
        blanked.chunk(chunk, float(n))
        came += len(chunk)
        assert came - went < most
    assert blanked.finish() == b""
    assert [(len(data), at) for data, at in out] == [(len(chunk), float(n)) for n, chunk in enumerate(chunks)]
    return [data for data, _ in out]


@given(
    st.data(),
    st.lists(st.sampled_from([SECRET, SECRET[:7], "text ", "мир", "sk-other-0123", SECRET[3:]]), max_size=6),
)
def test_a_secret_split_over_chunks_is_blanked_out_and_nothing_else_changes(data, parts):
    secrets = Secrets([SECRET, "sk-other-0123"])
    body = "".join(parts).encode()
    out = b"".join(written(DEFAULT, secrets, data.draw(chunkings(body))))
    assert out == secrets.blank(body)
    assert SECRET.encode() not in out


@given(
    st.data(), st.lists(st.sampled_from(["s", SECRET, SECRET[:9], "text ", "ss", "sk", "мир"]), max_size=8)
)
def test_only_what_may_become_a_secret_waits(data, parts):
    secrets = Secrets([SECRET, "s" * 60])
    out: list[bytes] = []
    answer = BlankedReply(DEFAULT, secrets, lambda data, at: out.append(data))
    came = b""
    chunks = data.draw(chunkings("".join(parts).encode()))
    for chunk in chunks:
        answer.chunk(chunk, 0.0)
        came += chunk
        begun = [
            n
            for value in (SECRET, "s" * 60)
            for n in range(1, len(value))
            if came.endswith(value[:n].encode())
        ]
        waits = len(came) - sum(map(len, out))
        assert not waits or waits - len(chunks[len(out)]) < max(begun)


def test_a_long_secret_holds_nothing_up():
    out: list[bytes] = []
    answer = BlankedReply(DEFAULT, Secrets(["eyJ" + "a1B2" * 1000]), lambda data, at: out.append(data))
    for n in range(40):
        answer.chunk(b"tok%02d " % n, 0.0)
        assert len(out) == n + 1


def test_what_may_become_a_secret_is_found_in_time_that_grows_with_the_chunk():
    value = b"ab" * 8000 + b"c"
    secrets = Secrets([value.decode()])
    text = b"x" * 100_000 + b"ab" * 5000
    assert secrets.begun(text) == 100_000
    assert secrets.begun(text, 100_001) == 100_002
    assert secrets.begun(text + b"x") == len(text) + 1
    assert secrets.begun(text + b"xaba") == len(text) + 1
    assert Secrets().begun(b"abc") == 3


def members_of(body: bytes, chunks: list[bytes]) -> bytes:
    members = Members(DEFAULT)
    return b"".join([members.blank(chunk) for chunk in chunks])


@given(
    st.data(),
    json_values,
    st.sampled_from(
        [
            '{"token": [%s, "x", {"b": %s}, "y"]}',
            '{"key": [[{"password": %s}], "x", {"p\\u0069n": {"e": %s}}, "y"]}',
        ]
    ),
)
def test_lists_of_secrets_with_objects_lose_the_same_however_they_are_split(data, value, around):
    text = json.dumps(value)
    body = (around % (text, text)).encode()
    whole = members_of(body, [body])
    blanked(json.loads(body), json.loads(whole))
    assert members_of(body, data.draw(chunkings(body))) == whole
    for n in range(len(body)):
        assert members_of(body, [body[:n], b"", body[n:]]) == whole
    assert members_of(body, [body[n : n + 1] for n in range(len(body))]) == whole


@given(st.data(), json_values, st.sampled_from([{}, {"separators": (",", ":")}, {"indent": 1}]))
def test_the_secrets_in_a_json_answer_are_blanked_out_however_it_is_split(data, value, style):
    body = json.dumps({"access_token": SECRET, "a": value}, **style).encode()
    chunks = data.draw(chunkings(body))
    out = b"".join(written(DEFAULT, Secrets(), chunks, data.draw(st.sampled_from(["", "application/json"]))))
    blanked({"access_token": SECRET, "a": value}, json.loads(out))
    assert SECRET.encode() not in out
    assert out == b"".join(written(DEFAULT, Secrets(), [body]))


@given(
    st.data(),
    st.lists(
        st.sampled_from(
            [
                '"',
                "\\",
                ":",
                " ",
                "key",
                '"token"',
                '": "',
                '"key": "',
                ",",
                "{",
                "\\u006b",
                "ы",
                "x" * 300,
                "\n" * 900,
                '"secret": [',
                '"secret":{"',
                '"token": [{"',
                "]",
                "}",
                "[",
                '"',
                '"type"',
                '"type',
                "d1",
            ]
        ),
        max_size=16,
    ),
)
def test_what_is_not_quite_json_loses_the_same_however_it_is_split(data, parts):
    body = "".join(parts).encode()
    assert members_of(body, data.draw(chunkings(body))) == members_of(body, [body])
    assert members_of(body, [body[n : n + 1] for n in range(len(body))]) == members_of(body, [body])


def test_json_is_written_without_a_lag_though_a_value_has_no_end():
    out = []
    blanked = BlankedReply(DEFAULT, Secrets(), lambda data, at: out.append(data))
    blanked.head("OK", Headers([("content-type", "application/json")]))
    for n, chunk in enumerate([b'{"a": 1, "to', b'ken"', b" : ", b'"sk-', b"x\\", b'"y', b'" }'], 1):
        blanked.chunk(chunk, 0.0)
        assert len(out) == n
    assert b"".join(out) == b'{"a": 1, "token" : "REDACTE" }'


@pytest.mark.parametrize(
    ("content_type", "body", "is_json"),
    [
        ("application/json", b'x "key": "abc"', True),
        ("application/vnd.api+json; charset=utf-8", b'x "key": "abc"', True),
        ("text/event-stream", b'data: {"key": "abc"}', True),
        ("application/x-ndjson", b'"key": "abc"', True),
        ("text/html", b'<script>x = {"key": "abc"}', True),
        ("", b'\r\n [{"key": "abc"}]', True),
        ("text/plain;charset=UTF-8", b'\xef\xbb\xbf{"key": "abc"}', True),
        ("", b'In JSON: {"key": "abc"}', False),
        ("text/plain", b'"key": "abc"', False),
        ("application/octet-stream", b'\xff{"key": "abc"}', False),
    ],
)
def test_only_json_is_searched_by_name_and_a_model_may_speak_of_a_key(content_type, body, is_json):
    expected = body.replace(b"abc", b"RED") if is_json else body
    for chunks in ([body], [body[n : n + 1] for n in range(len(body))]):
        assert b"".join(written(DEFAULT, Secrets(), chunks, content_type)) == expected


def test_what_a_head_sets_is_looked_for_in_the_body():
    out = []
    blanked = BlankedReply(DEFAULT, Secrets(), lambda data, at: out.append(data))
    fields = [
        ("Set-Cookie", f"id={SECRET}; Path=/chats/today"),
        ("X-Auth-Token", "abcdefgh-1"),
        ("Location", f"/{SECRET}"),
    ]
    reason, headers = blanked.head(f"Hi {SECRET}", Headers(fields))
    assert reason == f"Hi {BLANK}"
    assert headers == Headers(
        [
            ("Set-Cookie", f"id={BLANK}; Path=/chats/today"),
            ("X-Auth-Token", "REDACTEDRE"),
            ("Location", f"/{BLANK}"),
        ]
    )
    blanked.chunk(f"/chats/today: {SECRET[:5]}".encode(), 0.0)
    blanked.chunk(f"{SECRET[5:]} abcdefg".encode(), 0.0)
    assert blanked.finish(b"h-1 " + SECRET.encode()) == b"D-1 ".replace(b"D-1", b"DRE") + BLANK.encode()
    assert b"".join(out) == f"/chats/today: {BLANK} REDACTE".encode()
    assert blanked.text(f"no {SECRET} in /?key=abc") == f"no {BLANK} in /?key=RED"


def test_a_long_stream_is_searched_in_linear_time():
    class Counting:
        looked_at = 0

        def finditer(self, data, begin=0):
            self.looked_at += len(data) - begin
            return iter(())

    counting = Counting()
    search = Search([(counting, ())], 16)
    for _ in range(1000):
        search.feed(b"x" * 100)
    search.feed(b"", last=True)
    assert 100_000 <= counting.looked_at < 2 * 100_000


def test_hostile_json_takes_linear_time():
    for piece in (
        b'"',
        b'"key',
        b'"key":' + b" " * 99,
        b"\\",
        b'{"k',
        b'"\\u006b',
        b'"token":[{',
        b'{"key":["',
    ):
        members = Members(DEFAULT)
        for _ in range(1000):
            members.blank(piece * 100)
        assert len(members._tail) < 500
        assert len(members._around) < 100
    members = Members(DEFAULT)
    members.blank(b'{"token": [{"')
    for _ in range(1000):
        members.blank(b"x" * 100)
    assert members._said is not None
    assert len(members._said) < 1000


# More names


def test_names_are_secrets_wherever_names_are():
    redaction = Redaction(names=["X-Tenant", "ssn"])
    request = Request(
        "POST",
        "https://x/?tenant=a&x.tenant=b&SSN=12",
        Headers(
            [("x-tenant", "acme"), ("content-type", "application/x-www-form-urlencoded"), ("x-ssn", "1")]
        ),
        b'x_tenant=abc&form[ssn]=1&ssn=&"ssn": "9"',
    )
    redacted = redaction.redact_request(request)
    assert redacted.url == "https://x/?tenant=a&x.tenant=R&SSN=RE"
    assert redacted.headers.get("x-tenant") == "REDA"
    assert redacted.headers.get("x-ssn") == "1"
    assert redacted.body == b'x_tenant=RED&form[ssn]=1&ssn=&"ssn": "R"'
    assert redact_request(request) == request
    assert b"".join(written(redaction, Secrets(), [b'{"ss', b'n": "', b"078", b'"}'])) == b'{"ssn": "RED"}'


def test_names_that_are_kept_are_no_secrets():
    redaction = Redaction(keep=["token"])
    request = Request(
        "POST", "https://x/?token=a&access_token=b", Headers([("token", "a")]), b'{"token": "abc"}'
    )
    assert redaction.redact_request(request) == request._replace(url="https://x/?token=a&access_token=R")
    stream = [b'data: {"token": "Hel', b'lo"}\n\ndata: {"key": "a"}\n\n']
    assert b"".join(written(redaction, Secrets(), stream, "text/event-stream")) == b"".join(stream).replace(
        b'"a"', b'"R"'
    )


@pytest.mark.parametrize(
    ("content_type", "body", "redacted"),
    [
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="password"\r\nx: y\r\n\r\nse\r\ncret\r\n--b\r\n'
            b'content-disposition: form-data; name="a"; filename="token"\r\n\r\nfile\r\n--b--\r\n',
            b'--b\r\nContent-Disposition: form-data; name="password"\r\nx: y\r\n\r\nREDACTED\r\n--b\r\n'
            b'content-disposition: form-data; name="a"; filename="token"\r\n\r\nfile\r\n--b--\r\n',
        ),
        (
            "multipart/form-data; boundary=b",
            b"--b\r\nContent-Disposition: form-data; name=api-key\r\n\r\ncut of",
            b"--b\r\nContent-Disposition: form-data; name=api-key\r\n\r\nREDACT",
        ),
        ("application/x-www-form-urlencoded", b"user%5Bpassword%5D=abc&a=b", b"user%5Bpassword%5D=RED&a=b"),
        ("application/x-www-form-urlencoded", b"user[password]=abc&a=b", b"user[password]=RED&a=b"),
    ],
)
def test_a_form(content_type, body, redacted):
    headers = Headers([("content-type", content_type)])
    assert redact_request(Request("POST", "https://x/", headers, body)).body == redacted


@pytest.mark.parametrize("names", [b" name=x", b";name=token", b'; name="'])
@pytest.mark.parametrize("end", [b"\r\n--x--\r\n", b"\r\n\r\n", b"\r\nx"])
def test_a_hostile_form_takes_linear_time(names, end):
    headers = Headers([("content-type", "multipart/form-data; boundary=x")])
    body = (b"\r\nContent-Disposition:" + names * 1000) * 100 + end  # minutes, if it took even quadratic time
    assert len(redact_request(Request("POST", "https://x/", headers, body)).body) == len(body)


def test_a_field_of_a_form_with_several_names_is_secret_if_one_is():
    headers = Headers([("content-type", "multipart/form-data; boundary=x")])
    for line in (b'name="pass"; x="; name=a"', b'filename="; name=a"; name="pass"'):
        body = b"--x\r\nContent-Disposition: form-data; " + line + b"\r\n\r\nabc\r\n--x--"
        redacted = redact_request(Request("POST", "https://x/", headers, body)).body
        assert redacted == body.replace(b"abc", b"RED")


def test_a_stream_may_have_any_number_of_names_and_names_of_any_length():
    redaction = Redaction()
    chunks = [b'{"n%d": "a", ' % n for n in range(3000)] + [
        b'"x' + b"y" * 500 + b'-token": "a", "token": "b"}'
    ]
    out = b"".join(written(redaction, Secrets(), chunks, "application/json"))
    assert out == b"".join(chunks).replace(b'"b"', b'"R"')
    assert b"".join(
        written(redaction, Secrets(), [bytes([byte]) for byte in chunks[-1]], "x/json")
    ) == chunks[-1].replace(b'"b"', b'"R"')
    assert not any([redaction.is_secret(f"n{n}") for n in range(3000)])


# Patterns


def test_what_a_pattern_matches_is_blanked_out_wherever_it_stands():
    redaction = Redaction(patterns=[r"\bcust-(\d+)\b", rb"(?i)joe", r"(?:a(b)|c)d"])
    request = Request(
        "POST", "https://x/cust-123/JOE", Headers([("a", "Joe, cust-4")]), b'{"a": "cust-5abd cd joe cust-5"}'
    )
    redacted, secrets = redaction.redact(request)
    assert redacted == Request(
        "POST", "https://x/cust-RED/RED", Headers([("a", "RED, cust-R")]), b'{"a": "cust-5aRd RE RED cust-R"}'
    )
    assert redaction.redact_request(redacted) == redacted
    blanked = BlankedReply(redaction, secrets, lambda data, at: None)
    assert blanked.head("Joe", Headers([("b", "cust-77")])) == ("RED", Headers([("b", "cust-RE")]))
    assert blanked.text("joe ы cust-77") == "RED ы cust-RE"
    assert blanked.finish(b"joe") == b"RED"


patterned = st.lists(
    st.sampled_from(
        ["cust-1", "2", "9", " ", "x", "-", "sk-abcdefgh", "joe", "ы", "Joe Black", "\n", "key: 12"]
    ),
    max_size=12,
)


@given(st.data(), patterned)
def test_a_match_split_over_chunks_is_blanked_out_as_in_the_whole(data, parts):
    redaction = Redaction(
        patterns=[
            r"\bcust-(\d+)\b",
            r"(?i)\bjoe(?: black)?\b(?! 1)",
            r"(?<=key: )\d+",
            r"sk-\w+",
            r"(?m)^\d+$",
        ]
    )
    body = "".join(parts).encode()
    secrets = redaction.redact(Request("POST", "https://x/", Headers([("x-api-key", "9 x-sk-ab")])))[1]
    chunks = data.draw(chunkings(body))
    assert b"".join(written(redaction, secrets, chunks)) == secrets.blank(body)


@pytest.mark.parametrize("size", [1, 61, 1000, 5000, 9000])
def test_a_match_may_be_as_long_as_is_said_and_lie_anywhere(size):
    redaction = Redaction(patterns=[r"<[^<>]*>"])
    secret = b"<" + b"s" * (LONGEST_MATCH - 2) + b">"
    body = b"x" * 4999 + secret + b"y" * 10_000 + secret
    chunks = [body[n : n + size] for n in range(0, len(body), size)]
    out = b"".join(written(redaction, Secrets((), redaction.compiled), chunks))
    assert out == body.replace(secret, (b"REDACTED" * 512))


def test_an_endless_match_is_blanked_out_as_far_as_it_is_seen_and_holds_nothing_up():
    redaction = Redaction(patterns=[r"s+"])
    out = b"".join(written(redaction, Secrets((), redaction.compiled), [b"s" * 100] * 200))
    assert set(out) <= set(b"REDACTED")


def test_a_pattern_that_finds_its_own_surroundings_is_redacted_once_and_for_all():
    redaction = Redaction(patterns=[r"[A-Z](\d)"])
    once = redaction.redact_request(Request("GET", "https://x/A123"))
    assert once.url == "https://x/ARRR"
    assert redaction.redact_request(once) == once


def test_a_pattern_of_bytes_leaves_text_whole():
    secrets = Secrets((), Redaction(patterns=[rb"\xd0", rb"\x82"]).compiled)
    assert secrets.blank_text("я тут: Д") == "я REуRE: RE"


# Functions


def test_edit_request_sees_what_is_left_and_has_the_last_word():
    seen = []

    def edit(request: Request) -> Request:
        seen.append(request)
        return request._replace(url="https://x/", headers=request.headers.without("date"))

    redaction = Redaction(edit_request=edit)
    request = Request("POST", f"https://x/?key={SECRET}", Headers([("Date", "now"), ("a", "b")]), b"body")
    redacted, secrets = redaction.redact(request)
    assert seen == [request._replace(url=f"https://x/?key={BLANK}")]
    assert redacted == Request("POST", "https://x/", Headers([("a", "b")]), b"body")
    assert secrets.blank(SECRET.encode()) == BLANK.encode()


def test_a_reason_that_is_none_is_left_to_the_journal():
    blanked = BlankedReply(DEFAULT, Secrets([SECRET]), lambda data, at: None)
    assert blanked.head(3, Headers()) == (3, Headers())


def test_edit_headers_sees_what_is_left_and_has_the_last_word():
    redaction = Redaction(edit_headers=lambda headers: headers.without("date"))
    blanked = BlankedReply(redaction, Secrets(), lambda data, at: None)
    assert blanked.head("OK", Headers([("Date", "now"), ("x-token", "a")])) == (
        "OK",
        Headers([("x-token", "R")]),
    )


@pytest.mark.parametrize(
    "wrong",
    [None, ("GET", "https://x/"), Request("GET", "https://x/", Headers(), "text"), Request("GET", b"/")],
)
def test_a_function_that_gives_no_request_is_told(wrong):
    with pytest.raises(
        TypeError, match="edit_request gives a Request of text, Headers and bytes, but it gave"
    ):
        Redaction(edit_request=lambda request: wrong).redact(Request("GET", "https://x/"))


@pytest.mark.parametrize("wrong", [None, "a", [("a", 1)], [("a",)], 3])
def test_a_function_that_gives_no_headers_is_told(wrong):
    blanked = BlankedReply(Redaction(edit_headers=lambda headers: wrong), Secrets(), lambda data, at: None)
    with pytest.raises(TypeError, match="edit_headers gives Headers, which are pairs of text, but it gave"):
        blanked.head("OK", Headers())


# The policy


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"names": "ssn"}, TypeError, "names takes a list, such as names=['ssn'], but got 'ssn'"),
        ({"names": 3}, TypeError, "names takes a list, but got 3"),
        ({"names": [3]}, TypeError, "names takes names, such as 'x-tenant', but got 3"),
        (
            {"names": ["a b"]},
            ValueError,
            'a name has 1 to 60 characters, one of them a letter or digit, and no spaces or any of "\\,:{}=&;?#<>/ '
            "(patterns find what has no name), but names has 'a b'",
        ),
        ({"names": ["--"]}, ValueError, "a name has 1 to 60 characters, one of them a letter"),
        ({"names": ["x" * 61]}, ValueError, "a name has 1 to 60 characters, one of them a letter"),
        (
            {"keep": ["tokn"]},
            ValueError,
            "keep takes names that would be secrets, but of 'tokn' it is none (did you mean 'token'?)",
        ),
        (
            {"keep": ["ssn"], "names": ["SSN"]},
            ValueError,
            "keep takes names that would be secrets, but of 'ssn' names has it, too",
        ),
        (
            {"patterns": r"\d+"},
            TypeError,
            "patterns takes a list, such as patterns=['\\\\d+'], but got '\\\\d+'",
        ),
        (
            {"patterns": [3]},
            TypeError,
            "patterns takes regular expressions, such as r'account (\\d+)', but got 3",
        ),
        (
            {"patterns": ["(a"]},
            ValueError,
            "patterns has '(a', which is no regular expression: missing ), unterminated subpattern at position 0",
        ),
        (
            {"patterns": [r"\d*"]},
            ValueError,
            "patterns has '\\\\d*', which finds nothing at all, everywhere: use + for *",
        ),
        (
            {"patterns": ["мир"]},
            ValueError,
            "patterns are searched in bytes: give 'мир' as those of its UTF-8, b'\\xd0\\xbc\\xd0\\xb8\\xd1\\x80'",
        ),
        (
            {"edit_request": "x"},
            TypeError,
            "edit_request is a function that gives what to record, but got 'x'",
        ),
        ({"edit_headers": 3}, TypeError, "edit_headers is a function that gives what to record, but got 3"),
        ({"strict": "no"}, TypeError, "strict is True or False, but got 'no'"),
    ],
)
def test_what_cannot_work_is_refused_at_the_call(options, error, message):
    with pytest.raises(error) as raised:
        Redaction(**options)
    assert str(raised.value).startswith(message)


def test_policies_are_equal_by_value():
    ours = Redaction(names=["a"], patterns=[r"(?i)x\d", b"y"], strict=True)
    theirs = Redaction(names=("a",), patterns=(re.compile(r"(?i)x\d"), re.compile(b"y")), strict=True)
    assert ours == theirs
    assert hash(ours) == hash(theirs)
    assert ours != Redaction(names=["a"])


def test_a_password_of_basic_authorization_is_looked_for():
    field = base64.b64encode(f"joe:{SECRET}".encode()).decode()
    secrets = DEFAULT.redact(Request("GET", "https://x/", Headers([("Authorization", f"Basic {field}")])))[1]
    assert (
        secrets.blank_text(f"{field} is joe and {SECRET}")
        == f"{'REDACTED' * 9}"[: len(field)] + f" is joe and {BLANK}"
    )


def test_no_more_values_are_looked_for_than_is_said():
    body = json.dumps([{"key": f"sk-{n:08}/"} for n in range(101)]).encode()
    secrets = DEFAULT.redact(Request("POST", "https://x/", body=body))[1]
    assert secrets.blank(b"sk-00000099/") == b"REDACTEDREDA"
    assert secrets.blank(b"sk-00000100/") == b"sk-00000100/"


# Through a tap

S = [f"s{n:02}-Zq81xWvU7y/Tt+{n:02}=" for n in range(20)]
S[12] = "ключ-Zq81xWvU7yTt"
S[13] = "cust-0123456789"
HOOKS = Redaction(names=["x-tenant"], patterns=[r"\bcust-\d+"])
BASIC = base64.b64encode(f"joe:{S[2]}".encode()).decode()
LOGIN = Request(
    "POST",
    f"https://joe:{quote(S[8], safe='')}@x.example/v1/login?api_key={quote(S[6])}&a=b&access_token={quote(S[7])}",
    Headers(
        [
            ("Authorization", f"Bearer {S[0]}"),
            ("X-Api-Key", S[1]),
            ("Proxy-Authorization", f"Basic {BASIC}"),
            ("Cookie", f"sid={S[3]}; theme=dark; csrf={S[4]}"),
            ("X-Tenant", S[5]),
            ("Referer", f"https://x.example/?token={S[9]}"),
            ("X-Customer", f"no. {S[13]} with {S[0]}"),
            ("Content-Type", "application/json"),
        ]
    ),
    json.dumps(
        {"a": [{"client_secret": S[10]}, {"b": {"password": S[11]}}], "token": S[12], "c": "d"}
    ).encode(),
)
FORM = Request(
    "POST",
    "https://x.example/v1/form",
    Headers([("content-type", "application/x-www-form-urlencoded")]),
    f"a=b&password={quote(S[14])}&user%5Bpassword%5D={quote(S[15], safe='')}".encode(),
)
ANSWER = json.dumps(
    {
        "you": f"said {S[0]}, {S[3]}, {S[8]}, {S[12]} and {S[13]}",
        "access_token": S[16],
        "a": [{"refreshToken": S[17]}],
    }
).encode()
SET = {
    "content-type": "application/json",
    "set-cookie": f"sid={S[18]}; Path=/; HttpOnly",
    "x-auth-token": S[19],
    "x-echo": f"{S[1]} {S[2]}",
}


def without_secrets(request: Request) -> Request:
    """The request of a test that has none of them, whatever their lengths."""
    url, body = request.url.replace(quote(S[8], safe=""), "").replace("joe:@", ""), request.body
    for secret in S:
        for form in (secret, quote(secret), quote(secret, safe=""), json.dumps(secret)[1:-1]):
            url, body = url.replace(form, ""), body.replace(form.encode(), b"test")
    return Request(
        request.method, url, Headers([("content-type", request.headers.get("content-type", ""))]), body
    )


def held(data: bytes) -> list[str]:
    """The planted secrets in this data, in whatever form."""
    forms = {BASIC: BASIC} | {
        form: secret
        for secret in S
        for form in (secret, quote(secret), quote(secret, safe=""), json.dumps(secret)[1:-1])
    }
    lines = [json.loads(line) for line in data.decode().split("\n") if line]
    whole = json.dumps(lines) + "".join([line.get("text", "") for line in lines])
    return [secret for form, secret in forms.items() if form in whole or form.encode() in data]


@given(st.data())
@example(None)
def test_of_twenty_secrets_none_is_in_the_journal_or_the_file_which_still_replays(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("tap") / "session.jsonl"
    chunks = [ANSWER[n : n + 1] for n in range(len(ANSWER))] if data is None else data.draw(chunkings(ANSWER))
    fake = FakeAivvm()
    fake.on(path="/v1/login").reply(Reply.of(*chunks, status=201, reason=f"Hi {S[0]}", headers=SET))
    fake.on(path="/v1/form").reply(Reply.of(f"no {S[14]}", f" or {S[15]}").cut())
    with RecordingTransport(fake.transport(), path, clock=fake.clock, redaction=HOOKS) as tap:
        with tap.send(LOGIN, timeout=None) as response:
            assert [*response] == [*chunks]
            assert {name: response.headers.get(name) for name in SET} == SET
            assert held(Path(f"{path}.journal").read_bytes()) == []
        with tap.send(FORM, timeout=None) as response, suppress(Interrupted):
            for _ in response:
                assert held(Path(f"{path}.journal").read_bytes()) == []
    assert held(path.read_bytes()) == []
    recording = Recording.load(path)
    login, form = recording
    assert [len(chunk.data) for chunk in login.reply.chunks] == [len(chunk) for chunk in chunks]
    assert [len(chunk.data) for chunk in form.reply.chunks] == [len(S[14]) + 3, len(S[15]) + 4]
    assert (
        login.request.headers.get("cookie")
        == "sid=REDACTEDREDACTEDREDAC; theme=REDA; csrf=REDACTEDREDACTEDREDAC"
    )
    assert login.reply.headers.get("set-cookie") == "sid=REDACTEDREDACTEDREDAC; Path=/; HttpOnly"
    assert json.loads(login.reply.body)["a"] == [{"refreshToken": "REDACTEDREDACTEDREDAC"}]
    for request in (LOGIN, without_secrets(LOGIN)):
        with FakeAivvm.replaying(recording[:1], match_on=("method", "path", "query", "json")) as replay:
            assert [*replay.transport().send(request, timeout=None)] == [
                chunk.data for chunk in login.reply.chunks
            ]
    with pytest.raises(Interrupted), FakeAivvm.replaying(recording[1:], match_on=("path", "body")) as replay:
        list(replay.transport().send(FORM, timeout=None))


def test_an_answer_cut_in_two_anywhere_loses_the_same():
    secrets = HOOKS.redact(LOGIN)[1]
    whole = b"".join(written(HOOKS, secrets, [ANSWER], "application/json"))
    assert not [
        secret for secret in S if secret.encode() in whole or json.dumps(secret)[1:-1].encode() in whole
    ]
    for n in range(len(ANSWER) + 1):
        assert b"".join(written(HOOKS, secrets, [ANSWER[:n], ANSWER[n:]], "application/json")) == whole


def test_a_function_that_fails_costs_its_exchange_and_no_secret_and_never_the_reader(tmp_path):
    def edit(request: Request) -> Request:
        if request.url.endswith("/bad"):
            raise ZeroDivisionError("oh")
        return request

    path = tmp_path / "session.jsonl"
    fake = FakeAivvm().reply("a", forever=True)
    tap = RecordingTransport(fake.transport(), path, clock=fake.clock, redaction=Redaction(edit_request=edit))
    for place in ("good", "bad"):
        request = Request("POST", f"https://x/api/{place}", Headers([("authorization", SECRET)]))
        assert [*tap.send(request, timeout=None)]
    with pytest.raises(SetupFailure) as raised:
        tap.close()
    assert str(raised.value) == (
        f"{path} is written, but an exchange is missing, as redaction failed with ZeroDivisionError: oh"
    )
    assert [exchange.request.url for exchange in Recording.load(path)] == ["https://x/api/good"]
    tap.close()


def test_a_function_for_headers_that_fails_costs_the_headers(tmp_path):
    def edit(headers: Headers) -> Headers:
        raise ZeroDivisionError("oh")

    path = tmp_path / "session.jsonl"
    fake = FakeAivvm().reply(Reply.of("a", reason="secret", headers={"x": "y"}))
    tap = RecordingTransport(fake.transport(), path, clock=fake.clock, redaction=Redaction(edit_headers=edit))
    response = tap.send(build_request("gpt-4", [{"role": "user", "content": "hi"}]), timeout=None)
    assert response.headers.get("x") == "y"
    assert [*response] == [b"a"]
    with pytest.raises(SetupFailure, match="not all was recorded as it was: ZeroDivisionError: oh"):
        tap.close()
    assert Recording.load(path)[0].reply.head == Head(200, "", Headers())


def test_a_tap_takes_a_redaction_and_nothing_else(tmp_path):
    with pytest.raises(
        TypeError, match=r"redaction is a Redaction\(names=..., patterns=...\), but got \['ssn'\]"
    ):
        RecordingTransport(FakeAivvm().transport(), tmp_path / "a", redaction=["ssn"])
    assert not list(tmp_path.iterdir())


# What one exchange tells of another

LATE = "Zq7Pp0aLm4Xv9Rt2Yb5Nc8Ke"


def login(path: Path, *chunks: str, value: str = LATE, strict: bool = False) -> None:
    """Records an answer in which a value stands that only the next request shows to be a secret."""
    fake = FakeAivvm()
    fake.on(path="/login").reply(Reply.of(*chunks))
    fake.on(path="/me").reply("fine")
    redaction = Redaction(strict=strict)
    with RecordingTransport(fake.transport(), path, clock=fake.clock, redaction=redaction) as tap:
        headers = Headers([("Authorization", f"Bearer {value}")])
        for request in (Request("POST", "https://x/login"), Request("GET", "https://x/me", headers)):
            with tap.send(request, timeout=None) as response:
                list(response)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("before", ['{"access": "', "a\n", "ы", "\x01", "\n\n"])
def test_a_token_that_an_earlier_answer_gave_is_blanked_out_there(tmp_path, before, strict):
    path = tmp_path / "session.jsonl"
    login(path, "more: ", f"{before}{LATE}", " and more", strict=strict)
    assert LATE not in path.read_text(encoding="utf-8")
    given, asked = Recording.load(path)
    assert [chunk.data.decode() for chunk in given.reply.chunks] == [
        "more: ",
        f"{before}REDACTEDREDACTEDREDACTED",
        " and more",
    ]
    assert asked.reply.body == b"fine"


def test_a_token_that_was_split_in_an_earlier_answer_is_left_but_for_a_strict_tap(tmp_path):
    chunks = (f"{{{LATE[:9]}", f"{LATE[9:]}}}")
    login(tmp_path / "a.jsonl", *chunks)
    assert Recording.load(tmp_path / "a.jsonl")[0].reply.body == f"{{{LATE}}}".encode()
    with pytest.raises(SecretsFound, match=r"exchange 0, reply body, byte 1: what a pattern describes"):
        login(tmp_path / "b.jsonl", *chunks, strict=True)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("aivvm_recording", "aivvm_recording"),  # as a file says itself
        ("correct-horse-battery", "correct-horse-battery"),  # no digits: it may be words of somebody else
        ("0123456789012345", "0123456789012345"),  # or a number
        ("n0123456789abcdefg", "\n0123456789abcdefg"),
        ("00a0123456789abcdefg", "\x00a0123456789abcdefg"),
        ("000a0123456789abcdefg", "\x0fa0123456789abcdefg"),
        ("q0123456789abcdefg", "\\q0123456789abcdefg"),  # what only looks like an escape, too
        ("Zq7Pp0aLm4", "Zq7Pp0aLm4"),
    ],
)
def test_what_could_be_something_else_in_the_file_stays_there(tmp_path, value, text):
    path = tmp_path / "session.jsonl"
    login(path, text, value=value)
    assert Recording.load(path)[0].reply.body == text.encode()


def test_bytes_in_hexadecimal_stay_what_they_are(tmp_path):
    value = "a1b2c3d4e5f60718"
    path = tmp_path / "session.jsonl"
    fake = FakeAivvm()
    fake.on(path="/login").reply(Reply.of(b"\xff" + bytes.fromhex(value)))
    fake.on(path="/me").reply("fine")
    with RecordingTransport(fake.transport(), path, clock=fake.clock) as tap:
        for name in ("login", "me"):
            request = Request(
                "GET", f"https://x/{name}", Headers([("x-api-key", value)] if name == "me" else [])
            )
            list(tap.send(request, timeout=None))
    assert Recording.load(path)[0].reply.body == b"\xff" + bytes.fromhex(value)
