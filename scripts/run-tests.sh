#!/usr/bin/env bash
# Runs every test and counts what was skipped. In CI a skip is an error unless it says why it may be one.
set -uo pipefail
log=$(mktemp)
trap 'rm -f "$log"' EXIT
cargo test --locked --workspace --no-fail-fast -- --nocapture 2>&1 | tee "$log" | grep -vE '^$' 
status=${PIPESTATUS[0]}
# A skip line reads: SKIPPED name: reason
skipped=$(grep -c '^SKIPPED ' "$log")
excused=$(grep '^SKIPPED ' "$log" | grep -cE '\[cannot be had\]|\[not on PATH\]|\[outside the clone\]')
passed=$(grep -oE '^test result: .* ([0-9]+) passed' "$log" | grep -oE '[0-9]+ passed' | awk '{n+=$1} END {print n+0}')
failed=$(grep -oE '[0-9]+ failed' "$log" | awk '{n+=$1} END {print n+0}')
grep '^SKIPPED ' "$log" | sort | uniq -c
echo "$passed passed, $failed failed, $skipped skipped"
if [ -n "${CI:-}" ] && [ "$skipped" -gt "$excused" ]; then
  echo "in CI a skipped test is an error"
  exit 1
fi
exit "$status"
