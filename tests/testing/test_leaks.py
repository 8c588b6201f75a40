"""What slipped through is found wherever it is, told without being shown, taken out, and little else is taken for it."""

from __future__ import annotations

import base64
import gzip
import json
import random
import string
import time
import tracemalloc
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aivvm.payload import build_request
from aivvm.transport import Headers, Request
from aivvm_testing import fixtures, leaks
from aivvm_testing.errors import CorruptRecording, SecretsFound
from aivvm_testing.fake import FakeAivvm
from aivvm_testing.journal import Journal, recover
from aivvm_testing.leaks import Leak, check_file, find, redact_recording, redact_text
from aivvm_testing.record.transport import RecordingTransport
from aivvm_testing.recording import Exchange, Recording
from aivvm_testing.redaction import Redaction
from aivvm_testing.reply import Chunk, Ending, Head, Reply
from aivvm_testing.strategies import chunkings, recordings

B62 = string.ascii_letters + string.digits
GET = Request("GET", "https://x/")
CHAT = build_request("gpt-4", [{"role": "user", "content": "hi"}])
UPPER = string.ascii_uppercase + string.digits
KEY = "sk-proj-Zq81xWvU7yTtAbCd"


def of(alphabet: str, size: int) -> st.SearchStrategy[str]:
    """Strings that are as random as keys are, with a digit."""

    def key(seed: int) -> str:
        return "".join(random.Random(seed).choices(alphabet, k=size - 1)) + "7"

    return st.integers(0, 2**64).map(key)


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def pem(text: str) -> str:
    lines = "\n".join(text[n : n + 64] for n in range(0, len(text), 64))
    return f"-----BEGIN RSA PRIVATE KEY-----\n{lines}\n-----END RSA PRIVATE KEY-----"


HEAD, BODY = encoded('{"alg": "HS256"}'), encoded('{"sub": "1234"}')

# What each looks like, in which text, and the secret in that.
secrets = st.one_of(
    of(B62, 48).map(lambda s: ("an API key", "%s", f"sk-{s}")),
    of(B62, 90).map(lambda s: ("an API key", "%s", f"sk-ant-api03-{s}")),
    of(B62, 24).map(lambda s: ("an API key", "%s", f"sk_live_{s}")),
    of(B62, 36).map(lambda s: ("a GitHub token", "%s", f"ghp_{s}")),
    of(B62 + "_", 82).map(lambda s: ("a GitHub token", "%s", f"github_pat_{s}")),
    of(B62 + "_-", 20).map(lambda s: ("a GitLab token", "%s", f"glpat-{s}")),
    of(UPPER, 16).map(lambda s: ("an AWS access key", "%s", f"AKIA{s}")),
    of(B62 + "_-", 35).map(lambda s: ("a Google key", "%s", f"AIza{s}")),
    of(string.digits, 12).map(lambda s: ("a Slack token", "%s", f"xoxb-{s}-AbCdEfGhIj")),
    of(B62, 34).map(lambda s: ("a service's token", "%s", f"hf_{s}")),
    of(B62, 36).map(lambda s: ("a service's token", "%s", f"npm_{s}")),
    of(B62 + "_-", 60).map(lambda s: ("a JSON web token", "%s", f"{HEAD}.{BODY}.{s}")),
    of(B62, 1600).map(lambda s: ("a private key", "%s", pem(s))),
    of(B62, 30).map(lambda s: ("a bearer token", "Bearer %s", s)),
    of(B62, 12).map(
        lambda s: ("basic authorization", "basic  %s", base64.b64encode(f"joe:{s}".encode()).decode())
    ),
    of(B62, 9).map(lambda s: ("a password in a url", "postgres://joe:%s@", s)),
    of(B62 + "+/", 86).map(lambda s: ("a random string", "%s", s)),
)
around = st.lists(
    st.sampled_from(
        [
            "Hello",
            "мир",
            "the key is ",
            " ",
            "\n",
            '"',
            "{",
            "=",
            "://",
            "sk-",
            "bearer of news",
            "-----",
            "(",
        ]
    ),
    max_size=6,
).map("".join)
PARTS = [
    "url",
    "request header x-a",
    "request body",
    "reason",
    "reply header x-a",
    "reply body",
    "error",
    "note",
]


