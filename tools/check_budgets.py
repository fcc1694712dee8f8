#!/usr/bin/env python3
"""Compares the build time of each module with tools/budgets.

usage: check_budgets.py BUILD/compile_times.log [COMPILER]

tools/budgets has rows `module seconds`: the processor seconds that compile the module's library and tests from an empty
cache.  A number there only falls, or is raised by an ADR.  The log (tools/compile.sh) has what the last compilation of
each file took, next to nothing when the cache had it.  Machines and their neighbours differ: the row `yardstick` has
what one file, which never changes, took where the budgets were measured.  Twice the budget fails; before it does, that
file is compiled here too, and a machine on which it takes longer has larger budgets by as much.
Exits 1 when a module is over, or has no row; 77 without a log.
"""

import collections
import concurrent.futures
import os
import pathlib
import re
import statistics
import sys
import tempfile

OBJECT = re.compile(r"^furrow/([a-z_]+)/.*\.o$")
SLACK = 2.0
YARDSTICK = "yardstick"
YARDSTICK_SOURCE = """#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <vector>
using Rule = std::function<bool(const std::string&)>;
std::map<std::string, std::vector<Rule>> rules(std::vector<std::string> all) {
  std::sort(all.begin(), all.end());
  std::map<std::string, std::vector<Rule>> result;
  for (const auto& each : all) result[each].push_back([each](const std::string& text) { return text == each; });
  return result;
}
"""


def measured(log):
    """Returns {module: seconds} of a log; the last entry of an output counts."""
    last = {}
    for line in log.read_text().splitlines():
        user, system, output = line.split(" ", 2)
        match = OBJECT.match(output)
        if match and "_pch.dir" not in output:
            last[output] = (match.group(1), float(user) + float(system))
    seconds = collections.Counter()
    for module, spent in last.values():
        seconds[module] += spent
    return dict(seconds)


def budgets(path):
    rows = (line.split("#")[0].split() for line in path.read_text().splitlines())
    return {row[0]: float(row[1]) for row in rows if row}


def spent_on(command):
    """The processor seconds of a command and of what it starts."""
    _, status, used = os.wait4(os.posix_spawnp(command[0], command, os.environ), 0)
    if status != 0:
        raise RuntimeError(f"{' '.join(command)} failed")
    return used.ru_utime + used.ru_stime


def measured_yardstick(compiler, times=3):
    """What the yardstick takes here, with all cores at it as in a build: the median."""
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder) / "yardstick.cc"
        source.write_text(YARDSTICK_SOURCE)
        cores = len(os.sched_getaffinity(0))
        commands = [[compiler, "-std=c++20", "-O3", "-c", str(source), "-o", f"{folder}/{i}.o"] for i in range(times * cores)]
        with concurrent.futures.ThreadPoolExecutor(cores) as pool:
            return statistics.median(pool.map(spent_on, commands))


def compare(spent, allowed, scale=1.0):
    """Returns one line per violation; `scale`: what this machine takes of what the budgets' took."""
    errors = []
    for module, seconds in sorted(spent.items()):
        if module not in allowed:
            errors.append(f"{module}: no row in tools/budgets (measured {seconds:.0f} s)")
        elif seconds > SLACK * scale * allowed[module]:
            errors.append(f"{module}: {seconds:.0f} s, over {SLACK:g} times its budget of {scale * allowed[module]:.0f} s")
    return errors


def main():
    table = budgets(pathlib.Path(__file__).resolve().parent / "budgets")
    log = pathlib.Path(sys.argv[1])
    if not log.exists():
        print(f"no {log}: this folder was configured without FURROW_TIME_COMPILES")
        return 77
    spent = measured(log)
    for module in sorted(spent):
        print(f"{module:12} {spent[module]:7.1f} s of {table.get(module, 0):5.0f}")
    errors = compare(spent, table)
    if errors:
        here = measured_yardstick(sys.argv[2] if len(sys.argv) > 2 else "c++")
        scale = max(1.0, here / table[YARDSTICK])
        print(f"yardstick {here:.2f} s, of {table[YARDSTICK]:.2f}: budgets times {scale:.2f}")
        errors = compare(spent, table, scale)
    print("\n".join(errors) or "budgets: ok")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
