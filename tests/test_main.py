"""The command: what it prints, what it asks, and how it ends. Real processes where the shell is part of it."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import aivvm
from aivvm import Headers, Interrupted, Request, Response
from aivvm.__main__ import main
from aivvm.transport import Timeout
from tests.peers import END, HEAD, PATIENCE, framed, serving


class Scripted:
    """Stands where the command makes its transport."""

    requests: list[Request]
    timeouts: list[Timeout]
    chunks: tuple[bytes | BaseException, ...]
    status = 200

    def send(self, request: Request, *, timeout: Timeout) -> Response:
        self.requests.append(request)
        self.timeouts.append(timeout)
        return Response(self.status, "Reason", Headers(), self._chunks())

    def _chunks(self) -> Iterator[bytes]:
        for chunk in self.chunks:
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk

    def close(self) -> None:
        pass


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> type[Scripted]:
    class Fresh(Scripted):
        requests: list[Request] = []  # noqa: RUF012  # a fresh class for each test
        timeouts: list[Timeout] = []  # noqa: RUF012  # a fresh class for each test
        chunks = (b"Hello",)

    monkeypatch.setattr("aivvm.requests_transport.RequestsTransport", Fresh)
    return Fresh


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


# In this process


def test_the_answer_goes_to_standard_output_and_ends_with_a_newline(
    script: type[Scripted], capsys: pytest.CaptureFixture[str]
) -> None:
    script.chunks = ("Привет, ".encode(), "мир".encode())
    assert main(["Hi"]) == 0
    script.chunks = (b"with its own\n",)
    assert main(["Hi"]) == 0
    script.chunks = ()
    assert main(["Hi"]) == 0
    assert capsys.readouterr() == ("Привет, мир\nwith its own\n", "")


def test_what_is_asked_is_what_the_arguments_say(script: type[Scripted]) -> None:
    arguments = ["--model", "gpt-4", "--url", "http://127.0.0.1:3000", "--system", "Be brief."]
    assert main(["Hello", *arguments, "--temperature", "0.5", "--timeout", "3"]) == 0
    assert main(["Hello"]) == 0
    asked, plain = script.requests
    assert asked.url == "http://127.0.0.1:3000/api/chat"
    assert asked.json() == {
        "model": {"id": "gpt-4", "name": "GPT-4"},
        "messages": [{"role": "user", "content": "Hello"}],
        "key": "",
        "prompt": "Be brief.",
        "temperature": 0.5,
    }
    assert plain.url == "https://chat.aivvm.com/api/chat"
    assert plain.json()["model"]["id"] == "gpt-3.5-turbo"
    assert script.timeouts == [3.0, (10.0, 120.0)]


def test_a_dash_reads_the_prompt_from_standard_input(
    script: type[Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("two\nlines é\n"))
    assert main(["-"]) == 0
    assert script.requests[0].json()["messages"][0]["content"] == "two\nlines é\n"


def test_standard_input_that_is_no_text_is_misuse(
    script: type[Scripted], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"ab\xff"), encoding="utf-8"))
    assert main(["-"]) == 2
    assert capsys.readouterr().err == "aivvm: standard input is not utf-8: invalid start byte at byte 2\n"
    monkeypatch.setattr("sys.stdin", None)
    assert main(["-"]) == 2
    assert script.requests == []


DANGEROUS = (
    b"\xff\\x1b[2J \\u202e \\ud83d \\r\\n\\t."  # malformed, so that the fallback makes the escapes real
)


def test_a_terminal_is_shown_controls_and_never_sent_them(
    script: type[Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    script.chunks = (DANGEROUS,)
    monkeypatch.setattr("sys.stdout", terminal := Terminal())
    assert main(["Hi"]) == 0
    assert terminal.getvalue() == "ÿ\\x1b[2J \\u202e \\ud83d \\x0d\n\t.\n"


def test_a_pipe_gets_the_text_as_it_is_but_for_what_no_encoding_carries(
    script: type[Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    script.chunks = (DANGEROUS, "é".encode())
    for encoding, expected in [
        ("utf-8", "ÿ\x1b[2J \u202e \\ud83d \r\n\t.é\n".encode()),
        ("ascii", b"\\xff\x1b[2J \\u202e \\ud83d \r\n\t.\\xe9\n"),
    ]:
        pipe = io.BytesIO()
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(pipe, encoding=encoding, newline=""))
        assert main(["Hi"]) == 0
        assert pipe.getvalue() == expected


def test_an_error_leaves_what_came_and_says_one_line(
    script: type[Scripted], capsys: pytest.CaptureFixture[str]
) -> None:
    script.chunks = (b"half an ans", Interrupted("cut here"))
    assert main(["Hi"]) == 1
    assert capsys.readouterr() == ("half an ans\n", "aivvm: cut here\n")
    script.chunks = (b"<html><title>\x1b]0;owned\x07\nNo</title>",)
    script.status = 500
    assert main(["Hi", "--url", "http://h"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        'aivvm: http://h/api/chat answered 500 Reason with a web page ("\\x1b]0;owned\\x07 No"): '
        "is url the address of a Chatbot UI server?\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: prompt"),
        (["Hi", "there"], "unrecognized arguments: there"),
        (["Hi", "--nope"], "unrecognized arguments: --nope"),
        (["Hi", "--temperature", "hot"], "invalid float value: 'hot'"),
        (["Hi", "--temperature", "nan"], "aivvm: temperature must be a finite number, but got nan (float)\n"),
        (["Hi", "--model", "gpt4"], "aivvm: unknown model 'gpt4': did you mean 'gpt-4'"),
        (["Hi", "--url", "nowhere"], "aivvm: url must be http or https"),
        (["Hi", "--timeout", "0"], "aivvm: timeout must be more than 0"),
    ],
)
def test_misuse_is_told_before_anything_is_sent(
    script: type[Scripted], capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert out == ""
    assert script.requests == []


def test_help_and_version_are_no_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"aivvm {aivvm.__version__}\n"
    assert main(["--help"]) == 0
    assert "gpt-4-32k" in capsys.readouterr().out


def test_ctrl_c_ends_the_line_and_nothing_else_is_said(
    script: type[Scripted], capsys: pytest.CaptureFixture[str]
) -> None:
    script.chunks = (b"half", KeyboardInterrupt())
    assert main(["Hi"]) == 130
    assert capsys.readouterr() == ("half\n", "")


def test_without_a_standard_output_it_says_so(
    script: type[Scripted], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout", None)
    assert main(["Hi"]) == 1
    assert capsys.readouterr().err == "aivvm: there is no standard output to write the answer to\n"
    assert script.requests == []


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (BrokenPipeError(), 141, ""),
        (
            OSError(28, "No space left on device"),
            1,
            "aivvm: cannot write the answer: No space left on device\n",
        ),
    ],
)
def test_an_output_that_fails_ends_the_stream(
    script: type[Scripted],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: OSError,
    status: int,
    said: str,
) -> None:
    class Failing(io.StringIO):
        def write(self, text: str) -> int:
            raise error

    monkeypatch.setattr("sys.stdout", Failing())
    assert main(["Hi"]) == status
    assert capsys.readouterr().err == said


# As a process


def start(url: str, *arguments: str, **settings: Any) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": ""}
    return subprocess.Popen(
        [sys.executable, "-m", "aivvm", "Hi", "--url", url, *arguments],
        stdout=settings.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        env=environment,
        **settings,
    )


def test_each_piece_is_out_before_the_next_comes() -> None:
    seen = threading.Event()

    def script(connection: Any) -> None:
        connection.sendall(HEAD + framed(b"one "))
        assert seen.wait(PATIENCE)
        connection.sendall(framed(b"two") + END)

    with serving(script) as peer, start(peer.url) as process:
        assert process.stdout is not None
        assert process.stdout.read(4) == b"one "
        seen.set()
        assert process.communicate(timeout=PATIENCE) == (b"two\n", b"")
    assert process.returncode == 0


def test_ctrl_c_stops_the_process_with_130_and_without_a_word() -> None:
    def script(connection: Any) -> None:
        connection.sendall(HEAD + framed(b"one "))
        assert connection.recv(1) == b""

    with serving(script) as peer, start(peer.url) as process:
        assert process.stdout is not None
        assert process.stdout.read(4) == b"one "
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=PATIENCE) == (b"\n", b"")
    assert process.returncode == 130


INTERRUPTED = """
import importlib.abc, runpy, sys

