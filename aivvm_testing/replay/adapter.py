"""Door 2: a fake for `requests`, for one Session or for every Session of the process, over a network in memory.

It owns which request goes to which fake; the way there and back is `requests`', urllib3's and `http.client`'s own
code, so that chunk sizes, timeouts, retries, redirects, cookies and hooks are as over a socket.

Other tools replace `HTTPAdapter.send`, `responses` for one, and so does the interception. Neither door depends on what
that attribute is at the moment: they run a `send` of their own, from a private copy of the module `requests.adapters`.
"""

from __future__ import annotations

import importlib.util
import threading
import warnings
from collections.abc import Callable, Iterable
from functools import lru_cache
from types import MethodType
from typing import TYPE_CHECKING, Any, TypeAlias, cast
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from requests.adapters import HTTPAdapter

from aivvm.transport import Request
from aivvm_testing.errors import SetupFailure, UnmatchedRequest
from aivvm_testing.matching import describe
from aivvm_testing.replay.memory import Network, Pools

if TYPE_CHECKING:
    from requests import PreparedRequest, Response
    from urllib3 import HTTPConnectionPool
    from urllib3.util import Retry

    from aivvm_testing.fake import FakeAivvm


def _pristine_send() -> Callable[..., Response]:
    """`HTTPAdapter.send` as `requests` has it, whoever has replaced it where others can see it."""
    spec = importlib.util.find_spec("requests.adapters")
    assert spec is not None
    assert spec.loader is not None
    private = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has said already what it misses, such as SOCKS
        spec.loader.exec_module(private)
    send: Callable[..., Response] = private.HTTPAdapter.send
    return send


_send = _pristine_send()


class FakeAdapter(HTTPAdapter):
    """An adapter whose every peer is the fake; closed with the session that it is mounted on.

    `max_retries`: a `urllib3.Retry` or a number of attempts to connect again, as for any adapter. Proxies are ignored.
    Raises what `requests` raises, and the `SetupFailure`s of the fake. May be shared between threads and sessions.
    """

    def __init__(self, fake: FakeAivvm, *, max_retries: Retry | int = 0) -> None:
        self.network = Network(fake)
        self._memory = Pools(self.network)
        super().__init__(max_retries=max_retries)

    def get_connection_with_tls_context(
        self, request: PreparedRequest, *_: Any, **__: Any
    ) -> HTTPConnectionPool:
        return self._memory.to(request.url or "")

    def cert_verify(self, *_: Any) -> None:
        """There is no certificate."""

    def request_url(self, request: PreparedRequest, proxies: Any) -> str:
        """There is no proxy."""
        path = request.path_url
        return super().request_url(request, None) if path.startswith("//") else path

    send = _send

    def close(self) -> None:
        self._memory.close()
        super().close()


class _Diverted:
    """Somebody's adapter, but for where its connections lead."""

    __slots__ = ("_adapter", "_memory")

    def __init__(self, adapter: HTTPAdapter, memory: Pools) -> None:
        self._adapter = adapter
        self._memory = memory

    def get_connection_with_tls_context(
        self, request: PreparedRequest, *_: Any, **__: Any
    ) -> HTTPConnectionPool:
        return self._memory.to(request.url or "")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)


Host: TypeAlias = "tuple[str, int | None]"
"""A name in lower case, or `*`, and a port where only that one is meant."""


def named(hosts: Iterable[str], what: str = "hosts") -> dict[Host, str]:
    """These hosts, each `name`, `name:port` or `*`, with what they were called.

    Raises `TypeError` for one string in place of several, and `ValueError` for what is no host.
    """
    if isinstance(hosts, str):
        raise TypeError(f"{what} takes several hosts, such as ({hosts!r},), but got {hosts!r}")
    return {_host(name, what): name for name in hosts}


@lru_cache(maxsize=256)
def _host(name: str, what: str) -> Host:
    if name == "*":
        return name, None
    try:
        address = name if name.count(":") < 2 or name.startswith("[") else f"[{name}]"
        parts = urlsplit(f"//{address}")
        host, port = _bare(parts.hostname), parts.port
        if not host or parts.netloc != address:
            raise ValueError("no name, or more than a name and a port")
    except ValueError as error:
        raise ValueError(
            f"{what} takes hosts as name, name:port or *, such as 'chat.aivvm.com', but got {name!r}"
        ) from error
    return host, port


def _bare(host: str | None) -> str:
    host = (host or "").rstrip(".")
    return host if host.isascii() else host.encode("idna").decode()


def names_of(url: str) -> tuple[Host, Host, Host]:
    """What the host of a url may be called, the narrowest name first."""
    parts = urlsplit(url)
    host = _bare(parts.hostname)
    return (host, parts.port or (443 if parts.scheme == "https" else 80)), (host, None), ("*", None)


_patched: Any = HTTPAdapter  # for type checkers, who do not like what is done to its `send`
_lock = threading.Lock()  # for `_patched.send`, and for what follows
_active: tuple[Interception, ...] = ()  # in the order of entering


