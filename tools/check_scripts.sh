#!/usr/bin/env bash
# Every script parses, and says what it is in a comment or docstring at its top.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
failed=0
while read -r file; do
  case $file in
    *.py) python3 -c 'import ast,sys; assert ast.get_docstring(ast.parse(open(sys.argv[1]).read())), "no docstring"' "$file" ||
      { echo "$file: does not parse, or has no docstring"; failed=1; } ;;
    *) bash -n "$file" || failed=1
      sed -n 2p "$file" | grep -q '^# ' || { echo "$file: its second line should say what it does"; failed=1; } ;;
  esac
done < <(find dev .ci/run tools tests bench examples -name '*.sh' -o -name '*.py' -o -name dev -o -name run -type f | sort)
exit $failed
