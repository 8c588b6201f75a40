"""Every Python example of README and docs runs, and prints what the page says it prints.

The blocks of one page run in order in one namespace, in an empty folder, against a fake service: `Aivvm.url` is the
address of a fake server that echoes. A `text` block right after a Python block is what that block prints. Pages of files
and commands have tests of their own: `test_tutorial.py`, `testing/test_how_to.py`.
"""

from __future__ import annotations

import re

import pytest

from aivvm import Aivvm
from aivvm_testing import FakeAivvm
from tests import reference
from tests.pages import DOCS, README, blocks_of, fits, sections_of

PAGES = [README, *sorted(DOCS.glob("*.md"))]


def examples(page):
    blocks = blocks_of(page.read_text(encoding="utf-8"))
    return [block for block in blocks if block.kind == "python" and block.file is None]


@pytest.mark.parametrize("page", [page for page in PAGES if examples(page)], ids=lambda page: page.stem)
def test_the_examples_of_a_page_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": f"examples_of_{page.stem}"}
    with FakeAivvm().server() as server:
        monkeypatch.setattr(Aivvm, "url", server.url)
        for block in examples(page):
            padded = "\n" * (block.line - 1) + block.code
            exec(compile(padded, str(page), "exec"), namespace)
            printed = capsys.readouterr().out
            if block.prints is not None:
                assert printed == block.prints, f"{page.name}:{block.line}"
    assert namespace


def test_the_readme_begins_with_one_sentence_and_two_commands():
    first_screen = README.read_text(encoding="utf-8").split("\n## ")[0]
    commands = [command for block in blocks_of(first_screen) for command in block.commands]
    assert len(commands) == 2
    assert "aivvm-testing demo" in commands[0]
    assert "-m pytest" in commands[1]
    assert all("python3 -m venv" in command and "pip install" in command for command in commands)


def test_the_readme_is_read_in_three_minutes():
    words = re.sub(r"^```.*?^```$", "", README.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert len(words.split()) < 3 * 240  # words a minute, of prose (Brysbaert 2019: 238)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_between_pages_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8")):
        file = page.parent / target if target else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            titles = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
            assert anchor in anchors, f"{page.name} links to {target}#{anchor}"


def test_every_page_is_linked_from_the_readme():
    linked = set(re.findall(r"\]\(docs/([^)#]+)", README.read_text(encoding="utf-8")))
    assert linked == {page.name for page in DOCS.glob("*.md")}


def test_the_reference_says_what_the_docstrings_say():
    written = (DOCS / "reference.md").read_text(encoding="utf-8")
    assert written == reference.page(), (
        "docs/reference.md is old: python -m tests.reference > docs/reference.md"
    )


def test_a_shown_output_fits_what_it_leaves_out_and_nothing_else():
    printed = "one\ntwo 0.12s\nthree\nfour\n"
    for shown in (
        printed,
        "one\n...\nfour\n",
        "...\n",
        "one\ntwo ...s\n...\n",
        "one\n...\ntwo 0.12s\nthree\nfour\n",
    ):
        assert fits(shown, printed), shown
    for shown in ("", "one\n", "one\n...\nfive\n", "two ...\n...\n", "one\n...\nthree\n"):
        assert not fits(shown, printed), shown


def test_a_page_is_files_commands_and_what_they_print():
    text = "# T\n`a.py`:\n\n```python\n1\n```\n\n## One\n\n```sh\nrun\n```\n\n```text\n2\n```\n\n```text\nother\n```\n"
    first, section = sections_of(text).values()
    assert [(block.file, block.code, block.line) for block in first] == [("a.py", "1\n", 5)]
    assert [(block.commands, block.prints, block.line) for block in section] == [(["run"], "2\n", 11)]
