# Backends are replaced ten times a second for twenty seconds, each ending gracefully before it goes: no connection to their services breaks, and no new one is refused.
# Budget: 100 s
. "$(dirname "$0")/lib.sh"
lab
host c1 out 11
host b1 in 11
host b2 in 21
for n in 1 2; do
    for number in 2 3 4 5 6 7 8; do
        ip -n "$LAB-b$n" address add 10.244.0.$n$number/24 dev eth0
        ip -n "$LAB-b$n" address add 2001:db8:2::$n$number/64 dev eth0 nodad
    done
    start b$n b$n-iperf3 iperf3 -s -p 5201
done
echo_server b1 b2
# front NAME LAST PORT MORE: a service of slices that others write.
front() {
    cat <<END
---
apiVersion: v1
kind: Service
metadata: {name: $1, namespace: lab, annotations: {${4:-}}}
spec:
  type: LoadBalancer
  ipFamilyPolicy: PreferDualStack
  ipFamilies: [IPv4, IPv6]
  clusterIP: 10.96.0.$2
  clusterIPs: [10.96.0.$2, "2001:db8:96::$2"]
  sessionAffinity: ${5:-None}
  ports: [{name: p, port: $3}]
status: {loadBalancer: {ingress: [{ip: 203.0.113.$2}, {ip: "2001:db8:cafe::$2"}]}}
END
}
objects world <<END
$(front gateway 80 7)
$(front address 81 7 'service.cilium.io/forwarding-mode: snat')
$(front bulk 82 5201 '' ClientIP)
END
roll() { python3 "$E2E/rolling.py" roll "$1" 10 "$DIR/objects/slices.yaml" "$LAB-b1=11" "$LAB-b2=21"; }
roll 0 >/dev/null
SPEC='  services: {snatAddresses: [10.244.0.1, "2001:db8:2::1"]}'
start_gateway

before=$(generation)
start c1 bulk iperf3 -J -c 203.0.113.82 -p 5201 -b 20M -t 21
BULK=$PID
start c1 load python3 "$E2E/rolling.py" load 21 "$DIR/load.json" 203.0.113.80 2001:db8:cafe::80 203.0.113.81 2001:db8:cafe::81
LOAD=$PID
sleep 0.5
rolled=$(roll 20) || fail "the backends were not rolled: $rolled"
wait $LOAD || fail "the load ended early"
wait $BULK || fail "iperf3 through changing backends: $(tail -n 5 "$DIR/bulk.log")"
lives=$(($(generation) - before))
figure "$(jq -r '"\(.came + .ended + .went) changes in \(.seconds) s: \(.came) backends came, \(.ended) ended, \(.went) went"' <<<"$rolled"), live in $lives generations"
figure "$(jq -r '"\(.done) connections with \(.lines) exchanges, \(.broken | length) broken, \(.refused | length) refused, the slowest open in \(.slowest_ms) ms"' "$DIR/load.json")"
[ "$(jq '(.broken + .refused) | length' "$DIR/load.json")" = 0 ] || fail "connections broke: $(jq -c '{broken: .broken[:8], refused: .refused[:8]}' "$DIR/load.json")"
[ "$(jq .done "$DIR/load.json")" -gt 300 ] || fail "too little happened to say anything"
[ "$(jq '.came > 20 and .went > 20' <<<"$rolled")" = true ] || fail "too few backends were replaced: $rolled"
