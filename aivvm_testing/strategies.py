"""Hypothesis strategies for what this project is about: text, bytes, the ways they are cut up, and replies.

Uniform random bytes hardly ever hold a multi-byte character, let alone one that is split in an interesting place.
These strategies compose instead: characters of every UTF-8 length, text that looks like an escape, and each family
of ill-formed bytes. Every strategy is wide by default and narrowed by keyword; arguments are checked at the call;
everything shrinks towards short, plain and immediate.

Importing it changes no setting of hypothesis. Values are made here and nothing is done with them: no I/O, no
assertions. The machine that asks a provider is in `stateful`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from functools import reduce
from inspect import signature
from itertools import chain, pairwise, repeat
from operator import or_
from typing import Any, TypeVar, get_args

try:
    from hypothesis import settings
    from hypothesis import strategies as st
    from hypothesis.errors import InvalidArgument
    from hypothesis.strategies import SearchStrategy
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "aivvm_testing.strategies needs hypothesis, which the extra brings: pip install 'aivvm[testing]'",
        name=error.name,
    ) from error

from aivvm.models import MODELS
from aivvm.payload import DEFAULT_URL
from aivvm.transport import Headers, Request
from aivvm_testing.faults import CATALOGUE, Fault, Group, Kind, named
from aivvm_testing.format import ORIGINS, Origin
from aivvm_testing.recording import Exchange, Recording
from aivvm_testing.reply import ENDING_KINDS, HEADLESS_KINDS, Chunk, Ending, EndingKind, Head, Reply

ESCAPES = (
    "\\n",
    "\\",
    "\\\\",
    "\\x1b[2J",
    "\\x",
    "\\u12",
    "\\u00e9",
    "\\ud83d",
    "\\ud83d\\ude00",
    "\\U0001F600",
    "\\U00110000",
    "\\N{",
    "\\N{SNOWMAN}",
    "\\d",
    "\\777",
    "C:\\Users\\new",
    "$\\underline{x}$",
)
"""Plain text in which the `unicode-escape` codec sees escapes: whole, cut short, out of range and unknown ones."""

SPECIAL_TEXT = (
    "\n",
    "\r\n",
    "\x00",
    "\x1b[2J",
    "\x85",
    "\u2028",
    "\ufeff",
    "\ufffd",
    "e\u0301",
    "\U0001f469\u200d\U0001f467",
)
"""Well-formed text that is often mishandled: line ends of every kind, NUL, BOM, the replacement character, and
what a person takes for one character and Unicode does not."""

ILL_FORMED = (
    b"\x80",
    b"\xbf",
    b"\xff",
    b"\xc3",
    b"\xe2\x82",
    b"\xf0\x9f\x98",
    b"\xc0\xaf",
    b"\xe0\x80\xaf",
    b"\xf0\x80\x80\xaf",
    b"\xed\xa0",
    b"\xed\xa0\xbd\xed\xb8\x80",
    b"\xf4\x90\x80\x80",
    b"\xf8\x88\x80\x80\x80",
    "café".encode("latin-1"),
    "Привет".encode("cp1251"),
)
"""Bytes that are not UTF-8, each for another reason: a continuation alone, a byte that never occurs, sequences cut
short, overlong forms, encoded surrogates, code points above U+10FFFF, and other encodings (Unicode, table 3-7)."""

_Text = TypeVar("_Text", bound=str)

_METHODS = ("POST", "GET", "HEAD", "OPTIONS", "PUT", "DELETE")
_PATHS = ("/api/chat", "/api/models", "/", "/api/chat?x=1&y=%C3%A9")
_STATUSES = (200, 201, 308, 400, 403, 404, 429, 500, 503, 599)
_HEADER_NAMES = ("content-type", "Content-Type", "X-oDD-CaSe", "Via", "via", "x-request-id")
_DECODED = (("content-encoding", "gzip"), ("Content-Length", "123"))
_ROLES = ("user", "assistant", "system")
_MOST_CHUNKS, _MOST_BYTES = 8, 64  # where in a reply that is not known a fault happens
_BLOCKS = (4096, 4097, 8192, 8193)  # bytes: what readers ask for at once, and one more

# Text and bytes


def well_formed_text(*, min_size: int = 0, max_size: int | None = None) -> SearchStrategy[str]:
    """Text of `min_size` to `max_size` code points that UTF-8 can carry, so without lone surrogates.

    Characters of one to four bytes, the first and last of each length, `ESCAPES` and `SPECIAL_TEXT`.
    Shrinks to ASCII, and to the shortest allowed.
    """
    _check_sizes("well_formed_text", min_size, max_size)
    texts = st.lists(_pieces(), min_size=min_size, max_size=max_size).map("".join)
    return texts if max_size is None else texts.map(lambda text: text[:max_size])


def malformed_utf8() -> SearchStrategy[bytes]:
    """Bytes that are not UTF-8: at least one of `ILL_FORMED` or its like, with anything around it.

    None of them decodes. Shrinks to a single byte.
    """
    anything = st.lists(st.one_of(_ill_formed(), _pieces().map(str.encode)), max_size=4).map(b"".join)
    return st.tuples(anything, _ill_formed(), anything).map(b"".join).filter(_is_malformed)


def byte_streams(
    *, well_formed: bool | None = None, max_chunks: int | None = None, empty_chunks: bool = True
) -> SearchStrategy[tuple[bytes, ...]]:
    """Streams as a reader gets them: the chunks, in order, split anywhere, also inside characters.

    `well_formed` says whether all chunks joined are UTF-8: True, False, or either with None. With `max_chunks`, no
    stream has more; without `empty_chunks`, none is empty.

    Shrinks to no chunks, to a single ill-formed byte, or to a single character in two chunks.
    """
    _check_either("byte_streams", "well_formed", well_formed)
    _check_switch("byte_streams", "empty_chunks", empty_chunks)
    _check_sizes("byte_streams", 0, max_chunks, names=("min_chunks", "max_chunks"))
    whole = {
        True: well_formed_text().map(str.encode),
        False: malformed_utf8(),
        None: st.one_of(well_formed_text().map(str.encode), malformed_utf8()),
    }[well_formed]
    if max_chunks == 0:
        if well_formed is False:
            raise InvalidArgument(
                "byte_streams: no chunks at all are well formed; allow max_chunks=1 or more"
            )
        return st.just(())
    return whole.flatmap(lambda data: chunkings(data, max_chunks=max_chunks, empty_chunks=empty_chunks))


def chunkings(
    data: bytes, *, max_chunks: int | None = None, empty_chunks: bool = True
) -> SearchStrategy[tuple[bytes, ...]]:
    """Ways to split `data`: tuples of chunks that join to it.

    In two, inside a character where there is one to split; in pieces of one size, byte by byte included; at any
    number of places. With `max_chunks`, there are no more; without `empty_chunks`, none is empty.

    Shrinks to one chunk with everything, and to none where there is nothing to split.
    """
    if not isinstance(data, bytes):
        raise InvalidArgument(
            f"chunkings: expected the bytes to split, such as text.encode(), but got data={data!r}"
        )
    _check_switch("chunkings", "empty_chunks", empty_chunks)
    _check_sizes("chunkings", 0, max_chunks, names=("min_chunks", "max_chunks"))
    size = len(data)
    if not size:
        count = 0 if not empty_chunks else 3 if max_chunks is None else max_chunks
        return st.integers(0, count).map(lambda n: (b"",) * n)
    if max_chunks == 0:
        raise InvalidArgument(f"chunkings: {size} bytes make at least one chunk, but got max_chunks=0")

    def split(places: Iterable[int]) -> tuple[bytes, ...]:
        return tuple([data[begin:end] for begin, end in pairwise([0, *sorted(places), size])])

    ways: list[SearchStrategy[tuple[bytes, ...]]] = [st.just((data,))]
    if max_chunks != 1 and size > 1:
        ways.append(st.integers(1, size - 1).map(lambda place: split([place])))
        inside = [place for place in range(1, size) if data[place] & 0xC0 == 0x80]
        if inside:
            ways.append(st.sampled_from(inside).map(lambda place: split([place])))
        least = 1 if max_chunks is None else -(-size // max_chunks)
        steps = st.one_of(st.just(least), st.integers(least, size))
        ways.append(steps.map(lambda step: split(range(step, size, step))))
    edge = 0 if empty_chunks else 1
    if max_chunks != 1 and size > edge:
        places = st.integers(edge, size - edge)
        most = None if max_chunks is None else max_chunks - 1
        ways.append(st.lists(places, max_size=most, unique=not empty_chunks).map(split))
    return st.one_of(ways)


# Requests


def model_ids(*, known: bool = True) -> SearchStrategy[str]:
    """Ids of models: those of `aivvm.models`, or with `known=False` other text that is not empty, near misses first.

    Shrinks to the first of the table, or to `gpt-5`.
    """
    _check_switch("model_ids", "known", known)
    if known:
        return st.sampled_from(list(MODELS))
    near = [
        change(name)
        for name in MODELS
        for change in (str.upper, str.title, lambda s: s + " ", lambda s: s[1:])
    ]
    return st.one_of(st.sampled_from(["gpt-5", *near]), well_formed_text(min_size=1)).filter(
        lambda name: name not in MODELS
    )


def messages(*, min_size: int = 1, max_size: int | None = 5) -> SearchStrategy[list[dict[str, str]]]:
    """Lists of `min_size` to `max_size` messages, each a dict of `role` and `content`; fresh ones each time.

    Shrinks to the fewest, each an empty one of the user.
    """
    _check_sizes("messages", min_size, max_size)
    message = st.fixed_dictionaries({"role": st.sampled_from(_ROLES), "content": well_formed_text()})
    return st.lists(message, min_size=min_size, max_size=max_size)


def payloads() -> SearchStrategy[dict[str, Any]]:
    """Keyword arguments that both `build_request` and `Aivvm.create_completion` take.

    `model` and `messages` always; sometimes `system_message`, `temperature` (0 to 2) and `key`, also as None.
    Shrinks to the two alone.
    """
    temperature = st.one_of(st.integers(0, 2), st.floats(0, 2, allow_subnormal=False))
    return st.fixed_dictionaries(
        {"model": model_ids(), "messages": messages()},
        optional={
            "system_message": st.none() | well_formed_text(),
            "temperature": st.none() | temperature,
            "key": st.none() | well_formed_text(),
        },
    )


# Replies and recordings


def replies(
    *,
    endings: Collection[EndingKind] | None = None,
    with_head: bool | None = None,
    max_chunks: int | None = 5,
    plain: bool = False,
) -> SearchStrategy[Reply]:
    """Replies with or without a head, of up to `max_chunks` chunks, that end in one of `endings`.

    The chunks are text that is split anywhere, also inside characters, or each is text or bytes of its own. Without `endings`: all of `ENDING_KINDS` that go with `with_head`, but for `unfinished`, which recovery alone
    makes. Times are whole microseconds. Header names come in odd case and twice. Framing is left to whoever plays
    the reply: no header speaks of length, coding or connection.

    `plain=True` leaves out what not every door and tap can show: empty chunks, the ending's `data` and `error`, the
    head's `decoded`. Shrinks to an empty 200 at once; without a head, to an empty response.
    """
    _check_either("replies", "with_head", with_head)
    _check_switch("replies", "plain", plain)
    _check_sizes("replies", 0, max_chunks, names=("min_chunks", "max_chunks"))
    kinds: list[EndingKind] = _check_some("replies", "endings", endings, ENDING_KINDS)
    if endings is None:
        kinds.remove("unfinished")
    headed = [kind for kind in kinds if kind not in HEADLESS_KINDS]
    headless: list[EndingKind] = [kind for kind in kinds if kind != "complete"]
    ways = []
    if with_head is not False and headed:
        ways.append(_headed_replies(headed, max_chunks, plain))
    if with_head is not True and headless:
        ways.append(_headless_replies(headless, plain))
    if not ways:
        raise InvalidArgument(
            f"replies: no reply {'with' if with_head else 'without'} a head ends in any of endings={endings!r}: "
            f"{', '.join(sorted(HEADLESS_KINDS))} are without a head, complete is with one"
        )
    return st.one_of(ways)


def recordings(*, min_size: int = 0, max_size: int | None = 3) -> SearchStrategy[Recording]:
    """Recordings of `min_size` to `max_size` exchanges, in the order in which they started.

    Request bodies are JSON in the two styles a recording knows and in others, text, binary, or nothing.
    Shrinks to no exchanges, written by nobody known; each of them to an empty POST and an empty 200.
    """
    _check_sizes("recordings", min_size, max_size)
    exchanges = st.lists(
        st.tuples(_requests(), replies(max_chunks=3), _gaps()), min_size=min_size, max_size=max_size
    )
    pieces = st.lists(well_formed_text(max_size=5), max_size=3)
    expected = st.none() | st.dictionaries(st.sampled_from(["SubpartDecoder", "мой"]), pieces, max_size=2)
    return st.builds(
        _recording,
        exchanges,
        origin=st.sampled_from(ORIGINS),
        note=well_formed_text(max_size=20),
        recorded_at=st.none() | st.sampled_from(["2026-11-23T00:00:00Z"]),
        expected=expected,
    )


# Faults


def faults(
    *,
    names: Collection[str] | None = None,
    groups: Collection[Group] | None = None,
    max_steps: int = 2,
    reply: Reply | None = None,
) -> SearchStrategy[Fault]:
    """Faults of the catalogue with any of their options, alone or up to `max_steps` in a row, as by `a | b`.

    `names`: of these, also by their names in other tools; `groups`: of these groups of the catalogue; with both, of what
    is in both. Seconds are whole milliseconds, up to a minute. An oversized chunk has up to 8,193 bytes, as more take long
    to look through: the fault's own default is `faults.oversized_chunk()`.

    Each can be made; whether it can be done is the reply's matter, and a `ValueError` where not. With a `reply` there are
    only faults that can be done to it.

    Shrinks to one step without options, or with small numbers; to the first in the catalogue, or in `names`, if any will
    do. They print as the code that makes them.
    """
    kinds = [*CATALOGUE.values()] if names is None else _check_names(names)
    chosen = _check_some("faults", "groups", groups, get_args(Group))
    kinds = [kind for kind in kinds if kind.group in chosen]
    if not kinds:
        raise InvalidArgument(f"faults: none of names={names!r} is in groups={groups!r}")
    if type(max_steps) is not int or max_steps < 1:
        raise InvalidArgument(
            f"faults: expected max_steps to be a whole number, 1 or more, but got max_steps={max_steps!r}"
        )
    if reply is not None and not isinstance(reply, Reply):
        raise InvalidArgument(f"faults: expected a Reply, such as Reply.of('a'), but got reply={reply!r}")
    chunks, size = (_MOST_CHUNKS, _MOST_BYTES) if reply is None else (len(reply.chunks), len(reply.body))
    step = st.one_of([_fault(kind, chunks, size) for kind in kinds])
    made = st.lists(step, min_size=1, max_size=max_steps).map(lambda steps: reduce(or_, steps))
    return made if reply is None else made.filter(lambda fault: _goes_with(fault, reply))


def _fault(kind: Kind, chunks: int, size: int) -> SearchStrategy[Fault]:
    """One step; an option that is None is left out, which shrinks better than keys that come and go."""
    takes = [*signature(kind.make).parameters]
    options = {name: _option(kind, name) for name in takes if name not in ("after", "after_bytes")}

    def make(given: dict[str, Any]) -> Fault:
        return kind.make(**{name: value for name, value in given.items() if value is not None})

    if "after" not in takes:
        return st.fixed_dictionaries(options).map(make)
    after = {**options, "after": st.none() | st.integers(0, chunks)}
    after_bytes = {**options, "after_bytes": st.integers(0, size)}
    return st.one_of(st.fixed_dictionaries(after), st.fixed_dictionaries(after_bytes)).map(make)


def _option(kind: Kind, name: str) -> SearchStrategy[Any]:
    """What the option of a fault may be: None, where the default is no burden, or small numbers first."""
    small = st.integers(1, 16)
    seconds = st.integers(1, 60_000).map(lambda milliseconds: milliseconds / 1000)
    options: dict[str, SearchStrategy[Any]] = {
        "by": small,
        "bytes_per_second": st.integers(1, 1_000_000),
        "data": st.binary(min_size=1, max_size=16),
        "gap": seconds,
        "invalid_bytes.data": malformed_utf8(),
        "oversized_chunk.size": small | st.sampled_from(_BLOCKS),
        "reason": well_formed_text(min_size=1, max_size=12),
        "retry_after": st.integers(0, 3600),
        "seconds": seconds,
        "seed": st.integers(0, 2**32 - 1),
        "size": small,
        "sliced.size": small | st.lists(small, min_size=1, max_size=4).map(tuple),
    }
    own = f"{kind.name}.{name}"
    if own == "oversized_chunk.size":
        return options[own]
    return st.none() | options[own if own in options else name]


def _goes_with(fault: Fault, reply: Reply) -> bool:
    try:
        fault(reply)
    except ValueError:
        return False
    return True


# Profiles


def register_profiles() -> None:
    """Makes three profiles known to hypothesis, and loads none: to be called in a `conftest.py`.

    | profile | what it is for |
    |---|---|
    | `aivvm-dev` | 100 examples, others in each run |
    | `aivvm-ci` | 100 examples, the same in each run: a change is judged by what it changes |
    | `aivvm-thorough` | 2,000 examples, and 100 steps of a stateful machine: for a night |

    None has a deadline, as a busy machine is not a bug, and all print how to repeat what failed. To be loaded with
    `settings.load_profile("aivvm-ci")` or `--hypothesis-profile=aivvm-ci`.
    """
    shared: dict[str, Any] = {"deadline": None, "print_blob": True, "max_examples": 100, "derandomize": False}
    settings.register_profile("aivvm-dev", **shared)
    settings.register_profile("aivvm-ci", **{**shared, "derandomize": True})
    settings.register_profile(
        "aivvm-thorough", **{**shared, "max_examples": 2000, "stateful_step_count": 100}
    )


# What the above are made of


def _pieces() -> SearchStrategy[str]:
    """Small well-formed texts, each at least one code point."""
    return st.one_of(
        st.characters(max_codepoint=0x7F),
        st.characters(min_codepoint=0x80, max_codepoint=0x7FF),
        st.characters(min_codepoint=0x800, max_codepoint=0xFFFF, exclude_categories=["Cs"]),
        st.characters(min_codepoint=0x10000),
        st.sampled_from("\x00\x7f\x80\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff"),
        st.sampled_from(ESCAPES),
        st.sampled_from(SPECIAL_TEXT),
    )


def _ill_formed() -> SearchStrategy[bytes]:
    """Bytes that are malformed on their own."""
    multi_byte = st.characters(min_codepoint=0x80, exclude_categories=["Cs"]).map(str.encode)
    return st.one_of(
        st.integers(0x80, 0xFF).map(lambda n: bytes([n])),
        st.sampled_from(ILL_FORMED),
        multi_byte.flatmap(lambda char: st.integers(1, len(char) - 1).map(lambda kept: char[:kept])),
        multi_byte.flatmap(lambda char: st.integers(1, len(char) - 1).map(lambda lost: char[lost:])),
    )


def _is_malformed(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return True
    return False


def _gaps() -> SearchStrategy[int]:
    """Microseconds between two moments."""
    return st.one_of(st.just(0), st.integers(1, 5_000_000))


def _headers() -> SearchStrategy[Headers]:
    value = st.text(
        st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_categories=["Cc"]), max_size=8
    )
    return st.lists(st.tuples(st.sampled_from(_HEADER_NAMES), value.map(str.strip)), max_size=3).map(Headers)


def _reasons() -> SearchStrategy[str]:
    return st.sampled_from(["OK", "", "Rate limit reached", "café", "a  b"])


def _endings_of(kinds: list[EndingKind], plain: bool) -> SearchStrategy[tuple[EndingKind, bytes, str | None]]:
    data, error = st.binary(max_size=6), st.none() | well_formed_text(max_size=12)
    return st.tuples(st.sampled_from(kinds), st.just(b"") if plain else data, st.none() if plain else error)


def _headed_replies(kinds: list[EndingKind], max_chunks: int | None, plain: bool) -> SearchStrategy[Reply]:
    data = st.one_of(
        well_formed_text(min_size=1, max_size=8).map(str.encode),
        malformed_utf8(),
        st.binary(min_size=1, max_size=8),
    )
    chunks = st.lists(data if plain else data | st.just(b""), max_size=max_chunks)
    if max_chunks != 0:
        text = well_formed_text(min_size=1, max_size=8).map(str.encode)
        chunks |= text.flatmap(
            lambda whole: chunkings(whole, max_chunks=max_chunks, empty_chunks=not plain).map(list)
        )
    decoded = st.just(()) if plain else st.sampled_from(((), _DECODED[:1], _DECODED))
    return st.builds(
        _headed_reply,
        st.just(200) | st.sampled_from(_STATUSES),
        _reasons(),
        _headers(),
        decoded,
        chunks,
        st.lists(_gaps(), max_size=max_chunks),
        _endings_of(kinds, plain),
        head_gap=_gaps(),
        end_gap=_gaps(),
    )


def _headed_reply(
    status: int,
    reason: str,
    headers: Headers,
    decoded: tuple[tuple[str, str], ...],
    parts: list[bytes],
    gaps: list[int],
    how: tuple[EndingKind, bytes, str | None],
    *,
    head_gap: int,
    end_gap: int,
) -> Reply:
    now = head_gap
    head = Head(status, reason, headers, now / 1e6, Headers(decoded))
    chunks = []
    for part, gap in zip(parts, chain(gaps, repeat(0)), strict=False):
        now += gap
        chunks.append(Chunk(part, now / 1e6))
    kind, data, error = how
    return Reply(head, tuple(chunks), Ending(kind, (now + end_gap) / 1e6, data, error))


def _headless_replies(kinds: list[EndingKind], plain: bool) -> SearchStrategy[Reply]:
    def build(how: tuple[EndingKind, bytes, str | None], gap: int) -> Reply:
        kind, data, error = how
        return Reply(None, (), Ending(kind, gap / 1e6, b"" if kind in HEADLESS_KINDS else data, error))

    return st.builds(build, _endings_of(kinds, plain), _gaps())


def _requests() -> SearchStrategy[Request]:
    name = st.text(max_size=5)
    scalar = st.one_of(
        name, st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False)
    )
    value = st.one_of(
        st.lists(scalar, max_size=3),
        st.dictionaries(name, st.lists(scalar, max_size=2), min_size=1, max_size=3),
    )
    styles: list[dict[str, Any]] = [{"separators": (",", ":")}, {"indent": 1}, {"ensure_ascii": False}]
    styled = st.tuples(value, st.sampled_from(styles)).map(lambda pair: json.dumps(pair[0], **pair[1]))
    body = st.one_of(
        st.just(b""),
        (scalar | value).map(json.dumps).map(str.encode),
        styled.map(str.encode),
        st.sampled_from(
            [b'{"a":1, "a":2}', b"[1e400]", b"NaN", b'"\\ud83d"', b'"\\u00E9"', b" null", b"1.0E5"]
        ),
        well_formed_text(max_size=8).map(str.encode),
        malformed_utf8(),
    )
    url = st.sampled_from(_PATHS).map(DEFAULT_URL.__add__)
    return st.builds(Request, st.sampled_from(_METHODS), url, _headers(), body)


def _recording(
    parts: list[tuple[Request, Reply, int]],
    *,
    origin: Origin,
    note: str,
    recorded_at: str | None,
    expected: dict[str, list[Any]] | None,
) -> Recording:
    now = 0
    exchanges = []
    for request, reply, gap in parts:
        now += gap
        exchanges.append(Exchange(request, reply, now / 1e6))
    return Recording(exchanges, origin=origin, note=note, recorded_at=recorded_at, expected=expected)


# Arguments


def _check_names(names: Collection[str]) -> list[Kind]:
    if not isinstance(names, str):
        try:
            names = [named(name).__name__ for name in names]
        except (ValueError, AttributeError) as error:
            raise InvalidArgument(f"faults: expected names of faults, but got {names!r}: {error}") from error
    return [CATALOGUE[name] for name in _check_some("faults", "names", names, [*CATALOGUE])]


def _check_some(who: str, name: str, chosen: Collection[_Text] | None, known: Sequence[_Text]) -> list[_Text]:
    """What is chosen of what is known, by default all of it."""
    if chosen is None:
        return [*known]
    if isinstance(chosen, str):
        raise InvalidArgument(
            f"{who}: expected a collection of {name}, such as [{chosen!r}], but got {chosen!r}"
        )
    listed = list(chosen)
    if not listed or any(one not in known for one in listed):
        raise InvalidArgument(
            f"{who}: expected {name} to be some of {', '.join(known)}, but got {name}={chosen!r}"
        )
    return listed


def _check_sizes(
    who: str, least: int, most: int | None, *, names: tuple[str, str] = ("min_size", "max_size")
) -> None:
    for name, size in zip(names, (least, most), strict=True):
        if size is None and name == names[1]:
            continue
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise InvalidArgument(
                f"{who}: expected {name} to be a whole number, 0 or more, but got {name}={size!r}"
            )
    if most is not None and most < least:
        raise InvalidArgument(
            f"{who}: {names[1]}={most} is less than {names[0]}={least}: nothing is between them"
        )


def _check_switch(who: str, name: str, value: object) -> None:
    if value is not True and value is not False:
        raise InvalidArgument(f"{who}: expected {name}=True or {name}=False, but got {value!r}")


def _check_either(who: str, name: str, value: object) -> None:
    if value is not None and value is not True and value is not False:
        raise InvalidArgument(
            f"{who}: expected {name} to be True, False, or None for either, but got {name}={value!r}"
        )
