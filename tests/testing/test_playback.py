import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aivvm.payload import build_request
from aivvm.transport import Headers, Request
from aivvm_testing import FakeAivvm, Recording, Reply
from aivvm_testing.errors import CorruptRecording, UnmatchedRequest, UnplayedReplies
from aivvm_testing.format import outline, outline_of, request_line, request_of
from aivvm_testing.matching import Matcher
from aivvm_testing.playback import Playback
from aivvm_testing.recording import LAZY_FROM, Exchange
from aivvm_testing.redaction import Redaction

URL = "http://any.invalid/api/chat"


def post(body, url=URL, headers=()):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Request("POST", url, Headers(headers), data)


def recording(*requests, origin="recorded"):
    return Recording(
        [Exchange(one, Reply.of(f"{n}"), float(n)) for n, one in enumerate(requests)], origin=origin
    )


def texts(playback, *requests):
    replies = [playback.next(request) for request in requests]
    return [None if reply is None else reply.body.decode() for reply in replies]


BODIES = st.one_of(
    st.binary(max_size=12),
    st.text(max_size=12).map(str.encode),
    st.dictionaries(st.text(max_size=3), st.one_of(st.integers(), st.text(max_size=5)), max_size=3).map(
        lambda value: json.dumps(value).encode()
    ),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=3).map(
        lambda value: json.dumps(value, separators=(",", ":")).encode()
    ),
)
TOKENS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=8)
FIELDS = st.lists(st.tuples(TOKENS, st.text(st.characters(max_codepoint=255), max_size=12)), max_size=4).map(
    Headers
)


@given(method=TOKENS, path=TOKENS, headers=FIELDS, body=BODIES, started=st.floats(0, 1e6))
def test_an_outline_is_found_in_any_line_that_is_written_here(method, path, headers, body, started):
    request = Request(method, f"http://any.invalid/{path}", headers, body)
    line = request_line(request, started)
    found = outline_of(b"before" + line + line, len(b"before")) or outline(request)
    assert found == outline(request)
    if "\\" not in method + path and '"' not in method + path:
        assert outline_of(line) == found
        assert request_of(found) == request._replace(headers=Headers())


@pytest.mark.parametrize("value", ['"]], "json": {"a": 1}', "]]", '"', "\\", '"]]', '}, "started": 0.0}'])
def test_no_header_is_taken_for_a_body(value):
    request = post({"b": 2}, headers=[("x", value), ("y", "1")])
    found = outline_of(request_line(request, 0.0))
    assert found is not None
    if found == outline(request):
        assert request_of(found).body == request.body
    else:  # only what can equal no other request's
        assert b"]" in found[2]


SAME_MEANING = [b'{"a": 1, "b": 2}', b'{"b": 2, "a": 1}', b'{"a":1,"b":2}', b'{"a": 1.0, "b": 2}']
OTHERS = [b'{"a": 2}', b"no json", b""]


@given(
    recorded=st.lists(st.sampled_from(SAME_MEANING + OTHERS), max_size=8),
    asked=st.lists(st.sampled_from(SAME_MEANING + OTHERS), max_size=10),
)
def test_the_same_bytes_come_first_and_then_the_same_meaning_each_in_recorded_order(recorded, asked):
    playback = Playback(recording(*map(post, recorded)), "it", Matcher())
    left = dict(enumerate(recorded))

    def oracle(body):
        for fits in (lambda one: one == body, lambda one: one in SAME_MEANING and body in SAME_MEANING):
            for n, one in left.items():
                if fits(one):
                    del left[n]
                    return str(n)
        return None

    assert texts(playback, *map(post, asked)) == [oracle(body) for body in asked]
    assert sum(count for count, _ in playback.left()) == len(left)


class Watched(Recording):
    """Which exchanges are asked for."""

    def __getitem__(self, index):
        seen.append(index)
        return super().__getitem__(index)


seen: list[object] = []


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    path = tmp_path_factory.mktemp("long") / "session.jsonl"
    reply = Reply.of(*["chunk of an answer"] * 20)
    requests = [build_request("gpt-4", [{"role": "user", "content": f"{n}"}]) for n in range(1000)]
    Recording([Exchange(one, reply, float(n)) for n, one in enumerate(requests)], origin="recorded").save(
        path
    )
    assert path.stat().st_size > LAZY_FROM
    return path, requests


@pytest.mark.parametrize("n", [0, 1, 500, 999])
def test_the_last_answer_is_found_as_the_first_by_reading_that_exchange_alone(long, n):
    path, requests = long
    playback = Playback(Watched.load(path), "it", Matcher())
    del seen[:]
    assert playback.next(requests[n]) is not None
    assert set(seen) == {n}


def test_a_long_recording_is_matched_by_meaning_as_well(long):
    path, requests = long
    playback = Playback(Recording.load(path), "it", Matcher())
    body = json.dumps(json.loads(requests[700].body), sort_keys=True, indent=1).encode()
    assert playback.next(requests[700]._replace(body=body)) is not None
    assert playback.next(requests[700]) is None
    assert playback.next(requests[701]) is not None


