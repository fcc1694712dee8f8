#!/usr/bin/env python3
"""Applies each tests/mutants/*.patch to a scratch worktree; the test that it names must then fail.

A patch starts with comment lines that say who catches it:

    # test: plan          a module's unit test: builds plan_test and runs the ctest entry `plan`
    # test: cli.train     any other ctest entry: builds everything first

usage: run_mutants.py [NAME ...]; without names, all.  Runs on the committed tree.  Exits 1 when a mutant survives, does
not apply, does not build, or when its test fails without it.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent


def run(command, cwd, check=True):
    result = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if check and result.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{result.stdout[-4000:]}")
    return result


def test_of(patch):
    match = re.search(r"^# test: (\S+)", patch.read_text(), re.MULTILINE)
    if not match:
        raise SystemExit(f"{patch.name}: no line `# test: NAME`")
    return match.group(1)


def build(tree, test):
    target = "all" if "." in test else f"{test}_test"
    return run(["cmake", "--build", "build/release", "-j", os.environ.get("JOBS", "2"), "--target", target], tree, False)


def passes(tree, test):
    command = ["ctest", "--test-dir", "build/release", "-R", f"^{re.escape(test)}$", "--no-tests=error"]
    return run(command, tree, False).returncode == 0


def try_mutant(tree, patch, healthy):
    """Returns what went wrong, or None when the test catches the mutant."""
    test = test_of(patch)
    if test not in healthy:
        if build(tree, test).returncode or not passes(tree, test):
            return f"{test} fails without the mutant"
        healthy.add(test)
    if run(["git", "apply", str(patch)], tree, False).returncode:
        return "does not apply"
    try:
        built = build(tree, test)
        if built.returncode:
            return "does not build:\n" + built.stdout[-2000:]
        return f"survives {test}" if passes(tree, test) else None
    finally:
        run(["git", "checkout", "-q", "--", "."], tree)


def main():
    names = sys.argv[1:]
    patches = [p for p in sorted((ROOT / "tests/mutants").glob("*.patch")) if not names or p.stem in names]
    if not patches:
        raise SystemExit("no mutants")
    survivors = 0
    with tempfile.TemporaryDirectory(prefix="furrow-mutants-") as folder:
        tree = pathlib.Path(folder) / "tree"
        run(["git", "worktree", "add", "-q", "--detach", str(tree)], ROOT)
        try:
            run(["cmake", "--preset", "release"], tree)
            healthy = set()
            for patch in patches:
                problem = try_mutant(tree, patch, healthy)
                print(f"{patch.stem}: {problem or 'caught by ' + test_of(patch)}", flush=True)
                survivors += problem is not None
        finally:
            run(["git", "worktree", "remove", "--force", str(tree)], ROOT)
    print(f"{len(patches)} mutants, {survivors} not caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
