"""docs/pytest.md and docs/migration.md: each section is a project of a few files, whose commands do what the page shows.

The files before the first section are in all of them. A file of another tool, `test_vcrpy.py` and so on, is left out where
that tool is not installed. The address http://127.0.0.1:3000 is that of a fake service that echoes.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
from importlib.util import find_spec

import pytest

from aivvm_testing import FakeAivvm, Redaction, pytest_plugin
from aivvm_testing.record.use import RECORD_MODES, use_recording
from aivvm_testing.suite import _TAKEN, ORPHANS
from tests.pages import DOCS, fits, sections_of

pytest_plugins = ["pytester"]

PAGES = {
    name: sections_of((DOCS / f"{name}.md").read_text(encoding="utf-8")) for name in ("pytest", "migration")
}
SECTIONS = [
    (name, title) for name, page in PAGES.items() for title, blocks in page.items() if title and blocks
]
UPSTREAM = "http://127.0.0.1:3000"
TOOLS = {
    "test_vcrpy.py": "vcr",
    "test_pytest_recording.py": "pytest_recording",
    "test_responses.py": "responses",
    "test_requests_mock.py": "requests_mock",
    "test_pytest_httpserver.py": "pytest_httpserver",
}


@pytest.fixture
def upstream():
    with FakeAivvm().server() as server:
        yield server


@pytest.mark.parametrize(("page", "title"), SECTIONS, ids=[f"{page}-{title}" for page, title in SECTIONS])
def test_a_section_is_a_project_that_works(pytester, monkeypatch, upstream, page, title):
    for name in [name for name in os.environ if name.startswith("AIVVM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:randomly -p no:asyncio")
    sections = PAGES[page]
    for block in [*sections[""], *sections[title]]:
        if block.file is not None:
            tool = TOOLS.get(block.file)
            if tool is None or find_spec(tool):
                (pytester.path / block.file).write_text(
                    block.code.replace(UPSTREAM, upstream.url), encoding="utf-8"
                )
            continue
        if block.kind != "sh":
            continue
        for command in block.commands:
            printed, success = run(pytester, command.replace(UPSTREAM, upstream.url))
            shows = command == block.commands[-1] and block.prints is not None
            where = f"{page}.md:{block.line}: {command}\n{printed}"
            assert success or shows, where
            assert not shows or fits(block.prints, printed), where
    if sections[title][-1].kind != "sh":
        # In a process of its own, as other tools change classes that this one keeps.
        outcomes = pytester.runpytest_subprocess("-W", "error::pytest.PytestConfigWarning").parseoutcomes()
        assert set(outcomes) == {"passed"}, outcomes


def run(pytester, command):
    """What it printed, and whether it succeeded."""
    words = command.split()
    if words[:3] == ["python", "-m", "pytest"]:
        # In this process, where pytest-recording warns of what another test may have imported.
        result = pytester.runpytest(*words[3:], "-p", "no:cacheprovider", "-p", "no:recording")
        return result.stdout.str(), result.ret == 0
    done = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, cwd=pytester.path, check=False
    )
    return done.stdout, done.returncode == 0


PAGE = (DOCS / "pytest.md").read_text(encoding="utf-8")


def table(title):
    """The first cells of the table in this section, without what is no code."""
    section = PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def test_the_page_tells_of_each_option_with_its_ini_key_and_its_variable():
    options = pytest_plugin._OPTIONS
    assert table("Options") == [f"--aivvm-{name}={metavar}" for name, (metavar, _) in options.items()]
    for name in options:
        key = f"aivvm_{name.replace('-', '_')}"
        assert f"| `{key}` | `{key.upper()}` |" in PAGE
    for choice in (*RECORD_MODES, *ORPHANS):
        assert f"`{choice}`" in PAGE


def test_the_page_tells_of_each_fixture_and_no_other():
    tree = ast.parse(inspect.getsource(pytest_plugin))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    fixtures = {
        node.name
        for node in functions
        if any("pytest.fixture" in ast.unparse(one) for one in node.decorator_list)
    }
    assert set(table("Fixtures")) == fixtures


def test_the_page_tells_of_each_argument_of_the_marker_with_its_default():
    parameters = inspect.signature(use_recording).parameters
    assert table("Markers") == list(_TAKEN)
    for name in _TAKEN:
        default = parameters[name].default
        shown = re.search(rf"^\| `{name}` \| (.+?) \|", PAGE, re.MULTILINE)[1]
        if shown.startswith("`"):
            assert ast.literal_eval(shown.strip("`")) == default, name
        else:
            assert default in (inspect.Parameter.empty, None) or isinstance(default, Redaction), name
