#!/usr/bin/env python3
"""Checks every #include "furrow/..." under ROOT against ROOT/tools/layers.txt.

A row is `module : modules it may include`, and may name only rows above it.  The line
`# --- libtorch below this line ---` splits the modules: above it, and in headers that are not named *_torch.h, no
libtorch header may be included.  Also refused: a row for an unknown folder, a folder without a row, headers of heavy
third-party libraries in our headers, cycles between headers.

usage: check_layers.py [ROOT]; prints one line per violation; exits 1 when there is one.
"""

import pathlib
import re
import sys

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
TORCH = re.compile(r"^(torch|ATen|c10|caffe2)/")
HEAVY = re.compile(r"^(CLI/|toml\+\+/|toml\.hpp|nlohmann/|boost/|spdlog/|arrow/|parquet/)")
SPLIT = "libtorch below this line"


def read_layers(path):
    """Returns ({module: allowed modules}, {modules below the libtorch line}, violations)."""
    allowed, torch, errors, below = {}, set(), [], False
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.startswith("#"):
            below = below or SPLIT in line
            continue
        if not line.strip():
            continue
        if ":" not in line:
            errors.append(f"{path}:{number}: expected `module : modules`")
            continue
        name, deps = line.split("#")[0].split(":", 1)
        name = name.strip()
        for dep in deps.split():
            if dep not in allowed:
                errors.append(f"{path}:{number}: {name} names {dep}, which is not a row above it")
        if name in allowed:
            errors.append(f"{path}:{number}: {name} has two rows")
        allowed[name] = set(deps.split())
        if below:
            torch.add(name)
    return allowed, torch, errors


def includes(path):
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        match = INCLUDE.match(line)
        if match:
            yield number, match.group(2)


def check_file(root, path, module, allowed, torch):
    """Yields the violations of one file of a module."""
    may_use_torch = module in torch and (path.suffix == ".cc" or path.name.endswith("_torch.h"))
    for number, name in includes(path):
        where = f"{path.relative_to(root)}:{number}"
        if TORCH.match(name) and not may_use_torch:
            reason = "is above the libtorch line" if module not in torch else "is not named *_torch.h"
            yield f"{where}: includes {name}, but {module if module not in torch else path.name} {reason}"
        if path.suffix == ".h" and HEAVY.match(name):
            yield f"{where}: {name} belongs in a .cc file, not in a header"
        if name.startswith(("apps/", "../", "./")):
            yield f"{where}: includes {name}: modules know nothing of applications, and paths start at the root"
        if not name.startswith("furrow/"):
            continue
        target = name.split("/")[1]
        if target not in allowed:
            yield f"{where}: includes {name} of the unknown module {target}"
        elif target != module and target not in allowed[module]:
            yield f"{where}: {module} may not include {target} (tools/layers.txt)"
        elif not (root / name).exists():
            yield f"{where}: includes {name}, which does not exist"
        elif name.endswith("_torch.h") and path.suffix == ".h" and not path.name.endswith("_torch.h"):
            yield f"{where}: {name} brings libtorch into a header that is not named *_torch.h"


def find_cycle(graph):
    """Returns one cycle of {node: [nodes]} as a list, or None."""
    state, stack = {}, []

    def visit(node):
        state[node] = "open"
        stack.append(node)
        for other in graph.get(node, []):
            if state.get(other) == "open":
                return stack[stack.index(other):] + [other]
            if other not in state:
                cycle = visit(other)
                if cycle:
                    return cycle
        state[node] = "done"
        stack.pop()
        return None

    for node in sorted(graph):
        if node not in state:
            cycle = visit(node)
            if cycle:
                return cycle
    return None


def check(root):
    """Returns every violation below root, in order."""
    allowed, torch, errors = read_layers(root / "tools" / "layers.txt")
    folders = sorted(p.name for p in (root / "furrow").iterdir() if p.is_dir() and any(p.rglob("*.*")))
    errors += [f"furrow/{name}: no row in tools/layers.txt" for name in folders if name not in allowed]
    errors += [f"tools/layers.txt: no folder furrow/{name}" for name in allowed if name not in folders]
    graph = {}
    for module in folders:
        if module not in allowed:
            continue
        for path in sorted((root / "furrow" / module).rglob("*")):
            if path.suffix not in (".h", ".cc"):
                continue
            errors += check_file(root, path, module, allowed, torch)
            if path.suffix == ".h":
                own = path.relative_to(root).as_posix()
                graph[own] = [name for _, name in includes(path) if name.startswith("furrow/")]
    cycle = find_cycle(graph)
    if cycle:
        errors.append("headers include each other: " + " -> ".join(cycle))
    return errors


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    errors = check(root)
    for error in errors:
        print(error)
    print(f"layers: {len(errors)} violations" if errors else "layers: ok")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
