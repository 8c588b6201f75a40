"""docs/tutorial.md, word for word: its files, its commands in their order, and what they print.

They run in an empty folder outside the repository, in the environment of this interpreter, or in that of the one which
AIVVM_TUTORIAL_PYTHON names, such as one into which the wheel was installed with the extra `testing`, and pytest-xdist.
The first commands of the page, which make such an environment, are not run. The page's port is any free one here. Where
pytest-randomly is installed, what is shown comes in the order of the files all the same, and the last command is run in
random order, too. pytest-asyncio, where it is, is left out, as it warns until it is configured.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

from tests.pages import DOCS, blocks_of, fits

PAGE = DOCS / "tutorial.md"
PYTHON = Path(os.environ.get("AIVVM_TUTORIAL_PYTHON") or sys.executable)
ALONE = "-p no:asyncio"
IN_ORDER = f"{ALONE} -p no:randomly"
PATIENCE = 120  # seconds for one command


def environment():
    """That of a person: the interpreter's programs come first, and nothing of the test run that this is a part of.

    In CI, pytest prints more.
    """
    ours = re.compile("AIVVM_|PYTEST|COLUMNS$|CI$|BUILD_NUMBER$")
    kept = {name: value for name, value in os.environ.items() if not ours.match(name)}
    path = os.pathsep.join([str(PYTHON.parent), os.environ.get("PATH", "")])
    told = {"COLUMNS": "120", "PYTHONUTF8": "1", "NO_COLOR": "1", "PYTEST_ADDOPTS": IN_ORDER}
    return {**kept, "PATH": path, **told}


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


class Shell:
    """One or two terminals in a folder: a command that serves goes on in the second until Ctrl-C."""

    def __init__(self, folder):
        self._options = {
            "cwd": folder,
            "env": environment(),
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.STDOUT,
            "text": True,
            "encoding": "utf-8",
        }
        self._second = None

    def run(self, command):
        """What it printed, and whether it succeeded."""
        if " serve" in command:
            self._second = subprocess.Popen(["sh", "-c", f"exec {command}"], **self._options)
            return self._second.stdout.readline(), True
        done = subprocess.run(["sh", "-c", command], timeout=PATIENCE, check=False, **self._options)
        return done.stdout, done.returncode == 0

    def stop(self):
        second, self._second = self._second, None
        if second is not None:
            second.terminate()  # and not SIGINT, which a test run in the background of a shell ignores
            second.communicate(timeout=PATIENCE)


def test_the_tutorial_works_word_for_word(tmp_path):
    text = PAGE.read_text(encoding="utf-8").replace("8000", str(free_port()))
    install, *blocks = blocks_of(text)
    assert "pip install" in install.code
    assert len(blocks) > 10
    shell = Shell(tmp_path)
    try:
        for block in blocks:
            if block.file is not None:
                (tmp_path / block.file).write_text(block.code, encoding="utf-8")
                continue
            if "Ctrl-C" in block.said:
                shell.stop()
            printed, success = "", True
            for command in block.commands:
                assert success, f"{PAGE.name}:{block.line}: {printed}"
                printed, success = shell.run(command)
            where = f"{PAGE.name}:{block.line}: {block.code}{printed}"
            assert success == (" failed" not in (block.prints or "")), where
            assert block.prints is None or fits(block.prints, printed), where
        printed, success = shell.run(f"PYTEST_ADDOPTS='{ALONE}' {command}")
        assert success, printed
        assert fits(block.prints, printed), printed
    finally:
        shell.stop()
