"""The catalogue of faults: the ways in which an answer breaks, each a pure function from reply to reply.

    fault = faults.jitter(0.2, seed=7) | faults.cut(after=3)    # the left one first; its repr is this code
    fault(reply)                                                # another reply; this one stays as it is
    faults.parse("jitter(0.2, seed=7) | cut(after=3)")          # the same fault, from a command line
    faults.named("CONNECTION_RESET_BY_PEER")                    # faults.reset_before_headers

A call in the catalogue makes a `Fault` from options alone, and checks them: `TypeError` or `ValueError`. Whatever
depends on the reply is a `ValueError` when the fault is applied. A fault never does nothing silently: a reply that
it would leave as it is, is such an error, too. Every fault can be made without options. Random ones take a `seed`:
with the same one, the same reply becomes the same.

Units are seconds and bytes, whatever the tool that an alias comes from counts in. `after=3` is the place after three
chunks, `after_bytes=3` after three bytes of the body. What is inserted after chunks is a chunk of its own; after
bytes, it goes into the chunk that holds the next byte. Either way the other boundaries stay where they are.

Faults in the content leave the framing as right, or as wrong, as it was: a content-length follows the body. Nothing
here waits, sends or knows a client. What a client sees of each fault is a line of text, which the tests hold.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from inspect import Parameter, Signature, signature
from itertools import accumulate, pairwise, repeat
from random import Random
from types import MappingProxyType
from typing import Annotated, Any, Concatenate, Literal, NamedTuple, ParamSpec, TypeAlias

from aivvm.errors import shown
from aivvm.transport import Headers
from aivvm_testing.reply import Chunk, Ending, Head, Reply
from aivvm_testing.wire import body_framing

Group: TypeAlias = Literal["before the answer", "in the stream", "in the content"]

_P = ParamSpec("_P")
_EXPECTED = "a fault is written as in 'cut(after=3)' or 'jitter(0.2, seed=7) | cut'"


class _Step(NamedTuple):
    """One fault of the catalogue, with those of its options that are not at their defaults."""

    name: str
    options: tuple[tuple[str, Any], ...] = ()

    def applied(self, reply: Reply) -> Reply:
        try:
            changed = _CHANGES[self.name](reply, **dict(self.options))
            if changed == reply:
                raise ValueError("it would change nothing, as the reply is like that already")
        except ValueError as error:
            raise ValueError(f"{self} does not go with this reply: {error}") from error
        return changed

    def __str__(self) -> str:
        parameters = signature(CATALOGUE[self.name].make).parameters
        written = [
            repr(value)
            if parameters[option].kind is Parameter.POSITIONAL_OR_KEYWORD
            else f"{option}={value!r}"
            for option, value in self.options
        ]
        return f"faults.{self.name}({', '.join(written)})"


@dataclass(frozen=True, slots=True, repr=False)
class Fault:
    """One fault of the catalogue, or several in order; made by the catalogue's calls.

    Frozen, hashable, equal by value; `a | b` is a, then b. The repr is the code that makes it.
    """

    steps: tuple[_Step, ...]

    def __call__(self, reply: Reply) -> Reply:
        """The reply with this fault in it; `ValueError` where the two do not go together."""
        if not isinstance(reply, Reply):
            raise TypeError(f"a fault takes a Reply, such as Reply.of('a'), but got {shown(reply)}")
        for step in self.steps:
            reply = step.applied(reply)
        return reply

    def __or__(self, then: Fault) -> Fault:
        return Fault((*self.steps, *then.steps)) if isinstance(then, Fault) else NotImplemented

    def __repr__(self) -> str:
        return " | ".join([str(step) for step in self.steps])

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """For hypothesis and IPython, which would list the fields."""
        printer.text(repr(self))


@dataclass(frozen=True, slots=True)
class Kind:
    """One entry of the catalogue.

    `make` is the call that makes the fault from its options. `sees` is what a `requests` client with `stream=True`
    meets: up to the colon, `text` where it reads to the end, else the class of the exception. `aliases` are names in
    WireMock (in capitals) and Toxiproxy.
    """

    name: str
    summary: str
    group: Group
    sees: str
    aliases: tuple[str, ...]
    make: Callable[..., Fault]

    @property
    def takes(self) -> str:
        """The options with their defaults, as a call would have them."""
        return ", ".join([f"{one.name}={one.default!r}" for one in signature(self.make).parameters.values()])


_KINDS: dict[str, Kind] = {}
_CHANGES: dict[str, Callable[..., Reply]] = {}
_MAKERS: dict[str, Callable[..., Fault]] = {}  # by names and aliases, in small letters

CATALOGUE: Mapping[str, Kind] = MappingProxyType(_KINDS)
"""Every fault by its name, in groups, in the order of this module."""


def named(name: str) -> Callable[..., Fault]:
    """The call that makes the fault of this name, or of this name in another tool.

    Case does not matter, nor whether words are joined by `-` or `_`. Other names are a `ValueError`, with the nearest.
    """
    make = _MAKERS.get(_plain(name))
    if make is None:
        from difflib import get_close_matches

        near = get_close_matches(_plain(name), _MAKERS, n=3)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "faults.CATALOGUE has them all"
        raise ValueError(f"no fault is called {shown(name)}; {hint}")
    return make


def parse(text: str) -> Fault:
    """The fault that this text writes: `cut(after=3)`, `slow-drip(0.05) | RESET_PEER`; a repr, too.

    Options are literals, and nothing is evaluated. `ValueError` says what is wrong, and what the fault takes.
    """
    try:
        faults = [_read(term) for term in _terms(ast.parse(text.strip(), mode="eval").body)]
    except (SyntaxError, UnicodeError, RecursionError, MemoryError) as error:
        why = error.msg if isinstance(error, SyntaxError) else str(error) or "it is nested too deep"
        raise ValueError(f"{_EXPECTED}, but got {shown(text)}: {why}") from error
    return Fault(tuple([step for fault in faults for step in fault.steps]))


def _terms(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        yield from _terms(node.left)
        yield from _terms(node.right)
    else:
        yield node


def _read(node: ast.expr) -> Fault:
    name, args, keywords = _call(node)
    make = named(name)
    given = {keyword.arg: keyword.value for keyword in keywords if keyword.arg is not None}
    if len(given) < len(keywords):
        raise ValueError(f"{ast.unparse(node)}: an option is written once, as name=value")
    try:
        return make(*map(_literal, args), **{option: _literal(value) for option, value in given.items()})
    except TypeError as error:
        raise ValueError(str(error)) from error


def _call(node: ast.expr) -> tuple[str, list[ast.expr], list[ast.keyword]]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):  # how Python reads slow-drip(0.05)
        name, args, keywords = _call(node.right)
        return f"{_name(node.left)}_{name}", args, keywords
    if isinstance(node, ast.Call):
        return _name(node.func), node.args, node.keywords
    return _name(node), [], []


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
        return f"{_name(node.left)}_{_name(node.right)}"
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "faults":
        return node.attr
    if isinstance(node, ast.Name):
        return node.id
    raise ValueError(f"{_EXPECTED}, but got {ast.unparse(node)}")


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        raise ValueError(
            f"an option is a literal, such as 3, 0.2 or b'\\xff', but got {ast.unparse(node)}"
        ) from None


def _plain(name: str) -> str:
    return name.strip().lower().replace("-", "_")


# How a function becomes an entry of the catalogue


class _Takes(NamedTuple):
    """What an option may be; for people, by type and by value. A bool is no number."""

    expected: str
    types: tuple[type, ...]
    fits: Callable[[Any], object]

    def checked(self, value: object, where: str) -> object:
        if isinstance(value, bool) or not isinstance(value, self.types):
            raise TypeError(f"{where} is {self.expected}, but got {shown(value)}")
        if not self.fits(value):
            raise ValueError(f"{where} is {self.expected}, but got {shown(value)}")
        return next(kind for kind in self.types if isinstance(value, kind))(value)


def _is_positive(value: float) -> bool:
    return 0 < value <= sys.float_info.max


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


_After: TypeAlias = Annotated[int | None, _Takes("a number of chunks, 0 or more", (int,), lambda n: n >= 0)]
_AfterBytes: TypeAlias = Annotated[
    int | None, _Takes("a number of bytes, 0 or more", (int,), lambda n: n >= 0)
]
_Seconds: TypeAlias = Annotated[float, _Takes("a number of seconds, more than 0", (int, float), _is_positive)]
_Rate: TypeAlias = Annotated[
    float, _Takes("a number of bytes a second, more than 0", (int, float), _is_positive)
]
_Size: TypeAlias = Annotated[int, _Takes("a number of bytes, 1 or more", (int,), lambda n: n >= 1)]
_Sizes: TypeAlias = Annotated[
    int | tuple[int, ...],
    _Takes(
        "a number of bytes, 1 or more, or a tuple of such",
        (int, tuple),
        lambda sizes: (
            sizes >= 1
            if isinstance(sizes, int)
            else sizes and all(type(size) is int and size >= 1 for size in sizes)
        ),
    ),
]
_Seed: TypeAlias = Annotated[int, _Takes("a whole number, 0 or more", (int,), lambda n: n >= 0)]
_Data: TypeAlias = Annotated[bytes, _Takes("bytes, at least one", (bytes,), len)]
_IllFormed: TypeAlias = Annotated[
    bytes, _Takes("bytes that are no UTF-8, such as b'\\xff'", (bytes,), lambda data: not _is_utf8(data))
]
_Reason: TypeAlias = Annotated[str | None, _Takes("text, at least one character", (str,), len)]
_Wait: TypeAlias = Annotated[int, _Takes("whole seconds, 0 or more", (int,), lambda n: n >= 0)]


def _entry(
    group: Group, *aliases: str, sees: str
) -> Callable[[Callable[Concatenate[Reply, _P], Reply]], Callable[_P, Fault]]:
    """Makes of a function `(reply, options) -> Reply` the call `(options) -> Fault`, and lists it."""

    def enter(change: Callable[Concatenate[Reply, _P], Reply]) -> Callable[_P, Fault]:
        name = change.__name__
        parameters = list(signature(change, eval_str=True).parameters.values())[1:]
        rules: dict[str, _Takes] = {one.name: one.annotation.__metadata__[0] for one in parameters}
        takes = Signature(
            [one.replace(annotation=one.annotation.__origin__) for one in parameters],
            return_annotation=Fault,
        )

        def make(*args: _P.args, **kwargs: _P.kwargs) -> Fault:
            return Fault((_Step(name, _options(_KINDS[name], takes, rules, args, kwargs)),))

        make.__name__ = make.__qualname__ = name
        make.__doc__ = change.__doc__
        make.__signature__ = takes  # type: ignore[attr-defined]  # where inspect and help look first
        summary = (change.__doc__ or "").partition("\n")[0]
        _KINDS[name] = Kind(name, summary, group, sees, aliases, make)
        _CHANGES[name] = change
        _MAKERS.update({_plain(one): make for one in (name, *aliases)})
        return make

    return enter


def _options(
    kind: Kind, takes: Signature, rules: Mapping[str, _Takes], args: Iterable[Any], kwargs: Mapping[str, Any]
) -> tuple[tuple[str, Any], ...]:
    called = f"faults.{kind.name}"
    if any(isinstance(value, Reply) for value in (*args, *kwargs.values())):
        raise TypeError(f"{called} makes a fault, and that takes the reply: {called}()(reply)")
    try:
        given = takes.bind(*args, **kwargs).arguments
    except TypeError as error:
        raise TypeError(f"{called} takes {kind.takes or 'no options'}: {error}") from None
    options = []
    for option, value in given.items():
        default = takes.parameters[option].default
        if value is not None or default is not None:
            value = rules[option].checked(value, f"{called}: {option}")
            if value != default:
                options.append((option, value))
    if {"after", "after_bytes"} <= dict(options).keys():
        raise ValueError(f"{called}: give after (chunks) or after_bytes, not both")
    return tuple(options)


# Before the answer

_BEFORE: Group = "before the answer"
_GARBAGE_SIZE = 64
_CHALLENGE = """\
<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>One moment</title></head>
<body>
<h1>One moment</h1>
<p>Your browser is being looked at before this site lets it in. It may take a few seconds.</p>
<noscript><p>This needs JavaScript.</p></noscript>
</body>
</html>
"""
_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>Away for repairs</title></head>
<body>
<h1>Away for repairs</h1>
<p>The chat is closed while it is being repaired. Come back later.</p>
</body>
</html>
"""
_HTML = (("content-type", "text/html; charset=UTF-8"), ("cache-control", "no-store"))


