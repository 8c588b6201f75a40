r"""What every streaming provider and every transport must do, as checks that anybody runs on their own.

    verdict = check_provider(lambda url, timeout: MyClient(url, timeout=timeout))
    print(verdict)
    verdict.raise_for_findings()

The peer is a fake server on loopback, so any HTTP client will do, and nothing of `aivvm` need be known: a provider is
an object with `create_completion(model, messages, stream=True)`, or a callable `ask(messages)` or
`ask(model, messages)`, which gives an iterator of text; the server answers whatever path it asks with raw UTF-8.

The contract of this module: each check has a server of its own, runs in a thread of its own and is bounded in time, so
none stops or disturbs the others, and one that never ends is a finding. What cannot be checked at all, as `make` does
not give a provider, or one that never asks the server, is a mistake of the test: `TypeError`, `ValueError` or
`SetupFailure` at the call. Only sockets of Python are seen by the checks that count them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from math import isfinite
from typing import Any, ClassVar

from aivvm.terminal import printable
from aivvm_testing.conformance.bench import PATIENCE, Bench, Check, check_callable, name_of
from aivvm_testing.conformance.providers import PROVIDER_CHECKS, ProviderBench, ProviderKind
from aivvm_testing.conformance.transports import TRANSPORT_CHECKS, TransportBench
from aivvm_testing.errors import SetupFailure
from aivvm_testing.reply import Reply

TOLERATED: Mapping[str, str] = {
    "AP21": "http.client gives no sign of it",
    "AP23": "raise_for_status() lets it pass",
}
"""Findings that clients have which are correct otherwise: accepted for these reasons, unless `only` names their checks."""

_NEEDLESS = "is allowed, and nothing was found: allow need not name it any more"

# What comes of it


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found: `code` and `name` of the check, what `happened`, what was `expected`, and `advice`."""

    code: str
    name: str
    happened: str
    expected: str
    advice: str

    def __str__(self) -> str:
        return f"{self.code} {self.name}: {self.happened}\n    expected: {self.expected}\n    → {self.advice}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of the checks of `subject`: `codes` were run, in this order.

    `findings` are what is wrong; `accepted` what would be, had it not been allowed, or is `TOLERATED`, each with the
    reason for that; `needless` the codes that were allowed and found nothing.
    """

    subject: str
    codes: tuple[str, ...]
    findings: tuple[Finding, ...] = ()
    accepted: tuple[tuple[Finding, str], ...] = ()
    needless: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing was found but what is allowed."""
        return not self.findings

    def __str__(self) -> str:
        count, checks = len(self.findings), len(self.codes)
        summary = f"{count or 'no'} finding{'' if count == 1 else 's'} in {checks} check{'' if checks == 1 else 's'}"
        lines = [f"{self.subject}: {summary}", *map(str, self.findings)]
        lines += [
            f"{one.code} {one.name} is allowed ({printable(why)}): {one.happened}"
            for one, why in self.accepted
        ]
        lines += [f"{code} {_NEEDLESS}" for code in self.needless]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The same for programs, of what JSON can carry."""

        def facts(one: Finding) -> dict[str, Any]:
            return {name: getattr(one, name) for name in ("code", "name", "happened", "expected", "advice")}

        return {
            "subject": self.subject,
            "passed": self.passed,
            "checks": list(self.codes),
            "findings": [facts(one) for one in self.findings],
            "accepted": [{**facts(one), "reason": why} for one, why in self.accepted],
            "needless": list(self.needless),
        }

    def json(self) -> str:
        """`to_dict()` as JSON, in ASCII."""
        return json.dumps(self.to_dict(), indent=2)

    def raise_for_findings(self) -> None:
        """Raises an `AssertionError` that tells all findings, if there are any."""
        __tracebackhide__ = True
        if self.findings:
            raise AssertionError(str(self))


def check_provider(
    make: Callable[..., object],
    *,
    allow: Mapping[str, str] | None = None,
    only: Iterable[str] | None = None,
    model: str = "gpt-4",
    patience: float = PATIENCE,
) -> Verdict:
    """Runs `PROVIDER_CHECKS` on what `make(url)` makes, and tells what is wrong with it.

    `make` is called at least once for each check, with the address of the check's server, such as
    `http://127.0.0.1:40000`. What it gives is asked for `model` and messages, as an object with
    `create_completion(model, messages, stream=True)` or as a callable `ask(messages)` or `ask(model, messages)`; the
    answer is an iterator of text. Closed after its check, where it has a `close`.

    The timeout that is needed where the server falls silent goes to `make` where it takes one, `make(url, timeout)`,
    else to the call that asks, where that takes `timeout=`: seconds.

    `allow`: codes of checks that may fail, each with the reason. `only`: codes of the checks to run, else all of them.
    `patience`: seconds that a step may take before it counts as one that never ends.

    Raises `TypeError` where `make` or what it gives is none of this, `SetupFailure` where it raises or never asks the
    server, and `ValueError` for a code, a reason or a patience that is none.
    """
    plan = _Plan(PROVIDER_CHECKS, allow, only, patience)
    kind = ProviderKind(make, model)
    _try_out(ProviderBench(kind, plan.patience))
    return plan.carry_out(name_of(make), lambda: ProviderBench(kind, plan.patience))


def check_transport(
    make: Callable[[], object],
    *,
    allow: Mapping[str, str] | None = None,
    only: Iterable[str] | None = None,
    patience: float = PATIENCE,
) -> Verdict:
    """Runs `TRANSPORT_CHECKS` on the transport that `make()` makes: see `aivvm.Transport`.

    Each check has a transport of its own, which is closed after it where it has a `close`. The rest is as for
    `check_provider`.
    """
    plan = _Plan(TRANSPORT_CHECKS, allow, only, patience)
    check_callable(make, "make()")
    _try_out(TransportBench(make, plan.patience))
    return plan.carry_out(name_of(make), lambda: TransportBench(make, plan.patience))


class _Plan:
    """Which checks, and what is allowed; looked at before anything runs."""

    def __init__(
        self,
        checks: Sequence[Check],
        allow: Mapping[str, str] | None,
        only: Iterable[str] | None,
        patience: float,
    ) -> None:
        known = [check.code for check in checks]
        if isinstance(only, str):
            raise TypeError(f"only is a list of codes, such as [{only!r}], but got {only!r}")
        if allow is not None and not isinstance(allow, Mapping):
            raise TypeError(
                f"allow is a mapping of codes to reasons, such as {{{known[0]!r}: 'why'}}, but got {allow!r}"
            )
        wanted = known if only is None else list(only)
        if not wanted:
            raise ValueError(f"only names no check; they are {known[0]} to {known[-1]}")
        for code in [*wanted, *(allow or ())]:
            if code not in known:
                number = re.fullmatch(r"([A-Z]+)0*(\d+)", str(code).upper())
                meant = f"{number[1]}{number[2]:>02}" if number else ""
                near = [meant] if meant in known else get_close_matches(str(code).upper(), known, 1)
                guess = f"did you mean {near[0]}?" if near else f"they are {known[0]} to {known[-1]}"
                raise ValueError(f"no check has the code {code!r}; {guess}")
        for code, why in (allow or {}).items():
            if not isinstance(why, str) or not why.strip():
                raise ValueError(f"{code} is allowed for a reason, in words, but got {why!r}")
        if isinstance(patience, bool) or not isinstance(patience, (int, float)):
            raise TypeError(f"patience is a number of seconds, but got {patience!r}")
        if not (isfinite(patience) and patience > 0):
            raise ValueError(f"patience is more than 0 seconds, but got {patience!r}")
        self.patience = float(patience)
        self._checks = [check for check in checks if check.code in wanted]
        self._allow = dict(allow or {})
        self._tolerated = TOLERATED if only is None else {}

    def carry_out(self, subject: str, make_bench: Callable[[], Bench[Any]]) -> Verdict:
        findings: list[Finding] = []
        accepted: list[tuple[Finding, str]] = []
        for check in self._checks:
            happened = make_bench().conduct(check.run)
            if happened is None:
                continue
            finding = Finding(check.code, check.name, printable(happened), check.requires, check.advice)
            why = self._allow.get(check.code) or self._tolerated.get(check.code)
            if why is not None:
                accepted.append((finding, why))
            else:
                findings.append(finding)
        codes = tuple([check.code for check in self._checks])
        found = {finding.code for finding, _ in accepted}
        needless = tuple([code for code in codes if code in self._allow and code not in found])
        return Verdict(subject, codes, tuple(findings), tuple(accepted), needless)


# As a class of pytest


class _Contract:
    allow: ClassVar[Mapping[str, str]] = {}
    """Codes of checks that may fail, each with the reason: their tests are expected to fail, and XPASS where they do not."""
    patience: ClassVar[float] = PATIENCE

    def _conduct(self, code: str) -> Verdict:
        raise NotImplementedError

    def _make_is_missing(self) -> str | None:
        """What to do about it, where the class says nowhere how its subject is made."""
        raise NotImplementedError

    def _test(self, code: str, request: Any) -> None:
        import pytest

        __tracebackhide__ = True
        if missing := self._make_is_missing():
            pytest.fail(missing, pytrace=False)
        verdict = self._conduct(code)
        if verdict.findings and code in TOLERATED:
            pytest.xfail(TOLERATED[code])
        if verdict.accepted:
            pytest.xfail(verdict.accepted[0][1])
        if verdict.needless:
            request.applymarker(pytest.mark.xfail(reason=f"{code} {_NEEDLESS}"))
        verdict.raise_for_findings()


class ProviderContract(_Contract):
    """One test for each of `PROVIDER_CHECKS`, for a class of pytest: `class TestMine(ProviderContract)` with `make`."""

    model: ClassVar[str] = "gpt-4"

    def make(self, *args: Any, **named: Any) -> object:
        """What is to be checked, of a `url` and, where it is taken, a `timeout`: see `check_provider`."""
        raise NotImplementedError

    def _make_is_missing(self) -> str | None:
        if type(self).make is not ProviderContract.make:
            return None
        return f"{type(self).__name__} needs a method make(self, url) that gives its provider"

    def _conduct(self, code: str) -> Verdict:
        return check_provider(
            self.make, only=[code], allow=self.allow, model=self.model, patience=self.patience
        )


class TransportContract(_Contract):
    """One test for each of `TRANSPORT_CHECKS`: `class TestMine(TransportContract)` with a method `make(self)`."""

    def make(self) -> object:
        """The transport to be checked."""
        raise NotImplementedError

    def _make_is_missing(self) -> str | None:
        if type(self).make is not TransportContract.make:
            return None
        return f"{type(self).__name__} needs a method make(self) that gives its transport"

    def _conduct(self, code: str) -> Verdict:
        return check_transport(self.make, only=[code], allow=self.allow, patience=self.patience)


def _add_tests(contract: type[_Contract], checks: Iterable[Check]) -> None:
    def make_test(check: Check) -> Callable[[_Contract, Any], None]:
        def test(self: _Contract, request: Any) -> None:
            __tracebackhide__ = True
            self._test(check.code, request)

        test.__doc__ = check.requires
        return test

    for check in checks:
        name = f"test_{check.code}_{check.name.replace(' ', '_')}"
        test = make_test(check)
        test.__name__ = name
        test.__qualname__ = f"{contract.__qualname__}.{name}"
        setattr(contract, name, test)


def _try_out(bench: Bench[Any]) -> None:
    """One good answer, for mistakes of the test: all checks would fail on their account."""
    failures: list[Exception] = []

    def ask_once(bench: Bench[Any]) -> None:
        bench.peer.gives(Reply.of("Hello"))
        try:
            bench.try_out()
        except (TypeError, SetupFailure) as error:
            failures.append(error)

    bench.conduct(ask_once)
    if failures:
        raise failures[0]


_add_tests(ProviderContract, PROVIDER_CHECKS)
_add_tests(TransportContract, TRANSPORT_CHECKS)
