"""What is required of a transport: the contract at the top of `aivvm.transport`, check by check, in this order."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Literal, cast

from aivvm.errors import ConnectFailed, Interrupted, TimedOut, TransportError, shown
from aivvm.terminal import one_line
from aivvm.transport import Headers, Request, Timeout
from aivvm_testing.conformance.bench import (
    ERRORS,
    GAP,
    REASON,
    SETTLING,
    SHORT_TIMEOUT,
    Bench,
    Broken,
    Check,
    Stream,
    check_left,
    check_long,
    check_whole,
    difference,
    ending,
    required,
    told,
)
from aivvm_testing.errors import SetupFailure
from aivvm_testing.reply import Reply

TRANSPORT_CHECKS: list[Check] = []
"""What `check_transport` checks, in order."""

_of_transports = partial(required, TRANSPORT_CHECKS)
_BYTES = bytes(range(256))
_POST = Headers([("content-type", "application/json"), ("X-Of-Mine", "a, b")])


class TransportBench(Bench[bytes]):
    kind = bytes

    def __init__(self, make: Callable[[], object], patience: float) -> None:
        super().__init__(patience)
        self._make = make
        self._subject: object = None
        self.responses: list[Any] = []

    def make(self) -> object:
        made = self._make()
        if isinstance(made, type) or not callable(getattr(made, "send", None)):
            guess = f": did you mean {made.__name__}()?" if isinstance(made, type) else ""
            raise TypeError(
                f"make gives a transport, with send(request, *, timeout), but gave {shown(made)}{guess}"
            )
        return self.keep(made)

    def send(
        self, *, of: object = None, timeout: Timeout = None, path: str = "/api/chat", body: bytes = b"{}"
    ) -> Any:
        """What the check's own transport, or that one, makes of a request; raises what it raises."""
        if of is None:
            if self._subject is None:
                self._subject = self.make()
            of = self._subject
        request = Request("POST", self.url + path, _POST, body)
        response = cast("Any", of).send(request, timeout=2 * self.patience if timeout is None else timeout)
        self.responses.append(response)
        return response

    def ask(self, *, of: object = None, timeout: Timeout = None, body: bytes = b"{}") -> Stream[bytes]:
        """The chunks of an answer; closing the stream closes the response."""

        def begin() -> Iterator[bytes]:
            return _Body(self.send(of=of, timeout=timeout, body=body))

        return self.open(begin)

    def answer(self, reply: Reply, what: str) -> Stream[bytes]:
        """The whole of it, however it ends."""
        self.peer.gives(reply)
        self.wait_for(what)
        stream = self.ask()
        stream.read()
        return stream

    def forget(self) -> None:
        super().forget()
        self._subject = None
        self.responses.clear()

    def _let_go(self) -> None:
        super()._let_go()
        for response in self.responses:
            with suppress(BaseException):  # what closing raises is looked at by the check of it
                response.close()

    def try_out(self) -> None:
        try:
            made = self.make()
        except TypeError:
            raise
        except Exception as error:
            raise SetupFailure(f"make() raised {told(error)}: it must only make the transport") from error
        failure: Exception | None = None
        try:
            response = self.send(of=made)
        except Exception as error:  # checks tell what is wrong with it
            failure = error
        else:
            missing = [
                name for name in ("status", "reason", "headers", "close") if not hasattr(response, name)
            ]
            if missing or not hasattr(response, "__iter__"):
                raise TypeError(
                    "send gives a response with status, reason, headers and close(), to be iterated for its chunks, "
                    f"such as aivvm.Response, but gave {shown(response)}"
                )
        if not self.peer.calls:
            raised = f", and raised {told(failure)}" if failure is not None else ""
            raise SetupFailure(
                f"what make gave was to send a request to {self.url}, but none came{raised}. A transport without a "
                "network cannot be checked. Does HTTP_PROXY stand in the environment, without NO_PROXY=127.0.0.1?"
            ) from failure