@_entry(_BEFORE, sees="ConnectionError: the connection is refused")
def refused(reply: Reply) -> Reply:
    """Nobody listens: the connection is refused, at once."""
    return Reply.no_answer("refused")


@_entry(
    _BEFORE,
    "CONNECTION_RESET_BY_PEER",
    "reset_peer",
    sees="ConnectionError: the connection is reset, and there is no answer",
)
def reset_before_headers(reply: Reply) -> Reply:
    """The connection is reset when the answer should begin."""
    return Reply.no_answer("reset", at=_beginning(reply))


@_entry(_BEFORE, "EMPTY_RESPONSE", sees="ConnectionError: the connection is closed, and there is no answer")
def empty_response(reply: Reply) -> Reply:
    """The connection is closed when the answer should begin."""
    return Reply.no_answer("cut", at=_beginning(reply))


@_entry(_BEFORE, "RANDOM_DATA_THEN_CLOSE", sees="ConnectionError: what comes is no status line")
def garbage_then_close(reply: Reply, *, seed: _Seed = 0) -> Reply:
    """Random bytes come instead of the answer, then the connection is closed."""
    noise = Random(seed).randbytes(_GARBAGE_SIZE)
    # The first byte is none that a status line, or an empty line before it, has; the last one ends the line.
    data = bytes([noise[0] | 0x80]) + noise[1:-1] + b"\n"
    return Reply(None, (), Ending("cut", _beginning(reply), data))


