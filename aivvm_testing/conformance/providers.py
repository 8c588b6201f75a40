"""What is required of a streaming provider: how it is made and asked, and the checks, in the order in which they are done.

What a check requires is its `requires`, and nothing more: a provider may speak any HTTP, retry and decode as it likes
where that sentence is true of it.
"""

from __future__ import annotations

import gc
import inspect
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, cast

from aivvm.errors import shown
from aivvm.terminal import one_line
from aivvm.transport import Request
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
    chain,
    check_callable,
    check_left,
    check_long,
    check_whole,
    ending,
    name_of,
    required,
    tells,
    told,
)
from aivvm_testing.errors import SetupFailure
from aivvm_testing.reply import Reply
from aivvm_testing.service import json_of

PROVIDER_CHECKS: list[Check] = []
"""What `check_provider` checks, in order."""

MOST_REQUESTS = 5
"""So often may one question be sent: urllib3's `Retry(3)`, which many clients have, makes four."""


# How a provider is made and asked


class ProviderKind:
    """How a provider is made and asked, by the names that its callables take."""

    def __init__(self, make: Callable[..., object], model: str) -> None:
        check_callable(make, "make(url) or make(url, timeout)")
        if "send" in dir(make) and not {"create_completion", "__call__"} & set(dir(make)):
            raise TypeError(f"{name_of(make)} makes transports: did you mean check_transport (--transport)?")
        if not isinstance(model, str) or not model:
            raise TypeError(f"model is the id of a model, but got {model!r}")
        self._make = make
        self.model = model
        parameters = _parameters_of(make)
        named = {one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
        self._url_by_name, self._timeout_by_name = "url" in named, "timeout" in named
        places = [one.name for one in parameters if one.kind not in (one.KEYWORD_ONLY, one.VAR_KEYWORD)]
        needed = _needed(parameters)
        self.takes_timeout = self._timeout_by_name or len(needed) == 2
        if len(needed) > 2 or not (self._url_by_name or places):
            raise TypeError(
                f"make takes the address of a server, and a timeout if it likes, but {name_of(make)} takes "
                f"{', '.join(needed) or 'no address'}: did you mean lambda url, timeout: ...?"
            )

    def make(self, url: str, timeout: float) -> object:
        args: list[object] = []
        named: dict[str, object] = {}
        if self._url_by_name:
            named["url"] = url
        else:
            args.append(url)
        if self._timeout_by_name:
            named["timeout"] = timeout
        elif self.takes_timeout:
            args.append(timeout)
        return self._make(*args, **named)

    def way_to_ask(self, made: object) -> Way:
        """Raises `TypeError` where it is no provider."""
        completion = getattr(made, "create_completion", None)
        if callable(completion) and not isinstance(made, type):
            parameters = _parameters_of(completion)
            names = {one.name for one in parameters}
            takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters)
            streams = {"stream": True} if "stream" in names or takes_any else {}
            return Way(completion, True, streams, "timeout" in names or takes_any, "stream" in names)
        if isinstance(made, type) or not callable(made):
            raise TypeError(_no_provider(made))
        parameters = _parameters_of(made)
        needed = _needed(parameters)
        if len(needed) > 2 or not parameters:
            raise TypeError(
                "a provider is asked with (messages) or (model, messages), but what make gave takes "
                f"{', '.join(needed) or 'nothing'}"
            )
        takes_model = len(needed) == 2 or parameters[0].name == "model"
        return Way(made, takes_model, {}, any(one.name == "timeout" for one in parameters))


class Way(NamedTuple):
    """How a provider is asked."""

    function: Callable[..., object]
    takes_model: bool
    options: dict[str, Any]
    takes_timeout: bool
    takes_stream: bool = False

    def ask(self, model: str, messages: list[dict[str, str]], **more: object) -> object:
        args = (model, messages) if self.takes_model else (messages,)
        return self.function(*args, **{**self.options, **more})


def _parameters_of(function: Callable[..., object]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # some builtins have none: whatever they are given may be right
        return [inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL)]


