#!/usr/bin/env bash
# Installs from Debian what is lacking: with `build` only what compiling needs, otherwise also
# what the demo and the tests talk to. Asks apt only when something is missing.
set -euo pipefail
want=(cc:gcc make:make pkg-config:pkg-config)
if [ "${1:-}" != build ]; then
  want+=(/usr/lib/postgresql/15/bin/postgres:postgresql-15 /usr/lib/postgresql/15/bin/pg_dump:postgresql-client-15
    /usr/lib/postgresql/15/lib/pgcrypto.so:postgresql-15 setfacl:acl setfattr:attr setpriv:util-linux runuser:util-linux
    ceph-mon:ceph-mon ceph-osd:ceph-osd radosgw:radosgw ceph:ceph-common sshd:openssh-server ssh-keygen:openssh-client)
fi
missing=()
for pair in "${want[@]}"; do
  tool=${pair%%:*} package=${pair#*:}
  command -v "$tool" >/dev/null 2>&1 || [ -e "$tool" ] || [ -e "/usr/sbin/$tool" ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0
sudo=()
[ "$(id -u)" = 0 ] || sudo=(sudo)
echo "installing from Debian: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
"${sudo[@]}" apt-get update -q
"${sudo[@]}" apt-get install -y -q --no-install-recommends "${missing[@]}"
