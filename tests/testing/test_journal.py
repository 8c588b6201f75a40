"""The journal where things go wrong: events that no line can hold, processes that are forked, and what is recovered then."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from aivvm.transport import Headers, Request
from aivvm_testing import format as module
from aivvm_testing.errors import CorruptRecording, SetupFailure
from aivvm_testing.journal import Journal, recover
from aivvm_testing.recording import Exchange, Recording
from aivvm_testing.reply import Chunk, Ending, Head, Reply

GET = Request("GET", "http://x/")
WHOLE = Reply(Head(), (Chunk(b"whole"),), Ending())


def whole(journal: Journal, started: float = 0.0) -> None:
    n = journal.begin(GET, started)
    journal.head(n, Head())
    journal.chunk(n, b"whole", 0.0)
    journal.end(n, Ending())


# What no line can hold


@pytest.fixture
def short_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LINE", 1000)


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (
            Request("POST", "http://x/up", body=b"\xff" * 600),
            r"POST http://x/up, is not in it: one event takes 1\d{3} b",
        ),
        (
            Request("GET", "http://[::1"),
            r'GET http://\[::1, is not in it: "http://\[::1" is no url: Invalid IPv6 URL',
        ),
        (
            Request("GET\r\n", "http://x/"),
            r"GET +http://x/, is not in it: a method holds no control characters",
        ),
    ],
    ids=["too long", "url", "method"],
)
@pytest.mark.usefixtures("short_lines")
def test_a_request_that_no_line_can_hold_is_left_out_and_told(
    tmp_path: Path, request_: Request, why: str
) -> None:
    journal = Journal(tmp_path / "f")
    whole(journal)
    n = journal.begin(request_, 0.5)
    journal.head(n, Head())
    journal.chunk(n, b"a", 0.0)
    whole(journal, 1.0)
    journal.end(n, Ending())
    whole(journal, 2.0)
    with pytest.raises(SetupFailure, match=rf"/f is written, but exchange 1, {why}"):
        journal.finish()
    assert list(Recording.load(tmp_path / "f")) == [Exchange(GET, WHOLE, at) for at in (0.0, 1.0, 2.0)]
    assert os.listdir(tmp_path) == ["f"]
    journal.finish()


def test_where_nothing_else_was_recorded_an_earlier_file_stays(tmp_path: Path) -> None:
    Recording(note="earlier").save(tmp_path / "f")
    journal = Journal(tmp_path / "f")
    journal.end(journal.begin(Request("GET", "http://[::1"), 0.0), Ending())
    with pytest.raises(SetupFailure, match=r"/f is as it was, but exchange 0, GET"):
        journal.finish()
    assert Recording.load(tmp_path / "f").note == "earlier"


@pytest.mark.parametrize("part", ["head", "unsendable head", "chunk", "hex chunk", "end"])
@pytest.mark.usefixtures("short_lines")
def test_an_exchange_breaks_off_at_what_no_line_can_hold(tmp_path: Path, part: str) -> None:
    journal = Journal(tmp_path / "f")
    n, other = journal.begin(GET, 0.0), journal.begin(GET, 1.0)
    if part == "head":
        journal.head(n, Head(headers=Headers([("a", "b" * 1000)])))
    elif part == "unsendable head":
        journal.head(n, Head(reason="\u4e2d"))
    else:
        journal.head(n, Head(at=0.5))
        journal.chunk(n, b"first", 0.75)
        if part == "end":
            journal.end(n, Ending("cut", 1.0, b"\xff" * 600))
        else:
            journal.chunk(n, (b"a" if part == "chunk" else b"\xff") * 1000, 1.0)
    journal.chunk(n, b"late", 2.0)
    journal.end(n, Ending(at=3.0))
    journal.head(other, Head())
    journal.chunk(other, b"whole", 0.0)
    journal.end(other, Ending())
    with pytest.raises(
        SetupFailure, match=r"/f is written, but exchange 0 breaks off in it: (one event takes|a head is)"
    ):
        journal.finish()
    first, second = Recording.load(tmp_path / "f")
    assert second == Exchange(GET, WHOLE, 1.0)
    assert first.reply.ending.kind == "closed"
    assert (first.reply.ending.error or "").startswith("not recorded further: ")
    if "head" in part:
        assert first.reply.head is None
    else:
        assert first.reply.chunks == (Chunk(b"first", 0.75),)


@pytest.mark.parametrize("part", ["head", "chunk", "end"])
def test_an_exchange_breaks_off_at_a_moment_that_never_comes(tmp_path: Path, part: str) -> None:
    never = float("inf")
    journal = Journal(tmp_path / "f")
    n = journal.begin(GET, 0.0)
    journal.head(n, Head(at=never if part == "head" else 0.5))
    journal.chunk(n, b"a", never if part == "chunk" else 0.75)
    journal.end(n, Ending(at=never))
    with pytest.raises(SetupFailure, match=r"exchange 0 breaks off in it: a moment is a number of seconds"):
        journal.finish()
    assert Recording.load(tmp_path / "f")[0].reply.ending.kind == "closed"


def test_an_error_without_words_is_told_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> bytes:
        raise MemoryError

    journal = Journal(tmp_path / "f")
    n = journal.begin(GET, 0.0)
    journal.head(n, Head())
    monkeypatch.setattr("aivvm_testing.journal.chunk_line", no_memory)
    journal.chunk(n, b"a", 0.0)
    other = journal.begin(GET, 0.0)
    journal.head(other, Head())
    journal.chunk(other, b"a", 0.0)
    expected = "exchange 0 breaks off in it: MemoryError; and 1 more of its exchanges are not as they were"
    with pytest.raises(SetupFailure, match=expected):
        journal.finish()


# Processes


def ran(script: str, path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PRELUDE + script, str(path)], capture_output=True, text=True, timeout=30
    )


PRELUDE = """
import os, signal, sys
from aivvm.transport import Request
from aivvm_testing.journal import Journal
from aivvm_testing.reply import Ending, Head

