"""`aivvm-testing record`: what it prints, what it leaves, and how it ends. Over real sockets."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from aivvm.payload import build_request
from aivvm_testing import FakeAivvm, Recording, Reply, SystemClock, wait
from aivvm_testing.cli import main
from aivvm_testing.journal import Journal
from aivvm_testing.record import tap
from aivvm_testing.verbs import lines, record
from aivvm_testing.verbs.lines import Lines
from tests.testing.test_cli import serve_here, start

CERTIFICATE = Path(__file__).parent.parent / "loopback.pem"
KEY = "sk-proj-Zq81xWvU7yTtAbCd"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "session.jsonl"


def ask(url, text="Hello", **options):
    body = build_request("gpt-4", [{"role": "user", "content": text}]).body
    return requests.post(url, data=body, timeout=10, **options)


def record_here(client, upstream, path, *arguments):
    """Records in this process while `client(url)` asks in another thread; the status, and the lines after the first."""
    return serve_here(client, "--upstream", upstream, "--out", str(path), *arguments, verb="record")


@contextmanager
def recording(server, path):
    """The command as a process, and where it listens."""
    with start("record", "--upstream", server.url, "--out", str(path), "--json") as process:
        yield process, json.loads(process.stdout.readline())["url"]


def test_record_says_what_passes_and_leaves_a_recording(path):
    fake = FakeAivvm(clock=SystemClock())
    fake.reply(Reply.of("one ", "two", headers={"Transfer-Encoding": "chunked"}))
    fake.reply(Reply.of("one", headers={"Transfer-Encoding": "chunked"}).cut())
    fake.reply(Reply.error(429))

    def client(url):
        assert ask(f"{url}/api/chat?token=secret-token").text == "one two"
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            ask(f"{url}/api/chat")
        assert ask(f"{url}/api/chat?x={KEY}").status_code == 429

    with fake.server() as server:
        status, printed = record_here(client, server.url, path, "--note", "why")
    assert status == 0
    assert printed.splitlines() == [
        "POST /api/chat?token=REDACTEDREDA -> 200, 2 chunks, complete",
        "POST /api/chat -> 200, 1 chunk, cut",
        "POST /api/chat?x=REDACTEDREDACTEDREDACTED -> 429, 1 chunk, complete",
        "",
        f"3 exchanges in {path}, secrets taken out of 1 request",
    ]
    recording = Recording.load(path)
    assert [one.reply.ending.kind for one in recording] == ["complete", "cut", "complete"]
    assert (recording.note, recording.origin) == ("why", "recorded")
    assert "secret-token" not in path.read_text()
    assert not os.path.exists(f"{path}.journal")


def test_record_speaks_json_a_line_an_event(path):
    with FakeAivvm(clock=SystemClock()).server() as server:
        arguments = ["--upstream", server.url, "--out", str(path), "--json"]
        with start("record", *arguments) as process:
            listening = json.loads(process.stdout.readline())
            assert ask(f"{listening['url']}/api/chat?key=abc", "one two").text == "one two"
            process.send_signal(signal.SIGINT)
            printed, errors = process.communicate(timeout=10)
        upstream = server.url
    assert (process.returncode, errors) == (0, "")
    assert listening == {
        "event": "listening",
        "url": f"http://127.0.0.1:{listening['port']}",
        "host": "127.0.0.1",
        "port": listening["port"],
        "pid": process.pid,
        "upstream": upstream,
        "file": str(path),
    }
    exchange, summary = [json.loads(line) for line in printed.splitlines()]
    assert exchange == {
        "event": "exchange",
        "method": "POST",
        "url": f"{upstream}/api/chat?key=RED",
        "status": 200,
        "chunks": 2,
        "ending": "complete",
    }
    assert summary == {
        "event": "summary",
        "exchanges": 1,
        "file": str(path),
        "requests_redacted": 1,
        "requests_refused": 0,
        "lines_dropped": 0,
    }
    assert Recording.load(path)[0].reply.body == b"one two"


def test_an_answer_that_is_under_way_is_recorded_as_closed(path):
    answers = []

    def client(url):
        answers.append(ask(f"{url}/api/chat", stream=True))
        assert next(answers[0].iter_content(None)) == b"one"

    fake = FakeAivvm(clock=SystemClock())
    fake.reply(Reply.of("one", wait(60), "two", headers={"Transfer-Encoding": "chunked"}))
    with fake.server() as server:
        status, printed = record_here(client, server.url, path)
    answers[0].close()
    assert status == 0
    assert "POST /api/chat -> 200, 1 chunk, closed\n" in printed
    assert Recording.load(path)[0].reply.ending.kind == "closed"


def test_an_upstream_that_is_not_there_is_recorded_and_no_failure(path):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        upstream = f"http://127.0.0.1:{gone.getsockname()[1]}"
    status, printed = record_here(lambda url: ask(url), upstream, path)
    assert status == 0
    assert printed == f"POST / -> no head, 0 chunks, refused\n\n1 exchange in {path}\n"
    assert Recording.load(path)[0].reply.ending.kind == "refused"


def test_a_file_that_is_there_is_replaced_only_where_that_was_said_and_something_came(path, capsys):
    earlier = Recording(note="earlier")
    earlier.save(path)
    with FakeAivvm(clock=SystemClock()).server() as server:
        assert main(["record", "--upstream", server.url, "--out", str(path)]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "is there already: name another file, or say --overwrite" in captured.err
        status, printed = record_here(lambda url: None, server.url, path, "--overwrite")
        assert (status, printed) == (0, f"\nno exchange came: {path} is as it was\n")
        assert Recording.load(path) == earlier
        assert record_here(lambda url: ask(f"{url}/api/chat"), server.url, path, "--overwrite")[0] == 0
    assert len(Recording.load(path)) == 1
    path.unlink()
    status, printed = record_here(lambda url: None, "http://127.0.0.1:9", path)
    assert (status, printed) == (0, f"\nno exchange came: {path} is an empty recording\n")
    assert len(Recording.load(path)) == 0


def test_a_journal_that_is_there_is_never_touched(path, capsys):
    journal = Journal(path)
    assert main(["record", "--upstream", "http://127.0.0.1:9", "--out", str(path), "--overwrite"]) == 1
    assert "another recorder is at work" in capsys.readouterr().err
    journal.abandon()
    assert main(["record", "--upstream", "http://127.0.0.1:9", "--out", str(path), "--json"]) == 1
    captured = capsys.readouterr()
    assert "aivvm-testing recover" in captured.err
    assert json.loads(captured.out)["event"] == "failure"


def test_what_is_secret_can_be_said_and_a_strict_recording_is_not_finished(path, capsys):
    fake = FakeAivvm(clock=SystemClock())
    fake.reply(Reply.of(f"cust-12345 {KEY}"), forever=True)

    def client(url):
        ask(f"{url}/api/chat", "abc", headers={"x-tenant": "acme"})

    options = ["--name", "X-Tenant", "--pattern", r"cust-(\d+)"]
    with fake.server() as server:
        assert record_here(client, server.url, path, *options)[0] == 0
        text = path.read_text()
        assert "acme" not in text
        assert "cust-REDAC " in text
        assert KEY in text  # of an answer, by its shape alone: `redact` finds it
        status, printed = record_here(client, server.url, path, "--strict", "--overwrite", "--json")
    assert status == 1
    *_, failure = [json.loads(line) for line in printed.splitlines()]
    assert failure["event"] == "failure"
    assert "there would be secrets in it" in failure["error"]
    captured = capsys.readouterr()
    assert KEY not in captured.err + printed
    assert path.read_text() == text


def test_a_recording_is_finished_though_nobody_reads_what_is_printed(path):
    """The output is a pipe that is full, so that the last lines cannot be printed."""
    with FakeAivvm(clock=SystemClock()).server() as server, recording(server, path) as (process, url):
        with requests.Session() as session:
            for _ in range(600):
                assert session.post(f"{url}/api/models", json={}, timeout=10).status_code == 200
        process.terminate()
        assert process.wait(20) == 130
    assert len(Recording.load(path)) == 600


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no alarm here")
def test_finishing_a_recording_takes_the_time_that_it_takes(path, monkeypatch):
    left = []

    class Watched(Journal):
        def finish(self, *before):
            left.append(signal.getitimer(signal.ITIMER_REAL))
            super().finish(*before)

    class Watching(Lines):
        def say(self, make, **options):
            left.append(signal.getitimer(signal.ITIMER_REAL))
            super().say(make, **options)

    monkeypatch.setattr(tap, "Journal", Watched)
    monkeypatch.setattr(record, "Lines", Watching)
    assert record_here(lambda url: None, "http://127.0.0.1:9", path)[0] == 0
    finishing, the_last_line = [seconds for seconds, _ in left]
    assert finishing == 0
    assert 0 < the_last_line <= lines.TO_THE_END
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_lines_that_nobody_reads_are_dropped_and_counted(path, monkeypatch):
    monkeypatch.setattr(lines, "MOST_WAITING", 0)
    with FakeAivvm(clock=SystemClock()).server() as server:
        status, printed = record_here(lambda url: ask(f"{url}/api/chat"), server.url, path)
    assert (status, printed) == (0, f"\n1 exchange in {path} (1 lines dropped: nobody read them)\n")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "the following arguments are required: --upstream, --out"),
        (["--upstream", "ftp://x", "--out", "a"], 2, "upstream is the http or https url of a server"),
        (["--upstream", "http://u:hunter7@x", "--out", "a"], 2, "without user name"),
        (["--upstream", "http://x", "--out", "a", "--host", "0.0.0.0"], 2, "or say --allow-remote"),
        (["--upstream", "http://x", "--out", "a", "--read-timeout", "0"], 2, "more than 0 seconds, but got 0"),
        (["--upstream", "http://x", "--out", "a", "--connect-timeout", "x"], 2, "more than 0 seconds, but got x"),
        (["--upstream", "http://x", "--out", "a", "--port", "-1"], 2, "a port is 0 to 65535"),
        (["--upstream", "http://x", "--out", "a", "--pattern", "("], 2, "aivvm-testing record: error: "),
        (["--upstream", "https://x", "--out", "a", "--ca", "no.pem"], 1, "--ca no.pem is no file or folder of certif"),
        (["--upstream", "https://x", "--out", "a", "--ca", __file__], 1, "is no file or folder of certif"),
        (["--upstream", "http://x", "--out", "no/a"], 1, "nothing can be recorded here (No such file or directory: there is no folder "),
    ],
)  # fmt: skip
def test_misuse_ends_with_one_clear_line_and_nothing_written(
    arguments, status, message, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    try:
        got = main(["record", *arguments])
    except SystemExit as stopped:
        got = stopped.code
    assert got == status
    captured = capsys.readouterr()
    assert message in captured.err
    assert "hunter7" not in captured.err
    assert captured.out == ""
    assert os.listdir(tmp_path) == []


def test_a_certificate_to_trust_can_be_named(path):
    with FakeAivvm(clock=SystemClock()).server() as server:
        upstream = server.url.replace("http:", "https:")
        status, printed = record_here(lambda url: ask(url), upstream, path, "--ca", str(CERTIFICATE))
    assert status == 0
    assert "no head, 0 chunks, tls" in printed


@pytest.mark.parametrize("verb", ["serve", "record"])
def test_a_port_that_is_taken_is_a_failure_in_json_too(verb, path):
    arguments = ["--upstream", "http://x", "--out", str(path)] if verb == "record" else []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with start(verb, *arguments, "--port", str(port), "--json") as process:
            printed, errors = process.communicate(timeout=10)
    assert process.returncode == 1
    (failure,) = [json.loads(line) for line in printed.splitlines()]
    assert failure["event"] == "failure"
    assert re.search(rf"at 127\.0\.0\.1 port {port}: Address already in use", failure["error"])
    assert failure["error"] in errors
    assert os.listdir(path.parent) == []


def test_a_killed_recorder_leaves_what_recover_needs(path, capsys):
    with FakeAivvm(clock=SystemClock()).server() as server, recording(server, path) as (process, url):
        assert ask(f"{url}/api/chat", "one two").text == "one two"
        process.kill()
        process.communicate(timeout=10)
    assert main(["check", str(path)]) == 1
    assert "orphaned journal" in capsys.readouterr().out
    assert main(["recover", str(path)]) == 0
    assert main(["check", str(path)]) == 0
    assert Recording.load(path)[0].reply.body == b"one two"


def test_the_parser_needs_no_library_that_a_verb_does_not():
    code = "import sys; from aivvm_testing.cli import make_parser; make_parser(); print('requests' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "False\n"
    )
