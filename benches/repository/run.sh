#!/usr/bin/env bash
# Lifeboat beside its peers on the same data in one run: encryption on, fsync as each tool does it,
# the page cache dropped before each run where the user may, RUNS runs of each work in turn, medians,
# and the ratio to Lifeboat in one table.
#   eval "$(benches/peers/build.sh)"; WORKS="mixed tree" RUNS=5 benches/repository/run.sh target/release/lifeboat
# WORKS   mixed     first backup, second backup with 1 % changed, restore, check, of MEGABYTES (4096) of mixed files
#         tree      first backup of FILES (70000) files like those of a large program's sources
#         million   unchanged second backup of MILLION (1000000) files; one of them restored
#         newest, anywhere   DAYS (30) daily dumps of a table of TABLE (1024) MB: growth of the repository
#         paged     a file of PAGED (4096) MB with 1 % of its 8 KiB pages overwritten: growth
#         prune     SNAPSHOTS (365) snapshots of MEGABYTES_PRUNE (128) of mixed files of which all but KEEP (65) go;
#                   once more while a backup runs
# CODEC   same: zstd at level 3 for all; own: each tool's default
# A peer that is not there (RESTIC, KOPIA, RUSTIC, BORG, BORG2) is named and left out.
set -euo pipefail
lifeboat=$(realpath "${1:?path of the lifeboat binary}")
runs=${RUNS:-5}
benches=$(cd "$(dirname "$0")/.." && pwd)
make_data=$(realpath "$benches/../target/release/bench-data")
work=$(mktemp -d "${BENCH_DIR:-/var/tmp}/lifeboat-bench.XXXXXX")
trap 'rm -rf "$work"' EXIT
results=$work/results data=$work/data
touch "$results" "$work/failures"
export work lifeboat data CODEC=${CODEC:-same}
# shellcheck source=../tools.sh
source "$benches/tools.sh"
mapfile -t tools < <(echo lifeboat; tools_at_hand)

init() { tool_init "$1" "$data" >"$work/out" 2>&1 || { echo "init of $1 failed:" >&2; tail -5 "$work/out" >&2; exit 1; }; }
# An empty directory to restore into. What was there is emptied and put aside until the end: ext4 without a journal
# looks at every inode that was deleted within a minute for each file that is made, whoever makes it.
restored() {
  if [ -d "$work/restored" ]; then
    mkdir -p "$work/aside"
    find "$work/restored" -type f -exec truncate -s 0 {} +
    mv "$work/restored" "$(mktemp -d "$work/aside/XXXXXX")"
  fi
  mkdir "$work/restored"
}
# Where a tool puts the tree below the directory that it restores into.
same_as_data() {
  local found=$work/restored
  [ ! -d "$found$data" ] || found=$found$data
  diff -rq "$data" "$found" >"$work/out" 2>&1 || { echo "$1 restored something else:" >&2; tail -3 "$work/out" >&2; echo "$1 restore" >>"$work/failures"; }
}

mixed() {
  local run=$1 tool
  rm -rf "$data"
  "$make_data" mixed "$data" "${MEGABYTES:-4096}" 42
  for tool in "${tools[@]}"; do
    init "$tool"
    timed first "$tool" tool_backup "$tool" "$data" one
    note first-bytes "$tool" "$(repo_bytes "$tool")"
  done
  "$make_data" change "$data" 10 "$run"
  for tool in "${tools[@]}"; do
    timed second "$tool" tool_backup "$tool" "$data" two
    note second-bytes "$tool" "$(repo_bytes "$tool")"
    restored
    timed restore "$tool" tool_restore "$tool" "$work/restored" two
    same_as_data "$tool"
    restored
    timed check "$tool" tool_check "$tool"
    forget_tool "$tool"
  done
}

tree() {
  local tool
  if [ ! -d "$work/code" ]; then "$make_data" code "$work/code" "${FILES:-70000}" 42; fi
  data=$work/code
  for tool in "${tools[@]}"; do
    init "$tool"
    timed tree "$tool" tool_backup "$tool" "$data" one
    note tree-bytes "$tool" "$(repo_bytes "$tool")"
    forget_tool "$tool"
  done
  data=$work/data
}

million() {
  local tool one run
  python3 "$benches/repository/many.py" "$work/many" "${MILLION:-1000000}"
  data=$work/many
  one=$(find "$data" -type f -name '*77.txt' | sort | sed -n 5p)
  for tool in "${tools[@]}"; do
    init "$tool"
    timed million-first "$tool" tool_backup "$tool" "$data" one
    for run in $(seq "$runs"); do
      timed million-unchanged "$tool" tool_backup "$tool" "$data" "again-$run"
      restored
      timed million-one-file "$tool" tool_one "$tool" "$work/restored" "again-$run" "$one"
      find "$work/restored" -type f -exec cmp -s {} "$one" \; -print | grep -q . || { echo "$tool did not restore the one file" >&2; echo "$tool one" >>"$work/failures"; }
    done
    forget_tool "$tool"
  done
  rm -rf "$data"
  data=$work/data
}

# A day's dump is a new file of the same name: nothing about it tells what changed. The same days for each tool.
days() {
  local kind=$1 tool day first changed rest
  for tool in "${tools[@]}"; do
    rm -rf "$data"
    mkdir "$data"
    "$make_data" rows "$data/dump.sql" "${TABLE:-1024}" 42
    init "$tool"
    timed "$kind-first" "$tool" tool_backup "$tool" "$data" "day-0"
    first=$(repo_bytes "$tool") changed=0
    for day in $(seq "${DAYS:-30}"); do
      read -r _ _ rest < <("$make_data" "$kind" "$data/dump.sql" "$day" 42)
      changed=$((changed + rest))
      timed "$kind-day" "$tool" tool_backup "$tool" "$data" "day-$day"
    done
    note "$kind-growth" "$tool" $(($(repo_bytes "$tool") - first))
    restored
    timed "$kind-restore" "$tool" tool_restore "$tool" "$work/restored" "day-${DAYS:-30}"
    same_as_data "$tool"
    forget_tool "$tool"
  done
  note "$kind-growth" changed-bytes-compressed "$changed"
}

