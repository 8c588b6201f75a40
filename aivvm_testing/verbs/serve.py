"""`aivvm-testing serve`: a fake on loopback, and a line for whatever happens to it."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable
from socket import gaierror

from aivvm.terminal import one_line
from aivvm.transport import Request
from aivvm_testing.call import Call, Outcome
from aivvm_testing.clock import Clock
from aivvm_testing.errors import SetupFailure
from aivvm_testing.fake import FakeAivvm
from aivvm_testing.matching import describe
from aivvm_testing.redaction import redact_request
from aivvm_testing.service import is_models
from aivvm_testing.verbs.lines import Lines, counted, event, shown, stoppable, without_cut_words
from aivvm_testing.verbs.sources import recording_of


def serve(options: argparse.Namespace) -> int:
    """Serves until Ctrl-C or SIGTERM; 1 where a request had no answer, 2 for a host that is not to be listened at."""
    if options.recording is None:
        fake = _Served()
    else:
        recording = recording_of(options.recording)
        try:
            fake = _Served.replaying(
                recording,
                match_on=options.match_on,
                ignore_json=options.ignore_json,
                allow_playback_repeats=options.allow_playback_repeats,
                speed=options.speed,
            )
        except ValueError as error:
            options.verb.error(str(error))
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
        print(f"aivvm-testing serve: {shown(message)}", file=sys.stderr)
        return 2
    except gaierror as error:
        raise OSError(f"no address of --host {options.host}: {error.strerror}") from error
    what = one_line(options.recording or ("an echo" if options.reply is None else "a reply"))
    with stoppable(fake.lines.no_more):
        server.start()
        try:
            where = event("listening", url=server.url, host=options.host, port=server.port, pid=os.getpid())
            print(where if options.json else f"serving {what} at {server.url} (Ctrl-C stops)", flush=True)
            fake.lines.print_all()
        finally:
            server.stop()
        fake.say_how_many()
        fake.lines.no_more()
        fake.lines.print_all()
    if fake.failure is not None:
        print(f"aivvm-testing: {shown(without_cut_words(str(fake.failure)))}", file=sys.stderr)
        return 1
    return 0


class _Served(FakeAivvm):
    """The fake behind `serve`: says what happens to it, and remembers no more than it needs for that.

    It is asked in the server's thread, which must not wait for whoever reads the output.
    """

    as_json = False

    def __init__(self, *, clock: Clock | None = None) -> None:
        super().__init__(clock=clock)
        self.lines = Lines()
        self.failure: SetupFailure | None = None  # the first
        self._last_failure: SetupFailure | None = None
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
            asked = without_cut_words(describe(request))
            self.lines.say(lambda: f"{shown(asked)} -> {how}")
        return _ServedCall(call, self._over)

    def refuses_next(self) -> bool:
        """Never: nobody could tell the server to listen again. Who asks for a refused connection meets a reset."""
        return False

    def failed(self, error: SetupFailure) -> None:
        super().failed(error)
        if error is not self._last_failure:  # it is told by whoever finds it, and once more by the server
            self._last_failure = error
            self.failure = self.failure or error
            text = without_cut_words(str(error))
            self.lines.say(lambda: event("failure", error=text) if self.as_json else shown(text))

    def _over(self, call: Call) -> None:
        self._outcomes[call.outcome] += 1
        reply = call.reply
        chunks = 0 if reply is None else len(reply.chunks)
        if self.as_json:
            request = redact_request(call.request)
            facts = {
                "method": request.method,
                "url": request.url,
                "status": None if reply is None else reply.status,
                "ending": None if reply is None else reply.ending.kind,
                "outcome": call.outcome,
                "chunks": chunks,
                "chunks_taken": call.chunks_taken,
                "bytes_taken": call.bytes_taken,
                "lasted": call.lasted,
            }
            self.lines.say(lambda: event("request", **facts))
        elif call.closed:
            taken = call.chunks_taken
            self.lines.say(lambda: f"  given up after {taken} of {chunks} chunks")

    def say_how_many(self) -> None:
        """Says it whatever is waiting to be printed."""
        counts = {name: self._outcomes[name] for name in ("played", "closed", "unmatched")}
        requests, dropped = self._requests, self.lines.dropped
        if self.as_json:
            line = event("summary", requests=requests, **counts, lines_dropped=dropped)
        else:
            line = f"\n{counted(requests, 'request')} came"
            line += f", {counts['unmatched']} unmatched" if counts["unmatched"] else ""
            line += f" ({dropped} lines dropped: nobody read them)" if dropped else ""
        self.lines.say(lambda: line, whatever_waits=True)


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