def _needed(parameters: list[inspect.Parameter]) -> list[str]:
    """Those that must be given, by position."""
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [one.name for one in parameters if one.kind in by_position and one.default is one.empty]


def _no_provider(made: object) -> str:
    text = (
        "make gives an object with create_completion(model, messages, stream=True), or a callable ask(messages), "
        f"but gave {shown(made)}"
    )
    if inspect.iscoroutine(made):
        made.close()  # else it complains that nobody awaited it
    if inspect.isawaitable(made) or inspect.isasyncgen(made):
        return f"{text}: a provider is asked without await; let make give a callable that runs the loop"
    if isinstance(made, type):
        return f"{text}: did you mean {made.__name__}(...), an instance?"
    if isinstance(made, (str, Iterator)):
        return f"{text}: make only makes; the checks do the asking"
    return text


class ProviderBench(Bench[str]):
    kind = str

    def __init__(self, provider: ProviderKind, patience: float) -> None:
        super().__init__(patience)
        self._provider = provider
        self._subject: object = None

    @property
    def model(self) -> str:
        return self._provider.model

    def make(self, timeout: float | None = None) -> object:
        return self.keep(self._provider.make(self.url, 2 * self.patience if timeout is None else timeout))

    def ask(
        self,
        question: str | list[dict[str, str]] = "Hello",
        *,
        of: object = None,
        timeout: float | None = None,
    ) -> Stream[str]:
        """Asks the check's own provider, or that one. A timeout is told to the call only where `make` takes none."""
        if of is None:
            if self._subject is None:
                self._subject = self.make()
            of = self._subject
        messages = [{"role": "user", "content": question}] if isinstance(question, str) else question
        way = self._provider.way_to_ask(of)
        more: dict[str, object] = {}
        if timeout is not None and way.takes_timeout and not self._provider.takes_timeout:
            more["timeout"] = timeout
        return self.open(lambda: iter(cast("Iterator[str]", way.ask(self.model, messages, **more))))

    def ask_for_the_whole(self) -> Stream[str] | None:
        """Asks with stream=False, as text or in pieces; None where that is not taken."""
        way = self._provider.way_to_ask(self.make())
        if not way.takes_stream:
            return None

        def begin() -> Iterator[str]:
            answer = way.ask(self.model, [{"role": "user", "content": "Hello"}], stream=False)
            if isinstance(answer, str):
                return iter([answer])
            if not hasattr(answer, "__iter__"):
                raise Broken(f"asked with stream=False it gave {shown(answer)}")
            return iter(cast("Iterator[str]", answer))

        return self.open(begin)

    def answer(self, reply: Reply, what: str, question: str = "Hello") -> Stream[str]:
        """The whole of it, however it ends."""
        self.peer.gives(reply)
        self.wait_for(what)
        stream = self.ask(question)
        stream.read()
        return stream

    def forget(self) -> None:
        super().forget()
        self._subject = None

    @property
    def sends_model(self) -> bool:
        """Whether the provider was told the model."""
        return self._provider.way_to_ask(self._subject).takes_model

    def can_be_told_a_timeout(self) -> bool:
        return self._provider.takes_timeout or self._provider.way_to_ask(self.make()).takes_timeout

    def try_out(self) -> None:
        try:
            made = self.make()
        except Exception as error:
            raise SetupFailure(
                f"make({self.url!r}) raised {told(error)}: it must only make the provider"
            ) from error
        way = self._provider.way_to_ask(made)
        try:
            answer = way.ask(self.model, [{"role": "user", "content": "Hello"}])
        except Exception as error:
            self._check_asked(error)
            return
        if isinstance(answer, (str, bytes)) or not hasattr(answer, "__iter__"):
            guess = ": did it forget to yield?" if answer is None else ""
            if hasattr(answer, "__aiter__") or inspect.isawaitable(answer):
                guess = ": let make give a callable that runs the loop, and gives text without await"
            if inspect.iscoroutine(answer):
                answer.close()  # else it complains that nobody awaited it
            raise TypeError(
                f"a provider that is asked gives an iterator of text, but gave {shown(answer)}{guess}"
            )
        stream = self.open(lambda: iter(answer))
        try:
            stream.read()
        except Broken as broken:
            raise TypeError(f"a provider gives text, but {broken}; does it decode what it reads?") from None
        self._check_asked(stream.error)

    def _check_asked(self, error: BaseException | None) -> None:
        if not self.peer.calls:
            raised = f", and raised {told(error)}" if error is not None else ""
            raise SetupFailure(
                f"what make gave was asked, but sent no request to {self.url}{raised}. Does it use the url that make "
                "is given? Does HTTP_PROXY stand in the environment, without NO_PROXY=127.0.0.1?"
            ) from error


