import json

import pytest

from aivvm.payload import build_request
from aivvm.transport import Headers, Request
from aivvm_testing.matching import MOST_COMPARED, Matcher, describe
from aivvm_testing.redaction import Redaction

CHAT = build_request("gpt-4", [{"role": "user", "content": "Hello"}])


def post(body, url="http://any.invalid/api/chat", headers=()):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Request("POST", url, Headers(headers), data)


def same(one, other, **options):
    matcher = Matcher(**options)
    return matcher.key(matcher.redacted(one)) == matcher.key(matcher.redacted(other))


@pytest.mark.parametrize(
    ("criterion", "url", "differs"),
    [
        ("scheme", "https://any.invalid/api/chat", True),
        ("scheme", "http://other.invalid/api/chat", False),
        ("host", "http://other.invalid/api/chat", True),
        ("host", "http://ANY.invalid:80/api/chat", False),
        ("port", "http://any.invalid:81/api/chat", True),
        ("port", "http://any.invalid:80/api/chat", False),
        ("port", "https://any.invalid/api/chat", True),
        ("path", "http://any.invalid/api/chats", True),
        ("path", "http://other.invalid/api/chat?a=1", False),
        ("query", "http://any.invalid/api/chat?a=1", True),
        ("query", "http://any.invalid/other", False),
    ],
)
def test_each_part_of_a_url_is_a_criterion_of_its_own(criterion, url, differs):
    assert same(post({}), post({}, url), match_on=(criterion,)) is not differs


def test_the_order_of_a_query_does_not_count_but_its_repetitions_do():
    def asked(query):
        return post({}, f"http://any.invalid/?{query}")

    assert same(asked("a=1&b=2"), asked("b=2&a=1"), match_on=("query",))
    assert not same(asked("a=1"), asked("a=1&a=1"), match_on=("query",))


def test_json_is_compared_by_meaning_and_a_body_by_its_bytes():
    one, other = post(b'{"a": 1, "b": "\\u00e9"}'), post('{"b":"é","a":1.0}'.encode())
    assert same(one, other, match_on=("json",))
    assert not same(one, other, match_on=("body",))
    assert same(post(b"no json"), post(b"no json"), match_on=("json",))


def test_the_case_of_header_names_does_not_count():
    one, other = post({}, headers=[("X-One", "1")]), post({}, headers=[("x-one", "1")])
    assert same(one, other, match_on=("headers",))
    assert not same(one, post({}, headers=[("x-one", "2")]), match_on=("headers",))


@pytest.mark.parametrize(
    ("path", "one", "other"),
    [
        ("temperature", {"temperature": 1}, {"temperature": 2}),
        ("temperature", {"temperature": 1}, {}),
        ("$.a.b", {"a": {"b": 1, "c": 3}}, {"a": {"b": [2], "c": 3}}),
        (
            "messages[*].id",
            {"messages": [{"id": 1, "x": 0}, {"x": 1}]},
            {"messages": [{"x": 0}, {"id": 7, "x": 1}]},
        ),
        ("messages[1]", {"messages": [1, 2, 3]}, {"messages": [1, 4, 3]}),
        ("*.at", {"a": {"at": 1}, "b": {"at": 2}}, {"a": {"at": 3}, "b": {}}),
        (("a.b", 0), {"a.b": [1, 2]}, {"a.b": [5, 2]}),
        ("a", {"a": 1}, {"a": {"deep": [1]}}),
    ],
)
def test_what_stands_at_an_ignored_path_does_not_count(path, one, other):
    assert same(post(one), post(other), ignore_json=[path])
    assert not same(post(one), post(other))


def test_what_stands_beside_an_ignored_path_counts():
    one, other = {"a": {"b": 1, "c": 1}}, {"a": {"b": 1, "c": 2}}
    assert not same(post(one), post(other), ignore_json=["a.b"])
    assert not same(post({"b": 1}), post({"b": 2}), ignore_json=["a.b"])


@pytest.mark.parametrize("path", ["", "$", "a..b", "a[", "a[x]", "a[1", [], [1.5]])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(ValueError, match="ignore_json takes"):
        Matcher(ignore_json=[path])


def test_ignoring_needs_the_criterion_that_it_is_about():
    with pytest.raises(ValueError, match="the criterion 'json', which match_on does not have"):
        Matcher(("method", "body"), ignore_json=["a"])
    with pytest.raises(ValueError, match="a sequence of paths"):
        Matcher(ignore_json="a")


def test_a_secret_of_any_length_matches_none_by_the_names_of_the_redaction():
    one, other = post({"tenant": "north", "key": "sk-12345678"}), post({"tenant": "southwest", "key": ""})
    assert not same(one, other)
    assert same(one, other, redaction=Redaction(names=["tenant"]))


