#!/usr/bin/env bash
# The main job, end to end, on real data: a throw-away PostgreSQL and a file tree are backed up,
# changed, backed up again, destroyed, restored from the first snapshot, and proved equal.
#   scripts/demo.sh target/release/lifeboat
set -euo pipefail
lifeboat=$(realpath "${1:?path of the lifeboat binary}")
pgbin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -1)
work=$(mktemp -d /var/tmp/lifeboat-demo.XXXXXX)
chmod 755 "$work"
as_postgres=()
[ "$(id -u)" != 0 ] || as_postgres=(setpriv --reuid=postgres --regid=postgres --clear-groups env -i "PATH=$pgbin:/usr/bin:/bin" "HOME=$work/pg" LC_ALL=C.UTF-8)
pg() { "${as_postgres[@]}" "$@"; }
stop() {
  [ ! -d "$work/pg/data" ] || pg "$pgbin/pg_ctl" -D "$work/pg/data" -m immediate stop >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap stop EXIT
say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
show() { printf '\033[2m$ lifeboat %s\033[0m\n' "$*"; "$lifeboat" --config "$work/lifeboat.yaml" "$@"; }

say "A throw-away PostgreSQL ($("$pgbin/postgres" --version | grep -oE '[0-9.]+' | head -1)) in $work/pg"
mkdir -p "$work/pg"
[ "$(id -u)" != 0 ] || chown postgres: "$work/pg"
pg "$pgbin/initdb" -D "$work/pg/data" -U postgres -A trust --locale=C.UTF-8 -E UTF8 >/dev/null
for port in $(shuf -i 20000-50000 -n 20); do
  (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
done
pg "$pgbin/pg_ctl" -D "$work/pg/data" -l "$work/pg/log" -w -o "-p $port -c listen_addresses=127.0.0.1 -k $work/pg" start >/dev/null
export PGHOST=127.0.0.1 PGPORT=$port PGUSER=postgres PGOPTIONS=--client-min-messages=warning
sql() { "$pgbin/psql" -X -q -v ON_ERROR_STOP=1 -d "$1" -f -; }
sql postgres <<'SQL'
CREATE ROLE registrar LOGIN PASSWORD 'clipboard';
CREATE ROLE readers NOLOGIN;
GRANT readers TO registrar;
ALTER ROLE registrar SET statement_timeout = '5min';
CREATE DATABASE events OWNER registrar;
CREATE DATABASE bench;
SQL
"$pgbin/pgbench" -i -q -s 10 bench 2>/dev/null
sql events <<'SQL'
CREATE EXTENSION pgcrypto;
CREATE EXTENSION hstore;
CREATE TABLE births (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text NOT NULL, record jsonb NOT NULL, photo bytea, tags hstore, at timestamptz NOT NULL DEFAULT now());
INSERT INTO births (name, record, photo, tags)
  SELECT 'Child ' || n || ' of ' || md5(n::text), jsonb_build_object('weight', n % 5000, 'place', md5((n % 400)::text), 'mother', jsonb_build_object('id', gen_random_uuid())),
         decode(repeat(md5(n::text), 8), 'hex'), hstore('district', (n % 90)::text)
  FROM generate_series(1, 100000) n;
CREATE INDEX ON births USING gin (record);
COMMENT ON TABLE births IS 'One row for each birth';
GRANT SELECT ON births TO readers;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO readers;
SELECT lo_from_bytea(0, decode(repeat(md5(n::text), 4000), 'hex')) FROM generate_series(1, 40) n \g /dev/null
SQL

say "A tree of files in $work/documents"
mkdir -p "$work/documents"/{scans,letters,empty} && cd "$work/documents"
for part in 1 2 3 4; do
  mkdir "letters/$part"
  head -c 6000000 /dev/urandom | base64 | split -b 4500 -a 4 - "letters/$part/letter-"
done
head -c 40000000 /dev/urandom >scans/archive.bin
truncate -s 2G scans/disk.img && printf 'at the end' | dd of=scans/disk.img bs=1 seek=2000000000 conv=notrunc status=none
ln scans/archive.bin scans/same-archive.bin
ln -s ../scans/archive.bin letters/link
mkfifo letters/pipe
printf 'x' >$'letters/caf\xe9 \n odd'
chmod 4750 letters/1/letter-aaaa
touch -d '2001-02-03 04:05:06.789012345' letters/1/letter-aaab
setfattr -n user.note -v 'kept' letters/1/letter-aaac 2>/dev/null || echo "(this file system has no xattrs)"
setfacl -m u:nobody:r letters/1/letter-aaad 2>/dev/null || echo "(this file system has no ACLs)"
cd - >/dev/null
echo "$(find "$work/documents" | wc -l) entries, $(du -sh "$work/documents" | cut -f1) on disk, $(du -sh --apparent-size "$work/documents" | cut -f1) apparent"

cat >"$work/lifeboat.yaml" <<YAML
stack: demo
role: both
stateDir: $work/state
repositories:
  main:
    url: file://$work/repository
    writerKeyFile: $work/keys/writer.key
    maintainerKeyFile: $work/keys/maintainer.key
    identityFile: $work/keys/identity.key
    retentionPolicy: "30d"
sources:
  documents:
    kind: files
    paths: [$work/documents]
    schedule: "0 1 * * *"
  registry:
    kind: postgres
    url: postgres://postgres@127.0.0.1:$port/?sslmode=prefer
    databases: [events, bench]
    backup: { type: dump, jobs: 2 }
YAML

# What must be equal in the end: every database as sorted SQL, the roles, the tree with all metadata.
databases() {
  for db in events bench; do
    "$pgbin/pg_dump" --no-sync "$db" | grep -vE '^(--|\\(un)?restrict|$)' | sort | sha256sum
    "$pgbin/psql" -XAtq -d "$db" -c "SELECT loid, pageno, md5(data) FROM pg_largeobject ORDER BY 1, 2" | sha256sum
  done
  "$pgbin/pg_dumpall" --globals-only | grep -vE '^(--|\\(un)?restrict|$)' | sort | sha256sum
}
tree() {
  cd "$work/documents"
  find . -printf '%p\0%y %m %U %G %T@ %l %n\n' | sort | sha256sum
  find . -type f -not -name disk.img -print0 | sort -z | xargs -0 sha256sum | sha256sum
  tail -c 200000000 scans/disk.img | sha256sum
  getfattr -R -d -m - . 2>/dev/null | sha256sum
  cd - >/dev/null
}

say "init: repository and keys"
mkdir "$work/keys"
show init
bytes() { "$lifeboat" --config "$work/lifeboat.yaml" --json snapshots | tr '{' '\n' | grep "\"source\":\"$1\"" | grep '"label":"first"' | grep -oE "\"$2\":[0-9]+" | cut -d: -f2; }
now() { date +%s.%N; }

say "The first backup"
declare -A seconds
for source in documents registry; do
  start=$(now)
  show backup "$source" --label first
  seconds[$source]=$(echo "$start $(now)" | awk '{print $2 - $1}')
done
databases >"$work/before.databases"
tree >"$work/before.tree"

say "Life goes on: some data changes; the second backup stores only that"
sql events <<'SQL'
UPDATE births SET name = upper(name) WHERE random() < 0.001;
DELETE FROM births WHERE random() < 0.0005;
SQL
find "$work/documents/letters/2" -name '*a' | sed -n 1,50p | while read -r file; do echo changed >>"$file"; done
rm -rf "$work/documents/letters/3"
show backup --label second
show snapshots

say "Disaster: databases, roles and tree are gone"
sql postgres <<'SQL'
DROP DATABASE events;
DROP DATABASE bench;
DROP ROLE registrar;
DROP ROLE readers;
SQL
rm -rf "$work/documents"

say "Restore of the first snapshot"
declare -A back
for source in documents registry; do
  start=$(now)
  show restore "$source@first" --to origin --yes
  back[$source]=$(echo "$start $(now)" | awk '{print $2 - $1}')
done
databases >"$work/after.databases"
tree >"$work/after.tree"

say "Proof"
failed=0
printf '%-10s %12s %12s %9s %7s %9s %7s %6s\n' source bytes 'new bytes' 'backup s' MB/s 'restore s' MB/s equal
for source in documents registry; do
  part=$([ "$source" = documents ] && echo tree || echo databases)
  equal=yes
  cmp -s "$work/before.$part" "$work/after.$part" || { equal=NO failed=1; }
  size=$(bytes "$source" bytes)
  awk -v s="$source" -v b="$size" -v n="$(bytes "$source" new_bytes)" -v t="${seconds[$source]}" -v r="${back[$source]}" -v e="$equal" \
    'BEGIN { printf "%-10s %12.0f %12.0f %9.1f %7.0f %9.1f %7.0f %6s\n", s, b, n, t, b / t / 1e6, r, b / r / 1e6, e }'
done
PGPASSWORD=clipboard "$pgbin/psql" -XAtq -U registrar -d events -c "SELECT 'the restored role registrar logs in and sees ' || count(*) || ' births' FROM births"
exit $failed
