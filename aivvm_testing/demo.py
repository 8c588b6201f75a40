"""The demonstration: a real session is served, streamed on screen, recorded, replayed, and proved to be the same.

All of it happens on loopback. The session is a chat of four turns and an answer that a proxy cut inside characters,
both shipped as recordings; the server plays them at recorded speed. What is compared, per exchange, is what a
recording tap saw: while it was served first, when it was replayed through door 1 (virtual time), and when it was
replayed through door 4 (a socket again, faster). Every proof can fail, and then the demonstration does.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TextIO

from aivvm.decoding import BoundarySafeDecoder, PerChunkDecoder
from aivvm.provider import Aivvm
from aivvm.requests_transport import RequestsTransport
from aivvm.terminal import printable
from aivvm.transport import Transport
from aivvm_testing import fixtures
from aivvm_testing.clock import Clock
from aivvm_testing.fake import FakeAivvm
from aivvm_testing.record.transport import RecordingTransport
from aivvm_testing.recording import Exchange, Recording
from aivvm_testing.reply import Reply

SESSION = ("real_chat", "real_flood_nginx_buffering")
REPLAY_SPEED = 12.0
"""How much faster than recorded door 4 replays, so that the whole takes less than ten seconds."""

LATEST_MS = 250.0
LATEST_MS_FAST = 100.0
"""So much may a moment over a socket be off, in ms, at recorded speed and at `REPLAY_SPEED`. It is several times what
a busy machine needs, and a fraction of what a passage without gaps, or with doubled ones, would be off."""

_SHOWN_CHARACTERS = 400


@dataclass(frozen=True, slots=True)
class Proof:
    """Whether one exchange came through one passage as it was sent."""

    exchange: str
    passage: str
    head_equal: bool
    bytes_equal: bool
    boundaries_equal: bool
    ending_equal: bool
    timing_error_ms: float
    timing_bound_ms: float

    @property
    def holds(self) -> bool:
        return (
            self.head_equal
            and self.bytes_equal
            and self.boundaries_equal
            and self.ending_equal
            and self.timing_error_ms <= self.timing_bound_ms
        )


def run(*, out: str | None = None, as_json: bool = False) -> int:
    """Shows everything on standard output; returns 0 where every proof holds, else 1.

    `out` names the recording's file; without it the file stays in a new temporary folder, whose path is printed.
    """
    screen = open(os.devnull, "w") if as_json else sys.stdout  # noqa: SIM115  # standard output must stay open
    path = out or os.path.join(tempfile.mkdtemp(prefix="aivvm-demo-"), "session.jsonl")
    if not os.path.isdir(os.path.dirname(os.path.abspath(path))):
        raise FileNotFoundError(f"there is no folder for {path}: make it, or record somewhere else")
    served = [exchange for name in SESSION for exchange in fixtures.load(name)]
    names = [f"chat, turn {n + 1}" for n in range(len(served) - 1)] + ["flood"]

    def say(text: str = "") -> None:
        print(text, file=screen, flush=True)

    import requests  # noqa: F401  # now, as its import would count as the first answer's time

    try:
        with FakeAivvm.replaying(Recording(served), speed=1).server() as server:
            say(f"Serving {' and '.join(SESSION)} at {server.url}, as fast as recorded.")
            with RequestsTransport() as live:
                _ask(served, live, path, server.url, screen=screen)
        first = Recording.load(path)
        say(f"\nRecorded to {path}; replaying it.\n")
        fake = FakeAivvm.replaying(path, speed=1)
        by_door_1 = _again(served, fake.transport(), path, "http://fake.invalid", fake.clock)
        with (
            FakeAivvm.replaying(path, speed=REPLAY_SPEED).server() as server,
            RequestsTransport() as live,
        ):
            by_door_4 = _again(served, live, path, server.url)
    finally:
        if screen is not sys.stdout:
            screen.close()

    proofs = [
        *_proofs(names, "recorded over a socket", [one.reply for one in served], first, LATEST_MS),
        *_proofs(names, "door 1, virtual time", [one.reply for one in first], by_door_1, 0.001),
        *_proofs(
            names,
            f"door 4, a socket, {REPLAY_SPEED:g} x",
            [one.reply.scale(1 / REPLAY_SPEED) for one in first],
            by_door_4,
            LATEST_MS_FAST,
        ),
    ]
    failed = [proof for proof in proofs if not proof.holds]
    if as_json:
        print(json.dumps({"recording": path, "proofs": [asdict(proof) for proof in proofs]}, indent=2))
    else:
        _print_table(proofs)
        _print_damage(first[-1].reply)
        print(f"\nThe recording: {path}")
        print(f"{len(proofs) - len(failed)} of {len(proofs)} proofs hold.")
    return 1 if failed else 0


def _ask(
    served: list[Exchange],
    transport: Transport,
    path: str,
    url: str,
    *,
    clock: Clock | None = None,
    screen: TextIO | None = None,
) -> None:
    """Asks again what the served exchanges asked, through a recording tap around `transport`."""
    with RecordingTransport(transport, path, clock=clock, note="made by aivvm-testing demo") as tap:
        provider = Aivvm(transport=tap, url=url)
        for exchange in served:
            asked = exchange.request.json()
            answer = provider.create_completion(
                asked["model"]["id"],
                asked["messages"],
                stream=True,
                system_message=asked["prompt"],
                temperature=asked["temperature"],
                key=asked["key"],
            )
            if screen is None:
                for _ in answer:
                    pass
            else:
                _stream(asked["messages"][-1]["content"], answer, screen)


def _stream(question: str, answer: Iterator[str], screen: TextIO) -> None:
    def say(text: str, end: str = "") -> None:
        print(printable(text), end=end, file=screen, flush=True)

    say(f"\n> {question}", end="\n")
    shown = 0
    for text in answer:
        say(text[: max(0, _SHOWN_CHARACTERS - shown)])
        shown += len(text)
    if shown > _SHOWN_CHARACTERS:
        say(f" ... ({shown:,} characters)")
    say("", end="\n")


def _again(
    served: list[Exchange], transport: Transport, path: str, url: str, clock: Clock | None = None
) -> Recording:
    """A recording of the replay, kept only as long as it is compared."""
    with tempfile.TemporaryDirectory() as folder:
        again = os.path.join(folder, "replayed.jsonl")
        _ask(served, transport, again, url, clock=clock)
        return Recording.load(again)


def _proofs(
    names: list[str], passage: str, sent: list[Reply], came: Recording, bound: float
) -> Iterator[Proof]:
    for name, one, exchange in zip(names, sent, came, strict=True):
        other = exchange.reply
        yield Proof(
            exchange=name,
            passage=passage,
            head_equal=_said(one) == _said(other),
            bytes_equal=one.body == other.body,
            boundaries_equal=[c.data for c in one.chunks] == [c.data for c in other.chunks],
            ending_equal=one.ending.kind == other.ending.kind,
            timing_error_ms=round(
                1000 * max(abs(a - b) for a, b in zip(_moments(one), _moments(other), strict=False)), 3
            ),
            timing_bound_ms=bound,
        )


def _said(reply: Reply) -> object:
    return None if reply.head is None else (reply.head.status, reply.head.reason, reply.head.headers)


def _moments(reply: Reply) -> list[float]:
    return [reply.head.at if reply.head else 0.0] + [chunk.at for chunk in reply.chunks] + [reply.ending.at]


def _print_table(proofs: list[Proof]) -> None:
    print(
        f"{'':24} {'exchange':13} {'head':6} {'bytes':6} {'boundaries':10} {'ending':6} largest timing error"
    )
    passage = ""
    for proof in proofs:
        marks = [
            "equal" if ok else "DIFFER"
            for ok in (proof.head_equal, proof.bytes_equal, proof.boundaries_equal, proof.ending_equal)
        ]
        late = "" if proof.timing_error_ms <= proof.timing_bound_ms else f" (over {proof.timing_bound_ms:g})"
        print(
            f"{'' if proof.passage == passage else proof.passage:24} {proof.exchange:13} "
            f"{marks[0]:6} {marks[1]:6} {marks[2]:10} {marks[3]:6} {proof.timing_error_ms:8.3f} ms{late}"
        )
        passage = proof.passage


def _print_damage(reply: Reply) -> None:
    """What the literal algorithm, one chunk at a time, makes of an answer that nobody damaged."""
    right, literal = BoundarySafeDecoder(), PerChunkDecoder()
    damaged = 0
    example: tuple[int, str, str] | None = None
    for n, chunk in enumerate(reply.chunks):
        good = right.feed(chunk.data)
        try:
            bad = literal.feed(chunk.data)
        except ValueError as error:
            bad = f"(raises {type(error).__name__}: {error})"
        if good != bad:
            damaged += 1
            example = example or (n, good, bad)
    print(
        f"\nThe flood is well-formed text, cut by a proxy: decoded chunk by chunk, {damaged} of "
        f"{len(reply.chunks)} chunks are damaged."
    )
    if example is not None:
        n, good, bad = example
        print(f"  chunk {n}, right:   {printable(good[:24])} ... {len(good):,} characters")
        print(f"  chunk {n}, literal: {printable(bad[:24])} ... {len(bad):,} characters")
