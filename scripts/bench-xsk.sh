#!/usr/bin/env bash
# Our AF_XDP rings beside the xsk-rs crate: the same forwarding loop over both, in turn over virtual cables, and the
# instructions that each spends on a packet in user space. Installs what xsk-rs needs to build.
#   scripts/bench-xsk.sh            release build, root, some minutes
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "bench-xsk: needs root" >&2; exit 2; }
packages="clang llvm libclang-dev libelf-dev zlib1g-dev libpcap-dev libc6-dev-i386 m4 pkg-config make valgrind"
dpkg-query -W $packages >/dev/null 2>&1 || { apt-get update -qq && apt-get install -y -qq --no-install-recommends $packages >/dev/null; }
cargo build --quiet --release -p sluice-bench
cargo build --quiet --release --manifest-path bench/xsk-twin/Cargo.toml --target-dir target/xsk-twin
cp target/xsk-twin/release/sluice-xsk-twin target/release/
bench=$PWD/target/release/sluice-bench

"$bench" veth --two-cores --peers l2fwd,xsk-rs --services 1 --traffic established --steps 0 --rounds "${ROUNDS:-5}"

# Under valgrind both are slow, so bursts are full, and sleeping at once leaves few empty turns to count. What starting and
# stopping takes is counted by itself, without packets, and taken off.
lab=sl-xsk-$$ dir=$(mktemp -d)
clean_up() {
    kill $(jobs -p) 2>/dev/null || true
    wait
    ip netns delete "$lab-gw" 2>/dev/null || true
    ip netns delete "$lab-out" 2>/dev/null || true
    rm -rf "$dir"
}
trap clean_up EXIT
outside() { nsenter "--net=/run/netns/$lab-out" "$@"; }
# counted SECONDS COMMAND…: "packets instructions" of a forwarder through which packets came for so long.
counted() {
    local seconds=$1 end forwarder sink; shift
    for end in gw out; do ip netns add "$lab-$end"; done
    ip -n "$lab-gw" link add a0 type veth peer name a1 netns "$lab-out"
    ip -n "$lab-gw" link add b0 type veth peer name b1 netns "$lab-out"
    for end in gw:a0 gw:b0 out:a1 out:b1; do ip -n "$lab-${end%%:*}" link set "${end##*:}" up; done
    rm -f "$dir"/*; mkfifo "$dir/stop"
    nsenter "--net=/run/netns/$lab-gw" valgrind --tool=callgrind \
        --callgrind-out-file="$dir/out" "$@" a0 b0 <"$dir/stop" >"$dir/log" 2>&1 &
    forwarder=$!
    exec 5>"$dir/stop"
    sleep 4
    outside "$bench" sink --interface b1 --seconds 7 >/dev/null 2>&1 &
    sink=$!
    sleep 1
    [ "$seconds" = 0 ] || outside "$bench" blast --interface a1 --to-mac "$(ip -n "$lab-gw" -j link show a0 | jq -r '.[0].address')" \
        --source 10.16.0.1 --target 203.0.113.1 --rate 0 --warm-up 0 --seconds "$seconds" >/dev/null 2>&1
    wait $sink || true
    exec 5>&-
    wait $forwarder || { cat "$dir/log" >&2; exit 1; }
    echo "$(ip -n "$lab-out" -j -s link show b1 | jq '.[0].stats64.rx.packets') $(awk '/^totals:/ { print $2 }' "$dir/out")"
    for end in gw out; do ip netns delete "$lab-$end"; done
}
instructions() { # name, command
    local name=$1 none some; shift
    read -r _ none <<<"$(counted 0 "$@")"
    read -r packets some <<<"$(counted 4 "$@")"
    printf '%s: %d instructions a packet in user space, of %d packets\n' "$name" $(((some - none) / packets)) "$packets"
}
instructions ours "$bench" l2fwd --sleep --end-with-input
instructions xsk-rs target/release/sluice-xsk-twin --sleep
