#!/usr/bin/env bash
# Measure everything that README.md shows, and keep it: bench/runs/DATE-HOST/ with the command, the machine, the kernel and
# the commit in every result. Then scripts/bench-readme.py writes README's figures.
#   scripts/bench-run.sh            release build, about twenty minutes on a quiet machine with root
#   PROFILE=lab SHORT=1 scripts/bench-run.sh   lab build and fewer rounds, about five
set -euo pipefail
cd "$(dirname "$0")/.."
profile=${PROFILE:-release} short=${SHORT:-}
cargo build --quiet --profile "$profile" -p sluice-bench -p sluice -p sluiced -p sluice-control
bench=target/$profile/sluice-bench
run=bench/runs/$(date +%F)-$(hostname)
mkdir -p "$run"
rounds=11 packets=2000000
[ -z "$short" ] || { rounds=5 packets=1000000; }

# Figures of a machine that was not quiet are kept with how far its null harness moved, not thrown away.
path() { "$bench" path --anyway --json --rounds $rounds --packets $packets "$@" >>"$run/path.jsonl"; }
say() { printf '%s %s\n' "$(date +%T)" "$*" >&2; }

# The goals are for 2 MiB pages, and memory in pieces has none.
if [ "$(id -u)" = 0 ]; then
    sync
    echo 3 >/proc/sys/vm/drop_caches
    echo 1 >/proc/sys/vm/compact_memory
fi

: >"$run/path.jsonl"
for flows in 10000 1000000 10000000; do
    say "gateway, $flows flows"
    path --flows $flows
    path --flows $flows --ipv6
    path --flows $flows --vlan
done
say "new flows, other scenarios, attacks"
for services in 1 1000 10000; do path --scenario new --services $services; done
path --scenario new --flows 1000000
path --scenario new --flows 1000000 --ipv6
path --scenario new --flows 1000000 --services 10000
for scenario in forward policy lb; do path --scenario $scenario; done
path --skew zipf --flows 1000000
for attack in syn-flood fragments random malformed; do path --attack $attack; done
say "tables"
"$bench" tables ${short:+--quick} --json 2>/dev/null >"$run/tables.jsonl"
[ -z "$short" ] || "$bench" tables 'expir' --json 2>/dev/null >>"$run/tables.jsonl"
say "over virtual cables"
if [ "$(id -u)" = 0 ]; then
    short_veth=""
    [ -z "$short" ] || short_veth="--rounds 3 --seconds 1 --steps 4"
    "$bench" veth --two-cores --soak "${SOAK:-60}" --json $short_veth >"$run/veth.json"
fi
say "scenarios with goals of their own"
[ "$(id -u)" != 0 ] || SLUICE_BIN=$PWD/target/$profile scripts/e2e/run.sh scale publish names >"$run/scenarios.txt"
cp bench/instructions.txt "$run/"
python3 scripts/bench-readme.py
say "kept in $run"
