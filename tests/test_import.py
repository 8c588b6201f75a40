"""What `import aivvm` brings in, and what it leaves out until it is needed. Fresh interpreters throughout."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from typing import Any

import pytest

import aivvm


def imported_by(code: str) -> set[str]:
    script = f"import sys; before = set(sys.modules)\n{code}\nprint(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_imports_next_to_nothing() -> None:
    assert {name for name in imported_by("import aivvm") if not name.startswith("_")} == {"aivvm"}


@pytest.mark.parametrize(
    "code",
    [
        "from aivvm import *",
        "from aivvm import Aivvm; Aivvm().create_completion('gpt-4', [])",
        "import aivvm.__main__",
    ],
)
def test_nothing_heavy_is_imported_before_something_is_sent(code: str) -> None:
    heavy = {"requests", "urllib3", "aivvm_testing", "hypothesis", "pytest"}
    light = {"dataclasses", "inspect", "urllib.parse", "http.client", "ssl", "socket", "asyncio"}
    assert not imported_by(code) & heavy
    if code.startswith("from aivvm import Aivvm"):
        assert not imported_by("from aivvm import Aivvm") & light


def test_every_public_name_is_there_and_comes_from_its_home() -> None:
    for name in aivvm.__all__:
        assert getattr(aivvm, name) is not None
        assert name in dir(aivvm)
    assert sorted(aivvm.__all__, key=str.lower) == [
        "AbstractProvider",
        "Aivvm",
        "AivvmError",
        "AnswerError",
        "BoundarySafeDecoder",
        "build_request",
        "ConnectFailed",
        "CreateResult",
        "Decoder",
        "Headers",
        "Interrupted",
        "InvalidMessages",
        "InvalidOption",
        "InvalidRequest",
        "Messages",
        "Model",
        "MODELS",
        "NotAnAnswer",
        "PerChunkDecoder",
        "Request",
        "RequestsTransport",
        "Response",
        "StatusError",
        "SubpartDecoder",
        "TimedOut",
        "Transport",
        "TransportError",
        "UnsupportedModel",
    ]


def test_type_checkers_see_the_same_names() -> None:
    with open(aivvm.__file__, encoding="utf-8") as file:
        source = file.read()
    seen = {line.rpartition(" as ")[2] for line in source.splitlines() if line.startswith("    from aivvm.")}
    assert seen == set(aivvm.__all__)


def test_the_version_is_that_of_the_distribution() -> None:
    assert aivvm.__version__ == version("aivvm")
    assert "__version__" in dir(aivvm)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    package: Any = aivvm
    with pytest.raises(AttributeError, match="has no attribute 'Avivm'"):
        _ = package.Avivm
