"""The `aivvm-testing` command: one function per verb, each of which prints and returns an exit status.

Status 0: done. 1: a finding, or a file that cannot be used. 2: misuse. 130: Ctrl-C. 141: nobody reads the output any
more. What comes from recordings and clients is foreign text: on its way out all of it passes through `printable`, or is
JSON, which is ASCII here.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from errno import ENOENT
from queue import Empty, SimpleQueue
from socket import gaierror
from typing import Any

from aivvm import __version__
from aivvm.errors import AivvmError
from aivvm.terminal import one_line, printable
from aivvm.transport import Request
from aivvm_testing import faults
from aivvm_testing.call import Call, Outcome
from aivvm_testing.clock import Clock
from aivvm_testing.errors import SetupFailure
from aivvm_testing.fake import FakeAivvm
from aivvm_testing.matching import Matcher, describe
from aivvm_testing.recording import Exchange, Recording
from aivvm_testing.redaction import redact_request
from aivvm_testing.reply import Chunk
from aivvm_testing.service import is_models

_SHOWN_BYTES = 48
_MOST_WAITING = 1000  # lines that `serve` keeps for whoever reads its output
_PATIENCE = 1.0  # seconds; where a wait cannot be interrupted, as on Windows, Ctrl-C is seen that late
_TO_THE_END = 2.0  # seconds for the last lines


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A screen that cannot show a letter shows its number.
        sys.stdout.reconfigure(errors="backslashreplace")
    options = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        status = run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        _fall_silent()
        return 141
    except KeyboardInterrupt:
        _fall_silent()
        return 130
    except (SetupFailure, AivvmError, OSError) as error:
        print(f"aivvm-testing: {printable(str(error))}", file=sys.stderr)
        return 1
    return status


def _fall_silent() -> None:
    """For when whoever reads our output has gone, or does not read: Python must not flush the rest of it at exit."""
    with suppress(OSError, ValueError):  # the output is no file, or closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="aivvm-testing",
        description="Record, replay and break streamed answers, exactly.",
        epilog="Exit status: 0 done, 1 a finding or a file that cannot be used, 2 misuse. "
        "`aivvm-testing VERB --help` tells more about each.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB", title="verbs")

    demo = verbs.add_parser(
        "demo",
        help="serve a real session, record it, replay it, and prove them equal",
        description="Serves a real session on loopback, shows it as it streams, records it, replays the "
        "recording twice, and proves chunk by chunk that nothing was changed. Takes seconds, and needs no network.",
    )
    demo.add_argument("--out", metavar="FILE", help="where to record (default: a new temporary folder)")
    demo.add_argument("--json", action="store_true", help="print the proofs as JSON, and nothing else")
    demo.set_defaults(run=_demo)

    _add_serve(verbs)

    replay = verbs.add_parser(
        "replay",
        help="print a recorded session's answers, as they came",
        description="Prints each answer of a recording as it streamed, and how it ended.",
    )
    replay.add_argument("recording", metavar="RECORDING", help="a file, or the name of a shipped recording")
    _add_speed(replay)
    replay.set_defaults(run=_replay)

    show = verbs.add_parser(
        "show",
        help="what a recording holds, chunk by chunk",
        description="Lists what a recording holds: each request, and of its answer each chunk with its moment, "
        "its size and its beginning, and how it ended.",
    )
    show.add_argument(
        "recording", metavar="RECORDING", nargs="?", help="a file, or the name of a shipped recording"
    )
    show.add_argument("--list", action="store_true", help="the names of the shipped ones, with their notes")
    show.add_argument("--json", action="store_true", help="as JSON, for programs")
    show.set_defaults(run=_show)

    recover = verbs.add_parser("recover", help="make a recording of the journal that a killed recorder left")
    recover.add_argument("recording", metavar="RECORDING", help="the file that was being recorded")
    recover.add_argument("--out", metavar="FILE", help="where to write the recording (default: RECORDING)")
    recover.set_defaults(run=_recover)
    return parser


def _add_serve(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    serve = verbs.add_parser(
        "serve",
        help="a fake Aivvm server for any client, until Ctrl-C",
        description="A fake Aivvm server on loopback, for any client in any language. It answers from RECORDING, "
        "else with --reply, else with an echo of the last user message. It runs until Ctrl-C or SIGTERM, prints "
        "where it listens, then a line for each request. Exit status: 0, or 1 if there was no answer to a request, "
        "such as one that is not in the recording (the client is told why, with status 501); 2 for misuse.",
        epilog="With --json each line is an object: first an 'event' of 'listening', with 'url', 'host', 'port' and "
        "'pid'; a 'request' when its answer is over, with 'method', 'url', 'status', 'ending', 'outcome' (played; "
        "closed by the client, or by the end of the server, before that; unmatched) and how much was taken; a "
        "'failure' with its 'error'; at the end a 'summary'. "
        f"Faults: {', '.join(faults.CATALOGUE)}.",
    )
    serve.add_argument(
        "recording",
        metavar="RECORDING",
        nargs="?",
        help="a file, or the name of a shipped recording, to answer from",
    )
    serve.add_argument(
        "--reply",
        metavar="TEXT",
        help="answer every chat with this text; with RECORDING, those it does not hold",
    )
    serve.add_argument(
        "--fault",
        metavar="CODE",
        type=_fault,
        action="append",
        default=[],
        help="do this to every answer but the list of models, such as 'cut(after=3)' or 'slow_drip(0.05) | reset'; may be repeated",
    )
    _add_speed(serve)
    serve.add_argument(
        "--match-on",
        type=_criteria,
        default=("method", "path", "json"),
        metavar="NAMES",
        help="what a request must share with a recorded one, such as method,path (default: method,path,json)",
    )
    serve.add_argument(
        "--cors",
        metavar="ORIGIN",
        nargs="?",
        type=_origin,
        const=True,
        default=False,
        help="let web pages of this origin, such as http://localhost:3000, read the answers; of any, without ORIGIN",
    )
    serve.add_argument("--host", default="127.0.0.1", help="where to listen (default: %(default)s)")
    serve.add_argument("--port", type=_port, default=0, help="default: a free one")
    serve.add_argument(
        "--allow-remote", action="store_true", help="allow a --host that other machines can reach"
    )
    serve.add_argument("--json", action="store_true", help="print a JSON object a line, for programs")
    serve.set_defaults(run=_serve)


def _add_speed(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--speed",
        metavar="FACTOR",
        type=_speed,
        default=1.0,
        help="1 as recorded (default), 2 twice as fast, 0 no gaps",
    )


def _port(value: str) -> int:
    port = int(value) if value.isdecimal() else -1
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"a port is 0 to 65535, but got {value}")
    return port


def _speed(value: str) -> float:
    try:
        speed = float(value)
    except ValueError:
        speed = -1
    if not 0 <= speed < float("inf"):
        raise argparse.ArgumentTypeError(f"a speed is 0 or more, but got {value}")
    return speed


def _criteria(value: str) -> tuple[str, ...]:
    names = tuple([name.strip() for name in value.split(",") if name.strip()])
    try:
        Matcher(names)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return names


def _fault(value: str) -> faults.Fault:
    try:
        return faults.parse(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _origin(value: str) -> str:
    if "://" not in value:
        raise argparse.ArgumentTypeError(
            f"an origin is written as http://localhost:3000, but got {value} (a RECORDING comes before --cors)"
        )
    return value


def _demo(options: argparse.Namespace) -> int:
    from aivvm_testing.demo import run

    return run(out=options.out, as_json=options.json)


def _serve(options: argparse.Namespace) -> int:
    if options.recording is None:
        fake = _Served()
    else:
        recording = _recording(options.recording)
        fake = _Served.replaying(recording, match_on=options.match_on, speed=options.speed)
    fake.as_json = options.json
    for fault in options.fault:
        # The list of models is left whole: without it no page gets as far as an answer.
        fake.on(lambda request: not is_models(request)).fault(fault, forever=True)
    if options.reply is not None:
        fake.reply(options.reply, forever=True)
    try:
        server = fake.server(
            host=options.host, port=options.port, cors=options.cors, allow_remote=options.allow_remote
        )
    except ValueError as error:
        message = str(error).replace("allow_remote=True", "--allow-remote")
        print(f"aivvm-testing serve: {printable(message)}", file=sys.stderr)
        return 2
    except gaierror as error:
        raise OSError(f"no address of --host {options.host}: {error.strerror}") from error
    what = one_line(options.recording or ("an echo" if options.reply is None else "a reply"))
    with _first_signal(fake.no_more):
        server.start()
        try:
            where = _event("listening", url=server.url, host=options.host, port=server.port, pid=os.getpid())
            print(where if options.json else f"serving {what} at {server.url} (Ctrl-C stops)", flush=True)
            fake.print_lines()
        finally:
            server.stop()
        fake.say_how_many()
        fake.no_more()
        fake.print_lines()
    if fake.failure is not None:
        raise fake.failure
    return 0


@contextmanager
def _first_signal(stop: Callable[[], None]) -> Iterator[None]:
    """Within it, the first SIGINT or SIGTERM calls `stop`; another one is a `KeyboardInterrupt`.

    So it is where the block is not left within `_TO_THE_END` seconds: it writes to somebody who does not read.
    """
    timed = hasattr(signal, "setitimer")

    def on_signal(number: int, frame: object) -> None:
        for one in before:
            signal.signal(one, signal.default_int_handler)
        if timed:
            before[signal.SIGALRM] = signal.signal(signal.SIGALRM, signal.default_int_handler)
            signal.setitimer(signal.ITIMER_REAL, _TO_THE_END)
        stop()

    before: dict[signal.Signals, Any] = {
        one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        for one in before:
            signal.signal(one, on_signal)
        yield
    finally:
        if timed:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for one, handler in before.items():
            signal.signal(one, handler)


class _Served(FakeAivvm):
    """The fake behind `serve`: says what happens to it, and remembers no more than it needs for that.

    It is asked in the server's thread, which must not wait for whoever reads the output. So lines wait in a queue;
    where that is full they are dropped, and counted.
    """

    as_json = False

    def __init__(self, *, clock: Clock | None = None) -> None:
        super().__init__(clock=clock)
        self.failure: SetupFailure | None = None  # the first
        self._last_failure: SetupFailure | None = None
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._dropped = 0
        self._requests = 0
        self._outcomes: Counter[Outcome] = Counter()

    def answer(self, request: Request) -> Call:
        self.calls.clear()
        self._requests += 1
        try:
            call = super().answer(request)
        except SetupFailure:
            self._over(self.calls[-1])
            raise
        assert call.reply is not None
        if not self.as_json:
            how = f"{call.reply.status or 'no head'}, {call.reply.ending.kind}"
            self._say(f"{describe(request)} -> {how}")
        return _ServedCall(call, self._over)

    def refuses_next(self) -> bool:
        """Never: nobody could tell the server to listen again. Who asks for a refused connection meets a reset."""
        return False

    def failed(self, error: SetupFailure) -> None:
        super().failed(error)
        if error is not self._last_failure:  # it is told by whoever finds it, and once more by the server
            self._last_failure = error
            self.failure = self.failure or error
            text = str(error)
            self._say(_event("failure", error=text) if self.as_json else printable(text))

    def _over(self, call: Call) -> None:
        self._outcomes[call.outcome] += 1
        reply = call.reply
        chunks = 0 if reply is None else len(reply.chunks)
        if self.as_json:
            request = redact_request(call.request)
            line = _event(
                "request",
                method=request.method,
                url=request.url,
                status=None if reply is None else reply.status,
                ending=None if reply is None else reply.ending.kind,
                outcome=call.outcome,
                chunks=chunks,
                chunks_taken=call.chunks_taken,
                bytes_taken=call.bytes_taken,
                lasted=call.lasted,
            )
            self._say(line)
        elif call.closed:
            self._say(f"  given up after {call.chunks_taken} of {chunks} chunks")

    def _say(self, line: str) -> None:
        if self._lines.qsize() < _MOST_WAITING:
            self._lines.put(line)
        else:
            self._dropped += 1

    # For the thread that prints

    def say_how_many(self) -> None:
        """Says it whatever is waiting to be printed."""
        outcomes = {name: self._outcomes[name] for name in ("played", "closed", "unmatched")}
        if self.as_json:
            line = _event("summary", requests=self._requests, **outcomes, lines_dropped=self._dropped)
        else:
            line = f"\n{self._requests} request{'' if self._requests == 1 else 's'} came"
            line += f", {outcomes['unmatched']} unmatched" if outcomes["unmatched"] else ""
            line += f" ({self._dropped} lines dropped: nobody read them)" if self._dropped else ""
        self._lines.put(line)

    def no_more(self) -> None:
        """Lets `print_lines` return once it has printed what was said before. Safe in a signal handler."""
        self._lines.put(None)

    def print_lines(self) -> None:
        """Prints each line when it is said."""
        while True:
            with suppress(Empty):
                line = self._lines.get(timeout=_PATIENCE)
                if line is None:
                    return
                print(line, flush=True)


def _event(kind: str, **facts: object) -> str:
    # ASCII, of which DEL alone could do harm on a screen.
    return json.dumps({"event": kind, **facts}).replace("\x7f", "\\u007f")


class _ServedCall(Call):
    """A call that tells when it is over."""

    __slots__ = ("_tell",)

    def __init__(self, call: Call, tell: Callable[[Call], None]) -> None:
        super().__init__(call.request, call.reply, at=call.at, faults=call.faults)
        self._tell = tell

    def over(self, outcome: Outcome, lasted: float) -> None:
        was_open = self.outcome == "open"
        super().over(outcome, lasted)
        if was_open:
            self._tell(self)


def _replay(options: argparse.Namespace) -> int:
    from aivvm.decoding import BoundarySafeDecoder
    from aivvm_testing.clock import SystemClock

    clock = SystemClock()
    for n, exchange in enumerate(_recording(options.recording)):
        reply = exchange.reply.scale(1 / options.speed if options.speed else 0)
        print(f"--- {n}: {describe(exchange.request)} -> {_status_line(exchange)}")
        decoder = BoundarySafeDecoder()
        with clock.exchange() as timer:
            for chunk in reply.chunks:
                timer.wait_until(chunk.at)
                print(printable(decoder.feed(chunk.data)), end="", flush=True)
            print(printable(decoder.finish()))
            timer.wait_until(reply.ending.at)
        print(f"--- {_ending_line(exchange)}")
    return 0


def _show(options: argparse.Namespace) -> int:
    if options.list:
        from aivvm_testing import fixtures

        for name in fixtures.names():
            print(f"{name}: {printable(fixtures.load(name).note)}")
        return 0
    if options.recording is None:
        print("aivvm-testing show: name a recording, or say --list", file=sys.stderr)
        return 2
    recording = _recording(options.recording)
    if options.json:
        print(json.dumps(_summary(recording), indent=2))
        return 0
    print(f"{recording.origin}: {printable(recording.note) or '(no note)'}")
    if recording.recorded_at:
        print(f"recorded at {printable(recording.recorded_at)}")
    for n, exchange in enumerate(recording):
        print(f"\n{n}: {describe(exchange.request)}")
        print(f"   {len(exchange.request.body)} bytes, sent at {exchange.started:.3f} s")
        print(f"   {_status_line(exchange)}")
        for chunk in exchange.reply.chunks:
            print(f"   {chunk.at:9.3f} s {len(chunk.data):7} bytes  {_glimpse(chunk)}")
        print(f"   {_ending_line(exchange)}")
    return 0


def _recover(options: argparse.Namespace) -> int:
    from aivvm_testing.journal import recover

    out = options.out or options.recording
    count = recover(options.recording, out=out)
    print(f"{printable(out)}: {count} exchange{'' if count == 1 else 's'} recovered")
    return 0


def _summary(recording: Recording) -> dict[str, Any]:
    return {
        "origin": recording.origin,
        "note": recording.note,
        "recorded_at": recording.recorded_at,
        "exchanges": [
            {
                "method": exchange.request.method,
                "url": exchange.request.url,
                "started": exchange.started,
                "status": exchange.reply.status,
                "chunks": [[chunk.at, len(chunk.data)] for chunk in exchange.reply.chunks],
                "bytes": len(exchange.reply.body),
                "ending": exchange.reply.ending.kind,
                "seconds": exchange.reply.duration,
            }
            for exchange in recording
        ],
    }


def _recording(source: str) -> Recording:
    """The recording in this file, else the shipped one of this name."""
    from aivvm_testing import fixtures

    named = os.path.basename(source) == source and not os.path.exists(source)
    if named and source in fixtures.names():
        return fixtures.load(source)
    try:
        return Recording.load(source)
    except FileNotFoundError as error:
        if error.strerror != os.strerror(ENOENT) or not named:
            raise
        near = get_close_matches(source.removesuffix(".jsonl"), fixtures.names(), 3)
        guess = f"did you mean {' or '.join(near)}?" if near else "aivvm-testing show --list names those."
        raise FileNotFoundError(f"{source} is neither a file nor a shipped recording; {guess}") from error


def _status_line(exchange: Exchange) -> str:
    head = exchange.reply.head
    return "no answer" if head is None else printable(f"{head.status} {head.reason}, head at {head.at:.3f} s")


def _ending_line(exchange: Exchange) -> str:
    ending = exchange.reply.ending
    more = f" ({printable(ending.error)})" if ending.error else ""
    after = f", then {len(ending.data)} more bytes" if ending.data else ""
    return f"{ending.kind} at {ending.at:.3f} s{after}{more}"


def _glimpse(chunk: Chunk) -> str:
    start = chunk.data[:_SHOWN_BYTES]
    more = " ..." if len(chunk.data) > _SHOWN_BYTES else ""
    try:
        chunk.data.decode()
    except UnicodeDecodeError as error:
        return f"{start.hex(' ')}{more}  not UTF-8 on its own at byte {error.start}"
    return printable(repr(start.decode("utf-8", "ignore"))) + more