path = sys.argv[1]
journal = Journal(path)

def ask(name, n=None):
    n = n or journal.begin(Request("GET", f"http://x/{name}"), 0.0)
    journal.head(n, Head())
    journal.chunk(n, name.encode(), 0.0)
    journal.end(n, Ending())

def finish():
    try:
        journal.finish()
    except OSError as error:
        print(error)
    sys.stdout.flush()

"""


def test_what_came_at_once_is_written_at_once_and_before_anybody_goes_on(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "f")
    n = journal.begin(GET, 0.0)
    before = os.path.getsize(journal.journal_path)
    with journal.together:
        journal.head(n, Head())
        journal.chunk(n, b"whole", 0.0)
        assert os.path.getsize(journal.journal_path) == before
    lines = Path(journal.journal_path).read_bytes()[before:].splitlines()
    assert [b"reply" in lines[0], b"whole" in lines[1], len(lines)] == [True, True, 2]

    def broken() -> float:
        with journal.together, journal.together:
            journal.end(n, Ending())
            return 1 / 0

    with pytest.raises(ZeroDivisionError):
        broken()
    journal.finish()
    assert Recording.load(tmp_path / "f")[0].reply == WHOLE


@pytest.mark.parametrize("itself", [True, False], ids=["itself", "another"])
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_what_ends_while_a_line_is_written_is_told_once_and_after_it(
    tmp_path: Path, before: bool, itself: bool
) -> None:
    """Garbage collection may close a stream at any moment, in the thread that is writing."""

    class Interrupted:
        def __init__(self, file: Any) -> None:
            self.file = file
            self.over = False

        def write(self, data: bytes) -> int:
            if before:
                self.collect()
            written: int = self.file.write(data)
            self.collect()
            return written

        def collect(self) -> None:
            if not self.over:
                self.over = True
                journal.end(dropped, Ending("closed"))

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    journal = Journal(tmp_path / "f")
    dropped = journal.begin(GET, 0.0)
    journal.head(dropped, Head(status=404))
    n = journal.begin(GET, 0.5)
    journal._file = Interrupted(journal._file)  # type: ignore[assignment]  # a stand-in
    if itself:
        journal.end(dropped, Ending("closed"))
    journal.head(n, Head())
    journal.chunk(n, b"whole", 0.0)
    journal.end(n, Ending())
    journal.finish()
    assert [exchange.reply for exchange in Recording.load(tmp_path / "f")] == [
        Reply(Head(status=404), (), Ending("closed")),
        WHOLE,
    ]


def test_what_ends_at_any_step_of_the_writer_is_written_before_anybody_goes_on(tmp_path: Path) -> None:
    """Garbage collection may close a stream between any two instructions of the journal."""
    step = 1
    while told_at(step, tmp_path / str(step)):
        step += 1
    assert step > 100


def told_at(step: int, path: Path) -> bool:
    """Records while an exchange ends before this instruction of the journal; false where it has not so many."""
    journal = Journal(path)
    dropped = journal.begin(GET, 0.0)
    n = journal.begin(GET, 0.5)
    journal.head(n, Head())
    steps = 0

    def collect(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal steps
        if frame.f_code.co_filename != inspect.getsourcefile(Journal):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            steps += 1
            if steps == step:
                journal.end(dropped, Ending("cut"))
        return collect

    before = sys.gettrace()
    sys.settrace(collect)
    try:
        with journal.together:
            journal.chunk(n, b"whole", 0.0)
        journal.end(n, Ending())
    finally:
        sys.settrace(before)
    if steps < step:
        journal.abandon()
        return False
    assert Path(journal.journal_path).read_bytes().count(b'"end": ') == 2, step
    journal.finish()
    assert [one.reply for one in Recording.load(path)] == [Reply(None, (), Ending("cut")), WHOLE], step
    return True


class Late(Exception):
    """What a watchdog raises when its alarm comes."""


@pytest.fixture(params=[KeyboardInterrupt, Late])
def interrupt(request: pytest.FixtureRequest) -> Iterator[type[BaseException]]:
    """What is raised where a signal comes."""

    def handler(signum: int, frame: FrameType | None) -> None:
        raise request.param

    before = signal.signal(signal.SIGINT, handler)
    yield request.param
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("when", ["before it is made", "before it is written", "in it", "after it"])
@pytest.mark.parametrize("event", ["request", "head", "chunk", "end", "together"])
def test_an_interrupt_at_any_event_leaves_a_recording_that_is_right(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    interrupt: type[BaseException],
    event: str,
    when: str,
) -> None:
    class Interrupting:
        def __init__(self, file: Any) -> None:
            self.own = file

        def write(self, data: bytes) -> int:
            journal._file = self.own
            if when != "before it is written":
                self.own.write(data[:20] if when == "in it" else data)
            signal.raise_signal(signal.SIGINT)
            return len(data)

    def interrupted(*_: object) -> bytes:
        signal.raise_signal(signal.SIGINT)
        return b""

    def together(one: int) -> None:
        with journal.together:
            journal.chunk(one, b"a", 0.0)
            journal.end(one, Ending())

    steps: dict[str, Callable[[int], object]] = {
        "request": lambda _: journal.begin(GET, 0.0),
        "head": lambda one: journal.head(one, Head()),
        "chunk": lambda one: journal.chunk(one, b"a", 0.0),
        "end": lambda one: journal.end(one, Ending()),
        "together": together,
    }
    journal = Journal(tmp_path / "f")
    n = journal.begin(GET, 0.0)
    if event in ("chunk", "end", "together"):
        journal.head(n, Head())
    if when == "before it is made":
        name = {"request": "request", "head": "head", "chunk": "chunk"}.get(event, "ending")
        monkeypatch.setattr(f"aivvm_testing.journal.{name}_line", interrupted)
    else:
        journal._file = Interrupting(journal._file)  # type: ignore[assignment]  # a stand-in
    with pytest.raises(interrupt):
        steps[event](n)
    monkeypatch.undo()
    journal.end_open(Ending("closed"))
    later = journal.begin(GET, 1.0)
    thread = threading.Thread(target=journal.end, args=(later, Ending("cut")))  # which no lock keeps out
    thread.start()
    thread.join(5.0)
    assert not thread.is_alive()
    journal.finish()
    first, *_, last = [one.reply for one in Recording.load(tmp_path / "f")]
    assert last.ending.kind == "cut"
    written = when != "before it is made"
    assert first.ending.kind == ("complete" if written and event in ("end", "together") else "closed")
    assert first.body == (b"a" if event == "together" or (written and event == "chunk") else b"")


def test_what_a_forked_child_asks_is_its_own_loss_alone(tmp_path: Path) -> None:
    script = """
