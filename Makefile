# What there is to do here; `make` alone lists it.
#
# Quotas on vCPU threads take root. Where you are not root, what needs it is run with sudo -E; the
# build itself is always yours.

SHELL = /bin/sh
.DEFAULT_GOAL = help
.PHONY: help setup demo host check test format lint deny fuzz-check quick-tests docs real-tests chaos bench fuzz

TARGET = $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
AS_ROOT := $(shell [ "$$(id -u)" -eq 0 ] || echo sudo -E)
OLD_QEMU = $(CURDIR)/target/tools/qemu-7.2
KERNEL = crates/testguest/kernel/main.rs

# A test binary not named here runs in `make check`: it must need neither QEMU nor root.
REAL_TESTS = real_qemu chaos cgroup cgroup_guest probe probe_harmless
TESTS = $(sort $(basename $(notdir $(wildcard crates/*/tests/*.rs))) \
	$(notdir $(patsubst %/main.rs,%,$(wildcard crates/*/tests/*/main.rs))))
QUICK_TESTS = $(filter-out $(REAL_TESTS),$(TESTS))

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name what; \
	do printf '  make %-11s %s\n' "$$name" "$$what"; done

setup: ## install QEMU and what the tests need besides (apt; elsewhere it says what to install)
	@scripts/setup.sh test

demo: ## four migrations of real guests side by side, with a table and landfall-demo.svg (2 minutes)
	@scripts/setup.sh demo
	cargo build --package landfall
	$(AS_ROOT) "$(TARGET)/debug/landfall" demo

host: ## build what is packaged for hosts: without demo, bench and the guests that they boot
	cargo build --release --package landfall --no-default-features

check: ## for every save: format, lints, licences, fuzz targets compile, tests without QEMU (1 minute)
	@$(MAKE) --no-print-directory format
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory deny
	@$(MAKE) --no-print-directory fuzz-check
	@$(MAKE) --no-print-directory quick-tests

test: ## everything a change must pass: setup, check, documentation, tests on real QEMU (15 minutes)
	@scripts/setup.sh test
	@$(MAKE) --no-print-directory check
	@$(MAKE) --no-print-directory docs
	@$(MAKE) --no-print-directory real-tests

# Cargo does not know the bare-metal guest as a target of its own, so it is looked at by name.
format: ## check the formatting
	@cargo fmt --version >/dev/null || { echo 'make: rustup component add rustfmt' >&2; exit 1; }
	cargo fmt --all --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	rustfmt --check --edition 2024 --config-path . $(KERNEL)

lint: ## clippy, warnings denied, the bare-metal guest included
	@cargo clippy --version >/dev/null || { echo 'make: rustup component add clippy' >&2; exit 1; }
	cargo clippy --workspace --all-targets -- -Dwarnings
	cargo clippy --package landfall --no-default-features -- -Dwarnings
	@mkdir -p "$(TARGET)"
	clippy-driver --edition 2024 --crate-name guest --target x86_64-unknown-linux-gnu -Cpanic=abort \
		--emit=metadata -o "$(TARGET)/guest.rmeta" -Dwarnings -Wclippy::undocumented_unsafe_blocks $(KERNEL)

# Licences and sources are checked without a network, advisories where their list can be fetched.
deny: ## licences, sources and advisories of the dependencies, if cargo-deny is installed
	@if ! command -v cargo-deny >/dev/null; then \
		echo 'make: licences and advisories not checked; to check them: cargo install cargo-deny --locked'; \
	else \
		set -e; cargo deny check licenses bans sources; \
		if cargo deny fetch db; then cargo deny check --disable-fetch advisories; \
		else echo 'make: advisories not checked: github.com/rustsec/advisory-db cannot be reached'; fi; \
	fi

fuzz-check: ## compile the fuzz targets, by the stable toolchain
	cargo check --manifest-path fuzz/Cargo.toml --locked

quick-tests: ## the tests that need neither QEMU nor root
	cargo test --workspace --lib --bins $(QUICK_TESTS:%=--test %)

# With the private items, so that links to them are checked for those who work on the source.
docs: ## build the documentation, warnings denied, and run its examples
	RUSTDOCFLAGS='-Dwarnings -Arustdoc::private_intra_doc_links' \
		cargo doc --no-deps --workspace --document-private-items
	cargo test --workspace --doc

real-tests: ## the tests on real QEMU and on the real kernel's control groups
	@if "$(OLD_QEMU)/usr/bin/qemu-system-x86_64" --version >/dev/null 2>&1; then \
		LANDFALL_QEMU_72="$(OLD_QEMU)/usr/bin/qemu-system-x86_64"; \
		LANDFALL_QEMU_72_ARGS="-L $(OLD_QEMU)/usr/share/qemu -L $(OLD_QEMU)/usr/share/seabios"; \
		export LANDFALL_QEMU_72 LANDFALL_QEMU_72_ARGS; \
	fi; \
	if [ -n "$(AS_ROOT)" ]; then \
		export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="$(AS_ROOT)"; \
	fi; \
	set -x; cargo test --workspace $(REAL_TESTS:%=--test %)

# Make passes what is given on its command line, so SECONDS of the shell is not meant.
SECONDS = 600
SEED =

chaos: ## faults at random moments of real migrations for SECONDS (600), from SEED on if it is given
	@scripts/setup.sh demo
	@if [ -n "$(AS_ROOT)" ]; then \
		export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="$(AS_ROOT)"; \
	fi; \
	LANDFALL_CHAOS_SECONDS="$(SECONDS)" LANDFALL_CHAOS_SEED="$(SEED)" \
		cargo test --package landfall --test chaos -- random_faults --nocapture

bench: ## the policies against each other on real guests, medians of paired runs (15 minutes)
	@scripts/setup.sh demo
	cargo build --release --package landfall
	$(AS_ROOT) "$(TARGET)/release/landfall" bench

# SECONDS, where it is given, counts for fuzzing as well.
FUZZ_SECONDS = $(if $(filter command,$(word 1,$(origin SECONDS))),$(SECONDS),30)

fuzz: ## feed every reader of outside text with nonsense for SECONDS each (30); prints a table
	@scripts/fuzz.sh $(FUZZ_SECONDS)
