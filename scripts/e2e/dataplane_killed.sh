# The dataplane dies by SIGKILL under traffic: what it guards is dropped until it is back, and connections and flows then go on.
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
$(TARGET=7 service echo-tcp 203.0.113.8 2001:db8:cafe::8 7 TCP 11)
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: echo, namespace: lab}
spec:
  endpointSelector: {matchLabels: {app: echo}}
  ingress: [{fromEndpoints: [{matchLabels: {role: customer}}], toPorts: [{ports: [{port: "7", protocol: ANY}]}]}]
END
start_daemons
# From here on the kernel would forward what it gets: nothing may fall through to it, not for a moment.
at gw sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
names='service4 service6 routed tcp4 tcp6'
talk c1 service4 udp 203.0.113.7 7 --rate 200
talk c1 service6 udp 2001:db8:cafe::7 7 --rate 200
talk c1 routed udp 10.244.0.11 7 --rate 200
talk c1 tcp4 tcp 203.0.113.8 7 --rate 200
talk c1 tcp6 tcp 2001:db8:2::11 7 --rate 200
start b1 denied python3 "$E2E/frames.py" listen eth0 60
eventually 5 grep -q listening "$DIR/denied.log"
frames c1 send eth0 "$(mac gw eth0)" 192.0.2.11 10.244.0.11 --dport 9 --count 100000 --rate 500 >/dev/null 2>&1 &
PIDS+=($!)

all_silent() { local name; for name in $names; do [ "$(said $name .silent_ms)" -gt 300 ] || return 1; done; }
written() { [ -s "$DIR/flows" ] && [ "$(stat -c %Y%s "$DIR/flows")" != "$first" ]; }
for round in 1 2 3; do
    # Flows are written down every two seconds.
    first=$(stat -c %Y%s "$DIR/flows" 2>/dev/null || true)
    eventually 5 written
    stop "$DATAPLANE" KILL
    killed=$(now_ms)
    eventually 2 all_silent
    ! at c1 ping -c 1 -W 0.2 10.244.0.11 >/dev/null || fail "a guarded address answered while the dataplane was down"
    start_dataplane
    eventually 10 ready
    for name in $names; do goes_on $name 20; done
    took=$(($(now_ms) - killed))
done
figure "killed three times; the last time all five conversations went on ${took} ms after, of which 300 were waited on purpose"
for name in tcp4 tcp6; do
    hush $name
    [ "$(said $name '"\(.error) \(.lost)"')" = 'null 0' ] || fail "the connection $name broke: $(cat "$DIR/$name.json")"
done
leaked=$(jq -s 'map(select(.dport == 9)) | length' "$DIR/denied.log")
[ "$leaked" = 0 ] || fail "$leaked denied packets fell through to the kernel"
