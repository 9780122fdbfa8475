#!/usr/bin/env bash
# Grow the corpora of the fuzz targets: scripts/fuzz.sh [TARGET|all] [SECONDS]. CI replays them without a fuzzer (the tests
# named `hostile`). Needs a nightly toolchain; installs cargo-fuzz if it is not there.
set -euo pipefail
cd "$(dirname "$0")/.."

targets=(parse forward dns feed objects)
target=${1:-all} seconds=${2:-60}
[ "$target" = all ] || targets=("$target")

rustc +nightly --version >/dev/null 2>&1 || { echo "fuzz: needs a nightly toolchain: rustup toolchain install nightly"; exit 2; }
cargo fuzz --version >/dev/null 2>&1 || { echo "fuzz: installing cargo-fuzz (some minutes, once)"; cargo install --locked --quiet cargo-fuzz; }

for target in "${targets[@]}"; do
    case $target in
        parse | forward | dns | feed) folder=dataplane/fuzz ;;
        objects) folder=control/fuzz ;;
        *) echo "fuzz: no target $target"; exit 2 ;;
    esac
    printf '\n== %s, %s s\n' "$target" "$seconds"
    # What is found goes to a corpus outside the tree; To commit the little that is worth it:
    #   cargo +nightly fuzz cmin --fuzz-dir FOLDER TARGET FOUND
    found=$folder/target/found/$target
    mkdir -p "$found"
    nice -n 19 cargo +nightly fuzz run --fuzz-dir "$folder" "$target" "$found" "$folder/corpus/$target" -- \
        -max_total_time="$seconds" -max_len=2048 -timeout=10 -print_final_stats=1 -verbosity=1
done
