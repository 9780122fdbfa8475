# Two workers on two queues: replies that arrive on the other worker's queue are handed to the flow's owner, and nothing is lost.
# Budget: 90 s
. "$(dirname "$0")/lib.sh"
QUEUES=2
WORKERS=2
lab
host c1 out 11
host c2 out 12
host b1 in 11
host b2 in 12
web b1 b2
echo_server b1 b2
objects world <<END
$(endpoint c1 11 out role: customer)
$(endpoint c2 12 out role: customer)
$(endpoint b1 11 in app: web)
$(endpoint b2 12 in app: web)
$(service web 203.0.113.80 2001:db8:cafe::80 80 TCP 11 12)
$(TARGET=7 service echo 203.0.113.7 2001:db8:cafe::7 7 UDP 11 12)
END
start_daemons
[ "$(status '[.dataplane.devices[].queues] | join(" ")')" = '2 2' ] || fail "not two queues on each device"
names=
for number in 1 2 3; do
    for to in 203.0.113.7 2001:db8:cafe::7 10.244.0.12; do
        for client in c1 c2; do
            name=$client-$number-${to//:/}
            talk $client $name udp $to 7 --rate 100
            names="$names $name"
        done
    done
done
for request in $(seq 40); do
    fetch c1 http://203.0.113.80/ >/dev/null || fail "request $request got no answer"
    fetch c2 'http://[2001:db8:cafe::80]/' >/dev/null || fail "request $request got no answer over IPv6"
done
for name in $names; do goes_on $name 20; done
for name in $names; do lossless $name; done
status '[.dataplane.workers[] | .received, .forwarded] | map(select(. == 0)) | length' | grep -qx 0 || fail "a worker had nothing to do"
[ "$(counter handed_over)" -gt 0 ] || fail "nothing was handed over"
[ "$(counter handover_overflow)" = 0 ] || fail "packets were lost between the workers"
figure "workers received $(status '[.dataplane.workers[].received] | join(" and ")'), handed over $(counter handed_over), lost 0"

# Whoever is handed a packet while it sleeps is woken for it: a flow a ping, with pauses in which both workers fall asleep.
slowest=0
for ping in $(seq 8); do
    average=$(at c1 ping -qc 25 -i 0.01 10.244.0.12 | sed -n 's|^rtt.* = [^/]*/\([^/]*\)/.*|\1|p')
    slowest=$(awk -v a="$average" -v b="$slowest" 'BEGIN { print (a > b ? a : b) }')
done
figure "through workers that sleep between packets: $slowest ms in the slowest flow's average"
awk -v ms="$slowest" 'BEGIN { exit !(ms < 2) }' || fail "packets wait for a worker that sleeps: $slowest ms"

# The same after a restart: flows find their owners again.
talk c1 stays tcp 10.244.0.11 7
goes_on stays 50
stop "$DATAPLANE"
start_dataplane
eventually 10 ready
goes_on stays 50
lossless stays