def test_what_is_damaged_in_a_long_recording_is_told_when_it_is_compared(long, tmp_path):
    path, requests = long
    damaged = tmp_path / "damaged.jsonl"
    damaged.write_bytes(
        path.read_bytes().replace(
            b'"temperature": 0.7}}, "started": 500.0', b'"temperature": 0,7}}, "started": 500.0'
        )
    )
    playback = Playback(Recording.load(damaged), "it", Matcher())
    assert playback.next(requests[499]) is not None
    with pytest.raises(CorruptRecording, match=r"damaged\.jsonl:"):
        playback.next(requests[0]._replace(body=b"{}"))


def test_one_too_many_is_an_error_and_never_a_repeat():
    fake = FakeAivvm.replaying(recording(post({"a": 1}), post({"a": 1})))
    assert fake.answer(post({"a": 1})).reply.body == b"0"
    assert fake.answer(post({"a": 1})).reply.body == b"1"
    with pytest.raises(
        UnmatchedRequest,
        match=r"Recorded as exchanges 0, 1, and played already: .*\(allow_playback_repeats=True ",
    ):
        fake.answer(post({"a": 1}))


def test_with_repeats_the_last_one_that_matches_answers_for_ever():
    fake = FakeAivvm.replaying(
        recording(post({"a": 1}), post({"a": 2}), post({"a": 1})), allow_playback_repeats=True
    )
    asked = [fake.answer(post({"a": 1})).reply.body for _ in range(5)]
    assert asked == [b"0", b"2", b"2", b"2", b"2"]
    with pytest.raises(UnmatchedRequest):
        fake.answer(post({"a": 3}))


def test_a_callable_decides_among_those_whose_names_match():
    def same_tag(recorded, incoming):
        return recorded.headers.get("x-tag") == incoming.headers.get("x-tag")

    one, other = post({}, headers=[("x-tag", "1")]), post({}, headers=[("x-tag", "2")])
    playback = Playback(recording(one, other), "it", Matcher(("method", same_tag)))
    assert texts(playback, other, one, one) == ["1", "0", None]


def test_headers_can_be_compared():
    one, other = post({}, headers=[("x-tag", "1")]), post({}, headers=[("X-Tag", "2")])
    playback = Playback(recording(one, other), "it", Matcher(("headers",)))
    assert texts(playback, post({}, headers=[("x-tag", "2")]), other, one) == ["1", None, "0"]


def test_a_recording_by_hand_may_hold_what_a_tap_would_have_taken_out():
    asked = post({"key": "sk-1234567890", "said": "sk-1234567890"})
    playback = Playback(recording(asked, origin="written"), "it", Matcher())
    assert texts(playback, asked) == ["0"]


def test_fields_and_names_are_left_out_as_told():
    fake = FakeAivvm.replaying(
        recording(post({"a": 1, "tenant": "north", "id": 1})),
        ignore_json=["id"],
        redaction=Redaction(names=["tenant"]),
    )
    assert fake.answer(post({"a": 1, "tenant": "southwest", "id": 7})).reply.body == b"0"


def test_a_miss_names_file_counts_and_criteria_and_what_to_do():
    fake = FakeAivvm.replaying(recording(post({"a": 1}), post({"a": 2})), ignore_json=["b"])
    fake.answer(post({"a": 1}))
    with pytest.raises(UnmatchedRequest) as caught:
        fake.answer(post({"a": 3}))
    assert str(caught.value).splitlines() == [
        f'no reply for POST {URL} {{"a": 3}}',
        "Replaying the recording: 1 of 2 exchanges played, matched on method, path, json (less b).",
        "Nearest: exchange 1 (75% alike), which differs in json:",
        "  --- recorded",
        "  +++ asked",
        "  @@ -2,3 +2,3 @@",
        "   {",
        '  - "a": 2',
        '  + "a": 3',
        "   }",
        "or exchange 0 (75% alike, played already), which differs in json",
        "ignore_json has 'b', which is in none of these bodies.",
        "To fix it: 1. make the request equal to the recorded one, if the code under test is wrong;",
        "           2. record the session again, if the request has changed for good;",
        "           3. compare less: FakeAivvm.replaying(..., match_on=..., ignore_json=...).",
    ]


def test_the_nearest_of_many_is_found_wherever_it_stands(long):
    path, requests = long
    fake = FakeAivvm.replaying(path)
    body = requests[873].body.replace(b"0.7", b"0.8")
    with pytest.raises(UnmatchedRequest, match="Nearest: exchange 873 "):
        fake.answer(requests[873]._replace(body=body))


def test_what_was_not_played_of_a_long_recording_is_counted_and_shown_in_part(long):
    path, requests = long
    fake = FakeAivvm.replaying(path)
    fake.answer(requests[0])
    with pytest.raises(UnplayedReplies) as caught:
        fake.assert_all_played()
    assert str(caught.value).startswith("999 not played (1 request came):")
    assert f"... and 979 more of {path}" in str(caught.value)
