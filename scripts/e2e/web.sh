# HTTP and iperf3 cross the gateway through a service's address and by plain routing, over IPv4 and IPv6; policy allows and denies.
# Budget: 150 s
. "$(dirname "$0")/lib.sh"
lab
host c1 out 11
host c2 out 12
host b1 in 11
host b2 in 12
web b1 b2
for backend in b1 b2; do start $backend $backend-iperf3 iperf3 -s -p 5201; done
objects world <<END
$(endpoint c1 11 out role: customer)
$(endpoint c2 12 out role: stranger)
$(endpoint b1 11 in app: web)
$(endpoint b2 12 in app: web)
$(service web 203.0.113.80 2001:db8:cafe::80 80 TCP 11 12)
$(TARGET=5201 service speed 203.0.113.81 2001:db8:cafe::81 5201 TCP 11)
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web-for-customers, namespace: lab}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress: [{fromEndpoints: [{matchLabels: {role: customer}}]}]
END
start_gateway

for url in 203.0.113.80 '[2001:db8:cafe::80]'; do
    answers=$(for _ in $(seq 20); do fetch c1 "http://$url/" || fail "no answer from $url"; echo; done | grep . | sort | uniq -c)
    for backend in b1 b2; do grep -q $backend <<<"$answers" || fail "$url never led to $backend: $answers"; done
done
for url in 10.244.0.12 '[2001:db8:2::12]'; do
    [ "$(fetch c1 "http://$url:8080/")" = b2 ] || fail "$url is not reached by plain routing"
done

before=$(dropped POLICY_DENIED)
for url in 203.0.113.80 '[2001:db8:cafe::80]' 10.244.0.12:8080 '[2001:db8:2::12]:8080'; do
    ! at c2 curl -s --max-time 0.3 "http://$url/" || fail "$url answered a stranger"
done
eventually 2 eval "[ \$(dropped POLICY_DENIED) -ge $((before + 4)) ]"
sluice observe --verdict DROPPED --last 1 -o json | jq -e '.drop_reason_desc == "POLICY_DENIED"' >/dev/null || fail "the drop is not told of"

rate() { at c1 timeout 15 iperf3 -J -t 1 --connect-timeout 2000 -p 5201 "$@" | jq -r '"\(.end.sum_received.bits_per_second / 1e9 * 100 | round / 100) Gbit/s, \(.end.sum_sent.retransmits) retransmitted"'; }
figure "TCP through the service, IPv4: $(rate -c 203.0.113.81)"
figure "TCP through the service, IPv6: $(rate -c 2001:db8:cafe::81)"
figure "TCP by plain routing, IPv4: $(rate -c 10.244.0.12)"
figure "TCP by plain routing, IPv6: $(rate -c 2001:db8:2::12)"