_PAUSE = 4 * SHORT_TIMEOUT  # seconds, longer than whoever was told the short timeout waits
_PARTS = ("Hello-", "wor", "ld-", "wide", "-web")  # of an answer that breaks after any of them
_MIXED = "né→😀Л\\n日\\x1b語C:\\Users\\u00e9😀"  # a character of each length, and what looks like escapes

# The checks

_of_providers = partial(required, PROVIDER_CHECKS)


@_of_providers(
    "AP01",
    "exact text",
    "A well-formed answer is the same text however it is cut into chunks.",
    "decode with codecs.getincrementaldecoder('utf-8')() across chunks, and take no text for escapes",
)
def _exact_text(bench: ProviderBench) -> None:
    body = _MIXED.encode()
    whole = Reply.of(body)
    for size in (len(body), 1, 2, 3, 5, 7):
        how = "in one chunk" if size == len(body) else f"in chunks of {size} bytes"
        stream = bench.answer(whole.rechunk(size).pace(GAP), f"the end of an answer {how}")
        check_whole(stream, _MIXED, how)
    for n in range(1, len(body)):
        if body[n] & 0xC0 == 0x80:  # within a character
            how = f"cut in two after {n} bytes, within a character,"
            stream = bench.answer(whole.rechunk([n]).pace(GAP), "the end of an answer of two chunks")
            check_whole(stream, _MIXED, how)


@_of_providers(
    "AP02",
    "malformed text",
    "Bytes that are no UTF-8 raise nothing, take no text with them, and leave a mark where they were.",
    "decode with errors='replace', or fall back for these bytes alone; never with errors='ignore' or 'strict'",
)
def _ill_formed_text(bench: ProviderBench) -> None:
    for bad, after in (
        (b"\xff", b"-after"),
        (b"\xed\xa0\xbd", b"-after"),
        (b"\xf0\x9f\x98", b"-after"),
        (b"\xc3", b""),
    ):
        for parts in ((b"before-", bad, after), (b"before-" + bad + after,)):
            reply = Reply.of(*[part for part in parts if part]).pace(GAP)
            how = f"with {bad.hex(' ')} in it"
            stream = bench.answer(reply, f"the end of an answer {how}")
            if stream.error is not None:
                raise Broken(f"{how} it raised {told(stream.error)}")
            text, end = stream.whole, after.decode()
            if not (text.startswith("before-") and text.endswith(end)):
                raise Broken(f"{how} the text around it is lost: {one_line(repr(text))} came")
            if len(text) <= len("before-" + end):
                raise Broken(f"{how} nothing in the text tells of it: {one_line(repr(text))} came")


@_of_providers(
    "AP03",
    "prompt delivery",
    "Text is handed out when it is there, before the next chunk comes.",
    "read what has come (read1, iter_content(None), aiter_raw), not blocks of a size or lines, and yield it at once",
)
def _prompt_delivery(bench: ProviderBench) -> None:
    for parts in (("Hello-",), ("Hello-", "wor"), ("H", "e", "l")):
        text = "".join(parts)
        bench.peer.gives(Reply.of(*parts).stall())
        bench.wait_for(f"the text of chunk {len(parts)}, while the server kept the next one back")
        stream = bench.ask()
        stream.read(len(text))
        check_whole(stream, text, "while the server kept the next chunk back")
        bench.wait_for_nothing()
        stream.drop()


