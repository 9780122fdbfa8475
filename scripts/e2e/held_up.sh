# A worker whose core is taken away finds what came meanwhile in its ring, and loses what found no room there: none of 4000
# packets with `workers.ring: 8192`, some with the least ring, and then the kernel's counter says how many.
# Budget: 60 s
. "$(dirname "$0")/lib.sh"
lab
host c1 out 11
host b1 in 11
echo_server b1
objects world <<END
$(endpoint c1 11 out role: customer)
$(endpoint b1 11 in app: echo)
END
configure
full() { status '[.dataplane.devices[].sockets[].rx_ring_full] | add'; }
received() { status '[.dataplane.workers[].received] | add'; }
# Stop the worker, send it packets, let it go on.
held_up() {
    sed -i "s/poll: $POLL.*}/poll: $POLL, ring: $1}/" "$DIR/gateway.yaml"
    start gw gateway "$BIN/sluice" run --config "$DIR/gateway.yaml"
    eventually 15 ready
    before=$(received)
    local dataplane
    dataplane=$(pgrep -P "$PID" -x sluiced)
    kill -STOP "$dataplane"
    frames c1 send eth0 "$(mac gw eth0)" 192.0.2.11 10.244.0.11 --dport 9 --count 4000
    kill -CONT "$dataplane"
}
held_up 8192
eventually 5 eval '[ "$(received)" -ge $((before + 4000)) ]'
[ "$(full)" = 0 ] || fail "$(full) packets found no room in a ring of 8192"
stop "$PID"
held_up 64
eventually 5 eval '[ "$(full)" -gt 0 ]'
figure "4000 packets while a worker was held up: none lost with a ring of 8192, $(full) with one of 64"
stop "$PID"