def planted(part: str, text: str, chunks: list[bytes]) -> Recording:
    """A recording that has this text in that part of its second exchange; in the reply's body in these chunks."""
    at = {one: text if one == part else "" for one in PARTS}
    headers = Headers([("X-A", at["request header x-a"])])
    request = Request("POST", f"https://x/{at['url']}", headers, at["request body"].encode())
    reply = Reply(
        Head(200, at["reason"], Headers([("x-a", at["reply header x-a"])])),
        tuple([Chunk(chunk) for chunk in chunks]) if part == "reply body" else (),
        Ending("cut", error=at["error"]),
    )
    return Recording([Exchange(GET, Reply.of("a")), Exchange(request, reply)], note=at["note"])


@given(st.data(), st.sampled_from(PARTS), secrets, around, around)
def test_a_secret_is_found_wherever_it_is_and_taken_out(tmp_path_factory, data, part, secret, before, after):
    kind, form, value = secret
    begin = "https://x/" if part == "url" else ""
    text = f"{before} {form % value} {after}"
    if part not in ("request body", "reply body"):
        text, value = " ".join(text.split("\n")), " ".join(value.split("\n"))
    if part in ("reason", "reply header x-a"):
        text = text.replace("мир", "mir")  # a head is latin-1
    recording = planted(part, text, data.draw(chunkings(text.encode())))
    found = find(recording)
    assert [(leak.exchange, leak.part) for leak in found] == [(None if part == "note" else 1, part)]
    if found[0].kind != "what goes under a secret name":  # as a user and password do in the url of a header
        assert found[0].kind == kind
        assert found[0].position == len((begin + text[: text.index(value)]).encode())
    assert not [n for n in range(len(value) - 4) if value[n : n + 5] in str(found)]
    path = tmp_path_factory.mktemp("leaks") / "session.jsonl"
    recording.save(path)
    assert check_file(path) == found
    without = redact_recording(recording)
    assert find(without) == []
    was, now = recording[1].reply.chunks, without[1].reply.chunks
    assert [len(chunk.data) for chunk in was] == [len(chunk.data) for chunk in now]


@pytest.mark.parametrize("name", fixtures.names())
def test_no_shipped_recording_raises_an_alarm(name):
    assert find(fixtures.load(name)) == []
    assert check_file(fixtures.path(name)) == []


@pytest.mark.parametrize(
    "text",
    [
        "chat.completion.chunk 8f14e45fceea167a5a36dedd4bea2543da39a3ee5e6b4b0d3255bfef95601890afd80709",
        '{"id": "chatcmpl-9x7YBiB8oQrT5sWuV2kLmN0pZ1aXy", "request_id":"req_011CSHoEeqs5C35K2UUqR7Fy8Ab9cD"}',
        "id: 3c7bf0c4-4d5d-4e0b-9d5c-3f2a7d7c1B2A-3c7bf0c4",
        'ETag: W/"aZ09bY18cX27dW36eV45fU54gT63hS72iR81"',
        '<script integrity="sha384-oqVuAfXRKap7fdgcCY5uykM6+R9GqQ8K/uxy9rx7HNQlGYl1kPzQho1wx4JwY8wC">',
        "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk",
        "aZ09bY18cX27dW36eV45fU54gT63hS72iR81aZ09\nbY18cX27dW36eV45fU54gT63hS72iR81aZ09\nbY18cX27dW36",
        "AbstractSingletonProxyFactoryBeanDefinitionParser2023HTTPRequestHandlerAdapter",
        "https://example.com/Users/JohnDoe/Projects/App2/src/main/java/Com/Example/V2/UserServiceImpl",
        "sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx and sk-your-openai-api-key-goes-here",
        "AKIAIOSFODNN7EXAMPLE, ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx, AIza...",
        "a basic understanding, Basic abcdefgh===, Basic c2VjcmV0cw==, bearer authentication-mechanisms-are-many",
        "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----",
        "-----BEGIN PUBLIC KEY-----\n" + "MIIBIjANBgkqhkiG9w0B\n" * 20 + "-----END PUBLIC KEY-----",
        "postgres://user:password@localhost, https://u:${PASSWORD}@x, http://a:b",
        "eyJ is how a token begins: eyJabcdefghij.eyJzdWIiOi.x eyJhbGciOi.eyJzdWIiOi.x and eyJub3RhbGc6MTIzNDU2.eyJub3RhbGc.eyJub3",
        "task-Zq81xWvU7yTtAbCdEfGh is no key",
        "REDACTEDREDACTEDREDACTEDREDACTEDREDACTED Bearer REDACTEDREDACTEDREDACTED",
        "Zq81" * 40,
        "".join(random.Random(7).choices(B62, k=40_000)),
        "".join(random.Random(7).choices(B62, k=600)),
    ],
)
def test_what_only_looks_like_a_secret_is_none(text):
    for part in ("request body", "reply body"):
        assert find(planted(part, text, [text.encode()])) == []


