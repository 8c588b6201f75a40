"""`use_recording`: for every `requests.Session` of the process, answers from a recording, or into one.

It owns what a mode means: which requests are answered from the file, which go to the network and are recorded, and
what the file holds afterwards. How a request is diverted is `replay.adapter`'s business, how one is recorded
`record.adapter`'s.

    mode                    a request is answered                       at the end the file holds
    none, replay            from the file, or it is an error            what it held
    once, auto              from the file where that has anything, as   what it held, or what was recorded
                            by `none`; else by the network
    new_episodes            from the file, else by the network          what it held, and then what is new
    all, record             by the network                              what was not asked again, and then what was
    rewrite                 by the network                              what was asked
    verify                  by the network                              what it held; `RecordingDrift` tells what is
                                                                        different now
"""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from errno import ENOENT
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeAlias, TypeVar, get_args
from urllib.parse import urlsplit

from aivvm.requests_transport import RequestsTransport
from aivvm.terminal import one_line, printable
from aivvm.transport import Headers, Request
from aivvm_testing.clock import Clock
from aivvm_testing.errors import RecordingDrift, SetupFailure, UnmatchedRequest, UnplayedReplies
from aivvm_testing.fake import FakeAivvm
from aivvm_testing.journal import whose
from aivvm_testing.matching import DEFAULT_MATCH_ON, Criterion, JsonPath, Matcher, describe
from aivvm_testing.playback import Playback
from aivvm_testing.record.adapter import TappedPool, tapped_pool
from aivvm_testing.record.tap import Tap
from aivvm_testing.recording import Exchange, Recording, moment_of
from aivvm_testing.redaction import DEFAULT, Redaction
from aivvm_testing.replay.adapter import Interception
from aivvm_testing.reply import Reply

if TYPE_CHECKING:
    import urllib3
    from requests import PreparedRequest
    from requests.adapters import HTTPAdapter

RecordMode: TypeAlias = Literal["none", "once", "new_episodes", "all", "rewrite", "verify"]
OnUnplayed: TypeAlias = Literal["fail", "warn", "ignore"]

RECORD_MODES: tuple[RecordMode, ...] = get_args(RecordMode)
ALIASES: dict[str, RecordMode] = {"replay": "none", "auto": "once", "record": "all"}

_P = ParamSpec("_P")
_R = TypeVar("_R")


def checked_mode(mode: str, what: str = "record_mode") -> RecordMode:
    """The mode that is called so; raises `ValueError` where there is none."""
    if (mode := ALIASES.get(mode, mode)) in RECORD_MODES:
        return mode
    names = ", ".join([*RECORD_MODES, *ALIASES])
    raise ValueError(f"{what} is one of {names}, but got {mode!r}")


def use_recording(
    path: str | os.PathLike[str],
    record_mode: str = "none",
    *,
    match_on: Sequence[Criterion] = DEFAULT_MATCH_ON,
    ignore_json: Sequence[JsonPath] = (),
    allow_playback_repeats: bool = False,
    speed: float = 0,
    hosts: Iterable[str] = ("*",),
    allow: Iterable[str] = (),
    on_unplayed: OnUnplayed = "fail",
    must_be_asked: bool = True,
    redaction: Redaction = DEFAULT,
    clock: Clock | None = None,
    note: str = "",
) -> RecordingSession:
    """While it is entered, whatever `requests` asks is answered from the recording at `path`, or recorded there.

        with use_recording("session.jsonl", record_mode="once"):
            unmodified_code()

    It decorates functions, too. `record_mode`: see the table of this module; `none` never opens a socket. `match_on`,
    `ignore_json`, `allow_playback_repeats` and `speed` are those of `FakeAivvm.replaying`. `hosts`: those that it is
    about, as `name`, `name:port`, `*.name` or `*`; those in `allow` go where they went before, and are not recorded; all
    others are blocked. `redaction`: what never reaches the file, and is left out where requests are compared. `clock`: what
    replays wait with, virtual unless told otherwise; recordings have the system's time. `note`: what a new file says
    about itself.

    Leaving it always finishes the file. Without an exception it then raises the first `SetupFailure` that a request met,
    whether or not the code saw it; `SetupFailure` where no request came, unless `must_be_asked=False`; `RecordingDrift`;
    and `UnplayedReplies` where a file that only answers (`none`, `once`) has answers left and `on_unplayed` is `fail`, or a
    warning where it is `warn`.

    Raises `ValueError` and `TypeError` at the call for what cannot work. Entering raises `FileNotFoundError` where the mode
    needs a file and there is none, `CorruptRecording` for a damaged one, `FileExistsError` where another recorder writes
    to it, and `OSError` where nothing can be written.
    """
    options = dict(locals())
    return RecordingSession(**options)


