# How a bench drives Lifeboat and its peers: for each tool the same verbs, on one repository below $work.
# Sourced by the scripts beside it; they set `work`, `lifeboat`, and CODEC (same: zstd 3 for all; own: each tool's default).
# shellcheck shell=bash disable=SC2154
export RESTIC_PASSWORD=bench RUSTIC_PASSWORD=bench KOPIA_PASSWORD=bench BORG_PASSPHRASE=bench
export BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes BORG_RELOCATED_REPO_ACCESS_IS_OK=yes KOPIA_CHECK_FOR_UPDATES=false
codec=${CODEC:-same}

# The tools that are at hand; what is not is named.
tools_at_hand() {
  local tool
  for tool in restic kopia rustic borg borg2; do
    local variable=${tool^^}
    if [ -n "${!variable:-}" ]; then echo "$tool"; else echo "$tool: not had, left out" >&2; fi
  done
}

tool_version() {
  case $1 in
    lifeboat) "$lifeboat" --version ;;
    restic) "$RESTIC" version | cut -d' ' -f1-2 ;;
    kopia) echo "kopia $("$KOPIA" --version | cut -d' ' -f1)" ;;
    rustic) "$RUSTIC" --version ;;
    borg) "$BORG" --version ;;
    borg2) "$BORG2" --version ;;
  esac
}

# Everything that a tool keeps on this machine lies below $work/TOOL; the repository is $work/TOOL/repo.
forget_tool() { rm -rf "${work:?}/$1"; mkdir -p "$work/$1/state"; }

lifeboat() { "$lifeboat" --config "$work/lifeboat/lifeboat.yaml" --quiet "$@"; }
restic() { env RESTIC_CACHE_DIR="$work/restic/state" "$RESTIC" -r "$work/restic/repo" --quiet "$@"; }
kopia() { "$KOPIA" --config-file="$work/kopia/state/config" --log-dir="$work/kopia/state/logs" --no-progress "$@"; }
rustic() { "$RUSTIC" -r "$work/rustic/repo" --cache-dir "$work/rustic/state" --no-progress --log-level error "$@"; }
borg() { env BORG_BASE_DIR="$work/borg/state" "$BORG" "$@"; }
borg2() { env BORG_BASE_DIR="$work/borg2/state" "$BORG2" -r "$work/borg2/repo" "$@"; }

# tool_init TOOL DATA: an empty repository that will hold backups of DATA
tool_init() {
  forget_tool "$1"
  case $1 in
    lifeboat)
      local level=3
      [ "$codec" = same ] || level=1
      cat >"$work/lifeboat/lifeboat.yaml" <<YAML
stack: bench
role: both
stateDir: $work/lifeboat/state
repositories:
  main:
    url: file://$work/lifeboat/repo
    writerKeyFile: $work/lifeboat/writer.key
    maintainerKeyFile: $work/lifeboat/maintainer.key
    identityFile: $work/lifeboat/identity.key
    zstdLevel: $level
    retentionPolicy: { keepLast: ${KEEP:-65} }
sources:
  data:
    kind: files
    paths: [$2]
    paged: [${PAGED_NAMES:-}]
YAML
      lifeboat init --grace "${GRACE:-48h}" ;;
    restic) restic init ;;
    kopia)
      "$KOPIA" --config-file="$work/kopia/state/config" --log-dir="$work/kopia/state/logs" repository create filesystem \
        --path="$work/kopia/repo" --cache-directory="$work/kopia/state/cache"
      [ "$codec" != same ] || kopia policy set --global --compression=zstd ;;
    rustic)
      rustic init
      [ "$codec" != same ] || rustic config --set-compression 3 ;;
    borg) borg init -e repokey-blake2 "$work/borg/repo" ;;
    borg2) borg2 repo-create -e aes256-ocb || borg2 repo-create -e repokey-aes-ocb ;;
  esac
}

# Words that make a borg compress as its peers do.
borg_codec() { [ "$codec" != same ] || echo "--compression zstd,3"; }

# tool_backup TOOL DATA NAME
tool_backup() {
  # shellcheck disable=SC2046
  case $1 in
    lifeboat) lifeboat backup ;;
    restic) restic backup "$2" ;;
    kopia) kopia snapshot create "$2" ;;
    rustic) rustic backup "$2" ;;
    borg) borg create $(borg_codec) "$work/borg/repo::$3" "$2" ;;
    borg2) borg2 create $(borg_codec) "$3" "$2" ;;
  esac
}

