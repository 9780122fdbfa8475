# `sluice run` starts either daemon again when it dies, stops both in order, and gives up at once when a start cannot work.
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
start_gateway
# child NAME: the process id of a daemon under the supervisor.
child() {
    local pid
    for pid in $(cat /proc/"$GATEWAY"/task/*/children); do [ "$(cat /proc/"$pid"/comm)" = "$1" ] && echo "$pid"; done
    true
}
another() { [ -n "$(child "$1")" ] && [ "$(child "$1")" != "$2" ]; }
talk c1 flow udp 203.0.113.7 7
talk c1 connection tcp 10.244.0.11 7
goes_on connection 50
for name in sluice-control sluiced; do
    old=$(child $name)
    killed=$(now_ms)
    kill -KILL "$old"
    eventually 5 another $name "$old"
    eventually 5 ready
    goes_on flow 20
    goes_on connection 20
    figure "$name killed: ready again and traffic going on after $(($(now_ms) - killed)) ms"
done
hush connection
[ "$(said connection '"\(.lost) \(.error)"')" = '0 null' ] || fail "the connection broke: $(cat "$DIR/connection.json")"
stop "$GATEWAY"
[ -z "$(at gw ip -d link show | grep -o 'prog/xdp.*')" ] && [ ! -e "$PINS" ] || fail "something was left behind"
# A start that cannot work ends with 2 and a reason, instead of being tried for ever.
sed -i 's/poll: adaptive/poll: sometimes/' "$DIR/gateway.yaml"
status=0
at gw timeout 10 "$BIN/sluice" run --config "$DIR/gateway.yaml" >"$DIR/refused.log" 2>&1 || status=$?
[ $status = 2 ] && grep -q 'poll must be' "$DIR/refused.log" || fail "exit code $status: $(cat "$DIR/refused.log")"
