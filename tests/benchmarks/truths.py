"""What happened, and what a recorder kept of it: `python -m tests.benchmarks.truths NAME URL ROUNDS ROW...`.

Each function below is one truth: it lets the recorder NAME record what `upstream` does, replays that, and compares; its
docstring says what exactly. It prints a line of JSON for each truth: its name in `TRUTHS`, and a cell: what to print,
and a number that is higher where more was kept, None where there is nothing to compare. What a recorder raises is its answer, so
nothing here fails; and where it hangs, it is given up, and so are the rows after it: ask for them again.

`--record NAME URL FOLDER` instead records until it is killed, and `--killed NAME URL FOLDER` is the truth about that.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from tests.benchmarks.recorders import RECORDERS, Client, Door, Recorder
from tests.benchmarks.upstream import ENDLESS, GAP, MALFORMED, SIX, TOKEN, malformed

ALIKE = 50  # milliseconds; times that differ by less are alike, as this is loopback on a busy machine
WORST = -1000.0
LOOPS = 1000  # pieces, where there are six: it would go on for ever
WANTED = 3  # events
KEPT = 3  # answers
THREADS = 8
EACH = 3
SECRETS = {
    "header": "sk-7d1f0c93ab52e84f6601",
    "cookie": "sid-93be11f0a6d24c7795",
    "query": "key-5c02d9e7f1384ab6a0",
    "json": "pw-e1a7740bd95f4c2386",
    "answer": TOKEN,
}


_kept = tempfile.TemporaryDirectory()


class Cell(NamedTuple):
    text: str
    worth: float | None = None


HANGS = Cell("hangs", WORST)


class Outcome(NamedTuple):
    """What a reader met: the pieces that it got, and the name of the exception that it got then, if any."""

    pieces: list[bytes]
    error: str | None


def first_byte(recorder: Recorder, url: str, rounds: int) -> Cell:
    """Milliseconds from asking for `/six` until the reader has its first bytes, while recording; a median."""
    took = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder, recorder.recording(folder, url) as client:
            begun = time.perf_counter()
            with client.reading("/six") as pieces:
                next(pieces)
                took.append(1000 * (time.perf_counter() - begun))
                list(pieces)
    return _milliseconds(median(took))


def chunks_on_replay(recorder: Recorder, url: str, rounds: int) -> Cell:
    """The pieces of `/six`, as the replay gives them to a reader who takes up to 4 KiB. The truth is 6, none empty."""
    pieces = _outcome(recorder.replaying, _six(recorder, url), url, "/six").pieces
    stray = pieces.count(b"")
    count = len(pieces) - stray
    worth = -abs(len(SIX) - count) - stray
    return Cell(f"{count}{' + an empty one' if stray else ''}", worth)


def time_on_replay(recorder: Recorder, url: str, rounds: int) -> Cell:
    """Milliseconds that a replay of `/six` takes, as replays are without being told otherwise."""
    with recorder.replaying(_six(recorder, url), url) as client:
        return _milliseconds(1000 * _timed(client)[0])


def times_as_recorded(recorder: Recorder, url: str, rounds: int) -> Cell:
    """By how many milliseconds the pieces of `/six` come too early or too late, at most, where a replay keeps times."""
    if recorder.as_recorded is None:
        return Cell("no way found")
    with recorder.as_recorded(_six(recorder, url), url) as client:
        moments = _timed(client)[1]
    if len(moments) != len(SIX):
        return Cell(f"{len(moments)} pieces", WORST)
    off = max([abs(moment - n * GAP) for n, moment in enumerate(moments)])
    return Cell(f"off by {1000 * off:.0f}", -(1000 * off // ALIKE))


def malformed_bodies(recorder: Recorder, url: str, rounds: int) -> Cell:
    """How many of nine malformed bodies, each recorded by itself, are replayed byte for byte."""
    equal, raised = 0, set()
    for n in range(len(MALFORMED)):
        with tempfile.TemporaryDirectory() as folder:
            try:
                _record(recorder, url, folder, f"/body/{n}")
                with recorder.replaying(folder, url) as client:
                    equal += client.read(f"/body/{n}") == b"".join(malformed(n))
            except Exception as error:
                raised.add(type(error).__name__)
    return Cell(f"{equal}{''.join([f', {name}' for name in sorted(raised)])}", equal)


def whole_chunks(recorder: Recorder, url: str, rounds: int) -> Cell:
    """Whether `iter_content(None)` on a replay of `/six` gives its bytes and ends. An endless loop hangs."""
    door = recorder.replaying(_six(recorder, url), url)
    with door as client, client.reading("/six", None) as pieces:
        found = list(islice(pieces, LOOPS))
    if len(found) == LOOPS:
        return Cell("endless loop", 0)
    return Cell("ok", 1) if b"".join(found) == b"".join(SIX) else Cell("other bytes", 0)


def reset(recorder: Recorder, url: str, rounds: int) -> Cell:
    """After three chunks of a stream comes RST. The reader gets both while recording, and the same from a replay."""
    with tempfile.TemporaryDirectory() as folder:
        live = _outcome(recorder.recording, folder, url, "/reset")
        if live.error is None or b"".join(live.pieces) != b"".join(SIX[:3]):
            return Cell("lost while recording", 0)
        again = _outcome(recorder.replaying, folder, url, "/reset")
    if b"".join(again.pieces) == b"".join(live.pieces) and again.error == live.error:
        return Cell("reproduced", 2)
    return _instead(again)


def early_close(recorder: Recorder, url: str, rounds: int) -> Cell:
    """A reader leaves after two of six chunks. A replay gives those two, and no clean end to one that reads on."""
    with tempfile.TemporaryDirectory() as folder:
        with recorder.recording(folder, url) as client, client.reading("/six") as pieces:
            list(islice(pieces, 2))
        again = _outcome(recorder.replaying, folder, url, "/six")
    if again.pieces[:2] == SIX[:2] and again.error is not None:
        return Cell("reproduced", 2)
    return _instead(again)


def endless(recorder: Recorder, url: str, rounds: int) -> Cell:
    """A stream goes on, an event every 10 ms; its reader wants three. When it has them, while recording."""
    with tempfile.TemporaryDirectory() as folder, recorder.recording(folder, url) as client:
        begun = time.perf_counter()
        with client.reading("/endless") as pieces:
            got = b""
            while got.count(b"\n\n") < WANTED:
                got += next(pieces)
            took = time.perf_counter() - begun
    if took >= ENDLESS:
        return Cell(f"none in {ENDLESS:g} s", 0)
    return Cell(f"after {1000 * took:.0f} ms", 1)


def one_too_many(recorder: Recorder, url: str, rounds: int) -> Cell:
    """Two equal requests got two answers. What a third gets on replay; the truth is that there was none."""
    target = f"/turn?{time.time_ns()}"
    with tempfile.TemporaryDirectory() as folder:
        _record(recorder, url, folder, target, target)
        got: list[bytes] = []
        with suppress(Exception), recorder.replaying(folder, url) as client:
            for _ in range(3):
                got.append(client.read(target))
    if got[:2] != [b"answer 1", b"answer 2"]:
        return Cell("not even two", 0)
    if len(got) == 2:
        return Cell("error", 2)
    return Cell({got[0]: "wraps to the first", got[1]: "the last again"}.get(got[2], "something else"), 0)


def secrets(recorder: Recorder, url: str, rounds: int) -> Cell:
    """How many of five secrets are in the files: Authorization, a cookie, a query, JSON of a request and of an answer."""
    with tempfile.TemporaryDirectory() as folder:
        with recorder.recording(folder, url) as client:
            client.read(
                f"/secret?api_key={SECRETS['query']}",
                headers={
                    "Authorization": f"Bearer {SECRETS['header']}",
                    "Cookie": f"session={SECRETS['cookie']}",
                },
                json={"password": SECRETS["json"], "model": "gpt-4"},
            )
        kept = b"".join([path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()])
    if not kept:
        return Cell("nothing saved")
    left = [name for name, secret in SECRETS.items() if secret.encode() in kept]
    return Cell(str(len(left)), -len(left))


def threads(recorder: Recorder, url: str, rounds: int) -> Cell:
    """Of 24 answers that eight threads got at once, three each, how many a replay gives to the same requests."""
    targets = [f"/echo/{n}" for n in range(THREADS * EACH)]
    with tempfile.TemporaryDirectory() as folder:
        with recorder.recording(folder, url) as client:
            ready = threading.Barrier(THREADS)

            def ask(some: list[str]) -> None:
                ready.wait()
                for target in some:
                    client.read(target)

            running = [
                threading.Thread(target=_quietly, args=(ask, targets[n::THREADS])) for n in range(THREADS)
            ]
            for thread in running:
                thread.start()
            for thread in running:
                thread.join()
        with recorder.replaying(folder, url) as client:
            kept = sum([_answers(client, target, target[6:].encode()) for target in targets])
    return Cell(str(kept), kept)


def killed(recorder: Recorder, url: str, folder: str) -> Cell:
    """A process is killed (SIGKILL) after three whole answers, with a fourth under way: how many of three are kept.

    Whatever the tool has for such a case is used first. The recording was made in `folder` before.
    """
    try:
        if recorder.recover is not None:
            recorder.recover(folder)
        with recorder.replaying(folder, url) as client:
            kept = sum([_answers(client, f"/echo/{n}", b"%d" % n) for n in range(KEPT)])
    except Exception:
        kept = 0
    if not kept and not any(path.is_file() for path in Path(folder).rglob("*")):
        return Cell("no file", 0)
    return Cell(f"{kept} of {KEPT}", kept)


Truth = Callable[[Recorder, str, int], Cell]
KILLED = "killed while recording"
TRUTHS: dict[str, Truth] = {
    "first byte while recording, ms": first_byte,
    "chunks on replay, of 6": chunks_on_replay,
    "time on replay, ms": time_on_replay,
    "with the recorded times, ms": times_as_recorded,
    "malformed bodies, of 9": malformed_bodies,
    "iter_content(None)": whole_chunks,
    "reset mid-stream": reset,
    "early close": early_close,
    "endless, reader wants 3 events": endless,
    "one play too many": one_too_many,
    "planted secrets in the file, of 5": secrets,
    "8 threads x 3, of 24": threads,
}


def _milliseconds(value: float) -> Cell:
    return Cell(f"{value:.0f}" if value >= 10 else f"{value:.1f}", -(value // ALIKE))


def _instead(got: Outcome) -> Cell:
    size = len(b"".join(got.pieces))
    if got.error is None:
        return Cell(f"{size} bytes as if whole", 0)
    return Cell(f"{size} bytes, then {got.error}" if size else "nothing saved", 1)


def _record(recorder: Recorder, url: str, folder: str, *targets: str) -> None:
    with recorder.recording(folder, url) as client:
        for target in targets:
            client.read(target)


@lru_cache
def _six(recorder: Recorder, url: str) -> str:
    """The folder of a recording of `/six`, which stays for as long as the process."""
    folder = tempfile.mkdtemp(dir=_kept.name)
    _record(recorder, url, folder, "/six")
    return folder


def _timed(client: Client) -> tuple[float, list[float]]:
    """Seconds that the answer takes, and when its pieces came, since the first."""
    begun = time.perf_counter()
    with client.reading("/six") as pieces:
        moments = [time.perf_counter() for piece in pieces if piece]
    return time.perf_counter() - begun, [moment - moments[0] for moment in moments]


def _outcome(door: Door, folder: str, url: str, target: str) -> Outcome:
    """What a reader meets; what the recorder raises when it is left counts only where the reader met nothing."""
    pieces: list[bytes] = []
    error = None
    try:
        with door(folder, url) as client:
            try:
                with client.reading(target) as some:
                    pieces.extend(islice(some, LOOPS))
            except Exception as met:
                error = type(met).__name__
    except Exception as met:
        error = error or type(met).__name__
    return Outcome(pieces, error)


def _answers(client: Client, target: str, body: bytes) -> bool:
    try:
        return client.read(target) == body
    except Exception:
        return False


def _quietly(function: Callable[..., object], *args: Any) -> None:
    with suppress(Exception):  # what is lacking then is counted
        function(*args)


def record_until_killed(recorder: Recorder, url: str, folder: str) -> None:
    """Prints a line when three answers are whole and a fourth is about to be asked for."""
    with recorder.recording(folder, url) as client:
        for n in range(KEPT):
            client.read(f"/echo/{n}")
        print("three are whole", flush=True)
        while True:
            client.read("/endless")


def _give_up(row: str) -> None:
    print(json.dumps([row, HANGS]), flush=True)
    os._exit(0)


def main() -> None:
    if sys.argv[1] in ("--record", "--killed"):
        what, name, *where = sys.argv[1:]
        done = (record_until_killed if what == "--record" else killed)(RECORDERS[name], *where)
        print(json.dumps([KILLED, done]), flush=True)
        os._exit(0)
    name, url, rounds, *rows = sys.argv[1:]
    for row in rows:
        late = threading.Timer(RECORDERS[name].patience, _give_up, [row])
        late.start()
        try:
            cell = TRUTHS[row](RECORDERS[name], url, int(rounds))
        except Exception as error:
            cell = Cell(type(error).__name__, WORST)
        late.cancel()
        print(json.dumps([row, cell]), flush=True)
    _kept.cleanup()
    os._exit(0)  # a recorder may have left a thread that waits


if __name__ == "__main__":
    main()
