# Two gateways behind one ECMP route, one of them killed: which connections live on through the other, for each way back.
# Budget: 150 s
. "$(dirname "$0")/lib.sh"
SPEC='  services: {mode: dnat, bpf-lb-dsr-dispatch: ipip, snatAddresses: [10.244.0.1]}'
lab
namespace up
ip -n "$LAB-up" link add br0 type bridge
ip -n "$LAB-up" link set br0 up
# The router, with the clients behind it: it hashes addresses and ports.
namespace r
cable out r eth0 192.0.2.254/24
cable up r eth1 198.51.100.1/24
at r sysctl -qw net.ipv4.ip_forward=1 net.ipv4.fib_multipath_hash_policy=1
namespace c1
cable up c1 eth0 198.51.100.11/24
ip -n "$LAB-c1" route add default via 198.51.100.1
namespace gw2
at gw2 sysctl -qw net.ipv4.ip_forward=0
cable out gw2 eth0 192.0.2.2/24 2001:db8:1::2/64
cable in gw2 eth1 10.244.0.2/24 2001:db8:2::2/64
for gateway in gw gw2; do ip -n "$LAB-$gateway" route add 198.51.100.0/24 via 192.0.2.254; done
# to GATEWAYS…: where the router sends what is for services.
to() { ip -n "$LAB-r" route replace 203.0.113.0/24 $(printf 'nexthop via %s ' "$@"); }
to 192.0.2.1 192.0.2.2

# Backends answer as themselves by the gateway that they heard from (the connection's mark), and as the service straight to
# the router.
for n in 1 2; do
    host b$n in ${n}1
    for number in 2 3 4 5; do ip -n "$LAB-b$n" address add 10.244.0.$n$number/24 dev eth0; done
    cable out b$n eth1 192.0.2.2$n/24
    ip -n "$LAB-b$n" route replace default via 192.0.2.254
    ip -n "$LAB-b$n" address add 203.0.113.82/32 dev lo
    for device in all default eth0 eth1; do at b$n sysctl -qw net.ipv4.conf.$device.rp_filter=0; done
    at b$n sysctl -qw net.ipv4.tcp_fwmark_accept=0 net.ipv4.fwmark_reflect=1
    for mark in 1 2; do
        ip -n "$LAB-b$n" rule add fwmark $mark from 10.244.0.0/24 lookup 10$mark
        ip -n "$LAB-b$n" route add default via 10.244.0.$mark table 10$mark
    done
    at b$n nft -f - <<END
table inet back {
    chain in {
        type filter hook prerouting priority mangle;
        iifname eth0 ether saddr $(mac gw eth1) ct mark set 1
        iifname eth0 ether saddr $(mac gw2 eth1) ct mark set 2
    }
    chain out {
        type route hook output priority mangle;
        meta mark set ct mark
    }
}
END
    far_end b$n ${n}1
done
echo_server b1 b2
# by WAY LAST: a service whose replies come back that way.
by() { ANNOTATIONS="service.cilium.io/forwarding-mode: $1" TARGET=7 service "$1" 203.0.113.$2 2001:db8:cafe::$2 7 TCP 11 12 13 14 15 21 22 23 24 25; }
objects world <<END
$(by dnat 80)
$(by snat 81)
$(by dsr 82)
END
start_gateway
mkdir "$DIR/second"
sed -e "s|name: $LAB|name: $LAB-2|; s|$DIR/control|$DIR/second/control|; s|$DIR/flows|$DIR/second/flows|; s|\[10.244.0.1\]|[10.244.0.2]|" \
    "$DIR/gateway.yaml" >"$DIR/second.yaml"
trap 'status=$?; set +e; rm -rf "$PINS-2"; (exit $status); clean_up' EXIT
start gw2 second "$BIN/sluice" run --config "$DIR/second.yaml"
eventually 15 at gw2 curl -sf --max-time 2 http://127.0.0.1:9965/readyz
second() { at gw2 "$BIN/sluice" --socket "$DIR/second/control.sock" "$@"; }
uptime() { second status -o json | jq .dataplane.uptime_seconds; }

# share NAME WHEN: connections by both, the first gateway killed; of those that it had, how many still answer, in percent by way.
share() {
    local talk=$DIR/$1.json by_it
    start c1 "$1" python3 "$E2E/failover.py" 100 "$talk" dnat=203.0.113.80 snat=203.0.113.81 dsr=203.0.113.82
    TALK=$PID
    eventually 15 [ -s "$talk" ]
    by_it=$(sluice flows --limit 10000 -o json |
        jq -c '[.[] | select(.source | startswith("198.51.100.11:")) | "\(.destination | split(":")[0]) \(.source | split(":")[1])"]')
    AGE=$(uptime)
    kill -KILL $(descendants "$GATEWAY") "$GATEWAY"
    to 192.0.2.2
    touch "$talk.ask"
    wait $TALK || fail "the connections were not counted: $(cat "$DIR/$1.log")"
    jq -c --argjson by "$by_it" --slurpfile told "$talk.told" '
        with_entries(.key as $way | (.value - (.value - $by)) as $had | ($had - ($had - $told[0][$way])) as $left | (.value - $by) as $others |
            .value = {had: ($had | length), left: ($left | length), others: ($others | length), others_left: ($others - ($others - $told[0][$way]) | length)})' "$talk" >"$DIR/$1.shares"
    wait "$GATEWAY" 2>/dev/null || true
    figure "$2: $(jq -r '[to_entries[] | "\(.key) \(100 * .value.left / .value.had | round) % (\(.value.left) of \(.value.had))"] | join(", ")' "$DIR/$1.shares"); of the other's own $(jq -r '"\([.[].others_left] | add) of \([.[].others] | add)"' "$DIR/$1.shares")"
    holds "$1" '[.[] | select(.had < 20 or .others < 20 or .others != .others_left)] == [] and .dsr.left == .dsr.had and .snat.left == 0'
}
holds() { jq -e "$2" "$DIR/$1.shares" >/dev/null || fail "$1: $(cat "$DIR/$1.shares")"; }
share first "killed $(uptime) s after the other's start"
[ "$AGE" -gt 55 ] || holds first '.dnat.left == .dnat.had'
# Once more when the other no longer takes connections up in their middle. (Without what the first had: by it are connections
# told apart, and a port that a client uses again would count as the first one's.)
rm -f "$DIR/flows"*
start_gateway
to 192.0.2.1 192.0.2.2
eventually 70 eval '[ "$(uptime)" -gt 62 ]'
share later 'more than a minute after it'
holds later '.dnat.left == 0'
