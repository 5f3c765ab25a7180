#!/bin/sh
# Runs every fuzz target for some seconds and prints a table. Usage: scripts/fuzz.sh SECONDS [TARGET...]
#
# Takes cargo-fuzz. The sanitizer and the coverage counters are unstable options of rustc, which
# RUSTC_BOOTSTRAP=1 lets a stable toolchain use. An input that crashes a target stays in fuzz/artifacts, and
# the target's log in target/fuzz.
set -eu

seconds=${1:?usage: scripts/fuzz.sh SECONDS [TARGET...]}
shift
cd "$(dirname "$0")/.."
logs=$PWD/target/fuzz
PATH=$PWD/target/tools-fuzz/bin:$PATH
export RUSTC_BOOTSTRAP=1

if ! command -v cargo-fuzz >/dev/null; then
	echo 'fuzz: cargo-fuzz is missing; to install it: cargo install cargo-fuzz --locked' >&2
	exit 1
fi
mkdir -p "$logs"
# --dev: assertions of overflow are on, and it is optimised all the same (fuzz/Cargo.toml).
cargo fuzz build --dev
[ $# -gt 0 ] || set -- $(cargo fuzz list)

failed=
printf '%-18s %12s %9s %9s %8s %9s  %s\n' target inputs inputs/s coverage corpus 'rss (MB)' found
for target in "$@"; do
	corpus=fuzz/corpus/$target
	log=$logs/$target.log
	mkdir -p "$corpus"
	status=0
	# Without print_funcs=0 the names of new functions are looked up, which takes longer than the fuzzing.
	cargo fuzz run --dev "$target" "$corpus" "fuzz/seeds/$target" -- -max_total_time="$seconds" \
		-rss_limit_mb=2048 -timeout=20 -max_len=65536 -print_funcs=0 -print_final_stats=1 >"$log" 2>&1 || status=$?
	stat() { sed -n "s/^stat::$1: *//p" "$log" | tail -n 1; }
	# Lines of progress: "#4096 pulse cov: 812 ft: 2011 corp: 96/8Kb ...".
	progress() { grep -o " $1: [0-9]*" "$log" | tail -n 1 | tr -dc '0-9'; }
	found=nothing
	if [ "$status" -ne 0 ]; then
		found=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
		found=${found:-"failed, see $log"}
		failed="$failed $target"
	fi
	printf '%-18s %12s %9s %9s %8s %9s  %s\n' "$target" "$(stat number_of_executed_units)" \
		"$(stat average_exec_per_sec)" "$(progress cov)" "$(progress corp)" "$(stat peak_rss_mb)" "$found"
done
if [ -n "$failed" ]; then
	echo "fuzz: failed:$failed" >&2
	exit 1
fi
