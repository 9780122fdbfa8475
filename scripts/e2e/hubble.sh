# A client that speaks gRPC and learns of Hubble by reflection sees what crossed a running gateway and what did not, follows
# what comes, and is refused what cannot be answered.
# Budget: 60 s
. "$(dirname "$0")/lib.sh"
/usr/bin/python3 -c 'import grpc, google.protobuf' 2>/dev/null || skip "needs python3-grpcio and python3-protobuf"
lab
host c1 out 11
host c2 out 12
host b1 in 11
web b1
objects world <<END
$(endpoint c1 11 out role: customer)
$(endpoint c2 12 out role: guest)
$(endpoint b1 11 in app: web)
$(service web 203.0.113.80 2001:db8:cafe::80 80 TCP 11)
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web, namespace: lab}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress: [{fromEndpoints: [{matchLabels: {role: customer}}], toPorts: [{ports: [{port: "8080", protocol: TCP}]}]}]
END
start_gateway

# ask METHOD [REQUEST [COUNT]]: of the observer, at the address where `hubble` looks by itself.
ask() { at gw /usr/bin/python3 "$E2E/hubble.py" 127.0.0.1:4245 "observer.Observer/$1" "${@:2}"; }
# answer FILTER METHOD [REQUEST]: by jq, of the answers alone.
answer() { ask "${@:2}" | tail -n +2 | jq -rc "$1"; }
is() { [ "$2" = "$3" ] || fail "$1: $2, not $3"; }

for name in '' observer.Observer hubble.server.Observer; do
    status=$(at gw /usr/bin/python3 "$E2E/hubble.py" 127.0.0.1:4245 grpc.health.v1.Health/Check "{\"service\": \"$name\"}" | jq -r '.status // empty')
    is "health of '$name'" "$status" SERVING
done

is "c1 to the service" "$(fetch c1 http://203.0.113.80/)" "$(fetch c1 http://10.244.0.11:8080/)"
! fetch c2 http://203.0.113.80/ 2>/dev/null || fail "policy let c2 through"
! fetch c2 'http://[2001:db8:cafe::80]/' 2>/dev/null || fail "policy let c2 through"

# What was dropped, and why.
dropped='{"whitelist": [{"verdict": ["DROPPED"], "source_pod": ["lab/c2"]}]}'
eventually 5 eval '[ "$(answer .flow.IP.ipVersion GetFlows "$dropped" | sort -u | tr "\n" " ")" = "IPv4 IPv6 " ]'
answer '.flow | "\(.verdict) \(.drop_reason_desc) \(.event_type.sub_type) \(.traffic_direction) \(.destination.namespace)/\(.destination.pod_name):\(.l4.TCP.destination_port) \(.ingress_denied_by[0].name) \(.is_reply)"' GetFlows "$dropped" |
    sort -u >"$DIR/told"
is "what was dropped" "$(cat "$DIR/told")" "DROPPED POLICY_DENIED 133 INGRESS lab/b1:8080 web null"

# What went through, by its service, and nothing that was not asked for.
forwarded='{"whitelist": [{"verdict": ["FORWARDED"], "destination_service": ["lab/web"]}], "blacklist": [{"ip_version": ["IPv6"]}],
    "field_mask": ["IP.source", "source.pod_name", "destination_service", "ingress_allowed_by"]}'
answer .flow GetFlows "$forwarded" | sort -u >"$DIR/told"
is "what went through" "$(jq -c '[.source.pod_name, .IP, .destination_service.name, .ingress_allowed_by[0].kind]' "$DIR/told")" \
    '["c1",{"source":"192.0.2.11"},"web","CiliumNetworkPolicy"]'
is "fields beside those" "$(jq -c keys "$DIR/told")" '["IP","destination_service","ingress_allowed_by","source"]'

