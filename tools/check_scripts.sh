#!/usr/bin/env bash
# Every script parses, and says what it is in a comment or docstring at its top; what tests/cli expects can fail; a package
# is listed once.
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
# Under `set -e` neither `! command` nor what stands before `&&` ends a test.
if grep -nE '^ *(!|\[ .* \] &&|\[\[ .* \]\] &&) ' tests/cli/*.bats; then
  echo "tests/cli: these cannot fail: one condition a line, \`run ! command\` for what must not hold"
  failed=1
fi
twice=$(awk '!/^#/ && NF {print $1}' tools/debian-packages.txt | sort | uniq -d)
[ -z "$twice" ] || { echo "tools/debian-packages.txt lists $twice twice: setup would ask for a version of two lines"; failed=1; }
exit $failed
