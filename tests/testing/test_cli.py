"""The `aivvm-testing` command: what it prints, and how it ends."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout, suppress
from queue import SimpleQueue

import pytest
import requests

from aivvm import RequestsTransport, Response
from aivvm.payload import build_request
from aivvm_testing import Exchange, FakeAivvm, Recording, Reply, demo, faults, fixtures, wait
from aivvm_testing.cli import main
from aivvm_testing.verbs import lines

CHUNKED = {"Transfer-Encoding": "chunked"}


@pytest.fixture
def session(tmp_path):
    path = tmp_path / "session.jsonl"
    request = build_request("gpt-4", [{"role": "user", "content": "Hello"}])
    reply = Reply.of("caf", wait(0.01), b"\xc3", b"\xa9\x1b[2J").cut()
    Recording([Exchange(request, reply, 0.0)], origin="written", note="a\x1b[31mnote").save(path)
    return path


def test_the_demo_proves_that_a_session_survives(tmp_path, capsys):
    out = tmp_path / "demo.jsonl"
    assert main(["demo", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "15 of 15 proofs hold." in printed
    assert "DIFFER" not in printed
    assert "decoded chunk by chunk, 7 of 9 chunks are damaged" in printed
    assert str(out) in printed
    assert len(Recording.load(out)) == 5
    assert "\x1b" not in printed


def test_the_demo_fails_when_a_proof_fails(tmp_path, capsys, monkeypatch):
    class Joining(RequestsTransport):
        """Buffers, as many recorders do."""

        def send(self, request, *, timeout):
            answer = super().send(request, timeout=timeout)
            return Response(answer.status, answer.reason, answer.headers, [b"".join(answer)], answer.close)

    monkeypatch.setattr(demo, "SESSION", ("split_emoji_4ways",))
    monkeypatch.setattr(demo, "RequestsTransport", Joining)
    assert main(["demo", "--out", str(tmp_path / "demo.jsonl"), "--json"]) == 1
    recorded, door_1, door_4 = json.loads(capsys.readouterr().out)["proofs"]
    assert (recorded["bytes_equal"], recorded["boundaries_equal"]) == (True, False)
    assert door_1["boundaries_equal"]
    assert door_4["bytes_equal"]


@pytest.mark.parametrize("wrong_speed", [0, 3])
def test_the_demo_fails_when_the_pace_is_wrong(tmp_path, capsys, monkeypatch, wrong_speed):
    class Hasty(FakeAivvm):
        @classmethod
        def replaying(cls, source, *, speed=0, **options):
            return super().replaying(source, speed=wrong_speed if speed > 1 else speed, **options)

    request = build_request("gpt-4", [{"role": "user", "content": "Hello"}])
    session = Recording([Exchange(request, Reply.of("a", "b", "c", headers=CHUNKED).pace(0.8), 0.0)])
    monkeypatch.setattr(demo, "SESSION", ("paced",))
    monkeypatch.setattr(fixtures, "load", lambda name: session)
    monkeypatch.setattr(demo, "FakeAivvm", Hasty)
    assert main(["demo", "--out", str(tmp_path / "demo.jsonl"), "--json"]) == 1
    recorded, door_1, door_4 = json.loads(capsys.readouterr().out)["proofs"]
    assert recorded["timing_error_ms"] <= recorded["timing_bound_ms"]
    assert door_1["timing_error_ms"] == 0
    assert door_4["timing_error_ms"] > door_4["timing_bound_ms"]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_what_the_screen_cannot_show_is_escaped(encoding):
    command = [sys.executable, "-m", "aivvm_testing", "replay", "utf8_aligned", "--speed", "0"]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    shown = subprocess.run(command, capture_output=True, env=environment, check=True, timeout=20).stdout
    assert rb"\u041f\u0440" in shown


def test_a_bad_place_for_the_recording_is_named_before_anything_starts(tmp_path, capsys):
    assert main(["demo", "--out", str(tmp_path / "nowhere" / "demo.jsonl")]) == 1
    captured = capsys.readouterr()
    assert "there is no folder for" in captured.err
    assert captured.out == ""


def test_show_lists_every_chunk_and_neutralises_what_it_prints(session, capsys):
    assert main(["show", str(session)]) == 0
    printed = capsys.readouterr().out
    assert "0: POST https://chat.aivvm.com/api/chat" in printed
    assert re.search(r"0\.010 s +1 bytes  c3  not UTF-8 on its own at byte 0", printed)
    assert "cut at 0.010 s" in printed
    assert "\x1b" not in printed


def test_show_speaks_json(session, capsys):
    assert main(["show", str(session), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["exchanges"][0]["chunks"] == [[0.0, 3], [0.01, 1], [0.01, 5]]
    assert shown["exchanges"][0]["ending"] == "cut"


def test_replay_prints_the_answer_as_it_came(session, capsys):
    assert main(["replay", str(session), "--speed", "0"]) == 0
    printed = capsys.readouterr().out
    assert "café" in printed
    assert "\x1b" not in printed
    assert "cut at 0.010 s" in printed


@pytest.mark.parametrize("name", fixtures.names())
def test_every_shipped_recording_can_be_shown_and_replayed(name, capsys):
    assert main(["show", name]) == 0
    assert main(["replay", name, "--speed", "0"]) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (
            ["show", "nowhere.jsonl"],
            1,
            "nowhere.jsonl is neither a file nor a shipped recording; aivvm-testing show --list ",
        ),
        (["show", "split_emoji"], 1, "nor a shipped recording; did you mean split_emoji_4ways"),
        (["show"], 2, "aivvm-testing show: name a recording, or say --list"),
        (
            ["serve", "ascii", "--match-on", "jsno"],
            2,
            "match_on has no criterion 'jsno': did you mean 'json'?",
        ),
        (["serve", "ascii", "--ignore-json", "a..b"], 2, "ignore_json takes paths such as 'temperature'"),
        (
            ["serve", "ascii", "--match-on", "path", "--ignore-json", "a"],
            2,
            "ignore_json is about the criterion",
        ),
        (
            ["serve", "ascii", "--match-on", ","],
            2,
            "argument --match-on: name what counts, such as method,path",
        ),
        (["merge", "ascii", "bom", "--out", "."], 1, "is a folder: name a file in it: '.'"),
        (
            ["merge", "ascii", "ascii", "--out", "x.jsonl"],
            1,
            "is named twice, and would be in the new recording twice",
        ),
        (["replay"], 2, "the following arguments are required: RECORDING"),
        (["serve", "--port", "80x"], 2, "a port is 0 to 65535, but got 80x"),
        (["dance"], 2, "invalid choice: 'dance'"),
        (["reply", "x"], 2, "): did you mean replay?"),
        (["serve", "--fualt", "cut"], 2, "unrecognized arguments: --fualt: did you mean --fault?"),
        (["show", "x", "y", "--jsn"], 2, "unrecognized arguments: y --jsn: did you mean --json?"),
        (["show", "x", "y"], 2, "aivvm-testing show: error: unrecognized arguments: y\n"),
        ([], 2, "the following arguments are required: VERB"),
        (["replay", "ascii", "--speed", "-1"], 2, "a speed is 0 or more, but got -1"),
        (["serve", "--port", "70000"], 2, "a port is 0 to 65535, but got 70000"),
        (["serve", "--fault", "cutt"], 2, "argument --fault: no fault is called 'cutt'; did you mean 'cut'"),
        (["serve", "--cors", "ascii"], 2, "but got ascii (a RECORDING comes before --cors)"),
        (["serve", "--cors", "http://a/b"], 2, "an origin such as 'http://localhost:3000', but got 'http://"),
    ],
)
def test_misuse_and_missing_files_end_with_one_clear_line(arguments, status, message, capsys):
    try:
        got = main(arguments)
    except SystemExit as stopped:
        got = stopped.code
    assert got == status
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_corrupt_recording_is_named_with_its_line(tmp_path, capsys):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"aivvm_recording": 1, "origin": "written", "note": ""}\n{"at": 0}\n')
    assert main(["show", str(path)]) == 1
    assert f"{path}:2: " in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["demo", "serve", "replay", "show"])
def test_every_verb_has_help(verb, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--help"])
    assert stopped.value.code == 0
    assert "usage: aivvm-testing" in capsys.readouterr().out


def test_serve_names_every_fault(capsys):
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    assert set(faults.CATALOGUE) <= set(re.findall(r"\w+", capsys.readouterr().out))


def start(*arguments):
    command = [
        sys.executable,
        "-c",
        "from aivvm_testing.cli import main; raise SystemExit(main())",
        *arguments,
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


class Serving:
    """`aivvm-testing serve` as a process; `first` is the line that says where it listens, at `url`."""

    def __init__(self, *arguments):
        self.process = start("serve", *arguments)

    def __enter__(self):
        self.first = self.process.stdout.readline()
        found = re.search(r"http://[^ \"]+:\d+", self.first)
        assert found, self.process.communicate(timeout=10)
        self.url = found[0]
        return self

    def __exit__(self, *_):
        with self.process:
            self.process.kill()

    def stop(self, *signals):
        """Its exit status, and what it printed after the first line."""
        for one in signals or (signal.SIGTERM,):
            self.process.send_signal(one)
        printed, errors = self.process.communicate(timeout=10)
        assert "Traceback" not in errors
        return self.process.returncode, printed, errors


def ask(url, text="Hello", *, path="/api/chat", recorded=None, **options):
    """Asks about this text, or asks again what was asked in a shipped recording."""
    body = build_request("gpt-4", [{"role": "user", "content": text}]).body
    if recorded is not None:
        body = fixtures.load(recorded)[0].request.body
    return requests.post(f"{url}{path}", data=body, timeout=10, **options)


def serve_here(client, *arguments, verb="serve"):
    """Serves, or records, in this process while `client(url)` asks in another thread; the exit status, and what was printed."""
    said = SimpleQueue()

    class Screen(io.StringIO):
        def write(self, text):
            said.put(text)
            return super().write(text)

    def use():
        first = said.get(timeout=10)
        try:
            client(re.search(r"http://[^ \"]+:\d+", first)[0])
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    with ThreadPoolExecutor(1) as pool, redirect_stdout(Screen()) as screen:
        done = pool.submit(use)
        status = main([verb, *arguments])
    done.result()
    return status, screen.getvalue().partition("\n")[2]


def events(printed):
    return [json.loads(line) for line in printed.splitlines()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_says_where_it_listens_and_stops_cleanly(number):
    with Serving("split_emoji_4ways", "--speed", "0") as serving:
        pattern = r"serving split_emoji_4ways at http://127\.0\.0\.1:\d+ \(Ctrl-C stops\)\n"
        assert re.fullmatch(pattern, serving.first)
        assert ask(serving.url, recorded="split_emoji_4ways").content == "😀".encode()
        status, printed, errors = serving.stop(number)
    assert (status, errors) == (0, "")
    assert printed.endswith("split_emoji_4ways) -> 200, complete\n\n1 request came\n")


def test_serve_speaks_json_a_line_an_event():
    with Serving("--json") as serving:
        (listening,) = events(serving.first)
        host, port = serving.url.removeprefix("http://").split(":")
        assert listening == {
            "event": "listening",
            "url": serving.url,
            "host": host,
            "port": int(port),
            "pid": serving.process.pid,
        }
        assert ask(serving.url, "one two three", path="/api/chat?key=a-secret-key").text == "one two three"
        ask(serving.url, "\x7f\x1b[2J", path="/api/models")
        status, printed, errors = serving.stop()
    assert (status, errors) == (0, "")
    assert not re.search("[^\n -~]", printed)
    chat, models, summary = events(printed)
    assert chat.pop("lasted") >= 0
    assert chat == {
        "event": "request",
        "method": "POST",
        "url": f"{serving.url}/api/chat?key=REDACTEDREDA",
        "status": 200,
        "ending": "complete",
        "outcome": "played",
        "chunks": 3,
        "chunks_taken": 3,
        "bytes_taken": 13,
    }
    assert models["url"] == f"{serving.url}/api/models"
    assert summary == {
        "event": "summary",
        "requests": 2,
        "played": 2,
        "closed": 0,
        "unmatched": 0,
        "lines_dropped": 0,
    }


@pytest.mark.parametrize("as_json", [False, True])
def test_serve_tells_how_far_a_client_came(as_json):
    answers = []

    def client(url):
        for _ in range(2):
            answers.append(ask(url, stream=True))
            assert next(answers[-1].iter_content(None)) == b"He"
        answers[0].close()  # the other one is still there when the server stops

    slow = ["--reply", "Hello", "--fault", "slow_drip(60, size=2)"]
    status, printed = serve_here(client, *slow, *["--json"][: int(as_json)])
    answers[1].close()
    assert status == 0
    if as_json:
        *asked, summary = events(printed)
        came = [(one["outcome"], one["chunks_taken"], one["bytes_taken"]) for one in asked]
        assert came == [("closed", 1, 2)] * 2
        assert (summary["played"], summary["closed"]) == (0, 2)
    else:
        assert printed.count("-> 200, complete\n") == 2
        assert printed.count("  given up after 1 of 3 chunks\n") == 2


@pytest.mark.parametrize("as_json", [False, True])
def test_serve_fails_in_the_end_when_a_request_was_unmatched(as_json, capsys):
    def client(url):
        statuses = [ask(url, recorded="split_emoji_4ways").status_code for _ in range(3)]
        assert statuses == [200, 501, 501]

    options = ["--speed", "0", *["--json"][: int(as_json)]]
    status, printed = serve_here(client, "split_emoji_4ways", *options)
    errors = capsys.readouterr().err
    assert status == 1
    assert errors.startswith("aivvm-testing: no reply for POST http://127.0.0.1:")
    assert errors.count("no reply for") == 1
    if as_json:
        told = events(printed)
        kinds = ["request", "failure", "request", "failure", "request", "summary"]
        assert [event["event"] for event in told] == kinds
        _, failure, unmatched, *_, summary = told
        assert "it is asked once too often" in failure["error"]
        assert (unmatched["status"], unmatched["ending"], unmatched["outcome"]) == (None, None, "unmatched")
        assert (summary["requests"], summary["played"], summary["unmatched"]) == (3, 1, 2)
    else:
        assert printed.count("it is asked once too often") == 2
        assert printed.endswith("\n3 requests came, 2 unmatched\n")


def test_serve_drops_lines_that_nobody_reads_and_says_so(monkeypatch):
    monkeypatch.setattr(lines, "MOST_WAITING", 0)
    status, printed = serve_here(lambda url: flood(url, 50))
    assert (status, printed) == (0, "\n50 requests came (50 lines dropped: nobody read them)\n")


def test_serve_answers_what_is_not_recorded_with_the_reply():
    with Serving("split_emoji_4ways", "--speed", "0", "--reply", "Hello, мир") as serving:
        answers = [
            ask(serving.url, "new"),
            ask(serving.url, recorded="split_emoji_4ways"),
            ask(serving.url, "newer"),
        ]
        assert [answer.content.decode() for answer in answers] == ["Hello, мир", "😀", "Hello, мир"]
        assert serving.stop()[0] == 0


def test_serve_ignores_what_it_is_told_and_gives_the_last_answer_again():
    options = [
        "--speed",
        "0",
        "--ignore-json",
        "messages",
        "--ignore-json",
        "model",
        "--allow-playback-repeats",
    ]
    with Serving("split_emoji_4ways", *options) as serving:
        answers = [ask(serving.url, text) for text in ("new", "newer")]
        assert [answer.content.decode() for answer in answers] == ["😀", "😀"]
        assert serving.stop()[0] == 0


def test_serve_breaks_every_answer_as_it_is_told():
    faults = ["--fault", "sliced(1)", "--fault", "cut(after=3)"]
    with Serving("--reply", "Hello", "--json", *faults) as serving:
        for _ in range(2):
            chunks = ask(serving.url, stream=True).iter_content(None)
            assert [next(chunks), next(chunks), next(chunks)] == [b"H", b"e", b"l"]
            with pytest.raises(requests.exceptions.ChunkedEncodingError):
                next(chunks)
        status, printed, _ = serving.stop()
    assert status == 0
    assert [event.get("ending") for event in events(printed)] == ["cut", "cut", None]


def test_a_fault_that_does_not_go_with_an_answer_is_a_failure():
    with Serving("--reply", "Hello", "--fault", "cut(after=3)") as serving:
        assert ask(serving.url).status_code == 500
        assert requests.post(f"{serving.url}/api/models", json={}, timeout=10).status_code == 200
        status, printed, errors = serving.stop()
    assert status == 1
    assert "the fault faults.cut(after=3) cannot be done to this answer" in printed
    assert "faults.cut(after=3)" in errors


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [([], None), (["--cors"], "*"), (["--cors", "http://localhost:3000"], "http://localhost:3000")],
)
def test_serve_lets_pages_read_that_it_is_told_to(arguments, allowed):
    with Serving("--reply", "Hello", *arguments) as serving:
        assert ask(serving.url).headers.get("access-control-allow-origin") == allowed
        assert serving.stop()[0] == 0


def test_serve_listens_for_other_machines_only_when_it_is_told_twice(capsys):
    assert main(["serve", "--host", "0.0.0.0"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "use 127.0.0.1 or ::1, or say --allow-remote" in captured.err
    with Serving("--host", "0.0.0.0", "--allow-remote", "--json") as serving:
        assert json.loads(serving.first)["host"] == "0.0.0.0"
        assert ask(serving.url).text == "Hello"
        assert serving.stop()[0] == 0


def test_a_host_without_an_address_is_named(monkeypatch, capsys):
    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert main(["serve", "--host", "nowhere"]) == 1
    assert "no address of --host nowhere: Name or service not known" in capsys.readouterr().err


def test_a_port_in_use_is_named():
    with FakeAivvm().server() as server, start("serve", "--port", str(server.port)) as process:
        printed, errors = process.communicate(timeout=10)
        assert (process.returncode, printed) == (1, "")
        assert f"no server at 127.0.0.1 port {server.port}: Address already in use" in errors
        assert "Traceback" not in errors


def test_serve_never_waits_for_somebody_to_say_that_a_connection_was_refused(tmp_path):
    path = tmp_path / "refused.jsonl"
    first, second = [build_request("gpt-4", [{"role": "user", "content": text}]) for text in ("one", "two")]
    Recording(
        [Exchange(first, Reply.no_answer("refused"), 0.0), Exchange(second, Reply.of("back"), 1.0)]
    ).save(path)
    with Serving(str(path)) as serving:
        with pytest.raises(requests.ConnectionError):
            ask(serving.url, "one")
        assert ask(serving.url, "two").text == "back"
        status, printed, _ = serving.stop()
    assert status == 0
    assert "one) -> no head, refused\n" in printed


def flood(url, count):
    """So many requests, a batch at a time, on one connection."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        for _ in range(count // 50):
            sock.sendall(b"GET /nowhere HTTP/1.1\r\nHost: h\r\n\r\n" * 50)
            answers = b""
            while answers.count(b"</html>") < 50:
                answers += sock.recv(65536)


