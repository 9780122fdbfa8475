# Backends are replaced ten times a second, each ending gracefully before it goes, by every way back (the gateway, its address, and past it by IP option, Geneve and IP-in-IP) over IPv4 and IPv6: no connection breaks, and no new one is refused.
# Budget: 240 s
. "$(dirname "$0")/lib.sh"
lab
host c1 out 11
BACKENDS=() PROCESSES=()
for number in {11..26}; do
    BACKENDS+=(b$number)
    direct_host b$number $number {203.0.113.,2001:db8:cafe::}{82,83}
    start b$number b$number-iperf3 iperf3 -s -p 5201
    echo_server b$number
    PROCESSES+=("$number=$PID")
done
# by WAY LAST: a service whose replies come back that way.
by() { ANNOTATIONS="service.cilium.io/forwarding-mode: $1" front "$1" 203.0.113.$2 2001:db8:cafe::$2 '{name: p, port: 7}'; }
objects world <<END
$(by dnat 80)
$(by snat 81)
$(by dsr 82)
$(front bulk 203.0.113.83 2001:db8:cafe::83 '{name: p, port: 5201}' 'sessionAffinity: ClientIP')
END
roll() { python3 "$E2E/rolling.py" roll "$1" 10 "$DIR/objects/slices.yaml" dnat:7,snat:7,dsr:7,bulk:5201 "${PROCESSES[@]}"; }

# rolled WAY SECONDS SERVICES ADDRESS…: nothing happens to connections to those addresses meanwhile, nor to a long upload.
rolled() {
    local way=$1 seconds=$2 before bulk load changes state=$DIR/load-$1.json
    SPEC="  services: {$3}"; shift 3
    roll 0 >/dev/null
    rm -f "$DIR/flows" # flows of the way before keep theirs
    start_gateway
    before=$(generation)
    start c1 bulk-$way iperf3 -J -c 203.0.113.83 -p 5201 -b 20M -t $((seconds + 1))
    bulk=$PID
    start c1 load-$way python3 "$E2E/rolling.py" load $((seconds + 1)) "$state" "$@"
    load=$PID
    sleep 0.5
    changes=$(roll $seconds) || fail "$way: the backends were not rolled: $changes"
    wait $load || fail "$way: the load ended early"
    wait $bulk || fail "$way: iperf3 through changing backends: $(tail -n 5 "$DIR/bulk-$way.log")"
    figure "$way: $(jq -r '"\(.came + .ended + .went) changes in \(.seconds) s: \(.came) backends came, \(.ended) ended, \(.went) went"' <<<"$changes"), live in $(($(generation) - before)) generations"
    figure "$way: $(jq -r '"\(.done) connections with \(.lines) exchanges, \(.broken | length) broken, \(.refused | length) refused, the slowest open in \(.slowest_ms) ms"' "$state")"
    [ "$(jq '(.broken + .refused) | length' "$state")" = 0 ] || fail "$way: connections broke: $(jq -c '{broken: .broken[:8], refused: .refused[:8]}' "$state")"
    [ "$(jq .done "$state")" -gt 300 ] || fail "$way: too little happened to say anything"
    [ "$(jq ".came > $seconds and .went > $seconds" <<<"$changes")" = true ] || fail "$way: too few backends were replaced: $changes"
    stop "$GATEWAY"
}
rolled gateways 20 'mode: dnat, snatAddresses: [10.244.0.1, "2001:db8:2::1"]' {203.0.113.,2001:db8:cafe::}{80,81}
for number in {11..26}; do far_end b$number $number; done
for dispatch in opt geneve ipip; do
    before=$(told_by_kind "${BACKENDS[@]}")
    rolled $dispatch 12 "mode: dsr, bpf-lb-dsr-dispatch: $dispatch" {203.0.113.,2001:db8:cafe::}82
    eventually 2 told_only $dispatch "$before" "${BACKENDS[@]}"
done
