# Frames of 9000 bytes cross the gateway whole, in both families, with the checksums of their ends intact, also to another worker.
# Budget: 90 s
. "$(dirname "$0")/lib.sh"
MTU=9000
QUEUES=2
WORKERS=2
lab
host c1 out 11
host b1 in 11
echo_server b1
start b1 iperf3 iperf3 -s -p 5201
objects world <<END
$(endpoint c1 11 out role: customer)
$(endpoint b1 11 in app: echo)
$(TARGET=7 service echo 203.0.113.7 2001:db8:cafe::7 7 UDP 11)
$(TARGET=5201 service speed 203.0.113.81 2001:db8:cafe::81 5201 TCP 11)
END
start_gateway
[ "$(status '[.dataplane.devices[].mode] | join(" ")')" = 'native native' ] || fail "not attached in the driver"
for size in 64 3900 4100 8900; do
    for address in 203.0.113.7 2001:db8:cafe::7 10.244.0.11; do
        talk c1 "d$size" udp $address 7 --size $size --rate 400
        goes_on "d$size" 20
        lossless "d$size"
    done
done
[ "$(status '[.dataplane.devices[].sockets[] | .large_lost + .rx_dropped + .send_failed] | add')" = 0 ] || fail "large frames were lost"
[ "$(counter handed_over)" -gt 0 ] || fail "no frame went to another worker"
for address in 203.0.113.81 2001:db8:cafe::81; do
    at c1 timeout 15 iperf3 -J -t 1 -p 5201 -c $address >"$DIR/iperf.json"
    figure "TCP with 9000-byte frames, $address: $(jq -r '"\(.end.sum_received.bits_per_second / 1e9 * 100 | round / 100) Gbit/s, \(.end.sum_sent.retransmits) retransmitted"' "$DIR/iperf.json")"
done