ask("before")
open_one = journal.begin(Request("GET", "http://x/open"), 0.0)
child = os.fork()
if child == 0:
    ask("child")
    ask("open", open_one)
    finish()
    os._exit(0)
os.waitpid(child, 0)
ask("open", open_one)
ask("after")
finish()
"""
    done = ran(script, tmp_path / "f")
    assert (done.returncode, done.stderr) == (0, "")
    assert "what a forked process does is not recorded by the recorder of its parent" in done.stdout
    assert done.stdout.count("\n") == 1
    bodies = [exchange.reply.body for exchange in Recording.load(tmp_path / "f")]
    assert bodies == [b"before", b"open", b"after"]
    assert os.listdir(tmp_path) == ["f"]


def test_a_forked_child_that_asks_nothing_finishes_in_silence_and_leaves_the_journal(tmp_path: Path) -> None:
    script = """
ask("before")
child = os.fork()
if child == 0:
    finish()
    os._exit(0)
os.waitpid(child, 0)
print(os.path.exists(path), os.path.exists(path + ".journal"))
journal.finish()
"""
    done = ran(script, tmp_path / "f")
    assert (done.stdout, done.stderr) == ("False True\n", "")
    assert len(Recording.load(tmp_path / "f")) == 1


def test_a_tap_that_is_closed_in_a_forked_child_leaves_the_journal_as_it_is(tmp_path: Path) -> None:
    script = """
