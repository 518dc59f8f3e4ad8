#!/usr/bin/env bash
# Rules of the house that no compiler checks. Prints each breach; exits 1 if there is one.
set -uo pipefail
cd "$(dirname "$0")/.."
bad=0
breach() { [ -z "$2" ] || { echo "tidy: $1"; echo "$2"; bad=1; }; }

# The arrows between crates: a crate may depend only on those to its right.
allowed() {
  case $1 in
    model) echo "" ;;
    wire) echo "model" ;;
    store) echo "wire model" ;;
    repo) echo "store wire model" ;;
    source) echo "wire model" ;;
    engine) echo "source repo store wire model" ;;
    testkit) echo "model wire store source" ;;
    cli) echo "engine source repo store wire model" ;;
  esac
}
for manifest in crates/*/Cargo.toml; do
  crate=$(basename "$(dirname "$manifest")")
  for used in $(awk '/^\[/{on=($0=="[dependencies]")} on' "$manifest" | grep -oE '^lifeboat-[a-z]+' | sed 's/lifeboat-//'); do
    case " $(allowed "$crate") " in *" $used "*) ;; *) breach "crate $crate may not use $used" "$manifest" ;; esac
  done
done
breach "the environment and argv are read in crates/cli only" \
  "$(grep -rnE 'std::env::(args|var)' crates/*/src --include=*.rs | grep -v '^crates/\(cli\|testkit\)/')"
breach "lints are silenced with #[expect(.., reason)] only" "$(grep -rnE '#!?\[allow\(' crates --include=*.rs)"
breach "unsafe code is in the allocator's settings only" \
  "$(grep -rn 'unsafe_code' crates --include=*.rs | grep -v '^crates/cli/src/allocator.rs')"
breach "unfinished" "$(grep -rnE '\b(todo|unimplemented)!\(|\b(TODO|FIXME|XXX)\b' crates scripts --include=*.rs --include=*.sh | grep -v 'scripts/tidy.sh')"
breach "every make target that README names exists" \
  "$(grep -oE '(^|`)make [a-z][a-z-]+' README.md | tr -d '`' | sort -u | while read -r _ t; do grep -qE "^$t:" Makefile || echo "make $t"; done)"
exit $bad