class _Body:
    """The chunks of a response as an iterator that closes it."""

    def __init__(self, response: Any) -> None:
        self._response = response
        self._chunks = iter(response)

    def __iter__(self) -> _Body:
        return self

    def __next__(self) -> bytes:
        return cast("bytes", next(self._chunks))

    def close(self) -> None:
        self._response.close()


def _framings(*parts: bytes) -> dict[str, Reply]:
    """The same answer in each of the ways in which HTTP/1.1 says where a body ends."""
    length = sum([len(part) for part in parts])
    return {
        "chunked": Reply.of(*parts),
        "with a content-length": Reply.of(*parts, headers={"content-length": str(length)}),
        "without a length": Reply.of(*parts, headers={"connection": "close"}),
    }


@_of_transports(
    "AT01",
    "request",
    "The request arrives as it was given: method, path and query, fields, and the bytes of the body.",
    "send request.body as it is, and request.headers under their own names, a value for each",
)
def _sent_request(bench: TransportBench) -> None:
    path, body = "/api/chat?a=1&b=%C3%A9", b'{"text": "\\u00e9\xc3\xa9"}\r\n' + _BYTES
    bench.peer.gives(Reply.of(b"Hello"))
    bench.wait_for("the head of an answer")
    bench.send(path=path, body=body)
    request = bench.peer.calls[-1].request
    if request.method != "POST":
        raise Broken(f"a POST arrived as {request.method}")
    if request.url != bench.url + path:
        raise Broken(f"{path} arrived as {one_line(request.url.removeprefix(bench.url))}")
    if request.body != body:
        raise Broken(f"the body is another: {difference(body, request.body)}")
    for name, value in _POST:
        if request.headers.get_all(name) != [value]:
            raise Broken(f"{name}: {value} arrived as {request.headers.get_all(name)}")


@_of_transports(
    "AT02",
    "head",
    "The response has the status, the reason and every header field as they were received, repeated ones too.",
    "make aivvm.Headers of the pairs that the parser gives, not of a mapping",
)
def _head(bench: TransportBench) -> None:
    fields = [("X-One", "1"), ("x-two", "a, b"), ("X-One", "2")]
    bench.peer.gives(Reply.of(b"Hello", status=203, reason="By Hearsay", headers=fields))
    bench.wait_for("the head of an answer")
    response = bench.send()
    if (response.status, response.reason) != (203, "By Hearsay"):
        raise Broken(f"203 By Hearsay became {response.status!r} {response.reason!r}")
    came = [(name.lower(), value) for name, value in response.headers if name.lower() in ("x-one", "x-two")]
    if came != [(name.lower(), value) for name, value in fields]:
        raise Broken(f"of the fields {fields} there came {came}")
    if response.headers.get("x-ONE") != "1":
        raise Broken("headers.get('x-ONE') does not find the field X-One")


@_of_transports(
    "AT03",
    "exact bytes",
    "The chunks are bytes, and together the body, however HTTP frames it.",
    "iterate raw bytes: no decoding to text, no stripping, no splitting at line ends",
)
def _exact_bytes(bench: TransportBench) -> None:
    for how, reply in _framings(_BYTES, b"\r\n", b"\n\n", b"\xef\xbb\xbf\x00", _BYTES).items():
        stream = bench.answer(reply.pace(GAP), f"the end of an answer {how}")
        check_whole(stream, reply.body, how)


@_of_transports(
    "AT04",
    "prompt delivery",
    "Each chunk is given when it is there, before the next one comes, however the answer is framed.",
    "read what has come (read1), not blocks of a size, which wait until they are full",
)
def _prompt_chunks(bench: TransportBench) -> None:
    for how, reply in _framings(b"Hello-", b"wor", b"ld").items():
        for n in (1, 2):
            came = reply.stall(after=n)
            bench.peer.gives(came)
            bench.wait_for(f"chunk {n} of an answer {how}, while the server kept the next one back")
            stream = bench.ask()
            stream.read(len(came.body))
            check_whole(stream, came.body, how)
            bench.wait_for_nothing()
            stream.drop()


