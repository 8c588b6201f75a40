"""docs/reference.md, made of signatures and docstrings: `python -m tests.reference > docs/reference.md`."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from typing import Any, ForwardRef

import aivvm
import aivvm_testing
from aivvm_testing import adversity, contract, fixtures, pytest_plugin, stateful, strategies
from aivvm_testing.record.use import RecordingSession
from aivvm_testing.replay.adapter import Interception
from aivvm_testing.replay.server import FakeServer
from aivvm_testing.rules import Conditions, Rule

HEADING = """\
# Reference

Every public name, with its signature and the first sentence of its docstring; `help(name)` tells the rest. This page is
made of them, by `python -m tests.reference`, and a test keeps it so. The faults have [a page of their own](faults.md#the-catalogue).
"""
OWN = ("aivvm.", "aivvm_testing.")
GIVEN = (Rule, FakeServer, Interception, RecordingSession)
"""Not to be made by hand: what `on`, `server`, `intercepting_requests` and `use_recording` give."""

CONDITIONS = frozenset(Conditions.__annotations__)
LONGEST_DEFAULT = 40  # characters; a longer one tells nothing at a glance


def page() -> str:
    """The page as it should be."""
    parts = [HEADING, *_names("aivvm", aivvm), *_names("aivvm_testing", aivvm_testing)]
    for module in (strategies, stateful, contract, adversity, fixtures):
        parts += _names(module.__name__, module)
    parts += ["## What these give\n"]
    for kind in GIVEN:
        parts += [f"- `{kind.__name__}`: {_sentence(kind)}", *[f"  - {line}" for line in _members(kind)]]
    parts += [""]
    return "\n".join([*parts, *_plugin()])


def _names(title: str, home: Any) -> Iterator[str]:
    yield f"## {title}\n"
    if home.__doc__ and home not in (aivvm, aivvm_testing):
        yield f"{_sentence(home)}\n"
    for name in _public(home):
        value = getattr(home, name)
        if inspect.isclass(value) and not hasattr(value, "__origin__"):  # as aliases of generics are, in 3.10
            yield f"- {_code(name, value)}: {_sentence(value)}"
            yield from [f"  - {line}" for line in _members(value)]
        elif inspect.ismodule(value):
            yield f"- `{name}`: {_sentence(value)} {_link(value)}"
        elif inspect.isfunction(value):
            yield f"- {_code(name, value)}: {_sentence(value)}"
        else:
            yield f"- `{name}`: {_first(_told_of(home, name))}"
    yield ""


def _told_of(home: Any, name: str) -> str:
    """The docstring after an assignment."""
    module = import_module(f"aivvm.{home._HOMES[name]}")
    told = "What has no docstring"
    body = ast.parse(inspect.getsource(module)).body
    for node, after in pairwise(body):
        target = node.target if isinstance(node, ast.AnnAssign) else None
        if isinstance(target, ast.Name) and target.id == name and isinstance(after, ast.Expr):
            told = ast.literal_eval(after.value)
    return told


def _public(home: Any) -> list[str]:
    if hasattr(home, "__all__"):
        return list(home.__all__)
    own = [
        (name, value)
        for name, value in vars(home).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == home.__name__
    ]
    return [name for name, value in own if inspect.isclass(value) or inspect.isfunction(value)]


def _link(module: Any) -> str:
    name = module.__name__
    if name.endswith(".faults"):
        return "[The catalogue](faults.md#the-catalogue)."
    return f"[Below](#{name.replace('.', '')})."


def _members(owner: type) -> Iterator[str]:
    """What a class of ours has, in the order in which it is written, and what it has from classes of ours."""
    seen: set[str] = set()
    for base in owner.__mro__:
        if not f"{base.__module__}.".startswith(OWN):
            continue
        for name, value in vars(base).items():
            if name.startswith(("_", "test_")) or name in seen:
                continue
            seen.add(name)
            bound = getattr(owner, name)
            plain = getattr(bound, "__func__", bound)
            if isinstance(value, property):
                yield f"`.{name}`: {_sentence(value)}"
            elif inspect.isfunction(plain):
                documented = inspect.getdoc(bound)
                code = _code(f".{name}", plain, owner)
                yield f"{code}: {_first(documented)}" if documented else code


def _code(name: str, value: Any, owner: type | None = None) -> str:
    try:
        parameters = inspect.signature(value).parameters
    except (TypeError, ValueError):
        parameters = {}
    if inspect.isclass(value) and {*parameters} <= {"args", "kwargs", "message"}:
        return f"`{name}`"
    parts: list[str] = []
    named = {*parameters} >= CONDITIONS
    for parameter in parameters.values():
        if parameter.name in ("self", "cls") or (named and parameter.name in CONDITIONS):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not any(part.startswith("*") for part in parts):
            parts.append("*")
        parts.append(_parameter(parameter))
    parts += ["**conditions"] if named else []
    gives = "" if inspect.isclass(value) else _annotation(inspect.signature(value).return_annotation)
    if owner is not None and gives.startswith("_"):
        gives = owner.__name__
    return f"`{name}({', '.join(parts)}){f' -> {gives}' if gives else ''}`"


def _parameter(parameter: inspect.Parameter) -> str:
    star = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    annotation = _annotation(parameter.annotation)
    text = f"{star}{parameter.name}{f': {annotation}' if annotation else ''}"
    if parameter.default is parameter.empty:
        return text
    shown = repr(parameter.default)
    if len(shown) > LONGEST_DEFAULT or re.search(r" at 0x|<", shown):
        shown = "..."
    return f"{text} = {shown}" if annotation else f"{text}={shown}"


def _annotation(annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return ""
    if isinstance(annotation, ForwardRef):
        annotation = annotation.__forward_arg__
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def _sentence(value: Any) -> str:
    return _first(inspect.getdoc(value) or "")


def _first(text: str) -> str:
    """The first sentence."""
    paragraph = " ".join(text.partition("\n\n")[0].split())
    return re.split(r"(?<=\.)\s+(?=[A-Z`])", paragraph, maxsplit=1)[0]


def _plugin() -> Iterator[str]:
    yield "## The pytest plugin\n"
    yield "[In pytest](pytest.md) tells how they are used.\n"
    tree = ast.parse(inspect.getsource(pytest_plugin))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            for made in [ast.unparse(one) for one in node.decorator_list]:
                if made.startswith("pytest.fixture"):
                    scope = re.search(r"scope='(\w+)'", made)
                    yield f"- fixture `{node.name}` ({scope[1] if scope else 'function'}): {_first(ast.get_docstring(node) or '')}"
    for marker in pytest_plugin._MARKERS:
        signature, _, text = marker.partition(": ")
        yield f"- marker `{signature}`: {text}"
    for name, (metavar, text) in pytest_plugin._OPTIONS.items():
        key = f"aivvm_{name.replace('-', '_')}"
        yield f"- option `--aivvm-{name}={metavar}` (ini key `{key}`, environment `{key.upper()}`): {text}"
    yield ""


if __name__ == "__main__":
    sys.stdout.buffer.write(page().encode())