@_of_providers(
    "AP04",
    "status errors",
    "A status that is no success is an exception, and no text.",
    "look at the status before the body: raise_for_status(), or an exception of your own",
)
def _status_errors(bench: ProviderBench) -> None:
    taken = []
    for status in ERRORS:
        reply = Reply.error(status, reason=REASON)
        stream = bench.answer(reply, f"an exception for a status of {status}")
        if stream.error is None or stream.whole:
            taken.append(
                f"{status} gave {'the text ' + repr(stream.whole) if stream.whole else 'an empty answer'}"
            )
    if taken:
        raise Broken("; ".join(taken))


@_of_providers(
    "AP05",
    "telling errors",
    "The exception for a status tells the status or the server's reason, in its text, its attributes or its cause.",
    "put status and reason into the exception: the reason is all that tells a person what is wrong",
)
def _telling_errors(bench: ProviderBench) -> None:
    for status in (429, 500):
        stream = bench.answer(Reply.error(status, reason=REASON), f"an exception for a status of {status}")
        if stream.error is not None and not tells(stream.error, (str(status), REASON)):
            raise Broken(f"{status} {REASON} became {told(stream.error)}")


@_of_providers(
    "AP06",
    "no web page",
    "A page of HTML is an exception and no text, also where its status is 200.",
    "raise where the content-type is text/html, with any charset and in any case: it comes from a proxy or a "
    "firewall, not from the model",
)
def _no_web_page(bench: ProviderBench) -> None:
    page = "<!DOCTYPE html><html><head><title>Just a moment...</title></head><body>Checking</body></html>"
    for content_type in ("text/html; charset=UTF-8", "text/html", "Text/html;charset=utf-8"):
        reply = Reply.of(page, headers={"content-type": content_type})
        stream = bench.answer(reply, f"an exception for a page that is {content_type}")
        if stream.error is None or stream.whole:
            came = one_line(repr(stream.whole), 60)
            raise Broken(f"it gave a page that is {content_type} as the answer: {came}")


@_of_providers(
    "AP07",
    "early close",
    "Closing an answer early raises nothing and lets go of its connection at once.",
    "close the response in a finally around the yields, or with `with`, and let GeneratorExit pass",
)
def _early_close(bench: ProviderBench) -> None:
    bench.peer.gives(Reply.of("Hello-").stall())
    bench.wait_for("the first text of an answer, to close it then")
    stream = bench.ask()
    stream.read(1)
    if stream.over:
        raise Broken(f"it ended before it could be closed: {ending(stream)}")
    calls = bench.peer.calls
    bench.wait_for("an end, when its answer was closed", 2 * bench.patience)
    try:
        stream.close()
    except Exception as error:
        raise Broken(f"closing it raised {told(error)}") from error
    gc.collect()
    if not bench.over(calls[-1]):
        raise Broken(f"{bench.patience:g} s after closing it, the server still had the connection")


@_of_providers(
    "AP08",
    "text before an error",
    "All text that came before a connection broke is handed out before the exception, or is on it.",
    "yield each piece as it comes; where something is kept back, yield it, or put it on the exception, before raising",
)
def _text_before_an_error(bench: ProviderBench) -> None:
    wanted = "Hello-world"
    for kind, reply in (
        ("cut", Reply.of("Hello-", "world").cut()),
        ("reset", Reply.of("Hello-", "world").reset()),
    ):
        bench.peer.gives(reply)
        bench.wait_for(f"the first text of an answer that was {kind} later")
        stream = bench.ask()
        stream.read(1)
        call = bench.peer.calls[0] if bench.peer.calls else None
        if call is not None:
            bench.wait_for(f"the text before the {kind}", 2 * bench.patience)
            bench.over(call)
            threading.Event().wait(
                SETTLING
            )  # a reader with a thread of its own meets the end before the text is taken
        stream.read()
        missing = wanted.removeprefix(stream.whole)
        if stream.whole.startswith(wanted) or (
            stream.error is not None and tells(stream.error, (wanted, missing))
        ):
            continue
        raise Broken(f"{wanted!r} came before the {kind}, and {ending(stream)}")


