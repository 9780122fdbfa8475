#!/usr/bin/env bash
# Install what Debian or Ubuntu lack: `scripts/setup.sh demo` for building and running Sluice in its lab, without a word for
# testing and measuring it too. Says what it does; does nothing twice.
set -euo pipefail
what=${1:-all}
[ "$what" = demo ] || [ "$what" = all ] || { echo "setup: no such part: $what (demo, or nothing for all)" >&2; exit 2; }

run_time="iproute2 ethtool procps util-linux"
lab="curl iperf3 dnsmasq-base bind9-dnsutils"
tests="nginx-light iputils-ping nftables tcpdump tshark socat python3 python3-grpcio python3-protobuf jq bird2 frr"
measuring="valgrind iptables"
[ "$what" = all ] || tests="" measuring=""

say() { printf 'setup: %s\n' "$*"; }

missing=()
for package in build-essential git ca-certificates $run_time $lab $tests $measuring; do
    dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -q '^installed$' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    [ "$(id -u)" = 0 ] || { say "needs root to install: ${missing[*]}"; exit 2; }
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # Installing a web server must not start one.
    printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    rm -f /usr/sbin/policy-rc.d
else
    say "all Debian packages are there"
fi

command -v cargo >/dev/null || { say "there is no cargo: install Rust 1.95 or later (https://rustup.rs)"; exit 2; }
if [ "$what" = all ] && ! cargo nextest --version >/dev/null 2>&1; then
    say "installing cargo-nextest (some minutes, once)"
    cargo install --locked --quiet cargo-nextest
fi
say "ready"
