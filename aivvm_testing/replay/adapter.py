"""Door 2: a fake for `requests`, for one Session or for every Session of the process, over a network in memory.

It owns which request goes to which fake; the way there and back is `requests`', urllib3's and `http.client`'s own
code, so that chunk sizes, timeouts, retries, redirects, cookies and hooks are as over a socket.

Other tools replace `HTTPAdapter.send`, and so does the interception. What was there before is called on, as it may add a
timeout or a trace; but `responses` and mocks would answer in the fake's place. There, and for an adapter of the fake, a
`send` is run that nobody has replaced: that of a private copy of the module `requests.adapters`.
"""

from __future__ import annotations

import functools
import importlib.util
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from functools import lru_cache
from types import FunctionType
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from requests.adapters import HTTPAdapter

from aivvm.transport import Request
from aivvm_testing.errors import SetupFailure, UnmatchedRequest
from aivvm_testing.matching import describe
from aivvm_testing.replay.memory import HTTPConnectionPool, HTTPSConnectionPool, Network, Pools

if TYPE_CHECKING:
    import urllib3
    from requests import PreparedRequest, Response
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
    Raises what `requests` raises, and the `SetupFailure`s of the fake. May be shared between threads and sessions. A copy
    has connections of its own to the same fake; it cannot be pickled.
    """

    def __init__(self, fake: FakeAivvm, *, max_retries: Retry | int = 0) -> None:
        self._fake = fake
        self.network = Network(fake)
        self._memory = Pools(self.network)
        super().__init__(max_retries=max_retries)

    def get_connection_with_tls_context(
        self, request: PreparedRequest, *_: Any, **__: Any
    ) -> urllib3.HTTPConnectionPool:
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

    def __copy__(self) -> FakeAdapter:
        copied = object.__new__(type(self))
        vars(copied).update(vars(self))
        copied.network = Network(self._fake)
        copied._memory = Pools(copied.network)
        return copied

    def __deepcopy__(self, memo: object) -> FakeAdapter:
        return self.__copy__()

    def __getstate__(self) -> NoReturn:
        raise TypeError(
            "an adapter of a fake cannot be pickled, as its fake cannot: mount another one where the session is"
            " unpickled, or give fake.server() to another process"
        )


Host: TypeAlias = "tuple[str, int | None]"
"""A name in lower case, `*.name` for those below it, or `*`; and a port where only that one is meant."""


def named(hosts: Iterable[str], what: str = "hosts") -> dict[Host, str]:
    """These hosts, each `name`, `*.name` or `*`, with or without a `:port`, and what they were called.

    Raises `TypeError` for one string in place of several, and `ValueError` for what is no host.
    """
    if isinstance(hosts, str):
        raise TypeError(f"{what} takes several hosts, such as ({hosts!r},), but got {hosts!r}")
    return {_host(name, what): name for name in hosts}


@lru_cache(maxsize=256)
def _host(name: str, what: str) -> Host:
    try:
        address = name if name.count(":") < 2 or name.startswith("[") else f"[{name}]"
        parts = urlsplit(f"//{address}")
        host, port = _bare(parts.hostname), parts.port
        if not host or parts.netloc != address:
            raise ValueError("no name, or more than a name and a port")
        if "*" in host.removeprefix("*.") and host != "*":
            raise ValueError("a star stands for whole names")
    except ValueError as error:
        raise ValueError(
            f"{what} takes hosts as name, name:port, *.name or *, such as 'chat.aivvm.com', but got {name!r}"
        ) from error
    return host, port


def _bare(host: str | None) -> str:
    host = (host or "").rstrip(".")
    return host if host.isascii() else host.encode("idna").decode()


@lru_cache(maxsize=256)
def names_of(url: str) -> tuple[Host, ...]:
    """What the host of a url may be called, the narrowest name first."""
    parts = urlsplit(url)
    host = _bare(parts.hostname)
    labels = host.split(".")
    names = [host, *["*." + ".".join(labels[begin:]) for begin in range(1, len(labels))], "*"]
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return tuple([(name, only) for name in names for only in (port, None)])


_MOST_REMEMBERED = 256

_lock = threading.Lock()  # for the methods of adapter classes, and for what follows
_active: tuple[Interception, ...] = ()  # in the order of entering
_entered: ContextVar[tuple[Interception, ...]] = ContextVar("entered", default=())  # by this thread or task
_spare: dict[str, _Patch] = {}  # the latest for each method: mostly it is what is needed next


class Interception:
    """While it is entered, the fake answers for its hosts whatever `requests` asks with an `HTTPAdapter`.

    The adapter stays the user's own, with its retries and whatever it overrides; only its connections lead to the fake,
    also those of a request that a `RequestsMock` lets through. Hosts that are named in `allow` go where they went before;
    all others are an `UnmatchedRequest`, raised to the code that asks and kept by the fake. The narrowest name counts:
    `*` in one and a name in the other is no contradiction.

    Several may be entered at once, in any order and from any thread, and left likewise. A host is answered by the
    newest that answers for it, by those that the thread or the asyncio task itself has entered before those of others (a
    thread that was started within one is another thread); it is allowed if one of them allows it. What others put on top
    of an `HTTPAdapter`'s methods, and leave there, keeps ours in place: they do nothing but call on, and go when one is
    entered or left after the others have gone.

    Leaving without an exception raises the first `SetupFailure` that a request met, else, where `must_be_asked` and none
    came, one that says so. It may be entered again then; `RuntimeError` before that.
    """

    def __init__(
        self, fake: FakeAivvm, hosts: Iterable[str], *, allow: Iterable[str] = (), must_be_asked: bool = True
    ) -> None:
        self._hosts = named(hosts)
        self._allowed = named(allow, "allow")
        self._meant: dict[str, bool | None] = {}
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
            _entered.set((*_entered.get(), self))
            self._clients: WeakKeyDictionary[HTTPAdapter, Pools] = WeakKeyDictionary()
            self._clients_lock = threading.Lock()
            self._asked = False
            self._patches: dict[tuple[type, str], _Patch] = {}
            for name in (_SEND, _CONNECT):
                self._patches[HTTPAdapter, name] = _Patch.on_top(HTTPAdapter, name)
            _active = (*_active, self)
        return self._fake

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        global _active
        with _lock:
            _active = tuple([one for one in _active if one is not self])
            _entered.set(tuple([one for one in _entered.get() if one is not self]))
            for (owner, name), patch in self._patches.items():
                patch.users -= 1
                _Patch.clear_top(owner, name)
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

    def means(self, url: str) -> bool | None:
        """Whether the host of this url is answered (True), allowed (False) or neither."""
        if url in self._meant:  # mostly it is one that was asked before
            return self._meant[url]
        names = names_of(url)
        meant = next(
            (name in self._hosts for name in names if name in self._hosts or name in self._allowed), None
        )
        if len(self._meant) < _MOST_REMEMBERED:
            self._meant[url] = meant
        return meant

    def leads(self, adapter: HTTPAdapter) -> None:
        """Sees to it that `connection` is asked where the adapter's class has another way to its connections."""
        kind = type(adapter)
        if kind.get_connection_with_tls_context is HTTPAdapter.get_connection_with_tls_context:
            return
        owner = next(one for one in kind.__mro__ if _CONNECT in vars(one))
        with _lock:
            if self in _active and (owner, _CONNECT) not in self._patches:
                self._patches[owner, _CONNECT] = _Patch.on_top(owner, _CONNECT)

    def connection(
        self, adapter: HTTPAdapter, request: PreparedRequest, onward: Callable[[], Any]
    ) -> urllib3.HTTPConnectionPool:
        """The connections that this request takes: the adapter's own to the fake. `onward` gives those to its host."""
        self._asked = True
        with self._clients_lock:
            memory = self._clients.get(adapter)
            if memory is None:
                maxsize, block = getattr(adapter, "_pool_maxsize", 10), getattr(adapter, "_pool_block", False)
                memory = self._clients[adapter] = Pools(self.network, maxsize=maxsize, block=block)
        return memory.to(request.url or "")

    def gave(self, pool: object) -> bool:
        """Whether `connection` gave this."""
        return isinstance(pool, (HTTPConnectionPool, HTTPSConnectionPool))

    def answers(self, request: PreparedRequest) -> bool:
        """Whether it has an answer of its own, which nobody else must give in its place."""
        return True

    called = "fake.intercepting_requests"
    """What it is made by, for errors."""

    def with_hosts(self, hosts: Sequence[str]) -> str:
        """The call that makes it answer for these."""
        return f"{self.called}({', '.join(map(repr, hosts))})"

    def _nothing_came(self) -> str:
        return (
            f"requests was intercepted for {_listed(self._hosts)}, but no request came.\nWhat may be wrong: "
            "1. the code under test did not ask, or asked another host that is allowed;"
            "\n                   2. it asks without requests, or in another process: those need a server, such as"
            "\n                      fake.server(), or a RecordingProxy where they are recorded;"
            "\n                   3. its Session has an adapter that is no HTTPAdapter, or something that was"
            "\n                      entered later, such as a RequestsMock, answered in the fake's place;"
            "\n                   4. it need not ask: say must_be_asked=False."
        )