@_of_providers(
    "AP09",
    "broken streams",
    "An answer whose connection breaks is an exception, never a whole answer.",
    "let the exception of the HTTP client out, also where there was text: nothing else tells a part from the whole",
)
def _broken_streams(bench: ProviderBench) -> None:
    cases = {"closed without an answer": Reply.no_answer("cut")}
    for n in (0, 1, 2, len(_PARTS)):
        when = f"after {n} chunk{'' if n == 1 else 's'}"
        cases[f"cut {when}"] = Reply.of(*_PARTS).pace(GAP).cut(after=n)
        cases[f"reset {when}"] = Reply.of(*_PARTS).pace(GAP).reset(after=n)
    taken = []
    for how, reply in cases.items():
        stream = bench.answer(reply, f"an exception for an answer that was {how}")
        if stream.error is None:
            taken.append(f"an answer that was {how} ended as if it were whole")
    if taken:
        raise Broken("; ".join(taken))


@_of_providers(
    "AP10",
    "timeouts",
    "A server that falls silent is an exception within the timeout that was given.",
    "give the HTTP client a read timeout, and let make(url, timeout), or the call, take it",
)
def _timeouts(bench: ProviderBench) -> None:
    cannot = "" if bench.can_be_told_a_timeout() else "; neither make nor what it makes takes a timeout"
    cases = {
        "did not answer": Reply.no_answer("stall"),
        "fell silent within its answer": Reply.of("Hello-").stall(),
        "fell silent after three chunks": Reply.of(*_PARTS).pace(GAP).stall(after=3),
    }
    made = bench.make(SHORT_TIMEOUT)
    for what, reply in cases.items():
        bench.peer.gives(reply)
        bench.wait_for(f"up on a server that {what}, with a timeout of {SHORT_TIMEOUT:g} s{cannot}")
        stream = bench.ask(of=made, timeout=SHORT_TIMEOUT)
        stream.read()
        if stream.error is None:
            raise Broken(f"a server that {what} was taken for one that had finished: {ending(stream)}")


@_of_providers(
    "AP11",
    "streams at once",
    "Two answers that are read at once, in two threads, do not touch each other.",
    "keep what belongs to an answer (response, decoder, buffers) in the call, not in the instance or the class",
)
def _streams_at_once(bench: ProviderBench) -> None:
    texts = {"alpha": "Л日😀é" * 3, "beta": "é語🎉Л" * 3}

    def answers(request: Request, n: int) -> Reply:
        name = "beta" if b"beta" in request.body else "alpha"
        return Reply.text(texts[name], chunk_size=3).pace(2 * GAP)

    bench.peer.gives_what(answers)
    alone: dict[str, Stream[str]] = {}
    for name in texts:
        bench.wait_for("an answer, alone")
        alone[name] = bench.ask(name)
        alone[name].read()
    both_began = threading.Barrier(2)
    together: dict[str, Stream[str]] = {}

    def read(name: str) -> None:
        stream = together[name] = bench.ask(name)
        stream.read(1)
        with suppress(threading.BrokenBarrierError):
            both_began.wait(bench.patience / 2)
        stream.read()

    bench.wait_for("two answers at once", 2 * bench.patience)
    bench.at_once(*[partial(read, name) for name in texts])
    if both_began.broken:
        raise Broken("no text of the second answer came while the first was open")
    for name, stream in alone.items():
        if together[name].whole != stream.whole:
            raise Broken(f"alone {ending(stream)}, and with another one beside it {ending(together[name])}")


@_of_providers(
    "AP12",
    "nothing left behind",
    "When a provider is closed, or dropped, none of its connections and threads is left.",
    "close sessions and pools in close(), keep no answers in a list, and join the threads that were started",
)
def _nothing_left_behind(bench: ProviderBench) -> None:
    check_left(bench, bench.make, lambda made: bench.ask(of=made))


