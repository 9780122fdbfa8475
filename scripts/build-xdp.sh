#!/bin/sh
# Rebuild the committed XDP objects from their sources; with --check, compare instead.
set -eu
cd "$(dirname "$0")/.."
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
for pair in xdp-steer/prog/src/main.rs:xdp-steer/loader/src/steer.o bench/prog/src/main.rs:bench/src/wire/traffic.o; do
    source=${pair%:*} object=${pair#*:}
    name=$(basename "$object")
    cargo run --quiet --manifest-path xdp-steer/prog/build/Cargo.toml --target-dir target/build-xdp -- \
        "$source" "$fresh/$name"
    if [ "${1:-}" != --check ]; then
        cp "$fresh/$name" "$object"
        ls -l "$object"
    elif cmp "$fresh/$name" "$object"; then
        echo "$object is what its source compiles to."
    else
        echo "$object differs from its source; run scripts/build-xdp.sh and commit the result" >&2
        exit 1
    fi
done
