# Backends that do not answer TCP, HTTP or ICMP probes get no new flows until they do again, never all of them; and others learn on a health port how many backends are on this node.
# Budget: 90 s
. "$(dirname "$0")/lib.sh"
lab
host c1 out 11
host b1 in 11
host b2 in 12
web b1 b2
SECOND=$PID
# asked NAME LAST KIND: a service of both backends whose backends are probed, with a quick interval.
asked() {
    ANNOTATIONS="sluice.dev/health: $3, sluice.dev/health-interval: 200ms, sluice.dev/health-timeout: 150ms" \
        service "$1" "203.0.113.$2" "2001:db8:cafe::$2" 80 TCP 11 12
}
objects world <<END
$(endpoint b1 11 in app: web)
$(endpoint b2 12 in app: web)
$(asked tcp 80 tcp)
$(asked http 81 http)
$(asked icmp 82 icmp)
---
apiVersion: v1
kind: Node
metadata: {name: $LAB}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: v1
kind: Service
metadata: {name: near, namespace: lab}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  healthCheckNodePort: 32001
  externalIPs: [203.0.113.90]
  ports: [{name: p, port: 80, nodePort: 32002}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: near-1, namespace: lab, labels: {kubernetes.io/service-name: near}}
addressType: IPv4
ports: [{name: p, port: 8080}]
endpoints: [{addresses: [10.244.0.11], nodeName: $LAB}, {addresses: [10.244.0.12], nodeName: elsewhere}]
END
start_gateway

# states NAME: of the IPv4 backends, in order of their addresses.
states() { sluice services -o json | jq -r "[.[] | select(.service == \"lab/$1\" and (.ip | startswith(\"203\")))][0].backends | sort_by(.ip) | map(.state) | join(\" \")"; }
is() { [ "$(states "$1")" = "$2" ]; }
reached() { for _ in $(seq 12); do fetch c1 "http://203.0.113.$1/"; echo; done | sort -u | xargs; }
# counts METRIC NUMBER
counts() { metric "$1" | grep -qx "$2\(\.0\)\?"; }
answered() { counts 'sluice_health_targets{healthy="true"}' "$1" && ! counts 'sluice_health_probes_total{result="good"}' 0; }
# Both families of both backends, by three kinds of probes.
eventually 5 answered 12
for name in tcp http icmp; do is $name 'active active' || fail "$name: $(states $name)"; done
[ "$(reached 80)" = 'b1 b2' ] || fail "not both backends are used"

# The web server of b2 is gone, its host answers: TCP and HTTP see it, ICMP does not.
began=$(now_ms)
stop "$SECOND"
eventually 5 is tcp 'active quarantined'
figure "a backend whose server ended was set apart after $(($(now_ms) - began)) ms (3 failures, 200 ms apart)"
eventually 5 is http 'active quarantined'
is icmp 'active active' || fail "a host that answers echo requests was set apart: $(states icmp)"
[ "$(reached 80)" = b1 ] || fail "a quarantined backend got flows: $(reached 80)"
eventually 2 counts 'sluice_health_targets{healthy="false"}' 4

# It is back.
web b2
eventually 5 is tcp 'active active'
[ "$(reached 81)" = 'b1 b2' ] || fail "a backend that is back gets no flows"

# Who asks on the health port hears of the one backend on this node, on a port of the NodePort range that the kernel has.
tell() { at c1 curl -sS --max-time 2 -o "$DIR/told" -w '%{http_code}' "http://192.0.2.1:32001/healthz"; }
[ "$(tell)" = 200 ] || fail "the health port answers $(tell)"
[ "$(jq -c '[.service.namespace, .service.name, .localEndpoints, .serviceProxyHealthy]' "$DIR/told")" = '["lab","near",1,true]' ] || fail "the health port tells $(cat "$DIR/told")"
# The NodePort beside it is the gateway's.
eventually 5 eval '[ "$(fetch c1 http://192.0.2.1:32002/)" = b1 ]'

# Its host is gone for ICMP, too. Then nobody is left: all are used, and it is said.
ip -n "$LAB-b2" link set eth0 down
eventually 5 is icmp 'active quarantined'
ip -n "$LAB-b1" link set eth0 down
eventually 5 is icmp 'active active'
fallen() { sluice services -o json | jq -e '[.[] | select(.service == "lab/icmp")] | all(.health.fallen_back)'; }
eventually 5 fallen
! counts sluice_health_fallen_back 0 || fail "the fallback is not counted"