@_entry(
    _BEFORE,
    "timeout",
    sees="ReadTimeout: when its own timeout is over; without one it waits for ever",
)
def silence(reply: Reply) -> Reply:
    """The connection is accepted and the request taken, and nothing ever comes."""
    return Reply.no_answer("stall", at=_beginning(reply))


@_entry(_BEFORE, "MALFORMED_RESPONSE_CHUNK", sees="ChunkedEncodingError: after the chunks before the garbage")
def malformed_chunk(reply: Reply, *, after: _After = None, after_bytes: _AfterBytes = None) -> Reply:
    """The head, then garbage where a chunk should begin, then the connection is closed.

    The garbage comes after so many chunks (or bytes), by default right after the head. The answer becomes a chunked
    one where it was not.
    """
    head = _answer(reply)
    if body_framing(head, "POST") != "chunked":
        fields = head.headers.without("content-length", "transfer-encoding", "connection")
        head = replace(head, headers=fields)
    if after is None and after_bytes is None:
        after = 0
    broken = reply.cut(after=after, after_bytes=after_bytes)
    return replace(broken, head=head, ending=replace(broken.ending, data=b"this is no chunk size\r\n"))


@_entry(_BEFORE, "latency", sees="text: as it was, later")
def slow_head(reply: Reply, seconds: _Seconds = 1.0) -> Reply:
    """The head, and everything after it, comes so many seconds later."""
    return reply.delay(seconds)


