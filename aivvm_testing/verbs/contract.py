"""`aivvm-testing contract`: the checks of `aivvm_testing.contract` on whatever MODULE:FACTORY makes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any, cast

from aivvm.errors import shown
from aivvm_testing.contract import check_provider, check_transport
from aivvm_testing.errors import SetupFailure
from aivvm_testing.verbs.lines import as_json, say
from aivvm_testing.verbs.lines import shown as neutral


def contract(options: argparse.Namespace) -> int:
    """Prints the verdict; what cannot be checked is misuse."""
    with _importing_from_here():
        try:
            make = _factory(options.factory)
            given: dict[str, Any] = {
                "allow": dict(options.allow),
                "only": options.only or None,
                "patience": options.patience,
            }
            verdict = (
                check_transport(make, **given)
                if options.transport
                else check_provider(make, model=options.model, **given)
            )
        except (TypeError, ValueError, SetupFailure) as error:
            options.verb.error(neutral(str(error)))
    if options.json:
        print(as_json(verdict.to_dict(), indent=2))
    else:
        say(str(verdict))
    return 0 if verdict.passed else 1


@contextmanager
def _importing_from_here() -> Iterator[None]:
    """A command has no folder of its own modules; whoever types it means the current one."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with suppress(ValueError):  # what was imported may have tidied up
            sys.path.remove(here)


def _factory(name: str) -> Callable[..., object]:
    """Raises `ValueError` where there is none of this name."""
    module, _, path = name.partition(":")
    if not (module and path):
        raise ValueError(f"MODULE:FACTORY is written as my_client:make, but got {name}")
    try:
        found: Any = import_module(module)
    except Exception as error:  # it runs foreign code, which may raise anything
        raise ValueError(f"{module} cannot be imported: {type(error).__name__}: {error}") from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{module} has no {path}: there is no {part!r} in {shown(found)}")
        found = getattr(found, part)
    return cast("Callable[..., object]", found)
