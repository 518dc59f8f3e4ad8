#!/usr/bin/env bash
# Builds the peers that benches compare with into .servers/peers, in pinned versions:
#   restic 0.19.1, kopia 0.23.1 (need go), rustic 0.11.4 (cargo), borg 1.4.5 and 2.0.0b25 (python3
#   with venv, and Debian's development packages of acl, lz4, zstd, xxhash, openssl).
# Prints the lines to export. `build.sh NAME...` builds only those. What cannot be had is named and left out.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$PWD/.servers/peers
mkdir -p "$out"
wanted=("$@")
[ $# -gt 0 ] || wanted=(restic kopia rustic borg borg2)

# from_go NAME PACKAGE: with the sums that stand beside
from_go() {
  [ ! -x "$out/$1" ] || return 0
  command -v go >/dev/null || { echo "$1: go is not on PATH" >&2; return 0; }
  (cd "benches/peers/$1" && GOFLAGS=-mod=mod GOTOOLCHAIN=local go build -o "$out/$1" "$2") >&2 || echo "$1: it does not build" >&2
}

from_cargo() {
  [ ! -x "$out/rustic" ] || return 0
  CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
    cargo install rustic-rs --version 0.11.4 --locked --no-default-features --root "$out/rustic-root" >&2 &&
    ln -sf rustic-root/bin/rustic "$out/rustic" || echo "rustic: it does not build" >&2
}

# from_pip FOLDER VERSION PROGRAM
from_pip() {
  [ ! -x "$out/$1/bin/$3" ] || return 0
  local sudo=()
  [ "$(id -u)" = 0 ] || sudo=(sudo)
  "${sudo[@]}" apt-get install -y -q --no-install-recommends libacl1-dev liblz4-dev libzstd-dev libxxhash-dev libssl-dev pkg-config >&2
  python3 -m venv "$out/$1" && "$out/$1/bin/pip" install -q "borgbackup==$2" >&2 || echo "$1: no python3 that builds it" >&2
}

for name in "${wanted[@]}"; do
  case $name in
    restic) from_go restic github.com/restic/restic/cmd/restic; program=$out/restic ;;
    kopia) from_go kopia github.com/kopia/kopia; program=$out/kopia ;;
    rustic) from_cargo; program=$out/rustic ;;
    borg) from_pip borg 1.4.5 borg; program=$out/borg/bin/borg ;;
    borg2) from_pip borg2 2.0.0b25 borg; program=$out/borg2/bin/borg ;;
    *) echo "unknown peer $name" >&2; exit 2 ;;
  esac
  [ ! -x "$program" ] || echo "export ${name^^}=$program"
done