class CtrlC(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == sys.argv[-1]:
            raise KeyboardInterrupt

sys.meta_path.insert(0, CtrlC())
sys.modules.pop(sys.argv[-1], None)
runpy.run_module("aivvm", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    "module",
    ["argparse", "contextlib", "aivvm.models", "aivvm.provider", "aivvm.requests_transport", "requests"],
)
def test_ctrl_c_while_it_is_still_importing_says_nothing_either(module: str) -> None:
    command = [sys.executable, "-c", INTERRUPTED, "Hi", "--url", "http://127.0.0.1:9", "--system", module]
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_nothing_is_imported_outside_the_reach_of_its_own_ctrl_c() -> None:
    script = (
        "import sys, aivvm; before = {*sys.modules}; import aivvm.__main__; print({*sys.modules} - before)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "{'aivvm.__main__'}\n"


def test_a_closed_pipe_stops_the_process_and_its_stream_without_a_word() -> None:
    hung_up = threading.Event()

    def script(connection: Any) -> None:
        try:
            connection.sendall(HEAD)
            while True:
                connection.sendall(framed(b"more "))
        except ConnectionError:
            hung_up.set()

    with serving(script) as peer, start(peer.url) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(5) == b"more "
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(PATIENCE) == 141
        assert hung_up.wait(PATIENCE)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a file that is always full")
def test_an_output_that_is_full_is_an_error_of_one_line() -> None:
    answer = HEAD + framed(b"x") + END
    with open("/dev/full", "wb") as full, serving(answer) as peer, start(peer.url, stdout=full) as process:
        _, said = process.communicate(timeout=PATIENCE)
    assert said == b"aivvm: cannot write the answer: No space left on device\n"
    assert process.returncode == 1


def test_a_refused_connection_is_an_error_of_one_line() -> None:
    with serving(b"") as peer:
        url = peer.url
    with start(url) as process:
        out, said = process.communicate(timeout=PATIENCE)
    assert (out, process.returncode) == (b"", 1)
    place = url.removeprefix("http://")
    expected = f"aivvm: cannot connect to {place}: connection refused. Is a server listening there?\n"
    assert said.decode() == expected