@_entry(_BEFORE, sees="text: a page of HTML, status 403")
def challenge_page(reply: Reply) -> Reply:
    """A guard in front of the service answers instead: status 403 and a page that only a browser can pass."""
    return _instead(reply, Reply.of(_CHALLENGE, status=403, headers=[*_HTML, ("cf-mitigated", "challenge")]))


@_entry(_BEFORE, sees="text: a page of HTML, status 200")
def html_page(reply: Reply) -> Reply:
    """A web page comes as if it were the answer: status 200 and HTML."""
    return _instead(reply, Reply.of(_PAGE, headers=_HTML))


@_entry(_BEFORE, sees="text: the word Error, status 500; the cause is in response.reason")
def server_error(reply: Reply, reason: _Reason = None) -> Reply:
    """The server fails: status 500, with the cause in the reason phrase as the real server has it."""
    return _instead(reply, Reply.error(500, reason=reason))


@_entry(_BEFORE, sees="text: the word Error, status 429; the seconds are in the header retry-after")
def rate_limited(reply: Reply, retry_after: _Wait = 20) -> Reply:
    """Too many requests: status 429, and when to come back, in seconds."""
    return _instead(reply, Reply.error(429, retry_after=retry_after))


def _beginning(reply: Reply) -> float:
    """The moment at which the answer began, or whatever came instead."""
    return reply.ending.at if reply.head is None else reply.head.at