def test_the_words_of_a_manual_are_no_secrets():
    root = Path(__file__).parents[2]
    for page in (
        *root.glob("*.md"),
        *root.glob("docs/*.md"),
        *root.glob("aivvm/*.py"),
        *root.glob("fixtures/*.py"),
    ):
        assert find(Recording([Exchange(GET, Reply.of(page.read_bytes()))])) == [], page


@pytest.mark.parametrize(("size", "share"), [(32, 0.96), (40, 0.98), (64, 0.99)])
def test_of_random_strings_nearly_all_are_found(size, share):
    chance = random.Random(1)
    chunks = [f"{''.join(chance.choices(B62, k=size))}, ".encode() for _ in range(2000)]
    assert len(find(Recording([Exchange(GET, Reply.of(*chunks))]))) >= share * 2000


@pytest.mark.parametrize("prefix", ["\\n", "\\u003d", "%3D", "key=", '"', "_", ">"])
def test_what_an_escape_precedes_is_found(prefix):
    for value in (KEY, "AKIAZ234567ABCDEFGH9"):
        body = f"a{prefix}{value}".encode()
        assert [leak.position for leak in find(Recording([Exchange(GET, Reply.of(body))]))] == [
            1 + len(prefix)
        ]


# By name


@pytest.mark.parametrize(
    ("request_", "places"),
    [
        (Request("GET", "https://u:pass@x/?a=b&key=abc"), [("url", 8), ("url", 26)]),
        (Request("GET", "https://REDACTE@x/?a=b&key=RED"), []),
        (Request("GET", "https://x/", Headers([("Authorization", "Bearer abc"), ("x-Token", "y")])),
         [("request header authorization", 7), ("request header x-token", 0)]),
        (Request("GET", "https://x/", Headers([("Authorization", "Bearer RED"), ("cookie", "a=REDA; b=c")])),
         [("request header cookie", 10)]),
        (Request("POST", "https://x/", body=b'{"a": [{"api_key": "abc"}, {"token": "REDA"}], "secret": ""}'),
         [("request body", 20)]),
        (Request("POST", "https://x/", Headers([("content-type", "a/x-www-form-urlencoded")]), b"a=b&token=abc"),
         [("request body", 10)]),
        (Request("POST", "https://x/", Headers([("content-type", "a/x-www-form-urlencoded")]), b"a=b&token=RED"), []),
        (Request("POST", "https://x/", body=b'{"key": "home.title", "Key": "PROJ-123"}'), []),
        (Request("POST", "https://x/", body=b'{"key": "a8Zq1", "password": "home"}'),
         [("request body", 9), ("request body", 30)]),
        (Request("POST", "https://x/", body=b'{"secret": ["abc", "RED"], "auth": {"user": "joe"}, "token": {"text": "hi"}}'),
         [("request body", 13), ("request body", 45)]),
        (Request("POST", "https://x/", body=b'{"pin": 1234, "password": 111, "token": 7}'), [("request body", 8)]),
        (Request("POST", "https://x/", body=b'{"a": "{\\"password\\": \\"abc\\", \\"secret\\": \\"RED\\"}"}'),
         [("request body", 24)]),
    ],
)  # fmt: skip
def test_what_goes_under_a_secret_name_is_found_unless_it_is_a_placeholder(request_, places):
    found = find(Recording([Exchange(request_, Reply.of("a"))]))
    assert [(leak.part, leak.position) for leak in found] == places
    assert {leak.kind for leak in found} <= {"what goes under a secret name"}


