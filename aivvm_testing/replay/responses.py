"""Door 3: a fake within `responses`, for suites that mock with it already.

`responses` finds the answer, counts the calls and gives them to its users; what it is given here is an answer that
comes over the network in memory, so that chunk boundaries, times and errors in mid-stream are kept. It joins the body
of its own answers into one piece.

What `responses` does in place of urllib3 stays so: it repeats by the status of an answer, never after a failure to
connect, and sees a request that the code under test has prepared, not what would be sent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

try:
    from responses import BaseResponse, RequestsMock
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "this door needs responses, which the extra brings: pip install 'aivvm[testing]'", name=error.name
    ) from error

from aivvm_testing.clock import Clock
from aivvm_testing.fake import FakeAivvm
from aivvm_testing.replay.adapter import FakeAdapter, named, names_of
from aivvm_testing.reply import Reply

if TYPE_CHECKING:
    from requests import PreparedRequest
    from urllib3 import HTTPResponse


def mocked(
    fake: FakeAivvm, hosts: Iterable[str], *, assert_all_requests_are_fired: bool = True
) -> RequestsMock:
    """A `RequestsMock` in which the fake answers for these hosts what nothing else in it answers.

    Leaving it, or stopping it, raises the first `SetupFailure` that a request to the fake met, in case the code under
    test swallowed it; not where an exception is on its way already. `assert_all_requests_are_fired` asks whether the
    fake was asked at all; whether all that it has was played is the fake's own assertion, as for any door.
    """
    mock = _MockWithFake(assert_all_requests_are_fired=assert_all_requests_are_fired)
    mock.answers = FakeResponse(fake, hosts, mock)
    mock.add(mock.answers)
    return mock


class _Unbuilt(FakeAdapter):
    """Gives urllib3's answer as it is: `responses` has the user's own adapter make one for `requests` of it."""

    def build_response(self, req: PreparedRequest, resp: Any) -> Any:
        return resp


class _Played(BaseResponse):
    """An answer that comes over the network in memory."""

    def __init__(self, fake: FakeAivvm, method: str, url: Any, match: Iterable[Any] = ()) -> None:
        super().__init__(method, url, match=match)
        self.adapter = _Unbuilt(fake)

    def get_response(self, request: PreparedRequest) -> HTTPResponse:
        options = getattr(request, "req_kwargs", {})
        answer = self.adapter.send(request, stream=True, timeout=options.get("timeout"))
        return cast("HTTPResponse", answer)


class FakeResponse(_Played):
    """The fake as an answer of `responses`: to any method and url of its hosts that `mock` has no other answer for."""

    def __init__(self, fake: FakeAivvm, hosts: Iterable[str], mock: RequestsMock) -> None:
        self._hosts = named(hosts)
        self._mock = mock
        # For people to read, where it was not asked.
        names = "|".join(["[^/]+" if name == "*" else re.escape(name) for name in self._hosts.values()])
        super().__init__(fake, "ANY", re.compile(f"https?://({names})/"))

    def matches(self, request: PreparedRequest) -> tuple[bool, str]:
        if not any(name in self._hosts for name in names_of(request.url or "")):
            return False, "the fake does not answer for this host"
        # Of two that match, `responses` would drop the first.
        for other in self._mock.registered():
            if not isinstance(other, FakeResponse) and other.matches(request)[0]:
                return False, "another response matches"
        return True, ""


class ReplyResponse(_Played):
    """A `Reply` as an answer of `responses`, for `rsps.add(ReplyResponse("POST", url, reply))`.

    Of several for one url each is given once, in order, and the last again and again, as `responses` has it. `clock`
    is what its times are waited for with: virtual unless told otherwise. `match` takes matchers of `responses`.

    `fake` is the fake that gives it, whose journal tells what became of each answer: `response.fake.calls[0].closed`.
    """

    def __init__(
        self,
        method: str,
        url: str | re.Pattern[str],
        reply: Reply,
        *,
        clock: Clock | None = None,
        match: Iterable[Callable[..., tuple[bool, str]]] = (),
    ) -> None:
        self.fake = FakeAivvm(clock=clock)
        self.fake.on(_any_request).reply(reply, forever=True)
        super().__init__(self.fake, method, url, match)
        self._another = partial(ReplyResponse, method, url, reply, clock=clock, match=match)
        self.reply = reply

    def __deepcopy__(self, memo: object) -> ReplyResponse:
        return self._another()  # `responses` copies what is added twice

    def __repr__(self) -> str:
        return f"<ReplyResponse({self.method} {self.url} -> {self.reply!r})>"


def _any_request(request: object) -> bool:
    return True


class _MockWithFake(RequestsMock):
    answers: FakeResponse

    def stop(self, allow_assert: bool = True) -> None:
        network = self.answers.adapter.network
        failure, network.failure = network.failure, None
        self.answers.adapter.close()
        try:
            super().stop(allow_assert)
        except AssertionError:
            if failure is None:  # which would be why not all was asked
                raise
        if failure is not None and allow_assert:
            raise failure

    def __exit__(self, kind: Any, value: Any, traceback: Any) -> None:
        if kind is not None:
            self.answers.adapter.network.failure = None
        super().__exit__(kind, value, traceback)
