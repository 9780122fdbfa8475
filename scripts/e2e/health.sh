# Health, readiness, systemd's notifications, the kernel's six counters of each socket, metrics and both forms of logs tell how things are.
# Budget: 90 s
. "$(dirname "$0")/lib.sh"
QUEUES=2
WORKERS=2
lab
host c1 out 11
host b1 in 11
echo_server b1
objects world <<END
$(endpoint c1 11 out role: customer)
$(endpoint b1 11 in app: echo)
END
code() { at gw curl -s -o "$DIR/body" -w '%{http_code}' --max-time 2 "http://127.0.0.1:9965/$1" || true; }
# What systemd would hear.
cat >"$DIR/notified.py" <<'END'
import socket, sys
own = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
own.bind(sys.argv[1])
print("bound", flush=True)
while True:
    print(own.recv(4096).decode(), flush=True)
END
for daemon in dataplane control; do
    start gw $daemon-notified python3 "$DIR/notified.py" "$DIR/$daemon.notify"
    eventually 5 grep -q bound "$DIR/$daemon-notified.log"
done
configure
"$BIN/sluice" config dataplane "$DIR/gateway.yaml" >"$DIR/dataplane.json"
# Control alone lives but is not ready, and says why.
start gw control env NOTIFY_SOCKET="$DIR/control.notify" "$BIN/sluice-control" --log json --config "$DIR/gateway.yaml"
CONTROL=$PID
eventually 5 eval '[ "$(code livez)" = 200 ]'
[ "$(code readyz)" = 503 ] || fail "ready without a dataplane"
grep -q 'the dataplane is not connected' "$DIR/body" || fail "readyz does not say why: $(cat "$DIR/body")"
start gw dataplane env NOTIFY_SOCKET="$DIR/dataplane.notify" "$BIN/sluiced" --log json --settings "$DIR/dataplane.json"
DATAPLANE=$PID
eventually 5 eval '[ "$(code readyz)" = 200 ]'
for daemon in dataplane control; do eventually 2 grep -q '^READY=1' "$DIR/$daemon-notified.log"; done
eventually 3 grep -q '^WATCHDOG=1' "$DIR/dataplane-notified.log"
for daemon in dataplane control; do
    jq -es 'length > 0 and all(.level and .timestamp)' "$DIR/$daemon.log" >/dev/null || fail "the log of $daemon is not JSON, line by line"
done

# Workers are more urgent than what else comes to their cores; the threads beside them are not.
nice_of() { ps -L -o ni=,comm= -p "$DATAPLANE" | awk -v name="$1" '$2 ~ name {print $1}' | sort -u; }
[ "$(nice_of '^worker-')" = -10 ] || fail "the workers' niceness is $(nice_of '^worker-')"
[ "$(nice_of '^sluiced$')" = 0 ] || fail "the main thread's niceness is $(nice_of '^sluiced$')"

talk c1 traffic udp 10.244.0.11 7 --rate 100
goes_on traffic 50
six='rx_dropped rx_invalid_descs tx_invalid_descs rx_ring_full rx_fill_ring_empty_descs tx_ring_empty_descs'
for name in $six; do
    [ "$(status "[.dataplane.devices[].sockets[].$name | numbers] | length")" = 4 ] || fail "$name is not told of each of 4 sockets"
done
sluice metrics >"$DIR/metrics"
for name in ${six//_descs/} sent send_failed large_lost; do
    for labels in 'device="eth0",queue="0"' 'device="eth0",queue="1"' 'device="eth1",queue="0"' 'device="eth1",queue="1"'; do
        grep -qE "^sluice_socket_${name}(_descs)?_total\{$labels\} " "$DIR/metrics" || fail "no metric $name of $labels"
    done
done
[ "$(status '[.dataplane.devices[].sockets[].sent] | add')" -ge 100 ] || fail "what was sent is not counted"
# With nothing going wrong nothing is lost.
for name in rx_dropped rx_invalid_descs tx_invalid_descs rx_ring_full rx_fill_ring_empty_descs; do
    [ "$(status "[.dataplane.devices[].sockets[].$name] | add")" = 0 ] || fail "$name: $(status "[.dataplane.devices[].sockets[].$name] | add")"
done

# What happens a thousand times is not logged a thousand times.
lines=$(cat "$DIR/dataplane.log" "$DIR/control.log" | wc -l)
frames c1 send eth0 "$(mac gw eth0)" 203.0.113.200 10.244.0.11 --bad ip --count 1000
frames c1 send eth0 "$(mac gw eth0)" 192.0.2.11 10.244.0.99 --dport 9 --count 500 --step 1
goes_on traffic 50
more=$(($(cat "$DIR/dataplane.log" "$DIR/control.log" | wc -l) - lines))
[ $more -lt 20 ] || fail "$more lines of log for 1500 bad packets"
figure "1500 packets that are dropped make $more lines of log"

stop "$DATAPLANE"
grep -q '^STOPPING=1' "$DIR/dataplane-notified.log" || fail "systemd does not hear of the end"
eventually 2 eval '[ "$(code readyz)" = 503 ]'
[ "$(code livez)" = 200 ] || fail "control does not outlive the dataplane"
