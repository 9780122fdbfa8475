# The daemons work with the rights of their systemd units and no more: the dataplane with four capabilities, control as nobody with none.
# Budget: 90 s
. "$(dirname "$0")/lib.sh"
lab
host c1 out 11
host b1 in 11
web b1
objects world <<END
$(endpoint c1 11 out role: customer)
$(endpoint b1 11 in app: web)
$(service web 203.0.113.80 2001:db8:cafe::80 80 TCP 11)
END
configure
"$BIN/sluice" config dataplane "$DIR/gateway.yaml" >"$DIR/dataplane.json"
nobody=$(id -u nobody) nogroup=$(id -g nobody)
# As /run/sluice: both may make sockets, and what is made there belongs to the group.
chgrp -R "$nogroup" "$DIR"
chmod 2770 "$DIR"
chmod -R g+rX "$DIR"
capabilities() { sed -n 's/^CapabilityBoundingSet=//p' "configs/systemd/$1.service" | tr 'A-Z ' 'a-z,' | sed 's/cap_/+/g'; }
wanted=$(capabilities sluiced)
[ -n "$wanted" ] && [ -z "$(capabilities sluice-control)" ] || fail "the units do not say what they need"
umask 0007
grep -q '^LimitMEMLOCK=infinity' configs/systemd/sluiced.service || fail "the unit does not allow locked memory"
# A machine that lets nobody raise the limit gets the capability that passes it by.
raise='prlimit --memlock=unlimited'
$raise true 2>/dev/null || { raise=; wanted=$wanted,+ipc_lock; }
# LimitNICE=-10 is what prlimit calls 30.
urgent='prlimit --nice=30'
$urgent true 2>/dev/null || { urgent=; wanted=$wanted,+sys_nice; }
start gw dataplane $urgent $raise setpriv --bounding-set "-all,$wanted" --inh-caps=-all --regid "$nogroup" --clear-groups --no-new-privs "$BIN/sluiced" --settings "$DIR/dataplane.json"
DATAPLANE=$PID
start gw control setpriv --bounding-set=-all --inh-caps=-all --reuid "$nobody" --regid "$nogroup" --clear-groups --no-new-privs "$BIN/sluice-control" --config "$DIR/gateway.yaml"
CONTROL=$PID
eventually 10 ready
[ "$(sed -n 's/^CapEff:\s*//p' /proc/$CONTROL/status)" = 0000000000000000 ] || fail "control has capabilities"
[ "$(fetch c1 http://203.0.113.80/)" = b1 ] || fail "no answer through the gateway"
[ "$(ps -L -o ni=,comm= -p "$DATAPLANE" | awk '$2 ~ /^worker-/ {print $1}')" = -10 ] || fail "the worker is no more urgent than others"
[ "$(status '[.dataplane.devices[].mode] | join(" ")')" = 'native native' ] || fail "not attached in the driver"
# A device that is made anew needs the same rights once more.
ip -n "$LAB-gw" link delete eth1
eventually 5 eval '[ "$(status ".dataplane.devices[1].mode")" = absent ]'
cable in gw eth1 10.244.0.1/24 2001:db8:2::1/64
eventually 5 eval '[ "$(fetch c1 http://203.0.113.80/)" = b1 ]'
! grep -iE 'permission|not permitted' "$DIR/dataplane.log" "$DIR/control.log" || fail "something was not permitted"
