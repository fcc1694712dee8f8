#!/usr/bin/env python3
"""Compares the build time of each module with tools/budgets.

usage: check_budgets.py BUILD/compile_times.log [BUDGETS]

tools/budgets has rows `module seconds`: the processor seconds that compile the module's library and tests from an empty
cache.  A number there only falls, or is raised by an ADR.  The log (tools/compile.sh) has what the last compilation of
each file took, next to nothing when the cache had it.  Twice the budget fails: machines and their neighbours differ.
Exits 1 when a module is over, or has no row; 77 without a log.
"""

import collections
import pathlib
import re
import sys

OBJECT = re.compile(r"^furrow/([a-z_]+)/.*\.o$")
SLACK = 2.0


def measured(log):
    """Returns {module: seconds} of a log; the last entry of an output counts."""
    last = {}
    for line in log.read_text().splitlines():
        user, system, output = line.split(" ", 2)
        match = OBJECT.match(output)
        if match and "torch_pch" not in output:
            last[output] = (match.group(1), float(user) + float(system))
    seconds = collections.Counter()
    for module, spent in last.values():
        seconds[module] += spent
    return dict(seconds)


def budgets(path):
    rows = (line.split("#")[0].split() for line in path.read_text().splitlines())
    return {row[0]: float(row[1]) for row in rows if row}


def compare(spent, allowed):
    """Returns one line per violation."""
    errors = []
    for module, seconds in sorted(spent.items()):
        if module not in allowed:
            errors.append(f"{module}: no row in tools/budgets (measured {seconds:.0f} s)")
        elif seconds > SLACK * allowed[module]:
            errors.append(f"{module}: {seconds:.0f} s, over {SLACK:g} times its budget of {allowed[module]:.0f} s")
    return errors


def main():
    root = pathlib.Path(__file__).resolve().parent
    table = budgets(pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else root / "budgets")
    log = pathlib.Path(sys.argv[1])
    if not log.exists():
        print(f"no {log}: this folder was configured without FURROW_TIME_COMPILES")
        return 77
    spent = measured(log)
    for module in sorted(spent):
        print(f"{module:12} {spent[module]:7.1f} s of {table.get(module, 0):5.0f}")
    errors = compare(spent, table)
    print("\n".join(errors) or "budgets: ok")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
