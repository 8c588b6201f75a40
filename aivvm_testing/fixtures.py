"""Finds the recordings that are shipped with the package, each a file with a note that says why it is there.

An installed package has them beside this module; a checkout, and an installation that points into one, at its top.
What is in them, and how they were made, is told by `README.md` in the same folder. Names are the files' stems, and
only listed names are ever opened: a name is not a path.

    recording = load("split_emoji_4ways")
    recording.note, recording[0].reply
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aivvm_testing.recording import Recording

_HERE = Path(__file__).resolve().parent
_FOLDERS = (_HERE / "_fixtures", _HERE.parent / "fixtures")


def names() -> list[str]:
    """The names of all shipped recordings, sorted."""
    return sorted(file.stem for file in _folder().glob("*.jsonl"))


def path(name: str) -> Path:
    """Where the recording of this name is; `LookupError`, with the nearest names, where there is none."""
    known = names()
    if name not in known:
        raise LookupError(_explain(name, known))
    return _folder() / f"{name}.jsonl"


def load(name: str) -> Recording:
    """The recording of this name; `LookupError`, with the nearest names, where there is none."""
    from aivvm_testing.recording import Recording

    return Recording.load(path(name))


def _folder() -> Path:
    for folder in _FOLDERS:
        if folder.is_dir():
            return folder
    raise LookupError(
        f"the shipped recordings are in neither {_FOLDERS[0]} nor {_FOLDERS[1]}: install the package again"
    )


def _explain(name: object, known: list[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(str(name), known, n=3)
    hint = (
        f"did you mean {' or '.join(map(repr, near))}?"
        if near
        else "aivvm_testing.fixtures.names() lists them"
    )
    return f"no shipped recording is called {name!r}; {hint}"