def _instead(reply: Reply, other: Reply) -> Reply:
    return other.delay(_beginning(reply))


# In the stream

_STREAM: Group = "in the stream"


@_entry(_STREAM, "limit_data", sees="ChunkedEncodingError: after what came before the cut")
def cut(reply: Reply, *, after: _After = None, after_bytes: _AfterBytes = None) -> Reply:
    """The connection is closed after so many chunks (or bytes), by default after all, before the end.

    An answer that ends with its connection, without chunks or a length, ends early, and nobody can tell.
    """
    return _broken(reply, reply.cut, after, after_bytes)


@_entry(_STREAM, sees="ChunkedEncodingError: after what came before the reset")
def reset(reply: Reply, *, after: _After = None, after_bytes: _AfterBytes = None) -> Reply:
    """The connection is reset after so many chunks (or bytes), by default after all, before the end."""
    return _broken(reply, reply.reset, after, after_bytes)


@_entry(
    _STREAM,
    sees="ConnectionError: read timed out, when its own timeout is over; without one it waits for ever",
)
def stall(reply: Reply, *, after: _After = None, after_bytes: _AfterBytes = None) -> Reply:
    """Silence, with the connection open, after so many chunks (or bytes), by default after all."""
    return _broken(reply, reply.stall, after, after_bytes)


@_entry(_STREAM, sees="text: as it was, later")
def slow_first_chunk(reply: Reply, seconds: _Seconds = 1.0) -> Reply:
    """The head is on time; the first chunk, and everything after it, comes so many seconds later."""
    head = _answer(reply)
    if not reply.chunks:
        raise ValueError("the reply has no chunks: late_end is for its end")
    return replace(reply.delay(seconds), head=head)


@_entry(_STREAM, sees="text: as it was, in small pieces, slowly")
def slow_drip(reply: Reply, gap: _Seconds = 0.05, *, size: _Size = 1) -> Reply:
    """The body comes in pieces of `size` bytes, each at least `gap` seconds after the one before.

    None comes before it came without the fault.
    """
    _check_body(reply)
    pieces = reply.rechunk(size)
    later = accumulate([chunk.at for chunk in pieces.chunks], lambda now, at: max(at, now + gap))
    return _retimed(pieces, later)


@_entry(_STREAM, sees="text: as it was, later and unevenly")
def jitter(reply: Reply, seconds: _Seconds = 0.1, *, seed: _Seed = 0) -> Reply:
    """Each gap, before the head, a chunk or the end, grows by a random time of up to so many seconds."""
    random = Random(seed)
    late = accumulate(random.random() * seconds for _ in repeat(None))
    return Reply(
        None if reply.head is None else replace(reply.head, at=reply.head.at + next(late)),
        tuple([replace(chunk, at=chunk.at + next(late)) for chunk in reply.chunks]),
        replace(reply.ending, at=reply.ending.at + next(late)),
    )


@_entry(_STREAM, "bandwidth", sees="text: as it was, slowly")
def bandwidth(reply: Reply, bytes_per_second: _Rate = 1024) -> Reply:
    """The body comes through a slow line; a chunk is there when its last byte is through."""
    _check_body(reply)
    now = _answer(reply).at
    through = []
    for chunk in reply.chunks:
        now = max(now, chunk.at) + len(chunk.data) / bytes_per_second
        through.append(now)
    return _retimed(reply, through)


