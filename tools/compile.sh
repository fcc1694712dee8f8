#!/usr/bin/env bash
# compile.sh LOG COMMAND ...: runs one compilation, and appends "user_s system_s output" to LOG for tools/check_budgets.py.
log=$1
shift
for ((i = 1; i < $#; ++i)); do
  if [ "${!i}" = -o ]; then
    next=$((i + 1))
    output=${!next}
  fi
done
# ccache takes a precompiled header of an earlier build for one that this compilation uses, and misses.
case ${output:-} in
  *.gch) rm -f "$output" ;;
esac
TIMEFORMAT="%U %S ${output:-?}"
exec 4>&2
{ time "$@" 2>&4; } 2>>"$log"
