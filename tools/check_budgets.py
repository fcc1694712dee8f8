#!/usr/bin/env python3
"""Compares the build time of each module with tools/budgets.

usage: check_budgets.py BUILD/.ninja_log [BUDGETS]

tools/budgets has rows `module seconds`: the compile seconds of the module's library and tests from an empty cache, one
job at a time.  A number there only falls, or is raised by an ADR.  Ninja's log gives wall time on whatever machine with
whatever neighbours: when all modules together took longer than their budgets, each one's is scaled by as much, and only
twice that fails.  Exits 1 when a module is over, or has no row.
"""

import collections
import pathlib
import re
import sys

OBJECT = re.compile(r"^furrow/([a-z_]+)/CMakeFiles/.*\.o$")
SLACK = 2.0


def measured(log):
    """Returns {module: seconds} of a ninja log; the last entry of an output counts."""
    last = {}
    for line in log.read_text().splitlines()[1:]:
        start, end, _, output, *_ = line.split("\t")
        match = OBJECT.match(output)
        if match and "torch_pch" not in output:
            last[output] = (match.group(1), (int(end) - int(start)) / 1000)
    seconds = collections.Counter()
    for module, spent in last.values():
        seconds[module] += spent
    return dict(seconds)


def budgets(path):
    rows = (line.split("#")[0].split() for line in path.read_text().splitlines())
    return {row[0]: float(row[1]) for row in rows if row}


def compare(spent, allowed):
    """Returns one line per violation."""
    known = [module for module in spent if module in allowed]
    slowness = max(1.0, sum(spent[m] for m in known) / max(1.0, sum(allowed[m] for m in known)))
    errors = []
    for module, seconds in sorted(spent.items()):
        if module not in allowed:
            errors.append(f"{module}: no row in tools/budgets (measured {seconds:.0f} s)")
        elif seconds > SLACK * slowness * allowed[module]:
            errors.append(f"{module}: {seconds:.0f} s, over {SLACK:g} times its budget of {allowed[module]:.0f} s, on a "
                          f"machine {slowness:.1f} times slower than the one it was measured on")
    return errors


def main():
    root = pathlib.Path(__file__).resolve().parent
    table = budgets(pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else root / "budgets")
    spent = measured(pathlib.Path(sys.argv[1]))
    for module in sorted(spent):
        print(f"{module:12} {spent[module]:7.1f} s of {table.get(module, 0):5.0f}")
    errors = compare(spent, table)
    print("\n".join(errors) or "budgets: ok")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
