"""What README and docs show: files, code, commands, and what they print. Reads pages; running what is on them is for tests.

The rules of a page:

- a fenced block right after a line such as "`client.py`:" is a file of that name;
- a `sh` block is commands, one a line, and a `text` block right after it is what the last of them prints;
- a `text` block right after other Python is what that prints;
- in what a command prints, `...` stands for anything within a line, and alone on a line for any lines.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCS = ROOT / "docs"

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"^`([^`\n]+)`:\s*\Z", re.MULTILINE)
_SECTION = re.compile(r"^## (.+)$", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block of a page. `said`: the text between the block before and this one; `line`: where its code begins."""

    kind: str
    code: str
    said: str
    line: int
    file: str | None
    prints: str | None

    @property
    def commands(self) -> list[str]:
        return self.code.splitlines() if self.kind == "sh" else []


def blocks_of(text: str, *, first_line: int = 1) -> list[Block]:
    """The blocks of a page or a part of one, but for those that only tell what another prints."""
    blocks: list[Block] = []
    end = 0
    for fence in _FENCE.finditer(text):
        said = text[end : fence.start()]
        end = fence.end()
        if fence[1] == "text":
            if blocks and blocks[-1].prints is None and not said.strip():
                blocks[-1] = blocks[-1]._replace(prints=fence[2])
            continue
        name = _FILE.search(said)
        line = first_line + text.count("\n", 0, fence.start()) + 1
        blocks.append(Block(fence[1], fence[2], said, line, name and name[1], None))
    return blocks


def sections_of(text: str) -> dict[str, list[Block]]:
    """The blocks of each `##` section by its title; those before the first have the title `""`."""
    starts = [("", 0), *[(title[1], title.start()) for title in _SECTION.finditer(text)]]
    ends = [start for _, start in starts[1:]] + [len(text)]
    return {
        title: blocks_of(text[start:end], first_line=1 + text.count("\n", 0, start))
        for (title, start), end in zip(starts, ends, strict=True)
    }


def fits(shown: str, printed: str) -> bool:
    """Whether a page shows what was printed; what is left out may be anything."""
    lines = []
    for line in shown.splitlines():
        pieces = [re.escape(piece) for piece in line.rstrip().split("...")]
        lines.append(r"(?:.*\n)*?" if line.strip() == "..." else ".*?".join(pieces) + r"[ \t]*\n")
    return re.fullmatch("".join(lines), printed.rstrip("\n") + "\n") is not None
