#!/usr/bin/env bash
# Upload and download of one amount of noise over loopback SSH: this program's SFTP store against scp, to the same
# OpenSSH server and file system, one after the other.
#   benches/ssh/run.sh [MIB] [DIRECTORY]      default 1024 MiB in /dev/shm
# Builds the measuring program with CARGO_PROFILE_RELEASE_LTO=off. Needs sshd, ssh-keygen and scp; runs as root or as any user.
set -euo pipefail
cd "$(dirname "$0")/../.."
mib=${1:-1024}
work=$(mktemp -d "${2:-/dev/shm}/lifeboat-ssh.XXXXXX")
CARGO_PROFILE_RELEASE_LTO=off cargo build -q --release --locked -p lifeboat-store --example store_throughput
measure=${CARGO_TARGET_DIR:-target}/release/examples/store_throughput
server=
stop() {
  [ -z "$server" ] || kill "$server" 2>/dev/null || true
  rm -rf "$work"
}
trap stop EXIT
ssh-keygen -q -t ed25519 -N '' -f "$work/host_key"
ssh-keygen -q -t ed25519 -N '' -f "$work/key"
cp "$work/key.pub" "$work/authorized_keys"
for port in $(shuf -i 20000-50000 -n 20); do
  (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
done
printf '%s\n' "Port $port" 'ListenAddress 127.0.0.1' "HostKey $work/host_key" 'PidFile none' "AuthorizedKeysFile $work/authorized_keys" \
  'PasswordAuthentication no' 'UsePAM no' 'StrictModes no' 'PermitRootLogin prohibit-password' 'Subsystem sftp internal-sftp' >"$work/sshd_config"
[ "$(id -u)" != 0 ] || mkdir -p /run/sshd
/usr/sbin/sshd -D -e -f "$work/sshd_config" 2>"$work/log" &
server=$!
printf '[127.0.0.1]:%s %s\n' "$port" "$(cut -d' ' -f1,2 "$work/host_key.pub")" >"$work/known_hosts"
for _ in $(seq 100); do
  (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break
  sleep 0.05
done
echo "$(ssh -V 2>&1), $(nproc) cores, load $(cut -d' ' -f1 /proc/loadavg), $mib MiB in $(dirname "$work")"
head -c "${mib}M" /dev/urandom >"$work/noise"
copy() { scp -q -P "$port" -i "$work/key" -o "UserKnownHostsFile=$work/known_hosts" -o Ciphers=aes256-gcm@openssh.com "$@"; }
rate() { awk -v from="$1" -v to="$(date +%s.%N)" -v mib="$mib" 'BEGIN { printf "%.0f MB/s (%.2f s)\n", mib * 1.048576 / (to - from), to - from }'; }
for round in 1 2 3; do
  echo "round $round"
  start=$(date +%s.%N)
  copy "$work/noise" "127.0.0.1:$work/copy"
  echo "  scp put $(rate "$start")"
  start=$(date +%s.%N)
  copy "127.0.0.1:$work/copy" "$work/back"
  echo "  scp get $(rate "$start")"
  rm "$work/copy" "$work/back"
  for at_once in 1 4; do
    "$measure" "sftp://$(id -un)@127.0.0.1:$port$work/store" "$work/key" "$work/known_hosts" "$mib" "$at_once" | sed 's/^/  lifeboat /'
  done
done