import hashlib
from aivvm.transport import Headers
from aivvm_testing.record.tap import Tap
from aivvm_testing.reply import Head

def state():
    return hashlib.sha256(open(path + ".tap.journal", "rb").read()).hexdigest()

secret = "Zq8dk2Lw0xT5vBn7"
tap = Tap(path + ".tap")
entry = tap.begin(Request("GET", "http://x/login"))
entry.head(Head())
entry.chunk(secret.encode())
entry.end("complete")
tap.begin(Request("GET", "http://x/", Headers([("Authorization", "Bearer " + secret)]))).end("cut")
before = state()
child = os.fork()
if child == 0:
    tap.close()
    os._exit(0)
os.waitpid(child, 0)
print(state() == before)
tap.close()
print(secret in open(path + ".tap").read())
journal.finish()
"""
    done = ran(script, tmp_path / "f")
    assert (done.stdout, done.stderr) == ("True\nFalse\n", "")


def test_a_forked_child_can_record_into_a_file_of_its_own(tmp_path: Path) -> None:
    script = """
child = os.fork()
if child == 0:
    journal = Journal(path + ".child")
    ask("child")
    finish()
    os._exit(0)
os.waitpid(child, 0)
ask("parent")
finish()
"""
    assert ran(script, tmp_path / "f").stdout == ""
    assert Recording.load(tmp_path / "f")[0].reply.body == b"parent"
    assert Recording.load(tmp_path / "f.child")[0].reply.body == b"child"


def test_a_child_that_outlives_a_killed_recorder_does_not_keep_its_journal(tmp_path: Path) -> None:
    script = """
ask("before")
ready, told = os.pipe()
if os.fork() == 0:
    os.write(told, b"1")
    sys.stdin.read()
    os._exit(0)