@_entry(_STREAM, sees="text: the last bytes are missing, and nothing says so")
def short_content_length(reply: Reply, by: _Size = 1) -> Reply:
    """The head gives a length that is so many bytes less than what comes."""
    _check_body(reply)
    have = len(reply.body)
    if by > have:
        raise ValueError(f"the reply has {have} bytes: by={by} is more")
    return _saying(reply, have - by)


@_entry(_STREAM, sees="ChunkedEncodingError: chunks that had come may be lost with it")
def long_content_length(reply: Reply, by: _Size = 1) -> Reply:
    """The head gives a length that is so many bytes more than what comes before the connection is closed."""
    reply = _saying(reply, len(reply.body) + by)
    return reply.cut() if reply.ending.kind == "complete" else reply


@_entry(_STREAM, "slicer", sees="text: as it was, in other pieces")
def sliced(reply: Reply, size: _Sizes = 1) -> Reply:
    """The body comes in pieces of `size` bytes; with a tuple, of these sizes in turn and then what is left.

    A piece comes when its last byte came, so a size that is large enough joins all chunks to one.
    """
    _check_body(reply)
    return reply.rechunk(size)


@_entry(_STREAM, sees="text: as it was; the connection is not used again")
def trailing_bytes(reply: Reply, data: _Data = b"trailing bytes") -> Reply:
    """Bytes that belong to nothing come after the whole answer, then the connection is closed."""
    framing = body_framing(_answer(reply), "POST")
    if reply.ending.kind != "complete" or (isinstance(framing, int) and len(reply.body) < framing):
        raise ValueError("its body is not whole, so nothing can come after it")
    if framing == "close":
        raise ValueError("its body ends with the connection, so whatever comes is part of it")
    return replace(reply, ending=replace(reply.ending, data=reply.ending.data + data))


@_entry(_STREAM, "slow_close", sees="text: as it was; the end comes later")
def late_end(reply: Reply, seconds: _Seconds = 1.0) -> Reply:
    """Everything is on time but the end, which comes so many seconds later."""
    return replace(reply, ending=replace(reply.ending, at=reply.ending.at + seconds))


def _broken(
    reply: Reply, transform: Callable[..., Reply], after: int | None, after_bytes: int | None
) -> Reply:
    if reply.head is None:
        if after is not None or after_bytes is not None:
            raise ValueError("it has no head, so there is no place within an answer")
        return transform()
    broken = transform(after=after, after_bytes=after_bytes)
    framing = body_framing(reply.head, "POST")
    if isinstance(framing, int) and len(broken.body) >= framing:
        raise ValueError(f"all {framing} bytes of its body come before, so nobody would see it")
    return broken


def _retimed(reply: Reply, moments: Iterable[float]) -> Reply:
    """The chunks at these moments, the ending no earlier than the last of them."""
    chunks = tuple([Chunk(chunk.data, at) for chunk, at in zip(reply.chunks, moments, strict=True)])
    return replace(reply, chunks=chunks, ending=replace(reply.ending, at=max(reply.ending.at, chunks[-1].at)))


def _saying(reply: Reply, length: int) -> Reply:
    head = _answer(reply)
    fields = head.headers.without("content-length", "transfer-encoding")
    return replace(reply, head=replace(head, headers=Headers([*fields, ("content-length", str(length))])))


def _answer(reply: Reply) -> Head:
    """The head of a reply that has one, and may have a body."""
    head = reply.head
    if head is None:
        raise ValueError("it has no head, so there is no answer to break")
    if body_framing(Head(head.status), "POST") == 0:
        raise ValueError(f"an answer with status {head.status} has no body")
    return head


def _check_body(reply: Reply) -> None:
    _answer(reply)
    if not any(chunk.data for chunk in reply.chunks):
        raise ValueError("its body is empty")


# In the content

