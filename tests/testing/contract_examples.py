"""Streaming providers and transports as others write them, over `http.client` alone: correct ones, and each defect once.

Each broken class says in `finds` which checks of `aivvm_testing.contract` must find it, and no other may.
"""

from __future__ import annotations

import codecs
import http.client
import json
import queue
import socket
import threading
import zlib
from contextlib import suppress
from urllib.parse import urlencode, urlsplit

from aivvm import ConnectFailed, Headers, Interrupted, Response, TimedOut


class PlainProvider:
    """A correct provider."""

    finds: frozenset[str] = frozenset()

    def __init__(self, url, timeout=30.0):
        self.address = urlsplit(url).netloc
        self.timeout = timeout

    def create_completion(self, model, messages, stream=True):
        connection = http.client.HTTPConnection(self.address, timeout=self.timeout)
        response = None
        try:
            self.send(connection, model, messages)
            response = connection.getresponse()
            self.check(response)
            yield from self.texts(response)
        finally:
            self.finish(connection, response)

    def send(self, connection, model, messages):
        body = json.dumps({"model": model, "messages": messages})
        connection.request("POST", "/v1/stream", body, {"content-type": "application/json"})

    def check(self, response):
        if response.status != 200:
            raise RuntimeError(f"{response.status} {response.reason}")
        if "html" in response.headers.get("content-type", ""):
            raise RuntimeError("a web page")

    def texts(self, response):
        decoder = self.decoder()
        for data in self.chunks(response):
            if text := decoder.decode(data):
                yield text
        if text := decoder.decode(b"", True):
            yield text

    def decoder(self):
        return codecs.getincrementaldecoder("utf-8")("replace")

    def chunks(self, response):
        while data := response.read1(65536):
            yield data
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)

    def finish(self, connection, response):
        if response is not None:
            response.close()
        connection.close()


def plain_callable(url, timeout):
    """A correct provider again, as a callable."""
    provider = PlainProvider(url, timeout)

    def ask(messages):
        return provider.create_completion("some-model", messages)

    return ask


def defect(*codes):
    def mark(cls):
        cls.finds = frozenset(codes)
        return cls

    return mark


@defect("AP01", "AP02")
class DecodesEachChunk(PlainProvider):
    def texts(self, response):
        for data in self.chunks(response):
            yield data.decode()


@defect("AP01")
class ReplacesAtChunkEnds(PlainProvider):
    def texts(self, response):
        for data in self.chunks(response):
            yield data.decode("utf-8", "replace")


@defect("AP01")
class TakesTextForEscapes(PlainProvider):
    def texts(self, response):
        for data in self.chunks(response):
            try:
                yield data.decode()
            except UnicodeDecodeError:
                yield (
                    data.decode("latin-1").encode("latin-1").replace(b"\\", b"\\\\").decode("unicode-escape")
                )


@defect("AP02")
class IgnoresIllFormedBytes(PlainProvider):
    def decoder(self):
        return codecs.getincrementaldecoder("utf-8")("ignore")


@defect("AP01", "AP02")
class IgnoresWhatEachChunkBreaks(PlainProvider):
    def texts(self, response):
        for data in self.chunks(response):
            yield data.decode("utf-8", "ignore")


@defect("AP03", "AP07", "AP08")
class BuffersEverything(PlainProvider):
    def texts(self, response):
        yield "".join(super().texts(response))


@defect("AP03", "AP07", "AP08")
class ReadsBlocks(PlainProvider):
    def chunks(self, response):
        while data := response.read(64):
            yield data
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)


@defect("AP03")
class IsOneChunkLate(PlainProvider):
    """It hands out the first chunk at once, and keeps each later one back until the next."""

    def texts(self, response):
        kept = None
        try:
            for n, text in enumerate(super().texts(response)):
                if kept is not None:
                    yield kept
                kept = None
                if n:
                    kept = text
                else:
                    yield text
        except (http.client.HTTPException, OSError):
            if kept is not None:
                yield kept
            raise
        if kept is not None:
            yield kept


@defect("AP04", "AP23")
class TakesAnyStatus(PlainProvider):
    def check(self, response):
        if "html" in response.headers.get("content-type", ""):
            raise RuntimeError("a web page")


@defect("AP05")
class TellsNothing(PlainProvider):
    def check(self, response):
        if response.status != 200:
            raise RuntimeError("no answer")
        super().check(response)