@_of_transports(
    "AT05",
    "head before body",
    "send returns when the head of the answer is there, and waits for nothing more.",
    "ask the HTTP client to stream: send returns before any of the body is read",
)
def _head_before_body(bench: TransportBench) -> None:
    bench.peer.gives(Reply.of().stall())
    bench.wait_for("a response, while the server kept the body back")
    bench.send()


@_of_transports(
    "AT06",
    "every status",
    "An answer of any status is returned, not raised, and its body can be read.",
    "do not call raise_for_status(): what a status means is the provider's business",
)
def _every_status(bench: TransportBench) -> None:
    for status in (201, *ERRORS):
        stream = bench.answer(Reply.error(status, reason=REASON, body="Error"), f"an answer with {status}")
        if stream.error is not None or stream.whole != b"Error":
            raise Broken(f"with {status} and the body Error {ending(stream)}")
        if bench.responses[-1].status != status:
            raise Broken(f"{status} became {bench.responses[-1].status!r}")


@_of_transports(
    "AT07",
    "no redirects",
    "A redirect is an answer like others, and is not followed.",
    "turn redirects off, as with allow_redirects=False or follow_redirects=False",
)
def _no_redirects(bench: TransportBench) -> None:
    for status in (301, 302, 307, 308):
        redirect = Reply.of(b"Elsewhere", status=status, headers={"Location": "/elsewhere"})
        bench.peer.gives(redirect, Reply.of(b"Hello"))
        bench.wait_for(f"an answer with {status}")
        response = bench.send()
        if len(bench.peer.calls) > 1 or response.status != status:
            raise Broken(
                f"{status} led to {len(bench.peer.calls)} requests, and the status {response.status!r}"
            )


@_of_transports(
    "AT08",
    "no repeats",
    "A request is sent once, whatever comes of it.",
    "turn retries off: whether to ask again is the caller's decision",
)
def _no_repeats(bench: TransportBench) -> None:
    cases = {
        "a status of 503": Reply.error(503),
        "an answer that is cut": Reply.of(b"Hello-").cut(),
        "no answer": Reply.no_answer("cut"),
        "a reset": Reply.no_answer("reset"),
    }
    for what, reply in cases.items():
        bench.answer(reply, f"up, where it meets {what}")
        if len(bench.peer.calls) > 1:
            raise Broken(f"{what} led to {len(bench.peer.calls)} requests")


@_of_transports(
    "AT09",
    "broken connections",
    "A connection that breaks is Interrupted, of kind 'cut' or 'reset', before the head and within the body.",
    "raise aivvm.Interrupted(..., kind=...) from the exception of the HTTP client; check the length where it does not",
)
def _broken_connections(bench: TransportBench) -> None:
    whole = _framings(b"Hello-", b"world")
    cases: list[tuple[str, Reply, Literal["cut", "reset"]]] = [
        ("a chunked answer that was cut", whole["chunked"].cut(after=1), "cut"),
        ("an answer that was cut short of its length", whole["with a content-length"].cut(after=1), "cut"),
        ("a connection that was closed without an answer", Reply.no_answer("cut"), "cut"),
        ("an answer that was reset", whole["chunked"].reset(after=1), "reset"),
        ("a connection that was reset without an answer", Reply.no_answer("reset"), "reset"),
    ]
    for how, reply, kind in cases:
        stream = bench.answer(reply, f"up on {how}")
        if not isinstance(stream.error, Interrupted) or stream.error.kind != kind:
            raised = f" (kind {stream.error.kind!r})" if isinstance(stream.error, Interrupted) else ""
            raise Broken(f"of {how} {ending(stream)}{raised}, not Interrupted of kind {kind!r}")


