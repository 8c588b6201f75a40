"""`python -m aivvm_testing` is the `aivvm-testing` command."""

from __future__ import annotations

import sys

from aivvm_testing.cli import main

if __name__ == "__main__":
    sys.exit(main())
