"""`python -m tests.benchmarks`: tables of ratios, each against its peers in one run.

Absolute times depend on the machine; the ratios are what the project aims at. Peers that are not installed are left
out and named (`pip install -e '.[bench]'` brings them). `peers` is no area of speed: what recorders keep and lose.
"""

from __future__ import annotations

import argparse
import sys

from tests.benchmarks import calls, decoding, lookups, peers, server, startup, streams

AREAS = {
    "A": calls,
    "B": streams,
    "C": lookups,
    "D": server,
    "E": decoding,
    "F": startup,
    "peers": peers,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("areas", nargs="*", help=f"which of {', '.join(AREAS)}; all without it")
    parser.add_argument(
        "--quick", action="store_true", help="few rounds: shows that it works, measures little"
    )
    options = parser.parse_args()
    if unknown := set(options.areas) - set(AREAS):
        parser.error(f"there is no area {', '.join(sorted(unknown))}; there are {', '.join(AREAS)}")
    for name in options.areas or AREAS:
        print(AREAS[name].report(quick=options.quick), flush=True)
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
