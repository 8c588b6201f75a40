"""Whether what a peer sent is an answer of the model, and if not, what to tell the caller.

A success status with anything but a web page is an answer: the service sends no content-type, and never HTML. All
else becomes a `StatusError` or a `NotAnAnswer`, whose text quotes the peer as one printable line, without the key
that the caller sent. Nothing is decided here about the text of an answer, and nothing is retried.
"""

from __future__ import annotations

import re
from math import isfinite
from time import monotonic, time

from aivvm.errors import AnswerError, NotAnAnswer, StatusError, TransportError
from aivvm.transport import DEFAULT_TIMEOUT, Headers, Response, Timeout

_SNIPPET_BYTES = 16 * 1024  # of the body are looked at: more than any title is into a page
_PAGES = ("text/html", "application/xhtml+xml")
_SHORTEST_KEY = 8  # characters; a shorter one is no secret, and would take words out of messages


def check_answer(response: Response, url: str, timeout: Timeout, key: str = "") -> None:
    """Returns where the response is an answer, its body unread; else reads some of it and raises an `AnswerError`.

    A `key` of 8 characters or more stands as `***` in whatever the error quotes.

    A body that breaks or falls silent while it is read shortens the quotation and changes nothing else. The reading
    stops at the first chunk after the read timeout, however slowly they come; what is left is for `close` to drop.
    """
    if 200 <= response.status < 300:
        for name, value in response.headers:
            name = name.lower()
            if (name == "content-type" and _is_page(value)) or (
                name == "cf-mitigated" and _is_challenge(value)
            ):
                break
        else:
            return
    body, broken = _beginning(response, timeout)
    raise _refusal(response, url, body, key) from broken


def _is_page(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() in _PAGES


def _beginning(response: Response, timeout: Timeout) -> tuple[bytes, TransportError | None]:
    silence = timeout[1] if isinstance(timeout, tuple) else timeout
    deadline = monotonic() + (DEFAULT_TIMEOUT[1] if silence is None else silence)
    body = b""
    try:
        for chunk in response:
            body += chunk[:_SNIPPET_BYTES]
            if len(body) >= _SNIPPET_BYTES or monotonic() >= deadline:
                break
    except TransportError as error:
        return body, error
    return body[:_SNIPPET_BYTES], None


def _refusal(response: Response, url: str, body: bytes, key: str) -> AnswerError:
    from aivvm.terminal import one_line

    status, headers = response.status, response.headers
    reason = _without(key, response.reason)
    text = _without(key, body.decode("utf-8", "replace"))
    page = _is_page(headers.get("content-type", "")) or text.lstrip()[:14].lower().startswith(
        ("<!doctype html", "<html")
    )
    snippet = one_line(_without(key, _page_text(text)) if page else text)
    challenge = _is_challenge(headers.get("cf-mitigated", "")) or (page and _is_challenge_page(headers, text))
    retry_after = _seconds_to_wait(headers)
    said = f"{url} answered {status} {one_line(reason)}".rstrip()
    if page or challenge:
        said += " with a Cloudflare challenge page" if challenge else " with a web page"
    if snippet and snippet != "Error":  # what the service's own errors have for a body: the reason says more
        said += f' ("{snippet}")'
    if challenge:
        said += ", which only lets browsers through: try later, from another network, or another url"
    elif 300 <= status < 400:
        to = one_line(_without(key, headers.get("location", "nowhere")))
        said += f": it redirects to {to}, and redirects are not followed. Is url the server's own address?"
    elif retry_after is not None:
        said += f": try again in {retry_after:g} s"
    elif page or status in (404, 405):
        said += ": is url the address of a Chatbot UI server?"
    elif status == 401:
        said += ": does the server want a key, or a session that logs in?"
    if 200 <= status < 300:
        return NotAnAnswer(said, status=status, snippet=snippet)
    return StatusError(said, status=status, reason=reason, snippet=snippet, retry_after=retry_after)


def _without(key: str, text: str) -> str:
    """The text less the key, also less a part of it that the text breaks off in."""
    if len(key) < _SHORTEST_KEY:
        return text
    text = text.replace(key, "***")
    for length in range(len(key) - 1, _SHORTEST_KEY - 1, -1):
        if text.endswith(key[:length]):
            return text[:-length] + "***"
    return text


def _page_text(page: str) -> str:
    """The title of a web page, else its text without the tags. Linear in the length, whatever the page is made of."""
    from html import unescape

    title = re.search(r"<title[^<>]*>([^<]*)", page, re.IGNORECASE)
    if title and title[1].strip():
        return unescape(title[1])
    seen = re.sub(
        r"<(script|style)\b.*?(?:</\1[^<>]*>|\Z)|<!--.*?(?:-->|\Z)",
        " ",
        page,
        flags=re.IGNORECASE | re.DOTALL,
    )
    return unescape(re.sub(r"<[^<>]*>?", " ", seen))


def _is_challenge(mitigated: str) -> bool:
    """Whether Cloudflare itself says that this is its challenge: its page need not say so, or be one."""
    return mitigated.strip().lower() == "challenge"


def _is_challenge_page(headers: Headers, page: str) -> bool:
    server = headers.get("server", "").lower()
    return (
        ("cloudflare" in server and "just a moment" in page.lower())
        or any(sign in page for sign in ("challenge-platform", "cf-chl", "cf_chl", "cf-browser-verification"))
        or re.search(
            r"<title[^<>]*>\s*(just a moment|attention required! \| cloudflare)", page, re.IGNORECASE
        )
        is not None
    )


def _seconds_to_wait(headers: Headers) -> float | None:
    """What `retry-after` says (RFC 9110, 10.2.3), as seconds from the moment of the answer."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        seconds = float(value)
        return seconds if isfinite(seconds) else None
    then, now = _moment(value), _moment(headers.get("date", ""))
    return None if then is None else max(0.0, then - (time() if now is None else now))


def _moment(date: str) -> float | None:
    from email.utils import mktime_tz, parsedate_tz

    try:
        fields = parsedate_tz(date)
        return None if fields is None else float(mktime_tz(fields))
    except (OverflowError, ValueError):  # the form of a date, with figures that are none
        return None
