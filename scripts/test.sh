#!/usr/bin/env bash
# Every test there is: format, lints, the tree's own rules, the XDP object against its source, unit and property tests,
# and the gateway end to end with root. This is what CI runs.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh

step() { printf '\n== %s\n' "$*"; }

step "format, lints and the tree's own rules"
cargo fmt --all --check
cargo clippy --quiet --workspace --all-targets -- -D warnings
cargo run --quiet -p sluice-tidy
python3 scripts/bench-readme.py --check

step "the committed XDP program against its source"
scripts/build-xdp.sh --check

step "unit, property, golden and corpus tests"
cargo nextest run --workspace --no-fail-fast --status-level fail

step "instructions a packet"
scripts/count.sh

step "end to end"
cargo build --quiet --profile lab -p sluice-bench -p sluice -p sluiced -p sluice-control
scripts/e2e/run.sh