class RecordingSession(Interception):
    """What `use_recording` gives. `fake.calls` are the requests that were answered from the file.

    `path`, `mode` (without aliases); `records`: whether it writes the file. Safe to share between threads; it may be
    entered again once it is left. `called`, what it is made by, `advice`, the lines below a miss, and `unasked`, what to
    say of answers that need not be asked for, are whoever's who wraps it: set before it is entered.
    """

    called = "use_recording"
    advice: Sequence[str] = (
        "To fix it: 1. make the request equal to the recorded one, if the code under test is wrong;",
        '           2. record it: record_mode="new_episodes" adds what is new, "rewrite" begins again;',
        "           3. compare less: use_recording(..., match_on=..., ignore_json=...);",
        "           4. let it pass, where it does not belong to the session: use_recording(..., allow=[...]).",
    )
    unasked = 'on_unplayed="warn" or "ignore"'

    def __init__(
        self,
        path: str | os.PathLike[str],
        record_mode: str,
        *,
        hosts: Iterable[str],
        allow: Iterable[str],
        must_be_asked: bool,
        on_unplayed: OnUnplayed,
        match_on: Sequence[Criterion],
        ignore_json: Sequence[JsonPath],
        redaction: Redaction,
        allow_playback_repeats: bool,
        speed: float,
        clock: Clock | None,
        note: str,
    ) -> None:
        if on_unplayed not in get_args(OnUnplayed):
            raise ValueError(
                f"on_unplayed is one of {', '.join(get_args(OnUnplayed))}, but got {on_unplayed!r}"
            )
        self.path = os.fspath(path)
        self.mode = checked_mode(record_mode)
        self.records = False
        self._matcher = Matcher(match_on, redaction=redaction, ignore_json=ignore_json)
        self._redaction = redaction
        self._playing: dict[str, Any] = {"speed": speed, "repeats": allow_playback_repeats}
        self._clock = clock
        self._note = note
        self._on_unplayed = on_unplayed
        self._tap: Tap | None = None
        self._tap_lock = threading.Lock()
        self._decided = _Decision()
        self._transports: list[RequestsTransport] = []
        Playback(
            Recording(), self.path, self._matcher, **self._playing
        )  # refuses now what it would refuse then
        super().__init__(FakeAivvm(clock=clock), hosts, allow=allow, must_be_asked=must_be_asked)

    def __enter__(self) -> RecordingSession:  # type: ignore[override]  # with it one enters a fake, here a session
        exists = os.path.exists(self.path)
        mode = self.mode
        if mode in ("none", "verify") and not exists:
            raise FileNotFoundError(ENOENT, self._nothing_recorded(), self.path)
        held = Recording.load(self.path) if exists and mode != "rewrite" else Recording()
        if mode == "once":
            mode = "none" if held else "rewrite"
        self._playback = Playback(held, self.path, self._matcher, mode=self.mode, **self._playing)
        self._fake = self.fake = _Replaying(self._playback, self._clock, self.advice, self.unasked)
        self._now = mode
        self.records = mode not in ("none", "verify")
        self._folder: str | None = None
        if mode not in ("none", "new_episodes"):
            self._open_tap()
        try:
            super().__enter__()
        except BaseException:
            self._finish()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        for transport in self._transports:
            transport.close()
        del self._transports[:]
        try:
            super().__exit__(kind, *rest)
        finally:
            live = self._finish(stopped=kind is not None)
        if self._now == "verify":
            drifts = list(_drifts(self._playback, live))
            if drifts:
                drift = RecordingDrift(self.path, drifts, len(live))
                if kind is None:
                    raise drift
                for error in rest[:1]:  # `add_note` is of Python 3.11
                    vars(error)["__notes__"] = [*getattr(error, "__notes__", []), str(drift)]
        if kind is not None:
            return
        if self._now in ("none", "verify") and self._on_unplayed != "ignore":
            self._check_unplayed()

    def __call__(self, function: Callable[_P, _R]) -> Callable[_P, _R]:
        """The function, within this session each time it is called."""

        @functools.wraps(function)
        def within(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            with self:
                return function(*args, **kwargs)

        return within

    def transport(self) -> RequestsTransport:
        """A transport for `Aivvm(transport=...)` that is answered or recorded likewise; closed at the end of the session."""
        transport = RequestsTransport()
        self._transports.append(transport)
        return transport

    # What is asked

    def answers(self, request: PreparedRequest) -> bool:
        """Whether the file answers; what does not is for whoever would answer without us."""
        self._decided.replays = replays = self._replays(request)
        self._decided.request = request
        return replays

    def connection(
        self, adapter: HTTPAdapter, request: PreparedRequest, onward: Callable[[], Any]
    ) -> urllib3.HTTPConnectionPool:
        """The connections to the recording, or those to the host, tapped."""
        if self._decided.request is not request:
            self.answers(request)
        replays, self._decided.request = self._decided.replays, None
        if replays:
            return super().connection(adapter, request, onward)
        self._asked = True
        pool: urllib3.HTTPConnectionPool = tapped_pool(onward(), self._tap or self._open_tap())
        return pool

    def gave(self, pool: object) -> bool:
        return isinstance(pool, TappedPool) or super().gave(pool)

    def with_hosts(self, hosts: Sequence[str]) -> str:
        return f"{self.called}(..., hosts={list(hosts)!r})"

    def _replays(self, request: PreparedRequest) -> bool:
        if self._now == "none":
            return True
        if self._now == "new_episodes" and self._playback.recording:
            return self.fake.take(_request(request))
        return False

    # The file

    def _open_tap(self) -> Tap:
        with self._tap_lock:
            if self._tap is None:
                path, began = self.path, 0.0
                with suppress(OSError):  # the tap says it better
                    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
                held = self._playback.recording
                if self._now == "verify":
                    folder = self._folder = tempfile.mkdtemp(prefix="aivvm-verify-")
                    path = os.path.join(folder, "live.jsonl")
                elif held:
                    last = max([exchange.started for exchange in held])
                    since = 0.0 if held.recorded_at is None else _now() - moment_of(held.recorded_at)
                    began = max(last, since)
                try:
                    self._tap = Tap(
                        path,
                        note=held.note or self._note,
                        recorded_at=held.recorded_at,
                        began=began,
                        redaction=self._redaction,
                        begun=self.fake.replaced if held and self._now == "all" else None,
                    )
                except OSError as error:
                    if (
                        self._now == "new_episodes"
                    ):  # in the middle of a request, where it would look like the network's
                        failure = SetupFailure(
                            f"a request that is not in {self.path} cannot be recorded: {error}"
                        )
                        self.network.failed(failure)
                        raise failure from error
                    raise
            return self._tap

    def _finish(self, *, stopped: bool = True) -> Recording:
        """Writes the file, but for one of nothing that ends by an error; what was recorded where it is not written."""
        with self._tap_lock:
            tap, self._tap = self._tap, None
        if tap is None:
            return Recording()
        if self._folder is None:
            existed = os.path.exists(self.path)
            tap.close(self._kept())
            if stopped and not existed and not Recording.load(self.path):
                os.unlink(self.path)
            if tap.unreached and self.mode in ("once", "new_episodes"):
                self._warn_of(tap.unreached)
            return Recording()
        try:
            tap.close()
            live = Recording.load(os.path.join(self._folder, "live.jsonl"))
            return Recording(live, origin="recorded")
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _kept(self) -> Iterator[Exchange]:
        held = self._playback.recording
        if self._now == "new_episodes":
            return iter(held)
        return (held[n] for n in self._playback.unplayed())

    def _check_unplayed(self) -> None:
        try:
            self.fake.assert_all_played()
        except UnplayedReplies as error:
            if self._on_unplayed == "fail":
                raise
            warnings.warn(f"{self.path}: {printable(str(error))}", UserWarning, stacklevel=3)

    def _warn_of(self, unreached: int) -> None:
        what = "a request" if unreached == 1 else f"{unreached} requests"
        warnings.warn(
            f"{self.path} has {what} that reached no server, and {self.mode!r} never asks again: where that was an "
            "accident, delete the file, or record it anew with rewrite",
            UserWarning,
            stacklevel=4,
        )

    def _nothing_recorded(self) -> str:
        if os.path.exists(journal := f"{self.path}.journal"):
            return f"there is no recording yet: {whose(journal)}"
        return (
            f"there is no recording, and record_mode {self.mode!r} makes none: record it with "
            'record_mode="once", or name the file that there is'
        )


class _Decision(threading.local):
    """Of the request that is under way in this thread, and who answers it."""

    request: PreparedRequest | None = None
    replays = False


class _Taken(threading.local):
    reply: Reply | None = None


class _Replaying(FakeAivvm):
    """What is not in the recording has no answer, whatever it is."""

    def __init__(self, playback: Playback, clock: Clock | None, advice: Sequence[str], unasked: str) -> None:
        super().__init__(clock=clock)
        self._scripted = True
        self._advice = tuple(advice)
        self._unasked = unasked
        self._playback = self._recording = playback
        self._taken = _Taken()

    def take(self, request: Request) -> bool:
        """Whether the recording answers; the answer is then kept for this thread, which comes for it."""
        with self._lock:
            self._taken.reply = self._playback.next(request)
        return self._taken.reply is not None

    def replaced(self, request: Request) -> None:
        """The recorded answer to this is none any more."""
        with self._lock:
            self._playback.take(request)

    def _unruled(self, request: Request) -> Reply:
        reply, self._taken.reply = self._taken.reply, None
        if reply is None:
            reply = self._playback.next(request)
        if reply is None:
            raise UnmatchedRequest(self._explain(request))
        return reply


def _request(prepared: PreparedRequest) -> Request:
    """What will be sent, as far as it can be known. A body that can be read but once can be read again after this."""
    url = prepared.url or ""
    fields = [
        (name, value if isinstance(value, str) else value.decode("latin-1"))
        for name, value in prepared.headers.items()
    ]
    if "host" not in prepared.headers:
        fields.insert(0, ("Host", urlsplit(url).netloc))
    body: Any = prepared.body
    if hasattr(body, "read"):
        begin = getattr(prepared, "_body_position", None)
        file, body = body, body.read()
        if isinstance(begin, int):
            file.seek(begin)
        else:
            prepared.body = body
    elif body is not None and not isinstance(body, (str, bytes, bytearray)):
        parts: Any = _Parts(body)
        prepared.body = parts
        body = b"".join(parts)
    data = body.encode() if isinstance(body, str) else bytes(body or b"")
    return Request(prepared.method or "", url, Headers(fields), data)


class _Parts:
    """What a generator gave, to be iterated as often as need be."""

    def __init__(self, parts: Iterable[bytes | str]) -> None:
        self._parts = [part.encode() if isinstance(part, str) else part for part in parts]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._parts)