@_of_transports(
    "AT10",
    "timeouts",
    "A peer that falls silent is TimedOut within the read timeout, before the head and within the body.",
    "give the HTTP client the timeout, a number or a pair (connect, read), and raise aivvm.TimedOut from its exception",
)
def _silence(bench: TransportBench) -> None:
    cases: list[tuple[str, Reply, Timeout]] = [
        ("did not answer", Reply.no_answer("stall"), SHORT_TIMEOUT),
        ("fell silent within its answer", Reply.of(b"Hello-").stall(), (bench.patience, SHORT_TIMEOUT)),
    ]
    for what, reply, timeout in cases:
        bench.peer.gives(reply)
        bench.wait_for(f"up on a peer that {what}, with timeout={timeout!r}")
        stream = bench.ask(timeout=timeout)
        stream.read()
        if not isinstance(stream.error, TimedOut):
            raise Broken(f"of a peer that {what} {ending(stream)}, not TimedOut")


@_of_transports(
    "AT11",
    "nobody there",
    "Where no connection comes about, send raises ConnectFailed, of kind 'refused' where it is refused.",
    "raise aivvm.ConnectFailed(..., kind=...) from the exception of the HTTP client",
)
def _no_connection(bench: TransportBench) -> None:
    bench.stop_listening()
    bench.wait_for("an exception where no server listens")
    stream = bench.ask()
    if not isinstance(stream.error, ConnectFailed) or stream.error.kind != "refused":
        raise Broken(f"{ending(stream)}, not ConnectFailed of kind 'refused'")


@_of_transports(
    "AT12",
    "chunks before an error",
    "Every chunk that came before the connection broke is given before the exception.",
    "give each chunk as it comes, and raise at the next one",
)
def _chunks_before_an_error(bench: TransportBench) -> None:
    for kind, reply in (
        ("cut", Reply.of(b"Hello-", b"world").cut()),
        ("reset", Reply.of(b"Hello-", b"world").reset()),
    ):
        bench.peer.gives(reply)
        bench.wait_for(f"the first chunk of an answer that was {kind} later")
        stream = bench.ask()
        stream.read(1)
        bench.wait_for(f"the chunks before the {kind}", 2 * bench.patience)
        bench.over(bench.peer.calls[0])
        threading.Event().wait(SETTLING)
        stream.read()
        if stream.whole != reply.body:
            raise Broken(f"{reply.body!r} came before the {kind}, and {ending(stream)}")


@_of_transports(
    "AT13",
    "close",
    "Closing a response lets go of its connection at once; closing it again is harmless, and iterating it then ends.",
    "close the response of the HTTP client in close(), and let iteration end after that",
)
def _close(bench: TransportBench) -> None:
    bench.peer.gives(Reply.of(b"Hello-").stall())
    bench.wait_for("the first chunk of an answer, to close it then")
    stream = bench.ask()
    stream.read(1)
    response = bench.responses[-1] if bench.responses else None
    if stream.over or response is None:
        raise Broken(f"it ended before it could be closed: {ending(stream)}")
    bench.wait_for("an end, when its response was closed", 2 * bench.patience)
    try:
        response.close()
        response.close()
    except Exception as error:
        raise Broken(f"closing it, twice, raised {told(error)}") from error
    if not bench.over(bench.peer.calls[-1]):
        raise Broken(f"{bench.patience:g} s after closing it, the server still had the connection")
    bench.wait_for("an end, when its closed response was iterated")
    try:
        chunk = next(iter(response), None)
    except Exception as error:
        raise Broken(f"iterating it after closing it raised {told(error)}") from error
    if chunk is not None:
        raise Broken(f"after closing it, it gave {shown(chunk)}")