def _listed(*hosts: dict[Host, str]) -> str:
    return ", ".join(dict.fromkeys([name for some in hosts for name in some.values()])) or "none"


def _answering(method: str, url: str) -> Interception | None:
    """Whose request it is, None where it may go on; raises `UnmatchedRequest` where it may not."""
    active = _active
    if not active:
        return None
    if len(active) > 1:
        here = _entered.get()
        active = tuple(sorted(active[::-1], key=lambda one: one not in here))
    allowed = False
    for one in active:
        answered = one.means(url)
        if answered:
            return one
        allowed = allowed or answered is False
    if allowed:
        return None
    raise _blocked(method, url, active)


def _blocked(method: str, url: str, active: Sequence[Interception]) -> UnmatchedRequest:
    newest = active[0]
    host = names_of(url)[1][0]
    error = UnmatchedRequest(
        f"no reply for {describe(Request(method, url))}\n"
        f"requests is intercepted, and {host} is not among its hosts."
        f"\n  answered: {_listed(*[one._hosts for one in active])}"
        f"\n  allowed: {_listed(*[one._allowed for one in active])}"
        f"\nTo fix it: 1. let it be answered: {newest.with_hosts([*newest._hosts.values(), host])};"
        f"\n           2. let it go where it wants: {newest.called}(..., allow=[{host!r}]);"
        "\n           3. keep the code under test from asking it."
    )
    newest.network.failed(error)
    return error


