# SIGTERM takes the gateway off its devices within a second and leaves nothing behind; a foreign XDP program is refused politely.
# Budget: 90 s
. "$(dirname "$0")/lib.sh"
lab
host c1 out 11
host b1 in 11
echo_server b1
objects world <<END
$(endpoint c1 11 out role: customer)
$(endpoint b1 11 in app: echo)
END
clean() {
    [ ! -e "$PINS" ] || { find "$PINS"; return 1; }
    [ -z "$(at gw ip -d link show | grep -o 'prog/xdp.*')" ] || return 1
    [ ! -S "$DIR/control.sock" ] && [ ! -S "$DIR/dataplane.sock" ]
}
start_gateway
talk c1 routed udp 10.244.0.11 7
goes_on routed 100
began=$(now_ms)
stop "$GATEWAY"
took=$(($(now_ms) - began))
figure "SIGTERM to the end under traffic: $took ms"
[ $took -lt 1000 ] || fail "it took $took ms"
clean || fail "something was left behind"
at gw sysctl -qw net.ipv4.ip_forward=1
goes_on routed 50
at gw sysctl -qw net.ipv4.ip_forward=0

# Each daemon by itself, too; the dataplane with all flows written down.
start_daemons
goes_on routed 50
for daemon in "$CONTROL" "$DATAPLANE"; do
    began=$(now_ms)
    stop "$daemon"
    [ $(($(now_ms) - began)) -lt 1000 ] || fail "a daemon took $(($(now_ms) - began)) ms"
done
clean || fail "something was left behind"
[ -s "$DIR/flows" ] || fail "the flows were not written down"

# Somebody else's program: that of a gateway with another name, whose dataplane is dead.
sed "s|metadata: {name: $LAB}|metadata: {name: $LAB-other}|" "$DIR/gateway.yaml" >"$DIR/other.yaml"
"$BIN/sluice" config dataplane "$DIR/other.yaml" >"$DIR/other.json"
start gw other "$BIN/sluiced" --settings "$DIR/other.json"
other=$PID
eventually 10 test -e "$PINS-other/eth1/link"
eventually 5 grep -q 'worker(s)' "$DIR/other.log"
stop "$other" KILL
status=0
at gw timeout 10 "$BIN/sluiced" --settings "$DIR/dataplane.json" >"$DIR/refused.log" 2>&1 || status=$?
[ $status = 2 ] || fail "exit code $status instead of 2: $(cat "$DIR/refused.log")"
grep -q 'another XDP program (.*) is on eth0; remove it' "$DIR/refused.log" || fail "not said politely: $(cat "$DIR/refused.log")"
[ ! -e "$PINS" ] || fail "the refused one left pins: $(find "$PINS")"
[ "$(at gw ip -d link show | grep -c 'prog/xdp')" = 2 ] || fail "the other's program was touched"
# Its own successor takes its place without a gap.
start gw other "$BIN/sluiced" --settings "$DIR/other.json"
other=$PID
eventually 5 eval '[ "$(grep -c "worker(s)" "$DIR/other.log")" = 2 ]'
stop "$other"
[ ! -e "$PINS-other" ] || fail "the other left pins: $(find "$PINS-other")"