@_of_providers(
    "AP13",
    "request",
    "The request is a POST of JSON that says so, with the model and the messages as they were given.",
    "send json.dumps({'model': ..., 'messages': messages, ...}) as application/json; change and drop no message, the "
    "system's neither",
)
def _request(bench: ProviderBench) -> None:
    asked = [
        {"role": "user", "content": 'Say "hi" \\ to\n\tЛюба 😀'},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": "Again?\r\n "},
    ]
    messages = [dict(one) for one in asked]
    bench.peer.gives(Reply.of("Hello"))
    bench.wait_for("an answer")
    stream = bench.ask(messages)
    stream.read()
    if not bench.peer.calls:
        raise Broken(f"no request was sent: {ending(stream)}")
    request = bench.peer.calls[-1].request
    body = json_of(request.body)
    content_type = request.headers.get("content-type", "")
    sent = body.get("messages") if isinstance(body, dict) else None
    model = body.get("model") if isinstance(body, dict) else None
    model = model.get("id") if isinstance(model, dict) else model
    if request.method != "POST":
        raise Broken(f"the request was a {request.method}")
    if not isinstance(body, dict):
        raise Broken(f"the body is no JSON object: {one_line(repr(request.body), 80)}")
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise Broken(f"the content-type is {content_type or 'missing'!r}")
    if not isinstance(sent, list) or not _ends_with(sent, asked):
        raise Broken(f"the messages that arrived are {one_line(json.dumps(sent))}")
    if model != bench.model and bench.sends_model:
        raise Broken(f"the model that arrived is {shown(model)}, not {bench.model!r}")
    if messages != asked:
        raise Broken("the caller's own list of messages was changed")
    _check_system_message(bench)


def _check_system_message(bench: ProviderBench) -> None:
    """It arrives, wherever in the body: servers take it as a message, or in a place of its own."""
    bench.peer.gives(Reply.of("Hello"))
    bench.wait_for("an answer to a question with a system message")
    stream = bench.ask(
        [{"role": "system", "content": "answer-in-verse"}, {"role": "user", "content": "ping-one"}]
    )
    stream.read()
    if not bench.peer.calls:
        raise Broken(f"with a system message no request was sent: {ending(stream)}")
    body = bench.peer.calls[-1].request.body
    for what, text in (("system message", b"answer-in-verse"), ("question after it", b"ping-one")):
        if text not in body:
            raise Broken(f"the {what} is nowhere in the body: {one_line(repr(body), 120)}")


def _ends_with(sent: list[Any], asked: list[dict[str, str]]) -> bool:
    """Whether these are the messages, but for a system message before them, and for more members of each."""
    last = sent[-len(asked) :]
    before = sent[: -len(asked)]
    return (
        len(last) == len(asked)
        and all(
            isinstance(one, dict) and one.items() >= wanted.items()
            for one, wanted in zip(last, asked, strict=True)
        )
        and all(isinstance(one, dict) and one.get("role") == "system" for one in before)
    )


@_of_providers(
    "AP14",
    "empty answer",
    "An answer without text ends without text and without an exception.",
    "let the loop over the chunks end by itself; an empty answer is one of the model's",
)
def _empty_answer(bench: ProviderBench) -> None:
    stream = bench.answer(Reply.of(), "the end of an empty answer")
    if stream.error is not None or stream.whole:
        raise Broken(ending(stream))


@_of_providers(
    "AP15",
    "long answer",
    "An answer of 2 MiB in 16,384 chunks is whole, and costs no more for each byte than a short one.",
    "handle each chunk once: decode what is new, and join the pieces at the end, not at each chunk",
)
def _long_answer(bench: ProviderBench) -> None:
    check_long(bench, bench.ask, "." * 128)


