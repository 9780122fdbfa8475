# The rig itself: what it sends it counts to the last packet, it stops when it is told to, its files can be read by others, and it
# measures the gateway beside its peers in lanes that go away again.
# Budget: 240 s
. "$(dirname "$0")/lib.sh"
namespace rig
ip -n "$LAB-rig" link add ga type veth peer name gb
for device in ga gb; do
    at rig ethtool -K $device tx off tso off gso off gro off >/dev/null
    ip -n "$LAB-rig" link set $device up
done
BETWEEN="--interface ga --to-mac 02:00:00:00:00:01 --source 10.16.0.1 --target 10.96.0.1 --core 0"
rig() { local command=$1; shift; at rig "$BIN/sluice-bench" "$command" $BETWEEN --sink "${SINK:-gb}" "$@"; }

# Whoever says stop has another core than who sends: both at once is what packets were lost in.
for turn in $(seq 25); do
    rig blast --warm-up 0 --rate 500000 --seconds 0.05 --json 2>/dev/null >"$DIR/blast.json"
    jq -e '.outcome | .sent > 1000 and .sent == .received and .latency[0] > 0' "$DIR/blast.json" >/dev/null || fail "in turn $turn: $(jq -c .outcome "$DIR/blast.json")"
done

start rig stopped "$BIN/sluice-bench" blast $BETWEEN --sink gb --warm-up 0 --rate 1000 --seconds 60 --json --csv "$DIR/blast.csv" --html "$DIR/blast.html" --capture "$DIR/blast.pcap" --capture-packets 50
sleep 1.5
kill -INT $PID
wait $PID || fail "blast, interrupted, ended with $?"
grep '^{' "$DIR/stopped.log" | jq -e '.stopped_early and (.outcome | .sent > 500 and .sent == .received)' >/dev/null || fail "interrupted: $(grep '^{' "$DIR/stopped.log" | jq -c .outcome)"
[ "$(tcpdump -nr "$DIR/blast.pcap" 2>/dev/null | grep -c '10.16.0.* > 10.96.0.1.80: UDP')" = 50 ] || fail "the capture has other packets: $(tcpdump -nr "$DIR/blast.pcap" 2>&1 | head -n 3)"
grep -q '^seconds,sent,received$' "$DIR/blast.csv" && grep -q '<svg' "$DIR/blast.html" || fail "no CSV, or no plots"

rig rfc2544 --sizes 64,imix --seconds 0.2 --warm-up 0.1 --steps 2 --csv "$DIR/rfc.csv" --html "$DIR/rfc.html" --json 2>/dev/null >"$DIR/rfc.json"
jq -e '[.sizes[] | .saturated > 10000 and .throughput > 0 and .latency_p50 > 0 and .back_to_back > 0] == [true, true]' "$DIR/rfc.json" >/dev/null || fail "rfc2544: $(cat "$DIR/rfc.json")"
[ "$(cut -d, -f1 "$DIR/rfc.csv" | paste -sd ' ')" = "size 64 imix" ] && grep -q '<svg' "$DIR/rfc.html" || fail "no CSV, or no plots: $(cat "$DIR/rfc.csv")"
! SINK=lo rig rfc2544 --sizes 64 --seconds 0.1 --json >"$DIR/nowhere" 2>&1 || fail "a figure of packets that never came"
grep -q 'nothing of what left by ga came back on lo' "$DIR/nowhere" || fail "no word of why: $(cat "$DIR/nowhere")"

# The gateway beside its peers, and what it and the cables count of half a rate: each packet once, at every place.
"$BIN/sluice-bench" veth --two-cores --peers sluice,l2fwd,nftables --services 10 --traffic established --rounds 1 --seconds 0.3 --steps 1 --soak 1 --ring 4096 --json 2>"$DIR/veth.log" >"$DIR/veth.json" &
PID=$!
wait $PID || fail "veth: $(cat "$DIR/veth.log")"
jq -e '[.rows[].peer] == ["sluice", "l2fwd", "nftables"] and ([.rows[].saturated_median] | min > 10000) and .rows[1].sluice_over_this[1] > 0' "$DIR/veth.json" >/dev/null || fail "veth: $(jq -c .rows "$DIR/veth.json")"
jq -e '.rows[0] | .soak[1] as $sent | .soak[2] as $lost | .soak_counts | .["from tx_queue_0_xdp_xmit"] == $sent
    and .["to rx_queue_0_xdp_packets"] >= $sent - $lost and .["workers 0 forwarded"] >= $sent - $lost' "$DIR/veth.json" >/dev/null || fail "where packets went: $(jq -c '.rows[0]' "$DIR/veth.json")"
! ip netns list | grep "sl-rig-$PID-" || fail "lanes were left behind"
figure "half of a rate for a second, ring of 4096: $(jq -r '.rows[0].soak | "\(.[2]) of \(.[1]) lost"' "$DIR/veth.json")"
