"""The verbs about recordings' files: `check`, `diff`, `merge`, `recover`, `redact`; and that no verb shows a secret."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aivvm.transport import Headers, Request
from aivvm_testing import Exchange, Recording, Reply, fixtures, wait
from aivvm_testing.cli import main
from aivvm_testing.damage import MOST_DAMAGES, inspect
from aivvm_testing.differences import differences
from aivvm_testing.errors import CorruptRecording, SecretsFound
from aivvm_testing.journal import Journal
from aivvm_testing.leaks import check_file, redact_recording
from aivvm_testing.matching import Matcher
from aivvm_testing.record.tap import Tap
from aivvm_testing.redaction import Redaction
from aivvm_testing.reply import Chunk, Ending, Head
from aivvm_testing.strategies import recordings

GET = Request("GET", "https://x/a?b=1&c=2")
KEY = "sk-proj-Zq81xWvU7yTtAbCd"
HEADER = b'{"aivvm_recording": 1, "origin": "written", "note": ""}\n'
REQUEST = b'{"request": {"method": "GET", "url": "http://x/", "headers": []}, "started": 0.0}\n'
REPLY = b'{"reply": {"status": 200, "reason": "OK", "headers": []}}\n'
END = b'{"end": "complete"}\n'
GOOD = REQUEST + REPLY + END


def run(capsys, *arguments):
    """The status, and what was printed: parsed, where it is JSON."""
    status = main([str(argument) for argument in arguments])
    printed, errors = capsys.readouterr()
    assert "Traceback" not in errors
    return status, json.loads(printed) if "--json" in arguments else printed, errors


def chat(text, reply=None, started=0.0, url="https://x/api/chat"):
    body = json.dumps({"model": "gpt-4", "messages": [{"role": "user", "content": text}]}).encode()
    return Exchange(Request("POST", url, body=body), reply or Reply.of("a", "b"), started)


# check


@given(st.lists(st.sampled_from([GOOD, b"rubbish\n", REQUEST, REPLY, END, b"\n", b'{"text": "a"}\n'])))
def test_whatever_is_damaged_the_sound_exchanges_are_counted_and_the_rest_is_told(tmp_path_factory, pieces):
    path = tmp_path_factory.mktemp("check") / "a.jsonl"
    path.write_bytes(HEADER + b"".join(pieces))
    exchanges, damages = inspect(path)
    # A sound one is followed by another beginning, by what is no part of it, or by nothing: so it is always whole.
    assert exchanges >= pieces.count(GOOD)
    assert [one.line for one in damages] == sorted([one.line for one in damages])
    if damages:
        with pytest.raises(CorruptRecording, match=re.escape(str(damages[0]))):
            Recording.load(path)
    else:
        assert exchanges == len(Recording.load(path))


def test_check_tells_each_damage_with_its_line_and_reason(tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        HEADER + GOOD + REQUEST + REPLY + GOOD + REQUEST + b"\x1b[2J\n" + END + GOOD + REQUEST + REPLY
    )
    status, printed, _ = run(capsys, "check", path)
    assert status == 1
    first, second, third, count = printed.splitlines()
    assert first.startswith(f"{path}:7: damage: a request, but exchange 1, begun in line 5, has no end yet")
    assert second.startswith(f"{path}:11: damage: not JSON")
    assert third.startswith(f"{path}:17: damage: ")
    assert count == "1 file, 3 sound exchanges, 3 findings"
    assert "\x1b" not in printed
    status, told, _ = run(capsys, "check", path, "--json")
    assert (status, told["files"], told["exchanges"]) == (1, [str(path)], 3)
    assert [(one["file"], one["line"], one["kind"]) for one in told["findings"]] == [
        (str(path), line, "damage") for line in (7, 11, 17)
    ]


def test_check_reads_folders_and_finds_what_a_killed_recorder_left(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    Recording([chat("a"), chat("b")]).save(tmp_path / "in" / "b.jsonl")
    for name in ("b.jsonl", "c.jsonl"):
        journal = Journal(tmp_path / "in" / name)
        journal.begin(GET, 0.0)
        journal.abandon()
    at_work = Journal(tmp_path / "d.jsonl")
    Recording([chat("c")]).save(tmp_path / "a.jsonl")
    status, printed, _ = run(capsys, "check", tmp_path)
    assert status == 1
    findings = printed.splitlines()
    orphans = [f"{tmp_path}/in/{name}.jsonl.journal: orphaned journal: " for name in "bc"]
    assert [line for line in findings if any(line.startswith(orphan) for orphan in orphans)] == findings[1:3]
    assert "aivvm-testing recover" in findings[1]
    assert findings[0] == f"{tmp_path}/d.jsonl: unfinished: its recorder is still at work"
    assert findings[3] == "4 files, 3 sound exchanges, 3 findings"
    at_work.finish()


def test_check_finds_nothing_in_what_is_sound(tmp_path, capsys):
    assert run(capsys, "check", *fixtures.names(), "--json")[:2] == (
        0,
        {
            "files": [str(fixtures.path(name)) for name in fixtures.names()],
            "exchanges": sum([len(fixtures.load(name)) for name in fixtures.names()]),
            "findings": [],
        },
    )
    long = tmp_path / "long.jsonl"
    Recording([chat("x" * 300, started=float(n)) for n in range(3000)]).save(long)
    assert long.stat().st_size > 1024 * 1024
    assert run(capsys, "check", long)[:2] == (0, "1 file, 3000 sound exchanges, 0 findings\n")
    assert run(capsys, "check", tmp_path / "no")[0] == 1
    (tmp_path / "empty").mkdir()
    status, _, errors = run(capsys, "check", tmp_path / "empty")
    assert status == 1
    assert f"there is no recording (*.jsonl) in the folder {tmp_path}/empty" in errors


def test_check_goes_on_after_a_file_that_cannot_be_read_or_is_no_recording(tmp_path, capsys):
    (tmp_path / "a.jsonl").symlink_to(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_bytes(b'{"a": 1}\n' * 1000)
    (tmp_path / "c.jsonl").write_bytes(HEADER + b"rubbish\n" + REQUEST * 1000)
    (tmp_path / "d.jsonl").mkdir()
    Recording([chat("c")]).save(tmp_path / "e.jsonl")
    status, told, _ = run(capsys, "check", tmp_path, "--json")
    assert (status, told["exchanges"]) == (1, 1)
    kinds = [(os.path.basename(one["file"]), one["kind"]) for one in told["findings"]]
    assert kinds[1] == ("b.jsonl", "damage")
    assert kinds[2:-1] == [("c.jsonl", "damage")] * MOST_DAMAGES
    assert kinds[-1] == ("d.jsonl", "unreadable")


def test_a_line_that_is_too_long_is_one_damage(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    monkeypatch.setattr("aivvm_testing.format.MAX_LINE", 100)
    path.write_bytes(HEADER + GOOD + REQUEST + b"x" * 1050 + b"\n" + END + GOOD + b"rubbish\n")
    exchanges, damages = inspect(path)
    assert (exchanges, [one.line for one in damages]) == (2, [6, 11])


# diff


@given(recordings())
def test_a_recording_does_not_differ_from_itself(recording):
    assert list(differences(recording, recording, times=0)) == []


@given(recordings(), recordings())
def test_differences_are_the_same_from_both_sides(one, other):
    there, back = list(differences(one, other, times=0.1)), list(differences(other, one, times=0.1))
    assert [(d.exchange, d.aspect, d.was, d.now) for d in there] == [
        (d.exchange, d.aspect, d.now, d.was) for d in back
    ]


@given(recordings(min_size=1), st.data())
def test_a_chunk_that_is_split_or_changed_is_a_difference(recording, data):
    n = data.draw(st.integers(0, len(recording) - 1))
    exchange = recording[n]
    chunk = Chunk(b"the fox", exchange.reply.ending.at)
    head = exchange.reply.head or Head()
    # Times count from the ending back: the head is not later than that.
    reply = Reply(replace(head, at=0.0), (chunk,), Ending("cut", exchange.reply.ending.at))
    for changed, aspect in (
        (replace(reply, chunks=(replace(chunk, data=b"the f"), replace(chunk, data=b"ox"))), "boundaries"),
        (replace(reply, chunks=(replace(chunk, data=b"the dog"),)), "body"),
        (replace(reply, ending=replace(reply.ending, kind="reset")), "ending"),
        (replace(reply, ending=replace(reply.ending, data=b"x")), "ending"),
    ):
        exchanges = [list(recording), list(recording)]
        exchanges[0][n], exchanges[1][n] = replace(exchange, reply=reply), replace(exchange, reply=changed)
        found = list(differences(*map(Recording, exchanges)))
        assert [(one.exchange, one.aspect) for one in found] == [(n, aspect)]


@pytest.mark.parametrize(
    ("was", "now", "aspect", "lines"),
    [
        (GET, GET._replace(method="PUT"), "request", ("GET https://x/a?b=1&c=2", "PUT https://x/a?b=1&c=2")),
        (GET, GET._replace(url="https://x/a?c=2&b=1"), None, None),
        (GET, GET._replace(url="https://x:444/a?c=2&b=1"), "request",
         ("GET https://x/a?b=1&c=2", "GET https://x:444/a?c=2&b=1")),
        (GET, GET._replace(headers=Headers([("a", "b")])), None, None),
        (GET._replace(body=b'{"a": 1, "b": 2}'), GET._replace(body=b'{"b":2.0,"a":1}'), None, None),
        (GET._replace(body=b'{"a": 1, "b": 2}'), GET._replace(body=b'{"b":3,"a":1}'), "request body",
         (' "b": 2', ' "b": 3')),
        (GET._replace(body=b'{"token": "a", "b": 2}'), GET._replace(body=b'{"b":2,"token":"bcd"}'), None, None),
        (GET, GET._replace(body=b"\x00\x1b"), "request body", ("(no body)", "'\\x00\\x1b'")),
        (GET._replace(body=b"x" * 70000), GET._replace(body=b"y" * 70001), "request body",
         ("a body of 70000 bytes", "a body of 70001 bytes")),
    ],
)  # fmt: skip
def test_requests_are_compared_by_what_they_mean(was, now, aspect, lines):
    found = list(
        differences(Recording([Exchange(was, Reply.of("a"))]), Recording([Exchange(now, Reply.of("a"))]))
    )
    if aspect is None:
        assert found == []
    else:
        assert [(one.aspect, *one.was, *one.now) for one in found] == [(aspect, *lines)]


@pytest.mark.parametrize(
    ("was", "now", "told"),
    [
        (Reply.of("a"), Reply.of("a", status=201), ["status"]),
        (Reply.of("a"), Reply.of("a", reason="Fine"), ["status"]),
        (Reply.of("a"), Reply.no_answer(), ["status", "body", "ending"]),
        (
            Reply.of("a", headers=[("A", "1"), ("B", "2")]),
            Reply.of("a", headers=[("b", "2"), ("a", "1")]),
            [],
        ),
        (Reply.of("a", headers=[("a", "1")]), Reply.of("a", headers=[("a", "1"), ("a", "1")]), ["headers"]),
        (Reply.of("a", headers=[("date", "1")]), Reply.of("a", headers=[("Date", "2")]), []),
        (Reply.of("a", headers=[("date", "1")]), Reply.of("a"), ["headers"]),
        (Reply.of("a", headers=[("etag", "1")]), Reply.of("a", headers=[("ETag", "2")]), []),
        (Reply.of("a", headers=[("set-cookie", "a=b")]), Reply.of("a", headers=[("Set-Cookie", "a=c")]), []),
        (Reply.of("a", wait(1), "b"), Reply.of("a", wait(2), "b"), []),
    ],
)
def test_answers_are_compared_by_what_they_are_made_of(was, now, told):
    one, other = Recording([Exchange(GET, was)]), Recording([Exchange(GET, now)])
    assert [found.aspect for found in differences(one, other, ignore=["ETAG"])] == told


def test_moments_count_where_it_is_asked_for():
    one = Recording([chat("a", Reply.of("a", wait(1), "b"), 0.5)])
    other = Recording([chat("a", Reply.of("a", wait(1.2), "b"), 0.6)])
    assert list(differences(one, other, times=0.2)) == []
    (found,) = differences(one, other, times=0.15)
    assert found == (0, "times", ("chunk 1 at 1 s", "ending at 1 s"), ("chunk 1 at 1.2 s", "ending at 1.2 s"))
    (found,) = differences(one, other, times=0.0)
    assert found.was[0] == "started at 0.5 s"


def test_long_things_are_shown_where_they_begin_to_differ():
    texts = ["x" * 5000 + end for end in ("fox", "dog")]
    one, other = [Recording([chat(text, Reply.of(text, " and so on" * 20))]) for text in texts]
    request, body = differences(one, other)
    assert (len(request.was), len(request.now)) == (1, 1)
    assert re.match(r"…x{24}fox", request.was[0])
    assert re.match(r"…x{24}dog", request.now[0])
    assert re.match(r"byte 5000 of 5203, in 2 chunks: …x{24}fox and so .*…$", body.was[0])
    assert re.match(r"byte 5000 of 5203, in 2 chunks: …x{24}dog and so .*…$", body.now[0])
    unbroken = [Recording([chat("a", Reply.of("x" * 100 + end + "y" * 100))]) for end in "ab"]
    (body,) = differences(*unbroken)
    assert (body.was[0][-74:-70], body.now[0][-74:-70]) == ("xayy", "xbyy")
    many = Headers([(f"h{n}", "a") for n in range(100)])
    (headers,) = differences(
        Recording([chat("a", Reply.of("a"))]), Recording([chat("a", Reply.of("a", headers=many))])
    )
    assert len(headers.now) == 25
    assert headers.now[-1] == "... 76 more lines"


def test_diff_shows_what_differs_and_neutralises_it(tmp_path, capsys):
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    Recording([chat("one"), chat("two"), chat("three")]).save(a)
    Recording([chat("one"), chat("2\x1b[2J", Reply.of("ab").cut())]).save(b)
    status, printed, errors = run(capsys, "diff", a, b)
    assert (status, errors) == (1, "")
    assert (
        printed
        == f"""\
