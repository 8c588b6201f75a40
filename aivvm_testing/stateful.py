"""A machine that scripts a fake, breaks it, asks a provider, stops halfway and asks again, in every order.

    class MyProviderMachine(FakeAndProvider):
        def make(self, door):
            return MyProvider(transport=door)

    TestMyProvider = MyProviderMachine.TestCase

A machine of hypothesis: whatever order of steps fails is shrunk, and printed as code. Beside the fake it keeps a model
of its own of what is scripted, broken, owed and asked. After each step these hold:

- the text that an answer has given is the beginning of what its bytes decode to, so nothing comes twice;
- an answer that is over has given all that came, and ends with an error where it is broken, and only there;
- the journal has what was asked, once and in order, and which answer it was given;
- what was closed is closed, and gives no more;
- `assert_all_played` counts what the model counts.

Where bytes are no UTF-8, what they decode to is the provider's business from the chunk on in which that shows. A
status other than 200 and a web page may be an error, or their text. A provider that asks again on its own is none for this machine.
The contract (`contract`) asks more of a provider, one thing at a time; this asks for one thing in every order.
"""

from __future__ import annotations

import codecs
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise, takewhile
from math import inf
from typing import Any, ClassVar, Literal
from urllib.parse import urljoin

try:
    from hypothesis import strategies as st
    from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule
    from hypothesis.strategies import SearchStrategy
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "aivvm_testing.stateful needs hypothesis, which the extra brings: pip install 'aivvm[testing]'",
        name=error.name,
    ) from error

from aivvm.provider import Aivvm
from aivvm.transport import Request
from aivvm_testing import strategies
from aivvm_testing.call import Call
from aivvm_testing.errors import SetupFailure, UnplayedReplies
from aivvm_testing.fake import FakeAivvm
from aivvm_testing.faults import Fault
from aivvm_testing.reply import Ending, EndingKind, Reply
from aivvm_testing.service import dressed, echo, json_of, last_user_message
from aivvm_testing.wire import Framing, body_framing

_DONE: Any = object()
_NOTHING = Reply.no_answer()
_MODEL = "gpt-4"
_TEXTS = ("Hello", "Привет, мир", "🙂 🙃")
_HOW_FAR = st.sampled_from((1, 2, None))
_ENDINGS: tuple[EndingKind, ...] = ("complete", "cut", "reset", "stall")  # with a head; faults do without
_TRAVELS = ("complete", "cut", "reset")
_BASICS = (
    Reply.of(*[bytes([byte]) for byte in "né 日本 🙂".encode()]),
    Reply.of(b"before ", b"\xff", b" after"),
    Reply.of(),
    Reply.error(500),
    Reply.of("Hello, ", "wor").cut(),
    Reply.of("Hello, ", "wor").reset(),
    Reply.of("Hello, ", "wor", headers={"content-length": "12"}).cut(),
)
"""What each run begins with, so that few runs find what is wrong with most providers."""


@dataclass(eq=False)
class Conversation:
    """One request and how far its answer has come; prints as the question."""

    said: str
    expected: Reply
    number: int  # in the journal
    stream: Any = None  # what `ask` gave
    pieces: list[str] = field(default_factory=list)
    state: Literal["open", "ended", "broken", "closed"] = "open"

    @property
    def text(self) -> str:
        """What it has given so far."""
        return "".join(self.pieces)

    def __repr__(self) -> str:
        return f"<{self.said!r}, {self.state} after {self.text!r}>"


class _OnEveryPath(FakeAivvm):
    """Takes each POST for a chat, as providers differ in their paths."""

    def answer(self, request: Request) -> Call:
        if request.method == "POST":
            request = request._replace(url=urljoin(request.url, "/api/chat"))
        return super().answer(request)