@given(
    st.data(), st.sampled_from(["abcdefgh", "a", 'x\\"y\\\\', "REDACTEDx", "REDACTED", "REDA", "", "ы" * 200])
)
def test_a_secret_member_of_an_answer_is_found_however_it_is_split(data, value):
    body = b'[{"a": "b", "access_token": "%b"}, 1]' % value.encode()
    reply = Reply.of(*data.draw(chunkings(body)))
    found = find(Recording([Exchange(GET, reply)]))
    expected = [] if value in ("REDACTED", "REDA", "") else [(29, f"({len(value.encode())} bytes)")]
    assert [(leak.position, leak.glimpse.partition(" ")[2]) for leak in found] == expected


def test_a_policy_says_what_else_is_secret_and_what_is_not():
    reply = Reply.of('{"token": "abc", "ssn": "078", "a": "cust-123"}')
    recording = Recording([Exchange(GET, reply)])
    redaction = Redaction(names=["ssn"], keep=["token"], patterns=[r"cust-(\d+)"])
    assert [(leak.position, leak.kind) for leak in find(recording, redaction)] == [
        (25, "what goes under a secret name"),
        (42, "what a pattern describes"),
    ]
    assert [(leak.position, leak.kind) for leak in find(recording)] == [(11, "what goes under a secret name")]
    assert find(redact_recording(recording, redaction), redaction) == []


def test_a_leak_says_where_and_shows_little():
    request = Request("GET", f"https://x/{KEY}", Headers([("\x1bx", KEY), ("authorization", "abcd")]))
    recording = Recording([Exchange(request, Reply.of("a"))], note=KEY)
    assert [str(leak) for leak in find(recording)] == [
        "note, byte 0: an API key, sk-p… (24 bytes)",
        "exchange 0, url, byte 10: an API key, sk-p… (24 bytes)",
        "exchange 0, request header \\x1bx, byte 0: an API key, sk-p… (24 bytes)",
        "exchange 0, request header authorization, byte 0: what goes under a secret name, a… (4 bytes)",
    ]


def test_a_place_is_told_once():
    body = f"Authorization: Bearer {KEY}".encode()
    assert [leak.kind for leak in find(Recording([Exchange(GET, Reply.of(body))]))] == ["an API key"]


# Coded bodies


@pytest.mark.parametrize(
    ("coding", "encode"), [("gzip", gzip.compress), ("x-gzip", gzip.compress), ("deflate", zlib.compress)]
)
def test_a_body_in_its_content_coding_is_looked_into(tmp_path, coding, encode):
    data = encode(b'{"token": "abc", "a": "' + KEY.encode() + b'"}')
    headers = Headers([("content-encoding", coding), ("content-type", "application/json")])
    exchange = Exchange(GET._replace(headers=headers, body=data), Reply.of(data, headers=headers).rechunk(1))
    found = find(Recording([exchange]))
    assert [(leak.part, leak.position) for leak in found] == [
        ("request body", 11), ("request body", 23), ("reply body", 11), ("reply body", 23),
    ]  # fmt: skip
    Recording([exchange]).save(tmp_path / "a.jsonl")
    assert check_file(tmp_path / "a.jsonl") == found


def test_a_body_that_is_not_what_its_coding_says_is_no_trouble_nor_a_small_one_that_is_huge(monkeypatch):
    monkeypatch.setattr(leaks, "MOST_DECODED", 100_000)
    headers = Headers([("content-encoding", "gzip")])
    for data in (b"nonsense", b"", gzip.compress(b"x" * 10_000_000)):
        assert find(Recording([Exchange(GET, Reply.of(data, headers=headers))])) == []


