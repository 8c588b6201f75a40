"""`aivvm-testing record`: a recording proxy, and a line for each exchange that passes."""

from __future__ import annotations

import argparse
import os
import sys
import threading
from dataclasses import replace
from socket import gaierror
from ssl import SSLError
from typing import Any
from urllib.parse import urlsplit

from aivvm.terminal import one_line
from aivvm.transport import Request
from aivvm_testing.record.proxy import RecordingProxy
from aivvm_testing.redaction import Redaction
from aivvm_testing.reply import EndingKind
from aivvm_testing.verbs.files import refuse_existing
from aivvm_testing.verbs.lines import TO_THE_END, Lines, counted, event, shown, stoppable


def record(options: argparse.Namespace) -> int:
    """Records until Ctrl-C or SIGTERM; 2 for an upstream, a host or a redaction that cannot be."""
    if not options.overwrite:
        refuse_existing(options.out)
    redaction: Redaction = replace(options.redaction, strict=options.strict)
    try:
        proxy = _Shown(
            options.upstream,
            options.out,
            host=options.host,
            port=options.port,
            note=options.note,
            redaction=redaction,
            timeout=(options.connect_timeout, options.read_timeout),
            verify=options.ca or True,
            allow_remote=options.allow_remote,
        )
    except ValueError as error:
        message = str(error).replace("allow_remote=True", "--allow-remote")
        print(f"aivvm-testing record: {shown(message)}", file=sys.stderr)
        return 2
    except gaierror as error:
        raise OSError(f"no address of --host {options.host}: {error.strerror}") from error
    except (FileNotFoundError, SSLError) as error:
        raise OSError(f"--ca {options.ca} is no file or folder of certificates in PEM: {error}") from error
    proxy.as_json, proxy.replaces = options.json, os.path.exists(options.out)
    with stoppable(proxy.lines.no_more) as allow:
        proxy.start()
        try:
            facts = {"url": proxy.url, "host": options.host, "port": proxy.port, "pid": os.getpid()}
            if options.json:
                where = event("listening", **facts, upstream=options.upstream, file=options.out)
            else:
                passing = shown(f"from {proxy.url} to {options.upstream} in {options.out}")
                where = f"recording {passing} (Ctrl-C stops)"
            print(where, flush=True)
            proxy.lines.print_all()
        finally:
            allow(0)  # a long recording takes its time to be finished
            proxy.stop()
            allow(TO_THE_END)
        proxy.say_how_many(options.out)
        proxy.lines.no_more()
        proxy.lines.print_all()
    return 0


class _Shown(RecordingProxy):
    """The proxy behind `record`: says what passes. It is told so in its connections' threads, which must not wait."""

    as_json = False
    replaces = False  # a file that is there

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.lines = Lines()
        self._lock = threading.Lock()
        self._exchanges = 0
        self._redacted = 0
        self._refused = 0

    def passed(self, request: Request, status: int | None, ending: EndingKind, chunks: int) -> None:
        clean = self._redaction.redact_request(request)
        with self._lock:
            self._exchanges += 1
            self._redacted += clean != request
        method, url = clean.method, clean.url
        if self.as_json:
            facts = {"method": method, "url": url, "status": status, "chunks": chunks, "ending": ending}
            self.lines.say(lambda: event("exchange", **facts))
        else:
            target = urlsplit(url)._replace(scheme="", netloc="").geturl() or "*"
            how = f"{status or 'no head'}, {counted(chunks, 'chunk')}, {ending}"
            self.lines.say(lambda: f"{one_line(shown(f'{method} {target}'))} -> {how}")

    def refused(self, status: int, why: str) -> None:
        with self._lock:
            self._refused += 1
        if self.as_json:
            self.lines.say(lambda: event("refused", status=status, why=why))
        else:
            self.lines.say(lambda: f"refused with {status}, not passed on: {one_line(shown(why))}")

    def say_how_many(self, file: str) -> None:
        """Says it whatever is waiting to be printed."""
        exchanges, redacted, dropped = self._exchanges, self._redacted, self.lines.dropped
        if self.as_json:
            line = event(
                "summary",
                exchanges=exchanges,
                file=file,
                requests_redacted=redacted,
                requests_refused=self._refused,
                lines_dropped=dropped,
            )
        else:
            line = f"\n{counted(exchanges, 'exchange')} in {shown(file)}"
            if not exchanges:
                line = f"\nno exchange came: {shown(file)} is {'as it was' if self.replaces else 'an empty recording'}"
            line += f", secrets taken out of {counted(redacted, 'request')}" if redacted else ""
            line += f", {counted(self._refused, 'request')} refused" if self._refused else ""
            line += f" ({dropped} lines dropped: nobody read them)" if dropped else ""
        self.lines.say(lambda: line, whatever_waits=True)
