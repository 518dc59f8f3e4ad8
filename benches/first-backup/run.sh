#!/usr/bin/env bash
# First backup, second backup after 1 % changed, restore: Lifeboat beside restic and borg on the
# same data, zstd level 3, encryption on, fsync as each tool does it, page cache dropped before
# each run where the user may, RUNS runs each, medians, ratios in one table.
#   RUNS=5 MEGABYTES=2048 RESTIC=/path/to/restic BORG=/path/to/borg benches/first-backup/run.sh target/release/lifeboat
# A peer that is not there is named and left out.
set -euo pipefail
lifeboat=$(realpath "${1:?path of the lifeboat binary}")
runs=${RUNS:-5} megabytes=${MEGABYTES:-2048}
restic=${RESTIC:-$(command -v restic || true)} borg=${BORG:-$(command -v borg || true)}
here=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d "${BENCH_DIR:-/var/tmp}/lifeboat-bench.XXXXXX")
trap 'rm -rf "$work"' EXIT
results=$work/results
export RESTIC_PASSWORD=bench BORG_PASSPHRASE=bench BORG_BASE_DIR=$work/borg-home RESTIC_CACHE_DIR=$work/restic-cache
export BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes BORG_RELOCATED_REPO_ACCESS_IS_OK=yes

"$here/target/release/mixed-files" write "$work/data" "$megabytes" 42

drop() { sync; [ "$(id -u)" != 0 ] || echo 3 >/proc/sys/vm/drop_caches; }
# run TOOL WORK COMMAND...: seconds and peak memory of one command
run() {
  local tool=$1 what=$2
  shift 2
  drop
  /usr/bin/env time -f "$tool $what %e %M" -a -o "$results" "$@" >"$work/out" 2>&1 || { echo "$tool $what failed:"; tail -5 "$work/out"; exit 1; }
}
size() { du -sb "$1" | cut -f1; }

config() {
  cat >"$work/lifeboat.yaml" <<YAML
stack: bench
role: both
stateDir: $work/state
repositories:
  main:
    url: file://$work/repo-lifeboat
    writerKeyFile: $work/keys/writer.key
    maintainerKeyFile: $work/keys/maintainer.key
    identityFile: $work/keys/identity.key
    zstdLevel: 3
sources:
  data:
    kind: files
    paths: [$work/data]
YAML
}

for i in $(seq "$runs"); do
  rm -rf "$work"/repo-* "$work"/state "$work"/keys "$work"/restored "$work"/borg-home "$work"/restic-cache "$work"/data
  "$here/target/release/mixed-files" write "$work/data" "$megabytes" 42
  mkdir "$work/keys"
  config
  "$lifeboat" --config "$work/lifeboat.yaml" init >/dev/null 2>&1
  [ -z "$restic" ] || "$restic" -r "$work/repo-restic" init >/dev/null
  [ -z "$borg" ] || "$borg" init -e repokey-blake2 "$work/repo-borg"

  run lifeboat first "$lifeboat" --config "$work/lifeboat.yaml" --quiet backup
  echo "lifeboat first-bytes $(size "$work/repo-lifeboat") 0" >>"$results"
  if [ -n "$restic" ]; then
    run restic first env RESTIC_COMPRESSION=auto "$restic" -r "$work/repo-restic" --quiet backup "$work/data"
    echo "restic first-bytes $(size "$work/repo-restic") 0" >>"$results"
  fi
  if [ -n "$borg" ]; then
    run borg first "$borg" create --compression zstd,3 "$work/repo-borg::one" "$work/data"
    echo "borg first-bytes $(size "$work/repo-borg") 0" >>"$results"
  fi

  "$here/target/release/mixed-files" change "$work/data" 10 "$i"
  run lifeboat second "$lifeboat" --config "$work/lifeboat.yaml" --quiet backup
  echo "lifeboat second-bytes $(size "$work/repo-lifeboat") 0" >>"$results"
  if [ -n "$restic" ]; then
    run restic second "$restic" -r "$work/repo-restic" --quiet backup "$work/data"
    echo "restic second-bytes $(size "$work/repo-restic") 0" >>"$results"
  fi
  if [ -n "$borg" ]; then
    run borg second "$borg" create --compression zstd,3 "$work/repo-borg::two" "$work/data"
    echo "borg second-bytes $(size "$work/repo-borg") 0" >>"$results"
  fi

  run lifeboat restore "$lifeboat" --config "$work/lifeboat.yaml" --quiet restore data --to "$work/restored/lifeboat" --yes
  diff -r "$work/data" "$work/restored/lifeboat$work/data" || { echo "lifeboat restored something else"; exit 1; }
  rm -rf "$work/restored"
  if [ -n "$restic" ]; then
    run restic restore "$restic" -r "$work/repo-restic" --quiet restore latest --target "$work/restored"
    rm -rf "$work/restored"
  fi
  if [ -n "$borg" ]; then
    mkdir -p "$work/restored"
    (cd "$work/restored" && run borg restore "$borg" extract "$work/repo-borg::two")
    rm -rf "$work/restored"
  fi
done

[ -n "$restic" ] && "$restic" version || echo "restic: not had, left out"
[ -n "$borg" ] && "$borg" --version || echo "borg: not had, left out"
"$lifeboat" --version
awk -v runs="$runs" '
  { key = $1 " " $2; n[key]++; v[key, n[key]] = $3; if ($4 > peak[key]) peak[key] = $4; seen[$2] = 1; tool[$1] = 1 }
  function median(key,   i, j, t, a, c) {
    c = n[key]; for (i = 1; i <= c; i++) a[i] = v[key, i]
    for (i = 2; i <= c; i++) { t = a[i]; for (j = i - 1; j > 0 && a[j] > t; j--) a[j + 1] = a[j]; a[j + 1] = t }
    return c ? a[int((c + 1) / 2)] : 0
  }
  END {
    printf "%-13s %-9s %14s %12s %16s\n", "work", "tool", "median", "peak MiB", "ratio to lifeboat"
    split("first second restore first-bytes second-bytes", order, " ")
    for (w = 1; w <= 5; w++) for (t in tool) {
      key = t " " order[w]; if (!n[key]) continue
      base = median("lifeboat " order[w])
      printf "%-13s %-9s %14.2f %12d %16.2f\n", order[w], t, median(key), peak[key] / 1024, base ? median(key) / base : 0
    }
  }' "$results"
