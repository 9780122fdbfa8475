# A device goes down and comes up, and one is removed and made anew: the gateway follows, with new sockets, and flows go on.
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
talk c1 service udp 203.0.113.7 7
talk c1 routed tcp 10.244.0.11 7

ip -n "$LAB-gw" link set eth1 down
eventually 2 eval '[ "$(said service .silent_ms)" -gt 200 ]'
ip -n "$LAB-gw" link set eth1 up
before=$(now_ms)
goes_on service 1
figure "down and up: the first datagram came back $(($(now_ms) - before)) ms after"
goes_on routed

for round in 1 2 3; do
    ip -n "$LAB-gw" link delete eth1
    eventually 5 eval '[ "$(status ".dataplane.devices[1].mode")" = absent ]'
    cable in gw eth1 10.244.0.1/24 2001:db8:2::1/64
    before=$(now_ms)
    goes_on service 1
    took=$(($(now_ms) - before))
    [ "$(status '.dataplane.devices[1] | "\(.mode) \(.queues)"')" = 'native 1' ] || fail "eth1 is not attached again"
done
figure "removed and made anew: the first datagram came back $took ms after"
goes_on routed
[ "$(said routed .error)" = null ] || fail "the connection broke: $(said routed .error)"

# No buffer was lost with the old sockets: what comes now all gets through.
hush service
talk c1 after udp 203.0.113.7 7 --rate 2000
goes_on after 2000
lossless after