def test_serve_answers_on_where_nobody_reads_its_output():
    with Serving("--json") as serving:
        flood(serving.url, 3000)
        assert ask(serving.url).text == "Hello"
        status, printed, _ = serving.stop()
    assert status == 0
    *asked, summary = events(printed)
    assert 1000 <= len(asked) < 3001
    assert (summary["requests"], summary["lines_dropped"]) == (3001, 3001 - len(asked))


def test_a_second_signal_does_not_wait_for_the_output_to_be_read():
    with Serving("--json") as serving:
        flood(serving.url, 3000)
        serving.process.send_signal(signal.SIGTERM)
        for _ in range(5):  # one that comes on the heels of another may be seen only with the next
            serving.process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                serving.process.wait(2)
                break
        assert serving.process.returncode == 130


@pytest.mark.skipif(sys.platform != "linux", reason="reads the size of a process as Linux gives it")
def test_serve_does_not_remember_what_it_was_asked():
    def size():
        with open(f"/proc/{serving.process.pid}/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    text = "x" * 2**18
    with Serving("--reply", "Hello") as serving:
        for _ in range(5):
            ask(serving.url, text)
        before = size()
        for _ in range(40):
            assert ask(serving.url, text).text == "Hello"
        assert size() - before < 40 * len(text) / 2
        assert serving.stop()[0] == 0


def test_a_closed_pipe_is_no_error_to_shout_about():
    with start("show", "real_flood_nginx_buffering") as process:
        process.stdout.close()
        assert process.wait(10) == 141
        assert process.stderr.read() == ""


def test_recover_makes_a_recording_of_what_a_killed_recorder_left(tmp_path, capsys):
    path = tmp_path / "session.jsonl"
    code = (
        "import os, sys\n"
        "from aivvm_testing import FakeAivvm, RecordingTransport\n"
        "from aivvm.payload import build_request\n"
        "tap = RecordingTransport(FakeAivvm().transport(), sys.argv[1])\n"
        "request = build_request('gpt-4', [{'role': 'user', 'content': 'one two'}])\n"
        "next(tap.send(request, timeout=5))\n"
        "stream = tap.send(request, timeout=5)\n"
        "next(stream)\n"
        "os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 9
    assert main(["show", str(path)]) == 1
    assert "only its journal" in capsys.readouterr().err
    assert main(["recover", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: 2 exchanges recovered\n"
    assert [exchange.reply.body for exchange in Recording.load(path)] == [b"one", b"one"]
    assert Recording.load(path)[1].reply.ending.kind == "unfinished"
    assert main(["recover", str(path)]) == 1
    assert "no recorder of" in capsys.readouterr().err


def test_serve_ends_when_nobody_reads_what_it_prints():
    with start("serve", "--json") as process:
        url = json.loads(process.stdout.readline())["url"]
        with requests.Session() as session:
            for _ in range(400):
                session.post(f"{url}/api/models", json={}, timeout=10)
        process.terminate()
        assert process.wait(10) == 130


@pytest.mark.parametrize("as_json", [False, True])
def test_serve_shows_no_secret_that_somebody_asks_about(as_json, capsys):
    key = "sk-proj-Zq81xWvU7yTtAbCd"
    words = [f"{'a ' * n}{key}{' b' * 100}" for n in range(0, 60, 3)]

    def client(url):
        for text in words:
            ask(url, text)
        ask(url, "fine", path=f"/api/chat?key={key}&x={key}")

    options = ["--json"][: int(as_json)]
    told = []
    for answers, expected in (["split_emoji_4ways"], 1), (["--reply", "Hello"], 0):
        status, printed = serve_here(client, *answers, *options)
        told.append(printed + capsys.readouterr().err)
        assert status == expected
        assert told[-1].count("/api/chat") > len(words)
    for n in range(4, len(key) - 8):
        assert key[n : n + 8] not in "".join(told)