# The command of our own says the same of the same flows.
sluice observe --all -o jsonpb | jq -c '[.time, .flow.verdict, .flow.IP.source, .flow.l4, .flow.Summary]' >"$DIR/ours"
answer '[.time, .flow.verdict, .flow.IP.source, .flow.l4, .flow.Summary]' GetFlows | head -n "$(wc -l <"$DIR/ours")" >"$DIR/theirs"
[ "$(wc -l <"$DIR/ours")" -ge 4 ] || fail "only $(wc -l <"$DIR/ours") flows"
cmp "$DIR/ours" "$DIR/theirs" || fail "it differs from sluice observe: $(diff "$DIR/ours" "$DIR/theirs" | head -n 4)"
is "the last one" "$(answer .time GetFlows '{"number": 1}')" "$(tail -n 1 "$DIR/ours" | jq -r '.[0]')"
is "the first one" "$(answer .time GetFlows '{"number": 1, "first": true}')" "$(head -n 1 "$DIR/ours" | jq -r '.[0]')"

# Whoever follows hears of what comes, and only of that.
start gw follow /usr/bin/python3 "$E2E/hubble.py" 127.0.0.1:4245 observer.Observer/GetFlows \
    '{"follow": true, "whitelist": [{"source_ip": ["192.0.2.12"], "destination_port": ["9999"]}]}' 1
eventually 10 grep -q hubble-server-version "$DIR/follow.log"
! fetch c2 http://10.244.0.11:9999/ 2>/dev/null || fail "policy let c2 through"
eventually 5 eval '[ "$(tail -n +2 "$DIR/follow.log" | jq -r .flow.l4.TCP.destination_port)" = 9999 ]'

# Who we are.
version=$("$BIN/sluice-control" --version | cut -d' ' -f2)
is "the version in the header" "$(ask ServerStatus | head -n 1 | jq -r '.headers["hubble-server-version"]')" "$version"
is "nodes" "$(answer '"\(.num_connected_nodes) \(.num_unavailable_nodes) \(.max_flows) \(.version)"' ServerStatus)" "1 0 4095 sluice v$version"
is "seen" "$(answer '(.seen_flows | tonumber) >= 4 and (.uptime_ns | tonumber) > 0 and .flows_rate > 0' ServerStatus)" true
is "this node" "$(answer '.nodes[] | "\(.name) \(.state)"' GetNodes)" "default/$LAB NODE_CONNECTED"
is "namespaces" "$(answer '.namespaces[] | "\(.cluster)/\(.namespace)"' GetNamespaces)" default/lab

# A flood that control sleeps through: what a reader is told, and what it is told that it missed, is what happened.
seen() { answer .seen_flows ServerStatus; }
told() { tail -n +2 "$DIR/flood.log" | jq -s 'map(.lost_events.num_events_lost // 1 | tonumber) | add'; }
before=$(seen)
start gw flood /usr/bin/python3 "$E2E/hubble.py" 127.0.0.1:4245 observer.Observer/GetFlows '{"follow": true, "blacklist": [{"source_ip": ["192.0.2.11"]}]}'
eventually 10 grep -q hubble-server-version "$DIR/flood.log"
control=$(pgrep -P "$GATEWAY" sluice-control)
kill -STOP "$control"
frames c2 flood eth0 "$(mac gw eth0)" 10.244.0.11 9 --count 150000 --rate 100000
kill -CONT "$control"
sleep 1.1 # losses are told once a second, with the next event
frames c2 send eth0 "$(mac gw eth0)" 192.0.2.12 10.244.0.11 --dport 9
eventually 5 eval '[ "$(told)" = $(($(seen) - before + $(status .events_lost))) ]'
figure "of 150001 drops $(status .events_lost) were lost before control had them, $(tail -n +2 "$DIR/flood.log" | jq -s 'map(.lost_events | select(.source == "HUBBLE_RING_BUFFER").num_events_lost | tonumber) | add') before a slow reader had them; it was told of all"

# What cannot be answered is refused, by its name.
for refused in 'http_path: "/"' 'source_fqdn: "a.example"'; do
    field=${refused%%:*}
    if ask GetFlows "{\"whitelist\": [{\"$field\": [${refused#*: }]}]}" >"$DIR/told"; then fail "$field was not refused"; fi
    is "$field" "$(tail -n 1 "$DIR/told" | jq -r '"\(.error) \(.details)"' | cut -d: -f1)" "INVALID_ARGUMENT whitelist[0].$field"
done