SEALED = "an encoded body that cannot be looked into"


@pytest.mark.parametrize(
    ("coding", "data"),
    [
        ("br", b"\x0b\x02\x80hello\x03"),
        ("zstd", b"(\xb5/\xfd"),
        ("gzip, br", b"x"),
        ("gzip,gzip", b"x"),
        ("compress", b"x"),
    ],
)
def test_a_body_that_cannot_be_looked_into_is_told_and_stays(tmp_path, coding, data):
    headers = Headers([("Content-Encoding", coding)])
    exchange = Exchange(GET._replace(headers=headers, body=data), Reply.of(data, headers=headers).rechunk(1))
    found = find(Recording([exchange]))
    size = f"… ({len(data)} bytes)"
    assert found == [Leak(0, "request body", 0, SEALED, size), Leak(0, "reply body", 0, SEALED, size)]
    path = tmp_path / "a.jsonl"
    Recording([exchange]).save(path)
    assert check_file(path) == found
    assert [leak.line for leak in check_file(path)] == [2, 4]
    assert redact_recording(Recording([exchange])) == Recording([exchange])
    assert find(Recording([Exchange(GET._replace(headers=headers), Reply.of(headers=headers))])) == []


def test_a_strict_tap_does_not_finish_what_it_cannot_look_into(tmp_path):
    fake = FakeAivvm().reply(Reply.of("fine"))
    tap = RecordingTransport(
        fake.transport(), tmp_path / "a.jsonl", clock=fake.clock, redaction=Redaction(strict=True)
    )
    request = CHAT._replace(headers=Headers([("content-encoding", "br")]))
    assert [*tap.send(request, timeout=None)] == [b"fine"]
    with pytest.raises(
        SecretsFound, match="request body, byte 0: an encoded body that cannot be looked into"
    ):
        tap.close()


@pytest.mark.parametrize("coding", ["gzip", "deflate", "utf-8", "identity", " , "])
@pytest.mark.parametrize("size", [1, 1000])
def test_what_is_not_coded_as_it_says_is_looked_at_as_it_stands(coding, size):
    headers = Headers([("content-encoding", coding)])
    reply = Reply.of(f"the key is {KEY}", headers=headers).rechunk(size)
    assert [(leak.position, leak.kind) for leak in find(Recording([Exchange(GET, reply)]))] == [
        (11, "an API key")
    ]


def test_every_way_of_deflate_and_every_member_of_gzip_is_looked_into_and_damage_is_told():
    data = f"the key is {KEY}".encode()
    bare = zlib.compressobj(wbits=-15)
    bodies = [
        ("deflate", bare.compress(data) + bare.flush(), [(11, "an API key")]),
        ("gzip", gzip.compress(b"x" * 7) + gzip.compress(data), [(18, "an API key")]),
        ("gzip", gzip.compress(data)[:-9], [(11, "an API key")]),
        ("gzip", gzip.compress(data)[:-8] + b"damage!!", [(11, "an API key"), (0, SEALED)]),
        ("deflate", zlib.compress(data)[:-4] + b"oh..", [(11, "an API key"), (0, SEALED)]),
    ]
    for coding, body, expected in bodies:
        for size in (1, 5000):
            reply = Reply.of(body, headers=Headers([("content-encoding", coding)])).rechunk(size)
            found = find(Recording([Exchange(GET, reply)]))
            got = [(leak.position, leak.kind) for leak in found]
            assert got == expected or (size > 1 and got == expected[1:]), (coding, size)