@defect("AP06")
class TakesWebPages(PlainProvider):
    def check(self, response):
        if response.status != 200:
            raise RuntimeError(f"{response.status} {response.reason}")


@defect("AP06")
class KnowsOneSpellingOfAWebPage(PlainProvider):
    def check(self, response):
        if response.status != 200:
            raise RuntimeError(f"{response.status} {response.reason}")
        if response.headers.get("content-type") == "text/html; charset=UTF-8":
            raise RuntimeError("a web page")


@defect("AP06")
class KnowsWebPagesInLowerCase(PlainProvider):
    def check(self, response):
        if response.status != 200:
            raise RuntimeError(f"{response.status} {response.reason}")
        if response.headers.get("content-type", "").startswith("text/html"):
            raise RuntimeError("a web page")


@defect("AP07")
class DrainsOnClose(PlainProvider):
    """It hands out all at once, and reads what is left of an answer before it lets go of it."""

    def finish(self, connection, response):
        with suppress(OSError, http.client.HTTPException, AttributeError):
            response.read()
        super().finish(connection, response)


@defect("AP07")
class LeaksOnClose(PlainProvider):
    """It lets go only of answers that it has read to their end; its own end lets go of the others."""

    def __init__(self, url, timeout=30.0):
        super().__init__(url, timeout)
        self.kept = []

    def finish(self, connection, response):
        if response is not None and not response.isclosed():
            self.kept.append((connection, response))
        else:
            connection.close()

    def close(self):
        for connection, response in self.kept:
            response.close()
            connection.close()


@defect("AP07")
class GoesOnWhenClosed(PlainProvider):
    def texts(self, response):
        for text in super().texts(response):
            try:
                yield text
            except GeneratorExit as error:
                raise ValueError("closed too early") from error


@defect("AP08")
class LosesTextBeforeAnError(PlainProvider):
    """It reads ahead in a thread, and raises as soon as that has met an error."""

    def texts(self, response):
        read_ahead: queue.Queue[str | None] = queue.Queue()
        failures = []

        def read():
            try:
                for text in PlainProvider.texts(self, response):
                    read_ahead.put(text)
            except Exception as error:
                failures.append(error)
            read_ahead.put(None)

        thread = threading.Thread(target=read)
        thread.start()
        try:
            yielded = False
            while True:
                if failures and yielded:
                    raise failures[0]
                text = read_ahead.get()
                if text is None:
                    break
                yield text
                yielded = True
            if failures:
                raise failures[0]
        finally:
            with suppress(OSError, AttributeError):
                socket.socket(fileno=socket.dup(response.fp.fileno())).shutdown(socket.SHUT_RDWR)
            thread.join()


@defect("AP09", "AP21")
class SwallowsCuts(PlainProvider):
    def chunks(self, response):
        with suppress(http.client.IncompleteRead, ConnectionError):
            yield from super().chunks(response)


@defect("AP09", "AP10", "AP19", "AP21")
class SwallowsEverything(PlainProvider):
    def texts(self, response):
        try:
            yield from super().texts(response)
        except Exception:
            return


@defect("AP09")
class EndsWellOnceItHasText(PlainProvider):
    """It raises for what breaks early, and takes for whole what breaks after two chunks."""

    def chunks(self, response):
        count = 0
        try:
            for data in super().chunks(response):
                yield data
                count += 1
        except (http.client.IncompleteRead, ConnectionError):
            if count < 2 or not response.chunked:
                raise


@defect("AP10")
class HasNoTimeout(PlainProvider):
    def __init__(self, url, timeout=30.0):
        super().__init__(url, None)


@defect("AP10")
class TakesNoTimeout(PlainProvider):
    def __init__(self, url):
        super().__init__(url, None)


@defect("AP11")
class SharesItsDecoder(PlainProvider):
    shared = codecs.getincrementaldecoder("utf-8")("replace")

    def decoder(self):
        return self.shared


@defect("AP11")
class AnswersOneAtATime(PlainProvider):
    def __init__(self, url, timeout=30.0):
        super().__init__(url, timeout)
        self.lock = threading.Lock()

    def create_completion(self, model, messages, stream=True):
        with self.lock:
            yield from super().create_completion(model, messages, stream)


