"""Every Python example of README and docs runs, and prints what the page says it prints.

The blocks of one page run in order in one namespace, in an empty folder, against a fake service: `Aivvm.url` is the
address of a fake server that echoes. A `text` block right after a Python block is what that block prints.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aivvm import Aivvm
from aivvm_testing import FakeAivvm

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page):
    """(line, code, expected output or None) for each Python block."""
    text = page.read_text(encoding="utf-8")
    fences = list(FENCE.finditer(text))
    for n, fence in enumerate(fences):
        if fence[1] == "python":
            after = fences[n + 1] if n + 1 < len(fences) else None
            said = after and after[1] == "text" and not text[fence.end() : after.start()].strip()
            yield text.count("\n", 0, fence.start()) + 2, fence[2], after[2] if said else None


@pytest.mark.parametrize("page", [p for p in PAGES if list(blocks(p))], ids=lambda page: page.stem)
def test_the_examples_of_a_page_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": f"examples_of_{page.stem}"}
    with FakeAivvm().server() as server:
        monkeypatch.setattr(Aivvm, "url", server.url)
        for line, code, expected in blocks(page):
            padded = "\n" * (line - 1) + code
            exec(compile(padded, str(page), "exec"), namespace)
            printed = capsys.readouterr().out
            if expected is not None:
                assert printed == expected, f"{page.name}:{line}"
    assert namespace


def test_the_readme_begins_with_one_sentence_and_two_commands():
    first_screen = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## ")[0]
    commands = [
        line for kind, body in FENCE.findall(first_screen) if kind == "sh" for line in body.splitlines()
    ]
    assert len(commands) == 2
    assert "aivvm-testing demo" in commands[0]
    assert "-m pytest" in commands[1]
    assert all("python3 -m venv" in command and "pip install" in command for command in commands)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