@_of_providers(
    "AP16",
    "every character",
    "Every character is kept: BOM, NUL, CR and LF, blanks at either end, and the Unicode line ends.",
    "do not strip, split into lines or normalise; decode as utf-8, not utf-8-sig",
)
def _every_character(bench: ProviderBench) -> None:
    parts = [
        "\ufeffBOM",
        "a\r\nb",
        "c\r",
        "\nd",
        "NUL\x00",
        " blank ",
        "\t",
        "\n",
        "\u2028\x85\u00a0",
        "\ufffd\ufeff",
    ]
    parts += ["\x1b[2J", "e\u0301", "end \n\n"]
    stream = bench.answer(Reply.of(*parts).pace(GAP), "the end of an answer with controls in it")
    check_whole(stream, "".join(parts), "of an answer with controls and blanks,")


@_of_providers(
    "AP17",
    "no text twice",
    "Where an answer breaks and is asked for again, no text is handed out twice.",
    "retry only as long as no text was handed out, or skip what was; else raise",
)
def _no_text_twice(bench: ProviderBench) -> None:
    wanted = "".join(_PARTS)
    whole = Reply.of(*_PARTS)
    broken: list[tuple[str, Reply, float | None]] = []
    for n in (1, 2, 4):
        when = f"after {n} chunk{'' if n == 1 else 's'}"
        broken.append((f"was cut {when}", whole.pace(GAP).cut(after=n), None))
        broken.append((f"was reset {when}", _later(whole.pace(GAP).reset(after=n), n, SETTLING), None))
    for n in (1, 3):  # a pause and no silence, as whether there is a timeout is the matter of another check
        slow = _later(whole, n, _PAUSE)
        broken.append((f"paused for {_PAUSE:g} s after chunk {n}", slow, SHORT_TIMEOUT))
    patient, hasty = bench.make(), bench.make(SHORT_TIMEOUT)
    for how, reply, timeout in broken:
        bench.peer.gives(reply, whole)
        bench.wait_for(f"an exception, or a second try, for an answer that {how}")
        stream = bench.ask(of=patient if timeout is None else hasty, timeout=timeout)
        stream.read()
        if not wanted.startswith(stream.whole):
            count = len(bench.peer.calls)
            raise Broken(
                f"of an answer that {how}, after {count} request{'' if count == 1 else 's'}, the text is "
                f"{one_line(repr(stream.whole), 80)}"
            )


def _later(reply: Reply, n: int, seconds: float) -> Reply:
    """What comes after the first n chunks comes so much later."""
    chunks = [
        replace(chunk, at=chunk.at + seconds * (place >= n)) for place, chunk in enumerate(reply.chunks)
    ]
    return replace(reply, chunks=tuple(chunks), ending=replace(reply.ending, at=reply.ending.at + seconds))


@_of_providers(
    "AP18",
    "few requests",
    f"A question is sent once where it is answered, and at most {MOST_REQUESTS} times where it is not.",
    "bound the retries, and make them the caller's choice: each request may cost money",
)
def _few_requests(bench: ProviderBench) -> None:
    cases = {
        "a good answer": (1, Reply.of("Hello")),
        "a status of 503": (MOST_REQUESTS, Reply.error(503)),
        "no answer": (MOST_REQUESTS, Reply.no_answer("cut")),
        "an answer that is cut": (MOST_REQUESTS, Reply.of("Hello-").cut()),
    }
    for what, (most, reply) in cases.items():
        bench.answer(reply, f"up, where it meets {what} again and again", "ping-one")
        count = len([call for call in bench.peer.calls if b"ping-one" in call.request.body])
        if count > most:
            raise Broken(f"{what} led to {count} requests")


