#!/usr/bin/env bash
# Install what Debian or Ubuntu lack for building, running and testing Sluice; with `demo`, only what the demo needs.
# Says what it does; does nothing twice.
set -euo pipefail

packages="build-essential git ca-certificates iproute2 ethtool procps util-linux curl iperf3 dnsmasq-base bind9-dnsutils"
[ "${1:-}" = demo ] || packages="$packages nginx-light iputils-ping nftables tcpdump socat python3 jq valgrind"

say() { printf 'setup: %s\n' "$*"; }

missing=()
for package in $packages; do
    dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -q '^installed$' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    [ "$(id -u)" = 0 ] || { say "needs root to install: ${missing[*]}"; exit 2; }
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # Installing a web server must not start one.
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
        printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
        chmod +x /usr/sbin/policy-rc.d
    fi
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
else
    say "all Debian packages are there"
fi

command -v cargo >/dev/null || { say "there is no cargo: install Rust 1.95 or later (https://rustup.rs)"; exit 2; }
if [ "${1:-}" != demo ] && ! cargo nextest --version >/dev/null 2>&1; then
    say "installing cargo-nextest (some minutes, once)"
    cargo install --locked --quiet cargo-nextest
fi
say "ready"
