#!/usr/bin/env bash
# Builds the peers that benches compare with into .servers/peers: restic 0.19.1 (needs go), borg
# 1.4.5 (needs python3 with venv, and Debian's development packages of acl, lz4, zstd, xxhash, openssl).
# Prints the lines to export. What cannot be had is named and left out.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$PWD/.servers/peers
mkdir -p "$out"
if [ ! -x "$out/restic" ]; then
  if command -v go >/dev/null; then
    (cd benches/peers/restic && GOFLAGS=-mod=mod GOTOOLCHAIN=local go build -o "$out/restic" github.com/restic/restic/cmd/restic)
  else
    echo "restic: go is not on PATH" >&2
  fi
fi
if [ ! -x "$out/borg/bin/borg" ]; then
  sudo=(); [ "$(id -u)" = 0 ] || sudo=(sudo)
  "${sudo[@]}" apt-get install -y -q --no-install-recommends libacl1-dev liblz4-dev libzstd-dev libxxhash-dev libssl-dev pkg-config >&2
  python3 -m venv "$out/borg" && "$out/borg/bin/pip" install -q borgbackup==1.4.5 >&2 || echo "borg: no python3 that builds it" >&2
fi
[ ! -x "$out/restic" ] || echo "export RESTIC=$out/restic"
[ ! -x "$out/borg/bin/borg" ] || echo "export BORG=$out/borg/bin/borg"
