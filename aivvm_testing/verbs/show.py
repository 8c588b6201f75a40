"""`aivvm-testing show` and `replay`: what a recording holds, at once and as it came."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from aivvm.decoding import BoundarySafeDecoder
from aivvm.terminal import printable
from aivvm_testing import fixtures
from aivvm_testing.clock import SystemClock
from aivvm_testing.leaks import redact_recording
from aivvm_testing.matching import describe
from aivvm_testing.recording import Exchange
from aivvm_testing.reply import Chunk
from aivvm_testing.verbs.lines import as_json, event
from aivvm_testing.verbs.sources import recording_of, without_secrets

_SHOWN_BYTES = 48


def show(options: argparse.Namespace) -> int:
    """Lists what a recording holds, or the names of those that are shipped."""
    if options.list:
        notes = {name: fixtures.load(name).note for name in fixtures.names()}
        if options.json:
            print(as_json(notes, indent=2))
        else:
            print("\n".join([f"{name}: {printable(note)}" for name, note in notes.items()]))
        return 0
    if options.recording is None:
        print("aivvm-testing show: name a recording, or say --list", file=sys.stderr)
        return 2
    recording = recording_of(options.recording)
    exchanges = without_secrets(recording, options.redaction)
    about = redact_recording(recording[:0], options.redaction)
    if options.json:
        facts = {"origin": about.origin, "note": about.note, "recorded_at": about.recorded_at}
        print(as_json({**facts, "exchanges": [_summary(one) for one in exchanges]}, indent=2))
        return 0
    print(f"{about.origin}: {printable(about.note) or '(no note)'}")
    if about.recorded_at:
        print(f"recorded at {printable(about.recorded_at)}")
    for n, exchange in enumerate(exchanges):
        print(f"\n{n}: {describe(exchange.request)}")
        print(f"   {len(exchange.request.body)} bytes, sent at {exchange.started:.3f} s")
        print(f"   {_status_line(exchange)}")
        for chunk in exchange.reply.chunks:
            print(f"   {chunk.at:9.3f} s {len(chunk.data):7} bytes  {_glimpse(chunk)}")
        print(f"   {_ending_line(exchange)}")
    return 0


def _summary(exchange: Exchange) -> dict[str, Any]:
    reply = exchange.reply
    return {
        "method": exchange.request.method,
        "url": exchange.request.url,
        "started": exchange.started,
        "status": reply.status,
        "chunks": [[chunk.at, len(chunk.data)] for chunk in reply.chunks],
        "bytes": len(reply.body),
        "ending": reply.ending.kind,
        "seconds": reply.duration,
    }


def replay(options: argparse.Namespace) -> int:
    """Prints each answer as it streamed."""
    play = _as_events if options.json else _as_text
    for n, exchange in enumerate(without_secrets(recording_of(options.recording), options.redaction)):
        play(n, exchange, 1 / options.speed if options.speed else 0.0)
    return 0


def _as_text(n: int, exchange: Exchange, pace: float) -> None:
    print(f"--- {n}: {describe(exchange.request)} -> {_status_line(exchange)}", flush=True)
    decoder = BoundarySafeDecoder()
    timer = SystemClock().timer()
    for chunk in exchange.reply.chunks:
        timer.wait_until(chunk.at * pace)
        print(printable(decoder.feed(chunk.data)), end="", flush=True)
    print(printable(decoder.finish()), flush=True)
    timer.wait_until(exchange.reply.ending.at * pace)
    print(f"--- {_ending_line(exchange)}", flush=True)


def _as_events(n: int, exchange: Exchange, pace: float) -> None:
    request, reply = exchange.request, exchange.reply
    print(event("request", exchange=n, method=request.method, url=request.url), flush=True)
    timer = SystemClock().timer()
    if reply.head is not None:
        timer.wait_until(reply.head.at * pace)
        print(
            event("reply", at=reply.head.at, status=reply.head.status, reason=reply.head.reason), flush=True
        )
    for chunk in reply.chunks:
        timer.wait_until(chunk.at * pace)
        print(event("chunk", at=chunk.at, **_data(chunk.data)), flush=True)
    timer.wait_until(reply.ending.at * pace)
    print(event("end", at=reply.ending.at, ending=reply.ending.kind), flush=True)


def _data(data: bytes) -> dict[str, object]:
    """As a recording has it."""
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"hex": data.hex()}


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