class Interception:
    """While it is entered, the fake answers for its hosts whatever `requests` asks with an `HTTPAdapter`.

    The adapter stays the user's own, with its retries and whatever it overrides; only its connections lead to the fake.
    Hosts that are named in `allow` go where they went before; all others are an `UnmatchedRequest`, raised to the code
    that asks and kept by the fake. The narrowest name counts: `*` in one and a name in the other is no contradiction.

    Several may be entered at once, in any order and from any thread, and left likewise. A host is answered by the
    newest that answers for it, by those that its own thread has entered before those of others; it is allowed if one of
    them allows it. Leaving without an exception raises the first `SetupFailure` that a request met, else, where
    `must_be_asked` and none came, one that says so. It may be entered again then; `RuntimeError` before that.
    """

    def __init__(
        self, fake: FakeAivvm, hosts: Iterable[str], *, allow: Iterable[str] = (), must_be_asked: bool = True
    ) -> None:
        self._hosts = named(hosts)
        self._allowed = named(allow, "allow")
        if not self._hosts:
            raise ValueError("hosts names those that the fake answers for, '*' for all, but got none")
        if both := [self._hosts[host] for host in self._hosts if host in self._allowed]:
            raise ValueError(
                f"a host is answered or allowed, not both, but got {both[0]!r} in hosts and in allow"
            )
        self._fake = fake
        self._must_be_asked = must_be_asked

    def __enter__(self) -> FakeAivvm:
        global _active
        with _lock:
            if self in _active:
                raise RuntimeError(
                    "this interception is entered already: leave it first, or make another one"
                )
            self.network = Network(self._fake)
            self.thread = threading.get_ident()
            self._clients: WeakKeyDictionary[HTTPAdapter, Pools] = WeakKeyDictionary()
            self._clients_lock = threading.Lock()
            self._asked = False
            self._patch = _Patch.on_top()
            self._patch.users += 1
            _active = (*_active, self)
        return self._fake

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        global _active
        with _lock:
            _active = tuple([one for one in _active if one is not self])
            self._patch.users -= 1
            _Patch.clear_top()
        with self._clients_lock:
            clients = list(self._clients.values())
        for client in clients:
            client.close()
        if kind is not None:
            return
        if self.network.failure is not None:
            raise self.network.failure
        if self._must_be_asked and not self._asked:
            raise SetupFailure(self._nothing_came())

    def means(self, names: Iterable[Host]) -> bool | None:
        """Whether a host that may be called so is answered (True), allowed (False) or neither."""
        for name in names:
            if name in self._hosts:
                return True
            if name in self._allowed:
                return False
        return None

    def divert(self, adapter: HTTPAdapter) -> _Diverted:
        """The adapter, with connections that lead to the fake."""
        self._asked = True
        with self._clients_lock:
            memory = self._clients.get(adapter)
            if memory is None:
                maxsize, block = getattr(adapter, "_pool_maxsize", 10), getattr(adapter, "_pool_block", False)
                memory = self._clients[adapter] = Pools(self.network, maxsize=maxsize, block=block)
        return _Diverted(adapter, memory)

    def _nothing_came(self) -> str:
        return (
            f"requests was intercepted for {_listed(self._hosts)}, but no request came.\nWhat may be wrong: "
            "1. the code under test did not ask, or asked another host that is allowed;"
            "\n                   2. it asks without requests, or in another process: give it fake.server();"
            "\n                   3. its Session has an adapter that is no HTTPAdapter, or something that was"
            "\n                      entered later, such as a RequestsMock, answered in the fake's place;"
            "\n                   4. it need not ask: say must_be_asked=False."
        )


def _listed(*hosts: dict[Host, str]) -> str:
    return ", ".join(dict.fromkeys([name for some in hosts for name in some.values()])) or "none"


def _answering(method: str, url: str) -> Interception | None:
    """Whose request it is, None where it may go on; raises `UnmatchedRequest` where it may not."""
    active = list(_active[::-1])
    if not active:
        return None
    if len(active) > 1:
        here = threading.get_ident()
        active.sort(key=lambda one: one.thread != here)
    names = names_of(url)
    meant = [(one.means(names), one) for one in active]
    for answered, one in meant:
        if answered:
            return one
    if any(answered is False for answered, _ in meant):
        return None
    raise _blocked(method, url, active)


def _blocked(method: str, url: str, active: list[Interception]) -> UnmatchedRequest:
    newest = active[0]
    host = names_of(url)[1][0]
    hosts = ", ".join([repr(name) for name in (*newest._hosts.values(), host)])
    error = UnmatchedRequest(
        f"no reply for {describe(Request(method, url))}\n"
        f"requests is intercepted, and {host} is not among its hosts."
        f"\n  answered: {_listed(*[one._hosts for one in active])}"
        f"\n  allowed: {_listed(*[one._allowed for one in active])}"
        f"\nTo fix it: 1. let the fake answer: fake.intercepting_requests({hosts});"
        f"\n           2. let it go where it wants: fake.intercepting_requests(..., allow=[{host!r}]);"
        "\n           3. keep the code under test from asking it."
    )
    newest.network.failed(error)
    return error


class _Patch:
    """`HTTPAdapter.send` while requests are intercepted. It may outlive that, under what others put on top of it."""

    def __init__(self, previous: Any) -> None:
        self.previous = previous  # as it stood there: a function, as a rule
        self.users = 0

    def __get__(self, adapter: HTTPAdapter | None, owner: type) -> Callable[..., Response]:
        return self if adapter is None else MethodType(self, adapter)

    def __call__(self, adapter: HTTPAdapter, request: PreparedRequest, *args: Any, **kwargs: Any) -> Response:
        interception = _answering(request.method or "", request.url or "")
        if interception is None:
            send = self.previous
            bound = send.__get__(adapter, type(adapter)) if hasattr(send, "__get__") else send
            return cast("Response", bound(request, *args, **kwargs))
        return _send(interception.divert(adapter), request, *args, **kwargs)

    @classmethod
    def on_top(cls) -> _Patch:
        """The one in place, which is made where there is none, or something else on top of it."""
        top = vars(HTTPAdapter)["send"]
        if not isinstance(top, cls):
            top = _patched.send = cls(top)
        return top

    @classmethod
    def clear_top(cls) -> None:
        """Takes away those that nobody uses, as far as nothing else is on top of them."""
        while isinstance(top := vars(HTTPAdapter)["send"], cls) and not top.users:
            _patched.send = top.previous