# Id of kopia's newest snapshot.
kopia_newest() { kopia snapshot list --json | python3 -c 'import json,sys; print(json.load(sys.stdin)[-1]["id"])'; }

# tool_restore TOOL OUT NAME: the newest snapshot, called NAME, into the empty directory OUT, on disk.
# Lifeboat flushes before it says that it is done; the peers do not, so that is done for them.
tool_restore() {
  restore_with "$@"
  [ "$1" = lifeboat ] || sync -f "$2"
}

restore_with() {
  case $1 in
    lifeboat) lifeboat restore data --to "$2" --yes ;;
    restic) restic restore latest --target "$2" ;;
    kopia) kopia snapshot restore "$(kopia_newest)" "$2" ;;
    rustic) rustic restore latest "$2" ;;
    borg) (cd "$2" && borg extract "$work/borg/repo::$3") ;;
    borg2) (cd "$2" && borg2 extract "$3") ;;
  esac
}

# tool_one TOOL OUT NAME PATH: one file of the newest snapshot
tool_one() {
  case $1 in
    lifeboat) lifeboat restore data --to "$2" --only "$4" --yes ;;
    restic) restic restore latest --target "$2" --include "$4" ;;
    kopia) kopia restore "$(kopia_newest)/${4#"$data"/}" "$2/one" ;;
    rustic) rustic restore "latest:$4" "$2/one" ;;
    borg) (cd "$2" && borg extract "$work/borg/repo::$3" "${4#/}") ;;
    borg2) (cd "$2" && borg2 extract "$3" "${4#/}") ;;
  esac
}

# tool_check TOOL: reads all data
tool_check() {
  case $1 in
    lifeboat) lifeboat check --read-data ;;
    restic) restic check --read-data ;;
    kopia) kopia snapshot verify --verify-files-percent=100 ;;
    rustic) rustic check --read-data ;;
    borg) borg check --verify-data "$work/borg/repo" ;;
    borg2) borg2 check --verify-data ;;
  esac
}

# tool_prune TOOL KEEP: forgets all but the newest KEEP snapshots, and frees what they alone used.
# Lifeboat deletes when its grace period is over, by tool_free.
tool_prune() {
  case $1 in
    lifeboat) lifeboat forget --yes && lifeboat prune --yes ;;
    restic) restic forget --keep-last "$2" --prune ;;
    kopia)
      kopia policy set --global --keep-latest="$2" --keep-hourly=0 --keep-daily=0 --keep-weekly=0 --keep-monthly=0 --keep-annual=0
      kopia snapshot expire --all --delete && kopia maintenance run --full --safety=none ;;
    rustic) rustic forget --keep-last "$2" --prune --instant-delete ;;
    borg) borg prune --keep-last "$2" "$work/borg/repo" && borg compact "$work/borg/repo" ;;
    borg2) borg2 prune --keep-last "$2" && borg2 compact ;;
  esac
}

tool_free() { lifeboat prune --yes; }

# timed WORK TOOL FUNCTION ARGUMENTS...: wall seconds, CPU seconds and peak memory of the tool's process into $results.
# The page cache is emptied first where the user may. Functions cannot be started by time(1): the tool is its child.
timed() {
  local what=$1 tool=$2
  shift 2
  sync
  [ "$(id -u)" != 0 ] || echo 3 >/proc/sys/vm/drop_caches
  work=$work lifeboat=$lifeboat data=${data:-} command time -f "$what $tool %e %U %S %M" -a -o "$results" \
    bash "$benches/call.sh" "$@" >"$work/out" 2>&1 ||
    { echo "$what $tool failed:" >&2; tail -15 "$work/out" >&2; sed -i '$d' "$results"; echo "$what $tool failed" >>"$work/failures"; }
}

# note WORK TOOL NUMBER: a figure that is not a time
note() { echo "$1 $2 $3 0 0 0" >>"$results"; }
# Of files alone: some peers make hundreds of directories.
repo_bytes() { find "$work/$1/repo" -type f -printf '%s\n' | awk '{ sum += $1 } END { printf "%.0f\n", sum }'; }