paged() {
  local run=$1 tool before
  rm -rf "$data"
  mkdir "$data"
  "$make_data" pages "$data/base.db" "${PAGED:-4096}" 42
  export PAGED_NAMES='"*.db"'
  for tool in "${tools[@]}"; do
    init "$tool"
    timed paged-first "$tool" tool_backup "$tool" "$data" one
  done
  unset PAGED_NAMES
  "$make_data" change "$data/base.db" 10 "$run"
  note paged-growth changed-bytes $((${PAGED:-4096} * 1048576 / 100))
  for tool in "${tools[@]}"; do
    before=$(repo_bytes "$tool")
    timed paged-second "$tool" tool_backup "$tool" "$data" two
    note paged-growth "$tool" $(($(repo_bytes "$tool") - before))
    restored
    timed paged-restore "$tool" tool_restore "$tool" "$work/restored" two
    same_as_data "$tool"
    forget_tool "$tool"
  done
}

# Each run prunes the same history. Lifeboat waits for its grace period, here 20 seconds, between its two steps: the
# wait is left out, both steps count.
prune() {
  local tool number run keep=${KEEP:-65} beside
  for tool in "${tools[@]}"; do
    rm -rf "$data"
    "$make_data" mixed "$data" "${MEGABYTES_PRUNE:-128}" 42
    KEEP=$keep GRACE=20s init "$tool"
    for number in $(seq "${SNAPSHOTS:-365}"); do
      "$make_data" change "$data" 4 "$number"
      tool_backup "$tool" "$data" "n-$number" >"$work/out" 2>&1 || { echo "$tool: backup $number failed" >&2; tail -3 "$work/out" >&2; }
    done
    note prune-before "$tool" "$(repo_bytes "$tool")"
    mv "$work/$tool" "$work/$tool.history"
    for run in $(seq "$runs"); do
      rm -rf "${work:?}/$tool"
      cp -a "$work/$tool.history" "$work/$tool"
      timed prune "$tool" tool_prune "$tool" "$keep"
      if [ "$tool" = lifeboat ]; then
        sleep 20.5
        timed prune "$tool" tool_free
        add_last_two
      fi
      note prune-after "$tool" "$(repo_bytes "$tool")"
    done
    # And once more beside a backup: how each of the two ends.
    rm -rf "${work:?}/$tool"
    mv "$work/$tool.history" "$work/$tool"
    "$make_data" change "$data" 500 1
    tool_backup "$tool" "$data" beside >"$work/beside" 2>&1 &
    beside=$!
    tool_prune "$tool" "$keep" >"$work/out" 2>&1 || { echo "$tool: a prune beside a backup failed: $(tail -1 "$work/out")" >>"$work/told"; }
    wait "$beside" || { echo "$tool: a backup beside a prune failed: $(tail -1 "$work/beside")" >>"$work/told"; }
    forget_tool "$tool"
  done
}

# Makes one result of the last two.
add_last_two() {
  awk '{ line[NR] = $0 } END {
    for (i = 1; i <= NR - 2; i++) print line[i]
    split(line[NR - 1], a, " "); split(line[NR], b, " ")
    print a[1], a[2], a[3] + b[3], a[4] + b[4], a[5] + b[5], (a[6] > b[6] ? a[6] : b[6])
  }' "$results" >"$work/sum" && mv "$work/sum" "$results"
}

for one in ${WORKS:-mixed}; do
  case $one in
    newest | anywhere) days "$one" ;;
    million | prune) "$one" ;;
    mixed | tree | paged) for run in $(seq "$runs"); do "$one" "$run"; done ;;
    *) echo "unknown work $one" >&2; exit 2 ;;
  esac
done

for tool in "${tools[@]}"; do tool_version "$tool"; done
echo "codec: $CODEC; runs: $runs; $(nproc) cores; $(uname -r)"
awk '
  { key = $1 " " $2; n[key]++; v[key, n[key]] = $3; cpu[key] += $4 + $5; if ($6 > peak[key]) peak[key] = $6
    if (!seen[$1]++) works[++w] = $1; if (!met[$2]++) tools[++t] = $2 }
  function median(key,   i, j, x, a, c) {
    c = n[key]; for (i = 1; i <= c; i++) a[i] = v[key, i]
    for (i = 2; i <= c; i++) { x = a[i]; for (j = i - 1; j > 0 && a[j] > x; j--) a[j + 1] = a[j]; a[j + 1] = x }
    return c ? a[int((c + 1) / 2)] : 0
  }
  END {
    printf "%-18s %-10s %4s %16s %9s %9s %9s\n", "work", "tool", "runs", "median", "cpu s", "peak MiB", "ratio"
    for (i = 1; i <= w; i++) for (j = 1; j <= t; j++) {
      key = works[i] " " tools[j]; if (!n[key]) continue
      base = median(works[i] " lifeboat")
      printf "%-18s %-10s %4d %16.2f %9.2f %9d %9.2f\n", works[i], tools[j], n[key], median(key), cpu[key] / n[key], peak[key] / 1024, base ? median(key) / base : 0
    }
  }' "$results"
[ ! -s "$work/told" ] || cat "$work/told"
if [ -s "$work/failures" ]; then echo "failed:"; sort "$work/failures" | uniq -c; exit 1; fi
