"""The `aivvm-testing` command: what it prints, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import pytest
import requests

from aivvm import RequestsTransport, Response
from aivvm.payload import build_request
from aivvm_testing import Exchange, FakeAivvm, Recording, Reply, demo, fixtures, wait
from aivvm_testing.cli import main

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
        (["replay"], 2, "the following arguments are required: recording"),
        (["serve", "--port", "80x"], 2, "a port is 0 to 65535, but got 80x"),
        (["dance"], 2, "invalid choice: 'dance'"),
        ([], 2, "the following arguments are required: VERB"),
        (["replay", "ascii", "--speed", "-1"], 2, "a speed is 0 or more, but got -1"),
        (["serve", "--port", "70000"], 2, "a port is 0 to 65535, but got 70000"),
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


def start(*arguments):
    command = [
        sys.executable,
        "-c",
        "from aivvm_testing.cli import main; raise SystemExit(main())",
        *arguments,
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_serve_says_where_it_listens_and_stops_cleanly_on_ctrl_c():
    with start("serve", "split_emoji_4ways", "--speed", "0") as process:
        line = process.stdout.readline()
        url = re.search(r"http://127\.0\.0\.1:\d+", line)[0]
        body = fixtures.load("split_emoji_4ways")[0].request.body
        assert requests.post(f"{url}/api/chat", data=body, timeout=5).content == "😀".encode()
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=10)
    assert process.returncode == 0
    assert "split_emoji_4ways) -> 200, complete" in rest
    assert "1 request came" in rest
    assert "Traceback" not in errors


def test_a_closed_pipe_is_no_error_to_shout_about():
    with start("show", "real_flood_nginx_buffering") as process:
        process.stdout.close()
        assert process.wait(10) == 141
        assert process.stderr.read() == ""