@defect("AP12")
class KeepsConnections(PlainProvider):
    kept: list[http.client.HTTPConnection] = []  # noqa: RUF012  # the defect

    def finish(self, connection, response):
        if response is not None and response.isclosed():
            self.kept.append(connection)
        else:
            super().finish(connection, response)


@defect("AP13")
class SendsAForm(PlainProvider):
    def send(self, connection, model, messages):
        body = urlencode({"model": model, "messages": json.dumps(messages)})
        connection.request("POST", "/", body, {"content-type": "application/x-www-form-urlencoded"})


@defect("AP13")
class ChangesTheMessages(PlainProvider):
    def send(self, connection, model, messages):
        super().send(connection, model, messages)
        messages.insert(0, {"role": "system", "content": "Be kind."})


@defect("AP13")
class DropsTheSystemMessage(PlainProvider):
    def send(self, connection, model, messages):
        super().send(connection, model, [one for one in messages if one["role"] != "system"])


@defect("AP14")
class TakesAnEmptyAnswerForAnError(PlainProvider):
    def texts(self, response):
        empty = True
        for text in super().texts(response):
            empty = False
            yield text
        if empty:
            raise RuntimeError("no text came")


@defect("AP15")
class DecodesItAllAgain(PlainProvider):
    def texts(self, response):
        came, given = b"", 0
        for data in self.chunks(response):
            came += data
            decoder = self.decoder()
            text = decoder.decode(came)
            if text[given:]:
                yield text[given:]
            given = len(text)
        if text := decoder.decode(b"", True) if came else "":
            yield text


@defect("AP16")
class DropsTheByteOrderMark(PlainProvider):
    def decoder(self):
        return codecs.getincrementaldecoder("utf-8-sig")("replace")


@defect("AP16")
class StripsBlanks(PlainProvider):
    def texts(self, response):
        for text in super().texts(response):
            yield text.strip()


class _Retries(PlainProvider):
    tries = 3
    after = http.client.HTTPException, ConnectionError, RuntimeError

    def create_completion(self, model, messages, stream=True):
        for left in reversed(range(self.tries)):
            gave = 0
            try:
                for text in super().create_completion(model, messages, stream):
                    gave += 1
                    yield text
                return
            except self.after:
                if not left or not self.may_retry(gave):
                    raise

    def may_retry(self, gave):
        return not gave


class RetriesWithCare(_Retries):
    """Correct: it asks again as long as it gave no text."""


@defect("AP17")
class RetriesAndRepeats(_Retries):
    def may_retry(self, gave):
        return True


@defect("AP17")
class RepeatsAfterAReset(RetriesAndRepeats):
    after = (ConnectionResetError,)


@defect("AP17")
class RepeatsAfterATimeout(RetriesAndRepeats):
    after = (TimeoutError,)


@defect("AP17")
class RepeatsWhatIsLong(_Retries):
    """It skips nothing once it has given two pieces."""

    def may_retry(self, gave):
        return gave != 1


@defect("AP18")
class RetriesTooOften(_Retries):
    tries = 9


@defect("AP20")
class ApologisesInTheAnswer(PlainProvider):
    def create_completion(self, model, messages, stream=True):
        try:
            yield from super().create_completion(model, messages, stream)
        except ConnectionRefusedError:
            yield "Sorry, the service is not available."


@defect("AP19")
class TakesCtrlCForAFailure(PlainProvider):
    def create_completion(self, model, messages, stream=True):
        try:
            yield from super().create_completion(model, messages, stream)
        except KeyboardInterrupt:
            raise RuntimeError("it failed") from None


@defect("AP21")
class MindsNoLength(PlainProvider):
    """The loop that one writes first: correct but for this, as `read1` raises nothing where a length is not reached."""

    def chunks(self, response):
        while data := response.read1(65536):
            yield data


@defect("AP22")
class KeepsItsDecoderInTheThread(PlainProvider):
    def texts(self, response):
        kept = threading.local()
        kept.decoder = self.decoder()
        for data in self.chunks(response):
            if text := kept.decoder.decode(data):
                yield text
        if text := kept.decoder.decode(b"", True):
            yield text


@defect("AP22")
class ClosesInItsThreadAlone(PlainProvider):
    def texts(self, response):
        thread = threading.get_ident()
        try:
            yield from super().texts(response)
        except GeneratorExit:
            if threading.get_ident() != thread:
                raise RuntimeError("not the thread that began it") from None
            raise


