# With `onFailure: pass` guarded packets are left to the kernel while the dataplane is down, and come back to it after.
# Budget: 90 s
. "$(dirname "$0")/lib.sh"
ON_FAILURE=pass
lab
host c1 out 11
host b1 in 11
echo_server b1
objects world <<END
$(endpoint c1 11 out role: customer)
$(endpoint b1 11 in app: echo)
END
start_daemons
at gw sysctl -qw net.ipv4.ip_forward=1
talk c1 routed udp 10.244.0.11 7
before=$(counter received)
goes_on routed 50
[ "$(counter received)" -gt "$before" ] || fail "the gateway did not see the traffic"
stop "$DATAPLANE" KILL
goes_on routed 200
start_dataplane
eventually 10 ready
eventually 5 eval '[ "$(counter received)" -gt 50 ]'
[ "$(status '[.dataplane.devices[].failed_open] | add')" -gt 100 ] || fail "what was passed is not counted"
goes_on routed 50
hush routed
figure "$(said routed '"\(.sent) sent, \(.lost) lost, longest gap \(.longest_gap_ms) ms"'), $(status '[.dataplane.devices[].failed_open] | add') passed to the kernel"