_CONTENT: Group = "in the content"
_EMOJI_CUT_SHORT = b"\xf0\x9f\x98"
_UP_TO_LAST_MULTI_BYTE = re.compile(  # well-formed sequences: Unicode, table 3-7
    rb"(?s:.*)(?:[\xc2-\xdf]|\xe0[\xa0-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]|\xed[\x80-\x9f]"
    rb"|\xf0[\x90-\xbf][\x80-\xbf]|[\xf1-\xf3][\x80-\xbf]{2}|\xf4[\x80-\x8f][\x80-\xbf])[\x80-\xbf]"
)


@_entry(_CONTENT, sees="text: whole for HTTP, and its last character is not")
def ends_inside_a_character(reply: Reply) -> Reply:
    """The answer ends within its last multi-byte character; where it has none, a part of one is added.

    What comes after that character is lost. The ending is what it was.
    """
    _answer(reply)
    found = _UP_TO_LAST_MULTI_BYTE.match(reply.body)
    if found is None:
        return _inserted(reply, (_EMOJI_CUT_SHORT,), None, None)
    return _with_chunks(reply, reply.cut(after_bytes=found.end() - 1).chunks)


@_entry(_CONTENT, sees="text: more of it, and no UTF-8")
def invalid_bytes(
    reply: Reply, data: _IllFormed = b"\xff", *, after: _After = None, after_bytes: _AfterBytes = None
) -> Reply:
    """Bytes that are no UTF-8 come after so many chunks (or bytes), by default after all."""
    return _inserted(reply, (data,), after, after_bytes)


@_entry(_CONTENT, sees="text: more of it, by U+FEFF")
def byte_order_mark(reply: Reply, *, after: _After = None, after_bytes: _AfterBytes = None) -> Reply:
    """A byte order mark in UTF-8 comes after so many chunks (or bytes), by default before all."""
    if after is None and after_bytes is None:
        after = 0
    return _inserted(reply, (b"\xef\xbb\xbf",), after, after_bytes)


@_entry(_CONTENT, sees="text: more of it, by U+0000")
def nul(reply: Reply, *, after: _After = None, after_bytes: _AfterBytes = None) -> Reply:
    """A NUL comes after so many chunks (or bytes), by default after all."""
    return _inserted(reply, (b"\0",), after, after_bytes)


@_entry(_CONTENT, sees="text: more of it, by a line end whose halves come apart")
def split_crlf(reply: Reply, *, after: _After = None, after_bytes: _AfterBytes = None) -> Reply:
    """CR ends a chunk and LF begins the next, after so many chunks (or bytes), by default after all.

    After bytes, the chunk that holds the next byte becomes two.
    """
    return _inserted(reply, (b"\r", b"\n"), after, after_bytes)


@_entry(_CONTENT, sees="text: more of it, as one chunk comes twice")
def duplicated_chunk(reply: Reply, *, after: _After = None, after_bytes: _AfterBytes = None) -> Reply:
    """The chunk after so many chunks (or bytes) comes twice, by default the first that is not empty."""
    n = _chosen(reply, after, after_bytes)
    return _with_chunks(reply, (*reply.chunks[: n + 1], *reply.chunks[n:]))


@_entry(_CONTENT, sees="text: less of it, as one chunk is missing")
def dropped_chunk(reply: Reply, *, after: _After = None, after_bytes: _AfterBytes = None) -> Reply:
    """The chunk after so many chunks (or bytes) is missing, by default the first that is not empty."""
    n = _chosen(reply, after, after_bytes)
    return _with_chunks(reply, (*reply.chunks[:n], *reply.chunks[n + 1 :]))


@_entry(_CONTENT, sees="text: all of it, in another order")
def reordered_chunks(reply: Reply, *, after: _After = None, after_bytes: _AfterBytes = None) -> Reply:
    """The chunk after so many chunks (or bytes) and the next change places, by default the first that differ.

    The moments stay where they are.
    """
    _check_body(reply)
    chunks = list(reply.chunks)
    if after is None and after_bytes is None:
        pairs = enumerate(pairwise([chunk.data for chunk in chunks]))
        differ = next((n for n, (one, two) in pairs if one and two and one != two), None)
        if differ is None:
            raise ValueError("no two neighbours among its chunks differ")
        n = differ
    else:
        n = _chosen(reply, after, after_bytes)
        if n + 1 == len(chunks):
            raise ValueError(f"chunk {n} is its last, with none to change places with")
    first, second = chunks[n : n + 2]
    chunks[n : n + 2] = [Chunk(second.data, first.at), Chunk(first.data, second.at)]
    return _with_chunks(reply, tuple(chunks))