@pytest.mark.parametrize("criterion", ["headers", "query"])
def test_a_secret_header_or_parameter_may_be_another_or_none(criterion):
    def asked(*secret, tenant="a"):
        query = "&".join([f"tenant={tenant}", *[f"api_key={one}" for one in secret]])
        headers = [("X-Tenant", tenant), *[("Authorization", f"Bearer {one}") for one in secret]]
        return post({}, f"http://any.invalid/?{query}", headers)

    options = {"match_on": (criterion,)}
    assert same(asked("sk-12345678"), asked(), **options)
    assert same(asked("sk-12345678"), asked("another"), **options)
    assert not same(asked("sk-12345678"), asked("sk-12345678", tenant="b"), **options)
    assert same(asked(), asked(tenant="b"), redaction=Redaction(names=["x-tenant", "tenant"]), **options)


@pytest.mark.parametrize(
    ("one", "other", "are_same"),
    [
        ({"token": ["abc", "d"]}, {"token": ["x", "yz"]}, True),
        ({"token": ["abc"]}, {"token": ["x", "yz"]}, False),
        ({"api_keys": {"a": "b", "c": 12}}, {"api_keys": {"d": "e"}}, True),
        ({"password": 1234}, {"password": "abc"}, True),
        ({"password": None}, {"password": "abc"}, False),
        ({"token": 12}, {"token": 13}, False),
        ({"token": {"text": "a"}}, {"token": {"text": "b"}}, False),
        ({"token": {"key": "a"}}, {"token": {"key": "bc"}}, True),
    ],
)
def test_what_goes_under_a_secret_name_does_not_count_as_far_as_it_is_redacted(one, other, are_same):
    assert same(post(one), post(other)) is are_same


@pytest.mark.parametrize("key", ["", "a", "sk-12345678", "s" * 100])
def test_a_secret_of_any_length_matches_in_a_form(key):
    form = [("content-type", "application/x-www-form-urlencoded")]
    one, other = (post(f"a=1&key={one}&b=2".encode(), headers=form) for one in (key, "another one"))
    assert same(one, other)
    assert not same(one, post(f"a=1&key={key}&b=3".encode(), headers=form))


def test_what_a_hook_takes_out_of_requests_is_taken_out_of_those_that_come_in():
    redaction = Redaction(edit_request=lambda request: request._replace(url="http://any.invalid/edited"))
    matcher = Matcher(("path",), redaction=redaction)
    assert matcher.redacted(CHAT).url == "http://any.invalid/edited"
    assert same(CHAT, post({}), match_on=("path",), redaction=redaction)


def test_a_criterion_that_is_none_is_refused_with_a_guess():
    with pytest.raises(ValueError, match="no criterion 'jsn': did you mean 'json'"):
        Matcher(("method", "jsn"))
    with pytest.raises(ValueError, match="names and callables, but got 3"):
        Matcher((3,))


def test_an_explanation_looks_at_a_bounded_number_of_requests():
    looked_at = []

    def recorded():
        for n in range(10 * MOST_COMPARED):
            looked_at.append(n)
            yield n, post({"n": n}), False

    lines = Matcher().explain(post({"n": -1}), recorded())
    assert len(looked_at) <= MOST_COMPARED + 1
    assert lines[0].startswith("Nearest: exchange ")


def test_an_explanation_scores_the_nearest_and_shows_how_the_first_differs():
    recorded = [
        (0, post({"a": 1, "b": "long ago, and far away"}), False),
        (1, post({"a": 1, "b": "here", "c": 3}), True),
        (2, post({"a": 2, "b": "here", "c": 3}), False),
    ]
    lines = Matcher().explain(post({"a": 7, "b": "here", "c": 3}), recorded)
    assert lines[0] == "Nearest: exchange 2 (83% alike), which differs in json:"
    assert '  - "a": 2,' in lines
    assert '  + "a": 7,' in lines
    assert lines[-1] == "or exchange 1 (83% alike, played already), which differs in json"


def test_an_explanation_names_the_paths_that_ignore_nothing():
    recorded = [
        (0, post({"id": 1, "meta": [{"at": 3}]}), False),
        (1, Request("GET", "http://a/api/chat"), False),
    ]
    matcher = Matcher(ignore_json=["id", "meta[*].att", ["met", 0], "meta[*].at"])
    assert matcher.explain(post({"text": "a"}), recorded)[-2:] == [
        "ignore_json has 'meta[*].att', which is in none of these bodies.",
        "ignore_json has ['met', 0], which is in none of these bodies.",
    ]
    assert "ignore_json" not in "".join(Matcher().explain(post({"text": "a"}), recorded))


def test_a_request_is_described_without_its_secrets_and_in_one_printable_line():
    request = post(
        {"model": {"id": "gpt-4"}, "key": "sk-1234567890", "messages": [{"content": "Hi\n\x1b[31m"}]}
    )
    line = describe(request)
    assert line.startswith("POST http://any.invalid/api/chat (gpt-4: Hi")
    assert line.isprintable()
    assert "sk-1234567890" not in describe(
        post(b"key=sk-1234567890&x=1", headers=[("content-type", "application/x-www-form-urlencoded")])
    )
