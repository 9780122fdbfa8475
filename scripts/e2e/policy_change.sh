# A policy that changes under traffic cuts the flows that it no longer allows and spares the others, without a lost packet.
# Budget: 90 s
. "$(dirname "$0")/lib.sh"
lab
host c1 out 11
host c2 out 12
host b1 in 11
echo_server b1
policy() {
    cat <<END
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: echo, namespace: lab}
spec:
  endpointSelector: {matchLabels: {app: echo}}
  ingress: [{fromEndpoints: [{matchExpressions: [{key: role, operator: In, values: [$1]}]}]}]
END
}
objects world <<END
$(endpoint c1 11 out role: customer)
$(endpoint c2 12 out role: guest)
$(endpoint b1 11 in app: echo)
$(TARGET=7 service echo 203.0.113.7 2001:db8:cafe::7 7 UDP 11)
END
policy 'customer, guest' | objects policy
start_gateway
talk c1 spared udp 203.0.113.7 7
talk c1 spared-tcp tcp 10.244.0.11 7
talk c2 cut udp 203.0.113.7 7
talk c2 cut-tcp tcp 2001:db8:2::11 7
for name in spared spared-tcp cut cut-tcp; do goes_on $name 100; done

policy customer | change policy
# Whatever came back from now on was under way already.
eventually 2 eval '[ "$(said cut .silent_ms)" -gt 300 ] && [ "$(said cut-tcp .silent_ms)" -gt 300 ]'
[ "$(counter flows_cut)" -ge 2 ] || fail "no flow was counted as cut"
for name in spared spared-tcp; do
    goes_on $name 100
    lossless $name
    figure "$name: $(said $name '"\(.sent) sent, \(.lost) lost, longest gap \(.longest_gap_ms) ms"')"
done
figure "the change was live on every worker after $(status .live_after_microseconds) µs"

# Allowed again, the datagrams flow again; the connection picks up where it was.
policy 'customer, guest' | change policy
goes_on cut 20