@_of_providers(
    "AP19",
    "foreign exceptions",
    "What is raised into an answer that is being read, such as Ctrl-C or a failing test, comes out of it; Ctrl-C as it is.",
    "catch what the HTTP client raises, not Exception or BaseException, and keep the yield out of the try",
)
def _foreign_exceptions(bench: ProviderBench) -> None:
    for foreign in (AssertionError("a failing test"), KeyboardInterrupt("Ctrl-C")):
        bench.peer.gives(Reply.of("Hello-", "world"))
        name = type(foreign).__name__
        bench.wait_for(f"up, when {name} was raised into it")
        stream = bench.ask()
        stream.read(1)
        throw = getattr(stream.iterator, "throw", None)
        if throw is None or stream.over:
            return
        try:
            piece = throw(foreign)
        except StopIteration:
            raise Broken(f"{name} was swallowed, and the answer ended") from None
        except BaseException as error:  # which of them is the question
            kept = isinstance(foreign, Exception) and any(one is foreign for one in chain(error))
            if error is not foreign and not kept:
                raise Broken(f"{name} became {told(error)}") from None
        else:
            raise Broken(f"{name} was swallowed, and {shown(piece)} came")


@_of_providers(
    "AP20",
    "nobody there",
    "Where no server listens there is an exception, and no text.",
    "let the exception of the HTTP client out",
)
def _nobody_there(bench: ProviderBench) -> None:
    bench.stop_listening()
    bench.wait_for("an exception where no server listens")
    stream = bench.ask()
    stream.read()
    if stream.error is None or stream.whole:
        raise Broken(ending(stream))


@_of_providers(
    "AP21",
    "short body",
    "An answer that is shorter than its content-length is an exception.",
    "compare what came with the content-length: http.client gives b'' and leaves response.length above 0, and raises "
    "nothing",
)
def _short_body(bench: ProviderBench) -> None:
    length = str(len("".join(_PARTS)))
    for n in (1, len(_PARTS) - 1):
        came = "".join(_PARTS[:n])
        reply = Reply.of(*_PARTS, headers={"content-length": length}).pace(GAP).cut(after=n)
        stream = bench.answer(reply, f"an exception for {len(came)} of {length} bytes")
        if stream.error is None:
            raise Broken(f"of {length} bytes {len(came)} came, and {ending(stream)} as if that were all")


@_of_providers(
    "AP22",
    "other threads",
    "An answer that was begun in one thread can be read, and closed, in another.",
    "keep what belongs to an answer in its iterator: neither in threading.local() nor under an RLock that it holds",
)
def _other_threads(bench: ProviderBench) -> None:
    reply = Reply.of(*_PARTS).pace(GAP)

    def begun() -> Stream[str]:
        bench.peer.gives(reply)
        bench.wait_for("the first text of an answer, to go on with in another thread")
        stream = bench.ask()
        stream.read(1)
        return stream

    stream = begun()
    bench.wait_for("the rest of an answer that was begun in another thread", 2 * bench.patience)
    bench.at_once(stream.read)
    check_whole(stream, "".join(_PARTS), "read on in another thread,")
    stream = begun()
    bench.wait_for("an end, when it was closed in another thread", 2 * bench.patience)
    try:
        bench.at_once(stream.close)
    except Exception as error:
        in_its_own = begun()
        try:
            in_its_own.close()
        except Exception:
            return  # it is no matter of threads
        raise Broken(f"closing it in another thread raised {told(error)}") from error


@_of_providers(
    "AP23",
    "redirects",
    "A redirect that leads nowhere is an exception, and no text.",
    "raise where the status is not 200 after redirects: raise_for_status() of requests lets 3xx through",
)
def _redirects(bench: ProviderBench) -> None:
    for status in (300, 301, 302, 303, 307, 308):
        stream = bench.answer(Reply.of("Elsewhere", status=status), f"an exception for a status of {status}")
        if stream.error is None or stream.whole:
            raise Broken(f"{status} without a location: {ending(stream)}")


@_of_providers(
    "AP24",
    "whole answer",
    "Where a provider takes stream, stream=False gives the same text, at once or in pieces.",
    "join the pieces and give the text, or stream all the same",
)
def _whole_answer(bench: ProviderBench) -> None:
    bench.peer.gives(Reply.of(*_PARTS).pace(GAP))
    bench.wait_for("the end of an answer with stream=False")
    stream = bench.ask_for_the_whole()
    if stream is not None:
        stream.read()
        check_whole(stream, "".join(_PARTS), "with stream=False")
