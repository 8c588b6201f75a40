"""Arrows run one way: each module imports only from modules below it, and heavy imports stay in one place."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = {
    "aivvm": [
        ["errors", "decoding", "terminal", "base_provider"],
        ["transport", "models"],
        ["payload", "answers", "requests_transport"],
        ["provider"],
        ["__init__", "__main__"],
    ],
    "aivvm_testing": [
        ["errors", "clock", "sockets", "interrupts"],
        ["reply", "blanking"],
        ["redaction"],
        ["wire", "service", "call"],
        ["format"],
        ["recording", "faults"],
        ["matching", "fixtures", "strategies", "rules", "journal", "leaks"],
        ["playback", "damage", "differences", "adversity", "timeline"],
        ["fake"],
        ["replay.__init__", "replay.play", "replay.cors", "stateful"],
        ["replay.transport", "replay.memory", "replay.loop", "record.__init__", "record.tap"],
        ["replay.server"],
        ["record.answer", "record.coding", "conformance.__init__", "conformance.bench"],
        ["record.account"],
        ["replay.adapter", "record.transport", "record.adapter", "record.proxy"],
        ["conformance.providers", "conformance.transports"],
        ["replay.responses", "record.use", "contract"],
        ["suite"],
        ["__init__", "demo", "pytest_plugin"],
        ["verbs.__init__", "verbs.lines", "verbs.sources"],
        ["verbs.files", "verbs.serve", "verbs.show", "verbs.contract"],
        ["verbs.record"],
        ["cli"],
        ["__main__"],
    ],
}
SHORTCUTS = {
    ("aivvm_testing.reply", "aivvm_testing.recording"),  # Reply.load
    ("aivvm_testing.fake", "aivvm_testing.replay.transport"),  # FakeAivvm.transport
    ("aivvm_testing.fake", "aivvm_testing.replay.adapter"),  # FakeAivvm.adapter, .intercepting_requests
    ("aivvm_testing.fake", "aivvm_testing.replay.responses"),  # FakeAivvm.responses
    ("aivvm_testing.fake", "aivvm_testing.replay.server"),  # FakeAivvm.server
}
"""Conveniences on a lower noun that reach up, inside a function, when they are called."""

ONLY_IN = {
    "requests": {
        "aivvm.requests_transport",
        "aivvm_testing.demo",
        "aivvm_testing.record.adapter",
        "aivvm_testing.replay.adapter",
    },
    "urllib3": {
        "aivvm.requests_transport",
        "aivvm_testing.record.adapter",
        "aivvm_testing.record.coding",
        "aivvm_testing.replay.memory",
    },
    "responses": {"aivvm_testing.replay.responses"},
    "hypothesis": {"aivvm_testing.stateful", "aivvm_testing.strategies"},
    "pytest": {"aivvm_testing.contract", "aivvm_testing.pytest_plugin"},
    "yaml": set(),
    "pickle": set(),
}

RANK = {
    f"{package}.{module}".removesuffix(".__init__"): (package == "aivvm_testing", rank)
    for package, layers in LAYERS.items()
    for rank, layer in enumerate(layers)
    for module in layer
}


def modules():
    for package in LAYERS:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), path


def imports(path):
    """Each imported name with when it is imported: `at once`, `deferred` to a call, or `never`, for type checkers."""

    def walk(node, when):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, when) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                yield child.module, when
                yield from ((f"{child.module}.{alias.name}", when) for alias in child.names)
            inner = when
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                inner = "never"
            elif when == "at once" and isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                inner = "deferred"
            yield from walk(child, inner)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), "at once")


@pytest.mark.parametrize(("module", "path"), [pytest.param(m, p, id=m) for m, p in modules()])
def test_a_module_imports_only_from_below(module, path):
    assert module in RANK, f"give {module} its place in LAYERS"
    for name, when in imports(path):
        if name in RANK and name not in ("aivvm", "aivvm_testing", module):
            below = RANK[name] < RANK[module]
            assert (
                below or (when != "at once" and (module, name) in SHORTCUTS) or module == "aivvm_testing"
            ), f"{module} imports {name}, which is not below it"
        if module.split(".")[0] == "aivvm":
            assert not name.startswith("aivvm_testing")


@pytest.mark.parametrize(("module", "path"), [pytest.param(m, p, id=m) for m, p in modules()])
def test_heavy_libraries_are_imported_in_one_place(module, path):
    for name, when in imports(path):
        allowed = ONLY_IN.get(name.split(".")[0])
        assert allowed is None or module in allowed or when == "never", f"{module} imports {name}"


def test_there_are_no_rooms_for_odds_and_ends():
    assert not [
        m for m, _ in modules() if m.rsplit(".", 1)[-1] in ("utils", "helpers", "types", "common", "misc")
    ]
