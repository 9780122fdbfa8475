#!/usr/bin/env bash
# See the gateway at work: install what is missing, build, and run it in a lab of network namespaces.
# Options go to `sluice demo` (--keep, --seconds N).
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh demo
cargo build --profile lab -p sluice -p sluiced -p sluice-control
exec target/lab/sluice demo "$@"