--- {a}
+++ {b}

1: POST https://x/api/chat (gpt-4: two)
   request body
   -    "content": "two",
   +    "content": "2\\u001b[2J",
   boundaries
   - chunk 0 of 2 has 1 bytes, in the same 2 bytes
   + chunk 0 of 1 has 2 bytes, in the same 2 bytes
   ending
   - complete
   + cut

2: POST https://x/api/chat (gpt-4: three)
   only in one of them
   - POST https://x/api/chat (gpt-4: three)

4 differences in 3 exchanges
"""
    )
    status, told, _ = run(capsys, "diff", a, b, "--json")
    assert (status, told["exchanges"]) == (1, [3, 2])
    assert [(one["exchange"], one["aspect"]) for one in told["differences"]] == [
        (1, "request body"),
        (1, "boundaries"),
        (1, "ending"),
        (2, "exchange"),
    ]
    assert run(capsys, "diff", a, a, "--times", "0")[:2] == (0, "no difference in 3 exchanges\n")
    assert run(capsys, "diff", a, b, "--match-on", "method,path")[1].count("request body") == 0


def test_a_long_diff_is_cut_short(tmp_path, capsys):
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    Recording([chat("a")] * 120).save(a)
    Recording([chat("b")] * 120).save(b)
    status, printed, _ = run(capsys, "diff", a, b)
    assert status == 1
    assert printed.endswith("\n... 20 more; --json tells all\n\n120 differences in 120 exchanges\n")
    assert len(run(capsys, "diff", a, b, "--json")[1]["differences"]) == 120


def test_callables_can_say_what_is_the_same_request():
    one, other = [Recording([chat(text)]) for text in ("fox", "dog")]
    assert list(differences(one, other, matcher=Matcher(("method",)))) == []
    headers = GET._replace(headers=Headers([("a", "b")]))
    (found,) = differences(
        Recording([Exchange(GET, Reply.of("a"))]),
        Recording([Exchange(headers, Reply.of("a"))]),
        matcher=Matcher(("headers",)),
    )
    assert found == (0, "request headers", (), ("a: b",))


# merge


@given(st.lists(recordings(), max_size=4), st.permutations(range(4)))
def test_merging_loses_nothing_and_keeps_the_order_of_starting(parts, order):
    parts = [Recording(part, recorded_at=f"2026-11-23T00:00:0{n}Z") for n, part in enumerate(parts)]
    merged = Recording.merged(parts)
    expected = [
        (replace(one, started=round(one.started + n, 6)) if n else one)
        for n, part in enumerate(parts)
        for one in part
    ]
    assert list(merged) == sorted(expected, key=lambda one: one.started)
    assert Recording.merged([merged]) == merged
    if len({one.started for one in merged}) == len(merged):
        shuffled = Recording.merged([parts[n] for n in order if n < len(parts)])
        assert list(shuffled) == list(merged)


@pytest.mark.parametrize(
    ("moments", "earliest", "started"),
    [
        (["2026-11-23T00:00:01Z", "2026-11-23T00:00:00Z"], 1, [0.25, 1.25]),
        (["2026-11-23T00:00:00.5Z", "2026-11-23T00:00:00Z"], 1, [0.25, 0.75]),
        (["2026-11-23T02:00:00+02:00", "2026-11-22T23:59:59Z"], 1, [0.25, 1.25]),
        (["2026-11-23T00:00:00.1234567-00:30", "2026-11-23T00:30:00Z"], 1, [0.25, 0.373457]),
        (["2024-02-29T23:59:59Z", "2024-03-01T00:00:00Z"], 0, [0.25, 1.25]),
        ([None, None], 0, [0.25, 0.25]),
    ],
)
def test_merged_recordings_begin_with_the_first(moments, earliest, started):
    parts = [Recording([chat(str(n), started=0.25)], recorded_at=at) for n, at in enumerate(moments)]
    merged = Recording.merged(parts)
    assert merged.recorded_at == moments[earliest]
    assert [one.started for one in merged] == started


def test_what_is_told_of_sessions_is_merged():
    one = Recording([], origin="recorded", note="a", expected={"a": 1})
    other = Recording([], origin="written", note="b")
    assert Recording.merged([one, other, other]) == Recording([], origin="converted", note="a; b")
    assert Recording.merged([one]) == Recording([], origin="recorded", note="a")
    assert Recording.merged([]) == Recording()
    dated = Recording(recorded_at="2026-11-23T00:00:00Z")
    with pytest.raises(ValueError, match=r"number 2 of 3 has none"):
        Recording.merged([dated, one, dated])


def test_merge_writes_one_recording_of_several(tmp_path, capsys):
    paths = [tmp_path / f"{n}.jsonl" for n in range(3)]
    for n, path in enumerate(paths):
        exchanges = [chat(f"{n}-{m}", started=m / 10 + n / 100) for m in range(25)]
        Recording(exchanges, recorded_at="2026-11-23T00:00:00Z", origin="recorded").save(path)
    out = tmp_path / "all.jsonl"
    assert run(capsys, "merge", *paths, "--out", out)[:2] == (0, f"{out}: 75 exchanges of 3 files\n")
    merged = Recording.load(out)
    asked = [one.request.json()["messages"][0]["content"] for one in merged]
    assert asked == [f"{n}-{m}" for m in range(25) for n in range(3)]
    before = out.read_bytes()
    status, _, errors = run(capsys, "merge", *paths[:1], "--out", out)
    assert status == 1
    assert "is there already: name another file, or say --overwrite" in errors
    assert out.read_bytes() == before
    status, told, _ = run(capsys, "merge", *paths[::-1], "--out", out, "--overwrite", "--json")
    assert (status, told) == (
        0,
        {"file": str(out), "files": [str(path) for path in paths[::-1]], "exchanges": 75},
    )
    assert out.read_bytes() == before


def test_the_name_of_a_file_is_neutralised_too(tmp_path, capsys):
    path, out = tmp_path / "a.jsonl", tmp_path / "b\x1b[2J.jsonl"
    Recording([chat("a")]).save(path)
    status, printed, _ = run(capsys, "merge", path, "--out", out)
    assert status == 0
    assert printed == f"{tmp_path}/b\\x1b[2J.jsonl: 1 exchange of 1 file\n"


def test_four_processes_with_a_file_each_make_one_recording(tmp_path, capsys):
    code = (
        "import sys\n"
        "from aivvm.payload import build_request\n"
        "from aivvm_testing import FakeAivvm, RecordingTransport, SystemClock\n"
        "fake = FakeAivvm(clock=SystemClock())\n"
        "with RecordingTransport(fake.transport(), sys.argv[1], clock=fake.clock) as tap:\n"
        "    for n in range(25):\n"
        "        request = build_request('gpt-4', [{'role': 'user', 'content': f'{sys.argv[2]} {n}'}])\n"
        "        b''.join(tap.send(request, timeout=5))\n"
    )
    paths = [tmp_path / f"{n}.jsonl" for n in range(4)]
    workers = [subprocess.Popen([sys.executable, "-c", code, path, str(n)]) for n, path in enumerate(paths)]
    assert [worker.wait(30) for worker in workers] == [0] * 4
    status, told, _ = run(capsys, "merge", *paths, "--out", tmp_path / "all.jsonl", "--json")
    assert (status, told["exchanges"]) == (0, 100)
    merged = Recording.load(tmp_path / "all.jsonl")
    asked = [exchange.request.json()["messages"][-1]["content"] for exchange in merged]
    assert len(set(asked)) == 100
    assert [exchange.reply.body.decode() for exchange in merged] == asked
    for n in range(4):
        assert [text for text in asked if text.startswith(str(n))] == [f"{n} {m}" for m in range(25)]


def test_merge_leaves_nothing_out_silently(tmp_path, capsys):
    a, b, out = tmp_path / "a.jsonl", tmp_path / "b.jsonl", tmp_path / "out.jsonl"
    Recording([chat("a")], recorded_at="2026-11-23T00:00:00Z").save(a)
    Recording([chat("a")]).save(b)
    status, _, errors = run(capsys, "merge", a, b, "--out", out)
    assert status == 1
    assert f"{b}:1: has no recorded_at, and others have" in errors
    journal = Journal(b)
    journal.begin(GET, 0.0)
    journal.abandon()
    status, _, errors = run(capsys, "merge", a, b, "--out", out)
    assert status == 1
    assert "recover it first" in errors
    assert not out.exists()


# recover


def test_recover_says_that_there_are_secrets_in_what_it_made(tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    tap = Tap(path, redaction=Redaction(strict=True))
    entry = tap.begin(GET)
    entry.head(Head())
    entry.chunk(KEY.encode())
    entry.end("complete")
    with pytest.raises(SecretsFound):
        tap.close()
    status, told, errors = run(capsys, "recover", path, "--json")
    assert (status, told) == (0, {"file": str(path), "exchanges": 1})
    assert errors == (
        f"aivvm-testing: 1 secret in {path}: redact --check shows where, and redact --in-place takes out what looks like one\n"
    )
    assert KEY in path.read_text()


def test_recover_speaks_json(tmp_path, capsys):
    path, out = tmp_path / "a.jsonl", tmp_path / "out.jsonl"
    journal = Journal(path)
    journal.begin(GET, 0.0)
    journal.abandon()
    assert run(capsys, "recover", f"{path}.journal", "--out", out, "--json")[:2] == (
        0,
        {"file": str(out), "exchanges": 1},
    )
    status, told, errors = run(capsys, "recover", path, "--json")
    assert status == 1
    assert told == {
        "event": "failure",
        "error": f"there is no {path}.journal: no recorder of {path} was stopped",
    }
    assert told["error"] in errors


# redact


@pytest.fixture
def secrets(tmp_path):
    """A recording with a secret in each part, and what they are."""
    words = {
        part: f"{part}7Zq81xWvU7y" for part in ("url", "cookie", "member", "answer", "setcookie", "tenant")
    }
    request = Request(
        "POST",
        f"https://x/api/chat?token={words['url']}",
        Headers([("Cookie", f"a={words['cookie']}"), ("X-Tenant", words["tenant"])]),
        json.dumps(
            {
                "model": "gpt-4",
                "messages": [{"role": "user", "content": f"{KEY} cust-8f4e"}],
                "password": words["member"],
            }
        ).encode(),
    )
    headers = [("Set-Cookie", f"a={words['setcookie']}"), ("Content-Type", "application/json")]
    reply = Reply.of(
        '{"access_token": "', words["answer"], '", "is": "', KEY[:9], KEY[9:], '"}', headers=headers
    )
    path = tmp_path / "session.jsonl"
    Recording([Exchange(request, reply), chat("fine")], note=f"with {KEY}").save(path)
    return path, [*words.values(), KEY, "8f4e"]


ASKED = ("--name", "X-Tenant", "--pattern", r"cust-(\w+)")


def test_redact_check_tells_where_what_slipped_through_is_and_not_what(secrets, capsys):
    path, words = secrets
    before = path.read_bytes()
    status, printed, errors = run(capsys, "redact", path, "--check", *ASKED)
    assert (status, errors) == (1, "")
    *leaks, count = printed.splitlines()
    assert count == f"1 file, {len(leaks)} secrets"
    assert f"{path}:1: an API key in the note, byte 5: sk-p… (24 bytes)" in leaks
    assert f"{path}:5: what goes under a secret name in the reply body, byte 18: answ… (17 bytes)" in leaks
    assert [line.partition(": ")[0] for line in leaks] == [
        f"{path}:{n}" for n in (1, 2, 2, 2, 2, 2, 2, 3, 5, 7)
    ]
    status, told, _ = run(capsys, "redact", path, "--check", *ASKED, "--json")
    assert (status, told["leaks"]) == (1, 10)
    assert [one["line"] for one in told["files"][0]["leaks"]] == [1, 2, 2, 2, 2, 2, 2, 3, 5, 7]
    assert not [word for word in words if word in printed + json.dumps(told)]
    assert path.read_bytes() == before


def test_redact_check_tells_in_the_order_of_lines(tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    headers = [("content-type", "application/json")]
    Recording([Exchange(GET, Reply.of(f'{{"a": "{KEY}",', '"password": "x"}', headers=headers))]).save(path)
    _, told, _ = run(capsys, "redact", path, "--check", "--json")
    assert [one["line"] for one in told["files"][0]["leaks"]] == [4, 5]


def test_redact_writes_a_copy_without_them_and_checks_it(secrets, tmp_path, capsys):
    path, words = secrets
    before, out = path.read_bytes(), tmp_path / "clean.jsonl"
    status, printed, _ = run(capsys, "redact", path, "--out", out, *ASKED)
    assert (status, printed) == (0, f"{path}: 10 secrets found; written to {out}, 0 left\n")
    assert not [word for word in words if word in out.read_text()]
    assert path.read_bytes() == before
    was, now = Recording.load(path), Recording.load(out)
    assert [[len(chunk.data) for chunk in one.reply.chunks] for one in was] == [
        [len(chunk.data) for chunk in one.reply.chunks] for one in now
    ]
    assert run(capsys, "redact", out, "--check", *ASKED)[0] == 0
    assert run(capsys, "redact", path, "--out", out)[0] == 1
    assert "8f4e" not in out.read_text()
    status, told, _ = run(capsys, "redact", path, "--out", out, "--overwrite", "--json")
    assert (status, told["leaks"], told["files"][0]["exchanges"]) == (0, 0, 2)
    assert "8f4e" in out.read_text()


def test_redact_in_place_changes_only_what_it_must(secrets, tmp_path, capsys):
    path, words = secrets
    by_hand = tmp_path / "by_hand.jsonl"
    by_hand.write_bytes(HEADER + GOOD.replace(b": ", b":   "))
    before = by_hand.read_bytes()
    status, _, _ = run(capsys, "redact", path, by_hand, "--in-place", *ASKED)
    assert status == 0
    assert by_hand.read_bytes() == before
    assert not [word for word in words if word in path.read_text()]
    assert sorted(os.listdir(tmp_path)) == ["by_hand.jsonl", "session.jsonl"]


def test_redact_writes_no_two_files_to_one(tmp_path, capsys):
    for name in ("a", "b"):
        Recording([chat(name)]).save(tmp_path / f"{name}.jsonl")
    status, _, errors = run(capsys, "redact", tmp_path, "--out", tmp_path / "out.jsonl")
    assert status == 2
    assert "--out is for one RECORDING" in errors
    assert sorted(os.listdir(tmp_path)) == ["a.jsonl", "b.jsonl"]
    journal = Journal(tmp_path / "c.jsonl")
    journal.abandon()
    status, _, errors = run(capsys, "redact", tmp_path / "c.jsonl", "--in-place")
    assert status == 1


def test_redact_says_what_it_cannot_take_out(tmp_path, capsys):
    import gzip

    path, out = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    reply = Reply.of(gzip.compress(KEY.encode()), headers=[("content-encoding", "gzip")])
    Recording([Exchange(GET, reply)]).save(path)
    status, printed, _ = run(capsys, "redact", path, "--out", out)
    assert status == 1
    assert f"{out}:4: an API key in the reply body" in printed
    assert ", 1 left" in printed


def test_redact_check_says_where_a_file_is_damaged_as_that_may_hide_anything(tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    Recording([Exchange(GET, Reply.of("fine"))]).save(path)
    sound = path.read_bytes()
    assert run(capsys, "redact", path, "--check")[:2] == (0, "1 file, 0 secrets\n")
    path.write_bytes(sound + b'{"text": "oops"}\n')
    status, printed, _ = run(capsys, "redact", path, "--check")
    damage, count = printed.splitlines()
    assert damage.startswith(f"{path}:6: damage: ")
    assert (status, count) == (1, "1 file, 0 secrets, 1 damage")
    status, told, _ = run(capsys, "redact", path, "--check", "--json")
    assert (status, told["leaks"]) == (1, 0)
    assert [one["line"] for one in told["files"][0]["damages"]] == [6]


def test_redact_check_looks_into_journals_too(tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    journal = Journal(path, note=KEY)
    journal.abandon()
    status, printed, _ = run(capsys, "redact", tmp_path, "--check")
    assert (status, printed.splitlines()[0]) == (
        1,
        f"{path}.journal:1: an API key in the note, byte 0: sk-p… (24 bytes)",
    )


# Secrets on the screen


@pytest.mark.parametrize("as_json", [False, True])
def test_no_verb_prints_a_secret(secrets, tmp_path, capsys, as_json):
    path, words = secrets
    words = [word for word in words if word not in ("8f4e", "tenant7Zq81xWvU7y")]  # those need to be named
    damaged = tmp_path / "damaged.jsonl"
    damaged.write_bytes(HEADER + f'{{"a": "{KEY}", "b": "https://u:hunter7@x/"}}\n'.encode())
    flags = ["--json"] if as_json else []
    texts = []
    for arguments in (
        ["show", path],
        ["replay", path, "--speed", "0"],
        ["diff", path, "ascii"],
        ["diff", "ascii", path, "--match-on", "headers,body"],
        ["check", path, damaged],
        ["redact", path, "--check"],
        ["redact", path, "--out", tmp_path / "clean.jsonl"],
        ["merge", path, "--out", tmp_path / "merged.jsonl"],
        ["show", damaged],
        ["show", f"{tmp_path}/{KEY}"],
        ["diff", path, damaged],
    ):
        main([*map(str, arguments), *flags])
        texts.append("\n".join(capsys.readouterr()))
        assert texts[-1].strip()
    assert not [(word, text) for text in texts for word in [*words, "hunter7"] if word in text]


def test_what_is_no_secret_here_can_be_kept(tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    headers = [("content-type", "text/event-stream")]
    Recording([Exchange(GET, Reply.of('data: {"token": "Hello"}\n\n', headers=headers))]).save(path)
    assert '"token": "REDAC"' in run(capsys, "replay", path)[1]
    assert '"token": "Hello"' in run(capsys, "replay", path, "--keep", "token")[1]
    assert '"token": "Hello"' in run(capsys, "show", path, "--keep", "token")[1]


def test_replay_speaks_json(tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    Recording(
        [Exchange(GET, Reply.of("caf", wait(0.01), b"\xc3").cut()), Exchange(GET, Reply.no_answer())]
    ).save(path)
    assert main(["replay", str(path), "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[:5] == [
        {"event": "request", "exchange": 0, "method": "GET", "url": GET.url},
        {"event": "reply", "at": 0.0, "status": 200, "reason": "OK"},
        {"event": "chunk", "at": 0.0, "text": "caf"},
        {"event": "chunk", "at": 0.01, "hex": "c3"},
        {"event": "end", "at": 0.01, "ending": "cut"},
    ]
    assert events[-1] == {"event": "end", "at": 0.0, "ending": "cut"}


# Misuse


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["redact", "ascii"], 2, "one of the arguments --check --out --in-place is required"),
        (["redact", "ascii", "--check", "--in-place"], 2, "not allowed with argument"),
        (["redact", "ascii", "utf8_aligned", "--out", "x"], 2, "--out is for one RECORDING; --in-place takes any"),
        (["redact", "ascii", "--in-place"], 1, "ascii is no file, and what is shipped is not changed: say --out"),
        (["redact", "ascii", "--check", "--pattern", "("], 2, "aivvm-testing redact: error: "),
        (["redact", "ascii", "--check", "--keep", "tokn"], 2, "did you mean 'token'"),
        (["redact", "ascii", "--check", "--name", ""], 2, "aivvm-testing redact: error: "),
        (["diff", "ascii"], 2, "the following arguments are required: B"),
        (["diff", "ascii", "ascii", "--times", "-1"], 2, "a tolerance is 0 seconds or more, but got -1"),
        (["diff", "ascii", "ascii", "--times", "nan"], 2, "a tolerance is 0 seconds or more, but got nan"),
        (["diff", "ascii", "asci"], 1, "asci is neither a file nor a shipped recording; did you mean ascii"),
        (["merge", "ascii"], 2, "the following arguments are required: --out"),
        (["merge", "--out", "x"], 2, "the following arguments are required: RECORDING"),
        (["check"], 2, "the following arguments are required: RECORDING"),
        (["check", "split_emoji"], 1, "did you mean split_emoji_4ways"),
        (["recover", "nowhere.jsonl"], 1, "there is no nowhere.jsonl.journal: no recorder of nowhere.jsonl was stopped"),
    ],
)  # fmt: skip
def test_misuse_and_missing_files_end_with_one_clear_line(
    arguments, status, message, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    try:
        got = main(arguments)
    except SystemExit as stopped:
        got = stopped.code
    assert got == status
    assert message in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_a_file_with_nearly_that_name_is_named(tmp_path, capsys):
    Recording([chat("a")]).save(tmp_path / "session.jsonl")
    status, _, errors = run(capsys, "show", tmp_path / "sesion.jsonl")
    assert status == 1
    assert f"did you mean {tmp_path}/session.jsonl?" in errors


def test_redacting_is_what_a_tap_with_that_policy_does(secrets, tmp_path, capsys):
    path, _ = secrets
    out = tmp_path / "clean.jsonl"
    run(capsys, "redact", path, "--out", out)
    assert Recording.load(out) == redact_recording(Recording.load(path))
    assert check_file(out) == []
    assert Path(out).read_text().count("REDACTED") > 5
