#!/usr/bin/env bash
# What each work costs on a repository of many chunks: seconds, CPU seconds and peak memory of our process.
#   cargo build --release -p lifeboat-repo --example many-chunks
#   CHUNKS="1000000 10000000" benches/repository/chunks.sh target/release/lifeboat
# CHUNKS  numbers of chunks, each a repository of its own; 10,000,000 take about 4 GB on disk
# MEMORY  memoryBudget of the configuration (256MiB)
# FILLED  a directory that keeps the filled repositories for the next run, on the same file system (none)
# WORKS   which works, in this order (all; see below); works that come later may need earlier ones
# The chunks are those of 20 snapshots, of which forget leaves 10.
set -euo pipefail
lifeboat=$(realpath "${1:?path of the lifeboat binary}")
many_chunks=$(realpath "$(dirname "$lifeboat")/examples/many-chunks")
work=$(mktemp -d "${BENCH_DIR:-/var/tmp}/lifeboat-chunks.XXXXXX")
trap 'rm -rf "$work"' EXIT
results=$work/results

configure() {
  local name
  cat >"$work/lifeboat.yaml" <<YAML
stack: bench
role: both
stateDir: $work/state
memoryBudget: ${MEMORY:-256MiB}
repositories:
YAML
  for name in main second; do
    cat >>"$work/lifeboat.yaml" <<YAML
  $name:
    url: file://$work/$name
    writerKeyFile: $work/$name-writer.key
    maintainerKeyFile: $work/$name-maintainer.key
    identityFile: $work/$name-identity.key
    retentionPolicy: { keepLast: 10 }
YAML
  done
  cat >>"$work/lifeboat.yaml" <<YAML
sources:
  many: { kind: files, paths: [/srv/many], repository: main }
  small: { kind: files, paths: [$work/small], repository: main }
YAML
}

ours() { "$lifeboat" --config "$work/lifeboat.yaml" --quiet "$@"; }

# measured NAME CODE ARGUMENTS...: one row; CODE is the exit code that is right.
measured() {
  local name=$1 right=$2 code=0
  shift 2
  case " ${WORKS:-$name} " in *" $name "*) ;; *) return 0 ;; esac
  [ "$(id -u)" != 0 ] || { sync; echo 3 >/proc/sys/vm/drop_caches; }
  command time -q -f "%e %U %S %M" -o "$work/time" "$lifeboat" --config "$work/lifeboat.yaml" --quiet "$@" >"$work/out" 2>&1 || code=$?
  if [ "$code" != "$right" ]; then
    echo "$name ended with $code:" >&2
    tail -5 "$work/out" >&2
    name="$name(failed:$code)"
  fi
  echo "$count $name $(tail -1 "$work/time")" | tee -a "$results" >&2
}

# fill DIR: both repositories with their keys, the first of them with all the chunks.
fill() {
  ours init --grace 40s >"$work/out"
  command time -f "%e %U %S %M" -o "$work/time" "$many_chunks" "$work/main" "$work/main-writer.key" "$work/cache" "$work/scratch" bench many "$count" 20 >"$work/out"
  echo "$count (fill) $(tail -1 "$work/time")" | tee -a "$results" >&2
  rm -rf "$work/cache" "$work/state"
  mkdir -p "$1"
  mv "$work"/{main,second,*.key} "$1"
}

damage() {
  # The newest pack of data: a snapshot that stays needs it.
  local pack
  pack=$(find "$work/main/data" -type f -printf '%T@ %p\n' | sort -n | tail -1 | cut -d' ' -f2)
  # Not in place: it may be linked to a filled repository that is kept.
  head -c -1000 "$pack" >"$work/damaged"
  mv -f "$work/damaged" "$pack"
}

for count in ${CHUNKS:-1000000 10000000}; do
  rm -rf "$work"/{main,second,state,small,out-*,*.key}
  configure
  mkdir -p "$work/small" "$work/scratch"
  for number in $(seq 100); do seq "$number" 2000 >"$work/small/$number.txt"; done
  filled=${FILLED:-$work/filled}/$count
  [ -d "$filled" ] || fill "$filled"
  cp -al "$filled"/. "$work"
  # A file of the newest snapshot.
  number=$((count - 1)) folder=$(printf '/srv/many/%06d' $(((count - 1) / 1000)))
  measured snapshots-without-cache 0 snapshots
  measured snapshots 0 snapshots
  measured ls 0 ls "many:$folder"
  measured restore-one-file 0 restore many --to "$work/out-one" --only "$folder/$(printf '%09d' $number)" --yes
  measured backup-small 0 backup small
  measured backup-small-unchanged 0 backup small
  measured restore-small 0 restore small --to "$work/out-small" --yes
  measured check 0 check --from main
  measured check-read-data 0 check --from main --read-data
  measured check-since-last 0 check --from main --since-last
  measured copy-small 0 copy small --from main --to second
  measured copy-many 0 copy many@latest --from main --to second
  measured forget 0 forget --yes
  measured prune-mark 0 prune --yes --from main
  # Until the grace period is over.
  sleep 45
  measured prune-delete 0 prune --yes --from main
  damage
  measured repair 0 repair --repository main --from second --yes
done

echo "memoryBudget: ${MEMORY:-256MiB}; $(nproc) cores; $(uname -r); $("$lifeboat" --version)"
awk '{ printf "%-10d %-26s %9.2f s %9.2f s CPU %6d MiB\n", $1, $2, $3, $4 + $5, $6 / 1024 }' "$results"