class FakeAndProvider(RuleBasedStateMachine):
    """Subclass it, say how your provider is made, and let pytest collect its `TestCase`.

    `door`: what `make` is given: `"transport"`, a Python transport with virtual time, or `"server"`, the url of a
    server on loopback. Through a server nothing is slow or silent, every connection comes about, and how far a client
    came is not asked, as its system reads ahead.

    `notices_truncation`: whether a broken answer must end with an error. `timeout`: seconds that `ask` passes on; where
    nothing comes for so long, an answer may end with an error, too.

    Narrow `replies` and `faults`, strategies both, to what your provider is asked to stand. As long as `replies` is not
    narrowed, each run begins with one answer of each basic kind: characters split between chunks, ill-formed bytes, an
    empty answer, an error, a cut, a reset, and a body shorter than its length.
    """

    door: ClassVar[Literal["transport", "server"]] = "transport"
    notices_truncation: ClassVar[bool] = True
    timeout: ClassVar[float] = 60.0
    replies: ClassVar[SearchStrategy[Reply]] = strategies.replies(
        endings=_ENDINGS, with_head=True, max_chunks=3, plain=True
    )
    faults: ClassVar[SearchStrategy[Fault]] = strategies.faults(max_steps=1)

    conversations = Bundle("conversations")

    def make(self, door: Any) -> Any:
        """The provider under test. Closed after the run, where it has a `close`."""
        return Aivvm(door) if self.door == "transport" else Aivvm(url=door)

    def ask(self, provider: Any, said: str) -> Iterator[str]:
        """Asks the provider one question, and gives its answer as an iterator of text that can be closed.

        By `create_completion(model, messages)`, with `stream=True` and `timeout=` where it takes them. One that takes
        any option, `**options`, is told both; through a server, where nothing is silent, no timeout.
        """
        messages = [{"role": "user", "content": said}]
        options = {"stream": True, "timeout": self.timeout}
        ask = provider.create_completion
        parameters = inspect.signature(ask).parameters
        takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
        untold = {"timeout"} if self.door == "server" else set()
        options = {
            name: value
            for name, value in options.items()
            if name in parameters or (takes_any and name not in untold)
        }
        answer: Iterator[str] = ask(_MODEL, messages, **options)
        return answer

    def said(self, body: bytes) -> str:
        """What was asked, from the body of the request: the content of the last user message."""
        asked = json_of(body)
        return last_user_message(asked if isinstance(asked, dict) else {})

    def __init__(self) -> None:
        super().__init__()
        self._exits = ExitStack()
        self._forget()
        self.fake = _OnEveryPath()
        if self.door == "server":
            server = self.fake.server()
            server.start()
            self._exits.callback(server.stop)
            self._provider = self.make(server.url)
        else:
            self._provider = self.make(self.fake.transport())
        close = getattr(self._provider, "close", None)
        if callable(close):
            self._exits.callback(close)

    def _forget(self) -> None:
        self._queue: list[Reply] = []
        self._faults: list[Callable[[Reply], Reply]] = []
        self._owed: dict[str, Reply] = {}
        self._asked: list[tuple[str, Reply | None]] = []
        self._talks: list[Conversation] = []
        self._scripted = self._unmatched = False

    # Steps

    @rule(reply=st.runner().flatmap(lambda machine: machine.replies), times=st.integers(1, 2))
    def script(self, reply: Reply, times: int) -> None:
        """The next answer in order, once or twice."""
        reply = self._playable(reply)
        self.fake.reply(reply, times=times)
        self._queue += [dressed(reply)] * times
        self._scripted = True

    @rule(fault=st.runner().flatmap(lambda machine: machine.faults))
    def add_fault(self, fault: Fault) -> None:
        """Breaks the next answer, where it can be broken so."""

        def breaks(reply: Reply) -> Reply:
            with suppress(ValueError):
                return self._playable(fault(reply))
            return reply

        self.fake.fault(breaks)
        self._faults.append(breaks)

    def _meet_the_basics(self) -> None:
        """One answer of each kind, each read to its end; nothing is left of it."""
        if self.replies is not FakeAndProvider.replies:
            return
        for n, reply in enumerate(_BASICS):
            self.script(reply, 1)
            self.ask_for(f"basic {n}", None)
            self.check()
        self.reset()

    @initialize(target=conversations, said=st.sampled_from(_TEXTS), pieces=_HOW_FAR)
    def ask_first(self, said: str, pieces: int | None) -> Any:
        """The basics, and one question, as without any there is little to do."""
        self._meet_the_basics()
        return self.ask_for(said, pieces)

    @rule(target=conversations, said=st.sampled_from(_TEXTS), pieces=_HOW_FAR)
    def ask_for(self, said: str, pieces: int | None) -> Any:
        """Asks, and reads so many pieces, or all with None."""
        expected = self._next(said)
        talk = Conversation(said, expected or _NOTHING, len(self._asked))
        self._asked.append((said, expected))
        if expected is None:
            self._unmatched = True
            self._expect_an_error(talk)
            return multiple()
        self._talks.append(talk)
        self.read(talk, pieces)
        return talk

    @rule(target=conversations, talk=conversations, pieces=_HOW_FAR)
    def ask_again(self, talk: Conversation, pieces: int | None) -> Any:
        """The same question: a client that lost the answer, or wants another one."""
        return self.ask_for(talk.said, pieces)

    @rule(talk=conversations, pieces=_HOW_FAR)
    def read(self, talk: Conversation, pieces: int | None) -> None:
        """So many pieces more, or all that is left with None."""
        left = inf if pieces is None else pieces
        while left and talk.state == "open":
            self._read(talk)
            left -= 1

    @rule(talk=conversations)
    def close(self, talk: Conversation) -> None:
        """The reader leaves; an answer that is over stays as it was."""
        self._close(talk)

    @rule()
    def reset(self) -> None:
        """The fake forgets everything, and every answer is left."""
        for talk in self._talks:
            self._close(talk)
        self.fake.reset()
        self._forget()

    # What holds after each of them

    @invariant()
    def check(self) -> None:
        """All that is said above: one name, as hypothesis prints it after each step."""
        self._text_is_a_beginning_of_what_the_bytes_decode_to()
        self._journal_has_what_was_asked()
        self._what_is_over_is_over()
        self._what_is_left_is_what_the_model_has_left()

    def _text_is_a_beginning_of_what_the_bytes_decode_to(self) -> None:
        for talk in self._talks:
            certain, all_of_it = self._text_of(talk.expected)
            text = talk.text
            assert certain.startswith(text) or (not all_of_it and text.startswith(certain)), (
                f"{talk}: expected the beginning of {certain!r}, as its answer is {talk.expected}"
            )

    def _journal_has_what_was_asked(self) -> None:
        came = [self.said(request.body) for request in self.fake.requests]
        asked = [said for said, _ in self._asked]
        assert came == asked, f"expected the requests {asked}, but {came} came"
        for call, (_, expected) in zip(self.fake.calls, self._asked, strict=True):
            got = None if call.reply is None else _essence(call.reply)
            wanted = None if expected is None else _essence(expected)
            assert got == wanted, f"{call}: expected to be given {expected}"

    def _what_is_over_is_over(self) -> None:
        if self.door == "server":
            return
        for talk in self._talks:
            call = self.fake.calls[talk.number]
            assert talk.state == "open" or call.outcome != "open", f"{talk}: it is over, and {call} is not"

    def _what_is_left_is_what_the_model_has_left(self) -> None:
        expected = None if self._unmatched else len(self._queue) + len(self._faults)
        left = self._left_over()
        assert left == expected, f"expected {expected} to be left over, but {left} are"

    def teardown(self) -> None:
        """Leaves every answer; ends the provider and the server."""
        for talk in self._talks:
            with suppress(Exception):
                talk.stream.close()
        self._exits.close()

    # What is asked of the fake and the provider

    def _left_over(self) -> int | None:
        """How much the fake says is left over; None where it says that something had no answer."""
        try:
            self.fake.assert_all_played()
        except UnplayedReplies as error:
            return int(str(error).split()[0])
        except SetupFailure:
            return None
        return 0

    def _next_piece(self, talk: Conversation) -> Any:
        if talk.stream is None:
            talk.stream = iter(self.ask(self._provider, talk.said))
        return next(talk.stream, _DONE)

    def _expect_an_error(self, talk: Conversation) -> None:
        try:
            piece = self._next_piece(talk)
        except Exception:
            return
        got = "the end" if piece is _DONE else repr(piece)
        raise AssertionError(f"{talk}: expected an error, as there is no answer, but got {got}")

    def _read(self, talk: Conversation) -> None:
        try:
            piece = self._next_piece(talk)
        except SetupFailure:
            raise
        except Exception as error:
            self._check_end(talk, error)
            return
        if piece is _DONE:
            self._check_end(talk, None)
        else:
            assert isinstance(piece, str), f"{talk}: expected text, but got {piece!r}"
            talk.pieces.append(piece)

    def _check_end(self, talk: Conversation, error: Exception | None) -> None:
        reply, broken = talk.expected, _is_broken(talk.expected)
        if error is None:
            talk.state = "ended"
            assert not (broken and self.notices_truncation), (
                f"{talk}: it ended as if it were whole, but its answer is {reply}"
            )
        else:
            talk.state = "broken"
            if not broken and _is_answer(reply) and self._in_time(reply) == len(reply.chunks) + 2:
                raise AssertionError(
                    f"{talk}: nothing is wrong with {reply}, but it raised {type(error).__name__}: {error}"
                ) from error
        certain, _ = self._text_of(self._what_came(reply) if broken or error else reply)
        assert talk.text.startswith(certain), f"{talk}: {certain!r} had come, as its answer is {reply}"

    def _close(self, talk: Conversation) -> None:
        if talk.stream is not None:
            talk.stream.close()
        if talk.state == "open":
            talk.state = "closed"
            more = _DONE
            with suppress(Exception):
                more = next(talk.stream, _DONE)
            assert more is _DONE, f"{talk}: it was closed, and gave {more!r}"

    # The model

    def _next(self, said: str) -> Reply | None:
        """What the fake must answer now; None where it has nothing left."""
        whole = self._owed.pop(said, None)
        if whole is None:
            if self._queue:
                whole = self._queue.pop(0)
            elif self._scripted:
                return None
            else:
                whole = echo({"messages": [{"role": "user", "content": said}]})
        changed = whole
        for fault in self._faults:
            changed = dressed(fault(changed))
        self._faults.clear()
        if _takes_away(whole, changed):
            self._owed[said] = whole
        return changed

    def _playable(self, reply: Reply) -> Reply:
        """As it is; for a server without waiting, and with an answer in every place."""
        if self.door == "transport":
            return reply
        reply = reply.scale(0)
        if reply.head is None:
            return Reply.of("no connection", status=503)
        return reply if reply.ending.kind in _TRAVELS else replace(reply, ending=Ending("cut"))

    def _text_of(self, reply: Reply) -> tuple[str, bool]:
        """The text that is certain, and whether that is all of it: from ill-formed bytes on nothing is."""
        framing = _framing(reply)
        left = framing if isinstance(framing, int) else len(reply.body)
        decoder = codecs.getincrementaldecoder("utf-8")()
        text = ""
        try:
            for chunk in reply.chunks:
                text += decoder.decode(chunk.data[:left])
                left -= min(left, len(chunk.data))
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return (text if self.door == "transport" else ""), False  # a socket joins chunks
        return text, True

    def _in_time(self, reply: Reply) -> int:
        """How many of head, chunks and ending come before there is nothing for as long as the timeout."""
        moments = [
            0.0,
            reply.ending.at if reply.head is None else reply.head.at,
            *[chunk.at for chunk in reply.chunks],
            reply.ending.at,
        ]
        return len([*takewhile(lambda pair: pair[1] - pair[0] < self.timeout, pairwise(moments))])

    def _what_came(self, reply: Reply) -> Reply:
        """Only the chunks that must have come, for a client that was told of an error."""
        if self.door == "server":  # a length that is not reached, and a reset, may take text with them
            sure = _framing(reply) == "chunked" and reply.ending.kind == "cut" and not reply.ending.data
        else:
            sure = True
        count = max(0, self._in_time(reply) - 1) if sure and _is_answer(reply) else 0
        return replace(reply, chunks=reply.chunks[:count])


def _framing(reply: Reply) -> Framing:
    return 0 if reply.head is None else body_framing(reply.head, "POST")


def _is_answer(reply: Reply) -> bool:
    """Whether it is one of the model for sure: neither an error nor a web page."""
    head = reply.head
    return (
        head is not None
        and head.status == 200
        and "html" not in head.headers.get("content-type", "")
        and not head.headers.get("cf-mitigated")
    )


def _is_broken(reply: Reply) -> bool:
    """Whether a client is told, by what is missing, that there should be more."""
    framing = _framing(reply)
    if reply.head is None:
        return True
    if isinstance(framing, int):
        return len(reply.body) < framing
    return reply.ending.kind != "complete" and not (framing == "close" and reply.ending.kind == "cut")


def _takes_away(whole: Reply, changed: Reply) -> bool:
    """Whether whoever asks the same again is given all of it."""
    return (
        len(changed.body) < len(whole.body)
        or (changed.status, changed.ending.kind) != (whole.status, whole.ending.kind)
        or changed.headers.get("content-length") != whole.headers.get("content-length")
    )


def _essence(reply: Reply) -> object:
    """What makes an answer that one: not when it came, nor its date."""
    return reply.status, [chunk.data for chunk in reply.chunks], reply.ending.kind
