# The commands of this project. `make demo` and `make test` work on a fresh Debian 12 machine
# with a Rust toolchain, as root or with sudo.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
BIN := target/release/lifeboat

.PHONY: demo test test-long bench lint release servers docs clean-demo

## demo: a real PostgreSQL and a file tree, backed up, destroyed, restored, proved equal
demo: release
	scripts/install-debian.sh
	scripts/demo.sh $(BIN)

release:
	scripts/install-debian.sh build
	cargo build --release --locked -p lifeboat

## servers: the real servers that tests talk to
servers:
	scripts/install-debian.sh
	scripts/test-servers.sh

lint:
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	scripts/tidy.sh

## test: installs the test servers and runs every test
test: servers release lint
	LIFEBOAT_BIN=$(CURDIR)/$(BIN) scripts/run-tests.sh

## test-long: more seeds of whatever goes by seeds (LIFEBOAT_SEEDS=100..900 names them), and the closing test at full size (2 GB database, 300,000 files)
test-long: servers release
	LIFEBOAT_LONG=1 LIFEBOAT_BIN=$(CURDIR)/$(BIN) scripts/run-tests.sh

## bench: side by side with other tools on the same data; WORKS, RUNS and sizes as benches/repository/run.sh says
bench: release
	cargo build --release --locked -p lifeboat-testkit --bin bench-data
	eval "$$(benches/peers/build.sh)" && benches/repository/run.sh $(BIN)
