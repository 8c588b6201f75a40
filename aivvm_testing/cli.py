"""The `aivvm-testing` command: one function per verb, each of which prints and returns an exit status.

Status 0: done. 1: a finding, or a file that cannot be used. 2: misuse. 130: Ctrl-C. 141: nobody reads the output any
more. What comes from recordings is foreign text, so all of it passes through `printable` on its way to the screen.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from errno import ENOENT
from typing import Any

from aivvm import __version__
from aivvm.errors import AivvmError
from aivvm.terminal import printable
from aivvm.transport import Request
from aivvm_testing.errors import SetupFailure
from aivvm_testing.matching import Matcher, describe
from aivvm_testing.recording import Exchange, Recording
from aivvm_testing.reply import Chunk, Reply

_SHOWN_BYTES = 48


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
        # Whoever read our output has gone; Python must not try again to flush it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return 130
    except (SetupFailure, AivvmError, OSError) as error:
        print(f"aivvm-testing: {printable(str(error))}", file=sys.stderr)
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="aivvm-testing", description="Record, replay and break streamed answers, exactly."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    demo = verbs.add_parser("demo", help="serve a real session, record it, replay it, and prove them equal")
    demo.add_argument("--out", metavar="FILE", help="where to record (default: a new temporary folder)")
    demo.add_argument("--json", action="store_true", help="print the proofs as JSON, and nothing else")
    demo.set_defaults(run=_demo)

    serve = verbs.add_parser("serve", help="a fake Aivvm server on loopback, until Ctrl-C")
    serve.add_argument("recording", nargs="?", help="a file or a shipped name to replay; an echo without it")
    serve.add_argument("--port", type=_port, default=0, help="default: a free one")
    serve.add_argument(
        "--speed", type=_speed, default=1.0, help="1 as recorded (default), 2 twice as fast, 0 no gaps"
    )
    serve.add_argument(
        "--match-on",
        type=_criteria,
        default=("method", "path", "json"),
        metavar="NAMES",
        help="what a request must share with a recorded one, such as method,path (default: method,path,json)",
    )
    serve.set_defaults(run=_serve)

    replay = verbs.add_parser("replay", help="print a recorded session's answers, as they came")
    replay.add_argument("recording", help="a file, or the name of a shipped one")
    replay.add_argument(
        "--speed", type=_speed, default=1.0, help="1 as recorded (default), 2 twice as fast, 0 no gaps"
    )
    replay.set_defaults(run=_replay)

    show = verbs.add_parser("show", help="what a recording holds, chunk by chunk")
    show.add_argument("recording", nargs="?", help="a file, or the name of a shipped one")
    show.add_argument("--list", action="store_true", help="the names of the shipped ones, with their notes")
    show.add_argument("--json", action="store_true", help="as JSON, for programs")
    show.set_defaults(run=_show)
    return parser


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


def _demo(options: argparse.Namespace) -> int:
    from aivvm_testing.demo import run

    return run(out=options.out, as_json=options.json)


def _serve(options: argparse.Namespace) -> int:
    from aivvm_testing.clock import SystemClock
    from aivvm_testing.errors import UnmatchedRequest
    from aivvm_testing.fake import FakeAivvm

    class Talking(FakeAivvm):
        """Says what it was asked, and remembers no more than it needs to."""

        count = 0

        def answer(self, request: Request) -> Reply:
            self.count += 1
            self.requests.clear()
            try:
                reply = super().answer(request)
            except UnmatchedRequest as error:
                print(printable(str(error)), flush=True)
                raise
            print(f"{describe(request)} -> {reply.status or 'no head'}, {reply.ending.kind}", flush=True)
            return reply

    if options.recording is None:
        fake = Talking()
    else:
        recording = _recording(options.recording)
        fake = Talking.replaying(recording, match_on=options.match_on, speed=options.speed)
    server = fake.server(port=options.port)
    server.start()
    try:
        what = printable(options.recording or "an echo")
        print(f"serving {what} at {server.url} (Ctrl-C stops)", flush=True)
        with SystemClock().exchange() as timer:
            timer.wait_until(float("inf"))
    except KeyboardInterrupt:
        print(f"\n{fake.count} request{'' if fake.count == 1 else 's'} came", flush=True)
    finally:
        server.stop()
    return 0


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
