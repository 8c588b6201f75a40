"""The `aivvm-testing` command: what can be typed, and what becomes of an error.

Status 0: done. 1: a finding, or a file that cannot be used. 2: misuse. 130: Ctrl-C. 141: nobody reads the output any
more. What comes from recordings and clients is foreign text: on its way out all of it is neutralised, or is JSON, which
is ASCII here; and no verb prints what looks like a secret. With --json, an error is an event of `failure` on standard
output, too. What a verb does is in `verbs`.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import NoReturn

from aivvm import __version__
from aivvm.errors import AivvmError
from aivvm.transport import DEFAULT_TIMEOUT
from aivvm_testing import faults
from aivvm_testing.differences import SAME_REQUEST
from aivvm_testing.errors import SetupFailure
from aivvm_testing.matching import DEFAULT_MATCH_ON, Matcher
from aivvm_testing.redaction import Redaction
from aivvm_testing.verbs import files, lines, serve, show

_Verbs = argparse._SubParsersAction  # of ArgumentParser; it has no public name
_WIDTH = 78


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A screen that cannot show a letter shows its number.
        sys.stdout.reconfigure(errors="backslashreplace")
    options, unknown = make_parser().parse_known_args(argv)
    if unknown:
        options.verb.error(f"unrecognized arguments: {' '.join(unknown)}")
    _give_redaction(options)
    try:
        status = _run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        _fall_silent()
        return 141
    except KeyboardInterrupt:
        _fall_silent()
        return 130
    return status


def _run(options: argparse.Namespace) -> int:
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except BrokenPipeError:
        raise
    except (SetupFailure, AivvmError, OSError) as error:
        text = lines.without_cut_words(str(error))
        print(f"aivvm-testing: {lines.shown(text)}", file=sys.stderr)
        if options.json:
            print(lines.event("failure", error=text))
        return 1


def _fall_silent() -> None:
    """For when whoever reads our output has gone, or does not read: Python must not flush the rest of it at exit."""
    with suppress(OSError, ValueError):  # the output is no file, or closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Parser(argparse.ArgumentParser):
    """One that says what may have been meant."""

    def error(self, message: str) -> NoReturn:
        asked, known = "", ""
        if choice := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            asked, known = choice.groups()
        elif option := re.search(r"unrecognized arguments: .*?(--[\w-]+)", message):
            asked, known = option[1], self.format_usage()
        near = get_close_matches(asked, re.findall(r"(?<![\w-])(?:--)?\w[\w-]*", known), 1)
        super().error(f"{message}: did you mean {near[0]}?" if near else message)


def make_parser() -> argparse.ArgumentParser:
    """What the command line may hold."""
    parser = _Parser(
        prog="aivvm-testing",
        description="Record, replay and break streamed answers, exactly.",
        epilog="Exit status: 0 done, 1 a finding or a file that cannot be used, 2 misuse. "
        "`aivvm-testing VERB --help` tells more about each.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB", title="verbs")
    for add in (_add_demo, _add_serve, _add_record, _add_replay, _add_show):
        add(verbs)
    for add in (_add_check, _add_diff, _add_redact, _add_merge, _add_recover, _add_contract):
        add(verbs)
    return parser


def _add(
    verbs: _Verbs[_Parser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    *,
    help: str,
    description: str,
    example: str,
    json: str = "print a JSON object, for programs",
) -> _Parser:
    """A verb, with the option that all have."""
    verb = verbs.add_parser(
        name,
        help=help,
        description=textwrap.fill(description, _WIDTH),
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,  # an example is to be copied as it is
    )
    verb.add_argument("--json", action="store_true", help=json)
    verb.set_defaults(run=run, verb=verb)
    return verb


def _add_demo(verbs: _Verbs[_Parser]) -> None:
    demo = _add(
        verbs,
        "demo",
        _demo,
        help="serve a real session, record it, replay it, and prove them equal",
        description="Serves a real session on loopback, shows it as it streams, records it, replays the "
        "recording twice, and proves chunk by chunk that nothing was changed. Takes seconds, and needs no network.",
        example="aivvm-testing demo --out session.jsonl",
        json="print the proofs as JSON, and nothing else",
    )
    demo.add_argument("--out", metavar="FILE", help="where to record (default: a new temporary folder)")


def _add_serve(verbs: _Verbs[_Parser]) -> None:
    verb = _add(
        verbs,
        "serve",
        serve.serve,
        help="a fake Aivvm server for any client, until Ctrl-C",
        description="A fake Aivvm server on loopback, for any client in any language. It answers from RECORDING, "
        "else with --reply, else with an echo of the last user message. It runs until Ctrl-C or SIGTERM, prints "
        "where it listens, then a line for each request. Exit status: 0, or 1 if there was no answer to a request, "
        "such as one that is not in the recording (the client is told why, with status 501); 2 for misuse. "
        "With --json each line is an object: first an 'event' of 'listening', with 'url', 'host', 'port' and "
        "'pid'; a 'request' when its answer is over, with 'method', 'url', 'status', 'ending', 'outcome' (played; "
        "closed by the client, or by the end of the server, before that; unmatched) and how much was taken; a "
        "'failure' with its 'error'; at the end a 'summary'. "
        f"Faults: {', '.join(faults.CATALOGUE)}.",
        example="aivvm-testing serve --reply Hello --fault 'slow_drip(0.2) | cut(after_bytes=3)'",
        json="print a JSON object a line, for programs",
    )
    verb.add_argument(
        "recording",
        metavar="RECORDING",
        nargs="?",
        help="a file, or the name of a shipped recording, to answer from",
    )
    verb.add_argument(
        "--reply",
        metavar="TEXT",
        help="answer every chat with this text; with RECORDING, those it does not hold",
    )
    verb.add_argument(
        "--fault",
        metavar="CODE",
        type=_fault,
        action="append",
        default=[],
        help="do this to every answer but the list of models, such as 'cut(after=3)' or 'slow_drip(0.05) | reset'; "
        "may be repeated. Where it does not go with an answer, such as a cut after more chunks than there are, the "
        "client gets a 500 that says so, and the exit status is 1",
    )
    _add_speed(verb)
    _add_match_on(verb, DEFAULT_MATCH_ON, "what a request must share with a recorded one")
    verb.add_argument(
        "--ignore-json",
        metavar="PATH",
        action="append",
        default=[],
        help="a member of JSON bodies that does not count there, such as 'messages[*].id'; may be repeated",
    )
    verb.add_argument(
        "--allow-playback-repeats",
        action="store_true",
        help="give the last recorded answer again where one is asked for too often",
    )
    verb.add_argument(
        "--cors",
        metavar="ORIGIN",
        nargs="?",
        type=_origin,
        const=True,
        default=False,
        help="let web pages of this origin, such as http://localhost:3000, read the answers; of any, without ORIGIN",
    )
    _add_address(verb)


def _add_record(verbs: _Verbs[_Parser]) -> None:
    record = _add(
        verbs,
        "record",
        _record,
        help="a proxy that records what any client and a server say, until Ctrl-C",
        description="A reverse proxy on loopback: point any client at it, and what passes between it and the "
        "upstream, chunk by chunk, is in FILE after Ctrl-C or SIGTERM. It prints where it listens, and a line for "
        "each exchange that is over. Secrets are taken out before anything is written. Until then what came is in "
        "FILE.journal (see `recover`). FILE, if it exists, is replaced only with --overwrite, when the recording is "
        "finished, and not at all where nothing came. With --json each line is an object: an 'event' of "
        "'listening', with 'url', 'host', 'port', 'pid', 'upstream' and 'file'; an 'exchange', with 'method', 'url', "
        "'status', 'chunks' and 'ending'; at the end a 'summary', with 'exchanges' and 'requests_redacted', in how "
        "many of their requests there were secrets; or a 'failure' with its 'error'.",
        example="aivvm-testing record --upstream https://upstream.example --out session.jsonl --port 8000",
        json="print a JSON object a line, for programs",
    )
    record.add_argument(
        "--upstream", metavar="URL", required=True, help="the server to pass everything on to"
    )
    record.add_argument("--out", metavar="FILE", required=True, help="where to record")
    record.add_argument("--note", metavar="TEXT", default="", help="why this recording exists, kept in it")
    connect, read = DEFAULT_TIMEOUT
    for name, seconds, what in (
        ("--connect-timeout", connect, "for a connection to the upstream"),
        ("--read-timeout", read, "for the next bytes of the upstream"),
    ):
        record.add_argument(
            name,
            metavar="S",
            type=_patience,
            default=seconds,
            help=f"wait so many seconds {what} (default: {seconds:g})",
        )
    record.add_argument("--ca", metavar="FILE", help="trust these certificates (PEM) instead of the system's")
    _add_address(record)
    _add_overwrite(record)
    _add_redaction(record)
    record.add_argument(
        "--strict", action="store_true", help="do not finish a recording in which secrets are found"
    )


def _add_replay(verbs: _Verbs[_Parser]) -> None:
    replay = _add(
        verbs,
        "replay",
        show.replay,
        help="print a recorded session's answers, as they came",
        description="Prints each answer of a recording as it streamed, and how it ended. With --json, an event a "
        "line, when it is time for it: 'request', 'reply', each 'chunk' with its 'text' or 'hex', and 'end'.",
        example="aivvm-testing replay real_chat --speed 2",
        json="print a JSON object a line, for programs",
    )
    _add_recording(replay)
    _add_speed(replay)
    _add_keep(replay)


def _add_show(verbs: _Verbs[_Parser]) -> None:
    verb = _add(
        verbs,
        "show",
        show.show,
        help="what a recording holds, chunk by chunk",
        description="Lists what a recording holds: each request, and of its answer each chunk with its moment, "
        "its size and its beginning, and how it ended. Exchanges are counted from 0.",
        example="aivvm-testing show split_emoji_4ways",
    )
    _add_recording(verb, nargs="?")
    verb.add_argument("--list", action="store_true", help="the names of the shipped ones, with their notes")
    _add_keep(verb)


def _add_check(verbs: _Verbs[_Parser]) -> None:
    check = _add(
        verbs,
        "check",
        files.check,
        help="whether recordings are sound, every line of them",
        description="Reads every exchange of each file, and of each *.jsonl in each folder, and tells all that is "
        "wrong, with file and line; and where the journal of a recorder that was stopped is beside a file. Exit "
        "status 1 where there is anything to tell.",
        example="aivvm-testing check recordings/",
    )
    _add_recordings(check)


def _add_diff(verbs: _Verbs[_Parser]) -> None:
    diff = _add(
        verbs,
        "diff",
        files.diff,
        help="in what two recordings differ",
        description="Compares two recordings exchange by exchange: requests by method, url and the meaning of the "
        "body; answers by status, reason, header fields (without their order, and without the value of Date), "
        "chunks and ending. Secrets do not count. Exit status 1 where they differ.",
        example="aivvm-testing diff before.jsonl after.jsonl --times 0.05 --ignore etag",
    )
    diff.add_argument("a", metavar="A", help="a file, or the name of a shipped recording")
    diff.add_argument("b", metavar="B", help="what to compare it with")
    diff.add_argument(
        "--times",
        metavar="TOLERANCE",
        type=_tolerance,
        help="moments count, too: they may differ by so many seconds",
    )
    diff.add_argument(
        "--ignore",
        metavar="NAME",
        action="append",
        default=[],
        help="a header field of answers that does not count; may be repeated",
    )
    _add_match_on(diff, SAME_REQUEST, "what requests must share")
    _add_redaction(diff)


def _add_redact(verbs: _Verbs[_Parser]) -> None:
    redact = _add(
        verbs,
        "redact",
        files.redact,
        help="take secrets out of recordings, or find what slipped through",
        description="Takes out what goes under the name of a secret, what matches a pattern, and what looks like a "
        "key, a token or a password, at the same length; then checks what it wrote. With --check, only says where "
        "there is any, in recordings and their journals. Exit status 1 where there is any (left): what is in a body "
        "in its content-coding is found, and stays.",
        example="aivvm-testing redact session.jsonl --out clean.jsonl --name x-tenant --pattern 'cust-(\\d+)'",
    )
    _add_recordings(redact)
    how = redact.add_mutually_exclusive_group(required=True)
    how.add_argument("--check", action="store_true", help="find, and write nothing")
    how.add_argument("--out", metavar="FILE", help="where to write the one RECORDING without its secrets")
    how.add_argument("--in-place", action="store_true", help="replace each file, whole or not at all")
    _add_overwrite(redact)
    _add_redaction(redact)


def _add_merge(verbs: _Verbs[_Parser]) -> None:
    merge = _add(
        verbs,
        "merge",
        files.merge,
        help="one recording of several, such as those of several processes",
        description="Puts the exchanges of several recordings into one, in the order in which they started: 'started' "
        "of each, after 'recorded_at' of its file. Those that started together are in the order of the files, as "
        "they are named here. Equal files make an equal file.",
        example="aivvm-testing merge worker-1.jsonl worker-2.jsonl --out session.jsonl",
    )
    _add_recordings(merge)
    merge.add_argument("--out", metavar="FILE", required=True, help="where to write the recording")
    _add_overwrite(merge)


def _add_recover(verbs: _Verbs[_Parser]) -> None:
    recover = _add(
        verbs,
        "recover",
        files.recover,
        help="make a recording of the journal that a killed recorder left",
        description="Makes a recording of RECORDING.journal, which a recorder left that was killed, and removes the "
        "journal. What had no ending by then is 'unfinished'. A file that is there is never replaced.",
        example="aivvm-testing recover session.jsonl --out recovered.jsonl",
    )
    recover.add_argument("recording", metavar="RECORDING", help="the file that was being recorded")
    recover.add_argument("--out", metavar="FILE", help="where to write the recording (default: RECORDING)")


def _add_contract(verbs: _Verbs[_Parser]) -> None:
    verb = _add(
        verbs,
        "contract",
        _contract,
        help="whether a provider or a transport of yours does what streaming needs",
        description="Checks a streaming provider, or with --transport a transport, of anybody's against a fake server on "
        "loopback: exact text, prompt delivery, errors, timeouts, closing, threads. FACTORY makes it: of the address "
        "of the server, and a timeout if it takes one; a transport of nothing. What it makes is asked with "
        "create_completion(model, messages, stream=True), or called with messages. MODULE is imported, from the "
        "current folder too. Prints what is wrong, and what to do. Exit status 1 where anything is.",
        example="aivvm-testing contract my_client:make --allow 'AP06=pages are shown as they are'",
    )
    verb.add_argument("factory", metavar="MODULE:FACTORY", help="what makes it, such as my_client:make")
    verb.add_argument(
        "--transport", action="store_true", help="it is a transport, with send(request, *, timeout)"
    )
    verb.add_argument(
        "--only", metavar="CODE", action="append", default=[], help="run this check alone; may be repeated"
    )
    verb.add_argument(
        "--allow",
        metavar="CODE=REASON",
        type=_allowed,
        action="append",
        default=[],
        help="let this check fail, for a reason; may be repeated",
    )
    verb.add_argument(
        "--model", metavar="ID", default="gpt-4", help="the model to ask for (default: %(default)s)"
    )
    verb.add_argument(
        "--patience",
        metavar="S",
        type=_patience,
        default=5.0,
        help="so many seconds may a step take before it counts as one that never ends (default: %(default)g)",
    )


# Options that several verbs have


def _add_recording(verb: argparse.ArgumentParser, nargs: str | None = None) -> None:
    verb.add_argument(
        "recording", metavar="RECORDING", nargs=nargs, help="a file, or the name of a shipped recording"
    )


def _add_recordings(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "recordings",
        metavar="RECORDING",
        nargs="+",
        help="a file, or the name of a shipped recording" + ("" if "merge" in verb.prog else ", or a folder"),
    )


def _add_overwrite(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--overwrite", action="store_true", help="replace the file --out if it exists")


def _add_address(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--host", default="127.0.0.1", help="where to listen (default: %(default)s)")
    verb.add_argument("--port", type=_port, default=0, help="default: a free one")
    verb.add_argument(
        "--allow-remote", action="store_true", help="allow a --host that other machines can reach"
    )


def _add_match_on(verb: argparse.ArgumentParser, default: Sequence[object], what: str) -> None:
    verb.add_argument(
        "--match-on",
        type=_criteria,
        default=default,
        metavar="NAMES",
        help=f"{what}, such as method,path (default: {','.join(map(str, default))})",
    )


def _add_redaction(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--name",
        metavar="NAME",
        action="append",
        default=[],
        help="one more name of secrets; may be repeated",
    )
    verb.add_argument(
        "--pattern",
        metavar="REGEX",
        action="append",
        default=[],
        help="what matches it, or its first group, is a secret, too; may be repeated",
    )
    _add_keep(verb)


def _add_keep(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--keep",
        metavar="NAME",
        action="append",
        default=[],
        help="a name that would be a secret's, such as token, and is none here; may be repeated",
    )


def _give_redaction(options: argparse.Namespace) -> None:
    """Makes `options.redaction` of what was said of it; ends with status 2 where that cannot be."""
    if hasattr(options, "keep"):
        names, patterns = getattr(options, "name", ()), getattr(options, "pattern", ())
        try:
            options.redaction = Redaction(names=names, patterns=patterns, keep=options.keep)
        except (TypeError, ValueError) as error:
            options.verb.error(str(error))


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


def _number(what: str, *, positive: bool = False) -> Callable[[str], float]:
    """A parser of numbers that are not negative, nor infinite, or more than 0; `what` says so."""

    def parse(value: str) -> float:
        try:
            number = float(value)
        except ValueError:
            number = -1
        if not 0 <= number < float("inf") or (positive and not number):
            raise argparse.ArgumentTypeError(f"{what}, but got {value}")
        return number

    return parse


_speed = _number("a speed is 0 or more")
_tolerance = _number("a tolerance is 0 seconds or more")
_patience = _number("a timeout is more than 0 seconds", positive=True)


def _allowed(value: str) -> tuple[str, str]:
    code, _, why = value.partition("=")
    if not why.strip():
        raise argparse.ArgumentTypeError(
            f"it is a code and a reason, such as AP06='why it may', but got {value}"
        )
    return code, why


def _criteria(value: str) -> tuple[str, ...]:
    names = tuple([name.strip() for name in value.split(",") if name.strip()])
    if not names:
        raise argparse.ArgumentTypeError("name what counts, such as method,path")
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


# Verbs that need libraries which the others do not


def _demo(options: argparse.Namespace) -> int:
    from aivvm_testing.demo import run

    return run(out=options.out, as_json=options.json)


def _record(options: argparse.Namespace) -> int:
    from aivvm_testing.verbs.record import record

    return record(options)


def _contract(options: argparse.Namespace) -> int:
    from aivvm_testing.verbs.contract import contract

    return contract(options)
