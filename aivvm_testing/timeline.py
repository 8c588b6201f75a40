"""Calls and replies as a picture in lines: when each chunk came, what was in it, where a character was split.

Pure, and for people: every line is printable, without the secrets of requests, and there are never many of them.
"""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Iterator, Sequence

from aivvm.terminal import one_line, printable
from aivvm_testing.call import Call
from aivvm_testing.matching import describe
from aivvm_testing.recording import Exchange
from aivvm_testing.reply import Chunk, Reply

_MOST_CALLS = 5
_MOST_CHUNKS = 12
_MOST_BYTES = 40


def of_calls(calls: Sequence[Call]) -> list[str]:
    """The last calls of a fake, each with its answer and how far its client came."""
    lines = [f"... {len(calls) - _MOST_CALLS} earlier calls"] if len(calls) > _MOST_CALLS else []
    for call in calls[-_MOST_CALLS:]:
        lines += of_call(call)
    return lines


def of_exchanges(exchanges: Sequence[Exchange]) -> list[str]:
    """The last exchanges of a recording."""
    lines = []
    for exchange in exchanges[-_MOST_CALLS:]:
        lines += [describe(exchange.request), *[f"  {line}" for line in of_reply(exchange.reply)]]
    return lines


def of_call(call: Call) -> list[str]:
    """One call: the request, the answer as it was played, and what the client took of it."""
    lines = [describe(call.request)]
    if call.reply is None:
        return [*lines, "  no answer: nothing matched"]
    lines += [f"  {line}" for line in of_reply(call.reply, took=call.chunks_taken)]
    came = f"  the client took {call.chunks_taken} of {count(_full(call.reply), 'chunk')}"
    lines.append(
        came + {"closed": ", and left", "open": ", and has not finished", "played": ""}.get(call.outcome, "")
    )
    if call.faults:
        lines.append(f"  done to the answer: {printable(', then '.join(map(repr, call.faults)))}")
    return lines


def of_reply(reply: Reply, *, took: int | None = None) -> list[str]:
    """The head, each chunk with its moment and the gap before it, and the ending; `took` marks where a client stopped."""
    head, ending = reply.head, reply.ending
    lines = ["no head"] if head is None else [f"{head.at:8.3f}  {head.status} {one_line(head.reason)}"]
    last = 0.0 if head is None else head.at
    rows = []
    for n, (chunk, told) in enumerate(zip(reply.chunks, _told(reply.chunks), strict=True)):
        rows.append(f"{chunk.at:8.3f}  +{chunk.at - last:.3f}  {count(len(chunk.data), 'byte'):>9}  {told}")
        if took is not None and n + 1 == took < len(reply.chunks):
            rows[-1] += "   <- the last one taken"
        last = chunk.at
    if len(rows) > _MOST_CHUNKS:
        half = _MOST_CHUNKS // 2
        rows[half:-half] = [f"     ...  {len(rows) - 2 * half} more chunks"]
    end = f"{ending.at:8.3f}  +{max(0.0, ending.at - last):.3f}  {ending.kind}"
    if ending.data:
        end += f", after {ending.data[:_MOST_BYTES]!r}"
    return [*lines, *rows, end]


def _told(chunks: Sequence[Chunk]) -> Iterator[str]:
    """What is in each chunk, and what is the matter with it."""
    held = b""
    for chunk in chunks:
        data, notes = held + chunk.data, []
        if held:
            notes.append("goes on with a character")
        try:
            _, certain = utf_8_decode(data, "strict", False)
        except UnicodeDecodeError as error:
            notes = [f"ill-formed at byte {max(0, error.start - len(held))}"]
            certain = len(data)
        held = data[certain:]
        if held:
            notes.append("ends inside a character")
        yield _glimpse(chunk.data) + (f"   ({', '.join(notes)})" if notes else "")


def _glimpse(data: bytes) -> str:
    shown = data[:_MOST_BYTES]
    more = "" if len(data) <= _MOST_BYTES else " ..."
    try:
        return printable(repr(shown.decode() if not more else shown.decode("utf-8", "ignore"))) + more
    except UnicodeDecodeError:
        return repr(shown) + more


def _full(reply: Reply) -> int:
    return len([chunk for chunk in reply.chunks if chunk.data])


def count(number: int, what: str) -> str:
    """So many of these, as in `2 chunks`."""
    return f"{number} {what}{'' if number == 1 else 's'}"