@pytest.mark.parametrize(
    "piece",
    [
        b"-eyJ",
        b"-eyJhbGciOiJIUzI1NiJ9.",
        b"eyJhbGciOiJIUzI1NiJ9.x",
        b"-----BEGIN PRIVATE KEY-----",
        b"-----BEGIN PRIVATE KEY-----\nabc\n",
        b"-----BEGIN A ",
        b"://a",
        b"://a:b",
        b"bearer ",
        b"-sk-abcdefghij12345678,",
        b"basic basic\t",
        b"-SG.aaaaaaaaaaaaaaaaaaaaaaaaa",
        b"\\n",
        b"-----BEGIN PRIVATE KEY-----" + b"\\" * 99,
    ],
)
def test_hostile_text_is_searched_in_linear_time(piece):
    size = 500_000  # of which some would take minutes, if each beginning were followed to the end
    text = piece * (size // len(piece))
    begun = time.thread_time()
    find(Recording([Exchange(GET._replace(body=text), Reply.of(text))]))
    assert time.thread_time() - begun < 20


# Files


def test_a_journal_is_looked_through_while_it_is_written(tmp_path):
    journal = Journal(tmp_path / "a.jsonl", note="n")
    one, other = journal.begin(GET, 0.0), journal.begin(GET, 0.0)
    for n in (one, other):
        journal.head(n, Head())
    for part in ("a ", KEY[:7], KEY[7:]):
        for n in (one, other):
            journal.chunk(n, part.encode(), 0.0)
    journal.end(other, Ending("complete"))
    found = [Leak(n, "reply body", 2, "an API key", "sk-p… (24 bytes)") for n in (other - 1, one - 1)]
    assert check_file(tmp_path / "a.jsonl.journal") == found
    journal.end(one, Ending("complete"))
    journal.finish()
    assert check_file(tmp_path / "a.jsonl") == found[::-1]


@given(st.data(), st.booleans())
def test_a_leak_is_in_the_line_in_which_it_begins(tmp_path_factory, data, by_name):
    text = f'{{"password": "{"x7" * 100}", "a": 1}}' if by_name else f"the key is {KEY}, and so on"
    begins = text.index("x7") if by_name else text.index(KEY)
    before = data.draw(st.sampled_from([b"a", b"The quick brown fox. " * 4]))
    many = data.draw(st.sampled_from([0, 1, 1200]))
    chunks = [*[before] * many, *data.draw(chunkings(text.encode())), *[b"."] * data.draw(st.integers(0, 3))]
    headers = Headers([("content-type", "application/json")])
    path = tmp_path_factory.mktemp("leaks") / "session.jsonl"
    Recording([Exchange(GET, Reply.of("a")), Exchange(GET, Reply.of(*chunks, headers=headers))]).save(path)
    came, line = 0, 1 + 4 + 2
    for chunk in chunks:
        line += 1
        came += len(chunk)
        if came > len(before) * many + begins:
            break
    assert [leak.line for leak in check_file(path)] == [line]


def test_leaks_of_a_long_answer_are_in_their_lines(tmp_path):
    password = '"password": "' + "x7" * 60_000 + '"'
    body = "".join([f"{KEY}, {'fox ' * (1750 + n)}" for n in range(20)]) + f"{{{password}}}"
    chunks = [body[n : n + 16].encode() for n in range(0, len(body), 16)]
    path = tmp_path / "a.jsonl"
    headers = Headers([("content-type", "application/json")])
    Recording([Exchange(GET, Reply.of(*chunks, headers=headers))]).save(path)
    found = check_file(path)
    assert len(found) == 21
    assert [leak.line for leak in found] == [4 + leak.position // 16 for leak in found]


def test_every_part_of_an_exchange_has_its_line(tmp_path):
    url = "https://u:pass7word@x/"
    request = Request("POST", url, Headers([("a", url)]), KEY.encode())
    reply = Reply(
        Head(200, url, Headers([("b", url)])),
        (Chunk(b"a"), Chunk(url.encode())),
        Ending("cut", 0.0, url.encode(), url),
    )
    path = tmp_path / "a.jsonl"
    Recording([Exchange(request, reply)], note=url).save(path)
    assert [leak.line for leak in check_file(path)] == [1, 2, 2, 2, 3, 3, 5, 6, 6]
    assert {leak.line for leak in find(Recording.load(path))} == {0}
    with path.open("a") as file:
        file.write(KEY)
    assert check_file(path)[-1].line == 7


def test_a_line_that_is_shown_is_as_long_without_its_secrets():
    line = f"GET https://u:pass@x/?token=abc -> {KEY}"
    assert redact_text(line) == "GET https://REDACT@x/?token=RED -> REDACTEDREDACTEDREDACTED"
    assert redact_text("GET https://x/ -> 200") == "GET https://x/ -> 200"


@pytest.mark.parametrize(
    "line",
    [
        f"key: {KEY}",
        f'{{"request": {{"method": "GET", "url": "{KEY}"',
        f'{{"text": "{KEY}"}}',
        f'["{KEY}"]',
        f'{{"x": [], "request": "{KEY}"}}',
        f'{{"request": {{"method": "GET", "url": 3, "headers": [["a", "{KEY}"]]}}}}',
        f'{{"end": "cut", "error": ["{KEY}"]}}',
        f'{{"x": 7, "text": "{KEY}"}}',
        f'{{"aivvm_recording": 1, "note": ["{KEY}"]}}',
        "[" * 100_000 + KEY,
        f'{{"hex": "zz", "a": "{KEY}"}}',
    ],
)
def test_a_line_that_is_none_of_a_recording_is_searched_as_it_is(tmp_path, line):
    path = tmp_path / "a.txt"
    path.write_text(f'{{"aivvm_recording": 1}}\n{line}\nmore', encoding="utf-8")
    assert [(leak.exchange, leak.part, leak.position) for leak in check_file(path)] == [
        (None, "line 2", line.index(KEY))
    ]


def test_a_wrong_line_within_an_exchange_is_searched_and_the_rest_as_ever(tmp_path):
    lines = [
        '{"aivvm_recording": 1}',
        '{"request": {"method": "GET", "url": "https://x/"}}',
        '{"reply": {"status": 200, "reason": "OK"}}',
        f'{{"text": "{KEY[:9]}"}}',
        f'{{"end": "cut", "error": ["{KEY}"]}}',
        f'{{"text": "{KEY[9:]}"}}',
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    found = check_file(tmp_path / "a.jsonl")
    assert [(leak.exchange, leak.part, leak.position) for leak in found] == [
        (None, "line 5", 26),
        (0, "reply body", 0),
    ]


def test_a_line_longer_than_any_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(leaks, "MAX_LINE", 100)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"aivvm_recording": 1}\n' + b"x" * 101)
    with pytest.raises(CorruptRecording, match=r"a.jsonl:2: a line of more than 100 bytes"):
        check_file(path)
    with pytest.raises(FileNotFoundError):
        check_file(tmp_path / "b.jsonl")


def test_a_long_file_takes_no_more_memory_than_a_short_one(tmp_path):
    journal = Journal(tmp_path / "a.jsonl")
    n = journal.begin(GET, 0.0)
    journal.head(n, Head())
    for _ in range(1000):
        journal.chunk(n, b"The quick brown fox. " * 195, 0.0)
    journal.chunk(n, KEY.encode(), 0.0)
    journal.end(n, Ending("complete"))
    journal.finish()
    tracemalloc.start()
    try:
        found = check_file(tmp_path / "a.jsonl")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [leak.position for leak in found] == [1000 * 195 * 21]
    assert peak < 1024 * 1024


# Taking out


@given(recordings(), st.sampled_from([Redaction(), Redaction(patterns=[r"[a-c]+"], names=["a"])]))
def test_a_recording_without_its_secrets_has_none_and_stays_what_it_was(recording, redaction):
    once = redact_recording(recording, redaction)
    assert find(once, redaction) == []
    assert redact_recording(once, redaction) == once
    for was, now in zip(recording, once, strict=True):
        assert [(len(chunk.data), chunk.at) for chunk in was.reply.chunks] == [
            (len(chunk.data), chunk.at) for chunk in now.reply.chunks
        ]
        assert (was.started, was.reply.status, was.reply.ending.kind) == (
            now.started,
            now.reply.status,
            now.reply.ending.kind,
        )


def test_what_is_found_once_is_taken_out_everywhere():
    key = "sk-Zq81xWvU7y/TtAbCdEfGhIj0123456789abcdefghijKLMN"[:40]
    token = "hf_" + "aZ09bY18cX27dW36eV45fU54gT63hS72iR"
    exchanges = [
        Exchange(Request("GET", f"https://x/{token}"), Reply.of(f"{token[:9]}", f"{token[9:]} {key}")),
        Exchange(
            Request("GET", "https://x/", Headers([("a", f"{token[:-1]}!")])),
            Reply(
                Head(200, token, Headers([("b", token)])),
                (),
                Ending("cut", 0.0, token.encode(), f"no {token}"),
            ),
        ),
        Exchange(GET, Reply.of("at mysql://joe:pw@db/")),
        Exchange(GET, Reply.no_answer("refused")),
    ]
    recording = Recording(
        exchanges,
        note=f"with {token}",
        origin="converted",
        expected={"a": token},
        recorded_at="2026-11-23T00:00:00Z",
    )
    without = redact_recording(recording)
    assert token not in repr(list(without)) + without.note + json.dumps(without.expected)
    assert without[2].reply.body == b"at mysql://joe:RE@db/"
    assert (without.origin, without.recorded_at) == (recording.origin, recording.recorded_at)
    assert find(without) == []


# Strictly


def test_a_strict_tap_does_not_finish_a_recording_with_secrets_in_it(tmp_path):
    path = tmp_path / "session.jsonl"
    path.write_text("as it was", encoding="utf-8")
    fake = FakeAivvm().reply(Reply.of("the key is sk-proj", "-Zq81xWvU7yTtAbCd."))
    tap = RecordingTransport(fake.transport(), path, clock=fake.clock, redaction=Redaction(strict=True))
    assert b"".join(tap.send(CHAT, timeout=None)).endswith(b"AbCd.")
    for _ in range(2):
        with pytest.raises(SecretsFound) as raised:
            tap.close()
    assert raised.value.path == str(path)
    assert raised.value.leaks == [Leak(0, "reply body", 11, "an API key", "sk-p… (24 bytes)")]
    assert str(raised.value) == (
        f"{path} is not written, as there would be secrets in it:\n"
        "  exchange 0, reply body, byte 11: an API key, sk-p… (24 bytes)\n"
        f"What was recorded is in {path}.journal, secrets and all: keep it to yourself, or delete it.\n"
        "To fix it: 1. name what they go under, Redaction(names=[...]), or describe them, Redaction(patterns=[...]);\n"
        "           2. aivvm-testing recover, then aivvm-testing redact, makes a recording without them;\n"
        "           3. say strict=False where these are no secrets."
    )
    assert path.read_text(encoding="utf-8") == "as it was"
    other = tmp_path / "other.jsonl"
    assert recover(path, out=other) == 1
    redacted = redact_recording(Recording.load(other))
    assert redacted[0].reply.body == b"the key is REDACTEDREDACTEDREDACTED."
    assert find(redacted) == []


def test_a_strict_tap_finishes_a_recording_without_any(tmp_path):
    path = tmp_path / "session.jsonl"
    fake = FakeAivvm().reply("fine")
    redaction = Redaction(strict=True)
    request = CHAT._replace(headers=Headers([("authorization", f"Bearer {KEY}")]))
    with RecordingTransport(fake.transport(), path, clock=fake.clock, redaction=redaction) as tap:
        assert [*tap.send(request, timeout=None)] == [b"fine"]
    assert Recording.load(path)[0].reply.body == b"fine"
    tap.close()


def test_a_long_list_of_leaks_is_cut_short(tmp_path):
    found = [Leak(n, "url", 0, "an API key", "sk-p… (24 bytes)") for n in range(12)]
    lines = str(SecretsFound("a.jsonl", found)).split("\n")
    assert lines[10:12] == ["  exchange 9, url, byte 0: an API key, sk-p… (24 bytes)", "  ... and 2 more"]
