"""What runs held by kind of memory, beside what they planned before their first step.

    python3 tests/e2e/planned_memory.py RUN ...

prints a table and fails where a kind is neither within 2 % of its plan nor within 64 KiB.
"""

import json
import pathlib
import sys

SHARE, BYTES = 0.02, 64 * 1024


def rows(run: pathlib.Path):
    summary = json.loads((run / "summary.json").read_text())
    for kind, held in summary["memory_bytes"].items():
        planned = summary["planned_memory_bytes"][kind]
        if held or planned:
            yield kind, held, planned, abs(held - planned) <= max(SHARE * planned, BYTES)


def main(runs) -> int:
    print(f"{'run':<24}{'kind':<14}{'held KiB':>12}{'planned KiB':>14}")
    failures = 0
    for run in map(pathlib.Path, runs):
        for kind, held, planned, fits in rows(run):
            print(f"{run.name:<24}{kind:<14}{held / 1024:>12.1f}{planned / 1024:>14.1f}{'' if fits else '   not as planned'}")
            failures += not fits
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