@_of_transports(
    "AT14",
    "streams at once",
    "Two answers of one transport that are read at once, in two threads, do not touch each other.",
    "keep what belongs to an answer in its response, not in the transport",
)
def _responses_at_once(bench: TransportBench) -> None:
    def answers(request: Request, n: int) -> Reply:
        name = b"beta-" if b"beta" in request.body else b"alpha-"
        return Reply.of(name * 6).rechunk(4).pace(2 * GAP)

    bench.peer.gives_what(answers)
    made = bench.make()
    both_began = threading.Barrier(2)
    together: dict[bytes, Stream[bytes]] = {}

    def read(name: bytes) -> None:
        stream = together[name] = bench.ask(of=made, body=name)
        stream.read(1)
        with suppress(threading.BrokenBarrierError):
            both_began.wait(bench.patience / 2)
        stream.read()

    bench.wait_for("two answers at once", 2 * bench.patience)
    bench.at_once(*[partial(read, name) for name in (b"alpha-", b"beta-")])
    if both_began.broken:
        raise Broken("nothing of the second answer came while the first was open")
    for name, stream in together.items():
        check_whole(stream, name * 6, "with another answer beside it")


@_of_transports(
    "AT15",
    "nothing left behind",
    "When a transport is closed, or dropped, none of its connections and threads is left.",
    "close sessions and pools in close(), and join the threads that were started",
)
def _nothing_of_it_left(bench: TransportBench) -> None:
    check_left(bench, bench.make, lambda made: bench.ask(of=made))


@_of_transports(
    "AT16",
    "content coding",
    "A content-coding is undone; the header fields stay as they were received.",
    "ask the HTTP client to decode gzip, or decode it in the transport, as it comes",
)
def _content_coding(bench: TransportBench) -> None:
    body = b"Hello-world " * 40
    coded = gzip.compress(body)
    reply = Reply.of(coded[:30], coded[30:], headers={"content-encoding": "gzip"})
    stream = bench.answer(reply.pace(GAP), "the end of an answer in gzip")
    check_whole(stream, body, "in gzip")
    if bench.responses[-1].headers.get("content-encoding") != "gzip":
        raise Broken("the field content-encoding is missing from the headers")


@_of_transports(
    "AT17",
    "empty body",
    "An answer without a body ends without a chunk and without an exception.",
    "let the loop over the chunks end by itself",
)
def _empty_body(bench: TransportBench) -> None:
    replies = {
        "chunked and empty": Reply.of(),
        "of length 0": Reply.of(headers={"content-length": "0"}),
        "with 204": Reply.of(status=204),
    }
    for how, reply in replies.items():
        stream = bench.answer(reply, f"the end of an answer {how}")
        if stream.error is not None or stream.whole:
            raise Broken(f"{how}: {ending(stream)}")


@_of_transports(
    "AT18",
    "long body",
    "A body of 2 MiB in 16,384 chunks is whole, and costs no more for each byte than a short one.",
    "give each chunk and forget it: nothing that grows is joined, copied or searched at each chunk",
)
def _long_body(bench: TransportBench) -> None:
    check_long(bench, bench.ask, b"." * 128)


@_of_transports(
    "AT19",
    "only its errors",
    "What goes wrong on the way is a TransportError and nothing else, also where the answer is not HTTP.",
    "catch all that the HTTP client raises for a network or a peer, and raise a TransportError from it",
)
def _only_its_errors(bench: TransportBench) -> None:
    garbage = Reply.of(b"Hello-").cut()
    garbage = replace(garbage, ending=replace(garbage.ending, data=b"no chunk\r\n"))
    coded = Reply.of(b"no gzip", headers={"content-encoding": "gzip"})
    for how, reply in (("with a chunk that is none", garbage), ("in gzip that is none", coded)):
        stream = bench.answer(reply, f"up on an answer {how}")
        if reply is coded and stream.error is None and stream.whole == coded.body:
            continue  # that codings are not undone is found by the check of them
        if not isinstance(stream.error, TransportError):
            raise Broken(f"of an answer {how} {ending(stream)}, not a TransportError")