@defect("AP23")
class TakesRedirectsForAnswers(PlainProvider):
    def check(self, response):
        if response.status >= 400:
            raise RuntimeError(f"{response.status} {response.reason}")
        if "html" in response.headers.get("content-type", ""):
            raise RuntimeError("a web page")


@defect("AP24")
class OnlyStreams(PlainProvider):
    def create_completion(self, model, messages, stream=True):
        if not stream:
            raise NotImplementedError("stream=False")
        return super().create_completion(model, messages)


class GivesTheWhole(PlainProvider):
    """Correct: what is not streamed is text."""

    def create_completion(self, model, messages, stream=True):
        texts = super().create_completion(model, messages)
        return texts if stream else "".join(texts)


# Transports


class PlainTransport:
    """A correct transport."""

    finds: frozenset[str] = frozenset()

    def send(self, request, *, timeout):
        connect, read = timeout if isinstance(timeout, tuple) else (timeout, timeout)
        parts = urlsplit(request.url)
        connection = http.client.HTTPConnection(parts.netloc, timeout=connect)
        try:
            self.connect(connection)
            connection.sock.settimeout(read)
            response = self.exchange(connection, request, parts)
        except Exception as error:
            connection.close()
            raise self.failure(error) from error

        def close():
            self.release(connection, response)

        return Response(response.status, response.reason, self.fields(response), self.body(response), close)

    def connect(self, connection):
        try:
            connection.connect()
        except OSError as error:
            raise ConnectFailed("no connection", kind="refused") from error

    def exchange(self, connection, request, parts):
        target = parts.path + ("?" + parts.query if parts.query else "")
        connection.putrequest(request.method, target, skip_accept_encoding=True)
        for name, value in request.headers:
            if name.lower() != "content-length":
                connection.putheader(name, value)
        connection.putheader("content-length", str(len(request.body)))
        connection.endheaders(request.body)
        return connection.getresponse()

    def fields(self, response):
        return Headers(response.msg.items())

    def body(self, response):
        try:
            yield from self.decoded(response)
        except Exception as error:
            raise self.failure(error) from error

    def decoded(self, response):
        chunks = self.chunks(response)
        if response.headers.get("content-encoding") == "gzip":
            decoder = zlib.decompressobj(31)
            for data in chunks:
                if plain := decoder.decompress(data):
                    yield plain
        else:
            yield from chunks

    def chunks(self, response):
        while data := response.read1(65536):
            yield data
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)

    def release(self, connection, response):
        response.close()
        connection.close()

    def failure(self, error):
        if isinstance(error, (ConnectFailed, Interrupted)):
            return error
        if isinstance(error, TimeoutError):
            return TimedOut("silence")
        if isinstance(error, ConnectionResetError) and not isinstance(error, http.client.RemoteDisconnected):
            return Interrupted("reset", kind="reset")
        return Interrupted(str(error))


@defect("AT01")
class DropsTheQuery(PlainTransport):
    def exchange(self, connection, request, parts):
        return super().exchange(connection, request, parts._replace(query=""))


@defect("AT02")
class MergesFields(PlainTransport):
    def fields(self, response):
        return Headers(dict(response.msg.items()))


@defect("AT03")
class ReadsLines(PlainTransport):
    def chunks(self, response):
        for data in super().chunks(response):
            yield data.replace(b"\r\n", b"\n")


@defect("AT04", "AT05", "AT12", "AT13")
class ReadsAllInSend(PlainTransport):
    def body(self, response):
        return iter([b"".join(super().body(response))])


@defect("AT04", "AT12", "AT13")
class ReadsBlocksOfBytes(PlainTransport):
    def chunks(self, response):
        while True:
            try:
                data = response.read(4096)
            except http.client.IncompleteRead as error:
                if error.partial:
                    yield error.partial
                raise
            if not data:
                break
            yield data
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)


@defect("AT06")
class RaisesForStatus(PlainTransport):
    def exchange(self, connection, request, parts):
        response = super().exchange(connection, request, parts)
        if response.status >= 400:
            raise http.client.HTTPException(str(response.status))
        return response


