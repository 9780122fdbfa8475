# A hundred changes and reloads under traffic lose not one packet; an invalid set of objects changes nothing and is reported with its place.
# Budget: 150 s
. "$(dirname "$0")/lib.sh"
lab
host c1 out 11
host b1 in 11
echo_server b1
objects world <<END
$(endpoint c1 11 out role: customer)
$(endpoint b1 11 in app: echo)
$(TARGET=7 service echo 203.0.113.7 2001:db8:cafe::7 7 UDP 11)
END
policy() {
    cat <<END
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: echo, namespace: lab}
spec:
  endpointSelector: {matchLabels: {app: echo}}
  ingress:
    - {fromEndpoints: [{matchLabels: {role: customer}}], toPorts: [{ports: [{port: "7", protocol: ANY}, {port: "$1", protocol: TCP}]}]}
END
}
policy 1000 | objects policy
start_daemons
talk c1 service udp 203.0.113.7 7
talk c1 routed tcp 2001:db8:2::11 7
before=$(generation)
for round in $(seq 100); do
    policy $((1000 + round)) | objects policy
    kill -HUP "$CONTROL" "$DATAPLANE"
    # Changes that come while one is read are read together; each here is to be one of its own.
    eventually 5 eval '[ "$(ready)" = ok ] && [ "$(at gw curl -sf http://127.0.0.1:9965/metrics | sed -n "s/^sluice_generation_live \([0-9]*\).*/\1/p")" -ge $((before + round)) ]'
done
[ "$(generation)" -ge $((before + 100)) ] || fail "only $(($(generation) - before)) generations of 100"

# Wrong in one field of one object: reported with its place, and nothing changes.
policy 2000 | sed 's/port: "2000"/port: "70000"/' | objects policy
eventually 5 eval '[ "$(status ".problems | length")" -gt 0 ]'
problem=$(status '.problems[0]')
[[ $problem == *policy.yaml:*:*:* ]] || fail "the problem does not say where: $problem"
figure "an invalid set is reported as ${problem/$DIR\//}"
[ "$(status .generation)" = "$(generation)" ] || fail "an invalid set made a generation"
grep -q 'policy.yaml:.*' "$DIR/control.log" || fail "the log does not say where"
! "$BIN/sluice" check "$DIR/objects" >"$DIR/checked" || fail "sluice check finds nothing wrong"
goes_on service 100
policy 3000 | change policy
[ "$(status '.problems | length')" = 0 ] || fail "the problem stays though it is mended"
goes_on service 50
for name in service routed; do
    lossless $name
    figure "$name: $(said $name '"\(.sent) sent, \(.lost) lost, longest gap \(.longest_gap_ms) ms"') over 100 changes with SIGHUP to both daemons"
done
