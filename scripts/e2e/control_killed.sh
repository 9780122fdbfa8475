# Control dies by SIGKILL under traffic and returns: not one packet is lost, and changes are heard again.
# Budget: 90 s
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
start_daemons
talk c1 service4 udp 203.0.113.7 7
talk c1 service6 udp 2001:db8:cafe::7 7
talk c1 routed tcp 10.244.0.11 7

stop "$CONTROL" KILL
for name in service4 service6 routed; do goes_on $name 200; done
at c1 ping -qc 1 10.244.0.11 >/dev/null || fail "no new flow while control is down"
start_control
eventually 10 ready
metric sluice_events_unheard_total | grep -q "^[1-9]" || fail "what nobody heard of is not counted"
goes_on service4
change deny <<END
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: nobody, namespace: lab}
spec: {endpointSelector: {matchLabels: {role: customer}}, ingress: [{}]}
END
for name in service4 service6 routed; do
    goes_on $name 50
    lossless $name
    figure "$name: $(said $name '"\(.sent) sent, \(.lost) lost, longest gap \(.longest_gap_ms) ms"')"
done