@defect("AT07")
class FollowsRedirects(PlainTransport):
    def exchange(self, connection, request, parts):
        response = super().exchange(connection, request, parts)
        if 300 <= response.status < 400:
            response.read()
            return super().exchange(connection, request, parts._replace(path=response.headers["location"]))
        return response


@defect("AT08")
class AsksAgain(PlainTransport):
    def exchange(self, connection, request, parts):
        response = super().exchange(connection, request, parts)
        if response.status == 503:
            response.read()
            return super().exchange(connection, request, parts)
        return response


@defect("AT09", "AT19")
class TakesAPartForTheWhole(PlainTransport):
    def chunks(self, response):
        with suppress(http.client.IncompleteRead):
            yield from super().chunks(response)


@defect("AT09", "AT10", "AT11", "AT19")
class LetsForeignErrorsOut(PlainTransport):
    def connect(self, connection):
        connection.connect()

    def failure(self, error):
        return error


@defect("AT10")
class ForgetsTheTimeout(PlainTransport):
    def send(self, request, *, timeout):
        return super().send(request, timeout=None)


@defect("AT13")
class KeepsClosedAnswers(PlainTransport):
    def __init__(self):
        self.kept = []

    def release(self, connection, response):
        self.kept.append((connection, response))

    def close(self):
        for connection, response in self.kept:
            super().release(connection, response)


@defect("AT14")
class HasOneResponse(PlainTransport):
    def exchange(self, connection, request, parts):
        self.response = super().exchange(connection, request, parts)
        return self.response

    def chunks(self, response):
        while data := self.response.read1(65536):
            yield data
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)


@defect("AT15")
class LeavesAThread(PlainTransport):
    over = threading.Event()

    def __init__(self):
        self.watcher = threading.Thread(target=self.over.wait, daemon=True)
        self.watcher.start()


@defect("AT16")
class LeavesTheCoding(PlainTransport):
    def decoded(self, response):
        return self.chunks(response)


@defect("AT17")
class WantsABody(PlainTransport):
    def body(self, response):
        empty = True
        for data in super().body(response):
            empty = False
            yield data
        if empty:
            raise Interrupted("no body")


@defect("AT18")
class JoinsWhatCame(PlainTransport):
    def decoded(self, response):
        came = b""
        for data in super().decoded(response):
            came = bytes(bytearray(came) + data)
            yield data


PROVIDERS = [
    DecodesEachChunk,
    ReplacesAtChunkEnds,
    TakesTextForEscapes,
    IgnoresIllFormedBytes,
    IgnoresWhatEachChunkBreaks,
    BuffersEverything,
    ReadsBlocks,
    IsOneChunkLate,
    TakesAnyStatus,
    TellsNothing,
    TakesWebPages,
    KnowsOneSpellingOfAWebPage,
    KnowsWebPagesInLowerCase,
    DrainsOnClose,
    LeaksOnClose,
    GoesOnWhenClosed,
    LosesTextBeforeAnError,
    SwallowsCuts,
    EndsWellOnceItHasText,
    SwallowsEverything,
    HasNoTimeout,
    TakesNoTimeout,
    SharesItsDecoder,
    AnswersOneAtATime,
    KeepsConnections,
    SendsAForm,
    ChangesTheMessages,
    DropsTheSystemMessage,
    TakesAnEmptyAnswerForAnError,
    DecodesItAllAgain,
    DropsTheByteOrderMark,
    StripsBlanks,
    RetriesAndRepeats,
    RepeatsAfterAReset,
    RepeatsAfterATimeout,
    RepeatsWhatIsLong,
    RetriesTooOften,
    ApologisesInTheAnswer,
    TakesCtrlCForAFailure,
    MindsNoLength,
    KeepsItsDecoderInTheThread,
    ClosesInItsThreadAlone,
    TakesRedirectsForAnswers,
    OnlyStreams,
]
TRANSPORTS = [
    DropsTheQuery,
    MergesFields,
    ReadsLines,
    ReadsAllInSend,
    ReadsBlocksOfBytes,
    RaisesForStatus,
    FollowsRedirects,
    AsksAgain,
    TakesAPartForTheWhole,
    LetsForeignErrorsOut,
    ForgetsTheTimeout,
    KeepsClosedAnswers,
    HasOneResponse,
    LeavesAThread,
    LeavesTheCoding,
    WantsABody,
    JoinsWhatCame,
]