def _now() -> float:
    return datetime.now(timezone.utc).timestamp()


def _drifts(playback: Playback, live: Recording) -> Iterator[str]:
    """How the live answers differ from the recorded ones, a few lines for each that does."""
    for exchange in live:
        n = playback.take(exchange.request)
        if n is None:
            yield f"  {describe(exchange.request)}\n    is not in the recording, or not as often"
        elif lines := list(_drift(playback.recording[n].reply, exchange.reply)):
            yield "\n".join(
                [f"  exchange {n}, {describe(exchange.request)}", *[f"    {line}" for line in lines]]
            )


def _drift(was: Reply, now: Reply) -> Iterator[str]:
    if _status(was) != _status(now):
        yield f"status: was {_status(was)}, is {_status(now)}"
    if was.head is not None and now.head is not None:
        before, after = (
            {name.lower() for name, _ in (*head.headers, *head.decoded)} for head in (was.head, now.head)
        )
        if gone := sorted(before - after):
            yield f"headers: no {', '.join(map(one_line, gone))} any more"
        if new := sorted(after - before):
            yield f"headers: {', '.join(map(one_line, new))} {'is' if len(new) == 1 else 'are'} new"
        kinds = [one_line(head.headers.get("content-type", "none")) for head in (was.head, now.head)]
        if kinds[0] != kinds[1]:
            yield f"content-type: was {kinds[0]}, is {kinds[1]}"
    kinds = [was.ending.kind, now.ending.kind]
    if was.ending.kind != now.ending.kind and "closed" not in kinds:  # which was the reader's doing
        yield f"ending: was {was.ending.kind}, is {now.ending.kind}"


def _status(reply: Reply) -> str:
    return "no answer" if reply.head is None else one_line(f"{reply.head.status} {reply.head.reason}")
