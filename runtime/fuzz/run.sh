#!/usr/bin/env bash
# Runs the fuzzers, each for so many seconds, or those that are named: run.sh SECONDS [NAME...]
#
# With the compiler that builds everything else. It can count branches for libFuzzer, but has none of
# the sanitizers, which only a nightly has: a panic, an overflow or a failed assertion is found, and
# there is no unsafe code in what is fuzzed. Branches are counted in the crates `millstream` and
# `millstream-formats` alone: their dependencies are those that the release has, and are built once.
# `cargo fuzz run` works here too.
#
#   CARGO_TARGET_DIR    where the release is built
set -euo pipefail

seconds=${1:?usage: run.sh SECONDS [NAME...]}
shift
[ $# -gt 0 ] || set -- guest-results record cloudevents avro cbor json-value msgpack protobuf
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)
target=${CARGO_TARGET_DIR:-$root/target}

# Cargo calls it for the crates of the workspace alone.
export RUSTC_WORKSPACE_WRAPPER=$PWD/instrument.sh
cargo build --release --locked --package millstream-fuzz
unset RUSTC_WORKSPACE_WRAPPER

for name in "$@"; do
    # What was found to reach more is kept for the next time.
    corpus=$target/fuzz/$name
    mkdir -p "$corpus"
    seeds=()
    [ -d "$PWD/seeds/$name" ] && seeds=("$PWD/seeds/$name")
    echo "== fuzz $name for $seconds s"
    "$target/release/fuzz-$name" -max_total_time="$seconds" -max_len=2048 -timeout=10 -rss_limit_mb=1024 \
        -print_final_stats=1 -print_funcs=0 -artifact_prefix="$target/fuzz/failed-$name-" "$corpus" ${seeds[@]+"${seeds[@]}"}
done