_SEND, _CONNECT = "send", "get_connection_with_tls_context"


class _Patch:
    """A function in the place of a method of an adapter class. It may outlive its users, under what others put on it."""

    def __init__(self, owner: Any, name: str, previous: Any) -> None:
        self.owner = owner
        self.previous = previous  # as it stood there: a function, as a rule
        self.users = 0
        self.stand_in = _sending(previous) if name == _SEND else _connecting(owner, previous)
        self.stand_in._patch = self

    @classmethod
    def of(cls, function: Any) -> _Patch | None:
        """The patch whose stand-in this is; a wrapper may have taken over what is written on that."""
        patch = getattr(function, "_patch", None)
        return patch if isinstance(patch, cls) and patch.stand_in is function else None

    @classmethod
    def on_top(cls, owner: Any, name: str) -> _Patch:
        """The one in place, with one user more; it is made where there is none, or something else on top of it."""
        top = vars(owner)[name]
        patch = cls.of(top)
        if patch is None:
            patch = _spare.get(name)
            if patch is None or patch.owner is not owner or patch.previous is not top:
                patch = _spare[name] = cls(owner, name, top)
            setattr(owner, name, patch.stand_in)
        patch.users += 1
        return patch

    @classmethod
    def clear_top(cls, owner: Any, name: str) -> None:
        """Takes away those that nobody uses, as far as nothing else is on top of them."""
        while (patch := cls.of(vars(owner)[name])) is not None and not patch.users:
            setattr(owner, name, patch.previous)


def _sending(previous: Any) -> Any:
    """A `send` that goes where the request is answered: on, past what would answer itself, or nowhere."""
    before = _function(previous)
    on = _send if _answers_itself(previous) else before

    @functools.wraps(previous)
    def send(adapter: HTTPAdapter, request: PreparedRequest, *args: Any, **kwargs: Any) -> Any:
        interception = _answering(request.method or "", request.url or "")
        if interception is None:
            return before(adapter, request, *args, **kwargs)
        interception.leads(adapter)
        return (on if interception.answers(request) else before)(adapter, request, *args, **kwargs)

    return send


def _connecting(owner: Any, previous: Any) -> Any:
    """A `get_connection_with_tls_context` that leads to the fake, whoever asks for it."""
    before = _function(previous)

    @functools.wraps(previous)
    def get_connection_with_tls_context(
        adapter: HTTPAdapter, request: PreparedRequest, *args: Any, **kwargs: Any
    ) -> Any:
        url = request.url or ""
        interception = _answering(request.method or "", url)
        if interception is None:
            return before(adapter, request, *args, **kwargs)

        def onward() -> Any:
            return before(adapter, request, *args, **kwargs)

        if owner is HTTPAdapter:
            return interception.connection(adapter, request, onward)
        pool = onward()  # it may only add something to what it gets from there
        return pool if interception.gave(pool) else interception.connection(adapter, request, lambda: pool)

    return get_connection_with_tls_context


def _function(method: Any) -> Any:
    """What stands in a class, as a function of the adapter and the rest."""
    if isinstance(method, FunctionType):
        return method

    def call(adapter: HTTPAdapter, *args: Any, **kwargs: Any) -> Any:
        bound = method.__get__(adapter, type(adapter)) if hasattr(method, "__get__") else method
        return bound(*args, **kwargs)

    return call


def _answers_itself(send: Any) -> bool:
    """Whether this, or what it wraps, answers in the place of connections: the `send` of `responses`, or a mock."""
    while send is not None and _Patch.of(send) is None:
        if getattr(send, "__globals__", {}).get("__name__") == "responses":
            return True
        if type(getattr(send, "mock", send)).__module__ in ("unittest.mock", "mock.mock"):
            return True
        send = getattr(send, "__wrapped__", None)
    return False