os.read(ready, 1)
print("forked", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + script, str(tmp_path / "f")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "forked\n"
        process.wait()
        assert recover(tmp_path / "f") == 1  # the child waits until its input ends, below


def test_a_fork_while_a_thread_writes_leaves_no_lock_behind(tmp_path: Path) -> None:
    script = """
import threading
held, go = threading.Event(), threading.Event()

def hold():
    with journal._lock:
        held.set()
        go.wait()

thread = threading.Thread(target=hold)
thread.start()
held.wait()
import warnings
warnings.simplefilter("ignore")  # about what is done here on purpose
child = os.fork()
if child == 0:
    ask("child")
    finish()
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
go.set()
thread.join()
ask("parent")
finish()
"""
    assert ran(script, tmp_path / "f").stdout.splitlines()[-1] == "7"
    assert len(Recording.load(tmp_path / "f")) == 1


def test_a_fork_while_a_thread_begins_an_exchange_leaves_no_lock_behind(tmp_path: Path) -> None:
    script = """
import threading
import warnings
from aivvm_testing.record.tap import Tap
tap = Tap(path + ".tap")
held, go = threading.Event(), threading.Event()

def hold():
    with tap._lock:
        held.set()
        go.wait()

thread = threading.Thread(target=hold)
thread.start()
held.wait()
warnings.simplefilter("ignore")  # about what is done here on purpose
child = os.fork()
if child == 0:
    tap.begin(Request("GET", "http://x/child")).end("cut")
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
go.set()
thread.join()
tap.begin(Request("GET", "http://x/parent")).end("cut")
tap.close()
finish()
"""
    assert ran(script, tmp_path / "f").stdout.splitlines()[-1] == "7"
    assert [one.request.url for one in Recording.load(tmp_path / "f.tap")] == ["http://x/parent"]


# Recovery


def journal_of(path: Path, *lines: object) -> Path:
    left = Path(f"{path}.journal")
    left.write_text("".join([json.dumps(line) + "\n" for line in lines]))
    return left


HEADER = {"aivvm_recording": 1, "origin": "recorded", "note": ""}


def request(n: int) -> dict[str, object]:
    return {"x": n, "request": {"method": "GET", "url": "http://x/", "headers": []}, "started": 0.0}


def head(n: int) -> dict[str, object]:
    return {"x": n, "reply": {"status": 200, "reason": "OK", "headers": []}}


def test_a_number_that_two_processes_gave_is_refused_and_the_journal_kept(tmp_path: Path) -> None:
    left = journal_of(tmp_path / "f", HEADER, request(1), head(1), request(2), request(2), head(2))
    before = left.read_bytes()
    with pytest.raises(
        CorruptRecording,
        match=r'f\.journal:5: "x": 2 begins a second time: two processes wrote into this journal',
    ):
        recover(tmp_path / "f")
    assert left.read_bytes() == before
    assert os.listdir(tmp_path) == ["f.journal"]


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        ([head(2), head(2)], 'no exchange with "x": 2: a second "reply" in exchange 1'),
        ([{"x": 2, "text": "a"}], 'no exchange with "x": 2: a chunk before the head of exchange 1'),
        ([{"x": 1, "text": "late"}], 'no exchange with "x": 2: "text" outside an exchange'),
        ([{"x": 2, "end": "cut"}, {"x": 2, "end": "cut"}], "more than the exchanges that begin"),
    ],
    ids=["two heads", "no head", "after its end", "two ends"],
)
def test_a_journal_of_which_no_sound_recording_comes_is_kept(
    tmp_path: Path, extra: list[object], why: str
) -> None:
    left = journal_of(
        tmp_path / "f", HEADER, request(1), head(1), {"x": 1, "end": "complete"}, request(2), *extra
    )
    with pytest.raises(CorruptRecording, match=why):
        recover(tmp_path / "f")
    assert left.exists()
    assert os.listdir(tmp_path) == ["f.journal"]