@_entry(_CONTENT, sees="text: more of it, by one long chunk")
def oversized_chunk(
    reply: Reply, size: _Size = 300_000, *, after: _After = None, after_bytes: _AfterBytes = None
) -> Reply:
    """A chunk of `size` bytes comes after so many chunks (or bytes), by default after all.

    It is three-byte characters, so that a reader of blocks splits some. After bytes, the chunk there grows by it. The
    real server was seen to send 300,012 bytes in one chunk.
    """
    return _inserted(reply, ("€".encode() * (size // 3) + b"." * (size % 3),), after, after_bytes)


@_entry(_CONTENT, sees="text: none of it")
def empty_answer(reply: Reply) -> Reply:
    """The answer is complete and empty, as the real server's is when the model answers all at once."""
    _answer(reply)
    return replace(_with_chunks(reply, ()), ending=Ending(at=reply.ending.at))


def _inserted(reply: Reply, parts: tuple[bytes, ...], after: int | None, after_bytes: int | None) -> Reply:
    """With these parts: after chunks, as chunks of their own; after bytes, the chunk there is split between parts."""
    head = _answer(reply)
    chunks = reply.chunks
    have = len(reply.body)
    if after is not None and after > len(chunks):
        raise ValueError(f"the reply has {len(chunks)} chunks: after={after} is not within it")
    if after_bytes is not None and after_bytes > have:
        raise ValueError(f"the reply has {have} bytes: after_bytes={after_bytes} is not within it")
    if after_bytes is None or not chunks:
        n = len(chunks) if after is None else after
        at = chunks[max(n - 1, 0)].at if chunks else head.at
        return _with_chunks(reply, (*chunks[:n], *[Chunk(part, at) for part in parts], *chunks[n:]))
    n, offset = _holding(chunks, after_bytes) or (len(chunks) - 1, len(chunks[-1].data))
    data, at = chunks[n].data, chunks[n].at
    pieces = [data[:offset] + parts[0], *parts[1:]]
    pieces[-1] += data[offset:]
    return _with_chunks(reply, (*chunks[:n], *[Chunk(piece, at) for piece in pieces], *chunks[n + 1 :]))


def _chosen(reply: Reply, after: int | None, after_bytes: int | None) -> int:
    """The number of the chunk that comes after so many chunks, or holds the byte after so many bytes."""
    _check_body(reply)
    chunks = reply.chunks
    if after is not None and after >= len(chunks):
        raise ValueError(f"the reply has {len(chunks)} chunks: there is none after {after} of them")
    if after is not None:
        return after
    found = _holding(chunks, after_bytes or 0)
    if found is None:
        raise ValueError(f"the reply has {len(reply.body)} bytes: there is none after {after_bytes} of them")
    return found[0]


def _holding(chunks: tuple[Chunk, ...], after_bytes: int) -> tuple[int, int] | None:
    """Which chunk holds the byte after so many, and where in it."""
    begin = 0
    for n, chunk in enumerate(chunks):
        if after_bytes < begin + len(chunk.data):
            return n, after_bytes - begin
        begin += len(chunk.data)
    return None


def _with_chunks(reply: Reply, chunks: tuple[Chunk, ...]) -> Reply:
    """With these chunks, and a content-length that is as right or wrong as before."""
    head = _answer(reply)
    grown = sum([len(chunk.data) for chunk in chunks]) - len(reply.body)
    fields = [
        (name, str(max(0, int(value) + grown)))
        if name.lower() == "content-length" and value.isascii() and value.isdigit()
        else (name, value)
        for name, value in head.headers
    ]
    return replace(reply, head=replace(head, headers=Headers(fields)), chunks=chunks)
